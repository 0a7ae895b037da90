//! The flags of `sentinel schedule` and `sentinel run`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use domain::Timestamp;

use super::{OutputArgs, parse_time};

/// `sentinel schedule`
#[derive(Clone, Debug, Subcommand)]
pub enum ScheduleCommand {
    /// List schedules: when each is due next, and whether it is paused
    #[command(after_help = "Example:\n  sentinel schedule list --json")]
    List(OutputArgs),
    /// Show a schedule and what was decided about its latest times
    #[command(after_help = "Example:\n  sentinel schedule show vacuum")]
    Show {
        /// Its name
        name: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print the next times of a schedule
    #[command(after_help = "Example:\n  sentinel schedule next vacuum -n 3")]
    Next {
        /// Its name
        name: String,
        /// How many
        #[arg(short = 'n', long = "count", value_name = "N", default_value_t = 10)]
        count: u16,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Keep the schedules of a file: new ones from now on, known ones as they are there
    #[command(after_help = "\
Example, with a table per schedule in the file:
  [vacuum]
  job = \"vacuum\"
  cron = \"0 3 * * SUN\"
  zone = \"Europe/Paris\"

  sentinel schedule apply schedules.toml --dry-run")]
    Apply {
        /// A TOML file
        file: PathBuf,
        /// Say what would change
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Check the schedules of a file, and print when each would be due
    #[command(after_help = "Example:\n  sentinel schedule check schedules.toml")]
    Check {
        /// A TOML file
        file: PathBuf,
    },
    /// Pause a schedule: times that come meanwhile are not missed
    #[command(after_help = "Example:\n  sentinel schedule pause vacuum --note holidays")]
    Pause {
        /// Its name
        name: String,
        /// Why
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
    },
    /// End a pause
    #[command(after_help = "Example:\n  sentinel schedule resume vacuum --catch-up last")]
    Resume {
        /// Its name
        name: String,
        /// Which times of the pause are made up for
        #[arg(long, value_name = "WHICH", default_value = "none")]
        catch_up: CatchUpArg,
    },
    /// Start a schedule's job now, whatever goes on
    #[command(after_help = "\
Examples:
  sentinel schedule trigger vacuum --wait
  sentinel schedule trigger compact --idempotency-key release-7")]
    Trigger {
        /// Its name
        name: String,
        /// The time that the run is of [default: now]
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        at: Option<Timestamp>,
        /// Of runs with one key only the first is started
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
        /// Wait until the run has ended
        #[arg(long)]
        wait: bool,
    },
    /// Say what was decided about a time, and why
    #[command(after_help = "Example:\n  sentinel schedule explain vacuum --at 2026-01-02T03:41:00Z")]
    Explain {
        /// Its name
        name: String,
        /// The time
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        at: Timestamp,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// Which times of a pause are made up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CatchUpArg {
    /// None
    None,
    /// The latest one
    Last,
    /// Every one of the last 24 h, 100 at most
    All,
}

/// `sentinel run`
#[derive(Clone, Debug, Subcommand)]
pub enum RunCommand {
    /// List runs, the newest first
    #[command(after_help = "Example:\n  sentinel run list --state failed --since 2026-01-01T00:00:00Z")]
    List {
        /// Only those in this state: pending, running, interrupted, succeeded, failed, cancelled
        #[arg(long, value_name = "STATE", value_parser = parse_state)]
        state: Option<scheduler::RunState>,
        /// Only those created since then
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        since: Option<Timestamp>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show a run
    #[command(after_help = "Example:\n  sentinel run show 12 --json")]
    Show {
        /// Its number
        run: i64,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print what happened in a run
    #[command(after_help = "Example:\n  sentinel run logs 12 -f")]
    Logs {
        /// Its number
        run: i64,
        /// Go on until the run has ended
        #[arg(short = 'f', long)]
        follow: bool,
    },
    /// Ask a run to end
    #[command(after_help = "Example:\n  sentinel run cancel 12")]
    Cancel {
        /// Its number
        run: i64,
    },
    /// Let a run that failed or was cancelled be done again
    #[command(after_help = "Example:\n  sentinel run retry 12")]
    Retry {
        /// Its number
        run: i64,
    },
}

fn parse_state(text: &str) -> Result<scheduler::RunState, String> {
    scheduler::RunState::from_name(text).ok_or_else(|| {
        let names = scheduler::RunState::ALL.map(scheduler::RunState::as_str).join(", ");
        format!("there are {names}")
    })
}
