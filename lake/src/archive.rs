//! Archives: files of trades or klines that lie outside the lake, read for backfills.
//!
//! A file is cut into blocks that are read one at a time, in any order and from several threads, so that memory does not
//! grow with it. What cannot be a row is named with its line and hides nothing beside it. Prices are parsed from their
//! text by the function that parses them everywhere. Nothing is written, ordered or folded here.

mod csv;
mod delta;
mod name;
mod parquet;
mod text;

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use domain::{Event, Symbol, Timestamp};

use crate::error::Error;
use csv::CsvFile;
use name::Named;
use parquet::ParquetFile;
use text::TextFile;

/// The endings of files that are taken from a folder.
const ENDINGS: [&str; 8] = [".csv", ".zip", ".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".parquet"];

/// The bits of a row's place that count the rows of a block; those above count blocks.
const PLACE_BITS: u32 = 20;

/// What the rows of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Binance's public spot `trades`.
    Trades,
    /// Binance's public spot `aggTrades`: one event each.
    AggTrades,
    /// Binance's public 1-minute `klines`.
    Klines,
    /// Rows with columns of our `events`.
    Events,
    /// Records of the log as JSON Lines.
    JsonLines,
}

/// A block that was read.
#[derive(Debug)]
pub struct Block {
    /// Its rows, in their order.
    pub rows: Rows,
    /// What cannot be a row.
    pub refused: Vec<Refused>,
}

/// The rows of a block.
#[derive(Debug)]
pub enum Rows {
    /// Trades, or aggregated trades.
    Trades(Vec<Archived>),
    /// 1-minute klines.
    Klines(Vec<Kline>),
    /// Lines that another crate decodes.
    JsonLines {
        /// The place of the first row; each has the next.
        first_place: u64,
        /// The number of the first one in the file, from 1.
        first_line: u64,
        /// Whole lines.
        bytes: Vec<u8>,
    },
}

/// A trade of an archive.
#[derive(Clone, Debug, PartialEq)]
pub struct Archived {
    /// The trade.
    pub event: Event,
    /// Its place in the file: ascending, and the same whenever the file is read.
    pub place: u64,
}

/// A 1-minute kline of an archive.
#[derive(Clone, Debug, PartialEq)]
pub struct Kline {
    /// The market.
    pub symbol: Symbol,
    /// The first instant of the minute.
    pub open_time: Timestamp,
    /// First price.
    pub open: f64,
    /// Greatest price.
    pub high: f64,
    /// Smallest price.
    pub low: f64,
    /// Last price.
    pub close: f64,
    /// Sum of the volumes, in base units.
    pub volume: f64,
    /// Sum of price times volume, in quote units.
    pub quote_volume: f64,
    /// Trades in the minute.
    pub trades: i64,
}

/// What cannot be a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its line, from 1; its row in a Parquet file.
    pub line: u64,
    /// Its time, else that of the row before it, else of the one after it; none, where the block has no rows.
    pub time: Option<Timestamp>,
    /// What is wrong with it.
    pub reason: String,
}

/// One archive file, or one data file of a Delta table.
pub struct ArchiveFile {
    path: PathBuf,
    bytes: u64,
    modified: Option<Timestamp>,
    form: Form,
}

enum Form {
    Csv(CsvFile),
    JsonLines(TextFile),
    Parquet(ParquetFile),
}

impl fmt::Debug for ArchiveFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArchiveFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ArchiveFile {
    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size as it lies there.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When it was changed, where the file system tells.
    #[must_use]
    pub const fn modified(&self) -> Option<Timestamp> {
        self.modified
    }

    /// What its rows are.
    #[must_use]
    pub const fn content(&self) -> Content {
        match &self.form {
            Form::Csv(file) => file.content(),
            Form::JsonLines(_) => Content::JsonLines,
            Form::Parquet(_) => Content::Events,
        }
    }

    /// Its blocks.
    #[must_use]
    pub const fn blocks(&self) -> usize {
        match &self.form {
            Form::Csv(file) => file.blocks(),
            Form::JsonLines(file) => file.blocks(),
            Form::Parquet(file) => file.blocks(),
        }
    }

    /// Reads a block. File reads and CPU work: for a thread that may block.
    ///
    /// # Errors
    /// Where the file cannot be read any more, or is not what it was when it was opened.
    pub fn read(&self, block: usize) -> Result<Block, Error> {
        match &self.form {
            Form::Csv(file) => file.read(block, &self.path),
            Form::JsonLines(file) => {
                let bytes = file.bytes_of(block).map_err(Error::file("read", &self.path))?;
                let first_line = file.lines_before(block).map_err(Error::file("read", &self.path))? + 1;
                let rows = Rows::JsonLines { first_place: place(block, 0), first_line, bytes };
                Ok(Block { rows, refused: Vec::new() })
            }
            Form::Parquet(file) => file.read(block, &self.path),
        }
    }
}

/// The place of a row, from its block and its number in it.
const fn place(block: usize, row: usize) -> u64 {
    ((block as u64) << PLACE_BITS) | row as u64
}

