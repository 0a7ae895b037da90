//! Detectors: from feature vectors to verdicts and why, in the order in which a model comes to be and is used.
//!
//! Pure CPU work. The same training set and parameters give the same model, byte for byte, whatever the number of
//! threads; the same model and vector give the same score, bit for bit, alone or in a batch. Never reads a clock,
//! a file or the network, never imports tokio. linfa and ndarray are touched in `scaler.rs` alone.

pub mod error;
pub mod specification;

pub mod training;

pub mod quantile;
pub mod scaler;

pub mod forest;
pub mod tree;

mod flat;

pub mod artifact;
pub mod model;

pub mod explain;

pub mod bootstrap;
pub mod metrics;

pub mod drift;

pub use error::Error;
pub use explain::Explanation;
pub use model::{Model, Verdict};
pub use scaler::Scale;
pub use training::{TrainParameters, TrainingSet, train, without_most_anomalous};
