//! Schedules in the store: what is applied, paused and triggered, and the tick that decides the times that have come.
//!
//! A tick is one transaction: the decisions, their runs, how far times are decided and which comes next. A crash leaves
//! all of it or nothing. Whatever changes a schedule decides first what came before.

use domain::Timestamp;
use serde_json::{Value, json};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{RunId, Store, millis};
use crate::{
    due::{Decision, Plan, Situation, plan},
    error::Error,
    schedule::{CATCH_UP_WINDOW, MAX_CATCH_UPS, Schedule},
};

/// Schedules decided in one tick; what is left is due at once again.
const SCHEDULES_PER_TICK: i64 = 1_000;

/// A kept schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredSchedule {
    /// The schedule.
    pub schedule: Schedule,
    /// Every time up to here is decided.
    pub decided_until: Timestamp,
    /// The next time that comes; none after the last.
    pub next: Option<Timestamp>,
    /// Since when it is paused; none, where it is not.
    pub paused_since: Option<Timestamp>,
}

/// What applying a schedule changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// There was none with this name: its times count from now on.
    New,
    /// There was another with this name.
    Changed,
    /// It was there as it is.
    Unchanged,
}

/// What is made up for after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// Nothing.
    None,
    /// The latest time.
    Last,
    /// Every time of the last 24 h, the newest 100.
    All,
}

/// What was decided about a time, or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDecision {
    /// The first of the times.
    pub first: Timestamp,
    /// The last of them.
    pub last: Timestamp,
    /// How many; not counted, where they are too old.
    pub times: Option<u64>,
    /// When it was decided.
    pub decided: Timestamp,
    /// The run that was created; none, where there is none.
    pub run: Option<RunId>,
    /// Why, as a sentence part.
    pub reason: String,
}

/// What a tick did with one schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticked {
    /// The schedule.
    pub schedule: String,
    /// What was decided.
    pub plan: Plan,
    /// The runs created, in the order of their times.
    pub runs: Vec<RunId>,
}

impl Store {
    /// Keeps schedules: new ones from now on, known ones as they are given. Others are left alone.
    ///
    /// # Errors
    /// Where the store cannot be written; then nothing is kept.
    pub async fn apply(&self, schedules: &[Schedule], at: Timestamp) -> Result<Vec<Applied>, Error> {
        let failed = self.failed("keep schedules");
        let mut transaction = self.begin(&failed).await?;
        let mut applied = Vec::new();
        for schedule in schedules {
            let known = self.find(&mut transaction, &schedule.name).await?;
            let (event, outcome, decided_until) = match known {
                Some(known) if known.schedule == *schedule => {
                    applied.push(Applied::Unchanged);
                    continue;
                }
                Some(known) => {
                    let until = self.decide(&mut transaction, &known, at).await?.plan.decided_until;
                    ("changed", Applied::Changed, until)
                }
                None => ("applied", Applied::New, at),
            };
            let sql = "INSERT INTO schedules (name, written, decided_until_ms, next_ms) VALUES (?1, ?2, ?3, ?4) \
                       ON CONFLICT (name) DO UPDATE SET written = ?2, next_ms = ?4";
            let written = schedule.written().to_string();
            let upsert = sqlx::query(sql)
                .bind(&schedule.name)
                .bind(&written)
                .bind(millis(decided_until))
                .bind(schedule.time.next(decided_until).map(millis));
            upsert.execute(&mut *transaction).await.map_err(&failed)?;
            note(&mut transaction, &schedule.name, at, event, &written).await.map_err(&failed)?;
            applied.push(outcome);
        }
        transaction.commit().await.map_err(&failed)?;
        Ok(applied)
    }

