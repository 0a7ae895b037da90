//! `/stream`: server-sent events over open answers.

use std::time::Duration;

use jobs::{
    feed::{ALERTS_KEPT, FeedItem, LIVE_KEPT},
    status::{Part, PartState},
};
use reqwest::{Method, Response, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::{Running, alert, item, json_of};

/// Whatever is waited for comes far sooner.
const BOUND: Duration = Duration::from_secs(30);

/// How many predictions are pushed before they are read.
const BATCH: i64 = 4_000;

/// An event as it came.
#[derive(Debug)]
struct Told {
    id: String,
    event: String,
    data: String,
}

impl Told {
    /// Its number among the events of the service.
    fn number(&self) -> u64 {
        self.id.rsplit_once('-').unwrap().1.parse().unwrap()
    }

    fn data(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }
}

/// A client that listens.
struct Listener {
    response: Response,
    unread: Vec<u8>,
}

impl Listener {
    /// Opens a stream with this query.
    async fn open(service: &Running, query: &str) -> Self {
        Self::answered(service.get(&format!("/stream?{query}")).await)
    }

    /// Opens it again after the event with this id.
    async fn resume(service: &Running, query: &str, last: &str) -> Self {
        let request = service.request(Method::GET, &format!("/stream?{query}")).header("last-event-id", last);
        Self::answered(request.send().await.unwrap())
    }

    fn answered(response: Response) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self { response, unread: Vec::new() }
    }

    /// The next event; none at the end of the stream.
    async fn next(&mut self) -> Option<Told> {
        timeout(BOUND, self.event()).await.unwrap()
    }

    async fn event(&mut self) -> Option<Told> {
        loop {
            let block = self.block().await?;
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            // A comment has no data.
            if let Some(data) = field("data: ") {
                return Some(Told { id: field("id: ").unwrap(), event: field("event: ").unwrap(), data });
            }
        }
    }

    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|pair| pair == b"\n\n") {
                let block = self.unread.drain(..end + 2).collect();
                return Some(String::from_utf8(block).unwrap());
            }
            let chunk = self.response.chunk().await.unwrap()?;
            self.unread.extend_from_slice(&chunk);
        }
    }

    /// The ids of the next predictions.
    async fn offsets<const N: usize>(&mut self) -> [String; N] {
        let mut offsets = Vec::new();
        for _ in 0..N {
            let told = self.next().await.unwrap();
            assert_eq!(told.event, "prediction");
            offsets.push(told.data()["id"].as_str().unwrap().to_owned());
        }
        offsets.try_into().unwrap()
    }
}

#[tokio::test]
async fn live_predictions_arrive_in_order_with_an_id_and_those_of_one_market_where_it_is_named() {
    let service = Running::start(None).await;
    let mut all = Listener::open(&service, "kinds=prediction").await;
    let mut one = Listener::open(&service, "kinds=prediction&symbol=ETH-USDT").await;
    service.feed.push_live([item(7, "BTC-USDT", 0.5), item(8, "ETH-USDT", -0.25)]);
    service.feed.push_live([item(9, "ETH-USDT", 0.25)]);
    let (first, second) = (all.next().await.unwrap(), all.next().await.unwrap());
    assert_eq!((first.event.as_str(), second.number()), ("prediction", first.number() + 1));
    let mut shown = service.get_json("/latest-predictions", StatusCode::OK).await;
    shown[1]["id"] = json!("0:8");
    assert_eq!((first.data()["id"].clone(), second.data()), (json!("0:7"), shown[1].clone()));
    assert_eq!((&shown[1]["price"], &shown[1]["volume"]), (&json!(100.5), &json!(1.5)));
    assert_eq!(all.offsets().await, ["0:9"]);
    assert_eq!(one.offsets().await, ["0:8", "0:9"]);
}

