//! A trained model: scaler, forest, thresholds and the specification of its features. Immutable; the same bytes in
//! its artifact whenever and wherever it was trained. Never changes a threshold after training.

use domain::{
    AlertLimits, FeatureVector, Reach, Symbol,
    features::{ROLLING_VOLUME_STD, Z_SCORE_VOLUME, Z_SCORES},
};

use crate::{
    forest::Forest,
    scaler::{Scale, Scales},
    training::TrainParameters,
    tree::FEATURES,
};

/// What a model says about one event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// The decision function: score minus threshold. Negative = anomaly.
    pub anomaly_score: f64,
    /// Whether the anomaly score is below zero, strictly.
    pub is_anomaly: bool,
}

/// What is read off the training rows and their scores.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Thresholds {
    /// A score below this is an anomaly.
    pub offset: f64,
    /// As a value of the decision function, at most 0.
    pub alert: f64,
    /// As a value of the decision function.
    pub training_minimum: f64,
    /// In the unit of the features; none in models of before there was one.
    pub reach: Option<[Reach; Z_SCORES]>,
    /// In usual rolling deviations of the volume; none in models of before there was one.
    pub surplus: Option<f64>,
}

/// A trained detector.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    parameters: TrainParameters,
    scales: Scales,
    forest: Forest,
    thresholds: Thresholds,
    specification_hash: String,
}

/// Rows that are standardised and scored before the next ones are.
const BLOCK: usize = 1_024;

impl Model {
    pub(crate) const fn new(
        parameters: TrainParameters,
        scales: Scales,
        forest: Forest,
        thresholds: Thresholds,
        specification_hash: String,
    ) -> Self {
        Self { parameters, scales, forest, thresholds, specification_hash }
    }

    /// Judges one event. A feature that is NaN counts as larger than every threshold.
    pub fn verdict(&self, symbol: Symbol, features: &FeatureVector) -> Verdict {
        self.judge(self.forest.score_sample(&self.scales.of(symbol).apply(features)))
    }

    /// Judges many events on the calling thread, each to the bit as [`Self::verdict`] does.
    ///
    /// # Panics
    /// Where the slices have different lengths.
    pub fn verdicts(&self, symbols: &[Symbol], rows: &[FeatureVector]) -> Vec<Verdict> {
        assert_eq!(symbols.len(), rows.len(), "every row has its symbol");
        let mut verdicts = Vec::with_capacity(rows.len());
        let mut standard = Vec::with_capacity(BLOCK);
        let mut scores = [0.0; BLOCK];
        for (symbols, rows) in symbols.chunks(BLOCK).zip(rows.chunks(BLOCK)) {
            self.scales.apply(symbols, rows, &mut standard);
            let scores = &mut scores[..rows.len()];
            self.forest.score_samples_into(&standard, scores);
            verdicts.extend(scores.iter().map(|score| self.judge(*score)));
        }
        verdicts
    }

    /// Rows as the forest sees them: standardised by the scale of their symbols.
    ///
    /// # Panics
    /// Where the slices have different lengths.
    pub fn standardised(&self, symbols: &[Symbol], rows: &[FeatureVector]) -> Vec<[f32; FEATURES]> {
        let mut standard = Vec::with_capacity(rows.len());
        self.scales.apply(symbols, rows, &mut standard);
        standard
    }

    fn judge(&self, score: f64) -> Verdict {
        let anomaly_score = score - self.thresholds.offset;
        Verdict { anomaly_score, is_anomaly: anomaly_score < 0.0 }
    }

    /// What the model was trained with.
    pub const fn parameters(&self) -> &TrainParameters {
        &self.parameters
    }

    /// The scale of symbols that have none of their own.
    pub const fn global_scale(&self) -> &Scale {
        &self.scales.global
    }

    /// The symbols with a scale of their own, ascending.
    pub fn symbol_scales(&self) -> impl Iterator<Item = (Symbol, &Scale)> {
        self.scales.by_symbol.iter().map(|(symbol, scale)| (*symbol, scale))
    }

    /// The score below which a row is an anomaly: the contamination's quantile of the training scores, by linear
    /// interpolation. scikit-learn's `offset_`.
    pub const fn threshold(&self) -> f64 {
        self.thresholds.offset
    }

    /// From where on an alert may be raised: the alert quantile and the least of the scores of calm training rows, those
    /// of no labelled anomaly and its aftermath, how far the z-scores of such rows reach, half as far again, and which
    /// volumes are rare among them.
    pub const fn alert_limits(&self) -> AlertLimits {
        let Thresholds { alert, training_minimum, reach, surplus, .. } = self.thresholds;
        AlertLimits { threshold: alert, training_minimum, reach, surplus }
    }

    /// The z-score of the volume above which an event of the symbol is worth a notice, with the rolling deviation that it
    /// has: the less the market traded in the minute before, the higher. `None` where there is none.
    pub fn notice_above(&self, symbol: Symbol, features: &FeatureVector) -> Option<f64> {
        let usual = self.scales.of(symbol).means[ROLLING_VOLUME_STD];
        let above = self.thresholds.surplus? * usual / features[ROLLING_VOLUME_STD];
        (above.is_finite() && above > 0.0).then_some(above)
    }

    /// Whether the volume of an event is worth a notice.
    pub fn is_volume_rare(&self, symbol: Symbol, features: &FeatureVector) -> bool {
        self.notice_above(symbol, features).is_some_and(|above| features[Z_SCORE_VOLUME] > above)
    }

    /// The model as it was trained before there were notices, and before there was a reach of z-scores: the bytes of its
    /// artifact are those of then.
    #[must_use]
    pub fn of_before(&self) -> [Self; 2] {
        let with = |thresholds| Self { thresholds, ..self.clone() };
        let without_surplus = Thresholds { surplus: None, ..self.thresholds.clone() };
        [with(without_surplus.clone()), with(Thresholds { reach: None, ..without_surplus })]
    }

    /// Rows that each tree was grown on: the parameter, or all rows where there were fewer.
    pub const fn max_samples_used(&self) -> u32 {
        self.forest.max_samples()
    }

    /// The hash of the feature specification, see [`crate::specification::hash`].
    pub fn specification_hash(&self) -> &str {
        &self.specification_hash
    }

    pub(crate) const fn scales(&self) -> &Scales {
        &self.scales
    }

    pub(crate) const fn forest(&self) -> &Forest {
        &self.forest
    }

    pub(crate) const fn thresholds(&self) -> &Thresholds {
        &self.thresholds
    }
}
