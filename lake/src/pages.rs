//! Rows of one version of a table page by page, the newest first.
//!
//! A page ends at the place of a row, and the next one begins behind it: a condition on the columns that put rows in
//! order, so that a page is as quick to find as the first, and none is lost or doubled whatever is committed meanwhile.
//! Rows that share a place, which backfills can leave, are all in one page.
//! Where a page ends is looked up before its rows are read, from those few columns alone. Both go through time in the
//! stretches of [`crate::ordered`], newest first and no further than the page reaches, so that memory does not grow with
//! the table.

use std::sync::Arc;

use arrow::{
    array::RecordBatch,
    datatypes::{Schema, SchemaRef},
};
use deltalake::datafusion::{error::DataFusionError, execution::SendableRecordBatchStream, prelude::SessionContext};
use domain::{Offset, Partition, Symbol, Timestamp};
use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    error::Error,
    export::{Export, State, columns, in_order, instant, of_symbols, order, quoted, within},
    ordered::{cuts, parts},
    query::{Rows, query_failed, session},
    read::{Columns, Pinned},
    replace::spans,
    schema::{SYMBOL, TableName},
    table::load,
    versions::{Versions, id_of},
};

/// What rows must meet besides the conditions of an [`Export`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// A flag is set.
    Is(&'static str),
    /// A number has a value.
    Equals(&'static str, i64),
}

/// The place of a row in the order of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The time of [`TableName::time`].
    pub time: Timestamp,
    /// The partition of its record.
    pub partition: Partition,
    /// The offset of its record.
    pub offset: Offset,
    /// Its symbol, in tables that are partitioned by it.
    pub symbol: Option<Symbol>,
}

/// Rows of one version, to be read page by page.
#[derive(Debug)]
pub struct Pages {
    export: Export,
    columns: String,
    conditions: Vec<String>,
    pinned: Pinned,
}

/// A page.
pub struct Page {
    /// The rows, the newest first.
    pub rows: Rows,
    /// The place of the last one, where there are more behind it.
    pub next: Option<Place>,
}

/// A half-open part of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    from: Option<Timestamp>,
    to: Option<Timestamp>,
}

impl Versions {
    /// Opens what an export asks for; `version` is the one that an earlier page was read from.
    ///
    /// # Errors
    /// [`Error::Query`] where the table has no such column or no symbols; where there is no such version, or not any
    /// more.
    pub async fn pages(&self, export: Export, filters: &[Filter], version: Option<u64>) -> Result<Pages, Error> {
        let table = export.table;
        // A scan of all columns may have them in an order of its own.
        let all = || table.schema().fields().iter().map(|field| quoted(field.name())).collect::<Vec<_>>().join(", ");
        let columns = columns(&export)?.unwrap_or_else(all);
        let mut conditions: Vec<String> = of_symbols(&export)?.into_iter().collect();
        conditions.extend(filters.iter().map(|filter| match filter {
            Filter::Is(column) => quoted(column),
            Filter::Equals(column, value) => format!("{} = {value}", quoted(column)),
        }));
        if let State::KnownAt(time) = export.state {
            conditions.push(format!("{} <= {}", quoted("ingest_time"), instant(time)));
        }
        let version = match (version, export.state) {
            (Some(version), _) | (None, State::Version(version)) => Some(version),
            (None, State::AsOf(time)) => Some(self.version_at(table, time).await?),
            (None, State::Newest | State::KnownAt(_)) => None,
        };
        let delta = match version {
            Some(version) => self.open(table, version).await?,
            None => load(self.store(), table).await?,
        };
        Ok(Pages { export, columns, conditions, pinned: Pinned::new(table, delta) })
    }
}

