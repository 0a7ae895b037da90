//! What people ask about the lake's tables: which there are, what was done to them, their rows, and statements of SQL.
//!
//! Reads only, and every answer names the version that it was read from. Names are looked up and symbols and times are
//! parsed before they are part of a query: no text of who asks ever is, except as a statement of a guest.

mod cursor;

use std::sync::Arc;

use domain::{Symbol, Timestamp};
use futures::{FutureExt, future::BoxFuture};
use lake::{
    Lake, TableName,
    export::Export,
    maintain::{CommitSummary, TableState},
    pages::Page,
    schema::SchemaRef,
};
use sha2::{Digest, Sha256};

use crate::{
    error::Error,
    rows::{Answer, Limits, Place, Readers, Source},
};

use cursor::Cursor;

/// What the lake calls it; the service knows them by this module.
pub use lake::{export::State, formats::Format, pages::Filter};

/// The table of what models said.
pub const PREDICTIONS: &str = TableName::Predictions.as_str();

/// The tables, to be asked.
#[derive(Clone, Debug)]
pub struct Tables {
    lake: Arc<Lake>,
    readers: Arc<Readers>,
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
    /// What else rows must meet.
    pub filters: Vec<Filter>,
    /// Where the page before ended, as it said.
    pub cursor: Option<String>,
    /// How many rows, at most; those that share the place of the last one come with it.
    pub limit: u64,
}

/// Rows of one version of a table, before any of them is read.
pub struct Opened {
    /// The table.
    pub table: &'static str,
    /// The version that is read; of changes the last.
    pub version: u64,
    /// What makes the rows what they are, as text.
    identity: String,
    source: BoxFuture<'static, Result<Source, Error>>,
    place: Place,
    readers: Arc<Readers>,
}

impl Opened {
    /// A name of the answer in a format: another for other rows, another order or another form of them.
    #[must_use]
    pub fn tag(&self, format: Format) -> String {
        let program = env!("CARGO_PKG_VERSION");
        digest(&format!("{} {program} {format:?} {} {}", self.table, self.version, self.identity))
    }

    /// The rows.
    ///
    /// # Errors
    /// Where they cannot be read, or not in time.
    pub async fn answer(self, format: Format) -> Result<Answer, Error> {
        // The source ends by itself: rows beyond a limit may share the place of the last one.
        self.readers.answer(self.place, self.source, format, u64::MAX).await
    }
}

impl Tables {
    /// The tables of this lake.
    #[must_use]
    pub fn new(lake: Arc<Lake>) -> Self {
        Self::with_limits(lake, Limits::default())
    }

    /// The tables of this lake, whose rows are read within these limits.
    #[must_use]
    pub fn with_limits(lake: Arc<Lake>, limits: Limits) -> Self {
        Self { lake, readers: Arc::new(Readers::new(limits)) }
    }

