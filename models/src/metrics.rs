//! How good a detector is: on labelled rows by counting, on unlabelled ones by the distribution of its scores.
//!
//! Rows are single events and never point-adjusted: an episode that is found once does not count as found throughout.
//! Scores are decision functions, so the lowest is the most anomalous. A ratio without a denominator is `None`, not 0.

#![allow(clippy::cast_precision_loss, reason = "row counts are far below 2^53")]

use std::collections::BTreeMap;

use crate::{error::Error, quantile};

/// The quantiles that a [`Distribution`] names.
pub const QUANTILES: [f64; 11] = [0.0, 0.0005, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0];

/// Rows by label and verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confusion {
    /// Labelled and called anomalies.
    pub true_positives: u64,
    /// Called anomalies without the label.
    pub false_positives: u64,
    /// Neither labelled nor called anomalies.
    pub true_negatives: u64,
    /// Labelled anomalies that were missed.
    pub false_negatives: u64,
}

impl Confusion {
    /// Counts rows; `labels` and `verdicts` are true for anomalies.
    ///
    /// # Errors
    /// [`Error::Evaluation`] where the columns have different lengths.
    pub fn count(labels: &[bool], verdicts: &[bool]) -> Result<Self, Error> {
        same_length(labels.len(), verdicts.len())?;
        let mut confusion = Self::default();
        for pair in labels.iter().zip(verdicts) {
            let cell = match pair {
                (true, true) => &mut confusion.true_positives,
                (false, true) => &mut confusion.false_positives,
                (false, false) => &mut confusion.true_negatives,
                (true, false) => &mut confusion.false_negatives,
            };
            *cell += 1;
        }
        Ok(confusion)
    }

    /// The share of called anomalies that carry the label.
    pub fn precision(&self) -> Option<f64> {
        share(self.true_positives, self.true_positives + self.false_positives)
    }

    /// The share of labelled anomalies that were called so.
    pub fn recall(&self) -> Option<f64> {
        share(self.true_positives, self.true_positives + self.false_negatives)
    }

    /// The harmonic mean of precision and recall; `None` where nothing is labelled or called.
    pub fn f1(&self) -> Option<f64> {
        share(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)
    }

    /// All rows counted.
    pub const fn rows(&self) -> u64 {
        self.true_positives + self.false_positives + self.true_negatives + self.false_negatives
    }
}

/// Labelled anomalies of one type, and how many were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Rows with this label.
    pub labelled: u64,
    /// Those called anomalies.
    pub detected: u64,
}

impl Found {
    /// The share found.
    pub fn recall(&self) -> Option<f64> {
        share(self.detected, self.labelled)
    }
}

/// What labelled rows say about a detector.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Counts; precision, recall and F1 are read off them.
    pub confusion: Confusion,
    /// Area under the precision-recall curve; `None` where nothing is labelled.
    pub average_precision: Option<f64>,
    /// Labelled anomalies by type; those without a type under the empty name.
    pub by_type: BTreeMap<String, Found>,
}

/// Judges verdicts and scores against labels. `types` names the kind of labelled rows and is ignored for others.
///
/// # Errors
/// [`Error::Evaluation`] where the columns have different lengths or a score is NaN.
pub fn evaluate(
    scores: &[f64],
    verdicts: &[bool],
    labels: &[bool],
    types: &[Option<&str>],
) -> Result<Evaluation, Error> {
    Ok(Evaluation {
        confusion: Confusion::count(labels, verdicts)?,
        average_precision: average_precision(scores, labels)?,
        by_type: found_by_type(verdicts, labels, types)?,
    })
}

