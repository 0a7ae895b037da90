//! `/readyz`: not ready for reasons that it names, each of which is made here, and ready without them.

use std::fs;

use jobs::status::{Part, PartState};
use reqwest::StatusCode;
use serde_json::{Value, json};
use streams::EventLog;

use crate::harness::{Running, json_of, trained};

/// Asks a service that must not be ready; its reasons.
async fn reasons(service: &Running) -> Value {
    let response = service.get("/readyz").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "5");
    let problem = json_of(response).await;
    assert!(problem["detail"].as_str().unwrap().starts_with("not ready: "), "{problem}");
    problem["errors"].clone()
}

/// The one part that is missing.
async fn missing(service: &Running) -> String {
    let reasons = reasons(service).await;
    assert_eq!(reasons.as_array().unwrap().len(), 1, "{reasons}");
    assert!(!reasons[0]["detail"].as_str().unwrap().is_empty(), "{reasons}");
    reasons[0]["field"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_service_with_everything_is_ready_whatever_runs_elsewhere() {
    let service = Running::start(Some(trained(1))).await;
    service.part_is(Part::Stream, PartState::Offline, "runs elsewhere");
    service.part_is(Part::Lake, PartState::Degraded, "slow");
    assert_eq!(service.get_json("/readyz", StatusCode::OK).await, json!({"status": "ready"}));
}

#[tokio::test]
async fn the_parts_that_say_so_and_a_missing_model_are_reasons() {
    let service = Running::start(None).await;
    service.part_is(Part::Log, PartState::Offline, "opening");
    service.part_is(Part::Scheduler, PartState::Offline, "not started here");
    assert_eq!(
        reasons(&service).await,
        json!([
            {"field": "Log", "detail": "opening"},
            {"field": "Model", "detail": "is trained once 5000 feature rows exist, 1234 do"}
        ])
    );
    service.part_is(Part::Log, PartState::Online, "");
    service.part_is(Part::Model, PartState::Offline, "the file of the champion is damaged");
    let expected = json!([{"field": "Model", "detail": "the file of the champion is damaged"}]);
    assert_eq!(reasons(&service).await, expected);
}

#[tokio::test]
async fn a_log_that_does_not_answer_is_a_reason() {
    let service = Running::start(Some(trained(1))).await;
    service.log.close().await;
    assert_eq!(missing(&service).await, "Log");
    // One that says why is not asked why.
    service.part_is(Part::Log, PartState::Offline, "the disk is gone");
    assert_eq!(reasons(&service).await, json!([{"field": "Log", "detail": "the disk is gone"}]));
}

#[tokio::test]
async fn a_lake_that_cannot_be_read_is_a_reason() {
    let service = Running::start(Some(trained(1))).await;
    let (lake, away) = (service.folder.path().join("lake"), service.folder.path().join("away"));
    fs::rename(&lake, &away).unwrap();
    assert_eq!(missing(&service).await, "Lake");
    fs::rename(&away, &lake).unwrap();
    assert_eq!(service.get_json("/readyz", StatusCode::OK).await, json!({"status": "ready"}));
}

#[tokio::test]
async fn a_registry_that_cannot_be_read_is_a_reason() {
    let service = Running::start(Some(trained(1))).await;
    service.registry.close().await;
    assert_eq!(missing(&service).await, "Registry");
}
