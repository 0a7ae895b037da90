//! `sentinel export`: a table, or a part of it, as one file.

use lake::{
    TableName,
    export::{Export, State},
};
use serde_json::json;

use crate::{
    Outcome,
    cli::{ExportArgs, FormatArg},
    commands::{
        query::{describe, encoding, versions, write_file},
        table,
    },
    config::Settings,
    output,
};

/// Writes the file.
pub async fn run(args: &ExportArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let table = table::parse(&args.table)?;
    let rows = versions(settings)?.export(&asked(args, table)).await?;
    let read = rows.versions().to_vec();
    let format = args.format.or_else(|| FormatArg::of(&args.output)).unwrap_or(FormatArg::Csv);
    let version = read.first().map_or(0, |(_, version)| *version);
    let mut path = args.output.clone();
    if path.is_dir() {
        path.push(format!("{}-v{version}.{}", table.as_str(), format.as_str()));
    }
    let Some(encoding) = encoding(format, true) else {
        unreachable!("the command line offers no table of text here");
    };
    let written = write_file(rows, encoding, u64::MAX, &path).await?;
    if args.json.json {
        output::json(&json!({"file": path, "rows": written.rows, "bytes": written.bytes, "version": version}))?;
    } else {
        let read = describe(&read);
        output::line(&format!("{} rows, {} bytes in {}{read}", written.rows, written.bytes, path.display()))?;
    }
    Ok(Outcome::Fine)
}

fn asked(args: &ExportArgs, table: TableName) -> Export {
    let state = match (args.version, args.as_of, args.known_at) {
        (Some(version), ..) => State::Version(version),
        (_, Some(time), _) => State::AsOf(time),
        (.., Some(time)) => State::KnownAt(time),
        _ => State::Newest,
    };
    Export {
        table,
        state,
        from: args.range.from,
        to: args.range.to,
        symbols: args.symbols.clone().unwrap_or_default(),
        columns: args.columns.clone().unwrap_or_default(),
    }
}
