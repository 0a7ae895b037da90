//! One attempt at a real server on the loopback: what is sent, how it is signed, and what every answer means.

use rstest::rstest;
use sha2::Digest as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NOW: Timestamp = Timestamp::from_seconds(1_614_265_330);
const PATIENCE: Duration = Duration::from_mins(1);
const ID: &str = "2:10451";
const BODY: &str = r#"{"alerts": ["BTC-USDT"]}"#;

async fn webhook(scheme: &str, listener: &TcpListener, patience: Duration) -> Result<Webhook, Error> {
    let address = format!("{scheme}://{}/told?key=1", listener.local_addr().unwrap());
    Webhook::new(address.parse().unwrap(), Some(SECRET.parse().unwrap()), patience).await
}

/// Sends to a server that answers with these bytes; what the server read, and what became of the attempt.
async fn sent(answer: &str) -> (String, Attempt) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let webhook = webhook("http", &listener, PATIENCE).await.unwrap();
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = request(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        request
    };
    tokio::join!(serve, webhook.send(ID, BODY.as_bytes(), NOW))
}

/// What comes until the body was read.
async fn request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(BODY.as_bytes()) {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "{}", String::from_utf8_lossy(&bytes));
    }
    String::from_utf8(bytes).unwrap()
}

fn header<'a>(request: &'a str, name: &str) -> &'a str {
    let values = request.lines().filter_map(|line| line.split_once(": ").filter(|(found, _)| *found == name));
    values.map(|(_, value)| value).next().unwrap()
}

/// HMAC-SHA256 as RFC 2104 defines it, for keys of at most a block.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let pad = |byte: u8| (0..64).map(|place| key.get(place).copied().unwrap_or(0) ^ byte).collect::<Vec<u8>>();
    let inner = Sha256::digest([&pad(0x36)[..], message].concat());
    Sha256::digest([&pad(0x5c)[..], &inner[..]].concat()).to_vec()
}

#[test]
fn a_message_is_signed_as_the_libraries_of_the_standard_sign_it() {
    let secret: Secret = SECRET.parse().unwrap();
    let signed = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", br#"{"test": 2432232314}"#);
    assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

#[tokio::test]
async fn what_arrives_is_the_message_with_its_name_its_time_and_a_signature_over_all() {
    let (request, attempt) = sent("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(attempt, Attempt::Delivered);
    assert!(request.starts_with("POST /told?key=1 HTTP/1.1\r\n"), "{request}");
    let headers = ["content-type", "webhook-id", "webhook-timestamp"].map(|name| header(&request, name));
    assert_eq!(headers, ["application/json", ID, "1614265330"]);
    let key = STANDARD.decode(SECRET.strip_prefix(SECRET_PREFIX).unwrap()).unwrap();
    let signed = hmac(&key, format!("{ID}.1614265330.{BODY}").as_bytes());
    assert_eq!(header(&request, "webhook-signature"), format!("v1,{}", STANDARD.encode(signed)));
}

#[rstest]
#[case("200 OK", "", Attempt::Delivered)]
#[case("202 Accepted", "", Attempt::Delivered)]
#[case("302 Found", "Location: http://127.0.0.1:1/\r\n", Attempt::Refused(302))]
#[case("400 Bad Request", "", Attempt::Refused(400))]
#[case("401 Unauthorized", "Retry-After: 7\r\n", Attempt::Refused(401))]
#[case("410 Gone", "", Attempt::Refused(410))]
#[case("408 Request Timeout", "", again("HTTP status 408", None))]
#[case("429 Too Many Requests", "Retry-After: 7\r\n", again("HTTP status 429", Some(7)))]
#[case("500 Internal Server Error", "", again("HTTP status 500", None))]
#[case("503 Down", "Retry-After: Thu, 25 Feb 2021 15:03:40 GMT\r\n", again("HTTP status 503", Some(90)))]
#[case("503 Down", "Retry-After: Thu, 25 Feb 2021 15:00:00 GMT\r\n", again("HTTP status 503", Some(0)))]
#[case("503 Down", "Retry-After: soon\r\n", again("HTTP status 503", None))]
#[tokio::test]
async fn an_answer_is_taken_at_its_word(#[case] status: &str, #[case] headers: &str, #[case] expected: Attempt) {
    let (_, attempt) = sent(&format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\n\r\n")).await;
    assert_eq!(attempt, expected);
}

fn again(why: &str, after_seconds: Option<u64>) -> Attempt {
    Attempt::TryAgain { after: after_seconds.map(Duration::from_secs), why: why.to_owned() }
}

#[tokio::test]
async fn who_is_not_there_or_says_nothing_is_tried_again() {
    let (_, attempt) = sent("").await;
    assert!(matches!(attempt, Attempt::TryAgain { after: None, .. }), "{attempt:?}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = webhook("http", &listener, Duration::from_millis(50)).await.unwrap();
    assert_eq!(silent.send(ID, BODY.as_bytes(), NOW).await, again("no answer within 0.05 s", None));
    let gone = webhook("http", &listener, PATIENCE).await.unwrap();
    drop(listener);
    let attempt = gone.send(ID, BODY.as_bytes(), NOW).await;
    let Attempt::TryAgain { after: None, why } = attempt else { panic!("{attempt:?}") };
    assert!(why.starts_with("cannot connect: ") && !why.contains("key=1"), "{why}");
}

#[tokio::test]
async fn a_server_that_does_not_encrypt_is_told_nothing_over_https() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let webhook = match webhook("https", &listener, PATIENCE).await {
        Ok(webhook) => webhook,
        Err(error) => {
            assert!(error.to_string().ends_with("install ca-certificates"), "{error}");
            return;
        }
    };
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        stream.read_buf(&mut bytes).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        bytes
    };
    let (bytes, attempt) = tokio::join!(serve, webhook.send(ID, BODY.as_bytes(), NOW));
    assert!(!String::from_utf8_lossy(&bytes).contains("BTC-USDT"));
    let Attempt::TryAgain { after: None, why } = attempt else { panic!("{attempt:?}") };
    assert!(!why.is_empty() && !why.contains("key=1"), "{why}");
}

#[rstest]
#[case("https://example.org/alerts", Ok("https://example.org"))]
#[case("http://127.0.0.1:8080/a/secret?key=1", Ok("http://127.0.0.1:8080"))]
#[case("ftp://example.org", Err("https://"))]
#[case("example.org", Err("https://"))]
#[case("", Err("https://"))]
#[case("https://me:secret@example.org", Err("before the @"))]
fn an_address_is_shown_without_its_path(#[case] text: &str, #[case] expected: Result<&str, &str>) {
    match (text.parse::<Address>(), expected) {
        (Ok(address), Ok(shown)) => {
            assert_eq!((address.to_string(), format!("{address:?}")), (shown.to_owned(), shown.to_owned()));
        }
        (Err(refused), Err(remedy)) => assert!(refused.contains(remedy) && !refused.contains("secret"), "{refused}"),
        (parsed, _) => panic!("{parsed:?}"),
    }
}

#[rstest]
#[case::without_its_beginning("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
#[case::no_base64("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa!!")]
#[case::too_short("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLQ==")]
#[case::nothing("")]
fn a_secret_is_what_the_standard_asks_for_and_is_never_shown(#[case] text: &str) {
    let refused = text.parse::<Secret>().unwrap_err();
    assert!(refused.contains("openssl rand") && !refused.contains("MfKQ"), "{refused}");
    assert_eq!(format!("{:?}", SECRET.parse::<Secret>().unwrap()), "Secret");
}
