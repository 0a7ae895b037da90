//! Why a verdict is what it is: which features shortened the row's paths, what is usual for them, how the paths ran.
//!
//! A score is a function of one number, the mean path length over the trees, so that number is what the features share.
//! Where only some features of a row are known, a tree still lets expect a path length: at a split on a known feature
//! the row goes its way, at any other it goes both ways, in the proportions in which training rows went. With no
//! feature known this is the mean path length of the training rows; with all known it is that of the row. The
//! difference is divided by Shapley's rule: the contribution of a feature is what it takes off the path when it becomes
//! known, averaged over all orders in which the features can become known.
//!
//! No other rule gives contributions that add up to the whole difference, are zero for a feature that no tree splits
//! on, equal for features that do the same, and those of a forest where they are averaged over its trees. Crediting the
//! splits of the row's own path (Saabas, DIFFI) is cheaper and depends on the order of the splits, which here is
//! chance. Five features make 32 sets of known ones, so the rule is computed as it is defined, without sampling: one
//! visit per node.
//!
//! Never decides anything: the verdict comes from [`Model::verdict`].
//!
//! Sources: Lundberg et al., "From local explanations to global understanding with explainable AI for trees" (2020),
//! whose path-dependent expectation this is; Lundberg, Erion, Lee, "Consistent Individualized Feature Attribution for
//! Tree Ensembles" (2018), algorithm 1, which the tests hold it against; path lengths as the values of an isolation
//! tree's leaves: `shap` (pull request 784), and Visser et al., "Explaining Outliers using Isolation Forest and Shapley
//! Interactions" (2025).

use std::array;

use domain::{AlertLimits, FEATURE_NAMES, FeatureVector, Reach, Symbol, features::Z_SCORE_VOLUME};

use crate::{
    model::{Model, Verdict},
    scaler::Scale,
    tree::{FEATURES, Node, Tree, average_path_length},
};

/// The most splits after which a row counts as isolated early, see [`PathSummary::isolated_within_3_splits`].
const EARLY_SPLITS: u32 = 3;

/// How far from its mean a feature is expected, in deviations.
pub const EXPECTED_DEVIATIONS: f64 = 2.0;

/// A contribution of no more splits than this is rounding and has no share.
const NOISE: f64 = 1e-9;

/// The number of sets of features. A set is a number whose bit f says whether feature f is in it.
const SETS: usize = 1 << FEATURES;

/// The set of all features.
const ALL: usize = SETS - 1;

/// By the size s of a set: the chance that its features, and no others, become known before a certain other one,
/// s! (n - 1 - s)! / n! for n features in random order.
const CHANCES: [f64; FEATURES] = [1.0 / 5.0, 1.0 / 20.0, 1.0 / 30.0, 1.0 / 20.0, 1.0 / 5.0];

/// Why a verdict is what it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// What is explained: to the bit what [`Model::verdict`] says.
    pub verdict: Verdict,
    /// Every feature once, by descending contribution; equal ones in the order of [`FEATURE_NAMES`]. The contributions
    /// add up to [`PathSummary::training_depth`] minus [`PathSummary::mean_depth`], to rounding.
    pub features: [ExplainedFeature; FEATURES],
    /// How the row went through the trees.
    pub path: PathSummary,
}

/// What one feature did, and what is usual for it. Everything is finite where the value is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExplainedFeature {
    /// Its name.
    pub feature: &'static str,
    /// Its value, in its own unit.
    pub value: f64,
    /// By how many splits it shortens the mean path, against that of the training rows; negative where it lengthens it.
    pub contribution: f64,
    /// Its part of all contributions above zero; 0 where its own is not. The shares of a row add up to 1, or are all 0
    /// where no feature pushes towards an anomaly.
    pub share: f64,
    /// The mean less [`EXPECTED_DEVIATIONS`] deviations, by the scale of the symbol, in the feature's own unit.
    pub expected_low: f64,
    /// The mean plus [`EXPECTED_DEVIATIONS`] deviations.
    pub expected_high: f64,
    /// How many deviations the value lies above the mean; negative below it.
    pub deviations: f64,
    /// How far the value may go before the event is worth an alert whatever its score; `None` where that does not count.
    pub reach: Option<Reach>,
    /// Above which value the event is worth a notice, see [`Model::notice_above`]; `None` but for the z-score of the volume.
    pub notice_above: Option<f64>,
}

