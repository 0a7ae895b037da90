//! The fold: records of one partition, in log order, become rows of `events`, `features`, `windows`,
//! `late_events` and `dead_letters`.
//!
//! Pure: the same records give the same bits, whatever the batches. Statistics of an event come from the window
//! *before* it is added, so that a spike does not hide itself.

#![expect(clippy::cast_possible_wrap, reason = "a window holds far fewer than 2^63 events")]

mod recall;

use std::collections::HashMap;

use crate::{
    admission::{ALLOWED_LATENESS_MICROS, Admission, Fate, LateReason, impossible_time},
    event::{Event, Floor, Offset, Partition, Record},
    features::{FeatureRow, MAX_Z_SCORE},
    panes::{Moments, Panes, pane_of},
    symbol::Symbol,
    time::Timestamp,
    windows::{Cause, OpenWindows, WindowRow},
};

pub use recall::Recalled;

/// Events that must precede an event in its window before its z-scores mean anything.
pub const MIN_EVENTS: u64 = 10;

/// A symbol without an event in this many offsets of its partition is forgotten.
pub const FORGET_AFTER_OFFSETS: Offset = 1_000_000;

/// A deviation at or below this share of the mean is rounding noise, and its z-score is 0.
const NEGLIGIBLE: f64 = 1e-12;

/// A record as it came out of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawRecord<'a> {
    /// Its position.
    pub offset: Offset,
    /// When it was appended.
    pub append_time: Timestamp,
    /// Its key.
    pub key: &'a [u8],
    /// Its bytes.
    pub value: &'a [u8],
}

/// An admitted event: one row of `events`.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRow {
    /// The record.
    pub cause: Cause,
    /// The symbol's greatest event time after the event: `events` ordered by (`fold_time`, origin, position) is the fold order.
    pub fold_time: Timestamp,
    /// The event.
    pub event: Event,
}

/// A valid event that was not admitted: one row of `late_events`.
#[derive(Clone, Debug, PartialEq)]
pub struct LateRow {
    /// The record.
    pub cause: Cause,
    /// Why.
    pub reason: LateReason,
    /// The symbol's watermark when the record was judged.
    pub watermark: Timestamp,
    /// The event.
    pub event: Event,
}

/// What a symbol was before `floor` is settled: one row of `floors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloorRow {
    /// The record.
    pub cause: Cause,
    /// The market.
    pub symbol: Symbol,
    /// The first instant that is still open.
    pub floor: Timestamp,
}

/// A record that cannot be an event: one row of `dead_letters`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The record.
    pub cause: Cause,
    /// Why, as a sentence.
    pub reason: String,
    /// The record's key.
    pub key: Vec<u8>,
    /// The record's bytes.
    pub value: Vec<u8>,
}

/// Rows in the order in which the fold made them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// Admitted events.
    pub events: Vec<EventRow>,
    /// One row per admitted event, in the same order.
    pub features: Vec<FeatureRow>,
    /// Closed windows.
    pub windows: Vec<WindowRow>,
    /// Late and repeated events.
    pub late: Vec<LateRow>,
    /// Records that cannot be events.
    pub dead: Vec<DeadLetter>,
    /// Floors that backfills have set.
    pub floors: Vec<FloorRow>,
}

impl Output {
    /// Rows of all kinds.
    #[must_use]
    pub fn len(&self) -> usize {
        let derived = self.features.len() + self.windows.len() + self.late.len() + self.dead.len() + self.floors.len();
        self.events.len() + derived
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the rows of `later`.
    pub fn append(&mut self, mut later: Self) {
        self.events.append(&mut later.events);
        self.features.append(&mut later.features);
        self.windows.append(&mut later.windows);
        self.late.append(&mut later.late);
        self.dead.append(&mut later.dead);
        self.floors.append(&mut later.floors);
    }
}

/// The state of the fold over one partition.
#[derive(Clone, Debug)]
pub struct Fold {
    partition: Partition,
    next: Offset,
    symbols: HashMap<Symbol, SymbolState>,
    /// What no symbol's events may lie below. Never forgotten.
    floors: HashMap<Symbol, Timestamp>,
    /// No symbol can be forgotten before this offset.
    forget_check: Offset,
}

#[derive(Clone, Debug)]
struct SymbolState {
    admission: Admission,
    rolling: Rolling,
    last_event: Offset,
}

impl Fold {
    /// The empty state of a partition whose next record stands at `next` or later, of a log without floors before.
    #[must_use]
    pub fn new(partition: Partition, next: Offset) -> Self {
        Self::with_floors(partition, next, HashMap::new())
    }

