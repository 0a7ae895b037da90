//! Restoring a table so that nothing is lost and nothing comes twice.
//!
//! What a restore takes away is folded again by the next stream job, since the restore sets the table's progress back
//! in its own commit. That needs the records: a restore after which the log could not give them any more is refused
//! before anything is changed. The caller makes sure that no stream job and no service runs meanwhile.

use domain::{Offset, Partition};
use lake::{
    Lake, TableName,
    lake::{fill_id, fill_replay_id, history_id, next_id, replay_id},
    restore::Restored,
};
use streams::EventLog;

use crate::error::Error;

/// The progress of one partition, before a restore and after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetBack {
    /// The partition.
    pub partition: Partition,
    /// The next offset to take in, before.
    pub before: Offset,
    /// The same after the restore.
    pub after: Offset,
}

/// What a restore changes, done or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    /// Files, rows and versions.
    pub table: Restored,
    /// Progress per partition.
    pub progress: Vec<SetBack>,
}

/// What a restore would change; changes nothing.
///
/// # Errors
/// As [`run`].
pub async fn plan(lake: &Lake, log: &dyn EventLog, table: TableName, version: u64) -> Result<RestoreReport, Error> {
    let (progress, _) = progress(lake, log, table, version).await?;
    Ok(RestoreReport { table: lake.restore_plan(table, version).await?, progress })
}

/// Gives a table the rows and the progress of an older version.
///
/// # Errors
/// Where there is no such version, or the log does not hold the records any more that would be folded again.
pub async fn run(lake: &Lake, log: &dyn EventLog, table: TableName, version: u64) -> Result<RestoreReport, Error> {
    let (progress, transactions) = progress(lake, log, table, version).await?;
    Ok(RestoreReport { table: lake.restore(table, version, &transactions).await?, progress })
}

/// The progress of a version, and the transactions that bring the table back to it.
async fn progress(
    lake: &Lake,
    log: &dyn EventLog,
    table: TableName,
    version: u64,
) -> Result<(Vec<SetBack>, Vec<(String, i64)>), Error> {
    let topic = log.topic_id();
    let mut set_back = Vec::new();
    for partition in 0..log.partitions() {
        let id = next_id(topic, partition);
        let before = lake.transaction(table, &id).await?.unwrap_or(0);
        let after = lake.transaction_at(table, version, &id).await?.unwrap_or(0);
        set_back.push(SetBack { partition, before, after });
    }
    let moved: Vec<SetBack> = set_back.iter().copied().filter(|moved| moved.before != moved.after).collect();
    let mut transactions: Vec<_> = moved.iter().map(|moved| (next_id(topic, moved.partition), moved.after)).collect();
    if table == TableName::Events {
        for moved in &moved {
            let id = replay_id(topic, moved.partition);
            let replay = lake.transaction_at(table, version, &id).await?.unwrap_or(0);
            require(log, table, moved.partition, replay).await?;
            transactions.push((id, replay));
        }
        return Ok((set_back, transactions));
    }
    let wanted: Vec<_> = moved.iter().map(|moved| (moved.partition, moved.after)).collect();
    for (moved, anchor) in moved.iter().zip(lake.anchors(topic, &wanted).await?) {
        require(log, table, moved.partition, anchor.replay).await?;
        transactions.push((fill_id(topic, moved.partition), anchor.next));
        transactions.push((fill_replay_id(topic, moved.partition), anchor.replay));
    }
    if table == TableName::Predictions {
        for partition in 0..log.partitions() {
            let id = history_id(topic, partition);
            let after = lake.transaction_at(table, version, &id).await?.unwrap_or(0);
            if lake.transaction(table, &id).await?.unwrap_or(0) != after {
                transactions.push((id, after));
            }
        }
    }
    Ok((set_back, transactions))
}

/// Refuses where the log begins after the first record that would be folded again.
async fn require(log: &dyn EventLog, table: TableName, partition: Partition, needed: Offset) -> Result<(), Error> {
    let first = log.first_offset(partition).await?;
    if first > needed {
        return Err(Error::RecordsRemoved { table: table.as_str(), partition, first, needed });
    }
    Ok(())
}
