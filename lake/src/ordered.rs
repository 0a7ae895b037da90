//! A symbol's rows in an order that follows their time, however many they are.
//!
//! They are read in stretches of time that hold about [`STRETCH_ROWS`] rows each, by the statistics of the files, and sorted
//! in memory; what rows of a later stretch may still precede waits. Memory does not grow with the table, and nothing spills
//! to disk. While a stretch is used the next ones are read.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{RecordBatch, UInt32Array},
    compute::{concat_batches, take_record_batch},
    error::ArrowError,
};
use deltalake::datafusion::{
    error::DataFusionError,
    prelude::{SessionConfig, SessionContext},
};
use domain::{Offset, Symbol, Timestamp};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    epochs::{EpochRun, FreshStarts},
    error::Error,
    read::{Pinned, as_stored},
    replace::{Span, spans},
    schema::TableName,
    session,
    table::failed,
    truth::Extent,
};

/// Rows of a stretch, about. Few in this crate's tests, so that whatever they read has many stretches.
const STRETCH_ROWS: u64 = if cfg!(test) { 16 } else { 131_072 };

/// The parts of a stretch that a file is counted in: its rows are taken to lie evenly between its first time and its last.
const PIECE_ROWS: u64 = STRETCH_ROWS / 8;

/// Stretches that are read ahead.
const STRETCHES_AHEAD: usize = 2;

/// Rows that are given out together, at most.
const BATCH_ROWS: usize = 16_384;

/// A row's place among those of its symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its epoch.
    pub(crate) epoch: usize,
    /// The time by which it is ordered; that of its column or later.
    pub(crate) time: Timestamp,
    /// Whether it was backfilled.
    pub(crate) backfilled: bool,
    /// Its offset, where rows of one time are told apart by it.
    pub(crate) offset: Offset,
}

impl Key {
    /// The row's epoch, see [`FreshStarts`].
    #[must_use]
    pub const fn epoch(self) -> usize {
        self.epoch
    }
}

/// Rows as they were written, with their keys.
pub(crate) type KeyedBatch = (RecordBatch, Vec<Key>);

/// What is read of a table, and in which order.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// The market.
    pub(crate) symbol: Symbol,
    /// Half-open time, and log offsets below a progress.
    pub(crate) extent: Extent,
    /// What else rows must meet, as SQL.
    pub(crate) condition: &'static str,
    /// Where the symbol starts afresh.
    pub(crate) starts: FreshStarts,
    /// The keys of rows, in their order; none where a column is missing.
    pub(crate) keys: fn(&RecordBatch, &FreshStarts) -> Option<Vec<Key>>,
}

/// Rows as they were written, each with its key.
#[derive(Clone, Debug)]
struct Rows {
    batch: RecordBatch,
    keys: Vec<Key>,
}

/// A part of the time of a run of epochs.
#[derive(Clone, Debug)]
struct Stretch {
    extent: Extent,
    run: EpochRun,
    /// What no key of a later stretch is below; none in the last stretch of a run.
    bound: Option<Key>,
}

impl Pinned {
    /// The rows that an order names, by their keys, in batches of at most [`BATCH_ROWS`].
    ///
    /// # Errors
    /// As [`Pinned::query`], now or from the stream.
    pub(crate) async fn in_order(
        &self,
        order: Order,
    ) -> Result<impl Stream<Item = Result<KeyedBatch, Error>> + Send + use<>, Error> {
        let table = self.table();
        let stretches = order.stretches(table, &cuts(&spans(self.delta(), table, &[order.symbol])?));
        // One file after the other: what is read side by side is the next stretch.
        let context = session::configured(SessionConfig::new().with_target_partitions(1));
        self.register(&context).await?;
        let order = Arc::new(order);
        let read = move |stretch: Stretch| {
            let (order, context) = (order.clone(), context.clone());
            AbortOnDropHandle::new(tokio::spawn(async move {
                let rows = order.read(&stretch, table, &context).await?;
                Ok::<_, Error>((rows, stretch.bound))
            }))
        };
        let read = stream::iter(stretches).map(read).buffered(STRETCHES_AHEAD);
        let mut waiting = Rows { batch: RecordBatch::new_empty(table.schema()), keys: Vec::new() };
        let complete = read.map(move |read| {
            let (rows, bound) = read??;
            let rows = waiting.and(rows).map_err(unsortable(table))?;
            let (ready, later) = rows.split(bound);
            waiting = later;
            Ok::<_, Error>(stream::iter(ready.batches().map(Ok)))
        });
        Ok(complete.try_flatten())
    }
}

impl Order {
    /// The stretches between cuts, run by run.
    fn stretches(&self, table: TableName, cuts: &[Timestamp]) -> Vec<Stretch> {
        let Extent { from, to, next } = self.extent;
        let parts: Vec<Extent> =
            parts(from, to, cuts).into_iter().map(|[from, to]| Extent { from, to, next }).collect();
        let of_run = |run: EpochRun| {
            let last = parts.len() - 1;
            let stretch = |(number, extent): (usize, &Extent)| Stretch {
                bound: extent.to.filter(|_| number < last).map(|end| self.bound(&run, end)),
                extent: extent.clone(),
                run: run.clone(),
            };
            parts.iter().enumerate().map(stretch).collect::<Vec<_>>()
        };
        self.starts.runs(table).into_iter().flat_map(of_run).collect()
    }

