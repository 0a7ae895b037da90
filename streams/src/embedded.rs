//! The event log in one `SQLite` file: the only place that opens it.
//!
//! Invariants: a write-ahead log with `synchronous = FULL`, so that an acknowledged append survives a power cut; one
//! writer task per handle, one immediate transaction per group of appends, so that any number of processes may
//! append; a read is one short transaction of a read-only connection and never blocks an append. Damage is reported
//! as a gap and never hides what follows it. Pages freed by retention are used again; the file does not shrink.

mod packing;
mod writer;

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use domain::{Clock, Kind, Offset, Partition, Symbol, Timestamp};
use futures::TryStreamExt as _;
use sqlx::{
    Connection as _, SqliteConnection, SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use uuid::Uuid;

use self::{
    packing::{MAX_BATCH_RECORDS, StoredBatch, unpack},
    writer::{Append, Command, Writer, stored_kind, stored_kinds, stored_position, stored_positions},
};
use crate::{
    error::Error,
    log::{
        AppendBatch, AppendOutcome, EventLog, MAX_APPEND_BYTES, MAX_READ_BYTES, MAX_READ_RECORDS, NewRecord, ReadItem,
        Retained, RetentionPolicy, SourcePosition, TopicSettings, check_limits, check_offset, check_partition,
        check_partitions, unknown_key,
    },
};

/// How long a connection waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a waiting reader looks for appends of other processes.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Appends that wait for the writer.
const MAX_QUEUED_APPENDS: usize = 1_024;

/// Bytes that wait for the writer; never below [`MAX_APPEND_BYTES`].
const MAX_QUEUED_BYTES: usize = 2 * MAX_APPEND_BYTES;

/// Connections that read.
const MAX_READERS: u32 = 8;

/// Rows that `SQLite` reads ahead of the reader: a row may be megabytes, and most reads want few of them.
const ROWS_AHEAD: usize = 2;

/// The write-ahead log is cut back to this many bytes when it has been larger.
const KEPT_WAL_BYTES: u32 = 64 << 20;

/// `SnLg`: what the first migration writes into the header of the file.
const APPLICATION_ID: i32 = 0x536e_4c67;

/// Takes the write lock at once, so that what is read stays true until the commit.
const BEGIN_WRITE: &str = "BEGIN IMMEDIATE";

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/log");

/// A topic in one `SQLite` file. Cheap to share behind an `Arc`; any number of handles and processes may open the file.
#[derive(Debug)]
pub struct EmbeddedLog {
    topic_id: String,
    partitions: Partition,
    failure: Failure,
    readers: SqlitePool,
    commands: mpsc::Sender<Command>,
    queue_space: Arc<Semaphore>,
    ends: watch::Receiver<Vec<Offset>>,
}

impl EmbeddedLog {
    /// Opens the log, and creates file, folder and topic where they are missing. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`Error::OtherTopic`] and [`Error::OtherPartitionCount`] where the file was created with other settings,
    /// [`Error::NotALog`] and [`Error::NewerSchema`] where it is not a file of this program, or a failure of the
    /// storage.
    pub async fn open(path: &Path, settings: &TopicSettings, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let (reading, writing) = connect_options(path);
        Self::open_with(path, settings, clock, reading, writing).await
    }

    async fn open_with(
        path: &Path,
        settings: &TopicSettings,
        clock: Arc<dyn Clock>,
        reading: SqliteConnectOptions,
        writing: SqliteConnectOptions,
    ) -> Result<Self, Error> {
        check_partitions(settings.partitions)?;
        let failure = Failure { path: path.to_owned() };
        let (connection, topic_id) = {
            let _opening = lock_opening(path).await?;
            failure.refuse_foreign_file(&reading).await?;
            failure.create(&writing, settings, clock.now()).await?
        };
        let (commands, receiver) = mpsc::channel(MAX_QUEUED_APPENDS);
        let (ends_sender, ends) = watch::channel(vec![0; settings.partitions.unsigned_abs() as usize]);
        let writer = Writer {
            failure: failure.clone(),
            options: writing,
            connection: Some(connection),
            partitions: settings.partitions,
            clock,
            kinds: HashMap::new(),
            ends: ends_sender,
        };
        tokio::spawn(writer.run(receiver));
        let readers =
            SqlitePoolOptions::new().max_connections(MAX_READERS).test_before_acquire(false).connect_lazy_with(reading);
        Ok(Self {
            topic_id,
            partitions: settings.partitions,
            failure,
            readers,
            commands,
            queue_space: Arc::new(Semaphore::new(MAX_QUEUED_BYTES)),
            ends,
        })
    }

    /// The file of the log.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.failure.path
    }

    async fn bounds(&self, partition: Partition) -> Result<(Offset, Offset), Error> {
        check_partition(partition, self.partitions)?;
        let read = async {
            let mut connection = self.readers.acquire().await?;
            partition_bounds(&mut connection, partition).await
        };
        read.await.map_err(|error| self.failure.describe("read a partition's offsets", Arc::new(error)))
    }

    async fn fetch(&self, partition: Partition, from: Offset, max_records: usize) -> Result<Fetched, sqlx::Error> {
        let mut connection = self.readers.acquire().await?;
        let mut transaction = connection.begin().await?;
        let (first, end) = partition_bounds(&mut transaction, partition).await?;
        if from >= end {
            return Ok(Fetched { first, end, rows: Vec::new(), next_base: None });
        }
        let rows = match rows(&mut transaction, partition, from, max_records).await {
            Err(error) if is_damage(&error) => rows_one_by_one(&mut transaction, partition, from, max_records).await?,
            rows => rows?,
        };
        let last = rows.last().map_or(from, FetchedRow::base_offset);
        let next_base: Option<i64> =
            sqlx::query_scalar("SELECT MIN(base_offset) FROM batches WHERE partition = ? AND base_offset > ?")
                .bind(partition)
                .bind(last)
                .fetch_one(&mut *transaction)
                .await?;
        Ok(Fetched { first, end, rows, next_base })
    }
}

