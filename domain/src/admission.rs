//! The fate of a record: control, dead, late, duplicate or admitted. Every offset has exactly one.
//!
//! Whether a record is late or a duplicate depends only on the valid records before it in the log and never on
//! their fates. That is what makes the state rebuildable from a later offset: see [`Admission::replay`].

use std::collections::VecDeque;

use crate::{
    event::{Event, IngestId, Offset},
    panes::{WINDOW_PANES, pane_of},
    time::{MICROS, Timestamp},
};

/// How far an event may lie behind its symbol's greatest event time.
pub const ALLOWED_LATENESS_MICROS: i64 = 60 * MICROS;

/// How far an event time may lie ahead of the record's append time.
pub const MAX_AHEAD_MICROS: i64 = 5 * 60 * MICROS;

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A heartbeat or a floor: it moves its symbol's time and nothing else.
    Control,
    /// It cannot be an event; kept in `dead_letters`.
    Dead,
    /// A valid event that comes too late or twice; kept in `late_events`.
    Late(LateReason),
    /// Part of the truth; kept in `events`.
    Admitted,
}

/// Why a valid event was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateReason {
    /// Older than the symbol's watermark.
    Late,
    /// Its trade or ingest id was seen at or after the watermark.
    Duplicate,
}

impl Fate {
    /// Every fate, in the order in which they are tested.
    pub const ALL: [Self; 5] =
        [Self::Control, Self::Dead, Self::Late(LateReason::Late), Self::Late(LateReason::Duplicate), Self::Admitted];

    /// `control`, `dead`, `late`, `duplicate` or `admitted`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Dead => "dead",
            Self::Late(reason) => reason.as_str(),
            Self::Admitted => "admitted",
        }
    }
}

/// Records counted by their fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FateCounts([u64; Fate::ALL.len()]);

impl FateCounts {
    /// Counts one record.
    pub const fn count(&mut self, fate: Fate) {
        self.0[Self::place(fate)] += 1;
    }

    /// Records that met `fate`.
    #[must_use]
    pub const fn of(&self, fate: Fate) -> u64 {
        self.0[Self::place(fate)]
    }

    /// Records in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds what others counted.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }

    /// The place of a fate in [`Fate::ALL`].
    const fn place(fate: Fate) -> usize {
        match fate {
            Fate::Control => 0,
            Fate::Dead => 1,
            Fate::Late(LateReason::Late) => 2,
            Fate::Late(LateReason::Duplicate) => 3,
            Fate::Admitted => 4,
        }
    }
}

impl LateReason {
    /// `late` or `duplicate`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Duplicate => "duplicate",
        }
    }
}

/// Why an event time cannot be, `None` where it can.
#[must_use]
pub fn impossible_time(timestamp: Timestamp, append_time: Timestamp) -> Option<String> {
    if timestamp < Timestamp::EARLIEST {
        return Some(format!("timestamp {timestamp} is before {}", Timestamp::EARLIEST));
    }
    (timestamp > append_time.plus_micros(MAX_AHEAD_MICROS))
        .then(|| format!("timestamp {timestamp} is more than 5 min after its append time {append_time}"))
}

/// What admission remembers of one symbol.
#[derive(Clone, Debug)]
pub struct Admission {
    greatest: Timestamp,
    floor: Timestamp,
    seen: Vec<SeenIds>,
    anchors: VecDeque<Anchor>,
}

/// An offset from which the symbol's state can be rebuilt once its pane has left the window.
///
/// It is an admitted event that was later than every record before it. A fold that starts there has the same
/// greatest event time from then on, and so the same fates; the price that the next log-return needs is its own.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    pane: i64,
    offset: Offset,
}

/// The ids of one id space (trade ids, or one ingest run), ascending.
#[derive(Clone, Debug)]
struct SeenIds {
    run: Option<Box<str>>,
    ids: VecDeque<SeenId>,
}

/// An id with its greatest event time and the offset that had it.
#[derive(Clone, Copy, Debug)]
struct SeenId {
    id: i64,
    timestamp: Timestamp,
    offset: Offset,
}

impl Admission {
    /// The memory of a symbol whose first record stands at `offset`, and of which nothing below `floor` is admitted.
    #[must_use]
    pub fn new(offset: Offset, floor: Timestamp) -> Self {
        Self {
            greatest: Timestamp::from_micros(i64::MIN),
            floor,
            seen: Vec::new(),
            anchors: VecDeque::from([Anchor { pane: i64::MIN, offset }]),
        }
    }

