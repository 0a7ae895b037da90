//! `GET` and `POST /sql`: what is answered, and what a guest cannot do.

use std::sync::Arc;

use lake::PartitionFlush;
use reqwest::{Method, Response, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Running, json_of, live};

/// A service over a table `predictions` with twenty rows, ten of them in version 1.
async fn running() -> Running {
    let service = Running::start(None).await;
    for start in [0, 10] {
        let next = start + 10;
        let predictions = (start..next).map(|offset| live(offset, "BTC-USDT", 0.125)).collect();
        let flush = PartitionFlush { start, next, predictions, ..PartitionFlush::default() };
        service.lake.flush("topic", Arc::new(vec![flush])).await.unwrap();
    }
    service
}

async fn asked(service: &Running, query: &[(&str, &str)]) -> Response {
    service.request(Method::GET, "/sql").query(query).send().await.unwrap()
}

async fn posted(service: &Running, query: &str, body: &Value) -> Response {
    let request = service.request(Method::POST, &format!("/sql{query}")).header("content-type", "application/json");
    request.body(body.to_string()).send().await.unwrap()
}

#[tokio::test]
async fn a_statement_is_answered_with_versions_columns_and_rows() {
    let service = running().await;
    let sql = "SELECT (SELECT count(*) FROM predictions) AS now, count(*) AS before, max(timestamp) AS last \
               FROM predictions VERSION AS OF 1";
    let response = asked(&service, &[("q", sql)]).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["x-truncated"], "false");
    let versions = response.headers()["x-delta-versions"].to_str().unwrap().to_owned();
    assert!(versions.contains("predictions=2") && versions.contains("predictions=1"), "{versions}");
    let mut answer = json_of(response).await;
    answer["versions"].as_array_mut().unwrap().sort_by_key(|read| read["version"].as_u64());
    let expected = json!({
        "versions": [{"table": "predictions", "version": 1}, {"table": "predictions", "version": 2}],
        "columns": [
            {"name": "now", "type": "Int64"},
            {"name": "before", "type": "Int64"},
            {"name": "last", "type": "Timestamp(\u{b5}s, \"UTC\")"}
        ],
        "rows": [{"now": 20, "before": 10, "last": "2024-03-09T16:00:09.000000Z"}],
        "truncated": false
    });
    assert_eq!(answer, expected);
    let posted = json_of(posted(&service, "", &json!({"sql": sql})).await).await;
    assert_eq!((&posted["rows"], &posted["columns"]), (&expected["rows"], &expected["columns"]));
}

#[rstest]
#[case("json", "application/json")]
#[case("ndjson", "application/x-ndjson")]
#[case("csv", "text/csv")]
#[case("arrow", "application/vnd.apache.arrow.stream")]
#[case("parquet", "application/vnd.apache.parquet")]
#[tokio::test]
async fn rows_left_out_are_told_in_every_format(#[case] format: &str, #[case] media_type: &str) {
    let service = running().await;
    let sql = "SELECT \"offset\" FROM predictions ORDER BY 1";
    for (limit, truncated) in [("20", "false"), ("19", "true")] {
        let response = asked(&service, &[("q", sql), ("format", format), ("limit", limit)]).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], media_type);
        assert_eq!(response.headers()["x-truncated"], truncated);
        if format == "json" {
            let answer = json_of(response).await;
            assert_eq!(answer["truncated"], truncated == "true");
            assert_eq!(answer["rows"].as_array().unwrap().len().to_string(), limit);
        }
    }
}

#[tokio::test]
async fn a_long_answer_that_leaves_rows_out_breaks_off_where_only_its_end_could_say_so() {
    let service = running().await;
    let wide = format!(
        "SELECT concat('{}', a.\"offset\") AS t FROM predictions a, predictions b, predictions c",
        "x".repeat(1_000)
    );
    // 8 000 rows of 1 kB are more than is held back.
    let response = posted(&service, "?format=csv&limit=7000", &json!({"sql": &wide})).await;
    assert_eq!((response.status(), response.headers().get("x-truncated")), (StatusCode::OK, None));
    assert!(response.bytes().await.is_err());
    let whole = posted(&service, "?format=csv&limit=8000", &json!({"sql": &wide})).await;
    assert_eq!(whole.text().await.unwrap().lines().count(), 8_001);
    let told = json_of(posted(&service, "?limit=7000", &json!({"sql": &wide})).await).await;
    assert_eq!((&told["truncated"], told["rows"].as_array().unwrap().len()), (&json!(true), 7_000));
}

