//! What the service says while the first model is awaited.

use reqwest::StatusCode;
use serde_json::json;

use crate::harness::{Running, json_of, question};

const SPIKE: [f64; 5] = [4.5, 3.8, 1.5, 0.008, 25.0];

#[tokio::test]
async fn health_waits_and_the_process_lives() {
    let service = Running::start(None).await;
    let health = service.get_json("/health", StatusCode::OK).await;
    assert_eq!(health, json!({"status": "waiting_for_model", "model_loaded": false}));
    assert_eq!(service.get_json("/livez", StatusCode::OK).await, json!({"status": "alive"}));
}

#[tokio::test]
async fn a_prediction_is_refused_with_503_and_how_far_the_model_is() {
    let service = Running::start(None).await;
    let response = service.predict(question("BTC-USDT", SPIKE).to_string()).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(response.headers()["retry-after"], "5");
    let detail = "no model is available yet: the first is trained once 5000 feature rows exist, 1234 do";
    let expected = json!({
        "type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": detail, "instance": "/predict",
        "request_id": response.headers()["x-request-id"].to_str().unwrap()
    });
    assert_eq!(json_of(response).await, expected);
}

#[tokio::test]
async fn an_explanation_is_refused_like_a_prediction() {
    let service = Running::start(None).await;
    let response = service.explain(question("BTC-USDT", SPIKE).to_string()).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let problem = json_of(response).await;
    assert_eq!(problem["instance"], "/explain");
    assert_eq!(
        problem["detail"],
        "no model is available yet: the first is trained once 5000 feature rows exist, 1234 do"
    );
}

#[tokio::test]
async fn an_invalid_question_is_invalid_with_or_without_a_model() {
    let service = Running::start(None).await;
    assert_eq!(service.predict("{}").await.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(service.explain("{}").await.status(), StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn statistics_are_zeros_and_nulls_and_the_list_is_empty() {
    let service = Running::start(None).await;
    let stats = service.get_json("/stats", StatusCode::OK).await;
    assert_eq!(
        stats,
        json!({
            "total_predictions": 0, "total_anomalies": 0, "anomaly_rate": 0.0, "avg_score": 0.0, "per_symbol": {},
            "score_percentiles": null, "feature_stats": null, "simulated": true
        })
    );
    assert_eq!(service.get_json("/latest-predictions", StatusCode::OK).await, json!([]));
}

#[tokio::test]
async fn model_info_is_not_loaded_and_nulls() {
    let service = Running::start(None).await;
    let info = service.get_json("/model-info", StatusCode::OK).await;
    let fields = info.as_object().unwrap();
    assert_eq!(fields["loaded"], false);
    for name in [
        "model_type",
        "n_estimators",
        "contamination",
        "max_samples",
        "feature_names",
        "scaler_means",
        "scaler_stds",
        "model_file_size_kb",
        "model_file_modified",
    ] {
        assert!(fields[name].is_null(), "{name}");
    }
}

#[tokio::test]
async fn the_system_status_says_how_far_the_model_is_and_what_the_program_is() {
    let service = Running::start(None).await;
    let status = service.get_json("/system-status", StatusCode::OK).await;
    assert_eq!(
        status["progress"],
        json!({
            "events_logged": 1_300, "feature_rows": 1_234, "rows_for_first_model": 5_000, "message": "folding the log"
        })
    );
    assert_eq!(
        (&status["version"], &status["started"]),
        (&json!(env!("CARGO_PKG_VERSION")), &json!("2024-03-09T16:00:00+00:00"))
    );
}
