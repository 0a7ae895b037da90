//! `sentinel doctor`: looks at every part of a data folder and says what is wrong with it.

use jobs::{
    control::{MODELS, REGISTRY},
    stream,
};
use lake::{Lake, TableName, registry::Registry};
use serde_json::json;
use streams::EventLog;

use crate::{Outcome, cli::DoctorArgs, clock::SystemClock, config::Settings, log_engine, output};

/// One thing looked at.
struct Finding {
    what: &'static str,
    result: anyhow::Result<String>,
}

/// Looks at everything; a part that is wrong does not hide the next.
pub async fn run(args: &DoctorArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let data = &settings.data.dir;
    if !data.exists() {
        output::line(&format!("{} does not exist yet: `sentinel up` makes it", data.display()))?;
        return Ok(Outcome::Fine);
    }
    let log = log_engine::open(&settings.log, data, std::sync::Arc::new(SystemClock)).await;
    let lake = Lake::open(&data.join("lake")).await;
    let mut findings = vec![Finding { what: "disk", result: writable(data) }];
    findings.push(Finding {
        what: "log",
        result: match &log {
            Ok(log) => log_summary(log.as_ref()).await,
            Err(error) => Err(anyhow::anyhow!("{error}")),
        },
    });
    findings.push(Finding {
        what: "lake",
        result: match &lake {
            Ok(lake) => lake_summary(lake).await,
            Err(error) => Err(anyhow::anyhow!("{error}")),
        },
    });
    if let (Ok(log), Ok(lake)) = (&log, &lake) {
        findings.push(Finding { what: "progress", result: progress_summary(log.as_ref(), lake).await });
    }
    findings.push(Finding { what: "models", result: models_summary(settings).await });
    report(&findings, args.output.json)
}

fn report(findings: &[Finding], as_json: bool) -> anyhow::Result<Outcome> {
    let fine = findings.iter().all(|finding| finding.result.is_ok());
    let text = |finding: &Finding| match &finding.result {
        Ok(text) => text.clone(),
        Err(error) => format!("{error:#}"),
    };
    if as_json {
        let value = |f: &Finding| json!({"part": f.what, "ok": f.result.is_ok(), "details": text(f)});
        output::json(&findings.iter().map(value).collect::<Vec<_>>())?;
    } else {
        for finding in findings {
            let verdict = if finding.result.is_ok() { "ok" } else { "WRONG" };
            output::line(&format!("{:<9} {verdict:<6} {}", finding.what, text(finding)))?;
        }
    }
    Ok(if fine { Outcome::Fine } else { Outcome::Difference })
}

fn writable(data: &std::path::Path) -> anyhow::Result<String> {
    let probe = data.join(".doctor");
    std::fs::write(&probe, b"written by doctor")?;
    std::fs::remove_file(&probe)?;
    Ok(format!("{} can be written", data.display()))
}

async fn log_summary(log: &dyn EventLog) -> anyhow::Result<String> {
    let mut records = 0;
    for partition in 0..log.partitions() {
        records += log.end_offset(partition).await? - log.first_offset(partition).await?;
    }
    Ok(format!("topic {}, {} partitions, {records} records", log.topic_id(), log.partitions()))
}

async fn lake_summary(lake: &Lake) -> anyhow::Result<String> {
    let mut parts = Vec::new();
    for table in TableName::ALL.into_iter().rev() {
        let state = lake.state(table).await?;
        parts.push(format!("{} {}", table.as_str(), state.rows));
    }
    Ok(format!("rows: {}", parts.join(", ")))
}

async fn progress_summary(log: &dyn EventLog, lake: &Lake) -> anyhow::Result<String> {
    let positions = stream::positions(log, lake).await?;
    for (partition, next, end) in &positions {
        anyhow::ensure!(next <= end, "partition {partition}: the tables hold offset {next}, the log ends at {end}");
    }
    let behind: i64 = positions.iter().map(|(_, next, end)| end - next).sum();
    let partitions: Vec<_> = (0..log.partitions()).collect();
    let mut restored: Vec<_> =
        lake.fills(log.topic_id(), &partitions).await?.iter().map(|(table, ..)| table.as_str()).collect();
    restored.dedup();
    let fill = match restored.as_slice() {
        [] => String::new(),
        tables => format!("; restored and not filled yet, `sentinel stream` does it: {}", tables.join(", ")),
    };
    Ok(format!("{behind} records of the log are not in the tables yet{fill}"))
}

async fn models_summary(settings: &Settings) -> anyhow::Result<String> {
    let registry = Registry::open(&settings.data.dir.join(REGISTRY)).await?;
    let models = registry.models().await?;
    for record in &models {
        let (folder, artifact) = (settings.data.dir.join(MODELS), record.model.artifact.clone());
        tokio::task::spawn_blocking(move || lake::artifacts::read(&folder, &artifact)).await??;
    }
    let champion =
        registry.champion().await?.map_or_else(|| "no champion yet".to_owned(), |r| format!("champion {}", r.version));
    registry.close().await;
    Ok(format!("{} models, every file as it was written, {champion}", models.len()))
}
