//! How far the values of a plan may grow, told before it is optimised: constants are folded then, and a function's answer
//! is memory that nobody counts.
//!
//! Every expression has a width, the bytes of its value at most: columns of tables are taken to be short, `a || b` is as
//! wide as both, and `replace` as wide as its arguments multiplied. The plan of a query named by WITH stands in the
//! statement as often as it is named, which makes short statements huge: nodes are counted too. Nothing is run here.

use std::collections::HashMap;

use deltalake::datafusion::{
    common::{
        ScalarValue,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    error::{DataFusionError, Result as Planned},
    logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator},
};

use crate::error::Error;

/// Nodes of a plan. A table is one; changes of a table are a few for every part of them.
const MAX_NODES: usize = 4_096;

/// Bytes of a row of computed values: a batch has 8 192 rows.
const MAX_ROW_BYTES: u64 = 64 << 10;

/// What a column of a table, a number or a time is taken to need.
const PLAIN_BYTES: u64 = 32;

/// Functions whose answer may be as long as the lengths of their arguments multiplied.
const MULTIPLY: [&str; 3] = ["regexp_replace", "replace", "translate"];

/// Functions whose answer may be so many times as long as all arguments: `%+` stands for a whole time, and a letter may
/// become three others.
const LENGTHEN: [(&str, u64); 4] = [("to_char", 20), ("upper", 3), ("lower", 3), ("initcap", 3)];

/// The function that puts its first argument between all others.
const SEPARATE: &str = "concat_ws";

/// Refuses a plan that is too big or whose values may grow too much.
pub fn check(plan: &LogicalPlan) -> Planned<()> {
    let mut growth = Growth { nodes: 0, widths: HashMap::new(), widest: PLAIN_BYTES };
    growth.plan(plan)?;
    let columns = plan.schema().fields().iter().map(|field| growth.width_of(field.name()));
    within(columns.fold(0, u64::saturating_add))
}

fn within(bytes: u64) -> Planned<()> {
    if bytes > MAX_ROW_BYTES {
        return refused(format!("a row may come to {bytes} bytes, and {MAX_ROW_BYTES} are answered at most"));
    }
    Ok(())
}

fn refused<T>(sentence: String) -> Planned<T> {
    Err(DataFusionError::External(Box::new(Error::Query(sentence))))
}

/// What is known of a plan from its leaves up to a node.
struct Growth {
    nodes: usize,
    /// The greatest width of the columns with a name, wherever they are.
    widths: HashMap<String, u64>,
    widest: u64,
}

impl Growth {
    fn plan(&mut self, plan: &LogicalPlan) -> Planned<()> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return refused(format!("the statement stands for more than {MAX_NODES} steps: ask in parts"));
        }
        for input in plan.inputs() {
            self.plan(input)?;
        }
        plan.apply_subqueries(|subquery| self.plan(subquery).map(|()| TreeNodeRecursion::Continue))?;
        let mut computed = 0_u64;
        plan.apply_expressions(|expression| {
            let width = self.width(expression)?;
            if !is_column(expression) {
                computed = computed.saturating_add(width);
            }
            self.name(expression.schema_name().to_string(), width);
            Ok(TreeNodeRecursion::Continue)
        })?;
        within(computed)?;
        self.name_others(plan);
        Ok(())
    }

    /// Gives widths to the columns that have other names than the expressions that they come from.
    fn name_others(&mut self, plan: &LogicalPlan) {
        match plan {
            LogicalPlan::TableScan(scan) => {
                for field in scan.projected_schema.fields() {
                    self.name(field.name().clone(), PLAIN_BYTES);
                }
            }
            LogicalPlan::Values(_) => {
                for field in plan.schema().fields() {
                    self.name(field.name().clone(), self.widest);
                }
            }
            LogicalPlan::Union(union) => {
                for input in &union.inputs {
                    for (from, to) in input.schema().fields().iter().zip(union.schema.fields()) {
                        self.name(to.name().clone(), self.width_of(from.name()));
                    }
                }
            }
            _ => {}
        }
    }

    fn name(&mut self, name: String, width: u64) {
        self.widest = self.widest.max(width);
        let known = self.widths.entry(name).or_insert(width);
        *known = width.max(*known);
    }

    /// The width of a column; of one that comes from nowhere, such as the elements of a list, the greatest there is.
    fn width_of(&self, column: &str) -> u64 {
        self.widths.get(column).copied().unwrap_or(self.widest)
    }

    fn width(&mut self, expression: &Expr) -> Planned<u64> {
        let mut parts = Vec::new();
        expression.apply_children(|part| {
            parts.push(self.width(part)?);
            Ok(TreeNodeRecursion::Continue)
        })?;
        let sum = parts.iter().copied().fold(0, u64::saturating_add);
        let width = match expression {
            Expr::Column(column) | Expr::OuterReferenceColumn(_, column) => self.width_of(&column.name),
            Expr::Literal(value, _) => literal(value),
            Expr::ScalarSubquery(subquery) => {
                let fields = subquery.subquery.schema().fields();
                fields.first().map_or(PLAIN_BYTES, |field| self.width_of(field.name()))
            }
            Expr::BinaryExpr(BinaryExpr { op: Operator::StringConcat, .. }) => sum,
            Expr::ScalarFunction(call) if MULTIPLY.contains(&call.name()) => {
                parts.iter().copied().fold(1, u64::saturating_mul)
            }
            Expr::ScalarFunction(call) if call.name() == SEPARATE => {
                let separators = parts.first().map_or(0, |separator| separator.saturating_mul(parts.len() as u64));
                sum.saturating_add(separators)
            }
            Expr::ScalarFunction(call) => sum.saturating_mul(lengthened(call.name())).max(PLAIN_BYTES),
            // A number or a truth, whatever it is of.
            Expr::BinaryExpr(_)
            | Expr::Like(_)
            | Expr::SimilarTo(_)
            | Expr::Not(_)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::Between(_)
            | Expr::InList(_)
            | Expr::InSubquery(_)
            | Expr::Exists(_) => PLAIN_BYTES,
            _ => sum.max(PLAIN_BYTES),
        };
        within(width)?;
        Ok(width)
    }
}

