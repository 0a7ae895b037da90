//! `sentinel topic`: the event log's topic, and its records as they come.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use domain::{ErrorKind, Offset, Partition, RawRecord};
use futures::future::select_all;
use serde_json::{json, value::RawValue};
use streams::{EventLog, ReadItem};

use crate::{
    Outcome,
    app::cancelled_by_signals,
    cli::{TailArgs, TailFrom, TopicCommand},
    clock::SystemClock,
    commands::{Refused, kind, mirror},
    config::{LogEngine, Settings},
    log_engine, output,
    progress::Progress,
};

/// Records of a partition that are read together.
const RECORDS: usize = 1_000;

/// The pause after the log could not be read.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs a subcommand.
pub async fn run(command: &TopicCommand, settings: &Settings, progress: &Progress) -> anyhow::Result<Outcome> {
    match command {
        TopicCommand::List { output, .. } => list(output.json, settings).await?,
        TopicCommand::Create { output, .. } | TopicCommand::Describe { output, .. } => {
            let log = open(settings).await?;
            describe(log.as_ref(), output.json, settings).await?;
            log.close().await;
        }
        TopicCommand::Tail(args) => {
            let log = open(settings).await?;
            tail(log.as_ref(), args).await?;
            log.close().await;
        }
        TopicCommand::Mirror(args) => return mirror::mirror(args, settings, progress).await,
        TopicCommand::Cutover(args) => return mirror::cutover(args, settings, progress).await,
    }
    Ok(Outcome::Fine)
}

async fn open(settings: &Settings) -> anyhow::Result<Arc<dyn EventLog>> {
    log_engine::open(&settings.log, &settings.data.dir, Arc::new(SystemClock)).await
}

async fn list(as_json: bool, settings: &Settings) -> anyhow::Result<()> {
    let topics = match settings.log.engine {
        // A file holds one.
        LogEngine::Embedded => {
            let log = open(settings).await?;
            log.close().await;
            vec![(settings.log.topic.clone(), log.partitions())]
        }
        LogEngine::Fluvio => log_engine::topics(&settings.log).await?,
    };
    if as_json {
        let topic = |(name, partitions): &(String, Partition)| json!({"topic": name, "partitions": partitions});
        return output::json(&topics.iter().map(topic).collect::<Vec<_>>());
    }
    let row = |(name, partitions): &(String, Partition)| vec![name.clone(), partitions.to_string()];
    output::table(&["topic", "partitions"], &topics.iter().map(row).collect::<Vec<_>>())
}

async fn describe(log: &dyn EventLog, as_json: bool, settings: &Settings) -> anyhow::Result<()> {
    let mut bounds = Vec::new();
    for partition in 0..log.partitions() {
        bounds.push((partition, log.first_offset(partition).await?, log.end_offset(partition).await?));
    }
    let (topic, id) = (&settings.log.topic, log.topic_id());
    if as_json {
        let partition = |(partition, first, end): &(Partition, Offset, Offset)| json!({"partition": partition, "first_offset": first, "end_offset": end});
        let partitions: Vec<_> = bounds.iter().map(partition).collect();
        return output::json(
            &json!({"topic": topic, "id": id, "engine": settings.log.engine.as_str(), "partitions": partitions}),
        );
    }
    output::line(&format!("topic {topic}, id {id}, {}", settings.log.engine.as_str()))?;
    let row = |(partition, first, end): &(Partition, Offset, Offset)| {
        [i64::from(*partition), *first, *end, end - first].map(|number| number.to_string()).to_vec()
    };
    output::table(&["partition", "first", "end", "records"], &bounds.iter().map(row).collect::<Vec<_>>())
}

/// Prints records until it is told to end, or has printed as many as were asked for.
async fn tail(log: &dyn EventLog, args: &TailArgs) -> anyhow::Result<()> {
    let cancel = cancelled_by_signals()?;
    let mut next = BTreeMap::new();
    for partition in wanted(log, args.partition)? {
        let offset = match args.from {
            TailFrom::Beginning => log.first_offset(partition).await?,
            TailFrom::End => log.end_offset(partition).await?,
            TailFrom::Offset(offset) => offset,
        };
        next.insert(partition, offset);
    }
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 && !cancel.is_cancelled() {
        match print_new(log, &mut next, &mut left, args.output.json).await {
            Ok(false) => {}
            Ok(true) if args.once => return Ok(()),
            Ok(true) => {
                let records = select_all(next.iter().map(|(partition, offset)| log.wait_beyond(*partition, *offset)));
                // What went wrong comes out again at the next read.
                tokio::select! { _ = records => {}, () = cancel.cancelled() => {} }
            }
            Err(error) if kind(&error) == Some(ErrorKind::Unavailable) && !args.once => {
                tracing::warn!("{error:#}; goes on when the log can be read again");
                tokio::select! { () = tokio::time::sleep(PAUSE) => {}, () = cancel.cancelled() => {} }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Prints what comes next of every partition, `left` records at most; whether there was nothing.
async fn print_new(
    log: &dyn EventLog,
    next: &mut BTreeMap<Partition, Offset>,
    left: &mut u64,
    as_json: bool,
) -> anyhow::Result<bool> {
    let mut is_idle = true;
    for (partition, offset) in next {
        for item in log.read(*partition, *offset, RECORDS).await? {
            is_idle = false;
            *offset = item.end();
            *left = print(*partition, &item, *left, as_json)?;
        }
    }
    Ok(is_idle)
}

fn wanted(log: &dyn EventLog, partition: Option<Partition>) -> anyhow::Result<Vec<Partition>> {
    match partition {
        None => Ok((0..log.partitions()).collect()),
        Some(partition) if (0..log.partitions()).contains(&partition) => Ok(vec![partition]),
        Some(partition) => {
            let text = format!("there is no partition {partition}: there are {}, counted from 0", log.partitions());
            Err(Refused(text).into())
        }
    }
}

/// Prints at most `left` records; how many are left then.
fn print(partition: Partition, item: &ReadItem, left: u64, as_json: bool) -> anyhow::Result<u64> {
    match item {
        ReadItem::Gap { from, to, reason, .. } => {
            tracing::warn!(partition, from, to, reason, "these offsets cannot be had");
            Ok(left)
        }
        ReadItem::Batch(batch) => {
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(batch.len());
            for record in batch.records().take(count) {
                output::line(&if as_json { as_object(partition, &record) } else { as_text(partition, &record) })?;
            }
            Ok(left - count as u64)
        }
    }
}

fn as_text(partition: Partition, record: &RawRecord<'_>) -> String {
    format!("{partition}:{}  {}  {}", record.offset, record.append_time, String::from_utf8_lossy(record.value))
}

/// The record as one JSON object; its value as it is where that is JSON, otherwise as text.
fn as_object(partition: Partition, record: &RawRecord<'_>) -> String {
    let text = String::from_utf8_lossy(record.value);
    let value = serde_json::from_str::<&RawValue>(&text).map_or_else(|_| json!(text).to_string(), ToString::to_string);
    let (offset, time, key) = (record.offset, record.append_time, json!(String::from_utf8_lossy(record.key)));
    format!(
        "{{\"partition\":{partition},\"offset\":{offset},\"append_time\":\"{time}\",\"key\":{key},\"value\":{value}}}"
    )
}
