//! Rows made again beside the rows that are stored, value by value, bit by bit.
//!
//! Both come in the order of their keys, so that memory holds one batch of each. What a row says about the record that
//! caused it is its key and not compared; everything else is.

use std::cmp::Ordering;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType},
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use domain::{AlertRow, Cause, FeatureRow, Offset, Partition, Symbol, Timestamp, WindowRow, windows::WINDOW_MICROS};
use futures::{StreamExt, stream::BoxStream};
use sha2::{Digest, Sha256};

pub use crate::ordered::Key;
use crate::{
    epochs::FreshStarts,
    error::Error,
    ordered::{KeyedBatch, Order},
    read::Pinned,
    rows::TableRow,
    schema::TableName,
    truth::Extent,
};

/// Differences of one symbol and table that are told one by one; the others are counted.
pub const DIFFERENCES_TOLD: usize = 10;

/// Columns that are part of the key, or say where a row came from.
const NOT_VALUES: [&str; 4] = ["partition", "offset", "ingest_time", "source"];

/// A row that can be made again, from `events` or from what was made of them.
pub trait Derived: TableRow {
    /// Which stored rows are made again, as SQL.
    const MADE_AGAIN: &'static str = "TRUE";

    /// The place of a row among those of its symbol, from its epoch, its time and its cause. Rows are compared in this
    /// order.
    #[must_use]
    fn key(epoch: usize, time: Timestamp, cause: Cause) -> Key {
        Key { epoch, time, backfilled: cause.is_backfilled(), offset: cause.offset }
    }

    /// The epoch of a stored row, from its cause and its time.
    #[must_use]
    fn epoch(starts: &FreshStarts, cause: Cause, time: Timestamp) -> usize {
        starts.epoch(cause, time)
    }
}

impl Derived for FeatureRow {}

impl Derived for AlertRow {}

impl Derived for WindowRow {
    const MADE_AGAIN: &'static str = "source <> 'kline'";

    fn key(epoch: usize, time: Timestamp, _cause: Cause) -> Key {
        Key { epoch, time, backfilled: false, offset: 0 }
    }

    fn epoch(starts: &FreshStarts, cause: Cause, time: Timestamp) -> usize {
        starts.epoch_of_window(cause, time.plus_micros(WINDOW_MICROS - 1))
    }
}

/// One way in which stored rows are not those that were made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The table.
    pub table: TableName,
    /// The market.
    pub symbol: Symbol,
    /// Event time, or start of a window.
    pub time: Timestamp,
    /// Offset of the record that caused the row; 0 of a window.
    pub offset: Offset,
    /// What differs.
    pub what: What,
}

/// What differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A row was made again that is not stored.
    Missing,
    /// A row is stored that was not made again.
    Extra,
    /// A value is another one.
    Value {
        /// The column.
        column: String,
        /// What is stored, empty for null.
        stored: String,
        /// What was made again, empty for null.
        made_again: String,
    },
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Rows whose keys met.
    pub rows: u64,
    /// Rows with a value that differs.
    pub differing: u64,
    /// Rows that should be stored and are not.
    pub missing: u64,
    /// Stored rows that should not be.
    pub extra: u64,
    /// The first differences, at most [`DIFFERENCES_TOLD`].
    pub first: Vec<Difference>,
}

/// The comparison of one symbol's rows of one table.
pub struct Comparison {
    table: TableName,
    symbol: Symbol,
    stored: BoxStream<'static, Result<KeyedBatch, Error>>,
    /// The batch at hand with its keys, and the place of the next row in it.
    batch: Option<KeyedBatch>,
    place: usize,
    found: Compared,
    digest: Sha256,
}

impl Comparison {
    /// Begins a comparison with what `stored` holds of a symbol.
    ///
    /// # Errors
    /// As [`Pinned::query`].
    pub async fn begin<R: Derived>(
        stored: &Pinned,
        symbol: Symbol,
        extent: &Extent,
        starts: &FreshStarts,
    ) -> Result<Self, Error> {
        let (extent, starts) = (extent.clone(), starts.clone());
        let order = Order { symbol, extent, condition: R::MADE_AGAIN, starts, keys: keys::<R> };
        Ok(Self {
            table: R::TABLE,
            symbol,
            stored: Box::pin(stored.in_order(order).await?),
            batch: None,
            place: 0,
            found: Compared::default(),
            digest: Sha256::new(),
        })
    }

