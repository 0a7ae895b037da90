//! The store of runs and schedules: an `SQLite` file, and the only place with SQL.
//!
//! Every change is one immediate transaction together with the line of history that tells of it. A run belongs to who
//! claimed it last: its token goes up with every claim, and writes under an older one change nothing and say so. Times
//! are passed in: nothing here reads a clock.

pub mod queue;
pub mod schedules;

use std::{fmt, path::Path, sync::Arc, time::Duration};

use domain::Timestamp;
use serde_json::Value;
use sqlx::{
    Connection, Row, Sqlite, SqliteConnection, Transaction,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};

use crate::{
    error::Error,
    run::{RunEnd, RunEvent, RunState, SliceEnd, SliceState},
};

/// The schema, embedded in the program.
static SCHEMA: Migrator = sqlx::migrate!("../migrations/scheduler");

/// How long a writer waits for another process's transaction.
const WRITE_LOCK_WAIT: Duration = Duration::from_secs(30);

/// The number of a run, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(i64);

impl From<i64> for RunId {
    fn from(number: i64) -> Self {
        Self(number)
    }
}

impl From<RunId> for i64 {
    fn from(id: RunId) -> Self {
        id.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A run to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRun {
    /// The job's name.
    pub job: String,
    /// What it is asked for.
    pub spec: Value,
    /// Its slices, numbered from 1 in this order.
    pub slices: Vec<NewSlice>,
    /// Of runs of one job with one key only the first is kept.
    pub idempotency_key: Option<String>,
}

/// A slice to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct NewSlice {
    /// Its name.
    pub name: String,
    /// What it is.
    pub spec: Value,
}

/// A kept run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its number.
    pub id: RunId,
    /// The job's name.
    pub job: String,
    /// What it was asked for.
    pub spec: Value,
    /// When it was created.
    pub created: Timestamp,
    /// Whether it was asked to end.
    pub cancel_requested: bool,
    /// Who does it.
    pub owner: Option<String>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Why it failed.
    pub error: Option<String>,
    /// The schedule that it is of; none, where it was begun otherwise.
    pub schedule: Option<String>,
    /// The time of the schedule that it is of.
    pub of: Option<Timestamp>,
    /// Attempts that were begun.
    pub attempts: u32,
    written: RunState,
    lease_until: Option<Timestamp>,
    token: i64,
}

impl Run {
    /// Where it is at a time: a running one whose owner has fallen silent is interrupted.
    #[must_use]
    pub fn state_at(&self, now: Timestamp) -> RunState {
        let silent = self.lease_until.is_none_or(|until| until <= now);
        if self.written == RunState::Running && silent { RunState::Interrupted } else { self.written }
    }
}

/// A kept slice.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// Its number in the run, from 1.
    pub number: i64,
    /// Its name.
    pub name: String,
    /// What it is.
    pub spec: Value,
    /// Where it is.
    pub state: SliceState,
    /// What it gave.
    pub result: Option<Value>,
    /// Why it failed.
    pub error: Option<String>,
}

/// Something that happened to a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// When.
    pub at: Timestamp,
    /// To which of its slices; none, where to the run.
    pub slice: Option<i64>,
    /// What.
    pub event: String,
    /// More about it.
    pub detail: String,
}

/// The right to do a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    run: RunId,
    token: i64,
}

/// What came of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The run is the caller's.
    Owned(Lease),
    /// Another owner does it.
    HeldBy {
        /// Who.
        owner: String,
        /// How long its lease lasts, if it falls silent.
        until: Timestamp,
    },
    /// It has ended.
    Ended(RunState),
}

/// What a beat is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The run is still the caller's.
    GoOn,
    /// It is, and it shall end.
    CancelRequested,
    /// Another owner has taken it.
    Lost,
}

/// What came of a write under a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is written.
    Done,
    /// Another owner has taken the run: nothing was written.
    Lost,
}

