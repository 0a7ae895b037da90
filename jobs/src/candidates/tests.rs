//! Candidates in a workshop with real tables and models: every way to be judged.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use lake::registry::life::ModelState;
use models::TrainParameters;

use super::*;
use crate::{
    train::{Then, TrainRequest, train},
    workshop::example::{Market, START, workshop},
};

/// A clock that is set by hand.
struct Set(AtomicI64);

impl Clock for Set {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }
}

struct Town {
    _folder: tempfile::TempDir,
    workshop: Workshop,
    market: Market,
    clock: Arc<Set>,
}

impl Town {
    /// A market whose first minutes have made a champion.
    async fn new(mut market: Market) -> Self {
        let (folder, mut workshop) = workshop().await;
        let clock = Arc::new(Set(AtomicI64::new(START.plus_micros(86_400_000_000).micros())));
        workshop.clock = clock.clone();
        market.run(&workshop, 4_000).await;
        let town = Self { _folder: folder, workshop, market, clock };
        town.train(Then::Promote, TrainParameters::default()).await;
        town
    }

    async fn train(&self, then: Then, parameters: TrainParameters) -> i64 {
        let parameters = TrainParameters { trees: 100, ..parameters };
        let request = TrainRequest::on_every_row(parameters, then, "test", "due");
        train(&self.workshop, &request).await.unwrap().version
    }

    async fn nominate(&self, parameters: TrainParameters) -> i64 {
        self.train(Then::Nominate { work: None }, parameters).await
    }

    async fn run(&mut self, ticks: usize) {
        self.market.run(&self.workshop, ticks).await;
    }

    async fn judge(&self) -> Vec<Judged> {
        judge_all(&self.workshop, &Gates::default(), "evaluate").await.unwrap()
    }

    async fn state(&self, version: i64) -> ModelState {
        self.workshop.registry.states().await.unwrap()[&version]
    }

    fn wait(&self, hours: i64) {
        self.clock.0.fetch_add(hours * 3_600_000_000, Ordering::Relaxed);
    }
}

fn seed(seed: u64) -> TrainParameters {
    TrainParameters { seed, ..TrainParameters::default() }
}

