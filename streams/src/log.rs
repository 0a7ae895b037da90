//! The event log as the rest of Sentinel sees it: a topic of partitions, each an append-only sequence of records.
//!
//! Invariants of every engine: an acknowledged append is durable; offsets of a partition only grow and are never
//! given twice, not even after retention removed everything; append times never fall within a partition; what cannot
//! be read any more is a [`ReadItem::Gap`], and nothing after it is lost. A log never looks into a record's value.

use std::ops::Range;

use async_trait::async_trait;
use domain::{Kind, Offset, Partition, RawRecord, Symbol, Timestamp, time::MICROS};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::Error;

/// The longest value of a record, in bytes.
pub const MAX_VALUE_BYTES: usize = 4 << 20;

/// The most records of one [`AppendBatch`].
pub const MAX_APPEND_RECORDS: usize = 100_000;

/// The most bytes of all values of one [`AppendBatch`].
pub const MAX_APPEND_BYTES: usize = 64 << 20;

/// The most records that one [`EventLog::read`] gives, however many are asked for.
pub const MAX_READ_RECORDS: usize = 200_000;

/// A read ends with the batch that brings its values to this many bytes.
pub const MAX_READ_BYTES: usize = 32 << 20;

/// The most partitions of a topic.
pub const MAX_PARTITIONS: Partition = 1_024;

/// The key of records whose symbol could not be read. Such a record is neither simulated nor real.
pub const UNKNOWN_KEY: &str = "UNKNOWN-UNKNOWN";

/// [`UNKNOWN_KEY`] as a symbol.
#[must_use]
pub fn unknown_key() -> Symbol {
    Symbol::parse(UNKNOWN_KEY).unwrap_or_else(|error| unreachable!("a constant of the right form: {error}"))
}

/// The partition that holds a symbol's records: `xxh3_64(symbol) % partitions`.
#[must_use]
pub fn partition_of(symbol: Symbol, partitions: Partition) -> Partition {
    #[expect(clippy::cast_possible_truncation, reason = "a remainder of an i32")]
    {
        (xxh3_64(symbol.as_bytes()) % u64::from(partitions.max(1).unsigned_abs())) as Partition
    }
}

/// What a topic is created with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// Name of the topic.
    pub name: String,
    /// Number of partitions, fixed at creation, 1 to [`MAX_PARTITIONS`].
    pub partitions: Partition,
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self { name: "crypto-market".to_owned(), partitions: 4 }
    }
}

/// A record on its way into the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// Its symbol, which decides the partition; [`unknown_key`] where it could not be read.
    pub key: Symbol,
    /// Its bytes, at most [`MAX_VALUE_BYTES`].
    pub value: Vec<u8>,
}

/// How far a source has been appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePosition {
    /// Identity of the source, such as `file:<digest>`.
    pub source_id: String,
    /// The source's own text, JSON by convention; the log only compares it.
    pub position: String,
    /// Whether the source has nothing more to give.
    pub finished: bool,
}

/// A move of a source's position that happens together with the append, or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceStep {
    /// The position that the source must have in the log; `None` = never seen.
    pub expected: Option<String>,
    /// The position after the batch.
    pub next: SourcePosition,
}

impl SourceStep {
    /// Whether the step was taken already, by where the log says that the source stands.
    ///
    /// # Errors
    /// [`Error::PositionMoved`] where it stands elsewhere.
    pub(crate) fn is_taken(&self, found: Option<SourcePosition>) -> Result<bool, Error> {
        if found.as_ref() == Some(&self.next) {
            return Ok(true);
        }
        let found = found.map(|position| position.position);
        if found == self.expected {
            return Ok(false);
        }
        Err(Error::PositionMoved { source_id: self.next.source_id.clone(), found, expected: self.expected.clone() })
    }
}

/// Records that are appended together: all of them, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendBatch {
    /// The records, in order; those of one symbol keep their order.
    pub records: Vec<NewRecord>,
    /// Whether they are simulated or real. Recorded with a symbol's first record and checked ever after.
    pub kind: Kind,
    /// Where the source stands after them.
    pub source: Option<SourceStep>,
}

