//! What people ask about models, schedules and runs, and what they change: the same for the command line and the service.
//!
//! Whoever asks is named by what it writes. A model that cannot be loaded is never made champion.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc, time::Duration};

use domain::{Clock, Timestamp};
use lake::{
    Lake,
    registry::{
        Expected, ModelRecord, Promoted, Registry,
        life::{DriftCheck, Judgement, ModelPin, ModelState, Verdict},
    },
};
use scheduler::{Observer, Run, RunId, Store};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// What the crates below call it; the service knows them by this module.
pub use lake::registry::Evaluation;
pub use scheduler::{
    CancelOutcome, RunState, StoredEvent,
    store::schedules::{CatchUp, StoredDecision, StoredSchedule},
};

use crate::{alerts::Alerts, error::Error, library::Models, metrics::Metrics, scheduled};

/// The registry's file in a data folder.
pub const REGISTRY: &str = "registry.db";

/// The folder of the model files in a data folder.
pub const MODELS: &str = "models";

/// The file of runs and schedules in a data folder.
pub const SCHEDULER: &str = "scheduler.db";

/// How often the metrics are told how the runs are.
const LOOK: Duration = Duration::from_secs(5);

/// Runs whose states are remembered, at most.
const RUNS: u32 = 1_000;

/// Decisions that are shown of a schedule.
const DECISIONS: u32 = 20;

/// The registry, the store of runs, and the present.
#[derive(Clone)]
pub struct Control {
    registry: Registry,
    models: Models,
    store: Store,
    clock: Arc<dyn Clock>,
}

/// The clock has no form.
impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("registry", &self.registry).field("store", &self.store).finish_non_exhaustive()
    }
}

/// A model and where it is in its life.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelEntry {
    /// Its record.
    pub record: ModelRecord,
    /// Where it is.
    pub state: ModelState,
    /// Whether the rows that it was trained on are kept for it by hand.
    pub is_pinned: bool,
}

/// Everything about a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelDetail {
    /// The model.
    pub entry: ModelEntry,
    /// What happened to it, oldest first.
    pub history: Vec<Happened>,
    /// What was measured, oldest first.
    pub evaluations: Vec<Evaluation>,
    /// What the last look at drift found; none before the first.
    pub drift: Option<DriftCheck>,
}

/// Something that happened to a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// When.
    pub at: Timestamp,
    /// To which.
    pub version: i64,
    /// What.
    pub what: &'static str,
    /// By whom: a person, a job or the holder of an API key.
    pub who: String,
    /// Why.
    pub why: String,
}

/// A run and where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct RunEntry {
    /// The run.
    pub run: Run,
    /// Where it is.
    pub state: RunState,
}

/// Where the runs were at the last look, for [`Control::changed_runs`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenRuns {
    /// The newest line of their histories; none before the first look.
    line: Option<i64>,
    states: BTreeMap<RunId, RunState>,
}

impl SeenRuns {
    fn going(&self) -> Vec<RunId> {
        let going = self.states.iter().filter(|(_, state)| **state == RunState::Running);
        going.map(|(id, _)| *id).collect()
    }

    /// Takes in a run; whether its state is another than it was.
    fn see(&mut self, entry: &RunEntry) -> bool {
        self.states.insert(entry.run.id, entry.state) != Some(entry.state)
    }

    /// Keeps few of those that have ended.
    fn forget(&mut self) {
        let surplus = self.states.len().saturating_sub(RUNS as usize);
        let ended = self.states.iter().filter(|(_, state)| state.is_ended()).map(|(id, _)| *id);
        for id in ended.take(surplus).collect::<Vec<_>>() {
            self.states.remove(&id);
        }
    }
}

/// Which runs are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// In this state only.
    pub state: Option<RunState>,
    /// Created at this time or later.
    pub since: Option<Timestamp>,
}

impl Control {
    /// What the parts of a program can be asked.
    #[must_use]
    pub fn new(registry: Registry, models: Models, store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { registry, models, store, clock }
    }

    /// [`Control::new`] over the files of a data folder, made where they are missing.
    ///
    /// # Errors
    /// Where one of them cannot be opened.
    pub async fn open(folder: &Path, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let registry = Registry::open(&folder.join(REGISTRY)).await?;
        let models = Models::new(registry.clone(), folder.join(MODELS));
        Ok(Self::new(registry, models, Store::open(&folder.join(SCHEDULER)).await?, clock))
    }

