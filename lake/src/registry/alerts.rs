//! What people say about alerts: that they have seen one, and what it was.
//!
//! What was said stays, and of an alert the newest verdict counts. Whether there is such an alert is not known here: its
//! rows are in the lake.

use std::collections::HashMap;

use domain::{AlertId, Timestamp};
use sqlx::sqlite::SqliteRow;

use super::Registry;
use crate::Error;

/// What an alert was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AlertVerdict {
    /// It was worth a person's time.
    TruePositive,
    /// It was not.
    FalsePositive,
    /// Nobody can say.
    Unclear,
}

impl AlertVerdict {
    /// Every verdict, in the order of their declaration.
    pub const ALL: [Self; 3] = [Self::TruePositive, Self::FalsePositive, Self::Unclear];

    /// The name in the registry and in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TruePositive => "true_positive",
            Self::FalsePositive => "false_positive",
            Self::Unclear => "unclear",
        }
    }

    /// The verdict with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.as_str() == name)
    }
}

/// Somebody has seen an alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The alert.
    pub alert: AlertId,
    /// When.
    pub at: Timestamp,
    /// Who: a person, or where one came through.
    pub actor: String,
    /// What there is to say about it.
    pub note: String,
}

/// Somebody has said what an alert was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenVerdict {
    /// The alert.
    pub alert: AlertId,
    /// When.
    pub at: Timestamp,
    /// What it was.
    pub verdict: AlertVerdict,
    /// Who: a person, or where one came through.
    pub actor: String,
    /// Why.
    pub note: String,
}

/// How far people are with an alert; at first nobody has said anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether somebody has acknowledged it.
    pub is_acknowledged: bool,
    /// What it was, by the newest verdict.
    pub verdict: Option<AlertVerdict>,
}

// Saying.
impl Registry {
    /// Keeps that somebody has seen an alert; whether that is new: the same from the same actor is not.
    ///
    /// # Errors
    /// [`Error::Registry`].
    pub async fn acknowledge(&self, said: &Acknowledgement) -> Result<bool, Error> {
        const ACTION: &str = "acknowledge an alert";
        let Acknowledgement { alert: AlertId { partition, offset }, at, actor, note } = said;
        let mut transaction = self.begin(ACTION).await?;
        let known = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM alert_acknowledgements
                            WHERE partition = ? AND record_offset = ? AND actor = ? AND note = ?)",
        );
        let known = known.bind(partition).bind(offset).bind(actor).bind(note).fetch_one(&mut *transaction);
        let is_known: bool = known.await.map_err(self.failed(ACTION))?;
        if is_known {
            return Ok(false);
        }
        let insert = sqlx::query(
            "INSERT INTO alert_acknowledgements (partition, record_offset, at_us, actor, note) VALUES (?, ?, ?, ?, ?)",
        );
        let insert = insert.bind(partition).bind(offset).bind(at.micros()).bind(actor).bind(note);
        insert.execute(&mut *transaction).await.map_err(self.failed(ACTION))?;
        transaction.commit().await.map_err(self.failed(ACTION))?;
        Ok(true)
    }

    /// Keeps what an alert was; whether that is new: what the same actor said last about it is not.
    ///
    /// # Errors
    /// [`Error::Registry`].
    pub async fn give_verdict(&self, said: &GivenVerdict) -> Result<bool, Error> {
        const ACTION: &str = "give a verdict on an alert";
        let GivenVerdict { alert: AlertId { partition, offset }, at, verdict, actor, note } = said;
        let mut transaction = self.begin(ACTION).await?;
        let newest = sqlx::query_as::<_, (String, String, String)>(
            "SELECT verdict, actor, note FROM alert_verdicts WHERE partition = ? AND record_offset = ?
             ORDER BY id DESC LIMIT 1",
        );
        let newest = newest.bind(partition).bind(offset).fetch_optional(&mut *transaction);
        let newest = newest.await.map_err(self.failed(ACTION))?;
        if newest.is_some_and(|newest| newest == (verdict.as_str().to_owned(), actor.clone(), note.clone())) {
            return Ok(false);
        }
        let insert = sqlx::query(
            "INSERT INTO alert_verdicts (partition, record_offset, at_us, verdict, actor, note)
             VALUES (?, ?, ?, ?, ?, ?)",
        );
        let insert = insert.bind(partition).bind(offset).bind(at.micros()).bind(verdict.as_str());
        insert.bind(actor).bind(note).execute(&mut *transaction).await.map_err(self.failed(ACTION))?;
        transaction.commit().await.map_err(self.failed(ACTION))?;
        Ok(true)
    }
}

