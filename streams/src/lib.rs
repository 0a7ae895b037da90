//! Everything that moves: the event log and its engines, the form of its records, and the sources that write them.
//!
//! Read in the order in which data flows: a source makes records, the codec gives them their bytes, the log keeps
//! them, a webhook is told what was found in them. Never imports the lake, the scheduler, the jobs or the service, and
//! never judges an event: admission does.

pub mod error;

pub mod backoff;
mod encryption;

pub mod frames;

pub mod binance;
pub mod files;
pub mod pace;
pub mod simulated;

pub mod codec;

pub mod embedded;
#[cfg(feature = "fluvio")]
pub mod fluvio;
pub mod log;

pub mod webhook;

#[cfg(test)]
mod conformance;

#[cfg(feature = "fluvio")]
pub use self::fluvio::{FluvioLog, FluvioSettings, FluvioTls};
pub use backoff::Backoff;
pub use binance::{BinanceSettings, BinanceSource};
pub use embedded::EmbeddedLog;
pub use error::Error;
pub use files::{FileBatch, FileSource};
pub use log::{
    AppendBatch, AppendOutcome, CopyTarget, EventLog, LogBatch, NewRecord, ReadItem, RetentionPolicy, SourcePosition,
    SourceStep, TopicSettings, partition_of,
};
pub use pace::Pace;
pub use simulated::{SimulatedMarket, SimulatedSettings, SimulatedSymbol};
pub use webhook::Webhook;
