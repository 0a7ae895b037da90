//! What archives hold: every block read once, and counted by symbol and slice of time.
//!
//! The counts are small, whatever the files' size. Rows are not kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use domain::{Symbol, Timestamp, windows::WINDOW_MICROS};
use futures::{StreamExt, stream};
use lake::archive::{ArchiveFile, Content, Refused};

use super::{
    decode::{Decoded, DecodedBlock, decode},
    sweep::BlockOf,
};
use crate::error::Error;

/// Blocks read side by side.
const BLOCKS_AT_A_TIME: usize = 2;

/// Refused lines that are told one by one, per slice.
pub const REFUSED_TOLD: usize = 3;

/// What rows of a slice are made of: trades and aggregated trades are events of two granularities and never mix; klines
/// are windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grade {
    /// Single trades, and whatever else is one event a row.
    Trades,
    /// Aggregated trades.
    AggTrades,
    /// 1-minute klines.
    Klines,
}

impl Grade {
    const fn of(content: Content) -> Self {
        match content {
            Content::Trades | Content::Events | Content::JsonLines => Self::Trades,
            Content::AggTrades => Self::AggTrades,
            Content::Klines => Self::Klines,
        }
    }

    /// `trades`, `aggTrades` or `klines`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trades => "trades",
            Self::AggTrades => "aggTrades",
            Self::Klines => "klines",
        }
    }

    /// The grade with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Trades, Self::AggTrades, Self::Klines].into_iter().find(|grade| grade.as_str() == name)
    }
}

/// A slice of time of a symbol, as archives hold it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SliceKey {
    /// The market.
    pub symbol: Symbol,
    /// The first instant of the slice.
    pub from: Timestamp,
    /// What its rows are.
    pub grade: Grade,
}

/// Rows of a slice.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Rows, those that come twice counted twice.
    pub rows: u64,
    /// Bytes of their blocks, in proportion.
    pub bytes: u64,
    /// The least and the greatest event time.
    pub times: Option<(Timestamp, Timestamp)>,
    /// Whether simulated rows are among them.
    pub simulated: bool,
    /// Whether recorded rows are among them.
    pub recorded: bool,
    /// Lines that cannot be rows.
    pub refused: u64,
    /// The first of them, each with its file.
    pub first_refused: Vec<String>,
    /// The files, by their places.
    pub files: BTreeSet<usize>,
}

/// Rows by slice.
pub type Slices = BTreeMap<SliceKey, Counted>;

/// The first and the last time of each symbol.
pub type Times = BTreeMap<Symbol, (Timestamp, Timestamp)>;

/// What archives hold.
#[derive(Debug, Default)]
pub struct Scan {
    /// The files, by path.
    pub files: Vec<Arc<ArchiveFile>>,
    /// Files that cannot be read, each with the reason.
    pub refused: Vec<String>,
    /// By symbol, start and grade.
    pub slices: Slices,
    /// The blocks of every symbol.
    pub blocks: BTreeMap<(Symbol, Grade), Vec<BlockOf>>,
    /// The first and the last time of rows that were not asked for, by symbol.
    pub outside: Times,
}

/// How time is cut, and which part of it counts.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Length of a slice in microseconds, whole minutes.
    pub grain_micros: i64,
    /// From this event time on.
    pub from: Option<Timestamp>,
    /// Before this event time.
    pub to: Option<Timestamp>,
    /// Only these; all, where empty.
    pub symbols: Vec<Symbol>,
    /// Only these minutes of a symbol, where given: ascending, half-open.
    pub only: Option<BTreeMap<Symbol, Vec<Range<Timestamp>>>>,
}

