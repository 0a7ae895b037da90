//! The bytes of a topic record: one JSON object, decoded in one pass without intermediate values.
//!
//! Invariant: `decode(encode(record)) == record`, floats bit for bit and times to the microsecond; fields that are
//! not of the format travel along as JSON text. Never repairs: what is not exactly of the form is a [`DecodeError`]
//! with a sentence. The limits of single values are `domain`'s; whether an event is admitted is not decided here.

use std::{borrow::Cow, collections::HashSet, fmt, str};

use domain::{
    ErrorKind, Event, Floor, Heartbeat, IngestId, Record, Side, Source, Symbol, Timestamp, event::MAX_NAME_BYTES,
    time::MICROS,
};
use serde::{
    Serialize,
    de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Why bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct DecodeError {
    reason: String,
}

impl DecodeError {
    /// What to do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }

    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

impl From<serde_json::Error> for DecodeError {
    fn from(error: serde_json::Error) -> Self {
        Self::new(error.to_string())
    }
}

/// Reads a record of the log and checks that its symbol is its key.
///
/// # Errors
/// [`DecodeError`] where the value is not a record or is about another symbol.
pub fn decode(key: &[u8], value: &[u8]) -> Result<Record, DecodeError> {
    let record = decode_value(value)?;
    if record.symbol().as_bytes() == key {
        return Ok(record);
    }
    let key = String::from_utf8_lossy(&key[..key.len().min(MAX_NAME_BYTES)]);
    Err(DecodeError::new(format!("the record's key `{key}` is not its symbol `{}`", record.symbol())))
}

/// Reads a record that has no key yet, such as a line of a file.
///
/// # Errors
/// [`DecodeError`] where the value is not a record.
pub fn decode_value(value: &[u8]) -> Result<Record, DecodeError> {
    let text = str::from_utf8(value).map_err(|error| DecodeError::new(format!("the record is not UTF-8: {error}")))?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let fields = deserializer.deserialize_map(FieldsVisitor)?;
    deserializer.end()?;
    fields.into_record()
}

/// Appends the JSON form of a record to `out`, in the order of the fields in `Event`.
///
/// The record must keep `domain`'s limits (see `Event::check`): a number that is not finite has no JSON form.
pub fn encode(record: &Record, out: &mut Vec<u8>) {
    match record {
        Record::Event(event) => encode_event(event, out),
        Record::Heartbeat(Heartbeat { timestamp, symbol }) => encode_control("heartbeat", *timestamp, *symbol, out),
        Record::Floor(Floor { timestamp, symbol }) => encode_control("floor", *timestamp, *symbol, out),
    }
}

/// The form of a record without its meaning: which fields it has.
#[derive(Default)]
struct Fields {
    timestamp: Option<Timestamp>,
    symbol: Option<Symbol>,
    price: Option<f64>,
    volume: Option<f64>,
    log_return: Option<f64>,
    is_anomaly: Option<bool>,
    anomaly_type: Option<Box<str>>,
    trade_id: Option<i64>,
    side: Option<Side>,
    ingest_id: Option<IngestId>,
    source: Option<Source>,
    heartbeat: Option<bool>,
    floor: Option<bool>,
    extra: Option<String>,
    seen: u16,
}

impl Fields {
    fn into_record(self) -> Result<Record, DecodeError> {
        let missing = |field: &str| DecodeError::new(format!("the field `{field}` is missing"));
        let timestamp = self.timestamp.ok_or_else(|| missing("timestamp"))?;
        let symbol = self.symbol.ok_or_else(|| missing("symbol"))?;
        if self.heartbeat == Some(true) {
            self.check_control(Known::Heartbeat)?;
            return Ok(Record::Heartbeat(Heartbeat { timestamp, symbol }));
        }
        if self.floor == Some(true) {
            self.check_control(Known::Floor)?;
            return Ok(Record::Floor(Floor { timestamp, symbol }));
        }
        let event = Event {
            timestamp,
            symbol,
            price: self.price.ok_or_else(|| missing("price"))?,
            volume: self.volume.ok_or_else(|| missing("volume"))?,
            log_return: self.log_return,
            is_anomaly: self.is_anomaly,
            anomaly_type: self.anomaly_type,
            trade_id: self.trade_id,
            side: self.side,
            ingest_id: self.ingest_id,
            source: self.source.unwrap_or(Source::File),
            extra: self.extra.map(|text| (text + "}").into_boxed_str()),
        };
        event.check().map_err(|error| DecodeError::new(error.to_string()))?;
        Ok(Record::Event(event))
    }

    /// A control record has no other fields: keeping them is impossible, and nothing is dropped in silence.
    fn check_control(&self, kind: Known) -> Result<(), DecodeError> {
        let allowed = Known::Timestamp.bit() | Known::Symbol.bit() | kind.bit();
        if self.seen & !allowed != 0 || self.extra.is_some() {
            let name = kind.name();
            return Err(DecodeError::new(format!("a {name} has the fields `symbol` and `timestamp` and no others")));
        }
        Ok(())
    }
}

/// The fields of the format.
#[derive(Clone, Copy)]
enum Known {
    Timestamp,
    Symbol,
    Price,
    Volume,
    LogReturn,
    IsAnomaly,
    AnomalyType,
    TradeId,
    Side,
    IngestId,
    Source,
    Heartbeat,
    Floor,
}

impl Known {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "timestamp" => Self::Timestamp,
            "symbol" => Self::Symbol,
            "price" => Self::Price,
            "volume" => Self::Volume,
            "log_return" => Self::LogReturn,
            "is_anomaly" => Self::IsAnomaly,
            "anomaly_type" => Self::AnomalyType,
            "trade_id" => Self::TradeId,
            "side" => Self::Side,
            "ingest_id" => Self::IngestId,
            "source" => Self::Source,
            "heartbeat" => Self::Heartbeat,
            "floor" => Self::Floor,
            _ => return None,
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Timestamp => "timestamp",
            Self::Symbol => "symbol",
            Self::Price => "price",
            Self::Volume => "volume",
            Self::LogReturn => "log_return",
            Self::IsAnomaly => "is_anomaly",
            Self::AnomalyType => "anomaly_type",
            Self::TradeId => "trade_id",
            Self::Side => "side",
            Self::IngestId => "ingest_id",
            Self::Source => "source",
            Self::Heartbeat => "heartbeat",
            Self::Floor => "floor",
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// A field's name: of the format, or any other.
enum Name<'de> {
    Known(Known),
    Other(Cow<'de, str>),
}

struct NameSeed;

impl<'de> DeserializeSeed<'de> for NameSeed {
    type Value = Name<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Name<'de>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for NameSeed {
    type Value = Name<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
        Ok(Known::from_name(name).map_or(Name::Other(Cow::Borrowed(name)), Name::Known))
    }

    fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
        Ok(Known::from_name(name).map_or_else(|| Name::Other(Cow::Owned(name.to_owned())), Name::Known))
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        let mut others: HashSet<Cow<'de, str>> = HashSet::new();
        while let Some(name) = map.next_key_seed(NameSeed)? {
            match name {
                Name::Known(known) => read_known(&mut fields, known, &mut map)?,
                Name::Other(name) => {
                    let value: &RawValue = map.next_value()?;
                    push_extra(fields.extra.get_or_insert_default(), &name, value.get());
                    if let Some(twice) = others.replace(name) {
                        return Err(A::Error::custom(format_args!("the field `{}` occurs twice", shortened(&twice))));
                    }
                }
            }
        }
        Ok(fields)
    }
}

fn read_known<'de, A: MapAccess<'de>>(fields: &mut Fields, known: Known, map: &mut A) -> Result<(), A::Error> {
    if fields.seen & known.bit() != 0 {
        return Err(A::Error::custom(format_args!("the field `{}` occurs twice", known.name())));
    }
    match known {
        Known::Timestamp => fields.timestamp = read_timestamp(map.next_value()?)?,
        Known::Symbol => fields.symbol = map.next_value_seed(Text("symbol", Symbol::parse))?,
        Known::Price => fields.price = map.next_value_seed(Number("price"))?,
        Known::Volume => fields.volume = map.next_value_seed(Number("volume"))?,
        Known::LogReturn => fields.log_return = map.next_value_seed(Number("log_return"))?,
        Known::IsAnomaly => fields.is_anomaly = map.next_value_seed(Truth("is_anomaly"))?,
        Known::AnomalyType => fields.anomaly_type = map.next_value_seed(Text("anomaly_type", short_name))?,
        Known::TradeId => fields.trade_id = map.next_value_seed(Whole("trade_id"))?,
        Known::Side => fields.side = map.next_value_seed(Text("side", side))?,
        Known::IngestId => fields.ingest_id = map.next_value_seed(IngestIdSeed)?,
        Known::Source => fields.source = map.next_value_seed(Text("source", source))?,
        Known::Heartbeat => fields.heartbeat = map.next_value_seed(Truth("heartbeat"))?,
        Known::Floor => fields.floor = map.next_value_seed(Truth("floor"))?,
    }
    fields.seen |= known.bit();
    Ok(())
}

fn read_timestamp<E: serde::de::Error>(value: &RawValue) -> Result<Option<Timestamp>, E> {
    match value.get() {
        "null" => Ok(None),
        digits => Timestamp::parse_seconds(digits).map(Some).map_err(E::custom),
    }
}

fn short_name(text: &str) -> Result<Box<str>, String> {
    if text.len() > MAX_NAME_BYTES {
        return Err(format!("`{}` is longer than {MAX_NAME_BYTES} bytes", shortened(text)));
    }
    Ok(text.into())
}

fn side(text: &str) -> Result<Side, String> {
    match text {
        "buy" => Ok(Side::Buy),
        "sell" => Ok(Side::Sell),
        _ => Err(format!("the side `{}` is neither `buy` nor `sell`", shortened(text))),
    }
}

fn source(text: &str) -> Result<Source, String> {
    Source::from_name(text).ok_or_else(|| format!("the source `{}` is not known", shortened(text)))
}

/// The beginning of a text that may be long, for a message.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Adds `"name":value` to the open object `extra`, without the insignificant white space of `value`.
fn push_extra(extra: &mut String, name: &str, value: &str) {
    extra.push(if extra.is_empty() { '{' } else { ',' });
    extra.push_str(&json_text(name));
    extra.push(':');
    if value.bytes().any(|byte| byte.is_ascii_whitespace()) {
        push_compact(extra, value);
    } else {
        extra.push_str(value);
    }
}

fn push_compact(out: &mut String, json: &str) {
    let (mut in_text, mut escaped) = (false, false);
    for character in json.chars() {
        if in_text {
            in_text = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else if character.is_ascii_whitespace() {
            continue;
        } else {
            in_text = character == '"';
        }
        out.push(character);
    }
}

/// A reader of one nullable value that names its field when the type is wrong.
macro_rules! nullable {
    ($seed:ident => $value:ty, $what:literal, { $($visits:item)* }) => {
        struct $seed(&'static str);

        impl<'de> DeserializeSeed<'de> for $seed {
            type Value = Option<$value>;

            fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                deserializer.deserialize_any(self)
            }
        }

        impl<'de> Visitor<'de> for $seed {
            type Value = Option<$value>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($what, " in `{}`"), self.0)
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(None)
            }

            $($visits)*
        }
    };
}

