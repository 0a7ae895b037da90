//! Rows as an answer, whatever they are of: in the format that was asked for, sent while they are read.
//!
//! An answer that cannot be completed breaks its connection, so that a part never looks like the whole; what goes wrong
//! before the first few MiB are there is a problem with a status. A client that names what it has already is told so
//! before any row is read. What rows are read, `jobs::tables` decides.

mod asked;
mod page;

use std::{io, marker::PhantomData};

use bytes::Bytes;
use futures::stream::unfold;
use jobs::{
    rows::{Answer, Pieces},
    tables::Opened,
};
use poem::{
    Body, IntoResponse, Response,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use poem_openapi::{
    ApiResponse,
    registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
    types::Type,
};
use serde::Serialize;
use tracing::warn;

use crate::{
    negotiation::{TAG, has, tag_header},
    problem::{Problem, ProblemPart},
};

pub use asked::{Asked, RowFormat};
pub use page::{PageQuery, TableRows, default_rows, every_column};

/// The version that rows were read from.
pub const VERSION: &str = "X-Delta-Version";

/// The versions that a statement read, as `events=4, features=2`.
pub const VERSIONS: &str = "X-Delta-Versions";

/// Whether there are more rows than the limit.
pub const TRUNCATED: &str = "X-Truncated";

/// Rows in JSON, at most: who reads it holds all of them.
pub const MAX_JSON_ROWS: u32 = 10_000;

/// Name, type and meaning of a header.
pub type Told = (&'static str, fn() -> MetaSchemaRef, &'static str);

/// The object that rows are in as JSON, and what else an answer with them has.
pub trait RowsObject: Type {
    /// The headers that this answer alone has.
    const HEADERS: &'static [Told];

    /// Whether a client may have the answer already.
    const HAS_TAG: bool;
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
        let mut rows = Self::of(StatusCode::OK, sent(Sending { prefix, pieces, suffix }));
        rows.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
        rows
    }

    /// That the client has the answer already.
    fn unchanged() -> Self {
        Self::of(StatusCode::NOT_MODIFIED, Body::empty())
    }

    fn of(status: StatusCode, body: Body) -> Self {
        let headers = [(header::VARY, HeaderValue::from_static("accept"))].into_iter().collect();
        Self { status, headers, body, object: PhantomData }
    }

    /// The answer with a header more. A value that no header can have is left out.
    pub fn with(mut self, name: &'static str, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.insert(name, value);
        }
        self
    }
}

/// What was opened as an answer, or that the client has it already; and the cursor of the next page. `frame` is made of
/// the names of the columns and that cursor.
///
/// # Errors
/// A problem where the rows cannot be read.
pub async fn answer<T>(
    opened: Opened,
    format: RowFormat,
    if_none_match: Option<&str>,
    frame: impl FnOnce(Vec<String>, Option<&str>) -> Result<Frame, Problem> + Send,
) -> Result<(Rows<T>, Option<String>), Problem> {
    let version = opened.version.to_string();
    let tag = format!("\"{}\"", opened.tag(format.into()));
    if has(if_none_match, &tag) {
        return Ok((Rows::unchanged().with(TAG, tag).with(VERSION, version), None));
    }
    let Answer { columns, next, pieces, .. } = opened.answer(format.into()).await.map_err(Problem::of_job)?;
    let columns = columns.into_iter().map(|column| column.name).collect();
    let rows = Rows::new(pieces, format, frame(columns, next.as_deref())?);
    Ok((rows.with(TAG, tag).with(VERSION, version), next))
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
        let told = T::HEADERS.iter().copied().map(described);
        let rows = MetaResponse {
            description: "The rows. A connection that breaks before the end has not given all of them.",
            status: Some(200),
            status_range: None,
            content: RowFormat::ALL.map(content::<T>).into(),
            headers: told.chain(T::HAS_TAG.then(tag_header)).collect(),
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
    use crate::problem::RETRY_AFTER_S;

    #[test]
    fn a_service_that_reads_too_much_says_when_to_ask_again() {
        let busy = Problem::of_job(jobs::Error::Busy { places: 4 });
        assert_eq!((busy.status, busy.retry_after_s), (StatusCode::SERVICE_UNAVAILABLE, Some(RETRY_AFTER_S)));
        let slow = Problem::of_job(jobs::Error::TooSlow { seconds: 30 });
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
