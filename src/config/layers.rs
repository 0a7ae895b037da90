//! The layers of the settings: a file, the environment and the flags, each as a list of assignments.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use domain::Symbol;
use jobs::scheduled;
use scheduler::Schedule;
use toml::{Table, Value};

use super::{
    ConfigError,
    fields::Given,
    keys::{SECTIONS, SETTINGS, is_hidden},
};
use crate::cli::{Cli, Command, IngestCommand, SimulatedArgs, SourceArg};

/// The section of a settings file that holds schedules and no settings.
const SCHEDULES: &str = "schedules";

/// The settings file that is read without being named.
const FILE_NAME: &str = "sentinel.toml";

/// What the variables of this program begin with.
const PREFIX: &str = "SENTINEL__";

/// Variables without the prefix that are a setting here; `SENTINEL__` variables win over them.
const ALIASES: [(&str, &str); 4] = [
    ("DATA_SOURCE", "source.kind"),
    ("EVENT_FREQUENCY_SECONDS", "source.event_frequency_seconds"),
    ("ANOMALY_PROBABILITY", "source.anomaly_probability"),
    ("RUST_LOG", "logging.level"),
];

/// Variables of the original program that have no meaning here, and what to do instead.
pub const RETIRED: [(&str, &str); 5] = [
    ("FEATURES_PATH", "features are the Delta table `lake/features` of the data directory; choose that by --data-dir"),
    ("MODEL_PATH", "models are versions in the registry of the data directory; choose that by --data-dir"),
    ("MIN_PARQUET_FILES", "the first model waits for rows, not files; set model.first_model_rows"),
    (
        "MAX_WAIT_SECONDS",
        "the first model is trained as soon as model.first_model_rows rows exist, however long it takes",
    ),
    ("API_BASE_URL", "the pages come from the service itself; set http.bind"),
];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A settings file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag, or a command that is one.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// Where the value of each setting came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Where the value of `key` came from.
    pub fn of(&self, key: &str) -> Origin {
        self.0.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Takes note of a schedule of the settings file.
    pub fn note_schedule(&mut self, name: &str, origin: Origin) {
        self.0.insert(format!("{SCHEDULES}.{name}"), origin);
    }

    /// Takes note of a later layer.
    pub fn set(&mut self, assignment: Assignment) {
        self.0.insert(assignment.key, assignment.origin);
    }
}

/// One value of one layer.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The key, `section.name`.
    pub key: String,
    /// The value.
    pub given: Given,
    /// Where it stands.
    pub origin: Origin,
}

impl Assignment {
    /// The refusal of its value.
    pub fn refused(&self, remedy: String) -> ConfigError {
        let (key, origin) = (self.key.clone(), self.origin.clone());
        let value = if is_hidden(&key) { "...".to_owned() } else { self.given.shown() };
        ConfigError::Value { key, value, origin, remedy }
    }

    /// The refusal of its key.
    pub fn unknown(&self) -> ConfigError {
        let nearest = nearest(&self.key);
        let nearest = if matches!(self.origin, Origin::Variable(_)) { variable(&nearest) } else { nearest };
        ConfigError::UnknownKey { written: self.key.clone(), origin: self.origin.clone(), nearest }
    }
}

/// What a settings file says.
#[derive(Debug, Default)]
pub struct FileLayer {
    /// Its settings.
    pub assignments: Vec<Assignment>,
    /// Its schedules, by name, each with where it stands.
    pub schedules: Vec<(Schedule, Origin)>,
}

/// A settings file: the one named, else `sentinel.toml` of the current folder where it exists.
///
/// # Errors
/// [`ConfigError::Unreadable`], [`ConfigError::NotToml`], [`ConfigError::Schedule`].
pub fn file(named: Option<&Path>, current_dir: &Path) -> Result<FileLayer, ConfigError> {
    let path = named.unwrap_or(Path::new(FILE_NAME));
    let text = match fs::read_to_string(current_dir.join(path)) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => return Ok(FileLayer::default()),
        Err(source) => return Err(ConfigError::Unreadable { path: path.to_owned(), source }),
    };
    let mut table: Table = text.parse().map_err(|error: toml::de::Error| ConfigError::NotToml {
        path: path.to_owned(),
        line: line_of(&text, error.span().map_or(0, |span| span.start)),
        message: error.message().to_owned(),
    })?;
    let schedules = table.remove(SCHEDULES).map_or(Ok(Vec::new()), |given| schedules(given, path))?;
    let mut assignments = Vec::new();
    flatten("", table, &Origin::File(path.to_owned()), &mut assignments);
    Ok(FileLayer { assignments, schedules })
}

