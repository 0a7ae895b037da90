//! What the tables hold around an event: what was said about it, what was traded in it, and what happened to its symbol
//! before and after.
//!
//! Questions over the newest versions; nothing is kept.

use std::collections::{BTreeMap, HashMap};

use domain::{EventRow, Offset, Partition, Prediction, Symbol, Timestamp};
use futures::StreamExt;

use crate::{
    error::Error,
    lake::Lake,
    read::{Columns, as_stored},
    schema::TableName,
    stored_events::event_rows,
};

/// An event, as rows of other tables name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventName {
    /// The market.
    pub symbol: Symbol,
    /// Event time.
    pub timestamp: Timestamp,
    /// Partition of its record.
    pub partition: Partition,
    /// Offset of its record.
    pub offset: Offset,
}

/// What was traded in an event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trade {
    /// Price in quote units.
    pub price: f64,
    /// Volume in base units.
    pub volume: f64,
}

/// What happened to a symbol around an instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Around {
    /// The events, in the order of event time and then of the log.
    pub events: Vec<EventRow>,
    /// Whether there were more of them.
    pub is_cut: bool,
}

impl Lake {
    /// What was predicted about an event; `None` where nothing was, or it is not committed yet.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn prediction_about(&self, event: EventName) -> Result<Option<Prediction>, Error> {
        let EventName { symbol, timestamp, partition, offset } = event;
        // The first two choose the files, the others the row.
        let condition = format!(
            "WHERE symbol = '{symbol}' AND timestamp = '{timestamp}' AND partition = {partition} \
             AND \"offset\" = {offset} LIMIT 1"
        );
        Ok(self.pin(TableName::Predictions).await?.predictions_in(&condition).await?.pop())
    }

    /// What was traded in the events that predictions are about, in their order; `None` where the features of an event are
    /// not committed yet. `features` is read as it is now: what was committed to it before the predictions were read is
    /// found. Memory holds no more than one value for each prediction.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn trades_of(&self, predictions: &[Prediction]) -> Result<Vec<Option<Trade>>, Error> {
        let Some(condition) = rows_about(predictions) else { return Ok(Vec::new()) };
        let record = |prediction: &Prediction| (prediction.partition, prediction.offset);
        let mut trades: HashMap<_, Option<Trade>> = predictions.iter().map(|told| (record(told), None)).collect();
        let table = self.pin(TableName::Features).await?;
        let sql = format!("SELECT partition, \"offset\", price, volume FROM features WHERE {condition}");
        let mut batches = table.query(&sql).await?;
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|e| table.failed("read")(e.into()))?;
            let columns = Columns::new(&batch, TableName::Features);
            for row in 0..batch.num_rows() {
                if let Some(trade) = trades.get_mut(&(columns.partition(row)?, columns.long("offset", row)?)) {
                    *trade =
                        Some(Trade { price: columns.double("price", row)?, volume: columns.double("volume", row)? });
                }
            }
        }
        Ok(predictions.iter().map(|told| trades.get(&record(told)).copied().flatten()).collect())
    }

    /// The events of a symbol whose event time is no further from an instant than so many microseconds: the `limit`
    /// nearest.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn events_around(&self, symbol: Symbol, at: Timestamp, micros: i64, limit: u32) -> Result<Around, Error> {
        let (from, to) = (at.plus_micros(-micros), at.plus_micros(micros));
        let sql = format!(
            "SELECT * FROM events WHERE symbol = '{symbol}' AND timestamp >= '{from}' AND timestamp <= '{to}' \
             ORDER BY abs(CAST(timestamp AS BIGINT) - {}), partition, \"offset\" LIMIT {}",
            at.micros(),
            limit.saturating_add(1),
        );
        let table = self.pin(TableName::Events).await?;
        let mut events = Vec::new();
        for batch in table.rows(&sql).await? {
            let batch = as_stored(&batch, TableName::Events).map_err(|e| table.failed("read")(e.into()))?;
            events.extend(event_rows(&batch)?);
        }
        let is_cut = events.len() > limit as usize;
        events.truncate(limit as usize);
        events.sort_by_key(|row| (row.event.timestamp, row.cause.partition, row.cause.offset));
        Ok(Around { events, is_cut })
    }
}