/// The area under the precision-recall curve as a sum of steps: precision times the gain in recall at each distinct
/// score, from the lowest up. `None` where nothing is labelled.
///
/// Source: scikit-learn `average_precision_score` (of negated scores).
///
/// # Errors
/// [`Error::Evaluation`] where the columns have different lengths or a score is NaN.
pub fn average_precision(scores: &[f64], labels: &[bool]) -> Result<Option<f64>, Error> {
    same_length(scores.len(), labels.len())?;
    no_nan(scores)?;
    let labelled = labels.iter().filter(|label| **label).count();
    if labelled == 0 {
        return Ok(None);
    }
    let mut ranked: Vec<(f64, bool)> = scores.iter().copied().zip(labels.iter().copied()).collect();
    ranked.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (mut rows, mut hits, mut area) = (0_usize, 0_usize, 0.0);
    for tied in ranked.chunk_by(|a, b| a.0 == b.0) {
        let gained = tied.iter().filter(|(_, label)| *label).count();
        rows += tied.len();
        hits += gained;
        area += hits as f64 / rows as f64 * (gained as f64 / labelled as f64);
    }
    Ok(Some(area))
}

/// How many labelled anomalies of each type were found; those without a type stand under the empty name.
///
/// # Errors
/// [`Error::Evaluation`] where the columns have different lengths.
pub fn found_by_type(
    verdicts: &[bool],
    labels: &[bool],
    types: &[Option<&str>],
) -> Result<BTreeMap<String, Found>, Error> {
    same_length(verdicts.len(), labels.len())?;
    same_length(verdicts.len(), types.len())?;
    let mut by_type: BTreeMap<String, Found> = BTreeMap::new();
    for ((verdict, label), name) in verdicts.iter().zip(labels).zip(types) {
        if *label {
            let found = by_type.entry(name.unwrap_or_default().to_owned()).or_default();
            found.labelled += 1;
            found.detected += u64::from(*verdict);
        }
    }
    Ok(by_type)
}

/// What the scores of unlabelled rows look like.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Rows scored.
    pub rows: u64,
    /// Mean score.
    pub mean: f64,
    /// Population deviation of the scores.
    pub deviation: f64,
    /// Share of scores below zero.
    pub detected_share: f64,
    /// Each of [`QUANTILES`] with its score.
    pub quantiles: [(f64, f64); QUANTILES.len()],
}

/// Describes the scores (decision functions); `None` where there are none.
///
/// # Errors
/// [`Error::Evaluation`] where a score is NaN.
pub fn distribution(scores: &[f64]) -> Result<Option<Distribution>, Error> {
    no_nan(scores)?;
    if scores.is_empty() {
        return Ok(None);
    }
    let ascending = quantile::sorted(scores);
    let rows = scores.len() as f64;
    let mean = ascending.iter().sum::<f64>() / rows;
    let variance = ascending.iter().map(|score| (score - mean) * (score - mean)).sum::<f64>() / rows;
    let detected = ascending.partition_point(|score| *score < 0.0);
    Ok(Some(Distribution {
        rows: scores.len() as u64,
        mean,
        deviation: variance.sqrt(),
        detected_share: detected as f64 / rows,
        quantiles: QUANTILES.map(|q| (q, quantile::of_sorted(&ascending, q).unwrap_or(mean))),
    }))
}

/// Spearman's rank correlation of two columns, -1 to 1; equal values share the mean of their ranks. `None` where a column is
/// constant.
///
/// Source: scipy `stats.spearmanr`.
///
/// # Errors
/// [`Error::Evaluation`] where the columns have different lengths or a value is NaN.
pub fn spearman(a: &[f64], b: &[f64]) -> Result<Option<f64>, Error> {
    same_length(a.len(), b.len())?;
    no_nan(a)?;
    no_nan(b)?;
    let (a, b) = (ranks(a), ranks(b));
    // Ranks are 1 to n with the mean (n + 1) / 2, whatever the ties.
    let mean = f64::midpoint(a.len() as f64, 1.0);
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    let scale = (product(&a, &a) * product(&b, &b)).sqrt();
    Ok((scale > 0.0).then(|| (product(&a, &b) / scale).clamp(-1.0, 1.0)))
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_unstable_by(|a, b| values[*a].total_cmp(&values[*b]));
    let (mut ranks, mut before) = (vec![0.0; values.len()], 0);
    for tied in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = before as f64 + f64::midpoint(tied.len() as f64, 1.0);
        for row in tied {
            ranks[*row] = rank;
        }
        before += tied.len();
    }
    ranks
}

