//! `sentinel up`: source, log, stream job, first model, upkeep, scheduler and service in one process.
//!
//! Every part runs as a task of its own under one cancellation: a signal, or the failure of any part, cancels the
//! rest, and each flushes before it returns. A source that has ended leaves everything else running.

use std::path::Path;

use ::scheduler::Store;
use anyhow::Context;
use domain::Partition;
use jobs::{
    first_model, ingest, maintain,
    notify::Notifier,
    stream::{self, StreamReport, Until},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    Outcome,
    app::{self, App},
    cli::UpArgs,
    commands::{
        ingest::{FileProgress, describe, listen},
        runs, schedule, scheduler, serve, stream as stream_command,
    },
    config::{Settings, SourceKind},
    locks::{Role, RoleLock},
    progress::{OpenTask, Progress},
    settings_to_parts,
    status::ProgramStatus,
};

/// Runs everything until it is told to stop.
pub async fn run(args: &UpArgs, settings: &Settings, progress: &Progress) -> anyhow::Result<Outcome> {
    let partitions: Vec<Partition> = (0..settings.log.partitions).collect();
    let _http = RoleLock::acquire(&settings.data.dir, Role::Http)?;
    let _stream = stream_command::lock(settings, &partitions)?;
    let registry = app::registry(settings).await?;
    let protection = serve::protection(&registry, &settings.http).await?;
    let listener = serve::bind(settings.http.bind).await?;
    let app = App::with(registry, settings).await?;
    app.restore_feed().await?;
    let notifier = stream_command::notifier(&app, settings).await?;
    let status = ProgramStatus::with_jobs(&app, settings.model.first_model_rows).await?;
    let store = runs::store(settings).await?;
    let service = serve::service(&app, settings, status, store.clone(), protection).await?;
    info!(data = %settings.data.dir.display(), "serving {}://{}", serve::scheme(&service), listener.local_addr()?);
    let cancelled = app.cancel.clone();
    let up = Up { app: &app, settings, partitions: &partitions, progress, is_current: CancellationToken::new() };
    // Every part is waited for, whichever failed: the others still flush.
    let (source, folded, trained, followed, kept_up, scheduled, served) = tokio::join!(
        up.ending("the source", up.source(args)),
        up.ending("the stream job", up.stream(notifier)),
        up.ending("training", up.first_model()),
        up.ending("the model registry", up.follow_champion()),
        up.ending("upkeep", up.upkeep()),
        up.ending("the scheduler", up.scheduler(store)),
        up.ending("the HTTP service", async {
            Ok(api::serve(listener, service, async move { cancelled.cancelled().await }).await?)
        }),
    );
    for ended in [source, trained, followed, kept_up, scheduled, served] {
        ended?;
    }
    info!("{}", stream_command::describe(&folded?));
    app.close().await;
    Ok(Outcome::Fine)
}

struct Up<'a> {
    app: &'a App,
    settings: &'a Settings,
    partitions: &'a [Partition],
    progress: &'a Progress,
    /// Set once the first model may be trained.
    is_current: CancellationToken,
}

impl Up<'_> {
    /// Lets the failure of a part end the others, which flush, before it is reported.
    async fn ending<T>(&self, part: &'static str, run: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let ended = run.await;
        if ended.is_err() {
            self.app.cancel.cancel();
        }
        ended.with_context(|| format!("{part} ended"))
    }

    async fn source(&self, args: &UpArgs) -> anyhow::Result<()> {
        let (app, source) = (self.app, &self.settings.source);
        let parts = app.ingest_parts();
        let report = match source.kind {
            SourceKind::Simulated => {
                let market = settings_to_parts::market(source, &args.simulated, app.clock.now());
                let run = settings_to_parts::simulated_run(source, &args.simulated);
                let shown = OpenTask::new(self.progress, "simulated history", "events");
                let tell = |done, total| shown.tell(done, total);
                let caught_up = || {
                    shown.finish();
                    self.is_current.cancel();
                };
                ingest::simulated(&parts, market, run, &app.cancel, &tell, caught_up).await?
            }
            SourceKind::File => {
                self.is_current.cancel();
                let shown = FileProgress::new(self.progress);
                let tell = |path: &Path, read, total| shown.tell(path, read, total);
                let report = ingest::files(&parts, &source.paths, source.speed(), false, &app.cancel, &tell).await?;
                shown.finish();
                report
            }
            SourceKind::Binance => {
                self.is_current.cancel();
                listen(app, self.settings).await?
            }
        };
        info!("the source has ended: {}", describe(&report));
        Ok(())
    }

    async fn stream(&self, notifier: Notifier) -> anyhow::Result<StreamReport> {
        let policy = settings_to_parts::flush_policy(&self.settings.stream);
        let parts = self.app.stream_parts();
        let job = stream::run(parts, self.partitions, policy, Until::Cancelled, self.app.cancel.clone());
        Ok(notifier.beside(Box::pin(job)).await?)
    }

    async fn first_model(&self) -> anyhow::Result<()> {
        let (app, model) = (self.app, &self.settings.model);
        let parameters = settings_to_parts::train_parameters(model);
        let workshop = app.workshop();
        let (ready, state) = (&self.is_current, app.first_model.as_ref());
        first_model::run(&workshop, parameters, model.first_model_rows, ready, state, &app.cancel).await?;
        app.history().score_when_assigned(self.partitions, &app.cancel).await?;
        Ok(())
    }

    async fn follow_champion(&self) -> anyhow::Result<()> {
        let app = self.app;
        first_model::follow_champion(&app.models, &app.champion, &app.metrics, &app.cancel).await;
        Ok(())
    }

    async fn scheduler(&self, store: Store) -> anyhow::Result<()> {
        schedule::begin(&store, self.settings).await?;
        let app = self.app;
        let observer = app.metrics.clone();
        scheduler::runner(store, &app.workshop(), self.settings, app.probe.clone(), observer).run(&app.cancel).await;
        Ok(())
    }

    async fn upkeep(&self) -> anyhow::Result<()> {
        let policy = settings_to_parts::upkeep(self.settings);
        maintain::run(&self.app.lake, self.app.log.as_ref(), &self.app.metrics, policy, &self.app.cancel).await;
        Ok(())
    }
}
