//! Binance live as a source: combined trade streams over WebSocket, without a key.
//!
//! Invariants: every frame that is read is given on, in the order in which it came (a trade, an undecoded frame that
//! becomes a record of its own under [`unknown_key`], or one that is skipped and counted); a connection that ends, for
//! whatever reason, is made again for as long as somebody listens; nothing is kept beyond one frame, so that where
//! nobody takes what is given, reading from the socket stops. Never appends, never removes a repeated trade (admission
//! does), never reads the system's clock and never waits but through the given [`Timer`].
//!
//! `policy` says when to connect, `session` what the frames of one connection mean, `connection` moves the bytes.

mod connection;
mod policy;
mod session;

use std::{
    collections::HashMap,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use domain::{Symbol, Timestamp};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::http::Uri;

use crate::{error::Error, log::NewRecord};

pub use connection::Lost;

/// Streams of one connection; Binance allows 1024.
pub const STREAMS_PER_CONNECTION: usize = 200;

/// The longest frame; a trade has about 200 bytes. A longer one ends its connection.
pub const MAX_FRAME_BYTES: usize = 1 << 16;

/// Frames that wait between the sockets and whoever takes them, at most.
pub const MAX_WAITING_FRAMES: usize = 1_024;

/// Time that passes, and waiting for it. Passed in, so that tests choose how fast it goes.
#[async_trait]
pub trait Timer: Send + Sync {
    /// Time since some fixed instant; never falls.
    fn elapsed(&self) -> Duration;

    /// Returns after this time.
    async fn pause(&self, time: Duration);
}

/// What to listen to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinanceSettings {
    /// Where the streams are.
    pub endpoint: Endpoint,
    /// The markets.
    pub symbols: Vec<Symbol>,
    /// Seed of the pauses before reconnecting. Programs with different seeds do not come back all at once.
    pub seed: u64,
}

/// Where the streams are, such as `wss://stream.binance.com:9443`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(String);

impl FromStr for Endpoint {
    type Err = String;

    /// Reads `ws://` or `wss://`, a host, and perhaps a port and a path below which `/stream` lies.
    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || "write a WebSocket address, such as \"wss://stream.binance.com:9443\"".to_owned();
        let uri: Uri = text.parse().map_err(|_| refused())?;
        let authority = uri.authority().ok_or_else(refused)?;
        if !matches!(uri.scheme_str(), Some("ws" | "wss")) || authority.host().is_empty() || uri.query().is_some() {
            return Err(refused());
        }
        if authority.as_str().contains('@') {
            return Err("leave out what stands before the @: the streams need no key".to_owned());
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Endpoint {
    /// The address of the combined trade streams of these symbols.
    fn combined(&self, symbols: &[Symbol]) -> String {
        let streams: Vec<String> = symbols.iter().map(|symbol| format!("{}@trade", stream_name(*symbol))).collect();
        format!("{}/stream?streams={}", self.0, streams.join("/"))
    }
}

/// The venue's name of a symbol in a stream: `btcusdt` for `BTC-USDT`.
#[must_use]
pub fn stream_name(symbol: Symbol) -> String {
    venue_name(symbol).to_ascii_lowercase()
}

/// The venue's name of a symbol in a frame: `BTCUSDT` for `BTC-USDT`.
fn venue_name(symbol: Symbol) -> String {
    symbol.as_str().replace('-', "")
}

/// The symbols by the names that frames have.
///
/// # Errors
/// Where there is no symbol, or two have one name; says what to write instead.
pub fn names(symbols: &[Symbol]) -> Result<HashMap<String, Symbol>, String> {
    if symbols.is_empty() {
        return Err("name at least one symbol, such as BTC-USDT".to_owned());
    }
    let mut names = HashMap::with_capacity(symbols.len());
    for symbol in symbols {
        if let Some(other) = names.insert(venue_name(*symbol), *symbol) {
            let name = stream_name(*symbol);
            return Err(format!("{other} and {symbol} are the same stream `{name}@trade`: name one of them once"));
        }
    }
    Ok(names)
}

/// What a connection gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A trade.
    Trade(NewRecord),
    /// A sign of life for a silent symbol.
    Heartbeat(NewRecord),
    /// A frame that could not be read, as it came.
    Undecoded(NewRecord),
    /// A frame of another stream.
    Skipped,
}

/// What became of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It is there.
    Connected {
        /// Number of the connection, from 0 on.
        connection: usize,
    },
    /// It could not be made, or ended; it is made again after the pause.
    Lost {
        /// Number of the connection, from 0 on.
        connection: usize,
        /// Why.
        lost: Lost,
        /// Until the next attempt.
        pause: Duration,
    },
}

/// The venue's clock, as the newest frame of any connection told it, carried on by the time since then. It never runs
/// ahead of the venue: a frame is at least as old as its way here was long.
#[derive(Debug, Default)]
struct VenueClock(Mutex<Option<(Timestamp, Duration)>>);

impl VenueClock {
    /// A frame that the venue sent at `sent` was read at `now`.
    fn note(&self, sent: Timestamp, now: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((sent, now));
    }

    /// The venue's clock at `at`; `None` where no frame has told it yet, or only one that was read later.
    fn at(&self, at: Duration) -> Option<Timestamp> {
        let (sent, read) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let since = i64::try_from(at.checked_sub(read)?.as_micros()).ok()?;
        Some(sent.plus_micros(since))
    }
}

