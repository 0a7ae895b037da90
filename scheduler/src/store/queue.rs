//! Which run of a schedule begins next, and what follows a failed attempt.
//!
//! Of the runs that may begin, the one of the greatest priority does, then the oldest. Runs of one pool never go on side by
//! side, nor runs of one schedule unless it allows that. An attempt whose owner fell silent counts as one.

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
                       (other.schedule = run.schedule AND json_extract(run.rules, '$.overlap') <> 'allow'))) \
                   ORDER BY priority DESC, id LIMIT 1";
        let next: Option<i64> =
            sqlx::query_scalar(sql).bind(millis(at)).fetch_optional(&mut *transaction).await.map_err(&failed)?;
        let begun = match next {
            Some(id) => Some(self.begin_run(&mut transaction, RunId(id), owner, at, lease).await?),
            None => None,
        };
        transaction.commit().await.map_err(&failed)?;
        Ok(begun)
    }

    /// Ends an attempt. A failed one is tried again while attempts are left, after a pause that `share`, drawn from 0 to 1,
    /// shortens; a run that was asked to end is not.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn end_attempt(&self, held: &Lease, end: &RunEnd, share: f64, at: Timestamp) -> Result<Ended, Error> {
        if let RunEnd::Failed { error } = end
            && let Some(until) = self.retry(held, error, share, at).await?
        {
            return Ok(Ended::Retried(until));
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

    /// Appends a line to the history of a run that the caller does.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn tell(&self, held: &Lease, text: &str, at: Timestamp) -> Result<Written, Error> {
        let touch = sqlx::query("SELECT 1");
        self.under(held, "keep a line of a run's history", touch, (None, "told", text), at).await
    }

    /// Lets a run wait for its next attempt; none, where there is no other, or the lease was lost.
    async fn retry(&self, held: &Lease, error: &str, share: f64, at: Timestamp) -> Result<Option<Timestamp>, Error> {
        let failed = self.failed("try a run again");
        let mut transaction = self.begin(&failed).await?;
        let run = self.read(&mut transaction, held.run).await?;
        if run.token != held.token || run.written != RunState::Running || run.cancel_requested {
            return Ok(None);
        }
        let (rules, attempts) = self.rules(&mut transaction, held.run).await?;
        let Some(pause) = rules.retry.pause_after(attempts, share) else { return Ok(None) };
        let (state, until) = (decided(held.run, RunState::Running, RunEvent::Retried)?, after(at, pause));
        let sql = "UPDATE runs SET state = ?, waits_until_ms = ?, lease_until_ms = NULL, error = ? WHERE id = ?";
        let update = sqlx::query(sql).bind(state.as_str()).bind(millis(until)).bind(error).bind(held.run.0);
        update.execute(&mut *transaction).await.map_err(&failed)?;
        note(&mut transaction, held.run, None, at, RunEvent::Retried.as_str(), error).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(Some(until))
    }

    /// Fails the runs whose owners fell silent in their last attempt.
    async fn give_up_silent(&self, transaction: &mut SqliteConnection, at: Timestamp) -> Result<(), Error> {
        let failed = self.failed("give up a run");
        let sql = "SELECT id FROM runs WHERE schedule IS NOT NULL AND state IN ('running', 'interrupted') \
                   AND (state = 'interrupted' OR lease_until_ms <= ?) AND attempts >= json_extract(rules, '$.attempts')";
        let silent: Vec<i64> =
            sqlx::query_scalar(sql).bind(millis(at)).fetch_all(&mut *transaction).await.map_err(&failed)?;
        for id in silent {
            let error = "its owner fell silent in the last attempt";
            let sql = "UPDATE runs SET state = 'failed', token = token + 1, error = ?, ended_ms = ?, lease_until_ms = NULL \
                       WHERE id = ?";
            let update = sqlx::query(sql).bind(error).bind(millis(at)).bind(id);
            update.execute(&mut *transaction).await.map_err(&failed)?;
            let event = RunEvent::Failed.as_str();
            note(transaction, RunId(id), None, at, event, error).await.map_err(&failed)?;
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
