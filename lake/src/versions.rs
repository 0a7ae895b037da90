//! Time travel: which versions of a table can be read, and which was current at a time.
//!
//! A version can be read while the log still says what it was made of and all of its files are there. One that cannot
//! is never answered with another: the refusal names what is there. Tables are opened when they are asked for, and
//! nothing of them is changed here.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::UNIX_EPOCH,
};

use deltalake::{
    DeltaTable,
    kernel::{Action, Version},
    logstore::get_actions,
};
use domain::Timestamp;
use tokio::sync::OnceCell;

use crate::{
    commit_times::{CommitTime, CommitTimes},
    durable::DurableStore,
    error::Error,
    schema::TableName,
    table::{failed, load, load_version},
};

/// The file of the index of commit times, in the folder of the tables.
const COMMIT_TIMES: &str = "commits.db";

/// The versions of the tables of one folder, and the way to read them.
#[derive(Clone, Debug)]
pub struct Versions {
    store: DurableStore,
    times: Arc<OnceCell<CommitTimes>>,
}

impl Versions {
    /// The versions of the tables under `folder`. None is opened yet.
    ///
    /// # Errors
    /// Where the folder cannot be found or made.
    pub fn of(folder: &Path) -> Result<Self, Error> {
        Ok(Self::new(DurableStore::new(folder)?))
    }

    pub(crate) fn new(store: DurableStore) -> Self {
        Self { store, times: Arc::default() }
    }

    pub(crate) const fn store(&self) -> &DurableStore {
        &self.store
    }

    /// The version that was current at `time`, by the running maximum of commit times.
    ///
    /// # Errors
    /// [`Error::BeforeFirst`] where the table did not exist yet, [`Error::TimeRemoved`] where that is not known any more.
    pub async fn version_at(&self, table: TableName, time: Timestamp) -> Result<u64, Error> {
        let newest = load(&self.store, table).await?;
        let (id, times) = (id_of(&newest, table)?, self.noted(&newest, table).await?);
        if let Some(commit) = times.at(&id, time).await? {
            return Ok(commit.version);
        }
        let table = table.as_str();
        let newest = newest.version().unwrap_or_default();
        Err(match times.first(&id).await? {
            Some(CommitTime { version: 0, time: first_time }) => {
                Error::BeforeFirst { table, time, first: 0, first_time }
            }
            Some(first) => Error::TimeRemoved { table, time, oldest: first.version, oldest_time: first.time, newest },
            None => Error::NoVersion { table, version: 0, newest },
        })
    }

