//! The store against a model of it: a list of runs and plain rules, with neither SQL nor a file.
//!
//! Whatever is asked of both, in whatever order and on a clock that also goes back, they answer the same and hold the same.
//! Which times are due is not modelled again: [`plan`] has tests of its own.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use domain::{ErrorKind, Timestamp, time::MICROS};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::json;
use tempfile::TempDir;

use super::{
    Beat, CancelOutcome, Lease, Run, RunId, Store, Written,
    queue::{Begun, Ended},
    schedules::{Applied, CatchUp, StoredSchedule, Ticked},
};
use crate::{
    due::{Decision, Situation, plan},
    error::Error,
    run::{RunEnd, RunState},
    schedule::{Overlap, Schedule},
};

const LEASE: Duration = Duration::from_secs(30);

/// 2024-03-09T16:00:30Z.
const START: Timestamp = Timestamp::from_seconds(1_710_000_030);

/// The first two share a pool; the third lets its runs go on side by side.
const NAMES: [&str; 3] = ["skips", "queues", "allows"];

/// A schedule, in one of two variants.
fn schedule(which: usize, variant: usize) -> Schedule {
    let cron = ["* * * * *", "*/2 * * * *"][variant];
    let priority = [1, -1][variant];
    let written = match which {
        0 => json!({"job": "work", "cron": cron, "overlap": "skip", "misfire": "fire_once", "attempts": 2,
            "max_pause_s": 15, "pool": "lake"}),
        1 => json!({"job": "work", "cron": cron, "overlap": "queue_one", "misfire": "fire_all", "attempts": 3,
            "max_pause_s": 15, "pool": "lake", "priority": priority}),
        _ => json!({"job": "work", "cron": cron, "overlap": "allow", "misfire": "skip", "attempts": variant + 1,
            "max_pause_s": 15}),
    };
    Schedule::parse(NAMES[which], written).unwrap()
}

/// The times in whole minutes of a schedule of [`schedule`], after one instant and up to another.
fn times(schedule: &Schedule, after: Timestamp, until: Timestamp) -> Vec<Timestamp> {
    let period = if schedule.time.text() == "* * * * *" { 60 * MICROS } else { 120 * MICROS };
    (after.span(period) + 1..=until.span(period)).map(|number| Timestamp::from_micros(number * period)).collect()
}

