//! `sentinel ingest`: moves events from a source into the log, and nothing else.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use domain::{Fate, LateReason};
use jobs::{
    ingest::{self, IngestReport},
    stream,
};

use crate::{
    Outcome,
    app::App,
    cli::{IngestCommand, IngestFileArgs, IngestSimulatedArgs},
    clock::SystemTimer,
    commands::sentence,
    config::Settings,
    output,
    progress::{OpenTask, Progress, Task},
    settings_to_parts,
};

/// Runs `ingest file`, `ingest simulated` or `ingest binance`.
pub async fn run(command: &IngestCommand, settings: &Settings, progress: &Progress) -> anyhow::Result<Outcome> {
    let app = App::open(settings).await?;
    let told = match command {
        IngestCommand::File(args) => files(&app, args, settings, progress).await,
        IngestCommand::Simulated(args) => simulated(&app, args, settings, progress).await,
        IngestCommand::Binance(_) => binance(&app, settings).await,
    }?;
    output::line(&told)?;
    app.close().await;
    Ok(Outcome::Fine)
}

/// Appends the files, then folds what was appended without keeping rows, to say how much of it the tables will refuse.
async fn files(app: &App, args: &IngestFileArgs, settings: &Settings, progress: &Progress) -> anyhow::Result<String> {
    let folds = stream::replaying_folds(app.log.as_ref(), &app.lake).await?;
    let shown = FileProgress::new(progress);
    let tell = |path: &Path, read, total| shown.tell(path, read, total);
    let speed = settings.source.speed();
    let report = ingest::files(&app.ingest_parts(), &args.paths, speed, args.is_final, &app.cancel, &tell).await?;
    shown.finish();
    let fates = stream::fates(app.log.as_ref(), &app.lake, folds, &report.appended).await?;
    let refused = [
        (fates.of(Fate::Late(LateReason::Duplicate)), "of them came twice"),
        (
            fates.of(Fate::Late(LateReason::Late)),
            "of them come too late and will wait in `late_events`; `sentinel backfill` is the door for older events",
        ),
    ];
    Ok(sentence(describe(&report), refused))
}

async fn simulated(
    app: &App,
    args: &IngestSimulatedArgs,
    settings: &Settings,
    progress: &Progress,
) -> anyhow::Result<String> {
    let market = settings_to_parts::market(&settings.source, &args.simulated, app.clock.now());
    let run = settings_to_parts::simulated_run(&settings.source, &args.simulated);
    let shown = OpenTask::new(progress, "simulated history", "events");
    let tell = |done, total| shown.tell(done, total);
    let report = ingest::simulated(&app.ingest_parts(), market, run, &app.cancel, &tell, || shown.finish()).await?;
    Ok(describe(&report))
}

async fn binance(app: &App, settings: &Settings) -> anyhow::Result<String> {
    Ok(describe(&listen(app, settings).await?))
}

/// Listens to Binance until the program is told to stop.
pub async fn listen(app: &App, settings: &Settings) -> anyhow::Result<IngestReport> {
    let market = settings_to_parts::binance(&settings.source, app.clock.now())?;
    Ok(ingest::binance(&app.ingest_parts(), market, Arc::new(SystemTimer::default()), &app.cancel).await?)
}

/// A report as a sentence.
pub fn describe(report: &IngestReport) -> String {
    sentence(
        format!("{} records appended", report.records),
        [
            (report.files_known, "files were ingested before"),
            (report.skipped, "frames of other streams skipped"),
            (
                report.undecoded,
                "lines or frames could not be read; `sentinel dead-letters list` shows them once they are folded",
            ),
        ],
    )
}

/// One bar per file, the next after the one before has ended.
pub struct FileProgress<'a> {
    progress: &'a Progress,
    current: Mutex<Option<(String, Task)>>,
}

impl<'a> FileProgress<'a> {
    /// No file yet.
    pub const fn new(progress: &'a Progress) -> Self {
        Self { progress, current: Mutex::new(None) }
    }

    /// `read` of `total` bytes of a file are in the log.
    pub fn tell(&self, path: &Path, read: u64, total: u64) {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|(shown, _)| *shown != name)
            && let Some((_, done)) = current.replace((name.clone(), self.progress.counted(&name, "bytes", total)))
        {
            done.finish();
        }
        if let Some((_, task)) = current.as_ref() {
            task.set(read);
        }
    }

    /// The last file has ended.
    pub fn finish(self) {
        if let Some((_, task)) = self.current.into_inner().unwrap_or_else(PoisonError::into_inner) {
            task.finish();
        }
    }
}
