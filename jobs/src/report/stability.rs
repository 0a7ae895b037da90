//! How much two models say the same about the same rows.

use std::fmt;

use models::{Verdict, metrics};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// How much a model says the same as another on the same rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stability {
    /// The version of the other model.
    pub against: i64,
    /// The greatest difference of the two distributions of anomaly scores, 0 to 1.
    pub kolmogorov_smirnov: f64,
    /// The share of rows with the same verdict.
    pub agreement: f64,
    /// Spearman's rank correlation of the two scores, -1 to 1; none, where one of them is constant.
    #[serde(default)]
    pub rank_correlation: Option<f64>,
    /// The rows that both call anomalies as a share of those that either does; none, where neither calls any.
    #[serde(default)]
    pub alert_overlap: Option<f64>,
}

impl Stability {
    /// Compares verdicts on the same rows; `None` where there are none.
    ///
    /// # Errors
    /// [`Error::Models`] where a score is not a number.
    pub fn of(against: i64, verdicts: &[Verdict], others: &[Verdict]) -> Result<Option<Self>, Error> {
        let scores = |of: &[Verdict]| of.iter().map(|verdict| verdict.anomaly_score).collect::<Vec<_>>();
        let called = |of: &[Verdict]| of.iter().map(|verdict| verdict.is_anomaly).collect::<Vec<_>>();
        let (scores, calls) = ([scores(verdicts), scores(others)], [called(verdicts), called(others)]);
        let Some(kolmogorov_smirnov) = metrics::kolmogorov_smirnov(&scores[0], &scores[1])? else { return Ok(None) };
        let same = calls[0].iter().zip(&calls[1]).filter(|(a, b)| a == b).count();
        #[expect(clippy::cast_precision_loss, reason = "row counts are far below 2^53")]
        let agreement = same as f64 / verdicts.len() as f64;
        Ok(Some(Self {
            against,
            kolmogorov_smirnov,
            agreement,
            rank_correlation: metrics::spearman(&scores[0], &scores[1])?,
            alert_overlap: metrics::overlap(&calls[0], &calls[1])?,
        }))
    }
}

/// One sentence.
impl fmt::Display for Stability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "against version {}: {:.2} % of the verdicts are the same, the scores' distributions differ by {:.3}",
            self.against,
            100.0 * self.agreement,
            self.kolmogorov_smirnov
        )?;
        self.rank_correlation.map_or(Ok(()), |rho| write!(f, ", their ranks correlate by {rho:.3}"))?;
        self.alert_overlap.map_or(Ok(()), |share| write!(f, ", {:.1} % of what either calls both do", 100.0 * share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::verdicts;

    #[test]
    fn a_model_agrees_with_itself() {
        let (one, other) = (verdicts("!..."), verdicts("!!.."));
        let same = Stability::of(3, &one, &one).unwrap().unwrap();
        assert_eq!((same.against, same.kolmogorov_smirnov, same.agreement), (3, 0.0, 1.0));
        assert!((same.rank_correlation.unwrap() - 1.0).abs() < 1e-12 && same.alert_overlap == Some(1.0));
        let apart = Stability::of(3, &one, &other).unwrap().unwrap();
        assert_eq!((apart.kolmogorov_smirnov, apart.agreement, apart.alert_overlap), (0.25, 0.75, Some(0.5)));
        assert!((apart.rank_correlation.unwrap() - 1.0 / 3.0_f64.sqrt()).abs() < 1e-12);
        assert_eq!(Stability::of(3, &[], &[]).unwrap(), None);
    }

    #[test]
    fn what_an_older_record_does_not_say_is_none() {
        let old = serde_json::json!({"against": 1, "kolmogorov_smirnov": 0.1, "agreement": 0.9});
        let read: Stability = serde_json::from_value(old).unwrap();
        assert_eq!((read.rank_correlation, read.alert_overlap), (None, None));
    }
}
