//! A live market through every part: connections that drop, stall and lie, and tables that hold each trade once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use domain::{Clock, NoProbe, Probe, Record, Symbol, Timestamp, probe::Point};
use flate2::read::MultiGzDecoder;
use jobs::{
    ingest::{self, IngestParts, IngestState},
    metrics::Metrics,
};
use lake::TableName;
use serde_json::Value;
use streams::{BinanceSettings, EmbeddedLog, EventLog, ReadItem, TopicSettings, binance::Timer, codec};
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{Data, PATIENCE, Served, interrupt},
    requirements,
    venue::{Act, START_MS, Venue, free_address, trade},
};

/// `sentinel ingest binance` at a venue.
fn listen(data: &Data, venue: &Venue, symbols: &str) -> Child {
    let mut command = data.sentinel(&format!("ingest binance --symbols {symbols}"));
    command.env("SENTINEL__SOURCE__BINANCE_ENDPOINT", venue.endpoint());
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Ends it as Ctrl-C does; what it said.
fn end(mut process: Child) -> String {
    interrupt(&process);
    let said = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap).collect::<Vec<_>>();
    assert!(process.wait().unwrap().success(), "{said:?}");
    said.join("\n")
}

/// (symbol, trade id) of every row of `events`, and how many there are.
fn trades(data: &Data) -> (BTreeSet<(String, i64)>, usize) {
    let column = |name: &str| TableName::Events.schema().index_of(name).unwrap();
    let (symbol, id) = (column("symbol"), column("trade_id"));
    let rows = data.rows(TableName::Events, &[]);
    (rows.iter().map(|row| (row[symbol].clone(), row[id].parse().unwrap())).collect(), rows.len())
}

/// (symbol, first, last) of every range that `sentinel gaps` names.
fn gaps(data: &Data, flags: &str) -> Vec<(String, i64, i64)> {
    let told: Vec<Value> = serde_json::from_str(&data.run(&format!("gaps --json {flags}"))).unwrap();
    let number = |value: &Value, name: &str| value[name].as_i64().unwrap();
    told.iter()
        .map(|gap| {
            let (from, to) = (number(gap, "from"), number(gap, "to"));
            assert_eq!(number(gap, "count"), to - from + 1);
            (gap["symbol"].as_str().unwrap().to_owned(), from, to)
        })
        .collect()
}

/// Trades of the two markets of the generated plays, 10 ms apart.
fn run_of(name: &'static str, ids: std::ops::RangeInclusive<i64>) -> impl Iterator<Item = Act> {
    ids.map(move |id| trade(name, id, id * 10))
}

