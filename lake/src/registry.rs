//! The model registry: an `SQLite` file that says what was trained, promoted, measured and assigned to score, and who may
//! ask the service for it.
//!
//! Every table is append-only, and triggers in the schema refuse anything else: a record says for good what it said
//! first, and the champion is merely the version of the newest promotion. Each method is one transaction; one that
//! reads before it writes holds the write lock from its start, so that two processes never act on the same reading.
//! Times are passed in: nothing here reads a clock.

pub mod alerts;
pub mod keys;
pub mod life;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use domain::{Offset, Partition, Timestamp};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sqlx::{
    Connection, Row, Sqlite, SqliteConnection, Transaction,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};

use crate::{Error, artifacts::Artifact, durable};

/// The schema, embedded in the program.
static SCHEMA: Migrator = sqlx::migrate!("../migrations/registry");

/// How long a writer waits for another process's transaction.
const WRITE_LOCK_WAIT: Duration = Duration::from_secs(30);

/// Connections for reading; they never block the writer.
const MAX_READERS: u32 = 4;

/// What a model was trained from: enough to read the same rows again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingInputs {
    /// The Delta table.
    pub table: String,
    /// Its version.
    pub delta_version: u64,
    /// The rows of it, as an SQL condition.
    pub predicate: String,
    /// Rows that met the condition and have every value.
    pub rows: u64,
    /// Rows that met the condition and were left out, because a value is missing.
    pub rows_dropped: u64,
    /// Digest of the sorted rows.
    pub digest: String,
    /// Which of the rows were not learnt from; none, where all were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trimmed: Option<Trimmed>,
    /// The least event time asked for.
    #[serde(rename = "from_us", with = "micros")]
    pub from: Timestamp,
    /// The event time before which all rows lie.
    #[serde(rename = "to_us", with = "micros")]
    pub to: Timestamp,
    /// The markets, sorted.
    pub symbols: Vec<String>,
}

/// Rows that were left out because a first model of all rows found them the most anomalous.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trimmed {
    /// The share of the rows, in (0, 0.5].
    pub share: f64,
    /// How many they were.
    pub rows: u64,
}

/// What a detector was trained with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingParameters {
    /// Trees in the forest.
    pub trees: u32,
    /// Rows that each tree sees, at most.
    pub max_samples: u32,
    /// The expected share of anomalies, in (0, 0.5].
    pub contamination: f64,
    /// The quantile of the training scores beyond which an anomaly is an alert, in (0, 0.5].
    pub alert_quantile: f64,
}

/// A model as training made it, before the registry gave it a version.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainedModel {
    /// The name of the detector, such as `isolation-forest`.
    pub name: String,
    /// The version that was champion when this one was trained.
    pub parent: Option<i64>,
    /// When it was made.
    pub created: Timestamp,
    /// The version of the program that made it.
    pub code_version: String,
    /// What it was trained from.
    pub inputs: TrainingInputs,
    /// Hash of the feature specification.
    pub specification_hash: String,
    /// The seed of its randomness.
    pub seed: u64,
    /// What it was trained with.
    pub parameters: TrainingParameters,
    /// Its metrics per split.
    pub metrics: serde_json::Value,
    /// Means of the global scaler, in the order of [`domain::FEATURE_NAMES`].
    pub scaler_means: [f64; 5],
    /// Deviations of the global scaler, in the same order.
    pub scaler_deviations: [f64; 5],
    /// The score below which a row is an anomaly.
    pub threshold: f64,
    /// Its file.
    pub artifact: Artifact,
}

/// A registered model. It never changes.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelRecord {
    /// Given by the registry: 1, 2, 3...
    pub version: i64,
    /// What was registered.
    pub model: TrainedModel,
}

/// A version became champion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// The new champion.
    pub version: i64,
    /// The champion before it.
    pub previous: Option<i64>,
    /// When.
    pub at: Timestamp,
    /// Who did it: a person or a job.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// What the caller of [`Registry::promote`] believes about the champion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It does not matter who is champion.
    Anyone,
    /// There is no champion yet.
    Nobody,
    /// This version is champion.
    Version(i64),
}

impl Expected {
    fn holds(self, current: Option<i64>) -> bool {
        match self {
            Self::Anyone => true,
            Self::Nobody => current.is_none(),
            Self::Version(version) => current == Some(version),
        }
    }
}

/// What came of a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promoted {
    /// The version is champion now.
    Promoted,
    /// It was champion before; nothing was written.
    AlreadyChampion,
    /// Another version is champion than the caller expected; nothing was written.
    Conflict {
        /// The champion.
        current: Option<i64>,
    },
}

/// A measurement of a model on a slice of history.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The model.
    pub version: i64,
    /// When it was measured.
    pub at: Timestamp,
    /// Which rows it was measured on.
    pub slice: serde_json::Value,
    /// What was found.
    pub report: serde_json::Value,
}

/// From `first_offset` on, a partition's records are scored by a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The model.
    pub model_version: i64,
    /// The first offset that it scores.
    pub first_offset: Offset,
    /// When it was assigned.
    pub at: Timestamp,
}

