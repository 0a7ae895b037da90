//! What clients post: the events of one request, in the log before the request is answered.
//!
//! Invariants: what is told as appended is on disk; every event of a request is appended or refused with a reason; a
//! request with a key is appended once, since its key and the digest of its body are a source and its only position.
//! Never writes a heartbeat: that a client is silent proves nothing about a market.

use std::sync::Arc;

use domain::{Clock, ErrorKind, Event, IngestId, Kind, Record, Source, Timestamp, admission::impossible_time};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use streams::{AppendBatch, AppendOutcome, EventLog, SourcePosition, SourceStep, codec, files::MAX_LINE_BYTES};

use super::encoded;
use crate::{error::Error, metrics::Metrics};

/// The most events of one request. One that has more is refused as a whole.
pub const MAX_POSTED: usize = 50_000;

/// Refused events that a sender is told; all of them are counted.
pub const TOLD_REFUSED: usize = 100;

/// The longest idempotency key, in bytes.
pub const MAX_KEY_BYTES: usize = 255;

/// Hexadecimal digits of a key's digest that tell the ids of its events from those of others.
const RUN_DIGITS: usize = 32;

/// A client's name of a request, so that repeating the request appends nothing twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(String);

/// Why a text is not an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key has 1 to 255 characters of printable ASCII, such as a UUID")]
pub struct KeyError;

impl KeyError {
    /// What to do about it.
    #[must_use]
    pub const fn kind(self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl IdempotencyKey {
    /// Reads a key.
    ///
    /// # Errors
    /// [`KeyError`] where the text is empty, longer than [`MAX_KEY_BYTES`] or not printable ASCII.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if text.is_empty() || text.len() > MAX_KEY_BYTES || !printable {
            return Err(KeyError);
        }
        Ok(Self(text.to_owned()))
    }

    /// The run of the ids that events without an id get. A digest, since a key may be longer than a run.
    fn run(&self) -> String {
        format!("http/{}", &hex_digest(self.0.as_bytes())[..RUN_DIGITS])
    }

    /// The step of a source that gives this body and has nothing more.
    fn step(&self, body: &[u8]) -> SourceStep {
        let position = serde_json::json!({ "sha256": hex_digest(body) }).to_string();
        let source_id = format!("http/{}", self.0);
        SourceStep { expected: None, next: SourcePosition { source_id, position, finished: true } }
    }
}

/// A text of a request that is no event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedLine {
    /// The line of the body on which it begins, counted from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// The texts of a request that are no events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefusedLines {
    /// The first of them, at most [`TOLD_REFUSED`].
    pub first: Vec<RefusedLine>,
    /// How many there are.
    pub count: u64,
}

impl RefusedLines {
    fn add(&mut self, line: u64, reason: String) {
        self.count += 1;
        if self.first.len() < TOLD_REFUSED {
            self.first.push(RefusedLine { line, reason });
        }
    }
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Its events are in the log, on disk.
    Appended {
        /// How many.
        events: u64,
        /// What was left out.
        refused: RefusedLines,
    },
    /// A request with the same key and body was appended before. Nothing was appended now.
    AppendedBefore {
        /// What was left out, then as now.
        refused: RefusedLines,
    },
    /// Nothing of it was appended.
    Refused(Refusal),
}

/// Why nothing of a request was appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has more than [`MAX_POSTED`] events.
    #[error("the body has more than 50000 events: send them in several requests")]
    TooMany,
    /// It has no event.
    #[error("the body has no valid event")]
    NoEvent(RefusedLines),
    /// Some of its events are simulated and some are real.
    #[error(
        "line {line} is {found} and the events before it are not: send simulated and real events apart",
        found = found.as_str()
    )]
    Mixed {
        /// The first line of the other kind.
        line: u64,
        /// Its kind.
        found: Kind,
    },
    /// A symbol is of the other kind in this log; the log's own sentence.
    #[error("{0}")]
    OtherKind(String),
    /// The key came with another body before.
    #[error("this idempotency key came with another body before: give every new request a new key")]
    OtherBody,
}

