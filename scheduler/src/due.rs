//! What a tick decides about one schedule: every time that has come is decided once, and nothing is forgotten in silence.
//!
//! Pure: the present and what goes on are passed in. Where the clock was set back nothing is due until it has caught up;
//! where it was set forward the times in between were missed, as they are while nobody runs.

use std::time::Duration;

use domain::Timestamp;

use crate::schedule::{CATCH_UP_WINDOW, GRACE, MAX_CATCH_UPS, Misfire, Overlap, Schedule};

/// What is known of a schedule when its times are decided.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The schedule.
    pub schedule: &'a Schedule,
    /// Every time up to here has been decided.
    pub decided_until: Timestamp,
    /// Whether it is paused.
    pub is_paused: bool,
    /// Its runs that have not ended.
    pub active_runs: usize,
    /// The present.
    pub now: Timestamp,
}

/// Why there is no run for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The schedule was paused.
    Paused,
    /// A run went on, and the schedule skips then.
    RunGoesOn,
    /// A run went on and another waited already.
    OneWaits,
    /// It was missed, and the schedule makes up for nothing.
    Missed,
    /// It was missed, and a later time has the one run for all.
    Superseded,
    /// It was missed, and so many later ones were that only those are made up for.
    TooMany,
    /// It was missed longer ago than is made up for.
    TooOld,
}

impl Skip {
    /// Every reason.
    pub const ALL: [Self; 7] =
        [Self::Paused, Self::RunGoesOn, Self::OneWaits, Self::Missed, Self::Superseded, Self::TooMany, Self::TooOld];

    /// The reason as a label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::RunGoesOn => "run_goes_on",
            Self::OneWaits => "one_waits",
            Self::Missed => "missed",
            Self::Superseded => "superseded",
            Self::TooMany => "too_many",
            Self::TooOld => "too_old",
        }
    }

    /// Whether nobody was there when the time came.
    #[must_use]
    pub const fn is_of_a_missed_time(self) -> bool {
        matches!(self, Self::Missed | Self::Superseded | Self::TooMany | Self::TooOld)
    }

    /// The reason as a sentence part.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "the schedule was paused",
            Self::RunGoesOn => "a run went on, and the schedule skips then",
            Self::OneWaits => "a run went on and another waited already",
            Self::Missed => "it was missed, and the schedule makes up for nothing",
            Self::Superseded => "it was missed, and a later time has the one run for all",
            Self::TooMany => "it was missed, and only the newest 100 are made up for",
            Self::TooOld => "it was missed more than 24 h before",
        }
    }
}

/// What was decided about a time, or about several that follow each other and share their fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A run is created.
    Run {
        /// The time.
        at: Timestamp,
        /// Whether it is late by more than [`GRACE`].
        is_missed: bool,
    },
    /// There is no run.
    Skipped {
        /// The first of the times.
        first: Timestamp,
        /// The last of them.
        last: Timestamp,
        /// How many; not counted where they are too old.
        times: Option<u64>,
        /// Why.
        reason: Skip,
    },
}

/// Everything that a tick decides about a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In the order of the times.
    pub decisions: Vec<Decision>,
    /// Every time up to here is decided then.
    pub decided_until: Timestamp,
    /// The next time that comes; none after the year 2100.
    pub next: Option<Timestamp>,
}

/// Decides the times of a schedule that have come.
#[must_use]
pub fn plan(situation: &Situation<'_>) -> Plan {
    let Situation { schedule, decided_until, now, .. } = *situation;
    let mut plan = Planning { situation, active: situation.active_runs, decisions: Vec::new() };
    let window = before(now, CATCH_UP_WINDOW);
    if let Some(oldest) = schedule.time.next(decided_until).filter(|oldest| *oldest <= window) {
        plan.leave_out_old(oldest, window);
    }
    let times: Vec<Timestamp> = schedule.time.after(decided_until.max(window)).take_while(|due| *due <= now).collect();
    let on_time = times.partition_point(|due| *due < before(now, GRACE));
    let (missed, on_time) = times.split_at(on_time);
    for (place, due) in missed.iter().enumerate() {
        plan.decide_missed(*due, missed.len() - place, on_time.is_empty());
    }
    for due in on_time {
        plan.decide(*due, false);
    }
    let decided_until = decided_until.max(now);
    Plan { decisions: plan.decisions, decided_until, next: schedule.time.next(decided_until) }
}

struct Planning<'a> {
    situation: &'a Situation<'a>,
    active: usize,
    decisions: Vec<Decision>,
}