/// What came of an assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assigned {
    /// The model scores from the offset on.
    Assigned,
    /// It did so already, by the partition's last assignment; nothing was written.
    AlreadyAssigned,
    /// A later assignment of the partition starts at this offset: assign there or above. Nothing was written.
    Conflict {
        /// The least offset that an assignment may start at now.
        least_offset: Offset,
    },
}

/// The version of the model that scores `offset`: that of the assignment with the greatest first offset not above it,
/// and of several with the same first offset the last in the slice. `None` where no assignment reaches down to it.
#[must_use]
pub fn assigned(assignments: &[Assignment], offset: Offset) -> Option<i64> {
    let reached = assignments.iter().filter(|assignment| assignment.first_offset <= offset);
    // Of equal maxima, `max_by_key` returns the last.
    reached.max_by_key(|assignment| assignment.first_offset).map(|assignment| assignment.model_version)
}

/// The model registry. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Registry {
    path: Arc<Path>,
    writer: SqlitePool,
    readers: SqlitePool,
}

// Opening, and what every method needs.
impl Registry {
    /// Opens the registry at `path` and brings its schema up to date; makes it, and its folder, where missing. Any
    /// number of processes may do so at once.
    ///
    /// # Errors
    /// [`Error::RegistrySchema`] where a newer program made it; [`Error::File`] and [`Error::Registry`] where it cannot
    /// be opened.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            durable::create_folder(folder)?;
        }
        let options = SqliteConnectOptions::new().filename(path).foreign_keys(true).busy_timeout(WRITE_LOCK_WAIT);
        let writing = options
            .clone()
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let pool = |size| {
            let local = SqlitePoolOptions::new().before_acquire(|connection, _| is_sound(connection));
            let local = local.test_before_acquire(false).idle_timeout(None).max_lifetime(None);
            local.max_connections(size)
        };
        let registry = Self {
            path: path.into(),
            writer: pool(1).connect_lazy_with(writing),
            readers: pool(MAX_READERS).connect_lazy_with(options.read_only(true)),
        };
        let opening = opening_lock(path).await?;
        registry.migrate().await?;
        drop(opening);
        Ok(registry)
    }

    /// Waits for running transactions and closes the connections.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Brings the schema up to date, in one transaction.
    async fn migrate(&self) -> Result<(), Error> {
        let mut transaction = self.begin("bring the schema up to date").await?;
        // `run` would need a lifetime that the compiler cannot prove inside an async block.
        SCHEMA.run_direct(None, &mut *transaction, false).await.map_err(|error| match error {
            MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => {
                self.failed("bring the schema up to date")(cause)
            }
            other => Error::RegistrySchema { path: self.path.to_path_buf(), source: Box::new(other) },
        })?;
        transaction.commit().await.map_err(self.failed("bring the schema up to date"))
    }

    /// A transaction that holds the write lock from its start.
    async fn begin(&self, action: &'static str) -> Result<Transaction<'static, Sqlite>, Error> {
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(self.failed(action))
    }

    fn failed(&self, action: &'static str) -> impl Fn(sqlx::Error) -> Error {
        let path = Arc::clone(&self.path);
        move |source| Error::Registry { action, path: path.to_path_buf(), source: Box::new(source) }
    }

    fn unreadable(&self, what: String) -> Error {
        Error::RegistryValue { what, path: self.path.to_path_buf() }
    }
}

// Models.
impl Registry {
    /// Registers a model under the next version, which it returns.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] where a number is not finite; [`Error::NoModel`] where its parent does not exist;
    /// [`Error::Registry`].
    pub async fn register(&self, model: &TrainedModel) -> Result<i64, Error> {
        let mut transaction = self.begin("register a model").await?;
        let version = self.insert(model, &mut transaction).await?;
        transaction.commit().await.map_err(self.failed("register a model"))?;
        Ok(version)
    }

    async fn insert(&self, model: &TrainedModel, connection: &mut SqliteConnection) -> Result<i64, Error> {
        const ACTION: &str = "register a model";
        check_finite(model)?;
        let row = StoredModel::of(model)?;
        if let Some(parent) = model.parent {
            self.require_model(connection, parent).await?;
        }
        let version: i64 = sqlx::query_scalar("SELECT coalesce(max(version), 0) + 1 FROM models")
            .fetch_one(&mut *connection)
            .await
            .map_err(self.failed(ACTION))?;
        row.insert(version, model, connection).await.map_err(self.failed(ACTION))?;
        Ok(version)
    }

    /// The model with this version.
    ///
    /// # Errors
    /// [`Error::NoModel`], [`Error::Registry`], [`Error::RegistryValue`].
    pub async fn model(&self, version: i64) -> Result<ModelRecord, Error> {
        let row = sqlx::query("SELECT * FROM models WHERE version = ?").bind(version).fetch_optional(&self.readers);
        let row = row.await.map_err(self.failed("read a model"))?;
        self.record(&row.ok_or(Error::NoModel { version })?)
    }

