//! One slice of a backfill: archived rows become events, and what is derived from them is folded again.
//!
//! `events` is committed first and then the derived tables, each under the slice's id: whatever was interrupted is
//! finished by doing the slice again, and what was committed is never done twice. Derived rows are made from `events`
//! alone, as verify makes them.

use std::{collections::BTreeMap, collections::HashSet, ops::Range};

use domain::{FeatureRow, Symbol, Timestamp, WindowRow, time::MICROS};
use lake::{
    Lake, TableName,
    archive::Kline,
    compare::{Comparison, Key},
    epochs::{FreshStarts, LogStart},
    read::Pinned,
    replace::{BackgroundWriter, Replaced, Replacement},
    rows::KlineRow,
    truth::Extent,
};
use tokio_util::sync::CancellationToken;

use super::{
    decode::{Decoded, decode},
    merge::merge,
    plan::{folded_end, folded_range, lacks_derived, stored_events, successor_range},
    scan::Grade,
    sweep::{BlockOf, Sweep},
};
use crate::{
    error::Error,
    refold::{MadeAgain, SymbolFold},
};

/// A successor this close is folded again together with the slice.
const CLOSE_MICROS: i64 = 3_600 * MICROS;

/// Derived rows of the last minutes of a slice are in a file of their own, since the next slice replaces them.
const TAIL_MICROS: i64 = 120 * MICROS;

/// How often a slice starts over because another replacement was faster.
const MAX_ATTEMPTS: u32 = 5;

/// A slice to be done.
pub struct SliceJob<'a> {
    /// The tables.
    pub lake: &'a Lake,
    /// What no other slice has.
    pub id: String,
    /// The market.
    pub symbol: Symbol,
    /// Half-open event time, whole minutes.
    pub range: Range<Timestamp>,
    /// What its rows are.
    pub grade: Grade,
    /// Where archived rows of it are.
    pub blocks: Vec<BlockOf>,
    /// Where the log makes the symbol start afresh.
    pub starts: &'a [LogStart],
    /// The committed watermark of the log's events.
    pub watermark: Option<Timestamp>,
    /// `ingest_time` of what it adds.
    pub now: Timestamp,
    /// Ends it between two batches.
    pub cancel: &'a CancellationToken,
    /// Hears of archived rows that were taken in.
    pub told: &'a (dyn Fn(u64) + Sync),
}

/// What a slice did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SliceReport {
    /// Archived rows read.
    pub read: u64,
    /// Rows that were not stored before.
    pub added: u64,
    /// Whether it was told to end before it was done.
    pub cancelled: bool,
}

