//! What the frames of one connection mean, what they prove, and when to ask whether the venue is still there.
//!
//! A heartbeat says that everything the venue sent about a symbol before a time of its clock has been read. Two things
//! prove that, since a connection keeps the order of what is sent: a frame, for the time that it carries; and the
//! answer to a ping, for the time at which the ping was sent. Nothing else does: not a clock that went on while nobody
//! read, and not a ping of the venue that may have waited behind frames.
//!
//! Pure: bytes and times are given, records and steps come out.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use domain::{Heartbeat, Record, Symbol, Timestamp, time::MICROS};

use super::{Received, VenueClock};
use crate::{
    codec::encode,
    frames::{self, Frame, Names},
    log::{NewRecord, unknown_key},
};

/// A symbol silent for this long on the venue's clock gets a heartbeat.
const HEARTBEAT_AFTER_MICROS: i64 = 5 * MICROS;

/// How far the proven time moves between two looks at every symbol.
const LOOK_EVERY_MICROS: i64 = MICROS;

/// After this long without anything from the venue it is asked. Far below its limit of 5 control frames a second.
const PING_AFTER: Duration = Duration::from_secs(2);

/// After this long without anything from the venue since it was asked, the connection counts as stalled.
pub const STALLED_AFTER: Duration = Duration::from_secs(10);

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Listen for this long.
    Listen(Duration),
    /// Send a ping with this number.
    Ping(u64),
    /// Give the connection up.
    Stalled,
}

/// One connection, from its beginning to its end.
pub struct Session<'a> {
    names: &'a HashMap<String, Symbol>,
    clock: &'a VenueClock,
    /// The newest event time or heartbeat of each symbol; before anything is proven, none.
    newest: BTreeMap<Symbol, Option<Timestamp>>,
    /// Up to where on the venue's clock all symbols were looked at.
    looked: Timestamp,
    /// Since when nothing came although somebody was listening.
    quiet_since: Duration,
    /// When the venue was asked; nothing has come since.
    asked: Option<Duration>,
    /// The newest ping: its number, and when it was sent.
    ping: (u64, Duration),
}

impl<'a> Session<'a> {
    /// A connection that begins `now`.
    pub fn new(symbols: &[Symbol], names: &'a HashMap<String, Symbol>, clock: &'a VenueClock, now: Duration) -> Self {
        Self {
            names,
            clock,
            newest: symbols.iter().map(|symbol| (*symbol, None)).collect(),
            looked: Timestamp::EARLIEST,
            quiet_since: now,
            asked: None,
            ping: (0, now),
        }
    }

    /// What to do `now`.
    pub fn step(&mut self, now: Duration) -> Step {
        let end = match self.asked {
            Some(asked) => asked.max(self.quiet_since) + STALLED_AFTER,
            None => self.quiet_since + PING_AFTER,
        };
        if now < end {
            return Step::Listen(end.saturating_sub(now));
        }
        if self.asked.is_some() {
            return Step::Stalled;
        }
        self.asked = Some(now);
        self.ping = (self.ping.0 + 1, now);
        Step::Ping(self.ping.0)
    }

    /// Until `now` nobody was listening, because nobody took what was given: silence before it says nothing.
    pub fn listens_again(&mut self, now: Duration) {
        self.quiet_since = now;
    }

    /// A data frame: what it gives, in order.
    pub fn frame(&mut self, bytes: &[u8], now: Duration) -> Vec<Received> {
        self.heard(now);
        let bytes = bytes.trim_ascii();
        match frames::read(bytes, Names::Asked(self.names)) {
            Some(Frame::Trade(trade)) => {
                let (symbol, time, sent) = (trade.event.symbol, trade.event.timestamp, trade.sent);
                self.clock.note(sent, now);
                self.newest.entry(symbol).and_modify(|newest| *newest = (*newest).max(Some(time)));
                let mut given = vec![Received::Trade(trade.into_record())];
                self.proven(sent, &mut given);
                given
            }
            Some(Frame::Other) => vec![Received::Skipped],
            None if bytes.is_empty() => vec![Received::Skipped],
            None => vec![Received::Undecoded(NewRecord { key: unknown_key(), value: bytes.to_vec() })],
        }
    }

