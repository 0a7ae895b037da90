//! `sentinel run`: what was started, by whom, and what became of it.

use std::{fs, time::Duration};

use domain::Timestamp;
use jobs::control::{CancelOutcome, Control, RunEntry, RunFilter, SCHEDULER, StoredEvent};
use scheduler::Store;
use serde_json::{Value, json};

use crate::{Outcome, cli::RunCommand, commands::control, config::Settings, output};

/// Runs that are listed, at most.
const RUNS: u32 = 1_000;

/// How often a run that is followed is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Runs a subcommand.
pub async fn run(command: &RunCommand, settings: &Settings) -> anyhow::Result<Outcome> {
    let control = control(settings).await?;
    match command {
        RunCommand::List { state, since, output } => {
            list(&control.runs(RunFilter { state: *state, since: *since }, RUNS).await?, output.json)?;
        }
        RunCommand::Show { run, output } => show(&control, *run, output.json).await?,
        RunCommand::Logs { run, follow } => logs(&control, *run, *follow).await?,
        RunCommand::Cancel { run } => output::line(&told(*run, control.cancel(*run).await?))?,
        RunCommand::Retry { run } => {
            control.retry(*run).await?;
            output::line(&format!("run {run} is done again"))?;
        }
    }
    Ok(Outcome::Fine)
}

/// The store of a data folder, made where it is missing.
pub async fn store(settings: &Settings) -> anyhow::Result<Store> {
    fs::create_dir_all(&settings.data.dir)?;
    Ok(Store::open(&settings.data.dir.join(SCHEDULER)).await?)
}

/// What came of the wish that a run ends, as a sentence.
pub fn told(run: i64, outcome: CancelOutcome) -> String {
    match outcome {
        CancelOutcome::Requested => format!("run {run} was asked to end; it does within seconds"),
        CancelOutcome::Cancelled => format!("run {run} is cancelled"),
        CancelOutcome::EndedAlready(state) => format!("run {run} has ended already: it is {}", state.as_str()),
    }
}

fn list(runs: &[RunEntry], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json(&runs.iter().map(value).collect::<Vec<_>>());
    }
    let row = |RunEntry { run, state }: &RunEntry| {
        let text = |time: Option<Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
        vec![
            run.id.to_string(),
            run.job.clone(),
            run.schedule.clone().unwrap_or_default(),
            state.as_str().to_owned(),
            text(run.of),
            run.created.to_string(),
            text(run.ended),
        ]
    };
    let heading = ["run", "job", "schedule", "state", "of", "created", "ended"];
    output::table(&heading, &runs.iter().map(row).collect::<Vec<_>>())
}

fn value(RunEntry { run, state }: &RunEntry) -> Value {
    let text = |time: Option<Timestamp>| time.map(|time| time.to_string());
    json!({"run": i64::from(run.id), "job": run.job, "schedule": run.schedule, "of": text(run.of),
           "state": state.as_str(), "attempts": run.attempts, "created": run.created.to_string(),
           "ended": text(run.ended), "owner": run.owner, "error": run.error, "spec": run.spec})
}

async fn show(control: &Control, run: i64, as_json: bool) -> anyhow::Result<()> {
    let (entry, history) = control.run(run).await?;
    let mut shown = value(&entry);
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
async fn logs(control: &Control, run: i64, follow: bool) -> anyhow::Result<()> {
    let mut printed = 0;
    loop {
        let (entry, history) = control.run(run).await?;
        history[printed..].iter().try_for_each(print)?;
        printed = history.len();
        if !follow || entry.state.is_ended() {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn print(event: &StoredEvent) -> anyhow::Result<()> {
    let StoredEvent { at, event, detail, .. } = event;
    output::line(format!("{at}  {event:<16} {detail}").trim_end())
}