    /// What no key of a row from `end` on is below, among those of a run. Rows of an earlier epoch lie before the next one
    /// starts; those of a later one wait until it does.
    fn bound(&self, run: &EpochRun, end: Timestamp) -> Key {
        let epoch = self.starts.epoch_at(end).clamp(run.epochs.start, run.epochs.end - 1);
        Key { epoch, time: end, backfilled: false, offset: Offset::MIN }
    }

    /// The rows of a stretch by their keys.
    async fn read(&self, stretch: &Stretch, table: TableName, context: &SessionContext) -> Result<Rows, Error> {
        let unreadable = |error: DataFusionError| failed("read", table)(error.into());
        let of_extent = stretch.extent.condition(self.symbol, table.time());
        let (run, condition) = (&stretch.run.condition, self.condition);
        let sql = format!("SELECT * FROM {} WHERE {of_extent} AND {condition} AND {run}", table.as_str());
        let mut read = context.sql(&sql).await.map_err(unreadable)?.execute_stream().await.map_err(unreadable)?;
        let mut parts = Vec::new();
        while let Some(batch) = read.try_next().await.map_err(unreadable)? {
            let batch = as_stored(&batch, table).map_err(unsortable(table))?;
            let keys = (self.keys)(&batch, &self.starts);
            let keys = keys.ok_or(Error::UnexpectedColumn { table: table.as_str(), column: table.time() })?;
            parts.push(Rows { batch, keys });
        }
        // Files hold rows in order most often: batches are put in order, and rows only where that is not enough.
        parts.sort_by_key(|part| part.keys.first().copied());
        Rows::joined(table, parts).and_then(Rows::sorted).map_err(unsortable(table))
    }
}

impl Rows {
    fn joined(table: TableName, parts: Vec<Self>) -> Result<Self, ArrowError> {
        let batch = concat_batches(&table.schema(), parts.iter().map(|part| &part.batch))?;
        Ok(Self { batch, keys: parts.into_iter().flat_map(|part| part.keys).collect() })
    }

    /// These rows and others as one, sorted.
    fn and(&self, others: Self) -> Result<Self, ArrowError> {
        if self.keys.is_empty() {
            return Ok(others);
        }
        let batch = concat_batches(self.batch.schema_ref(), [&self.batch, &others.batch])?;
        Self { batch, keys: self.keys.iter().copied().chain(others.keys).collect() }.sorted()
    }

    fn sorted(self) -> Result<Self, ArrowError> {
        if self.keys.is_sorted() {
            return Ok(self);
        }
        let mut places: Vec<u32> = (0..).take(self.keys.len()).collect();
        places.sort_by_key(|place| self.keys[*place as usize]);
        let keys = places.iter().map(|place| self.keys[*place as usize]).collect();
        Ok(Self { batch: take_record_batch(&self.batch, &UInt32Array::from(places))?, keys })
    }

    /// The rows below a bound, all of them without one, and the others.
    fn split(self, bound: Option<Key>) -> (Self, Self) {
        let ready = bound.map_or(self.keys.len(), |bound| self.keys.partition_point(|key| *key < bound));
        (self.part(0..ready), self.part(ready..self.keys.len()))
    }

    fn part(&self, range: Range<usize>) -> Self {
        Self { batch: self.batch.slice(range.start, range.len()), keys: self.keys[range].to_vec() }
    }

    fn batches(self) -> impl Iterator<Item = KeyedBatch> {
        (0..self.keys.len()).step_by(BATCH_ROWS).map(move |start| {
            let Self { batch, keys } = self.part(start..(start + BATCH_ROWS).min(self.keys.len()));
            (batch, keys)
        })
    }
}

/// Where time is cut, ascending: between two cuts lie about [`STRETCH_ROWS`] rows of the files.
pub(crate) fn cuts(files: &[Span]) -> Vec<Timestamp> {
    let mut pieces: Vec<(Timestamp, u64)> = Vec::new();
    for Span { first, last, rows } in files {
        let parts = rows.div_ceil(PIECE_ROWS).max(1);
        let length = last.micros().abs_diff(first.micros());
        pieces.extend((0..parts).map(|part| {
            let since = u128::from(length) * u128::from(part) / u128::from(parts);
            (first.plus_micros(i64::try_from(since).unwrap_or(i64::MAX)), rows / parts)
        }));
    }
    pieces.sort_unstable();
    let mut since = pieces.first().map(|(start, _)| *start);
    let (mut cuts, mut rows) = (Vec::new(), 0);
    for (start, more) in pieces {
        if rows >= STRETCH_ROWS && since < Some(start) {
            cuts.push(start);
            (since, rows) = (Some(start), 0);
        }
        rows += more;
    }
    cuts
}

