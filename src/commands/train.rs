//! `sentinel train`: trains a model on the lake's features, registers it and, unless told not to, promotes it.

use jobs::train::{TrainRequest, train};

use crate::{Outcome, app::App, cli::TrainArgs, config::Settings, output, settings_to_parts};

/// Trains and prints the report.
pub async fn run(args: &TrainArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let app = App::open(settings).await?;
    let request = TrainRequest {
        from: args.range.from,
        to: args.range.to,
        symbols: args.symbols.clone().unwrap_or_default(),
        parameters: settings_to_parts::train_parameters(&settings.model),
        promote: !args.no_promote,
        actor: "command line".to_owned(),
        reason: "sentinel train".to_owned(),
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
