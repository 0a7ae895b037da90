//! `sentinel model`: the registered models.

use lake::registry::{ModelRecord, Registry};
use serde_json::json;

use crate::{
    Outcome,
    cli::{ModelCommand, ModelSelector},
    commands::Refused,
    config::Settings,
    output,
};

/// Lists or shows models.
pub async fn run(command: &ModelCommand, settings: &Settings) -> anyhow::Result<Outcome> {
    let registry = Registry::open(&settings.data.dir.join("registry.db")).await?;
    let champion = registry.champion().await?.map(|record| record.version);
    match command {
        ModelCommand::List(format) => list(&registry.models().await?, champion, format.json)?,
        ModelCommand::Show { model, output } => {
            let version = match model {
                ModelSelector::Version(version) => *version,
                ModelSelector::Champion => champion.ok_or_else(|| {
                    Refused("there is no champion yet: `sentinel train` makes the first model".to_owned())
                })?,
            };
            show(&registry, &registry.model(version).await?, champion, output.json).await?;
        }
    }
    registry.close().await;
    Ok(Outcome::Fine)
}

fn list(models: &[ModelRecord], champion: Option<i64>, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let models: Vec<_> = models.iter().rev().map(|record| as_value(record, champion)).collect();
        return output::json(&models);
    }
    let rows: Vec<Vec<String>> = models
        .iter()
        .rev()
        .map(|record| {
            vec![
                record.version.to_string(),
                record.model.name.clone(),
                if champion == Some(record.version) { "champion" } else { "" }.to_owned(),
                record.model.created.to_string(),
                record.model.inputs.rows.to_string(),
                record.model.parameters.trees.to_string(),
                record.model.artifact.bytes.to_string(),
            ]
        })
        .collect();
    output::table(&["version", "name", "status", "created", "rows", "trees", "bytes"], &rows)
}

async fn show(registry: &Registry, record: &ModelRecord, champion: Option<i64>, as_json: bool) -> anyhow::Result<()> {
    let mut value = as_value(record, champion);
    let evaluations = registry.evaluations(record.version).await?;
    value["evaluations"] = evaluations
        .iter()
        .map(|found| json!({"at": found.at.to_string(), "slice": found.slice, "report": found.report}))
        .collect();
    if as_json {
        return output::json(&value);
    }
    let Some(fields) = value.as_object() else { return Ok(()) };
    let width = fields.keys().map(String::len).max().unwrap_or(0);
    for (name, value) in fields {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        output::line(&format!("{name:<width$}  {text}"))?;
    }
    Ok(())
}

fn as_value(record: &ModelRecord, champion: Option<i64>) -> serde_json::Value {
    let model = &record.model;
    json!({
        "version": record.version,
        "name": model.name,
        "champion": champion == Some(record.version),
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
