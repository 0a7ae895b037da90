//! Who is let in: keys and their scopes, rates, what a connection may take, and TLS.

use std::{collections::BTreeSet, fs, num::NonZeroU32, sync::Arc, time::Duration};

use api::{Rate, Tls};
use jobs::keys::Scope;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use reqwest::{Method, Response, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName},
    },
};

use crate::harness::{Running, item, json_of};

/// A service that lets nobody in without a key.
async fn closed() -> Running {
    Running::protected(None, |protection| protection.keys_required = true).await
}

/// The answer to a request with this key.
async fn ask(service: &Running, method: Method, path: &str, key: &str) -> Response {
    service.request(method, path).bearer_auth(key).send().await.unwrap()
}

/// Checks that the response is a problem with this status and gives its detail back.
async fn refusal(response: Response, status: StatusCode) -> String {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    json_of(response).await["detail"].as_str().unwrap().to_owned()
}

/// An operation of the document, with the scopes of which one is enough.
struct Operation {
    id: String,
    method: Method,
    path: String,
    scopes: Vec<String>,
}

impl Operation {
    fn needs(&self, scope: Scope) -> bool {
        self.scopes.iter().any(|name| name == scope.as_str())
    }
}

async fn operations(service: &Running) -> Vec<Operation> {
    let document = service.get_json("/openapi.json", StatusCode::OK).await;
    let mut all = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let names = |requirement: &Value| requirement.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            let requirements = operation["security"].as_array().cloned().unwrap_or_default();
            all.push(Operation {
                id: operation["operationId"].as_str().unwrap().to_owned(),
                method: method.to_ascii_uppercase().parse().unwrap(),
                // A number is a name too.
                path: path
                    .replace("{version}", "1")
                    .replace("{id}", "1")
                    .replace("{name}", "1")
                    .replace("{table}", "1")
                    .replace("{file}", "1"),
                scopes: requirements.iter().flat_map(names).collect(),
            });
        }
    }
    all
}

#[tokio::test]
async fn the_document_says_what_every_operation_needs() {
    let service = closed().await;
    let operations = operations(&service).await;
    let open: BTreeSet<&str> = operations
        .iter()
        .filter(|operation| operation.scopes.is_empty())
        .map(|operation| operation.id.as_str())
        .collect();
    assert_eq!(open, BTreeSet::from(["asset", "dashboard", "docs", "health", "livez", "openapi", "readyz"]));
    for operation in operations.iter().filter(|operation| !operation.scopes.is_empty()) {
        assert!(operation.needs(Scope::Admin), "{}", operation.id);
    }
    let scopes_of = |id: &str| operations.iter().find(|operation| operation.id == id).unwrap().scopes.join(" or ");
    for (id, scopes) in [
        ("stats", "read or admin"),
        ("metrics", "read or admin"),
        ("predict", "predict or admin"),
        ("predict_batch", "predict or admin"),
        ("explain", "predict or admin"),
        ("post_events", "ingest or admin"),
        ("promote_model", "admin"),
        ("trigger_schedule", "admin"),
        ("cancel_run", "admin"),
    ] {
        assert_eq!(scopes_of(id), scopes, "{id}");
    }
    let document = service.get_json("/openapi.json", StatusCode::OK).await;
    let schemes = document["components"]["securitySchemes"].as_object().unwrap();
    assert_eq!(schemes.keys().collect::<Vec<_>>(), ["admin", "ingest", "predict", "read"]);
    assert_eq!((&schemes["read"]["type"], &schemes["read"]["scheme"]), (&json!("http"), &json!("bearer")));
}