#[tokio::test]
async fn alerts_arrive_as_they_are_raised_and_those_of_one_market_where_it_is_named() {
    let service = Running::start(None).await;
    let mut all = Listener::open(&service, "kinds=alert").await;
    let mut one = Listener::open(&service, "kinds=alert,prediction&symbol=ETH-USDT").await;
    service.feed.push_alerts(&[alert(7, 7, "BTC-USDT"), alert(8, 8, "ETH-USDT"), alert(9, 7, "BTC-USDT")]);
    let told = [all.next().await.unwrap(), all.next().await.unwrap(), all.next().await.unwrap()];
    assert!(told.iter().all(|told| told.event == "alert"), "{told:?}");
    assert_eq!(told[2].number(), told[0].number() + 2);
    let names = |told: &Told| {
        let data = told.data();
        [&data["id"], &data["alert_id"], &data["is_raising"]].map(Value::to_string).join(" ")
    };
    let expected = ["\"0:7\" \"0:7\" true", "\"0:8\" \"0:8\" true", "\"0:9\" \"0:7\" false"];
    assert_eq!(told.each_ref().map(names), expected);
    let told = one.next().await.unwrap();
    assert_eq!(told.event, "alert");
    assert_eq!(
        told.data(),
        json!({
            "id": "0:8", "alert_id": "0:8", "is_raising": true, "symbol": "ETH-USDT",
            "timestamp": "2024-03-09T16:00:08+00:00", "raised_at": "2024-03-09T16:00:08+00:00",
            "alert_type": "PRICE_SPIKE", "severity": "high", "anomaly_score": -0.125, "model_version": 1,
            "leading_feature": "z_score_price", "share": 0.5, "source": "simulated"
        })
    );
}

#[tokio::test]
async fn alerts_that_come_faster_than_they_are_told_are_counted_and_the_stream_goes_on() {
    let service = Running::start(None).await;
    let mut listener = Listener::open(&service, "kinds=alert").await;
    // Nothing else runs on this thread meanwhile: the publisher finds them all at once.
    let kept = i64::try_from(ALERTS_KEPT).unwrap();
    let flood: Vec<_> = (0..kept + 10).map(|offset| alert(offset, 0, "BTC-USDT")).collect();
    service.feed.push_alerts(&flood);
    let missed = listener.next().await.unwrap();
    assert_eq!((missed.event.as_str(), missed.data()["count"].as_u64()), ("missed", Some(10)));
    for offset in 10..kept + 10 {
        assert_eq!(listener.next().await.unwrap().data()["id"], format!("0:{offset}"));
    }
    service.feed.push_alerts(&[alert(kept + 10, 0, "BTC-USDT")]);
    assert_eq!(listener.next().await.unwrap().data()["id"], format!("0:{}", kept + 10));
}

#[tokio::test]
async fn a_client_that_comes_back_gets_what_it_missed() {
    let service = Running::start(None).await;
    let mut listener = Listener::open(&service, "kinds=prediction").await;
    service.feed.push_live([item(1, "BTC-USDT", 0.5)]);
    let seen = listener.next().await.unwrap();
    drop(listener);
    service.feed.push_live([item(2, "BTC-USDT", 0.5), item(3, "BTC-USDT", 0.5)]);
    let mut resumed = Listener::resume(&service, "kinds=prediction", &seen.id).await;
    service.feed.push_live([item(4, "BTC-USDT", 0.5)]);
    assert_eq!(resumed.offsets().await, ["0:2", "0:3", "0:4"]);
}

#[tokio::test]
async fn a_client_of_an_earlier_process_is_told_so_and_gets_all_there_is() {
    let service = Running::start(None).await;
    let mut listener = Listener::open(&service, "kinds=prediction").await;
    service.feed.push_live([item(1, "BTC-USDT", 0.5), item(2, "BTC-USDT", 0.5)]);
    assert_eq!(listener.offsets().await, ["0:1", "0:2"]);
    let mut resumed = Listener::resume(&service, "kinds=prediction", "5f3759df-12").await;
    let missed = resumed.next().await.unwrap();
    assert_eq!((missed.event.as_str(), &missed.data()["count"]), ("missed", &Value::Null));
    assert!(missed.data()["reason"].as_str().unwrap().contains("none of this process"));
    assert_eq!(resumed.offsets().await, ["0:1", "0:2"]);
}

