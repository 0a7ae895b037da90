//! `sentinel query`: SQL over the lake's tables, at any of their versions.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
};

use anyhow::Context;
use lake::{
    TableName, Versions,
    formats::{self, Encoder, Format},
    query::Rows,
};

use crate::{
    Outcome,
    cli::{FormatArg, QueryArgs},
    commands::Refused,
    config::Settings,
    new_file::NewFile,
    output::{self, Aligned},
};

/// Rows of a table on a terminal, unless `--limit` says otherwise.
const TERMINAL_ROWS: u64 = 100;

/// What was written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// Whether there were more rows than the limit.
    is_cut: bool,
}

/// Answers one statement.
pub async fn run(args: &QueryArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let rows = versions(settings)?.query(&args.sql).await?;
    let on_terminal = args.output.is_none() && io::stdout().is_terminal();
    let format = args.format.unwrap_or_else(|| match &args.output {
        Some(path) => FormatArg::of(path).unwrap_or(FormatArg::Csv),
        None if on_terminal => FormatArg::Table,
        None => FormatArg::Csv,
    });
    let is_table = format == FormatArg::Table;
    let limit = match args.limit {
        Some(0) => u64::MAX,
        Some(limit) => limit,
        None if on_terminal && is_table => TERMINAL_ROWS,
        None => u64::MAX,
    };
    let read = describe(rows.versions());
    let written = match (&args.output, encoding(format, args.output.is_some())) {
        (None, None) => show(rows, limit).await?,
        (None, Some(encoding)) => match write(rows, encoding, limit, &mut io::stdout().lock()).await {
            Err(error) if is_broken_pipe(&error) => return Ok(Outcome::Fine),
            written => written?,
        },
        (Some(_), None) => {
            return Err(Refused("a table is for people: give --output another --format".to_owned()).into());
        }
        (Some(path), Some(encoding)) => write_file(rows, encoding, limit, path).await?,
    };
    if let Some(path) = &args.output {
        output::line(&format!("{} rows, {} bytes in {}{read}", written.rows, written.bytes, path.display()))?;
    } else if on_terminal && is_table {
        eprintln!("{} rows{read}", written.rows);
    }
    if written.is_cut {
        eprintln!("there are more rows: --limit 0 gives all of them");
    }
    Ok(Outcome::Fine)
}

/// The tables of the data folder, which is not made where it is missing: a reader finds nothing new there.
pub fn versions(settings: &Settings) -> anyhow::Result<Versions> {
    let folder = settings.data.dir.join("lake");
    if !folder.exists() {
        let text = format!("there are no tables in {}: `sentinel up` makes them", settings.data.dir.display());
        return Err(Refused(text).into());
    }
    Ok(Versions::of(&folder)?)
}

/// Which versions were read, as the rest of a sentence.
pub fn describe(versions: &[(TableName, u64)]) -> String {
    let versions = versions.iter().map(|(table, version)| format!("{} version {version}", table.as_str()));
    std::iter::once(String::new()).chain(versions).collect::<Vec<_>>().join(", ")
}

/// How a format is encoded, `None` for the one that people read; a file of Arrow can be sought in, a pipe cannot.
pub const fn encoding(format: FormatArg, to_file: bool) -> Option<Format> {
    match format {
        FormatArg::Table => None,
        FormatArg::Csv => Some(Format::Csv),
        FormatArg::Json => Some(Format::Json),
        FormatArg::Ndjson => Some(Format::Ndjson),
        FormatArg::Arrow if to_file => Some(Format::ArrowFile),
        FormatArg::Arrow => Some(Format::ArrowStream),
        FormatArg::Parquet => Some(Format::Parquet),
    }
}

/// Writes rows to a file that appears whole or not at all.
pub async fn write_file(rows: Rows, format: Format, limit: u64, path: &Path) -> anyhow::Result<Written> {
    let failed = || format!("cannot write {}: check that its folder exists and may be written", path.display());
    let mut file = NewFile::create(path).with_context(failed)?;
    let written = write(rows, format, limit, &mut file).await?;
    file.publish().with_context(failed)?;
    Ok(written)
}

/// Writes rows batch by batch.
async fn write(mut rows: Rows, format: Format, limit: u64, sink: &mut dyn Write) -> anyhow::Result<Written> {
    let mut encoder = Encoder::new(format, &rows.schema())?;
    let mut written = Written::default();
    let mut put = |bytes: Vec<u8>| -> anyhow::Result<u64> {
        sink.write_all(&bytes).context("cannot write the rows")?;
        Ok(bytes.len() as u64)
    };
    while let Some(next) = rows.next_within(limit - written.rows).await {
        let (batch, is_cut) = next?;
        written.is_cut = is_cut;
        written.rows += batch.num_rows() as u64;
        written.bytes += put(encoder.write(&batch)?)?;
        if written.is_cut {
            break;
        }
    }
    written.bytes += put(encoder.finish()?)?;
    sink.flush().context("cannot write the rows")?;
    Ok(written)
}

/// Prints rows as a table, batch by batch.
async fn show(mut rows: Rows, limit: u64) -> anyhow::Result<Written> {
    let mut table = Aligned::new(formats::columns(&rows.schema()));
    let mut written = Written::default();
    while let Some(next) = rows.next_within(limit - written.rows).await {
        let (batch, is_cut) = next?;
        written.is_cut = is_cut;
        written.rows += batch.num_rows() as u64;
        if batch.num_rows() > 0 && !table.print(&formats::texts(&batch)?)? {
            break;
        }
        if written.is_cut {
            break;
        }
    }
    if written.rows == 0 {
        table.print(&[])?;
    }
    Ok(written)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
