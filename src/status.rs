//! How the parts of the running program are, read from what they note about themselves.

use std::sync::Arc;

use jobs::{
    active::ActiveModel,
    first_model::FirstModelState,
    ingest::IngestState,
    status::{Part, PartState, PartStatus, Progress, StatusProbe},
    stream::StreamState,
};
use streams::EventLog;
use tokio::sync::watch;

use crate::app::App;

/// The parts as one process sees them.
pub struct ProgramStatus {
    ingest: Arc<IngestState>,
    stream: Arc<StreamState>,
    first_model: Arc<FirstModelState>,
    champion: watch::Receiver<Option<Arc<ActiveModel>>>,
    /// Records in the log when the program started.
    logged_before: u64,
    rows_for_first_model: u64,
    runs_jobs: bool,
}

impl ProgramStatus {
    /// The status of `app`; `runs_jobs` where this process ingests, folds and trains.
    pub async fn new(app: &App, rows_for_first_model: u64, runs_jobs: bool) -> anyhow::Result<Self> {
        let mut logged_before = 0;
        for partition in 0..app.log.partitions() {
            logged_before += u64::try_from(app.log.end_offset(partition).await?).unwrap_or(0);
        }
        Ok(Self {
            ingest: app.ingest.clone(),
            stream: app.stream.clone(),
            first_model: app.first_model.clone(),
            champion: app.champion.subscribe(),
            logged_before,
            rows_for_first_model,
            runs_jobs,
        })
    }

    fn part(&self, name: Part) -> PartStatus {
        let elsewhere = (!self.runs_jobs).then(|| "runs in another process".to_owned());
        let (state, details) = match name {
            Part::Api => (PartState::Online, None),
            Part::Log => troubled(self.ingest.trouble(), elsewhere),
            Part::Stream => troubled(self.stream.trouble(), elsewhere),
            Part::Lake => troubled(self.stream.trouble(), None),
            Part::Scheduler if self.runs_jobs => {
                (PartState::Online, Some("first model and table upkeep; no schedules yet".to_owned()))
            }
            Part::Scheduler => (PartState::Online, elsewhere),
            Part::Model => match self.champion.borrow().as_ref() {
                Some(model) => (PartState::Online, Some(format!("{} version {}", model.name, model.version))),
                None => (PartState::Degraded, Some(self.waiting())),
            },
        };
        PartStatus { name, state, response_time_ms: 0.0, details }
    }

    fn waiting(&self) -> String {
        let (rows, needed) = (self.first_model.feature_rows(), self.rows_for_first_model);
        if rows >= needed {
            return "training the first model".to_owned();
        }
        format!("waiting for the first model: {rows} of {needed} feature rows")
    }
}

impl StatusProbe for ProgramStatus {
    fn parts(&self) -> Vec<PartStatus> {
        Part::ALL.into_iter().map(|name| self.part(name)).collect()
    }

    fn progress(&self) -> Progress {
        let has_model = self.champion.borrow().is_some();
        Progress {
            events_logged: self.logged_before + self.ingest.appended(),
            feature_rows: self.first_model.feature_rows(),
            rows_for_first_model: self.rows_for_first_model,
            message: if has_model { String::new() } else { self.waiting() },
        }
    }
}

fn troubled(trouble: Option<String>, otherwise: Option<String>) -> (PartState, Option<String>) {
    match trouble {
        Some(trouble) => (PartState::Degraded, Some(trouble)),
        None => (PartState::Online, otherwise),
    }
}
