//! The settings as text: the effective values with their origins, and `sentinel.toml`, which documents them all.

use std::fmt::{self, Write};

use scheduler::Schedule;
use serde::Serialize;
use toml::Value;

use super::{
    ConfigError, Settings,
    keys::{SECTIONS, SETTINGS, own_walks, walk_of_every},
    layers::{Origin, Origins, RETIRED, nearest, variable},
};

/// One setting with its value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// `section.name`.
    pub key: String,
    /// The effective value.
    pub value: Value,
    /// Where it came from, in words.
    pub origin: String,
}

/// The effective settings, in the order of `sentinel.toml`.
pub fn rows(settings: &Settings, origins: &Origins) -> Vec<Row> {
    let mut rows = Vec::new();
    for section in &SECTIONS {
        let of_section = SETTINGS.iter().filter(|setting| section_of(setting.key) == section.name);
        rows.extend(of_section.map(|setting| (setting.key.to_owned(), (setting.show)(settings))));
        if section.name == "source.walk" {
            rows.extend(own_walks(settings));
        }
    }
    rows.extend(settings.schedules.iter().map(schedule_row));
    rows.into_iter().map(|(key, value)| Row { origin: origins.of(&key).to_string(), key, value }).collect()
}

/// The effective settings as lines of TOML, each with its origin as a comment.
pub fn render(settings: &Settings, origins: &Origins) -> String {
    let rows = rows(settings, origins);
    let lines: Vec<(String, &str)> =
        rows.iter().map(|row| (format!("{} = {}", row.key, row.value), row.origin.as_str())).collect();
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for (line, origin) in lines {
        add(&mut text, format_args!("{line:<width$}  # {origin}\n"));
    }
    text
}

/// What one setting means, its default and its variable.
///
/// # Errors
/// [`ConfigError::UnknownKey`].
pub fn explain(key: &str) -> Result<String, ConfigError> {
    let setting = SETTINGS.iter().find(|setting| setting.key == key).or_else(|| walk_of_every(key));
    let Some(setting) = setting else {
        let (written, origin) = (key.to_owned(), Origin::Flag("--explain"));
        return Err(ConfigError::UnknownKey { written, origin, nearest: nearest(key) });
    };
    let default = (setting.show)(&Settings::default());
    Ok(format!("{}\n\ndefault: {key} = {default}\nenvironment: {}\n", setting.about, variable(key)))
}

/// A settings file that documents every setting, each commented out at its default.
pub fn explain_all() -> String {
    let defaults = Settings::default();
    let mut text = header();
    for section in &SECTIONS {
        add(&mut text, format_args!("\n{}[{}]\n", comment(section.about), section.name));
        for setting in SETTINGS.iter().filter(|setting| section_of(setting.key) == section.name) {
            let name = setting.key.rsplit('.').next().unwrap_or_default();
            add(&mut text, format_args!("{}#{name} = {}\n", comment(setting.about), (setting.show)(&defaults)));
        }
        if section.name == "source.walk" {
            text += &own_walks_commented(&defaults);
        }
    }
    text + "\n" + &comment(SCHEDULES) + &comment(EXAMPLE).replace("# ", "#")
}

/// A schedule of the settings file as it was understood.
fn schedule_row(schedule: &Schedule) -> (String, Value) {
    let written = Value::try_from(schedule.written()).unwrap_or_else(|_| Value::String(schedule.job.clone()));
    (format!("schedules.{}", schedule.name), written)
}

const SCHEDULES: &str = "\
Schedules, a table each, in the form that `sentinel schedule apply` takes too. They are applied whenever a scheduler
starts; one that Sentinel ships with (`sentinel schedule list`) is replaced by its name. The jobs are train, evaluate,
drift, backup, compact, checkpoint, vacuum and clean-log.";

const EXAMPLE: &str = "\
[schedules.retrain]
job = \"train\"
cron = \"0 */6 * * *\"
zone = \"UTC\"
timeout_s = 21600
spec = { hours = 168, rows = 1000000, trim = 0.01 }";

const HEADER: &str = "\
The settings of Sentinel. Every one is listed, commented out at its default: remove its # to change it.

Later layers win: defaults, this file (./sentinel.toml or --config FILE), the environment, flags. A variable is named
SENTINEL__SECTION__NAME, such as SENTINEL__HTTP__BIND=127.0.0.1:9000; lists are separated by commas; a variable set
to nothing counts as not set. Unknown keys and values outside their limits are refused, whichever layer they stand
in. `sentinel config` shows every value and where it came from.

Of the variables of the original program, DATA_SOURCE, EVENT_FREQUENCY_SECONDS and ANOMALY_PROBABILITY set what their
settings below say; SENTINEL__ variables win over them. The others are refused where they are set:";

fn header() -> String {
    let mut text = comment(HEADER);
    for (name, remedy) in RETIRED {
        text += &comment(&format!("  {name}: {remedy}."));
    }
    text
}

fn own_walks_commented(defaults: &Settings) -> String {
    let mut text = String::new();
    let mut section = String::new();
    for (key, value) in own_walks(defaults) {
        let name = key.rsplit('.').next().unwrap_or_default();
        if section_of(&key) != section {
            section_of(&key).clone_into(&mut section);
            add(&mut text, format_args!("\n[{section}]\n"));
        }
        add(&mut text, format_args!("#{name} = {value}\n"));
    }
    text
}

fn add(text: &mut String, more: fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(more);
}

fn section_of(key: &str) -> &str {
    key.rsplit_once('.').map_or("", |(section, _)| section)
}

fn comment(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "#\n".to_owned() } else { format!("# {line}\n") }).collect()
}
