//! The flags of `sentinel backfill`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use domain::Symbol;

use super::{OutputArgs, TimeRangeArgs};

/// `sentinel backfill`
#[derive(Args, Clone, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_value_name = "COMMAND",
    after_help = "\
Examples:
  sentinel backfill plan BTCUSDT-trades-2024-03-09.zip
  sentinel backfill run archives/ --from 2024-03-01 --to 2024-03-10 --execute
  sentinel backfill --gaps archives/
  sentinel backfill status
  sentinel backfill resume 3

Archives are Binance's public files (spot trades, aggTrades, 1-minute klines; CSV
or ZIP), JSON Lines, Parquet files, folders of these, or Delta tables. Without a
command the plan is printed, and nothing is written."
)]
pub struct BackfillArgs {
    /// What to do; without a command, `plan`
    #[command(subcommand)]
    pub command: Option<BackfillCommand>,
    #[command(flatten)]
    pub what: WhatArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum BackfillCommand {
    /// Print what would be done, slice by slice, and write nothing
    Plan(PlanArgs),
    /// Fill the tables from archives; prints the plan only, without --execute
    Run(RunArgs),
    /// List the runs, or show one with its slices
    Status(StatusArgs),
    /// Go on with a run that failed, was cancelled or interrupted
    #[command(after_help = "Example:\n  sentinel backfill resume 3\n\nSlices that are done are not done again.")]
    Resume(RunNumberArgs),
    /// Ask a run to end
    #[command(after_help = "Example:\n  sentinel backfill cancel 3\n\nSlices that are done stay; `resume` goes on.")]
    Cancel(RunNumberArgs),
}

/// What is filled, from what.
#[derive(Args, Clone, Debug)]
pub struct WhatArgs {
    /// Files, folders or Delta tables
    #[arg(value_name = "ARCHIVES")]
    pub archives: Vec<PathBuf>,
    #[command(flatten)]
    pub range: TimeRangeArgs,
    /// Only these symbols; one of them names the rows of a file whose name does not
    #[arg(long, value_name = "S,...", value_delimiter = ',')]
    pub symbols: Option<Vec<Symbol>>,
    /// Length of a slice: minutes, hours or days
    #[arg(long, value_name = "LENGTH", default_value = "1d", value_parser = jobs::backfill::parse_grain)]
    pub grain: u32,
    /// Only the minutes around trades that are missing, see `sentinel gaps`
    #[arg(long)]
    pub gaps: bool,
    /// Symbols filled side by side
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub max_active: u8,
    /// What becomes of the other slices when one fails
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = OnErrorArg::Stop)]
    pub on_error: OnErrorArg,
}

/// What becomes of the other slices when one fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnErrorArg {
    /// None is begun any more
    Stop,
    /// They are filled nevertheless
    Continue,
}

/// `sentinel backfill plan`
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sentinel backfill plan archives/ --symbols BTC-USDT
  sentinel backfill plan archives/ --output plan.json
  sentinel backfill run --plan plan.json --execute")]
pub struct PlanArgs {
    #[command(flatten)]
    pub what: WhatArgs,
    /// Write the plan to a new file, for `run --plan`
    #[arg(long = "output", value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `sentinel backfill run`
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sentinel backfill run BTCUSDT-trades-2024-03-09.zip --execute
  sentinel backfill run archives/ --grain 6h --on-error continue --execute
  sentinel backfill run --plan plan.json --execute

It may run while `sentinel up` streams. A slice is committed as a whole; Ctrl-C
leaves the run to be resumed, and nothing is done twice.")]
pub struct RunArgs {
    #[command(flatten)]
    pub what: WhatArgs,
    /// A plan that `plan --output` wrote; refused where it would be another one now
    #[arg(long, value_name = "FILE", conflicts_with_all = ["archives", "from", "to", "symbols", "gaps"])]
    pub plan: Option<PathBuf>,
    /// Do it
    #[arg(long)]
    pub execute: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `sentinel backfill status`
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  sentinel backfill status\n  sentinel backfill status 3 --json")]
pub struct StatusArgs {
    /// The run; all of them, newest first, where none is named
    #[arg(value_name = "RUN")]
    pub run: Option<i64>,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// A run by its number.
#[derive(Args, Clone, Debug)]
pub struct RunNumberArgs {
    /// The run, see `sentinel backfill status`
    #[arg(value_name = "RUN")]
    pub run: i64,
}
