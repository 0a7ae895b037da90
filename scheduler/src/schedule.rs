//! A schedule: which job is due when, and what is done where times pass unused or meet a run that still goes on.
//!
//! Read from text once, complete and within its limits; what is not said has the default named here.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{cron::CronTime, error::Error};

/// The longest name of a schedule, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// A time that is decided later than this is missed: nobody was there to start it.
pub const GRACE: Duration = Duration::from_mins(1);

/// Missed times older than this are not made up for.
pub const CATCH_UP_WINDOW: Duration = Duration::from_hours(24);

/// So many missed times are made up for at most, the newest.
pub const MAX_CATCH_UPS: usize = 100;

/// What is done with a time that comes while a run of the schedule still goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// Nothing.
    #[default]
    Skip,
    /// One run waits for the end of the other; further times are left out.
    QueueOne,
    /// A run beside the other.
    Allow,
}

/// What is done with times that passed while nobody was there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Misfire {
    /// One run for all of them, of the latest.
    #[default]
    FireOnce,
    /// A run for each.
    FireAll,
    /// Nothing.
    Skip,
}

/// How a failed run is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all, 1 to 20.
    pub attempts: u32,
    /// The pause after the first attempt; it doubles with each.
    pub pause: Duration,
    /// The longest pause.
    pub max_pause: Duration,
}

impl Default for Retry {
    /// 3 attempts, 10 s, 10 min.
    fn default() -> Self {
        Self { attempts: 3, pause: Duration::from_secs(10), max_pause: Duration::from_mins(10) }
    }
}

impl Retry {
    /// The pause after so many attempts, before the next; `share`, drawn by the caller from 0 to 1, shortens it by up to
    /// half, so that what failed together is not tried again together. None where no attempt is left.
    #[must_use]
    pub fn pause_after(&self, attempts: u32, share: f64) -> Option<Duration> {
        if attempts == 0 || attempts >= self.attempts {
            return None;
        }
        let doubled = self.pause.saturating_mul(2_u32.saturating_pow(attempts - 1)).min(self.max_pause);
        Some(doubled.mul_f64(1.0 - share.clamp(0.0, 1.0) / 2.0))
    }
}

/// A schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Its name: letters, digits and dashes.
    pub name: String,
    /// The job's name.
    pub job: String,
    /// What the job is asked for, an object.
    pub spec: Value,
    /// When it is due.
    pub time: CronTime,
    /// While a run goes on.
    pub overlap: Overlap,
    /// After times that passed unused.
    pub misfire: Misfire,
    /// After a failure.
    pub retry: Retry,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// Of runs that wait for a place, those with more go first.
    pub priority: i64,
    /// Runs of one pool never go on side by side; none, where that does not matter.
    pub pool: Option<String>,
}

/// A schedule as people write it and the store keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    job: String,
    #[serde(default = "nothing")]
    spec: Value,
    cron: String,
    #[serde(default = "utc")]
    zone: String,
    #[serde(default)]
    overlap: Overlap,
    #[serde(default)]
    misfire: Misfire,
    #[serde(default = "attempts")]
    attempts: u32,
    #[serde(default = "pause_s")]
    pause_s: u64,
    #[serde(default = "max_pause_s")]
    max_pause_s: u64,
    #[serde(default = "timeout_s")]
    timeout_s: u64,
    #[serde(default)]
    priority: i64,
    #[serde(default)]
    pool: Option<String>,
}

fn nothing() -> Value {
    Value::Object(serde_json::Map::new())
}

fn utc() -> String {
    "UTC".to_owned()
}

fn attempts() -> u32 {
    Retry::default().attempts
}

fn pause_s() -> u64 {
    Retry::default().pause.as_secs()
}

fn max_pause_s() -> u64 {
    Retry::default().max_pause.as_secs()
}

const fn timeout_s() -> u64 {
    3_600
}