impl Pages {
    /// The version that is read.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.pinned.version()
    }

    /// The id in the metadata of the table, which one that was made anew does not share.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub fn table_id(&self) -> Result<String, Error> {
        id_of(self.pinned.delta(), self.export.table)
    }

    /// The page behind a place, or the first one: `limit` rows and those that share the place of the last, or all that are
    /// left. Where nothing follows but such rows, an empty page does.
    ///
    /// # Errors
    /// Where a file cannot be read, now or from the rows.
    pub async fn page(&self, after: Option<&Place>, limit: u64) -> Result<Page, Error> {
        let table = self.export.table;
        let context = session::of_owner()?;
        self.pinned.register(&context).await?;
        let stretches = self.stretches(after, &cuts(&spans(self.pinned.delta(), table, &self.export.symbols)?));
        let behind = after.map(|place| beyond(table, place, "<", "<"));
        let (last, is_followed) = self.end(&context, &stretches, behind.as_deref(), limit.max(1)).await?;
        let not_behind = last.as_ref().map(|place| beyond(table, place, ">", ">="));
        let reaches =
            |stretch: &&Stretch| last.as_ref().is_some_and(|place| stretch.to.is_none_or(|end| end > place.time));
        let bounds: Vec<&str> = behind.as_deref().into_iter().chain(not_behind.as_deref()).collect();
        let texts: Vec<String> =
            stretches.iter().filter(reaches).map(|stretch| self.sql(&self.columns, *stretch, &bounds)).collect();
        let answers = stream::iter(texts).then(move |sql| {
            let context = context.clone();
            async move { run(&context, &sql).await }
        });
        let rows = Rows::new(self.schema(), answers.try_flatten().boxed(), vec![(table, self.version())]);
        Ok(Page { rows, next: last.filter(|_| is_followed) })
    }

    /// The place of the last row of a page, where it has any, and whether others follow.
    async fn end(
        &self,
        context: &SessionContext,
        stretches: &[Stretch],
        behind: Option<&str>,
        limit: u64,
    ) -> Result<(Option<Place>, bool), Error> {
        let table = self.export.table;
        let bounds: Vec<&str> = behind.into_iter().collect();
        let (mut left, mut last) = (limit, None);
        for stretch in stretches {
            let sql = format!("{} LIMIT {}", self.sql(&in_order(table), *stretch, &bounds), left.saturating_add(1));
            let mut keys = Rows::of(run(context, &sql).await.map_err(query_failed)?, Vec::new());
            while let Some(found) = keys.next_within(left).await {
                let (batch, is_followed) = found?;
                if let Some(row) = batch.num_rows().checked_sub(1) {
                    last = Some(place(table, &batch, row)?);
                    left -= batch.num_rows() as u64;
                }
                if is_followed {
                    return Ok((last, true));
                }
            }
        }
        Ok((last, false))
    }

    /// The stretches that hold what lies behind a place, the newest first.
    fn stretches(&self, after: Option<&Place>, cuts: &[Timestamp]) -> Vec<Stretch> {
        let Export { from, to, .. } = self.export;
        // Rows of the time of the place may lie behind it.
        let end = after.map(|place| place.time.plus_micros(1));
        let to = to.into_iter().chain(end).min();
        parts(from, to, cuts).into_iter().rev().map(|[from, to]| Stretch { from, to }).collect()
    }

    fn sql(&self, columns: &str, stretch: Stretch, bounds: &[&str]) -> String {
        let table = self.export.table;
        let mut conditions = within(table, stretch.from, stretch.to);
        conditions.extend(self.conditions.iter().cloned());
        conditions.extend(bounds.iter().map(|&bound| bound.to_owned()));
        let conditions = if conditions.is_empty() { "TRUE".to_owned() } else { conditions.join(" AND ") };
        let order: Vec<String> = order(table).into_iter().map(|column| format!("{} DESC", quoted(column))).collect();
        let (name, order) = (table.as_str(), order.join(", "));
        format!("SELECT {columns} FROM {name} WHERE {conditions} ORDER BY {order}")
    }

    fn schema(&self) -> SchemaRef {
        let schema = self.export.table.schema();
        if self.export.columns.is_empty() {
            return schema;
        }
        let fields = self.export.columns.iter().filter_map(|column| schema.column_with_name(column));
        Arc::new(Schema::new(fields.map(|(_, field)| field.clone()).collect::<Vec<_>>()))
    }
}

async fn run(context: &SessionContext, sql: &str) -> Result<SendableRecordBatchStream, DataFusionError> {
    context.sql(sql).await?.execute_stream().await
}

