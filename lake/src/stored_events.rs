//! Events as they are stored, in `events` and in `late_events`: from columns back to what the fold made.

use arrow::{
    array::{
        Array, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    },
    datatypes::{Float64Type, Int64Type, TimestampMicrosecondType},
};
use domain::{Cause, Event, EventRow, IngestId, LateReason, LateRow, Partition, Side, Source, Symbol, Timestamp};

use crate::{error::Error, schema::TableName};

/// The rows of a stored batch of `events`.
pub(crate) fn event_rows(batch: &RecordBatch) -> Result<Vec<EventRow>, Error> {
    let columns = EventColumns::new(batch, TableName::Events)?;
    let fold_time = columns.time("fold_time")?;
    let row = |row: usize| {
        let fold_time = Timestamp::from_micros(fold_time.value(row));
        Ok(EventRow { cause: columns.cause(row)?, fold_time, event: columns.event(row)? })
    };
    (0..batch.num_rows()).map(row).collect()
}

/// The rows of a stored batch of `late_events`.
pub(crate) fn late_rows(batch: &RecordBatch) -> Result<Vec<LateRow>, Error> {
    let columns = EventColumns::new(batch, TableName::LateEvents)?;
    let (reasons, watermarks) = (columns.text("reason")?, columns.time("watermark")?);
    let row = |row: usize| {
        let reason = [LateReason::Late, LateReason::Duplicate]
            .into_iter()
            .find(|reason| reason.as_str() == reasons.value(row))
            .ok_or_else(|| columns.unexpected("reason"))?;
        // Null stands for a symbol whose first record it was.
        let watermark = if watermarks.is_valid(row) { watermarks.value(row) } else { i64::MIN };
        let watermark = Timestamp::from_micros(watermark);
        Ok(LateRow { cause: columns.cause(row)?, reason, watermark, event: columns.event(row)? })
    };
    (0..batch.num_rows()).map(row).collect()
}

/// The columns that `events` and `late_events` share, each in its own type.
pub(crate) struct EventColumns<'a> {
    batch: &'a RecordBatch,
    table: TableName,
    symbol: &'a StringArray,
    timestamp: &'a TimestampMicrosecondArray,
    partition: &'a Int64Array,
    offset: &'a Int64Array,
    ingest_time: &'a TimestampMicrosecondArray,
    price: &'a Float64Array,
    volume: &'a Float64Array,
    log_return: &'a Float64Array,
    is_anomaly: &'a BooleanArray,
    anomaly_type: &'a StringArray,
    trade_id: &'a Int64Array,
    side: &'a StringArray,
    ingest_id: &'a StringArray,
    source: &'a StringArray,
    extra: &'a StringArray,
}

impl<'a> EventColumns<'a> {
    pub(crate) fn new(batch: &'a RecordBatch, table: TableName) -> Result<Self, Error> {
        let of = |name| column(batch, table, name);
        let long = |name| of(name)?.as_primitive_opt::<Int64Type>().ok_or_else(|| unexpected(table, name));
        let double = |name| of(name)?.as_primitive_opt::<Float64Type>().ok_or_else(|| unexpected(table, name));
        let time =
            |name| of(name)?.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(|| unexpected(table, name));
        let text = |name| of(name)?.as_string_opt::<i32>().ok_or_else(|| unexpected(table, name));
        Ok(Self {
            batch,
            table,
            symbol: text("symbol")?,
            timestamp: time("timestamp")?,
            partition: long("partition")?,
            offset: long("offset")?,
            ingest_time: time("ingest_time")?,
            price: double("price")?,
            volume: double("volume")?,
            log_return: double("log_return")?,
            is_anomaly: of("is_anomaly")?.as_boolean_opt().ok_or_else(|| unexpected(table, "is_anomaly"))?,
            anomaly_type: text("anomaly_type")?,
            trade_id: long("trade_id")?,
            side: text("side")?,
            ingest_id: text("ingest_id")?,
            source: text("source")?,
            extra: text("extra")?,
        })
    }

    /// A time that only one of the tables has.
    pub(crate) fn time(&self, name: &'static str) -> Result<&'a TimestampMicrosecondArray, Error> {
        let found = column(self.batch, self.table, name)?.as_primitive_opt::<TimestampMicrosecondType>();
        found.ok_or_else(|| self.unexpected(name))
    }

    /// A text that only one of the tables has.
    fn text(&self, name: &'static str) -> Result<&'a StringArray, Error> {
        column(self.batch, self.table, name)?.as_string_opt::<i32>().ok_or_else(|| self.unexpected(name))
    }

    pub(crate) fn cause(&self, row: usize) -> Result<Cause, Error> {
        Ok(Cause {
            partition: Partition::try_from(self.partition.value(row)).map_err(|_| self.unexpected("partition"))?,
            offset: self.offset.value(row),
            append_time: Timestamp::from_micros(self.ingest_time.value(row)),
        })
    }

    pub(crate) fn timestamp(&self, row: usize) -> Timestamp {
        Timestamp::from_micros(self.timestamp.value(row))
    }

    fn event(&self, row: usize) -> Result<Event, Error> {
        let side = present(self.side, row).map(|name| Side::from_name(name).ok_or_else(|| self.unexpected("side")));
        let ingest_id =
            present(self.ingest_id, row).map(|text| IngestId::parse(text).ok_or_else(|| self.unexpected("ingest_id")));
        Ok(Event {
            timestamp: self.timestamp(row),
            symbol: Symbol::parse(self.symbol.value(row)).map_err(|_| self.unexpected("symbol"))?,
            price: self.price.value(row),
            volume: self.volume.value(row),
            log_return: self.log_return.is_valid(row).then(|| self.log_return.value(row)),
            is_anomaly: self.is_anomaly.is_valid(row).then(|| self.is_anomaly.value(row)),
            anomaly_type: present(self.anomaly_type, row).map(Into::into),
            trade_id: self.trade_id.is_valid(row).then(|| self.trade_id.value(row)),
            side: side.transpose()?,
            ingest_id: ingest_id.transpose()?,
            source: Source::from_name(self.source.value(row)).ok_or_else(|| self.unexpected("source"))?,
            extra: present(self.extra, row).map(Into::into),
        })
    }

    const fn unexpected(&self, column: &'static str) -> Error {
        unexpected(self.table, column)
    }
}

fn column<'a>(batch: &'a RecordBatch, table: TableName, name: &'static str) -> Result<&'a dyn Array, Error> {
    batch.column_by_name(name).map(AsRef::as_ref).ok_or_else(|| unexpected(table, name))
}

fn present(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

const fn unexpected(table: TableName, column: &'static str) -> Error {
    Error::UnexpectedColumn { table: table.as_str(), column }
}
