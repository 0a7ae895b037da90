//! `GET /predictions`: the history of what models have said, from a real table.

use std::sync::Arc;

use domain::Prediction;
use lake::{PartitionFlush, TableName};
use reqwest::StatusCode;
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Running, json_of, live};

/// Twelve predictions, one a second: two markets in turn, every third an anomaly, the last four by a second model.
fn predictions() -> Vec<Prediction> {
    let one = |offset: i64| {
        let market = if offset % 2 == 0 { "BTC-USDT" } else { "ETH-USDT" };
        let score = if offset % 3 == 0 { -0.25 } else { 0.125 };
        Prediction { model_version: if offset < 8 { 1 } else { 2 }, ..live(offset, market, score) }
    };
    (0..12).map(one).collect()
}

async fn running() -> Running {
    let service = Running::start(None).await;
    let flush = PartitionFlush { next: 12, predictions: predictions(), ..PartitionFlush::default() };
    service.lake.flush("topic", Arc::new(vec![flush])).await.unwrap();
    service
}

fn offsets(answer: &Value) -> Vec<i64> {
    answer["rows"].as_array().unwrap().iter().map(|row| row["offset"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn a_prediction_is_shown_as_it_is_stored() {
    let service = running().await;
    let response = service.get("/predictions?limit=1").await;
    assert_eq!(response.headers()["x-delta-version"], "1");
    let answer = json_of(response).await;
    assert_eq!((&answer["table"], &answer["version"]), (&json!("predictions"), &json!(1)));
    let newest = answer["rows"][0].as_object().unwrap();
    assert_eq!(newest.len(), TableName::Predictions.schema().fields().len());
    assert_eq!(newest["timestamp"], "2024-03-09T16:00:11.000000Z");
    assert_eq!((&newest["anomaly_score"], &newest["is_anomaly"]), (&json!(0.125), &json!(false)));
    assert_eq!((&newest["model_version"], &newest["rolling_volume_std"]), (&json!(2), &json!(9.8)));
    assert_eq!((&newest["label_is_anomaly"], &newest["source"]), (&Value::Null, &json!("simulated")));
}

#[rstest]
#[case("", &[11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0])]
#[case("?symbol=ETH-USDT&limit=3", &[11, 9, 7])]
#[case("?anomalies_only=true", &[9, 6, 3, 0])]
#[case("?anomalies_only=false&limit=1", &[11])]
#[case("?model_version=1&limit=2", &[7, 6])]
#[case("?model_version=2&anomalies_only=true", &[9])]
#[case("?model_version=3", &[])]
#[case("?from=2024-03-09T16:00:03Z&to=2024-03-09T16:00:06Z", &[5, 4, 3])]
#[case("?version=0", &[])]
#[case("?known_at=2024-03-09T15:59:59Z", &[])]
#[tokio::test]
async fn predictions_are_those_that_are_asked_for(#[case] query: &str, #[case] expected: &[i64]) {
    let service = running().await;
    let answer = service.get_json(&format!("/predictions{query}"), StatusCode::OK).await;
    assert_eq!(offsets(&answer), expected);
}

#[tokio::test]
async fn anomalies_are_paged_too() {
    let service = running().await;
    let first = service.get_json("/predictions?anomalies_only=true&limit=3", StatusCode::OK).await;
    assert_eq!(offsets(&first), [9, 6, 3]);
    let cursor = first["next"].as_str().unwrap();
    let second = format!("/predictions?anomalies_only=true&limit=3&cursor={cursor}");
    let second = service.get_json(&second, StatusCode::OK).await;
    assert_eq!((offsets(&second), &second["next"]), (vec![0], &Value::Null));
    let other = service.get(&format!("/predictions?limit=3&cursor={cursor}")).await;
    assert_eq!(other.status(), StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn predictions_come_as_csv_with_the_columns_that_are_named() {
    let service = running().await;
    let text = service.get_text("/predictions?columns=symbol,anomaly_score&limit=2&format=csv").await;
    assert_eq!(text, "symbol,anomaly_score\nETH-USDT,0.125\nBTC-USDT,0.125\n");
}

#[rstest]
#[case("?model_version=0", "model_version")]
#[case("?anomalies_only=maybe", "anomalies_only")]
#[case("?columns=prize", "`predictions` has no column `prize`")]
#[case("?limit=0", "limit")]
#[tokio::test]
async fn what_is_not_right_is_refused_with_a_reason(#[case] query: &str, #[case] reason: &str) {
    let service = running().await;
    let answer = service.get_json(&format!("/predictions{query}"), StatusCode::UNPROCESSABLE_ENTITY).await;
    let detail = answer["detail"].as_str().unwrap();
    assert!(detail.contains(reason), "{detail}");
}
