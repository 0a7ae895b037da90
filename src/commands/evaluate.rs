//! `sentinel evaluate`: measures a model on the lake's features and keeps what was found with its record.

use jobs::evaluate::{EvaluateRequest, evaluate};

use crate::{
    Outcome,
    app::App,
    cli::{EvaluateArgs, ModelSelector},
    config::Settings,
    output,
};

/// Evaluates and prints the report.
pub async fn run(args: &EvaluateArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let app = App::open(settings).await?;
    let model = match args.model {
        ModelSelector::Champion => None,
        ModelSelector::Version(version) => Some(version),
    };
    let request = EvaluateRequest { model, from: args.range.from, to: args.range.to, symbols: Vec::new() };
    let report = evaluate(&app.workshop(), &request).await?;
    if args.output.json {
        output::json(&report)?;
    } else {
        output::line(report.to_string().trim_end())?;
    }
    app.close().await;
    Ok(Outcome::Fine)
}
