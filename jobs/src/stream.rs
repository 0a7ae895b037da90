//! The stream job: reads the log, folds it, scores the features and commits the rows, exactly once.
//!
//! One lane per partition. Lanes fold side by side while the batch before is being committed. The only progress is
//! the one in the tables: a restart rebuilds each lane's state silently and goes on. Transient failures of the lake
//! are retried until they pass and shown as the stream's trouble; nothing is dropped meanwhile, reading just waits.

mod lag;
mod lane;
mod repair;
mod scorer;
mod silent;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use domain::{Clock, ErrorKind, FateCounts, Offset, Partition, Probe, probe::Point};
use futures::future::{select_all, try_join_all};
use lake::{FlushSummary, Lake, PartitionFlush, TableName, registry::Registry};
use streams::{EventLog, ReadItem};
use tokio::{sync::mpsc, sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, field::Empty, info, info_span, warn};

use crate::{
    active::ActiveModel,
    error::Error,
    feed::{Feed, Origin},
    library::Models,
    metrics::{Metrics, Operation},
    spans::SPANS,
};
use lag::Lag;
use lane::{Folded, Lane};

pub use silent::{fates, replaying_folds};

/// Records read from one partition at a time.
const READ_RECORDS: usize = 20_000;

/// The pause after a log could not be read.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause between two attempts to read or to commit.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(30);

/// When pending rows are committed: whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushPolicy {
    /// Age of the oldest pending row.
    pub interval: Duration,
    /// Events.
    pub rows: usize,
    /// Bytes of records.
    pub bytes: usize,
}

impl Default for FlushPolicy {
    /// 5 s, 50 000 rows, 16 MiB.
    fn default() -> Self {
        Self { interval: Duration::from_secs(5), rows: 50_000, bytes: 16 << 20 }
    }
}

/// When the job ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Never: it ends when it is told to.
    Cancelled,
    /// Once it has committed everything that is in the log.
    EndOfLog,
}

/// What the job works with.
#[derive(Clone)]
pub struct StreamParts {
    /// Where records come from.
    pub log: Arc<dyn EventLog>,
    /// Where rows go.
    pub lake: Arc<Lake>,
    /// Which model scores from where.
    pub registry: Registry,
    /// Loads the models named there.
    pub models: Models,
    /// The model that scores new rows.
    pub champion: watch::Receiver<Option<Arc<ActiveModel>>>,
    /// Told about every prediction before it is committed.
    pub feed: Arc<Feed>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What others may see of the job.
    pub state: Arc<StreamState>,
    /// The time of assignments and gaps.
    pub clock: Arc<dyn Clock>,
    /// Told what is reached.
    pub probe: Arc<dyn Probe>,
}

/// What others may see of a running job.
#[derive(Debug, Default)]
pub struct StreamState {
    unread: Mutex<Option<String>>,
    uncommitted: Mutex<Option<String>>,
}

