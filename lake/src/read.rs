//! Reading tables: SQL by `DataFusion` over one pinned version, and the few fixed questions that jobs ask.
//!
//! A reader never blocks a writer and never sees half a commit. Every answer names the version it was read from.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    compute::cast,
    datatypes::{FieldRef, Float64Type, Int64Type, TimestampMicrosecondType},
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use deltalake::{
    DeltaTable, DeltaTableError,
    datafusion::{
        catalog::TableProvider, error::DataFusionError, execution::SendableRecordBatchStream, prelude::SessionContext,
    },
    delta_datafusion::TableProviderBuilder,
    kernel::Action,
    logstore::get_actions,
};
use domain::{
    FEATURE_NAMES, Fate, FeatureRow, FeatureVector, LateReason, Offset, Partition, Prediction, Source, Symbol,
    Timestamp,
};
use futures::{Stream, StreamExt};

use crate::{
    compare::keys,
    epochs::FreshStarts,
    error::Error,
    lake::Lake,
    ordered::Order,
    schema::TableName,
    session,
    table::{load, load_version},
    truth::Extent,
};

/// A minute, in microseconds.
const MINUTE: i64 = 60_000_000;

/// One version of a table, or what one commit added to it, open for SQL.
#[derive(Debug)]
pub struct Pinned {
    table: TableName,
    delta: DeltaTable,
    /// The only files that are read; all, where absent.
    files: Option<Vec<String>>,
}

/// What a feature row contributes to training, evaluation and scoring.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredFeatures {
    /// Partition of the record.
    pub partition: Partition,
    /// Offset of the record.
    pub offset: Offset,
    /// Append time of the record.
    pub ingest_time: Timestamp,
    /// Event time.
    pub timestamp: Timestamp,
    /// The market.
    pub symbol: Symbol,
    /// The detector's input.
    pub features: FeatureVector,
    /// Label of the event.
    pub is_anomaly: Option<bool>,
    /// Labelled kind of anomaly.
    pub anomaly_type: Option<Box<str>>,
    /// Where the event came from.
    pub source: Source,
}

