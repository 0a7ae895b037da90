//! SQL as text to a statement that may be run: one, reading only, with its time travel taken out and named.
//!
//! `table VERSION AS OF 12`, `table TIMESTAMP AS OF '...'`, `as_of(...)`, `known_at(...)`, `changes(...)` and
//! `history(...)` each become a plain reference to a table with a name of its own, and [`Reading`] says what stands
//! behind that name. `DataFusion` plans a table reference without looking at such clauses: whatever is left of them
//! after this, and any other clause that it would ignore, is refused by [`NothingIgnored`] when it is planned. What
//! could overflow a stack is refused before. Nothing is opened here.

mod size;

use std::{
    any::TypeId,
    cell::Cell,
    collections::{BTreeSet, HashMap},
    ops::ControlFlow,
};

use deltalake::datafusion::{
    error::{DataFusionError, Result as Planned},
    logical_expr::planner::{RelationPlanner, RelationPlannerContext, RelationPlanning},
    sql::{
        parser::{DFParserBuilder, Statement},
        sqlparser::{
            ast::{
                Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, Query, Statement as SqlStatement, TableAlias,
                TableFactor, TableFunctionArgs, TableVersion, TypedString, Value, VisitMut, VisitorMut,
            },
            dialect::{Dialect, GenericDialect},
            parser::{Parser, ParserError},
        },
    },
};
use domain::Timestamp;

use crate::{error::Error, schema::TableName};

/// What stands behind a name in a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The newest version.
    Newest,
    /// A version.
    Version(u64),
    /// The version that was current at a time.
    AsOf(Timestamp),
    /// The rows of the newest version whose records were in the log by a time.
    KnownAt(Timestamp),
    /// The rows that came and went after one version, up to another.
    Changes {
        /// The version before the first change.
        from: u64,
        /// The version of the last change.
        to: u64,
    },
    /// The commits.
    History,
}

impl Reading {
    /// The name that stands for it in a statement; no table and no sane alias has one like it.
    fn name(self, table: TableName) -> String {
        let table = table.as_str();
        match self {
            Self::Newest => table.to_owned(),
            Self::Version(version) => format!("{table} version {version}"),
            Self::AsOf(time) => format!("{table} as of {time}"),
            Self::KnownAt(time) => format!("{table} known at {time}"),
            Self::Changes { from, to } => format!("changes of {table}, {from} to {to}"),
            Self::History => format!("history of {table}"),
        }
    }
}

/// A statement that only reads.
#[derive(Debug)]
pub(crate) struct ReadStatement {
    /// The statement, without time travel.
    pub(crate) statement: Statement,
    /// What stands behind the names that time travel became.
    pub(crate) readings: HashMap<String, (TableName, Reading)>,
}

impl ReadStatement {
    /// Reads one statement from text.
    ///
    /// # Errors
    /// [`Error::Query`] where the text is not one statement that only reads, or is longer or deeper than is answered.
    pub(crate) fn parse(sql: &str) -> Result<Self, Error> {
        size::check_text(sql)?;
        stacker::grow(size::STACK_BYTES, || Self::parsed(sql))
    }

    fn parsed(sql: &str) -> Result<Self, Error> {
        let dialect = VersionedSql::default();
        let parser = DFParserBuilder::new(sql).with_dialect(&dialect).build();
        let statements = parser.and_then(|mut parser| parser.parse_statements());
        let mut statements = statements.map_err(|error| Error::Query(sentence(&error)))?;
        let count = statements.len();
        let Some(mut statement) = statements.pop_front().filter(|_| count == 1) else {
            return Err(Error::Query(format!("one statement at a time is answered, and this text has {count}")));
        };
        size::check_tree(&statement)?;
        let mut travel = TimeTravel::default();
        travel.take_out(&mut statement)?;
        Ok(Self { statement, readings: travel.readings })
    }
}

/// Whether a text is one statement that only reads, as far as can be told before a table is opened.
///
/// # Errors
/// [`Error::Query`] or [`Error::NoTable`] where it is not.
pub fn check(sql: &str) -> Result<(), Error> {
    ReadStatement::parse(sql).map(drop)
}

/// `DataFusion`'s own dialect, and in it the clauses of time travel.
///
/// The dialects of sqlparser that know these clauses read `"offset"` as a text (Databricks, `BigQuery`) or bend other
/// parts of the language. This one is [`GenericDialect`] with the clauses; only what `DataFusion` cannot plan anyway is
/// left out of it.
#[derive(Debug)]
struct VersionedSql {
    /// How many more expressions the parser may begin.
    expressions_left: Cell<usize>,
}

