//! The life of a model from the outside: trained, judged, promoted, rolled back, made again, and swapped while it answers.

use std::{
    fs,
    process::Stdio,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use serde_json::Value;

use crate::harness::{Data, Served, interrupt, printed, was_killed};

const QUESTION: &str = r#"{"symbol": "BTC-USDT", "z_score_price": 4.5, "z_score_log_return": 3.8, "z_score_volume": 1.5,
    "rolling_price_std": 0.008, "rolling_volume_std": 25}"#;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A data folder with so many simulated ticks in its tables; called again, with more of them.
fn grow(data: &Data, ticks: u64) {
    data.run(&format!("ingest simulated --events {} --seed 3 --start 2024-03-09T16:00:00Z --speed 0", 3 * ticks));
    data.run("stream --once");
}

/// Lets a scheduler do a schedule's job and ends it.
fn schedule_does(data: &Data, name: &str) -> String {
    let mut scheduler = data.sentinel("scheduler").stderr(Stdio::null()).spawn().unwrap();
    let done = data.run(&format!("schedule trigger {name} --wait"));
    interrupt(&scheduler);
    scheduler.wait().unwrap();
    let run = done.lines().next().unwrap().strip_prefix("run ").unwrap().to_owned();
    data.run(&format!("run logs {run}"))
}

fn statuses(data: &Data) -> Vec<(i64, String)> {
    let models = json(&data.run("model list --json"));
    let status = |model: &Value| (model["version"].as_i64().unwrap(), model["status"].as_str().unwrap().to_owned());
    models.as_array().unwrap().iter().map(status).collect()
}

#[test]
fn a_model_is_trained_judged_promoted_rolled_back_and_made_again_by_schedules_and_by_hand() {
    let data = Data::new();
    grow(&data, 3_000);
    let refused = data.sentinel("model verify champion").output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(printed(&refused).contains("there is no champion yet"), "{}", printed(&refused));
    assert!(schedule_does(&data, "retrain").contains("model version 1 is champion"));
    grow(&data, 6_000);
    let trained = schedule_does(&data, "retrain");
    assert!(trained.contains("model version 2 is a candidate"), "{trained}");
    let waits = data.sentinel("model promote 2 --reason x --expect-current 7").output().unwrap();
    assert_eq!(waits.status.code(), Some(3));
    assert!(printed(&waits).contains("model version 1 is champion now"), "{}", printed(&waits));
    let judged = schedule_does(&data, "evaluate");
    assert!(judged.contains("model version 2 ") && judged.contains("PR-AUC"), "{judged}");
    // Whatever the judge said, a person decides.
    data.run("model promote 2 --reason for-the-test");
    assert_eq!(statuses(&data), [(2, "champion".to_owned()), (1, "retired".to_owned())]);
    data.run("model rollback --reason too-many-alerts");
    assert_eq!(statuses(&data)[1], (1, "champion".to_owned()));
    let history = data.run("model history");
    for told in ["candidate", "run ", "for-the-test", "too-many-alerts", "command line"] {
        assert!(history.contains(told), "{told}: {history}");
    }
    data.run("table compact features");
    let verified = data.run("model verify 2");
    assert!(verified.contains(": the same"), "{verified}");
    let model = json(&data.run("model show 2 --json"));
    assert!(!model["evaluations"].as_array().unwrap().is_empty());
    let file = data.path().join("data/models").join(model["artifact"]["path"].as_str().unwrap());
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, "torn").unwrap();
    assert_eq!(data.sentinel("model verify 2").output().unwrap().status.code(), Some(1));
    assert!(data.run("model verify 2 --repair").contains("the model file was written again"));
    assert_eq!(fs::read(&file).unwrap(), bytes);
    data.run("model export 2 --output out");
    assert_eq!(fs::read(data.path().join("out/isolation-forest-v2.model")).unwrap(), bytes);
    assert_eq!(json(&fs::read_to_string(data.path().join("out/isolation-forest-v2.json")).unwrap())["version"], 2);
    assert!(data.run("model diff 1 2").contains("inputs.delta_version"));
    assert!(data.run("model pin 2 --note audit").contains("is pinned"));
    assert!(data.run("model list").contains("retired, pinned"));
    assert!(data.run("model unpin 2").contains("no longer"));
    assert!(schedule_does(&data, "backup").contains("is written, 0 old copies are removed"));
    assert_eq!(fs::read_dir(data.path().join("data/backups")).unwrap().count(), 1);
}

/// A training whose scheduler is killed makes one candidate.
#[test]
fn a_training_that_is_killed_makes_one_model() {
    let data = Data::quiet();
    grow(&data, 2_000);
    data.run("train");
    data.run("schedule trigger retrain");
    let killed = data.sentinel("scheduler").env("SENTINEL_CRASH_AT", "run-done:1").output().unwrap();
    assert!(was_killed(killed.status), "{}", printed(&killed));
    assert_eq!(statuses(&data), [(2, "candidate".to_owned()), (1, "champion".to_owned())]);
    let mut scheduler = data.sentinel("scheduler").stderr(Stdio::null()).spawn().unwrap();
    let logs = data.run("run logs 1 -f");
    interrupt(&scheduler);
    scheduler.wait().unwrap();
    assert!(logs.contains("model version 2 was made by an earlier attempt"), "{logs}");
    assert_eq!(statuses(&data).len(), 2);
}

/// Requests go on while models are promoted by another process and over HTTP; each is answered by one of them.
#[test]
fn a_promotion_swaps_the_scorer_and_the_service_and_drops_no_request() {
    let data = Data::new();
    let served = Served::start(data.sentinel("up --bind 127.0.0.1:0 --warm-start-hours 1"));
    served.wait_for("/metrics", "sentinel_model_version 1");
    data.run("train --no-promote");
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                served.post("/predict", QUESTION, 200);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        data.run("model promote 2 --reason better");
        served.wait_for("/metrics", "sentinel_model_version 2");
        served.wait_for("/latest-predictions?limit=500", "\"model_version\":2,\"origin\":\"live\"");
        served.post("/models/1/promote", "{\"reason\": \"it was not\"}", 200);
        served.wait_for("/metrics", "sentinel_model_version 1");
        stop.store(true, Ordering::Relaxed);
    });
    assert!(answered.load(Ordering::Relaxed) > 10);
    served.post("/schedules/drift/trigger", "{\"idempotency_key\": \"k\"}", 200);
    served.wait_for("/runs?state=succeeded", "\"job\":\"drift\"");
    served.wait_for("/metrics", "sentinel_job_last_success_age_seconds{job=\"drift\"}");
    assert!(served.interrupt().success());
}