impl Cut {
    /// The part of time with an instant: clipped to what is asked for; none where the instant is not asked for.
    #[must_use]
    pub fn slice_of(&self, symbol: Symbol, time: Timestamp) -> Option<Range<Timestamp>> {
        if !self.symbols.is_empty() && !self.symbols.contains(&symbol) {
            return None;
        }
        let start = Timestamp::from_micros(time.span(self.grain_micros) * self.grain_micros);
        let mut slice = start..start.plus_micros(self.grain_micros);
        slice.start = self.from.map_or(slice.start, |from| from.max(slice.start));
        slice.end = self.to.map_or(slice.end, |to| to.min(slice.end));
        if let Some(only) = &self.only {
            let part = only.get(&symbol)?.iter().find(|part| part.contains(&time))?;
            slice = part.start.max(slice.start)..part.end.min(slice.end);
        }
        slice.contains(&time).then_some(slice)
    }

    /// The end of the slice that begins at an instant.
    #[must_use]
    pub fn end_of(&self, key: &SliceKey) -> Timestamp {
        self.slice_of(key.symbol, key.from).map_or(key.from.plus_micros(WINDOW_MICROS), |slice| slice.end)
    }
}

/// Reads every block of the files that can be read; `told` hears the bytes read so far.
///
/// # Errors
/// Where a file can no longer be read.
pub async fn scan(
    files: Vec<Result<ArchiveFile, lake::Error>>,
    cut: &Cut,
    told: &(dyn Fn(u64) + Sync),
) -> Result<Scan, Error> {
    let mut scan = Scan::default();
    for file in files {
        match file {
            Ok(file) => scan.files.push(Arc::new(file)),
            Err(error) => scan.refused.push(error.to_string()),
        }
    }
    let blocks: Vec<(usize, Arc<ArchiveFile>, usize)> = scan
        .files
        .iter()
        .enumerate()
        .flat_map(|(number, file)| (0..file.blocks()).map(move |block| (number, file.clone(), block)))
        .collect();
    let counts = blocks.into_iter().map(|(number, file, block)| {
        let cut = cut.clone();
        tokio::task::spawn_blocking(move || {
            let decoded = decode(&file, block)?;
            let hopeless = hopeless(&file, &decoded);
            let (counted, outside) = count(number, &file, decoded, &cut);
            Ok::<_, Error>((number, block, counted, outside, hopeless))
        })
    });
    let mut counts = stream::iter(counts).buffered(BLOCKS_AT_A_TIME);
    let mut bytes = 0;
    while let Some(read) = counts.next().await {
        let (number, block, counted, outside, hopeless) = read??;
        scan.refused.extend(hopeless);
        bytes += scan.files[number].bytes() / scan.files[number].blocks().max(1) as u64;
        told(bytes);
        scan.add(number, block, counted);
        for (symbol, (first, last)) in outside {
            let known = scan.outside.entry(symbol).or_insert((first, last));
            *known = (known.0.min(first), known.1.max(last));
        }
    }
    Ok(scan)
}

impl Scan {
    fn add(&mut self, number: usize, block: usize, counted: Slices) {
        let file = self.files[number].clone();
        for (key, more) in counted {
            if let Some((first, last)) = more.times {
                let blocks = self.blocks.entry((key.symbol, key.grade)).or_default();
                match blocks.last_mut().filter(|known| (known.number, known.block) == (number, block)) {
                    Some(known) => (known.first, known.last) = (known.first.min(first), known.last.max(last)),
                    None => blocks.push(BlockOf { file: file.clone(), number, block, first, last }),
                }
            }
            self.slices.entry(key).or_default().add(more);
        }
    }
}

impl Counted {
    fn row(&mut self, time: Timestamp, simulated: bool) {
        self.rows += 1;
        self.simulated |= simulated;
        self.recorded |= !simulated;
        self.times = Some(self.times.map_or((time, time), |(first, last)| (first.min(time), last.max(time))));
    }

    fn add(&mut self, more: Self) {
        self.rows += more.rows;
        self.bytes += more.bytes;
        self.simulated |= more.simulated;
        self.recorded |= more.recorded;
        self.times = match (self.times, more.times) {
            (Some((first, last)), Some((from, to))) => Some((first.min(from), last.max(to))),
            (one, other) => one.or(other),
        };
        self.refused += more.refused;
        self.first_refused.extend(more.first_refused);
        self.first_refused.truncate(REFUSED_TOLD);
        self.files.extend(more.files);
    }
}

