//! A frame of Binance's streams as a trade: one decoding for what is recorded in files and what comes live.
//!
//! Invariant: the same bytes give the same event, wherever they come from. Of the frames (combined streams with
//! `stream` and `data`, or raw ones with `e`) only `trade` counts; any other is named as such, and what is neither is
//! `None`, so that the caller can keep it as it is. Never repairs and never looks at the clock.

use std::{borrow::Cow, collections::HashMap, str};

use domain::{Event, Record, Side, Source, Symbol, Timestamp, time::MICROS};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{codec::encode, log::NewRecord};

/// A frame that says it was sent this long after its trade is not believed: silence is judged by it.
const MAX_DELAY_MICROS: i64 = 60 * MICROS;

/// What a frame is.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// A trade.
    Trade(Trade),
    /// A frame of another stream, an answer to a request, or a trade of a symbol that was not asked for.
    Other,
}

/// A trade and when the venue told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Trade {
    /// The trade.
    pub event: Event,
    /// The venue's clock when it sent the frame; the time of the trade, where the frame does not tell or lies.
    pub sent: Timestamp,
}

impl Trade {
    /// The event as a record of the log.
    #[must_use]
    pub fn into_record(self) -> NewRecord {
        let (key, mut value) = (self.event.symbol, Vec::with_capacity(192));
        encode(&Record::Event(self.event), &mut value);
        NewRecord { key, value }
    }
}

/// How the venue's names, such as `BTCUSDT`, become symbols.
#[derive(Clone, Copy, Debug)]
pub enum Names<'a> {
    /// Split before the longest known quote asset.
    ByQuote,
    /// Only these; trades of others are [`Frame::Other`].
    Asked(&'a HashMap<String, Symbol>),
}

/// The form of a frame: of combined streams, raw, or an answer to a subscription.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    stream: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow, rename = "e")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    id: Option<i64>,
    /// Only partial books have it; as raw frames they have no `e`.
    #[serde(rename = "lastUpdateId")]
    last_update: Option<i64>,
    /// Only best quotes have it; as raw frames they have no `e`.
    #[serde(borrow, rename = "B")]
    best_bid_quantity: Option<&'a RawValue>,
}

/// The payload of a `trade` frame:
/// <https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams#trade-streams>.
#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow, rename = "e")]
    kind: Cow<'a, str>,
    /// Not needed for the trade: whatever stands there does not spoil it.
    #[serde(borrow, rename = "E")]
    sent: Option<&'a RawValue>,
    #[serde(borrow, rename = "s")]
    symbol: Cow<'a, str>,
    #[serde(rename = "t")]
    id: i64,
    #[serde(borrow, rename = "p")]
    price: Cow<'a, str>,
    #[serde(borrow, rename = "q")]
    quantity: Cow<'a, str>,
    #[serde(rename = "T")]
    time: i64,
    #[serde(rename = "m")]
    buyer_is_maker: bool,
}

/// What a frame says; `None` where the text is no frame, or a trade that cannot be read.
#[must_use]
pub fn read(json: &[u8], names: Names<'_>) -> Option<Frame> {
    let text = str::from_utf8(json).ok()?;
    let frame: Envelope<'_> = serde_json::from_str(text).ok()?;
    let payload = match (&frame.stream, frame.data, &frame.kind) {
        (Some(stream), Some(data), _) if stream.ends_with("@trade") => data.get(),
        (Some(_), Some(_), _) => return Some(Frame::Other),
        (_, _, Some(kind)) if kind == "trade" => text,
        (_, _, Some(_)) => return Some(Frame::Other),
        _ if frame.last_update.is_some() || frame.best_bid_quantity.is_some() => return Some(Frame::Other),
        _ if frame.id.is_some() && (frame.result.is_some() || text.contains("\"result\"")) => {
            return Some(Frame::Other);
        }
        _ => return None,
    };
    let payload: Payload<'_> = serde_json::from_str(payload).ok()?;
    let symbol = match names {
        Names::ByQuote => Symbol::from_venue(&payload.symbol)?,
        Names::Asked(asked) => match asked.get(payload.symbol.as_ref()) {
            Some(symbol) => *symbol,
            None => return Some(Frame::Other),
        },
    };
    trade(&payload, symbol).map(Frame::Trade)
}

fn trade(payload: &Payload<'_>, symbol: Symbol) -> Option<Trade> {
    let event = Event {
        timestamp: Timestamp::from_venue(payload.time),
        symbol,
        price: payload.price.parse().ok()?,
        volume: payload.quantity.parse().ok()?,
        log_return: None,
        is_anomaly: None,
        anomaly_type: None,
        trade_id: Some(payload.id),
        // A buyer that was the maker had an order in the book, and the taker sold to it.
        side: Some(if payload.buyer_is_maker { Side::Sell } else { Side::Buy }),
        ingest_id: None,
        source: Source::Binance,
        extra: None,
    };
    let told = payload.sent.and_then(|sent| sent.get().parse().ok()).map(Timestamp::from_venue);
    let plausible = event.timestamp..=event.timestamp.plus_micros(MAX_DELAY_MICROS);
    let sent = told.filter(|told| plausible.contains(told)).unwrap_or(event.timestamp);
    (payload.kind == "trade" && event.check().is_ok()).then_some(Trade { event, sent })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const TRADE: &str = r#"{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161255343,"s":"BTCUSDT","t":3735683259,"p":"61837.63000000","q":"0.02000000","T":1723161255342,"m":false,"M":true}}"#;

    fn symbol(name: &str) -> Symbol {
        Symbol::parse(name).unwrap()
    }

    #[test]
    fn a_live_trade_is_the_recorded_one_under_the_symbol_that_was_asked_for() {
        let asked = HashMap::from([("BTCUSDT".to_owned(), symbol("BTCU-SDT"))]);
        let Some(Frame::Trade(live)) = read(TRADE.as_bytes(), Names::Asked(&asked)) else { panic!("no trade") };
        let Some(Frame::Trade(recorded)) = read(TRADE.as_bytes(), Names::ByQuote) else { panic!("no trade") };
        assert_eq!((live.event.symbol, recorded.event.symbol), (symbol("BTCU-SDT"), symbol("BTC-USDT")));
        assert_eq!(live.event, Event { symbol: symbol("BTCU-SDT"), ..recorded.event });
        assert_eq!(live.event.side, Some(Side::Buy));
        assert_eq!(live.sent, Timestamp::from_millis(1_723_161_255_343));
        assert_eq!(live.event.timestamp, Timestamp::from_millis(1_723_161_255_342));
    }

    #[test]
    fn a_trade_that_nobody_asked_for_is_another_frame() {
        let asked = HashMap::from([("ETHUSDT".to_owned(), symbol("ETH-USDT"))]);
        assert_eq!(read(TRADE.as_bytes(), Names::Asked(&asked)), Some(Frame::Other));
    }

    #[rstest]
    #[case(TRADE.replace("\"E\":1723161255343,", ""))]
    #[case(TRADE.replace("1723161255343", "\"soon\""))]
    #[case(TRADE.replace("1723161255343", "1723161255341"))]
    #[case(TRADE.replace("1723161255343", "9923161255341"))]
    fn a_frame_that_does_not_tell_when_it_was_sent_was_sent_with_its_trade(#[case] frame: String) {
        let Some(Frame::Trade(trade)) = read(frame.as_bytes(), Names::ByQuote) else { panic!("no trade") };
        assert_eq!(trade.sent, trade.event.timestamp);
    }
}