// What was said.
impl Registry {
    /// Who has acknowledged an alert, oldest first.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::RegistryValue`].
    pub async fn acknowledgements(&self, alert: AlertId) -> Result<Vec<Acknowledgement>, Error> {
        let rows =
            sqlx::query("SELECT * FROM alert_acknowledgements WHERE partition = ? AND record_offset = ? ORDER BY id");
        let rows = rows.bind(alert.partition).bind(alert.offset).fetch_all(&self.readers);
        let rows = rows.await.map_err(self.failed("list the acknowledgements of an alert"))?;
        let of = format!("an acknowledgement of alert {alert}");
        let said = |row: &SqliteRow| {
            Ok(Acknowledgement {
                alert,
                at: self.instant(row, "at_us", &of)?,
                actor: self.column(row, "actor", &of)?,
                note: self.column(row, "note", &of)?,
            })
        };
        rows.iter().map(said).collect()
    }

    /// Every verdict on an alert, oldest first.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::RegistryValue`].
    pub async fn alert_verdicts(&self, alert: AlertId) -> Result<Vec<GivenVerdict>, Error> {
        let rows = sqlx::query("SELECT * FROM alert_verdicts WHERE partition = ? AND record_offset = ? ORDER BY id");
        let rows = rows.bind(alert.partition).bind(alert.offset).fetch_all(&self.readers);
        let rows = rows.await.map_err(self.failed("list the verdicts on an alert"))?;
        let of = format!("a verdict on alert {alert}");
        let said = |row: &SqliteRow| {
            Ok(GivenVerdict {
                alert,
                at: self.instant(row, "at_us", &of)?,
                verdict: self.verdict(row, &of)?,
                actor: self.column(row, "actor", &of)?,
                note: self.column(row, "note", &of)?,
            })
        };
        rows.iter().map(said).collect()
    }

    /// How far people are with every alert that somebody has said something about.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::RegistryValue`].
    pub async fn standings(&self) -> Result<HashMap<AlertId, Standing>, Error> {
        const ACTION: &str = "read what was said about alerts";
        let seen = sqlx::query("SELECT DISTINCT partition, record_offset FROM alert_acknowledgements");
        let seen = seen.fetch_all(&self.readers).await.map_err(self.failed(ACTION))?;
        let judged = sqlx::query(
            "SELECT partition, record_offset, verdict FROM alert_verdicts
             WHERE id IN (SELECT max(id) FROM alert_verdicts GROUP BY partition, record_offset)",
        );
        let judged = judged.fetch_all(&self.readers).await.map_err(self.failed(ACTION))?;
        let mut standings: HashMap<AlertId, Standing> = HashMap::new();
        for row in &seen {
            standings.entry(self.alert(row)?).or_default().is_acknowledged = true;
        }
        for row in &judged {
            let alert = self.alert(row)?;
            standings.entry(alert).or_default().verdict = Some(self.verdict(row, &format!("alert {alert}"))?);
        }
        Ok(standings)
    }

    fn alert(&self, row: &SqliteRow) -> Result<AlertId, Error> {
        let of = "what was said about an alert";
        let (partition, offset) = (self.column(row, "partition", of)?, self.column(row, "record_offset", of)?);
        Ok(AlertId { partition, offset })
    }

