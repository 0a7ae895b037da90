//! Answers to SQL over the tables, at any version of each: reads only, streamed batch by batch.
//!
//! Only the tables that a statement names are opened, each once, so that every reference to one reading of a table
//! sees the same version. Sorting and grouping spill to disk beyond a fixed amount of memory, and what else a guest may
//! take is bounded by `growth` and `session`. What a query cannot do is an [`Error::Query`]; what time travel cannot find
//! says so in the words of [`crate::versions`].

mod growth;
mod held;
pub(crate) mod session;

#[cfg(test)]
mod guests;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    compute::cast,
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
};
use deltalake::{
    DeltaTable, DeltaTableError,
    datafusion::{
        catalog::{MemTable, TableProvider},
        common::{ScalarValue, TableReference},
        error::DataFusionError,
        execution::SendableRecordBatchStream,
        logical_expr::LogicalPlan,
        prelude::{SQLOptions, SessionContext, col, lit},
    },
    kernel::Action,
};
use futures::{StreamExt, stream::BoxStream};
use url::Url;

use crate::{
    error::Error,
    read::Pinned,
    schema::{TableName, time_type},
    sql::{ReadStatement, Reading},
    versions::{Versions, actions_of},
};

/// Parts in which changes are put together, each a scan of its own: two for every version that took rows away.
const MAX_PARTS: usize = 128;

/// The column with the path of a row's file, while changes are put together.
const FILE: &str = "_file";

/// The columns that `changes` adds: `insert` or `delete`, and the version that did it.
const CHANGE: &str = "_change";
const VERSION: &str = "_version";

/// The answer to a query, in batches of plain types: texts, numbers, times in UTC.
pub struct Rows {
    schema: SchemaRef,
    stream: BoxStream<'static, Result<RecordBatch, DataFusionError>>,
    versions: Vec<(TableName, u64)>,
}

impl Rows {
    pub(crate) const fn new(
        schema: SchemaRef,
        stream: BoxStream<'static, Result<RecordBatch, DataFusionError>>,
        versions: Vec<(TableName, u64)>,
    ) -> Self {
        Self { schema, stream, versions }
    }

    /// The rows of a plan as it runs.
    pub(crate) fn of(stream: SendableRecordBatchStream, versions: Vec<(TableName, u64)>) -> Self {
        Self { schema: plain_schema(&stream.schema()), stream: stream.boxed(), versions }
    }

    /// The columns.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// The versions that are read, in the order in which they were opened.
    #[must_use]
    pub fn versions(&self) -> &[(TableName, u64)] {
        &self.versions
    }

    /// The next rows, `None` at the end.
    ///
    /// # Errors
    /// Where the query fails on a row, or a file cannot be read.
    pub async fn next(&mut self) -> Option<Result<RecordBatch, Error>> {
        let batch = self.stream.next().await?;
        Some(batch.map_err(query_failed).and_then(|batch| plain_batch(&batch, &self.schema)))
    }

    /// The next rows, at most `room` of them, and whether there were more; `None` at the end.
    ///
    /// # Errors
    /// As [`Rows::next`].
    pub async fn next_within(&mut self, room: u64) -> Option<Result<(RecordBatch, bool), Error>> {
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let cut = |batch: RecordBatch| (batch.slice(0, room.min(batch.num_rows())), batch.num_rows() > room);
        Some(self.next().await?.map(cut))
    }
}

impl Versions {
    /// Answers one statement that only reads.
    ///
    /// # Errors
    /// [`Error::Query`] where the statement is wrong or does not only read; as time travel says where it asks for a
    /// version that is not there.
    pub async fn query(&self, sql: &str) -> Result<Rows, Error> {
        let context = session::of_owner()?;
        let plan = self.planned(sql, &context).await?;
        plan.rows(&context).await
    }

