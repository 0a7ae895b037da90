//! How the parts of the running program are, read from what they note about themselves.

use std::sync::Arc;

use jobs::{
    active::ActiveModel,
    first_model::FirstModelState,
    ingest::IngestState,
    notify::NotifyState,
    status::{Part, PartState, PartStatus, Progress, StatusProbe},
    stream::StreamState,
};
use tokio::sync::watch;

use crate::{app::App, elsewhere::Elsewhere};

/// The parts as one process sees them.
pub struct ProgramStatus {
    jobs: Jobs,
    champion: watch::Receiver<Option<Arc<ActiveModel>>>,
    rows_for_first_model: u64,
}

/// Who ingests, folds and trains.
enum Jobs {
    /// This process.
    Here {
        ingest: Arc<IngestState>,
        stream: Arc<StreamState>,
        notify: Arc<NotifyState>,
        first_model: Arc<FirstModelState>,
        /// Records in the log when the program started.
        logged_before: u64,
    },
    /// Others, if anybody.
    Elsewhere(Arc<Elsewhere>),
}

impl ProgramStatus {
    /// The status of a process that runs the jobs as well.
    pub async fn with_jobs(app: &App, rows_for_first_model: u64) -> anyhow::Result<Self> {
        let mut logged_before = 0;
        for partition in 0..app.log.partitions() {
            logged_before += u64::try_from(app.log.end_offset(partition).await?).unwrap_or(0);
        }
        let (ingest, stream, notify) = (app.ingest.clone(), app.stream.clone(), app.notify.clone());
        let jobs = Jobs::Here { ingest, stream, notify, first_model: app.first_model.clone(), logged_before };
        Ok(Self { jobs, champion: app.champion.subscribe(), rows_for_first_model })
    }

    /// The status of a process that serves what others make.
    pub fn without_jobs(app: &App, rows_for_first_model: u64, elsewhere: Arc<Elsewhere>) -> Self {
        Self { jobs: Jobs::Elsewhere(elsewhere), champion: app.champion.subscribe(), rows_for_first_model }
    }

    fn part(&self, name: Part) -> PartStatus {
        let (state, details) = match name {
            Part::Api => (PartState::Online, None),
            Part::Model => self.model(),
            Part::Log | Part::Stream | Part::Lake | Part::Scheduler => self.jobs.part(name),
        };
        PartStatus { name, state, response_time_ms: 0.0, details }
    }

    fn model(&self) -> (PartState, Option<String>) {
        match self.champion.borrow().as_ref() {
            Some(model) => (PartState::Online, Some(format!("{} version {}", model.name, model.version))),
            None => (PartState::Degraded, Some(self.waiting())),
        }
    }

    fn waiting(&self) -> String {
        let (rows, needed) = (self.jobs.feature_rows(), self.rows_for_first_model);
        if rows < needed {
            return format!("waiting for the first model: {rows} of {needed} feature rows");
        }
        match self.jobs {
            Jobs::Here { .. } => "training the first model".to_owned(),
            Jobs::Elsewhere(_) => format!("no model yet: `sentinel train` makes one of the {rows} feature rows"),
        }
    }
}

impl Jobs {
    fn part(&self, name: Part) -> (PartState, Option<String>) {
        match self {
            Self::Here { ingest, stream, .. } if name == Part::Log => {
                match troubled(ingest.trouble().or_else(|| stream.unread())) {
                    (PartState::Online, None) => (PartState::Online, ingest.connected()),
                    troubled => troubled,
                }
            }
            Self::Here { .. } if name == Part::Scheduler => {
                (PartState::Online, Some("schedules, the first model and table upkeep".to_owned()))
            }
            Self::Here { stream, .. } if name == Part::Lake => troubled(stream.uncommitted()),
            Self::Here { stream, notify, .. } => {
                troubled(stream.unread().or_else(|| stream.uncommitted()).or_else(|| notify.trouble()))
            }
            Self::Elsewhere(elsewhere) => part_elsewhere(name, elsewhere),
        }
    }

    fn feature_rows(&self) -> u64 {
        match self {
            Self::Here { first_model, .. } => first_model.feature_rows(),
            Self::Elsewhere(elsewhere) => elsewhere.seen().feature_rows,
        }
    }

    fn events_logged(&self) -> u64 {
        match self {
            Self::Here { ingest, logged_before, .. } => logged_before + ingest.appended(),
            Self::Elsewhere(elsewhere) => elsewhere.seen().logged,
        }
    }
}

fn part_elsewhere(name: Part, elsewhere: &Elsewhere) -> (PartState, Option<String>) {
    let seen = elsewhere.seen();
    match name {
        Part::Stream if seen.folded == 0 => {
            let text = format!("nobody folds the log, {} records wait: start `sentinel stream`", seen.behind);
            (PartState::Offline, Some(text))
        }
        Part::Stream => {
            let state = if seen.folded < seen.partitions { PartState::Degraded } else { PartState::Online };
            let (folded, partitions, behind) = (seen.folded, seen.partitions, seen.behind);
            let text = format!("other processes fold {folded} of {partitions} partitions, {behind} records behind");
            (state, Some(text))
        }
        Part::Scheduler => {
            let text = "not in this process: `sentinel up` has one, `sentinel scheduler` is one";
            (PartState::Offline, Some(text.to_owned()))
        }
        _ => troubled(seen.trouble),
    }
}

impl StatusProbe for ProgramStatus {
    fn parts(&self) -> Vec<PartStatus> {
        Part::ALL.into_iter().map(|name| self.part(name)).collect()
    }

    fn progress(&self) -> Progress {
        let has_model = self.champion.borrow().is_some();
        Progress {
            events_logged: self.jobs.events_logged(),
            feature_rows: self.jobs.feature_rows(),
            rows_for_first_model: self.rows_for_first_model,
            message: if has_model { String::new() } else { self.waiting() },
        }
    }
}

fn troubled(trouble: Option<String>) -> (PartState, Option<String>) {
    let state = if trouble.is_some() { PartState::Degraded } else { PartState::Online };
    (state, trouble)
}