impl Default for VersionedSql {
    fn default() -> Self {
        Self { expressions_left: Cell::new(size::MAX_EXPRESSIONS) }
    }
}

macro_rules! as_generic {
    ($($method:ident)*) => { $(fn $method(&self) -> bool { GenericDialect.$method() })* };
}

impl Dialect for VersionedSql {
    fn dialect(&self) -> TypeId {
        GenericDialect.dialect()
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        GenericDialect.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        GenericDialect.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        GenericDialect.is_identifier_part(ch)
    }

    fn supports_table_versioning(&self) -> bool {
        true
    }

    /// Called where an expression begins. The parser begins it anew where it took a word for what it is not, and so would
    /// need twice as long for each further `CASE` of `CASE WHEN a THEN CASE WHEN a THEN ...`.
    fn parse_prefix(&self, _parser: &mut Parser<'_>) -> Option<Result<Expr, ParserError>> {
        let left = self.expressions_left.get();
        self.expressions_left.set(left.saturating_sub(1));
        (left == 0).then_some(Err(ParserError::RecursionLimitExceeded))
    }

    as_generic! {
        supports_unicode_string_literal supports_array_join_syntax supports_group_by_expr
        supports_group_by_with_modifier supports_left_associative_joins_without_parens supports_pipe_operator
        supports_window_function_null_treatment_arg supports_dictionary_syntax
        supports_window_clause_named_window_reference supports_select_wildcard_except support_map_literal_syntax
        allow_extract_custom allow_extract_single_quotes supports_extract_comma_syntax
        supports_parens_around_table_factor supports_values_as_table_factor supports_explain_with_utility_options
        supports_limit_comma supports_from_first_select supports_projection_trailing_commas supports_try_convert
        supports_bitwise_shift_operators supports_named_fn_args_with_assignment_operator supports_struct_literal
        supports_empty_projections supports_nested_comments supports_string_escape_constant
        supports_array_typedef_with_brackets supports_filter_during_aggregation supports_select_wildcard_exclude
        supports_data_type_signed_suffix supports_interval_options supports_quote_delimited_string
        supports_select_wildcard_replace supports_select_wildcard_ilike supports_select_wildcard_rename
        supports_comma_separated_trim
    }
}

/// Takes time travel out of a statement.
#[derive(Debug, Default)]
struct TimeTravel {
    readings: HashMap<String, (TableName, Reading)>,
    /// Tables that stand with a version in the statement.
    versioned: BTreeSet<&'static str>,
    /// Names that the statement gives to queries.
    common: BTreeSet<String>,
}

impl TimeTravel {
    fn take_out(&mut self, statement: &mut Statement) -> Result<(), Error> {
        let found = match statement {
            Statement::Statement(statement) => match statement.as_mut() {
                SqlStatement::Query(query) => VisitMut::visit(query, self),
                SqlStatement::ExplainTable { .. } => return Ok(()),
                other => return Err(not_a_read(other)),
            },
            Statement::Explain(explain) => return self.take_out(&mut explain.statement),
            other => return Err(not_a_read(other)),
        };
        if let ControlFlow::Break(refusal) = found {
            return Err(*refusal);
        }
        match self.versioned.iter().find(|table| self.common.contains(**table)) {
            None => Ok(()),
            Some(table) => Err(Error::Query(format!(
                "`{table}` is both a table with a version and a query named by WITH: give the query another name"
            ))),
        }
    }

    fn table_factor(&mut self, factor: &mut TableFactor) -> Result<(), Error> {
        let TableFactor::Table { name, alias, args, version, .. } = factor else { return Ok(()) };
        let (table, reading) = match (version.as_ref(), args.as_ref()) {
            (None, None) => return Ok(()),
            (Some(version), None) => {
                let table = table_named(&normal(name))?;
                self.versioned.insert(table.as_str());
                (table, reading_of(version)?)
            }
            (None, Some(args)) => match function(&normal(name), args)? {
                Some(called) => called,
                None => return Ok(()),
            },
            (Some(_), Some(_)) => {
                return Err(Error::Query(format!("`{name}(...)` has no versions: give the version as an argument")));
            }
        };
        let stands_for = reading.name(table);
        alias.get_or_insert_with(|| named(table.as_str()));
        *name = ObjectName::from(vec![Ident::with_quote('"', &stands_for)]);
        (*args, *version) = (None, None);
        self.readings.insert(stands_for, (table, reading));
        Ok(())
    }
}

impl VisitorMut for TimeTravel {
    type Break = Box<Error>;

