//! `cargo bench --bench history`: how long a symbol's day takes to read from `features` with ten thousand commits behind
//! it, kept small by the upkeep of `sentinel up`. Opening the table is part of it.
//!
//! Prints the median of five reads, and what the table looks like.

#![expect(clippy::unwrap_used, reason = "a benchmark may stop at any line")]

use std::{env, path::PathBuf, time::Instant};

use domain::{FeatureRow, Fold, Offset, Output, RawRecord, Record, Timestamp};
use lake::{Lake, TableName, table::Slice};
use streams::{SimulatedMarket, SimulatedSettings};

const COMMITS: usize = 10_000;
const RUNS: usize = 5;
const CHECKPOINT_EVERY: u64 = 100;
const COMPACT_EVERY: usize = 200;
/// 2024-03-09, a whole day of three markets with an event a second.
const DAY: Timestamp = Timestamp::from_seconds(1_709_942_400);
const EVENTS_PER_SYMBOL: usize = 86_400;

fn main() {
    let folder = tempfile::tempdir_in(env::var("BENCH_DIR").map_or_else(|_| env::temp_dir(), PathBuf::from)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let rows = features();
    runtime.block_on(async {
        let lake = Lake::open(folder.path()).await.unwrap();
        let started = Instant::now();
        fill(&lake, &rows).await;
        let spent = started.elapsed().as_secs_f64();
        let state = lake.state(TableName::Features).await.unwrap();
        println!(
            "{} commits in {spent:.0} s, upkeep included; version {}, {} rows in {} files",
            COMMITS, state.version, state.rows, state.files
        );
        let mut times: Vec<f64> = Vec::new();
        for _ in 0..RUNS {
            let started = Instant::now();
            let found = read(&lake).await;
            times.push(started.elapsed().as_secs_f64() * 1_000.0);
            assert_eq!(found, EVENTS_PER_SYMBOL);
        }
        times.sort_unstable_by(f64::total_cmp);
        println!("read one symbol's day, {EVENTS_PER_SYMBOL} rows of all columns: {:.1} ms", times[RUNS / 2]);
        println!("fastest {:.1} ms, slowest {:.1} ms", times[0], times[RUNS - 1]);
    });
}

/// A day of feature rows in the order of their offsets.
fn features() -> Vec<FeatureRow> {
    let settings = SimulatedSettings::with_defaults(7, DAY).unwrap();
    let mut market = SimulatedMarket::new(settings, None).unwrap();
    let (mut fold, mut out) = (Fold::new(0, 0), Output::default());
    let append_time = DAY.plus_micros(86_400_000_000);
    for second in 0..EVENTS_PER_SYMBOL {
        for (place, event) in (0..).zip(market.next_tick()) {
            let offset = Offset::try_from(second).unwrap() * 3 + place;
            let raw = RawRecord { offset, append_time, key: b"", value: b"" };
            fold.apply(raw, Ok(Record::Event(event)), &mut out);
        }
    }
    out.features
}

/// Commits the rows in equal parts, with upkeep in between as `sentinel up` does it.
async fn fill(lake: &Lake, rows: &[FeatureRow]) {
    for (number, part) in rows.chunks(rows.len().div_ceil(COMMITS)).enumerate() {
        let (start, next) = (part[0].offset, part[part.len() - 1].offset + 1);
        let slice = Slice { progress: "bench/0/next".to_owned(), start, next, along: Vec::new(), rows: part };
        lake.append(&slice).await.unwrap();
        if number % COMPACT_EVERY == COMPACT_EVERY - 1 {
            lake.checkpoint(TableName::Features, CHECKPOINT_EVERY).await.unwrap();
            lake.compact(TableName::Features).await.unwrap();
        }
    }
    lake.compact(TableName::Features).await.unwrap();
    lake.checkpoint(TableName::Features, 1).await.unwrap();
}

/// Rows of one symbol's day.
async fn read(lake: &Lake) -> usize {
    let day = "timestamp >= TIMESTAMP '2024-03-09T00:00:00Z' AND timestamp < TIMESTAMP '2024-03-10T00:00:00Z'";
    let pinned = lake.pin(TableName::Features).await.unwrap();
    let rows = pinned.rows(&format!("SELECT * FROM features WHERE symbol = 'BTC-USDT' AND {day}")).await.unwrap();
    let mut count = 0;
    for batch in &rows {
        count += batch.num_rows();
    }
    count
}
