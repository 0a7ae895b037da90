//! `sentinel table`: the lake's tables.

use domain::Timestamp;
use lake::{Lake, TableName};
use serde_json::json;

use crate::{
    Outcome,
    cli::{TableArg, TableCommand},
    commands::Refused,
    config::Settings,
    output,
};

/// Commits shown by `history`.
const COMMITS: usize = 100;

/// Lists tables, shows a table's commits, or joins its small files.
pub async fn run(command: &TableCommand, settings: &Settings) -> anyhow::Result<Outcome> {
    let lake = Lake::open(&settings.data.dir.join("lake")).await?;
    match command {
        TableCommand::List(format) => list(&lake, format.json).await?,
        TableCommand::History { table, output } => history(&lake, parse(table)?, output.json).await?,
        TableCommand::Compact { table, output } => compact(&lake, parse(table)?, output.json).await?,
    }
    Ok(Outcome::Fine)
}

fn parse(table: &TableArg) -> anyhow::Result<TableName> {
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

async fn compact(lake: &Lake, table: TableName, as_json: bool) -> anyhow::Result<()> {
    let done = lake.compact(table).await?;
    if as_json {
        return output::json(
            &json!({"version": done.version, "files_removed": done.removed, "files_added": done.added}),
        );
    }
    output::line(&format!("{} files became {}, version {}", done.removed, done.added, done.version))
}