/// Takes events of clients into the log. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    log: Arc<dyn EventLog>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
}

impl Intake {
    /// An intake of this log. By `clock` an event is told that it is too far ahead to be one.
    #[must_use]
    pub fn new(log: Arc<dyn EventLog>, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        Self { log, metrics, clock }
    }

    /// Asks the log something small, to see that it answers.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn ask(&self) -> Result<(), Error> {
        self.log.end_offset(0).await?;
        Ok(())
    }

    /// Appends the events of a body: one JSON object, or one a line.
    ///
    /// # Errors
    /// Where the log takes no records. Of kind [`ErrorKind::Unavailable`], the request may be sent again, without a key
    /// only where doubled events do no harm.
    pub async fn append<B>(&self, body: B, key: Option<IdempotencyKey>) -> Result<Taken, Error>
    where
        B: AsRef<[u8]> + Send + 'static,
    {
        let now = self.clock.now();
        let read = move || Request::read(body.as_ref(), key.as_ref(), now);
        let Request { batch, refused } = match tokio::task::spawn_blocking(read).await? {
            Ok(request) => request,
            Err(refusal) => return Ok(Taken::Refused(refusal)),
        };
        let (events, bytes) = (batch.records.len() as u64, batch.value_bytes());
        match self.log.append(batch).await {
            Ok(AppendOutcome::Appended(_)) => {
                self.metrics.events_logged(events);
                self.metrics.bytes_logged(bytes);
                Ok(Taken::Appended { events, refused })
            }
            Ok(AppendOutcome::AlreadyApplied) => Ok(Taken::AppendedBefore { refused }),
            Err(error @ streams::Error::OtherKind { .. }) => Ok(Taken::Refused(Refusal::OtherKind(error.to_string()))),
            Err(streams::Error::PositionMoved { .. }) => Ok(Taken::Refused(Refusal::OtherBody)),
            Err(error) => Err(error.into()),
        }
    }
}

/// A body as it will be appended.
#[derive(Debug)]
struct Request {
    batch: AppendBatch,
    refused: RefusedLines,
}

impl Request {
    fn read(body: &[u8], key: Option<&IdempotencyKey>, now: Timestamp) -> Result<Self, Refusal> {
        let texts = texts(body);
        if texts.len() > MAX_POSTED {
            return Err(Refusal::TooMany);
        }
        let run = key.map(IdempotencyKey::run);
        let (mut records, mut kind, mut refused) = (Vec::with_capacity(texts.len()), None, RefusedLines::default());
        for (line, text) in texts {
            let mut event = match event(text, now) {
                Ok(event) => event,
                Err(reason) => {
                    refused.add(line, reason);
                    continue;
                }
            };
            let found = event.source.kind();
            if *kind.get_or_insert(found) != found {
                return Err(Refusal::Mixed { line, found });
            }
            if let Some(run) = &run
                && event.trade_id.is_none()
                && event.ingest_id.is_none()
            {
                event.ingest_id = Some(IngestId { run: run.as_str().into(), sequence: line.cast_signed() });
            }
            records.push(encoded(&Record::Event(event)));
        }
        let Some(kind) = kind else { return Err(Refusal::NoEvent(refused)) };
        Ok(Self { batch: AppendBatch { records, kind, source: key.map(|key| key.step(body)) }, refused })
    }
}

/// The texts of a body that should be events, each with the line on which it begins: the whole of it where it is one
/// JSON value, otherwise its lines without the blank ones, and no more than one too many.
fn texts(body: &[u8]) -> Vec<(u64, &[u8])> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    if serde_json::from_slice::<&RawValue>(body).is_ok() {
        let blank = &body[..body.len() - body.trim_ascii_start().len()];
        return vec![(blank.split(|byte| *byte == b'\n').count() as u64, body)];
    }
    let lines = (1_u64..).zip(body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii));
    lines.filter(|(_, text)| !text.is_empty()).take(MAX_POSTED + 1).collect()
}

