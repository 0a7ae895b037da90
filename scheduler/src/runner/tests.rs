//! Runs from their time to their end, with real time in small pieces: what is waited for is an outcome, never a moment.

use std::sync::{
    Mutex,
    atomic::{AtomicI64, AtomicUsize, Ordering},
};

use serde_json::json;

use super::*;
use crate::{
    run::RunState,
    schedule::Schedule,
    store::{CancelOutcome, Claimed, StoredEvent},
};

const POLICY: RunnerPolicy = RunnerPolicy {
    workers: 2,
    lease: Duration::from_secs(30),
    heartbeat: Duration::from_millis(10),
    poll: Duration::from_millis(10),
    grace: Duration::from_millis(50),
};

/// A clock that is set by hand.
struct Set(AtomicI64);

impl Set {
    fn at(text: &str) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(Timestamp::parse(text).unwrap().micros())))
    }

    fn forward(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1_000_000, Ordering::Relaxed);
    }
}

impl Clock for Set {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// What a test's job does.
#[derive(Clone, Copy)]
enum Does {
    Succeeds,
    FailsTwice,
    Panics,
    WaitsToBeAsked,
    NeverEnds,
}

struct TestJob {
    does: Does,
    attempts: AtomicUsize,
    keys: Mutex<Vec<String>>,
}

#[async_trait]
impl Job for TestJob {
    async fn run(&self, task: &Task) -> Result<(), String> {
        self.keys.lock().unwrap().push(task.key.clone());
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        task.tell(&format!("attempt {attempt} of {}", task.spec["name"])).await;
        match self.does {
            Does::FailsTwice if attempt < 2 => Err("not yet".to_owned()),
            Does::Succeeds | Does::FailsTwice => Ok(()),
            Does::Panics => panic!("as the test wants it"),
            Does::WaitsToBeAsked => {
                task.cancel.cancelled().await;
                Err("it was asked to end".to_owned())
            }
            Does::NeverEnds => std::future::pending().await,
        }
    }
}

struct Scene {
    _folder: tempfile::TempDir,
    runner: Runner,
    clock: Arc<Set>,
    job: Arc<TestJob>,
    cancel: CancellationToken,
}

impl Scene {
    /// A schedule of every hour at half past twelve.
    async fn new(does: Does, more: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("scheduler.db")).await.unwrap();
        let clock = Set::at("2024-03-09T12:30:00Z");
        let job = Arc::new(TestJob { does, attempts: AtomicUsize::new(0), keys: Mutex::default() });
        let jobs: Jobs = HashMap::from([("work", job.clone() as Arc<dyn Job>)]);
        let mut written = json!({"job": "work", "cron": "@hourly", "spec": {"name": "x"}, "pause_s": 1});
        written.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        store.apply(&[Schedule::parse("hourly", written).unwrap()], clock.now()).await.unwrap();
        let (jobs, owner) = (Arc::new(jobs), "test".to_owned());
        let runner = Runner {
            store,
            jobs,
            clock: clock.clone(),
            owner,
            policy: POLICY,
            probe: Arc::new(domain::NoProbe),
            observer: Arc::new(Unobserved),
        };
        Self { _folder: folder, runner, clock, job, cancel: CancellationToken::new() }
    }

    fn start(&self) -> AbortOnDropHandle<()> {
        let (runner, cancel) = (self.runner.clone(), self.cancel.clone());
        AbortOnDropHandle::new(tokio::spawn(async move { runner.run(&cancel).await }))
    }

    async fn state(&self, run: i64) -> Option<RunState> {
        self.runner.store.run(RunId::from(run)).await.ok().map(|run| run.state_at(self.clock.now()))
    }

    async fn until(&self, run: i64, state: RunState) {
        while self.state(run).await != Some(state) {
            tokio::task::yield_now().await;
        }
    }

    async fn begun(&self) {
        while self.job.attempts.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    }

    async fn told(&self, run: i64) -> Vec<(String, String)> {
        let history = self.runner.store.history(RunId::from(run)).await.unwrap();
        history.into_iter().map(|StoredEvent { event, detail, .. }| (event, detail)).collect()
    }
}