    /// [`Versions::query`] of somebody who may be careless or hostile: the query has the functions that `session` lists
    /// and no recursion, a GiB of disk beyond its memory, and values and plans that do not grow without bounds. Time is
    /// for the caller to limit: to drop the answer stops the query at its next batch.
    ///
    /// # Errors
    /// As [`Versions::query`]; also where two columns of the answer have one name.
    pub async fn query_of_guest(&self, sql: &str) -> Result<Rows, Error> {
        let context = session::of_guest()?;
        let plan = self.planned(sql, &context).await?;
        growth::check(&plan.logical).map_err(query_failed)?;
        let mut names = BTreeSet::new();
        if let Some(twice) = plan.logical.schema().fields().iter().find(|field| !names.insert(field.name())) {
            let sentence = format!("two columns are called `{}`: give one of them another name with AS", twice.name());
            return Err(Error::Query(sentence));
        }
        plan.rows(&context).await
    }

    /// The plan of a statement whose tables are known to the session.
    async fn planned(&self, sql: &str, context: &SessionContext) -> Result<Plan, Error> {
        let ReadStatement { statement, readings } = ReadStatement::parse(sql)?;
        let references = context.state().resolve_table_references(&statement).map_err(query_failed)?;
        let mut opened = Opened { versions: self, context, newest: HashMap::new(), read: Vec::new() };
        for reference in references {
            let TableReference::Bare { table: name } = &reference else {
                return Err(Error::NoTable { name: reference.to_string() });
            };
            let (table, reading) = match readings.get(name.as_ref()) {
                Some(reading) => *reading,
                None => match TableName::from_name(name) {
                    Some(table) => (table, Reading::Newest),
                    None => return Err(Error::NoTable { name: name.to_string() }),
                },
            };
            let provider = opened.provider(table, reading).await?;
            context.register_table(reference.clone(), provider).map_err(query_failed)?;
        }
        let versions = opened.read;
        let logical = context.state().statement_to_plan(statement).await.map_err(query_failed)?;
        let reads_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        reads_only.verify_plan(&logical).map_err(query_failed)?;
        Ok(Plan { logical, versions })
    }
}

/// A statement that only reads, and the versions that it reads.
struct Plan {
    logical: LogicalPlan,
    versions: Vec<(TableName, u64)>,
}

impl Plan {
    async fn rows(self, context: &SessionContext) -> Result<Rows, Error> {
        let frame = context.execute_logical_plan(self.logical).await.map_err(query_failed)?;
        let stream = frame.execute_stream().await.map_err(query_failed)?;
        Ok(Rows::of(stream, self.versions))
    }
}

/// The tables that a query has opened so far.
struct Opened<'a> {
    versions: &'a Versions,
    context: &'a SessionContext,
    newest: HashMap<TableName, DeltaTable>,
    read: Vec<(TableName, u64)>,
}