    /// A statement within a query writes: `WITH a AS (SELECT 1) INSERT ...`.
    fn pre_visit_statement(&mut self, statement: &mut SqlStatement) -> ControlFlow<Self::Break> {
        ControlFlow::Break(Box::new(not_a_read(statement)))
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        let common = query.with.iter().flat_map(|with| &with.cte_tables).map(|table| plain(&table.alias.name));
        self.common.extend(common);
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        match self.table_factor(factor) {
            Ok(()) => ControlFlow::Continue(()),
            Err(refusal) => ControlFlow::Break(Box::new(refusal)),
        }
    }
}

/// Refuses the clauses of a table reference that `DataFusion` would drop in silence.
#[derive(Debug)]
pub(crate) struct NothingIgnored;

impl RelationPlanner for NothingIgnored {
    fn plan_relation(
        &self,
        relation: TableFactor,
        _context: &mut dyn RelationPlannerContext,
    ) -> Planned<RelationPlanning> {
        let ignored = match &relation {
            TableFactor::Table { version: Some(version), .. } => Some(version.to_string()),
            TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
                Some("TABLESAMPLE".to_owned())
            }
            TableFactor::Table { with_ordinality: true, .. } | TableFactor::Function { with_ordinality: true, .. } => {
                Some("WITH ORDINALITY".to_owned())
            }
            TableFactor::Table { with_hints, partitions, index_hints, json_path, .. }
                if json_path.is_some()
                    || !(with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty()) =>
            {
                Some("a hint, a partition or a path".to_owned())
            }
            _ => None,
        };
        match ignored {
            None => Ok(RelationPlanning::Original(Box::new(relation))),
            Some(clause) => Err(DataFusionError::External(Box::new(Error::Query(format!(
                "{clause} after a table is not supported: use VERSION AS OF 12, TIMESTAMP AS OF '2024-03-09T16:00:00Z', \
                 or a WHERE"
            ))))),
        }
    }
}

/// What `DataFusion` has against a statement.
pub(crate) fn sentence(error: &DataFusionError) -> String {
    match error {
        DataFusionError::Context(_, error) | DataFusionError::Diagnostic(_, error) => sentence(error),
        DataFusionError::SQL(error, _) => match error.as_ref() {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => {
                format!("the statement cannot be read: {text}")
            }
            ParserError::RecursionLimitExceeded => "the statement is nested too deeply".to_owned(),
        },
        error => error.message().into_owned(),
    }
}

fn not_a_read(statement: &impl ToString) -> Error {
    let text = statement.to_string();
    let verb = text.split_whitespace().next().unwrap_or_default();
    Error::Query(format!("only reads are answered, SELECT, EXPLAIN and DESCRIBE: {verb} is none"))
}

fn reading_of(version: &TableVersion) -> Result<Reading, Error> {
    match version {
        TableVersion::VersionAsOf(number) => Ok(Reading::Version(version_number(number)?)),
        TableVersion::TimestampAsOf(text) => Ok(Reading::AsOf(time(text)?)),
        other => Err(Error::Query(format!(
            "{other} is not supported: use VERSION AS OF 12 or TIMESTAMP AS OF '2024-03-09T16:00:00Z'"
        ))),
    }
}

/// The table and reading that a call of a table function asks for; `None` where it is not one of ours.
fn function(name: &str, args: &TableFunctionArgs) -> Result<Option<(TableName, Reading)>, Error> {
    let form = match name {
        "as_of" | "known_at" => "('features', '2024-03-09T16:00:00Z')",
        "changes" => "('features', 3, 9)",
        "history" => "('features')",
        _ => return Ok(None),
    };
    let literals: Option<Vec<&Expr>> = args.args.iter().map(literal).collect();
    let called = match (name, literals.as_deref()) {
        ("as_of", Some([table, at])) => (table_named(&text(table)?)?, Reading::AsOf(time(at)?)),
        ("known_at", Some([table, at])) => (table_named(&text(table)?)?, Reading::KnownAt(time(at)?)),
        ("changes", Some([table, from, to])) => {
            let (from, to) = (version_number(from)?, version_number(to)?);
            if from > to {
                return Err(Error::Query(format!("changes go from a version to a later one, not from {from} to {to}")));
            }
            (table_named(&text(table)?)?, Reading::Changes { from, to })
        }
        ("history", Some([table])) => (table_named(&text(table)?)?, Reading::History),
        _ => return Err(Error::Query(format!("`{name}` takes other arguments: write {name}{form}"))),
    };
    Ok(Some(called))
}

