//! A table, or a part of it, as ordered rows: by time, then by the place of the record in the log.
//!
//! An export is a query like any other; this is only the text of it. Of changes it gives all or refuses.

use std::fmt::Write;

use arrow::{array::AsArray, datatypes::Int64Type};
use domain::{Symbol, Timestamp};

use crate::{
    error::Error,
    query::Rows,
    schema::{SYMBOL, TableName},
    versions::Versions,
};

/// Rows of changes that are given at once, at most.
pub const MAX_CHANGED_ROWS: i64 = 1_000_000;

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

    /// The rows that the versions after `from` up to `to` added and removed, ordered by version, removed ones first, then
    /// as in [`Versions::export`].
    ///
    /// # Errors
    /// [`Error::Query`] where they are more than [`MAX_CHANGED_ROWS`]; as [`Versions::query`].
    pub async fn changes(&self, table: TableName, from: u64, to: u64) -> Result<Rows, Error> {
        let source = format!("changes('{}', {from}, {to})", table.as_str());
        let mut counts = self.query(&format!("SELECT count(*) FROM {source}")).await?;
        let mut count = 0;
        while let Some(batch) = counts.next().await {
            let batch = batch?;
            let column = batch.column(0).as_primitive_opt::<Int64Type>();
            count += column.map_or(0, |column| column.values().iter().sum::<i64>());
        }
        if count > MAX_CHANGED_ROWS {
            return Err(Error::Query(format!(
                "{count} rows of `{}` changed from version {from} to {to}, and {MAX_CHANGED_ROWS} are given at most: ask \
                 for fewer versions",
                table.as_str()
            )));
        }
        let order = in_order(table);
        self.query(&format!("SELECT * FROM {source} ORDER BY _version, _change, {order}")).await
    }
}

fn sql(export: &Export) -> Result<String, Error> {
    Ok(format!("{} ORDER BY {}", select(export)?, in_order(export.table)))
}

/// The columns that put rows in order: time, then the place of the record in the log. They tell each row from all others,
/// unless backfills took rows without trade ids from several archives.
pub(crate) fn order(table: TableName) -> Vec<&'static str> {
    let symbol = table.is_partitioned().then_some(SYMBOL);
    [table.time(), "partition", table.offset()].into_iter().chain(symbol).collect()
}

/// [`order`] as SQL has it.
pub(crate) fn in_order(table: TableName) -> String {
    order(table).into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}

fn select(export: &Export) -> Result<String, Error> {
    let columns = columns(export)?.unwrap_or_else(|| "*".to_owned());
    let mut conditions: Vec<String> = of_symbols(export)?.into_iter().collect();
    conditions.extend(within(export.table, export.from, export.to));
    let mut sql = format!("SELECT {columns} FROM {}", source(export.table.as_str(), export.state));
    if !conditions.is_empty() {
        // Writing to a string does not fail.
        let _ = write!(sql, " WHERE {}", conditions.join(" AND "));
    }
    Ok(sql)
}

/// The columns of an export as `SELECT` has them; none where it names none.
///
/// # Errors
/// [`Error::Query`] where the table has no such column, or one is named twice.
pub(crate) fn columns(export: &Export) -> Result<Option<String>, Error> {
    let (name, schema) = (export.table.as_str(), export.table.schema());
    for (number, column) in export.columns.iter().enumerate() {
        if schema.column_with_name(column).is_none() {
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            return Err(Error::Query(format!("`{name}` has no column `{column}`: it has {}", names.join(", "))));
        }
        if export.columns[..number].contains(column) {
            return Err(Error::Query(format!("the column `{column}` is named twice")));
        }
    }
    let columns: Vec<String> = export.columns.iter().map(|column| quoted(column)).collect();
    Ok((!columns.is_empty()).then(|| columns.join(", ")))
}

/// The condition that rows are of the symbols of an export.
///
/// # Errors
/// [`Error::Query`] where the rows of the table have no symbol.
pub(crate) fn of_symbols(export: &Export) -> Result<Option<String>, Error> {
    if export.symbols.is_empty() {
        return Ok(None);
    }
    if !export.table.is_partitioned() {
        return Err(Error::Query(format!("the rows of `{}` have no symbol", export.table.as_str())));
    }
    // A symbol has no quote in it.
    let symbols: Vec<String> = export.symbols.iter().map(|symbol| format!("'{symbol}'")).collect();
    Ok(Some(format!("{SYMBOL} IN ({})", symbols.join(", "))))
}

/// The conditions that rows lie in a half-open time.
pub(crate) fn within(table: TableName, from: Option<Timestamp>, to: Option<Timestamp>) -> Vec<String> {
    let bounds = [(">=", from), ("<", to)].into_iter().filter_map(|(than, bound)| Some((than, bound?)));
    bounds.map(|(than, bound)| format!("{} {than} {}", quoted(table.time()), instant(bound))).collect()
}

/// A time as SQL.
pub(crate) fn instant(time: Timestamp) -> String {
    format!("arrow_cast({}, 'Timestamp(Microsecond, Some(\"UTC\"))')", time.micros())
}

fn source(table: &str, state: State) -> String {
    match state {
        State::Newest => table.to_owned(),
        State::Version(version) => format!("{table} VERSION AS OF {version}"),
        State::AsOf(time) => format!("{table} TIMESTAMP AS OF '{time}'"),
        State::KnownAt(time) => format!("known_at('{table}', '{time}')"),
    }
}

pub(crate) fn quoted(column: &str) -> String {
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
        let columns = vec!["price".to_owned(), "price".to_owned()];
        assert!(sql(&Export { columns, ..all_of(TableName::Events) }).is_err());
    }
}
