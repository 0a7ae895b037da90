//! The program as benchmarks run it: how long it takes, and how much memory.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How often the memory of a run is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Runs the program over a data folder: seconds, and its greatest resident memory in kB.
pub fn timed(data: &Path, arguments: &[&str]) -> (f64, u64) {
    let started = Instant::now();
    let mut process = Command::new(env!("CARGO_BIN_EXE_sentinel"))
        .env_clear()
        .arg("--data-dir")
        .arg(data)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let memory = greatest_memory(&mut process);
    let status = process.wait().unwrap();
    assert!(status.success(), "{arguments:?}: {status}");
    (started.elapsed().as_secs_f64(), memory)
}

/// Looks at a process until it ends.
fn greatest_memory(process: &mut Child) -> u64 {
    let mut greatest = 0;
    while process.try_wait().unwrap().is_none() {
        greatest = greatest.max(kilobytes(process, "VmHWM:").unwrap_or(0));
        thread::sleep(LOOK_EVERY);
    }
    greatest
}

/// What the kernel says of a process under a name that stands for kB.
pub fn kilobytes(process: &Child, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).ok()?;
    status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}