const fn literal(argument: &FunctionArg) -> Option<&Expr> {
    match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression),
        _ => None,
    }
}

fn table_named(name: &str) -> Result<TableName, Error> {
    TableName::from_name(name).ok_or_else(|| Error::NoTable { name: name.to_owned() })
}

fn version_number(expression: &Expr) -> Result<u64, Error> {
    let number = match expression {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => digits.parse().ok(),
            _ => None,
        },
        _ => None,
    };
    number.ok_or_else(|| Error::Query(format!("`{expression}` is not a version: use a number such as 12")))
}

fn time(expression: &Expr) -> Result<Timestamp, Error> {
    let text = match expression {
        Expr::TypedString(TypedString { value, .. }) => value.value.clone().into_string().unwrap_or_default(),
        other => text(other)?,
    };
    Timestamp::parse(&text)
        .map_err(|_| Error::Query(format!("'{text}' is not a time in UTC such as '2024-03-09T16:00:00Z'")))
}

fn text(expression: &Expr) -> Result<String, Error> {
    match expression {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Ok(text.clone()),
            other => Err(Error::Query(format!("{other} must be a text in single quotes"))),
        },
        other => Err(Error::Query(format!("{other} must be a text in single quotes"))),
    }
}

/// A name as `DataFusion` looks it up: in lower case, unless it was quoted.
fn normal(name: &ObjectName) -> String {
    match name.0.as_slice() {
        [part] => part.as_ident().map_or_else(|| name.to_string(), plain),
        _ => name.to_string(),
    }
}

