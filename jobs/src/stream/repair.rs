//! Fills derived tables that lack rows below the committed progress: their newest commits were torn by a power cut, or
//! they were restored. The partition is folded again, what the log has lost by what `events` tells, and every table takes
//! what it lacks.

use std::sync::Arc;

use domain::{Offset, Partition};
use lake::{PartitionFlush, TableName, lake::Progress};
use streams::ReadItem;

use super::{FlushPolicy, READ_RECORDS, StreamParts, cut, lane::Lane};
use crate::error::Error;

/// Repairs every table of `partitions` that has lost commits, or that a restore left to be filled. Of lost commits a job
/// of some partitions leaves the tables marked, since the others lack rows as long as nobody has repaired them.
pub(super) async fn repair(parts: &StreamParts, partitions: &[Partition], policy: FlushPolicy) -> Result<(), Error> {
    let topic = parts.log.topic_id();
    let behind: Vec<_> = parts.lake.behind().iter().map(|table| table.as_str()).collect();
    let fills = parts.lake.fills(topic, partitions).await?;
    if !behind.is_empty() {
        tracing::warn!(tables = ?behind, "commits were set aside; what they held is folded again");
    }
    for partition in partitions {
        let restored: Vec<(TableName, Progress)> =
            fills.iter().filter(|(_, of, _)| of == partition).map(|(table, _, from)| (*table, *from)).collect();
        // What was torn may be anything: all of it, from the beginning of the log.
        let whole = (!behind.is_empty()).then(Progress::default);
        let from = whole.or_else(|| restored.iter().map(|(_, from)| *from).min_by_key(|from| from.next));
        let Some(from) = from else { continue };
        repair_partition(parts, *partition, from, policy).await?;
        for (table, from) in restored {
            parts.lake.filled(table, topic, *partition).await?;
            tracing::info!(table = table.as_str(), partition, from = from.next, "filled a restored table");
        }
    }
    if (0..parts.log.partitions()).all(|partition| partitions.contains(&partition)) {
        parts.lake.mark_filled()?;
    }
    Ok(())
}

async fn repair_partition(
    parts: &StreamParts,
    partition: Partition,
    from: Progress,
    policy: FlushPolicy,
) -> Result<(), Error> {
    let next = parts.lake.progress(parts.log.topic_id(), partition).await?.next;
    if from.next >= next {
        // The stream job itself folds everything from there on.
        return Ok(());
    }
    let memory = parts.lake.memory().await?;
    let mut lane = Lane::folding_again(parts, partition, from).await?;
    while lane.next() < next {
        let mut items = parts.log.read(partition, lane.next(), READ_RECORDS).await?;
        cut(&mut items, next);
        for item in items {
            let end = item.end().min(next);
            // What was lost before it could be folded has its row in `gaps` already.
            if matches!(item, ReadItem::Gap { .. }) {
                while lane.next() < end {
                    lane = lane.recall(&memory, end).await?;
                    flush(parts, &mut lane, policy.rows, next).await?;
                }
            } else {
                lane = fold(parts, lane, item).await?;
                flush(parts, &mut lane, policy.rows, next).await?;
            }
        }
    }
    Ok(())
}

async fn fold(parts: &StreamParts, mut lane: Lane, item: ReadItem) -> Result<Lane, Error> {
    let now = parts.clock.now();
    let folded = tokio::task::spawn_blocking(move || {
        lane.fold(vec![item], now);
        lane
    });
    Ok(folded.await?)
}

/// Fills the tables, where enough rows are pending or the end is reached.
async fn flush(parts: &StreamParts, lane: &mut Lane, rows: usize, next: Offset) -> Result<(), Error> {
    if lane.pending_events() >= rows || lane.next() >= next {
        let pending: Vec<PartitionFlush> = lane.take_pending().into_iter().collect();
        parts.lake.flush_derived(parts.log.topic_id(), &Arc::new(pending)).await?;
    }
    Ok(())
}