#[async_trait]
impl EventLog for EmbeddedLog {
    fn topic_id(&self) -> &str {
        &self.topic_id
    }

    fn partitions(&self) -> Partition {
        self.partitions
    }

    async fn append(&self, batch: AppendBatch) -> Result<AppendOutcome, Error> {
        let bytes = check_limits(&batch)?;
        let mut keys: BTreeSet<Symbol> = batch.records.iter().map(|record| record.key).collect();
        keys.remove(&unknown_key());
        let space = u32::try_from(bytes + batch.records.len() * size_of::<NewRecord>()).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.queue_space).acquire_many_owned(space).await.map_err(|_| Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        let append = Append { batch, keys, bytes, reply, permit };
        self.commands.send(Command::Append(append)).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    async fn read(&self, partition: Partition, from: Offset, max_records: usize) -> Result<Vec<ReadItem>, Error> {
        check_partition(partition, self.partitions)?;
        check_offset(from)?;
        let max_records = max_records.clamp(1, MAX_READ_RECORDS);
        let fetched = self
            .fetch(partition, from, max_records)
            .await
            .map_err(|error| self.failure.describe("read records", Arc::new(error)))?;
        tokio::task::spawn_blocking(move || fetched.into_items(partition, from))
            .await
            .map_err(|error| Error::Storage { doing: "unpack records", source: Box::new(error) })
    }

    async fn first_offset(&self, partition: Partition) -> Result<Offset, Error> {
        self.bounds(partition).await.map(|(first, _)| first)
    }

    async fn end_offset(&self, partition: Partition) -> Result<Offset, Error> {
        self.bounds(partition).await.map(|(_, end)| end)
    }

    async fn wait_beyond(&self, partition: Partition, offset: Offset) -> Result<(), Error> {
        check_partition(partition, self.partitions)?;
        let mut ends = self.ends.clone();
        let known =
            move |ends: &Vec<Offset>| ends.get(partition.unsigned_abs() as usize).is_some_and(|end| *end > offset);
        loop {
            if known(&ends.borrow_and_update()) || self.end_offset(partition).await? > offset {
                return Ok(());
            }
            tokio::select! {
                changed = ends.changed() => changed.map_err(|_| Error::Closed)?,
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
        }
    }

    async fn position(&self, source_id: &str) -> Result<Option<SourcePosition>, Error> {
        let read = async { stored_position(&mut *self.readers.acquire().await?, source_id).await };
        read.await.map_err(|error| self.failure.describe("read a source's position", Arc::new(error)))
    }

    async fn positions(&self) -> Result<Vec<SourcePosition>, Error> {
        let read = async { stored_positions(&mut *self.readers.acquire().await?).await };
        read.await.map_err(|error| self.failure.describe("list the sources", Arc::new(error)))
    }

    async fn kinds(&self) -> Result<Vec<(Symbol, Kind)>, Error> {
        let read = async { stored_kinds(&mut *self.readers.acquire().await?).await };
        read.await.map_err(|error| self.failure.describe("list the symbols", Arc::new(error)))
    }

    async fn kind_of(&self, symbol: Symbol) -> Result<Option<Kind>, Error> {
        let read = async { stored_kind(&mut *self.readers.acquire().await?, symbol).await };
        read.await.map_err(|error| self.failure.describe("read a symbol's kind", Arc::new(error)))
    }

    async fn retain(
        &self,
        partition: Partition,
        first_needed: Offset,
        policy: RetentionPolicy,
    ) -> Result<Retained, Error> {
        check_partition(partition, self.partitions)?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Retain { partition, first_needed, policy, reply };
        self.commands.send(command).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.commands.send(Command::Close(reply)).await.is_ok() {
            // An error means that the writer has ended already, which is what is asked for.
            let _ = closed.await;
        }
        self.readers.close().await;
    }
}

/// How readers and the writer open the file.
fn connect_options(path: &Path) -> (SqliteConnectOptions, SqliteConnectOptions) {
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(BUSY_TIMEOUT);
    let writing = options
        .clone()
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("journal_size_limit", KEPT_WAL_BYTES.to_string());
    (options.read_only(true).row_buffer_size(ROWS_AHEAD), writing)
}

/// A row of the `batches` table, or what is left of one.
enum FetchedRow {
    Stored(StoredBatch),
    Unreadable { base_offset: Offset, reason: String },
}

impl FetchedRow {
    const fn base_offset(&self) -> Offset {
        match self {
            Self::Stored(batch) => batch.base_offset,
            Self::Unreadable { base_offset, .. } => *base_offset,
        }
    }

    /// Records and bytes that the row says it has, within what a row may have.
    fn size(&self) -> (usize, usize) {
        match self {
            Self::Stored(batch) => ((batch.records as usize).clamp(1, MAX_BATCH_RECORDS), batch.raw_bytes as usize),
            Self::Unreadable { .. } => (1, 0),
        }
    }
}

/// What one transaction has read.
struct Fetched {
    first: Offset,
    end: Offset,
    rows: Vec<FetchedRow>,
    /// Where the batch after the rows begins.
    next_base: Option<Offset>,
}

impl Fetched {
    /// Unpacks the rows and names what is missing between them. CPU work only.
    fn into_items(self, partition: Partition, from: Offset) -> Vec<ReadItem> {
        let mut items = Vec::with_capacity(self.rows.len());
        let mut next = from;
        let gap = |items: &mut Vec<ReadItem>, next: &mut Offset, to: Offset, reason: &str| {
            if *next < to {
                tracing::debug!(partition, from = *next, to, reason, "gap in the event log");
                items.push(ReadItem::Gap { partition, from: *next, to, reason: reason.to_owned() });
                *next = to;
            }
        };
        if from >= self.end {
            return items;
        }
        gap(&mut items, &mut next, self.first, "removed by retention");
        let mut reason = None;
        for row in self.rows {
            let unpacked = match row {
                FetchedRow::Stored(stored) if stored.end_offset() <= next => continue,
                FetchedRow::Stored(stored) => unpack(&stored),
                FetchedRow::Unreadable { reason, .. } => Err(reason),
            };
            match unpacked {
                Ok(mut batch) => {
                    gap(&mut items, &mut next, batch.base_offset(), reason.take().as_deref().unwrap_or(MISSING));
                    batch.cut_before(next);
                    next = batch.end_offset();
                    items.push(ReadItem::Batch(batch));
                }
                Err(damage) => reason = reason.or(Some(damage)),
            }
        }
        gap(&mut items, &mut next, self.next_base.unwrap_or(self.end), reason.as_deref().unwrap_or(MISSING));
        items
    }
}

/// Why offsets are a gap when no row stands for them.
const MISSING: &str = "the stored batch is missing";

async fn partition_bounds(
    connection: &mut SqliteConnection,
    partition: Partition,
) -> Result<(Offset, Offset), sqlx::Error> {
    sqlx::query_as("SELECT first_offset, end_offset FROM partitions WHERE partition = ?")
        .bind(partition)
        .fetch_one(connection)
        .await
}

type Row = (i64, i64, i64, i64, i64, Vec<u8>);

fn stored(partition: Partition, (base_offset, records, append, raw_bytes, checksum, payload): Row) -> FetchedRow {
    // A count that does not fit is damage, which the checksum then reports.
    FetchedRow::Stored(StoredBatch {
        partition,
        base_offset,
        records: u32::try_from(records).unwrap_or(u32::MAX),
        append_time: Timestamp::from_micros(append),
        raw_bytes: u32::try_from(raw_bytes).unwrap_or(u32::MAX),
        checksum: checksum.cast_unsigned(),
        payload,
    })
}

/// The batch that holds `from` and those after it, until they make up the number of records.
async fn rows(
    transaction: &mut SqliteConnection,
    partition: Partition,
    from: Offset,
    max_records: usize,
) -> Result<Vec<FetchedRow>, sqlx::Error> {
    let mut stream = sqlx::query_as::<_, Row>(
        "SELECT base_offset, records, append_micros, raw_bytes, checksum, payload FROM batches \
         WHERE partition = ?1 AND base_offset >= COALESCE( \
             (SELECT MAX(base_offset) FROM batches WHERE partition = ?1 AND base_offset <= ?2), 0) \
         ORDER BY base_offset",
    )
    .bind(partition)
    .bind(from)
    .fetch(transaction);
    let mut rows = Vec::new();
    let (mut records, mut bytes) = (0, 0);
    while records < max_records && bytes < MAX_READ_BYTES {
        let Some(row) = stream.try_next().await? else { break };
        let row = stored(partition, row);
        let (more_records, more_bytes) = row.size();
        records += more_records;
        bytes += more_bytes;
        rows.push(row);
    }
    Ok(rows)
}

/// As [`rows`], but a row that the storage cannot read does not hide those after it.
async fn rows_one_by_one(
    transaction: &mut SqliteConnection,
    partition: Partition,
    from: Offset,
    max_records: usize,
) -> Result<Vec<FetchedRow>, sqlx::Error> {
    let mut base: Option<i64> = sqlx::query_scalar(
        "SELECT COALESCE(MAX(base_offset), ?2) FROM batches WHERE partition = ?1 AND base_offset <= ?2",
    )
    .bind(partition)
    .bind(from)
    .fetch_one(&mut *transaction)
    .await?;
    let mut rows = Vec::new();
    let (mut records, mut bytes) = (0, 0);
    while let Some(at) = base.filter(|_| records < max_records && bytes < MAX_READ_BYTES) {
        let row = sqlx::query_as::<_, Row>(
            "SELECT base_offset, records, append_micros, raw_bytes, checksum, payload FROM batches \
             WHERE partition = ? AND base_offset = ?",
        )
        .bind(partition)
        .bind(at)
        .fetch_optional(&mut *transaction)
        .await;
        let row = match row {
            Ok(row) => row.map(|row| stored(partition, row)),
            Err(error) if is_damage(&error) => {
                let reason = format!("the storage cannot read the batch: {error}");
                Some(FetchedRow::Unreadable { base_offset: at, reason })
            }
            Err(error) => return Err(error),
        };
        if let Some(row) = row {
            let (more_records, more_bytes) = row.size();
            records += more_records;
            bytes += more_bytes;
            rows.push(row);
        }
        base = sqlx::query_scalar("SELECT MIN(base_offset) FROM batches WHERE partition = ? AND base_offset > ?")
            .bind(partition)
            .bind(at)
            .fetch_one(&mut *transaction)
            .await?;
    }
    Ok(rows)
}

fn kind_from_name(name: &str) -> Option<Kind> {
    [Kind::Simulated, Kind::Real].into_iter().find(|kind| kind.as_str() == name)
}

/// Keeps two starting processes apart: neither a change of the journal mode nor a migration waits for the other.
async fn lock_opening(path: &Path) -> Result<fs::File, Error> {
    let opened = path.to_owned();
    let lock = move || -> io::Result<fs::File> {
        if let Some(folder) = opened.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut name = opened.into_os_string();
        name.push("-opening");
        let file = fs::File::create(PathBuf::from(name))?;
        file.lock()?;
        Ok(file)
    };
    let open_error = |source: Box<dyn std::error::Error + Send + Sync>| Error::Open { path: path.to_owned(), source };
    tokio::task::spawn_blocking(lock).await.map_err(|e| open_error(Box::new(e)))?.map_err(|e| open_error(Box::new(e)))
}

/// Turns what `SQLite` says about a file into what its owner should do.
#[derive(Clone, Debug)]
struct Failure {
    path: PathBuf,
}

impl Failure {
    /// The primary result codes: <https://www.sqlite.org/rescode.html>.
    fn describe(&self, doing: &'static str, cause: Arc<sqlx::Error>) -> Error {
        let path = self.path.clone();
        match primary_code(&cause) {
            Some(SQLITE_BUSY | SQLITE_LOCKED) => Error::Busy { path },
            Some(SQLITE_FULL) => Error::DiskFull { path },
            Some(SQLITE_NOTADB) => Error::NotALog { path },
            Some(SQLITE_CORRUPT) => Error::Damaged { path, source: Box::new(cause) },
            Some(SQLITE_CANTOPEN | SQLITE_READONLY | SQLITE_PERM) => Error::Open { path, source: Box::new(cause) },
            _ if matches!(*cause, sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed) => Error::Closed,
            _ => Error::Storage { doing, source: Box::new(cause) },
        }
    }

    /// Refuses a file of another program before anything of it is changed.
    async fn refuse_foreign_file(&self, reading: &SqliteConnectOptions) -> Result<(), Error> {
        if fs::metadata(&self.path).map_or(0, |metadata| metadata.len()) == 0 {
            return Ok(());
        }
        let look = async {
            let mut connection = SqliteConnection::connect_with(reading).await?;
            let id: i32 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut connection).await?;
            let tables: i64 =
                sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_master").fetch_one(&mut connection).await?;
            connection.close().await?;
            Ok((id, tables))
        };
        match look.await {
            Ok((APPLICATION_ID, _) | (_, 0)) => Ok(()),
            Ok(_) => Err(Error::NotALog { path: self.path.clone() }),
            Err(error) => Err(self.describe("open the file", Arc::new(error))),
        }
    }

    /// Brings the schema up to date, creates the topic where it is missing, and gives the topic's id.
    async fn create(
        &self,
        writing: &SqliteConnectOptions,
        settings: &TopicSettings,
        now: Timestamp,
    ) -> Result<(SqliteConnection, String), Error> {
        let opened = async {
            let mut connection = SqliteConnection::connect_with(writing).await?;
            // One transaction around the migrations: a start that is interrupted leaves nothing behind.
            let mut transaction = connection.begin_with(BEGIN_WRITE).await?;
            MIGRATIONS.run_direct(None, &mut *transaction, false).await?;
            let topic = create_topic(&mut transaction, settings, now).await?;
            transaction.commit().await?;
            Ok((connection, topic))
        };
        let (connection, (topic_id, found, partitions)) = opened.await.map_err(|error| self.describe_start(error))?;
        if found != settings.name {
            return Err(Error::OtherTopic { path: self.path.clone(), found, asked: settings.name.clone() });
        }
        if partitions != settings.partitions {
            let (topic, asked) = (found, settings.partitions);
            return Err(Error::OtherPartitionCount { topic, found: partitions, asked });
        }
        Ok((connection, topic_id))
    }

    fn describe_start(&self, error: MigrateError) -> Error {
        match error {
            MigrateError::VersionMissing(_) | MigrateError::VersionMismatch(_) => {
                Error::NewerSchema { path: self.path.clone() }
            }
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                self.describe("open the file", Arc::new(error))
            }
            other => Error::Open { path: self.path.clone(), source: Box::new(other) },
        }
    }
}

