//! Archives as they come: of every form, whole and broken.

use std::{fmt::Write as _, io::Write as _};

use domain::Side;
use rstest::rstest;
use zip::{ZipWriter, write::SimpleFileOptions};

use super::*;
use crate::{
    TableName,
    fixture::{events, flush, lake},
};

const HEADER: &str = "id,price,qty,quoteQty,time,isBuyerMaker,isBestMatch\n";
const FIRST: &str = "7,61837.63000000,0.02000000,1236.75260000,1723161255342,True,True\n";
const SECOND: &str = "8,61837.64000000,0.00100000,61.83764000,1723161255343,false,true\n";

fn symbol(name: &str) -> Symbol {
    Symbol::parse(name).unwrap()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn zip(&self, name: &str, members: &[(&str, &str)]) -> PathBuf {
        let path = self.0.path().join(name);
        let mut archive = ZipWriter::new(fs::File::create(&path).unwrap());
        for (member, text) in members {
            archive.start_file(*member, SimpleFileOptions::default()).unwrap();
            archive.write_all(text.as_bytes()).unwrap();
        }
        archive.finish().unwrap();
        path
    }

    async fn open(&self, paths: &[PathBuf], symbols: &[Symbol]) -> Vec<Result<ArchiveFile, Error>> {
        open(paths, symbols, self.0.path()).await
    }

    async fn one(&self, path: PathBuf) -> Result<ArchiveFile, Error> {
        self.open(&[path], &[]).await.pop().unwrap()
    }

    async fn trades(&self, path: PathBuf) -> (Vec<Event>, Vec<Refused>) {
        read_all(&self.one(path).await.unwrap())
    }
}

fn read_all(file: &ArchiveFile) -> (Vec<Event>, Vec<Refused>) {
    let (mut events, mut refused) = (Vec::new(), Vec::new());
    for block in 0..file.blocks() {
        let block = file.read(block).unwrap();
        let Rows::Trades(rows) = block.rows else { panic!("no trades") };
        events.extend(rows.into_iter().map(|row| row.event));
        refused.extend(block.refused);
    }
    (events, refused)
}

#[rstest]
#[case(format!("{FIRST}{SECOND}"))]
#[case(format!("{HEADER}{FIRST}{SECOND}"))]
#[case(format!("{HEADER}{FIRST}{SECOND}").replace('\n', "\r\n"))]
#[case(format!("{FIRST}{}", SECOND.trim_end()))]
#[case(format!("{FIRST}\n{SECOND}\n"))]
#[tokio::test]
async fn trades_are_read_with_and_without_header_and_ends_of_lines(#[case] text: String) {
    let folder = Folder::new();
    let (events, refused) = folder.trades(folder.file("BTCUSDT-trades-2024-08-08.csv", text)).await;
    assert_eq!(refused, []);
    let expected = Event {
        timestamp: Timestamp::from_millis(1_723_161_255_342),
        symbol: symbol("BTC-USDT"),
        price: 61_837.63,
        volume: 0.02,
        log_return: None,
        is_anomaly: None,
        anomaly_type: None,
        trade_id: Some(7),
        side: Some(Side::Sell),
        ingest_id: None,
        source: domain::Source::Archive,
        extra: None,
    };
    assert_eq!(events[0], expected);
    assert_eq!((events[1].trade_id, events[1].side), (Some(8), Some(Side::Buy)));
}

#[tokio::test]
async fn numbers_are_correctly_rounded_and_times_may_be_in_microseconds() {
    let folder = Folder::new();
    let text = "1,0.30000000000000004,123456789.12345679,1,1735689600000123,false,true\n";
    let (events, _) = folder.trades(folder.file("BTCUSDT-trades-2025-01-01.csv", text)).await;
    assert_eq!(events[0].price.to_bits(), (0.1_f64 + 0.2).to_bits());
    assert_eq!(events[0].volume, 123_456_789.123_456_79);
    assert_eq!(events[0].timestamp, Timestamp::from_micros(1_735_689_600_000_123));
}

