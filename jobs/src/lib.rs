//! What runs: one file per job, each joining the crates below it, in the order in which data flow through them.
//!
//! What the jobs share with the service lies in `active`, `feed`, `status`, `metrics`, `spans`, `alerts`, `control`,
//! `keys`, `tables` and `rows`.
//! Never imports the service.

pub mod error;

pub mod metrics;
pub mod spans;
pub mod status;

pub mod ingest;

pub mod active;
pub mod feed;
pub mod library;

mod alerting;
pub mod stream;

pub mod notify;

pub mod workshop;

pub mod report;

pub mod train;

pub mod backfill;
pub mod refold;
pub mod replay;
pub mod verify;

pub mod candidates;
pub mod evaluate;

pub mod drift;
pub mod rebuild;

pub mod first_model;
pub mod follow;
pub mod maintain;
pub mod mirror;
pub mod restore;
pub mod score_history;

pub mod alerts;
pub mod chores;
pub mod control;
pub mod keys;
pub mod pins;
pub mod scheduled;

pub mod rows;
pub mod tables;

pub use error::Error;
