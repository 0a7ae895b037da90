//! Rows of the domain as Arrow columns, in the order of [`TableName::schema`].
//!
//! The only place where a domain value becomes a table value. Nothing is rounded, dropped or reordered.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
        TimestampMicrosecondArray, new_null_array,
    },
    datatypes::DataType,
    error::ArrowError,
};
use domain::{
    AlertRow, BACKFILLED, Cause, DeadLetter, Event, EventRow, FeatureRow, FloorRow, LateRow, Offset, Prediction,
    Source, Symbol, Timestamp, WindowRow, windows::WINDOW_MICROS,
};

use crate::{archive::Kline, schema::TableName};

/// A row of one table, caused by one record.
pub trait TableRow: Sized + Send + Sync + 'static {
    /// The table.
    const TABLE: TableName;

    /// The offset of the record that caused the row.
    fn offset(&self) -> Offset;

    /// The rows as columns.
    ///
    /// # Errors
    /// Where the columns do not fit the schema: a defect.
    fn batch(rows: &[&Self]) -> Result<RecordBatch, ArrowError>;
}

/// A range of offsets that the log lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GapRow {
    /// Partition of the log.
    pub partition: domain::Partition,
    /// First lost offset.
    pub from: Offset,
    /// First offset after the gap.
    pub to: Offset,
    /// When the gap was met.
    pub met: Timestamp,
    /// What the log said.
    pub reason: String,
}

impl TableRow for EventRow {
    const TABLE: TableName = TableName::Events;

    fn offset(&self) -> Offset {
        self.cause.offset
    }

    fn batch(rows: &[&Self]) -> Result<RecordBatch, ArrowError> {
        let mut columns = vec![symbols(rows, |r| r.event.symbol), times(rows, |r| r.event.timestamp)];
        columns.extend(causes(rows, |r| r.cause));
        columns.push(times(rows, |r| r.fold_time));
        columns.extend(event_columns(rows, |r| &r.event));
        RecordBatch::try_new(Self::TABLE.schema(), columns)
    }
}

impl TableRow for LateRow {
    const TABLE: TableName = TableName::LateEvents;

    fn offset(&self) -> Offset {
        self.cause.offset
    }

    fn batch(rows: &[&Self]) -> Result<RecordBatch, ArrowError> {
        let mut columns = vec![symbols(rows, |r| r.event.symbol), times(rows, |r| r.event.timestamp)];
        columns.extend(causes(rows, |r| r.cause));
        columns.push(texts(rows, |r| r.reason.as_str()));
        // A symbol's first record has no watermark yet: the smallest instant stands for that.
        let watermarks =
            rows.iter().map(|r| Some(r.watermark.micros()).filter(|_| r.watermark >= Timestamp::from_micros(0)));
        columns.push(Arc::new(watermarks.collect::<TimestampMicrosecondArray>().with_timezone("UTC")));
        columns.extend(event_columns(rows, |r| &r.event));
        RecordBatch::try_new(Self::TABLE.schema(), columns)
    }
}

impl TableRow for FeatureRow {
    const TABLE: TableName = TableName::Features;

    fn offset(&self) -> Offset {
        self.offset
    }

    fn batch(rows: &[&Self]) -> Result<RecordBatch, ArrowError> {
        let mut columns = vec![symbols(rows, |r| r.symbol), times(rows, |r| r.timestamp)];
        columns.extend(causes(rows, FeatureRow::cause));
        columns.extend([doubles(rows, |r| r.price), doubles(rows, |r| r.volume), doubles(rows, |r| r.log_return)]);
        columns.extend([0, 1, 2].map(|lane: usize| doubles(rows, move |r| r.z_scores[lane])));
        columns.extend([0, 1, 2].map(|lane: usize| doubles(rows, move |r| r.deviations[lane])));
        columns.extend([0, 1, 2].map(|lane: usize| doubles(rows, move |r| r.means[lane])));
        columns.extend([
            longs(rows, |r| r.window_events),
            optional_flags(rows, |r| r.is_anomaly),
            optional_texts(rows, |r| r.anomaly_type.as_deref()),
            texts(rows, |r| r.source.as_str()),
        ]);
        RecordBatch::try_new(Self::TABLE.schema(), columns)
    }
}

impl TableRow for WindowRow {
    const TABLE: TableName = TableName::Windows;

    fn offset(&self) -> Offset {
        self.offset
    }

