//! How long what is appended takes to become a prediction, and how much of it waits.
//!
//! Partitions are the only label, and a topic has at most 1 024 of them.

use std::sync::atomic::AtomicU64;

use domain::Partition;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::Metrics;

/// Upper bounds of the buckets of the time from an append to its prediction, in seconds.
const PASSAGE_BUCKETS: [f64; 14] =
    [1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 1e-1, 2.5e-1, 5e-1, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Upper bounds of the buckets of the time that scoring takes, in seconds.
const SCORING_BUCKETS: [f64; 10] = [1e-5, 1e-4, 2.5e-4, 1e-3, 2.5e-3, 1e-2, 2.5e-2, 1e-1, 2.5e-1, 1.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartitionLabel {
    partition: Partition,
}

/// The series.
pub(super) struct Passage {
    logged_bytes: Counter,
    lag_events: Family<PartitionLabel, Gauge>,
    lag_seconds: Family<PartitionLabel, Gauge<f64, AtomicU64>>,
    scoring_seconds: Histogram,
    to_prediction_seconds: Histogram,
}

impl Default for Passage {
    fn default() -> Self {
        Self {
            logged_bytes: Counter::default(),
            lag_events: Family::default(),
            lag_seconds: Family::default(),
            scoring_seconds: Histogram::new(SCORING_BUCKETS),
            to_prediction_seconds: Histogram::new(PASSAGE_BUCKETS),
        }
    }
}

impl Passage {
    pub(super) fn register(&self, ours: &mut Registry) {
        let help = "Bytes of events appended to the log by this process";
        ours.register_with_unit("logged", help, Unit::Bytes, self.logged_bytes.clone());
        let help = "Records of the log that this process has not folded yet, looked at every second";
        ours.register("fold_lag_events", help, self.lag_events.clone());
        let help = "Time since the append of the newest folded record; 0 where none waits";
        ours.register_with_unit("fold_lag", help, Unit::Seconds, self.lag_seconds.clone());
        let help = "Time of judging the feature rows that one partition gave at once";
        ours.register_with_unit("scoring_duration", help, Unit::Seconds, self.scoring_seconds.clone());
        let help = "Time from the append of a record until its prediction can be read; of those appended once the \
                    start had been caught up";
        ours.register_with_unit("event_to_prediction", help, Unit::Seconds, self.to_prediction_seconds.clone());
    }
}

impl Metrics {
    /// Counts bytes of events appended to the log.
    pub fn bytes_logged(&self, bytes: usize) {
        self.passage.logged_bytes.inc_by(bytes as u64);
    }

    /// Notes how many records of a partition wait, and for how long.
    pub fn fold_lags(&self, partition: Partition, events: u64, seconds: f64) {
        let label = PartitionLabel { partition };
        self.passage.lag_events.get_or_create(&label).set(i64::try_from(events).unwrap_or(i64::MAX));
        self.passage.lag_seconds.get_or_create(&label).set(seconds);
    }

    /// Counts rows that were judged at once.
    pub fn scored(&self, seconds: f64) {
        self.passage.scoring_seconds.observe(seconds);
    }

    /// Counts a prediction that came so long after its record.
    pub fn predicted_after(&self, seconds: f64) {
        self.passage.to_prediction_seconds.observe(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_and_what_took_time_is_written() {
        let metrics = Metrics::new();
        metrics.bytes_logged(1_400);
        metrics.fold_lags(3, 12, 1.5);
        metrics.scored(0.002);
        metrics.predicted_after(0.04);
        metrics.predicted_after(90.0);
        let text = metrics.encode().unwrap();
        for line in [
            "sentinel_logged_bytes_total 1400",
            "sentinel_fold_lag_events{partition=\"3\"} 12",
            "sentinel_fold_lag_seconds{partition=\"3\"} 1.5",
            "sentinel_scoring_duration_seconds_count 1",
            "sentinel_event_to_prediction_seconds_bucket{le=\"0.05\"} 1",
            "sentinel_event_to_prediction_seconds_bucket{le=\"60.0\"} 1",
            "sentinel_event_to_prediction_seconds_count 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
