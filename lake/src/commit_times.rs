//! The index of commit times: an `SQLite` file that says when each version of each table was committed, and goes on
//! saying so when the table's own log has been cleaned up.
//!
//! The time of a version is the running maximum of the commit times up to it: a clock that was set back never puts a
//! later version before an earlier one. Everything here was read from commits; a lost file is filled again from those
//! that are left. Nothing here reads a clock.

use std::{path::Path, sync::Arc, time::Duration};

use domain::Timestamp;
use sqlx::{
    Row, Sqlite,
    migrate::{MigrateError, Migrator},
    query::Query,
    sqlite::{
        SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
        SqliteSynchronous,
    },
};

use crate::error::Error;

/// The schema, embedded in the program.
static SCHEMA: Migrator = sqlx::migrate!("../migrations/commits");

/// How long a writer waits for another process's transaction.
const WRITE_LOCK_WAIT: Duration = Duration::from_secs(30);

/// A version and when it was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitTime {
    /// The version.
    pub(crate) version: u64,
    /// The running maximum of the commit times up to it.
    pub(crate) time: Timestamp,
}

/// The open index.
#[derive(Clone, Debug)]
pub(crate) struct CommitTimes {
    path: Arc<Path>,
    pool: SqlitePool,
}

impl CommitTimes {
    /// Opens the index, made where it is missing.
    pub(crate) async fn open(path: &Path) -> Result<Self, Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .busy_timeout(WRITE_LOCK_WAIT)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let pool = SqlitePoolOptions::new().before_acquire(|connection, _| crate::registry::is_sound(connection));
        let pool = pool.max_connections(1).test_before_acquire(false).idle_timeout(None);
        let times = Self { path: path.into(), pool: pool.max_lifetime(None).connect_lazy_with(options) };
        times.migrate().await?;
        Ok(times)
    }

    async fn migrate(&self) -> Result<(), Error> {
        let failed = self.failed("bring the schema up to date");
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        SCHEMA.run_direct(None, &mut *transaction, false).await.map_err(|error| match error {
            MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => failed(cause),
            other => failed(sqlx::Error::Migrate(Box::new(other))),
        })?;
        transaction.commit().await.map_err(&failed)
    }

    /// Adds the times of commits, ascending by version; what is known stays.
    pub(crate) async fn add(&self, table_id: &str, commits: &[CommitTime]) -> Result<(), Error> {
        let failed = self.failed("note commits");
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
        for commit in commits {
            // Two scalars: the greater of this commit's time and of all before it.
            let sql = "INSERT INTO commits (table_id, version, time_us) VALUES (?1, ?2, max(?3, coalesce( \
                       (SELECT max(time_us) FROM commits WHERE table_id = ?1 AND version < ?2), ?3))) \
                       ON CONFLICT DO NOTHING";
            let insert = sqlx::query(sql).bind(table_id).bind(stored(commit.version)).bind(commit.time.micros());
            insert.execute(&mut *transaction).await.map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)
    }

    /// Forgets versions after `newest`: a torn commit was set aside and its number will be given again.
    pub(crate) async fn forget_after(&self, table_id: &str, newest: u64) -> Result<(), Error> {
        let sql = "DELETE FROM commits WHERE table_id = ? AND version > ?";
        let delete = sqlx::query(sql).bind(table_id).bind(stored(newest)).execute(&self.pool).await;
        delete.map(|_| ()).map_err(self.failed("forget commits"))
    }

    /// The first version known.
    pub(crate) async fn first(&self, table_id: &str) -> Result<Option<CommitTime>, Error> {
        let sql = "SELECT version, time_us FROM commits WHERE table_id = ? ORDER BY version LIMIT 1";
        self.one(sqlx::query(sql).bind(table_id)).await
    }

    /// The last version known.
    pub(crate) async fn last(&self, table_id: &str) -> Result<Option<CommitTime>, Error> {
        let sql = "SELECT version, time_us FROM commits WHERE table_id = ? ORDER BY version DESC LIMIT 1";
        self.one(sqlx::query(sql).bind(table_id)).await
    }

    /// The last version not later than `time`.
    pub(crate) async fn at(&self, table_id: &str, time: Timestamp) -> Result<Option<CommitTime>, Error> {
        let sql = "SELECT version, time_us FROM commits WHERE table_id = ? AND time_us <= ? \
                   ORDER BY time_us DESC, version DESC LIMIT 1";
        self.one(sqlx::query(sql).bind(table_id).bind(time.micros())).await
    }

    /// Every version known, ascending.
    pub(crate) async fn all(&self, table_id: &str) -> Result<Vec<CommitTime>, Error> {
        let sql = "SELECT version, time_us FROM commits WHERE table_id = ? ORDER BY version";
        let rows = sqlx::query(sql).bind(table_id).fetch_all(&self.pool).await.map_err(self.failed("read"))?;
        Ok(rows.iter().map(commit_time).collect())
    }

    async fn one(&self, query: Query<'_, Sqlite, SqliteArguments>) -> Result<Option<CommitTime>, Error> {
        let row = query.fetch_optional(&self.pool).await.map_err(self.failed("read"))?;
        Ok(row.as_ref().map(commit_time))
    }

    fn failed(&self, action: &'static str) -> impl Fn(sqlx::Error) -> Error + use<> {
        let path = Arc::clone(&self.path);
        move |source| Error::CommitTimes { action, path: path.to_path_buf(), source: Box::new(source) }
    }
}

