//! The store as its callers meet it: one owner at a time, nothing done twice, everything on record.

use serde_json::json;

use super::*;

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