    /// Asks the lake something small, to see that it answers.
    ///
    /// # Errors
    /// Where `events` cannot be read.
    pub async fn ask(&self) -> Result<(), Error> {
        self.lake.state(TableName::Events).await?;
        Ok(())
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
        Ok(TableDetail { summary: self.summary(name).await?, columns: columns(&name.schema()), oldest })
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

    /// A page of the rows that are asked for, newest first.
    ///
    /// # Errors
    /// Where there is no such table, column or version, or not any more; where the table has no symbols or nothing lies
    /// between the times; where the cursor is none of this query; where a file cannot be read.
    pub async fn rows(&self, wanted: &WantedRows) -> Result<Opened, Error> {
        let table = named(&wanted.table)?;
        if let (Some(from), Some(to)) = (wanted.from, wanted.to)
            && from >= to
        {
            return Err(Error::Invalid(format!("nothing lies between {from} and {to}: `from` must be before `to`")));
        }
        let (query, limit) = (wanted.digest(), wanted.limit);
        let after = wanted.cursor.as_deref().map(|text| of_query(text, &query)).transpose()?;
        let (export, filters) = (wanted.export(table), wanted.filters.clone());
        let (lake, version) = (Arc::clone(&self.lake), after.as_ref().map(|cursor| cursor.version));
        let open = async move { Ok::<_, Error>(lake.versions().pages(export, &filters, version).await?) };
        let (pages, place) = self.readers.run(self.readers.place().await?, open).await?;
        let (version, table_id) = (pages.version(), pages.table_id()?);
        let identity = format!("{table_id} {query} {limit} {}", wanted.cursor.as_deref().unwrap_or_default());
        let source = async move {
            let Page { rows, next } = pages.page(after.map(|cursor| cursor.place).as_ref(), limit).await?;
            let next = next.map(|place| Cursor { version, query, place }.to_string());
            Ok::<_, Error>(Source { rows, next })
        };
        let (readers, source) = (Arc::clone(&self.readers), source.boxed());
        Ok(Opened { table: table.as_str(), version, identity, source, place, readers })
    }

    /// The rows that the versions after `from` up to `to`, or up to the newest, added and removed.
    ///
    /// # Errors
    /// Where there is no such table or version, or not any more; where the versions lie the other way round.
    pub async fn changes(&self, name: &str, from: u64, to: Option<u64>) -> Result<Opened, Error> {
        let table = named(name)?;
        let lake = Arc::clone(&self.lake);
        let open = async move { Ok::<_, Error>(lake.versions().newest(table).await?) };
        let ((table_id, newest), place) = self.readers.run(self.readers.place().await?, open).await?;
        let version = to.unwrap_or(newest);
        if version > newest {
            return Err(lake::Error::NoVersion { table: table.as_str(), version, newest }.into());
        }
        if from > version {
            let sentence = format!("changes lead from a version to a later one, not from {from} to {version}");
            return Err(Error::Invalid(sentence));
        }
        let lake = Arc::clone(&self.lake);
        let source = async move {
            let rows = lake.versions().changes(table, from, version).await?;
            Ok::<_, Error>(Source { rows, next: None })
        };
        let (readers, source) = (Arc::clone(&self.readers), source.boxed());
        let identity = format!("{table_id} changes after {from}");
        Ok(Opened { table: table.as_str(), version, identity, source, place, readers })
    }

    /// The answer to one statement that only reads, of somebody who may be careless or hostile.
    ///
    /// # Errors
    /// Where the statement is wrong, does not only read or takes more than it may; as time travel says where it asks for
    /// a version that is not there.
    pub async fn sql(&self, statement: String, format: Format, limit: u64) -> Result<Answer, Error> {
        let lake = Arc::clone(&self.lake);
        let source = async move {
            let rows = lake.versions().query_of_guest(&statement).await?;
            Ok::<_, Error>(Source { rows, next: None })
        };
        self.readers.answer(self.readers.place().await?, source, format, limit).await
    }

    async fn summary(&self, name: TableName) -> Result<TableSummary, Error> {
        let state = self.lake.state(name).await?;
        Ok(TableSummary { name: name.as_str(), about: name.comment(), state })
    }
}

impl WantedRows {
    fn export(&self, table: TableName) -> Export {
        Export {
            table,
            state: self.state,
            from: self.from,
            to: self.to,
            symbols: self.symbol.into_iter().collect(),
            columns: self.columns.clone(),
        }
    }

    /// What tells this query from others, whichever page of it is asked for.
    fn digest(&self) -> String {
        let Self { table, state, symbol, from, to, columns, filters, cursor: _, limit: _ } = self;
        digest(&format!("{table} {state:?} {symbol:?} {from:?} {to:?} {columns:?} {filters:?}"))
    }
}

/// The columns of rows.
pub(crate) fn columns(schema: &SchemaRef) -> Vec<Column> {
    let columns = schema.fields().iter().map(|field| Column {
        name: field.name().clone(),
        data_type: field.data_type().to_string(),
        is_nullable: field.is_nullable(),
    });
    columns.collect()
}

/// The cursor of a query that a text stands for.
fn of_query(text: &str, query: &str) -> Result<Cursor, Error> {
    let cursor = Cursor::parse(text).ok_or("is none of this service: give it as an answer named it");
    let cursor = cursor.and_then(|cursor| {
        if cursor.query == query { Ok(cursor) } else { Err("is of another query: give all else as it was") }
    });
    cursor.map_err(|reason| Error::Invalid(format!("the cursor {reason}, or begin without one")))
}

/// 128 bits of a SHA-256: enough that two texts never have the same.
fn digest(text: &str) -> String {
    let mut digest = format!("{:x}", Sha256::digest(text));
    digest.truncate(32);
    digest
}

fn named(name: &str) -> Result<TableName, Error> {
    TableName::from_name(name).ok_or_else(|| lake::Error::NoTable { name: name.to_owned() }.into())
}
