//! The feature row: what the fold says about one admitted event, and the part of it that detectors look at.

use crate::{
    event::{Offset, Partition, Source},
    symbol::Symbol,
    time::Timestamp,
    windows::Cause,
};

/// The names of a detector's inputs, in the order of [`FeatureVector`].
pub const FEATURE_NAMES: [&str; 5] =
    ["z_score_price", "z_score_log_return", "z_score_volume", "rolling_price_std", "rolling_volume_std"];

/// A detector's input, in the order of [`FEATURE_NAMES`]; z-scores are within +-100, deviations >= 0, all finite.
pub type FeatureVector = [f64; 5];

/// The place of the volume's z-score among the [`FEATURE_NAMES`].
pub const Z_SCORE_VOLUME: usize = 2;

/// The place of the volume's rolling deviation among the [`FEATURE_NAMES`].
pub const ROLLING_VOLUME_STD: usize = 4;

/// How many of the [`FEATURE_NAMES`], the first ones, are z-scores: of the event itself, and without a unit.
pub const Z_SCORES: usize = 3;

/// The clamp of a z-score.
pub const MAX_Z_SCORE: f64 = 100.0;

/// One row per admitted event. The statistics describe the 60 s before the event, the event itself left out.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureRow {
    /// Partition of the record.
    pub partition: Partition,
    /// Offset of the record.
    pub offset: Offset,
    /// Append time of the record.
    pub ingest_time: Timestamp,
    /// Event time.
    pub timestamp: Timestamp,
    /// The market.
    pub symbol: Symbol,
    /// Price of the event.
    pub price: f64,
    /// Volume of the event.
    pub volume: f64,
    /// Given by the source, or ln(price / last admitted price).
    pub log_return: f64,
    /// Standard scores of price, log-return and volume.
    pub z_scores: [f64; 3],
    /// Rolling means of price, log-return and volume.
    pub means: [f64; 3],
    /// Rolling sample deviations: price relative to its mean, log-return and volume absolute.
    pub deviations: [f64; 3],
    /// Events in the window.
    pub window_events: i64,
    /// Label of the event.
    pub is_anomaly: Option<bool>,
    /// Labelled kind of anomaly.
    pub anomaly_type: Option<Box<str>>,
    /// Where the event came from.
    pub source: Source,
}

impl FeatureRow {
    /// The record that made the row appear.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        Cause { partition: self.partition, offset: self.offset, append_time: self.ingest_time }
    }

    /// The detector's input.
    #[must_use]
    pub const fn vector(&self) -> FeatureVector {
        [self.z_scores[0], self.z_scores[1], self.z_scores[2], self.deviations[0], self.deviations[2]]
    }
}