impl Opened<'_> {
    async fn provider(&mut self, table: TableName, reading: Reading) -> Result<Arc<dyn TableProvider>, Error> {
        match reading {
            Reading::Newest => self.newest(table).await?.provider(self.context).await,
            Reading::Version(version) => self.at(table, version).await?.provider(self.context).await,
            Reading::AsOf(time) => {
                let version = self.versions.version_at(table, time).await?;
                self.at(table, version).await?.provider(self.context).await
            }
            Reading::KnownAt(time) => {
                let provider = self.newest(table).await?.provider(self.context).await?;
                let time = ScalarValue::TimestampMicrosecond(Some(time.micros()), Some("UTC".into()));
                let known = self.context.read_table(provider).map_err(query_failed)?;
                Ok(known.filter(col("ingest_time").lt_eq(lit(time))).map_err(query_failed)?.into_view())
            }
            Reading::Changes { from, to } => self.changes(table, from, to).await,
            Reading::History => self.history(table).await,
        }
    }

    async fn newest(&mut self, table: TableName) -> Result<Pinned, Error> {
        let delta = match self.newest.get(&table) {
            Some(delta) => delta.clone(),
            None => crate::table::load(self.versions.store(), table).await?,
        };
        self.newest.insert(table, delta.clone());
        let pinned = Pinned::new(table, delta);
        self.note(table, pinned.version());
        Ok(pinned)
    }

    async fn at(&mut self, table: TableName, version: u64) -> Result<Pinned, Error> {
        let pinned = Pinned::new(table, self.versions.open(table, version).await?);
        self.note(table, version);
        Ok(pinned)
    }

    fn note(&mut self, table: TableName, version: u64) {
        if !self.read.contains(&(table, version)) {
            self.read.push((table, version));
        }
    }

    /// The rows that commits after `from` up to `to` added and removed.
    async fn changes(&mut self, table: TableName, from: u64, to: u64) -> Result<Arc<dyn TableProvider>, Error> {
        let last = self.at(table, to).await?;
        let columns: Vec<String> =
            table.schema().fields().iter().map(|field| format!("\"{}\"", field.name())).collect();
        let columns = columns.join(", ");
        let nothing = format!("changes of {}: nothing", table.as_str());
        self.context.register_table(quoted(&nothing), last.provider(self.context).await?).map_err(query_failed)?;
        let mut selects = vec![format!(
            "SELECT {columns}, 'insert' AS {CHANGE}, CAST(0 AS BIGINT) AS {VERSION} FROM \"{nothing}\" WHERE FALSE"
        )];
        for part in self.parts(table, last.delta(), from, to).await? {
            let (scan, files) = self.register(table, &part).await?;
            selects.push(format!(
                "SELECT {columns}, '{change}' AS {CHANGE}, {VERSION} FROM \"{scan}\" JOIN \"{files}\" \
                 ON CAST(\"{scan}\".{FILE} AS VARCHAR) = \"{files}\".{FILE}",
                change = part.change
            ));
        }
        let changes = self.context.sql(&selects.join(" UNION ALL ")).await.map_err(query_failed)?;
        Ok(changes.into_view())
    }

    /// The files that commits after `from` up to `to` added and removed, so that each part's files are in one version.
    async fn parts(&self, table: TableName, newest: &DeltaTable, from: u64, to: u64) -> Result<Vec<Part>, Error> {
        let mut parts = Vec::new();
        let mut added = Part { change: "insert", at: from, files: Vec::new() };
        for version in from + 1..=to {
            let Some(actions) = actions_of(newest, table, version).await? else {
                let oldest = self.versions.oldest_whole(newest, table, |_| false).await?;
                let newest = newest.version().unwrap_or_default();
                return Err(Error::VersionRemoved { table: table.as_str(), version, oldest, newest });
            };
            let mut removed = Part { change: "delete", at: version - 1, files: Vec::new() };
            let mut fresh = Vec::new();
            let mut removes = false;
            for action in actions {
                match action {
                    Action::Add(file) if file.data_change => fresh.push((file.path, version)),
                    Action::Remove(file) => {
                        removes = true;
                        removed.files.extend(file.data_change.then_some((file.path, version)));
                    }
                    _ => {}
                }
            }
            if removes {
                // From here on, versions may lack files that were added before.
                parts.push(std::mem::replace(&mut added, Part { change: "insert", at: version, files: Vec::new() }));
            }
            added.at = version;
            added.files.extend(fresh);
            parts.push(removed);
        }
        parts.push(added);
        parts.retain(|part| !part.files.is_empty());
        if parts.len() > MAX_PARTS {
            let sentence = format!(
                "rows of `{}` were rewritten too often between the versions {from} and {to}: ask for fewer versions",
                table.as_str()
            );
            return Err(Error::Query(sentence));
        }
        Ok(parts)
    }

    /// Registers the rows of a part's files, and the version that each file belongs to.
    async fn register(&self, table: TableName, part: &Part) -> Result<(String, String), Error> {
        let pinned = Pinned::new(table, self.versions.open(table, part.at).await?);
        let scan = format!("changes of {}: {} at {}", table.as_str(), part.change, part.at);
        let files = format!("{scan}, files");
        let paths = part.files.iter().map(|(path, _)| path.clone()).collect();
        let rows = pinned.file_provider(self.context, paths, FILE).await?;
        self.context.register_table(quoted(&scan), rows).map_err(query_failed)?;
        let root = pinned.delta().log_store().root_url().clone();
        let urls = part.files.iter().map(|(path, _)| file_url(&root, path)).collect::<Result<Vec<_>, _>>()?;
        let columns: Vec<(Field, ArrayRef)> = vec![
            (Field::new(FILE, DataType::Utf8, false), Arc::new(StringArray::from(urls))),
            (Field::new(VERSION, DataType::Int64, false), longs(part.files.iter().map(|(_, version)| Some(*version)))),
        ];
        self.context.register_table(quoted(&files), in_memory(columns)?).map_err(query_failed)?;
        Ok((scan, files))
    }

    /// Every commit whose time is known; what it did, where the log still says so.
    async fn history(&mut self, table: TableName) -> Result<Arc<dyn TableProvider>, Error> {
        let times = self.versions.commit_times(table).await?;
        let newest = self.newest(table).await?;
        let mut commits = Vec::new();
        for commit in &times {
            let actions = actions_of(newest.delta(), table, commit.version).await?;
            commits.push(actions.map(|actions| Commit::of(&actions)));
        }
        let known = |value: fn(&Commit) -> u64| longs(commits.iter().map(|commit| commit.as_ref().map(value)));
        let operation = commits.iter().map(|commit| commit.as_ref().map(|commit| commit.operation.as_str()));
        let commit_times = TimestampMicrosecondArray::from_iter_values(times.iter().map(|commit| commit.time.micros()));
        in_memory(vec![
            (Field::new("version", DataType::Int64, false), longs(times.iter().map(|commit| Some(commit.version)))),
            (Field::new("commit_time", time_type(), false), Arc::new(commit_times.with_timezone("UTC"))),
            (Field::new("operation", DataType::Utf8, true), Arc::new(operation.collect::<StringArray>())),
            (Field::new("rows_added", DataType::Int64, true), known(|commit| commit.rows_added)),
            (Field::new("files_added", DataType::Int64, true), known(|commit| commit.files_added)),
            (Field::new("files_removed", DataType::Int64, true), known(|commit| commit.files_removed)),
        ])
    }
}