    /// All models, oldest first.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::RegistryValue`].
    pub async fn models(&self) -> Result<Vec<ModelRecord>, Error> {
        let rows = sqlx::query("SELECT * FROM models ORDER BY version").fetch_all(&self.readers);
        rows.await.map_err(self.failed("list the models"))?.iter().map(|row| self.record(row)).collect()
    }

    /// The model with the greatest version, `None` before the first.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::RegistryValue`].
    pub async fn latest(&self) -> Result<Option<ModelRecord>, Error> {
        let row = sqlx::query("SELECT * FROM models ORDER BY version DESC LIMIT 1").fetch_optional(&self.readers);
        row.await.map_err(self.failed("read the latest model"))?.map(|row| self.record(&row)).transpose()
    }

    async fn require_model(&self, connection: &mut SqliteConnection, version: i64) -> Result<(), Error> {
        let found: Option<i64> = sqlx::query_scalar("SELECT version FROM models WHERE version = ?")
            .bind(version)
            .fetch_optional(connection)
            .await
            .map_err(self.failed("read a model"))?;
        found.map(|_| ()).ok_or(Error::NoModel { version })
    }

    fn record(&self, row: &SqliteRow) -> Result<ModelRecord, Error> {
        let version: i64 = self.column(row, "version", "a model")?;
        let of = format!("model version {version}");
        let parameters = TrainingParameters {
            trees: self.column(row, "trees", &of)?,
            max_samples: self.column(row, "max_samples", &of)?,
            contamination: self.column(row, "contamination", &of)?,
            alert_quantile: self.column(row, "alert_quantile", &of)?,
        };
        let seed: String = self.column(row, "seed", &of)?;
        let bytes: i64 = self.column(row, "artifact_bytes", &of)?;
        let model = TrainedModel {
            name: self.column(row, "name", &of)?,
            parent: self.column(row, "parent", &of)?,
            created: self.instant(row, "created_us", &of)?,
            code_version: self.column(row, "code_version", &of)?,
            inputs: self.json(row, "inputs", &of)?,
            specification_hash: self.column(row, "specification_hash", &of)?,
            seed: seed.parse().map_err(|_| self.unreadable(format!("seed of {of}")))?,
            parameters,
            metrics: self.json(row, "metrics", &of)?,
            scaler_means: self.json(row, "scaler_means", &of)?,
            scaler_deviations: self.json(row, "scaler_deviations", &of)?,
            threshold: self.column(row, "threshold", &of)?,
            artifact: Artifact {
                path: self.column(row, "artifact_path", &of)?,
                bytes: bytes.try_into().map_err(|_| self.unreadable(format!("artifact_bytes of {of}")))?,
                sha256: self.column(row, "artifact_sha256", &of)?,
            },
        };
        Ok(ModelRecord { version, model })
    }
}

// The champion.
impl Registry {
    /// Makes a version champion if the champion is the expected one: of two racing callers that expect the same, one
    /// succeeds.
    ///
    /// # Errors
    /// [`Error::NoModel`] where the version does not exist; [`Error::Registry`].
    pub async fn promote(
        &self,
        version: i64,
        expected: Expected,
        at: Timestamp,
        actor: &str,
        reason: &str,
    ) -> Result<Promoted, Error> {
        let mut transaction = self.begin("promote a model").await?;
        self.require_model(&mut transaction, version).await?;
        let promoted = self.move_champion(&mut transaction, version, expected, (at, actor, reason)).await?;
        transaction.commit().await.map_err(self.failed("promote a model"))?;
        Ok(promoted)
    }

    /// [`Registry::promote`] within a transaction, of a version that exists.
    async fn move_champion(
        &self,
        connection: &mut SqliteConnection,
        version: i64,
        expected: Expected,
        (at, actor, reason): (Timestamp, &str, &str),
    ) -> Result<Promoted, Error> {
        const ACTION: &str = "promote a model";
        let current: Option<i64> = sqlx::query_scalar("SELECT version FROM promotions ORDER BY id DESC LIMIT 1")
            .fetch_optional(&mut *connection)
            .await
            .map_err(self.failed(ACTION))?;
        if current == Some(version) {
            return Ok(Promoted::AlreadyChampion);
        }
        if !expected.holds(current) {
            return Ok(Promoted::Conflict { current });
        }
        sqlx::query("INSERT INTO promotions (version, previous, at_us, actor, reason) VALUES (?, ?, ?, ?, ?)")
            .bind(version)
            .bind(current)
            .bind(at.micros())
            .bind(actor)
            .bind(reason)
            .execute(connection)
            .await
            .map_err(self.failed(ACTION))?;
        Ok(Promoted::Promoted)
    }

    /// The champion, `None` before the first promotion.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::RegistryValue`].
    pub async fn champion(&self) -> Result<Option<ModelRecord>, Error> {
        let row = sqlx::query(
            "SELECT * FROM models WHERE version = (SELECT version FROM promotions ORDER BY id DESC LIMIT 1)",
        );
        let row = row.fetch_optional(&self.readers).await.map_err(self.failed("read the champion"))?;
        row.map(|row| self.record(&row)).transpose()
    }

