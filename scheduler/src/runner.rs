//! The loop: ticks, begins runs in their turn, keeps their leases and ends them. It is given jobs by name and knows none.
//!
//! Any number of processes may run it on one store. Each run is one task, and its heartbeat another: a job that takes long
//! never looks silent. A job that is asked to end may take [`RunnerPolicy::grace`] for it, then it is aborted. A lease that
//! was lost ends its job at once, and nothing of it is written any more.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use domain::{Clock, Probe, Timestamp, probe::Point};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tokio::task::{JoinError, JoinSet};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};

use crate::{
    due::{Decision, Plan, Skip},
    error::Error,
    run::RunEnd,
    store::{
        Beat, Lease, RunId, Store,
        queue::{Begun, Ended, Health},
    },
};

/// How often the observer is told how the runs are.
const LOOK_MICROS: u64 = 5_000_000;

/// Work that a schedule starts.
#[async_trait]
pub trait Job: Send + Sync {
    /// Does it. The same work may come again after a crash: what it has done before it finds done.
    ///
    /// # Errors
    /// A sentence that says why it could not be done; it is tried again as the schedule says.
    async fn run(&self, task: &Task) -> Result<(), String>;
}

/// Jobs by name.
pub type Jobs = HashMap<&'static str, Arc<dyn Job>>;

/// One attempt at a run, as its job sees it.
#[derive(Clone, Debug)]
pub struct Task {
    /// The run's number.
    pub run: RunId,
    /// What is asked for.
    pub spec: Value,
    /// The time that it is of.
    pub of: Timestamp,
    /// Names the run's effects: a commit that carries it is made once, whatever happens in between.
    pub key: String,
    /// Cancelled when the job shall end early.
    pub cancel: CancellationToken,
    log: Log,
}

impl Task {
    /// Appends a line to the run's history. Where that fails, the program's own log has it.
    pub async fn tell(&self, text: &str) {
        info!(run = %self.run, "{text}");
        let Log { store, lease, clock } = &self.log;
        if let Err(error) = store.tell(lease, text, clock.now()).await {
            warn!(run = %self.run, %error, "a line of a run's history was not kept");
        }
    }
}

#[derive(Clone)]
struct Log {
    store: Store,
    lease: Lease,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

/// Told what a scheduler does, for whoever counts it.
pub trait Observer: Send + Sync {
    /// It was looked which times have come, and what is to be done about them is written; how long that took.
    fn ticked(&self, took: Duration);

    /// A time was decided: its run is created so long after it.
    fn fired(&self, delay: Duration, is_missed: bool);

    /// Times have no run.
    fn skipped(&self, reason: Skip, times: u64);

    /// A run was taken by another owner while it was done here.
    fn lease_lost(&self);

    /// How the runs are; told again and again.
    fn looked(&self, health: &Health);
}

/// Counts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn ticked(&self, _: Duration) {}

    fn fired(&self, _: Duration, _: bool) {}

    fn skipped(&self, _: Skip, _: u64) {}

    fn lease_lost(&self) {}

    fn looked(&self, _: &Health) {}
}

/// How the loop paces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunnerPolicy {
    /// Runs that go on side by side.
    pub workers: usize,
    /// How long a silent owner keeps a run.
    pub lease: Duration,
    /// How often an owner says that it lives.
    pub heartbeat: Duration,
    /// How often what others put into the store is looked for; no sleep is longer.
    pub poll: Duration,
    /// How long a job may take to end when it is asked to; shorter than a lease, which is not kept any more then.
    pub grace: Duration,
}

impl Default for RunnerPolicy {
    /// 2 workers, 30 s, 10 s, 1 s, 20 s.
    fn default() -> Self {
        Self {
            workers: 2,
            lease: Duration::from_secs(30),
            heartbeat: Duration::from_secs(10),
            poll: Duration::from_secs(1),
            grace: Duration::from_secs(20),
        }
    }
}

