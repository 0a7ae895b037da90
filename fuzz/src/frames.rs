//! Frames of Binance: any bytes are a frame or none, and what is a trade is a record that the log's codec reads.

use std::collections::HashMap;

use domain::{Record, Symbol};
use streams::{
    NewRecord, codec,
    frames::{self, Frame, Names},
};

/// Reads the bytes as a frame, recorded or live.
///
/// # Panics
/// Where the promise is broken.
pub fn check(bytes: &[u8]) {
    let asked: HashMap<String, Symbol> = ["BTCUSDT", "ETHUSDT"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), Symbol::from_venue(name)?)))
        .collect();
    for names in [Names::ByQuote, Names::Asked(&asked)] {
        let Some(Frame::Trade(trade)) = frames::read(bytes, names) else { continue };
        assert!(trade.sent >= trade.event.timestamp, "{trade:?} was sent before it was made");
        let event = trade.event.clone();
        let NewRecord { key, value } = trade.into_record();
        assert_eq!(codec::decode(key.as_bytes(), &value), Ok(Record::Event(event)));
    }
}