    /// All promotions, oldest first.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::RegistryValue`].
    pub async fn promotions(&self) -> Result<Vec<Promotion>, Error> {
        let rows = sqlx::query("SELECT * FROM promotions ORDER BY id").fetch_all(&self.readers);
        let rows = rows.await.map_err(self.failed("list the promotions"))?;
        let promotion = |row| {
            Ok(Promotion {
                version: self.column(row, "version", "a promotion")?,
                previous: self.column(row, "previous", "a promotion")?,
                at: self.instant(row, "at_us", "a promotion")?,
                actor: self.column(row, "actor", "a promotion")?,
                reason: self.column(row, "reason", "a promotion")?,
            })
        };
        rows.iter().map(promotion).collect()
    }
}

// Evaluations.
impl Registry {
    /// Keeps a measurement of a model.
    ///
    /// # Errors
    /// [`Error::NoModel`] where the version does not exist; [`Error::Registry`].
    pub async fn record_evaluation(&self, evaluation: &Evaluation) -> Result<(), Error> {
        const ACTION: &str = "record an evaluation";
        let mut transaction = self.begin(ACTION).await?;
        self.require_model(&mut transaction, evaluation.version).await?;
        sqlx::query("INSERT INTO evaluations (version, at_us, slice, report) VALUES (?, ?, ?, ?)")
            .bind(evaluation.version)
            .bind(evaluation.at.micros())
            .bind(evaluation.slice.to_string())
            .bind(evaluation.report.to_string())
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(ACTION))?;
        transaction.commit().await.map_err(self.failed(ACTION))
    }

    /// All evaluations of a model, oldest first.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::RegistryValue`].
    pub async fn evaluations(&self, version: i64) -> Result<Vec<Evaluation>, Error> {
        let rows = sqlx::query("SELECT * FROM evaluations WHERE version = ? ORDER BY id").bind(version);
        let rows = rows.fetch_all(&self.readers).await.map_err(self.failed("list the evaluations"))?;
        let of = format!("an evaluation of model version {version}");
        let evaluation = |row| {
            Ok(Evaluation {
                version,
                at: self.instant(row, "at_us", &of)?,
                slice: self.json(row, "slice", &of)?,
                report: self.json(row, "report", &of)?,
            })
        };
        rows.iter().map(evaluation).collect()
    }
}

// Scoring assignments.
impl Registry {
    /// Lets a model score a partition from an offset on. It has to be done before a row scored by it is committed, so
    /// that a restart scores the same rows with the same model.
    ///
    /// # Errors
    /// [`Error::NoModel`] where the version does not exist; [`Error::Registry`].
    pub async fn assign(
        &self,
        topic_id: &str,
        partition: Partition,
        assignment: Assignment,
    ) -> Result<Assigned, Error> {
        const ACTION: &str = "assign a model";
        let mut transaction = self.begin(ACTION).await?;
        self.require_model(&mut transaction, assignment.model_version).await?;
        let last = sqlx::query_as::<_, (i64, Offset)>(
            "SELECT model_version, first_offset FROM assignments WHERE topic_id = ? AND partition = ?
             ORDER BY first_offset DESC, id DESC LIMIT 1",
        );
        let last = last.bind(topic_id).bind(partition).fetch_optional(&mut *transaction).await;
        match last.map_err(self.failed(ACTION))? {
            Some((_, first_offset)) if first_offset > assignment.first_offset => {
                return Ok(Assigned::Conflict { least_offset: first_offset });
            }
            Some((version, _)) if version == assignment.model_version => return Ok(Assigned::AlreadyAssigned),
            _ => {}
        }
        sqlx::query(
            "INSERT INTO assignments (topic_id, partition, model_version, first_offset, at_us) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(topic_id)
        .bind(partition)
        .bind(assignment.model_version)
        .bind(assignment.first_offset)
        .bind(assignment.at.micros())
        .execute(&mut *transaction)
        .await
        .map_err(self.failed(ACTION))?;
        transaction.commit().await.map_err(self.failed(ACTION))?;
        Ok(Assigned::Assigned)
    }

    /// Gives a topic the assignments of the one that it is a copy of, as far as it does not have them.
    ///
    /// # Errors
    /// [`Error::Registry`].
    pub async fn copy_assignments(&self, from: &str, to: &str) -> Result<(), Error> {
        const ACTION: &str = "copy the assignments of a topic";
        let mut transaction = self.begin(ACTION).await?;
        sqlx::query(
            "INSERT INTO assignments (topic_id, partition, model_version, first_offset, at_us)
             SELECT ?2, partition, model_version, first_offset, at_us FROM assignments AS made WHERE topic_id = ?1
             AND NOT EXISTS (SELECT 1 FROM assignments AS copied WHERE topic_id = ?2 AND partition = made.partition
                             AND model_version = made.model_version AND first_offset = made.first_offset
                             AND at_us = made.at_us)
             ORDER BY id",
        )
        .bind(from)
        .bind(to)
        .execute(&mut *transaction)
        .await
        .map_err(self.failed(ACTION))?;
        transaction.commit().await.map_err(self.failed(ACTION))
    }

    /// All assignments of a partition, in the order of their offsets and, among equal ones, of their making.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::RegistryValue`].
    pub async fn assignments(&self, topic_id: &str, partition: Partition) -> Result<Vec<Assignment>, Error> {
        let rows =
            sqlx::query("SELECT * FROM assignments WHERE topic_id = ? AND partition = ? ORDER BY first_offset, id");
        let rows = rows.bind(topic_id).bind(partition).fetch_all(&self.readers).await;
        let assignment = |row| {
            Ok(Assignment {
                model_version: self.column(row, "model_version", "an assignment")?,
                first_offset: self.column(row, "first_offset", "an assignment")?,
                at: self.instant(row, "at_us", "an assignment")?,
            })
        };
        rows.map_err(self.failed("list the assignments"))?.iter().map(assignment).collect()
    }
}

// Columns. `of` names the row in an error.
impl Registry {
    fn column<'r, T>(&self, row: &'r SqliteRow, name: &'static str, of: &str) -> Result<T, Error>
    where
        T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>,
    {
        row.try_get(name).map_err(|_| self.unreadable(format!("{name} of {of}")))
    }

