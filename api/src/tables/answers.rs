//! The objects of tables. Instants are RFC 3339, UTC, and end in `Z`, as a query takes them: a `+` in it means a space.

use jobs::tables::{self, Column, Commit, History, TableDetail};
use poem_openapi::{
    Object,
    types::{Any, Type},
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::rows::{RowsObject, Told, VERSION};

/// A table's newest version.
#[derive(Serialize, Object)]
pub struct TableSummary {
    /// The table.
    pub name: String,
    /// What it holds.
    pub about: String,
    /// Its newest version; the numbers are of this one.
    pub version: u64,
    /// Rows.
    pub rows: u64,
    /// Data files.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

impl From<&tables::TableSummary> for TableSummary {
    fn from(summary: &tables::TableSummary) -> Self {
        let tables::TableSummary { name, about, state } = summary;
        Self {
            name: (*name).to_owned(),
            about: (*about).to_owned(),
            version: state.version,
            rows: state.rows,
            files: state.files,
            bytes: state.bytes,
        }
    }
}

/// A table with its columns.
#[derive(Serialize, Object)]
pub struct TablePage {
    /// The table.
    #[serde(flatten)]
    #[oai(flatten)]
    pub summary: TableSummary,
    /// The columns, in order.
    pub columns: Vec<TableColumn>,
    /// The version from which on all can be read.
    pub oldest_version: u64,
    /// The newest version.
    pub newest_version: u64,
    /// `true` where the markets are made up; otherwise left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simulated: Option<bool>,
}

/// A column.
#[derive(Serialize, Object)]
pub struct TableColumn {
    /// Its name.
    pub name: String,
    /// Its Arrow type.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    pub data_type: String,
    /// Whether a row may have no value.
    pub nullable: bool,
}

impl From<&TableDetail> for TablePage {
    fn from(detail: &TableDetail) -> Self {
        let column = |column: &Column| TableColumn {
            name: column.name.clone(),
            data_type: column.data_type.clone(),
            nullable: column.is_nullable,
        };
        Self {
            summary: TableSummary::from(&detail.summary),
            columns: detail.columns.iter().map(column).collect(),
            oldest_version: detail.oldest,
            newest_version: detail.summary.state.version,
            simulated: None,
        }
    }
}

/// The commits of a table.
#[derive(Serialize, Object)]
pub struct TableHistory {
    /// The table.
    pub table: String,
    /// Its newest version.
    pub version: u64,
    /// The newest commits, newest first.
    pub commits: Vec<TableCommit>,
    /// `true` where the markets are made up; otherwise left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simulated: Option<bool>,
}

/// A commit.
#[derive(Serialize, Object)]
pub struct TableCommit {
    /// The version that it made.
    pub version: u64,
    /// When.
    pub time: String,
    /// What was done.
    pub operation: String,
}

impl From<&History> for TableHistory {
    fn from(history: &History) -> Self {
        let commit = |commit: &Commit| TableCommit {
            version: commit.version,
            time: commit.time.to_string(),
            operation: commit.operation.clone(),
        };
        Self {
            table: history.table.to_owned(),
            version: history.version,
            commits: history.commits.iter().map(commit).collect(),
            simulated: None,
        }
    }
}

/// Rows that versions of a table added and removed.
#[derive(Object)]
pub struct TableChanges {
    /// The table.
    pub table: String,
    /// The version before the first change.
    pub from_version: u64,
    /// The version of the last change.
    pub to_version: u64,
    /// The columns of the rows.
    pub columns: Vec<String>,
    /// The rows: objects with these columns. `_change` is `insert` or `delete`, `_version` the version that did it.
    pub rows: Vec<Any<Box<RawValue>>>,
}

impl RowsObject for TableChanges {
    const HEADERS: &'static [Told] = &[(VERSION, u64::schema_ref, "The version of the last change.")];
    const HAS_TAG: bool = true;
}
