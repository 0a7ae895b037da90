//! How the type of a setting is read from TOML, from text (environment, flags) and shown again as TOML.

use std::{net::SocketAddr, path::PathBuf};

use domain::{Partition, Severity, Symbol};
use toml::Value;

use super::{Hidden, LogEngine, LogFormat, Pem, RequireKeys, SourceKind, Speed};

/// A value as a layer gives it.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    /// From the settings file.
    Toml(Value),
    /// From the environment or a flag.
    Text(String),
    /// From a flag; paths need not be text.
    Paths(Vec<PathBuf>),
}

impl Given {
    /// The value as its writer knows it.
    pub fn shown(&self) -> String {
        match self {
            Self::Toml(value) => value.to_string(),
            Self::Text(text) => text.clone(),
            Self::Paths(paths) => paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" "),
        }
    }

    fn as_text(&self) -> Option<&str> {
        match self {
            Self::Toml(Value::String(text)) | Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// The type of a setting.
pub trait Field: Sized {
    /// Reads a value.
    ///
    /// # Errors
    /// What to write instead, as the rest of a sentence.
    fn read(given: &Given) -> Result<Self, String>;

    /// The value as TOML.
    fn show(&self) -> Value;
}

impl Field for String {
    fn read(given: &Given) -> Result<Self, String> {
        given.as_text().map(str::to_owned).ok_or_else(|| "write a text in quotes".to_owned())
    }

    fn show(&self) -> Value {
        Value::String(self.clone())
    }
}

impl Field for PathBuf {
    fn read(given: &Given) -> Result<Self, String> {
        let path = match given {
            Given::Paths(paths) if paths.len() == 1 => paths[0].clone(),
            _ => Self::from(given.as_text().ok_or("write a path in quotes")?),
        };
        if path.as_os_str().is_empty() { Err("write a path, such as \"./data\"".to_owned()) } else { Ok(path) }
    }

    fn show(&self) -> Value {
        Value::String(self.display().to_string())
    }
}

impl Field for u64 {
    fn read(given: &Given) -> Result<Self, String> {
        let number = match given {
            Given::Toml(Value::Integer(number)) => Self::try_from(*number).ok(),
            // TOML integers have 63 bits, and what is set must be showable.
            Given::Text(text) => text.parse().ok().filter(|number| i64::try_from(*number).is_ok()),
            _ => None,
        };
        number.ok_or_else(|| "write a whole number of at least 0".to_owned())
    }

    fn show(&self) -> Value {
        Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
    }
}

impl Field for u32 {
    fn read(given: &Given) -> Result<Self, String> {
        Self::try_from(u64::read(given)?).map_err(|_| format!("write a whole number of at most {}", Self::MAX))
    }

    fn show(&self) -> Value {
        Value::Integer(i64::from(*self))
    }
}

impl Field for Partition {
    fn read(given: &Given) -> Result<Self, String> {
        Self::try_from(u64::read(given)?).map_err(|_| format!("write a whole number of at most {}", Self::MAX))
    }

    fn show(&self) -> Value {
        Value::Integer(i64::from(*self))
    }
}

impl Field for f64 {
    fn read(given: &Given) -> Result<Self, String> {
        #[expect(clippy::cast_precision_loss, reason = "a whole number written for a fraction is small")]
        let number = match given {
            Given::Toml(Value::Integer(number)) => Some(*number as Self),
            Given::Toml(Value::Float(number)) => Some(*number),
            Given::Text(text) => text.parse().ok(),
            _ => None,
        };
        number.filter(|number: &Self| number.is_finite()).ok_or_else(|| "write a number".to_owned())
    }

    fn show(&self) -> Value {
        Value::Float(*self)
    }
}

impl Field for bool {
    fn read(given: &Given) -> Result<Self, String> {
        match given {
            Given::Toml(Value::Boolean(switch)) => Ok(*switch),
            Given::Text(text) if text == "true" => Ok(true),
            Given::Text(text) if text == "false" => Ok(false),
            _ => Err("write true or false".to_owned()),
        }
    }

    fn show(&self) -> Value {
        Value::Boolean(*self)
    }
}

impl Field for SocketAddr {
    fn read(given: &Given) -> Result<Self, String> {
        // `localhost` is the one name that needs no resolver.
        let address = given.as_text().map(|text| match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => text.to_owned(),
        });
        address
            .and_then(|address| address.parse().ok())
            .ok_or_else(|| "write an IP address and a port, such as \"127.0.0.1:8000\"".to_owned())
    }

    fn show(&self) -> Value {
        Value::String(self.to_string())
    }
}

impl Field for Vec<Symbol> {
    fn read(given: &Given) -> Result<Self, String> {
        let names = read_list(given, "write a list of symbols, such as [\"BTC-USDT\", \"ETH-USDT\"]")?;
        names.iter().map(|name| Symbol::parse(name).map_err(|error| error.to_string())).collect()
    }

    fn show(&self) -> Value {
        Value::Array(self.iter().map(|symbol| Value::String(symbol.to_string())).collect())
    }
}

impl Field for Vec<PathBuf> {
    fn read(given: &Given) -> Result<Self, String> {
        if let Given::Paths(paths) = given {
            return Ok(paths.clone());
        }
        let paths = read_list(given, "write a list of paths, such as [\"trades.jsonl.gz\"]")?;
        Ok(paths.into_iter().map(PathBuf::from).collect())
    }

    fn show(&self) -> Value {
        Value::Array(self.iter().map(Field::show).collect())
    }
}

impl Field for Pem {
    fn read(given: &Given) -> Result<Self, String> {
        String::read(given).map(Self).map_err(|_| "write a path in quotes, or the text of a PEM file".to_owned())
    }

    fn show(&self) -> Value {
        Value::String(self.shown().to_owned())
    }
}

impl Field for Hidden {
    fn read(given: &Given) -> Result<Self, String> {
        String::read(given).map(Self)
    }

    fn show(&self) -> Value {
        Value::String(self.shown().to_owned())
    }
}

impl Field for Severity {
    fn read(given: &Given) -> Result<Self, String> {
        let named = given.as_text().and_then(Self::from_name);
        named.ok_or_else(|| "write \"warning\", \"high\" or \"critical\"".to_owned())
    }

    fn show(&self) -> Value {
        Value::String(self.as_str().to_owned())
    }
}

impl Field for LogEngine {
    fn read(given: &Given) -> Result<Self, String> {
        match given.as_text() {
            Some("embedded") => Ok(Self::Embedded),
            Some("fluvio") => Ok(Self::Fluvio),
            _ => Err("write \"embedded\" or \"fluvio\"; the flag also takes fluvio://HOST:PORT".to_owned()),
        }
    }

    fn show(&self) -> Value {
        Value::String(self.as_str().to_owned())
    }
}

impl Field for SourceKind {
    fn read(given: &Given) -> Result<Self, String> {
        match given.as_text() {
            Some("simulated") => Ok(Self::Simulated),
            Some("file") => Ok(Self::File),
            Some("binance") => Ok(Self::Binance),
            _ => Err("write \"simulated\", \"binance\" or \"file\"".to_owned()),
        }
    }

    fn show(&self) -> Value {
        Value::String(self.as_str().to_owned())
    }
}

impl Field for Speed {
    fn read(given: &Given) -> Result<Self, String> {
        if given.as_text() == Some("auto") {
            return Ok(Self::Auto);
        }
        f64::read(given).map(Self::Times).map_err(|_| "write \"auto\" or a number".to_owned())
    }

    fn show(&self) -> Value {
        match self {
            Self::Auto => Value::String("auto".to_owned()),
            Self::Times(times) => Value::Float(*times),
        }
    }
}

impl Field for RequireKeys {
    fn read(given: &Given) -> Result<Self, String> {
        if given.as_text() == Some("auto") {
            return Ok(Self::Auto);
        }
        let always = bool::read(given).map_err(|_| "write \"auto\", true or false".to_owned())?;
        Ok(if always { Self::Always } else { Self::Never })
    }

    fn show(&self) -> Value {
        match self {
            Self::Auto => Value::String("auto".to_owned()),
            Self::Always => Value::Boolean(true),
            Self::Never => Value::Boolean(false),
        }
    }
}

impl Field for LogFormat {
    fn read(given: &Given) -> Result<Self, String> {
        match given.as_text() {
            Some("text") => Ok(Self::Text),
            Some("json") => Ok(Self::Json),
            _ => Err("write \"text\" or \"json\"".to_owned()),
        }
    }

    fn show(&self) -> Value {
        Value::String(self.as_str().to_owned())
    }
}

/// A TOML array of texts, or text separated by commas.
fn read_list(given: &Given, remedy: &str) -> Result<Vec<String>, String> {
    let items = match given {
        Given::Toml(Value::Array(items)) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        Given::Text(text) => Some(text.split(',').map(|item| item.trim().to_owned()).collect()),
        _ => None,
    };
    items.ok_or_else(|| remedy.to_owned())
}
