//! The operations on models, schedules and runs, and their objects.
//!
//! What they read and change, `jobs::control` does; here it gets names, statuses and a document.

pub mod answers;

use domain::ErrorKind;
use jobs::control::{CatchUp, Control, RunFilter, RunState};
use poem::http::StatusCode;
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
};

use crate::{
    answers::Json,
    asker::Asker,
    parameters::{self, TimeText},
    posted::Posted,
    problem::{Problem, ProblemPart, Refusals, Refused},
    routes::Chapter,
};

use answers::{
    Cancelled, Model, ModelPage, Nothing, PauseRequest, PromoteRequest, ResumeRequest, Run, RunPage, RunStateName,
    Schedule, SchedulePage, Started, TriggerRequest,
};

/// The operations.
pub struct Life {
    /// What they read and change.
    pub control: Control,
}

/// Refusals of operations that look something up.
struct OfLookUp;

impl Refusals for OfLookUp {
    const STATUSES: &'static [(u16, &'static str)] = &[
        (404, "There is none with this name or number."),
        (422, "The name or number has another form."),
        (503, "The registry or the store of runs cannot be read now."),
    ];
}

/// Refusals of operations that change something.
struct OfChange;

impl Refusals for OfChange {
    const STATUSES: &'static [(u16, &'static str)] = &[
        (404, "There is none with this name or number."),
        (409, "It is not in the state that the request expects."),
        (413, "The body is longer than 64 KiB."),
        (415, "The body is not said to be JSON."),
        (422, "The body is not JSON, or a field is missing, unknown or of another type."),
        (503, "The registry or the store of runs cannot be written now."),
    ];
}

/// Refusals of operations that list.
struct OfList;

impl Refusals for OfList {
    const STATUSES: &'static [(u16, &'static str)] =
        &[(422, "A parameter is outside its limits."), (503, "The registry or the store of runs cannot be read now.")];
}

type Answer<T, R> = Result<Json<T>, Refused<R>>;

fn default_limit() -> u16 {
    100
}

#[OpenApi]
impl Life {
    /// Every model, newest first
    #[oai(path = "/models", method = "get", operation_id = "models", tag = "Chapter::Models")]
    async fn models(&self) -> Answer<Vec<Model>, OfList> {
        let models = self.control.models().await.map_err(Problem::of_job)?;
        Ok(Json::of(&models.iter().map(Model::from).collect::<Vec<_>>())?)
    }

    /// One model: its record, what was measured and what happened to it
    #[oai(path = "/models/:version", method = "get", operation_id = "model", tag = "Chapter::Models")]
    async fn model(
        &self,
        /// The version.
        version: Path<i64>,
    ) -> Answer<ModelPage, OfLookUp> {
        let detail = self.control.model(Some(version.0)).await.map_err(Problem::of_job)?;
        Ok(Json::of(&ModelPage::from(&detail))?)
    }

    /// Make a model champion
    ///
    /// The live scorer and `/predict` swap at once. With `expect_current`, only if that version is champion now.
    #[oai(path = "/models/:version/promote", method = "post", operation_id = "promote_model", tag = "Chapter::Models")]
    async fn promote(
        &self,
        /// The version.
        version: Path<i64>,
        body: Posted<PromoteRequest>,
        who: Asker,
    ) -> Answer<ModelPage, OfChange> {
        let PromoteRequest { reason, expect_current } = body.0;
        if reason.trim().is_empty() {
            let part = ProblemPart::new("reason", "is missing: say why, for the history");
            let introduction = "the body is not valid";
            return Err(Problem::of_parts(StatusCode::UNPROCESSABLE_ENTITY, introduction, vec![part]).into());
        }
        let promoted = self.control.promote(version.0, expect_current, &who.to_string(), &reason).await;
        promoted.map_err(|error| match error.kind() {
            // Neither the request nor the service is at fault: this model cannot answer.
            ErrorKind::Corrupt | ErrorKind::Invalid => Problem::new(StatusCode::CONFLICT, error.to_string()),
            _ => Problem::of_job(error),
        })?;
        let detail = self.control.model(Some(version.0)).await.map_err(Problem::of_job)?;
        Ok(Json::of(&ModelPage::from(&detail))?)
    }

    /// Every schedule, by name
    #[oai(path = "/schedules", method = "get", operation_id = "schedules", tag = "Chapter::Runs")]
    async fn schedules(&self) -> Answer<Vec<Schedule>, OfList> {
        let schedules = self.control.schedules().await.map_err(Problem::of_job)?;
        Ok(Json::of(&schedules.iter().map(Schedule::from).collect::<Vec<_>>())?)
    }

