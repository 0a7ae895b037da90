//! What a client says about answers that it takes and about those that it has (RFC 9110, 12 and 13).
//!
//! Readers of single headers. What there is to choose from, those know who answer.

use poem_openapi::{registry::MetaHeader, types::Type};

/// The name of an answer that a client may have already (RFC 9110, 8.8.3).
pub const TAG: &str = "ETag";

/// The header [`TAG`] in the document.
pub fn tag_header() -> MetaHeader {
    MetaHeader {
        name: TAG.to_owned(),
        description: Some("Names this answer, for `If-None-Match`.".to_owned()),
        required: false,
        deprecated: false,
        schema: String::schema_ref(),
    }
}

/// Whether a client has what a tag names, by its header `If-None-Match` (RFC 9110, 13.1.2: compared weakly).
pub fn has(if_none_match: Option<&str>, tag: &str) -> bool {
    let mut tags = if_none_match.unwrap_or_default().split(',').map(str::trim);
    tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

/// What an element of `Accept` or `Accept-Encoding` names, and how much it is liked; none where its weight is no number
/// from 0 to 1 (RFC 9110, 12.4.2).
pub fn weighted(element: &str) -> Option<(&str, f32)> {
    let mut parts = element.split(';').map(str::trim);
    let named = parts.next()?;
    let weight = match parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="))) {
        Some(weight) => weight.parse::<f32>().ok().filter(|weight| (0.0..=1.0).contains(weight))?,
        None => 1.0,
    };
    Some((named, weight))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(None, false)]
    #[case(Some("\"1\""), true)]
    #[case(Some("\"0\", W/\"1\""), true)]
    #[case(Some("*"), true)]
    #[case(Some("1"), false)]
    #[case(Some("\"2\""), false)]
    fn a_client_says_what_it_has(#[case] if_none_match: Option<&str>, #[case] expected: bool) {
        assert_eq!(has(if_none_match, "\"1\""), expected);
    }

    #[rstest]
    #[case("gzip", Some(("gzip", 1.0)))]
    #[case(" gzip ; q=0.5", Some(("gzip", 0.5)))]
    #[case("text/csv;charset=utf-8;Q=0", Some(("text/csv", 0.0)))]
    #[case("gzip;q=7", None)]
    #[case("gzip;q=NaN", None)]
    #[case("gzip;q=", None)]
    fn what_is_named_has_a_weight(#[case] element: &str, #[case] expected: Option<(&str, f32)>) {
        assert_eq!(weighted(element), expected);
    }
}
