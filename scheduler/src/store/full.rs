//! A full disk, by `SQLite`'s own limit of pages: what finds no room is an error and leaves nothing of itself behind, and
//! once there is room it is done, once.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use domain::{Clock, ErrorKind, NoProbe, Timestamp};
use serde_json::json;
use sqlx::AssertSqlSafe;
use tempfile::TempDir;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{Beat, RunId, Store, queue::Ended};
use crate::{
    error::Error,
    run::{RunEnd, RunState},
    runner::{Job, Jobs, Runner, RunnerPolicy, Task, Unobserved},
    schedule::Schedule,
};

const LEASE: Duration = Duration::from_secs(30);

/// `SQLITE_FULL`: <https://www.sqlite.org/rescode.html#full>.
const FULL: &str = "13";

/// More pages than any test needs.
const ROOM: i64 = 1_000_000;

/// Seconds after a full hour, as an instant.
fn past(second: i64) -> Timestamp {
    Timestamp::from_seconds(1_709_989_200 + second)
}

async fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("scheduler.db")).await.unwrap();
    (folder, store)
}

/// A schedule of which every time that was missed is made up for.
fn schedule(cron: &str) -> Schedule {
    let written = json!({"job": "work", "cron": cron, "overlap": "allow", "misfire": "fire_all"});
    Schedule::parse("often", written).unwrap()
}

/// Lets the file have so many pages, on the connection that is open and on those that may follow it.
async fn allow_pages(store: &Store, pages: i64) {
    let options = (*store.pool.connect_options()).clone();
    store.pool.set_connect_options(options.pragma("max_page_count", pages.to_string()));
    let limit = AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
    sqlx::query(limit).execute(&store.pool).await.unwrap();
}

/// Leaves only the room that is free within the pages of the file.
async fn end_room(store: &Store) {
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count").fetch_one(&store.pool).await.unwrap();
    allow_pages(store, pages).await;
}

/// Leaves no room for one more line of a run's history.
async fn fill(store: &Store, run: RunId) {
    end_room(store).await;
    for bytes in [2_000, 100, 0] {
        let sql = "INSERT INTO run_events (run, at_ms, event, detail) VALUES (?, 1710000000000, 'x', ?)";
        while sqlx::query(sql).bind(run.0).bind("x".repeat(bytes)).execute(&store.pool).await.is_ok() {}
    }
}

fn assert_full(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let Error::Database { source, .. } = error else { panic!("{error:?}") };
    let cause = source.as_database_error().unwrap();
    assert_eq!(cause.code().as_deref(), Some(FULL), "{error:?}");
}

/// What is on record of a run, without what filled the store.
async fn told(store: &Store, run: RunId) -> Vec<String> {
    let history = store.history(run).await.unwrap();
    history.into_iter().map(|event| event.event).filter(|event| event != "x").collect()
}

#[tokio::test]
async fn a_tick_that_finds_no_room_decides_nothing_and_later_everything_once() {
    let (_folder, store) = store().await;
    let (_other_folder, roomy) = self::store().await;
    for store in [&store, &roomy] {
        store.apply(&[schedule("* * * * *")], past(0)).await.unwrap();
    }
    let before = store.schedules().await.unwrap();
    end_room(&store).await;
    // The first of the runs still find a place in the pages, the later ones do not.
    for _ in 0..2 {
        assert_full(&store.tick(past(3_600)).await.unwrap_err());
        assert_eq!(store.schedules().await.unwrap(), before);
        assert_eq!(store.runs(None, 100).await.unwrap(), []);
        assert_eq!(store.decisions("often", None, 100).await.unwrap(), []);
    }
    allow_pages(&store, ROOM).await;
    let ticked = store.tick(past(3_600)).await.unwrap();
    assert_eq!(ticked[0].runs.len(), 60);
    assert_eq!(ticked, roomy.tick(past(3_600)).await.unwrap());
    assert_eq!(store.tick(past(3_600)).await.unwrap(), []);
    let decisions = store.decisions("often", None, 100).await.unwrap();
    assert_eq!(decisions, roomy.decisions("often", None, 100).await.unwrap());
    assert_eq!(store.runs(None, 100).await.unwrap(), roomy.runs(None, 100).await.unwrap());
}

#[tokio::test]
async fn an_attempt_that_finds_no_room_is_neither_half_begun_nor_half_ended() {
    let (_folder, store) = store().await;
    store.apply(&[schedule("@hourly")], past(0)).await.unwrap();
    let first = store.trigger("often", past(0), None, past(0)).await.unwrap();
    let second = store.trigger("often", past(0), None, past(0)).await.unwrap();
    let lease = store.begin_next("a", past(1), LEASE).await.unwrap().unwrap().lease;
    for run in [first, second] {
        fill(&store, run).await;
    }
    let before = store.runs(None, 9).await.unwrap();
    for end in [RunEnd::Succeeded, RunEnd::Failed { error: "no rows".to_owned() }, RunEnd::Cancelled] {
        assert_full(&store.end_attempt(&lease, &end, 0.0, past(2)).await.unwrap_err());
    }
    assert_full(&store.release(&lease, past(2)).await.unwrap_err());
    assert_full(&store.tell(&lease, "half way", past(2)).await.unwrap_err());
    assert_full(&store.request_cancel(first, past(2)).await.unwrap_err());
    assert_full(&store.begin_next("b", past(2), LEASE).await.unwrap_err());
    assert_eq!(store.runs(None, 9).await.unwrap(), before);
    assert_eq!(told(&store, first).await, ["created", "claimed"]);
    allow_pages(&store, ROOM).await;
    assert_eq!(store.end_attempt(&lease, &RunEnd::Succeeded, 0.0, past(3)).await.unwrap(), Ended::Run);
    assert_eq!(store.end_attempt(&lease, &RunEnd::Succeeded, 0.0, past(3)).await.unwrap(), Ended::Lost);
    assert_eq!(told(&store, first).await, ["created", "claimed", "succeeded"]);
    let begun = store.begin_next("b", past(3), LEASE).await.unwrap().unwrap();
    assert_eq!((begun.run.id, begun.attempt), (second, 1));
}