/// What is asked of the store. Leases and runs are counted back from the newest.
#[derive(Clone, Debug)]
enum Operation {
    Apply(usize, usize),
    Advance(i64),
    Tick,
    Begin(&'static str),
    Beat(usize),
    End(usize, RunEnd, bool),
    Release(usize),
    Cancel(usize),
    Reopen(usize),
    Pause(usize),
    Resume(usize, CatchUp),
    Trigger(usize, Option<&'static str>),
}

fn operation() -> impl Strategy<Value = Operation> {
    let schedule = || 0..NAMES.len();
    let newest = || prop_oneof![3 => Just(0_usize), 2 => 1..6_usize];
    let seconds = prop_oneof![4 => 1..40_i64, 2 => 40..300_i64, 1 => -120..0_i64];
    let failed = RunEnd::Failed { error: "no rows".to_owned() };
    let end = select(vec![RunEnd::Succeeded, failed.clone(), failed, RunEnd::Cancelled]);
    let catch_up = select(vec![CatchUp::None, CatchUp::Last, CatchUp::All]);
    prop_oneof![
        1 => (schedule(), 0..2_usize).prop_map(|(which, variant)| Operation::Apply(which, variant)),
        5 => seconds.prop_map(Operation::Advance),
        4 => Just(Operation::Tick),
        7 => select(vec!["a", "b"]).prop_map(Operation::Begin),
        4 => newest().prop_map(Operation::Beat),
        4 => (newest(), end, any::<bool>()).prop_map(|(lease, end, is_halved)| Operation::End(lease, end, is_halved)),
        1 => newest().prop_map(Operation::Release),
        1 => newest().prop_map(Operation::Cancel),
        1 => newest().prop_map(Operation::Reopen),
        1 => schedule().prop_map(Operation::Pause),
        2 => (schedule(), catch_up).prop_map(|(which, catch_up)| Operation::Resume(which, catch_up)),
        3 => (schedule(), select(vec![None, Some("x"), Some("y")]))
            .prop_map(|(which, key)| Operation::Trigger(which, key)),
    ]
}

/// A run as the model keeps it.
struct Kept {
    run: Run,
    /// Its schedule, as that was when the run was created.
    rules: Schedule,
    waits_until: Timestamp,
    key: Option<String>,
    told: Vec<&'static str>,
}

impl Kept {
    fn is_open(&self) -> bool {
        !matches!(self.run.written, RunState::Succeeded | RunState::Failed | RunState::Cancelled)
    }

    fn is_live(&self, now: Timestamp) -> bool {
        self.run.written == RunState::Running && self.run.lease_until.is_some_and(|until| until > now)
    }

    fn is_held(&self, lease: &Lease) -> bool {
        self.run.written == RunState::Running && self.run.token == lease.token
    }

    /// Takes it from whoever had it.
    fn take(&mut self, state: RunState, told: &'static str) {
        self.run.token += 1;
        self.leave(state, told);
    }

    fn leave(&mut self, state: RunState, told: &'static str) {
        self.run.written = state;
        self.run.lease_until = None;
        self.told.push(told);
    }
}

/// Whether a run of one schedule does not begin while one of the other goes on.
fn waits_for(one: &Schedule, other: &Schedule) -> bool {
    let share_a_pool = one.pool.is_some() && one.pool == other.pool;
    let both_allow = one.overlap == Overlap::Allow && other.overlap == Overlap::Allow;
    share_a_pool || (one.name == other.name && !both_allow)
}

/// About which times of which schedule: (schedule, first, last, times, run).
type Decided = (String, Timestamp, Timestamp, Option<u64>, Option<RunId>);

#[derive(Default)]
struct Model {
    schedules: BTreeMap<String, StoredSchedule>,
    runs: Vec<Kept>,
    decisions: Vec<Decided>,
}

impl Model {
    fn apply(&mut self, schedule: &Schedule, now: Timestamp) -> Applied {
        let Some(known) = self.schedules.get(&schedule.name) else {
            let (schedule, next) = (schedule.clone(), schedule.time.next(now));
            let stored = StoredSchedule { schedule, decided_until: now, next, paused_since: None };
            self.schedules.insert(stored.schedule.name.clone(), stored);
            return Applied::New;
        };
        if known.schedule == *schedule {
            return Applied::Unchanged;
        }
        self.decide(&schedule.name, now);
        let known = self.schedules.get_mut(&schedule.name).unwrap();
        known.schedule = schedule.clone();
        known.next = schedule.time.next(known.decided_until);
        Applied::Changed
    }

    fn tick(&mut self, now: Timestamp) -> Vec<Ticked> {
        let due = self.schedules.values().filter(|stored| stored.next.is_some_and(|next| next <= now));
        let mut due: Vec<_> = due.map(|stored| (stored.next, stored.schedule.name.clone())).collect();
        due.sort();
        due.iter().map(|(_, name)| self.decide(name, now)).collect()
    }

    fn decide(&mut self, name: &str, now: Timestamp) -> Ticked {
        let stored = self.schedules[name].clone();
        let plan = plan(&Situation {
            schedule: &stored.schedule,
            decided_until: stored.decided_until,
            is_paused: stored.paused_since.is_some(),
            active_runs: self.runs.iter().filter(|kept| kept.rules.name == name && kept.is_open()).count(),
            now,
        });
        let mut runs = Vec::new();
        for decision in &plan.decisions {
            match *decision {
                Decision::Run { at: of, .. } => runs.push(self.create(&stored.schedule, of, None, now)),
                Decision::Skipped { first, last, times, .. } => {
                    self.decisions.push((name.to_owned(), first, last, times, None));
                }
            }
        }
        let known = self.schedules.get_mut(name).unwrap();
        (known.decided_until, known.next) = (plan.decided_until, plan.next);
        Ticked { schedule: name.to_owned(), plan, runs }
    }

    fn create(&mut self, rules: &Schedule, of: Timestamp, key: Option<String>, now: Timestamp) -> RunId {
        let id = RunId(i64::try_from(self.runs.len()).unwrap() + 1);
        let run = Run {
            id,
            job: rules.job.clone(),
            spec: rules.spec.clone(),
            created: now,
            cancel_requested: false,
            owner: None,
            ended: None,
            error: None,
            schedule: Some(rules.name.clone()),
            of: Some(of),
            attempts: 0,
            written: RunState::Pending,
            lease_until: None,
            token: 0,
        };
        let (rules, waits_until, told) = (rules.clone(), Timestamp::default(), vec!["created"]);
        self.decisions.push((rules.name.clone(), of, of, Some(1), Some(id)));
        self.runs.push(Kept { run, rules, waits_until, key, told });
        id
    }

    fn pause(&mut self, name: &str, now: Timestamp) -> Option<()> {
        if self.schedules.get(name)?.paused_since.is_none() {
            let since = self.decide(name, now).plan.decided_until;
            self.schedules.get_mut(name)?.paused_since = Some(since);
        }
        Some(())
    }

    fn resume(&mut self, name: &str, catch_up: CatchUp, now: Timestamp) -> Option<Vec<RunId>> {
        let Some(paused) = self.schedules.get(name)?.paused_since else { return Some(Vec::new()) };
        self.decide(name, now);
        let known = self.schedules.get_mut(name)?;
        known.paused_since = None;
        let schedule = known.schedule.clone();
        let a_day_ago = now.plus_micros(-86_400 * MICROS);
        let made_up_for: Vec<Timestamp> = match catch_up {
            CatchUp::None => Vec::new(),
            CatchUp::Last => times(&schedule, paused, now).into_iter().rev().take(1).collect(),
            CatchUp::All => {
                let all = times(&schedule, paused.max(a_day_ago), now);
                all[all.len().saturating_sub(100)..].to_vec()
            }
        };
        Some(made_up_for.into_iter().map(|of| self.create(&schedule, of, None, now)).collect())
    }

    fn trigger(&mut self, name: &str, key: Option<&str>, now: Timestamp) -> Option<RunId> {
        let schedule = self.schedules.get(name)?.schedule.clone();
        let key = key.map(|key| format!("{name}!{key}"));
        let known = self.runs.iter().find(|kept| key.is_some() && kept.key == key).map(|kept| kept.run.id);
        Some(known.unwrap_or_else(|| self.create(&schedule, now, key, now)))
    }

    fn begin_next(&mut self, owner: &str, now: Timestamp) -> Option<Begun> {
        self.give_up_silent(now);
        let may_begin = (0..self.runs.len()).filter(|place| self.may_begin(*place, now));
        let begins = may_begin.max_by_key(|place| (self.runs[*place].rules.priority, Reverse(*place)))?;
        self.pass_over_silent(begins);
        let Kept { run, rules, told, .. } = &mut self.runs[begins];
        run.written = RunState::Running;
        run.token += 1;
        run.owner = Some(owner.to_owned());
        run.lease_until = Some(lease_end(now));
        run.attempts += 1;
        run.error = None;
        told.push("claimed");
        Some(Begun {
            lease: Lease { run: run.id, token: run.token },
            run: run.clone(),
            schedule: rules.name.clone(),
            of: run.of?,
            attempt: run.attempts,
            timeout: rules.timeout,
        })
    }

    fn give_up_silent(&mut self, now: Timestamp) {
        for kept in &mut self.runs {
            let is_begun = matches!(kept.run.written, RunState::Running | RunState::Interrupted);
            if !is_begun || kept.is_live(now) {
                continue;
            }
            if kept.run.cancel_requested {
                kept.run.error = None;
                kept.run.ended = Some(now);
                kept.take(RunState::Cancelled, "cancelled");
            } else if kept.run.attempts >= kept.rules.retry.attempts {
                kept.run.error = Some("its owner fell silent in the last attempt".to_owned());
                kept.run.ended = Some(now);
                kept.take(RunState::Failed, "failed");
            }
        }
    }

    fn may_begin(&self, place: usize, now: Timestamp) -> bool {
        let kept = &self.runs[place];
        let mut others = self.runs.iter().enumerate().filter(|(other, _)| *other != place);
        let waits = others.any(|(_, other)| other.is_live(now) && waits_for(&kept.rules, &other.rules));
        kept.is_open() && !kept.is_live(now) && kept.waits_until <= now && !waits
    }

    /// A run that begins where a silent one was takes that from its owner for good: a beat, or a clock that is set back,
    /// would let both go on side by side.
    fn pass_over_silent(&mut self, begins: usize) {
        let rules = self.runs[begins].rules.clone();
        for (place, kept) in self.runs.iter_mut().enumerate() {
            if place != begins && kept.run.written == RunState::Running && waits_for(&rules, &kept.rules) {
                kept.take(RunState::Interrupted, "owner gone");
            }
        }
    }

    fn heartbeat(&mut self, lease: &Lease, now: Timestamp) -> Beat {
        let kept = self.kept(lease.run);
        if !kept.is_held(lease) {
            return Beat::Lost;
        }
        kept.run.lease_until = Some(lease_end(now));
        if kept.run.cancel_requested { Beat::CancelRequested } else { Beat::GoOn }
    }

    fn end_attempt(&mut self, lease: &Lease, end: &RunEnd, is_halved: bool, now: Timestamp) -> Ended {
        let kept = self.kept(lease.run);
        if !kept.is_held(lease) {
            return Ended::Lost;
        }
        let (state, error) = match end {
            RunEnd::Succeeded => (RunState::Succeeded, None),
            RunEnd::Failed { error } if !kept.run.cancel_requested => (RunState::Failed, Some(error.clone())),
            RunEnd::Failed { .. } | RunEnd::Cancelled => (RunState::Cancelled, None),
        };
        let is_last = kept.run.attempts >= kept.rules.retry.attempts;
        kept.run.error = error;
        if state == RunState::Failed && !is_last {
            let pause = if kept.run.attempts == 1 { 10 * MICROS } else { 15 * MICROS };
            kept.waits_until = now.plus_micros(if is_halved { pause / 2 } else { pause });
            kept.leave(RunState::Pending, "retried");
            return Ended::Retried(kept.waits_until);
        }
        kept.run.ended = Some(now);
        kept.leave(state, state.as_str());
        Ended::Run
    }

    fn release(&mut self, lease: &Lease) -> Written {
        let kept = self.kept(lease.run);
        if !kept.is_held(lease) {
            return Written::Lost;
        }
        kept.run.attempts -= 1;
        kept.leave(RunState::Interrupted, "released");
        Written::Done
    }

    fn request_cancel(&mut self, id: RunId, now: Timestamp) -> CancelOutcome {
        let kept = self.kept(id);
        if !kept.is_open() {
            return CancelOutcome::EndedAlready(kept.run.written);
        }
        kept.run.cancel_requested = true;
        if kept.is_live(now) {
            kept.told.push("cancel requested");
            return CancelOutcome::Requested;
        }
        kept.run.ended = Some(now);
        kept.take(RunState::Cancelled, "cancelled");
        CancelOutcome::Cancelled
    }

    fn reopen(&mut self, id: RunId, now: Timestamp) -> Result<(), ErrorKind> {
        let kept = self.kept(id);
        if kept.is_live(now) || kept.run.written == RunState::Succeeded {
            return Err(ErrorKind::Conflict);
        }
        kept.run.cancel_requested = false;
        kept.run.ended = None;
        kept.run.error = None;
        kept.run.attempts = 0;
        kept.waits_until = Timestamp::default();
        kept.take(RunState::Pending, "reopened");
        Ok(())
    }

    fn kept(&mut self, id: RunId) -> &mut Kept {
        &mut self.runs[place(id)]
    }
}

fn place(id: RunId) -> usize {
    usize::try_from(id.0).unwrap() - 1
}

fn lease_end(now: Timestamp) -> Timestamp {
    now.plus_micros(30 * MICROS)
}

/// The store, its model, and what their callers know.
struct Both {
    _folder: TempDir,
    store: Store,
    model: Model,
    now: Timestamp,
    /// All that were ever given: who holds an old one does not know that it is stale.
    leases: Vec<Lease>,
}

impl Both {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("scheduler.db")).await.unwrap();
        Self { _folder: folder, store, model: Model::default(), now: START, leases: Vec::new() }
    }

