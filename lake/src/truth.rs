//! `events` as the truth: its rows in the order in which they were folded, however many there are.
//!
//! Memory does not grow with the table. Nothing is folded here.

use std::ops::Range;

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int64Type,
};
use deltalake::{
    DeltaTableError,
    datafusion::{
        error::DataFusionError,
        execution::runtime_env::RuntimeEnvBuilder,
        prelude::{SessionConfig, SessionContext},
    },
};
use domain::{EventRow, Offset, Partition, Symbol, Timestamp, admission::ALLOWED_LATENESS_MICROS, time::MICROS};
use futures::{Stream, StreamExt, TryStreamExt, stream};

use crate::{
    epochs::FreshStarts,
    error::Error,
    ordered::{Key, Order},
    read::{Pinned, as_stored},
    schema::TableName,
    session,
    stored_events::{EventColumns, event_rows},
};

/// How far the event before a range is looked for, step by step, before the whole table is asked.
const LOOK_BACK_HOURS: [i64; 3] = [1, 24, 24 * 32];

/// Batches of events that are decoded while the ones before are used.
const DECODED_AHEAD: usize = 2;

/// Memory of one sorted read; the rest goes to the system's folder for temporary files.
const SORT_MEMORY_BYTES: usize = 256 << 20;

/// Which events of a symbol are wanted: half-open event time, and log offsets below a progress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// From this event time on.
    pub from: Option<Timestamp>,
    /// Before this event time.
    pub to: Option<Timestamp>,
    /// Before this offset of the log.
    pub next: Offset,
}

impl Extent {
    /// Whether an event time lies in the extent.
    #[must_use]
    pub fn holds(&self, time: Timestamp) -> bool {
        self.from.is_none_or(|from| from <= time) && self.to.is_none_or(|to| time < to)
    }

    /// The extent as SQL over a table whose time column is `time`.
    pub(crate) fn condition(&self, symbol: Symbol, time: &str) -> String {
        let bound = |relation: &str, at: Timestamp| format!(" AND {time} {relation} TIMESTAMP '{at}'");
        let from = self.from.map(|from| bound(">=", from)).unwrap_or_default();
        let to = self.to.map(|to| bound("<", to)).unwrap_or_default();
        format!("symbol = '{symbol}' AND (\"offset\" < {} OR partition < 0){from}{to}", self.next)
    }
}

impl Pinned {
    /// The value of an application transaction in this version.
    ///
    /// # Errors
    /// Where the table's log cannot be read.
    pub async fn transaction(&self, id: &str) -> Result<Option<i64>, Error> {
        let snapshot = self.delta().snapshot().map_err(self.failed("read"))?.snapshot();
        let stored = snapshot.transaction_version(self.delta().log_store().as_ref(), id).await;
        stored.map_err(self.failed("read the progress of"))
    }

    /// The symbols that have rows, ascending.
    ///
    /// # Errors
    /// As [`Pinned::query`].
    pub async fn symbols(&self) -> Result<Vec<Symbol>, Error> {
        let sql = format!("SELECT DISTINCT CAST(symbol AS VARCHAR) FROM {} ORDER BY 1", self.table().as_str());
        let texts = self.texts(&sql).await?;
        let parse = |row: &Vec<String>| Symbol::parse(&row[0]).map_err(|_| self.unexpected("symbol"));
        texts.iter().map(parse).collect()
    }

    /// The admitted events of a symbol in the order in which they are folded, in batches; this is `events`.
    ///
    /// # Errors
    /// As [`Pinned::query`], now or from the stream.
    pub async fn events_in_fold_order(
        &self,
        symbol: Symbol,
        extent: &Extent,
        starts: &FreshStarts,
    ) -> Result<impl Stream<Item = Result<Vec<EventRow>, Error>> + Send + use<>, Error> {
        let (extent, starts) = (extent.clone(), starts.clone());
        let mut instants = Instants { starts: starts.clone(), open: Vec::new() };
        let order = Order { symbol, extent, condition: "TRUE", starts, keys: fold_keys };
        let rows = self
            .in_order(order)
            .await?
            .map_ok(|(batch, _)| async move { tokio::task::spawn_blocking(move || event_rows(&batch)).await? });
        let rows = rows.try_buffered(DECODED_AHEAD);
        let ended = stream::once(async { Ok(None) });
        Ok(rows.map_ok(Some).chain(ended).map_ok(move |batch| instants.arrange(batch)))
    }

