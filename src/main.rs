//! The `sentinel` program: reads the command line, sets up the log, runs one command and turns its end into an exit
//! code. Only wiring lives in this package; what things mean is decided in the crates below.

mod app;
mod cli;
mod clock;
mod commands;
mod config;
mod crash;
mod elsewhere;
mod locks;
mod log_engine;
mod logging;
mod new_file;
mod output;
mod progress;
mod settings_to_parts;
mod status;
mod telemetry;

use std::process::ExitCode;

use clap::Parser;
use domain::ErrorKind;

use crate::{cli::Cli, config::Settings, progress::Progress, telemetry::Telemetry};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The stack of a thread in bytes, taken as it is used: a long statement is planned and run as deep as it is long.
const STACK_BYTES: usize = 8 << 20;

/// What a command found out, as far as an exit code can tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Fine,
    /// A difference was found, or a gate was not passed.
    Difference,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Difference) => ExitCode::from(1),
        Err(error) => {
            // The whole chain in one line: the sentence that says what to do, then its causes.
            eprintln!("sentinel: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<Outcome> {
    if let cli::Command::Config(args) = &cli.command
        && let Some(key) = &args.explain
    {
        return commands::config::explain(key.as_deref());
    }
    let (settings, origins) = Settings::from_process(cli)?;
    let progress = Progress::stderr();
    let runtime = tokio::runtime::Builder::new_multi_thread().thread_stack_size(STACK_BYTES).enable_all().build()?;
    let telemetry = Telemetry::start(&settings.telemetry, runtime.handle())?;
    logging::init(&settings.logging, &progress, telemetry.as_ref().map(Telemetry::spans))?;
    let outcome = runtime.block_on(commands::run(&cli.command, &settings, &origins, &progress));
    if let Some(telemetry) = &telemetry {
        telemetry.end();
    }
    // A read of a blocking source may still be under way; it holds nothing that must be saved.
    runtime.shutdown_background();
    outcome
}

/// 2 for what the caller must change, 3 for what may be there later, 1 for the rest.
fn exit_code(error: &anyhow::Error) -> u8 {
    match commands::kind(error) {
        Some(ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Gone) => 2,
        Some(ErrorKind::Unavailable | ErrorKind::Conflict) => 3,
        Some(ErrorKind::Corrupt | ErrorKind::Internal) | None => 1,
    }
}
