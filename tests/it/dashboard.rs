//! The dashboard as a person uses it: a real browser before a running program.
//!
//! Pictures of the pages are kept in the folder that `SENTINEL_PICTURES` names, where it names one.

use std::{env, fs, path::PathBuf};

use domain::Timestamp;
use serde_json::{Value, json};

use crate::{
    browser::Browser,
    harness::{Data, Served},
    requirements,
};

/// The pages, and what each shows once it has asked for everything.
const PAGES: [(&str, &str); 6] = [
    (
        "status",
        r"/\d events\/s/.test(document.querySelector('#status-pipeline')?.textContent ?? '')
        && document.querySelectorAll('.status-part').length === 6
        && [...document.querySelectorAll('.status-part tr:first-child td')].every((one) => /\d/.test(one.textContent))",
    ),
    ("live", "!!document.querySelector('#live-prices .scatterlayer .trace')"),
    (
        "analytics",
        "!!document.querySelector('#analytics-rows .table-row') && !document.querySelector('#page-analytics .notice-loading')",
    ),
    ("test", "!!document.querySelector('#test-verdict')?.innerText"),
    ("models", "!!document.querySelector('#models-row-1')"),
    ("jobs", "/retrain/.test(document.querySelector('#jobs-schedules')?.innerText ?? '')"),
];

/// The presets of the manual test, and the vectors that they stand for.
const PRESETS: [(&str, [f64; 5]); 4] = [
    ("normal", [0.1, 0.05, 0.2, 0.002, 10.0]),
    ("price-spike", [4.5, 3.8, 1.5, 0.008, 25.0]),
    ("volume-spike", [0.5, 0.3, 4.8, 0.003, 45.0]),
    ("flash-crash", [-4.2, -4.5, 3.5, 0.009, 40.0]),
];

/// A market of the last hour with a model and alerts, that goes on.
struct Scene {
    data: Data,
    served: Served,
}

impl Scene {
    fn new() -> Self {
        let data = Data::quiet();
        let micros = i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros()).unwrap();
        let start = Timestamp::from_seconds(micros / 1_000_000 - 2_400);
        // An event a second of each of three markets, up to now.
        for (events, then) in [(3_600, "train --trees 50"), (7_200, "train --trees 50 --no-promote --seed 7")] {
            data.run(&format!("ingest simulated --events {events} --seed 3 --start {start} --speed 0"));
            data.run("stream --once");
            data.run(then);
        }
        let served = Served::start(data.sentinel("up --bind 127.0.0.1:0 --seed 3"));
        served.wait_for("/readyz", "\"status\":\"ready\"");
        Self { data, served }
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.served.text(path)).unwrap()
    }
}

/// A picture for the documentation, where somebody wants it.
fn picture(browser: &Browser, name: &str) {
    if let Some(folder) = env::var_os("SENTINEL_PICTURES").map(PathBuf::from) {
        fs::create_dir_all(&folder).unwrap();
        browser.picture(&folder.join(format!("{name}.png")));
    }
}

#[test]
fn every_page_shows_what_there_is_at_any_width_and_writes_no_error() {
    let Some(chromium) = requirements::chromium() else { return };
    let scene = Scene::new();
    let browser = Browser::open(chromium, 1_280, 900);
    for (width, height) in [(1_280, 900), (390, 844)] {
        browser.resize(width, height);
        for (page, is_there) in PAGES {
            browser.go(&scene.served.url(&format!("/#/{page}")));
            browser.wait_until(is_there);
            browser.wait_until("document.documentElement.scrollWidth <= document.documentElement.clientWidth");
            browser.wait_until("!document.querySelector('#simulated').hidden");
            picture(&browser, &format!("{page}-{width}"));
            assert_eq!(browser.errors(), Vec::<String>::new(), "{page} at {width}");
        }
    }
}

