//! The one layer around every route: counts and times the request, turns failures into problems and panics into 500.
//!
//! It is one layer because each costs a boxed future; a request is not logged, the counters tell of it.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures::FutureExt;
use jobs::metrics::Metrics;
use poem::{
    Endpoint, IntoResponse, PathPattern, Request, Response, Result,
    error::MethodNotAllowedError,
    http::{HeaderValue, Method, StatusCode, Uri, header},
};
use poem_openapi::registry::MetaApi;
use tracing::error;

use crate::problem::Problem;

/// The route template of requests that match none.
const UNMATCHED: &str = "unmatched";

/// The methods of each route template, as the `Allow` header has them.
pub struct AllowedMethods(HashMap<String, HeaderValue>);

impl AllowedMethods {
    /// Reads them from the description of the operations. `HEAD` goes wherever `GET` does.
    pub fn of<'a>(apis: impl IntoIterator<Item = &'a MetaApi>) -> Self {
        let paths = apis.into_iter().flat_map(|api| &api.paths);
        let allowed = paths.filter_map(|path| {
            let methods = path.operations.iter().map(|operation| match operation.method {
                Method::GET => "GET, HEAD",
                ref other => other.as_str(),
            });
            let value = HeaderValue::from_str(&methods.collect::<Vec<_>>().join(", ")).ok()?;
            Some((route_of(&path.path), value))
        });
        Self(allowed.collect())
    }
}

/// The route template of a documented path: `/runs/{id}/cancel` is `/runs/:param0/cancel` to the framework.
pub fn route_of(path: &str) -> String {
    let mut parts: Vec<_> = path.split('/').map(str::to_owned).collect();
    for (number, variable) in parts.iter_mut().filter(|part| part.starts_with('{')).enumerate() {
        *variable = format!(":param{number}");
    }
    parts.join("/")
}

/// The layer.
pub struct Observed<E> {
    inner: E,
    metrics: Arc<Metrics>,
    allowed: AllowedMethods,
    unmatched: Arc<str>,
}

impl<E: Endpoint> Observed<E> {
    /// Puts the layer around `inner`.
    pub fn new(inner: E, metrics: Arc<Metrics>, allowed: AllowedMethods) -> Self {
        Self { inner, metrics, allowed, unmatched: Arc::from(UNMATCHED) }
    }

    fn refusal(&self, failure: &poem::Error, uri: &Uri) -> (Response, Arc<str>) {
        let pattern = failure.data::<PathPattern>();
        let route = pattern.map_or_else(|| Arc::clone(&self.unmatched), |pattern| Arc::clone(&pattern.0));
        let mut response = Problem::from_failure(failure).at(uri.path()).into_response();
        if failure.is::<MethodNotAllowedError>()
            && let Some(methods) = self.allowed.0.get(&*route)
        {
            response.headers_mut().insert(header::ALLOW, methods.clone());
        }
        (response, route)
    }

    fn after_panic(&self, uri: &Uri) -> (Response, Arc<str>) {
        self.metrics.handler_panicked();
        error!(path = uri.path(), "a handler panicked: this is a defect, please report it");
        let detail = "the request met a defect of the service; its log tells more";
        let problem = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).at(uri.path());
        (problem.into_response(), Arc::clone(&self.unmatched))
    }
}

impl<E: Endpoint<Output = Response>> Endpoint for Observed<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let begun = Instant::now();
        let method = method_name(request.method());
        let uri = request.uri().clone();
        let (response, route) = match AssertUnwindSafe(self.inner.call(request)).catch_unwind().await {
            Ok(Ok(response)) => {
                let pattern = response.data::<PathPattern>();
                let route = pattern.map_or_else(|| Arc::clone(&self.unmatched), |pattern| Arc::clone(&pattern.0));
                (response, route)
            }
            Ok(Err(failure)) => self.refusal(&failure, &uri),
            Err(_panic) => self.after_panic(&uri),
        };
        self.metrics.request_answered(method, &route, response.status().as_u16(), begun.elapsed().as_secs_f64());
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
    use poem::{Route, endpoint::make_sync, get};

    use super::*;

    #[tokio::test]
    async fn a_panic_is_caught_counted_and_answered_with_500() {
        let metrics = Arc::new(Metrics::new());
        let broken = make_sync(|request: Request| -> Response { panic!("no answer to {}", request.uri()) });
        let endpoint =
            Observed::new(Route::new().at("/broken", get(broken)), Arc::clone(&metrics), AllowedMethods::of(&[]));
        let request = Request::builder().uri(Uri::from_static("/broken")).finish();
        let response = endpoint.call(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.content_type(), Some("application/problem+json"));
        assert!(metrics.encode().unwrap().contains("sentinel_http_panics_total 1\n"));
    }
}
