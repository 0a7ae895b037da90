//! The plan of a backfill: for every slice what would be done and why, with the rows, bytes and Delta versions.
//!
//! A plan writes nothing. Where events of a slice are stored already, archives are merged with them as the run will, so
//! that the new rows are counted and not guessed.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    ops::Range,
};

use domain::{
    Clock, EventRow, Kind, Symbol, Timestamp, admission::ALLOWED_LATENESS_MICROS, time::MICROS, windows::WINDOW_MICROS,
};
use futures::TryStreamExt;
use lake::{Lake, TableName, epochs::LogStart, read::Pinned, replace::Touched, truth::Extent};
use sha2::{Digest, Sha256};
use streams::EventLog;

use super::{
    BackfillRequest,
    merge::merge,
    scan::{Counted, Grade, Scan, SliceKey},
    sweep::Sweep,
};
use crate::error::Error;

/// How far a slice ends before the committed watermark, at least.
pub const SETTLED_MICROS: i64 = 120 * MICROS;

/// What is done with a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Its rows are put where none are.
    Add,
    /// Its rows are merged with those that are stored.
    Merge,
    /// All of its rows are stored already.
    Nothing,
    /// It is too new to be filled, for this reason.
    Wait(String),
    /// It is not done, for this reason.
    Refuse(String),
}

impl Action {
    /// `add`, `merge`, `nothing`, `wait` or `refuse`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Merge => "merge",
            Self::Nothing => "nothing",
            Self::Wait(_) => "wait",
            Self::Refuse(_) => "refuse",
        }
    }

    /// Whether there is anything to do.
    #[must_use]
    pub const fn is_due(&self) -> bool {
        matches!(self, Self::Add | Self::Merge)
    }
}

/// A slice and what is done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedSlice {
    /// The market.
    pub symbol: Symbol,
    /// Half-open event time, whole minutes.
    pub range: Range<Timestamp>,
    /// What its rows are.
    pub grade: Grade,
    /// What is done.
    pub action: Action,
    /// Why, as a sentence.
    pub reason: String,
    /// Archived rows.
    pub rows: u64,
    /// Rows that are not stored yet; all of them, where that was not looked at.
    pub new_rows: u64,
    /// Events or klines that are stored.
    pub stored: u64,
    /// Bytes of the archives, in proportion.
    pub bytes: u64,
    /// What the slice would replace, by table.
    pub touched: Vec<(TableName, Touched)>,
}

impl PlannedSlice {
    /// Decides for an action that has a reason of its own.
    fn act(&mut self, action: Action) {
        if let Action::Refuse(reason) | Action::Wait(reason) = &action {
            self.reason.clone_from(reason);
        }
        self.action = action;
    }

    /// Its name, such as `BTC-USDT 2024-03-09T00:00:00Z trades`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {} {}", self.symbol, self.range.start, self.grade.as_str())
    }
}

/// A plan.
#[derive(Debug)]
pub struct Plan {
    /// What the archives hold.
    pub scan: Scan,
    /// By symbol and time.
    pub slices: Vec<PlannedSlice>,
}

impl Plan {
    /// A digest of what is to be done: files with their sizes and times, slices with their rows. Two plans with one digest
    /// do the same.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for file in &self.scan.files {
            let modified = file.modified().map_or(0, Timestamp::micros);
            digest.update(format!("{} {} {modified}\n", file.path().display(), file.bytes()));
        }
        for slice in &self.slices {
            let PlannedSlice { range, rows, new_rows, stored, action, .. } = slice;
            let name = slice.name();
            let line = format!("{name} {} {} {rows} {new_rows} {stored}\n", range.end, action.as_str());
            digest.update(line);
        }
        format!("{:x}", digest.finalize())
    }

    /// What was asked for and archives hold nothing of, a sentence each; `request` is what the plan was made for.
    #[must_use]
    pub fn nothing_of(&self, request: &BackfillRequest) -> Vec<String> {
        let has_rows = |symbol: Symbol| self.slices.iter().any(|slice| slice.symbol == symbol);
        let elsewhere = |symbol: Symbol| match self.scan.outside.get(&symbol) {
            Some((first, last)) => {
                let what = if request.gaps { "around missing trades" } else { "in the time that was asked for" };
                format!("the archives hold nothing of {symbol} {what}: they hold rows from {first} to {last}")
            }
            None => format!("the archives hold nothing of {symbol}"),
        };
        let named = request.symbols.iter().filter_map(|text| Symbol::parse(text).ok());
        // Where nothing is missing of a symbol, nothing was asked of it.
        let all = request.symbols.is_empty() && !request.gaps;
        let asked: BTreeSet<Symbol> = if all { self.scan.outside.keys().copied().collect() } else { named.collect() };
        asked.into_iter().filter(|symbol| !has_rows(*symbol)).map(elsewhere).collect()
    }

    /// Rows of the slices that are to be done.
    #[must_use]
    pub fn due_rows(&self) -> u64 {
        self.slices.iter().filter(|slice| slice.action.is_due()).map(|slice| slice.rows).sum()
    }
}