impl Planning<'_> {
    /// Leaves out what is older than the window, uncounted: a schedule of every second has millions a month.
    fn leave_out_old(&mut self, oldest: Timestamp, window: Timestamp) {
        let reason = if self.situation.is_paused { Skip::Paused } else { Skip::TooOld };
        self.decisions.push(Decision::Skipped { first: oldest, last: window, times: None, reason });
    }

    /// Decides a missed time with so many missed ones from it on.
    fn decide_missed(&mut self, due: Timestamp, from_it_on: usize, is_last_chance: bool) {
        let schedule = self.situation.schedule;
        match schedule.misfire {
            _ if self.situation.is_paused => self.skip(due, Skip::Paused),
            Misfire::Skip => self.skip(due, Skip::Missed),
            Misfire::FireOnce if from_it_on > 1 || !is_last_chance => self.skip(due, Skip::Superseded),
            Misfire::FireAll if from_it_on > MAX_CATCH_UPS => self.skip(due, Skip::TooMany),
            // They wait for each other; that is what the schedule asks for.
            Misfire::FireAll => self.run(due, true),
            Misfire::FireOnce => self.decide(due, true),
        }
    }

    fn decide(&mut self, due: Timestamp, is_missed: bool) {
        match self.situation.schedule.overlap {
            _ if self.situation.is_paused => self.skip(due, Skip::Paused),
            Overlap::Skip if self.active > 0 => self.skip(due, Skip::RunGoesOn),
            Overlap::QueueOne if self.active > 1 => self.skip(due, Skip::OneWaits),
            Overlap::Skip | Overlap::QueueOne | Overlap::Allow => self.run(due, is_missed),
        }
    }

    fn run(&mut self, at: Timestamp, is_missed: bool) {
        self.active += 1;
        self.decisions.push(Decision::Run { at, is_missed });
    }

    fn skip(&mut self, due: Timestamp, why: Skip) {
        if let Some(Decision::Skipped { last, times: Some(times), reason, .. }) = self.decisions.last_mut()
            && *reason == why
        {
            (*last, *times) = (due, *times + 1);
            return;
        }
        self.decisions.push(Decision::Skipped { first: due, last: due, times: Some(1), reason: why });
    }
}