fn troubled_plays() -> Vec<Vec<Act>> {
    let first = run_of("BTCUSDT", 1..=50)
        .chain(run_of("ETHUSDT", 1..=40))
        .chain([
            Act::Text(r#"{"stream":"btcusdt@depth","data":{"e":"depthUpdate"}}"#.to_owned()),
            Act::Text(r#"{"stream":"btcusdt@trade","data":{"e":"trade","s":"BTCUSDT"}}"#.to_owned()),
            Act::Text("what is this".to_owned()),
            Act::Binary(vec![0xff, 0xfe, 0]),
            Act::Ping,
            Act::Drop,
        ])
        .collect();
    let second = run_of("BTCUSDT", 41..=60)
        .chain(run_of("BTCUSDT", 64..=70))
        .chain(run_of("ETHUSDT", 41..=45))
        .chain([Act::Ping, Act::Close])
        .collect();
    let fourth = run_of("BTCUSDT", 71..=80)
        .chain(run_of("ETHUSDT", 47..=50))
        .chain([Act::Ping, Act::Mark("all was read")])
        .collect();
    vec![first, second, vec![Act::Refuse(503)], fourth]
}

#[test]
fn each_trade_comes_once_through_drops_repeats_and_garbage() {
    let (data, venue) = (Data::new(), Venue::open(troubled_plays()));
    let process = listen(&data, &venue, "BTC-USDT,ETH-USDT");
    venue.wait_for_mark("all was read");
    let said = end(process);
    assert!(said.contains("; 1 frames of other streams skipped; 3 lines or frames could not be read"), "{said}");
    assert_eq!(venue.asked(), ["/stream?streams=btcusdt@trade/ethusdt@trade"; 3]);
    data.run("stream --once");

    let ids = |ranges: &[std::ops::RangeInclusive<i64>], symbol: &str| {
        ranges.iter().cloned().flatten().map(|id| (symbol.to_owned(), id)).collect::<Vec<_>>()
    };
    let expected: BTreeSet<_> =
        [ids(&[1..=60, 64..=80], "BTC-USDT"), ids(&[1..=45, 47..=50], "ETH-USDT")].concat().into_iter().collect();
    assert_eq!(trades(&data), (expected.clone(), expected.len()));
    assert_eq!(gaps(&data, ""), [("BTC-USDT".to_owned(), 61, 63), ("ETH-USDT".to_owned(), 46, 46)]);
    assert_eq!(gaps(&data, "--symbols ETH-USDT"), [("ETH-USDT".to_owned(), 46, 46)]);
    assert_eq!(gaps(&data, "--to 2024-03-09"), []);
    let table = data.run("gaps");
    assert!(table.contains("BTC-USDT    61  63      3  2024-03-09T16:00:00.600000Z"), "{table}");
    assert_eq!(data.rows(TableName::LateEvents, &[]).len(), 10);
    let dead = data.run("dead-letters list --json");
    let mut dead: Vec<Value> = serde_json::from_str(&dead).unwrap();
    dead.retain(|letter| letter["key"] == "UNKNOWN-UNKNOWN");
    assert_eq!(dead.len(), 3, "{dead:?}");
    assert!(dead.iter().any(|letter| letter.to_string().contains("what is this")), "{dead:?}");
}

#[test]
fn many_symbols_are_split_over_connections() {
    let symbols: Vec<String> = (0..201).map(|number| format!("C{number}-USDT")).collect();
    let (data, venue) = (Data::new(), Venue::open(vec![vec![Act::Mark("one")], vec![Act::Mark("two")]]));
    let process = listen(&data, &venue, &symbols.join(","));
    venue.wait_for_mark("one");
    venue.wait_for_mark("two");
    assert!(end(process).starts_with("0 records appended"));
    let mut streams: Vec<usize> = venue.asked().iter().map(|path| path.matches("@trade").count()).collect();
    streams.sort_unstable();
    assert_eq!(streams, [1, 200]);
}

#[test]
fn a_symbol_that_is_simulated_here_is_refused_before_anything_is_asked() {
    let (data, venue) = (Data::new(), Venue::open(Vec::new()));
    data.run("ingest simulated --events 9 --start 2024-03-09T16:00:00Z --speed 0");
    let output = listen(&data, &venue, "BTC-USDT").wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(venue.asked(), [""; 0]);
}

#[test]
fn the_status_tells_whether_the_venue_is_there() {
    let (data, address) = (Data::new(), free_address());
    let mut up = data.sentinel("up --bind 127.0.0.1:0 --symbols BTC-USDT");
    up.env("DATA_SOURCE", "binance").env("SENTINEL__SOURCE__BINANCE_ENDPOINT", format!("ws://{address}"));
    let served = Served::start(up);
    served.wait_for("/system-status", &format!("not connected to ws://{address}: cannot connect"));
    served.wait_for("/system-status", r#""name":"Log","status":"degraded""#);
    served.wait_for("/metrics", "sentinel_source_connections 0");
    let play = run_of("BTCUSDT", 1..=20).chain([Act::Ping, Act::Mark("read")]).collect();
    let venue = Venue::open_at(address, vec![play]);
    venue.wait_for_mark("read");
    served.wait_for("/system-status", &format!("connected to ws://{address} for 1 symbols"));
    served.wait_for("/system-status", r#""name":"Log","status":"online""#);
    served.wait_for("/metrics", "sentinel_source_frames_total{content=\"trade\"} 20");
    served.wait_for("/metrics", "sentinel_records_folded_total{fate=\"admitted\"} 20");
    drop(venue);
    served.wait_for("/system-status", &format!("not connected to ws://{address}"));
    assert!(served.interrupt().success());
    assert_eq!(trades(&data).1, 20);
}

/// Time that goes twice as fast: a machine that stands still for seconds must not look like a stalled venue.
struct Fast(Instant);

#[async_trait]
impl Timer for Fast {
    fn elapsed(&self) -> Duration {
        self.0.elapsed() * 2
    }

    async fn pause(&self, time: Duration) {
        tokio::time::sleep(time / 2).await;
    }
}

/// A day after the first trade, for good.
struct NextDay;

impl Clock for NextDay {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(START_MS).plus_micros(86_400_000_000)
    }
}

async fn parts(data: &Data) -> IngestParts {
    let path = data.path().join("data").join("log").join("events.db");
    let clock: Arc<dyn Clock> = Arc::new(NextDay);
    let log = EmbeddedLog::open(&path, &TopicSettings::default(), clock.clone()).await.unwrap();
    IngestParts {
        log: Arc::new(log),
        metrics: Arc::new(Metrics::new()),
        state: Arc::new(IngestState::default()),
        clock,
        probe: Arc::new(NoProbe),
    }
}

/// Every heartbeat of the log.
async fn heartbeats(log: &dyn EventLog) -> BTreeMap<Symbol, Vec<Timestamp>> {
    let mut heartbeats: BTreeMap<Symbol, Vec<Timestamp>> = BTreeMap::new();
    for partition in 0..log.partitions() {
        for item in log.read(partition, 0, 100_000).await.unwrap() {
            let ReadItem::Batch(batch) = item else { continue };
            for raw in batch.records() {
                if let Ok(Record::Heartbeat(heartbeat)) = codec::decode(raw.key, raw.value) {
                    heartbeats.entry(heartbeat.symbol).or_default().push(heartbeat.timestamp);
                }
            }
        }
    }
    heartbeats
}

#[test]
fn heartbeats_are_written_while_the_connection_lives_and_not_while_it_is_stalled() {
    let data = Data::new();
    // The trade tells the venue's clock; the answers prove silence; then nothing is answered any more, thrice.
    let first = vec![trade("BTCUSDT", 1, 0), Act::Answer(7), Act::Mark("stalls"), Act::Stall];
    let venue = Venue::open(vec![first, vec![Act::Stall], vec![Act::Stall], vec![Act::Stall]]);
    let symbols = ["BTC-USDT", "ETH-USDT"].map(|name| Symbol::parse(name).unwrap());
    let settings = BinanceSettings { endpoint: venue.endpoint().parse().unwrap(), symbols: symbols.to_vec(), seed: 1 };
    let (timer, cancel) = (Arc::new(Fast(Instant::now())), CancellationToken::new());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let parts = runtime.block_on(parts(&data));
    let job = {
        let (parts, timer, cancel) = (parts.clone(), timer.clone(), cancel.clone());
        runtime.spawn(async move { ingest::binance(&parts, settings, timer, &cancel).await })
    };
    venue.wait_for_mark("stalls");
    let stalled_at = timer.elapsed();
    venue.wait_for_visitors(3);
    let trouble = parts.state.trouble();
    assert!(trouble.is_none_or(|trouble| trouble.contains("stalled")), "only ever stalled");
    cancel.cancel();
    runtime.block_on(job).unwrap().unwrap();
    let counted = parts.metrics.encode().unwrap();
    assert!(!counted.contains("sentinel_source_disconnects_total{reason=\"stalled\"} 0"), "{counted}");

    let latest = Timestamp::from_millis(START_MS + 1).plus_micros(i64::try_from(stalled_at.as_micros()).unwrap());
    let heartbeats = runtime.block_on(heartbeats(parts.log.as_ref()));
    assert_eq!(heartbeats.keys().copied().collect::<Vec<_>>(), symbols);
    for times in heartbeats.values() {
        assert!(times.len() >= 2 && times.is_sorted(), "{times:?}");
        assert!(times.windows(2).all(|pair| pair[0].plus_micros(5_000_000) <= pair[1]), "{times:?}");
        assert!(times.iter().all(|time| *time <= latest), "{times:?} after {latest}");
    }
}

/// Short pauses are over at once and long ones never: every record is appended by itself, and nothing is given up.
struct Hasty;

#[async_trait]
impl Timer for Hasty {
    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }

    async fn pause(&self, time: Duration) {
        if time > Duration::from_millis(200) {
            std::future::pending::<()>().await;
        }
    }
}

/// Cancels after an append, once the venue knows that everything was read.
struct EndsWhenRead {
    venue: Venue,
    cancel: CancellationToken,
}

impl Probe for EndsWhenRead {
    fn reached(&self, point: Point) {
        if point == Point::Appended && self.venue.has_come_to("all was read") {
            self.cancel.cancel();
        }
    }
}

#[test]
fn what_waits_behind_an_append_when_the_end_comes_is_appended_too() {
    let data = Data::new();
    let play = run_of("BTCUSDT", 1..=500).chain([Act::Ping, Act::Mark("all was read")]).collect();
    let (venue, cancel) = (Venue::open(vec![play]), CancellationToken::new());
    let symbols = vec![Symbol::parse("BTC-USDT").unwrap()];
    let settings = BinanceSettings { endpoint: venue.endpoint().parse().unwrap(), symbols, seed: 1 };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let probe = Arc::new(EndsWhenRead { venue, cancel: cancel.clone() });
    let parts = IngestParts { probe, ..runtime.block_on(parts(&data)) };
    let listening =
        async { tokio::time::timeout(PATIENCE, ingest::binance(&parts, settings, Arc::new(Hasty), &cancel)).await };
    let report = runtime.block_on(listening).expect("an append after everything was read").unwrap();
    assert_eq!(report.records, 500);
    data.run("stream --once");
    assert_eq!(trades(&data).1, 500);
}

/// The recorded frames of both files in the order of their receipt, without its times.
fn recorded() -> Option<Vec<String>> {
    let names = ["data/binance_ws_spot_btcusdt_20240808.gz", "data/binance_ws_spot_ethusdt_20240808.gz"];
    let paths: Vec<_> = names.iter().filter_map(|name| requirements::shared(name)).collect();
    if paths.len() < names.len() {
        return None;
    }
    let lines = paths.iter().flat_map(|path| BufReader::new(MultiGzDecoder::new(File::open(path).unwrap())).lines());
    let mut frames: Vec<(u64, String)> = lines
        .map(|line| {
            let line = line.unwrap();
            let (received, frame) = line.split_once(' ').unwrap();
            (received.parse().unwrap(), frame.to_owned())
        })
        .collect();
    frames.sort_by_key(|(received, _)| *received);
    Some(frames.into_iter().map(|(_, frame)| frame).collect())
}

/// The trade of a frame.
fn trade_of(frame: &str) -> Option<(String, i64)> {
    let frame: Value = serde_json::from_str(frame).unwrap();
    let data = &frame["data"];
    let symbol = if data["s"] == "BTCUSDT" { "BTC-USDT" } else { "ETH-USDT" };
    (data["e"] == "trade").then(|| (symbol.to_owned(), data["t"].as_i64().unwrap()))
}

/// The ranges between the smallest and the greatest id of each symbol that are not there.
fn holes(there: &BTreeSet<(String, i64)>) -> Vec<(String, i64, i64)> {
    let pairs = there.iter().zip(there.iter().skip(1));
    pairs.filter(|(a, b)| a.0 == b.0 && a.1 + 1 < b.1).map(|(a, b)| (a.0.clone(), a.1 + 1, b.1 - 1)).collect()
}

#[test]
fn recorded_frames_played_live_over_a_drop_are_each_trade_once() {
    const REPEATED: usize = 500;
    let Some(frames) = recorded() else { return };
    let all: Vec<_> = frames.iter().filter_map(|frame| trade_of(frame)).collect();
    assert_eq!(all.len(), 15_863);
    // Every 5 000th trade never comes.
    let skipped: BTreeSet<_> = all.iter().skip(2_500).step_by(5_000).cloned().collect();
    let sent = |frames: &[String]| {
        let come = frames.iter().filter(|frame| trade_of(frame).is_none_or(|trade| !skipped.contains(&trade)));
        come.map(|frame| Act::Text(frame.clone())).collect::<Vec<_>>()
    };
    let half = frames.len() / 2;
    let plays = vec![
        [sent(&frames[..half]), vec![Act::Ping, Act::Drop]].concat(),
        [sent(&frames[half - REPEATED..]), vec![Act::Ping, Act::Mark("all was read")]].concat(),
    ];
    let (data, venue) = (Data::new(), Venue::open(plays));
    let process = listen(&data, &venue, "BTC-USDT,ETH-USDT");
    venue.wait_for_mark("all was read");
    end(process);
    data.run("stream --once");
    let expected: BTreeSet<_> = all.into_iter().filter(|trade| !skipped.contains(trade)).collect();
    let (found, rows) = trades(&data);
    assert_eq!((rows, found.len()), (expected.len(), expected.len()));
    assert_eq!(found, expected);
    assert_eq!(gaps(&data, ""), holes(&expected));
    assert!(holes(&expected).len() >= skipped.len());
    assert_eq!(data.rows(TableName::DeadLetters, &[]), Vec::<Vec<String>>::new());
}

/// Nothing but the time limit of the test would end a wait that has no end.
#[test]
fn a_venue_that_is_never_there_is_left_at_once() {
    let (data, address) = (Data::new(), free_address());
    let mut command = data.sentinel("ingest binance");
    command.env("SENTINEL__SOURCE__BINANCE_ENDPOINT", format!("ws://{address}")).stderr(Stdio::piped());
    let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let refused = lines.find(|line| line.as_ref().unwrap().contains("not connected, it will be tried again"));
    assert!(refused.unwrap().unwrap().contains("cannot connect"));
    thread::spawn(move || lines.count());
    let asked = Instant::now();
    assert_eq!(end(process), "0 records appended");
    assert!(asked.elapsed() < PATIENCE);
}
