//! Moving to another log: the records are copied with their offsets, and then the tables follow the copy.
//!
//! Copying may go on while the log is written and may end at any time: it goes on where the copy ends. The cutover
//! compares the copy with the log record by record before anything follows it.

use domain::{Offset, Partition, RawRecord};
use lake::{Lake, TableName, registry::Registry};
use streams::{CopyTarget, EventLog, ReadItem};
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// Records read at a time.
const READ_RECORDS: usize = 20_000;

/// What a run of [`mirror`] did with a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// The partition.
    pub partition: Partition,
    /// Records copied by this run.
    pub records: u64,
    /// The offset up to which the copy goes.
    pub next: Offset,
    /// The end of the log, as it was then.
    pub end: Offset,
}

/// Copies what the copy lacks. `told` hears (records copied, records to be copied).
///
/// # Errors
/// Where the partitions differ, the target holds something else, or a log fails; what was copied stays.
pub async fn mirror(
    from: &dyn EventLog,
    to: &dyn CopyTarget,
    cancel: &CancellationToken,
    told: &(dyn Fn(u64, u64) + Sync),
) -> Result<Vec<Mirrored>, Error> {
    require_equal_partitions(from, to)?;
    let mut parts = Vec::new();
    for partition in 0..from.partitions() {
        let first = from.first_offset(partition).await?;
        let next = to.copied_to(from.topic_id(), partition).await?.unwrap_or(first);
        parts.push(Mirrored { partition, records: 0, next, end: from.end_offset(partition).await? });
    }
    let total: u64 = parts.iter().map(|part| part.end.abs_diff(part.next)).sum();
    let mut copied = 0;
    for part in &mut parts {
        while part.next < part.end && !cancel.is_cancelled() {
            for item in from.read(part.partition, part.next, READ_RECORDS).await? {
                if let ReadItem::Batch(batch) = &item {
                    to.append_copy(from.topic_id(), batch).await?;
                    part.records += batch.len() as u64;
                    copied += batch.len() as u64;
                    told(copied, total.max(copied));
                }
                part.next = item.end();
            }
        }
    }
    Ok(parts)
}

/// Lets the tables follow the copy: nobody may write either log or fold it meanwhile, and `from` is not followed any
/// more afterwards. May be repeated. The versions with the copy's progress. `told` hears (records compared, of all).
///
/// # Errors
/// [`Error::NotMirrored`] where the copy is not what the log is; where the tables follow neither; where a log, the
/// registry or the lake fails.
pub async fn cutover(
    from: &dyn EventLog,
    to: &dyn CopyTarget,
    lake: &Lake,
    registry: &Registry,
    told: &(dyn Fn(u64, u64) + Sync),
) -> Result<Vec<(TableName, u64)>, Error> {
    require_equal_partitions(from, to)?;
    let partitions: Vec<Partition> = (0..from.partitions()).collect();
    // The copy has gone its own way since.
    if !lake.is_following(to.topic_id()).await? {
        compare(from, to, &partitions, told).await?;
        to.finish_copy(from).await?;
        registry.copy_assignments(from.topic_id(), to.topic_id()).await?;
    }
    Ok(lake.follow(from.topic_id(), to.topic_id(), &partitions).await?)
}

/// Makes sure that a copy is what the log is, record by record.
async fn compare(
    from: &dyn EventLog,
    to: &dyn CopyTarget,
    partitions: &[Partition],
    told: &(dyn Fn(u64, u64) + Sync),
) -> Result<(), Error> {
    let mut total = 0;
    for partition in partitions {
        total += from.end_offset(*partition).await?.abs_diff(from.first_offset(*partition).await?);
    }
    let mut compared = 0;
    for partition in partitions {
        let mut next = from.first_offset(*partition).await?;
        loop {
            let ours = from.read(*partition, next, READ_RECORDS).await?;
            let Some(end) = ours.last().map(ReadItem::end) else { break };
            let theirs = read_to(to, *partition, next, end).await?;
            let differing = first_difference(&ours, &theirs);
            if let Some(offset) = differing {
                return Err(Error::NotMirrored { partition: *partition, offset });
            }
            compared += end.abs_diff(next);
            told(compared, total.max(compared));
            next = end;
        }
    }
    Ok(())
}

fn require_equal_partitions(from: &dyn EventLog, to: &dyn CopyTarget) -> Result<(), Error> {
    let (ours, theirs) = (from.partitions(), to.partitions());
    if ours == theirs {
        return Ok(());
    }
    let text =
        format!("the log has {ours} partitions and the copy {theirs}: offsets are copied partition by partition");
    Err(Error::Invalid(text))
}

/// The items of a partition from an offset to another, as far as there are any.
async fn read_to(log: &dyn CopyTarget, partition: Partition, from: Offset, to: Offset) -> Result<Vec<ReadItem>, Error> {
    let (mut items, mut next) = (Vec::new(), from);
    while next < to {
        let mut read = log.read(partition, next, READ_RECORDS).await?;
        let Some(end) = read.last().map(ReadItem::end) else { break };
        if let Some(ReadItem::Batch(batch)) = read.last_mut() {
            batch.truncate_at(to);
        }
        items.append(&mut read);
        next = end;
    }
    Ok(items)
}

/// The first offset whose records differ, or that only one side has.
fn first_difference(ours: &[ReadItem], theirs: &[ReadItem]) -> Option<Offset> {
    let (mut ours, mut theirs) = (records(ours), records(theirs));
    loop {
        match (ours.next(), theirs.next()) {
            (None, None) => return None,
            (Some(one), Some(other)) if one == other => {}
            (Some(one), Some(other)) => return Some(one.offset.min(other.offset)),
            (Some(one), None) | (None, Some(one)) => return Some(one.offset),
        }
    }
}

fn records(items: &[ReadItem]) -> impl Iterator<Item = RawRecord<'_>> {
    let batches = items.iter().filter_map(|item| match item {
        ReadItem::Batch(batch) => Some(batch),
        ReadItem::Gap { .. } => None,
    });
    batches.flat_map(streams::LogBatch::records)
}
