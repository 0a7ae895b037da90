//! Which versions of tables upkeep keeps whatever their age, and for whom.

use domain::Timestamp;
use lake::{Lake, TableName, maintain::Pin, registry::Registry};
use scheduler::Store;

use crate::{backfill, error::Error};

/// Tables that a backfill changes.
const BACKFILLED: [TableName; 3] = [TableName::Events, TableName::Features, TableName::Windows];

/// The newest runs that are looked at.
const RUNS: u32 = 1_000;

/// What models were trained on that may be needed again, and what backfills that have not ended began with.
///
/// # Errors
/// Where the registry, the store of runs or a table cannot be read.
pub async fn all(lake: &Lake, registry: &Registry, store: &Store, now: Timestamp) -> Result<Vec<Pin>, Error> {
    let mut pins = registry.needed_versions().await?;
    for run in store.runs(Some(backfill::JOB), RUNS).await? {
        if run.state_at(now).is_ended() {
            continue;
        }
        for table in BACKFILLED {
            // A table that is younger than the run, or whose log does not reach back so far, has nothing to keep.
            if let Ok(version) = lake.versions().version_at(table, run.created).await {
                pins.push(Pin { table, version, reason: format!("what backfill run {} began with", run.id) });
            }
        }
    }
    Ok(pins)
}
