//! Real recorded Binance frames, through every part: ingested once, folded, scored.

use lake::TableName;

use crate::{harness::Data, requirements};

/// Trade frames in the recordings, as counted by `zgrep -c '"e":"trade"'`.
const TRADES: [(&str, &str, usize); 2] = [
    ("data/binance_ws_spot_btcusdt_20240808.gz", "BTC-USDT", 9_757),
    ("data/binance_ws_spot_ethusdt_20240808.gz", "ETH-USDT", 6_106),
];

#[test]
fn recorded_trades_are_ingested_once_and_scored() {
    let paths: Vec<_> = TRADES.iter().filter_map(|(file, ..)| requirements::shared(file)).collect();
    if paths.len() < TRADES.len() {
        return;
    }
    let files = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ");
    let data = Data::new();
    assert!(data.run(&format!("ingest file {files}")).contains("15863 records appended"));
    let again = data.run(&format!("ingest file {files}"));
    assert!(again.contains("0 records appended; 2 files were ingested before"), "{again}");
    data.run("stream --once");
    data.run("train --trees 50");
    data.run("stream --once");

    let events = data.rows(TableName::Events, &[]);
    assert_eq!(events.len(), 15_863);
    for (_, symbol, trades) in TRADES {
        assert_eq!(events.iter().filter(|row| row[0] == symbol).count(), trades, "{symbol}");
    }
    assert_eq!(data.rows(TableName::Features, &[]).len(), 15_863);
    assert_eq!(data.rows(TableName::Predictions, &[]).len(), 15_863);
    assert!(data.rows(TableName::DeadLetters, &[]).is_empty());
    assert!(data.rows(TableName::LateEvents, &[]).is_empty());
    assert!(data.run("doctor").contains("0 records of the log are not in the tables yet"));
}
