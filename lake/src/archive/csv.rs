//! Binance's public CSV files: spot `trades`, `aggTrades` and 1-minute `klines`, with or without a header.
//!
//! Polars splits a block into columns of text; numbers are parsed from that text. Lines that it would not split as they
//! stand (of another number of columns, in quotation marks, no text at all) are taken out before, so that they cost no
//! others.
//!
//! Source: <https://github.com/binance/binance-public-data>, "spot".

use std::{fs::File, io::Cursor, path::Path, str, sync::Arc};

use domain::{Event, Side, Source, Symbol, Timestamp, windows::WINDOW_MICROS};
use memchr::memchr3_iter;
use polars::prelude::{CsvParseOptions, CsvReadOptions, DataFrame, DataType, Field, Schema, SerReader, StringChunked};

use super::{
    Archived, Block, Content, Kline, Refused, Rows,
    name::Named,
    place, refused,
    text::{TextFile, first_line},
    time_of_neighbours,
};
use crate::{error::Error, settled::AGGREGATED};

/// The columns of each kind.
const COLUMNS: [(Content, usize); 3] = [(Content::Trades, 7), (Content::AggTrades, 8), (Content::Klines, 12)];

/// Those that are read of `id,price,qty,quoteQty,time,isBuyerMaker,isBestMatch`.
const OF_TRADES: &[usize] = &[0, 1, 2, 4, 5];

/// Those that are read of `aggTradeId,price,qty,firstTradeId,lastTradeId,time,isBuyerMaker,isBestMatch`.
const OF_AGG_TRADES: &[usize] = &[0, 1, 2, 3, 4, 5, 6];

/// Those that are read of `openTime,open,high,low,close,volume,closeTime,quoteVolume,count,...`.
const OF_KLINES: &[usize] = &[0, 1, 2, 3, 4, 5, 6, 7, 8];

/// A CSV file of one symbol.
pub(super) struct CsvFile {
    text: TextFile,
    symbol: Symbol,
    content: Content,
    columns: usize,
}

impl CsvFile {
    pub(super) fn open(file: File, named: &Named, path: &Path) -> Result<Self, Error> {
        let first = first_line(&file, path)?;
        let cells = String::from_utf8_lossy(&first);
        let cells: Vec<&str> = cells.trim_end_matches('\r').split(',').collect();
        let found = COLUMNS.iter().find(|(_, columns)| *columns == cells.len());
        let content = match (named.content, found) {
            (Some(named), Some((found, _))) if named == *found => named,
            (None, Some((found, _))) => *found,
            (Some(named), _) => {
                let expected = COLUMNS.iter().find(|(content, _)| *content == named).map_or(0, |(_, columns)| *columns);
                let found = cells.len();
                return Err(refused(path, format!("has {found} columns, and its name says that it has {expected}")));
            }
            (None, None) => {
                let reason = format!("has {} columns: trades have 7, aggTrades 8 and klines 12", cells.len());
                return Err(refused(path, reason));
            }
        };
        if let Some(interval) = named.other_interval {
            return Err(refused(path, format!("holds klines of {interval}: windows are of one minute")));
        }
        let symbol = named.symbol.ok_or_else(|| {
            refused(
                path,
                "does not tell its symbol: name it as Binance does (BTCUSDT-trades-...), or give one --symbols",
            )
        })?;
        let has_header = cells[0].trim().parse::<f64>().is_err();
        let start = if has_header { first.len() as u64 + 1 } else { 0 };
        let text = TextFile::open(file, start, path)?;
        Ok(Self { text, symbol, content, columns: cells.len() })
    }

    #[cfg(test)]
    pub(super) fn with_blocks_of(mut self, bytes: u64) -> Self {
        self.text = self.text.with_blocks_of(bytes);
        self
    }

    pub(super) const fn content(&self) -> Content {
        self.content
    }

    pub(super) const fn blocks(&self) -> usize {
        self.text.blocks()
    }

