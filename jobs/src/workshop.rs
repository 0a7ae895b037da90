//! What training and evaluation work with, and the choice of feature rows that both begin with.
//!
//! Rows are read from one pinned version of `features` and named by a condition that reads the same rows of that
//! version again. A row with a value that is not finite is left out and counted, never repaired.

use std::{fmt, path::PathBuf, sync::Arc};

use domain::{Clock, Symbol, Timestamp};
use lake::{
    Lake, TableName,
    read::{Pinned, StoredFeatures},
    registry::Registry,
};
use models::{Model, Verdict};
use rayon::prelude::*;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{error::Error, report::instant};

/// Rows that work without an asker reads at once, at most, where nobody says another number: about 600 MB.
pub const MOST_ROWS: u64 = 1_000_000;

/// Rows that one rayon task judges.
const ROWS_PER_TASK: usize = 4_096;

/// The parts that training and evaluation need.
#[derive(Clone)]
pub struct Workshop {
    /// The tables.
    pub lake: Arc<Lake>,
    /// The model records.
    pub registry: Registry,
    /// The folder of the model files.
    pub models_dir: PathBuf,
    /// The present.
    pub clock: Arc<dyn Clock>,
}

/// Names the folders; the clock has no form.
impl fmt::Debug for Workshop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workshop")
            .field("lake", &self.lake)
            .field("models_dir", &self.models_dir)
            .finish_non_exhaustive()
    }
}

/// A time whose rows say nothing about a normal market: an outage, a venue's test, a known manipulation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Incident {
    /// The least event time.
    #[serde(with = "instant")]
    pub from: Timestamp,
    /// The event time before which all of it lies.
    #[serde(with = "instant")]
    pub to: Timestamp,
    /// What it was.
    pub reason: String,
}

/// A choice of feature rows by event time and market.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// The least event time.
    pub from: Option<Timestamp>,
    /// The event time before which all rows lie.
    pub to: Option<Timestamp>,
    /// The markets; empty for all.
    pub symbols: Vec<Symbol>,
    /// Times within that are left out.
    pub incidents: Vec<Incident>,
}

impl Slice {
    /// A choice with its markets in order, each once.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the range holds no instant.
    pub fn new(from: Option<Timestamp>, to: Option<Timestamp>, symbols: &[Symbol]) -> Result<Self, Error> {
        if let (Some(from), Some(to)) = (from, to)
            && from >= to
        {
            return Err(Error::Invalid(format!("the range from {from} to {to} is empty: let it end after its start")));
        }
        let mut symbols = symbols.to_vec();
        symbols.sort_unstable();
        symbols.dedup();
        Ok(Self { from, to, symbols, incidents: Vec::new() })
    }

    /// The choice without these times, as far as they meet it.
    ///
    /// # Errors
    /// [`Error::Invalid`] where one of them holds no instant.
    pub fn without(mut self, incidents: &[Incident]) -> Result<Self, Error> {
        for incident in incidents {
            let Incident { from, to, reason } = incident;
            if from >= to {
                return Err(Error::Invalid(format!("the incident `{reason}` must end after its start, {from}")));
            }
            if self.to.is_none_or(|end| *from < end) && self.from.is_none_or(|start| start < *to) {
                self.incidents.push(incident.clone());
            }
        }
        Ok(self)
    }

    /// The choice as an SQL condition on `features`.
    #[must_use]
    pub fn predicate(&self) -> String {
        let from = self.from.map(|from| format!("timestamp >= '{from}'"));
        let to = self.to.map(|to| format!("timestamp < '{to}'"));
        let names: Vec<String> = self.symbols.iter().map(|symbol| format!("'{symbol}'")).collect();
        let symbols = (!names.is_empty()).then(|| format!("symbol IN ({})", names.join(", ")));
        let incidents = self.incidents.iter();
        let incidents =
            incidents.map(|Incident { from, to, .. }| format!("NOT (timestamp >= '{from}' AND timestamp < '{to}')"));
        let conditions: Vec<String> = [from, to, symbols].into_iter().flatten().chain(incidents).collect();
        if conditions.is_empty() { "TRUE".to_owned() } else { conditions.join(" AND ") }
    }
}

