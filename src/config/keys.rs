//! The table of settings: name, meaning, limits and place in [`Settings`] of each, in the order of `sentinel.toml`.
//!
//! Everything that must know every setting reads this table: the layers, `sentinel config` and `sentinel.toml`.

use std::fmt::Display;

use domain::Symbol;
use toml::Value;

use super::{
    ConfigError, Settings, SymbolWalk, checks,
    fields::{Field, Given},
    layers::Assignment,
};

/// A section of the settings.
pub struct Section {
    /// Its name in `sentinel.toml`.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
}

/// A setting.
pub struct Setting {
    /// `section.name`.
    pub key: &'static str,
    /// What it means, with its unit; lines of at most 118 characters.
    pub about: &'static str,
    /// Its value, as TOML.
    pub show: fn(&Settings) -> Value,
    assign: fn(&mut Settings, &Given) -> Result<(), String>,
}

/// The sections, in the order in which data flows.
pub const SECTIONS: [Section; 11] = [
    Section { name: "data", about: "Where everything is kept." },
    Section { name: "log", about: "The event log." },
    Section { name: "source", about: "Where events come from." },
    Section {
        name: "source.walk",
        about: "The simulated markets: each price is a geometric random walk, volumes are log-normal. A symbol may \
                have\nvalues of its own, as [source.walk.BTC-USDT] has below; in the environment they are written \
                as in\nSENTINEL__SOURCE__WALK__BTC_USDT__START_PRICE.",
    },
    Section { name: "stream", about: "The stream job commits when the first of these limits is reached." },
    Section { name: "lake", about: "Upkeep of the Delta tables." },
    Section { name: "model", about: "Training and verdicts of the isolation forest." },
    Section {
        name: "alerts",
        about: "Whom the stream job tells about alerts when they are raised. All of them are in the table `alerts`.",
    },
    Section { name: "http", about: "The service." },
    Section { name: "logging", about: "The program's own log, on standard error." },
    Section { name: "telemetry", about: "Traces: spans of requests, commits and trainings for a collector." },
];

macro_rules! setting {
    ($($place:ident).+, $check:expr, $about:expr) => {
        Setting {
            key: concat_key!($($place).+),
            about: $about,
            show: |settings| settings.$($place).+.show(),
            assign: |settings, given| {
                let value = read_like(&settings.$($place).+, given)?;
                $check(&value)?;
                settings.$($place).+ = value;
                Ok(())
            },
        }
    };
}

/// The key of a place in [`Settings`]; the walk of every symbol is `source.walk`.
macro_rules! concat_key {
    ($section:ident . $name:ident) => {
        concat!(stringify!($section), ".", stringify!($name))
    };
    ($section:ident . $part:ident . every . $name:ident) => {
        concat!(stringify!($section), ".", stringify!($part), ".", stringify!($name))
    };
}

