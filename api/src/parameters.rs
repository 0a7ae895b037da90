//! Texts of a request as the values that they mean, each refused with its name.

use std::{borrow::Cow, marker::PhantomData, ops::Deref};

use domain::{Symbol, Timestamp};
use jobs::tables::State;
use poem::http::StatusCode;
use poem_openapi::{
    param::Query,
    registry::{MetaSchema, MetaSchemaRef},
    types::{ParseError, ParseFromJSON, ParseFromParameter, ParseResult, ToJSON, Type},
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::problem::{Problem, ProblemPart};

/// The form of a text.
pub trait Form: Send + Sync {
    /// Its name.
    const NAME: &'static str;
    /// What fits it; where its schema has alternatives, one of them.
    const PATTERN: &'static str;

    /// It in the document.
    fn schema() -> MetaSchema {
        MetaSchema { pattern: Some(Self::PATTERN.to_owned()), ..MetaSchema::new("string") }
    }
}

/// A text whose form is in the document. It is checked where it is read, so that a refusal says what is meant.
pub struct Formed<F>(String, PhantomData<F>);

impl<F> Formed<F> {
    const fn of(text: String) -> Self {
        Self(text, PhantomData)
    }
}

/// The form of a time: RFC 3339, a day, or Unix seconds.
pub struct TimeForm;

/// A text that names a time, which [`time`] reads.
pub type TimeText = Formed<TimeForm>;

impl Form for TimeForm {
    const NAME: &'static str = "time";
    /// Unix seconds of a time that RFC 3339 can name, too.
    const PATTERN: &'static str = r"^-?[0-9]{1,10}(\.[0-9]+)?$";

    fn schema() -> MetaSchema {
        let seconds = MetaSchema {
            description: Some("Unix seconds."),
            pattern: Some(Self::PATTERN.to_owned()),
            ..MetaSchema::new("string")
        };
        let forms = [
            MetaSchema::new_with_format("string", "date-time"),
            MetaSchema::new_with_format("string", "date"),
            seconds,
        ];
        let inline = |schema| MetaSchemaRef::Inline(Box::new(schema));
        MetaSchema { any_of: forms.map(inline).into(), ..MetaSchema::new("string") }
    }
}

impl<F> Deref for Formed<F> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de, F> Deserialize<'de> for Formed<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::of)
    }
}

impl<F: Form> Type for Formed<F> {
    const IS_REQUIRED: bool = true;

    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        F::NAME.into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(F::schema()))
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(self.as_raw_value().into_iter())
    }
}

impl<F: Form> ParseFromParameter for Formed<F> {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        Ok(Self::of(text.to_owned()))
    }
}

impl<F: Form> ParseFromJSON for Formed<F> {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        match value.unwrap_or_default() {
            Value::String(text) => Ok(Self::of(text)),
            other => Err(ParseError::expected_type(other)),
        }
    }
}

impl<F: Form> ToJSON for Formed<F> {
    fn to_json(&self) -> Option<Value> {
        Some(Value::String(self.0.clone()))
    }
}

/// The time that a field or a parameter names.
///
/// # Errors
/// A problem with status 422.
pub fn time(field: &'static str, text: &str) -> Result<Timestamp, Problem> {
    Timestamp::parse(text).map_err(|_| {
        let part = ProblemPart::new(field, "must be a time in UTC such as 2024-03-09T16:00:00Z");
        Problem::of_parts(StatusCode::UNPROCESSABLE_ENTITY, "the request is not valid", vec![part])
    })
}

/// The symbol that a query names.
///
/// # Errors
/// A problem with status 422.
pub fn symbol(text: Option<&str>) -> Result<Option<Symbol>, Problem> {
    text.map(Symbol::parse).transpose().map_err(|error| {
        let part = ProblemPart::new("symbol", format!("is wrong: {error}"));
        Problem::of_parts(StatusCode::UNPROCESSABLE_ENTITY, "the query is not valid", vec![part])
    })
}

/// The time that a parameter names.
///
/// # Errors
/// As [`time`].
pub fn instant(name: &'static str, parameter: &Query<Option<TimeText>>) -> Result<Option<Timestamp>, Problem> {
    parameter.0.as_deref().map(|text| time(name, text)).transpose()
}

/// Which state of a table is asked for.
///
/// # Errors
/// A problem with status 422 where several are.
pub fn state(version: Option<u64>, as_of: Option<Timestamp>, known_at: Option<Timestamp>) -> Result<State, Problem> {
    match (version, as_of, known_at) {
        (None, None, None) => Ok(State::Newest),
        (Some(version), None, None) => Ok(State::Version(version)),
        (None, Some(time), None) => Ok(State::AsOf(time)),
        (None, None, Some(time)) => Ok(State::KnownAt(time)),
        _ => {
            let detail = "the query is not valid: give only one of version, as_of and known_at";
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_one_state_at_a_time() {
        let noon = Timestamp::from_seconds(1_710_000_000);
        assert_eq!(state(None, None, None), Ok(State::Newest));
        assert_eq!(state(Some(7), None, None), Ok(State::Version(7)));
        assert_eq!(state(None, Some(noon), None), Ok(State::AsOf(noon)));
        assert_eq!(state(None, None, Some(noon)), Ok(State::KnownAt(noon)));
        assert!(state(Some(7), None, Some(noon)).is_err());
    }
}
