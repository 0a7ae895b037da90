//! What schedules can start: the life of models by itself, and all jobs by name.
//!
//! `train` makes a candidate, `evaluate` judges candidates and measures the champion, `drift` asks for a training where the
//! market has changed, `backup` copies the registry. A run that is tried again finds what it did before: the candidate by
//! the name of its work, the copy by its file, the training that drift asked for by its key.

use std::{fs, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use domain::{Symbol, time::MICROS};
use models::TrainParameters;
use scheduler::{Job, Jobs, Store, Task};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    candidates::{Gates, judge_all},
    chores::{self, Upkeep},
    drift::{DriftWatch, Look},
    error::Error,
    evaluate::{EvaluateRequest, evaluate},
    train::{Then, TrainRequest, train},
    workshop::{Incident, MOST_ROWS, Workshop},
};

/// The names of the jobs beside [`chores::NAMES`].
const NAMES: [&str; 4] = ["train", "evaluate", "drift", "backup"];

/// The schedule that drift starts.
pub const RETRAIN: &str = "retrain";

/// The champion is measured on rows of so much event time before the newest one.
const MEASURED_MICROS: i64 = 24 * 3_600 * MICROS;

/// Copies of the registry that are kept, the newest.
const COPIES: usize = 7;

/// What the jobs work with.
#[derive(Clone)]
pub struct Parts {
    /// Models, their rows and their records.
    pub workshop: Workshop,
    /// How models are trained.
    pub parameters: TrainParameters,
    /// The tables and what is kept of them.
    pub upkeep: Upkeep,
    /// The folder of the registry's copies.
    pub backups: PathBuf,
}

/// Every job by name.
#[must_use]
pub fn jobs(parts: &Parts) -> Jobs {
    let Parts { workshop, parameters, upkeep, backups } = parts;
    let mut jobs = chores::jobs(upkeep);
    let (workshop, store) = (workshop.clone(), upkeep.store.clone());
    let train = Train { workshop: workshop.clone(), parameters: parameters.clone() };
    let drift = Drift { watch: DriftWatch::new(workshop.clone()), workshop: workshop.clone(), store };
    let backup = Backup { workshop: workshop.clone(), folder: backups.clone() };
    let made: [Arc<dyn Job>; 4] = [Arc::new(train), Arc::new(Evaluate { workshop }), Arc::new(drift), Arc::new(backup)];
    jobs.extend(NAMES.into_iter().zip(made));
    jobs
}

/// The name of every job.
#[must_use]
pub fn names() -> Vec<&'static str> {
    NAMES.into_iter().chain(chores::NAMES).collect()
}

/// Whether a job can do what it is asked for.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check(job: &str, spec: &Value) -> Result<(), String> {
    match job {
        _ if chores::NAMES.contains(&job) => chores::check(job, spec),
        "train" => Wanted::read(spec).and_then(|wanted| wanted.symbols().map(drop)),
        "evaluate" | "drift" | "backup" => match spec.as_object() {
            Some(fields) if fields.is_empty() => Ok(()),
            _ => Err(format!("`{job}` takes nothing in `spec`")),
        },
        _ => Err(format!("there is no job `{job}`; there are {}", names().join(", "))),
    }
}

/// What a schedule of `train` may ask for.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    /// Hours of event time before the newest row.
    hours: u32,
    /// The newest rows of these, at most; whole minutes at a time.
    rows: u64,
    symbols: Vec<String>,
    /// The share of the rows, the most anomalous, that is not learnt from.
    trim: Option<f64>,
    /// Times that are left out.
    incidents: Vec<Incident>,
}

impl Default for Wanted {
    /// The rows of a week, a million at most, of every market.
    fn default() -> Self {
        Self { hours: 168, rows: MOST_ROWS, symbols: Vec::new(), trim: None, incidents: Vec::new() }
    }
}

