//! Model artifacts: any bytes are a model or an error, and a model's artifact is the bytes that it was read from.
//!
//! The bytes are read as they are, and as what follows the beginning of a sound artifact of each version, sealed anew:
//! a fuzzer finds neither the hash of the features nor a SHA-256.

use domain::Symbol;
use models::{
    Model,
    artifact::{FORMAT_VERSION, sealed},
    specification,
};

/// Reads the bytes as a model.
///
/// # Panics
/// Where the promise is broken.
pub fn check(bytes: &[u8]) {
    read(bytes);
    for version in 1..=FORMAT_VERSION {
        let mut content = b"SNTLMODL".to_vec();
        content.extend(version.to_le_bytes());
        content.extend(specification::hash().as_bytes());
        content.extend(bytes);
        read(&sealed(content));
    }
}

fn read(bytes: &[u8]) {
    let Ok(model) = Model::from_bytes(bytes) else { return };
    assert!(model.to_bytes() == bytes, "a model of {} bytes is written as others", bytes.len());
    let symbols: Vec<Symbol> =
        model.symbol_scales().map(|(symbol, _)| symbol).chain(Symbol::from_venue("BTCUSDT")).collect();
    for value in [0.0, -1.0, 1e300, f64::NAN, f64::INFINITY] {
        let rows = vec![[value; 5]; symbols.len()];
        let together = model.verdicts(&symbols, &rows);
        for (symbol, (row, verdict)) in symbols.iter().zip(rows.iter().zip(together)) {
            assert!(verdict.anomaly_score.is_finite(), "{verdict:?} for {value}");
            assert_eq!(model.verdict(*symbol, row), verdict, "alone and in a batch");
        }
    }
}
