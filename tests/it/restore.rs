//! A restored table gets back every row that the restore took away, once each, whatever happens on the way.

use std::{
    fs,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use lake::TableName;

use crate::harness::{Data, printed, was_killed};

const MARKET: &str = "ingest simulated --seed 13 --start 2024-03-09T16:00:00Z --speed 0 --events";

/// No process takes longer to start on any machine.
const PATIENCE: Duration = Duration::from_mins(2);

const TABLES: [TableName; 4] = [TableName::Features, TableName::Windows, TableName::Predictions, TableName::Events];

/// Runs a command with small flushes, so that there are many versions.
fn run(data: &Data, arguments: &str) -> String {
    let output = data.sentinel(arguments).env("SENTINEL__STREAM__FLUSH_ROWS", "100").output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", printed(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Rows from before the first model, scored later, and rows scored as they came.
fn grown() -> Data {
    let data = Data::new();
    run(&data, &format!("{MARKET} 600"));
    run(&data, "stream --once");
    run(&data, "train --trees 10");
    run(&data, &format!("{MARKET} 1500"));
    run(&data, "stream --once");
    data
}

fn rows(data: &Data) -> [Vec<Vec<String>>; 4] {
    TABLES.map(|table| data.rows(table, &[]))
}

fn assert_same(after: &[Vec<Vec<String>>; 4], before: &[Vec<Vec<String>>; 4], told: &str) {
    for ((table, after), before) in TABLES.iter().zip(after).zip(before) {
        assert!(!before.is_empty(), "{told}: {} was empty", table.as_str());
        assert_eq!(after.len(), before.len(), "{told}: rows of {}", table.as_str());
        assert!(after == before, "{told}: {} has other rows than before", table.as_str());
    }
}

#[test]
fn restored_tables_are_filled_again_exactly_once() {
    let data = grown();
    let before = rows(&data);
    let restores: [&[(&str, u64)]; 4] = [
        &[("events", 2)],
        &[("windows", 0)],
        &[("features", 1), ("predictions", 0)],
        &[("events", 4), ("predictions", 3), ("features", 2), ("windows", 1)],
    ];
    for restored in restores {
        for (table, version) in restored {
            let name = TableName::from_name(table).unwrap();
            let whole = data.rows(name, &[]).len();
            let planned = run(&data, &format!("table restore {table} --version {version} --dry-run"));
            assert!(planned.contains("would fold what is missing"), "{planned}");
            assert_eq!(data.rows(name, &[]).len(), whole, "a dry run of {table}");
            run(&data, &format!("table restore {table} --version {version}"));
            assert!(data.rows(name, &[]).len() < whole, "{table} has all of its rows");
        }
        run(&data, "stream --once");
        assert_same(&rows(&data), &before, &format!("{restored:?}"));
    }
    run(&data, "stream --once");
    assert_same(&rows(&data), &before, "once more");
    assert!(run(&data, "doctor").contains("0 records of the log are not in the tables yet"));
}

#[test]
fn a_restore_goes_back_behind_a_compaction_and_forward_again() {
    let data = grown();
    let before = rows(&data);
    run(&data, "table compact features");
    run(&data, "table restore features --version 2");
    run(&data, "table restore features --version 5");
    run(&data, "stream --once");
    assert_same(&rows(&data), &before, "behind and forward");
}

#[test]
fn a_kill_while_a_restored_table_is_filled_loses_and_doubles_nothing() {
    let data = grown();
    let before = rows(&data);
    run(&data, "table restore features --version 1");
    run(&data, "table restore predictions --version 0");
    let mut kills = 0;
    for point in ["files-written:1", "committed:1", "committed:2", "files-written:2"] {
        let mut command = data.sentinel("stream --once");
        let killed = command.env("SENTINEL_CRASH_AT", point).env("SENTINEL__STREAM__FLUSH_ROWS", "100").output();
        kills += usize::from(was_killed(killed.unwrap().status));
    }
    assert!(kills >= 2, "only {kills} kills");
    run(&data, "stream --once");
    assert_same(&rows(&data), &before, "after kills");
}

#[test]
fn what_comes_after_a_restore_is_what_comes_without_one() {
    let (calm, restored) = (grown(), grown());
    run(&restored, "table restore features --version 2");
    run(&restored, "table restore predictions --version 1");
    for data in [&calm, &restored] {
        run(data, &format!("{MARKET} 2100"));
        run(data, "stream --once");
    }
    for table in TABLES {
        let (calm, restored) = (calm.rows(table, &["ingest_time"]), restored.rows(table, &["ingest_time"]));
        assert!(calm == restored, "{} differs", table.as_str());
    }
}

#[test]
fn a_table_is_not_restored_while_somebody_folds_into_it() {
    let data = grown();
    let before = rows(&data);
    let mut folding = data.sentinel("stream").stderr(Stdio::null()).spawn().unwrap();
    let lock = data.path().join("data/locks/stream-3");
    let end = Instant::now() + PATIENCE;
    while fs::read(&lock).unwrap_or_default().is_empty() {
        assert!(Instant::now() < end, "the stream job never took its role");
        thread::sleep(Duration::from_millis(20));
    }
    let refused = data.sentinel("table restore features --version 1").output().unwrap();
    folding.kill().unwrap();
    folding.wait().unwrap();
    assert_eq!(refused.status.code(), Some(3), "{}", printed(&refused));
    assert!(printed(&refused).contains("stop that process"), "{}", printed(&refused));
    assert_same(&rows(&data), &before, "refused");
}
