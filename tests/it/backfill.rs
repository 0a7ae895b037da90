//! Backfills: what comes from archives is what came live, bit for bit, and nothing on the way loses or doubles a row.

use std::{fmt::Write, fs, time::Instant};

use lake::TableName;

use crate::{
    harness::{Data, PATIENCE, Served, printed, was_killed},
    requirements::shared,
};

/// Small flushes, so that there are many moments to die at.
const FLUSH_ROWS: (&str, &str) = ("SENTINEL__STREAM__FLUSH_ROWS", "400");

/// 2024-03-09T16:00:00Z, in milliseconds.
const START: i64 = 1_710_000_000_000;

/// What says where a row came from.
const CAUSES: [&str; 4] = ["partition", "offset", "ingest_time", "source"];

/// A trade of a made-up market.
#[derive(Clone, Copy)]
struct Trade {
    id: i64,
    /// After the start.
    millis: i64,
    price: f64,
    quantity: f64,
    is_maker: bool,
}

/// So many trades over so many minutes, several to a millisecond as on a real market.
fn trades(count: i64, minutes: i64) -> Vec<Trade> {
    let (mut state, mut price) = (0x9e37_79b9_7f4a_7c15_u64, 61_000.0);
    let mut draw = move |limit: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f64::from(u32::try_from(state % limit).unwrap())
    };
    let trade = |number: i64| {
        price += draw(201) / 100.0 - 1.0;
        let quantity = (1.0 + draw(900)) / 1_000.0;
        let millis = number / 3 * 3 * minutes * 60_000 / count;
        Trade { id: 5_000 + number, millis, price: (price * 100.0).round() / 100.0, quantity, is_maker: draw(2) == 0.0 }
    };
    (0..count).map(trade).collect()
}

/// Trades as Binance's stream sends them.
fn frames<'a>(symbol: &str, trades: impl IntoIterator<Item = &'a Trade>) -> String {
    let mut text = String::new();
    for Trade { id, millis, price, quantity, is_maker } in trades {
        let (time, stream) = (START + millis, symbol.to_lowercase());
        let data = format!(
            "\"e\":\"trade\",\"E\":{},\"s\":\"{symbol}\",\"t\":{id},\"p\":\"{price:.8}\",\"q\":\"{quantity:.8}\",\"T\":{time},\"m\":{is_maker},\"M\":true",
            time + 1
        );
        writeln!(text, "{{\"stream\":\"{stream}@trade\",\"data\":{{{data}}}}}").unwrap();
    }
    text
}

/// The same trades as Binance's archives hold them; times in microseconds, where that is asked for.
fn csv<'a>(trades: impl IntoIterator<Item = &'a Trade>, in_micros: bool) -> String {
    let mut text = "id,price,qty,quoteQty,time,isBuyerMaker,isBestMatch\n".to_owned();
    for Trade { id, millis, price, quantity, is_maker } in trades {
        let time = (START + millis) * if in_micros { 1_000 } else { 1 };
        let quote = price * quantity;
        writeln!(text, "{id},{price:.8},{quantity:.8},{quote:.8},{time},{is_maker},True").unwrap();
    }
    text
}

/// What `verify --json` says: whether all is equal, and the digest of each table.
fn verified(data: &Data) -> (bool, Vec<(String, u64, String)>) {
    let output = data.sentinel("verify --json --log").output().unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert!(answer.is_object(), "{}", printed(&output));
    let tables = answer["tables"].as_array().unwrap().iter().take(2);
    let told = tables.map(|table| {
        let text = |name: &str| table[name].as_str().unwrap().to_owned();
        (text("table"), table["compared"].as_u64().unwrap(), text("digest"))
    });
    (output.status.success(), told.collect())
}

fn plan(data: &Data, arguments: &str) -> serde_json::Value {
    let output = data.sentinel(&format!("backfill plan --json {arguments}")).output().unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert!(answer.is_object(), "{}", printed(&output));
    answer
}

