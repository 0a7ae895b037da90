//! Training: from the stored feature rows to a registered model, and to a candidate or a new champion where it is wanted.
//!
//! The record names everything that the model depends on, so that the same version of `features`, condition and
//! parameters give the same artifact, byte for byte. A promotion expects the champion from before the training: of two
//! trainings at once one wins and the other says so. Rows that the model is measured on are not rows it was fitted on,
//! wherever they carry labels. An artifact is on disk before its record is.

use std::{collections::HashMap, fmt};

use domain::{FEATURE_NAMES, Symbol, Timestamp};
use lake::{
    artifacts::{self, Artifact},
    read::StoredFeatures,
    registry::{
        Expected, ModelRecord, Promoted, TrainedModel, TrainingInputs, TrainingParameters, Trimmed,
        life::{Judgement, Verdict},
    },
};
use models::{Model, TrainParameters, TrainingSet};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tracing::{Instrument, field::Empty, info_span, warn};

use crate::{
    active::{self, ActiveModel},
    error::Error,
    report::{self, Report, Stability},
    spans::SPANS,
    workshop::{Chosen, Incident, Slice, Workshop, digest, judge, symbols_of},
};

/// The name of the detector in the registry.
pub const DETECTOR: &str = "isolation-forest";

/// Labelled rows are split by time: this share, the oldest, is trained on; the others are measured on.
const TRAINING_PERCENT: usize = 80;

/// For how long after an event its statistics hold it: the rolling window, in microseconds.
const AFTERMATH_MICROS: i64 = domain::panes::WINDOW_PANES * domain::panes::PANE_MICROS;

/// What to train, from what, and what to do with it.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainRequest {
    /// The least event time; the first row's where none is given.
    pub from: Option<Timestamp>,
    /// The event time before which all rows lie; behind the last row where none is given.
    pub to: Option<Timestamp>,
    /// The markets; empty for all.
    pub symbols: Vec<Symbol>,
    /// Times within that are left out.
    pub incidents: Vec<Incident>,
    /// The version of `features` that is read; the newest where none is given.
    pub delta_version: Option<u64>,
    /// The share of the rows, the most anomalous by a first model of all, that is not learnt from; none for all.
    pub trim: Option<f64>,
    /// Parameters of the detector.
    pub parameters: TrainParameters,
    /// What becomes of the model.
    pub then: Then,
    /// Who wants it: a person or a job. Written into what follows.
    pub actor: String,
    /// Why. Written into what follows.
    pub reason: String,
}

impl TrainRequest {
    /// A training on every row of the newest version.
    #[must_use]
    pub fn on_every_row(parameters: TrainParameters, then: Then, actor: &str, reason: &str) -> Self {
        Self {
            from: None,
            to: None,
            symbols: Vec::new(),
            incidents: Vec::new(),
            delta_version: None,
            trim: None,
            parameters,
            then,
            actor: actor.to_owned(),
            reason: reason.to_owned(),
        }
    }
}

/// What becomes of a trained model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is registered, and that is all.
    Register,
    /// It becomes champion.
    Promote,
    /// It waits to be judged, or becomes champion where there is none.
    Nominate {
        /// Names the work, which registers one model however often it is done; none for work that is done once.
        work: Option<String>,
    },
}

/// What the registry keeps about how good a model was when it was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// On the rows that it was fitted on.
    pub training: Report,
    /// On the newest labelled rows, which it was not fitted on; none where no row has a label.
    pub holdout: Option<Report>,
    /// Against the champion of that time, on the holdout, or on the training rows where there is none.
    pub stability: Option<Stability>,
}

/// What became of the wish for a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The model is champion.
    Promoted,
    /// It waits to be judged.
    Nominated,
    /// Nobody asked for it.
    NotAskedFor,
    /// Another model became champion meanwhile, and stays it.
    Overtaken {
        /// The champion.
        champion: Option<i64>,
    },
}

