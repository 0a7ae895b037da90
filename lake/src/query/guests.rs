//! What careless and hostile guests ask: that it is answered or refused, and takes nothing else with it.

use domain::ErrorKind;
use rstest::rstest;

use super::*;
use crate::{
    Lake,
    fixture::{self, flush, lake},
};

/// A lake with forty feature rows.
async fn grown() -> (tempfile::TempDir, Lake) {
    let (folder, lake) = lake().await;
    lake.flush("topic", flush(0, 20)).await.unwrap();
    lake.flush("topic", flush(20, 40)).await.unwrap();
    (folder, lake)
}

async fn texts(lake: &Lake, sql: &str) -> Result<Vec<Vec<String>>, Error> {
    fixture::texts(lake.versions().query_of_guest(sql).await?).await
}

#[rstest]
#[case("SELECT count(*), max(\"offset\") FROM features", &["40", "39"])]
#[case("SELECT count(*) FROM features VERSION AS OF 1", &["20"])]
#[case("SELECT count(*) FROM changes('features', 1, 2)", &["20"])]
#[case("SELECT count(*) FROM known_at('features', '2024-03-09T16:00:06Z')", &["6"])]
#[case("SELECT count(*) FROM history('features')", &["3"])]
#[case("SELECT replace(symbol, '-', '/') || '!' FROM features LIMIT 1", &["BTC/USDT!"])]
#[case("SELECT substring(symbol, 1, 3), upper('a'), trim(' b '), round(1.25, 1) FROM features LIMIT 1", &["BTC", "A", "b", "1.3"])]
#[case("SELECT date_trunc('minute', max(timestamp)) FROM features", &["2024-03-09T16:00:00.000000Z"])]
#[case("SELECT extract(year FROM min(timestamp)) FROM features", &["2024"])]
#[case(
    "SELECT max(step) FROM (SELECT \"offset\" - lag(\"offset\") OVER (ORDER BY \"offset\") AS step FROM features)",
    &["1"]
)]
#[case("SELECT count(DISTINCT symbol), stddev(volume), median(volume) FROM features", &["1", "0.0", "1.5"])]
#[case("WITH a AS (SELECT 1 AS b), c AS (SELECT b + 1 AS b FROM a) SELECT a.b + c.b AS d FROM a, c", &["3"])]
#[tokio::test]
async fn what_people_ask_is_answered(#[case] sql: &str, #[case] expected: &[&str]) {
    let (_folder, lake) = grown().await;
    assert_eq!(texts(&lake, sql).await.unwrap(), [expected], "{sql}");
}

