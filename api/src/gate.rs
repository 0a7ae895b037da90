//! Who is let in: the one place where keys, scopes and rates are asked for, where pages of other sites are refused, and
//! where an answer is waited for.
//!
//! It stands around every operation, behind the router, so that no spelling of a path leads past it, and the document
//! says of each operation what it needs. Which scope that is, [`Need::of`] alone decides: an operation that it does not
//! name needs what its method suggests.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use jobs::keys::{Grant, KeyRefusal, Keys, Scope};
use poem::{
    Body, Endpoint, EndpointExt, Request, Response, Result,
    endpoint::{BoxEndpoint, DynEndpoint},
    http::{HeaderMap, Method, StatusCode, header},
};
use poem_openapi::{
    OpenApi,
    registry::{MetaApi, MetaOperation, MetaSecurityScheme, Registry},
};
use tokio::time::timeout;

use crate::{
    asker::Asker,
    meter::{Meter, Sender},
    problem::{Problem, documented},
    protection::Protection,
    site,
    stream::EVENT_STREAM,
};

/// How a key is sent (RFC 6750).
const BEARER: &str = "Bearer";

/// What the gate refuses with, whatever the operation.
const REFUSALS: [(u16, &str); 4] = [
    (401, "There is no API key where one is needed, or it is not valid."),
    (
        403,
        "The request comes from a page of another site, or the API key has neither the scope that the operation needs nor \
         `admin`.",
    ),
    (429, "Too many requests with this key, or from this address; ask again after `Retry-After` seconds."),
    (503, "The answer took too long."),
];

/// What is refused where there is a body.
const SLOW_BODY: (u16, &str) = (408, "The body was not there within 45 s.");

/// What lets a request in.
pub struct Gate {
    keys: Keys,
    keys_required: bool,
    meter: Option<Meter>,
    patience: Duration,
}

impl Gate {
    /// The gate of a service.
    pub fn new(protection: &Protection) -> Self {
        let Protection { keys, keys_required, rate, limits, .. } = protection;
        Self { keys: keys.clone(), keys_required: *keys_required, meter: rate.map(Meter::new), patience: limits.answer }
    }

    /// Lets a request in, with what its key grants where there is one, or says why not.
    fn admit(&self, request: &Request, scope: Scope) -> Result<Option<Grant>, Problem> {
        let checked = bearer(request.headers()).map(|text| self.keys.check(text));
        if let Some(meter) = &self.meter {
            meter.count(sender(request, checked)).map_err(too_many)?;
        }
        if !request.method().is_safe() {
            site::refuse_other_sites(request)?;
        }
        match checked {
            None if !self.keys_required => site::refuse_other_names(request).map(|()| None),
            None => {
                let detail = "an API key is needed: send it in the header Authorization, as Bearer sntl_...";
                Err(Problem::new(StatusCode::UNAUTHORIZED, detail))
            }
            Some(Err(refusal)) => {
                let detail = format!("{refusal}; `sentinel key create` makes another");
                Err(Problem::new(StatusCode::UNAUTHORIZED, detail))
            }
            Some(Ok(grant)) if grant.scopes.allow(scope) => Ok(Some(grant)),
            Some(Ok(grant)) => {
                let (needed, scopes) = (scope.as_str(), grant.scopes);
                let detail = format!("this needs an API key with the scope {needed}; the one that came has {scopes}");
                Err(Problem::new(StatusCode::FORBIDDEN, detail))
            }
        }
    }

    /// The answer; its body ends with the validity of the key.
    fn while_valid(&self, grant: Grant, mut response: Response) -> Response {
        let keys = self.keys.clone();
        let is_over = async move { keys.until_invalid(grant).await };
        let body = response.take_body().into_bytes_stream().take_until(is_over);
        response.set_body(Body::from_bytes_stream(body));
        response
    }
}