/// What a training did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainReport {
    /// The version of the model.
    pub version: i64,
    /// The champion when the training began.
    pub parent: Option<i64>,
    /// What became of the wish for a promotion.
    pub promotion: Outcome,
    /// The version of `features` that was read.
    pub delta_version: u64,
    /// The rows that were trained on, as an SQL condition.
    pub predicate: String,
    /// Rows that were read.
    pub rows: u64,
    /// Rows left out because a feature is not finite.
    pub rows_dropped: u64,
    /// Rows read that were not learnt from, because they are the most anomalous.
    pub rows_trimmed: u64,
    /// The markets, sorted.
    pub symbols: Vec<String>,
    /// Trees of the forest.
    pub trees: u32,
    /// Rows that each tree was grown on.
    pub max_samples: u32,
    /// The share of training rows called anomalies.
    pub contamination: f64,
    /// What the chance of the training depended on.
    pub seed: u64,
    /// The score below which a row is an anomaly.
    pub threshold: f64,
    /// SHA-256 of the artifact.
    pub artifact_sha256: String,
    /// Length of the artifact in bytes.
    pub artifact_bytes: u64,
    /// How good the model is.
    pub metrics: Metrics,
    /// How long it took.
    pub seconds: f64,
}

impl TrainReport {
    /// Whether the model is champion.
    #[must_use]
    pub fn promoted(&self) -> bool {
        self.promotion == Outcome::Promoted
    }
}

/// Trains, measures and registers a model, and promotes it where that is wanted.
///
/// # Errors
/// [`Error::Nothing`] where there are no rows or none of them says anything; [`Error::Models`] for parameters outside
/// their limits; [`Error::Lake`] where a table, a file or the registry cannot be read or written.
pub async fn train(workshop: &Workshop, request: &TrainRequest) -> Result<TrainReport, Error> {
    let span = info_span!(target: SPANS, "train", rows = Empty, model_version = Empty, otel.status_code = Empty);
    let trained = train_once(workshop, request).instrument(span.clone()).await;
    match &trained {
        Ok(report) => span.record("rows", report.rows).record("model_version", report.version),
        Err(_) => span.record("otel.status_code", "ERROR"),
    };
    trained
}

async fn train_once(workshop: &Workshop, request: &TrainRequest) -> Result<TrainReport, Error> {
    let started = workshop.clock.now();
    request.parameters.check()?;
    let asked = Slice::new(request.from, request.to, &request.symbols)?.without(&request.incidents)?;
    let champion = workshop.registry.champion().await?;
    let chosen = workshop.choose(&asked, request.delta_version).await?;
    let split = Split::of(chosen, &asked)?;
    let predecessor = predecessor(workshop, champion.as_ref()).await;
    let (parameters, trim, folder) = (request.parameters.clone(), request.trim, workshop.models_dir.clone());
    let fitting = spawn_blocking(move || -> Result<_, Error> {
        let fitted = Fitted::of(split, &parameters, trim, predecessor.as_ref())?;
        let artifact = artifacts::write(&folder, &fitted.model.to_bytes())?;
        Ok((fitted, artifact))
    });
    let (fitted, artifact) = fitting.await??;
    let parent = champion.map(|record| record.version);
    let record = record(&fitted, artifact, parent, workshop.clock.now())?;
    let (version, promotion) = register(workshop, request, &record).await?;
    let seconds = seconds_between(started, workshop.clock.now());
    Ok(TrainReport::new(version, record, promotion, &fitted.model, fitted.metrics, seconds))
}

/// The rows of a training, split by time.
struct Split {
    /// The version of the table.
    delta_version: u64,
    /// What the training rows are.
    slice: Slice,
    training: Vec<StoredFeatures>,
    /// Rows left out of the training rows.
    dropped: u64,
    holdout: Vec<StoredFeatures>,
}