#[rstest]
// What is no read.
#[case("INSERT INTO features SELECT * FROM features", ErrorKind::Invalid)]
#[case("COPY features TO '/srv/features.csv'", ErrorKind::Invalid)]
#[case("COPY (SELECT 1) TO '/srv/features.csv' STORED AS CSV", ErrorKind::Invalid)]
#[case("CREATE EXTERNAL TABLE a STORED AS CSV LOCATION '/etc/passwd'", ErrorKind::Invalid)]
#[case("CREATE VIEW a AS SELECT 1", ErrorKind::Invalid)]
#[case("CREATE FUNCTION a(INT) RETURNS INT RETURN $1", ErrorKind::Invalid)]
#[case("DROP TABLE features", ErrorKind::Invalid)]
#[case("SET datafusion.execution.batch_size = 1", ErrorKind::Invalid)]
#[case("RESET datafusion.execution.batch_size", ErrorKind::Invalid)]
#[case("SHOW ALL", ErrorKind::Invalid)]
#[case("SHOW TABLES", ErrorKind::Invalid)]
#[case("PREPARE a AS SELECT 1", ErrorKind::Invalid)]
#[case("EXECUTE a", ErrorKind::Invalid)]
#[case("EXPLAIN ANALYZE COPY features TO '/srv/features.csv'", ErrorKind::Invalid)]
#[case("SELECT 1; DROP TABLE features", ErrorKind::Invalid)]
#[case("", ErrorKind::Invalid)]
#[case("-- nothing", ErrorKind::Invalid)]
#[case("SELECT 'open", ErrorKind::Invalid)]
// What is no table of the lake.
#[case("SELECT * FROM '/etc/passwd'", ErrorKind::NotFound)]
#[case("SELECT * FROM \"/etc/passwd\"", ErrorKind::NotFound)]
#[case("SELECT * FROM 'file:///srv/a.parquet'", ErrorKind::NotFound)]
#[case("SELECT * FROM read_csv('/etc/passwd')", ErrorKind::NotFound)]
#[case("SELECT * FROM parquet_metadata('/srv/a.parquet')", ErrorKind::NotFound)]
#[case("SELECT * FROM information_schema.df_settings", ErrorKind::NotFound)]
#[case("SELECT * FROM datafusion.public.features", ErrorKind::NotFound)]
#[case("SELECT * FROM generate_series(1, 1000000000000)", ErrorKind::NotFound)]
#[case("SELECT * FROM range(1, 1000000000000)", ErrorKind::NotFound)]
// The name of a query named by WITH hides that this is a function.
#[case("WITH range AS (SELECT 1) SELECT * FROM range(1, 1000000000000)", ErrorKind::Invalid)]
#[case("SELECT * FROM features, LATERAL range(1, 1000000000000)", ErrorKind::Invalid)]
// What makes much of little.
#[case("SELECT repeat('a', 1000000000)", ErrorKind::Invalid)]
#[case("SELECT lpad('a', 1000000000, 'b')", ErrorKind::Invalid)]
#[case("SELECT rpad('a', 1000000000)", ErrorKind::Invalid)]
#[case("SELECT range(1, 1000000000)", ErrorKind::Invalid)]
#[case("SELECT generate_series(1, 1000000000)", ErrorKind::Invalid)]
#[case("SELECT array_repeat(1, 1000000000)", ErrorKind::Invalid)]
#[case("SELECT array_resize([1], 1000000000)", ErrorKind::Invalid)]
#[case("SELECT array_agg(symbol) FROM features", ErrorKind::Invalid)]
#[case("SELECT string_agg(symbol, ',') FROM features", ErrorKind::Invalid)]
#[case("SELECT approx_percentile_cont(price, 0.5, 100000000000) FROM features", ErrorKind::Invalid)]
#[case("SELECT arrow_cast(NULL, 'FixedSizeBinary(2000000000)')", ErrorKind::Invalid)]
#[case("SELECT CAST(NULL AS INT[2000000000])", ErrorKind::Invalid)]
#[case("SELECT array_transform([1], a -> a + 1)", ErrorKind::Invalid)]
#[case("WITH RECURSIVE n AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM n) SELECT * FROM n", ErrorKind::Invalid)]
#[case("SELECT partition FROM gaps GROUP BY CUBE (partition, reason)", ErrorKind::Invalid)]
// What cannot be told apart in an answer.
#[case("SELECT * FROM features a JOIN features b USING (\"offset\")", ErrorKind::Invalid)]
#[tokio::test]
async fn what_is_not_for_guests_is_refused(#[case] sql: &str, #[case] kind: ErrorKind) {
    let (_folder, lake) = grown().await;
    let refused = texts(&lake, sql).await.unwrap_err();
    assert_eq!(refused.kind(), kind, "{sql}: {refused:?}");
}

#[tokio::test]
async fn a_text_does_not_grow_from_query_to_query() {
    let (_folder, lake) = grown().await;
    let longer: Vec<String> =
        (0..12).map(|step| format!("a{} AS (SELECT t || t || t AS t FROM a{step})", step + 1)).collect();
    let sql = format!("WITH a0 AS (SELECT symbol AS t FROM features), {} SELECT t FROM a12", longer.join(", "));
    let refused = texts(&lake, &sql).await.unwrap_err();
    assert!(refused.to_string().contains("a row may come to"), "{refused}");
}

#[tokio::test]
async fn plans_are_explained_to_guests_too() {
    let (_folder, lake) = grown().await;
    let explained = texts(&lake, "EXPLAIN ANALYZE SELECT * FROM features VERSION AS OF 1").await.unwrap();
    assert!(!explained.is_empty());
    let described = texts(&lake, "DESCRIBE features").await.unwrap();
    assert_eq!(described.len(), TableName::Features.schema().fields().len());
}
