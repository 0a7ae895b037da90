//! Upkeep of tables: checkpoints, compaction of small files, removal of files that no kept version needs.
//!
//! Rewrites of one table exclude each other twice over: by a lock file, and by the application transaction `rewrite`,
//! because deltalake itself does not see two compactions as a conflict and rows would double. Appends go on meanwhile.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    path::PathBuf,
};

use deltalake::{
    DeltaTable, DeltaTableError,
    kernel::{
        Action, Add, Remove, Transaction,
        transaction::{CommitBuilder, CommitProperties},
    },
    operations::vacuum::{VacuumBuilder, VacuumMode},
    protocol::{
        DeltaOperation,
        checkpoints::{cleanup_expired_logs_for, create_checkpoint},
    },
    table::state::DeltaTableState,
    writer::{DeltaWriter, RecordBatchWriter},
};
use domain::{ErrorKind, Timestamp, probe::Point};
use futures::{StreamExt, TryStreamExt};
use tracing::{info, warn};

use crate::{
    error::Error,
    lake::Lake,
    read::as_stored,
    schema::{SYMBOL, TableName},
    session,
    table::{failed, load, writer_properties},
};

/// Files larger than this are left alone by compaction.
pub const TARGET_FILE_BYTES: i64 = 64 << 20;

/// The application transaction of every rewrite.
pub(crate) const REWRITE: &str = "rewrite";

/// The application transaction with the number of the newest run whose compaction is committed.
const COMPACT_RUN: &str = "compact/run";

/// A version that is kept whatever its age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The table.
    pub table: TableName,
    /// Its version.
    pub version: u64,
    /// Who needs it, for people.
    pub reason: String,
}

/// Files that a vacuum leaves because a pinned version needs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The pin.
    pub pin: Pin,
    /// Files that would be deleted otherwise, also those that other pins hold.
    pub files: u64,
}

/// What a table looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableState {
    /// Version.
    pub version: u64,
    /// Data files of the version.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Rows in them.
    pub rows: u64,
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Version after it.
    pub version: u64,
    /// Files that were merged.
    pub removed: u64,
    /// Files that they became.
    pub added: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of the files that were merged.
    pub bytes: u64,
}

/// What a vacuum deletes, done or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vacuumed {
    /// Files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// The version from which on all could be read before.
    pub oldest_before: u64,
    /// The version from which on all can be read after.
    pub oldest_after: u64,
    /// The newest version before.
    pub newest: u64,
    /// What pinned versions hold back.
    pub held: Vec<Held>,
}

/// What a cleanup of a table's log removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogCleaned {
    /// Files of the log.
    pub files: u64,
    /// Pins that hold back older ones.
    pub held_by: Vec<Pin>,
}

/// A checkpoint, written or due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The version it is of.
    pub version: u64,
    /// The version of the newest one before, 0 without one.
    pub newest: u64,
}

/// One commit of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitSummary {
    /// Version.
    pub version: u64,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// What was done.
    pub operation: String,
}