    fn batch(rows: &[&Self]) -> Result<RecordBatch, ArrowError> {
        let mut columns = vec![symbols(rows, |r| r.symbol), times(rows, |r| r.window_start)];
        columns.extend(causes(rows, WindowRow::cause));
        columns.extend([doubles(rows, |r| r.open), doubles(rows, |r| r.high), doubles(rows, |r| r.low)]);
        columns.extend([doubles(rows, |r| r.close), doubles(rows, |r| r.volume)]);
        columns.push(Arc::new(rows.iter().map(|r| r.vwap).collect::<Float64Array>()));
        columns.push(longs(rows, |r| r.event_count));
        columns.extend([0, 1, 2].map(|lane: usize| doubles(rows, move |r| r.means[lane])));
        columns.extend([0, 1, 2].map(|lane: usize| doubles(rows, move |r| r.deviations[lane])));
        columns.extend([0, 1, 2].map(|lane: usize| doubles(rows, move |r| r.z_scores[lane])));
        columns.extend([optional_flags(rows, |r| r.is_anomaly), texts(rows, |r| r.source.as_str())]);
        RecordBatch::try_new(Self::TABLE.schema(), columns)
    }
}

/// A 1-minute kline as a window that nothing was folded in.
#[derive(Clone, Debug, PartialEq)]
pub struct KlineRow {
    /// The kline.
    pub kline: Kline,
    /// When it was put there.
    pub ingest_time: Timestamp,
}

/// What a kline does not tell is null: means, deviations, scores and labels. Its offset is its minute since the epoch.
impl TableRow for KlineRow {
    const TABLE: TableName = TableName::Windows;

    fn offset(&self) -> Offset {
        self.kline.open_time.span(WINDOW_MICROS)
    }

    fn batch(rows: &[&Self]) -> Result<RecordBatch, ArrowError> {
        let mut columns = vec![symbols(rows, |r| r.kline.symbol), times(rows, |r| r.kline.open_time)];
        columns.extend(causes(rows, |r| Cause {
            partition: BACKFILLED,
            offset: r.offset(),
            append_time: r.ingest_time,
        }));
        columns.extend([doubles(rows, |r| r.kline.open), doubles(rows, |r| r.kline.high)]);
        columns.extend([doubles(rows, |r| r.kline.low), doubles(rows, |r| r.kline.close)]);
        columns.push(doubles(rows, |r| r.kline.volume));
        let vwap = |r: &&Self| (r.kline.volume > 0.0).then(|| r.kline.quote_volume / r.kline.volume);
        columns.push(Arc::new(rows.iter().map(vwap).collect::<Float64Array>()));
        columns.push(longs(rows, |r| r.kline.trades));
        columns.extend((0..9).map(|_| new_null_array(&DataType::Float64, rows.len())));
        columns.push(new_null_array(&DataType::Boolean, rows.len()));
        columns.push(texts(rows, |_| Source::Kline.as_str()));
        RecordBatch::try_new(Self::TABLE.schema(), columns)
    }
}

impl TableRow for Prediction {
    const TABLE: TableName = TableName::Predictions;

    fn offset(&self) -> Offset {
        self.offset
    }

    fn batch(rows: &[&Self]) -> Result<RecordBatch, ArrowError> {
        let mut columns = vec![symbols(rows, |r| r.symbol), times(rows, |r| r.timestamp)];
        columns.extend(causes(rows, Prediction::cause));
        columns.extend([0, 1, 2, 3, 4].map(|lane: usize| doubles(rows, move |r| r.features[lane])));
        columns.extend([
            doubles(rows, |r| r.anomaly_score),
            Arc::new(rows.iter().map(|r| Some(r.is_anomaly)).collect::<BooleanArray>()),
            longs(rows, |r| r.model_version),
            Arc::new(rows.iter().map(|r| Some(r.in_sample)).collect::<BooleanArray>()),
            optional_flags(rows, |r| r.label_is_anomaly),
            optional_texts(rows, |r| r.label_anomaly_type.as_deref()),
            texts(rows, |r| r.source.as_str()),
        ]);
        RecordBatch::try_new(Self::TABLE.schema(), columns)
    }
}

impl TableRow for AlertRow {
    const TABLE: TableName = TableName::Alerts;

    fn offset(&self) -> Offset {
        self.offset
    }

    fn batch(rows: &[&Self]) -> Result<RecordBatch, ArrowError> {
        let mut columns = vec![symbols(rows, |r| r.symbol), times(rows, |r| r.timestamp)];
        columns.extend(causes(rows, AlertRow::cause));
        columns.push(Arc::new(rows.iter().map(|r| Some(r.alert.to_string())).collect::<StringArray>()));
        columns.extend([times(rows, |r| r.raised_at), texts(rows, |r| r.alert_type.as_str())]);
        columns.extend([texts(rows, |r| r.severity.as_str()), doubles(rows, |r| r.anomaly_score)]);
        columns.extend([longs(rows, |r| r.model_version), texts(rows, |r| r.leading_feature)]);
        columns.extend([doubles(rows, |r| r.share), texts(rows, |r| r.source.as_str())]);
        RecordBatch::try_new(Self::TABLE.schema(), columns)
    }
}

