//! Standardisation: mean and deviation of each feature, one scale per symbol and a global one for the others.
//!
//! Deviations are those of the population (divisor n, as scikit-learn's `StandardScaler`); one that is zero up to
//! rounding is clamped to 1, so that a constant feature becomes 0 and never a division by zero. Fitted by
//! linfa-preprocessing; nothing else in Sentinel touches linfa or ndarray.

use std::collections::BTreeMap;

use domain::{FEATURE_NAMES, FeatureVector, Symbol};
use linfa::{DatasetBase, traits::Fit};
use linfa_preprocessing::linear_scaling::LinearScaler;
use ndarray::aview2;

use crate::{error::Error, training::TrainingSet, tree::FEATURES};

/// A symbol with fewer training rows has no scale of its own.
pub const MIN_ROWS_PER_SYMBOL: usize = 100;

/// A deviation below this share of the mean is rounding noise.
const RELATIVE_NOISE: f64 = 1e-12;

/// What turns features into standard ones, in the order of [`FEATURE_NAMES`].
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// Means of the training rows, in the unit of the feature.
    pub means: [f64; FEATURES],
    /// Population deviations of the training rows, in the unit of the feature; > 0.
    pub deviations: [f64; FEATURES],
}

impl Scale {
    /// Fits means and deviations.
    ///
    /// # Errors
    /// [`Error::Overflow`] where a variance is not finite, [`Error::Scaler`] where there are no rows.
    pub fn fit(rows: &[FeatureVector]) -> Result<Self, Error> {
        let fitted: LinearScaler<f64> =
            LinearScaler::standard().fit(&DatasetBase::from(aview2(rows))).map_err(Error::Scaler)?;
        let mut scale = Self { means: [0.0; FEATURES], deviations: [1.0; FEATURES] };
        for (feature, name) in FEATURE_NAMES.into_iter().enumerate() {
            let mean = fitted.offsets()[feature];
            let deviation = 1.0 / fitted.scales()[feature];
            if !(mean.is_finite() && deviation.is_finite()) {
                return Err(Error::Overflow { feature: name });
            }
            scale.means[feature] = mean;
            if deviation > RELATIVE_NOISE * mean.abs() {
                scale.deviations[feature] = deviation;
            }
        }
        Ok(scale)
    }

    /// The standardised features in the precision that the forest works in.
    #[expect(clippy::cast_possible_truncation, reason = "the forest is defined on f32, as scikit-learn's")]
    pub fn apply(&self, features: &FeatureVector) -> [f32; FEATURES] {
        std::array::from_fn(|i| ((features[i] - self.means[i]) / self.deviations[i]) as f32)
    }
}

/// The scales of a model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scales {
    /// For symbols without a scale of their own.
    pub global: Scale,
    /// Ascending by symbol, each symbol once.
    pub by_symbol: Vec<(Symbol, Scale)>,
}

impl Scales {
    /// Fits the global scale on all rows and one per symbol with enough of them.
    pub fn fit(set: &TrainingSet) -> Result<Self, Error> {
        let mut rows_of: BTreeMap<Symbol, Vec<FeatureVector>> = BTreeMap::new();
        for (symbol, row) in set.symbols.iter().zip(&set.rows) {
            rows_of.entry(*symbol).or_default().push(*row);
        }
        let by_symbol = rows_of
            .into_iter()
            .filter(|(_, rows)| rows.len() >= MIN_ROWS_PER_SYMBOL)
            .map(|(symbol, rows)| Ok((symbol, Scale::fit(&rows)?)))
            .collect::<Result<_, Error>>()?;
        Ok(Self { global: Scale::fit(&set.rows)?, by_symbol })
    }

    /// The scale for rows of this symbol.
    pub fn of(&self, symbol: Symbol) -> &Scale {
        match self.by_symbol.binary_search_by(|(candidate, _)| candidate.cmp(&symbol)) {
            Ok(position) => &self.by_symbol[position].1,
            Err(_) => &self.global,
        }
    }

