//! One isolation tree: how it is grown, imported and walked, exactly as scikit-learn defines it.
//!
//! Nodes stand in preorder (a node, its left subtree, its right subtree), so that the left child of node i is node
//! i + 1 and no array can describe a cycle. Values are f32, thresholds f64, and a row goes left where
//! `f64::from(value) <= threshold`. Source: scikit-learn 1.9, `tree/_splitter.pyx` (`node_split_random`),
//! `ensemble/_iforest.py`.

#![allow(clippy::cast_possible_truncation, reason = "node counts stay below 2 * MAX_SAMPLES, which fits u32")]

use domain::FEATURE_NAMES;
use rand_chacha::{ChaCha8Rng, rand_core::RngCore};

use crate::error::Error;

/// The number of features.
pub const FEATURES: usize = FEATURE_NAMES.len();

/// The deepest tree that is grown or accepted: ceil(log2(65 536)).
pub const MAX_DEPTH: u32 = 16;

/// In place of a feature: the node is a leaf.
pub(crate) const LEAF: u8 = u8::MAX;

/// A feature whose values in a node lie within this span counts as constant there.
const CONSTANT_SPAN: f32 = 1e-7;

const EULER_MASCHERONI: f64 = 0.577_215_664_901_532_9;

/// The mean length of an unsuccessful search in a binary search tree of `samples` nodes, c(n).
///
/// Source: Liu, Ting, Zhou, "Isolation Forest" (2008), equation 1; scikit-learn `_average_path_length`.
pub fn average_path_length(samples: u32) -> f64 {
    match samples {
        0 | 1 => 0.0,
        2 => 1.0,
        _ => {
            let n = f64::from(samples);
            2.0 * (libm::log(n - 1.0) + EULER_MASCHERONI) - 2.0 * (n - 1.0) / n
        }
    }
}

/// ceil(log2(samples)), at least 1: the depth at which growing stops.
pub const fn depth_limit(samples: u32) -> u32 {
    if samples <= 2 { 1 } else { (samples - 1).ilog2() + 1 }
}

/// An isolation tree in preorder, one array per property.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    /// Feature that a node splits on, [`LEAF`] for a leaf.
    feature: Vec<u8>,
    /// Split of a node, 0 for a leaf.
    threshold: Vec<f64>,
    /// Right child of a node, 0 for a leaf; the left child is the next node.
    right: Vec<u32>,
    /// Training rows that reached a leaf, 0 for a node that splits.
    samples: Vec<u32>,
    /// Path length of a leaf: its depth plus c(samples); 0 for a node that splits.
    path_length: Vec<f64>,
    depth: u32,
}

/// The arrays of a tree as scikit-learn's `tree_` gives them: a leaf has no children (-1).
#[derive(Clone, Copy, Debug)]
pub struct TreeArrays<'a> {
    /// Feature per node, ignored for leaves.
    pub feature: &'a [i32],
    /// Threshold per node, ignored for leaves.
    pub threshold: &'a [f64],
    /// Left child per node, -1 for leaves.
    pub left: &'a [i32],
    /// Right child per node, -1 for leaves.
    pub right: &'a [i32],
    /// Training rows per node.
    pub samples: &'a [u32],
}

impl Tree {
    /// Grows a tree on rows of finite values, which it reorders.
    pub(crate) fn grow(rows: &mut [[f32; FEATURES]], limit: u32, random: &mut ChaCha8Rng) -> Self {
        let mut builder = Builder::with_capacity(2 * rows.len());
        builder.grow(rows, 0, limit, random);
        builder.tree
    }

    /// Builds a tree from the arrays of another implementation.
    ///
    /// # Errors
    /// [`Error::Tree`] where the arrays have different lengths, a child or a feature is out of range, a node is
    /// reached twice, a threshold is not finite or the tree is deeper than [`MAX_DEPTH`].
    pub fn import(arrays: &TreeArrays<'_>) -> Result<Self, Error> {
        let nodes = arrays.feature.len();
        let lengths = [arrays.threshold.len(), arrays.left.len(), arrays.right.len(), arrays.samples.len()];
        if lengths != [nodes; 4] {
            return Err(Error::Tree { reason: "its arrays have different lengths" });
        }
        let mut builder = Builder::with_capacity(nodes);
        builder.import(arrays, 0, 0)?;
        Ok(builder.tree)
    }

