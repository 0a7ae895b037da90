//! `sentinel model`: the registered models and their life.

use std::{fs, io::Write, path::Path};

use jobs::{
    control::{Control, Happened, MODELS, ModelDetail, ModelEntry},
    rebuild,
};
use lake::{artifacts, registry::ModelRecord};
use serde_json::{Map, Value, json};

use crate::{
    Outcome,
    app::App,
    cli::{ModelCommand, ModelSelector},
    commands::control,
    config::Settings,
    new_file::NewFile,
    output,
};

/// Who changes something from here, for the history.
pub const WHO: &str = "command line";

/// Runs a subcommand.
pub async fn run(command: &ModelCommand, settings: &Settings) -> anyhow::Result<Outcome> {
    if let ModelCommand::Verify { model, repair, output } = command {
        return verify(*model, *repair, output.json, settings).await;
    }
    let control = control(settings).await?;
    match command {
        ModelCommand::List(format) => list(&control.models().await?, format.json)?,
        ModelCommand::Show { model, output } => show(&detail(&control, *model).await?, output.json)?,
        ModelCommand::Promote { model, reason, expect_current } => {
            control.promote(*model, *expect_current, WHO, reason).await?;
            output::line(&format!("model version {model} is champion"))?;
        }
        ModelCommand::Rollback { reason } => {
            let version = control.roll_back(WHO, reason).await?;
            output::line(&format!("model version {version} is champion again"))?;
        }
        ModelCommand::History(format) => history(&control.history().await?, format.json)?,
        ModelCommand::Verify { .. } => {}
        ModelCommand::Diff { one, other, output } => {
            let (one, other) = (detail(&control, *one).await?, detail(&control, *other).await?);
            diff(&one.entry.record, &other.entry.record, output.json)?;
        }
        ModelCommand::Export { model, output } => {
            export(&detail(&control, *model).await?, &settings.data.dir.join(MODELS), output)?;
        }
        ModelCommand::Pin { model, note } => {
            let changed = control.pin(*model, true, WHO, note).await?;
            output::line(&format!("model version {model} is pinned{}", if changed { "" } else { " already" }))?;
        }
        ModelCommand::Unpin { model } => {
            let changed = control.pin(*model, false, WHO, "").await?;
            output::line(&format!(
                "model version {model} {} pinned",
                if changed { "is no longer" } else { "was not" }
            ))?;
        }
    }
    Ok(Outcome::Fine)
}

async fn detail(control: &Control, model: ModelSelector) -> anyhow::Result<ModelDetail> {
    let version = match model {
        ModelSelector::Version(version) => Some(version),
        ModelSelector::Champion => None,
    };
    Ok(control.model(version).await?)
}

fn list(models: &[ModelEntry], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json(&models.iter().map(as_value).collect::<Vec<_>>());
    }
    let row = |entry: &ModelEntry| {
        let ModelRecord { version, model } = &entry.record;
        let pinned = if entry.is_pinned { ", pinned" } else { "" };
        vec![
            version.to_string(),
            model.name.clone(),
            format!("{}{pinned}", entry.state.as_str()),
            model.created.to_string(),
            model.inputs.rows.to_string(),
            model.parameters.trees.to_string(),
            model.artifact.bytes.to_string(),
        ]
    };
    let rows: Vec<_> = models.iter().map(row).collect();
    output::table(&["version", "name", "status", "created", "rows", "trees", "bytes"], &rows)
}

fn show(detail: &ModelDetail, as_json: bool) -> anyhow::Result<()> {
    let mut value = as_value(&detail.entry);
    let found = detail.evaluations.iter();
    value["evaluations"] =
        found.map(|one| json!({"at": one.at.to_string(), "slice": one.slice, "report": one.report})).collect();
    let drift = detail.drift.as_ref();
    value["drift"] = drift
        .map_or(Value::Null, |one| json!({"at": one.at.to_string(), "drifted": one.drifted, "report": one.report}));
    value["history"] = detail.history.iter().map(happened_value).collect();
    if as_json {
        return output::json(&value);
    }
    let Some(fields) = value.as_object() else { return Ok(()) };
    let width = fields.keys().map(String::len).max().unwrap_or(0);
    for (name, value) in fields.iter().filter(|(name, _)| *name != "history") {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        output::line(&format!("{name:<width$}  {text}"))?;
    }
    history(&detail.history, false)
}

