//! Against another implementation, croner: its fields, matched minute by minute over the wall clock, and its own
//! calculation, whose disagreements are all named here.
//!
//! croner follows the rules of Vixie's cron for texts with a wildcard in the minute or the hour: they are due in both
//! passes of a time that comes twice, and not at all for a time that is skipped. Here every text follows one rule. Of a
//! skipped day (Apia, 2011) it looks for a successor for two hours only, and ends there. A text without a wildcard that is
//! due in the hour before skipped times it finds due once more right after them, though none of those matches.

use chrono::{DateTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::{
    Cron, JobType,
    parser::{CronParser, Seconds},
};
use domain::{Timestamp, time::MICROS};
use proptest::{collection::vec, prelude::*, sample::select};

use super::CronTime;

const ZONES: [&str; 5] = ["Europe/Paris", "America/Chicago", "Australia/Lord_Howe", "Pacific/Apia", "UTC"];

/// Around what clocks of these zones did: forward, back, by half an hour, over a whole day.
const SHIFTS: [(&str, &str); 7] = [
    ("Europe/Paris", "2024-03-31T01:00:00Z"),
    ("Europe/Paris", "2024-10-27T01:00:00Z"),
    ("America/Chicago", "2024-03-10T08:00:00Z"),
    ("America/Chicago", "2024-11-03T07:00:00Z"),
    ("Australia/Lord_Howe", "2024-10-05T15:30:00Z"),
    ("Australia/Lord_Howe", "2024-04-06T15:00:00Z"),
    ("Pacific/Apia", "2011-12-30T10:00:00Z"),
];

fn croner(text: &str) -> Cron {
    CronParser::builder().seconds(Seconds::Disallowed).build().parse(text).unwrap()
}

fn utc(at: Timestamp) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(at.micros()).unwrap()
}

fn stamp(at: &DateTime<impl TimeZone>) -> Timestamp {
    Timestamp::from_micros(at.timestamp_micros())
}

