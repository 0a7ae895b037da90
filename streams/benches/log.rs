//! Speed of the codec and of the embedded log, one line a figure: the median of five rounds.
//!
//! The records are the simulator's events in their JSON form; the log lies in the system's folder for temporary files.

#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_precision_loss, reason = "a benchmark ends where it fails")]
#![allow(missing_docs)]

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use domain::{Clock, Kind, Record, Timestamp};
use streams::{
    AppendBatch, EmbeddedLog, EventLog, NewRecord, ReadItem, SimulatedMarket, SimulatedSettings, TopicSettings,
    codec::{decode, encode},
};

const ROUNDS: usize = 5;
const EVENTS: usize = 600_000;
const APPEND_RECORDS: usize = 10_000;
const EXAMPLE: &[u8] = br#"{"timestamp": 1710000000, "symbol": "BTC-USDT", "price": 43150.50, "volume": 12.534210, "log_return": 0.003521, "is_anomaly": false, "anomaly_type": null}"#;

struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_710_000_000)
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let records = records();
    let bytes: usize = records.iter().map(|record| record.value.len()).sum();
    println!("{EVENTS} simulated events of {:.0} bytes", bytes as f64 / EVENTS as f64);
    codec(&records);
    let mut appends = Vec::new();
    let mut reads = Vec::new();
    let mut read_decodes = Vec::new();
    for _ in 0..ROUNDS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.log");
        runtime.block_on(async {
            let log = EmbeddedLog::open(&path, &TopicSettings::default(), Arc::new(FixedClock)).await.unwrap();
            appends.push(timed_append(&log, &records).await);
            reads.push(timed_read(&log, |_| 1).await);
            read_decodes.push(timed_read(&log, decode_all).await);
            log.close().await;
        });
    }
    report("append, 10 000 a batch, one caller (events/s)", EVENTS, &mut appends);
    report("read (events/s)", EVENTS, &mut reads);
    report("read and decode, one task (events/s)", EVENTS, &mut read_decodes);
    let mut small = Vec::new();
    for _ in 0..ROUNDS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.log");
        small.push(runtime.block_on(async {
            let log = EmbeddedLog::open(&path, &TopicSettings::default(), Arc::new(FixedClock)).await.unwrap();
            timed_small_appends(&log, &records[..5_000]).await
        }));
    }
    report("append, one event a batch, 256 callers (events/s)", 5_000, &mut small);
}

fn records() -> Vec<NewRecord> {
    let settings = SimulatedSettings::with_defaults(1, Timestamp::from_seconds(1_700_000_000)).unwrap();
    let mut market = SimulatedMarket::new(settings, None).unwrap();
    let mut records = Vec::with_capacity(EVENTS);
    while records.len() < EVENTS {
        for event in market.next_tick() {
            let key = event.symbol;
            let mut value = Vec::new();
            encode(&Record::Event(event), &mut value);
            records.push(NewRecord { key, value });
        }
    }
    records
}

fn codec(records: &[NewRecord]) {
    const REPEATS: usize = 500_000;
    let mut example = rounds(|| (0..REPEATS).filter(|_| decode(b"BTC-USDT", black_box(EXAMPLE)).is_ok()).count());
    report("decode, the documented example (records/s)", REPEATS, &mut example);
    let mut simulated = rounds(|| records.iter().filter(|r| decode(r.key.as_bytes(), &r.value).is_ok()).count());
    report("decode, simulated events (records/s)", EVENTS, &mut simulated);
    let decoded: Vec<Record> = records.iter().map(|r| decode(r.key.as_bytes(), &r.value).unwrap()).collect();
    let mut out = Vec::with_capacity(512);
    let mut encodes = rounds(|| {
        let one = |record| {
            out.clear();
            encode(record, &mut out);
            black_box(&out).len()
        };
        decoded.iter().map(one).sum()
    });
    report("encode, simulated events (records/s)", EVENTS, &mut encodes);
}

fn rounds(mut work: impl FnMut() -> usize) -> Vec<Duration> {
    let round = |_| {
        let start = Instant::now();
        assert!(black_box(work()) > 0);
        start.elapsed()
    };
    (0..ROUNDS).map(round).collect()
}

async fn timed_append(log: &EmbeddedLog, records: &[NewRecord]) -> Duration {
    let batches: Vec<_> = records
        .chunks(APPEND_RECORDS)
        .map(|chunk| AppendBatch { records: chunk.to_vec(), kind: Kind::Simulated, source: None })
        .collect();
    let start = Instant::now();
    for batch in batches {
        log.append(batch).await.unwrap();
    }
    start.elapsed()
}

async fn timed_small_appends(log: &EmbeddedLog, records: &[NewRecord]) -> Duration {
    let start = Instant::now();
    let callers = records.chunks(records.len().div_ceil(256)).map(|chunk| async move {
        for record in chunk {
            let batch = AppendBatch { records: vec![record.clone()], kind: Kind::Simulated, source: None };
            log.append(batch).await.unwrap();
        }
    });
    futures::future::join_all(callers).await;
    start.elapsed()
}

async fn timed_read(log: &EmbeddedLog, visit: fn(domain::RawRecord<'_>) -> usize) -> Duration {
    let start = Instant::now();
    let mut seen = 0;
    for partition in 0..log.partitions() {
        let mut next = 0;
        loop {
            let items = log.read(partition, next, 16_384).await.unwrap();
            let Some(last) = items.last() else { break };
            next = last.end();
            for item in &items {
                let ReadItem::Batch(batch) = item else { panic!("a gap in a fresh log") };
                seen += batch.records().map(visit).sum::<usize>();
            }
        }
    }
    assert_eq!(seen, EVENTS);
    start.elapsed()
}

fn decode_all(record: domain::RawRecord<'_>) -> usize {
    usize::from(decode(record.key, record.value).is_ok())
}

fn report(what: &str, count: usize, durations: &mut [Duration]) {
    durations.sort_unstable();
    let median = durations[durations.len() / 2].as_secs_f64();
    println!("{what:<52} {:>12.0}", count as f64 / median);
}
