//! The lake: all tables of one data folder, and the flush that moves a batch of folded rows into them.
//!
//! A flush commits the derived tables first and `events` last. The progress stored in `events` is *the* progress:
//! whoever starts again reads it, folds silently up to it and goes on; the other tables drop what they have.

use std::{collections::HashMap, fmt, path::Path, sync::Arc};

use domain::{AlertRow, NoProbe, Offset, Output, Partition, Prediction, Probe};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tracing::warn;

use crate::{
    durable::{DurableStore, check_newest_commits, mark_filled, torn_commits},
    error::Error,
    rows::{GapRow, TableRow},
    schema::TableName,
    table::{Appended, Rule, Slice, Table},
    versions::Versions,
};

/// What one partition of the log has become since the last flush.
#[derive(Debug, Default)]
pub struct PartitionFlush {
    /// The partition.
    pub partition: Partition,
    /// The first offset accounted for.
    pub start: Offset,
    /// The offset after the last one accounted for.
    pub next: Offset,
    /// Where a rebuild of the fold's state at `next` starts.
    pub replay: Offset,
    /// Folded rows.
    pub output: Output,
    /// What models said about `output.features`.
    pub predictions: Vec<Prediction>,
    /// Which of them raised an alert or joined one.
    pub alerts: Vec<AlertRow>,
    /// Offsets that the log lost on the way.
    pub gaps: Vec<GapRow>,
}

/// Rows that a flush added, per table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlushSummary {
    /// (table, rows), in the order of the commits.
    pub rows: Vec<(TableName, usize)>,
}

impl FlushSummary {
    /// Rows added to one table.
    #[must_use]
    pub fn of(&self, table: TableName) -> usize {
        self.rows.iter().filter(|(name, _)| *name == table).map(|(_, rows)| rows).sum()
    }
}

/// How far a partition of the log is in the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The next offset to take in.
    pub next: Offset,
    /// Where the state at `next` is rebuilt from.
    pub replay: Offset,
}

/// The tables of one data folder.
pub struct Lake {
    versions: Versions,
    tables: HashMap<TableName, Arc<Mutex<Table>>>,
    behind: Vec<TableName>,
    probe: Arc<dyn Probe>,
}

impl fmt::Debug for Lake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lake").field("folder", &self.folder()).finish_non_exhaustive()
    }
}

impl Lake {
    /// Opens the tables under `folder`; missing ones are made, torn newest commits are set aside.
    ///
    /// # Errors
    /// Where a table cannot be read, was changed by a newer program, or is damaged below its newest commit.
    pub async fn open(folder: &Path) -> Result<Self, Error> {
        Self::open_with_probe(folder, Arc::new(NoProbe)).await
    }

    /// [`Lake::open`], telling `probe` what is reached.
    ///
    /// # Errors
    /// As [`Lake::open`].
    pub async fn open_with_probe(folder: &Path, probe: Arc<dyn Probe>) -> Result<Self, Error> {
        let store = DurableStore::new(folder)?;
        let versions = Versions::new(store);
        let store = versions.store();
        let mut tables = HashMap::new();
        let mut behind = Vec::new();
        for name in TableName::ALL {
            let folder = store.base().join(name.as_str());
            let set_aside = check_newest_commits(&folder)?;
            if !set_aside.is_empty() {
                warn!(table = name.as_str(), ?set_aside, "torn files were set aside; their rows will be written again");
            }
            tables.insert(name, Arc::new(Mutex::new(Table::open(store, name).await?)));
            if name != TableName::Events && !torn_commits(&folder)?.is_empty() {
                behind.push(name);
            }
        }
        Ok(Self { versions, tables, behind, probe })
    }