/// The event that a text is, or what is wrong with it. One that does not say where it came from came from here.
fn event(text: &[u8], now: Timestamp) -> Result<Event, String> {
    if text.len() > MAX_LINE_BYTES {
        return Err(format!("the event is longer than {MAX_LINE_BYTES} bytes"));
    }
    // Whoever reads the reason is told the line already.
    let reason = |error: codec::DecodeError| error.to_string().replace(" at line 1 column ", " at column ");
    let mut event = match codec::decode_value(text).map_err(reason)? {
        Record::Event(event) => event,
        Record::Heartbeat(_) => {
            return Err("a heartbeat is no event: only Sentinel's own sources write them".to_owned());
        }
        Record::Floor(_) => return Err("a floor is no event: only a backfill writes them".to_owned()),
    };
    if let Some(reason) = impossible_time(event.timestamp, now) {
        return Err(reason);
    }
    if event.source == Source::File {
        event.source = Source::Api;
    }
    Ok(event)
}

/// The SHA-256 of some bytes, 64 lowercase hexadecimal digits.
fn hex_digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_710_000_000);
    const EVENT: &str = r#"{"timestamp":1710000000,"symbol":"BTC-USDT","price":43150.5,"volume":1.25}"#;

    fn key(text: &str) -> IdempotencyKey {
        IdempotencyKey::parse(text).unwrap()
    }

    fn read(body: &str) -> Result<Request, Refusal> {
        Request::read(body.as_bytes(), None, NOW)
    }

    fn events(request: &Request) -> Vec<Event> {
        let decoded = request.batch.records.iter().map(|record| codec::decode(record.key.as_bytes(), &record.value));
        let events = decoded.map(|record| match record {
            Ok(Record::Event(event)) => event,
            other => panic!("{other:?}"),
        });
        events.collect()
    }

    fn reasons(refused: &RefusedLines) -> Vec<(u64, &str)> {
        refused.first.iter().map(|refused| (refused.line, refused.reason.as_str())).collect()
    }

    #[test]
    fn lines_are_counted_with_the_blank_ones_and_ends_of_both_kinds() {
        let request = read(&format!("\n{EVENT}\r\n  \n{EVENT}\nbroken\n")).unwrap();
        assert_eq!(request.batch.records.len(), 2);
        assert_eq!(reasons(&request.refused), [(5, "expected value at column 1")]);
    }

    #[test]
    fn one_json_value_is_one_event_however_many_lines_it_has() {
        let spread = format!("\u{feff}\n\n{}\n", EVENT.replace(',', ",\n "));
        assert_eq!(events(&read(&spread).unwrap()), events(&read(EVENT).unwrap()));
        let wrong = spread.replace("43150.5", "-1");
        let Err(Refusal::NoEvent(refused)) = read(&wrong) else { panic!("{wrong}") };
        assert_eq!(reasons(&refused), [(3, "price -1 must be above 0 (from 1e-100 to 1e100)")]);
    }

    #[rstest]
    #[case(r#"{"heartbeat":true,"symbol":"BTC-USDT","timestamp":1710000000}"#.to_owned(), "a heartbeat is no event")]
    #[case(r#"{"floor":true,"symbol":"BTC-USDT","timestamp":1710000000}"#.to_owned(), "a floor is no event")]
    #[case(EVENT.replace("1710000000", "1710000301"), "more than 5 min after")]
    #[case(EVENT.replace("1710000000", "1710000000000"), "more than 5 min after")]
    #[case(EVENT.replace("1710000000", "1"), "is before 2009")]
    #[case(EVENT.replace("BTC-USDT", "btcusdt"), "is not a symbol")]
    #[case(EVENT.replace("1.25", "\"1.25\""), "expected a number in `volume`")]
    #[case("[]".to_owned(), "expected one JSON object")]
    fn what_is_no_event_is_refused_with_its_reason(#[case] line: String, #[case] expected: &str) {
        let Err(Refusal::NoEvent(refused)) = read(&line) else { panic!("{line}") };
        assert_eq!((refused.count, refused.first[0].line), (1, 1));
        assert!(refused.first[0].reason.contains(expected), "{}", refused.first[0].reason);
    }

    #[rstest]
    #[case("", Source::Api)]
    #[case(r#","source":"file""#, Source::Api)]
    #[case(r#","source":"binance""#, Source::Binance)]
    #[case(r#","source":"simulated""#, Source::Simulated)]
    fn an_event_came_from_here_where_it_says_nothing_else(#[case] field: &str, #[case] source: Source) {
        let request = read(&EVENT.replace('}', &format!("{field}}}"))).unwrap();
        assert_eq!((events(&request)[0].source, request.batch.kind), (source, source.kind()));
    }

    #[test]
    fn simulated_and_real_events_do_not_share_a_request() {
        let simulated = EVENT.replace('}', r#","source":"simulated"}"#);
        let refusal = read(&format!("{EVENT}\nbroken\n{simulated}")).unwrap_err();
        assert_eq!(refusal, Refusal::Mixed { line: 3, found: Kind::Simulated });
        let sentence = "line 3 is simulated and the events before it are not: send simulated and real events apart";
        assert_eq!(refusal.to_string(), sentence);
    }

    #[test]
    fn the_first_refused_are_told_and_all_are_counted() {
        let refused = read(&("x\n".repeat(120) + EVENT)).unwrap().refused;
        assert_eq!((refused.count, refused.first.len(), refused.first[99].line), (120, 100, 100));
    }

    #[test]
    fn no_more_than_the_limit_is_taken_at_once() {
        let lines = format!("{EVENT}\n\n");
        assert_eq!(read(&lines.repeat(MAX_POSTED)).unwrap().batch.records.len(), MAX_POSTED);
        assert_eq!(read(&lines.repeat(MAX_POSTED + 1)).unwrap_err(), Refusal::TooMany);
    }

    #[test]
    fn an_event_beyond_the_limit_of_a_line_is_refused() {
        let long = EVENT.replace('{', &format!("{{\"note\":\"{}\",", "x".repeat(MAX_LINE_BYTES)));
        let request = read(&format!("{long}\n{EVENT}")).unwrap();
        assert_eq!((request.batch.records.len(), request.refused.first[0].line), (1, 1));
    }

    #[test]
    fn a_key_makes_a_finished_source_and_ids() {
        let with_id = EVENT.replace('}', r#","trade_id":7}"#);
        let body = format!("{EVENT}\n{with_id}\n{EVENT}");
        let read = |key: IdempotencyKey| Request::read(body.as_bytes(), Some(&key), NOW).unwrap();
        let request = read(key("order 7"));
        let ids: Vec<_> = events(&request).into_iter().map(|event| event.ingest_id).collect();
        let id = |sequence| IngestId { run: key("order 7").run().into(), sequence };
        assert_eq!(ids, [Some(id(1)), None, Some(id(3))]);
        assert!(id(1).run.len() == "http/".len() + RUN_DIGITS && id(1).run.starts_with("http/"));
        let step = request.batch.source.unwrap();
        assert_eq!((step.next.source_id.as_str(), step.next.finished, step.expected), ("http/order 7", true, None));
        assert_ne!(events(&read(key("order 8")))[0].ingest_id, Some(id(1)));
    }

    #[rstest]
    #[case("8e03978e-40d5-43dd-bc93-6894a57f9324".to_owned(), true)]
    #[case("\"quoted\"".to_owned(), true)]
    #[case("x".repeat(MAX_KEY_BYTES), true)]
    #[case("x".repeat(MAX_KEY_BYTES + 1), false)]
    #[case(String::new(), false)]
    #[case("a\tb".to_owned(), false)]
    #[case("schl\u{fc}ssel".to_owned(), false)]
    fn a_key_is_short_and_printable(#[case] text: String, #[case] is_key: bool) {
        assert_eq!(IdempotencyKey::parse(&text).is_ok(), is_key);
    }
}
