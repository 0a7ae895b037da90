//! The operations of the service and their document.
//!
//! Every path is an operation of the `OpenAPI` document, pages included, so that one table tells what there is and which
//! methods it takes. Handlers read shared state and never block; what computes goes to the blocking pool.

#![expect(clippy::unused_async, reason = "the OpenApi macro takes asynchronous handlers only")]

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use domain::{Clock, Timestamp};
use jobs::{
    active::ActiveModel,
    alerts::Alerts,
    control::Control,
    feed::{Feed, Origin},
    ingest::Intake,
    metrics::{self, Metrics},
    status::StatusProbe,
    tables,
};
use poem::{Endpoint, IntoEndpoint, Response};
use poem_openapi::{
    ExtraHeader, LicenseObject, OpenApi, OpenApiService, Tags,
    param::{Header, Query},
};
use tokio::sync::watch;

use crate::{
    alerts::{AlertOperations, answers::SeverityName},
    answers::{
        Document, ExplainAnswer, Health, Json, MediaType, ModelInfo, Passed, PredictAnswer, ShownPrediction, Stats,
        SystemStatus,
    },
    dashboard::Dashboard,
    document,
    events::EventOperations,
    gate::{Gate, Guarded},
    identity::{REQUEST_ID, RequestIds},
    life::Life,
    observe::{Observed, Observing, SIMULATED},
    parameters,
    paths::Paths,
    predict::{Batch, BatchAnswer, BatchBody, Question},
    predictions::Predictions,
    problem::{Problem, Refusals, Refused},
    protection::Protection,
    readiness,
    sql::Sql,
    stream::{Events, Kind, Opened, Wanted},
    tables::Tables,
};

/// What the service is made of; the program builds it.
#[derive(Clone)]
pub struct Service {
    /// The active model, `None` before the first.
    pub model: watch::Receiver<Option<Arc<ActiveModel>>>,
    /// What was predicted.
    pub feed: Arc<Feed>,
    /// How the parts are.
    pub status: Arc<dyn StatusProbe>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The present.
    pub clock: Arc<dyn Clock>,
    /// Alerts, to be asked and judged.
    pub alerts: Alerts,
    /// Models, schedules and runs, to be asked and changed.
    pub control: Control,
    /// Takes events into the log.
    pub intake: Intake,
    /// The lake's tables, to be read.
    pub tables: tables::Tables,
    /// Whether the data are made up, which every answer says.
    pub simulated: bool,
    /// Who is let in.
    pub protection: Protection,
}

impl Service {
    /// The model that answers; none before the first.
    pub(crate) fn active(&self) -> Option<Arc<ActiveModel>> {
        self.model.borrow().clone()
    }

    /// The member that objects about made-up data have.
    pub(crate) fn mark(&self) -> Option<bool> {
        self.simulated.then_some(true)
    }

    /// How far the first model is, as the end of a sentence.
    pub(crate) fn waiting(&self) -> String {
        let progress = self.status.progress();
        format!("is trained once {} feature rows exist, {} do", progress.rows_for_first_model, progress.feature_rows)
    }
}

/// Every route of the service over which `events` are told, errors included: the endpoint never fails.
pub fn routes(service: Service, events: Events) -> impl Endpoint<Output = Response> {
    let apis = [
        Operations::meta(),
        EventOperations::meta(),
        AlertOperations::meta(),
        Life::meta(),
        Tables::meta(),
        Predictions::meta(),
        Sql::meta(),
        Dashboard::meta(),
    ];
    let begun = service.clock.now();
    let observing = Observing {
        metrics: Arc::clone(&service.metrics),
        paths: Paths::of(apis.iter().flatten()),
        ids: RequestIds::new(begun),
        simulated: service.simulated,
    };
    let documents = Arc::new(OnceLock::new());
    let intake = EventOperations { intake: service.intake.clone() };
    let alerts = AlertOperations { alerts: service.alerts.clone() };
    let life = Life { control: service.control.clone() };
    let tables = Tables { tables: service.tables.clone(), simulated: service.mark() };
    let predictions = Predictions { tables: service.tables.clone() };
    let sql = Sql { tables: service.tables.clone() };
    let (gate, keys_required) = (Gate::new(&service.protection), service.protection.keys_required);
    let operations = Operations { service, begun, events, documents: Arc::clone(&documents) };
    let all = (operations, intake, alerts, life, tables, predictions, sql, Dashboard::embedded());
    let guarded = Guarded::new(all, gate);
    let openapi = OpenApiService::new(guarded, "Sentinel", env!("CARGO_PKG_VERSION"))
        .description(ABOUT)
        .license(LicenseObject::from("Apache-2.0"))
        .extra_response_header::<String, _>(
            ExtraHeader::new(REQUEST_ID).description("The id of the request: the one that it came with, or a new one."),
        )
        .extra_response_header::<Option<bool>, _>(
            ExtraHeader::new(SIMULATED)
                .description("`true` where the data of the service are made up, otherwise absent."),
        );
    let finished = |text: &str| {
        let text = document::finished(text);
        if keys_required { text } else { document::without_need_of_keys(&text) }
    };
    documents.get_or_init(|| Documents {
        openapi: finished(&openapi.spec()).into(),
        explorer: finished(&openapi.swagger_ui_html()).into(),
    });
    Observed::new(openapi.into_endpoint(), observing)
}

