//! Restoring a table: its newest version becomes one whose rows are those of an older version.
//!
//! A restore is one commit of ours. It carries the transaction `rewrite` and holds the table's lock, as compaction
//! does; it removes and adds files and deletes none, so that it can itself be restored. Rows that it takes away would
//! never come again while the table's progress says that they are there, so the same commit sets the progress back to
//! what it was, and says from where the stream job has to fill a derived table again.

use std::collections::HashSet;

use deltalake::{
    DeltaTable, DeltaTableError,
    kernel::{
        Action, Add, Remove, Transaction,
        transaction::{CommitBuilder, CommitProperties},
    },
    protocol::DeltaOperation,
};
use domain::{Offset, Partition};

use crate::{
    error::Error,
    lake::{Lake, Progress, fill_id, fill_replay_id, next_id, replay_id},
    maintain::{REWRITE, TableState, rewrite_number, state_of},
    schema::TableName,
    table::{failed, load},
    versions::actions_of,
};

/// What a restore changes, done or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The table before it.
    pub before: TableState,
    /// The version whose rows the table gets.
    pub to: TableState,
    /// Files that come back.
    pub files_added: u64,
    /// Files that are no longer part of the newest version.
    pub files_removed: u64,
    /// The version of the commit, where it was done.
    pub version: Option<u64>,
}

impl Lake {
    /// What [`Lake::restore`] would change; changes nothing.
    ///
    /// # Errors
    /// As [`Lake::restore`].
    pub async fn restore_plan(&self, name: TableName, version: u64) -> Result<Restored, Error> {
        Ok(self.plan(name, version).await?.summary)
    }

    /// Gives the table the rows of an older version, in one commit with `transactions`.
    ///
    /// # Errors
    /// [`Error::NoVersion`] and [`Error::VersionRemoved`] where there is no such version, [`Error::RewriteRunning`]
    /// where a rewrite or an append was faster.
    pub async fn restore(
        &self,
        name: TableName,
        version: u64,
        transactions: &[(String, i64)],
    ) -> Result<Restored, Error> {
        let _lock = self.rewrite_lock(name)?;
        let Plan { table, actions, summary } = self.plan(name, version).await?;
        let number = rewrite_number(&table, name).await?;
        let transactions = transactions.iter().map(|(id, value)| Transaction::new(id, *value));
        let properties = CommitProperties::default()
            .with_application_transactions(transactions.chain([Transaction::new(REWRITE, number)]).collect())
            .with_create_checkpoint(false)
            .with_cleanup_expired_logs(Some(false));
        let committed = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(
                Some(table.snapshot().map_err(failed("read", name))?),
                table.log_store(),
                DeltaOperation::Restore { version: Some(version), datetime: None },
            )
            .await;
        match committed {
            Ok(finalized) => Ok(Restored { version: Some(finalized.version()), ..summary }),
            Err(DeltaTableError::Transaction { .. }) => Err(Error::RewriteRunning { table: name.as_str() }),
            Err(error) => Err(failed("restore", name)(error)),
        }
    }

    async fn plan(&self, name: TableName, version: u64) -> Result<Plan, Error> {
        let target = self.versions().open(name, version).await?;
        let table = load(self.store(), name).await?;
        let (files, wanted) = (files_of(&table, name)?, files_of(&target, name)?);
        let paths = |files: &[(Add, Remove)]| files.iter().map(|(add, _)| add.path.clone()).collect::<HashSet<_>>();
        let (has, wants) = (paths(&files), paths(&wanted));
        let added: Vec<_> = wanted.into_iter().filter(|(add, _)| !has.contains(&add.path)).collect();
        let removed: Vec<_> = files.into_iter().filter(|(add, _)| !wants.contains(&add.path)).collect();
        let summary = Restored {
            before: state_of(&table, name)?,
            to: state_of(&target, name)?,
            files_added: added.len() as u64,
            files_removed: removed.len() as u64,
            version: None,
        };
        let removes = removed.into_iter().map(|(_, remove)| Action::Remove(remove));
        let actions = removes.chain(added.into_iter().map(|(add, _)| Action::Add(add))).collect();
        Ok(Plan { table, actions, summary })
    }