    /// All schedules, by name.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn schedules(&self) -> Result<Vec<StoredSchedule>, Error> {
        let failed = self.failed("list schedules");
        let rows = sqlx::query("SELECT * FROM schedules ORDER BY name").fetch_all(&self.pool).await.map_err(&failed)?;
        rows.iter().map(|row| self.as_schedule(row)).collect()
    }

    /// A schedule.
    ///
    /// # Errors
    /// [`Error::NoSchedule`] where there is none with this name.
    pub async fn schedule(&self, name: &str) -> Result<StoredSchedule, Error> {
        let mut connection = self.pool.acquire().await.map_err(self.failed("read a schedule"))?;
        self.required(&mut connection, name).await
    }

    /// Decides the times of all schedules that have come.
    ///
    /// # Errors
    /// Where the store cannot be written; then nothing is decided.
    pub async fn tick(&self, at: Timestamp) -> Result<Vec<Ticked>, Error> {
        let failed = self.failed("decide what is due");
        let mut transaction = self.begin(&failed).await?;
        let sql = "SELECT * FROM schedules WHERE next_ms <= ? ORDER BY next_ms, name LIMIT ?";
        let due = sqlx::query(sql).bind(millis(at)).bind(SCHEDULES_PER_TICK).fetch_all(&mut *transaction).await;
        let due = due.map_err(&failed)?.iter().map(|row| self.as_schedule(row)).collect::<Result<Vec<_>, _>>()?;
        let mut ticked = Vec::new();
        for stored in &due {
            ticked.push(self.decide(&mut transaction, stored, at).await?);
        }
        transaction.commit().await.map_err(&failed)?;
        Ok(ticked)
    }

    /// Pauses a schedule: times that come then are left out and are not missed. One that is paused stays as it is.
    ///
    /// # Errors
    /// [`Error::NoSchedule`]; where the store cannot be written.
    pub async fn pause(&self, name: &str, why: &str, at: Timestamp) -> Result<(), Error> {
        let failed = self.failed("pause a schedule");
        let mut transaction = self.begin(&failed).await?;
        let stored = self.required(&mut transaction, name).await?;
        if stored.paused_since.is_none() {
            // What is decided already is not of the pause, also where the clock was set back.
            let since = self.decide(&mut transaction, &stored, at).await?.plan.decided_until;
            let sql = "UPDATE schedules SET paused_ms = ? WHERE name = ?";
            sqlx::query(sql).bind(millis(since)).bind(name).execute(&mut *transaction).await.map_err(&failed)?;
            note(&mut transaction, name, at, "paused", why).await.map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)
    }

    /// Ends a pause, and makes up for times of it; the runs created.
    ///
    /// # Errors
    /// As [`Store::pause`].
    pub async fn resume(&self, name: &str, catch_up: CatchUp, at: Timestamp) -> Result<Vec<RunId>, Error> {
        let failed = self.failed("resume a schedule");
        let mut transaction = self.begin(&failed).await?;
        let stored = self.required(&mut transaction, name).await?;
        let mut runs = Vec::new();
        if let Some(paused) = stored.paused_since {
            self.decide(&mut transaction, &stored, at).await?;
            for time in made_up_for(&stored.schedule, paused, at, catch_up) {
                let run = self.start(&mut transaction, &stored.schedule, time, None, at).await?;
                let decision = (time, time, Some(1), Some(run), "it was made up for after a pause");
                decided(&mut transaction, name, at, decision).await.map_err(&failed)?;
                runs.push(run);
            }
            let sql = "UPDATE schedules SET paused_ms = NULL WHERE name = ?";
            sqlx::query(sql).bind(name).execute(&mut *transaction).await.map_err(&failed)?;
            let detail = format!("{} made up for", runs.len());
            note(&mut transaction, name, at, "resumed", &detail).await.map_err(&failed)?;
        }
        transaction.commit().await.map_err(&failed)?;
        Ok(runs)
    }

    /// Creates a run of a schedule by hand, whatever goes on; it is of the time `of`. Of runs with one key only the first
    /// is created.
    ///
    /// # Errors
    /// As [`Store::pause`].
    pub async fn trigger(&self, name: &str, of: Timestamp, key: Option<&str>, at: Timestamp) -> Result<RunId, Error> {
        let failed = self.failed("start a schedule by hand");
        let mut transaction = self.begin(&failed).await?;
        let stored = self.required(&mut transaction, name).await?;
        let key = key.map(|key| format!("{name}!{key}"));
        if let Some(known) = self.with_key(&mut transaction, &stored.schedule.job, key.as_deref()).await? {
            return Ok(known);
        }
        let run = self.start(&mut transaction, &stored.schedule, of, key, at).await?;
        let decision = (of, of, Some(1), Some(run), "it was started by hand");
        decided(&mut transaction, name, at, decision).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(run)
    }

    /// The newest decisions about a schedule, newest first; of those that cover a time only, where one is given.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn decisions(&self, name: &str, of: Option<Timestamp>, limit: u32) -> Result<Vec<StoredDecision>, Error> {
        let failed = self.failed("list decisions");
        let sql = "SELECT * FROM decisions WHERE schedule = ?1 AND (?2 IS NULL OR ?2 BETWEEN first_ms AND last_ms) \
                   ORDER BY id DESC LIMIT ?3";
        let rows = sqlx::query(sql).bind(name).bind(of.map(millis)).bind(limit).fetch_all(&self.pool).await;
        let time = |row: &SqliteRow, name: &str| Timestamp::from_millis(row.get(name));
        let decision = |row: &SqliteRow| StoredDecision {
            first: time(row, "first_ms"),
            last: time(row, "last_ms"),
            times: row.get::<Option<i64>, _>("times").map(i64::unsigned_abs),
            decided: time(row, "at_ms"),
            run: row.get::<Option<i64>, _>("run").map(RunId),
            reason: row.get("reason"),
        };
        Ok(rows.map_err(&failed)?.iter().map(decision).collect())
    }

    /// Decides the times of one schedule that have come.
    async fn decide(
        &self,
        transaction: &mut SqliteConnection,
        stored: &StoredSchedule,
        at: Timestamp,
    ) -> Result<Ticked, Error> {
        let failed = self.failed("decide what is due");
        let StoredSchedule { schedule, decided_until, paused_since, .. } = stored;
        let sql = "SELECT count(*) FROM runs WHERE schedule = ? AND state IN ('pending', 'running', 'interrupted')";
        let active: i64 =
            sqlx::query_scalar(sql).bind(&schedule.name).fetch_one(&mut *transaction).await.map_err(&failed)?;
        let situation = Situation {
            schedule,
            decided_until: *decided_until,
            is_paused: paused_since.is_some(),
            active_runs: usize::try_from(active).unwrap_or(usize::MAX),
            now: at,
        };
        let plan = plan(&situation);
        let mut runs = Vec::new();
        for decision in &plan.decisions {
            let row = match *decision {
                Decision::Run { at: of, is_missed } => {
                    let key = format!("{}@{of}", schedule.name);
                    let run = self.start(transaction, schedule, of, Some(key), at).await?;
                    runs.push(run);
                    (
                        of,
                        of,
                        Some(1),
                        Some(run),
                        if is_missed { "it was missed and is made up for" } else { "it was due" },
                    )
                }
                Decision::Skipped { first, last, times, reason } => (first, last, times, None, reason.as_str()),
            };
            decided(transaction, &schedule.name, at, row).await.map_err(&failed)?;
        }
        let sql = "UPDATE schedules SET decided_until_ms = ?, next_ms = ? WHERE name = ?";
        let update = sqlx::query(sql).bind(millis(plan.decided_until)).bind(plan.next.map(millis)).bind(&schedule.name);
        update.execute(transaction).await.map_err(&failed)?;
        Ok(Ticked { schedule: schedule.name.clone(), plan, runs })
    }

    /// Creates the run of a time.
    async fn start(
        &self,
        transaction: &mut SqliteConnection,
        schedule: &Schedule,
        of: Timestamp,
        key: Option<String>,
        at: Timestamp,
    ) -> Result<RunId, Error> {
        let failed = self.failed("keep a run");
        let sql = "INSERT INTO runs (job, spec, idempotency_key, created_ms, state, schedule, nominal_ms, rules, priority, \
                   pool) VALUES (?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?)";
        let insert = sqlx::query(sql)
            .bind(&schedule.job)
            .bind(schedule.spec.to_string())
            .bind(key)
            .bind(millis(at))
            .bind(&schedule.name)
            .bind(millis(of))
            .bind(rules(schedule).to_string())
            .bind(schedule.priority)
            .bind(&schedule.pool);
        let id = RunId(insert.execute(&mut *transaction).await.map_err(&failed)?.last_insert_rowid());
        super::note(transaction, id, None, at, "created", &schedule.name).await.map_err(&failed)?;
        Ok(id)
    }

    async fn with_key(
        &self,
        connection: &mut SqliteConnection,
        job: &str,
        key: Option<&str>,
    ) -> Result<Option<RunId>, Error> {
        let known = sqlx::query_scalar("SELECT id FROM runs WHERE job = ? AND idempotency_key = ?").bind(job).bind(key);
        let known: Option<i64> = known.fetch_optional(connection).await.map_err(self.failed("find a run"))?;
        Ok(known.map(RunId))
    }

    async fn required(&self, connection: &mut SqliteConnection, name: &str) -> Result<StoredSchedule, Error> {
        let found = self.find(connection, name).await?;
        found.ok_or_else(|| Error::NoSchedule { name: name.to_owned() })
    }

    async fn find(&self, connection: &mut SqliteConnection, name: &str) -> Result<Option<StoredSchedule>, Error> {
        let row = sqlx::query("SELECT * FROM schedules WHERE name = ?").bind(name).fetch_optional(connection).await;
        let row = row.map_err(self.failed("read a schedule"))?;
        row.as_ref().map(|row| self.as_schedule(row)).transpose()
    }

    fn as_schedule(&self, row: &SqliteRow) -> Result<StoredSchedule, Error> {
        let name: String = row.get("name");
        let unreadable = || Error::Unreadable { what: format!("schedule `{name}`"), path: self.path.to_path_buf() };
        let written = serde_json::from_str(row.get("written")).map_err(|_| unreadable())?;
        let time = |column: &str| row.get::<Option<i64>, _>(column).map(Timestamp::from_millis);
        Ok(StoredSchedule {
            schedule: Schedule::parse(&name, written).map_err(|_| unreadable())?,
            decided_until: Timestamp::from_millis(row.get("decided_until_ms")),
            next: time("next_ms"),
            paused_since: time("paused_ms"),
        })
    }
}