    /// The depth of the deepest leaf; 0 where the root is one.
    pub const fn depth(&self) -> u32 {
        self.depth
    }

    /// The number of nodes, leaves included.
    pub fn nodes(&self) -> usize {
        self.feature.len()
    }

    /// What a node is.
    pub(crate) fn node(&self, index: usize) -> Node {
        match self.feature[index] {
            LEAF => Node::Leaf { samples: self.samples[index], path_length: self.path_length[index] },
            feature => Node::Split { feature, threshold: self.threshold[index], right: self.right[index] as usize },
        }
    }

    /// The path length of a row: the depth of its leaf plus c(rows in the leaf). The reference traversal.
    pub fn path_length(&self, row: &[f32; FEATURES]) -> f64 {
        let mut index = 0;
        loop {
            match self.node(index) {
                Node::Leaf { path_length, .. } => return path_length,
                Node::Split { feature, threshold, right } => {
                    let goes_left = f64::from(row[usize::from(feature)]) <= threshold;
                    index = if goes_left { index + 1 } else { right };
                }
            }
        }
    }
}

/// One node of a [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Node {
    /// Rows end here.
    Leaf { samples: u32, path_length: f64 },
    /// Rows with `value <= threshold` go to the next node, the others to `right`.
    Split { feature: u8, threshold: f64, right: usize },
}

/// Appends nodes in preorder.
pub(crate) struct Builder {
    tree: Tree,
}

impl Builder {
    pub fn with_capacity(nodes: usize) -> Self {
        Self {
            tree: Tree {
                feature: Vec::with_capacity(nodes),
                threshold: Vec::with_capacity(nodes),
                right: Vec::with_capacity(nodes),
                samples: Vec::with_capacity(nodes),
                path_length: Vec::with_capacity(nodes),
                depth: 0,
            },
        }
    }

    pub fn finish(self) -> Tree {
        self.tree
    }

    pub fn nodes(&self) -> usize {
        self.tree.feature.len()
    }

    pub fn leaf(&mut self, samples: u32, depth: u32) {
        self.push(LEAF, 0.0, samples, f64::from(depth) + average_path_length(samples));
        self.tree.depth = self.tree.depth.max(depth);
    }

    /// Appends a split and returns its index; [`Self::right_begins`] completes it.
    pub fn split(&mut self, feature: u8, threshold: f64) -> usize {
        self.push(feature, threshold, 0, 0.0);
        self.nodes() - 1
    }

    /// The next node is the right child of this split.
    pub fn right_begins(&mut self, split: usize) {
        self.tree.right[split] = self.nodes() as u32;
    }

    fn push(&mut self, feature: u8, threshold: f64, samples: u32, path_length: f64) {
        self.tree.feature.push(feature);
        self.tree.threshold.push(threshold);
        self.tree.right.push(0);
        self.tree.samples.push(samples);
        self.tree.path_length.push(path_length);
    }

    fn grow(&mut self, rows: &mut [[f32; FEATURES]], depth: u32, limit: u32, random: &mut ChaCha8Rng) {
        let split = if depth < limit && rows.len() > 1 { draw_split(rows, random) } else { None };
        let Some((feature, threshold)) = split else {
            return self.leaf(rows.len() as u32, depth);
        };
        let index = self.split(feature, threshold);
        let (left, right) = partition(rows, usize::from(feature), threshold);
        self.grow(left, depth + 1, limit, random);
        self.right_begins(index);
        self.grow(right, depth + 1, limit, random);
    }

