//! The life of a run: every state, everything that can happen, and which of it is legal, in one place.
//!
//! Pure. [`RunState::decide`] may refuse; what it allows is the next state. A lease that has expired is the store's
//! affair: a run whose owner is silent is `interrupted`, whatever was written last.

use std::fmt;

use serde_json::Value;

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunState {
    /// Nobody has begun it, or it was opened again.
    Pending,
    /// Its owner does it.
    Running,
    /// Its owner gave it up, or fell silent.
    Interrupted,
    /// All of it is done.
    Succeeded,
    /// Something of it failed.
    Failed,
    /// It was asked to end, and did.
    Cancelled,
}

impl RunState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Running, Self::Interrupted, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The name in the store and in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Interrupted => "interrupted",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Whether nothing happens to it any more, unless it is opened again.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The state after something has happened.
    ///
    /// # Errors
    /// Where that cannot happen to a run in this state.
    pub const fn decide(self, event: RunEvent) -> Result<Self, Refused> {
        match (self, event) {
            (Self::Pending | Self::Running | Self::Interrupted, RunEvent::Claimed) => Ok(Self::Running),
            (Self::Running, RunEvent::Released) => Ok(Self::Interrupted),
            (Self::Running, RunEvent::Succeeded) => Ok(Self::Succeeded),
            (Self::Running, RunEvent::Failed) => Ok(Self::Failed),
            (Self::Running, RunEvent::Retried) => Ok(Self::Pending),
            (Self::Pending | Self::Running | Self::Interrupted, RunEvent::Cancelled) => Ok(Self::Cancelled),
            (Self::Pending | Self::Interrupted | Self::Failed | Self::Cancelled, RunEvent::Reopened) => {
                Ok(Self::Pending)
            }
            _ => Err(Refused { state: self, event }),
        }
    }
}

/// What happens to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunEvent {
    /// An owner took it, for the first time or from one that fell silent.
    Claimed,
    /// Its owner gave it up without ending it.
    Released,
    /// All of it is done.
    Succeeded,
    /// Something of it failed.
    Failed,
    /// It failed and is tried again.
    Retried,
    /// It ended because it was asked to.
    Cancelled,
    /// What is not done of it shall be done.
    Reopened,
}

impl RunEvent {
    /// Every event.
    pub const ALL: [Self; 7] =
        [Self::Claimed, Self::Released, Self::Succeeded, Self::Failed, Self::Retried, Self::Cancelled, Self::Reopened];

    /// The name in the history.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Released => "released",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Retried => "retried",
            Self::Cancelled => "cancelled",
            Self::Reopened => "reopened",
        }
    }
}

/// Why something cannot happen to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    state: RunState,
    event: RunEvent,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "is {} and cannot be {}", self.state.as_str(), self.event.as_str())
    }
}

/// How an owner ends a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// All of it is done.
    Succeeded,
    /// Something of it failed.
    Failed {
        /// Why, as a sentence.
        error: String,
    },
    /// It was asked to end.
    Cancelled,
}

impl RunEnd {
    pub(crate) const fn event(&self) -> RunEvent {
        match self {
            Self::Succeeded => RunEvent::Succeeded,
            Self::Failed { .. } => RunEvent::Failed,
            Self::Cancelled => RunEvent::Cancelled,
        }
    }

    pub(crate) fn error(&self) -> Option<&str> {
        match self {
            Self::Failed { error } => Some(error),
            _ => None,
        }
    }
}

/// Where a slice is. One that has succeeded never changes again; any other is done when its run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SliceState {
    /// It is to be done.
    Pending,
    /// Its run's owner does it.
    Running,
    /// It is done.
    Succeeded,
    /// It could not be done.
    Failed,
    /// It was given up on the way.
    Cancelled,
}

impl SliceState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The name in the store and in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// How an owner ends a slice.
#[derive(Clone, Debug, PartialEq)]
pub enum SliceEnd {
    /// It is done.
    Succeeded {
        /// What it gave.
        result: Value,
    },
    /// It could not be done.
    Failed {
        /// Why, as a sentence.
        error: String,
    },
    /// It was given up on the way.
    Cancelled,
}

impl SliceEnd {
    pub(crate) const fn state(&self) -> SliceState {
        match self {
            Self::Succeeded { .. } => SliceState::Succeeded,
            Self::Failed { .. } => SliceState::Failed,
            Self::Cancelled => SliceState::Cancelled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(RunState::Pending, &[RunEvent::Claimed, RunEvent::Cancelled, RunEvent::Reopened])]
    #[case(RunState::Running, &[RunEvent::Claimed, RunEvent::Released, RunEvent::Succeeded, RunEvent::Failed, RunEvent::Retried, RunEvent::Cancelled])]
    #[case(RunState::Interrupted, &[RunEvent::Claimed, RunEvent::Cancelled, RunEvent::Reopened])]
    #[case(RunState::Succeeded, &[])]
    #[case(RunState::Failed, &[RunEvent::Reopened])]
    #[case(RunState::Cancelled, &[RunEvent::Reopened])]
    fn only_what_is_named_here_happens_in_a_state(#[case] state: RunState, #[case] legal: &[RunEvent]) {
        for event in RunEvent::ALL {
            assert_eq!(state.decide(event).is_ok(), legal.contains(&event), "{state:?} {event:?}");
        }
    }

    #[test]
    fn a_refusal_is_a_sentence_about_the_run() {
        let refused = RunState::Succeeded.decide(RunEvent::Reopened).unwrap_err();
        assert_eq!(refused.to_string(), "is succeeded and cannot be reopened");
    }

    #[test]
    fn names_read_back() {
        assert!(RunState::ALL.into_iter().all(|state| RunState::from_name(state.as_str()) == Some(state)));
        assert!(SliceState::ALL.into_iter().all(|state| SliceState::from_name(state.as_str()) == Some(state)));
    }
}
