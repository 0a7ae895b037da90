//! The command line: typed flags only. What they mean is decided in `config.rs` and in `commands/`.
//!
//! A flag that is also a setting is an `Option` without a default here: its default is the setting's.

mod alert;
mod backfill;
mod key;
mod model;
mod schedule;
mod topic;

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use domain::{Offset, Partition, Symbol, Timestamp};

pub use alert::{AlertCommand, AlertListArgs};
pub use backfill::{BackfillArgs, BackfillCommand, OnErrorArg, PlanArgs, RunArgs, StatusArgs, WhatArgs};
pub use key::{KeyCommand, ScopeArg};
pub use model::{DriftArgs, ModelCommand};
pub use schedule::{CatchUpArg, RunCommand, ScheduleCommand};
pub use topic::{MoveArgs, MoveFrom, TailArgs, TailFrom, TopicCommand};

/// The most partitions that one `--partitions` may name.
const MAX_PARTITIONS: Partition = 1_024;

/// Watches crypto markets: trades become features, features become scored, stored and served anomalies.
#[derive(Clone, Debug, Parser)]
#[command(name = "sentinel", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  sentinel up                                          a simulated market at http://127.0.0.1:8000
  sentinel --data-dir live up --source binance         the same on Binance's live trades
  sentinel --data-dir real up --source file trades.gz  the same on recorded trades
  sentinel config                                      every setting and where it comes from

Settings: defaults, then sentinel.toml, then SENTINEL__SECTION__KEY in the environment, then flags.
Exit codes: 0 ok, 1 a difference or a failed gate, 2 usage, 3 unavailable.";

const EVERYWHERE: &str = "With every command";

/// Flags of every command.
#[derive(Args, Clone, Debug)]
pub struct GlobalArgs {
    /// Where log, lake and models are kept [default: ./data]
    #[arg(long, global = true, value_name = "DIR", help_heading = EVERYWHERE)]
    pub data_dir: Option<PathBuf>,
    /// The settings file [default: ./sentinel.toml if there]
    #[arg(long, global = true, value_name = "FILE", help_heading = EVERYWHERE)]
    pub config: Option<PathBuf>,
    /// A level, or directives such as warn,lake=debug [default: info]
    #[arg(long, global = true, value_name = "LEVEL", help_heading = EVERYWHERE)]
    pub log_level: Option<String>,
}

/// Where the event log is, for commands that write it or read all of it.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// The event log: embedded, or a Fluvio cluster as fluvio://HOST:PORT [default: embedded]
    #[arg(long = "log", value_name = "LOG")]
    pub engine: Option<String>,
}

impl LogArgs {
    /// What was given, with the flag.
    pub fn given(&self) -> (&'static str, Option<&str>) {
        ("--log", self.engine.as_deref())
    }
}

/// What to do. The order is the order in which data flows.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run everything in one process: source, event log, stream job, training, HTTP service
    Up(UpArgs),
    /// Write events into the event log
    #[command(subcommand)]
    Ingest(IngestCommand),
    /// Fold the event log into the lake's tables
    Stream(StreamArgs),
    /// Serve predictions and tables over HTTP
    Serve(ServeArgs),
    /// Train a model on the lake's features
    Train(TrainArgs),
    /// Measure a model on the lake's features
    Evaluate(EvaluateArgs),
    /// Fill the tables from archives
    Backfill(BackfillArgs),
    /// Fold and score history once more, into a report or a shadow
    Replay(ReplayArgs),
    /// Make derived rows again from the events and compare every value
    Verify(VerifyArgs),
    /// Look at the registered models, promote, verify and export them
    #[command(subcommand)]
    Model(ModelCommand),
    /// Say whether the newest rows still look like those that the champion was trained on
    Drift(DriftArgs),
    /// Look at alerts, at what speaks for them, and say what they were
    #[command(subcommand)]
    Alert(AlertCommand),
    /// Ask the lake's tables in SQL, at any of their versions
    Query(QueryArgs),
    /// Write a table, or a part of it, to a file
    Export(ExportArgs),
    /// Look at the lake's tables, keep them small, bring them back
    #[command(subcommand)]
    Table(TableCommand),
    /// Name the trades that the lake's events lack
    Gaps(GapsArgs),
    /// Look at the event log's topic, and at its records as they come
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Start what schedules say, in a process of its own
    #[command(after_help = "Example:\n  sentinel scheduler  several may run: every time is decided once")]
    Scheduler,
    /// Say what is started when
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Look at what was started, end it or do it again
    #[command(subcommand)]
    Run(RunCommand),
    /// Look at the records that could not be events
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// Make, list and revoke the API keys of the service
    #[command(subcommand)]
    Key(KeyCommand),
    /// Check the data directory and say what is wrong with it
    Doctor(DoctorArgs),
    /// Show every setting, its value and where it comes from
    Config(ConfigArgs),
}

