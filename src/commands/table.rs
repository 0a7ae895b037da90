//! `sentinel table`: the lake's tables. Whatever changes one says with `--dry-run` what it would change.

use domain::{Clock, Partition, Timestamp};
use jobs::{
    control::REGISTRY,
    pins,
    restore::{self, RestoreReport, SetBack},
};
use lake::{
    Lake, TableName,
    maintain::{Compacted, Held, Pin, Vacuumed},
    registry::Registry,
    restore::Restored,
};
use serde_json::json;

use crate::{
    Outcome,
    app::App,
    cli::{TableArg, TableChangeArgs, TableCommand},
    clock::SystemClock,
    commands::{Refused, runs, stream},
    config::Settings,
    locks::{Role, RoleLock},
    output, settings_to_parts,
};

/// Commits shown by `history`.
const COMMITS: usize = 100;

/// Lists tables, shows a table's commits, or changes how a table is stored.
pub async fn run(command: &TableCommand, settings: &Settings) -> anyhow::Result<Outcome> {
    if let TableCommand::Restore { change, version } = command {
        return restore(change, *version, settings).await;
    }
    let lake = Lake::open(&settings.data.dir.join("lake")).await?;
    match command {
        TableCommand::List(format) => list(&lake, format.json).await?,
        TableCommand::History { table, output } => history(&lake, parse(table)?, output.json).await?,
        TableCommand::Compact(change) => compact(&lake, change).await?,
        TableCommand::Checkpoint(change) => checkpoint(&lake, change).await?,
        TableCommand::Vacuum { change, retention_hours } => {
            let hours = retention_hours.unwrap_or(settings_to_parts::vacuum_retention_hours(settings));
            let pins = needed(&lake, settings).await?;
            vacuum(&lake, change, hours, &pins).await?;
        }
        TableCommand::Restore { .. } => {}
    }
    Ok(Outcome::Fine)
}

/// The table that was named.
pub fn parse(table: &TableArg) -> anyhow::Result<TableName> {
    TableName::from_name(&table.table).ok_or_else(|| {
        let names: Vec<&str> = TableName::ALL.into_iter().rev().map(TableName::as_str).collect();
        Refused(format!("there is no table `{}`; there are {}", table.table, names.join(", "))).into()
    })
}

async fn list(lake: &Lake, as_json: bool) -> anyhow::Result<()> {
    let mut states = Vec::new();
    for name in TableName::ALL.into_iter().rev() {
        states.push((name, lake.state(name).await?));
    }
    if as_json {
        let value = |(name, state): &(TableName, lake::maintain::TableState)| {
            json!({"table": name.as_str(), "version": state.version, "rows": state.rows, "files": state.files,
                   "bytes": state.bytes, "about": name.comment()})
        };
        return output::json(&states.iter().map(value).collect::<Vec<_>>());
    }
    let rows: Vec<Vec<String>> = states
        .iter()
        .map(|(name, state)| {
            let numbers = [state.version, state.rows, state.files, state.bytes].map(|number| number.to_string());
            [name.as_str().to_owned()].into_iter().chain(numbers).chain([name.comment().to_owned()]).collect()
        })
        .collect();
    output::table(&["table", "version", "rows", "files", "bytes", "about"], &rows)
}

async fn history(lake: &Lake, table: TableName, as_json: bool) -> anyhow::Result<()> {
    let commits = lake.history(table, COMMITS).await?;
    let time = |ms| Timestamp::from_millis(ms).to_string();
    if as_json {
        let value = |commit: &lake::maintain::CommitSummary| json!({"version": commit.version, "time": time(commit.timestamp_ms), "operation": commit.operation});
        return output::json(&commits.iter().map(value).collect::<Vec<_>>());
    }
    let rows: Vec<Vec<String>> = commits
        .into_iter()
        .map(|commit| vec![commit.version.to_string(), time(commit.timestamp_ms), commit.operation])
        .collect();
    output::table(&["version", "time", "operation"], &rows)
}

async fn compact(lake: &Lake, change: &TableChangeArgs) -> anyhow::Result<()> {
    let table = parse(&change.table)?;
    let done = if change.dry_run { lake.compact_plan(table).await? } else { lake.compact(table).await? };
    let Compacted { version, removed, added, rows, bytes } = done;
    if change.output.json {
        return output::json(&json!({"dry_run": change.dry_run, "version": version, "files_removed": removed,
            "files_added": added, "rows": rows, "bytes": bytes}));
    }
    let became = if change.dry_run { "would become" } else { "became" };
    output::line(&format!("{removed} files ({rows} rows, {bytes} bytes) {became} {added}, version {version}"))
}

async fn checkpoint(lake: &Lake, change: &TableChangeArgs) -> anyhow::Result<()> {
    let table = parse(&change.table)?;
    let plan = lake.checkpoint_plan(table).await?;
    if !change.dry_run {
        lake.checkpoint(table, 0).await?;
    }
    if change.output.json {
        return output::json(
            &json!({"dry_run": change.dry_run, "version": plan.version, "previous_version": plan.newest}),
        );
    }
    let wrote = if change.dry_run { "would write" } else { "wrote" };
    let before =
        if plan.newest == 0 { "there was none".to_owned() } else { format!("the last was of {}", plan.newest) };
    output::line(&format!("{wrote} a checkpoint of version {}; {before}", plan.version))
}

