//! A process that is killed at any point loses nothing and doubles nothing.
//!
//! The same finite market is taken in twice: undisturbed, and with kills at named points. Every table must hold the
//! same rows, all but the time of the append.

use lake::TableName;

use crate::harness::{Data, printed, was_killed};

const MARKET: &str = "--seed 7 --start 2024-03-09T16:00:00Z --speed 0";

/// Events in the log before and after the training.
const BEFORE_TRAINING: [u32; 2] = [1_500, 3_000];
const AFTER_TRAINING: [u32; 2] = [4_500, 6_000];

/// Fewer kills prove too little.
const LEAST_KILLS: usize = 20;

#[test]
fn killed_at_any_point_every_table_ends_with_the_rows_of_an_undisturbed_run() {
    let (calm, stormy) = (Data::new(), Data::new());
    let mut storm = Storm::new(11);
    live_through(&calm, None);
    live_through(&stormy, Some(&mut storm));
    assert!(storm.kills >= LEAST_KILLS, "only {} kills", storm.kills);
    for table in TableName::ALL {
        let (expected, actual) = (calm.rows(table, &["ingest_time"]), stormy.rows(table, &["ingest_time"]));
        let name = table.as_str();
        assert_eq!(actual.len(), expected.len(), "rows of {name}");
        let difference = expected.iter().zip(&actual).find(|(expected, actual)| expected != actual);
        assert_eq!(difference, None, "first difference in {name}");
    }
    assert_eq!(calm.rows(TableName::Events, &[]).len(), 6_000);
    assert_eq!(calm.rows(TableName::Predictions, &[]).len(), 6_000);
}

/// Takes in the market, trains in the middle of it, and takes in the rest.
fn live_through(data: &Data, mut storm: Option<&mut Storm>) {
    for events in BEFORE_TRAINING {
        take_in(data, events, storm.as_deref_mut());
    }
    data.run("train --trees 20");
    for events in AFTER_TRAINING {
        take_in(data, events, storm.as_deref_mut());
    }
}

/// Appends the market up to `events` and folds the log to its end, through all the kills.
fn take_in(data: &Data, events: u32, storm: Option<&mut Storm>) {
    let mut points = storm;
    for command in [format!("ingest simulated --events {events} {MARKET}"), "stream --once".to_owned()] {
        if let Some(storm) = points.as_deref_mut() {
            storm.pass_over(data, &command);
        }
        let output = data.sentinel(&command).env(FLUSH_ROWS.0, FLUSH_ROWS.1).output().unwrap();
        assert!(output.status.success(), "{command}: {}", printed(&output));
    }
}

/// Small flushes, so that there are many moments to die at.
const FLUSH_ROWS: (&str, &str) = ("SENTINEL__STREAM__FLUSH_ROWS", "100");

/// Where the kills fall: a seeded walk over the points.
struct Storm {
    state: u64,
    kills: usize,
}

impl Storm {
    const fn new(seed: u64) -> Self {
        Self { state: seed, kills: 0 }
    }

    /// Starts a command again and again, and kills it again and again.
    fn pass_over(&mut self, data: &Data, command: &str) {
        for point in self.points(command) {
            let mut run = data.sentinel(command);
            let run = run.env("SENTINEL_CRASH_AT", &point).env(FLUSH_ROWS.0, FLUSH_ROWS.1);
            let output = run.output().unwrap();
            if output.status.success() {
                // The point lay beyond the end of the work.
                return;
            }
            assert!(was_killed(output.status), "{command} at {point}: {}", printed(&output));
            self.kills += 1;
        }
    }

    fn points(&mut self, command: &str) -> Vec<String> {
        if command.starts_with("ingest") {
            return vec!["appended:1".to_owned()];
        }
        let points = (0..7).map(|_| match self.draw(3) {
            0 => format!("files-written:{}", 1 + self.draw(6)),
            1 => format!("committed:{}", 1 + self.draw(6)),
            _ => format!("before-next:{}", 1 + self.draw(2)),
        });
        points.collect()
    }

    /// A number below `limit` (xorshift64).
    const fn draw(&mut self, limit: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % limit
    }
}
