//! A training on a million rows as a user runs it: the program, a folder with their features, the record at the end.
//!
//! `cargo bench --bench retrain`; `SENTINEL_BENCH_ROWS` sets the number of rows that are trained on (1 million).

#![expect(clippy::unwrap_used, reason = "a benchmark may stop at any line")]

mod program;

use program::timed;

/// Runs of which the median is told.
const RUNS: usize = 5;

fn main() {
    let rows: u64 = std::env::var("SENTINEL_BENCH_ROWS").map_or(1_000_000, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    // Rows with labels are split: four of five are trained on, the newest are measured on.
    let events = (rows * 5 / 4).to_string();
    let market = ["ingest", "simulated", "--events", &events, "--start", "2024-03-09", "--speed", "0"];
    timed(folder.path(), &market);
    timed(folder.path(), &["stream", "--once"]);
    timed(folder.path(), &["table", "compact", "features"]);
    let runs: Vec<(f64, u64)> = (0..RUNS).map(|_| timed(folder.path(), &["train"])).collect();
    let mut seconds: Vec<f64> = runs.iter().map(|(seconds, _)| *seconds).collect();
    seconds.sort_by(f64::total_cmp);
    let peak = runs.iter().map(|(_, memory)| *memory).max().unwrap();
    println!("training on {rows} rows, {events} read: {:.2} s, slowest {:.2} s", seconds[RUNS / 2], seconds[RUNS - 1]);
    println!("peak memory: {} MB", peak / 1_024);
    let verified = timed(folder.path(), &["model", "verify", "champion"]);
    println!("made again from its record: {:.2} s", verified.0);
}
