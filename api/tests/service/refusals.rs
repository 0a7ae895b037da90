//! What clients get for what cannot be answered: always a problem object with a `detail`.

use reqwest::{Method, Response, StatusCode};
use rstest::rstest;
use serde_json::Value;

use crate::harness::{Running, json_of, trained};

const VALID: &str = r#"{"symbol": "BTC-USDT", "z_score_price": 4.5, "z_score_log_return": 3.8, "z_score_volume": 1.5,
    "rolling_price_std": 0.008, "rolling_volume_std": 25}"#;

/// A valid body of this length, filled with spaces.
fn padded(length: usize) -> String {
    VALID.to_owned() + &" ".repeat(length - VALID.len())
}

/// Checks that the response is a whole problem object and gives it back.
async fn problem(response: Response, status: StatusCode) -> Value {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let path = response.url().path().to_owned();
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let problem = json_of(response).await;
    assert_eq!(problem["request_id"], id);
    assert_eq!(problem["status"], status.as_u16());
    assert_eq!(problem["title"], status.canonical_reason().unwrap());
    assert_eq!(problem["type"], "about:blank");
    assert_eq!(problem["instance"], path);
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{problem}");
    problem
}

#[rstest]
#[case::missing("\"symbol\"", "\"sign\"", "symbol is missing")]
#[case::text_for_a_number("4.5", "\"4.5\"", "z_score_price must be a number, not text")]
#[case::not_a_number("4.5", "NaN", "the body is not JSON")]
#[case::infinite("4.5", "Infinity", "the body is not JSON")]
#[case::too_great("4.5", "1e999", "the body is not JSON")]
#[case::above_the_limit("4.5", "100.5", "z_score_price must be within -100 and 100, not 100.5")]
#[case::below_the_limit("3.8", "-100.5", "z_score_log_return must be within -100 and 100, not -100.5")]
#[case::negative_deviation("25", "-1", "rolling_volume_std must be at least 0, not -1")]
#[case::strange_symbol("BTC-USDT", "bitcoin", "symbol is wrong: `bitcoin` is not a symbol")]
#[case::broken("}", "", "the body is not JSON")]
#[tokio::test]
async fn an_invalid_question_is_422(#[case] from: &str, #[case] to: &str, #[case] expected: &str) {
    let service = Running::start(Some(trained(1))).await;
    let problem = problem(service.predict(VALID.replace(from, to)).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(problem["detail"].as_str().unwrap().contains(expected), "{problem}");
    assert_eq!(service.feed.statistics().total.count, 0);
}

#[rstest]
#[case::missing("\"z_score_volume\"", "\"volume\"", "z_score_volume is missing")]
#[case::text_for_a_number("4.5", "\"4.5\"", "z_score_price must be a number, not text")]
#[case::above_the_limit("4.5", "100.5", "z_score_price must be within -100 and 100, not 100.5")]
#[case::strange_symbol("BTC-USDT", "bitcoin", "symbol is wrong: `bitcoin` is not a symbol")]
#[case::broken("}", "", "the body is not JSON")]
#[tokio::test]
async fn what_cannot_be_predicted_cannot_be_explained(#[case] from: &str, #[case] to: &str, #[case] expected: &str) {
    let service = Running::start(Some(trained(1))).await;
    let problem = problem(service.explain(VALID.replace(from, to)).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(problem["detail"].as_str().unwrap().contains(expected), "{problem}");
}

#[rstest]
#[case("limit=0")]
#[case("limit=501")]
#[case("limit=-1")]
#[case("limit=70000")]
#[case("limit=many")]
#[case("limit=1.5")]
#[case("limit=")]
#[case("symbol=btc")]
#[case("symbol=BTC%2FUSDT")]
#[case("limit=5&symbol=")]
#[tokio::test]
async fn an_invalid_query_is_422_and_names_the_parameter(#[case] query: &str) {
    let service = Running::start(None).await;
    let response = service.get(&format!("/latest-predictions?{query}")).await;
    let problem = problem(response, StatusCode::UNPROCESSABLE_ENTITY).await;
    let named = problem["errors"][0]["field"].as_str().unwrap();
    assert!(query.contains(&format!("{named}=")), "{problem}");
}

#[rstest]
#[case("/nothing")]
#[case("/predict/more")]
#[case("/health/")]
#[case("/../etc/passwd")]
#[tokio::test]
async fn an_unknown_path_is_404(#[case] path: &str) {
    let service = Running::start(None).await;
    let problem = problem(service.get(path).await, StatusCode::NOT_FOUND).await;
    assert!(problem["detail"].as_str().unwrap().contains("/docs"));
}

#[rstest]
#[case(Method::GET, "/predict", "POST")]
#[case(Method::DELETE, "/predict", "POST")]
#[case(Method::GET, "/explain", "POST")]
#[case(Method::POST, "/health", "GET, HEAD")]
#[case(Method::PUT, "/latest-predictions", "GET, HEAD")]
#[case(Method::TRACE, "/models/7", "GET, HEAD")]
#[case(Method::GET, "/runs/7/cancel", "POST")]
#[case(Method::POST, "/tables/events/rows", "GET, HEAD")]
#[case(Method::OPTIONS, "/", "GET, HEAD")]
#[case(Method::OPTIONS, "/predict", "POST")]
#[case(Method::DELETE, "/tables/events", "GET, HEAD")]
#[case(Method::GET, "/models/1/promote", "POST")]
#[case(Method::PATCH, "/schedules/compact", "GET, HEAD")]
#[case(Method::from_bytes(b"BREW").unwrap(), "/docs", "GET, HEAD")]
#[tokio::test]
async fn a_method_that_a_path_does_not_take_is_405_with_those_it_takes(
    #[case] method: Method,
    #[case] path: &str,
    #[case] allowed: &str,
) {
    let service = Running::start(None).await;
    let response = service.request(method, path).send().await.unwrap();
    assert_eq!(response.headers()["allow"], allowed);
    problem(response, StatusCode::METHOD_NOT_ALLOWED).await;
}

#[tokio::test]
async fn head_is_answered_like_get_without_a_body() {
    let service = Running::start(None).await;
    let response = service.request(Method::HEAD, "/health").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.bytes().await.unwrap().is_empty());
}

#[tokio::test]
async fn head_is_no_method_where_get_is_none() {
    let service = Running::start(None).await;
    let response = service.request(Method::HEAD, "/predict").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(response.headers()["allow"], "POST");
    assert!(response.bytes().await.unwrap().is_empty());
}

#[rstest]
#[case("text/plain")]
#[case("application/x-www-form-urlencoded")]
#[tokio::test]
async fn a_body_of_another_media_type_is_415(#[case] media_type: &str) {
    let service = Running::start(Some(trained(1))).await;
    let request = service.request(Method::POST, "/predict").header("content-type", media_type).body(VALID);
    problem(request.send().await.unwrap(), StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
}

#[rstest]
#[case(64 * 1_024, StatusCode::OK)]
#[case(64 * 1_024 + 1, StatusCode::PAYLOAD_TOO_LARGE)]
#[tokio::test]
async fn a_body_may_have_64_kib(#[case] length: usize, #[case] status: StatusCode) {
    let service = Running::start(Some(trained(1))).await;
    let response = service.predict(padded(length)).await;
    assert_eq!(response.status(), status);
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        problem(response, status).await;
    }
}

/// Sends a request whose length is not declared and gives back the head of the answer.
async fn send_chunked(service: &Running, body: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(service.address).await.unwrap();
    let head = "POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                transfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn the_limit_holds_for_a_body_of_undeclared_length() {
    let service = Running::start(Some(trained(1))).await;
    assert_eq!(send_chunked(&service, VALID).await, "HTTP/1.1 200");
    let long = padded(70_000);
    assert_eq!(send_chunked(&service, &long).await, "HTTP/1.1 413");
}

/// The problem in an answer that was read from a socket, which has this status.
fn problem_in((head, body): &(String, String), status: u16) -> Value {
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    assert!(head.contains("content-type: application/problem+json"), "{head}");
    let problem: Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["status"], status);
    let id = problem["request_id"].as_str().unwrap();
    assert!(head.contains(&format!("x-request-id: {id}")), "{head}");
    problem
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
}

