//! Backfill: history from archives, slice by slice.
//!
//! A plan says what would be done. A run does it: it is kept with its slices in the scheduler's store, so that it can be
//! followed, cancelled and resumed. Before the first slice a floor goes into the log for every symbol, and the stream job
//! takes it in: from then on no live event can fall into what is being filled.

mod decode;
mod merge;
mod sweep;

pub mod plan;
pub mod scan;
pub mod slice;

pub mod run;

use std::{collections::BTreeMap, ops::Range, path::PathBuf, sync::Arc};

use domain::{Clock, Floor, Kind, Offset, Partition, Record, Symbol, Timestamp, time::MICROS, windows::WINDOW_MICROS};
use lake::{Lake, TableName, archive};
use scheduler::Store;
use serde::{Deserialize, Serialize};
use streams::{AppendBatch, AppendOutcome, EventLog, NewRecord, codec, partition_of};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error::Error;
use plan::{Ground, Plan, minute_of};
use scan::{Cut, scan};

/// The name of these runs in the scheduler's store.
pub const JOB: &str = "backfill";

/// How often the stream job is looked at while it takes a floor in.
const SETTLE_PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

/// Looks after which the wait for the stream job is told.
const LOOKS_BEFORE_TOLD: u32 = 50;

/// What a backfill works with.
#[derive(Clone)]
pub struct BackfillParts {
    /// The tables.
    pub lake: Arc<Lake>,
    /// Where floors go.
    pub log: Arc<dyn EventLog>,
    /// Where runs are kept.
    pub store: Store,
    /// The present.
    pub clock: Arc<dyn Clock>,
    /// A folder for what archives are unpacked to.
    pub scratch: PathBuf,
}

/// What becomes of the other slices when one fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The run stops.
    Stop,
    /// They are done nevertheless.
    Continue,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackfillRequest {
    /// Files and folders.
    pub paths: Vec<PathBuf>,
    /// Only these markets; all, where empty.
    pub symbols: Vec<String>,
    /// From this event time on, in microseconds.
    pub from_us: Option<i64>,
    /// Before this event time, in microseconds.
    pub to_us: Option<i64>,
    /// Length of a slice in minutes.
    pub grain_minutes: u32,
    /// Only the minutes around missing trade ids.
    pub gaps: bool,
    /// Symbols done side by side.
    pub max_active: usize,
    /// What becomes of the other slices when one fails.
    pub on_error: OnError,
}

impl BackfillRequest {
    fn symbols(&self) -> Result<Vec<Symbol>, Error> {
        let parse = |text: &String| Symbol::parse(text).map_err(|error| Error::Invalid(error.to_string()));
        self.symbols.iter().map(parse).collect()
    }

    /// The range asked for; whole minutes, since windows are.
    fn range(&self) -> Result<(Option<Timestamp>, Option<Timestamp>), Error> {
        let whole = |name: &str, micros: Option<i64>| {
            let time = micros.map(Timestamp::from_micros);
            match time.filter(|time| minute_of(*time) != *time) {
                Some(time) => Err(Error::Invalid(format!("--{name} {time} is not a whole minute: slices are"))),
                None => Ok(time),
            }
        };
        let (from, to) = (whole("from", self.from_us)?, whole("to", self.to_us)?);
        match from.zip(to).filter(|(from, to)| from >= to) {
            Some((from, to)) => Err(Error::Invalid(format!("there is no time from {from} to {to}"))),
            None => Ok((from, to)),
        }
    }
}

/// Reads the archives and plans what to do with them; `told` hears the bytes read so far.
///
/// # Errors
/// Where the request cannot be met as it is, or the tables cannot be read. A file that cannot be read is part of the plan.
pub async fn prepare(
    parts: &BackfillParts,
    request: &BackfillRequest,
    told: &(dyn Fn(u64, u64) + Sync),
) -> Result<Plan, Error> {
    let symbols = request.symbols()?;
    let (from, to) = request.range()?;
    let grain_micros = i64::from(request.grain_minutes) * WINDOW_MICROS;
    let only = if request.gaps { Some(gaps(&parts.lake, &symbols).await?) } else { None };
    let cut = Cut { grain_micros, from, to, symbols: symbols.clone(), only };
    let files = archive::open(&request.paths, &symbols, &parts.scratch).await;
    let total = files.iter().flatten().map(archive::ArchiveFile::bytes).sum();
    let scan = scan(files, &cut, &|bytes| told(bytes, total)).await?;
    let ground = Ground { lake: &parts.lake, log: parts.log.as_ref(), clock: parts.clock.as_ref() };
    let end_cut = cut.clone();
    plan::plan(&ground, scan, move |key| end_cut.end_of(key)).await
}

