//! Whether rows still look like those that a model was trained on: per feature the population stability index and the
//! Kolmogorov-Smirnov distance, each beside the value that chance alone would hardly exceed.
//!
//! Rows that lie close in time resemble each other, so a sample counts for as many independent observations as it has
//! blocks of time, not rows. Large samples make every difference significant, so a difference must also be large enough
//! to matter. Both measures must say so before a feature has drifted.

#![allow(clippy::cast_precision_loss, reason = "row counts are far below 2^53")]

use domain::FEATURE_NAMES;

use crate::tree::FEATURES;

/// Bins of the population stability index: tenths of the training sample.
const BINS: usize = 10;

/// The least population stability index that matters: below it a population is held to be stable.
///
/// Source: Siddiqi, *Credit Risk Scorecards*, 2006.
const LEAST_INDEX: f64 = 0.1;

/// The least distance of two distributions that matters.
const LEAST_DISTANCE: f64 = 0.1;

/// The chance that one measure of one feature exceeds its threshold though nothing has changed: 0.1 % for all features.
const CHANCE: f64 = 0.001 / FEATURES as f64;

/// The quantile of the standard normal distribution that is exceeded with [`CHANCE`].
const NORMAL_QUANTILE: f64 = 3.540_083_799_206_146;

/// Standardised feature rows, as what is compared of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Values by feature, ascending.
    columns: [Vec<f32>; FEATURES],
    blocks: u64,
}

impl Sample {
    /// A sample of rows that lie in so many blocks of time; `None` where there are none, or a value is NaN.
    #[must_use]
    pub fn of(rows: &[[f32; FEATURES]], blocks: u64) -> Option<Self> {
        if rows.is_empty() || blocks == 0 || rows.iter().flatten().any(|value| value.is_nan()) {
            return None;
        }
        let columns = std::array::from_fn(|feature| {
            let mut column: Vec<f32> = rows.iter().map(|row| row[feature]).collect();
            column.sort_unstable_by(f32::total_cmp);
            column
        });
        Some(Self { columns, blocks })
    }

    /// The number of rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.columns[0].len()
    }

    /// The number of blocks of time.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }
}

/// How one feature's distribution differs from that of the training sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FeatureDrift {
    /// The feature's name.
    pub feature: &'static str,
    /// The population stability index.
    pub stability_index: f64,
    /// What it must exceed.
    pub stability_index_threshold: f64,
    /// The Kolmogorov-Smirnov distance, 0 to 1.
    pub kolmogorov_smirnov: f64,
    /// What it must exceed.
    pub kolmogorov_smirnov_threshold: f64,
}

impl FeatureDrift {
    /// Whether both measures exceed their thresholds.
    #[must_use]
    pub fn is_drifted(&self) -> bool {
        self.stability_index > self.stability_index_threshold
            && self.kolmogorov_smirnov > self.kolmogorov_smirnov_threshold
    }
}

/// Compares recent rows with the training sample, feature by feature in the order of [`FEATURE_NAMES`].
#[must_use]
pub fn compare(training: &Sample, recent: &Sample) -> [FeatureDrift; FEATURES] {
    let (n, m) = (training.blocks as f64, recent.blocks as f64);
    std::array::from_fn(|feature| {
        let (expected, found) = (&training.columns[feature], &recent.columns[feature]);
        let bins = Bins::of(expected);
        FeatureDrift {
            feature: FEATURE_NAMES[feature],
            stability_index: stability_index(&bins.shares(expected), &bins.shares(found)),
            stability_index_threshold: (chi_square_quantile(bins.count() - 1) * (1.0 / n + 1.0 / m)).max(LEAST_INDEX),
            kolmogorov_smirnov: distance(expected, found),
            kolmogorov_smirnov_threshold: ((-libm::log(CHANCE / 2.0) / 2.0) * (1.0 / n + 1.0 / m))
                .sqrt()
                .max(LEAST_DISTANCE),
        }
    })
}

/// Bins by the tenths of a sample, closed above; fewer where a value fills more than a tenth.
struct Bins(Vec<f32>);

impl Bins {
    fn of(ascending: &[f32]) -> Self {
        let mut edges: Vec<f32> = (1..BINS).map(|tenth| ascending[tenth * ascending.len() / BINS]).collect();
        edges.dedup();
        // A bin above the greatest value would hold nothing.
        edges.retain(|edge| Some(edge) != ascending.last());
        Self(edges)
    }

    const fn count(&self) -> usize {
        self.0.len() + 1
    }

    /// The share of values in each bin, as if each bin had half a value more: none is 0.
    fn shares(&self, ascending: &[f32]) -> Vec<f64> {
        let below = |edge: &f32| ascending.partition_point(|value| value <= edge);
        let ends = self.0.iter().map(below).chain([ascending.len()]);
        let total = 0.5f64.mul_add(self.count() as f64, ascending.len() as f64);
        let mut start = 0;
        ends.map(|end| {
            let within = end - start;
            start = end;
            (within as f64 + 0.5) / total
        })
        .collect()
    }
}

fn stability_index(expected: &[f64], found: &[f64]) -> f64 {
    expected.iter().zip(found).map(|(expected, found)| (found - expected) * libm::log(found / expected)).sum()
}

/// The greatest difference of two empirical distributions.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let (mut i, mut j, mut greatest) = (0, 0, 0.0_f64);
    while i < a.len() && j < b.len() {
        let value = a[i].min(b[j]);
        i += a[i..].iter().take_while(|x| **x <= value).count();
        j += b[j..].iter().take_while(|x| **x <= value).count();
        greatest = greatest.max((i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs());
    }
    greatest
}