/// The schedules of a settings file, each of which says everything about itself.
fn schedules(given: Value, path: &Path) -> Result<Vec<(Schedule, Origin)>, ConfigError> {
    let refused = |message: String| ConfigError::Schedule { path: path.to_owned(), message };
    let Value::Table(tables) = given else {
        return Err(refused("write a table for each, [schedules.NAME]".to_owned()));
    };
    let read = |(name, table): (String, Value)| {
        let written = serde_json::to_value(table).map_err(|error| refused(format!("`{name}`: {error}")))?;
        let schedule = Schedule::parse(&name, written).map_err(|error| refused(error.to_string()))?;
        scheduled::check(&schedule.job, &schedule.spec).map_err(|reason| refused(format!("`{name}`: {reason}")))?;
        Ok((schedule, Origin::File(path.to_owned())))
    };
    tables.into_iter().map(read).collect()
}

/// The line of a byte of a text, from 1 on.
fn line_of(text: &str, position: usize) -> usize {
    1 + text.bytes().take(position).filter(|byte| *byte == b'\n').count()
}

fn flatten(prefix: &str, table: Table, origin: &Origin, assignments: &mut Vec<Assignment>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            // An empty section says nothing, but its name must be one.
            Value::Table(below) if !below.is_empty() => flatten(&key, below, origin, assignments),
            Value::Table(_) if is_section(&key) => {}
            value => assignments.push(Assignment { key, given: Given::Toml(value), origin: origin.clone() }),
        }
    }
}

fn is_section(name: &str) -> bool {
    let symbol = name.strip_prefix("source.walk.").map(Symbol::parse);
    SECTIONS.iter().any(|section| section.name == name) || symbol.is_some_and(|symbol| symbol.is_ok())
}

/// The assignments of the environment; a variable set to nothing counts as not set.
///
/// # Errors
/// [`ConfigError::Retired`].
pub fn environment(variables: impl Iterator<Item = (String, String)>) -> Result<Vec<Assignment>, ConfigError> {
    let (mut aliases, mut own) = (Vec::new(), Vec::new());
    for (name, value) in variables.filter(|(_, value)| !value.is_empty()) {
        if let Some((name, remedy)) = RETIRED.iter().find(|(retired, _)| *retired == name) {
            return Err(ConfigError::Retired { name, remedy });
        }
        let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
        let (key, layer) = match (alias, name.strip_prefix(PREFIX)) {
            (Some((_, key)), _) => ((*key).to_owned(), &mut aliases),
            (None, Some(path)) => (key_of(path), &mut own),
            (None, None) => continue,
        };
        layer.push(Assignment { key, given: Given::Text(value), origin: Origin::Variable(name) });
    }
    aliases.append(&mut own);
    Ok(aliases)
}

/// `SOURCE__WALK__BTC_USDT__VOLATILITY` is `source.walk.BTC-USDT.volatility`, anything else its small letters.
fn key_of(path: &str) -> String {
    match path.split("__").collect::<Vec<_>>().as_slice() {
        ["SOURCE", "WALK", symbol, name] => {
            format!("source.walk.{}.{}", symbol.replace('_', "-"), name.to_ascii_lowercase())
        }
        parts => parts.join(".").to_ascii_lowercase(),
    }
}

/// The variable of a key.
pub fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").replace('-', "_").to_ascii_uppercase())
}

