//! Rows as an answer, whatever they are of: in the format that was asked for, sent while they are read.
//!
//! An answer that cannot be completed breaks its connection, so that a part never looks like the whole; what goes wrong
//! before the first few MiB are there is a problem with a status. A client that names what it has already is told so
//! before any row is read. What rows are read, `jobs::tables` decides.

mod asked;

use std::{io, marker::PhantomData};

use bytes::Bytes;
use futures::stream::unfold;
use jobs::{
    rows::{Answer, Pieces},
    tables::{Column, Opened},
};
use poem::{
    Body, IntoResponse, Response,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use poem_openapi::{
    ApiResponse, Object,
    registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
    types::{Any, Type},
};
use serde::Serialize;
use serde_json::value::RawValue;
use tracing::warn;

use crate::problem::{Problem, ProblemPart};

pub use asked::{Asked, RowFormat, has};

/// The version that rows were read from.
pub const VERSION: &str = "X-Delta-Version";

/// The versions that a statement read, as `events=4, features=2`.
pub const VERSIONS: &str = "X-Delta-Versions";

/// The cursor of the next page.
pub const NEXT_CURSOR: &str = "X-Next-Cursor";

/// Whether there are more rows than the limit.
pub const TRUNCATED: &str = "X-Truncated";

/// The name of an answer that a client may have already (RFC 9110, 8.8.3).
pub const TAG: &str = "ETag";

/// Where the next page is (RFC 8288).
const LINK: &str = "Link";

/// Rows in JSON, at most: who reads it holds all of them.
pub const MAX_JSON_ROWS: u32 = 10_000;

/// When to ask again while too many answers are being read, in seconds.
const RETRY_AFTER_S: u32 = 5;

/// Name, type and meaning of a header.
pub type Told = (&'static str, fn() -> MetaSchemaRef, &'static str);

/// The object that rows are in as JSON, and what else an answer with them has.
pub trait RowsObject: Type {
    /// The headers that this answer alone has.
    const HEADERS: &'static [Told];

    /// Whether a client may have the answer already.
    const HAS_TAG: bool;
}

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

/// Rows in their format: the answer.
pub struct Rows<T> {
    status: StatusCode,
    headers: HeaderMap,
    body: Body,
    object: PhantomData<fn() -> T>,
}

/// How rows begin and end as JSON: an object, and fields behind its rows.
pub struct Frame {
    prefix: Bytes,
    suffix: Suffix,
}

/// What stands behind the rows.
enum Suffix {
    /// Known beforehand.
    Fixed(String),
    /// Whether rows were left out.
    Truncated,
    /// Nothing, unless rows were left out: that breaks the answer off, as neither its head nor its body could say it.
    Whole,
}

impl Frame {
    /// The fields of `head`, then `rows`, then `last`.
    ///
    /// # Errors
    /// A problem with status 500 where a value has no JSON form, which is a defect.
    pub fn of(head: &impl Serialize, last: (&str, &impl Serialize)) -> Result<Self, Problem> {
        let (name, value) = last;
        let value = serde_json::to_string(value).map_err(|error| Problem::internal(&error))?;
        Ok(Self { prefix: prefix(head)?, suffix: Suffix::Fixed(format!(",\"{name}\":{value}}}")) })
    }

    /// The fields of `head`, then `rows`.
    ///
    /// # Errors
    /// As [`Frame::of`].
    pub fn plain(head: &impl Serialize) -> Result<Self, Problem> {
        Ok(Self { prefix: prefix(head)?, suffix: Suffix::Fixed("}".to_owned()) })
    }

    /// The fields of `head`, then `rows`, then `truncated`.
    ///
    /// # Errors
    /// As [`Frame::of`].
    pub fn truncated(head: &impl Serialize) -> Result<Self, Problem> {
        Ok(Self { prefix: prefix(head)?, suffix: Suffix::Truncated })
    }
}

fn prefix(head: &impl Serialize) -> Result<Bytes, Problem> {
    let mut object = serde_json::to_vec(head).map_err(|error| Problem::internal(&error))?;
    object.pop();
    object.extend_from_slice(b",\"rows\":");
    Ok(object.into())
}

impl<T> Rows<T> {
    /// An answer with these bytes; `frame` is for JSON.
    pub fn new(pieces: Pieces, format: RowFormat, frame: Frame) -> Self {
        let (prefix, suffix) = match format {
            RowFormat::Json => (Some(frame.prefix), Some(frame.suffix)),
            _ => (None, pieces.is_cut().is_none().then_some(Suffix::Whole)),
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        let body = sent(Sending { prefix, pieces, suffix });
        Self { status: StatusCode::OK, headers, body, object: PhantomData }
    }

    /// That the client has what `tag` names.
    pub fn unchanged(tag: &str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        let rows = Self { status: StatusCode::NOT_MODIFIED, headers, body: Body::empty(), object: PhantomData };
        rows.with(TAG, tag)
    }

    /// The answer with a header more. A value that no header can have is left out.
    pub fn with(mut self, name: &'static str, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.insert(name, value);
        }
        self
    }
}

/// A page of rows, or that the client has it.
///
/// # Errors
/// A problem where the rows cannot be read.
pub async fn page(
    opened: Opened,
    format: RowFormat,
    asked: &Asked,
    if_none_match: Option<&str>,
) -> Result<Rows<TableRows>, Problem> {
    #[derive(Serialize)]
    struct Head {
        table: &'static str,
        version: u64,
        columns: Vec<String>,
    }
    let (table, version) = (opened.table, opened.version);
    let tag = tag(&opened, format);
    if has(if_none_match, &tag) {
        return Ok(Rows::unchanged(&tag).with(VERSION, version.to_string()));
    }
    let Answer { columns, next, pieces, .. } = opened.answer(format.into()).await.map_err(refused)?;
    let head = Head { table, version, columns: names(columns) };
    let rows = Rows::new(pieces, format, Frame::of(&head, ("next", &next))?);
    let rows = rows.with(TAG, &tag).with(VERSION, version.to_string());
    let Some(cursor) = next else { return Ok(rows) };
    Ok(rows.with(LINK, asked.link_to(&cursor)).with(NEXT_CURSOR, &cursor))
}

/// The tag of what was opened, as a header has it.
pub fn tag(opened: &Opened, format: RowFormat) -> String {
    format!("\"{}\"", opened.tag(format.into()))
}

/// The names of columns.
pub fn names(columns: Vec<Column>) -> Vec<String> {
    columns.into_iter().map(|column| column.name).collect()
}

/// An error of reading as a client sees it.
pub fn refused(error: jobs::Error) -> Problem {
    let is_busy = matches!(error, jobs::Error::Busy { .. });
    let problem = Problem::of_job(error);
    if is_busy { problem.retry_after(RETRY_AFTER_S) } else { problem }
}

/// That JSON has fewer rows than other formats.
///
/// # Errors
/// A problem with status 422 where `limit` is more than a format has.
pub fn check_limit(format: RowFormat, limit: u32) -> Result<(), Problem> {
    if format == RowFormat::Json && limit > MAX_JSON_ROWS {
        let detail = format!("is at most {MAX_JSON_ROWS} in JSON: ask for another format, or page by page");
        let part = ProblemPart::new("limit", detail);
        return Err(Problem::of_parts(StatusCode::UNPROCESSABLE_ENTITY, "the query is not valid", vec![part]));
    }
    Ok(())
}

impl<T> IntoResponse for Rows<T> {
    fn into_response(self) -> Response {
        let mut response = Response::from(self.body);
        response.set_status(self.status);
        *response.headers_mut() = self.headers;
        response
    }
}

/// An answer on its way.
struct Sending {
    prefix: Option<Bytes>,
    pieces: Pieces,
    suffix: Option<Suffix>,
}

impl Sending {
    async fn next(&mut self) -> Option<Result<Bytes, jobs::Error>> {
        if let Some(prefix) = self.prefix.take() {
            return Some(Ok(prefix));
        }
        if let Some(piece) = self.pieces.next().await {
            return Some(piece.map(Bytes::from));
        }
        let is_cut = self.pieces.is_cut().unwrap_or_default();
        match self.suffix.take()? {
            Suffix::Fixed(text) => Some(Ok(text.into())),
            Suffix::Truncated => Some(Ok(format!(",\"truncated\":{is_cut}}}").into())),
            Suffix::Whole => is_cut.then(|| Err(jobs::Error::Invalid("there are more rows than the limit".to_owned()))),
        }
    }
}

fn sent(sending: Sending) -> Body {
    Body::from_bytes_stream(unfold(Some(sending), |sending| async move {
        let mut sending = sending?;
        match sending.next().await? {
            Ok(bytes) => Some((Ok(bytes), Some(sending))),
            Err(error) => {
                warn!(%error, "an answer broke off before it was complete");
                Some((Err(io::Error::other(error)), None))
            }
        }
    }))
}

impl<T: RowsObject> ApiResponse for Rows<T> {
    fn meta() -> MetaResponses {
        let tag: Told = (TAG, String::schema_ref, "Names this answer, for `If-None-Match`.");
        let told = T::HEADERS.iter().copied().chain(T::HAS_TAG.then_some(tag));
        let rows = MetaResponse {
            description: "The rows. A connection that breaks before the end has not given all of them.",
            status: Some(200),
            status_range: None,
            content: RowFormat::ALL.map(content::<T>).into(),
            headers: told.map(described).collect(),
        };
        let unchanged = MetaResponse {
            description: "The rows are those that `If-None-Match` names.",
            status: Some(304),
            status_range: None,
            content: vec![],
            headers: vec![],
        };
        MetaResponses { responses: [rows].into_iter().chain(T::HAS_TAG.then_some(unchanged)).collect() }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

fn described((name, schema, meaning): Told) -> MetaHeader {
    MetaHeader {
        name: name.to_owned(),
        description: Some(meaning.to_owned()),
        required: false,
        deprecated: false,
        schema: schema(),
    }
}

fn content<T: RowsObject>(format: RowFormat) -> MetaMediaType {
    let schema = match format {
        RowFormat::Json => T::schema_ref(),
        RowFormat::Ndjson | RowFormat::Csv => String::schema_ref(),
        RowFormat::Arrow | RowFormat::Parquet => {
            MetaSchemaRef::Inline(Box::new(MetaSchema::new_with_format("string", "binary")))
        }
    };
    MetaMediaType { content_type: format.media_type(), schema }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_reads_too_much_says_when_to_ask_again() {
        let busy = refused(jobs::Error::Busy { places: 4 });
        assert_eq!((busy.status, busy.retry_after_s), (StatusCode::SERVICE_UNAVAILABLE, Some(RETRY_AFTER_S)));
        let slow = refused(jobs::Error::TooSlow { seconds: 30 });
        assert_eq!((slow.status, slow.retry_after_s), (StatusCode::UNPROCESSABLE_ENTITY, None));
        assert!(slow.detail.contains("more than 30 s"), "{}", slow.detail);
    }

    #[test]
    fn json_has_fewer_rows_than_other_formats() {
        assert_eq!(check_limit(RowFormat::Json, MAX_JSON_ROWS), Ok(()));
        assert!(check_limit(RowFormat::Json, MAX_JSON_ROWS + 1).is_err());
        assert_eq!(check_limit(RowFormat::Csv, MAX_JSON_ROWS + 1), Ok(()));
    }
}
