//! Replacing what a table holds of one symbol and one time by other rows, in one commit.
//!
//! New rows go to files of their own first, however many they are, and nothing of the table is held up meanwhile. The
//! commit removes the files that hold rows of the range and adds the new ones, with what the removed ones held besides.
//! It is compare-and-set on a counter per symbol, carries the transaction `rewrite` and holds the table's lock, as every
//! rewrite does; appends go on beside it. A replacement that has an id is committed once.

mod background;

use std::{ops::Range, time::Duration};

use arrow::array::RecordBatch;
use deltalake::{
    DeltaTable, DeltaTableError,
    kernel::{
        Action, Add, Remove, Transaction,
        transaction::{CommitBuilder, CommitProperties},
    },
    protocol::{DeltaOperation, SaveMode},
    writer::{DeltaWriter, RecordBatchWriter, WriteMode},
};
use domain::{Symbol, Timestamp, probe::Point, time::MICROS};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::{
    error::Error,
    lake::Lake,
    maintain::{REWRITE, rewrite_number},
    read::as_stored,
    restore::files_of,
    rows::TableRow,
    schema::{SYMBOL, TableName},
    session,
    table::{failed, load, writer_properties},
};

pub use background::BackgroundWriter;

/// Rows in a file, at most: what is encoded waits in memory until then.
const FILE_ROWS: usize = 500_000;

/// How often a commit starts over before it gives up.
const MAX_ATTEMPTS: u32 = 12;

/// How often, and how long each time, a replacement waits for another rewrite of the table.
const LOCK_ATTEMPTS: u32 = 1_200;
const LOCK_PAUSE: Duration = Duration::from_millis(250);

/// Statistics of files may be cut to milliseconds.
const STATISTICS_MICROS: i64 = 1_000;

/// Rows on their way to replace others.
pub struct Replacement {
    name: TableName,
    symbol: Symbol,
    range: Range<Timestamp>,
    table: DeltaTable,
    writer: RecordBatchWriter,
    waiting: usize,
    /// The file before, on its way to the disk while the next one is filled.
    closing: Option<Closing>,
    adds: Vec<Add>,
    rows: u64,
    /// What the counter stood at when this began.
    replaced_before: i64,
}

/// A file on its way to the disk.
struct Closing {
    /// Rows in it.
    rows: usize,
    file: AbortOnDropHandle<Result<Vec<Add>, DeltaTableError>>,
}

/// What became of a replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// It is in the table, as this version.
    Committed {
        /// The version.
        version: u64,
        /// Rows that it put there.
        rows: u64,
    },
    /// A replacement with its id was committed before; this one is dropped.
    AlreadyApplied,
    /// Another replacement of the symbol was faster: read again what is there, and start over.
    Outdated,
}

/// The files of a table that hold rows of a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// The version.
    pub version: u64,
    /// Files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