/// What of a plan is done with each slice.
fn actions(plan: &serde_json::Value) -> Vec<&str> {
    plan["slices"].as_array().unwrap().iter().map(|slice| slice["action"].as_str().unwrap()).collect()
}

/// Writes an archive, in a folder of its own beside the data, or anything else.
fn write(data: &Data, name: &str, text: &str) {
    let folder = if name.contains("USDT-") { data.path().join("archives") } else { data.path().to_path_buf() };
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), text).unwrap();
}

/// Live: the frames in pieces, folded in odd batches, with kills on the way.
fn streamed_through_kills(data: &Data, files: &[(String, String)]) {
    let kills = ["committed:2", "files-written:3", "before-next:1"];
    let mut killed = 0;
    for (number, (name, text)) in files.iter().enumerate() {
        write(data, name, text);
        data.run(&format!("ingest file {name}"));
        let mut stream = data.sentinel("stream --once");
        let run = stream.env("SENTINEL_CRASH_AT", kills[number % kills.len()]).env(FLUSH_ROWS.0, FLUSH_ROWS.1);
        killed += usize::from(was_killed(run.output().unwrap().status));
        assert!(data.sentinel("stream --once").env(FLUSH_ROWS.0, "300").output().unwrap().status.success());
    }
    assert!(killed >= 2, "only {killed} kills");
}

/// The frames of recorded files, and the same trades as archives.
fn recorded() -> Option<Vec<(String, String, String)>> {
    let mut markets = Vec::new();
    for (symbol, file) in [
        ("BTCUSDT", "data/binance_ws_spot_btcusdt_20240808.gz"),
        ("ETHUSDT", "data/binance_ws_spot_ethusdt_20240808.gz"),
    ] {
        let mut text = String::new();
        let file = fs::File::open(shared(file)?).unwrap();
        std::io::Read::read_to_string(&mut flate2::read::MultiGzDecoder::new(file), &mut text).unwrap();
        let (mut frames, mut archive) = (String::new(), String::new());
        for line in text.lines().filter(|line| line.contains("@trade\"")) {
            let frame: serde_json::Value = serde_json::from_str(&line[line.find('{').unwrap()..]).unwrap();
            let of = |name: &str| frame["data"][name].to_string().replace('"', "");
            writeln!(frames, "{line}").unwrap();
            writeln!(archive, "{},{},{},0,{},{},true", of("t"), of("p"), of("q"), of("T"), of("m")).unwrap();
        }
        markets.push((symbol.to_owned(), frames, archive));
    }
    Some(markets)
}

/// Folds markets (name, frames, archive) four ways and expects one digest of each table.
fn comes_out_the_same_four_ways(markets: &[(String, String, String)]) {
    let [streamed, at_once, filled, copied] = [(); 4].map(|()| Data::new());
    let mut pieces = Vec::new();
    for (name, frames, _) in markets {
        let lines: Vec<&str> = frames.lines().collect();
        for (number, piece) in lines.chunks(lines.len().div_ceil(3) + 1).enumerate() {
            pieces.push((format!("live-{number}-{name}.jsonl"), piece.join("\n") + "\n"));
        }
    }
    streamed_through_kills(&streamed, &pieces);
    let mut files = String::new();
    for (name, frames, archive) in markets {
        write(&at_once, &format!("live-{name}.jsonl"), frames);
        write(&filled, &format!("{name}-trades-2024.csv"), archive);
        write!(files, " live-{name}.jsonl").unwrap();
    }
    at_once.run(&format!("ingest file{files}"));
    at_once.run("stream --once");
    filled.run("backfill run archives --grain 2m --execute");
    let table = at_once.path().join("data/lake/events");
    copied.run(&format!("backfill run {} --grain 1h --execute", table.display()));

    let expected = verified(&at_once);
    assert!(expected.0 && expected.1.iter().all(|(_, rows, _)| *rows > 5), "{expected:?}");
    assert_eq!(verified(&streamed), expected);
    for (name, data) in [("filled", &filled), ("copied", &copied)] {
        let (is_equal, digests) = verified(data);
        assert!(is_equal, "{name} is not what its events give");
        assert_eq!(digests[0], expected.1[0], "{name}");
        // The last minutes are still open where they came live.
        let windows = data.rows(TableName::Windows, &CAUSES);
        let live = at_once.rows(TableName::Windows, &CAUSES);
        assert!(live.len() < windows.len() && live.iter().all(|row| windows.contains(row)), "{name}");
    }
    assert_eq!(verified(&filled).1, verified(&copied).1);
}

