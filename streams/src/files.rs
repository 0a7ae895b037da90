//! A recorded file as a source: JSON Lines in the event format and Binance stream frames, line by line.
//!
//! Invariants: constant memory; every line is accounted for (a record, a skipped frame, a blank line, or an undecoded
//! line that becomes a record of its own under [`unknown_key`], so that the stream job keeps it as a dead letter); the
//! same content gives the same source id and the same records from any position. Reads block: call it on a blocking
//! thread. Never looks at the clock and never appends.
//!
//! The form is found out per line. A line may begin with the time of its receipt in nanoseconds and a space, which
//! says nothing about the trade and is left out. A file that begins with the gzip magic is unpacked, members one after
//! another. Frames of Binance are read as the live source reads them, in `frames`.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use domain::{IngestId, Kind, Record, Timestamp};
use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::{
    codec::{decode_value, encode},
    error::Error,
    frames::{self, Frame, Names},
    log::{AppendBatch, NewRecord, SourcePosition, SourceStep, unknown_key},
};

/// The longest line. Of a longer one the first part is kept, as an undecoded record.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// The most lines that one batch looks at, so that a file of skipped frames reports its progress too.
const MAX_BATCH_LINES: usize = 200_000;

/// A batch ends with the record that brings its values to this many bytes.
const MAX_BATCH_BYTES: usize = 8 << 20;

const READ_BUFFER_BYTES: usize = 1 << 18;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Some lines of a file as records, all of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct FileBatch {
    /// The records, in the order of the lines. May be empty where every line was skipped.
    pub records: Vec<NewRecord>,
    /// Whether they are simulated or real.
    pub kind: Kind,
    /// Where the file stands after them; `finished` with the last batch of the file.
    pub position: SourcePosition,
    /// Earliest and latest event time of the decoded records, for pacing.
    pub event_times: Option<(Timestamp, Timestamp)>,
    /// Lines that are frames of another stream than `trade`.
    pub skipped: u64,
    /// Lines that are neither an event nor a frame, or too long.
    pub undecoded: u64,
}

impl FileBatch {
    /// The append of these records after the position `expected` in the log.
    #[must_use]
    pub fn into_append(self, expected: Option<String>) -> AppendBatch {
        AppendBatch {
            records: self.records,
            kind: self.kind,
            source: Some(SourceStep { expected, next: self.position }),
        }
    }
}

/// An open file.
pub struct FileSource {
    path: PathBuf,
    source_id: String,
    reader: Box<dyn BufRead + Send>,
    /// Bytes of the unpacked content. What is added to the file after it was opened is another content.
    length: u64,
    /// Where the next batch begins.
    place: Place,
    /// A line that did not fit into the batch before.
    pending: Option<Line>,
    last_kind: Kind,
    ended: bool,
}

/// A place between two lines of the unpacked content; the JSON text of a position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// Lines before it.
    line: u64,
    /// Bytes before it.
    byte: u64,
}

/// What a line turned out to be.
enum Content {
    Blank,
    Skipped,
    Undecoded(Vec<u8>),
    Decoded { record: NewRecord, kind: Option<Kind>, time: Timestamp },
}

struct Line {
    content: Content,
    /// The place after it.
    end: Place,
}

impl FileSource {
    /// Opens a file, reads it once for its digest, and goes to the position.
    ///
    /// # Errors
    /// [`Error::File`] where it cannot be read or unpacked, [`Error::Position`] where the text is not of
    /// [`FileSource::position`] or lies beyond the end.
    pub fn open(path: &Path, resume: Option<&str>) -> Result<Self, Error> {
        let file_error = |source| Error::File { path: path.to_owned(), source };
        let (length, digest) = digest(&mut *open_unpacked(path).map_err(file_error)?).map_err(file_error)?;
        let place = match resume {
            None => Place::default(),
            Some(text) => read_place(text, length)?,
        };
        let mut reader = open_unpacked(path).map_err(file_error)?;
        io::copy(&mut reader.by_ref().take(place.byte), &mut io::sink()).map_err(file_error)?;
        Ok(Self {
            path: path.to_owned(),
            source_id: format!("file:{digest:032x}"),
            reader: Box::new(reader.take(length - place.byte)),
            length,
            place,
            pending: None,
            last_kind: Kind::Real,
            // An empty file still has one batch, which says that it is finished.
            ended: resume.is_some() && place.byte == length,
        })
    }

