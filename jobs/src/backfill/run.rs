//! A run of a backfill: its slices are done one by one, by whoever holds its lease, and booked in the store.
//!
//! Symbols are done side by side, the slices of one in the order of time. A run may be stopped anywhere: what a slice has
//! committed stays, and resuming it does what is missing. The lease is kept by beats of its own; who has lost it ends.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use domain::{Clock, Symbol, Timestamp};
use futures::{StreamExt, stream};
use scheduler::{Beat, Claimed, Lease, NewRun, NewSlice, RunEnd, RunId, SliceEnd, SliceState, Store};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    BackfillParts, BackfillRequest, JOB, OnError,
    plan::{Ground, Plan, Settled},
    scan::{Grade, Scan},
    slice::SliceJob,
};
use crate::error::Error;

/// How long a lease lasts without a beat.
const LEASE: Duration = Duration::from_secs(30);

/// How often a beat is sent; what asks a run to end is heard with the next one.
const BEAT: Duration = Duration::from_secs(2);

/// What a run was asked for, and the archives as they were then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// What was asked for.
    pub request: BackfillRequest,
    /// The digest of the plan.
    pub plan: String,
    /// Files with their sizes and times of change.
    pub files: Vec<FileSpec>,
}

/// A file as it was when the run was planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSpec {
    /// Its path.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// When it was changed, in microseconds.
    pub modified_us: i64,
}

/// A slice as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceSpec {
    /// The market.
    pub symbol: String,
    /// The first instant, in microseconds.
    pub from_us: i64,
    /// The instant after the last one, in microseconds.
    pub to_us: i64,
    /// What its rows are.
    pub grade: String,
    /// Archived rows.
    pub rows: u64,
}

/// What became of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunReport {
    /// Slices that are done.
    pub succeeded: u64,
    /// Slices that failed, each with the reason.
    pub failed: Vec<(String, String)>,
    /// Slices that were not begun or not ended.
    pub left: u64,
    /// Rows that were not stored before.
    pub added: u64,
    /// Whether it was cancelled for good.
    pub cancelled: bool,
    /// Whether another process has taken it over.
    pub lost: bool,
}

/// The files of a scan as a run keeps them.
#[must_use]
pub fn files_of(scan: &Scan) -> Vec<FileSpec> {
    let spec = |file: &Arc<lake::archive::ArchiveFile>| FileSpec {
        path: file.path().display().to_string(),
        bytes: file.bytes(),
        modified_us: file.modified().map_or(0, Timestamp::micros),
    };
    scan.files.iter().map(spec).collect()
}

/// Keeps a run of a plan's due slices in the store.
///
/// # Errors
/// Where the store cannot be written.
pub async fn create(parts: &BackfillParts, request: &BackfillRequest, plan: &Plan) -> Result<RunId, Error> {
    let spec = RunSpec { request: request.clone(), plan: plan.digest(), files: files_of(&plan.scan) };
    let due = plan.slices.iter().filter(|slice| slice.action.is_due());
    let slices = due.map(|slice| {
        let spec = SliceSpec {
            symbol: slice.symbol.to_string(),
            from_us: slice.range.start.micros(),
            to_us: slice.range.end.micros(),
            grade: slice.grade.as_str().to_owned(),
            rows: slice.rows,
        };
        NewSlice { name: slice.name(), spec: json!(spec) }
    });
    let run = NewRun { job: JOB.to_owned(), spec: json!(spec), slices: slices.collect(), idempotency_key: None };
    Ok(parts.store.create(&run, parts.clock.now()).await?)
}

/// What a kept run was asked for; refused, where it is no backfill.
///
/// # Errors
/// Where there is no such run, or it cannot be read.
pub async fn spec_of(store: &Store, id: RunId) -> Result<RunSpec, Error> {
    let run = store.run(id).await?;
    if run.job != JOB {
        return Err(Error::Invalid(format!("run {id} is no backfill but a `{}`", run.job)));
    }
    serde_json::from_value(run.spec).map_err(|error| unreadable(id, &error))
}

fn unreadable(id: RunId, error: &serde_json::Error) -> Error {
    Error::Invalid(format!("run {id} was kept by another version of this program: {error}"))
}

/// The run on its way.
struct Run<'a> {
    parts: &'a BackfillParts,
    id: RunId,
    lease: &'a Lease,
    scan: &'a Scan,
    on_error: OnError,
    /// Ends the slices.
    stop: CancellationToken,
    rows: AtomicU64,
    told: &'a (dyn Fn(u64) + Sync),
}

