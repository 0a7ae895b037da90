//! A log that has lost old records, by retention that knew nothing of what a rebuild needs: the tables tell what they
//! were, and nothing that is there is folded otherwise for it.

use std::{fs, path::Path};

use domain::{Clock, Offset, Partition, Timestamp};
use lake::TableName;
use streams::{EmbeddedLog, EventLog, RetentionPolicy, TopicSettings};

use crate::harness::{Data, printed};

const DERIVED: [TableName; 3] = [TableName::Features, TableName::Windows, TableName::Predictions];

/// The market up to so many events. What was appended before is gone on with.
fn ingest(data: &Data, events: u32) {
    data.run(&format!("ingest simulated --events {events} --seed 3 --start 2024-03-09T16:00:00Z --speed 0"));
}

struct Now;

impl Clock for Now {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_800_000_000)
    }
}

/// Removes what lies below the offsets that a partition has reached, in whole stored batches; the first offsets left.
fn cut(log: &Path, reached: impl Fn(Partition, Offset) -> Offset) -> Vec<Offset> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let log = EmbeddedLog::open(log, &TopicSettings::default(), std::sync::Arc::new(Now)).await.unwrap();
        let nothing_kept = RetentionPolicy { max_age_micros: 0, max_partition_bytes: 0 };
        let mut first = Vec::new();
        for partition in 0..log.partitions() {
            let end = log.end_offset(partition).await.unwrap();
            let needed = reached(partition, end);
            first.push(log.retain(partition, needed, nothing_kept).await.unwrap().first_offset);
        }
        log.close().await;
        first
    })
}

fn rows(data: &Data, tables: &[TableName]) -> Vec<Vec<Vec<String>>> {
    // Two logs append at two times.
    tables.iter().map(|table| data.rows(*table, &["ingest_time"])).collect()
}

#[test]
fn what_a_rebuild_needs_and_the_log_has_lost_is_told_by_the_tables() {
    let (whole, cut_short) = (Data::new(), Data::new());
    for (data, is_cut) in [(&whole, false), (&cut_short, true)] {
        ingest(data, 400);
        data.run("stream --once");
        data.run("train --trees 10");
        ingest(data, 600);
        data.run("stream --once");
        if is_cut {
            let log = data.path().join("data/log/events.db");
            let first = cut(&log, |_, end| end);
            assert!(first.iter().any(|first| *first >= 200), "{first:?}");
        }
        ingest(data, 900);
        let told = printed(&data.sentinel("stream --once").output().unwrap());
        assert_eq!(told.contains("the tables tell what they were"), is_cut, "{told}");
        ingest(data, 1_200);
        data.run("stream --once");
        data.run("verify --log");
    }
    let tables = [DERIVED.as_slice(), &[TableName::Events, TableName::Gaps]].concat();
    let found = rows(&cut_short, &tables);
    assert!(found.iter().zip(&tables).all(|(rows, table)| rows.is_empty() == (*table == TableName::Gaps)));
    assert_eq!(found, rows(&whole, &tables));
}

#[test]
fn records_lost_before_they_were_folded_are_a_gap_and_the_rest_is_folded() {
    let data = Data::new();
    ingest(&data, 300);
    data.run("stream --once");
    for events in [600, 900, 1_200] {
        ingest(&data, events);
    }
    let first = cut(&data.path().join("data/log/events.db"), |_, end| end - 50);
    let told = printed(&data.sentinel("stream --once").output().unwrap());
    assert!(told.contains("these records are lost"), "{told}");
    let gaps = data.rows(TableName::Gaps, &["ingest_time"]);
    assert!(!gaps.is_empty());
    for gap in &gaps {
        let partition: usize = gap[0].parse().unwrap();
        assert_eq!(gap[2], first[partition].to_string(), "{gap:?}");
    }
    data.run("stream --once");
    data.run("verify --log");
    assert_eq!(data.rows(TableName::Gaps, &["ingest_time"]), gaps);
}

#[test]
fn a_torn_table_is_filled_from_the_events_where_the_log_was_cut() {
    let data = Data::new();
    for events in [450, 900] {
        ingest(&data, events);
        data.run("stream --once");
    }
    let before = rows(&data, &DERIVED);
    let log = data.path().join("data/lake/features/_delta_log");
    let commits = fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
    let newest = commits.filter(|path| path.extension().is_some_and(|extension| extension == "json")).max().unwrap();
    fs::write(newest, "").unwrap();
    cut(&data.path().join("data/log/events.db"), |_, end| end);
    data.run("stream --once");
    assert_eq!(rows(&data, &DERIVED), before);
    data.run("verify");
}