    /// The last event of a symbol before the extent in the order of folding; without a start, the last of all before
    /// its `next`. This is `events`.
    ///
    /// # Errors
    /// As [`Pinned::query`].
    pub async fn last_event_before(
        &self,
        symbol: Symbol,
        extent: &Extent,
        starts: &FreshStarts,
    ) -> Result<Option<EventRow>, Error> {
        let order = starts.then_from_the_last("fold_time DESC, \"offset\" DESC LIMIT 1");
        let Some(before) = extent.from else {
            let all = Extent { from: None, to: None, next: extent.next };
            return self.last_of(symbol, &all, &order, starts).await;
        };
        // Most often there is one close by, and files that are older need not be opened.
        for look_back in LOOK_BACK_HOURS {
            let from = Some(before.plus_micros(-look_back * 3_600 * MICROS));
            let near = Extent { from, to: extent.from, next: extent.next };
            if let Some(last) = self.last_of(symbol, &near, &order, starts).await? {
                return Ok(Some(last));
            }
        }
        self.last_of(symbol, &Extent { from: None, to: extent.from, next: extent.next }, &order, starts).await
    }

    /// The last event of an extent, from an order that gives one of the last instant.
    async fn last_of(
        &self,
        symbol: Symbol,
        extent: &Extent,
        order: &str,
        starts: &FreshStarts,
    ) -> Result<Option<EventRow>, Error> {
        let batches = self.stored_in_order(&extent.condition(symbol, "timestamp"), order).await?;
        let batches: Vec<RecordBatch> = batches.try_collect().await?;
        let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) else { return Ok(None) };
        let Some(one) = event_rows(batch)?.pop() else { return Ok(None) };
        let near = Extent { from: Some(one.fold_time.plus_micros(-ALLOWED_LATENESS_MICROS)), ..extent.clone() };
        let near = Extent { from: near.from.max(extent.from), ..near };
        let instant = format!("{} AND fold_time = TIMESTAMP '{}'", near.condition(symbol, "timestamp"), one.fold_time);
        let batches = self.stored_in_order(&instant, "\"offset\"").await?;
        let mut instants = Instants { starts: starts.clone(), open: Vec::new() };
        let mut rows = batches.try_collect::<Vec<_>>().await?.iter().try_fold(Vec::new(), |mut rows, batch| {
            rows.extend(event_rows(batch)?);
            Ok::<_, Error>(rows)
        })?;
        rows.retain(|row| instants.epoch(row) == instants.epoch(&one));
        instants.arrange(Some(rows));
        Ok(instants.arrange(None).pop())
    }

    /// The offsets of a partition's records in a range that have rows here, ascending; one that has two comes twice.
    ///
    /// # Errors
    /// As [`Pinned::query`].
    pub async fn offsets(&self, partition: Partition, range: Range<Offset>) -> Result<Vec<Offset>, Error> {
        let sql = format!(
            "SELECT \"offset\" FROM {} WHERE partition = {partition} AND \"offset\" >= {} AND \"offset\" < {} ORDER BY 1",
            self.table().as_str(),
            range.start,
            range.end
        );
        let mut offsets = Vec::new();
        for batch in self.rows(&sql).await? {
            let column = batch.column(0).as_primitive_opt::<Int64Type>().ok_or_else(|| self.unexpected("offset"))?;
            offsets.extend(column.values());
        }
        Ok(offsets)
    }

    /// The rows that meet a condition, as they were written, in an order.
    pub(crate) async fn stored_in_order(
        &self,
        condition: &str,
        order: &str,
    ) -> Result<impl Stream<Item = Result<RecordBatch, Error>> + Send + use<>, Error> {
        let table = self.table();
        let failed = |e: DataFusionError| self.failed("read")(DeltaTableError::from(e));
        let sql = format!("SELECT * FROM {} WHERE {condition} ORDER BY {order}", table.as_str());
        let context = context(&[self]).await?;
        let rows = context.sql(&sql).await.map_err(failed)?.execute_stream().await.map_err(failed)?;
        let failed = move |e| Error::delta(format!("read table `{}`", table.as_str()))(e);
        Ok(rows.map(move |batch| {
            let batch = batch.map_err(|e| failed(e.into()))?;
            as_stored(&batch, table).map_err(|e| failed(e.into()))
        }))
    }
}

/// Puts the rows of one instant in order: where a backfill has come between them, by event time and trade id.
///
/// Rows come by epoch, `fold_time`, origin and offset. Within an instant the log's rows were folded by offset, and stay
/// so where no row of it was backfilled.
struct Instants {
    starts: FreshStarts,
    /// Rows of the last instant, which may go on in the next batch.
    open: Vec<EventRow>,
}

impl Instants {
    fn epoch(&self, row: &EventRow) -> usize {
        self.starts.epoch(row.cause, row.event.timestamp)
    }

    /// The rows that are in order; `None` ends them.
    fn arrange(&mut self, batch: Option<Vec<EventRow>>) -> Vec<EventRow> {
        let ended = batch.is_none();
        let mut rows = std::mem::take(&mut self.open);
        rows.extend(batch.unwrap_or_default());
        if let Some(last) = rows.last().filter(|_| !ended) {
            let instant = (self.epoch(last), last.fold_time);
            let open = rows.iter().rposition(|row| (self.epoch(row), row.fold_time) != instant);
            self.open = rows.split_off(open.map_or(0, |before| before + 1));
        }
        let starts = &self.starts;
        let instant = |row: &EventRow| (starts.epoch(row.cause, row.event.timestamp), row.fold_time);
        for together in rows.chunk_by_mut(|one, next| instant(one) == instant(next)) {
            if together.iter().any(|row| row.cause.is_backfilled()) {
                together.sort_by_key(place_in_instant);
            }
        }
        rows
    }
}

