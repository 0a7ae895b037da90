//! Tables over HTTP, from a real lake: two markets in turn, an event a second, the record's offset its second.

use std::{collections::BTreeSet, io::Cursor, sync::Arc};

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int64Type,
    ipc::reader::StreamReader,
};
use domain::{Fold, Offset, Output, RawRecord, Record, Timestamp};
use lake::{Lake, PartitionFlush, TableName};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use reqwest::{Method, Response, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{NOW, Running, event, json_of};

const MARKETS: [&str; 2] = ["BTC-USDT", "ETH-USDT"];

/// Commits the rows of offsets `start` to `next`, which were appended a second after their event.
async fn commit(lake: &Lake, start: Offset, next: Offset) {
    let (mut fold, mut output) = (Fold::new(0, 0), Output::default());
    for offset in 0..next {
        if offset == start {
            output = Output::default();
        }
        let market = if offset % 2 == 0 { MARKETS[0] } else { MARKETS[1] };
        let append_time = Timestamp::from_seconds(NOW + offset + 1);
        let raw = RawRecord { offset, append_time, key: b"", value: b"" };
        fold.apply(raw, Ok(Record::Event(event(market, offset))), &mut output);
    }
    let replay = fold.replay();
    let flush = PartitionFlush { partition: 0, start, next, replay, output, ..PartitionFlush::default() };
    lake.flush("topic", Arc::new(vec![flush])).await.unwrap();
}

/// A service over tables whose version 1 has ten events and whose version 2 has twenty.
async fn running() -> Running {
    let service = Running::start(None).await;
    commit(&service.lake, 0, 10).await;
    commit(&service.lake, 10, 20).await;
    service
}

async fn rows(service: &Running, query: &str) -> Value {
    service.get_json(&format!("/tables/events/rows{query}"), StatusCode::OK).await
}

fn offsets(answer: &Value) -> Vec<i64> {
    answer["rows"].as_array().unwrap().iter().map(|row| row["offset"].as_i64().unwrap()).collect()
}

async fn told(response: Response) -> String {
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    json_of(response).await["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn tables_are_listed_with_what_is_in_them() {
    let service = running().await;
    let tables = service.get_json("/tables", StatusCode::OK).await;
    let names: Vec<_> = tables.as_array().unwrap().iter().map(|table| table["name"].as_str().unwrap()).collect();
    let expected: Vec<_> = TableName::ALL.into_iter().rev().map(TableName::as_str).collect();
    assert_eq!(names, expected);
    let events = &tables[0];
    assert_eq!((&events["version"], &events["rows"], &events["files"]), (&json!(2), &json!(20), &json!(4)));
    assert!(events["bytes"].as_u64().unwrap() > 0, "{events}");
    assert!(events["about"].as_str().unwrap().starts_with("admitted events"), "{events}");
}

#[tokio::test]
async fn a_table_is_shown_with_its_columns_and_the_versions_that_can_be_read() {
    let service = running().await;
    let events = service.get_json("/tables/events", StatusCode::OK).await;
    assert_eq!((&events["name"], &events["rows"]), (&json!("events"), &json!(20)));
    assert_eq!((&events["oldest_version"], &events["newest_version"]), (&json!(0), &json!(2)));
    let columns = events["columns"].as_array().unwrap();
    assert_eq!(columns.len(), TableName::Events.schema().fields().len());
    assert_eq!(columns[0], json!({"name": "symbol", "type": "Utf8", "nullable": false}));
    assert!(columns.contains(&json!({"name": "price", "type": "Float64", "nullable": false})), "{events}");
    assert!(columns.contains(&json!({"name": "trade_id", "type": "Int64", "nullable": true})), "{events}");
    service.lake.compact(TableName::Events).await.unwrap();
    service.lake.vacuum(TableName::Events, 0, &[]).await.unwrap();
    let events = service.get_json("/tables/events", StatusCode::OK).await;
    assert_eq!((&events["oldest_version"], &events["rows"], &events["files"]), (&json!(3), &json!(20), &json!(2)));
}

#[tokio::test]
async fn the_history_of_a_table_is_its_newest_commits() {
    let service = running().await;
    let history = service.get_json("/tables/events/history", StatusCode::OK).await;
    assert_eq!((&history["table"], &history["version"]), (&json!("events"), &json!(2)));
    let commits = history["commits"].as_array().unwrap();
    let versions: Vec<_> = commits.iter().map(|commit| commit["version"].as_u64().unwrap()).collect();
    assert_eq!(versions, [2, 1, 0]);
    assert_eq!(commits[0]["operation"], "STREAMING UPDATE");
    let time = commits[0]["time"].as_str().unwrap();
    assert!(time.ends_with('Z') && Timestamp::parse(time).is_ok(), "{time}");
    let newest = service.get_json("/tables/events/history?limit=1", StatusCode::OK).await;
    assert_eq!(newest["commits"], json!([commits[0]]));
    // The time of a commit is a time to ask for as it is.
    let then = rows(&service, &format!("?as_of={time}&limit=1")).await;
    assert_eq!((&then["version"], offsets(&then)), (&json!(2), vec![19]));
}

#[tokio::test]
async fn rows_come_newest_first_with_every_column() {
    let service = running().await;
    let response = service.get("/tables/events/rows?limit=2").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["x-delta-version"], "2");
    let answer = json_of(response).await;
    assert_eq!((&answer["table"], &answer["version"]), (&json!("events"), &json!(2)));
    assert_eq!(offsets(&answer), [19, 18]);
    let newest = answer["rows"][0].as_object().unwrap();
    assert_eq!(newest["symbol"], "ETH-USDT");
    assert_eq!(newest["timestamp"], "2024-03-09T16:00:19.000000Z");
    assert_eq!((&newest["price"], &newest["side"]), (&json!(100.5), &Value::Null));
    let columns = answer["columns"].as_array().unwrap();
    assert_eq!(columns.len(), newest.len());
    assert!(columns.iter().all(|column| newest.contains_key(column.as_str().unwrap())), "{answer}");
}

#[rstest]
#[case("?symbol=BTC-USDT&limit=3", &[18, 16, 14])]
#[case("?from=2024-03-09T16:00:05Z&to=2024-03-09T16:00:08Z", &[7, 6, 5])]
#[case("?to=1710000002", &[1, 0])]
#[case("?from=2024-03-09T16:00:15Z&symbol=ETH-USDT", &[19, 17, 15])]
#[case("?symbol=NEW-COIN", &[])]
#[case("?version=1&limit=2", &[9, 8])]
#[case("?version=0", &[])]
#[case("?as_of=2999-01-01&limit=1", &[19])]
#[case("?known_at=2024-03-09T16:00:03Z", &[2, 1, 0])]
#[case("?known_at=2024-03-09T16:00:03Z&symbol=BTC-USDT", &[2, 0])]
#[tokio::test]
async fn rows_are_those_that_are_asked_for(#[case] query: &str, #[case] expected: &[i64]) {
    let service = running().await;
    let answer = rows(&service, query).await;
    assert_eq!(offsets(&answer), expected);
    let version: u64 = query.strip_prefix("?version=").map_or(2, |rest| rest[..1].parse().unwrap());
    assert_eq!(answer["version"], version);
}

#[tokio::test]
async fn columns_come_in_the_order_asked_for() {
    let service = running().await;
    let answer = rows(&service, "?columns=trade_id,symbol&limit=1").await;
    assert_eq!(
        answer,
        json!({"table": "events", "version": 2, "columns": ["trade_id", "symbol"],
               "rows": [{"trade_id": 19, "symbol": "ETH-USDT"}], "next": answer["next"]})
    );
}

#[tokio::test]
async fn rows_of_a_table_without_markets_are_read_too() {
    let service = running().await;
    let answer = service.get_json("/tables/dead_letters/rows", StatusCode::OK).await;
    assert_eq!((&answer["version"], &answer["rows"]), (&json!(0), &json!([])));
}

#[rstest]
#[case("&format=csv", "*/*", "text/csv", "offset,symbol\n1,ETH-USDT\n0,BTC-USDT\n")]
#[case("", "text/csv", "text/csv", "offset,symbol\n1,ETH-USDT\n0,BTC-USDT\n")]
#[case(
    "&format=ndjson",
    "text/csv",
    "application/x-ndjson",
    "{\"offset\":1,\"symbol\":\"ETH-USDT\"}\n{\"offset\":0,\"symbol\":\"BTC-USDT\"}\n"
)]
#[case(
    "",
    "text/html, */*;q=0.1",
    "application/json",
    "{\"table\":\"events\",\"version\":2,\"columns\":[\"offset\",\"symbol\"],\"rows\":[{\"offset\":1,\"symbol\":\"ETH-USDT\"},{\"offset\":0,\"symbol\":\"BTC-USDT\"}],\"next\":null}"
)]
#[tokio::test]
async fn rows_have_the_format_that_is_asked_for(
    #[case] format: &str,
    #[case] accept: &str,
    #[case] media_type: &str,
    #[case] expected: &str,
) {
    let service = running().await;
    let path = format!("/tables/events/rows?columns=offset,symbol&to=1710000002{format}");
    let response = service.request(Method::GET, &path).header("accept", accept).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], media_type);
    assert_eq!(response.headers()["x-delta-version"], "2");
    assert_eq!(response.text().await.unwrap(), expected);
}