/// How many times as long as its arguments the answer of a function may be.
fn lengthened(function: &str) -> u64 {
    LENGTHEN.iter().find(|(name, _)| *name == function).map_or(1, |(_, times)| *times)
}

fn literal(value: &ScalarValue) -> u64 {
    let beside = value.size().saturating_sub(size_of::<ScalarValue>()) as u64;
    match value {
        ScalarValue::Utf8(_) | ScalarValue::LargeUtf8(_) | ScalarValue::Utf8View(_) => beside.max(1),
        _ => beside.max(PLAIN_BYTES),
    }
}

/// Whether an expression is nothing but a column, which is shared and not computed.
fn is_column(expression: &Expr) -> bool {
    match expression {
        Expr::Column(_) => true,
        Expr::Alias(alias) => is_column(&alias.expr),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::query::session;

    async fn checked(sql: &str) -> Result<(), String> {
        let state = session::of_owner().unwrap().state();
        let plan = state.create_logical_plan(sql).await.unwrap();
        check(&plan).map_err(|error| error.to_string())
    }

    /// A text that is ten times as long in each of so many queries.
    fn grown(times: usize) -> String {
        let queries: Vec<String> = (0..times)
            .map(|number| format!("w{} AS (SELECT {} AS t FROM w{number})", number + 1, ["t"; 10].join(" || ")))
            .collect();
        format!("WITH w0 AS (SELECT 'abcdefghij' AS t), {} SELECT t FROM w{times}", queries.join(", "))
    }

    /// A query that is named ten times in each of so many others.
    fn multiplied(times: usize) -> String {
        let queries: Vec<String> = (0..times)
            .map(|number| {
                let named = vec![format!("SELECT a FROM w{number}"); 10].join(" UNION ALL ");
                format!("w{} AS ({named})", number + 1)
            })
            .collect();
        format!("WITH w0 AS (SELECT 1 AS a), {} SELECT a FROM w{times}", queries.join(", "))
    }

    #[rstest]
    #[case::doubled(grown(6), "a row may come to")]
    #[case::replaced(format!("SELECT replace('{0}', 'a', '{0}')", "a".repeat(1_000)), "a row may come to")]
    #[case::formatted(format!("SELECT to_char(now(), '{}')", "%+".repeat(2_000)), "a row may come to")]
    #[case::many(format!("SELECT {}", (0..20).map(|n| format!("'{}' || {n}", "a".repeat(4_000))).collect::<Vec<_>>().join(", ")), "a row may come to")]
    #[case::lists(format!("WITH a AS (SELECT '{}' AS t) SELECT [t, t, t, t, t, t, t, t] FROM a", "a".repeat(9_000)), "a row may come to")]
    #[case::named_again(multiplied(6), "more than 4096 steps")]
    #[case::union(format!("SELECT t || t || t || t || t FROM (SELECT 'a' AS t UNION ALL SELECT '{}' AS other)", "a".repeat(20_000)), "a row may come to")]
    #[tokio::test]
    async fn what_grows_without_bounds_is_refused(#[case] sql: String, #[case] reason: &str) {
        let refusal = checked(&sql).await.unwrap_err();
        assert!(refusal.contains(reason), "{refusal}");
    }

    #[rstest]
    #[case("SELECT 1")]
    #[case("SELECT concat_ws(', ', 'a', 'b', 'c', 'd', 'e', 'f'), replace('BTC-USDT', '-', '/'), upper('a') || 'b'")]
    #[case("WITH a AS (SELECT 1 AS b) SELECT x.b + y.b FROM a x, a y WHERE x.b IN (SELECT b FROM a)")]
    #[case("SELECT b, count(*) FROM (VALUES (1), (2)) AS t(b) GROUP BY b ORDER BY 2 DESC")]
    #[tokio::test]
    async fn what_people_ask_is_not(#[case] sql: &str) {
        assert_eq!(checked(sql).await, Ok(()));
    }
}