#[tokio::test]
async fn a_line_that_is_no_trade_is_named_and_hides_no_other() {
    let folder = Folder::new();
    let text = format!("{HEADER}{FIRST}9,1.0\n10,-5.0,1,1,1723161255350,false,true\n{SECOND}11,61837.6,0.0");
    let (events, refused) = folder.trades(folder.file("BTCUSDT-trades-2024-08-08.csv", text)).await;
    assert_eq!(events.iter().map(|event| event.trade_id.unwrap()).collect::<Vec<_>>(), [7, 8]);
    let told: Vec<_> = refused.iter().map(|line| (line.line, line.reason.as_str())).collect();
    assert_eq!(
        told,
        [
            (3, "2 columns instead of 7"),
            (4, "price -5 must be above 0 (from 1e-100 to 1e100)"),
            (6, "the last line is torn: 3 columns instead of 7"),
        ]
    );
    let times: Vec<_> = refused.iter().map(|line| line.time.unwrap().micros() / 1_000 - 1_723_161_255_000).collect();
    assert_eq!(times, [342, 350, 343]);
}

#[rstest]
#[case("1,x,1,1,1723161255350,false,true\n", "price `x` is no number")]
#[case("1,NaN,1,1,1723161255350,false,true\n", "price `NaN` is no number")]
#[case("1,,1,1,1723161255350,false,true\n", "price `` is no number")]
#[case("1.5,1,1,1,1723161255350,false,true\n", "id `1.5` is no whole number")]
#[case("1,1,1,1,soon,false,true\n", "time `soon` is no whole number")]
#[case("1,1,1,1,17,false,true\n", "time 17 is before 2009-01-03T00:00:00Z")]
#[case("1,1,1,1,1723161255350,maybe,true\n", "isBuyerMaker `maybe` is neither true nor false")]
#[case("1,1,-1,1,1723161255350,false,true\n", "volume -1 must be at least 0 and at most 1e100")]
#[tokio::test]
async fn a_cell_that_cannot_be_is_named(#[case] line: &str, #[case] reason: &str) {
    let folder = Folder::new();
    let (events, refused) = folder.trades(folder.file("BTCUSDT-trades-x.csv", format!("{FIRST}{line}"))).await;
    assert_eq!(events.len(), 1);
    assert_eq!(refused.iter().map(|line| line.reason.as_str()).collect::<Vec<_>>(), [reason]);
}

#[tokio::test]
async fn a_line_that_is_no_plain_text_is_named_and_hides_no_other() {
    let folder = Folder::new();
    let mut text = format!("{HEADER}x^,1,1,1,1723161255350,false,true\n{FIRST}").into_bytes();
    text.extend(b"9,61837.6\xff,1,1,1723161255350,false,true\n");
    text.extend(b"10,\"61837.6\",1,1,1723161255350,false,true\n");
    text.extend(SECOND.as_bytes());
    let (events, refused) = folder.trades(folder.file("BTCUSDT-trades-2024-08-08.csv", text)).await;
    assert_eq!(events.iter().map(|event| event.trade_id.unwrap()).collect::<Vec<_>>(), [7, 8]);
    let told: Vec<_> = refused.iter().map(|line| (line.line, line.reason.as_str())).collect();
    let reasons = [(2, "id `x^` is no whole number"), (4, "it is not UTF-8"), (5, "it has quotation marks")];
    assert_eq!(told, reasons);
}

#[tokio::test]
async fn a_line_is_named_by_its_number_however_many_before_it_are_empty() {
    let folder = Folder::new();
    let text = format!("{HEADER}{}{}9,1.0\n", "\n".repeat(200_000), FIRST.repeat(20_000));
    let (events, refused) = folder.trades(folder.file("BTCUSDT-trades-2024-08-08.csv", text)).await;
    assert_eq!(events.len(), 20_000);
    assert_eq!(refused.iter().map(|line| line.line).collect::<Vec<_>>(), [220_002]);
}

#[rstest]
#[case("BTCUSDT-trades-2024-08-08.csv", "")]
#[case("BTCUSDT-trades-2024-08-08.csv", FIRST)]
#[case("events.jsonl", "{}\n")]
#[tokio::test]
async fn a_line_that_never_ends_is_not_read(#[case] name: &str, #[case] before: &str) {
    let folder = Folder::new();
    let told = folder.one(folder.file(name, format!("{before}{}", ",".repeat(8 << 20)))).await.unwrap_err();
    assert!(told.to_string().contains("has a line of more than 1048576 bytes"), "{told}");
}