/// The assignments of the flags.
pub fn flags(cli: &Cli) -> Vec<Assignment> {
    let mut flags = Flags(Vec::new());
    let global = &cli.global;
    flags.path("--data-dir", "data.dir", global.data_dir.as_ref());
    flags.text("--log-level", "logging.level", global.log_level.as_ref());
    match &cli.command {
        Command::Up(up) => {
            flags.log(up.log.given());
            flags.text("--source", "source.kind", up.source.map(SourceArg::as_str));
            if !up.paths.is_empty() {
                flags.set("PATHS", "source.paths", Given::Paths(up.paths.clone()));
            }
            flags.text("--speed", "source.speed", up.speed);
            flags.simulated(&up.simulated);
            flags.text("--warm-start-hours", "source.warm_start_hours", up.warm_start_hours);
            flags.text("--bind", "http.bind", up.bind.as_ref());
            flags.text("--insecure-no-keys", "http.require_keys", up.insecure_no_keys.then_some(false));
        }
        Command::Ingest(IngestCommand::File(file)) => {
            flags.log(file.log.given());
            flags.text("ingest file", "source.kind", Some("file"));
            flags.set("PATHS", "source.paths", Given::Paths(file.paths.clone()));
            flags.text("--speed", "source.speed", file.speed);
        }
        Command::Ingest(IngestCommand::Simulated(args)) => {
            flags.log(args.log.given());
            flags.text("ingest simulated", "source.kind", Some("simulated"));
            flags.simulated(&args.simulated);
            flags.text("--speed", "source.speed", args.speed);
        }
        Command::Ingest(IngestCommand::Binance(args)) => {
            flags.log(args.log.given());
            flags.text("ingest binance", "source.kind", Some("binance"));
            flags.symbols(args.symbols.as_deref());
        }
        Command::Stream(stream) => flags.log(stream.log.given()),
        Command::Serve(serve) => {
            flags.log(serve.log.given());
            flags.text("--bind", "http.bind", serve.bind.as_ref());
            flags.text("--insecure-no-keys", "http.require_keys", serve.insecure_no_keys.then_some(false));
        }
        Command::Doctor(doctor) => flags.log(doctor.log.given()),
        Command::Topic(command) => flags.log(command.log()),
        Command::Train(train) => {
            flags.text("--trees", "model.trees", train.trees);
            flags.text("--contamination", "model.contamination", train.contamination);
            flags.text("--seed", "model.seed", train.seed);
        }
        _ => {}
    }
    flags.0
}

struct Flags(Vec<Assignment>);

impl Flags {
    fn set(&mut self, flag: &'static str, key: &str, given: Given) {
        self.0.push(Assignment { key: key.to_owned(), given, origin: Origin::Flag(flag) });
    }

    fn text(&mut self, flag: &'static str, key: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.set(flag, key, Given::Text(value.to_string()));
        }
    }

    fn path(&mut self, flag: &'static str, key: &str, path: Option<&PathBuf>) {
        if let Some(path) = path {
            self.set(flag, key, Given::Paths(vec![path.clone()]));
        }
    }

    /// `embedded`, `fluvio`, or where a cluster is: `fluvio://HOST:PORT`.
    fn log(&mut self, (flag, log): (&'static str, Option<&str>)) {
        let endpoint = log.and_then(|log| log.strip_prefix("fluvio://"));
        self.text(flag, "log.engine", if endpoint.is_some() { Some("fluvio") } else { log });
        self.text(flag, "log.endpoint", endpoint.filter(|endpoint| !endpoint.is_empty()));
    }

    fn symbols(&mut self, symbols: Option<&[Symbol]>) {
        let names = |symbols: &[Symbol]| symbols.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        self.text("--symbols", "source.symbols", symbols.map(names));
    }

    fn simulated(&mut self, args: &SimulatedArgs) {
        self.symbols(args.symbols.as_deref());
        self.text("--seed", "source.seed", args.seed);
    }
}

/// The most similar setting: a wrong section costs as much as a wrong letter.
pub fn nearest(key: &str) -> String {
    let distance = |known: &str| {
        let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        strsim::osa_distance(key, known).min(strsim::osa_distance(&last(key), &last(known)) + 1)
    };
    let nearest = SETTINGS.iter().min_by_key(|setting| distance(setting.key));
    nearest.map_or_else(String::new, |setting| setting.key.to_owned())
}