impl Lake {
    /// Begins to replace what a table holds of a symbol in a half-open range of its time.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn replacement(
        &self,
        name: TableName,
        symbol: Symbol,
        range: Range<Timestamp>,
    ) -> Result<Replacement, Error> {
        let table = load(self.store(), name).await?;
        let replaced_before = counter(&table, name, &replaced_id(symbol)).await?;
        let writer = writer(&table, name)?;
        let (waiting, closing, adds, rows) = (0, None, Vec::new(), 0);
        Ok(Replacement { name, symbol, range, table, writer, waiting, closing, adds, rows, replaced_before })
    }

    /// Commits a replacement under an id that no other has.
    ///
    /// # Errors
    /// Where the table cannot be read or written, or other rewrites never end.
    pub async fn replace(&self, mut replacement: Replacement, id: &str) -> Result<Replaced, Error> {
        let name = replacement.name;
        replacement.close_file().await?;
        replacement.closed().await?;
        self.probe().reached(Point::FilesWritten);
        let _lock = self.wait_for_rewrite_lock(name).await?;
        for attempt in 1..=MAX_ATTEMPTS {
            let table = load(self.store(), name).await?;
            if counter(&table, name, id).await? > 0 {
                replacement.abandon().await;
                return Ok(Replaced::AlreadyApplied);
            }
            if counter(&table, name, &replaced_id(replacement.symbol)).await? != replacement.replaced_before {
                replacement.abandon().await;
                return Ok(Replaced::Outdated);
            }
            match replacement.commit(table, id).await {
                Ok(version) => {
                    self.probe().reached(Point::Committed);
                    info!(table = name.as_str(), symbol = %replacement.symbol, version, rows = replacement.rows, "replaced rows");
                    return Ok(Replaced::Committed { version, rows: replacement.rows });
                }
                Err(error) if attempt < MAX_ATTEMPTS => {
                    warn!(table = name.as_str(), attempt, %error, "commit refused, reading the table again");
                }
                Err(error) => return Err(failed("commit to", name)(error)),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Whether a replacement with this id was committed.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn has_replaced(&self, name: TableName, id: &str) -> Result<bool, Error> {
        Ok(self.transaction(name, id).await?.is_some())
    }

    /// What a replacement of a symbol and a range would touch now.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn touched(&self, name: TableName, symbol: Symbol, range: &Range<Timestamp>) -> Result<Touched, Error> {
        let table = load(self.store(), name).await?;
        let mut touched = Touched { version: table.version().unwrap_or_default(), ..Touched::default() };
        for (add, _) in overlapping(&table, name, symbol, range)? {
            touched.files += 1;
            touched.bytes += u64::try_from(add.size).unwrap_or(0);
        }
        Ok(touched)
    }

    async fn wait_for_rewrite_lock(&self, name: TableName) -> Result<std::fs::File, Error> {
        for _ in 1..LOCK_ATTEMPTS {
            match self.rewrite_lock(name) {
                Err(Error::RewriteRunning { .. }) => tokio::time::sleep(LOCK_PAUSE).await,
                other => return other,
            }
        }
        self.rewrite_lock(name)
    }
}

impl Replacement {
    /// Adds rows; their order is kept within a file.
    ///
    /// # Errors
    /// Where a file cannot be written.
    ///
    /// # Panics
    /// If the rows are of another table.
    pub async fn add<R: TableRow>(&mut self, rows: &[&R]) -> Result<(), Error> {
        assert!(R::TABLE == self.name, "rows of one table are never put into another");
        self.add_batch(R::batch(rows).map_err(|e| failed("shape rows of", self.name)(e.into()))?).await
    }

    /// Adds rows that have the table's columns.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub async fn add_batch(&mut self, batch: RecordBatch) -> Result<(), Error> {
        // All rows are of one symbol: nothing is to be divided by it.
        let partition = [(SYMBOL.to_owned(), self.symbol.as_str().into())].into_iter().collect();
        for start in (0..batch.num_rows()).step_by(FILE_ROWS) {
            let part = batch.slice(start, FILE_ROWS.min(batch.num_rows() - start));
            let rows = part.num_rows();
            if self.waiting + rows > FILE_ROWS {
                self.close_file().await?;
            }
            let written = self.writer.write_partition(part, &partition, WriteMode::Default).await;
            written.map_err(failed("write to", self.name))?;
            self.waiting += rows;
            self.rows += rows as u64;
        }
        Ok(())
    }

    /// Ends the file at hand: what comes next is in another one. It goes to the disk in the background.
    ///
    /// # Errors
    /// Where the file before it cannot be written.
    pub async fn close_file(&mut self) -> Result<(), Error> {
        self.closed().await?;
        let rows = std::mem::take(&mut self.waiting);
        if rows > 0 {
            let mut full = std::mem::replace(&mut self.writer, writer(&self.table, self.name)?);
            let file = AbortOnDropHandle::new(tokio::spawn(async move { full.flush().await }));
            self.closing = Some(Closing { rows, file });
        }
        Ok(())
    }

    /// Waits until the file that was ended last is on the disk.
    async fn closed(&mut self) -> Result<(), Error> {
        let Some(Closing { rows, file }) = self.closing.take() else { return Ok(()) };
        let adds = file.await?.map_err(failed("write to", self.name))?;
        let stats = adds.iter().filter_map(|add| add.get_stats().ok().flatten());
        let written: i64 = stats.map(|stats| stats.num_records).sum();
        assert!(usize::try_from(written) == Ok(rows), "files hold {written} rows of {rows}");
        self.adds.extend(adds);
        Ok(())
    }

    /// Deletes the files that were written; what cannot be deleted is left to vacuum.
    pub async fn abandon(&mut self) {
        if let Err(error) = self.closed().await {
            warn!(table = self.name.as_str(), %error, "a file that nobody needs is left");
        }
        let store = self.table.log_store().object_store(None);
        for add in self.adds.drain(..) {
            if let Err(error) = store.delete(&add.path.as_str().into()).await {
                warn!(table = self.name.as_str(), path = add.path, %error, "a file that nobody needs is left");
            }
        }
    }

    async fn commit(&self, table: DeltaTable, id: &str) -> Result<u64, DeltaTableError> {
        let files = overlapping(&table, self.name, self.symbol, &self.range)
            .map_err(|error| DeltaTableError::generic(error.to_string()))?;
        let number = rewrite_number(&table, self.name).await;
        let number = number.map_err(|error| DeltaTableError::generic(error.to_string()))?;
        let kept = self.copy_of_others(&table, &files).await?;
        let transactions = vec![
            Transaction::new(id, 1),
            Transaction::new(replaced_id(self.symbol), self.replaced_before + 1),
            Transaction::new(REWRITE, number),
        ];
        let properties = CommitProperties::default()
            .with_application_transactions(transactions)
            .with_create_checkpoint(false)
            .with_cleanup_expired_logs(Some(false));
        let removes = files.into_iter().map(|(_, remove)| Action::Remove(remove));
        let adds = self.adds.iter().cloned().chain(kept).map(Action::Add);
        let operation = DeltaOperation::Write {
            mode: SaveMode::Overwrite,
            partition_by: Some(vec![SYMBOL.to_owned()]),
            predicate: Some(self.condition()),
        };
        let finalized = CommitBuilder::from(properties)
            .with_actions(removes.chain(adds).collect())
            .build(Some(table.snapshot()?), table.log_store(), operation)
            .await?;
        Ok(finalized.version())
    }

    /// The rows of the range as SQL.
    fn condition(&self) -> String {
        let (time, Range { start, end }) = (self.name.time(), &self.range);
        format!("symbol = '{}' AND {time} >= TIMESTAMP '{start}' AND {time} < TIMESTAMP '{end}'", self.symbol)
    }

    /// Writes what files hold besides the range into new ones.
    async fn copy_of_others(&self, table: &DeltaTable, files: &[(Add, Remove)]) -> Result<Vec<Add>, DeltaTableError> {
        let mixed = files.iter().filter(|(add, _)| !lies_within(add, self.name, &self.range));
        let paths: Vec<&str> = mixed.map(|(add, _)| add.path.as_str()).collect();
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let context = session::plain();
        table.update_datafusion_session(&context.state())?;
        context.register_table(self.name.as_str(), table.table_provider().with_file_paths(paths).await?)?;
        let sql = format!("SELECT * FROM {} WHERE NOT ({})", self.name.as_str(), self.condition());
        let mut rows = context.sql(&sql).await?.execute_stream().await?;
        let mut writer = RecordBatchWriter::for_table(table)?.with_writer_properties(writer_properties());
        let (mut adds, mut waiting) = (Vec::new(), 0);
        while let Some(batch) = rows.try_next().await? {
            waiting += batch.num_rows();
            writer.write(as_stored(&batch, self.name)?).await?;
            if waiting >= FILE_ROWS {
                adds.extend(writer.flush().await?);
                waiting = 0;
            }
        }
        adds.extend(writer.flush().await?);
        Ok(adds)
    }
}

