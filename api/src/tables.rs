//! The operations on tables: which there are, what was done to them, and their rows at any version.
//!
//! What they read, `jobs::tables` reads; here a query is parsed and the answer gets its format. Nothing is changed.

mod answers;

use std::future::ready;

use domain::Timestamp;
use jobs::tables::{self, State, WantedRows};
use poem::{
    FromRequest, Request, RequestBody, Result,
    http::{HeaderMap, StatusCode, header},
};
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
};

use crate::{
    answers::Json,
    parameters,
    problem::{Problem, Refusals, Refused},
    routes::{Chapter, computed},
};

use answers::{RowFormat, Rows, TableHistory, TablePage, TableSummary};

/// The operations.
pub struct Tables {
    /// What they read.
    pub tables: tables::Tables,
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

/// Refusals of rows.
struct OfRows;

impl Refusals for OfRows {
    const STATUSES: &'static [(u16, &'static str)] = &[
        (404, "There is no table with this name, or it has not come to this version, or did not exist at this time."),
        (410, "The version was removed by upkeep."),
        (422, "A parameter is outside its limits, contradicts another or names a column that the table does not have."),
        (503, "The table cannot be read now."),
    ];
}

type Answer<T, R> = Result<Json<T>, Refused<R>>;

fn default_limit() -> u16 {
    100
}

fn every_column() -> Vec<String> {
    Vec::new()
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
        Ok(Json::of(&TablePage::from(&detail))?)
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
        Ok(Json::of(&TableHistory::from(&history))?)
    }

    /// Rows of a table, newest first
    ///
    /// Ordered by the time of the row, which is event time where the table has one, and then by the place of the record
    /// in the log. Of `version`, `as_of` and `known_at` only one may be given; without them the newest version is read.
    /// The answer is JSON, NDJSON or CSV, by `format` or else by the header `Accept`; the header `X-Delta-Version` names
    /// the version that was read.
    #[oai(path = "/tables/:table/rows", method = "get", operation_id = "table_rows", tag = "Chapter::Tables")]
    #[expect(clippy::too_many_arguments, reason = "a parameter is documented where it is declared")]
    async fn rows(
        &self,
        /// The name.
        table: Path<String>,
        /// Of one market only.
        #[oai(validator(pattern = "^[A-Z0-9]+-[A-Z0-9]+$", max_length = 31))]
        symbol: Query<Option<String>>,
        /// At this time or later; RFC 3339, UTC.
        from: Query<Option<String>>,
        /// Before this time; RFC 3339, UTC.
        to: Query<Option<String>>,
        /// Which columns, separated by commas; all, where it is left out.
        #[oai(default = "every_column", explode = false)]
        columns: Query<Vec<String>>,
        /// How many, at most.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "10000")))]
        limit: Query<u16>,
        /// The table at this version.
        version: Query<Option<u64>>,
        /// The table as it was stored at this time; RFC 3339, UTC.
        as_of: Query<Option<String>>,
        /// Rows whose records were in the log by this time; RFC 3339, UTC.
        known_at: Query<Option<String>>,
        /// The format of the answer.
        format: Query<Option<RowFormat>>,
        accepted: Accepted,
    ) -> Result<Rows, Refused<OfRows>> {
        let format = format.0.unwrap_or(accepted.0);
        let wanted = WantedRows {
            table: table.0,
            state: state(version.0, instant("as_of", &as_of)?, instant("known_at", &known_at)?)?,
            symbol: parameters::symbol(symbol.0.as_deref())?,
            from: instant("from", &from)?,
            to: instant("to", &to)?,
            columns: columns.0,
            limit: limit.0,
            format: format.into(),
        };
        let found = self.tables.rows(&wanted).await.map_err(Problem::of_job)?;
        Ok(computed(move || Rows::of(found, format)).await??)
    }
}

/// The time that a parameter names.
fn instant(name: &'static str, parameter: &Query<Option<String>>) -> Result<Option<Timestamp>, Problem> {
    parameter.0.as_deref().map(|text| parameters::time(name, text)).transpose()
}

/// Which state of a table is asked for.
fn state(version: Option<u64>, as_of: Option<Timestamp>, known_at: Option<Timestamp>) -> Result<State, Problem> {
    match (version, as_of, known_at) {
        (None, None, None) => Ok(State::Newest),
        (Some(version), None, None) => Ok(State::Version(version)),
        (None, Some(time), None) => Ok(State::AsOf(time)),
        (None, None, Some(time)) => Ok(State::KnownAt(time)),
        _ => {
            let detail = "the query is not valid: give only one of version, as_of and known_at";
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail))
        }
    }
}

/// The format that the header `Accept` likes best; JSON where it names none that there is.
struct Accepted(RowFormat);

impl<'a> FromRequest<'a> for Accepted {
    fn from_request(request: &'a Request, _body: &mut RequestBody) -> impl Future<Output = Result<Self>> + Send {
        ready(Ok(Self::of(request.headers())))
    }
}

impl Accepted {
    fn of(headers: &HeaderMap) -> Self {
        let texts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut liked: Vec<(RowFormat, f32)> = texts.flat_map(|text| text.split(',')).filter_map(weighed).collect();
        // The sort keeps the order of what is liked equally.
        liked.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        Self(liked.first().map_or(RowFormat::Json, |(format, _)| *format))
    }
}

/// The format that a part of `Accept` names, and how much it is liked (RFC 9110, 12.4.2 and 12.5.1).
fn weighed(range: &str) -> Option<(RowFormat, f32)> {
    let mut parts = range.split(';').map(str::trim);
    let media_type = parts.next()?;
    let format = RowFormat::ALL.into_iter().find(|format| format.media_type().eq_ignore_ascii_case(media_type))?;
    let weight: f32 = match parts.find_map(|part| part.strip_prefix("q=")) {
        Some(text) => text.parse().ok()?,
        None => 1.0,
    };
    (weight > 0.0).then_some((format, weight))
}

#[cfg(test)]
mod tests {
    use poem::http::HeaderValue;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("text/csv", RowFormat::Csv)]
    #[case("Text/CSV; charset=utf-8", RowFormat::Csv)]
    #[case("text/html, application/x-ndjson;q=0.5, text/csv;q=0.9", RowFormat::Csv)]
    #[case("application/x-ndjson, text/csv", RowFormat::Ndjson)]
    #[case("text/csv;q=0, */*", RowFormat::Json)]
    #[case("text/csv;q=many", RowFormat::Json)]
    #[case("image/png", RowFormat::Json)]
    fn the_format_is_the_one_that_is_liked_best(#[case] accept: &'static str, #[case] expected: RowFormat) {
        let mut headers = HeaderMap::new();
        assert_eq!(Accepted::of(&headers).0, RowFormat::Json);
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        assert_eq!(Accepted::of(&headers).0, expected);
    }

    #[test]
    fn a_table_has_one_state_at_a_time() {
        let noon = Timestamp::from_seconds(1_710_000_000);
        assert_eq!(state(None, None, None), Ok(State::Newest));
        assert_eq!(state(Some(7), None, None), Ok(State::Version(7)));
        assert_eq!(state(None, Some(noon), None), Ok(State::AsOf(noon)));
        assert_eq!(state(None, None, Some(noon)), Ok(State::KnownAt(noon)));
        assert!(state(Some(7), None, Some(noon)).is_err());
    }
}
