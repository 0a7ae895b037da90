//! The flags of `sentinel model` and `sentinel drift`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ModelSelector, OutputArgs};

/// `sentinel model`
#[derive(Clone, Debug, Subcommand)]
pub enum ModelCommand {
    /// List the versions, newest first
    #[command(after_help = "Example:\n  sentinel model list --json")]
    List(OutputArgs),
    /// Show one version's record, what was measured and what happened to it
    #[command(after_help = "Example:\n  sentinel model show champion")]
    Show {
        /// A version, or champion
        #[arg(value_name = "V")]
        model: ModelSelector,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Make a version champion: live scorers and the service swap at once
    #[command(after_help = "Example:\n  sentinel model promote 3 --reason fewer-false-alarms --expect-current 2")]
    Promote {
        /// The version
        #[arg(value_name = "V")]
        model: i64,
        /// Why, for the history
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Only if this version is champion now
        #[arg(long, value_name = "V0")]
        expect_current: Option<i64>,
    },
    /// Make the champion before the present one champion again
    #[command(after_help = "Example:\n  sentinel model rollback --reason too-many-alerts")]
    Rollback {
        /// Why, for the history
        #[arg(long, value_name = "TEXT", default_value = "rolled back")]
        reason: String,
    },
    /// Say who did what to which version when and why, oldest first
    #[command(after_help = "Example:\n  sentinel model history --json")]
    History(OutputArgs),
    /// Train a version again from its record alone and compare the bytes; exit code 1 where they differ
    #[command(after_help = "Example:\n  sentinel model verify champion")]
    Verify {
        /// A version, or champion
        #[arg(value_name = "V")]
        model: ModelSelector,
        /// Write the model file again where it is lost or damaged and the right bytes came out
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Say where the records of two versions differ
    #[command(after_help = "Example:\n  sentinel model diff 2 champion")]
    Diff {
        /// A version, or champion
        #[arg(value_name = "V1")]
        one: ModelSelector,
        /// Another
        #[arg(value_name = "V2")]
        other: ModelSelector,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Write a version's model file and its record, as JSON, into a folder
    #[command(after_help = "Example:\n  sentinel model export 3 --output models")]
    Export {
        /// A version, or champion
        #[arg(value_name = "V")]
        model: ModelSelector,
        /// The folder
        #[arg(long, value_name = "DIR", default_value = ".")]
        output: PathBuf,
    },
    /// Keep the rows that a version was trained on, whatever vacuum and log cleanup remove
    #[command(after_help = "Example:\n  sentinel model pin 3 --note audit")]
    Pin {
        /// The version
        #[arg(value_name = "V")]
        model: i64,
        /// Why
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
    },
    /// Do not keep them any more
    #[command(after_help = "Example:\n  sentinel model unpin 3")]
    Unpin {
        /// The version
        #[arg(value_name = "V")]
        model: i64,
    },
}

/// `sentinel drift`
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  sentinel drift --json

Holds the newest six hours of feature rows against those that the champion was
trained on: per feature the population stability index and the Kolmogorov-
Smirnov distance, each with a threshold that follows from the sizes of the
samples, counted in minutes. Exit code 1 where both of a feature exceed theirs.")]
pub struct DriftArgs {
    #[command(flatten)]
    pub output: OutputArgs,
}
