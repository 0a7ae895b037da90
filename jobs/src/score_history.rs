//! Scores the rows that are older than the first model, once it exists, marked `in_sample`.
//!
//! Progress is an application transaction of its own in `predictions`, so that a kill at any moment is made good by
//! the next run and no row is scored twice.

use std::{sync::Arc, time::Duration};

use domain::{Offset, Partition, Prediction};
use lake::{Lake, TableName, lake::history_id, read::StoredFeatures, registry::Registry, table::Slice};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    active::ActiveModel,
    error::Error,
    feed::{Feed, FeedItem},
    library::Models,
};

/// Rows scored between two commits.
const ROWS_PER_COMMIT: Offset = 200_000;

/// How long to wait for rows that the stream job has folded but not committed yet.
const PAUSE: Duration = Duration::from_millis(500);

/// How often to look whether the stream job has met the first champion.
const ASSIGNMENT_LOOK: Duration = Duration::from_millis(200);

/// What scores the history of one topic.
#[derive(Clone, Debug)]
pub struct History {
    /// Where rows are read and predictions go.
    pub lake: Arc<Lake>,
    /// Which model scores from where.
    pub registry: Registry,
    /// Loads the models named there.
    pub models: Models,
    /// Told about every prediction once it is committed.
    pub feed: Arc<Feed>,
    /// The topic.
    pub topic: String,
}

impl History {
    /// Scores all rows below each partition's first assignment; those that the stream job has not committed yet are
    /// waited for. Returns the number of predictions added.
    ///
    /// # Errors
    /// Where a table or the registry cannot be read or written.
    pub async fn score(&self, partitions: &[Partition], cancel: &CancellationToken) -> Result<u64, Error> {
        let mut added = 0;
        for partition in partitions {
            if let Some(first) = self.registry.assignments(&self.topic, *partition).await?.first() {
                let model = self.models.load(first.model_version).await?;
                added += self.score_partition(*partition, &model, first.first_offset, cancel).await?;
            }
        }
        if added > 0 {
            info!(rows = added, "scored the history");
        }
        Ok(added)
    }

    /// [`History::score`], once the stream job has assigned a model to every partition.
    ///
    /// # Errors
    /// As [`History::score`].
    pub async fn score_when_assigned(
        &self,
        partitions: &[Partition],
        cancel: &CancellationToken,
    ) -> Result<u64, Error> {
        for partition in partitions {
            while self.registry.assignments(&self.topic, *partition).await?.is_empty() {
                tokio::select! { () = tokio::time::sleep(ASSIGNMENT_LOOK) => {}, () = cancel.cancelled() => return Ok(0) }
            }
        }
        self.score(partitions, cancel).await
    }

    async fn score_partition(
        &self,
        partition: Partition,
        model: &Arc<ActiveModel>,
        end: Offset,
        cancel: &CancellationToken,
    ) -> Result<u64, Error> {
        let progress = history_id(&self.topic, partition);
        let mut start = self.lake.transaction(TableName::Predictions, &progress).await?.unwrap_or(0);
        let mut added = 0;
        while start < end && !cancel.is_cancelled() {
            let committed = self.lake.progress(&self.topic, partition).await?.next;
            let next = end.min(committed).min(start + ROWS_PER_COMMIT);
            if next <= start {
                tokio::select! { () = tokio::time::sleep(PAUSE) => continue, () = cancel.cancelled() => break }
            }
            let predictions = self.predict(partition, model, start, next).await?;
            let trades = self.lake.trades_of(&predictions).await?;
            let slice = Slice { progress: progress.clone(), start, next, along: Vec::new(), rows: &predictions };
            let rows = self.lake.append(&slice).await?.rows();
            if rows > 0 {
                let told = predictions.iter().zip(trades);
                self.feed.push_older(told.map(|(prediction, trade)| FeedItem::live(prediction, trade)));
                added += rows as u64;
            }
            start = next;
        }
        Ok(added)
    }

    async fn predict(
        &self,
        partition: Partition,
        model: &Arc<ActiveModel>,
        start: Offset,
        next: Offset,
    ) -> Result<Vec<Prediction>, Error> {
        let condition = format!("partition = {partition} AND \"offset\" >= {start} AND \"offset\" < {next}");
        let rows = self.lake.pin(TableName::Features).await?.features(&condition).await?;
        let model = model.clone();
        Ok(tokio::task::spawn_blocking(move || predict(&model, rows)).await?)
    }
}

fn predict(model: &ActiveModel, rows: Vec<StoredFeatures>) -> Vec<Prediction> {
    let symbols: Vec<_> = rows.iter().map(|row| row.symbol).collect();
    let vectors: Vec<_> = rows.iter().map(|row| row.features).collect();
    let verdicts = model.model.verdicts(&symbols, &vectors);
    let judged = rows.into_iter().zip(verdicts);
    let prediction = |(row, verdict): (StoredFeatures, models::Verdict)| Prediction {
        partition: row.partition,
        offset: row.offset,
        ingest_time: row.ingest_time,
        timestamp: row.timestamp,
        symbol: row.symbol,
        features: row.features,
        anomaly_score: verdict.anomaly_score,
        is_anomaly: verdict.is_anomaly,
        model_version: model.version,
        in_sample: true,
        label_is_anomaly: row.is_anomaly,
        label_anomaly_type: row.anomaly_type,
        source: row.source,
    };
    judged.map(prediction).collect()
}
