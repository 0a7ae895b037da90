//! The first model: trained once enough feature rows exist, promoted, and followed by every running scorer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lake::TableName;
use models::TrainParameters;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    active::ActiveModel,
    error::Error,
    library::Models,
    metrics::Metrics,
    train::{Then, TrainReport, TrainRequest, train},
    workshop::Workshop,
};

/// How often the number of rows is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How often the champion is looked at: another process may promote.
const CHAMPION_LOOK: Duration = Duration::from_millis(200);

/// What others may see of the wait for the first model.
#[derive(Debug, Default)]
pub struct FirstModelState {
    feature_rows: AtomicU64,
}

impl FirstModelState {
    /// Feature rows committed, as of the last look.
    #[must_use]
    pub fn feature_rows(&self) -> u64 {
        self.feature_rows.load(Ordering::Relaxed)
    }
}

/// Waits until `ready` is set and `rows_needed` feature rows are committed, then trains and promotes the first model.
/// `None` where there is a champion already, or the wait was cancelled.
///
/// # Errors
/// Where the lake, the registry or the training fail.
pub async fn run(
    workshop: &Workshop,
    parameters: TrainParameters,
    rows_needed: u64,
    ready: &CancellationToken,
    state: &FirstModelState,
    cancel: &CancellationToken,
) -> Result<Option<TrainReport>, Error> {
    if workshop.registry.champion().await?.is_some() {
        return Ok(None);
    }
    tokio::select! { () = ready.cancelled() => {}, () = cancel.cancelled() => return Ok(None) }
    loop {
        let rows = workshop.lake.state(TableName::Features).await?.rows;
        state.feature_rows.store(rows, Ordering::Relaxed);
        if rows >= rows_needed {
            break;
        }
        tokio::select! { () = tokio::time::sleep(LOOK) => {}, () = cancel.cancelled() => return Ok(None) }
    }
    info!(rows = state.feature_rows(), "training the first model");
    let reason = "enough feature rows for the first model";
    let request = TrainRequest::on_every_row(parameters, Then::Promote, "first-model", reason);
    let report = train(workshop, &request).await?;
    info!(version = report.version, rows = report.rows, "trained and promoted the first model");
    Ok(Some(report))
}

/// Tells `active` whenever the registry names another champion, until it is cancelled.
pub async fn follow_champion(
    models: &Models,
    active: &watch::Sender<Option<Arc<ActiveModel>>>,
    metrics: &Metrics,
    cancel: &CancellationToken,
) {
    while !cancel.is_cancelled() {
        let known = active.borrow().as_ref().map(|model| model.version);
        match models.champion_if_not(known).await {
            Ok(Some(champion)) => {
                info!(version = champion.version, "scores with a new champion");
                metrics.model_activated(champion.version);
                active.send_replace(Some(champion));
            }
            Ok(None) => {}
            Err(error) => warn!(%error, "the champion cannot be loaded; the model before it goes on"),
        }
        tokio::select! { () = tokio::time::sleep(CHAMPION_LOOK) => {}, () = cancel.cancelled() => {} }
    }
}