nullable!(Number => f64, "a number", {
    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Some(value))
    }

    #[expect(clippy::cast_precision_loss, reason = "rounded to the nearest, as a decimal fraction would be")]
    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(value as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "rounded to the nearest, as a decimal fraction would be")]
    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(value as f64))
    }
});

nullable!(Truth => bool, "true or false", {
    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(value))
    }
});

nullable!(Whole => i64, "a whole number", {
    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        i64::try_from(value).map(Some).map_err(|_| E::custom(format_args!("`{}` is too large: {value}", self.0)))
    }
});

/// A reader of one nullable text, turned into its meaning by the function.
struct Text<F>(&'static str, F);

impl<'de, T, E: fmt::Display, F: FnOnce(&str) -> Result<T, E>> DeserializeSeed<'de> for Text<F> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<T, M: fmt::Display, F: FnOnce(&str) -> Result<T, M>> Visitor<'_> for Text<F> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "text in `{}`", self.0)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        (self.1)(text).map(Some).map_err(E::custom)
    }
}

/// Reads `{"run": text, "sequence": whole number}`.
struct IngestIdSeed;

impl<'de> DeserializeSeed<'de> for IngestIdSeed {
    type Value = Option<IngestId>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for IngestIdSeed {
    type Value = Option<IngestId>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `run` and `sequence` in `ingest_id`")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut run, mut sequence) = (None, None);
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            match &*name {
                "run" if run.is_none() => run = map.next_value_seed(Text("ingest_id.run", short_name))?,
                "sequence" if sequence.is_none() => sequence = map.next_value_seed(Whole("ingest_id.sequence"))?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    return Err(A::Error::custom("`ingest_id` has the fields `run` and `sequence`, once each"));
                }
            }
        }
        match (run, sequence) {
            (Some(run), Some(sequence)) => Ok(Some(IngestId { run, sequence })),
            _ => Err(A::Error::custom("`ingest_id` needs `run` and `sequence`")),
        }
    }
}

