//! `GET /stream`: what happens, as server-sent events, told to any number of readers.
//!
//! The feed, the status probe and the store of runs are each looked at once for all readers, by `publish`, which
//! numbers what is new and puts it into `ring`; to read is to keep a number of that ring. So nobody waits for a reader,
//! and none takes memory that grows: one that falls behind is told how many it missed and goes on with the oldest event
//! that is there. Predictions and alerts in the ring are those of the feed, shared with it. Their text is made here, as the
//! jobs know none, and only once: by the first reader that wants it, for all others, which poem's own `SSE` cannot do.
//!
//! Streams end with the publisher: at once when the service begins to end, and not one by one.

mod publish;
mod ring;

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use domain::{Severity, Symbol, Timestamp};
use futures::stream::unfold;
use jobs::{feed::LIVE_KEPT, metrics::Metrics};
use poem::{
    Body, IntoResponse, Response,
    http::{HeaderValue, header},
};
use poem_openapi::{
    ApiResponse, Enum,
    registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
    types::Type,
};
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    alerts::answers::AlertEvent,
    answers::{LivePrediction, Missed, PartsStatus},
    life::answers::Run,
    routes::Service,
};

pub use publish::Publisher;
use ring::{Event, Ring, What};

/// The media type of server-sent events.
pub const EVENT_STREAM: &str = "text/event-stream";

/// Events that a reader takes at once, and so those that it holds, at most.
const TAKEN: usize = 16;

const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// The name of an event that tells of missing ones.
const MISSED: &str = "missed";

/// Why events of this process are missing.
const GONE: &str = "these events are not in memory any more; the tables have predictions and alerts";

/// Why nobody knows how many events are missing.
const UNKNOWN: &str = "the last event that was seen is none of this process, which has events since its start only";

/// What is kept, and for how long nothing is said.
struct Limits {
    events: usize,
    keep_alive: Duration,
}

const LIMITS: Limits = Limits { events: LIVE_KEPT, keep_alive: Duration::from_secs(15) };

/// What an event tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "StreamKind", rename_all = "snake_case")]
pub enum Kind {
    /// A live prediction, as it is made.
    Prediction,
    /// An event that raised an alert or joined one, as soon as it is scored.
    Alert,
    /// How the parts of the program are, when that changes.
    Status,
    /// A run whose state changed.
    Run,
}

impl Kind {
    /// Every kind, in the order of their declaration.
    pub const ALL: [Self; 4] = [Self::Prediction, Self::Alert, Self::Status, Self::Run];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Prediction => "prediction",
            Self::Alert => "alert",
            Self::Status => "status",
            Self::Run => "run",
        }
    }
}

/// Which events a reader asks for.
pub struct Wanted {
    kinds: Vec<Kind>,
    symbol: Option<Symbol>,
    severity: Severity,
}

impl Wanted {
    /// Events of these kinds; predictions and alerts of one symbol only, where it is named, alerts of this severity at least.
    pub fn new(kinds: &[Kind], symbol: Option<Symbol>, severity: Severity) -> Self {
        Self { kinds: Kind::ALL.into_iter().filter(|kind| kinds.contains(kind)).collect(), symbol, severity }
    }

    fn has(&self, event: &Event) -> bool {
        let is_of = |symbol| self.symbol.is_none_or(|wanted| wanted == symbol);
        let is_chosen = match &event.what {
            What::Prediction(item) => is_of(item.symbol),
            What::Alert(row) => is_of(row.symbol) && row.severity >= self.severity,
            What::Status(_) | What::Run(_) => true,
        };
        is_chosen && self.kinds.contains(&event.what.kind())
    }
}

/// The two ends of the stream of a service. Nothing is told before the publisher runs.
pub fn channel(service: Service) -> (Publisher, Events) {
    let shared = Arc::new(Shared::new(service.clock.now(), &LIMITS, Arc::clone(&service.metrics)));
    let (wake, woken) = watch::channel(());
    (Publisher::new(Arc::clone(&shared), wake, service), Events { shared, woken })
}