    /// The greatest event time so far, heartbeats included.
    #[must_use]
    pub const fn greatest(&self) -> Timestamp {
        self.greatest
    }

    /// The greatest event time minus the allowed lateness, or the floor: nothing older is admitted.
    #[must_use]
    pub fn watermark(&self) -> Timestamp {
        self.greatest.plus_micros(-ALLOWED_LATENESS_MICROS).max(self.floor)
    }

    /// Takes note of a heartbeat.
    pub fn heartbeat(&mut self, timestamp: Timestamp) {
        self.greatest = self.greatest.max(timestamp);
        self.forget_old();
    }

    /// Takes note of a floor; one below another changes nothing.
    pub fn raise_floor(&mut self, floor: Timestamp) {
        self.floor = self.floor.max(floor);
        self.forget_old();
    }

    /// Decides about a valid event and takes note of it.
    pub fn judge(&mut self, event: &Event, offset: Offset) -> Fate {
        if event.timestamp < self.watermark() {
            return Fate::Late(LateReason::Late);
        }
        let is_high = event.timestamp > self.greatest;
        self.greatest = self.greatest.max(event.timestamp);
        if let Some(witness) = self.see_id(event, offset) {
            // A fold that starts after the witness would admit this event.
            while self.anchors.len() > 1 && self.anchors.back().is_some_and(|anchor| anchor.offset > witness) {
                self.anchors.pop_back();
            }
            self.forget_old();
            return Fate::Late(LateReason::Duplicate);
        }
        if is_high {
            self.anchor(pane_of(event.timestamp), offset);
        }
        self.forget_old();
        Fate::Admitted
    }

    /// The latest known offset from which a fold over the log reproduces this symbol's state.
    #[must_use]
    pub fn replay(&self) -> Offset {
        self.anchors[0].offset
    }

    fn anchor(&mut self, pane: i64, offset: Offset) {
        match self.anchors.back_mut() {
            Some(last) if last.pane == pane => last.offset = offset,
            _ => self.anchors.push_back(Anchor { pane, offset }),
        }
    }

    /// Notes the event's id; the offset that had it before, where that was at or after the watermark.
    fn see_id(&mut self, event: &Event, offset: Offset) -> Option<Offset> {
        let watermark = self.watermark();
        let (run, id) = match (event.trade_id, &event.ingest_id) {
            (Some(id), _) => (None, id),
            (None, Some(IngestId { run, sequence })) => (Some(run), *sequence),
            (None, None) => return None,
        };
        let space = self.seen.iter().position(|space| space.run.as_ref() == run).unwrap_or_else(|| {
            self.seen.push(SeenIds { run: run.cloned(), ids: VecDeque::new() });
            self.seen.len() - 1
        });
        self.seen[space].see(SeenId { id, timestamp: event.timestamp, offset }, watermark)
    }

    fn forget_old(&mut self) {
        let watermark = self.watermark();
        let floor = pane_of(watermark) - (WINDOW_PANES - 1);
        while self.anchors.get(1).is_some_and(|anchor| anchor.pane < floor) {
            self.anchors.pop_front();
        }
        self.seen.retain_mut(|space| {
            while space.ids.front().is_some_and(|seen| seen.timestamp < watermark) {
                space.ids.pop_front();
            }
            !space.ids.is_empty()
        });
    }
}

impl SeenIds {
    fn see(&mut self, new: SeenId, watermark: Timestamp) -> Option<Offset> {
        if self.ids.back().is_none_or(|last| last.id < new.id) {
            self.ids.push_back(new);
            return None;
        }
        match self.ids.binary_search_by_key(&new.id, |seen| seen.id) {
            Err(index) => {
                self.ids.insert(index, new);
                None
            }
            Ok(index) => {
                let seen = &mut self.ids[index];
                let witness = (seen.timestamp >= watermark).then_some(seen.offset);
                if new.timestamp > seen.timestamp || witness.is_none() {
                    *seen = new;
                }
                witness
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fate_is_counted_for_itself() {
        let mut counts = FateCounts::default();
        for (more, fate) in Fate::ALL.into_iter().enumerate() {
            for _ in 0..=more {
                counts.count(fate);
            }
        }
        counts.add(&counts.clone());
        assert_eq!(Fate::ALL.map(|fate| counts.of(fate)), [2, 4, 6, 8, 10]);
        assert_eq!(counts.total(), 30);
    }
}
