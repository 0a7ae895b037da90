//! Which run of a schedule begins next, and what follows a failed attempt.
//!
//! Of the runs that may begin, the one of the greatest priority does, then the oldest. Runs of one pool never go on side by
//! side, nor runs of one schedule unless it allows that: a run that begins in the place of one whose owner fell silent
//! takes that from its owner for good. An attempt whose owner fell silent counts as one.

use std::time::Duration;

use domain::Timestamp;
use serde_json::Value;
use sqlx::{Row, SqliteConnection};

use super::{Lease, Run, RunId, Store, Written, after, decided, millis, note};
use crate::{
    error::Error,
    run::{RunEnd, RunEvent, RunState},
    schedule::Retry,
};

/// A run that was begun.
#[derive(Clone, Debug, PartialEq)]
pub struct Begun {
    /// The right to do it.
    pub lease: Lease,
    /// The run.
    pub run: Run,
    /// The schedule that it is of.
    pub schedule: String,
    /// The time that it is of.
    pub of: Timestamp,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// How long the attempt may take.
    pub timeout: Duration,
}

/// What came of the end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The run has ended.
    Run,
    /// It is tried again, not before this time.
    Retried(Timestamp),
    /// Another owner has taken the run: nothing was written.
    Lost,
}

/// How the runs of schedules are.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// Runs that wait: for their place, or for another attempt.
    pub waiting: u64,
    /// Runs that an owner does.
    pub going: u64,
    /// For how long each job has not succeeded; none, where it never has.
    pub since_success: Vec<(String, Option<Duration>)>,
}

/// What follows a failed attempt.
enum AfterFailure {
    /// Another, not before this time.
    Retried(Timestamp),
    /// None: the run was asked to end.
    Cancelled,
    /// None: it was the last, or the lease was lost.
    Last,
}

/// What a run keeps of its schedule.
struct Rules {
    retry: Retry,
    timeout: Duration,
}

impl Rules {
    fn read(rules: &str) -> Option<Self> {
        let rules: Value = serde_json::from_str(rules).ok()?;
        let seconds = |name: &str| rules[name].as_u64().map(Duration::from_secs);
        let attempts = u32::try_from(rules["attempts"].as_u64()?).ok()?;
        let retry = Retry { attempts, pause: seconds("pause_s")?, max_pause: seconds("max_pause_s")? };
        Some(Self { retry, timeout: seconds("timeout_s")? })
    }
}

