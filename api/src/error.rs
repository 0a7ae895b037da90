//! What can go wrong with the service as a whole; a request that goes wrong is a [`crate::problem::Problem`].

use std::{io, path::PathBuf};

use domain::ErrorKind;

/// Why the service does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listener cannot be used.
    #[error("the HTTP listener cannot be used: {source}; choose another address with --bind")]
    Listener {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A certificate or its key cannot be used.
    #[error(
        "cannot use `{}` for TLS: {reason}; http.tls_cert and http.tls_key name PEM files, a certificate and its key",
        path.display()
    )]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Listener { .. } => ErrorKind::Unavailable,
            Self::Tls { .. } => ErrorKind::Invalid,
        }
    }
}