    /// The alerts in a lake, whose models and registry these are.
    #[must_use]
    pub fn alerts(&self, lake: Arc<Lake>) -> Alerts {
        Alerts::new(lake, self.registry.clone(), self.models.clone(), self.clock.clone())
    }

    /// Asks the registry something small, to see that it answers.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn ask(&self) -> Result<(), Error> {
        self.registry.champion().await?;
        Ok(())
    }

    /// The store of runs and schedules.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }
}

// Models.
impl Control {
    /// Every model, newest first.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub async fn models(&self) -> Result<Vec<ModelEntry>, Error> {
        let (states, pinned) = (self.registry.states().await?, self.registry.pinned().await?);
        let entry = |record: ModelRecord| ModelEntry {
            state: states.get(&record.version).copied().unwrap_or(ModelState::Registered),
            is_pinned: pinned.iter().any(|pin| pin.version == record.version),
            record,
        };
        Ok(self.registry.models().await?.into_iter().rev().map(entry).collect())
    }

    /// Everything about a model; about the champion, where no version is given.
    ///
    /// # Errors
    /// Where there is none, or the registry cannot be read.
    pub async fn model(&self, version: Option<i64>) -> Result<ModelDetail, Error> {
        let version = match version {
            Some(version) => version,
            None => self.champion().await?,
        };
        let record = self.registry.model(version).await?;
        let state = self.registry.states().await?.get(&version).copied().unwrap_or(ModelState::Registered);
        let is_pinned = self.registry.pinned().await?.iter().any(|pin| pin.version == version);
        let mut history = self.history().await?;
        history.retain(|happened| happened.version == version);
        Ok(ModelDetail {
            entry: ModelEntry { record, state, is_pinned },
            history,
            evaluations: self.registry.evaluations(version).await?,
            drift: self.registry.last_drift(version).await?,
        })
    }

    async fn champion(&self) -> Result<i64, Error> {
        let champion = self.registry.champion().await?.map(|record| record.version);
        champion.ok_or_else(|| Error::Nothing {
            what: "there is no champion yet".to_owned(),
            remedy: "`sentinel train` makes the first model",
        })
    }

    /// Makes a model champion; where `expected` is given, only if that one is. Live scorers swap at once.
    ///
    /// # Errors
    /// Where there is no such model, or it cannot be loaded; [`Error::Overtaken`] where another is champion.
    pub async fn promote(&self, version: i64, expected: Option<i64>, who: &str, why: &str) -> Result<(), Error> {
        self.models.load(version).await?;
        let expected = expected.map_or(Expected::Anyone, Expected::Version);
        match self.registry.promote(version, expected, self.clock.now(), who, why).await? {
            Promoted::Promoted | Promoted::AlreadyChampion => Ok(()),
            Promoted::Conflict { current } => Err(Error::Overtaken { champion: current }),
        }
    }

    /// Makes the champion before the present one champion again; its version.
    ///
    /// # Errors
    /// [`Error::Nothing`] where there was none; as [`Control::promote`].
    pub async fn roll_back(&self, who: &str, why: &str) -> Result<i64, Error> {
        let newest = self.registry.promotions().await?.pop();
        let Some((champion, previous)) = newest.and_then(|newest| Some((newest.version, newest.previous?))) else {
            return Err(Error::Nothing {
                what: "there was no champion before the present one".to_owned(),
                remedy: "`sentinel model promote V` makes any version champion",
            });
        };
        self.promote(previous, Some(champion), who, why).await?;
        Ok(previous)
    }

    /// Keeps the rows that a model was trained on, or does not any more; whether that changed anything.
    ///
    /// # Errors
    /// Where there is no such model.
    pub async fn pin(&self, version: i64, pinned: bool, who: &str, why: &str) -> Result<bool, Error> {
        let pin = ModelPin { version, at: self.clock.now(), actor: who.to_owned(), note: why.to_owned() };
        Ok(self.registry.pin(&pin, pinned).await?)
    }

    /// Who did what to which model when and why, oldest first.
    ///
    /// # Errors
    /// Where the registry cannot be read.
    pub async fn history(&self) -> Result<Vec<Happened>, Error> {
        let (models, judgements) = (self.registry.models().await?, self.registry.judgements().await?);
        let nominated = |version| judgements.iter().any(|judgement| judgement.version == version);
        let registered = models.iter().filter(|record| !nominated(record.version)).map(|record| Happened {
            at: record.model.created,
            version: record.version,
            what: "registered",
            who: "train".to_owned(),
            why: String::new(),
        });
        // What a judgement promoted, the promotion tells.
        let judged = judgements.iter().filter(|judgement| judgement.verdict != Verdict::Promoted).map(happened);
        let promotions = self.registry.promotions().await?;
        let promoted = promotions.into_iter().map(|promotion| Happened {
            at: promotion.at,
            version: promotion.version,
            what: "promoted",
            who: promotion.actor,
            why: promotion.reason,
        });
        let mut history: Vec<Happened> = registered.chain(judged).chain(promoted).collect();
        // The sort keeps the order of what happened at one time: first it is registered.
        history.sort_by_key(|happened| happened.at);
        Ok(history)
    }
}