/// Files whose rows came or went, with the version that each belongs to.
struct Part {
    change: &'static str,
    /// A version that has all of them.
    at: u64,
    files: Vec<(String, u64)>,
}

/// What one commit did.
struct Commit {
    operation: String,
    rows_added: u64,
    files_added: u64,
    files_removed: u64,
}

impl Commit {
    fn of(actions: &[Action]) -> Self {
        let mut commit = Self { operation: String::new(), rows_added: 0, files_added: 0, files_removed: 0 };
        for action in actions {
            match action {
                Action::CommitInfo(info) => commit.operation = info.operation.clone().unwrap_or_default(),
                Action::Remove(_) => commit.files_removed += 1,
                Action::Add(file) => {
                    commit.files_added += 1;
                    let rows = file.get_stats().ok().flatten().filter(|_| file.data_change);
                    commit.rows_added += rows.map_or(0, |stats| u64::try_from(stats.num_records).unwrap_or(0));
                }
                _ => {}
            }
        }
        commit
    }
}

fn longs(values: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    Arc::new(values.map(|value| value.map(|value| i64::try_from(value).unwrap_or(i64::MAX))).collect::<Int64Array>())
}

fn in_memory(columns: Vec<(Field, ArrayRef)>) -> Result<Arc<dyn TableProvider>, Error> {
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), arrays).map_err(|error| query_failed(error.into()))?;
    Ok(Arc::new(MemTable::try_new(schema, vec![vec![batch]]).map_err(query_failed)?))
}

