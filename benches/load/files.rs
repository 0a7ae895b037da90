//! Room for open files: this process has a socket per reader, and so has the program, which inherits its limit.

use std::{
    env, fs,
    os::unix::process::CommandExt,
    process::{Command, exit},
};

/// Raises the limit where it is lower and may be higher. The standard library cannot: this benchmark is started again,
/// from a shell that can.
pub fn make_room(files: usize) {
    let (limit, highest) = limits();
    if limit >= files {
        return;
    }
    if highest < files {
        eprintln!("{files} open files are needed and {highest} allowed: raise `ulimit -Hn`, or lower --readers");
        exit(2);
    }
    let again = "ulimit -S -n \"$1\" && shift && exec \"$@\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", again, "sh", &files.to_string()]).arg(env::current_exe().unwrap()).args(env::args_os().skip(1));
    panic!("no shell could raise the limit of open files: {}", shell.exec());
}

/// How many files may be open, and how many that may be raised to.
fn limits() -> (usize, usize) {
    let text = fs::read_to_string("/proc/self/limits").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut limits = line.split_whitespace().map(|limit| limit.parse().unwrap_or(usize::MAX));
    (limits.next().unwrap(), limits.next().unwrap())
}
