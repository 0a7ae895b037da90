//! The forest laid out for speed: no tree is walked, its exit leaf is found by intersecting bit sets.
//!
//! A tree's leaves are bits, numbered from the left. A split whose comparison a value fails rules out the leaves of
//! its left subtree; those that all failed splits leave over begin with the exit leaf. Which splits of one feature
//! fail depends only on where the value stands among the tree's thresholds of that feature, so the leaves left over
//! are tabulated by that rank, and a row costs one table look-up per feature and tree, whatever the depth.
//!
//! Exact, not approximate: an f64 threshold is replaced by the largest f32 not above it, which no f32 value can tell
//! from it, and f32 comparisons by comparisons of integers in the same order. Path lengths are added in tree order.
//! Never used for trees of more than [`MAX_LEAVES`] leaves.
//!
//! Source: Lucchese et al., "`QuickScorer`: a Fast Algorithm to Rank Documents with Additive Ensembles of Regression
//! Trees" (2015), with its scan over thresholds replaced by the tabulated ranks.

use std::array;

use crate::tree::{FEATURES, Node, Tree};

/// The most leaves of a flat tree: its splits and features then number at most 256, so that a byte addresses a table.
pub const MAX_LEAVES: usize = 257 - FEATURES;

/// Rows that one tree scores before the next: few enough that their ranks and one tree's tables stay in the
/// first-level cache, many enough that loading these tables costs little per row.
const BLOCK: usize = 1_024;

/// The most thresholds of one feature in a group: a power of two less one, so that it masks a rank. One tree always
/// fits, and the tables of a tree stay around ten kilobytes.
const MAX_THRESHOLDS: usize = 2_047;

/// Per feature, how many of a group's thresholds lie below a row's value.
type Ranks = [u16; FEATURES];

/// A forest of trees with at most [`MAX_LEAVES`] leaves each.
#[derive(Clone, Debug)]
pub struct FlatForest {
    /// In tree order.
    groups: Vec<Group>,
}

/// Consecutive trees that share one ranking of values.
#[derive(Clone, Debug)]
struct Group {
    /// Per feature, the keys of all thresholds of the group, ascending, each once.
    thresholds: [Vec<u32>; FEATURES],
    trees: Vec<FlatTree>,
}

#[derive(Clone, Debug)]
struct FlatTree {
    /// Per feature, from the rank in the group to the row of `leaves_left` for the rank in the tree.
    rows: [Box<[u8; MAX_THRESHOLDS + 1]>; FEATURES],
    leaves_left: LeafSets,
    path_lengths: Vec<f64>,
}

/// Sets of leaves, as wide as the tree needs.
#[derive(Clone, Debug)]
enum LeafSets {
    UpTo64(Box<[[u64; 1]; 256]>),
    UpTo128(Box<[[u64; 2]; 256]>),
    UpTo256(Box<[[u64; 4]; 256]>),
}

impl FlatForest {
    /// Lays the trees out, `None` where one has too many leaves.
    pub fn new(trees: &[Tree]) -> Option<Self> {
        let splits: Vec<Splits> = trees.iter().map(Splits::of).collect::<Option<_>>()?;
        let mut groups = Vec::new();
        let mut rest = splits.as_slice();
        while !rest.is_empty() {
            let (group, taken) = Group::new(rest);
            groups.push(group);
            rest = &rest[taken..];
        }
        Some(Self { groups })
    }

    /// The sum of a row's path lengths.
    pub fn path_length(&self, row: &[f32; FEATURES]) -> f64 {
        let mut sum = [0.0];
        for group in &self.groups {
            let ranks = [group.ranks(row)];
            for tree in &group.trees {
                tree.add_path_lengths(&ranks, &mut sum);
            }
        }
        sum[0]
    }

    /// The sums of the path lengths of some rows.
    pub fn path_lengths_into(&self, rows: &[[f32; FEATURES]], sums: &mut [f64]) {
        let mut ranks = [[0; FEATURES]; BLOCK];
        for (rows, sums) in rows.chunks(BLOCK).zip(sums.chunks_mut(BLOCK)) {
            sums.fill(0.0);
            for group in &self.groups {
                for (ranks, row) in ranks.iter_mut().zip(rows) {
                    *ranks = group.ranks(row);
                }
                for tree in &group.trees {
                    tree.add_path_lengths(&ranks[..rows.len()], sums);
                }
            }
        }
    }
}