fn encode_event(event: &Event, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"timestamp\":");
    push_seconds(event.timestamp, out);
    out.extend_from_slice(b",\"symbol\":\"");
    out.extend_from_slice(event.symbol.as_bytes());
    out.extend_from_slice(b"\",\"price\":");
    push_json(&event.price, out);
    out.extend_from_slice(b",\"volume\":");
    push_json(&event.volume, out);
    push_field(b"log_return", event.log_return.as_ref(), out);
    push_field(b"is_anomaly", event.is_anomaly.as_ref(), out);
    push_field(b"anomaly_type", event.anomaly_type.as_deref(), out);
    push_field(b"trade_id", event.trade_id.as_ref(), out);
    push_field(b"side", event.side.map(Side::as_str), out);
    if let Some(id) = &event.ingest_id {
        out.extend_from_slice(b",\"ingest_id\":{\"run\":");
        push_json(&*id.run, out);
        out.extend_from_slice(b",\"sequence\":");
        push_json(&id.sequence, out);
        out.push(b'}');
    }
    if event.source != Source::File {
        push_field(b"source", Some(event.source.as_str()), out);
    }
    if let Some(inner) = event.extra.as_deref().and_then(|text| text.strip_prefix('{')?.strip_suffix('}'))
        && !inner.is_empty()
    {
        out.push(b',');
        out.extend_from_slice(inner.as_bytes());
    }
    out.push(b'}');
}

