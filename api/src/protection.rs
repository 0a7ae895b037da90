//! How a service is protected: who needs a key, how many requests are too many, what a connection may take.
//!
//! Plain values and the parts that they are about. The program decides them; `gate`, `meter`, `tls` and `server` act on
//! them.

use std::{num::NonZeroU32, time::Duration};

use jobs::keys::Keys;

use crate::tls::Tls;

/// How a service is protected.
#[derive(Clone)]
pub struct Protection {
    /// The API keys. One that is sent is checked, whether it is needed or not.
    pub keys: Keys,
    /// Whether requests need a key. Where they do not, one without may do everything.
    pub keys_required: bool,
    /// How many requests may be sent with one key, or from one address without; `None`: any number.
    pub rate: Option<Rate>,
    /// The certificate that is shown; `None`: connections are not encrypted.
    pub tls: Option<Tls>,
    /// What a connection may take.
    pub limits: Limits,
}

impl Protection {
    /// For a service that only this machine reaches: whoever does may do everything, as often as they like.
    #[must_use]
    pub fn of_loopback(keys: Keys) -> Self {
        Self { keys, keys_required: false, rate: None, tls: None, limits: Limits::default() }
    }
}

/// A number of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So many come back every second.
    pub per_second: NonZeroU32,
    /// So many may be sent at once.
    pub burst: NonZeroU32,
}

/// What a connection may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections that are served at a time; more wait to be accepted.
    pub connections: usize,
    /// The time of a TLS handshake.
    pub handshake: Duration,
    /// The time until the head of a request is there, from the beginning of the connection or the end of the answer
    /// before.
    pub head: Duration,
    /// The time until an answer begins, which includes the reading of the request's body.
    pub answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(30),
            answer: Duration::from_mins(1),
        }
    }
}
