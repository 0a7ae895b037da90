//! The objects that the service answers with. Names and types are a contract with clients of the original service:
//! fields are added, never renamed. Absent values are `null`; only `simulated`, which is never false, is left out.

mod explanation;

use std::{collections::BTreeMap, marker::PhantomData};

use bytes::Bytes;
use domain::{FEATURE_NAMES, Timestamp};
use jobs::{
    active::ActiveModel,
    feed::{self, FeatureStatistics, FeedItem, Percentiles, Statistics, Tally},
    status::{Part, PartState, PartStatus, Progress},
};
use poem::{
    IntoResponse, Response,
    http::{HeaderValue, header},
};
use poem_openapi::{
    ApiResponse, Enum, Object,
    registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchemaRef, Registry},
    types::{Example, Type},
};
use serde::Serialize;

use crate::{problem::Problem, routes::Service};

pub use explanation::ExplainAnswer;

/// The sample size that scikit-learn calls `auto`.
const AUTO_SAMPLES: u32 = 256;

/// An answer serialised straight into its bytes.
///
/// `poem_openapi::payload::Json` builds a tree of values first, sorts its keys and leaves out what is `None`.
pub struct Json<T>(Bytes, PhantomData<T>);

impl<T: Serialize> Json<T> {
    /// Serialises `answer`.
    ///
    /// # Errors
    /// A problem with status 500 where the answer has no JSON form, which is a defect.
    pub fn of(answer: &T) -> Result<Self, Problem> {
        let bytes = serde_json::to_vec(answer).map_err(|error| Problem::internal(&error))?;
        Ok(Self(bytes.into(), PhantomData))
    }
}

impl<T: Send> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        typed(self.0, "application/json")
    }
}

impl<T: Type> ApiResponse for Json<T> {
    fn meta() -> MetaResponses {
        ok("application/json", T::schema_ref())
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// A document that is not JSON, or JSON without a schema of its own.
pub struct Document<M>(Bytes, PhantomData<M>);

/// The media type of a [`Document`].
pub trait MediaType: Send {
    /// As in `Content-Type`.
    const NAME: &'static str;
}

impl<M> Document<M> {
    /// A document with these bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into(), PhantomData)
    }
}

impl<M: MediaType> IntoResponse for Document<M> {
    fn into_response(self) -> Response {
        let mut response = typed(self.0, M::NAME);
        // A page of another site that showed it in a frame could have its buttons pressed.
        response.headers_mut().insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        response
    }
}

impl<M: MediaType> ApiResponse for Document<M> {
    fn meta() -> MetaResponses {
        ok(M::NAME, String::schema_ref())
    }