impl Store {
    /// Begins the run of a schedule that is next in its turn; none, where none may begin now.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn begin_next(&self, owner: &str, at: Timestamp, lease: Duration) -> Result<Option<Begun>, Error> {
        let failed = self.failed("begin a run");
        let mut transaction = self.begin(&failed).await?;
        self.give_up_silent(&mut transaction, at).await?;
        // Conditions are written as those of the indices, by which few rows are looked at.
        let sql = "SELECT id FROM runs AS run WHERE schedule IS NOT NULL AND state IN ('pending', 'running', 'interrupted') \
                   AND waits_until_ms <= ?1 AND (state <> 'running' OR lease_until_ms <= ?1) \
                   AND NOT EXISTS (SELECT 1 FROM runs AS other WHERE other.schedule IS NOT NULL \
                       AND other.state IN ('running', 'interrupted') AND other.state = 'running' \
                       AND other.id <> run.id AND other.lease_until_ms > ?1 AND (other.pool = run.pool OR \
                       (other.schedule = run.schedule AND (json_extract(run.rules, '$.overlap') <> 'allow' \
                           OR json_extract(other.rules, '$.overlap') <> 'allow')))) \
                   ORDER BY priority DESC, id LIMIT 1";
        let next: Option<i64> =
            sqlx::query_scalar(sql).bind(millis(at)).fetch_optional(&mut *transaction).await.map_err(&failed)?;
        let begun = match next {
            Some(id) => {
                self.pass_over_silent(&mut transaction, RunId(id), at).await?;
                Some(self.begin_run(&mut transaction, RunId(id), owner, at, lease).await?)
            }
            None => None,
        };
        transaction.commit().await.map_err(&failed)?;
        Ok(begun)
    }

    /// Ends an attempt. A failed one is tried again while attempts are left, after a pause that `share`, drawn from 0 to 1,
    /// shortens; one of a run that was asked to end is cancelled.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn end_attempt(&self, held: &Lease, end: &RunEnd, share: f64, at: Timestamp) -> Result<Ended, Error> {
        let mut end = end;
        if let RunEnd::Failed { error } = end {
            match self.after_failure(held, error, share, at).await? {
                AfterFailure::Retried(until) => return Ok(Ended::Retried(until)),
                AfterFailure::Cancelled => end = &RunEnd::Cancelled,
                AfterFailure::Last => {}
            }
        }
        Ok(match self.finish(held, end, at).await? {
            Written::Done => Ended::Run,
            Written::Lost => Ended::Lost,
        })
    }

    /// When something is due next: a schedule, or a run whose next attempt has not come by `now`; none, where nothing is.
    /// A run that has come and waits for its place is told by the end of the one before.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn next_due(&self, now: Timestamp) -> Result<Option<Timestamp>, Error> {
        let failed = self.failed("look for what is due next");
        let sql = "SELECT min(due) FROM (SELECT min(next_ms) AS due FROM schedules UNION ALL SELECT min(waits_until_ms) \
                   FROM runs WHERE schedule IS NOT NULL AND state = 'pending' AND waits_until_ms > ?)";
        let due: Option<i64> =
            sqlx::query_scalar(sql).bind(millis(now)).fetch_one(&self.pool).await.map_err(&failed)?;
        Ok(due.map(Timestamp::from_millis))
    }

    /// How the runs of schedules are, and for how long these jobs have not succeeded.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn health(&self, jobs: &[&str], now: Timestamp) -> Result<Health, Error> {
        let failed = self.failed("look at the runs");
        let count = async |state: &'static str| {
            let sql = "SELECT count(*) FROM runs WHERE schedule IS NOT NULL AND state IN ('pending', 'running', \
                       'interrupted') AND state = ?";
            let count: i64 = sqlx::query_scalar(sql).bind(state).fetch_one(&self.pool).await.map_err(&failed)?;
            Ok::<_, Error>(count.unsigned_abs())
        };
        let (waiting, going) = (count("pending").await?, count("running").await?);
        let mut since_success = Vec::new();
        for job in jobs {
            let sql = "SELECT max(ended_ms) FROM runs WHERE job = ? AND state = 'succeeded'";
            let ended: Option<i64> = sqlx::query_scalar(sql).bind(*job).fetch_one(&self.pool).await.map_err(&failed)?;
            let since =
                ended.map(|ended| Duration::from_millis(millis(now).saturating_sub(ended).max(0).unsigned_abs()));
            since_success.push(((*job).to_owned(), since));
        }
        Ok(Health { waiting, going, since_success })
    }

    /// Appends a line to the history of a run that the caller does.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn tell(&self, held: &Lease, text: &str, at: Timestamp) -> Result<Written, Error> {
        let touch = sqlx::query("SELECT 1");
        self.under(held, "keep a line of a run's history", touch, (None, "told", text), at).await
    }

    /// Lets a run wait for its next attempt, where there is one.
    async fn after_failure(&self, held: &Lease, error: &str, share: f64, at: Timestamp) -> Result<AfterFailure, Error> {
        let failed = self.failed("try a run again");
        let mut transaction = self.begin(&failed).await?;
        let run = self.read(&mut transaction, held.run).await?;
        if run.token != held.token || run.written != RunState::Running {
            return Ok(AfterFailure::Last);
        }
        if run.cancel_requested {
            return Ok(AfterFailure::Cancelled);
        }
        let (rules, attempts) = self.rules(&mut transaction, held.run).await?;
        let Some(pause) = rules.retry.pause_after(attempts, share) else { return Ok(AfterFailure::Last) };
        let (state, until) = (decided(held.run, RunState::Running, RunEvent::Retried)?, after(at, pause));
        let sql = "UPDATE runs SET state = ?, waits_until_ms = ?, lease_until_ms = NULL, error = ? WHERE id = ?";
        let update = sqlx::query(sql).bind(state.as_str()).bind(millis(until)).bind(error).bind(held.run.0);
        update.execute(&mut *transaction).await.map_err(&failed)?;
        note(&mut transaction, held.run, None, at, RunEvent::Retried.as_str(), error).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(AfterFailure::Retried(until))
    }

    /// Ends the runs whose owners fell silent and that nobody does again: they were asked to end, or it was the last attempt.
    async fn give_up_silent(&self, transaction: &mut SqliteConnection, at: Timestamp) -> Result<(), Error> {
        let failed = self.failed("give up a run");
        let sql = "SELECT id, cancel_requested FROM runs WHERE schedule IS NOT NULL AND state IN ('running', 'interrupted') \
                   AND (state = 'interrupted' OR lease_until_ms <= ?) \
                   AND (cancel_requested OR attempts >= json_extract(rules, '$.attempts'))";
        let silent = sqlx::query_as(sql).bind(millis(at)).fetch_all(&mut *transaction);
        let silent: Vec<(i64, bool)> = silent.await.map_err(&failed)?;
        for (id, was_asked_to_end) in silent {
            let (event, error) = if was_asked_to_end {
                (RunEvent::Cancelled, None)
            } else {
                (RunEvent::Failed, Some("its owner fell silent in the last attempt"))
            };
            let sql = "UPDATE runs SET state = ?, token = token + 1, error = ?, ended_ms = ?, lease_until_ms = NULL \
                       WHERE id = ?";
            let update = sqlx::query(sql).bind(event.as_str()).bind(error).bind(millis(at)).bind(id);
            update.execute(&mut *transaction).await.map_err(&failed)?;
            let told = error.unwrap_or_default();
            note(transaction, RunId(id), None, at, event.as_str(), told).await.map_err(&failed)?;
        }
        Ok(())
    }

    /// Takes the silent runs in whose place a run begins from their owners: a late beat, or a clock that is set back, would
    /// let both go on side by side.
    async fn pass_over_silent(
        &self,
        transaction: &mut SqliteConnection,
        begins: RunId,
        at: Timestamp,
    ) -> Result<(), Error> {
        let failed = self.failed("begin a run");
        let sql = "UPDATE runs SET state = 'interrupted', token = token + 1, lease_until_ms = NULL \
                   FROM (SELECT id AS begun, pool AS its_pool, schedule AS its_schedule, \
                             json_extract(rules, '$.overlap') AS its_overlap FROM runs WHERE id = ?) \
                   WHERE runs.schedule IS NOT NULL AND state IN ('running', 'interrupted') AND state = 'running' \
                   AND id <> begun AND (pool = its_pool OR (schedule = its_schedule \
                       AND (its_overlap <> 'allow' OR json_extract(rules, '$.overlap') <> 'allow'))) \
                   RETURNING id, owner";
        let passed_over = sqlx::query_as(sql).bind(begins.0).fetch_all(&mut *transaction);
        let passed_over: Vec<(i64, Option<String>)> = passed_over.await.map_err(&failed)?;
        for (id, owner) in passed_over {
            let owner = owner.unwrap_or_default();
            note(transaction, RunId(id), None, at, "owner gone", &owner).await.map_err(&failed)?;
        }
        Ok(())
    }

    async fn begin_run(
        &self,
        transaction: &mut SqliteConnection,
        id: RunId,
        owner: &str,
        at: Timestamp,
        lease: Duration,
    ) -> Result<Begun, Error> {
        let failed = self.failed("begin a run");
        let lease = self.own(transaction, id, owner, at, lease).await?;
        let sql = "UPDATE runs SET attempts = attempts + 1, error = NULL WHERE id = ? RETURNING schedule, nominal_ms";
        let row = sqlx::query(sql).bind(id.0).fetch_one(&mut *transaction).await.map_err(&failed)?;
        let (rules, attempt) = self.rules(transaction, id).await?;
        Ok(Begun {
            lease,
            run: self.read(transaction, id).await?,
            schedule: row.get("schedule"),
            of: Timestamp::from_millis(row.get("nominal_ms")),
            attempt,
            timeout: rules.timeout,
        })
    }

    async fn rules(&self, connection: &mut SqliteConnection, id: RunId) -> Result<(Rules, u32), Error> {
        let failed = self.failed("read a run");
        let row = sqlx::query("SELECT rules, attempts FROM runs WHERE id = ?").bind(id.0).fetch_one(connection).await;
        let row = row.map_err(&failed)?;
        let unreadable = || Error::Unreadable { what: format!("rules of run {id}"), path: self.path.to_path_buf() };
        let rules = row.get::<Option<String>, _>("rules").as_deref().and_then(Rules::read).ok_or_else(unreadable)?;
        Ok((rules, row.get("attempts")))
    }
}
