//! Folding without keeping rows: to rebuild a state, or to learn what becomes of records.

use std::ops::Range;

use domain::{Fate, FateCounts, Fold, Offset, Output, Partition};
use lake::{Lake, recall::Memory};
use streams::{EventLog, LogBatch, ReadItem, codec};

use tracing::info;

use crate::error::Error;

/// Records read at a time.
const READ_RECORDS: usize = 50_000;

/// Offsets that the tables are asked about at a time.
const RECALLED_OFFSETS: Offset = 100_000;

/// Per partition, the fold that reproduces the state that records appended from now on will meet.
///
/// # Errors
/// Where the lake cannot be read.
pub async fn replaying_folds(log: &dyn EventLog, lake: &Lake) -> Result<Vec<Fold>, Error> {
    let mut folds = Vec::new();
    for partition in 0..log.partitions() {
        let replay = lake.progress(log.topic_id(), partition).await?.replay;
        folds.push(Fold::with_floors(partition, replay, lake.floors(partition, replay).await?));
    }
    Ok(folds)
}

/// What the stream job has made, or will make, of the records in `appended`; `folds` are what [`replaying_folds`]
/// gave before they were appended.
///
/// # Errors
/// Where the log or the lake cannot be read.
pub async fn fates(
    log: &dyn EventLog,
    lake: &Lake,
    folds: Vec<Fold>,
    appended: &[(Partition, Range<Offset>)],
) -> Result<FateCounts, Error> {
    let mut counts = FateCounts::default();
    for fold in folds {
        let of_partition = appended.iter().filter(|(of, _)| *of == fold.partition());
        let ranges: Vec<_> = of_partition.map(|(_, range)| range.clone()).collect();
        let Some(end) = ranges.iter().map(|range| range.end).max() else { continue };
        let seen = (FateCounts::default(), ranges);
        let (_, (of_partition, _)) = fold_silently(log, lake, fold, end, seen, |(counts, ranges), offset, fate| {
            if ranges.iter().any(|range| range.contains(&offset)) {
                counts.count(fate);
            }
        })
        .await?;
        counts.add(&of_partition);
    }
    Ok(counts)
}

/// Folds up to `end` and drops the rows; `note` takes every record's fate into `seen`. Of records that the log has lost,
/// the tables tell.
pub(super) async fn fold_silently<S: Send + 'static>(
    log: &dyn EventLog,
    lake: &Lake,
    mut fold: Fold,
    end: Offset,
    mut seen: S,
    note: fn(&mut S, Offset, Fate),
) -> Result<(Fold, S), Error> {
    while fold.next() < end {
        let wanted = usize::try_from(end - fold.next()).unwrap_or(READ_RECORDS).min(READ_RECORDS);
        for item in log.read(fold.partition(), fold.next(), wanted).await? {
            match item {
                ReadItem::Batch(mut batch) => {
                    (fold, seen) = tokio::task::spawn_blocking(move || {
                        batch.truncate_at(end);
                        fold_batch(&mut fold, &batch, &mut Output::default(), |offset, fate| {
                            note(&mut seen, offset, fate);
                        });
                        (fold, seen)
                    })
                    .await?;
                }
                ReadItem::Gap { partition, from, to, .. } => {
                    let to = to.min(end);
                    info!(partition, from, to, "the log has lost these offsets; the tables tell what they were");
                    let memory = lake.memory().await?;
                    while fold.next() < to {
                        (fold, _) = recall(&memory, fold, to).await?;
                    }
                }
            }
        }
    }
    Ok((fold, seen))
}

/// Takes in what the tables tell of the next offsets below `end`, so many as fit into memory; and the rows that follow.
pub(super) async fn recall(memory: &Memory, mut fold: Fold, end: Offset) -> Result<(Fold, Output), Error> {
    let to = end.min(fold.next() + RECALLED_OFFSETS);
    let rows = memory.recall(fold.partition(), fold.next()..to).await?;
    let recalled = tokio::task::spawn_blocking(move || {
        let mut out = Output::default();
        for row in rows {
            fold.recall(row, &mut out);
        }
        fold.skip_to(to);
        (fold, out)
    });
    Ok(recalled.await?)
}

/// Folds the records of a batch; `met` is told every record's fate.
pub(super) fn fold_batch(fold: &mut Fold, batch: &LogBatch, out: &mut Output, mut met: impl FnMut(Offset, Fate)) {
    for record in batch.records() {
        let decoded = codec::decode(record.key, record.value).map_err(|error| error.to_string());
        met(record.offset, fold.apply(record, decoded, out));
    }
}
