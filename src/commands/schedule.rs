//! `sentinel schedule`: what is due when, and what was decided about it.

use std::{fs, path::Path, time::Duration};

use domain::{Clock, Timestamp};
use jobs::{
    control::{CatchUp, Control, RunEntry, RunState, StoredDecision, StoredSchedule},
    scheduled,
};
use scheduler::{Schedule, Store, store::schedules::Applied};
use serde_json::{Value, json};

use crate::{
    Outcome,
    cli::{CatchUpArg, ScheduleCommand},
    clock::SystemClock,
    commands::{Refused, control},
    config::Settings,
    output,
};

/// Decisions that are shown.
const DECISIONS: u32 = 20;

/// How often a run that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// The schedules that every data folder has.
const SHIPPED: &str = include_str!("../schedules.toml");

/// Runs a subcommand.
pub async fn run(command: &ScheduleCommand, settings: &Settings) -> anyhow::Result<Outcome> {
    let now = SystemClock.now();
    if let ScheduleCommand::Check { file } = command {
        return check(file, now);
    }
    let control = control(settings).await?;
    let store = control.store();
    begin(store, settings).await?;
    match command {
        ScheduleCommand::List(format) => list(&control.schedules().await?, format.json)?,
        ScheduleCommand::Show { name, output } => show(&control, name, output.json).await?,
        ScheduleCommand::Next { name, count, output } => {
            let schedule = store.schedule(name).await?.schedule;
            let times = schedule.time.after(now).take(usize::from(*count)).map(|due| due.to_string());
            print_all(&times.collect::<Vec<_>>(), output.json)?;
        }
        ScheduleCommand::Apply { file, dry_run, output } => apply(store, file, *dry_run, output.json, now).await?,
        ScheduleCommand::Check { .. } => {}
        ScheduleCommand::Pause { name, note } => {
            control.pause(name, note).await?;
            output::line(&format!("{name} is paused"))?;
        }
        ScheduleCommand::Resume { name, catch_up } => {
            let runs = control.resume(name, as_catch_up(*catch_up)).await?;
            output::line(&format!("{name} goes on; {} times of the pause are made up for", runs.len()))?;
        }
        ScheduleCommand::Trigger { name, at, idempotency_key, wait } => {
            let run = control.trigger(name, *at, idempotency_key.as_deref()).await?;
            output::line(&format!("run {run}"))?;
            if *wait {
                return wait_for(&control, run.into()).await;
            }
        }
        ScheduleCommand::Explain { name, at, output } => explain(store, name, *at, output.json).await?,
    }
    Ok(Outcome::Fine)
}

/// Gives a store the schedules that Sentinel ships with, as far as it lacks them, and those of the settings.
pub async fn begin(store: &Store, settings: &Settings) -> anyhow::Result<()> {
    let known = store.schedules().await?;
    let mut schedules = parse(SHIPPED)?;
    schedules.retain(|shipped| known.iter().all(|known| known.schedule.name != shipped.name));
    schedules.retain(|shipped| settings.schedules.iter().all(|given| given.name != shipped.name));
    schedules.extend(settings.schedules.iter().cloned());
    store.apply(&schedules, SystemClock.now()).await?;
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<Vec<Schedule>> {
    let text = fs::read_to_string(file).map_err(|error| Refused(format!("cannot read {}: {error}", file.display())))?;
    let schedules = parse(&text)?;
    for Schedule { name, job, spec, .. } in &schedules {
        scheduled::check(job, spec).map_err(|reason| Refused(format!("schedule `{name}`: {reason}")))?;
    }
    Ok(schedules)
}

/// The schedules of a text: a table each.
fn parse(text: &str) -> anyhow::Result<Vec<Schedule>> {
    let tables: toml::Table = text.parse().map_err(|error| Refused(format!("this is no TOML: {error}")))?;
    tables.iter().map(|(name, table)| Ok(Schedule::parse(name, serde_json::to_value(table)?)?)).collect()
}

fn check(file: &Path, now: Timestamp) -> anyhow::Result<Outcome> {
    let row = |schedule: &Schedule| {
        let next = schedule.time.next(now).map(|due| due.to_string()).unwrap_or_default();
        vec![schedule.name.clone(), schedule.job.clone(), schedule.time.to_string(), next]
    };
    let rows: Vec<_> = read(file)?.iter().map(row).collect();
    output::table(&["schedule", "job", "when", "next"], &rows)?;
    Ok(Outcome::Fine)
}

fn list(schedules: &[StoredSchedule], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json(&schedules.iter().map(value).collect::<Vec<_>>());
    }
    let row = |stored: &StoredSchedule| {
        let StoredSchedule { schedule, next, paused_since, .. } = stored;
        let next = next.map(|due| due.to_string()).unwrap_or_default();
        let paused = paused_since.map(|since| format!("since {since}")).unwrap_or_default();
        vec![schedule.name.clone(), schedule.job.clone(), schedule.time.to_string(), next, paused]
    };
    let rows: Vec<_> = schedules.iter().map(row).collect();
    output::table(&["schedule", "job", "when", "next", "paused"], &rows)
}