    /// The folder of the tables.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.store().base()
    }

    /// Time travel over these tables, and SQL.
    #[must_use]
    pub const fn versions(&self) -> &Versions {
        &self.versions
    }

    /// Tables that have lost their newest commits, now or before an earlier process opened the lake. `events` heals by
    /// itself, since its progress is where folding goes on; the others must be filled, see [`Lake::flush_derived`].
    #[must_use]
    pub fn behind(&self) -> &[TableName] {
        &self.behind
    }

    /// Notes that every partition of the log has filled the tables that were behind.
    ///
    /// # Errors
    /// Where a file of a table's log cannot be renamed.
    pub fn mark_filled(&self) -> Result<(), Error> {
        for table in &self.behind {
            mark_filled(&torn_commits(&self.store().base().join(table.as_str()))?)?;
        }
        Ok(())
    }

    pub(crate) fn probe(&self) -> &dyn Probe {
        self.probe.as_ref()
    }

    pub(crate) const fn store(&self) -> &DurableStore {
        self.versions.store()
    }

    /// How far a partition of a topic is, as the newest version of `events` says.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn progress(&self, topic: &str, partition: Partition) -> Result<Progress, Error> {
        let mut events = self.table(TableName::Events).lock().await;
        events.refresh().await?;
        let next = events.transaction(&next_id(topic, partition)).await?.unwrap_or(0);
        let replay = events.transaction(&replay_id(topic, partition)).await?.unwrap_or(0);
        Ok(Progress { next, replay })
    }

    /// Commits what is not stored yet of a flush over partitions of one topic. May be repeated at any time.
    ///
    /// # Errors
    /// [`Error::OtherTopic`] where the tables follow another; where a commit fails for good: tables committed before keep
    /// their rows and drop them at the repetition.
    pub async fn flush(&self, topic: &str, partitions: Arc<Vec<PartitionFlush>>) -> Result<FlushSummary, Error> {
        follows(&mut *self.table(TableName::Events).lock().await, topic).await?;
        let mut summary = self.flush_derived(topic, &partitions).await?;
        let events = self.append_truth(topic, &partitions).await?;
        summary.rows.push((TableName::Events, events.rows()));
        Ok(summary)
    }

    /// [`Lake::flush`] without `events`: fills what derived tables lack and leaves the progress as it is.
    ///
    /// # Errors
    /// As [`Lake::flush`].
    pub async fn flush_derived(
        &self,
        topic: &str,
        partitions: &Arc<Vec<PartitionFlush>>,
    ) -> Result<FlushSummary, Error> {
        let (floors, gaps, dead, late, features, windows, predictions, alerts) = tokio::try_join!(
            self.append_derived(topic, partitions, |p| &p.output.floors),
            self.append_derived(topic, partitions, |p| &p.gaps),
            self.append_derived(topic, partitions, |p| &p.output.dead),
            self.append_derived(topic, partitions, |p| &p.output.late),
            self.append_derived(topic, partitions, |p| &p.output.features),
            self.append_derived(topic, partitions, |p| &p.output.windows),
            self.append_derived(topic, partitions, |p| &p.predictions),
            self.append_derived(topic, partitions, |p| &p.alerts),
        )?;
        let rows = [floors, gaps, dead, late, features, windows, predictions, alerts].map(Appended::rows);
        Ok(FlushSummary { rows: TableName::ALL.into_iter().zip(rows).collect() })
    }

    /// Appends rows under a progress id of their own, apart from the flushes.
    ///
    /// # Errors
    /// Where the commit fails for good.
    pub async fn append<R: TableRow>(&self, slice: &Slice<'_, R>) -> Result<Appended, Error> {
        let mut table = self.table(R::TABLE).lock().await;
        table.append(std::slice::from_ref(slice), Rule::Derived, self.probe.as_ref()).await
    }

    /// The value of an application transaction of a table's newest version.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn transaction(&self, table: TableName, id: &str) -> Result<Option<i64>, Error> {
        let mut table = self.table(table).lock().await;
        table.refresh().await?;
        table.transaction(id).await
    }

    /// Commits to one derived table, on a task of its own so that tables are encoded side by side.
    async fn append_derived<R: TableRow>(
        &self,
        topic: &str,
        partitions: &Arc<Vec<PartitionFlush>>,
        rows: fn(&PartitionFlush) -> &Vec<R>,
    ) -> Result<Appended, Error> {
        if partitions.iter().all(|partition| rows(partition).is_empty()) {
            return Ok(Appended::Nothing);
        }
        let (table, probe) = (self.table(R::TABLE).clone(), self.probe.clone());
        let (topic, partitions) = (topic.to_owned(), partitions.clone());
        let task = tokio::spawn(async move {
            let slices: Vec<_> = partitions.iter().map(|p| slice(&topic, p, rows(p), Vec::new())).collect();
            table.lock().await.append(&slices, Rule::Derived, probe.as_ref()).await
        });
        task.await?
    }

    async fn append_truth(&self, topic: &str, partitions: &Arc<Vec<PartitionFlush>>) -> Result<Appended, Error> {
        let (table, probe) = (self.table(TableName::Events).clone(), self.probe.clone());
        let (topic, partitions) = (topic.to_owned(), partitions.clone());
        let task = tokio::spawn(async move {
            let mut table = table.lock().await;
            let is_followed = follows(&mut table, &topic).await?;
            let mut slices: Vec<_> = partitions
                .iter()
                .map(|p| slice(&topic, p, &p.output.events, vec![(replay_id(&topic, p.partition), p.replay)]))
                .collect();
            // Workers on several partitions would refuse each other's commits if each of these said it.
            if !is_followed && let Some(first) = slices.first_mut() {
                first.along.push((FOLLOWED.to_owned(), fingerprint(&topic)));
            }
            table.append(&slices, Rule::Truth, probe.as_ref()).await
        });
        task.await?
    }

    /// Makes sure that the tables, as they were opened, follow this topic, or none yet.
    ///
    /// # Errors
    /// [`Error::OtherTopic`] where they follow another.
    pub async fn require_topic(&self, topic: &str) -> Result<(), Error> {
        follows(&mut *self.table(TableName::Events).lock().await, topic).await.map(drop)
    }

    /// Whether the tables follow this topic.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn is_following(&self, topic: &str) -> Result<bool, Error> {
        Ok(self.transaction(TableName::Events, FOLLOWED).await? == Some(fingerprint(topic)))
    }

    /// Lets the tables follow the topic `to`, whose offsets are those of `from`: every table gets the progress of the new
    /// one in one commit, `events` last. May be repeated at any time: once they follow it, nothing is set back. The versions
    /// of the tables.
    ///
    /// # Errors
    /// [`Error::OtherTopic`] where the tables follow neither; where a commit fails for good.
    pub async fn follow(&self, from: &str, to: &str, partitions: &[Partition]) -> Result<Vec<(TableName, u64)>, Error> {
        let is_done = self.is_following(to).await?;
        if !is_done {
            self.require_topic(from).await?;
        }
        let mut versions = Vec::new();
        for name in TableName::ALL {
            let mut table = self.table(name).lock().await;
            table.refresh().await?;
            let mut transactions = Vec::new();
            for id in [next_id, replay_id, fill_id, fill_replay_id, history_id] {
                for partition in partitions {
                    if let Some(value) = table.transaction(&id(from, *partition)).await? {
                        transactions.push((id(to, *partition), value));
                    }
                }
            }
            if name == TableName::Events {
                transactions.push((FOLLOWED.to_owned(), fingerprint(to)));
            }
            if !is_done && !transactions.is_empty() {
                table.note(&transactions).await?;
            }
            versions.push((name, table.version()));
        }
        Ok(versions)
    }

    pub(crate) fn table(&self, name: TableName) -> &Arc<Mutex<Table>> {
        self.tables.get(&name).unwrap_or_else(|| unreachable!("every table is opened"))
    }
}

