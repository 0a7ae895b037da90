//! A block of an archive as rows, whatever its file's form: one decoding for planning and for running.

use domain::Record;
use lake::archive::{ArchiveFile, Archived, Kline, Refused, Rows};
use streams::codec;

use crate::error::Error;

/// The rows of a block.
pub enum Decoded {
    /// Trades, or aggregated trades, in the order of their lines.
    Trades(Vec<Archived>),
    /// 1-minute klines, in the order of their lines.
    Klines(Vec<Kline>),
}

/// A block that was read.
pub struct DecodedBlock {
    /// Its rows.
    pub rows: Decoded,
    /// What cannot be a row.
    pub refused: Vec<Refused>,
}

/// Reads a block. CPU work and file reads: for a thread that may block.
///
/// # Errors
/// Where the file cannot be read.
pub fn decode(file: &ArchiveFile, block: usize) -> Result<DecodedBlock, Error> {
    let block = file.read(block)?;
    Ok(match block.rows {
        Rows::Trades(rows) => DecodedBlock { rows: Decoded::Trades(rows), refused: block.refused },
        Rows::Klines(rows) => DecodedBlock { rows: Decoded::Klines(rows), refused: block.refused },
        Rows::JsonLines { first_place, first_line, bytes } => json_lines(first_place, first_line, &bytes),
    })
}

/// Decodes lines of the log's own format. Heartbeats and floors are about a log's time, and pass by.
fn json_lines(first_place: u64, first_line: u64, bytes: &[u8]) -> DecodedBlock {
    let mut rows: Vec<Archived> = Vec::new();
    let mut unknown = Vec::new();
    for (number, text) in (0..).zip(bytes.split(|byte| *byte == b'\n')) {
        let text = text.trim_ascii();
        if text.is_empty() {
            continue;
        }
        match codec::decode_value(text) {
            Ok(Record::Event(event)) => rows.push(Archived { event, place: first_place + rows.len() as u64 }),
            Ok(Record::Heartbeat(_) | Record::Floor(_)) => {}
            Err(error) => unknown.push((rows.len(), first_line + number, error.to_string())),
        }
    }
    // A line that cannot be read is of about the time of the row before it, or after it.
    let refused = unknown.into_iter().map(|(place, line, reason)| {
        let near = rows.get(place.saturating_sub(1)).or_else(|| rows.first());
        Refused { line, time: near.map(|row| row.event.timestamp), reason }
    });
    let refused = refused.collect();
    DecodedBlock { rows: Decoded::Trades(rows), refused }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_rows_take_no_places() {
        let event = "{\"timestamp\":1710000000,\"symbol\":\"BTC-USDT\",\"price\":1,\"volume\":0}\n";
        let text = format!("{}{event}{{}}\n{event}", "\n".repeat(1 << 20));
        let DecodedBlock { rows: Decoded::Trades(rows), refused } = json_lines(7 << 20, 1, text.as_bytes()) else {
            panic!("no trades")
        };
        assert_eq!(rows.iter().map(|row| row.place).collect::<Vec<_>>(), [7 << 20, (7 << 20) + 1]);
        assert_eq!(refused.iter().map(|refused| refused.line).collect::<Vec<_>>(), [(1 << 20) + 2]);
    }
}
