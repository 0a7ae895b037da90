//! Which of a partition's predictions raise an alert or join one.
//!
//! A function of the predictions in the order of the log and of their models, so that a restart, a repair and a run
//! without either give the same rows. What it depends on is read from the tables: the predictions that the fold's state
//! reaches back to, and the newest alerts.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use domain::{
    AlertRow, AlertType, Offset, Partition, Prediction, Severity,
    alerts::{Episodes, Watch},
};
use lake::{Lake, lake::Progress};

use crate::{active::ActiveModel, error::Error, library::Models};

/// The alerts of one partition.
pub(super) struct Alerts {
    watch: Watch,
    episodes: Episodes,
}

impl Alerts {
    /// Recalls the state at `progress`.
    pub(super) async fn recall(
        lake: &Lake,
        models: &Models,
        partition: Partition,
        progress: Progress,
    ) -> Result<Self, Error> {
        let Progress { next, replay } = progress;
        let mut alerts = Self { watch: Watch::default(), episodes: Episodes::default() };
        if next == 0 {
            return Ok(alerts);
        }
        for newest in lake.newest_alerts(partition, next).await? {
            alerts.episodes.recall(newest.symbol, newest.alert_type, newest.alert, newest.raised_at);
        }
        let mut loaded: HashMap<i64, Arc<ActiveModel>> = HashMap::new();
        for prediction in lake.live_predictions(partition, replay..next).await? {
            let model = match loaded.entry(prediction.model_version) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => place.insert(models.load(prediction.model_version).await?),
            };
            alerts.watch.observe(&prediction, model.model.alert_limits());
        }
        Ok(alerts)
    }

    /// Takes in what a model said about the next events of the log; appends the rows of those that are alerts.
    pub(super) fn take(&mut self, model: &ActiveModel, predictions: &[Prediction], rows: &mut Vec<AlertRow>) {
        let limits = model.model.alert_limits();
        for prediction in predictions {
            if self.watch.observe(prediction, limits) {
                rows.extend(self.alert(model, prediction));
            }
        }
    }

    fn alert(&mut self, model: &ActiveModel, prediction: &Prediction) -> Option<AlertRow> {
        let explanation = model.model.explain(prediction.symbol, &prediction.features);
        let [leading, ..] = explanation.features;
        let alert_type = AlertType::of(leading.feature, leading.deviations > 0.0)?;
        let (alert, raised_at) = self.episodes.join(prediction, alert_type);
        Some(AlertRow {
            partition: prediction.partition,
            offset: prediction.offset,
            ingest_time: prediction.ingest_time,
            timestamp: prediction.timestamp,
            symbol: prediction.symbol,
            alert,
            raised_at,
            alert_type,
            severity: Severity::of(prediction.anomaly_score, model.model.alert_limits()),
            anomaly_score: prediction.anomaly_score,
            model_version: prediction.model_version,
            leading_feature: leading.feature,
            share: leading.share,
            source: prediction.source,
        })
    }

    /// Forgets what a state that is rebuilt from `replay` on would not know.
    pub(super) fn forget_before(&mut self, replay: Offset) {
        self.watch.forget_before(replay);
    }
}