#[test]
fn the_same_trades_come_out_the_same_four_ways() {
    let trades = trades(3_000, 9);
    comes_out_the_same_four_ways(&[("BTCUSDT".to_owned(), frames("BTCUSDT", &trades), csv(&trades, false))]);
}

#[test]
fn recorded_minutes_come_out_the_same_four_ways() {
    if let Some(markets) = recorded() {
        comes_out_the_same_four_ways(&markets);
    }
}

#[test]
fn a_hole_is_healed_to_what_an_unbroken_stream_gives_beside_a_live_one() {
    let trades = trades(6_000, 20);
    let hole = |trade: &&Trade| !(150_000..330_000).contains(&trade.millis);
    let (whole, broken) = (Data::new(), Data::new());
    for (data, text) in [(&whole, frames("BTCUSDT", &trades)), (&broken, frames("BTCUSDT", trades.iter().filter(hole)))]
    {
        write(data, "live.jsonl", &text);
        write(data, "BTCUSDT-trades-2024-03-09.csv", &csv(&trades, false));
    }
    // Twenty minutes of trades in ten seconds, while the hole in the first of them is filled.
    let up = Served::start(broken.sentinel("up --source file live.jsonl --speed 120 --bind 127.0.0.1:0"));
    let waited = Instant::now();
    while broken.run("gaps").contains("BTC-USDT") || !broken.run("backfill status").contains("succeeded") {
        assert!(waited.elapsed() < PATIENCE, "the hole was never filled");
        broken.run("backfill run --gaps archives/BTCUSDT-trades-2024-03-09.csv --grain 1h --execute");
    }
    up.interrupt();
    whole.run("ingest file live.jsonl");
    broken.run("ingest file live.jsonl");
    for data in [&whole, &broken] {
        data.run("stream --once");
    }
    let (expected, actual) = (verified(&whole), verified(&broken));
    assert!(actual.0, "what is derived is not what the events give");
    assert_eq!(actual.1[0], expected.1[0]);
    assert_eq!(broken.rows(TableName::Events, &[]).len(), trades.len());
}

#[test]
fn a_killed_backfill_is_resumed_and_nothing_comes_twice() {
    let trades = trades(3_000, 9);
    let (calm, stormy) = (Data::new(), Data::new());
    for data in [&calm, &stormy] {
        write(data, "BTCUSDT-trades-2024-03-09.csv", &csv(&trades, false));
        write(data, "ETHUSDT-trades-2024-03-09.csv", &csv(&trades, false));
    }
    calm.run("backfill run archives --grain 3m --execute");
    let begin =
        stormy.sentinel("backfill run archives --grain 3m --execute").env("SENTINEL_CRASH_AT", "committed:5").output();
    assert!(was_killed(begin.unwrap().status));
    assert!(stormy.run("backfill status").contains("interrupted"));
    let mut kills = 1;
    for point in ["committed:1", "files-written:4", "committed:3", "files-written:1", "committed:2", "committed:99"] {
        let output = stormy.sentinel("backfill resume 1").env("SENTINEL_CRASH_AT", point).output().unwrap();
        kills += usize::from(was_killed(output.status));
        assert!(was_killed(output.status) || point == "committed:99", "{}", printed(&output));
    }
    assert_eq!(kills, 6);
    assert!(stormy.run("backfill status").contains("succeeded"));
    for table in TableName::ALL {
        let without = if table == TableName::Floors { vec!["ingest_time", "offset"] } else { vec!["ingest_time"] };
        assert_eq!(stormy.rows(table, &without), calm.rows(table, &without), "{}", table.as_str());
    }
    assert!(verified(&stormy).0);
    let refused = stormy.sentinel("backfill resume 1").output().unwrap();
    assert!(printed(&refused).contains("run 1 is succeeded and cannot be reopened"), "{}", printed(&refused));
}

