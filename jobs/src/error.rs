//! Why a job ended without its result: an error of the crate below, or what the job itself found.

use std::io;

use domain::{ErrorKind, Offset, Partition};

/// Why a job could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The event log or a source.
    #[error(transparent)]
    Streams(#[from] streams::Error),

    /// The lake, the registry or an artifact.
    #[error(transparent)]
    Lake(#[from] lake::Error),

    /// The store of runs.
    #[error(transparent)]
    Scheduler(#[from] scheduler::Error),

    /// A detector.
    #[error(transparent)]
    Models(#[from] models::Error),

    /// The log ends before the committed progress: it is not the log that the tables were made from.
    #[error(
        "partition {partition} of the log ends at offset {end}, but the tables hold rows up to {next}: this is not the \
         log that the tables were made from; restore the log, or start with another --data-dir"
    )]
    LogBehindLake {
        /// The partition.
        partition: Partition,
        /// The end of the log.
        end: Offset,
        /// The committed progress.
        next: Offset,
    },

    /// Records that a restored table would be filled from are gone.
    #[error(
        "partition {partition} of the log begins at offset {first}, but filling `{table}` again would need the records \
         from {needed} on: restore a newer version"
    )]
    RecordsRemoved {
        /// The table.
        table: &'static str,
        /// The partition.
        partition: Partition,
        /// The first offset left.
        first: Offset,
        /// The first offset needed.
        needed: Offset,
    },

    /// A copy of a log is not the log.
    #[error(
        "the copy differs from the log at {partition}:{offset}: run `sentinel topic mirror` again while nobody writes \
         the log; where that does not help, mirror to a new topic"
    )]
    NotMirrored {
        /// The partition.
        partition: Partition,
        /// The first offset that differs.
        offset: Offset,
    },

    /// The last record taken in has another fate now than its table says.
    #[error(
        "the record at {partition}:{offset} folds to `{now}`, but the tables hold it as `{stored}`: this is not the log \
         that the tables were made from; restore the log, or start with another --data-dir"
    )]
    FateChanged {
        /// The partition.
        partition: Partition,
        /// The offset.
        offset: Offset,
        /// What the fold says.
        now: String,
        /// What the tables say.
        stored: String,
    },

    /// Another model is champion than the caller expected.
    #[error("{}: look at it, and promote again", match champion { Some(version) => format!("model version {version} is champion now"), None => "there is no champion".to_owned() })]
    Overtaken {
        /// The champion.
        champion: Option<i64>,
    },

    /// There is nothing to work on.
    #[error("{what}: {remedy}")]
    Nothing {
        /// What is missing.
        what: String,
        /// What to do about it.
        remedy: &'static str,
    },

    /// As many answers are being read as may be at a time.
    #[error("{places} other answers are being read: ask again in a few seconds")]
    Busy {
        /// Answers at a time.
        places: usize,
    },

    /// An answer takes longer than it may.
    #[error("reading the answer takes more than {seconds} s: ask for fewer rows, a shorter time or something simpler")]
    TooSlow {
        /// What it may take.
        seconds: u64,
    },

    /// The system gives no threads to read with.
    #[error("no threads can be started to read with: {source}")]
    Threads {
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// A request that cannot be met as it is.
    #[error("{0}")]
    Invalid(String),

    /// A secret cannot be made.
    #[error("the system gives no random bytes: a key cannot be made here")]
    NoRandomness(#[source] getrandom::Error),

    /// A background task of the runtime ended without a result, because it panicked or the runtime shut down.
    #[error("a background task ended before its work was done: start the program again")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Streams(error) => error.kind(),
            Self::Lake(error) => error.kind(),
            Self::Scheduler(error) => error.kind(),
            Self::Models(error) => error.kind(),
            Self::LogBehindLake { .. } | Self::FateChanged { .. } => ErrorKind::Corrupt,
            Self::Nothing { .. } => ErrorKind::NotFound,
            Self::RecordsRemoved { .. } => ErrorKind::Gone,
            Self::NotMirrored { .. } | Self::Overtaken { .. } => ErrorKind::Conflict,
            Self::Busy { .. } | Self::Threads { .. } => ErrorKind::Unavailable,
            Self::TooSlow { .. } | Self::Invalid(_) => ErrorKind::Invalid,
            Self::NoRandomness(_) | Self::Task(_) => ErrorKind::Internal,
        }
    }
}
