//! `sentinel verify` finds what the events give, to the bit, and says where tables hold anything else.

use std::{fs, path::PathBuf};

use lake::{Lake, TableName};

use crate::harness::{Data, printed};

const MARKET: &str = "--seed 13 --start 2024-03-09T16:00:00Z --speed 0";

/// A market before and after a training, and a file with late, repeated and out-of-order lines.
fn with_tables() -> Data {
    let data = Data::new();
    data.run(&format!("ingest simulated --events 3000 {MARKET}"));
    data.run("stream --once");
    data.run("train --trees 20");
    data.run(&format!("ingest simulated --events 4500 {MARKET}"));
    let seconds = (0_i64..900).zip([0, 7, 59, 0, 90, 13].into_iter().cycle()).map(|(second, back)| second - back);
    let line = |(number, second): (usize, i64)| {
        let (time, price) = (1_710_000_000 + second, 60.0 + f64::from(u32::try_from(number % 23).unwrap()) / 16.0);
        let event = format!("\"timestamp\":{time},\"symbol\":\"KO-USDT\",\"price\":{price},\"volume\":3");
        format!("{{{event},\"trade_id\":{}}}\n", number - usize::from(number % 50 == 49))
    };
    let lines: String = seconds.enumerate().map(line).collect();
    fs::write(data.path().join("mixed.jsonl"), lines).unwrap();
    data.run("ingest file mixed.jsonl");
    data.run("stream --once");
    data
}

/// What `verify --json` says about one table.
fn found(data: &Data, arguments: &str, table: &str) -> (bool, u64, String) {
    let output = data.sentinel(&format!("verify --json {arguments}")).output().unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert!(answer.is_object(), "{}", printed(&output));
    let report = answer["tables"].as_array().unwrap().iter().find(|report| report["table"] == table).unwrap();
    let equal = report["equal"].as_bool().unwrap();
    assert!(equal || output.status.code() == Some(1), "{}", printed(&output));
    (equal, report["compared"].as_u64().unwrap(), report["digest"].as_str().unwrap().to_owned())
}

#[test]
fn what_the_events_give_is_what_is_stored() {
    let data = with_tables();
    let rows = |table| u64::try_from(data.rows(table, &[]).len()).unwrap();
    for table in [TableName::Features, TableName::Windows, TableName::Predictions, TableName::Alerts] {
        let (equal, compared, _) = found(&data, "--log", table.as_str());
        assert_eq!((equal, compared), (true, rows(table)), "{}", table.as_str());
    }
    assert!(rows(TableName::LateEvents) > 100, "the mixture has late and repeated events");
    // A part of the time is verified by itself.
    let part = "--from 2024-03-09T16:07:30Z --to 2024-03-09T16:13:10Z";
    for (table, expected) in [("features", 3 * 340), ("windows", 3 * 6)] {
        let (equal, compared, _) = found(&data, &format!("{part} --symbols BTC-USDT,ETH-USDT,BNB-USDT"), table);
        assert_eq!((equal, compared), (true, expected), "{table}");
    }
    assert!(found(&data, &format!("{part} --symbols KO-USDT"), "features").0);
}

#[test]
fn the_digest_is_that_of_the_values_whatever_the_batches() {
    let (one, other) = (Data::new(), Data::new());
    one.run(&format!("ingest simulated --events 3000 {MARKET}"));
    one.run("stream --once");
    for events in [300, 700, 1800, 3000] {
        other.run(&format!("ingest simulated --events {events} {MARKET}"));
        other.run("stream --once");
    }
    other.run("table compact features");
    for table in ["features", "windows"] {
        assert_eq!(found(&one, "", table), found(&other, "", table));
    }
    let more = format!("ingest simulated --events 3300 {MARKET}");
    other.run(&more);
    other.run("stream --once");
    assert_ne!(found(&one, "", "features").2, found(&other, "", "features").2);
}

#[test]
fn rows_that_are_not_there_are_found_and_end_with_exit_code_one() {
    let data = with_tables();
    let log = data.path().join("data/lake/features/_delta_log");
    let commits = fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
    let newest: PathBuf = commits.filter(|path| path.extension().is_some_and(|e| e == "json")).max().unwrap();
    fs::write(newest, "").unwrap();
    let output = data.sentinel("verify --table features").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    assert!(said.contains("DIFFERS") && said.contains("is not stored, the events give it"), "{said}");
    // The stream job fills the table again, though it was another process that set the commit aside.
    data.run("stream --once");
    assert!(found(&data, "", "features").0);
}

/// Makes the share of the leading feature of one alert's event smaller, by its last bit.
fn change_an_alert(data: &Data) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let lake = Lake::open(&data.path().join("data/lake")).await.unwrap();
        let alerts = lake.pin(TableName::Alerts).await.unwrap();
        let mut row = alerts.alert_rows("TRUE ORDER BY symbol, timestamp LIMIT 1").await.unwrap().remove(0);
        let range = row.timestamp..row.timestamp.plus_micros(1);
        row.share = row.share.next_down();
        let mut replacement = lake.replacement(TableName::Alerts, row.symbol, range).await.unwrap();
        replacement.add(&[&row]).await.unwrap();
        lake.replace(replacement, "changed").await.unwrap();
    });
}

#[test]
fn an_alert_that_the_predictions_do_not_raise_is_found() {
    let data = Data::new();
    let market =
        |events: u32| format!("ingest simulated --events {events} --seed 3 --start 2024-03-09T16:00:00Z --speed 0");
    data.run(&market(900));
    data.run("stream --once");
    data.run("train --trees 10");
    data.run(&market(3_600));
    data.run("stream --once");
    let (equal, compared, digest) = found(&data, "", "alerts");
    assert!(equal && compared > 0, "{compared}");
    change_an_alert(&data);
    assert_eq!(found(&data, "", "alerts"), (false, compared, digest));
    let output = data.sentinel("verify --table alerts").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    assert!(said.contains("DIFFERS") && said.contains("share: stored "), "{said}");
}

#[test]
fn a_table_that_cannot_be_made_again_is_refused() {
    let data = Data::new();
    let output = data.sentinel("verify --table events").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", printed(&output));
    assert!(printed(&output).contains("features, windows, predictions, alerts can"), "{}", printed(&output));
}