/// What the publisher and the readers share.
struct Shared {
    /// Begins the ids of this process and of no other: the time of its start.
    process: String,
    keep_alive: Duration,
    ring: Mutex<Ring>,
    /// Where readers are counted.
    metrics: Arc<Metrics>,
}

impl Shared {
    fn new(begun: Timestamp, limits: &Limits, metrics: Arc<Metrics>) -> Self {
        let process = format!("{:x}", begun.micros());
        Self { process, keep_alive: limits.keep_alive, ring: Mutex::new(Ring::new(limits.events)), metrics }
    }

    /// An event is put in or it is not, so that a poisoned lock is taken over.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number in an id of this process.
    fn number_of(&self, id: &str) -> Option<u64> {
        let (process, number) = id.rsplit_once('-')?;
        number.parse().ok().filter(|_| process == self.process)
    }

    /// An event as it is sent. JSON on one line needs no more than one line of data.
    fn frame(&self, number: u64, name: &str, json: &[u8]) -> Bytes {
        let head = format!("id: {}-{number}\nevent: {name}\ndata: ", self.process);
        let mut text = Vec::with_capacity(head.len() + json.len() + 2);
        text.extend_from_slice(head.as_bytes());
        text.extend_from_slice(json);
        text.extend_from_slice(b"\n\n");
        text.into()
    }

    fn text_of(&self, event: &Event) -> Bytes {
        event.text(|| {
            let name = event.what.kind().as_str();
            match &event.what {
                What::Prediction(item) => self.frame(event.number, name, &json(&LivePrediction::from(&**item))),
                What::Alert(row) => self.frame(event.number, name, &json(&AlertEvent::from(&**row))),
                What::Status(json) | What::Run(json) => self.frame(event.number, name, json),
            }
        })
    }

    /// Says that nothing is told up to the event `number`.
    fn missed(&self, number: u64, count: Option<u64>, reason: &str) -> Bytes {
        self.frame(number, MISSED, &json(&Missed { count, reason: reason.to_owned() }))
    }
}

/// An object as an event has it. Texts, numbers and lists of them always serialise.
fn json(object: &impl Serialize) -> Bytes {
    serde_json::to_vec(object).unwrap_or_default().into()
}

/// Where streams are opened.
#[derive(Clone)]
pub struct Events {
    shared: Arc<Shared>,
    woken: watch::Receiver<()>,
}

impl Events {
    /// Opens a stream of what happens from now on, or after the event whose id is `last`.
    pub fn open(&self, wanted: Wanted, last: Option<&str>) -> Opened {
        let (shared, woken) = (Arc::clone(&self.shared), self.woken.clone());
        let ring = shared.ring();
        let known = last.map(|id| shared.number_of(id).filter(|number| *number <= ring.newest()));
        let (after, missed) = match known {
            None => (ring.newest(), None),
            Some(Some(number)) => match ring.lost_after(number) {
                0 => (number, None),
                lost => (number + lost, Some((Some(lost), GONE))),
            },
            // Whatever this process has told is new to somebody who knew another.
            Some(None) => (ring.lost_after(0), Some((None, UNKNOWN))),
        };
        let status = ring.status().filter(|_| wanted.kinds.contains(&Kind::Status));
        drop(ring);
        let missed = missed.map(|(count, reason)| shared.missed(after, count, reason));
        // With the id of where the stream begins, so that ids never go back.
        let status = status.map(|status| shared.frame(after, Kind::Status.as_str(), &status));
        let ready = missed.into_iter().chain(status).collect();
        let quiet_until = Instant::now() + shared.keep_alive;
        shared.metrics.reader_came();
        Opened(Reader { shared, woken, wanted, after, ready, quiet_until })
    }
}

