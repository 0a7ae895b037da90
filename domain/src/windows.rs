//! One-minute tumbling windows of one symbol: open ones fill, a closed one becomes a row and never changes.

use crate::{
    event::{Event, Offset, Partition, Source},
    panes::Moments,
    symbol::Symbol,
    time::{MICROS, Timestamp},
};

/// Length of a window in microseconds.
pub const WINDOW_MICROS: i64 = 60 * MICROS;

/// One row per symbol and closed minute that had events.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowRow {
    /// Partition of the record that closed the window.
    pub partition: Partition,
    /// Offset of that record.
    pub offset: Offset,
    /// Append time of that record.
    pub ingest_time: Timestamp,
    /// The market.
    pub symbol: Symbol,
    /// First instant of the window; it ends 60 s later, exclusive.
    pub window_start: Timestamp,
    /// Price of the first event by (timestamp, fold order).
    pub open: f64,
    /// Greatest price.
    pub high: f64,
    /// Smallest price.
    pub low: f64,
    /// Price of the last event by (timestamp, fold order).
    pub close: f64,
    /// Sum of the volumes.
    pub volume: f64,
    /// Volume-weighted average price; none where the volume is 0.
    pub vwap: Option<f64>,
    /// Events in the window, at least 1.
    pub event_count: i64,
    /// Means of price, log-return and volume.
    pub means: [f64; 3],
    /// Sample deviations of price, log-return and volume; 0 for one event.
    pub deviations: [f64; 3],
    /// Standard scores of the last event's price, log-return and volume; 0 where the deviation is 0.
    pub z_scores: [f64; 3],
    /// Whether any event was labelled an anomaly; none where no event had a label.
    pub is_anomaly: Option<bool>,
    /// Source of the last event.
    pub source: Source,
}

impl WindowRow {
    /// The record that closed the window.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        Cause { partition: self.partition, offset: self.offset, append_time: self.ingest_time }
    }
}

/// The record that made a row appear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Partition of the record.
    pub partition: Partition,
    /// Offset of the record.
    pub offset: Offset,
    /// Append time of the record.
    pub append_time: Timestamp,
}

impl Cause {
    /// Whether no record of the log caused the row: it was backfilled, and its offset is a trade id or a line.
    #[must_use]
    pub const fn is_backfilled(self) -> bool {
        self.partition < 0
    }
}

/// The windows of one symbol that may still change, oldest first.
#[derive(Clone, Debug, Default)]
pub struct OpenWindows {
    windows: Vec<OpenWindow>,
}

#[derive(Clone, Debug)]
struct OpenWindow {
    number: i64,
    first: (Timestamp, f64),
    last: (Timestamp, [f64; 3], Source),
    high: f64,
    low: f64,
    volume: f64,
    notional: f64,
    moments: Moments,
    is_anomaly: Option<bool>,
}

impl OpenWindows {
    /// Adds an admitted event; `values` are its price, log-return and volume.
    pub fn add(&mut self, event: &Event, values: [f64; 3]) {
        let number = event.timestamp.span(WINDOW_MICROS);
        let index = self.windows.partition_point(|window| window.number < number);
        if self.windows.get(index).is_none_or(|window| window.number != number) {
            self.windows.insert(index, OpenWindow::new(number, event, values));
        }
        self.windows[index].add(event, values);
    }

    /// Removes the windows that the watermark has passed and appends their rows, oldest first.
    pub fn close(&mut self, symbol: Symbol, watermark: Timestamp, cause: Cause, rows: &mut Vec<WindowRow>) {
        let done = watermark.span(WINDOW_MICROS);
        while self.windows.first().is_some_and(|window| window.number < done) {
            rows.push(self.windows.remove(0).row(symbol, cause));
        }
    }
}

impl OpenWindow {
    fn new(number: i64, event: &Event, values: [f64; 3]) -> Self {
        Self {
            number,
            first: (event.timestamp, event.price),
            last: (event.timestamp, values, event.source),
            high: event.price,
            low: event.price,
            volume: 0.0,
            notional: 0.0,
            moments: Moments::default(),
            is_anomaly: None,
        }
    }

    fn add(&mut self, event: &Event, values: [f64; 3]) {
        if event.timestamp < self.first.0 {
            self.first = (event.timestamp, event.price);
        }
        if event.timestamp >= self.last.0 {
            self.last = (event.timestamp, values, event.source);
        }
        self.high = self.high.max(event.price);
        self.low = self.low.min(event.price);
        self.volume += event.volume;
        self.notional += event.price * event.volume;
        self.moments.add(values);
        if let Some(label) = event.is_anomaly {
            self.is_anomaly = Some(self.is_anomaly.unwrap_or(false) || label);
        }
    }

    fn row(self, symbol: Symbol, cause: Cause) -> WindowRow {
        let (means, deviations) = (self.moments.means(), self.moments.deviations());
        let z_score = |lane: usize| {
            if deviations[lane] == 0.0 { 0.0 } else { (self.last.1[lane] - means[lane]) / deviations[lane] }
        };
        WindowRow {
            partition: cause.partition,
            offset: cause.offset,
            ingest_time: cause.append_time,
            symbol,
            window_start: Timestamp::from_micros(self.number * WINDOW_MICROS),
            open: self.first.1,
            high: self.high,
            low: self.low,
            close: self.last.1[0],
            volume: self.volume,
            vwap: (self.volume > 0.0).then(|| self.notional / self.volume),
            event_count: i64::try_from(self.moments.count()).unwrap_or(i64::MAX),
            means,
            deviations,
            z_scores: [z_score(0), z_score(1), z_score(2)],
            is_anomaly: self.is_anomaly,
            source: self.last.2,
        }
    }
}