/// What a plan is made against.
pub struct Ground<'a> {
    /// The tables.
    pub lake: &'a Lake,
    /// The log, which knows whether a symbol is simulated.
    pub log: &'a dyn EventLog,
    /// The present.
    pub clock: &'a dyn Clock,
}

/// What is known of a symbol before it is backfilled.
#[derive(Clone, Debug)]
pub struct Settled {
    /// Slices end here at the latest.
    pub until: Timestamp,
    /// The committed watermark of the log's events; none, where the log has none of the symbol.
    pub watermark: Option<Timestamp>,
    /// Where the log makes the symbol start afresh.
    pub starts: Vec<LogStart>,
}

impl Settled {
    /// What is settled of a symbol.
    ///
    /// # Errors
    /// Where the tables cannot be read.
    pub async fn of(ground: &Ground<'_>, symbol: Symbol) -> Result<Self, Error> {
        let events = ground.lake.pin(TableName::Events).await?;
        let late = ground.lake.pin(TableName::LateEvents).await?;
        let greatest = events.greatest_fold_time(symbol).await?;
        let watermark = greatest.map(|greatest| greatest.plus_micros(-ALLOWED_LATENESS_MICROS));
        // Of a symbol that the log does not know, everything is settled that is old enough not to come any more.
        let settled = watermark.unwrap_or_else(|| ground.clock.now());
        let until = minute_of(settled.plus_micros(-SETTLED_MICROS));
        Ok(Self { until, watermark, starts: events.log_starts(&late, symbol).await? })
    }
}

/// The whole minute that holds an instant.
#[must_use]
pub const fn minute_of(time: Timestamp) -> Timestamp {
    Timestamp::from_micros(time.span(WINDOW_MICROS) * WINDOW_MICROS)
}

/// Plans what to do with what archives hold; `ends` says where slices end.
///
/// # Errors
/// Where the tables or the archives cannot be read.
pub async fn plan(ground: &Ground<'_>, scan: Scan, ends: impl Fn(&SliceKey) -> Timestamp) -> Result<Plan, Error> {
    let mut settled: BTreeMap<Symbol, Settled> = BTreeMap::new();
    let mut slices = Vec::new();
    for (key, counted) in &scan.slices {
        let settled = match settled.entry(key.symbol) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(Settled::of(ground, key.symbol).await?),
        };
        let slice = Planner { ground, scan: &scan, settled };
        slices.extend(slice.plan(key, ends(key), counted).await?);
    }
    Ok(Plan { scan, slices })
}

struct Planner<'a> {
    ground: &'a Ground<'a>,
    scan: &'a Scan,
    settled: &'a Settled,
}