#[rstest]
#[case("/tables/trades", StatusCode::NOT_FOUND, "there is no table `trades`: there are events, ")]
#[case("/tables/trades/history", StatusCode::NOT_FOUND, "there is no table `trades`")]
#[case("/tables/trades/rows", StatusCode::NOT_FOUND, "there is no table `trades`")]
#[case("/tables/events/rows?version=3", StatusCode::NOT_FOUND, "no version 3: its newest is 2")]
#[case("/tables/events/rows?as_of=2009-01-03", StatusCode::NOT_FOUND, "did not exist at 2009-01-03")]
#[case(
    "/tables/events/rows?columns=price,prize",
    StatusCode::UNPROCESSABLE_ENTITY,
    "`prize`: it has symbol, timestamp"
)]
#[case("/tables/events/rows?columns=*", StatusCode::UNPROCESSABLE_ENTITY, "has no column `*`")]
#[case("/tables/events/rows?columns=%22offset%22", StatusCode::UNPROCESSABLE_ENTITY, "has no column")]
#[case("/tables/events/rows?symbol=btc", StatusCode::UNPROCESSABLE_ENTITY, "symbol")]
#[case("/tables/gaps/rows?symbol=BTC-USDT", StatusCode::UNPROCESSABLE_ENTITY, "the rows of `gaps` have no symbol")]
#[case("/tables/events/rows?from=noon", StatusCode::UNPROCESSABLE_ENTITY, "from must be a time")]
#[case(
    "/tables/events/rows?from=2024-03-10&to=2024-03-09",
    StatusCode::UNPROCESSABLE_ENTITY,
    "`from` must be before `to`"
)]
#[case(
    "/tables/events/rows?version=1&as_of=2024-03-09",
    StatusCode::UNPROCESSABLE_ENTITY,
    "only one of version, as_of"
)]
#[case(
    "/tables/events/rows?as_of=2024-03-09&known_at=2024-03-09",
    StatusCode::UNPROCESSABLE_ENTITY,
    "only one of version"
)]
#[case("/tables/events/rows?version=-1", StatusCode::UNPROCESSABLE_ENTITY, "version")]
#[case("/tables/events/rows?limit=0", StatusCode::UNPROCESSABLE_ENTITY, "limit")]
#[case("/tables/events/rows?limit=10001", StatusCode::UNPROCESSABLE_ENTITY, "limit is at most 10000 in JSON")]
#[case("/tables/events/rows?limit=1000001&format=csv", StatusCode::UNPROCESSABLE_ENTITY, "limit")]
#[case("/tables/events/rows?format=xml", StatusCode::UNPROCESSABLE_ENTITY, "format")]
#[case("/tables/events/rows?columns=price,price", StatusCode::UNPROCESSABLE_ENTITY, "`price` is named twice")]
#[case("/tables/events/rows?cursor=nonsense", StatusCode::UNPROCESSABLE_ENTITY, "the cursor is none of this service")]
#[case("/tables/trades/changes?from_version=0", StatusCode::NOT_FOUND, "there is no table `trades`")]
#[case("/tables/events/changes", StatusCode::UNPROCESSABLE_ENTITY, "from_version")]
#[case("/tables/events/changes?from_version=3", StatusCode::UNPROCESSABLE_ENTITY, "not from 3 to 2")]
#[case("/tables/events/changes?from_version=2&to_version=1", StatusCode::UNPROCESSABLE_ENTITY, "not from 2 to 1")]
#[case("/tables/events/changes?from_version=0&to_version=9", StatusCode::NOT_FOUND, "no version 9: its newest is 2")]
#[case("/tables/events/history?limit=1001", StatusCode::UNPROCESSABLE_ENTITY, "limit")]
#[tokio::test]
async fn what_is_not_there_or_not_right_is_refused_with_a_reason(
    #[case] path: &str,
    #[case] status: StatusCode,
    #[case] detail: &str,
) {
    let service = running().await;
    let response = service.get(path).await;
    assert_eq!(response.status(), status, "{path}");
    let told = told(response).await;
    assert!(told.contains(detail), "{told}");
}

