//! From feature rows to a model: the training set, the parameters and the one function that joins scaler, forest and
//! thresholds. Deterministic for (set, parameters) whatever the number of rayon threads; the order of rows matters.

#![allow(clippy::cast_possible_truncation, reason = "row counts are checked against MAX_ROWS, which fits u32")]

use domain::{
    FEATURE_NAMES, FeatureVector, Reach, Symbol,
    features::{MAX_Z_SCORE, ROLLING_VOLUME_STD, Z_SCORE_VOLUME},
};
use rayon::prelude::*;

use crate::{
    error::Error,
    forest::Forest,
    model::{Model, Thresholds},
    quantile,
    scaler::Scales,
    specification,
    tree::FEATURES,
};

/// The most rows a model is trained on.
pub const MAX_ROWS: usize = 100_000_000;

/// The most trees of a forest.
pub const MAX_TREES: u32 = 10_000;

/// The most rows a tree is grown on.
pub const MAX_SAMPLES: u32 = 65_536;

/// By how much of the range of calm training rows a z-score may leave it, to either side, before it is out of reach.
const REACH_BEYOND: f64 = 0.5;

/// Rows that one rayon task scales or scores.
const ROWS_PER_TASK: usize = 4_096;

/// The rows that a model is trained on, as columns of equal length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainingSet {
    pub(crate) symbols: Vec<Symbol>,
    pub(crate) rows: Vec<FeatureVector>,
    /// Places of rows that are not calm, ascending.
    disturbed: Vec<usize>,
}

impl TrainingSet {
    /// A set without rows.
    pub const fn new() -> Self {
        Self { symbols: Vec::new(), rows: Vec::new(), disturbed: Vec::new() }
    }

    /// A set without rows and with room for some.
    pub fn with_capacity(rows: usize) -> Self {
        Self { symbols: Vec::with_capacity(rows), rows: Vec::with_capacity(rows), disturbed: Vec::new() }
    }

    /// Adds a row that is known to be of an anomaly or its aftermath: it is learnt from like any other, and leaves the
    /// limits of alerts as they are.
    pub fn push_disturbed(&mut self, symbol: Symbol, vector: FeatureVector) {
        self.disturbed.push(self.rows.len());
        self.push(symbol, vector);
    }

    /// Adds a row, calm as far as is known.
    pub fn push(&mut self, symbol: Symbol, vector: FeatureVector) {
        self.symbols.push(symbol);
        self.rows.push(vector);
    }

    /// The symbols of the rows.
    pub fn symbols(&self) -> &[Symbol] {
        &self.symbols
    }

    /// The feature vectors of the rows.
    pub fn rows(&self) -> &[FeatureVector] {
        &self.rows
    }

    /// The number of rows.
    pub const fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn check(&self) -> Result<(), Error> {
        if self.rows.is_empty() {
            return Err(Error::EmptyTrainingSet);
        }
        if self.rows.len() > MAX_ROWS {
            return Err(Error::TooManyRows { rows: self.rows.len(), limit: MAX_ROWS });
        }
        for (row, vector) in self.rows.iter().enumerate() {
            if let Some(feature) = vector.iter().position(|value| !value.is_finite()) {
                return Err(Error::NotFinite { row, feature: FEATURE_NAMES[feature], value: vector[feature] });
            }
        }
        Ok(())
    }
}

/// How a model is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainParameters {
    /// Trees of the forest, 1 to [`MAX_TREES`].
    pub trees: u32,
    /// Rows drawn for each tree, 2 to [`MAX_SAMPLES`]; all rows where there are fewer.
    pub max_samples: u32,
    /// The share of training rows that the model calls anomalies, above 0 and at most 0.5.
    pub contamination: f64,
    /// What the chance of the training depends on.
    pub seed: u64,
    /// The share of calm training rows beyond the alert threshold, above 0 and at most 0.5.
    pub alert_quantile: f64,
}

impl Default for TrainParameters {
    fn default() -> Self {
        Self { trees: 200, max_samples: 256, contamination: 0.01, seed: 42, alert_quantile: 0.0005 }
    }
}