    fn instant(&self, row: &SqliteRow, name: &'static str, of: &str) -> Result<Timestamp, Error> {
        self.column(row, name, of).map(Timestamp::from_micros)
    }

    fn json<T: DeserializeOwned>(&self, row: &SqliteRow, name: &'static str, of: &str) -> Result<T, Error> {
        let text: String = self.column(row, name, of)?;
        serde_json::from_str(&text).map_err(|_| self.unreadable(format!("{name} of {of}")))
    }
}

/// Whether a connection can begin a transaction: `SQLite` ends one by itself where the disk is full, and sqlx, which does
/// not hear of it, begins none any more.
pub(crate) fn is_sound(connection: &mut SqliteConnection) -> BoxFuture<'_, Result<bool, sqlx::Error>> {
    let is_sound = !connection.is_in_transaction();
    Box::pin(async move { Ok(is_sound) })
}

/// Lets one process at a time open the registry, until the lock is dropped or its process ends: `SQLite` does not wait
/// where two set the journal mode of a new file, and sqlx has no lock for its migrations of it.
async fn opening_lock(path: &Path) -> Result<File, Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    tokio::task::spawn_blocking(move || {
        let file = File::options().create(true).truncate(false).write(true).open(&name);
        let locked = file.and_then(|file| file.lock().map(|()| file));
        locked.map_err(Error::file("lock", name))
    })
    .await?
}

/// The columns of a model that are not stored as they are.
struct StoredModel {
    inputs: String,
    seed: String,
    metrics: String,
    scaler_means: String,
    scaler_deviations: String,
    artifact_bytes: i64,
}

impl StoredModel {
    fn of(model: &TrainedModel) -> Result<Self, Error> {
        let too_long = |_| invalid("the length of the model file", &model.artifact.bytes);
        Ok(Self {
            inputs: json_text("the training inputs", &model.inputs)?,
            seed: model.seed.to_string(),
            metrics: model.metrics.to_string(),
            scaler_means: json_text("the scaler", &model.scaler_means)?,
            scaler_deviations: json_text("the scaler", &model.scaler_deviations)?,
            artifact_bytes: model.artifact.bytes.try_into().map_err(too_long)?,
        })
    }

    async fn insert(
        self,
        version: i64,
        model: &TrainedModel,
        connection: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO models (version, name, parent, created_us, code_version, inputs, specification_hash, seed,
                 trees, max_samples, contamination, alert_quantile, metrics, scaler_means, scaler_deviations, threshold,
                 artifact_path, artifact_bytes, artifact_sha256)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(version)
        .bind(&model.name)
        .bind(model.parent)
        .bind(model.created.micros())
        .bind(&model.code_version)
        .bind(self.inputs)
        .bind(&model.specification_hash)
        .bind(self.seed)
        .bind(model.parameters.trees)
        .bind(model.parameters.max_samples)
        .bind(model.parameters.contamination)
        .bind(model.parameters.alert_quantile)
        .bind(self.metrics)
        .bind(self.scaler_means)
        .bind(self.scaler_deviations)
        .bind(model.threshold)
        .bind(&model.artifact.path)
        .bind(self.artifact_bytes)
        .bind(&model.artifact.sha256)
        .execute(connection)
        .await
        .map(|_| ())
    }
}

/// `SQLite` makes NULL of NaN, and JSON has no infinity: neither may get as far as a record.
fn check_finite(model: &TrainedModel) -> Result<(), Error> {
    let parameters = &model.parameters;
    let scaler = model.scaler_means.iter().chain(&model.scaler_deviations).map(|value| ("the scaler", *value));
    let all = scaler.chain([
        ("the contamination", parameters.contamination),
        ("the alert quantile", parameters.alert_quantile),
        ("the threshold", model.threshold),
    ]);
    for (what, value) in all {
        if !value.is_finite() {
            return Err(invalid(what, &value));
        }
    }
    Ok(())
}

fn invalid(what: &'static str, value: &dyn std::fmt::Display) -> Error {
    Error::InvalidValue { what, reason: format!("{value} is not a number that fits") }
}

fn json_text(what: &'static str, value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::InvalidValue { what, reason: error.to_string() })
}