/// A condition on `features` that the rows of these predictions meet, and few others; none, where there are none. The
/// times choose the files, the offsets the rows.
fn rows_about(predictions: &[Prediction]) -> Option<String> {
    let times = || predictions.iter().map(|prediction| prediction.timestamp);
    let (from, to) = (times().min()?, times().max()?);
    let mut offsets = BTreeMap::<Partition, (Offset, Offset)>::new();
    for Prediction { partition, offset, .. } in predictions {
        let (first, last) = offsets.entry(*partition).or_insert((*offset, *offset));
        (*first, *last) = ((*first).min(*offset), (*last).max(*offset));
    }
    let of_partition = |(partition, (first, last)): (Partition, (Offset, Offset))| {
        format!("(partition = {partition} AND \"offset\" >= {first} AND \"offset\" <= {last})")
    };
    let of_partitions: Vec<String> = offsets.into_iter().map(of_partition).collect();
    Some(format!("timestamp >= '{from}' AND timestamp <= '{to}' AND ({})", of_partitions.join(" OR ")))
}

#[cfg(test)]
mod tests {
    use std::{ops::RangeInclusive, sync::Arc};

    use super::*;
    use crate::{
        PartitionFlush,
        fixture::{events, flush, lake, prediction},
    };

    fn second(second: i64) -> Timestamp {
        Timestamp::from_seconds(1_710_000_000 + second)
    }

    #[tokio::test]
    async fn the_prediction_about_an_event_is_that_of_its_record() {
        let (_folder, lake) = lake().await;
        let predictions = (0..20).map(prediction).collect();
        let flush = PartitionFlush { next: 20, predictions, ..PartitionFlush::default() };
        lake.flush("topic", Arc::new(vec![flush])).await.unwrap();
        let expected = prediction(7);
        let Prediction { symbol, timestamp, partition, offset, .. } = expected;
        let event = EventName { symbol, timestamp, partition, offset };
        assert_eq!(lake.prediction_about(event).await.unwrap(), Some(expected));
        for unknown in [EventName { partition: 1, ..event }, EventName { offset: 8, ..event }] {
            assert_eq!(lake.prediction_about(unknown).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn what_was_traded_is_that_of_the_event_of_each_prediction() {
        let (_folder, lake) = lake().await;
        for start in [0, 100] {
            lake.flush("topic", flush(start, start + 100)).await.unwrap();
        }
        let elsewhere = Prediction { partition: 1, ..prediction(60) };
        let predictions = [prediction(152), prediction(3), elsewhere, prediction(60), prediction(500), prediction(3)];
        let trade = |place: usize| {
            let event = &events(0, 200)[place].event;
            Some(Trade { price: event.price, volume: event.volume })
        };
        let expected = [trade(152), trade(3), None, trade(60), None, trade(3)];
        assert_eq!(lake.trades_of(&predictions).await.unwrap(), expected);
        assert_ne!(trade(152), trade(3));
        assert_eq!(lake.trades_of(&[]).await.unwrap(), []);
    }

    #[tokio::test]
    async fn the_events_around_an_instant_are_the_nearest_in_the_order_of_time() {
        let (_folder, lake) = lake().await;
        // One event a second.
        lake.flush("topic", flush(0, 200)).await.unwrap();
        let all = events(0, 200);
        let around =
            async |micros, limit| lake.events_around(all[0].event.symbol, second(100), micros, limit).await.unwrap();
        let of = |range: RangeInclusive<usize>, is_cut| Around { events: all[range].to_vec(), is_cut };
        assert_eq!(around(60_000_000, 121).await, of(40..=160, false), "both ends are within");
        assert_eq!(around(60_000_000, 120).await.events.len(), 120);
        assert_eq!(around(60_000_000, 5).await, of(98..=102, true));
        assert_eq!(around(0, 5).await, of(100..=100, false));
        let other = Symbol::parse("ETH-USDT").unwrap();
        assert_eq!(lake.events_around(other, second(100), 60_000_000, 5).await.unwrap(), Around::default());
    }
}