impl Split {
    /// Rows with labels are split at the event time that divides them 80 to 20, so that no instant lies on both sides;
    /// others are all trained on.
    fn of(chosen: Chosen, asked: &Slice) -> Result<Self, Error> {
        let Chosen { delta_version, mut rows, dropped } = chosen;
        let mut times: Vec<Timestamp> = rows.iter().map(|row| row.timestamp).collect();
        times.sort_unstable();
        let (Some(first), Some(last)) = (times.first().copied(), times.last().copied()) else {
            return Err(Error::Nothing {
                what: format!("there are no feature rows of {asked}"),
                remedy: "wait until the stream job has written some, or widen the range and the symbols",
            });
        };
        let labelled = rows.iter().any(|row| row.is_anomaly.is_some());
        let boundary = times[times.len() * TRAINING_PERCENT / 100];
        let to = if labelled && boundary > first { boundary } else { last.plus_micros(1) };
        let holdout = rows.extract_if(.., |row| row.timestamp >= to).collect();
        let slice = Slice { from: Some(asked.from.unwrap_or(first)), to: Some(to), ..asked.clone() };
        let in_slice = |at: &&Timestamp| slice.from <= Some(**at) && **at < to;
        let dropped = dropped.iter().filter(in_slice).count() as u64;
        if !rows.iter().any(report::has_z_scores) {
            return Err(Error::Nothing {
                what: format!("all z-scores of the {} feature rows of {slice} are 0", rows.len()),
                remedy: "a symbol needs more than 10 events within 60 s, and prices that move: raise the event rate",
            });
        }
        Ok(Self { delta_version, slice, training: rows, dropped, holdout })
    }
}

/// Fits a model to rows in their order; with a share of them to leave out, to the others. One entry per row says whether
/// it was learnt from. Long and without I/O.
///
/// # Errors
/// [`Error::Models`] for rows or parameters that no model can be made of.
pub fn fit(
    rows: &[StoredFeatures],
    parameters: &TrainParameters,
    trim: Option<f64>,
) -> Result<(Model, Vec<bool>), Error> {
    let disturbed = disturbed(rows);
    let of = |kept: &dyn Fn(usize) -> bool| {
        let mut set = TrainingSet::with_capacity(rows.len());
        for (place, row) in rows.iter().enumerate().filter(|(place, _)| kept(*place)) {
            if disturbed[place] {
                set.push_disturbed(row.symbol, row.features);
            } else {
                set.push(row.symbol, row.features);
            }
        }
        set
    };
    let set = of(&|_| true);
    let Some(share) = trim else { return Ok((models::train(&set, parameters)?, vec![true; rows.len()])) };
    let kept = models::without_most_anomalous(&set, parameters, share)?;
    drop(set);
    let left = of(&|place| kept[place]);
    Ok((models::train(&left, parameters)?, kept))
}

/// Which rows are of a labelled anomaly, or of the minute after it, in which it lies in the rolling window. Backfilled rows,
/// of any time, come before those of the log.
fn disturbed(rows: &[StoredFeatures]) -> Vec<bool> {
    let mut last_labelled: HashMap<Symbol, Timestamp> = HashMap::new();
    let is_disturbed = |row: &StoredFeatures| {
        if row.is_anomaly == Some(true) {
            last_labelled.insert(row.symbol, row.timestamp);
            return true;
        }
        let labelled = last_labelled.get(&row.symbol);
        labelled.is_some_and(|labelled| (row.timestamp.micros() - labelled.micros()).abs() <= AFTERMATH_MICROS)
    };
    rows.iter().map(is_disturbed).collect()
}

/// A model and what was measured on the way.
struct Fitted {
    model: Model,
    inputs: TrainingInputs,
    metrics: Metrics,
}