/// Instants in JSON: microseconds of Unix time.
mod micros {
    use super::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
    pub(super) fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(at.micros())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        i64::deserialize(deserializer).map(Timestamp::from_micros)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::artifacts;
    use domain::ErrorKind;
    use rstest::rstest;
    use serde_json::json;
    use tempfile::TempDir;

    const NOON: Timestamp = Timestamp::from_seconds(1_710_000_000);

    pub(crate) fn model() -> TrainedModel {
        TrainedModel {
            name: "isolation-forest".to_owned(),
            parent: None,
            created: Timestamp::from_micros(1_710_000_000_123_456),
            code_version: "0.1.0".to_owned(),
            inputs: TrainingInputs {
                table: "features".to_owned(),
                delta_version: 17,
                predicate: "timestamp < '2024-03-09T16:00:00Z'".to_owned(),
                rows: 21_600,
                rows_dropped: 30,
                digest: "d1".to_owned(),
                trimmed: Some(Trimmed { share: 0.01, rows: 216 }),
                from: Timestamp::from_micros(-1),
                to: NOON,
                symbols: vec!["BTC-USDT".to_owned(), "ETH-USDT".to_owned()],
            },
            specification_hash: "5f".to_owned(),
            seed: u64::MAX,
            parameters: TrainingParameters {
                trees: 200,
                max_samples: 256,
                contamination: 0.01,
                alert_quantile: 0.0005,
            },
            metrics: json!({"test": {"f1": 0.1 + 0.2, "pr_auc": null}}),
            scaler_means: [0.1 + 0.2, -0.0, 1e-310, f64::MAX, 1.0 / 3.0],
            scaler_deviations: [1.0, f64::MIN_POSITIVE, 2.0_f64.sqrt(), 1e-12, 4.0],
            threshold: -0.1 - 0.2,
            artifact: artifacts::describe(b"forest"),
        }
    }

    pub(crate) async fn registry() -> (TempDir, Registry) {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(&folder.path().join("state/registry.sqlite")).await.unwrap();
        (folder, registry)
    }

    /// A registry with models 1, 2 and 3.
    async fn three_models() -> (TempDir, Registry) {
        let (folder, registry) = registry().await;
        for version in 1..=3 {
            assert_eq!(registry.register(&model()).await.unwrap(), version);
        }
        (folder, registry)
    }

    fn promotion(version: i64, previous: Option<i64>) -> Promotion {
        Promotion { version, previous, at: NOON, actor: "train".to_owned(), reason: "first".to_owned() }
    }

    async fn promote(registry: &Registry, version: i64, expected: Expected) -> Promoted {
        registry.promote(version, expected, NOON, "train", "first").await.unwrap()
    }

    #[tokio::test]
    async fn record_is_read_back_to_the_last_bit_after_reopening() {
        let (folder, registry) = registry().await;
        assert_eq!(registry.latest().await.unwrap(), None);
        assert_eq!(registry.register(&model()).await.unwrap(), 1);
        let child = TrainedModel { parent: Some(1), seed: 0, ..model() };
        assert_eq!(registry.register(&child).await.unwrap(), 2);
        registry.close().await;
        let registry = Registry::open(&folder.path().join("state/registry.sqlite")).await.unwrap();
        let (first, second) = (ModelRecord { version: 1, model: model() }, ModelRecord { version: 2, model: child });
        assert_eq!(registry.model(1).await.unwrap(), first);
        assert_eq!(registry.latest().await.unwrap(), Some(second.clone()));
        let read = registry.models().await.unwrap();
        assert_eq!(read, [first, second]);
        // Equality does not tell -0 from 0.
        let bits = |values: [f64; 5]| values.map(f64::to_bits);
        assert_eq!(bits(read[0].model.scaler_means), bits(model().scaler_means));
        assert_eq!(bits(read[0].model.scaler_deviations), bits(model().scaler_deviations));
    }

    #[rstest]
    #[case::threshold(TrainedModel { threshold: f64::NAN, ..model() }, "the threshold NaN")]
    #[case::scaler(TrainedModel { scaler_means: [f64::INFINITY; 5], ..model() }, "the scaler inf")]
    #[tokio::test]
    async fn number_that_is_not_finite_is_refused(#[case] model: TrainedModel, #[case] said: &str) {
        let (_folder, registry) = registry().await;
        let error = registry.register(&model).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let text = error.to_string().replace(" cannot be stored in the model registry:", "");
        assert!(text.starts_with(said), "{text}");
        assert_eq!(registry.models().await.unwrap(), []);
    }

