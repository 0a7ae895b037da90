//! The events of one symbol folded again, from `events` alone: what verify, replay and backfill have in common.
//!
//! Rows come out in the order of their keys, with bounded memory. The same events give the same bits as when they came
//! live; nothing is judged again, since `events` holds what was admitted.

use std::pin::Pin;

use domain::{
    Cause, EventRow, FeatureRow, Refold, Symbol, Timestamp, WindowRow, admission::ALLOWED_LATENESS_MICROS,
    time::MICROS, windows::WINDOW_MICROS,
};
use futures::{Stream, TryStreamExt};
use lake::{
    compare::{Derived, Key},
    epochs::FreshStarts,
    read::Pinned,
    truth::Extent,
};

use crate::error::Error;

/// Event time before a range whose events count in its first rows, and after it whose events may precede its last rows
/// in the order of folding.
const WARM_UP_MICROS: i64 = 120 * MICROS;

/// The symbols of `events` that are asked for, all where none is named.
///
/// # Errors
/// Where the table cannot be read, or a symbol is named that has no event.
pub async fn wanted(events: &Pinned, named: &[Symbol]) -> Result<Vec<Symbol>, Error> {
    let known = events.symbols().await?;
    if let Some(unknown) = named.iter().find(|symbol| !known.contains(symbol)) {
        let what = format!("there are no events of {unknown}");
        return Err(Error::Nothing {
            what,
            remedy: "`sentinel table list` and the folders of the lake show what there is",
        });
    }
    Ok(if named.is_empty() { known } else { known.into_iter().filter(|symbol| named.contains(symbol)).collect() })
}

/// What is known of a symbol's events as a whole.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// Where the symbol starts afresh.
    pub starts: FreshStarts,
    newest: Option<EventRow>,
}

impl Timeline {
    /// Whether events alone have closed a window. A heartbeat may have closed it earlier, which `events` does not tell.
    #[must_use]
    pub fn has_closed(&self, row: &WindowRow, epoch: usize) -> bool {
        let end = row.window_start.plus_micros(WINDOW_MICROS + ALLOWED_LATENESS_MICROS);
        let closed = |newest: &EventRow| {
            epoch < self.starts.epoch(newest.cause, newest.event.timestamp) || end <= newest.fold_time
        };
        self.newest.as_ref().is_none_or(closed)
    }
}

/// One symbol's fold.
pub struct SymbolFold {
    timeline: Timeline,
    rows: Pin<Box<dyn Stream<Item = Result<Vec<EventRow>, lake::Error>> + Send>>,
    fold: Option<FoldAgain>,
}

impl SymbolFold {
    /// Begins the fold of the events of an extent, warmed by those before it.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn begin(events: &Pinned, symbol: Symbol, extent: Extent, starts: FreshStarts) -> Result<Self, Error> {
        let all = Extent { next: extent.next, ..Extent::default() };
        let newest = events.last_event_before(symbol, &all, &starts).await?;
        Self::within(events, symbol, extent, Timeline { starts, newest }).await
    }

    /// [`SymbolFold::begin`], where nobody asks which windows are closed.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn from_starts(
        events: &Pinned,
        symbol: Symbol,
        extent: Extent,
        starts: FreshStarts,
    ) -> Result<Self, Error> {
        Self::within(events, symbol, extent, Timeline { starts, newest: None }).await
    }

    async fn within(events: &Pinned, symbol: Symbol, extent: Extent, timeline: Timeline) -> Result<Self, Error> {
        let starts = &timeline.starts;
        let read = Extent {
            from: extent.from.map(|from| from.plus_micros(-WARM_UP_MICROS)),
            to: extent.to.map(|to| to.plus_micros(WARM_UP_MICROS)),
            next: extent.next,
        };
        let before = match read.from {
            Some(_) => events.last_event_before(symbol, &read, starts).await?,
            None => None,
        };
        let rows = Box::pin(events.events_in_fold_order(symbol, &read, starts).await?);
        let fold = Some(FoldAgain::new(extent, starts.clone(), before.as_ref()));
        Ok(Self { timeline, rows, fold })
    }

    /// What is known of the symbol's events as a whole.
    #[must_use]
    pub const fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// The next rows, `None` after the last; there may be none in between.
    ///
    /// # Errors
    /// Where the tables cannot be read.
    pub async fn next(&mut self) -> Result<Option<MadeAgain>, Error> {
        let Some(fold) = self.fold.take() else { return Ok(None) };
        let batch = self.rows.try_next().await?;
        let ended = batch.is_none();
        let (fold, made) = tokio::task::spawn_blocking(move || fold.fold(batch)).await?;
        self.fold = (!ended).then_some(fold);
        Ok(Some(made))
    }
}