#[tokio::test]
async fn a_version_that_upkeep_removed_is_gone() {
    let service = running().await;
    service.lake.compact(TableName::Events).await.unwrap();
    service.lake.vacuum(TableName::Events, 0, &[]).await.unwrap();
    let response = service.get("/tables/events/rows?version=1").await;
    assert_eq!(response.status(), StatusCode::GONE);
    let told = told(response).await;
    assert!(told.contains("version 1 of table `events` was removed by upkeep: versions 3 to"), "{told}");
    assert_eq!(offsets(&rows(&service, "?version=3&limit=2").await), [19, 18]);
}

#[tokio::test]
async fn what_is_not_offered_is_not_acceptable() {
    let service = running().await;
    for path in ["/tables/events/rows", "/tables/events/changes?from_version=0"] {
        let request = service.request(Method::GET, path).header("accept", "image/png, text/csv;q=0");
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_ACCEPTABLE);
        let told = told(response).await;
        assert!(told.contains("there are application/json, application/x-ndjson, text/csv, application/vnd"), "{told}");
    }
}

fn offsets_of(batch: &RecordBatch) -> Vec<i64> {
    batch.column(0).as_primitive::<Int64Type>().values().to_vec()
}

/// The offsets in an answer, whatever its format is.
async fn read(response: Response) -> Vec<i64> {
    let media_type = response.headers()["content-type"].to_str().unwrap().to_owned();
    let bytes = response.bytes().await.unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match media_type.as_str() {
        "application/json" => offsets(&serde_json::from_slice(&bytes).unwrap()),
        "application/x-ndjson" => {
            let object = |line: &str| serde_json::from_str::<Value>(line).unwrap()["offset"].as_i64().unwrap();
            text.lines().map(object).collect()
        }
        "text/csv" => text.lines().skip(1).map(|line| line.parse().unwrap()).collect(),
        "application/vnd.apache.arrow.stream" => {
            let batches = StreamReader::try_new(Cursor::new(bytes), None).unwrap();
            batches.flat_map(|batch| offsets_of(&batch.unwrap())).collect()
        }
        "application/vnd.apache.parquet" => {
            let batches = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
            batches.flat_map(|batch| offsets_of(&batch.unwrap())).collect()
        }
        other => panic!("{other}"),
    }
}

