//! Ingest: moves what a source gives into the log, batch by batch, each together with the source's position.
//!
//! An interrupted source goes on where the log says it ended, a finished file is reported and not read again. What
//! may pass (a full disk, a busy file) is waited out; nothing that was acknowledged is lost, nothing comes twice.
//! A live source has no position: it goes on with what comes, and what came twice is found out by its trade id. What
//! clients post is appended before they are answered; waiting is theirs.

mod binance;
mod connections;
mod posted;

use std::{
    collections::BTreeSet,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use domain::{
    Clock, Heartbeat, Kind, Offset, Partition, Probe, Record, Symbol, Timestamp, admission::ALLOWED_LATENESS_MICROS,
    probe::Point, time::MICROS, windows::WINDOW_MICROS,
};
use streams::{
    AppendBatch, AppendOutcome, EventLog, NewRecord, Pace, SimulatedMarket, SimulatedSettings, SourcePosition,
    SourceStep, codec,
    files::{FileBatch, FileSource},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    error::Error,
    metrics::{Metrics, Operation},
};

pub use binance::{FrameCounts, binance};
pub use posted::{
    IdempotencyKey, Intake, KeyError, MAX_KEY_BYTES, MAX_POSTED, Refusal, RefusedLine, RefusedLines, TOLD_REFUSED,
    Taken,
};

use connections::Connections;

/// Records of one append at full speed.
const BATCH_RECORDS: usize = 10_000;

/// Event time that one append spans at a recorded pace.
const PACED_SPAN_MICROS: i64 = MICROS / 4;

/// A symbol silent for this long gets a heartbeat.
const HEARTBEAT_AFTER_MICROS: i64 = 5 * MICROS;

/// The longest pause between two attempts to append.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(30);

/// What ingest works with.
#[derive(Clone)]
pub struct IngestParts {
    /// Where records go.
    pub log: Arc<dyn EventLog>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What others may see of the job.
    pub state: Arc<IngestState>,
    /// The present, which no simulated event runs ahead of.
    pub clock: Arc<dyn Clock>,
    /// Told what is reached.
    pub probe: Arc<dyn Probe>,
}

/// What others may see of a running ingest.
#[derive(Debug, Default)]
pub struct IngestState {
    appended: AtomicU64,
    trouble: Mutex<Option<String>>,
    /// Of a live source.
    connections: Mutex<Option<Connections>>,
}

impl IngestState {
    /// Records appended by this run.
    #[must_use]
    pub fn appended(&self) -> u64 {
        self.appended.load(Ordering::Relaxed)
    }

    /// Why appends wait, or why a live source is not connected, as a sentence; `None` where all is well.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let waits = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        waits.or_else(|| self.connections().as_ref().and_then(Connections::trouble))
    }

    /// What a live source is connected to, as a sentence; `None` for other sources, and while there is trouble.
    #[must_use]
    pub fn connected(&self) -> Option<String> {
        let connections = self.connections();
        connections.as_ref().filter(|connections| connections.trouble().is_none()).map(ToString::to_string)
    }

    fn connections(&self) -> MutexGuard<'_, Option<Connections>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// The offsets that records were given.
pub type Appended = Vec<(Partition, Range<Offset>)>;

/// What a run of the job did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngestReport {
    /// Records appended.
    pub records: u64,
    /// Where the records of files lie in the log, in the order of their appends; of other sources nothing is noted.
    pub appended: Appended,
    /// Frames of another stream than `trade`.
    pub skipped: u64,
    /// Lines and frames that could not be read, appended as they are for the dead letters.
    pub undecoded: u64,
    /// Files that were ingested before.
    pub files_known: u64,
}

impl IngestReport {
    /// Notes an append; offsets that follow each other become one range.
    fn note(&mut self, appended: Appended) {
        for (partition, range) in appended {
            self.records += range.end.abs_diff(range.start);
            match self.appended.iter_mut().rev().find(|(known, _)| *known == partition) {
                Some((_, last)) if last.end == range.start => last.end = range.end,
                _ => self.appended.push((partition, range)),
            }
        }
    }
}

/// How a simulated market runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SimulatedRun {
    /// Ends after so many events over the whole life of the market; never, where absent.
    pub events: Option<u64>,
    /// Times the real pace; 0 = as fast as possible. Event time never runs ahead of the clock.
    pub speed: f64,
}