    /// Compares the next rows, which are in the order of their keys. A row that is not `due` may be stored or not.
    ///
    /// # Errors
    /// Where stored rows cannot be read.
    pub async fn next<R: Derived>(
        &mut self,
        rows: &[(Key, R)],
        due: impl Fn(&(Key, R)) -> bool + Send,
    ) -> Result<(), Error> {
        let mut at = 0;
        while at < rows.len() {
            self.fetch().await?;
            let (key, _) = &rows[at];
            match self.stored_key().map_or(Ordering::Greater, |stored| stored.cmp(key)) {
                Ordering::Less => self.skip_extra(),
                Ordering::Greater => {
                    if due(&rows[at]) {
                        self.found.missing += 1;
                        self.tell(*key, What::Missing);
                    }
                    at += 1;
                }
                Ordering::Equal => {
                    let run = self.run_of_equal_keys(&rows[at..]);
                    self.compare_run(&rows[at..at + run])?;
                    at += run;
                }
            }
        }
        Ok(())
    }

    /// When rows became what they are: for each that is stored with the same values, its stored `ingest_time`. Rows are in
    /// the order of their keys.
    ///
    /// # Errors
    /// Where stored rows cannot be read.
    pub async fn known_since<R: Derived>(&mut self, rows: &[(Key, R)]) -> Result<Vec<Option<Timestamp>>, Error> {
        let mut since = vec![None; rows.len()];
        let mut at = 0;
        while at < rows.len() {
            self.fetch().await?;
            let Some(stored) = self.stored_key() else { break };
            match stored.cmp(&rows[at].0) {
                Ordering::Less => self.place += 1,
                Ordering::Greater => at += 1,
                Ordering::Equal => {
                    let run = self.run_of_equal_keys(&rows[at..]);
                    let (again, stored) = self.both(&rows[at..at + run])?;
                    let times = self.ingest_times(run)?;
                    for (row, time) in times.into_iter().enumerate() {
                        if first_difference(&again, &stored, row).is_none() {
                            since[at + row] = Some(time);
                        }
                    }
                    self.place += run;
                    at += run;
                }
            }
        }
        Ok(since)
    }

    /// `ingest_time` of the next stored rows of the batch at hand.
    fn ingest_times(&self, rows: usize) -> Result<Vec<Timestamp>, Error> {
        let unexpected = || Error::UnexpectedColumn { table: self.table.as_str(), column: "ingest_time" };
        let (batch, _) = self.batch.as_ref().ok_or_else(unexpected)?;
        let times = batch.column_by_name("ingest_time").and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
        let times = &times.ok_or_else(unexpected)?.values()[self.place..self.place + rows];
        Ok(times.iter().map(|micros| Timestamp::from_micros(*micros)).collect())
    }

    /// Ends the comparison: stored rows that are left should not be. Gives what was found, and the SHA-256 of the values
    /// made again.
    ///
    /// # Errors
    /// Where stored rows cannot be read.
    pub async fn end(mut self) -> Result<(Compared, Vec<u8>), Error> {
        loop {
            self.fetch().await?;
            if self.batch.is_none() {
                return Ok((self.found, self.digest.finalize().to_vec()));
            }
            self.skip_extra();
        }
    }

    /// Makes sure that a stored row is at hand, if there is one left.
    async fn fetch(&mut self) -> Result<(), Error> {
        while self.batch.as_ref().is_none_or(|(_, keys)| self.place == keys.len()) {
            (self.batch, self.place) = (None, 0);
            let Some(batch) = self.stored.next().await.transpose()? else { return Ok(()) };
            self.batch = Some(batch);
        }
        Ok(())
    }

    fn stored_key(&self) -> Option<Key> {
        self.batch.as_ref().map(|(_, keys)| keys[self.place])
    }

    fn skip_extra(&mut self) {
        if let Some(key) = self.stored_key() {
            self.found.extra += 1;
            self.tell(key, What::Extra);
            self.place += 1;
        }
    }

    fn run_of_equal_keys<R>(&self, rows: &[(Key, R)]) -> usize {
        let stored = self.batch.iter().flat_map(|(_, keys)| &keys[self.place..]);
        stored.zip(rows).take_while(|(stored, (key, _))| *stored == key).count()
    }