/// How far two columns of verdicts name the same rows: the rows that both call anomalies as a share of those that either
/// does (Jaccard). `None` where neither calls any.
///
/// # Errors
/// [`Error::Evaluation`] where the columns have different lengths.
pub fn overlap(a: &[bool], b: &[bool]) -> Result<Option<f64>, Error> {
    same_length(a.len(), b.len())?;
    let count = |of: fn(bool, bool) -> bool| a.iter().zip(b).filter(|(a, b)| of(**a, **b)).count() as u64;
    Ok(share(count(|a, b| a && b), count(|a, b| a || b)))
}

/// The Kolmogorov-Smirnov distance of two samples: the greatest difference of their empirical distributions, 0 to 1.
/// `None` where one is empty.
///
/// # Errors
/// [`Error::Evaluation`] where a value is NaN.
pub fn kolmogorov_smirnov(a: &[f64], b: &[f64]) -> Result<Option<f64>, Error> {
    no_nan(a)?;
    no_nan(b)?;
    if a.is_empty() || b.is_empty() {
        return Ok(None);
    }
    let (a, b) = (quantile::sorted(a), quantile::sorted(b));
    let at_or_below = |values: &[f64], x: f64| values.partition_point(|value| *value <= x) as f64 / values.len() as f64;
    let distances = a.iter().chain(&b).map(|x| (at_or_below(&a, *x) - at_or_below(&b, *x)).abs());
    Ok(distances.reduce(f64::max))
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn same_length(a: usize, b: usize) -> Result<(), Error> {
    if a == b { Ok(()) } else { Err(Error::Evaluation { reason: "the columns have different lengths" }) }
}

fn no_nan(scores: &[f64]) -> Result<(), Error> {
    if scores.iter().any(|score| score.is_nan()) {
        return Err(Error::Evaluation { reason: "a score is not a number" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SCORES: [f64; 8] = [-0.3, -0.2, -0.2, -0.1, 0.0, 0.1, 0.1, 0.2];
    const LABELS: [bool; 8] = [true, false, true, false, true, false, false, true];

    fn verdicts() -> Vec<bool> {
        SCORES.iter().map(|score| *score < 0.0).collect()
    }

    #[test]
    fn rows_are_counted_by_label_and_verdict() {
        let confusion = Confusion::count(&LABELS, &verdicts()).unwrap();
        let expected = Confusion { true_positives: 2, false_positives: 2, true_negatives: 2, false_negatives: 2 };
        assert_eq!((confusion, confusion.rows()), (expected, 8));
    }

    #[test]
    fn precision_recall_and_f1_follow_their_definitions() {
        let confusion = Confusion { true_positives: 6, false_positives: 2, true_negatives: 90, false_negatives: 4 };
        assert_eq!(
            (confusion.precision(), confusion.recall(), confusion.f1()),
            (Some(0.75), Some(0.6), Some(12.0 / 18.0))
        );
    }

    #[test]
    fn a_ratio_without_a_denominator_is_absent() {
        let nothing = Confusion::count(&[false; 3], &[false; 3]).unwrap();
        assert_eq!((nothing.precision(), nothing.recall(), nothing.f1()), (None, None, None));
        assert_eq!(average_precision(&[0.1, -0.1], &[false, false]).unwrap(), None);
        assert_eq!(distribution(&[]).unwrap(), None);
        assert_eq!(kolmogorov_smirnov(&[], &[1.0]).unwrap(), None);
    }

    /// Expected: scikit-learn 1.9.1, `average_precision_score(LABELS, -SCORES)`.
    #[test]
    fn average_precision_is_that_of_scikit_learn() {
        let area = average_precision(&SCORES, &LABELS).unwrap().unwrap();
        assert!((area - 0.691_666_666_666_666_7).abs() < 1e-15, "{area}");
    }

    #[test]
    fn labelled_rows_are_found_by_type() {
        let types = [
            Some("PRICE_SPIKE"),
            None,
            Some("FLASH_CRASH"),
            Some("VOLUME_SPIKE"),
            None,
            None,
            None,
            Some("PRICE_SPIKE"),
        ];
        let evaluation = evaluate(&SCORES, &verdicts(), &LABELS, &types).unwrap();
        let expected = BTreeMap::from([
            (String::new(), Found { labelled: 1, detected: 0 }),
            ("FLASH_CRASH".to_owned(), Found { labelled: 1, detected: 1 }),
            ("PRICE_SPIKE".to_owned(), Found { labelled: 2, detected: 1 }),
        ]);
        assert_eq!(evaluation.by_type, expected);
        assert_eq!(evaluation.by_type["PRICE_SPIKE"].recall(), Some(0.5));
    }

    #[test]
    fn scores_are_described_by_their_distribution() {
        let described = distribution(&SCORES).unwrap().unwrap();
        assert_eq!((described.rows, described.detected_share), (8, 0.5));
        assert!((described.mean - -0.05).abs() < 1e-15 && (described.deviation - 0.165_831_239_517_77).abs() < 1e-12);
        assert_eq!(described.quantiles[0], (0.0, -0.3));
        assert!((described.quantiles[6].1 - -0.05).abs() < 1e-15);
        assert_eq!(described.quantiles[10], (1.0, 0.2));
    }

    /// Expected: scipy, `ks_2samp`.
    #[test]
    fn the_kolmogorov_smirnov_distance_is_that_of_scipy() {
        let distance = kolmogorov_smirnov(&[1.0, 2.0, 3.0, 4.0, 5.0, 5.0], &[2.0, 2.0, 4.0, 6.0]).unwrap().unwrap();
        assert!((distance - 0.25).abs() < 1e-15, "{distance}");
    }

    #[test]
    fn columns_that_do_not_fit_and_scores_that_are_not_numbers_are_refused() {
        assert!(Confusion::count(&[true], &[]).is_err());
        assert!(average_precision(&[0.0], &[]).is_err());
        assert!(average_precision(&[f64::NAN], &[true]).is_err());
        assert!(found_by_type(&[true], &[true], &[]).is_err());
        assert!(distribution(&[f64::NAN]).is_err());
        assert!(kolmogorov_smirnov(&[f64::NAN], &[0.0]).is_err());
    }

    proptest! {
        #[test]
        fn average_precision_does_not_depend_on_the_order_of_rows(
            rows in prop::collection::vec((-3_i8..3, any::<bool>()), 1..60),
            rotation in any::<prop::sample::Index>(),
        ) {
            let area = |rows: &[(i8, bool)]| {
                let (scores, labels): (Vec<_>, Vec<_>) = rows.iter().map(|(score, label)| (f64::from(*score), *label)).unzip();
                average_precision(&scores, &labels).unwrap()
            };
            let mut rotated = rows.clone();
            rotated.rotate_left(rotation.index(rows.len()));
            prop_assert_eq!(area(&rows), area(&rotated));
            prop_assert!(area(&rows).is_none_or(|area| (0.0..=1.0 + 1e-12).contains(&area)));
        }
    }

    #[test]
    fn ranks_of_equal_values_are_their_mean_as_in_scipy() {
        // scipy 1.17: spearmanr([1, 2, 2, 4, 5], [5, 6, 7, 8, 7]).statistic
        let found = spearman(&[1.0, 2.0, 2.0, 4.0, 5.0], &[5.0, 6.0, 7.0, 8.0, 7.0]).unwrap().unwrap();
        assert!((found - 0.763_157_894_736_842).abs() < 1e-12, "{found}");
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[-1.0, -5.0, -9.0]).unwrap(), Some(-1.0));
        assert_eq!(spearman(&[1.0, 2.0], &[3.0, 3.0]).unwrap(), None);
        assert!(spearman(&[1.0], &[1.0, 2.0]).is_err() && spearman(&[f64::NAN], &[1.0]).is_err());
    }

    #[test]
    fn overlap_is_what_both_name_of_what_either_names() {
        let called = [true, true, false, false];
        assert_eq!(overlap(&called, &[true, false, true, false]).unwrap(), Some(1.0 / 3.0));
        assert_eq!(overlap(&called, &called).unwrap(), Some(1.0));
        assert_eq!(overlap(&[false; 4], &[false; 4]).unwrap(), None);
    }
}
