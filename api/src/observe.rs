//! The one layer around every route: counts and times the request, gives it an id and a span, turns failures into
//! problems and panics into 500.
//!
//! It is one layer because each costs a boxed future. A request is not logged, the counters tell of it; a failure of ours
//! is, here and nowhere else, with the id that its answer carries.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures::FutureExt;
use jobs::{metrics::Metrics, spans::SPANS};
use poem::{
    Endpoint, IntoResponse, Request, Response, Result,
    error::MethodNotAllowedError,
    http::{HeaderValue, Method, StatusCode, Uri, header},
};
use tracing::{Instrument, Span, error, field::Empty, info_span};

use crate::{
    identity::{Identity, REQUEST_ID, RequestIds},
    paths::{KnownPath, Paths},
    problem::Problem,
    target,
};

/// The route template of requests that match none.
const UNMATCHED: &str = "unmatched";

/// The header that says that the data are made up.
pub const SIMULATED: &str = "x-simulated";

/// What the layer works with.
pub struct Observing {
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// The paths that there are.
    pub paths: Paths,
    /// Gives ids.
    pub ids: RequestIds,
    /// Whether every answer says that the data are made up.
    pub simulated: bool,
}

/// The layer.
pub struct Observed<E> {
    inner: E,
    observing: Observing,
    unmatched: Arc<str>,
}

impl<E: Endpoint<Output = Response>> Observed<E> {
    /// Puts the layer around `inner`.
    pub fn new(inner: E, observing: Observing) -> Self {
        Self { inner, observing, unmatched: Arc::from(UNMATCHED) }
    }

    async fn answer(&self, request: Request, known: Option<&KnownPath>) -> Result<Response> {
        target::check(&request, known)?;
        self.inner.call(request).await
    }

    fn after_panic(&self, uri: &Uri, identity: &Identity) -> Response {
        self.observing.metrics.handler_panicked();
        let (request_id, trace_id) = (identity.text(), identity.trace_id());
        error!(path = uri.path(), request_id, trace_id, "a handler panicked: this is a defect, please report it");
        let detail = "the request met a defect of the service; its log tells more";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).of_request(uri, identity).into_response()
    }
}

/// What a client gets for a failure. One of ours is logged here.
fn refusal(failure: &poem::Error, uri: &Uri, known: Option<&KnownPath>, identity: &Identity) -> Response {
    let problem = Problem::from_failure(failure);
    if let Some(cause) = &problem.cause {
        let (request_id, trace_id) = (identity.text(), identity.trace_id());
        error!(error = &**cause, path = uri.path(), request_id, trace_id, "a request failed");
    }
    let mut response = problem.of_request(uri, identity).into_response();
    if failure.is::<MethodNotAllowedError>()
        && let Some(known) = known
    {
        response.headers_mut().insert(header::ALLOW, known.allowed.clone());
    }
    response
}

/// The span of a request, for a collector of traces.
fn span(method: &'static str, route: &str, identity: &Identity) -> Span {
    info_span!(
        target: SPANS,
        "request",
        otel.name = %format_args!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        request_id = identity.text(),
        trace_id = identity.trace_id(),
        parent_id = identity.parent_id(),
        trace_flags = identity.parent.map(|parent| parent.flags),
    )
}

/// Notes in a span what was answered.
fn record(span: &Span, status: StatusCode) {
    if span.is_disabled() {
        return;
    }
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

impl<E: Endpoint<Output = Response>> Endpoint for Observed<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let begun = Instant::now();
        let Observing { metrics, paths, ids, simulated } = &self.observing;
        let identity = Identity::of(request.headers(), ids);
        let method = method_name(request.method());
        let uri = request.uri().clone();
        let known = paths.find(uri.path());
        let route = known.map_or(&self.unmatched, |known| &known.template);
        let span = span(method, route, &identity);
        let answered = AssertUnwindSafe(self.answer(request, known)).catch_unwind().instrument(span.clone()).await;
        let mut response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(failure)) => refusal(&failure, &uri, known, &identity),
            Err(_panic) => self.after_panic(&uri, &identity),
        };
        let status = response.status();
        record(&span, status);
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, identity.id);
        if *simulated {
            headers.insert(SIMULATED, HeaderValue::from_static("true"));
        }
        metrics.request_answered(method, route, status.as_u16(), begun.elapsed().as_secs_f64());
        Ok(response)
    }
}

/// The methods that exist, by name; made-up ones share a label.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::Mutex,
    };

    use domain::Timestamp;
    use serde_json::Value;
    use tracing::level_filters::LevelFilter;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    /// A handler that fails.
    struct Broken(fn() -> Result<Response>);

    impl Endpoint for Broken {
        type Output = Response;

        async fn call(&self, _request: Request) -> Result<Response> {
            (self.0)()
        }
    }

    /// Where the log goes.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is answered, and the one line that is logged.
    async fn ask(broken: Broken, metrics: &Arc<Metrics>) -> (Response, Value) {
        let observing = Observing {
            metrics: Arc::clone(metrics),
            paths: Paths::default(),
            ids: RequestIds::new(Timestamp::from_micros(0xabc)),
            simulated: false,
        };
        let lines = Lines::default();
        let sink = lines.clone();
        let log = tracing_subscriber::fmt().json().flatten_event(true).with_max_level(LevelFilter::ERROR);
        let guard = tracing::subscriber::set_default(log.with_writer(move || sink.clone()).finish());
        let request = Request::builder()
            .uri(Uri::from_static("/broken"))
            .header(REQUEST_ID, "order-7")
            .header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"));
        let response = Observed::new(broken, observing).call(request.finish()).await.unwrap();
        drop(guard);
        let line = serde_json::from_slice(&lines.0.lock().unwrap()).unwrap();
        (response, line)
    }

    #[tokio::test]
    async fn a_panic_is_caught_counted_and_answered_with_500() {
        let metrics = Arc::new(Metrics::new());
        let (response, line) = ask(Broken(|| panic!("no answer")), &metrics).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.content_type(), Some("application/problem+json"));
        assert_eq!((&line["request_id"], &line["trace_id"]), (&Value::from("order-7"), &Value::from(TRACE)));
        assert!(metrics.encode().unwrap().contains("sentinel_http_panics_total 1\n"));
    }

    #[tokio::test]
    async fn a_failure_of_ours_is_logged_with_the_id_that_its_answer_carries() {
        let failing = Broken(|| Err(Problem::internal(&io::Error::other("secret path /var/lib/x")).into()));
        let (response, line) = ask(failing, &Arc::new(Metrics::new())).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()[REQUEST_ID], "order-7");
        for (field, expected) in
            [("error", "secret path /var/lib/x"), ("request_id", "order-7"), ("trace_id", TRACE), ("path", "/broken")]
        {
            assert_eq!(line[field], expected, "{line}");
        }
        let body = response.into_body().into_string().await.unwrap();
        assert!(!body.contains("secret") && body.contains("\"request_id\":\"order-7\""), "{body}");
    }
}