/// The half-open parts of a time between cuts, ascending; open ends stay open.
pub(crate) fn parts(from: Option<Timestamp>, to: Option<Timestamp>, cuts: &[Timestamp]) -> Vec<[Option<Timestamp>; 2]> {
    let is_inside = |cut: &Timestamp| from.is_none_or(|from| from < *cut) && to.is_none_or(|to| *cut < to);
    let inside = cuts.iter().copied().filter(is_inside).map(Some);
    let edges: Vec<Option<Timestamp>> = [from].into_iter().chain(inside).chain([to]).collect();
    edges.windows(2).map(|edge| [edge[0], edge[1]]).collect()
}

fn unsortable(table: TableName) -> impl Fn(ArrowError) -> Error {
    move |error| failed("sort rows of", table)(error.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::{EventRow, Output, fold::FORGET_AFTER_OFFSETS};
    use rstest::rstest;

    use super::*;
    use crate::{
        Lake, PartitionFlush,
        fixture::{events, lake},
    };

    /// Events in the order of folding: most are folded up to a minute after a later one. After `restart` of them the symbol
    /// was forgotten, and the next one is so many seconds later than the one before.
    fn out_of_order(count: i64, restart: i64, seconds: i64) -> Vec<EventRow> {
        let base = events(0, 1).remove(0);
        let (mut fold_time, mut rows) = (Timestamp::from_micros(0), Vec::new());
        for number in 0..count {
            let mut row = base.clone();
            let (is_new, back) = (number >= restart, if number == restart { 0 } else { number * 37 % 60 });
            let second = number * 5 + if is_new { seconds } else { 0 };
            row.event.timestamp = base.event.timestamp.plus_micros((second - back) * 1_000_000);
            row.cause.offset = number + if is_new { FORGET_AFTER_OFFSETS } else { 0 };
            fold_time = if number == restart { row.event.timestamp } else { fold_time.max(row.event.timestamp) };
            row.fold_time = fold_time;
            rows.push(row);
        }
        rows
    }

    async fn stored(lake: &Lake, rows: &[EventRow], per_commit: usize) {
        let mut start = 0;
        for part in rows.chunks(per_commit) {
            let next = part[part.len() - 1].cause.offset + 1;
            let output = Output { events: part.to_vec(), ..Output::default() };
            let flush = PartitionFlush { start, next, replay: start, output, ..PartitionFlush::default() };
            lake.flush("topic", Arc::new(vec![flush])).await.unwrap();
            start = next;
        }
    }

    #[rstest]
    #[case::one_file(1_000, 0)]
    #[case::many_files(25, 0)]
    #[case::forgotten_and_later(25, 7_200)]
    #[case::forgotten_and_soon_again(25, 130)]
    #[case::forgotten_and_older(25, -10_000)]
    #[tokio::test]
    async fn stretches_give_events_in_the_order_of_folding(#[case] per_commit: usize, #[case] seconds: i64) {
        let rows = out_of_order(400, if seconds == 0 { 400 } else { 150 }, seconds);
        let (_folder, lake) = lake().await;
        stored(&lake, &rows, per_commit).await;
        let (events, late) =
            (lake.pin(TableName::Events).await.unwrap(), lake.pin(TableName::LateEvents).await.unwrap());
        let symbol = rows[0].event.symbol;
        let starts = events.fresh_starts(&late, symbol).await.unwrap();
        let all = Extent { next: Offset::MAX, ..Extent::default() };
        let read = events.events_in_fold_order(symbol, &all, &starts).await.unwrap();
        assert_eq!(read.try_concat().await.unwrap(), rows);
        let (from, to) = (rows[40].event.timestamp, rows[300].event.timestamp);
        let part = Extent { from: Some(from), to: Some(to), next: 250 };
        let read = events.events_in_fold_order(symbol, &part, &starts).await.unwrap();
        let is_wanted = |row: &&EventRow| (from..to).contains(&row.event.timestamp) && row.cause.offset < 250;
        let expected: Vec<EventRow> = rows.iter().filter(is_wanted).cloned().collect();
        assert_eq!(read.try_concat().await.unwrap(), expected);
    }

    #[test]
    fn time_is_cut_where_files_hold_enough_rows() {
        let at = |second: i64| Timestamp::from_seconds(1_710_000_000 + second);
        let file = |first, last, rows: u64| Span { first: at(first), last: at(last), rows };
        assert_eq!(cuts(&[]), []);
        assert_eq!(cuts(&[file(0, 100, STRETCH_ROWS)]), []);
        assert_eq!(cuts(&[file(0, 400, 4 * STRETCH_ROWS)]), [at(100), at(200), at(300)]);
        assert_eq!(cuts(&[file(0, 0, 4 * STRETCH_ROWS)]), [], "rows of one instant are not cut");
        let small: Vec<Span> = (0..100).map(|second| file(second, second, STRETCH_ROWS / 16)).rev().collect();
        assert_eq!(cuts(&small), (1..=6).map(|stretch| at(16 * stretch)).collect::<Vec<_>>());
    }
}
