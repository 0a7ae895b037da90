//! `sentinel scheduler`: starts what schedules say, in a process of its own. Several may run.

use std::sync::Arc;

use domain::{Clock, Probe};
use jobs::chores;
use lake::Lake;
use scheduler::{Runner, RunnerPolicy, Store};
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
    let lake = Arc::new(Lake::open_with_probe(&settings.data.dir.join("lake"), probe.clone()).await?);
    schedule::begin_with_shipped(&store).await?;
    info!("the scheduler runs; `sentinel schedule list` shows what is due");
    runner(store, &lake, settings, Arc::new(SystemClock), probe).run(&cancel).await;
    Ok(Outcome::Fine)
}

/// The scheduler of this process.
pub fn runner(
    store: Store,
    lake: &Arc<Lake>,
    settings: &Settings,
    clock: Arc<dyn Clock>,
    probe: Arc<dyn Probe>,
) -> Runner {
    let jobs = chores::jobs(lake, settings_to_parts::vacuum_retention_hours(settings));
    let owner = format!("process {}", std::process::id());
    Runner { store, jobs: Arc::new(jobs), clock, owner, policy: RunnerPolicy::default(), probe }
}
