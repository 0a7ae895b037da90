//! Texts of a request as the values that they mean, each refused with its name.

use domain::{Symbol, Timestamp};
use poem::http::StatusCode;

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
