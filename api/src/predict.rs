//! The body of `POST /predict` and `/explain`: read once and fast, and explained field by field where it is wrong.
//!
//! The limits are those of the original service: z-scores within +-100, deviations at least 0, all six fields there,
//! numbers as numbers. Unknown fields are ignored. Many questions at once are in `batch`.

mod batch;

use std::time::Duration;

use bytes::Bytes;
use domain::{FEATURE_NAMES, FeatureVector, Symbol, features::MAX_Z_SCORE};
use poem::{
    Body, Request, RequestBody, Result,
    error::ReadBodyError,
    http::{StatusCode, header},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions, Object,
    registry::{MetaMediaType, MetaRequest, Registry},
    types::{Example, Type},
};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use crate::problem::{Problem, ProblemPart};

pub use batch::{Batch, BatchAnswer, BatchBody};

/// The longest body in bytes; six fields need a few hundred.
pub const BODY_LIMIT: usize = 64 * 1_024;

/// The time in which a body must be there.
const BODY_TIME: Duration = Duration::from_secs(45);

/// Limits of the features, in the order of [`FEATURE_NAMES`].
const LIMITS: [(f64, f64); FEATURE_NAMES.len()] = [
    (-MAX_Z_SCORE, MAX_Z_SCORE),
    (-MAX_Z_SCORE, MAX_Z_SCORE),
    (-MAX_Z_SCORE, MAX_Z_SCORE),
    (0.0, f64::MAX),
    (0.0, f64::MAX),
];

/// A feature vector to judge.
#[derive(Debug, Deserialize, Object)]
#[oai(example)]
pub struct PredictRequest {
    /// The market, such as `BTC-USDT`. One that the model has not seen is judged by the scale of all markets.
    #[oai(validator(pattern = "^[A-Z0-9]+-[A-Z0-9]+$", max_length = 31))]
    symbol: String,
    /// Standard score of the price in the 60 s before the event.
    #[oai(validator(minimum(value = "-100"), maximum(value = "100")))]
    z_score_price: f64,
    /// Standard score of the log-return in the 60 s before the event.
    #[oai(validator(minimum(value = "-100"), maximum(value = "100")))]
    z_score_log_return: f64,
    /// Standard score of the volume in the 60 s before the event.
    #[oai(validator(minimum(value = "-100"), maximum(value = "100")))]
    z_score_volume: f64,
    /// Sample deviation of the price relative to its mean, dimensionless.
    #[oai(validator(minimum(value = "0")))]
    rolling_price_std: f64,
    /// Sample deviation of the volume, in base units.
    #[oai(validator(minimum(value = "0")))]
    rolling_volume_std: f64,
}

impl Example for PredictRequest {
    fn example() -> Self {
        Self {
            symbol: "BTC-USDT".to_owned(),
            z_score_price: 4.5,
            z_score_log_return: 3.8,
            z_score_volume: 1.5,
            rolling_price_std: 0.008,
            rolling_volume_std: 25.0,
        }
    }
}

/// A valid question: what the model is to judge.
#[derive(Debug, PartialEq)]
pub struct Question {
    /// The market.
    pub symbol: Symbol,
    /// Within the limits of its type.
    pub features: FeatureVector,
}

impl Question {
    /// Reads a body.
    ///
    /// # Errors
    /// A problem with status 422 that names every wrong field.
    pub fn read(body: &[u8]) -> Result<Self, Problem> {
        Self::read_the("body", body)
    }

    /// Reads an item of a body with many.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_item(item: &[u8]) -> Result<Self, Problem> {
        Self::read_the("item", item)
    }

    /// Reads a text that its sender knows by the noun `what`.
    fn read_the(what: &str, text: &[u8]) -> Result<Self, Problem> {
        if !is_object(text) {
            return Err(explain(what, text, "it is no JSON object"));
        }
        let request: PredictRequest =
            serde_json::from_slice(text).map_err(|error| explain(what, text, &error.to_string()))?;
        let features = [
            request.z_score_price,
            request.z_score_log_return,
            request.z_score_volume,
            request.rolling_price_std,
            request.rolling_volume_std,
        ];
        let within = features.iter().zip(LIMITS).all(|(value, (least, most))| (least..=most).contains(value));
        match Symbol::parse(&request.symbol) {
            Ok(symbol) if within => Ok(Self { symbol, features }),
            _ => Err(explain(what, text, "a value is outside its limits")),
        }
    }
}

