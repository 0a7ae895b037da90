//! Errors as clients see them: RFC 9457 problem objects, `application/problem+json`.
//!
//! Clients of the original service read `detail`; it is always there and always a text for a person. The text of an
//! internal failure goes to the log, by `observe`, and never to a client.

use std::{error::Error as StdError, iter, marker::PhantomData};

use domain::ErrorKind;
use poem::{
    IntoResponse, Response,
    error::{MethodNotAllowedError, NotFoundError, ReadBodyError, ResponseError},
    http::{HeaderValue, StatusCode, Uri, header},
};
use poem_openapi::{
    ApiResponse, Object,
    error::{ParseParamError, ParsePathError},
    registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry},
    types::Type,
};
use serde::Serialize;

use crate::identity::Identity;

/// The media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// When to ask again where a part does not answer now, in seconds.
pub const RETRY_AFTER_S: u32 = 5;

/// What went wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// What is wrong with this request and what to do about it.
    pub detail: String,
    /// One entry for each field that is wrong, or for each reason.
    pub parts: Vec<ProblemPart>,
    /// The path that was asked for.
    pub instance: Option<Box<str>>,
    /// The id of the request.
    pub request_id: Option<Box<str>>,
    /// After how many seconds the same request may succeed; the header `Retry-After`.
    pub retry_after_s: Option<u32>,
    /// What failed inside, for the log alone.
    pub cause: Option<Box<str>>,
}

/// What went wrong with the request (RFC 9457).
#[derive(Serialize, Object)]
#[oai(rename = "Problem")]
struct ProblemObject {
    /// Kind of the problem; `about:blank`: the status says it all.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    kind: String,
    /// The status as a phrase.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What is wrong with this request and what to do about it.
    detail: String,
    /// The path that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    /// The id of the request, as in the header `X-Request-Id`; the log of the service knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// One entry for each field that is wrong, or for each reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Vec<ProblemPart>>,
}

impl From<Problem> for ProblemObject {
    fn from(problem: Problem) -> Self {
        Self {
            kind: "about:blank".to_owned(),
            title: problem.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: problem.status.as_u16(),
            detail: problem.detail,
            instance: problem.instance.map(String::from),
            request_id: problem.request_id.map(String::from),
            errors: (!problem.parts.is_empty()).then_some(problem.parts),
        }
    }
}

/// One of several things that are wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Object)]
pub struct ProblemPart {
    /// The field of the body, the parameter, or the part of the program.
    pub field: String,
    /// What is wrong with it.
    pub detail: String,
}

impl ProblemPart {
    /// `field` is wrong for the reason `detail`.
    pub fn new(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), detail: detail.into() }
    }
}

impl Problem {
    /// A problem with this status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let (parts, detail) = (Vec::new(), detail.into());
        Self { status, detail, parts, instance: None, request_id: None, retry_after_s: None, cause: None }
    }

    /// A problem made of several parts; the detail names all of them.
    pub fn of_parts(status: StatusCode, introduction: &str, parts: Vec<ProblemPart>) -> Self {
        let told: Vec<_> = parts.iter().map(|part| format!("{} {}", part.field, part.detail)).collect();
        Self { parts, ..Self::new(status, format!("{introduction}: {}", told.join("; "))) }
    }

    /// The problem, told of this request.
    pub fn of_request(self, uri: &Uri, identity: &Identity) -> Self {
        let (instance, request_id) = (Some(uri.path().into()), Some(identity.text().into()));
        Self { instance, request_id, ..self }
    }

    /// The problem, with the advice to ask again after so many seconds.
    pub fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// An error of a job as a client sees it; what may pass comes with the advice to ask again.
    #[expect(clippy::needless_pass_by_value, reason = "the signature that `map_err` asks for")]
    pub fn of_job(error: jobs::Error) -> Self {
        let status = match error.kind() {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Gone => StatusCode::GONE,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Unavailable => return Self::unavailable(error.to_string()),
            ErrorKind::Corrupt | ErrorKind::Internal => return Self::internal(&error),
        };
        Self::new(status, error.to_string())
    }

    /// A part does not answer now; the same request may succeed later.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(RETRY_AFTER_S)
    }

    /// What a failed handler says to the client.
    pub fn from_failure(failure: &poem::Error) -> Self {
        if let Some(problem) = failure.downcast_ref::<Self>() {
            return problem.clone();
        }
        if let Some(wrong) = failure.downcast_ref::<ParseParamError>() {
            let part = ProblemPart::new(wrong.name, wrong.reason.clone());
            return Self::of_parts(StatusCode::UNPROCESSABLE_ENTITY, "the query is not valid", vec![part]);
        }
        if let Some(wrong) = failure.downcast_ref::<ParsePathError>() {
            // The framework does not know the name of a part of a path.
            let detail = format!("the path is not valid: {}", wrong.reason);
            return Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
        }
        if failure.is::<NotFoundError>() {
            return Self::new(StatusCode::NOT_FOUND, "there is nothing at this path; /docs lists what there is");
        }
        if failure.is::<MethodNotAllowedError>() {
            let detail = "this path does not take this method; the Allow header names those it takes";
            return Self::new(StatusCode::METHOD_NOT_ALLOWED, detail);
        }
        if let Some(ReadBodyError::Io(cause)) = failure.downcast_ref::<ReadBodyError>() {
            let detail = format!("the body cannot be read to the end that it announces: {cause}");
            return Self::new(StatusCode::BAD_REQUEST, detail);
        }
        let status = failure.status();
        if status.is_server_error() {
            return Self::internal(failure);
        }
        Self::new(status, failure.to_string())
    }

    /// A failure of ours: told in general, and in full to the log.
    pub fn internal(cause: &(dyn StdError + 'static)) -> Self {
        let detail = "the request failed; the log of the service tells why";
        Self { cause: Some(chain(cause).into()), ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail) }
    }
}

