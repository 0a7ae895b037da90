//! How sure a measurement on labelled rows is: intervals by a block bootstrap, beside the numbers of `metrics`.
//!
//! Rows that lie close in time resemble each other, an episode is many rows, so whole blocks of time are drawn with
//! replacement and not single rows. Deterministic for (rows, seed), whatever the number of threads.

#![allow(clippy::cast_precision_loss, reason = "row counts are far below 2^53")]

use std::collections::BTreeMap;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use rayon::prelude::*;

use crate::{error::Error, quantile};

/// How often the rows are drawn anew.
pub const RESAMPLES: u64 = 500;

/// The quantiles between which the values of 95 % of the draws lie.
const EDGES: [f64; 2] = [0.025, 0.975];

/// Labelled rows, as columns of equal length.
#[derive(Clone, Copy, Debug)]
pub struct Labelled<'a> {
    /// Decision functions: the lowest is the most anomalous.
    pub scores: &'a [f64],
    /// Whether a row is called an anomaly.
    pub verdicts: &'a [bool],
    /// Whether it is one.
    pub labels: &'a [bool],
    /// Of which type it is; looked at where the label is true, those without a type stand under the empty name.
    pub types: &'a [Option<&'a str>],
    /// The block of time that it lies in, any number.
    pub blocks: &'a [i64],
}

/// The least and the greatest value that 95 % of the draws give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The least.
    pub low: f64,
    /// The greatest.
    pub high: f64,
}

/// Intervals of the numbers of [`crate::metrics::Evaluation`]; none, where a number has no value in most draws.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Intervals {
    /// Of the precision.
    pub precision: Option<Interval>,
    /// Of the recall.
    pub recall: Option<Interval>,
    /// Of their harmonic mean.
    pub f1: Option<Interval>,
    /// Of the area under the precision-recall curve.
    pub average_precision: Option<Interval>,
    /// Of the recall by type of anomaly.
    pub recall_by_type: BTreeMap<String, Interval>,
}

/// Draws blocks of rows anew and says between which values the measurements lie.
///
/// Source: Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, percentile intervals.
///
/// # Errors
/// [`Error::Evaluation`] where the columns have different lengths or a score is NaN.
pub fn intervals(rows: &Labelled<'_>, seed: u64) -> Result<Intervals, Error> {
    let Labelled { scores, verdicts, labels, types, blocks } = *rows;
    if [verdicts.len(), labels.len(), types.len(), blocks.len()].iter().any(|length| *length != scores.len()) {
        return Err(Error::Evaluation { reason: "the columns have different lengths" });
    }
    if scores.iter().any(|score| score.is_nan()) {
        return Err(Error::Evaluation { reason: "a score is not a number" });
    }
    let sums = Sums::of(rows);
    if sums.blocks.len() < 2 {
        return Ok(Intervals::default());
    }
    let drawn: Vec<Vec<Option<f64>>> = (0..RESAMPLES).into_par_iter().map(|draw| sums.draw(seed, draw)).collect();
    let interval = |place: usize| {
        let values: Vec<f64> = drawn.iter().filter_map(|values| values[place]).collect();
        let ascending = quantile::sorted(&values);
        let [low, high] = EDGES.map(|edge| quantile::of_sorted(&ascending, edge));
        let is_known = values.len() as u64 > RESAMPLES / 2;
        low.zip(high).filter(|_| is_known).map(|(low, high)| Interval { low, high })
    };
    let by_type = sums.types.iter().enumerate();
    Ok(Intervals {
        precision: interval(0),
        recall: interval(1),
        f1: interval(2),
        average_precision: interval(3),
        recall_by_type: by_type.filter_map(|(at, name)| Some(((*name).to_owned(), interval(4 + at)?))).collect(),
    })
}

/// What a block adds to the counts.
#[derive(Clone, Default)]
struct Block {
    true_positives: u64,
    called: u64,
    labelled: u64,
    /// By type: labelled rows and those called anomalies.
    by_type: Vec<(u64, u64)>,
}