    fn lease(&self, back: usize) -> Option<Lease> {
        self.leases.iter().nth_back(back % self.leases.len().max(1)).cloned()
    }

    fn run(&self, back: usize) -> Option<RunId> {
        self.model.runs.iter().nth_back(back % self.model.runs.len().max(1)).map(|kept| kept.run.id)
    }

    /// Asks both and compares what they answer.
    async fn ask(&mut self, operation: &Operation) {
        let (store, model, now) = (self.store.clone(), &mut self.model, self.now);
        let kind = |error: Error| error.kind();
        match operation {
            Operation::Apply(which, variant) => {
                let schedule = schedule(*which, *variant);
                let applied = store.apply(std::slice::from_ref(&schedule), now).await.unwrap();
                assert_eq!(applied, [model.apply(&schedule, now)]);
            }
            Operation::Advance(seconds) => self.now = now.plus_micros(seconds * MICROS),
            Operation::Tick => assert_eq!(store.tick(now).await.unwrap(), model.tick(now)),
            Operation::Begin(owner) => {
                let begun = store.begin_next(owner, now, LEASE).await.unwrap();
                assert_eq!(begun, model.begin_next(owner, now));
                self.leases.extend(begun.map(|begun| begun.lease));
            }
            Operation::Beat(_) | Operation::End(..) | Operation::Release(_) => self.ask_under_lease(operation).await,
            Operation::Cancel(back) => {
                let Some(run) = self.run(*back) else { return };
                let answer = store.request_cancel(run, now).await.unwrap();
                assert_eq!(answer, self.model.request_cancel(run, now));
            }
            Operation::Reopen(back) => {
                let Some(run) = self.run(*back) else { return };
                assert_eq!(store.reopen(run, now).await.map_err(kind), self.model.reopen(run, now));
            }
            Operation::Pause(which) => {
                let answer = store.pause(NAMES[*which], "a test", now).await.map_err(kind);
                assert_eq!(answer, model.pause(NAMES[*which], now).ok_or(ErrorKind::NotFound));
            }
            Operation::Resume(which, catch_up) => {
                let answer = store.resume(NAMES[*which], *catch_up, now).await.map_err(kind);
                assert_eq!(answer, model.resume(NAMES[*which], *catch_up, now).ok_or(ErrorKind::NotFound));
            }
            Operation::Trigger(which, key) => {
                let answer = store.trigger(NAMES[*which], now, *key, now).await.map_err(kind);
                assert_eq!(answer, model.trigger(NAMES[*which], *key, now).ok_or(ErrorKind::NotFound));
            }
        }
    }

