//! Rows as bytes: CSV, JSON, NDJSON, Arrow and Parquet; and as texts for people.
//!
//! In texts, times are RFC 3339 with microseconds and `Z`, floats the shortest form that reads back to the same bits,
//! nulls empty in CSV and `null` in JSON. An encoder gives its bytes batch by batch and never touches a file.

use std::{
    fmt,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use arrow::{
    array::RecordBatch,
    csv,
    datatypes::SchemaRef,
    ipc::writer::{FileWriter, StreamWriter},
    json::{
        self,
        writer::{JsonArray, LineDelimited},
    },
    util::display::{ArrayFormatter, FormatOptions},
};
use deltalake::parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};

use crate::error::Error;

/// RFC 3339 with microseconds; all times with a zone are in UTC here.
const TIME: &str = "%Y-%m-%dT%H:%M:%S%.6fZ";
/// A time that names no zone.
const LOCAL_TIME: &str = "%Y-%m-%dT%H:%M:%S%.6f";

/// Rows of a row group, which a Parquet encoder holds in memory.
const ROW_GROUP_ROWS: usize = 131_072;

/// Bytes of a row group, about, so that long texts do not make it huge.
const ROW_GROUP_BYTES: usize = 64 << 20;

/// A form of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values under a heading.
    Csv,
    /// One array of objects.
    Json,
    /// One object a line.
    Ndjson,
    /// An Arrow IPC stream.
    ArrowStream,
    /// An Arrow IPC file, also known as Feather 2.
    ArrowFile,
    /// Parquet, compressed with zstd.
    Parquet,
}

/// Turns batches of one schema into bytes.
pub struct Encoder {
    bytes: Bytes,
    writer: Writer,
}

enum Writer {
    Csv(csv::Writer<Bytes>),
    Json(json::Writer<Bytes, JsonArray>),
    Ndjson(json::Writer<Bytes, LineDelimited>),
    ArrowStream(StreamWriter<Bytes>),
    ArrowFile(FileWriter<Bytes>),
    Parquet(Box<ArrowWriter<Bytes>>),
}

impl Encoder {
    /// An encoder of rows with these columns.
    ///
    /// # Errors
    /// [`Error::Query`] where the format has no form for a column's type.
    pub fn new(format: Format, schema: &SchemaRef) -> Result<Self, Error> {
        let bytes = Bytes::default();
        let writer = match format {
            Format::Csv => {
                let builder = csv::WriterBuilder::new().with_timestamp_format(LOCAL_TIME.to_owned());
                let mut writer = builder.with_timestamp_tz_format(TIME.to_owned()).build(bytes.clone());
                // Without rows there is a heading all the same.
                writer.write(&RecordBatch::new_empty(schema.clone())).map_err(|e| failed(&e))?;
                Writer::Csv(writer)
            }
            Format::Json => Writer::Json(json_options().build::<_, JsonArray>(bytes.clone())),
            Format::Ndjson => Writer::Ndjson(json_options().build::<_, LineDelimited>(bytes.clone())),
            Format::ArrowStream => {
                Writer::ArrowStream(StreamWriter::try_new(bytes.clone(), schema).map_err(|e| failed(&e))?)
            }
            Format::ArrowFile => Writer::ArrowFile(FileWriter::try_new(bytes.clone(), schema).map_err(|e| failed(&e))?),
            Format::Parquet => {
                let writer = ArrowWriter::try_new(bytes.clone(), schema.clone(), Some(parquet_properties()));
                Writer::Parquet(Box::new(writer.map_err(|e| failed(&e))?))
            }
        };
        Ok(Self { bytes, writer })
    }

