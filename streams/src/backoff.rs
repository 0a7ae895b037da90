//! Pauses between attempts at what may fail again. Pure: chance comes from a seed, waiting is the caller's.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Pauses that double with every failure, capped, the second half of each by chance ("equal jitter", Marc Brooker,
/// "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
    chance: ChaCha8Rng,
}

impl Backoff {
    /// Pauses of at most `first` after the first failure and of at most `longest` after any; the same seed and number
    /// give the same ones.
    #[must_use]
    pub fn new(first: Duration, longest: Duration, seed: u64, number: u64) -> Self {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        chance.set_stream(number);
        Self { first, longest, failures: 0, chance }
    }

    /// The pause after one more failure.
    pub fn failed(&mut self) -> Duration {
        let longest = self.first.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        longest.mul_f64(self.chance.random_range(0.5..=1.0))
    }

    /// The next failure is the first again.
    pub const fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_mins(1);

    fn pauses(seed: u64, number: u64, count: usize) -> Vec<Duration> {
        let mut backoff = Backoff::new(FIRST, LONGEST, seed, number);
        (0..count).map(|_| backoff.failed()).collect()
    }

    #[test]
    fn pauses_double_to_their_cap_and_half_of_each_is_chance() {
        for seed in 0..50 {
            let mut longest = FIRST;
            for pause in pauses(seed, 0, 100) {
                assert!(pause >= longest / 2 && pause <= longest, "{pause:?} of {longest:?}");
                longest = (longest * 2).min(LONGEST);
            }
        }
    }

    #[test]
    fn pauses_are_those_of_their_seed_and_number() {
        assert_eq!(pauses(7, 1, 20), pauses(7, 1, 20));
        assert_ne!(pauses(7, 1, 20), pauses(8, 1, 20));
        assert_ne!(pauses(7, 1, 20), pauses(7, 2, 20));
    }

    #[test]
    fn a_success_makes_the_pause_short_again() {
        let mut backoff = Backoff::new(FIRST, LONGEST, 1, 0);
        for _ in 0..20 {
            backoff.failed();
        }
        assert!(backoff.failed() >= LONGEST / 2);
        backoff.succeeded();
        assert!(backoff.failed() <= FIRST);
    }
}
