//! The operations on tables: which there are, what was done to them, their rows at any version and what changed.
//!
//! What they read, `jobs::tables` reads; here a query is parsed and the answer gets its format. Nothing is changed.

mod answers;

use jobs::tables;
use poem::Result;
use poem_openapi::{
    OpenApi,
    param::{Header, Path, Query},
};
use serde::Serialize;

use crate::{
    answers::Json,
    parameters::TimeText,
    problem::{Problem, Refusals, Refused},
    routes::Chapter,
    rows::{self, Asked, Frame, PageQuery, RowFormat, Rows, TableRows, default_rows, every_column},
};

use answers::{TableChanges, TableHistory, TablePage, TableSummary};

/// The operations.
pub struct Tables {
    /// What they read.
    pub tables: tables::Tables,
    /// The member that objects about made-up data have.
    pub simulated: Option<bool>,
}

/// Refusals of the list of tables.
struct OfTables;

impl Refusals for OfTables {
    const STATUSES: &'static [(u16, &'static str)] = &[(503, "A table cannot be read now.")];
}

/// Refusals of operations on one table.
struct OfTable;

impl Refusals for OfTable {
    const STATUSES: &'static [(u16, &'static str)] = &[
        (404, "There is no table with this name."),
        (422, "A parameter is outside its limits."),
        (503, "The table cannot be read now."),
    ];
}

/// Refusals of rows and of changes.
pub struct OfRows;

impl Refusals for OfRows {
    const STATUSES: &'static [(u16, &'static str)] = &[
        (404, "There is no table with this name, or it has not come to this version, or did not exist at this time."),
        (406, "The header `Accept` names only formats that there are not."),
        (410, "The version, or that of the cursor, was removed by upkeep."),
        (
            422,
            "A parameter is outside its limits, contradicts another, names a column that the table does not have or is the \
             cursor of another query; or reading takes more than 30 s, or more than is given at once.",
        ),
        (503, "The table cannot be read now, or too many answers are; then `Retry-After` says when to ask again."),
    ];
}

type Answer<T, R> = Result<Json<T>, Refused<R>>;

fn default_limit() -> u16 {
    100
}

#[OpenApi]
impl Tables {
    /// Every table, and how much is in it
    #[oai(path = "/tables", method = "get", operation_id = "tables", tag = "Chapter::Tables")]
    async fn tables(&self) -> Answer<Vec<TableSummary>, OfTables> {
        let tables = self.tables.list().await.map_err(Problem::of_job)?;
        Ok(Json::of(&tables.iter().map(TableSummary::from).collect::<Vec<_>>())?)
    }

    /// One table: its columns and the versions that can be read
    #[oai(path = "/tables/:table", method = "get", operation_id = "table", tag = "Chapter::Tables")]
    async fn table(
        &self,
        /// The name.
        table: Path<String>,
    ) -> Answer<TablePage, OfTable> {
        let detail = self.tables.table(&table.0).await.map_err(Problem::of_job)?;
        Ok(Json::of(&TablePage { simulated: self.simulated, ..TablePage::from(&detail) })?)
    }

    /// The newest commits of a table, newest first
    #[oai(path = "/tables/:table/history", method = "get", operation_id = "table_history", tag = "Chapter::Tables")]
    async fn history(
        &self,
        /// The name.
        table: Path<String>,
        /// How many, at most.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "1000")))]
        limit: Query<u16>,
    ) -> Answer<TableHistory, OfTable> {
        let history = self.tables.history(&table.0, usize::from(limit.0)).await.map_err(Problem::of_job)?;
        Ok(Json::of(&TableHistory { simulated: self.simulated, ..TableHistory::from(&history) })?)
    }