/// What holds for every operation, for the document.
const ABOUT: &str = "\
Events, predictions, alerts, statistics, tables, models, schedules, runs and the state of a running Sentinel.

API keys are asked for at addresses that others can reach. Errors are RFC 9457 problems; their `detail` is a text for a person, their `request_id` the header `X-Request-Id` of the \
answer. A request may bring an `X-Request-Id` of 1 to 128 letters, digits, `.`, `_` and `-`, and the `traceparent` of a \
trace that it is part of. 503 comes with `Retry-After`. Where a path takes parameters in the query, another one or one \
given twice is refused, except that `/latest-predictions` ignores other ones, as the original service did.

Where the data are made up, every answer has the header `X-Simulated`, and objects about data have a member `simulated`.";

/// What is written once, at start.
struct Documents {
    openapi: Bytes,
    explorer: Bytes,
}

struct Operations {
    service: Service,
    begun: Timestamp,
    events: Events,
    documents: Arc<OnceLock<Documents>>,
}

/// The chapters of the document.
#[derive(Tags)]
pub enum Chapter {
    /// Giving events to the log.
    Events,
    /// Asking the model, and what it said.
    Predictions,
    /// What is worth a person's time, and what people say about it.
    Alerts,
    /// What is stored, as it is and as it was.
    Tables,
    /// Which models there are, and which one answers.
    Models,
    /// What is started when, and what became of it.
    Runs,
    /// How the program is.
    Operations,
    /// Pages for people and machines that read about the service.
    Documents,
}

/// Refusals of `/predict` and `/explain`.
struct OfPredict;

impl Refusals for OfPredict {
    const STATUSES: &'static [(u16, &'static str)] = &[
        (413, "The body is longer than 64 KiB."),
        (415, "The body is not said to be JSON."),
        (422, "The body is not JSON, or a field is missing, of another type or outside its limits."),
        (503, "There is no model yet."),
    ];
}

/// Refusals of `/predict/batch`.
struct OfBatch;

impl Refusals for OfBatch {
    const STATUSES: &'static [(u16, &'static str)] = &[
        (413, "The body is longer than 4 MiB or has more than 10 000 items."),
        (415, "The body is not said to be JSON."),
        (422, "The body is no JSON array."),
        (503, "There is no model yet."),
    ];
}

/// Refusals of operations with a query.
struct OfQuery;

impl Refusals for OfQuery {
    const STATUSES: &'static [(u16, &'static str)] = &[(422, "A parameter is outside its limits.")];
}

/// Refusals of `/readyz`.
struct OfReadiness;

impl Refusals for OfReadiness {
    const STATUSES: &'static [(u16, &'static str)] = &[(503, "Something that is needed is not there yet.")];
}

/// Refusals of operations that fail by a defect only.
pub struct OfNothing;

impl Refusals for OfNothing {
    const STATUSES: &'static [(u16, &'static str)] = &[];
}

struct HtmlPage;

impl MediaType for HtmlPage {
    const NAME: &'static str = "text/html; charset=utf-8";
}

struct JsonText;

impl MediaType for JsonText {
    const NAME: &'static str = "application/json; charset=utf-8";
}

struct MetricsText;

impl MediaType for MetricsText {
    const NAME: &'static str = metrics::CONTENT_TYPE;
}

type Answer<T, R> = Result<T, Refused<R>>;

fn default_limit() -> u16 {
    100
}

fn every_kind() -> Vec<Kind> {
    Kind::ALL.to_vec()
}

#[expect(clippy::unnecessary_wraps, reason = "the parameter is optional, and so is its example")]
fn example_symbol() -> Option<String> {
    Some("BTC-USDT".to_owned())
}

/// What `work` gives, off the threads that serve.
pub async fn computed<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Problem::internal(&error))
}

impl Operations {
    /// The model that answers, or that there is none yet.
    fn answering(&self) -> Result<Arc<ActiveModel>, Problem> {
        self.service.active().ok_or_else(|| {
            Problem::unavailable(format!("no model is available yet: the first {}", self.service.waiting()))
        })
    }
}

