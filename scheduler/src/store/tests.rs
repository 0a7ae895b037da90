//! The store as its callers meet it: one owner at a time, nothing done twice, everything on record.

use serde_json::json;

use super::{
    queue::{Begun, Ended},
    schedules::{Applied, CatchUp, StoredDecision, Ticked},
    *,
};
use crate::schedule::Schedule;

const LEASE: Duration = Duration::from_secs(30);

fn at(second: i64) -> Timestamp {
    Timestamp::from_seconds(1_710_000_000 + second)
}

async fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("scheduler.db")).await.unwrap();
    (folder, store)
}

fn of_slices(count: usize) -> NewRun {
    let slices = (1..=count).map(|n| NewSlice { name: format!("slice {n}"), spec: json!({"n": n}) });
    NewRun { job: "fill".to_owned(), spec: json!({"of": "test"}), slices: slices.collect(), idempotency_key: None }
}

async fn owned(store: &Store, id: RunId, owner: &str, second: i64) -> Lease {
    match store.claim(id, owner, at(second), LEASE).await.unwrap() {
        Claimed::Owned(lease) => lease,
        other => panic!("{owner} was answered {other:?}"),
    }
}

async fn states(store: &Store, id: RunId) -> Vec<SliceState> {
    store.slices(id).await.unwrap().iter().map(|slice| slice.state).collect()
}

fn done() -> SliceEnd {
    SliceEnd::Succeeded { result: json!({"rows": 5}) }
}

