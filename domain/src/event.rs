//! What a topic record says: a trade event or a heartbeat, with its limits checked once, when it is built.

use std::fmt;

use crate::{error::ErrorKind, symbol::Symbol, time::Timestamp};

/// A partition of a topic, from 0; [`BACKFILLED`] for what no record of the log caused.
pub type Partition = i32;

/// The partition of rows that a backfill put into the tables.
pub const BACKFILLED: Partition = -1;

/// The position of a record in its partition. Never reused.
pub type Offset = i64;

/// The largest magnitude of a price, volume or log-return: their squares still add up below infinity.
pub const MAX_MAGNITUDE: f64 = 1e100;

/// The smallest price: the ratio of two prices stays finite.
pub const MIN_PRICE: f64 = 1e-100;

/// The longest name of a source or an anomaly type, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// One record of a topic.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A trade.
    Event(Event),
    /// A control record: the symbol is silent but its connection lives.
    Heartbeat(Heartbeat),
    /// A control record: what the symbol was before this time is settled, by a backfill.
    Floor(Floor),
}

impl Record {
    /// The symbol that the record is about.
    #[must_use]
    pub const fn symbol(&self) -> Symbol {
        match self {
            Self::Event(event) => event.symbol,
            Self::Heartbeat(heartbeat) => heartbeat.symbol,
            Self::Floor(floor) => floor.symbol,
        }
    }

    /// The event time of the record.
    #[must_use]
    pub const fn timestamp(&self) -> Timestamp {
        match self {
            Self::Event(event) => event.timestamp,
            Self::Heartbeat(heartbeat) => heartbeat.timestamp,
            Self::Floor(floor) => floor.timestamp,
        }
    }
}

/// A trade, or a simulated one.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Event time.
    pub timestamp: Timestamp,
    /// The market.
    pub symbol: Symbol,
    /// Price in quote units, > 0.
    pub price: f64,
    /// Volume in base units, >= 0.
    pub volume: f64,
    /// ln(price / previous price) where the source gives it; the fold computes it otherwise.
    pub log_return: Option<f64>,
    /// Label of simulated or labelled data.
    pub is_anomaly: Option<bool>,
    /// Kind of a labelled anomaly, such as `PRICE_SPIKE`. An open set.
    pub anomaly_type: Option<Box<str>>,
    /// The venue's id of the trade, unique per symbol.
    pub trade_id: Option<i64>,
    /// The side of the taker.
    pub side: Option<Side>,
    /// Given to events without a trade id, so that a repeated append is recognised.
    pub ingest_id: Option<IngestId>,
    /// Where the event came from.
    pub source: Source,
    /// Fields that are not of the format, as one JSON object.
    pub extra: Option<Box<str>>,
}

impl Event {
    /// Checks the limits of the numeric fields.
    ///
    /// # Errors
    /// [`InvalidEvent`] naming the field, its value and the limit.
    pub fn check(&self) -> Result<(), InvalidEvent> {
        let within = |v: f64| v.abs() <= MAX_MAGNITUDE;
        if !(self.price >= MIN_PRICE && within(self.price)) {
            return Err(InvalidEvent::new("price", self.price, "must be above 0 (from 1e-100 to 1e100)"));
        }
        if !(self.volume >= 0.0 && within(self.volume)) {
            return Err(InvalidEvent::new("volume", self.volume, "must be at least 0 and at most 1e100"));
        }
        match self.log_return {
            Some(value) if !within(value) => {
                Err(InvalidEvent::new("log_return", value, "must be finite and within 1e100"))
            }
            _ => Ok(()),
        }
    }
}

/// A field outside its limits.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field} {value} {limit}")]
pub struct InvalidEvent {
    field: &'static str,
    value: f64,
    limit: &'static str,
}

impl InvalidEvent {
    const fn new(field: &'static str, value: f64, limit: &'static str) -> Self {
        Self { field, value, limit }
    }

    /// What to do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// A sign of life for a silent symbol: its event time has reached `timestamp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The source's clock.
    pub timestamp: Timestamp,
    /// The market.
    pub symbol: Symbol,
}

/// The end of what a backfill fills: later records of the log below it are late, whether the symbol is known or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floor {
    /// The first instant that is still open.
    pub timestamp: Timestamp,
    /// The market.
    pub symbol: Symbol,
}

/// The side of a trade's taker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The taker bought.
    Buy,
    /// The taker sold.
    Sell,
}

impl Side {
    /// `buy` or `sell`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Buy => "buy",
            Self::Sell => "sell",
        }
    }

    /// The side with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Buy, Self::Sell].into_iter().find(|side| side.as_str() == name)
    }
}

/// Identity of an event without a trade id: the ingest run and the sequence number in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IngestId {
    /// The ingest run.
    pub run: Box<str>,
    /// The position in the run.
    pub sequence: i64,
}

impl IngestId {
    /// Reads `run:sequence`; the run may hold colons itself.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (run, sequence) = text.rsplit_once(':')?;
        Some(Self { run: run.into(), sequence: sequence.parse().ok()? })
    }
}

/// Prints as `run:sequence`.
impl fmt::Display for IngestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.run, self.sequence)
    }
}

/// Whether a symbol's events are made up or recorded from a market. A symbol is one or the other, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Made by the simulator.
    Simulated,
    /// Recorded from a market.
    Real,
}

impl Kind {
    /// `simulated` or `real`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Simulated => "simulated",
            Self::Real => "real",
        }
    }
}

/// Where an event came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The built-in market simulator.
    Simulated,
    /// A live Binance stream or its recorded frames.
    Binance,
    /// A file of events.
    File,
    /// `POST /events`.
    Api,
    /// A backfill from an archive of trades.
    Archive,
    /// A backfill from an archive of 1-minute klines, which are windows and no events.
    Kline,
}

impl Source {
    /// Every source, in the order of their declaration.
    pub const ALL: [Self; 6] = [Self::Simulated, Self::Binance, Self::File, Self::Api, Self::Archive, Self::Kline];

    /// The name in records and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Simulated => "simulated",
            Self::Binance => "binance",
            Self::File => "file",
            Self::Api => "api",
            Self::Archive => "archive",
            Self::Kline => "kline",
        }
    }

    /// The source with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.as_str() == name)
    }

    /// Whether events of this source are simulated or real.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::Simulated => Kind::Simulated,
            _ => Kind::Real,
        }
    }
}