/// The choice as a person says it.
impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.symbols.iter().map(Symbol::as_str).collect();
        f.write_str(&if names.is_empty() { "all symbols".to_owned() } else { names.join(", ") })?;
        self.from.map_or(Ok(()), |from| write!(f, " from {from}"))?;
        self.to.map_or(Ok(()), |to| write!(f, " before {to}"))?;
        self.incidents.iter().try_for_each(|incident| write!(f, ", without `{}`", incident.reason))
    }
}

/// Rows read from one version of `features`.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// The version of the table.
    pub delta_version: u64,
    /// The rows, ascending by (partition, offset); every feature is finite.
    pub rows: Vec<StoredFeatures>,
    /// Event times of the rows that were left out because a feature is not finite.
    pub dropped: Vec<Timestamp>,
}

impl Workshop {
    /// Reads the rows of a slice from a version of `features`, the newest where none is given.
    ///
    /// # Errors
    /// Where there is no such version, or it cannot be read.
    pub async fn choose(&self, slice: &Slice, version: Option<u64>) -> Result<Chosen, Error> {
        let pinned = match version {
            Some(version) => self.lake.pin_version(TableName::Features, version).await?,
            None => self.lake.pin(TableName::Features).await?,
        };
        Chosen::of(&pinned, &slice.predicate()).await
    }

    /// The least time not before `from` from which on there are at most `most` rows, whole minutes at a time, and the newest
    /// minute in any case: so that a busy market fits into memory.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn newest_from(&self, from: Timestamp, most: u64) -> Result<Timestamp, Error> {
        let minutes = self.lake.pin(TableName::Features).await?.rows_by_minute(from).await?;
        let (mut start, mut sum) = (from, 0);
        for (minute, rows) in minutes {
            if sum > 0 && sum + rows > most {
                return Ok(start.max(from));
            }
            (start, sum) = (minute, sum + rows);
        }
        Ok(from)
    }

    /// The greatest event time in `features`; `None` where there are no rows.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn newest_event(&self) -> Result<Option<Timestamp>, Error> {
        Ok(self.lake.pin(TableName::Features).await?.newest_event().await?)
    }
}

impl Chosen {
    /// Reads the rows that meet a condition, an SQL text over the columns of `features`.
    ///
    /// # Errors
    /// Where the version cannot be read.
    pub async fn of(pinned: &Pinned, condition: &str) -> Result<Self, Error> {
        let mut rows = pinned.features(condition).await?;
        let mut dropped = Vec::new();
        rows.retain(|row| {
            let complete = row.features.iter().all(|value| value.is_finite());
            if !complete {
                dropped.push(row.timestamp);
            }
            complete
        });
        // A digest and a forest are functions of the order of rows. Backfilled rows of two symbols may share an offset.
        rows.sort_unstable_by_key(|row| (row.partition, row.offset, row.symbol));
        Ok(Self { delta_version: pinned.version(), rows, dropped })
    }
}

/// Judges rows, on all threads of the rayon pool that it is called in.
#[must_use]
pub fn judge(model: &Model, rows: &[StoredFeatures]) -> Vec<Verdict> {
    let verdicts = rows.par_chunks(ROWS_PER_TASK).map(|rows| {
        let symbols: Vec<_> = rows.iter().map(|row| row.symbol).collect();
        let vectors: Vec<_> = rows.iter().map(|row| row.features).collect();
        model.verdicts(&symbols, &vectors)
    });
    verdicts.collect::<Vec<_>>().concat()
}

/// The digest of rows in their order: SHA-256 as 64 hexadecimal digits, over what a model and its metrics depend on.
///
/// Per row, little-endian: partition (4 bytes), offset (8), event time in us (8), features (5 times 8, IEEE 754), label
/// (1: 0 no, 1 yes, 2 none), then symbol and type of anomaly, each as its length (1) and its bytes.
#[must_use]
pub fn digest<'a>(rows: impl IntoIterator<Item = &'a StoredFeatures>) -> String {
    let mut digest = Sha256::new();
    for row in rows {
        digest.update(row.partition.to_le_bytes());
        digest.update(row.offset.to_le_bytes());
        digest.update(row.timestamp.micros().to_le_bytes());
        for value in row.features {
            digest.update(value.to_le_bytes());
        }
        digest.update([row.is_anomaly.map_or(2, u8::from)]);
        for text in [row.symbol.as_str(), row.anomaly_type.as_deref().unwrap_or_default()] {
            // Symbols have at most 31 bytes and types at most 64.
            digest.update([u8::try_from(text.len()).unwrap_or(u8::MAX)]);
            digest.update(text);
        }
    }
    format!("{:x}", digest.finalize())
}

