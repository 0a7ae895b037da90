//! `sentinel topic mirror` and `sentinel topic cutover`: from the embedded log to a cluster.

use std::sync::Arc;

use domain::Partition;
use jobs::{
    control::REGISTRY,
    mirror::{self, Mirrored},
};
use lake::{Lake, TableName, registry::Registry};
use serde_json::json;
use streams::{CopyTarget, EventLog};

use crate::{
    Outcome,
    app::cancelled_by_signals,
    cli::{MoveArgs, MoveFrom},
    clock::SystemClock,
    commands::{Refused, stream},
    config::{LogEngine, LogSettings, Settings},
    locks::{Role, RoleLock},
    log_engine, output,
    progress::{OpenTask, Progress},
};

/// Copies what the copy lacks.
pub async fn mirror(args: &MoveArgs, settings: &Settings, progress: &Progress) -> anyhow::Result<Outcome> {
    let (from, to) = open(args, settings).await?;
    let cancel = cancelled_by_signals()?;
    let shown = OpenTask::new(progress, "mirror", "records");
    let parts = mirror::mirror(from.as_ref(), to.as_ref(), &cancel, &|done, total| shown.tell(done, total)).await?;
    shown.finish();
    if args.output.json {
        let part = |part: &Mirrored| json!({"partition": part.partition, "records": part.records, "copied_to": part.next, "end": part.end});
        output::json(&parts.iter().map(part).collect::<Vec<_>>())?;
    } else {
        let row = |part: &Mirrored| {
            let records = part.records.to_string();
            vec![part.partition.to_string(), records, part.next.to_string(), part.end.to_string()]
        };
        output::table(&["partition", "records", "copied to", "end"], &parts.iter().map(row).collect::<Vec<_>>())?;
    }
    close(from.as_ref(), to.as_ref()).await;
    Ok(Outcome::Fine)
}

/// Lets the tables follow the copy.
pub async fn cutover(args: &MoveArgs, settings: &Settings, progress: &Progress) -> anyhow::Result<Outcome> {
    let data = &settings.data.dir;
    let partitions: Vec<Partition> = (0..settings.log.partitions).collect();
    let _http = RoleLock::acquire(data, Role::Http)?;
    let _streams = stream::lock(settings, &partitions)?;
    let (from, to) = open(args, settings).await?;
    let lake = Lake::open(&data.join("lake")).await?;
    let registry = Registry::open(&data.join(REGISTRY)).await?;
    let shown = OpenTask::new(progress, "compare", "records");
    let tell = |done, total| shown.tell(done, total);
    let versions = mirror::cutover(from.as_ref(), to.as_ref(), &lake, &registry, &tell).await?;
    shown.finish();
    if args.output.json {
        let version = |(table, version): &(TableName, u64)| json!({"table": table.as_str(), "version": version});
        let versions: Vec<_> = versions.iter().map(version).collect();
        output::json(&json!({"from": from.topic_id(), "to": to.topic_id(), "tables": versions}))?;
    } else {
        let row = |(table, version): &(TableName, u64)| vec![table.as_str().to_owned(), version.to_string()];
        output::table(&["table", "version"], &versions.iter().map(row).collect::<Vec<_>>())?;
        output::line(&format!(
            "the tables follow topic {} of {} now: start with `--log {}`, or set `log.engine` and `log.endpoint`",
            settings.log.topic, args.to, args.to
        ))?;
    }
    registry.close().await;
    close(from.as_ref(), to.as_ref()).await;
    Ok(Outcome::Fine)
}

async fn open(args: &MoveArgs, settings: &Settings) -> anyhow::Result<(Arc<dyn EventLog>, Arc<dyn CopyTarget>)> {
    let data = &settings.data.dir;
    if settings.log.engine != LogEngine::Fluvio {
        return Err(Refused("`--to` is a cluster: write fluvio or fluvio://HOST:PORT".to_owned()).into());
    }
    let MoveFrom::Embedded = args.from;
    let file = log_engine::embedded_file(data);
    if !file.exists() {
        return Err(Refused(format!("there is no embedded log to copy: {} is missing", file.display())).into());
    }
    let from = LogSettings { engine: LogEngine::Embedded, ..settings.log.clone() };
    let from = log_engine::open(&from, data, Arc::new(SystemClock)).await?;
    Ok((from, log_engine::copy_target(&settings.log, data, Arc::new(SystemClock)).await?))
}

async fn close(from: &dyn EventLog, to: &dyn CopyTarget) {
    to.close().await;
    from.close().await;
}
