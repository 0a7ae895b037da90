//! Everything at rest: the Delta tables with their durable store, the model registry and the model files.
//!
//! The only crate that touches deltalake and arrow. Never imports streams, scheduler, jobs or api.

pub mod error;

pub mod rows;
pub mod schema;

pub mod table;

pub mod lake;
pub mod maintain;
pub mod missing;
pub mod replace;
pub mod restore;

mod commit_times;
pub mod versions;

mod session;

pub mod read;

pub mod alerts;
pub mod evidence;

pub mod epochs;
mod ordered;
pub mod recall;
pub mod settled;
mod stored_events;
pub mod truth;

pub mod compare;

pub mod sql;

pub mod query;

pub mod export;
pub mod formats;
pub mod pages;

pub mod archive;

pub mod durable;

pub mod artifacts;
pub mod registry;

#[cfg(test)]
mod fixture;

pub use error::Error;
pub use lake::{FlushSummary, Lake, PartitionFlush, Progress};
pub use schema::TableName;
pub use versions::Versions;
