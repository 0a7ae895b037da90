//! How long and how nested a statement may be, so that nobody can end the program with one.
//!
//! Trees of expressions, queries and types are walked and dropped by recursion, and a stack that overflows takes the
//! whole process with it. What makes such trees deep or plans huge is counted in the text before it is parsed, and in
//! the tree before it is planned. The limits lie far beyond what a person writes. No meaning is judged here.

use std::ops::ControlFlow;

use deltalake::datafusion::sql::{
    parser::Statement,
    sqlparser::{
        ast::{DataType, Expr, Query, TableFactor, TypedString, Visit, Visitor},
        keywords::Keyword,
        tokenizer::{Token, Tokenizer, Word},
    },
};

use super::VersionedSql;
use crate::error::Error;

/// The longest text in bytes.
pub(super) const MAX_BYTES: usize = 64 << 10;

/// How often the parser may begin an expression, those times included that it finds that it was none.
pub(super) const MAX_EXPRESSIONS: usize = 50_000;

/// Stack to parse and measure on: what these limits let through takes a small part of it.
pub(super) const STACK_BYTES: usize = 128 << 20;

/// Expressions within each other, such as the terms of a chain of `OR`.
const MAX_DEPTH: usize = 256;

/// Tables, queries and functions in all `FROM` clauses.
const MAX_RELATIONS: usize = 32;

/// `WITH` within `WITH`: table names are looked up in each of them twice as often as in the one around it.
const MAX_WITHS: usize = 4;

/// What a text may hold of something.
struct Limit {
    of: &'static str,
    most: usize,
    counts: fn(&Token) -> bool,
}

const LIMITS: [Limit; 7] = [
    Limit { of: "words, numbers, texts and signs", most: 10_000, counts: |_| true },
    Limit { of: "queries", most: 128, counts: |token| is_one_of(token, &QUERIES) },
    Limit { of: "square brackets", most: 64, counts: |token| matches!(token, Token::LBracket) },
    Limit { of: "nested types", most: 64, counts: |token| is_one_of(token, &NESTING_TYPES) },
    Limit { of: "pipes", most: 32, counts: |token| matches!(token, Token::VerticalBarRightAngleBracket) },
    Limit { of: "EXPLAIN", most: 1, counts: |token| is_one_of(token, &[Keyword::EXPLAIN]) },
    // Each multiplies the groupings of the others, and CUBE of n columns alone makes 2^n of them.
    Limit { of: "GROUPING SETS and ROLLUP", most: 1, counts: |token| is_one_of(token, &GROUPINGS) },
];

const QUERIES: [Keyword; 6] =
    [Keyword::SELECT, Keyword::VALUES, Keyword::UNION, Keyword::EXCEPT, Keyword::INTERSECT, Keyword::MINUS];

const NESTING_TYPES: [Keyword; 7] = [
    Keyword::ARRAY,
    Keyword::STRUCT,
    Keyword::MAP,
    Keyword::NULLABLE,
    Keyword::NESTED,
    Keyword::TUPLE,
    Keyword::LOWCARDINALITY,
];

const GROUPINGS: [Keyword; 2] = [Keyword::SETS, Keyword::ROLLUP];

fn is_one_of(token: &Token, keywords: &[Keyword]) -> bool {
    matches!(token, Token::Word(Word { keyword, .. }) if keywords.contains(keyword))
}

/// Counts what is in a text.
///
/// # Errors
/// [`Error::Query`] where it is too much, or where the text is no row of SQL tokens.
pub(super) fn check_text(sql: &str) -> Result<(), Error> {
    if sql.len() > MAX_BYTES {
        let bytes = sql.len();
        return Err(Error::Query(format!("the statement has {bytes} bytes, and {MAX_BYTES} are answered at most")));
    }
    let dialect = VersionedSql::default();
    let tokens = Tokenizer::new(&dialect, sql).tokenize();
    let mut tokens = tokens.map_err(|error| Error::Query(format!("the statement cannot be read: {error}")))?;
    tokens.retain(|token| !matches!(token, Token::Whitespace(_)));
    if tokens.iter().any(|token| is_one_of(token, &[Keyword::CUBE])) {
        return Err(Error::Query("CUBE is not answered: name the GROUPING SETS that are wanted".to_owned()));
    }
    for Limit { of, most, counts } in LIMITS {
        let count = tokens.iter().filter(|token| counts(token)).count();
        if count > most {
            let sentence = format!("the statement has {count} {of}, and {most} are answered at most: ask in parts");
            return Err(Error::Query(sentence));
        }
    }
    Ok(())
}

/// Measures a tree.
///
/// # Errors
/// [`Error::Query`] where it is too deep or names too many tables.
pub(super) fn check_tree(statement: &Statement) -> Result<(), Error> {
    let measured = match statement {
        Statement::Statement(statement) => statement.visit(&mut Size::default()),
        Statement::Explain(explain) => return check_tree(&explain.statement),
        _ => return Ok(()),
    };
    match measured {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(sentence) => Err(Error::Query(sentence)),
    }
}

/// How far a walk through a tree has come.
#[derive(Debug, Default)]
struct Size {
    depth: usize,
    relations: usize,
    withs: usize,
}

