//! SQL over the tables as a user types it: every format says the same, time travel finds its version, refusals say why.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use lake::TableName;
use serde_json::Value;

use crate::{
    harness::{Data, printed},
    requirements,
};

const MARKET: &str = "ingest simulated --seed 9 --start 2024-03-09T16:00:00Z --speed 0 --events";

/// Tables of four commits: 300, 600, 900 and 1200 feature rows.
fn grown() -> Data {
    let data = Data::new();
    for events in [300, 600, 900, 1_200] {
        data.run(&format!("{MARKET} {events}"));
        data.run("stream --once");
    }
    data
}

/// A query with these flags.
fn query(data: &Data, sql: &str, flags: &str) -> Output {
    data.sentinel(&format!("query {flags}")).arg(sql).output().unwrap()
}

fn answer(data: &Data, sql: &str, flags: &str) -> String {
    let output = query(data, sql, flags);
    assert!(output.status.success(), "{sql}: {}", printed(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_text_format_has_the_rows_of_the_table() {
    let data = grown();
    let expected = data.rows(TableName::Features, &[]);
    assert_eq!(expected.len(), 1_200);
    let columns: Vec<String> = TableName::Features.schema().fields().iter().map(|f| f.name().clone()).collect();
    let order: Vec<String> = columns.iter().map(|column| format!("\"{column}\"")).collect();
    let sql = format!("SELECT * FROM features ORDER BY {}", order.join(", "));

    let csv = answer(&data, &sql, "");
    let mut lines = csv.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
    assert_eq!(lines.next().unwrap(), columns);
    let csv: Vec<Vec<String>> = lines.collect();
    let objects: Vec<Value> =
        answer(&data, &sql, "--format ndjson").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(serde_json::from_str::<Vec<Value>>(&answer(&data, &sql, "--format json")).unwrap(), objects);
    assert_eq!((csv.len(), objects.len()), (1_200, 1_200));
    for ((expected, csv), object) in expected.iter().zip(&csv).zip(&objects) {
        for (column, (expected, csv)) in columns.iter().zip(expected.iter().zip(csv)) {
            let json = &object[column];
            match json {
                // The same bits, whatever the form.
                Value::Number(number) if number.is_f64() => {
                    let bits = |text: &str| text.parse::<f64>().unwrap().to_bits();
                    assert_eq!((bits(csv), number.as_f64().unwrap().to_bits()), (bits(expected), bits(expected)));
                }
                Value::Null => assert_eq!((csv.as_str(), expected.as_str()), ("", ""), "{column}"),
                Value::String(text) if column.contains("time") => {
                    assert_eq!(csv, text, "{column}");
                    let (day, time) = text.split_once('T').unwrap();
                    assert!(expected.starts_with(day) && text.ends_with('Z') && time.len() == 16, "{column}: {text}");
                }
                Value::String(text) => assert_eq!((csv, expected), (text, text), "{column}"),
                other => assert_eq!((csv, expected), (&other.to_string(), &other.to_string()), "{column}"),
            }
        }
    }
}

#[test]
fn a_version_is_found_by_its_number_by_its_time_and_by_what_changed() {
    let data = grown();
    let count = |sql: &str| answer(&data, &format!("SELECT count(*) AS n FROM {sql}"), "").replace("n\n", "");
    assert_eq!(count("features"), "1200\n");
    assert_eq!(count("features VERSION AS OF 2"), "600\n");
    assert_eq!(
        count("features VERSION AS OF 2 a JOIN features VERSION AS OF 3 b USING (partition, \"offset\")"),
        "600\n"
    );
    assert_eq!(count("changes('features', 2, 4)"), "600\n");
    let history = answer(&data, "SELECT version, commit_time FROM history('features') ORDER BY version", "");
    let of_version_2 = history.lines().nth(3).unwrap().split_once(',').unwrap();
    assert_eq!(of_version_2.0, "2");
    // Processes ran between the commits, so that no two fall into one millisecond.
    assert_eq!(count(&format!("features TIMESTAMP AS OF '{}'", of_version_2.1)), "600\n");
    data.run("table compact features");
    assert_eq!(count("changes('features', 2, 5)"), "600\n");
    assert_eq!(count("changes('features', 4, 5)"), "0\n");
    data.run("table vacuum features --retention-hours 0");
    for (sql, sentence) in [
        ("features VERSION AS OF 99", "table `features` has no version 99: its newest is 7"),
        (
            "features VERSION AS OF 2",
            "version 2 of table `features` was removed by upkeep: versions 5 to 7 can be read",
        ),
        ("features TIMESTAMP AS OF '2009-01-03'", "its version 0 is the first, of 20"),
        ("features AT(VERSION => 2)", "use VERSION AS OF 12"),
    ] {
        let refused = query(&data, &format!("SELECT * FROM {sql}"), "");
        assert_eq!(refused.status.code(), Some(2), "{sql}");
        assert!(printed(&refused).contains(sentence), "{sql}: {}", printed(&refused));
    }
}

#[test]
fn what_is_known_later_does_not_leak_into_what_was_known_before() {
    let data = grown();
    let sql = "SELECT ingest_time, count(*) AS n FROM features GROUP BY 1 ORDER BY 1";
    let appended = answer(&data, sql, "--format ndjson");
    let appended: Vec<Value> = appended.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut known = 0;
    for batch in &appended {
        known += batch["n"].as_i64().unwrap();
        let time = batch["ingest_time"].as_str().unwrap();
        let sql = format!("SELECT count(*) AS n FROM known_at('features', '{time}')");
        assert_eq!(answer(&data, &sql, ""), format!("n\n{known}\n"), "{time}");
    }
    assert_eq!(known, 1_200);
    assert!(appended.len() > 1, "one append only");
}

/// Every file below a folder.
fn files_below(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { BTreeSet::from([path]) }).collect()
}

#[test]
fn nothing_is_written_by_a_query_and_nothing_made_by_a_reader() {
    let data = grown();
    let lake = data.path().join("data/lake");
    let before = files_below(&lake);
    for sql in ["DROP TABLE features", "INSERT INTO features SELECT * FROM features", "COPY features TO 'x.csv'"] {
        let refused = query(&data, sql, "");
        assert_eq!(refused.status.code(), Some(2), "{sql}");
        assert!(printed(&refused).contains("only reads are answered"), "{}", printed(&refused));
    }
    answer(&data, "SELECT count(*) FROM features", "");
    assert_eq!(files_below(&lake), before);

    let empty = Data::new();
    let refused = query(&empty, "SELECT 1 FROM features", "");
    assert_eq!(refused.status.code(), Some(2));
    assert!(printed(&refused).contains("there are no tables in"), "{}", printed(&refused));
    assert!(!empty.path().join("data/lake").exists());
}

#[test]
fn a_reader_that_leaves_early_ends_the_query_in_silence() {
    let data = grown();
    for format in ["csv", "ndjson", "table", "parquet"] {
        // Much more than a pipe holds.
        let sql = "SELECT a.* FROM features a CROSS JOIN (SELECT 1 FROM features LIMIT 100)";
        let mut command = data.sentinel(&format!("query --format {format} --limit 0"));
        let mut run = command.arg(sql).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 64];
        run.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{format}: {}", printed(&output));
    }
}

#[test]
fn a_table_for_people_is_aligned_and_says_what_was_cut() {
    let data = grown();
    let sql = "SELECT 'a' AS name, 5 AS n, NULL AS nothing UNION ALL SELECT 'longer', 12345, NULL ORDER BY 2";
    assert_eq!(answer(&data, sql, "--format table"), "name        n  nothing\na           5\nlonger  12345\n");
    let cut = query(&data, "SELECT \"offset\" FROM features ORDER BY 1", "--format csv --limit 2");
    assert_eq!(String::from_utf8_lossy(&cut.stdout), "offset\n0\n0\n");
    assert!(String::from_utf8_lossy(&cut.stderr).contains("there are more rows: --limit 0 gives all of them"));
    let exact = query(&data, "SELECT 1 AS n", "--format csv --limit 1");
    assert_eq!((exact.stdout.as_slice(), exact.stderr.as_slice()), (b"n\n1\n".as_slice(), b"".as_slice()));
}

#[test]
fn an_export_is_a_half_open_range_in_order_and_appears_whole() {
    let data = grown();
    let range = "--from 2024-03-09T16:01:00Z --to 2024-03-09T16:02:00Z --symbols BTC-USDT,ETH-USDT";
    let said = data.run(&format!("export features --output part.csv {range} --columns timestamp,symbol,offset"));
    let text = fs::read_to_string(data.path().join("part.csv")).unwrap();
    assert_eq!(said, format!("120 rows, {} bytes in part.csv, features version 4\n", text.len()));
    let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split(',').collect()).collect();
    assert_eq!((rows[0][0], rows[119][0]), ("2024-03-09T16:01:00.000000Z", "2024-03-09T16:01:59.000000Z"));
    assert!(rows.is_sorted_by_key(|row| row[0]));
    assert!(rows.iter().all(|row| row[1] == "BTC-USDT" || row[1] == "ETH-USDT"));

    // The same state, whichever way it is asked for, gives the same bytes.
    let export = |name: &str, flags: &str| {
        data.run(&format!("export features --output {name} {flags}"));
        fs::read(data.path().join(name)).unwrap()
    };
    let newest = export("newest.csv", "");
    assert_eq!(export("version.csv", "--version 4"), newest);
    assert_eq!(export("known.csv", "--known-at 2999-01-01"), newest);
    assert_eq!(export("as_of.csv", "--as-of 2999-01-01"), newest);
    assert_eq!(export("again.csv", ""), newest);
    assert!(export("older.csv", "--version 3") != newest);
    data.run("table compact features");
    assert_eq!(export("compacted.csv", ""), newest);

    data.run("export features --output . --version 2 --format parquet");
    assert!(data.path().join("features-v2.parquet").exists());
    let refused = data.sentinel("export features --output newest.csv --version 99").output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(fs::read(data.path().join("newest.csv")).unwrap(), newest);
    let names = fs::read_dir(data.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.contains("partial")).count(), 0);
}