/// A file as a scan names it.
fn file_url(root: &Url, path: &str) -> Result<String, Error> {
    let url = root.join(path).map_err(|error| Error::Query(format!("`{path}` names no file of a table: {error}")))?;
    Ok(url.to_string())
}

fn quoted(name: &str) -> TableReference {
    TableReference::bare(name)
}

/// Takes our own error out of `DataFusion`'s, keeps what storage said, and calls the rest a matter of the query.
pub(crate) fn query_failed(error: DataFusionError) -> Error {
    if matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)) {
        return Error::Query("the rows do not fit into the memory and the disk of one query: ask for fewer".to_owned());
    }
    match error {
        DataFusionError::Context(_, error) | DataFusionError::Diagnostic(_, error) => query_failed(*error),
        DataFusionError::External(error) => match error.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(error) => storage_failed(DataFusionError::External(error)),
        },
        DataFusionError::ArrowError(error, _) if is_of_storage(&error) => {
            storage_failed(DataFusionError::ArrowError(error, None))
        }
        DataFusionError::ArrowError(error, _) => Error::Query(error.to_string()),
        error @ (DataFusionError::ObjectStore(_)
        | DataFusionError::IoError(_)
        | DataFusionError::ParquetError(_)
        | DataFusionError::ExecutionJoin(_)
        | DataFusionError::Shared(_)) => storage_failed(error),
        error => Error::Query(crate::sql::sentence(&error)),
    }
}

const fn is_of_storage(error: &ArrowError) -> bool {
    matches!(error, ArrowError::IoError(..) | ArrowError::ExternalError(_) | ArrowError::ParquetError(_))
}

fn storage_failed(error: DataFusionError) -> Error {
    Error::delta("read what the query asks for")(DeltaTableError::from(error))
}

/// The columns in types that every reader knows: a scan gives texts as views and partition values as dictionaries.
fn plain_schema(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let plain = plain_type(field.data_type());
        Field::new(field.name(), plain, field.is_nullable())
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn plain_type(scanned: &DataType) -> DataType {
    match scanned {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some("UTC".into())),
        DataType::List(item) | DataType::ListView(item) => {
            DataType::List(Arc::new(item.as_ref().clone().with_data_type(plain_type(item.data_type()))))
        }
        other => other.clone(),
    }
}

fn plain_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, Error> {
    let failed = |error: ArrowError| Error::Query(error.to_string());
    let cast_column = |(column, field): (&ArrayRef, &Arc<Field>)| cast(column, field.data_type());
    let columns = batch.columns().iter().zip(schema.fields()).map(cast_column).collect::<Result<Vec<_>, _>>();
    // A batch may have rows and no columns, as of `SELECT` over nothing.
    let rows = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns.map_err(failed)?, &rows).map_err(failed)
}

#[cfg(test)]
mod tests {
    use domain::ErrorKind;
    use rstest::rstest;

    use super::*;
    use crate::{
        Lake,
        fixture::{self, flush, lake},
    };

    const FEATURES: TableName = TableName::Features;

    /// Versions 1 to 3 of `features` with 10, 20 and 30 rows; 4 is a compaction, 5 has 40 rows.
    async fn grown() -> (tempfile::TempDir, Lake) {
        let (folder, lake) = lake().await;
        for start in [0, 10, 20] {
            lake.flush("topic", flush(start, start + 10)).await.unwrap();
        }
        lake.compact(FEATURES).await.unwrap();
        lake.flush("topic", flush(30, 40)).await.unwrap();
        (folder, lake)
    }

    async fn texts(lake: &Lake, sql: &str) -> Result<Vec<Vec<String>>, Error> {
        fixture::texts(lake.versions().query(sql).await?).await
    }

    /// The cells of a one-row answer.
    async fn row(lake: &Lake, sql: &str) -> Vec<String> {
        let mut rows = texts(lake, sql).await.unwrap();
        assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
        rows.remove(0)
    }