#[tokio::test]
async fn a_reader_that_falls_behind_is_told_how_much_it_missed_and_holds_nobody_up() {
    let service = Running::start(None).await;
    let mut slow = Listener::open(&service, "kinds=prediction").await;
    let mut fast = Listener::open(&service, "kinds=prediction").await;
    let (mut first, mut newest) = (None, 0);
    for start in (0..10).map(|batch| batch * BATCH) {
        // More in all than the buffers of a connection take.
        let long = |offset| FeedItem { features: [1.0 / 3.0; 5], ..item(offset, "BTC-USDT", 1.0 / 3.0) };
        let batch: Vec<_> = (start..start + BATCH).map(long).collect();
        service.feed.push_live(batch);
        for offset in start..start + BATCH {
            let told = fast.next().await.unwrap();
            assert!(told.data.starts_with(&format!("{{\"id\":\"0:{offset}\",")), "{told:?}");
            newest = told.number();
            first.get_or_insert(told.id);
        }
    }
    let (mut seen, mut missed, mut together) = (0, 0, 0);
    while seen < newest {
        let told = slow.next().await.unwrap();
        let step = if told.event == "missed" { told.data()["count"].as_u64().unwrap() } else { 1 };
        assert!(seen == 0 || told.number() == seen + step, "{told:?} after {seen}");
        (missed, together) = if step > 1 { (missed + step, 0) } else { (missed, together + 1) };
        seen = told.number();
    }
    assert!(missed > 0);
    assert_eq!(together, LIVE_KEPT, "it goes on with the oldest that is there");
    // Whoever comes back too late is told the same.
    let told = Listener::resume(&service, "kinds=prediction", &first.unwrap()).await.next().await.unwrap();
    assert_eq!((told.event.as_str(), told.data()["count"].as_u64()), ("missed", Some(10 * 4_000 - 1 - 10_000)));
}

#[tokio::test]
async fn the_status_comes_at_the_beginning_and_when_a_part_changes() {
    let service = Running::start(None).await;
    let mut listener = Listener::open(&service, "kinds=status").await;
    let told = listener.next().await.unwrap();
    let mut parts = service.get_json("/system-status", StatusCode::OK).await;
    // What has nothing to do with the parts, or changes all the time, as how long they take to answer.
    for name in ["version", "started", "progress"] {
        parts.as_object_mut().unwrap().remove(name).unwrap();
    }
    for part in parts["services"].as_array_mut().unwrap() {
        part["response_time_ms"] = json!(0.25);
    }
    assert_eq!((told.event.as_str(), told.data()), ("status", parts));
    service.part_is(Part::Stream, PartState::Degraded, "3 s behind");
    let told = listener.next().await.unwrap();
    assert_eq!(
        told.data()["services"][2],
        json!({"name": "Stream", "status": "degraded", "response_time_ms": 0.25, "details": "3 s behind"})
    );
}

#[tokio::test]
async fn a_run_is_told_when_its_state_changes() {
    let service = Running::start(None).await;
    service.has_a_schedule("compact", "compact").await;
    let mut listener = Listener::open(&service, "kinds=run").await;
    let post = async |path: &str| json_of(service.request(Method::POST, path).send().await.unwrap()).await;
    // Runs from before the first look are not told: whichever is, is told whole.
    let told = timeout(BOUND, async {
        loop {
            post("/schedules/compact/trigger").await;
            if let Ok(told) = timeout(Duration::from_secs(3), listener.event()).await {
                break told.unwrap();
            }
        }
    });
    let told = told.await.unwrap();
    assert_eq!(told.event, "run");
    let run = told.data()["id"].as_i64().unwrap();
    let mut page = service.get_json(&format!("/runs/{run}"), StatusCode::OK).await;
    assert_eq!((&told.data(), &told.data()["state"]), (&page["run"], &json!("pending")));
    post(&format!("/runs/{run}/cancel")).await;
    let told = listener.next().await.unwrap();
    page = service.get_json(&format!("/runs/{run}"), StatusCode::OK).await;
    assert_eq!((&told.data(), &told.data()["state"]), (&page["run"], &json!("cancelled")));
}

#[tokio::test]
async fn open_streams_end_at_once_when_the_service_does() {
    let service = Running::start(None).await;
    let mut all = Listener::open(&service, "").await;
    let mut quiet = Listener::open(&service, "kinds=run").await;
    assert_eq!(all.next().await.unwrap().event, "status");
    let ended = service.stop();
    assert!(all.next().await.is_none() && quiet.next().await.is_none());
    // The limit for requests that have begun is twice as long.
    timeout(api::SHUTDOWN_LIMIT / 2, ended).await.unwrap().unwrap().unwrap();
}

#[rstest]
#[case("kinds=trade", "kinds")]
#[case("kinds=prediction,trade", "kinds")]
#[case("kinds=", "kinds")]
#[case("symbol=btc", "symbol")]
#[tokio::test]
async fn an_unknown_kind_or_market_is_422(#[case] query: &str, #[case] field: &str) {
    let service = Running::start(None).await;
    let response = service.get(&format!("/stream?{query}")).await;
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let problem = json_of(response).await;
    assert_eq!(problem["errors"][0]["field"], field, "{problem}");
}
