//! Parquet files of events, read by Polars: columns by name, as our own `events` have them.

use std::{fs::File, path::Path};

use domain::{Event, IngestId, Side, Source, Symbol, Timestamp};
use polars::prelude::{
    ArrowDataType, BooleanChunked, DataFrame, DataType, Float64Chunked, Int64Chunked, ParquetReader, PolarsResult,
    SerReader, StringChunked, TimeUnit,
};

use super::{Archived, Block, Refused, Rows, place, refused, time_of_neighbours};
use crate::error::Error;

/// Rows of a block: fewer than a place can tell apart.
const BLOCK_ROWS: usize = 128 << 10;

/// Columns without which there is no event.
const REQUIRED: [&str; 3] = ["timestamp", "price", "volume"];

/// Columns that may be missing.
const OPTIONAL: [&str; 9] =
    ["symbol", "log_return", "is_anomaly", "anomaly_type", "trade_id", "side", "ingest_id", "source", "extra"];

/// A Parquet file of events.
pub(super) struct ParquetFile {
    rows: usize,
    /// The symbol of every row, where it is no column.
    symbol: Option<Symbol>,
    columns: Vec<String>,
}

impl ParquetFile {
    pub(super) fn open(path: &Path, symbol: Option<Symbol>) -> Result<Self, Error> {
        let broken = |error| refused(path, format!("cannot be read as Parquet: {error}"));
        let file = File::open(path).map_err(Error::file("open", path))?;
        let mut reader = ParquetReader::new(file);
        let schema = reader.schema().map_err(broken)?;
        let names: Vec<String> = schema.iter_names().map(ToString::to_string).collect();
        if let Some(missing) = REQUIRED.iter().find(|name| !names.iter().any(|there| there == *name)) {
            return Err(refused(path, format!("has no column `{missing}`; it has {}", names.join(", "))));
        }
        let times = schema.get("timestamp").map(|field| field.dtype().clone());
        if !matches!(times, Some(ArrowDataType::Timestamp(..) | ArrowDataType::Int64)) {
            let reason = "has a `timestamp` that is neither a timestamp nor a whole number of milli- or microseconds";
            return Err(refused(path, reason));
        }
        let columns: Vec<String> = names
            .into_iter()
            .filter(|name| REQUIRED.contains(&name.as_str()) || OPTIONAL.contains(&name.as_str()))
            .collect();
        let has_symbol = columns.iter().any(|name| name == "symbol");
        if !has_symbol && symbol.is_none() {
            return Err(refused(path, "has no column `symbol`, and its name tells none: give one --symbols"));
        }
        let rows = reader.num_rows().map_err(broken)?;
        if rows == 0 {
            return Err(refused(path, "is empty"));
        }
        Ok(Self { rows, symbol: symbol.filter(|_| !has_symbol), columns })
    }

    pub(super) const fn blocks(&self) -> usize {
        self.rows.div_ceil(BLOCK_ROWS)
    }

    pub(super) fn read(&self, block: usize, path: &Path) -> Result<Block, Error> {
        let broken = |error| refused(path, format!("cannot be read as Parquet: {error}"));
        let file = File::open(path).map_err(Error::file("open", path))?;
        let frame = ParquetReader::new(file)
            .with_columns(Some(self.columns.clone()))
            .with_slice(Some((block * BLOCK_ROWS, BLOCK_ROWS)))
            .finish()
            .map_err(broken)?;
        let columns = Columns::new(&frame).map_err(broken)?;
        let (mut rows, mut refused, mut times) = (Vec::with_capacity(frame.height()), Vec::new(), Vec::new());
        for row in 0..frame.height() {
            let line = (block * BLOCK_ROWS + row) as u64 + 1;
            match columns.event(row, self.symbol) {
                Ok(event) => {
                    times.push((line, event.timestamp));
                    rows.push(Archived { event, place: place(block, row) });
                }
                Err(reason) => {
                    let time = columns.time(row).ok();
                    refused.push((line, Refused { line, time, reason }));
                }
            }
        }
        time_of_neighbours(&mut refused, &times);
        Ok(Block { rows: Rows::Trades(rows), refused: refused.into_iter().map(|(_, refused)| refused).collect() })
    }
}

