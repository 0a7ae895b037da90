//! `sentinel dead-letters`: records that could not be events, with the reason of each.

use lake::{Lake, read::StoredDeadLetter};
use serde_json::json;

use crate::{
    Outcome,
    cli::{DeadLettersCommand, RecordPosition},
    commands::Refused,
    config::Settings,
    output,
};

/// Bytes of a record that a list shows.
const SHOWN_CHARACTERS: usize = 60;

/// Lists or shows dead letters.
pub async fn run(command: &DeadLettersCommand, settings: &Settings) -> anyhow::Result<Outcome> {
    let lake = Lake::open(&settings.data.dir.join("lake")).await?;
    match command {
        DeadLettersCommand::List { limit, output } => {
            let letters = lake.dead_letters("TRUE", *limit).await?;
            if output.json {
                output::json(&letters.iter().map(as_value).collect::<Vec<_>>())?;
            } else {
                output::table(
                    &["position", "append_time", "key", "reason", "record"],
                    &letters.iter().map(row).collect::<Vec<_>>(),
                )?;
            }
        }
        DeadLettersCommand::Show { position, output } => {
            let letter = find(&lake, *position).await?;
            if output.json {
                output::json(&as_value(&letter))?;
            } else {
                output::line(&format!("key          {}", letter.key))?;
                output::line(&format!("append_time  {}", letter.ingest_time))?;
                output::line(&format!("reason       {}", letter.reason))?;
                output::line(&format!("record       {}", String::from_utf8_lossy(&letter.bytes)))?;
            }
        }
    }
    Ok(Outcome::Fine)
}

async fn find(lake: &Lake, position: RecordPosition) -> anyhow::Result<StoredDeadLetter> {
    let RecordPosition { partition, offset } = position;
    let found = lake.dead_letters(&format!("partition = {partition} AND \"offset\" = {offset}"), 1).await?;
    found.into_iter().next().ok_or_else(|| {
        let text = format!(
            "there is no dead letter at {partition}:{offset}: `sentinel dead-letters list` shows those there are"
        );
        Refused(text).into()
    })
}

fn as_value(letter: &StoredDeadLetter) -> serde_json::Value {
    json!({
        "partition": letter.partition,
        "offset": letter.offset,
        "append_time": letter.ingest_time.to_string(),
        "key": letter.key,
        "reason": letter.reason,
        "record": String::from_utf8_lossy(&letter.bytes),
    })
}

fn row(letter: &StoredDeadLetter) -> Vec<String> {
    let record: String = String::from_utf8_lossy(&letter.bytes).chars().take(SHOWN_CHARACTERS).collect();
    let position = format!("{}:{}", letter.partition, letter.offset);
    vec![
        position,
        letter.ingest_time.to_string(),
        letter.key.clone(),
        letter.reason.clone(),
        record.escape_debug().to_string(),
    ]
}