/// `sentinel up`
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sentinel up
  sentinel up --symbols BTC-USDT,SOL-USDT --bind 127.0.0.1:9000
  sentinel --data-dir live up --source binance --symbols BTC-USDT,ETH-USDT
  sentinel --data-dir real up --source file btcusdt.gz ethusdt.gz --speed 1
  sentinel up --log fluvio://127.0.0.1:9003

A live market goes on with what is traded now; `sentinel gaps` names what was missed.
A second start goes on exactly where the first ended. Ctrl-C flushes and exits 0.")]
pub struct UpArgs {
    /// The built-in market simulator, Binance's live trades, or files of recorded events [default: simulated]
    #[arg(long, value_name = "KIND")]
    pub source: Option<SourceArg>,
    /// With --source file: JSON Lines of events or recorded Binance frames, gzip or not
    #[arg(value_name = "PATHS")]
    pub paths: Vec<PathBuf>,
    /// Times the event pace, 0 = as fast as possible [default: 1 for simulated, 0 for file]
    #[arg(long, value_name = "N")]
    pub speed: Option<f64>,
    #[command(flatten)]
    pub simulated: SimulatedArgs,
    /// Hours of simulated history before the present [default: 2]
    #[arg(long, value_name = "HOURS", help_heading = SIMULATED)]
    pub warm_start_hours: Option<f64>,
    /// The address to serve at [default: 127.0.0.1:8000]
    #[arg(long, value_name = "HOST:PORT")]
    pub bind: Option<String>,
    /// Let whoever reaches the address do everything, without an API key
    #[arg(long)]
    pub insecure_no_keys: bool,
    #[command(flatten)]
    pub log: LogArgs,
}

const SIMULATED: &str = "Simulated market";

/// Flags of the simulated market.
#[derive(Args, Clone, Debug)]
pub struct SimulatedArgs {
    /// The markets, also of --source binance [default: BTC-USDT,ETH-USDT,BNB-USDT]
    #[arg(long, value_name = "S,...", value_delimiter = ',', help_heading = SIMULATED)]
    pub symbols: Option<Vec<Symbol>>,
    /// Stop once this many events are made, of all symbols together; the tick that reaches them is completed
    #[arg(long, value_name = "N", help_heading = SIMULATED)]
    pub events: Option<u64>,
    /// The seed: the same seed makes the same market [default: 42]
    #[arg(long, value_name = "S", help_heading = SIMULATED)]
    pub seed: Option<u64>,
    /// Event time of the first event, such as 2024-03-09T16:00:00Z or Unix seconds
    #[arg(long, value_name = "TIME", value_parser = parse_time, help_heading = SIMULATED)]
    pub start: Option<Timestamp>,
}

impl SimulatedArgs {
    /// The first flag that only a simulated market has.
    pub const fn first_given(&self) -> Option<&'static str> {
        match self {
            Self { events: Some(_), .. } => Some("--events"),
            Self { seed: Some(_), .. } => Some("--seed"),
            Self { start: Some(_), .. } => Some("--start"),
            _ => None,
        }
    }
}

/// A kind of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SourceArg {
    // Documented in the help of `--source`: variants with a text of their own make that help twice as long.
    Simulated,
    Binance,
    File,
}

impl SourceArg {
    /// The name on the command line and in the settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Simulated => "simulated",
            Self::Binance => "binance",
            Self::File => "file",
        }
    }
}