    /// `file:` and the xxh3-128 digest of the unpacked content in hexadecimal. Also the run of the ids that events
    /// without an id get; their sequence is the line number, counted from 1.
    #[must_use]
    pub fn source_id(&self) -> &str {
        &self.source_id
    }

    /// Where the next batch begins, as JSON text.
    #[must_use]
    pub fn position(&self) -> String {
        position_text(self.place)
    }

    /// Bytes of the unpacked content before the next batch, and in all.
    #[must_use]
    pub const fn progress(&self) -> (u64, u64) {
        (self.place.byte, self.length)
    }

    /// The next records, at most `max_records`; `None` after the last batch.
    ///
    /// # Errors
    /// [`Error::File`] where the file cannot be read on.
    pub fn next_batch(&mut self, max_records: usize) -> Result<Option<FileBatch>, Error> {
        self.next_batch_within(max_records, i64::MAX)
    }

    /// As [`FileSource::next_batch`], and no event is `span_micros` or more later than the first: a batch to be paced.
    ///
    /// # Errors
    /// [`Error::File`] where the file cannot be read on.
    pub fn next_batch_within(&mut self, max_records: usize, span_micros: i64) -> Result<Option<FileBatch>, Error> {
        if self.ended {
            return Ok(None);
        }
        let mut batch = Collected::default();
        for _ in 0..MAX_BATCH_LINES {
            let Some(line) = self.next_line()? else {
                self.ended = true;
                break;
            };
            if !batch.fits(&line.content, span_micros) {
                self.pending = Some(line);
                break;
            }
            self.place = line.end;
            batch.add(line.content);
            if batch.records.len() >= max_records.max(1) || batch.bytes >= MAX_BATCH_BYTES {
                break;
            }
        }
        // With the last line read, the batch is the last one; blank lines to come would only make it an extra one.
        self.ended |= self.pending.is_none() && self.place.byte == self.length;
        let kind = batch.kind.unwrap_or(self.last_kind);
        self.last_kind = kind;
        Ok(Some(FileBatch {
            records: batch.records,
            kind,
            position: SourcePosition {
                source_id: self.source_id.clone(),
                position: self.position(),
                finished: self.ended,
            },
            event_times: batch.times,
            skipped: batch.skipped,
            undecoded: batch.undecoded,
        }))
    }

    fn next_line(&mut self) -> Result<Option<Line>, Error> {
        if let Some(line) = self.pending.take() {
            return Ok(Some(line));
        }
        let (bytes, length) = match read_line(&mut *self.reader) {
            Ok(Some(line)) => line,
            Ok(None) if self.place.byte == self.length => return Ok(None),
            // What was there for the digest is not there any more.
            Ok(None) => {
                return Err(Error::File { path: self.path.clone(), source: io::ErrorKind::UnexpectedEof.into() });
            }
            Err(source) => return Err(Error::File { path: self.path.clone(), source }),
        };
        let end = Place { line: self.place.line + 1, byte: self.place.byte + length };
        let id = IngestId { run: self.source_id.as_str().into(), sequence: end.line.cast_signed() };
        let content = if bytes.len() > MAX_LINE_BYTES {
            Content::Undecoded(bytes[..MAX_LINE_BYTES].to_vec())
        } else {
            content(&bytes, id)
        };
        Ok(Some(Line { content, end }))
    }
}

/// A batch in the making.
#[derive(Default)]
struct Collected {
    records: Vec<NewRecord>,
    bytes: usize,
    kind: Option<Kind>,
    times: Option<(Timestamp, Timestamp)>,
    first: Option<Timestamp>,
    skipped: u64,
    undecoded: u64,
}

impl Collected {
    /// Whether a line may join: one kind per batch, and within the span after the first event.
    fn fits(&self, content: &Content, span_micros: i64) -> bool {
        let Content::Decoded { kind, time, .. } = content else { return true };
        let same_kind = self.kind.is_none() || kind.is_none() || self.kind == *kind;
        let late = |first: Timestamp| time.micros().saturating_sub(first.micros()) >= span_micros;
        same_kind && !self.first.is_some_and(late)
    }