/// A scheduler.
#[derive(Clone)]
pub struct Runner {
    /// The store, which others may use as well.
    pub store: Store,
    /// What it can do.
    pub jobs: Arc<Jobs>,
    /// The present.
    pub clock: Arc<dyn Clock>,
    /// Who it is, for the history.
    pub owner: String,
    /// How it paces itself.
    pub policy: RunnerPolicy,
    /// Told what is reached.
    pub probe: Arc<dyn Probe>,
    /// Told what is done.
    pub observer: Arc<dyn Observer>,
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner").field("owner", &self.owner).field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Runner {
    /// Goes on until it is cancelled; then the jobs that go on are asked to end, and their runs are given up to others.
    /// While the store cannot be used it waits and says so.
    pub async fn run(&self, cancel: &CancellationToken) {
        let (mut going, mut looked_at) = (JoinSet::new(), None);
        while !cancel.is_cancelled() {
            let wait = match self.step(&mut going, &mut looked_at, cancel).await {
                Ok(wait) => wait,
                Err(error) => {
                    warn!(%error, "the scheduler waits until its store can be used again");
                    self.policy.poll
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                Some(ended) = going.join_next() => tell_defect(ended),
                () = cancel.cancelled() => {}
            }
        }
        while let Some(ended) = going.join_next().await {
            tell_defect(ended);
        }
    }

    /// Decides what has come and begins what may begin; how long there is nothing to do then.
    async fn step(
        &self,
        going: &mut JoinSet<()>,
        looked_at: &mut Option<Timestamp>,
        cancel: &CancellationToken,
    ) -> Result<Duration, Error> {
        let (now, began) = (self.clock.now(), Instant::now());
        let all_ticked = self.store.tick(now).await?;
        self.observer.ticked(began.elapsed());
        for ticked in all_ticked {
            self.observe(&ticked.plan, now);
            for run in &ticked.runs {
                info!(schedule = ticked.schedule, %run, "due");
            }
        }
        while going.len() < self.policy.workers {
            let next = self.store.begin_next(&self.owner, self.clock.now(), self.policy.lease).await?;
            let Some(begun) = next else { break };
            let (runner, cancel) = (self.clone(), cancel.clone());
            going.spawn(async move { runner.attempt(begun, &cancel).await });
        }
        let now = self.clock.now();
        // Whatever the clock does, a look is never far.
        if looked_at.is_none_or(|at| now.micros().abs_diff(at.micros()) >= LOOK_MICROS) {
            let jobs: Vec<&str> = self.jobs.keys().copied().collect();
            self.observer.looked(&self.store.health(&jobs, now).await?);
            *looked_at = Some(now);
        }
        let until = self.store.next_due(now).await?.map_or(i64::MAX, Timestamp::micros);
        let wait = until.saturating_sub(now.micros()).max(0).unsigned_abs();
        Ok(Duration::from_micros(wait).min(self.policy.poll))
    }

    fn observe(&self, plan: &Plan, now: Timestamp) {
        for decision in &plan.decisions {
            match *decision {
                Decision::Run { at, is_missed } => {
                    let delay = now.micros().saturating_sub(at.micros()).max(0).unsigned_abs();
                    self.observer.fired(Duration::from_micros(delay), is_missed);
                }
                Decision::Skipped { times, reason, .. } => self.observer.skipped(reason, times.unwrap_or(1)),
            }
        }
    }

    fn lost(&self, run: RunId) {
        warn!(%run, "another owner has taken the run");
        self.observer.lease_lost();
    }

    /// One attempt at a run, from its beginning to what is written about its end.
    async fn attempt(&self, begun: Begun, shutdown: &CancellationToken) {
        let Begun { lease, run, schedule, of, attempt, timeout } = begun;
        let Some(job) = self.jobs.get(run.job.as_str()).cloned() else {
            let error = format!("there is no job `{}` in this program", run.job);
            return self.write_end(run.id, &lease, &RunEnd::Failed { error }, 0.0).await;
        };
        info!(schedule, run = %run.id, job = run.job, attempt, "begins");
        self.probe.reached(Point::RunBegun);
        let cancel = CancellationToken::new();
        let log = Log { store: self.store.clone(), lease: lease.clone(), clock: self.clock.clone() };
        let key = format!("run/{}", run.id);
        let task = Task { run: run.id, spec: run.spec, of, key, cancel: cancel.clone(), log };
        let mut work = AbortOnDropHandle::new(tokio::spawn(async move { job.run(&task).await }));
        let mut beats = AbortOnDropHandle::new(tokio::spawn(self.clone().beat(lease.clone())));
        let ended = tokio::select! {
            done = &mut work => Some(end_of(done)),
            beat = &mut beats => {
                // A lost lease ends the job by dropping it: another owner does the run.
                if !beat.is_ok_and(|beat| beat == Beat::CancelRequested) {
                    return self.lost(run.id);
                }
                self.ended_early(&mut work, &cancel).await.or(Some(RunEnd::Cancelled)).map(|end| match end {
                    RunEnd::Succeeded => end,
                    RunEnd::Failed { .. } | RunEnd::Cancelled => RunEnd::Cancelled,
                })
            }
            () = tokio::time::sleep(timeout) => {
                let error = format!("it took longer than {} s", timeout.as_secs());
                let end = self.ended_early(&mut work, &cancel).await;
                Some(end.filter(|end| *end == RunEnd::Succeeded).unwrap_or(RunEnd::Failed { error }))
            }
            () = shutdown.cancelled() => {
                self.ended_early(&mut work, &cancel).await.filter(|end| *end == RunEnd::Succeeded)
            }
        };
        drop(beats);
        self.probe.reached(Point::RunDone);
        match ended {
            Some(end) => self.write_end(run.id, &lease, &end, share(run.id, attempt)).await,
            None => self.give_up(&lease).await,
        }
    }

    /// Asks a job to end and waits for it as long as it may take; none, where it did not end.
    async fn ended_early(
        &self,
        work: &mut AbortOnDropHandle<Result<(), String>>,
        cancel: &CancellationToken,
    ) -> Option<RunEnd> {
        cancel.cancel();
        tokio::time::timeout(self.policy.grace, work).await.ok().map(end_of)
    }

    /// Keeps a lease until it is lost or the run shall end.
    async fn beat(self, lease: Lease) -> Beat {
        loop {
            tokio::time::sleep(self.policy.heartbeat).await;
            match self.store.heartbeat(&lease, self.clock.now(), self.policy.lease).await {
                Ok(Beat::GoOn) => {}
                Ok(other) => return other,
                // The lease lasts longer than one beat; where it ends, another owner finds the run.
                Err(error) => warn!(%error, "a heartbeat was not written"),
            }
        }
    }

    async fn write_end(&self, run: RunId, lease: &Lease, end: &RunEnd, share: f64) {
        loop {
            match self.store.end_attempt(lease, end, share, self.clock.now()).await {
                Ok(Ended::Retried(until)) => return info!(%run, %until, ?end, "is tried again"),
                Ok(Ended::Run) => return info!(%run, ?end, "ended"),
                Ok(Ended::Lost) => return self.lost(run),
                Err(error) => {
                    warn!(%error, "the end of a run waits until the store can be used again");
                    tokio::time::sleep(self.policy.poll).await;
                }
            }
        }
    }

    async fn give_up(&self, lease: &Lease) {
        if let Err(error) = self.store.release(lease, self.clock.now()).await {
            warn!(%error, "a run was not given up; it is taken once its lease has ended");
        }
    }
}

fn end_of(done: Result<Result<(), String>, JoinError>) -> RunEnd {
    match done {
        Ok(Ok(())) => RunEnd::Succeeded,
        Ok(Err(error)) => RunEnd::Failed { error },
        Err(_) => RunEnd::Failed { error: "a defect of the program ended it: see the program's log".to_owned() },
    }
}

fn tell_defect(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        warn!(%error, "a defect of the program ended the care for a run; it is taken once its lease has ended");
    }
}

/// From 0 to 1, the same for the same attempt at the same run.
fn share(run: RunId, attempt: u32) -> f64 {
    let seed = i64::from(run).unsigned_abs().wrapping_mul(1_000_003).wrapping_add(u64::from(attempt));
    ChaCha8Rng::seed_from_u64(seed).random()
}

#[cfg(test)]
mod tests;