fn encode_control(kind: &str, timestamp: Timestamp, symbol: Symbol, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\":true,\"symbol\":\"");
    out.extend_from_slice(symbol.as_bytes());
    out.extend_from_slice(b"\",\"timestamp\":");
    push_seconds(timestamp, out);
    out.push(b'}');
}

fn push_field<T: Serialize + ?Sized>(name: &[u8], value: Option<&T>, out: &mut Vec<u8>) {
    if let Some(value) = value {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name);
        out.extend_from_slice(b"\":");
        push_json(value, out);
    }
}

fn push_json<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    let written = serde_json::to_writer(out, value);
    assert!(written.is_ok(), "numbers and text always have a JSON form, and memory takes every byte");
}

fn json_text(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_else(|error| unreachable!("text always has a JSON form: {error}"))
}

/// Seconds with as many of six decimals as the instant needs.
fn push_seconds(timestamp: Timestamp, out: &mut Vec<u8>) {
    let micros = timestamp.micros();
    if micros < 0 {
        out.push(b'-');
    }
    let magnitude = micros.unsigned_abs();
    push_json(&(magnitude / MICROS.unsigned_abs()), out);
    let mut fraction = magnitude % MICROS.unsigned_abs();
    if fraction == 0 {
        return;
    }
    let mut decimals = 6;
    while fraction.is_multiple_of(10) {
        fraction /= 10;
        decimals -= 1;
    }
    let digits = format!(".{fraction:0decimals$}");
    out.extend_from_slice(digits.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    const EXAMPLE: &str = r#"{"timestamp": 1710000000, "symbol": "BTC-USDT", "price": 43150.50, "volume": 12.534210,
        "log_return": 0.003521, "is_anomaly": false, "anomaly_type": null}"#;

    fn example() -> Event {
        Event {
            timestamp: Timestamp::from_seconds(1_710_000_000),
            symbol: Symbol::parse("BTC-USDT").unwrap(),
            price: 43_150.5,
            volume: 12.534_21,
            log_return: Some(0.003_521),
            is_anomaly: Some(false),
            anomaly_type: None,
            trade_id: None,
            side: None,
            ingest_id: None,
            source: Source::File,
            extra: None,
        }
    }

    fn encoded(record: &Record) -> String {
        let mut out = Vec::new();
        encode(record, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn with(fields: &str) -> Result<Event, DecodeError> {
        let text = format!(r#"{{"timestamp":1,"symbol":"A-B","price":2,"volume":3,{fields}}}"#);
        decode_value(text.as_bytes()).map(|record| match record {
            Record::Event(event) => event,
            other => panic!("an event was expected, not {other:?}"),
        })
    }

    #[test]
    fn the_documented_example_is_read() {
        assert_eq!(decode(b"BTC-USDT", EXAMPLE.as_bytes()), Ok(Record::Event(example())));
    }

    #[test]
    fn the_bytes_of_records_are_pinned() {
        let full = Event {
            timestamp: Timestamp::from_micros(1_710_000_000_250_100),
            anomaly_type: Some("PRICE_SPIKE \u{1F680}\"".into()),
            is_anomaly: Some(true),
            trade_id: Some(-5),
            side: Some(Side::Sell),
            ingest_id: Some(IngestId { run: "run-1".into(), sequence: 9 }),
            source: Source::Binance,
            extra: Some(r#"{"venue":"x","deep":{"a":[1,2.50]}}"#.into()),
            price: 1e-5,
            volume: 1e100,
            ..example()
        };
        let heartbeat =
            Heartbeat { timestamp: Timestamp::from_micros(-500_000), symbol: Symbol::parse("A-B").unwrap() };
        let floor = Floor { timestamp: Timestamp::from_micros(60_000_000), symbol: Symbol::parse("A-B").unwrap() };
        let records =
            [Record::Event(example()), Record::Event(full), Record::Heartbeat(heartbeat), Record::Floor(floor)];
        let lines: String = records.iter().map(|record| encoded(record) + "\n").collect();
        assert_eq!(lines, include_str!("../tests/golden/records.jsonl"));
        let read: Vec<_> = lines.lines().map(|line| decode_value(line.as_bytes()).unwrap()).collect();
        assert_eq!(read, records);
    }

    #[test]
    fn a_fraction_of_a_second_is_kept_to_the_microsecond() {
        let text = r#"{"timestamp":1710000000.000001,"symbol":"A-B","price":1,"volume":0}"#;
        let record = decode_value(text.as_bytes()).unwrap();
        assert_eq!(record.timestamp(), Timestamp::from_micros(1_710_000_000_000_001));
    }

    #[test]
    fn nulls_are_absent_fields() {
        let nulls = r#""log_return":null,"is_anomaly":null,"anomaly_type":null,"trade_id":null,"side":null,
            "ingest_id":null,"source":null,"heartbeat":null"#;
        assert_eq!(with(nulls), with(r#""heartbeat":false"#));
        let error = decode_value(br#"{"timestamp":1,"symbol":"A-B","price":null,"volume":3}"#).unwrap_err();
        assert_eq!(error.to_string(), "the field `price` is missing");
    }

    #[test]
    fn unknown_fields_are_kept_compactly_in_their_order() {
        let event = with("\"z\": [1, 2.50, \"a b\\\" c\"] , \"a\\u0062\": {\"k\" : null}").unwrap();
        assert_eq!(event.extra.as_deref(), Some(r#"{"z":[1,2.50,"a b\" c"],"ab":{"k":null}}"#));
    }

    #[rstest]
    #[case(r#""price":2"#, "`price` occurs twice")]
    #[case(r#""x":1,"x":1"#, "`x` occurs twice")]
    #[case(r#""log_return":"1""#, "expected a number in `log_return`")]
    #[case(r#""log_return":1e400"#, "number out of range")]
    #[case(r#""log_return":1e200"#, "log_return")]
    #[case(r#""log_return":NaN"#, "expected value")]
    #[case(r#""is_anomaly":1"#, "expected true or false in `is_anomaly`")]
    #[case(r#""trade_id":1.5"#, "expected a whole number in `trade_id`")]
    #[case(r#""trade_id":9223372036854775808"#, "`trade_id` is too large")]
    #[case(r#""side":"BUY""#, "neither `buy` nor `sell`")]
    #[case(r#""source":"moon""#, "the source `moon` is not known")]
    #[case(r#""anomaly_type":5"#, "expected text in `anomaly_type`")]
    #[case(r#""ingest_id":"a:1""#, "expected an object with `run` and `sequence`")]
    #[case(r#""ingest_id":{"run":"a"}"#, "needs `run` and `sequence`")]
    #[case(r#""ingest_id":{"run":"a","sequence":1,"more":2}"#, "once each")]
    #[case(r#""heartbeat":true"#, "no others")]
    #[case(r#""y":1} {"#, "trailing characters")]
    fn a_wrong_field_is_refused_with_a_sentence(#[case] fields: &str, #[case] part: &str) {
        let error = with(fields).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }

    #[rstest]
    #[case("")]
    #[case("[]")]
    #[case("null")]
    #[case("{}")]
    #[case("{\"timestamp\":1,\"symbol\":\"A-B\",\"price\":1")]
    #[case(r#"{"timestamp":"1","symbol":"A-B","price":1,"volume":0}"#)]
    #[case(r#"{"timestamp":1,"symbol":"ab","price":1,"volume":0}"#)]
    #[case(r#"{"timestamp":1,"symbol":"A-B","price":0,"volume":0}"#)]
    #[case(r#"{"timestamp":1,"symbol":"A-B","price":1,"volume":-1}"#)]
    #[case(r#"{"timestamp":1,"symbol":"A-B","price":1,"volume":"1"}"#)]
    #[case(r#"{"heartbeat":true,"timestamp":1,"symbol":"A-B","x":1}"#)]
    #[case(r#"{"floor":true,"timestamp":1,"symbol":"A-B","x":1}"#)]
    #[case(r#"{"floor":true,"heartbeat":true,"timestamp":1,"symbol":"A-B"}"#)]
    fn what_is_no_record_is_refused(#[case] text: &str) {
        assert!(decode_value(text.as_bytes()).is_err());
    }

    #[test]
    fn long_names_bytes_that_are_no_text_and_deep_nesting_are_refused_or_kept_whole() {
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        assert!(with(&format!(r#""anomaly_type":"{long}""#)).is_err());
        assert!(with(&format!(r#""ingest_id":{{"run":"{long}","sequence":1}}"#)).is_err());
        assert!(with(&format!(r#""anomaly_type":"{}""#, &long[1..])).is_ok());
        assert!(decode_value(b"{\"timestamp\":1,\"symbol\":\"A-B\",\"price\":1,\"volume\":0,\"x\":\"\xff\"}").is_err());
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(with(&format!(r#""x":{deep}"#)).unwrap().extra.unwrap().len(), deep.len() + 6);
    }

    #[test]
    fn a_record_under_another_key_is_refused() {
        let error = decode(b"ETH-USDT", EXAMPLE.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "the record's key `ETH-USDT` is not its symbol `BTC-USDT`");
    }

    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![any::<f64>(), -1e6..1e6_f64].prop_filter("within domain's limits", |value| value.abs() <= 1e100)
    }

    fn extra() -> impl Strategy<Value = Option<Box<str>>> {
        let value = prop_oneof![any::<i32>().prop_map(serde_json::Value::from), any::<String>().prop_map(Into::into)];
        let fields = prop::collection::btree_map("[a-z\"\u{e9}]{0,4}_", value, 1..4);
        prop::option::of(fields.prop_map(|fields| serde_json::to_string(&fields).unwrap().into()))
    }

    prop_compose! {
        fn event()(
            micros in -1_000_000_000_000_i64..=i64::MAX,
            symbol in "[A-Z0-9]{1,8}-[A-Z0-9]{1,8}",
            (price, volume, log_return) in (number(), number(), prop::option::of(number())),
            (is_anomaly, anomaly_type) in (any::<Option<bool>>(), prop::option::of("\\PC{0,16}")),
            (trade_id, sell) in (any::<Option<i64>>(), any::<Option<bool>>()),
            ingest_id in prop::option::of(("\\PC{0,16}", any::<i64>())),
            source in prop::sample::select(Source::ALL.to_vec()),
            extra in extra(),
        ) -> Event {
            Event {
                timestamp: Timestamp::from_micros(micros),
                symbol: Symbol::parse(&symbol).unwrap(),
                price: price.abs().max(1e-100),
                volume: volume.abs(),
                log_return,
                is_anomaly,
                anomaly_type: anomaly_type.map(Into::into),
                trade_id,
                side: sell.map(|sell| if sell { Side::Sell } else { Side::Buy }),
                ingest_id: ingest_id.map(|(run, sequence)| IngestId { run: run.into(), sequence }),
                source,
                extra,
            }
        }
    }

    proptest! {
        #[test]
        fn an_encoded_event_decodes_to_itself_bit_for_bit(event in event()) {
            let text = encoded(&Record::Event(event.clone()));
            let Record::Event(read) = decode(event.symbol.as_bytes(), text.as_bytes()).unwrap() else { panic!("{text}") };
            let bits = |e: &Event| (e.price.to_bits(), e.volume.to_bits(), e.log_return.map(f64::to_bits));
            prop_assert_eq!(bits(&read), bits(&event));
            prop_assert_eq!(read, event);
        }

        #[test]
        fn an_encoded_heartbeat_decodes_to_itself(micros in i64::MIN..=i64::MAX) {
            let heartbeat = Heartbeat { timestamp: Timestamp::from_micros(micros), symbol: Symbol::parse("A-B").unwrap() };
            let record = Record::Heartbeat(heartbeat);
            prop_assert_eq!(decode_value(encoded(&record).as_bytes()), Ok(record));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>()) {
            prop_assert!(decode_value(&bytes).is_err());
            let text = EXAMPLE.as_bytes();
            prop_assert!(decode_value(&text[..cut.index(text.len())]).is_err());
        }
    }
}
