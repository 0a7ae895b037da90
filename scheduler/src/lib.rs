//! When long work runs, and what became of it. Knows no concrete job: a run is a name, a text and numbered slices.
//!
//! From a text that says when, over what is decided when the time comes, to the run and the loop that does it. Never imports
//! streams, lake, jobs or api.

pub mod error;

pub mod cron;
pub mod due;
pub mod schedule;

pub mod run;

pub mod store;

pub mod runner;

pub use cron::CronTime;
pub use error::Error;
pub use run::{RunEnd, RunEvent, RunState, SliceEnd, SliceState};
pub use runner::{Job, Jobs, Observer, Runner, RunnerPolicy, Task, Unobserved};
pub use schedule::{Misfire, Overlap, Retry, Schedule};
pub use store::{
    Beat, CancelOutcome, Claimed, Lease, NewRun, NewSlice, Run, RunId, Slice, Store, StoredEvent, Written,
};