/// Who pays for a request: the key, where it is valid, otherwise the address, so that trying keys is counted too.
fn sender(request: &Request, checked: Option<Result<Grant, KeyRefusal>>) -> Sender {
    if let Some(Ok(grant)) = checked {
        return Sender::Key(grant.id);
    }
    let address = request.remote_addr().as_socket_addr().map(SocketAddr::ip);
    Sender::at(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
}

/// What stands in the place of a key. Credentials of another scheme are meant for somebody else, such as a proxy.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, text) = headers.get(header::AUTHORIZATION)?.as_bytes().split_at_checked(BEARER.len())?;
    // What is no text is no key either.
    scheme.eq_ignore_ascii_case(BEARER.as_bytes()).then(|| str::from_utf8(text).unwrap_or_default().trim())
}

fn too_many(retry_after_s: u32) -> Problem {
    let detail = format!("too many requests: send the next in {retry_after_s} s, and fewer a second from then on");
    Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(retry_after_s)
}

/// What an operation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing: it says no more than whether the service runs, and what it is.
    Nothing,
    /// A key with this scope, where keys are required.
    Scope(Scope),
}

impl Need {
    fn of(operation: &MetaOperation) -> Self {
        match operation.operation_id.unwrap_or_default() {
            "livez" | "readyz" | "health" | "dashboard" | "asset" | "docs" | "openapi" => Self::Nothing,
            "predict" | "predict_batch" | "explain" => Self::Scope(Scope::Predict),
            "post_events" => Self::Scope(Scope::Ingest),
            "post_sql" => Self::Scope(Scope::Read),
            _ if operation.method == Method::GET => Self::Scope(Scope::Read),
            _ => Self::Scope(Scope::Admin),
        }
    }
}

/// Operations behind a gate.
pub struct Guarded<T> {
    operations: T,
    gate: Arc<Gate>,
}

impl<T> Guarded<T> {
    /// Puts the gate before `operations`.
    pub fn new(operations: T, gate: Gate) -> Self {
        Self { operations, gate: Arc::new(gate) }
    }
}

impl<T: OpenApi> OpenApi for Guarded<T> {
    fn meta() -> Vec<MetaApi> {
        let mut apis = T::meta();
        let paths = apis.iter_mut().flat_map(|api| &mut api.paths);
        for operation in paths.flat_map(|path| &mut path.operations) {
            if let Need::Scope(scope) = Need::of(operation) {
                document(operation, scope);
            }
        }
        apis
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
        for scope in Scope::ALL {
            registry.create_security_scheme(scope.as_str(), scheme(scope));
        }
    }