#[test]
fn other_programs_read_the_files_as_the_table() {
    let Some(python) = requirements::python(&["pyarrow", "polars"]) else { return };
    let data = grown();
    for name in ["features.parquet", "features.arrow", "features.csv", "features.ndjson"] {
        data.run(&format!("export features --output {name}"));
    }
    let output = Command::new(python).current_dir(data.path()).args(["-c", READ_BACK]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1200 rows, 4 times the same\n", "{}", printed(&output));
}

/// Reads what was exported with two other programs and compares every value.
const READ_BACK: &str = r#"
import json, pyarrow.parquet, pyarrow.feather, polars as pl
parquet = pyarrow.parquet.read_table("features.parquet")
arrow = pyarrow.feather.read_table("features.arrow")
assert parquet.schema.equals(arrow.schema), (parquet.schema, arrow.schema)
assert parquet.equals(arrow)
frame = pl.read_parquet("features.parquet")
csv = pl.read_csv("features.csv", infer_schema=False)
lines = [json.loads(line) for line in open("features.ndjson")]
same = 0
for column in frame.columns:
    values, texts, objects = frame[column].to_list(), csv[column].to_list(), [line[column] for line in lines]
    for value, text, thing in zip(values, texts, objects):
        if hasattr(value, "isoformat"):
            value = value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        assert value == thing, (column, value, thing)
        if value is None:
            assert text is None or text == "", (column, text)
        elif isinstance(value, bool):
            assert text == str(value).lower(), (column, text)
        else:
            assert type(value)(text) == value, (column, value, text)
print(len(frame), "rows, 4 times the same")
"#;