/// The columns of a block, each in its own type.
struct Columns {
    /// Microseconds, or a venue's number where the column is no timestamp.
    timestamp: Int64Chunked,
    is_venue_number: bool,
    price: Float64Chunked,
    volume: Float64Chunked,
    log_return: Option<Float64Chunked>,
    is_anomaly: Option<BooleanChunked>,
    trade_id: Option<Int64Chunked>,
    symbol: Option<StringChunked>,
    anomaly_type: Option<StringChunked>,
    side: Option<StringChunked>,
    ingest_id: Option<StringChunked>,
    source: Option<StringChunked>,
    extra: Option<StringChunked>,
}

impl Columns {
    fn new(frame: &DataFrame) -> PolarsResult<Self> {
        let cast = |name: &str, to: &DataType| frame.column(name)?.as_materialized_series().cast(to);
        let double =
            |name: &str| -> PolarsResult<Float64Chunked> { Ok(cast(name, &DataType::Float64)?.f64()?.clone()) };
        let long = |name: &str| -> PolarsResult<Int64Chunked> { Ok(cast(name, &DataType::Int64)?.i64()?.clone()) };
        let flag = |name: &str| -> PolarsResult<BooleanChunked> { Ok(cast(name, &DataType::Boolean)?.bool()?.clone()) };
        let text = |name: &str| -> PolarsResult<Option<StringChunked>> {
            if frame.column(name).is_err() {
                return Ok(None);
            }
            Ok(Some(cast(name, &DataType::String)?.str()?.clone()))
        };
        let has = |name: &str| frame.column(name).is_ok();
        let times = frame.column("timestamp")?.as_materialized_series().clone();
        let is_venue_number = !matches!(times.dtype(), DataType::Datetime(..));
        let times =
            if is_venue_number { times } else { times.cast(&DataType::Datetime(TimeUnit::Microseconds, None))? };
        Ok(Self {
            timestamp: times.cast(&DataType::Int64)?.i64()?.clone(),
            is_venue_number,
            price: double("price")?,
            volume: double("volume")?,
            log_return: has("log_return").then(|| double("log_return")).transpose()?,
            is_anomaly: has("is_anomaly").then(|| flag("is_anomaly")).transpose()?,
            trade_id: has("trade_id").then(|| long("trade_id")).transpose()?,
            symbol: text("symbol")?,
            anomaly_type: text("anomaly_type")?,
            side: text("side")?,
            ingest_id: text("ingest_id")?,
            source: text("source")?,
            extra: text("extra")?,
        })
    }

    fn time(&self, row: usize) -> Result<Timestamp, String> {
        let number = self.timestamp.get(row).ok_or("`timestamp` is null")?;
        let time = if self.is_venue_number { Timestamp::from_venue(number) } else { Timestamp::from_micros(number) };
        if time < Timestamp::EARLIEST {
            return Err(format!("timestamp {time} is before {}", Timestamp::EARLIEST));
        }
        Ok(time)
    }

    fn event(&self, row: usize, symbol: Option<Symbol>) -> Result<Event, String> {
        fn at(column: Option<&StringChunked>, row: usize) -> Option<&str> {
            column.and_then(|column| column.get(row))
        }
        let named = || Symbol::parse(at(self.symbol.as_ref(), row).unwrap_or_default()).map_err(|e| e.to_string());
        let side =
            at(self.side.as_ref(), row).map(|name| Side::from_name(name).ok_or(format!("side `{name}` is not known")));
        let ingest_id = at(self.ingest_id.as_ref(), row);
        let ingest_id =
            ingest_id.map(|text| IngestId::parse(text).ok_or(format!("ingest_id `{text}` is not `run:number`")));
        let event = Event {
            timestamp: self.time(row)?,
            symbol: symbol.map_or_else(named, Ok)?,
            price: self.price.get(row).ok_or("`price` is null")?,
            volume: self.volume.get(row).ok_or("`volume` is null")?,
            log_return: self.log_return.as_ref().and_then(|column| column.get(row)),
            is_anomaly: self.is_anomaly.as_ref().and_then(|column| column.get(row)),
            anomaly_type: at(self.anomaly_type.as_ref(), row).map(Into::into),
            trade_id: self.trade_id.as_ref().and_then(|column| column.get(row)),
            side: side.transpose()?,
            ingest_id: ingest_id.transpose()?,
            source: at(self.source.as_ref(), row).and_then(Source::from_name).unwrap_or(Source::Archive),
            extra: at(self.extra.as_ref(), row).map(Into::into),
        };
        event.check().map_err(|error| error.to_string())?;
        Ok(event)
    }
}
