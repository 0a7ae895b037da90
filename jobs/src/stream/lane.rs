//! One partition on its way through the job: its fold, its scorer and the rows that wait for the next commit.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use domain::{AlertRow, Fate, FateCounts, Fold, Offset, Partition, Prediction, Timestamp};
use lake::{
    PartitionFlush, TableName,
    lake::{Progress, next_id},
    recall::Memory,
    rows::GapRow,
};
use streams::ReadItem;
use tracing::warn;

use super::{
    StreamParts, announce,
    scorer::Scorer,
    silent::{fold_batch, fold_silently, recall},
};
use crate::{
    active::ActiveModel,
    alerting::Alerting,
    error::Error,
    feed::{FeedItem, Trade},
};

/// A partition's part of the job.
pub(super) struct Lane {
    fold: Fold,
    scorer: Scorer,
    alerting: Alerting,
    pending: PartitionFlush,
    pending_bytes: usize,
    /// Predictions below this offset, and their alerts, were told to the feed by an earlier run.
    first_unpublished: Offset,
    published: usize,
    published_alerts: usize,
    /// When the newest record that was folded here was appended.
    newest_append: Option<Timestamp>,
}

/// What came of folding some records.
pub(super) struct Folded {
    /// The records by their fate.
    pub(super) fates: FateCounts,
    /// How long judging their rows took; none where no model judged.
    pub(super) scoring: Option<Duration>,
}

impl Lane {
    /// Rebuilds the state at the committed progress by folding silently from where that has to start.
    pub(super) async fn restore(parts: &StreamParts, partition: Partition) -> Result<Self, Error> {
        let topic = parts.log.topic_id();
        let progress = parts.lake.progress(topic, partition).await?;
        let (next, replay) = (progress.next, progress.replay);
        let end = parts.log.end_offset(partition).await?;
        if end < next {
            return Err(Error::LogBehindLake { partition, end, next });
        }
        announce(partition, next, replay);
        let fold = rebuild(parts, partition, replay, next).await?;
        let scorer = Scorer::restore(&parts.registry, &parts.models, topic, partition, next).await?;
        let scored = parts.lake.transaction(TableName::Predictions, &next_id(topic, partition)).await?;
        let alerting = Alerting::recall(&parts.lake, &parts.models, partition, progress).await?;
        Ok(Self::at(fold, scorer, alerting, progress, scored.unwrap_or(0)))
    }

    /// A lane that folds again what has been committed from `from` on, and tells the feed nothing.
    pub(super) async fn folding_again(
        parts: &StreamParts,
        partition: Partition,
        from: Progress,
    ) -> Result<Self, Error> {
        let Progress { next, replay } = from;
        let topic = parts.log.topic_id();
        let fold = rebuild(parts, partition, replay, next).await?;
        let scorer = Scorer::restore(&parts.registry, &parts.models, topic, partition, next).await?;
        let alerting = Alerting::recall(&parts.lake, &parts.models, partition, from).await?;
        Ok(Self::at(fold, scorer, alerting, from, Offset::MAX))
    }

    fn at(fold: Fold, scorer: Scorer, alerting: Alerting, progress: Progress, first_unpublished: Offset) -> Self {
        let Progress { next, replay } = progress;
        let pending =
            PartitionFlush { partition: fold.partition(), start: next, next, replay, ..PartitionFlush::default() };
        Self {
            fold,
            scorer,
            alerting,
            pending,
            pending_bytes: 0,
            first_unpublished,
            published: 0,
            published_alerts: 0,
            newest_append: None,
        }
    }

    pub(super) const fn partition(&self) -> Partition {
        self.fold.partition()
    }

    pub(super) const fn next(&self) -> Offset {
        self.fold.next()
    }

    pub(super) fn pending_events(&self) -> usize {
        self.pending.output.events.len()
    }

    pub(super) const fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    pub(super) const fn newest_append(&self) -> Option<Timestamp> {
        self.newest_append
    }