/// The live streams of some markets. [`BinanceSource::follow`] every connection at the same time.
pub struct BinanceSource {
    settings: BinanceSettings,
    names: HashMap<String, Symbol>,
    timer: Arc<dyn Timer>,
    clock: VenueClock,
    /// Shared, because the venue counts attempts per address of the caller and not per connection.
    attempts: Mutex<policy::Attempts>,
}

impl BinanceSource {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// [`Error::Settings`] where there is no symbol or two have one stream.
    pub fn new(settings: BinanceSettings, timer: Arc<dyn Timer>) -> Result<Self, Error> {
        let names = names(&settings.symbols).map_err(Error::Settings)?;
        Ok(Self { settings, names, timer, clock: VenueClock::default(), attempts: Mutex::default() })
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.settings.symbols.len().div_ceil(STREAMS_PER_CONNECTION)
    }

    /// Listens on one connection, from 0 on, and makes it again whenever it ends. Returns when nobody takes what it
    /// gives any more; dropping it ends it at once.
    pub async fn follow(&self, connection: usize, out: &mpsc::Sender<Received>, tell: &(dyn Fn(Notice) + Sync)) {
        let Some(symbols) = self.settings.symbols.chunks(STREAMS_PER_CONNECTION).nth(connection) else { return };
        let mut backoff = policy::Backoff::new(self.settings.seed, connection as u64);
        loop {
            let wait = self.attempts.lock().unwrap_or_else(PoisonError::into_inner).reserve(self.timer.elapsed());
            self.timer.pause(wait).await;
            let mut connected_at = None;
            let connected = || {
                connected_at = Some(self.timer.elapsed());
                tell(Notice::Connected { connection });
            };
            let lost = match connection::listen(self, symbols, out, connected).await {
                connection::End::Unheard => return,
                connection::End::Lost(lost) => lost,
            };
            let lived = connected_at.map_or(Duration::ZERO, |at| self.timer.elapsed().saturating_sub(at));
            let pause = backoff.after(lived).max(lost.least_pause());
            tell(Notice::Lost { connection, lost, pause });
            tokio::select! { () = self.timer.pause(pause) => {}, () = out.closed() => return }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn symbol(name: &str) -> Symbol {
        Symbol::parse(name).unwrap()
    }

    struct Still;

    #[async_trait]
    impl Timer for Still {
        fn elapsed(&self) -> Duration {
            Duration::ZERO
        }

        async fn pause(&self, _: Duration) {}
    }

    fn source(symbols: Vec<Symbol>) -> Result<BinanceSource, Error> {
        let endpoint = "wss://stream.binance.com:9443".parse().unwrap();
        BinanceSource::new(BinanceSettings { endpoint, symbols, seed: 1 }, Arc::new(Still))
    }

    #[test]
    fn symbols_are_the_streams_of_one_address() {
        let endpoint: Endpoint = "wss://stream.binance.com:9443/".parse().unwrap();
        assert_eq!(
            endpoint.combined(&[symbol("BTC-USDT"), symbol("1000SATS-TRY")]),
            "wss://stream.binance.com:9443/stream?streams=btcusdt@trade/1000satstry@trade"
        );
        let behind: Endpoint = "ws://localhost/venues/binance".parse().unwrap();
        assert_eq!(
            behind.combined(&[symbol("BTC-USDT")]),
            "ws://localhost/venues/binance/stream?streams=btcusdt@trade"
        );
    }

    #[rstest]
    #[case("stream.binance.com:9443", "wss://")]
    #[case("https://stream.binance.com", "wss://")]
    #[case("wss://", "wss://")]
    #[case("wss:///stream", "wss://")]
    #[case("wss://host/?streams=a", "wss://")]
    #[case("wss://me:secret@host", "need no key")]
    #[case("", "wss://")]
    fn what_is_no_websocket_address_is_refused_with_what_to_write(#[case] text: &str, #[case] remedy: &str) {
        let refused = text.parse::<Endpoint>().unwrap_err();
        assert!(refused.contains(remedy) && !refused.contains("secret"), "{refused}");
    }

    #[test]
    fn two_symbols_of_one_stream_are_refused() {
        let refused = names(&["BTC-USDT", "BTCU-SDT"].map(symbol)).unwrap_err();
        assert!(refused.contains("BTC-USDT and BTCU-SDT") && refused.contains("btcusdt@trade"), "{refused}");
        assert!(names(&[]).is_err());
        assert_eq!(names(&[symbol("BTC-USDT")]).unwrap()["BTCUSDT"], symbol("BTC-USDT"));
        assert!(matches!(source(["BTC-USDT", "BTC-USDT"].map(symbol).to_vec()), Err(Error::Settings(_))));
    }

    #[rstest]
    #[case(1, 1)]
    #[case(200, 1)]
    #[case(201, 2)]
    #[case(1_000, 5)]
    fn more_than_200_symbols_are_split_over_connections(#[case] symbols: usize, #[case] connections: usize) {
        let symbols = (0..symbols).map(|number| symbol(&format!("C{number}-USDT"))).collect();
        assert_eq!(source(symbols).unwrap().connections(), connections);
    }

    #[test]
    fn the_venues_clock_goes_on_between_frames_and_never_back_before_them() {
        let (clock, sent) = (VenueClock::default(), Timestamp::from_seconds(1_710_000_000));
        assert_eq!(clock.at(Duration::from_secs(9)), None);
        clock.note(sent, Duration::from_secs(10));
        assert_eq!(clock.at(Duration::from_secs(13)), Some(sent.plus_micros(3_000_000)));
        assert_eq!(clock.at(Duration::from_secs(9)), None);
    }
}