/// A row of `dead_letters`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDeadLetter {
    /// Partition of the record.
    pub partition: Partition,
    /// Offset of the record.
    pub offset: Offset,
    /// Append time of the record.
    pub ingest_time: Timestamp,
    /// Why it cannot be an event.
    pub reason: String,
    /// Its key, as far as it is text.
    pub key: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Lake {
    /// The newest `limit` dead letters by append time, from `WHERE` text over the columns of `dead_letters`.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn dead_letters(&self, condition: &str, limit: u32) -> Result<Vec<StoredDeadLetter>, Error> {
        let sql = format!(
            "SELECT partition, \"offset\", ingest_time, CAST(reason AS VARCHAR) AS reason, CAST(key AS VARCHAR) AS key, bytes \
             FROM dead_letters WHERE {condition} ORDER BY ingest_time DESC, partition DESC, \"offset\" DESC LIMIT {limit}"
        );
        let mut letters = Vec::new();
        for batch in self.pin(TableName::DeadLetters).await?.rows(&sql).await? {
            let columns = Columns::new(&batch, TableName::DeadLetters);
            for row in 0..batch.num_rows() {
                letters.push(columns.dead_letter(row)?);
            }
        }
        Ok(letters)
    }

    /// The greatest floor of every symbol that records of a partition below an offset have set.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn floors(&self, partition: Partition, below: Offset) -> Result<HashMap<Symbol, Timestamp>, Error> {
        let sql = format!(
            "SELECT CAST(symbol AS VARCHAR) AS symbol, max(floor) AS floor FROM floors \
             WHERE partition = {partition} AND \"offset\" < {below} GROUP BY symbol"
        );
        let mut floors = HashMap::new();
        for batch in self.pin(TableName::Floors).await?.rows(&sql).await? {
            let columns = Columns::new(&batch, TableName::Floors);
            for row in 0..batch.num_rows() {
                floors.insert(columns.symbol(row)?, columns.time("floor", row)?);
            }
        }
        Ok(floors)
    }

    /// Pins the newest version of a table.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub async fn pin(&self, table: TableName) -> Result<Pinned, Error> {
        Ok(Pinned::new(table, load(self.store(), table).await?))
    }

    /// Pins a version of a table.
    ///
    /// # Errors
    /// [`Error::NoVersion`] where there is no such version yet, [`Error::VersionRemoved`] where it is not kept any more.
    pub async fn pin_version(&self, table: TableName, version: u64) -> Result<Pinned, Error> {
        Ok(Pinned::new(table, self.versions().open(table, version).await?))
    }

    /// Pins the rows that the commit of a version added; none, where it only arranged rows in other files.
    ///
    /// # Errors
    /// Where there is no such version, or vacuum has removed its files.
    pub async fn pin_added(&self, table: TableName, version: u64) -> Result<Pinned, Error> {
        let delta = load_version(self.store(), table, version).await?;
        let failed = |source| Error::delta(format!("read a commit of table `{}`", table.as_str()))(source);
        let commit = delta.log_store().read_commit_entry(version).await.map_err(failed)?;
        let commit = commit.ok_or_else(|| failed(DeltaTableError::InvalidVersion(version)))?;
        let actions = get_actions(version, &commit).map_err(failed)?;
        let added = actions.into_iter().filter_map(|action| match action {
            Action::Add(add) if add.data_change => Some(add.path),
            _ => None,
        });
        Ok(Pinned { table, delta, files: Some(added.collect()) })
    }

    /// What the tables say became of a record; `None` where they hold nothing about it, as for a heartbeat.
    ///
    /// # Errors
    /// Where a table cannot be read.
    pub async fn stored_fate(&self, partition: Partition, offset: Offset) -> Result<Option<Fate>, Error> {
        let condition = format!("partition = {partition} AND \"offset\" = {offset}");
        let count = async |table: TableName, more: &str| {
            let sql = format!("SELECT count(*) FROM {} WHERE {condition}{more}", table.as_str());
            Ok::<_, Error>(self.pin(table).await?.number(&sql).await? > 0)
        };
        if count(TableName::Events, "").await? {
            return Ok(Some(Fate::Admitted));
        }
        if count(TableName::DeadLetters, "").await? {
            return Ok(Some(Fate::Dead));
        }
        for reason in [LateReason::Late, LateReason::Duplicate] {
            if count(TableName::LateEvents, &format!(" AND reason = '{}'", reason.as_str())).await? {
                return Ok(Some(Fate::Late(reason)));
            }
        }
        Ok(None)
    }
}

impl Pinned {
    pub(crate) const fn new(table: TableName, delta: DeltaTable) -> Self {
        Self { table, delta, files: None }
    }

    pub(crate) const fn delta(&self) -> &DeltaTable {
        &self.delta
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.delta.version().unwrap_or_default()
    }

    /// Runs a query over this version; the table has its own name in it.
    ///
    /// # Errors
    /// Where the query is wrong or a file cannot be read.
    pub async fn query(&self, sql: &str) -> Result<SendableRecordBatchStream, Error> {
        let failed = |e: DataFusionError| self.failed("query")(DeltaTableError::from(e));
        let context = session::plain();
        self.register(&context).await?;
        context.sql(sql).await.map_err(failed)?.execute_stream().await.map_err(failed)
    }

    /// Makes the table known to a session under its own name.
    pub(crate) async fn register(&self, context: &SessionContext) -> Result<(), Error> {
        let provider = self.provider(context).await?;
        let registered = context.register_table(self.table.as_str(), provider);
        registered.map(drop).map_err(|e| self.failed("read")(e.into()))
    }

    /// This version as a table of a session.
    pub(crate) async fn provider(&self, context: &SessionContext) -> Result<Arc<dyn TableProvider>, Error> {
        let mut provider = self.delta.table_provider();
        if let Some(files) = &self.files {
            provider = provider.with_file_paths(files);
        }
        self.built(context, provider).await
    }