impl TrainParameters {
    /// Checks the limits.
    ///
    /// # Errors
    /// [`Error::Parameter`] naming the parameter, its value and what is accepted.
    pub fn check(&self) -> Result<(), Error> {
        let refused = |parameter, value: String, limit| Err(Error::Parameter { parameter, value, limit });
        let is_share = |value: f64| value > 0.0 && value <= 0.5;
        if !(1..=MAX_TREES).contains(&self.trees) {
            return refused("trees", self.trees.to_string(), "1 to 10000");
        }
        if !(2..=MAX_SAMPLES).contains(&self.max_samples) {
            return refused("max_samples", self.max_samples.to_string(), "2 to 65536");
        }
        if !is_share(self.contamination) {
            return refused("contamination", self.contamination.to_string(), "above 0 and at most 0.5");
        }
        if !is_share(self.alert_quantile) {
            return refused("alert_quantile", self.alert_quantile.to_string(), "above 0 and at most 0.5");
        }
        Ok(())
    }
}

/// Trains scaler, forest and thresholds.
///
/// Uses the rayon pool that it is called in; its result does not depend on the size of that pool.
///
/// # Errors
/// [`Error::EmptyTrainingSet`], [`Error::TooManyRows`], [`Error::NotFinite`] or [`Error::Overflow`] for the set,
/// [`Error::Parameter`] for the parameters.
pub fn train(set: &TrainingSet, parameters: &TrainParameters) -> Result<Model, Error> {
    parameters.check()?;
    set.check()?;
    let scales = Scales::fit(set)?;
    let standard = standardise(set, &scales);
    let max_samples = parameters.max_samples.min(standard.len() as u32);
    let forest = Forest::grow(&standard, parameters.trees, max_samples, parameters.seed);
    let thresholds = thresholds(&forest, &standard, &scales, set, parameters);
    Ok(Model::new(parameters.clone(), scales, forest, thresholds, specification::hash()))
}

/// Which rows are left where a share of them, the most anomalous, is not to be learnt from: those whose score by a first
/// model of all rows is not below that quantile of the scores. One entry per row.
///
/// # Errors
/// As [`train`]; [`Error::Parameter`] where the share is not above 0 and at most 0.5.
pub fn without_most_anomalous(set: &TrainingSet, parameters: &TrainParameters, share: f64) -> Result<Vec<bool>, Error> {
    if !(share > 0.0 && share <= 0.5) {
        let limit = "above 0 and at most 0.5";
        return Err(Error::Parameter { parameter: "trim", value: share.to_string(), limit });
    }
    let first = train(set, parameters)?;
    let verdicts = set.symbols.par_chunks(ROWS_PER_TASK).zip(set.rows.par_chunks(ROWS_PER_TASK));
    let verdicts: Vec<_> = verdicts.map(|(symbols, rows)| first.verdicts(symbols, rows)).collect();
    let scores: Vec<f64> = verdicts.iter().flatten().map(|verdict| verdict.anomaly_score).collect();
    let least = quantile::of_sorted(&quantile::sorted(&scores), share).unwrap_or(f64::NEG_INFINITY);
    Ok(scores.iter().map(|score| *score >= least).collect())
}

fn standardise(set: &TrainingSet, scales: &Scales) -> Vec<[f32; FEATURES]> {
    let blocks: Vec<Vec<_>> = set
        .symbols
        .par_chunks(ROWS_PER_TASK)
        .zip(set.rows.par_chunks(ROWS_PER_TASK))
        .map(|(symbols, rows)| {
            let mut standard = Vec::with_capacity(rows.len());
            scales.apply(symbols, rows, &mut standard);
            standard
        })
        .collect();
    blocks.concat()
}

/// Scores the training rows and reads the thresholds off their distribution: those of alerts off that of calm rows, of
/// all rows where none is calm.
fn thresholds(
    forest: &Forest,
    standard: &[[f32; FEATURES]],
    scales: &Scales,
    set: &TrainingSet,
    parameters: &TrainParameters,
) -> Thresholds {
    let mut scores = vec![0.0; standard.len()];
    scores
        .par_chunks_mut(ROWS_PER_TASK)
        .zip(standard.par_chunks(ROWS_PER_TASK))
        .for_each(|(scores, rows)| forest.score_samples_into(rows, scores));
    let calm = without(&scores, &set.disturbed);
    let scores = ascending(scores);
    let calm = calm.map(ascending);
    let calm = calm.as_deref().unwrap_or(&scores);
    let at = |scores: &[f64], q| quantile::of_sorted(scores, q).unwrap_or(-0.5);
    let offset = at(&scores, parameters.contamination);
    Thresholds {
        offset,
        // A score that raises an alert is always one of an anomaly too, even where the alert quantile is the wider one.
        alert: (at(calm, parameters.alert_quantile) - offset).min(0.0),
        training_minimum: at(calm, 0.0) - offset,
        reach: Some(std::array::from_fn(|feature| reach(set, feature, parameters))),
        surplus: Some(surplus(set, scales, parameters)),
    }
}