/// The markets of rows, ascending, each once.
#[must_use]
pub fn symbols_of<'a>(rows: impl IntoIterator<Item = &'a StoredFeatures>) -> Vec<String> {
    let symbols: std::collections::BTreeSet<Symbol> = rows.into_iter().map(|row| row.symbol).collect();
    symbols.into_iter().map(|symbol| symbol.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{ErrorKind, Source};

    fn row() -> StoredFeatures {
        StoredFeatures {
            partition: 1,
            offset: 7,
            ingest_time: Timestamp::from_seconds(1_710_000_001),
            timestamp: Timestamp::from_seconds(1_710_000_000),
            symbol: Symbol::parse("BTC-USDT").unwrap(),
            features: [0.1, 0.2, 0.3, 0.4, 0.5],
            is_anomaly: Some(true),
            anomaly_type: Some("PRICE_SPIKE".into()),
            source: Source::Simulated,
        }
    }

    #[test]
    fn a_slice_is_written_as_a_condition() {
        let symbols = ["ETH-USDT", "BTC-USDT", "ETH-USDT"].map(|name| Symbol::parse(name).unwrap());
        let (from, to) = (Timestamp::from_seconds(1_710_000_000), Timestamp::from_micros(1_710_000_060_250_000));
        let slice = Slice::new(Some(from), Some(to), &symbols).unwrap();
        assert_eq!(
            slice.predicate(),
            "timestamp >= '2024-03-09T16:00:00Z' AND timestamp < '2024-03-09T16:01:00.250000Z' \
             AND symbol IN ('BTC-USDT', 'ETH-USDT')"
        );
        assert_eq!(Slice::default().predicate(), "TRUE");
        let incident = |from: i64, to: i64| Incident {
            from: Timestamp::from_seconds(from),
            to: Timestamp::from_seconds(to),
            reason: "outage".to_owned(),
        };
        let incidents = [incident(1_710_000_010, 1_710_000_020), incident(1_710_000_100, 1_710_000_200)];
        let without = Slice::new(Some(from), Some(to), &[]).unwrap().without(&incidents).unwrap();
        assert_eq!(
            without.predicate(),
            "timestamp >= '2024-03-09T16:00:00Z' AND timestamp < '2024-03-09T16:01:00.250000Z' \
             AND NOT (timestamp >= '2024-03-09T16:00:10Z' AND timestamp < '2024-03-09T16:00:20Z')"
        );
        assert!(Slice::default().without(&[incident(7, 7)]).is_err());
        assert_eq!(Slice::new(Some(to), Some(to), &[]).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[tokio::test]
    async fn the_newest_rows_begin_with_a_minute_and_fit() {
        let (_folder, workshop) = example::workshop().await;
        // Six minutes of 180 rows, then 40 s with 120.
        example::Market::calm().run(&workshop, 400).await;
        let after = |seconds: i64| example::START.plus_micros(seconds * 1_000_000);
        let from = async |most| workshop.newest_from(example::START, most).await.unwrap();
        assert_eq!(from(1_200).await, example::START);
        assert_eq!(from(1_199).await, after(60));
        assert_eq!(from(120).await, after(360));
        assert_eq!(from(1).await, after(360), "the newest minute in any case");
        assert_eq!(workshop.newest_from(after(390), 9_999).await.unwrap(), after(390));
        let rows = workshop.choose(&Slice::new(Some(after(360)), None, &[]).unwrap(), None).await.unwrap().rows.len();
        assert_eq!(rows, 120);
    }

    #[test]
    fn every_part_of_a_row_that_a_model_depends_on_changes_its_digest() {
        let changes: [fn(&mut StoredFeatures); 7] = [
            |row| row.partition = 2,
            |row| row.offset = 8,
            |row| row.timestamp = row.timestamp.plus_micros(1),
            |row| row.features[4] = row.features[4].next_up(),
            |row| row.is_anomaly = None,
            |row| row.anomaly_type = None,
            |row| row.symbol = Symbol::parse("ETH-USDT").unwrap(),
        ];
        let mut digests: Vec<String> = changes
            .iter()
            .map(|change| {
                let mut other = row();
                change(&mut other);
                digest([&other])
            })
            .collect();
        digests.push(digest([&row()]));
        digests.push(digest([&row(), &row()]));
        assert!(digests.iter().all(|text| text.len() == 64));
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), changes.len() + 2);
    }

    #[test]
    fn the_time_of_its_append_is_no_part_of_a_digest() {
        let later = StoredFeatures { ingest_time: Timestamp::from_seconds(1_720_000_000), ..row() };
        assert_eq!(digest([&later]), digest([&row()]));
    }
}

/// A workshop in a folder of its own, and a market that fills its tables as the stream job does.
#[cfg(test)]
pub(crate) mod example {
    use super::*;
    use domain::{Event, Fold, Output, RawRecord, Record};
    use lake::PartitionFlush;
    use streams::{SimulatedMarket, SimulatedSettings};
    use tempfile::TempDir;

    /// The event time of the first tick.
    pub(crate) const START: Timestamp = Timestamp::from_seconds(1_710_000_000);

    struct Noon;

    impl Clock for Noon {
        fn now(&self) -> Timestamp {
            START.plus_micros(86_400_000_000)
        }
    }

    pub(crate) async fn workshop() -> (TempDir, Workshop) {
        let folder = tempfile::tempdir().unwrap();
        let workshop = Workshop {
            lake: Arc::new(Lake::open(&folder.path().join("lake")).await.unwrap()),
            registry: Registry::open(&folder.path().join("registry.sqlite")).await.unwrap(),
            models_dir: folder.path().join("models"),
            clock: Arc::new(Noon),
        };
        (folder, workshop)
    }

    /// Three simulated symbols, one event per symbol and tick, all in partition 0.
    pub(crate) struct Market {
        events: SimulatedMarket,
        fold: Fold,
        labelled: bool,
        shaken: bool,
    }

    impl Market {
        /// One tick per second; 1 % of the events are in labelled episodes.
        pub(crate) fn labelled() -> Self {
            Self::new(7, 1_000_000, true)
        }

        /// The same market without labels.
        pub(crate) fn unlabelled() -> Self {
            Self::new(7, 1_000_000, false)
        }

        /// A market without labels in which nothing happens.
        pub(crate) fn calm() -> Self {
            let settings = SimulatedSettings::with_defaults(7, START).unwrap();
            Self::of(SimulatedSettings { anomaly_probability: 0.0, ..settings }, false)
        }

        pub(crate) fn new(seed: u64, interval_micros: i64, labelled: bool) -> Self {
            let settings = SimulatedSettings::with_defaults(seed, START).unwrap();
            Self::of(SimulatedSettings { interval_micros, ..settings }, labelled)
        }

        fn of(settings: SimulatedSettings, labelled: bool) -> Self {
            Self {
                events: SimulatedMarket::new(settings, None).unwrap(),
                fold: Fold::new(0, 0),
                labelled,
                shaken: false,
            }
        }

        /// From now on every fifth event trades thirty times as much.
        pub(crate) const fn shake(&mut self) {
            self.shaken = true;
        }

        /// Folds the next ticks and commits their rows.
        pub(crate) async fn run(&mut self, workshop: &Workshop, ticks: usize) {
            let start = self.fold.next();
            let mut output = Output::default();
            for event in (0..ticks).flat_map(|_| self.events.next_tick()).collect::<Vec<_>>() {
                self.apply(event, &mut output);
            }
            let (next, replay) = (self.fold.next(), self.fold.replay());
            let flush = PartitionFlush { partition: 0, start, next, replay, output, ..PartitionFlush::default() };
            workshop.lake.flush("topic", Arc::new(vec![flush])).await.unwrap();
        }

        fn apply(&mut self, mut event: Event, output: &mut Output) {
            if !self.labelled {
                (event.is_anomaly, event.anomaly_type) = (None, None);
            }
            if self.shaken && self.fold.next() % 5 == 0 {
                event.volume *= 30.0;
            }
            let append_time = event.timestamp.plus_micros(250_000);
            let raw = RawRecord { offset: self.fold.next(), append_time, key: b"", value: b"" };
            self.fold.apply(raw, Ok(Record::Event(event)), output);
        }
    }
}