impl Planner<'_> {
    /// A slice, cut where its symbol is not settled any more; what lies beyond is a slice that is refused.
    async fn plan(&self, key: &SliceKey, end: Timestamp, counted: &Counted) -> Result<Vec<PlannedSlice>, Error> {
        let range = key.from..end.min(self.settled.until);
        let mut slice = PlannedSlice {
            symbol: key.symbol,
            range: range.clone(),
            grade: key.grade,
            action: Action::Add,
            reason: "nothing is stored here".to_owned(),
            rows: counted.rows,
            new_rows: counted.rows,
            stored: 0,
            bytes: counted.bytes,
            touched: Vec::new(),
        };
        if let Some(reason) = self.spoiled(key, counted).await? {
            slice.range.end = end;
            slice.act(Action::Refuse(reason));
            return Ok(vec![slice]);
        }
        let reaches_beyond = counted.times.is_some_and(|(_, last)| last >= range.end);
        let beyond = range.start.max(range.end)..end;
        let mut rest = PlannedSlice { range: beyond, rows: 0, new_rows: 0, bytes: 0, ..slice.clone() };
        rest.act(Action::Wait(self.too_new(key.symbol)));
        if range.is_empty() {
            return Ok(vec![PlannedSlice { rows: counted.rows, new_rows: counted.rows, ..rest }]);
        }
        match key.grade {
            Grade::Klines => self.look_at_windows(&mut slice).await?,
            Grade::Trades | Grade::AggTrades => self.look_at_events(&mut slice, reaches_beyond).await?,
        }
        rest.rows = counted.rows.saturating_sub(slice.rows);
        rest.new_rows = rest.rows;
        Ok([slice].into_iter().chain(reaches_beyond.then_some(rest)).collect())
    }

    fn too_new(&self, symbol: Symbol) -> String {
        let until = self.settled.until;
        match self.settled.watermark {
            Some(watermark) => format!(
                "events of {symbol} in the log have reached {watermark}: a backfill ends two minutes before, at {until}"
            ),
            None => format!("these are less than two minutes old: a backfill ends at {until}"),
        }
    }

    /// Why a slice cannot be done, whatever is stored.
    async fn spoiled(&self, key: &SliceKey, counted: &Counted) -> Result<Option<String>, Error> {
        if counted.refused > 0 {
            let more = counted.refused - counted.first_refused.len() as u64;
            let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
            return Ok(Some(format!("{}{more}", counted.first_refused.join("; "))));
        }
        let grades = [Grade::Trades, Grade::AggTrades];
        let both = grades.iter().all(|grade| self.scan.slices.contains_key(&SliceKey { grade: *grade, ..key.clone() }));
        if both && key.grade != Grade::Klines {
            return Ok(Some(
                "archives hold trades and aggregated trades of this slice: give those of one kind".to_owned(),
            ));
        }
        if counted.simulated && counted.recorded {
            return Ok(Some("simulated and recorded events are mixed here: give those of one kind".to_owned()));
        }
        let here = if counted.simulated { Kind::Simulated } else { Kind::Real };
        if let Some(known) = self.ground.log.kind_of(key.symbol).await?.filter(|known| *known != here) {
            let (symbol, known, here) = (key.symbol, known.as_str(), here.as_str());
            return Ok(Some(format!("{symbol} is {known} here and these events are {here}: use another --data-dir")));
        }
        Ok(None)
    }

    /// `is_cut` says that archives hold rows beyond the slice, so that its own are to be counted.
    async fn look_at_events(&self, slice: &mut PlannedSlice, is_cut: bool) -> Result<(), Error> {
        let events = self.ground.lake.pin(TableName::Events).await?;
        slice.stored = events.count_in(slice.symbol, &slice.range).await?;
        if slice.stored > 0 || is_cut {
            (slice.rows, slice.new_rows) = self.count_new(&events, slice).await?;
        }
        if slice.stored > 0 {
            let grade =
                if events.has_aggregated(slice.symbol, &slice.range).await? { Grade::AggTrades } else { Grade::Trades };
            if grade != slice.grade {
                let (stored, new) = (grade.as_str(), slice.grade.as_str());
                let reason = format!("{} {stored} are stored here, and {new} do not mix with them", slice.stored);
                slice.act(Action::Refuse(reason));
                return Ok(());
            }
            (slice.action, slice.reason) = match slice.new_rows {
                0 if lacks_derived(self.ground.lake, slice.symbol, &slice.range, slice.stored).await? => {
                    (Action::Merge, "all of it is stored, but not what is derived from it".to_owned())
                }
                0 => (Action::Nothing, "all of it is stored already".to_owned()),
                new => (Action::Merge, format!("{new} rows are not among the {} stored ones", slice.stored)),
            };
        }
        if let (true, Some(watermark)) = (slice.action.is_due(), self.settled.watermark) {
            let end = folded_end(&events, slice.symbol, &slice.range).await?;
            if end > watermark {
                let reason = format!(
                    "the events after it are folded again up to {end}, and those in the log have reached {watermark} only: \
                     try again when they are past it"
                );
                slice.act(Action::Wait(reason));
            }
        }
        if slice.action.is_due() {
            for table in [TableName::Events, TableName::Features, TableName::Windows] {
                let range = if table == TableName::Events { slice.range.clone() } else { folded_range(&slice.range) };
                slice.touched.push((table, self.ground.lake.touched(table, slice.symbol, &range).await?));
            }
        }
        Ok(())
    }

    /// How many rows archives hold of a slice, and how many of them are not stored.
    async fn count_new(&self, events: &Pinned, slice: &PlannedSlice) -> Result<(u64, u64), Error> {
        let blocks = self.scan.blocks.get(&(slice.symbol, slice.grade)).cloned().unwrap_or_default();
        let mut sweep = Sweep::new(slice.symbol, slice.range.clone(), blocks);
        let (mut rows, mut new) = (0, 0);
        while let Some((part, found)) = sweep.next().await? {
            let stored = if slice.stored > 0 { stored_events(events, slice.symbol, &part).await? } else { Vec::new() };
            rows += found.len() as u64;
            new += merge(stored, found, Timestamp::default()).added;
        }
        Ok((rows, new))
    }

    async fn look_at_windows(&self, slice: &mut PlannedSlice) -> Result<(), Error> {
        let windows = self.ground.lake.pin(TableName::Windows).await?;
        slice.stored = windows.count_in(slice.symbol, &slice.range).await?;
        if slice.stored >= slice.rows {
            (slice.action, slice.reason) = (Action::Nothing, "every minute has its window already".to_owned());
            slice.new_rows = 0;
        } else if slice.stored > 0 {
            (slice.action, slice.reason) =
                (Action::Merge, format!("{} minutes have their window already", slice.stored));
            slice.new_rows = slice.rows - slice.stored;
        }
        if slice.action.is_due() {
            let touched = self.ground.lake.touched(TableName::Windows, slice.symbol, &slice.range).await?;
            slice.touched.push((TableName::Windows, touched));
        }
        Ok(())
    }
}