/// The fold on its way, for a thread that may block: rows leave it in the order of their keys.
struct FoldAgain {
    extent: Extent,
    starts: FreshStarts,
    refold: Refold,
    epoch: usize,
    /// Rows that an older one may still precede.
    waiting: Vec<(Key, FeatureRow)>,
    last: Option<(Symbol, Cause)>,
}

/// Rows made again, in the order of their keys.
#[derive(Debug, Default)]
pub struct MadeAgain {
    /// Rows of `features`.
    pub features: Vec<(Key, FeatureRow)>,
    /// Rows of `windows`; those of the last minutes may still be open in the table.
    pub windows: Vec<(Key, WindowRow)>,
}

impl MadeAgain {
    /// The rows in parts of so much event time each, in their order; a window is in the part in which events reach its end.
    #[must_use]
    pub fn in_parts(self, micros: i64) -> Vec<Self> {
        let mut parts = vec![Self::default()];
        let mut until = None;
        for (key, row) in self.features {
            let end = *until.get_or_insert(row.timestamp.plus_micros(micros));
            if row.timestamp >= end {
                parts.push(Self::default());
                until = Some(row.timestamp.plus_micros(micros));
            }
            let part = parts.len() - 1;
            parts[part].features.push((key, row));
        }
        let last = parts.len() - 1;
        let reaches = |part: &Self, end: Timestamp| part.features.last().is_some_and(|(_, row)| row.timestamp >= end);
        for (key, row) in self.windows {
            let end = row.window_start.plus_micros(WINDOW_MICROS);
            let of = parts.iter().position(|part| reaches(part, end)).unwrap_or(last);
            parts[of].windows.push((key, row));
        }
        parts
    }
}

impl FoldAgain {
    /// A fold that goes on after the event `before`.
    fn new(extent: Extent, starts: FreshStarts, before: Option<&EventRow>) -> Self {
        let epoch = before.map_or(0, |row| starts.epoch(row.cause, row.event.timestamp));
        let refold = Refold::after_price(before.map(|row| row.event.price));
        Self { extent, starts, refold, epoch, waiting: Vec::new(), last: None }
    }

    /// Folds the next events; `None` stands for the end of them.
    fn fold(mut self, batch: Option<Vec<EventRow>>) -> (Self, MadeAgain) {
        let mut made = MadeAgain::default();
        let Some(batch) = batch else {
            self.leave_epoch(&mut made);
            return (self, made);
        };
        for row in &batch {
            let epoch = self.starts.epoch(row.cause, row.event.timestamp);
            if epoch != self.epoch {
                self.leave_epoch(&mut made);
                self.epoch = epoch;
            }
            let mut closed = Vec::new();
            let feature = self.refold.admit(row, &mut closed);
            self.keep_windows(closed, &mut made);
            self.last = Some((row.event.symbol, row.cause));
            if self.extent.holds(feature.timestamp) {
                self.waiting.push((FeatureRow::key(epoch, feature.timestamp, feature.cause()), feature));
            }
        }
        if let Some(row) = batch.last() {
            self.waiting.sort_by_key(|(key, _)| *key);
            let watermark = row.fold_time.plus_micros(-ALLOWED_LATENESS_MICROS);
            let done = self.waiting.partition_point(|(_, row)| row.timestamp < watermark);
            made.features.extend(self.waiting.drain(..done));
        }
        (self, made)
    }

    /// Ends an epoch: what waits is complete, and every window closes.
    fn leave_epoch(&mut self, made: &mut MadeAgain) {
        self.waiting.sort_by_key(|(key, _)| *key);
        made.features.append(&mut self.waiting);
        let mut closed = Vec::new();
        let refold = std::mem::take(&mut self.refold);
        if let Some((symbol, cause)) = self.last {
            refold.finish(symbol, cause, &mut closed);
        }
        self.keep_windows(closed, made);
    }

    fn keep_windows(&self, closed: Vec<WindowRow>, made: &mut MadeAgain) {
        let wanted = closed.into_iter().filter(|row| self.extent.holds(row.window_start));
        made.windows.extend(wanted.map(|row| (WindowRow::key(self.epoch, row.window_start, row.cause()), row)));
    }
}
