//! The settings from the outside: what layers, variables and flags make of them, and the sentences of refusals.

use std::fs;

use clap::Parser;
use domain::{ErrorKind, Event, Fold, Output, RawRecord, Record, Source, Timestamp};
use proptest::prelude::*;
use rstest::rstest;

use super::{
    checks::MAX_EVENT_FREQUENCY_SECONDS,
    keys::{SECTIONS, SETTINGS},
    layers::Origin,
    *,
};

/// One act: loads settings from a file's text, variables and a command line.
fn load(file: &str, variables: &[(&str, &str)], line: &str) -> Result<(Settings, Origins), ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    if !file.is_empty() {
        fs::write(folder.path().join("sentinel.toml"), file).unwrap();
    }
    let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Settings::load(&cli, variables, folder.path())
}

fn refusal(file: &str, variables: &[(&str, &str)], line: &str) -> String {
    let error = load(file, variables, line).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    error.to_string()
}

#[test]
fn without_anything_the_defaults_hold() {
    let (settings, origins) = load("", &[], "sentinel up").unwrap();
    assert_eq!(settings, Settings::default());
    assert_eq!(origins, Origins::default());
    assert_eq!(settings.source.symbols.len(), 3);
}

#[test]
fn the_documented_file_is_what_explain_prints_and_changes_nothing() {
    let file = include_str!("../../sentinel.toml");
    assert!(file == explain_all(), "sentinel.toml is out of date: run `sentinel config --explain > sentinel.toml`");
    let (settings, origins) = load(&explain_all(), &[], "sentinel up").unwrap();
    assert_eq!(settings, Settings::default());
    assert_eq!(origins, Origins::default());
}

#[test]
fn the_documented_file_sets_every_setting_to_its_default_once_uncommented() {
    // Prose has a blank after the #, settings have not.
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    let text: String = explain_all().lines().map(uncomment).collect();
    let (mut settings, origins) = load(&text, &[], "sentinel up").unwrap();
    let unset: Vec<_> = rows(&settings, &origins).into_iter().filter(|row| row.origin == "default").collect();
    assert_eq!(unset, []);
    let example: Vec<_> = settings.schedules.drain(..).map(|schedule| (schedule.name, schedule.job)).collect();
    assert_eq!(example, [("retrain".to_owned(), "train".to_owned())]);
    assert_eq!(settings, Settings::default());
}

#[rstest]
#[case("[schedules.nightly]\njob = \"vacuum\"\ncron = \"@daily\"\n", None)]
#[case("[schedules]\nnightly = 7\n", Some("schedule `nightly`"))]
#[case("schedules = 7\n", Some("write a table for each, [schedules.NAME]"))]
#[case("[schedules.nightly]\njob = \"vacum\"\ncron = \"@daily\"\n", Some("`nightly`: there is no job `vacum`"))]
#[case("[schedules.nightly]\njob = \"vacuum\"\ncron = \"daily\"\n", Some("sentinel.toml, [schedules]"))]
fn schedules_stand_in_the_settings_file_too(#[case] text: &str, #[case] refused: Option<&str>) {
    match (load(text, &[], "sentinel up"), refused) {
        (Ok((settings, origins)), None) => {
            let shown = render(&settings, &origins);
            let line = shown.lines().find(|line| line.starts_with("schedules.nightly = ")).unwrap();
            assert!(line.contains("vacuum") && line.ends_with("sentinel.toml"), "{line}");
        }
        (Err(error), Some(refused)) => assert!(error.to_string().contains(refused), "{error}"),
        (loaded, _) => panic!("{loaded:?}"),
    }
}

#[test]
fn every_setting_stands_in_a_section_and_has_a_sentence_that_fits_the_page() {
    for setting in SETTINGS {
        let (section, _) = setting.key.rsplit_once('.').unwrap();
        assert!(SECTIONS.iter().any(|known| known.name == section), "{}", setting.key);
        assert!(setting.about.lines().all(|line| line.len() <= 118), "{}", setting.key);
        assert!(setting.about.ends_with('.'), "{}", setting.key);
    }
    assert!(explain_all().lines().all(|line| line.len() <= 120));
}

