//! The operations on alerts: which there are, what speaks for one, and what people say about it.
//!
//! What they read and keep, `jobs::alerts` does; here a query is parsed and the answer gets its form.

pub mod answers;

use domain::{AlertId, AlertType};
use jobs::alerts::{AlertCursor, AlertFilter, AlertVerdict, Alerts, WantedAlerts};
use poem::http::StatusCode;
use poem_openapi::{
    OpenApi,
    param::{Path, Query},
};

use crate::{
    answers::Json,
    asker::Asker,
    parameters::{self, Form, Formed, TimeText, instant},
    posted::Posted,
    problem::{Problem, ProblemPart, Refusals, Refused},
    routes::Chapter,
};

use answers::{
    AcknowledgeRequest, AlertList, AlertPage, AlertRecord, AlertTypeName, SeverityName, VerdictName, VerdictRequest,
};

/// The operations.
pub struct AlertOperations {
    /// What they read and keep.
    pub alerts: Alerts,
}

/// Refusals of the list.
struct OfAlerts;

impl Refusals for OfAlerts {
    const STATUSES: &'static [(u16, &'static str)] = &[
        (422, "A parameter is outside its limits or contradicts another."),
        (503, "The table or the registry cannot be read now."),
    ];
}

/// Refusals of one alert.
struct OfAlert;

impl Refusals for OfAlert {
    const STATUSES: &'static [(u16, &'static str)] = &[
        (404, "There is no alert with this id, or it is not committed yet."),
        (422, "The id has another form."),
        (503, "A table or the registry cannot be read now."),
    ];
}

/// Refusals of what people say.
struct OfSaying;

impl Refusals for OfSaying {
    const STATUSES: &'static [(u16, &'static str)] = &[
        (404, "There is no alert with this id, or it is not committed yet."),
        (413, "The body is longer than 64 KiB."),
        (415, "The body is not said to be JSON."),
        (422, "The id has another form; the body is not JSON, or a field is missing, unknown or of another type."),
        (503, "The table cannot be read or the registry cannot be written now."),
    ];
}

type Answer<T, R> = Result<Json<T>, Refused<R>>;

fn default_limit() -> u16 {
    100
}

#[OpenApi]
impl AlertOperations {
    /// Alerts, the last raised first
    ///
    /// An alert is what a model calls a rare anomaly, confirmed, with all that is of the same market and kind within half
    /// an hour. Notices, volumes that are only rare, are listed where `severity` asks for them. `/stream` tells of events of
    /// alerts as they are scored; here they are once they are committed, a few seconds later. Pages never overlap and leave
    /// nothing out: alerts do not change their order. What joins one may make it graver.
    #[oai(path = "/alerts", method = "get", operation_id = "alerts", tag = "Chapter::Alerts")]
    #[expect(clippy::too_many_arguments, reason = "a parameter is documented where it is declared")]
    async fn list(
        &self,
        /// Of one market only.
        #[oai(validator(pattern = "^[A-Z0-9]+-[A-Z0-9]+$", max_length = 31))]
        symbol: Query<Option<String>>,
        /// Of one kind only.
        #[oai(name = "type")]
        alert_type: Query<Option<AlertTypeName>>,
        /// Of this severity at least, at their peak.
        #[oai(default = "SeverityName::least_shown")]
        severity: Query<SeverityName>,
        /// Raised at this event time or later.
        from: Query<Option<TimeText>>,
        /// Raised before this event time.
        to: Query<Option<TimeText>>,
        /// Those that somebody has acknowledged, or the others.
        acknowledged: Query<Option<bool>>,
        /// Those that this is the newest verdict on.
        verdict: Query<Option<VerdictName>>,
        /// How many, at most.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "1000")))]
        limit: Query<u16>,
        /// The `next` of the page before, which was asked for with the same other parameters.
        cursor: Query<Option<Formed<CursorForm>>>,
    ) -> Answer<AlertList, OfAlerts> {
        let filter = AlertFilter {
            wanted: WantedAlerts {
                symbol: parameters::symbol(symbol.0.as_deref())?,
                alert_type: alert_type.0.map(AlertType::from),
                severity: Some(severity.0.into()),
                from: instant("from", &from)?,
                to: instant("to", &to)?,
                before: cursor.0.as_deref().map(place).transpose()?.map(|end| (end.raised_at, end.alert)),
            },
            is_acknowledged: acknowledged.0,
            verdict: verdict.0.map(AlertVerdict::from),
        };
        let page = self.alerts.list(&filter, limit.0).await.map_err(Problem::of_job)?;
        Ok(Json::of(&AlertList::from(&page))?)
    }

