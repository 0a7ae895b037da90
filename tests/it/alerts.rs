//! Alerts: few, confirmed, and the same however the job is interrupted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
};

use domain::{Severity, Timestamp};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use lake::TableName;
use serde_json::{Value, json};

use crate::{
    harness::{Data, Served, printed},
    requirements,
};

/// Event time in microseconds.
fn micros(text: &str) -> i64 {
    Timestamp::parse(text).unwrap().micros()
}

/// How long after its last event an injected anomaly still lies in the rolling window.
const AFTERMATH: i64 = 60_000_000;

/// Rows of `predictions`, as far as alerts are measured by them.
struct Scored {
    symbol: String,
    time: i64,
    label: Option<String>,
}

/// An event of an alert.
struct Alerted {
    symbol: String,
    time: i64,
    alert: String,
    alert_type: String,
    severity: Severity,
}

fn scored(data: &Data) -> Vec<Scored> {
    let schema = TableName::Predictions.schema();
    let at = |name: &str| schema.index_of(name).unwrap();
    let [symbol, time, label, in_sample] = ["symbol", "timestamp", "label_anomaly_type", "in_sample"].map(at);
    let live = data.rows(TableName::Predictions, &[]).into_iter().filter(|row| row[in_sample] == "false");
    let row = |row: Vec<String>| Scored {
        symbol: row[symbol].clone(),
        time: micros(&row[time]),
        label: Some(row[label].clone()).filter(|label| !label.is_empty()),
    };
    live.map(row).collect()
}

fn alerted(data: &Data) -> Vec<Alerted> {
    let schema = TableName::Alerts.schema();
    let at = |name: &str| schema.index_of(name).unwrap();
    let [symbol, time, alert, alert_type, severity] =
        ["symbol", "timestamp", "alert_id", "alert_type", "severity"].map(at);
    let row = |row: Vec<String>| Alerted {
        symbol: row[symbol].clone(),
        time: micros(&row[time]),
        alert: row[alert].clone(),
        alert_type: row[alert_type].clone(),
        severity: Severity::from_name(&row[severity]).unwrap(),
    };
    data.rows(TableName::Alerts, &[]).into_iter().map(row).collect()
}

/// The injected anomalies: symbol, kind, first and last event time. Scored rows are ordered by symbol and time.
fn injected(scored: &[Scored]) -> Vec<(&str, &str, i64, i64)> {
    let mut episodes: Vec<(&str, &str, i64, i64)> = Vec::new();
    let mut before: Option<&Scored> = None;
    for row in scored {
        if let Some(label) = &row.label {
            let goes_on = before.is_some_and(|before| before.symbol == row.symbol && before.label == row.label);
            match episodes.last_mut() {
                Some(last) if goes_on => last.3 = row.time,
                _ => episodes.push((&row.symbol, label, row.time, row.time)),
            }
        }
        before = Some(row);
    }
    episodes
}