/// Delta counts versions up by one: none exceeds `SQLite`'s integers.
fn stored(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

fn commit_time(row: &SqliteRow) -> CommitTime {
    CommitTime {
        version: u64::try_from(row.get::<i64, _>("version")).unwrap_or(0),
        time: Timestamp::from_micros(row.get("time_us")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const fn at(version: u64, second: i64) -> CommitTime {
        CommitTime { version, time: Timestamp::from_seconds(second) }
    }

    async fn index(commits: &[CommitTime]) -> (tempfile::TempDir, CommitTimes) {
        let folder = tempfile::tempdir().unwrap();
        let times = CommitTimes::open(&folder.path().join("commits.db")).await.unwrap();
        times.add("table", commits).await.unwrap();
        (folder, times)
    }

    #[rstest]
    #[case(9, None)]
    #[case(10, Some(0))]
    #[case(19, Some(0))]
    #[case(20, Some(2))]
    #[case(99, Some(3))]
    #[tokio::test]
    async fn a_clock_that_was_set_back_never_puts_a_later_version_first(
        #[case] second: i64,
        #[case] version: Option<u64>,
    ) {
        let (_folder, times) = index(&[at(0, 10), at(1, 20), at(2, 12), at(3, 30)]).await;
        let found = times.at("table", Timestamp::from_seconds(second)).await.unwrap();
        assert_eq!(found.map(|commit| commit.version), version);
        assert_eq!(times.all("table").await.unwrap(), [at(0, 10), at(1, 20), at(2, 20), at(3, 30)]);
    }

    #[tokio::test]
    async fn what_is_known_stays_and_tables_are_apart() {
        let (_folder, times) = index(&[at(0, 10), at(1, 20)]).await;
        times.add("table", &[at(1, 99), at(2, 30)]).await.unwrap();
        times.add("other", &[at(7, 1)]).await.unwrap();
        assert_eq!(times.all("table").await.unwrap(), [at(0, 10), at(1, 20), at(2, 30)]);
        assert_eq!(times.first("other").await.unwrap(), Some(at(7, 1)));
        assert_eq!(times.last("table").await.unwrap(), Some(at(2, 30)));
        assert_eq!(times.last("none").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_version_given_again_gets_its_new_time() {
        let (_folder, times) = index(&[at(0, 10), at(1, 20)]).await;
        times.forget_after("table", 0).await.unwrap();
        times.add("table", &[at(1, 25)]).await.unwrap();
        assert_eq!(times.all("table").await.unwrap(), [at(0, 10), at(1, 25)]);
    }
}
