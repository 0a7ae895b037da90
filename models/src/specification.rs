//! What a feature vector means, as text and as a hash. Two models may be compared, and a model may score a vector,
//! only where the hashes are equal. The text is changed whenever the fold's definitions change, and never otherwise.

use domain::FEATURE_NAMES;
use sha2::{Digest, Sha256};

/// How the fold computes the features of one event.
pub const DEFINITIONS: &str = "\
panes of 1 s, aligned to event time; window = the event's own pane so far and the 59 before it, the event left out
pane = count, mean, M2 by Welford in arrival order; window = panes merged by Chan, oldest first
z_score_X = (x - mean) / sample deviation; 0 where fewer than 10 events precede or deviation <= 1e-12 max(|mean|, 1e-12)
z-scores clamped to +-100
rolling_price_std = sample deviation / mean of price
rolling_volume_std = sample deviation of volume
";

/// The hash of the specification of this build: SHA-256 over the feature names, one a line, and [`DEFINITIONS`],
/// as 64 hexadecimal digits.
pub fn hash() -> String {
    let mut digest = Sha256::new();
    for name in FEATURE_NAMES {
        digest.update(name.as_bytes());
        digest.update(b"\n");
    }
    digest.update(DEFINITIONS.as_bytes());
    format!("{:x}", digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_pinned_so_that_a_change_of_meaning_is_seen() {
        assert_eq!(hash(), "5c662b39d13c4caa0c7084a6a2b14ef3e789b2136cf1a2410dfde2aa9ba60936");
    }
}