    pub(super) async fn adopt(&mut self, parts: &StreamParts, champion: &Arc<ActiveModel>) -> Result<(), Error> {
        self.scorer.adopt(&parts.registry, champion, self.fold.next(), parts.clock.now()).await
    }

    /// Folds what was read and scores the new feature rows. Work for a blocking thread.
    pub(super) fn fold(&mut self, items: Vec<ReadItem>, now: Timestamp) -> Folded {
        let mut fates = FateCounts::default();
        let old_rows = self.pending.output.features.len();
        for item in items {
            match item {
                ReadItem::Batch(batch) => {
                    self.pending_bytes += batch.bytes_held();
                    let newest = batch.get(batch.len().saturating_sub(1));
                    self.newest_append = newest.map(|record| record.append_time).or(self.newest_append);
                    fold_batch(&mut self.fold, &batch, &mut self.pending.output, |_, fate| fates.count(fate));
                }
                ReadItem::Gap { partition, from, to, reason } => {
                    warn!(partition, from, to, reason, "these records are lost; what comes after them is folded");
                    self.pending.gaps.push(GapRow { partition, from, to, met: now, reason });
                    self.fold.skip_to(to);
                }
            }
        }
        let (begun, judged) = (Instant::now(), self.pending.predictions.len());
        self.score(old_rows);
        let scoring = (self.pending.predictions.len() > judged).then(|| begun.elapsed());
        Folded { fates, scoring }
    }

    /// Scores the feature rows from a place on, and finds the alerts among them.
    fn score(&mut self, from: usize) {
        let Self { scorer, alerting, pending, .. } = self;
        scorer.score(&pending.output.features[from..], &mut pending.predictions, |model, said| {
            pending.alerts.extend(said.iter().filter_map(|prediction| alerting.take(model, prediction)));
        });
    }

    /// Takes in again what was folded before the log lost it, as the tables tell it: the next offsets below `end`, so many
    /// as fit into memory.
    pub(super) async fn recall(mut self, memory: &Memory, end: Offset) -> Result<Self, Error> {
        let old_rows = self.pending.output.features.len();
        let (fold, out) = recall(memory, self.fold, end).await?;
        self.fold = fold;
        self.pending.output.append(out);
        self.score(old_rows);
        Ok(self)
    }

    /// Predictions that the feed has not been told about.
    pub(super) fn unpublished(&self) -> &[Prediction] {
        let fresh = &self.pending.predictions[self.published..];
        &fresh[fresh.partition_point(|prediction| prediction.offset < self.first_unpublished)..]
    }

    /// The same as the feed shows them, with what was traded in their events.
    pub(super) fn unpublished_items(&self) -> impl ExactSizeIterator<Item = FeedItem> {
        let fresh = self.unpublished();
        let first = fresh.first().map_or(Offset::MAX, |prediction| prediction.offset);
        let features = &self.pending.output.features;
        let mut rows = features[features.partition_point(|row| row.offset < first)..].iter();
        fresh.iter().map(move |prediction| {
            // Both are in the order of offsets; a row that no model has judged is passed over.
            let row = rows.find(|row| row.offset == prediction.offset);
            FeedItem::live(prediction, row.map(|row| Trade { price: row.price, volume: row.volume }))
        })
    }

    /// Alerts that the feed has not been told about.
    pub(super) fn unpublished_alerts(&self) -> &[AlertRow] {
        let fresh = &self.pending.alerts[self.published_alerts..];
        &fresh[fresh.partition_point(|alert| alert.offset < self.first_unpublished)..]
    }

    pub(super) const fn mark_published(&mut self) {
        self.published = self.pending.predictions.len();
        self.published_alerts = self.pending.alerts.len();
    }

    /// Takes the rows to commit, `None` where the lane has not moved.
    pub(super) fn take_pending(&mut self) -> Option<PartitionFlush> {
        let (partition, next, replay) = (self.fold.partition(), self.fold.next(), self.fold.replay());
        if self.pending.start == next {
            return None;
        }
        self.pending_bytes = 0;
        self.published = 0;
        self.published_alerts = 0;
        self.alerting.forget_before(replay);
        let fresh = PartitionFlush { partition, start: next, next, replay, ..PartitionFlush::default() };
        let full = std::mem::replace(&mut self.pending, fresh);
        Some(PartitionFlush { next, replay, ..full })
    }
}