impl Wanted {
    fn read(spec: &Value) -> Result<Self, String> {
        let wanted: Self = serde_json::from_value(spec.clone()).map_err(|error| format!("`spec`: {error}"))?;
        if wanted.hours == 0 || wanted.rows == 0 {
            return Err("`hours` and `rows` must be at least 1".to_owned());
        }
        if wanted.trim.is_some_and(|share| !(share > 0.0 && share <= 0.5)) {
            return Err("`trim` must be above 0 and at most 0.5".to_owned());
        }
        if let Some(incident) = wanted.incidents.iter().find(|incident| incident.from >= incident.to) {
            return Err(format!("the incident `{}` must end after its start", incident.reason));
        }
        Ok(wanted)
    }

    fn symbols(&self) -> Result<Vec<Symbol>, String> {
        let parsed = self.symbols.iter().map(|name| Symbol::parse(name).map_err(|error| format!("`symbols`: {error}")));
        parsed.collect()
    }
}

struct Train {
    workshop: Workshop,
    parameters: TrainParameters,
}

#[async_trait]
impl Job for Train {
    async fn run(&self, task: &Task) -> Result<(), String> {
        let wanted = Wanted::read(&task.spec)?;
        let symbols = wanted.symbols()?;
        told(task, self.train(task, wanted, symbols).await).await
    }
}

impl Train {
    async fn train(&self, task: &Task, wanted: Wanted, symbols: Vec<Symbol>) -> Result<Vec<String>, Error> {
        if let Some(version) = self.workshop.registry.candidate_of(&task.key).await? {
            return Ok(vec![format!("model version {version} was made by an earlier attempt")]);
        }
        let Some(newest) = self.workshop.newest_event().await? else {
            return Ok(vec!["there are no feature rows to train on yet".to_owned()]);
        };
        let (then, reason) =
            (Then::Nominate { work: Some(task.key.clone()) }, format!("run {} of {}", task.run, task.of));
        let from = newest.plus_micros(-i64::from(wanted.hours) * 3_600 * MICROS);
        let request = TrainRequest {
            from: Some(self.workshop.newest_from(from, wanted.rows).await?),
            symbols,
            incidents: wanted.incidents,
            trim: wanted.trim,
            ..TrainRequest::on_every_row(self.parameters.clone(), then, "train", &reason)
        };
        Ok(vec![train(&self.workshop, &request).await?.to_string()])
    }
}

struct Evaluate {
    workshop: Workshop,
}

#[async_trait]
impl Job for Evaluate {
    async fn run(&self, task: &Task) -> Result<(), String> {
        told(task, self.evaluate().await).await
    }
}

impl Evaluate {
    async fn evaluate(&self) -> Result<Vec<String>, Error> {
        let judged = judge_all(&self.workshop, &Gates::default(), "evaluate").await?;
        let mut told: Vec<String> = judged.iter().map(ToString::to_string).collect();
        let Some(champion) = self.workshop.registry.champion().await? else {
            told.push("there is no champion yet".to_owned());
            return Ok(told);
        };
        let newest = self.workshop.newest_event().await?.unwrap_or_default();
        let from = champion.model.inputs.to.max(newest.plus_micros(-MEASURED_MICROS));
        let from = self.workshop.newest_from(from, MOST_ROWS).await?;
        let request = EvaluateRequest { model: Some(champion.version), from: Some(from), ..EvaluateRequest::default() };
        match evaluate(&self.workshop, &request).await {
            Ok(report) => told.push(report.to_string()),
            Err(Error::Nothing { what, .. }) => told.push(what),
            Err(error) => return Err(error),
        }
        Ok(told)
    }
}

struct Drift {
    watch: DriftWatch,
    workshop: Workshop,
    store: Store,
}

#[async_trait]
impl Job for Drift {
    async fn run(&self, task: &Task) -> Result<(), String> {
        told(task, self.look().await).await
    }
}

impl Drift {
    async fn look(&self) -> Result<Vec<String>, Error> {
        let found = match self.watch.look(false).await? {
            Look::NoChampion => return Ok(vec!["there is no champion yet".to_owned()]),
            Look::NothingNew => return Ok(vec!["there are no rows since the last look".to_owned()]),
            Look::TooFew { blocks } => {
                return Ok(vec![format!("{blocks} minutes with rows since the champion's training are too few")]);
            }
            Look::Found(found) => found,
        };
        let mut told = vec![found.to_string()];
        if found.is_drifted() {
            told.push(self.retrain(found.version).await?);
        }
        // What drift asks for has a key: where this fails, the next look asks for the same.
        self.watch.keep(&found).await?;
        Ok(told)
    }

