//! A service on a free port of this machine, and the handles to what it shares.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use api::{Protection, Service};
use domain::{
    AlertId, AlertRow, AlertType, Clock, Event, FEATURE_NAMES, FeatureVector, Offset, Prediction, Record, Severity,
    Source, Symbol, Timestamp,
};
use jobs::{
    active::ActiveModel,
    control::{self, Control},
    feed::{Feed, FeedItem, Trade},
    ingest::Intake,
    keys::{Keys, Scope, Scopes},
    library::Models,
    metrics::Metrics,
    status::{Part, PartState, PartStatus, Progress, StatusProbe},
    tables::Tables,
};
use lake::{
    Lake, artifacts,
    registry::{Registry, TrainedModel, TrainingInputs, TrainingParameters},
};
use models::{TrainParameters, TrainingSet};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use scheduler::{Schedule, Store};
use serde_json::{Value, json};
use streams::{EmbeddedLog, EventLog, ReadItem, TopicSettings, codec, partition_of};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinHandle,
};

/// When everything in these tests happens: 2024-03-09T16:00:00Z.
pub const NOW: i64 = 1_710_000_000;

/// A running service.
pub struct Running {
    pub address: SocketAddr,
    pub model: watch::Sender<Option<Arc<ActiveModel>>>,
    pub feed: Arc<Feed>,
    pub metrics: Arc<Metrics>,
    pub probe: Arc<FixedProbe>,
    pub ended: JoinHandle<Result<(), api::Error>>,
    pub control: Control,
    pub registry: Registry,
    pub log: Arc<EmbeddedLog>,
    pub lake: Arc<Lake>,
    pub keys: Keys,
    pub folder: TempDir,
    client: Client,
    stop: oneshot::Sender<()>,
}

/// A probe that says what the test wrote down.
pub struct FixedProbe(pub Mutex<Vec<PartStatus>>);

impl StatusProbe for FixedProbe {
    fn parts(&self) -> Vec<PartStatus> {
        self.0.lock().unwrap().clone()
    }

    fn progress(&self) -> Progress {
        let message = "folding the log".to_owned();
        Progress { events_logged: 1_300, feature_rows: 1_234, rows_for_first_model: 5_000, message }
    }
}

struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(NOW)
    }
}

/// A minute before everything else.
struct EarlierClock;

impl Clock for EarlierClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(NOW - 60)
    }
}

impl Running {
    /// Starts a service of a simulated market with this model.
    pub async fn start(active: Option<ActiveModel>) -> Self {
        Self::started(active, true, |_| ()).await
    }

    /// Starts a service of a real market.
    pub async fn start_on_real_data() -> Self {
        Self::started(None, false, |_| ()).await
    }

    /// Starts a service that protects itself as `protect` says.
    pub async fn protected(active: Option<ActiveModel>, protect: impl FnOnce(&mut Protection)) -> Self {
        Self::started(active, true, protect).await
    }