#[test]
fn an_alert_leads_to_its_evidence_and_what_is_said_of_it_is_kept() {
    let Some(chromium) = requirements::chromium() else { return };
    let scene = Scene::new();
    let browser = Browser::open(chromium, 1_280, 900);
    let alert = scene.json("/alerts?limit=1")["alerts"][0].clone();
    let (id, symbol) = (alert["id"].as_str().unwrap(), alert["symbol"].as_str().unwrap());

    browser.go(&scene.served.url("/#/live"));
    browser.choose("#live-symbol", symbol);
    browser.wait_until(&format!("location.hash.includes('symbol={symbol}')"));
    // Notices are for those who ask for them.
    let is_there = |what: &str| format!("!!document.querySelector('#live-alerts {what}')");
    browser.wait_until(&is_there("button"));
    browser.wait_until(&format!("!({})", is_there(".badge-notice")));
    browser.click("#live-severity [data-value='notice']");
    browser.wait_until(&is_there(".badge-notice"));
    browser.click("#live-severity [data-value='']");
    browser.wait_until(&format!("!({})", is_there(".badge-notice")));
    // Others may have been raised since.
    browser.click(&format!("#live-alerts [data-alert='{id}']"));
    browser.text_with("#evidence", symbol);
    let opened = "decodeURIComponent(location.hash.match(/alert=([^&]+)/)?.[1] ?? '')";
    browser.value_when(opened, |opened| opened == &json!(id));
    browser.wait_until("!!document.querySelector('#evidence-chart .scatterlayer .trace')");
    picture(&browser, "evidence");

    browser.set("#evidence-note", "seen in a test");
    browser.click("#evidence-ack");
    browser.text_with("#evidence-ack", "Acknowledged");
    browser.click("#evidence-true-positive");
    browser.text_with("#evidence", "True positive by");
    let kept = scene.json(&format!("/alerts/{id}"));
    assert_eq!(kept["alert"]["acknowledged"], json!(true));
    assert_eq!(kept["acknowledgements"][0]["note"], json!("seen in a test"));
    assert_eq!(kept["verdicts"][0]["verdict"], json!("true_positive"));
    assert_eq!(browser.errors(), Vec::<String>::new());
}

/// Prices and scores are two plots, each of which is drawn in less time than one of both; to a person they are one.
#[test]
fn the_plots_of_the_live_feed_have_one_crosshair_and_one_time_axis() {
    let Some(chromium) = requirements::chromium() else { return };
    let scene = Scene::new();
    let browser = Browser::open(chromium, 1_280, 900);
    browser.go(&scene.served.url("/#/live"));
    browser.wait_until("!!document.querySelector('#live-scores .scatterlayer .trace')");
    let crosshairs = "['prices', 'scores'].filter((plot) => document.querySelector(`#live-${plot} .spikeline`)).length";
    for plot in ["#live-prices", "#live-scores"] {
        browser.hover(plot);
        browser.wait_until(&format!("{crosshairs} === 2"));
        browser.hover("#live-pause");
        browser.wait_until(&format!("{crosshairs} === 0"));
    }

    browser.click("#live-pause");
    browser.wait_until("document.querySelector('#live-prices').layout.dragmode === 'zoom'");
    let both_show = |time: &str| {
        browser.wait_until(&format!(
            "(() => {{ const [one, other] = ['prices', 'scores'].map((plot) => document.querySelector(`#live-${{plot}}`) \
             .layout.xaxis.range.map((at) => Number(new Date(at)))); \
             const time = one[1] - one[0]; return one.join() === other.join() && {time}; }})()"
        ));
    };
    both_show("time === 900_000");
    browser.drag("#live-prices", 0.4, 0.6);
    both_show("time < 300_000");
    // How fast two clicks must be for it is Plotly's.
    browser.value("document.querySelector('#live-scores').emit('plotly_doubleclick')");
    both_show("time === 900_000");
    assert_eq!(browser.errors(), Vec::<String>::new());
}

#[test]
fn every_preset_is_answered_as_the_service_answers_it() {
    let Some(chromium) = requirements::chromium() else { return };
    let scene = Scene::new();
    let browser = Browser::open(chromium, 1_280, 900);
    browser.go(&scene.served.url("/#/test"));
    browser.choose("#test-symbol", "BTC-USDT");
    let before = scene.json("/stats")["total_predictions"].as_u64().unwrap();
    for (preset, [z_price, z_log_return, z_volume, price_std, volume_std]) in PRESETS {
        browser.click(&format!("#test-preset-{preset}"));
        browser.wait_until(&format!("location.hash.includes('preset={preset}')"));
        let asked = json!({
            "symbol": "BTC-USDT", "z_score_price": z_price, "z_score_log_return": z_log_return, "z_score_volume": z_volume,
            "rolling_price_std": price_std, "rolling_volume_std": volume_std,
        });
        let answer: Value = serde_json::from_str(&scene.served.posted("/explain", &asked.to_string())).unwrap();
        let score = answer["anomaly_score"].as_f64().unwrap();
        let sign = if score < 0.0 { '\u{2212}' } else { '+' };
        let shown = browser.text_with("#page-test .gauge", &format!("{sign}{:.4}", score.abs()));
        let verdict = if answer["is_anomaly"] == json!(true) { "Anomaly" } else { "Normal" };
        browser.text_with("#test-verdict", verdict);
        let leading = answer["features"][0]["share"].as_f64().unwrap();
        browser.text_with("#page-test .shares tbody tr", &format!("{:.0} %", leading * 100.0));
        assert!(!shown.is_empty());
        picture(&browser, &format!("test-{preset}"));
    }
    let after = || scene.json("/latest-predictions?limit=500");
    let manual = after().as_array().unwrap().iter().filter(|shown| shown["origin"] == json!("manual")).count();
    assert_eq!(manual, PRESETS.len(), "each preset is one prediction; {before} before");
    assert_eq!(browser.errors(), Vec::<String>::new());
}

