//! Upkeep that schedules start: compaction, checkpoints, vacuum. Doing one again does no harm and finds nothing to do.

use std::sync::Arc;

use async_trait::async_trait;
use lake::{Error as LakeError, Lake, TableName};
use scheduler::{Job, Jobs, Task};
use serde::Deserialize;
use serde_json::Value;

/// The names of the jobs.
const NAMES: [&str; 3] = ["compact", "checkpoint", "vacuum"];

/// The jobs by name: `compact` and `checkpoint` with an optional `table`, `vacuum` also with `retention_hours`.
#[must_use]
pub fn jobs(lake: &Arc<Lake>, vacuum_retention_hours: u32) -> Jobs {
    let chore = |what| Arc::new(Chore { lake: lake.clone(), what }) as Arc<dyn Job>;
    let chores = [What::Compact, What::Checkpoint, What::Vacuum { vacuum_retention_hours }];
    NAMES.into_iter().zip(chores.map(chore)).collect()
}

/// Whether a job can do what it is asked for.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check(job: &str, spec: &Value) -> Result<(), String> {
    if !NAMES.contains(&job) {
        return Err(format!("there is no job `{job}`; there are {}", NAMES.join(", ")));
    }
    let wanted = Wanted::read(spec)?;
    tables(wanted.table.as_deref())?;
    if wanted.retention_hours.is_some() && job != "vacuum" {
        return Err(format!("`retention_hours` is for `vacuum`, not for `{job}`"));
    }
    Ok(())
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

impl Wanted {
    fn read(spec: &Value) -> Result<Self, String> {
        serde_json::from_value(spec.clone()).map_err(|error| format!("`spec`: {error}"))
    }
}

#[async_trait]
impl Job for Chore {
    async fn run(&self, task: &Task) -> Result<(), String> {
        let wanted = Wanted::read(&task.spec)?;
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

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case("compact", json!({}), None)]
    #[case("vacuum", json!({"table": "events", "retention_hours": 24}), None)]
    #[case("tidy", json!({}), Some("there is no job `tidy`; there are compact, checkpoint, vacuum"))]
    #[case("compact", json!({"tables": "events"}), Some("unknown field `tables`"))]
    #[case("compact", json!({"table": "event"}), Some("there is no table `event`"))]
    #[case("checkpoint", json!({"retention_hours": 24}), Some("`retention_hours` is for `vacuum`"))]
    fn what_a_job_cannot_do_is_said_before_it_is_due(
        #[case] job: &str,
        #[case] spec: Value,
        #[case] told: Option<&str>,
    ) {
        let checked = check(job, &spec);
        match told {
            None => assert_eq!(checked, Ok(())),
            Some(told) => assert!(checked.as_ref().is_err_and(|error| error.contains(told)), "{checked:?}"),
        }
    }
}