async fn create_topic(
    transaction: &mut SqliteConnection,
    settings: &TopicSettings,
    now: Timestamp,
) -> Result<(String, String, Partition), sqlx::Error> {
    let select = "SELECT topic_id, name, partitions FROM topic";
    if let Some(topic) = sqlx::query_as(select).fetch_optional(&mut *transaction).await? {
        return Ok(topic);
    }
    sqlx::query("INSERT INTO topic (singleton, topic_id, name, partitions, created_micros) VALUES (1, ?, ?, ?, ?)")
        .bind(Uuid::new_v4().to_string())
        .bind(&settings.name)
        .bind(settings.partitions)
        .bind(now.micros())
        .execute(&mut *transaction)
        .await?;
    for partition in 0..settings.partitions {
        sqlx::query("INSERT INTO partitions VALUES (?, 0, 0, ?, 0)")
            .bind(partition)
            .bind(i64::MIN)
            .execute(&mut *transaction)
            .await?;
    }
    sqlx::query_as(select).fetch_one(transaction).await
}

const SQLITE_PERM: i32 = 3;
const SQLITE_BUSY: i32 = 5;
const SQLITE_LOCKED: i32 = 6;
const SQLITE_READONLY: i32 = 8;
const SQLITE_CORRUPT: i32 = 11;
const SQLITE_FULL: i32 = 13;
const SQLITE_CANTOPEN: i32 = 14;
const SQLITE_NOTADB: i32 = 26;