/// Opens what `paths` name, sorted by path: files, folders of files, Delta tables. What names another symbol than one of
/// `symbols` is left out; where one symbol is given, it is that of files whose names tell none. Compressed files are
/// unpacked into files under `scratch` that have no name and end with the handle. A file that cannot be read is an error
/// that names it, and hides none of the others.
pub async fn open(paths: &[PathBuf], symbols: &[Symbol], scratch: &Path) -> Vec<Result<ArchiveFile, Error>> {
    let mut found = BTreeSet::new();
    let (mut files, mut tables) = (Vec::new(), BTreeSet::new());
    for path in paths {
        match look(path, &mut tables) {
            Ok(more) => found.extend(more),
            Err(error) => files.push(Err(error)),
        }
    }
    let (wanted, scratch) = (symbols.to_vec(), scratch.to_path_buf());
    let opened = tokio::task::spawn_blocking(move || {
        found.iter().filter_map(|path| open_file(path, &wanted, &scratch).transpose()).collect::<Vec<_>>()
    });
    match opened.await {
        Ok(opened) => files.extend(opened),
        Err(error) => files.push(Err(error.into())),
    }
    for table in tables {
        files.extend(delta::open(&table, symbols).await);
    }
    files.sort_by(|one, other| path_of(one).cmp(&path_of(other)));
    files
}

fn path_of(file: &Result<ArchiveFile, Error>) -> Option<&Path> {
    file.as_ref().ok().map(ArchiveFile::path)
}

/// The files that a path names; Delta tables go to `tables`.
fn look(path: &Path, tables: &mut BTreeSet<PathBuf>) -> Result<Vec<PathBuf>, Error> {
    let path = fs::canonicalize(path).map_err(Error::file("find", path))?;
    if !path.is_dir() {
        return Ok(vec![path]);
    }
    if path.join("_delta_log").is_dir() {
        tables.insert(path);
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(&path).map_err(Error::file("list", &path))? {
        let entry = entry.map_err(Error::file("list", &path))?.path();
        let name = entry.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        if entry.is_dir() {
            files.extend(look(&entry, tables)?);
        } else if ENDINGS.iter().any(|ending| name.ends_with(ending)) {
            files.push(fs::canonicalize(&entry).map_err(Error::file("find", &entry))?);
        }
    }
    if files.is_empty() && tables.is_empty() {
        return Err(refused(&path, "holds no archive: files end with .csv, .zip, .jsonl, .ndjson or .parquet"));
    }
    Ok(files)
}

/// Opens a file, which is no Delta table, as [`open`] does; `None` where its name tells that it is of another symbol than
/// is wanted. File reads: for a thread that may block.
///
/// # Errors
/// Where the file cannot be read as what its name says it is.
pub fn open_file(path: &Path, wanted: &[Symbol], scratch: &Path) -> Result<Option<ArchiveFile>, Error> {
    let about = fs::metadata(path).map_err(Error::file("read", path))?;
    let modified = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let modified = modified.and_then(|since| i64::try_from(since.as_micros()).ok()).map(Timestamp::from_micros);
    let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if about.len() == 0 {
        return Err(refused(path, "is empty"));
    }
    let ends_with = |name: &str, endings: &[&str]| {
        let name = name.to_lowercase();
        endings.iter().any(|ending| name.ends_with(ending))
    };
    let named = |name: &str| Named::read(name).or_only(wanted);
    let is_wanted = |named: &Named| named.symbol.is_none_or(|symbol| wanted.is_empty() || wanted.contains(&symbol));
    let form = if ends_with(&file_name, &[".parquet"]) {
        let named = named(&file_name);
        if !is_wanted(&named) {
            return Ok(None);
        }
        Form::Parquet(ParquetFile::open(path, named.symbol)?)
    } else {
        let (text, name) = if ends_with(&file_name, &[".zip"]) {
            text::unzipped(path, scratch)?
        } else if ends_with(&file_name, &[".gz"]) {
            (text::gunzipped(path, scratch)?, file_name[..file_name.len() - 3].to_owned())
        } else {
            (fs::File::open(path).map_err(Error::file("open", path))?, file_name)
        };
        let mut named = named(&name);
        if named.symbol.is_none() {
            named.symbol = Named::read(&path.file_name().unwrap_or_default().to_string_lossy()).symbol;
        }
        if !is_wanted(&named) {
            return Ok(None);
        }
        if ends_with(&name, &[".jsonl", ".ndjson", ".json"]) {
            Form::JsonLines(TextFile::open(text, 0, path)?)
        } else {
            Form::Csv(CsvFile::open(text, &named, path)?)
        }
    };
    Ok(Some(ArchiveFile { path: path.to_path_buf(), bytes: about.len(), modified, form }))
}

/// A file that cannot be read as what it should be.
fn refused(path: &Path, reason: impl Into<String>) -> Error {
    Error::Archive { path: path.to_path_buf(), reason: reason.into() }
}

/// Gives refused lines without a time that of the row before them, or after them; `times` are those of the rows by place.
fn time_of_neighbours(refused: &mut [(u64, Refused)], times: &[(u64, Timestamp)]) {
    for (place, refused) in refused.iter_mut().filter(|(_, refused)| refused.time.is_none()) {
        let after = times.partition_point(|(at, _)| at < place);
        let near = after.checked_sub(1).or_else(|| (!times.is_empty()).then_some(0));
        refused.time = near.map(|near| times[near].1);
    }
}

#[cfg(test)]
mod tests;
