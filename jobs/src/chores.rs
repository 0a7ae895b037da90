//! Upkeep that schedules start: compaction, checkpoints, vacuum, cleanup of the tables' logs. Doing one again does no harm,
//! and a run compacts a table once, however often it is tried.

use std::sync::Arc;

use async_trait::async_trait;
use domain::{Clock, time::MICROS};
use lake::{Lake, TableName, maintain::Pin, registry::Registry};
use scheduler::{Job, Jobs, Store, Task};
use serde::Deserialize;
use serde_json::Value;

use crate::{error::Error, pins};

/// The names of the jobs.
pub const NAMES: [&str; 4] = ["compact", "checkpoint", "vacuum", "clean-log"];

/// What upkeep works on, and what it keeps.
#[derive(Clone)]
pub struct Upkeep {
    /// The tables.
    pub lake: Arc<Lake>,
    /// Whose models need which versions.
    pub registry: Registry,
    /// Which backfills go on.
    pub store: Store,
    /// The present.
    pub clock: Arc<dyn Clock>,
    /// Files that no version of so many hours needs may be deleted, where a schedule does not say another number.
    pub vacuum_retention_hours: u32,
    /// Commits that no version of so many hours is read by may be removed, where a schedule does not say another number.
    pub log_retention_hours: u32,
}

/// The jobs by name, each with an optional `table`; `vacuum` and `clean-log` also with `retention_hours`.
#[must_use]
pub fn jobs(upkeep: &Upkeep) -> Jobs {
    let chore = |what| Arc::new(Chore { upkeep: upkeep.clone(), what }) as Arc<dyn Job>;
    let chores = [What::Compact, What::Checkpoint, What::Vacuum, What::CleanLog];
    NAMES.into_iter().zip(chores.map(chore)).collect()
}

/// Whether a job of this module can do what it is asked for.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check(job: &str, spec: &Value) -> Result<(), String> {
    let wanted = Wanted::read(spec)?;
    tables(wanted.table.as_deref())?;
    if wanted.retention_hours.is_some() && !matches!(job, "vacuum" | "clean-log") {
        return Err(format!("`retention_hours` is for `vacuum` and `clean-log`, not for `{job}`"));
    }
    Ok(())
}

struct Chore {
    upkeep: Upkeep,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Compact,
    Checkpoint,
    Vacuum,
    CleanLog,
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
        let pins = self.pins().await.map_err(|error| error.to_string())?;
        for table in tables(wanted.table.as_deref())? {
            if task.cancel.is_cancelled() {
                return Err("it was asked to end".to_owned());
            }
            let told = self.of(table, &wanted, &pins, task.run.into()).await.map_err(|error| error.to_string())?;
            for line in told {
                task.tell(&format!("{}: {line}", table.as_str())).await;
            }
        }
        Ok(())
    }
}

impl Chore {
    /// What must be kept, for jobs that remove anything.
    async fn pins(&self) -> Result<Vec<Pin>, Error> {
        if !matches!(self.what, What::Vacuum | What::CleanLog) {
            return Ok(Vec::new());
        }
        let Upkeep { lake, registry, store, clock, .. } = &self.upkeep;
        pins::all(lake, registry, store, clock.now()).await
    }

    /// Does it to one table; what was done, where anything was.
    async fn of(&self, table: TableName, wanted: &Wanted, pins: &[Pin], run: i64) -> Result<Vec<String>, Error> {
        let Upkeep { lake, clock, vacuum_retention_hours, log_retention_hours, .. } = &self.upkeep;
        let mut told = Vec::new();
        match self.what {
            What::Compact => match lake.compact_for(table, run).await? {
                None => told.push("compacted by an earlier attempt, or by a later run".to_owned()),
                Some(done) if done.removed > 0 => {
                    told.push(format!("{} files became {}", done.removed, done.added));
                }
                Some(_) => {}
            },
            What::Checkpoint => {
                if lake.checkpoint(table, 1).await? {
                    told.push("a checkpoint was written".to_owned());
                }
            }
            What::Vacuum => {
                let hours = wanted.retention_hours.unwrap_or(*vacuum_retention_hours);
                let done = lake.vacuum(table, hours, pins).await?;
                if done.files > 0 {
                    told.push(format!("{} files of {} bytes were deleted", done.files, done.bytes));
                }
                for held in done.held {
                    let Pin { version, reason, .. } = &held.pin;
                    told.push(format!("{} files are kept for version {version}: {reason}", held.files));
                }
            }
            What::CleanLog => {
                let hours = wanted.retention_hours.unwrap_or(*log_retention_hours);
                let before = clock.now().plus_micros(-i64::from(hours) * 3_600 * MICROS);
                let done = lake.clean_log(table, before, pins).await?;
                if done.files > 0 {
                    told.push(format!("{} files of the log were removed", done.files));
                }
                for Pin { version, reason, .. } in done.held_by {
                    told.push(format!("the log is kept from version {version} on: {reason}"));
                }
            }
        }
        Ok(told)
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
    #[case("compact", json!({"tables": "events"}), Some("unknown field `tables`"))]
    #[case("compact", json!({"table": "event"}), Some("there is no table `event`"))]
    #[case("checkpoint", json!({"retention_hours": 24}), Some("`retention_hours` is for `vacuum` and `clean-log`"))]
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
