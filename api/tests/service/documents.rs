//! The document of the service is pinned: a change of the interface shows as a change of `openapi.json`.

use std::{collections::BTreeSet, env, fs, path::Path};

use reqwest::StatusCode;
use serde_json::Value;

use crate::harness::Running;

/// Set to 1, it writes the document instead of comparing it.
const BLESS: &str = "SENTINEL_BLESS";

#[tokio::test]
async fn the_openapi_document_is_the_one_that_is_checked_in() {
    let service = Running::start(None).await;
    let document = service.get_text("/openapi.json").await + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    if env::var_os(BLESS).is_some_and(|value| value == "1") {
        fs::write(&path, &document).unwrap();
    }
    let pinned = fs::read_to_string(&path).unwrap_or_default();
    assert!(document == pinned, "api/openapi.json differs: run the test with {BLESS}=1 and look at the difference");
}

#[tokio::test]
async fn every_operation_has_an_id_a_summary_and_described_answers() {
    let service = Running::start(None).await;
    let document = service.get_json("/openapi.json", StatusCode::OK).await;
    let mut ids = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for operation in operations.as_object().unwrap().values() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{path}");
            assert!(!operation["summary"].as_str().unwrap().is_empty(), "{path}");
            for answer in operation["responses"].as_object().unwrap().values() {
                assert!(!answer["description"].as_str().unwrap().is_empty(), "{path}");
            }
        }
    }
    assert_eq!(ids.len(), 40);
}

#[tokio::test]
async fn every_documented_get_answers_with_its_documented_type() {
    let service = Running::start(None).await;
    let document = service.get_json("/openapi.json", StatusCode::OK).await;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let Value::Object(answers) = &operations["get"]["responses"] else { continue };
        let response = service.get(path).await;
        let answer = &answers[response.status().as_str()];
        let media_type = response.headers()["content-type"].to_str().unwrap();
        assert!(answer["content"].as_object().unwrap().contains_key(media_type), "{path} answered {media_type}");
    }
}

#[tokio::test]
async fn the_limits_of_the_document_are_the_limits_of_the_service() {
    let service = Running::start(None).await;
    let document = service.get_json("/openapi.json", StatusCode::OK).await;
    let request = &document["components"]["schemas"]["PredictRequest"];
    assert_eq!(request["required"].as_array().unwrap().len(), 6);
    for name in ["z_score_price", "z_score_log_return", "z_score_volume"] {
        assert_eq!(
            (&request["properties"][name]["minimum"], &request["properties"][name]["maximum"]),
            (&Value::from(-100.0), &Value::from(100.0))
        );
    }
    for name in ["rolling_price_std", "rolling_volume_std"] {
        assert_eq!(request["properties"][name]["minimum"], 0.0);
    }
    let batch = &document["paths"]["/predict/batch"]["post"]["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!((&batch["type"], &batch["maxItems"]), (&Value::from("array"), &Value::from(10_000)));
    assert_eq!(batch["items"]["anyOf"][0]["$ref"], "#/components/schemas/PredictRequest");
    let key = &document["paths"]["/events"]["post"]["parameters"][0];
    assert_eq!((&key["name"], &key["in"]), (&Value::from("Idempotency-Key"), &Value::from("header")));
    assert_eq!(key["schema"]["maxLength"], 255);
    let limit = &document["paths"]["/latest-predictions"]["get"]["parameters"][0];
    assert_eq!(limit["name"], "limit");
    assert_eq!(
        (&limit["schema"]["minimum"], &limit["schema"]["maximum"], &limit["schema"]["default"]),
        (&Value::from(1.0), &Value::from(500.0), &Value::from(100))
    );
}

#[tokio::test]
async fn bodies_that_take_no_other_field_and_bodies_that_are_needed_are_documented_as_such() {
    let service = Running::start(None).await;
    let document = service.get_json("/openapi.json", StatusCode::OK).await;
    for name in ["PromoteRequest", "TriggerRequest", "PauseRequest", "ResumeRequest", "Nothing"] {
        assert_eq!(document["components"]["schemas"][name]["additionalProperties"], false, "{name}");
    }
    let is_required = |path: &str| document["paths"][path]["post"]["requestBody"]["required"].as_bool();
    assert_eq!(is_required("/models/{version}/promote"), Some(true));
    assert_eq!(is_required("/schedules/{name}/trigger"), Some(false));
}

#[tokio::test]
async fn a_time_is_documented_with_every_form_that_is_read() {
    let service = Running::start(None).await;
    let document = service.get_json("/openapi.json", StatusCode::OK).await;
    let at = &document["components"]["schemas"]["TriggerRequest"]["properties"]["at"];
    assert_eq!((&at["type"], &at["nullable"]), (&Value::from("string"), &Value::from(true)));
    let formats: Vec<_> = at["anyOf"].as_array().unwrap().iter().map(|form| form["format"].as_str()).collect();
    assert_eq!(formats, [Some("date-time"), Some("date"), None]);
    for time in ["2024-03-09T16:00:00Z", "2024-03-09T17:30:00.5%2B01:30", "2024-03-09", "1710000000", "-1.5"] {
        service.get_json(&format!("/runs?since={time}"), StatusCode::OK).await;
    }
}

#[tokio::test]
async fn the_documentation_page_needs_no_other_host() {
    let service = Running::start(None).await;
    let page = service.get_text("/docs").await;
    assert!(page.contains("SwaggerUIBundle(") && page.contains("latest_predictions"));
    assert!(page.contains("\"additionalProperties\": false"));
    let head = page.split("<script").next().unwrap();
    assert!(!page.contains("<script src") && !page.contains("<link rel=\"stylesheet\"") && !head.contains("@import"));
}

#[tokio::test]
async fn no_page_is_shown_in_a_frame_of_another() {
    let service = Running::start(None).await;
    for path in ["/", "/docs"] {
        assert_eq!(service.get(path).await.headers()["x-frame-options"], "DENY", "{path}");
    }
}
