//! The original endpoints, answered by a trained model.

use std::sync::Arc;

use domain::FEATURE_NAMES;
use jobs::{
    feed::Tally,
    status::{Part, PartState},
};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Running, item, json_of, question, symbol, trained};

const SPIKE: [f64; 5] = [4.5, 3.8, 1.5, 0.008, 25.0];

#[tokio::test]
async fn a_prediction_is_the_verdict_of_the_model_to_the_bit() {
    let expected = trained(1).model.verdict(symbol("BTC-USDT"), &SPIKE);
    let service = Running::start(Some(trained(1))).await;
    let response = service.predict(question("BTC-USDT", SPIKE).to_string()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/json");
    let answer = json_of(response).await;
    assert_eq!(
        answer,
        json!({"symbol": "BTC-USDT", "anomaly_score": expected.anomaly_score, "is_anomaly": expected.is_anomaly})
    );
    assert!(expected.is_anomaly, "the spike is far outside the training data");
}

#[tokio::test]
async fn a_market_that_the_model_has_not_seen_is_judged_too() {
    let expected = trained(1).model.verdict(symbol("NEW-COIN"), &SPIKE);
    let service = Running::start(Some(trained(1))).await;
    let answer = json_of(service.predict(question("NEW-COIN", SPIKE).to_string()).await).await;
    assert_eq!(answer["anomaly_score"], expected.anomaly_score);
}

#[tokio::test]
async fn an_explanation_is_that_of_the_model_to_the_bit() {
    let active = trained(3);
    let expected = active.model.explain(symbol("BTC-USDT"), &SPIKE);
    let limits = active.model.alert_limits();
    let (threshold, alert_threshold, training_minimum) =
        (active.model.threshold(), limits.threshold, limits.training_minimum);
    assert_eq!(expected.features.iter().filter(|explained| explained.reach.is_some()).count(), 3);
    let service = Running::start(Some(active)).await;
    let verdict = json_of(service.predict(question("BTC-USDT", SPIKE).to_string()).await).await;
    let response = service.explain(question("BTC-USDT", SPIKE).to_string()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/json");
    let features = expected.features.map(|explained| {
        json!({
            "feature": explained.feature, "value": explained.value, "contribution": explained.contribution,
            "share": explained.share, "expected_low": explained.expected_low,
            "expected_high": explained.expected_high, "deviations": explained.deviations,
            "alert_low": explained.reach.map(|reach| reach.low), "alert_high": explained.reach.map(|reach| reach.high),
            "notice_above": explained.notice_above
        })
    });
    assert_eq!(
        json_of(response).await,
        json!({
            "symbol": "BTC-USDT", "anomaly_score": verdict["anomaly_score"], "is_anomaly": true, "model_version": 3,
            "threshold": threshold, "alert_threshold": alert_threshold, "training_minimum": training_minimum,
            "features": features,
            "path": {
                "mean_depth": expected.path.mean_depth, "training_depth": expected.path.training_depth,
                "expected_depth": expected.path.expected_depth, "trees": 200,
                "isolated_within_3_splits": expected.path.isolated_within_3_splits
            }
        })
    );
}

#[tokio::test]
async fn an_explanation_leads_with_the_feature_that_stands_out() {
    let service = Running::start(Some(trained(1))).await;
    let explain = async |vector| json_of(service.explain(question("BTC-USDT", vector).to_string()).await).await;
    let price_spike = explain([9.0, 0.1, -0.2, 0.0016, 8.0]).await;
    let leading = &price_spike["features"][0];
    assert_eq!((&leading["feature"], &leading["value"]), (&json!("z_score_price"), &json!(9.0)));
    assert!(leading["share"].as_f64().unwrap() > 0.8, "{price_spike}");
    assert!(leading["deviations"].as_f64().unwrap() > 8.0, "{price_spike}");
    assert!((1.5..2.5).contains(&leading["expected_high"].as_f64().unwrap()), "{price_spike}");
    let volume_spike = explain([0.1, -0.2, 9.0, 0.0016, 8.0]).await;
    assert_eq!(volume_spike["features"][0]["feature"], "z_score_volume", "{volume_spike}");
    let greatest = explain([100.0, -100.0, 100.0, 1e308, 1e308]).await;
    for explained in greatest["features"].as_array().unwrap() {
        let numbers = ["value", "contribution", "share", "expected_low", "expected_high", "deviations"];
        assert!(numbers.iter().all(|name| explained[name].is_number()), "{explained}");
    }
}

#[tokio::test]
async fn an_explanation_is_no_prediction() {
    let service = Running::start(Some(trained(1))).await;
    let response = service.explain(question("BTC-USDT", SPIKE).to_string()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(service.get_json("/latest-predictions", StatusCode::OK).await, json!([]));
    assert_eq!(service.feed.statistics().total.count, 0);
    let counted = "sentinel_predictions_total{origin=\"manual\"} 1";
    assert!(!service.get_text("/metrics").await.contains(counted));
}

#[tokio::test]
async fn a_body_without_a_media_type_is_taken_as_json() {
    let service = Running::start(Some(trained(1))).await;
    let request = service.request(reqwest::Method::POST, "/predict").body(question("BTC-USDT", SPIKE).to_string());
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn the_latest_predictions_hold_live_and_manual_ones_in_order_of_arrival() {
    let service = Running::start(Some(trained(3))).await;
    service.feed.push_live([item(1, "BTC-USDT", 0.5), item(2, "ETH-USDT", -0.25)]);
    let verdict = json_of(service.predict(question("BTC-USDT", SPIKE).to_string()).await).await;
    let shown = service.get_json("/latest-predictions", StatusCode::OK).await;
    assert_eq!(shown.as_array().unwrap().len(), 3);
    assert_eq!(
        shown[1],
        json!({
            "symbol": "ETH-USDT", "z_score_price": 0.4, "z_score_log_return": -0.2, "z_score_volume": 1.1,
            "rolling_price_std": 0.002, "rolling_volume_std": 9.8, "anomaly_score": -0.25, "is_anomaly": true,
            "timestamp": "2024-03-09T16:00:02+00:00", "model_version": 1, "origin": "live", "price": 100.5, "volume": 1.5,
            "simulated": true
        })
    );
    assert_eq!(
        shown[2],
        json!({
            "symbol": "BTC-USDT", "z_score_price": 4.5, "z_score_log_return": 3.8, "z_score_volume": 1.5,
            "rolling_price_std": 0.008, "rolling_volume_std": 25.0, "anomaly_score": verdict["anomaly_score"],
            "is_anomaly": verdict["is_anomaly"], "timestamp": "2024-03-09T16:00:00+00:00", "model_version": 3,
            "origin": "manual", "price": null, "volume": null
        })
    );
}

#[tokio::test]
async fn limit_and_symbol_choose_among_the_latest_predictions() {
    let service = Running::start(None).await;
    let predictions: Vec<_> = (0..600_i32)
        .map(|number| item(i64::from(number), if number % 3 == 0 { "BTC-USDT" } else { "ETH-USDT" }, f64::from(number)))
        .collect();
    service.feed.push_live(predictions);
    let scores = async |query: &str| -> Vec<f64> {
        let shown = service.get_json(&format!("/latest-predictions{query}"), StatusCode::OK).await;
        shown.as_array().unwrap().iter().map(|item| item["anomaly_score"].as_f64().unwrap()).collect()
    };
    assert_eq!(scores("?limit=2").await, [598.0, 599.0]);
    assert_eq!(scores("?limit=2&symbol=BTC-USDT").await, [594.0, 597.0]);
    assert_eq!(scores("?symbol=XRP-USDT").await, [0.0; 0]);
    assert_eq!(scores("").await.len(), 100);
    assert_eq!(scores("?limit=500").await.len(), 500);
    assert_eq!(scores("?limit=1").await, [599.0]);
}

#[tokio::test]
async fn statistics_count_everything_and_describe_the_newest() {
    let service = Running::start(None).await;
    let stored = Tally { count: 196, anomalies: 2, score_sum: 196.0 };
    service.feed.restore([(symbol("ETH-USDT"), stored)], []);
    let scores = [0.0, 1.0, 2.0, -1.0];
    service.feed.push_live(scores.map(|score| item(1, "BTC-USDT", score)));
    let stats = service.get_json("/stats", StatusCode::OK).await;
    assert_eq!((&stats["total_predictions"], &stats["total_anomalies"]), (&json!(200), &json!(3)));
    assert_eq!((&stats["anomaly_rate"], &stats["avg_score"]), (&json!(1.5), &json!(0.99)));
    assert_eq!(
        stats["per_symbol"],
        json!({
            "BTC-USDT": {"count": 4, "anomalies": 1, "anomaly_rate": 25.0, "avg_score": 0.5},
            "ETH-USDT": {"count": 196, "anomalies": 2, "anomaly_rate": 200.0 / 196.0, "avg_score": 1.0}
        })
    );
    let percentiles = stats["score_percentiles"].as_object().unwrap();
    assert_eq!(
        (&percentiles["p25"], &percentiles["p50"], &percentiles["p75"]),
        (&json!(-0.25), &json!(0.5), &json!(1.25))
    );
    assert!(percentiles.contains_key("p95") && percentiles.contains_key("p99"));
    let features = stats["feature_stats"].as_object().unwrap();
    assert!(FEATURE_NAMES.iter().all(|name| features.contains_key(*name)) && features.len() == FEATURE_NAMES.len());
    assert_eq!(features["rolling_volume_std"]["min"], 9.8);
    assert_eq!(features["rolling_volume_std"]["max"], 9.8);
}

#[tokio::test]
async fn model_info_tells_the_active_model_and_follows_a_promotion() {
    let active = trained(1);
    let scale = active.model.global_scale().clone();
    let service = Running::start(Some(active)).await;
    let expected = |version: i64| {
        json!({
            "loaded": true, "model_type": "IsolationForest", "n_estimators": 200, "contamination": 0.01,
            "max_samples": "auto", "feature_names": FEATURE_NAMES, "scaler_means": scale.means,
            "scaler_stds": scale.deviations, "model_file_size_kb": 412.5,
            "model_file_modified": "2024-03-09T16:00:00+00:00", "model_name": "sentinel", "model_version": version
        })
    };
    assert_eq!(service.get_json("/model-info", StatusCode::OK).await, expected(1));
    service.model.send_replace(Some(Arc::new(trained(2))));
    assert_eq!(service.get_json("/model-info", StatusCode::OK).await, expected(2));
}

#[tokio::test]
async fn the_system_status_lists_every_part() {
    let service = Running::start(None).await;
    service.part_is(Part::Stream, PartState::Degraded, "3 s behind");
    let status = service.get_json("/system-status", StatusCode::OK).await;
    assert_eq!(status["timestamp"], "2024-03-09T16:00:00+00:00");
    let names: Vec<_> = status["services"].as_array().unwrap().iter().map(|part| &part["name"]).collect();
    assert_eq!(names, ["API", "Log", "Stream", "Lake", "Scheduler", "Model"]);
    assert_eq!(
        status["services"][2],
        json!({"name": "Stream", "status": "degraded", "response_time_ms": 0.25, "details": "3 s behind"})
    );
    assert_eq!(status["services"][0]["details"], Value::Null);
}

#[tokio::test]
async fn a_service_with_a_model_is_healthy() {
    let service = Running::start(Some(trained(1))).await;
    let health = service.get_json("/health", StatusCode::OK).await;
    assert_eq!(health, json!({"status": "ok", "model_loaded": true}));
}

#[tokio::test]
async fn what_was_answered_is_counted_by_route_template() {
    let service = Running::start(Some(trained(1))).await;
    service.predict(question("BTC-USDT", SPIKE).to_string()).await;
    service.predict("{}").await;
    service.get("/latest-predictions?limit=3").await;
    service.get("/no/such/path").await;
    service.get("/tables/events/history").await;
    service.get("/tables/nothing/history").await;
    let response = service.get("/metrics").await;
    assert_eq!(response.headers()["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = response.text().await.unwrap();
    for line in [
        "sentinel_http_requests_total{method=\"POST\",route=\"/predict\",status=\"200\"} 1",
        "sentinel_http_requests_total{method=\"POST\",route=\"/predict\",status=\"422\"} 1",
        "sentinel_http_requests_total{method=\"GET\",route=\"/latest-predictions\",status=\"200\"} 1",
        "sentinel_http_requests_total{method=\"GET\",route=\"unmatched\",status=\"404\"} 1",
        "sentinel_http_requests_total{method=\"GET\",route=\"/tables/{table}/history\",status=\"200\"} 1",
        "sentinel_http_requests_total{method=\"GET\",route=\"/tables/{table}/history\",status=\"404\"} 1",
        "sentinel_http_request_duration_seconds_count{route=\"/predict\"} 2",
        "sentinel_predictions_total{origin=\"manual\"} 1",
        "sentinel_anomalies_total{origin=\"manual\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(service.metrics.encode().unwrap().matches("route=\"/metrics\",status=\"200\"} 1").count(), 1);
}