/// How a row went through the trees. Depths are path lengths: splits to the leaf, plus c(rows in the leaf).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PathSummary {
    /// The row's mean over the trees. Its score, before the threshold is taken off, is
    /// -2^(-`mean_depth` / `expected_depth`).
    pub mean_depth: f64,
    /// The mean over the rows that the trees were grown on.
    pub training_depth: f64,
    /// c(rows per tree), what an average row would have in random binary search trees; there the score is -0.5.
    pub expected_depth: f64,
    /// The number of trees.
    pub trees: u32,
    /// Trees in which at most three splits leave the row with no more than one training row.
    pub isolated_within_3_splits: u32,
}

impl Model {
    /// Explains the verdict on one event. Visits every node of the forest, so that it takes milliseconds where a
    /// verdict takes microseconds.
    pub fn explain(&self, symbol: Symbol, features: &FeatureVector) -> Explanation {
        let scale = self.scales().of(symbol);
        let mut walk = Walk { row: scale.apply(features), path_lengths: [0.0; SETS], isolated_within_3_splits: 0 };
        for tree in self.forest().trees() {
            walk.through(tree);
        }
        let trees = u32::try_from(self.forest().trees().len()).unwrap_or(u32::MAX);
        let path_lengths = walk.path_lengths.map(|sum| sum / f64::from(trees));
        let mut explained = explained(&path_lengths, scale, &self.alert_limits(), features);
        if let Some(volume) = explained.iter_mut().find(|one| one.feature == FEATURE_NAMES[Z_SCORE_VOLUME]) {
            volume.notice_above = self.notice_above(symbol, features);
        }
        Explanation {
            verdict: self.verdict(symbol, features),
            features: explained,
            path: PathSummary {
                mean_depth: path_lengths[ALL],
                training_depth: path_lengths[0],
                expected_depth: average_path_length(self.forest().max_samples()),
                trees,
                isolated_within_3_splits: walk.isolated_within_3_splits,
            },
        }
    }
}

/// A standardised row on its way through the trees.
struct Walk {
    row: [f32; FEATURES],
    /// By the set of known features: the path lengths to expect, summed over the trees in their order.
    path_lengths: [f64; SETS],
    isolated_within_3_splits: u32,
}

/// A node to be visited.
struct Visit {
    node: usize,
    depth: u32,
    /// By the set of known features: how much of the row comes here, 0 to 1.
    weights: [f64; SETS],
}

impl Walk {
    fn through(&mut self, tree: &Tree) {
        let rows = rows_below(tree);
        let mut open = vec![Visit { node: 0, depth: 0, weights: [1.0; SETS] }];
        while let Some(Visit { node, depth, weights }) = open.pop() {
            match tree.node(node) {
                Node::Leaf { samples, path_length } => {
                    for (sum, weight) in self.path_lengths.iter_mut().zip(&weights) {
                        *sum += weight * path_length;
                    }
                    // With all features known the whole row comes to one leaf.
                    let is_its_leaf = weights[ALL] == 1.0;
                    self.isolated_within_3_splits += u32::from(is_its_leaf && depth <= EARLY_SPLITS && samples <= 1);
                }
                Node::Split { feature, threshold, right } => {
                    let (feature, left) = (usize::from(feature), node + 1);
                    let goes_left = f64::from(self.row[feature]) <= threshold;
                    let below = |node, is_its_way, proportion| {
                        let weights = passed_on(&weights, feature, is_its_way, proportion);
                        Visit { node, depth: depth + 1, weights }
                    };
                    // The last one pushed is visited next: leaves are met from the left.
                    open.push(below(right, !goes_left, proportion(rows[right], rows[left])));
                    open.push(below(left, goes_left, proportion(rows[left], rows[right])));
                }
            }
        }
    }
}

/// The training rows below each node; for a leaf, in it.
fn rows_below(tree: &Tree) -> Vec<f64> {
    let mut rows = vec![0.0; tree.nodes()];
    // In preorder a node stands before all that are below it.
    for node in (0..tree.nodes()).rev() {
        rows[node] = match tree.node(node) {
            Node::Leaf { samples, .. } => f64::from(samples),
            Node::Split { right, .. } => rows[node + 1] + rows[right],
        };
    }
    rows
}

/// Which part of the rows of two children is in the first; half, where an imported tree says that there are none.
fn proportion(rows: f64, of_the_other: f64) -> f64 {
    let both = rows + of_the_other;
    if both > 0.0 { rows / both } else { 0.5 }
}