#[rstest]
#[case::half_a_byte("/tables/%z", 400, "the path is not valid: a % is not followed by two hexadecimal digits")]
#[case::no_utf_8("/tables/%ff", 400, "the path is not valid: its percent-encoded bytes are not UTF-8")]
#[case::nul("/tables/a%00b", 400, "the path is not valid: it holds a NUL byte")]
#[case::half_a_byte_in_a_query(
    "/stats?a=%2",
    400,
    "the query is not valid: a % is not followed by two hexadecimal digits"
)]
#[case::no_utf_8_in_a_query("/latest-predictions?symbol=%ff", 400, "the query is not valid: its percent-encoded bytes")]
#[case::nul_in_a_query("/runs?since=%00", 400, "the query is not valid: it holds a NUL byte")]
#[case::unknown_path("/nothing?limt=5", 404, "there is nothing at this path")]
#[case::misspelt("/runs?limt=5", 422, "limt is not a parameter of this path; it takes state, since, limit")]
#[case::misspelt_in_an_open_path(
    "/tables/events/rows?known-at=2024-03-09T16:00:00Z",
    422,
    "known-at is not a parameter"
)]
#[case::twice("/latest-predictions?limit=1&limit=2", 422, "the query is not valid: limit is given more than once")]
#[case::a_word_for_a_number("/models/first", 422, "the path is not valid")]
#[case::a_state_that_is_none("/runs?state=late", 422, "the query is not valid: state")]
#[case::asterisk("*", 404, "there is nothing at this path")]
#[tokio::test]
async fn a_target_that_nobody_can_mean_is_refused(#[case] target: &str, #[case] status: u16, #[case] expected: &str) {
    let service = Running::start(None).await;
    let problem = problem_in(&service.answer_to(&get(target)).await, status);
    assert!(problem["detail"].as_str().unwrap().contains(expected), "{problem}");
}

