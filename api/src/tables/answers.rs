//! The objects of tables, and rows in the format that was asked for. Instants are RFC 3339, UTC, and end in `Z`, as a
//! query takes them: a `+` in it means a space.

use bytes::Bytes;
use jobs::tables::{self, Column, Commit, Format, FoundRows, History, TableDetail};
use poem::{
    IntoResponse, Response,
    http::{HeaderValue, header},
};
use poem_openapi::{
    ApiResponse, Enum, Object,
    registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry},
    types::{Any, Type},
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::problem::Problem;

/// The header with the version that rows were read from.
const VERSION_HEADER: &str = "X-Delta-Version";

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
        }
    }
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
pub enum RowFormat {
    /// One object with the rows in it.
    Json,
    /// One object a line.
    Ndjson,
    /// Comma-separated values under a heading.
    Csv,
}

impl RowFormat {
    /// Every format, the one that is taken by default first.
    pub const ALL: [Self; 3] = [Self::Json, Self::Ndjson, Self::Csv];

    /// As in `Content-Type`.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv",
        }
    }
}

impl From<RowFormat> for Format {
    fn from(format: RowFormat) -> Self {
        match format {
            RowFormat::Json => Self::Json,
            RowFormat::Ndjson => Self::Ndjson,
            RowFormat::Csv => Self::Csv,
        }
    }
}

/// Rows of a table.
#[derive(Serialize, Object)]
pub struct TableRows {
    /// The table.
    pub table: String,
    /// The version that was read.
    pub version: u64,
    /// The columns of the rows.
    pub columns: Vec<String>,
    /// The rows, newest first: objects with these columns.
    pub rows: Vec<Any<Box<RawValue>>>,
}

/// Rows in their format: the answer.
pub struct Rows {
    version: u64,
    format: RowFormat,
    body: Bytes,
}

impl Rows {
    /// What was found, written in `format`.
    ///
    /// # Errors
    /// A problem with status 500 where the rows have no JSON form, which is a defect.
    pub fn of(found: FoundRows, format: RowFormat) -> Result<Self, Problem> {
        let FoundRows { table, version, columns, bytes } = found;
        let body = match format {
            RowFormat::Json => {
                let rows = serde_json::from_slice(&bytes).map_err(|error| Problem::internal(&error))?;
                let answer = TableRows { table: table.to_owned(), version, columns, rows };
                serde_json::to_vec(&answer).map_err(|error| Problem::internal(&error))?
            }
            RowFormat::Ndjson | RowFormat::Csv => bytes,
        };
        Ok(Self { version, format, body: body.into() })
    }
}

impl IntoResponse for Rows {
    fn into_response(self) -> Response {
        let mut response = Response::from(self.body);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.format.media_type()));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        headers.insert(VERSION_HEADER, HeaderValue::from(self.version));
        response
    }
}

impl ApiResponse for Rows {
    fn meta() -> MetaResponses {
        let content = RowFormat::ALL.map(|format| {
            let schema = match format {
                RowFormat::Json => TableRows::schema_ref(),
                RowFormat::Ndjson | RowFormat::Csv => String::schema_ref(),
            };
            MetaMediaType { content_type: format.media_type(), schema }
        });
        let version = MetaHeader {
            name: VERSION_HEADER.to_owned(),
            description: Some("The version that was read.".to_owned()),
            required: true,
            deprecated: false,
            schema: u64::schema_ref(),
        };
        let response = MetaResponse {
            description: "The rows.",
            status: Some(200),
            status_range: None,
            content: content.into(),
            headers: vec![version],
        };
        MetaResponses { responses: vec![response] }
    }

    fn register(registry: &mut Registry) {
        TableRows::register(registry);
    }
}
