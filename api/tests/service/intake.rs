//! `POST /events`: what is answered, and what is in the log then.

use domain::{IngestId, Source, Timestamp};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};
use streams::EventLog;

use crate::harness::{NOW, Running, json_of};

const EVENT: &str = r#"{"timestamp":1710000000.25,"symbol":"BTC-USDT","price":43150.5,"volume":1.25}"#;

async fn running() -> Running {
    Running::start(None).await
}

fn events(service: &Running, body: impl Into<String>) -> RequestBuilder {
    service.request(Method::POST, "/events").header("content-type", "application/x-ndjson").body(body.into())
}

async fn answer(request: RequestBuilder) -> Value {
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    json_of(response).await
}

async fn refusal(request: RequestBuilder, status: StatusCode) -> Value {
    problem(request.send().await.unwrap(), status).await
}

async fn problem(response: Response, status: StatusCode) -> Value {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    json_of(response).await
}

fn all_of(events: u64) -> Value {
    json!({"accepted": events, "duplicate": false, "rejected_count": 0, "rejected": []})
}

#[tokio::test]
async fn events_are_in_the_log_when_they_are_acknowledged() {
    let service = running().await;
    let trade = r#"{"timestamp":1710000001,"symbol":"BTC-USDT","price":43151,"volume":0,"trade_id":7,"venue":"x"}"#;
    let other = EVENT.replace("BTC", "ETH");
    assert_eq!(answer(events(&service, format!("{EVENT}\n{other}\n{trade}\n"))).await, all_of(3));
    let logged = service.logged("BTC-USDT").await;
    assert_eq!(logged.len(), 2);
    assert_eq!(logged[0].timestamp, Timestamp::from_micros(NOW * 1_000_000 + 250_000));
    assert_eq!((logged[0].price, logged[0].source, &logged[0].ingest_id), (43_150.5, Source::Api, &None));
    assert_eq!((logged[1].trade_id, logged[1].extra.as_deref()), (Some(7), Some(r#"{"venue":"x"}"#)));
    assert_eq!(service.logged("ETH-USDT").await.len(), 1);
    let metrics = service.get_text("/metrics").await;
    assert!(metrics.lines().any(|line| line == "sentinel_events_logged_total 3"), "{metrics}");
}

#[rstest]
#[case(Some("application/json"))]
#[case(Some("application/json; charset=utf-8"))]
#[case(None)]
#[tokio::test]
async fn one_object_may_have_many_lines(#[case] media_type: Option<&str>) {
    let service = running().await;
    let mut request = service.request(Method::POST, "/events").body(EVENT.replace(',', ",\n  "));
    if let Some(media_type) = media_type {
        request = request.header("content-type", media_type);
    }
    assert_eq!(answer(request).await, all_of(1));
    assert_eq!(service.logged("BTC-USDT").await.len(), 1);
}

#[tokio::test]
async fn what_is_no_event_is_listed_and_the_rest_is_appended() {
    let service = running().await;
    let heartbeat = r#"{"heartbeat":true,"symbol":"BTC-USDT","timestamp":1710000000}"#;
    let negative = EVENT.replace("43150.5", "-1");
    let body = format!("{EVENT}\n\n{negative}\n{heartbeat}\n{EVENT}\nbroken\n");
    let taken = answer(events(&service, body)).await;
    assert_eq!(
        taken,
        json!({
            "accepted": 2, "duplicate": false, "rejected_count": 3,
            "rejected": [
                {"line": 3, "detail": "price -1 must be above 0 (from 1e-100 to 1e100)"},
                {"line": 4, "detail": "a heartbeat is no event: only Sentinel's own sources write them"},
                {"line": 6, "detail": "expected value at column 1"}
            ]
        })
    );
    assert_eq!(service.logged("BTC-USDT").await.len(), 2);
    let many = answer(events(&service, "x\n".repeat(150) + EVENT)).await;
    assert_eq!((&many["accepted"], &many["rejected_count"]), (&json!(1), &json!(150)));
    assert_eq!(many["rejected"].as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn a_body_without_an_event_is_422_with_the_reasons() {
    let service = running().await;
    let negative = EVENT.replace("1.25", "-1");
    let told = refusal(events(&service, format!("x\n{negative}")), StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(
        told["detail"],
        "the body has no valid event: 2 refused, the first on line 1: expected value at column 1"
    );
    assert_eq!(
        told["errors"],
        json!([
            {"field": "line 1", "detail": "expected value at column 1"},
            {"field": "line 2", "detail": "volume -1 must be at least 0 and at most 1e100"}
        ])
    );
    let told = refusal(events(&service, "\n\n"), StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(told["detail"], "the body has no valid event: it is empty");
    assert!(service.logged("BTC-USDT").await.is_empty());
}

#[tokio::test]
async fn a_request_with_a_key_is_appended_once() {
    let service = running().await;
    let keyed = |key: &str, body: &str| events(&service, body).header("idempotency-key", key);
    let body = format!("{EVENT}\nbroken\n");
    let first = answer(keyed("order-7", &body)).await;
    assert_eq!((&first["accepted"], &first["duplicate"]), (&json!(1), &json!(false)));
    let again = answer(keyed("order-7", &body)).await;
    assert_eq!((&again["accepted"], &again["duplicate"]), (&json!(0), &json!(true)));
    assert_eq!((&again["rejected"], &again["rejected_count"]), (&first["rejected"], &json!(1)));
    let other = refusal(keyed("order-7", EVENT), StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(other["detail"].as_str().unwrap().contains("came with another body before"), "{other}");
    assert_eq!(answer(keyed("order-8", &body)).await["accepted"], 1);
    let logged = service.logged("BTC-USDT").await;
    let ids: Vec<IngestId> = logged.into_iter().map(|event| event.ingest_id.unwrap()).collect();
    assert_eq!((ids.len(), ids[0].sequence), (2, 1));
    assert_ne!(ids[0], ids[1]);
    let source = service.log.position("http/order-7").await.unwrap().unwrap();
    assert!(source.finished);
}

#[tokio::test]
async fn a_request_without_a_key_is_appended_as_often_as_it_comes() {
    let service = running().await;
    for _ in 0..2 {
        assert_eq!(answer(events(&service, EVENT)).await, all_of(1));
    }
    assert_eq!(service.logged("BTC-USDT").await.len(), 2);
}

#[rstest]
#[case(String::new())]
#[case("x".repeat(256))]
#[case("schl\u{fc}ssel".to_owned())]
#[tokio::test]
async fn a_key_that_cannot_be_read_is_refused(#[case] key: String) {
    let service = running().await;
    let request = events(&service, EVENT).header("idempotency-key", key);
    let told = refusal(request, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(told["errors"][0]["field"], "Idempotency-Key");
    assert!(service.logged("BTC-USDT").await.is_empty());
}

#[tokio::test]
async fn two_keys_are_refused() {
    let service = running().await;
    let request = events(&service, EVENT).header("idempotency-key", "a").header("idempotency-key", "b");
    let told = refusal(request, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(told["detail"].as_str().unwrap().contains("is given twice"), "{told}");
}

#[tokio::test]
async fn a_simulated_symbol_takes_no_real_events() {
    let service = running().await;
    let simulated = EVENT.replace('}', r#","source":"simulated"}"#);
    assert_eq!(answer(events(&service, simulated.clone())).await, all_of(1));
    let body = EVENT.replace("BTC", "ETH") + "\n" + EVENT;
    let told = refusal(events(&service, body).header("idempotency-key", "k"), StatusCode::CONFLICT).await;
    let sentence = "BTC-USDT is simulated in this event log and real events were sent: use another `--data-dir` for real \
                    events";
    assert_eq!(told["detail"], sentence);
    // Nothing of a refused request is kept, its key neither.
    assert!(service.logged("ETH-USDT").await.is_empty());
    assert_eq!(service.log.position("http/k").await.unwrap(), None);
    let mixed = refusal(events(&service, format!("{EVENT}\n{simulated}")), StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(mixed["detail"].as_str().unwrap().contains("line 2 is simulated"), "{mixed}");
    assert_eq!(service.logged("BTC-USDT").await.len(), 1);
}

#[tokio::test]
async fn a_body_has_limits() {
    let service = running().await;
    let told = refusal(events(&service, "x\n".repeat(50_001)), StatusCode::PAYLOAD_TOO_LARGE).await;
    assert!(told["detail"].as_str().unwrap().contains("more than 50000 events"), "{told}");
    assert_eq!(service.announce("/events", (8 << 20) + 1).await, "HTTP/1.1 413");
}

#[tokio::test]
async fn a_body_of_another_media_type_is_415() {
    let service = running().await;
    let request = service.request(Method::POST, "/events").header("content-type", "text/plain").body(EVENT);
    refusal(request, StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
    assert!(service.logged("BTC-USDT").await.is_empty());
}

#[rstest]
#[case("sec-fetch-site", "cross-site")]
#[case("origin", "https://elsewhere.example")]
#[tokio::test]
async fn a_page_of_another_site_appends_nothing(#[case] header: &str, #[case] value: &str) {
    let service = running().await;
    refusal(events(&service, EVENT).header(header, value), StatusCode::FORBIDDEN).await;
    assert!(service.logged("BTC-USDT").await.is_empty());
}

#[tokio::test]
async fn while_the_log_takes_nothing_it_is_said_when_to_ask_again() {
    let service = running().await;
    service.log.close().await;
    let response = events(&service, EVENT).send().await.unwrap();
    assert_eq!(response.headers()["retry-after"], "5");
    problem(response, StatusCode::SERVICE_UNAVAILABLE).await;
}