/// The versions that models and backfills need.
async fn needed(lake: &Lake, settings: &Settings) -> anyhow::Result<Vec<Pin>> {
    let registry = Registry::open(&settings.data.dir.join(REGISTRY)).await?;
    Ok(pins::all(lake, &registry, &runs::store(settings).await?, SystemClock.now()).await?)
}

async fn vacuum(lake: &Lake, change: &TableChangeArgs, hours: u32, pins: &[Pin]) -> anyhow::Result<()> {
    let table = parse(&change.table)?;
    let done = if change.dry_run {
        lake.vacuum_plan(table, hours, pins).await?
    } else {
        lake.vacuum(table, hours, pins).await?
    };
    let Vacuumed { files, bytes, oldest_before, oldest_after, newest, held } = done;
    let lost = (oldest_before < oldest_after).then(|| (oldest_before, oldest_after - 1));
    if change.output.json {
        return output::json(&json!({"dry_run": change.dry_run, "files_deleted": files, "bytes_deleted": bytes,
            "versions_removed": lost.map(|(first, last)| [first, last]), "versions_left": [oldest_after, newest],
            "held": held.iter().map(held_value).collect::<Vec<_>>()}));
    }
    for Held { pin, files } in &held {
        output::line(&format!("{files} files are kept for version {}: {}", pin.version, pin.reason))?;
    }
    let deleted = if change.dry_run { "would delete" } else { "deleted" };
    let versions = match lost {
        None => format!("versions {oldest_after} to {newest} stay readable"),
        Some((first, last)) if change.dry_run => format!("versions {first} to {last} could no longer be read"),
        Some((first, last)) => format!("versions {first} to {last} can no longer be read"),
    };
    output::line(&format!("{deleted} {files} files, {bytes} bytes; {versions}"))
}

fn held_value(held: &Held) -> serde_json::Value {
    json!({"version": held.pin.version, "files": held.files, "reason": held.pin.reason})
}

/// Restores with nobody at work in the data folder: what is folded or shown meanwhile would be what is taken away.
async fn restore(change: &TableChangeArgs, version: u64, settings: &Settings) -> anyhow::Result<Outcome> {
    let table = parse(&change.table)?;
    let partitions: Vec<Partition> = (0..settings.log.partitions).collect();
    let _roles = if change.dry_run {
        None
    } else {
        let http = RoleLock::acquire(&settings.data.dir, Role::Http)?;
        Some((http, stream::lock(settings, &partitions)?))
    };
    let app = App::open(settings).await?;
    let (lake, log) = (app.lake.as_ref(), app.log.as_ref());
    let done = if change.dry_run {
        restore::plan(lake, log, table, version).await?
    } else {
        restore::run(lake, log, table, version).await?
    };
    if change.output.json {
        output::json(&restored_value(&done, change.dry_run))?;
    } else {
        for line in restored_lines(&done, table, change.dry_run) {
            output::line(&line)?;
        }
    }
    app.close().await;
    Ok(Outcome::Fine)
}

fn restored_value(done: &RestoreReport, dry_run: bool) -> serde_json::Value {
    let table = &done.table;
    let progress: Vec<_> = done
        .progress
        .iter()
        .map(|p| json!({"partition": p.partition, "next_before": p.before, "next_after": p.after}))
        .collect();
    json!({"dry_run": dry_run, "version_before": table.before.version, "restored_version": table.to.version,
           "version": table.version, "rows_before": table.before.rows, "rows_after": table.to.rows,
           "bytes_before": table.before.bytes, "bytes_after": table.to.bytes,
           "files_removed": table.files_removed, "files_added": table.files_added, "progress": progress,
           "to_be_filled": done.is_to_be_filled})
}

fn restored_lines(done: &RestoreReport, table: TableName, dry_run: bool) -> Vec<String> {
    let Restored { before, to, files_added, files_removed, version } = &done.table;
    let name = table.as_str();
    let head = match version {
        Some(version) => format!("{name} version {version} has the rows of version {}", to.version),
        None => format!("{name} would get the rows of version {}", to.version),
    };
    let mut lines = vec![
        head,
        format!("rows   {} -> {}", before.rows, to.rows),
        format!("bytes  {} -> {}", before.bytes, to.bytes),
        format!("files  {files_removed} removed, {files_added} added again"),
    ];
    for SetBack { partition, before, after } in done.progress.iter().filter(|p| p.before != p.after) {
        lines.push(format!("partition {partition}: next offset {before} -> {after}"));
    }
    if done.is_to_be_filled {
        let folds = if dry_run { "would fold" } else { "folds" };
        lines.push(format!("the next `sentinel stream` {folds} what is missing again from the log"));
    }
    lines
}
