//! Backfill and verify of a day of trades, as a user runs them: the program, a CSV file in Binance's form, an empty folder.
//!
//! `cargo bench --bench backfill`; `SENTINEL_BENCH_TRADES` sets the number of trades (3 million).

#![expect(clippy::unwrap_used, reason = "a benchmark may stop at any line")]

mod program;

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use program::timed;

/// Runs of which the median is told.
const RUNS: usize = 3;

/// 2024-03-09, in milliseconds.
const DAY: i64 = 1_709_942_400_000;

fn main() {
    let trades: i64 = std::env::var("SENTINEL_BENCH_TRADES").map_or(3_000_000, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("BTCUSDT-trades-2024-03-09.csv");
    write_day(&archive, trades);
    let bytes = fs::metadata(&archive).unwrap().len();
    println!("{trades} trades of one symbol and day, {} MB of CSV", bytes / 1_000_000);
    let (mut fills, mut verifies, mut peak) = (Vec::new(), Vec::new(), 0);
    for run in 0..RUNS {
        let data = folder.path().join(format!("data-{run}"));
        let (fill, memory) = timed(&data, &["backfill", "run", archive.to_str().unwrap(), "--execute"]);
        let (verify, _) = timed(&data, &["verify"]);
        peak = peak.max(memory);
        fills.push(fill);
        verifies.push(verify);
        fs::remove_dir_all(&data).unwrap();
    }
    tell("backfill, archive to committed events, features and windows", trades, fills);
    tell("verify of features and windows", trades, verifies);
    println!("peak memory of backfill: {} MB", peak / 1_024);
}

/// A day of trades as Binance's archive has it: two in three share a millisecond with the one before.
fn write_day(path: &Path, trades: i64) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    let (mut state, mut price) = (0x9e37_79b9_u64, 6_000_000_i64);
    for number in 0..trades {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        price = (price + i64::try_from(state % 201).unwrap() - 100).max(1_000_000);
        let quantity = 1 + state % 99_999;
        let time = DAY + (number / 3 * 3) * 86_400_000 / trades;
        let (whole, cents) = (price / 100, price % 100);
        let is_maker = if state & 1 == 0 { "True" } else { "False" };
        writeln!(
            file,
            "{},{whole}.{cents:02}000000,0.{quantity:05}000,61.00000000,{time},{is_maker},True",
            3_000_000_000 + number
        )
        .unwrap();
    }
}

fn tell(what: &str, trades: i64, mut seconds: Vec<f64>) {
    seconds.sort_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let rate = |seconds: f64| trades as f64 / seconds;
    let (median, slowest) = (rate(seconds[seconds.len() / 2]), rate(seconds[seconds.len() - 1]));
    println!("{what}: {median:.0} trades/s, slowest {slowest:.0}");
}