/// How far the values of a z-score reach in calm rows: from the alert quantile at one end to that at the other, the
/// contamination where that is less, and beyond both by [`REACH_BEYOND`] of what lies between. A few rows that lie far
/// out do not stretch it, as the least and the greatest value would.
fn reach(set: &TrainingSet, feature: usize, parameters: &TrainParameters) -> Reach {
    let calm = calm(set, set.rows.iter().map(|row| row[feature]).collect());
    let rare = parameters.alert_quantile.min(parameters.contamination);
    let at = |q| quantile::of_sorted(&calm, q).unwrap_or(0.0);
    let (low, high) = (at(rare), at(1.0 - rare));
    let beyond = REACH_BEYOND * (high - low);
    if beyond > 0.0 {
        Reach { low: low - beyond, high: high + beyond }
    } else {
        // Of a value that never changed nothing is known of how far it may.
        Reach { low: -MAX_Z_SCORE, high: MAX_Z_SCORE }
    }
}

/// By how much volumes of calm rows exceed their rolling means, in the rolling deviations that are usual for their symbols:
/// what all but the contamination of the rows stay within, so that a notice is as rare as an anomaly. The z-score is of the
/// deviation in the minute before, which a spike's first event raises for its second one, and a minute of little trade
/// makes small.
fn surplus(set: &TrainingSet, scales: &Scales, parameters: &TrainParameters) -> f64 {
    let of_row = |(symbol, row): (&Symbol, &FeatureVector)| {
        let usual = scales.of(*symbol).means[ROLLING_VOLUME_STD];
        if usual > 0.0 { row[Z_SCORE_VOLUME] * row[ROLLING_VOLUME_STD] / usual } else { 0.0 }
    };
    let calm = calm(set, set.symbols.iter().zip(&set.rows).map(of_row).collect());
    let limit = quantile::of_sorted(&calm, 1.0 - parameters.contamination).unwrap_or(0.0);
    // Where volumes never changed, nothing is known of which are rare.
    if limit > 0.0 { limit } else { f64::MAX }
}

/// The values of calm rows, ascending; of all rows where none is calm.
fn calm(set: &TrainingSet, values: Vec<f64>) -> Vec<f64> {
    ascending(without(&values, &set.disturbed).unwrap_or(values))
}

fn ascending(mut values: Vec<f64>) -> Vec<f64> {
    values.par_sort_unstable_by(f64::total_cmp);
    values
}

