//! Archived trades of one symbol and one range, in order of time, from blocks that lie in any order.
//!
//! Blocks are read in the order of their first times. What is older than everything unread is given out; whole seconds
//! stay together, so that trades whose times are given to the millisecond and to the microsecond meet. Where rows lie so
//! far out of order that too many would wait, the later half is dropped and read again: memory stays flat, whatever the
//! order. Nothing is judged here.

use std::{collections::HashSet, ops::Range, sync::Arc};

use domain::{Symbol, Timestamp, time::MICROS};
use lake::archive::{ArchiveFile, Archived};
use tokio::task::JoinHandle;

use super::decode::{Decoded, DecodedBlock, decode};
use crate::error::Error;

/// Rows that are given out together, about: blocks are read until so many are complete.
const ROWS: usize = 65_536;

/// Rows that wait at most.
const MAX_ROWS: usize = 1_200_000;

/// A block that holds rows of the symbol and the range.
#[derive(Clone, Debug)]
pub struct BlockOf {
    /// The file.
    pub file: Arc<ArchiveFile>,
    /// Its place among all files, by path.
    pub number: usize,
    /// The block.
    pub block: usize,
    /// The first time of the symbol's rows in it.
    pub first: Timestamp,
    /// The last one.
    pub last: Timestamp,
}

/// An archived trade and the file it is from.
#[derive(Clone, Debug)]
pub struct Found {
    /// The file's place among all files.
    pub file: usize,
    /// The trade.
    pub row: Archived,
}

/// The sweep over a range.
pub struct Sweep {
    symbol: Symbol,
    /// What is not given out yet.
    range: Range<Timestamp>,
    /// By their first times.
    blocks: Vec<BlockOf>,
    /// Blocks whose rows wait.
    held: HashSet<usize>,
    waiting: Vec<Found>,
    /// The block that is decoded while the rows before it are used.
    ahead: Option<(usize, Decoding)>,
    /// [`ROWS`] and [`MAX_ROWS`]; fewer in tests.
    enough: usize,
    most: usize,
}

type Decoding = JoinHandle<Result<DecodedBlock, Error>>;

impl Sweep {
    /// A sweep over the rows of a symbol in a half-open range; `blocks` are all that hold any.
    #[must_use]
    pub fn new(symbol: Symbol, range: Range<Timestamp>, mut blocks: Vec<BlockOf>) -> Self {
        blocks.retain(|block| block.first < range.end && block.last >= range.start);
        blocks.sort_by_key(|block| (block.first, block.number, block.block));
        let (held, waiting, ahead) = (HashSet::new(), Vec::new(), None);
        Self { symbol, range, blocks, held, waiting, ahead, enough: ROWS, most: MAX_ROWS }
    }

    /// The next part of the range and its rows, by time and id; `None` at the end of the range.
    ///
    /// # Errors
    /// Where a file cannot be read, or too many rows share one second.
    pub async fn next(&mut self) -> Result<Option<(Range<Timestamp>, Vec<Found>)>, Error> {
        if self.range.is_empty() {
            return Ok(None);
        }
        let mut end = self.range.end;
        let mut dropped = false;
        let mut number = 0;
        while number < self.blocks.len() {
            let first = self.blocks[number].first;
            if first >= end {
                break;
            }
            if self.waiting.len() >= self.enough && second_of(first) > self.range.start {
                end = end.min(second_of(first));
                break;
            }
            if !self.held.contains(&number) && self.blocks[number].last >= self.range.start {
                self.hold(number, end).await?;
                if self.waiting.len() > self.most {
                    end = self.halve(end)?;
                    dropped = true;
                }
            }
            number += 1;
        }
        let start = std::mem::replace(&mut self.range.start, end);
        let mut ready = std::mem::take(&mut self.waiting);
        if dropped {
            // What lies beyond the end is read again, with what was dropped.
            self.held.clear();
            ready.retain(|found| found.row.event.timestamp < end);
        } else {
            self.waiting = ready.extract_if(.., |found| found.row.event.timestamp >= end).collect();
        }
        ready.sort_by_key(|found| (found.row.event.timestamp, found.row.event.trade_id, found.file, found.row.place));
        Ok(Some((start..end, ready)))
    }

    /// Reads a block and keeps what is of the symbol, below `end` and not given out yet.
    async fn hold(&mut self, number: usize, end: Timestamp) -> Result<(), Error> {
        let of = self.blocks[number].number;
        let (symbol, start) = (self.symbol, self.range.start);
        let keep_all = end == self.range.end;
        let Decoded::Trades(rows) = self.decoded(number).await?.rows else { return Ok(()) };
        let wanted = rows.into_iter().filter(|row| {
            let time = row.event.timestamp;
            row.event.symbol == symbol && time >= start && (keep_all || time < end)
        });
        self.waiting.extend(wanted.map(|row| Found { file: of, row }));
        self.held.insert(number);
        Ok(())
    }

    /// A block's rows; the decoding of the one after it is begun.
    async fn decoded(&mut self, number: usize) -> Result<DecodedBlock, Error> {
        let decoding = match self.ahead.take() {
            Some((ahead, decoding)) if ahead == number => decoding,
            _ => self.begin_to_decode(number),
        };
        let next = (number + 1..self.blocks.len()).find(|next| !self.held.contains(next));
        self.ahead = next.map(|next| (next, self.begin_to_decode(next)));
        decoding.await?
    }