/// What came of the wish that a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    /// Its owner will hear of it.
    Requested,
    /// Nobody did it: it has ended.
    Cancelled,
    /// It had ended before.
    EndedAlready(RunState),
}

/// The open store.
#[derive(Clone, Debug)]
pub struct Store {
    path: Arc<Path>,
    pool: SqlitePool,
}

impl Store {
    /// Opens the store, made where it is missing.
    ///
    /// # Errors
    /// Where the file cannot be read or written, or was made by another version of this program.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .busy_timeout(WRITE_LOCK_WAIT)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        // SQLite ends a transaction by itself where the disk is full, and sqlx does not hear of it: such a connection begins
        // none any more.
        let pool = SqlitePoolOptions::new().before_acquire(|connection, _| {
            let is_sound = !connection.is_in_transaction();
            Box::pin(async move { Ok(is_sound) })
        });
        let pool = pool.max_connections(1).test_before_acquire(false).idle_timeout(None);
        let store = Self { path: path.into(), pool: pool.max_lifetime(None).connect_lazy_with(options) };
        store.migrate().await?;
        Ok(store)
    }

    async fn migrate(&self) -> Result<(), Error> {
        let failed = self.failed("bring the schema up to date");
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        SCHEMA.run_direct(None, &mut *transaction, false).await.map_err(|error| match error {
            MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => failed(cause),
            other => Error::Schema { path: self.path.to_path_buf(), source: Box::new(other) },
        })?;
        transaction.commit().await.map_err(&failed)
    }

    /// Keeps a run.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn create(&self, run: &NewRun, at: Timestamp) -> Result<RunId, Error> {
        let failed = self.failed("keep a run");
        let mut transaction = self.begin(&failed).await?;
        let known = sqlx::query_scalar("SELECT id FROM runs WHERE job = ? AND idempotency_key = ?");
        let known: Option<i64> =
            known.bind(&run.job).bind(&run.idempotency_key).fetch_optional(&mut *transaction).await.map_err(&failed)?;
        if let Some(known) = known {
            return Ok(RunId(known));
        }
        let sql = "INSERT INTO runs (job, spec, idempotency_key, created_ms, state) VALUES (?, ?, ?, ?, 'pending')";
        let insert =
            sqlx::query(sql).bind(&run.job).bind(run.spec.to_string()).bind(&run.idempotency_key).bind(millis(at));
        let id = insert.execute(&mut *transaction).await.map_err(&failed)?.last_insert_rowid();
        for (number, slice) in (1_i64..).zip(&run.slices) {
            let sql = "INSERT INTO slices (run, number, name, spec, state) VALUES (?, ?, ?, ?, 'pending')";
            let insert = sqlx::query(sql).bind(id).bind(number).bind(&slice.name).bind(slice.spec.to_string());
            insert.execute(&mut *transaction).await.map_err(&failed)?;
        }
        note(&mut transaction, RunId(id), None, at, "created", &format!("{} slices", run.slices.len()))
            .await
            .map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(RunId(id))
    }

    /// A run.
    ///
    /// # Errors
    /// [`Error::NoRun`] where there is none with this number.
    pub async fn run(&self, id: RunId) -> Result<Run, Error> {
        let failed = self.failed("read a run");
        let mut connection = self.pool.acquire().await.map_err(&failed)?;
        self.read(&mut connection, id).await
    }

    /// The newest runs, newest first; of one job, where it is named.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn runs(&self, job: Option<&str>, limit: u32) -> Result<Vec<Run>, Error> {
        let failed = self.failed("list runs");
        let sql = "SELECT * FROM runs WHERE ?1 IS NULL OR job = ?1 ORDER BY id DESC LIMIT ?2";
        let rows = sqlx::query(sql).bind(job).bind(limit).fetch_all(&self.pool).await.map_err(&failed)?;
        rows.iter().map(|row| self.as_run(row)).collect()
    }

    /// The newest runs that are in a state by now and were created at a time or later, newest first; what is not given does
    /// not matter.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn runs_in(
        &self,
        state: Option<RunState>,
        since: Option<Timestamp>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<Run>, Error> {
        let failed = self.failed("list runs");
        // The state as `Run::state_at` tells it.
        let sql = "SELECT * FROM runs WHERE (?1 IS NULL OR ?1 = CASE WHEN state = 'running' \
                       AND coalesce(lease_until_ms, 0) <= ?2 THEN 'interrupted' ELSE state END) \
                   AND (?3 IS NULL OR created_ms >= ?3) ORDER BY id DESC LIMIT ?4";
        let query = sqlx::query(sql).bind(state.map(RunState::as_str)).bind(millis(now)).bind(since.map(millis));
        let rows = query.bind(limit).fetch_all(&self.pool).await.map_err(&failed)?;
        rows.iter().map(|row| self.as_run(row)).collect()
    }

    /// The newest line of all histories; 0 before the first.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn newest_line(&self) -> Result<i64, Error> {
        let failed = self.failed("look for the newest line of a history");
        let newest: Option<i64> =
            sqlx::query_scalar("SELECT max(id) FROM run_events").fetch_one(&self.pool).await.map_err(&failed)?;
        Ok(newest.unwrap_or(0))
    }

    /// The newest runs that lines of history after `line` tell of, newest first.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn told_of_since(&self, line: i64, limit: u32) -> Result<Vec<Run>, Error> {
        let failed = self.failed("list runs that something happened to");
        let sql = "SELECT * FROM runs WHERE id IN (SELECT run FROM run_events WHERE id > ?) ORDER BY id DESC LIMIT ?";
        let rows = sqlx::query(sql).bind(line).bind(limit).fetch_all(&self.pool).await.map_err(&failed)?;
        rows.iter().map(|row| self.as_run(row)).collect()
    }

    /// The slices of a run, in their order.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn slices(&self, id: RunId) -> Result<Vec<Slice>, Error> {
        let failed = self.failed("list slices");
        let sql = "SELECT * FROM slices WHERE run = ? ORDER BY number";
        let rows = sqlx::query(sql).bind(id.0).fetch_all(&self.pool).await.map_err(&failed)?;
        rows.iter().map(|row| self.as_slice(row)).collect()
    }

    /// What happened to a run, oldest first.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn history(&self, id: RunId) -> Result<Vec<StoredEvent>, Error> {
        let failed = self.failed("read a run's history");
        let sql = "SELECT at_ms, slice, event, detail FROM run_events WHERE run = ? ORDER BY id";
        let rows = sqlx::query(sql).bind(id.0).fetch_all(&self.pool).await.map_err(&failed)?;
        let event = |row: &SqliteRow| StoredEvent {
            at: Timestamp::from_millis(row.get("at_ms")),
            slice: row.get("slice"),
            event: row.get("event"),
            detail: row.get("detail"),
        };
        Ok(rows.iter().map(event).collect())
    }

    /// Takes a run, for as long as beats follow each other within `lease`. Slices that a silent owner left running are
    /// pending again.
    ///
    /// # Errors
    /// Where there is no such run or the store cannot be written.
    pub async fn claim(&self, id: RunId, owner: &str, at: Timestamp, lease: Duration) -> Result<Claimed, Error> {
        let failed = self.failed("claim a run");
        let mut transaction = self.begin(&failed).await?;
        let run = self.read(&mut transaction, id).await?;
        let state = run.state_at(at);
        if state == RunState::Running {
            let (owner, until) = (run.owner.unwrap_or_default(), run.lease_until.unwrap_or(at));
            return Ok(Claimed::HeldBy { owner, until });
        }
        if state.is_ended() {
            return Ok(Claimed::Ended(state));
        }
        let lease = self.own(&mut transaction, id, owner, at, lease).await?;
        transaction.commit().await.map_err(&failed)?;
        Ok(Claimed::Owned(lease))
    }

    /// Gives a run that nobody does to an owner.
    async fn own(
        &self,
        transaction: &mut SqliteConnection,
        id: RunId,
        owner: &str,
        at: Timestamp,
        lease: Duration,
    ) -> Result<Lease, Error> {
        let failed = self.failed("claim a run");
        let sql = "UPDATE runs SET state = 'running', token = token + 1, owner = ?, lease_until_ms = ? WHERE id = ? \
                   RETURNING token";
        let update = sqlx::query_scalar(sql).bind(owner).bind(millis(after(at, lease))).bind(id.0);
        let token = update.fetch_one(&mut *transaction).await.map_err(&failed)?;
        let sql = "UPDATE slices SET state = 'pending' WHERE run = ? AND state = 'running'";
        sqlx::query(sql).bind(id.0).execute(&mut *transaction).await.map_err(&failed)?;
        note(transaction, id, None, at, RunEvent::Claimed.as_str(), owner).await.map_err(&failed)?;
        Ok(Lease { run: id, token })
    }

    /// Makes a lease last `lease` from now on.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn heartbeat(&self, held: &Lease, at: Timestamp, lease: Duration) -> Result<Beat, Error> {
        let failed = self.failed("keep a lease");
        let sql = "UPDATE runs SET lease_until_ms = ? WHERE id = ? AND token = ? AND state = 'running' \
                   RETURNING cancel_requested";
        let update = sqlx::query_scalar(sql).bind(millis(after(at, lease))).bind(held.run.0).bind(held.token);
        let mut transaction = self.begin(&failed).await?;
        let cancel: Option<bool> = update.fetch_optional(&mut *transaction).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(match cancel {
            None => Beat::Lost,
            Some(true) => Beat::CancelRequested,
            Some(false) => Beat::GoOn,
        })
    }

    /// Notes that a slice is being done.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn start_slice(&self, held: &Lease, number: i64, at: Timestamp) -> Result<Written, Error> {
        let sql = "UPDATE slices SET state = 'running', error = NULL WHERE run = ? AND number = ?";
        let update = sqlx::query(sql).bind(held.run.0).bind(number);
        self.under(held, "start a slice", update, (Some(number), "slice started", ""), at).await
    }

    /// Notes what became of a slice.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn end_slice(&self, held: &Lease, number: i64, end: &SliceEnd, at: Timestamp) -> Result<Written, Error> {
        let (result, error) = match end {
            SliceEnd::Succeeded { result } => (Some(result.to_string()), None),
            SliceEnd::Failed { error } => (None, Some(error.clone())),
            SliceEnd::Cancelled => (None, None),
        };
        let sql = "UPDATE slices SET state = ?, result = ?, error = ? WHERE run = ? AND number = ?";
        let state = end.state().as_str();
        let detail = result.clone().or_else(|| error.clone()).unwrap_or_default();
        let update = sqlx::query(sql).bind(state).bind(result).bind(error).bind(held.run.0).bind(number);
        self.under(held, "end a slice", update, (Some(number), state, &detail), at).await
    }

    /// Ends a run.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn finish(&self, held: &Lease, end: &RunEnd, at: Timestamp) -> Result<Written, Error> {
        let event = end.event();
        let state = decided(held.run, RunState::Running, event)?;
        let sql = "UPDATE runs SET state = ?, error = ?, ended_ms = ?, lease_until_ms = NULL WHERE id = ?";
        let update = sqlx::query(sql)
            .bind(state.as_str())
            .bind(end.error().map(str::to_owned))
            .bind(millis(at))
            .bind(held.run.0);
        self.under(held, "end a run", update, (None, event.as_str(), end.error().unwrap_or_default()), at).await
    }

    /// Gives a run up without ending it: whoever wants may claim it at once, and the attempt does not count.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn release(&self, held: &Lease, at: Timestamp) -> Result<Written, Error> {
        let state = decided(held.run, RunState::Running, RunEvent::Released)?;
        let sql = "UPDATE runs SET state = ?, lease_until_ms = NULL, attempts = max(attempts - 1, 0) WHERE id = ?";
        let update = sqlx::query(sql).bind(state.as_str()).bind(held.run.0);
        self.under(held, "give a run up", update, (None, RunEvent::Released.as_str(), ""), at).await
    }

    /// Ends the lease of an owner that the caller knows to be gone.
    ///
    /// # Errors
    /// Where there is no such run or the store cannot be written.
    pub async fn owner_is_gone(&self, id: RunId, at: Timestamp) -> Result<(), Error> {
        let failed = self.failed("end a lease");
        let mut transaction = self.begin(&failed).await?;
        let run = self.read(&mut transaction, id).await?;
        if run.state_at(at) != RunState::Running {
            return Ok(());
        }
        let state = decided(id, RunState::Running, RunEvent::Released)?;
        let sql = "UPDATE runs SET state = ?, token = token + 1, lease_until_ms = NULL WHERE id = ?";
        sqlx::query(sql).bind(state.as_str()).bind(id.0).execute(&mut *transaction).await.map_err(&failed)?;
        let owner = run.owner.unwrap_or_default();
        note(&mut transaction, id, None, at, "owner gone", &owner).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)
    }

    /// Asks a run to end: its owner hears of it with the next beat.
    ///
    /// # Errors
    /// Where there is no such run or the store cannot be written.
    pub async fn request_cancel(&self, id: RunId, at: Timestamp) -> Result<CancelOutcome, Error> {
        let failed = self.failed("cancel a run");
        let mut transaction = self.begin(&failed).await?;
        let state = self.read(&mut transaction, id).await?.state_at(at);
        if state.is_ended() {
            return Ok(CancelOutcome::EndedAlready(state));
        }
        let (sql, event, outcome) = if state == RunState::Running {
            let sql = "UPDATE runs SET cancel_requested = 1 WHERE id = ?1 AND ?2 IS NOT NULL";
            (sql, "cancel requested", CancelOutcome::Requested)
        } else {
            // Nobody does it: the token goes up, so that a silent owner who wakes up changes nothing.
            let sql = "UPDATE runs SET state = 'cancelled', cancel_requested = 1, token = token + 1, ended_ms = ?2, \
                       lease_until_ms = NULL WHERE id = ?1";
            (sql, RunEvent::Cancelled.as_str(), CancelOutcome::Cancelled)
        };
        sqlx::query(sql).bind(id.0).bind(millis(at)).execute(&mut *transaction).await.map_err(&failed)?;
        note(&mut transaction, id, None, at, event, "").await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(outcome)
    }

    /// Lets what is not done of a run be done.
    ///
    /// # Errors
    /// [`Error::Refused`] where it has succeeded, or somebody does it.
    pub async fn reopen(&self, id: RunId, at: Timestamp) -> Result<(), Error> {
        let failed = self.failed("open a run again");
        let mut transaction = self.begin(&failed).await?;
        let state = self.read(&mut transaction, id).await?.state_at(at);
        let state = decided(id, state, RunEvent::Reopened)?;
        let sql = "UPDATE runs SET state = ?, cancel_requested = 0, token = token + 1, ended_ms = NULL, error = NULL, \
                   lease_until_ms = NULL, attempts = 0, waits_until_ms = 0 WHERE id = ?";
        sqlx::query(sql).bind(state.as_str()).bind(id.0).execute(&mut *transaction).await.map_err(&failed)?;
        let sql = "UPDATE slices SET state = 'pending', error = NULL WHERE run = ? AND state <> 'succeeded'";
        sqlx::query(sql).bind(id.0).execute(&mut *transaction).await.map_err(&failed)?;
        note(&mut transaction, id, None, at, RunEvent::Reopened.as_str(), "").await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)
    }

    /// Writes under a lease, with its line of history; nothing, where the lease was lost.
    async fn under(
        &self,
        held: &Lease,
        action: &'static str,
        update: sqlx::query::Query<'_, Sqlite, sqlx::sqlite::SqliteArguments>,
        (slice, event, detail): (Option<i64>, &str, &str),
        at: Timestamp,
    ) -> Result<Written, Error> {
        let failed = self.failed(action);
        let mut transaction = self.begin(&failed).await?;
        let run = self.read(&mut transaction, held.run).await?;
        if run.token != held.token || run.written != RunState::Running {
            return Ok(Written::Lost);
        }
        update.execute(&mut *transaction).await.map_err(&failed)?;
        note(&mut transaction, held.run, slice, at, event, detail).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(Written::Done)
    }

    async fn begin(&self, failed: &impl Fn(sqlx::Error) -> Error) -> Result<Transaction<'static, Sqlite>, Error> {
        self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(failed)
    }

    async fn read(&self, connection: &mut SqliteConnection, id: RunId) -> Result<Run, Error> {
        let row = sqlx::query("SELECT * FROM runs WHERE id = ?").bind(id.0).fetch_optional(connection).await;
        let row = row.map_err(self.failed("read a run"))?;
        self.as_run(&row.ok_or(Error::NoRun { run: id.0 })?)
    }

    fn as_run(&self, row: &SqliteRow) -> Result<Run, Error> {
        let id: i64 = row.get("id");
        let unreadable =
            |what: &str| Error::Unreadable { what: format!("{what} of run {id}"), path: self.path.to_path_buf() };
        let time = |name: &str| row.get::<Option<i64>, _>(name).map(Timestamp::from_millis);
        Ok(Run {
            id: RunId(id),
            job: row.get("job"),
            spec: serde_json::from_str(row.get("spec")).map_err(|_| unreadable("specification"))?,
            created: Timestamp::from_millis(row.get("created_ms")),
            cancel_requested: row.get("cancel_requested"),
            owner: row.get("owner"),
            ended: time("ended_ms"),
            error: row.get("error"),
            schedule: row.get("schedule"),
            of: time("nominal_ms"),
            attempts: row.get("attempts"),
            written: RunState::from_name(row.get("state")).ok_or_else(|| unreadable("state"))?,
            lease_until: time("lease_until_ms"),
            token: row.get("token"),
        })
    }

    fn as_slice(&self, row: &SqliteRow) -> Result<Slice, Error> {
        let number: i64 = row.get("number");
        let unreadable =
            |what: &str| Error::Unreadable { what: format!("{what} of slice {number}"), path: self.path.to_path_buf() };
        let result: Option<String> = row.get("result");
        Ok(Slice {
            number,
            name: row.get("name"),
            spec: serde_json::from_str(row.get("spec")).map_err(|_| unreadable("specification"))?,
            state: SliceState::from_name(row.get("state")).ok_or_else(|| unreadable("state"))?,
            result: result.map(|text| serde_json::from_str(&text)).transpose().map_err(|_| unreadable("result"))?,
            error: row.get("error"),
        })
    }

    /// For `map_err` on a database operation: `action` completes "cannot ...".
    fn failed(&self, action: &'static str) -> impl Fn(sqlx::Error) -> Error + use<> {
        let path = self.path.clone();
        move |source| Error::Database { action, path: path.to_path_buf(), source: Box::new(source) }
    }
}

fn decided(run: RunId, state: RunState, event: RunEvent) -> Result<RunState, Error> {
    state.decide(event).map_err(|refused| Error::Refused { run: run.0, refused })
}

/// Appends a line to a run's history.
async fn note(
    transaction: &mut SqliteConnection,
    run: RunId,
    slice: Option<i64>,
    at: Timestamp,
    event: &str,
    detail: &str,
) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO run_events (run, slice, at_ms, event, detail) VALUES (?, ?, ?, ?, ?)";
    let insert = sqlx::query(sql).bind(run.0).bind(slice).bind(millis(at)).bind(event).bind(detail);
    insert.execute(transaction).await.map(|_| ())
}

const fn millis(time: Timestamp) -> i64 {
    time.span(1_000)
}

fn after(time: Timestamp, lease: Duration) -> Timestamp {
    time.plus_micros(i64::try_from(lease.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod full;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