impl StreamState {
    /// Why the log cannot be read, as a sentence; `None` where it can.
    #[must_use]
    pub fn unread(&self) -> Option<String> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why commits wait, as a sentence; `None` where they do not.
    #[must_use]
    pub fn uncommitted(&self) -> Option<String> {
        self.uncommitted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_unread(&self, why: Option<String>) {
        *self.unread.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    fn set_uncommitted(&self, why: Option<String>) {
        *self.uncommitted.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

/// What a run of the job did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamReport {
    /// Records folded, by their fate.
    pub fates: FateCounts,
    /// Predictions made.
    pub predictions: u64,
}

/// Runs the job over `partitions` until it is cancelled, or at the end of the log.
///
/// # Errors
/// Where the log is not the one that the tables were made from, or a part fails for good.
pub async fn run(
    parts: StreamParts,
    partitions: &[Partition],
    policy: FlushPolicy,
    until: Until,
    cancel: CancellationToken,
) -> Result<StreamReport, Error> {
    repair::repair(&parts, partitions, policy).await?;
    let mut lanes = Vec::new();
    for partition in partitions {
        lanes.push(Lane::restore(&parts, *partition).await?);
    }
    let (flushes, committer) = start_committer(&parts, cancel.clone());
    let (lag, report) = (Lag::default(), StreamReport::default());
    let mut job = Job { parts, lanes, policy, flushes, oldest: None, lag, report };
    let folded = job.fold_all(until, &cancel).await;
    let Job { flushes, report, .. } = job;
    drop(flushes);
    // The committer's own failure is the cause of whatever the fold met.
    committer.await??;
    folded?;
    Ok(report)
}

/// Whether the job goes on.
enum Next {
    GoOn,
    Ended,
}

struct Job {
    parts: StreamParts,
    lanes: Vec<Lane>,
    policy: FlushPolicy,
    flushes: mpsc::Sender<Vec<PartitionFlush>>,
    /// When the oldest pending row was folded.
    oldest: Option<Instant>,
    lag: Lag,
    report: StreamReport,
}

impl Job {
    async fn fold_all(&mut self, until: Until, cancel: &CancellationToken) -> Result<(), Error> {
        let mut pause = FIRST_RETRY_PAUSE;
        loop {
            match self.fold_next(until, cancel).await {
                Ok(Next::Ended) => return Ok(()),
                Ok(Next::GoOn) => {
                    if pause > FIRST_RETRY_PAUSE {
                        info!("the log is read again");
                        self.parts.state.set_unread(None);
                        self.parts.metrics.goes_on(Operation::Read);
                        pause = FIRST_RETRY_PAUSE;
                    }
                }
                Err(Error::Streams(error)) if error.kind() == ErrorKind::Unavailable && until == Until::Cancelled => {
                    if cancel.is_cancelled() {
                        self.flush().await;
                        return Ok(());
                    }
                    let cause =
                        std::error::Error::source(&error).map(|cause| format!(" ({cause})")).unwrap_or_default();
                    warn!(%error, cause, pause_ms = pause.as_millis(), "waits until the log can be read again");
                    self.parts.state.set_unread(Some(format!("{error}{cause}")));
                    self.parts.metrics.waits(Operation::Read);
                    if self.is_due() && !self.flush().await {
                        return Ok(());
                    }
                    tokio::select! { () = tokio::time::sleep(pause) => {}, () = cancel.cancelled() => {} }
                    pause = (pause * 2).min(MAX_RETRY_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads, folds and hands on what there is, and waits where there is nothing.
    async fn fold_next(&mut self, until: Until, cancel: &CancellationToken) -> Result<Next, Error> {
        self.adopt_champion().await?;
        let reads = self.read().await?;
        let idle = reads.iter().all(Vec::is_empty);
        if idle {
            self.lag.caught_up(&self.parts, &self.lanes);
        } else {
            self.fold(reads).await?;
            self.lag.look(&self.parts, &self.lanes).await;
        }
        if cancel.is_cancelled() || (idle && until == Until::EndOfLog) {
            self.flush().await;
            return Ok(Next::Ended);
        }
        if self.is_due() && !self.flush().await {
            return Ok(Next::Ended);
        }
        if idle {
            self.wait(cancel).await?;
        }
        Ok(Next::GoOn)
    }

    /// Lets a new champion score from each lane's next offset on.
    async fn adopt_champion(&mut self) -> Result<(), Error> {
        let champion = self.parts.champion.borrow_and_update().clone();
        let Some(champion) = champion else { return Ok(()) };
        for lane in &mut self.lanes {
            lane.adopt(&self.parts, &champion).await?;
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<Vec<Vec<ReadItem>>, Error> {
        let log = &self.parts.log;
        let records = READ_RECORDS.min(self.policy.rows);
        let reads = self.lanes.iter().map(|lane| log.read(lane.partition(), lane.next(), records));
        let mut reads = try_join_all(reads).await?;
        for (items, lane) in reads.iter_mut().zip(&self.lanes) {
            // The log gives whole stored batches; a flush shall not be larger than its policy for that.
            cut(items, lane.next() + Offset::try_from(records).unwrap_or(Offset::MAX));
        }
        Ok(reads)
    }

    /// Folds and scores on the blocking threads, one lane each.
    async fn fold(&mut self, reads: Vec<Vec<ReadItem>>) -> Result<(), Error> {
        let now = self.parts.clock.now();
        let lanes = std::mem::take(&mut self.lanes);
        let tasks = lanes.into_iter().zip(reads).map(|(mut lane, items)| {
            tokio::task::spawn_blocking(move || {
                let folded = lane.fold(items, now);
                (lane, folded)
            })
        });
        for (lane, Folded { fates, scoring }) in try_join_all(tasks).await? {
            self.report.fates.add(&fates);
            self.parts.metrics.records_folded(&fates);
            if let Some(time) = scoring {
                self.parts.metrics.scored(time.as_secs_f64());
            }
            let fresh = lane.unpublished();
            self.parts.feed.push_live(lane.unpublished_items());
            self.lag.published(&self.parts, fresh);
            let alerts = lane.unpublished_alerts();
            self.parts.feed.push_alerts(alerts);
            self.parts.metrics.alerted(alerts);
            let anomalies = fresh.iter().filter(|prediction| prediction.is_anomaly).count();
            self.parts.metrics.predicted(Origin::Live, fresh.len() as u64, anomalies as u64);
            self.report.predictions += fresh.len() as u64;
            self.lanes.push(lane);
        }
        for lane in &mut self.lanes {
            lane.mark_published();
        }
        self.oldest.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn is_due(&self) -> bool {
        let pending = self.lanes.iter().map(Lane::pending_events).sum::<usize>();
        let bytes = self.lanes.iter().map(Lane::pending_bytes).sum::<usize>();
        let age = self.oldest.map_or(Duration::ZERO, |oldest| oldest.elapsed());
        age >= self.policy.interval || pending >= self.policy.rows || bytes >= self.policy.bytes
    }

    /// Hands what is pending to the committer; false where that has ended.
    async fn flush(&mut self) -> bool {
        self.oldest = None;
        let pending: Vec<_> = self.lanes.iter_mut().filter_map(Lane::take_pending).collect();
        pending.is_empty() || self.flushes.send(pending).await.is_ok()
    }

    /// Waits for records, a new champion, the next flush or the end.
    async fn wait(&mut self, cancel: &CancellationToken) -> Result<(), Error> {
        let log = self.parts.log.clone();
        let records = select_all(self.lanes.iter().map(|lane| log.wait_beyond(lane.partition(), lane.next())));
        let flush = self.oldest.map(|oldest| oldest + self.policy.interval);
        tokio::select! {
            (waited, _, _) = records => waited?,
            () = tokio::time::sleep_until(flush.unwrap_or_else(Instant::now)), if flush.is_some() => {}
            changed = self.parts.champion.changed() => if changed.is_err() {
                // Nobody can name a champion any more: wait for the rest only.
                self.parts.champion = never_changing(&self.parts.champion);
            },
            () = self.flushes.closed() => {}
            () = cancel.cancelled() => {}
        }
        Ok(())
    }
}

/// Leaves what lies below `end`.
fn cut(items: &mut Vec<ReadItem>, end: Offset) {
    items.retain(|item| item.start() < end);
    if let Some(ReadItem::Batch(batch)) = items.last_mut() {
        batch.truncate_at(end);
    }
}

/// A receiver of the same value whose sender never leaves.
fn never_changing<T: Clone + Send + Sync + 'static>(receiver: &watch::Receiver<T>) -> watch::Receiver<T> {
    let (sender, receiver) = watch::channel(receiver.borrow().clone());
    std::mem::forget(sender);
    receiver
}

fn start_committer(
    parts: &StreamParts,
    cancel: CancellationToken,
) -> (mpsc::Sender<Vec<PartitionFlush>>, JoinHandle<Result<(), Error>>) {
    let (sender, mut receiver) = mpsc::channel::<Vec<PartitionFlush>>(1);
    let parts = parts.clone();
    let task = tokio::spawn(async move {
        while let Some(flush) = receiver.recv().await {
            commit(&parts, Arc::new(flush), &cancel).await?;
            parts.probe.reached(Point::BeforeNext);
        }
        Ok(())
    });
    (sender, task)
}

/// Commits a flush; waits out what may pass. When the job is told to end, one more attempt is made and no other.
async fn commit(parts: &StreamParts, flush: Arc<Vec<PartitionFlush>>, cancel: &CancellationToken) -> Result<(), Error> {
    let mut pause = Duration::from_secs(1);
    loop {
        let last_attempt = cancel.is_cancelled();
        let started = Instant::now();
        match flush_once(parts, &flush).await {
            Ok(summary) => {
                let seconds = started.elapsed().as_secs_f64();
                for (table, rows) in summary.rows.iter().filter(|(_, rows)| *rows > 0) {
                    parts.metrics.committed(table.as_str(), *rows as u64, seconds);
                }
                let events = summary.of(TableName::Events);
                parts.state.set_uncommitted(None);
                parts.metrics.goes_on(Operation::Commit);
                tracing::debug!(events, elapsed_ms = started.elapsed().as_millis(), "committed a flush");
                return Ok(());
            }
            Err(error) if error.kind().is_transient() && !last_attempt => {
                let cause = std::error::Error::source(&error).map(|source| format!(" ({source})")).unwrap_or_default();
                warn!(%error, cause, pause_s = pause.as_secs(), "rows wait in memory and in the log until they can be committed");
                parts.state.set_uncommitted(Some(format!("{error}{cause}")));
                parts.metrics.waits(Operation::Commit);
                tokio::select! { () = tokio::time::sleep(pause) => {}, () = cancel.cancelled() => {} }
                pause = (pause * 2).min(MAX_RETRY_PAUSE);
            }
            Err(error) => {
                parts.state.set_uncommitted(Some(error.to_string()));
                return Err(error.into());
            }
        }
    }
}

/// One attempt, with a span.
async fn flush_once(parts: &StreamParts, flush: &Arc<Vec<PartitionFlush>>) -> Result<FlushSummary, lake::Error> {
    let span = info_span!(target: SPANS, "flush", partitions = flush.len(), events = Empty, otel.status_code = Empty);
    let flushed = parts.lake.flush(parts.log.topic_id(), flush.clone()).instrument(span.clone()).await;
    match &flushed {
        Ok(summary) => span.record("events", summary.of(TableName::Events)),
        Err(_) => span.record("otel.status_code", "ERROR"),
    };
    flushed
}

/// What each partition has committed and what the log holds, for status lines: (partition, next, end).
///
/// # Errors
/// Where log or lake cannot be read.
pub async fn positions(log: &dyn EventLog, lake: &Lake) -> Result<Vec<(Partition, Offset, Offset)>, Error> {
    let mut positions = Vec::new();
    for partition in 0..log.partitions() {
        let next = lake.progress(log.topic_id(), partition).await?.next;
        positions.push((partition, next, log.end_offset(partition).await?));
    }
    Ok(positions)
}

/// Logs where the job goes on.
fn announce(partition: Partition, next: Offset, replay: Offset) {
    if next > 0 {
        info!(partition, next, rebuilt_from = replay, "goes on where the tables end");
    }
}
