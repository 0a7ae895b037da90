//! Alerts over HTTP, from a real lake: an event of BTC-USDT a second, three alerts, and what people say about them.

use std::sync::Arc;

use domain::{AlertRow, Fold, Offset, Output, RawRecord, Record, Severity, Timestamp};
use jobs::keys::Scope;
use lake::PartitionFlush;
use reqwest::{Method, RequestBuilder, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{NOW, Running, alert, event, json_of, live, question, trained};

const EVENTS: Offset = 40;

/// A service over a lake with the alert 0:10 of two events, 0:20 of another market and 0:30, and with predictions about
/// events of BTC-USDT.
async fn running() -> Running {
    filled(Running::start(None).await).await
}

async fn filled(service: Running) -> Running {
    let (mut fold, mut output) = (Fold::new(0, 0), Output::default());
    for offset in 0..EVENTS {
        let append_time = Timestamp::from_seconds(NOW + offset + 1);
        fold.apply(
            RawRecord { offset, append_time, key: b"", value: b"" },
            Ok(Record::Event(event("BTC-USDT", offset))),
            &mut output,
        );
    }
    let peak = AlertRow { anomaly_score: -0.25, severity: Severity::Critical, ..alert(12, 10, "BTC-USDT") };
    let alerts = vec![alert(10, 10, "BTC-USDT"), peak, alert(20, 20, "ETH-USDT"), alert(30, 30, "BTC-USDT")];
    let predictions = [10, 12, 30].map(|offset| live(offset, "BTC-USDT", -0.25)).to_vec();
    let flush = PartitionFlush { next: EVENTS, output, predictions, alerts, ..PartitionFlush::default() };
    service.lake.flush("topic", Arc::new(vec![flush])).await.unwrap();
    service
}

fn post(service: &Running, path: &str, body: &Value) -> RequestBuilder {
    service.request(Method::POST, path).header("content-type", "application/json").body(body.to_string())
}

async fn posted(service: &Running, path: &str, body: &Value) -> Value {
    let response = post(service, path, body).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "POST {path}");
    json_of(response).await
}

async fn list(service: &Running, query: &str) -> Value {
    service.get_json(&format!("/alerts{query}"), StatusCode::OK).await
}

