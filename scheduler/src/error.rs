//! Why the scheduler could not do what was asked.

use std::path::PathBuf;

use domain::ErrorKind;

use crate::run::Refused;

/// Why it could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database could not be read or written.
    #[error("cannot {action} in the store of runs `{}`", path.display())]
    Database {
        /// What was tried, such as `claim a run`.
        action: &'static str,
        /// The database file.
        path: PathBuf,
        /// What `SQLite` said.
        #[source]
        source: Box<sqlx::Error>,
    },

    /// The database has another schema than this program.
    #[error("the store of runs `{}` was made by another version of this program: start the newer one", path.display())]
    Schema {
        /// The database file.
        path: PathBuf,
        /// Which migration does not fit.
        #[source]
        source: Box<sqlx::migrate::MigrateError>,
    },

    /// A stored value does not read as what was written.
    #[error("the store of runs `{}` holds an unreadable {what}: restore it from a backup", path.display())]
    Unreadable {
        /// The value.
        what: String,
        /// The database file.
        path: PathBuf,
    },

    /// A text does not say when something is due.
    #[error("`{text}` does not say when: {reason}")]
    CronText {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },

    /// What was written is no schedule.
    #[error("schedule `{name}`: {reason}")]
    Schedule {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },

    /// There is no such time zone.
    #[error("there is no time zone `{name}`: write a name of the tz database, such as UTC or Europe/Paris")]
    TimeZone {
        /// The name.
        name: String,
    },

    /// There is no such schedule.
    #[error("there is no schedule `{name}`")]
    NoSchedule {
        /// The name asked for.
        name: String,
    },

    /// There is no such run.
    #[error("there is no run {run}")]
    NoRun {
        /// The run asked for.
        run: i64,
    },

    /// A run cannot do this in its state.
    #[error("run {run} {refused}")]
    Refused {
        /// The run.
        run: i64,
        /// Why.
        refused: Refused,
    },
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Database { source, .. } => match source.as_ref() {
                sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => ErrorKind::Unavailable,
                error if error.as_database_error().is_some() => ErrorKind::Unavailable,
                _ => ErrorKind::Internal,
            },
            Self::Schema { .. } => ErrorKind::Internal,
            Self::Unreadable { .. } => ErrorKind::Corrupt,
            Self::CronText { .. } | Self::TimeZone { .. } | Self::Schedule { .. } => ErrorKind::Invalid,
            Self::NoRun { .. } | Self::NoSchedule { .. } => ErrorKind::NotFound,
            Self::Refused { .. } => ErrorKind::Conflict,
        }
    }
}
