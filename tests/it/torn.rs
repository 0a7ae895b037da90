//! What a power cut can leave: a newest commit that is empty or torn. It is set aside and its rows are written again.

use std::{fs, path::PathBuf};

use lake::TableName;

use crate::harness::Data;

/// A market up to so many events.
fn market(events: u32) -> String {
    format!("ingest simulated --events {events} --seed 3 --start 2024-03-09T16:00:00Z --speed 0")
}

/// The newest commit of a table.
fn newest_commit(data: &Data, table: TableName) -> PathBuf {
    let folder = data.path().join("data/lake").join(table.as_str()).join("_delta_log");
    let commits = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    commits.filter(|path| path.extension().is_some_and(|extension| extension == "json")).max().unwrap()
}

#[test]
fn rows_of_torn_commits_are_written_again() {
    let data = Data::new();
    data.run(&market(900));
    data.run("stream --once");
    data.run("train --trees 10");
    data.run(&market(3_600));
    data.run("stream --once");
    let tables =
        [TableName::Features, TableName::Windows, TableName::Predictions, TableName::Alerts, TableName::Events];
    let before = tables.map(|table| data.rows(table, &[]));
    for (table, keep) in [(TableName::Features, 0), (TableName::Predictions, 40)] {
        let commit = newest_commit(&data, table);
        let bytes = fs::read(&commit).unwrap();
        fs::write(&commit, &bytes[..keep]).unwrap();
    }
    data.run("stream --once");
    let log = newest_commit(&data, TableName::Features).with_file_name("");
    let names: Vec<_> =
        fs::read_dir(log).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name.contains(".filled-")) && !names.iter().any(|name| name.contains(".torn-")));
    let after = tables.map(|table| data.rows(table, &[]));
    for ((table, before), after) in tables.iter().zip(&before).zip(&after) {
        assert!(!before.is_empty() && after == before, "{} has other rows than before", table.as_str());
    }
}