impl Group {
    /// A group of as many of the first trees as one ranking can hold, and their number.
    fn new(trees: &[Splits]) -> (Self, usize) {
        let mut thresholds: [Vec<u32>; FEATURES] = array::from_fn(|_| Vec::new());
        let mut taken = 0;
        for tree in trees {
            let wider: [Vec<u32>; FEATURES] = array::from_fn(|f| {
                let mut all = thresholds[f].clone();
                all.extend(tree.of_feature[f].iter().map(|split| split.threshold));
                all.sort_unstable();
                all.dedup();
                all
            });
            if wider.iter().any(|all| all.len() > MAX_THRESHOLDS) {
                break;
            }
            thresholds = wider;
            taken += 1;
        }
        assert!(taken > 0, "the splits of one tree number less than MAX_THRESHOLDS");
        let trees = trees[..taken].iter().map(|tree| FlatTree::new(tree, &thresholds)).collect();
        (Self { thresholds, trees }, taken)
    }

    #[expect(clippy::cast_possible_truncation, reason = "at most MAX_THRESHOLDS")]
    fn ranks(&self, row: &[f32; FEATURES]) -> Ranks {
        array::from_fn(|f| {
            let key = key(row[f]);
            self.thresholds[f].partition_point(|threshold| *threshold < key) as u16
        })
    }
}

impl FlatTree {
    fn new(splits: &Splits, thresholds: &[Vec<u32>; FEATURES]) -> Self {
        let leaves = splits.path_lengths.len();
        let mut sets: Vec<[u64; 4]> = Vec::with_capacity(256);
        let rows = array::from_fn(|f| {
            let mut rows = Box::new([0; MAX_THRESHOLDS + 1]);
            let mut own = splits.of_feature[f].iter().peekable();
            let mut left_over = [u64::MAX; 4];
            sets.push(left_over);
            for (rank, row) in rows.iter_mut().enumerate().take(thresholds[f].len() + 1) {
                if let Some(below) = rank.checked_sub(1).map(|r| thresholds[f][r])
                    && own.peek().is_some_and(|split| split.threshold == below)
                {
                    while let Some(split) = own.next_if(|split| split.threshold == below) {
                        left_over = array::from_fn(|word| left_over[word] & !split.left_leaves[word]);
                    }
                    sets.push(left_over);
                }
                *row = u8::try_from(sets.len() - 1).unwrap_or(u8::MAX);
            }
            rows
        });
        Self { rows, leaves_left: LeafSets::new(&sets, leaves), path_lengths: splits.path_lengths.clone() }
    }

    fn add_path_lengths(&self, ranks: &[Ranks], sums: &mut [f64]) {
        match &self.leaves_left {
            LeafSets::UpTo64(sets) => self.add_with(sets, ranks, sums),
            LeafSets::UpTo128(sets) => self.add_with(sets, ranks, sums),
            LeafSets::UpTo256(sets) => self.add_with(sets, ranks, sums),
        }
    }

    #[inline]
    fn add_with<const WORDS: usize>(&self, sets: &[[u64; WORDS]; 256], ranks: &[Ranks], sums: &mut [f64]) {
        let rows: [&[u8; MAX_THRESHOLDS + 1]; FEATURES] = array::from_fn(|f| &*self.rows[f]);
        let path_lengths = self.path_lengths.as_slice();
        for (ranks, sum) in ranks.iter().zip(sums) {
            let mut left_over = [u64::MAX; WORDS];
            for f in 0..FEATURES {
                let set = &sets[usize::from(rows[f][usize::from(ranks[f]) & MAX_THRESHOLDS])];
                for word in 0..WORDS {
                    left_over[word] &= set[word];
                }
            }
            *sum += path_lengths[first(&left_over)];
        }
    }
}

/// The lowest member of a set.
#[inline]
fn first<const WORDS: usize>(set: &[u64; WORDS]) -> usize {
    let mut lowest = 64 * WORDS;
    for word in (0..WORDS).rev() {
        let candidate = 64 * word + set[word].trailing_zeros() as usize;
        lowest = if set[word] == 0 { lowest } else { candidate };
    }
    lowest
}