/// One reader: a place in the ring.
struct Reader {
    shared: Arc<Shared>,
    woken: watch::Receiver<()>,
    wanted: Wanted,
    /// The number of the event that it took last.
    after: u64,
    /// What it sends next.
    ready: VecDeque<Bytes>,
    /// When the connection has to be kept alive.
    quiet_until: Instant,
}

impl Reader {
    /// What is sent next; none once the service ends, whatever waits.
    async fn text(&mut self) -> Option<Bytes> {
        let text = self.event_or_comment().await?;
        self.quiet_until = Instant::now() + self.shared.keep_alive;
        Some(text)
    }

    async fn event_or_comment(&mut self) -> Option<Bytes> {
        loop {
            if self.woken.is_closed() {
                return None;
            }
            if let Some(text) = self.ready.pop_front() {
                return Some(text);
            }
            // Before the look, so that what is published after it wakes.
            self.woken.mark_unchanged();
            if !self.take() && timeout_at(self.quiet_until, self.woken.changed()).await.is_err() {
                return Some(Bytes::from_static(KEEP_ALIVE));
            }
        }
    }

    /// Takes the next events; whether there were any, wanted or not.
    fn take(&mut self) -> bool {
        let ring = self.shared.ring();
        let lost = ring.lost_after(self.after);
        let events = ring.after(self.after + lost, TAKEN);
        drop(ring);
        if lost > 0 {
            self.after += lost;
            self.ready.push_back(self.shared.missed(self.after, Some(lost), GONE));
        }
        for event in &events {
            self.after = event.number;
            if self.wanted.has(event) {
                self.ready.push_back(self.shared.text_of(event));
            }
        }
        lost > 0 || !events.is_empty()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.metrics.reader_left();
    }
}

/// An opened stream: the answer.
pub struct Opened(Reader);

impl IntoResponse for Opened {
    fn into_response(self) -> Response {
        let texts = unfold(self.0, |mut reader| async move {
            let text = reader.text().await?;
            Some((Ok::<_, io::Error>(text), reader))
        });
        let mut response = Response::from(Body::from_bytes_stream(texts));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // Asks nginx not to hold events back.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }
}

impl ApiResponse for Opened {
    fn meta() -> MetaResponses {
        let inline = |schema| MetaSchemaRef::Inline(Box::new(schema));
        let text = MetaSchema { description: Some("One of these objects as JSON."), ..MetaSchema::new("string") };
        let data = vec![
            inline(text),
            LivePrediction::schema_ref(),
            AlertEvent::schema_ref(),
            PartsStatus::schema_ref(),
            Run::schema_ref(),
            Missed::schema_ref(),
        ];
        let names = Kind::ALL.map(Kind::as_str).into_iter().chain([MISSED]);
        let event = MetaSchema {
            required: vec!["id", "event", "data"],
            properties: vec![
                ("id", String::schema_ref()),
                (
                    "event",
                    inline(MetaSchema { enum_items: names.map(Into::into).collect(), ..MetaSchema::new("string") }),
                ),
                ("data", inline(MetaSchema { any_of: data, ..MetaSchema::ANY })),
            ],
            ..MetaSchema::new("object")
        };
        let content = vec![MetaMediaType { content_type: EVENT_STREAM, schema: inline(event) }];
        let description = "The events, until one of the two sides ends; the schema is that of one event.";
        let response = MetaResponse { description, status: Some(200), status_range: None, content, headers: vec![] };
        MetaResponses { responses: vec![response] }
    }

    fn register(registry: &mut Registry) {
        LivePrediction::register(registry);
        AlertEvent::register(registry);
        PartsStatus::register(registry);
        Run::register(registry);
        Missed::register(registry);
    }
}

#[cfg(test)]
mod tests {
    use domain::{AlertId, AlertRow, AlertType, FEATURE_NAMES, Source};
    use jobs::feed::{FeedItem, Origin, Trade};

    use super::*;

    /// A stream that is published by hand.
    struct Stage {
        events: Events,
        wake: watch::Sender<()>,
    }