impl Fitted {
    /// Fits and measures. Long and without I/O.
    fn of(
        split: Split,
        parameters: &TrainParameters,
        trim: Option<f64>,
        predecessor: Option<&ActiveModel>,
    ) -> Result<Self, Error> {
        let Split { delta_version, slice, mut training, dropped, holdout } = split;
        let (model, kept) = fit(&training, parameters, trim)?;
        let left_out = kept.iter().filter(|kept| !**kept).count() as u64;
        let inputs = TrainingInputs {
            table: lake::TableName::Features.as_str().to_owned(),
            delta_version,
            predicate: slice.predicate(),
            rows: training.len() as u64,
            rows_dropped: dropped,
            digest: digest(&training),
            trimmed: trim.map(|share| Trimmed { share, rows: left_out }),
            from: slice.from.unwrap_or_default(),
            to: slice.to.unwrap_or_default(),
            symbols: symbols_of(&training),
        };
        let mut learnt_from = kept.into_iter();
        training.retain(|_| learnt_from.next().unwrap_or(true));
        let on_training = judge(&model, &training);
        let on_holdout = judge(&model, &holdout);
        let (rows, verdicts) = if holdout.is_empty() { (&training, &on_training) } else { (&holdout, &on_holdout) };
        let against = |other: &ActiveModel| Stability::of(other.version, verdicts, &judge(&other.model, rows));
        let metrics = Metrics {
            stability: predecessor.map(against).transpose()?.flatten(),
            training: Report::of(&training, &on_training)?,
            holdout: if holdout.is_empty() { None } else { Some(Report::of(&holdout, &on_holdout)?) },
        };
        Ok(Self { model, inputs, metrics })
    }
}

/// The champion to compare with. One that cannot be loaded does not stand in the way of its successor.
async fn predecessor(workshop: &Workshop, champion: Option<&ModelRecord>) -> Option<ActiveModel> {
    let version = champion?.version;
    match active::load(&workshop.registry, &workshop.models_dir, version).await {
        Ok(model) => Some(model),
        Err(error) => {
            warn!(version, %error, "the champion cannot be loaded, so the new model is not compared with it");
            None
        }
    }
}

fn record(fitted: &Fitted, artifact: Artifact, parent: Option<i64>, created: Timestamp) -> Result<TrainedModel, Error> {
    let Fitted { model, inputs, metrics } = fitted;
    let parameters = model.parameters();
    let metrics = serde_json::to_value(metrics)
        .map_err(|error| Error::Invalid(format!("the metrics cannot be written as JSON: {error}")))?;
    Ok(TrainedModel {
        name: DETECTOR.to_owned(),
        parent,
        created,
        code_version: env!("CARGO_PKG_VERSION").to_owned(),
        inputs: inputs.clone(),
        specification_hash: model.specification_hash().to_owned(),
        seed: parameters.seed,
        parameters: TrainingParameters {
            trees: parameters.trees,
            max_samples: parameters.max_samples,
            contamination: parameters.contamination,
            alert_quantile: parameters.alert_quantile,
        },
        metrics,
        scaler_means: model.global_scale().means,
        scaler_deviations: model.global_scale().deviations,
        threshold: model.threshold(),
        artifact,
    })
}

/// Registers a model, and does with it what is asked for.
async fn register(workshop: &Workshop, request: &TrainRequest, model: &TrainedModel) -> Result<(i64, Outcome), Error> {
    let registry = &workshop.registry;
    if let Then::Nominate { work } = &request.then {
        let (actor, reason) = (&request.actor, &request.reason);
        let version = registry.nominate(model, work.as_deref(), actor, reason).await?;
        let is_rivalled = model.parent.is_some();
        let outcome = if is_rivalled { Outcome::Nominated } else { unrivalled(workshop, request, version).await? };
        return Ok((version, outcome));
    }
    let version = registry.register(model).await?;
    if request.then == Then::Register {
        return Ok((version, Outcome::NotAskedFor));
    }
    Ok((version, promote(workshop, request, version, model.parent).await?))
}

/// Makes a candidate champion where there is none to judge it by.
async fn unrivalled(workshop: &Workshop, request: &TrainRequest, version: i64) -> Result<Outcome, Error> {
    let judgement = Judgement {
        version,
        at: workshop.clock.now(),
        verdict: Verdict::Promoted,
        actor: request.actor.clone(),
        reasons: vec!["there was no champion".to_owned()],
    };
    Ok(match workshop.registry.promote_candidate(&judgement, Expected::Nobody).await? {
        Promoted::Promoted | Promoted::AlreadyChampion => Outcome::Promoted,
        Promoted::Conflict { .. } => Outcome::Nominated,
    })
}