    /// The empty state of a partition whose next record stands at `next` or later; `floors` are the greatest of every
    /// symbol before.
    #[must_use]
    pub fn with_floors(partition: Partition, next: Offset, floors: HashMap<Symbol, Timestamp>) -> Self {
        Self { partition, next, symbols: HashMap::new(), floors, forget_check: Offset::MAX }
    }

    /// The partition.
    #[must_use]
    pub const fn partition(&self) -> Partition {
        self.partition
    }

    /// The offset after the last one folded.
    #[must_use]
    pub const fn next(&self) -> Offset {
        self.next
    }

    /// The offset from which a fold over the log reproduces this state, bit for bit.
    #[must_use]
    pub fn replay(&self) -> Offset {
        self.symbols.values().map(|state| state.admission.replay()).min().unwrap_or(self.next)
    }

    /// Symbols in the state.
    #[must_use]
    pub fn symbols(&self) -> usize {
        self.symbols.len()
    }

    /// Moves past offsets that the log no longer has.
    ///
    /// # Panics
    /// If `next` lies before the state's own.
    pub fn skip_to(&mut self, next: Offset) {
        assert!(next >= self.next, "offsets only grow");
        self.next = next;
    }

    /// Folds one record; `decoded` is what its bytes say, or why they say nothing.
    ///
    /// # Panics
    /// If the record lies before one already folded.
    pub fn apply(&mut self, raw: RawRecord<'_>, decoded: Result<Record, String>, out: &mut Output) -> Fate {
        assert!(raw.offset >= self.next, "offset {} was folded already, next is {}", raw.offset, self.next);
        self.next = raw.offset + 1;
        let cause = Cause { partition: self.partition, offset: raw.offset, append_time: raw.append_time };
        if raw.offset >= self.forget_check {
            self.forget(cause, &mut out.windows);
        }
        let possible = decoded.and_then(|record| match impossible_time(record.timestamp(), raw.append_time) {
            None => Ok(record),
            Some(reason) => Err(reason),
        });
        match possible {
            Ok(Record::Heartbeat(heartbeat)) => {
                // Of a symbol without events there is nothing to close, and a rebuild could not tell since when it is known.
                if let Some(state) = self.symbols.get_mut(&heartbeat.symbol) {
                    state.admission.heartbeat(heartbeat.timestamp);
                    let watermark = state.admission.watermark();
                    state.rolling.windows.close(heartbeat.symbol, watermark, cause, &mut out.windows);
                }
                Fate::Control
            }
            Ok(Record::Floor(floor)) => {
                self.floor(&floor, cause, out);
                Fate::Control
            }
            Ok(Record::Event(event)) => self.event(event, cause, out),
            Err(reason) => {
                out.dead.push(DeadLetter { cause, reason, key: raw.key.to_vec(), value: raw.value.to_vec() });
                Fate::Dead
            }
        }
    }

    fn floor(&mut self, floor: &Floor, cause: Cause, out: &mut Output) {
        let Floor { symbol, timestamp } = *floor;
        let greatest = self.floors.entry(symbol).or_insert(timestamp);
        *greatest = timestamp.max(*greatest);
        if let Some(state) = self.symbols.get_mut(&symbol) {
            state.admission.raise_floor(timestamp);
            state.rolling.windows.close(symbol, state.admission.watermark(), cause, &mut out.windows);
        }
        out.floors.push(FloorRow { cause, symbol, floor: timestamp });
    }

    fn event(&mut self, event: Event, cause: Cause, out: &mut Output) -> Fate {
        let symbol = event.symbol;
        let state = self.state(symbol, cause.offset);
        state.last_event = cause.offset;
        let watermark = state.admission.watermark();
        let fate = state.admission.judge(&event, cause.offset);
        if let Fate::Late(reason) = fate {
            out.late.push(LateRow { cause, reason, watermark, event });
        } else {
            out.features.push(state.rolling.admit(&event, cause));
            out.events.push(EventRow { cause, fold_time: state.admission.greatest(), event });
        }
        state.rolling.windows.close(symbol, state.admission.watermark(), cause, &mut out.windows);
        fate
    }

    fn state(&mut self, symbol: Symbol, offset: Offset) -> &mut SymbolState {
        let forget_check = &mut self.forget_check;
        let floor = self.floors.get(&symbol).copied().unwrap_or(Timestamp::from_micros(i64::MIN));
        self.symbols.entry(symbol).or_insert_with(|| {
            *forget_check = (*forget_check).min(offset + FORGET_AFTER_OFFSETS);
            SymbolState { admission: Admission::new(offset, floor), rolling: Rolling::default(), last_event: offset }
        })
    }