#[test]
fn later_layers_win_and_are_named_as_origin() {
    let file = "[http]\nbind = '127.0.0.1:1'\n[log]\npartitions = 2\n[model]\ntrees = 10\n";
    let variables = [("SENTINEL__HTTP__BIND", "127.0.0.1:2"), ("SENTINEL__MODEL__TREES", "20")];
    let (settings, origins) = load(file, &variables, "sentinel up --bind localhost:3").unwrap();
    assert_eq!(settings.http.bind.to_string(), "127.0.0.1:3");
    assert_eq!((settings.model.trees, settings.log.partitions, settings.model.seed), (20, 2, 42));
    let named = ["http.bind", "model.trees", "log.partitions", "model.seed"].map(|key| origins.of(key).to_string());
    assert_eq!(named, ["flag --bind", "environment SENTINEL__MODEL__TREES", "sentinel.toml", "default"]);
}

#[test]
fn a_settings_file_can_be_named_and_must_then_exist() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.toml");
    let line = format!("sentinel up --config {}", path.display());
    assert!(refusal("", &[], &line).starts_with("cannot read the settings file"));
    fs::write(&path, "[log]\ntopic = 'other'\n").unwrap();
    let (settings, origins) = load("[log]\ntopic = 'unread'\n", &[], &line).unwrap();
    assert_eq!(settings.log.topic, "other");
    assert_eq!(origins.of("log.topic"), Origin::File(path));
}

#[rstest]
#[case("[source]\nspeeed = 2\n", "`source.speeed` (sentinel.toml)", "`source.speed`")]
#[case("[http]\nport = 2\n", "`http.port` (sentinel.toml)", "`http.")]
#[case("bind = '127.0.0.1:1'\n", "`bind` (sentinel.toml)", "`http.bind`")]
#[case("[sorce]\nkind = 'file'\n", "`sorce.kind` (sentinel.toml)", "`source.kind`")]
#[case("[nothing]\n", "`nothing` (sentinel.toml)", "did you mean")]
#[case("[source.walk.BTC-USDT]\nvolatilty = 0.1\n", "`source.walk.BTC-USDT.volatilty`", "`source.walk.volatility`")]
fn an_unknown_key_is_refused_with_the_nearest(#[case] file: &str, #[case] written: &str, #[case] nearest: &str) {
    let sentence = refusal(file, &[], "sentinel up");
    assert!(sentence.contains(written) && sentence.contains(nearest), "{sentence}");
}

#[test]
fn an_unknown_variable_is_refused_with_the_nearest_variable() {
    let sentence = refusal("", &[("SENTINEL__MODEL__TREE", "10")], "sentinel up");
    assert!(
        sentence.starts_with("`model.tree` (environment SENTINEL__MODEL__TREE)")
            && sentence.contains("`SENTINEL__MODEL__TREES`"),
        "{sentence}"
    );
    assert!(
        load("", &[("SENTINEL_REQUIRE", "python"), ("SENTINEL_HOME", "/"), ("PATH", "/bin")], "sentinel up").is_ok()
    );
}

#[test]
fn a_broken_file_is_refused_with_its_line() {
    let sentence = refusal("[log]\ntopic = 'a'\npartitions = = 4\n", &[], "sentinel up");
    assert!(sentence.starts_with("sentinel.toml line 3: "), "{sentence}");
    assert_eq!(sentence.lines().count(), 1, "{sentence}");
}

#[rstest]
#[case("SENTINEL__DATA__DIR", "./elsewhere", "data.dir")]
#[case("SENTINEL__LOG__RETENTION_DAYS", "30", "log.retention_days")]
#[case("SENTINEL__SOURCE__SYMBOLS", "BTC-USDT, SOL-USDT", "source.symbols")]
#[case("SENTINEL__SOURCE__SPEED", "2.5", "source.speed")]
#[case("SENTINEL__SOURCE__WALK__VOLATILITY", "0.001", "source.walk.volatility")]
#[case("SENTINEL__SOURCE__WALK__BTC_USDT__VOLATILITY", "0.002", "source.walk.BTC-USDT.volatility")]
#[case("SENTINEL__HTTP__REQUIRE_KEYS", "true", "http.require_keys")]
#[case("SENTINEL__HTTP__REQUESTS_PER_SECOND", "0", "http.requests_per_second")]
#[case("SENTINEL__LOGGING__FORMAT", "json", "logging.format")]
#[case("SENTINEL__TELEMETRY__OTLP_ENDPOINT", "https://otel.example:4318/tenant", "telemetry.otlp_endpoint")]
#[case("DATA_SOURCE", "file", "source.kind")]
#[case("DATA_SOURCE", "binance", "source.kind")]
#[case("SENTINEL__SOURCE__BINANCE_ENDPOINT", "ws://127.0.0.1:9443", "source.binance_endpoint")]
#[case("EVENT_FREQUENCY_SECONDS", "2", "source.event_frequency_seconds")]
#[case("ANOMALY_PROBABILITY", "0.05", "source.anomaly_probability")]
#[case("RUST_LOG", "warn,lake=debug", "logging.level")]
fn a_variable_sets_one_setting(#[case] name: &str, #[case] value: &str, #[case] key: &str) {
    let (settings, origins) = load("", &[(name, value)], "sentinel config").unwrap();
    assert_eq!(origins.of(key), Origin::Variable(name.to_owned()));
    let before = rows(&Settings::default(), &Origins::default());
    let changed: Vec<_> =
        rows(&settings, &Origins::default()).into_iter().filter(|row| !before.contains(row)).collect();
    assert_eq!(changed.len(), 1, "{changed:?}");
    assert_eq!(changed[0].key, key);
}

