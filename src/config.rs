//! The settings: plain data with units, and where each value came from.
//!
//! Later layers win: defaults, `sentinel.toml`, the environment, flags. Every value of every layer is checked, also
//! one that a later layer replaces; an unknown key is refused. Nothing outside [`Settings::from_process`] reads the
//! environment, except for the headers of a collector of traces.

mod checks;
mod error;
mod explain;
mod fields;
mod keys;
mod layers;

use std::{
    collections::BTreeMap,
    env, fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use domain::{Partition, Severity, Symbol};
use scheduler::Schedule;

use crate::cli::Cli;

pub use error::ConfigError;
pub use explain::{explain, explain_all, render, rows};
pub use layers::Origins;

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Where everything is kept.
    pub data: DataSettings,
    /// The event log.
    pub log: LogSettings,
    /// Where events come from.
    pub source: SourceSettings,
    /// The stream job.
    pub stream: StreamSettings,
    /// Upkeep of the tables.
    pub lake: LakeSettings,
    /// Training and verdicts.
    pub model: ModelSettings,
    /// Whom alerts are told to.
    pub alerts: AlertSettings,
    /// The service.
    pub http: HttpSettings,
    /// The program's own log.
    pub logging: LoggingSettings,
    /// Traces for a collector.
    pub telemetry: TelemetrySettings,
    /// Schedules of the settings file, by name.
    pub schedules: Vec<Schedule>,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq)]
pub struct DataSettings {
    /// The folder of the event log, the lake, the registry and the locks.
    pub dir: PathBuf,
}

/// What keeps the event log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogEngine {
    /// A file under the data folder.
    Embedded,
    /// A topic of a Fluvio cluster.
    Fluvio,
}

/// A certificate or key, PEM: the path of a file, or the text itself, which is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pem(pub String);

impl Pem {
    /// Whether this is the text itself.
    pub fn is_text(&self) -> bool {
        self.0.trim_start().starts_with("-----BEGIN")
    }

    /// The path, or that there is a text.
    pub fn shown(&self) -> &str {
        if self.is_text() { "-----BEGIN ..." } else { &self.0 }
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shown().fmt(f)
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// What keeps the log.
    pub engine: LogEngine,
    /// The cluster's controller, `HOST:PORT`; empty: that of the profile.
    pub endpoint: String,
    /// A profile of the Fluvio client; empty: the current one.
    pub profile: String,
    /// Brokers that keep each partition of a new topic.
    pub replication: u32,
    /// The name that the cluster's certificate is for; empty: no encryption.
    pub tls_domain: String,
    /// The authority's certificate.
    pub tls_ca_cert: Pem,
    /// The client's certificate.
    pub tls_cert: Pem,
    /// The client's key.
    pub tls_key: Pem,
    /// Name of the topic.
    pub topic: String,
    /// Partitions of a new topic.
    pub partitions: Partition,
    /// Age at which records are removed, in days.
    pub retention_days: u64,
    /// Stored size of all partitions together at which records are removed, in GiB.
    pub retention_gib: u64,
}

/// `[source]`
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSettings {
    /// The kind of source.
    pub kind: SourceKind,
    /// Files to read, in this order.
    pub paths: Vec<PathBuf>,
    /// Markets to simulate or to listen to; at least one, each once.
    pub symbols: Vec<Symbol>,
    /// Where Binance's streams are.
    pub binance_endpoint: String,
    /// Seconds of event time between two simulated events of a symbol.
    pub event_frequency_seconds: f64,
    /// Expected share of simulated events that carry an anomaly label.
    pub anomaly_probability: f64,
    /// Seed of the simulated market.
    pub seed: u64,
    /// Hours of simulated history before the present.
    pub warm_start_hours: f64,
    /// The pace.
    pub speed: Speed,
    /// The simulated random walks.
    pub walk: WalkSettings,
}

/// Where events come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// The built-in market simulator.
    Simulated,
    /// Files of recorded events or frames.
    File,
    /// Binance's live trade streams.
    Binance,
}

/// The pace of a source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// The real pace for a simulated market, as fast as possible for files.
    Auto,
    /// This many times the pace of the events; 0 = as fast as possible.
    Times(f64),
}

/// `[source.walk]`: a geometric random walk of the price and log-normal volumes.
#[derive(Clone, Debug, PartialEq)]
pub struct WalkSettings {
    /// What holds for every symbol.
    pub every: Walk,
    /// What a symbol has of its own.
    pub symbols: BTreeMap<Symbol, SymbolWalk>,
}

/// The walk of a symbol.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Walk {
    /// Price before the first event, in quote units.
    pub start_price: f64,
    /// Standard deviation of the log-return over one second; over t seconds it is sqrt(t) times this.
    pub volatility: f64,
    /// Mean volume of an event, in base units.
    pub volume_mean: f64,
    /// Standard deviation of the volume of an event, in base units.
    pub volume_std: f64,
}