#[test]
fn the_rows_that_are_exported_are_those_of_the_service() {
    let Some(chromium) = requirements::chromium() else { return };
    let scene = Scene::new();
    let browser = Browser::open(chromium, 1_280, 900);
    browser.go(&scene.served.url("/#/analytics?symbol=ETH-USDT"));
    browser.wait_until("!!document.querySelector('#analytics-rows .table-row')");
    browser.click("#analytics-anomalies");
    browser.wait_until("location.hash.includes('anomalies=1')");
    browser.wait_until(
        "[...document.querySelectorAll('#analytics-rows .table-row')].every((row) => row.matches('.is-anomaly'))",
    );
    picture(&browser, "analytics-anomalies");
    browser.click("#analytics-export-csv");
    let exported = fs::read_to_string(browser.saved(".csv")).unwrap();
    // The page reads one version of the table and says which.
    let version =
        browser.value("Number(document.querySelector('#page-analytics').innerText.match(/version (\\d+)/)[1])");
    let path = format!("/predictions?symbol=ETH-USDT&anomalies_only=true&version={version}&format=csv&limit=1000000");
    let asked = scene.served.text(&path);
    assert!(asked.lines().count() > 5, "{asked}");
    assert_eq!(exported, asked);
    assert_eq!(browser.errors(), Vec::<String>::new());
}

#[test]
fn models_are_promoted_and_jobs_started_by_hand() {
    let Some(chromium) = requirements::chromium() else { return };
    let scene = Scene::new();
    let browser = Browser::open(chromium, 1_280, 900);
    browser.go(&scene.served.url("/#/models?version=2"));
    browser.click("#models-promote");
    browser.set("dialog[open] form input", "seen in a test");
    browser.click("dialog[open] form button[type=submit]");
    browser.text_with("#models-champion", "2");
    assert_eq!(scene.json("/models/2")["model"]["status"], json!("champion"));
    picture(&browser, "models-promoted");
    browser.click("#models-roll-back");
    browser.set("dialog[open] form input", "seen enough");
    browser.click("dialog[open] form button[type=submit]");
    browser.wait_until(
        "fetch('/models/1').then((answer) => answer.json()).then((page) => page.model.status === 'champion')",
    );
    let history = scene.json("/models/1")["history"].clone();
    assert_eq!(history.as_array().unwrap().last().unwrap()["why"], json!("seen enough"));

    browser.go(&scene.served.url("/#/jobs"));
    browser.click("#jobs-trigger-evaluate");
    browser.click("#jobs-confirm");
    browser.text_with("#jobs-runs", "Succeeded");
    let runs = scene.json("/runs");
    assert_eq!((&runs[0]["job"], &runs[0]["state"]), (&json!("evaluate"), &json!("succeeded")));
    browser.click("#jobs-runs .table-row");
    browser.text_with("#jobs-run-history", "model version 1");
    picture(&browser, "jobs-run");
    assert_eq!(browser.errors(), Vec::<String>::new());
}

#[test]
fn a_connection_that_breaks_is_told_and_heals() {
    let Some(chromium) = requirements::chromium() else { return };
    let Scene { data, served } = Scene::new();
    let browser = Browser::open(chromium, 1_280, 900);
    browser.go(&served.url("/#/live"));
    browser.text_with("#connection", "Live");
    browser.wait_until("!!document.querySelector('#live-prices .scatterlayer .trace')");
    let address = served.url("").replace("http://", "");
    assert!(served.interrupt().success());
    browser.text_with("#connection", "Disconnected");
    browser.text_with("#live-banner", "Next try in");
    picture(&browser, "live-disconnected");
    let served = Served::start(data.sentinel(&format!("up --bind {address}")));
    browser.text_with("#connection", "Live");
    browser.text_with("#live-banner", "Live since");
    // What comes after the break is shown without the page being loaded again.
    let newest = browser.value("document.querySelector('#live-now').innerText");
    browser.value_when("document.querySelector('#live-now').innerText", |now| now != &newest);
    drop(served);
}

/// A change that is told while the page asks would else be seen one pause later.
#[test]
fn what_is_told_during_a_look_is_looked_at_again() {
    let Some(chromium) = requirements::chromium() else { return };
    let data = Data::quiet();
    let served = Served::start(data.sentinel("serve --bind 127.0.0.1:0"));
    let browser = Browser::open(chromium, 1_280, 900);
    browser.go(&served.url("/"));
    browser.value(
        "import('/assets/api.js').then(({ poll }) => { window.looks = 0; const polling = poll(3_600_000, async () => { \
         looks += 1; await null; if (looks === 1) polling.now(); }, () => {}); })",
    );
    browser.wait_until("looks === 2");
}