/// A field: anything, a value, some values, a range, a step.
fn field(least: u32, most: u32) -> impl Strategy<Value = String> {
    let value = least..=most;
    prop_oneof![
        3 => Just("*".to_owned()),
        3 => value.clone().prop_map(|value| value.to_string()),
        1 => vec(value.clone(), 2..4).prop_map(|some| some.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
        1 => (value.clone(), value).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        1 => (2..=most / 2).prop_map(|step| format!("*/{step}")),
    ]
}

/// A day of the month or a weekday, not both.
fn days() -> impl Strategy<Value = (String, String)> {
    let weekday = select(vec!["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN", "MON-FRI", "SAT,SUN"]);
    prop_oneof![
        3 => Just(("*".to_owned(), "*".to_owned())),
        2 => field(1, 28).prop_map(|day| (day, "*".to_owned())),
        2 => weekday.prop_map(|day| ("*".to_owned(), day.to_owned())),
    ]
}

fn text() -> impl Strategy<Value = String> {
    let month = prop_oneof![5 => Just("*".to_owned()), 1 => field(1, 12), 1 => Just("MAR,OCT,NOV,DEC".to_owned())];
    (field(0, 59), field(0, 23), days(), month)
        .prop_map(|(minute, hour, (day, weekday), month)| format!("{minute} {hour} {day} {month} {weekday}"))
}

/// A place near a shift of a zone, or anywhere in its years.
fn place() -> impl Strategy<Value = (&'static str, Timestamp)> {
    let near = (select(SHIFTS.to_vec()), -3 * 86_400..86_400_i64)
        .prop_map(|((zone, shift), seconds)| (zone, Timestamp::parse(shift).unwrap().plus_micros(seconds * MICROS)));
    let anywhere = (select(ZONES.to_vec()), 1_000_000_000..2_000_000_000_i64)
        .prop_map(|(zone, seconds)| (zone, Timestamp::from_seconds(seconds)));
    prop_oneof![2 => near, 1 => anywhere]
}

/// The local time that an instant shows, and whether it shows it for the first time.
fn shown(zone: Tz, at: DateTime<Utc>) -> (NaiveDateTime, bool) {
    let local = at.naive_utc() + zone.offset_from_utc_datetime(&at.naive_utc()).fix();
    let first = zone.from_local_datetime(&local).earliest().unwrap();
    (local, first == at)
}

/// The minutes that a zone skips right before an instant; none where it skips nothing there.
fn skipped(zone: Tz, at: DateTime<Utc>) -> Vec<NaiveDateTime> {
    let (now, before) = (shown(zone, at).0, shown(zone, at - TimeDelta::minutes(1)).0);
    let minutes = (now - before).num_minutes() - 1;
    (1..=minutes.max(0)).map(|minute| before + TimeDelta::minutes(minute)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Minute by minute: what is due matches, or follows on skipped times of which one matches; and nothing between matches.
    #[test]
    fn what_is_due_matches_and_nothing_that_matches_is_left_out(text in text(), (zone, after) in place()) {
        let (time, oracle) = (CronTime::parse(&text, zone).unwrap(), croner(&text));
        let zone: Tz = zone.parse().unwrap();
        let matches = |local: NaiveDateTime| oracle.is_time_matching(&local.and_utc()).unwrap();
        let due = time.next(after).unwrap();
        prop_assert!(due > after);
        let is_due = |at: DateTime<Utc>| {
            let (local, is_first) = shown(zone, at);
            (is_first && matches(local)) || skipped(zone, at).into_iter().any(&matches)
        };
        prop_assert!(is_due(utc(due)), "{text} in {zone} after {after}: {due}");
        // Two days are looked at, the longest that a shift reaches.
        let first = Timestamp::from_seconds(after.span(60 * MICROS) * 60 + 60);
        let minutes = (0..2 * 1_440).map(|minute| first.plus_micros(minute * 60 * MICROS)).take_while(|at| *at < due);
        for at in minutes {
            prop_assert!(!is_due(utc(at)), "{text} in {zone} after {after}: {at} was left out for {due}");
        }
    }

    #[test]
    fn in_utc_both_are_due_at_the_same_instants(text in text(), seconds in 1_000_000_000..2_000_000_000_i64) {
        let (time, oracle) = (CronTime::parse(&text, "UTC").unwrap(), croner(&text));
        let after = Timestamp::from_seconds(seconds);
        let ours: Vec<Timestamp> = time.after(after).take(20).collect();
        let theirs: Vec<Timestamp> = oracle.iter_after(utc(after)).take(20).map(|at| stamp(&at)).collect();
        prop_assert_eq!(ours, theirs);
    }

    /// Texts without a wildcard in minute and hour follow one rule in both, but for the hour before skipped times and for a
    /// whole day that is skipped.
    #[test]
    fn where_clocks_shift_the_disagreements_are_the_known_ones(
        text in text(), (zone, shift) in select(SHIFTS.to_vec())
    ) {
        let (time, oracle) = (CronTime::parse(&text, zone).unwrap(), croner(&text));
        let tz: Tz = zone.parse().unwrap();
        let matches = |local: NaiveDateTime| oracle.is_time_matching(&local.and_utc()).unwrap();
        let (from, until) = [-2, 2].map(|days| Timestamp::parse(shift).unwrap().plus_micros(days * 86_400 * MICROS)).into();
        let ours: Vec<Timestamp> = time.after(from).take_while(|due| *due <= until).collect();
        let after = utc(from).with_timezone(&tz);
        let theirs: Vec<Timestamp> = oracle.iter_after(after).map(|at| stamp(&at)).take_while(|due| *due <= until).collect();
        let is_wild = oracle.determine_job_type() == JobType::IntervalWildcard;
        for extra in theirs.iter().filter(|due| !ours.contains(due)) {
            let (_, is_first) = shown(tz, utc(*extra));
            let follows = !is_wild && !skipped(tz, utc(*extra)).is_empty();
            prop_assert!((is_wild && !is_first) || follows, "only croner: {extra} of {text} in {zone}");
        }
        for missing in ours.iter().filter(|due| !theirs.contains(due)) {
            let follows = is_wild && skipped(tz, utc(*missing)).into_iter().any(&matches);
            let has_ended = zone == "Pacific/Apia" && *missing >= Timestamp::parse(shift).unwrap();
            prop_assert!(follows || has_ended, "only ours: {missing} of {text} in {zone}");
        }
    }
}