/// Why the body or item `text` was refused. `otherwise` is the reason where each field on its own is right.
fn explain(what: &str, text: &[u8], otherwise: &str) -> Problem {
    let refuse = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    let value: Value = match serde_json::from_slice(text) {
        _ if text.is_empty() => return refuse(format!("the {what} is empty; send a JSON object with six fields")),
        Ok(value) => value,
        Err(error) => return refuse(format!("the {what} is not JSON: {error}")),
    };
    let Value::Object(fields) = value else {
        return refuse(format!("the {what} must be a JSON object with six fields"));
    };
    let symbol = [("symbol", symbol_fault(fields.get("symbol")))];
    let features =
        FEATURE_NAMES.into_iter().zip(LIMITS).map(|(name, limits)| (name, feature_fault(fields.get(name), limits)));
    let faults: Vec<_> =
        symbol.into_iter().chain(features).filter_map(|(name, fault)| Some(ProblemPart::new(name, fault?))).collect();
    if faults.is_empty() {
        return refuse(format!("the {what} is not valid: {otherwise}"));
    }
    Problem::of_parts(StatusCode::UNPROCESSABLE_ENTITY, &format!("the {what} is not valid"), faults)
}

fn symbol_fault(value: Option<&Value>) -> Option<String> {
    match value {
        None => Some("is missing".to_owned()),
        Some(Value::String(text)) => Symbol::parse(text).err().map(|error| format!("is wrong: {error}")),
        Some(other) => Some(format!("must be a text such as \"BTC-USDT\", not {}", kind(other))),
    }
}

fn feature_fault(value: Option<&Value>, (least, most): (f64, f64)) -> Option<String> {
    let Some(value) = value else { return Some("is missing".to_owned()) };
    match value.as_f64() {
        Some(number) if (least..=most).contains(&number) => None,
        Some(number) if most == f64::MAX => Some(format!("must be at least {least}, not {number}")),
        Some(number) => Some(format!("must be within {least} and {most}, not {number}")),
        None => Some(format!("must be a number, not {}", kind(value))),
    }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

impl<'a> ApiExtractor<'a> for Question {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        PredictRequest::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let schema = PredictRequest::schema_ref();
        let content = vec![MetaMediaType { content_type: "application/json", schema }];
        Some(MetaRequest { description: None, content, required: true })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> Result<Self> {
        refuse_other_types(request)?;
        let body = read_limited(request, body.take()?, BODY_LIMIT).await?;
        Ok(Self::read(&body)?)
    }
}

/// Refuses a body that is said to be something else than JSON.
///
/// # Errors
/// A problem with status 415.
pub fn refuse_other_types(request: &Request) -> Result<(), Problem> {
    if is_json(request.content_type()) {
        return Ok(());
    }
    let detail = "send the body as JSON, with the header Content-Type: application/json";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
}

/// JSON, or nothing said about it: the original service took both.
pub fn is_json(content_type: Option<&str>) -> bool {
    let Some(media_type) = content_type.map(media_type) else { return true };
    let is_of_json = || {
        let media_type = media_type.to_ascii_lowercase();
        media_type.starts_with("application/") && media_type.ends_with("+json")
    };
    media_type.eq_ignore_ascii_case("application/json") || is_of_json()
}

/// The media type of a header `Content-Type`, without its parameters.
pub fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Whether a text that is JSON is an object. A type that is derived would be read from an array of its fields, too.
pub fn is_object(text: &[u8]) -> bool {
    text.trim_ascii_start().first() == Some(&b'{')
}

/// Reads at most `limit` bytes. A declared length is held by the HTTP layer, so that it need not be counted.
pub async fn read_limited(request: &Request, body: Body, limit: usize) -> Result<Bytes> {
    let declared = request.headers().get(header::CONTENT_LENGTH);
    let declared: Option<usize> = declared.and_then(|length| length.to_str().ok()?.parse().ok());
    let read = async {
        match declared {
            Some(length) if length > limit => Err(ReadBodyError::PayloadTooLarge),
            Some(_) => body.into_bytes().await,
            None => body.into_bytes_limit(limit).await,
        }
    };
    match in_time(BODY_TIME, read).await? {
        Ok(bytes) => Ok(bytes),
        Err(ReadBodyError::PayloadTooLarge) => {
            let detail = format!("the body is longer than {limit} bytes");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).into())
        }
        Err(other) => Err(other.into()),
    }
}

