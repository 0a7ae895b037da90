//! A model as bytes: little-endian, versioned, its own SHA-256 at the end. The same model has the same bytes, and
//! only bytes that were written as a model are read as one: everything else is an error, never a panic, and no count
//! in the bytes makes the reader allocate before it has read what is counted. Never touches a file.
//!
//! Layout of version 3. Version 2 has no surplus, and version 1 no reach either; models that were read from them, or have
//! none, are written as they were:
//!
//! | part | form |
//! |---|---|
//! | magic | `SNTLMODL` |
//! | format version | u32 |
//! | specification hash | 64 hexadecimal digits |
//! | trees, `max_samples`, contamination, seed, `alert_quantile` | u32, u32, f64, u64, f64 |
//! | offset, alert threshold, training minimum | 3 f64 |
//! | reach of the three z-scores | low and high of each, f64 |
//! | surplus of volume | f64 |
//! | global scale | 5 means, 5 deviations, f64 |
//! | symbols with a scale of their own | u32, then ascending: length u8, ASCII, 10 f64 |
//! | rows per tree | u32 |
//! | trees | u32, then nodes in preorder: feature u8 and threshold f64, or 255 and rows u32 for a leaf |
//! | checksum | SHA-256 of all bytes before it; every version ends so |

#![allow(clippy::cast_possible_truncation, reason = "every count is limited far below u32::MAX when trained or read")]

use domain::{Reach, Symbol};
use sha2::{Digest, Sha256};

use crate::{
    error::Error,
    forest::Forest,
    model::{Model, Thresholds},
    scaler::{Scale, Scales},
    specification,
    training::TrainParameters,
    tree::{Builder, FEATURES, LEAF, MAX_DEPTH, Node, Tree},
};

/// The newest version; this build reads it and those before.
pub const FORMAT_VERSION: u32 = 3;

/// The version without a surplus.
const WITHOUT_SURPLUS: u32 = 2;

/// The version without a reach, and without a surplus.
const WITHOUT_REACH: u32 = 1;

/// The largest artifact that is read, in bytes.
pub const MAX_BYTES: usize = 1 << 30;

const MAGIC: &[u8; 8] = b"SNTLMODL";

const CHECKSUM_BYTES: usize = 32;

impl Model {
    /// The artifact of the model.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer(MAGIC.to_vec());
        let Thresholds { offset, alert, training_minimum, reach, surplus } = self.thresholds();
        writer.u32(match (reach, surplus) {
            (Some(_), Some(_)) => FORMAT_VERSION,
            (Some(_), None) => WITHOUT_SURPLUS,
            (None, _) => WITHOUT_REACH,
        });
        writer.bytes(self.specification_hash().as_bytes());
        writer.parameters(self.parameters());
        writer.f64s(&[*offset, *alert, *training_minimum]);
        if let Some(reach) = reach {
            for Reach { low, high } in reach {
                writer.f64s(&[*low, *high]);
            }
            writer.f64s(surplus.as_slice());
        }
        writer.scales(self.scales());
        writer.u32(self.forest().max_samples());
        writer.u32(self.forest().trees().len() as u32);
        for tree in self.forest().trees() {
            writer.tree(tree);
        }
        sealed(writer.0)
    }

    /// Reads an artifact.
    ///
    /// # Errors
    /// [`Error::NotAnArtifact`] for other bytes, [`Error::Damaged`] where the checksum or the content is wrong,
    /// [`Error::UnknownVersion`] and [`Error::Specification`] for models of other builds.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        if !bytes.starts_with(MAGIC) {
            return Err(Error::NotAnArtifact);
        }
        if bytes.len() > MAX_BYTES {
            return Err(Error::Damaged { reason: "it is larger than 1 GiB" });
        }
        let content = bytes.len().checked_sub(CHECKSUM_BYTES).filter(|length| *length >= MAGIC.len());
        let Some((content, checksum)) = content.map(|length| bytes.split_at(length)) else {
            return Err(Error::Damaged { reason: "it is cut short" });
        };
        if Sha256::digest(content).as_slice() != checksum {
            return Err(Error::Damaged { reason: "its checksum is wrong" });
        }
        let mut reader = Reader(&content[MAGIC.len()..]);
        let version = reader.u32()?;
        if !(WITHOUT_REACH..=FORMAT_VERSION).contains(&version) {
            return Err(Error::UnknownVersion { found: version, known: FORMAT_VERSION });
        }
        let model = reader.model(version)?;
        reader.end()?;
        Ok(model)
    }
}

