//! Which predictions raise an alert or join one.
//!
//! A function of each symbol's predictions in the order of the log and of the models that made them, so that a restart, a
//! repair, a run without either and a verification give the same rows. What it depends on is read from the tables: the
//! newest predictions, as far as the fold's state reaches back, and the newest alerts.

use std::collections::HashMap;

use domain::{
    AlertRow, AlertType, FEATURE_NAMES, Offset, Partition, Prediction, Severity,
    alerts::{CONFIRMING_EVENTS, Episodes, Watch},
    features::Z_SCORE_VOLUME,
};
use lake::{Lake, lake::Progress};
use models::explain::ExplainedFeature;

use crate::{active::ActiveModel, error::Error, library::Models};

/// The alerts of some symbols, all of those of a partition most often.
#[derive(Debug, Default)]
pub struct Alerting {
    watch: Watch,
    episodes: Episodes,
}

impl Alerting {
    /// Recalls the state of a partition at `progress`.
    pub async fn recall(lake: &Lake, models: &Models, partition: Partition, progress: Progress) -> Result<Self, Error> {
        let Progress { next, replay } = progress;
        let mut alerting = Self::default();
        if next == 0 {
            return Ok(alerting);
        }
        for newest in lake.newest_alerts(partition, next).await? {
            alerting.episodes.recall(newest);
        }
        let newest = lake.newest_live_predictions(partition, replay..next, CONFIRMING_EVENTS - 1).await?;
        let mut loaded = HashMap::new();
        models.load_makers(&newest, &mut loaded).await?;
        for prediction in &newest {
            alerting.watch.observe(prediction, loaded[&prediction.model_version].model.alert_limits());
        }
        Ok(alerting)
    }

    /// Takes in what a model said about the next event of the log; the row of an event that is one of an alert.
    pub fn take(&mut self, model: &ActiveModel, prediction: &Prediction) -> Option<AlertRow> {
        let model = &model.model;
        let limits = model.alert_limits();
        let (severity, alert_type, leading_feature, share) = if self.watch.observe(prediction, limits) {
            let explanation = model.explain(prediction.symbol, &prediction.features);
            let is_out_of_reach = |of: &&ExplainedFeature| limits.is_out_of_reach(of.feature, of.value);
            let leading = explanation.features.iter().find(is_out_of_reach).unwrap_or(&explanation.features[0]);
            let alert_type = AlertType::of(leading.feature, leading.deviations > 0.0)?;
            (Severity::of(prediction, limits), alert_type, leading.feature, leading.share)
        } else if model.is_volume_rare(prediction.symbol, &prediction.features) {
            // Not by its score, which need not be explained for it: there are many of them.
            (Severity::Notice, AlertType::VolumeSpike, FEATURE_NAMES[Z_SCORE_VOLUME], 1.0)
        } else {
            return None;
        };
        let (alert, raised_at) = self.episodes.join(prediction, alert_type, severity == Severity::Notice);
        Some(AlertRow {
            partition: prediction.partition,
            offset: prediction.offset,
            ingest_time: prediction.ingest_time,
            timestamp: prediction.timestamp,
            symbol: prediction.symbol,
            alert,
            raised_at,
            alert_type,
            severity,
            anomaly_score: prediction.anomaly_score,
            model_version: prediction.model_version,
            leading_feature,
            share,
            source: prediction.source,
        })
    }

    /// Forgets what a state that is rebuilt from `replay` on would not know.
    pub fn forget_before(&mut self, replay: Offset) {
        self.watch.forget_before(replay);
    }
}
