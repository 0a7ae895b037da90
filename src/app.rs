//! The opened parts of one data folder, and how a running program ends: Ctrl-C or SIGTERM cancels, everything that
//! runs flushes and returns.

use std::{path::PathBuf, sync::Arc};

use domain::{Clock, Probe};
use jobs::{
    active::ActiveModel,
    control::{MODELS, REGISTRY},
    feed::{Feed, FeedItem, Tally},
    first_model::FirstModelState,
    ingest::{IngestParts, IngestState},
    library::Models,
    metrics::Metrics,
    notify::{NotifyParts, NotifyState},
    score_history::History,
    stream::{StreamParts, StreamState},
    workshop::Workshop,
};
use lake::{Lake, TableName, registry::Registry};
use streams::EventLog;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{clock::SystemClock, config::Settings, crash, log_engine};

/// Predictions that the feed is filled with at a start.
const RESTORED_PREDICTIONS: usize = jobs::feed::LIVE_KEPT;

/// Everything that commands work with.
pub struct App {
    /// The event log.
    pub log: Arc<dyn EventLog>,
    /// The tables.
    pub lake: Arc<Lake>,
    /// The model registry.
    pub registry: Registry,
    /// Registered models, loaded.
    pub models: Models,
    /// What was predicted.
    pub feed: Arc<Feed>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The present.
    pub clock: Arc<dyn Clock>,
    /// The crash that a test asks for.
    pub probe: Arc<dyn Probe>,
    /// What ingest shows.
    pub ingest: Arc<IngestState>,
    /// What the stream job shows.
    pub stream: Arc<StreamState>,
    /// What telling about alerts shows.
    pub notify: Arc<NotifyState>,
    /// What the wait for the first model shows.
    pub first_model: Arc<FirstModelState>,
    /// The model that scores now.
    pub champion: watch::Sender<Option<Arc<ActiveModel>>>,
    /// Cancelled by Ctrl-C and SIGTERM.
    pub cancel: CancellationToken,
    models_dir: PathBuf,
}

impl App {
    /// Opens registry, log and lake of the data folder; missing ones are made.
    pub async fn open(settings: &Settings) -> anyhow::Result<Self> {
        Self::with(registry(settings).await?, settings).await
    }

    /// [`App::open`] with a registry that has been opened before.
    pub async fn with(registry: Registry, settings: &Settings) -> anyhow::Result<Self> {
        let data = &settings.data.dir;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let probe = crash::probe()?;
        let log = log_engine::open(&settings.log, data, clock.clone()).await?;
        let lake = Arc::new(Lake::open_with_probe(&data.join("lake"), probe.clone()).await?);
        lake.require_topic(log.topic_id()).await?;
        let models_dir = data.join(MODELS);
        let models = Models::new(registry.clone(), models_dir.clone());
        let champion = models.champion_if_not(None).await?;
        let metrics = Arc::new(Metrics::new());
        metrics.model_activated(champion.as_ref().map_or(0, |model| model.version));
        Ok(Self {
            log,
            lake,
            registry,
            models,
            feed: Arc::new(Feed::new()),
            metrics,
            clock,
            probe,
            ingest: Arc::default(),
            stream: Arc::default(),
            notify: Arc::default(),
            first_model: Arc::default(),
            champion: watch::Sender::new(champion),
            cancel: cancelled_by_signals()?,
            models_dir,
        })
    }

    /// Fills the feed with what the lake holds; the version of `predictions` that it was.
    pub async fn restore_feed(&self) -> anyhow::Result<u64> {
        let predictions = self.lake.pin(TableName::Predictions).await?;
        let totals = predictions.prediction_totals().await?;
        let newest = predictions.newest_predictions(RESTORED_PREDICTIONS).await?;
        let trades = self.lake.trades_of(&newest).await?;
        let newest = newest.iter().zip(trades).map(|(prediction, trade)| FeedItem::live(prediction, trade));
        let counters = totals
            .into_iter()
            .map(|(symbol, count, anomalies, score_sum)| (symbol, Tally { count, anomalies, score_sum }));
        self.feed.restore(counters, newest);
        Ok(predictions.version())
    }

    /// What ingest works with.
    pub fn ingest_parts(&self) -> IngestParts {
        IngestParts {
            log: self.log.clone(),
            metrics: self.metrics.clone(),
            state: self.ingest.clone(),
            clock: self.clock.clone(),
            probe: self.probe.clone(),
        }
    }

    /// What the stream job works with.
    pub fn stream_parts(&self) -> StreamParts {
        StreamParts {
            log: self.log.clone(),
            lake: self.lake.clone(),
            registry: self.registry.clone(),
            models: self.models.clone(),
            champion: self.champion.subscribe(),
            feed: self.feed.clone(),
            metrics: self.metrics.clone(),
            state: self.stream.clone(),
            clock: self.clock.clone(),
            probe: self.probe.clone(),
        }
    }

    /// What telling about alerts works with.
    pub fn notify_parts(&self) -> NotifyParts {
        NotifyParts { metrics: self.metrics.clone(), state: self.notify.clone(), clock: self.clock.clone() }
    }

    /// What training and evaluation work with.
    pub fn workshop(&self) -> Workshop {
        Workshop {
            lake: self.lake.clone(),
            registry: self.registry.clone(),
            models_dir: self.models_dir.clone(),
            clock: self.clock.clone(),
        }
    }

    /// What scores the rows older than the first model.
    pub fn history(&self) -> History {
        History {
            lake: self.lake.clone(),
            registry: self.registry.clone(),
            models: self.models.clone(),
            feed: self.feed.clone(),
            topic: self.log.topic_id().to_owned(),
        }
    }

    /// Closes the databases, so that nothing waits in their write-ahead logs.
    pub async fn close(self) {
        self.log.close().await;
        self.registry.close().await;
    }
}

/// The registry of the data folder, made where it is missing.
pub async fn registry(settings: &Settings) -> anyhow::Result<Registry> {
    Ok(Registry::open(&settings.data.dir.join(REGISTRY)).await?)
}

/// A token that Ctrl-C and SIGTERM cancel; a second Ctrl-C ends the process at once.
pub fn cancelled_by_signals() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        info!("flushing; once more Ctrl-C ends at once, what is in the log is safe");
        cancelled.cancel();
        interrupt.recv().await;
        std::process::exit(130);
    });
    Ok(token)
}
