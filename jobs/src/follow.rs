//! Keeps the feed current where another process makes the predictions: what each new commit of the table added is
//! taken in, once.

use std::time::Duration;

use domain::Prediction;
use lake::{Error, Lake, TableName};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::feed::Feed;

/// How often the table is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Takes in the commits after version `known` of `predictions` until it is cancelled. What cannot be read is tried
/// again.
pub async fn follow_predictions(lake: &Lake, feed: &Feed, mut known: u64, cancel: &CancellationToken) {
    loop {
        tokio::select! { () = tokio::time::sleep(LOOK) => {}, () = cancel.cancelled() => return }
        if let Err(error) = take_in(lake, feed, &mut known).await {
            warn!(%error, version = known, "new predictions cannot be read; the feed is tried again");
        }
    }
}

async fn take_in(lake: &Lake, feed: &Feed, known: &mut u64) -> Result<(), Error> {
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