    pub(super) fn read(&self, block: usize, path: &Path) -> Result<Block, Error> {
        let bytes = self.text.bytes_of(block).map_err(Error::file("read", path))?;
        let is_last = self.text.is_last(block);
        let Sound { bytes, lines, mut refused } = sound_lines(bytes, self.columns, is_last);
        let frame = split(bytes, self.columns, self.columns_read())
            .map_err(|error| super::refused(path, format!("cannot be split into columns: {error}")))?;
        let (rows, times) = match self.content {
            Content::Klines => self.klines(&frame, &lines, &mut refused),
            _ => self.trades(&frame, block, &lines, &mut refused),
        };
        if !refused.is_empty() {
            time_of_neighbours(&mut refused, &times);
            let before = self.text.lines_before(block).map_err(Error::file("read", path))?;
            for (_, refused) in &mut refused {
                refused.line += before;
            }
            refused.sort_by_key(|(line, _)| *line);
        }
        Ok(Block { rows, refused: refused.into_iter().map(|(_, refused)| refused).collect() })
    }

    const fn columns_read(&self) -> &'static [usize] {
        match self.content {
            Content::AggTrades => OF_AGG_TRADES,
            Content::Klines => OF_KLINES,
            _ => OF_TRADES,
        }
    }

    fn trades(&self, frame: &DataFrame, block: usize, lines: &Lines, refused: &mut Vec<(u64, Refused)>) -> Read {
        let is_aggregated = self.content == Content::AggTrades;
        let cells = Cells::new(frame);
        let (mut rows, mut times) = (Vec::with_capacity(frame.height()), Vec::new());
        for row in 0..frame.height() {
            let line = lines.number(row);
            let read = if is_aggregated { self.aggregated(&cells, row) } else { self.trade(&cells, row) };
            match read {
                Ok(event) => rows.push(Archived { event, place: place(block, row) }),
                Err((time, reason)) => refused.push((line, Refused { line, time, reason })),
            }
        }
        if !refused.is_empty() {
            let of_row = |row: &Archived| {
                let number = usize::try_from(row.place - place(block, 0)).unwrap_or(usize::MAX);
                (lines.number(number), row.event.timestamp)
            };
            times = rows.iter().map(of_row).collect();
        }
        (Rows::Trades(rows), times)
    }

    /// The cells are those of [`OF_TRADES`].
    fn trade(&self, cells: &Cells<'_>, row: usize) -> Result<Event, Wrong> {
        let time = time(cells.text(3, row))?;
        let at = |reason| (Some(time), reason);
        self.event(time, cells, row, cells.text(4, row), whole("id", cells.text(0, row)).map_err(at)?, None)
    }

    /// One event, under its last trade; the cells are those of [`OF_AGG_TRADES`].
    fn aggregated(&self, cells: &Cells<'_>, row: usize) -> Result<Event, Wrong> {
        let time = time(cells.text(5, row))?;
        let at = |reason| (Some(time), reason);
        let id = whole("aggTradeId", cells.text(0, row)).map_err(at)?;
        let first = whole("firstTradeId", cells.text(3, row)).map_err(at)?;
        let last = whole("lastTradeId", cells.text(4, row)).map_err(at)?;
        if first > last {
            return Err(at(format!("firstTradeId {first} is above lastTradeId {last}")));
        }
        let extra = format!("{AGGREGATED}{id},\"first_trade_id\":{first},\"last_trade_id\":{last}}}");
        self.event(time, cells, row, cells.text(6, row), last, Some(extra.into_boxed_str()))
    }

    fn event(
        &self,
        timestamp: Timestamp,
        cells: &Cells<'_>,
        row: usize,
        buyer_is_maker: &str,
        trade_id: i64,
        extra: Option<Box<str>>,
    ) -> Result<Event, Wrong> {
        let at = |reason| (Some(timestamp), reason);
        let event = Event {
            timestamp,
            symbol: self.symbol,
            price: number("price", cells.text(1, row)).map_err(at)?,
            volume: number("qty", cells.text(2, row)).map_err(at)?,
            log_return: None,
            is_anomaly: None,
            anomaly_type: None,
            trade_id: Some(trade_id),
            // A buyer that was the maker had an order in the book, and the taker sold to it.
            side: Some(match buyer_is_maker {
                "true" | "True" | "TRUE" => Side::Sell,
                "false" | "False" | "FALSE" => Side::Buy,
                other => return Err(at(format!("isBuyerMaker `{}` is neither true nor false", shown(other)))),
            }),
            ingest_id: None,
            source: Source::Archive,
            extra,
        };
        event.check().map_err(|error| at(error.to_string()))?;
        Ok(event)
    }

    fn klines(&self, frame: &DataFrame, lines: &Lines, refused: &mut Vec<(u64, Refused)>) -> Read {
        let cells = Cells::new(frame);
        let (mut rows, mut times) = (Vec::with_capacity(frame.height()), Vec::new());
        for row in 0..frame.height() {
            let line = lines.number(row);
            match self.kline(&cells, row) {
                Ok(kline) => {
                    times.push((line, kline.open_time));
                    rows.push(kline);
                }
                Err((time, reason)) => refused.push((line, Refused { line, time, reason })),
            }
        }
        (Rows::Klines(rows), times)
    }

    /// The cells are those of [`OF_KLINES`].
    fn kline(&self, cells: &Cells<'_>, row: usize) -> Result<Kline, Wrong> {
        let open_time = time(cells.text(0, row))?;
        let at = |reason: String| (Some(open_time), reason);
        let of = |name, column| number(name, cells.text(column, row)).map_err(at);
        let kline = Kline {
            symbol: self.symbol,
            open_time,
            open: of("open", 1)?,
            high: of("high", 2)?,
            low: of("low", 3)?,
            close: of("close", 4)?,
            volume: of("volume", 5)?,
            quote_volume: of("quoteVolume", 7)?,
            trades: whole("count", cells.text(8, row)).map_err(at)?,
        };
        let close_time = time(cells.text(6, row))?;
        let length = close_time.micros() - open_time.micros();
        // The close is the last unit of the minute: a millisecond or a microsecond before its end.
        if open_time.micros().rem_euclid(WINDOW_MICROS) != 0
            || !(WINDOW_MICROS - 1_000..WINDOW_MICROS).contains(&length)
        {
            return Err(at(format!("it is from {open_time} to {close_time}, and not a whole minute")));
        }
        let prices = [kline.open, kline.high, kline.low, kline.close];
        let in_order = kline.high >= kline.open.max(kline.close) && kline.low <= kline.open.min(kline.close);
        let volumes = [kline.volume, kline.quote_volume];
        if !in_order || prices.iter().any(|price| *price <= 0.0) || volumes.iter().any(|volume| *volume < 0.0) {
            return Err(at(
                "its prices or volumes cannot be: high is the greatest, low the least, all are above 0".to_owned()
            ));
        }
        if kline.trades < 0 {
            return Err(at(format!("count {} is below 0", kline.trades)));
        }
        Ok(kline)
    }
}

