//! What the tables tell of records that the log has lost, for a fold that needs them.

use std::ops::Range;

use arrow::array::RecordBatch;
use domain::{Cause, FloorRow, Offset, Partition, Recalled};
use futures::TryStreamExt;

use crate::{
    error::Error,
    lake::Lake,
    read::{Columns, Pinned},
    schema::TableName,
    stored_events::{event_rows, late_rows},
};

/// The tables that tell of records, each in one version.
#[derive(Debug)]
pub struct Memory {
    events: Pinned,
    late: Pinned,
    floors: Pinned,
    windows: Pinned,
}

impl Lake {
    /// Pins the newest versions of the tables that tell of records.
    ///
    /// # Errors
    /// Where a table cannot be read.
    pub async fn memory(&self) -> Result<Memory, Error> {
        Ok(Memory {
            events: self.pin(TableName::Events).await?,
            late: self.pin(TableName::LateEvents).await?,
            floors: self.pin(TableName::Floors).await?,
            windows: self.pin(TableName::Windows).await?,
        })
    }
}

impl Memory {
    /// The rows that records of a partition have left, in the order in which a fold recalls them. All are in memory.
    ///
    /// # Errors
    /// Where a table cannot be read.
    pub async fn recall(&self, partition: Partition, offsets: Range<Offset>) -> Result<Vec<Recalled>, Error> {
        let condition =
            format!("partition = {partition} AND \"offset\" >= {} AND \"offset\" < {}", offsets.start, offsets.end);
        let stored = async |table: &Pinned| {
            table.stored_in_order(&condition, "\"offset\"").await?.try_collect::<Vec<RecordBatch>>().await
        };
        let mut rows = Vec::new();
        for batch in stored(&self.events).await? {
            rows.extend(event_rows(&batch)?.into_iter().map(Recalled::Event));
        }
        for batch in stored(&self.late).await? {
            rows.extend(late_rows(&batch)?.into_iter().map(Recalled::Late));
        }
        for batch in stored(&self.floors).await? {
            let columns = Columns::new(&batch, TableName::Floors);
            for row in 0..batch.num_rows() {
                let (cause, symbol, floor) = (columns.cause(row)?, columns.symbol(row)?, columns.time("floor", row)?);
                rows.push(Recalled::Floor(FloorRow { cause, symbol, floor }));
            }
        }
        for batch in stored(&self.windows).await? {
            let columns = Columns::new(&batch, TableName::Windows);
            for row in 0..batch.num_rows() {
                let (cause, symbol) = (columns.cause(row)?, columns.symbol(row)?);
                rows.push(Recalled::Closed { cause, symbol, window_start: columns.time("window_start", row)? });
            }
        }
        rows.sort_by_key(Recalled::place);
        Ok(rows)
    }
}

impl Columns<'_> {
    fn cause(&self, row: usize) -> Result<Cause, Error> {
        Ok(Cause {
            partition: self.partition(row)?,
            offset: self.long("offset", row)?,
            append_time: self.time("ingest_time", row)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use domain::{Fold, Output, RawRecord, Record, Timestamp};

    use super::*;
    use crate::fixture::{flush, lake};

    /// Every kind of row, through the tables and back.
    #[tokio::test]
    async fn the_rows_of_a_range_come_back_as_they_were_folded() {
        let (_folder, lake) = lake().await;
        let output = |start, next| std::sync::Arc::into_inner(flush(start, next)).unwrap().remove(0).output;
        let stored = output(0, 200);
        lake.flush("topic", flush(0, 200)).await.unwrap();
        let told = lake.memory().await.unwrap().recall(0, 100..150).await.unwrap();
        let events = stored.events.iter().filter(|row| (100..150).contains(&row.cause.offset));
        let mut expected: Vec<Recalled> = events.cloned().map(Recalled::Event).collect();
        expected.extend(
            stored.windows.iter().filter(|row| (100..150).contains(&row.offset)).map(|row| Recalled::Closed {
                cause: row.cause(),
                symbol: row.symbol,
                window_start: row.window_start,
            }),
        );
        expected.sort_by_key(Recalled::place);
        assert!(expected.len() > 50, "a window closed in between");
        assert_eq!(told, expected);
    }

    #[tokio::test]
    async fn late_events_and_floors_come_back_too() {
        let (_folder, lake) = lake().await;
        let mut partitions = std::sync::Arc::into_inner(flush(0, 100)).unwrap();
        let mut fold = Fold::new(0, 0);
        let mut out = Output::default();
        let append_time = Timestamp::from_seconds(1_720_000_000);
        let event = partitions[0].output.events[99].event.clone();
        let old = domain::Event { timestamp: event.timestamp.plus_micros(-90_000_000), ..event.clone() };
        let floor = domain::Floor { symbol: event.symbol, timestamp: event.timestamp };
        let records = [Record::Event(event.clone()), Record::Event(event), Record::Event(old), Record::Floor(floor)];
        for (offset, record) in (0..).zip(records) {
            fold.apply(RawRecord { offset, append_time, key: b"", value: b"" }, Ok(record), &mut out);
        }
        assert_eq!((out.events.len(), out.late.len(), out.floors.len()), (1, 2, 1));
        partitions[0].next = 4;
        partitions[0].output = out.clone();
        lake.flush("topic", std::sync::Arc::new(partitions)).await.unwrap();
        let told = lake.memory().await.unwrap().recall(0, 0..4).await.unwrap();
        let [Recalled::Event(first), Recalled::Late(second), Recalled::Late(third), Recalled::Floor(last), ..] = &*told
        else {
            panic!("{told:?}")
        };
        assert_eq!((first, last), (&out.events[0], &out.floors[0]));
        assert_eq!([second, third], [&out.late[0], &out.late[1]]);
        assert!(lake.memory().await.unwrap().recall(1, 0..4).await.unwrap().is_empty());
    }
}