#[tokio::test]
async fn a_beat_needs_no_room_and_where_it_does_leaves_the_lease_as_it_was() {
    let (_folder, store) = store().await;
    store.apply(&[schedule("@hourly")], past(0)).await.unwrap();
    let run = store.trigger("often", past(0), None, past(0)).await.unwrap();
    let lease = store.begin_next("a", past(1), LEASE).await.unwrap().unwrap().lease;
    fill(&store, run).await;
    // To the last byte of its page.
    for bytes in [1_000, 100, 10, 1] {
        let sql = "UPDATE runs SET error = coalesce(error, '') || ? WHERE id = ?";
        while sqlx::query(sql).bind("x".repeat(bytes)).bind(run.0).execute(&store.pool).await.is_ok() {}
    }
    assert_eq!(store.heartbeat(&lease, past(2), LEASE).await.unwrap(), Beat::GoOn);
    let before = store.run(run).await.unwrap();
    // Only an instant after the year 6429 takes more bytes than the one that it replaces.
    assert_full(&store.heartbeat(&lease, past(3), Duration::MAX).await.unwrap_err());
    assert_eq!(store.run(run).await.unwrap(), before);
    assert_eq!(store.heartbeat(&lease, past(4), LEASE).await.unwrap(), Beat::GoOn);
    allow_pages(&store, ROOM).await;
    assert_eq!(store.heartbeat(&lease, past(5), Duration::MAX).await.unwrap(), Beat::GoOn);
}

/// A clock that is set by hand and counts how often it is read.
struct Counting {
    micros: AtomicI64,
    readings: AtomicUsize,
}

impl Counting {
    fn forward(&self, seconds: i64) {
        self.micros.fetch_add(seconds * 1_000_000, Ordering::Relaxed);
    }

    fn readings(&self) -> usize {
        self.readings.load(Ordering::Relaxed)
    }
}

impl Clock for Counting {
    fn now(&self) -> Timestamp {
        self.readings.fetch_add(1, Ordering::Relaxed);
        Timestamp::from_micros(self.micros.load(Ordering::Relaxed))
    }
}

/// Goes on until it may end.
struct Waits {
    begun: AtomicUsize,
    may_end: CancellationToken,
}

#[async_trait]
impl Job for Waits {
    async fn run(&self, _task: &Task) -> Result<(), String> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.may_end.cancelled().await;
        Ok(())
    }
}

/// Waits for an outcome; the test fails where it does not come.
async fn until(outcome: impl AsyncFn() -> bool) {
    let wait = async {
        while !outcome().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), wait).await.expect("it comes within a minute");
}

async fn has_succeeded(store: &Store, run: i64) -> bool {
    store.run(RunId(run)).await.is_ok_and(|run| run.written == RunState::Succeeded)
}

#[tokio::test]
async fn a_runner_waits_for_room_and_then_ends_what_it_did_and_goes_on() {
    let (_folder, store) = store().await;
    let clock = Arc::new(Counting { micros: AtomicI64::new(past(-1_800).micros()), readings: AtomicUsize::new(0) });
    let job = Arc::new(Waits { begun: AtomicUsize::new(0), may_end: CancellationToken::new() });
    let jobs: Jobs = HashMap::from([("work", job.clone() as Arc<dyn Job>)]);
    store.apply(&[schedule("@hourly")], past(-1_800)).await.unwrap();
    let runner = Runner {
        store: store.clone(),
        jobs: Arc::new(jobs),
        clock: clock.clone(),
        owner: "test".to_owned(),
        policy: RunnerPolicy {
            workers: 1,
            // Longer than the clock is set forward: the run stays its own.
            lease: Duration::from_hours(2),
            heartbeat: Duration::from_millis(10),
            poll: Duration::from_millis(10),
            grace: Duration::from_millis(50),
        },
        probe: Arc::new(NoProbe),
        observer: Arc::new(Unobserved),
    };
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let running = AbortOnDropHandle::new(tokio::spawn(async move { runner.run(&stop).await }));
    clock.forward(1_800);
    until(async || job.begun.load(Ordering::Relaxed) == 1).await;

    fill(&store, RunId(1)).await;
    clock.forward(3_600);
    job.may_end.cancel();
    // Each try, of the next tick and of the end, reads the clock.
    let readings = clock.readings();
    until(async || clock.readings() > readings + 40).await;
    let runs = store.runs(None, 9).await.unwrap();
    assert_eq!((runs.len(), runs[0].written), (1, RunState::Running));

    allow_pages(&store, ROOM).await;
    until(async || has_succeeded(&store, 1).await && has_succeeded(&store, 2).await).await;
    cancel.cancel();
    running.await.unwrap();
    assert_eq!(job.begun.load(Ordering::Relaxed), 2);
    for run in [1, 2] {
        assert_eq!(told(&store, RunId(run)).await, ["created", "claimed", "succeeded"]);
    }
}
