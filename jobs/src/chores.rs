//! Upkeep that schedules start: compaction, checkpoints, vacuum. Doing one again does no harm and finds nothing to do.

use std::sync::Arc;

use async_trait::async_trait;
use lake::{Error as LakeError, Lake, TableName};
use scheduler::{Job, Jobs, Task};
use serde::Deserialize;

/// The names of the jobs.
pub const NAMES: [&str; 3] = ["compact", "checkpoint", "vacuum"];

/// The jobs by name: `compact` and `checkpoint` with an optional `table`, `vacuum` also with `retention_hours`.
#[must_use]
pub fn jobs(lake: &Arc<Lake>, vacuum_retention_hours: u32) -> Jobs {
    let chore = |what| Arc::new(Chore { lake: lake.clone(), what }) as Arc<dyn Job>;
    let chores = [What::Compact, What::Checkpoint, What::Vacuum { vacuum_retention_hours }];
    NAMES.into_iter().zip(chores.map(chore)).collect()
}

struct Chore {
    lake: Arc<Lake>,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Compact,
    Checkpoint,
    /// Of files that no version of the last hours needs, where the schedule does not say how many.
    Vacuum {
        vacuum_retention_hours: u32,
    },
}

/// What a schedule may ask for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    table: Option<String>,
    retention_hours: Option<u32>,
}

#[async_trait]
impl Job for Chore {
    async fn run(&self, task: &Task) -> Result<(), String> {
        let wanted: Wanted = serde_json::from_value(task.spec.clone()).map_err(|error| format!("spec: {error}"))?;
        for table in tables(wanted.table.as_deref())? {
            if task.cancel.is_cancelled() {
                return Err("it was asked to end".to_owned());
            }
            let told = self.of(table, &wanted).await.map_err(|error| error.to_string())?;
            if let Some(told) = told {
                task.tell(&format!("{}: {told}", table.as_str())).await;
            }
        }
        Ok(())
    }
}

impl Chore {
    /// Does it to one table; what was done, where anything was.
    async fn of(&self, table: TableName, wanted: &Wanted) -> Result<Option<String>, LakeError> {
        match self.what {
            What::Compact => {
                let done = self.lake.compact(table).await?;
                Ok((done.removed > 0).then(|| format!("{} files became {}", done.removed, done.added)))
            }
            What::Checkpoint => {
                Ok(self.lake.checkpoint(table, 1).await?.then(|| "a checkpoint was written".to_owned()))
            }
            What::Vacuum { vacuum_retention_hours } => {
                let hours = wanted.retention_hours.unwrap_or(vacuum_retention_hours);
                let done = self.lake.vacuum(table, hours).await?;
                Ok((done.files > 0).then(|| format!("{} files of {} bytes were deleted", done.files, done.bytes)))
            }
        }
    }
}

/// The table that is named; all, where none is.
fn tables(named: Option<&str>) -> Result<Vec<TableName>, String> {
    let Some(name) = named else { return Ok(TableName::ALL.to_vec()) };
    TableName::from_name(name).map(|table| vec![table]).ok_or_else(|| format!("there is no table `{name}`"))
}