fn before(at: Timestamp, span: Duration) -> Timestamp {
    at.plus_micros(-i64::try_from(span.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use domain::time::MICROS;
    use proptest::{collection::vec, prelude::*, sample::select};
    use serde_json::json;

    use super::*;

    fn schedule(cron: &str, overlap: &str, misfire: &str) -> Schedule {
        let written = json!({"job": "train", "cron": cron, "overlap": overlap, "misfire": misfire});
        Schedule::parse("test", written).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn run(text: &str, is_missed: bool) -> Decision {
        Decision::Run { at: at(text), is_missed }
    }

    fn skipped(first: &str, last: &str, times: u64, reason: Skip) -> Decision {
        Decision::Skipped { first: at(first), last: at(last), times: Some(times), reason }
    }

    fn decide(schedule: &Schedule, from: &str, now: &str, active_runs: usize) -> Vec<Decision> {
        let decided_until = at(from);
        plan(&Situation { schedule, decided_until, is_paused: false, active_runs, now: at(now) }).decisions
    }

    #[test]
    fn a_time_that_has_come_has_its_run_and_the_next_is_known() {
        let hourly = schedule("@hourly", "skip", "fire_once");
        let situation = Situation {
            schedule: &hourly,
            decided_until: at("2024-03-09T16:00:00Z"),
            is_paused: false,
            active_runs: 0,
            now: at("2024-03-09T17:00:00Z"),
        };
        let plan = plan(&situation);
        assert_eq!(plan.decisions, [run("2024-03-09T17:00:00Z", false)]);
        assert_eq!((plan.decided_until, plan.next), (situation.now, Some(at("2024-03-09T18:00:00Z"))));
    }

    #[test]
    fn what_goes_on_decides_what_may_begin() {
        let due = |overlap: &str, active| {
            decide(&schedule("@hourly", overlap, "skip"), "2024-03-09T16:30:00Z", "2024-03-09T17:00:30Z", active)
        };
        let at = "2024-03-09T17:00:00Z";
        assert_eq!(due("skip", 1), [skipped(at, at, 1, Skip::RunGoesOn)]);
        assert_eq!(due("queue_one", 1), [run(at, false)]);
        assert_eq!(due("queue_one", 2), [skipped(at, at, 1, Skip::OneWaits)]);
        assert_eq!(due("allow", 7), [run(at, false)]);
    }

    #[test]
    fn what_was_missed_is_made_up_for_as_the_schedule_says() {
        let missed = |misfire: &str| {
            decide(&schedule("@hourly", "skip", misfire), "2024-03-09T12:30:00Z", "2024-03-09T16:30:00Z", 0)
        };
        let times = ["2024-03-09T13:00:00Z", "2024-03-09T14:00:00Z", "2024-03-09T15:00:00Z", "2024-03-09T16:00:00Z"];
        assert_eq!(missed("skip"), [skipped(times[0], times[3], 4, Skip::Missed)]);
        assert_eq!(missed("fire_once"), [skipped(times[0], times[2], 3, Skip::Superseded), run(times[3], true)]);
        assert_eq!(missed("fire_all"), times.map(|time| run(time, true)));
        // A time that comes just now stands for the missed ones too.
        let now = decide(&schedule("@hourly", "skip", "fire_once"), "2024-03-09T14:30:00Z", "2024-03-09T16:00:10Z", 0);
        assert_eq!(now, [skipped(times[2], times[2], 1, Skip::Superseded), run(times[3], false)]);
    }

    #[test]
    fn old_and_many_are_left_out_with_the_reason() {
        let daily = schedule("@daily", "skip", "fire_all");
        let decided = decide(&daily, "2024-02-01T12:00:00Z", "2024-03-09T16:00:00Z", 0);
        let old = Decision::Skipped {
            first: at("2024-02-02T00:00:00Z"),
            last: at("2024-03-08T16:00:00Z"),
            times: None,
            reason: Skip::TooOld,
        };
        assert_eq!(decided, [old, run("2024-03-09T00:00:00Z", true)]);
        let often = schedule("* * * * *", "skip", "fire_all");
        let decided = decide(&often, "2024-03-09T12:00:00Z", "2024-03-09T16:00:30Z", 0);
        let runs = decided.iter().filter(|decision| matches!(decision, Decision::Run { .. })).count();
        // 239 were missed; the newest comes in time, and finds that the others go on.
        assert_eq!((decided.len(), runs), (102, MAX_CATCH_UPS));
        assert_eq!(decided[0], skipped("2024-03-09T12:01:00Z", "2024-03-09T14:19:00Z", 139, Skip::TooMany));
        assert_eq!(decided[101], skipped("2024-03-09T16:00:00Z", "2024-03-09T16:00:00Z", 1, Skip::RunGoesOn));
    }

    #[test]
    fn a_pause_misses_nothing() {
        let hourly = schedule("@hourly", "skip", "fire_all");
        let situation = Situation {
            schedule: &hourly,
            decided_until: at("2024-03-09T12:00:00Z"),
            is_paused: true,
            active_runs: 0,
            now: at("2024-03-09T16:00:00Z"),
        };
        let expected = [skipped("2024-03-09T13:00:00Z", "2024-03-09T16:00:00Z", 4, Skip::Paused)];
        assert_eq!(plan(&situation).decisions, expected);
    }

    #[test]
    fn a_clock_that_was_set_back_repeats_nothing() {
        let hourly = schedule("@hourly", "skip", "fire_all");
        let situation = Situation {
            schedule: &hourly,
            decided_until: at("2024-03-09T16:00:00Z"),
            is_paused: false,
            active_runs: 0,
            now: at("2024-03-09T14:30:00Z"),
        };
        let plan = plan(&situation);
        assert_eq!(plan.decisions, []);
        assert_eq!((plan.decided_until, plan.next), (situation.decided_until, Some(at("2024-03-09T17:00:00Z"))));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

        /// Whenever ticks come, also with a clock that jumps back and forth: every time is decided once, in its order.
        #[test]
        fn every_time_is_decided_once(
            cron in select(vec!["* * * * *", "*/7 * * * *", "0 * * * *", "30 3 * * *", "*/20 * * * * *"]),
            overlap in select(vec!["skip", "queue_one", "allow"]),
            misfire in select(vec!["skip", "fire_once", "fire_all"]),
            jumps in vec((-4_000_i64..40_000, any::<bool>(), 0_usize..4), 1..12),
        ) {
            let schedule = schedule(cron, overlap, misfire);
            let start = at("2024-03-09T16:00:17Z");
            let (mut decided_until, mut now, mut greatest) = (start, start, start);
            let mut decisions = Vec::new();
            for (seconds, is_paused, active_runs) in jumps {
                now = now.plus_micros(seconds * MICROS);
                greatest = greatest.max(now);
                let plan = plan(&Situation { schedule: &schedule, decided_until, is_paused, active_runs, now });
                prop_assert!(plan.decided_until == greatest && plan.next.unwrap() > greatest);
                decided_until = plan.decided_until;
                decisions.extend(plan.decisions);
            }
            let mut expected = schedule.time.after(start).take_while(|due| *due <= greatest).peekable();
            for decision in decisions {
                let (first, last, times) = match decision {
                    Decision::Run { at, .. } => (at, at, Some(1)),
                    Decision::Skipped { first, last, times, .. } => (first, last, times),
                };
                prop_assert_eq!(expected.peek(), Some(&first));
                let covered = std::iter::from_fn(|| expected.next_if(|due| *due <= last)).count() as u64;
                prop_assert!(times.is_none_or(|times| times == covered), "{decision:?} covers {covered}");
            }
            prop_assert_eq!(expected.next(), None);
        }
    }
}