#[test]
fn a_variable_of_this_program_wins_over_one_of_the_original() {
    let variables = [("SENTINEL__SOURCE__ANOMALY_PROBABILITY", "0.02"), ("ANOMALY_PROBABILITY", "0.05")];
    for order in [[0, 1], [1, 0]] {
        let (settings, _) = load("", &order.map(|index: usize| variables[index]), "sentinel up").unwrap();
        assert_eq!(settings.source.anomaly_probability.to_string(), "0.02");
    }
}

#[rstest]
#[case("FEATURES_PATH", "--data-dir")]
#[case("MODEL_PATH", "--data-dir")]
#[case("MIN_PARQUET_FILES", "model.first_model_rows")]
#[case("MAX_WAIT_SECONDS", "model.first_model_rows")]
#[case("API_BASE_URL", "http.bind")]
fn a_retired_variable_is_refused_with_its_reason_and_may_be_empty(#[case] name: &str, #[case] remedy: &str) {
    let sentence = refusal("", &[(name, "x")], "sentinel up");
    assert!(sentence.contains(name) && sentence.contains(remedy), "{sentence}");
    assert!(load("", &[(name, "")], "sentinel up").is_ok());
}

#[rstest]
#[case("data.dir", "", "./data")]
#[case("log.topic", "Crypto Market", "small letters")]
#[case("log.partitions", "0", "from 1 to 1024")]
#[case("log.partitions", "-1", "whole number")]
#[case("log.partitions", "4294967297", "at most 2147483647")]
#[case("log.retention_days", "2.5", "whole number")]
#[case("source.kind", "kafka", "binance")]
#[case("source.binance_endpoint", "https://stream.binance.com", "wss://stream.binance.com:9443")]
#[case("source.binance_endpoint", "wss://me:secret@host", "need no key")]
#[case("source.symbols", "btc", "BASE-QUOTE")]
#[case("source.symbols", "BTC-USDT,BTC-USDT", "name BTC-USDT once")]
#[case("source.event_frequency_seconds", "8", "use at most 5.9 seconds")]
#[case("source.event_frequency_seconds", "0", "from 0.001 to 5.9")]
#[case("source.event_frequency_seconds", "NaN", "write a number")]
#[case("source.anomaly_probability", "0.7", "from 0 to 0.5")]
#[case("source.seed", "9223372036854775808", "whole number")]
#[case("source.speed", "-1", "from 0")]
#[case("source.speed", "fast", "\"auto\"")]
#[case("source.walk.volatility", "0", "from 0.000000001 to 0.1")]
#[case("source.walk.ETH-USDT.start_price", "0", "from 0.00000001 to")]
#[case("source.walk.eth.start_price", "1", "BASE-QUOTE")]
#[case("stream.flush_seconds", "0", "from 0.1 to 3600")]
#[case("lake.compact_every_commits", "1", "from 2")]
#[case("model.contamination", "0", "above 0")]
#[case("model.alert_quantile", "0.02", "model.contamination = 0.01")]
#[case("alerts.minimum_severity", "loud", "\"critical\"")]
#[case("alerts.log", "sometimes", "true or false")]
#[case("alerts.webhook_url", "example.org/alerts", "https://example.org/alerts")]
#[case("alerts.webhook_url", "https://me:key@example.org", "before the @")]
#[case("alerts.webhook_secret", "whsec_short", "24 to 64 bytes as base64")]
#[case("http.bind", "8000", "127.0.0.1:8000")]
#[case("http.require_keys", "yes", "\"auto\", true or false")]
#[case("http.requests_per_second", "1000001", "from 0 to 1000000")]
#[case("http.burst", "0", "from 1 to 1000000")]
#[case("http.max_connections", "0", "from 1 to 100000")]
#[case("http.tls_cert", "cert.pem", "and http.tls_key, or none")]
#[case("http.tls_key", "key.pem", "and http.tls_key, or none")]
#[case("logging.level", "loud", "not a level")]
#[case("logging.format", "xml", "\"json\"")]
#[case("telemetry.otlp_endpoint", "127.0.0.1:4318", "http://127.0.0.1:4318")]
#[case("telemetry.otlp_endpoint", "grpc://127.0.0.1:4317", "http://127.0.0.1:4318")]
#[case("telemetry.otlp_endpoint", "http://me:secret@host", "OTEL_EXPORTER_OTLP_HEADERS")]
#[case("telemetry.otlp_endpoint", "http://host/?key=secret", "OTEL_EXPORTER_OTLP_HEADERS")]
fn a_value_outside_its_limits_is_refused_with_what_to_write(
    #[case] key: &str,
    #[case] value: &str,
    #[case] remedy: &str,
) {
    let (section, name) = key.rsplit_once('.').unwrap();
    let quoted = if key == "source.symbols" {
        format!("{:?}", value.split(',').collect::<Vec<_>>())
    } else {
        format!("{value:?}")
    };
    // A number beyond 63 bits is not even TOML.
    let is_bare = value.parse::<f64>().is_ok_and(f64::is_finite) && value.len() < 19;
    let written = if is_bare && key != "http.bind" { value.to_owned() } else { quoted };
    let sentence = refusal(&format!("[{section}]\n{name} = {written}\n"), &[], "sentinel up");
    assert!(sentence.contains(remedy), "{sentence}");
    assert!(sentence.starts_with(key) || sentence.starts_with("sentinel.toml"), "{sentence}");
    // Text of the environment is refused alike.
    if !value.is_empty() && !key.contains("walk.") {
        let variable = format!("SENTINEL__{}", key.replace('.', "__").to_ascii_uppercase());
        let sentence = refusal("", &[(&variable, value)], "sentinel up");
        assert!(sentence.contains(remedy) && sentence.contains(&variable), "{sentence}");
    }
}