#[tokio::test]
async fn a_run_goes_through_and_its_history_tells_how() {
    let (folder, store) = store().await;
    let id = store.create(&of_slices(2), at(0)).await.unwrap();
    let lease = owned(&store, id, "a", 1).await;
    for number in [1, 2] {
        assert_eq!(store.start_slice(&lease, number, at(2)).await.unwrap(), Written::Done);
        assert_eq!(store.end_slice(&lease, number, &done(), at(3)).await.unwrap(), Written::Done);
    }
    assert_eq!(store.finish(&lease, &RunEnd::Succeeded, at(4)).await.unwrap(), Written::Done);
    drop(store);
    let store = Store::open(&folder.path().join("scheduler.db")).await.unwrap();
    let run = store.run(id).await.unwrap();
    assert_eq!((run.state_at(at(5)), run.ended, run.error.clone()), (RunState::Succeeded, Some(at(4)), None));
    assert_eq!(store.runs(Some("fill"), 9).await.unwrap(), [run]);
    assert_eq!(store.slices(id).await.unwrap()[1].result, Some(json!({"rows": 5})));
    let told: Vec<_> = store.history(id).await.unwrap().into_iter().map(|e| (e.slice, e.event)).collect();
    let told: Vec<_> = told.iter().map(|(slice, event)| (*slice, event.as_str())).collect();
    let of_slice = |n| [(Some(n), "slice started"), (Some(n), "succeeded")];
    let expected = [(None, "created"), (None, "claimed")].into_iter().chain(of_slice(1)).chain(of_slice(2));
    assert_eq!(told, expected.chain([(None, "succeeded")]).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_runs_that_something_happened_to_are_told_by_the_lines_of_their_history() {
    let (_folder, store) = store().await;
    assert_eq!(store.newest_line().await.unwrap(), 0);
    let first = store.create(&of_slices(1), at(0)).await.unwrap();
    let line = store.newest_line().await.unwrap();
    let second = store.create(&of_slices(1), at(1)).await.unwrap();
    owned(&store, second, "a", 2).await;
    let told_of = async |line: i64, limit: u32| -> Vec<RunId> {
        store.told_of_since(line, limit).await.unwrap().iter().map(|run| run.id).collect()
    };
    assert_eq!(told_of(0, 9).await, [second, first]);
    assert_eq!(told_of(0, 1).await, [second]);
    assert_eq!(told_of(line, 9).await, [second]);
    assert_eq!(told_of(store.newest_line().await.unwrap(), 9).await, []);
}

#[tokio::test]
async fn what_is_resumed_repeats_nothing_that_succeeded() {
    let (_folder, store) = store().await;
    let id = store.create(&of_slices(3), at(0)).await.unwrap();
    let lease = owned(&store, id, "a", 1).await;
    store.end_slice(&lease, 1, &done(), at(2)).await.unwrap();
    store.end_slice(&lease, 2, &SliceEnd::Failed { error: "no room".to_owned() }, at(2)).await.unwrap();
    store.finish(&lease, &RunEnd::Failed { error: "no room".to_owned() }, at(3)).await.unwrap();
    assert_eq!(store.claim(id, "b", at(4), LEASE).await.unwrap(), Claimed::Ended(RunState::Failed));
    store.reopen(id, at(5)).await.unwrap();
    assert_eq!(states(&store, id).await, [SliceState::Succeeded, SliceState::Pending, SliceState::Pending]);
    let again = owned(&store, id, "b", 6).await;
    assert!(store.start_slice(&again, 1, at(7)).await.is_err(), "the schema refuses it");
    assert_eq!(store.start_slice(&again, 2, at(7)).await.unwrap(), Written::Done);
}

#[tokio::test]
async fn a_run_has_one_owner_and_a_silent_one_loses_it() {
    let (_folder, store) = store().await;
    let id = store.create(&of_slices(1), at(0)).await.unwrap();
    let first = owned(&store, id, "a", 0).await;
    store.start_slice(&first, 1, at(1)).await.unwrap();
    let held = store.claim(id, "b", at(29), LEASE).await.unwrap();
    assert_eq!(held, Claimed::HeldBy { owner: "a".to_owned(), until: at(30) });
    assert_eq!(store.heartbeat(&first, at(20), LEASE).await.unwrap(), Beat::GoOn);
    assert!(matches!(store.claim(id, "b", at(49), LEASE).await.unwrap(), Claimed::HeldBy { .. }));
    assert_eq!(store.run(id).await.unwrap().state_at(at(50)), RunState::Interrupted);
    let second = owned(&store, id, "b", 50).await;
    assert_eq!(states(&store, id).await, [SliceState::Pending]);
    let events = store.history(id).await.unwrap().len();
    assert_eq!(store.heartbeat(&first, at(51), LEASE).await.unwrap(), Beat::Lost);
    assert_eq!(store.start_slice(&first, 1, at(51)).await.unwrap(), Written::Lost);
    assert_eq!(store.end_slice(&first, 1, &done(), at(51)).await.unwrap(), Written::Lost);
    assert_eq!(store.finish(&first, &RunEnd::Succeeded, at(51)).await.unwrap(), Written::Lost);
    assert_eq!(store.release(&first, at(51)).await.unwrap(), Written::Lost);
    assert_eq!(states(&store, id).await, [SliceState::Pending]);
    assert_eq!(store.history(id).await.unwrap().len(), events);
    assert_eq!(store.end_slice(&second, 1, &done(), at(52)).await.unwrap(), Written::Done);
}

#[tokio::test]
async fn a_running_run_hears_that_it_shall_end_and_one_that_nobody_does_ends_at_once() {
    let (_folder, store) = store().await;
    let running = store.create(&of_slices(1), at(0)).await.unwrap();
    let lease = owned(&store, running, "a", 0).await;
    assert_eq!(store.request_cancel(running, at(1)).await.unwrap(), CancelOutcome::Requested);
    assert_eq!(store.heartbeat(&lease, at(2), LEASE).await.unwrap(), Beat::CancelRequested);
    store.finish(&lease, &RunEnd::Cancelled, at(3)).await.unwrap();
    let ended = CancelOutcome::EndedAlready(RunState::Cancelled);
    assert_eq!(store.request_cancel(running, at(4)).await.unwrap(), ended);
    let pending = store.create(&of_slices(1), at(0)).await.unwrap();
    assert_eq!(store.request_cancel(pending, at(1)).await.unwrap(), CancelOutcome::Cancelled);
    assert_eq!(store.claim(pending, "a", at(2), LEASE).await.unwrap(), Claimed::Ended(RunState::Cancelled));
    store.reopen(pending, at(3)).await.unwrap();
    let lease = owned(&store, pending, "a", 4).await;
    assert_eq!(store.heartbeat(&lease, at(5), LEASE).await.unwrap(), Beat::GoOn);
}

#[tokio::test]
async fn a_run_that_is_given_up_may_be_taken_at_once() {
    let (_folder, store) = store().await;
    let id = store.create(&of_slices(1), at(0)).await.unwrap();
    let lease = owned(&store, id, "a", 0).await;
    assert_eq!(store.release(&lease, at(1)).await.unwrap(), Written::Done);
    assert_eq!(store.run(id).await.unwrap().state_at(at(1)), RunState::Interrupted);
    owned(&store, id, "b", 1).await;
}

#[tokio::test]
async fn a_run_whose_owner_is_known_to_be_gone_may_be_taken_before_its_lease_ends() {
    let (_folder, store) = store().await;
    let id = store.create(&of_slices(1), at(0)).await.unwrap();
    let gone = owned(&store, id, "a", 0).await;
    store.start_slice(&gone, 1, at(1)).await.unwrap();
    store.owner_is_gone(id, at(2)).await.unwrap();
    assert_eq!(store.run(id).await.unwrap().state_at(at(2)), RunState::Interrupted);
    assert_eq!(store.heartbeat(&gone, at(3), LEASE).await.unwrap(), Beat::Lost);
    owned(&store, id, "b", 3).await;
    assert_eq!(states(&store, id).await, [SliceState::Pending]);
}

#[tokio::test]
async fn of_two_that_claim_at_once_one_owns_the_run() {
    let (folder, one) = store().await;
    let other = Store::open(&folder.path().join("scheduler.db")).await.unwrap();
    let id = one.create(&of_slices(1), at(0)).await.unwrap();
    let (first, second) = tokio::join!(one.claim(id, "a", at(1), LEASE), other.claim(id, "b", at(1), LEASE));
    let owned = [first.unwrap(), second.unwrap()].iter().filter(|c| matches!(c, Claimed::Owned(_))).count();
    assert_eq!(owned, 1);
}

#[tokio::test]
async fn a_run_that_has_succeeded_or_is_being_done_is_not_opened_again() {
    let (_folder, store) = store().await;
    let id = store.create(&of_slices(0), at(0)).await.unwrap();
    let lease = owned(&store, id, "a", 0).await;
    let refused = store.reopen(id, at(1)).await.unwrap_err();
    assert_eq!(refused.to_string(), "run 1 is running and cannot be reopened");
    store.finish(&lease, &RunEnd::Succeeded, at(1)).await.unwrap();
    assert_eq!(store.reopen(id, at(2)).await.unwrap_err().kind(), domain::ErrorKind::Conflict);
    assert_eq!(store.run(RunId::from(7)).await.unwrap_err().to_string(), "there is no run 7");
}

#[tokio::test]
async fn a_key_is_used_once() {
    let (_folder, store) = store().await;
    let keyed = NewRun { idempotency_key: Some("monday".to_owned()), ..of_slices(1) };
    let first = store.create(&keyed, at(0)).await.unwrap();
    assert_eq!(store.create(&keyed, at(1)).await.unwrap(), first);
    assert_ne!(store.create(&NewRun { job: "other".to_owned(), ..keyed }, at(1)).await.unwrap(), first);
    assert_ne!(store.create(&of_slices(1), at(1)).await.unwrap(), first);
}

#[tokio::test]
async fn what_happened_is_never_changed() {
    let (_folder, store) = store().await;
    store.create(&of_slices(1), at(0)).await.unwrap();
    for sql in [
        "UPDATE run_events SET detail = 'x'",
        "DELETE FROM run_events",
        "DELETE FROM runs",
        "UPDATE runs SET spec = '{}'",
        "DELETE FROM slices",
    ] {
        assert!(sqlx::query(sql).execute(&store.pool).await.is_err(), "{sql}");
    }
}

fn schedule(cron: &str, more: &Value) -> Schedule {
    let mut written = json!({"job": "train", "cron": cron, "spec": {"rows": 5}});
    written.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Schedule::parse("retrain", written).unwrap()
}

fn time(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

/// The decisions about a schedule, oldest first: (first, last, times, run, reason).
async fn decisions(store: &Store) -> Vec<(String, String, Option<u64>, Option<i64>, String)> {
    let mut found = store.decisions("retrain", None, 1_000).await.unwrap();
    found.reverse();
    let row = |d: StoredDecision| (d.first.to_string(), d.last.to_string(), d.times, d.run.map(i64::from), d.reason);
    found.into_iter().map(row).collect()
}

fn row(
    first: &str,
    last: &str,
    times: u64,
    run: Option<i64>,
    why: &str,
) -> (String, String, Option<u64>, Option<i64>, String) {
    (first.to_owned(), last.to_owned(), Some(times), run, why.to_owned())
}

const ONE: &str = "2024-03-09T13:00:00Z";
const TWO: &str = "2024-03-09T14:00:00Z";
const THREE: &str = "2024-03-09T15:00:00Z";
const FOUR: &str = "2024-03-09T16:00:00Z";

#[tokio::test]
async fn a_tick_decides_what_has_come_and_creates_its_run_once() {
    let (folder, store) = store().await;
    let hourly = schedule("@hourly", &json!({"pool": "lake", "priority": 3}));
    let from = time("2024-03-09T12:30:00Z");
    assert_eq!(store.apply(std::slice::from_ref(&hourly), from).await.unwrap(), [Applied::New]);
    assert_eq!(store.apply(std::slice::from_ref(&hourly), from).await.unwrap(), [Applied::Unchanged]);
    assert_eq!(store.tick(time("2024-03-09T12:59:59Z")).await.unwrap(), []);
    let ticked = store.tick(time("2024-03-09T13:00:01Z")).await.unwrap();
    let [Ticked { runs, .. }] = ticked.as_slice() else { panic!("{ticked:?}") };
    assert_eq!(store.tick(time("2024-03-09T13:00:02Z")).await.unwrap(), []);
    let run = store.run(runs[0]).await.unwrap();
    assert_eq!((run.job.as_str(), &run.spec), ("train", &json!({"rows": 5})));
    // Another process on the same file, later: the run still goes on.
    let other = Store::open(&folder.path().join("scheduler.db")).await.unwrap();
    assert_eq!(other.tick(time("2024-03-09T14:00:00Z")).await.unwrap()[0].runs, []);
    let going = "a run went on, and the schedule skips then";
    assert_eq!(decisions(&store).await, [row(ONE, ONE, 1, Some(1), "it was due"), row(TWO, TWO, 1, None, going)]);
    let stored = store.schedule("retrain").await.unwrap();
    assert_eq!((stored.schedule, stored.next), (hourly, Some(time(THREE))));
    let why = store.decisions("retrain", Some(time(TWO)), 9).await.unwrap();
    assert_eq!(why.len(), 1);
}

#[tokio::test]
async fn a_change_decides_first_what_came_before() {
    let (_folder, store) = store().await;
    store.apply(&[schedule("@hourly", &json!({}))], time("2024-03-09T12:30:00Z")).await.unwrap();
    let changed = [schedule("30 * * * *", &json!({}))];
    assert_eq!(store.apply(&changed, time("2024-03-09T14:10:00Z")).await.unwrap(), [Applied::Changed]);
    let superseded = "it was missed, and a later time has the one run for all";
    let expected = [row(ONE, ONE, 1, None, superseded), row(TWO, TWO, 1, Some(1), "it was missed and is made up for")];
    assert_eq!(decisions(&store).await, expected);
    assert_eq!(store.schedule("retrain").await.unwrap().next, Some(time("2024-03-09T14:30:00Z")));
}

#[tokio::test]
async fn a_pause_misses_nothing_and_is_made_up_for_as_asked() {
    for (catch_up, runs) in [(CatchUp::None, 0), (CatchUp::Last, 1), (CatchUp::All, 3)] {
        let (_folder, store) = store().await;
        store.apply(&[schedule("@hourly", &json!({}))], time("2024-03-09T12:30:00Z")).await.unwrap();
        store.pause("retrain", "the market is closed", time("2024-03-09T12:40:00Z")).await.unwrap();
        store.pause("retrain", "again", time("2024-03-09T12:50:00Z")).await.unwrap();
        store.tick(time("2024-03-09T13:30:00Z")).await.unwrap();
        let paused = store.schedule("retrain").await.unwrap();
        assert_eq!(paused.paused_since, Some(time("2024-03-09T12:40:00Z")));
        let made_up_for = store.resume("retrain", catch_up, time("2024-03-09T15:30:00Z")).await.unwrap();
        assert_eq!(made_up_for.len(), runs, "{catch_up:?}");
        assert_eq!(store.schedule("retrain").await.unwrap().paused_since, None);
        let found = decisions(&store).await;
        let why = "the schedule was paused";
        assert_eq!(found[..2], [row(ONE, ONE, 1, None, why), row(TWO, THREE, 2, None, why)]);
        assert_eq!(found.len(), 2 + runs);
        store.tick(time(FOUR)).await.unwrap();
        let last = decisions(&store).await.pop().unwrap();
        assert_eq!(last.3.is_some(), runs == 0, "a run goes on where one was made up for: {last:?}");
    }
}

#[tokio::test]
async fn a_run_started_by_hand_is_started_once_per_key() {
    let (_folder, store) = store().await;
    store.apply(&[schedule("@hourly", &json!({}))], time("2024-03-09T12:30:00Z")).await.unwrap();
    let (of, at) = (time("2024-03-09T12:31:00Z"), time("2024-03-09T12:31:00Z"));
    let first = store.trigger("retrain", of, Some("deploy 7"), at).await.unwrap();
    assert_eq!(store.trigger("retrain", of, Some("deploy 7"), at).await.unwrap(), first);
    let others =
        [store.trigger("retrain", of, None, at).await.unwrap(), store.trigger("retrain", of, None, at).await.unwrap()];
    assert!(others[0] != first && others[0] != others[1]);
    assert_eq!(decisions(&store).await.len(), 3);
    let unknown = store.trigger("nobody", of, None, at).await.unwrap_err();
    assert_eq!(unknown.to_string(), "there is no schedule `nobody`");
}

#[tokio::test]
async fn two_schedulers_on_one_file_create_every_run_once() {
    let (folder, one) = store().await;
    let other = Store::open(&folder.path().join("scheduler.db")).await.unwrap();
    one.apply(&[schedule("* * * * *", &json!({"overlap": "allow"}))], time("2024-03-09T12:00:30Z")).await.unwrap();
    let ticks = async |store: &Store| {
        for minute in 1..=40 {
            store.tick(time("2024-03-09T12:00:00Z").plus_micros(minute * 60_000_000)).await.unwrap();
        }
    };
    tokio::join!(ticks(&one), ticks(&other));
    let found = decisions(&one).await;
    assert_eq!(found.len(), 40);
    assert!((1..=40).all(|number| found.iter().filter(|decision| decision.3 == Some(number)).count() == 1));
}

#[tokio::test]
async fn decisions_and_whose_a_run_is_never_change() {
    let (_folder, store) = store().await;
    store.apply(&[schedule("@hourly", &json!({}))], time("2024-03-09T12:30:00Z")).await.unwrap();
    store.tick(time(ONE)).await.unwrap();
    for sql in [
        "UPDATE decisions SET reason = 'another'",
        "DELETE FROM decisions",
        "UPDATE runs SET nominal_ms = 0",
        "DELETE FROM schedule_events",
    ] {
        assert!(sqlx::query(sql).execute(&store.pool).await.is_err(), "{sql}");
    }
}

async fn begun(store: &Store, second: i64) -> Option<Begun> {
    store.begin_next("a", time(ONE).plus_micros(second * 1_000_000), LEASE).await.unwrap()
}

/// Seconds after the first full hour, as an instant.
fn past(second: i64) -> Timestamp {
    time(ONE).plus_micros(second * 1_000_000)
}

fn failed() -> RunEnd {
    RunEnd::Failed { error: "no rows".to_owned() }
}

#[tokio::test]
async fn a_failed_attempt_is_tried_again_after_its_pause_and_the_last_one_ends_the_run() {
    let (_folder, store) = store().await;
    store
        .apply(&[schedule("@hourly", &json!({"attempts": 2, "timeout_s": 60}))], time("2024-03-09T12:30:00Z"))
        .await
        .unwrap();
    store.tick(past(0)).await.unwrap();
    let first = begun(&store, 1).await.unwrap();
    assert_eq!((first.attempt, first.timeout, first.of), (1, Duration::from_mins(1), past(0)));
    assert_eq!((first.schedule.as_str(), begun(&store, 2).await), ("retrain", None));
    assert_eq!(store.end_attempt(&first.lease, &failed(), 0.0, past(3)).await.unwrap(), Ended::Retried(past(13)));
    assert_eq!(store.end_attempt(&first.lease, &failed(), 0.0, past(4)).await.unwrap(), Ended::Lost);
    assert_eq!(begun(&store, 12).await, None);
    assert_eq!(store.next_due(past(12)).await.unwrap(), Some(past(13)));
    // A run that has come, and is not begun since others go on, is nothing to look for again and again.
    assert_eq!(store.next_due(past(13)).await.unwrap(), Some(time(TWO)));
    let second = begun(&store, 13).await.unwrap();
    assert_eq!((second.attempt, second.run.id), (2, first.run.id));
    assert_eq!(store.end_attempt(&second.lease, &failed(), 0.0, past(14)).await.unwrap(), Ended::Run);
    let run = store.run(first.run.id).await.unwrap();
    assert_eq!((run.state_at(past(15)), run.error.as_deref()), (RunState::Failed, Some("no rows")));
    let told: Vec<String> = store.history(run.id).await.unwrap().into_iter().map(|event| event.event).collect();
    assert_eq!(told, ["created", "claimed", "retried", "claimed", "failed"]);
}

#[tokio::test]
async fn a_silent_owner_has_used_an_attempt_and_changes_nothing_any_more() {
    let (_folder, store) = store().await;
    store.apply(&[schedule("@hourly", &json!({"attempts": 2}))], time("2024-03-09T12:30:00Z")).await.unwrap();
    store.tick(past(0)).await.unwrap();
    let silent = begun(&store, 1).await.unwrap();
    assert_eq!(begun(&store, 30).await, None, "its lease lasts until 31");
    let taken = begun(&store, 31).await.unwrap();
    assert_eq!((taken.run.id, taken.attempt), (silent.run.id, 2));
    assert_eq!(store.end_attempt(&silent.lease, &RunEnd::Succeeded, 0.0, past(32)).await.unwrap(), Ended::Lost);
    assert_eq!(begun(&store, 70).await, None);
    let run = store.run(taken.run.id).await.unwrap();
    assert_eq!(run.state_at(past(70)), RunState::Failed);
    assert_eq!(run.error.as_deref(), Some("its owner fell silent in the last attempt"));
}

#[tokio::test]
async fn a_run_that_was_asked_to_end_is_not_tried_again() {
    let (_folder, store) = store().await;
    store.apply(&[schedule("@hourly", &json!({}))], time("2024-03-09T12:30:00Z")).await.unwrap();
    store.tick(past(0)).await.unwrap();
    let going = begun(&store, 1).await.unwrap();
    assert_eq!(store.request_cancel(going.run.id, past(2)).await.unwrap(), CancelOutcome::Requested);
    assert_eq!(store.end_attempt(&going.lease, &failed(), 0.0, past(3)).await.unwrap(), Ended::Run);
}

#[tokio::test]
async fn runs_wait_for_their_pool_their_schedule_and_their_turn() {
    let (_folder, store) = store().await;
    let named = |name: &str, more: &Value| {
        let mut written = json!({"job": name, "cron": "@hourly"});
        written.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Schedule::parse(name, written).unwrap()
    };
    let schedules = [
        named("compact", &json!({"pool": "lake"})),
        named("vacuum", &json!({"pool": "lake", "priority": 5})),
        named("drift", &json!({"overlap": "allow"})),
        named("train", &json!({})),
    ];
    store.apply(&schedules, time("2024-03-09T12:30:00Z")).await.unwrap();
    store.tick(past(0)).await.unwrap();
    for name in ["drift", "train"] {
        store.trigger(name, past(0), None, past(0)).await.unwrap();
    }
    let mut going = Vec::new();
    while let Some(next) = begun(&store, 1).await {
        going.push(next);
    }
    let names: Vec<&str> = going.iter().map(|begun| begun.schedule.as_str()).collect();
    assert_eq!(names, ["vacuum", "drift", "train", "drift"]);
    store.end_attempt(&going[0].lease, &RunEnd::Succeeded, 0.0, past(2)).await.unwrap();
    assert_eq!(begun(&store, 3).await.unwrap().schedule, "compact");
    store.end_attempt(&going[2].lease, &RunEnd::Succeeded, 0.0, past(4)).await.unwrap();
    assert_eq!(begun(&store, 5).await.unwrap().schedule, "train");
    assert_eq!(begun(&store, 6).await, None);
}