/// The place of a row within an instant that a backfill has touched.
#[must_use]
pub fn place_in_instant(row: &EventRow) -> (Timestamp, Option<i64>, bool, Offset) {
    (row.event.timestamp, row.event.trade_id, row.cause.is_backfilled(), row.cause.offset)
}

/// A session of bounded memory over tables under their own names.
pub(crate) async fn context(tables: &[&Pinned]) -> Result<SessionContext, Error> {
    let failed = |e: DataFusionError| Error::delta("open a session of queries".to_owned())(e.into());
    let runtime = RuntimeEnvBuilder::new().with_memory_limit(SORT_MEMORY_BYTES, 1.0).build_arc().map_err(failed)?;
    let context = SessionContext::new_with_state(session::builder(SessionConfig::new(), runtime).build());
    for table in tables {
        table.register(&context).await?;
    }
    Ok(context)
}

/// The places of events in the order of folding.
fn fold_keys(batch: &RecordBatch, starts: &FreshStarts) -> Option<Vec<Key>> {
    let columns = EventColumns::new(batch, TableName::Events).ok()?;
    let fold_time = columns.time("fold_time").ok()?;
    let key = |row: usize| {
        let cause = columns.cause(row).ok()?;
        Some(Key {
            epoch: starts.epoch(cause, columns.timestamp(row)),
            time: Timestamp::from_micros(fold_time.value(row)),
            backfilled: cause.is_backfilled(),
            offset: cause.offset,
        })
    };
    (0..batch.num_rows()).map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{Cause, fold::FORGET_AFTER_OFFSETS};

    use crate::{
        Lake,
        fixture::{events, lake, shifted},
    };

    async fn order(lake: &Lake, starts: &FreshStarts, extent: Extent) -> Vec<Offset> {
        let pinned = lake.pin(TableName::Events).await.unwrap();
        let symbol = Symbol::parse("BTC-USDT").unwrap();
        let rows = pinned.events_in_fold_order(symbol, &extent, starts).await.unwrap();
        let rows: Vec<EventRow> = rows.try_concat().await.unwrap();
        rows.iter().map(|row| row.cause.offset).collect()
    }

    #[tokio::test]
    async fn events_come_back_as_they_were_folded() {
        let (_folder, lake) = lake().await;
        let stored = events(0, 200);
        lake.flush("topic", crate::fixture::flush(0, 200)).await.unwrap();
        let pinned = lake.pin(TableName::Events).await.unwrap();
        assert_eq!(pinned.symbols().await.unwrap(), [Symbol::parse("BTC-USDT").unwrap()]);
        assert_eq!(pinned.transaction("topic/0/next").await.unwrap(), Some(200));
        let extent = Extent { next: 200, ..Extent::default() };
        let symbol = Symbol::parse("BTC-USDT").unwrap();
        let rows = pinned.events_in_fold_order(symbol, &extent, &FreshStarts::default()).await.unwrap();
        assert_eq!(rows.try_concat().await.unwrap(), stored);
        let last = pinned.last_event_before(symbol, &extent, &FreshStarts::default()).await.unwrap();
        assert_eq!(last.as_ref(), stored.last());
        assert_eq!(pinned.offsets(0, 10..13).await.unwrap(), [10, 11, 12]);
    }

    #[tokio::test]
    async fn a_forgotten_symbol_starts_a_new_epoch_even_where_it_is_older() {
        let (_folder, lake) = lake().await;
        let far = FORGET_AFTER_OFFSETS + 50;
        lake.flush("topic", crate::fixture::flush(0, 20)).await.unwrap();
        lake.flush("topic", shifted(20, far, -1_000)).await.unwrap();
        let (events, late) =
            (lake.pin(TableName::Events).await.unwrap(), lake.pin(TableName::LateEvents).await.unwrap());
        let starts = events.fresh_starts(&late, Symbol::parse("BTC-USDT").unwrap()).await.unwrap();
        let of_log = |offset| Cause { partition: 0, offset, append_time: Timestamp::default() };
        let epochs = [19, far].map(|offset| starts.epoch(of_log(offset), Timestamp::default()));
        assert_eq!((epochs, starts.epoch_of_window(of_log(far), Timestamp::default())), ([0, 1], 0));
        let all = Extent { next: far + 20, ..Extent::default() };
        assert_eq!(order(&lake, &starts, all).await, (0..20).chain(far..far + 20).collect::<Vec<_>>());
    }
}