    /// The standardised rows. Runs of one symbol look its scale up once.
    ///
    /// # Panics
    /// Where the columns have different lengths.
    pub fn apply(&self, symbols: &[Symbol], rows: &[FeatureVector], standard: &mut Vec<[f32; FEATURES]>) {
        assert_eq!(symbols.len(), rows.len(), "every row has its symbol");
        standard.clear();
        let Some(first) = symbols.first() else { return };
        let mut current = (*first, self.of(*first));
        standard.extend(symbols.iter().zip(rows).map(|(symbol, row)| {
            if *symbol != current.0 {
                current = (*symbol, self.of(*symbol));
            }
            current.1.apply(row)
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbol(text: &str) -> Symbol {
        Symbol::parse(text).unwrap()
    }

    #[test]
    fn deviations_are_those_of_the_population() {
        let scale = Scale::fit(&[[1.0, 0.0, 0.0, 0.0, -3.0], [3.0, 0.0, 0.0, 0.0, 5.0]]).unwrap();
        assert_eq!(scale.means, [2.0, 0.0, 0.0, 0.0, 1.0]);
        assert_eq!(scale.deviations, [1.0, 1.0, 1.0, 1.0, 4.0]);
        assert_eq!(scale.apply(&[4.0, 0.0, 0.0, 0.0, -3.0]), [2.0, 0.0, 0.0, 0.0, -1.0]);
    }

    #[test]
    fn a_constant_feature_is_divided_by_one_whatever_its_size() {
        let rows = vec![[0.1, 1e9 + 0.1, 1e-30, -7.7, 1e15]; 1_001];
        let scale = Scale::fit(&rows).unwrap();
        assert_eq!(scale.deviations, [1.0; FEATURES]);
        assert!(scale.apply(&rows[0]).iter().all(|value| value.abs() < 1.0), "{:?}", scale.apply(&rows[0]));
    }

    #[test]
    fn values_whose_variance_is_not_finite_are_refused() {
        let rows = [[0.0, 0.0, 1e200, 0.0, 0.0], [0.0, 0.0, -1e200, 0.0, 0.0]];
        assert!(matches!(Scale::fit(&rows), Err(Error::Overflow { feature: "z_score_volume" })));
    }

    #[test]
    fn a_symbol_with_too_few_rows_uses_the_global_scale() {
        let mut set = TrainingSet::new();
        for i in 0..u8::try_from(MIN_ROWS_PER_SYMBOL).unwrap() {
            set.push(symbol("BTC-USDT"), [f64::from(i), 0.0, 0.0, 0.0, 0.0]);
            if i > 0 {
                set.push(symbol("ETH-USDT"), [f64::from(i) + 50.0, 0.0, 0.0, 0.0, 0.0]);
            }
        }
        let scales = Scales::fit(&set).unwrap();
        assert_eq!(scales.by_symbol.iter().map(|(symbol, _)| symbol.as_str()).collect::<Vec<_>>(), ["BTC-USDT"]);
        assert_ne!(scales.of(symbol("BTC-USDT")), &scales.global);
        assert_eq!(scales.of(symbol("ETH-USDT")), &scales.global);
        assert_eq!(scales.of(symbol("NEW-USDT")), &scales.global);
    }

    #[test]
    fn a_batch_of_mixed_symbols_is_scaled_row_by_row() {
        let mut set = TrainingSet::new();
        for i in 0..200 {
            set.push(
                symbol(["A-X", "B-X"][i % 2]),
                [[1.0, 100.0][i % 2] * f64::from(u8::try_from(i).unwrap()); FEATURES],
            );
        }
        let scales = Scales::fit(&set).unwrap();
        let symbols = [symbol("A-X"), symbol("A-X"), symbol("B-X"), symbol("C-X"), symbol("A-X")];
        let rows = [[5.0; FEATURES]; 5];
        let mut standard = vec![[9.0; FEATURES]];
        scales.apply(&symbols, &rows, &mut standard);
        let alone: Vec<_> = symbols.iter().map(|symbol| scales.of(*symbol).apply(&rows[0])).collect();
        assert_eq!(standard, alone);
    }
}