/// The primary result code: the low byte of the extended one.
fn primary_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse::<i32>().ok().map(|extended| extended & 0xff)
}

fn is_damage(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(SQLITE_CORRUPT)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use domain::ErrorKind;
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::conformance::{
        self, KEEP_NOTHING, PARTITIONS, home, noise, read_all, real, record, records, stepped, symbol, values,
    };

    struct TestClock(AtomicI64);

    impl Clock for TestClock {
        fn now(&self) -> Timestamp {
            Timestamp::from_micros(self.0.load(Ordering::SeqCst))
        }
    }

    fn clock() -> Arc<TestClock> {
        Arc::new(TestClock(AtomicI64::new(1_710_000_000_000_000)))
    }

    fn settings() -> TopicSettings {
        TopicSettings { partitions: PARTITIONS, ..TopicSettings::default() }
    }

    fn folder() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("events.log");
        (folder, path)
    }

    async fn open(path: &Path) -> EmbeddedLog {
        EmbeddedLog::open(path, &settings(), clock()).await.unwrap()
    }

    /// Changes the file behind the log's back.
    async fn tamper(path: &Path, statement: &'static str) {
        let mut connection = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await.unwrap();
        sqlx::query(statement).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    macro_rules! conforms {
        ($($behaviour:ident),* $(,)?) => {$(
            #[tokio::test]
            async fn $behaviour() {
                let (_folder, path) = folder();
                let log = open(&path).await;
                conformance::$behaviour(&log).await;
                log.close().await;
            }
        )*};
    }

    conformance::behaviours!(conforms);
    conforms!(retention_never_passes_what_is_needed_and_offsets_are_not_reused);

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn handles_on_one_file_append_and_read_at_the_same_time() {
        let (_folder, path) = folder();
        let (first, second, reader) = (open(&path).await, open(&path).await, open(&path).await);
        assert_eq!(first.topic_id(), second.topic_id());
        conformance::concurrent_appends_and_reads_lose_nothing(&[&first, &second, &first], &reader).await;
        // What one handle has recorded binds the others.
        let simulated = AppendBatch { kind: Kind::Simulated, ..real(records("BTC-USDT", 0..1)) };
        assert!(matches!(second.append(simulated).await, Err(Error::OtherKind { .. })));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn processes_that_start_at_once_create_one_topic() {
        let (_folder, path) = folder();
        let opened = futures::future::join_all((0..8).map(|_| {
            let path = path.clone();
            tokio::spawn(async move { open(&path).await.topic_id().to_owned() })
        }));
        let mut ids: Vec<_> = opened.await.into_iter().map(Result::unwrap).collect();
        ids.dedup();
        assert_eq!(ids.len(), 1);
    }

    #[tokio::test]
    async fn a_reopened_log_goes_on_where_it_was_closed() {
        let (_folder, path) = folder();
        let log = open(&path).await;
        let id = log.topic_id().to_owned();
        log.append(stepped(records("BTC-USDT", 0..3), None, "3", false)).await.unwrap();
        log.close().await;
        assert!(matches!(log.append(real(Vec::new())).await, Err(Error::Closed)));
        let log = open(&path).await;
        assert_eq!(log.topic_id(), id);
        let again = stepped(records("BTC-USDT", 0..3), None, "3", false);
        assert_eq!(log.append(again).await.unwrap(), AppendOutcome::AlreadyApplied);
        log.append(stepped(records("BTC-USDT", 3..5), Some("3"), "5", true)).await.unwrap();
        assert_eq!(values(&log, "BTC-USDT").await, ["value 0", "value 1", "value 2", "value 3", "value 4"]);
    }

    /// The handle is dropped without being closed, as when the process dies; what was acknowledged is there.
    #[tokio::test]
    async fn an_acknowledged_append_survives_an_abandoned_handle() {
        let (_folder, path) = folder();
        let log = open(&path).await;
        log.append(real(records("BTC-USDT", 0..3))).await.unwrap();
        drop(log);
        assert_eq!(values(&open(&path).await, "BTC-USDT").await.len(), 3);
    }

    #[tokio::test]
    async fn appends_that_wait_share_a_transaction_and_each_gets_its_own_answer() {
        let (_folder, path) = folder();
        let log = open(&path).await;
        let appends = (0..200).map(|n| {
            let kind = if n == 100 { Kind::Simulated } else { Kind::Real };
            log.append(AppendBatch { kind, ..real(vec![record("BTC-USDT", format!("{n}"))]) })
        });
        let outcomes = futures::future::join_all(appends).await;
        let mut offsets = Vec::new();
        for (n, outcome) in outcomes.into_iter().enumerate() {
            match outcome {
                Ok(AppendOutcome::Appended(ranges)) => offsets.push((n, ranges[0].1.start)),
                other => assert!(n == 100 && matches!(other, Err(Error::OtherKind { .. })), "{n}: {other:?}"),
            }
        }
        let stored = values(&log, "BTC-USDT").await;
        assert_eq!(stored.len(), 199);
        assert!(offsets.iter().all(|(n, offset)| stored[usize::try_from(*offset).unwrap()] == n.to_string()));
    }

    #[tokio::test]
    async fn append_times_never_fall_when_the_clock_is_set_back() {
        let (_folder, path) = folder();
        let clock = clock();
        let log = EmbeddedLog::open(&path, &settings(), Arc::clone(&clock) as Arc<dyn Clock>).await.unwrap();
        let start = clock.now().micros();
        for moved in [0, 5, -1_000_000, 7] {
            clock.0.store(start + moved, Ordering::SeqCst);
            log.append(real(vec![record("BTC-USDT", "x")])).await.unwrap();
        }
        let mut times = Vec::new();
        for item in log.read(home("BTC-USDT"), 0, 10).await.unwrap() {
            let ReadItem::Batch(batch) = item else { panic!("a gap") };
            times.extend(batch.records().map(|record| record.append_time.micros() - start));
        }
        assert_eq!(times, [0, 5, 5, 7]);
    }

    #[tokio::test]
    async fn old_records_are_removed_by_age() {
        let (_folder, path) = folder();
        let clock = clock();
        let log = EmbeddedLog::open(&path, &settings(), Arc::clone(&clock) as Arc<dyn Clock>).await.unwrap();
        for n in 0..3 {
            log.append(real(records("BTC-USDT", n..n + 1))).await.unwrap();
            clock.0.fetch_add(3 * 86_400_000_000, Ordering::SeqCst);
        }
        let retained = log.retain(home("BTC-USDT"), 3, RetentionPolicy::default()).await.unwrap();
        assert_eq!((retained.first_offset, retained.removed_records), (1, 1));
        assert!(retained.removed_bytes > 0);
    }

    #[tokio::test]
    async fn offsets_are_not_reused_after_everything_was_removed_and_the_log_reopened() {
        let (_folder, path) = folder();
        let log = open(&path).await;
        log.append(real(records("BTC-USDT", 0..5))).await.unwrap();
        log.retain(home("BTC-USDT"), 5, KEEP_NOTHING).await.unwrap();
        log.close().await;
        let log = open(&path).await;
        let outcome = log.append(real(records("BTC-USDT", 0..1))).await.unwrap();
        assert_eq!(outcome, AppendOutcome::Appended(vec![(home("BTC-USDT"), 5..6)]));
    }

    #[tokio::test]
    async fn damaged_and_missing_batches_are_gaps_and_nothing_after_them_is_lost() {
        let (_folder, path) = folder();
        let log = open(&path).await;
        for n in 0..6 {
            log.append(real(records("BTC-USDT", 2 * n..2 * n + 2))).await.unwrap();
        }
        tamper(&path, "UPDATE batches SET payload = zeroblob(length(payload)) WHERE base_offset = 2").await;
        tamper(&path, "DELETE FROM batches WHERE base_offset = 6").await;
        tamper(&path, "UPDATE batches SET records = 77 WHERE base_offset = 10").await;
        for max_records in [1, 2, 3, 100] {
            let (found, gaps) = read_all(&log, home("BTC-USDT"), 0, max_records).await;
            assert_eq!(found.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [0, 1, 4, 5, 8, 9]);
            let damaged = "the checksum of the stored batch does not match its bytes".to_owned();
            assert_eq!(gaps, [(2, 4, damaged.clone()), (6, 8, MISSING.to_owned()), (10, 12, damaged)]);
        }
        let (found, gaps) = read_all(&log, home("BTC-USDT"), 3, 100).await;
        assert_eq!((found.len(), gaps[0].0, gaps[0].1), (4, 3, 4));
        log.append(real(records("BTC-USDT", 12..13))).await.unwrap();
        assert_eq!(log.end_offset(home("BTC-USDT")).await.unwrap(), 13);
    }

    /// Overwrites pages in the middle of a large value, so that `SQLite` itself reports damage.
    #[tokio::test]
    async fn a_torn_page_is_a_gap() {
        let (_folder, path) = folder();
        let log = open(&path).await;
        log.append(real(vec![record("BTC-USDT", "before")])).await.unwrap();
        log.append(real(vec![record("BTC-USDT", noise(1 << 18))])).await.unwrap();
        log.append(real(vec![record("BTC-USDT", "after")])).await.unwrap();
        log.close().await;
        let mut file = fs::read(&path).unwrap();
        let middle = file.len() / 2 / 4_096 * 4_096;
        file[middle..middle + 8_192].fill(0);
        fs::write(&path, file).unwrap();
        let log = open(&path).await;
        for max_records in [1, 100] {
            let (found, gaps) = read_all(&log, home("BTC-USDT"), 0, max_records).await;
            assert_eq!(found, [(0, b"before".to_vec()), (2, b"after".to_vec())]);
            assert_eq!((gaps.len(), gaps[0].0, gaps[0].1), (1, 1, 2));
            assert!(gaps[0].2.contains("cannot read"), "{}", gaps[0].2);
        }
    }

    #[tokio::test]
    async fn a_full_disk_refuses_the_append_and_loses_nothing() {
        let (_folder, path) = folder();
        open(&path).await.close().await;
        let (reading, writing) = connect_options(&path);
        let limited = writing.pragma("max_page_count", "64");
        let log = EmbeddedLog::open_with(&path, &settings(), clock(), reading, limited).await.unwrap();
        log.append(real(records("BTC-USDT", 0..2))).await.unwrap();
        let full = log.append(stepped(vec![record("ETH-USDT", noise(1 << 20))], None, "1", false)).await.unwrap_err();
        assert_eq!(full.kind(), ErrorKind::Unavailable);
        assert!(full.to_string().contains("full"), "{full}");
        assert_eq!(log.position("file:a").await.unwrap(), None);
        assert_eq!(log.kind_of(symbol("ETH-USDT")).await.unwrap(), None);
        log.append(real(records("BTC-USDT", 2..3))).await.unwrap();
        assert_eq!(values(&log, "BTC-USDT").await.len(), 3);
    }

    #[tokio::test]
    async fn other_files_and_other_settings_are_refused_unchanged() {
        let (_folder, path) = folder();
        let refusal = |path: PathBuf, settings: TopicSettings| async move {
            EmbeddedLog::open(&path, &settings, clock()).await.unwrap_err()
        };
        open(&path).await.close().await;
        let other = refusal(path.clone(), TopicSettings { partitions: 8, ..settings() }).await;
        assert!(other.to_string().contains("created with 4 partitions and 8 are asked for"), "{other}");
        let other = refusal(path.clone(), TopicSettings { name: "other".into(), ..settings() }).await;
        assert!(matches!(other, Error::OtherTopic { .. }), "{other}");
        let none = refusal(path.clone(), TopicSettings { partitions: 0, ..settings() }).await;
        assert!(matches!(none, Error::Limit(_)), "{none}");

        let text = path.with_extension("txt");
        fs::write(&text, "not a database, whatever its name says\n".repeat(100)).unwrap();
        let before = fs::read(&text).unwrap();
        assert!(matches!(refusal(text.clone(), settings()).await, Error::NotALog { .. }));
        assert_eq!(fs::read(&text).unwrap(), before);

        let foreign = path.with_extension("sqlite");
        let create = SqliteConnectOptions::new().filename(&foreign).create_if_missing(true);
        let mut connection = SqliteConnection::connect_with(&create).await.unwrap();
        sqlx::query("CREATE TABLE something (a)").execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        assert!(matches!(refusal(foreign, settings()).await, Error::NotALog { .. }));

        tamper(&path, "INSERT INTO _sqlx_migrations VALUES (99, 'later', 0, 1, x'00', 0)").await;
        assert!(matches!(refusal(path.clone(), settings()).await, Error::NewerSchema { .. }));
    }

    #[tokio::test]
    async fn the_pragmas_that_durability_needs_are_set() {
        let (_folder, path) = folder();
        open(&path).await.close().await;
        let (_, writing) = connect_options(&path);
        let mut connection = SqliteConnection::connect_with(&writing).await.unwrap();
        let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut connection).await.unwrap();
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut connection).await.unwrap();
        assert_eq!((journal.as_str(), synchronous), ("wal", 2));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn any_split_into_batches_reads_back_the_same_records(
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..120),
            sizes in prop::collection::vec(0..20_usize, 1..20),
            from in any::<prop::sample::Index>(),
            max_records in 1..150_usize,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (_folder, path) = folder();
                let log = open(&path).await;
                let mut rest = &values[..];
                let sizes = sizes.iter().copied().chain(std::iter::repeat(7));
                for size in sizes {
                    let (now, later) = rest.split_at(size.min(rest.len()));
                    log.append(real(now.iter().map(|value| record("BTC-USDT", value.clone())).collect())).await.unwrap();
                    rest = later;
                    if rest.is_empty() {
                        break;
                    }
                }
                let from = from.index(values.len());
                let (found, gaps) = read_all(&log, home("BTC-USDT"), i64::try_from(from).unwrap(), max_records).await;
                assert!(gaps.is_empty());
                assert!(found.into_iter().map(|(_, value)| value).eq(values[from..].iter().cloned()));
            });
        }
    }
}
