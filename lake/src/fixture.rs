//! Small folded flushes for the tests of this crate.

use std::sync::Arc;

use domain::{
    Event, EventRow, Fold, Heartbeat, Offset, Output, Prediction, RawRecord, Record, Source, Symbol, Timestamp,
};

use crate::{Error, Lake, PartitionFlush, TableName, formats, query::Rows};

/// An empty lake in a folder that lives as long as the first value.
pub async fn lake() -> (tempfile::TempDir, Lake) {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(folder.path()).await.unwrap();
    (folder, lake)
}

/// The rows of offsets `start` to `next` of partition 0: one event a second, the record's offset its second.
pub fn flush(start: Offset, next: Offset) -> Arc<Vec<PartitionFlush>> {
    let (mut fold, mut output) = (Fold::new(0, 0), Output::default());
    for offset in 0..next {
        if offset == start {
            output = Output::default();
        }
        let raw = RawRecord { offset, append_time: time(offset + 1), key: b"BTC-USDT", value: b"" };
        fold.apply(raw, Ok(Record::Event(event(offset))), &mut output);
    }
    Arc::new(vec![PartitionFlush {
        partition: 0,
        start,
        next,
        replay: fold.replay(),
        output,
        ..PartitionFlush::default()
    }])
}

/// The events of `flush(start, next)`.
pub fn events(start: Offset, next: Offset) -> Vec<EventRow> {
    flush(start, next).iter().flat_map(|partition| partition.output.events.clone()).collect()
}

/// The events of offsets 0 to 20 again, at the offsets from `far` on and moved by so many seconds; a flush that goes on
/// at `start`.
pub fn shifted(start: Offset, far: Offset, seconds: i64) -> Arc<Vec<PartitionFlush>> {
    let moved = |mut row: EventRow| {
        row.cause.offset += far;
        row.event.timestamp = row.event.timestamp.plus_micros(seconds * 1_000_000);
        row.fold_time = row.event.timestamp;
        row
    };
    let events = events(0, 20).into_iter().map(moved).collect();
    let (next, output) = (far + 20, Output { events, ..Output::default() });
    Arc::new(vec![PartitionFlush { start, next, replay: far, output, ..PartitionFlush::default() }])
}

/// The rows of the first `next` offsets as in [`flush`], with those offsets of `without` as heartbeats instead.
pub fn flush_without(next: Offset, without: &[Offset]) -> Arc<Vec<PartitionFlush>> {
    let (mut fold, mut output) = (Fold::new(0, 0), Output::default());
    for offset in 0..next {
        let raw = RawRecord { offset, append_time: time(offset + 1), key: b"BTC-USDT", value: b"" };
        let event = event(offset);
        let record = if without.contains(&offset) {
            Record::Heartbeat(Heartbeat { timestamp: event.timestamp, symbol: event.symbol })
        } else {
            Record::Event(event)
        };
        fold.apply(raw, Ok(record), &mut output);
    }
    let (replay, start) = (fold.replay(), 0);
    Arc::new(vec![PartitionFlush { partition: 0, start, next, replay, output, ..PartitionFlush::default() }])
}

/// What was predicted about the event of an offset as it came.
pub fn prediction(offset: Offset) -> Prediction {
    Prediction {
        partition: 0,
        offset,
        ingest_time: time(offset + 1),
        timestamp: time(offset),
        symbol: Symbol::parse("BTC-USDT").unwrap(),
        features: [4.5, 3.8, 1.5, 0.008, 25.0],
        anomaly_score: -0.25,
        is_anomaly: true,
        model_version: 3,
        in_sample: false,
        label_is_anomaly: None,
        label_anomaly_type: None,
        source: Source::Binance,
    }
}

/// Every row of a table as text, in the order of offsets.
pub async fn rows_of(lake: &Lake, table: TableName) -> Vec<Vec<String>> {
    let sql = format!("SELECT * FROM {} ORDER BY partition, \"offset\"", table.as_str());
    lake.pin(table).await.unwrap().texts(&sql).await.unwrap()
}

/// The rows of an answer as texts.
pub async fn texts(mut rows: Rows) -> Result<Vec<Vec<String>>, Error> {
    let mut texts = Vec::new();
    while let Some(batch) = rows.next().await {
        texts.extend(formats::texts(&batch?)?);
    }
    Ok(texts)
}

fn event(offset: Offset) -> Event {
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let price = 100.0 + (offset % 7) as f64;
    Event {
        timestamp: time(offset),
        symbol: Symbol::parse("BTC-USDT").unwrap(),
        price,
        volume: 1.5,
        log_return: None,
        is_anomaly: None,
        anomaly_type: None,
        trade_id: Some(offset),
        side: None,
        ingest_id: None,
        source: Source::Binance,
        extra: None,
    }
}

const fn time(second: i64) -> Timestamp {
    Timestamp::from_seconds(1_710_000_000 + second)
}
