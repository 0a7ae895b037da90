//! `sentinel stream`: folds the log into the tables.

use domain::{Fate, LateReason, Partition};
use jobs::{
    first_model,
    notify::{Notifier, NotifyPolicy},
    stream::{self, StreamReport, Until},
};

use crate::{
    Outcome,
    app::App,
    cli::StreamArgs,
    commands::{Refused, sentence},
    config::Settings,
    locks::{Role, RoleLock},
    output, settings_to_parts,
};

/// Runs the stream job until the end of the log or until it is told to stop.
pub async fn run(args: &StreamArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let partitions = partitions(args, settings.log.partitions)?;
    let _locks = lock(settings, &partitions)?;
    let app = App::open(settings).await?;
    let until = if args.once { Until::EndOfLog } else { Until::Cancelled };
    let policy = settings_to_parts::flush_policy(&settings.stream);
    let notifier = notifier(&app, settings).await?;
    let job = stream::run(app.stream_parts(), &partitions, policy, until, app.cancel.clone());
    // Boxed: the job's state is large, and would lie in the notifier's and in this one's.
    let job = notifier.beside(Box::pin(job));
    let ended = tokio_util::sync::CancellationToken::new();
    let follow = first_model::follow_champion(&app.models, &app.champion, &app.metrics, &ended);
    let report =
        tokio::select! { report = job => report?, () = follow => unreachable!("followed until it is cancelled") };
    app.history().score(&partitions, &app.cancel).await?;
    output::line(&describe(&report))?;
    app.close().await;
    Ok(Outcome::Fine)
}

/// Tells about the alerts that the stream job raises from now on.
pub async fn notifier(app: &App, settings: &Settings) -> anyhow::Result<Notifier> {
    let sinks = settings_to_parts::sinks(&settings.alerts).await?;
    // As for a live market: programs that lost one receiver together come back apart.
    let seed = settings.source.seed ^ app.clock.now().micros().unsigned_abs();
    Ok(Notifier::new(&app.feed, sinks, NotifyPolicy::new(seed), app.notify_parts()))
}

/// Takes the roles of partitions, all or none.
pub fn lock(settings: &Settings, partitions: &[Partition]) -> anyhow::Result<Vec<RoleLock>> {
    let lock = |partition: &Partition| RoleLock::acquire(&settings.data.dir, Role::Stream(*partition));
    Ok(partitions.iter().map(lock).collect::<Result<_, _>>()?)
}

/// A report as a sentence; late events name the door that takes them.
pub fn describe(report: &StreamReport) -> String {
    let fates = &report.fates;
    let head = format!("{} records folded, {} events admitted", fates.total(), fates.of(Fate::Admitted));
    sentence(
        head,
        [
            (report.predictions, "scored"),
            (fates.of(Fate::Late(LateReason::Duplicate)), "came twice"),
            (fates.of(Fate::Dead), "are dead letters, see `sentinel dead-letters list`"),
            (
                fates.of(Fate::Late(LateReason::Late)),
                "came too late and wait in `late_events`; `sentinel backfill` is the door for older events",
            ),
        ],
    )
}

fn partitions(args: &StreamArgs, count: Partition) -> anyhow::Result<Vec<Partition>> {
    let Some(list) = &args.partitions else { return Ok((0..count).collect()) };
    if let Some(beyond) = list.as_slice().iter().find(|partition| **partition >= count) {
        return Err(
            Refused(format!("the topic has {count} partitions, 0 to {}: there is no {beyond}", count - 1)).into()
        );
    }
    Ok(list.as_slice().to_vec())
}