#[rstest]
#[case("SELECT * FROM trades", StatusCode::NOT_FOUND, "there is no table `trades`")]
#[case("SELECT * FROM predictions VERSION AS OF 9", StatusCode::NOT_FOUND, "its newest is 2")]
#[case("SELECT * FROM '/etc/passwd'", StatusCode::NOT_FOUND, "there is no table")]
#[case("SELECT * FROM information_schema.tables", StatusCode::NOT_FOUND, "there is no table")]
#[case("SELECT * FROM generate_series(1, 1000000000000)", StatusCode::NOT_FOUND, "there is no table")]
#[case("SELECT prize FROM predictions", StatusCode::UNPROCESSABLE_ENTITY, "prize")]
#[case("SELECT 1; SELECT 2", StatusCode::UNPROCESSABLE_ENTITY, "this text has 2")]
#[case("DROP TABLE predictions", StatusCode::UNPROCESSABLE_ENTITY, "DROP is none")]
#[case("SET datafusion.execution.batch_size = 1", StatusCode::UNPROCESSABLE_ENTITY, "SET is none")]
#[case("COPY predictions TO '/srv/a.csv'", StatusCode::UNPROCESSABLE_ENTITY, "COPY is none")]
#[case("SELECT repeat('a', 1000000000)", StatusCode::UNPROCESSABLE_ENTITY, "repeat")]
#[case("SELECT 1 / 0", StatusCode::UNPROCESSABLE_ENTITY, "ivide by zero")]
#[case("SELECT 1 AS a, 2 AS a", StatusCode::UNPROCESSABLE_ENTITY, "")]
#[case(
    "WITH RECURSIVE n AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM n) SELECT a FROM n",
    StatusCode::UNPROCESSABLE_ENTITY,
    ""
)]
#[tokio::test]
async fn what_is_not_answered_is_refused_with_a_reason(
    #[case] sql: &str,
    #[case] status: StatusCode,
    #[case] reason: &str,
) {
    let service = running().await;
    for response in [asked(&service, &[("q", sql)]).await, posted(&service, "", &json!({"sql": sql})).await] {
        assert_eq!(response.status(), status, "{sql}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let problem = json_of(response).await;
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(reason), "{detail}");
    }
}

#[rstest]
#[case("(".repeat(5_000))]
#[case("1+".repeat(4_900))]
#[case("NOT ".repeat(9_000))]
#[case("[".repeat(60))]
#[tokio::test]
async fn a_statement_as_deep_as_a_body_can_be_leaves_the_service_alive(#[case] beginning: String) {
    let service = running().await;
    let sql = format!("SELECT {beginning}1");
    let response = posted(&service, "", &json!({"sql": sql})).await;
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let counted = asked(&service, &[("q", "SELECT count(*) AS c FROM predictions"), ("format", "csv")]).await;
    assert_eq!(counted.text().await.unwrap(), "c\n20\n");
}

#[rstest]
#[case(json!({}), StatusCode::UNPROCESSABLE_ENTITY)]
#[case(json!({"sql": 1}), StatusCode::UNPROCESSABLE_ENTITY)]
#[case(json!({"sql": "SELECT 1 AS a", "limits": 1}), StatusCode::UNPROCESSABLE_ENTITY)]
#[case(json!({"sql": "a".repeat(70_000)}), StatusCode::PAYLOAD_TOO_LARGE)]
#[tokio::test]
async fn a_body_is_one_object_of_limited_length(#[case] body: Value, #[case] status: StatusCode) {
    let service = Running::start(None).await;
    assert_eq!(posted(&service, "", &body).await.status(), status);
}

#[tokio::test]
async fn a_body_that_is_no_json_and_one_of_another_site_are_refused() {
    let service = Running::start(None).await;
    let text = service.request(Method::POST, "/sql").header("content-type", "text/plain").body("SELECT 1");
    assert_eq!(text.send().await.unwrap().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let other = service.request(Method::POST, "/sql").header("sec-fetch-site", "cross-site").body("{}");
    assert_eq!(other.send().await.unwrap().status(), StatusCode::FORBIDDEN);
}

#[rstest]
#[case(&[], "q")]
#[case(&[("q", "SELECT 1 AS a"), ("limit", "0")], "limit")]
#[case(&[("q", "SELECT 1 AS a"), ("limit", "10001")], "limit is at most 10000 in JSON")]
#[case(&[("q", "SELECT 1 AS a"), ("limit", "1000001"), ("format", "csv")], "limit")]
#[case(&[("q", "SELECT 1 AS a"), ("format", "xml")], "format")]
#[tokio::test]
async fn parameters_have_limits(#[case] query: &[(&str, &str)], #[case] reason: &str) {
    let service = Running::start(None).await;
    let response = asked(&service, query).await;
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let problem = json_of(response).await;
    assert!(problem["detail"].as_str().unwrap().contains(reason), "{problem}");
}

#[tokio::test]
async fn a_format_that_there_is_not_is_not_acceptable() {
    let service = Running::start(None).await;
    let request = service.request(Method::GET, "/sql").query(&[("q", "SELECT 1 AS a")]).header("accept", "image/png");
    assert_eq!(request.send().await.unwrap().status(), StatusCode::NOT_ACCEPTABLE);
}