/// The values at other places than these, which ascend; `None` where that is all of them, or none.
fn without(values: &[f64], places: &[usize]) -> Option<Vec<f64>> {
    if places.is_empty() || places.len() == values.len() {
        return None;
    }
    let mut places = places.iter().peekable();
    let is_left = |(place, value): (usize, &f64)| places.next_if_eq(&&place).is_none().then_some(*value);
    Some(values.iter().enumerate().filter_map(is_left).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
    use rand_distr::{Distribution, StandardNormal};
    use rstest::rstest;

    fn set(rows: usize) -> TrainingSet {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let symbols = ["BTC-USDT", "ETH-USDT", "BNB-USDT"].map(|text| Symbol::parse(text).unwrap());
        let mut set = TrainingSet::with_capacity(rows);
        for row in 0..rows {
            let mut vector: FeatureVector = std::array::from_fn(|_| StandardNormal.sample(&mut random));
            vector[4] = vector[4].abs() * [1.0, 10.0, 300.0][row % 3];
            set.push(symbols[row % 3], vector);
        }
        set
    }

    fn small() -> TrainParameters {
        TrainParameters { trees: 20, ..TrainParameters::default() }
    }

    #[rstest]
    fn a_model_is_the_same_whatever_the_number_of_threads(#[values(2, 5)] threads: usize) {
        let set = set(10_000);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| train(&set, &small())).unwrap().to_bytes()
        };
        assert_eq!(on(1), on(threads));
    }

    #[test]
    fn the_share_of_anomalies_in_training_is_the_contamination() {
        let set = set(10_000);
        let model = train(&set, &TrainParameters { contamination: 0.03, ..small() }).unwrap();
        let verdicts = model.verdicts(set.symbols(), set.rows());
        let below = |limit: f64| verdicts.iter().filter(|verdict| verdict.anomaly_score < limit).count();
        assert_eq!(verdicts.iter().filter(|verdict| verdict.is_anomaly).count(), 300);
        let limits = model.alert_limits();
        assert_eq!((below(limits.threshold), below(limits.training_minimum)), (5, 0));
        assert!(limits.training_minimum < limits.threshold && limits.threshold < 0.0);
    }

    #[test]
    fn an_alert_is_an_anomaly_even_where_its_quantile_is_the_wider_one() {
        let model = train(&set(1_000), &TrainParameters { alert_quantile: 0.4, ..small() }).unwrap();
        assert_eq!(model.alert_limits().threshold, 0.0);
    }

    #[test]
    fn the_limits_of_alerts_are_those_of_calm_rows() {
        let parameters = TrainParameters { alert_quantile: 0.01, contamination: 0.1, ..small() };
        let (calm, mut with_spikes) = (set(1_000), set(1_000));
        // Each lies alone.
        let far = |place: i32| [9.0, -9.0, 9.0, 9.0, 9.0].map(|value: f64| value * f64::from(place));
        let symbol = calm.symbols()[0];
        (1..=20).for_each(|place| with_spikes.push_disturbed(symbol, far(place)));
        let model = train(&with_spikes, &parameters).unwrap();
        let verdicts = model.verdicts(calm.symbols(), calm.rows());
        let below = |limit: f64| verdicts.iter().filter(|verdict| verdict.anomaly_score < limit).count();
        let limits = model.alert_limits();
        assert_eq!((below(limits.threshold), below(limits.training_minimum)), (10, 0));
        // Where nothing else is known of them, spikes count like other rows.
        let mut unknown = set(1_000);
        (1..=20).for_each(|place| unknown.push(symbol, far(place)));
        let unaware = train(&unknown, &parameters).unwrap();
        assert_eq!(unaware.threshold(), model.threshold());
        assert!(unaware.alert_limits().threshold < limits.threshold);
    }

    /// 1 001 rows whose z-scores are -1 to 1 in steps of 0.002, the second one ten times that, the third one never other
    /// than 3.
    fn even() -> TrainingSet {
        let symbol = Symbol::parse("BTC-USDT").unwrap();
        let mut set = TrainingSet::new();
        for row in 0..=1_000 {
            let value = f64::from(row) / 500.0 - 1.0;
            set.push(symbol, [value, 10.0 * value, 3.0, 0.002, 9.0]);
        }
        set
    }

    #[test]
    fn z_scores_reach_half_as_far_again_as_those_of_calm_rows() {
        let parameters = TrainParameters { alert_quantile: 0.1, contamination: 0.2, ..small() };
        let reach_after = |set: &TrainingSet| train(set, &parameters).unwrap().alert_limits().reach.unwrap();
        let near = |value: f64, expected: f64| assert!((value - expected).abs() < 1e-9, "{value}, not {expected}");
        let mut set = even();
        let calm = reach_after(&set);
        // From -0.8 to 0.8 lie all but a tenth at each end.
        let [price, log_return, volume] = calm;
        near(price.low, -1.6);
        near(price.high, 1.6);
        near(log_return.low, -16.0);
        near(log_return.high, 16.0);
        assert_eq!(volume, Reach { low: -MAX_Z_SCORE, high: MAX_Z_SCORE }, "it may change as it likes");
        (0..100).for_each(|_| set.push_disturbed(set.symbols[0], [50.0, -100.0, 40.0, 0.1, 90.0]));
        assert_eq!(reach_after(&set), calm);
    }

    #[test]
    fn a_few_rows_far_out_do_not_stretch_the_reach() {
        let mut set = even();
        set.push(set.symbols[0], [100.0, -100.0, 3.0, 0.002, 9.0]);
        let parameters = TrainParameters { alert_quantile: 0.01, contamination: 0.02, ..small() };
        let reach = train(&set, &parameters).unwrap().alert_limits().reach.unwrap();
        assert!(reach[0].high < 2.0 && reach[1].low > -20.0, "{reach:?}");
    }

    #[test]
    fn the_reach_is_that_of_the_contamination_where_the_alert_quantile_is_the_wider_one() {
        let reach_at = |alert_quantile| {
            let parameters = TrainParameters { alert_quantile, contamination: 0.05, ..small() };
            train(&even(), &parameters).unwrap().alert_limits().reach
        };
        assert_eq!(reach_at(0.4), reach_at(0.05));
        assert_ne!(reach_at(0.01), reach_at(0.05));
    }

    /// 1 000 rows whose volumes lie 0 to 9.99 deviations above their means, half of them in minutes of twice the trade.
    fn of_volumes(unit: f64) -> TrainingSet {
        let symbol = Symbol::parse("BTC-USDT").unwrap();
        let mut set = TrainingSet::new();
        for row in 0..1_000_u32 {
            let (busy, value) = (1.0 + f64::from(row % 2), f64::from(row) / 100.0);
            set.push(symbol, [value, -value, value / busy, 0.002, 8.0 * busy * unit]);
        }
        set
    }

    #[rstest]
    fn volumes_are_rare_by_the_deviation_that_is_usual_whatever_their_unit(#[values(1.0, 1e6)] unit: f64) {
        let set = of_volumes(unit);
        let model = train(&set, &small()).unwrap();
        let rare = |model: &Model, row: &FeatureVector| model.is_volume_rare(set.symbols[0], row);
        assert_eq!(set.rows.iter().filter(|row| rare(&model, row)).count(), 10, "the contamination");
        // The volume of a busy minute is as rare as the same in a calm one, where it has twice the z-score.
        let of = |surplus: f64, busy: f64| [0.0, 0.0, surplus / busy, 0.002, 8.0 * busy * unit];
        for busy in [0.5, 1.0, 2.0, 9.0] {
            assert!(rare(&model, &of(9.9, busy)) && !rare(&model, &of(9.88, busy)), "{busy}");
        }
        // As are those of a symbol that was never seen, by the deviation of all.
        assert!(model.is_volume_rare(Symbol::parse("NEW-USDT").unwrap(), &of(9.9, 1.0)));
        for model in model.of_before() {
            assert!(!rare(&model, &of(99.0, 1.0)), "models of before there were notices have none");
        }
    }

    #[test]
    fn disturbed_rows_make_no_volume_less_rare() {
        let surplus = |set: &TrainingSet| train(set, &small()).unwrap().alert_limits().surplus.unwrap();
        let mut set = of_volumes(1.0);
        let calm = surplus(&set);
        let usual = train(&set, &small()).unwrap().global_scale().means[ROLLING_VOLUME_STD];
        // With the deviation that is usual, so that it stays the usual one.
        (0..100).for_each(|_| set.push_disturbed(set.symbols[0], [0.0, 0.0, 100.0, 0.002, usual]));
        assert!((surplus(&set) - calm).abs() < 1e-9);
        (0..100).for_each(|_| set.push(set.symbols[0], [0.0, 0.0, 100.0, 0.002, usual]));
        assert!(surplus(&set) > 2.0 * calm);
    }

    #[rstest]
    #[case::they_never_changed([0.0, 0.0, 0.0, 0.002, 0.0])]
    #[case::they_only_fell([0.0, 0.0, -1.0, 0.002, 9.0])]
    fn no_volume_is_rare_where_nothing_is_known_of_which_are(#[case] row: FeatureVector) {
        let symbol = Symbol::parse("BTC-USDT").unwrap();
        let mut set = TrainingSet::new();
        (0..200).for_each(|_| set.push(symbol, row));
        let model = train(&set, &small()).unwrap();
        assert!(!model.is_volume_rare(symbol, &[0.0, 0.0, 100.0, 0.002, 9e9]));
        assert_eq!(Model::from_bytes(&model.to_bytes()).unwrap(), model);
    }

    #[test]
    fn what_lies_far_outside_is_an_anomaly_and_the_middle_is_not() {
        let model = train(&set(5_000), &TrainParameters::default()).unwrap();
        let symbol = Symbol::parse("BTC-USDT").unwrap();
        assert!(model.verdict(symbol, &[9.0, -9.0, 9.0, 9.0, 9.0]).is_anomaly);
        assert!(!model.verdict(symbol, &[0.0, 0.0, 0.0, 0.0, 0.7]).is_anomaly);
    }

    #[test]
    fn every_symbol_is_judged_on_its_own_scale() {
        let model = train(&set(5_000), &TrainParameters::default()).unwrap();
        let row = [2.0, -2.0, 2.0, 2.0, 250.0];
        let score = |text: &str| model.verdict(Symbol::parse(text).unwrap(), &row).anomaly_score;
        assert!(score("BTC-USDT") < score("BNB-USDT"));
        assert_ne!(score("NEW-USDT").to_bits(), score("BNB-USDT").to_bits());
        assert_eq!(model.symbol_scales().count(), 3);
    }

    #[test]
    fn a_set_smaller_than_the_sample_is_used_whole() {
        let model = train(&set(100), &small()).unwrap();
        assert_eq!((model.max_samples_used(), model.parameters().max_samples), (100, 256));
        let single = train(&set(1), &small()).unwrap();
        assert_eq!((single.max_samples_used(), single.threshold()), (1, -0.5));
        assert_eq!(Model::from_bytes(&single.to_bytes()).unwrap(), single);
    }

    #[test]
    fn the_most_anomalous_rows_can_be_left_out() {
        let set = set(1_000);
        let kept = without_most_anomalous(&set, &small(), 0.02).unwrap();
        assert_eq!(kept.iter().filter(|kept| !**kept).count(), 20);
        let first = train(&set, &small()).unwrap();
        let scores = first.verdicts(set.symbols(), set.rows()).into_iter().map(|verdict| verdict.anomaly_score);
        let (left, out): (Vec<_>, Vec<_>) = scores.zip(&kept).partition(|(_, kept)| **kept);
        let least = left.iter().map(|(score, _)| *score).fold(f64::INFINITY, f64::min);
        assert!(out.iter().all(|(score, _)| *score < least));
        let refused = without_most_anomalous(&set, &small(), 0.6).unwrap_err();
        assert!(matches!(refused, Error::Parameter { parameter: "trim", .. }), "{refused}");
    }

    #[test]
    fn an_empty_set_is_refused() {
        assert!(matches!(train(&TrainingSet::new(), &small()), Err(Error::EmptyTrainingSet)));
    }

    #[rstest]
    #[case(f64::NAN)]
    #[case(f64::INFINITY)]
    #[case(f64::NEG_INFINITY)]
    fn a_value_that_is_not_finite_is_refused_with_its_place(#[case] value: f64) {
        let mut set = set(200);
        set.rows[150][2] = value;
        assert!(matches!(train(&set, &small()), Err(Error::NotFinite { row: 150, feature: "z_score_volume", .. })));
    }

    #[rstest]
    #[case(TrainParameters { trees: 0, ..small() }, "trees")]
    #[case(TrainParameters { trees: 10_001, ..small() }, "trees")]
    #[case(TrainParameters { max_samples: 1, ..small() }, "max_samples")]
    #[case(TrainParameters { max_samples: 65_537, ..small() }, "max_samples")]
    #[case(TrainParameters { contamination: 0.0, ..small() }, "contamination")]
    #[case(TrainParameters { contamination: 0.51, ..small() }, "contamination")]
    #[case(TrainParameters { contamination: f64::NAN, ..small() }, "contamination")]
    #[case(TrainParameters { alert_quantile: -0.1, ..small() }, "alert_quantile")]
    fn a_parameter_outside_its_limits_is_refused(#[case] parameters: TrainParameters, #[case] name: &str) {
        let refusal = train(&set(10), &parameters).unwrap_err();
        assert!(matches!(refusal, Error::Parameter { parameter, .. } if parameter == name), "{refusal}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_batch_says_bit_for_bit_what_single_verdicts_say(
            rows in prop::collection::vec(prop::array::uniform5(-100.0_f64..100.0), 0..2_500),
            max_samples in prop::sample::select(vec![16_u32, 256, 1_024]),
        ) {
            let model = train(&set(1_500), &TrainParameters { max_samples, trees: 5, ..small() }).unwrap();
            let names = ["BTC-USDT", "BTC-USDT", "NEW-USDT", "ETH-USDT"].map(|text| Symbol::parse(text).unwrap());
            let symbols: Vec<_> = (0..rows.len()).map(|row| names[row % 4]).collect();
            let batch = model.verdicts(&symbols, &rows);
            prop_assert_eq!(batch.len(), rows.len());
            for ((symbol, row), verdict) in symbols.iter().zip(&rows).zip(batch) {
                let alone = model.verdict(*symbol, row);
                prop_assert_eq!(alone.anomaly_score.to_bits(), verdict.anomaly_score.to_bits());
                prop_assert_eq!(alone.is_anomaly, verdict.anomaly_score < 0.0);
            }
        }
    }
}
