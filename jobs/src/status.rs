//! How the parts of the program are: what the service asks and the program answers.
//!
//! A probe reads what the parts noted about themselves. It never blocks and never touches a disk or a network: it is
//! asked from request handlers.

/// A part of the program, in the order in which data flow through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The HTTP service.
    Api,
    /// The event log.
    Log,
    /// The job that folds the log into features and predictions.
    Stream,
    /// The Delta tables.
    Lake,
    /// What starts jobs.
    Scheduler,
    /// The model registry and the active model.
    Model,
}

impl Part {
    /// Every part, in the order of their declaration.
    pub const ALL: [Self; 6] = [Self::Api, Self::Log, Self::Stream, Self::Lake, Self::Scheduler, Self::Model];

    /// The name that clients see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "API",
            Self::Log => "Log",
            Self::Stream => "Stream",
            Self::Lake => "Lake",
            Self::Scheduler => "Scheduler",
            Self::Model => "Model",
        }
    }
}

/// Whether a part does its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PartState {
    /// It works.
    Online,
    /// It works, with less than is wanted: behind, waiting or retrying.
    Degraded,
    /// It does not work, or does not run here.
    Offline,
}

impl PartState {
    /// `online`, `degraded` or `offline`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Degraded => "degraded",
            Self::Offline => "offline",
        }
    }
}

/// What is known about one part.
#[derive(Clone, Debug, PartialEq)]
pub struct PartStatus {
    /// Which part.
    pub name: Part,
    /// How it is.
    pub state: PartState,
    /// How long its last operation took, in milliseconds, >= 0.
    pub response_time_ms: f64,
    /// A sentence for a person, where there is something to say.
    pub details: Option<String>,
}

/// How far the program is on its way to the first model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Events in the log.
    pub events_logged: u64,
    /// Feature rows committed.
    pub feature_rows: u64,
    /// Feature rows that the first training needs.
    pub rows_for_first_model: u64,
    /// What happens now, as a sentence for a person; empty where there is nothing to say.
    pub message: String,
}

/// Asked for the state of the program at every request that shows it.
pub trait StatusProbe: Send + Sync {
    /// Every part, in the order of [`Part::ALL`].
    fn parts(&self) -> Vec<PartStatus>;

    /// How far the first model is.
    fn progress(&self) -> Progress;
}
