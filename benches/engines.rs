//! `cargo bench --bench engines`: the engines of the event log beside each other, alone and all the way to committed tables.
//!
//! Prints medians of three runs that take turns. `SENTINEL_BENCH_FLUVIO` names the controller of a Fluvio cluster
//! (`HOST:PORT`), which gets a topic per run; without it the embedded log is measured alone.

#![expect(clippy::unwrap_used, reason = "a benchmark may stop at any line")]

#[path = "market/mod.rs"]
mod market;

use std::{
    env,
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use domain::{Kind, Record};
use jobs::stream::{FlushPolicy, StreamParts, Until};
use streams::{
    AppendBatch, EmbeddedLog, EventLog, FluvioLog, FluvioSettings, NewRecord, ReadItem, RetentionPolicy, TopicSettings,
};
use tokio_util::sync::CancellationToken;

use market::{FixedClock, encoded, median, parts, print_rate, rate, records};

const RUNS: usize = 3;
const EVENTS: usize = 600_000;
const APPEND_RECORDS: usize = 10_000;

/// Rates of one engine.
#[derive(Default)]
struct Rates {
    append: Vec<f64>,
    read: Vec<f64>,
    whole_way: Vec<f64>,
}

fn main() {
    let events: usize = env::var("EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(EVENTS);
    let cluster = env::var("SENTINEL_BENCH_FLUVIO").ok();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir_in(env::var("BENCH_DIR").map_or_else(|_| env::temp_dir(), PathBuf::from)).unwrap();
    let market = records(events, 100);
    let (mut embedded, mut fluvio) = (Rates::default(), Rates::default());
    for run in 0..RUNS {
        let folder = folder.path().join(run.to_string());
        runtime.block_on(measure(&mut embedded, &folder.join("embedded"), None, &market));
        if let Some(cluster) = &cluster {
            runtime.block_on(measure(&mut fluvio, &folder.join("fluvio"), Some(cluster), &market));
        }
    }
    print("embedded", &mut embedded);
    if cluster.is_some() {
        print("fluvio", &mut fluvio);
        let share = median(&mut fluvio.whole_way) / median(&mut embedded.whole_way);
        println!("{:<58} {share:>12.2}", "share of the embedded log's, all the way");
    }
}

fn print(engine: &str, rates: &mut Rates) {
    let overhead = [&mut rates.append, &mut rates.read].map(|rates| 1e6 / median(rates));
    print_rate(&format!("{engine}: append, {APPEND_RECORDS} a batch, one caller"), &mut rates.append);
    print_rate(&format!("{engine}: read, one task"), &mut rates.read);
    print_rate(&format!("{engine}: append beside the stream job to committed tables"), &mut rates.whole_way);
    println!("{engine}: {:.2} us a record to append, {:.2} us to read", overhead[0], overhead[1]);
}

async fn measure(rates: &mut Rates, folder: &Path, cluster: Option<&String>, market: &[Record]) {
    let alone = open(&folder.join("alone"), cluster).await;
    let batches: Vec<Vec<NewRecord>> = market.chunks(APPEND_RECORDS).map(encoded).collect();
    let started = Instant::now();
    append(alone.as_ref(), batches).await;
    rates.append.push(rate(market.len(), started.elapsed().as_secs_f64()));
    let started = Instant::now();
    assert_eq!(read(alone.as_ref()).await, market.len());
    rates.read.push(rate(market.len(), started.elapsed().as_secs_f64()));
    alone.close().await;

    let folder = folder.join("whole");
    let log = open(&folder, cluster).await;
    let parts = parts(&folder, log.clone()).await;
    let batches: Vec<Vec<NewRecord>> = market.chunks(APPEND_RECORDS).map(encoded).collect();
    let cancel = CancellationToken::new();
    let started = Instant::now();
    let all: Vec<_> = (0..log.partitions()).collect();
    let appended = append(log.as_ref(), batches);
    let reached = async {
        // The last rows may wait until a flush is due by its age, which says nothing about speed.
        let (mut next, enough) = (0, market.len() / 10 * 9);
        while next < enough {
            tokio::time::sleep(Duration::from_millis(5)).await;
            next = committed(&parts).await;
        }
        rates.whole_way.push(rate(next, started.elapsed().as_secs_f64()));
    };
    let measured = async {
        tokio::join!(appended, reached);
        cancel.cancel();
    };
    let folded = jobs::stream::run(parts.clone(), &all, FlushPolicy::default(), Until::Cancelled, cancel.clone());
    let (report, ()) = tokio::join!(folded, measured);
    report.unwrap();
    jobs::stream::run(parts.clone(), &all, FlushPolicy::default(), Until::EndOfLog, CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(committed(&parts).await, market.len());
    log.close().await;
}

/// Records that the tables account for.
async fn committed(parts: &StreamParts) -> usize {
    let mut next = 0;
    for partition in 0..parts.log.partitions() {
        next += parts.lake.progress(parts.log.topic_id(), partition).await.unwrap().next;
    }
    usize::try_from(next).unwrap()
}

async fn open(folder: &Path, cluster: Option<&String>) -> Arc<dyn EventLog> {
    let Some(endpoint) = cluster else {
        let file = folder.join("log.db");
        return Arc::new(EmbeddedLog::open(&file, &TopicSettings::default(), Arc::new(FixedClock)).await.unwrap());
    };
    // A topic that no run before had.
    let name = format!("bench-{:x}", RandomState::new().hash_one(folder));
    let topic = TopicSettings { name, ..TopicSettings::default() };
    let settings = FluvioSettings {
        endpoint: Some(endpoint.clone()),
        profile: None,
        tls: None,
        topic,
        replication: 1,
        retention: RetentionPolicy::default(),
    };
    Arc::new(FluvioLog::open(&settings, &folder.join("ledger.db"), Arc::new(FixedClock)).await.unwrap())
}

async fn append(log: &dyn EventLog, batches: Vec<Vec<NewRecord>>) {
    for records in batches {
        log.append(AppendBatch { records, kind: Kind::Simulated, source: None }).await.unwrap();
    }
}

/// Reads everything; how many records there are.
async fn read(log: &dyn EventLog) -> usize {
    let mut records = 0;
    for partition in 0..log.partitions() {
        let mut next = 0;
        loop {
            let items = log.read(partition, next, 20_000).await.unwrap();
            let Some(last) = items.last() else { break };
            next = last.end();
            records +=
                items.iter().map(|item| if let ReadItem::Batch(batch) = item { batch.len() } else { 0 }).sum::<usize>();
        }
    }
    records
}
