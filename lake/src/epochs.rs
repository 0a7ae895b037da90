//! Where a symbol's fold starts afresh: the offsets from one start to the next are an epoch, and nothing of an earlier
//! epoch counts in a later one.
//!
//! A symbol starts afresh with its first record of the log and whenever it had been forgotten. Backfilled rows belong to
//! the epoch of their time. Where the row before a start was backfilled *after* the event of the start came, that event
//! was folded again on top of it, and the start is none any more; what was backfilled before, a live event knows nothing of.

use std::ops::Range;

use arrow::{
    array::AsArray,
    datatypes::{Int64Type, TimestampMicrosecondType},
};
use deltalake::{DeltaTableError, datafusion::error::DataFusionError};
use domain::{
    Cause, Offset, Symbol, Timestamp, admission::ALLOWED_LATENESS_MICROS, fold::FORGET_AFTER_OFFSETS,
    windows::WINDOW_MICROS,
};

use crate::{error::Error, read::Pinned, schema::TableName, truth::context};

/// How far a start must lie behind the epoch before it for rows to be in the order of time: an event may be older than its
/// epoch's first one by the allowed lateness, and its window begins up to a minute before it.
const APART_MICROS: i64 = ALLOWED_LATENESS_MICROS + WINDOW_MICROS;

/// The starts of a symbol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FreshStarts {
    /// By their offsets.
    starts: Vec<FreshStart>,
    /// Their times, ascending.
    times: Vec<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FreshStart {
    /// The first offset.
    offset: Offset,
    /// The greatest event time after the first event.
    time: Timestamp,
    /// The greatest event time of the epoch before, where the log has one.
    before: Option<Timestamp>,
}

/// A start as the log made it, whatever was backfilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogStart {
    start: FreshStart,
    /// Append time of the first event.
    ingest_time: Timestamp,
}

/// Epochs that follow each other in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EpochRun {
    /// Their numbers.
    pub(crate) epochs: Range<usize>,
    /// Which rows are of them, as SQL.
    pub(crate) condition: String,
}

impl FreshStarts {
    fn new(starts: Vec<FreshStart>) -> Self {
        let mut times: Vec<Timestamp> = starts.iter().map(|start| start.time).collect();
        times.sort_unstable();
        Self { starts, times }
    }

    /// The number of a row's epoch, 0 for the first; `time` is the event time of a backfilled row.
    #[must_use]
    pub fn epoch(&self, cause: Cause, time: Timestamp) -> usize {
        if cause.is_backfilled() {
            return self.epoch_at(time);
        }
        self.starts.partition_point(|start| start.offset <= cause.offset)
    }

    /// The number of the epoch of a window that `closed_by` closed; `last` is the last instant of the window. A symbol's
    /// next event may be what makes it forgotten, and so close the windows of the epoch before.
    #[must_use]
    pub fn epoch_of_window(&self, closed_by: Cause, last: Timestamp) -> usize {
        if closed_by.is_backfilled() {
            return self.epoch_at(last);
        }
        self.starts.partition_point(|start| start.offset < closed_by.offset)
    }

    /// The number of the epoch of a backfilled row: so many starts are not after it.
    pub(crate) fn epoch_at(&self, time: Timestamp) -> usize {
        self.times.partition_point(|start| *start <= time)
    }

    /// All epochs, in runs of such as follow each other in time: most often one. A symbol that was forgotten may start
    /// again with older events, and a run ends there.
    pub(crate) fn runs(&self, table: TableName) -> Vec<EpochRun> {
        let is_older =
            |start: &FreshStart| start.before.is_some_and(|before| start.time.plus_micros(-APART_MICROS) < before);
        let breaks = (0..self.starts.len()).filter(|number| is_older(&self.starts[*number]));
        let edges: Vec<usize> = [0].into_iter().chain(breaks.map(|start| start + 1)).collect();
        let ends = edges[1..].iter().copied().chain([self.starts.len() + 1]);
        let run = |(first, end): (usize, usize)| {
            let from = first.checked_sub(1).map(|start| self.is_behind(start, table));
            let to = self.starts.get(end - 1).map(|_| format!("NOT {}", self.is_behind(end - 1, table)));
            let bounds: Vec<String> = from.into_iter().chain(to).collect();
            let condition = if bounds.is_empty() { "TRUE".to_owned() } else { bounds.join(" AND ") };
            EpochRun { epochs: first..end, condition }
        };
        edges.iter().copied().zip(ends).map(run).collect()
    }

    /// Whether a row of a table is of an epoch behind a start, as SQL.
    fn is_behind(&self, start: usize, table: TableName) -> String {
        let (offset, time) = (self.starts[start].offset, self.times[start]);
        let (relation, last) = match table {
            TableName::Windows => (">", "window_start + INTERVAL '59.999999 seconds'"),
            _ => (">=", table.time()),
        };
        format!("CASE WHEN partition < 0 THEN {last} >= TIMESTAMP '{time}' ELSE \"offset\" {relation} {offset} END")
    }