impl AppendBatch {
    /// Bytes of all values.
    #[must_use]
    pub fn value_bytes(&self) -> usize {
        self.records.iter().map(|record| record.value.len()).sum()
    }
}

/// What became of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendOutcome {
    /// Appended: the offsets given, per partition touched, in the order of the partitions. Within a partition the
    /// batch's records have consecutive offsets in the batch's order.
    Appended(Vec<(Partition, Range<Offset>)>),
    /// The source already stands at the batch's position: an earlier attempt succeeded. Nothing was appended.
    AlreadyApplied,
}

/// Where a record's key and value lie in its batch's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub append_time: Timestamp,
    pub key_start: u32,
    pub key_length: u32,
    pub value_start: u32,
    pub value_length: u32,
}

/// Consecutive records of one partition, packed: iterating allocates nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogBatch {
    partition: Partition,
    base_offset: Offset,
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

impl LogBatch {
    /// An empty batch whose first record will have the offset `base_offset`.
    #[must_use]
    pub const fn new(partition: Partition, base_offset: Offset) -> Self {
        Self { partition, base_offset, bytes: Vec::new(), spans: Vec::new() }
    }

    /// A batch from bytes and the places in them, which its maker has checked.
    pub(crate) const fn from_parts(
        partition: Partition,
        base_offset: Offset,
        bytes: Vec<u8>,
        spans: Vec<Span>,
    ) -> Self {
        Self { partition, base_offset, bytes, spans }
    }

    /// Adds the next record by copying it. For engines whose own packing is another.
    ///
    /// # Errors
    /// [`Error::Limit`] where the batch would exceed 4 GiB.
    pub fn push(&mut self, append_time: Timestamp, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let at = |length: usize| {
            u32::try_from(length).map_err(|_| Error::Limit("a batch of the log must stay below 4 GiB".to_owned()))
        };
        let span = Span {
            append_time,
            key_start: at(self.bytes.len())?,
            key_length: at(key.len())?,
            value_start: at(self.bytes.len() + key.len())?,
            value_length: at(value.len())?,
        };
        at(self.bytes.len() + key.len() + value.len())?;
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.spans.push(span);
        Ok(())
    }

    /// The partition of the records.
    #[must_use]
    pub const fn partition(&self) -> Partition {
        self.partition
    }

    /// The offset of the first record.
    #[must_use]
    pub const fn base_offset(&self) -> Offset {
        self.base_offset
    }

    /// The offset after the last record.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.base_offset + offset_of(self.spans.len())
    }

    /// Number of records.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is no record.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Bytes held.
    #[must_use]
    pub const fn bytes_held(&self) -> usize {
        self.bytes.len()
    }

    /// The record at this place, counted from 0.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<RawRecord<'_>> {
        self.spans.get(place).map(|span| self.record(place, span))
    }

    /// The records in offset order.
    pub fn records(&self) -> impl ExactSizeIterator<Item = RawRecord<'_>> {
        self.spans.iter().enumerate().map(|(place, span)| self.record(place, span))
    }

    fn record(&self, place: usize, span: &Span) -> RawRecord<'_> {
        let slice = |start: u32, length: u32| &self.bytes[start as usize..start as usize + length as usize];
        RawRecord {
            offset: self.base_offset + offset_of(place),
            append_time: span.append_time,
            key: slice(span.key_start, span.key_length),
            value: slice(span.value_start, span.value_length),
        }
    }

    /// Drops the records at `end` and after it.
    pub fn truncate_at(&mut self, end: Offset) {
        let kept = usize::try_from(end.saturating_sub(self.base_offset)).unwrap_or(0);
        self.spans.truncate(kept);
    }

    /// Drops the records below `from`.
    pub(crate) fn cut_before(&mut self, from: Offset) {
        let surplus = usize::try_from(from.saturating_sub(self.base_offset)).unwrap_or(0).min(self.spans.len());
        self.spans.drain(..surplus);
        self.base_offset += offset_of(surplus);
    }
}

/// A count of records as a distance between offsets.
#[expect(clippy::cast_possible_wrap, reason = "a count in memory is far below 2^63")]
pub(crate) const fn offset_of(count: usize) -> Offset {
    count as Offset
}

