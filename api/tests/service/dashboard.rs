//! The dashboard: its files, what a browser is told about them, and who may have them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    path::Path,
};

use flate2::read::GzDecoder;
use reqwest::{Method, Response, StatusCode};
use rstest::rstest;

use crate::harness::{Running, json_of};

const PLOTLY: &str = "/assets/plotly-3.0.1.min.js";

const POLICY: &str = "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The files as they are in the folder, by name.
fn files() -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboard");
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// The answer to a request with one header more.
async fn ask(service: &Running, path: &str, name: &str, value: &str) -> Response {
    service.request(Method::GET, path).header(name, value).send().await.unwrap()
}

/// A header of an answer, which has it at most once.
fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    let mut values = response.headers().get_all(name).iter().map(|value| value.to_str().unwrap());
    let first = values.next();
    assert_eq!(values.next(), None, "{name}");
    first
}

fn uncompressed(bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut content).unwrap();
    content
}

#[tokio::test]
async fn every_file_is_there_with_its_type_and_what_a_browser_may_do_with_it() {
    let service = Running::start(None).await;
    for (name, content) in files() {
        let response = service.get(&format!("/assets/{name}")).await;
        assert_eq!(response.status(), StatusCode::OK, "{name}");
        let media_type = match name.rsplit_once('.').unwrap().1 {
            "html" => "text/html; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            "svg" => "image/svg+xml; charset=utf-8",
            other => panic!("a file of another kind: {other}"),
        };
        for (header_name, expected) in [
            ("content-type", Some(media_type)),
            ("content-encoding", None),
            ("cache-control", Some("no-cache")),
            ("vary", Some("accept-encoding")),
            ("content-security-policy", Some(POLICY)),
            ("x-content-type-options", Some("nosniff")),
            ("x-frame-options", Some("DENY")),
            ("referrer-policy", Some("no-referrer")),
        ] {
            assert_eq!(header(&response, header_name), expected, "{header_name} of {name}");
        }
        assert!(response.bytes().await.unwrap() == content, "{name}");
    }
}

#[tokio::test]
async fn the_page_is_at_the_root() {
    let service = Running::start(None).await;
    let response = service.get("/").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(header(&response, "content-security-policy"), Some(POLICY));
    assert!(response.bytes().await.unwrap() == files()["index.html"]);
}

/// The names that a file has behind `before`.
fn named<'a>(text: &'a str, before: &str) -> impl Iterator<Item = &'a str> {
    let rests = text.split(before).skip(1);
    let is_of_a_name = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    rests
        .map(move |rest| rest.split(|letter: char| !is_of_a_name(letter)).next().unwrap())
        .filter(|name| name.contains('.'))
}

#[tokio::test]
async fn every_file_that_a_file_names_is_there() {
    let service = Running::start(None).await;
    let mut names = BTreeSet::new();
    for content in files().into_values() {
        let text = String::from_utf8(content).unwrap();
        for before in ["assets/", "'./", "\"./"] {
            names.extend(named(&text, before).map(str::to_owned));
        }
    }
    assert!(names.contains("app.js"), "{names:?}");
    for name in names {
        let response = service.request(Method::HEAD, &format!("/assets/{name}")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{name}");
    }
}

#[rstest]
#[case::the_page("/")]
#[case::a_file("/assets/app.js")]
#[tokio::test]
async fn a_file_that_the_client_has_is_not_sent_again(#[case] path: &str) {
    let service = Running::start(None).await;
    let response = service.get(path).await;
    let tag = header(&response, "etag").unwrap().to_owned();
    assert!(tag.len() == 34 && tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    let response = ask(&service, path, "if-none-match", &tag).await;
    assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
    assert_eq!((header(&response, "etag"), header(&response, "cache-control")), (Some(&*tag), Some("no-cache")));
    assert_eq!((header(&response, "content-type"), header(&response, "vary")), (None, Some("accept-encoding")));
    assert!(response.bytes().await.unwrap().is_empty());
    let response = ask(&service, path, "if-none-match", "\"another\"").await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_compressed_file_is_the_same_under_another_name() {
    let service = Running::start(None).await;
    for (name, content) in files() {
        let path = format!("/assets/{name}");
        let response = ask(&service, &path, "accept-encoding", "gzip, deflate, br").await;
        assert_eq!(header(&response, "content-encoding"), Some("gzip"), "{name}");
        assert_eq!(header(&response, "vary"), Some("accept-encoding"), "{name}");
        assert_ne!(header(&response, "etag"), header(&service.get(&path).await, "etag"), "{name}");
        assert!(uncompressed(&response.bytes().await.unwrap()) == content, "{name}");
    }
}

#[rstest]
#[case("gzip;q=0")]
#[case("identity, gzip;q=0.5")]
#[case("br")]
#[tokio::test]
async fn who_does_not_want_a_compressed_file_gets_it_as_it_is(#[case] accept_encoding: &str) {
    let service = Running::start(None).await;
    let response = ask(&service, "/assets/app.js", "accept-encoding", accept_encoding).await;
    assert_eq!(header(&response, "content-encoding"), None);
    assert_eq!(header(&response, "vary"), Some("accept-encoding"));
    assert!(response.bytes().await.unwrap() == files()["app.js"]);
}

#[tokio::test]
async fn plotly_is_there_for_good() {
    let service = Running::start(None).await;
    let response = service.get(PLOTLY).await;
    assert_eq!(header(&response, "content-type"), Some("text/javascript; charset=utf-8"));
    assert_eq!(header(&response, "cache-control"), Some("public, max-age=31536000, immutable"));
    assert_eq!(header(&response, "content-security-policy"), Some(POLICY));
    let script = response.bytes().await.unwrap();
    assert!(script.starts_with(b"/**\n* plotly.js v3.0.1\n"));
    let compressed = ask(&service, PLOTLY, "accept-encoding", "gzip").await.bytes().await.unwrap();
    assert!(compressed.len() < script.len() / 2);
    assert!(uncompressed(&compressed) == script);
}

#[rstest]
#[case("nothing.js")]
#[case("App.js")]
#[case("plotly-3.0.2.min.js")]
#[case("..%2Fopenapi.json")]
#[tokio::test]
async fn a_file_that_there_is_not_is_404(#[case] name: &str) {
    let service = Running::start(None).await;
    let response = service.get(&format!("/assets/{name}")).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(header(&response, "content-type"), Some("application/problem+json"));
    assert_eq!(json_of(response).await["status"], 404);
}

#[tokio::test]
async fn the_files_need_no_key_and_what_the_page_asks_for_does() {
    let service = Running::protected(None, |protection| protection.keys_required = true).await;
    for (path, status) in
        [("/", StatusCode::OK), ("/assets/app.js", StatusCode::OK), ("/stats", StatusCode::UNAUTHORIZED)]
    {
        assert_eq!(service.get(path).await.status(), status, "{path}");
    }
}

#[rstest]
#[case("/")]
#[case("/assets/app.js")]
#[tokio::test]
async fn head_tells_of_a_file_without_it(#[case] path: &str) {
    let service = Running::start(None).await;
    let response = service.request(Method::HEAD, path).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let whole = service.get(path).await;
    for name in ["etag", "content-type", "cache-control", "vary", "content-security-policy"] {
        assert_eq!(header(&response, name), header(&whole, name), "{name}");
    }
    assert!(response.bytes().await.unwrap().is_empty());
}
