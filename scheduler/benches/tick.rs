//! `cargo bench -p scheduler --bench tick`: a tick among many schedules, the way from due to begun, short runs in a row.
//!
//! Medians of five. The store is a file in the system's folder for temporary files.

#![expect(clippy::unwrap_used, reason = "a benchmark may stop at any line")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use domain::Timestamp;
use scheduler::{RunEnd, Schedule, Store};
use serde_json::json;

const ROUNDS: usize = 5;
const SCHEDULES: usize = 10_000;
const DUE: usize = 100;
const RUNS: usize = 1_000;
const LEASE: Duration = Duration::from_secs(30);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut ticks, mut begins, mut runs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (tick, begin, run) = runtime.block_on(round());
        ticks.push(tick);
        begins.push(begin);
        runs.push(run);
    }
    let tell = |what: &str, times: &mut Vec<f64>, unit: &str| {
        times.sort_unstable_by(f64::total_cmp);
        println!("{what:<52} {:>9.2} {unit}  ({:.2} to {:.2})", times[ROUNDS / 2], times[0], times[ROUNDS - 1]);
    };
    tell(&format!("one tick, {DUE} of {SCHEDULES} schedules due"), &mut ticks, "ms");
    tell("one run begun, from the call to the lease", &mut begins, "ms");
    tell("short runs begun and ended beside a reader", &mut runs, "runs/s");
}

/// Milliseconds of a tick and of a begin; runs a second.
async fn round() -> (f64, f64, f64) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("scheduler.db")).await.unwrap();
    let start = Timestamp::parse("2024-03-09T12:00:30Z").unwrap();
    let schedule = |number: usize| {
        let cron = if number < DUE { "1 12 * * *" } else { "0 18 * * *" };
        let written = json!({"job": "work", "cron": cron, "overlap": "allow"});
        Schedule::parse(&format!("schedule-{number}"), written).unwrap()
    };
    let schedules: Vec<Schedule> = (0..SCHEDULES).map(schedule).collect();
    store.apply(&schedules, start).await.unwrap();
    let now = Timestamp::parse("2024-03-09T12:01:00Z").unwrap();
    let began = Instant::now();
    assert_eq!(store.tick(now).await.unwrap().len(), DUE);
    let tick = millis(began);

    let began = Instant::now();
    let first = store.begin_next("bench", now, LEASE).await.unwrap().unwrap();
    let begin = millis(began);
    store.end_attempt(&first.lease, &RunEnd::Succeeded, 0.0, now).await.unwrap();

    for number in DUE - 1..RUNS {
        store.trigger("schedule-0", now, Some(&number.to_string()), now).await.unwrap();
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let others = Store::open(&folder.path().join("scheduler.db")).await.unwrap();
    let reader = tokio::spawn(read(others, is_over.clone()));
    let began = Instant::now();
    for _ in 0..RUNS {
        let next = store.begin_next("bench", now, LEASE).await.unwrap().unwrap();
        store.end_attempt(&next.lease, &RunEnd::Succeeded, 0.0, now).await.unwrap();
    }
    #[expect(clippy::cast_precision_loss, reason = "a thousand")]
    let rate = RUNS as f64 / began.elapsed().as_secs_f64();
    is_over.store(true, Ordering::Relaxed);
    assert!(reader.await.unwrap() > 0);
    (tick, begin, rate)
}

/// Asks for the newest runs again and again, as a service does that is looked at; how often.
async fn read(store: Store, is_over: Arc<AtomicBool>) -> usize {
    let mut reads = 0;
    while !is_over.load(Ordering::Relaxed) {
        assert_eq!(store.runs(None, 100).await.unwrap().len(), 100);
        reads += 1;
    }
    reads
}

fn millis(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1_000.0
}