/// Runs a simulated market from where the log says it stands. `caught_up` is called once event time has reached the
/// clock, or the last event is appended; until then `progress` is told (events appended, events behind the clock).
///
/// # Errors
/// Where settings are outside their limits or the log fails for good.
pub async fn simulated(
    parts: &IngestParts,
    settings: SimulatedSettings,
    run: SimulatedRun,
    cancel: &CancellationToken,
    progress: &(dyn Fn(u64, u64) + Sync),
    caught_up: impl FnOnce() + Send,
) -> Result<IngestReport, Error> {
    let mut caught_up = Some(caught_up);
    let interval = settings.interval_micros;
    let per_tick = settings.symbols.len() as u64;
    let source_id = SimulatedMarket::new(settings.clone(), None)?.source_id().to_owned();
    let mut known = parts.log.position(&source_id).await?;
    let resume = known.as_ref().map(|stored| stored.position.clone());
    let mut market = SimulatedMarket::new(settings, resume.as_deref())?;
    let (mut pace, start) = (Pace::new(run.speed)?, Instant::now());
    let mut report = IngestReport::default();
    let behind = parts.clock.now().micros().saturating_sub(market.next_time().micros()).max(0) / interval + 1;
    let behind = behind.unsigned_abs().saturating_mul(per_tick);
    while !cancel.is_cancelled() {
        let batch =
            simulated_batch(&mut market, &mut pace, start.elapsed(), parts.clock.now(), run.events, per_tick, interval);
        let finished = run.events.is_some_and(|events| market.tick() * per_tick >= events);
        if !batch.is_empty() {
            let next = SourcePosition { source_id: source_id.clone(), position: market.position(), finished };
            let source = Some(SourceStep { expected: known.map(|stored| stored.position), next: next.clone() });
            report.records += batch.len() as u64;
            append(parts, AppendBatch { records: batch, kind: Kind::Simulated, source }, cancel).await?;
            known = Some(next);
            if caught_up.is_some() {
                progress(report.records, behind.min(run.events.unwrap_or(behind)));
            }
        }
        if finished {
            break;
        }
        let now = parts.clock.now();
        if market.next_time() <= now && pace.is_full_speed() {
            continue;
        }
        if market.next_time() > now
            && let Some(caught_up) = caught_up.take()
        {
            caught_up();
        }
        let paced = pace.due(market.next_time()).saturating_sub(start.elapsed());
        let ahead = market.next_time().micros().saturating_sub(now.micros());
        let wait = paced.max(Duration::from_micros(ahead.max(0).unsigned_abs()));
        tokio::select! { () = tokio::time::sleep(wait) => {}, () = cancel.cancelled() => {} }
    }
    if let Some(caught_up) = caught_up {
        caught_up();
    }
    Ok(report)
}

/// The ticks that are due, up to a batch.
fn simulated_batch(
    market: &mut SimulatedMarket,
    pace: &mut Pace,
    elapsed: Duration,
    now: Timestamp,
    events: Option<u64>,
    per_tick: u64,
    interval: i64,
) -> Vec<NewRecord> {
    let mut records = Vec::new();
    while records.len() < BATCH_RECORDS
        && market.next_time() <= now
        && pace.due(market.next_time()) <= elapsed
        && events.is_none_or(|events| market.tick() * per_tick < events)
    {
        let time = market.next_time();
        for event in market.next_tick() {
            if interval > HEARTBEAT_AFTER_MICROS && market.tick() > 1 {
                let alive = time.plus_micros(HEARTBEAT_AFTER_MICROS - interval);
                records.push(encoded(&Record::Heartbeat(Heartbeat { timestamp: alive, symbol: event.symbol })));
            }
            records.push(encoded(&Record::Event(event)));
        }
    }
    records
}

/// Ingests files one after another. `progress` is told (file, bytes read, bytes in all).
///
/// # Errors
/// Where a file cannot be read or the log fails for good.
pub async fn files(
    parts: &IngestParts,
    paths: &[PathBuf],
    speed: f64,
    close_windows: bool,
    cancel: &CancellationToken,
    progress: &(dyn Fn(&Path, u64, u64) + Sync),
) -> Result<IngestReport, Error> {
    let mut report = IngestReport::default();
    let mut seen = Seen::default();
    for path in paths {
        file(parts, path, speed, cancel, progress, &mut seen, &mut report).await?;
    }
    if close_windows && !cancel.is_cancelled() {
        report.note(seen.close_windows(parts, cancel).await?);
    }
    Ok(report)
}

/// The symbols met and the latest event time.
#[derive(Default)]
struct Seen {
    symbols: BTreeSet<Symbol>,
    latest: Option<Timestamp>,
    kind: Option<Kind>,
}

impl Seen {
    fn note(&mut self, batch: &FileBatch) {
        self.kind = Some(batch.kind);
        let Some((_, latest)) = batch.event_times else { return };
        self.latest = self.latest.max(Some(latest));
        self.symbols
            .extend(batch.records.iter().map(|record| record.key).filter(|key| *key != streams::log::unknown_key()));
    }

