//! `sentinel replay`: history folded and scored once more.

use std::{path::PathBuf, sync::Arc};

use jobs::{
    active::ActiveModel,
    replay::{ReplayDiff, ReplayRequest, SymbolReplay, replay},
};
use serde_json::json;

use crate::{
    Outcome,
    app::App,
    cli::{ModelSelector, ReplayArgs, ReplayInto},
    commands::{Refused, verify::difference_line},
    config::Settings,
    output,
};

/// Replays and prints what became of each symbol.
pub async fn run(args: &ReplayArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let app = App::open(settings).await?;
    let request = ReplayRequest {
        from: args.range.from,
        to: args.range.to,
        symbols: args.symbols.clone().unwrap_or_default(),
        speed: args.speed,
        model: model(&app, args.model).await?,
        shadow: shadow(&app, args, settings)?,
        diff: args.diff_against.is_some(),
    };
    let replays = replay(&app.lake, app.log.as_ref(), &request, &app.cancel).await?;
    if args.output.json {
        output::json(&replays.iter().map(as_json).collect::<Vec<_>>())?;
    } else {
        show(&replays)?;
        if let Some(model) = &request.model {
            output::line(&format!("scored by {} version {}", model.name, model.version))?;
        }
        if let Some(folder) = &request.shadow {
            output::line(&format!("rows are in {}", folder.display()))?;
        }
    }
    app.close().await;
    Ok(Outcome::Fine)
}

/// The model that scores; none where the champion is asked for and there is none yet.
async fn model(app: &App, selector: ModelSelector) -> anyhow::Result<Option<Arc<ActiveModel>>> {
    match selector {
        ModelSelector::Champion => Ok(app.champion.borrow().clone()),
        ModelSelector::Version(version) => Ok(Some(app.models.load(version).await?)),
    }
}

fn shadow(app: &App, args: &ReplayArgs, settings: &Settings) -> anyhow::Result<Option<PathBuf>> {
    if args.into == ReplayInto::Report {
        return Ok(None);
    }
    let default = || format!("replay-{}", app.clock.now()).replace(':', "");
    let name = args.name.clone().unwrap_or_else(default);
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
        return Err(Refused(format!("`{name}` cannot be a folder's name: use letters, digits and hyphens")).into());
    }
    Ok(Some(settings.data.dir.join("shadow").join(name)))
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn show(replays: &[SymbolReplay]) -> anyhow::Result<()> {
    let row = |replay: &SymbolReplay| {
        let scored = replay.scored.max(1) as f64;
        let counts = [replay.features, replay.windows, replay.scored, replay.anomalies].map(|count| count.to_string());
        let rates =
            [format!("{:.3}", 100.0 * replay.anomalies as f64 / scored), format!("{:.4}", replay.score_sum / scored)];
        [replay.symbol.to_string()].into_iter().chain(counts).chain(rates).collect()
    };
    let heading = ["symbol", "events", "windows", "scored", "anomalies", "anomaly_rate", "mean_score"];
    output::table(&heading, &replays.iter().map(row).collect::<Vec<Vec<String>>>())?;
    let diffs: Vec<_> = replays.iter().filter_map(|replay| Some((replay, replay.diff.as_ref()?))).collect();
    if diffs.is_empty() {
        return Ok(());
    }
    output::line("")?;
    let row = |(replay, diff): &(&SymbolReplay, &ReplayDiff)| {
        let different = [&diff.features, &diff.windows].map(|found| found.differing + found.missing + found.extra);
        let verdicts = &diff.verdicts;
        let counts = [verdicts.compared, verdicts.new_anomalies, verdicts.former_anomalies, verdicts.never_judged];
        let counts = different.into_iter().chain(counts).map(|count| count.to_string());
        let change = format!("{:.6}", verdicts.greatest_change);
        [replay.symbol.to_string()].into_iter().chain(counts).chain([change]).collect()
    };
    let heading = [
        "symbol",
        "other_features",
        "other_windows",
        "verdicts",
        "new_anomalies",
        "former_anomalies",
        "never_judged",
        "greatest_change",
    ];
    output::table(&heading, &diffs.iter().map(row).collect::<Vec<Vec<String>>>())?;
    for (_, diff) in diffs {
        for difference in diff.features.first.iter().chain(&diff.windows.first) {
            output::line(&difference_line(difference))?;
        }
        for change in &diff.verdicts.first {
            output::line(&format!(
                "{} {} offset {}: version {} said {:.6}, now {:.6}",
                change.symbol, change.time, change.offset, change.stored_version, change.stored_score, change.score
            ))?;
        }
    }
    Ok(())
}

fn as_json(replay: &SymbolReplay) -> serde_json::Value {
    let compared = |found: &lake::compare::Compared| {
        json!({"compared": found.rows, "differing": found.differing, "missing": found.missing, "extra": found.extra,
               "first": found.first.iter().map(difference_line).collect::<Vec<_>>()})
    };
    let diff = replay.diff.as_ref().map(|diff| {
        let verdicts = &diff.verdicts;
        let change = |change: &jobs::replay::VerdictChange| {
            json!({"time": change.time.to_string(), "offset": change.offset, "stored_version": change.stored_version,
                   "stored_score": change.stored_score, "score": change.score})
        };
        json!({"features": compared(&diff.features), "windows": compared(&diff.windows),
               "verdicts": {"compared": verdicts.compared, "new_anomalies": verdicts.new_anomalies,
                            "former_anomalies": verdicts.former_anomalies, "never_judged": verdicts.never_judged,
                            "greatest_change": verdicts.greatest_change,
                            "first": verdicts.first.iter().map(change).collect::<Vec<_>>()}})
    });
    json!({"symbol": replay.symbol.as_str(), "events": replay.features, "windows": replay.windows,
           "scored": replay.scored, "anomalies": replay.anomalies, "score_sum": replay.score_sum, "diff": diff})
}