#[rstest]
#[case::of_the_original_service("/latest-predictions?limit=1&_=1710000000")]
#[case::where_there_are_no_parameters("/health?verbose")]
#[case::encoded("/latest-predictions?symbol=BTC%2DUSDT")]
#[case::empty("/runs?")]
#[case::absolute("http://here/health")]
#[tokio::test]
async fn a_target_may_hold_what_does_no_harm(#[case] target: &str) {
    let service = Running::start(None).await;
    let (head, _) = service.answer_to(&get(target)).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[tokio::test]
async fn a_target_may_have_8_kib() {
    let service = Running::start(None).await;
    let padded = |length: usize| get(&format!("/health?{}", "x".repeat(length - "/health?".len())));
    let (head, _) = service.answer_to(&padded(8 * 1_024)).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let problem = problem_in(&service.answer_to(&padded(8 * 1_024 + 1)).await, 414);
    assert_eq!(problem["detail"], "the path and the query have 8193 bytes; send at most 8192");
}

#[rstest]
#[case::chunk("transfer-encoding: chunked\r\n\r\n30\r\n{\"symbol\": ")]
#[case::chunks("transfer-encoding: chunked\r\n\r\n1\r\n{\r\n")]
#[case::no_chunk("transfer-encoding: chunked\r\n\r\nmany\r\n{}")]
#[case::length("content-length: 300\r\n\r\n{\"symbol\": ")]
#[tokio::test]
async fn a_body_that_is_cut_short_is_400(#[case] rest: &str) {
    let service = Running::start(Some(trained(1))).await;
    let request = format!("POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{rest}");
    let problem = problem_in(&service.answer_to_all_of(&request).await, 400);
    assert!(problem["detail"].as_str().unwrap().starts_with("the body cannot be read"), "{problem}");
    assert_eq!(service.feed.statistics().total.count, 0);
}

#[rstest]
#[case("/predict", "the body is empty; send a JSON object with six fields")]
#[case("/explain", "the body is empty; send a JSON object with six fields")]
#[case("/predict/batch", "the body is not a JSON array of objects")]
#[case("/events", "the body has no valid event: it is empty")]
#[case("/models/1/promote", "reason is missing")]
#[tokio::test]
async fn an_empty_body_is_422_where_one_is_needed(#[case] path: &str, #[case] expected: &str) {
    let service = Running::start(Some(trained(1))).await;
    let response = service.request(Method::POST, path).send().await.unwrap();
    let problem = problem(response, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(problem["detail"].as_str().unwrap().contains(expected), "{problem}");
}

#[rstest]
#[case("/explain")]
#[case("/predict/batch")]
#[case("/events")]
#[case("/models/1/promote")]
#[case("/runs/1/cancel")]
#[tokio::test]
async fn a_body_of_a_form_is_415_wherever_json_is_taken(#[case] path: &str) {
    let service = Running::start(Some(trained(1))).await;
    let media_type = "application/x-www-form-urlencoded";
    let request = service.request(Method::POST, path).header("content-type", media_type).body("a=b");
    problem(request.send().await.unwrap(), StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
}

#[tokio::test]
async fn what_cannot_be_read_now_is_503_with_the_time_to_ask_again() {
    let service = Running::start(Some(trained(1))).await;
    service.registry.close().await;
    let response = service.get("/models").await;
    assert_eq!(response.headers()["retry-after"], "5");
    problem(response, StatusCode::SERVICE_UNAVAILABLE).await;
}