    #[rstest]
    #[case("SELECT count(*) FROM features", &["40"])]
    #[case("SELECT count(*) FROM features VERSION AS OF 0", &["0"])]
    #[case("SELECT count(*), max(\"offset\") FROM features VERSION AS OF 2", &["20", "19"])]
    #[case("SELECT count(*) FROM features VERSION AS OF 4", &["30"])]
    #[case("SELECT count(features.price) FROM features VERSION AS OF 1", &["10"])]
    #[case(
        "SELECT count(*), count(old.price) FROM features new LEFT JOIN features VERSION AS OF 1 old \
         ON new.\"offset\" = old.\"offset\"",
        &["40", "10"]
    )]
    #[case(
        "WITH a AS (SELECT * FROM features VERSION AS OF 1), b AS (SELECT * FROM features VERSION AS OF 3) \
         SELECT (SELECT count(*) FROM a) a, (SELECT count(*) FROM b) b, \
         (SELECT count(*) FROM events VERSION AS OF 2) c",
        &["10", "30", "20"]
    )]
    #[case(
        "SELECT count(*) FROM features WHERE \"offset\" IN (SELECT \"offset\" FROM features VERSION AS OF 2)",
        &["20"]
    )]
    #[case(
        "WITH features AS (SELECT 7 AS seven) SELECT seven FROM features",
        &["7"]
    )]
    #[tokio::test]
    async fn each_reference_reads_its_own_version(#[case] sql: &str, #[case] expected: &[&str]) {
        let (_folder, lake) = grown().await;
        assert_eq!(row(&lake, sql).await, expected);
    }

    #[tokio::test]
    async fn an_answer_names_the_versions_read_and_only_those_tables_are_opened() {
        let (folder, lake) = grown().await;
        // A table that cannot be opened does not matter to a query that does not name it.
        std::fs::remove_dir_all(folder.path().join("windows")).unwrap();
        let sql = "SELECT 1 FROM events JOIN features VERSION AS OF 2 USING (\"offset\")";
        let mut versions = lake.versions().query(sql).await.unwrap().versions().to_vec();
        versions.sort_unstable();
        assert_eq!(versions, [(TableName::Events, 4), (FEATURES, 2)]);
        assert!(lake.versions().query("SELECT 1 FROM windows").await.is_err());
    }

    #[tokio::test]
    async fn changes_lead_from_one_version_to_another_and_a_compaction_is_none() {
        let (_folder, lake) = grown().await;
        let changes = "SELECT _change, _version, count(*), min(\"offset\") FROM changes('features', 1, 5) \
                       GROUP BY _change, _version ORDER BY _version";
        let expected = [["insert", "2", "10", "10"], ["insert", "3", "10", "20"], ["insert", "5", "10", "30"]];
        assert_eq!(texts(&lake, changes).await.unwrap(), expected);
        assert_eq!(row(&lake, "SELECT count(*) FROM changes('features', 3, 4)").await, ["0"]);
        assert_eq!(row(&lake, "SELECT count(*) FROM changes('features', 2, 2)").await, ["0"]);
        let whole = texts(&lake, "SELECT * FROM features ORDER BY \"offset\"").await.unwrap();
        let grown =
            texts(&lake, "SELECT * EXCLUDE (_change, _version) FROM changes('features', 0, 5) ORDER BY \"offset\"");
        assert_eq!(grown.await.unwrap(), whole);
    }

    #[tokio::test]
    async fn changes_name_the_rows_that_a_restore_took_away() {
        let (_folder, lake) = grown().await;
        lake.restore(FEATURES, 2, &[]).await.unwrap();
        let net = "SELECT \"offset\" FROM changes('features', 5, 6) GROUP BY \"offset\" \
                   HAVING sum(CASE WHEN _change = 'insert' THEN 1 ELSE -1 END) <> 0 ORDER BY 1";
        let taken: Vec<Vec<String>> = (20..40).map(|offset| vec![offset.to_string()]).collect();
        assert_eq!(texts(&lake, net).await.unwrap(), taken);
    }

    #[tokio::test]
    async fn what_was_known_at_a_time_leaves_out_later_records() {
        let (_folder, lake) = grown().await;
        // The fixture appends the record of offset n at second n + 1.
        let known = "SELECT count(*), max(\"offset\") FROM known_at('features', '2024-03-09T16:00:06Z')";
        assert_eq!(row(&lake, known).await, ["6", "5"]);
        let nothing = "SELECT count(*) FROM known_at('features', '2024-03-09T16:00:00.999999Z')";
        assert_eq!(row(&lake, nothing).await, ["0"]);
    }

    #[tokio::test]
    async fn the_version_of_a_time_is_found_after_the_log_has_forgotten_it() {
        let (folder, lake) = grown().await;
        let history = texts(&lake, "SELECT version, commit_time FROM history('features')").await.unwrap();
        let versions: Vec<&str> = history.iter().map(|row| row[0].as_str()).collect();
        assert_eq!(versions, ["0", "1", "2", "3", "4", "5"]);
        let time = |version: usize| history[version][1].clone();
        let count = async |time: &str| {
            let by_clause = row(&lake, &format!("SELECT count(*) FROM features TIMESTAMP AS OF '{time}'")).await;
            let by_function = row(&lake, &format!("SELECT count(*) FROM as_of('features', '{time}')")).await;
            assert_eq!(by_clause, by_function);
            by_clause[0].clone()
        };
        // Two commits may fall into one millisecond: then the later one is what was stored at that time.
        let newest_at = |time: &str| history.iter().rev().find(|row| row[1] == time).unwrap()[0].clone();
        let rows = |version: &str| ["0", "10", "20", "30", "30", "40"][version.parse::<usize>().unwrap()];
        assert_eq!(count(&time(3)).await, rows(&newest_at(&time(3))));
        assert_eq!(count("2999-01-01").await, "40");
        let before = texts(&lake, "SELECT 1 FROM features TIMESTAMP AS OF '2009-01-03'").await.unwrap_err();
        assert!(matches!(before, Error::BeforeFirst { first: 0, .. }), "{before:?}");
        assert_eq!(before.kind(), ErrorKind::NotFound);

        lake.checkpoint(FEATURES, 0).await.unwrap();
        for version in 0..5 {
            std::fs::remove_file(folder.path().join(format!("features/_delta_log/{version:020}.json"))).unwrap();
        }
        let removed = texts(&lake, &format!("SELECT 1 FROM features TIMESTAMP AS OF '{}'", time(1))).await.unwrap_err();
        assert!(matches!(removed, Error::VersionRemoved { oldest: 5, newest: 5, .. }), "{removed:?}");
        assert_eq!(removed.kind(), ErrorKind::Gone);
        assert_eq!(count(&time(5)).await, "40");
        let operations = texts(&lake, "SELECT version, operation FROM history('features')").await.unwrap();
        assert_eq!((operations.len(), operations[0][1].as_str()), (6, ""));
    }

    #[tokio::test]
    async fn a_time_that_was_never_noted_is_gone_and_not_guessed() {
        let (folder, lake) = grown().await;
        lake.checkpoint(FEATURES, 0).await.unwrap();
        for version in 0..5 {
            std::fs::remove_file(folder.path().join(format!("features/_delta_log/{version:020}.json"))).unwrap();
        }
        let removed = texts(&lake, "SELECT 1 FROM features TIMESTAMP AS OF '2020-01-01'").await.unwrap_err();
        assert!(matches!(removed, Error::TimeRemoved { oldest: 5, newest: 5, .. }), "{removed:?}");
        assert_eq!(removed.kind(), ErrorKind::Gone);
    }

    #[tokio::test]
    async fn a_version_that_is_not_there_is_named_with_those_that_are() {
        let (_folder, lake) = grown().await;
        let beyond = texts(&lake, "SELECT 1 FROM features VERSION AS OF 99").await.unwrap_err();
        assert!(matches!(beyond, Error::NoVersion { version: 99, newest: 5, .. }), "{beyond:?}");
        assert_eq!(beyond.kind(), ErrorKind::NotFound);
        lake.vacuum(FEATURES, 0, &[]).await.unwrap();
        let newest = lake.state(FEATURES).await.unwrap().version;
        let removed = texts(&lake, "SELECT 1 FROM features VERSION AS OF 3").await.unwrap_err();
        assert!(
            matches!(removed, Error::VersionRemoved { version: 3, oldest: 4, newest: n, .. } if n == newest),
            "{removed:?}"
        );
        assert_eq!(removed.kind(), ErrorKind::Gone);
        assert_eq!(row(&lake, "SELECT count(*) FROM features VERSION AS OF 4").await, ["30"]);
        assert_eq!(row(&lake, "SELECT count(*) FROM features VERSION AS OF 0").await, ["0"]);
    }

    #[rstest]
    #[case("SELECT * FROM trades", ErrorKind::NotFound, "there is no table `trades`: there are events")]
    #[case("SELECT * FROM other.features", ErrorKind::NotFound, "there is no table `other.features`")]
    #[case("SELECT * FROM information_schema.tables", ErrorKind::NotFound, "there is no table")]
    #[case("SELECT prize FROM features", ErrorKind::Invalid, "prize")]
    #[case("SELECT price FORM features", ErrorKind::Invalid, "")]
    #[case("SELECT 1 / 0", ErrorKind::Invalid, "ivide by zero")]
    #[case("SELECT * INTO copied FROM features", ErrorKind::Invalid, "")]
    #[case("SELECT * FROM features TABLESAMPLE (10 PERCENT)", ErrorKind::Invalid, "TABLESAMPLE")]
    #[case("SELECT * FROM features PARTITION (a)", ErrorKind::Invalid, "")]
    #[case("SELECT * FROM features WITH ORDINALITY", ErrorKind::Invalid, "WITH ORDINALITY")]
    #[case("SELECT * FROM '/etc/passwd'", ErrorKind::NotFound, "there is no table")]
    #[tokio::test]
    async fn what_cannot_be_answered_is_refused_in_kind(
        #[case] sql: &str,
        #[case] kind: ErrorKind,
        #[case] part: &str,
    ) {
        let (_folder, lake) = lake().await;
        let refused = texts(&lake, sql).await.unwrap_err();
        assert_eq!(refused.kind(), kind, "{refused:?}");
        assert!(refused.to_string().contains(part), "{refused}");
    }

    #[tokio::test]
    async fn a_limit_holds_where_only_partitions_are_read() {
        let (_folder, lake) = grown().await;
        for table in ["features VERSION AS OF 1", "features"] {
            let sql = format!("SELECT symbol FROM {table} WHERE symbol = 'BTC-USDT' LIMIT 1");
            assert_eq!(row(&lake, &sql).await, ["BTC-USDT"], "{sql}");
        }
    }

    #[tokio::test]
    async fn answers_have_plain_types() {
        let (_folder, lake) = grown().await;
        let sql = "SELECT symbol, source, timestamp, price, anomaly_type, [symbol] AS symbols FROM features";
        let rows = lake.versions().query(sql).await.unwrap();
        let types: Vec<DataType> = rows.schema().fields().iter().map(|field| field.data_type().clone()).collect();
        let texts = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
        let (text, price) = (DataType::Utf8, DataType::Float64);
        assert_eq!(types, [text.clone(), text.clone(), time_type(), price, text, texts]);
    }

    #[tokio::test]
    async fn reads_that_are_no_select_are_answered() {
        let (_folder, lake) = grown().await;
        let described = texts(&lake, "DESCRIBE features").await.unwrap();
        assert_eq!(described.len(), FEATURES.schema().fields().len());
        let explained = texts(&lake, "EXPLAIN SELECT * FROM features VERSION AS OF 2").await.unwrap();
        assert!(explained.concat().concat().contains("features version 2"), "{explained:?}");
    }
}