fn slice<'a, R>(topic: &str, flush: &PartitionFlush, rows: &'a [R], along: Vec<(String, i64)>) -> Slice<'a, R> {
    Slice { progress: next_id(topic, flush.partition), start: flush.start, next: flush.next, along, rows }
}

/// The application transaction of `events` with the [`fingerprint`] of the topic that the tables follow.
const FOLLOWED: &str = "topic";

/// A topic's id as the number that an application transaction can hold.
fn fingerprint(topic: &str) -> i64 {
    let digest = Sha256::digest(topic.as_bytes());
    let first = digest.iter().take(8).fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    i64::try_from(first >> 1).unwrap_or(i64::MAX)
}

/// Whether the tables follow this topic; not, where they follow none yet.
async fn follows(events: &mut Table, topic: &str) -> Result<bool, Error> {
    match events.transaction(FOLLOWED).await? {
        Some(followed) if followed != fingerprint(topic) => Err(Error::OtherTopic),
        followed => Ok(followed.is_some()),
    }
}

/// The application transaction with the next offset of a partition.
#[must_use]
pub fn next_id(topic: &str, partition: Partition) -> String {
    format!("{topic}/{partition}/next")
}

/// The application transaction of `events` with the offset from which the state at the next one is rebuilt.
#[must_use]
pub fn replay_id(topic: &str, partition: Partition) -> String {
    format!("{topic}/{partition}/replay")
}