#[test]
fn files_that_overlap_give_the_same_rows_in_any_order_and_form() {
    let trades = trades(3_000, 9);
    let (one, other) = (Data::new(), Data::new());
    write(&one, "BTCUSDT-trades-a.csv", &csv(&trades, true));
    let shuffled: Vec<Trade> = (0..trades.len()).map(|n| trades[n * 1_237 % trades.len()]).collect();
    write(&other, "BTCUSDT-trades-z.csv", &csv(&shuffled[..1_900], true));
    write(&other, "BTCUSDT-trades-a.csv", &csv(&shuffled[1_500..], true));
    one.run("backfill run archives --execute");
    other.run("backfill run archives/BTCUSDT-trades-z.csv --grain 4m --execute");
    other.run("backfill run archives/BTCUSDT-trades-a.csv archives/BTCUSDT-trades-z.csv --grain 7m --execute");
    assert_eq!(verified(&one), verified(&other));
    assert_eq!(other.rows(TableName::Events, &[]).len(), trades.len());
    assert_eq!(actions(&plan(&other, "archives")), ["nothing"]);
    // As JSON Lines and as Parquet, written by an export, the same events once more.
    let (lines, parquet) = (Data::new(), Data::new());
    for (data, name) in [(&lines, "events.parquet"), (&parquet, "BTC-USDT.parquet")] {
        let file = data.path().join(name);
        one.run(&format!("export events --output {}", file.display()));
        data.run(&format!("backfill run {name} --grain 1h --execute"));
        assert_eq!(verified(data), verified(&one));
    }
}

#[test]
fn aggregated_trades_are_events_of_their_own_and_never_mix_with_trades() {
    let data = Data::new();
    let mut text = String::new();
    for number in 0_i64..120 {
        let (first, time) = (1_000 + 3 * number, START + number * 1_000);
        writeln!(text, "{number},61000.5,0.25,{first},{},{time},false,true", first + 2).unwrap();
    }
    write(&data, "BTCUSDT-aggTrades-2024-03-09.csv", &text);
    write(&data, "BTCUSDT-trades-2024-03-09.csv", &csv(&trades(300, 2), false));
    let both = plan(&data, "archives --grain 1h");
    assert_eq!(actions(&both), ["refuse", "refuse"]);
    data.run("backfill run archives/BTCUSDT-aggTrades-2024-03-09.csv --execute");
    assert_eq!(data.rows(TableName::Events, &[]).len(), 120);
    assert!(!data.run("gaps").contains("BTC-USDT"), "an aggregated trade is all of its trades");
    let mixed = plan(&data, "archives/BTCUSDT-trades-2024-03-09.csv");
    assert_eq!(actions(&mixed), ["refuse"]);
    let reason = mixed["slices"][0]["reason"].as_str().unwrap();
    assert_eq!(reason, "120 aggTrades are stored here, and trades do not mix with them");
    assert!(verified(&data).0);
}

