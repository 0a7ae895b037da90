//! Texts of a request as the values that they mean, each refused with its name.

use domain::{Symbol, Timestamp};
use jobs::tables::State;
use poem::http::StatusCode;
use poem_openapi::param::Query;

use crate::problem::{Problem, ProblemPart};

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
pub fn instant(name: &'static str, parameter: &Query<Option<String>>) -> Result<Option<Timestamp>, Problem> {
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