#[tokio::test]
async fn without_a_key_only_what_needs_none_is_answered() {
    let service = closed().await;
    for operation in operations(&service).await {
        let response = service.request(operation.method, &operation.path).send().await.unwrap();
        if operation.scopes.is_empty() {
            assert_ne!(response.status(), StatusCode::UNAUTHORIZED, "{}", operation.id);
        } else {
            assert_eq!(response.headers()["www-authenticate"], "Bearer", "{}", operation.id);
            let detail = refusal(response, StatusCode::UNAUTHORIZED).await;
            assert!(detail.contains("Authorization") && detail.contains("Bearer sntl_"), "{detail}");
        }
    }
    assert_eq!(service.get("/no/such/path").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(service.get("/predict").await.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[rstest]
#[case::read(Scope::Read)]
#[case::predict(Scope::Predict)]
#[case::ingest(Scope::Ingest)]
#[case::admin(Scope::Admin)]
#[tokio::test]
async fn a_key_opens_what_its_scope_names_and_nothing_else(#[case] scope: Scope) {
    let service = closed().await;
    let key = service.key(&[scope]).await;
    let mut opened = 0;
    for operation in operations(&service).await {
        let needs_nothing = operation.scopes.is_empty();
        let is_allowed = needs_nothing || operation.needs(scope);
        let response = ask(&service, operation.method, &operation.path, &key).await;
        if is_allowed {
            let status = response.status();
            assert!(status != StatusCode::UNAUTHORIZED && status != StatusCode::FORBIDDEN, "{}", operation.id);
            opened += usize::from(!needs_nothing);
        } else {
            let detail = refusal(response, StatusCode::FORBIDDEN).await;
            let needed = format!("the scope {}", operation.scopes[0]);
            assert!(detail.contains(&needed) && detail.ends_with(&format!("has {}", scope.as_str())), "{detail}");
        }
    }
    assert!(opened > 0);
}

#[tokio::test]
async fn a_key_that_is_not_valid_is_refused_even_where_none_is_needed() {
    let service = Running::start(None).await;
    let revoked = service.key(&[Scope::Read]).await;
    service.keys.revoke(1).await.unwrap();
    let expired = service.expired_key().await;
    let wrong = service.key(&[Scope::Read]).await.replace("sntl_3_", "sntl_1_");
    for (key, reason) in [
        (revoked.as_str(), "was revoked"),
        (expired.as_str(), "has expired"),
        (wrong.as_str(), "no API key"),
        ("sntl_7_x", "no API key"),
        ("", "no API key"),
    ] {
        let detail = refusal(ask(&service, Method::GET, "/stats", key).await, StatusCode::UNAUTHORIZED).await;
        assert!(detail.contains(reason), "{key}: {detail}");
    }
    assert_eq!(ask(&service, Method::GET, "/livez", &wrong).await.status(), StatusCode::OK);
    assert_eq!(service.get("/stats").await.status(), StatusCode::OK);
    let for_a_proxy = service.request(Method::GET, "/stats").header("authorization", "Basic dXNlcjpwYXNz");
    assert_eq!(for_a_proxy.send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn history_tells_by_which_key_something_was_done() {
    let service = closed().await;
    let version = service.has_a_model().await;
    service.key(&[Scope::Read]).await;
    let key = service.key(&[Scope::Admin]).await;
    let path = format!("/models/{version}/promote");
    let request = service.request(Method::POST, &path).bearer_auth(&key).header("content-type", "application/json");
    let promoted = request.body(json!({"reason": "it is better"}).to_string()).send().await.unwrap();
    let promoted = json_of(promoted).await;
    assert_eq!(promoted["history"].as_array().unwrap().last().unwrap()["who"], "API key 2");
}

#[tokio::test]
async fn a_key_that_is_revoked_is_refused_from_then_on() {
    let service = closed().await;
    let key = service.key(&[Scope::Read]).await;
    assert_eq!(ask(&service, Method::GET, "/stats", &key).await.status(), StatusCode::OK);
    service.keys.revoke(1).await.unwrap();
    let detail = refusal(ask(&service, Method::GET, "/stats", &key).await, StatusCode::UNAUTHORIZED).await;
    assert!(detail.contains("was revoked"), "{detail}");
}

#[tokio::test]
async fn a_stream_ends_with_the_validity_of_its_key() {
    let service = closed().await;
    let key = service.key(&[Scope::Read]).await;
    let mut stream = ask(&service, Method::GET, "/stream?kinds=prediction", &key).await;
    service.feed.push_live([item(17, "BTC-USDT", 0.25)]);
    assert!(stream.chunk().await.unwrap().is_some());
    service.keys.revoke(1).await.unwrap();
    while stream.chunk().await.unwrap().is_some() {}
}

#[tokio::test]
async fn a_page_of_another_site_is_refused_by_every_operation_that_takes_something() {
    let service = Running::start(None).await;
    let operations = operations(&service).await;
    let taking: Vec<_> = operations.into_iter().filter(|operation| operation.method == Method::POST).collect();
    assert!(taking.iter().any(|operation| operation.id == "predict"));
    for Operation { id, method, path, .. } in taking {
        let request = service.request(method, &path).header("sec-fetch-site", "cross-site");
        let detail = refusal(request.send().await.unwrap(), StatusCode::FORBIDDEN).await;
        assert!(detail.contains("page of another site"), "{id}: {detail}");
    }
}

#[rstest]
#[case::an_address("127.0.0.1:8000", "200")]
#[case::this_machine("localhost:8000", "200")]
#[case::a_name_that_was_given_its_address("rebound.example:8000", "403")]
#[tokio::test]
async fn without_keys_a_loopback_address_answers_to_no_name_of_another_machine(
    #[case] host: &str,
    #[case] status: &str,
) {
    let service = Running::start(None).await;
    let question = |more: &str| format!("GET /stats HTTP/1.1\r\nhost: {host}\r\n{more}connection: close\r\n\r\n");
    let (head, _) = service.answer_to(&question("")).await;
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    // A page does not have a key.
    let key = service.key(&[Scope::Read]).await;
    let (head, _) = service.answer_to(&question(&format!("authorization: Bearer {key}\r\n"))).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

/// The first answer that says that there were too many requests; no machine is so slow that there is none.
async fn first_429(service: &Running, key: &str) -> Response {
    loop {
        let response = ask(service, Method::GET, "/stats", key).await;
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            return response;
        }
    }
}

#[tokio::test]
async fn too_many_requests_are_429_and_others_are_not_concerned() {
    let rate = Rate { per_second: NonZeroU32::MIN, burst: NonZeroU32::MIN };
    let service = Running::protected(None, |protection| {
        protection.keys_required = true;
        protection.rate = Some(rate);
    })
    .await;
    let (ann, bob) = (service.key(&[Scope::Read]).await, service.key(&[Scope::Read]).await);
    let response = first_429(&service, &ann).await;
    assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
    let detail = refusal(response, StatusCode::TOO_MANY_REQUESTS).await;
    assert!(detail.contains("too many requests"), "{detail}");
    assert_eq!(ask(&service, Method::GET, "/stats", &bob).await.status(), StatusCode::OK);
    // Whoever tries keys is counted by the address, and what needs no key is never counted.
    first_429(&service, "sntl_1_guessed").await;
    assert_eq!(service.get("/livez").await.status(), StatusCode::OK);
}

/// What comes back for these bytes until the other side closes.
async fn exchange(service: &Running, sent: &str) -> String {
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    stream.write_all(sent.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[rstest]
#[case::long(1, 16 * 1_024)]
#[case::many(101, 1)]
#[tokio::test]
async fn a_head_that_is_too_big_is_431(#[case] fields: usize, #[case] length: usize) {
    let service = Running::start(None).await;
    let head = |fields: usize, length: usize| {
        let fields: Vec<_> = (0..fields).map(|number| format!("x-{number}: {}\r\n", "a".repeat(length))).collect();
        format!("GET /livez HTTP/1.1\r\nconnection: close\r\n{}\r\n", fields.concat())
    };
    assert!(exchange(&service, &head(fields.div_ceil(2), length / 2)).await.starts_with("HTTP/1.1 200"));
    assert!(exchange(&service, &head(fields, length)).await.starts_with("HTTP/1.1 431"));
}

#[rstest]
#[case::nothing("")]
#[case::half_a_head("GET /livez HTTP/1.1\r\nhost: ")]
#[case::half_a_second_head("GET /livez HTTP/1.1\r\n\r\nGET ")]
#[tokio::test]
async fn a_head_that_does_not_come_in_time_is_not_waited_for(#[case] sent: &str) {
    let service = Running::protected(None, |protection| protection.limits.head = Duration::from_millis(50)).await;
    let answer = exchange(&service, sent).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), sent.matches("\r\n\r\n").count(), "{answer}");
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_given_up_and_a_stream_is_none() {
    let patience = Duration::from_millis(50);
    let service = Running::protected(None, |protection| protection.limits.answer = patience).await;
    let mut stream = service.get("/stream?kinds=prediction").await;
    // The body is announced and does not come.
    assert_eq!(service.announce("/predict", 100).await, "HTTP/1.1 503");
    service.feed.push_live([item(17, "BTC-USDT", 0.25)]);
    let event = stream.chunk().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&event).contains("\"id\":\"0:17\""));
}

/// Reads one answer to `GET /livez`.
async fn read_alive(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"{\"status\":\"alive\"}") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn more_connections_than_there_are_places_wait_for_one() {
    const QUESTION: &[u8] = b"GET /livez HTTP/1.1\r\n\r\n";
    let service = Running::protected(None, |protection| protection.limits.connections = 1).await;
    let mut inside = TcpStream::connect(service.address).await.unwrap();
    let mut waiting = TcpStream::connect(service.address).await.unwrap();
    waiting.write_all(QUESTION).await.unwrap();
    for _ in 0..3 {
        inside.write_all(QUESTION).await.unwrap();
        assert!(read_alive(&mut inside).await.starts_with("HTTP/1.1 200"));
    }
    assert!(waiting.try_read(&mut [0; 12]).is_err(), "nobody has read its question");
    drop(inside);
    assert!(read_alive(&mut waiting).await.starts_with("HTTP/1.1 200"));
}

/// A service with a certificate of its own, and the certificate.
async fn encrypted() -> (Running, CertificateDer<'static>) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    fs::write(&certificate, cert.pem()).unwrap();
    fs::write(&key, signing_key.serialize_pem()).unwrap();
    let tls = Tls::load(&certificate, &key).unwrap();
    let service = Running::protected(None, |protection| {
        protection.tls = Some(tls);
        protection.keys_required = true;
    })
    .await;
    (service, cert.der().clone())
}

#[tokio::test]
async fn a_service_with_a_certificate_is_asked_over_tls_and_a_silent_peer_keeps_nobody_waiting() {
    let (service, certificate) = encrypted().await;
    let key = service.key(&[Scope::Read]).await;
    let _silent = TcpStream::connect(service.address).await.unwrap();
    let mut trusted = RootCertStore::empty();
    trusted.add(certificate).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(trusted).with_no_client_auth();
    let stream = TcpStream::connect(service.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let question =
        format!("GET /stats HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"total_predictions\":0"), "{answer}");
}

#[tokio::test]
async fn a_service_with_a_certificate_does_not_speak_without_it() {
    let (service, _certificate) = encrypted().await;
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // The connection may be reset, since what was sent is not read to its end.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP"));
}
