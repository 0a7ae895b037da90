//! `sentinel run`: what was started, by whom, and what became of it.

use std::{fs, time::Duration};

use domain::{Clock, Timestamp};
use scheduler::{CancelOutcome, Run, RunId, RunState, Store, StoredEvent};
use serde_json::{Value, json};

use crate::{Outcome, cli::RunCommand, clock::SystemClock, commands::Refused, config::Settings, output};

/// Runs that are listed, at most.
const RUNS: u32 = 1_000;

/// How often a run that is followed is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Runs a subcommand.
pub async fn run(command: &RunCommand, settings: &Settings) -> anyhow::Result<Outcome> {
    let (store, now) = (store(settings).await?, SystemClock.now());
    match command {
        RunCommand::List { state, since, output } => {
            let mut runs = store.runs(None, RUNS).await?;
            runs.retain(|run| state.is_none_or(|state| run.state_at(now) == state));
            runs.retain(|run| since.is_none_or(|since| run.created >= since));
            list(&runs, now, output.json)?;
        }
        RunCommand::Show { run, output } => show(&store, RunId::from(*run), now, output.json).await?,
        RunCommand::Logs { run, follow } => logs(&store, RunId::from(*run), *follow).await?,
        RunCommand::Cancel { run } => output::line(&told(*run, store.request_cancel(RunId::from(*run), now).await?))?,
        RunCommand::Retry { run } => {
            if store.run(RunId::from(*run)).await?.schedule.is_none() {
                let remedy = format!("`sentinel backfill resume {run}` does it");
                return Err(Refused(format!("run {run} is of no schedule: {remedy}")).into());
            }
            store.reopen(RunId::from(*run), now).await?;
            output::line(&format!("run {run} is done again"))?;
        }
    }
    Ok(Outcome::Fine)
}

/// The store of a data folder, made where it is missing.
pub async fn store(settings: &Settings) -> anyhow::Result<Store> {
    fs::create_dir_all(&settings.data.dir)?;
    Ok(Store::open(&settings.data.dir.join("scheduler.db")).await?)
}

/// What came of the wish that a run ends, as a sentence.
pub fn told(run: i64, outcome: CancelOutcome) -> String {
    match outcome {
        CancelOutcome::Requested => format!("run {run} was asked to end; it does within seconds"),
        CancelOutcome::Cancelled => format!("run {run} is cancelled"),
        CancelOutcome::EndedAlready(state) => format!("run {run} has ended already: it is {}", state.as_str()),
    }
}

fn list(runs: &[Run], now: Timestamp, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json(&runs.iter().map(|run| value(run, now)).collect::<Vec<_>>());
    }
    let row = |run: &Run| {
        let text = |time: Option<Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
        let (state, schedule) = (run.state_at(now).as_str().to_owned(), run.schedule.clone().unwrap_or_default());
        vec![
            run.id.to_string(),
            run.job.clone(),
            schedule,
            state,
            text(run.of),
            run.created.to_string(),
            text(run.ended),
        ]
    };
    let heading = ["run", "job", "schedule", "state", "of", "created", "ended"];
    output::table(&heading, &runs.iter().map(row).collect::<Vec<_>>())
}

fn value(run: &Run, now: Timestamp) -> Value {
    let text = |time: Option<Timestamp>| time.map(|time| time.to_string());
    json!({"run": i64::from(run.id), "job": run.job, "schedule": run.schedule, "of": text(run.of),
           "state": run.state_at(now).as_str(), "attempts": run.attempts, "created": run.created.to_string(),
           "ended": text(run.ended), "owner": run.owner, "error": run.error, "spec": run.spec})
}

async fn show(store: &Store, id: RunId, now: Timestamp, as_json: bool) -> anyhow::Result<()> {
    let mut shown = value(&store.run(id).await?, now);
    let history = store.history(id).await?;
    if as_json {
        shown["history"] = history
            .iter()
            .map(|event| json!({"at": event.at.to_string(), "event": event.event, "detail": event.detail}))
            .collect();
        return output::json(&shown);
    }
    for (field, value) in shown.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        output::line(&format!("{field:<9} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))?;
    }
    history.iter().try_for_each(print)
}

/// Prints a run's history, and what comes as long as it goes on.
async fn logs(store: &Store, id: RunId, follow: bool) -> anyhow::Result<()> {
    let mut printed = 0;
    loop {
        // What is written before the end is there once the end is.
        let state: RunState = store.run(id).await?.state_at(SystemClock.now());
        let history = store.history(id).await?;
        history[printed..].iter().try_for_each(print)?;
        printed = history.len();
        if !follow || state.is_ended() {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn print(event: &StoredEvent) -> anyhow::Result<()> {
    let StoredEvent { at, event, detail, .. } = event;
    output::line(format!("{at}  {event:<16} {detail}").trim_end())
}
