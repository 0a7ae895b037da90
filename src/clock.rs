//! The system's clocks: the only place that asks the system what time it is.
//!
//! Everything else takes a [`domain::Clock`], and a live source a [`Timer`], so that every run can be repeated.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use domain::{Clock, Timestamp};
use streams::binance::Timer;

/// The wall clock of this machine, UTC.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everything else is given")]
    fn now(&self) -> Timestamp {
        // A clock set before 1970 reads as 1970: whatever needs a real date refuses that one.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }
}

/// The time that passes on this machine since the timer was made.
#[derive(Clone, Copy, Debug)]
pub struct SystemTimer {
    start: Instant,
}

impl Default for SystemTimer {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

#[async_trait]
impl Timer for SystemTimer {
    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    async fn pause(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_past_the_day_this_was_written_and_does_not_run_backwards() {
        let first = SystemClock.now();
        assert!(first > Timestamp::from_seconds(1_700_000_000), "{first}");
        assert!(SystemClock.now() >= first);
    }
}
