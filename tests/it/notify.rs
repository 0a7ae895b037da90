//! Alerts on their way out: a webhook is told what the table `alerts` says was raised, by who folds and by nobody else.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use domain::Severity;
use lake::TableName;
use serde_json::Value;

use crate::{
    harness::{Data, Served, printed},
    venue::free_address,
};

const MARKET: &str = "--seed 21 --start 2024-03-09T16:00:00Z --speed 0";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// An alert as receiver and table know it: name, market, kind, severity, model and leading feature.
type Alert = [String; 6];

/// A receiver of messages on the loopback that takes everything.
struct Receiver {
    address: SocketAddr,
    messages: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    fn open_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let (address, messages) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let taken = messages.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let message = take(stream.unwrap());
                taken.lock().unwrap().push(message);
            }
        });
        Self { address, messages }
    }

    /// Every alert that was told, each of which must have been told once.
    fn alerts(&self) -> BTreeSet<Alert> {
        let messages = self.messages.lock().unwrap();
        let told: Vec<&Value> =
            messages.iter().flat_map(|message| message["data"]["alerts"].as_array().unwrap()).collect();
        let alerts: BTreeSet<Alert> = told
            .iter()
            .map(|alert| {
                assert_eq!(alert["path"], format!("/alerts/{}", alert["id"].as_str().unwrap()));
                let names = ["id", "symbol", "type", "severity", "model_version", "leading_feature"];
                names.map(|name| alert[name].as_str().map_or_else(|| alert[name].to_string(), str::to_owned))
            })
            .collect();
        assert_eq!(alerts.len(), told.len());
        alerts
    }
}

/// Takes one message, which must be signed.
fn take(mut stream: TcpStream) -> Value {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let head: Vec<String> = reader.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
    let header = |name: &str| {
        let values = head.iter().filter_map(|line| line.split_once(": ").filter(|(found, _)| *found == name));
        values.map(|(_, value)| value.to_owned()).next().unwrap()
    };
    let mut body = vec![0; header("content-length").parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let message: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((head[0].as_str(), &message["id"]), ("POST /told HTTP/1.1", &Value::from(header("webhook-id"))));
    assert!(header("webhook-signature").starts_with("v1,") && !header("webhook-timestamp").is_empty());
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    message
}

/// A command that is to tell a receiver at an address.
fn telling(data: &Data, address: SocketAddr, arguments: &str) -> Command {
    let mut command = data.sentinel(arguments);
    command.env("SENTINEL__ALERTS__WEBHOOK_URL", format!("http://{address}/told"));
    command.env("SENTINEL__ALERTS__WEBHOOK_SECRET", SECRET);
    command
}

/// What the table says was raised, of this severity at least.
fn raised(data: &Data, least: Severity) -> BTreeSet<Alert> {
    let column = |name: &str| TableName::Alerts.schema().index_of(name).unwrap();
    let columns = ["alert_id", "symbol", "alert_type", "severity", "model_version", "leading_feature"].map(column);
    let (partition, offset) = (column("partition"), column("offset"));
    let rows = data.rows(TableName::Alerts, &[]);
    let raising = rows.iter().filter(|row| row[columns[0]] == format!("{}:{}", row[partition], row[offset]));
    let raised: BTreeSet<Alert> = raising.map(|row| columns.map(|column| row[column].clone())).collect();
    assert!(raised.len() > 5 && raised.len() < rows.len(), "{} alerts of {} events", raised.len(), rows.len());
    assert!(raised.iter().any(|alert| alert[3] == Severity::Notice.as_str()), "{raised:?}");
    raised.into_iter().filter(|alert| Severity::from_name(&alert[3]).unwrap() >= least).collect()
}

/// A trained model that has scored nothing yet, in a data folder where nothing happens by itself.
fn with_a_model() -> Data {
    let data = Data::quiet();
    data.run(&format!("ingest simulated --events 3000 {MARKET}"));
    data.run("stream --once");
    data.run("train --trees 50");
    data
}

#[test]
fn who_folds_tells_every_alert_that_is_raised_but_notices_and_who_replays_or_serves_tells_none() {
    let (data, receiver) = (with_a_model(), Receiver::open_at(SocketAddr::from(([127, 0, 0, 1], 0))));
    data.run(&format!("ingest simulated --events 12000 {MARKET}"));
    let output = telling(&data, receiver.address, "stream --once").output().unwrap();
    let said = printed(&output);
    assert!(output.status.success() && said.contains("raised together"), "{said}");
    assert!(!said.contains("/told") && !said.contains(SECRET), "{said}");
    let told = receiver.alerts();
    assert_eq!(told, raised(&data, Severity::Warning));

    let replayed = telling(&data, receiver.address, "replay --json --diff-against live").output().unwrap();
    assert!(replayed.status.success(), "{}", printed(&replayed));
    let served = Served::start(telling(&data, receiver.address, "serve --bind 127.0.0.1:0"));
    served.wait_for("/stats", "\"total_predictions\":12000");
    assert!(served.interrupt().success());
    let again = telling(&data, receiver.address, "stream --once").output().unwrap();
    assert!(again.status.success(), "{}", printed(&again));
    assert_eq!(receiver.alerts(), told);
}

#[test]
fn a_receiver_that_comes_late_is_told_everything_that_was_asked_for_and_the_status_says_that_it_was_missed() {
    let (data, address) = (with_a_model(), free_address());
    let up = format!("up --bind 127.0.0.1:0 --events 12000 {MARKET}");
    let mut command = telling(&data, address, &up);
    command.env("SENTINEL__ALERTS__MINIMUM_SEVERITY", "notice");
    let served = Served::start(command);
    served.wait_for("/system-status", &format!("alerts wait for http://{address}: cannot connect"));
    served.wait_for("/system-status", r#""name":"Stream","status":"degraded""#);
    served.wait_for("/metrics", "sentinel_records_folded_total{fate=\"admitted\"} 9000");
    let receiver = Receiver::open_at(address);
    served.wait_for("/system-status", r#""name":"Stream","status":"online""#);
    assert!(served.interrupt().success());
    assert_eq!(receiver.alerts(), raised(&data, Severity::Notice));
}
