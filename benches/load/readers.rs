//! Readers of `GET /stream`, all on one thread: each counts its events and holds every number against the one before.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    thread::{self, JoinHandle},
};

use serde_json::Value;
use tokio::task::JoinSet;

use super::{
    PATIENCE,
    connection::{Connection, get, position},
    joined, one_thread,
};

/// All readers.
pub struct Readers {
    tallies: Arc<Vec<Tally>>,
    thread: JoinHandle<Vec<String>>,
}

/// What one reader was told.
#[derive(Default)]
struct Tally {
    events: AtomicU64,
    /// Events that it was told to have missed.
    missed: AtomicU64,
}

impl Readers {
    /// Opens so many streams of every kind of event, one after the other.
    ///
    /// # Errors
    /// What was wrong with one of them.
    pub fn open(address: SocketAddr, count: usize) -> Result<Self, String> {
        let tallies: Arc<Vec<Tally>> = Arc::new((0..count).map(|_| Tally::default()).collect());
        let (opened, all_are_open) = channel();
        let shared = Arc::clone(&tallies);
        let thread = thread::spawn(move || one_thread().block_on(read_all(address, &shared, &opened)));
        let is_open = all_are_open.recv_timeout(PATIENCE);
        is_open.unwrap_or_else(|error| Err(format!("{count} streams were not opened in time: {error}")))?;
        Ok(Self { tallies, thread })
    }

    /// How many events each has been sent.
    pub fn events(&self) -> Vec<u64> {
        self.tallies.iter().map(|tally| tally.events.load(Ordering::Relaxed)).collect()
    }

    /// How many events they were told to have missed, together.
    pub fn missed(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.missed.load(Ordering::Relaxed)).sum()
    }

    /// Waits until every stream has ended: what was wrong with some.
    pub fn ended(self) -> Vec<String> {
        joined(self.thread)
    }
}

async fn read_all(address: SocketAddr, tallies: &Arc<Vec<Tally>>, opened: &Sender<Result<(), String>>) -> Vec<String> {
    let mut reading = JoinSet::new();
    for place in 0..tallies.len() {
        let connection = match open(address).await {
            Ok(connection) => connection,
            Err(error) => {
                let _ = opened.send(Err(format!("stream {place} could not be opened: {error}")));
                return Vec::new();
            }
        };
        let tallies = Arc::clone(tallies);
        reading.spawn(async move { read(connection, &tallies[place]).await });
    }
    // Where that took too long, nobody waits for it any more.
    let _ = opened.send(Ok(()));
    let mut faults = Vec::new();
    while let Some(ended) = reading.join_next().await {
        faults.extend(ended.unwrap().err());
    }
    faults
}

async fn open(address: SocketAddr) -> io::Result<Connection> {
    let mut connection = Connection::open(address).await?;
    connection.send(&get(address, "/stream")).await?;
    match connection.head().await?.status {
        200 => Ok(connection),
        status => Err(io::Error::other(format!("it was answered with {status}"))),
    }
}

/// Reads until the stream ends as a stream does.
async fn read(mut connection: Connection, tally: &Tally) -> Result<(), String> {
    let mut unread = Vec::new();
    let mut newest = None;
    loop {
        match connection.chunk().await {
            Ok(Some(chunk)) => unread.extend_from_slice(chunk),
            Ok(None) => return Ok(()),
            Err(error) => return Err(format!("a stream was cut after event {newest:?}: {error}")),
        }
        let mut taken = 0;
        while let Some(length) = position(&unread[taken..], b"\n\n") {
            let event = String::from_utf8_lossy(&unread[taken..taken + length]);
            newest = note(&event, newest, tally)?;
            taken += length + 2;
        }
        unread.drain(..taken);
    }
}

/// Counts an event after the one with the number `newest`; its own number.
fn note(event: &str, newest: Option<u64>, tally: &Tally) -> Result<Option<u64>, String> {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
    // A comment, which keeps the connection alive, has no id.
    let Some(id) = field("id: ") else { return Ok(newest) };
    let number = id.rsplit_once('-').and_then(|(_, number)| number.parse::<u64>().ok());
    let number = number.ok_or_else(|| format!("an event has the id {id}"))?;
    let step = if field("event: ") == Some("missed") {
        let told: Value = serde_json::from_str(field("data: ").unwrap_or_default()).unwrap_or_default();
        let count = told["count"].as_u64().unwrap_or(0);
        tally.missed.fetch_add(count, Ordering::Relaxed);
        count
    } else {
        tally.events.fetch_add(1, Ordering::Relaxed);
        1
    };
    match newest {
        Some(newest) if newest + step != number => Err(format!("event {number} came after {newest}: {event}")),
        _ => Ok(Some(number)),
    }
}