/// `sentinel ingest`
#[derive(Clone, Debug, Subcommand)]
pub enum IngestCommand {
    /// Read files of events; a file read before is reported and not read twice
    #[command(after_help = "\
Examples:
  sentinel ingest file trades.jsonl
  sentinel --data-dir real ingest file btcusdt.gz ethusdt.gz --final

An interrupted file goes on where it ended.")]
    File(IngestFileArgs),
    /// Simulate a market
    #[command(after_help = "\
Example, the same events every time:
  sentinel ingest simulated --events 100000 --seed 7 --start 2024-03-09T16:00:00Z --speed 0")]
    Simulated(IngestSimulatedArgs),
    /// Listen to Binance's live trades until Ctrl-C
    #[command(after_help = "\
Example:
  sentinel --data-dir live ingest binance --symbols BTC-USDT,ETH-USDT

Goes on with what is traded now; `sentinel gaps` names what was missed. Needs no key.
Another address that speaks the same: the setting source.binance_endpoint.")]
    Binance(IngestBinanceArgs),
}

/// `sentinel ingest file`
#[derive(Args, Clone, Debug)]
pub struct IngestFileArgs {
    /// JSON Lines of events or recorded Binance frames, gzip or not
    #[arg(value_name = "PATHS", required = true)]
    pub paths: Vec<PathBuf>,
    /// Times the recorded pace, 0 = as fast as possible [default: 0]
    #[arg(long, value_name = "N")]
    pub speed: Option<f64>,
    /// Nothing follows these files: close their last windows
    #[arg(long = "final")]
    pub is_final: bool,
    #[command(flatten)]
    pub log: LogArgs,
}

/// `sentinel ingest simulated`
#[derive(Args, Clone, Debug)]
pub struct IngestSimulatedArgs {
    #[command(flatten)]
    pub simulated: SimulatedArgs,
    /// Times the real pace, 0 = as fast as possible [default: 1]
    #[arg(long, value_name = "N")]
    pub speed: Option<f64>,
    #[command(flatten)]
    pub log: LogArgs,
}

/// `sentinel ingest binance`
#[derive(Args, Clone, Debug)]
pub struct IngestBinanceArgs {
    /// The markets [default: BTC-USDT,ETH-USDT,BNB-USDT]
    #[arg(long, value_name = "S,...", value_delimiter = ',')]
    pub symbols: Option<Vec<Symbol>>,
    #[command(flatten)]
    pub log: LogArgs,
}

/// `sentinel stream`
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sentinel stream --once
  sentinel stream --partitions 0-1  one process of two; the other takes 2-3")]
pub struct StreamArgs {
    /// Stop at the end of the log instead of waiting for more
    #[arg(long)]
    pub once: bool,
    /// The partitions to fold, such as 0-3 or 0,2 [default: all]
    #[arg(long, value_name = "LIST")]
    pub partitions: Option<PartitionList>,
    #[command(flatten)]
    pub log: LogArgs,
}

/// `sentinel serve`
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sentinel serve --bind 127.0.0.1:9000
  sentinel serve --bind 0.0.0.0:8000  asks for API keys: `sentinel key create`")]
pub struct ServeArgs {
    /// The address to serve at [default: 127.0.0.1:8000]
    #[arg(long, value_name = "HOST:PORT")]
    pub bind: Option<String>,
    /// Let whoever reaches the address do everything, without an API key
    #[arg(long)]
    pub insecure_no_keys: bool,
    #[command(flatten)]
    pub log: LogArgs,
}

/// `sentinel train`
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sentinel train
  sentinel train --symbols BTC-USDT --from 2024-03-09 --to 2024-03-10 --trees 400 --no-promote
  sentinel train --exclude 2024-03-09T16:00:00Z/2024-03-09T17:00:00Z --trim 0.01 --candidate")]
