//! What a value must be beyond its type, and what settings must be together.

use std::collections::HashSet;

use domain::{
    Symbol,
    fold::MIN_EVENTS,
    panes::{PANE_MICROS, WINDOW_PANES},
    time::MICROS,
};

use streams::{
    binance::{self, Endpoint},
    webhook,
};

use super::{
    ConfigError, Hidden, Settings, SourceKind, Speed,
    fields::{Field, Given},
    layers::{Assignment, Origins},
};
use crate::{
    cli::{Command, UpArgs},
    logging,
};

/// The most simulated markets.
const MAX_SYMBOLS: usize = 1_000;

/// The shortest time between two simulated events of a symbol, in seconds.
const MIN_EVENT_FREQUENCY_SECONDS: f64 = 0.001;

/// The longest time between two events of a symbol at which enough of them precede an event in its window, wherever
/// its time lies in its pane: the panes before its own hold them all.
#[expect(clippy::cast_precision_loss, reason = "small constants")]
pub const MAX_EVENT_FREQUENCY_SECONDS: f64 =
    ((WINDOW_PANES - 1) * PANE_MICROS) as f64 / MICROS as f64 / MIN_EVENTS as f64;

/// The name of a topic.
pub fn topic(name: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=64).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err("use 1 to 64 small letters, digits and hyphens, such as \"crypto-market\"".to_owned())
}

/// Simulated or live markets.
pub fn symbols(symbols: &[Symbol]) -> Result<(), String> {
    if !(1..=MAX_SYMBOLS).contains(&symbols.len()) {
        return Err(format!("name 1 to {MAX_SYMBOLS} symbols"));
    }
    let mut seen = HashSet::new();
    match symbols.iter().find(|symbol| !seen.insert(**symbol)) {
        Some(twice) => Err(format!("name {twice} once")),
        None => Ok(()),
    }
}

/// Where a live market's streams are.
pub fn endpoint(endpoint: &str) -> Result<(), String> {
    endpoint.parse::<Endpoint>().map(|_| ())
}

/// Seconds between two events of a symbol.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "every check takes its value by reference")]
pub fn event_frequency(seconds: &f64) -> Result<(), String> {
    if *seconds > MAX_EVENT_FREQUENCY_SECONDS {
        return Err(format!(
            "too few events: z-scores need {MIN_EVENTS} events in the {WINDOW_PANES} s before each; use at most \
             {MAX_EVENT_FREQUENCY_SECONDS} seconds between two events of a symbol"
        ));
    }
    if *seconds < MIN_EVENT_FREQUENCY_SECONDS {
        return Err(format!("use a value from {MIN_EVENT_FREQUENCY_SECONDS} to {MAX_EVENT_FREQUENCY_SECONDS}"));
    }
    Ok(())
}

/// A pace.
pub fn speed(speed: &Speed) -> Result<(), String> {
    match speed {
        Speed::Times(times) if !(0.0..=1e6).contains(times) => {
            Err("use a value from 0 (as fast as possible) to 1000000, or \"auto\"".to_owned())
        }
        _ => Ok(()),
    }
}

/// A share of rows.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "every check takes its value by reference")]
pub fn share(share: &f64) -> Result<(), String> {
    if *share > 0.0 && *share <= 0.5 { Ok(()) } else { Err("use a value above 0 and at most 0.5".to_owned()) }
}

/// Where a webhook is.
pub fn webhook_url(url: &Hidden) -> Result<(), String> {
    if url.0.is_empty() { Ok(()) } else { url.0.parse::<webhook::Address>().map(|_| ()) }
}

/// What a webhook's messages are signed with.
pub fn webhook_secret(secret: &Hidden) -> Result<(), String> {
    if secret.0.is_empty() { Ok(()) } else { secret.0.parse::<webhook::Secret>().map(|_| ()) }
}

/// A level of the program's log.
pub fn level(level: &str) -> Result<(), String> {
    logging::filter(level).map(|_| ())
}

