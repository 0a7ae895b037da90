//! Everything that can go wrong at rest, in the lake's own words. Each error says what to do and maps itself to a
//! kind, by which callers decide about retries, exit codes and HTTP statuses. It never hides its cause.

use std::{io, path::PathBuf};

use deltalake::DeltaTableError;
use domain::{ErrorKind, Timestamp};

use crate::schema::TableName;

/// Why the lake, the registry or an artifact could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot {action} `{}`: check that the disk has room and that the folder may be read and written", path.display())]
    File {
        /// What was tried, such as `read`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// A Delta operation failed.
    #[error("cannot {action}")]
    Delta {
        /// What was tried, with the name of the table.
        action: String,
        /// What Delta said.
        #[source]
        source: Box<DeltaTableError>,
    },

    /// A commit that is not the newest is damaged: what follows it was built on it, so nothing is set aside.
    #[error(
        "commit `{}` is damaged ({reason}) and commits after it are sound: restore it from a backup, or move the \
         table's folder away and rebuild it from the events",
        path.display()
    )]
    DamagedCommit {
        /// The damaged commit file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// A table was changed by a newer program in a way that this one does not understand.
    #[error(
        "table `{table}` needs Delta protocol reader {reader}, writer {writer}, newer than this program's 1 and 2: use \
         the program that changed it, or move the table's folder away and rebuild it from the events"
    )]
    FutureProtocol {
        /// The table.
        table: &'static str,
        /// Its reader version.
        reader: i32,
        /// Its writer version.
        writer: i32,
    },

    /// Another rewrite of the table is at work.
    #[error("table `{table}` is being rewritten already: wait until that has ended, then try again")]
    RewriteRunning {
        /// The table.
        table: &'static str,
    },

    /// A table holds something else than this program wrote.
    #[error("column `{column}` of table `{table}` is not what this program writes: rebuild the table from the events")]
    UnexpectedColumn {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
    },

    /// Rows would leave a hole behind the committed progress.
    #[error(
        "`{progress}` stands at {stored} and rows begin at {start}: start the stream job again, it will read what is missing"
    )]
    ProgressGap {
        /// The progress id.
        progress: String,
        /// The committed next offset.
        stored: i64,
        /// Where the rows begin.
        start: i64,
    },

    /// There is no table with this name.
    #[error("there is no table `{name}`: there are {}", table_names())]
    NoTable {
        /// The name asked for.
        name: String,
    },

    /// The table has not come to this version yet.
    #[error("table `{table}` has no version {version}: its newest is {newest}")]
    NoVersion {
        /// The table.
        table: &'static str,
        /// The version asked for.
        version: u64,
        /// The newest version there is.
        newest: u64,
    },

    /// The table did not exist at this time.
    #[error("table `{table}` did not exist at {time}: its version {first} is the first, of {first_time}")]
    BeforeFirst {
        /// The table.
        table: &'static str,
        /// The time asked for.
        time: Timestamp,
        /// The first version.
        first: u64,
        /// When it was committed.
        first_time: Timestamp,
    },

    /// What was current at this time was removed before its time was noted.
    #[error(
        "what table `{table}` was at {time} is not kept any more: its versions {oldest} to {newest} can be read, {oldest} \
         is of {oldest_time}"
    )]
    TimeRemoved {
        /// The table.
        table: &'static str,
        /// The time asked for.
        time: Timestamp,
        /// The oldest version whose time is known.
        oldest: u64,
        /// When it was committed.
        oldest_time: Timestamp,
        /// The newest version.
        newest: u64,
    },

    /// A version was there, and vacuum or the cleanup of the log has removed what it needs.
    #[error("version {version} of table `{table}` was removed by upkeep: versions {oldest} to {newest} can be read")]
    VersionRemoved {
        /// The table.
        table: &'static str,
        /// The version asked for.
        version: u64,
        /// The oldest version from which on all can be read.
        oldest: u64,
        /// The newest version.
        newest: u64,
    },

    /// An archive file cannot be read as what it should be.
    #[error("`{}` {reason}", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, as the end of a sentence.
        reason: String,
    },

    /// A query cannot be answered as it stands.
    #[error("{0}")]
    Query(String),

    /// The index of commit times could not be read or written.
    #[error("cannot {action} in the index of commit times `{}`", path.display())]
    CommitTimes {
        /// What was tried, such as `note commits`.
        action: &'static str,
        /// The database file.
        path: PathBuf,
        /// What `SQLite` said.
        #[source]
        source: Box<sqlx::Error>,
    },

    /// The tables were made from another topic.
    #[error(
        "the tables follow another event log than this one: name that one in `[log]`, bring them over with `sentinel topic \
         mirror` and `sentinel topic cutover`, or use another --data-dir"
    )]
    OtherTopic,

    /// The registry's database could not be read or written.
    #[error("cannot {action} in the model registry `{}`", path.display())]
    Registry {
        /// What was tried, such as `register a model`.
        action: &'static str,
        /// The database file.
        path: PathBuf,
        /// What `SQLite` said.
        #[source]
        source: Box<sqlx::Error>,
    },

    /// The registry's database has another schema than this program.
    #[error("the model registry `{}` was made by another version of this program: start the newer one", path.display())]
    RegistrySchema {
        /// The database file.
        path: PathBuf,
        /// Which migration does not fit.
        #[source]
        source: Box<sqlx::migrate::MigrateError>,
    },

    /// A stored registry value does not read as what was written.
    #[error("the model registry holds an unreadable {what}: restore `{}` from a backup", path.display())]
    RegistryValue {
        /// The value, such as `metrics of model version 3`.
        what: String,
        /// The database file.
        path: PathBuf,
    },

    /// A value cannot be stored as it is.
    #[error("{what} cannot be stored in the model registry: {reason}")]
    InvalidValue {
        /// The value.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },

    /// There is no model with this version.
    #[error("there is no model version {version}: `sentinel model list` shows the versions there are")]
    NoModel {
        /// The version asked for.
        version: i64,
    },

    /// There is no API key with this id.
    #[error("there is no API key {id}: `sentinel key list` shows the keys there are")]
    NoKey {
        /// The id asked for.
        id: i64,
    },

    /// A model that is not one is judged as a candidate.
    #[error("model version {version} does not wait to be judged: `sentinel model history` says what became of it")]
    NotACandidate {
        /// The version.
        version: i64,
    },

    /// A model file is not what was written.
    #[error(
        "model file `{}` is damaged: {reason}; restore it from a backup or retrain it with `sentinel train`",
        path.display()
    )]
    DamagedArtifact {
        /// The model file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// A background task of the runtime ended without a result, because it panicked or the runtime shut down.
    #[error("a background task ended before its work was done: start the program again")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorKind::NotFound,
            Self::File { .. } => ErrorKind::Unavailable,
            Self::Delta { source, .. } => delta_kind(source),
            Self::Registry { source, .. } | Self::CommitTimes { source, .. } => registry_kind(source),
            Self::NoModel { .. }
            | Self::NoKey { .. }
            | Self::NoTable { .. }
            | Self::NoVersion { .. }
            | Self::BeforeFirst { .. } => ErrorKind::NotFound,
            Self::TimeRemoved { .. } | Self::VersionRemoved { .. } => ErrorKind::Gone,
            Self::ProgressGap { .. } | Self::RewriteRunning { .. } | Self::OtherTopic | Self::NotACandidate { .. } => {
                ErrorKind::Conflict
            }
            Self::UnexpectedColumn { .. } => ErrorKind::Corrupt,
            Self::Query(_) | Self::Archive { .. } | Self::FutureProtocol { .. } | Self::InvalidValue { .. } => {
                ErrorKind::Invalid
            }
            Self::DamagedCommit { .. } | Self::RegistryValue { .. } | Self::DamagedArtifact { .. } => {
                ErrorKind::Corrupt
            }
            Self::RegistrySchema { .. } | Self::Task(_) => ErrorKind::Internal,
        }
    }

    /// For `map_err` on a Delta operation: `action` completes "cannot ...".
    pub(crate) fn delta(action: impl Into<String>) -> impl FnOnce(DeltaTableError) -> Self {
        let action = action.into();
        move |source| Self::Delta { action, source: Box::new(source) }
    }

    /// For `map_err` on a file operation: `action` completes "cannot ... `path`".
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