/// How events of alerts agree with what was injected.
#[derive(Debug)]
struct Agreement<'a> {
    /// By kind: the anomalies that are met, those that are called by their name, and all.
    found: BTreeMap<&'a str, [usize; 3]>,
    /// Alerts none of whose events is of an anomaly or its aftermath, an hour and symbol.
    false_an_hour: f64,
    /// Events of alerts that are of neither, an hour and symbol. A loose detector has few false alerts, since each of them
    /// lasts until an anomaly comes by: its events betray it.
    normal_events_an_hour: f64,
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
impl<'a> Agreement<'a> {
    fn of(injected: &[(&str, &'a str, i64, i64)], alerted: &[&Alerted], symbol_hours: f64) -> Self {
        let mut found: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
        for (symbol, label, first, last) in injected {
            let is_met = |event: &&&Alerted| event.symbol == *symbol && (*first..=*last).contains(&event.time);
            let [met, named, all] = found.entry(label).or_default();
            let events: Vec<_> = alerted.iter().filter(is_met).collect();
            *met += usize::from(!events.is_empty());
            *named += usize::from(events.iter().any(|event| event.alert_type == *label));
            *all += 1;
        }
        let is_true = |event: &&&Alerted| {
            injected.iter().any(|(symbol, _, first, last)| {
                event.symbol == *symbol && (*first..=*last + AFTERMATH).contains(&event.time)
            })
        };
        let raised: BTreeSet<&str> = alerted.iter().map(|event| event.alert.as_str()).collect();
        let of_anomalies: Vec<_> = alerted.iter().filter(is_true).collect();
        let true_ones: BTreeSet<&str> = of_anomalies.iter().map(|event| event.alert.as_str()).collect();
        Self {
            found,
            false_an_hour: (raised.len() - true_ones.len()) as f64 / symbol_hours,
            normal_events_an_hour: (alerted.len() - of_anomalies.len()) as f64 / symbol_hours,
        }
    }

    /// The share of the anomalies that is met, and of these the share that is called by its name.
    fn shares(&self, is_wanted: impl Fn(&str) -> bool) -> (f64, f64) {
        let counts = self.found.iter().filter(|(kind, _)| is_wanted(kind)).map(|(_, counts)| *counts);
        let [met, named, all] = counts.fold([0; 3], |sum, counts| [0, 1, 2].map(|place| sum[place] + counts[place]));
        assert!(all > 10, "{self:?}");
        (met as f64 / all as f64, named as f64 / met as f64)
    }
}

#[test]
#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn injected_anomalies_raise_alerts_and_calm_markets_hardly_any() {
    let data = Data::quiet();
    // Three hours to learn from, seven hours to watch, an event a second of each of three symbols.
    data.run("ingest simulated --events 32400 --start 2024-03-09T00:00:00Z --speed 0");
    data.run("stream --once");
    data.run("train");
    data.run("ingest simulated --events 108000 --start 2024-03-09T00:00:00Z --speed 0");
    data.run("stream --once");

    let (scored, alerted) = (scored(&data), alerted(&data));
    let injected = injected(&scored);
    let symbol_hours = scored.len() as f64 / 3_600.0;
    let [shown, all] = [Severity::LEAST_SHOWN, Severity::Notice].map(|least| {
        let alerted: Vec<_> = alerted.iter().filter(|event| event.severity >= least).collect();
        Agreement::of(&injected, &alerted, symbol_hours)
    });
    println!("without notices {shown:#?}\nwith notices {all:#?}, {:.3} of them met", all.shares(|_| true).0);
    for kind in ["PRICE_SPIKE", "FLASH_CRASH"] {
        let (met, named) = shown.shares(|of| of == kind);
        assert!(met > 0.95 && named > 0.85, "{shown:?}");
    }
    assert!(shown.shares(|of| of == "VOLUME_SPIKE").0 > 0.3, "{shown:?}");
    assert!(shown.false_an_hour <= 0.5 && shown.normal_events_an_hour <= 1.0, "{shown:?}");
    let (met, named) = all.shares(|_| true);
    assert!(met >= 0.95 && named > 0.85 && all.false_an_hour <= 1.0, "{all:?}");
}

#[test]
fn recorded_markets_raise_few_alerts() {
    let recordings = ["data/binance_ws_spot_btcusdt_20240808.gz", "data/binance_ws_spot_ethusdt_20240808.gz"];
    let paths: Vec<_> = recordings.iter().filter_map(|file| requirements::shared(file)).collect();
    if paths.len() < recordings.len() {
        return;
    }
    let data = Data::quiet();
    let mut halves = [String::new(), String::new()];
    for (number, path) in paths.iter().enumerate() {
        let mut frames = String::new();
        GzDecoder::new(fs::File::open(path).unwrap()).read_to_string(&mut frames).unwrap();
        let middle = frames[..frames.len() / 2].rfind('\n').unwrap() + 1;
        for (half, (names, part)) in halves.iter_mut().zip([&frames[..middle], &frames[middle..]]).enumerate() {
            let name = format!("{number}-{half}.gz");
            let mut file = GzEncoder::new(fs::File::create(data.path().join(&name)).unwrap(), Compression::fast());
            file.write_all(part.as_bytes()).unwrap();
            file.finish().unwrap();
            names.push_str(&name);
            names.push(' ');
        }
    }
    data.run(&format!("ingest file {}", halves[0]));
    data.run("stream --once");
    data.run("train");
    data.run(&format!("ingest file {}", halves[1]));
    data.run("stream --once");

    let live = scored(&data).len();
    assert!(live > 5_000, "only {live} trades were scored as they came");
    let mut alerts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in alerted(&data) {
        alerts.entry(event.symbol).or_default().insert(event.alert);
    }
    println!("{live} trades, alerts {alerts:?}");
    assert!(alerts.values().all(|of_symbol| of_symbol.len() <= 5), "{alerts:?}");
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A data folder with so many simulated ticks in its tables; called again, with more of them.
fn grow(data: &Data, ticks: u64) {
    data.run(&format!("ingest simulated --events {} --seed 3 --start 2024-03-09T16:00:00Z --speed 0", 3 * ticks));
    data.run("stream --once");
}

#[test]
fn alerts_are_raised_looked_at_and_judged_by_hand_and_over_http() {
    let data = Data::quiet();
    grow(&data, 3_000);
    data.run("train");
    assert_eq!(parsed(&data.run("alert list --json")), json!([]));
    let served = Served::start(data.sentinel("serve --bind 127.0.0.1:0"));
    grow(&data, 6_000);
    served.wait_for("/alerts", "\"id\":\"");
    let alerts = parsed(&data.run("alert list --json"));
    let alert = &alerts[0];
    let id = alert["id"].as_str().unwrap();
    let shown = parsed(&data.run(&format!("alert show {id} --json")));
    assert_eq!((&shown["alert"], &shown["not_explained"]), (alert, &Value::Null));
    let (peak, explanation) = (&alert["peak"], &shown["explanation"]);
    for told in [&shown["prediction"]["anomaly_score"], &explanation["anomaly_score"]] {
        assert_eq!(told, &peak["anomaly_score"], "{shown}");
    }
    let leading = |feature: &&Value| feature["feature"] == peak["leading_feature"];
    assert_eq!(explanation["features"].as_array().unwrap().iter().find(leading).unwrap()["share"], peak["share"]);
    let around = shown["around"].as_array().unwrap();
    assert!(around.iter().any(|event| event["id"] == peak["id"]), "{shown}");
    assert!(data.run(&format!("alert show {id}")).contains("around the peak"));

    data.run(&format!("alert ack {id} --note seen"));
    data.run(&format!("alert verdict {id} true_positive"));
    served.wait_for(&format!("/alerts/{id}"), "\"verdict\":\"true_positive\"");
    served.post(&format!("/alerts/{id}/verdict"), "{\"verdict\": \"unclear\"}", 200);
    let shown = parsed(&data.run(&format!("alert show {id} --json")));
    let said = |verdict: &Value| format!("{} by {}", verdict["verdict"], verdict["who"]);
    let verdicts: Vec<_> = shown["verdicts"].as_array().unwrap().iter().map(said).collect();
    assert_eq!(verdicts, ["\"true_positive\" by \"command line\"", "\"unclear\" by \"API\""]);
    assert_eq!((&shown["alert"]["acknowledged"], &shown["alert"]["verdict"]), (&json!(true), &json!("unclear")));
    let open = parsed(&data.run("alert list --open --json"));
    assert_eq!(open.as_array().unwrap()[..], alerts.as_array().unwrap()[1..]);

    let refused = data.sentinel("alert ack 3:999999").output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(printed(&refused).contains("there is no alert 3:999999"), "{}", printed(&refused));
    assert!(served.interrupt().success());
}