    async fn ask_under_lease(&mut self, operation: &Operation) {
        let Some(lease) = self.used(operation) else { return };
        let (store, model, now) = (&self.store, &mut self.model, self.now);
        match operation {
            Operation::Beat(_) => {
                assert_eq!(store.heartbeat(&lease, now, LEASE).await.unwrap(), model.heartbeat(&lease, now));
            }
            Operation::End(_, end, is_halved) => {
                let share = f64::from(u8::from(*is_halved));
                let answer = store.end_attempt(&lease, end, share, now).await.unwrap();
                assert_eq!(answer, model.end_attempt(&lease, end, *is_halved, now));
            }
            _ => assert_eq!(store.release(&lease, now).await.unwrap(), model.release(&lease)),
        }
    }

    /// The lease that an operation uses.
    fn used(&self, operation: &Operation) -> Option<Lease> {
        match operation {
            Operation::Beat(back) | Operation::End(back, ..) | Operation::Release(back) => self.lease(*back),
            _ => None,
        }
    }

    /// The runs in the store, oldest first.
    async fn runs(&self) -> Vec<Run> {
        let mut runs = self.store.runs(None, u32::MAX).await.unwrap();
        runs.reverse();
        runs
    }

    async fn assert_same(&self, runs: &[Run]) {
        let expected: Vec<_> = self.model.runs.iter().map(|kept| kept.run.clone()).collect();
        assert_eq!(runs, expected);
        let expected: Vec<_> = self.model.schedules.values().cloned().collect();
        assert_eq!(self.store.schedules().await.unwrap(), expected);
    }