fn table_names() -> String {
    let names: Vec<&str> = TableName::ALL.into_iter().rev().map(TableName::as_str).collect();
    names.join(", ")
}

fn delta_kind(error: &DeltaTableError) -> ErrorKind {
    match error {
        DeltaTableError::NotATable(_) | DeltaTableError::InvalidVersion(_) => ErrorKind::NotFound,
        DeltaTableError::Transaction { .. } | DeltaTableError::VersionAlreadyExists(_) => ErrorKind::Conflict,
        DeltaTableError::ObjectStore { .. } | DeltaTableError::Io { .. } => ErrorKind::Unavailable,
        // A writer wraps what the disk said in errors of its own.
        other if caused_by_storage(other) => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

fn caused_by_storage(error: &DeltaTableError) -> bool {
    let first: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    std::iter::successors(first, |cause| cause.source())
        .any(|cause| cause.is::<io::Error>() || cause.is::<object_store::Error>())
}

/// A lock that is held too long or a full disk may pass; a damaged file will not.
///
/// Source: "Result and Error Codes", sqlite.org/rescode.html: the low byte of a code is its class.
fn registry_kind(error: &sqlx::Error) -> ErrorKind {
    const BUSY: u32 = 5;
    const LOCKED: u32 = 6;
    const READ_ONLY: u32 = 8;
    const DISK: u32 = 10;
    const CORRUPT: u32 = 11;
    const FULL: u32 = 13;
    const CANNOT_OPEN: u32 = 14;
    const CONSTRAINT: u32 = 19;
    const NOT_A_DATABASE: u32 = 26;
    let Some(cause) = error.as_database_error() else {
        return match error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        };
    };
    match cause.code().and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff) {
        Some(CORRUPT | NOT_A_DATABASE) => ErrorKind::Corrupt,
        Some(CONSTRAINT) => ErrorKind::Invalid,
        Some(BUSY | LOCKED | READ_ONLY | DISK | FULL | CANNOT_OPEN) => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use deltalake::parquet::errors::ParquetError;

    #[test]
    fn a_full_disk_below_a_writer_may_pass() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let store = object_store::Error::Generic { store: "test", source: full.into() };
        let wrapped = DeltaTableError::from(ParquetError::External(store.into()));
        assert_eq!(Error::delta("write")(wrapped).kind(), ErrorKind::Unavailable);
        let defect = DeltaTableError::Generic("a defect".to_owned());
        assert_eq!(Error::delta("write")(defect).kind(), ErrorKind::Internal);
    }
}