    /// Forgets the symbols that have been without an event for too long; their windows close now.
    fn forget(&mut self, cause: Cause, windows: &mut Vec<WindowRow>) {
        let expired = |state: &SymbolState| cause.offset - state.last_event >= FORGET_AFTER_OFFSETS;
        let mut gone: Vec<Symbol> =
            self.symbols.iter().filter(|(_, s)| expired(s)).map(|(symbol, _)| *symbol).collect();
        gone.sort_unstable();
        for symbol in gone {
            if let Some(mut state) = self.symbols.remove(&symbol) {
                state.rolling.windows.close(symbol, Timestamp::from_micros(i64::MAX), cause, windows);
            }
        }
        let oldest = self.symbols.values().map(|state| state.last_event).min();
        self.forget_check = oldest.map_or(Offset::MAX, |offset| offset + FORGET_AFTER_OFFSETS);
    }
}

/// What the statistics of one symbol need. It knows nothing of admission.
#[derive(Clone, Debug, Default)]
struct Rolling {
    panes: Panes,
    windows: OpenWindows,
    last_price: Option<f64>,
}

impl Rolling {
    /// Folds one admitted event into its feature row.
    fn admit(&mut self, event: &Event, cause: Cause) -> FeatureRow {
        let log_return = event.log_return.unwrap_or_else(|| log_return(event.price, self.last_price));
        let values = [event.price, log_return, event.volume];
        let pane = pane_of(event.timestamp);
        let row = feature_row(event, values, &self.panes.window(pane), cause);
        self.panes.add(pane, values);
        self.windows.add(event, values);
        self.last_price = Some(event.price);
        row
    }
}

/// The fold of one symbol's admitted events alone, in the order in which they were admitted: what `events` says happened
/// is taken as it is, and the same rows come out.
#[derive(Clone, Debug, Default)]
pub struct Refold {
    rolling: Rolling,
}

impl Refold {
    /// The fold of events that follow one with this price, whose window has passed.
    #[must_use]
    pub fn after_price(last_price: Option<f64>) -> Self {
        Self { rolling: Rolling { last_price, ..Rolling::default() } }
    }

    /// Folds the next event and closes the windows that it has passed, which do not know what closed them first.
    ///
    /// # Panics
    /// If the event is more than the window and the allowed lateness older than one before it.
    pub fn admit(&mut self, row: &EventRow, windows: &mut Vec<WindowRow>) -> FeatureRow {
        let feature = self.rolling.admit(&row.event, row.cause);
        let watermark = row.fold_time.plus_micros(-ALLOWED_LATENESS_MICROS);
        self.rolling.windows.close(row.event.symbol, watermark, row.cause, windows);
        feature
    }

    /// Closes the windows that no event has passed yet.
    pub fn finish(mut self, symbol: Symbol, cause: Cause, windows: &mut Vec<WindowRow>) {
        self.rolling.windows.close(symbol, Timestamp::from_micros(i64::MAX), cause, windows);
    }
}

/// ln(price / last), 0 without a last price.
fn log_return(price: f64, last: Option<f64>) -> f64 {
    last.map_or(0.0, |last| libm::log(price / last))
}

fn feature_row(event: &Event, values: [f64; 3], window: &Moments, cause: Cause) -> FeatureRow {
    let (means, deviations) = (window.means(), window.deviations());
    let z_score = |lane: usize| {
        let (mean, deviation) = (means[lane], deviations[lane]);
        if window.count() < MIN_EVENTS || deviation <= NEGLIGIBLE * mean.abs().max(NEGLIGIBLE) {
            return 0.0;
        }
        ((values[lane] - mean) / deviation).clamp(-MAX_Z_SCORE, MAX_Z_SCORE)
    };
    let relative = if means[0] > 0.0 { deviations[0] / means[0] } else { 0.0 };
    FeatureRow {
        partition: cause.partition,
        offset: cause.offset,
        ingest_time: cause.append_time,
        timestamp: event.timestamp,
        symbol: event.symbol,
        price: event.price,
        volume: event.volume,
        log_return: values[1],
        z_scores: [z_score(0), z_score(1), z_score(2)],
        means,
        deviations: [relative, deviations[1], deviations[2]],
        window_events: window.count() as i64,
        is_anomaly: event.is_anomaly,
        anomaly_type: event.anomaly_type.clone(),
        source: event.source,
    }
}