    /// Compares rows with as many stored ones, whose keys are the same.
    fn compare_run<R: Derived>(&mut self, rows: &[(Key, R)]) -> Result<(), Error> {
        let (again, stored) = self.both(rows)?;
        add_to_digest(&again, rows.len(), &mut self.digest);
        if again.iter().zip(&stored).any(|((_, again), (_, stored))| again != stored) {
            for (row, (key, _)) in rows.iter().enumerate() {
                if let Some(what) = first_difference(&again, &stored, row) {
                    self.found.differing += 1;
                    self.tell(*key, what);
                }
            }
        }
        self.found.rows += rows.len() as u64;
        self.place += rows.len();
        Ok(())
    }

    /// The values of rows, and of as many stored ones.
    fn both<R: Derived>(&self, rows: &[(Key, R)]) -> Result<(Named, Named), Error> {
        let failed = |e: ArrowError| Error::delta(format!("compare rows of table `{}`", self.table.as_str()))(e.into());
        let refs: Vec<&R> = rows.iter().map(|(_, row)| row).collect();
        let again = values(&R::batch(&refs).map_err(failed)?);
        let stored = self.batch.as_ref().map(|(batch, _)| values(&batch.slice(self.place, rows.len())));
        Ok((again, stored.unwrap_or_default()))
    }

    fn tell(&mut self, key: Key, what: What) {
        if self.found.first.len() < DIFFERENCES_TOLD {
            let (table, symbol) = (self.table, self.symbol);
            self.found.first.push(Difference { table, symbol, time: key.time, offset: key.offset, what });
        }
    }
}

/// The keys of stored rows; none where a column is missing.
pub(crate) fn keys<R: Derived>(batch: &RecordBatch, starts: &FreshStarts) -> Option<Vec<Key>> {
    let times = batch.column_by_name(R::TABLE.time())?.as_primitive_opt::<TimestampMicrosecondType>()?;
    let long = |name| batch.column_by_name(name)?.as_primitive_opt::<Int64Type>();
    let (partitions, offsets) = (long("partition")?, long("offset")?);
    let key = |row: usize| {
        let partition = Partition::try_from(partitions.value(row)).ok()?;
        // Keys do not hold when a record was appended.
        let cause = Cause { partition, offset: offsets.value(row), append_time: Timestamp::default() };
        let time = Timestamp::from_micros(times.value(row));
        Some(R::key(R::epoch(starts, cause, time), time, cause))
    };
    (0..batch.num_rows()).map(key).collect()
}

/// Columns by their names.
type Named = Vec<(String, ArrayRef)>;

/// The first value of a row that is another one.
fn first_difference(again: &Named, stored: &Named, row: usize) -> Option<What> {
    again.iter().zip(stored).find_map(|((column, again), (_, stored))| {
        let (again, stored) = (again.slice(row, 1), stored.slice(row, 1));
        let differs = || What::Value { column: column.clone(), stored: text(&stored), made_again: text(&again) };
        (*again != *stored).then(differs)
    })
}

/// The columns that are compared, by name.
fn values(batch: &RecordBatch) -> Named {
    let named = batch.schema_ref().fields().iter().zip(batch.columns());
    let values = named.filter(|(field, _)| !NOT_VALUES.contains(&field.name().as_str()));
    values.map(|(field, column)| (field.name().clone(), column.clone())).collect()
}

/// The one value of a column of one row; empty for null.
fn text(value: &ArrayRef) -> String {
    let formatter = ArrayFormatter::try_new(value, &FormatOptions::default());
    formatter.map(|formatter| formatter.value(0).to_string()).unwrap_or_default()
}

/// Adds the values row by row, so that the digest does not depend on batches: a presence byte, then the bytes of a
/// number in little-endian order, or of a text with its length before it.
fn add_to_digest(columns: &[(String, ArrayRef)], rows: usize, digest: &mut Sha256) {
    let mut bytes = Vec::with_capacity(rows * columns.len() * 9);
    for row in 0..rows {
        for (_, column) in columns {
            let present = column.is_valid(row);
            bytes.push(u8::from(present));
            if !present {
                continue;
            }
            match column.data_type() {
                DataType::Float64 => bytes.extend(column.as_primitive::<Float64Type>().value(row).to_le_bytes()),
                DataType::Int64 => bytes.extend(column.as_primitive::<Int64Type>().value(row).to_le_bytes()),
                DataType::Timestamp(..) => {
                    bytes.extend(column.as_primitive::<TimestampMicrosecondType>().value(row).to_le_bytes());
                }
                DataType::Boolean => bytes.push(u8::from(column.as_boolean().value(row))),
                _ => {
                    let text = column.as_string::<i32>().value(row).as_bytes();
                    bytes.extend((text.len() as u64).to_le_bytes());
                    bytes.extend(text);
                }
            }
        }
    }
    digest.update(&bytes);
}

