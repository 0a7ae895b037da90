//! The trades that `events` lacks: a venue numbers the trades of a symbol one by one, so that a hole in the numbers is
//! a trade that never came, came too late, or was never asked for.
//!
//! Questions over one version of `events`; nothing is kept. What lies before the first row and after the last one of a
//! choice is not known, and not counted.

use domain::{Symbol, Timestamp, time::MICROS};

use crate::{
    error::Error,
    lake::Lake,
    read::{Columns, Pinned},
    schema::TableName,
    settled::AGGREGATED,
};

/// The event time that [`Lake::missing_trades_of_last_hour`] looks at.
const RECENT_MICROS: i64 = 3_600 * MICROS;

/// Consecutive trade ids that are in no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingTrades {
    /// The market.
    pub symbol: Symbol,
    /// The first id that is missing.
    pub from: i64,
    /// The last id that is missing.
    pub to: i64,
    /// Event time of the trade before them.
    pub time_before: Timestamp,
    /// Event time of the trade after them.
    pub time_after: Timestamp,
}

impl MissingTrades {
    /// How many they are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.to.abs_diff(self.from).saturating_add(1)
    }
}

impl Lake {
    /// The missing trade ids between rows of `events`, ascending by symbol and id, from `WHERE` text over its columns.
    ///
    /// Asks symbol by symbol, so that the ids of one are sorted at a time.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn missing_trades(&self, condition: &str) -> Result<Vec<MissingTrades>, Error> {
        let events = self.pin(TableName::Events).await?;
        let numbered = format!("trade_id IS NOT NULL AND {condition}");
        let symbols = format!("SELECT DISTINCT CAST(symbol AS VARCHAR) FROM events WHERE {numbered} ORDER BY 1");
        let mut missing = Vec::new();
        for symbol in events.texts(&symbols).await?.concat() {
            holes(&events, &format!("{numbered} AND symbol = '{symbol}'"), &mut missing).await?;
        }
        Ok(missing)
    }

    /// How many trade ids are missing among the rows of the last hour of event time.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn missing_trades_of_last_hour(&self) -> Result<u64, Error> {
        let events = self.pin(TableName::Events).await?;
        let newest = events.number("SELECT CAST(max(timestamp) AS BIGINT) FROM events").await?;
        let since = Timestamp::from_micros(newest).plus_micros(-RECENT_MICROS);
        let pairs = neighbours(&format!("trade_id IS NOT NULL AND timestamp >= '{since}'"));
        let sql =
            format!("SELECT CAST(sum(first_id - before - 1) AS BIGINT) FROM ({pairs}) WHERE first_id > before + 1");
        Ok(u64::try_from(events.number(&sql).await?).unwrap_or(0))
    }
}

/// Adds the holes between the rows that meet a condition.
async fn holes(events: &Pinned, condition: &str, missing: &mut Vec<MissingTrades>) -> Result<(), Error> {
    let pairs = neighbours(condition);
    let sql = format!(
        "SELECT symbol, before + 1 AS first, first_id - 1 AS last, time_before, timestamp \
         FROM ({pairs}) WHERE first_id > before + 1 ORDER BY symbol, first"
    );
    for batch in events.rows(&sql).await? {
        let columns = Columns::new(&batch, TableName::Events);
        for row in 0..batch.num_rows() {
            missing.push(MissingTrades {
                symbol: columns.symbol(row)?,
                from: columns.long("first", row)?,
                to: columns.long("last", row)?,
                time_before: columns.time("time_before", row)?,
                time_after: columns.time("timestamp", row)?,
            });
        }
    }
    Ok(())
}

/// Every trade with the one of the next smaller id of its symbol. An aggregated one is all trades from its first to its
/// last, under whose id it stands.
fn neighbours(condition: &str) -> String {
    let first = "split_part(split_part(CAST(extra AS VARCHAR), '\"first_trade_id\":', 2), ',', 1)";
    format!(
        "SELECT CAST(symbol AS VARCHAR) AS symbol, timestamp, \
         CASE WHEN extra LIKE '{AGGREGATED}%' THEN CAST({first} AS BIGINT) ELSE trade_id END AS first_id, \
         lag(trade_id) OVER (PARTITION BY symbol ORDER BY trade_id) AS before, \
         lag(timestamp) OVER (PARTITION BY symbol ORDER BY trade_id) AS time_before \
         FROM events WHERE {condition}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{flush_without, lake};

    fn second(second: i64) -> Timestamp {
        Timestamp::from_seconds(1_710_000_000 + second)
    }

    #[tokio::test]
    async fn holes_are_named_with_the_times_around_them() {
        let (_folder, lake) = lake().await;
        assert_eq!(lake.missing_trades("TRUE").await.unwrap(), []);
        assert_eq!(lake.missing_trades_of_last_hour().await.unwrap(), 0);
        // The ids of the fixture are the offsets.
        lake.flush("topic", flush_without(100, &[0, 7, 20, 21, 22, 99])).await.unwrap();
        let hole = |from, to| MissingTrades {
            symbol: Symbol::parse("BTC-USDT").unwrap(),
            from,
            to,
            time_before: second(from - 1),
            time_after: second(to + 1),
        };
        let missing = lake.missing_trades("TRUE").await.unwrap();
        assert_eq!(missing, [hole(7, 7), hole(20, 22)]);
        assert_eq!(missing.iter().map(MissingTrades::count).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(lake.missing_trades_of_last_hour().await.unwrap(), 4);
        let later = format!("timestamp >= '{}'", second(10));
        assert_eq!(lake.missing_trades(&later).await.unwrap(), [hole(20, 22)]);
        assert_eq!(lake.missing_trades("symbol IN ('ETH-USDT')").await.unwrap(), []);
    }

    #[tokio::test]
    async fn an_hour_after_a_hole_it_is_not_counted_any_more() {
        let (_folder, lake) = lake().await;
        lake.flush("topic", flush_without(4_000, &[50, 3_000])).await.unwrap();
        assert_eq!(lake.missing_trades("TRUE").await.unwrap().len(), 2);
        assert_eq!(lake.missing_trades_of_last_hour().await.unwrap(), 1);
    }
}