    fn register(_registry: &mut Registry) {}
}

fn ok(content_type: &'static str, schema: MetaSchemaRef) -> MetaResponses {
    MetaResponses {
        responses: vec![MetaResponse {
            description: "The answer.",
            status: Some(200),
            status_range: None,
            content: vec![MetaMediaType { content_type, schema }],
            headers: vec![],
        }],
    }
}

fn typed(body: Bytes, content_type: &'static str) -> Response {
    let mut response = Response::from(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The verdict on one feature vector.
#[derive(Serialize, Object)]
#[oai(example)]
pub struct PredictAnswer {
    /// The market asked about.
    pub symbol: String,
    /// The decision function: negative = anomaly.
    pub anomaly_score: f64,
    /// Whether the model calls it an anomaly.
    pub is_anomaly: bool,
}

impl Example for PredictAnswer {
    fn example() -> Self {
        Self { symbol: "BTC-USDT".to_owned(), anomaly_score: -0.1192, is_anomaly: true }
    }
}

/// Whether predictions can be asked for.
#[derive(Serialize, Object)]
#[oai(example)]
pub struct Health {
    /// `waiting_for_model` before the first model.
    pub status: HealthStatus,
    /// Whether a model answers.
    pub model_loaded: bool,
}

/// Whether a model answers, in a word.
#[derive(Serialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case")]
pub enum HealthStatus {
    /// A model answers.
    Ok,
    /// The first model does not exist yet.
    WaitingForModel,
}

impl Health {
    /// The health with or without a model.
    pub const fn of(model_loaded: bool) -> Self {
        let status = if model_loaded { HealthStatus::Ok } else { HealthStatus::WaitingForModel };
        Self { status, model_loaded }
    }
}

impl Example for Health {
    fn example() -> Self {
        Self::of(true)
    }
}

/// The answer of a probe that passes.
#[derive(Serialize, Object)]
#[oai(example)]
pub struct Passed {
    /// What holds, in one word.
    pub status: String,
}

impl Example for Passed {
    fn example() -> Self {
        Self { status: "alive".to_owned() }
    }
}

/// One prediction with what the model was shown.
#[derive(Serialize, Object)]
#[oai(example)]
pub struct ShownPrediction {
    /// The market.
    pub symbol: String,
    /// Standard score of the price.
    pub z_score_price: f64,
    /// Standard score of the log-return.
    pub z_score_log_return: f64,
    /// Standard score of the volume.
    pub z_score_volume: f64,
    /// Sample deviation of the price relative to its mean.
    pub rolling_price_std: f64,
    /// Sample deviation of the volume, in base units.
    pub rolling_volume_std: f64,
    /// The decision function: negative = anomaly.
    pub anomaly_score: f64,
    /// Whether the model calls it an anomaly.
    pub is_anomaly: bool,
    /// Event time of a live prediction, time of the request of a manual one; RFC 3339, UTC.
    pub timestamp: String,
    /// Version of the model that judged.
    pub model_version: i64,
    /// Who asked.
    pub origin: Origin,
    /// Price of the event that a live prediction is about, in quote units; null where it is not known, and of a manual one.
    #[oai(nullable)]
    pub price: Option<f64>,
    /// Volume of that event, in base units; null where the price is.
    #[oai(nullable)]
    pub volume: Option<f64>,
    /// `true` where the market is made up; otherwise left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simulated: Option<bool>,
}

/// Who asked for a prediction.
#[derive(Serialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case")]
pub enum Origin {
    /// The stream of events.
    Live,
    /// A request to `/predict`.
    Manual,
}

impl From<&FeedItem> for ShownPrediction {
    fn from(item: &FeedItem) -> Self {
        let [z_score_price, z_score_log_return, z_score_volume, rolling_price_std, rolling_volume_std] = item.features;
        Self {
            symbol: item.symbol.to_string(),
            z_score_price,
            z_score_log_return,
            z_score_volume,
            rolling_price_std,
            rolling_volume_std,
            anomaly_score: item.anomaly_score,
            is_anomaly: item.is_anomaly,
            timestamp: iso_text(item.timestamp),
            model_version: item.model_version,
            origin: match item.origin {
                feed::Origin::Live => Origin::Live,
                feed::Origin::Manual => Origin::Manual,
            },
            price: item.trade.map(|trade| trade.price),
            volume: item.trade.map(|trade| trade.volume),
            simulated: item.is_simulated.then_some(true),
        }
    }
}

impl Example for ShownPrediction {
    fn example() -> Self {
        Self {
            symbol: "BTC-USDT".to_owned(),
            z_score_price: 0.4,
            z_score_log_return: -0.2,
            z_score_volume: 1.1,
            rolling_price_std: 0.002,
            rolling_volume_std: 9.8,
            anomaly_score: 0.1312,
            is_anomaly: false,
            timestamp: "2026-11-22T08:00:00+00:00".to_owned(),
            model_version: 1,
            origin: Origin::Live,
            price: Some(43_150.5),
            volume: Some(12.534_21),
            simulated: Some(true),
        }
    }
}

/// A live prediction as the stream tells it.
#[derive(Serialize, Object)]
#[oai(example)]
pub struct LivePrediction {
    /// Partition and offset of the record that caused it, as `partition:offset`; a repeat after a crash has the same.
    pub id: String,
    /// The prediction.
    #[serde(flatten)]
    #[oai(flatten)]
    pub prediction: ShownPrediction,
}

impl From<&FeedItem> for LivePrediction {
    fn from(item: &FeedItem) -> Self {
        let id = item.position.map(|(partition, offset)| format!("{partition}:{offset}"));
        Self { id: id.unwrap_or_default(), prediction: item.into() }
    }
}

impl Example for LivePrediction {
    fn example() -> Self {
        Self { id: "0:21644".to_owned(), prediction: ShownPrediction::example() }
    }
}

/// Events that a reader of the stream is not told.
#[derive(Serialize, Object)]
#[oai(example)]
pub struct Missed {
    /// How many, of all kinds and markets; null where nobody knows.
    #[oai(nullable)]
    pub count: Option<u64>,
    /// Why.
    pub reason: String,
}

impl Example for Missed {
    fn example() -> Self {
        Self { count: Some(312), reason: "these events are not in memory any more".to_owned() }
    }
}

/// The parts of the program, and how far it is.
#[derive(Serialize, Object)]
#[oai(example)]
pub struct SystemStatus {
    /// The parts.
    #[serde(flatten)]
    #[oai(flatten)]
    pub parts: PartsStatus,
    /// The version of the program.
    pub version: String,
    /// When the service began; RFC 3339, UTC.
    pub started: String,
    /// How far the first model is.
    pub progress: FirstModelProgress,
}

/// How far the program is on its way to the first model.
#[derive(Serialize, Object)]
pub struct FirstModelProgress {
    /// Events in the log.
    pub events_logged: u64,
    /// Feature rows committed.
    pub feature_rows: u64,
    /// Feature rows that the first training needs.
    pub rows_for_first_model: u64,
    /// What happens now, as a sentence for a person; empty where there is nothing to say.
    pub message: String,
}

/// The parts of the program and how they are.
#[derive(Serialize, Object)]
#[oai(example)]
pub struct PartsStatus {
    /// API, Log, Stream, Lake, Scheduler, Model.
    pub services: Vec<ServiceStatus>,
    /// When this was told; RFC 3339, UTC.
    pub timestamp: String,
    /// `true` where the data are made up; otherwise left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simulated: Option<bool>,
}

/// One part of the program.
#[derive(Serialize, Object)]
pub struct ServiceStatus {
    /// Name of the part.
    pub name: String,
    /// How it is.
    pub status: ServiceState,
    /// How long log, lake and the registry of the model took to answer a small question, in milliseconds; 0 for the others
    /// and in events of `/stream`.
    pub response_time_ms: f64,
    /// A sentence for a person, where there is something to say.
    #[oai(nullable)]
    pub details: Option<String>,
}

/// How a part is.
#[derive(Serialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case")]
pub enum ServiceState {
    /// It works.
    Online,
    /// It works, with less than is wanted.
    Degraded,
    /// It does not work, or does not run here.
    Offline,
}

impl SystemStatus {
    /// How a service is that began at `begun`, with how long parts took to answer, in milliseconds.
    pub fn of(service: &Service, begun: Timestamp, times: &[(Part, f64)]) -> Self {
        let mut parts = service.status.parts();
        for part in &mut parts {
            let time = times.iter().find(|(name, _)| *name == part.name);
            part.response_time_ms = time.map_or(part.response_time_ms, |(_, time)| *time);
        }
        Self {
            parts: PartsStatus::of(parts, service),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: iso_text(begun),
            progress: service.status.progress().into(),
        }
    }
}

impl From<Progress> for FirstModelProgress {
    fn from(progress: Progress) -> Self {
        let Progress { events_logged, feature_rows, rows_for_first_model, message } = progress;
        Self { events_logged, feature_rows, rows_for_first_model, message }
    }
}

impl PartsStatus {
    /// How the parts of a service are.
    pub fn of(parts: Vec<PartStatus>, service: &Service) -> Self {
        let services = parts.into_iter().map(ServiceStatus::from).collect();
        Self { services, timestamp: iso_text(service.clock.now()), simulated: service.mark() }
    }
}

impl From<PartStatus> for ServiceStatus {
    fn from(part: PartStatus) -> Self {
        Self {
            name: part.name.as_str().to_owned(),
            status: match part.state {
                PartState::Online => ServiceState::Online,
                PartState::Degraded => ServiceState::Degraded,
                PartState::Offline => ServiceState::Offline,
            },
            response_time_ms: part.response_time_ms,
            details: part.details,
        }
    }
}

impl Example for SystemStatus {
    fn example() -> Self {
        Self {
            parts: PartsStatus::example(),
            version: "0.1.0".to_owned(),
            started: "2026-11-22T07:30:00+00:00".to_owned(),
            progress: FirstModelProgress {
                events_logged: 21_645,
                feature_rows: 21_621,
                rows_for_first_model: 5_000,
                message: String::new(),
            },
        }
    }
}

impl Example for PartsStatus {
    fn example() -> Self {
        let name = "API".to_owned();
        let api = ServiceStatus { name, status: ServiceState::Online, response_time_ms: 0.0, details: None };
        Self { services: vec![api], timestamp: "2026-11-22T08:00:00+00:00".to_owned(), simulated: Some(true) }
    }
}

/// Counters over all predictions, and a description of the newest.
#[derive(Serialize, Object)]
#[oai(example)]
#[expect(clippy::struct_field_names, reason = "the names are the contract")]
pub struct Stats {
    /// Predictions, live and manual.
    pub total_predictions: u64,
    /// Those that said anomaly.
    pub total_anomalies: u64,
    /// Share of anomalies in percent.
    pub anomaly_rate: f64,
    /// Mean score.
    pub avg_score: f64,
    /// The same by symbol.
    pub per_symbol: BTreeMap<String, SymbolStats>,
    /// Over the newest 10 000 predictions, linearly interpolated; null without predictions.
    #[oai(nullable)]
    pub score_percentiles: Option<ScorePercentiles>,
    /// Over the newest 10 000 predictions; null without predictions.
    #[oai(nullable)]
    pub feature_stats: Option<FeatureStats>,
    /// `true` where the markets are made up; otherwise left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simulated: Option<bool>,
}

/// Counters of one symbol.
#[derive(Serialize, Object)]
pub struct SymbolStats {
    /// Predictions.
    pub count: u64,
    /// Those that said anomaly.
    pub anomalies: u64,
    /// Share of anomalies in percent.
    pub anomaly_rate: f64,
    /// Mean score.
    pub avg_score: f64,
}

impl From<&Tally> for SymbolStats {
    fn from(tally: &Tally) -> Self {
        Self {
            count: tally.count,
            anomalies: tally.anomalies,
            anomaly_rate: tally.anomaly_rate(),
            avg_score: tally.average_score(),
        }
    }
}

/// Percentiles of scores.
#[derive(Serialize, Object)]
pub struct ScorePercentiles {
    /// Lower quartile.
    pub p25: f64,
    /// Median.
    pub p50: f64,
    /// Upper quartile.
    pub p75: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

impl From<Percentiles> for ScorePercentiles {
    fn from(Percentiles { p25, p50, p75, p95, p99 }: Percentiles) -> Self {
        Self { p25, p50, p75, p95, p99 }
    }
}

/// The features of the newest predictions.
#[derive(Serialize, Object)]
pub struct FeatureStats {
    /// Standard score of the price.
    pub z_score_price: FeatureSpread,
    /// Standard score of the log-return.
    pub z_score_log_return: FeatureSpread,
    /// Standard score of the volume.
    pub z_score_volume: FeatureSpread,
    /// Sample deviation of the price relative to its mean.
    pub rolling_price_std: FeatureSpread,
    /// Sample deviation of the volume, in base units.
    pub rolling_volume_std: FeatureSpread,
}

/// How one feature is spread.
#[derive(Serialize, Object)]
pub struct FeatureSpread {
    /// Mean.
    pub mean: f64,
    /// Sample standard deviation.
    pub std: f64,
    /// Smallest value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
}

impl From<FeatureStatistics> for FeatureSpread {
    fn from(FeatureStatistics { mean, std, min, max }: FeatureStatistics) -> Self {
        Self { mean, std, min, max }
    }
}

impl From<[FeatureStatistics; FEATURE_NAMES.len()]> for FeatureStats {
    fn from(features: [FeatureStatistics; FEATURE_NAMES.len()]) -> Self {
        let [z_score_price, z_score_log_return, z_score_volume, rolling_price_std, rolling_volume_std] =
            features.map(FeatureSpread::from);
        Self { z_score_price, z_score_log_return, z_score_volume, rolling_price_std, rolling_volume_std }
    }
}

impl From<&Statistics> for Stats {
    fn from(statistics: &Statistics) -> Self {
        let per_symbol = statistics.per_symbol.iter();
        Self {
            total_predictions: statistics.total.count,
            total_anomalies: statistics.total.anomalies,
            anomaly_rate: statistics.total.anomaly_rate(),
            avg_score: statistics.total.average_score(),
            per_symbol: per_symbol.map(|(symbol, tally)| (symbol.to_string(), tally.into())).collect(),
            score_percentiles: statistics.score_percentiles.map(Into::into),
            feature_stats: statistics.feature_stats.map(Into::into),
            simulated: None,
        }
    }
}

impl Example for Stats {
    fn example() -> Self {
        let spread = || FeatureSpread { mean: 0.01, std: 1.2, min: -5.1, max: 6.3 };
        let btc = SymbolStats { count: 70, anomalies: 1, anomaly_rate: 1.43, avg_score: 0.1188 };
        Self {
            total_predictions: 200,
            total_anomalies: 3,
            anomaly_rate: 1.5,
            avg_score: 0.1204,
            per_symbol: BTreeMap::from([("BTC-USDT".to_owned(), btc)]),
            score_percentiles: Some(ScorePercentiles { p25: 0.1, p50: 0.13, p75: 0.15, p95: 0.17, p99: 0.18 }),
            feature_stats: Some(FeatureStats {
                z_score_price: spread(),
                z_score_log_return: spread(),
                z_score_volume: spread(),
                rolling_price_std: spread(),
                rolling_volume_std: spread(),
            }),
            simulated: Some(true),
        }
    }
}

/// The active model; before the first, `loaded` is false and the rest is null.
#[derive(Serialize, Object, Default)]
#[oai(example)]
pub struct ModelInfo {
    /// Whether a model answers.
    pub loaded: bool,
    /// Kind of the detector.
    #[oai(nullable)]
    pub model_type: Option<String>,
    /// Trees of the forest.
    #[oai(nullable)]
    pub n_estimators: Option<u32>,
    /// Share of the training rows that lies below the threshold.
    #[oai(nullable)]
    pub contamination: Option<f64>,
    /// Rows that each tree was grown from: `auto` for 256 (or all, where there are fewer), otherwise the number.
    #[oai(nullable)]
    pub max_samples: Option<String>,
    /// Names of the features, in the order in which the model takes them.
    #[oai(nullable)]
    pub feature_names: Option<Vec<String>>,
    /// Means of the scaler for all markets, in the order of `feature_names`.
    #[oai(nullable)]
    pub scaler_means: Option<Vec<f64>>,
    /// Deviations of the scaler for all markets, in the order of `feature_names`.
    #[oai(nullable)]
    pub scaler_stds: Option<Vec<f64>>,
    /// Size of the stored artifact in KiB.
    #[oai(nullable)]
    pub model_file_size_kb: Option<f64>,
    /// When the version was trained; RFC 3339, UTC.
    #[oai(nullable)]
    pub model_file_modified: Option<String>,
    /// Name in the registry.
    #[oai(nullable)]
    pub model_name: Option<String>,
    /// Version in the registry.
    #[oai(nullable)]
    pub model_version: Option<i64>,
}

impl From<&ActiveModel> for ModelInfo {
    #[expect(clippy::cast_precision_loss, reason = "an artifact is far smaller than 2^53 bytes")]
    fn from(active: &ActiveModel) -> Self {
        let parameters = active.model.parameters();
        let scale = active.model.global_scale();
        Self {
            loaded: true,
            model_type: Some("IsolationForest".to_owned()),
            n_estimators: Some(parameters.trees),
            contamination: Some(parameters.contamination),
            max_samples: Some(match parameters.max_samples {
                AUTO_SAMPLES => "auto".to_owned(),
                number => number.to_string(),
            }),
            feature_names: Some(FEATURE_NAMES.map(str::to_owned).to_vec()),
            scaler_means: Some(scale.means.to_vec()),
            scaler_stds: Some(scale.deviations.to_vec()),
            model_file_size_kb: Some(active.artifact_bytes as f64 / 1_024.0),
            model_file_modified: Some(iso_text(active.created)),
            model_name: Some(active.name.clone()),
            model_version: Some(active.version),
        }
    }
}

impl Example for ModelInfo {
    fn example() -> Self {
        Self {
            loaded: true,
            model_type: Some("IsolationForest".to_owned()),
            n_estimators: Some(200),
            contamination: Some(0.01),
            max_samples: Some("auto".to_owned()),
            feature_names: Some(FEATURE_NAMES.map(str::to_owned).to_vec()),
            scaler_means: Some(vec![0.0, 0.0, 0.0, 0.002, 9.7]),
            scaler_stds: Some(vec![1.2, 1.3, 1.2, 0.001, 4.0]),
            model_file_size_kb: Some(412.5),
            model_file_modified: Some("2026-11-22T08:00:00+00:00".to_owned()),
            model_name: Some("sentinel".to_owned()),
            model_version: Some(1),
        }
    }
}

/// An instant as clients of the original service read it: RFC 3339 with the offset spelled `+00:00`, which older
/// versions of Python's `datetime.fromisoformat` need.
pub fn iso_text(instant: Timestamp) -> String {
    instant.to_string().replace('Z', "+00:00")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_spell_their_offset_in_digits() {
        assert_eq!(iso_text(Timestamp::from_seconds(1_710_000_000)), "2024-03-09T16:00:00+00:00");
        assert_eq!(iso_text(Timestamp::from_micros(1_710_000_000_250_000)), "2024-03-09T16:00:00.250000+00:00");
    }

    #[test]
    fn an_unloaded_model_is_false_and_nulls() {
        let value = serde_json::to_value(ModelInfo::default()).unwrap();
        let fields = value.as_object().unwrap();
        assert_eq!(fields["loaded"], false);
        assert!(fields.iter().all(|(name, value)| name == "loaded" || value.is_null()));
        assert_eq!(fields.len(), 12);
    }
}
