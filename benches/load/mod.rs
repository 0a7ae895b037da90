//! What the load benchmark is made of: the program that answers, connections that ask it, readers of its stream.
//!
//! The client shares the cores with the program: it has one thread that asks and one that reads, and parses no more
//! than it must to find every fault.

pub mod asking;
pub mod connection;
pub mod files;
pub mod readers;
pub mod server;

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::runtime::{Builder, Runtime};

/// Nothing that is waited for takes longer.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// How often something is looked at that tells nobody when it changes.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A runtime on the thread that blocks on it.
fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// What a thread gives that has been told to end.
fn joined<T>(thread: JoinHandle<T>) -> T {
    let end = Instant::now() + PATIENCE;
    while !thread.is_finished() {
        assert!(Instant::now() < end, "a client waits for an answer that does not come");
        thread::sleep(LOOK_EVERY);
    }
    thread.join().unwrap()
}
