//! `POST /events`: its body, its key and its answer.
//!
//! What an event is and what becomes of it, `jobs::ingest` decides; here it gets limits, statuses and a document. The
//! answer comes after the log has the events on disk.

use std::future::ready;

use bytes::Bytes;
use jobs::ingest::{IdempotencyKey, Intake, MAX_KEY_BYTES, Refusal, RefusedLine, RefusedLines, Taken};
use poem::{
    Request, RequestBody, Result,
    http::{HeaderMap, StatusCode},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions, Object, OpenApi,
    registry::{MetaMediaType, MetaParamIn, MetaRequest, MetaSchema, MetaSchemaRef, Registry},
    types::{Example, Type},
};
use serde::Serialize;

use crate::{
    answers::Json,
    predict::{is_json, media_type, read_limited},
    problem::{Problem, ProblemPart, Refusals, Refused},
    routes::Chapter,
};

/// The longest body in bytes.
const BODY_LIMIT: usize = 8 << 20;

/// The media type of one JSON value a line.
const NDJSON: &str = "application/x-ndjson";

/// The header by which a repeated request is known:
/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>.
const KEY_HEADER: &str = "Idempotency-Key";

/// A key: printable, and since HTTP takes them off, without spaces around it.
const KEY_PATTERN: &str = "^[!-~]([ -~]*[!-~])?$";

/// The operations.
pub struct EventOperations {
    /// Where events go.
    pub intake: Intake,
}

/// Refusals of `/events`.
struct OfEvents;

impl Refusals for OfEvents {
    const STATUSES: &'static [(u16, &'static str)] = &[
        (409, "A symbol is simulated in this event log and the events are real, or the other way round."),
        (413, "The body is longer than 8 MiB or has more than 50 000 events."),
        (415, "The body is said to be neither JSON nor NDJSON."),
        (422, "No line is a valid event, or the key is not one, or it came with another body before."),
        (503, "The log takes no records now; ask again after `Retry-After` seconds."),
    ];
}

#[OpenApi]
impl EventOperations {
    /// Append events to the log
    ///
    /// The body is one event, or one a line. The answer comes when the events are on disk; what is no event is left out
    /// and listed. Predictions follow in `/latest-predictions`. With an `Idempotency-Key`, a request that is sent again
    /// is appended once; without one, as often as it comes.
    #[oai(path = "/events", method = "post", operation_id = "post_events", tag = "Chapter::Events")]
    async fn post(
        &self,
        body: EventLines,
        /// A name of this request among all requests to this log, such as a UUID. It is kept for good.
        #[oai(name = "Idempotency-Key")]
        key: Key,
    ) -> Result<Json<TakenEvents>, Refused<OfEvents>> {
        let taken = self.intake.append(body.0, key.0).await.map_err(Problem::of_job)?;
        let answer = match taken {
            Taken::Appended { events, refused } => TakenEvents { accepted: events, ..TakenEvents::without(refused) },
            Taken::AppendedBefore { refused } => TakenEvents { duplicate: true, ..TakenEvents::without(refused) },
            Taken::Refused(refusal) => return Err(refuse(refusal).into()),
        };
        Ok(Json::of(&answer)?)
    }
}

/// A refusal as a client sees it.
fn refuse(refusal: Refusal) -> Problem {
    let detail = refusal.to_string();
    match refusal {
        Refusal::TooMany => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail),
        Refusal::OtherKind(_) => Problem::new(StatusCode::CONFLICT, detail),
        Refusal::Mixed { .. } | Refusal::OtherBody => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail),
        Refusal::NoEvent(RefusedLines { first, count }) => {
            let detail = match first.first() {
                None => format!("{detail}: it is empty"),
                Some(RefusedLine { line, reason }) => {
                    format!("{detail}: {count} refused, the first on line {line}: {reason}")
                }
            };
            let part = |refused: RefusedLine| ProblemPart::new(format!("line {}", refused.line), refused.reason);
            let parts = first.into_iter().map(part).collect();
            Problem { parts, ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
        }
    }
}

/// A body that is not read yet.
struct EventLines(Bytes);

impl<'a> ApiExtractor<'a> for EventLines {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        PostedEvent::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let json = MetaMediaType { content_type: "application/json", schema: PostedEvent::schema_ref() };
        let lines = MetaMediaType { content_type: NDJSON, schema: String::schema_ref() };
        Some(MetaRequest { description: None, content: vec![json, lines], required: true })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> Result<Self> {
        if !is_json(request.content_type()) && !is_ndjson(request.content_type()) {
            let detail = "send one event as application/json, or one a line as application/x-ndjson, and say so in the \
                          header Content-Type";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail).into());
        }
        Ok(Self(read_limited(request, body.take()?, BODY_LIMIT).await?))
    }
}

fn is_ndjson(content_type: Option<&str>) -> bool {
    content_type.is_some_and(|content_type| media_type(content_type).eq_ignore_ascii_case(NDJSON))
}

/// The key of a request. One that cannot be read is refused: without it, what is sent again would be appended again.
struct Key(Option<IdempotencyKey>);