/// What a read finds, in offset order without holes: each item begins where the one before it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadItem {
    /// Records; never empty.
    Batch(LogBatch),
    /// Offsets that were given but whose records cannot be had (any more).
    Gap {
        /// The partition.
        partition: Partition,
        /// The first offset lost.
        from: Offset,
        /// The offset after the last one lost.
        to: Offset,
        /// Why, as a sentence part.
        reason: String,
    },
}

impl ReadItem {
    /// The first offset that the item covers.
    #[must_use]
    pub const fn start(&self) -> Offset {
        match self {
            Self::Batch(batch) => batch.base_offset,
            Self::Gap { from, .. } => *from,
        }
    }

    /// The offset after the last one that the item covers: where the next read goes on.
    #[must_use]
    pub fn end(&self) -> Offset {
        match self {
            Self::Batch(batch) => batch.end_offset(),
            Self::Gap { to, .. } => *to,
        }
    }
}

/// Checks the number of partitions of a topic.
pub(crate) fn check_partitions(partitions: Partition) -> Result<(), Error> {
    if (1..=MAX_PARTITIONS).contains(&partitions) {
        return Ok(());
    }
    Err(Error::Limit(format!("`partitions` must be 1 to {MAX_PARTITIONS}")))
}

/// Checks that a topic of so many partitions has this one.
pub(crate) fn check_partition(partition: Partition, partitions: Partition) -> Result<(), Error> {
    if (0..partitions).contains(&partition) {
        return Ok(());
    }
    Err(Error::NoSuchPartition { partition, partitions })
}

/// Checks where a read begins.
pub(crate) fn check_offset(from: Offset) -> Result<(), Error> {
    if from >= 0 {
        return Ok(());
    }
    Err(Error::Limit(format!("the offset {from} is negative: offsets count from 0")))
}

/// Checks a batch's limits and gives the bytes of its values.
pub(crate) fn check_limits(batch: &AppendBatch) -> Result<usize, Error> {
    if batch.records.len() > MAX_APPEND_RECORDS {
        return Err(Error::Limit(format!("a batch may have at most {MAX_APPEND_RECORDS} records: split it")));
    }
    if let Some(record) = batch.records.iter().find(|record| record.value.len() > MAX_VALUE_BYTES) {
        let length = record.value.len();
        return Err(Error::Limit(format!("a record of {length} bytes is longer than {MAX_VALUE_BYTES} bytes")));
    }
    let bytes = batch.value_bytes();
    if bytes > MAX_APPEND_BYTES {
        return Err(Error::Limit(format!("a batch may have at most {MAX_APPEND_BYTES} bytes: split it")));
    }
    match &batch.source {
        Some(step) if !batch.records.is_empty() && step.expected.as_deref() == Some(&*step.next.position) => {
            Err(Error::Limit(format!("the source {} must move its position with its records", step.next.source_id)))
        }
        _ => Ok(bytes),
    }
}

/// How long and how much a log keeps. Whichever limit is passed first removes the oldest records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Age since the append in microseconds.
    pub max_age_micros: i64,
    /// Stored (compressed) bytes of one partition.
    pub max_partition_bytes: u64,
}

impl Default for RetentionPolicy {
    /// 7 days, or 10 GiB over the 4 partitions of the default topic.
    fn default() -> Self {
        Self { max_age_micros: 7 * 86_400 * MICROS, max_partition_bytes: (10 << 30) / 4 }
    }
}

/// What retention did to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retained {
    /// The first offset still there.
    pub first_offset: Offset,
    /// Records removed.
    pub removed_records: u64,
    /// Stored bytes removed.
    pub removed_bytes: u64,
}

