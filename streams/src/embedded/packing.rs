//! The bytes of a stored batch: records of one partition, packed, compressed with LZ4, under an xxh3 checksum.
//!
//! Raw form, little endian: record count (u32), key count (u32), the distinct keys (u8 length, bytes), one key number
//! per record (u16), one value length per record (u32), the values end to end. The checksum covers the compressed
//! bytes and the row's other columns, so that damage to either is seen. Never trusts a length that it has read.

use std::collections::HashMap;

use domain::{Offset, Partition, Symbol, Timestamp};
use xxhash_rust::xxh3::Xxh3;

use crate::log::{LogBatch, NewRecord, Span, offset_of};

/// The most records of one stored batch.
pub const MAX_BATCH_RECORDS: usize = 8_192;

/// A stored batch is closed with the record that brings its values to this many bytes.
pub const BATCH_TARGET_BYTES: usize = 1 << 20;

/// The largest raw form: the target, one value of the largest size, keys and lengths.
const MAX_RAW_BYTES: usize = 8 << 20;

/// One row of the `batches` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBatch {
    pub partition: Partition,
    pub base_offset: Offset,
    pub records: u32,
    pub append_time: Timestamp,
    pub raw_bytes: u32,
    pub checksum: u64,
    pub payload: Vec<u8>,
}

impl StoredBatch {
    /// The offset after the last record.
    pub fn end_offset(&self) -> Offset {
        self.base_offset.saturating_add(i64::from(self.records))
    }

    fn expected_checksum(&self) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(&self.partition.to_le_bytes());
        hash.update(&self.base_offset.to_le_bytes());
        hash.update(&self.records.to_le_bytes());
        hash.update(&self.append_time.micros().to_le_bytes());
        hash.update(&self.raw_bytes.to_le_bytes());
        hash.update(&self.payload);
        hash.digest()
    }
}

/// Packs records, in order, into as many stored batches as the limits ask for.
pub fn pack(
    partition: Partition,
    base_offset: Offset,
    append_time: Timestamp,
    records: &[NewRecord],
) -> Vec<StoredBatch> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (place, record) in records.iter().enumerate() {
        bytes += record.value.len();
        let end = place + 1;
        if bytes >= BATCH_TARGET_BYTES || end - start == MAX_BATCH_RECORDS || end == records.len() {
            let base = base_offset + offset_of(start);
            batches.push(pack_one(partition, base, append_time, &records[start..end]));
            (start, bytes) = (end, 0);
        }
    }
    batches
}

fn pack_one(partition: Partition, base_offset: Offset, append_time: Timestamp, records: &[NewRecord]) -> StoredBatch {
    let raw = raw_form(records);
    assert!(raw.len() <= MAX_RAW_BYTES, "values are limited when they are appended");
    let mut batch = StoredBatch {
        partition,
        base_offset,
        records: narrow(records.len()),
        append_time,
        raw_bytes: narrow(raw.len()),
        checksum: 0,
        payload: lz4_flex::block::compress(&raw),
    };
    batch.checksum = batch.expected_checksum();
    batch
}

fn raw_form(records: &[NewRecord]) -> Vec<u8> {
    let mut numbers: HashMap<Symbol, u16> = HashMap::new();
    let (mut keys, mut key_of_record) = (Vec::new(), Vec::with_capacity(records.len() * 2));
    let mut last: Option<(Symbol, u16)> = None;
    for record in records {
        let number = match last {
            Some((key, number)) if key == record.key => number,
            _ => {
                let next = u16::try_from(numbers.len()).unwrap_or(u16::MAX);
                *numbers.entry(record.key).or_insert_with(|| {
                    keys.push(u8::try_from(record.key.as_bytes().len()).unwrap_or(u8::MAX));
                    keys.extend_from_slice(record.key.as_bytes());
                    next
                })
            }
        };
        last = Some((record.key, number));
        key_of_record.extend_from_slice(&number.to_le_bytes());
    }
    let values: usize = records.iter().map(|record| record.value.len()).sum();
    let mut raw = Vec::with_capacity(8 + keys.len() + key_of_record.len() + 4 * records.len() + values);
    raw.extend_from_slice(&narrow(records.len()).to_le_bytes());
    raw.extend_from_slice(&narrow(numbers.len()).to_le_bytes());
    raw.extend_from_slice(&keys);
    raw.extend_from_slice(&key_of_record);
    for record in records {
        raw.extend_from_slice(&narrow(record.value.len()).to_le_bytes());
    }
    for record in records {
        raw.extend_from_slice(&record.value);
    }
    raw
}