/// An error with its causes. Whoever only passes an error on says what its cause says: that is left out.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let causes = iter::successors(Some(error), |&cause| cause.source());
    let mut texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}

impl ResponseError for Problem {
    fn status(&self) -> StatusCode {
        self.status
    }

    fn as_response(&self) -> Response {
        self.clone().into_response()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, retry_after_s) = (self.status, self.retry_after_s);
        // What a 401 must say (RFC 9110, 11.6.1).
        let challenge = (status == StatusCode::UNAUTHORIZED).then_some(HeaderValue::from_static("Bearer"));
        // Texts and a number always serialise; the empty body is the answer that cannot fail.
        let body = serde_json::to_vec(&ProblemObject::from(self)).unwrap_or_default();
        let mut response = Response::from(body);
        response.set_status(status);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// The statuses that an operation may refuse a request with, for the document.
pub trait Refusals: Send + Sync + 'static {
    /// Status and when it is answered.
    const STATUSES: &'static [(u16, &'static str)];
}

/// A problem as the document has it. Its schema is registered with the operations that have refusals of their own.
pub fn documented(status: u16, description: &'static str) -> MetaResponse {
    MetaResponse {
        description,
        status: Some(status),
        status_range: None,
        content: vec![MetaMediaType { content_type: PROBLEM_JSON, schema: ProblemObject::schema_ref() }],
        headers: if matches!(status, 429 | 503) { vec![retry_after()] } else { vec![] },
    }
}

/// What any operation may answer.
static ANY: [(u16, &str); 3] = [
    (400, "The path, the query or the framing of the body is broken."),
    (414, "The path and the query are longer than 8 KiB."),
    (500, "The service met a defect; its log tells more."),
];

/// A problem that one of the operation's documented statuses belongs to.
pub struct Refused<R>(Problem, PhantomData<R>);

impl<R> From<Problem> for Refused<R> {
    fn from(problem: Problem) -> Self {
        Self(problem, PhantomData)
    }
}

impl<R: Refusals> From<Refused<R>> for poem::Error {
    fn from(refused: Refused<R>) -> Self {
        refused.0.into()
    }
}

impl<R: Refusals> ApiResponse for Refused<R> {
    fn meta() -> MetaResponses {
        let any = ANY.iter().filter(|(status, _)| R::STATUSES.iter().all(|(own, _)| own != status));
        let responses = R::STATUSES.iter().chain(any).map(|(status, description)| documented(*status, description));
        MetaResponses { responses: responses.collect() }
    }

    fn register(registry: &mut Registry) {
        ProblemObject::register(registry);
    }
}

/// The header of answers that say when to ask again.
fn retry_after() -> MetaHeader {
    MetaHeader {
        name: "Retry-After".to_owned(),
        description: Some("After how many seconds the same request may succeed.".to_owned()),
        required: true,
        deprecated: false,
        schema: u32::schema_ref(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_problem_of_parts_names_each_of_them() {
        let parts = vec![ProblemPart::new("symbol", "is missing"), ProblemPart::new("z_score_price", "is text")];
        let problem = Problem::of_parts(StatusCode::UNPROCESSABLE_ENTITY, "the body is not valid", parts.clone());
        assert_eq!(problem.detail, "the body is not valid: symbol is missing; z_score_price is text");
        assert_eq!((problem.status, problem.parts), (StatusCode::UNPROCESSABLE_ENTITY, parts));
    }

    #[test]
    fn what_failed_inside_is_not_told_to_the_client() {
        let cause = io::Error::other("secret path /var/lib/x");
        let failure = poem::Error::new(cause, StatusCode::INTERNAL_SERVER_ERROR);
        let problem = Problem::from_failure(&failure);
        assert_eq!(problem.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(problem.cause.as_deref(), Some("secret path /var/lib/x"));
        assert!(!serde_json::to_string(&ProblemObject::from(problem)).unwrap().contains("secret"));
    }

    #[test]
    fn a_401_says_how_to_authenticate_and_others_do_not() {
        let challenge = |status| {
            let response = Problem::new(status, "no").into_response();
            response.headers().get(header::WWW_AUTHENTICATE).cloned()
        };
        assert_eq!(challenge(StatusCode::UNAUTHORIZED), Some(HeaderValue::from_static("Bearer")));
        assert_eq!(challenge(StatusCode::FORBIDDEN), None);
    }

    #[test]
    fn absent_members_are_left_out() {
        let problem = Problem::new(StatusCode::NOT_FOUND, "nothing here");
        let text = serde_json::to_string(&ProblemObject::from(problem)).unwrap();
        assert_eq!(text, r#"{"type":"about:blank","title":"Not Found","status":404,"detail":"nothing here"}"#);
    }
}