    /// Appends heartbeats that move every symbol's watermark past its last window.
    async fn close_windows(&self, parts: &IngestParts, cancel: &CancellationToken) -> Result<Appended, Error> {
        let (Some(latest), Some(kind)) = (self.latest, self.kind) else { return Ok(Appended::new()) };
        let end = (latest.span(WINDOW_MICROS) + 1) * WINDOW_MICROS;
        let timestamp = Timestamp::from_micros(end + ALLOWED_LATENESS_MICROS);
        let heartbeat = |symbol: &Symbol| encoded(&Record::Heartbeat(Heartbeat { timestamp, symbol: *symbol }));
        let records = self.symbols.iter().map(heartbeat).collect();
        append(parts, AppendBatch { records, kind, source: None }, cancel).await
    }
}

async fn file(
    parts: &IngestParts,
    path: &Path,
    speed: f64,
    cancel: &CancellationToken,
    progress: &(dyn Fn(&Path, u64, u64) + Sync),
    seen: &mut Seen,
    report: &mut IngestReport,
) -> Result<(), Error> {
    let (mut source, mut known) = open(parts, path).await?;
    if known.as_ref().is_some_and(|stored| stored.finished) {
        info!(path = %path.display(), "already ingested");
        report.files_known += 1;
        return Ok(());
    }
    let (mut pace, start) = (Pace::new(speed)?, Instant::now());
    let span = if pace.is_full_speed() { i64::MAX } else { PACED_SPAN_MICROS };
    while !cancel.is_cancelled() {
        let (returned, batch) = tokio::task::spawn_blocking(move || {
            let batch = source.next_batch_within(BATCH_RECORDS, span);
            (source, batch)
        })
        .await?;
        source = returned;
        let Some(batch) = batch? else { break };
        if let Some((first, _)) = batch.event_times {
            let wait = pace.due(first).saturating_sub(start.elapsed());
            tokio::select! { biased; () = cancel.cancelled() => break, () = tokio::time::sleep(wait) => {} }
        }
        seen.note(&batch);
        report.skipped += batch.skipped;
        report.undecoded += batch.undecoded;
        let next = batch.position.clone();
        report.note(append(parts, batch.into_append(known.map(|stored| stored.position)), cancel).await?);
        known = Some(next);
        let (read, total) = source.progress();
        progress(path, read, total);
    }
    Ok(())
}

/// Opens a file where the log says it stands.
async fn open(parts: &IngestParts, path: &Path) -> Result<(FileSource, Option<SourcePosition>), Error> {
    let read = |resume: Option<String>| {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || FileSource::open(&path, resume.as_deref()))
    };
    let fresh = read(None).await??;
    let Some(known) = parts.log.position(fresh.source_id()).await? else { return Ok((fresh, None)) };
    let resumed = if known.finished { fresh } else { read(Some(known.position.clone())).await?? };
    Ok((resumed, Some(known)))
}

/// Appends a batch; waits out what may pass until the job is cancelled. Nothing is given for a batch that an attempt
/// before had appended.
async fn append(parts: &IngestParts, batch: AppendBatch, cancel: &CancellationToken) -> Result<Appended, Error> {
    let mut pause = Duration::from_millis(200);
    loop {
        match parts.log.append(batch.clone()).await {
            Ok(outcome) => {
                parts.state.set_trouble(None);
                parts.metrics.goes_on(Operation::Append);
                let AppendOutcome::Appended(appended) = outcome else { return Ok(Appended::new()) };
                parts.metrics.events_logged(batch.records.len() as u64);
                parts.metrics.bytes_logged(batch.value_bytes());
                parts.state.appended.fetch_add(batch.records.len() as u64, Ordering::Relaxed);
                parts.probe.reached(Point::Appended);
                return Ok(appended);
            }
            Err(error) if error.kind() == domain::ErrorKind::Unavailable && !cancel.is_cancelled() => {
                warn!(%error, pause_ms = pause.as_millis(), "ingest waits until the log takes records again");
                parts.state.set_trouble(Some(error.to_string()));
                parts.metrics.waits(Operation::Append);
                tokio::select! { () = tokio::time::sleep(pause) => {}, () = cancel.cancelled() => {} }
                pause = (pause * 2).min(MAX_RETRY_PAUSE);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn encoded(record: &Record) -> NewRecord {
    let mut value = Vec::with_capacity(192);
    codec::encode(record, &mut value);
    NewRecord { key: record.symbol(), value }
}
