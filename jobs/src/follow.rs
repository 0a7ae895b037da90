//! Keeps the feed current where another process makes the predictions: what each new commit of their tables added is
//! taken in, once.

use std::time::Duration;

use domain::Prediction;
use lake::{Error, Lake, TableName};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::feed::Feed;

/// How often a table is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Takes in the commits after version `known` of `predictions` until it is cancelled. What cannot be read is tried
/// again.
pub async fn follow_predictions(lake: &Lake, feed: &Feed, mut known: u64, cancel: &CancellationToken) {
    while is_time(cancel).await {
        if let Err(error) = take_in_predictions(lake, feed, &mut known).await {
            warn!(%error, version = known, "new predictions cannot be read; the feed is tried again");
        }
    }
}

/// Tells the feed what the commits after version `known` of `alerts` added, until it is cancelled. What cannot be read is
/// tried again.
pub async fn follow_alerts(lake: &Lake, feed: &Feed, mut known: u64, cancel: &CancellationToken) {
    while is_time(cancel).await {
        if let Err(error) = take_in_alerts(lake, feed, &mut known).await {
            warn!(%error, version = known, "new alerts cannot be read; the feed is tried again");
        }
    }
}

/// Waits for the next look; false, once it is cancelled.
async fn is_time(cancel: &CancellationToken) -> bool {
    tokio::select! { () = tokio::time::sleep(LOOK) => true, () = cancel.cancelled() => false }
}

async fn take_in_predictions(lake: &Lake, feed: &Feed, known: &mut u64) -> Result<(), Error> {
    let newest = lake.state(TableName::Predictions).await?.version;
    while *known < newest {
        let added = lake.pin_added(TableName::Predictions, *known + 1).await?.predictions().await?;
        let (older, live): (Vec<Prediction>, _) = added.into_iter().partition(|prediction| prediction.in_sample);
        feed.push_older(&older);
        feed.push_live(&live);
        *known += 1;
    }
    Ok(())
}

async fn take_in_alerts(lake: &Lake, feed: &Feed, known: &mut u64) -> Result<(), Error> {
    let newest = lake.state(TableName::Alerts).await?.version;
    while *known < newest {
        let added = lake.pin_added(TableName::Alerts, *known + 1).await?;
        feed.push_alerts(&added.alert_rows("TRUE ORDER BY partition, \"offset\"").await?);
        *known += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::{AlertId, AlertRow, AlertType, FEATURE_NAMES, Offset, Severity, Source, Symbol, Timestamp};
    use lake::PartitionFlush;
    use tokio::sync::broadcast::error::TryRecvError;

    use super::*;

    fn row(offset: Offset) -> AlertRow {
        let at = Timestamp::from_seconds(1_710_000_000 + offset);
        AlertRow {
            partition: 0,
            offset,
            ingest_time: at,
            timestamp: at,
            symbol: Symbol::parse("BTC-USDT").unwrap(),
            alert: AlertId { partition: 0, offset },
            raised_at: at,
            alert_type: AlertType::PriceSpike,
            severity: Severity::High,
            anomaly_score: -0.2,
            model_version: 1,
            leading_feature: FEATURE_NAMES[0],
            share: 0.5,
            source: Source::Simulated,
        }
    }

    async fn commit(lake: &Lake, start: Offset, next: Offset) {
        let alerts = (start..next).map(row).collect();
        let flush = PartitionFlush { start, next, alerts, ..PartitionFlush::default() };
        lake.flush("topic", Arc::new(vec![flush])).await.unwrap();
    }

    #[tokio::test]
    async fn followers_are_told_once_of_the_alerts_that_commits_added() {
        let folder = tempfile::tempdir().unwrap();
        let (lake, feed) = (Lake::open(folder.path()).await.unwrap(), Feed::new());
        let mut told = feed.follow_alerts();
        commit(&lake, 0, 2).await;
        let mut known = lake.state(TableName::Alerts).await.unwrap().version;
        commit(&lake, 2, 4).await;
        lake.compact(TableName::Alerts).await.unwrap();
        commit(&lake, 4, 5).await;
        for _ in 0..2 {
            take_in_alerts(&lake, &feed, &mut known).await.unwrap();
        }
        for offset in 2..5 {
            assert_eq!(*told.try_recv().unwrap(), row(offset));
        }
        assert_eq!(told.try_recv().unwrap_err(), TryRecvError::Empty);
    }
}
