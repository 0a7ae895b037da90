//! A page of rows of a table: what the parameters of its operations mean, and the answer.
//!
//! Each operation declares the parameters itself, as the document takes their meaning from there; all else is here, once.

use jobs::tables::{Filter, Tables, WantedRows};
use poem_openapi::{
    Object,
    param::{Header, Query},
    types::{Any, Type},
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Asked, Frame, RowFormat, Rows, RowsObject, Told, VERSION, answer, check_limit};
use crate::{
    parameters::{self, TimeText, instant, state},
    problem::Problem,
};

/// The cursor of the next page.
const NEXT_CURSOR: &str = "X-Next-Cursor";

/// Where the next page is (RFC 8288).
const LINK: &str = "Link";

/// Rows of a table.
#[derive(Object)]
pub struct TableRows {
    /// The table.
    pub table: String,
    /// The version that was read.
    pub version: u64,
    /// The columns of the rows.
    pub columns: Vec<String>,
    /// The rows, newest first: objects with these columns.
    pub rows: Vec<Any<Box<RawValue>>>,
    /// The `cursor` of the next page; null where there are no more rows.
    #[oai(nullable)]
    pub next: Option<String>,
}

impl RowsObject for TableRows {
    const HEADERS: &'static [Told] = &[
        (VERSION, u64::schema_ref, "The version that was read."),
        (LINK, String::schema_ref, "The next page, as `rel=\"next\"`, where there are more rows."),
        (NEXT_CURSOR, String::schema_ref, "The `cursor` of the next page, where there are more rows."),
    ];
    const HAS_TAG: bool = true;
}

/// The rows of a page, unless a request says how many.
pub fn default_rows() -> u32 {
    100
}

/// The columns of a page, unless a request names some.
pub fn every_column() -> Vec<String> {
    Vec::new()
}

/// The parameters of a page, as a request has them.
pub struct PageQuery {
    /// Of one market only.
    pub symbol: Query<Option<String>>,
    /// At this time or later.
    pub from: Query<Option<TimeText>>,
    /// Before this time.
    pub to: Query<Option<TimeText>>,
    /// Which columns; all, where it names none.
    pub columns: Query<Vec<String>>,
    /// How many rows, at most.
    pub limit: Query<u32>,
    /// Where the page before ended.
    pub cursor: Query<Option<String>>,
    /// The table at this version.
    pub version: Query<Option<u64>>,
    /// The table as it was stored at this time.
    pub as_of: Query<Option<TimeText>>,
    /// Rows whose records were in the log by this time.
    pub known_at: Query<Option<TimeText>>,
    /// The format of the answer.
    pub format: Query<Option<RowFormat>>,
    /// The answers that the client has.
    pub if_none_match: Header<Option<String>>,
    /// What else the request says.
    pub asked: Asked,
}

impl PageQuery {
    /// The page of a table, of the rows that also meet these filters; or that the client has it.
    ///
    /// # Errors
    /// A problem where a parameter is wrong or the rows cannot be read.
    pub async fn page(self, tables: &Tables, table: String, filters: Vec<Filter>) -> Result<Rows<TableRows>, Problem> {
        #[derive(Serialize)]
        struct Head {
            table: &'static str,
            version: u64,
            columns: Vec<String>,
        }
        let (asked, limit) = (self.asked, self.limit.0);
        let format = asked.format(self.format.0)?;
        check_limit(format, limit)?;
        let wanted = WantedRows {
            table,
            state: state(self.version.0, instant("as_of", &self.as_of)?, instant("known_at", &self.known_at)?)?,
            symbol: parameters::symbol(self.symbol.0.as_deref())?,
            from: instant("from", &self.from)?,
            to: instant("to", &self.to)?,
            columns: self.columns.0,
            filters,
            cursor: self.cursor.0,
            limit: limit.into(),
        };
        let opened = tables.rows(&wanted).await.map_err(Problem::of_job)?;
        let (table, version) = (opened.table, opened.version);
        let (rows, next) = answer(opened, format, self.if_none_match.0.as_deref(), move |columns, next| {
            Frame::of(&Head { table, version, columns }, ("next", &next))
        })
        .await?;
        let Some(cursor) = next else { return Ok(rows) };
        Ok(rows.with(LINK, asked.link_to(&cursor)).with(NEXT_CURSOR, &cursor))
    }
}
