//! Archives of trades: any file is opened or refused; each of its lines is a row or is named, and hides no other.
//!
//! The first line of an input is the file's name, the rest is what the file holds. Parquet, which Polars reads, is left
//! out.

use std::{fs, path::Path};

use domain::{ErrorKind, Timestamp};
use lake::{
    Error,
    archive::{self, ArchiveFile, Block, Kline, Rows},
};

/// Opens the bytes as an archive and reads it, twice.
///
/// # Panics
/// Where the promise is broken, or no temporary file can be written.
pub fn check(bytes: &[u8]) {
    let Some((name, content)) = name_and_content(bytes) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    let file = match archive::open_file(&path, &[], folder.path()) {
        Ok(Some(file)) => file,
        Ok(None) => unreachable!("a file of any symbol is wanted"),
        Err(error) => return refused(&error),
    };
    let (mut named, mut is_whole) = (0, true);
    for block in 0..file.blocks() {
        match file.read(block) {
            Ok(read) => named += check_block(&read),
            Err(error) => {
                is_whole = false;
                refused(&error);
            }
        }
        let told = |file: &ArchiveFile| format!("{:?}", file.read(block).map_err(|error| error.to_string()));
        assert_eq!(told(&file), told(&file), "a block is read twice");
    }
    if is_whole && Path::new(name).extension().is_some_and(|extension| extension == "csv") {
        let lines = content.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
        // The first line may be a header.
        assert!(named == lines || named + 1 == lines, "{named} of {lines} lines are a row or named");
    }
}

/// The name and the content of a file.
fn name_and_content(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let name = str::from_utf8(&bytes[..end]).ok()?;
    let is_name = !name.is_empty() && name.len() <= 100 && !name.contains(['/', '\0']) && name != "." && name != "..";
    let is_ours = !name.to_lowercase().ends_with(".parquet");
    (is_name && is_ours).then_some((name, &bytes[end + 1..]))
}

fn refused(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

/// The lines of a block that are a row or are named.
fn check_block(Block { rows, refused }: &Block) -> usize {
    assert!(refused.is_sorted_by(|one, next| one.line < next.line), "{refused:?}");
    let rows = match rows {
        Rows::Trades(rows) => {
            assert!(rows.is_sorted_by(|one, next| one.place < next.place), "{rows:?}");
            for event in rows.iter().map(|row| &row.event) {
                assert!(event.check().is_ok() && event.timestamp >= Timestamp::EARLIEST, "{event:?}");
            }
            rows.len()
        }
        Rows::Klines(rows) => {
            rows.iter().for_each(check_kline);
            rows.len()
        }
        Rows::JsonLines { first_line, .. } => {
            assert!(*first_line > 0, "lines are counted from 1");
            0
        }
    };
    rows + refused.len()
}

fn check_kline(kline: &Kline) {
    let prices = [kline.open, kline.high, kline.low, kline.close];
    assert!(prices.iter().all(|price| (kline.low..=kline.high).contains(price) && *price > 0.0), "{kline:?}");
    let sums = [kline.volume, kline.quote_volume];
    assert!(sums.iter().all(|sum| sum.is_finite() && *sum >= 0.0) && kline.trades >= 0, "{kline:?}");
}
