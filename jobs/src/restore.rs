//! Restoring a table so that nothing is lost and nothing comes twice.
//!
//! What a restore takes away is folded again by the next stream job, since the restore sets the table's progress back
//! in its own commit. That needs the records: a restore after which the log could not give them any more is refused
//! before anything is changed. The caller makes sure that no stream job and no service runs meanwhile.

use domain::{Offset, Partition};
use lake::{
    Lake, TableName,
    lake::{fill_id, fill_replay_id, history_id, next_id, replay_id},
    replace::replaced_id,
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
    /// Whether rows are missing then until the next stream job has folded them again.
    pub is_to_be_filled: bool,
}

/// What a restore would change; changes nothing.
///
/// # Errors
/// As [`run`].
pub async fn plan(lake: &Lake, log: &dyn EventLog, table: TableName, version: u64) -> Result<RestoreReport, Error> {
    let (progress, transactions) = progress(lake, log, table, version).await?;
    let is_to_be_filled = !transactions.is_empty();
    Ok(RestoreReport { table: lake.restore_plan(table, version).await?, progress, is_to_be_filled })
}

/// Gives a table the rows and the progress of an older version.
///
/// # Errors
/// Where there is no such version, or the log does not hold the records any more that would be folded again.
pub async fn run(lake: &Lake, log: &dyn EventLog, table: TableName, version: u64) -> Result<RestoreReport, Error> {
    let (progress, transactions) = progress(lake, log, table, version).await?;
    let is_to_be_filled = !transactions.is_empty();
    Ok(RestoreReport { table: lake.restore(table, version, &transactions).await?, progress, is_to_be_filled })
}

/// The progress of a version, and the transactions that bring the table back to it.
async fn progress(
    lake: &Lake,
    log: &dyn EventLog,
    table: TableName,
    version: u64,
) -> Result<(Vec<SetBack>, Vec<(String, i64)>), Error> {
    keep_backfills(lake, table, version).await?;
    keep_cutover(lake, log, table, version).await?;
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

/// Refuses where a backfill has changed the table since: the log does not hold what it put there.
async fn keep_backfills(lake: &Lake, table: TableName, version: u64) -> Result<(), Error> {
    for symbol in lake.pin(TableName::Events).await?.symbols().await? {
        let id = replaced_id(symbol);
        if lake.transaction(table, &id).await? != lake.transaction_at(table, version, &id).await? {
            let table = table.as_str();
            return Err(Error::Invalid(format!(
                "version {version} of table `{table}` lies behind a backfill of {symbol}, which would be lost: restore a \
                 version after it"
            )));
        }
    }
    Ok(())
}

/// Refuses where the version's rows came from the log before this one: nothing would say how far they go.
async fn keep_cutover(lake: &Lake, log: &dyn EventLog, table: TableName, version: u64) -> Result<(), Error> {
    for partition in 0..log.partitions() {
        for id in [next_id(log.topic_id(), partition), history_id(log.topic_id(), partition)] {
            if lake.transaction_at(table, version, &id).await?.is_some() {
                return Ok(());
            }
        }
    }
    if lake.pin_version(table, version).await?.row_count().await? == 0 {
        return Ok(());
    }
    let table = table.as_str();
    Err(Error::Invalid(format!(
        "version {version} of table `{table}` lies before the cutover to this log: restore a newer version"
    )))
}

/// Refuses where the log begins after the first record that would be folded again.
async fn require(log: &dyn EventLog, table: TableName, partition: Partition, needed: Offset) -> Result<(), Error> {
    let first = log.first_offset(partition).await?;
    if first > needed {
        return Err(Error::RecordsRemoved { table: table.as_str(), partition, first, needed });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::{Clock, ErrorKind, Kind, Symbol, Timestamp};
    use lake::PartitionFlush;
    use streams::{AppendBatch, EmbeddedLog, NewRecord, RetentionPolicy, TopicSettings, partition_of};

    use super::*;

    struct Noon;

    impl Clock for Noon {
        fn now(&self) -> Timestamp {
            Timestamp::from_seconds(1_710_000_000)
        }
    }

    /// Three commits of progress over thirty records, each rebuilt from five records before it.
    #[tokio::test]
    async fn a_restore_that_the_log_can_not_fill_any_more_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let topic = TopicSettings { name: "market".to_owned(), partitions: 1 };
        let log = EmbeddedLog::open(&folder.path().join("events.db"), &topic, Arc::new(Noon)).await.unwrap();
        let lake = Lake::open(&folder.path().join("lake")).await.unwrap();
        let key = Symbol::parse("BTC-USDT").unwrap();
        assert_eq!(partition_of(key, 1), 0);
        for start in [0, 10, 20] {
            let records = (0..10).map(|_| NewRecord { key, value: b"{}".to_vec() }).collect();
            log.append(AppendBatch { records, kind: Kind::Real, source: None }).await.unwrap();
            let (next, replay) = (start + 10, start + 5);
            let flush = PartitionFlush { start, next, replay, ..PartitionFlush::default() };
            lake.flush(log.topic_id(), Arc::new(vec![flush])).await.unwrap();
        }
        let nothing_kept = RetentionPolicy { max_age_micros: 0, max_partition_bytes: 0 };
        let retained = log.retain(0, 12, nothing_kept).await.unwrap();
        assert_eq!(retained.first_offset, 10);

        let kept = plan(&lake, &log, TableName::Events, 2).await.unwrap();
        assert_eq!(kept.progress, [SetBack { partition: 0, before: 30, after: 20 }]);
        for version in [0, 1] {
            let refused = run(&lake, &log, TableName::Events, version).await.unwrap_err();
            assert!(matches!(refused, Error::RecordsRemoved { first: 10, .. }), "{refused:?}");
            assert_eq!(refused.kind(), ErrorKind::Gone);
        }
        assert_eq!(lake.progress(log.topic_id(), 0).await.unwrap().next, 30);
        run(&lake, &log, TableName::Events, 2).await.unwrap();
        let progress = lake.progress(log.topic_id(), 0).await.unwrap();
        assert_eq!((progress.next, progress.replay), (20, 15));
        log.close().await;
    }
}
