//! The service over a real socket: before the first model, with it, and when asked for what it does not give.
//!
//! The model is trained for these tests, registry and runs are in a folder of their own; log and lake are not there, a
//! fixed probe speaks for them.

#![expect(clippy::unwrap_used, reason = "a test may fail at any line")]

mod harness;

mod before_the_first_model;
mod with_a_model;

mod life;

mod refusals;

mod documents;
mod shutdown;
