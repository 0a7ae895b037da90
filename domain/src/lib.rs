//! The vocabulary of Sentinel and its pure maths, in the order in which data flows through them.
//!
//! Nothing here reads a clock, draws a random number, starts a thread or touches a foreign system: the same
//! records give the same bits, whatever the batch sizes, threads or restarts. Never imports tokio, arrow,
//! deltalake, sqlx, fluvio, poem or polars.

pub mod error;
pub mod symbol;
pub mod time;

pub mod event;

pub mod admission;
pub mod panes;
pub mod windows;

pub mod fold;

pub mod features;
pub mod prediction;

pub mod alerts;

pub mod probe;

#[cfg(test)]
mod properties;

pub use admission::{Fate, FateCounts, LateReason};
pub use alerts::{AlertId, AlertLimits, AlertRow, AlertType, NewestAlert, Reach, Severity};
pub use error::ErrorKind;
pub use event::{BACKFILLED, Event, Floor, Heartbeat, IngestId, Kind, Offset, Partition, Record, Side, Source};
pub use features::{FEATURE_NAMES, FeatureRow, FeatureVector};
pub use fold::{DeadLetter, EventRow, FloorRow, Fold, LateRow, Output, RawRecord, Recalled, Refold};
pub use prediction::Prediction;
pub use probe::{NoProbe, Probe};
pub use symbol::Symbol;
pub use time::{Clock, Timestamp};
pub use windows::{Cause, WindowRow};
