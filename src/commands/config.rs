//! `sentinel config`: every setting, its value and where it comes from.

use crate::{
    Outcome,
    cli::ConfigArgs,
    config::{self, Origins, Settings},
    output,
};

/// Prints the settings in force.
pub fn run(args: &ConfigArgs, settings: &Settings, origins: &Origins) -> anyhow::Result<Outcome> {
    if args.output.json {
        output::json(&config::rows(settings, origins))?;
    } else {
        output::line(config::render(settings, origins).trim_end())?;
    }
    Ok(Outcome::Fine)
}

/// Says what a setting means, or all of them.
pub fn explain(key: Option<&str>) -> anyhow::Result<Outcome> {
    let text = match key {
        Some(key) => config::explain(key)?,
        None => config::explain_all(),
    };
    output::line(text.trim_end())?;
    Ok(Outcome::Fine)
}
