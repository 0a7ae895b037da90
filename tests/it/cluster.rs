//! The event log on a Fluvio cluster: the tables are those of the embedded log, whoever folds them and whatever log they
//! began with. `SENTINEL_TEST_FLUVIO` names the cluster.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    process::Stdio,
};

use lake::TableName;

use crate::{
    harness::{Data, printed},
    requirements::cluster,
};

const TABLES: [TableName; 4] = [TableName::Events, TableName::Features, TableName::Windows, TableName::Predictions];

/// The market up to so many events. What was appended before is gone on with.
fn ingest(data: &Data, events: u32) {
    let symbols = "BTC-USDT,ETH-USDT,BNB-USDT,SOL-USDT,XRP-USDT,DOGE-USDT";
    let start = "--seed 3 --start 2024-03-09T16:00:00Z --speed 0";
    data.run(&format!("ingest simulated --events {events} --symbols {symbols} {start}"));
}

/// The rows of all tables; two logs append at two times.
fn rows(data: &Data) -> Vec<Vec<Vec<String>>> {
    TABLES.iter().map(|table| data.rows(*table, &["ingest_time"])).collect()
}

/// Settings with a topic that no other test has; those of a cluster, where there is one.
fn configure(data: &Data, topic: &str, endpoint: Option<&str>) {
    let engine = endpoint.map(|endpoint| format!("engine = 'fluvio'\nendpoint = '{endpoint}'\n")).unwrap_or_default();
    fs::write(data.path().join("sentinel.toml"), format!("[log]\ntopic = '{topic}'\n{engine}")).unwrap();
}

fn new_topic() -> String {
    format!("test-{:x}", RandomState::new().hash_one("a topic that no test had before"))
}

#[test]
fn two_workers_over_a_cluster_give_the_tables_of_the_embedded_log() {
    let Some(endpoint) = cluster() else { return };
    let (embedded, clustered) = (Data::new(), Data::new());
    configure(&clustered, &new_topic(), Some(&endpoint));
    for data in [&embedded, &clustered] {
        ingest(data, 1_200);
        data.run("stream --once");
        data.run("train --trees 10");
        ingest(data, 3_000);
    }
    embedded.run("stream --once");
    let workers = ["0-1", "2-3"].map(|partitions| {
        let mut worker = clustered.sentinel(&format!("stream --once --partitions {partitions}"));
        worker.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    for worker in workers {
        let ended = worker.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", printed(&ended));
    }
    clustered.run("verify --log");
    let found = rows(&clustered);
    assert!(found.iter().all(|rows| !rows.is_empty()));
    assert_eq!(found, rows(&embedded));
}

#[test]
fn tables_go_on_with_a_copy_of_the_log_that_they_began_with() {
    let Some(endpoint) = cluster() else { return };
    let (embedded, moved) = (Data::new(), Data::new());
    let topic = new_topic();
    let to = format!("--from embedded --to fluvio://{endpoint}");
    for data in [&embedded, &moved] {
        configure(data, &topic, None);
        ingest(data, 600);
        data.run("stream --once");
        data.run("train --trees 10");
        ingest(data, 900);
        data.run("stream --once");
    }
    let before = printed(&moved.sentinel(&format!("topic cutover {to}")).output().unwrap());
    assert!(before.contains("the copy differs from the log at"), "{before}");
    moved.run(&format!("topic mirror {to}"));
    // What comes after the first copy, and is folded only after the cutover.
    for data in [&embedded, &moved] {
        ingest(data, 1_200);
    }
    moved.run(&format!("topic mirror {to}"));
    for _ in 0..2 {
        let told = moved.run(&format!("topic cutover {to}"));
        assert!(told.contains("the tables follow topic"), "{told}");
    }
    let refused = moved.sentinel("stream --once").output().unwrap();
    assert_eq!(refused.status.code(), Some(3));
    assert!(printed(&refused).contains("the tables follow another event log"), "{}", printed(&refused));

    configure(&moved, &topic, Some(&endpoint));
    moved.run("stream --once");
    moved.run("verify --log");
    let folded = rows(&moved);
    moved.run(&format!("topic cutover {to}"));
    moved.run("stream --once");
    assert_eq!(rows(&moved), folded, "a cutover that is done sets nothing back");
    for data in [&embedded, &moved] {
        ingest(data, 1_800);
        data.run("stream --once");
        data.run("verify --log");
    }
    let found = rows(&moved);
    assert!(found.iter().all(|rows| !rows.is_empty()));
    assert_eq!(found, rows(&embedded));
    let version = moved.sentinel("table restore features --version 1").output().unwrap();
    assert!(printed(&version).contains("lies before the cutover"), "{}", printed(&version));
}

#[test]
fn only_an_embedded_log_that_is_there_is_copied_and_only_to_a_cluster() {
    let data = Data::new();
    for (flags, told) in [
        ("mirror --to embedded", "`--to` is a cluster"),
        ("mirror --to fluvio://127.0.0.1:1", "there is no embedded log to copy"),
        ("cutover --to fluvio://127.0.0.1:1", "there is no embedded log to copy"),
    ] {
        let refused = data.sentinel(&format!("topic {flags}")).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{flags}");
        assert!(printed(&refused).contains(told), "{}", printed(&refused));
    }
}
