//! The objects of models, schedules and runs. Instants are RFC 3339, UTC; absent values are `null`.

use domain::Timestamp;
use jobs::control::{
    CancelOutcome, CatchUp, Happened, ModelDetail, ModelEntry, RunEntry, RunState, StoredDecision, StoredEvent,
    StoredSchedule,
};
use poem_openapi::{Enum, Object, types::Any};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{answers::iso_text, parameters::TimeText};

fn text(at: Option<Timestamp>) -> Option<String> {
    at.map(iso_text)
}

/// A model.
#[derive(Serialize, Object)]
pub struct Model {
    /// Its version.
    pub version: i64,
    /// The detector.
    pub name: String,
    /// registered, candidate, champion, retired, rejected or expired.
    pub status: String,
    /// Whether the rows that it was trained on are kept for it by hand.
    pub pinned: bool,
    /// The champion when it was trained.
    #[oai(nullable)]
    pub parent: Option<i64>,
    /// When it was trained.
    pub created: String,
    /// The version of the program that trained it.
    pub code_version: String,
    /// What it was trained on.
    pub inputs: Inputs,
    /// Hash of the definition of its features.
    pub specification_hash: String,
    /// What it was trained with.
    pub parameters: Parameters,
    /// The score below which a row is an anomaly.
    pub threshold: f64,
    /// SHA-256 of its file.
    pub artifact_sha256: String,
    /// Length of its file in bytes.
    pub artifact_bytes: u64,
}

/// What a model was trained on.
#[derive(Serialize, Object)]
pub struct Inputs {
    /// The Delta table.
    pub table: String,
    /// Its version.
    pub delta_version: u64,
    /// The rows, as an SQL condition.
    pub predicate: String,
    /// The least event time.
    pub from: String,
    /// The event time before which all rows lie.
    pub to: String,
    /// The markets.
    pub symbols: Vec<String>,
    /// How many rows met the condition and were complete.
    pub rows: u64,
    /// Rows that met it and lack a value.
    pub rows_dropped: u64,
    /// Rows that were not learnt from, because they are the most anomalous.
    pub rows_trimmed: u64,
    /// Digest of the rows.
    pub digest: String,
}

/// What a model was trained with.
#[derive(Serialize, Object)]
pub struct Parameters {
    /// Trees of the forest.
    pub trees: u32,
    /// Rows that each tree sees, at most.
    pub max_samples: u32,
    /// The expected share of anomalies.
    pub contamination: f64,
    /// The quantile of the training scores beyond which an anomaly is an alert.
    pub alert_quantile: f64,
    /// The seed, a number of up to 20 digits.
    pub seed: String,
}

impl From<&ModelEntry> for Model {
    fn from(entry: &ModelEntry) -> Self {
        let model = &entry.record.model;
        let (inputs, parameters) = (&model.inputs, &model.parameters);
        Self {
            version: entry.record.version,
            name: model.name.clone(),
            status: entry.state.as_str().to_owned(),
            pinned: entry.is_pinned,
            parent: model.parent,
            created: iso_text(model.created),
            code_version: model.code_version.clone(),
            inputs: Inputs {
                table: inputs.table.clone(),
                delta_version: inputs.delta_version,
                predicate: inputs.predicate.clone(),
                from: iso_text(inputs.from),
                to: iso_text(inputs.to),
                symbols: inputs.symbols.clone(),
                rows: inputs.rows,
                rows_dropped: inputs.rows_dropped,
                rows_trimmed: inputs.trimmed.map_or(0, |trimmed| trimmed.rows),
                digest: inputs.digest.clone(),
            },
            specification_hash: model.specification_hash.clone(),
            parameters: Parameters {
                trees: parameters.trees,
                max_samples: parameters.max_samples,
                contamination: parameters.contamination,
                alert_quantile: parameters.alert_quantile,
                seed: model.seed.to_string(),
            },
            threshold: model.threshold,
            artifact_sha256: model.artifact.sha256.clone(),
            artifact_bytes: model.artifact.bytes,
        }
    }
}