fn happened(judgement: &Judgement) -> Happened {
    let Judgement { version, at, verdict, actor, reasons } = judgement;
    Happened { at: *at, version: *version, what: verdict.as_str(), who: actor.clone(), why: reasons.join("; ") }
}

// Schedules.
impl Control {
    /// Every schedule, by name.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn schedules(&self) -> Result<Vec<StoredSchedule>, Error> {
        Ok(self.store.schedules().await?)
    }

    /// A schedule and what was decided about it, newest first.
    ///
    /// # Errors
    /// Where there is none with this name.
    pub async fn schedule(&self, name: &str) -> Result<(StoredSchedule, Vec<StoredDecision>), Error> {
        Ok((self.store.schedule(name).await?, self.store.decisions(name, None, DECISIONS).await?))
    }

    /// Starts a schedule by hand; with a key, once. The run.
    ///
    /// # Errors
    /// Where there is none with this name.
    pub async fn trigger(&self, name: &str, of: Option<Timestamp>, key: Option<&str>) -> Result<RunId, Error> {
        let now = self.clock.now();
        Ok(self.store.trigger(name, of.unwrap_or(now), key, now).await?)
    }

    /// Pauses a schedule.
    ///
    /// # Errors
    /// Where there is none with this name.
    pub async fn pause(&self, name: &str, why: &str) -> Result<(), Error> {
        Ok(self.store.pause(name, why, self.clock.now()).await?)
    }

    /// Ends a pause; the runs that make up for it.
    ///
    /// # Errors
    /// Where there is none with this name.
    pub async fn resume(&self, name: &str, catch_up: CatchUp) -> Result<Vec<RunId>, Error> {
        Ok(self.store.resume(name, catch_up, self.clock.now()).await?)
    }
}