    impl Stage {
        /// Keeps so many events, and says that it is alive after 20 ms.
        fn keeping(events: usize) -> Self {
            let limits = Limits { events, keep_alive: Duration::from_millis(20) };
            let (wake, woken) = watch::channel(());
            let metrics = Arc::new(Metrics::new());
            let shared = Arc::new(Shared::new(Timestamp::from_micros(0xabc), &limits, metrics));
            Self { events: Events { shared, woken }, wake }
        }

        fn publish(&self, what: What) {
            self.events.shared.ring().push(what);
            self.wake.send_replace(());
        }

        fn predict(&self, offsets: impl IntoIterator<Item = i64>, market: &str) {
            for offset in offsets {
                self.publish(What::Prediction(Arc::new(FeedItem {
                    symbol: Symbol::parse(market).unwrap(),
                    timestamp: Timestamp::from_seconds(1_710_000_000),
                    features: [0.5; 5],
                    anomaly_score: 0.25,
                    is_anomaly: false,
                    model_version: 1,
                    origin: Origin::Live,
                    position: Some((2, offset)),
                    is_simulated: false,
                    trade: Some(Trade { price: 100.5, volume: 1.5 }),
                })));
            }
        }

        /// The event of an offset joins the alert that the event of offset 17 has raised.
        fn alert(&self, offset: i64, market: &str) {
            self.alert_of(Severity::Critical, offset, market);
        }

        fn alert_of(&self, severity: Severity, offset: i64, market: &str) {
            self.publish(What::Alert(Arc::new(AlertRow {
                partition: 2,
                offset,
                ingest_time: Timestamp::from_seconds(1_710_000_001),
                timestamp: Timestamp::from_seconds(1_710_000_001),
                symbol: Symbol::parse(market).unwrap(),
                alert: AlertId { partition: 2, offset: 17 },
                raised_at: Timestamp::from_seconds(1_710_000_000),
                alert_type: AlertType::PriceSpike,
                severity,
                anomaly_score: -0.25,
                model_version: 1,
                leading_feature: FEATURE_NAMES[0],
                share: 0.5,
                source: Source::Simulated,
            })));
        }

        fn read(&self, kinds: &[Kind], last: Option<&str>) -> Reader {
            self.events.open(wanted(kinds, None), last).0
        }
    }

    /// Nothing that is waited for takes longer on any machine.
    const PATIENCE: Duration = Duration::from_mins(1);

    fn wanted(kinds: &[Kind], symbol: Option<Symbol>) -> Wanted {
        Wanted::new(kinds, symbol, Severity::LEAST_SHOWN)
    }

    async fn next(reader: &mut Reader) -> String {
        String::from_utf8(reader.text().await.unwrap().to_vec()).unwrap()
    }

    /// The ids of the next events and how they begin.
    async fn heads<const N: usize>(reader: &mut Reader) -> [String; N] {
        let mut heads = Vec::new();
        for _ in 0..N {
            let text = next(reader).await;
            let lines: Vec<_> = text.lines().take(2).map(|line| line.split_once(": ").unwrap().1).collect();
            heads.push(lines.join(" "));
        }
        heads.try_into().unwrap()
    }

