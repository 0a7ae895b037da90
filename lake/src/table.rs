//! One Delta table and its exactly-once append.
//!
//! Every append carries, in the same commit, how far the log has been taken in: the application transaction
//! `<progress>` = next offset. An append is compare-and-set against that number *in the very snapshot it commits
//! to*: what is stored already is dropped, and of two concurrent commits with one progress id Delta refuses the
//! second. After any failed commit the table is read again first, since a failed commit may be durable.

use std::{collections::HashMap, time::Duration};

use arrow::array::RecordBatch;
use deltalake::{
    DeltaTable, DeltaTableError,
    kernel::{
        Action, Add, StructField, StructType, Transaction,
        engine::arrow_conversion::TryIntoKernel,
        transaction::{CommitBuilder, CommitProperties},
    },
    parquet::{
        basic::Compression,
        file::properties::{EnabledStatistics, WriterProperties},
    },
    protocol::{DeltaOperation, OutputMode, SaveMode},
    writer::{DeltaWriter, RecordBatchWriter},
};
use domain::{Offset, Probe, probe::Point};
use tracing::{info, warn};

use crate::{
    durable::DurableStore,
    error::Error,
    rows::TableRow,
    schema::{SYMBOL, TableName},
};

/// The newest protocol that this program reads and writes.
const PROTOCOL: (i32, i32) = (1, 2);

/// How often an append starts over before it gives up.
const MAX_ATTEMPTS: u32 = 12;

/// A handle's cost grows with the commits it has seen; after this many it is opened afresh.
const REOPEN_AFTER_COMMITS: u32 = 100;

/// Rows of one partition of the log, or of one other numbered source, with their place in it.
#[derive(Debug)]
pub struct Slice<'a, R> {
    /// The application transaction that holds the next offset.
    pub progress: String,
    /// The first offset that these rows account for.
    pub start: Offset,
    /// The offset after the last one they account for.
    pub next: Offset,
    /// Further transactions of the same commit, such as where a rebuild would start.
    pub along: Vec<(String, i64)>,
    /// The rows, in the order of their offsets.
    pub rows: &'a [R],
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Committed, as this version of the table, with so many rows.
    Committed {
        /// The version.
        version: u64,
        /// The rows that were new.
        rows: usize,
    },
    /// Everything was stored before.
    AlreadyApplied,
    /// There was nothing to write.
    Nothing,
}

impl Appended {
    /// Rows that were new.
    #[must_use]
    pub const fn rows(self) -> usize {
        match self {
            Self::Committed { rows, .. } => rows,
            Self::AlreadyApplied | Self::Nothing => 0,
        }
    }
}

/// How an append treats progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Only rows are worth a commit; the stored progress may lag behind.
    Derived,
    /// Progress itself is committed, rows or not, and must continue exactly where it stands.
    Truth,
}

/// An open table.
#[derive(Debug)]
pub(crate) struct Table {
    name: TableName,
    store: DurableStore,
    delta: DeltaTable,
    /// Transactions as of the snapshot held by `delta`.
    known: HashMap<String, Option<i64>>,
    commits: u32,
}

impl Table {
    /// Opens the table, made where it is missing.
    pub(crate) async fn open(store: &DurableStore, name: TableName) -> Result<Self, Error> {
        let place =
            store.table(name.as_str())?.build().map_err(Error::delta(format!("find table `{}`", name.as_str())))?;
        let exists = place.verify_deltatable_existence().await;
        let exists = exists.map_err(Error::delta(format!("find table `{}`", name.as_str())))?;
        let delta = if exists { load(store, name).await? } else { create(store, name).await? };
        Ok(Self { name, store: store.clone(), delta, known: HashMap::new(), commits: 0 })
    }

    /// The value of an application transaction, `None` where it was never committed.
    pub(crate) async fn transaction(&mut self, id: &str) -> Result<Option<i64>, Error> {
        if let Some(known) = self.known.get(id) {
            return Ok(*known);
        }
        let snapshot = self.delta.snapshot().map_err(self.failed("read"))?;
        let stored = snapshot.snapshot().transaction_version(self.delta.log_store().as_ref(), id).await;
        let stored = stored.map_err(self.failed("read the progress of"))?;
        self.known.insert(id.to_owned(), stored);
        Ok(stored)
    }

    /// Reads the newest version.
    pub(crate) async fn refresh(&mut self) -> Result<(), Error> {
        self.delta = load(&self.store, self.name).await?;
        self.known.clear();
        self.commits = 0;
        Ok(())
    }

