//! One file per subcommand. A command opens what it needs, does one thing, prints the answer on standard output.

mod alert;
mod backfill;
pub mod config;
mod dead_letters;
mod doctor;
mod drift;
mod evaluate;
mod export;
mod gaps;
mod ingest;
mod key;
mod mirror;
mod model;
mod query;
mod replay;
mod runs;
mod schedule;
mod scheduler;
mod serve;
mod stream;
mod table;
mod topic;
mod train;
mod up;
mod verify;

use std::{fmt::Write, sync::Arc};

use domain::ErrorKind;
use jobs::control::Control;

use crate::{
    Outcome,
    cli::Command,
    clock::SystemClock,
    config::{Origins, Settings},
    progress::Progress,
};

/// Runs a command.
pub async fn run(
    command: &Command,
    settings: &Settings,
    origins: &Origins,
    progress: &Progress,
) -> anyhow::Result<Outcome> {
    match command {
        Command::Up(args) => Box::pin(up::run(args, settings, progress)).await,
        Command::Ingest(command) => ingest::run(command, settings, progress).await,
        Command::Stream(args) => stream::run(args, settings).await,
        Command::Serve(_) => Box::pin(serve::run(settings)).await,
        Command::Train(args) => train::run(args, settings).await,
        Command::Evaluate(args) => evaluate::run(args, settings).await,
        Command::Backfill(args) => Box::pin(backfill::run(args, settings, progress)).await,
        Command::Replay(args) => replay::run(args, settings).await,
        Command::Verify(args) => verify::run(args, settings, progress).await,
        Command::Model(command) => model::run(command, settings).await,
        Command::Drift(args) => drift::run(args, settings).await,
        Command::Alert(command) => Box::pin(alert::run(command, settings)).await,
        Command::Query(args) => query::run(args, settings).await,
        Command::Export(args) => export::run(args, settings).await,
        Command::Table(command) => table::run(command, settings).await,
        Command::Gaps(args) => gaps::run(args, settings).await,
        Command::Scheduler => scheduler::run(settings).await,
        Command::Schedule(command) => schedule::run(command, settings).await,
        Command::Run(command) => runs::run(command, settings).await,
        Command::Topic(command) => topic::run(command, settings, progress).await,
        Command::DeadLetters(command) => dead_letters::run(command, settings).await,
        Command::Key(command) => key::run(command, settings).await,
        Command::Doctor(args) => doctor::run(args, settings).await,
        Command::Config(args) => config::run(args, settings, origins),
    }
}

/// Models, schedules and runs of a data folder, to be asked and changed.
async fn control(settings: &Settings) -> anyhow::Result<Control> {
    std::fs::create_dir_all(&settings.data.dir)?;
    Ok(Control::open(&settings.data.dir, Arc::new(SystemClock)).await?)
}

/// What an error asks for, as the crate that it came from says.
pub fn kind(error: &anyhow::Error) -> Option<ErrorKind> {
    error.chain().find_map(|cause| {
        let api = cause.downcast_ref::<api::Error>().map(api::Error::kind);
        let jobs = cause.downcast_ref::<jobs::Error>().map(jobs::Error::kind);
        let lake = cause.downcast_ref::<lake::Error>().map(lake::Error::kind);
        let streams = cause.downcast_ref::<streams::Error>().map(streams::Error::kind);
        let scheduler = cause.downcast_ref::<::scheduler::Error>().map(::scheduler::Error::kind);
        let models = cause.downcast_ref::<models::Error>().map(models::Error::kind);
        let locks = cause.downcast_ref::<crate::locks::LockError>().map(crate::locks::LockError::kind);
        let config = cause.downcast_ref::<crate::config::ConfigError>().map(crate::config::ConfigError::kind);
        let logging = cause.downcast_ref::<crate::logging::LoggingError>().map(crate::logging::LoggingError::kind);
        let refused = cause.downcast_ref::<Refused>().map(|_| ErrorKind::Invalid);
        let unavailable = cause.downcast_ref::<Unavailable>().map(|_| ErrorKind::Unavailable);
        let crates = api.or(jobs).or(lake).or(streams).or(scheduler).or(models);
        crates.or(locks).or(config).or(logging).or(refused).or(unavailable)
    })
}

/// `head`, and of what follows whatever there is any of.
fn sentence(mut head: String, counted: impl IntoIterator<Item = (u64, &'static str)>) -> String {
    for (count, what) in counted.into_iter().filter(|(count, _)| *count > 0) {
        // Writing to a string does not fail.
        let _ = write!(head, "; {count} {what}");
    }
    head
}

/// A request that the caller must change.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// Something outside that may be there later.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);