    /// Rows of a table, newest first
    ///
    /// Ordered by the time of the row, which is event time where the table has one, and then by the place of the record
    /// in the log. Of `version`, `as_of` and `known_at` only one may be given; without them the newest version is read.
    ///
    /// The answer is JSON, NDJSON, CSV, an Arrow stream or Parquet, by `format` or else by the header `Accept`; it is sent
    /// while it is read. Where there are more rows, `next` in JSON and the headers `Link` and `X-Next-Cursor` lead to the
    /// next page: the same request with that `cursor`, which reads the same version whatever is committed meanwhile.
    /// `limit` and `format` may change from page to page.
    #[oai(path = "/tables/:table/rows", method = "get", operation_id = "table_rows", tag = "Chapter::Tables")]
    #[expect(clippy::too_many_arguments, reason = "a parameter is documented where it is declared")]
    async fn rows(
        &self,
        /// The name.
        table: Path<String>,
        /// Of one market only.
        #[oai(validator(pattern = "^[A-Z0-9]+-[A-Z0-9]+$", max_length = 31))]
        symbol: Query<Option<String>>,
        /// At this time or later.
        from: Query<Option<TimeText>>,
        /// Before this time.
        to: Query<Option<TimeText>>,
        /// Which columns, separated by commas; all, where it is left out.
        #[oai(default = "every_column", explode = false)]
        columns: Query<Vec<String>>,
        /// How many, at most; in JSON not more than 10 000.
        #[oai(default = "default_rows", validator(minimum(value = "1"), maximum(value = "1000000")))]
        limit: Query<u32>,
        /// Where the page before ended, as its answer said.
        #[oai(validator(max_length = 512))]
        cursor: Query<Option<String>>,
        /// The table at this version.
        #[oai(validator(minimum(value = "0"), maximum(value = "9007199254740991")))]
        version: Query<Option<u64>>,
        /// The table as it was stored at this time.
        as_of: Query<Option<TimeText>>,
        /// Rows whose records were in the log by this time.
        known_at: Query<Option<TimeText>>,
        /// The format of the answer.
        format: Query<Option<RowFormat>>,
        /// The `ETag` of an answer that is there: the same one is not sent again.
        #[oai(name = "If-None-Match")]
        if_none_match: Header<Option<String>>,
        asked: Asked,
    ) -> Result<Rows<TableRows>, Refused<OfRows>> {
        let query = PageQuery {
            symbol,
            from,
            to,
            columns,
            limit,
            cursor,
            version,
            as_of,
            known_at,
            format,
            if_none_match,
            asked,
        };
        Ok(query.page(&self.tables, table.0, Vec::new()).await?)
    }

    /// Rows that versions of a table added and removed
    ///
    /// What leads from one version to another: the rows that commits after `from_version` up to `to_version` added and
    /// removed, ordered by version, removed ones first, then by time, the oldest first. Ranges that follow each other
    /// leave nothing out. Two columns come behind those of the table: `_change`, `insert` or `delete`, and `_version`, the
    /// version that did it. A commit that only arranges rows in other files changes none; one that replaces rows removes
    /// and adds also those that stay. Formats are those of rows. More than 1 000 000 rows are refused: ask for fewer
    /// versions.
    #[oai(path = "/tables/:table/changes", method = "get", operation_id = "table_changes", tag = "Chapter::Tables")]
    async fn changes(
        &self,
        /// The name.
        table: Path<String>,
        /// The version before the first change.
        from_version: Query<u64>,
        /// The version of the last change; the newest, where it is left out.
        to_version: Query<Option<u64>>,
        /// The format of the answer.
        format: Query<Option<RowFormat>>,
        /// The `ETag` of an answer that is there: the same one is not sent again.
        #[oai(name = "If-None-Match")]
        if_none_match: Header<Option<String>>,
        asked: Asked,
    ) -> Result<Rows<TableChanges>, Refused<OfRows>> {
        #[derive(Serialize)]
        struct Head {
            table: &'static str,
            from_version: u64,
            to_version: u64,
            columns: Vec<String>,
        }
        let format = asked.format(format.0)?;
        let from_version = from_version.0;
        let opened = self.tables.changes(&table.0, from_version, to_version.0).await.map_err(Problem::of_job)?;
        let (table, to_version) = (opened.table, opened.version);
        let (rows, _) = rows::answer(opened, format, if_none_match.0.as_deref(), move |columns, _| {
            Frame::plain(&Head { table, from_version, to_version, columns })
        })
        .await?;
        Ok(rows)
    }
}