impl SliceJob<'_> {
    /// Does what is not done yet.
    ///
    /// # Errors
    /// Where a file or a table cannot be read or written.
    pub async fn run(&self) -> Result<SliceReport, Error> {
        if self.grade == Grade::Klines {
            return self.put_klines().await;
        }
        let mut report = SliceReport::default();
        if !self.lake.has_replaced(TableName::Events, &self.id).await? {
            report = self.put_events().await?;
            if report.cancelled || (report.added == 0 && !self.lacks_derived().await?) {
                return Ok(report);
            }
        }
        self.fold_again().await?;
        report.cancelled = self.cancel.is_cancelled();
        Ok(report)
    }

    async fn lacks_derived(&self) -> Result<bool, Error> {
        let events = self.lake.pin(TableName::Events).await?.count_in(self.symbol, &self.range).await?;
        lacks_derived(self.lake, self.symbol, &self.range, events).await
    }

    /// Merges archived events with stored ones and commits them.
    async fn put_events(&self) -> Result<SliceReport, Error> {
        for _ in 0..MAX_ATTEMPTS {
            let replacement = self.lake.replacement(TableName::Events, self.symbol, self.range.clone()).await?;
            let events = self.lake.pin(TableName::Events).await?;
            let (mut replacement, report) = self.write_events(&events, replacement).await?;
            if report.cancelled || report.added == 0 {
                replacement.abandon().await;
                return Ok(report);
            }
            match self.lake.replace(replacement, &self.id).await? {
                Replaced::Committed { .. } | Replaced::AlreadyApplied => return Ok(report),
                Replaced::Outdated => {}
            }
        }
        Err(Error::Invalid(format!("other backfills of {} never rest: try again when they are done", self.symbol)))
    }

    async fn write_events(
        &self,
        events: &Pinned,
        replacement: Replacement,
    ) -> Result<(Replacement, SliceReport), Error> {
        let mut report = SliceReport::default();
        let has_stored = events.count_in(self.symbol, &self.range).await? > 0;
        let mut sweep = Sweep::new(self.symbol, self.range.clone(), self.blocks.clone());
        let mut writer = replacement.in_background();
        while let Some((part, found)) = sweep.next().await? {
            if self.cancel.is_cancelled() {
                report.cancelled = true;
                break;
            }
            let stored = if has_stored { stored_events(events, self.symbol, &part).await? } else { Vec::new() };
            let (read, now) = (found.len() as u64, self.now);
            let merged = tokio::task::spawn_blocking(move || merge(stored, found, now)).await?;
            report.read += read;
            report.added += merged.added;
            (self.told)(read);
            writer.add(merged.rows, |row| row).await?;
        }
        Ok((writer.end().await?, report))
    }

    /// Folds the events again whose rows the slice changes, and commits those rows.
    async fn fold_again(&self) -> Result<(), Error> {
        let events = self.lake.pin(TableName::Events).await?;
        let end = folded_end(&events, self.symbol, &self.range).await?;
        if let Some(watermark) = self.watermark.filter(|watermark| end > *watermark) {
            return Err(Error::Invalid(format!(
                "the events after the slice are folded again up to {end}, and those in the log have reached {watermark} \
                 only: resume when they are past it"
            )));
        }
        let near = folded_range(&self.range);
        match successor_range(&events, self.symbol, &self.range).await? {
            Some(successor) if successor.end > near.end => {
                if successor.start <= near.end.plus_micros(CLOSE_MICROS) {
                    self.fold_range(&events, near.start..successor.end, &self.id).await?;
                } else {
                    self.fold_range(&events, near, &self.id).await?;
                    self.fold_range(&events, successor, &format!("{}/successor", self.id)).await?;
                }
            }
            _ => self.fold_range(&events, near, &self.id).await?,
        }
        Ok(())
    }

    async fn fold_range(&self, events: &Pinned, range: Range<Timestamp>, id: &str) -> Result<(), Error> {
        let done = [
            self.lake.has_replaced(TableName::Features, id).await?,
            self.lake.has_replaced(TableName::Windows, id).await?,
        ];
        if done == [true; 2] {
            return Ok(());
        }
        let features = self.lake.replacement(TableName::Features, self.symbol, range.clone()).await?;
        let mut windows = self.lake.replacement(TableName::Windows, self.symbol, range.clone()).await?;
        let mut minutes = HashSet::new();
        let starts = events.resolved_starts(self.symbol, self.starts).await?;
        let extent = Extent { from: Some(range.start), to: Some(range.end), next: i64::MAX };
        let mut known = Known::new(self.lake, self.symbol, &extent, &starts).await?;
        let mut fold = SymbolFold::from_starts(events, self.symbol, extent, starts).await?;
        let mut writer = features.in_background();
        while let Some(mut made) = fold.next().await? {
            if self.cancel.is_cancelled() {
                writer.end().await?.abandon().await;
                windows.abandon().await;
                return Ok(());
            }
            known.date(&mut made, self.now).await?;
            minutes.extend(made.windows.iter().map(|(_, row)| row.window_start));
            windows.add(&made.windows.iter().map(|(_, row)| row).collect::<Vec<_>>()).await?;
            self.write_features(&mut writer, made.features).await?;
        }
        self.keep_klines(&mut windows, &range, &minutes).await?;
        self.commit(writer.end().await?, id).await?;
        self.commit(windows, id).await
    }

    async fn write_features(
        &self,
        writer: &mut BackgroundWriter,
        mut rows: Vec<(Key, FeatureRow)>,
    ) -> Result<(), Error> {
        let tail = self.range.end.plus_micros(-TAIL_MICROS);
        let of_tail = rows.split_off(rows.partition_point(|(_, row)| row.timestamp < tail));
        let is_cut = !rows.is_empty() && !of_tail.is_empty();
        writer.add(rows, |(_, row)| row).await?;
        if is_cut {
            writer.close_file().await?;
        }
        Ok(writer.add(of_tail, |(_, row)| row).await?)
    }

    /// Keeps the klines of minutes that nothing was folded in.
    async fn keep_klines(
        &self,
        windows: &mut Replacement,
        range: &Range<Timestamp>,
        folded: &HashSet<Timestamp>,
    ) -> Result<(), Error> {
        let stored = self.lake.pin(TableName::Windows).await?;
        for batch in stored.klines_in(self.symbol, range, folded).await? {
            windows.add_batch(batch).await?;
        }
        Ok(())
    }

    /// Puts klines where no window is.
    async fn put_klines(&self) -> Result<SliceReport, Error> {
        let mut report = SliceReport::default();
        if self.lake.has_replaced(TableName::Windows, &self.id).await? {
            return Ok(report);
        }
        let (read, klines) = self.archived_klines().await?;
        (self.told)(read);
        report.read = read;
        for _ in 0..MAX_ATTEMPTS {
            let mut replacement = self.lake.replacement(TableName::Windows, self.symbol, self.range.clone()).await?;
            let stored = self.lake.pin(TableName::Windows).await?;
            let minutes = stored.window_starts_in(self.symbol, &self.range).await?;
            let new: Vec<KlineRow> = klines
                .iter()
                .filter(|(start, _)| !minutes.contains(start))
                .map(|(_, kline)| KlineRow { kline: kline.clone(), ingest_time: self.now })
                .collect();
            report.added = new.len() as u64;
            if new.is_empty() {
                return Ok(report);
            }
            replacement.add(&new.iter().collect::<Vec<_>>()).await?;
            for batch in stored.windows_in(self.symbol, &self.range).await? {
                replacement.add_batch(batch).await?;
            }
            match self.lake.replace(replacement, &self.id).await? {
                Replaced::Committed { .. } | Replaced::AlreadyApplied => return Ok(report),
                Replaced::Outdated => {}
            }
        }
        Err(Error::Invalid(format!("other backfills of {} never rest: try again when they are done", self.symbol)))
    }

    /// Klines by their minutes; of two for one minute the first by file and line counts.
    async fn archived_klines(&self) -> Result<(u64, BTreeMap<Timestamp, Kline>), Error> {
        let (mut read, mut klines) = (0, BTreeMap::new());
        let mut blocks = self.blocks.clone();
        blocks.sort_by_key(|block| (block.number, block.block));
        for BlockOf { file, block, .. } in blocks {
            let decoded = tokio::task::spawn_blocking(move || decode(&file, block)).await??;
            let Decoded::Klines(rows) = decoded.rows else { continue };
            for row in rows.into_iter().filter(|row| row.symbol == self.symbol && self.range.contains(&row.open_time)) {
                read += 1;
                klines.entry(row.open_time).or_insert(row);
            }
        }
        Ok((read, klines))
    }

    async fn commit(&self, replacement: Replacement, id: &str) -> Result<(), Error> {
        match self.lake.replace(replacement, id).await? {
            Replaced::Committed { .. } | Replaced::AlreadyApplied => Ok(()),
            Replaced::Outdated => Err(Error::Invalid(format!(
                "another backfill of {} was faster: resume this one when it is done",
                self.symbol
            ))),
        }
    }
}

/// What is stored of the rows that are made again: a row that does not change keeps the time since when it is known, and
/// one that does is known since now.
struct Known {
    features: Comparison,
    windows: Comparison,
}

impl Known {
    async fn new(lake: &Lake, symbol: Symbol, extent: &Extent, starts: &FreshStarts) -> Result<Self, Error> {
        let (features, windows) = (lake.pin(TableName::Features).await?, lake.pin(TableName::Windows).await?);
        Ok(Self {
            features: Comparison::begin::<FeatureRow>(&features, symbol, extent, starts).await?,
            windows: Comparison::begin::<WindowRow>(&windows, symbol, extent, starts).await?,
        })
    }

    async fn date(&mut self, made: &mut MadeAgain, now: Timestamp) -> Result<(), Error> {
        let since = self.features.known_since(&made.features).await?;
        for ((_, row), since) in made.features.iter_mut().zip(since) {
            row.ingest_time = since.unwrap_or(now);
        }
        let since = self.windows.known_since(&made.windows).await?;
        for ((_, row), since) in made.windows.iter_mut().zip(since) {
            row.ingest_time = since.unwrap_or(now);
        }
        Ok(())
    }
}