    /// Some files of this version as a table of a session, with a column for the file that a row is in.
    pub(crate) async fn file_provider(
        &self,
        context: &SessionContext,
        files: Vec<String>,
        column: &str,
    ) -> Result<Arc<dyn TableProvider>, Error> {
        self.built(context, self.delta.table_provider().with_file_paths(files).with_file_column(column)).await
    }

    async fn built(
        &self,
        context: &SessionContext,
        provider: TableProviderBuilder,
    ) -> Result<Arc<dyn TableProvider>, Error> {
        self.delta.update_datafusion_session(&context.state()).map_err(self.failed("read"))?;
        provider.await.map_err(|e| self.failed("query")(DeltaTableError::from(e)))
    }

    /// [`Pinned::query`], all of it.
    ///
    /// # Errors
    /// As [`Pinned::query`].
    pub async fn rows(&self, sql: &str) -> Result<Vec<RecordBatch>, Error> {
        let mut stream = self.query(sql).await?;
        let mut batches = Vec::new();
        while let Some(batch) = stream.next().await {
            batches.push(batch.map_err(|e| self.failed("read")(e.into()))?);
        }
        Ok(batches)
    }

    /// [`Pinned::query`] as text, row by row; floats in the shortest form that reads back to the same bits, nulls empty.
    ///
    /// # Errors
    /// As [`Pinned::query`].
    pub async fn texts(&self, sql: &str) -> Result<Vec<Vec<String>>, Error> {
        let failed = |e: ArrowError| self.failed("show")(e.into());
        let mut texts = Vec::new();
        for batch in self.rows(sql).await? {
            let options = FormatOptions::default();
            let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
            let columns = columns.collect::<Result<Vec<_>, _>>().map_err(failed)?;
            for row in 0..batch.num_rows() {
                texts.push(columns.iter().map(|column| column.value(row).to_string()).collect());
            }
        }
        Ok(texts)
    }

    /// The one number that a query answers, 0 where it answers nothing.
    ///
    /// # Errors
    /// As [`Pinned::query`].
    pub async fn number(&self, sql: &str) -> Result<i64, Error> {
        let batches = self.rows(sql).await?;
        let first = batches.iter().find(|batch| batch.num_rows() > 0);
        Ok(first.and_then(|batch| batch.column(0).as_primitive_opt::<Int64Type>()).map_or(0, |column| column.value(0)))
    }