pub struct TrainArgs {
    #[command(flatten)]
    pub range: TimeRangeArgs,
    /// Only these symbols
    #[arg(long, value_name = "S,...", value_delimiter = ',')]
    pub symbols: Option<Vec<Symbol>>,
    /// Trees of the forest [default: 200]
    #[arg(long, value_name = "N")]
    pub trees: Option<u64>,
    /// The share of rows taken for anomalies [default: 0.01]
    #[arg(long, value_name = "SHARE")]
    pub contamination: Option<f64>,
    /// The seed: the same seed and rows make the same model [default: 42]
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Leave the rows of this event time out, as FROM/TO; may be given again
    #[arg(long = "exclude", value_name = "FROM/TO", value_parser = parse_times)]
    pub exclude: Vec<(Timestamp, Timestamp)>,
    /// Leave this share of the rows out, the most anomalous by a first model of all of them
    #[arg(long, value_name = "SHARE")]
    pub trim: Option<f64>,
    /// Read this version of the table `features` [default: the newest]
    #[arg(long, value_name = "N")]
    pub table_version: Option<u64>,
    /// Register the model and leave the champion as it is
    #[arg(long)]
    pub no_promote: bool,
    /// Let the model be judged by newer rows before it may be champion
    #[arg(long, conflicts_with = "no_promote")]
    pub candidate: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `sentinel evaluate`
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  sentinel evaluate --model 3 --from 2024-03-10 --json")]
pub struct EvaluateArgs {
    /// A version, or champion
    #[arg(long, value_name = "V", default_value_t = ModelSelector::Champion)]
    pub model: ModelSelector,
    #[command(flatten)]
    pub range: TimeRangeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `sentinel replay`
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sentinel replay --model 3 --diff-against live
  sentinel replay --from 2024-03-09 --to 2024-03-10 --symbols BTC-USDT --into shadow
  sentinel replay --speed 60 --from 2024-03-09T16:00:00Z

Folds the stored events by the fold that live ones meet and scores them by one
model. It never alerts and touches nothing that is served. A shadow is a folder
of Delta tables beside the lake.")]
pub struct ReplayArgs {
    #[command(flatten)]
    pub range: TimeRangeArgs,
    /// Only these symbols
    #[arg(long, value_name = "S,...", value_delimiter = ',')]
    pub symbols: Option<Vec<Symbol>>,
    /// Times the recorded pace, 0 = as fast as possible
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    pub speed: f64,
    /// Where the rows go
    #[arg(long, value_name = "WHERE", value_enum, default_value_t = ReplayInto::Report)]
    pub into: ReplayInto,
    /// With --into shadow: the folder's name under `<data-dir>/shadow` [default: replay-<now>]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// A version, or champion; it scores every event
    #[arg(long, value_name = "V", default_value_t = ModelSelector::Champion)]
    pub model: ModelSelector,
    /// Say which rows and verdicts differ from the stored ones, and how
    #[arg(long, value_name = "WHAT", value_enum)]
    pub diff_against: Option<DiffAgainst>,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Where the rows of a replay go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReplayInto {
    /// They are counted and compared, and not kept
    Report,
    /// Delta tables under `<data-dir>/shadow`
    Shadow,
}

/// What a replay is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DiffAgainst {
    /// The tables of the lake
    Live,
}

/// `sentinel verify`
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sentinel verify
  sentinel verify --table features --symbols BTC-USDT --from 2024-03-09 --to 2024-03-10
  sentinel verify --log

Folds the events again, scores the predictions again by the models that made
them, raises alerts again from the stored predictions, and compares every value
bit for bit. Exit code 1 where anything differs. It only reads, and may run
beside everything else.")]
pub struct VerifyArgs {
    /// Only this table: features, windows, predictions or alerts
    #[arg(long, value_name = "TABLE")]
    pub table: Option<String>,
    #[command(flatten)]
    pub range: TimeRangeArgs,
    /// Only these symbols
    #[arg(long, value_name = "S,...", value_delimiter = ',')]
    pub symbols: Option<Vec<Symbol>>,
    /// Prove as well that every record still in the log has exactly one fate in the tables
    #[arg(long)]
    pub log: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// A range of event time.
#[derive(Args, Clone, Copy, Debug)]
pub struct TimeRangeArgs {
    /// From this event time on, such as 2024-03-09T16:00:00Z, 2024-03-09 or Unix seconds
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub from: Option<Timestamp>,
    /// Before this event time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub to: Option<Timestamp>,
}

/// `sentinel query`
#[derive(Args, Clone, Debug)]
#[command(after_help = QUERY_HELP)]
pub struct QueryArgs {
    /// One statement that only reads
    #[arg(value_name = "SQL")]
    pub sql: String,
    /// table, csv, json, ndjson, arrow or parquet [default: what FILE ends in, else table on a terminal, csv elsewhere]
    #[arg(long, value_name = "FORMAT", hide_possible_values = true)]
    pub format: Option<FormatArg>,
    /// Write to this file instead; it appears once it is whole
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// At most so many rows, 0 = all [default: 100 as a table on a terminal, else all]
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
}

const QUERY_HELP: &str = "\
Examples:
  sentinel query 'SELECT symbol, count(*) FROM features GROUP BY symbol'
  sentinel query 'SELECT avg(price) FROM features VERSION AS OF 12' --format json
  sentinel query 'SELECT * FROM windows' --output windows.parquet

Tables: events, features, windows, predictions, alerts, late_events, dead_letters, gaps.
In the place of a table, with a TIME such as '2024-03-09T16:00:00Z':
  features VERSION AS OF 12       a version
  features TIMESTAMP AS OF TIME   what was stored at a time; also as_of('features', TIME)
  known_at('features', TIME)      the newest rows whose records were in the log by a time
  changes('features', 12, 15)     rows added and removed after 12 up to 15: _change, _version
  history('features')             the commits

Quote \"offset\", a word of SQL. Times are UTC.
Arrow is an IPC file with --output, an IPC stream without.";

/// `sentinel export`
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sentinel export features --output features.parquet
  sentinel export windows --symbols BTC-USDT --from 2024-03-09 --to 2024-03-10 --output btc.csv
  sentinel export features --known-at 2024-03-09T16:00:00Z --output .

Rows are ordered by time, partition and offset. The time of dead_letters and gaps is their ingest_time.")]
pub struct ExportArgs {
    #[command(flatten)]
    pub table: TableArg,
    /// The file, which appears once it is whole; in a folder: TABLE-vVERSION.FORMAT
    #[arg(long, value_name = "FILE|DIR")]
    pub output: PathBuf,
    #[command(flatten)]
    pub range: TimeRangeArgs,
    /// Only these symbols
    #[arg(long, value_name = "S,...", value_delimiter = ',')]
    pub symbols: Option<Vec<Symbol>>,
    /// Only these columns, in this order
    #[arg(long, value_name = "C,...", value_delimiter = ',')]
    pub columns: Option<Vec<String>>,
    /// This version [default: the newest]
    #[arg(long, value_name = "N", group = "state")]
    pub version: Option<u64>,
    /// What was stored at this time
    #[arg(long, value_name = "TIME", value_parser = parse_time, group = "state")]
    pub as_of: Option<Timestamp>,
    /// The newest rows whose records were in the log by this time
    #[arg(long, value_name = "TIME", value_parser = parse_time, group = "state")]
    pub known_at: Option<Timestamp>,
    /// csv, json, ndjson, arrow or parquet [default: what FILE ends in, else csv]
    #[arg(long, value_name = "FORMAT", value_parser = parse_file_format)]
    pub format: Option<FormatArg>,
    #[command(flatten)]
    pub json: OutputArgs,
}

/// A form of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    // Documented in the help of `--format`.
    Table,
    Csv,
    Json,
    Ndjson,
    Arrow,
    Parquet,
}

impl FormatArg {
    /// The name on the command line, and what a file of it ends in.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Arrow => "arrow",
            Self::Parquet => "parquet",
        }
    }