#[tokio::test]
async fn what_is_due_is_done_and_on_record() {
    let scene = Scene::new(Does::Succeeds, json!({})).await;
    let running = scene.start();
    scene.clock.forward(1_800);
    scene.until(1, RunState::Succeeded).await;
    scene.clock.forward(3_600);
    scene.until(2, RunState::Succeeded).await;
    scene.cancel.cancel();
    running.await.unwrap();
    let told = scene.told(1).await;
    let told: Vec<_> = told.iter().map(|(event, detail)| (event.as_str(), detail.as_str())).collect();
    let expected = [("created", "hourly"), ("claimed", "test"), ("told", "attempt 0 of \"x\""), ("succeeded", "")];
    assert_eq!(told, expected);
    assert_eq!(*scene.job.keys.lock().unwrap(), ["run/1", "run/2"]);
}

#[tokio::test]
async fn a_failure_is_tried_again_with_the_same_key() {
    let scene = Scene::new(Does::FailsTwice, json!({})).await;
    let _running = scene.start();
    scene.clock.forward(1_800);
    scene.begun().await;
    for failures in 1..=2 {
        while scene.told(1).await.iter().filter(|(event, _)| event == "retried").count() < failures {}
        scene.clock.forward(2);
    }
    scene.until(1, RunState::Succeeded).await;
    assert_eq!(*scene.job.keys.lock().unwrap(), ["run/1"; 3]);
}

#[tokio::test]
async fn a_panic_is_a_failure() {
    let scene = Scene::new(Does::Panics, json!({"attempts": 1})).await;
    let _running = scene.start();
    scene.clock.forward(1_800);
    scene.until(1, RunState::Failed).await;
    let run = scene.runner.store.run(RunId::from(1)).await.unwrap();
    assert!(run.error.unwrap().contains("a defect of the program"));
}

#[tokio::test]
async fn a_job_that_this_program_does_not_have_fails_with_its_name() {
    let mut scene = Scene::new(Does::Succeeds, json!({"attempts": 1})).await;
    scene.runner.jobs = Arc::default();
    let _running = scene.start();
    scene.clock.forward(1_800);
    scene.until(1, RunState::Failed).await;
    let run = scene.runner.store.run(RunId::from(1)).await.unwrap();
    assert_eq!(run.error.as_deref(), Some("there is no job `work` in this program"));
}

#[tokio::test]
async fn a_run_ends_when_it_is_asked_to_whether_its_job_listens_or_not() {
    for does in [Does::WaitsToBeAsked, Does::NeverEnds] {
        let scene = Scene::new(does, json!({})).await;
        let _running = scene.start();
        scene.clock.forward(1_800);
        scene.begun().await;
        let asked = scene.runner.store.request_cancel(RunId::from(1), scene.clock.now()).await.unwrap();
        assert_eq!(asked, CancelOutcome::Requested);
        scene.until(1, RunState::Cancelled).await;
    }
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_has_failed() {
    let scene = Scene::new(Does::NeverEnds, json!({"attempts": 1, "timeout_s": 1})).await;
    let _running = scene.start();
    scene.clock.forward(1_800);
    scene.until(1, RunState::Failed).await;
    let run = scene.runner.store.run(RunId::from(1)).await.unwrap();
    assert_eq!(run.error.as_deref(), Some("it took longer than 1 s"));
}

#[tokio::test]
async fn at_the_end_of_the_program_a_run_is_given_up_and_another_takes_it() {
    let scene = Scene::new(Does::WaitsToBeAsked, json!({"attempts": 1})).await;
    let running = scene.start();
    scene.clock.forward(1_800);
    scene.begun().await;
    scene.cancel.cancel();
    running.await.unwrap();
    assert_eq!(scene.state(1).await, Some(RunState::Interrupted));
    let taken = scene.runner.store.begin_next("another", scene.clock.now(), POLICY.lease).await.unwrap().unwrap();
    assert_eq!((taken.run.id, taken.attempt), (RunId::from(1), 1));
}

#[tokio::test]
async fn a_run_that_another_has_taken_ends_here_and_changes_nothing() {
    let mut scene = Scene::new(Does::NeverEnds, json!({})).await;
    // Nobody else here takes it in between.
    scene.runner.policy = RunnerPolicy { workers: 1, heartbeat: Duration::from_secs(1), ..POLICY };
    let _running = scene.start();
    scene.clock.forward(1_800);
    scene.begun().await;
    let (run, store) = (RunId::from(1), &scene.runner.store);
    store.owner_is_gone(run, scene.clock.now()).await.unwrap();
    let taken = store.claim(run, "another", scene.clock.now(), POLICY.lease).await.unwrap();
    assert!(matches!(taken, Claimed::Owned(_)), "{taken:?}");
    while Arc::strong_count(&scene.job) > 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.state(1).await, Some(RunState::Running));
    assert_eq!(scene.runner.store.run(run).await.unwrap().owner.as_deref(), Some("another"));
}