async fn promote(
    workshop: &Workshop,
    request: &TrainRequest,
    version: i64,
    parent: Option<i64>,
) -> Result<Outcome, Error> {
    let expected = parent.map_or(Expected::Nobody, Expected::Version);
    let now = workshop.clock.now();
    Ok(match workshop.registry.promote(version, expected, now, &request.actor, &request.reason).await? {
        Promoted::Promoted | Promoted::AlreadyChampion => Outcome::Promoted,
        Promoted::Conflict { current } => Outcome::Overtaken { champion: current },
    })
}

#[expect(clippy::cast_precision_loss, reason = "a training takes far less than 2^53 us")]
pub(crate) fn seconds_between(start: Timestamp, end: Timestamp) -> f64 {
    end.micros().saturating_sub(start.micros()) as f64 / 1e6
}

impl TrainReport {
    fn new(
        version: i64,
        record: TrainedModel,
        promotion: Outcome,
        model: &Model,
        metrics: Metrics,
        seconds: f64,
    ) -> Self {
        Self {
            version,
            parent: record.parent,
            promotion,
            delta_version: record.inputs.delta_version,
            predicate: record.inputs.predicate,
            rows: record.inputs.rows,
            rows_dropped: record.inputs.rows_dropped,
            rows_trimmed: record.inputs.trimmed.map_or(0, |trimmed| trimmed.rows),
            symbols: record.inputs.symbols,
            trees: record.parameters.trees,
            max_samples: model.max_samples_used(),
            contamination: record.parameters.contamination,
            seed: record.seed,
            threshold: record.threshold,
            artifact_sha256: record.artifact.sha256,
            artifact_bytes: record.artifact.bytes,
            metrics,
            seconds,
        }
    }
}

/// Text to read, each line ended.
impl fmt::Display for TrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "model version {} ", self.version)?;
        match self.promotion {
            Outcome::Promoted => writeln!(f, "is champion")?,
            Outcome::Nominated => writeln!(f, "is a candidate; it is judged by newer rows")?,
            Outcome::NotAskedFor => writeln!(f, "is registered; the champion stays as it is")?,
            Outcome::Overtaken { champion: Some(champion) } => {
                writeln!(f, "is registered; version {champion} became champion meanwhile and stays it")?;
            }
            Outcome::Overtaken { champion: None } => writeln!(f, "is registered; there is no champion")?,
        }
        writeln!(
            f,
            "{DETECTOR}: {} trees of {} rows, contamination {}, seed {}, threshold {:.6}",
            self.trees, self.max_samples, self.contamination, self.seed, self.threshold
        )?;
        writeln!(f, "artifact: {} bytes, sha256 {}", self.artifact_bytes, self.artifact_sha256)?;
        write!(f, "trained on {} rows of version {} of `features`", self.rows, self.delta_version)?;
        write!(f, ", {} dropped", self.rows_dropped)?;
        if self.rows_trimmed > 0 {
            write!(f, ", {} of the most anomalous not learnt from", self.rows_trimmed)?;
        }
        writeln!(f, ", in {:.1} s: {}", self.seconds, self.symbols.join(", "))?;
        writeln!(f, "features: {}\n", FEATURE_NAMES.join(", "))?;
        self.metrics.fmt(f)
    }
}