    async fn started(active: Option<ActiveModel>, simulated: bool, protect: impl FnOnce(&mut Protection)) -> Self {
        let (model, receiver) = watch::channel(active.map(Arc::new));
        let online = |name| PartStatus { name, state: PartState::Online, response_time_ms: 0.25, details: None };
        let probe = Arc::new(FixedProbe(Mutex::new(Part::ALL.map(online).to_vec())));
        let (feed, metrics) = (Arc::new(Feed::new()), Arc::new(Metrics::new()));
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(&folder.path().join(control::REGISTRY)).await.unwrap();
        let models = Models::new(registry.clone(), folder.path().join(control::MODELS));
        let store = Store::open(&folder.path().join(control::SCHEDULER)).await.unwrap();
        let control = Control::new(registry.clone(), models, store, Arc::new(FixedClock));
        let (path, topic) = (folder.path().join("events.db"), TopicSettings::default());
        let log = Arc::new(EmbeddedLog::open(&path, &topic, Arc::new(FixedClock)).await.unwrap());
        let lake = Arc::new(Lake::open(&folder.path().join("lake")).await.unwrap());
        let keys = Keys::open(folder.path(), Arc::new(FixedClock)).await.unwrap();
        let mut protection = Protection::of_loopback(keys.clone());
        protect(&mut protection);
        let service = Service {
            model: receiver,
            feed: Arc::clone(&feed),
            status: Arc::clone(&probe) as Arc<dyn StatusProbe>,
            metrics: Arc::clone(&metrics),
            clock: Arc::new(FixedClock),
            alerts: control.alerts(Arc::clone(&lake)),
            control: control.clone(),
            intake: Intake::new(Arc::clone(&log) as Arc<dyn EventLog>, Arc::clone(&metrics), Arc::new(FixedClock)),
            tables: Tables::new(Arc::clone(&lake)),
            simulated,
            protection,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(api::serve(listener, service, async move {
            let _ = stopped.await;
        }));
        let client = Client::new();
        Self { address, model, feed, metrics, probe, ended, control, registry, log, lake, keys, folder, client, stop }
    }

    /// A request to be finished by the test.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    /// A new key with these scopes, as text.
    pub async fn key(&self, scopes: &[Scope]) -> String {
        self.keys.create("test", Scopes::of(scopes).unwrap(), None).await.unwrap().revealed()
    }

    /// A key with the scope `read` that has just expired, as text.
    pub async fn expired_key(&self) -> String {
        let earlier = Keys::open(self.folder.path(), Arc::new(EarlierClock)).await.unwrap();
        let expires = Some(Timestamp::from_seconds(NOW));
        let key = earlier.create("test", Scopes::of(&[Scope::Read]).unwrap(), expires).await.unwrap();
        self.keys.refresh().await.unwrap();
        key.revealed()
    }

    /// The answer to `GET path`.
    pub async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    /// The JSON body of `GET path`, which must be answered with `status`.
    pub async fn get_json(&self, path: &str, status: StatusCode) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status(), status, "GET {path}");
        json_of(response).await
    }

    /// The text of `GET path`, which must be answered with 200.
    pub async fn get_text(&self, path: &str) -> String {
        let response = self.get(path).await;
        assert_eq!(response.status(), StatusCode::OK, "GET {path}");
        response.text().await.unwrap()
    }

    /// The answer to `POST /predict` with this body as JSON.
    pub async fn predict(&self, body: impl Into<String>) -> Response {
        self.post("/predict", body.into()).await
    }

    /// The answer to `POST /explain` with this body as JSON.
    pub async fn explain(&self, body: impl Into<String>) -> Response {
        self.post("/explain", body.into()).await
    }

    async fn post(&self, path: &str, body: String) -> Response {
        let request = self.request(Method::POST, path).header("content-type", "application/json");
        request.body(body).send().await.unwrap()
    }

    /// The beginning of the answer to `POST path` with a body that is said to have this length and is not sent.
    pub async fn announce(&self, path: &str, length: usize) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; "HTTP/1.1 200".len()];
        stream.read_exact(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// The answer to a request as it stands here: its head and its body.
    pub async fn answer_to(&self, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        read_answer(stream).await
    }

    /// The same, where the client says after it that it sends nothing more.
    pub async fn answer_to_all_of(&self, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        read_answer(stream).await
    }

    /// The events of a market that are in the log, in the order of their offsets.
    pub async fn logged(&self, market: &str) -> Vec<Event> {
        let partition = partition_of(symbol(market), self.log.partitions());
        let batches = self.log.read(partition, 0, 1_000).await.unwrap().into_iter().filter_map(|item| match item {
            ReadItem::Batch(batch) => Some(batch),
            ReadItem::Gap { .. } => None,
        });
        let mut events = Vec::new();
        for batch in batches {
            for record in batch.records().filter(|record| record.key == market.as_bytes()) {
                if let Record::Event(event) = codec::decode(record.key, record.value).unwrap() {
                    events.push(event);
                }
            }
        }
        events
    }

    /// Says that a part is in this state.
    pub fn part_is(&self, name: Part, state: PartState, details: &str) {
        let mut parts = self.probe.0.lock().unwrap();
        let part = parts.iter_mut().find(|part| part.name == name).unwrap();
        part.state = state;
        part.details = Some(details.to_owned());
    }

    /// Registers a model that was trained on made-up rows, its file included.
    pub async fn has_a_model(&self) -> i64 {
        let model = trained(1).model;
        let artifact = artifacts::write(&self.folder.path().join(control::MODELS), &model.to_bytes()).unwrap();
        let (parameters, scale) = (model.parameters(), model.global_scale());
        let at = Timestamp::from_seconds(NOW);
        let model = TrainedModel {
            name: "isolation-forest".to_owned(),
            parent: None,
            created: at,
            code_version: "0.1.0".to_owned(),
            inputs: TrainingInputs {
                table: "features".to_owned(),
                delta_version: 17,
                predicate: "TRUE".to_owned(),
                rows: 21_600,
                rows_dropped: 30,
                digest: "d1".to_owned(),
                trimmed: None,
                from: at,
                to: at,
                symbols: vec!["BTC-USDT".to_owned()],
            },
            specification_hash: model.specification_hash().to_owned(),
            seed: parameters.seed,
            parameters: TrainingParameters {
                trees: parameters.trees,
                max_samples: parameters.max_samples,
                contamination: parameters.contamination,
                alert_quantile: parameters.alert_quantile,
            },
            metrics: json!({}),
            scaler_means: scale.means,
            scaler_deviations: scale.deviations,
            threshold: model.threshold(),
            artifact,
        };
        self.registry.register(&model).await.unwrap()
    }

    /// Damages the file of a model.
    pub async fn loses_the_file_of(&self, version: i64) {
        let artifact = self.registry.model(version).await.unwrap().model.artifact;
        std::fs::write(self.folder.path().join(control::MODELS).join(artifact.path), b"torn").unwrap();
    }

    /// Keeps an hourly schedule of a job.
    pub async fn has_a_schedule(&self, name: &str, job: &str) {
        let schedule = Schedule::parse(name, json!({"job": job, "cron": "@hourly"})).unwrap();
        self.control.store().apply(&[schedule], Timestamp::from_seconds(NOW)).await.unwrap();
    }

    /// Asks the service to end.
    pub fn stop(self) -> JoinHandle<Result<(), api::Error>> {
        self.stop.send(()).unwrap();
        self.ended
    }
}

