//! Records that were copied from another log and keep what they were there: offset, append time, key and bytes.
//!
//! A copied record's key names its symbol, its offset and its append time in microseconds: `BTC-USDT@1234:1710000000123456`.
//! Brokers count offsets from 0 and give them to every attempt, so [`Places`] says which offsets of the log stand where.

use std::fmt;

use domain::{Offset, Partition, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{error::Error, log::SourcePosition};

/// What separates a symbol from the rest of a copied record's key; no symbol has one.
const SEPARATOR: u8 = b'@';

/// What a copied record was in the log that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub offset: Offset,
    pub append_time: Timestamp,
}

/// The key of a copied record.
pub(super) fn copied_key(symbol: &[u8], origin: Origin) -> Vec<u8> {
    let mut key = symbol.to_vec();
    key.push(SEPARATOR);
    key.extend_from_slice(format!("{}:{}", origin.offset, origin.append_time.micros()).as_bytes());
    key
}

/// A key as the log's readers know it, and where the record was copied from.
pub(super) fn split_key(key: &[u8]) -> (&[u8], Option<Origin>) {
    let Some(at) = key.iter().position(|byte| *byte == SEPARATOR) else { return (key, None) };
    let parse = |text: &str| {
        let (offset, micros) = text.split_once(':')?;
        Some(Origin { offset: offset.parse().ok()?, append_time: Timestamp::from_micros(micros.parse().ok()?) })
    };
    let origin = std::str::from_utf8(&key[at + 1..]).ok().and_then(parse);
    (if origin.is_some() { &key[..at] } else { key }, origin)
}

/// Where the offsets of a partition stand on its brokers. Of a topic that nothing was copied to, every offset stands at
/// itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Places {
    /// The id of the topic that is copied.
    pub from: String,
    /// Whether everything was copied; only then others may append.
    pub complete: bool,
    /// (offset on the brokers, offset of the log) from which both count on together, ascending.
    stretches: Vec<(Offset, Offset)>,
}

impl Places {
    /// The places of a partition that nothing of a topic was copied to yet.
    pub fn of(from: &str) -> Self {
        Self { from: from.to_owned(), ..Self::default() }
    }

    /// Where a ledger keeps a partition's places.
    pub fn source_id(partition: Partition) -> String {
        format!("copy/{partition}")
    }

    pub fn parse(stored: &SourcePosition) -> Result<Self, Error> {
        let SourcePosition { position, .. } = stored;
        serde_json::from_str(position)
            .map_err(|error| Error::Position { position: position.clone(), reason: error.to_string() })
    }

    /// Whether the topic is being filled by copying.
    pub const fn is_filling(&self) -> bool {
        !self.from.is_empty() && !self.complete
    }

    /// Whether no offset stands elsewhere.
    pub const fn is_plain(&self) -> bool {
        self.stretches.is_empty()
    }

    /// Where the offset of a record of the brokers stands in the log.
    pub fn in_log(&self, broker: Offset) -> Offset {
        let known = self.stretches.partition_point(|(start, _)| *start <= broker);
        known.checked_sub(1).map_or(broker, |last| self.stretches[last].1 + broker - self.stretches[last].0)
    }

    /// From where to read, so that no record of the log at `offset` or after it is missed.
    pub fn on_brokers(&self, offset: Offset) -> Offset {
        let Some((first, _)) = self.stretches.first() else { return offset };
        let known = self.stretches.partition_point(|(_, start)| *start <= offset);
        let Some(last) = known.checked_sub(1) else { return *first };
        let broker = self.stretches[last].0 + offset - self.stretches[last].1;
        self.stretches.get(known).map_or(broker, |(next, _)| broker.min(*next))
    }

    /// Lets `broker` stand for `offset`, and what follows for what follows; whether that is new.
    pub fn go_on(&mut self, broker: Offset, offset: Offset) -> bool {
        if !self.stretches.is_empty() && self.in_log(broker) == offset {
            return false;
        }
        // Nothing was sent since the last one was noted.
        if self.stretches.last().is_some_and(|(last, _)| *last == broker) {
            self.stretches.pop();
        }
        self.stretches.push((broker, offset));
        true
    }
}

/// The JSON that a ledger keeps.
impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_key_says_what_the_record_was() {
        let origin = Origin { offset: 1_234, append_time: Timestamp::from_micros(1_710_000_000_123_456) };
        let key = copied_key(b"BTC-USDT", origin);
        assert_eq!(key, b"BTC-USDT@1234:1710000000123456");
        assert_eq!(split_key(&key), (&b"BTC-USDT"[..], Some(origin)));
        for other in [&b"BTC-USDT"[..], b"", b"A@B", b"A@1:x", b"\xff@\xff"] {
            assert_eq!(split_key(other), (other, None));
        }
    }

    #[test]
    fn offsets_stand_where_they_were_copied_to() {
        let mut places = Places::of("log");
        assert!(places.is_plain() && places.is_filling());
        assert_eq!((places.in_log(7), places.on_brokers(7)), (7, 7));
        // The log begins at 100, has lost 150 to 199, and the record at 219 was sent twice.
        assert!(places.go_on(0, 100));
        assert!(!places.go_on(50, 150), "nothing is noted twice");
        assert!(places.go_on(50, 200));
        assert!(places.go_on(71, 220));
        let in_log: Vec<_> = [0, 49, 50, 69, 71, 80].map(|broker| places.in_log(broker)).into();
        assert_eq!(in_log, [100, 149, 200, 219, 220, 229]);
        let on_brokers: Vec<_> = [0, 100, 149, 150, 199, 200, 219, 220, 229].map(|log| places.on_brokers(log)).into();
        assert_eq!(on_brokers, [0, 0, 49, 50, 50, 50, 69, 71, 80]);
        let stored = SourcePosition { source_id: Places::source_id(3), position: places.to_string(), finished: false };
        assert_eq!(Places::parse(&stored).unwrap(), places);
    }

    #[test]
    fn a_stretch_that_was_noted_and_not_used_is_replaced() {
        let mut places = Places::of("log");
        assert!(places.go_on(0, 100) && places.go_on(0, 120));
        assert_eq!(places.in_log(0), 120);
    }
}