/// The application transaction that counts the replacements of a symbol.
#[must_use]
pub fn replaced_id(symbol: Symbol) -> String {
    format!("replaced/{symbol}")
}

fn writer(table: &DeltaTable, name: TableName) -> Result<RecordBatchWriter, Error> {
    let writer = RecordBatchWriter::for_table(table).map_err(failed("write to", name))?;
    Ok(writer.with_writer_properties(writer_properties()))
}

async fn counter(table: &DeltaTable, name: TableName, id: &str) -> Result<i64, Error> {
    let snapshot = table.snapshot().map_err(failed("read", name))?.snapshot();
    let stored = snapshot.transaction_version(table.log_store().as_ref(), id).await;
    Ok(stored.map_err(failed("read", name))?.unwrap_or(0))
}

/// The times of a file's rows, and how many they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first one, or before it.
    pub(crate) first: Timestamp,
    /// The last one, or behind it.
    pub(crate) last: Timestamp,
    /// Rows.
    pub(crate) rows: u64,
}

/// The times and rows of the symbols' files, of all files where no symbol is named, as far as statistics tell.
pub(crate) fn spans(table: &DeltaTable, name: TableName, symbols: &[Symbol]) -> Result<Vec<Span>, Error> {
    let files = files_of(table, name)?;
    let is_of_one = |add: &Add| symbols.is_empty() || symbols.iter().any(|symbol| is_of(add, *symbol));
    let of_symbol = files.iter().filter(|(add, _)| is_of_one(add));
    let span = |add: &Add| {
        let (first, last) = times(add, name)?;
        let rows = add.get_stats().ok()??.num_records;
        Some(Span { first, last, rows: u64::try_from(rows).unwrap_or(0) })
    };
    Ok(of_symbol.filter_map(|(add, _)| span(add)).collect())
}

