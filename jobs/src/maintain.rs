//! Upkeep while the program runs: the index of commit times, checkpoints and compaction by commits, retention of the log,
//! and a count of missing trades. What is due by the clock, schedules start.
//!
//! Each step is safe to repeat and to leave out. A step that fails is reported and tried again at the next round; it
//! never stops ingest or commits.

use std::time::Duration;

use lake::{Error as LakeError, Lake, TableName};
use streams::{EventLog, RetentionPolicy};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{error::Error, metrics::Metrics};

/// How often a round is made.
const ROUND: Duration = Duration::from_mins(1);

/// Rounds between two counts of the missing trades. A count reads three columns of an hour of `events`.
const ROUNDS_PER_COUNT: u64 = 5;

/// When upkeep is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpkeepPolicy {
    /// Commits between two checkpoints.
    pub checkpoint_every: u64,
    /// Commits of a table between two compactions.
    pub compact_every: u64,
    /// Whether the venue numbers its trades, so that those of the last hour that are missing can be counted.
    pub counts_missing_trades: bool,
    /// What the log keeps.
    pub log: RetentionPolicy,
}

/// Makes rounds until it is cancelled.
pub async fn run(lake: &Lake, log: &dyn EventLog, metrics: &Metrics, policy: UpkeepPolicy, cancel: &CancellationToken) {
    let mut compacted_at = [0; TableName::ALL.len()];
    for number in 1_u64.. {
        tokio::select! { () = tokio::time::sleep(ROUND) => {}, () = cancel.cancelled() => return }
        for (table, compacted) in TableName::ALL.into_iter().zip(&mut compacted_at) {
            if let Err(error) = tables(lake, table, policy, compacted).await {
                warn!(table = table.as_str(), %error, "upkeep left out, it will be tried again");
            }
        }
        if let Err(error) = retain(lake, log, policy.log).await {
            warn!(%error, "log retention left out, it will be tried again");
        }
        if policy.counts_missing_trades && number % ROUNDS_PER_COUNT == 1 {
            match lake.missing_trades_of_last_hour().await {
                Ok(count) => metrics.trade_ids_missing(count),
                Err(error) => warn!(%error, "missing trades not counted, it will be tried again"),
            }
        }
    }
}

async fn tables(lake: &Lake, table: TableName, policy: UpkeepPolicy, compacted_at: &mut u64) -> Result<(), LakeError> {
    lake.versions().note_commit_times(table).await?;
    lake.checkpoint(table, policy.checkpoint_every).await?;
    if lake.state(table).await?.version >= *compacted_at + policy.compact_every {
        let compacted = lake.compact(table).await?;
        *compacted_at = compacted.version;
        info!(table = table.as_str(), removed = compacted.removed, added = compacted.added, "compacted");
    }
    Ok(())
}

/// Lets the log forget what no rebuild needs.
async fn retain(lake: &Lake, log: &dyn EventLog, policy: RetentionPolicy) -> Result<(), Error> {
    let partitions: Vec<_> = (0..log.partitions()).collect();
    let fills = lake.fills(log.topic_id(), &partitions).await?;
    for partition in partitions {
        let replay = lake.progress(log.topic_id(), partition).await?.replay;
        // A restored table is filled from further back.
        let filled_from = fills.iter().filter(|(_, of, _)| *of == partition).map(|(_, _, from)| from.replay);
        let needed = filled_from.fold(replay, Ord::min);
        let retained = log.retain(partition, needed, policy).await?;
        if retained.removed_records > 0 {
            info!(partition, first_offset = retained.first_offset, removed = retained.removed_records, "log retention");
        }
    }
    Ok(())
}