/// What comes until the service closes the connection.
async fn read_answer(mut stream: TcpStream) -> (String, String) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// The body of a response as JSON.
pub async fn json_of(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

/// A model trained on 2 000 rows of normal noise.
pub fn trained(version: i64) -> ActiveModel {
    let mut chance = ChaCha8Rng::seed_from_u64(7);
    let mut set = TrainingSet::new();
    for _ in 0..2_000 {
        let mut draw = || -> f64 { StandardNormal.sample(&mut chance) };
        set.push(symbol("BTC-USDT"), [draw(), draw(), draw(), draw().abs() * 0.002, draw().abs() * 10.0]);
    }
    let model = models::train(&set, &TrainParameters::default()).unwrap();
    let created = Timestamp::from_seconds(NOW);
    ActiveModel { version, name: "sentinel".to_owned(), created, artifact_bytes: 422_400, model }
}

/// What happened to a market as many seconds after [`NOW`] as its record's offset says.
pub fn event(market: &str, offset: Offset) -> Event {
    Event {
        timestamp: Timestamp::from_seconds(NOW + offset),
        symbol: symbol(market),
        price: 100.5,
        volume: 1.5,
        log_return: None,
        is_anomaly: None,
        anomaly_type: None,
        trade_id: Some(offset),
        side: None,
        ingest_id: None,
        source: Source::Simulated,
        extra: None,
    }
}

/// The symbol of this text.
pub fn symbol(text: &str) -> Symbol {
    Symbol::parse(text).unwrap()
}

/// The body of a request to judge `features`.
pub fn question(market: &str, features: FeatureVector) -> Value {
    let mut body = json!({ "symbol": market });
    for (name, value) in FEATURE_NAMES.into_iter().zip(features) {
        body[name] = value.into();
    }
    body
}

/// The event of an offset, a second each, as one of the alert that the event of offset `raising` has raised.
pub fn alert(offset: Offset, raising: Offset, market: &str) -> AlertRow {
    AlertRow {
        partition: 0,
        offset,
        ingest_time: Timestamp::from_seconds(NOW + offset),
        timestamp: Timestamp::from_seconds(NOW + offset),
        symbol: symbol(market),
        alert: AlertId { partition: 0, offset: raising },
        raised_at: Timestamp::from_seconds(NOW + raising),
        alert_type: AlertType::PriceSpike,
        severity: Severity::High,
        anomaly_score: -0.125,
        model_version: 1,
        leading_feature: FEATURE_NAMES[0],
        share: 0.5,
        source: Source::Simulated,
    }
}

/// A live prediction with this score.
pub fn live(offset: i64, market: &str, anomaly_score: f64) -> Prediction {
    Prediction {
        partition: 0,
        offset,
        ingest_time: Timestamp::from_seconds(NOW),
        timestamp: Timestamp::from_seconds(NOW + offset),
        symbol: symbol(market),
        features: [0.4, -0.2, 1.1, 0.002, 9.8],
        anomaly_score,
        is_anomaly: anomaly_score < 0.0,
        model_version: 1,
        in_sample: false,
        label_is_anomaly: None,
        label_anomaly_type: None,
        source: Source::Simulated,
    }
}

/// The same as the feed shows it, about an event such as [`event`] makes.
pub fn item(offset: i64, market: &str, anomaly_score: f64) -> FeedItem {
    let Event { price, volume, .. } = event(market, offset);
    FeedItem::live(&live(offset, market, anomaly_score), Some(Trade { price, volume }))
}
