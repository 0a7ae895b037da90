//! `sentinel drift`: whether the newest rows still look like those that the champion was trained on.

use jobs::drift::{DriftWatch, Look};
use serde_json::json;

use crate::{Outcome, app::App, cli::DriftArgs, commands::Refused, config::Settings, output};

/// Looks once and prints what was found; nothing is kept and nothing is started.
pub async fn run(args: &DriftArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let app = App::open(settings).await?;
    let look = DriftWatch::new(app.workshop()).look(true).await?;
    let outcome = match look {
        Look::Found(found) => {
            if args.output.json {
                output::json(&found)?;
            } else {
                output::line(found.to_string().trim_end())?;
            }
            if found.is_drifted() { Outcome::Difference } else { Outcome::Fine }
        }
        Look::TooFew { blocks } if args.output.json => {
            output::json(&json!({"blocks": blocks, "features": []}))?;
            Outcome::Fine
        }
        Look::TooFew { blocks } => {
            output::line(&format!("{blocks} minutes with rows since the champion's training are too few to say"))?;
            Outcome::Fine
        }
        Look::NoChampion | Look::NothingNew => {
            return Err(Refused("there is no champion yet: `sentinel train` makes the first model".to_owned()).into());
        }
    };
    app.close().await;
    Ok(outcome)
}
