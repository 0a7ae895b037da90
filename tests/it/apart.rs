//! The parts as separate processes: a service that runs alone shows what others ingest, fold and train.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::harness::Data;

const MARKET: &str = "--seed 5 --start 2024-03-09T16:00:00Z --speed 0";

/// No answer takes longer on any machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// `sentinel serve` as a process of its own.
struct Served {
    process: Child,
    address: String,
}

impl Served {
    fn start(data: &Data) -> Self {
        let mut process = data.sentinel("serve --bind 127.0.0.1:0").stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .find_map(|line| Some(line.unwrap().split_once("serving http://")?.1.trim().to_owned()))
            .unwrap();
        // Whoever does not read lets the process wait for its own log.
        thread::spawn(move || lines.count());
        Self { process, address }
    }

    /// Asks until the answer is as wanted.
    fn wait_for(&self, path: &str, wanted: &str) {
        let end = Instant::now() + PATIENCE;
        let runtime = tokio::runtime::Runtime::new().unwrap();
        loop {
            let answer = runtime.block_on(async {
                reqwest::get(format!("http://{}{path}", self.address)).await.unwrap().text().await.unwrap()
            });
            if answer.contains(wanted) {
                return;
            }
            assert!(Instant::now() < end, "{path} never said {wanted}, but {answer}");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_service_alone_shows_what_other_processes_do() {
    let data = Data::new();
    let served = Served::start(&data);
    served.wait_for("/system-status", "nobody folds the log, 0 records wait");
    served.wait_for("/health", "waiting_for_model");

    data.run(&format!("ingest simulated --events 900 {MARKET}"));
    served.wait_for("/system-status", "nobody folds the log, 900 records wait");
    data.run("stream --once");
    served.wait_for("/system-status", "nobody folds the log, 0 records wait");
    served.wait_for("/system-status", "waiting for the first model: 900 of 5000 feature rows");

    data.run("train --trees 10");
    served.wait_for("/health", "\"model_loaded\":true");
    data.run(&format!("ingest simulated --events 1200 {MARKET}"));
    let mut folding = data.sentinel("stream").stderr(Stdio::null()).spawn().unwrap();
    served.wait_for("/system-status", "other processes fold 4 of 4 partitions, 0 records behind");
    // 300 as they came; the 900 before the first model when the stream job ends.
    served.wait_for("/stats", "\"total_predictions\":300");
    folding.kill().unwrap();
    folding.wait().unwrap();
    data.run("stream --once");
    served.wait_for("/stats", "\"total_predictions\":1200");
}