/// What a symbol's walk has of its own; the rest is as for every symbol.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SymbolWalk {
    /// See [`Walk::start_price`].
    pub start_price: Option<f64>,
    /// See [`Walk::volatility`].
    pub volatility: Option<f64>,
    /// See [`Walk::volume_mean`].
    pub volume_mean: Option<f64>,
    /// See [`Walk::volume_std`].
    pub volume_std: Option<f64>,
}

/// `[stream]`
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_field_names, reason = "the names in the settings file, where all three limit one flush")]
pub struct StreamSettings {
    /// Longest time between two commits with rows, in seconds.
    pub flush_seconds: f64,
    /// Rows that cause a commit.
    pub flush_rows: u64,
    /// Size of the buffered rows that causes a commit, in MiB.
    pub flush_mib: u64,
}

/// `[lake]`
#[derive(Clone, Debug, PartialEq)]
pub struct LakeSettings {
    /// Commits of a table between two checkpoints.
    pub checkpoint_every: u64,
    /// Commits of a table between two compactions.
    pub compact_every_commits: u64,
    /// Age at which files that no version needs are removed, in hours.
    pub vacuum_retention_hours: u64,
    /// Age at which commits that no version is read by are removed, in hours.
    pub log_retention_hours: u64,
}

/// `[model]`
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSettings {
    /// Trees of the isolation forest.
    pub trees: u64,
    /// Rows that each tree sees at most.
    pub max_samples: u64,
    /// Share of the training rows that are taken for anomalies.
    pub contamination: f64,
    /// Quantile of the training scores below which an anomaly may become an alert.
    pub alert_quantile: f64,
    /// Seed of the training.
    pub seed: u64,
    /// Feature rows that must exist before the first model is trained.
    pub first_model_rows: u64,
}

/// Text that is never shown, such as a secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hidden(pub String);

impl Hidden {
    /// What stands for the text; nothing where there is none.
    pub const fn shown(&self) -> &'static str {
        if self.0.is_empty() { "" } else { "..." }
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shown().fmt(f)
    }
}

/// `[alerts]`
#[derive(Clone, Debug, PartialEq)]
pub struct AlertSettings {
    /// Alerts below it are told to nobody.
    pub minimum_severity: Severity,
    /// Whether the program's log tells them.
    pub log: bool,
    /// The address of the webhook, which often is a secret; empty: none.
    pub webhook_url: Hidden,
    /// What its messages are signed with; empty: they are not.
    pub webhook_secret: Hidden,
}

/// `[http]`
#[derive(Clone, Debug, PartialEq)]
pub struct HttpSettings {
    /// The address to serve at.
    pub bind: SocketAddr,
    /// Whether requests need an API key.
    pub require_keys: RequireKeys,
    /// Requests with one key, or from one address without, that come back every second; 0: any number.
    pub requests_per_second: u32,
    /// Requests that may be sent at once.
    pub burst: u32,
    /// Connections that are served at a time.
    pub max_connections: u32,
    /// The certificate that is shown, as a path; empty: connections are not encrypted.
    pub tls_cert: Pem,
    /// Its key, as a path.
    pub tls_key: Pem,
}

/// Whether requests need an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequireKeys {
    /// At an address that others can reach.
    Auto,
    /// At any address.
    Always,
    /// At none.
    Never,
}

/// `[logging]`
#[derive(Clone, Debug, PartialEq)]
pub struct LoggingSettings {
    /// A level or directives: see [`crate::logging::filter`].
    pub level: String,
    /// The form of a line.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[telemetry]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TelemetrySettings {
    /// Where a collector takes OTLP over HTTP; empty: nothing is sent.
    pub otlp_endpoint: String,
}

impl Settings {
    /// The settings for a command line, an environment and the folder that it was started in.
    ///
    /// # Errors
    /// [`ConfigError`], a sentence that names the setting, where it stands and what to write there.
    pub fn load(
        cli: &Cli,
        environment: impl Iterator<Item = (String, String)>,
        current_dir: &Path,
    ) -> Result<(Self, Origins), ConfigError> {
        let layers::FileLayer { mut assignments, schedules } = layers::file(cli.global.config.as_deref(), current_dir)?;
        assignments.extend(layers::environment(environment)?);
        assignments.extend(layers::flags(cli));
        let (mut settings, mut origins) = (Self::default(), Origins::default());
        for assignment in assignments {
            keys::assign(&mut settings, &assignment)?;
            origins.set(assignment);
        }
        for (schedule, origin) in schedules {
            origins.note_schedule(&schedule.name, origin);
            settings.schedules.push(schedule);
        }
        checks::settings(&settings, &origins)?;
        checks::command(&settings, &cli.command)?;
        Ok((settings, origins))
    }

    /// The settings of this process: the only place that reads the environment.
    ///
    /// # Errors
    /// As [`Settings::load`]; also where the current folder is gone.
    pub fn from_process(cli: &Cli) -> Result<(Self, Origins), ConfigError> {
        let environment = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
        Self::load(cli, environment, &current_dir().map_err(ConfigError::CurrentDir)?)
    }
}