impl TableRow for DeadLetter {
    const TABLE: TableName = TableName::DeadLetters;

    fn offset(&self) -> Offset {
        self.cause.offset
    }

    fn batch(rows: &[&Self]) -> Result<RecordBatch, ArrowError> {
        let mut columns = Vec::from(causes(rows, |r| r.cause));
        columns.push(texts(rows, |r| r.reason.as_str()));
        columns.push(Arc::new(rows.iter().map(|r| Some(String::from_utf8_lossy(&r.key))).collect::<StringArray>()));
        columns.push(Arc::new(rows.iter().map(|r| Some(r.value.as_slice())).collect::<BinaryArray>()));
        RecordBatch::try_new(Self::TABLE.schema(), columns)
    }
}

impl TableRow for FloorRow {
    const TABLE: TableName = TableName::Floors;

    fn offset(&self) -> Offset {
        self.cause.offset
    }

    fn batch(rows: &[&Self]) -> Result<RecordBatch, ArrowError> {
        let mut columns = Vec::from(causes(rows, |r| r.cause));
        columns.extend([symbols(rows, |r| r.symbol), times(rows, |r| r.floor)]);
        RecordBatch::try_new(Self::TABLE.schema(), columns)
    }
}

impl TableRow for GapRow {
    const TABLE: TableName = TableName::Gaps;

    fn offset(&self) -> Offset {
        self.from
    }

    fn batch(rows: &[&Self]) -> Result<RecordBatch, ArrowError> {
        let columns = vec![
            longs(rows, |r| i64::from(r.partition)),
            longs(rows, |r| r.from),
            longs(rows, |r| r.to),
            times(rows, |r| r.met),
            texts(rows, |r| r.reason.as_str()),
        ];
        RecordBatch::try_new(Self::TABLE.schema(), columns)
    }
}

fn causes<R>(rows: &[&R], cause: impl Fn(&R) -> Cause) -> [ArrayRef; 3] {
    [
        longs(rows, |r| i64::from(cause(r).partition)),
        longs(rows, |r| cause(r).offset),
        times(rows, |r| cause(r).append_time),
    ]
}

fn event_columns<R>(rows: &[&R], event: impl Fn(&R) -> &Event) -> [ArrayRef; 10] {
    [
        doubles(rows, |r| event(r).price),
        doubles(rows, |r| event(r).volume),
        Arc::new(rows.iter().map(|r| event(r).log_return).collect::<Float64Array>()),
        optional_flags(rows, |r| event(r).is_anomaly),
        optional_texts(rows, |r| event(r).anomaly_type.as_deref()),
        Arc::new(rows.iter().map(|r| event(r).trade_id).collect::<Int64Array>()),
        optional_texts(rows, |r| event(r).side.map(domain::Side::as_str)),
        Arc::new(rows.iter().map(|r| event(r).ingest_id.as_ref().map(ToString::to_string)).collect::<StringArray>()),
        texts(rows, |r| event(r).source.as_str()),
        optional_texts(rows, |r| event(r).extra.as_deref()),
    ]
}

fn symbols<R>(rows: &[&R], symbol: impl Fn(&R) -> Symbol) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(rows.iter().map(|r| symbol(r)).map(InlineText)))
}

/// A symbol as something that lends its text.
struct InlineText(Symbol);

impl AsRef<str> for InlineText {
    fn as_ref(&self) -> &str {
        self.0.as_str()
    }
}

fn times<R>(rows: &[&R], time: impl Fn(&R) -> Timestamp) -> ArrayRef {
    let values = rows.iter().map(|r| time(r).micros());
    Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
}

fn doubles<R>(rows: &[&R], value: impl Fn(&R) -> f64) -> ArrayRef {
    Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| {
        let value = value(r);
        debug_assert!(value.is_finite(), "tables hold finite numbers");
        value
    })))
}

fn longs<R>(rows: &[&R], value: impl Fn(&R) -> i64) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| value(r))))
}

fn texts<R>(rows: &[&R], text: impl Fn(&R) -> &str) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(rows.iter().map(|r| text(r))))
}

fn optional_texts<R>(rows: &[&R], text: impl Fn(&R) -> Option<&str>) -> ArrayRef {
    Arc::new(rows.iter().map(|r| text(r)).collect::<StringArray>())
}

fn optional_flags<R>(rows: &[&R], flag: impl Fn(&R) -> Option<bool>) -> ArrayRef {
    Arc::new(rows.iter().map(|r| flag(r)).collect::<BooleanArray>())
}