    fn add_routes(self, routes: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {
        let mut open = HashMap::new();
        self.operations.add_routes(&mut open);
        let needs = needs(&T::meta());
        for (path, endpoints) in open {
            for (method, endpoint) in endpoints {
                // An operation that is not in the document would need the most.
                let need = needs.get(&(path.clone(), method.clone())).copied().unwrap_or(Need::Scope(Scope::Admin));
                let endpoint = match need {
                    Need::Nothing => endpoint,
                    Need::Scope(scope) => Checked { endpoint, gate: Arc::clone(&self.gate), scope }.boxed(),
                };
                routes.entry(path.clone()).or_default().insert(method, endpoint);
            }
        }
    }
}

/// What each operation needs, by its path as the router has it.
fn needs(apis: &[MetaApi]) -> HashMap<(String, Method), Need> {
    let paths = apis.iter().flat_map(|api| &api.paths);
    let operations = paths.flat_map(|path| {
        let template = route_of(&path.path);
        path.operations.iter().map(move |operation| ((template.clone(), operation.method.clone()), Need::of(operation)))
    });
    operations.collect()
}

/// The route template of a documented path: `/runs/{id}/cancel` is `/runs/:param0/cancel` to the framework.
fn route_of(path: &str) -> String {
    let mut parts: Vec<_> = path.split('/').map(str::to_owned).collect();
    for (number, variable) in parts.iter_mut().filter(|part| part.starts_with('{')).enumerate() {
        *variable = format!(":param{number}");
    }
    parts.join("/")
}

/// Says in the document what an operation needs, and how it is refused.
fn document(operation: &mut MetaOperation, scope: Scope) {
    // One of the two is enough.
    let sufficient = if scope == Scope::Admin { vec![scope] } else { vec![scope, Scope::Admin] };
    let requirement = |scope: Scope| HashMap::from([(scope.as_str(), Vec::new())]);
    operation.security.extend(sufficient.into_iter().map(requirement));
    let slow_body = operation.request.as_ref().map(|_| SLOW_BODY);
    let responses = &mut operation.responses.responses;
    for (status, description) in slow_body.into_iter().chain(REFUSALS) {
        if responses.iter().all(|response| response.status != Some(status)) {
            responses.push(documented(status, description));
        }
    }
}

/// A scheme for each scope, since the document's version knows scopes of `OAuth` only.
fn scheme(scope: Scope) -> MetaSecurityScheme {
    let description = match scope {
        Scope::Read => "An API key with the scope `read`: what is stored, what happens and how the program is.",
        Scope::Predict => "An API key with the scope `predict`: feature vectors are judged.",
        Scope::Ingest => "An API key with the scope `ingest`: events are appended to the log.",
        Scope::Admin => {
            "An API key with the scope `admin`: everything, changes of models, schedules and runs included."
        }
    };
    MetaSecurityScheme {
        ty: "http",
        description: Some(description),
        name: None,
        key_in: None,
        scheme: Some("bearer"),
        bearer_format: Some("sntl_<id>_<secret>"),
        flows: None,
        openid_connect_url: None,
    }
}

/// An operation behind the gate.
struct Checked {
    endpoint: BoxEndpoint<'static>,
    gate: Arc<Gate>,
    scope: Scope,
}

impl Endpoint for Checked {
    type Output = Response;

    async fn call(&self, mut request: Request) -> Result<Response> {
        let grant = self.gate.admit(&request, self.scope)?;
        request.set_data(Asker { key: grant.map(|grant| grant.id) });
        let answer = timeout(self.gate.patience, DynEndpoint::call(&*self.endpoint, request)).await;
        let response = answer.unwrap_or_else(|_| Err(too_slow(self.gate.patience).into()))?;
        Ok(match grant {
            // Any other answer ends by itself.
            Some(grant) if response.content_type() == Some(EVENT_STREAM) => self.gate.while_valid(grant, response),
            _ => response,
        })
    }
}

fn too_slow(patience: Duration) -> Problem {
    let detail = format!("no answer within {} s: it is given up; what it began may be done", patience.as_secs());
    Problem::unavailable(detail)
}

#[cfg(test)]
mod tests {
    use poem::http::HeaderValue;
    use rstest::rstest;

    use super::*;
    use crate::problem::RETRY_AFTER_S;

    #[test]
    fn an_answer_that_is_given_up_says_when_to_ask_again() {
        assert_eq!(too_slow(Duration::from_mins(1)).retry_after_s, Some(RETRY_AFTER_S));
    }

    #[rstest]
    #[case("Bearer sntl_1_x", Some("sntl_1_x"))]
    #[case("bearer   sntl_1_x ", Some("sntl_1_x"))]
    #[case("Bearer", Some(""))]
    #[case("Bearer \u{e9}", Some("\u{e9}"))]
    #[case("Basic dXNlcjpwYXNz", None)]
    #[case("Bear", None)]
    #[case("", None)]
    fn a_key_stands_behind_the_word_bearer(#[case] value: &str, #[case] expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers), None);
        headers.insert(header::AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        assert_eq!(bearer(&headers), expected);
    }

    #[test]
    fn what_is_no_text_is_still_in_the_place_of_a_key() {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_bytes(b"Bearer \xff").unwrap());
        assert_eq!(bearer(&headers), Some(""));
    }
}
