//! `sentinel train`: trains a model on the lake's features, registers it and, unless told otherwise, promotes it.

use jobs::{
    train::{Then, TrainRequest, train},
    workshop::Incident,
};

use crate::{Outcome, app::App, cli::TrainArgs, config::Settings, output, settings_to_parts};

/// Trains and prints the report.
pub async fn run(args: &TrainArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let app = App::open(settings).await?;
    let incident = |(from, to)| Incident { from, to, reason: "left out by hand".to_owned() };
    let parameters = settings_to_parts::train_parameters(&settings.model);
    let then = match (args.no_promote, args.candidate) {
        (true, _) => Then::Register,
        (_, true) => Then::Nominate { work: None },
        _ => Then::Promote,
    };
    let request = TrainRequest {
        from: args.range.from,
        to: args.range.to,
        symbols: args.symbols.clone().unwrap_or_default(),
        incidents: args.exclude.iter().copied().map(incident).collect(),
        delta_version: args.table_version,
        trim: args.trim,
        ..TrainRequest::on_every_row(parameters, then, "command line", "sentinel train")
    };
    let report = train(&app.workshop(), &request).await?;
    if args.output.json {
        output::json(&report)?;
    } else {
        output::line(report.to_string().trim_end())?;
    }
    app.close().await;
    Ok(Outcome::Fine)
}