    /// The form that a file's name ends in.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "csv" => Some(Self::Csv),
            "json" => Some(Self::Json),
            "ndjson" | "jsonl" => Some(Self::Ndjson),
            "arrow" | "feather" => Some(Self::Arrow),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// `sentinel table`
#[derive(Clone, Debug, Subcommand)]
pub enum TableCommand {
    /// List the tables with their versions, rows and files
    #[command(after_help = "Example:\n  sentinel table list --json")]
    List(OutputArgs),
    /// Show the commits of a table, newest first
    #[command(after_help = "Example:\n  sentinel table history features")]
    History {
        #[command(flatten)]
        table: TableArg,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Join the small files of a table
    #[command(after_help = "\
Examples:
  sentinel table compact features --dry-run
  sentinel table compact features")]
    Compact(TableChangeArgs),
    /// Write a checkpoint, from which readers begin instead of reading every commit
    #[command(after_help = "Example:\n  sentinel table checkpoint features")]
    Checkpoint(TableChangeArgs),
    /// Delete files that no version of the last hours needs
    #[command(after_help = "\
Examples:
  sentinel table vacuum features --dry-run
  sentinel table vacuum features --retention-hours 24

What is deleted is gone: older versions can be neither read nor restored.")]
    Vacuum {
        #[command(flatten)]
        change: TableChangeArgs,
        /// Versions of the last so many hours stay readable [default: `lake.vacuum_retention_hours`]
        #[arg(long, value_name = "H")]
        retention_hours: Option<u32>,
    },
    /// Give a table the rows of an older version
    #[command(after_help = "\
Examples:
  sentinel table restore features --version 12 --dry-run
  sentinel table restore features --version 12

Stop `up`, `stream` and `serve` before. The next stream job folds what is missing again from
the log, once each; a restore after which the log could not give it is refused. No file is
deleted: a restore can be restored.")]
    Restore {
        #[command(flatten)]
        change: TableChangeArgs,
        /// The version, as `sentinel table history` shows them
        #[arg(long, value_name = "N")]
        version: u64,
    },
}

/// A table that is changed, unless it is only asked what would be.
#[derive(Args, Clone, Debug)]
pub struct TableChangeArgs {
    #[command(flatten)]
    pub table: TableArg,
    /// Say what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// A table.
#[derive(Args, Clone, Debug)]
pub struct TableArg {
    /// The table's name
    #[arg(value_name = "TABLE", help = "events, features, windows, predictions, late_events, dead_letters or gaps")]
    pub table: String,
}

/// `sentinel gaps`
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sentinel gaps
  sentinel gaps --symbols BTC-USDT --from 2024-03-09T16:00:00Z --to 2024-03-09T17:00:00Z --json

A venue numbers the trades of a symbol one by one. Listed are the numbers that are in no row of
`events` between two that are, also of trades that came too late for it. Trades before the first
row and after the last one are not known. A range of time reads less of a big table. While `up`
runs on real trades, the metric sentinel_missing_trade_ids counts those of the last hour of event
time, every 5 minutes.")]
pub struct GapsArgs {
    /// Only these symbols
    #[arg(long, value_name = "S,...", value_delimiter = ',')]
    pub symbols: Option<Vec<Symbol>>,
    #[command(flatten)]
    pub range: TimeRangeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `sentinel dead-letters`
#[derive(Clone, Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// List the newest ones with the reason of each
    #[command(after_help = "Example:\n  sentinel dead-letters list --limit 5")]
    List {
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show one, with its bytes
    #[command(after_help = "Example:\n  sentinel dead-letters show 0:1234")]
    Show {
        /// Where it stands in the log
        #[arg(value_name = "PARTITION:OFFSET")]
        position: RecordPosition,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// `sentinel doctor`
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  sentinel --data-dir real doctor\n\nExits 1 where something is wrong.")]
pub struct DoctorArgs {
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

/// `sentinel config`
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sentinel config
  sentinel config --explain source.speed
  sentinel config --explain > my.toml  a settings file to start from")]
pub struct ConfigArgs {
    /// Say what a setting means; without a key, all of them as a documented settings file
    #[arg(long, value_name = "KEY", num_args = 0..=1, conflicts_with = "json")]
    #[expect(clippy::option_option, reason = "absent, given without a key, given with one")]
    pub explain: Option<Option<String>>,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// How an answer is printed.
#[derive(Args, Clone, Copy, Debug)]
pub struct OutputArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Which model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelSelector {
    /// The one that scores now.
    Champion,
    /// A version, from 1 on.
    Version(i64),
}

impl fmt::Display for ModelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Champion => f.write_str("champion"),
            Self::Version(version) => write!(f, "{version}"),
        }
    }
}

impl FromStr for ModelSelector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "champion" {
            return Ok(Self::Champion);
        }
        let version = text.strip_prefix('v').unwrap_or(text).parse().ok().filter(|version| *version >= 1);
        version.map(Self::Version).ok_or_else(|| "use a version such as 3, or champion".to_owned())
    }
}

/// The place of a record in the log, `PARTITION:OFFSET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPosition {
    /// The partition.
    pub partition: Partition,
    /// The offset in it.
    pub offset: Offset,
}

impl FromStr for RecordPosition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = |(partition, offset): (&str, &str)| {
            let offset = offset.parse().ok().filter(|offset| *offset >= 0)?;
            Some(Self { partition: partition.parse().ok()?, offset })
        };
        text.split_once(':').and_then(read).ok_or_else(|| "use PARTITION:OFFSET, such as 0:1234".to_owned())
    }
}