#[OpenApi]
impl Operations {
    /// Judge one feature vector
    ///
    /// Scores the vector with the active model. A negative score is an anomaly. The answer is kept in memory and shown
    /// by `/latest-predictions` and `/stats`; it is not written to a table.
    #[oai(path = "/predict", method = "post", operation_id = "predict", tag = "Chapter::Predictions")]
    async fn predict(&self, question: Question) -> Answer<Json<PredictAnswer>, OfPredict> {
        let active = self.answering()?;
        let Question { symbol, features } = question;
        let verdict = active.model.verdict(symbol, &features);
        let answer = Json::of(&PredictAnswer {
            symbol: symbol.as_str().to_owned(),
            anomaly_score: verdict.anomaly_score,
            is_anomaly: verdict.is_anomaly,
        })?;
        self.service.metrics.predicted(Origin::Manual, 1, u64::from(verdict.is_anomaly));
        self.service.feed.push_manual(symbol, features, verdict, active.version, self.service.clock.now());
        Ok(answer)
    }

    /// Explain the verdict on one feature vector
    ///
    /// Takes what `/predict` takes and says why it would answer as it does: how much each feature did, what is usual
    /// for it, and how the row went through the trees of the model. It is not counted and not shown as a prediction.
    #[oai(path = "/explain", method = "post", operation_id = "explain", tag = "Chapter::Predictions")]
    async fn explain(&self, question: Question) -> Answer<Json<ExplainAnswer>, OfPredict> {
        let active = self.answering()?;
        let Question { symbol, features } = question;
        let explain = move || ExplainAnswer::of(&active, symbol, &features);
        Ok(Json::of(&computed(explain).await?)?)
    }

    /// Judge many feature vectors
    ///
    /// As `/predict`, for up to 10 000 vectors at once. The results are in the order of the vectors; one that is wrong is
    /// explained in its place, and the others are judged. The newest 500 are shown by `/latest-predictions`.
    #[oai(path = "/predict/batch", method = "post", operation_id = "predict_batch", tag = "Chapter::Predictions")]
    async fn predict_batch(&self, body: BatchBody) -> Answer<Json<BatchAnswer>, OfBatch> {
        let batch = computed(move || Batch::read(&body.0)).await??;
        let active = self.answering()?;
        let (feed, metrics) = (Arc::clone(&self.service.feed), Arc::clone(&self.service.metrics));
        let now = self.service.clock.now();
        let judge = move || {
            let verdicts = active.model.verdicts(batch.symbols(), batch.vectors());
            let anomalies = verdicts.iter().filter(|verdict| verdict.is_anomaly).count();
            metrics.predicted(Origin::Manual, verdicts.len() as u64, anomalies as u64);
            feed.push_manual_batch(batch.symbols(), batch.vectors(), &verdicts, active.version, now);
            Json::of(&batch.answer(active.version, &verdicts))
        };
        Ok(computed(judge).await??)
    }

    /// Whether predictions can be asked for
    ///
    /// Answers 200 in any case; `status` is `waiting_for_model` before the first model.
    #[oai(path = "/health", method = "get", operation_id = "health", tag = "Chapter::Operations")]
    async fn health(&self) -> Answer<Json<Health>, OfNothing> {
        Ok(Json::of(&Health::of(self.service.active().is_some()))?)
    }

