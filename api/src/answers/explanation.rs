//! The objects of `POST /explain`: a verdict, what led to it, and what would have been usual.

use domain::{FEATURE_NAMES, FeatureVector, Symbol};
use jobs::active::ActiveModel;
use models::{Explanation, explain};
use poem_openapi::{Object, types::Example};
use serde::Serialize;

/// Why a feature vector is judged as it is.
#[derive(Serialize, Object)]
#[oai(example)]
pub struct ExplainAnswer {
    /// The market asked about.
    pub symbol: String,
    /// The decision function, as `/predict` answers it: negative = anomaly.
    pub anomaly_score: f64,
    /// Whether the model calls it an anomaly.
    pub is_anomaly: bool,
    /// Version of the model that judged.
    pub model_version: i64,
    /// What the model subtracts from its score, so that anomalies come out negative.
    pub threshold: f64,
    /// The anomaly score below which an anomaly is worth an alert.
    pub alert_threshold: f64,
    /// The lowest anomaly score of a row that the model was trained on.
    pub training_minimum: f64,
    /// Every feature, by descending share.
    pub features: Vec<ExplainedFeature>,
    /// How the row went through the trees.
    pub path: ExplainedPath,
}

/// What one feature did, and what is usual for it.
#[derive(Serialize, Object)]
pub struct ExplainedFeature {
    /// Its name.
    pub feature: String,
    /// Its value.
    pub value: f64,
    /// By how many splits it shortens the mean path; negative where it speaks for a normal row. The contributions add
    /// up to `training_depth` minus `mean_depth`: they are its Shapley values.
    pub contribution: f64,
    /// Its part of all contributions above zero; 0 where its own is not. Shares add up to 1, or are all 0 where no
    /// feature speaks for an anomaly.
    pub share: f64,
    /// Two deviations below the mean of the market's training rows.
    pub expected_low: f64,
    /// Two deviations above that mean.
    pub expected_high: f64,
    /// How many deviations the value lies above that mean; negative below it.
    pub deviations: f64,
    /// A z-score below this is worth an alert whatever the anomaly score; null for other features, and where the model is
    /// older than such limits.
    #[oai(nullable)]
    pub alert_low: Option<f64>,
    /// So is one above this.
    #[oai(nullable)]
    pub alert_high: Option<f64>,
    /// A z-score above this is worth a notice, with the rolling deviation that the vector has; null for other features than
    /// that of the volume, and where the model is older than notices.
    #[oai(nullable)]
    pub notice_above: Option<f64>,
}

/// How the row went through the trees. Depths count the splits to a leaf and those that its rows would still need.
#[derive(Serialize, Object)]
pub struct ExplainedPath {
    /// The row's mean depth over the trees; the smaller, the more anomalous.
    pub mean_depth: f64,
    /// The mean depth of the rows that the trees were grown on.
    pub training_depth: f64,
    /// The depth that the score measures by: what an average row would have in theory.
    pub expected_depth: f64,
    /// The number of trees.
    pub trees: u32,
    /// Trees in which at most three splits leave the row with no more than one training row.
    pub isolated_within_3_splits: u32,
}

impl ExplainAnswer {
    /// Explains what a model says about a vector; takes milliseconds.
    pub fn of(active: &ActiveModel, symbol: Symbol, features: &FeatureVector) -> Self {
        Self::telling(active, symbol, &active.model.explain(symbol, features))
    }

    /// Tells how a model explains what it says about a vector of a market.
    pub fn telling(active: &ActiveModel, symbol: Symbol, explanation: &Explanation) -> Self {
        let model = &active.model;
        Self {
            symbol: symbol.as_str().to_owned(),
            anomaly_score: explanation.verdict.anomaly_score,
            is_anomaly: explanation.verdict.is_anomaly,
            model_version: active.version,
            threshold: model.threshold(),
            alert_threshold: model.alert_limits().threshold,
            training_minimum: model.alert_limits().training_minimum,
            features: explanation.features.iter().map(ExplainedFeature::from).collect(),
            path: ExplainedPath::from(&explanation.path),
        }
    }
}

impl From<&explain::ExplainedFeature> for ExplainedFeature {
    fn from(explained: &explain::ExplainedFeature) -> Self {
        Self {
            feature: explained.feature.to_owned(),
            value: explained.value,
            contribution: explained.contribution,
            share: explained.share,
            expected_low: explained.expected_low,
            expected_high: explained.expected_high,
            deviations: explained.deviations,
            alert_low: explained.reach.map(|reach| reach.low),
            alert_high: explained.reach.map(|reach| reach.high),
            notice_above: explained.notice_above,
        }
    }
}

impl From<&explain::PathSummary> for ExplainedPath {
    fn from(path: &explain::PathSummary) -> Self {
        Self {
            mean_depth: path.mean_depth,
            training_depth: path.training_depth,
            expected_depth: path.expected_depth,
            trees: path.trees,
            isolated_within_3_splits: path.isolated_within_3_splits,
        }
    }
}

impl Example for ExplainAnswer {
    fn example() -> Self {
        let [price, log_return, volume, price_std, volume_std] = FEATURE_NAMES;
        let feature = |name: &str, numbers: [f64; 6], reach: Option<[f64; 2]>| {
            let [value, contribution, share, expected_low, expected_high, deviations] = numbers;
            let [alert_low, alert_high] = [0, 1].map(|end| reach.map(|reach| reach[end]));
            ExplainedFeature {
                feature: name.to_owned(),
                value,
                contribution,
                share,
                expected_low,
                expected_high,
                deviations,
                alert_low,
                alert_high,
                notice_above: (name == volume).then_some(1.68),
            }
        };
        Self {
            symbol: "BTC-USDT".to_owned(),
            anomaly_score: -0.1192,
            is_anomaly: true,
            model_version: 1,
            threshold: -0.6011,
            alert_threshold: -0.0312,
            training_minimum: -0.0487,
            features: vec![
                feature(price, [4.5, 2.04, 0.288, -1.94, 2.0, 4.53], Some([-7.92, 7.88])),
                feature(log_return, [3.8, 1.65, 0.233, -1.99, 1.97, 3.85], Some([-7.11, 7.06])),
                feature(price_std, [0.008, 1.61, 0.227, -0.0009, 0.004, 5.27], None),
                feature(volume_std, [25.0, 1.46, 0.206, -4.03, 20.31, 2.77], None),
                feature(volume, [1.5, 0.33, 0.046, -1.96, 2.02, 1.48], Some([-7.55, 14.62])),
            ],
            path: ExplainedPath {
                mean_depth: 4.85,
                training_depth: 11.94,
                expected_depth: 10.24,
                trees: 200,
                isolated_within_3_splits: 60,
            },
        }
    }
}