#[tokio::test]
async fn blocks_of_lines_know_their_first_line_in_whatever_order_they_are_read() {
    let folder = Folder::new();
    let text: Vec<String> = (1..=100).map(|number| format!("{{\"line\":{number}}}\n")).collect();
    let mut file = folder.one(folder.file("events.jsonl", text.concat())).await.unwrap();
    let Form::JsonLines(lines) = file.form else { panic!("no lines") };
    file.form = Form::JsonLines(lines.with_blocks_of(50));
    assert!(file.blocks() > 10);
    for block in (0..file.blocks()).rev().chain(0..file.blocks()) {
        let Rows::JsonLines { first_line, bytes, .. } = file.read(block).unwrap().rows else { panic!("no lines") };
        assert!(bytes.starts_with(format!("{{\"line\":{first_line}}}").as_bytes()), "block {block}");
    }
}

#[tokio::test]
async fn an_aggregated_trade_is_one_event_under_its_last_trade() {
    let folder = Folder::new();
    let text = "5,2.5,4,100,103,1723161255342,true,true\n6,2.5,4,110,104,1723161255343,true,true\n";
    let (events, refused) = folder.trades(folder.file("BTCUSDT-aggTrades-2024-08-08.csv", text)).await;
    assert_eq!(events[0].trade_id, Some(103));
    let extra = r#"{"agg_trade_id":5,"first_trade_id":100,"last_trade_id":103}"#;
    assert_eq!(events[0].extra.as_deref(), Some(extra));
    assert_eq!(refused[0].reason, "firstTradeId 110 is above lastTradeId 104");
}

#[tokio::test]
async fn blocks_of_any_size_give_the_same_rows_and_lines() {
    let folder = Folder::new();
    let mut text = HEADER.to_owned();
    for id in 0..500 {
        writeln!(text, "{id},{}.5,1,1,{},false,true", 100 + id % 7, 1_723_161_255_000_i64 + id).unwrap();
        if id == 320 {
            text += "torn\n";
        }
    }
    let path = folder.file("BTCUSDT-trades-2024-08-08.csv", text);
    let whole = read_all(&folder.one(path.clone()).await.unwrap());
    assert_eq!((whole.0.len(), whole.1.len(), whole.1[0].line), (500, 1, 323));
    for size in [1, 50, 1_000, 4_096] {
        let mut file = folder.one(path.clone()).await.unwrap();
        let Form::Csv(csv) = file.form else { panic!("no CSV") };
        file.form = Form::Csv(csv.with_blocks_of(size));
        assert!(file.blocks() > 3);
        // A block may hold nothing but the line that is no row, and then does not know its time.
        let (events, refused) = read_all(&file);
        let told =
            |refused: &[Refused]| refused.iter().map(|line| (line.line, line.reason.clone())).collect::<Vec<_>>();
        assert_eq!((events, told(&refused)), (whole.0.clone(), told(&whole.1)), "blocks of {size} bytes");
    }
}

#[tokio::test]
async fn klines_are_whole_minutes() {
    let folder = Folder::new();
    let good = "1723161240000,1,4,0.5,2,10,1723161299999,15,3,0,0,0\n";
    let micros = "1735689600000000,1,4,0.5,2,10,1735689659999999,15,3,0,0,0\n";
    let text = format!(
        "{good}{micros}{}{}",
        good.replace("1723161299999", "1723161540000"),
        good.replace("1,4,0.5,2", "1,1,0.5,2")
    );
    let file = folder.one(folder.file("BTCUSDT-1m-2024-08-08.csv", text)).await.unwrap();
    assert_eq!(file.content(), Content::Klines);
    let block = file.read(0).unwrap();
    let Rows::Klines(klines) = block.rows else { panic!("no klines") };
    assert_eq!(klines.len(), 2);
    assert_eq!((klines[0].high, klines[0].quote_volume, klines[0].trades), (4.0, 15.0, 3));
    assert!(block.refused[0].reason.contains("not a whole minute"), "{:?}", block.refused);
    assert!(block.refused[1].reason.contains("high is the greatest"), "{:?}", block.refused);
}