/// The settings, section by section.
pub const SETTINGS: &[Setting] = &[
    setting!(data.dir, any, "The folder of the event log, the lake, the models and the locks. Flag: --data-dir."),
    setting!(
        log.engine,
        any,
        "What keeps the event log: \"embedded\" = a file under `data.dir`, \"fluvio\" = a topic of a Fluvio cluster.\n\
         Flag of up, ingest, stream, serve and doctor: --log embedded, --log fluvio://HOST:PORT."
    ),
    setting!(
        log.endpoint,
        any,
        "For \"fluvio\": HOST:PORT of the cluster's controller. Where empty, the cluster is that of `profile`."
    ),
    setting!(log.profile, any, "For \"fluvio\": a profile of the Fluvio client. Where empty, its current one."),
    setting!(
        log.replication,
        within(1, 100),
        "For \"fluvio\": brokers that keep each partition, 1 to 100. Fixed when the topic is made."
    ),
    setting!(
        log.tls_domain,
        any,
        "For \"fluvio\" with an endpoint: the name that the cluster's certificate is for. Where empty, connections are\n\
         not encrypted."
    ),
    setting!(log.tls_ca_cert, any, "The authority's certificate, PEM: a path, or the text itself."),
    setting!(log.tls_cert, any, "The client's certificate, PEM: a path, or the text itself."),
    setting!(log.tls_key, any, "The client's key, PEM: a path, or the text itself."),
    setting!(
        log.topic,
        checks::topic,
        "The name of the topic: small letters, digits and hyphens, at most 64. It is fixed when the log is created."
    ),
    setting!(
        log.partitions,
        within(1, 1_024),
        "The partitions of the topic, 1 to 1024. A symbol stays in one partition. Fixed when the log is created."
    ),
    setting!(
        log.retention_days,
        within(1, 36_500),
        "Records older than this many days are removed, 1 to 36500; never one that a rebuild still needs."
    ),
    setting!(
        log.retention_gib,
        within(1, 1_048_576),
        "The oldest records are removed while the log takes more than this many GiB on disk, 1 to 1048576."
    ),
    setting!(
        source.kind,
        any,
        "\"simulated\" = the built-in market simulator, \"binance\" = Binance's live trades, \"file\" = the files of\n\
         `paths`. Flag of up: --source. Also set by the original program's variable DATA_SOURCE."
    ),
    setting!(
        source.paths,
        any,
        "For \"file\": JSON Lines of events or recorded Binance combined-stream frames, gzip or not, read in this \
         order."
    ),
    setting!(
        source.symbols,
        checks::symbols,
        "For \"simulated\" and \"binance\": the markets, 1 to 1000, each as BASE-QUOTE. Files are read whole.\n\
         Flag: --symbols."
    ),
    setting!(
        source.binance_endpoint,
        checks::endpoint,
        "For \"binance\": where its streams are, ws:// or wss://, a host, and perhaps a port and a path below which\n\
         /stream lies. Another venue's or a proxy's will do that speaks the same. No key is sent."
    ),
    setting!(
        source.event_frequency_seconds,
        checks::event_frequency,
        "For \"simulated\": seconds between two events of a symbol, 0.001 to 5.9. Slower, and fewer than 10 events\n\
         precede an event in its 60 s window: all z-scores would be 0. Also set by EVENT_FREQUENCY_SECONDS."
    ),
    setting!(
        source.anomaly_probability,
        within(0.0, 0.5),
        "For \"simulated\": the expected share of events that belong to an injected anomaly, 0 to 0.5.\n\
         Also set by ANOMALY_PROBABILITY."
    ),
    setting!(
        source.seed,
        any,
        "For \"simulated\": the same seed makes the same market. A whole number of at least 0. Flag: --seed."
    ),
    setting!(
        source.warm_start_hours,
        within(0.0, 720.0),
        "For `sentinel up` with \"simulated\" on an empty log: hours of market before the present that are made at\n\
         once, 0 to 720. Flag: --warm-start-hours."
    ),
    setting!(
        source.speed,
        checks::speed,
        "Times the pace of the events, up to 1000000; 0 = as fast as possible; \"auto\" = 1 for \"simulated\", 0 \
         for \"file\".\nA live market has its own. Flag: --speed."
    ),
    setting!(
        source.walk.every.start_price,
        within(1e-8, 1e12),
        "The price before the first event, in quote units, 1e-8 to 1e12."
    ),
    setting!(
        source.walk.every.volatility,
        within(1e-9, 0.1),
        "The standard deviation of the log-return over one second, 1e-9 to 0.1; over t seconds it is sqrt(t) times \
         this."
    ),
    setting!(
        source.walk.every.volume_mean,
        within(1e-8, 1e8),
        "The mean volume of an event, in base units, 1e-8 to 1e8."
    ),
    setting!(
        source.walk.every.volume_std,
        within(1e-8, 1e8),
        "The standard deviation of the volume of an event, in base units, 1e-8 to 1e8."
    ),
    setting!(
        stream.flush_seconds,
        within(0.1, 3_600.0),
        "Seconds between two commits, 0.1 to 3600: how old the newest row of a table may be."
    ),
    setting!(stream.flush_rows, within(1, 10_000_000), "Rows of all tables together, 1 to 10000000."),
    setting!(stream.flush_mib, within(1, 1_024), "MiB of buffered rows, 1 to 1024."),
    setting!(lake.checkpoint_every, within(1, 10_000), "Commits of a table between two checkpoints, 1 to 10000."),
    setting!(
        lake.compact_every_commits,
        within(2, 100_000),
        "Commits of a table after which its small files are joined, 2 to 100000."
    ),
    setting!(
        lake.vacuum_retention_hours,
        within(1, 87_600),
        "Files that no kept version needs are removed after this many hours, 1 to 87600. Readers of older versions \
         fail."
    ),
    setting!(
        lake.log_retention_hours,
        within(1, 87_600),
        "Commits by which no version of so many hours is read are removed from a table's log, 1 to 87600."
    ),
    setting!(model.trees, within(1, 10_000), "Trees of the forest, 1 to 10000. Flag of train: --trees."),
    setting!(model.max_samples, within(2, 65_536), "Rows that each tree is grown from at most, 2 to 65536."),
    setting!(
        model.contamination,
        checks::share,
        "The share of the training rows taken for anomalies, above 0 and at most 0.5: it sets the threshold.\n\
         Flag of train: --contamination."
    ),
    setting!(
        model.alert_quantile,
        checks::share,
        "The rarer share of the training scores from which an anomaly may become an alert, above 0 and at most\n\
         `contamination`."
    ),
    setting!(
        model.seed,
        any,
        "The same seed and rows make the same model, bit for bit. A whole number of at least 0. Flag of train: --seed."
    ),
    setting!(
        model.first_model_rows,
        within(100, 100_000_000),
        "`sentinel up` trains the first model once this many feature rows exist, 100 to 100000000."
    ),
    setting!(
        alerts.minimum_severity,
        any,
        "Alerts below it are told to nobody: \"notice\", \"warning\", \"high\" or \"critical\", of the event that raised \
         the alert."
    ),
    setting!(
        alerts.log,
        any,
        "Whether the program's own log tells them: a line for each, or one for those of three symbols or more at once."
    ),
    setting!(
        alerts.webhook_url,
        checks::webhook_url,
        "Where they are sent as JSON (docs/webhook.md), http:// or https://, a host, and perhaps a port and a path.\n\
         Where empty, nowhere. It is never shown, as its path often is a secret."
    ),
    setting!(
        alerts.webhook_secret,
        checks::webhook_secret,
        "What these messages are signed with: whsec_ and 24 to 64 bytes as base64, such as `openssl rand -base64 32`\n\
         makes. Where empty, they are not signed. It is never shown."
    ),
    setting!(
        http.bind,
        any,
        "IP address and port; port 0 = any free one. At one that others can reach, requests need an API key. Flag: \
         --bind."
    ),
    setting!(
        http.require_keys,
        any,
        "Whether requests need an API key (`sentinel key create`): \"auto\" = at an address that others can reach, true,\n\
         or false = whoever reaches the address may do everything. Flag of up and serve: --insecure-no-keys."
    ),
    setting!(
        http.requests_per_second,
        within(0, 1_000_000),
        "Requests with one key, or from one address without a key, that are answered a second, 0 to 1000000; 0 = any\n\
         number. More are answered with 429. Not counted at a loopback address where no key is needed."
    ),
    setting!(http.burst, within(1, 1_000_000), "So many of them may come at once after a pause, 1 to 1000000."),
    setting!(
        http.max_connections,
        within(1, 100_000),
        "Connections that are served at a time, 1 to 100000; more wait. Each takes a file descriptor of the process."
    ),
    setting!(
        http.tls_cert,
        any,
        "The certificate that is shown, with those that lead to its authority: the path of a PEM file. Where empty,\n\
         connections are not encrypted. The file and that of the key are read again when they change."
    ),
    setting!(http.tls_key, any, "The certificate's key: the path of a PEM file."),
    setting!(
        logging.level,
        checks::level,
        "off, error, warn, info, debug or trace; or directives such as \"warn,lake=debug\". Flag: --log-level.\n\
         Also set by RUST_LOG."
    ),
    setting!(logging.format, any, "\"text\" for people, \"json\" for one object a line."),
    setting!(
        telemetry.otlp_endpoint,
        checks::otlp_endpoint,
        "Where a collector takes OTLP over HTTP, such as \"http://127.0.0.1:4318\"; /v1/traces is added. Where empty,\n\
         nothing is sent. Headers for it are taken from OTEL_EXPORTER_OTLP_HEADERS."
    ),
];