#[rstest]
#[case("json")]
#[case("ndjson")]
#[case("csv")]
#[case("arrow")]
#[case("parquet")]
#[tokio::test]
async fn pages_lead_to_each_other_in_the_version_of_the_first(#[case] format: &str) {
    let service = running().await;
    let mut path = format!("/tables/events/rows?columns=offset&limit=7&format={format}");
    let mut found = Vec::new();
    loop {
        let response = service.get(&path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert_eq!(response.headers()["x-delta-version"], "2");
        let headers = response.headers();
        let cursor = headers.get("x-next-cursor").map(|value| value.to_str().unwrap().to_owned());
        let link = headers.get("link").map(|value| value.to_str().unwrap().to_owned());
        let page = read(response).await;
        if found.is_empty() {
            // What is committed between two pages is in neither of them.
            commit(&service.lake, 20, 30).await;
        }
        found.extend(page);
        let Some(cursor) = cursor else {
            assert_eq!(link, None);
            break;
        };
        path = format!("/tables/events/rows?columns=offset&limit=7&format={format}&cursor={cursor}");
        assert_eq!(link.unwrap(), format!("<{path}>; rel=\"next\""));
    }
    assert_eq!(found, (0..20).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn the_next_page_of_json_is_named_in_its_body() {
    let service = running().await;
    let first = rows(&service, "?symbol=BTC-USDT&limit=4&known_at=2024-03-09T16:00:15Z").await;
    assert_eq!(offsets(&first), [14, 12, 10, 8]);
    let cursor = first["next"].as_str().unwrap();
    let second =
        rows(&service, &format!("?symbol=BTC-USDT&limit=10&known_at=2024-03-09T16:00:15Z&cursor={cursor}")).await;
    assert_eq!((offsets(&second), &second["next"]), (vec![6, 4, 2, 0], &Value::Null));
}

#[tokio::test]
async fn a_cursor_is_refused_where_it_cannot_lead_on() {
    let service = running().await;
    let first = rows(&service, "?symbol=BTC-USDT&limit=4").await;
    let cursor = first["next"].as_str().unwrap();
    for other in ["", "?symbol=ETH-USDT", "?symbol=BTC-USDT&to=1710000009", "?symbol=BTC-USDT&columns=price"] {
        let sign = if other.is_empty() { '?' } else { '&' };
        let response = service.get(&format!("/tables/events/rows{other}{sign}cursor={cursor}")).await;
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY, "{other}");
        let told = told(response).await;
        assert!(told.contains("the cursor is of another query"), "{told}");
    }
    service.lake.compact(TableName::Events).await.unwrap();
    service.lake.vacuum(TableName::Events, 0, &[]).await.unwrap();
    let response = service.get(&format!("/tables/events/rows?symbol=BTC-USDT&cursor={cursor}")).await;
    assert_eq!(response.status(), StatusCode::GONE);
    assert!(told(response).await.contains("version 2 of table `events` was removed by upkeep"));
}

#[rstest]
#[case("/tables/events/rows?columns=offset&limit=3")]
#[case("/tables/events/rows?columns=offset&version=1&format=parquet")]
#[case("/tables/events/changes?from_version=1&format=csv")]
#[tokio::test]
async fn an_answer_that_a_client_has_is_not_sent_again(#[case] path: &str) {
    let service = running().await;
    let first = service.get(path).await;
    let tag = first.headers()["etag"].to_str().unwrap().to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    let has = async |path: &str, tags: &str| {
        let request = service.request(Method::GET, path).header("if-none-match", tags);
        let response = request.send().await.unwrap();
        let version = response.headers()["x-delta-version"].to_str().unwrap().to_owned();
        (response.status(), version, response.bytes().await.unwrap().len())
    };
    let version = first.headers()["x-delta-version"].to_str().unwrap();
    assert_eq!(has(path, &format!("\"0\", W/{tag}")).await, (StatusCode::NOT_MODIFIED, version.to_owned(), 0));
    assert_eq!(has(path, "\"0\"").await.0, StatusCode::OK);
    commit(&service.lake, 20, 30).await;
    let is_pinned = path.contains("&version=");
    let expected = if is_pinned { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    assert_eq!(has(path, &tag).await.0, expected);
}

#[tokio::test]
async fn answers_that_differ_have_other_tags() {
    let service = running().await;
    let first = rows(&service, "?limit=1").await;
    let cursor = first["next"].as_str().unwrap();
    let queries = ["", "&format=csv", "&columns=price", "&symbol=ETH-USDT", "&version=1", &format!("&cursor={cursor}")];
    let mut tags = BTreeSet::new();
    for query in queries {
        let response = service.get(&format!("/tables/events/rows?limit=1{query}")).await;
        assert!(tags.insert(response.headers()["etag"].to_str().unwrap().to_owned()), "{query}");
    }
}

#[tokio::test]
async fn changes_are_the_rows_that_versions_added_and_removed() {
    let service = running().await;
    let answer = service.get_json("/tables/events/changes?from_version=1", StatusCode::OK).await;
    assert_eq!((&answer["table"], &answer["from_version"]), (&json!("events"), &json!(1)));
    assert_eq!((&answer["to_version"], offsets(&answer)), (&json!(2), (10..20).collect()));
    let columns = answer["columns"].as_array().unwrap();
    assert_eq!(columns[columns.len() - 2..], [json!("_change"), json!("_version")]);
    let first = &answer["rows"][0];
    assert_eq!((&first["_change"], &first["_version"]), (&json!("insert"), &json!(2)));
    assert_eq!(first.as_object().unwrap().len(), columns.len());
    service.lake.restore(TableName::Events, 1, &[]).await.unwrap();
    let restored = service.get_json("/tables/events/changes?from_version=2&to_version=3", StatusCode::OK).await;
    let removed = restored["rows"].as_array().unwrap().iter().filter(|row| row["_change"] == "delete");
    let removed: Vec<i64> = removed.map(|row| row["offset"].as_i64().unwrap()).collect();
    assert!((10..20).all(|offset| removed.contains(&offset)), "{restored}");
    let none = service.get_json("/tables/events/changes?from_version=3&to_version=3", StatusCode::OK).await;
    assert_eq!(none["rows"], json!([]));
    let response = service.get("/tables/events/changes?from_version=0&to_version=1&format=ndjson").await;
    assert_eq!(response.headers()["x-delta-version"], "1");
    assert_eq!(read(response).await, (0..10).collect::<Vec<_>>());
}
