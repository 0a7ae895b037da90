//! Schedules from the outside: what is due is started once, by however many schedulers, and everything is on record.

use std::{collections::BTreeSet, fs, process::Stdio, thread};

use lake::TableName;
use serde_json::Value;

use crate::harness::{Data, PATIENCE, interrupt, printed, was_killed};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn runs(data: &Data, flags: &str) -> Vec<Value> {
    json(&data.run(&format!("run list --json {flags}"))).as_array().unwrap().clone()
}

fn apply(data: &Data, text: &str) -> String {
    fs::write(data.path().join("schedules.toml"), text).unwrap();
    data.run("schedule apply schedules.toml")
}

/// Waits until so many runs have succeeded.
fn wait_for(data: &Data, count: usize) {
    let began = std::time::Instant::now();
    while runs(data, "--state succeeded").len() < count {
        assert!(began.elapsed() < PATIENCE, "{}", data.run("run list"));
        thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn two_schedulers_start_what_is_due_once_and_the_tables_become_small() {
    let data = Data::quiet();
    for events in [300, 600, 900] {
        data.run(&format!("ingest simulated --events {events} --seed 3 --start 2024-03-09T16:00:00Z --speed 0"));
        data.run("stream --once");
    }
    let before = data.rows(TableName::Features, &[]);
    apply(&data, "[often]\njob = 'compact'\ncron = '* * * * * *'\npool = 'rewrites'\n");
    let start = || data.sentinel("scheduler").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let schedulers = [start(), start()];
    wait_for(&data, 4);
    for mut scheduler in schedulers {
        interrupt(&scheduler);
        assert!(scheduler.wait().unwrap().success());
    }
    let runs = runs(&data, "");
    let times: BTreeSet<&str> = runs.iter().map(|run| run["of"].as_str().unwrap()).collect();
    assert_eq!(times.len(), runs.len(), "a time was started twice");
    assert!(data.run("run logs 1").contains("features: 9 files became 3"), "{}", data.run("run logs 1"));
    assert_eq!(data.rows(TableName::Features, &[]), before);
    let shown = json(&data.run("schedule show often --json"));
    assert_eq!((&shown["job"], &shown["overlap"]), (&Value::from("compact"), &Value::from("skip")));
    let why = data.run(&format!("schedule explain often --at {}", runs[0]["of"].as_str().unwrap()));
    assert!(why.contains("it was due"), "{why}");
}

/// A run whose scheduler was killed is taken by another once its lease has ended; what it had committed is committed once.
#[test]
fn a_run_whose_scheduler_is_killed_is_done_by_another() {
    let data = Data::quiet();
    let mut events = 0;
    let mut grow = |data: &Data| {
        for _ in 0..2 {
            events += 300;
            data.run(&format!("ingest simulated --events {events} --seed 3 --start 2024-03-09T16:00:00Z --speed 0"));
            data.run("stream --once");
        }
    };
    apply(&data, "[manual]\njob = 'compact'\ncron = '@yearly'\nspec = { table = 'features' }\noverlap = 'allow'\n");
    for point in ["run-begun:1", "rewritten:1", "run-done:1"] {
        grow(&data);
        data.run("schedule trigger manual");
        let mut scheduler = data.sentinel("scheduler");
        let killed = scheduler.env("SENTINEL_CRASH_AT", point).output().unwrap();
        assert!(was_killed(killed.status), "{point}: {}", printed(&killed));
    }
    let before = data.rows(TableName::Features, &[]);
    let mut scheduler = data.sentinel("scheduler").stderr(Stdio::null()).spawn().unwrap();
    wait_for(&data, 3);
    interrupt(&scheduler);
    scheduler.wait().unwrap();
    for run in ["1", "2", "3"] {
        let logs = data.run(&format!("run logs {run}"));
        // Once more where two want to rewrite the table at the same time.
        assert!(logs.matches("claimed").count() >= 2 && logs.contains("succeeded"), "{logs}");
        assert!(logs.contains("features: compacted by an earlier attempt, or by a later run"), "{logs}");
    }
    let history = json(&data.run("table history features --json"));
    let rewrites = history.as_array().unwrap().iter().filter(|commit| commit["operation"] == "OPTIMIZE").count();
    assert_eq!(rewrites, 2, "one of run 2, one of run 3: {history}");
    assert_eq!(data.rows(TableName::Features, &[]), before);
}

#[test]
fn schedules_are_applied_paused_triggered_and_explained() {
    let data = Data::quiet();
    let daily = "[nightly]\njob = 'vacuum'\ncron = '0 3 * * *'\nzone = 'Europe/Paris'\n";
    assert!(apply(&data, daily).contains("new"));
    assert!(apply(&data, daily).contains("unchanged"));
    let next: Vec<String> = serde_json::from_str(&data.run("schedule next nightly -n 3 --json")).unwrap();
    assert!(next.len() == 3 && next.iter().all(|time| time.ends_with(":00:00Z")), "{next:?}");
    data.run("schedule pause nightly --note holidays");
    assert!(data.run("schedule list").contains("since"));
    data.run("schedule resume nightly --catch-up last");
    let first = data.run("schedule trigger nightly --idempotency-key k");
    assert_eq!(data.run("schedule trigger nightly --idempotency-key k"), first);
    assert!(data.run("run cancel 1").contains("run 1 is cancelled"));
    data.run("run retry 1");
    let mut scheduler = data.sentinel("scheduler").stderr(Stdio::null()).spawn().unwrap();
    wait_for(&data, 1);
    interrupt(&scheduler);
    scheduler.wait().unwrap();
    let logs = data.run("run logs 1 -f");
    for event in ["created", "cancelled", "reopened", "claimed", "succeeded"] {
        assert!(logs.contains(event), "{event}: {logs}");
    }
    let told = data.run("schedule explain nightly --at 2024-03-09T12:00:00Z");
    assert!(told.contains("is not due at"), "{told}");
    for (arguments, why) in [
        ("schedule show nobody", "there is no schedule `nobody`"),
        ("run show 99", "there is no run 99"),
        ("schedule check nowhere.toml", "cannot read nowhere.toml"),
    ] {
        let refused = data.sentinel(arguments).output().unwrap();
        assert!(!refused.status.success() && printed(&refused).contains(why), "{}", printed(&refused));
    }
    for (written, why) in [
        ("[a]\njob = 'vacuum'\ncron = '0 3 * * 1'\n", "write weekdays by name"),
        ("[a]\njob = 'vacum'\ncron = '@daily'\n", "there is no job `vacum`; there are train, evaluate,"),
        ("[a]\njob = vacuum\n", "this is no TOML"),
    ] {
        fs::write(data.path().join("wrong.toml"), written).unwrap();
        let refused = data.sentinel("schedule check wrong.toml").output().unwrap();
        assert_eq!(refused.status.code(), Some(2));
        assert!(printed(&refused).contains(why), "{}", printed(&refused));
    }
}
