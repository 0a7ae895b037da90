//! The newest events, numbered from 1 without a gap.
//!
//! What is pushed over the limit pushes the oldest out, whoever has not read it. An event never changes.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use domain::AlertRow;
use jobs::feed::FeedItem;

use super::Kind;

/// What happened.
pub enum What {
    /// A live prediction, as the feed keeps it.
    Prediction(Arc<FeedItem>),
    /// An event of an alert, as the feed tells it.
    Alert(Arc<AlertRow>),
    /// How the parts are, as JSON.
    Status(Bytes),
    /// A run, as JSON.
    Run(Bytes),
}

impl What {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Prediction(_) => Kind::Prediction,
            Self::Alert(_) => Kind::Alert,
            Self::Status(_) => Kind::Status,
            Self::Run(_) => Kind::Run,
        }
    }
}

/// What happened, and when in the order of events.
pub struct Event {
    /// Its number, from 1.
    pub number: u64,
    /// What happened.
    pub what: What,
    text: OnceLock<Bytes>,
}

impl Event {
    /// Its text, which the first who asks writes.
    pub fn text(&self, write: impl FnOnce() -> Bytes) -> Bytes {
        self.text.get_or_init(write).clone()
    }
}

/// The ring.
pub struct Ring {
    kept: VecDeque<Arc<Event>>,
    limit: usize,
    newest: u64,
    status: Option<Bytes>,
}

impl Ring {
    /// A ring that keeps so many events, at least one.
    pub fn new(limit: usize) -> Self {
        Self { kept: VecDeque::new(), limit: limit.max(1), newest: 0, status: None }
    }

    /// The number of the newest event; 0 before the first.
    pub const fn newest(&self) -> u64 {
        self.newest
    }

    /// How the parts were last said to be, however long ago that was.
    pub fn status(&self) -> Option<Bytes> {
        self.status.clone()
    }

    /// Numbers what happened and keeps it.
    pub fn push(&mut self, what: What) {
        if let What::Status(status) = &what {
            self.status = Some(status.clone());
        }
        if self.kept.len() == self.limit {
            self.kept.pop_front();
        }
        self.newest += 1;
        self.kept.push_back(Arc::new(Event { number: self.newest, what, text: OnceLock::new() }));
    }

    /// Numbers so many events that nobody has kept.
    pub fn lose(&mut self, count: u64) {
        if count > 0 {
            // They lie between what is kept and what comes.
            self.kept.clear();
            self.newest += count;
        }
    }

    /// How many of the events after the one with this number are gone.
    pub fn lost_after(&self, number: u64) -> u64 {
        (self.newest - self.kept.len() as u64).saturating_sub(number)
    }

    /// The events after the one with this number, oldest first, at most `limit`. Those that are gone are left out.
    pub fn after(&self, number: u64, limit: usize) -> Vec<Arc<Event>> {
        let gone = self.newest - self.kept.len() as u64;
        let seen = usize::try_from(number.saturating_sub(gone)).unwrap_or(usize::MAX);
        self.kept.iter().skip(seen).take(limit).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(ring: &mut Ring, count: usize) {
        for _ in 0..count {
            ring.push(What::Run(Bytes::new()));
        }
    }

    fn numbers(ring: &Ring, after: u64, limit: usize) -> Vec<u64> {
        ring.after(after, limit).iter().map(|event| event.number).collect()
    }

    #[test]
    fn the_oldest_events_go_and_are_counted() {
        let mut ring = Ring::new(3);
        assert_eq!((ring.newest(), ring.lost_after(0), numbers(&ring, 0, 9)), (0, 0, vec![]));
        pushed(&mut ring, 5);
        assert_eq!((ring.newest(), ring.lost_after(0), ring.lost_after(1), ring.lost_after(2)), (5, 2, 1, 0));
        assert_eq!(numbers(&ring, 0, 9), [3, 4, 5]);
        assert_eq!(numbers(&ring, 3, 1), [4]);
        assert_eq!(numbers(&ring, 5, 9), [0; 0]);
    }

    #[test]
    fn events_that_were_never_kept_have_numbers_too() {
        let mut ring = Ring::new(3);
        pushed(&mut ring, 2);
        ring.lose(0);
        assert_eq!(numbers(&ring, 0, 9), [1, 2]);
        ring.lose(7);
        pushed(&mut ring, 1);
        assert_eq!((ring.lost_after(1), numbers(&ring, 1, 9)), (8, vec![10]));
    }

    #[test]
    fn the_status_outlives_its_event() {
        let mut ring = Ring::new(1);
        ring.push(What::Status(Bytes::from_static(b"fine")));
        pushed(&mut ring, 5);
        assert_eq!(ring.status().unwrap(), "fine");
    }
}