#[test]
fn a_value_that_a_later_layer_replaces_is_checked_too() {
    let sentence = refusal("[model]\ntrees = 0\n", &[("SENTINEL__MODEL__TREES", "10")], "sentinel train --trees 20");
    assert!(sentence.starts_with("model.trees = 0 (sentinel.toml)"), "{sentence}");
}

#[rstest]
#[case("", "sentinel serve", false, true)]
#[case("", "sentinel serve --bind [::1]:80", false, true)]
#[case("", "sentinel serve --bind 0.0.0.0:80", true, false)]
#[case("", "sentinel up --bind [::]:80", true, false)]
#[case("", "sentinel up --bind 192.168.0.1:81 --insecure-no-keys", false, false)]
#[case("[http]\nrequire_keys = true\n", "sentinel up", true, false)]
#[case("[http]\nrequire_keys = true\n", "sentinel serve --insecure-no-keys", false, true)]
#[case("[http]\nrequire_keys = false\n", "sentinel serve --bind 0.0.0.0:80", false, false)]
#[case("[http]\nrequire_keys = 'auto'\n", "sentinel serve --bind 0.0.0.0:80", true, false)]
fn keys_are_needed_where_others_reach_the_service_or_it_was_said(
    #[case] file: &str,
    #[case] line: &str,
    #[case] are_required: bool,
    #[case] is_private: bool,
) {
    let (settings, _) = load(file, &[], line).unwrap();
    assert_eq!((settings.http.keys_required(), settings.http.is_private()), (are_required, is_private));
}