/// The times of a pause that are made up for.
fn made_up_for(schedule: &Schedule, paused: Timestamp, at: Timestamp, catch_up: CatchUp) -> Vec<Timestamp> {
    match catch_up {
        CatchUp::None => Vec::new(),
        CatchUp::Last => schedule.time.last_between(paused, at).into_iter().collect(),
        CatchUp::All => {
            let window = at.plus_micros(-i64::try_from(CATCH_UP_WINDOW.as_micros()).unwrap_or(i64::MAX));
            let times: Vec<Timestamp> =
                schedule.time.after(paused.max(window)).take_while(|time| *time <= at).collect();
            times[times.len().saturating_sub(MAX_CATCH_UPS)..].to_vec()
        }
    }
}

/// What a run keeps of its schedule.
fn rules(schedule: &Schedule) -> Value {
    json!({
        "overlap": schedule.overlap,
        "attempts": schedule.retry.attempts,
        "pause_s": schedule.retry.pause.as_secs(),
        "max_pause_s": schedule.retry.max_pause.as_secs(),
        "timeout_s": schedule.timeout.as_secs(),
    })
}

/// Appends a decision.
async fn decided(
    transaction: &mut SqliteConnection,
    schedule: &str,
    at: Timestamp,
    (first, last, times, run, reason): (Timestamp, Timestamp, Option<u64>, Option<RunId>, &str),
) -> Result<(), sqlx::Error> {
    let sql =
        "INSERT INTO decisions (schedule, first_ms, last_ms, times, at_ms, run, reason) VALUES (?, ?, ?, ?, ?, ?, ?)";
    let times = times.map(|times| i64::try_from(times).unwrap_or(i64::MAX));
    let insert = sqlx::query(sql)
        .bind(schedule)
        .bind(millis(first))
        .bind(millis(last))
        .bind(times)
        .bind(millis(at))
        .bind(run.map(|run| run.0))
        .bind(reason);
    insert.execute(transaction).await.map(|_| ())
}

/// Appends a line to a schedule's history.
async fn note(
    transaction: &mut SqliteConnection,
    schedule: &str,
    at: Timestamp,
    event: &str,
    detail: &str,
) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO schedule_events (schedule, at_ms, event, detail) VALUES (?, ?, ?, ?)";
    let insert = sqlx::query(sql).bind(schedule).bind(millis(at)).bind(event).bind(detail);
    insert.execute(transaction).await.map(|_| ())
}