/// Content with the checksum at its end. It tells damage, and not who wrote the bytes: any content can be sealed.
pub fn sealed(mut content: Vec<u8>) -> Vec<u8> {
    let checksum = Sha256::digest(&content);
    content.extend_from_slice(&checksum);
    content
}

struct Writer(Vec<u8>);

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    fn f64s(&mut self, values: &[f64]) {
        for value in values {
            self.bytes(&value.to_le_bytes());
        }
    }

    fn parameters(&mut self, parameters: &TrainParameters) {
        self.u32(parameters.trees);
        self.u32(parameters.max_samples);
        self.f64s(&[parameters.contamination]);
        self.u64(parameters.seed);
        self.f64s(&[parameters.alert_quantile]);
    }

    fn scales(&mut self, scales: &Scales) {
        self.scale(&scales.global);
        self.u32(scales.by_symbol.len() as u32);
        for (symbol, scale) in &scales.by_symbol {
            self.bytes(&[symbol.as_bytes().len() as u8]);
            self.bytes(symbol.as_bytes());
            self.scale(scale);
        }
    }

    fn scale(&mut self, scale: &Scale) {
        self.f64s(&scale.means);
        self.f64s(&scale.deviations);
    }

    fn tree(&mut self, tree: &Tree) {
        for index in 0..tree.nodes() {
            match tree.node(index) {
                Node::Leaf { samples, .. } => {
                    self.bytes(&[LEAF]);
                    self.u32(samples);
                }
                Node::Split { feature, threshold, .. } => {
                    self.bytes(&[feature]);
                    self.f64s(&[threshold]);
                }
            }
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Error::Damaged { reason: "it is cut short" })?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Error::Damaged { reason: "it is cut short" })?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn f64(&mut self) -> Result<f64, Error> {
        let value = f64::from_le_bytes(self.array()?);
        require(value.is_finite(), "a number is not finite")?;
        Ok(value)
    }

    fn end(&self) -> Result<(), Error> {
        require(self.0.is_empty(), "bytes follow its end")
    }

    fn model(&mut self, version: u32) -> Result<Model, Error> {
        let hash = self.specification_hash()?;
        let parameters = self.parameters()?;
        let (offset, alert, training_minimum) = (self.f64()?, self.f64()?, self.f64()?);
        let reach = if version == WITHOUT_REACH { None } else { Some([self.reach()?, self.reach()?, self.reach()?]) };
        let surplus = if version < FORMAT_VERSION { None } else { Some(self.f64()?) };
        require(surplus.is_none_or(|surplus| surplus > 0.0), "every volume is rare")?;
        let thresholds = Thresholds { offset, alert, training_minimum, reach, surplus };
        let in_range = (-1.0..=0.0).contains(&thresholds.offset) && thresholds.alert <= 0.0;
        require(in_range, "a threshold is out of range")?;
        let scales = self.scales()?;
        let max_samples = self.u32()?;
        require((1..=parameters.max_samples).contains(&max_samples), "rows per tree are out of range")?;
        require(self.u32()? == parameters.trees, "its number of trees is not the one it was trained with")?;
        let trees = (0..parameters.trees).map(|_| self.tree(max_samples)).collect::<Result<Vec<_>, _>>()?;
        Ok(Model::new(parameters, scales, Forest::from_trees(trees, max_samples), thresholds, hash))
    }

    fn reach(&mut self) -> Result<Reach, Error> {
        let (low, high) = (self.f64()?, self.f64()?);
        require(low < high, "a z-score is always out of reach")?;
        Ok(Reach { low, high })
    }

    fn specification_hash(&mut self) -> Result<String, Error> {
        let found = self.bytes(64)?;
        let known = specification::hash();
        if found == known.as_bytes() {
            return Ok(known);
        }
        Err(Error::Specification { found: String::from_utf8_lossy(found).into_owned(), known })
    }

    fn parameters(&mut self) -> Result<TrainParameters, Error> {
        let parameters = TrainParameters {
            trees: self.u32()?,
            max_samples: self.u32()?,
            contamination: self.f64()?,
            seed: self.u64()?,
            alert_quantile: self.f64()?,
        };
        require(parameters.check().is_ok(), "a training parameter is out of range")?;
        Ok(parameters)
    }

    fn scales(&mut self) -> Result<Scales, Error> {
        let global = self.scale()?;
        let count = self.u32()?;
        let mut by_symbol: Vec<(Symbol, Scale)> = Vec::new();
        for _ in 0..count {
            let symbol = self.symbol()?;
            require(by_symbol.last().is_none_or(|(last, _)| *last < symbol), "its symbols are not ascending")?;
            by_symbol.push((symbol, self.scale()?));
        }
        Ok(Scales { global, by_symbol })
    }

    fn symbol(&mut self) -> Result<Symbol, Error> {
        let length = usize::from(self.u8()?);
        let text = str::from_utf8(self.bytes(length)?).ok();
        text.and_then(|text| Symbol::parse(text).ok()).ok_or(Error::Damaged { reason: "a symbol is not one" })
    }

    fn scale(&mut self) -> Result<Scale, Error> {
        let mut scale = Scale { means: [0.0; FEATURES], deviations: [0.0; FEATURES] };
        for value in scale.means.iter_mut().chain(&mut scale.deviations) {
            *value = self.f64()?;
        }
        require(scale.deviations.iter().all(|deviation| *deviation > 0.0), "a deviation is not above zero")?;
        Ok(scale)
    }

    fn tree(&mut self, max_samples: u32) -> Result<Tree, Error> {
        let mut builder = Builder::with_capacity(0);
        let samples = self.subtree(&mut builder, 0)?;
        require(samples == u64::from(max_samples), "the leaves of a tree do not hold its rows")?;
        Ok(builder.finish())
    }

    /// Reads a node and what is below it; returns the rows in its leaves.
    fn subtree(&mut self, builder: &mut Builder, depth: u32) -> Result<u64, Error> {
        require(depth <= MAX_DEPTH, "a tree is too deep")?;
        let feature = self.u8()?;
        if feature == LEAF {
            let samples = self.u32()?;
            builder.leaf(samples, depth);
            return Ok(u64::from(samples));
        }
        require(usize::from(feature) < FEATURES, "a feature is out of range")?;
        let split = builder.split(feature, self.f64()?);
        let left = self.subtree(builder, depth + 1)?;
        builder.right_begins(split);
        Ok(left + self.subtree(builder, depth + 1)?)
    }
}