    fn begin_to_decode(&self, number: usize) -> Decoding {
        let BlockOf { file, block, .. } = self.blocks[number].clone();
        tokio::task::spawn_blocking(move || decode(&file, block))
    }

    /// Drops the later half of what waits; the end of what is left.
    fn halve(&mut self, end: Timestamp) -> Result<Timestamp, Error> {
        let middle = self.waiting.len() / 2;
        let (_, median, _) = self.waiting.select_nth_unstable_by_key(middle, |found| found.row.event.timestamp);
        let cut = second_of(median.row.event.timestamp);
        if cut <= self.range.start || cut >= end {
            return Err(Error::Invalid(format!(
                "more than {} rows of {} share the second from {}: such an archive cannot be merged",
                self.most / 2,
                self.symbol,
                self.range.start
            )));
        }
        self.waiting.retain(|found| found.row.event.timestamp < cut);
        Ok(cut)
    }
}

/// The whole second that holds an instant.
const fn second_of(time: Timestamp) -> Timestamp {
    Timestamp::from_micros(time.span(MICROS) * MICROS)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    /// Files of trades given as (id, millisecond), swept: so many rows are enough for a part, and so many may
    /// wait.
    async fn swept(
        files: &[&[(i64, i64)]],
        [enough, most]: [usize; 2],
        range: Range<i64>,
    ) -> Vec<(Range<i64>, Vec<i64>)> {
        let folder = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for (number, rows) in files.iter().enumerate() {
            let mut text = String::new();
            for (id, millis) in *rows {
                let time = 1_710_000_000_000 + millis;
                writeln!(text, "{id},1.5,1,1.5,{time},true,true").unwrap();
            }
            let path = folder.path().join(format!("BTCUSDT-trades-{number:02}.csv"));
            std::fs::write(&path, text).unwrap();
            paths.push(path);
        }
        let opened = lake::archive::open(&paths, &[], folder.path()).await;
        let at = |millis| Timestamp::from_millis(1_710_000_000_000 + millis);
        let blocks = opened.into_iter().enumerate().map(|(number, file)| {
            let times = files[number].iter().map(|(_, millis)| *millis);
            let (first, last) = (at(times.clone().min().unwrap()), at(times.max().unwrap()));
            BlockOf { file: Arc::new(file.unwrap()), number, block: 0, first, last }
        });
        let symbol = Symbol::parse("BTC-USDT").unwrap();
        let mut sweep = Sweep::new(symbol, at(range.start)..at(range.end), blocks.collect());
        (sweep.enough, sweep.most) = (enough, most);
        let mut parts = Vec::new();
        while let Some((part, rows)) = sweep.next().await.unwrap() {
            let millis = |time: Timestamp| time.micros() / 1_000 - 1_710_000_000_000;
            let ids = rows.iter().map(|found| found.row.event.trade_id.unwrap()).collect();
            parts.push((millis(part.start)..millis(part.end), ids));
        }
        parts
    }

    #[tokio::test]
    async fn files_that_overlap_come_out_in_the_order_of_time() {
        let parts =
            swept(&[&[(1, 0), (4, 3_000)], &[(2, 1_000), (3, 1_000)], &[(5, 9_000)]], [100, 100], 0..60_000).await;
        assert_eq!(parts, [(0..60_000, vec![1, 2, 3, 4, 5])]);
        let parts = swept(&[&[(1, 0), (4, 3_000)], &[(2, 1_000), (3, 1_000)]], [100, 100], 1_000..3_000).await;
        assert_eq!(parts, [(1_000..3_000, vec![2, 3])]);
    }

    #[tokio::test]
    async fn rows_far_out_of_order_are_read_again_instead_of_kept() {
        let shuffled: Vec<(i64, i64)> = (0..60).map(|n| ((n * 37) % 60, (n * 37) % 60 * 1_000)).collect();
        let parts = swept(&[&shuffled[..30], &shuffled[30..]], [100, 16], 0..60_000).await;
        assert!(parts.len() > 3, "{parts:?}");
        assert!(parts.iter().all(|(_, ids)| ids.len() <= 16), "{parts:?}");
        let ids: Vec<i64> = parts.iter().flat_map(|(_, ids)| ids.clone()).collect();
        assert_eq!(ids, (0..60).collect::<Vec<_>>());
        assert!(parts.windows(2).all(|pair| pair[0].0.end == pair[1].0.start), "no time is left out");
    }

    #[tokio::test]
    async fn rows_of_a_shuffled_archive_are_given_out_once() {
        let shuffled: Vec<(i64, i64)> = (0..600).map(|n| ((n * 371) % 600, (n * 371) % 600 * 100)).collect();
        let files: Vec<&[(i64, i64)]> = shuffled.chunks(30).collect();
        for room in [[10, 45], [40, 100], [100, 100], [100, 1_000]] {
            let parts = swept(&files, room, 0..60_000).await;
            let ids: Vec<i64> = parts.iter().flat_map(|(_, ids)| ids.clone()).collect();
            assert_eq!(ids, (0..600).collect::<Vec<_>>(), "{room:?}");
        }
    }

    #[tokio::test]
    async fn times_of_one_second_stay_together() {
        let parts = swept(&[&[(1, 0), (2, 900)], &[(1, 999), (3, 1_000)]], [100, 100], 0..2_000).await;
        assert_eq!(parts.len(), 1);
    }
}
