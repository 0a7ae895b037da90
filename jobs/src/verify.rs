//! Verify: folds `events` again and compares every derived value with what is stored, bit for bit; scores predictions
//! again with the models that made them, and raises alerts again from the predictions that are stored.
//!
//! Reads only. Versions are pinned at the start, `events` first, and derived rows beyond its progress are left out, so
//! that a stream job may go on meanwhile. Every table is held against the newest version of what it was made of: an alert
//! is one too many while a restore has taken its prediction away, until the stream job has filled that table again.

mod raised;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use domain::{
    AlertRow, FeatureRow, Offset, Partition, Prediction, RawRecord, Record, Symbol, Timestamp, WindowRow,
    admission::impossible_time,
};
use futures::{StreamExt, TryStreamExt, stream};
use lake::{
    Lake, TableName,
    compare::{Compared, Comparison, DIFFERENCES_TOLD, Derived, Difference, ScoreDigest, What, combined_digest},
    epochs::FreshStarts,
    lake::next_id,
    read::Pinned,
    truth::Extent,
};
use streams::{EventLog, ReadItem, codec, partition_of};

use crate::{
    active::ActiveModel,
    error::Error,
    library::Models,
    refold::{SymbolFold, wanted},
};
use raised::RaisedAgain;

/// Symbols verified side by side.
const SYMBOLS_AT_A_TIME: usize = 2;

/// Records of the log looked at together.
const LOG_RECORDS: usize = 50_000;

/// What is verified.
#[derive(Clone, Debug)]
pub struct VerifyRequest {
    /// Some of [`VERIFIABLE`].
    pub tables: Vec<TableName>,
    /// From this event time on.
    pub from: Option<Timestamp>,
    /// Before this event time.
    pub to: Option<Timestamp>,
    /// Only these; all, where empty.
    pub symbols: Vec<Symbol>,
}

/// What became of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableReport {
    /// The table.
    pub table: TableName,
    /// Its version.
    pub version: u64,
    /// What was compared and found.
    pub compared: Compared,
    /// SHA-256 of the values made again, by symbol, time and order of folding. Where they came from does not count, except
    /// that alerts are named by records.
    pub digest: String,
}

impl TableReport {
    /// Whether everything stored is what the events give.
    #[must_use]
    pub const fn is_equal(&self) -> bool {
        self.compared.differing == 0 && self.compared.missing == 0 && self.compared.extra == 0
    }
}

/// The tables that [`verify`] knows how to make again.
pub const VERIFIABLE: [TableName; 4] =
    [TableName::Features, TableName::Windows, TableName::Predictions, TableName::Alerts];

/// Verifies tables; `told` hears the rows compared so far.
///
/// # Errors
/// Where a table, the log's identity or a model cannot be read. A difference is no error.
pub async fn verify(
    lake: &Arc<Lake>,
    log: &dyn EventLog,
    models: &Models,
    request: &VerifyRequest,
    told: &(dyn Fn(u64) + Sync),
) -> Result<Vec<TableReport>, Error> {
    let pins = Arc::new(Pins::new(lake, request).await?);
    let mut checks = Vec::new();
    for symbol in wanted(&pins.events, &request.symbols).await? {
        let id = next_id(log.topic_id(), partition_of(symbol, log.partitions()));
        let next = pins.events.transaction(&id).await?.unwrap_or(0);
        let extent = Extent { from: request.from, to: request.to, next };
        checks.push(SymbolCheck { pins: pins.clone(), models: models.clone(), symbol, extent });
    }
    let tasks = checks.into_iter().map(|check| tokio::spawn(check.run()));
    let mut done = stream::iter(tasks).buffered(SYMBOLS_AT_A_TIME);
    let (mut parts, mut rows) = (Vec::new(), 0);
    while let Some(part) = done.next().await {
        let part = part??;
        rows += part.tables.iter().map(|(_, compared, _)| compared.rows).sum::<u64>();
        told(rows);
        parts.push(part);
    }
    Ok(request.tables.iter().map(|table| pins.report(*table, &parts)).collect())
}

/// The versions that are compared.
struct Pins {
    events: Pinned,
    late: Pinned,
    /// The tables that are asked for.
    wanted: Vec<TableName>,
    /// Those, and what alerts are made of.
    derived: HashMap<TableName, Pinned>,
}

impl Pins {
    async fn new(lake: &Lake, request: &VerifyRequest) -> Result<Self, Error> {
        let events = lake.pin(TableName::Events).await?;
        let late = lake.pin(TableName::LateEvents).await?;
        let wanted = request.tables.clone();
        let made_of = wanted.contains(&TableName::Alerts).then_some(TableName::Predictions);
        let mut derived = HashMap::new();
        for table in wanted.iter().copied().chain(made_of) {
            if let Entry::Vacant(unpinned) = derived.entry(table) {
                unpinned.insert(lake.pin(table).await?);
            }
        }
        Ok(Self { events, late, wanted, derived })
    }

    /// A table, where it is asked for.
    fn of(&self, table: TableName) -> Option<&Pinned> {
        self.derived.get(&table).filter(|_| self.wanted.contains(&table))
    }

