//! Models, schedules and runs over HTTP, with a real registry and a real store.

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{NOW, Running, json_of};

async fn running() -> Running {
    let service = Running::start(None).await;
    service.has_a_schedule("compact", "compact").await;
    service
}

fn with(request: RequestBuilder, body: &Value) -> RequestBuilder {
    request.header("content-type", "application/json").body(body.to_string())
}

async fn post(service: &Running, path: &str, body: Value) -> Response {
    with(service.request(Method::POST, path), &body).send().await.unwrap()
}

async fn posted(service: &Running, path: &str, body: Value) -> Value {
    let response = post(service, path, body).await;
    assert_eq!(response.status(), StatusCode::OK, "POST {path}");
    json_of(response).await
}

#[tokio::test]
async fn models_are_listed_shown_and_promoted() {
    let service = running().await;
    assert_eq!(service.get_json("/models", StatusCode::OK).await, json!([]));
    for _ in 0..2 {
        service.has_a_model().await;
    }
    let models = service.get_json("/models", StatusCode::OK).await;
    assert_eq!((&models[0]["version"], &models[0]["status"]), (&json!(2), &json!("registered")));
    assert_eq!(models[0]["inputs"]["rows"], 21_600);
    let body = json!({"reason": "it is better"});
    let promoted = posted(&service, "/models/2/promote", body).await;
    assert_eq!(promoted["model"]["status"], "champion");
    let event = promoted["history"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&event["what"], &event["who"], &event["why"]),
        (&json!("promoted"), &json!("API"), &json!("it is better"))
    );
    let shown = service.get_json("/models/2", StatusCode::OK).await;
    assert_eq!(shown, promoted);
    let conflict = post(&service, "/models/1/promote", json!({"reason": "x", "expect_current": 1})).await;
    assert_eq!(conflict.status(), StatusCode::CONFLICT);
    assert!(json_of(conflict).await["detail"].as_str().unwrap().contains("model version 2 is champion now"));
}

#[tokio::test]
async fn a_model_that_cannot_answer_is_not_promoted() {
    let service = running().await;
    let version = service.has_a_model().await;
    service.loses_the_file_of(version).await;
    let refused = post(&service, "/models/1/promote", json!({"reason": "x"})).await;
    assert_eq!(refused.status(), StatusCode::CONFLICT);
    assert_eq!(service.get_json("/models/1", StatusCode::OK).await["model"]["status"], "registered");
}

#[tokio::test]
async fn schedules_are_triggered_once_per_key_paused_and_resumed() {
    let service = running().await;
    let schedules = service.get_json("/schedules", StatusCode::OK).await;
    assert_eq!((&schedules[0]["name"], &schedules[0]["cron"]), (&json!("compact"), &json!("@hourly")));
    assert_eq!(schedules[0]["next"], "2024-03-09T17:00:00+00:00");
    let body = json!({"idempotency_key": "release-7"});
    let first = posted(&service, "/schedules/compact/trigger", body.clone()).await;
    assert_eq!(first, json!({"runs": [1]}));
    assert_eq!(posted(&service, "/schedules/compact/trigger", body).await, first);
    // A body may be left out.
    let response = service.request(Method::POST, "/schedules/compact/trigger").send().await.unwrap();
    assert_eq!(json_of(response).await, json!({"runs": [2]}));
    let paused = posted(&service, "/schedules/compact/pause", json!({"note": "holidays"})).await;
    assert_eq!(paused["schedule"]["paused_since"], "2024-03-09T16:00:00+00:00");
    assert_eq!(paused["decisions"][0]["why"], "it was started by hand");
    let resumed = posted(&service, "/schedules/compact/resume", json!({"catch_up": "last"})).await;
    assert_eq!(resumed, json!({"runs": []}));
    let shown = service.get_json("/schedules/compact", StatusCode::OK).await;
    assert_eq!(shown["schedule"]["paused_since"], Value::Null);
}