#[rstest]
#[case("sentinel up a.gz", "say `--source file`")]
#[case("sentinel up --source binance a.gz", "say `--source file`")]
#[case("sentinel up --source binance --seed 1", "--seed is not for a live market")]
#[case("sentinel up --source binance --speed 2", "--speed is not for a live market")]
#[case("sentinel up --source binance --symbols BTC-USDT,BTCU-SDT", "are the same stream `btcusdt@trade`")]
#[case("sentinel ingest binance --symbols BTC-USDT,BTCU-SDT", "are the same stream `btcusdt@trade`")]
#[case("sentinel up --source file", "name at least one")]
#[case("sentinel up --source file a.gz --symbols BTC-USDT", "--symbols is for the simulated market")]
#[case("sentinel up --source file a.gz --events 5", "--events is for the simulated market")]
#[case("sentinel up --source file a.gz --warm-start-hours 1", "--warm-start-hours is for the simulated market")]
#[case("sentinel train --contamination 2", "model.contamination = 2 (flag --contamination)")]
#[case("sentinel ingest file a.gz --speed=-1", "source.speed = -1 (flag --speed)")]
fn flags_that_do_not_fit_together_are_refused(#[case] line: &str, #[case] remedy: &str) {
    let sentence = refusal("", &[], line);
    assert!(sentence.contains(remedy), "{sentence}");
}

#[test]
fn a_source_may_come_from_the_file_and_its_speed_follows_its_kind() {
    let file = "[source]\nkind = 'file'\npaths = ['a.gz', 'b.gz']\n";
    let (settings, _) = load(file, &[], "sentinel up").unwrap();
    assert_eq!(settings.source.paths, [PathBuf::from("a.gz"), PathBuf::from("b.gz")]);
    assert_eq!(settings.source.speed().to_string(), "0");
    let (settings, origins) = load(file, &[], "sentinel ingest simulated").unwrap();
    assert_eq!(settings.source.kind, SourceKind::Simulated);
    assert_eq!(origins.of("source.kind").to_string(), "flag ingest simulated");
    assert_eq!(settings.source.speed().to_string(), "1");
    let (settings, _) = load(file, &[], "sentinel ingest file c,d.gz --speed 3").unwrap();
    assert_eq!(settings.source.paths, [PathBuf::from("c,d.gz")]);
    assert_eq!(settings.source.speed().to_string(), "3");
}

#[test]
fn a_live_market_takes_its_symbols_from_the_flag() {
    for line in [
        "sentinel up --source binance --symbols BTC-USDT,SOL-EUR",
        "sentinel ingest binance --symbols BTC-USDT,SOL-EUR",
    ] {
        let (settings, origins) = load("", &[], line).unwrap();
        assert_eq!(settings.source.kind, SourceKind::Binance);
        assert_eq!(settings.source.symbols.iter().map(Symbol::as_str).collect::<Vec<_>>(), ["BTC-USDT", "SOL-EUR"]);
        assert_eq!(origins.of("source.symbols").to_string(), "flag --symbols");
    }
    // The simulator may have markets that one stream name would confuse.
    assert!(load("", &[], "sentinel up --symbols BTC-USDT,BTCU-SDT").is_ok());
}

#[test]
fn the_log_may_be_on_a_cluster_that_the_flag_names() {
    let (settings, origins) =
        load("[log]\nengine = 'embedded'\n", &[], "sentinel up --log fluvio://sc.local:9003").unwrap();
    assert_eq!((settings.log.engine, settings.log.endpoint.as_str()), (LogEngine::Fluvio, "sc.local:9003"));
    assert_eq!(origins.of("log.endpoint").to_string(), "flag --log");
    let (settings, _) = load("[log]\nengine = 'fluvio'\n", &[], "sentinel stream --log embedded").unwrap();
    assert_eq!(settings.log.engine, LogEngine::Embedded);
    let sentence = refusal("", &[], "sentinel serve --log kafka://here");
    assert!(sentence.contains("the flag also takes fluvio://HOST:PORT"), "{sentence}");
}

#[test]
fn the_text_of_a_key_is_never_shown() {
    let key = "-----BEGIN PRIVATE KEY-----hush";
    let file = format!("[log]\ntls_key = '{key}'\ntls_cert = 'cert.pem'\n");
    let (settings, origins) = load(&file, &[], "sentinel up").unwrap();
    assert_eq!((settings.log.tls_key.0.as_str(), settings.log.tls_cert.shown()), (key, "cert.pem"));
    for shown in [format!("{settings:?}"), render(&settings, &origins)] {
        assert!(!shown.contains("hush") && shown.contains("cert.pem"), "{shown}");
    }
    let sentence = refusal(&format!("[http]\ntls_key = '{key}'\ntls_cert = 'cert.pem'\n"), &[], "sentinel up");
    assert!(sentence.contains("the path of a PEM file") && !sentence.contains("hush"), "{sentence}");
}

