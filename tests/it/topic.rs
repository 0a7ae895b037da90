//! The topic from the outside: what it is, and its records as they come.

use std::process::Stdio;

use serde_json::Value;

use crate::harness::{Data, printed};

fn ingest(data: &Data, events: u32) {
    data.run(&format!("ingest simulated --events {events} --seed 7 --start 2024-03-09T16:00:00Z --speed 0"));
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_topic_is_made_listed_and_described() {
    let data = Data::new();
    data.run("topic create");
    assert_eq!(json(&data.run("topic list --json")), serde_json::json!([{"topic": "crypto-market", "partitions": 4}]));
    ingest(&data, 30);
    let described = json(&data.run("topic describe --json"));
    assert_eq!((&described["topic"], &described["engine"]), (&Value::from("crypto-market"), &Value::from("embedded")));
    let ends = described["partitions"].as_array().unwrap().iter().map(|p| p["end_offset"].as_i64().unwrap());
    assert_eq!(ends.sum::<i64>(), 30);
}

#[test]
fn a_tail_begins_where_it_is_asked_to_and_prints_what_comes() {
    let data = Data::new();
    ingest(&data, 30);
    let all: Vec<Value> = data.run("topic tail --from beginning --once --json").lines().map(json).collect();
    assert_eq!(all.len(), 30);
    assert!(all.iter().all(|record| record["key"] == record["value"]["symbol"]));
    let partition = all[0]["partition"].as_i64().unwrap();
    let two = data.run(&format!("topic tail --partition {partition} --from 3 --limit 2 --json"));
    assert_eq!(two.lines().map(|line| json(line)["offset"].as_i64().unwrap()).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(data.run("topic tail --once"), "");
    let follower = data.sentinel("topic tail --from beginning --limit 33").stdout(Stdio::piped()).spawn().unwrap();
    ingest(&data, 33);
    let output = follower.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 33);
    let refused = data.sentinel("topic tail --partition 9").output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(printed(&refused).contains("there is no partition 9: there are 4"), "{}", printed(&refused));
}