/// The condition that a row lies beyond a place in the order of its table; `last` compares the last column.
fn beyond(table: TableName, place: &Place, than: &str, last: &str) -> String {
    let numbers = [instant(place.time), place.partition.to_string(), place.offset.to_string()];
    // A symbol has no quote in it.
    let symbol = place.symbol.map(|symbol| format!("'{symbol}'"));
    let mut keys: Vec<(String, String)> =
        order(table).into_iter().map(quoted).zip(numbers.into_iter().chain(symbol)).collect();
    let innermost = keys.pop().map(|(column, value)| format!("{column} {last} {value}")).unwrap_or_default();
    keys.into_iter().rev().fold(innermost, |inner, (column, value)| {
        format!("({column} {than} {value} OR ({column} = {value} AND {inner}))")
    })
}

/// The place of a row, from the columns of the order.
fn place(table: TableName, batch: &RecordBatch, row: usize) -> Result<Place, Error> {
    let columns = Columns::new(batch, table);
    Ok(Place {
        time: columns.time(table.time(), row)?,
        partition: columns.partition(row)?,
        offset: columns.long(table.offset(), row)?,
        symbol: order(table).contains(&SYMBOL).then(|| columns.symbol(row)).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use domain::{ErrorKind, Output};
    use rstest::rstest;

    use super::*;
    use crate::{
        Lake, PartitionFlush,
        fixture::{self, events, flush, lake, shifted},
    };

    const EVENTS: TableName = TableName::Events;

    fn all_of(table: TableName) -> Export {
        let columns = vec![table.offset().to_owned()];
        Export { table, state: State::Newest, from: None, to: None, symbols: Vec::new(), columns }
    }

    /// Forty events, each with the one of a second before; twenty have another one of their time behind them.
    async fn grown() -> (tempfile::TempDir, Lake) {
        let (folder, lake) = lake().await;
        for start in [0, 10, 20, 30] {
            lake.flush("topic", flush(start, start + 10)).await.unwrap();
        }
        lake.flush("topic", shifted(40, 1_000, 0)).await.unwrap();
        (folder, lake)
    }

    /// The offsets of the events, the newest first.
    fn newest_first() -> Vec<String> {
        let doubled = (0..20).rev().flat_map(|offset| [1_000 + offset, offset]);
        (20..40).rev().chain(doubled).map(|offset: i64| offset.to_string()).collect()
    }

    async fn texts(rows: Rows) -> Vec<String> {
        fixture::texts(rows).await.unwrap().concat()
    }

    /// What pages of so many rows have, one after the other.
    async fn paged(lake: &Lake, export: &Export, filters: &[Filter], limit: u64) -> Vec<Vec<String>> {
        let (mut pages, mut after, mut version) = (Vec::new(), None, None);
        loop {
            let opened = lake.versions().pages(export.clone(), filters, version).await.unwrap();
            let Page { rows, next } = opened.page(after.as_ref(), limit).await.unwrap();
            pages.push(texts(rows).await);
            version = Some(opened.version());
            after = next;
            if after.is_none() {
                return pages;
            }
        }
    }

    #[rstest]
    #[case(1, 60)]
    #[case(3, 20)]
    #[case(17, 4)]
    #[case(59, 2)]
    #[case(60, 1)]
    #[case(1_000_000, 1)]
    #[tokio::test]
    async fn pages_have_every_row_once_and_the_newest_first(#[case] limit: u64, #[case] count: usize) {
        let (_folder, lake) = grown().await;
        let pages = paged(&lake, &all_of(EVENTS), &[], limit).await;
        assert_eq!(pages.len(), count);
        assert_eq!(pages.concat(), newest_first());
    }

    #[rstest]
    #[case(1, &["3", "2", "1 1", "0"])]
    #[case(3, &["3 2 1 1", "0"])]
    #[case(4, &["3 2 1 1", "0"])]
    #[tokio::test]
    async fn rows_of_one_place_are_in_one_page(#[case] limit: u64, #[case] expected: &[&str]) {
        let (_folder, lake) = lake().await;
        let events = events(0, 4).into_iter().chain(events(1, 2)).collect();
        let output = Output { events, ..Output::default() };
        let flush = PartitionFlush { next: 4, output, ..PartitionFlush::default() };
        lake.flush("topic", Arc::new(vec![flush])).await.unwrap();
        let pages = paged(&lake, &all_of(EVENTS), &[], limit).await;
        assert_eq!(pages.iter().map(|page| page.join(" ")).collect::<Vec<_>>(), expected);
    }

    #[tokio::test]
    async fn pages_go_on_in_the_version_of_the_first() {
        let (_folder, lake) = lake().await;
        lake.flush("topic", flush(0, 20)).await.unwrap();
        let opened = lake.versions().pages(all_of(EVENTS), &[], None).await.unwrap();
        let first = opened.page(None, 5).await.unwrap();
        lake.flush("topic", flush(20, 40)).await.unwrap();
        lake.compact(EVENTS).await.unwrap();
        let again = lake.versions().pages(all_of(EVENTS), &[], Some(opened.version())).await.unwrap();
        assert_eq!((again.version(), again.table_id().unwrap()), (1, opened.table_id().unwrap()));
        assert_eq!(texts(first.rows).await, ["19", "18", "17", "16", "15"]);
        let rest = again.page(first.next.as_ref(), 100).await.unwrap();
        assert_eq!(texts(rest.rows).await, (0..15).rev().map(|offset| offset.to_string()).collect::<Vec<_>>());
        assert_eq!(rest.next, None);
        assert_eq!(lake.versions().newest(EVENTS).await.unwrap(), (opened.table_id().unwrap(), 3));
    }

    #[tokio::test]
    async fn a_page_has_the_rows_that_meet_every_condition() {
        let (_folder, lake) = grown().await;
        let time = |second: i64| Timestamp::from_seconds(1_710_000_000 + second);
        let some = Export { from: Some(time(10)), to: Some(time(30)), ..all_of(EVENTS) };
        let filters = [Filter::Equals("trade_id", 12)];
        assert_eq!(paged(&lake, &some, &filters, 1).await, [["1012"], ["12"]]);
        let known = Export { state: State::KnownAt(time(3)), ..all_of(EVENTS) };
        assert_eq!(paged(&lake, &known, &[], 2).await.concat(), ["1002", "2", "1001", "1", "1000", "0"]);
        assert_eq!(paged(&lake, &some, &[Filter::Is("is_anomaly")], 10).await, [Vec::<String>::new()]);
        let nothing = Export { from: Some(time(90)), ..all_of(EVENTS) };
        assert_eq!(paged(&lake, &nothing, &[], 10).await, [Vec::<String>::new()]);
        let gaps = paged(&lake, &all_of(TableName::Gaps), &[], 10).await;
        assert_eq!(gaps, [Vec::<String>::new()]);
    }

    #[tokio::test]
    async fn what_is_not_there_is_refused_before_a_page_is_asked_for() {
        let (_folder, lake) = grown().await;
        let unknown = Export { columns: vec!["prize".to_owned()], ..all_of(EVENTS) };
        assert_eq!(lake.versions().pages(unknown, &[], None).await.unwrap_err().kind(), ErrorKind::Invalid);
        let beyond = lake.versions().pages(all_of(EVENTS), &[], Some(99)).await.unwrap_err();
        assert_eq!(beyond.kind(), ErrorKind::NotFound);
        lake.compact(EVENTS).await.unwrap();
        lake.vacuum(EVENTS, 0, &[]).await.unwrap();
        let removed = lake.versions().pages(all_of(EVENTS), &[], Some(2)).await.unwrap_err();
        assert_eq!(removed.kind(), ErrorKind::Gone);
    }

    #[test]
    fn a_row_lies_behind_a_place_by_the_first_column_that_differs() {
        let place = Place { time: Timestamp::from_micros(7), partition: -1, offset: 9, symbol: None };
        let expected = "(\"ingest_time\" < arrow_cast(7, 'Timestamp(Microsecond, Some(\"UTC\"))') OR (\"ingest_time\" = \
                        arrow_cast(7, 'Timestamp(Microsecond, Some(\"UTC\"))') AND (\"partition\" < -1 OR \
                        (\"partition\" = -1 AND \"from_offset\" <= 9))))";
        assert_eq!(beyond(TableName::Gaps, &place, "<", "<="), expected);
        let symbol = Some(Symbol::parse("BTC-USDT").unwrap());
        let of_market = beyond(EVENTS, &Place { symbol, ..place }, ">", ">=");
        assert!(
            of_market.ends_with("AND (\"offset\" > 9 OR (\"offset\" = 9 AND \"symbol\" >= 'BTC-USDT'))))))"),
            "{of_market}"
        );
    }
}
