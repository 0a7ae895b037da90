//! When a schedule is due: cron text in a time zone, as instants.
//!
//! Text has five fields (minute, hour, day of month, month, weekday), or six with the second first, or is one of
//! `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`. What programs read in different ways is refused: weekdays by
//! number, and a day of the month together with a weekday. So is a date that never comes.
//!
//! A time that a zone skips is due at the first instant after the gap; one that comes twice is due the first time. Several
//! skipped times of one gap are due once. Pure: nothing here reads a clock.

#[cfg(test)]
mod oracle;

use std::{fmt, str::FromStr};

use chrono::{DateTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use cron::Schedule;
use domain::Timestamp;

use crate::error::Error;

/// Names for usual schedules, each with its fields from the second on.
const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 0 * * * *"),
    ("@daily", "0 0 0 * * *"),
    ("@midnight", "0 0 0 * * *"),
    ("@weekly", "0 0 0 * * SUN"),
    ("@monthly", "0 0 0 1 * *"),
    ("@yearly", "0 0 0 1 1 *"),
    ("@annually", "0 0 0 1 1 *"),
];

/// No gap of any zone is longer, and none has a fold as close by.
const LONGEST_GAP: TimeDelta = TimeDelta::hours(30);

/// From here on a date must come that a text names: the day after a leap day's year has begun.
const PROBE: Timestamp = Timestamp::from_seconds(1_704_067_200);

/// When something is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronTime {
    text: String,
    zone: Tz,
    schedule: Schedule,
}

/// The text and the zone, as in `0 3 * * MON Europe/Paris`.
impl fmt::Display for CronTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.text, self.zone.name())
    }
}

impl CronTime {
    /// Parses a text and the name of a zone, such as `UTC` or `Europe/Paris`.
    ///
    /// # Errors
    /// [`Error::CronText`] and [`Error::TimeZone`] with what is wrong.
    pub fn parse(text: &str, zone: &str) -> Result<Self, Error> {
        let refused = |reason: String| Error::CronText { text: text.to_owned(), reason };
        let fields = fields(text).map_err(refused)?;
        let schedule = Schedule::from_str(&fields.join(" ")).map_err(|error| refused(error.to_string()))?;
        let zone = Tz::from_str(zone).map_err(|_| Error::TimeZone { name: zone.to_owned() })?;
        let time = Self { text: text.split_whitespace().collect::<Vec<_>>().join(" "), zone, schedule };
        if time.next(PROBE).is_none() {
            return Err(refused("there is no such date".to_owned()));
        }
        Ok(time)
    }

    /// The text, with one space between fields.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The zone's name.
    #[must_use]
    pub fn zone(&self) -> &'static str {
        self.zone.name()
    }

    /// The first instant after `after` at which it is due, in whole seconds; none after the year 2100.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.after(after).next()
    }

    /// All instants after `after`, ascending.
    pub fn after(&self, after: Timestamp) -> impl Iterator<Item = Timestamp> + '_ {
        let utc = DateTime::from_timestamp_micros(after.micros()).unwrap_or_default();
        // The text counts in local time, which stands for itself here as if it were UTC.
        let local = utc.with_timezone(&self.zone).naive_local().and_utc();
        let mut last = after;
        self.schedule.after_owned(local).filter_map(move |local| {
            let due = self.instant(local.naive_utc());
            (due > last).then(|| {
                last = due;
                due
            })
        })
    }

    /// The last instant after `after` and not after `until`; none where it is not due in between.
    #[must_use]
    pub fn last_between(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        self.after(after).take_while(|due| *due <= until).last()
    }

    /// The instant of a local time.
    fn instant(&self, local: NaiveDateTime) -> Timestamp {
        let found = self.zone.from_local_datetime(&local).earliest();
        let utc = found.map_or_else(|| self.first_after_gap(local), |found| found.with_timezone(&Utc));
        Timestamp::from_micros(utc.timestamp_micros())
    }

    /// The first instant whose local time is not before one that the zone skips.
    fn first_after_gap(&self, skipped: NaiveDateTime) -> DateTime<Utc> {
        let (mut before, mut after) = ((skipped - LONGEST_GAP).and_utc(), (skipped + LONGEST_GAP).and_utc());
        while after - before > TimeDelta::seconds(1) {
            let middle = before + TimeDelta::seconds((after - before).num_seconds() / 2);
            let offset = self.zone.offset_from_utc_datetime(&middle.naive_utc()).fix();
            if middle.naive_utc() + offset < skipped {
                before = middle;
            } else {
                after = middle;
            }
        }
        after
    }
}