impl Visitor for Size {
    type Break = String;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<String> {
        self.withs += usize::from(query.with.is_some());
        let sentence = format!("WITH stands within WITH more than {MAX_WITHS} times: put one after the other");
        if self.withs > MAX_WITHS { ControlFlow::Break(sentence) } else { ControlFlow::Continue(()) }
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<String> {
        self.withs -= usize::from(query.with.is_some());
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, _factor: &TableFactor) -> ControlFlow<String> {
        self.relations += 1;
        let sentence = format!("the statement reads more than {MAX_RELATIONS} tables and queries: ask in parts");
        if self.relations > MAX_RELATIONS { ControlFlow::Break(sentence) } else { ControlFlow::Continue(()) }
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let remedy = "use IN for many values, or ask in parts";
            return ControlFlow::Break(format!("an expression is more than {MAX_DEPTH} deep: {remedy}"));
        }
        match expression {
            Expr::Cast { data_type, .. } | Expr::TypedString(TypedString { data_type, .. }) => plain_type(data_type),
            _ => ControlFlow::Continue(()),
        }
    }

    fn post_visit_expr(&mut self, _expression: &Expr) -> ControlFlow<String> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

/// Refuses types with types in them: even a NULL takes the memory of all elements that its type names.
fn plain_type(data_type: &DataType) -> ControlFlow<String> {
    let name = data_type.to_string();
    if name.contains(['[', '<']) {
        return ControlFlow::Break(format!("a value cannot become {name}: write a list as [1, 2, 3]"));
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::sql::ReadStatement;

    fn refusal(sql: &str) -> String {
        match ReadStatement::parse(sql) {
            Err(Error::Query(sentence)) => sentence,
            other => panic!("{}: {other:?}", sql.chars().take(60).collect::<String>()),
        }
    }

    #[rstest]
    #[case::length(format!("SELECT '{}'", "a".repeat(MAX_BYTES)), "bytes, and 65536 are answered")]
    #[case::tokens(format!("SELECT {}", vec!["1"; 6_000].join(", ")), "words, numbers, texts and signs")]
    #[case::sum(format!("SELECT {}", vec!["1"; 4_900].join("+")), "more than 256 deep")]
    #[case::choice(format!("SELECT {}", vec!["TRUE"; 4_900].join(" OR ")), "more than 256 deep")]
    #[case::casts(format!("SELECT 1{}", "::INT".repeat(4_900)), "more than 256 deep")]
    #[case::questions(format!("SELECT 1{}", " IS NULL".repeat(4_900)), "more than 256 deep")]
    #[case::parentheses(format!("SELECT {}1{}", "(".repeat(4_900), ")".repeat(4_900)), "nested too deeply")]
    #[case::negations(format!("SELECT {} TRUE", "NOT ".repeat(9_000)), "the statement")]
    #[case::signs(format!("SELECT {}1", "- ".repeat(9_000)), "nested too deeply")]
    #[case::calls(format!("SELECT {}1{}", "abs(".repeat(3_000), ")".repeat(3_000)), "nested too deeply")]
    #[case::subqueries(format!("SELECT {}1{}", "(SELECT ".repeat(100), ")".repeat(100)), "nested too deeply")]
    #[case::queries(vec!["SELECT 1"; 900].join(" UNION ALL "), "1799 queries, and 128")]
    #[case::tables(format!("SELECT 1 FROM {}", vec!["features"; 33].join(", ")), "more than 32 tables")]
    #[case::types(format!("SELECT CAST(NULL AS INT{})", "[]".repeat(3_000)), "square brackets")]
    #[case::array(format!("SELECT CAST(NULL AS {}INT{})", "ARRAY<".repeat(100), ">".repeat(100)), "nested types")]
    #[case::pipes(format!("SELECT 1{}", " |> LIMIT 1".repeat(2_000)), "pipes")]
    #[case::explain("EXPLAIN ".repeat(5_000) + "SELECT 1", "5000 EXPLAIN")]
    #[case::rollups("SELECT 1 FROM gaps GROUP BY ROLLUP (partition), ROLLUP (reason)".to_owned(), "ROLLUP")]
    #[case::cube("SELECT 1 FROM gaps GROUP BY CUBE (partition, reason)".to_owned(), "CUBE is not answered")]
    #[case::huge_null("SELECT CAST(NULL AS INT[2000000000])".to_owned(), "cannot become INT[2000000000]")]
    #[case::huge_field("SELECT CAST(NULL AS STRUCT<a INT[2000000000]>)".to_owned(), "")]
    fn what_could_end_the_program_is_refused(#[case] sql: String, #[case] reason: &str) {
        let sentence = refusal(&sql);
        assert!(sentence.contains(reason), "{sentence}");
    }

    #[test]
    fn with_within_with_is_limited() {
        let nested = |times: usize| {
            let query = "SELECT 1".to_owned();
            (0..times).fold(query, |query, number| format!("WITH w{number} AS ({query}) SELECT * FROM w{number}"))
        };
        assert!(ReadStatement::parse(&nested(MAX_WITHS)).is_ok());
        let sentence = refusal(&nested(MAX_WITHS + 1));
        assert!(sentence.contains("WITH stands within WITH"), "{sentence}");
    }

    #[rstest]
    #[case::values(format!("SELECT * FROM features WHERE trade_id IN ({})", vec!["1"; 4_900].join(", ")))]
    #[case::terms(format!("SELECT {}", vec!["1"; 250].join(" + ")))]
    #[case::union(vec!["SELECT 1"; 60].join(" UNION ALL "))]
    #[case::joins(format!("SELECT 1 FROM {}", vec!["features"; 32].join(", ")))]
    #[case::texts(format!("SELECT '{}'", "SELECT [ |> CUBE ( ".repeat(500)))]
    #[case::one_after_the_other(format!("WITH a AS (SELECT 1){} SELECT * FROM a", ", b AS (SELECT 1)".repeat(20)))]
    fn what_people_write_is_parsed(#[case] sql: String) {
        assert!(ReadStatement::parse(&sql).is_ok(), "{}", sql.chars().take(60).collect::<String>());
    }
}