type Read = (Rows, Vec<(u64, Timestamp)>);

/// The time of a line, where that much is known, and what is wrong with it.
type Wrong = (Option<Timestamp>, String);

/// The columns of a block that are read.
struct Cells<'a>(Vec<&'a StringChunked>);

impl<'a> Cells<'a> {
    fn new(frame: &'a DataFrame) -> Self {
        Self(frame.columns().iter().filter_map(|column| column.as_materialized_series().str().ok()).collect())
    }

    /// A cell's text, empty where there is none.
    fn text(&self, column: usize, row: usize) -> &'a str {
        self.0.get(column).and_then(|column| column.get(row)).unwrap_or_default().trim()
    }
}

/// Which line of a block each row is.
#[derive(Debug, Default)]
struct Lines {
    /// Of each line that is no row, how many rows stand before it; ascending.
    rows_before: Vec<u64>,
}

impl Lines {
    /// The number of a row's line, from 1.
    fn number(&self, row: usize) -> u64 {
        let left_out = self.rows_before.partition_point(|before| *before <= row as u64);
        (row + left_out) as u64 + 1
    }

    /// Leaves out a line, by its number; ascending.
    fn leave_out(&mut self, line: u64) {
        self.rows_before.push(line - 1 - self.rows_before.len() as u64);
    }
}