    /// The value of an application transaction of a version of a table.
    ///
    /// # Errors
    /// As [`Lake::restore_plan`].
    pub async fn transaction_at(&self, name: TableName, version: u64, id: &str) -> Result<Option<i64>, Error> {
        let table = self.versions().open(name, version).await?;
        let snapshot = table.snapshot().map_err(failed("read", name))?.snapshot();
        snapshot.transaction_version(table.log_store().as_ref(), id).await.map_err(failed("read", name))
    }

    /// Per partition, a progress that `events` once committed with `next` at or below the offset given: folding
    /// silently from its `replay` gives the state at its `next`. The beginning of the log, where none is known any more.
    ///
    /// # Errors
    /// Where the log of `events` cannot be read.
    pub async fn anchors(&self, topic: &str, wanted: &[(Partition, Offset)]) -> Result<Vec<Progress>, Error> {
        let events = load(self.store(), TableName::Events).await?;
        let mut anchors = vec![None; wanted.len()];
        for version in (0..=events.version().unwrap_or_default()).rev() {
            if anchors.iter().all(Option::is_some) {
                break;
            }
            let Some(actions) = actions_of(&events, TableName::Events, version).await? else { break };
            let value = |id: &str| {
                actions.iter().find_map(|action| match action {
                    Action::Txn(transaction) if transaction.app_id == id => Some(transaction.version),
                    _ => None,
                })
            };
            for ((partition, offset), anchor) in wanted.iter().zip(&mut anchors).filter(|(_, anchor)| anchor.is_none())
            {
                let progress = value(&next_id(topic, *partition)).zip(value(&replay_id(topic, *partition)));
                *anchor = progress.filter(|(next, _)| next <= offset).map(|(next, replay)| Progress { next, replay });
            }
        }
        Ok(anchors.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// The derived tables of some partitions that a restore left to be filled, and from where.
    ///
    /// # Errors
    /// Where a table cannot be read.
    pub async fn fills(
        &self,
        topic: &str,
        partitions: &[Partition],
    ) -> Result<Vec<(TableName, Partition, Progress)>, Error> {
        let mut fills = Vec::new();
        for name in TableName::ALL.into_iter().filter(|name| *name != TableName::Events) {
            let mut table = self.table(name).lock().await;
            table.refresh().await?;
            for partition in partitions {
                let next = table.transaction(&fill_id(topic, *partition)).await?.filter(|next| *next != FILLED);
                if let Some(next) = next {
                    let replay = table.transaction(&fill_replay_id(topic, *partition)).await?.unwrap_or(0);
                    fills.push((name, *partition, Progress { next, replay }));
                }
            }
        }
        Ok(fills)
    }

    /// Notes that a derived table has been filled.
    ///
    /// # Errors
    /// Where the commit fails for good.
    pub async fn filled(&self, name: TableName, topic: &str, partition: Partition) -> Result<(), Error> {
        self.table(name).lock().await.note(&[(fill_id(topic, partition), FILLED)]).await
    }
}

/// The transaction that says from where to fill, once that is done.
const FILLED: i64 = -1;

/// What a restore commits, and to which version.
struct Plan {
    table: DeltaTable,
    actions: Vec<Action>,
    summary: Restored,
}

/// The files of a version, each as what adds and what removes it.
pub(crate) fn files_of(table: &DeltaTable, name: TableName) -> Result<Vec<(Add, Remove)>, Error> {
    let files = table.snapshot().map_err(failed("read", name))?.log_data();
    #[expect(deprecated, reason = "what replaces it is private to deltalake")]
    let files = files.iter().map(|file| (file.add_action(), file.remove_action(true))).collect();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{flush, lake, rows_of};

    const FEATURES: TableName = TableName::Features;

    async fn grown() -> (tempfile::TempDir, Lake) {
        let (folder, lake) = lake().await;
        for start in [0, 10, 20] {
            lake.flush("topic", flush(start, start + 10)).await.unwrap();
        }
        (folder, lake)
    }

    #[tokio::test]
    async fn a_restored_table_has_the_rows_of_the_version_and_its_progress() {
        let (_folder, lake) = grown().await;
        let before = rows_of(&lake, FEATURES).await;
        let next = next_id("topic", 0);
        let stored = lake.transaction_at(FEATURES, 1, &next).await.unwrap();
        assert_eq!(stored, Some(10));
        let restored = lake.restore(FEATURES, 1, &[(next.clone(), 10)]).await.unwrap();
        assert_eq!((restored.version, restored.files_removed, restored.files_added), (Some(4), 2, 0));
        assert_eq!((restored.before.rows, restored.to.rows), (30, 10));
        assert_eq!(rows_of(&lake, FEATURES).await, before[..10]);
        assert_eq!(lake.transaction(FEATURES, &next).await.unwrap(), Some(10));
        // The rows that were taken away come again, once.
        lake.flush_derived("topic", &flush(0, 30)).await.unwrap();
        assert_eq!(rows_of(&lake, FEATURES).await, before);
    }

    #[tokio::test]
    async fn a_restore_can_be_restored_and_its_files_survive_vacuum() {
        let (_folder, lake) = grown().await;
        let before = rows_of(&lake, FEATURES).await;
        lake.compact(FEATURES).await.unwrap();
        lake.restore(FEATURES, 1, &[]).await.unwrap();
        let back = lake.restore(FEATURES, 3, &[]).await.unwrap();
        assert_eq!((back.files_removed, back.files_added), (0, 2));
        lake.vacuum(FEATURES, 0, &[]).await.unwrap();
        assert_eq!(rows_of(&lake, FEATURES).await, before);
    }

    #[tokio::test]
    async fn a_plan_changes_nothing() {
        let (_folder, lake) = grown().await;
        let before = lake.state(FEATURES).await.unwrap();
        let plan = lake.restore_plan(FEATURES, 2).await.unwrap();
        assert_eq!((plan.version, plan.to.rows, plan.files_removed), (None, 20, 1));
        assert_eq!(lake.state(FEATURES).await.unwrap(), before);
    }

    #[tokio::test]
    async fn a_restore_and_a_compaction_exclude_each_other() {
        let (_folder, lake) = grown().await;
        let held = lake.rewrite_lock(FEATURES).unwrap();
        let refused = lake.restore(FEATURES, 1, &[]).await;
        assert!(matches!(refused, Err(Error::RewriteRunning { table: "features" })), "{refused:?}");
        drop(held);
        // Past the lock, as by a program on another machine: the transaction refuses the second.
        let stale = load(lake.store(), FEATURES).await.unwrap();
        lake.restore(FEATURES, 1, &[]).await.unwrap();
        let refused = crate::maintain::compact_from(stale, FEATURES, None).await;
        assert!(matches!(refused, Err(Error::RewriteRunning { table: "features" })), "{refused:?}");
        assert_eq!(rows_of(&lake, FEATURES).await.len(), 10);
    }

    #[tokio::test]
    async fn a_version_without_its_files_is_not_restored() {
        let (_folder, lake) = grown().await;
        lake.compact(FEATURES).await.unwrap();
        lake.vacuum(FEATURES, 0, &[]).await.unwrap();
        let newest = lake.state(FEATURES).await.unwrap().version;
        let refused = lake.restore(FEATURES, 3, &[]).await;
        assert!(
            matches!(refused, Err(Error::VersionRemoved { version: 3, oldest: 4, newest: n, .. }) if n == newest),
            "{refused:?}"
        );
    }

    #[tokio::test]
    async fn an_anchor_is_the_newest_progress_at_or_below_an_offset() {
        let (_folder, lake) = grown().await;
        let nexts = async |offset| lake.anchors("topic", &[(0, offset)]).await.unwrap()[0].next;
        assert_eq!((nexts(30).await, nexts(29).await, nexts(10).await, nexts(9).await), (30, 20, 10, 0));
        assert_eq!(lake.anchors("other", &[(0, 30)]).await.unwrap(), [Progress::default()]);
    }

    #[tokio::test]
    async fn a_table_is_to_be_filled_until_that_is_noted() {
        let (_folder, lake) = grown().await;
        let notes = [(next_id("topic", 0), 10), (fill_id("topic", 0), 10), (fill_replay_id("topic", 0), 4)];
        lake.restore(FEATURES, 1, &notes).await.unwrap();
        let fill = (FEATURES, 0, Progress { next: 10, replay: 4 });
        assert_eq!(lake.fills("topic", &[0, 1]).await.unwrap(), [fill]);
        lake.filled(FEATURES, "topic", 0).await.unwrap();
        assert_eq!(lake.fills("topic", &[0, 1]).await.unwrap(), []);
    }
}