/// The application transaction with the offset from which a restored table is filled again.
#[must_use]
pub fn fill_id(topic: &str, partition: Partition) -> String {
    format!("{topic}/{partition}/fill")
}

/// The application transaction with the offset from which the state at [`fill_id`]'s is rebuilt.
#[must_use]
pub fn fill_replay_id(topic: &str, partition: Partition) -> String {
    format!("{topic}/{partition}/fill-replay")
}

/// The application transaction of `predictions` with the next offset of the rows older than the first model.
#[must_use]
pub fn history_id(topic: &str, partition: Partition) -> String {
    format!("{topic}/{partition}/history")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{flush, lake, rows_of};

    #[tokio::test]
    async fn a_flush_is_found_by_the_next_start() {
        let (folder, lake) = lake().await;
        let summary = lake.flush("topic", flush(0, 200)).await.unwrap();
        assert_eq!(summary.of(TableName::Events), 200);
        assert_eq!(summary.of(TableName::Features), 200);
        assert_eq!(summary.of(TableName::Windows), 2);
        drop(lake);
        let lake = Lake::open(folder.path()).await.unwrap();
        assert_eq!(lake.progress("topic", 0).await.unwrap().next, 200);
        assert!(lake.progress("topic", 0).await.unwrap().replay > 0);
        assert_eq!(lake.progress("topic", 1).await.unwrap(), Progress::default());
        assert_eq!(lake.progress("other", 0).await.unwrap(), Progress::default());
    }

    #[tokio::test]
    async fn a_repeated_flush_changes_nothing() {
        let (_folder, lake) = lake().await;
        lake.flush("topic", flush(0, 30)).await.unwrap();
        let before = rows_of(&lake, TableName::Features).await;
        let summary = lake.flush("topic", flush(0, 30)).await.unwrap();
        assert!(summary.rows.iter().all(|(_, rows)| *rows == 0), "{summary:?}");
        assert_eq!(rows_of(&lake, TableName::Features).await, before);
    }

    #[tokio::test]
    async fn tables_follow_one_topic_until_they_are_told_to_follow_its_copy() {
        let (_folder, lake) = lake().await;
        lake.require_topic("any").await.unwrap();
        lake.flush("topic", flush(0, 200)).await.unwrap();
        let before = rows_of(&lake, TableName::Features).await;
        assert!(matches!(lake.require_topic("copy").await, Err(Error::OtherTopic)));
        assert!(matches!(lake.flush("copy", flush(0, 30)).await, Err(Error::OtherTopic)));
        assert!(matches!(lake.follow("stranger", "copy", &[0]).await, Err(Error::OtherTopic)));
        for _ in 0..2 {
            lake.follow("topic", "copy", &[0]).await.unwrap();
            let progress = lake.progress("copy", 0).await.unwrap();
            assert_eq!(progress, lake.progress("topic", 0).await.unwrap());
        }
        assert!(matches!(lake.require_topic("topic").await, Err(Error::OtherTopic)));
        lake.flush("copy", flush(200, 230)).await.unwrap();
        lake.follow("topic", "copy", &[0]).await.unwrap();
        let after = rows_of(&lake, TableName::Features).await;
        assert_eq!((after.len(), lake.progress("copy", 0).await.unwrap().next), (230, 230));
        assert_eq!(after[..200], before);
    }

    #[tokio::test]
    async fn of_overlapping_flushes_every_row_is_stored_once() {
        let (folder, one) = lake().await;
        let other = Lake::open(folder.path()).await.unwrap();
        one.flush("topic", flush(0, 50)).await.unwrap();
        other.flush("topic", flush(0, 80)).await.unwrap();
        one.flush("topic", flush(50, 100)).await.unwrap();
        for table in [TableName::Events, TableName::Features] {
            let (_other_folder, whole) = lake_with_one_flush(100).await;
            assert_eq!(rows_of(&one, table).await, rows_of(&whole, table).await);
        }
    }

    #[tokio::test]
    async fn concurrent_flushes_of_the_same_offsets_store_every_row_once() {
        let (folder, one) = lake().await;
        let other = Lake::open(folder.path()).await.unwrap();
        let work = |lake: Lake, size: i64| async move {
            for start in (0..100).step_by(usize::try_from(size).unwrap()) {
                lake.flush("topic", flush(start, start + size)).await.unwrap();
            }
            lake
        };
        let (one, _) = tokio::join!(work(one, 10), work(other, 25));
        assert_eq!(rows_of(&one, TableName::Features).await.len(), 100);
        assert_eq!(rows_of(&one, TableName::Events).await.len(), 100);
        assert_eq!(one.progress("topic", 0).await.unwrap().next, 100);
    }

    #[tokio::test]
    async fn derived_tables_that_are_ahead_drop_what_they_have() {
        let (_folder, lake) = lake().await;
        // As after a kill between the commit of `features` and that of `events`.
        lake.append_derived("topic", &flush(0, 40), |p| &p.output.features).await.unwrap();
        lake.flush("topic", flush(0, 60)).await.unwrap();
        assert_eq!(rows_of(&lake, TableName::Features).await.len(), 60);
        assert_eq!(rows_of(&lake, TableName::Events).await.len(), 60);
    }

    #[tokio::test]
    async fn rows_that_would_leave_a_hole_are_refused() {
        let (_folder, lake) = lake().await;
        lake.flush("topic", flush(0, 10)).await.unwrap();
        let refused = lake.flush("topic", flush(20, 30)).await;
        assert!(matches!(refused, Err(Error::ProgressGap { stored: 10, start: 20, .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn a_table_of_a_newer_program_is_refused_with_a_sentence() {
        let (folder, lake) = lake().await;
        lake.flush("topic", flush(0, 10)).await.unwrap();
        drop(lake);
        let newer = r#"{"protocol":{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["deletionVectors"],"writerFeatures":["deletionVectors"]}}"#;
        let commit = folder.path().join("features/_delta_log/00000000000000000002.json");
        std::fs::write(commit, format!("{newer}\n{}\n", r#"{"commitInfo":{"timestamp":1710000000000}}"#)).unwrap();
        let refused = Lake::open(folder.path()).await;
        assert!(
            matches!(refused, Err(Error::FutureProtocol { table: "features", reader: 3, writer: 7 })),
            "{refused:?}"
        );
    }

    #[tokio::test]
    async fn tables_speak_the_oldest_protocol() {
        let (_folder, lake) = lake().await;
        let table = lake.store().table("events").unwrap().load().await.unwrap();
        let protocol = table.snapshot().unwrap().protocol().clone();
        assert_eq!((protocol.min_reader_version(), protocol.min_writer_version()), (1, 2));
    }

    async fn lake_with_one_flush(next: Offset) -> (tempfile::TempDir, Lake) {
        let (folder, lake) = lake().await;
        lake.flush("topic", flush(0, next)).await.unwrap();
        (folder, lake)
    }
}