#[tokio::test]
async fn an_archive_is_unpacked_and_is_the_file_in_it() {
    let folder = Folder::new();
    let name = "BTCUSDT-trades-2024-08-08.csv";
    let zipped = folder.zip("any.zip", &[(name, &format!("{HEADER}{FIRST}{SECOND}"))]);
    assert_eq!(folder.trades(zipped).await.0.len(), 2);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"{\"symbol\":\"A-B\"}\n{}\n").unwrap();
    let lines = folder.file("events.jsonl.gz", gzip.finish().unwrap());
    let file = folder.one(lines).await.unwrap();
    let Rows::JsonLines { first_line, bytes, .. } = file.read(0).unwrap().rows else { panic!("no lines") };
    assert_eq!((file.content(), first_line, bytes.len()), (Content::JsonLines, 1, 20));
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_named_with_the_reason() {
    let folder = Folder::new();
    let name = "BTCUSDT-trades-2024-08-08.csv";
    let good = folder.zip("good.zip", &[(name, FIRST)]);
    let mut damaged = fs::read(&good).unwrap();
    let middle = damaged.windows(8).position(|bytes| bytes == &FIRST.as_bytes()[..8]).unwrap_or(60);
    damaged[middle + 4] ^= 0x55;
    let cases = [
        (folder.file("a.csv", ""), "is empty"),
        (folder.file("BTCUSDT-trades-b.csv", HEADER), "is empty"),
        (folder.file("c.csv", FIRST), "does not tell its symbol"),
        (folder.file("BTCUSDT-x.csv", "1,2,3\n"), "has 3 columns: trades have 7, aggTrades 8 and klines 12"),
        (folder.file("BTCUSDT-klines-1m-x.csv", FIRST), "has 7 columns, and its name says that it has 12"),
        (folder.file("BTCUSDT-5m-x.csv", "1,1,1,1,1,1,1,1,1,1,1,1\n"), "holds klines of 5m"),
        (folder.zip("two.zip", &[(name, FIRST), ("b.csv", FIRST)]), "holds 2 files: an archive holds one"),
        (folder.zip("none.zip", &[]), "holds 0 files"),
        (folder.file("no.zip", "no archive"), "cannot be unpacked"),
        (folder.file("damaged.zip", damaged), "cannot be unpacked"),
        (folder.file("no.parquet", "no parquet"), "cannot be read as Parquet"),
    ];
    for (path, reason) in cases {
        let told = folder.one(path.clone()).await.unwrap_err();
        assert!(told.to_string().contains(reason), "{told}");
        assert!(told.to_string().contains(path.file_name().unwrap().to_str().unwrap()), "{told}");
        assert_eq!(told.kind(), domain::ErrorKind::Invalid);
    }
    let missing = folder.one(folder.0.path().join("missing.csv")).await.unwrap_err();
    assert_eq!(missing.kind(), domain::ErrorKind::NotFound);
}

#[tokio::test]
async fn a_folder_gives_its_files_in_order_and_only_the_symbols_asked_for() {
    let folder = Folder::new();
    for name in ["ETHUSDT-trades-1.csv", "BTCUSDT-trades-2.csv", "BTCUSDT-trades-1.csv", "readme.txt"] {
        folder.file(name, FIRST);
    }
    folder.file("BTCUSDT-trades-3.csv", "");
    let path = folder.0.path().to_path_buf();
    let names = async |symbols: &[Symbol]| {
        let opened = folder.open(&[path.clone(), path.join("BTCUSDT-trades-1.csv")], symbols).await;
        let name = |file: &ArchiveFile| file.path().file_name().unwrap().to_string_lossy().into_owned();
        opened.iter().map(|file| file.as_ref().map_or_else(|_| "refused".to_owned(), name)).collect::<Vec<_>>()
    };
    let all = ["refused", "BTCUSDT-trades-1.csv", "BTCUSDT-trades-2.csv", "ETHUSDT-trades-1.csv"];
    assert_eq!(names(&[]).await, all);
    assert_eq!(names(&[symbol("ETH-USDT")]).await, ["refused", "ETHUSDT-trades-1.csv"]);
    folder.file("unnamed.csv", FIRST);
    let named = folder.open(&[path.join("unnamed.csv")], &[symbol("SOL-USDT")]).await.pop().unwrap().unwrap();
    assert_eq!(read_all(&named).0[0].symbol, symbol("SOL-USDT"));
}

#[tokio::test]
async fn our_own_tables_come_back_as_the_events_they_hold() {
    let (folder, lake) = lake().await;
    lake.flush("topic", flush(0, 200)).await.unwrap();
    let scratch = Folder::new();
    let table = folder.path().join(TableName::Events.as_str());
    let mut files = scratch.open(&[table], &[]).await;
    let file = files.pop().unwrap().unwrap();
    assert!(files.is_empty());
    assert_eq!(file.content(), Content::Events);
    let (read, refused) = read_all(&file);
    assert_eq!(refused, []);
    assert_eq!(read, events(0, 200).into_iter().map(|row| row.event).collect::<Vec<_>>());
    let other = scratch.open(&[folder.path().join("events")], &[symbol("ETH-USDT")]).await;
    assert!(other.is_empty(), "{other:?}");
}
