//! Keeps the feed current where another process makes the predictions: what each new commit of their tables added is
//! taken in, once, with what was traded in the events that it is about.

use std::time::Duration;

use domain::Prediction;
use lake::{Error, Lake, TableName};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::feed::{Feed, FeedItem, Trade};

/// How often a table is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Looks that predictions are put off for, at most, because the features that they are about are not committed yet. The
/// tables of a flush are committed side by side: one look is enough, unless the other process has ended meanwhile.
const PUT_OFF: u32 = 10;

/// How far predictions are taken in.
struct TakenIn {
    /// The version of their table.
    version: u64,
    /// How often the next one was put off.
    put_off: u32,
}

/// Takes in the commits after version `known` of `predictions` until it is cancelled. What cannot be read is tried
/// again.
pub async fn follow_predictions(lake: &Lake, feed: &Feed, known: u64, cancel: &CancellationToken) {
    let mut taken = TakenIn { version: known, put_off: 0 };
    while is_time(cancel).await {
        if let Err(error) = take_in_predictions(lake, feed, &mut taken).await {
            warn!(%error, version = taken.version, "new predictions cannot be read; the feed is tried again");
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

async fn take_in_predictions(lake: &Lake, feed: &Feed, taken: &mut TakenIn) -> Result<(), Error> {
    let newest = lake.state(TableName::Predictions).await?.version;
    while taken.version < newest {
        let added = lake.pin_added(TableName::Predictions, taken.version + 1).await?.predictions().await?;
        let trades = lake.trades_of(&added).await?;
        if taken.put_off < PUT_OFF && trades.contains(&None) {
            taken.put_off += 1;
            return Ok(());
        }
        let told = added.iter().zip(trades);
        let (older, live): (Vec<_>, Vec<_>) = told.partition(|(prediction, _)| prediction.in_sample);
        let item = |(prediction, trade): (&Prediction, Option<Trade>)| FeedItem::live(prediction, trade);
        feed.push_older(older.into_iter().map(item));
        feed.push_live(live.into_iter().map(item));
        *taken = TakenIn { version: taken.version + 1, put_off: 0 };
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
    use crate::workshop::example::{Market, START, workshop};

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

    /// Commits what was predicted about the first three events of the example market, without their features.
    async fn commit_predictions(lake: &Lake) {
        let prediction = |offset| Prediction {
            partition: 0,
            offset,
            ingest_time: START,
            timestamp: START,
            symbol: Symbol::parse("BTC-USDT").unwrap(),
            features: [0.5; 5],
            anomaly_score: 0.25,
            is_anomaly: false,
            model_version: 1,
            in_sample: offset == 0,
            label_is_anomaly: None,
            label_anomaly_type: None,
            source: Source::Simulated,
        };
        let flush =
            PartitionFlush { next: 3, predictions: (0..3).map(prediction).collect(), ..PartitionFlush::default() };
        lake.flush_derived("topic", &Arc::new(vec![flush])).await.unwrap();
    }

    #[tokio::test]
    async fn predictions_are_taken_in_with_what_was_traded_once_that_is_committed_too() {
        let (_folder, workshop) = workshop().await;
        let (lake, feed) = (&workshop.lake, Feed::new());
        let mut taken = TakenIn { version: lake.state(TableName::Predictions).await.unwrap().version, put_off: 0 };
        commit_predictions(lake).await;
        take_in_predictions(lake, &feed, &mut taken).await.unwrap();
        assert_eq!(feed.latest(9, None), []);
        Market::calm().run(&workshop, 1).await;
        for _ in 0..2 {
            take_in_predictions(lake, &feed, &mut taken).await.unwrap();
        }
        let features = lake.pin(TableName::Features).await.unwrap();
        let stored = features.texts("SELECT price, volume FROM features ORDER BY \"offset\"").await.unwrap();
        let stored: Vec<[f64; 2]> =
            stored.iter().map(|row| [&row[0], &row[1]].map(|text| text.parse().unwrap())).collect();
        let told = feed.latest(9, None);
        let told: Vec<_> =
            told.iter().map(|item| item.trade.map(|trade| [trade.price, trade.volume]).unwrap()).collect();
        assert_eq!((told.len(), told), (3, stored));
    }

    #[tokio::test]
    async fn predictions_whose_features_never_come_are_taken_in_without_what_was_traded() {
        let (_folder, workshop) = workshop().await;
        let (lake, feed) = (&workshop.lake, Feed::new());
        let mut taken = TakenIn { version: lake.state(TableName::Predictions).await.unwrap().version, put_off: 0 };
        commit_predictions(lake).await;
        for _ in 0..PUT_OFF {
            take_in_predictions(lake, &feed, &mut taken).await.unwrap();
            assert_eq!(feed.latest(9, None), []);
        }
        take_in_predictions(lake, &feed, &mut taken).await.unwrap();
        let told: Vec<_> = feed.latest(9, None).iter().map(|item| item.trade).collect();
        assert_eq!((told, taken.put_off), (vec![None; 3], 0));
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