fn ids(list: &Value) -> Vec<&str> {
    list["alerts"].as_array().unwrap().iter().map(|alert| alert["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn alerts_are_listed_with_their_peak_and_nobody_has_seen_them() {
    let service = running().await;
    let alerts = list(&service, "").await;
    assert_eq!(
        (&alerts["version"], &alerts["next"], ids(&alerts)),
        (&json!(1), &Value::Null, vec!["0:30", "0:20", "0:10"])
    );
    let expected = json!({
        "id": "0:10", "symbol": "BTC-USDT", "alert_type": "PRICE_SPIKE", "severity": "critical",
        "raised_at": "2024-03-09T16:00:10+00:00", "last_at": "2024-03-09T16:00:12+00:00", "events": 2, "source": "simulated",
        "peak": {
            "id": "0:12", "timestamp": "2024-03-09T16:00:12+00:00", "anomaly_score": -0.25, "model_version": 1,
            "leading_feature": "z_score_price", "share": 0.5
        },
        "acknowledged": false, "verdict": null
    });
    assert_eq!(alerts["alerts"][2], expected);
}

#[rstest]
#[case("?symbol=ETH-USDT", &["0:20"])]
#[case("?symbol=NEW-COIN", &[])]
#[case("?type=PRICE_SPIKE&limit=1", &["0:30"])]
#[case("?type=FLASH_CRASH", &[])]
#[case("?severity=critical", &["0:10"])]
#[case("?severity=warning", &["0:30", "0:20", "0:10"])]
#[case("?from=2024-03-09T16:00:20Z&to=2024-03-09T16:00:30Z", &["0:20"])]
#[case("?acknowledged=true", &["0:20"])]
#[case("?acknowledged=false", &["0:30", "0:10"])]
#[case("?verdict=false_positive", &["0:30"])]
#[case("?verdict=true_positive", &[])]
#[case("?verdict=false_positive&acknowledged=true", &[])]
#[tokio::test]
async fn alerts_are_those_that_are_asked_for(#[case] query: &str, #[case] expected: &[&str]) {
    let service = running().await;
    posted(&service, "/alerts/0:20/ack", &json!({})).await;
    for verdict in ["true_positive", "false_positive"] {
        posted(&service, "/alerts/0:30/verdict", &json!({ "verdict": verdict })).await;
    }
    assert_eq!(ids(&list(&service, query).await), expected);
}

#[tokio::test]
async fn a_cursor_goes_on_where_the_page_before_ended() {
    let service = running().await;
    for query in ["?limit=2", "?limit=2&acknowledged=false"] {
        let first = list(&service, query).await;
        assert_eq!(ids(&first), ["0:30", "0:20"]);
        let cursor = first["next"].as_str().unwrap();
        let last = list(&service, &format!("{query}&cursor={cursor}")).await;
        assert_eq!((ids(&last), &last["next"]), (vec!["0:10"], &Value::Null));
    }
}

#[tokio::test]
async fn an_alert_is_shown_with_what_there_is_to_look_at() {
    let service = filled(Running::start(Some(trained(1))).await).await;
    let version = service.has_a_model().await;
    let page = service.get_json("/alerts/0:10", StatusCode::OK).await;
    assert_eq!(page["alert"], list(&service, "").await["alerts"][2]);
    assert_eq!((&page["acknowledgements"], &page["verdicts"]), (&json!([]), &json!([])));
    let events = page["events"].as_array().unwrap();
    let raising: Vec<_> = events.iter().map(|event| (event["id"].as_str().unwrap(), &event["is_raising"])).collect();
    assert_eq!(raising, [("0:10", &json!(true)), ("0:12", &json!(false))]);
    assert_eq!((&events[1]["severity"], &events[1]["source"]), (&json!("critical"), &json!("simulated")));
    let peak = live(12, "BTC-USDT", -0.25);
    let shown = &page["prediction"];
    assert_eq!((&shown["id"], &shown["z_score_volume"]), (&json!("0:12"), &json!(peak.features[2])));
    assert_eq!((&shown["price"], &shown["volume"]), (&json!(100.5), &json!(1.5)));
    // The model that answers now is the one that is registered.
    let explained = json_of(service.explain(question("BTC-USDT", peak.features).to_string()).await).await;
    assert_eq!((&page["explanation"], &page["explanation"]["model_version"]), (&explained, &json!(version)));
    assert_eq!((&page["not_explained"], &page["around_is_cut"]), (&Value::Null, &json!(false)));
    let around = page["around"].as_array().unwrap();
    assert_eq!(around.len(), 40);
    let expected = json!({
        "id": "0:1", "timestamp": "2024-03-09T16:00:01+00:00", "price": 100.5, "volume": 1.5, "trade_id": 1, "side": null,
        "is_anomaly": null, "anomaly_type": null, "source": "simulated"
    });
    assert_eq!(around[1], expected);
}

#[tokio::test]
async fn what_cannot_be_explained_is_shown_with_the_reason() {
    let service = running().await;
    let version = service.has_a_model().await;
    service.loses_the_file_of(version).await;
    for (path, is_predicted, reason) in [
        ("/alerts/0:10", true, "model version 1 cannot be loaded"),
        ("/alerts/0:20", false, "what was predicted is not in its table yet"),
    ] {
        let page = service.get_json(path, StatusCode::OK).await;
        assert_eq!((page["prediction"].is_object(), &page["explanation"]), (is_predicted, &Value::Null));
        assert!(page["not_explained"].as_str().unwrap().contains(reason), "{page}");
    }
}

#[tokio::test]
async fn what_people_say_is_kept_and_the_newest_verdict_counts() {
    let service = running().await;
    let seen = posted(&service, "/alerts/0:10/ack", &json!({"note": "asked the venue"})).await;
    assert_eq!((&seen["alert"]["acknowledged"], &seen["alert"]["verdict"]), (&json!(true), &Value::Null));
    assert_eq!(posted(&service, "/alerts/0:10/ack", &json!({"note": "asked the venue"})).await, seen, "it is the same");
    // The two texts of one id are one alert, and a body may be left out.
    let key = service.key(&[Scope::Admin]).await;
    let response = service.request(Method::POST, "/alerts/0%3A10/ack").bearer_auth(key).send().await.unwrap();
    assert_eq!(json_of(response).await["acknowledgements"].as_array().unwrap().len(), 2);
    let mut said = Value::Null;
    for (verdict, note) in [("unclear", ""), ("false_positive", "a test of the venue")] {
        said = posted(&service, "/alerts/0:10/verdict", &json!({"verdict": verdict, "note": note})).await;
    }
    let at = "2024-03-09T16:00:00+00:00";
    assert_eq!(
        (&said["acknowledgements"], &said["verdicts"]),
        (
            &json!([{"at": at, "who": "API", "note": "asked the venue"}, {"at": at, "who": "API key 1", "note": ""}]),
            &json!([
                {"at": at, "verdict": "unclear", "who": "API", "note": ""},
                {"at": at, "verdict": "false_positive", "who": "API", "note": "a test of the venue"}
            ])
        )
    );
    assert_eq!(said["alert"]["verdict"], "false_positive");
    assert_eq!(list(&service, "").await["alerts"][2], said["alert"]);
    let page = service.get_json("/alerts/0:10", StatusCode::OK).await;
    assert_eq!((&page["alert"], &page["verdicts"]), (&said["alert"], &said["verdicts"]));
}

#[rstest]
#[case("GET", "/alerts/0:12", None, StatusCode::NOT_FOUND, "there is no alert 0:12")]
#[case("GET", "/alerts/1:10", None, StatusCode::NOT_FOUND, "one that was raised just now is there within seconds")]
#[case("GET", "/alerts/10", None, StatusCode::UNPROCESSABLE_ENTITY, "an alert is named PARTITION:OFFSET")]
#[case("GET", "/alerts/0:010", None, StatusCode::UNPROCESSABLE_ENTITY, "the path is not valid")]
#[case("GET", "/alerts?type=price_spike", None, StatusCode::UNPROCESSABLE_ENTITY, "type")]
#[case("GET", "/alerts?severity=mild", None, StatusCode::UNPROCESSABLE_ENTITY, "severity")]
#[case("GET", "/alerts?acknowledged=perhaps", None, StatusCode::UNPROCESSABLE_ENTITY, "acknowledged")]
#[case("GET", "/alerts?symbol=btc", None, StatusCode::UNPROCESSABLE_ENTITY, "symbol")]
#[case("GET", "/alerts?from=noon", None, StatusCode::UNPROCESSABLE_ENTITY, "from must be a time")]
#[case("GET", "/alerts?from=2024-03-10&to=2024-03-09", None, StatusCode::UNPROCESSABLE_ENTITY, "must be before `to`")]
#[case("GET", "/alerts?cursor=0:10", None, StatusCode::UNPROCESSABLE_ENTITY, "cursor must be the `next`")]
#[case("GET", "/alerts?limit=0", None, StatusCode::UNPROCESSABLE_ENTITY, "limit")]
#[case("POST", "/alerts/0:12/ack", Some(json!({})), StatusCode::NOT_FOUND, "there is no alert 0:12")]
#[case("POST", "/alerts/x/ack", Some(json!({})), StatusCode::UNPROCESSABLE_ENTITY, "the path is not valid")]
#[case("POST", "/alerts/0:10/ack", Some(json!({"why": "x"})), StatusCode::UNPROCESSABLE_ENTITY, "unknown field `why`")]
#[case("POST", "/alerts/0:10/verdict", Some(json!({})), StatusCode::UNPROCESSABLE_ENTITY, "verdict must be true_positive")]
#[case(
    "POST",
    "/alerts/0:10/verdict",
    Some(json!({"verdict": "perhaps"})),
    StatusCode::UNPROCESSABLE_ENTITY,
    "verdict must be true_positive, false_positive or unclear"
)]
#[case("POST", "/alerts/0:12/verdict", Some(json!({"verdict": "unclear"})), StatusCode::NOT_FOUND, "no alert 0:12")]
#[tokio::test]
async fn what_cannot_be_done_is_refused_with_a_reason(
    #[case] method: Method,
    #[case] path: &str,
    #[case] body: Option<Value>,
    #[case] status: StatusCode,
    #[case] detail: &str,
) {
    let service = running().await;
    let request = match body {
        Some(body) => post(&service, path, &body),
        None => service.request(method, path),
    };
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), status, "{path}");
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let told = json_of(response).await["detail"].as_str().unwrap().to_owned();
    assert!(told.contains(detail), "{told}");
}

#[tokio::test]
async fn a_page_of_another_site_says_nothing() {
    let service = running().await;
    for path in ["/alerts/0:10/ack", "/alerts/0:10/verdict"] {
        let request = post(&service, path, &json!({"verdict": "unclear"})).header("sec-fetch-site", "cross-site");
        assert_eq!(request.send().await.unwrap().status(), StatusCode::FORBIDDEN, "{path}");
    }
    let page = service.get_json("/alerts/0:10", StatusCode::OK).await;
    assert_eq!((&page["acknowledgements"], &page["verdicts"]), (&json!([]), &json!([])));
}

#[tokio::test]
async fn without_alerts_the_list_is_empty() {
    let service = Running::start(None).await;
    assert_eq!(list(&service, "").await, json!({"version": 0, "alerts": [], "next": null}));
}
