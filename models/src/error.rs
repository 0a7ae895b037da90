//! What can go wrong in this crate, and what to do about it.

use domain::ErrorKind;

/// Why a model could not be trained, read or judged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The training set has no rows.
    #[error("the training set is empty: wait until feature rows exist, or widen the time range")]
    EmptyTrainingSet,
    /// The training set has more rows than a model may be trained on.
    #[error("the training set has {rows} rows, at most {limit} are accepted: narrow the time range")]
    TooManyRows {
        /// Rows offered.
        rows: usize,
        /// Rows accepted.
        limit: usize,
    },
    /// A feature of a training row is NaN or infinite.
    #[error("training row {row} has {feature} = {value}: every feature must be finite")]
    NotFinite {
        /// Index of the row, from 0.
        row: usize,
        /// Name of the feature.
        feature: &'static str,
        /// The value found.
        value: f64,
    },
    /// The values of a feature are too large for their variance to be computed.
    #[error("the training values of {feature} are too large to be standardised: keep them within 1e100")]
    Overflow {
        /// Name of the feature.
        feature: &'static str,
    },
    /// A training parameter lies outside its limits.
    #[error("{parameter} is {value}: it must be {limit}")]
    Parameter {
        /// Name of the parameter.
        parameter: &'static str,
        /// The value found.
        value: String,
        /// What is accepted.
        limit: &'static str,
    },
    /// linfa refused to fit the scaler.
    #[error("the scaler could not be fitted")]
    Scaler(#[source] linfa_preprocessing::PreprocessingError),
    /// The arrays of an imported tree do not describe a tree.
    #[error("the imported tree is not one: {reason}")]
    Tree {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The bytes do not begin as a model artifact does.
    #[error("these bytes are not a model artifact: check the path")]
    NotAnArtifact,
    /// The artifact was written by another version of the format.
    #[error("the model artifact has format version {found}, this build reads 1 to {known}: train the model again")]
    UnknownVersion {
        /// Version found.
        found: u32,
        /// The newest version that this build reads.
        known: u32,
    },
    /// The bytes of an artifact are not those that were written.
    #[error("the model artifact is damaged ({reason}): restore it, or train the model again from its record")]
    Damaged {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The model was trained on features of another definition.
    #[error("the model was trained on feature specification {found}, this build has {known}: train a new model")]
    Specification {
        /// Hash found.
        found: String,
        /// Hash of this build.
        known: String,
    },
    /// Two columns that belong together have different lengths, or a score is NaN.
    #[error("cannot evaluate: {reason}")]
    Evaluation {
        /// What is wrong with the input.
        reason: &'static str,
    },
}

impl Error {
    /// What to do about it.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::EmptyTrainingSet
            | Self::TooManyRows { .. }
            | Self::NotFinite { .. }
            | Self::Overflow { .. }
            | Self::Parameter { .. }
            | Self::Tree { .. }
            | Self::NotAnArtifact
            | Self::UnknownVersion { .. }
            | Self::Specification { .. }
            | Self::Evaluation { .. } => ErrorKind::Invalid,
            Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::Scaler(_) => ErrorKind::Internal,
        }
    }
}
