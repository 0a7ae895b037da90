//! From what brokers send to what readers of the log get: every record once, in the order of its offsets.

use std::sync::Arc;

use domain::{Offset, Partition, Timestamp};
use fluvio::dataplane::record::Batch;

use super::copies::{Places, split_key};
use crate::{
    error::Error,
    log::{LogBatch, MAX_READ_BYTES, ReadItem},
};

/// Items on their way to a reader.
pub(super) struct Reading {
    partition: Partition,
    places: Arc<Places>,
    next: Offset,
    items: Vec<ReadItem>,
    records: usize,
    bytes: usize,
}

impl Reading {
    /// A reader that has nothing yet.
    pub fn new(partition: Partition, places: Arc<Places>, next: Offset) -> Self {
        Self { partition, places, next, items: Vec::new(), records: 0, bytes: 0 }
    }

    /// The offset on the brokers to go on from.
    pub fn from(&self) -> Offset {
        self.places.on_brokers(self.next)
    }

    /// Whether there are as many records as are wanted, or as much as a read may hold.
    pub const fn is_full(&self, records: usize) -> bool {
        self.records >= records || self.bytes >= MAX_READ_BYTES
    }

    /// Everything that was taken.
    pub fn into_items(self) -> Vec<ReadItem> {
        self.items
    }

    /// Notes that the brokers have nothing before an offset of theirs any more; whether that is news.
    pub fn evicted(&mut self, next_available: Offset) -> bool {
        self.gap(self.places.in_log(next_available), "removed by retention")
    }

    /// Takes the records of a batch that were not read yet: a first batch may begin before what was asked for, and of
    /// copied records some may be there twice.
    pub fn take(&mut self, batch: Batch) -> Result<(), Error> {
        let mut taken = LogBatch::new(self.partition, self.next);
        for record in batch.into_consumer_records_iter(self.partition.unsigned_abs()) {
            let (mut key, mut offset) = (record.key().unwrap_or_default(), record.offset());
            let mut append_time = Timestamp::from_millis(record.timestamp());
            if !self.places.is_plain() {
                let (symbol, origin) = split_key(key);
                offset = origin.map_or_else(|| self.places.in_log(offset), |origin| origin.offset);
                append_time = origin.map_or(append_time, |origin| origin.append_time);
                key = symbol;
            }
            if offset < self.next {
                continue;
            }
            if offset > self.next {
                self.give(std::mem::replace(&mut taken, LogBatch::new(self.partition, offset)));
                self.gap(offset, "the brokers have no records there");
            }
            taken.push(append_time, key, record.value())?;
            self.next = offset + 1;
        }
        self.give(taken);
        Ok(())
    }

    fn give(&mut self, taken: LogBatch) {
        self.records += taken.len();
        self.bytes += taken.bytes_held();
        if !taken.is_empty() {
            self.items.push(ReadItem::Batch(taken));
        }
    }

    /// Notes that offsets below `to` cannot be had; whether there are any.
    fn gap(&mut self, to: Offset, reason: &str) -> bool {
        let is_gap = to > self.next;
        if is_gap {
            let (partition, from) = (self.partition, self.next);
            self.items.push(ReadItem::Gap { partition, from, to, reason: reason.to_owned() });
            self.next = to;
        }
        is_gap
    }
}
