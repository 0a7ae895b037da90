//! `cargo bench --bench speed`: how fast the fold alone is, the way from the log to committed tables, and the proof that
//! they are what the events give.
//!
//! Prints the median of five runs. Where `../shared/peers` and a Python with pyspark (`SENTINEL_PYTHON`) are there, the
//! Spark peer, which makes only the windows, takes the same events in turn with each of our runs.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark may stop at any line")]

#[path = "market/mod.rs"]
mod market;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Instant,
};

use domain::{Clock, Fold, Kind, Output, RawRecord, Record, time::MICROS};
use jobs::{
    stream::{FlushPolicy, Until},
    verify::{TableReport, VerifyRequest, verify},
};
use lake::TableName;
use streams::{AppendBatch, EmbeddedLog, TopicSettings};
use tokio_util::sync::CancellationToken;

use market::{FixedClock, encoded, median, parts, print_rate, rate, records};

const RUNS: usize = 5;
const EVENTS: usize = 1_500_000;

fn main() {
    let events: usize = env::var("EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(EVENTS);
    for per_pane in [1, 10, 100] {
        fold(events, per_pane);
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir_in(env::var("BENCH_DIR").map_or_else(|_| env::temp_dir(), PathBuf::from)).unwrap();
    let market = records(events, 100);
    let spark = Spark::find(folder.path(), &market);
    let (mut ours, mut proofs, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..RUNS {
        let (rate, proof) = runtime.block_on(pipeline(&folder.path().join(run.to_string()), &market));
        ours.push(rate);
        proofs.push(proof);
        theirs.extend(spark.as_ref().map(|spark| spark.run(events)));
    }
    print_rate("log to committed events, features and windows", &mut ours);
    print_rate("verify features and windows", &mut proofs);
    if !theirs.is_empty() {
        print_rate("Spark, windows only", &mut theirs);
        println!("{:<58} {:>12.1} x", "ratio of the medians", median(&mut ours) / median(&mut theirs));
    }
}

fn fold(events: usize, per_pane: i64) {
    let records = records(events, per_pane);
    let append_time = FixedClock.now();
    let mut rates = Vec::new();
    for _ in 0..RUNS {
        let mut batches: Vec<Vec<Record>> = records.chunks(20_000).map(<[Record]>::to_vec).collect();
        let mut fold = Fold::new(0, 0);
        let mut spent = 0.0;
        let mut offset = 0;
        let mut out = Output::default();
        for batch in &mut batches {
            out.events.clear();
            out.features.clear();
            out.windows.clear();
            let started = Instant::now();
            for record in batch.drain(..) {
                fold.apply(RawRecord { offset, append_time, key: b"", value: b"" }, Ok(record), &mut out);
                offset += 1;
            }
            spent += started.elapsed().as_secs_f64();
            assert!(out.features.len() == out.events.len() && !out.events.is_empty());
        }
        rates.push(rate(events, spent));
    }
    print_rate(&format!("fold, one core, {per_pane} events per pane"), &mut rates);
}

/// Events per second of the stream job, and of verifying what it wrote.
async fn pipeline(folder: &Path, market: &[Record]) -> (f64, f64) {
    let topic = TopicSettings::default();
    let log = EmbeddedLog::open(&folder.join("log.db"), &topic, Arc::new(FixedClock)).await.unwrap();
    for batch in market.chunks(20_000) {
        streams::EventLog::append(&log, AppendBatch { records: encoded(batch), kind: Kind::Simulated, source: None })
            .await
            .unwrap();
    }
    let parts = parts(folder, Arc::new(log)).await;
    let started = Instant::now();
    let (all, policy) = ([0, 1, 2, 3], FlushPolicy::default());
    let report = jobs::stream::run(parts.clone(), &all, policy, Until::EndOfLog, CancellationToken::new());
    assert_eq!(report.await.unwrap().fates.of(domain::Fate::Admitted), market.len() as u64);
    let folded = rate(market.len(), started.elapsed().as_secs_f64());
    let started = Instant::now();
    let tables = vec![TableName::Features, TableName::Windows];
    let request = VerifyRequest { tables, from: None, to: None, symbols: Vec::new() };
    let reports = verify(&parts.lake, parts.log.as_ref(), &parts.models, &request, &|_| {}).await.unwrap();
    assert!(reports.iter().all(TableReport::is_equal) && reports[0].compared.rows == market.len() as u64);
    (folded, rate(market.len(), started.elapsed().as_secs_f64()))
}

/// The Spark peer and the same events as files.
struct Spark {
    python: PathBuf,
    script: PathBuf,
    events: PathBuf,
    out: PathBuf,
}

impl Spark {
    fn find(folder: &Path, market: &[Record]) -> Option<Self> {
        let python = PathBuf::from(env::var_os("SENTINEL_PYTHON")?);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/peers/spark_windows.py");
        if !script.exists() {
            return None;
        }
        let events = folder.join("spark-events");
        fs::create_dir_all(&events).unwrap();
        for (number, part) in market.chunks(market.len().div_ceil(8)).enumerate() {
            let lines: Vec<u8> = part.iter().flat_map(spark_line).collect();
            fs::write(events.join(format!("part-{number:04}.jsonl")), lines).unwrap();
        }
        Some(Self { python, script, events, out: folder.join("spark-out") })
    }

    /// Events per second, as the peer says.
    fn run(&self, events: usize) -> f64 {
        let output = Command::new(&self.python).arg(&self.script).arg(&self.events).arg(&self.out).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let seconds = text.split(" in ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
        rate(events, seconds.unwrap_or_else(|| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr))))
    }
}

/// Spark reads whole seconds and the log-return from the line.
fn spark_line(record: &Record) -> Vec<u8> {
    let Record::Event(event) = record else { return Vec::new() };
    let line = serde_json::json!({
        "timestamp": event.timestamp.micros() / MICROS, "symbol": event.symbol.as_str(), "price": event.price,
        "volume": event.volume, "log_return": 0.0, "is_anomaly": event.is_anomaly, "anomaly_type": event.anomaly_type,
    });
    format!("{line}\n").into_bytes()
}
