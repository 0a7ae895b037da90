//! The parts as separate processes: a service that runs alone shows what others ingest, fold and train.

use std::process::Stdio;

use domain::Timestamp;
use lake::TableName;
use serde_json::Value;

use crate::harness::{Data, Served};

const MARKET: &str = "--seed 5 --start 2024-03-09T16:00:00Z --speed 0";

/// What was traded in an event: its market, its time, price and volume.
type Traded = (String, Timestamp, f64, f64);

fn stored(data: &Data) -> Vec<Traded> {
    let schema = TableName::Features.schema();
    let [symbol, time, price, volume] =
        ["symbol", "timestamp", "price", "volume"].map(|name| schema.index_of(name).unwrap());
    let rows = data.rows(TableName::Features, &[]).into_iter();
    let number = |text: &str| text.parse::<f64>().unwrap();
    let traded = |row: Vec<String>| {
        (row[symbol].clone(), Timestamp::parse(&row[time]).unwrap(), number(&row[price]), number(&row[volume]))
    };
    rows.map(traded).collect()
}

/// What `/latest-predictions` says was traded; none of a prediction that says nothing about it.
fn shown(answer: &str) -> Vec<Option<Traded>> {
    let predictions: Vec<Value> = serde_json::from_str(answer).unwrap();
    let traded = |prediction: Value| {
        let text = |name: &str| prediction[name].as_str().unwrap();
        let time = Timestamp::parse(text("timestamp")).unwrap();
        Some((text("symbol").to_owned(), time, prediction["price"].as_f64()?, prediction["volume"].as_f64()?))
    };
    predictions.into_iter().map(traded).collect()
}

#[test]
fn a_service_alone_shows_what_other_processes_do() {
    let data = Data::new();
    let served = Served::start(data.sentinel("serve --bind 127.0.0.1:0"));
    served.wait_for("/system-status", "nobody folds the log, 0 records wait");
    served.wait_for("/health", "waiting_for_model");

    data.run(&format!("ingest simulated --events 900 {MARKET}"));
    served.wait_for("/system-status", "nobody folds the log, 900 records wait");
    data.run("stream --once");
    served.wait_for("/system-status", "nobody folds the log, 0 records wait");
    served.wait_for("/system-status", "waiting for the first model: 900 of 5000 feature rows");

    data.run("train --trees 10");
    served.wait_for("/health", "\"model_loaded\":true");
    data.run(&format!("ingest simulated --events 1200 {MARKET}"));
    let mut folding = data.sentinel("stream").stderr(Stdio::null()).spawn().unwrap();
    served.wait_for("/system-status", "other processes fold 4 of 4 partitions, 0 records behind");
    // 300 as they came; the 900 before the first model when the stream job ends.
    served.wait_for("/stats", "\"total_predictions\":300");
    folding.kill().unwrap();
    folding.wait().unwrap();
    data.run("stream --once");
    served.wait_for("/stats", "\"total_predictions\":1200");

    let stored = stored(&data);
    let is_stored = |traded: &Option<Traded>| traded.as_ref().is_some_and(|traded| stored.contains(traded));
    let latest = "/latest-predictions?limit=500";
    let all = |answer: &str| shown(answer).len() == 500 && shown(answer).iter().all(is_stored);
    served.wait_until(latest, "what was traded in the events of 500 predictions, as they came and later", all);
    // The same from the tables alone.
    drop(served);
    let served = Served::start(data.sentinel("serve --bind 127.0.0.1:0"));
    served.wait_until(latest, "what was traded in the events of 500 predictions, as they are restored", all);
}