    fn import(&mut self, arrays: &TreeArrays<'_>, node: usize, depth: u32) -> Result<(), Error> {
        let refused = |reason| Err(Error::Tree { reason });
        if node >= arrays.feature.len() {
            return refused("a child is out of range");
        }
        if self.nodes() >= arrays.feature.len() {
            return refused("a node is reached twice");
        }
        if depth > MAX_DEPTH {
            return refused("it is deeper than 16");
        }
        let (Ok(left), Ok(right)) = (usize::try_from(arrays.left[node]), usize::try_from(arrays.right[node])) else {
            self.leaf(arrays.samples[node], depth);
            return Ok(());
        };
        let feature = match u8::try_from(arrays.feature[node]) {
            Ok(feature) if usize::from(feature) < FEATURES => feature,
            _ => return refused("a feature is out of range"),
        };
        if !arrays.threshold[node].is_finite() {
            return refused("a threshold is not finite");
        }
        let index = self.split(feature, arrays.threshold[node]);
        self.import(arrays, left, depth + 1)?;
        self.right_begins(index);
        self.import(arrays, right, depth + 1)
    }
}

/// Draws features until one is not constant in these rows, then a threshold uniformly between its extremes.
/// `None` where all are constant.
fn draw_split(rows: &[[f32; FEATURES]], random: &mut ChaCha8Rng) -> Option<(u8, f64)> {
    let mut features: [u8; FEATURES] = std::array::from_fn(|i| i as u8);
    for remaining in (1..=FEATURES).rev() {
        let drawn = below(random, remaining as u64) as usize;
        features.swap(drawn, remaining - 1);
        let feature = features[remaining - 1];
        let (min, max) = extremes(rows, usize::from(feature));
        if max > min + CONSTANT_SPAN {
            return Some((feature, between(random, f64::from(min), f64::from(max))));
        }
    }
    None
}

fn extremes(rows: &[[f32; FEATURES]], feature: usize) -> (f32, f32) {
    rows.iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(min, max), row| (min.min(row[feature]), max.max(row[feature])))
}

/// Puts the rows that go left first.
fn partition(
    rows: &mut [[f32; FEATURES]],
    feature: usize,
    threshold: f64,
) -> (&mut [[f32; FEATURES]], &mut [[f32; FEATURES]]) {
    let mut left = 0;
    for row in 0..rows.len() {
        if f64::from(rows[row][feature]) <= threshold {
            rows.swap(row, left);
            left += 1;
        }
    }
    assert!(left > 0 && left < rows.len(), "a threshold between two extremes leaves rows on both sides");
    rows.split_at_mut(left)
}

/// A number in `0..bound`. The bias of at most bound / 2^64 is accepted; written out, so that the trees of a seed do
/// not depend on how a version of `rand` does it. Source: Lemire, "Fast Random Integer Generation in an Interval".
pub(crate) fn below(random: &mut ChaCha8Rng, bound: u64) -> u64 {
    ((u128::from(random.next_u64()) * u128::from(bound)) >> 64) as u64
}