    /// Appends what is not stored yet of the slices, in one commit.
    pub(crate) async fn append<R: TableRow>(
        &mut self,
        slices: &[Slice<'_, R>],
        rule: Rule,
        probe: &dyn Probe,
    ) -> Result<Appended, Error> {
        assert!(R::TABLE == self.name, "rows of one table are never appended to another");
        for attempt in 1..=MAX_ATTEMPTS {
            let pending = self.pending(slices, rule).await?;
            if pending.is_empty() {
                let nothing = slices.iter().all(|slice| slice.rows.is_empty());
                return Ok(if nothing && rule == Rule::Derived { Appended::Nothing } else { Appended::AlreadyApplied });
            }
            let rows: Vec<&R> = pending.iter().flat_map(|(_, rows)| rows.iter()).collect();
            let transactions = pending.iter().flat_map(|(slice, _)| transactions(slice)).collect();
            let adds = self.write_files(R::batch(&rows).map_err(|e| self.failed("shape rows of")(e.into()))?).await?;
            probe.reached(Point::FilesWritten);
            match self.commit(adds, transactions).await {
                Ok(version) => {
                    for (slice, _) in &pending {
                        self.known.extend(transactions_of(slice).map(|(id, value)| (id, Some(value))));
                    }
                    probe.reached(Point::Committed);
                    return Ok(Appended::Committed { version, rows: rows.len() });
                }
                Err(error) if attempt < MAX_ATTEMPTS => {
                    warn!(table = self.name.as_str(), attempt, %error, "commit refused, reading the table again");
                    tokio::time::sleep(backoff(attempt)).await;
                    self.refresh().await?;
                }
                Err(error) => return Err(self.failed("commit to")(error)),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// The version held.
    pub(crate) fn version(&self) -> u64 {
        self.delta.version().unwrap_or_default()
    }

    /// Sets application transactions, in a commit without rows.
    pub(crate) async fn note(&mut self, values: &[(String, i64)]) -> Result<(), Error> {
        for attempt in 1..=MAX_ATTEMPTS {
            let mut missing = Vec::new();
            for (id, value) in values {
                if self.transaction(id).await? != Some(*value) {
                    missing.push(Transaction::new(id, *value));
                }
            }
            if missing.is_empty() {
                return Ok(());
            }
            match self.commit(Vec::new(), missing).await {
                Ok(_) => self.known.clear(),
                Err(error) if attempt < MAX_ATTEMPTS => {
                    warn!(table = self.name.as_str(), attempt, %error, "commit refused, reading the table again");
                    tokio::time::sleep(backoff(attempt)).await;
                    self.refresh().await?;
                }
                Err(error) => return Err(self.failed("commit to")(error)),
            }
        }
        Ok(())
    }

    /// The slices that the held snapshot does not have yet, with the rows that are new.
    async fn pending<'s, 'r, R: TableRow>(
        &mut self,
        slices: &'s [Slice<'r, R>],
        rule: Rule,
    ) -> Result<Vec<(&'s Slice<'r, R>, &'r [R])>, Error> {
        let mut pending = Vec::new();
        for slice in slices {
            assert!(slice.start <= slice.next, "a slice does not end before it starts");
            let stored = self.transaction(&slice.progress).await?.unwrap_or(0);
            if stored >= slice.next {
                continue;
            }
            if rule == Rule::Truth && stored < slice.start {
                return Err(Error::ProgressGap { progress: slice.progress.clone(), stored, start: slice.start });
            }
            let new = slice.rows.partition_point(|row| row.offset() < stored.max(slice.start));
            let rows = &slice.rows[new..];
            if rule == Rule::Truth || !rows.is_empty() {
                pending.push((slice, rows));
            }
        }
        Ok(pending)
    }

    async fn write_files(&self, batch: RecordBatch) -> Result<Vec<Add>, Error> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let rows = i64::try_from(batch.num_rows()).unwrap_or(i64::MAX);
        let writer = RecordBatchWriter::for_table(&self.delta).map_err(self.failed("write to"))?;
        let mut writer = writer.with_writer_properties(writer_properties());
        writer.write(batch).await.map_err(self.failed("write to"))?;
        let adds = writer.flush().await.map_err(self.failed("write to"))?;
        let written: i64 = adds.iter().filter_map(|add| add.get_stats().ok().flatten()).map(|s| s.num_records).sum();
        assert!(written == rows, "files hold {written} rows of {rows}");
        Ok(adds)
    }

    async fn commit(&mut self, adds: Vec<Add>, transactions: Vec<Transaction>) -> Result<u64, DeltaTableError> {
        let properties = CommitProperties::default()
            .with_application_transactions(transactions)
            .with_create_checkpoint(false)
            .with_cleanup_expired_logs(Some(false));
        let snapshot = self.delta.snapshot()?;
        let base = snapshot.version();
        let operation = DeltaOperation::StreamingUpdate {
            output_mode: OutputMode::Append,
            query_id: "sentinel".to_owned(),
            epoch_id: i64::try_from(base + 1).unwrap_or(i64::MAX),
        };
        let finalized = CommitBuilder::from(properties)
            .with_actions(adds.into_iter().map(Action::Add).collect())
            .build(Some(snapshot), self.delta.log_store(), operation)
            .await?;
        self.delta.state = Some(finalized.snapshot());
        self.commits += 1;
        if finalized.version() != base + 1 {
            // Commits of others lie between; they did not touch this commit's transactions, but maybe others.
            self.known.clear();
        }
        if self.commits >= REOPEN_AFTER_COMMITS
            && let Ok(fresh) = load(&self.store, self.name).await
        {
            // Another writer may have moved the progress between our commit and this read.
            self.delta = fresh;
            self.known.clear();
            self.commits = 0;
        }
        Ok(finalized.version())
    }

    fn failed(&self, action: &str) -> impl FnOnce(DeltaTableError) -> Error + use<> {
        failed(action, self.name)
    }
}

/// Opens the newest version of a table and makes sure that this program understands it.
pub(crate) async fn load(store: &DurableStore, name: TableName) -> Result<DeltaTable, Error> {
    checked(store.table(name.as_str())?.load().await, name)
}

/// Opens one version of a table.
pub(crate) async fn load_version(store: &DurableStore, name: TableName, version: u64) -> Result<DeltaTable, Error> {
    checked(store.table(name.as_str())?.with_version(version).load().await, name)
}

/// For `map_err` on a Delta operation: `action` completes "cannot ... table `name`".
pub(crate) fn failed(action: &str, name: TableName) -> impl FnOnce(DeltaTableError) -> Error + use<> {
    Error::delta(format!("{action} table `{}`", name.as_str()))
}

fn checked(loaded: Result<DeltaTable, DeltaTableError>, name: TableName) -> Result<DeltaTable, Error> {
    let failed = |source| Error::delta(format!("open table `{}`", name.as_str()))(source);
    let delta = loaded.map_err(failed)?;
    let protocol = delta.snapshot().map_err(failed)?.protocol();
    let (reader, writer) = (protocol.min_reader_version(), protocol.min_writer_version());
    if reader > PROTOCOL.0 || writer > PROTOCOL.1 {
        return Err(Error::FutureProtocol { table: name.as_str(), reader, writer });
    }
    Ok(delta)
}

async fn create(store: &DurableStore, name: TableName) -> Result<DeltaTable, Error> {
    let failed = |source| Error::delta(format!("make table `{}`", name.as_str()))(source);
    let schema: StructType =
        name.schema().as_ref().try_into_kernel().map_err(|error| failed(DeltaTableError::from(error)))?;
    let columns: Vec<StructField> = schema.fields().cloned().collect();
    let delta = store.table(name.as_str())?.build().map_err(failed)?;
    let made = delta
        .create()
        .with_table_name(name.as_str())
        .with_comment(name.comment())
        .with_columns(columns)
        .with_partition_columns(name.is_partitioned().then_some(SYMBOL))
        .with_configuration([("delta.dataSkippingStatsColumns", Some(name.statistics()))])
        .with_save_mode(SaveMode::Ignore)
        .await;
    match made {
        Ok(delta) => {
            info!(table = name.as_str(), "made table");
            checked(Ok(delta), name)
        }
        // Another process was faster.
        Err(DeltaTableError::VersionAlreadyExists(_) | DeltaTableError::Transaction { .. }) => load(store, name).await,
        Err(error) => Err(failed(error)),
    }
}

fn transactions<R>(slice: &Slice<'_, R>) -> impl Iterator<Item = Transaction> {
    transactions_of(slice).map(|(id, value)| Transaction::new(id, value))
}

fn transactions_of<R>(slice: &Slice<'_, R>) -> impl Iterator<Item = (String, i64)> {
    slice.along.iter().cloned().chain([(slice.progress.clone(), slice.next)])
}

/// Snappy pages; dictionaries only where values repeat; statistics per column chunk, which is what Delta takes up. Times
/// have them per page too, so that a part of a file's time is read without the rest of it.
pub(crate) fn writer_properties() -> WriterProperties {
    let repeating = ["source", "anomaly_type", "label_anomaly_type", "side", "reason", "model_version", "partition"];
    repeating
        .into_iter()
        .fold(WriterProperties::builder(), |properties, column| {
            properties.set_column_dictionary_enabled(column.into(), true)
        })
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_column_statistics_enabled("timestamp".into(), EnabledStatistics::Page)
        .set_column_statistics_enabled("window_start".into(), EnabledStatistics::Page)
        .set_created_by(concat!("sentinel ", env!("CARGO_PKG_VERSION")).to_owned())
        .build()
}

/// 10 ms doubling up to about a second.
fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(10 << attempt.min(7))
}
