//! The simulated market that benchmarks measure with, what a stream job works with, and how rates are told.

use std::{path::Path, sync::Arc};

use domain::{Clock, Record, Timestamp, time::MICROS};
use jobs::{feed::Feed, library::Models, metrics::Metrics, stream::StreamParts};
use lake::{Lake, registry::Registry};
use streams::{EventLog, NewRecord, SimulatedMarket, SimulatedSettings, codec};

const START: Timestamp = Timestamp::from_seconds(1_710_000_000);

/// Later than every event.
pub struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        START.plus_micros(100_000_000 * MICROS)
    }
}

/// Decoded events of three symbols, `per_pane` of each symbol in a second.
pub fn records(events: usize, per_pane: i64) -> Vec<Record> {
    let mut settings = SimulatedSettings::with_defaults(7, START).unwrap();
    settings.interval_micros = MICROS / per_pane;
    let mut market = SimulatedMarket::new(settings, None).unwrap();
    let mut records = Vec::with_capacity(events);
    while records.len() < events {
        records.extend(market.next_tick().into_iter().map(Record::Event));
    }
    records.truncate(events);
    records
}

/// Records as they go into a log.
pub fn encoded(records: &[Record]) -> Vec<NewRecord> {
    let encode = |record: &Record| {
        let mut value = Vec::new();
        codec::encode(record, &mut value);
        NewRecord { key: record.symbol(), value }
    };
    records.iter().map(encode).collect()
}

/// A stream job without a model over a log, with new tables in a folder.
pub async fn parts(folder: &Path, log: Arc<dyn EventLog>) -> StreamParts {
    let registry = Registry::open(&folder.join("registry.db")).await.unwrap();
    StreamParts {
        log,
        lake: Arc::new(Lake::open(&folder.join("lake")).await.unwrap()),
        models: Models::new(registry.clone(), folder.join("models")),
        registry,
        champion: tokio::sync::watch::Sender::new(None).subscribe(),
        feed: Arc::new(Feed::new()),
        metrics: Arc::new(Metrics::new()),
        state: Arc::default(),
        clock: Arc::new(FixedClock),
        probe: Arc::new(domain::NoProbe),
    }
}

/// Events per second.
#[expect(clippy::cast_precision_loss, reason = "counts of events")]
pub fn rate(events: usize, seconds: f64) -> f64 {
    events as f64 / seconds
}

/// The middle one; puts them in order.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One line: the median, the smallest and the greatest.
pub fn print_rate(what: &str, rates: &mut [f64]) {
    let middle = median(rates);
    println!("{what:<58} {middle:>12.0} events/s  ({:.0} to {:.0})", rates[0], rates[rates.len() - 1]);
}