/// Sets one setting.
///
/// # Errors
/// [`ConfigError::UnknownKey`] or [`ConfigError::Value`].
pub fn assign(settings: &mut Settings, assignment: &Assignment) -> Result<(), ConfigError> {
    let (key, given) = (assignment.key.as_str(), &assignment.given);
    let assigned = match SETTINGS.iter().find(|setting| setting.key == key) {
        Some(setting) => (setting.assign)(settings, given),
        None => assign_own_walk(settings, key, given).ok_or_else(|| assignment.unknown())?,
    };
    assigned.map_err(|remedy| assignment.refused(remedy))
}

/// Settings whose values are never shown, not even where they are refused.
pub fn is_hidden(key: &str) -> bool {
    ["alerts.webhook_url", "alerts.webhook_secret"].contains(&key)
}

/// The settings that a symbol's walk has of its own, with their keys.
pub fn own_walks(settings: &Settings) -> Vec<(String, Value)> {
    let of_symbol = |(symbol, walk): (&Symbol, &SymbolWalk)| {
        let (symbol, mut walk) = (*symbol, *walk);
        WALK_FIELDS.map(|(name, field)| (format!("source.walk.{symbol}.{name}"), *field(&mut walk)))
    };
    let walks = settings.source.walk.symbols.iter().flat_map(of_symbol);
    walks.filter_map(|(key, value)| Some((key, Value::Float(value?)))).collect()
}

