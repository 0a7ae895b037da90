//! `sentinel verify`: makes derived rows again from the events and compares them with what is stored.

use std::sync::Mutex;

use jobs::verify::{LogReport, TableReport, VERIFIABLE, VerifyRequest, verify, verify_log};
use lake::{
    TableName,
    compare::{Difference, What},
};
use serde_json::json;

use crate::{Outcome, app::App, cli::VerifyArgs, commands::Refused, config::Settings, output, progress::Progress};

/// Verifies, prints what was found, and fails where anything differs.
pub async fn run(args: &VerifyArgs, settings: &Settings, progress: &Progress) -> anyhow::Result<Outcome> {
    let tables = tables(args)?;
    let app = App::open(settings).await?;
    let (from, to) = (args.range.from, args.range.to);
    let request = VerifyRequest { tables, from, to, symbols: args.symbols.clone().unwrap_or_default() };
    let total = expected(&app, &request).await?;
    let task = Mutex::new(progress.counted("verify", "rows", total));
    let told = |rows| task.lock().unwrap_or_else(std::sync::PoisonError::into_inner).set(rows);
    let reports = verify(&app.lake, app.log.as_ref(), &app.models, &request, &told).await?;
    task.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).finish();
    let log = if args.log { Some(verify_log(&app.lake, app.log.as_ref()).await?) } else { None };
    if args.output.json {
        output::json(&as_json(&reports, log.as_ref()))?;
    } else {
        show(&reports, log.as_ref())?;
    }
    app.close().await;
    let equal = reports.iter().all(TableReport::is_equal) && log.is_none_or(|log| log.wrong == 0);
    Ok(if equal { Outcome::Fine } else { Outcome::Difference })
}

fn tables(args: &VerifyArgs) -> anyhow::Result<Vec<TableName>> {
    let Some(name) = &args.table else { return Ok(VERIFIABLE.to_vec()) };
    let known = VERIFIABLE.into_iter().find(|table| table.as_str() == name);
    let names = VERIFIABLE.map(TableName::as_str).join(", ");
    known
        .map(|table| vec![table])
        .ok_or_else(|| Refused(format!("`{name}` cannot be made again from the events; {names} can")).into())
}

/// Rows of the tables, an upper bound of what will be compared.
async fn expected(app: &App, request: &VerifyRequest) -> anyhow::Result<u64> {
    let mut rows = 0;
    for table in &request.tables {
        rows += app.lake.state(*table).await?.rows;
    }
    Ok(rows)
}

fn show(reports: &[TableReport], log: Option<&LogReport>) -> anyhow::Result<()> {
    let row = |report: &TableReport| {
        let found = &report.compared;
        let counts = [report.version, found.rows, found.differing, found.missing, found.extra].map(|n| n.to_string());
        let verdict = if report.is_equal() { "equal" } else { "DIFFERS" };
        let texts = [verdict.to_owned(), report.digest.clone()];
        [report.table.as_str().to_owned()].into_iter().chain(counts).chain(texts).collect()
    };
    let heading = ["table", "version", "compared", "differing", "missing", "extra", "verdict", "digest"];
    output::table(&heading, &reports.iter().map(row).collect::<Vec<Vec<String>>>())?;
    for difference in reports.iter().flat_map(|report| &report.compared.first) {
        output::line(&difference_line(difference))?;
    }
    let Some(log) = log else { return Ok(()) };
    let LogReport { records, control, wrong, first } = log;
    output::line(&format!(
        "log: {records} records, {control} of them heartbeats or floors; {wrong} without exactly one fate"
    ))?;
    for (partition, offset, rows) in first {
        output::line(&format!("record {partition}:{offset} has {rows} rows"))?;
    }
    Ok(())
}

/// A difference as a line.
pub fn difference_line(difference: &Difference) -> String {
    let what = match &difference.what {
        What::Missing => "is not stored, the events give it".to_owned(),
        What::Extra => "is stored, the events do not give it".to_owned(),
        What::Value { column, stored, made_again } => format!("{column}: stored {stored}, made again {made_again}"),
    };
    let Difference { table, symbol, time, offset, .. } = difference;
    format!("{} {symbol} {time} offset {offset}: {what}", table.as_str())
}

fn as_json(reports: &[TableReport], log: Option<&LogReport>) -> serde_json::Value {
    let difference = |found: &Difference| {
        let (what, values) = match &found.what {
            What::Missing => ("missing", json!(null)),
            What::Extra => ("extra", json!(null)),
            What::Value { column, stored, made_again } => {
                ("value", json!({"column": column, "stored": stored, "made_again": made_again}))
            }
        };
        json!({"symbol": found.symbol.as_str(), "time": found.time.to_string(), "offset": found.offset, "what": what,
               "value": values})
    };
    let table = |report: &TableReport| {
        let found = &report.compared;
        json!({"table": report.table.as_str(), "version": report.version, "equal": report.is_equal(),
               "compared": found.rows, "differing": found.differing, "missing": found.missing, "extra": found.extra,
               "digest": report.digest, "first": found.first.iter().map(difference).collect::<Vec<_>>()})
    };
    let log = log.map(|log| {
        json!({"records": log.records, "control": log.control, "wrong": log.wrong,
               "first": log.first.iter().map(|(p, o, rows)| json!({"partition": p, "offset": o, "rows": rows})).collect::<Vec<_>>()})
    });
    json!({"tables": reports.iter().map(table).collect::<Vec<_>>(), "log": log})
}
