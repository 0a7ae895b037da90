//! What people ask about the lake's tables: which there are, what was done to them, and their newest rows.
//!
//! Reads only, and every answer names the version that it was read from. Names are looked up and symbols and times are
//! parsed before they are part of a query: no text of who asks ever is.

use std::sync::Arc;

use domain::{Symbol, Timestamp};
use lake::{
    Lake, TableName,
    export::Export,
    formats::{self, Encoder},
    maintain::{CommitSummary, TableState},
};
use tokio::sync::Semaphore;

use crate::error::Error;

/// What the lake calls it; the service knows them by this module.
pub use lake::{export::State, formats::Format};

/// Rows are read for so many at a time, others wait: each read may take memory of its own to sort in.
const READS: usize = 4;

/// The tables, to be asked.
#[derive(Clone, Debug)]
pub struct Tables {
    lake: Arc<Lake>,
    places: Arc<Semaphore>,
}

/// A table's newest version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSummary {
    /// The table.
    pub name: &'static str,
    /// What it holds, in one line.
    pub about: &'static str,
    /// Version, rows, files and bytes.
    pub state: TableState,
}

/// Everything about a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDetail {
    /// Its newest version.
    pub summary: TableSummary,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// The version from which on all can be read.
    pub oldest: u64,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its Arrow type.
    pub data_type: String,
    /// Whether a row may have no value.
    pub is_nullable: bool,
}

/// The newest commits of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The table.
    pub table: &'static str,
    /// Its newest version.
    pub version: u64,
    /// The commits, newest first.
    pub commits: Vec<Commit>,
}

/// A commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The version that it made.
    pub version: u64,
    /// When.
    pub time: Timestamp,
    /// What was done.
    pub operation: String,
}

/// Which rows are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedRows {
    /// The table's name.
    pub table: String,
    /// The state of the table.
    pub state: State,
    /// Of one symbol only.
    pub symbol: Option<Symbol>,
    /// The first instant.
    pub from: Option<Timestamp>,
    /// The instant before which rows lie.
    pub to: Option<Timestamp>,
    /// The columns in the order wanted; all, where empty.
    pub columns: Vec<String>,
    /// How many rows, at most.
    pub limit: u16,
    /// How they are written.
    pub format: Format,
}

/// Rows of a table, the newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRows {
    /// The table.
    pub table: &'static str,
    /// The version that was read.
    pub version: u64,
    /// Their columns.
    pub columns: Vec<String>,
    /// The rows, in the format asked for.
    pub bytes: Vec<u8>,
}

impl Tables {
    /// The tables of this lake.
    #[must_use]
    pub fn new(lake: Arc<Lake>) -> Self {
        Self { lake, places: Arc::new(Semaphore::new(READS)) }
    }

    /// Every table, `events` first.
    ///
    /// # Errors
    /// Where a table cannot be read.
    pub async fn list(&self) -> Result<Vec<TableSummary>, Error> {
        let mut summaries = Vec::new();
        for name in TableName::ALL.into_iter().rev() {
            summaries.push(self.summary(name).await?);
        }
        Ok(summaries)
    }

    /// One table, with its columns and the versions that can be read.
    ///
    /// # Errors
    /// Where there is none with this name, or it cannot be read.
    pub async fn table(&self, name: &str) -> Result<TableDetail, Error> {
        let name = named(name)?;
        let oldest = self.lake.versions().oldest(name).await?;
        let schema = name.schema();
        let columns = schema.fields().iter().map(|field| Column {
            name: field.name().clone(),
            data_type: field.data_type().to_string(),
            is_nullable: field.is_nullable(),
        });
        Ok(TableDetail { summary: self.summary(name).await?, columns: columns.collect(), oldest })
    }

    /// The newest commits of a table, at most `limit`.
    ///
    /// # Errors
    /// As [`Tables::table`].
    pub async fn history(&self, name: &str, limit: usize) -> Result<History, Error> {
        let name = named(name)?;
        let commits = self.lake.history(name, limit).await?;
        let version = match commits.first() {
            Some(newest) => newest.version,
            None => self.lake.state(name).await?.version,
        };
        let commit = |commit: CommitSummary| Commit {
            version: commit.version,
            time: Timestamp::from_millis(commit.timestamp_ms),
            operation: commit.operation,
        };
        Ok(History { table: name.as_str(), version, commits: commits.into_iter().map(commit).collect() })
    }

    /// The newest of the rows that are asked for, newest first.
    ///
    /// # Errors
    /// Where there is no such table, column or version, or not any more; where the table has no symbols or nothing lies
    /// between the times; where a file cannot be read.
    pub async fn rows(&self, wanted: &WantedRows) -> Result<FoundRows, Error> {
        let table = named(&wanted.table)?;
        if let (Some(from), Some(to)) = (wanted.from, wanted.to)
            && from >= to
        {
            return Err(Error::Invalid(format!("nothing lies between {from} and {to}: `from` must be before `to`")));
        }
        let export = Export {
            table,
            state: wanted.state,
            from: wanted.from,
            to: wanted.to,
            symbols: wanted.symbol.into_iter().collect(),
            columns: wanted.columns.clone(),
        };
        // Given back with the answer, or when nobody waits for it any more.
        let _place = self.places.acquire().await;
        let mut rows = self.lake.versions().newest_rows(&export, u32::from(wanted.limit)).await?;
        let version = rows.versions().first().map_or(0, |(_, version)| *version);
        let schema = rows.schema();
        let columns = formats::columns(&schema).into_iter().map(|(name, _)| name).collect();
        let mut batches = Vec::new();
        while let Some(batch) = rows.next().await {
            batches.push(batch?);
        }
        let format = wanted.format;
        let encode = move || -> Result<Vec<u8>, lake::Error> {
            let mut encoder = Encoder::new(format, &schema)?;
            let mut bytes = Vec::new();
            for batch in &batches {
                bytes.extend(encoder.write(batch)?);
            }
            bytes.extend(encoder.finish()?);
            Ok(bytes)
        };
        let bytes = tokio::task::spawn_blocking(encode).await??;
        Ok(FoundRows { table: table.as_str(), version, columns, bytes })
    }

    async fn summary(&self, name: TableName) -> Result<TableSummary, Error> {
        let state = self.lake.state(name).await?;
        Ok(TableSummary { name: name.as_str(), about: name.comment(), state })
    }
}

fn named(name: &str) -> Result<TableName, Error> {
    TableName::from_name(name).ok_or_else(|| lake::Error::NoTable { name: name.to_owned() }.into())
}
