//! Settings, which are plain data for people, as what the crates below ask for.

use std::{num::NonZeroU32, time::Duration};

use api::{Limits, Rate};
use domain::{Timestamp, time::MICROS};
use jobs::{ingest::SimulatedRun, maintain::UpkeepPolicy, notify::Sinks, stream::FlushPolicy};
use models::TrainParameters;
use streams::{
    BinanceSettings, RetentionPolicy, SimulatedSettings, SimulatedSymbol, TopicSettings, Webhook, webhook::Secret,
};

use crate::{
    cli::SimulatedArgs,
    config::{
        AlertSettings, HttpSettings, LogSettings, ModelSettings, Settings, SourceKind, SourceSettings, StreamSettings,
    },
};

/// The topic.
pub fn topic(settings: &LogSettings) -> TopicSettings {
    TopicSettings { name: settings.topic.clone(), partitions: settings.partitions }
}

/// The cluster that keeps the topic.
#[cfg(feature = "fluvio")]
pub fn cluster(settings: &LogSettings) -> streams::FluvioSettings {
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    streams::FluvioSettings {
        endpoint: given(&settings.endpoint),
        profile: given(&settings.profile),
        tls: given(&settings.tls_domain).map(|domain| tls(settings, domain)),
        topic: topic(settings),
        replication: settings.replication,
        retention: retention(settings),
    }
}

/// Certificates as text where the key is one, otherwise in files.
#[cfg(feature = "fluvio")]
fn tls(settings: &LogSettings, domain: String) -> streams::FluvioTls {
    let pem = |pem: &crate::config::Pem| pem.0.clone();
    let (ca_cert, cert, key) = (pem(&settings.tls_ca_cert), pem(&settings.tls_cert), pem(&settings.tls_key));
    if settings.tls_key.is_text() {
        return streams::FluvioTls::Inline { domain, ca_cert, cert, key };
    }
    streams::FluvioTls::Files { domain, ca_cert: ca_cert.into(), cert: cert.into(), key: key.into() }
}

/// How long and how much a log keeps.
fn retention(settings: &LogSettings) -> RetentionPolicy {
    let days = i64::try_from(settings.retention_days).unwrap_or(i64::MAX);
    RetentionPolicy {
        max_age_micros: days.saturating_mul(86_400 * MICROS),
        max_partition_bytes: settings.retention_gib.saturating_mul(1 << 30)
            / u64::from(settings.partitions.unsigned_abs()),
    }
}

/// When pending rows are committed.
pub fn flush_policy(settings: &StreamSettings) -> FlushPolicy {
    FlushPolicy {
        interval: Duration::from_secs_f64(settings.flush_seconds),
        rows: usize::try_from(settings.flush_rows).unwrap_or(usize::MAX),
        bytes: usize::try_from(settings.flush_mib).unwrap_or(usize::MAX).saturating_mul(1 << 20),
    }
}

/// An attempt to tell a webhook has failed where it has no answer within this time.
const WEBHOOK_PATIENCE: Duration = Duration::from_secs(10);

/// Whom alerts are told to.
///
/// # Errors
/// What to write for the webhook, for which the settings have been checked; where this machine cannot encrypt.
pub async fn sinks(settings: &AlertSettings) -> anyhow::Result<Sinks> {
    let AlertSettings { minimum_severity, log, webhook_url: url, webhook_secret: secret } = settings;
    let webhook = if url.0.is_empty() {
        None
    } else {
        let secret: Option<Secret> =
            if secret.0.is_empty() { None } else { Some(secret.0.parse().map_err(anyhow::Error::msg)?) };
        Some(Webhook::new(url.0.parse().map_err(anyhow::Error::msg)?, secret, WEBHOOK_PATIENCE).await?)
    };
    Ok(Sinks { minimum_severity: *minimum_severity, log: *log, webhook })
}

/// How a model is trained.
pub fn train_parameters(settings: &ModelSettings) -> TrainParameters {
    TrainParameters {
        trees: u32::try_from(settings.trees).unwrap_or(u32::MAX),
        max_samples: u32::try_from(settings.max_samples).unwrap_or(u32::MAX),
        contamination: settings.contamination,
        seed: settings.seed,
        alert_quantile: settings.alert_quantile,
    }
}

