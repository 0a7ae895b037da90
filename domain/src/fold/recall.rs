//! Recalling: what the fold knew of records that the log has lost, from the rows that they left.
//!
//! Events and floors come back as they were. A heartbeat left no row; what it closed did, and that is enough: whatever a
//! row proves about a symbol's time is taken over, so that no window closes twice and nothing that was late is admitted.

use crate::{
    admission::ALLOWED_LATENESS_MICROS,
    event::{Event, Floor, Offset},
    fold::{EventRow, FloorRow, Fold, LateRow, Output},
    symbol::Symbol,
    time::Timestamp,
    windows::{Cause, WINDOW_MICROS},
};

/// A row that tells of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Recalled {
    /// Of `events`.
    Event(EventRow),
    /// Of `late_events`.
    Late(LateRow),
    /// Of `floors`.
    Floor(FloorRow),
    /// Of `windows`: the record closed the symbol's window that began then.
    Closed {
        /// The record.
        cause: Cause,
        /// The market.
        symbol: Symbol,
        /// First instant of the window.
        window_start: Timestamp,
    },
}

impl Recalled {
    /// The record.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        match self {
            Self::Event(row) => row.cause,
            Self::Late(row) => row.cause,
            Self::Floor(row) => row.cause,
            Self::Closed { cause, .. } => *cause,
        }
    }

    /// Rows are recalled in this order: by offset, and what a record closed after what it was.
    #[must_use]
    pub const fn place(&self) -> (Offset, bool) {
        (self.cause().offset, matches!(self, Self::Closed { .. }))
    }
}

impl Fold {
    /// Takes in what a row tells of a record, without judging it again; `out` gets the rows that follow from it.
    ///
    /// # Panics
    /// If the record lies before one already folded.
    pub fn recall(&mut self, row: Recalled, out: &mut Output) {
        let cause = row.cause();
        assert!(cause.offset + 1 >= self.next, "offset {} was folded already, next is {}", cause.offset, self.next);
        self.next = cause.offset + 1;
        if cause.offset >= self.forget_check {
            self.forget(cause, &mut out.windows);
        }
        match row {
            Recalled::Event(EventRow { cause, fold_time, event }) => {
                if fold_time > event.timestamp {
                    self.raise(event.symbol, fold_time);
                }
                self.recall_event(&event, cause, out);
                out.events.push(EventRow { cause, fold_time, event });
            }
            Recalled::Late(row) => {
                let floor = self.floors.get(&row.event.symbol);
                if floor.is_none_or(|floor| row.watermark > *floor) {
                    self.raise(row.event.symbol, row.watermark.plus_micros(ALLOWED_LATENESS_MICROS));
                }
                let state = self.state(row.event.symbol, cause.offset);
                state.last_event = cause.offset;
                state.admission.judge(&row.event, cause.offset);
                self.close_windows(row.event.symbol, cause, out);
                out.late.push(row);
            }
            Recalled::Floor(FloorRow { symbol, floor, .. }) => {
                self.floor(&Floor { symbol, timestamp: floor }, cause, out);
            }
            Recalled::Closed { symbol, window_start, .. } => {
                let end = window_start.plus_micros(WINDOW_MICROS);
                // An event has told its time itself, and may have closed what the symbol was before it was forgotten.
                let is_event = self.symbols.get(&symbol).is_some_and(|state| state.last_event == cause.offset);
                if !is_event && self.floors.get(&symbol).is_none_or(|floor| end > *floor) {
                    self.raise(symbol, end.plus_micros(ALLOWED_LATENESS_MICROS));
                }
                self.close_windows(symbol, cause, out);
            }
        }
    }

    fn recall_event(&mut self, event: &Event, cause: Cause, out: &mut Output) {
        let state = self.state(event.symbol, cause.offset);
        state.last_event = cause.offset;
        state.admission.judge(event, cause.offset);
        out.features.push(state.rolling.admit(event, cause));
        self.close_windows(event.symbol, cause, out);
    }

    /// Notes that a symbol's greatest event time was at least this.
    fn raise(&mut self, symbol: Symbol, greatest: Timestamp) {
        if let Some(state) = self.symbols.get_mut(&symbol) {
            state.admission.heartbeat(greatest);
        }
    }

    fn close_windows(&mut self, symbol: Symbol, cause: Cause, out: &mut Output) {
        if let Some(state) = self.symbols.get_mut(&symbol) {
            state.rolling.windows.close(symbol, state.admission.watermark(), cause, &mut out.windows);
        }
    }
}
