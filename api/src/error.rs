//! What can go wrong with the service as a whole; a request that goes wrong is a [`crate::problem::Problem`].

use std::io;

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
    /// Accepting or answering connections ended with an error.
    #[error("the HTTP service ended: {source}")]
    Serve {
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Listener { .. } => ErrorKind::Unavailable,
            Self::Serve { .. } => ErrorKind::Internal,
        }
    }
}
