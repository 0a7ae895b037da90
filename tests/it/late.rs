//! Events that come too late are told to whoever brings them, before any table is written.

use std::{fmt::Write, fs};

use lake::TableName;

use crate::harness::Data;

/// Trades of one symbol at these seconds, each with its trade id.
fn file(data: &Data, name: &str, trades: impl Iterator<Item = (i64, i64)>) {
    let mut lines = String::new();
    for (second, id) in trades {
        let line = format!("\"timestamp\":{},\"symbol\":\"KO-USDT\",\"price\":60.5", 1_710_000_000 + second);
        writeln!(lines, "{{{line},\"volume\":2,\"trade_id\":{id}}}").unwrap();
    }
    fs::write(data.path().join(name), lines).unwrap();
}

#[test]
fn an_ingest_says_how_many_events_come_too_late_and_which_door_takes_them() {
    let data = Data::new();
    file(&data, "newer.jsonl", (0..500).map(|second| (second, second)));
    file(&data, "older.jsonl", (-200..0).chain(430..450).map(|second| (second, second)));
    assert_eq!(data.run("ingest file newer.jsonl"), "500 records appended\n");
    let said = data.run("ingest file older.jsonl");
    // Trades 430 to 438 are behind the watermark, 439 to 449 are at or after it and were there before.
    assert!(said.contains("220 records appended; 11 of them came twice; 209 of them come too late"), "{said}");
    assert!(said.contains("backfill"), "{said}");
    data.run("stream --once");
    assert_eq!(data.rows(TableName::LateEvents, &[]).len(), 220);
    assert_eq!(data.rows(TableName::Events, &[]).len(), 500);
    // The same after the tables have moved on: what came before is known from where they would be rebuilt.
    file(&data, "again.jsonl", [(100, 1_000), (500, 1_001)].into_iter());
    let said = data.run("ingest file again.jsonl");
    assert!(said.starts_with("2 records appended; 1 of them come too late"), "{said}");
}