/// The minutes around missing trade ids, by symbol.
async fn gaps(lake: &Lake, symbols: &[Symbol]) -> Result<BTreeMap<Symbol, Vec<Range<Timestamp>>>, Error> {
    let named: Vec<String> = symbols.iter().map(|symbol| format!("'{symbol}'")).collect();
    let condition = if named.is_empty() { "TRUE".to_owned() } else { format!("symbol IN ({})", named.join(", ")) };
    let mut gaps: BTreeMap<Symbol, Vec<Range<Timestamp>>> = BTreeMap::new();
    for hole in lake.missing_trades(&condition).await? {
        let (before, after) = (hole.time_before.min(hole.time_after), hole.time_before.max(hole.time_after));
        let minutes = minute_of(before)..minute_of(after).plus_micros(WINDOW_MICROS);
        let of_symbol = gaps.entry(hole.symbol).or_default();
        match of_symbol.last_mut().filter(|last| minutes.start <= last.end) {
            Some(last) => last.end = last.end.max(minutes.end),
            None => of_symbol.push(minutes),
        }
    }
    Ok(gaps)
}

/// Puts a floor into the log for every symbol of a plan; where each stands.
///
/// # Errors
/// Where the log refuses it: a symbol is simulated here and recorded there.
pub async fn settle(parts: &BackfillParts, plan: &Plan) -> Result<Vec<(Partition, Offset)>, Error> {
    let mut floors: BTreeMap<Symbol, Timestamp> = BTreeMap::new();
    for slice in plan.slices.iter().filter(|slice| slice.action.is_due()) {
        let floor = floors.entry(slice.symbol).or_insert(slice.range.end);
        *floor = slice.range.end.max(*floor);
    }
    let mut standing = Vec::new();
    for (symbol, timestamp) in floors {
        let partition = partition_of(symbol, parts.log.partitions());
        if parts.lake.floors(partition, Offset::MAX).await?.get(&symbol).is_some_and(|known| *known >= timestamp) {
            // The table has the floor before `events` has what stands before it.
            standing.push((partition, parts.log.end_offset(partition).await?));
            continue;
        }
        let mut value = Vec::new();
        codec::encode(&Record::Floor(Floor { timestamp, symbol }), &mut value);
        let simulated = plan.scan.slices.iter().any(|(key, counted)| key.symbol == symbol && counted.simulated);
        let kind = if simulated { Kind::Simulated } else { Kind::Real };
        let records = vec![NewRecord { key: symbol, value }];
        match parts.log.append(AppendBatch { records, kind, source: None }).await? {
            AppendOutcome::Appended(ranges) => standing.extend(ranges.into_iter().map(|(of, range)| (of, range.end))),
            AppendOutcome::AlreadyApplied => {}
        }
        info!(%symbol, floor = %timestamp, "from now on older events of the log are late");
    }
    Ok(standing)
}

/// Waits until the stream job has taken in what [`settle`] appended; false where it was told to end.
///
/// # Errors
/// Where the tables cannot be read.
pub async fn await_settled(
    parts: &BackfillParts,
    floors: &[(Partition, Offset)],
    cancel: &CancellationToken,
) -> Result<bool, Error> {
    for (partition, next) in floors {
        let mut looks = 0;
        while parts.lake.progress(parts.log.topic_id(), *partition).await?.next < *next {
            looks += 1;
            if looks == LOOKS_BEFORE_TOLD {
                warn!(partition, "waits for the stream job to take in the log; is `sentinel up` or `stream` running?");
            }
            tokio::select! { () = tokio::time::sleep(SETTLE_PAUSE) => {}, () = cancel.cancelled() => return Ok(false) }
        }
    }
    // Whoever has committed the floor has committed everything before it: what is read from now on is settled.
    parts.lake.pin(TableName::Events).await?;
    Ok(true)
}

/// The length of a slice from text such as `1d`, `6h` or `30m`, in minutes.
///
/// # Errors
/// Where the text has another form.
pub fn parse_grain(text: &str) -> Result<u32, String> {
    let refused =
        || format!("`{text}` is no length of a slice: use whole minutes, hours or days such as 30m, 6h or 1d");
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let minutes = match unit {
        "m" => 1,
        "h" => 60,
        "d" => 1_440,
        _ => return Err(refused()),
    };
    let number: u32 = number.parse().map_err(|_| refused())?;
    let most = u32::try_from(366 * 86_400 * MICROS / WINDOW_MICROS).unwrap_or(u32::MAX);
    number.checked_mul(minutes).filter(|length| (1..=most).contains(length)).ok_or_else(refused)
}
