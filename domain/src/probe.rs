//! Named points of the pipeline at which a test may end the process, to prove that nothing is lost or doubled.

/// A place between two durable steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Records are in the log.
    Appended,
    /// Data files are written, their commit is not.
    FilesWritten,
    /// One table has its commit.
    Committed,
    /// Every table has its commit, the next batch is not begun.
    BeforeNext,
    /// A run of a schedule has its owner, nothing of its job is done.
    RunBegun,
    /// A table is rewritten on behalf of a run.
    Rewritten,
    /// The job of a run is done, its end is not written.
    RunDone,
}

impl Point {
    /// Every point: those of a batch in the order in which it meets them, then those of a run.
    pub const ALL: [Self; 7] = [
        Self::Appended,
        Self::FilesWritten,
        Self::Committed,
        Self::BeforeNext,
        Self::RunBegun,
        Self::Rewritten,
        Self::RunDone,
    ];

    /// The name on the command line of a crash test.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Appended => "appended",
            Self::FilesWritten => "files-written",
            Self::Committed => "committed",
            Self::BeforeNext => "before-next",
            Self::RunBegun => "run-begun",
            Self::Rewritten => "rewritten",
            Self::RunDone => "run-done",
        }
    }
}

/// Told whenever a point is reached; may not return.
pub trait Probe: Send + Sync {
    /// The pipeline stands at `point`.
    fn reached(&self, point: Point);
}

/// The probe of a normal run: does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProbe;

impl Probe for NoProbe {
    fn reached(&self, _: Point) {}
}
