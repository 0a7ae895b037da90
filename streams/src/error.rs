//! What can go wrong between a source and the log. Every message says what to do next.

use std::{io, path::PathBuf};

use domain::{ErrorKind, Kind, Partition, Symbol};

/// A failure of the event log or of a source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log's file cannot be opened or created.
    #[error("cannot open the event log {path}: check that the folder exists and may be written", path = path.display())]
    Open {
        /// The log's file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file is something else than an event log.
    #[error("{path} is not an event log: move the file away or use another `--data-dir`", path = path.display())]
    NotALog {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer version of the program.
    #[error("the event log {path} was written by a newer version of sentinel: use that version", path = path.display())]
    NewerSchema {
        /// The log's file.
        path: PathBuf,
    },
    /// The file holds another topic than the one asked for.
    #[error("{path} holds the topic `{found}`, not `{asked}`: use another `--data-dir`", path = path.display())]
    OtherTopic {
        /// The log's file.
        path: PathBuf,
        /// The topic in the file.
        found: String,
        /// The topic asked for.
        asked: String,
    },
    /// The topic was created with another number of partitions.
    #[error(
        "the topic `{topic}` was created with {found} partitions and {asked} are asked for: set `partitions` to \
         {found}, or use another `--data-dir`"
    )]
    OtherPartitionCount {
        /// The topic.
        topic: String,
        /// Partitions in the log.
        found: Partition,
        /// Partitions asked for.
        asked: Partition,
    },
    /// A topic, batch or read outside its limits.
    #[error("{0}")]
    Limit(String),
    /// A partition that the topic does not have.
    #[error("the topic has no partition {partition}: it has {partitions}, counted from 0")]
    NoSuchPartition {
        /// The partition asked for.
        partition: Partition,
        /// Partitions of the topic.
        partitions: Partition,
    },
    /// A simulated event for a real symbol, or the other way round. Nothing of the batch was appended.
    #[error(
        "{symbol} is {recorded} in this event log and {sent} events were sent: use another `--data-dir` for {sent} \
         events", recorded = recorded.as_str(), sent = sent.as_str()
    )]
    OtherKind {
        /// The symbol.
        symbol: Symbol,
        /// Its kind in the log.
        recorded: Kind,
        /// The kind of the batch.
        sent: Kind,
    },
    /// The source's position is not where the batch expected it. Nothing of the batch was appended.
    #[error(
        "the source {source_id} stands at {found} in the event log, not at {expected}: somebody else is reading it; \
         read its position again and go on from there", found = shown(found.as_ref()), expected = shown(expected.as_ref())
    )]
    PositionMoved {
        /// The source.
        source_id: String,
        /// The position in the log.
        found: Option<String>,
        /// The position expected.
        expected: Option<String>,
    },
    /// No space is left for the log. Nothing of the batch was appended.
    #[error("the disk that holds the event log {path} is full: free some space; nothing was lost", path = path.display())]
    DiskFull {
        /// The log's file.
        path: PathBuf,
    },
    /// Another process holds the log's file for longer than the busy timeout.
    #[error("the event log {path} is locked by another process: try again", path = path.display())]
    Busy {
        /// The log's file.
        path: PathBuf,
    },
    /// The cluster that holds the log cannot be reached or does not do what it is asked. Of an append it is not known how
    /// much was made; it is to be repeated.
    #[error("the Fluvio cluster {cluster} could not {doing}: check that it runs and can be reached from here")]
    Cluster {
        /// The cluster.
        cluster: String,
        /// What it was asked to do.
        doing: &'static str,
        /// What the client said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Records shall be copied to a topic that holds others.
    #[error("the topic `{topic}` holds records of its own: mirror to a new one, as with `log.topic`")]
    NotACopy {
        /// The topic.
        topic: String,
    },
    /// A topic is being filled by copying and is not ready for anything else.
    #[error(
        "the topic `{topic}` is not a whole copy yet: run `sentinel topic mirror` and then `sentinel topic cutover`"
    )]
    CopyUnfinished {
        /// The topic.
        topic: String,
    },
    /// The log's file is damaged beyond single batches.
    #[error("the event log {path} is damaged: restore the file, or rebuild it from the sources", path = path.display())]
    Damaged {
        /// The log's file.
        path: PathBuf,
        /// What the storage said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Any other failure of the storage.
    #[error("the event log could not {doing}")]
    Storage {
        /// What was being done.
        doing: &'static str,
        /// What the storage said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The log was closed.
    #[error("the event log is closed: open it again")]
    Closed,
    /// An input file cannot be read.
    #[error("cannot read {path}: check that the file exists and may be read", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A stored position that its source does not understand.
    #[error("the stored position `{position}` does not belong to this source: {reason}")]
    Position {
        /// The stored text.
        position: String,
        /// What does not fit.
        reason: String,
    },
    /// Settings of a source outside their limits.
    #[error("{0}")]
    Settings(String),
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotALog { .. }
            | Self::NewerSchema { .. }
            | Self::OtherTopic { .. }
            | Self::OtherPartitionCount { .. }
            | Self::Limit(_)
            | Self::OtherKind { .. }
            | Self::NotACopy { .. }
            | Self::CopyUnfinished { .. }
            | Self::Position { .. }
            | Self::Settings(_) => ErrorKind::Invalid,
            Self::NoSuchPartition { .. } => ErrorKind::NotFound,
            Self::PositionMoved { .. } => ErrorKind::Conflict,
            Self::DiskFull { .. } | Self::Busy { .. } | Self::Cluster { .. } | Self::Closed => ErrorKind::Unavailable,
            Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::Open { .. } | Self::Storage { .. } => ErrorKind::Internal,
            Self::File { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
                _ => ErrorKind::Invalid,
            },
        }
    }
}

fn shown(position: Option<&String>) -> &str {
    position.map_or("its beginning", String::as_str)
}