    fn verdict(&self, row: &SqliteRow, of: &str) -> Result<AlertVerdict, Error> {
        let name: String = self.column(row, "verdict", of)?;
        AlertVerdict::from_name(&name).ok_or_else(|| self.unreadable(format!("verdict of {of}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::tests::registry;

    const ALERT: AlertId = AlertId { partition: 2, offset: 10_451 };
    const OTHER: AlertId = AlertId { partition: 0, offset: 10_451 };

    const fn second(second: i64) -> Timestamp {
        Timestamp::from_seconds(1_710_000_000 + second)
    }

    fn seen(alert: AlertId, at: Timestamp, actor: &str, note: &str) -> Acknowledgement {
        Acknowledgement { alert, at, actor: actor.to_owned(), note: note.to_owned() }
    }

    fn judged(alert: AlertId, at: Timestamp, verdict: AlertVerdict, actor: &str) -> GivenVerdict {
        GivenVerdict { alert, at, verdict, actor: actor.to_owned(), note: "a fat finger".to_owned() }
    }

    #[tokio::test]
    async fn an_acknowledgement_said_again_by_the_same_actor_is_the_same() {
        let (_folder, registry) = registry().await;
        assert_eq!(registry.acknowledgements(ALERT).await.unwrap(), []);
        let first = seen(ALERT, second(0), "ann", "");
        assert!(registry.acknowledge(&first).await.unwrap());
        assert!(!registry.acknowledge(&seen(ALERT, second(1), "ann", "")).await.unwrap());
        let others = [seen(ALERT, second(2), "bob", ""), seen(ALERT, second(3), "ann", "called the venue")];
        for other in &others {
            assert!(registry.acknowledge(other).await.unwrap());
        }
        assert!(registry.acknowledge(&seen(OTHER, second(4), "ann", "")).await.unwrap());
        let [bob, ann] = others;
        assert_eq!(registry.acknowledgements(ALERT).await.unwrap(), [first, bob, ann]);
    }

    #[tokio::test]
    async fn the_newest_verdict_counts_and_those_before_stay() {
        let (_folder, registry) = registry().await;
        assert_eq!(registry.standings().await.unwrap(), HashMap::new());
        let said = [
            judged(ALERT, second(0), AlertVerdict::TruePositive, "ann"),
            judged(ALERT, second(1), AlertVerdict::FalsePositive, "bob"),
            judged(ALERT, second(2), AlertVerdict::TruePositive, "ann"),
        ];
        for verdict in &said {
            assert!(registry.give_verdict(verdict).await.unwrap());
            let again = GivenVerdict { at: second(60), ..verdict.clone() };
            assert!(!registry.give_verdict(&again).await.unwrap(), "it is what was said last");
        }
        registry.give_verdict(&judged(OTHER, second(3), AlertVerdict::Unclear, "bob")).await.unwrap();
        registry.acknowledge(&seen(OTHER, second(4), "bob", "")).await.unwrap();
        assert_eq!(registry.alert_verdicts(ALERT).await.unwrap(), said);
        let standing = |is_acknowledged, verdict| Standing { is_acknowledged, verdict: Some(verdict) };
        let expected = HashMap::from([
            (ALERT, standing(false, AlertVerdict::TruePositive)),
            (OTHER, standing(true, AlertVerdict::Unclear)),
        ]);
        assert_eq!(registry.standings().await.unwrap(), expected);
    }

    #[tokio::test]
    async fn nothing_that_was_said_about_an_alert_is_changed_or_deleted() {
        let (_folder, registry) = registry().await;
        registry.acknowledge(&seen(ALERT, second(0), "ann", "")).await.unwrap();
        registry.give_verdict(&judged(ALERT, second(0), AlertVerdict::Unclear, "ann")).await.unwrap();
        for statement in [
            "UPDATE alert_acknowledgements SET note = 'x'",
            "DELETE FROM alert_acknowledgements",
            "INSERT OR REPLACE INTO alert_acknowledgements (id, partition, record_offset, at_us, actor, note)
             VALUES (1, 0, 0, 0, 'x', '')",
            "UPDATE alert_verdicts SET verdict = 'true_positive'",
            "DELETE FROM alert_verdicts",
            "INSERT OR REPLACE INTO alert_verdicts (id, partition, record_offset, at_us, verdict, actor, note)
             VALUES (1, 0, 0, 0, 'unclear', 'x', '')",
            "INSERT INTO alert_verdicts (partition, record_offset, at_us, verdict, actor, note)
             VALUES (0, 0, 0, 'perhaps', 'x', '')",
        ] {
            assert!(sqlx::query(statement).execute(&registry.writer).await.is_err(), "{statement}");
        }
    }

    #[test]
    fn a_verdict_has_one_name() {
        for verdict in AlertVerdict::ALL {
            assert_eq!(AlertVerdict::from_name(verdict.as_str()), Some(verdict));
        }
        assert_eq!(AlertVerdict::from_name("TRUE_POSITIVE"), None);
    }
}