    #[tokio::test]
    async fn an_event_is_an_id_a_name_and_an_object() {
        let stage = Stage::keeping(9);
        let mut reader = stage.read(&Kind::ALL, None);
        stage.predict([17], "BTC-USDT");
        assert_eq!(
            next(&mut reader).await,
            "id: abc-1\nevent: prediction\ndata: {\"id\":\"2:17\",\"symbol\":\"BTC-USDT\",\"z_score_price\":0.5,\
             \"z_score_log_return\":0.5,\"z_score_volume\":0.5,\"rolling_price_std\":0.5,\"rolling_volume_std\":0.5,\
             \"anomaly_score\":0.25,\"is_anomaly\":false,\"timestamp\":\"2024-03-09T16:00:00+00:00\",\
             \"model_version\":1,\"origin\":\"live\",\"price\":100.5,\"volume\":1.5}\n\n"
        );
        stage.publish(What::Run(Bytes::from_static(b"{}")));
        assert_eq!(next(&mut reader).await, "id: abc-2\nevent: run\ndata: {}\n\n");
        stage.alert(19, "BTC-USDT");
        assert_eq!(
            next(&mut reader).await,
            "id: abc-3\nevent: alert\ndata: {\"id\":\"2:19\",\"alert_id\":\"2:17\",\"is_raising\":false,\
             \"symbol\":\"BTC-USDT\",\"timestamp\":\"2024-03-09T16:00:01+00:00\",\
             \"raised_at\":\"2024-03-09T16:00:00+00:00\",\"alert_type\":\"PRICE_SPIKE\",\"severity\":\"critical\",\
             \"anomaly_score\":-0.25,\"model_version\":1,\"leading_feature\":\"z_score_price\",\"share\":0.5,\
             \"source\":\"simulated\"}\n\n"
        );
    }

    #[tokio::test]
    async fn readers_are_counted_as_long_as_they_read() {
        let stage = Stage::keeping(9);
        let count = || {
            let text = stage.events.shared.metrics.encode().unwrap();
            text.lines().find_map(|line| line.strip_prefix("sentinel_stream_readers ")).unwrap().to_owned()
        };
        let (one, other) = (stage.read(&Kind::ALL, None), stage.read(&Kind::ALL, None));
        assert_eq!(count(), "2");
        drop(one);
        assert_eq!(count(), "1");
        drop(other);
        assert_eq!(count(), "0");
    }

    #[tokio::test]
    async fn readers_send_the_same_bytes() {
        let stage = Stage::keeping(9);
        let (mut one, mut other) = (stage.read(&Kind::ALL, None), stage.read(&Kind::ALL, None));
        stage.predict([1], "BTC-USDT");
        let (one, other) = (one.text().await.unwrap(), other.text().await.unwrap());
        assert_eq!((one.as_ptr(), one.len()), (other.as_ptr(), other.len()));
    }

    #[tokio::test]
    async fn a_reader_that_is_overtaken_goes_on_with_the_oldest_and_knows_how_many_it_missed() {
        let stage = Stage::keeping(3);
        let mut reader = stage.read(&[Kind::Prediction], None);
        stage.predict(1..=5, "BTC-USDT");
        let missed = format!("id: abc-2\nevent: missed\ndata: {{\"count\":2,\"reason\":\"{GONE}\"}}\n\n");
        assert_eq!(next(&mut reader).await, missed);
        assert_eq!(heads(&mut reader).await, ["abc-3 prediction", "abc-4 prediction", "abc-5 prediction"]);
        stage.predict(6..=30, "BTC-USDT");
        assert_eq!(heads(&mut reader).await, ["abc-27 missed", "abc-28 prediction"]);
    }

    #[tokio::test]
    async fn a_stream_goes_on_after_the_event_that_was_seen() {
        let stage = Stage::keeping(3);
        stage.predict(1..=5, "BTC-USDT");
        let kinds = [Kind::Prediction];
        assert_eq!(heads(&mut stage.read(&kinds, Some("abc-3"))).await, ["abc-4 prediction", "abc-5 prediction"]);
        assert_eq!(heads(&mut stage.read(&kinds, Some("abc-2"))).await, ["abc-3 prediction"]);
        assert_eq!(heads(&mut stage.read(&kinds, Some("abc-1"))).await, ["abc-2 missed", "abc-3 prediction"]);
        let missed = format!("id: abc-2\nevent: missed\ndata: {{\"count\":null,\"reason\":\"{UNKNOWN}\"}}\n\n");
        for unknown in ["abb-4", "abc-6", "abc", "", "-", "abc-x"] {
            let mut reader = stage.read(&kinds, Some(unknown));
            assert_eq!(next(&mut reader).await, missed, "{unknown}");
            assert_eq!(heads(&mut reader).await, ["abc-3 prediction"]);
        }
    }