fn value(stored: &StoredSchedule) -> Value {
    let mut value = stored.schedule.written();
    value["name"] = json!(stored.schedule.name);
    value["next"] = json!(stored.next.map(|due| due.to_string()));
    value["paused_since"] = json!(stored.paused_since.map(|since| since.to_string()));
    value["decided_until"] = json!(stored.decided_until.to_string());
    value
}

async fn show(control: &Control, name: &str, as_json: bool) -> anyhow::Result<()> {
    let (stored, decisions) = control.schedule(name).await?;
    let mut shown = value(&stored);
    if as_json {
        shown["decisions"] = decisions.iter().map(decision_value).collect();
        return output::json(&shown);
    }
    for (field, value) in shown.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        output::line(&format!("{field:<14} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))?;
    }
    print_decisions(&decisions)
}

async fn apply(store: &Store, file: &Path, dry_run: bool, as_json: bool, now: Timestamp) -> anyhow::Result<()> {
    let schedules = read(file)?;
    let applied = if dry_run {
        let known = store.schedules().await?;
        let would = |schedule: &Schedule| match known.iter().find(|known| known.schedule.name == schedule.name) {
            None => Applied::New,
            Some(known) if known.schedule == *schedule => Applied::Unchanged,
            Some(_) => Applied::Changed,
        };
        schedules.iter().map(would).collect()
    } else {
        store.apply(&schedules, now).await?
    };
    let word = |applied: &Applied| match applied {
        Applied::New => "new",
        Applied::Changed => "changed",
        Applied::Unchanged => "unchanged",
    };
    let named = schedules.iter().map(|schedule| schedule.name.clone()).zip(applied.iter().map(word));
    if as_json {
        let value = |(name, outcome)| json!({"schedule": name, "outcome": outcome, "dry_run": dry_run});
        return output::json(&named.map(value).collect::<Vec<_>>());
    }
    output::table(&["schedule", "outcome"], &named.map(|(name, word)| vec![name, word.to_owned()]).collect::<Vec<_>>())
}

async fn explain(store: &Store, name: &str, at: Timestamp, as_json: bool) -> anyhow::Result<()> {
    let stored = store.schedule(name).await?;
    let decisions = store.decisions(name, Some(at), DECISIONS).await?;
    if as_json {
        return output::json(&decisions.iter().map(decision_value).collect::<Vec<_>>());
    }
    if !decisions.is_empty() {
        return print_decisions(&decisions);
    }
    let is_due = stored.schedule.time.next(at.plus_micros(-1)) == Some(at);
    output::line(&match (is_due, at > stored.decided_until) {
        (false, _) => format!("{name} is not due at {at}: it is {}", stored.schedule.time),
        (true, true) => format!("{at} has not come, or nobody has decided it yet: is a scheduler running?"),
        (true, false) => format!("{name} was not there yet at {at}, or had another time"),
    })
}

fn decision_value(decision: &StoredDecision) -> Value {
    let StoredDecision { first, last, times, decided, run, reason } = decision;
    json!({"first": first.to_string(), "last": last.to_string(), "times": times, "decided": decided.to_string(),
           "run": run.map(i64::from), "reason": reason})
}

fn print_decisions(decisions: &[StoredDecision]) -> anyhow::Result<()> {
    let row = |decision: &StoredDecision| {
        let StoredDecision { first, last, times, decided, run, reason } = decision;
        let of = if first == last { first.to_string() } else { format!("{first} to {last}") };
        let times = times.map(|times| times.to_string()).unwrap_or_default();
        let run = run.map(|run| run.to_string()).unwrap_or_default();
        vec![of, times, decided.to_string(), run, reason.clone()]
    };
    output::table(&["time", "times", "decided", "run", "why"], &decisions.iter().map(row).collect::<Vec<_>>())
}

fn print_all(lines: &[String], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json(&lines);
    }
    lines.iter().try_for_each(|line| output::line(line))
}

/// Waits for the end of a run; a scheduler must do it.
async fn wait_for(control: &Control, id: i64) -> anyhow::Result<Outcome> {
    loop {
        let (RunEntry { run, state }, _) = control.run(id).await?;
        if state.is_ended() {
            let error = run.error.map(|error| format!(": {error}")).unwrap_or_default();
            output::line(&format!("run {id} is {}{error}", state.as_str()))?;
            return Ok(if state == RunState::Succeeded { Outcome::Fine } else { Outcome::Difference });
        }
        tokio::time::sleep(LOOK).await;
    }
}

const fn as_catch_up(catch_up: CatchUpArg) -> CatchUp {
    match catch_up {
        CatchUpArg::None => CatchUp::None,
        CatchUpArg::Last => CatchUp::Last,
        CatchUpArg::All => CatchUp::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_schedules_can_be_read() {
        let names: Vec<String> = parse(SHIPPED).unwrap().into_iter().map(|schedule| schedule.name).collect();
        let expected = ["backup", "checkpoint", "clean-log", "compact", "drift", "evaluate", "retrain", "vacuum"];
        assert_eq!(names, expected);
        for Schedule { name, job, spec, .. } in parse(SHIPPED).unwrap() {
            assert_eq!(scheduled::check(&job, &spec), Ok(()), "{name}");
        }
    }
}
