//! SQL from outside: any text is a statement that only reads, or an error that says so.

use domain::ErrorKind;

/// What an answered statement begins with.
const READS: [&str; 8] = ["SELECT", "WITH", "VALUES", "VALUE", "FROM", "TABLE", "DESCRIBE", "DESC"];

/// What is not explained either: EXPLAIN ANALYZE runs what it explains.
const WRITES: [&str; 11] =
    ["INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "CREATE", "DROP", "ALTER", "TRUNCATE", "SET", "RESET"];

/// Reads the bytes as a statement.
///
/// # Panics
/// Where the promise is broken.
pub fn check(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match lake::sql::check(text) {
        Ok(()) => {
            let (verb, is_explained) = verb(text);
            let reads = READS.contains(&verb.as_str()) || (is_explained && !WRITES.contains(&verb.as_str()));
            assert!(reads, "a statement that begins with `{verb}` is answered: {text}");
        }
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::NotFound), "{error:?}");
            assert!(!error.to_string().is_empty(), "{error:?} says nothing");
        }
    }
}

/// The first word that says what a statement does, in capitals, and whether that is explained.
fn verb(text: &str) -> (String, bool) {
    let (mut rest, mut is_explained) = (text, false);
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | ';'));
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, after)| after);
        } else if rest.starts_with("/*") {
            rest = after_comment(rest);
        } else {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let word = rest[..end].to_uppercase();
            if word != "EXPLAIN" && !(is_explained && (word == "ANALYZE" || word == "VERBOSE")) {
                return (word, is_explained);
            }
            (rest, is_explained) = (&rest[end..], true);
        }
    }
}

/// What follows a comment, which may hold others.
fn after_comment(text: &str) -> &str {
    let (mut depth, mut rest) = (0_usize, text);
    loop {
        if let Some(after) = rest.strip_prefix("/*") {
            (depth, rest) = (depth + 1, after);
        } else if let Some(after) = rest.strip_prefix("*/") {
            (depth, rest) = (depth - 1, after);
        } else {
            let mut characters = rest.chars();
            if characters.next().is_none() {
                return "";
            }
            rest = characters.as_str();
        }
        if depth == 0 {
            return rest;
        }
    }
}
