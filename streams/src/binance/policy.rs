//! When to connect: pauses that grow with every failure, and the venue's limit of attempts. Pure: time and chance are
//! given.

use std::{collections::VecDeque, time::Duration};

use crate::backoff;

/// The longest pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause of all.
pub const MAX_PAUSE: Duration = Duration::from_mins(1);

/// A connection that lived this long was a good one: its end is the first failure again.
const GOOD_LIFE: Duration = Duration::from_secs(10);

/// Attempts that this process makes within [`ATTEMPTS_WITHIN`], at most. Binance allows 300 per address of the caller;
/// the rest is for other programs there.
const MAX_ATTEMPTS: usize = 200;

/// See [`MAX_ATTEMPTS`].
const ATTEMPTS_WITHIN: Duration = Duration::from_mins(5);

/// The pauses of one connection.
#[derive(Debug)]
pub struct Backoff(backoff::Backoff);

impl Backoff {
    /// The pauses of a seed and a number; the same ones give the same pauses.
    pub fn new(seed: u64, number: u64) -> Self {
        Self(backoff::Backoff::new(FIRST_PAUSE, MAX_PAUSE, seed, number))
    }

    /// The pause after a connection that lived this long, 0 where it could not be made.
    pub fn after(&mut self, lived: Duration) -> Duration {
        if lived >= GOOD_LIFE {
            self.0.succeeded();
        }
        self.0.failed()
    }
}

/// The attempts of the last minutes.
#[derive(Debug, Default)]
pub struct Attempts {
    /// When each was or will be made, ascending.
    at: VecDeque<Duration>,
}

impl Attempts {
    /// How long to wait with an attempt that is wanted `now`; it counts as made then.
    pub fn reserve(&mut self, now: Duration) -> Duration {
        while self.at.front().is_some_and(|at| *at + ATTEMPTS_WITHIN <= now) {
            self.at.pop_front();
        }
        // The one that must be too old by then.
        let over = self.at.len().checked_sub(MAX_ATTEMPTS).and_then(|place| self.at.get(place));
        let at = over.map_or(now, |over| now.max(*over + ATTEMPTS_WITHIN));
        self.at.push_back(at);
        at.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_connection_that_lived_makes_the_pause_short_again() {
        let mut backoff = Backoff::new(1, 0);
        for _ in 0..20 {
            backoff.after(GOOD_LIFE / 2);
        }
        assert!(backoff.after(GOOD_LIFE / 2) >= MAX_PAUSE / 2);
        assert!(backoff.after(Duration::from_hours(24)) <= FIRST_PAUSE);
    }

    #[test]
    fn attempts_keep_the_limit_in_every_window() {
        let mut attempts = Attempts::default();
        let mut now = Duration::ZERO;
        let mut made = Vec::new();
        for number in 0..2_000_u32 {
            now += Duration::from_millis(u64::from(number % 7) * 10);
            made.push(now + attempts.reserve(now));
        }
        assert!(made.is_sorted());
        for (place, at) in made.iter().enumerate() {
            let within = made[place..].iter().take_while(|later| **later < *at + ATTEMPTS_WITHIN).count();
            assert!(within <= MAX_ATTEMPTS, "{within} from {at:?} on");
        }
        assert!(made[..MAX_ATTEMPTS].iter().all(|at| *at < Duration::from_mins(1)), "the first ones wait for nothing");
    }

    #[test]
    fn attempts_that_are_old_are_forgotten() {
        let mut attempts = Attempts::default();
        for number in 0..10_000_u64 {
            assert_eq!(
                attempts.reserve(ATTEMPTS_WITHIN.mul_f64(0.01) * u32::try_from(number).unwrap()),
                Duration::ZERO
            );
        }
        assert!(attempts.at.len() <= MAX_ATTEMPTS);
    }
}