/// A topic. Any number of tasks and processes may append and read at the same time.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Identity of the topic, the same as long as it exists (a UUID).
    fn topic_id(&self) -> &str;

    /// Number of partitions.
    fn partitions(&self) -> Partition;

    /// Appends a batch: on return it is durable. Dropping the returned future does not undo it.
    ///
    /// # Errors
    /// [`Error::OtherKind`], [`Error::PositionMoved`], [`Error::Limit`] with nothing appended; [`Error::DiskFull`],
    /// [`Error::Busy`] with nothing appended, to be tried again; [`Error::Storage`] where the outcome is unknown: a
    /// repeated append with the same [`SourceStep`] is then recognised.
    async fn append(&self, batch: AppendBatch) -> Result<AppendOutcome, Error>;

    /// Reads about `max_records` records from the offset `from` on (the last batch may exceed it; at most
    /// [`MAX_READ_RECORDS`] or [`MAX_READ_BYTES`] are begun). Empty where nothing is there yet. The first item begins
    /// exactly at `from`.
    ///
    /// # Errors
    /// [`Error::NoSuchPartition`], [`Error::Limit`] for a negative offset, or a failure of the storage.
    async fn read(&self, partition: Partition, from: Offset, max_records: usize) -> Result<Vec<ReadItem>, Error>;

    /// The first offset that retention has left; equal to the end where nothing is there.
    ///
    /// # Errors
    /// [`Error::NoSuchPartition`] or a failure of the storage.
    async fn first_offset(&self, partition: Partition) -> Result<Offset, Error>;

    /// The next offset to be given.
    ///
    /// # Errors
    /// [`Error::NoSuchPartition`] or a failure of the storage.
    async fn end_offset(&self, partition: Partition) -> Result<Offset, Error>;

    /// Returns once the record at `offset` exists (end > `offset`): at once where this log appended it, within about
    /// 100 ms where another process did.
    ///
    /// # Errors
    /// [`Error::NoSuchPartition`] or a failure of the storage.
    async fn wait_beyond(&self, partition: Partition, offset: Offset) -> Result<(), Error>;

    /// How far a source has been appended; `None` = never seen.
    ///
    /// # Errors
    /// A failure of the storage.
    async fn position(&self, source_id: &str) -> Result<Option<SourcePosition>, Error>;

    /// How far every source has been appended, in the order of their ids.
    ///
    /// # Errors
    /// A failure of the storage.
    async fn positions(&self) -> Result<Vec<SourcePosition>, Error>;

    /// Every symbol that has had a record, and whether it is simulated or real; in the order of the symbols.
    ///
    /// # Errors
    /// A failure of the storage.
    async fn kinds(&self) -> Result<Vec<(Symbol, Kind)>, Error>;

    /// Whether a symbol is simulated or real; `None` = no record yet.
    ///
    /// # Errors
    /// A failure of the storage.
    async fn kind_of(&self, symbol: Symbol) -> Result<Option<Kind>, Error>;

    /// Removes the oldest records beyond the policy, in whole stored batches, never one at or past `first_needed`.
    ///
    /// # Errors
    /// [`Error::NoSuchPartition`] or a failure of the storage.
    async fn retain(
        &self,
        partition: Partition,
        first_needed: Offset,
        policy: RetentionPolicy,
    ) -> Result<Retained, Error>;

    /// Ends what was begun and closes the log; appends that come later are refused.
    async fn close(&self);
}

/// A log that can be filled with what another log holds, offset by offset, so that it stands in for it.
#[async_trait]
pub trait CopyTarget: EventLog {
    /// The offset from which the log `source` is to be copied on; `None` where nothing of it is here.
    ///
    /// # Errors
    /// [`Error::NotACopy`] where the topic holds something else; a failure of the storage.
    async fn copied_to(&self, source: &str, partition: Partition) -> Result<Option<Offset>, Error>;

    /// Appends records of the log `source` with their offsets and append times; those that are here already are left
    /// out. What lies between them and those before is a gap here too.
    ///
    /// # Errors
    /// As [`CopyTarget::copied_to`]. After a failure that may pass, the same records can be given again.
    async fn append_copy(&self, source: &str, batch: &LogBatch) -> Result<(), Error>;

    /// Takes over how far sources are and what symbols are, and lets others append after the end of every partition.
    ///
    /// # Errors
    /// [`Error::CopyUnfinished`] where records are missing; as [`CopyTarget::copied_to`].
    async fn finish_copy(&self, source: &dyn EventLog) -> Result<(), Error>;
}