/// Everything about a model.
#[derive(Serialize, Object)]
pub struct ModelPage {
    /// The model.
    pub model: Model,
    /// How good it was when it was made: on the rows that it was trained on, and on newer ones where they have labels.
    pub metrics: Any<Value>,
    /// What was measured since, oldest first.
    pub evaluations: Vec<Evaluation>,
    /// What the last look at drift found.
    #[oai(nullable)]
    pub drift: Option<Drift>,
    /// What happened to it, oldest first.
    pub history: Vec<ModelEvent>,
}

/// A measurement of a model.
#[derive(Serialize, Object)]
pub struct Evaluation {
    /// When.
    pub at: String,
    /// On which rows.
    pub slice: Any<Value>,
    /// What was found.
    pub report: Any<Value>,
}

/// Whether the newest rows look like those that a model was trained on.
#[derive(Serialize, Object)]
pub struct Drift {
    /// When it was looked.
    pub at: String,
    /// Whether they do not.
    pub drifted: bool,
    /// The measures, by feature.
    pub report: Any<Value>,
}

/// Something that happened to a model.
#[derive(Serialize, Object)]
pub struct ModelEvent {
    /// When.
    pub at: String,
    /// registered, candidate, promoted, rejected or expired.
    pub what: String,
    /// Who did it: a person, a job, or `API`, with the number of the key where there was one, as in `API key 3`.
    pub who: String,
    /// Why.
    pub why: String,
}

impl From<&ModelDetail> for ModelPage {
    fn from(detail: &ModelDetail) -> Self {
        let evaluation = |found: &jobs::control::Evaluation| Evaluation {
            at: iso_text(found.at),
            slice: Any(found.slice.clone()),
            report: Any(found.report.clone()),
        };
        let event = |happened: &Happened| ModelEvent {
            at: iso_text(happened.at),
            what: happened.what.to_owned(),
            who: happened.who.clone(),
            why: happened.why.clone(),
        };
        Self {
            model: Model::from(&detail.entry),
            metrics: Any(detail.entry.record.model.metrics.clone()),
            evaluations: detail.evaluations.iter().map(evaluation).collect(),
            drift: detail.drift.as_ref().map(|check| Drift {
                at: iso_text(check.at),
                drifted: check.drifted,
                report: Any(check.report.clone()),
            }),
            history: detail.history.iter().map(event).collect(),
        }
    }
}

/// Why a model shall be champion.
#[derive(Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub struct PromoteRequest {
    /// Why, for the history; not empty.
    #[serde(default)]
    #[oai(validator(min_length = 1, pattern = "\\S"))]
    pub reason: String,
    /// Only if this version is champion now.
    #[oai(nullable)]
    pub expect_current: Option<i64>,
}

/// A schedule.
#[derive(Serialize, Object)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// The job that it starts.
    pub job: String,
    /// What the job is asked for.
    pub spec: Any<Value>,
    /// When it is due, in words of cron.
    pub cron: String,
    /// The time zone that this is meant in.
    pub zone: String,
    /// While a run goes on: skip, `queue_one` or allow.
    pub overlap: Any<Value>,
    /// After times that passed unused: `fire_once`, `fire_all` or skip.
    pub misfire: Any<Value>,
    /// Attempts at one run, at most.
    pub attempts: u32,
    /// How long an attempt may take, in seconds.
    pub timeout_s: u64,
    /// Of runs that wait for a place, those with more go first.
    pub priority: i64,
    /// Runs of one pool never go on side by side.
    #[oai(nullable)]
    pub pool: Option<String>,
    /// When it is due next.
    #[oai(nullable)]
    pub next: Option<String>,
    /// Since when it is paused.
    #[oai(nullable)]
    pub paused_since: Option<String>,
    /// Every time up to here is decided.
    pub decided_until: String,
}