/// Partitions, ascending, each once, at least one; as text `0-3`, `2` or `0,2-3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionList(Vec<Partition>);

impl PartitionList {
    /// The partitions.
    pub fn as_slice(&self) -> &[Partition] {
        &self.0
    }
}

impl FromStr for PartitionList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut partitions = Vec::new();
        for part in text.split(',') {
            let range = parse_range(part)
                .ok_or_else(|| format!("use partitions from 0 to {}, such as 0-3, 2 or 0,2-3", MAX_PARTITIONS - 1))?;
            partitions.extend(range);
        }
        partitions.sort_unstable();
        partitions.dedup();
        Ok(Self(partitions))
    }
}

fn parse_range(text: &str) -> Option<std::ops::RangeInclusive<Partition>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (0 <= first && first <= last && last < MAX_PARTITIONS).then_some(first..=last)
}

fn parse_file_format(text: &str) -> Result<FormatArg, String> {
    let format = FormatArg::from_str(text, false).ok().filter(|format| *format != FormatArg::Table);
    format.ok_or_else(|| "use csv, json, ndjson, arrow or parquet".to_owned())
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text)
        .map_err(|_| "use a time in UTC such as 2024-03-09T16:00:00Z, a day such as 2024-03-09, or Unix seconds".into())
}