    fn report(&self, table: TableName, parts: &[SymbolReport]) -> TableReport {
        let of_table = || parts.iter().flat_map(|part| part.tables.iter().map(|found| (part.symbol, found)));
        let of_table = || of_table().filter(|(_, (name, ..))| *name == table);
        let mut compared = Compared::default();
        for (_, (_, found, _)) in of_table() {
            compared.rows += found.rows;
            compared.differing += found.differing;
            compared.missing += found.missing;
            compared.extra += found.extra;
            compared.first.extend(found.first.iter().cloned());
        }
        compared.first.truncate(DIFFERENCES_TOLD);
        let digest = combined_digest(of_table().map(|(symbol, (_, _, digest))| (symbol, digest.as_slice())));
        TableReport { table, version: self.derived[&table].version(), compared, digest }
    }
}

/// One symbol, to be verified on a task of its own.
struct SymbolCheck {
    pins: Arc<Pins>,
    models: Models,
    symbol: Symbol,
    /// What is compared, up to the progress of the symbol's partition.
    extent: Extent,
}

struct SymbolReport {
    symbol: Symbol,
    tables: Vec<(TableName, Compared, Vec<u8>)>,
}

impl SymbolCheck {
    async fn run(self) -> Result<SymbolReport, Error> {
        let starts = self.pins.events.fresh_starts(&self.pins.late, self.symbol).await?;
        let mut tables = Vec::new();
        let folded = [TableName::Features, TableName::Windows];
        if folded.into_iter().any(|table| self.pins.of(table).is_some()) {
            tables.extend(self.fold_again(starts.clone()).await?);
        }
        if let Some(predictions) = self.pins.of(TableName::Predictions) {
            let (compared, digest) = self.score_again(predictions).await?;
            tables.push((TableName::Predictions, compared, digest));
        }
        if let Some(alerts) = self.pins.of(TableName::Alerts) {
            let (compared, digest) = self.raise_again(alerts, starts).await?;
            tables.push((TableName::Alerts, compared, digest));
        }
        Ok(SymbolReport { symbol: self.symbol, tables })
    }

    /// Folds the symbol's events again and compares features and windows on the way.
    async fn fold_again(&self, starts: FreshStarts) -> Result<Vec<(TableName, Compared, Vec<u8>)>, Error> {
        let mut fold = SymbolFold::begin(&self.pins.events, self.symbol, self.extent.clone(), starts).await?;
        let timeline = fold.timeline().clone();
        let mut features = self.comparison::<FeatureRow>(&timeline.starts).await?;
        let mut windows = self.comparison::<WindowRow>(&timeline.starts).await?;
        while let Some(made) = fold.next().await? {
            if let Some(features) = &mut features {
                features.next(&made.features, |_| true).await?;
            }
            if let Some(windows) = &mut windows {
                windows.next(&made.windows, |(key, row)| timeline.has_closed(row, key.epoch())).await?;
            }
        }
        let mut found = Vec::new();
        if let Some(features) = features {
            let (compared, digest) = features.end().await?;
            found.push((TableName::Features, compared, digest));
        }
        if let Some(windows) = windows {
            let (compared, digest) = windows.end().await?;
            found.push((TableName::Windows, compared, digest));
        }
        Ok(found)
    }

    async fn comparison<R: Derived>(&self, starts: &FreshStarts) -> Result<Option<Comparison>, Error> {
        let Some(stored) = self.pins.of(R::TABLE) else { return Ok(None) };
        Ok(Some(Comparison::begin::<R>(stored, self.symbol, &self.extent, starts).await?))
    }

    /// Scores stored feature vectors again with the models that are named beside them.
    async fn score_again(&self, predictions: &Pinned) -> Result<(Compared, Vec<u8>), Error> {
        let mut loaded = HashMap::<i64, Arc<ActiveModel>>::new();
        let mut compared = Compared::default();
        let mut digest = ScoreDigest::default();
        let mut rows = Box::pin(predictions.predictions_of(self.symbol, &self.extent, &FreshStarts::default()).await?);
        while let Some(batch) = rows.try_next().await? {
            self.models.load_makers(&batch, &mut loaded).await?;
            let models = loaded.clone();
            let (batch, again) = tokio::task::spawn_blocking(move || {
                let again = score(&batch, &models);
                (batch, again)
            })
            .await?;
            for (stored, (score, is_anomaly)) in batch.iter().zip(again) {
                compared.rows += 1;
                digest.add(stored.timestamp, score, is_anomaly);
                if (stored.anomaly_score.to_bits(), stored.is_anomaly) != (score.to_bits(), is_anomaly) {
                    compared.differing += 1;
                    if compared.first.len() < DIFFERENCES_TOLD {
                        compared.first.push(other_score(stored, score));
                    }
                }
            }
        }
        Ok((compared, digest.finish()))
    }