    /// An SQL order of events, the last epoch first, then by `columns`.
    pub(crate) fn then_from_the_last(&self, columns: &str) -> String {
        let before = self.starts.iter().map(|start| {
            let FreshStart { offset, time, .. } = start;
            format!(
                "CASE WHEN partition < 0 THEN CASE WHEN timestamp < TIMESTAMP '{time}' THEN 1 ELSE 0 END \
                 WHEN \"offset\" < {offset} THEN 1 ELSE 0 END"
            )
        });
        let epoch = before.collect::<Vec<_>>().join(" + ");
        if epoch.is_empty() { columns.to_owned() } else { format!("{epoch}, {columns}") }
    }
}

impl Pinned {
    /// Where a symbol starts afresh; this is `events`, and `late` the late events, which keep a symbol from being
    /// forgotten as well.
    ///
    /// # Errors
    /// As [`Pinned::query`].
    pub async fn fresh_starts(&self, late: &Self, symbol: Symbol) -> Result<FreshStarts, Error> {
        self.resolved_starts(symbol, &self.log_starts(late, symbol).await?).await
    }

    /// Where the log makes a symbol start afresh, whatever was backfilled; this is `events`.
    ///
    /// # Errors
    /// As [`Pinned::query`].
    pub async fn log_starts(&self, late: &Self, symbol: Symbol) -> Result<Vec<LogStart>, Error> {
        let of =
            |table: &str| format!("SELECT \"offset\" AS o FROM {table} WHERE symbol = '{symbol}' AND partition >= 0");
        // Offsets of one group lie too close to each other for the symbol to be forgotten between them.
        let sql = format!(
            "SELECT min(o) AS first, max(o) AS last FROM ({} UNION ALL {}) GROUP BY o / {FORGET_AFTER_OFFSETS} ORDER BY first",
            of("events"),
            of("late_events")
        );
        let failed = |e: DataFusionError| self.failed("read")(DeltaTableError::from(e));
        let context = context(&[self, late]).await?;
        let batches = context.sql(&sql).await.map_err(failed)?.collect().await.map_err(failed)?;
        let (mut offsets, mut before) = (Vec::new(), None);
        for batch in &batches {
            let column = |number: usize| batch.column(number).as_primitive_opt::<Int64Type>();
            let (first, last) = column(0).zip(column(1)).ok_or_else(|| self.unexpected("offset"))?;
            for (first, last) in first.values().iter().zip(last.values()) {
                offsets.extend(before.is_none_or(|before| first - before >= FORGET_AFTER_OFFSETS).then_some(*first));
                before = Some(last);
            }
        }
        let mut starts = Vec::new();
        for (number, offset) in offsets.iter().enumerate() {
            let end = offsets.get(number + 1).copied().unwrap_or(Offset::MAX);
            let previous = number.checked_sub(1).map(|previous| offsets[previous]..*offset);
            starts.extend(self.log_start(symbol, *offset..end, previous).await?);
        }
        Ok(starts)
    }

    /// The start of the epoch that has these offsets; none where nothing in it was admitted.
    async fn log_start(
        &self,
        symbol: Symbol,
        epoch: Range<Offset>,
        previous: Option<Range<Offset>>,
    ) -> Result<Option<LogStart>, Error> {
        let of_log = format!("symbol = '{symbol}' AND partition >= 0");
        let first = format!(
            "SELECT fold_time, ingest_time FROM events \
             WHERE {of_log} AND \"offset\" >= {} AND \"offset\" < {} ORDER BY \"offset\" LIMIT 1",
            epoch.start, epoch.end
        );
        let Some([time, ingest_time]) = self.two_times(&first).await? else { return Ok(None) };
        let before = match previous {
            None => None,
            Some(previous) => {
                let last = format!(
                    "SELECT max(fold_time), max(ingest_time) FROM events \
                     WHERE {of_log} AND \"offset\" >= {} AND \"offset\" < {}",
                    previous.start, previous.end
                );
                self.two_times(&last).await?.map(|[time, _]| time)
            }
        };
        Ok(Some(LogStart { start: FreshStart { offset: epoch.start, time, before }, ingest_time }))
    }

    /// The starts that backfilled rows have left.
    ///
    /// # Errors
    /// As [`Pinned::query`].
    pub async fn resolved_starts(&self, symbol: Symbol, starts: &[LogStart]) -> Result<FreshStarts, Error> {
        let mut left = Vec::new();
        let any =
            format!("SELECT timestamp, ingest_time FROM events WHERE symbol = '{symbol}' AND partition < 0 LIMIT 1");
        if self.two_times(&any).await?.is_none() {
            // The first start divides nothing.
            let forgotten = starts.iter().map(|start| start.start).filter(|start| start.before.is_some());
            return Ok(FreshStarts::new(forgotten.collect()));
        }
        for LogStart { start, ingest_time } in starts {
            let since =
                start.before.map(|before| format!(" AND fold_time >= TIMESTAMP '{before}'")).unwrap_or_default();
            // A backfilled row has its own time as `fold_time`.
            let sql = format!(
                "SELECT timestamp, ingest_time FROM events WHERE symbol = '{symbol}' AND partition < 0 \
                 AND timestamp <= TIMESTAMP '{}'{since} ORDER BY timestamp DESC, \"offset\" DESC LIMIT 1",
                start.time
            );
            let folded_again = self.two_times(&sql).await?.is_some_and(|[_, backfilled]| backfilled > *ingest_time);
            if !folded_again {
                left.push(*start);
            }
        }
        Ok(FreshStarts::new(left))
    }

