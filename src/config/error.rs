//! Why settings are refused: sentences that name the setting, where it stands and what to write there.

use std::{io, path::PathBuf};

use domain::ErrorKind;

use super::layers::Origin;

/// Why settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The settings file cannot be read.
    #[error("cannot read the settings file {path}: check that it is there and may be read", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The settings file is not TOML.
    #[error("{path} line {line}: {message}; see `sentinel config --explain` for a settings file", path = path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// A schedule of the settings file is none.
    #[error("{path}, [schedules]: {message}", path = path.display())]
    Schedule {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A key that is no setting.
    #[error("`{written}` ({origin}) is not a setting: did you mean `{nearest}`? `sentinel config` lists them all")]
    UnknownKey {
        /// The key, `section.name`.
        written: String,
        /// Where it stands.
        origin: Origin,
        /// The most similar setting, in the spelling of its layer.
        nearest: String,
    },
    /// A value outside what its setting takes.
    #[error("{key} = {value} ({origin}): {remedy}")]
    Value {
        /// The setting.
        key: String,
        /// The value, as it was written.
        value: String,
        /// Where it stands.
        origin: Origin,
        /// What to write instead.
        remedy: String,
    },
    /// A variable of the original program that has no meaning here.
    #[error("the environment variable {name} means nothing here, unset it: {remedy}")]
    Retired {
        /// The variable.
        name: &'static str,
        /// What to do instead.
        remedy: &'static str,
    },
    /// Flags that contradict each other or the settings.
    #[error("{0}")]
    Usage(String),
    /// The current folder cannot be named.
    #[error("cannot tell the current folder: {0}; change to one that exists")]
    CurrentDir(#[source] io::Error),
}

impl ConfigError {
    /// What to do about it.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::CurrentDir(_) => ErrorKind::Unavailable,
            _ => ErrorKind::Invalid,
        }
    }
}