#[test]
fn the_address_and_the_secret_of_a_webhook_are_never_shown() {
    let file = "[alerts]\nwebhook_url = 'https://hooks.example.org/topsecret'\n\
                webhook_secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'\n";
    let (settings, origins) = load(file, &[], "sentinel up").unwrap();
    assert_eq!(settings.alerts.webhook_url.0, "https://hooks.example.org/topsecret");
    let refused = [("WEBHOOK_URL", "topsecret"), ("WEBHOOK_SECRET", "whsec_MfKQ")];
    let refused =
        refused.map(|(name, value)| refusal("", &[(&format!("SENTINEL__ALERTS__{name}"), value)], "sentinel up"));
    for shown in [format!("{settings:?}"), render(&settings, &origins), refused.concat()] {
        assert!(!shown.contains("topsecret") && !shown.contains("MfKQ"), "{shown}");
    }
}

#[test]
fn the_walk_of_a_symbol_is_its_own_where_it_says_so() {
    let file = "[source.walk]\nvolatility = 0.003\n[source.walk.BTC-USDT]\nvolume_mean = 5\n";
    let (settings, _) = load(file, &[], "sentinel up").unwrap();
    let walk = |name| settings.source.walk.of(Symbol::parse(name).unwrap());
    let btc = Walk { start_price: 43_000.0, volatility: 0.003, volume_mean: 5.0, volume_std: 10.0 };
    assert_eq!(walk("BTC-USDT"), btc);
    assert_eq!(walk("XRP-USDT"), Walk { start_price: 100.0, volume_mean: 14.0, ..btc });
}

#[test]
fn a_setting_is_explained_with_its_default_and_variable() {
    let text = explain("model.trees").unwrap();
    assert!(text.contains("Trees of the forest") && text.contains("model.trees = 200"), "{text}");
    assert!(text.contains("SENTINEL__MODEL__TREES"), "{text}");
    assert!(explain("source.walk.BTC-USDT.volatility").unwrap().contains("BTC_USDT__VOLATILITY"));
    assert!(explain("model.tree").unwrap_err().to_string().contains("`model.trees`"));
}

#[test]
fn the_effective_settings_are_toml_with_their_origins() {
    let (settings, origins) = load("[log]\npartitions = 2\n", &[], "sentinel config --data-dir 'a'").unwrap();
    let text = render(&settings, &origins);
    let line = text.lines().find(|line| line.starts_with("log.partitions")).unwrap();
    assert!(line.starts_with("log.partitions = 2 ") && line.ends_with("# sentinel.toml"), "{line}");
    let (again, _) = load(&text, &[], "sentinel config").unwrap();
    assert_eq!(again, settings);
}

/// Whether every settled event of a symbol at this pace, wherever it lies in its pane, has enough events before it.
fn z_scores_mean_something(micros_between: i64, first: i64) -> bool {
    let symbol = Symbol::parse("BTC-USDT").unwrap();
    let (mut fold, mut out) = (Fold::new(0, 0), Output::default());
    for offset in 0..40 {
        let timestamp = Timestamp::from_micros(first + offset * micros_between);
        let event = Event {
            timestamp,
            symbol,
            price: 100.0,
            volume: 1.0,
            log_return: None,
            is_anomaly: None,
            anomaly_type: None,
            trade_id: None,
            side: None,
            ingest_id: None,
            source: Source::Simulated,
            extra: None,
        };
        let raw = RawRecord { offset, append_time: timestamp, key: b"", value: b"" };
        fold.apply(raw, Ok(Record::Event(event)), &mut out);
    }
    let min_events = i64::try_from(domain::fold::MIN_EVENTS).unwrap();
    out.features.iter().skip(20).all(|row| row.window_events >= min_events)
}

#[test]
fn at_six_seconds_the_window_holds_too_few_events() {
    assert!(!z_scores_mean_something(6_000_000, 1_710_000_000_000_000));
}

proptest! {
    #[test]
    fn at_the_slowest_pace_allowed_the_window_holds_enough_events(phase in 0..1_000_000_i64) {
        #[expect(clippy::cast_possible_truncation, reason = "5.9 s in microseconds")]
        let slowest = (MAX_EVENT_FREQUENCY_SECONDS * 1e6) as i64;
        prop_assert_eq!(slowest, 5_900_000);
        prop_assert!(z_scores_mean_something(slowest, 1_710_000_000_000_000 + phase));
    }
}