    /// Asks for a training, once for a champion: its successor is trained on the changed market, among others.
    async fn retrain(&self, champion: i64) -> Result<String, Error> {
        if !self.workshop.registry.candidates().await?.is_empty() {
            return Ok("the market has changed; a candidate waits already".to_owned());
        }
        let (now, key) = (self.workshop.clock.now(), format!("drift-of-model-{champion}"));
        Ok(match self.store.trigger(RETRAIN, now, Some(&key), now).await {
            Ok(run) => format!("the market has changed; run {run} trains on it"),
            Err(scheduler::Error::NoSchedule { .. }) => {
                format!("the market has changed; there is no schedule `{RETRAIN}` to start")
            }
            Err(error) => return Err(error.into()),
        })
    }
}

struct Backup {
    workshop: Workshop,
    folder: PathBuf,
}

#[async_trait]
impl Job for Backup {
    async fn run(&self, task: &Task) -> Result<(), String> {
        // A name without colons, which sorts by time.
        let name = format!("registry-{}.db", task.of.to_string().replace(':', ""));
        let path = self.folder.join(&name);
        self.workshop.registry.copy_to(&path).await.map_err(|error| error.to_string())?;
        let removed = self.remove_old().map_err(|error| format!("{}: {error}", self.folder.display()))?;
        task.tell(&format!("{} is written, {removed} old copies are removed", path.display())).await;
        Ok(())
    }
}

impl Backup {
    fn remove_old(&self) -> std::io::Result<usize> {
        let mut copies = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("registry-") && path.extension().is_some_and(|end| end == "db") {
                copies.push(path);
            }
        }
        copies.sort();
        let old = &copies[..copies.len().saturating_sub(COPIES)];
        old.iter().try_for_each(fs::remove_file)?;
        Ok(old.len())
    }
}

/// Writes what was done into the run's history.
async fn told(task: &Task, done: Result<Vec<String>, Error>) -> Result<(), String> {
    for line in done.map_err(|error| error.to_string())? {
        task.tell(line.trim_end()).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case("train", json!({}), None)]
    #[case("train", json!({"hours": 24, "symbols": ["BTC-USDT"], "trim": 0.01}), None)]
    #[case(
        "train",
        json!({"incidents": [{"from": "2024-03-09", "to": "2024-03-10", "reason": "outage"}]}),
        None
    )]
    #[case("vacuum", json!({"retention_hours": 24}), None)]
    #[case("evaluate", json!({}), None)]
    #[case("train", json!({"hours": 0}), Some("`hours` and `rows` must be at least 1"))]
    #[case("train", json!({"rows": 0}), Some("`hours` and `rows` must be at least 1"))]
    #[case("train", json!({"trim": 0.7}), Some("`trim` must be above 0"))]
    #[case("train", json!({"symbols": ["btc"]}), Some("`symbols`: "))]
    #[case("train", json!({"days": 7}), Some("unknown field `days`"))]
    #[case("train", json!({"incidents": [{"from": 7}]}), Some("`spec`: "))]
    #[case(
        "train",
        json!({"incidents": [{"from": "2024-03-10", "to": "2024-03-09", "reason": "outage"}]}),
        Some("the incident `outage` must end after its start")
    )]
    #[case("drift", json!({"hours": 7}), Some("`drift` takes nothing in `spec`"))]
    #[case("compact", json!({"retention_hours": 7}), Some("`retention_hours` is for `vacuum`"))]
    #[case("tidy", json!({}), Some("there is no job `tidy`; there are train, evaluate, drift, backup, compact"))]
    fn what_a_job_cannot_do_is_said_before_it_is_due(
        #[case] job: &str,
        #[case] spec: Value,
        #[case] said: Option<&str>,
    ) {
        let checked = check(job, &spec);
        match said {
            None => assert_eq!(checked, Ok(())),
            Some(said) => assert!(checked.as_ref().is_err_and(|error| error.contains(said)), "{checked:?}"),
        }
    }
}