    /// One alert, with what there is to look at before a verdict
    ///
    /// What people have said, its events, what was predicted at its peak and why the model that scored it says so, and
    /// the events of the market from 60 s before the peak to 60 s after it.
    #[oai(path = "/alerts/:id", method = "get", operation_id = "alert", tag = "Chapter::Alerts")]
    async fn alert(
        &self,
        /// Its id, `partition:offset`.
        id: Path<Formed<IdForm>>,
    ) -> Answer<AlertPage, OfAlert> {
        let evidence = self.alerts.show(named(&id.0)?).await.map_err(Problem::of_job)?;
        Ok(Json::of(&AlertPage::from(&evidence))?)
    }

    /// Say that an alert was seen
    ///
    /// The same said again changes nothing.
    #[oai(path = "/alerts/:id/ack", method = "post", operation_id = "acknowledge_alert", tag = "Chapter::Alerts")]
    async fn acknowledge(
        &self,
        /// Its id, `partition:offset`.
        id: Path<Formed<IdForm>>,
        body: Posted<AcknowledgeRequest>,
        who: Asker,
    ) -> Answer<AlertRecord, OfSaying> {
        let said = self.alerts.acknowledge(named(&id.0)?, &who.to_string(), &body.0.note).await;
        let said = said.map_err(Problem::of_job)?;
        Ok(Json::of(&AlertRecord::from(&said))?)
    }

    /// Say what an alert was
    ///
    /// The newest verdict counts, those before it stay to be read. Models are measured by verdicts where events have no
    /// labels of their own; no model learns from them.
    #[oai(path = "/alerts/:id/verdict", method = "post", operation_id = "judge_alert", tag = "Chapter::Alerts")]
    async fn judge(
        &self,
        /// Its id, `partition:offset`.
        id: Path<Formed<IdForm>>,
        body: Posted<VerdictRequest>,
        who: Asker,
    ) -> Answer<AlertRecord, OfSaying> {
        let (alert, VerdictRequest { verdict, note }) = (named(&id.0)?, body.0);
        let verdict = AlertVerdict::from_name(&verdict).ok_or_else(|| {
            let part = ProblemPart::new("verdict", "must be true_positive, false_positive or unclear");
            Problem::of_parts(StatusCode::UNPROCESSABLE_ENTITY, "the body is not valid", vec![part])
        })?;
        let said = self.alerts.give_verdict(alert, verdict, &who.to_string(), &note).await;
        let said = said.map_err(Problem::of_job)?;
        Ok(Json::of(&AlertRecord::from(&said))?)
    }
}

/// The form of an alert's id.
struct IdForm;

impl Form for IdForm {
    const NAME: &'static str = "alert id";
    const PATTERN: &'static str = "^(0|[1-9][0-9]{0,8}):(0|[1-9][0-9]{0,17})$";
}

/// The form of a cursor: when the last alert of a page was raised, and its id.
struct CursorForm;

impl Form for CursorForm {
    const NAME: &'static str = "alert cursor";
    const PATTERN: &'static str = "^(0|[1-9][0-9]{0,17})-(0|[1-9][0-9]{0,8}):(0|[1-9][0-9]{0,17})$";
}

/// The alert that a part of a path names.
fn named(id: &str) -> Result<AlertId, Problem> {
    id.parse().map_err(|error: domain::alerts::NoAlertId| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("the path is not valid: {error}"))
    })
}

/// Where a cursor says that the page before ended.
fn place(cursor: &str) -> Result<AlertCursor, Problem> {
    cursor.parse().map_err(|_| {
        let part = ProblemPart::new("cursor", "must be the `next` of the page before, as it is");
        Problem::of_parts(StatusCode::UNPROCESSABLE_ENTITY, "the query is not valid", vec![part])
    })
}
