//! `sentinel replay` gives what came live, and says what another model would have said.

use lake::TableName;
use serde_json::Value;

use crate::harness::{Data, printed};

const MARKET: &str = "--seed 21 --start 2024-03-09T16:00:00Z --speed 0";

/// A market that version 1 has scored; version 2 has never scored.
fn with_two_models() -> Data {
    let data = Data::new();
    data.run(&format!("ingest simulated --events 3000 {MARKET}"));
    data.run("stream --once");
    data.run("train --trees 50");
    data.run(&format!("ingest simulated --events 4500 {MARKET}"));
    data.run("stream --once");
    data.run("train --trees 10 --seed 3 --no-promote");
    data
}

fn replay(data: &Data, arguments: &str) -> Vec<Value> {
    serde_json::from_str(&data.run(&format!("replay --json --diff-against live {arguments}"))).unwrap()
}

/// The sum of a count over symbols.
fn total(replays: &[Value], pointer: &str) -> u64 {
    replays.iter().map(|replay| replay.pointer(pointer).and_then(Value::as_u64).unwrap()).sum()
}

#[test]
fn a_replay_gives_what_came_live_and_another_model_says_something_else() {
    let data = with_two_models();
    let live = replay(&data, "");
    assert_eq!((live.len(), total(&live, "/events"), total(&live, "/scored")), (3, 4_500, 4_500));
    let anomalies = data.rows(TableName::Predictions, &[]).len();
    assert_eq!(total(&live, "/diff/verdicts/compared"), u64::try_from(anomalies).unwrap());
    let other = replay(&data, "--model 2");
    for replays in [&live, &other] {
        for table in ["features", "windows"] {
            for kind in ["differing", "missing", "extra"] {
                assert_eq!(total(replays, &format!("/diff/{table}/{kind}")), 0, "{table} {kind}");
            }
        }
    }
    assert_eq!(total(&live, "/diff/features/compared"), 4_500);
    assert!(live.iter().all(|replay| replay["diff"]["verdicts"]["greatest_change"] == 0.0), "{live:?}");
    assert!(other.iter().all(|replay| replay["diff"]["verdicts"]["greatest_change"].as_f64().unwrap() > 0.0));
    let changed = total(&other, "/diff/verdicts/new_anomalies") + total(&other, "/diff/verdicts/former_anomalies");
    assert!(changed > 0, "10 trees say the same as 50 about every event");
}

#[test]
fn a_part_of_the_time_is_replayed_as_it_came() {
    let data = with_two_models();
    let part = replay(&data, "--from 2024-03-09T16:10:00Z --to 2024-03-09T16:20:00Z --symbols ETH-USDT");
    assert_eq!((total(&part, "/events"), total(&part, "/windows")), (600, 10));
    assert_eq!(total(&part, "/diff/features/compared"), 600);
    for kind in ["differing", "missing", "extra"] {
        assert_eq!(total(&part, &format!("/diff/features/{kind}")), 0, "{kind}");
    }
}

#[test]
fn a_shadow_holds_the_same_rows_and_is_never_written_twice() {
    let data = with_two_models();
    data.run("replay --into shadow --name twin");
    let without = ["in_sample"];
    for table in [TableName::Features, TableName::Predictions] {
        assert_eq!(data.rows_in("shadow/twin", table, &without), data.rows(table, &without), "{}", table.as_str());
    }
    let again = data.sentinel("replay --into shadow --name twin").output().unwrap();
    assert_eq!(again.status.code(), Some(2), "{}", printed(&again));
    assert!(printed(&again).contains("exists already"), "{}", printed(&again));
    let unknown = data.sentinel("replay --symbols DOGE-USDT").output().unwrap();
    assert!(printed(&unknown).contains("no events of DOGE-USDT"), "{}", printed(&unknown));
}

#[test]
fn a_paced_replay_gives_the_same_rows_as_one_at_full_speed() {
    let data = with_two_models();
    let range = "--from 2024-03-09T16:10:00Z --to 2024-03-09T16:20:00Z --symbols ETH-USDT --into shadow";
    data.run(&format!("replay {range} --name fast"));
    // Ten minutes of event time in three seconds, in as many groups of rows.
    data.run(&format!("replay {range} --name paced --speed 200"));
    for table in [TableName::Features, TableName::Windows, TableName::Predictions] {
        let fast = data.rows_in("shadow/fast", table, &[]);
        assert!(!fast.is_empty());
        assert_eq!(data.rows_in("shadow/paced", table, &[]), fast, "{}", table.as_str());
    }
}