/// A digest of scores, row by row.
#[derive(Debug, Default)]
pub struct ScoreDigest(Sha256);

impl ScoreDigest {
    /// Adds a row.
    pub fn add(&mut self, time: Timestamp, score: f64, is_anomaly: bool) {
        self.0.update(time.micros().to_le_bytes());
        self.0.update(score.to_le_bytes());
        self.0.update([u8::from(is_anomaly)]);
    }

    /// The SHA-256 of the rows.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0.finalize().to_vec()
    }
}

/// One digest of the digests of symbols, which come in ascending order: SHA-256 as hexadecimal digits.
#[must_use]
pub fn combined_digest<'a>(parts: impl IntoIterator<Item = (Symbol, &'a [u8])>) -> String {
    let mut whole = Sha256::new();
    for (symbol, digest) in parts {
        whole.update(symbol.as_bytes());
        whole.update(digest);
    }
    format!("{:x}", whole.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{flush, lake};

    const NEXT: Offset = 40;

    /// The features of 40 events as they are stored, compared with what `change` makes of them.
    async fn compared(change: impl FnOnce(&mut Vec<(Key, FeatureRow)>)) -> (Compared, Vec<u8>) {
        let (_folder, lake) = lake().await;
        for start in [0, 10, 20, 30] {
            lake.flush("topic", flush(start, start + 10)).await.unwrap();
        }
        let made = flush(0, NEXT).iter().flat_map(|partition| partition.output.features.clone()).collect::<Vec<_>>();
        let mut rows = made.into_iter().map(|row| (FeatureRow::key(0, row.timestamp, row.cause()), row)).collect();
        change(&mut rows);
        let stored = lake.pin(TableName::Features).await.unwrap();
        let symbol = Symbol::parse("BTC-USDT").unwrap();
        let extent = Extent { next: NEXT, ..Extent::default() };
        let mut comparison =
            Comparison::begin::<FeatureRow>(&stored, symbol, &extent, &FreshStarts::default()).await.unwrap();
        for part in rows.chunks(7) {
            comparison.next(part, |_| true).await.unwrap();
        }
        comparison.end().await.unwrap()
    }

    #[tokio::test]
    async fn equal_rows_have_no_difference_and_one_digest() {
        let (found, digest) = compared(|_| {}).await;
        assert_eq!(found, Compared { rows: 40, ..Compared::default() });
        assert_eq!(compared(|rows| rows.truncate(40)).await.1, digest);
        assert_ne!(compared(|rows| rows.truncate(39)).await.1, digest);
    }

    #[tokio::test]
    async fn the_last_bit_of_a_value_is_a_difference() {
        let (found, _) = compared(|rows| {
            let mean = &mut rows[23].1.means[2];
            *mean = f64::from_bits(mean.to_bits() + 1);
        })
        .await;
        assert_eq!((found.rows, found.differing, found.missing, found.extra), (40, 1, 0, 0));
        assert_eq!(found.first[0].offset, 23);
        assert!(matches!(&found.first[0].what, What::Value { column, .. } if column == "rolling_volume_mean"));
    }

    #[tokio::test]
    async fn rows_that_are_missing_or_too_many_are_told_apart() {
        let (found, _) = compared(|rows| {
            rows.remove(30);
            rows.remove(5);
            let mut late = rows.last().unwrap().clone();
            late.1.offset = 90;
            late.0 = FeatureRow::key(0, late.1.timestamp, late.1.cause());
            rows.push(late);
        })
        .await;
        assert_eq!((found.rows, found.differing, found.missing, found.extra), (38, 0, 1, 2));
        let told: Vec<_> = found.first.iter().map(|difference| (difference.offset, difference.what.clone())).collect();
        assert_eq!(told, [(5, What::Extra), (30, What::Extra), (90, What::Missing)]);
    }
}
