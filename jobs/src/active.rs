//! The model that answers now: the champion, loaded and ready to score.
//!
//! Distributed as `tokio::sync::watch::Receiver<Option<Arc<ActiveModel>>>`, `None` until the first model exists. An
//! active model never changes; a promotion replaces the whole value. None is made of bytes that are not those that
//! were registered, or that were trained on features of another definition.

use std::path::Path;

use domain::{FeatureRow, Prediction, Timestamp};
use lake::{artifacts, registry::Registry};
use models::{Model, specification};
use tokio::task::spawn_blocking;

use crate::error::Error;

/// A model in memory together with what its record says about it.
#[derive(Debug)]
pub struct ActiveModel {
    /// Version in the registry, from 1.
    pub version: i64,
    /// Name in the registry.
    pub name: String,
    /// When the version was trained.
    pub created: Timestamp,
    /// Length of the stored artifact in bytes.
    pub artifact_bytes: u64,
    /// The detector.
    pub model: Model,
}

impl ActiveModel {
    /// Judges feature rows, in their order.
    #[must_use]
    pub fn predict(&self, rows: &[FeatureRow]) -> Vec<Prediction> {
        let symbols: Vec<_> = rows.iter().map(|row| row.symbol).collect();
        let vectors: Vec<_> = rows.iter().map(FeatureRow::vector).collect();
        let verdicts = self.model.verdicts(&symbols, &vectors);
        let judged = rows.iter().zip(vectors).zip(verdicts).map(|((row, features), verdict)| Prediction {
            partition: row.partition,
            offset: row.offset,
            ingest_time: row.ingest_time,
            timestamp: row.timestamp,
            symbol: row.symbol,
            features,
            anomaly_score: verdict.anomaly_score,
            is_anomaly: verdict.is_anomaly,
            model_version: self.version,
            in_sample: false,
            label_is_anomaly: row.is_anomaly,
            label_anomaly_type: row.anomaly_type.clone(),
            source: row.source,
        });
        judged.collect()
    }
}

/// Loads a registered model whose file lies in `models_dir`.
///
/// # Errors
/// [`Error::Lake`] where there is no such version or its file is missing or damaged, [`Error::Models`] where the file is
/// no model or its features are not those of this program.
pub async fn load(registry: &Registry, models_dir: &Path, version: i64) -> Result<ActiveModel, Error> {
    let record = registry.model(version).await?.model;
    let known = specification::hash();
    if record.specification_hash != known {
        return Err(models::Error::Specification { found: record.specification_hash, known }.into());
    }
    let (folder, artifact) = (models_dir.to_path_buf(), record.artifact.clone());
    let read = move || Ok::<_, Error>(Model::from_bytes(&artifacts::read(&folder, &artifact)?)?);
    Ok(ActiveModel {
        version,
        name: record.name,
        created: record.created,
        artifact_bytes: record.artifact.bytes,
        model: spawn_blocking(read).await??,
    })
}