    /// The first row of a query of two times; none where there is no row or it holds null.
    async fn two_times(&self, sql: &str) -> Result<Option<[Timestamp; 2]>, Error> {
        let batches = self.rows(sql).await?;
        let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) else { return Ok(None) };
        let time = |column: usize| {
            let times = batch.column(column).as_primitive_opt::<TimestampMicrosecondType>();
            let times = times.ok_or_else(|| self.unexpected("fold_time"))?;
            Ok::<_, Error>(times.iter().next().flatten().map(Timestamp::from_micros))
        };
        Ok(time(0)?.zip(time(1)?).map(|(one, other)| [one, other]))
    }
}

#[cfg(test)]
mod tests {
    use domain::{BACKFILLED, EventRow};

    use super::*;
    use crate::{
        Lake, TableName,
        fixture::{events, flush, lake},
        truth::Extent,
    };
    use futures::TryStreamExt;

    fn symbol() -> Symbol {
        Symbol::parse("BTC-USDT").unwrap()
    }

    /// Events of these seconds, as a backfill puts them there at a time.
    async fn backfill(lake: &Lake, seconds: Range<i64>, at_second: i64) {
        let second = |second: i64| Timestamp::from_seconds(1_710_000_000 + second);
        let range = second(seconds.start)..second(seconds.end);
        let mut replacement = lake.replacement(TableName::Events, symbol(), range).await.unwrap();
        let rows: Vec<EventRow> = seconds
            .map(|number| {
                let mut row = events(0, 1).remove(0);
                row.cause = Cause { partition: BACKFILLED, offset: number, append_time: second(at_second) };
                row.event.trade_id = Some(number);
                (row.event.timestamp, row.fold_time) = (second(number), second(number));
                row
            })
            .collect();
        replacement.add(&rows.iter().collect::<Vec<_>>()).await.unwrap();
        lake.replace(replacement, &format!("fill/{at_second}")).await.unwrap();
    }

    async fn starts(lake: &Lake) -> FreshStarts {
        let (events, late) =
            (lake.pin(TableName::Events).await.unwrap(), lake.pin(TableName::LateEvents).await.unwrap());
        events.fresh_starts(&late, symbol()).await.unwrap()
    }

    async fn folded(lake: &Lake) -> Vec<(usize, i64)> {
        let starts = starts(lake).await;
        let all = Extent { next: 1_000, ..Extent::default() };
        let events = lake.pin(TableName::Events).await.unwrap();
        let rows = events.events_in_fold_order(symbol(), &all, &starts).await.unwrap();
        let rows: Vec<EventRow> = rows.try_concat().await.unwrap();
        let place = |row: &EventRow| (starts.epoch(row.cause, row.event.timestamp), row.event.trade_id.unwrap());
        rows.iter().map(place).collect()
    }

    fn in_epoch(epoch: usize, seconds: Range<i64>) -> impl Iterator<Item = (usize, i64)> {
        seconds.map(move |second| (epoch, second))
    }

    // The fixture's events are one a second, and come a second later.

    #[tokio::test]
    async fn an_event_that_came_after_a_backfill_knows_nothing_of_it() {
        let (_folder, lake) = lake().await;
        lake.flush("topic", flush(0, 10)).await.unwrap();
        backfill(&lake, -5..0, 0).await;
        let expected: Vec<_> = in_epoch(0, -5..0).chain(in_epoch(1, 0..10)).collect();
        assert_eq!(folded(&lake).await, expected);
        let starts = starts(&lake).await;
        let of_log = |offset| Cause { partition: 0, offset, append_time: Timestamp::default() };
        assert_eq!(starts.epoch_of_window(of_log(0), Timestamp::default()), 0, "the first record may close windows");
        assert_eq!(starts.epoch_of_window(of_log(1), Timestamp::default()), 1);
    }

    #[tokio::test]
    async fn an_event_that_a_backfill_came_before_is_folded_on_top_of_it() {
        let (_folder, lake) = lake().await;
        lake.flush("topic", flush(0, 10)).await.unwrap();
        backfill(&lake, -5..0, 600).await;
        let expected: Vec<_> = in_epoch(0, -5..10).collect();
        assert_eq!(folded(&lake).await, expected);
    }

    #[tokio::test]
    async fn what_is_backfilled_further_back_changes_no_start() {
        let (_folder, lake) = lake().await;
        lake.flush("topic", flush(0, 10)).await.unwrap();
        backfill(&lake, -5..0, 0).await;
        backfill(&lake, -50..-40, 700).await;
        let expected: Vec<_> = in_epoch(0, -50..-40).chain(in_epoch(0, -5..0)).chain(in_epoch(1, 0..10)).collect();
        assert_eq!(folded(&lake).await, expected);
    }
}
