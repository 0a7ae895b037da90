//! Stored events and archived ones as one: by trade id, ordered by event time and trade id.
//!
//! What is stored stays as it is, only its place in the order of folding becomes that of its time. Of archived rows with
//! one id the earliest counts, then the first by file and place. Rows without an id are told apart by what they say, and
//! by how often it is said. Pure: the same rows give the same events, in whatever order they come.

use std::collections::{HashMap, HashSet};

use domain::{BACKFILLED, Cause, Event, EventRow, Side, Timestamp};

use super::sweep::Found;

/// The bits of a position that are a row's place in its file; those above are the file's.
const PLACE_BITS: u32 = 40;

/// One part of a slice.
#[derive(Debug, Default)]
pub struct Merged {
    /// All events of the part in their order.
    pub rows: Vec<EventRow>,
    /// Those that were not stored.
    pub added: u64,
    /// Those that were stored and have another place in the order now.
    pub moved: u64,
    /// Archived rows that were stored already, or came twice.
    pub known: u64,
}

/// What an event without an id says.
type Said = (Timestamp, u64, u64, Option<Side>);

/// Merges the stored events of a part with what archives hold of it.
#[must_use]
pub fn merge(stored: Vec<EventRow>, found: Vec<Found>, now: Timestamp) -> Merged {
    let mut merged = Merged::default();
    let mut ids: HashSet<i64> = HashSet::with_capacity(stored.len() + found.len());
    ids.extend(stored.iter().filter_map(|row| row.event.trade_id));
    let mut said = times_said(stored.iter().map(|row| &row.event));
    let mut said_by: HashMap<(usize, Said), usize> = HashMap::new();
    merged.rows.reserve(stored.len() + found.len());
    for mut row in stored {
        merged.moved += u64::from(row.fold_time != row.event.timestamp);
        row.fold_time = row.event.timestamp;
        merged.rows.push(row);
    }
    for Found { file, row } in found {
        let position = if let Some(id) = row.event.trade_id {
            ids.insert(id).then_some(id)
        } else {
            // The n-th of equal rows of one file is the n-th of them anywhere.
            let times = said_by.entry((file, what_is_said(&row.event))).or_default();
            *times += 1;
            let known = said.entry(what_is_said(&row.event)).or_default();
            let is_new = *times > *known;
            *known = (*known).max(*times);
            is_new.then(|| (i64::try_from(file).unwrap_or(0) << PLACE_BITS) | row.place.cast_signed())
        };
        let Some(offset) = position else {
            merged.known += 1;
            continue;
        };
        let cause = Cause { partition: BACKFILLED, offset, append_time: now };
        merged.added += 1;
        merged.rows.push(EventRow { cause, fold_time: row.event.timestamp, event: row.event });
    }
    merged.rows.sort_by_key(lake::truth::place_in_instant);
    merged
}

fn times_said<'a>(events: impl Iterator<Item = &'a Event>) -> HashMap<Said, usize> {
    let mut times = HashMap::new();
    for event in events {
        *times.entry(what_is_said(event)).or_default() += 1;
    }
    times
}

const fn what_is_said(event: &Event) -> Said {
    (event.timestamp, event.price.to_bits(), event.volume.to_bits(), event.side)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{Source, Symbol};
    use lake::archive::Archived;

    fn event(second: i64, id: Option<i64>, price: f64) -> Event {
        Event {
            timestamp: Timestamp::from_seconds(1_710_000_000 + second),
            symbol: Symbol::parse("BTC-USDT").unwrap(),
            price,
            volume: 1.0,
            log_return: None,
            is_anomaly: None,
            anomaly_type: None,
            trade_id: id,
            side: None,
            ingest_id: None,
            source: Source::Archive,
            extra: None,
        }
    }

    fn found(file: usize, place: u64, event: Event) -> Found {
        Found { file, row: Archived { event, place } }
    }

    /// An event of the log, folded after one that was five seconds later.
    fn stored(offset: i64, event: Event) -> EventRow {
        let cause = Cause { partition: 2, offset, append_time: Timestamp::from_seconds(1_710_000_100) };
        EventRow { cause, fold_time: event.timestamp.plus_micros(5_000_000), event }
    }

    const NOW: Timestamp = Timestamp::from_seconds(1_720_000_000);

    #[test]
    fn a_stored_event_stays_and_takes_the_place_of_its_time() {
        let known = stored(70, event(2, Some(12), 1.0));
        let rows = vec![found(0, 0, event(1, Some(11), 1.0)), found(0, 1, event(2, Some(12), 9.0))];
        let merged = merge(vec![known.clone()], rows, NOW);
        assert_eq!((merged.added, merged.moved, merged.known), (1, 1, 1));
        let cause = Cause { partition: BACKFILLED, offset: 11, append_time: NOW };
        let new = EventRow { cause, fold_time: event(1, None, 1.0).timestamp, event: event(1, Some(11), 1.0) };
        let moved = EventRow { fold_time: known.event.timestamp, ..known };
        assert_eq!(merged.rows, [new, moved]);
    }

    #[test]
    fn events_of_one_instant_are_in_the_order_of_their_ids() {
        let rows = [5, 3, 4].map(|id| found(0, 0, event(1, Some(id), 1.0)));
        let merged = merge(vec![stored(90, event(1, Some(2), 1.0))], rows.to_vec(), NOW);
        assert_eq!(merged.rows.iter().map(|row| row.event.trade_id.unwrap()).collect::<Vec<_>>(), [2, 3, 4, 5]);
    }

    #[test]
    fn what_overlaps_is_taken_once_whether_it_has_an_id_or_not() {
        let twice = |file| [found(file, 3, event(1, None, 2.0)), found(file, 4, event(1, None, 2.0))];
        let rows: Vec<_> = twice(0).into_iter().chain(twice(1)).chain([found(1, 9, event(1, Some(1), 2.0))]).collect();
        let merged = merge(Vec::new(), rows.clone(), NOW);
        assert_eq!((merged.added, merged.known), (3, 2));
        let again = merge(merged.rows.clone(), rows, NOW);
        assert_eq!((again.added, again.moved, again.rows), (0, 0, merged.rows));
    }
}