/// Rows as far as a draw needs them.
struct Sums<'a> {
    blocks: Vec<Block>,
    types: Vec<&'a str>,
    /// By ascending score: the place of the row's block, its label, and whether the next row has the same score.
    ranked: Vec<(u32, bool, bool)>,
}

impl<'a> Sums<'a> {
    fn of(rows: &Labelled<'a>) -> Self {
        let Labelled { scores, verdicts, labels, types, blocks } = *rows;
        let labelled = types.iter().zip(labels).filter(|(_, label)| **label);
        let mut names: Vec<&str> = labelled.map(|(name, _)| name.unwrap_or_default()).collect();
        names.sort_unstable();
        names.dedup();
        let mut numbers = blocks.to_vec();
        numbers.sort_unstable();
        numbers.dedup();
        let place = |block: &i64| numbers.partition_point(|number| number < block);
        let mut sums = vec![Block { by_type: vec![(0, 0); names.len()], ..Block::default() }; numbers.len()];
        for (row, block) in blocks.iter().enumerate() {
            let sum = &mut sums[place(block)];
            sum.called += u64::from(verdicts[row]);
            if labels[row] {
                sum.labelled += 1;
                sum.true_positives += u64::from(verdicts[row]);
                let name = types[row].unwrap_or_default();
                let of_type = &mut sum.by_type[names.partition_point(|known| *known < name)];
                of_type.0 += 1;
                of_type.1 += u64::from(verdicts[row]);
            }
        }
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_unstable_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        let ranked = order.iter().enumerate().map(|(rank, row)| {
            let is_tied = order.get(rank + 1).is_some_and(|next| scores[*next] == scores[*row]);
            (u32::try_from(place(&blocks[*row])).unwrap_or(u32::MAX), labels[*row], is_tied)
        });
        Self { blocks: sums, types: names, ranked: ranked.collect() }
    }