/// A slice to be done.
struct Todo {
    number: i64,
    name: String,
    symbol: Symbol,
    range: Range<Timestamp>,
    grade: Grade,
}

/// Does the slices of a run that are not done. `told` hears the archived rows taken in so far.
///
/// # Errors
/// Where another process holds the run, or it has ended, or the store cannot be written. A slice that fails is booked.
pub async fn execute(
    parts: &BackfillParts,
    id: RunId,
    scan: &Scan,
    owner: &str,
    cancel: &CancellationToken,
    told: &(dyn Fn(u64) + Sync),
) -> Result<RunReport, Error> {
    let spec = spec_of(&parts.store, id).await?;
    let lease = match parts.store.claim(id, owner, parts.clock.now(), LEASE).await? {
        Claimed::Owned(lease) => lease,
        Claimed::HeldBy { owner, until } => {
            return Err(Error::Invalid(format!("run {id} is being done by {owner}, whose lease lasts until {until}")));
        }
        Claimed::Ended(state) => {
            return Err(Error::Invalid(format!("run {id} has ended: it is {}", state.as_str())));
        }
    };
    let stop = cancel.child_token();
    let keeper = Keeper::start(parts, lease.clone(), stop.clone());
    let run =
        Run { parts, id, lease: &lease, scan, on_error: spec.request.on_error, stop, rows: AtomicU64::new(0), told };
    let done = run.all(spec.request.max_active.max(1)).await;
    let (cancelled, lost) = keeper.end().await;
    let report = RunReport { cancelled, lost, ..done? };
    if !lost {
        run.end(&report).await?;
    }
    Ok(report)
}

impl Run<'_> {
    async fn all(&self, max_active: usize) -> Result<RunReport, Error> {
        let todo = self.todo().await?;
        let reports: Vec<_> = stream::iter(todo)
            .map(|(symbol, slices)| self.symbol(symbol, slices))
            .buffer_unordered(max_active)
            .collect()
            .await;
        let mut whole = RunReport::default();
        for report in reports {
            let report = report?;
            whole.succeeded += report.succeeded;
            whole.failed.extend(report.failed);
            whole.added += report.added;
        }
        let slices = self.parts.store.slices(self.id).await?;
        let is_open = |state: SliceState| !matches!(state, SliceState::Succeeded | SliceState::Failed);
        whole.left = slices.iter().filter(|slice| is_open(slice.state)).count() as u64;
        Ok(whole)
    }

    /// What is not done, by symbol.
    async fn todo(&self) -> Result<BTreeMap<Symbol, Vec<Todo>>, Error> {
        let mut todo: BTreeMap<Symbol, Vec<Todo>> = BTreeMap::new();
        for slice in self.parts.store.slices(self.id).await? {
            if slice.state == SliceState::Succeeded {
                continue;
            }
            let spec: SliceSpec = serde_json::from_value(slice.spec).map_err(|error| unreadable(self.id, &error))?;
            let symbol = Symbol::parse(&spec.symbol).map_err(|error| Error::Invalid(error.to_string()))?;
            let grade = Grade::from_name(&spec.grade)
                .ok_or_else(|| Error::Invalid(format!("there are no `{}` in this version", spec.grade)))?;
            let range = Timestamp::from_micros(spec.from_us)..Timestamp::from_micros(spec.to_us);
            todo.entry(symbol).or_default().push(Todo { number: slice.number, name: slice.name, symbol, range, grade });
        }
        Ok(todo)
    }

    async fn symbol(&self, symbol: Symbol, slices: Vec<Todo>) -> Result<RunReport, Error> {
        let mut report = RunReport::default();
        let parts = self.parts;
        let ground = Ground { lake: &parts.lake, log: parts.log.as_ref(), clock: parts.clock.as_ref() };
        let settled = Settled::of(&ground, symbol).await?;
        for slice in slices {
            if self.stop.is_cancelled() {
                break;
            }
            self.parts.store.start_slice(self.lease, slice.number, parts.clock.now()).await?;
            match self.slice(&slice, &settled).await {
                Ok(done) if done.cancelled => {
                    let end = SliceEnd::Cancelled;
                    parts.store.end_slice(self.lease, slice.number, &end, parts.clock.now()).await?;
                }
                Ok(done) => {
                    report.succeeded += 1;
                    report.added += done.added;
                    let end = SliceEnd::Succeeded { result: json!({"read": done.read, "added": done.added}) };
                    parts.store.end_slice(self.lease, slice.number, &end, parts.clock.now()).await?;
                    info!(slice = slice.name, rows = done.read, added = done.added, "filled");
                }
                Err(error) => {
                    let error = told_whole(&error);
                    warn!(slice = slice.name, error, "a slice failed");
                    let end = SliceEnd::Failed { error: error.clone() };
                    parts.store.end_slice(self.lease, slice.number, &end, parts.clock.now()).await?;
                    report.failed.push((slice.name, error));
                    if self.on_error == OnError::Stop {
                        self.stop.cancel();
                    }
                }
            }
        }
        Ok(report)
    }

    async fn slice(&self, slice: &Todo, settled: &Settled) -> Result<super::slice::SliceReport, Error> {
        if slice.range.end > settled.until {
            let (end, until) = (slice.range.end, settled.until);
            return Err(Error::Invalid(format!(
                "it ends at {end}, and a backfill of {} ends at {until} now",
                slice.symbol
            )));
        }
        let job = SliceJob {
            lake: &self.parts.lake,
            id: format!("{JOB}/{}/{}", self.id, slice.number),
            symbol: slice.symbol,
            range: slice.range.clone(),
            grade: slice.grade,
            blocks: self.scan.blocks.get(&(slice.symbol, slice.grade)).cloned().unwrap_or_default(),
            starts: &settled.starts,
            watermark: settled.watermark,
            now: self.parts.clock.now(),
            cancel: &self.stop,
            told: &|rows| (self.told)(self.rows.fetch_add(rows, Ordering::Relaxed) + rows),
        };
        job.run().await
    }

    /// Books the end of the run, or gives it up so that it can be resumed.
    async fn end(&self, report: &RunReport) -> Result<(), Error> {
        let (store, now) = (&self.parts.store, self.parts.clock.now());
        let end = match report.failed.first() {
            _ if report.cancelled => RunEnd::Cancelled,
            Some((slice, error)) => RunEnd::Failed { error: format!("{slice}: {error}") },
            None if report.left > 0 => {
                store.release(self.lease, now).await?;
                return Ok(());
            }
            None => RunEnd::Succeeded,
        };
        store.finish(self.lease, &end, now).await?;
        Ok(())
    }
}

