//! Traces of a running program, as a collector on this machine gets them, and what it counts about the way of an event.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::mpsc::{self, Receiver},
    thread,
};

use crate::harness::{Data, Served};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The endpoint of a collector, and the bodies that it gets.
fn collector() -> (String, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/", listener.local_addr().unwrap());
    let (sender, received) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert!(stream.read_line(&mut head).unwrap() > 0, "{head}");
            }
            assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
            let head = head.to_lowercase();
            assert!(head.contains("content-type: application/x-protobuf\r\n"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            // Before the answer: the program may end with it.
            if sender.send(body).is_err() {
                return;
            }
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        }
    });
    (endpoint, received)
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn requests_and_trainings_reach_the_collector_before_the_program_has_ended() {
    let (endpoint, received) = collector();
    let data = Data::new();
    let traced = |arguments: &str| {
        let mut command = data.sentinel(arguments);
        command.env("SENTINEL__TELEMETRY__OTLP_ENDPOINT", &endpoint);
        command
    };
    let served = Served::start(traced("serve --bind 127.0.0.1:0"));
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let headers = [("traceparent", parent.as_str()), ("x-request-id", "order-7")];
    assert_eq!(served.ask("/tables/events", &headers), 200);
    assert!(served.interrupt().success());
    let trace_id = u128::from_str_radix(TRACE, 16).unwrap().to_be_bytes();
    let sent: Vec<u8> = received.try_iter().flatten().collect();
    for part in [b"service.name".as_slice(), b"sentinel", b"GET /tables/{table}", b"order-7", &trace_id] {
        assert!(has(&sent, part), "{} is missing in {}", part.escape_ascii(), sent.escape_ascii());
    }

    data.run("ingest simulated --events 900 --seed 5 --start 2024-03-09T16:00:00Z --speed 0");
    assert!(traced("stream --once").output().unwrap().status.success());
    assert!(traced("train --trees 10").output().unwrap().status.success());
    let sent: Vec<u8> = received.try_iter().flatten().collect();
    for name in ["flush", "train", "model_version"] {
        assert!(has(&sent, name.as_bytes()), "{name} is missing in {}", sent.escape_ascii());
    }
}

/// The number that a series without labels has; 0 where there is none.
fn number(metrics: &str, series: &str) -> f64 {
    let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_default()
}

#[test]
fn an_event_is_timed_from_the_log_to_its_prediction() {
    let data = Data::quiet();
    let mut command = data.sentinel("up --bind 127.0.0.1:0 --seed 5 --warm-start-hours 0.1");
    command.env("SENTINEL__MODEL__FIRST_MODEL_ROWS", "300");
    let served = Served::start(command);
    let series = ["event_to_prediction_seconds_count", "scoring_duration_seconds_count", "logged_bytes_total"]
        .map(|name| format!("sentinel_{name}"));
    served.wait_until("/metrics", "how late a prediction came", |metrics| {
        let is_current = metrics.contains("sentinel_fold_lag_events{partition=\"0\"} 0\n");
        is_current && series.iter().all(|name| number(metrics, name) > 0.0)
    });
    assert!(served.interrupt().success());
}