#[tokio::test]
async fn a_candidate_waits_for_newer_rows_and_then_becomes_champion() {
    let mut town = Town::new(Market::calm()).await;
    let version = town.nominate(seed(43)).await;
    let waits = town.judge().await;
    assert_eq!((waits[0].version, &waits[0].fate), (version, &Fate::Waits));
    assert_eq!(waits[0].reasons, ["0 of 2000 rows newer than both trainings"]);
    town.run(1_500).await;
    let judged = town.judge().await;
    assert_eq!((judged.len(), &judged[0].fate), (1, &Fate::Promoted), "{}", judged[0]);
    let promotion = town.workshop.registry.promotions().await.unwrap().pop().unwrap();
    assert_eq!((promotion.version, promotion.previous, promotion.actor.as_str()), (2, Some(1), "evaluate"));
    assert!(promotion.reason.contains("rank correlation: 0.9"), "{}", promotion.reason);
    assert_eq!((town.state(1).await, town.state(2).await), (ModelState::Retired, ModelState::Champion));
    assert_eq!(town.judge().await, [], "nobody waits any more");
    // Both were measured on the same rows, none of which either was trained on.
    let of = async |version| town.workshop.registry.evaluations(version).await.unwrap().pop().unwrap();
    let (candidate, champion) = (of(2).await, of(1).await);
    assert_eq!(candidate.slice["digest"], champion.slice["digest"]);
    assert_eq!((&candidate.slice["rows"], &candidate.slice["compared_with"]), (&json!(4_500), &json!(1)));
    assert_eq!(champion.slice["compared_with"], json!(2));
    let gates = candidate.report["gates"].as_array().unwrap();
    assert!(gates.len() == 5 && gates.iter().all(|gate| gate["passed"] == true), "{gates:?}");
    assert!(candidate.report["stability"]["alert_overlap"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn labelled_rows_must_hold_enough_anomalies_and_the_area_decides() {
    let mut town = Town::new(Market::labelled()).await;
    let version = town.nominate(seed(43)).await;
    town.run(4_000).await;
    let strict = Gates { least_anomalies: 1_000, ..Gates::default() };
    let waits = judge_all(&town.workshop, &strict, "evaluate").await.unwrap();
    assert!(waits[0].fate == Fate::Waits && waits[0].reasons[0].contains("of 1000 labelled anomalies"), "{}", waits[0]);
    let judged = town.judge().await;
    assert_eq!((judged[0].version, &judged[0].fate), (version, &Fate::Promoted), "{}", judged[0]);
    assert!(judged[0].to_string().contains("PR-AUC: 0."), "{}", judged[0]);
    let report = town.workshop.registry.evaluations(version).await.unwrap().pop().unwrap().report;
    let read: Report = serde_json::from_value(report).unwrap();
    assert!(read.labelled.unwrap().intervals.unwrap().pr_auc.is_some());
}

#[tokio::test]
async fn a_poor_candidate_is_rejected_with_the_reasons_and_kept() {
    let mut town = Town::new(Market::labelled()).await;
    // One tree of two rows knows nothing.
    let parameters = TrainParameters { max_samples: 2, ..seed(5) };
    let version = town.nominate(parameters).await;
    town.run(4_000).await;
    let judged = town.judge().await;
    assert_eq!(judged[0].fate, Fate::Rejected, "{}", judged[0]);
    assert!(judged[0].reasons[0].starts_with("scores: "), "{}", judged[0]);
    assert!(judged[0].reasons[1].starts_with("PR-AUC: 0."), "{}", judged[0]);
    assert_eq!((town.state(1).await, town.state(version).await), (ModelState::Champion, ModelState::Rejected));
    let said = town.workshop.registry.judgements().await.unwrap().pop().unwrap();
    assert_eq!((said.verdict, said.reasons), (Verdict::Rejected, judged[0].reasons.clone()));
}

#[tokio::test]
async fn without_labels_too_many_calls_are_a_reason() {
    let mut town = Town::new(Market::calm()).await;
    town.nominate(seed(43)).await;
    town.run(300).await;
    // What follows is another market, in which much more stands out.
    town.market.shake();
    town.run(1_200).await;
    let judged = town.judge().await;
    assert_eq!(judged[0].fate, Fate::Rejected, "{}", judged[0]);
    assert!(judged[0].reasons.iter().any(|reason| reason.starts_with("called anomalies: ")), "{}", judged[0]);
}

#[tokio::test]
async fn a_candidate_does_not_wait_for_ever() {
    let town = Town::new(Market::calm()).await;
    let version = town.nominate(seed(43)).await;
    town.wait(23);
    assert_eq!(town.judge().await[0].fate, Fate::Waits);
    town.wait(1);
    let judged = town.judge().await;
    assert_eq!(judged[0].fate, Fate::Expired);
    assert_eq!(judged[0].reasons, ["there were only 0 of 2000 rows newer than both trainings after 24 h"]);
    assert_eq!(town.state(version).await, ModelState::Expired);
}

#[tokio::test]
async fn a_candidate_whose_file_is_damaged_is_rejected() {
    let mut town = Town::new(Market::calm()).await;
    let version = town.nominate(seed(43)).await;
    town.run(1_000).await;
    let artifact = town.workshop.registry.model(version).await.unwrap().model.artifact;
    std::fs::write(town.workshop.models_dir.join(artifact.path), b"torn").unwrap();
    let judged = town.judge().await;
    assert_eq!(judged[0].fate, Fate::Rejected);
    assert!(judged[0].reasons[0].starts_with("it cannot be loaded: "), "{}", judged[0]);
}

#[tokio::test]
async fn a_damaged_champion_does_not_stand_in_the_way() {
    let mut town = Town::new(Market::calm()).await;
    let version = town.nominate(seed(43)).await;
    town.run(1_500).await;
    let artifact = town.workshop.registry.model(1).await.unwrap().model.artifact;
    std::fs::write(town.workshop.models_dir.join(artifact.path), b"torn").unwrap();
    let judged = town.judge().await;
    assert_eq!((judged[0].version, &judged[0].fate), (version, &Fate::Promoted), "{}", judged[0]);
}

#[tokio::test]
async fn of_two_candidates_the_younger_is_held_against_the_older_that_passed() {
    let mut town = Town::new(Market::calm()).await;
    let versions = [town.nominate(seed(43)).await, town.nominate(seed(44)).await];
    town.run(1_500).await;
    let judged = town.judge().await;
    assert_eq!(judged.iter().map(|judged| judged.version).collect::<Vec<_>>(), versions);
    assert!(judged.iter().all(|judged| judged.fate == Fate::Promoted), "{judged:?}");
    let evaluation = town.workshop.registry.evaluations(versions[1]).await.unwrap().pop().unwrap();
    assert_eq!(evaluation.slice["compared_with"], json!(versions[0]));
}
