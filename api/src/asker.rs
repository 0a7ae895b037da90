//! Who asks for a change, for the history.

use std::fmt;

use poem::{FromRequest, Request, RequestBody, Result};

/// The holder of an API key, `API key 3`, or whoever may reach a service that needs none, `API`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// The id of the key.
    pub key: Option<i64>,
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key {
            Some(id) => write!(f, "API key {id}"),
            None => f.write_str("API"),
        }
    }
}

/// As the gate has put it down.
impl<'a> FromRequest<'a> for Asker {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> Result<Self> {
        Ok(request.data().copied().unwrap_or_default())
    }
}