fn require(holds: bool, reason: &'static str) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::Damaged { reason }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TrainingSet, train};
    use domain::AlertLimits;
    use proptest::prelude::*;
    use rstest::rstest;
    use std::sync::LazyLock;

    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/golden/model-v3.bin");

    /// The same model in the versions before, the newest first.
    const GOLDEN_BEFORE: [&str; 2] = [
        concat!(env!("CARGO_MANIFEST_DIR"), "/src/golden/model-v2.bin"),
        concat!(env!("CARGO_MANIFEST_DIR"), "/src/golden/model-v1.bin"),
    ];

    /// Three trees of 16 rows on integers, so that every platform trains the same.
    fn model() -> Model {
        let mut set = TrainingSet::new();
        let symbols = ["BTC-USDT", "ETH-USDT"].map(|text| Symbol::parse(text).unwrap());
        for i in 0..240_u32 {
            let value = |factor: u32, modulus: u32| f64::from(i * i * factor % modulus) - f64::from(modulus / 2);
            let symbol = symbols[usize::from(i % 12 == 0)];
            set.push(symbol, [value(3, 17), value(5, 31), value(7, 13), value(11, 29), value(13, 101)]);
        }
        let parameters =
            TrainParameters { trees: 3, max_samples: 16, contamination: 0.05, ..TrainParameters::default() };
        train(&set, &parameters).unwrap()
    }

    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| model().to_bytes());

    fn content() -> Vec<u8> {
        BYTES[..BYTES.len() - CHECKSUM_BYTES].to_vec()
    }

    /// `SENTINEL_GOLDEN=write` writes the file anew; do so only together with a new format version.
    #[test]
    fn the_bytes_of_a_model_are_pinned() {
        if std::env::var("SENTINEL_GOLDEN").is_ok_and(|mode| mode == "write") {
            std::fs::write(GOLDEN, &*BYTES).unwrap();
        }
        assert!(std::fs::read(GOLDEN).unwrap() == *BYTES, "the artifact differs from {GOLDEN}");
    }

    #[test]
    fn a_model_read_back_is_the_model_written() {
        let read = Model::from_bytes(&BYTES).unwrap();
        assert_eq!(read, model());
        assert_eq!(read.to_bytes(), *BYTES);
        let (symbol, row) = (Symbol::parse("BTC-USDT").unwrap(), [1.0, -2.0, 3.0, 0.5, 9.0]);
        assert_eq!(read.verdict(symbol, &row), model().verdict(symbol, &row));
    }

    #[test]
    fn a_model_of_a_version_before_is_read_and_stays_as_it_is() {
        let now = model().alert_limits();
        let limits = [AlertLimits { surplus: None, ..now }, AlertLimits { surplus: None, reach: None, ..now }];
        for ((file, expected), limits) in GOLDEN_BEFORE.into_iter().zip(model().of_before()).zip(limits) {
            let bytes = std::fs::read(file).unwrap();
            let old = Model::from_bytes(&bytes).unwrap();
            assert_eq!(old.alert_limits(), limits);
            assert_eq!(old, expected);
            assert!(old.to_bytes() == bytes, "the artifact differs from {file}");
        }
    }

    #[rstest]
    #[case(0)]
    #[case(4)]
    fn a_model_of_another_format_version_is_refused(#[case] version: u8) {
        let mut other = content();
        other[8] = version;
        let refused = Model::from_bytes(&sealed(other)).unwrap_err();
        assert!(
            matches!(refused, Error::UnknownVersion { found, known: 3 } if found == u32::from(version)),
            "{refused}"
        );
    }

    #[test]
    fn a_reach_that_holds_nothing_is_refused() {
        let mut other = content();
        // The reach begins behind 12 bytes of header, 64 of hash, 32 of parameters, 24 of thresholds.
        let (low, high) = other[132..148].split_at_mut(8);
        low.swap_with_slice(high);
        assert!(matches!(Model::from_bytes(&sealed(other)), Err(Error::Damaged { .. })));
    }

    #[rstest]
    #[case(0.0)]
    #[case(-1.0)]
    #[case(f64::INFINITY)]
    fn a_surplus_that_is_none_is_refused(#[case] surplus: f64) {
        let mut other = content();
        // Behind the reach.
        other[180..188].copy_from_slice(&surplus.to_le_bytes());
        assert!(matches!(Model::from_bytes(&sealed(other)), Err(Error::Damaged { .. })));
    }

    #[test]
    fn a_model_of_another_feature_specification_is_refused() {
        let mut other = content();
        other[12] = b'x';
        assert!(matches!(Model::from_bytes(&sealed(other)), Err(Error::Specification { .. })));
    }

    #[test]
    fn other_files_are_refused() {
        assert!(matches!(Model::from_bytes(b""), Err(Error::NotAnArtifact)));
        assert!(matches!(Model::from_bytes(b"PAR1 and so on"), Err(Error::NotAnArtifact)));
    }

    #[test]
    fn a_truncated_model_is_refused_at_every_length() {
        for length in 0..BYTES.len() {
            assert!(Model::from_bytes(&BYTES[..length]).is_err(), "{length}");
            assert!(
                Model::from_bytes(&sealed(content()[..length.min(BYTES.len() - 33)].to_vec())).is_err(),
                "{length}"
            );
        }
    }

    #[test]
    fn bytes_after_the_end_are_refused() {
        let mut longer = content();
        longer.push(0);
        assert!(matches!(Model::from_bytes(&sealed(longer)), Err(Error::Damaged { reason: "bytes follow its end" })));
    }

    #[test]
    fn counts_beyond_the_bytes_are_refused_without_allocating_for_them() {
        // The number of symbols follows 12 bytes of header, 64 of hash, 32 of parameters, 24 of thresholds, 48 of reach,
        // 8 of surplus, 80 of scale.
        let mut many = content();
        many[268..272].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Model::from_bytes(&sealed(many)), Err(Error::Damaged { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn random_damage_is_always_refused(position in any::<prop::sample::Index>(), change in 1_u8..=255) {
            let mut damaged = BYTES.clone();
            let position = position.index(damaged.len());
            damaged[position] ^= change;
            prop_assert!(Model::from_bytes(&damaged).is_err());
        }

        #[test]
        fn random_content_under_a_correct_checksum_never_panics_and_reads_back_or_is_refused(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut other = content();
            for (position, byte) in changes {
                let position = position.index(other.len());
                other[position] = byte;
            }
            let other = sealed(other);
            if let Ok(model) = Model::from_bytes(&other) {
                prop_assert_eq!(model.to_bytes(), other);
                model.verdict(Symbol::parse("BTC-USDT").unwrap(), &[0.0; FEATURES]);
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut begun = MAGIC.to_vec();
            begun.extend(&bytes);
            prop_assert!(Model::from_bytes(&bytes).is_err());
            prop_assert!(Model::from_bytes(&sealed(begun)).is_err());
        }
    }
}