impl<'a> ApiExtractor<'a> for Key {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];

    type ParamType = ();
    type ParamRawType = ();

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Header)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        let limits = MetaSchema {
            min_length: Some(1),
            max_length: Some(MAX_KEY_BYTES),
            pattern: Some(KEY_PATTERN.to_owned()),
            ..MetaSchema::ANY
        };
        Some(String::schema_ref().merge(limits))
    }

    fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> impl Future<Output = Result<Self>> + Send {
        ready(Self::of(request.headers()).map_err(poem::Error::from))
    }
}

impl Key {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let refused = |fault: String| {
            let part = ProblemPart::new(KEY_HEADER, fault);
            Problem::of_parts(StatusCode::UNPROCESSABLE_ENTITY, "the request is not valid", vec![part])
        };
        let mut values = headers.get_all(KEY_HEADER).iter();
        let Some(value) = values.next() else { return Ok(Self(None)) };
        if values.next().is_some() {
            return Err(refused("is given twice".to_owned()));
        }
        let key = IdempotencyKey::parse(value.to_str().unwrap_or_default());
        Ok(Self(Some(key.map_err(|error| refused(format!("is wrong: {error}")))?)))
    }
}

/// A trade. Fields that are not named here are kept with it.
#[derive(Object)]
#[oai(example)]
struct PostedEvent {
    /// When it was: Unix seconds, with a fraction down to the microsecond. At most 5 min ahead of now.
    #[oai(validator(minimum(value = "1230940800")))]
    timestamp: f64,
    /// The market, such as `BTC-USDT`.
    #[oai(validator(pattern = "^[A-Z0-9]+-[A-Z0-9]+$", max_length = 31))]
    symbol: String,
    /// In quote units, above 0.
    #[oai(validator(minimum(value = "1e-100"), maximum(value = "1e100")))]
    price: f64,
    /// In base units.
    #[oai(validator(minimum(value = "0"), maximum(value = "1e100")))]
    volume: f64,
    /// ln(price / previous price); computed where it is left out.
    #[oai(nullable, validator(minimum(value = "-1e100"), maximum(value = "1e100")))]
    log_return: Option<f64>,
    /// The label of labelled data.
    #[oai(nullable)]
    is_anomaly: Option<bool>,
    /// The kind of a labelled anomaly, such as `PRICE_SPIKE`; at most 64 bytes.
    #[oai(nullable, validator(max_length = 64))]
    anomaly_type: Option<String>,
    /// The venue's id of the trade, by which one that comes twice is known.
    #[oai(nullable)]
    trade_id: Option<i64>,
    /// The side of the taker: `buy` or `sell`.
    #[oai(nullable, validator(pattern = "^(buy|sell)$"))]
    side: Option<String>,
    /// Where it came from: `api` where it is left out, `simulated` for a made-up one.
    #[oai(nullable, validator(pattern = "^(simulated|binance|file|api|archive|kline)$"))]
    source: Option<String>,
}

impl Example for PostedEvent {
    fn example() -> Self {
        Self {
            timestamp: 1_710_000_000.25,
            symbol: "BTC-USDT".to_owned(),
            price: 43_150.5,
            volume: 12.534_21,
            log_return: None,
            is_anomaly: None,
            anomaly_type: None,
            trade_id: Some(3_735_683_259),
            side: Some("buy".to_owned()),
            source: None,
        }
    }
}

/// What became of the events of a request.
#[derive(Serialize, Object)]
#[oai(example)]
struct TakenEvents {
    /// Events that this request appended.
    accepted: u64,
    /// Whether a request with the same key and body had appended them before.
    duplicate: bool,
    /// What is no event and was left out.
    rejected_count: u64,
    /// The first 100 of what was left out.
    rejected: Vec<RejectedLine>,
}

/// A line that is no event.
#[derive(Serialize, Object)]
struct RejectedLine {
    /// Its number in the body, from 1.
    line: u64,
    /// What is wrong with it.
    detail: String,
}

impl TakenEvents {
    /// What was left out, and nothing taken.
    fn without(refused: RefusedLines) -> Self {
        let line = |refused: RefusedLine| RejectedLine { line: refused.line, detail: refused.reason };
        let rejected = refused.first.into_iter().map(line).collect();
        Self { accepted: 0, duplicate: false, rejected_count: refused.count, rejected }
    }
}

impl Example for TakenEvents {
    fn example() -> Self {
        let rejected = RejectedLine { line: 7, detail: "the field `price` is missing".to_owned() };
        Self { accepted: 99, duplicate: false, rejected_count: 1, rejected: vec![rejected] }
    }
}

#[cfg(test)]
mod tests {
    use domain::Source;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(None, false)]
    #[case(Some("application/x-ndjson"), true)]
    #[case(Some("Application/X-NDJSON; charset=utf-8"), true)]
    #[case(Some("application/json"), false)]
    #[case(Some(""), false)]
    fn lines_are_known_by_their_media_type(#[case] media_type: Option<&str>, #[case] expected: bool) {
        assert_eq!(is_ndjson(media_type), expected);
    }

    #[test]
    fn every_source_is_documented() {
        let mut registry = Registry::new();
        PostedEvent::register(&mut registry);
        let event = &registry.schemas["PostedEvent"];
        let (_, source) = event.properties.iter().find(|(name, _)| *name == "source").unwrap();
        let names = Source::ALL.map(Source::as_str).join("|");
        assert_eq!(source.unwrap_inline().pattern, Some(format!("^({names})$")));
    }
}
