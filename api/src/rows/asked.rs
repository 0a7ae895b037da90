//! What a request says about the form of rows: the format that is wanted, and how the next page is asked for.

use std::future::ready;

use jobs::tables::Format;
use poem::{
    FromRequest, Request, RequestBody, Result,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
};
use poem_openapi::Enum;

use crate::{negotiation::weighted, problem::Problem};

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
    /// An Arrow IPC stream.
    Arrow,
    /// A Parquet file.
    Parquet,
}

impl RowFormat {
    /// Every format, the one that is taken by default first.
    pub const ALL: [Self; 5] = [Self::Json, Self::Ndjson, Self::Csv, Self::Arrow, Self::Parquet];

    /// As in `Content-Type`.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv",
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }
}

impl From<RowFormat> for Format {
    fn from(format: RowFormat) -> Self {
        match format {
            RowFormat::Json => Self::Json,
            RowFormat::Ndjson => Self::Ndjson,
            RowFormat::Csv => Self::Csv,
            RowFormat::Arrow => Self::ArrowStream,
            RowFormat::Parquet => Self::Parquet,
        }
    }
}

/// What a request says.
pub struct Asked {
    uri: Uri,
    accepted: Option<RowFormat>,
}

impl<'a> FromRequest<'a> for Asked {
    fn from_request(request: &'a Request, _body: &mut RequestBody) -> impl Future<Output = Result<Self>> + Send {
        ready(Ok(Self { uri: request.original_uri().clone(), accepted: accepted(request.headers()) }))
    }
}

impl Asked {
    /// The format of the answer: the one that is named, or else the one that the header `Accept` likes best.
    ///
    /// # Errors
    /// A problem with status 406 where the header names only what there is not.
    pub fn format(&self, named: Option<RowFormat>) -> Result<RowFormat, Problem> {
        named.or(self.accepted).ok_or_else(|| {
            let offered = RowFormat::ALL.map(RowFormat::media_type).join(", ");
            let detail = format!("no format that the header Accept names is offered: there are {offered}");
            Problem::new(StatusCode::NOT_ACCEPTABLE, detail)
        })
    }

    /// The header `Link` with the request for the page behind this one.
    pub fn link_to(&self, cursor: &str) -> String {
        let given = self.uri.query().unwrap_or_default().split('&');
        let others = given.filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
        let next = format!("cursor={cursor}");
        let query = others.chain([next.as_str()]).collect::<Vec<_>>().join("&");
        format!("<{}?{query}>; rel=\"next\"", self.uri.path())
    }
}

/// The format that the header `Accept` likes best, JSON where there is no such header; none where it names none that
/// there is (RFC 9110, 12.4.2 and 12.5.1).
fn accepted(headers: &HeaderMap) -> Option<RowFormat> {
    let texts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges: Vec<Range<'_>> = texts.flat_map(|text| text.split(',')).filter_map(Range::parse).collect();
    if ranges.is_empty() && headers.get_all(header::ACCEPT).iter().all(HeaderValue::is_empty) {
        return Some(RowFormat::Json);
    }
    let mut liked: Option<(RowFormat, Liking)> = None;
    for format in RowFormat::ALL {
        let matching = ranges.iter().enumerate().filter(|(_, range)| range.has(format));
        // What a more exact range says of a format counts.
        let Some((place, range)) = matching.max_by_key(|(place, range)| (range.exactness(), usize::MAX - place)) else {
            continue;
        };
        let liking = Liking { weight: range.weight, exactness: range.exactness(), early: usize::MAX - place };
        if range.weight > 0.0 && liked.as_ref().is_none_or(|(_, best)| liking.is_above(best)) {
            liked = Some((format, liking));
        }
    }
    liked.map(|(format, _)| format)
}

/// How much a format is liked.
struct Liking {
    weight: f32,
    exactness: u8,
    early: usize,
}

impl Liking {
    fn is_above(&self, other: &Self) -> bool {
        let rest = (self.exactness, self.early).cmp(&(other.exactness, other.early));
        self.weight.total_cmp(&other.weight).then(rest).is_gt()
    }
}

/// A part of `Accept`: `text/csv`, `text/*` or `*/*`, and its weight.
struct Range<'a> {
    kind: &'a str,
    form: &'a str,
    weight: f32,
}

impl<'a> Range<'a> {
    /// None where it is no range, or its weight no number.
    fn parse(text: &'a str) -> Option<Self> {
        let (named, weight) = weighted(text)?;
        let (kind, form) = named.split_once('/')?;
        Some(Self { kind, form, weight })
    }

    fn has(&self, format: RowFormat) -> bool {
        let is = |part: &str, asked: &str| asked == "*" || part.eq_ignore_ascii_case(asked);
        format.media_type().split_once('/').is_some_and(|(kind, form)| is(kind, self.kind) && is(form, self.form))
    }

    fn exactness(&self) -> u8 {
        u8::from(self.kind != "*") + u8::from(self.form != "*")
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn liked(accept: &'static str) -> Option<RowFormat> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        accepted(&headers)
    }

    #[rstest]
    #[case("", Some(RowFormat::Json))]
    #[case("*/*", Some(RowFormat::Json))]
    #[case("application/*", Some(RowFormat::Json))]
    #[case("text/*", Some(RowFormat::Csv))]
    #[case("text/csv", Some(RowFormat::Csv))]
    #[case("Text/CSV; charset=utf-8", Some(RowFormat::Csv))]
    #[case("application/vnd.apache.arrow.stream", Some(RowFormat::Arrow))]
    #[case("application/vnd.apache.parquet", Some(RowFormat::Parquet))]
    #[case("text/html, application/x-ndjson;q=0.5, text/csv;q=0.9", Some(RowFormat::Csv))]
    #[case("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Some(RowFormat::Json))]
    #[case("application/x-ndjson, text/csv", Some(RowFormat::Ndjson))]
    #[case("text/csv, application/x-ndjson", Some(RowFormat::Csv))]
    #[case("*/*, text/csv", Some(RowFormat::Csv))]
    #[case("*/*;q=0.5, text/csv;q=0.1", Some(RowFormat::Json))]
    #[case("application/json;q=0, */*", Some(RowFormat::Ndjson))]
    #[case("text/csv;q=0, */*", Some(RowFormat::Json))]
    #[case("text/csv;q=0", None)]
    #[case("text/csv;q=many", None)]
    #[case("text/csv;q=7", None)]
    #[case("image/png", None)]
    #[case("nonsense", None)]
    fn the_format_is_the_one_that_is_liked_best(#[case] accept: &'static str, #[case] expected: Option<RowFormat>) {
        assert_eq!(liked(accept), expected);
    }

    #[test]
    fn without_a_wish_the_answer_is_json() {
        assert_eq!(accepted(&HeaderMap::new()), Some(RowFormat::Json));
    }

    #[rstest]
    #[case("/tables/events/rows", "</tables/events/rows?cursor=ab>; rel=\"next\"")]
    #[case("/predictions?limit=1&cursor=12&format=csv", "</predictions?limit=1&format=csv&cursor=ab>; rel=\"next\"")]
    fn the_next_page_is_asked_for_as_this_one_was(#[case] uri: &'static str, #[case] expected: &str) {
        let asked = Asked { uri: Uri::from_static(uri), accepted: None };
        assert_eq!(asked.link_to("ab"), expected);
    }
}