/// Folds from `replay` to `next` without keeping rows, lost records as the tables tell them, and checks that the last
/// record met the fate that is stored.
async fn rebuild(parts: &StreamParts, partition: Partition, replay: Offset, next: Offset) -> Result<Fold, Error> {
    let fold = Fold::with_floors(partition, replay, parts.lake.floors(partition, replay).await?);
    let (fold, last) = fold_silently(parts.log.as_ref(), &parts.lake, fold, next, None, |last, offset, fate| {
        *last = Some((offset, fate));
    })
    .await?;
    // Where the log has lost the last record, there is nothing to compare.
    if let Some((offset, fate)) = last.filter(|(offset, _)| offset + 1 == next) {
        let now = (fate != Fate::Control).then_some(fate);
        let stored = parts.lake.stored_fate(partition, offset).await?;
        if stored != now {
            let text = |fate: Option<Fate>| fate.map_or("nothing", Fate::as_str).to_owned();
            return Err(Error::FateChanged { partition, offset, now: text(now), stored: text(stored) });
        }
    }
    Ok(fold)
}

#[cfg(test)]
mod tests {
    use domain::{FeatureRow, Source, Symbol};

    use super::*;
    use crate::{library::Models, workshop::example::workshop};

    fn row(offset: Offset, price: f64) -> FeatureRow {
        FeatureRow {
            partition: 0,
            offset,
            ingest_time: Timestamp::from_seconds(1_710_000_001),
            timestamp: Timestamp::from_seconds(1_710_000_000),
            symbol: Symbol::parse("BTC-USDT").unwrap(),
            price,
            volume: price / 2.0,
            log_return: 0.0,
            z_scores: [0.0; 3],
            means: [0.0; 3],
            deviations: [0.0; 3],
            window_events: 0,
            is_anomaly: None,
            anomaly_type: None,
            source: Source::Simulated,
        }
    }

    fn prediction(row: &FeatureRow) -> Prediction {
        Prediction {
            partition: row.partition,
            offset: row.offset,
            ingest_time: row.ingest_time,
            timestamp: row.timestamp,
            symbol: row.symbol,
            features: row.vector(),
            anomaly_score: 0.25,
            is_anomaly: false,
            model_version: 1,
            in_sample: false,
            label_is_anomaly: None,
            label_anomaly_type: None,
            source: row.source,
        }
    }

    #[tokio::test]
    async fn a_prediction_is_told_with_what_was_traded_in_its_own_event() {
        let (_folder, workshop) = workshop().await;
        let models = Models::new(workshop.registry.clone(), workshop.models_dir.clone());
        let scorer = Scorer::restore(&workshop.registry, &models, "topic", 0, 0).await.unwrap();
        let mut lane = Lane::at(Fold::new(0, 0), scorer, Alerting::default(), Progress::default(), 4);
        assert_eq!(lane.unpublished_items().len(), 0);
        // No model has judged the first two and the last but one; an earlier run has told of the third.
        lane.pending.output.features = [(0, 1.0), (1, 2.0), (3, 3.0), (5, 4.0), (6, 5.0), (9, 6.0)]
            .map(|(offset, price)| row(offset, price))
            .into();
        let [.., told, fresh, _, last] = lane.pending.output.features.as_slice() else { unreachable!() };
        lane.pending.predictions = [told, fresh, last].map(prediction).into();
        let items: Vec<_> = lane.unpublished_items().map(|item| (item.position, item.trade)).collect();
        let expected = |offset: Offset, price: f64| (Some((0, offset)), Some(Trade { price, volume: price / 2.0 }));
        assert_eq!(items, [expected(5, 4.0), expected(9, 6.0)]);
        lane.mark_published();
        assert_eq!(lane.unpublished_items().len(), 0);
    }
}
