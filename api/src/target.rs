//! What the target of a request must be, whatever it asks for: short, text, and without a parameter that nobody reads.
//!
//! A parameter that is misspelt would otherwise be left out in silence, and rows of another time be taken for those that
//! were meant. Never decides about values: the operations do.

use std::collections::HashSet;

use poem::{
    Request,
    http::{StatusCode, Uri},
};

use crate::{
    paths::{KnownPath, Parameter},
    problem::{Problem, ProblemPart},
};

/// The longest path and query together, in bytes.
const LIMIT: usize = 8 * 1_024;

/// The one path of the original service with parameters: its clients may send others, which were ignored there.
const ORIGINAL: &str = "/latest-predictions";

/// Parameters that a refusal names, at most.
const TOLD: usize = 16;

/// Refuses a target that nobody can mean. `known` is the path of the service that it names.
///
/// # Errors
/// A problem with status 400, 414 or 422.
pub fn check(request: &Request, known: Option<&KnownPath>) -> Result<(), Problem> {
    let uri = request.uri();
    let length = uri.path_and_query().map_or(0, |target| target.as_str().len());
    if length > LIMIT {
        let detail = format!("the path and the query have {length} bytes; send at most {LIMIT}");
        return Err(Problem::new(StatusCode::URI_TOO_LONG, detail));
    }
    check_text(uri)?;
    let Some(known) = known.filter(|_| uri.query().is_some_and(|query| !query.is_empty())) else { return Ok(()) };
    let parameters = known.parameters(request.method());
    if parameters.is_empty() {
        return Ok(());
    }
    let given: Vec<(String, String)> = request.params().unwrap_or_default();
    check_names(&known.template, parameters, &given)
}

fn check_text(uri: &Uri) -> Result<(), Problem> {
    for (what, text) in [("path", uri.path()), ("query", uri.query().unwrap_or_default())] {
        if let Err(fault) = decoded(text) {
            return Err(Problem::new(StatusCode::BAD_REQUEST, format!("the {what} is not valid: {fault}")));
        }
    }
    Ok(())
}

/// Whether percent-encoded bytes are text.
fn decoded(text: &str) -> Result<(), &'static str> {
    if !text.contains('%') {
        return Ok(());
    }
    let mut pieces = text.split('%').map(str::as_bytes);
    let mut bytes = pieces.next().unwrap_or_default().to_vec();
    for piece in pieces {
        let [high, low, rest @ ..] = piece else { return Err("a % is not followed by two hexadecimal digits") };
        let (Some(high), Some(low)) = (hex(*high), hex(*low)) else {
            return Err("a % is not followed by two hexadecimal digits");
        };
        bytes.push((high << 4) | low);
        bytes.extend_from_slice(rest);
    }
    if bytes.contains(&0) {
        return Err("it holds a NUL byte");
    }
    if std::str::from_utf8(&bytes).is_err() {
        return Err("its percent-encoded bytes are not UTF-8");
    }
    Ok(())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn check_names(template: &str, parameters: &[Parameter], given: &[(String, String)]) -> Result<(), Problem> {
    let (mut seen, mut faults) = (HashSet::new(), Vec::<ProblemPart>::new());
    for (name, _) in given {
        let is_first = seen.insert(name);
        let fault = match parameters.iter().find(|parameter| parameter.name == *name) {
            Some(parameter) if !is_first && !parameter.repeats => "is given more than once".to_owned(),
            None if is_first && template != ORIGINAL => {
                format!("is not a parameter of this path; it takes {}", listed(parameters))
            }
            _ => continue,
        };
        if faults.len() < TOLD && faults.iter().all(|told| told.field != *name) {
            faults.push(ProblemPart::new(name, fault));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Problem::of_parts(StatusCode::UNPROCESSABLE_ENTITY, "the query is not valid", faults))
}

fn listed(parameters: &[Parameter]) -> String {
    parameters.iter().map(|parameter| parameter.name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("/tables/events", Ok(()))]
    #[case("/tables/%E2%82%ac%25", Ok(()))]
    #[case("a=1+2&b=%20", Ok(()))]
    #[case("/tables/%", Err("a % is not followed by two hexadecimal digits"))]
    #[case("/tables/%2", Err("a % is not followed by two hexadecimal digits"))]
    #[case("/tables/%2g", Err("a % is not followed by two hexadecimal digits"))]
    #[case("/tables/%+2", Err("a % is not followed by two hexadecimal digits"))]
    #[case("/tables/%ff", Err("its percent-encoded bytes are not UTF-8"))]
    #[case("/tables/%c0%af", Err("its percent-encoded bytes are not UTF-8"))]
    #[case("symbol=BTC%00", Err("it holds a NUL byte"))]
    fn what_is_percent_encoded_must_be_text(#[case] text: &str, #[case] expected: Result<(), &str>) {
        assert_eq!(decoded(text), expected);
    }

    #[test]
    fn a_name_is_refused_once_with_the_names_there_are() {
        let parameter = |name: &str, repeats| Parameter { name: name.to_owned(), repeats };
        let parameters = [parameter("limit", false), parameter("column", true)];
        let given =
            |names: &[&str]| -> Vec<_> { names.iter().map(|name| ((*name).to_owned(), String::new())).collect() };
        let check = |template, names: &[&str]| check_names(template, &parameters, &given(names));
        assert_eq!(check("/rows", &["limit", "column", "column"]), Ok(()));
        assert_eq!(check(ORIGINAL, &["limit", "_"]), Ok(()));
        assert_eq!(
            check("/rows", &["limit", "limt", "limt", "limit"]).unwrap_err().to_string(),
            "the query is not valid: limt is not a parameter of this path; it takes limit, column; limit is given more \
             than once"
        );
        assert!(check(ORIGINAL, &["limit", "limit"]).is_err());
    }
}