/// What comes to a child of a split: where the feature is known all or nothing, otherwise a proportion.
fn passed_on(weights: &[f64; SETS], feature: usize, is_its_way: bool, proportion: f64) -> [f64; SETS] {
    let known = f64::from(is_its_way);
    array::from_fn(|set| weights[set] * if contains(set, feature) { known } else { proportion })
}

const fn contains(set: usize, feature: usize) -> bool {
    set & (1 << feature) != 0
}

/// What a feature takes off the path, by Shapley's rule.
fn contribution(path_lengths: &[f64; SETS], feature: usize) -> f64 {
    let without = (0..SETS).filter(|set| !contains(*set, feature));
    let taken_off = |set: usize| path_lengths[set] - path_lengths[set | (1 << feature)];
    without.map(|set| CHANCES[set.count_ones() as usize] * taken_off(set)).sum()
}

fn explained(
    path_lengths: &[f64; SETS],
    scale: &Scale,
    limits: &AlertLimits,
    values: &FeatureVector,
) -> [ExplainedFeature; FEATURES] {
    let contributions: [f64; FEATURES] = array::from_fn(|feature| contribution(path_lengths, feature));
    let towards_anomaly = contributions.map(|splits| if splits > NOISE { splits } else { 0.0 });
    let total: f64 = towards_anomaly.iter().sum();
    let mut features: [ExplainedFeature; FEATURES] = array::from_fn(|feature| {
        let (mean, deviation) = (scale.means[feature], scale.deviations[feature]);
        ExplainedFeature {
            feature: FEATURE_NAMES[feature],
            value: values[feature],
            contribution: contributions[feature],
            share: if total > 0.0 { towards_anomaly[feature] / total } else { 0.0 },
            expected_low: finite(mean - EXPECTED_DEVIATIONS * deviation),
            expected_high: finite(mean + EXPECTED_DEVIATIONS * deviation),
            deviations: finite((values[feature] - mean) / deviation),
            reach: limits.reach_of(FEATURE_NAMES[feature]),
            notice_above: None,
        }
    });
    features.sort_by(|a, b| b.contribution.total_cmp(&a.contribution));
    features
}