impl Lake {
    /// Version, files, bytes and rows of a table's newest version, from its log alone.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn state(&self, name: TableName) -> Result<TableState, Error> {
        state_of(&load(self.store(), name).await?, name)
    }

    /// The newest `limit` commits, newest first.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn history(&self, name: TableName, limit: usize) -> Result<Vec<CommitSummary>, Error> {
        let table = load(self.store(), name).await?;
        let newest = table.version().unwrap_or_default();
        let commits: Vec<_> =
            table.history(Some(limit)).try_collect().await.map_err(failed("read the history of", name))?;
        let summaries = commits.into_iter().enumerate().map(|(back, commit)| CommitSummary {
            version: newest.saturating_sub(back as u64),
            timestamp_ms: commit.timestamp.unwrap_or_default(),
            operation: commit.operation.unwrap_or_default(),
        });
        Ok(summaries.collect())
    }

    /// Writes a checkpoint where the newest one is at least `every` commits old; whether it did.
    ///
    /// # Errors
    /// Where the table cannot be read or written.
    pub async fn checkpoint(&self, name: TableName, every: u64) -> Result<bool, Error> {
        let table = load(self.store(), name).await?;
        let version = table.version().unwrap_or_default();
        if version.saturating_sub(self.newest_checkpoint(name)) < every {
            return Ok(false);
        }
        create_checkpoint(&table, None).await.map_err(failed("write a checkpoint of", name))?;
        info!(table = name.as_str(), version, "wrote a checkpoint");
        Ok(true)
    }

    /// The checkpoint that [`Lake::checkpoint`] would write now; writes nothing.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn checkpoint_plan(&self, name: TableName) -> Result<Checkpoint, Error> {
        let version = load(self.store(), name).await?.version().unwrap_or_default();
        Ok(Checkpoint { version, newest: self.newest_checkpoint(name) })
    }

    /// Merges small files per symbol. Rows and their values stay; their order within files may not.
    ///
    /// # Errors
    /// [`Error::RewriteRunning`] where another rewrite holds the table's lock or was faster.
    pub async fn compact(&self, name: TableName) -> Result<Compacted, Error> {
        let _lock = self.rewrite_lock(name)?;
        let table = load(self.store(), name).await?;
        compact_from(table, name, None).await
    }

    /// [`Lake::compact`] on behalf of a numbered run: `None`, where that run or a later one has committed before.
    ///
    /// # Errors
    /// As [`Lake::compact`].
    pub async fn compact_for(&self, name: TableName, run: i64) -> Result<Option<Compacted>, Error> {
        let _lock = self.rewrite_lock(name)?;
        let table = load(self.store(), name).await?;
        if transaction_of(&table, name, COMPACT_RUN).await?.is_some_and(|newest| newest >= run) {
            return Ok(None);
        }
        let compacted = compact_from(table, name, Some(run)).await?;
        self.probe().reached(Point::Rewritten);
        Ok(Some(compacted))
    }

    /// What [`Lake::compact`] would merge now; changes nothing.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn compact_plan(&self, name: TableName) -> Result<Compacted, Error> {
        let table = load(self.store(), name).await?;
        let snapshot = table.snapshot().map_err(failed("read", name))?;
        Ok(SmallFiles::of(snapshot).merge_into(snapshot.version()))
    }

    /// Deletes files that neither a version of the last `retention_hours` nor a pinned one needs.
    ///
    /// # Errors
    /// Where the table cannot be read or a file cannot be deleted.
    pub async fn vacuum(&self, name: TableName, retention_hours: u32, pins: &[Pin]) -> Result<Vacuumed, Error> {
        let _lock = self.rewrite_lock(name)?;
        let plan = self.vacuum_plan(name, retention_hours, pins).await?;
        if plan.files > 0 {
            let table = load(self.store(), name).await?;
            let kept: Vec<u64> = self.pinned(&table, name, pins).await?.iter().map(|(pin, _)| pin.version).collect();
            vacuum_of(&table, retention_hours, &kept).await.map_err(failed("vacuum", name))?;
        }
        Ok(plan)
    }

    /// What [`Lake::vacuum`] would delete now; deletes nothing.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn vacuum_plan(&self, name: TableName, retention_hours: u32, pins: &[Pin]) -> Result<Vacuumed, Error> {
        let table = load(self.store(), name).await?;
        let expired = vacuum_of(&table, retention_hours, &[]).with_dry_run(true).await;
        let (_, expired) = expired.map_err(failed("read", name))?;
        // The log goes on naming files that an earlier vacuum deleted.
        let is_there = |path: &String| self.versions().holds(name, path);
        let mut files: HashSet<String> = expired.files_deleted.into_iter().filter(is_there).collect();
        let mut held = Vec::new();
        let pinned = self.pinned(&table, name, pins).await?;
        for (pin, needed) in &pinned {
            let files = needed.intersection(&files).count() as u64;
            held.extend((files > 0).then(|| Held { pin: pin.clone(), files }));
        }
        files.retain(|path| pinned.iter().all(|(_, needed)| !needed.contains(path)));
        let bytes = files.iter().map(|path| self.bytes_of(name, path)).sum();
        let is_missing = |path: &str| !self.versions().holds(name, path);
        let oldest_before = self.versions().oldest_whole(&table, name, is_missing).await?;
        let is_gone = |path: &str| is_missing(path) || files.contains(path);
        let oldest_after = self.versions().oldest_whole(&table, name, is_gone).await?;
        let newest = table.version().unwrap_or_default();
        Ok(Vacuumed { files: files.len() as u64, bytes, oldest_before, oldest_after, newest, held })
    }

    /// The pins of a table whose versions can still be read, each with the files that it needs.
    async fn pinned(
        &self,
        table: &DeltaTable,
        name: TableName,
        pins: &[Pin],
    ) -> Result<Vec<(Pin, HashSet<String>)>, Error> {
        let mut pinned = Vec::new();
        for pin in pins.iter().filter(|pin| pin.table == name && Some(pin.version) <= table.version()) {
            match self.versions().open(name, pin.version).await {
                Ok(version) => {
                    let files = version.snapshot().map_err(failed("read", name))?.log_data();
                    pinned.push((pin.clone(), files.iter().map(|file| file.path().into_owned()).collect()));
                }
                Err(error) if error.kind() == ErrorKind::Gone => {
                    warn!(table = name.as_str(), version = pin.version, pin.reason, "a pinned version is gone");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(pinned)
    }

    /// Removes commits from a table's log that were written before `before` and by which no version since then, and no
    /// pinned one, is read. Their times stay known.
    ///
    /// # Errors
    /// Where the log cannot be read, or a file cannot be removed.
    pub async fn clean_log(&self, name: TableName, before: Timestamp, pins: &[Pin]) -> Result<LogCleaned, Error> {
        let _lock = self.rewrite_lock(name)?;
        self.versions().note_commit_times(name).await?;
        let table = load(self.store(), name).await?;
        let newest = table.version().unwrap_or_default();
        let pinned = self.pinned(&table, name, pins).await?;
        let keep = pinned.iter().map(|(pin, _)| pin.version).fold(newest, Ord::min);
        let removed = cleanup_expired_logs_for(keep, table.log_store().as_ref(), before.span(1_000), None).await;
        let files = removed.map_err(failed("clean up the log of", name))? as u64;
        let held_by = pinned.into_iter().map(|(pin, _)| pin).filter(|pin| pin.version < newest);
        Ok(LogCleaned { files, held_by: held_by.collect() })
    }

    fn bytes_of(&self, name: TableName, path: &str) -> u64 {
        std::fs::metadata(self.folder().join(name.as_str()).join(path)).map_or(0, |file| file.len())
    }

    /// Version of the newest checkpoint, 0 without one.
    fn newest_checkpoint(&self, name: TableName) -> u64 {
        let hint = self.folder().join(name.as_str()).join("_delta_log/_last_checkpoint");
        let read = std::fs::read(hint).ok().and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        read.and_then(|hint| hint.get("version")?.as_u64()).unwrap_or(0)
    }

    pub(crate) fn rewrite_lock(&self, name: TableName) -> Result<File, Error> {
        let path: PathBuf = self.folder().join(format!(".rewrite-{}.lock", name.as_str()));
        let file = File::create(&path).map_err(Error::file("make", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => Err(Error::RewriteRunning { table: name.as_str() }),
            Err(std::fs::TryLockError::Error(error)) => Err(Error::file("lock", &path)(error)),
        }
    }
}

/// Compacts the version that `table` holds. Of two that start from one version, one fails.
///
/// deltalake's own `optimize` leaves application transactions out of its commit, and without the transaction
/// `rewrite` the second of two would succeed and double the rows. So the files are chosen and committed here.
pub(crate) async fn compact_from(table: DeltaTable, name: TableName, run: Option<i64>) -> Result<Compacted, Error> {
    let snapshot = table.snapshot().map_err(failed("read", name))?;
    let small = SmallFiles::of(snapshot);
    let merge = small.merge_into(snapshot.version());
    if small.removes.is_empty() {
        return Ok(merge);
    }
    let number = rewrite_number(&table, name).await?;
    let adds = merged(&table, name, &small).await.map_err(failed("compact", name))?;
    let added = adds.len() as u64;
    let mut transactions = vec![Transaction::new(REWRITE, number)];
    transactions.extend(run.map(|run| Transaction::new(COMPACT_RUN, run)));
    let properties = CommitProperties::default()
        .with_application_transactions(transactions)
        .with_create_checkpoint(false)
        .with_cleanup_expired_logs(Some(false));
    let actions = small.removes.into_iter().map(Action::Remove).chain(adds.into_iter().map(Action::Add));
    let committed = CommitBuilder::from(properties)
        .with_actions(actions.collect())
        .build(
            Some(snapshot),
            table.log_store(),
            DeltaOperation::Optimize { predicate: None, target_size: TARGET_FILE_BYTES },
        )
        .await;
    match committed {
        Ok(finalized) => Ok(Compacted { version: finalized.version(), added, ..merge }),
        Err(DeltaTableError::Transaction { .. }) => Err(Error::RewriteRunning { table: name.as_str() }),
        Err(error) => Err(failed("compact", name)(error)),
    }
}

/// The number of the next rewrite of a table.
pub(crate) async fn rewrite_number(table: &DeltaTable, name: TableName) -> Result<i64, Error> {
    Ok(transaction_of(table, name, REWRITE).await?.unwrap_or(0) + 1)
}

/// The value of an application transaction of an open version.
async fn transaction_of(table: &DeltaTable, name: TableName, id: &str) -> Result<Option<i64>, Error> {
    let snapshot = table.snapshot().map_err(failed("read", name))?.snapshot();
    snapshot.transaction_version(table.log_store().as_ref(), id).await.map_err(failed("read", name))
}

/// What an open version of a table looks like.
pub(crate) fn state_of(table: &DeltaTable, name: TableName) -> Result<TableState, Error> {
    let mut state = TableState { version: table.version().unwrap_or_default(), files: 0, bytes: 0, rows: 0 };
    let snapshot = table.snapshot().map_err(failed("read", name))?;
    for file in snapshot.log_data() {
        state.files += 1;
        state.bytes += u64::try_from(file.size()).unwrap_or(0);
        state.rows += file.num_records().map_or(0, |rows| u64::try_from(rows).unwrap_or(0));
    }
    Ok(state)
}

/// Deletes only files that a commit has removed: others may be about to be committed.
fn vacuum_of(table: &DeltaTable, retention_hours: u32, kept: &[u64]) -> VacuumBuilder {
    let retention = chrono::Duration::hours(i64::from(retention_hours));
    let vacuum = table.clone().vacuum().with_retention_period(retention).with_enforce_retention_duration(false);
    let vacuum = vacuum.with_mode(VacuumMode::Lite);
    if kept.is_empty() { vacuum } else { vacuum.with_keep_versions(kept) }
}

/// The small files of a version, where a symbol has more than one.
struct SmallFiles {
    removes: Vec<Remove>,
    rows: i64,
    symbols: u64,
}

impl SmallFiles {
    fn of(snapshot: &DeltaTableState) -> Self {
        let mut by_symbol: BTreeMap<Option<String>, Vec<(Remove, i64)>> = BTreeMap::new();
        for file in snapshot.log_data().iter().filter(|file| file.size() < TARGET_FILE_BYTES) {
            let remove = file.remove_action(false);
            let values = remove.partition_values.as_ref();
            let symbol = values.and_then(|values| values.get(SYMBOL).cloned().flatten());
            let rows = i64::try_from(file.num_records().unwrap_or(0)).unwrap_or(i64::MAX);
            by_symbol.entry(symbol).or_default().push((remove, rows));
        }
        by_symbol.retain(|_, files| files.len() > 1);
        let symbols = by_symbol.len() as u64;
        let files: Vec<_> = by_symbol.into_values().flatten().collect();
        Self {
            symbols,
            rows: files.iter().map(|(_, rows)| rows).sum(),
            removes: files.into_iter().map(|(file, _)| file).collect(),
        }
    }

    /// What merging them means: a file per symbol.
    fn merge_into(&self, version: u64) -> Compacted {
        let bytes = |file: &Remove| file.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        Compacted {
            version,
            removed: self.removes.len() as u64,
            added: self.symbols,
            rows: u64::try_from(self.rows).unwrap_or(0),
            bytes: self.removes.iter().map(bytes).sum(),
        }
    }
}

/// Copies the rows of small files into new ones, batch by batch.
async fn merged(table: &DeltaTable, name: TableName, small: &SmallFiles) -> Result<Vec<Add>, DeltaTableError> {
    let context = session::plain();
    table.update_datafusion_session(&context.state())?;
    let paths = small.removes.iter().map(|file| file.path.as_str());
    context.register_table(name.as_str(), table.table_provider().with_file_paths(paths).await?)?;
    let mut rows = context.sql(&format!("SELECT * FROM {}", name.as_str())).await?.execute_stream().await?;
    let mut writer = RecordBatchWriter::for_table(table)?.with_writer_properties(writer_properties());
    while let Some(batch) = rows.next().await {
        writer.write(as_stored(&batch?, name)?).await?;
    }
    let mut adds = writer.flush().await?;
    let written: i64 = adds.iter().filter_map(|add| add.get_stats().ok().flatten()).map(|s| s.num_records).sum();
    assert!(written == small.rows, "{written} rows were copied of {}", small.rows);
    for add in &mut adds {
        add.data_change = false;
    }
    Ok(adds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{flush, lake, rows_of};

    #[tokio::test]
    async fn compaction_keeps_every_row_and_fewer_files() {
        let (_folder, lake) = lake().await;
        for start in [0, 10, 20] {
            lake.flush("topic", flush(start, start + 10)).await.unwrap();
        }
        let before = rows_of(&lake, TableName::Features).await;
        let compacted = lake.compact(TableName::Features).await.unwrap();
        assert_eq!((compacted.removed, compacted.added), (3, 1));
        assert_eq!(rows_of(&lake, TableName::Features).await, before);
        assert_eq!(lake.state(TableName::Features).await.unwrap().rows, 30);
    }

    #[tokio::test]
    async fn of_two_compactions_of_one_version_one_fails_and_no_row_doubles() {
        let (_folder, lake) = lake().await;
        for start in [0, 10] {
            lake.flush("topic", flush(start, start + 10)).await.unwrap();
        }
        let before = rows_of(&lake, TableName::Features).await;
        let first = load(lake.store(), TableName::Features).await.unwrap();
        let second = load(lake.store(), TableName::Features).await.unwrap();
        compact_from(first, TableName::Features, None).await.unwrap();
        let refused = compact_from(second, TableName::Features, None).await;
        assert!(matches!(refused, Err(Error::RewriteRunning { table: "features" })), "{refused:?}");
        assert_eq!(rows_of(&lake, TableName::Features).await, before);
    }

    #[tokio::test]
    async fn a_table_being_rewritten_is_not_rewritten_by_another() {
        let (_folder, lake) = lake().await;
        lake.flush("topic", flush(0, 10)).await.unwrap();
        let held = lake.rewrite_lock(TableName::Events).unwrap();
        assert!(matches!(lake.compact(TableName::Events).await, Err(Error::RewriteRunning { .. })));
        drop(held);
        lake.compact(TableName::Events).await.unwrap();
    }

    #[tokio::test]
    async fn rows_are_appended_while_a_compaction_is_at_work() {
        let (_folder, lake) = lake().await;
        for start in [0, 10] {
            lake.flush("topic", flush(start, start + 10)).await.unwrap();
        }
        let stale = load(lake.store(), TableName::Features).await.unwrap();
        lake.flush("topic", flush(20, 30)).await.unwrap();
        compact_from(stale, TableName::Features, None).await.unwrap();
        lake.flush("topic", flush(30, 40)).await.unwrap();
        assert_eq!(rows_of(&lake, TableName::Features).await.len(), 40);
    }

    #[tokio::test]
    async fn a_checkpoint_is_written_when_it_is_due() {
        let (_folder, lake) = lake().await;
        lake.flush("topic", flush(0, 10)).await.unwrap();
        assert!(!lake.checkpoint(TableName::Events, 5).await.unwrap());
        for start in [10, 20, 30, 40] {
            lake.flush("topic", flush(start, start + 10)).await.unwrap();
        }
        assert!(lake.checkpoint(TableName::Events, 5).await.unwrap());
        assert!(!lake.checkpoint(TableName::Events, 5).await.unwrap());
        assert_eq!(rows_of(&lake, TableName::Events).await.len(), 50);
    }

    /// Later than any file.
    const ALWAYS: Timestamp = Timestamp::from_seconds(4_102_444_800);

    fn pin(version: u64) -> Pin {
        Pin { table: TableName::Features, version, reason: "model version 1, the champion".to_owned() }
    }

    #[tokio::test]
    async fn a_pinned_version_outlives_vacuum_and_holds_its_files_back() {
        let (_folder, lake) = lake().await;
        for start in [0, 10, 20] {
            lake.flush("topic", flush(start, start + 10)).await.unwrap();
        }
        let two = lake.state(TableName::Features).await.unwrap().version - 1;
        lake.compact(TableName::Features).await.unwrap();
        let plan = lake.vacuum_plan(TableName::Features, 0, &[pin(two)]).await.unwrap();
        assert_eq!((plan.files, &plan.held), (1, &vec![Held { pin: pin(two), files: 2 }]));
        assert_eq!(lake.vacuum(TableName::Features, 0, &[pin(two)]).await.unwrap(), plan);
        let rows = async |version| {
            let pinned = lake.pin_version(TableName::Features, version).await?;
            pinned.row_count().await
        };
        assert_eq!(rows(two).await.unwrap(), 20);
        let later = lake.vacuum(TableName::Features, 0, &[]).await.unwrap();
        assert_eq!((later.files, later.held), (2, vec![]));
        assert_eq!(rows(two).await.unwrap_err().kind(), ErrorKind::Gone);
        // A pin of what is gone already holds nothing, and nothing fails.
        assert_eq!(lake.vacuum(TableName::Features, 0, &[pin(two)]).await.unwrap().files, 0);
    }

    #[tokio::test]
    async fn the_log_is_cleaned_up_to_what_a_pinned_version_is_read_by() {
        let (_folder, lake) = lake().await;
        let mut starts = (0..).step_by(10);
        let mut append = async |times: usize| {
            for start in starts.by_ref().take(times) {
                lake.flush("topic", flush(start, start + 10)).await.unwrap();
            }
            lake.checkpoint(TableName::Features, 1).await.unwrap();
            lake.state(TableName::Features).await.unwrap().version
        };
        let first = append(3).await;
        let pinned = append(3).await + 1;
        let newest = append(3).await;
        let cleaned = lake.clean_log(TableName::Features, ALWAYS, &[pin(pinned)]).await.unwrap();
        assert_eq!(cleaned.held_by, [pin(pinned)]);
        assert!(cleaned.files > 0);
        let read = async |version| lake.pin_version(TableName::Features, version).await.map(drop);
        assert_eq!(read(first - 1).await.unwrap_err().kind(), ErrorKind::Gone);
        read(pinned).await.unwrap();
        read(newest).await.unwrap();
        lake.clean_log(TableName::Features, ALWAYS, &[]).await.unwrap();
        assert_eq!(read(pinned).await.unwrap_err().kind(), ErrorKind::Gone);
        assert_eq!(rows_of(&lake, TableName::Features).await.len(), 90);
    }

    #[tokio::test]
    async fn a_run_compacts_a_table_once() {
        let (_folder, lake) = lake().await;
        let append = async |start| lake.flush("topic", flush(start, start + 10)).await.unwrap();
        append(0).await;
        append(10).await;
        assert_eq!(lake.compact_for(TableName::Features, 7).await.unwrap().unwrap().removed, 2);
        append(20).await;
        assert_eq!(lake.compact_for(TableName::Features, 7).await.unwrap(), None);
        assert_eq!(lake.compact_for(TableName::Features, 6).await.unwrap(), None);
        assert_eq!(lake.compact_for(TableName::Features, 8).await.unwrap().unwrap().removed, 2);
    }
}
