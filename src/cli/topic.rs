//! The flags of `sentinel topic`.

use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use domain::{Offset, Partition};

use super::{LogArgs, OutputArgs};

/// `sentinel topic`
#[derive(Clone, Debug, Subcommand)]
pub enum TopicCommand {
    /// List topics: those of a cluster, or the one of a file
    #[command(after_help = "Examples:\n  sentinel topic list\n  sentinel topic list --log fluvio://127.0.0.1:9003")]
    List {
        #[command(flatten)]
        log: LogArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Make the topic of the settings where it is missing
    #[command(after_help = "Example:\n  sentinel topic create --log fluvio://127.0.0.1:9003")]
    Create {
        #[command(flatten)]
        log: LogArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show the topic: its id, and the offsets of each partition
    #[command(after_help = "Example:\n  sentinel topic describe --json")]
    Describe {
        #[command(flatten)]
        log: LogArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print records as they come
    #[command(after_help = "\
Examples:
  sentinel topic tail
  sentinel topic tail --from beginning --once --json
  sentinel topic tail --partition 2 --from 1500 --limit 10")]
    Tail(TailArgs),
    /// Copy the embedded log to a topic of a cluster, with its offsets and append times; goes on where it ended
    #[command(after_help = "\
Example:
  sentinel topic mirror --from embedded --to fluvio://127.0.0.1:9003")]
    Mirror(MoveArgs),
    /// Let the tables follow the copy: compares it with the log, then commits its progress in every table
    #[command(after_help = "\
Example, once nothing writes the log any more:
  sentinel topic mirror --from embedded --to fluvio://127.0.0.1:9003
  sentinel topic cutover --from embedded --to fluvio://127.0.0.1:9003
  sentinel up --log fluvio://127.0.0.1:9003")]
    Cutover(MoveArgs),
}

impl TopicCommand {
    /// Where the log is, with the flag that says so.
    pub fn log(&self) -> (&'static str, Option<&str>) {
        match self {
            Self::List { log, .. } | Self::Create { log, .. } | Self::Describe { log, .. } => log.given(),
            Self::Tail(tail) => tail.log.given(),
            Self::Mirror(moved) | Self::Cutover(moved) => ("--to", Some(&moved.to)),
        }
    }
}

/// `sentinel topic mirror` and `cutover`
#[derive(Args, Clone, Debug)]
pub struct MoveArgs {
    /// The log that is copied
    #[arg(long, value_name = "LOG", default_value = "embedded")]
    pub from: MoveFrom,
    /// The cluster that gets the copy: fluvio, as the settings say, or fluvio://HOST:PORT
    #[arg(long, value_name = "LOG")]
    pub to: String,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// A log that can be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MoveFrom {
    /// The file of the data folder
    Embedded,
}

/// `sentinel topic tail`
#[derive(Args, Clone, Debug)]
pub struct TailArgs {
    /// Only this partition
    #[arg(long, value_name = "N")]
    pub partition: Option<Partition>,
    /// Where to begin: beginning, end or an offset
    #[arg(long, value_name = "WHERE", default_value = "end")]
    pub from: TailFrom,
    /// Stop after so many records
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Stop at the end instead of waiting for more
    #[arg(long)]
    pub once: bool,
    #[command(flatten)]
    pub log: LogArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Where a tail begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailFrom {
    /// The first record that is still there.
    Beginning,
    /// Behind the last one.
    End,
    /// An offset.
    Offset(Offset),
}

impl FromStr for TailFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "beginning" => Ok(Self::Beginning),
            "end" => Ok(Self::End),
            _ => {
                let offset = text.parse().ok().filter(|offset| *offset >= 0);
                offset.map(Self::Offset).ok_or_else(|| "write beginning, end or an offset from 0 on".to_owned())
            }
        }
    }
}
