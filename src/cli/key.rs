//! The flags of `sentinel key`.

use clap::{Subcommand, ValueEnum};
use domain::Timestamp;

use super::{OutputArgs, parse_time};

/// `sentinel key`
#[derive(Clone, Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key and print it: it is kept nowhere and shown this once
    #[command(after_help = "\
Examples:
  sentinel key create grafana --scope read
  sentinel key create feed --scope ingest,predict --expires 2030-01-01

It is sent in the header Authorization, as `Bearer sntl_...`. A running service knows it
within two seconds.")]
    Create {
        /// Who will hold it
        #[arg(value_name = "NAME")]
        name: String,
        /// What it allows
        #[arg(long, value_name = "S,...", value_delimiter = ',', required = true)]
        scope: Vec<ScopeArg>,
        /// Not valid any more from this time on [default: valid until it is revoked]
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        expires: Option<Timestamp>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List all keys, oldest first
    #[command(after_help = "Example:\n  sentinel key list --json")]
    List(OutputArgs),
    /// Let a key not be valid any more, for good; a running service refuses it within two seconds
    #[command(after_help = "Example:\n  sentinel key revoke 3")]
    Revoke {
        /// Its number, as `sentinel key list` and the key itself say
        #[arg(value_name = "ID")]
        id: i64,
    },
}

/// What a key allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScopeArg {
    /// Everything that only reads: tables, predictions, models, runs, metrics
    Read,
    /// Judging and explaining feature vectors
    Predict,
    /// Appending events to the log
    Ingest,
    /// Promoting models, starting, pausing and ending runs, and all of the above
    Admin,
}