#[test]
fn klines_fill_the_minutes_that_nothing_was_folded_in() {
    let data = Data::new();
    let trades = trades(3_000, 9);
    let early = |trade: &&Trade| (120_000..240_000).contains(&trade.millis);
    write(&data, "BTCUSDT-trades-2024-03-09.csv", &csv(trades.iter().filter(early), false));
    let mut text = String::new();
    for minute in 0_i64..9 {
        let open = START + minute * 60_000;
        writeln!(text, "{open},100,110,90,105,2.5,{},260,40,1,104,0", open + 59_999).unwrap();
    }
    write(&data, "BTCUSDT-1m-2024-03-09.csv", &text);
    data.run("backfill run archives/BTCUSDT-trades-2024-03-09.csv --grain 2m --execute");
    data.run("backfill run archives/BTCUSDT-1m-2024-03-09.csv --execute");
    let windows = data.rows(TableName::Windows, &["symbol", "partition", "offset", "ingest_time"]);
    assert_eq!(windows.len(), 9);
    let klines = |rows: &[Vec<String>]| rows.iter().filter(|row| row.contains(&"kline".to_owned())).count();
    assert_eq!(klines(&windows), 7);
    let kline = windows.iter().find(|row| row.contains(&"kline".to_owned())).unwrap();
    assert_eq!(kline[1..8], ["100.0", "110.0", "90.0", "105.0", "2.5", "104.0", "40"]);
    assert!(kline[8..17].iter().all(String::is_empty), "{kline:?}");
    assert!(verified(&data).0, "verify passes klines by");
    // Trades that come later take their minutes; the others keep their klines.
    let late = |trade: &&Trade| trade.millis >= 360_000;
    write(&data, "BTCUSDT-trades-later.csv", &csv(trades.iter().filter(late), false));
    data.run("backfill run archives/BTCUSDT-trades-later.csv --execute");
    let windows = data.rows(TableName::Windows, &["ingest_time"]);
    assert_eq!((windows.len(), klines(&windows)), (9, 4));
    assert!(verified(&data).0);
}

