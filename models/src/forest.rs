//! The isolation forest: trees grown in parallel from one seed, and the score that their path lengths make.
//!
//! The score of a row is defined by one sum: path lengths as f64, added in tree order, starting from 0. Both ways of
//! computing it (the reference walk and the flat layout) keep this order, so they agree bit for bit.
//! Source: scikit-learn 1.9, `ensemble/_iforest.py`.

use std::collections::BTreeSet;

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rayon::prelude::*;

use crate::{
    flat::FlatForest,
    tree::{FEATURES, Tree, average_path_length, below, depth_limit},
};

/// A forest, ready to score.
#[derive(Clone, Debug)]
pub struct Forest {
    trees: Vec<Tree>,
    max_samples: u32,
    /// `None` where a tree is too deep for the flat layout: then the trees are walked.
    flat: Option<FlatForest>,
}

impl PartialEq for Forest {
    fn eq(&self, other: &Self) -> bool {
        self.max_samples == other.max_samples && self.trees == other.trees
    }
}

impl Forest {
    /// Grows `trees` trees on `max_samples` rows each, drawn without replacement.
    ///
    /// Tree i draws from stream i of the `ChaCha8` generator of the seed; nothing depends on which thread grows it.
    ///
    /// # Panics
    /// Where `max_samples` is 0 or above the number of rows.
    pub fn grow(rows: &[[f32; FEATURES]], trees: u32, max_samples: u32, seed: u64) -> Self {
        assert!((1..=rows.len()).contains(&(max_samples as usize)), "a tree needs between one and all rows");
        let limit = depth_limit(max_samples);
        let trees = (0..trees)
            .into_par_iter()
            .map(|tree| {
                let mut random = generator(seed, tree);
                let mut sample = draw(rows, max_samples, &mut random);
                Tree::grow(&mut sample, limit, &mut random)
            })
            .collect();
        Self::from_trees(trees, max_samples)
    }

    /// A forest of trees grown elsewhere on `max_samples` rows each.
    pub fn from_trees(trees: Vec<Tree>, max_samples: u32) -> Self {
        let flat = FlatForest::new(&trees);
        Self { trees, max_samples, flat }
    }

    /// The trees, in the order in which their path lengths are added.
    pub fn trees(&self) -> &[Tree] {
        &self.trees
    }

    /// Rows that each tree was grown on.
    pub const fn max_samples(&self) -> u32 {
        self.max_samples
    }

    /// The score of one row, in [-1, 0): the lower, the more anomalous. scikit-learn's `score_samples`.
    pub fn score_sample(&self, row: &[f32; FEATURES]) -> f64 {
        match &self.flat {
            Some(flat) => self.score(flat.path_length(row)),
            None => self.reference_score_sample(row),
        }
    }

    /// The scores of some rows, each the same as alone.
    ///
    /// # Panics
    /// Where the slices have different lengths.
    pub fn score_samples_into(&self, rows: &[[f32; FEATURES]], scores: &mut [f64]) {
        assert_eq!(rows.len(), scores.len(), "every row has its score");
        match &self.flat {
            Some(flat) => {
                flat.path_lengths_into(rows, scores);
                for score in scores {
                    *score = self.score(*score);
                }
            }
            None => {
                for (row, score) in rows.iter().zip(scores) {
                    *score = self.reference_score_sample(row);
                }
            }
        }
    }

    /// The score by walking the trees as they are defined.
    pub fn reference_score_sample(&self, row: &[f32; FEATURES]) -> f64 {
        self.score(self.trees.iter().fold(0.0, |sum, tree| sum + tree.path_length(row)))
    }

    /// -2^(-mean path length / c(n)), n the rows per tree; -0.5 where c is 0, as scikit-learn has it.
    #[expect(clippy::cast_precision_loss, reason = "at most MAX_TREES trees")]
    fn score(&self, sum_of_path_lengths: f64) -> f64 {
        let expected = self.trees.len() as f64 * average_path_length(self.max_samples);
        let ratio = if expected == 0.0 { 1.0 } else { sum_of_path_lengths / expected };
        -libm::exp2(-ratio)
    }
}

/// The generator of one tree: the seed as its key, the tree as its stream.
fn generator(seed: u64, tree: u32) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut random = ChaCha8Rng::from_seed(key);
    random.set_stream(u64::from(tree));
    random
}

