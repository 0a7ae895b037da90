//! The parts as separate processes: a service that runs alone shows what others ingest, fold and train.

use std::process::Stdio;

use crate::harness::{Data, Served};

const MARKET: &str = "--seed 5 --start 2024-03-09T16:00:00Z --speed 0";

#[test]
fn a_service_alone_shows_what_other_processes_do() {
    let data = Data::new();
    let served = Served::start(data.sentinel("serve --bind 127.0.0.1:0"));
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