/// Files that no version of so many hours needs may be deleted.
pub fn vacuum_retention_hours(settings: &Settings) -> u32 {
    u32::try_from(settings.lake.vacuum_retention_hours).unwrap_or(u32::MAX)
}

/// Commits that no version of so many hours is read by may be removed.
pub fn log_retention_hours(settings: &Settings) -> u32 {
    u32::try_from(settings.lake.log_retention_hours).unwrap_or(u32::MAX)
}

/// What upkeep is due when.
pub fn upkeep(settings: &Settings) -> UpkeepPolicy {
    UpkeepPolicy {
        checkpoint_every: settings.lake.checkpoint_every,
        compact_every: settings.lake.compact_every_commits,
        counts_missing_trades: settings.source.kind != SourceKind::Simulated,
        log: retention(&settings.log),
    }
}

/// How many requests are too many; any number at an address where nobody but this machine asks and needs no key.
pub fn rate(settings: &HttpSettings) -> Option<Rate> {
    let per_second = NonZeroU32::new(settings.requests_per_second).filter(|_| !settings.is_private())?;
    Some(Rate { per_second, burst: NonZeroU32::new(settings.burst).unwrap_or(NonZeroU32::MIN) })
}

/// What a connection may take.
pub fn limits(settings: &HttpSettings) -> Limits {
    Limits { connections: usize::try_from(settings.max_connections).unwrap_or(usize::MAX), ..Limits::default() }
}

/// The live market. Every start pauses otherwise before it connects again: programs that lost one venue together come
/// back apart.
///
/// # Errors
/// What to write for the endpoint; the settings have been checked for it.
pub fn binance(source: &SourceSettings, now: Timestamp) -> anyhow::Result<BinanceSettings> {
    Ok(BinanceSettings {
        endpoint: source.binance_endpoint.parse().map_err(anyhow::Error::msg)?,
        symbols: source.symbols.clone(),
        seed: source.seed ^ now.micros().unsigned_abs(),
    })
}

/// The simulated market; a fresh one begins at `--start`, otherwise a warm start's hours before `now`.
pub fn market(source: &SourceSettings, args: &SimulatedArgs, now: Timestamp) -> SimulatedSettings {
    #[expect(clippy::cast_possible_truncation, reason = "hours and seconds are bounded by their settings")]
    let micros = |seconds: f64| (seconds * 1e6).round() as i64;
    let interval_micros = micros(source.event_frequency_seconds);
    let warm_start = now.plus_micros(-micros(source.warm_start_hours * 3_600.0));
    let whole_second = Timestamp::from_micros(warm_start.span(MICROS) * MICROS);
    SimulatedSettings {
        seed: source.seed,
        symbols: source.symbols.iter().map(|symbol| simulated_symbol(source, *symbol)).collect(),
        interval_micros,
        anomaly_probability: source.anomaly_probability,
        start: args.start.unwrap_or(whole_second),
    }
}

/// How the market runs: history before the present at full speed, unless `--start` makes it a replay at some pace.
pub fn simulated_run(source: &SourceSettings, args: &SimulatedArgs) -> SimulatedRun {
    let speed = if args.start.is_some() { source.speed() } else { 0.0 };
    SimulatedRun { events: args.events, speed }
}

fn simulated_symbol(source: &SourceSettings, symbol: domain::Symbol) -> SimulatedSymbol {
    let walk = source.walk.of(symbol);
    // A log-normal of mean m and deviation d has sigma^2 = ln(1 + (d / m)^2) and mu = ln(m) - sigma^2 / 2.
    let relative = walk.volume_std / walk.volume_mean;
    let variance = (relative * relative).ln_1p();
    SimulatedSymbol {
        symbol,
        start_price: walk.start_price,
        volatility: walk.volatility * source.event_frequency_seconds.sqrt(),
        volume_log_mean: libm::log(walk.volume_mean) - variance / 2.0,
        volume_log_sigma: variance.sqrt(),
    }
}