    /// Raises alerts again and compares them. Whatever part of the time is asked for, that begins with the symbol's first
    /// prediction: which alert an event belongs to depends on all alerts before it.
    async fn raise_again(&self, alerts: &Pinned, starts: FreshStarts) -> Result<(Compared, Vec<u8>), Error> {
        let mut comparison = Comparison::begin::<AlertRow>(alerts, self.symbol, &self.extent, &starts).await?;
        let all = Extent { next: self.extent.next, ..Extent::default() };
        let predictions = &self.pins.derived[&TableName::Predictions];
        let mut rows = Box::pin(predictions.predictions_of(self.symbol, &all, &starts).await?);
        let (mut again, mut loaded) = (RaisedAgain::new(starts), HashMap::new());
        loop {
            let batch = rows.try_next().await?;
            let ended = batch.is_none();
            let mut batch = batch.unwrap_or_default();
            // What was predicted about events older than the first model has raised nothing.
            batch.retain(|prediction| !prediction.in_sample);
            self.models.load_makers(&batch, &mut loaded).await?;
            let models = loaded.clone();
            let (later, mut made) = tokio::task::spawn_blocking(move || {
                let mut made = again.take(batch, &models);
                if ended {
                    made.extend(again.rest(&models));
                }
                (again, made)
            })
            .await?;
            again = later;
            made.retain(|(_, row)| self.extent.holds(row.timestamp));
            comparison.next(&made, |_| true).await?;
            if ended {
                return Ok(comparison.end().await?);
            }
        }
    }
}

fn other_score(stored: &Prediction, score: f64) -> Difference {
    Difference {
        table: TableName::Predictions,
        symbol: stored.symbol,
        time: stored.timestamp,
        offset: stored.offset,
        what: What::Value {
            column: "anomaly_score".to_owned(),
            stored: stored.anomaly_score.to_string(),
            made_again: score.to_string(),
        },
    }
}

/// The verdicts on stored vectors, in their order.
fn score(batch: &[Prediction], models: &HashMap<i64, Arc<ActiveModel>>) -> Vec<(f64, bool)> {
    let mut verdicts = Vec::with_capacity(batch.len());
    for run in batch.chunk_by(|one, next| one.model_version == next.model_version) {
        let symbols: Vec<_> = run.iter().map(|prediction| prediction.symbol).collect();
        let vectors: Vec<_> = run.iter().map(|prediction| prediction.features).collect();
        let judged = models[&run[0].model_version].model.verdicts(&symbols, &vectors);
        verdicts.extend(judged.into_iter().map(|verdict| (verdict.anomaly_score, verdict.is_anomaly)));
    }
    verdicts
}

/// What the log and the tables say about each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogReport {
    /// Records of the log that the tables have taken in.
    pub records: u64,
    /// Heartbeats and floors among them, which have no fate.
    pub control: u64,
    /// Records with no fate or more than one, or a control record with one.
    pub wrong: u64,
    /// The first of those, as (partition, offset, rows).
    pub first: Vec<(Partition, Offset, usize)>,
}

/// Proves that every record still in the log has exactly one fate in the tables.
///
/// # Errors
/// Where log or tables cannot be read.
pub async fn verify_log(lake: &Lake, log: &dyn EventLog) -> Result<LogReport, Error> {
    let events = lake.pin(TableName::Events).await?;
    let others = [lake.pin(TableName::LateEvents).await?, lake.pin(TableName::DeadLetters).await?];
    let mut report = LogReport::default();
    for partition in 0..log.partitions() {
        let end = events.transaction(&next_id(log.topic_id(), partition)).await?.unwrap_or(0);
        let mut at = log.first_offset(partition).await?;
        while at < end {
            let items = log.read(partition, at, LOG_RECORDS).await?;
            let Some(next) = items.last().map(|item| item.end().min(end)) else { break };
            let mut rows = events.offsets(partition, at..next).await?;
            for table in &others {
                rows.extend(table.offsets(partition, at..next).await?);
            }
            rows.sort_unstable();
            report = tokio::task::spawn_blocking(move || report.with_records(items, next, &rows)).await?;
            at = next;
        }
    }
    Ok(report)
}

impl LogReport {
    /// Adds the records below `end`; `rows` are the offsets that have rows, ascending.
    fn with_records(mut self, items: Vec<ReadItem>, end: Offset, rows: &[Offset]) -> Self {
        for item in items {
            let ReadItem::Batch(mut batch) = item else { continue };
            batch.truncate_at(end);
            for record in batch.records() {
                let is_control = is_control(record);
                let from = rows.partition_point(|row| *row < record.offset);
                let found = rows[from..].iter().take_while(|row| **row == record.offset).count();
                self.records += 1;
                self.control += u64::from(is_control);
                if found != usize::from(!is_control) {
                    self.wrong += 1;
                    if self.first.len() < DIFFERENCES_TOLD {
                        self.first.push((batch.partition(), record.offset, found));
                    }
                }
            }
        }
        self
    }
}

/// Whether a record is a heartbeat or a floor, with a possible time.
fn is_control(record: RawRecord<'_>) -> bool {
    match codec::decode(record.key, record.value) {
        Ok(Record::Event(_)) | Err(_) => false,
        Ok(control) => impossible_time(control.timestamp(), record.append_time).is_none(),
    }
}

#[cfg(test)]
mod tests;
