//! A table, or a part of it, as ordered rows: by time, then by the place of the record in the log.
//!
//! An export is a query like any other; this is only the text of it.

use std::fmt::Write;

use domain::{Symbol, Timestamp};

use crate::{
    error::Error,
    query::Rows,
    schema::{SYMBOL, TableName},
    versions::Versions,
};

/// Which state of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The newest version.
    Newest,
    /// A version.
    Version(u64),
    /// The version that was current at a time.
    AsOf(Timestamp),
    /// The rows of the newest version whose records were in the log by a time.
    KnownAt(Timestamp),
}

/// What to export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The table.
    pub table: TableName,
    /// Its state.
    pub state: State,
    /// The first instant of [`TableName::time`]; all before, where absent.
    pub from: Option<Timestamp>,
    /// The instant before which rows lie; all after, where absent.
    pub to: Option<Timestamp>,
    /// The only symbols; all, where empty.
    pub symbols: Vec<Symbol>,
    /// The columns in the order wanted; all, where empty.
    pub columns: Vec<String>,
}

impl Versions {
    /// The rows asked for, ordered by time, partition, offset and symbol.
    ///
    /// # Errors
    /// [`Error::Query`] where the table has no such column; as [`Versions::query`].
    pub async fn export(&self, export: &Export) -> Result<Rows, Error> {
        self.query(&sql(export)?).await
    }

    /// The newest of the rows asked for, at most `limit`: those of [`Versions::export`] from its end.
    ///
    /// # Errors
    /// As [`Versions::export`].
    pub async fn newest_rows(&self, export: &Export, limit: u32) -> Result<Rows, Error> {
        self.query(&newest_sql(export, limit)?).await
    }
}

fn sql(export: &Export) -> Result<String, Error> {
    Ok(format!("{} ORDER BY {}", select(export)?, order(export.table).join(", ")))
}

fn newest_sql(export: &Export, limit: u32) -> Result<String, Error> {
    let order: Vec<String> = order(export.table).iter().map(|column| format!("{column} DESC")).collect();
    Ok(format!("{} ORDER BY {} LIMIT {limit}", select(export)?, order.join(", ")))
}

/// The columns that put rows in order: time, then the place of the record in the log.
fn order(table: TableName) -> Vec<String> {
    let symbol = table.is_partitioned().then_some(SYMBOL);
    [table.time(), "partition", table.offset()].into_iter().chain(symbol).map(quoted).collect()
}

fn select(export: &Export) -> Result<String, Error> {
    let name = export.table.as_str();
    let schema = export.table.schema();
    let is_column = |column: &str| schema.column_with_name(column).is_some();
    if let Some(unknown) = export.columns.iter().find(|column| !is_column(column)) {
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        return Err(Error::Query(format!("`{name}` has no column `{unknown}`: it has {}", names.join(", "))));
    }
    let columns: Vec<String> = export.columns.iter().map(|column| quoted(column)).collect();
    let mut conditions = Vec::new();
    if !export.symbols.is_empty() {
        if !export.table.is_partitioned() {
            return Err(Error::Query(format!("the rows of `{name}` have no symbol")));
        }
        // A symbol has no quote in it.
        let symbols: Vec<String> = export.symbols.iter().map(|symbol| format!("'{symbol}'")).collect();
        conditions.push(format!("{SYMBOL} IN ({})", symbols.join(", ")));
    }
    let bounds = [(">=", export.from), ("<", export.to)];
    for (than, bound) in bounds.into_iter().filter_map(|(than, bound)| Some((than, bound?))) {
        let instant = format!("arrow_cast({}, 'Timestamp(Microsecond, Some(\"UTC\"))')", bound.micros());
        conditions.push(format!("{} {than} {instant}", quoted(export.table.time())));
    }
    let columns = if columns.is_empty() { "*".to_owned() } else { columns.join(", ") };
    let mut sql = format!("SELECT {columns} FROM {}", source(name, export.state));
    if !conditions.is_empty() {
        // Writing to a string does not fail.
        let _ = write!(sql, " WHERE {}", conditions.join(" AND "));
    }
    Ok(sql)
}

fn source(table: &str, state: State) -> String {
    match state {
        State::Newest => table.to_owned(),
        State::Version(version) => format!("{table} VERSION AS OF {version}"),
        State::AsOf(time) => format!("{table} TIMESTAMP AS OF '{time}'"),
        State::KnownAt(time) => format!("known_at('{table}', '{time}')"),
    }
}

fn quoted(column: &str) -> String {
    format!("\"{column}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_of(table: TableName) -> Export {
        Export { table, state: State::Newest, from: None, to: None, symbols: Vec::new(), columns: Vec::new() }
    }

    #[test]
    fn rows_are_ordered_by_time_and_then_by_their_place_in_the_log() {
        let features = sql(&all_of(TableName::Features)).unwrap();
        assert_eq!(features, r#"SELECT * FROM features ORDER BY "timestamp", "partition", "offset", "symbol""#);
        let gaps = sql(&all_of(TableName::Gaps)).unwrap();
        assert_eq!(gaps, r#"SELECT * FROM gaps ORDER BY "ingest_time", "partition", "from_offset""#);
    }

    #[test]
    fn the_newest_rows_are_the_end_of_an_export() {
        let newest = newest_sql(&all_of(TableName::Features), 7).unwrap();
        let expected = "SELECT * FROM features ORDER BY \"timestamp\" DESC, \"partition\" DESC, \"offset\" DESC, \
                        \"symbol\" DESC LIMIT 7";
        assert_eq!(newest, expected);
    }

    #[test]
    fn a_range_is_half_open_and_every_condition_is_in_the_query() {
        let export = Export {
            state: State::Version(12),
            from: Some(Timestamp::from_seconds(10)),
            to: Some(Timestamp::from_seconds(20)),
            symbols: vec![Symbol::parse("BTC-USDT").unwrap(), Symbol::parse("ETH-USDT").unwrap()],
            columns: vec!["offset".to_owned(), "close".to_owned()],
            ..all_of(TableName::Windows)
        };
        let expected = "SELECT \"offset\", \"close\" FROM windows VERSION AS OF 12 \
                        WHERE symbol IN ('BTC-USDT', 'ETH-USDT') \
                        AND \"window_start\" >= arrow_cast(10000000, 'Timestamp(Microsecond, Some(\"UTC\"))') \
                        AND \"window_start\" < arrow_cast(20000000, 'Timestamp(Microsecond, Some(\"UTC\"))') \
                        ORDER BY \"window_start\", \"partition\", \"offset\", \"symbol\"";
        assert_eq!(sql(&export).unwrap(), expected);
    }

    #[test]
    fn what_a_table_does_not_have_is_refused() {
        let columns = vec!["prize".to_owned()];
        let refused = sql(&Export { columns, ..all_of(TableName::Events) }).unwrap_err().to_string();
        assert!(refused.contains("`prize`: it has symbol, timestamp"), "{refused}");
        let symbols = vec![Symbol::parse("BTC-USDT").unwrap()];
        assert!(sql(&Export { symbols, ..all_of(TableName::DeadLetters) }).is_err());
    }
}