    /// Rows in the version, from the files' statistics.
    ///
    /// # Errors
    /// Where the version cannot be read.
    pub async fn row_count(&self) -> Result<u64, Error> {
        let count = self.number(&format!("SELECT count(*) FROM {}", self.table.as_str())).await?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// The greatest event time, from the files' statistics; `None` where there are no rows.
    ///
    /// # Errors
    /// As [`Pinned::query`]; also where the table has no event time.
    pub async fn newest_event(&self) -> Result<Option<Timestamp>, Error> {
        let newest = format!("SELECT CAST(max(timestamp) AS BIGINT) FROM {} HAVING count(*) > 0", self.table.as_str());
        let batches = self.rows(&newest).await?;
        let first = batches.iter().find(|batch| batch.num_rows() > 0);
        let column = first.and_then(|batch| batch.column(0).as_primitive_opt::<Int64Type>());
        Ok(column.filter(|column| column.is_valid(0)).map(|column| Timestamp::from_micros(column.value(0))))
    }

    /// How many rows each minute of event time has from an instant on, the newest minute first.
    ///
    /// # Errors
    /// As [`Pinned::query`]; also where the table has no event time.
    pub async fn rows_by_minute(&self, from: Timestamp) -> Result<Vec<(Timestamp, u64)>, Error> {
        let sql = format!(
            "SELECT CAST(timestamp AS BIGINT) / {MINUTE} AS minute, count(*) FROM {} WHERE timestamp >= '{from}' \
             GROUP BY 1 ORDER BY 1 DESC",
            self.table.as_str()
        );
        let mut minutes = Vec::new();
        for batch in self.rows(&sql).await? {
            let [minute, rows] = [0, 1].map(|column| batch.column(column).as_primitive::<Int64Type>());
            let pairs = minute.values().iter().zip(rows.values());
            minutes.extend(pairs.map(|(minute, rows)| (Timestamp::from_micros(minute * MINUTE), rows.unsigned_abs())));
        }
        Ok(minutes)
    }

    /// Feature rows in the order (partition, offset), from `WHERE` text over the columns of `features`.
    ///
    /// # Errors
    /// As [`Pinned::query`]; also where this is not `features`.
    pub async fn features(&self, condition: &str) -> Result<Vec<StoredFeatures>, Error> {
        let columns = FEATURE_NAMES.join(", ");
        let sql = format!(
            "SELECT partition, \"offset\", ingest_time, timestamp, CAST(symbol AS VARCHAR) AS symbol, {columns}, is_anomaly, \
             CAST(anomaly_type AS VARCHAR) AS anomaly_type, CAST(source AS VARCHAR) AS source FROM features \
             WHERE {condition} ORDER BY partition, \"offset\""
        );
        let mut rows = Vec::new();
        for batch in self.rows(&sql).await? {
            let columns = Columns::new(&batch, self.table);
            for row in 0..batch.num_rows() {
                rows.push(columns.features(row, ["is_anomaly", "anomaly_type"])?);
            }
        }
        Ok(rows)
    }

    /// Every prediction in the order of event time.
    ///
    /// # Errors
    /// As [`Pinned::query`]; also where this is not `predictions`.
    pub async fn predictions(&self) -> Result<Vec<Prediction>, Error> {
        self.predictions_in("ORDER BY timestamp, partition, \"offset\"").await
    }

    /// The newest `limit` predictions by event time, oldest of them first.
    ///
    /// # Errors
    /// As [`Pinned::query`]; also where this is not `predictions`.
    pub async fn newest_predictions(&self, limit: usize) -> Result<Vec<Prediction>, Error> {
        let newest_first = format!("ORDER BY timestamp DESC, partition DESC, \"offset\" DESC LIMIT {limit}");
        let mut rows = self.predictions_in(&newest_first).await?;
        rows.reverse();
        Ok(rows)
    }

    /// The predictions of a symbol by epoch and event time, in batches.
    ///
    /// # Errors
    /// As [`Pinned::query`], now or from the stream; also where this is not `predictions`.
    pub async fn predictions_of(
        &self,
        symbol: Symbol,
        extent: &Extent,
        starts: &FreshStarts,
    ) -> Result<impl Stream<Item = Result<Vec<Prediction>, Error>> + Send + use<>, Error> {
        let (extent, starts) = (extent.clone(), starts.clone());
        // A prediction has the key of the features that it is about.
        let order = Order { symbol, extent, condition: "TRUE", starts, keys: keys::<FeatureRow> };
        let table = self.table;
        Ok(self.in_order(order).await?.map(move |batch| Columns::new(&batch?.0, table).predictions()))
    }

    pub(crate) async fn predictions_in(&self, order: &str) -> Result<Vec<Prediction>, Error> {
        let mut predictions = Vec::new();
        for batch in self.rows(&format!("SELECT * FROM predictions {order}")).await? {
            let batch = as_stored(&batch, self.table).map_err(|e| self.failed("read")(e.into()))?;
            predictions.extend(Columns::new(&batch, self.table).predictions()?);
        }
        Ok(predictions)
    }

    /// Per symbol: predictions, anomalies among them, and the sum of their scores.
    ///
    /// # Errors
    /// As [`Pinned::query`]; also where this is not `predictions`.
    pub async fn prediction_totals(&self) -> Result<Vec<(Symbol, u64, u64, f64)>, Error> {
        let sql = "SELECT CAST(symbol AS VARCHAR) AS symbol, count(*) AS predictions, \
                   sum(CASE WHEN is_anomaly THEN 1 ELSE 0 END) AS anomalies, sum(anomaly_score) AS scores \
                   FROM predictions GROUP BY symbol ORDER BY symbol";
        let mut totals = Vec::new();
        for batch in self.rows(sql).await? {
            let columns = Columns::new(&batch, self.table);
            for row in 0..batch.num_rows() {
                let count = |name| columns.long(name, row).map(|value| u64::try_from(value).unwrap_or(0));
                let (predictions, anomalies) = (count("predictions")?, count("anomalies")?);
                totals.push((columns.symbol(row)?, predictions, anomalies, columns.double("scores", row)?));
            }
        }
        Ok(totals)
    }

    pub(crate) const fn table(&self) -> TableName {
        self.table
    }

    pub(crate) const fn unexpected(&self, column: &'static str) -> Error {
        Error::UnexpectedColumn { table: self.table.as_str(), column }
    }

    pub(crate) fn failed(&self, action: &str) -> impl FnOnce(DeltaTableError) -> Error + use<> {
        Error::delta(format!("{action} table `{}`", self.table.as_str()))
    }
}

/// A batch as it was written: a scan gives texts and partition values in types of its own.
pub(crate) fn as_stored(batch: &RecordBatch, name: TableName) -> Result<RecordBatch, ArrowError> {
    let schema = name.schema();
    let column = |field: &FieldRef| {
        let scanned = batch.column_by_name(field.name());
        let scanned = scanned.ok_or_else(|| ArrowError::SchemaError(format!("a scan without {}", field.name())))?;
        cast(scanned, field.data_type())
    };
    let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(schema, columns)
}

/// The columns of a batch by name; a column of another name or type is an error, never a panic.
pub(crate) struct Columns<'a> {
    batch: &'a RecordBatch,
    table: TableName,
}