    #[tokio::test]
    async fn unknown_version_is_not_found() {
        let (_folder, registry) = registry().await;
        let orphan = TrainedModel { parent: Some(7), ..model() };
        let evaluation = Evaluation { version: 7, at: NOON, slice: json!({}), report: json!({}) };
        let assignment = Assignment { model_version: 7, first_offset: 0, at: NOON };
        let errors = [
            registry.model(7).await.unwrap_err(),
            registry.register(&orphan).await.unwrap_err(),
            registry.promote(7, Expected::Anyone, NOON, "train", "").await.unwrap_err(),
            registry.record_evaluation(&evaluation).await.unwrap_err(),
            registry.assign("topic", 0, assignment).await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, Error::NoModel { version: 7 }), "{error}");
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
    }

    #[rstest]
    #[case("UPDATE models SET threshold = 0", "a model record never changes: register a new version")]
    #[case("DELETE FROM models", "a model record is never deleted")]
    #[case("INSERT OR REPLACE INTO models SELECT * FROM models WHERE version = 1", "model versions count up by one")]
    #[case("UPDATE promotions SET reason = ''", "a promotion never changes")]
    #[case("DELETE FROM promotions", "a promotion is never deleted")]
    #[case("INSERT OR REPLACE INTO promotions VALUES (1, 2, 1, 0, 'a', '')", "a promotion names the champion")]
    #[case("INSERT INTO promotions VALUES (9, 2, 3, 0, 'a', '')", "a promotion names the champion")]
    #[case("UPDATE evaluations SET report = '{}'", "an evaluation never changes")]
    #[case("DELETE FROM evaluations", "an evaluation is never deleted")]
    #[case("INSERT OR REPLACE INTO evaluations SELECT * FROM evaluations", "an evaluation is never replaced")]
    #[case("UPDATE assignments SET first_offset = 0", "an assignment never changes")]
    #[case("DELETE FROM assignments", "an assignment is never deleted")]
    #[case("INSERT OR REPLACE INTO assignments SELECT * FROM assignments", "an assignment never starts below")]
    #[case("INSERT INTO assignments VALUES (9, 'topic', 0, 2, 99, 0)", "an assignment never starts below")]
    #[tokio::test]
    async fn schema_refuses_to_change_the_past(#[case] statement: &'static str, #[case] said: &str) {
        let (_folder, registry) = three_models().await;
        promote(&registry, 1, Expected::Nobody).await;
        let evaluation = Evaluation { version: 1, at: NOON, slice: json!({}), report: json!([1]) };
        registry.record_evaluation(&evaluation).await.unwrap();
        let assignment = Assignment { model_version: 1, first_offset: 100, at: NOON };
        registry.assign("topic", 0, assignment).await.unwrap();
        let error = sqlx::query(statement).execute(&registry.writer).await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(registry.model(1).await.unwrap().model, model());
        assert_eq!(registry.promotions().await.unwrap(), [promotion(1, None)]);
        assert_eq!(registry.evaluations(1).await.unwrap(), [evaluation]);
        assert_eq!(registry.assignments("topic", 0).await.unwrap(), [assignment]);
    }

    #[tokio::test]
    async fn reader_cannot_write() {
        let (_folder, registry) = registry().await;
        let error = sqlx::query("CREATE TABLE t (a)").execute(&registry.readers).await.unwrap_err();
        assert!(error.to_string().contains("readonly"), "{error}");
    }

    #[tokio::test]
    async fn commits_are_on_disk_when_they_return() {
        let (_folder, registry) = registry().await;
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&registry.writer).await.unwrap();
        let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&registry.writer).await.unwrap();
        assert_eq!((synchronous, journal.as_str()), (2, "wal"));
    }

    #[tokio::test]
    async fn champion_is_the_version_of_the_newest_promotion() {
        let (_folder, registry) = three_models().await;
        assert_eq!(registry.champion().await.unwrap(), None);
        assert_eq!(promote(&registry, 2, Expected::Version(1)).await, Promoted::Conflict { current: None });
        assert_eq!(promote(&registry, 2, Expected::Nobody).await, Promoted::Promoted);
        assert_eq!(promote(&registry, 2, Expected::Nobody).await, Promoted::AlreadyChampion);
        assert_eq!(promote(&registry, 3, Expected::Nobody).await, Promoted::Conflict { current: Some(2) });
        assert_eq!(promote(&registry, 3, Expected::Version(2)).await, Promoted::Promoted);
        assert_eq!(promote(&registry, 1, Expected::Anyone).await, Promoted::Promoted);
        assert_eq!(registry.champion().await.unwrap().map(|record| record.version), Some(1));
        let events = [promotion(2, None), promotion(3, Some(2)), promotion(1, Some(3))];
        assert_eq!(registry.promotions().await.unwrap(), events);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_two_handles_that_race_to_promote_one_succeeds() {
        let (folder, first) = three_models().await;
        let second = Registry::open(&folder.path().join("state/registry.sqlite")).await.unwrap();
        promote(&first, 1, Expected::Nobody).await;
        let mut current = 1;
        for _ in 0..50 {
            let (a, b) = (current % 3 + 1, (current + 1) % 3 + 1);
            let expected = Expected::Version(current);
            let race = |registry: &Registry, version| {
                let registry = registry.clone();
                tokio::spawn(async move { promote(&registry, version, expected).await })
            };
            let (of_a, of_b) = tokio::join!(race(&first, a), race(&second, b));
            let (winner, results) = match (of_a.unwrap(), of_b.unwrap()) {
                results @ (Promoted::Promoted, _) => (a, results),
                results => (b, results),
            };
            let conflict = Promoted::Conflict { current: Some(winner) };
            let expected = if winner == a { (Promoted::Promoted, conflict) } else { (conflict, Promoted::Promoted) };
            assert_eq!(results, expected);
            current = winner;
        }
        assert_eq!(second.champion().await.unwrap().map(|record| record.version), Some(current));
        assert_eq!(second.promotions().await.unwrap().len(), 51);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn racing_registrations_get_distinct_versions() {
        let (folder, first) = registry().await;
        let second = Registry::open(&folder.path().join("state/registry.sqlite")).await.unwrap();
        let register = |number: usize| {
            let registry = if number.is_multiple_of(2) { first.clone() } else { second.clone() };
            tokio::spawn(async move { registry.register(&model()).await.unwrap() })
        };
        let versions = futures::future::join_all((0..20).map(register)).await;
        let mut versions: Vec<i64> = versions.into_iter().map(Result::unwrap).collect();
        versions.sort_unstable();
        assert_eq!(versions, (1..=20).collect::<Vec<_>>());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 8)]
    async fn many_may_open_a_new_registry_at_once() {
        for _ in 0..10 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("registry.sqlite");
            let open = |_| {
                let path = path.clone();
                tokio::spawn(async move { Registry::open(&path).await })
            };
            for opened in futures::future::join_all((0..8).map(open)).await {
                let registry = opened.unwrap().unwrap();
                assert_eq!(registry.models().await.unwrap(), []);
            }
        }
    }

    #[tokio::test]
    async fn registry_of_a_newer_program_is_refused() {
        let (folder, registry) = registry().await;
        sqlx::query("INSERT INTO _sqlx_migrations VALUES (9999, 'later', 0, TRUE, x'00', 0)")
            .execute(&registry.writer)
            .await
            .unwrap();
        let error = Registry::open(&folder.path().join("state/registry.sqlite")).await.unwrap_err();
        assert!(error.to_string().contains("start the newer one"), "{error}");
    }

    #[tokio::test]
    async fn file_that_is_no_database_is_corrupt() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.sqlite");
        std::fs::write(&path, [7; 4096]).unwrap();
        let error = Registry::open(&path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    }

    #[tokio::test]
    async fn evaluations_belong_to_their_model_in_order() {
        let (_folder, registry) = three_models().await;
        let evaluation = |version, f1: f64| Evaluation {
            version,
            at: NOON,
            slice: json!({"from": 1, "to": 2}),
            report: json!({"f1": f1}),
        };
        let all = [evaluation(1, 0.5), evaluation(2, 0.1 + 0.2), evaluation(1, 0.25)];
        for one in &all {
            registry.record_evaluation(one).await.unwrap();
        }
        assert_eq!(registry.evaluations(1).await.unwrap(), [all[0].clone(), all[2].clone()]);
        assert_eq!(registry.evaluations(2).await.unwrap(), [all[1].clone()]);
        assert_eq!(registry.evaluations(3).await.unwrap(), []);
    }

    #[tokio::test]
    async fn assignments_go_forward_in_each_partition() {
        let (_folder, registry) = three_models().await;
        let from = |model_version, first_offset| Assignment { model_version, first_offset, at: NOON };
        let assign = async |partition, assignment| registry.assign("topic", partition, assignment).await.unwrap();
        assert_eq!(assign(0, from(1, 0)).await, Assigned::Assigned);
        assert_eq!(assign(0, from(1, 50)).await, Assigned::AlreadyAssigned);
        assert_eq!(assign(0, from(2, 100)).await, Assigned::Assigned);
        assert_eq!(assign(0, from(3, 80)).await, Assigned::Conflict { least_offset: 100 });
        assert_eq!(assign(0, from(3, 100)).await, Assigned::Assigned);
        assert_eq!(assign(1, from(2, 5)).await, Assigned::Assigned);
        let stored = registry.assignments("topic", 0).await.unwrap();
        assert_eq!(stored, [from(1, 0), from(2, 100), from(3, 100)]);
        assert_eq!(registry.assignments("topic", 1).await.unwrap(), [from(2, 5)]);
        assert_eq!(registry.assignments("another", 0).await.unwrap(), []);
        let found = [0, 99, 100, 1_000].map(|offset| assigned(&stored, offset));
        assert_eq!(found, [Some(1), Some(1), Some(3), Some(3)]);
    }

    /// Every list of up to four assignments that start at 0 to 4, in any order, against a search from the offset down.
    #[test]
    fn offset_uses_the_last_assignment_that_reaches_it() {
        for length in 0..=4_u32 {
            for code in 0..5_i64.pow(length) {
                let assignment = |place| Assignment {
                    model_version: i64::from(place) + 1,
                    first_offset: code / 5_i64.pow(place) % 5,
                    at: NOON,
                };
                let all: Vec<Assignment> = (0..length).map(assignment).collect();
                for offset in -1..=6 {
                    let starting_at = |start| all.iter().rev().find(|assignment| assignment.first_offset == start);
                    let expected = (0..=offset).rev().find_map(starting_at).map(|found| found.model_version);
                    assert_eq!(assigned(&all, offset), expected, "offset {offset} of {all:?}");
                }
            }
        }
    }
}
