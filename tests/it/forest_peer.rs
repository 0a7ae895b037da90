//! Our isolation forest beside scikit-learn's on the same rows: their scores differ no more than scikit-learn's own
//! do from seed to seed.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::process::Command;

use domain::{FeatureVector, Symbol};
use models::{TrainParameters, TrainingSet, metrics::kolmogorov_smirnov, train};
use serde_json::Value;

use crate::requirements;

/// Prints rows of standardised features and, for seeds 0 to 20, scikit-learn's `score_samples` of them.
const SCIKIT_LEARN: &str = "
import json
import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.preprocessing import StandardScaler
random = np.random.default_rng(2024)
rows = random.normal(size=(4000, 5))
rows[:, 3:] = np.abs(rows[:, 3:])
rows[::80, :3] *= 5.0
rows = StandardScaler().fit_transform(rows)
def scores(seed):
    forest = IsolationForest(n_estimators=200, contamination=0.01, random_state=seed).fit(rows)
    return forest.score_samples(rows).tolist()
print(json.dumps({'rows': rows.tolist(), 'scores': [scores(seed) for seed in range(21)]}))
";

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn our_scores(rows: &[FeatureVector]) -> Vec<f64> {
    let symbol = Symbol::parse("BTC-USDT").unwrap();
    let mut set = TrainingSet::with_capacity(rows.len());
    for row in rows {
        set.push(symbol, *row);
    }
    let model = train(&set, &TrainParameters::default()).unwrap();
    let verdicts = model.verdicts(&vec![symbol; rows.len()], rows);
    verdicts.iter().map(|verdict| verdict.anomaly_score + model.threshold()).collect()
}

#[test]
fn our_scores_differ_from_scikit_learns_no_more_than_its_seeds_do() {
    let Some(python) = requirements::python(&["numpy", "sklearn"]) else { return };
    let output = Command::new(python).args(["-c", SCIKIT_LEARN]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows: Vec<FeatureVector> =
        answer["rows"].as_array().unwrap().iter().map(|row| floats(row).try_into().unwrap()).collect();
    let by_seed: Vec<Vec<f64>> = answer["scores"].as_array().unwrap().iter().map(floats).collect();
    assert_eq!((rows.len(), by_seed.len()), (4_000, 21));

    let from_seed_0 = |scores: &[f64]| kolmogorov_smirnov(scores, &by_seed[0]).unwrap().unwrap();
    let among_seeds = by_seed[1..].iter().map(|scores| from_seed_0(scores)).reduce(f64::max).unwrap();
    let ours = from_seed_0(&our_scores(&rows));
    println!("Kolmogorov-Smirnov distance to seed 0: ours {ours:.4}, the greatest of 20 seeds {among_seeds:.4}");
    assert!(ours <= among_seeds, "ours {ours}, the greatest of 20 seeds {among_seeds}");
}