// Runs.
impl Control {
    /// The newest runs that are asked for, newest first.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn runs(&self, filter: RunFilter, limit: u32) -> Result<Vec<RunEntry>, Error> {
        let now = self.clock.now();
        let runs = self.store.runs_in(filter.state, filter.since, limit, now).await?.into_iter();
        Ok(runs.map(|run| RunEntry { state: run.state_at(now), run }).collect())
    }

    /// A run and what happened to it, oldest first.
    ///
    /// # Errors
    /// Where there is none with this number.
    pub async fn run(&self, run: i64) -> Result<(RunEntry, Vec<StoredEvent>), Error> {
        // What is written before the end is there once the end is.
        let run = self.store.run(RunId::from(run)).await?;
        let history = self.store.history(run.id).await?;
        Ok((RunEntry { state: run.state_at(self.clock.now()), run }, history))
    }

    /// The runs whose state is another than at the look before, oldest first; at the first look none, it is what the
    /// second is compared with.
    ///
    /// Few rows are read, however many runs there are: what a line of history tells of, and what an owner does, whose
    /// silence no line tells.
    ///
    /// # Errors
    /// Where the store cannot be read; the next look makes up for it.
    pub async fn changed_runs(&self, seen: &mut SeenRuns) -> Result<Vec<RunEntry>, Error> {
        let newest = self.store.newest_line().await?;
        let mut runs = match seen.line {
            None => self.store.runs(None, RUNS).await?,
            Some(line) if line < newest => self.store.told_of_since(line, RUNS).await?,
            Some(_) => Vec::new(),
        };
        for id in seen.going() {
            if runs.iter().all(|run| run.id != id) {
                runs.push(self.store.run(id).await?);
            }
        }
        runs.sort_by_key(|run| run.id);
        let now = self.clock.now();
        let entries = runs.into_iter().map(|run| RunEntry { state: run.state_at(now), run });
        let changed: Vec<_> = entries.filter(|entry| seen.see(entry)).collect();
        seen.forget();
        let is_first = seen.line.replace(newest).is_none();
        Ok(if is_first { Vec::new() } else { changed })
    }

    /// Tells the metrics again and again how the runs are, for a process that has no scheduler, until it is cancelled.
    pub async fn watch_runs(&self, metrics: &Metrics, cancel: &CancellationToken) {
        let jobs = scheduled::names();
        while !cancel.is_cancelled() {
            match self.store.health(&jobs, self.clock.now()).await {
                Ok(health) => metrics.looked(&health),
                Err(error) => warn!(%error, "the runs cannot be looked at; it is tried again"),
            }
            tokio::select! { () = tokio::time::sleep(LOOK) => {}, () = cancel.cancelled() => {} }
        }
    }

    /// Asks a run to end.
    ///
    /// # Errors
    /// Where there is none with this number.
    pub async fn cancel(&self, run: i64) -> Result<CancelOutcome, Error> {
        Ok(self.store.request_cancel(RunId::from(run), self.clock.now()).await?)
    }

    /// Lets a run of a schedule that failed or was cancelled be done again.
    ///
    /// # Errors
    /// Where there is none with this number, it is of no schedule, or it has succeeded or goes on.
    pub async fn retry(&self, run: i64) -> Result<(), Error> {
        if self.store.run(RunId::from(run)).await?.schedule.is_none() {
            return Err(Error::Invalid(format!(
                "run {run} is of no schedule: `sentinel backfill resume {run}` does it"
            )));
        }
        Ok(self.store.reopen(RunId::from(run), self.clock.now()).await?)
    }
}

#[cfg(test)]
mod tests {
    use domain::ErrorKind;
    use models::TrainParameters;
    use scheduler::NewRun;

    use super::*;
    use crate::{
        train::{Then, TrainRequest, train},
        workshop::{
            Workshop,
            example::{Market, workshop},
        },
    };

    async fn control() -> (tempfile::TempDir, Workshop, Control) {
        let (folder, workshop) = workshop().await;
        Market::labelled().run(&workshop, 200).await;
        let store = Store::open(&folder.path().join("scheduler.db")).await.unwrap();
        let models = Models::new(workshop.registry.clone(), workshop.models_dir.clone());
        let control = Control::new(workshop.registry.clone(), models, store, workshop.clock.clone());
        (folder, workshop, control)
    }

    async fn trained(workshop: &Workshop, then: Then) -> i64 {
        let parameters = TrainParameters { trees: 10, ..TrainParameters::default() };
        let request = TrainRequest::on_every_row(parameters, then, "train", "due");
        train(workshop, &request).await.unwrap().version
    }