/// Whether features of a range are fewer than its events, as after a backfill that did not come to its end.
///
/// # Errors
/// Where the table cannot be read.
pub async fn lacks_derived(lake: &Lake, symbol: Symbol, range: &Range<Timestamp>, events: u64) -> Result<bool, Error> {
    Ok(lake.pin(TableName::Features).await?.count_in(symbol, range).await? < events)
}

/// The times of which a slice changes derived rows near it. An event may be folded up to 60 s of event time before or
/// after its neighbours, and counts in the windows of the 60 s after it.
#[must_use]
pub const fn folded_range(slice: &Range<Timestamp>) -> Range<Timestamp> {
    slice.start.plus_micros(-WINDOW_MICROS)..slice.end.plus_micros(SETTLED_MICROS)
}

/// The minutes whose derived rows the first event after a slice changes: its log-return is that from the slice's last
/// price. None where there is no such event.
///
/// # Errors
/// Where the table cannot be read.
pub async fn successor_range(
    events: &Pinned,
    symbol: Symbol,
    slice: &Range<Timestamp>,
) -> Result<Option<Range<Timestamp>>, Error> {
    let first = events.successor_of(symbol, slice.end).await?;
    Ok(first.map(|first| minute_of(first)..minute_of(first.plus_micros(WINDOW_MICROS)).plus_micros(WINDOW_MICROS)))
}

/// The end of all derived rows that a slice changes.
///
/// # Errors
/// Where the table cannot be read.
pub async fn folded_end(events: &Pinned, symbol: Symbol, slice: &Range<Timestamp>) -> Result<Timestamp, Error> {
    let near = folded_range(slice).end;
    Ok(successor_range(events, symbol, slice).await?.map_or(near, |successor| successor.end.max(near)))
}

/// The stored events of a symbol and a range, in no order.
///
/// # Errors
/// Where the table cannot be read.
pub async fn stored_events(events: &Pinned, symbol: Symbol, range: &Range<Timestamp>) -> Result<Vec<EventRow>, Error> {
    let extent = Extent { from: Some(range.start), to: Some(range.end), next: i64::MAX };
    let rows = events.events_in_fold_order(symbol, &extent, &lake::epochs::FreshStarts::default()).await?;
    Ok(rows.try_concat().await?)
}