/// Lines with the right number of columns, and the others.
struct Sound {
    bytes: Vec<u8>,
    lines: Lines,
    refused: Vec<(u64, Refused)>,
}

/// Takes out the lines that cannot be split into as many columns as the first of the file has.
fn sound_lines(bytes: Vec<u8>, columns: usize, ends_file: bool) -> Sound {
    let (mut lines, mut refused) = (Lines::default(), Vec::new());
    let mut spoiled: Vec<std::ops::Range<usize>> = Vec::new();
    let (mut start, mut number) = (0, 0);
    let (mut found, mut has_quotes) = (1, false);
    let all_text = str::from_utf8(&bytes).is_ok();
    // The end of the file ends a line as well.
    let marks = memchr3_iter(b'\n', b',', b'"', &bytes).chain((bytes.last() != Some(&b'\n')).then_some(bytes.len()));
    for at in marks {
        match bytes.get(at) {
            Some(b',') => found += 1,
            Some(b'"') => has_quotes = true,
            end => {
                number += 1;
                let line = &bytes[start..at];
                let is_text = all_text || str::from_utf8(line).is_ok();
                if found != columns || has_quotes || !is_text {
                    lines.leave_out(number);
                    spoiled.push(start..(at + 1).min(bytes.len()));
                    if !line.trim_ascii().is_empty() {
                        let torn = end.is_none() && ends_file && found < columns;
                        let reason = match (torn, found == columns) {
                            (true, _) => format!("the last line is torn: {found} columns instead of {columns}"),
                            (_, false) => format!("{found} columns instead of {columns}"),
                            (_, true) if is_text => "it has quotation marks".to_owned(),
                            (_, true) => "it is not UTF-8".to_owned(),
                        };
                        refused.push((number, Refused { line: number, time: None, reason }));
                    }
                }
                (start, found, has_quotes) = (at + 1, 1, false);
            }
        }
    }
    if spoiled.is_empty() {
        return Sound { bytes, lines, refused };
    }
    let mut kept = Vec::with_capacity(bytes.len());
    let mut at = 0;
    for out in spoiled {
        kept.extend_from_slice(&bytes[at..out.start]);
        at = out.end;
    }
    kept.extend_from_slice(&bytes[at..]);
    Sound { bytes: kept, lines, refused }
}

/// The columns of a block that are read, as text.
fn split(mut bytes: Vec<u8>, columns: usize, read: &[usize]) -> polars::prelude::PolarsResult<DataFrame> {
    match bytes.first() {
        None => return Ok(DataFrame::empty()),
        // Polars takes a block that begins with `x^` for a compressed one. Cells are trimmed.
        Some(b'x') => bytes.insert(0, b' '),
        Some(_) => {}
    }
    let parse = CsvParseOptions::default().with_quote_char(None);
    let texts: Schema = (0..columns).map(|column| Field::new(format!("{column}").into(), DataType::String)).collect();
    let options = CsvReadOptions::default()
        .with_has_header(false)
        .with_schema(Some(Arc::new(texts)))
        .with_projection(Some(Arc::new(read.to_vec())))
        .with_n_threads(Some(1))
        .with_rechunk(true)
        .with_parse_options(parse);
    let frame = options.into_reader_with_file_handle(Cursor::new(bytes.as_slice())).finish()?;
    debug_assert!(frame.width() == read.len(), "lines of another width were taken out");
    Ok(frame)
}

fn time(text: &str) -> Result<Timestamp, Wrong> {
    let number = text.parse::<i64>().map_err(|_| (None, format!("time `{}` is no whole number", shown(text))))?;
    let time = Timestamp::from_venue(number);
    if time < Timestamp::EARLIEST {
        return Err((None, format!("time {} is before {}", shown(text), Timestamp::EARLIEST)));
    }
    Ok(time)
}

fn number(name: &str, text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| format!("{name} `{}` is no number", shown(text)))
}

fn whole(name: &str, text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| format!("{name} `{}` is no whole number", shown(text)))
}

/// A cell for a sentence, cut where it is long.
fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}
