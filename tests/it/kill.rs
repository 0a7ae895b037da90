//! A process that is killed at any point loses nothing and doubles nothing.
//!
//! The same finite market, and files of a market with late, repeated and broken lines, are taken in twice: undisturbed,
//! and with kills at named points. Every table must hold the same rows, all but the time of the append.

use std::{fmt::Write, fs};

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
    assert!(!calm.rows(TableName::Alerts, &[]).is_empty(), "no alert was raised");
    let files = 2 * TROUBLED_LINES;
    let dead = files / BROKEN_EVERY;
    let late = calm.rows(TableName::LateEvents, &[]).len();
    assert!(late > files / LATE_EVERY, "only {late} late and repeated events");
    assert_eq!(calm.rows(TableName::DeadLetters, &[]).len(), dead);
    assert_eq!(calm.rows(TableName::Events, &[]).len(), 6_000 + files - dead - late);
    assert_eq!(calm.rows(TableName::Predictions, &[]).len(), 6_000 + files - dead - late);
}

/// Takes in the market and a file, trains in the middle of it, and takes in the rest.
fn live_through(data: &Data, mut storm: Option<&mut Storm>) {
    let market = |events| format!("ingest simulated --events {events} {MARKET}");
    for (name, first) in [("one.jsonl", 0), ("two.jsonl", TROUBLED_LINES - 30)] {
        fs::write(data.path().join(name), troubled_lines(first)).unwrap();
    }
    for ingest in [market(BEFORE_TRAINING[0]), "ingest file one.jsonl".to_owned(), market(BEFORE_TRAINING[1])] {
        take_in(data, &ingest, storm.as_deref_mut());
    }
    data.run("train --trees 20");
    for ingest in [market(AFTER_TRAINING[0]), "ingest file two.jsonl".to_owned(), market(AFTER_TRAINING[1])] {
        take_in(data, &ingest, storm.as_deref_mut());
    }
}

/// Lines of each file, and which of them are broken, and late or repeated.
const TROUBLED_LINES: usize = 400;
const BROKEN_EVERY: usize = 40;
const LATE_EVERY: usize = 25;

/// A trade a second from trade `first` on, with lines among them that cannot be read, come too late or come twice.
fn troubled_lines(first: usize) -> String {
    let mut lines = String::new();
    for number in 0..TROUBLED_LINES {
        let trade = match number {
            _ if number % BROKEN_EVERY == 1 => {
                lines.push_str("{\"symbol\":\"KO-USDT\",\"price\":\n");
                continue;
            }
            _ if number % LATE_EVERY == 2 => (first + number).saturating_sub(100),
            _ if number % LATE_EVERY == 3 => first + number - 1,
            _ => first + number,
        };
        let (time, price) = (1_710_000_000 + trade, 60.0 + f64::from(u32::try_from(trade % 17).unwrap()) / 8.0);
        let line = format!("\"timestamp\":{time},\"symbol\":\"KO-USDT\",\"price\":{price},\"volume\":2.5");
        writeln!(lines, "{{{line},\"trade_id\":{trade}}}").unwrap();
    }
    lines
}

/// Appends a source and folds the log to its end, through all the kills.
fn take_in(data: &Data, ingest: &str, mut storm: Option<&mut Storm>) {
    for command in [ingest, "stream --once"] {
        if let Some(storm) = storm.as_deref_mut() {
            storm.pass_over(data, command);
        }
        let output = data.sentinel(command).env(FLUSH_ROWS.0, FLUSH_ROWS.1).output().unwrap();
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
