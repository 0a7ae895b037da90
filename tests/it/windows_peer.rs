//! `windows` beside Spark's `groupBy(symbol, window)` on in-order whole-second events: equal to 1e-9 relative.
//!
//! `golden/windows_spark.jsonl` is what Spark 3.5 gave for `golden/windows_input`: the Parquet files of
//! `spark_windows.py golden/windows_input OUT` as JSON Lines, sorted by symbol and window. The input has an empty
//! minute, gaps, a minute with one event and labelled spikes.

use std::{collections::BTreeMap, path::Path};

use lake::{Lake, TableName};
use serde_json::Value;

use crate::harness::Data;

/// Column of `windows`, and what Spark calls it.
const COLUMNS: [(&str, &str); 12] = [
    ("event_count", "event_count"),
    ("close", "price"),
    ("rolling_price_mean", "rolling_price_mean"),
    ("rolling_price_std", "rolling_price_std"),
    ("rolling_log_return_mean", "rolling_log_return_mean"),
    ("rolling_log_return_std", "rolling_log_return_std"),
    ("rolling_volume_mean", "rolling_volume_mean"),
    ("rolling_volume_std", "rolling_volume_std"),
    ("z_score_price", "z_score_price"),
    ("z_score_log_return", "z_score_log_return"),
    ("z_score_volume", "z_score_volume"),
    ("is_anomaly", "is_anomaly"),
];

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden").join(name)
}

/// (symbol, window start in seconds) -> values in the order of [`COLUMNS`].
type Windows = BTreeMap<(String, i64), Vec<f64>>;

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| f64::from(u8::from(value.as_bool().unwrap())))
}

fn sparks() -> Windows {
    let text = std::fs::read_to_string(golden("windows_spark.jsonl")).unwrap();
    let window = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        let key = (row["symbol"].as_str().unwrap().to_owned(), row["window_start"].as_i64().unwrap());
        (key, COLUMNS.iter().map(|(_, theirs)| number(&row[*theirs])).collect())
    };
    text.lines().map(window).collect()
}

fn ours(data: &Data) -> Windows {
    let casts: Vec<String> = COLUMNS.iter().map(|(ours, _)| format!("CAST({ours} AS DOUBLE)")).collect();
    let seconds = "CAST(EXTRACT(EPOCH FROM window_start) AS BIGINT)";
    let sql = format!("SELECT symbol, {seconds}, {} FROM windows", casts.join(", "));
    let rows = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let lake = Lake::open(&data.path().join("data/lake")).await.unwrap();
        lake.pin(TableName::Windows).await.unwrap().texts(&sql).await.unwrap()
    });
    let window = |row: Vec<String>| {
        let values = row[2..].iter().map(|text| text.parse().unwrap()).collect();
        ((row[0].clone(), row[1].parse().unwrap()), values)
    };
    rows.into_iter().map(window).collect()
}

#[test]
fn closed_windows_equal_sparks() {
    let data = Data::new();
    data.run(&format!("ingest file {}", golden("windows_input/events.jsonl").display()));
    data.run("stream --once");
    let (expected, actual) = (sparks(), ours(&data));
    assert_eq!(actual.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (key, expected) in &expected {
        for ((column, _), (ours, theirs)) in COLUMNS.iter().zip(actual[key].iter().zip(expected)) {
            let close = (ours - theirs).abs() <= 1e-9 * theirs.abs().max(1e-9);
            assert!(close, "{key:?} {column}: {ours} and Spark's {theirs}");
        }
    }
}