/// A block of which nothing can be read: nobody knows which slices it is about.
fn hopeless(file: &ArchiveFile, block: &DecodedBlock) -> Option<String> {
    let is_empty = match &block.rows {
        Decoded::Trades(rows) => rows.is_empty(),
        Decoded::Klines(rows) => rows.is_empty(),
    };
    let Refused { line, reason, .. } = block.refused.first().filter(|_| is_empty)?;
    let (path, lines) = (file.path().display(), block.refused.len());
    Some(format!("`{path}`: {lines} lines cannot be read and no line near them; line {line}: {reason}"))
}

/// Counts the rows of a block; of those that are in no slice the times are told.
fn count(number: usize, file: &ArchiveFile, block: DecodedBlock, cut: &Cut) -> (Slices, Times) {
    let grade = Grade::of(file.content());
    let (mut counted, mut outside) = (Slices::new(), Times::new());
    let rows: Vec<(Symbol, Timestamp, bool)> = match &block.rows {
        Decoded::Trades(rows) => {
            let simulated = |event: &domain::Event| event.source.kind() == domain::Kind::Simulated;
            rows.iter().map(|row| (row.event.symbol, row.event.timestamp, simulated(&row.event))).collect()
        }
        Decoded::Klines(rows) => rows.iter().map(|row| (row.symbol, row.open_time, false)).collect(),
    };
    // Rows lie in order most often: the slice of the row before is the slice of this one.
    let mut at: Option<(Symbol, Range<Timestamp>)> = None;
    let mut of_slice = Counted::default();
    let mut settle = |at: &Option<(Symbol, Range<Timestamp>)>, of_slice: &mut Counted| {
        if let Some((symbol, slice)) = at {
            let key = SliceKey { symbol: *symbol, from: slice.start, grade };
            counted.entry(key).or_default().add(std::mem::take(of_slice));
        }
    };
    for (symbol, time, simulated) in &rows {
        if !at.as_ref().is_some_and(|(of, slice)| of == symbol && slice.contains(time)) {
            settle(&at, &mut of_slice);
            at = cut.slice_of(*symbol, *time).map(|slice| (*symbol, slice));
        }
        if at.is_some() {
            of_slice.row(*time, *simulated);
        } else {
            let known = outside.entry(*symbol).or_insert((*time, *time));
            *known = (known.0.min(*time), known.1.max(*time));
        }
    }
    settle(&at, &mut of_slice);
    let total = rows.len().max(1) as u64;
    let bytes = file.bytes() / file.blocks().max(1) as u64;
    for slice in counted.values_mut() {
        slice.bytes = bytes * slice.rows / total;
        slice.files.insert(number);
    }
    refuse(file, &rows, block.refused, cut, grade, &mut counted);
    (counted, outside)
}

/// Books refused lines to the slices of their times; one without a time to every slice of the block.
fn refuse(
    file: &ArchiveFile,
    rows: &[(Symbol, Timestamp, bool)],
    refused: Vec<Refused>,
    cut: &Cut,
    grade: Grade,
    counted: &mut Slices,
) {
    for Refused { line, time, reason } in refused {
        let text = format!("`{}` line {line}: {reason}", file.path().display());
        let book = |slice: &mut Counted| {
            slice.refused += 1;
            if slice.first_refused.len() < REFUSED_TOLD {
                slice.first_refused.push(text.clone());
            }
        };
        let near = |time: Timestamp| rows.iter().min_by_key(|(_, at, _)| at.micros().abs_diff(time.micros()));
        match time.and_then(|time| Some((time, near(time)?.0))) {
            None => counted.values_mut().for_each(book),
            Some((time, symbol)) => {
                if let Some(slice) = cut.slice_of(symbol, time) {
                    book(counted.entry(SliceKey { symbol, from: slice.start, grade }).or_default());
                }
            }
        }
    }
}
