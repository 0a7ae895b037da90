//! What a request is known by: its id, which its answer carries, and the trace of its sender that it is part of.
//!
//! An id that a client gives is taken over where it is short and plain, otherwise one is made that no other request has.
//! A trace is read as strictly as its specification writes it (<https://www.w3.org/TR/trace-context/>); what is no such
//! text is as if it were not there. Neither ever decides about an answer.

use std::{
    fmt,
    io::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

use domain::Timestamp;
use poem::http::{HeaderMap, HeaderValue};
use tracing::field::{DisplayValue, display};

/// The header of the id, in requests and answers.
pub const REQUEST_ID: &str = "x-request-id";

/// The header of the trace.
const TRACEPARENT: &str = "traceparent";

/// The longest id that is taken over.
const LONGEST_ID: usize = 128;

/// Bytes that the longest id made here has room in: 26 of the process, 16 of the number.
const MADE_ID: usize = 48;

/// Makes ids. They begin with the start of the process and its number on its machine.
pub struct RequestIds {
    process: String,
    next: AtomicU64,
}

impl RequestIds {
    /// The ids of a process that began to serve at `begun`.
    pub fn new(begun: Timestamp) -> Self {
        Self { process: format!("{:x}-{:x}-", begun.micros(), std::process::id()), next: AtomicU64::new(1) }
    }

    fn make(&self) -> HeaderValue {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut text = [0; MADE_ID];
        let mut rest = text.as_mut_slice();
        // There is room for the greatest of both numbers.
        let _ = write!(rest, "{}{number:x}", self.process);
        let length = MADE_ID - rest.len();
        HeaderValue::from_bytes(&text[..length]).unwrap_or_else(|_| HeaderValue::from_static("0"))
    }
}

/// What a request is known by.
#[derive(Debug)]
pub struct Identity {
    /// Its id, as the header of the answer has it.
    pub id: HeaderValue,
    /// The span of its sender.
    pub parent: Option<TraceParent>,
}

impl Identity {
    /// The identity that a request's headers give it.
    pub fn of(headers: &HeaderMap, ids: &RequestIds) -> Self {
        let given = headers.get(REQUEST_ID).filter(|id| is_plain(id.as_bytes()));
        Self { id: given.cloned().unwrap_or_else(|| ids.make()), parent: TraceParent::of(headers) }
    }

    /// The id as a text.
    pub fn text(&self) -> &str {
        // Plain ids and made ones are ASCII.
        self.id.to_str().unwrap_or_default()
    }

    /// The trace, as a log line has it.
    pub fn trace_id(&self) -> Option<DisplayValue<TraceId>> {
        self.parent.map(|parent| display(parent.trace_id))
    }

    /// The span of its sender, as a span has it.
    pub fn parent_id(&self) -> Option<DisplayValue<SpanId>> {
        self.parent.map(|parent| display(parent.span_id))
    }
}

fn is_plain(id: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=LONGEST_ID).contains(&id.len()) && id.iter().all(plain)
}

/// The number of a trace, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The number of a span in its trace, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId(u64);

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The span of which a request is a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// Its trace.
    pub trace_id: TraceId,
    /// Its number.
    pub span_id: SpanId,
    /// Whether it is recorded, and what later versions say.
    pub flags: u8,
}

impl TraceParent {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?;
        // Of several nobody knows which one is meant.
        if values.next().is_some() { None } else { Self::parse(value.to_str().ok()?) }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let version = lower_hex(parts.next()?, 2)?;
        let trace_id = lower_hex(parts.next()?, 32).filter(|id| *id != 0)?;
        let span_id = lower_hex(parts.next()?, 16).filter(|id| *id != 0)?;
        let flags = lower_hex(parts.next()?, 2)?;
        // Later versions may add parts; ff is none.
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let (span_id, flags) = (u64::try_from(span_id).ok()?, u8::try_from(flags).ok()?);
        Some(Self { trace_id: TraceId(trace_id), span_id: SpanId(span_id), flags })
    }
}

/// A number of so many hexadecimal digits, small letters only.
fn lower_hex(text: &str, digits: usize) -> Option<u128> {
    let is_lower_hex = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    u128::from_str_radix(text, 16).ok().filter(|_| is_lower_hex)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn identity(headers: &[(&'static str, &str)]) -> Identity {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Identity::of(&map, &RequestIds::new(Timestamp::from_micros(0xabc)))
    }

    #[test]
    fn made_ids_are_different_and_name_the_process() {
        let ids = RequestIds::new(Timestamp::from_micros(0xabc));
        let made = [ids.make(), ids.make()];
        let process = std::process::id();
        assert_eq!(
            made.map(|id| id.to_str().unwrap().to_owned()),
            [format!("abc-{process:x}-1"), format!("abc-{process:x}-2")]
        );
        let last = RequestIds { process: "f".repeat(26), next: AtomicU64::new(u64::MAX) };
        assert_eq!(last.make().len(), 42);
    }

    #[rstest]
    #[case("7".to_owned(), true)]
    #[case("0192b1c2-7d3e-7a4b.x_Y".to_owned(), true)]
    #[case("x".repeat(128), true)]
    #[case("x".repeat(129), false)]
    #[case(String::new(), false)]
    #[case("a b".to_owned(), false)]
    #[case("a/b".to_owned(), false)]
    #[case("\u{e9}".to_owned(), false)]
    fn a_short_and_plain_id_is_taken_over(#[case] id: String, #[case] taken: bool) {
        assert_eq!(identity(&[(REQUEST_ID, &id)]).id.as_bytes() == id.as_bytes(), taken);
    }

    #[test]
    fn a_trace_is_read_to_the_bit() {
        let parent = identity(&[(TRACEPARENT, PARENT)]).parent.unwrap();
        assert_eq!(parent.trace_id.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((parent.span_id.to_string().as_str(), parent.flags), ("00f067aa0ba902b7", 1));
    }

    #[rstest]
    #[case::later_version(PARENT.replacen("00", "cc", 1), true)]
    #[case::more_parts_of_a_later_version(PARENT.replacen("00", "cc", 1) + "-more", true)]
    #[case::more_parts(format!("{PARENT}-more"), false)]
    #[case::no_version(PARENT.replacen("00", "ff", 1), false)]
    #[case::capitals(PARENT.to_ascii_uppercase(), false)]
    #[case::no_trace("00-00000000000000000000000000000000-00f067aa0ba902b7-01".to_owned(), false)]
    #[case::no_span("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01".to_owned(), false)]
    #[case::a_sign(PARENT.replacen("4b", "+b", 1), false)]
    #[case::too_short(PARENT[1..].to_owned(), false)]
    #[case::too_long(PARENT.replacen("01", "001", 1), false)]
    #[case::no_flags(PARENT[..52].to_owned(), false)]
    #[case::spaces(format!(" {PARENT}"), false)]
    #[case::nothing(String::new(), false)]
    fn what_is_no_trace_is_none(#[case] text: String, #[case] is_one: bool) {
        assert_eq!(TraceParent::parse(&text).is_some(), is_one, "{text}");
    }

    #[test]
    fn of_two_traces_none_is_taken() {
        assert_eq!(identity(&[(TRACEPARENT, PARENT), (TRACEPARENT, PARENT)]).parent, None);
    }
}