    fn add(&mut self, content: Content) {
        match content {
            Content::Blank => {}
            Content::Skipped => self.skipped += 1,
            Content::Undecoded(value) => {
                self.undecoded += 1;
                self.push(NewRecord { key: unknown_key(), value });
            }
            Content::Decoded { record, kind, time } => {
                self.kind = self.kind.or(kind);
                self.first = self.first.or(Some(time));
                let (earliest, latest) = self.times.unwrap_or((time, time));
                self.times = Some((earliest.min(time), latest.max(time)));
                self.push(record);
            }
        }
    }

    fn push(&mut self, record: NewRecord) {
        self.bytes += record.value.len();
        self.records.push(record);
    }
}

fn open_unpacked(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
    let mut file = BufReader::with_capacity(READ_BUFFER_BYTES, File::open(path)?);
    if file.fill_buf()?.starts_with(&GZIP_MAGIC) {
        return Ok(Box::new(BufReader::with_capacity(READ_BUFFER_BYTES, MultiGzDecoder::new(file))));
    }
    Ok(Box::new(file))
}

/// Length and digest of what is left to read.
fn digest(reader: &mut dyn BufRead) -> io::Result<(u64, u128)> {
    let mut hash = Xxh3::new();
    let mut length = 0;
    loop {
        let read = match reader.fill_buf() {
            Ok([]) => return Ok((length, hash.digest128())),
            Ok(bytes) => {
                hash.update(bytes);
                bytes.len()
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        reader.consume(read);
        length += read as u64;
    }
}

fn position_text(place: Place) -> String {
    serde_json::to_string(&place).unwrap_or_else(|error| unreachable!("two numbers: {error}"))
}

fn read_place(text: &str, length: u64) -> Result<Place, Error> {
    let refused = |reason: String| Error::Position { position: text.chars().take(200).collect(), reason };
    let place: Place = serde_json::from_str(text).map_err(|error| refused(error.to_string()))?;
    if place.byte > length {
        return Err(refused(format!("the file has only {length} bytes")));
    }
    Ok(place)
}

/// The next line without its end, cut to [`MAX_LINE_BYTES`] + 1 bytes, and its length in the file.
fn read_line(reader: &mut dyn BufRead) -> io::Result<Option<(Vec<u8>, u64)>> {
    let limit = MAX_LINE_BYTES as u64 + 1;
    let mut line = Vec::new();
    let mut length = Read::take(&mut *reader, limit).read_until(b'\n', &mut line)? as u64;
    if length == 0 {
        return Ok(None);
    }
    let mut rest = Vec::new();
    while length >= limit && rest.last().or(line.last()) != Some(&b'\n') {
        rest.clear();
        match Read::take(&mut *reader, limit).read_until(b'\n', &mut rest)? {
            0 => break,
            more => length += more as u64,
        }
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Ok(Some((line, length)))
}

/// What a line is. Whatever cannot be understood is kept as it is.
fn content(line: &[u8], id: IngestId) -> Content {
    let undecoded = || Content::Undecoded(line.to_vec());
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line).trim_ascii();
    if line.is_empty() {
        return Content::Blank;
    }
    let json = without_receive_time(line);
    let frame_first = json.starts_with(b"{\"stream\"") || json.starts_with(b"{\"e\"");
    if frame_first && let Some(content) = frame(json) {
        return content;
    }
    match decode_value(json) {
        Ok(record) => decoded(record, json, id),
        Err(_) if frame_first => undecoded(),
        Err(_) => frame(json).unwrap_or_else(undecoded),
    }
}

fn without_receive_time(line: &[u8]) -> &[u8] {
    let digits = line.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let rest = line[digits..].trim_ascii_start();
    if digits > 0 && rest.starts_with(b"{") { rest } else { line }
}

/// A record of the event format. Events without any id get one, so that a repeated append is recognised.
fn decoded(mut record: Record, json: &[u8], id: IngestId) -> Content {
    let (key, time) = (record.symbol(), record.timestamp());
    let (value, kind) = match &mut record {
        Record::Event(event) if event.trade_id.is_none() && event.ingest_id.is_none() => {
            let kind = event.source.kind();
            event.ingest_id = Some(id);
            let mut value = Vec::with_capacity(json.len() + 96);
            encode(&record, &mut value);
            (value, Some(kind))
        }
        Record::Event(event) => (json.to_vec(), Some(event.source.kind())),
        Record::Heartbeat(_) | Record::Floor(_) => (json.to_vec(), None),
    };
    Content::Decoded { record: NewRecord { key, value }, kind, time }
}

/// What a frame says; `None` where the text is no frame, or a trade that cannot be read.
fn frame(json: &[u8]) -> Option<Content> {
    Some(match frames::read(json, Names::ByQuote)? {
        Frame::Trade(trade) => {
            let time = trade.event.timestamp;
            Content::Decoded { record: trade.into_record(), kind: Some(Kind::Real), time }
        }
        Frame::Other => Content::Skipped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{Event, Side, Source, Symbol};
    use flate2::{Compression, write::GzEncoder};
    use rstest::rstest;
    use std::io::Write as _;

    const TRADE: &str = r#"{"stream":"btcusdt@trade","data":{"e":"trade","E":1723161255343,"s":"BTCUSDT","t":3735683259,"p":"61837.63000000","q":"0.02000000","T":1723161255342,"m":true,"M":true}}"#;
    const EVENT: &str = r#"{"timestamp":1710000000,"symbol":"ETH-USDT","price":2300.5,"volume":1.25,"trade_id":7}"#;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, content: &[u8]) -> PathBuf {
            let path = self.0.path().join("input");
            std::fs::write(&path, content).unwrap();
            path
        }
    }

    fn packed(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn all(path: &Path, max_records: usize) -> Vec<FileBatch> {
        let mut source = FileSource::open(path, None).unwrap();
        std::iter::from_fn(|| source.next_batch(max_records).unwrap()).collect()
    }

    fn only(content: &[u8]) -> FileBatch {
        let mut batches = all(&Folder::new().file(content), 1_000);
        assert_eq!(batches.len(), 1);
        batches.remove(0)
    }

    fn event(record: &NewRecord) -> Event {
        match crate::codec::decode(record.key.as_bytes(), &record.value) {
            Ok(Record::Event(event)) => event,
            other => panic!("{other:?}"),
        }
    }

    #[rstest]
    #[case(TRADE.to_owned())]
    #[case(format!("1723161254087896568 {TRADE}"))]
    #[case(TRADE.replace("1723161255342", "1723161255342000"))]
    #[case(TRADE["{\"stream\":\"btcusdt@trade\",\"data\":".len()..TRADE.len() - 1].to_owned())]
    #[case(format!("  {}\r", TRADE.replace("\":", "\": ")))]
    fn a_trade_frame_becomes_an_event(#[case] line: String) {
        let batch = only(line.as_bytes());
        let expected = Event {
            timestamp: Timestamp::from_millis(1_723_161_255_342),
            symbol: Symbol::parse("BTC-USDT").unwrap(),
            price: 61_837.63,
            volume: 0.02,
            log_return: None,
            is_anomaly: None,
            anomaly_type: None,
            trade_id: Some(3_735_683_259),
            side: Some(Side::Sell),
            ingest_id: None,
            source: Source::Binance,
            extra: None,
        };
        assert_eq!(batch.records.iter().map(event).collect::<Vec<_>>(), [expected]);
        assert_eq!((batch.kind, batch.skipped, batch.undecoded), (Kind::Real, 0, 0));
    }

    #[test]
    fn other_frames_are_skipped_and_counted() {
        let content = [
            r#"1723161253937085768 {"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","b":[]}}"#,
            r#"{"stream":"btcusdt@bookTicker","data":{"u":1,"s":"BTCUSDT"}}"#,
            r#"{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","s":"BTCUSDT"}}"#,
            r#"{"e":"depthUpdate","s":"BTCUSDT"}"#,
            r#"{"result":null,"id":1}"#,
            r#"17 {"lastUpdateId":50093239218,"bids":[["61837.63000000","3.78826000"]],"asks":[]}"#,
            r#"{"u":400900217,"s":"BNBUSDT","b":"25.35190000","B":"31.21000000","a":"25.36520000","A":"40.66000000"}"#,
        ];
        let batch = only(content.join("\n").as_bytes());
        assert_eq!((batch.skipped, batch.undecoded, batch.records.len(), batch.position.finished), (7, 0, 0, true));
    }

    #[test]
    fn an_event_without_any_id_gets_the_files_and_its_line_number() {
        let without = EVENT.replace(",\"trade_id\":7", "");
        let folder = Folder::new();
        let path = folder.file(format!("{EVENT}\n\n{without}\n").as_bytes());
        let batches = all(&path, 10);
        let source_id = FileSource::open(&path, None).unwrap().source_id().to_owned();
        let ids: Vec<_> = batches[0].records.iter().map(|record| event(record).ingest_id).collect();
        assert_eq!(ids, [None, Some(IngestId { run: source_id.clone().into(), sequence: 3 })]);
        assert_eq!(batches[0].records[0].value, EVENT.as_bytes());
        assert!(source_id.starts_with("file:") && source_id.len() == 37);
    }

    #[rstest]
    #[case(b"{\"timestamp\": 1710000000, \"symbol\"")]
    #[case(b"{\"timestamp\":1710000000,\"symbol\":\"ETH-USDT\",\"price\":-1,\"volume\":1}")]
    #[case(b"{\"stream\":\"btcusdt@trade\",\"data\":{\"e\":\"trade\",\"s\":\"BTCUSDT\"}}")]
    #[case(b"17 not json")]
    #[case(b"\xff\xfe")]
    #[case(b"null")]
    fn a_broken_line_becomes_a_record_that_does_not_decode(#[case] line: &[u8]) {
        let content = [EVENT.as_bytes(), line, EVENT.as_bytes()].join(&b'\n');
        let batch = only(&content);
        assert_eq!((batch.records.len(), batch.undecoded), (3, 1));
        let broken = &batch.records[1];
        assert_eq!((broken.key, &broken.value[..]), (unknown_key(), line));
        assert!(crate::codec::decode(broken.key.as_bytes(), &broken.value).is_err());
    }

    #[test]
    fn a_line_beyond_the_limit_keeps_its_first_part_and_hides_nothing() {
        for surplus in [1, 2, MAX_LINE_BYTES * 2, MAX_LINE_BYTES * 3 + 17] {
            // Even a line that would be an event without its surplus is not one.
            let mut content = EVENT.as_bytes().to_vec();
            content.resize(MAX_LINE_BYTES + surplus, b' ');
            content.extend_from_slice(format!("\n{EVENT}").as_bytes());
            let batch = only(&content);
            assert_eq!((batch.records.len(), batch.undecoded, batch.records[0].value.len()), (2, 1, MAX_LINE_BYTES));
            assert!(crate::codec::decode(batch.records[0].key.as_bytes(), &batch.records[0].value).is_err());
            assert_eq!(event(&batch.records[1]).trade_id, Some(7));
        }
        let mut longest = EVENT.as_bytes().to_vec();
        longest.resize(MAX_LINE_BYTES, b' ');
        assert_eq!(only(&longest).undecoded, 0);
    }

    #[test]
    fn a_file_gives_the_same_records_from_any_position() {
        let without = EVENT.replace(",\"trade_id\":7", "");
        let lines: Vec<String> = (0..60)
            .map(|n| match n % 5 {
                0 => TRADE.to_owned(),
                1 => without.clone(),
                2 => "broken".to_owned(),
                3 => String::new(),
                _ => without.replace("1.25}", "1.25,\"source\":\"simulated\"}"),
            })
            .collect();
        let folder = Folder::new();
        for content in [lines.join("\n").into_bytes(), packed(lines.join("\n").as_bytes())] {
            let path = folder.file(&content);
            let whole: Vec<_> = all(&path, 1_000).into_iter().flat_map(|batch| batch.records).collect();
            for max_records in [1, 2, 7] {
                let (mut got, mut position) = (Vec::new(), None);
                loop {
                    let mut source = FileSource::open(&path, position.as_deref()).unwrap();
                    let Some(batch) = source.next_batch(max_records).unwrap() else { break };
                    assert!(batch.records.len() <= max_records);
                    assert_eq!(batch.position.position, source.position());
                    got.extend(batch.records);
                    position = Some(batch.position.position);
                }
                assert_eq!(got, whole);
            }
        }
    }

    #[test]
    fn packed_and_plain_content_are_the_same_source() {
        let folder = Folder::new();
        let id = |content: &[u8]| FileSource::open(&folder.file(content), None).unwrap().source_id().to_owned();
        let text = format!("{EVENT}\n{TRADE}\n");
        let members = [packed(EVENT.as_bytes()), packed(b"\n"), packed(format!("{TRADE}\n").as_bytes())].concat();
        assert_eq!(id(text.as_bytes()), id(&packed(text.as_bytes())));
        assert_eq!(id(text.as_bytes()), id(&members));
        assert_ne!(id(text.as_bytes()), id(EVENT.as_bytes()));
    }

    #[test]
    fn a_batch_is_of_one_kind() {
        let simulated = EVENT.replace("\"trade_id\":7", "\"trade_id\":7,\"source\":\"simulated\"");
        let content = [EVENT, EVENT, &simulated, "broken", &simulated, EVENT].join("\n");
        let batches = all(&Folder::new().file(content.as_bytes()), 100);
        let shape: Vec<_> = batches.iter().map(|b| (b.kind, b.records.len(), b.position.finished)).collect();
        assert_eq!(shape, [(Kind::Real, 2, false), (Kind::Simulated, 3, false), (Kind::Real, 1, true)]);
    }

    #[test]
    fn a_paced_batch_ends_before_its_span() {
        let at = |second: &str| EVENT.replace("1710000000", second);
        let content = [at("10"), at("10.5"), at("9"), at("11"), at("13")].join("\n");
        let mut source = FileSource::open(&Folder::new().file(content.as_bytes()), None).unwrap();
        let batches: Vec<_> = std::iter::from_fn(|| source.next_batch_within(100, 1_000_000).unwrap()).collect();
        let seconds = |b: &FileBatch| b.event_times.map(|(a, z)| (a.micros() / 100_000, z.micros() / 100_000));
        assert_eq!(
            batches.iter().map(seconds).collect::<Vec<_>>(),
            [Some((90, 105)), Some((110, 110)), Some((130, 130))]
        );
        assert_eq!(batches.iter().filter(|b| b.position.finished).count(), 1);
    }

    #[test]
    fn an_empty_file_is_finished_with_its_only_batch() {
        let folder = Folder::new();
        let path = folder.file(b"");
        let batches = all(&path, 10);
        assert_eq!(batches.len(), 1);
        assert!(batches[0].records.is_empty() && batches[0].position.finished);
        let resumed = FileSource::open(&path, Some(&batches[0].position.position)).unwrap().next_batch(10).unwrap();
        assert_eq!(resumed, None);
    }

    #[test]
    fn what_cannot_be_read_is_an_error_that_names_the_file() {
        let folder = Folder::new();
        let missing = FileSource::open(&folder.0.path().join("none"), None).err().unwrap();
        assert_eq!(missing.kind(), domain::ErrorKind::NotFound);
        let half = packed(&TRADE.repeat(1_000).into_bytes());
        let torn = FileSource::open(&folder.file(&half[..half.len() / 2]), None).err().unwrap();
        assert_eq!(torn.kind(), domain::ErrorKind::Corrupt);
        assert!(torn.to_string().contains("input"), "{torn}");
        let path = folder.file(EVENT.as_bytes());
        for position in ["", "{\"line\":1}", "{\"line\":1,\"byte\":99999}"] {
            assert!(matches!(FileSource::open(&path, Some(position)), Err(Error::Position { .. })));
        }
    }

    /// The recorded frames beside the workspace; skipped where they are missing, unless `SENTINEL_REQUIRE` names them.
    #[rstest]
    #[case("binance_ws_spot_btcusdt_20240808.gz", 9_757, "BTC-USDT")]
    #[case("binance_ws_spot_ethusdt_20240808.gz", 6_106, "ETH-USDT")]
    fn recorded_frames_give_every_trade(#[case] name: &str, #[case] trades: usize, #[case] symbol: &str) {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")).join(name);
        if !path.exists() {
            let required = std::env::var("SENTINEL_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|part| part == "shared"), "{} is missing", path.display());
            eprintln!("skipped: {} is missing", path.display());
            return;
        }
        let batches = all(&path, 1_000);
        let events: Vec<Event> = batches.iter().flat_map(|batch| &batch.records).map(event).collect();
        assert_eq!(events.len(), trades);
        assert!(events.iter().all(|event| event.symbol.as_str() == symbol && event.side.is_some()));
        assert!(events.windows(2).all(|pair| pair[0].trade_id < pair[1].trade_id));
        assert_eq!(batches.iter().map(|batch| batch.undecoded).sum::<u64>(), 0);
    }
}