/// A length that [`MAX_RAW_BYTES`] and [`MAX_BATCH_RECORDS`] keep far below 2^32.
fn narrow(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Unpacks a stored batch.
///
/// # Errors
/// A sentence part that says what is wrong with it.
pub fn unpack(batch: &StoredBatch) -> Result<LogBatch, String> {
    if batch.checksum != batch.expected_checksum() {
        return Err("the checksum of the stored batch does not match its bytes".to_owned());
    }
    let length = batch.raw_bytes as usize;
    if length > MAX_RAW_BYTES {
        return Err("the stored batch claims to be larger than any batch may be".to_owned());
    }
    let mut raw = vec![0; length];
    match lz4_flex::block::decompress_into(&batch.payload, &mut raw) {
        Ok(written) if written == length => {}
        Ok(_) => return Err("the stored batch unpacks to another length than it claims".to_owned()),
        Err(error) => return Err(format!("the stored batch does not unpack: {error}")),
    }
    let spans = spans(&raw, batch).ok_or("the unpacked batch is not of the known form")?;
    Ok(LogBatch::from_parts(batch.partition, batch.base_offset, raw, spans))
}

/// Where keys and values lie in the raw form; `None` where its lengths contradict each other.
fn spans(raw: &[u8], batch: &StoredBatch) -> Option<Vec<Span>> {
    let count = u32::from_le_bytes(*raw.first_chunk()?) as usize;
    let key_count = u32::from_le_bytes(*raw.get(4..)?.first_chunk()?) as usize;
    if count != batch.records as usize || key_count > count {
        return None;
    }
    let mut at = 8;
    let mut keys = Vec::with_capacity(key_count);
    for _ in 0..key_count {
        let length = usize::from(*raw.get(at)?);
        raw.get(at + 1..at + 1 + length)?;
        keys.push((narrow(at + 1), narrow(length)));
        at += 1 + length;
    }
    let numbers = raw.get(at..at + 2 * count)?;
    at += 2 * count;
    let lengths = raw.get(at..at + 4 * count)?;
    at += 4 * count;
    let mut spans = Vec::with_capacity(count);
    for (number, length) in numbers.as_chunks::<2>().0.iter().zip(lengths.as_chunks::<4>().0) {
        let &(key_start, key_length) = keys.get(usize::from(u16::from_le_bytes(*number)))?;
        let value_length = u32::from_le_bytes(*length);
        let span =
            Span { append_time: batch.append_time, key_start, key_length, value_start: narrow(at), value_length };
        at = at.checked_add(value_length as usize).filter(|end| *end <= raw.len())?;
        spans.push(span);
    }
    (at == raw.len()).then_some(spans)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AT: Timestamp = Timestamp::from_seconds(1_710_000_000);

    fn records() -> impl Strategy<Value = Vec<NewRecord>> {
        let record = ("[A-D]{1,3}-USDT", proptest::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(key, value)| NewRecord { key: Symbol::parse(&key).unwrap(), value });
        proptest::collection::vec(record, 1..200)
    }

    proptest! {
        #[test]
        fn packed_records_unpack_to_themselves(records in records()) {
            let batches = pack(3, 70, AT, &records);
            prop_assert_eq!(batches.len(), 1);
            let batch = unpack(&batches[0]).unwrap();
            prop_assert_eq!((batch.partition(), batch.base_offset(), batch.len()), (3, 70, records.len()));
            for (stored, (place, record)) in batch.records().zip(records.iter().enumerate()) {
                prop_assert_eq!(stored.offset, 70 + offset_of(place));
                prop_assert_eq!(stored.append_time, AT);
                prop_assert_eq!(stored.key, record.key.as_bytes());
                prop_assert_eq!(stored.value, &record.value[..]);
            }
        }

        #[test]
        fn any_flipped_bit_is_seen(records in records(), place in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let mut batch = pack(0, 0, AT, &records).remove(0);
            let place = place.index(batch.payload.len());
            batch.payload[place] ^= 1 << bit;
            prop_assert!(unpack(&batch).is_err());
        }

        #[test]
        fn bytes_under_a_right_checksum_that_are_no_batch_are_refused(
            payload in proptest::collection::vec(any::<u8>(), 0..300), raw_bytes in 0..2_000_u32, records in 1..50_u32,
        ) {
            let mut batch =
                StoredBatch { partition: 0, base_offset: 0, records, append_time: AT, raw_bytes, checksum: 0, payload };
            batch.checksum = batch.expected_checksum();
            // Random bytes are a well-formed batch with negligible probability; the point is that nothing panics.
            prop_assert!(unpack(&batch).is_err());
        }
    }

    #[test]
    fn many_records_are_split_at_the_limits() {
        let key = Symbol::parse("A-B").unwrap();
        let many = vec![NewRecord { key, value: vec![1] }; MAX_BATCH_RECORDS + 1];
        let bases: Vec<_> = pack(0, 5, AT, &many).iter().map(|b| (b.base_offset, b.records)).collect();
        assert_eq!(bases, [(5, 8_192), (8_197, 1)]);
        let large = vec![NewRecord { key, value: vec![1; BATCH_TARGET_BYTES] }; 3];
        assert_eq!(pack(0, 0, AT, &large).len(), 3);
    }
}