/// The files of a symbol that may hold rows of a range.
fn overlapping(
    table: &DeltaTable,
    name: TableName,
    symbol: Symbol,
    range: &Range<Timestamp>,
) -> Result<Vec<(Add, Remove)>, Error> {
    let touches = |add: &Add| times(add, name).is_none_or(|(first, last)| first < range.end && last >= range.start);
    Ok(files_of(table, name)?.into_iter().filter(|(add, _)| is_of(add, symbol) && touches(add)).collect())
}

/// Whether a file may hold rows of a symbol.
fn is_of(add: &Add, symbol: Symbol) -> bool {
    match add.partition_values.get(SYMBOL) {
        Some(Some(value)) => value == symbol.as_str(),
        _ => true,
    }
}

fn lies_within(add: &Add, name: TableName, range: &Range<Timestamp>) -> bool {
    times(add, name).is_some_and(|(first, last)| first >= range.start && last < range.end)
}

/// Bounds of the times in a file, as its statistics have them; they may be wider than the rows, never narrower.
fn times(add: &Add, name: TableName) -> Option<(Timestamp, Timestamp)> {
    let stats = add.get_stats().ok()??;
    let bound = |values: &std::collections::HashMap<String, deltalake::protocol::ColumnValueStat>| {
        values.get(name.time())?.as_value()?.as_str().and_then(|text| Timestamp::parse(text).ok())
    };
    let (first, last) = (bound(&stats.min_values)?, bound(&stats.max_values)?);
    let cut = |time: Timestamp| time.micros().rem_euclid(MICROS) % STATISTICS_MICROS == 0;
    let last = if cut(last) { last.plus_micros(STATISTICS_MICROS - 1) } else { last };
    Some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{events, flush, lake, rows_of};
    use domain::EventRow;

    const EVENTS: TableName = TableName::Events;

    fn symbol() -> Symbol {
        Symbol::parse("BTC-USDT").unwrap()
    }

    fn second(second: i64) -> Timestamp {
        Timestamp::from_seconds(1_710_000_000 + second)
    }

    /// Three flushes of ten seconds each.
    async fn grown() -> (tempfile::TempDir, Lake) {
        let (folder, lake) = lake().await;
        for start in [0, 10, 20] {
            lake.flush("topic", flush(start, start + 10)).await.unwrap();
        }
        (folder, lake)
    }

    /// What replaces seconds 5 to 25: every other of the events there, under prices of their own.
    async fn every_other(lake: &Lake) -> Replacement {
        let mut replacement = lake.replacement(EVENTS, symbol(), second(5)..second(25)).await.unwrap();
        let rows: Vec<EventRow> =
            events(0, 30).into_iter().filter(|row| (5..25).contains(&row.cause.offset)).step_by(2).collect();
        let (one, other) = rows.split_at(3);
        replacement.add(&one.iter().collect::<Vec<_>>()).await.unwrap();
        replacement.close_file().await.unwrap();
        replacement.add(&other.iter().collect::<Vec<_>>()).await.unwrap();
        replacement
    }

    async fn offsets(lake: &Lake) -> Vec<i64> {
        lake.pin(EVENTS).await.unwrap().offsets(0, 0..1_000).await.unwrap()
    }

    #[tokio::test]
    async fn rows_of_the_range_are_replaced_and_all_others_stay() {
        let (_folder, lake) = grown().await;
        let replaced = lake.replace(every_other(&lake).await, "fill/1").await.unwrap();
        assert_eq!(replaced, Replaced::Committed { version: 4, rows: 10 });
        let expected: Vec<i64> = (0..5).chain((5..25).step_by(2)).chain(25..30).collect();
        assert_eq!(offsets(&lake).await, expected);
        assert_eq!(lake.progress("topic", 0).await.unwrap().next, 30);
        lake.flush("topic", flush(30, 40)).await.unwrap();
        assert_eq!(offsets(&lake).await.len(), 30);
        let newest = &lake.history(EVENTS, 2).await.unwrap()[1];
        assert_eq!((newest.version, newest.operation.as_str()), (4, "WRITE"));
    }

    #[tokio::test]
    async fn a_replacement_is_committed_once() {
        let (_folder, lake) = grown().await;
        assert!(!lake.has_replaced(EVENTS, "fill/1").await.unwrap());
        let (first, again) = (every_other(&lake).await, every_other(&lake).await);
        lake.replace(first, "fill/1").await.unwrap();
        assert!(lake.has_replaced(EVENTS, "fill/1").await.unwrap());
        assert_eq!(lake.replace(again, "fill/1").await.unwrap(), Replaced::AlreadyApplied);
        assert_eq!(offsets(&lake).await.len(), 20);
    }

    #[tokio::test]
    async fn of_two_replacements_that_read_the_same_rows_one_starts_over() {
        let (_folder, lake) = grown().await;
        let (first, second) = (every_other(&lake).await, every_other(&lake).await);
        lake.replace(first, "fill/1").await.unwrap();
        let before = rows_of(&lake, EVENTS).await;
        assert_eq!(lake.replace(second, "fill/2").await.unwrap(), Replaced::Outdated);
        assert_eq!(rows_of(&lake, EVENTS).await, before);
        assert!(!lake.has_replaced(EVENTS, "fill/2").await.unwrap());
    }

    #[tokio::test]
    async fn appends_and_compactions_go_on_between_writing_and_committing() {
        let (_folder, lake) = grown().await;
        let replacement = every_other(&lake).await;
        lake.flush("topic", flush(30, 40)).await.unwrap();
        lake.compact(EVENTS).await.unwrap();
        lake.flush("topic", flush(40, 50)).await.unwrap();
        lake.replace(replacement, "fill/1").await.unwrap();
        let expected: Vec<i64> = (0..5).chain((5..25).step_by(2)).chain(25..50).collect();
        assert_eq!(offsets(&lake).await, expected);
    }

    #[tokio::test]
    async fn files_of_a_replacement_that_nobody_needs_are_deleted() {
        let (folder, lake) = grown().await;
        let files = || {
            let partition = folder.path().join("events/symbol=BTC-USDT");
            std::fs::read_dir(partition).unwrap().count()
        };
        let before = files();
        let mut replacement = every_other(&lake).await;
        replacement.close_file().await.unwrap();
        replacement.closed().await.unwrap();
        assert_eq!(files(), before + 2);
        replacement.abandon().await;
        assert_eq!(files(), before);
    }

    #[tokio::test]
    async fn what_would_be_touched_is_told_from_statistics() {
        let (_folder, lake) = grown().await;
        let files = async |range| lake.touched(EVENTS, symbol(), &range).await.unwrap().files;
        assert_eq!(files(second(5)..second(25)).await, 3);
        assert_eq!(files(second(10)..second(20)).await, 1);
        assert_eq!(files(second(30)..second(90)).await, 0);
        let other = Symbol::parse("ETH-USDT").unwrap();
        assert_eq!(lake.touched(EVENTS, other, &(second(0)..second(30))).await.unwrap().files, 0);
    }
}
