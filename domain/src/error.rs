//! What an error asks of whoever meets it. Each crate's error maps itself to one of these kinds; one `match` on
//! the kind decides about a retry, one about the exit code, one about the HTTP status.

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The caller sent something wrong: telling the caller is the only remedy.
    Invalid,
    /// The thing asked for does not exist.
    NotFound,
    /// The thing asked for was there and is not kept any more: ask for what is.
    Gone,
    /// Somebody else holds what is needed, or changed it meanwhile: look again, then decide.
    Conflict,
    /// A part that is needed does not answer now: trying again later may help.
    Unavailable,
    /// Stored bytes are not what was written: a person must look.
    Corrupt,
    /// Anything else: a defect or an exhausted machine.
    Internal,
}

impl ErrorKind {
    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Unavailable | Self::Conflict)
    }
}