    /// A pong: where it answers the newest ping, the heartbeats that this allows.
    pub fn pong(&mut self, payload: &[u8], now: Duration) -> Vec<Received> {
        self.heard(now);
        let (number, sent) = self.ping;
        let mut given = Vec::new();
        if payload == number.to_be_bytes()
            && let Some(proven) = self.clock.at(sent)
        {
            self.proven(proven, &mut given);
        }
        given
    }

    /// Anything at all came.
    pub fn heard(&mut self, now: Duration) {
        self.quiet_since = now;
        self.asked = None;
    }

    /// Everything that the venue sent before this time of its clock has been read.
    fn proven(&mut self, time: Timestamp, given: &mut Vec<Received>) {
        if time < self.looked.plus_micros(LOOK_EVERY_MICROS) {
            return;
        }
        self.looked = time;
        for (symbol, newest) in &mut self.newest {
            match *newest {
                // The silence of a symbol begins with the first proof.
                None => *newest = Some(time),
                Some(before) if time >= before.plus_micros(HEARTBEAT_AFTER_MICROS) => {
                    *newest = Some(time);
                    given.push(Received::Heartbeat(heartbeat(*symbol, time)));
                }
                Some(_) => {}
            }
        }
    }
}

fn heartbeat(symbol: Symbol, timestamp: Timestamp) -> NewRecord {
    let mut value = Vec::with_capacity(96);
    encode(&Record::Heartbeat(Heartbeat { timestamp, symbol }), &mut value);
    NewRecord { key: symbol, value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{binance::names, codec::decode};

    const START: i64 = 1_710_000_000_000;

    fn symbol(name: &str) -> Symbol {
        Symbol::parse(name).unwrap()
    }

    /// A trade frame sent `at_ms` after the start on the venue's clock, 2 ms after its trade.
    fn trade(name: &str, id: i64, at_ms: i64) -> Vec<u8> {
        let (sent, time) = (START + at_ms, START + at_ms - 2);
        format!(
            r#"{{"stream":"x@trade","data":{{"e":"trade","E":{sent},"s":"{name}","t":{id},"p":"1.5","q":"2","T":{time},"m":true}}}}"#
        )
        .into_bytes()
    }

    const fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// The symbols and times (after the start, in ms) of the heartbeats.
    fn heartbeats(given: &[Received]) -> Vec<(String, i64)> {
        let records = given.iter().filter_map(|received| match received {
            Received::Heartbeat(record) => Some(decode(record.key.as_bytes(), &record.value).unwrap()),
            _ => None,
        });
        records.map(|r| (r.symbol().to_string(), r.timestamp().micros() / 1_000 - START)).collect()
    }

    struct Market(Vec<Symbol>, HashMap<String, Symbol>, VenueClock);

    impl Market {
        fn new() -> Self {
            let symbols = ["BTC-USDT", "ETH-USDT"].map(symbol).to_vec();
            let names = names(&symbols).unwrap();
            Self(symbols, names, VenueClock::default())
        }

        fn session(&self) -> Session<'_> {
            Session::new(&self.0, &self.1, &self.2, at(0))
        }
    }

    #[test]
    fn trades_others_and_garbage_are_told_apart() {
        let market = Market::new();
        let mut session = market.session();
        let given = session.frame(&trade("BTCUSDT", 7, 10), at(12));
        let [Received::Trade(record)] = given.as_slice() else { panic!("{given:?}") };
        let Ok(Record::Event(event)) = decode(record.key.as_bytes(), &record.value) else { panic!("no event") };
        assert_eq!((event.trade_id, event.timestamp), (Some(7), Timestamp::from_millis(START + 8)));
        assert_eq!(session.frame(&trade("SOLUSDT", 7, 10), at(12)), [Received::Skipped]);
        assert_eq!(session.frame(br#"{"result":null,"id":1}"#, at(12)), [Received::Skipped]);
        assert_eq!(session.frame(b" ", at(12)), [Received::Skipped]);
        let garbage = NewRecord { key: unknown_key(), value: b"{\"stream\":".to_vec() };
        assert_eq!(session.frame(b"{\"stream\":", at(12)), [Received::Undecoded(garbage)]);
    }

    #[test]
    fn a_silent_symbol_gets_a_heartbeat_with_a_frame_of_another() {
        let market = Market::new();
        let mut session = market.session();
        let steps: [(u32, Option<i64>); 5] =
            [(0, None), (4_000, None), (5_100, Some(5_100)), (6_500, None), (10_200, Some(10_200))];
        for (ms, expected) in steps {
            let given = session.frame(&trade("BTCUSDT", i64::from(ms), i64::from(ms)), at(u64::from(ms)));
            let expected: Vec<_> = expected.into_iter().map(|ms| ("ETH-USDT".to_owned(), ms)).collect();
            assert_eq!(heartbeats(&given), expected, "at {ms}");
        }
    }

    #[test]
    fn silence_everywhere_is_proven_by_the_answer_to_a_ping_for_the_time_it_was_sent() {
        let market = Market::new();
        let mut session = market.session();
        session.frame(&trade("BTCUSDT", 1, 0), at(0));
        let mut given = Vec::new();
        for ms in [2_000, 4_500, 7_000] {
            let Step::Ping(number) = session.step(at(ms)) else { panic!("no ping at {ms}") };
            given.extend(session.pong(&number.to_be_bytes(), at(ms + 400)));
        }
        let both = ["BTC-USDT", "ETH-USDT"].map(|name| (name.to_owned(), 7_000));
        assert_eq!(heartbeats(&given), both);
    }

    #[test]
    fn what_the_venue_sends_by_itself_proves_that_it_lives_and_no_time() {
        let market = Market::new();
        let mut session = market.session();
        session.frame(&trade("BTCUSDT", 1, 0), at(0));
        assert_eq!(session.step(at(2_000)), Step::Ping(1));
        session.heard(at(9_000));
        assert_eq!(session.step(at(9_500)), Step::Listen(at(1_500)));
        // Not the answer to the newest ping.
        assert_eq!(session.pong(b"", at(9_600)), []);
        assert_eq!(session.step(at(11_600)), Step::Ping(2));
        assert_eq!(session.pong(&1_u64.to_be_bytes(), at(11_700)), []);
    }

    #[test]
    fn a_connection_that_answers_nothing_is_given_up_without_a_heartbeat() {
        let market = Market::new();
        let mut session = market.session();
        session.frame(&trade("BTCUSDT", 1, 0), at(100));
        assert_eq!(session.step(at(100)), Step::Listen(at(2_000)));
        assert_eq!(session.step(at(2_100)), Step::Ping(1));
        assert_eq!(session.step(at(2_100)), Step::Listen(at(10_000)));
        assert_eq!(session.step(at(12_100)), Step::Stalled);
    }

    #[test]
    fn time_in_which_nobody_read_is_not_held_against_the_venue_and_proves_nothing() {
        let market = Market::new();
        let mut session = market.session();
        session.frame(&trade("BTCUSDT", 1, 0), at(0));
        assert_eq!(session.step(at(2_000)), Step::Ping(1));
        session.listens_again(at(60_000));
        assert_eq!(session.step(at(60_000)), Step::Listen(at(10_000)));
        // The frame waited in the socket: what it proves is its own time, a minute ago.
        assert_eq!(heartbeats(&session.frame(&trade("BTCUSDT", 2, 2_500), at(60_000))), []);
        let given = session.frame(&trade("BTCUSDT", 3, 5_500), at(60_001));
        assert_eq!(heartbeats(&given), [("ETH-USDT".to_owned(), 5_500)]);
    }

    #[test]
    fn a_new_connection_knows_the_clock_and_proves_its_own_time() {
        let market = Market::new();
        market.session().frame(&trade("BTCUSDT", 1, 0), at(0));
        let mut session = Session::new(&market.0, &market.1, &market.2, at(30_000));
        let mut given = Vec::new();
        for ms in [32_000, 34_000, 36_000, 38_000] {
            let Step::Ping(number) = session.step(at(ms)) else { panic!("no ping at {ms}") };
            given.extend(session.pong(&number.to_be_bytes(), at(ms)));
        }
        let both = ["BTC-USDT", "ETH-USDT"].map(|name| (name.to_owned(), 38_000));
        assert_eq!(heartbeats(&given), both);
    }
}
