//! `GET` and `POST /sql`: one statement that only reads.
//!
//! Who may ask what, and how much of the machine that takes, the lake decides; here it gets limits, statuses and a
//! document.

use jobs::tables;
use poem::Result;
use poem_openapi::{
    Object, OpenApi,
    param::Query,
    types::{Any, Type},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    posted::Posted,
    problem::{Problem, Refusals, Refused},
    routes::Chapter,
    rows::{Asked, Frame, RowFormat, Rows, RowsObject, TRUNCATED, Told, VERSIONS, check_limit},
};

/// The operations.
pub struct Sql {
    /// The tables.
    pub tables: tables::Tables,
}

/// Refusals of `GET /sql`.
struct OfStatement;

impl Refusals for OfStatement {
    const STATUSES: &'static [(u16, &'static str)] = &[NO_TABLE, NO_FORMAT, GONE, WRONG, BUSY];
}

/// Refusals of `POST /sql`.
struct OfPostedStatement;

impl Refusals for OfPostedStatement {
    const STATUSES: &'static [(u16, &'static str)] = &[
        NO_TABLE,
        NO_FORMAT,
        GONE,
        (413, "The body is longer than 64 KiB."),
        (415, "The body is not said to be JSON."),
        WRONG,
        BUSY,
    ];
}

const NO_TABLE: (u16, &str) =
    (404, "There is no table with this name, or it has not come to this version, or did not exist at this time.");

const NO_FORMAT: (u16, &str) = (406, "The header `Accept` names only formats that there are not.");

const GONE: (u16, &str) = (410, "A version was removed by upkeep.");

const WRONG: (u16, &str) = (
    422,
    "The statement is wrong, is none that only reads, names a function that is not offered, is longer than 64 KiB or more \
     nested than is answered; or it takes more than 30 s, 512 MiB of memory and 1 GiB of disk, or its values grow too long; \
     or a parameter is outside its limits.",
);

const BUSY: (u16, &str) =
    (503, "A table cannot be read now, or too many answers are; then `Retry-After` says when to ask again.");

/// A statement.
#[derive(Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct SqlRequest {
    /// One statement that only reads, such as `SELECT symbol, count(*) FROM events VERSION AS OF 12 GROUP BY symbol`.
    #[oai(validator(max_length = 65536))]
    sql: String,
}

/// The answer to a statement.
#[derive(Object)]
struct SqlRows {
    /// The versions that were read.
    versions: Vec<ReadVersion>,
    /// The columns of the rows.
    columns: Vec<SqlColumn>,
    /// The rows: objects with these columns.
    rows: Vec<Any<Box<RawValue>>>,
    /// Whether there are more rows than `limit`.
    truncated: bool,
}

/// A version of a table.
#[derive(Serialize, Object)]
struct ReadVersion {
    /// The table.
    table: String,
    /// The version.
    version: u64,
}

/// A column of an answer.
#[derive(Serialize, Object)]
struct SqlColumn {
    /// Its name.
    name: String,
    /// Its Arrow type.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    data_type: String,
}

impl RowsObject for SqlRows {
    const HEADERS: &'static [Told] = &[
        (VERSIONS, String::schema_ref, "The versions that were read, such as `events=4, features=2`."),
        (
            TRUNCATED,
            bool::schema_ref,
            "Whether there are more rows than `limit`. It is left out where the answer has more than about 4 MiB; there a \
             format other than JSON breaks off where rows are left out.",
        ),
    ];
    const HAS_TAG: bool = false;
}

fn default_limit() -> u32 {
    10_000
}

#[OpenApi]
impl Sql {
    /// Answer a statement of SQL
    ///
    /// One statement that only reads the tables: SELECT, EXPLAIN or DESCRIBE, in the SQL of `DataFusion`. Wherever a table
    /// may stand, so may `events VERSION AS OF 12`, `events TIMESTAMP AS OF '2024-03-09T16:00:00Z'`, `as_of`, `known_at`,
    /// `changes` and `history`. Columns of the answer need names of their own. Rows have an order where the statement
    /// says one.
    ///
    /// Not offered are recursion, CUBE, functions of tables and lists, and those that make a text as long as a number
    /// says. One statement may take 30 s, 512 MiB of memory to sort, group and join in and 1 GiB of disk beyond it; four
    /// answers are read at a time, of tables and statements together, and others wait for 5 s.
    #[oai(path = "/sql", method = "get", operation_id = "sql", tag = "Chapter::Tables")]
    async fn sql(
        &self,
        /// The statement; a longer one is posted.
        #[oai(validator(max_length = 1000))]
        q: Query<String>,
        /// How many rows, at most; in JSON not more than 10 000.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "1000000")))]
        limit: Query<u32>,
        /// The format of the answer.
        format: Query<Option<RowFormat>>,
        asked: Asked,
    ) -> Result<Rows<SqlRows>, Refused<OfStatement>> {
        Ok(self.answer(q.0, limit.0, asked.format(format.0)?).await?)
    }

    /// Answer a statement of SQL from a body
    ///
    /// As `GET /sql`, for statements that do not fit into a URL.
    #[oai(path = "/sql", method = "post", operation_id = "post_sql", tag = "Chapter::Tables")]
    async fn post_sql(
        &self,
        body: Posted<SqlRequest>,
        /// How many rows, at most; in JSON not more than 10 000.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "1000000")))]
        limit: Query<u32>,
        /// The format of the answer.
        format: Query<Option<RowFormat>>,
        asked: Asked,
    ) -> Result<Rows<SqlRows>, Refused<OfPostedStatement>> {
        Ok(self.answer(body.0.sql, limit.0, asked.format(format.0)?).await?)
    }
}

impl Sql {
    async fn answer(&self, statement: String, limit: u32, format: RowFormat) -> Result<Rows<SqlRows>, Problem> {
        #[derive(Serialize)]
        struct Head {
            versions: Vec<ReadVersion>,
            columns: Vec<SqlColumn>,
        }
        check_limit(format, limit)?;
        let answer = self.tables.sql(statement, format.into(), limit.into()).await.map_err(Problem::of_job)?;
        let read: Vec<String> = answer.versions.iter().map(|(table, version)| format!("{table}={version}")).collect();
        let version = |(table, version): (&str, u64)| ReadVersion { table: table.to_owned(), version };
        let versions = answer.versions.into_iter().map(version).collect();
        let columns =
            answer.columns.into_iter().map(|column| SqlColumn { name: column.name, data_type: column.data_type });
        let frame = Frame::truncated(&Head { versions, columns: columns.collect() })?;
        let truncated = answer.pieces.is_cut();
        let mut rows = Rows::new(answer.pieces, format, frame);
        if !read.is_empty() {
            rows = rows.with(VERSIONS, read.join(", "));
        }
        if let Some(is_cut) = truncated {
            rows = rows.with(TRUNCATED, is_cut.to_string());
        }
        Ok(rows)
    }
}