fn parse_times(text: &str) -> Result<(Timestamp, Timestamp), String> {
    let (from, to) = text.split_once('/').ok_or("use FROM/TO, such as 2024-03-09T16:00:00Z/2024-03-09T17:00:00Z")?;
    let (from, to) = (parse_time(from)?, parse_time(to)?);
    if from < to { Ok((from, to)) } else { Err("let it end after its start".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;
    use rstest::rstest;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        // As a shell does: single quotes keep words together.
        let parts = line.split('\'').enumerate();
        let words = parts.flat_map(|(number, part)| match number % 2 {
            0 => part.split_whitespace().collect::<Vec<_>>(),
            _ => vec![part],
        });
        Cli::try_parse_from(words)
    }

    #[test]
    fn the_definition_of_the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn leaves(command: &clap::Command, path: &str) -> Vec<(String, bool)> {
            let path = format!("{path} {}", command.get_name());
            let below: Vec<_> = command.get_subcommands().flat_map(|below| leaves(below, &path)).collect();
            if !below.is_empty() {
                return below;
            }
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            vec![(path, help.contains("Example") && help.contains("\n  sentinel "))]
        }
        let without: Vec<_> = leaves(&Cli::command(), "").into_iter().filter(|(_, has_example)| !has_example).collect();
        assert_eq!(without, []);
    }

    #[test]
    fn examples_in_the_help_can_be_typed() {
        fn examples(command: &clap::Command) -> Vec<String> {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let lines = help.lines().filter(|line| line.starts_with("  sentinel "));
            // What follows two spaces explains, what follows `>` is for the shell.
            let typed = lines.filter_map(|line| line.trim().split("  ").next()?.split('>').next().map(str::to_owned));
            typed.chain(command.get_subcommands().flat_map(examples)).collect()
        }
        let examples = examples(&Cli::command());
        assert!(examples.len() > 15, "{examples:?}");
        for example in examples {
            assert!(parse(&example).is_ok(), "{example}: {}", parse(&example).unwrap_err());
        }
    }

    #[test]
    fn paths_follow_the_source() {
        let cli = parse("sentinel --data-dir real up --source file a.gz b.gz").unwrap();
        let Command::Up(up) = cli.command else { panic!("not up") };
        assert_eq!(cli.global.data_dir, Some("real".into()));
        assert_eq!(up.source, Some(SourceArg::File));
        assert_eq!(up.paths, [PathBuf::from("a.gz"), PathBuf::from("b.gz")]);
    }

    #[test]
    fn global_flags_may_follow_the_command() {
        let cli = parse("sentinel model show v2 --json --data-dir real").unwrap();
        assert_eq!(cli.global.data_dir, Some("real".into()));
        let Command::Model(ModelCommand::Show { model, output }) = cli.command else { panic!("not model show") };
        assert_eq!((model, output.json), (ModelSelector::Version(2), true));
    }

    #[test]
    fn a_finite_simulation_is_named_by_its_flags() {
        let cli = parse("sentinel ingest simulated --events 10 --seed 7 --start 1710000000 --speed 0").unwrap();
        let Command::Ingest(IngestCommand::Simulated(args)) = cli.command else { panic!("not simulated") };
        assert_eq!(args.simulated.events, Some(10));
        assert_eq!(args.simulated.seed, Some(7));
        assert_eq!(args.simulated.start, Some(Timestamp::from_seconds(1_710_000_000)));
        assert_eq!(args.speed, Some(0.0));
    }

    #[test]
    fn explain_takes_a_key_or_none() {
        let explained = ["", " --explain", " --explain log.topic"].map(|flags| {
            let Command::Config(args) = parse(&format!("sentinel config{flags}")).unwrap().command else {
                panic!("not config")
            };
            args.explain
        });
        assert_eq!(explained, [None, Some(None), Some(Some("log.topic".to_owned()))]);
    }

    #[rstest]
    #[case("0-3", &[0, 1, 2, 3])]
    #[case("2", &[2])]
    #[case("0,2-3,2", &[0, 2, 3])]
    fn partitions_are_a_list_of_ranges(#[case] text: &str, #[case] expected: &[Partition]) {
        assert_eq!(text.parse::<PartitionList>().unwrap().as_slice(), expected);
    }

    #[rstest]
    #[case("sentinel up --source kafka", ErrorKind::InvalidValue, "simulated, binance, file")]
    #[case("sentinel up --symbols btcusdt", ErrorKind::ValueValidation, "BTC-USDT")]
    #[case("sentinel up --seed -1", ErrorKind::UnknownArgument, "-1")]
    #[case("sentinel up --spede 2", ErrorKind::UnknownArgument, "--speed")]
    #[case("sentinel ingest file", ErrorKind::MissingRequiredArgument, "PATHS")]
    #[case("sentinel stream --partitions 3-0", ErrorKind::ValueValidation, "such as 0-3")]
    #[case("sentinel stream --partitions 0-4000000000", ErrorKind::ValueValidation, "from 0 to 1023")]
    #[case("sentinel train --from yesterday", ErrorKind::ValueValidation, "2024-03-09T16:00:00Z")]
    #[case("sentinel model show 0", ErrorKind::ValueValidation, "champion")]
    #[case("sentinel export gaps --output g --version 1 --as-of 2024-03-09", ErrorKind::ArgumentConflict, "--as-of")]
    #[case("sentinel export gaps --output g --format table", ErrorKind::ValueValidation, "use csv, json")]
    #[case("sentinel table restore features", ErrorKind::MissingRequiredArgument, "--version")]
    #[case("sentinel key create grafana", ErrorKind::MissingRequiredArgument, "--scope")]
    #[case("sentinel key create grafana --scope write", ErrorKind::InvalidValue, "read, predict, ingest, admin")]
    #[case(
        "sentinel key create grafana --scope read --expires soon",
        ErrorKind::ValueValidation,
        "2024-03-09T16:00:00Z"
    )]
    #[case("sentinel alert show 12", ErrorKind::ValueValidation, "PARTITION:OFFSET")]
    #[case(
        "sentinel alert verdict 2:10451 wrong",
        ErrorKind::ValueValidation,
        "true_positive, false_positive, unclear"
    )]
    #[case("sentinel alert list --severity mild", ErrorKind::ValueValidation, "notice, warning, high, critical")]
    #[case("sentinel dead-letters show 12", ErrorKind::ValueValidation, "PARTITION:OFFSET")]
    #[case("sentinel dead-letters list --limit 0", ErrorKind::ValueValidation, "1..=10000")]
    fn a_mistake_is_a_usage_error_that_names_the_remedy(
        #[case] line: &str,
        #[case] kind: ErrorKind,
        #[case] remedy: &str,
    ) {
        let error = parse(line).unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (kind, 2), "{error}");
        assert!(error.to_string().contains(remedy), "{error}");
    }
}
