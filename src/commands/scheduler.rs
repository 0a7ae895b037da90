//! `sentinel scheduler`: starts what schedules say, in a process of its own. Several may run.

use std::{path::Path, sync::Arc};

use domain::{Clock, Probe};
use jobs::{
    chores::Upkeep,
    control::{MODELS, REGISTRY},
    scheduled::{self, Parts},
    workshop::Workshop,
};
use lake::{Lake, registry::Registry};
use scheduler::{Observer, Runner, RunnerPolicy, Store, Unobserved};
use tracing::info;

use crate::{
    Outcome,
    app::cancelled_by_signals,
    clock::SystemClock,
    commands::{runs, schedule},
    config::Settings,
    crash, settings_to_parts,
};

/// Runs until it is told to stop.
pub async fn run(settings: &Settings) -> anyhow::Result<Outcome> {
    let cancel = cancelled_by_signals()?;
    let store = runs::store(settings).await?;
    let probe = crash::probe()?;
    let folder: &Path = &settings.data.dir;
    let workshop = Workshop {
        lake: Arc::new(Lake::open_with_probe(&folder.join("lake"), probe.clone()).await?),
        registry: Registry::open(&folder.join(REGISTRY)).await?,
        models_dir: folder.join(MODELS),
        clock: Arc::new(SystemClock),
    };
    schedule::begin(&store, settings).await?;
    info!("the scheduler runs; `sentinel schedule list` shows what is due");
    runner(store, &workshop, settings, probe, Arc::new(Unobserved)).run(&cancel).await;
    Ok(Outcome::Fine)
}

/// The scheduler of this process.
pub fn runner(
    store: Store,
    workshop: &Workshop,
    settings: &Settings,
    probe: Arc<dyn Probe>,
    observer: Arc<dyn Observer>,
) -> Runner {
    let clock: Arc<dyn Clock> = workshop.clock.clone();
    let parts = Parts {
        workshop: workshop.clone(),
        parameters: settings_to_parts::train_parameters(&settings.model),
        upkeep: Upkeep {
            lake: workshop.lake.clone(),
            registry: workshop.registry.clone(),
            store: store.clone(),
            clock: clock.clone(),
            vacuum_retention_hours: settings_to_parts::vacuum_retention_hours(settings),
            log_retention_hours: settings_to_parts::log_retention_hours(settings),
        },
        backups: settings.data.dir.join("backups"),
    };
    let owner = format!("process {}", std::process::id());
    let jobs = Arc::new(scheduled::jobs(&parts));
    Runner { store, jobs, clock, owner, policy: RunnerPolicy::default(), probe, observer }
}
