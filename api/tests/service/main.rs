//! The service over a real socket: before the first model, with it, and when asked for what it does not give, or by whom
//! it does not let in.
//!
//! The model is trained for these tests; registry, runs, log and lake are in a folder of their own, and a fixed probe
//! speaks for the parts.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail at any line")]

mod harness;

mod before_the_first_model;
mod readiness;
mod with_a_model;

mod batch;
mod intake;

mod alerts;
mod life;

mod predictions;
mod sql;
mod tables;

mod stream;

mod identity;
mod refusals;
mod security;

mod dashboard;
mod documents;
mod shutdown;