#[tokio::test]
async fn runs_are_listed_shown_and_cancelled() {
    let service = running().await;
    for _ in 0..3 {
        posted(&service, "/schedules/compact/trigger", json!({"at": "2024-03-09T15:00:00Z"})).await;
    }
    let ids = |runs: &Value| runs.as_array().unwrap().iter().map(|run| run["id"].as_i64().unwrap()).collect::<Vec<_>>();
    let runs = service.get_json("/runs", StatusCode::OK).await;
    assert_eq!(ids(&runs), [3, 2, 1]);
    assert_eq!((&runs[0]["state"], &runs[0]["of"]), (&json!("pending"), &json!("2024-03-09T15:00:00+00:00")));
    let cancelled = posted(&service, "/runs/2/cancel", json!({})).await;
    assert_eq!(cancelled, json!({"run": 2, "outcome": "cancelled"}));
    assert_eq!(posted(&service, "/runs/2/cancel", json!({})).await["outcome"], "ended_already");
    assert_eq!(ids(&service.get_json("/runs?state=pending", StatusCode::OK).await), [3, 1]);
    assert_eq!(ids(&service.get_json("/runs?limit=1", StatusCode::OK).await), [3]);
    let later = format!("/runs?since={}", NOW + 1);
    assert_eq!(ids(&service.get_json(&later, StatusCode::OK).await), [0_i64; 0]);
    let run = service.get_json("/runs/2", StatusCode::OK).await;
    let events: Vec<_> =
        run["history"].as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["created", "cancelled"]);
}

#[rstest]
#[case("GET", "/models/7", None, StatusCode::NOT_FOUND, "there is no model version 7")]
#[case("GET", "/models/x", None, StatusCode::UNPROCESSABLE_ENTITY, "the path is not valid")]
#[case("GET", "/runs/7", None, StatusCode::NOT_FOUND, "7")]
#[case("GET", "/schedules/x", None, StatusCode::NOT_FOUND, "`x`")]
#[case("GET", "/runs?state=asleep", None, StatusCode::UNPROCESSABLE_ENTITY, "state")]
#[case("GET", "/runs?since=noon", None, StatusCode::UNPROCESSABLE_ENTITY, "since must be a time")]
#[case("GET", "/runs?limit=0", None, StatusCode::UNPROCESSABLE_ENTITY, "limit")]
#[case("POST", "/models/7/promote", Some(json!({"reason": "x"})), StatusCode::NOT_FOUND, "no model version 7")]
#[case("POST", "/models/7/promote", Some(json!({})), StatusCode::UNPROCESSABLE_ENTITY, "reason is missing")]
#[case("POST", "/models/7/promote", Some(json!({"why": "x"})), StatusCode::UNPROCESSABLE_ENTITY, "unknown field `why`")]
#[case("POST", "/models/7/promote", Some(json!(["x", null])), StatusCode::UNPROCESSABLE_ENTITY, "no JSON object")]
#[case("POST", "/schedules/x/pause", Some(json!({})), StatusCode::NOT_FOUND, "`x`")]
#[case("POST", "/schedules/compact/resume", Some(json!({"catch_up": "some"})), StatusCode::UNPROCESSABLE_ENTITY, "some")]
#[case("POST", "/schedules/compact/trigger", Some(json!({"at": "noon"})), StatusCode::UNPROCESSABLE_ENTITY, "at must be a time")]
#[case("POST", "/schedules/compact/trigger", Some(json!([null, null])), StatusCode::UNPROCESSABLE_ENTITY, "no JSON object")]
#[case("POST", "/runs/7/cancel", Some(json!({})), StatusCode::NOT_FOUND, "7")]
#[case("POST", "/runs/7/cancel", Some(json!([])), StatusCode::UNPROCESSABLE_ENTITY, "no JSON object")]
#[tokio::test]
async fn what_cannot_be_done_is_refused_with_a_reason(
    #[case] method: Method,
    #[case] path: &str,
    #[case] body: Option<Value>,
    #[case] status: StatusCode,
    #[case] detail: &str,
) {
    let service = running().await;
    let mut request = service.request(method, path);
    if let Some(body) = body {
        request = with(request, &body);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), status, "{path}");
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let told = json_of(response).await["detail"].as_str().unwrap().to_owned();
    assert!(told.contains(detail), "{told}");
}

#[rstest]
#[case(&[("sec-fetch-site", "cross-site")], StatusCode::FORBIDDEN)]
#[case(&[("origin", "https://elsewhere.example")], StatusCode::FORBIDDEN)]
#[case(&[("origin", "null")], StatusCode::FORBIDDEN)]
#[case(&[("sec-fetch-site", "same-origin")], StatusCode::OK)]
#[case(&[("content-type", "text/plain")], StatusCode::UNSUPPORTED_MEDIA_TYPE)]
#[tokio::test]
async fn a_page_of_another_site_changes_nothing(#[case] headers: &[(&str, &str)], #[case] status: StatusCode) {
    let service = running().await;
    let mut request = service.request(Method::POST, "/schedules/compact/trigger").body("{}");
    if headers.iter().all(|(name, _)| *name != "content-type") {
        request = request.header("content-type", "application/json");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), status);
    let runs = service.get_json("/runs", StatusCode::OK).await;
    assert_eq!(runs.as_array().unwrap().len(), usize::from(status == StatusCode::OK));
}