    #[tokio::test]
    async fn the_status_begins_a_stream_with_an_id_from_which_it_can_be_resumed() {
        let stage = Stage::keeping(3);
        stage.publish(What::Status(Bytes::from_static(b"{}")));
        stage.predict(1..=5, "BTC-USDT");
        assert_eq!(next(&mut stage.read(&Kind::ALL, None)).await, "id: abc-6\nevent: status\ndata: {}\n\n");
        let resumed = heads(&mut stage.read(&Kind::ALL, Some("abc-1"))).await;
        assert_eq!(resumed, ["abc-3 missed", "abc-3 status", "abc-4 prediction"]);
    }

    #[tokio::test]
    async fn a_reader_gets_what_it_asked_for() {
        let stage = Stage::keeping(9);
        let symbol = Some(Symbol::parse("ETH-USDT").unwrap());
        let mut reader = stage.events.open(wanted(&[Kind::Run, Kind::Prediction], symbol), None).0;
        let mut alerts = stage.events.open(wanted(&[Kind::Alert], symbol), None).0;
        stage.predict([1], "BTC-USDT");
        stage.publish(What::Status(Bytes::new()));
        stage.publish(What::Run(Bytes::new()));
        stage.predict([2], "ETH-USDT");
        stage.alert(17, "BTC-USDT");
        stage.alert(18, "ETH-USDT");
        stage.predict([3], "ETH-USDT");
        assert_eq!(heads(&mut reader).await, ["abc-3 run", "abc-4 prediction", "abc-7 prediction"]);
        assert_eq!(heads(&mut alerts).await, ["abc-6 alert"]);
    }

    #[tokio::test]
    async fn notices_are_told_to_those_who_asked_for_them() {
        let stage = Stage::keeping(9);
        let mut by_severity = [Severity::LEAST_SHOWN, Severity::Notice, Severity::High]
            .map(|least| stage.events.open(Wanted::new(&[Kind::Alert], None, least), None).0);
        for (offset, severity) in (17..).zip(Severity::ALL) {
            stage.alert_of(severity, offset, "BTC-USDT");
        }
        let [shown, all, high] = &mut by_severity;
        assert_eq!(heads(shown).await, ["abc-2 alert", "abc-3 alert", "abc-4 alert"]);
        assert_eq!(heads(all).await, ["abc-1 alert", "abc-2 alert", "abc-3 alert", "abc-4 alert"]);
        assert_eq!(heads(high).await, ["abc-3 alert", "abc-4 alert"]);
    }

    #[tokio::test]
    async fn a_quiet_stream_says_that_it_is_alive_whatever_others_are_told() {
        let stage = Stage::keeping(9);
        let mut reader = stage.read(&[Kind::Run], None);
        let tell_others = async {
            loop {
                stage.predict([1], "BTC-USDT");
                tokio::task::yield_now().await;
            }
        };
        let told = async {
            tokio::select! {
                () = tell_others => String::new(),
                text = next(&mut reader) => text,
            }
        };
        assert_eq!(tokio::time::timeout(PATIENCE, told).await.unwrap(), ": keep-alive\n\n");
    }

    #[tokio::test]
    async fn streams_end_with_the_publisher_whatever_waits() {
        let stage = Stage::keeping(9);
        let (mut waiting, mut behind) = (stage.read(&[Kind::Run], None), stage.read(&Kind::ALL, None));
        stage.predict(1..=5, "BTC-USDT");
        assert_eq!(heads(&mut behind).await, ["abc-1 prediction"]);
        let Stage { wake, events } = stage;
        let (ended, ()) = tokio::join!(waiting.text(), async { drop(wake) });
        assert_eq!((ended, behind.text().await), (None, None));
        assert_eq!(events.open(wanted(&Kind::ALL, None), None).0.text().await, None);
    }
}