/// The key of every symbol that stands behind a symbol's own, such as `source.walk.volatility`.
pub fn walk_of_every(key: &str) -> Option<&'static Setting> {
    let (_, name) = key.strip_prefix("source.walk.")?.split_once('.')?;
    SETTINGS.iter().find(|setting| setting.key.strip_prefix("source.walk.") == Some(name))
}

type WalkField = (&'static str, fn(&mut SymbolWalk) -> &mut Option<f64>);

const WALK_FIELDS: [WalkField; 4] = [
    ("start_price", |walk| &mut walk.start_price),
    ("volatility", |walk| &mut walk.volatility),
    ("volume_mean", |walk| &mut walk.volume_mean),
    ("volume_std", |walk| &mut walk.volume_std),
];

/// Sets `source.walk.SYMBOL.name` within the limits of `source.walk.name`; `None` where the key is no such one.
fn assign_own_walk(settings: &mut Settings, key: &str, given: &Given) -> Option<Result<(), String>> {
    let (symbol, name) = key.strip_prefix("source.walk.")?.split_once('.')?;
    let (_, field) = WALK_FIELDS.iter().find(|(known, _)| *known == name)?;
    let every = walk_of_every(key)?;
    let checked = || {
        (every.assign)(&mut Settings::default(), given)?;
        Ok((Symbol::parse(symbol).map_err(|error| error.to_string())?, f64::read(given)?))
    };
    Some(checked().map(|(symbol, value)| {
        *field(settings.source.walk.symbols.entry(symbol).or_default()) = Some(value);
    }))
}

/// Reads a value of the type that a setting has.
fn read_like<T: Field>(_: &T, given: &Given) -> Result<T, String> {
    T::read(given)
}

/// No limit beyond the type's.
#[expect(clippy::unnecessary_wraps, reason = "a check like the others")]
const fn any<T>(_: &T) -> Result<(), String> {
    Ok(())
}

/// At least `low` and at most `high`.
fn within<T: PartialOrd + Display>(low: T, high: T) -> impl Fn(&T) -> Result<(), String> {
    move |value| {
        if (&low..=&high).contains(&value) { Ok(()) } else { Err(format!("use a value from {low} to {high}")) }
    }
}