impl From<&StoredSchedule> for Schedule {
    fn from(stored: &StoredSchedule) -> Self {
        let StoredSchedule { schedule, decided_until, next, paused_since } = stored;
        let written = schedule.written();
        let word = |field: &str| written[field].as_str().unwrap_or_default().to_owned();
        Self {
            name: schedule.name.clone(),
            job: schedule.job.clone(),
            spec: Any(schedule.spec.clone()),
            cron: word("cron"),
            zone: word("zone"),
            overlap: Any(written["overlap"].clone()),
            misfire: Any(written["misfire"].clone()),
            attempts: schedule.retry.attempts,
            timeout_s: schedule.timeout.as_secs(),
            priority: schedule.priority,
            pool: schedule.pool.clone(),
            next: text(*next),
            paused_since: text(*paused_since),
            decided_until: iso_text(*decided_until),
        }
    }
}

/// A schedule and what was decided about it.
#[derive(Serialize, Object)]
pub struct SchedulePage {
    /// The schedule.
    pub schedule: Schedule,
    /// The newest decisions, newest first.
    pub decisions: Vec<Decision>,
}

/// What was decided about a time, or about several that follow each other and share their fate.
#[derive(Serialize, Object)]
pub struct Decision {
    /// The first of the times.
    pub first: String,
    /// The last of them.
    pub last: String,
    /// How many; null where they were too old to be counted.
    #[oai(nullable)]
    pub times: Option<u64>,
    /// When it was decided.
    pub decided: String,
    /// The run that was created; null where there is none.
    #[oai(nullable)]
    pub run: Option<i64>,
    /// Why.
    pub why: String,
}

impl SchedulePage {
    /// A schedule with its decisions.
    pub fn of(stored: &StoredSchedule, decisions: &[StoredDecision]) -> Self {
        let decision = |decision: &StoredDecision| Decision {
            first: iso_text(decision.first),
            last: iso_text(decision.last),
            times: decision.times,
            decided: iso_text(decision.decided),
            run: decision.run.map(i64::from),
            why: decision.reason.clone(),
        };
        Self { schedule: Schedule::from(stored), decisions: decisions.iter().map(decision).collect() }
    }
}

/// How a schedule is started by hand.
#[derive(Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub struct TriggerRequest {
    /// The time that the run is of; now, where it is left out.
    #[oai(nullable)]
    pub at: Option<TimeText>,
    /// Of requests with one key only the first starts a run.
    #[oai(nullable)]
    pub idempotency_key: Option<String>,
}

/// Why a schedule is paused.
#[derive(Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub struct PauseRequest {
    /// Why, for the history.
    #[serde(default)]
    #[oai(default)]
    pub note: String,
}

/// How a pause ends.
#[derive(Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub struct ResumeRequest {
    /// Which times of the pause are made up for; none, where it is left out.
    #[serde(default)]
    #[oai(default)]
    pub catch_up: CatchUpName,
}

/// Which times of a pause are made up for.
#[derive(Clone, Copy, Default, Deserialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case")]
pub enum CatchUpName {
    /// None.
    #[default]
    None,
    /// The latest.
    Last,
    /// Every one of the last 24 h, the newest 100.
    All,
}

impl From<CatchUpName> for CatchUp {
    fn from(name: CatchUpName) -> Self {
        match name {
            CatchUpName::None => Self::None,
            CatchUpName::Last => Self::Last,
            CatchUpName::All => Self::All,
        }
    }
}

/// Runs that were created.
#[derive(Serialize, Object)]
pub struct Started {
    /// Their numbers.
    pub runs: Vec<i64>,
}

/// Where a run is.
#[derive(Clone, Copy, Serialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case")]
pub enum RunStateName {
    /// Nobody has begun it, or it waits for another attempt.
    Pending,
    /// Its owner does it.
    Running,
    /// Its owner gave it up, or fell silent.
    Interrupted,
    /// All of it is done.
    Succeeded,
    /// Something of it failed.
    Failed,
    /// It was asked to end, and did.
    Cancelled,
}

impl From<RunStateName> for RunState {
    fn from(name: RunStateName) -> Self {
        match name {
            RunStateName::Pending => Self::Pending,
            RunStateName::Running => Self::Running,
            RunStateName::Interrupted => Self::Interrupted,
            RunStateName::Succeeded => Self::Succeeded,
            RunStateName::Failed => Self::Failed,
            RunStateName::Cancelled => Self::Cancelled,
        }
    }
}