/// An error with its causes.
fn told_whole(error: &Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

/// Keeps a lease alive.
struct Keeper {
    task: tokio::task::JoinHandle<()>,
    ended: CancellationToken,
    cancelled: Arc<AtomicBool>,
    lost: Arc<AtomicBool>,
}

impl Keeper {
    fn start(parts: &BackfillParts, lease: Lease, stop: CancellationToken) -> Self {
        let ended = CancellationToken::new();
        let (cancelled, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let beats = Beats {
            store: parts.store.clone(),
            clock: parts.clock.clone(),
            lease,
            cancelled: cancelled.clone(),
            lost: lost.clone(),
        };
        let task = tokio::spawn(beats.send(stop, ended.clone()));
        Self { task, ended, cancelled, lost }
    }

    /// Whether the run was cancelled, and whether its lease was lost.
    async fn end(self) -> (bool, bool) {
        self.ended.cancel();
        if let Err(error) = self.task.await {
            warn!(%error, "the lease was not kept to the end");
        }
        (self.cancelled.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }
}

struct Beats {
    store: Store,
    clock: Arc<dyn Clock>,
    lease: Lease,
    cancelled: Arc<AtomicBool>,
    lost: Arc<AtomicBool>,
}

impl Beats {
    async fn send(self, stop: CancellationToken, ended: CancellationToken) {
        loop {
            tokio::select! { () = tokio::time::sleep(BEAT) => {}, () = ended.cancelled() => return }
            match self.store.heartbeat(&self.lease, self.clock.now(), LEASE).await {
                Ok(Beat::GoOn) => {}
                Ok(Beat::CancelRequested) => {
                    self.cancelled.store(true, Ordering::Relaxed);
                    stop.cancel();
                }
                Ok(Beat::Lost) => {
                    self.lost.store(true, Ordering::Relaxed);
                    stop.cancel();
                    return;
                }
                Err(error) => warn!(%error, "a beat was not booked; the lease lasts a while"),
            }
        }
    }
}