    /// The newest predictions
    ///
    /// Live and manual ones merged by arrival: the newest `limit`, oldest of them first. Live ones are looked up among
    /// the newest 10 000, manual ones among the newest 500.
    #[oai(
        path = "/latest-predictions",
        method = "get",
        operation_id = "latest_predictions",
        tag = "Chapter::Predictions"
    )]
    async fn latest_predictions(
        &self,
        /// How many, at most.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "500")))]
        limit: Query<u16>,
        /// Of one market only.
        #[oai(example = "example_symbol", validator(pattern = "^[A-Z0-9]+-[A-Z0-9]+$", max_length = 31))]
        symbol: Query<Option<String>>,
    ) -> Answer<Json<Vec<ShownPrediction>>, OfQuery> {
        let symbol = parameters::symbol(symbol.0.as_deref())?;
        let items = self.service.feed.latest(usize::from(limit.0), symbol);
        Ok(Json::of(&items.iter().map(ShownPrediction::from).collect::<Vec<_>>())?)
    }

    /// What happens, as it happens
    ///
    /// Server-sent events. `prediction`: a live prediction as it is made, before it is in a table. `alert`: an event that
    /// raised an alert or joined one, as soon as it is scored; `/alerts` has it seconds later. `status`: the parts of the
    /// program as `/system-status` has them, at the beginning and whenever one changes. `run`: a run whose state changed.
    /// Ids grow; a client that comes back with the last of them gets what it missed. `missed`: events that it is not told,
    /// because it read too slowly or came back too late; the stream goes on with the oldest of the newest 10 000.
    #[oai(path = "/stream", method = "get", operation_id = "stream", tag = "Chapter::Predictions")]
    async fn stream(
        &self,
        /// Predictions and alerts of one market only.
        #[oai(example = "example_symbol", validator(pattern = "^[A-Z0-9]+-[A-Z0-9]+$", max_length = 31))]
        symbol: Query<Option<String>>,
        /// Which events, separated by commas.
        #[oai(default = "every_kind", explode = false, validator(min_items = 1))]
        kinds: Query<Vec<Kind>>,
        /// Alerts of this severity at least: that of the event.
        #[oai(default = "SeverityName::least_shown")]
        severity: Query<SeverityName>,
        /// The id of the last event that was seen.
        #[oai(name = "Last-Event-ID")]
        last_event_id: Header<Option<String>>,
    ) -> Answer<Opened, OfQuery> {
        let symbol = parameters::symbol(symbol.0.as_deref())?;
        let wanted = Wanted::new(&kinds.0, symbol, severity.0.into());
        Ok(self.events.open(wanted, last_event_id.0.as_deref()))
    }

    /// The parts of the program, and how far the first model is
    #[oai(path = "/system-status", method = "get", operation_id = "system_status", tag = "Chapter::Operations")]
    async fn system_status(&self) -> Answer<Json<SystemStatus>, OfNothing> {
        let times = readiness::response_times(&self.service).await;
        Ok(Json::of(&SystemStatus::of(&self.service, self.begun, &times))?)
    }

    /// Counters and distributions of predictions
    ///
    /// Counters cover all predictions, live ones since the tables began and manual ones since the start of the
    /// program; percentiles and feature statistics cover the newest 10 000.
    #[oai(path = "/stats", method = "get", operation_id = "stats", tag = "Chapter::Predictions")]
    async fn stats(&self) -> Answer<Json<Stats>, OfNothing> {
        let feed = Arc::clone(&self.service.feed);
        let statistics = computed(move || feed.statistics()).await?;
        Ok(Json::of(&Stats { simulated: self.service.mark(), ..Stats::from(&statistics) })?)
    }

    /// The active model
    #[oai(path = "/model-info", method = "get", operation_id = "model_info", tag = "Chapter::Predictions")]
    async fn model_info(&self) -> Answer<Json<ModelInfo>, OfNothing> {
        let info = self.service.active().as_deref().map_or_else(ModelInfo::default, ModelInfo::from);
        Ok(Json::of(&info)?)
    }

    /// Whether the process answers
    ///
    /// For a supervisor that restarts what does not answer.
    #[oai(path = "/livez", method = "get", operation_id = "livez", tag = "Chapter::Operations")]
    async fn livez(&self) -> Answer<Json<Passed>, OfNothing> {
        Ok(Json::of(&Passed { status: "alive".to_owned() })?)
    }

    /// Whether requests can be answered in full
    ///
    /// 200 where the log, the lake and the model registry answer and a model is there; otherwise 503 with the reasons.
    #[oai(path = "/readyz", method = "get", operation_id = "readyz", tag = "Chapter::Operations")]
    async fn readyz(&self) -> Answer<Json<Passed>, OfReadiness> {
        readiness::check(&self.service).await?;
        Ok(Json::of(&Passed { status: "ready".to_owned() })?)
    }

    /// The numbers that the program counts about itself
    ///
    /// In the `OpenMetrics` text form that Prometheus reads.
    #[oai(path = "/metrics", method = "get", operation_id = "metrics", tag = "Chapter::Operations")]
    async fn metrics(&self) -> Answer<Document<MetricsText>, OfNothing> {
        let text = self.service.metrics.encode().map_err(|error| Problem::internal(&error))?;
        Ok(Document::new(text))
    }

    /// The interactive documentation of this service
    #[oai(path = "/docs", method = "get", operation_id = "docs", tag = "Chapter::Documents")]
    async fn docs(&self) -> Document<HtmlPage> {
        Document::new(self.documents.get().map(|documents| documents.explorer.clone()).unwrap_or_default())
    }

    /// The `OpenAPI` document of this service
    #[oai(path = "/openapi.json", method = "get", operation_id = "openapi", tag = "Chapter::Documents")]
    async fn openapi(&self) -> Document<JsonText> {
        Document::new(self.documents.get().map(|documents| documents.openapi.clone()).unwrap_or_default())
    }
}
