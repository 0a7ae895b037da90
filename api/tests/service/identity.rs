//! How an answer can be told from others: the id of its request, and whether its data are made up.

use std::collections::BTreeSet;

use jobs::feed::FeedItem;
use reqwest::{Method, Response, StatusCode};
use rstest::rstest;
use serde_json::Value;

use crate::harness::{NOW, Running, item, json_of};

fn id_of(response: &Response) -> String {
    response.headers()["x-request-id"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_answer_has_an_id_of_its_own() {
    let service = Running::start(None).await;
    let mut ids = BTreeSet::new();
    for path in ["/health", "/", "/metrics", "/stream", "/tables/events/rows?format=csv", "/readyz", "/nothing"] {
        ids.insert(id_of(&service.get(path).await));
    }
    for method in [Method::HEAD, Method::OPTIONS, Method::POST] {
        ids.insert(id_of(&service.request(method, "/health").send().await.unwrap()));
    }
    assert_eq!(ids.len(), 10);
    // The start of the service and its process tell it from every other.
    let process = format!("{:x}-{:x}-", NOW * 1_000_000, std::process::id());
    assert!(ids.iter().all(|id| id.starts_with(&process)), "{ids:?}");
}

#[rstest]
#[case("order-7.A_b", true)]
#[case("two words", false)]
#[case("<script>", false)]
#[tokio::test]
async fn the_id_of_a_client_is_taken_over_where_it_is_plain(#[case] id: &str, #[case] taken: bool) {
    let service = Running::start(None).await;
    let response = service.request(Method::GET, "/nothing").header("x-request-id", id).send().await.unwrap();
    let answered = id_of(&response);
    assert_eq!(answered == id, taken);
    assert_eq!(json_of(response).await["request_id"], answered);
}

#[tokio::test]
async fn a_trace_changes_nothing_about_an_answer() {
    let service = Running::start(None).await;
    for parent in ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "what is this"] {
        let response = service.request(Method::GET, "/health").header("traceparent", parent).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(!response.headers().contains_key("traceparent"));
    }
}

/// The objects about data, and what they say about being made up.
async fn marks(service: &Running) -> Vec<(&'static str, Value)> {
    let mut marks = Vec::new();
    for path in ["/stats", "/system-status", "/tables/events", "/tables/events/history"] {
        let answer = service.get_json(path, StatusCode::OK).await;
        marks.push((path, answer.get("simulated").cloned().unwrap_or_default()));
    }
    marks
}

#[tokio::test]
async fn answers_of_a_simulated_market_say_so() {
    let service = Running::start(None).await;
    for path in ["/health", "/latest-predictions", "/tables/events/rows?format=csv", "/docs", "/nothing"] {
        assert_eq!(service.get(path).await.headers()["x-simulated"], "true", "{path}");
    }
    assert!(marks(&service).await.iter().all(|(_, mark)| *mark == Value::Bool(true)));
    let health = service.get_json("/health", StatusCode::OK).await;
    assert_eq!(health.get("simulated"), None);
}

#[tokio::test]
async fn answers_of_a_real_market_say_nothing_about_it_except_of_a_prediction_for_a_simulated_one() {
    let service = Running::start_on_real_data().await;
    for path in ["/health", "/nothing"] {
        assert!(!service.get(path).await.headers().contains_key("x-simulated"), "{path}");
    }
    assert!(marks(&service).await.iter().all(|(_, mark)| mark.is_null()));
    let real = FeedItem { is_simulated: false, ..item(1, "BTC-USDT", 0.5) };
    service.feed.push_live([real, item(2, "TEST-USDT", 0.5)]);
    let shown = service.get_json("/latest-predictions", StatusCode::OK).await;
    assert_eq!((shown[0].get("simulated"), shown[1].get("simulated")), (None, Some(&Value::Bool(true))));
}