    /// Takes a batch; the bytes that are ready.
    ///
    /// # Errors
    /// [`Error::Query`] where the format has no form for a value.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, Error> {
        match &mut self.writer {
            Writer::Csv(writer) => writer.write(batch).map_err(|e| failed(&e))?,
            Writer::Json(writer) => writer.write(batch).map_err(|e| failed(&e))?,
            Writer::Ndjson(writer) => writer.write(batch).map_err(|e| failed(&e))?,
            Writer::ArrowStream(writer) => writer.write(batch).map_err(|e| failed(&e))?,
            Writer::ArrowFile(writer) => writer.write(batch).map_err(|e| failed(&e))?,
            Writer::Parquet(writer) => writer.write(batch).map_err(|e| failed(&e))?,
        }
        Ok(self.bytes.take())
    }

    /// The bytes that end the rows.
    ///
    /// # Errors
    /// As [`Encoder::write`].
    pub fn finish(self) -> Result<Vec<u8>, Error> {
        let Self { bytes, writer } = self;
        match writer {
            Writer::Csv(_) => {}
            Writer::Json(mut writer) => {
                writer.finish().map_err(|e| failed(&e))?;
                drop(writer);
                let mut rest = bytes.take();
                rest.push(b'\n');
                return Ok(rest);
            }
            Writer::Ndjson(mut writer) => writer.finish().map_err(|e| failed(&e))?,
            Writer::ArrowStream(mut writer) => writer.finish().map_err(|e| failed(&e))?,
            Writer::ArrowFile(mut writer) => writer.finish().map_err(|e| failed(&e))?,
            Writer::Parquet(writer) => {
                writer.close().map_err(|e| failed(&e))?;
            }
        }
        Ok(bytes.take())
    }
}

/// The rows of a batch as texts for people: times and floats as in CSV, nulls empty.
///
/// # Errors
/// [`Error::Query`] where a value has no text.
pub fn texts(batch: &RecordBatch) -> Result<Vec<Vec<String>>, Error> {
    let options = FormatOptions::default().with_timestamp_tz_format(Some(TIME)).with_timestamp_format(Some(LOCAL_TIME));
    let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
    let columns = columns.collect::<Result<Vec<_>, _>>().map_err(|e| failed(&e))?;
    let text = |row: usize| columns.iter().map(|column| column.value(row).try_to_string()).collect();
    (0..batch.num_rows()).map(text).collect::<Result<_, _>>().map_err(|e| failed(&e))
}

/// Names of columns, and whether each holds numbers.
#[must_use]
pub fn columns(schema: &SchemaRef) -> Vec<(String, bool)> {
    schema.fields().iter().map(|field| (field.name().clone(), field.data_type().is_numeric())).collect()
}

fn json_options() -> json::WriterBuilder {
    json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .with_timestamp_format(LOCAL_TIME.to_owned())
        .with_timestamp_tz_format(TIME.to_owned())
}

fn parquet_properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_created_by(concat!("sentinel ", env!("CARGO_PKG_VERSION")).to_owned())
        .build()
}

fn failed(error: &dyn fmt::Display) -> Error {
    Error::Query(format!("cannot write the rows in this format: {error}"))
}

/// Bytes that a writer leaves and the encoder takes.
#[derive(Clone, Debug, Default)]
struct Bytes(Arc<Mutex<Vec<u8>>>);

