//! Fills derived tables that lost their newest commits, as a power cut can tear them: the partition is folded again
//! from the beginning of the log, and every table takes what it lacks.

use domain::Partition;
use lake::PartitionFlush;
use std::sync::Arc;

use super::{FlushPolicy, READ_RECORDS, StreamParts, cut, lane::Lane};
use crate::error::Error;

/// Repairs every table of `partitions` that has lost commits. A job of some partitions leaves the tables marked, since the
/// others lack rows as long as nobody has repaired them.
pub(super) async fn repair(parts: &StreamParts, partitions: &[Partition], policy: FlushPolicy) -> Result<(), Error> {
    if parts.lake.behind().is_empty() {
        return Ok(());
    }
    let tables: Vec<_> = parts.lake.behind().iter().map(|table| table.as_str()).collect();
    tracing::warn!(?tables, "commits were set aside; what they held is folded again");
    for partition in partitions {
        repair_partition(parts, *partition, policy).await?;
    }
    if (0..parts.log.partitions()).all(|partition| partitions.contains(&partition)) {
        parts.lake.mark_filled()?;
    }
    Ok(())
}

async fn repair_partition(parts: &StreamParts, partition: Partition, policy: FlushPolicy) -> Result<(), Error> {
    let next = parts.lake.progress(parts.log.topic_id(), partition).await?.next;
    let first = parts.log.first_offset(partition).await?;
    if first > 0 {
        return Err(Error::LogCut { partition, first, replay: 0, next });
    }
    let mut lane = Lane::at_beginning(parts, partition).await?;
    while lane.next() < next {
        let mut items = parts.log.read(partition, lane.next(), READ_RECORDS).await?;
        cut(&mut items, next);
        let now = parts.clock.now();
        lane = tokio::task::spawn_blocking(move || {
            lane.fold(items, now);
            lane
        })
        .await?;
        if lane.pending_events() >= policy.rows || lane.next() >= next {
            let pending: Vec<PartitionFlush> = lane.take_pending().into_iter().collect();
            parts.lake.flush_derived(parts.log.topic_id(), &Arc::new(pending)).await?;
        }
    }
    Ok(())
}