impl<'a> Columns<'a> {
    pub(crate) const fn new(batch: &'a RecordBatch, table: TableName) -> Self {
        Self { batch, table }
    }

    /// `label` names the columns of the event's label.
    fn features(&self, row: usize, label: [&'static str; 2]) -> Result<StoredFeatures, Error> {
        let mut features = FeatureVector::default();
        for (value, name) in features.iter_mut().zip(FEATURE_NAMES) {
            *value = self.double(name, row)?;
        }
        let source = self.text("source", row)?.unwrap_or_default();
        Ok(StoredFeatures {
            partition: self.partition(row)?,
            offset: self.long("offset", row)?,
            ingest_time: self.time("ingest_time", row)?,
            timestamp: self.time("timestamp", row)?,
            symbol: self.symbol(row)?,
            features,
            is_anomaly: self.flag(label[0], row)?,
            anomaly_type: self.text(label[1], row)?.map(Into::into),
            source: Source::from_name(source).ok_or_else(|| self.unexpected("source"))?,
        })
    }

    pub(crate) fn predictions(&self) -> Result<Vec<Prediction>, Error> {
        (0..self.batch.num_rows()).map(|row| self.prediction(row)).collect()
    }

    fn prediction(&self, row: usize) -> Result<Prediction, Error> {
        let stored = self.features(row, ["label_is_anomaly", "label_anomaly_type"])?;
        Ok(Prediction {
            partition: stored.partition,
            offset: stored.offset,
            ingest_time: stored.ingest_time,
            timestamp: stored.timestamp,
            symbol: stored.symbol,
            features: stored.features,
            anomaly_score: self.double("anomaly_score", row)?,
            is_anomaly: self.flag("is_anomaly", row)?.unwrap_or_default(),
            model_version: self.long("model_version", row)?,
            in_sample: self.flag("in_sample", row)?.unwrap_or_default(),
            label_is_anomaly: stored.is_anomaly,
            label_anomaly_type: stored.anomaly_type,
            source: stored.source,
        })
    }

    fn dead_letter(&self, row: usize) -> Result<StoredDeadLetter, Error> {
        let text = |name| self.text(name, row).map(|text| text.unwrap_or_default().to_owned());
        Ok(StoredDeadLetter {
            partition: self.partition(row)?,
            offset: self.long("offset", row)?,
            ingest_time: self.time("ingest_time", row)?,
            reason: text("reason")?,
            key: text("key")?,
            bytes: self.bytes("bytes", row)?,
        })
    }

    fn bytes(&self, name: &'static str, row: usize) -> Result<Vec<u8>, Error> {
        let column = self.column(name)?;
        let view = column.as_binary_view_opt().map(|column| column.value(row).to_vec());
        let plain = || column.as_binary_opt::<i32>().map(|column| column.value(row).to_vec());
        view.or_else(plain).ok_or_else(|| self.unexpected(name))
    }

    pub(crate) fn partition(&self, row: usize) -> Result<Partition, Error> {
        Partition::try_from(self.long("partition", row)?).map_err(|_| self.unexpected("partition"))
    }

    pub(crate) fn symbol(&self, row: usize) -> Result<Symbol, Error> {
        let text = self.text("symbol", row)?.unwrap_or_default();
        Symbol::parse(text).map_err(|_| self.unexpected("symbol"))
    }

    pub(crate) fn double(&self, name: &'static str, row: usize) -> Result<f64, Error> {
        let column = self.column(name)?.as_primitive_opt::<Float64Type>();
        column.map(|column| column.value(row)).ok_or_else(|| self.unexpected(name))
    }

    pub(crate) fn long(&self, name: &'static str, row: usize) -> Result<i64, Error> {
        let column = self.column(name)?.as_primitive_opt::<Int64Type>();
        column.map(|column| column.value(row)).ok_or_else(|| self.unexpected(name))
    }

    pub(crate) fn time(&self, name: &'static str, row: usize) -> Result<Timestamp, Error> {
        let column = self.column(name)?.as_primitive_opt::<TimestampMicrosecondType>();
        column.map(|column| Timestamp::from_micros(column.value(row))).ok_or_else(|| self.unexpected(name))
    }

    pub(crate) fn flag(&self, name: &'static str, row: usize) -> Result<Option<bool>, Error> {
        let column = self.column(name)?.as_boolean_opt().ok_or_else(|| self.unexpected(name))?;
        Ok(column.is_valid(row).then(|| column.value(row)))
    }

    pub(crate) fn text(&self, name: &'static str, row: usize) -> Result<Option<&'a str>, Error> {
        let column = self.column(name)?;
        if column.is_null(row) {
            return Ok(None);
        }
        if let Some(column) = column.as_string_opt::<i32>() {
            return Ok(Some(column.value(row)));
        }
        column.as_string_view_opt().map(|column| Some(column.value(row))).ok_or_else(|| self.unexpected(name))
    }

    fn column(&self, name: &'static str) -> Result<&'a Arc<dyn Array>, Error> {
        self.batch.column_by_name(name).ok_or_else(|| self.unexpected(name))
    }

    pub(crate) fn unexpected(&self, column: &'static str) -> Error {
        Error::UnexpectedColumn { table: self.table.as_str(), column }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{flush, lake};

    #[tokio::test]
    async fn a_commit_added_its_own_rows_and_a_compaction_none() {
        let (_folder, lake) = lake().await;
        for start in [0, 10, 20] {
            lake.flush("topic", flush(start, start + 10)).await.unwrap();
        }
        let offsets = async |version| {
            let added = lake.pin_added(TableName::Features, version).await.unwrap();
            added.texts("SELECT \"offset\" FROM features ORDER BY 1").await.unwrap().concat()
        };
        let texts = |offsets: std::ops::Range<i64>| offsets.map(|offset| offset.to_string()).collect::<Vec<_>>();
        assert_eq!(lake.compact(TableName::Features).await.unwrap().version, 4);
        assert_eq!(offsets(0).await, texts(0..0));
        assert_eq!(offsets(2).await, texts(10..20));
        assert_eq!(offsets(4).await, texts(0..0));
        assert!(lake.pin_added(TableName::Features, 5).await.is_err());
    }

    #[tokio::test]
    async fn a_limit_holds_where_only_partitions_are_read() {
        let (_folder, lake) = lake().await;
        lake.flush("topic", flush(0, 20)).await.unwrap();
        let features = lake.pin(TableName::Features).await.unwrap();
        assert_eq!(features.texts("SELECT symbol FROM features LIMIT 1").await.unwrap(), [["BTC-USDT"]]);
    }
}