#[test]
fn what_cannot_be_read_is_said_and_leaves_the_rest_unharmed() {
    let data = Data::new();
    let trades = trades(3_000, 9);
    let text = csv(&trades, false);
    let cut = text.trim_end().len() - 20;
    write(&data, "BTCUSDT-trades-torn.csv", &text[..cut]);
    let negative = text.replacen(",61", ",-61", 1);
    write(&data, "ETHUSDT-trades-negative.csv", &negative);
    write(&data, "SOLUSDT-trades-good.csv", &text);
    write(&data, "BNBUSDT-trades-empty.csv", "");
    let planned = plan(&data, "archives --grain 3m");
    let of = |symbol: &str| {
        let slices = planned["slices"].as_array().unwrap().iter().filter(|slice| slice["symbol"] == symbol);
        slices.map(|slice| slice["action"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of("BTC-USDT"), ["add", "add", "refuse"]);
    assert_eq!(of("ETH-USDT"), ["refuse", "add", "add"]);
    assert_eq!(of("SOL-USDT"), ["add", "add", "add"]);
    let told = planned.to_string();
    for sentence in
        ["the last line is torn: 5 columns instead of 7", "line 3: price -61", "BNBUSDT-trades-empty.csv` is empty"]
    {
        assert!(told.contains(sentence), "{sentence} is not in {told}");
    }
    let refused = data.sentinel("backfill run archives --grain 3m --execute").output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", printed(&refused));
    assert!(printed(&refused).contains("--on-error continue does the other slices"), "{}", printed(&refused));
    assert!(data.rows(TableName::Events, &[]).is_empty());
    let done = data.sentinel("backfill run archives --grain 3m --on-error continue --execute").output().unwrap();
    assert_eq!(done.status.code(), Some(1), "{}", printed(&done));
    assert!(data.rows(TableName::Events, &[]).len() > 6_500);
    assert!(verified(&data).0);
    for (arguments, sentence) in [
        ("archives/BTCUSDT-trades-torn.csv --from 2024-03-09T16:00:30Z", "is not a whole minute"),
        ("archives/BTCUSDT-trades-torn.csv --from 2024-03-10 --to 2024-03-09", "there is no time from"),
        ("missing.csv", "missing.csv"),
        ("", "name the archives to fill from"),
        ("archives/SOLUSDT-trades-good.csv --grain 90s", "use whole minutes, hours or days"),
    ] {
        let output = data.sentinel(&format!("backfill run {arguments} --execute")).output().unwrap();
        assert!(!output.status.success() && printed(&output).contains(sentence), "{arguments}: {}", printed(&output));
    }
    let nothing = data.run("backfill run archives/SOLUSDT-trades-good.csv --from 2020-01-01 --to 2020-01-02 --execute");
    assert!(nothing.contains("the archives hold nothing of what was asked for"), "{nothing}");
    for (arguments, sentence) in [
        (
            "--from 2020-01-01 --to 2020-01-02",
            "nothing of SOL-USDT in the time that was asked for: they hold rows from 2024-03-09T16:00:00Z to",
        ),
        ("--symbols SOL-USDT,XRP-USDT", "the archives hold nothing of XRP-USDT"),
    ] {
        let planned = plan(&data, &format!("archives/SOLUSDT-trades-good.csv {arguments}"));
        assert!(planned["nothing_of"].to_string().contains(sentence), "{planned}");
    }
}

#[test]
fn a_plan_that_would_be_another_one_now_is_refused() {
    let data = Data::new();
    let trades = trades(3_000, 9);
    write(&data, "BTCUSDT-trades-a.csv", &csv(&trades[..2_000], false));
    data.run("backfill plan archives/BTCUSDT-trades-a.csv --grain 3m --output plan.json");
    assert!(data.rows(TableName::Events, &[]).is_empty(), "a plan writes nothing");
    write(&data, "BTCUSDT-trades-b.csv", &csv(&trades[1_990..], false));
    data.run("backfill run archives/BTCUSDT-trades-b.csv --execute");
    let refused = data.sentinel("backfill run --plan plan.json --execute").output().unwrap();
    let told = printed(&refused);
    assert!(
        told.contains("the plan has changed since it was exported: BTC-USDT 2024-03-09T16:03:00Z trades"),
        "{told}"
    );
    data.run("backfill plan archives/BTCUSDT-trades-a.csv --grain 3m --output again.json");
    assert!(data.run("backfill run --plan again.json --execute").contains("0 failed, 0 left"));
    assert_eq!(data.rows(TableName::Events, &[]).len(), trades.len());
    write(&data, "BTCUSDT-trades-a.csv", &csv(&trades[..1_000], false));
    let refused = data.sentinel("backfill run --plan again.json --execute").output().unwrap();
    assert!(printed(&refused).contains("is not what it was"), "{}", printed(&refused));
}

#[test]
fn what_is_filled_stays_filled_and_older_events_of_the_log_are_late() {
    let data = Data::new();
    let trades = trades(3_000, 9);
    write(&data, "BTCUSDT-trades-a.csv", &csv(&trades, false));
    data.run("backfill run archives --grain 3m --execute");
    write(&data, "live.jsonl", &frames("BTCUSDT", &trades[..50]));
    data.run("ingest file live.jsonl");
    data.run("stream --once");
    assert_eq!(data.rows(TableName::LateEvents, &[]).len(), 50);
    // What comes after it knows nothing of it, and is verified so.
    let mut next = trades.clone();
    for trade in &mut next {
        trade.id += 10_000;
        trade.millis += 9 * 60_000;
    }
    write(&data, "next.jsonl", &frames("BTCUSDT", &next));
    data.run("ingest file next.jsonl");
    data.run("stream --once");
    assert_eq!(data.rows(TableName::Events, &[]).len(), 6_000);
    assert!(verified(&data).0);
    let restored = data.sentinel("table restore events --version 1").output().unwrap();
    assert!(
        !restored.status.success() && printed(&restored).contains("lies behind a backfill"),
        "{}",
        printed(&restored)
    );
}

#[test]
fn a_cancelled_run_ends_and_may_be_taken_up_again() {
    let data = Data::new();
    write(&data, "BTCUSDT-trades-a.csv", &csv(&trades(3_000, 9), false));
    let killed =
        data.sentinel("backfill run archives --grain 1m --execute").env("SENTINEL_CRASH_AT", "committed:4").output();
    assert!(was_killed(killed.unwrap().status));
    assert!(data.run("backfill cancel 1").contains("run 1 is cancelled"));
    assert!(data.run("backfill cancel 1").contains("has ended already: it is cancelled"));
    assert!(data.run("backfill status").contains("cancelled"));
    assert!(data.run("backfill resume 1").contains("0 failed, 0 left"));
    assert!(verified(&data).0);
    let missing = data.sentinel("backfill status 9").output().unwrap();
    assert!(printed(&missing).contains("there is no run 9"), "{}", printed(&missing));
}
