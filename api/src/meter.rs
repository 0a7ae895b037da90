//! How many requests a key or an address may send: a bucket for each that fills up again (GCRA, by `governor`).
//!
//! Whoever sends nothing for as long as its bucket takes to fill is forgotten, so that the memory is bounded by the
//! requests of that time, whatever addresses they come from.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::NoOpMiddleware,
    state::keyed::DashMapStateStore,
};

use crate::protection::Rate;

/// Requests after which full buckets are forgotten: so many more than those that count are in memory, at most.
const SWEEP_EVERY: u64 = 8_192;

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// Those with this key.
    Key(i64),
    /// Those without a valid key that come from here.
    Address(IpAddr),
}

impl Sender {
    /// A sender without a key. Of IPv6 the first 64 bits count: who has one such address has all of them.
    pub fn at(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => Self::Address(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()),
            address @ IpAddr::V4(_) => Self::Address(address),
        }
    }
}

/// The buckets.
pub struct Meter<C: Clock = MonotonicClock> {
    limiter: RateLimiter<Sender, DashMapStateStore<Sender>, C, NoOpMiddleware<C::Instant>>,
    counted: AtomicU64,
}

impl Meter {
    /// Every bucket is full.
    pub fn new(rate: Rate) -> Self {
        Self::by(MonotonicClock, rate)
    }
}

impl<C: Clock> Meter<C> {
    fn by(clock: C, rate: Rate) -> Self {
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
        Self { limiter: RateLimiter::dashmap_with_clock(quota, clock), counted: AtomicU64::new(0) }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// After how many whole seconds another would not be too many, where this one is. It is not counted.
    pub fn count(&self, sender: Sender) -> Result<(), u32> {
        if self.counted.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        self.limiter.check_key(&sender).map_err(|until| whole_seconds(until.wait_time_from(self.limiter.clock().now())))
    }
}

/// The wait as the header `Retry-After` has it: at least 1, and never too short.
fn whole_seconds(wait: Duration) -> u32 {
    let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
    u32::try_from(seconds.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use governor::clock::FakeRelativeClock;
    use rstest::rstest;

    use super::*;

    fn meter(per_second: u32, burst: u32) -> (FakeRelativeClock, Meter<FakeRelativeClock>) {
        let clock = FakeRelativeClock::default();
        let number = |number| NonZeroU32::new(number).unwrap();
        let rate = Rate { per_second: number(per_second), burst: number(burst) };
        (clock.clone(), Meter::by(clock, rate))
    }

    #[test]
    fn a_burst_is_let_through_and_then_what_comes_back_every_second() {
        let (clock, meter) = meter(2, 3);
        let ann = Sender::Key(1);
        assert_eq!([(); 4].map(|()| meter.count(ann)), [Ok(()), Ok(()), Ok(()), Err(1)]);
        assert_eq!(meter.count(Sender::Key(2)), Ok(()), "others have buckets of their own");
        clock.advance(Duration::from_millis(500));
        assert_eq!([(); 2].map(|()| meter.count(ann)), [Ok(()), Err(1)]);
        clock.advance(Duration::from_mins(1));
        assert_eq!([(); 4].map(|()| meter.count(ann)), [Ok(()), Ok(()), Ok(()), Err(1)]);
    }

    #[test]
    fn the_wait_is_in_whole_seconds_and_long_enough() {
        for (wait, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (90_000, 90)] {
            assert_eq!(whole_seconds(Duration::from_millis(wait)), seconds);
        }
        assert_eq!(whole_seconds(Duration::MAX), u32::MAX);
    }

    #[test]
    fn who_has_been_silent_for_long_enough_is_forgotten() {
        let (clock, meter) = meter(10, 10);
        for number in 0..10_000 {
            meter.count(Sender::Key(number)).unwrap();
            clock.advance(Duration::from_secs(2));
        }
        let limit = usize::try_from(SWEEP_EVERY).unwrap();
        assert!(meter.limiter.len() <= limit, "{}", meter.limiter.len());
    }

    #[rstest]
    #[case("10.0.0.1", "10.0.0.1", true)]
    #[case("10.0.0.1", "10.0.0.2", false)]
    #[case("::ffff:10.0.0.1", "10.0.0.1", true)]
    #[case("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true)]
    #[case("2001:db8:0:1::1", "2001:db8:0:2::1", false)]
    fn an_address_stands_for_its_owner(#[case] one: &str, #[case] other: &str, #[case] expected: bool) {
        let at = |text: &str| Sender::at(text.parse().unwrap());
        assert_eq!(at(one) == at(other), expected);
    }
}