impl Schedule {
    /// Reads a schedule from an object with the fields `job`, `cron` and, with defaults, `spec`, `zone`, `overlap`,
    /// `misfire`, `attempts`, `pause_s`, `max_pause_s`, `timeout_s`, `priority`, `pool`.
    ///
    /// # Errors
    /// [`Error::Schedule`] with what is wrong; [`Error::CronText`], [`Error::TimeZone`].
    pub fn parse(name: &str, written: Value) -> Result<Self, Error> {
        let refused = |reason: String| Error::Schedule { name: name.to_owned(), reason };
        let is_name = |text: &str| {
            (1..=MAX_NAME_BYTES).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if !is_name(name) {
            return Err(refused(format!("a name has letters, digits and dashes, at most {MAX_NAME_BYTES}")));
        }
        let written: Written = serde_json::from_value(written).map_err(|error| refused(error.to_string()))?;
        if !is_name(&written.job) {
            return Err(refused(format!("`{}` is no name of a job", written.job)));
        }
        if !written.spec.is_object() {
            return Err(refused("`spec` must be a table of what the job is asked for".to_owned()));
        }
        if written.pool.as_deref().is_some_and(|pool| !is_name(pool)) {
            return Err(refused("the name of a pool has letters, digits and dashes".to_owned()));
        }
        for (field, value, most) in [
            ("attempts", u64::from(written.attempts), 20),
            ("pause_s", written.pause_s, 86_400),
            ("max_pause_s", written.max_pause_s, 86_400),
            ("timeout_s", written.timeout_s, 7 * 86_400),
        ] {
            if !(1..=most).contains(&value) {
                return Err(refused(format!("`{field}` must be 1 to {most}, not {value}")));
            }
        }
        Ok(Self {
            name: name.to_owned(),
            job: written.job,
            spec: written.spec,
            time: CronTime::parse(&written.cron, &written.zone)?,
            overlap: written.overlap,
            misfire: written.misfire,
            retry: Retry {
                attempts: written.attempts,
                pause: Duration::from_secs(written.pause_s),
                max_pause: Duration::from_secs(written.max_pause_s),
            },
            timeout: Duration::from_secs(written.timeout_s),
            priority: written.priority,
            pool: written.pool,
        })
    }

    /// The object that [`Schedule::parse`] reads, complete.
    #[must_use]
    pub fn written(&self) -> Value {
        let written = Written {
            job: self.job.clone(),
            spec: self.spec.clone(),
            cron: self.time.text().to_owned(),
            zone: self.time.zone().to_owned(),
            overlap: self.overlap,
            misfire: self.misfire,
            attempts: self.retry.attempts,
            pause_s: self.retry.pause.as_secs(),
            max_pause_s: self.retry.max_pause.as_secs(),
            timeout_s: self.timeout.as_secs(),
            priority: self.priority,
            pool: self.pool.clone(),
        };
        serde_json::to_value(written).unwrap_or_else(|error| unreachable!("names and numbers: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_said_has_its_default_and_comes_back_complete() {
        let short = Schedule::parse("retrain", json!({"job": "train", "cron": "0 */6 * * *"})).unwrap();
        assert_eq!((short.overlap, short.misfire, short.retry), (Overlap::Skip, Misfire::FireOnce, Retry::default()));
        assert_eq!((short.timeout, short.time.zone(), short.pool.as_deref()), (Duration::from_hours(1), "UTC", None));
        assert_eq!(Schedule::parse("retrain", short.written()).unwrap(), short);
        let long = json!({"job": "compact", "cron": "@hourly", "zone": "Europe/Paris", "overlap": "queue_one",
            "misfire": "fire_all", "attempts": 1, "pause_s": 2, "max_pause_s": 4, "timeout_s": 60, "priority": -3,
            "pool": "lake", "spec": {"table": "events"}});
        let read = Schedule::parse("compact-events", long.clone()).unwrap();
        assert_eq!(read.written(), long);
    }

    #[rstest]
    #[case("a b", json!({"job": "train", "cron": "@daily"}), "letters, digits and dashes")]
    #[case("a", json!({"cron": "@daily"}), "job")]
    #[case("a", json!({"job": "train", "cron": "@daily", "every": 3}), "every")]
    #[case("a", json!({"job": "train", "cron": "@daily", "overlap": "wait"}), "queue_one")]
    #[case("a", json!({"job": "train", "cron": "@daily", "attempts": 0}), "`attempts` must be 1 to 20, not 0")]
    #[case("a", json!({"job": "train", "cron": "@daily", "timeout_s": 0}), "`timeout_s` must be 1 to 604800, not 0")]
    #[case("a", json!({"job": "train", "cron": "@daily", "spec": [1]}), "`spec` must be a table")]
    #[case("a", json!({"job": "train", "cron": "@daily", "pool": ""}), "pool")]
    #[case("a", json!({"job": "tr ain", "cron": "@daily"}), "no name of a job")]
    #[case("a", json!({"job": "train", "cron": "0 0 30 2 *"}), "there is no such date")]
    #[case("a", json!({"job": "train", "cron": "@daily", "zone": "Mars"}), "`Mars`")]
    fn what_is_wrong_is_said(#[case] name: &str, #[case] written: Value, #[case] told: &str) {
        let refused = Schedule::parse(name, written).unwrap_err();
        assert_eq!(refused.kind(), domain::ErrorKind::Invalid);
        assert!(refused.to_string().contains(told), "{refused}");
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_end_with_the_attempts() {
        let retry = Retry { attempts: 9, ..Retry::default() };
        let pauses: Vec<_> = (1..9).map(|attempts| retry.pause_after(attempts, 0.0).unwrap().as_secs()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!((retry.pause_after(9, 0.0), retry.pause_after(0, 0.0)), (None, None));
        assert_eq!(retry.pause_after(1, 1.0), Some(Duration::from_secs(5)));
    }
}