    #[tokio::test]
    async fn who_did_what_to_which_model_is_told_in_order() {
        let (_folder, workshop, control) = control().await;
        let error = control.model(None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(control.roll_back("ann", "no").await.is_err(), "there is nothing to go back to");
        trained(&workshop, Then::Promote).await;
        trained(&workshop, Then::Nominate { work: None }).await;
        trained(&workshop, Then::Register).await;
        control.promote(3, Some(1), "ann", "it is better").await.unwrap();
        let error = control.promote(2, Some(1), "bob", "it is better").await.unwrap_err();
        assert!(matches!(error, Error::Overtaken { champion: Some(3) }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(control.roll_back("ann", "it was not").await.unwrap(), 1);
        let history = control.history().await.unwrap();
        let told: Vec<_> =
            history.iter().map(|one| (one.version, one.what, one.who.as_str(), one.why.as_str())).collect();
        assert_eq!(
            told,
            [
                (1, "registered", "train", ""),
                (3, "registered", "train", ""),
                (2, "candidate", "train", "due"),
                (1, "promoted", "train", "due"),
                (3, "promoted", "ann", "it is better"),
                (1, "promoted", "ann", "it was not"),
            ]
        );
        let states: Vec<_> =
            control.models().await.unwrap().iter().map(|entry| (entry.record.version, entry.state)).collect();
        let expected = [(3, ModelState::Retired), (2, ModelState::Candidate), (1, ModelState::Champion)];
        assert_eq!(states, expected);
        let champion = control.model(None).await.unwrap();
        assert_eq!((champion.entry.record.version, champion.history.len()), (1, 3));
    }

    #[tokio::test]
    async fn a_model_that_cannot_be_loaded_is_not_made_champion() {
        let (_folder, workshop, control) = control().await;
        trained(&workshop, Then::Promote).await;
        let version = trained(&workshop, Then::Register).await;
        let artifact = workshop.registry.model(version).await.unwrap().model.artifact;
        std::fs::write(workshop.models_dir.join(artifact.path), b"torn").unwrap();
        assert_eq!(control.promote(version, None, "ann", "").await.unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(control.promote(9, None, "ann", "").await.unwrap_err().kind(), ErrorKind::NotFound);
        assert!(control.pin(version, true, "ann", "for the audit").await.unwrap());
        assert!(control.model(Some(version)).await.unwrap().entry.is_pinned);
    }

    #[tokio::test]
    async fn a_run_is_told_once_for_each_state_in_which_a_look_finds_it() {
        let (_folder, _workshop, control) = control().await;
        let new = |job: &str| NewRun {
            job: job.to_owned(),
            spec: serde_json::json!({}),
            slices: Vec::new(),
            idempotency_key: None,
        };
        let (store, now) = (control.store(), control.clock.now());
        let first = store.create(&new("fill"), now).await.unwrap();
        let mut seen = SeenRuns::default();
        assert_eq!(control.changed_runs(&mut seen).await.unwrap(), []);
        let second = store.create(&new("fill"), now).await.unwrap();
        // Its lease is over at once: nobody says that its owner is silent.
        store.claim(first, "ann", now, Duration::ZERO).await.unwrap();
        let mut states = async || -> Vec<(RunId, RunState)> {
            let changed = control.changed_runs(&mut seen).await.unwrap();
            changed.iter().map(|entry| (entry.run.id, entry.state)).collect()
        };
        assert_eq!(states().await, [(first, RunState::Interrupted), (second, RunState::Pending)]);
        assert_eq!(states().await, []);
        store.claim(second, "ann", now, Duration::from_secs(30)).await.unwrap();
        assert_eq!(states().await, [(second, RunState::Running)]);
        store.request_cancel(first, now).await.unwrap();
        assert_eq!(states().await, [(first, RunState::Cancelled)]);
        store.reopen(first, now).await.unwrap();
        assert_eq!(states().await, [(first, RunState::Pending)]);
        assert_eq!(states().await, []);
    }

    #[test]
    fn an_owner_that_fell_silent_is_looked_for_and_ended_runs_are_forgotten() {
        let running = |id: i64| (RunId::from(id), RunState::Running);
        let ended = |id: i64| (RunId::from(id), RunState::Succeeded);
        let states = [running(1)].into_iter().chain((2..=1_005).map(ended)).chain([running(1_006)]);
        let mut seen = SeenRuns { line: Some(7), states: states.collect() };
        seen.forget();
        assert_eq!(seen.going(), [RunId::from(1), RunId::from(1_006)]);
        assert_eq!((seen.states.len(), seen.states.contains_key(&RunId::from(8))), (RUNS as usize, true));
    }

    #[tokio::test]
    async fn a_candidate_that_a_person_promoted_does_not_wait_any_more() {
        let (_folder, workshop, control) = control().await;
        trained(&workshop, Then::Promote).await;
        let version = trained(&workshop, Then::Nominate { work: None }).await;
        control.promote(version, None, "ann", "").await.unwrap();
        assert_eq!(workshop.registry.candidates().await.unwrap(), []);
    }
}