impl Bytes {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use arrow::{
        array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray},
        compute::concat_batches,
        datatypes::{DataType, Field, Schema, TimeUnit},
        ipc::reader::{FileReader, StreamReader},
    };
    use deltalake::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    /// Floats whose texts tempt a printer to round.
    const FLOATS: [f64; 4] = [0.1 + 0.2, 5e-324, 1.797_693_134_862_315_7e308, -0.0];

    fn rows() -> RecordBatch {
        let times = [0, 1, 1_710_000_000_250_000, -1_500_000];
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("text", Arc::new(StringArray::from(vec![Some("a,\"b\""), None, Some("line\nbreak"), Some("ü")]))),
            ("float", Arc::new(Float64Array::from(FLOATS.to_vec()))),
            ("long", Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None, Some(0)]))),
            ("flag", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), None]))),
            ("time", Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC"))),
        ];
        let fields = columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        RecordBatch::try_new(schema, columns.into_iter().map(|(_, column)| column).collect()).unwrap()
    }

    /// The rows in two batches, and none in a third.
    fn encoded(format: Format) -> Vec<u8> {
        let rows = rows();
        let mut encoder = Encoder::new(format, &rows.schema()).unwrap();
        let mut bytes = Vec::new();
        for batch in [rows.slice(0, 1), rows.slice(1, 3), rows.slice(0, 0)] {
            bytes.extend(encoder.write(&batch).unwrap());
        }
        bytes.extend(encoder.finish().unwrap());
        bytes
    }

    fn empty(format: Format) -> Vec<u8> {
        Encoder::new(format, &rows().schema()).unwrap().finish().unwrap()
    }

    #[test]
    fn arrow_and_parquet_read_back_equal() {
        let schema = rows().schema();
        let whole = |batches: Vec<RecordBatch>| concat_batches(&schema, &batches).unwrap();
        let stream = StreamReader::try_new(Cursor::new(encoded(Format::ArrowStream)), None).unwrap();
        assert_eq!(whole(stream.map(Result::unwrap).collect()), rows());
        let file = FileReader::try_new(Cursor::new(encoded(Format::ArrowFile)), None).unwrap();
        assert_eq!(whole(file.map(Result::unwrap).collect()), rows());
        let parquet = bytes::Bytes::from(encoded(Format::Parquet));
        let parquet = ParquetRecordBatchReaderBuilder::try_new(parquet).unwrap().build().unwrap();
        assert_eq!(whole(parquet.map(Result::unwrap).collect()), rows());
    }

    #[test]
    fn csv_reads_back_to_the_same_bits() {
        let text = String::from_utf8(encoded(Format::Csv)).unwrap();
        assert!(text.starts_with("text,float,long,flag,time\n\"a,\"\"b\"\"\",0.30000000000000004,"), "{text}");
        assert!(text.contains(",2024-03-09T16:00:00.250000Z\n"), "{text}");
        assert!(text.ends_with(",1969-12-31T23:59:58.500000Z\n"), "{text}");
        let reader = csv::ReaderBuilder::new(rows().schema()).with_header(true);
        let batches = reader.build(Cursor::new(text)).unwrap().map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(concat_batches(&rows().schema(), &batches).unwrap(), rows());
    }

    #[test]
    fn json_reads_back_to_the_same_bits() {
        let lines = String::from_utf8(encoded(Format::Ndjson)).unwrap();
        let objects: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let array: Vec<serde_json::Value> = serde_json::from_slice(&encoded(Format::Json)).unwrap();
        assert_eq!(array, objects);
        for (object, float) in objects.iter().zip(FLOATS) {
            assert_eq!(object["float"].as_f64().unwrap().to_bits(), float.to_bits());
        }
        assert_eq!(objects[1]["long"].as_i64(), Some(i64::MAX));
        assert_eq!(objects[1]["time"], "1970-01-01T00:00:00.000001Z");
        assert_eq!(objects[2]["long"], serde_json::Value::Null);
        assert_eq!(objects[2].as_object().unwrap().len(), 5);
        let reader = json::ReaderBuilder::new(rows().schema()).build(Cursor::new(lines)).unwrap();
        assert_eq!(concat_batches(&rows().schema(), &reader.map(Result::unwrap).collect::<Vec<_>>()).unwrap(), rows());
    }

    #[test]
    fn no_rows_are_a_sound_answer_too() {
        assert_eq!(String::from_utf8(empty(Format::Csv)).unwrap(), "text,float,long,flag,time\n");
        assert_eq!(serde_json::from_slice::<Vec<u8>>(&empty(Format::Json)).unwrap(), Vec::<u8>::new());
        assert_eq!(empty(Format::Ndjson), b"");
        assert_eq!(StreamReader::try_new(Cursor::new(empty(Format::ArrowStream)), None).unwrap().count(), 0);
        assert_eq!(FileReader::try_new(Cursor::new(empty(Format::ArrowFile)), None).unwrap().count(), 0);
        let parquet = bytes::Bytes::from(empty(Format::Parquet));
        assert_eq!(ParquetRecordBatchReaderBuilder::try_new(parquet).unwrap().build().unwrap().count(), 0);
    }

    #[test]
    fn texts_are_what_csv_says_and_numbers_are_known() {
        let texts = texts(&rows()).unwrap();
        assert_eq!(texts[1], ["", "5e-324", "9223372036854775807", "", "1970-01-01T00:00:00.000001Z"]);
        let nanos = DataType::Timestamp(TimeUnit::Nanosecond, None);
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::UInt8, true), Field::new("t", nanos, true)]));
        assert_eq!(columns(&schema), [("n".to_owned(), true), ("t".to_owned(), false)]);
    }
}