impl LeafSets {
    fn new(sets: &[[u64; 4]], leaves: usize) -> Self {
        match leaves {
            0..=64 => Self::UpTo64(narrowed(sets)),
            65..=128 => Self::UpTo128(narrowed(sets)),
            _ => Self::UpTo256(narrowed(sets)),
        }
    }
}

#[expect(clippy::unnecessary_box_returns, reason = "four to eight kilobytes, always kept on the heap")]
fn narrowed<const WORDS: usize>(sets: &[[u64; 4]]) -> Box<[[u64; WORDS]; 256]> {
    let mut narrow = Box::new([[0; WORDS]; 256]);
    for (narrow, set) in narrow.iter_mut().zip(sets) {
        narrow.copy_from_slice(&set[..WORDS]);
    }
    narrow
}

/// The splits of a tree by feature, ascending by threshold, and the path lengths of its leaves from the left.
struct Splits {
    of_feature: [Vec<Split>; FEATURES],
    path_lengths: Vec<f64>,
}

struct Split {
    /// The key of the largest f32 that goes left.
    threshold: u32,
    left_leaves: [u64; 4],
}

impl Splits {
    fn of(tree: &Tree) -> Option<Self> {
        if tree.nodes().div_ceil(2) > MAX_LEAVES {
            return None;
        }
        let mut splits = Self { of_feature: array::from_fn(|_| Vec::new()), path_lengths: Vec::new() };
        splits.collect(tree, 0);
        for of_feature in &mut splits.of_feature {
            of_feature.sort_by_key(|split| split.threshold);
        }
        Some(splits)
    }

    fn collect(&mut self, tree: &Tree, index: usize) {
        match tree.node(index) {
            Node::Leaf { path_length, .. } => self.path_lengths.push(path_length),
            Node::Split { feature, threshold, right } => {
                let first = self.path_lengths.len();
                self.collect(tree, index + 1);
                let mut left_leaves = [0; 4];
                for leaf in first..self.path_lengths.len() {
                    left_leaves[leaf / 64] |= 1 << (leaf % 64);
                }
                self.of_feature[usize::from(feature)]
                    .push(Split { threshold: key(floor_to_f32(threshold)), left_leaves });
                self.collect(tree, right);
            }
        }
    }
}
/// An integer such that `key(a) <= key(b)` wherever `a <= b`; both zeros are one, NaN is above everything.
fn key(value: f32) -> u32 {
    // Adding zero turns -0 into +0.
    let bits = (value + 0.0).to_bits();
    let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    if value.is_nan() { u32::MAX } else { ordered }
}

