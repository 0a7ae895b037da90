//! How far the job is behind the log, and how late predictions come: measured for the metrics, never acted upon.
//!
//! Lateness is that of records that were appended once the job had folded everything that waited for it at its start:
//! what is caught up after a pause of the program says nothing about the program. What waits because the job is too slow,
//! or because commits wait, counts.

use std::time::{Duration, Instant};

use domain::{Prediction, Timestamp};

use super::{StreamParts, lane::Lane};
use crate::train::seconds_between;

/// How often it is looked while there is something to fold.
const LOOK: Duration = Duration::from_secs(1);

/// What is known about it.
#[derive(Debug, Default)]
pub(super) struct Lag {
    looked: Option<Instant>,
    /// When nothing waited for the first time.
    current_since: Option<Timestamp>,
}

impl Lag {
    /// Notes that nothing waits.
    pub(super) fn caught_up(&mut self, parts: &StreamParts, lanes: &[Lane]) {
        self.current_since.get_or_insert_with(|| parts.clock.now());
        for lane in lanes {
            parts.metrics.fold_lags(lane.partition(), 0, 0.0);
        }
    }

    /// Looks how much waits, unless it has just been looked.
    pub(super) async fn look(&mut self, parts: &StreamParts, lanes: &[Lane]) {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return;
        }
        self.looked = Some(Instant::now());
        for lane in lanes {
            // A log that cannot be read is met by the next read.
            let Ok(end) = parts.log.end_offset(lane.partition()).await else { return };
            let waiting = end.saturating_sub(lane.next()).max(0).unsigned_abs();
            let appended = lane.newest_append().filter(|_| waiting > 0);
            let seconds = appended.map_or(0.0, |appended| seconds_between(appended, parts.clock.now()));
            parts.metrics.fold_lags(lane.partition(), waiting, seconds.max(0.0));
        }
    }

    /// Notes predictions that the feed has been told.
    pub(super) fn published(&self, parts: &StreamParts, predictions: &[Prediction]) {
        let Some(since) = self.current_since else { return };
        let now = parts.clock.now();
        for prediction in predictions.iter().filter(|prediction| prediction.ingest_time >= since) {
            // The log's clock may be another machine's.
            parts.metrics.predicted_after(seconds_between(prediction.ingest_time, now).max(0.0));
        }
    }
}
