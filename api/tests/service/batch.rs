//! `POST /predict/batch`: many vectors in one request, each with a result of its own.

use reqwest::{Method, Response, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Running, json_of, question, symbol, trained};

const SPIKE: [f64; 5] = [4.5, 3.8, 1.5, 0.008, 25.0];
const CALM: [f64; 5] = [0.1, 0.05, 0.2, 0.002, 10.0];

async fn post(service: &Running, body: impl Into<String>) -> Response {
    let request = service.request(Method::POST, "/predict/batch").header("content-type", "application/json");
    request.body(body.into()).send().await.unwrap()
}

async fn refused(service: &Running, body: impl Into<String>, status: StatusCode) -> Value {
    let response = post(service, body).await;
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    json_of(response).await
}

#[tokio::test]
async fn every_item_gets_the_verdict_of_the_model_or_what_is_wrong_with_it() {
    let model = trained(3).model;
    let service = Running::start(Some(trained(3))).await;
    let mut wrong = question("btc", SPIKE);
    wrong["z_score_price"] = json!("4.5");
    let body = json!([question("BTC-USDT", SPIKE), wrong, 7, question("NEW-COIN", CALM)]);
    let response = post(&service, body.to_string()).await;
    assert_eq!(response.status(), StatusCode::OK);
    let answer = json_of(response).await;
    let verdict = |market: &str, features| {
        let verdict = model.verdict(symbol(market), &features);
        json!({"symbol": market, "anomaly_score": verdict.anomaly_score, "is_anomaly": verdict.is_anomaly})
    };
    assert_eq!(answer["model_version"], 3);
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 4);
    assert_eq!((&results[0], &results[3]), (&verdict("BTC-USDT", SPIKE), &verdict("NEW-COIN", CALM)));
    let fields: Vec<_> =
        results[1]["error"]["errors"].as_array().unwrap().iter().map(|part| part["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["symbol", "z_score_price"]);
    let detail = results[1]["error"]["detail"].as_str().unwrap();
    assert!(detail.starts_with("the item is not valid: symbol is wrong: `btc` is not a symbol"), "{detail}");
    let no_object = json!({"error": {"detail": "the item must be a JSON object with six fields", "errors": []}});
    assert_eq!(results[2], no_object);
}

#[tokio::test]
async fn all_that_is_judged_is_counted_and_the_newest_are_shown() {
    let service = Running::start(Some(trained(1))).await;
    let mut items: Vec<_> = (0..600).map(|_| question("BTC-USDT", CALM)).collect();
    items.extend([json!({}), question("ETH-USDT", SPIKE)]);
    let response = post(&service, Value::from(items).to_string()).await;
    assert_eq!(response.status(), StatusCode::OK);
    let shown = service.get_json("/latest-predictions?limit=500", StatusCode::OK).await;
    let shown = shown.as_array().unwrap();
    assert_eq!(shown.len(), 500);
    let newest = &shown[499];
    assert_eq!((&newest["symbol"], &newest["origin"]), (&json!("ETH-USDT"), &json!("manual")));
    let stats = service.get_json("/stats", StatusCode::OK).await;
    assert_eq!((&stats["total_predictions"], &stats["per_symbol"]["BTC-USDT"]["count"]), (&json!(601), &json!(600)));
    let metrics = service.get_text("/metrics").await;
    let counted = "sentinel_predictions_total{origin=\"manual\"} 601";
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
}

#[tokio::test]
async fn an_empty_array_has_no_results() {
    let service = Running::start(Some(trained(1))).await;
    let answer = json_of(post(&service, "[]").await).await;
    assert_eq!(answer, json!({"model_version": 1, "results": []}));
}

#[tokio::test]
async fn no_more_than_ten_thousand_items_are_taken() {
    let service = Running::start(Some(trained(1))).await;
    let item = question("BTC-USDT", CALM).to_string();
    let items = |count| format!("[{}]", vec![item.as_str(); count].join(","));
    let answer = json_of(post(&service, items(10_000)).await).await;
    assert_eq!(answer["results"].as_array().unwrap().len(), 10_000);
    let problem = refused(&service, items(10_001), StatusCode::PAYLOAD_TOO_LARGE).await;
    assert_eq!(problem["detail"], "the body has 10001 items; send at most 10000 at once");
    assert_eq!(service.announce("/predict/batch", (4 << 20) + 1).await, "HTTP/1.1 413");
    assert_eq!(service.feed.statistics().total.count, 10_000);
}

#[rstest]
#[case("{}")]
#[case("")]
#[case("[{}")]
#[tokio::test]
async fn what_is_no_array_is_422(#[case] body: &str) {
    let service = Running::start(Some(trained(1))).await;
    let problem = refused(&service, body, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(problem["detail"].as_str().unwrap().starts_with("the body is not a JSON array of objects"), "{problem}");
}

#[tokio::test]
async fn without_a_model_nothing_is_judged() {
    let service = Running::start(None).await;
    let body = json!([question("BTC-USDT", CALM)]).to_string();
    let problem = refused(&service, body, StatusCode::SERVICE_UNAVAILABLE).await;
    let detail = "no model is available yet: the first is trained once 5000 feature rows exist, 1234 do";
    assert_eq!((&problem["detail"], &problem["instance"]), (&json!(detail), &json!("/predict/batch")));
}

#[tokio::test]
async fn a_body_of_another_media_type_is_415() {
    let service = Running::start(Some(trained(1))).await;
    let request = service.request(Method::POST, "/predict/batch").header("content-type", "text/csv").body("[]");
    assert_eq!(request.send().await.unwrap().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
}