fn current_dir() -> io::Result<PathBuf> {
    env::current_dir()
}

impl SourceSettings {
    /// Times the pace of the events; 0 = as fast as possible.
    pub const fn speed(&self) -> f64 {
        match (self.speed, self.kind) {
            (Speed::Times(times), _) => times,
            (Speed::Auto, SourceKind::Simulated) => 1.0,
            (Speed::Auto, SourceKind::File | SourceKind::Binance) => 0.0,
        }
    }
}

impl HttpSettings {
    /// Whether requests need an API key at this address.
    pub const fn keys_required(&self) -> bool {
        match self.require_keys {
            RequireKeys::Auto => !self.bind.ip().is_loopback(),
            RequireKeys::Always => true,
            RequireKeys::Never => false,
        }
    }

    /// Whether nobody but this machine reaches the service, which then asks nobody for anything.
    pub const fn is_private(&self) -> bool {
        self.bind.ip().is_loopback() && !self.keys_required()
    }
}

impl WalkSettings {
    /// The walk of a symbol.
    pub fn of(&self, symbol: Symbol) -> Walk {
        let own = self.symbols.get(&symbol).copied().unwrap_or_default();
        Walk {
            start_price: own.start_price.unwrap_or(self.every.start_price),
            volatility: own.volatility.unwrap_or(self.every.volatility),
            volume_mean: own.volume_mean.unwrap_or(self.every.volume_mean),
            volume_std: own.volume_std.unwrap_or(self.every.volume_std),
        }
    }
}

impl LogEngine {
    /// The name in the settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Fluvio => "fluvio",
        }
    }
}

impl SourceKind {
    /// The name in the settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Simulated => "simulated",
            Self::File => "file",
            Self::Binance => "binance",
        }
    }
}

impl LogFormat {
    /// The name in the settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl Default for DataSettings {
    fn default() -> Self {
        Self { dir: PathBuf::from("./data") }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            engine: LogEngine::Embedded,
            endpoint: String::new(),
            profile: String::new(),
            replication: 1,
            tls_domain: String::new(),
            tls_ca_cert: Pem::default(),
            tls_cert: Pem::default(),
            tls_key: Pem::default(),
            topic: "crypto-market".to_owned(),
            partitions: 4,
            retention_days: 7,
            retention_gib: 10,
        }
    }
}

impl Default for SourceSettings {
    fn default() -> Self {
        Self {
            kind: SourceKind::Simulated,
            paths: Vec::new(),
            symbols: DEFAULT_MARKETS.iter().filter_map(|(name, _)| Symbol::parse(name).ok()).collect(),
            binance_endpoint: "wss://stream.binance.com:9443".to_owned(),
            event_frequency_seconds: 1.0,
            anomaly_probability: 0.01,
            seed: 42,
            warm_start_hours: 2.0,
            speed: Speed::Auto,
            walk: WalkSettings::default(),
        }
    }
}

/// The markets simulated by default and the prices that they start from.
const DEFAULT_MARKETS: [(&str, f64); 3] = [("BTC-USDT", 43_000.0), ("ETH-USDT", 2_300.0), ("BNB-USDT", 310.0)];

impl Default for WalkSettings {
    /// A volatility and a volume of which a window of 60 events at one a second has a relative price deviation of
    /// about 0.002 and a volume deviation of about 10.
    fn default() -> Self {
        let own = |(name, price): &(&str, f64)| {
            Some((Symbol::parse(name).ok()?, SymbolWalk { start_price: Some(*price), ..SymbolWalk::default() }))
        };
        Self {
            every: Walk { start_price: 100.0, volatility: 0.000_632, volume_mean: 14.0, volume_std: 10.0 },
            symbols: DEFAULT_MARKETS.iter().filter_map(own).collect(),
        }
    }
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self { flush_seconds: 5.0, flush_rows: 50_000, flush_mib: 16 }
    }
}

impl Default for LakeSettings {
    fn default() -> Self {
        Self {
            checkpoint_every: 100,
            compact_every_commits: 200,
            vacuum_retention_hours: 168,
            log_retention_hours: 720,
        }
    }
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            trees: 200,
            max_samples: 256,
            contamination: 0.01,
            alert_quantile: 0.0005,
            seed: 42,
            first_model_rows: 5_000,
        }
    }
}

impl Default for AlertSettings {
    fn default() -> Self {
        Self {
            minimum_severity: Severity::LEAST_SHOWN,
            log: true,
            webhook_url: Hidden::default(),
            webhook_secret: Hidden::default(),
        }
    }
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 8000)),
            require_keys: RequireKeys::Auto,
            requests_per_second: 1_000,
            burst: 2_000,
            max_connections: 4_096,
            tls_cert: Pem::default(),
            tls_key: Pem::default(),
        }
    }
}

impl Default for LoggingSettings {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

#[cfg(test)]
mod tests;