/// Draws rows without replacement. Source: Robert Floyd's algorithm F2, in Bentley, "More Programming Pearls".
fn draw(rows: &[[f32; FEATURES]], count: u32, random: &mut ChaCha8Rng) -> Vec<[f32; FEATURES]> {
    let mut drawn = BTreeSet::new();
    for last in rows.len() - count as usize..rows.len() {
        #[expect(clippy::cast_possible_truncation, reason = "at most `last`")]
        let candidate = below(random, last as u64 + 1) as usize;
        if !drawn.insert(candidate) {
            drawn.insert(last);
        }
    }
    drawn.into_iter().map(|row| rows[row]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Model, Thresholds},
        scaler::{Scale, Scales},
        training::TrainParameters,
        tree::TreeArrays,
    };
    use rstest::rstest;
    use serde_json::Value;

    fn rows(count: u16) -> Vec<[f32; FEATURES]> {
        (0..count).map(|i| std::array::from_fn(|f| (f32::from(i) * [0.7, 1.3, 2.9, 3.1, 0.11][f]).sin())).collect()
    }

    #[test]
    fn a_sample_holds_no_row_twice_and_every_row_is_drawn_equally_often() {
        let rows: Vec<_> = (0..10_u8).map(|i| [f32::from(i); FEATURES]).collect();
        let mut counts = [0_u32; 10];
        for tree in 0..10_000 {
            let mut drawn: Vec<f32> = draw(&rows, 3, &mut generator(1, tree)).iter().map(|row| row[0]).collect();
            drawn.dedup();
            assert_eq!(drawn.len(), 3);
            for value in drawn {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
                let index = value as usize;
                counts[index] += 1;
            }
        }
        // 3 000 expected, deviation 46: six of them.
        assert!(counts.iter().all(|count| count.abs_diff(3_000) < 276), "{counts:?}");
    }

    #[rstest]
    fn the_forest_is_the_same_whatever_the_number_of_threads(#[values(2, 3, 7)] threads: usize) {
        let rows = rows(2_000);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Forest::grow(&rows, 50, 256, 42))
        };
        assert_eq!(on(1), on(threads));
    }

    #[test]
    fn trees_depend_on_the_seed_and_differ_from_each_other() {
        let rows = rows(500);
        let forest = Forest::grow(&rows, 3, 256, 1);
        assert_ne!(forest.trees()[0], forest.trees()[1]);
        assert_ne!(forest.trees(), Forest::grow(&rows, 3, 256, 2).trees());
        assert_eq!(forest.trees()[..2], *Forest::grow(&rows, 2, 256, 1).trees());
    }

    #[test]
    fn a_forest_on_one_row_scores_as_scikit_learn_does() {
        let forest = Forest::grow(&[[1.0; FEATURES]], 5, 1, 0);
        assert!((forest.score_sample(&[3.0; FEATURES]) - -0.5).abs() < f64::EPSILON);
    }

    /// The golden file beside the repository; `None`, with a notice, where it is absent and not required.
    fn golden() -> Option<Value> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/sklearn_iforest_golden.json");
        let Ok(text) = std::fs::read_to_string(path) else {
            let required = std::env::var("SENTINEL_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|part| part.trim() == "shared"), "required, but missing: {path}");
            println!("skipped: {path} is missing");
            return None;
        };
        Some(serde_json::from_str(&text).unwrap())
    }

    fn column<T: serde_json::value::Index, R>(value: &Value, name: T, read: fn(&Value) -> R) -> Vec<R> {
        value[name].as_array().unwrap().iter().map(read).collect()
    }

    fn float(value: &Value) -> f64 {
        value.as_f64().unwrap()
    }

    fn vector(value: &Value) -> [f64; FEATURES] {
        std::array::from_fn(|f| value[f].as_f64().unwrap())
    }

    fn tree(value: &Value) -> Tree {
        let signed = |v: &Value| i32::try_from(v.as_i64().unwrap()).unwrap();
        let count = |v: &Value| u32::try_from(v.as_u64().unwrap()).unwrap();
        Tree::import(&TreeArrays {
            feature: &column(value, "feature", signed),
            threshold: &column(value, "threshold", float),
            left: &column(value, "left", signed),
            right: &column(value, "right", signed),
            samples: &column(value, "n", count),
        })
        .unwrap()
    }

    #[test]
    fn imported_trees_score_as_scikit_learn_does() {
        let Some(golden) = golden() else { return };
        let scale = Scale { means: vector(&golden["scaler_mean"]), deviations: vector(&golden["scaler_scale"]) };
        let forest = Forest::from_trees(column(&golden, "trees", tree), 256);
        assert!(FlatForest::new(forest.trees()).is_some());
        let offset = float(&golden["offset"]);
        let rows = column(&golden, "rows_raw", vector);
        let scores = column(&golden, "score_samples", float);
        assert_eq!((rows.len(), scores.len(), forest.trees().len()), (128, 128, 25));
        for (row, score) in rows.iter().zip(&scores) {
            let scaled = scale.apply(row);
            assert!((forest.score_sample(&scaled) - score).abs() <= 1e-12);
            assert!((forest.reference_score_sample(&scaled) - score).abs() <= 1e-12);
        }
        let model = Model::new(
            TrainParameters::default(),
            Scales { global: scale, by_symbol: Vec::new() },
            forest,
            Thresholds { offset, alert: 0.0, training_minimum: 0.0, reach: None, surplus: None },
            String::new(),
        );
        let symbol = domain::Symbol::parse("BTC-USDT").unwrap();
        let verdicts = model.verdicts(&vec![symbol; rows.len()], &rows);
        for ((verdict, decision), label) in
            verdicts
                .iter()
                .zip(column(&golden, "decision", float))
                .zip(column(&golden, "predict", |v| v.as_i64().unwrap()))
        {
            assert!((verdict.anomaly_score - decision).abs() <= 1e-12);
            assert_eq!(verdict.is_anomaly, label == -1);
        }
    }
}