/// The value that a chi-square variable exceeds with [`CHANCE`]: where two samples are of one population, the stability
/// index over (1/n + 1/m) is nearly such a variable, with a degree of freedom less than bins.
///
/// Source: Yurdakul, *Statistical Properties of Population Stability Index*, 2018; Wilson and Hilferty, 1931.
fn chi_square_quantile(degrees: usize) -> f64 {
    let degrees = degrees.max(1) as f64;
    let spread = 2.0 / (9.0 * degrees);
    degrees * NORMAL_QUANTILE.mul_add(spread.sqrt(), 1.0 - spread).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
    use rand_distr::{Distribution, Normal};

    fn normal(seed: u64, rows: usize, mean: f32, deviation: f32) -> Vec<[f32; FEATURES]> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let normal = Normal::new(mean, deviation).unwrap();
        (0..rows).map(|_| std::array::from_fn(|_| normal.sample(&mut random))).collect()
    }

    fn drifted(training: &[[f32; FEATURES]], recent: &[[f32; FEATURES]]) -> usize {
        let sample = |rows: &[[f32; FEATURES]]| Sample::of(rows, rows.len() as u64).unwrap();
        compare(&sample(training), &sample(recent)).iter().filter(|found| found.is_drifted()).count()
    }

    #[test]
    fn samples_of_one_population_have_not_drifted() {
        for seed in 0..200 {
            let found = drifted(&normal(seed, 300, 0.0, 1.0), &normal(1_000 + seed, 80, 0.0, 1.0));
            assert_eq!(found, 0, "seed {seed}");
        }
    }

    /// Of 1 000 features of independent samples, 0.2 are expected beyond a threshold, and 5 would be a wonder.
    #[test]
    fn chance_alone_hardly_exceeds_either_threshold() {
        let (mut index, mut distance) = (0, 0);
        for seed in 0..200 {
            let training = Sample::of(&normal(seed, 300, 0.0, 1.0), 300).unwrap();
            let recent = Sample::of(&normal(5_000 + seed, 100, 0.0, 1.0), 100).unwrap();
            for found in compare(&training, &recent) {
                index += usize::from(found.stability_index > found.stability_index_threshold);
                distance += usize::from(found.kolmogorov_smirnov > found.kolmogorov_smirnov_threshold);
            }
        }
        assert!(index < 5 && distance < 5, "{index} {distance}");
    }

    #[test]
    fn a_shift_and_a_wider_spread_are_drift() {
        let training = normal(1, 500, 0.0, 1.0);
        assert_eq!(drifted(&training, &normal(2, 300, 1.0, 1.0)), FEATURES);
        assert_eq!(drifted(&training, &normal(3, 300, 0.0, 3.0)), FEATURES);
    }

    #[test]
    fn few_blocks_of_time_prove_little_however_many_rows_they_have() {
        let (training, recent) = (normal(1, 20_000, 0.0, 1.0), normal(2, 20_000, 0.4, 1.0));
        let found = compare(&Sample::of(&training, 20).unwrap(), &Sample::of(&recent, 10).unwrap());
        assert!(found.iter().all(|found| !found.is_drifted()), "{found:?}");
        assert_eq!(drifted(&training, &recent), FEATURES);
    }

    #[test]
    fn a_value_that_fills_most_of_a_sample_is_one_bin() {
        let rows = |zeros: usize, others: usize| {
            let other = |at: usize| [at as f32 + 1.0; FEATURES];
            let rows = vec![[0.0; FEATURES]; zeros].into_iter().chain((0..others).map(other));
            Sample::of(&rows.collect::<Vec<_>>(), (zeros + others) as u64).unwrap()
        };
        assert!(compare(&rows(900, 100), &rows(890, 110)).iter().all(|found| !found.is_drifted()));
        assert!(compare(&rows(900, 100), &rows(300, 700)).iter().all(FeatureDrift::is_drifted));
        assert!(compare(&rows(500, 0), &rows(500, 0)).iter().all(|found| found.stability_index == 0.0));
        assert!(compare(&rows(500, 0), &rows(0, 500)).iter().all(|found| found.kolmogorov_smirnov == 1.0));
    }

    /// scipy 1.17: `ks_2samp([1, 2, 3, 4, 5, 5], [2, 2, 4, 6]).statistic`, `chi2.ppf(1 - 0.0002, [1, 4, 9])`.
    #[test]
    fn distances_and_quantiles_are_those_of_scipy() {
        assert!((distance(&[1.0, 2.0, 3.0, 4.0, 5.0, 5.0], &[2.0, 2.0, 4.0, 6.0]) - 0.25).abs() < 1e-15);
        // The approximation errs upwards, most with two bins.
        for (degrees, expected) in [(1, 13.831_08), (4, 22.004_58), (9, 31.989_03)] {
            let found = chi_square_quantile(degrees);
            assert!((-0.001..0.06).contains(&(found / expected - 1.0)), "{degrees}: {found} instead of {expected}");
        }
    }

    #[test]
    fn nothing_and_what_is_not_a_number_are_no_sample() {
        assert_eq!(Sample::of(&[], 1), None);
        assert_eq!(Sample::of(&[[0.0; FEATURES]], 0), None);
        assert_eq!(Sample::of(&[[f32::NAN; FEATURES]], 1), None);
        let sample = Sample::of(&[[1.0; FEATURES]; 3], 2).unwrap();
        assert_eq!((sample.rows(), sample.blocks()), (3, 2));
    }
}
