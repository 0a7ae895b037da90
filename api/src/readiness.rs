//! Whether requests can be answered in full, for a load balancer: what the parts say about themselves, and what they say
//! when they are asked.
//!
//! A part that does not answer in time is not there. Nothing is changed by asking.

use std::time::Duration;

use jobs::status::{Part, PartState};
use poem::http::StatusCode;
use tokio::time::{Instant, timeout};

use crate::{
    problem::{Problem, ProblemPart, RETRY_AFTER_S},
    routes::Service,
};

/// How long a part may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the registry is called here; among the parts it belongs to the model.
const REGISTRY: &str = "Registry";

/// Finds out whether log, lake and registry answer and a model is there.
///
/// # Errors
/// A problem with status 503 that names everything that is missing.
pub async fn check(service: &Service) -> Result<(), Problem> {
    let (log, lake, registry) = tokio::join!(
        answered(Part::Log.as_str(), service.intake.ask()),
        answered(Part::Lake.as_str(), service.tables.ask()),
        answered(REGISTRY, service.control.ask()),
    );
    let (mut missing, mut cause) = (offline(service), None);
    for Silent { part, why } in [log, lake, registry].into_iter().flatten() {
        cause = cause.or(why);
        // What says that it is offline has said why.
        if missing.iter().all(|known| known.field != part.field) {
            missing.push(part);
        }
    }
    if service.active().is_none() && missing.iter().all(|part| part.field != Part::Model.as_str()) {
        missing.push(ProblemPart::new(Part::Model.as_str(), service.waiting()));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let problem = Problem::of_parts(StatusCode::SERVICE_UNAVAILABLE, "not ready", missing);
    Err(Problem { cause, ..problem }.retry_after(RETRY_AFTER_S))
}

/// How long log, lake and registry take to answer, in milliseconds. Who does not answer took as long as was waited.
pub async fn response_times(service: &Service) -> [(Part, f64); 3] {
    tokio::join!(
        timed(Part::Log, service.intake.ask()),
        timed(Part::Lake, service.tables.ask()),
        timed(Part::Model, service.control.ask()),
    )
    .into()
}

async fn timed(part: Part, ask: impl Future<Output = Result<(), jobs::Error>>) -> (Part, f64) {
    let asked = Instant::now();
    // Whether it answers, `/readyz` tells.
    let _ = timeout(PATIENCE, ask).await;
    (part, asked.elapsed().as_secs_f64() * 1e3)
}

/// The parts that say that they do not work.
fn offline(service: &Service) -> Vec<ProblemPart> {
    let needed = [Part::Log, Part::Lake, Part::Model];
    let parts = service.status.parts().into_iter();
    let offline = parts.filter(|part| needed.contains(&part.name) && part.state == PartState::Offline);
    let reason = |details: Option<String>| details.unwrap_or_else(|| "is offline".to_owned());
    offline.map(|part| ProblemPart::new(part.name.as_str(), reason(part.details))).collect()
}

/// A part that does not answer.
struct Silent {
    /// Which, and what a client is told.
    part: ProblemPart,
    /// What failed inside, for the log.
    why: Option<Box<str>>,
}

/// What comes of asking a part; none where it answers.
async fn answered(name: &str, ask: impl Future<Output = Result<(), jobs::Error>>) -> Option<Silent> {
    let problem = match timeout(PATIENCE, ask).await {
        Ok(Ok(())) => return None,
        Ok(Err(error)) => Problem::of_job(error),
        Err(_) => Problem::unavailable(format!("does not answer within {} s", PATIENCE.as_secs())),
    };
    Some(Silent { part: ProblemPart::new(name, problem.detail), why: problem.cause })
}