/// The largest f32 not above a finite f64.
#[expect(clippy::cast_possible_truncation, reason = "rounds to nearest, corrected below")]
fn floor_to_f32(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) > value { nearest.next_down() } else { nearest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forest::Forest;
    use proptest::prelude::*;
    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
    use rstest::rstest;

    fn assert_both_forms_agree(forest: &Forest, row: &[f32; FEATURES]) {
        assert_eq!(forest.score_sample(row).to_bits(), forest.reference_score_sample(row).to_bits(), "{row:?}");
    }

    proptest! {
        #[test]
        fn keys_order_as_values_do(a in any::<f32>(), b in any::<f32>()) {
            prop_assert_eq!(a <= b, key(a) <= key(b) && !a.is_nan() && !b.is_nan());
        }

        #[test]
        fn no_f32_tells_a_threshold_from_its_floor(
            threshold in any::<f64>().prop_filter("finite", |t| t.is_finite()),
            steps in -2_i32..=2,
        ) {
            let floor = floor_to_f32(threshold);
            let value = (0..steps.abs()).fold(floor, |v, _| if steps < 0 { v.next_down() } else { v.next_up() });
            prop_assert_eq!(f64::from(value) <= threshold, value <= floor);
        }

        #[test]
        fn flat_scores_equal_reference_scores_bit_for_bit(
            rows in prop::collection::vec(prop::array::uniform5(-3.0_f32..3.0), 1..400),
            coarse in any::<bool>(),
            max_samples in 1_u32..=256,
            seed in any::<u64>(),
            odd in prop::array::uniform5(any::<f32>()),
        ) {
            // Coarse values equal each other and make constant features.
            let rows: Vec<_> = if coarse { rows.iter().map(|row| row.map(f32::round)).collect() } else { rows };
            let samples = max_samples.min(u32::try_from(rows.len()).unwrap());
            let forest = Forest::grow(&rows, 7, samples, seed);
            prop_assert!(FlatForest::new(forest.trees()).is_some());
            let asked: Vec<_> = rows.iter().copied().chain([odd, [f32::NAN; 5], [-f32::NAN; 5], [-0.0; 5]]).collect();
            let mut scores = vec![0.0; asked.len()];
            forest.score_samples_into(&asked, &mut scores);
            for (row, score) in asked.iter().zip(&scores) {
                prop_assert_eq!(score.to_bits(), forest.reference_score_sample(row).to_bits());
                prop_assert_eq!(score.to_bits(), forest.score_sample(row).to_bits());
            }
        }
    }

    #[test]
    fn values_at_a_threshold_go_the_same_way_in_both_forms() {
        let rows: Vec<[f32; FEATURES]> = (0..256_u16).map(|i| [f32::from(i) * 0.37 - 40.0; FEATURES]).collect();
        let forest = Forest::grow(&rows, 20, 256, 3);
        for tree in forest.trees() {
            for index in 0..tree.nodes() {
                let Node::Split { threshold, .. } = tree.node(index) else { continue };
                let floor = floor_to_f32(threshold);
                for value in [floor.next_down(), floor, floor.next_up()] {
                    assert_both_forms_agree(&forest, &[value; FEATURES]);
                }
            }
        }
    }

    /// A tree with one leaf per row, split on the first two features in turn at random.
    fn tree_of(leaves: u16) -> Tree {
        let mut rows: Vec<_> = (0..leaves).map(|i| [f32::from(i), f32::from(i % 16), 0.0, 0.0, 0.0]).collect();
        Tree::grow(&mut rows, 1_000, &mut ChaCha8Rng::from_seed([3; 32]))
    }

    #[rstest]
    fn every_width_of_leaf_sets_finds_the_exit_leaf(#[values(1, 2, 63, 64, 65, 128, 129, 192, 252)] leaves: u16) {
        let tree = tree_of(leaves);
        assert_eq!(tree.nodes(), 2 * usize::from(leaves) - 1);
        let flat = FlatForest::new(std::slice::from_ref(&tree)).unwrap();
        for i in 0..=leaves {
            let row = [f32::from(i) - 0.5, f32::from(i % 17), 0.0, 0.0, 0.0];
            assert_eq!(flat.path_length(&row).to_bits(), tree.path_length(&row).to_bits());
        }
    }

    #[test]
    fn a_tree_with_more_leaves_is_walked_instead() {
        assert!(FlatForest::new(&[tree_of(64), tree_of(253)]).is_none());
        let rows: Vec<[f32; FEATURES]> =
            (0..2_000_u16).map(|i| [f32::from(i), f32::from(i % 97), f32::from(i % 13), 0.0, 0.0]).collect();
        let forest = Forest::grow(&rows, 5, 1_000, 3);
        assert!(FlatForest::new(forest.trees()).is_none());
        let mut scores = vec![0.0; rows.len()];
        forest.score_samples_into(&rows, &mut scores);
        assert!(rows.iter().zip(&scores).all(|(row, score)| forest.score_sample(row).to_bits() == score.to_bits()));
    }

    #[test]
    fn trees_are_grouped_in_order_and_their_sum_crosses_groups() {
        let rows: Vec<[f32; FEATURES]> =
            (0..3_000_u16).map(|i| array::from_fn(|f| (f32::from(i) * [0.7, 1.3, 2.9, 3.1, 0.11][f]).sin())).collect();
        let forest = Forest::grow(&rows, 400, 256, 11);
        let flat = FlatForest::new(forest.trees()).unwrap();
        assert!(flat.groups.len() > 1);
        assert_eq!(flat.groups.iter().map(|group| group.trees.len()).sum::<usize>(), 400);
        let mut scores = vec![0.0; rows.len()];
        forest.score_samples_into(&rows, &mut scores);
        for (row, score) in rows.iter().zip(&scores) {
            assert_both_forms_agree(&forest, row);
            assert_eq!(forest.score_sample(row).to_bits(), score.to_bits());
        }
    }
}
