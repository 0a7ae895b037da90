//! Whole-system tests, in the order in which data flow. One binary, so that the lake is linked once.

#![expect(clippy::unwrap_used, reason = "a test may stop at any line")]

mod browser;
mod harness;
mod requirements;
mod venue;

mod tidy;

mod fuzz_seeds;

mod late;
mod live;
mod recorded;

mod backfill;
mod cluster;
mod cut_log;
mod kill;
mod notify;
mod replay;
mod topic;
mod torn;
mod verify;
mod windows_peer;

mod alerts;
mod life;
mod schedule;

mod query;
mod restore;

mod apart;
mod contract;
mod dashboard;
mod keys;
mod telemetry;

mod example_vectors;
mod forest_peer;
