//! Where a page of rows ends, as a text that who asks gives back and need not understand.
//!
//! It names the version that the pages are read from, the place of the last row, and the query as a digest, so that the
//! cursor of another query is told from this one's. Every part is parsed before it is used.

use std::fmt;

use domain::{Symbol, Timestamp};
use lake::pages::Place;

/// What begins every cursor; another number where the parts change.
const FORM: &str = "1";

/// The longest text that is looked at.
const MAX_BYTES: usize = 512;

/// Where a page ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The version that is read.
    pub version: u64,
    /// The digest of the query.
    pub query: String,
    /// The place of the last row.
    pub place: Place,
}

impl Cursor {
    /// The cursor that a text stands for.
    pub fn parse(text: &str) -> Option<Self> {
        let parts = unveiled(text)?;
        let [form, version, query, time, partition, offset, symbol] =
            parts.split(' ').collect::<Vec<_>>().try_into().ok()?;
        let symbol = if symbol.is_empty() { None } else { Some(Symbol::parse(symbol).ok()?) };
        let place = Place {
            time: Timestamp::from_micros(time.parse().ok()?),
            partition: partition.parse().ok()?,
            offset: offset.parse().ok()?,
            symbol,
        };
        (form == FORM).then_some(Self { version: version.parse().ok()?, query: query.to_owned(), place })
    }
}

/// Hexadecimal digits, which need no escape in a URL.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, query, place: Place { time, partition, offset, symbol } } = self;
        let symbol = symbol.as_ref().map(Symbol::as_str).unwrap_or_default();
        let parts = format!("{FORM} {version} {query} {} {partition} {offset} {symbol}", time.micros());
        parts.bytes().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The text in hexadecimal digits.
fn unveiled(text: &str) -> Option<String> {
    if text.len() > MAX_BYTES || !text.is_ascii() {
        return None;
    }
    let byte = |pair: &[u8]| {
        let digits = std::str::from_utf8(pair).ok().filter(|digits| digits.len() == 2)?;
        u8::from_str_radix(digits, 16).ok()
    };
    String::from_utf8(text.as_bytes().chunks(2).map(byte).collect::<Option<_>>()?).ok()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn cursor(symbol: Option<&str>) -> Cursor {
        let symbol = symbol.map(|symbol| Symbol::parse(symbol).unwrap());
        let place = Place { time: Timestamp::from_micros(-7), partition: -1, offset: i64::MAX, symbol };
        Cursor { version: u64::MAX, query: "0af7".to_owned(), place }
    }

    #[rstest]
    #[case(None)]
    #[case(Some("BTC-USDT"))]
    fn a_cursor_is_read_as_it_was_written(#[case] symbol: Option<&str>) {
        let text = cursor(symbol).to_string();
        assert!(text.bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
        assert_eq!(Cursor::parse(&text), Some(cursor(symbol)));
    }

    #[rstest]
    #[case(String::new())]
    #[case("zz".to_owned())]
    #[case("+1".to_owned())]
    #[case("3".to_owned())]
    #[case("\u{fc}\u{fc}".to_owned())]
    #[case("31".repeat(300))]
    #[case(cursor(None).to_string() + "20")]
    #[case(cursor(None).to_string().replacen("31", "32", 1))]
    #[case(cursor(Some("BTC-USDT")).to_string().replacen("4254432d55534454", "274f5220313d31", 1))]
    fn what_is_no_cursor_is_none(#[case] text: String) {
        assert_eq!(Cursor::parse(&text), None);
    }
}