impl From<RunState> for RunStateName {
    fn from(state: RunState) -> Self {
        match state {
            RunState::Pending => Self::Pending,
            RunState::Running => Self::Running,
            RunState::Interrupted => Self::Interrupted,
            RunState::Succeeded => Self::Succeeded,
            RunState::Failed => Self::Failed,
            RunState::Cancelled => Self::Cancelled,
        }
    }
}

/// A run.
#[derive(Serialize, Object)]
pub struct Run {
    /// Its number.
    pub id: i64,
    /// The job.
    pub job: String,
    /// What the job is asked for.
    pub spec: Any<Value>,
    /// Where it is.
    pub state: RunStateName,
    /// The schedule that it is of.
    #[oai(nullable)]
    pub schedule: Option<String>,
    /// The time of the schedule that it is of.
    #[oai(nullable)]
    pub of: Option<String>,
    /// Attempts that were begun.
    pub attempts: u32,
    /// When it was created.
    pub created: String,
    /// When it ended.
    #[oai(nullable)]
    pub ended: Option<String>,
    /// Who does it, or did.
    #[oai(nullable)]
    pub owner: Option<String>,
    /// Whether it was asked to end.
    pub cancel_requested: bool,
    /// Why it failed.
    #[oai(nullable)]
    pub error: Option<String>,
}

impl From<&RunEntry> for Run {
    fn from(RunEntry { run, state }: &RunEntry) -> Self {
        Self {
            id: run.id.into(),
            job: run.job.clone(),
            spec: Any(run.spec.clone()),
            state: (*state).into(),
            schedule: run.schedule.clone(),
            of: text(run.of),
            attempts: run.attempts,
            created: iso_text(run.created),
            ended: text(run.ended),
            owner: run.owner.clone(),
            cancel_requested: run.cancel_requested,
            error: run.error.clone(),
        }
    }
}

/// A run and what happened in it.
#[derive(Serialize, Object)]
pub struct RunPage {
    /// The run.
    pub run: Run,
    /// What happened, oldest first.
    pub history: Vec<RunEvent>,
}

/// Something that happened in a run.
#[derive(Serialize, Object)]
pub struct RunEvent {
    /// When.
    pub at: String,
    /// In which of its slices; null where in none.
    #[oai(nullable)]
    pub slice: Option<i64>,
    /// What.
    pub event: String,
    /// More about it.
    pub detail: String,
}

impl RunPage {
    /// A run with its history.
    pub fn of(run: &RunEntry, history: &[StoredEvent]) -> Self {
        let event = |event: &StoredEvent| RunEvent {
            at: iso_text(event.at),
            slice: event.slice,
            event: event.event.clone(),
            detail: event.detail.clone(),
        };
        Self { run: Run::from(run), history: history.iter().map(event).collect() }
    }
}

/// An empty object.
#[derive(Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// What came of the wish that a run ends.
#[derive(Serialize, Object)]
pub struct Cancelled {
    /// The run.
    pub run: i64,
    /// Whether it was asked to end, has ended by that, or had ended before.
    pub outcome: CancelOutcomeName,
}

/// What came of the wish that a run ends.
#[derive(Serialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case")]
pub enum CancelOutcomeName {
    /// Its owner will hear of it within seconds.
    Requested,
    /// Nobody did it: it has ended.
    Cancelled,
    /// It had ended before.
    EndedAlready,
}

impl Cancelled {
    /// The answer about a run.
    pub const fn of(run: i64, outcome: CancelOutcome) -> Self {
        let outcome = match outcome {
            CancelOutcome::Requested => CancelOutcomeName::Requested,
            CancelOutcome::Cancelled => CancelOutcomeName::Cancelled,
            CancelOutcome::EndedAlready(_) => CancelOutcomeName::EndedAlready,
        };
        Self { run, outcome }
    }
}