    /// The id in the metadata of a table, which one that was made anew does not share, and its newest version.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn newest(&self, table: TableName) -> Result<(String, u64), Error> {
        let newest = load(&self.store, table).await?;
        Ok((id_of(&newest, table)?, newest.version().unwrap_or_default()))
    }

    /// The version from which on all can be read.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn oldest(&self, table: TableName) -> Result<u64, Error> {
        let newest = load(&self.store, table).await?;
        self.oldest_whole(&newest, table, |path| !self.holds(table, path)).await
    }

    /// Every version whose commit time is known, ascending.
    ///
    /// # Errors
    /// Where the table or the index cannot be read.
    pub(crate) async fn commit_times(&self, table: TableName) -> Result<Vec<CommitTime>, Error> {
        let newest = load(&self.store, table).await?;
        self.noted(&newest, table).await?.all(&id_of(&newest, table)?).await
    }

    /// Takes the times of commits that are not in the index yet from the table's log.
    ///
    /// # Errors
    /// Where the table or the index cannot be read or written.
    pub async fn note_commit_times(&self, table: TableName) -> Result<(), Error> {
        let newest = load(&self.store, table).await?;
        self.noted(&newest, table).await.map(|_| ())
    }

    /// The index with every commit up to the version of `newest` that the log still has.
    async fn noted(&self, newest: &DeltaTable, table: TableName) -> Result<&CommitTimes, Error> {
        let path = self.store.base().join(COMMIT_TIMES);
        let times = self.times.get_or_try_init(|| async { CommitTimes::open(&path).await }).await?;
        let (id, version) = (id_of(newest, table)?, newest.version().unwrap_or_default());
        times.forget_after(&id, version).await?;
        let next = match times.last(&id).await? {
            Some(last) => last.version + 1,
            None => self.log_folder(table).first_commit()?.unwrap_or(version + 1),
        };
        let mut fresh = Vec::new();
        for version in next..=version {
            if let Some(actions) = actions_of(newest, table, version).await? {
                let time = actions.iter().find_map(|action| match action {
                    Action::CommitInfo(info) => info.timestamp.map(Timestamp::from_millis),
                    _ => None,
                });
                let time = time.map_or_else(|| self.log_folder(table).written(version), Ok)?;
                fresh.push(CommitTime { version, time });
            }
        }
        if !fresh.is_empty() {
            times.add(&id, &fresh).await?;
        }
        Ok(times)
    }

    /// Opens a version of a table, all of whose files are there.
    ///
    /// # Errors
    /// [`Error::NoVersion`] where the table has not come to it yet, [`Error::VersionRemoved`] where upkeep has removed
    /// what it needs.
    pub(crate) async fn open(&self, table: TableName, version: u64) -> Result<DeltaTable, Error> {
        let newest = load(&self.store, table).await?;
        let last = newest.version().unwrap_or_default();
        if version >= last {
            let missing = Error::NoVersion { table: table.as_str(), version, newest: last };
            return if version == last { Ok(newest) } else { Err(missing) };
        }
        if version >= self.log_folder(table).oldest_version()? {
            let opened = load_version(&self.store, table, version).await?;
            let files = opened.snapshot().map_err(failed("read", table))?.log_data();
            if files.iter().all(|file| self.holds(table, &file.path())) {
                return Ok(opened);
            }
        }
        let oldest = self.oldest_whole(&newest, table, |path| !self.holds(table, path)).await?;
        Err(Error::VersionRemoved { table: table.as_str(), version, oldest, newest: last })
    }

    /// The version from which on all can be read, where the files that `is_gone` names are not there.
    pub(crate) async fn oldest_whole(
        &self,
        newest: &DeltaTable,
        table: TableName,
        is_gone: impl Fn(&str) -> bool,
    ) -> Result<u64, Error> {
        let oldest = self.log_folder(table).oldest_version()?;
        // A file is read by versions until the commit that removes it.
        for version in (oldest + 1..=newest.version().unwrap_or_default()).rev() {
            let Some(actions) = actions_of(newest, table, version).await? else { return Ok(version) };
            let removes_gone = |action: &Action| matches!(action, Action::Remove(file) if is_gone(&file.path));
            if actions.iter().any(removes_gone) {
                return Ok(version);
            }
        }
        Ok(oldest)
    }

    /// Whether a data file of a table is on the disk.
    pub(crate) fn holds(&self, table: TableName, path: &str) -> bool {
        self.store.base().join(table.as_str()).join(path).exists()
    }

    fn log_folder(&self, table: TableName) -> LogFolder {
        LogFolder(self.store.base().join(table.as_str()).join("_delta_log"))
    }
}

/// The actions of the commit of a version; `None` where the log has been cleaned up past it.
pub(crate) async fn actions_of(
    table: &DeltaTable,
    name: TableName,
    version: u64,
) -> Result<Option<Vec<Action>>, Error> {
    let commit = table.log_store().read_commit_entry(version).await.map_err(failed("read a commit of", name))?;
    commit.map(|bytes| get_actions(version, &bytes)).transpose().map_err(failed("read a commit of", name))
}

/// The id in a table's metadata: one that was made anew has another.
pub(crate) fn id_of(table: &DeltaTable, name: TableName) -> Result<String, Error> {
    Ok(table.snapshot().map_err(failed("read", name))?.metadata().id().to_owned())
}

/// The files of a table's log.
struct LogFolder(PathBuf);

impl LogFolder {
    /// The first commit that is still there.
    fn first_commit(&self) -> Result<Option<Version>, Error> {
        Ok(self.numbers(".json")?.into_iter().min())
    }

    /// The oldest version that the log can rebuild: what it begins with, the first commit of all or a checkpoint.
    fn oldest_version(&self) -> Result<Version, Error> {
        if self.first_commit()? == Some(0) {
            return Ok(0);
        }
        let checkpoint = self.numbers(".parquet")?.into_iter().min();
        checkpoint.or(self.first_commit()?).ok_or_else(|| {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            Error::file("find a commit in", &self.0)(missing)
        })
    }

    /// Versions of the files whose name ends so, as in `00000000000000000012.checkpoint.parquet`.
    fn numbers(&self, end: &str) -> Result<Vec<Version>, Error> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(Error::file("list", &self.0))? {
            let name = entry.map_err(Error::file("list", &self.0))?.file_name();
            let name = name.to_string_lossy();
            let number = name.ends_with(end).then(|| name.split('.').next()).flatten();
            numbers.extend(number.and_then(|digits| digits.parse::<Version>().ok()));
        }
        Ok(numbers)
    }

    /// When a commit's file was written, for one that does not say when it was made.
    fn written(&self, version: Version) -> Result<Timestamp, Error> {
        let path = self.0.join(format!("{version:020}.json"));
        let written = fs::metadata(&path).and_then(|file| file.modified()).map_err(Error::file("read", &path))?;
        let since = written.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX)))
    }
}