    /// One schedule, and what was decided about its latest times
    #[oai(path = "/schedules/:name", method = "get", operation_id = "schedule", tag = "Chapter::Runs")]
    async fn schedule(
        &self,
        /// The name.
        name: Path<String>,
    ) -> Answer<SchedulePage, OfLookUp> {
        let (schedule, decisions) = self.control.schedule(&name.0).await.map_err(Problem::of_job)?;
        Ok(Json::of(&SchedulePage::of(&schedule, &decisions))?)
    }

    /// Start a schedule's job now, whatever goes on
    ///
    /// Of requests with one idempotency key only the first starts a run; the others are told that run.
    #[oai(path = "/schedules/:name/trigger", method = "post", operation_id = "trigger_schedule", tag = "Chapter::Runs")]
    async fn trigger(
        &self,
        /// The name.
        name: Path<String>,
        body: Posted<TriggerRequest>,
    ) -> Answer<Started, OfChange> {
        let TriggerRequest { at, idempotency_key } = body.0;
        let of = at.as_deref().map(|text| parameters::time("at", text)).transpose()?;
        let run = self.control.trigger(&name.0, of, idempotency_key.as_deref()).await.map_err(Problem::of_job)?;
        Ok(Json::of(&Started { runs: vec![run.into()] })?)
    }

    /// Pause a schedule
    ///
    /// Times that come meanwhile are not missed.
    #[oai(path = "/schedules/:name/pause", method = "post", operation_id = "pause_schedule", tag = "Chapter::Runs")]
    async fn pause(
        &self,
        /// The name.
        name: Path<String>,
        body: Posted<PauseRequest>,
    ) -> Answer<SchedulePage, OfChange> {
        self.control.pause(&name.0, &body.0.note).await.map_err(Problem::of_job)?;
        let (schedule, decisions) = self.control.schedule(&name.0).await.map_err(Problem::of_job)?;
        Ok(Json::of(&SchedulePage::of(&schedule, &decisions))?)
    }

    /// End a pause
    ///
    /// The answer names the runs that make up for times of the pause.
    #[oai(path = "/schedules/:name/resume", method = "post", operation_id = "resume_schedule", tag = "Chapter::Runs")]
    async fn resume(
        &self,
        /// The name.
        name: Path<String>,
        body: Posted<ResumeRequest>,
    ) -> Answer<Started, OfChange> {
        let runs = self.control.resume(&name.0, CatchUp::from(body.0.catch_up)).await.map_err(Problem::of_job)?;
        Ok(Json::of(&Started { runs: runs.into_iter().map(i64::from).collect() })?)
    }

    /// The newest runs, newest first
    #[oai(path = "/runs", method = "get", operation_id = "runs", tag = "Chapter::Runs")]
    async fn runs(
        &self,
        /// In this state only.
        state: Query<Option<RunStateName>>,
        /// Created at this time or later.
        since: Query<Option<TimeText>>,
        /// How many, at most.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "1000")))]
        limit: Query<u16>,
    ) -> Answer<Vec<Run>, OfList> {
        let since = since.0.as_deref().map(|text| parameters::time("since", text)).transpose()?;
        let filter = RunFilter { state: state.0.map(RunState::from), since };
        let runs = self.control.runs(filter, u32::from(limit.0)).await.map_err(Problem::of_job)?;
        Ok(Json::of(&runs.iter().map(Run::from).collect::<Vec<_>>())?)
    }

    /// One run, and what happened in it
    #[oai(path = "/runs/:id", method = "get", operation_id = "run", tag = "Chapter::Runs")]
    async fn run(
        &self,
        /// Its number.
        id: Path<i64>,
    ) -> Answer<RunPage, OfLookUp> {
        let (run, history) = self.control.run(id.0).await.map_err(Problem::of_job)?;
        Ok(Json::of(&RunPage::of(&run, &history))?)
    }

    /// Ask a run to end
    #[oai(path = "/runs/:id/cancel", method = "post", operation_id = "cancel_run", tag = "Chapter::Runs")]
    async fn cancel(
        &self,
        /// Its number.
        id: Path<i64>,
        _body: Posted<Nothing>,
    ) -> Answer<Cancelled, OfChange> {
        let outcome = self.control.cancel(id.0).await.map_err(Problem::of_job)?;
        Ok(Json::of(&Cancelled::of(id.0, outcome))?)
    }
}
