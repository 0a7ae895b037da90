//! Quantiles by linear interpolation, to the bit as `numpy.percentile` computes them.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positions in a slice: below 2^53, never negative"
)]

/// The quantile `q` (0 to 1) of ascending values, `None` where there are none.
///
/// Source: `numpy.percentile(values, 100 * q, method="linear")`, `_lerp` included.
pub fn of_sorted(ascending: &[f64], q: f64) -> Option<f64> {
    let last = ascending.len().checked_sub(1)?;
    let position = q.clamp(0.0, 1.0) * last as f64;
    let below = position.floor() as usize;
    let (a, b) = (ascending[below], ascending[(below + 1).min(last)]);
    let share = position - position.floor();
    let between = if share < 0.5 { a + (b - a) * share } else { b - (b - a) * (1.0 - share) };
    Some(between)
}

/// The values in ascending order. The order is total, so that it does not depend on where a value stood.
pub fn sorted(values: &[f64]) -> Vec<f64> {
    let mut ascending = values.to_vec();
    ascending.sort_unstable_by(f64::total_cmp);
    ascending
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// Expected values: numpy 2.4.6, `numpy.percentile([-0.7, -0.61, -0.5, -0.45, -0.4], 100 * q)`.
    #[rstest]
    #[case(0.0, -0.7)]
    #[case(0.01, -0.696_399_999_999_999_9)]
    #[case(0.3, -0.588)]
    #[case(0.5, -0.5)]
    #[case(0.9, -0.420_000_000_000_000_04)]
    #[case(1.0, -0.4)]
    fn quantiles_are_those_of_numpy(#[case] q: f64, #[case] expected: f64) {
        let values = sorted(&[-0.5, -0.7, -0.4, -0.61, -0.45]);
        assert_eq!(of_sorted(&values, q), Some(expected));
    }

    #[test]
    fn no_values_have_no_quantile() {
        assert_eq!(of_sorted(&[], 0.5), None);
    }
}