fn happened_value(happened: &Happened) -> Value {
    let Happened { at, version, what, who, why } = happened;
    json!({"at": at.to_string(), "version": version, "what": what, "who": who, "why": why})
}

fn history(history: &[Happened], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json(&history.iter().map(happened_value).collect::<Vec<_>>());
    }
    let row = |happened: &Happened| {
        let Happened { at, version, what, who, why } = happened;
        vec![at.to_string(), version.to_string(), (*what).to_owned(), who.clone(), why.clone()]
    };
    output::table(&["time", "version", "what", "who", "why"], &history.iter().map(row).collect::<Vec<_>>())
}

/// Prints the fields of two records that differ.
fn diff(one: &ModelRecord, other: &ModelRecord, as_json: bool) -> anyhow::Result<()> {
    let (mut left, mut right) = (Map::new(), Map::new());
    flatten("", record_value(one), &mut left);
    flatten("", record_value(other), &mut right);
    let mut keys: Vec<&String> = left.keys().chain(right.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let value = |map: &Map<String, Value>, key: &str| map.get(key).cloned().unwrap_or(Value::Null);
    let differing = keys.into_iter().filter(|key| value(&left, key) != value(&right, key));
    let differing: Vec<(&String, Value, Value)> =
        differing.map(|key| (key, value(&left, key), value(&right, key))).collect();
    if as_json {
        let row = |(key, one, other): &(&String, Value, Value)| json!({"field": key, "one": one, "other": other});
        return output::json(&differing.iter().map(row).collect::<Vec<_>>());
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let rows: Vec<_> = differing.iter().map(|(key, one, other)| vec![(*key).clone(), text(one), text(other)]).collect();
    output::table(&["field", &format!("version {}", one.version), &format!("version {}", other.version)], &rows)
}

/// Objects as dotted names; lists are values.
fn flatten(prefix: &str, value: Value, fields: &mut Map<String, Value>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
                flatten(&key, value, fields);
            }
        }
        value => {
            fields.insert(prefix.to_owned(), value);
        }
    }
}

fn export(detail: &ModelDetail, models: &Path, folder: &Path) -> anyhow::Result<()> {
    let ModelRecord { version, model } = &detail.entry.record;
    let bytes = artifacts::read(models, &model.artifact)?;
    let record = serde_json::to_vec_pretty(&as_value(&detail.entry))?;
    fs::create_dir_all(folder)?;
    for (end, bytes) in [("model", bytes), ("json", record)] {
        let path = folder.join(format!("{}-v{version}.{end}", model.name));
        let mut file = NewFile::create(&path)?;
        file.write_all(&bytes)?;
        file.publish()?;
        output::line(&path.display().to_string())?;
    }
    Ok(())
}

async fn verify(model: ModelSelector, repair: bool, as_json: bool, settings: &Settings) -> anyhow::Result<Outcome> {
    let version = detail(&control(settings).await?, model).await?.entry.record.version;
    let app = App::open(settings).await?;
    let rebuilt = rebuild::verify(&app.workshop(), version, repair).await?;
    if as_json {
        output::json(&rebuilt)?;
    } else {
        output::line(rebuilt.to_string().trim_end())?;
    }
    app.close().await;
    Ok(if rebuilt.is_fine() { Outcome::Fine } else { Outcome::Difference })
}

fn as_value(entry: &ModelEntry) -> Value {
    let mut value = record_value(&entry.record);
    value["status"] = json!(entry.state.as_str());
    value["pinned"] = json!(entry.is_pinned);
    value
}

fn record_value(record: &ModelRecord) -> Value {
    let model = &record.model;
    json!({
        "version": record.version,
        "name": model.name,
        "parent": model.parent,
        "created": model.created.to_string(),
        "code_version": model.code_version,
        "inputs": model.inputs,
        "specification_hash": model.specification_hash,
        "seed": model.seed,
        "trees": model.parameters.trees,
        "max_samples": model.parameters.max_samples,
        "contamination": model.parameters.contamination,
        "alert_quantile": model.parameters.alert_quantile,
        "threshold": model.threshold,
        "scaler_means": model.scaler_means,
        "scaler_stds": model.scaler_deviations,
        "artifact": {"path": model.artifact.path, "bytes": model.artifact.bytes, "sha256": model.artifact.sha256},
        "metrics": model.metrics,
    })
}