/// The nearest finite number: values up to 1e308 may be asked about, and JSON knows no infinity.
fn finite(value: f64) -> f64 {
    value.clamp(f64::MIN, f64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        forest::Forest,
        model::Thresholds,
        scaler::Scales,
        training::{TrainParameters, TrainingSet, train},
        tree::TreeArrays,
    };
    use proptest::prelude::*;
    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
    use rand_distr::{Distribution, StandardNormal};
    use rstest::rstest;
    use std::sync::LazyLock;

    fn symbol() -> Symbol {
        Symbol::parse("BTC-USDT").unwrap()
    }

    fn trained(rows: &[FeatureVector], trees: u32, max_samples: u32, seed: u64) -> Model {
        let mut set = TrainingSet::new();
        for row in rows {
            set.push(symbol(), *row);
        }
        train(&set, &TrainParameters { trees, max_samples, seed, ..TrainParameters::default() }).unwrap()
    }

    /// Rows of normal noise, the deviations among them positive.
    fn noise(rows: usize) -> Vec<FeatureVector> {
        let mut random = ChaCha8Rng::seed_from_u64(11);
        let mut draw = || -> f64 { StandardNormal.sample(&mut random) };
        (0..rows).map(|_| [draw(), draw(), draw(), draw().abs() * 0.002, draw().abs() * 10.0]).collect()
    }

    static NOISE_MODEL: LazyLock<Model> = LazyLock::new(|| trained(&noise(5_000), 200, 256, 42));

    fn of_feature(explanation: &Explanation, name: &str) -> ExplainedFeature {
        *explanation.features.iter().find(|explained| explained.feature == name).unwrap()
    }

    /// What a tree lets expect of a row of which some features are known: algorithm 1 of Lundberg, Erion and Lee.
    fn expected(tree: &Tree, node: usize, row: &[f32; FEATURES], known: &[usize]) -> f64 {
        match tree.node(node) {
            Node::Leaf { path_length, .. } => path_length,
            Node::Split { feature, threshold, right } => {
                let (feature, left) = (usize::from(feature), node + 1);
                let of = |child| expected(tree, child, row, known);
                if known.contains(&feature) {
                    return of(if f64::from(row[feature]) <= threshold { left } else { right });
                }
                let (rows_left, rows_right) = (rows_in(tree, left), rows_in(tree, right));
                (rows_left * of(left) + rows_right * of(right)) / (rows_left + rows_right)
            }
        }
    }

    fn rows_in(tree: &Tree, node: usize) -> f64 {
        match tree.node(node) {
            Node::Leaf { samples, .. } => f64::from(samples),
            Node::Split { right, .. } => rows_in(tree, node + 1) + rows_in(tree, right),
        }
    }

    fn orders(features: &[usize]) -> Vec<Vec<usize>> {
        if features.is_empty() {
            return vec![Vec::new()];
        }
        let beginning_with = |first: &usize| {
            let others: Vec<_> = features.iter().copied().filter(|other| other != first).collect();
            orders(&others).into_iter().map(|order| [vec![*first], order].concat()).collect::<Vec<_>>()
        };
        features.iter().flat_map(beginning_with).collect()
    }

    /// Shapley's rule as it is told: features become known one after the other, in every order.
    fn contributions_by_orders(trees: &[Tree], row: &[f32; FEATURES]) -> [f64; FEATURES] {
        let orders = orders(&[0, 1, 2, 3, 4]);
        assert_eq!(orders.len(), 120);
        let mut contributions = [0.0; FEATURES];
        for tree in trees {
            for order in &orders {
                for (position, feature) in order.iter().enumerate() {
                    let before = expected(tree, 0, row, &order[..position]);
                    contributions[*feature] += before - expected(tree, 0, row, &order[..=position]);
                }
            }
        }
        let trees = f64::from(u32::try_from(trees.len()).unwrap());
        contributions.map(|sum| sum / (120.0 * trees))
    }

    /// One split of the second feature at 0.5: two training rows go left, one goes right.
    const STUMP: TreeArrays<'static> = TreeArrays {
        feature: &[1, -2, -2],
        threshold: &[0.5, -2.0, -2.0],
        left: &[1, -1, -1],
        right: &[2, -1, -1],
        samples: &[3, 2, 1],
    };

    fn model_of(tree: &TreeArrays<'_>, scale: Scale) -> Model {
        Model::new(
            TrainParameters::default(),
            Scales { global: scale, by_symbol: Vec::new() },
            Forest::from_trees(vec![Tree::import(tree).unwrap()], 3),
            Thresholds { offset: -0.5, alert: 0.0, training_minimum: 0.0, reach: None, surplus: None },
            String::new(),
        )
    }

    const UNIT: Scale = Scale { means: [0.0; FEATURES], deviations: [1.0; FEATURES] };

    #[test]
    fn the_only_feature_that_is_split_on_takes_the_whole_difference() {
        let model = model_of(&STUMP, UNIT);
        let right = model.explain(symbol(), &[9.0, 1.0, 9.0, 9.0, 9.0]);
        assert_eq!((right.path.mean_depth, right.path.trees, right.path.isolated_within_3_splits), (1.0, 1, 1));
        // Two rows have depth 1 + c(2) = 2, one has depth 1.
        assert!((right.path.training_depth - 5.0 / 3.0).abs() < 1e-12);
        assert_eq!(right.path.expected_depth, average_path_length(3));
        assert_eq!((right.features[0].feature, right.features[0].share), ("z_score_log_return", 1.0));
        assert!((right.features[0].contribution - 2.0 / 3.0).abs() < 1e-12);
        assert!(right.features[1..].iter().all(|other| (other.contribution, other.share) == (0.0, 0.0)));
    }

    #[test]
    fn a_feature_that_speaks_for_normality_has_no_share() {
        let left = model_of(&STUMP, UNIT).explain(symbol(), &[9.0, 0.0, 9.0, 9.0, 9.0]);
        assert!((of_feature(&left, "z_score_log_return").contribution - -1.0 / 3.0).abs() < 1e-12);
        assert_eq!(left.features.map(|explained| explained.share), [0.0; FEATURES]);
        assert_eq!(left.path.isolated_within_3_splits, 0, "two training rows are in the leaf");
        assert_eq!(
            left.features.map(|explained| explained.feature),
            ["z_score_price", "z_score_volume", "rolling_price_std", "rolling_volume_std", "z_score_log_return"]
        );
    }

    #[test]
    fn a_tree_that_says_nothing_about_rows_is_explained_with_finite_numbers() {
        let model = model_of(&TreeArrays { samples: &[0, 0, 0], ..STUMP }, UNIT);
        let explanation = model.explain(symbol(), &[0.0; FEATURES]);
        assert!(explanation.features.iter().all(|explained| explained.contribution.is_finite()));
        assert_eq!(explanation.path.training_depth, 1.0);
    }

    #[test]
    fn what_is_expected_is_told_in_the_unit_of_the_feature() {
        let scale = Scale { means: [0.0, 0.0, 0.0, 0.0, 10.0], deviations: [1.0, 1.0, 1.0, 1e-3, 2.0] };
        let explanation = model_of(&STUMP, scale).explain(symbol(), &[0.5, 0.0, -3.0, 1e308, 15.0]);
        let told = |name| {
            let explained = of_feature(&explanation, name);
            [explained.value, explained.expected_low, explained.expected_high, explained.deviations]
        };
        assert_eq!(told("rolling_volume_std"), [15.0, 6.0, 14.0, 2.5]);
        assert_eq!(told("z_score_volume"), [-3.0, -2.0, 2.0, -3.0]);
        assert_eq!(told("rolling_price_std")[3], f64::MAX);
    }

    #[test]
    fn a_symbol_is_explained_by_its_own_scale() {
        let mut set = TrainingSet::new();
        for (row, mut vector) in noise(1_000).into_iter().enumerate() {
            let (name, factor) = [("BTC-USDT", 1.0), ("ETH-USDT", 100.0)][row % 2];
            vector[4] *= factor;
            set.push(Symbol::parse(name).unwrap(), vector);
        }
        let model = train(&set, &TrainParameters { trees: 20, ..TrainParameters::default() }).unwrap();
        let of = |name| {
            let explanation = model.explain(Symbol::parse(name).unwrap(), &[0.0, 0.0, 0.0, 0.002, 60.0]);
            of_feature(&explanation, "rolling_volume_std")
        };
        let (btc, eth) = (of("BTC-USDT"), of("ETH-USDT"));
        assert!(btc.deviations > 5.0 && btc.expected_high < 30.0, "{btc:?}");
        assert!(eth.deviations < 0.0 && eth.expected_high > 1_000.0, "{eth:?}");
        assert!(btc.contribution > eth.contribution);
    }

    #[rstest]
    #[case::price_spike([8.0, 0.3, -0.4, 0.0015, 8.0], "z_score_price")]
    #[case::price_fall([-8.0, 0.3, -0.4, 0.0015, 8.0], "z_score_price")]
    #[case::jump([0.3, 8.0, -0.4, 0.0015, 8.0], "z_score_log_return")]
    #[case::volume_spike([0.3, -0.4, 8.0, 0.0015, 8.0], "z_score_volume")]
    #[case::restless_price([0.3, -0.4, 0.2, 0.02, 8.0], "rolling_price_std")]
    #[case::restless_volume([0.3, -0.4, 0.2, 0.0015, 90.0], "rolling_volume_std")]
    fn a_feature_far_out_has_the_greatest_share(#[case] vector: FeatureVector, #[case] leading: &str) {
        let explanation = NOISE_MODEL.explain(symbol(), &vector);
        let first = explanation.features[0];
        assert_eq!(first.feature, leading, "{explanation:?}");
        assert!(first.share > 0.8 && first.deviations.abs() > 7.0, "{first:?}");
        assert_eq!(first.reach, NOISE_MODEL.alert_limits().reach_of(leading));
        let noticed = explanation.features.iter().filter_map(|one| Some((one.feature, one.notice_above?)));
        let expected = NOISE_MODEL.notice_above(symbol(), &vector).unwrap();
        assert_eq!(noticed.collect::<Vec<_>>(), [("z_score_volume", expected)]);
        assert!(explanation.path.mean_depth < explanation.path.training_depth);
    }

    #[test]
    fn what_is_far_out_everywhere_is_isolated_early_in_more_trees_than_the_middle() {
        let isolated = |vector| NOISE_MODEL.explain(symbol(), &vector).path.isolated_within_3_splits;
        let (far, middle) = (isolated([6.0, -6.0, 6.0, 0.012, 60.0]), isolated([0.0, 0.0, 0.0, 0.0015, 8.0]));
        assert!(far > 20 && middle < 5, "{far} and {middle} of 200");
    }

    #[test]
    fn a_value_that_is_not_a_number_leaves_the_contributions_finite() {
        let vector = [f64::NAN, 0.0, 0.0, 0.0015, 8.0];
        let explanation = NOISE_MODEL.explain(symbol(), &vector);
        let verdict = NOISE_MODEL.verdict(symbol(), &vector);
        assert_eq!(explanation.verdict.anomaly_score.to_bits(), verdict.anomaly_score.to_bits());
        assert!(explanation.features.iter().all(|f| f.contribution.is_finite() && f.share.is_finite()));
    }

    #[test]
    fn the_depth_of_training_rows_is_the_mean_of_their_own_depths() {
        let rows = noise(120);
        let model = trained(&rows, 10, 256, 3);
        let depths = rows.iter().map(|row| model.explain(symbol(), row).path.mean_depth);
        let mean = depths.sum::<f64>() / 120.0;
        assert!((model.explain(symbol(), &rows[0]).path.training_depth - mean).abs() < 1e-9);
    }

    #[test]
    fn a_forest_of_single_leaves_explains_nothing() {
        let explanation = trained(&[[1.0, 2.0, 3.0, 4.0, 5.0]], 5, 256, 0).explain(symbol(), &[9.0; FEATURES]);
        assert!(explanation.features.iter().all(|explained| (explained.contribution, explained.share) == (0.0, 0.0)));
        assert_eq!((explanation.path.mean_depth, explanation.path.expected_depth), (0.0, 0.0));
    }

    fn any_finite() -> impl Strategy<Value = f64> {
        prop_oneof![3 => -6.0_f64..6.0, 1 => any::<f64>().prop_filter("finite", |value| value.is_finite())]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_explanation_adds_up_and_keeps_the_verdict(
            rows in prop::collection::vec(prop::array::uniform5(-3.0_f64..3.0), 1..300),
            coarse in any::<bool>(),
            max_samples in 2_u32..=256,
            seed in any::<u64>(),
            odd in prop::array::uniform5(any_finite()),
        ) {
            // Coarse values equal each other and make constant features and leaves of several rows.
            let rows: Vec<_> = if coarse { rows.iter().map(|row| row.map(f64::round)).collect() } else { rows };
            let model = trained(&rows, 10, max_samples, seed);
            for vector in [rows[0], odd, [0.0; FEATURES]] {
                let Explanation { verdict, features, path } = model.explain(symbol(), &vector);
                let said = model.verdict(symbol(), &vector);
                prop_assert_eq!(verdict.anomaly_score.to_bits(), said.anomaly_score.to_bits());
                prop_assert_eq!(verdict.is_anomaly, said.is_anomaly);
                let sum: f64 = features.iter().map(|explained| explained.contribution).sum();
                prop_assert!((sum - (path.training_depth - path.mean_depth)).abs() < 1e-9);
                let shares: f64 = features.iter().map(|explained| explained.share).sum();
                let pushed = features.iter().any(|explained| explained.contribution > NOISE);
                prop_assert!((shares - f64::from(pushed)).abs() < 1e-12);
                prop_assert!(features.iter().all(|explained| (0.0..=1.0).contains(&explained.share)));
                prop_assert!(features.is_sorted_by(|a, b| a.share >= b.share));
                let mut numbers = features.iter().flat_map(|f| [f.expected_low, f.expected_high, f.deviations]);
                prop_assert!(numbers.all(f64::is_finite));
                prop_assert!(path.isolated_within_3_splits <= path.trees && path.trees == 10);
            }
        }

        #[test]
        fn the_mean_depth_is_what_the_score_is_made_of(odd in prop::array::uniform5(any_finite())) {
            let Explanation { verdict, path, .. } = NOISE_MODEL.explain(symbol(), &odd);
            let score = -libm::exp2(-path.mean_depth / path.expected_depth);
            prop_assert!((score - NOISE_MODEL.threshold() - verdict.anomaly_score).abs() < 1e-12);
        }

        #[test]
        fn contributions_are_those_of_shapleys_rule(
            rows in prop::collection::vec(prop::array::uniform5(-3.0_f64..3.0), 2..40),
            coarse in any::<bool>(),
            seed in any::<u64>(),
            odd in prop::array::uniform5(-4.0_f64..4.0),
        ) {
            let rows: Vec<_> = if coarse { rows.iter().map(|row| row.map(f64::round)).collect() } else { rows };
            let model = trained(&rows, 3, 32, seed);
            let explanation = model.explain(symbol(), &odd);
            let row = model.scales().of(symbol()).apply(&odd);
            let by_orders = contributions_by_orders(model.forest().trees(), &row);
            for (name, by_orders) in FEATURE_NAMES.into_iter().zip(by_orders) {
                prop_assert!((of_feature(&explanation, name).contribution - by_orders).abs() < 1e-9);
            }
        }
    }
}