/// The six fields of a text, from the second on, of which all say the same to every reader.
fn fields(text: &str) -> Result<Vec<&str>, String> {
    let text = text.trim();
    if text.starts_with('@') {
        let known = NICKNAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        let names = || NICKNAMES.map(|(name, _)| name).join(", ");
        return known.map(|(_, fields)| fields.split(' ').collect()).ok_or_else(|| format!("there are {}", names()));
    }
    let mut fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() == 5 {
        fields.insert(0, "0");
    }
    let [_, _, _, day, _, weekday] = fields.as_slice() else {
        return Err(
            "write minute, hour, day of month, month and weekday, and the second before them if need be".to_owned()
        );
    };
    // A step, as the 2 in `MON-FRI/2`, is a number in every reading.
    let names_number =
        |part: &str| part.split('/').next().is_some_and(|days| days.contains(|c: char| c.is_ascii_digit()));
    if weekday.split(',').any(names_number) {
        return Err(
            "write weekdays by name, as in MON-FRI: some programs count them from Sunday, some from Monday".to_owned()
        );
    }
    let is_any = |field: &str| matches!(field, "*" | "?");
    if !is_any(day) && !is_any(weekday) {
        let reason = "give a day of the month or a weekday: for some programs both must fit, for some one is enough";
        return Err(reason.to_owned());
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use domain::time::MICROS;
    use rstest::rstest;

    use super::*;

    fn cron(text: &str, zone: &str) -> CronTime {
        CronTime::parse(text, zone).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn next_ones(time: &CronTime, after: &str, count: usize) -> Vec<String> {
        time.after(at(after)).take(count).map(|due| due.to_string()).collect()
    }

    #[rstest]
    #[case("*/15 * * * *", "2024-03-09T16:07:30Z", "2024-03-09T16:15:00Z")]
    #[case("30 0 0 29 2 *", "2024-03-09T16:00:00Z", "2028-02-29T00:00:30Z")]
    #[case("0 3 * * MON", "2024-03-09T16:00:00Z", "2024-03-11T03:00:00Z")]
    #[case("0 3 * * mon-fri/2", "2024-03-11T04:00:00Z", "2024-03-13T03:00:00Z")]
    #[case("0 3 * JAN,jul ?", "2024-03-11T04:00:00Z", "2024-07-01T03:00:00Z")]
    #[case("@hourly", "2024-03-09T16:00:00Z", "2024-03-09T17:00:00Z")]
    #[case("@Weekly", "2024-03-09T16:00:00Z", "2024-03-10T00:00:00Z")]
    #[case("@monthly", "2024-03-09T16:00:00Z", "2024-04-01T00:00:00Z")]
    #[case("@yearly", "2024-03-09T16:00:00Z", "2025-01-01T00:00:00Z")]
    fn texts_mean_what_they_say(#[case] text: &str, #[case] after: &str, #[case] expected: &str) {
        assert_eq!(next_ones(&cron(text, "UTC"), after, 1), [expected]);
    }

    #[rstest]
    #[case("* * * *", "write minute, hour")]
    #[case("0 0 * * * * 2025", "write minute, hour")]
    #[case("", "write minute, hour")]
    #[case("@fortnightly", "@hourly, @daily")]
    #[case("0 3 * * 1", "write weekdays by name")]
    #[case("0 3 * * MON,5", "write weekdays by name")]
    #[case("0 3 13 * FRI", "a day of the month or a weekday")]
    #[case("0 0 30 2 *", "there is no such date")]
    #[case("0 0 31 4,6 *", "there is no such date")]
    #[case("60 * * * *", "60")]
    #[case("0 24 * * *", "24")]
    #[case("0 0 L * *", "0 0 L")]
    fn what_can_be_read_in_two_ways_or_never_comes_is_refused(#[case] text: &str, #[case] told: &str) {
        let refused = CronTime::parse(text, "UTC").unwrap_err();
        assert_eq!(refused.kind(), domain::ErrorKind::Invalid);
        assert!(refused.to_string().contains(told), "{refused}");
    }

    #[test]
    fn an_unknown_zone_is_refused() {
        let refused = CronTime::parse("@daily", "Europe/Pari").unwrap_err();
        assert!(refused.to_string().contains("`Europe/Pari`"), "{refused}");
    }

    /// 2024-03-31, 02:00 to 03:00 in Paris: there is none. The first instant after it is 01:00 UTC.
    #[test]
    fn a_skipped_time_is_due_once_at_the_first_instant_after_the_gap() {
        let daily = cron("30 2 * * *", "Europe/Paris");
        let expected = ["2024-03-30T01:30:00Z", "2024-03-31T01:00:00Z", "2024-04-01T00:30:00Z"];
        assert_eq!(next_ones(&daily, "2024-03-29T12:00:00Z", 3), expected);
        let often = cron("*/20 2 * * *", "Europe/Paris");
        let expected = ["2024-03-31T01:00:00Z", "2024-04-01T00:00:00Z", "2024-04-01T00:20:00Z"];
        assert_eq!(next_ones(&often, "2024-03-30T12:00:00Z", 3), expected);
        // What is due at the same instant by itself is due once with it.
        let both = cron("0,30 2,3 * * *", "Europe/Paris");
        let expected = ["2024-03-31T01:00:00Z", "2024-03-31T01:30:00Z", "2024-04-01T00:00:00Z"];
        assert_eq!(next_ones(&both, "2024-03-30T12:00:00Z", 3), expected);
    }

    /// 2024-10-27, 02:00 to 03:00 in Paris comes twice, from 00:00 UTC and from 01:00 UTC.
    #[test]
    fn a_time_that_comes_twice_is_due_the_first_time() {
        let daily = cron("30 2 * * *", "Europe/Paris");
        let expected = ["2024-10-27T00:30:00Z", "2024-10-28T01:30:00Z"];
        assert_eq!(next_ones(&daily, "2024-10-26T12:00:00Z", 2), expected);
        for during in ["2024-10-27T00:30:00Z", "2024-10-27T01:15:00Z", "2024-10-27T01:30:00Z"] {
            assert_eq!(next_ones(&daily, during, 1), expected[1..], "{during}");
        }
    }

    /// Half an hour is skipped there, and half an hour comes twice.
    #[test]
    fn a_zone_may_shift_by_half_an_hour() {
        let time = cron("15 2 * * *", "Australia/Lord_Howe");
        assert_eq!(next_ones(&time, "2024-10-05T12:00:00Z", 1), ["2024-10-05T15:30:00Z"]);
        let time = cron("45 1 * * *", "Australia/Lord_Howe");
        assert_eq!(next_ones(&time, "2024-04-06T12:00:00Z", 2), ["2024-04-06T14:45:00Z", "2024-04-07T15:15:00Z"]);
    }

    /// Apia went from the 29th to the 31st of December 2011: there was no 30th.
    #[test]
    fn a_day_may_be_skipped() {
        let daily = cron("0 12 * * *", "Pacific/Apia");
        let expected = ["2011-12-29T22:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"];
        assert_eq!(next_ones(&daily, "2011-12-29T00:00:00Z", 3), expected);
    }

    #[test]
    fn the_latest_missed_one_is_found() {
        let hourly = cron("@hourly", "UTC");
        let missed = |from, until| hourly.last_between(at(from), at(until)).map(|due| due.to_string());
        assert_eq!(missed("2024-03-09T16:00:00Z", "2024-03-09T19:59:59Z").as_deref(), Some("2024-03-09T19:00:00Z"));
        assert_eq!(missed("2024-03-09T16:00:00Z", "2024-03-09T17:00:00Z").as_deref(), Some("2024-03-09T17:00:00Z"));
        assert_eq!(missed("2024-03-09T16:00:00Z", "2024-03-09T16:59:59Z"), None);
    }

    #[test]
    fn a_fraction_of_a_second_is_before_the_next_one() {
        let every = cron("* * * * * *", "UTC");
        let after = at("2024-03-09T16:00:00Z").plus_micros(MICROS / 2);
        assert_eq!(every.next(after), Some(at("2024-03-09T16:00:01Z")));
    }

    #[test]
    fn it_shows_as_it_was_written() {
        let time = cron("  0   3 * *  MON ", "Europe/Paris");
        assert_eq!(
            (time.to_string(), time.text(), time.zone()),
            ("0 3 * * MON Europe/Paris".to_owned(), "0 3 * * MON", "Europe/Paris")
        );
    }
}