    /// Precision, recall, F1, area, and the recall of each type, of one draw.
    fn draw(&self, seed: u64, draw: u64) -> Vec<Option<f64>> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(draw);
        let mut weights = vec![0_u64; self.blocks.len()];
        for _ in 0..self.blocks.len() {
            let place = (u128::from(random.next_u64()) * self.blocks.len() as u128) >> 64;
            weights[usize::try_from(place).unwrap_or_default()] += 1;
        }
        let sum = |of: &dyn Fn(&Block) -> u64| self.blocks.iter().zip(&weights).map(|(block, w)| of(block) * w).sum();
        let hits: u64 = sum(&|block| block.true_positives);
        let called: u64 = sum(&|block| block.called);
        let labelled: u64 = sum(&|block| block.labelled);
        let mut values = vec![
            ratio(hits, called),
            ratio(hits, labelled),
            ratio(2 * hits, called + labelled),
            self.average_precision(&weights, labelled),
        ];
        for place in 0..self.types.len() {
            values.push(ratio(sum(&|block| block.by_type[place].1), sum(&|block| block.by_type[place].0)));
        }
        values
    }

    /// [`crate::metrics::average_precision`] of rows that count as often as their block was drawn.
    fn average_precision(&self, weights: &[u64], labelled: u64) -> Option<f64> {
        if labelled == 0 {
            return None;
        }
        let (mut rows, mut hits, mut gained, mut area) = (0_u64, 0_u64, 0_u64, 0.0);
        for (block, label, is_tied) in &self.ranked {
            let weight = weights[*block as usize];
            rows += weight;
            gained += if *label { weight } else { 0 };
            if !is_tied && gained > 0 {
                hits += gained;
                area += hits as f64 / rows as f64 * (gained as f64 / labelled as f64);
                gained = 0;
            }
        }
        Some(area)
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;

    /// 40 blocks of 25 rows; the first row of every block is an anomaly that lies low, of two blocks out of three.
    struct Rows {
        scores: Vec<f64>,
        verdicts: Vec<bool>,
        labels: Vec<bool>,
        types: Vec<Option<&'static str>>,
        blocks: Vec<i64>,
    }

    impl Rows {
        fn new() -> Self {
            let mut rows = Self { scores: vec![], verdicts: vec![], labels: vec![], types: vec![], blocks: vec![] };
            for row in 0..1_000_u32 {
                let (block, place) = (row / 25, row % 25);
                let (is_anomaly, is_found) = (place == 0, block % 3 > 0);
                // The noise is a permutation of 0 to 999.
                let noise = f64::from(row * 577 % 1_000) / 1_000.0;
                let score = if is_anomaly && is_found { noise - 0.8 } else { noise - 0.01 };
                rows.scores.push(score);
                rows.verdicts.push(score < 0.0);
                rows.labels.push(is_anomaly);
                rows.types.push(Some(if block % 2 == 0 { "PRICE_SPIKE" } else { "VOLUME_SPIKE" }));
                rows.blocks.push(i64::from(block) - 7);
            }
            rows
        }

        fn labelled(&self) -> Labelled<'_> {
            let Self { scores, verdicts, labels, types, blocks } = self;
            Labelled { scores, verdicts, labels, types, blocks }
        }
    }

    #[test]
    fn the_measured_values_lie_within_their_intervals() {
        let rows = Rows::new();
        let found = intervals(&rows.labelled(), 42).unwrap();
        let measured = metrics::evaluate(&rows.scores, &rows.verdicts, &rows.labels, &rows.types).unwrap();
        let pairs = [
            (found.precision, measured.confusion.precision()),
            (found.recall, measured.confusion.recall()),
            (found.f1, measured.confusion.f1()),
            (found.average_precision, measured.average_precision),
            (found.recall_by_type.get("PRICE_SPIKE").copied(), measured.by_type["PRICE_SPIKE"].recall()),
        ];
        for (interval, value) in pairs {
            let (interval, value) = (interval.unwrap(), value.unwrap());
            assert!(interval.low < value && value < interval.high, "{value} in {interval:?}");
        }
    }

    /// A share of 40 independent blocks has the deviation sqrt(p (1 - p) / 40); 95 % lie within 1.96 of them.
    #[test]
    fn an_interval_is_as_wide_as_theory_says() {
        let rows = Rows::new();
        let recall = metrics::Confusion::count(&rows.labels, &rows.verdicts).unwrap().recall().unwrap();
        let interval = intervals(&rows.labelled(), 42).unwrap().recall.unwrap();
        let expected = 2.0 * 1.96 * (recall * (1.0 - recall) / 40.0).sqrt();
        let width = interval.high - interval.low;
        assert!((width / expected - 1.0).abs() < 0.15, "{width} where {expected} is expected");
    }

    #[test]
    fn a_draw_of_every_block_once_is_the_measurement_itself() {
        let rows = Rows::new();
        let labelled = rows.labels.iter().filter(|label| **label).count() as u64;
        let area = Sums::of(&rows.labelled()).average_precision(&[1; 40], labelled).unwrap();
        let measured = metrics::average_precision(&rows.scores, &rows.labels).unwrap().unwrap();
        assert!((area - measured).abs() < 1e-12, "{area} {measured}");
    }

    #[test]
    fn the_same_seed_draws_the_same_and_one_block_says_nothing() {
        let rows = Rows::new();
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let found = intervals(&rows.labelled(), 7).unwrap();
        assert_eq!(alone.install(|| intervals(&rows.labelled(), 7)).unwrap(), found);
        assert_ne!(intervals(&rows.labelled(), 8).unwrap(), found);
        let one = vec![0; rows.blocks.len()];
        let rows = Labelled { blocks: &one, ..rows.labelled() };
        assert_eq!(intervals(&rows, 7).unwrap(), Intervals::default());
        assert!(intervals(&Labelled { blocks: &[], ..rows }, 7).is_err());
    }
}
