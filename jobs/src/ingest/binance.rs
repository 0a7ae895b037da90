//! Ingest of Binance's live trade streams: what the connections give becomes appends, until it is cancelled.
//!
//! Invariants: records enter the log in the order in which each connection gave them; what was read when the end comes
//! is appended, if the log takes it; memory is bounded by one batch and the frames that wait for it. Where the log
//! takes no records, the batch waits, then the frames behind it, then nothing is read from the sockets: the venue's own
//! buffers fill, it ends the connections after about a minute, and what it sends until they are made again is missed.
//! `sentinel gaps` names what is missing by its trade ids.

use std::{sync::Arc, time::Duration};

use domain::Kind;
use futures::future::join_all;
use streams::{
    AppendBatch, BinanceSettings, BinanceSource, NewRecord,
    binance::{MAX_WAITING_FRAMES, Notice, Received, Timer},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{BATCH_RECORDS, Connections, IngestParts, IngestReport, append};
use crate::error::Error;

/// How long a batch is collected before it is appended.
const COLLECT: Duration = Duration::from_millis(200);

/// A batch ends with the record that brings its values to this many bytes.
const BATCH_BYTES: usize = 8 << 20;

/// What a live source gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameCounts {
    /// Trades.
    pub trades: u64,
    /// Frames of other streams.
    pub skipped: u64,
    /// Frames that could not be read.
    pub undecoded: u64,
}

/// Listens and appends until it is cancelled. `timer` is the time that connections and batches go by.
///
/// # Errors
/// Where the settings are outside their limits, a symbol is simulated in this log, or the log fails for good.
pub async fn binance(
    parts: &IngestParts,
    settings: BinanceSettings,
    timer: Arc<dyn Timer>,
    cancel: &CancellationToken,
) -> Result<IngestReport, Error> {
    refuse_simulated(parts, &settings).await?;
    let (endpoint, symbols) = (settings.endpoint.clone(), settings.symbols.len());
    let source = BinanceSource::new(settings, timer.clone())?;
    *parts.state.connections() = Some(Connections::new(endpoint, symbols, source.connections()));
    let (out, received) = mpsc::channel(MAX_WAITING_FRAMES);
    let tell = |notice: Notice| noted(parts, &notice);
    let follow = join_all((0..source.connections()).map(|connection| source.follow(connection, &out, &tell)));
    let collector = Collector { parts, timer: timer.as_ref(), cancel, received, report: IngestReport::default() };
    // Ends with the collector: what comes after its last batch is not read any more.
    let report = tokio::select! { report = collector.run() => report, _ = follow => Ok(IngestReport::default()) };
    *parts.state.connections() = None;
    parts.metrics.source_connected(0);
    report
}

/// A symbol that is simulated in this log is refused before anything is connected.
async fn refuse_simulated(parts: &IngestParts, settings: &BinanceSettings) -> Result<(), Error> {
    for symbol in &settings.symbols {
        if parts.log.kind_of(*symbol).await? == Some(Kind::Simulated) {
            let (recorded, sent) = (Kind::Simulated, Kind::Real);
            return Err(streams::Error::OtherKind { symbol: *symbol, recorded, sent }.into());
        }
    }
    Ok(())
}

/// Keeps and tells what became of a connection.
fn noted(parts: &IngestParts, notice: &Notice) {
    let mut connections = parts.state.connections();
    let Some(connections) = connections.as_mut() else { return };
    match notice {
        Notice::Connected { connection } => {
            connections.connected(*connection);
            info!(connection, "{connections}");
        }
        Notice::Lost { connection, lost, pause } => {
            connections.lost(*connection, lost);
            parts.metrics.source_lost(lost);
            warn!(connection, reason = %lost, pause_ms = pause.as_millis(), "not connected, it will be tried again");
        }
    }
    parts.metrics.source_connected(connections.up());
}

/// Makes appends of what the connections give.
struct Collector<'a> {
    parts: &'a IngestParts,
    timer: &'a dyn Timer,
    cancel: &'a CancellationToken,
    received: mpsc::Receiver<Received>,
    report: IngestReport,
}

impl Collector<'_> {
    async fn run(mut self) -> Result<IngestReport, Error> {
        let mut is_last = false;
        while !is_last {
            // Where the end comes during an append, what was read meanwhile makes one more.
            is_last = self.cancel.is_cancelled();
            let Batch { records, counts, .. } = self.collect().await;
            self.parts.metrics.frames_received(&counts);
            self.report.skipped += counts.skipped;
            self.report.undecoded += counts.undecoded;
            if records.is_empty() {
                continue;
            }
            let appended = records.len() as u64;
            let batch = AppendBatch { records, kind: Kind::Real, source: None };
            if let Err(error) = append(self.parts, batch, self.cancel).await {
                warn!(records = appended, "received from the venue and not appended: `sentinel gaps` will name them");
                return Err(error);
            }
            if self.report.records == 0 {
                info!(records = appended, "the first records are in the log");
            }
            self.report.records += appended;
        }
        Ok(self.report)
    }

    /// What comes within [`COLLECT`] after the first, up to a batch. Once it is cancelled, all that was read.
    async fn collect(&mut self) -> Batch {
        let mut batch = Batch::default();
        tokio::select! {
            received = self.received.recv() => batch.add(received),
            () = self.cancel.cancelled() => {}
        }
        let mut collected = self.timer.pause(COLLECT);
        while !batch.is_full() {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => break,
                () = &mut collected => break,
                received = self.received.recv() => batch.add(received),
            }
        }
        while self.cancel.is_cancelled()
            && let Ok(received) = self.received.try_recv()
        {
            batch.add(Some(received));
        }
        batch
    }
}

/// A batch in the making.
#[derive(Default)]
struct Batch {
    records: Vec<NewRecord>,
    bytes: usize,
    counts: FrameCounts,
}

impl Batch {
    /// Takes what was received; nothing more comes, where there is nothing.
    fn add(&mut self, received: Option<Received>) {
        let record = match received {
            Some(Received::Trade(record)) => {
                self.counts.trades += 1;
                record
            }
            Some(Received::Undecoded(record)) => {
                self.counts.undecoded += 1;
                record
            }
            Some(Received::Heartbeat(record)) => record,
            Some(Received::Skipped) => {
                self.counts.skipped += 1;
                return;
            }
            None => return,
        };
        self.bytes += record.value.len();
        self.records.push(record);
    }

    fn is_full(&self) -> bool {
        self.records.len() >= BATCH_RECORDS || self.bytes >= BATCH_BYTES
    }
}