/// Where a collector of traces is.
pub fn otlp_endpoint(endpoint: &str) -> Result<(), String> {
    let is_one = |url: reqwest::Url| {
        let is_plain = url.username().is_empty() && url.password().is_none();
        let ends = url.query().is_none() && url.fragment().is_none();
        matches!(url.scheme(), "http" | "https") && url.has_host() && is_plain && ends
    };
    if endpoint.is_empty() || endpoint.parse().is_ok_and(is_one) {
        return Ok(());
    }
    Err("use http:// or https://, a host and perhaps a port and a path, such as \"http://127.0.0.1:4318\"; keys belong \
         into OTEL_EXPORTER_OTLP_HEADERS"
        .to_owned())
}

/// What settings must be together.
///
/// # Errors
/// [`ConfigError::Value`] about one of them, naming the other.
pub fn settings(settings: &Settings, origins: &Origins) -> Result<(), ConfigError> {
    let refused = |key: &str, given: &dyn Fn() -> toml::Value, remedy: String| {
        let assignment = Assignment { key: key.to_owned(), given: Given::Toml(given()), origin: origins.of(key) };
        Err(assignment.refused(remedy))
    };
    let (model, http) = (&settings.model, &settings.http);
    if model.alert_quantile > model.contamination {
        let remedy =
            format!("an alert is rarer than an anomaly: use at most model.contamination = {}", model.contamination);
        return refused("model.alert_quantile", &|| model.alert_quantile.show(), remedy);
    }
    let symbols = &settings.source.symbols;
    if settings.source.kind == SourceKind::Binance
        && let Err(remedy) = binance::names(symbols)
    {
        return refused("source.symbols", &|| symbols.show(), remedy);
    }
    for (key, pem, other) in
        [("http.tls_cert", &http.tls_cert, &http.tls_key), ("http.tls_key", &http.tls_key, &http.tls_cert)]
    {
        if pem.is_text() {
            return refused(key, &|| pem.show(), "write the path of a PEM file, not the text".to_owned());
        }
        if !pem.0.is_empty() && other.0.is_empty() {
            let remedy = "a certificate is shown with its key: set http.tls_cert and http.tls_key, or none of them";
            return refused(key, &|| pem.show(), remedy.to_owned());
        }
    }
    Ok(())
}

/// What a command must be together with the settings.
///
/// # Errors
/// [`ConfigError::Usage`].
pub fn command(settings: &Settings, command: &Command) -> Result<(), ConfigError> {
    let mistake = match command {
        Command::Up(up) => up_mistake(settings, up),
        _ => None,
    };
    mistake.map_or(Ok(()), |sentence| Err(ConfigError::Usage(sentence)))
}

/// The first flag that only a simulated market has.
fn simulated_flag(up: &UpArgs) -> Option<&'static str> {
    up.simulated.first_given().or_else(|| up.warm_start_hours.map(|_| "--warm-start-hours"))
}

fn up_mistake(settings: &Settings, up: &UpArgs) -> Option<String> {
    match settings.source.kind {
        SourceKind::Simulated | SourceKind::Binance if !up.paths.is_empty() => {
            Some("files are read with `sentinel up --source file PATHS`: say `--source file`".to_owned())
        }
        SourceKind::File if settings.source.paths.is_empty() => {
            Some("no file to read: name at least one, as in `sentinel up --source file trades.jsonl.gz`".to_owned())
        }
        SourceKind::File => {
            let symbols = up.simulated.symbols.as_ref().map(|_| "--symbols");
            let flag = symbols.or_else(|| simulated_flag(up))?;
            Some(format!("{flag} is for the simulated market, and files are read whole: leave it out"))
        }
        SourceKind::Binance => {
            let flag = simulated_flag(up).or_else(|| up.speed.map(|_| "--speed"))?;
            Some(format!("{flag} is not for a live market, which has its own past and pace: leave it out"))
        }
        SourceKind::Simulated => None,
    }
}