fn plain(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

fn named(name: &str) -> TableAlias {
    TableAlias { explicit: true, name: Ident::new(name), columns: Vec::new(), at: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn refusal(sql: &str) -> String {
        match ReadStatement::parse(sql) {
            Err(Error::Query(sentence)) => sentence,
            other => panic!("{sql}: {other:?}"),
        }
    }

    fn readings(sql: &str) -> Vec<(&'static str, Reading)> {
        let parsed = ReadStatement::parse(sql).unwrap();
        let mut readings: Vec<_> =
            parsed.readings.into_values().map(|(table, reading)| (table.as_str(), reading)).collect();
        readings.sort_by_key(|(table, reading)| (*table, format!("{reading:?}")));
        readings
    }

    const TIME: Timestamp = Timestamp::from_seconds(1_710_000_000);

    #[rstest]
    #[case("SELECT * FROM features VERSION AS OF 12", &[("features", Reading::Version(12))])]
    #[case("SELECT * FROM FEATURES version as of 12 f", &[("features", Reading::Version(12))])]
    #[case("SELECT * FROM features TIMESTAMP AS OF '2024-03-09T16:00:00Z' AS f", &[("features", Reading::AsOf(TIME))])]
    #[case("SELECT * FROM features TIMESTAMP AS OF TIMESTAMP '2024-03-09 16:00:00Z'", &[("features", Reading::AsOf(TIME))])]
    #[case("SELECT * FROM as_of('features', '2024-03-09T16:00:00Z')", &[("features", Reading::AsOf(TIME))])]
    #[case("SELECT * FROM known_at('features', '1710000000')", &[("features", Reading::KnownAt(TIME))])]
    #[case("SELECT * FROM changes('events', 3, 9) c", &[("events", Reading::Changes { from: 3, to: 9 })])]
    #[case("SELECT * FROM history('gaps')", &[("gaps", Reading::History)])]
    #[case("SELECT * FROM features", &[])]
    #[case("DESCRIBE features", &[])]
    #[case(
        "SELECT * FROM features VERSION AS OF 2 a JOIN features VERSION AS OF 3 b USING (\"offset\")",
        &[("features", Reading::Version(2)), ("features", Reading::Version(3))]
    )]
    #[case(
        "WITH old AS (SELECT * FROM features VERSION AS OF 2) SELECT * FROM old WHERE price > \
         (SELECT max(price) FROM events VERSION AS OF 1)",
        &[("events", Reading::Version(1)), ("features", Reading::Version(2))]
    )]
    #[case(
        "SELECT 1 FROM (SELECT * FROM windows VERSION AS OF 7) UNION ALL SELECT 1 FROM events WHERE EXISTS \
         (SELECT 1 FROM gaps VERSION AS OF 0)",
        &[("gaps", Reading::Version(0)), ("windows", Reading::Version(7))]
    )]
    #[case("EXPLAIN SELECT * FROM features VERSION AS OF 12", &[("features", Reading::Version(12))])]
    fn time_travel_is_found_wherever_a_table_stands(#[case] sql: &str, #[case] expected: &[(&str, Reading)]) {
        assert_eq!(readings(sql), expected);
    }

    #[rstest]
    #[case("SELECT * FROM features FOR SYSTEM_TIME AS OF '2024-03-09T16:00:00Z'", "use VERSION AS OF 12")]
    #[case("SELECT * FROM features AT(TIMESTAMP => '2024-03-09T16:00:00Z')", "use VERSION AS OF 12")]
    #[case("SELECT * FROM features BEFORE(VERSION => 3)", "use VERSION AS OF 12")]
    #[case(
        "SELECT * FROM features CHANGES(INFORMATION => DEFAULT) AT(VERSION => 1) END(VERSION => 2)",
        "use VERSION AS OF 12"
    )]
    #[case("SELECT * FROM features FOR VERSION AS OF 3", "")]
    #[case("SELECT * FROM features FOR SYSTEM_TIME BETWEEN '2024-03-09' AND '2024-03-10'", "")]
    #[case("SELECT * FROM features VERSION AS OF '3'", "")]
    #[case("SELECT * FROM features VERSION AS OF -1", "")]
    #[case("SELECT * FROM features VERSION AS OF 1.5", "is not a version")]
    #[case("SELECT * FROM features f VERSION AS OF 3", "")]
    #[case("SELECT * FROM (SELECT * FROM features) VERSION AS OF 3", "")]
    #[case("SELECT * FROM features TIMESTAMP AS OF now()", "in single quotes")]
    #[case("SELECT * FROM features TIMESTAMP AS OF 'yesterday'", "2024-03-09T16:00:00Z")]
    #[case("SELECT * FROM features VERSION AS OF 3 ('x')", "has no versions")]
    #[case("WITH features AS (SELECT 1) SELECT * FROM features VERSION AS OF 3", "another name")]
    #[case("SELECT * FROM changes('features', 9, 3)", "not from 9 to 3")]
    #[case("SELECT * FROM changes('features')", "write changes('features', 3, 9)")]
    #[case("SELECT * FROM as_of(features, '2024-03-09')", "in single quotes")]
    #[case("SELECT * FROM history(table => 'features')", "write history('features')")]
    fn time_travel_that_is_not_understood_is_refused(#[case] sql: &str, #[case] remedy: &str) {
        let sentence = refusal(sql);
        assert!(sentence.contains(remedy), "{sql}: {sentence}");
    }

    #[rstest]
    #[case("", "has 0")]
    #[case("SELECT 1; SELECT 2", "has 2")]
    #[case("SELECT price FORM features", "the statement cannot be read: Expected: end of statement, found: features")]
    #[case("INSERT INTO features SELECT * FROM features", "INSERT is none")]
    #[case("WITH a AS (SELECT 1) INSERT INTO features SELECT * FROM a", "INSERT is none")]
    #[case("UPDATE features SET price = 1", "UPDATE is none")]
    #[case("DELETE FROM features", "DELETE is none")]
    #[case("DROP TABLE features", "DROP is none")]
    #[case("CREATE TABLE a AS SELECT 1", "CREATE is none")]
    #[case("CREATE EXTERNAL TABLE a STORED AS CSV LOCATION '/etc/passwd'", "CREATE is none")]
    #[case("COPY features TO '/srv/features.csv'", "COPY is none")]
    #[case("SET datafusion.execution.batch_size = 1", "SET is none")]
    #[case("EXPLAIN ANALYZE INSERT INTO features SELECT * FROM features", "INSERT is none")]
    #[case("EXPLAIN COPY features TO '/srv/features.csv'", "COPY is none")]
    fn what_is_not_one_read_is_refused(#[case] sql: &str, #[case] reason: &str) {
        let sentence = refusal(sql);
        assert!(sentence.contains(reason), "{sql}: {sentence}");
    }

    /// The parser would take twice as long for each further one of these.
    #[rstest]
    #[case("CAST(", 48)]
    #[case("CASE WHEN a THEN ", 40)]
    #[case("a[CAST(b", 24)]
    fn a_statement_that_would_be_parsed_for_ever_is_refused(#[case] repeated: &str, #[case] times: usize) {
        refusal(&format!("SELECT {}", repeated.repeat(times)));
    }

    #[test]
    fn an_unknown_table_is_named_with_those_there_are() {
        let refused = ReadStatement::parse("SELECT * FROM trades VERSION AS OF 3").unwrap_err();
        assert!(matches!(&refused, Error::NoTable { name } if name == "trades"), "{refused:?}");
        assert!(refused.to_string().contains("events, alerts, predictions"), "{refused}");
    }
}
