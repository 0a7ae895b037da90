//! What a backfill asks before it changes anything: how far a symbol is settled, and what is stored of a time.

use std::{collections::HashSet, ops::Range};

use arrow::{
    array::{AsArray, BooleanArray, RecordBatch},
    compute::filter_record_batch,
    datatypes::{Int64Type, TimestampMicrosecondType},
};
use domain::{Symbol, Timestamp, admission::ALLOWED_LATENESS_MICROS, time::MICROS};
use futures::TryStreamExt;

use crate::{error::Error, read::Pinned};

/// How far the event after a range is looked for, step by step, before the whole table is asked.
const LOOK_AHEAD_HOURS: [i64; 3] = [1, 24, 24 * 32];

/// How an aggregated trade begins what is beside its format.
pub const AGGREGATED: &str = "{\"agg_trade_id\":";

impl Pinned {
    /// The greatest event time after any event of a symbol that came through the log; this is `events`.
    ///
    /// # Errors
    /// As [`Pinned::query`].
    pub async fn greatest_fold_time(&self, symbol: Symbol) -> Result<Option<Timestamp>, Error> {
        let sql =
            format!("SELECT CAST(max(fold_time) AS BIGINT) FROM events WHERE symbol = '{symbol}' AND partition >= 0");
        self.time_of(&sql).await
    }

    /// The time of the event of a symbol that is folded first among those from an instant on; this is `events`.
    ///
    /// # Errors
    /// As [`Pinned::query`].
    pub async fn successor_of(&self, symbol: Symbol, at: Timestamp) -> Result<Option<Timestamp>, Error> {
        let Some(earliest) = self.earliest_from(symbol, at).await? else { return Ok(None) };
        // Whatever was folded before the earliest one is later by the allowed lateness at most.
        let until = earliest.plus_micros(ALLOWED_LATENESS_MICROS + 1);
        let sql = format!(
            "SELECT CAST(timestamp AS BIGINT) FROM events WHERE symbol = '{symbol}' AND timestamp >= TIMESTAMP '{at}' \
             AND timestamp < TIMESTAMP '{until}' ORDER BY fold_time, partition < 0, \"offset\" LIMIT 1"
        );
        self.time_of(&sql).await
    }

    async fn earliest_from(&self, symbol: Symbol, at: Timestamp) -> Result<Option<Timestamp>, Error> {
        let earliest = |more: String| {
            format!(
                "SELECT CAST(min(timestamp) AS BIGINT) FROM events \
                 WHERE symbol = '{symbol}' AND timestamp >= TIMESTAMP '{at}'{more}"
            )
        };
        // Most often there is one close by, and files that are newer need not be opened.
        for hours in LOOK_AHEAD_HOURS {
            let until = at.plus_micros(hours * 3_600 * MICROS);
            let near = earliest(format!(" AND timestamp < TIMESTAMP '{until}'"));
            if let Some(first) = self.time_of(&near).await? {
                return Ok(Some(first));
            }
        }
        self.time_of(&earliest(String::new())).await
    }

    /// Rows of a symbol in a half-open range of the table's time.
    ///
    /// # Errors
    /// As [`Pinned::query`].
    pub async fn count_in(&self, symbol: Symbol, range: &Range<Timestamp>) -> Result<u64, Error> {
        let sql = format!("SELECT count(*) FROM {} WHERE {}", self.table().as_str(), self.of_range(symbol, range));
        Ok(u64::try_from(self.number(&sql).await?).unwrap_or(0))
    }

    /// Whether aggregated trades of a symbol are stored in a half-open range; this is `events`.
    ///
    /// # Errors
    /// As [`Pinned::query`].
    pub async fn has_aggregated(&self, symbol: Symbol, range: &Range<Timestamp>) -> Result<bool, Error> {
        let sql = format!(
            "SELECT count(*) FROM events WHERE {} AND extra LIKE '{AGGREGATED}%'",
            self.of_range(symbol, range)
        );
        Ok(self.number(&sql).await? > 0)
    }

    /// The stored windows of a symbol that start in a half-open range, as they were written; this is `windows`.
    ///
    /// # Errors
    /// As [`Pinned::query`].
    pub async fn windows_in(&self, symbol: Symbol, range: &Range<Timestamp>) -> Result<Vec<RecordBatch>, Error> {
        self.stored_in_order(&self.of_range(symbol, range), "window_start").await?.try_collect().await
    }

    /// The stored klines among them, but for those of some minutes.
    ///
    /// # Errors
    /// As [`Pinned::query`].
    pub async fn klines_in(
        &self,
        symbol: Symbol,
        range: &Range<Timestamp>,
        but: &HashSet<Timestamp>,
    ) -> Result<Vec<RecordBatch>, Error> {
        let condition = format!("{} AND source = 'kline'", self.of_range(symbol, range));
        let klines: Vec<RecordBatch> = self.stored_in_order(&condition, "window_start").await?.try_collect().await?;
        let kept = klines.iter().map(|batch| {
            let starts = window_starts(batch).ok_or_else(|| self.unexpected("window_start"))?;
            let kept: BooleanArray = starts.iter().map(|start| Some(!but.contains(start))).collect();
            filter_record_batch(batch, &kept).map_err(|error| self.failed("read")(error.into()))
        });
        kept.collect()
    }

    /// The minutes of a half-open range that have a window; this is `windows`.
    ///
    /// # Errors
    /// As [`Pinned::query`].
    pub async fn window_starts_in(
        &self,
        symbol: Symbol,
        range: &Range<Timestamp>,
    ) -> Result<HashSet<Timestamp>, Error> {
        let mut minutes = HashSet::new();
        for batch in self.windows_in(symbol, range).await? {
            minutes.extend(window_starts(&batch).ok_or_else(|| self.unexpected("window_start"))?);
        }
        Ok(minutes)
    }

    fn of_range(&self, symbol: Symbol, range: &Range<Timestamp>) -> String {
        let (time, Range { start, end }) = (self.table().time(), range);
        format!("symbol = '{symbol}' AND {time} >= TIMESTAMP '{start}' AND {time} < TIMESTAMP '{end}'")
    }

    /// The microseconds that a query gives, as an instant.
    async fn time_of(&self, sql: &str) -> Result<Option<Timestamp>, Error> {
        let batches = self.rows(sql).await?;
        let first = batches.iter().find(|batch| batch.num_rows() > 0);
        let column = first.and_then(|batch| batch.column(0).as_primitive_opt::<Int64Type>());
        Ok(column.and_then(|column| column.iter().next().flatten()).map(Timestamp::from_micros))
    }
}

fn window_starts(batch: &RecordBatch) -> Option<Vec<Timestamp>> {
    let column = batch.column_by_name("window_start")?.as_primitive_opt::<TimestampMicrosecondType>()?;
    Some(column.values().iter().map(|micros| Timestamp::from_micros(*micros)).collect())
}
