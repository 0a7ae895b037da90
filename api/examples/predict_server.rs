//! `POST /predict` alone, for measuring: trains a forest of 200 trees on 10 000 rows of noise and serves it.
//!
//! `cargo run --release -p api --example predict_server -- 127.0.0.1:8900`

use std::{env, error::Error, sync::Arc, time::SystemTime};

use api::{Protection, Service};
use domain::{Clock, Symbol, Timestamp};
use jobs::{
    active::ActiveModel,
    control::Control,
    feed::Feed,
    ingest::Intake,
    keys::Keys,
    metrics::Metrics,
    status::{PartStatus, Progress, StatusProbe},
    tables::Tables,
};
use lake::Lake;
use models::{TrainParameters, TrainingSet};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use streams::{EmbeddedLog, TopicSettings};
use tokio::{net::TcpListener, sync::watch};

struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "a program passes the system's clock in")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

/// Nothing but the service runs here.
struct NoParts;

impl StatusProbe for NoParts {
    fn parts(&self) -> Vec<PartStatus> {
        Vec::new()
    }

    fn progress(&self) -> Progress {
        Progress::default()
    }
}

fn train(clock: &impl Clock) -> Result<ActiveModel, Box<dyn Error>> {
    let symbol = Symbol::parse("BTC-USDT")?;
    let mut chance = ChaCha8Rng::seed_from_u64(7);
    let mut draw = || -> f64 { StandardNormal.sample(&mut chance) };
    let mut set = TrainingSet::with_capacity(10_000);
    for _ in 0..10_000 {
        set.push(symbol, [draw(), draw(), draw(), draw().abs(), draw().abs()]);
    }
    let model = models::train(&set, &TrainParameters::default())?;
    Ok(ActiveModel { version: 1, name: "noise".to_owned(), created: clock.now(), artifact_bytes: 0, model })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8900".to_owned());
    let (_keep, model) = watch::channel(Some(Arc::new(train(&SystemClock)?)));
    let folder = tempfile::tempdir()?;
    let (metrics, clock) = (Arc::new(Metrics::new()), Arc::new(SystemClock));
    let log = EmbeddedLog::open(&folder.path().join("events.db"), &TopicSettings::default(), clock.clone()).await?;
    let keys = Keys::open(folder.path(), clock.clone()).await?;
    let control = Control::open(folder.path(), clock.clone()).await?;
    let lake = Arc::new(Lake::open(&folder.path().join("lake")).await?);
    let service = Service {
        model,
        feed: Arc::new(Feed::new()),
        status: Arc::new(NoParts),
        metrics: metrics.clone(),
        clock: clock.clone(),
        alerts: control.alerts(lake.clone()),
        control,
        intake: Intake::new(Arc::new(log), metrics, clock),
        tables: Tables::new(lake),
        simulated: true,
        protection: Protection::of_loopback(keys),
    };
    let listener = TcpListener::bind(&address).await?;
    println!("serving on http://{address}");
    api::serve(listener, service, std::future::pending()).await?;
    Ok(())
}