/// What is read within this time: who sends ever so slowly holds nothing for ever.
async fn in_time<T>(time: Duration, read: impl Future<Output = T>) -> Result<T, Problem> {
    timeout(time, read).await.map_err(|_| {
        let detail = format!("the body was not there within {} s: send it faster, or less of it", time.as_secs());
        Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const VALID: &str = r#"{"symbol": "BTC-USDT", "z_score_price": 4.5, "z_score_log_return": 3.8,
        "z_score_volume": 1.5, "rolling_price_std": 0.008, "rolling_volume_std": 25}"#;

    fn fields_of(problem: &Problem) -> Vec<&str> {
        problem.parts.iter().map(|part| part.field.as_str()).collect()
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
        let refused = in_time(Duration::from_millis(1), std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(refused.status, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(in_time(BODY_TIME, async { 7 }).await, Ok(7));
    }

    #[test]
    fn a_valid_body_is_read_whole_numbers_and_unknown_fields_included() {
        let body = VALID.replace('{', r#"{"note": "for me", "#);
        let question = Question::read(body.as_bytes()).unwrap();
        assert_eq!(
            question,
            Question { symbol: Symbol::parse("BTC-USDT").unwrap(), features: [4.5, 3.8, 1.5, 0.008, 25.0] }
        );
    }

    #[test]
    fn the_limits_themselves_are_allowed() {
        let body = VALID.replace("4.5", "100").replace("3.8", "-100.0").replace("0.008", "0").replace("25", "1e300");
        assert_eq!(Question::read(body.as_bytes()).unwrap().features, [100.0, -100.0, 1.5, 0.0, 1e300]);
    }

    #[rstest]
    #[case("4.5", "100.0001", "z_score_price must be within -100 and 100, not 100.0001")]
    #[case("3.8", "-101", "z_score_log_return must be within -100 and 100, not -101")]
    #[case("1.5", "\"1.5\"", "z_score_volume must be a number, not text")]
    #[case("1.5", "true", "z_score_volume must be a number, not true or false")]
    #[case("1.5", "null", "z_score_volume must be a number, not null")]
    #[case("1.5", "[1.5]", "z_score_volume must be a number, not an array")]
    #[case("0.008", "-0.001", "rolling_price_std must be at least 0, not -0.001")]
    #[case("\"rolling_volume_std\"", "\"other\"", "rolling_volume_std is missing")]
    #[case("\"BTC-USDT\"", "7", "symbol must be a text such as \"BTC-USDT\", not a number")]
    #[case("BTC-USDT", "btcusdt", "symbol is wrong: `btcusdt` is not a symbol")]
    fn a_wrong_field_is_named_with_its_reason(#[case] from: &str, #[case] to: &str, #[case] expected: &str) {
        let problem = Question::read(VALID.replace(from, to).as_bytes()).unwrap_err();
        assert_eq!(problem.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(problem.detail.contains(expected), "{}", problem.detail);
        assert_eq!(problem.parts.len(), 1);
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let problem = Question::read(br#"{"z_score_price": 1, "rolling_volume_std": -1}"#).unwrap_err();
        assert_eq!(
            fields_of(&problem),
            ["symbol", "z_score_log_return", "z_score_volume", "rolling_price_std", "rolling_volume_std"]
        );
    }

    #[rstest]
    #[case("", "the body is empty")]
    #[case("[1, 2]", "must be a JSON object")]
    #[case(r#"["BTC-USDT", 4.5, 3.8, 1.5, 0.008, 25]"#, "must be a JSON object")]
    #[case("{", "the body is not JSON")]
    #[case("\u{0}", "the body is not JSON")]
    fn what_is_no_object_is_refused_as_a_whole(#[case] body: &str, #[case] expected: &str) {
        let problem = Question::read(body.as_bytes()).unwrap_err();
        assert_eq!(problem.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(problem.detail.contains(expected), "{problem:?}");
    }

    #[rstest]
    #[case("NaN")]
    #[case("Infinity")]
    #[case("-Infinity")]
    #[case("1e999")]
    fn what_is_not_finite_is_refused(#[case] number: &str) {
        let problem = Question::read(VALID.replace("4.5", number).as_bytes()).unwrap_err();
        assert_eq!(problem.status, StatusCode::UNPROCESSABLE_ENTITY);
    }

    #[test]
    fn a_field_given_twice_is_refused() {
        let body = VALID.replace('{', r#"{"z_score_price": 1, "#);
        let problem = Question::read(body.as_bytes()).unwrap_err();
        assert!(problem.detail.contains("duplicate field `z_score_price`"), "{}", problem.detail);
    }

    #[rstest]
    #[case(None, true)]
    #[case(Some("application/json"), true)]
    #[case(Some("Application/JSON; charset=utf-8"), true)]
    #[case(Some("application/vnd.example+json"), true)]
    #[case(Some("text/plain"), false)]
    #[case(Some("application/x-www-form-urlencoded"), false)]
    #[case(Some(""), false)]
    fn a_body_is_json_where_its_media_type_says_so_or_nothing(#[case] media_type: Option<&str>, #[case] json: bool) {
        assert_eq!(is_json(media_type), json);
    }
}