/// Tables to read, each line ended.
impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "training rows: {}", self.training)?;
        if let Some(holdout) = &self.holdout {
            write!(f, "\nnewest rows, not trained on: {holdout}")?;
        }
        self.stability.map_or(Ok(()), |stability| writeln!(f, "\n{stability}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workshop::example::{Market, START, workshop};
    use domain::{BACKFILLED, ErrorKind, Partition, Source};
    use lake::TableName;

    fn request() -> TrainRequest {
        let parameters = TrainParameters { trees: 60, ..TrainParameters::default() };
        TrainRequest::on_every_row(parameters, Then::Promote, "test", "first model")
    }

    const fn second(seconds: i64) -> Timestamp {
        START.plus_micros(seconds * 1_000_000)
    }

    #[test]
    fn an_anomaly_disturbs_the_minute_after_it_and_nothing_that_the_log_had_before_a_backfill() {
        let row = |partition: Partition, seconds: i64, is_anomaly: bool| StoredFeatures {
            partition,
            offset: seconds,
            ingest_time: second(seconds),
            timestamp: second(seconds),
            symbol: Symbol::parse("BTC-USDT").unwrap(),
            features: [0.0; 5],
            is_anomaly: Some(is_anomaly),
            anomaly_type: None,
            source: Source::File,
        };
        let backfilled = [(900, false), (1_000, true), (1_060, false), (1_061, false)];
        let of_log = [(100, false), (200, true), (199, false), (261, false)];
        let rows = backfilled.map(|(seconds, is_anomaly)| row(BACKFILLED, seconds, is_anomaly));
        let rows = rows.into_iter().chain(of_log.map(|(seconds, is_anomaly)| row(0, seconds, is_anomaly)));
        let expected = [false, true, true, false, false, true, true, false];
        assert_eq!(disturbed(&rows.collect::<Vec<_>>()), expected);
    }

    #[tokio::test]
    async fn labelled_rows_are_split_by_time_and_the_newer_ones_measured_on() {
        let (_folder, workshop) = workshop().await;
        Market::labelled().run(&workshop, 2_000).await;
        let report = train(&workshop, &request()).await.unwrap();
        let holdout = report.metrics.holdout.clone().unwrap();
        assert_eq!((report.version, report.parent, report.promoted()), (1, None, true));
        assert_eq!((report.rows, report.rows_dropped, holdout.rows), (4_800, 0, 1_200));
        assert_eq!((report.metrics.training.last, holdout.first), (second(1_599), second(1_600)));
        assert_eq!(report.symbols, ["BNB-USDT", "BTC-USDT", "ETH-USDT"]);
        let labels = |report: &Report| report.labelled.as_ref().map(|labelled| labelled.rows);
        assert_eq!((labels(&report.metrics.training), labels(&holdout)), (Some(4_800), Some(1_200)));
    }

    #[tokio::test]
    async fn record_names_the_rows_so_that_they_are_read_again() {
        let (_folder, workshop) = workshop().await;
        let mut market = Market::labelled();
        market.run(&workshop, 500).await;
        let report = train(&workshop, &request()).await.unwrap();
        market.run(&workshop, 100).await;
        let champion = workshop.registry.champion().await.unwrap().unwrap();
        let inputs = champion.model.inputs;
        let pinned = workshop.lake.pin_version(TableName::Features, inputs.delta_version).await.unwrap();
        for rows in [pinned.features(&inputs.predicate).await.unwrap(), {
            // The condition holds both ends of its range, so that rows added later do not meet it.
            workshop.lake.pin(TableName::Features).await.unwrap().features(&inputs.predicate).await.unwrap()
        }] {
            assert_eq!((rows.len() as u64, digest(&rows)), (inputs.rows, inputs.digest.clone()));
        }
        assert_eq!((inputs.from, inputs.to), (START, second(400)));
        assert_eq!(serde_json::from_value::<Metrics>(champion.model.metrics).unwrap(), report.metrics);
        assert_eq!(champion.model.created, workshop.clock.now());
    }

    #[tokio::test]
    async fn rows_without_labels_are_all_trained_on() {
        let (_folder, workshop) = workshop().await;
        Market::unlabelled().run(&workshop, 500).await;
        let report = train(&workshop, &request()).await.unwrap();
        assert_eq!((report.rows, &report.metrics.holdout, &report.metrics.training.labelled), (1_500, &None, &None));
        // The contamination is the share of training rows below the threshold.
        assert_eq!(report.metrics.training.detected, 15);
    }

    #[tokio::test]
    async fn same_request_gives_the_same_artifact_under_the_next_version() {
        let (_folder, workshop) = workshop().await;
        Market::labelled().run(&workshop, 500).await;
        let first = train(&workshop, &request()).await.unwrap();
        let again = train(&workshop, &request()).await.unwrap();
        assert_eq!((again.version, again.parent, again.promoted()), (2, Some(1), true));
        assert_eq!(again.artifact_sha256, first.artifact_sha256);
        let stability = again.metrics.stability.unwrap();
        assert_eq!((stability.against, stability.kolmogorov_smirnov, stability.agreement), (1, 0.0, 1.0));
        let parameters = TrainParameters { seed: 43, ..request().parameters };
        let other = train(&workshop, &TrainRequest { parameters, ..request() }).await.unwrap();
        assert_ne!(other.artifact_sha256, first.artifact_sha256);
        assert!(other.metrics.stability.unwrap().kolmogorov_smirnov > 0.0);
    }

    #[tokio::test]
    async fn loaded_model_is_the_trained_one() {
        let (_folder, workshop) = workshop().await;
        Market::labelled().run(&workshop, 500).await;
        let report = train(&workshop, &request()).await.unwrap();
        let active = active::load(&workshop.registry, &workshop.models_dir, 1).await.unwrap();
        assert_eq!((active.version, active.name.as_str()), (1, DETECTOR));
        assert_eq!((active.model.threshold(), active.artifact_bytes), (report.threshold, report.artifact_bytes));
        let slice = Slice::new(None, Some(second(400)), &[]).unwrap();
        let rows = workshop.choose(&slice, None).await.unwrap().rows;
        assert_eq!(Report::of(&rows, &judge(&active.model, &rows)).unwrap(), report.metrics.training);
    }

    #[tokio::test]
    async fn model_of_another_feature_specification_is_not_loaded() {
        let (_folder, workshop) = workshop().await;
        Market::labelled().run(&workshop, 200).await;
        train(&workshop, &request()).await.unwrap();
        let trained = workshop.registry.model(1).await.unwrap().model;
        let other = TrainedModel { specification_hash: "another".to_owned(), ..trained };
        let version = workshop.registry.register(&other).await.unwrap();
        let error = active::load(&workshop.registry, &workshop.models_dir, version).await.unwrap_err();
        assert!(matches!(error, Error::Models(models::Error::Specification { .. })), "{error}");
    }

    #[tokio::test]
    async fn without_promotion_there_is_no_champion() {
        let (_folder, workshop) = workshop().await;
        Market::labelled().run(&workshop, 200).await;
        let report = train(&workshop, &TrainRequest { then: Then::Register, ..request() }).await.unwrap();
        assert_eq!((report.version, report.promotion), (1, Outcome::NotAskedFor));
        assert_eq!(workshop.registry.champion().await.unwrap(), None);
        assert_eq!(workshop.registry.models().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_nominated_model_waits_once_there_is_a_champion() {
        let (_folder, workshop) = workshop().await;
        Market::labelled().run(&workshop, 200).await;
        let nominate = |work: &str| TrainRequest { then: Then::Nominate { work: Some(work.to_owned()) }, ..request() };
        let first = train(&workshop, &nominate("run/1")).await.unwrap();
        assert!(first.promoted(), "there was no champion");
        let second = train(&workshop, &nominate("run/2")).await.unwrap();
        assert_eq!((second.version, second.promotion), (2, Outcome::Nominated));
        let again = train(&workshop, &nominate("run/2")).await.unwrap();
        assert_eq!((again.version, again.promotion), (2, Outcome::Nominated), "the same work makes one model");
        assert_eq!(workshop.registry.champion().await.unwrap().unwrap().version, 1);
        assert_eq!(workshop.registry.candidates().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn the_most_anomalous_rows_and_incidents_are_not_learnt_from() {
        let (_folder, workshop) = workshop().await;
        Market::unlabelled().run(&workshop, 500).await;
        let outage = Incident { from: second(100), to: second(200), reason: "outage".to_owned() };
        let request = TrainRequest { incidents: vec![outage], trim: Some(0.01), ..request() };
        let report = train(&workshop, &request).await.unwrap();
        assert_eq!((report.rows, report.rows_trimmed, report.metrics.training.rows), (1_200, 12, 1_188));
        assert!(report.predicate.contains("NOT (timestamp >= '2024-03-09T16:01:40Z'"), "{}", report.predicate);
        assert!(report.to_string().contains("12 of the most anomalous not learnt from"), "{report}");
        let inputs = workshop.registry.model(1).await.unwrap().model.inputs;
        assert_eq!(inputs.trimmed, Some(Trimmed { share: 0.01, rows: 12 }));
        assert_eq!(inputs.rows, 1_200);
    }

    #[tokio::test]
    async fn an_older_version_of_the_table_can_be_trained_on() {
        let (_folder, workshop) = workshop().await;
        let mut market = Market::labelled();
        market.run(&workshop, 200).await;
        let version = workshop.lake.state(TableName::Features).await.unwrap().version;
        let first = train(&workshop, &request()).await.unwrap();
        market.run(&workshop, 200).await;
        let again = train(&workshop, &TrainRequest { delta_version: Some(version), ..request() }).await.unwrap();
        assert_eq!((again.delta_version, again.rows), (first.delta_version, first.rows));
        assert_eq!(again.artifact_sha256, first.artifact_sha256);
        let error = train(&workshop, &TrainRequest { delta_version: Some(99), ..request() }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn slower_of_two_trainings_leaves_the_champion() {
        let (_folder, workshop) = workshop().await;
        Market::labelled().run(&workshop, 200).await;
        train(&workshop, &request()).await.unwrap();
        let slower = train(&workshop, &TrainRequest { then: Then::Register, ..request() }).await.unwrap();
        // It began when there was no champion.
        let outcome = promote(&workshop, &request(), slower.version, None).await.unwrap();
        assert_eq!(outcome, Outcome::Overtaken { champion: Some(1) });
        assert_eq!(workshop.registry.champion().await.unwrap().unwrap().version, 1);
    }

    #[tokio::test]
    async fn range_and_symbols_choose_the_rows() {
        let (_folder, workshop) = workshop().await;
        Market::labelled().run(&workshop, 400).await;
        let symbols = vec![Symbol::parse("BTC-USDT").unwrap()];
        let request = TrainRequest { from: Some(second(100)), to: Some(second(300)), symbols, ..request() };
        let report = train(&workshop, &request).await.unwrap();
        let Metrics { training, holdout, .. } = report.metrics;
        assert_eq!((training.rows, training.first, training.last), (160, second(100), second(259)));
        let holdout = holdout.unwrap();
        assert_eq!((holdout.rows, holdout.first, holdout.last), (40, second(260), second(299)));
        assert_eq!(report.symbols, ["BTC-USDT"]);
    }

    #[tokio::test]
    async fn damaged_champion_does_not_stand_in_the_way_of_its_successor() {
        let (_folder, workshop) = workshop().await;
        Market::labelled().run(&workshop, 200).await;
        train(&workshop, &request()).await.unwrap();
        let artifact = workshop.registry.model(1).await.unwrap().model.artifact;
        std::fs::write(workshop.models_dir.join(artifact.path), b"torn").unwrap();
        let error = active::load(&workshop.registry, &workshop.models_dir, 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let parameters = TrainParameters { seed: 43, ..request().parameters };
        let report = train(&workshop, &TrainRequest { parameters, ..request() }).await.unwrap();
        assert_eq!((report.version, report.promoted(), report.metrics.stability), (2, true, None));
    }

    #[tokio::test]
    async fn empty_table_is_refused_and_nothing_is_registered() {
        let (_folder, workshop) = workshop().await;
        let error = train(&workshop, &request()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("no feature rows of all symbols"), "{error}");
        assert_eq!(workshop.registry.models().await.unwrap(), []);
    }

    #[tokio::test]
    async fn event_rate_too_low_for_z_scores_is_refused() {
        let (_folder, workshop) = workshop().await;
        Market::new(7, 10_000_000, true).run(&workshop, 200).await;
        let error = train(&workshop, &request()).await.unwrap_err();
        assert!(matches!(&error, Error::Nothing { what, .. } if what.contains("all z-scores of the 480")), "{error}");
    }

    #[tokio::test]
    async fn parameters_outside_their_limits_are_refused() {
        let (_folder, workshop) = workshop().await;
        let parameters = TrainParameters { contamination: 0.7, ..TrainParameters::default() };
        let error = train(&workshop, &TrainRequest { parameters, ..request() }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