    /// What holds whatever was asked; told from the store alone.
    fn assert_lawful(&self, operation: &Operation, before: &[Run], after: &[Run]) {
        let is_live = |run: &&Run| run.written == RunState::Running && run.lease_until > Some(self.now);
        let exclusive = after.iter().filter(is_live).filter(|run| run.schedule.as_deref() != Some(NAMES[2]));
        assert!(exclusive.count() <= 1, "two go on in one pool, or of one schedule: {after:?}");
        if let Some(lease) = self.used(operation) {
            let run = &before[place(lease.run)];
            let is_stale = run.written != RunState::Running || run.token != lease.token;
            assert!(!is_stale || before == after, "a stale lease changed something: {before:?} {after:?}");
        }
        for (before, after) in before.iter().zip(after) {
            let may_change = !before.written.is_ended() || matches!(operation, Operation::Reopen(_));
            assert!(may_change || before == after, "a run that has ended changed: {before:?} {after:?}");
        }
    }

    /// Compares what is on record.
    async fn assert_told_the_same(&self) {
        for kept in &self.model.runs {
            let told = self.store.history(kept.run.id).await.unwrap();
            let told: Vec<_> = told.iter().map(|event| event.event.as_str()).collect();
            assert_eq!(told, kept.told, "run {}", kept.run.id);
        }
        let runs = self.store.runs(None, u32::MAX).await.unwrap();
        for state in RunState::ALL {
            let found = self.store.runs_in(Some(state), None, u32::MAX, self.now).await.unwrap();
            let expected: Vec<_> = runs.iter().filter(|run| run.state_at(self.now) == state).cloned().collect();
            assert_eq!(found, expected, "{state:?}");
        }
        for name in NAMES {
            let mut decisions = self.store.decisions(name, None, u32::MAX).await.unwrap();
            decisions.reverse();
            let decisions = decisions.into_iter().map(|d| (name.to_owned(), d.first, d.last, d.times, d.run));
            let expected: Vec<_> = self.model.decisions.iter().filter(|decided| decided.0 == name).cloned().collect();
            assert_eq!(decisions.collect::<Vec<_>>(), expected);
        }
    }
}

/// Asks a store and its model the same, and holds them against each other after each question.
async fn follow(operations: &[Operation]) {
    let mut both = Both::new().await;
    for which in [0, 1] {
        both.ask(&Operation::Apply(which, 0)).await;
    }
    for operation in operations {
        let before = both.runs().await;
        both.ask(operation).await;
        let after = both.runs().await;
        both.assert_lawful(operation, &before, &after);
        both.assert_same(&after).await;
    }
    both.assert_told_the_same().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_answers_and_keeps_what_its_model_does(operations in vec(operation(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(follow(&operations));
    }
}

#[tokio::test]
async fn an_owner_that_fell_silent_never_comes_back_beside_the_run_that_took_its_place() {
    let taken = [
        Operation::Trigger(0, None),
        Operation::Begin("a"),
        Operation::Advance(31),
        Operation::Trigger(1, None),
        Operation::Begin("b"),
    ];
    for wakes_up in [Operation::Beat(1), Operation::Advance(-20)] {
        let operations: Vec<_> = taken.iter().cloned().chain([wakes_up]).collect();
        follow(&operations).await;
    }
}