/// A number in `[min, max)`, from 53 random bits.
#[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
fn between(random: &mut ChaCha8Rng, min: f64, max: f64) -> f64 {
    let unit = (random.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64);
    let drawn = (max - min) * unit + min;
    if drawn >= max { min } else { drawn }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;
    use rstest::rstest;

    fn random() -> ChaCha8Rng {
        ChaCha8Rng::from_seed([7; 32])
    }

    /// Expected values: scikit-learn 1.9.1, `_average_path_length`.
    #[rstest]
    #[case(1, 0.0)]
    #[case(2, 1.0)]
    #[case(3, 1.207_392_357_589_623)]
    #[case(256, 10.244_770_920_119_917)]
    #[case(65_536, 21.335_141_107_488_486)]
    fn average_path_lengths_are_those_of_scikit_learn(#[case] samples: u32, #[case] expected: f64) {
        assert!((average_path_length(samples) - expected).abs() < 1e-14 * expected.max(1.0));
    }

    #[rstest]
    #[case(1, 1)]
    #[case(2, 1)]
    #[case(3, 2)]
    #[case(4, 2)]
    #[case(5, 3)]
    #[case(256, 8)]
    #[case(257, 9)]
    #[case(65_536, MAX_DEPTH)]
    fn depth_is_limited_to_the_rounded_up_logarithm(#[case] samples: u32, #[case] limit: u32) {
        assert_eq!(depth_limit(samples), limit);
    }

    #[test]
    fn a_grown_tree_ends_at_its_limit_and_keeps_every_row() {
        let mut rows: Vec<_> = (0..256_u16).map(|i| [f32::from(i), f32::from(i % 7), 0.0, 0.0, 0.0]).collect();
        let tree = Tree::grow(&mut rows, 8, &mut random());
        let leaves = (0..tree.nodes()).filter_map(|i| match tree.node(i) {
            Node::Leaf { samples, .. } => Some(samples),
            Node::Split { .. } => None,
        });
        assert_eq!(leaves.sum::<u32>(), 256);
        assert_eq!(tree.depth(), 8);
    }

    #[test]
    fn constant_features_are_never_split_on() {
        let mut rows: Vec<_> =
            (0..64_u8).map(|i| [1.0, 1.0 + 5e-8, f32::from(i), 3.0, 1e-8 * f32::from(i % 2)]).collect();
        let tree = Tree::grow(&mut rows, 6, &mut random());
        assert!(tree.nodes() > 1);
        for index in 0..tree.nodes() {
            assert!(matches!(tree.node(index), Node::Leaf { .. } | Node::Split { feature: 2, .. }));
        }
    }

    #[test]
    fn rows_that_do_not_differ_make_a_single_leaf() {
        let tree = Tree::grow(&mut [[1.5; FEATURES]; 10], 4, &mut random());
        assert_eq!(tree.nodes(), 1);
        assert_eq!(tree.path_length(&[9.0; FEATURES]), average_path_length(10));
    }

    #[test]
    fn features_and_thresholds_are_drawn_uniformly() {
        let rows = [[0.0; FEATURES], [1.0, 2.0, 3.0, 4.0, 5.0]];
        let mut random = random();
        let mut counts = [[0_u32; 4]; FEATURES];
        for _ in 0..40_000 {
            let (feature, threshold) = draw_split(&rows, &mut random).unwrap();
            let span = f64::from(rows[1][usize::from(feature)]);
            assert!((0.0..span).contains(&threshold));
            #[expect(clippy::cast_sign_loss, reason = "within 0 to 4")]
            let quarter = (4.0 * threshold / span) as usize;
            counts[usize::from(feature)][quarter] += 1;
        }
        // 2 000 expected in each of 20 cells, deviation 44: six of them.
        assert!(counts.iter().flatten().all(|count| count.abs_diff(2_000) < 264), "{counts:?}");
    }

    const STUMP: TreeArrays<'static> = TreeArrays {
        feature: &[1, -2, -2],
        threshold: &[0.5, -2.0, -2.0],
        left: &[1, -1, -1],
        right: &[2, -1, -1],
        samples: &[3, 2, 1],
    };

    #[test]
    fn a_value_equal_to_the_threshold_goes_left() {
        let tree = Tree::import(&STUMP).unwrap();
        let at = |value| tree.path_length(&[0.0, value, 0.0, 0.0, 0.0]);
        assert_eq!((at(0.5), at(0.5_f32.next_up()), at(f32::NAN)), (2.0, 1.0, 1.0));
    }

    #[rstest]
    #[case(TreeArrays { left: &[1, -1], ..STUMP }, "lengths")]
    #[case(TreeArrays { left: &[3, -1, -1], ..STUMP }, "out of range")]
    #[case(TreeArrays { left: &[0, -1, -1], ..STUMP }, "twice")]
    #[case(TreeArrays { feature: &[5, -2, -2], ..STUMP }, "feature")]
    #[case(TreeArrays { threshold: &[f64::NAN, 0.0, 0.0], ..STUMP }, "finite")]
    #[case(TreeArrays { feature: &[], threshold: &[], left: &[], right: &[], samples: &[] }, "out of range")]
    fn arrays_that_are_no_tree_are_refused(#[case] arrays: TreeArrays<'_>, #[case] reason: &str) {
        let refusal = Tree::import(&arrays).unwrap_err().to_string();
        assert!(refusal.contains(reason), "{refusal}");
    }
}
