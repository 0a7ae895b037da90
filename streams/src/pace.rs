//! When to emit recorded events: pure arithmetic on event times.
//!
//! Invariant: due times never fall, whatever the event times do. Never reads a clock and never waits: the caller does.

use std::time::Duration;

use domain::Timestamp;

use crate::error::Error;

/// Turns event times into the time after the start at which they are due.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    speed: f64,
    first: Option<Timestamp>,
    latest: Duration,
}

impl Pace {
    /// A pace of `speed` times the recorded one: 1 = as recorded, 10 = ten times faster, 0 = as fast as possible.
    ///
    /// # Errors
    /// [`Error::Settings`] where the speed is negative or not finite.
    pub fn new(speed: f64) -> Result<Self, Error> {
        if !speed.is_finite() || speed < 0.0 {
            return Err(Error::Settings(format!("the speed {speed} must be 0 (as fast as possible) or more")));
        }
        Ok(Self { speed, first: None, latest: Duration::ZERO })
    }

    /// Whether nothing ever waits.
    #[must_use]
    pub fn is_full_speed(&self) -> bool {
        self.speed == 0.0
    }

    /// How long after the start an event of this time is due. The first event asked about is due at once; one that is
    /// older than an event before it is due together with that.
    pub fn due(&mut self, event_time: Timestamp) -> Duration {
        let first = *self.first.get_or_insert(event_time);
        if self.is_full_speed() {
            return Duration::ZERO;
        }
        let elapsed = event_time.micros().saturating_sub(first.micros()).max(0);
        let recorded = Duration::from_micros(elapsed.unsigned_abs());
        // A wait beyond the range of `Duration` is as good as for ever.
        let paced = Duration::try_from_secs_f64(recorded.as_secs_f64() / self.speed).unwrap_or(Duration::MAX);
        self.latest = self.latest.max(paced);
        self.latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const START: i64 = 1_710_000_000;

    #[rstest]
    #[case(1.0, [0, 2_000, 2_000, 5_000])]
    #[case(10.0, [0, 200, 200, 500])]
    #[case(0.5, [0, 4_000, 4_000, 10_000])]
    #[case(0.0, [0, 0, 0, 0])]
    fn events_are_due_at_their_recorded_distance_over_the_speed(#[case] speed: f64, #[case] due_ms: [u64; 4]) {
        let mut pace = Pace::new(speed).unwrap();
        let due = [0, 2, 1, 5].map(|second| pace.due(Timestamp::from_seconds(START + second)));
        assert_eq!(due, due_ms.map(Duration::from_millis));
    }

    #[rstest]
    #[case(-1.0)]
    #[case(f64::NAN)]
    #[case(f64::INFINITY)]
    fn a_speed_that_means_nothing_is_refused(#[case] speed: f64) {
        assert!(Pace::new(speed).is_err());
    }

    #[test]
    fn a_crawling_pace_waits_for_ever_instead_of_failing() {
        let mut pace = Pace::new(f64::MIN_POSITIVE).unwrap();
        pace.due(Timestamp::from_seconds(0));
        assert_eq!(pace.due(Timestamp::from_seconds(START)), Duration::MAX);
    }
}
