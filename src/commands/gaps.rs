//! `sentinel gaps`: the trades that a venue has numbered and `events` lacks.

use jobs::workshop::Slice;
use lake::{Lake, missing::MissingTrades};
use serde_json::json;

use crate::{Outcome, cli::GapsArgs, config::Settings, output};

/// Lists the missing trade ids.
pub async fn run(args: &GapsArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let lake = Lake::open(&settings.data.dir.join("lake")).await?;
    let slice = Slice::new(args.range.from, args.range.to, args.symbols.as_deref().unwrap_or_default())?;
    let missing = lake.missing_trades(&slice.predicate()).await?;
    if args.output.json {
        output::json(&missing.iter().map(as_value).collect::<Vec<_>>())?;
    } else {
        let rows: Vec<_> = missing.iter().map(row).collect();
        output::table(&["symbol", "from", "to", "count", "time_before", "time_after"], &rows)?;
    }
    Ok(Outcome::Fine)
}

fn as_value(missing: &MissingTrades) -> serde_json::Value {
    json!({
        "symbol": missing.symbol.as_str(),
        "from": missing.from,
        "to": missing.to,
        "count": missing.count(),
        "time_before": missing.time_before.to_string(),
        "time_after": missing.time_after.to_string(),
    })
}

fn row(missing: &MissingTrades) -> Vec<String> {
    let numbers = [missing.from.to_string(), missing.to.to_string(), missing.count().to_string()];
    let times = [missing.time_before, missing.time_after].map(|time| time.to_string());
    [missing.symbol.to_string()].into_iter().chain(numbers).chain(times).collect()
}
