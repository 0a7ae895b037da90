//! A prediction: the record of what a model said about one event, complete enough to be explained and re-scored.

use crate::{
    event::{Offset, Partition, Source},
    features::FeatureVector,
    symbol::Symbol,
    time::Timestamp,
    windows::Cause,
};

/// One row of the `predictions` table.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Partition of the record that caused it.
    pub partition: Partition,
    /// Offset of the record that caused it.
    pub offset: Offset,
    /// Append time of that record.
    pub ingest_time: Timestamp,
    /// Event time.
    pub timestamp: Timestamp,
    /// The market.
    pub symbol: Symbol,
    /// What the model was shown.
    pub features: FeatureVector,
    /// The decision function: negative = anomaly.
    pub anomaly_score: f64,
    /// The verdict.
    pub is_anomaly: bool,
    /// Version of the model.
    pub model_version: i64,
    /// Whether the row is older than its model.
    pub in_sample: bool,
    /// Label of the event, where its source gave one.
    pub label_is_anomaly: Option<bool>,
    /// Labelled kind of anomaly.
    pub label_anomaly_type: Option<Box<str>>,
    /// Where the event came from.
    pub source: Source,
}

impl Prediction {
    /// The record that made the row appear.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        Cause { partition: self.partition, offset: self.offset, append_time: self.ingest_time }
    }
}
