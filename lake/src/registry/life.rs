//! The life of a model after its training: candidates and their judgement, pins, and what was found about drift.
//!
//! A judgement and the promotion that it brings are one transaction. The state of a model is not stored: it follows from
//! what was appended.

use std::{collections::HashMap, path::Path};

use domain::Timestamp;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{Expected, ModelRecord, Promoted, Registry, TrainedModel};
use crate::{Error, durable, maintain::Pin, schema::TableName};

/// Where a model is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModelState {
    /// It was trained, and nobody asked for more.
    Registered,
    /// It waits to be judged.
    Candidate,
    /// It scores.
    Champion,
    /// It was champion once.
    Retired,
    /// It was judged and is not good enough.
    Rejected,
    /// There were too few rows to judge it by, for too long.
    Expired,
}

impl ModelState {
    /// The name in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Candidate => "candidate",
            Self::Champion => "champion",
            Self::Retired => "retired",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
        }
    }
}

/// What is said about a model on its way to be champion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It waits to be judged.
    Candidate,
    /// It passed, and became champion.
    Promoted,
    /// It failed.
    Rejected,
    /// It waited too long.
    Expired,
}

impl Verdict {
    const ALL: [Self; 4] = [Self::Candidate, Self::Promoted, Self::Rejected, Self::Expired];

    /// The name in the registry and in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Promoted => "promoted",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
        }
    }
}

/// Something that was said about a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The model.
    pub version: i64,
    /// When.
    pub at: Timestamp,
    /// What.
    pub verdict: Verdict,
    /// By whom: a person or a job.
    pub actor: String,
    /// Why, as sentences.
    pub reasons: Vec<String>,
}

/// A model whose training rows are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPin {
    /// The model.
    pub version: i64,
    /// Since when.
    pub at: Timestamp,
    /// By whom.
    pub actor: String,
    /// Why.
    pub note: String,
}

/// What was found about the newest rows.
#[derive(Clone, Debug, PartialEq)]
pub struct DriftCheck {
    /// The model whose training rows they were held against.
    pub version: i64,
    /// When.
    pub at: Timestamp,
    /// The version of the table that was read.
    pub delta_version: u64,
    /// Whether they differ.
    pub drifted: bool,
    /// The measures.
    pub report: serde_json::Value,
}

// Candidates.
impl Registry {
    /// Registers a model that shall be judged, and returns its version. The same work, done again, finds the model that it
    /// has registered, whatever it made this time.
    ///
    /// # Errors
    /// As [`Registry::register`].
    pub async fn nominate(
        &self,
        model: &TrainedModel,
        work: Option<&str>,
        actor: &str,
        reason: &str,
    ) -> Result<i64, Error> {
        const ACTION: &str = "register a candidate";
        let mut transaction = self.begin(ACTION).await?;
        if let Some(known) = self.made_by(&mut transaction, work).await? {
            return Ok(known);
        }
        let version = self.insert(model, &mut transaction).await?;
        let candidate = Judgement {
            version,
            at: model.created,
            verdict: Verdict::Candidate,
            actor: actor.to_owned(),
            reasons: vec![reason.to_owned()],
        };
        self.append(&candidate, work, &mut transaction).await?;
        transaction.commit().await.map_err(self.failed(ACTION))?;
        Ok(version)
    }

    /// The candidate that some work has made; `None`, where it has not been done.
    ///
    /// # Errors
    /// [`Error::Registry`].
    pub async fn candidate_of(&self, work: &str) -> Result<Option<i64>, Error> {
        let mut connection = self.readers.acquire().await.map_err(self.failed("find a candidate"))?;
        self.made_by(&mut connection, Some(work)).await
    }

    async fn made_by(&self, connection: &mut SqliteConnection, work: Option<&str>) -> Result<Option<i64>, Error> {
        let known = sqlx::query_scalar("SELECT version FROM judgements WHERE work = ?").bind(work);
        known.fetch_optional(connection).await.map_err(self.failed("find a candidate"))
    }

    /// The models that wait to be judged, oldest first.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::RegistryValue`].
    pub async fn candidates(&self) -> Result<Vec<ModelRecord>, Error> {
        let rows = sqlx::query(
            "SELECT models.* FROM models JOIN judgements USING (version)
             WHERE version NOT IN (SELECT version FROM promotions) GROUP BY version HAVING count(*) = 1 ORDER BY version",
        );
        let rows = rows.fetch_all(&self.readers).await.map_err(self.failed("list the candidates"))?;
        rows.iter().map(|row| self.record(row)).collect()
    }

    /// Makes a candidate champion if the champion is the expected one, and says so about it, at once or not at all.
    ///
    /// # Errors
    /// [`Error::NotACandidate`]; [`Error::Registry`].
    pub async fn promote_candidate(&self, judgement: &Judgement, expected: Expected) -> Result<Promoted, Error> {
        const ACTION: &str = "promote a candidate";
        let Judgement { version, at, actor, reasons, .. } = judgement;
        let mut transaction = self.begin(ACTION).await?;
        self.require_candidate(&mut transaction, *version).await?;
        let reason = reasons.join("; ");
        let promoted = self.move_champion(&mut transaction, *version, expected, (*at, actor, &reason)).await?;
        if promoted == Promoted::Promoted {
            self.append(judgement, None, &mut transaction).await?;
            transaction.commit().await.map_err(self.failed(ACTION))?;
        }
        Ok(promoted)
    }

    /// Says that a candidate will not be champion.
    ///
    /// # Errors
    /// [`Error::NotACandidate`]; [`Error::Registry`].
    pub async fn turn_down(&self, judgement: &Judgement) -> Result<(), Error> {
        const ACTION: &str = "turn a candidate down";
        let mut transaction = self.begin(ACTION).await?;
        self.require_candidate(&mut transaction, judgement.version).await?;
        self.append(judgement, None, &mut transaction).await?;
        transaction.commit().await.map_err(self.failed(ACTION))
    }

    async fn require_candidate(&self, connection: &mut SqliteConnection, version: i64) -> Result<(), Error> {
        let said: i64 = sqlx::query_scalar("SELECT count(*) FROM judgements WHERE version = ?")
            .bind(version)
            .fetch_one(connection)
            .await
            .map_err(self.failed("read a judgement"))?;
        if said == 1 { Ok(()) } else { Err(Error::NotACandidate { version }) }
    }

    async fn append(
        &self,
        judgement: &Judgement,
        work: Option<&str>,
        connection: &mut SqliteConnection,
    ) -> Result<(), Error> {
        let Judgement { version, at, verdict, actor, reasons } = judgement;
        let insert = sqlx::query(
            "INSERT INTO judgements (version, at_us, verdict, actor, reasons, work) VALUES (?, ?, ?, ?, ?, ?)",
        );
        let insert = insert.bind(version).bind(at.micros()).bind(verdict.as_str()).bind(actor);
        let insert = insert.bind(super::json_text("the reasons", reasons)?).bind(work);
        insert.execute(connection).await.map_err(self.failed("say something about a model"))?;
        Ok(())
    }

    /// Everything that was said about models, oldest first.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::RegistryValue`].
    pub async fn judgements(&self) -> Result<Vec<Judgement>, Error> {
        let rows = sqlx::query("SELECT * FROM judgements ORDER BY id").fetch_all(&self.readers);
        let rows = rows.await.map_err(self.failed("list the judgements"))?;
        rows.iter().map(|row| self.judgement(row)).collect()
    }

    fn judgement(&self, row: &SqliteRow) -> Result<Judgement, Error> {
        let of = "a judgement";
        let verdict: String = self.column(row, "verdict", of)?;
        let known = Verdict::ALL.into_iter().find(|known| known.as_str() == verdict);
        Ok(Judgement {
            version: self.column(row, "version", of)?,
            at: self.instant(row, "at_us", of)?,
            verdict: known.ok_or_else(|| self.unreadable(format!("verdict of {of}")))?,
            actor: self.column(row, "actor", of)?,
            reasons: self.json(row, "reasons", of)?,
        })
    }

    /// Where every model is in its life.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::RegistryValue`].
    pub async fn states(&self) -> Result<HashMap<i64, ModelState>, Error> {
        let rows = sqlx::query(
            "SELECT version, (SELECT verdict FROM judgements WHERE version = models.version ORDER BY id DESC LIMIT 1) AS said,
                    version IN (SELECT version FROM promotions) AS promoted,
                    version IS (SELECT version FROM promotions ORDER BY id DESC LIMIT 1) AS champion
             FROM models",
        );
        let rows = rows.fetch_all(&self.readers).await.map_err(self.failed("list the models"))?;
        let state = |row: &SqliteRow| {
            let said = row.get::<Option<String>, _>("said");
            match (said.as_deref(), row.get("promoted"), row.get("champion")) {
                (_, _, true) => ModelState::Champion,
                (_, true, _) => ModelState::Retired,
                (Some("candidate"), ..) => ModelState::Candidate,
                (Some("rejected"), ..) => ModelState::Rejected,
                (Some("expired"), ..) => ModelState::Expired,
                _ => ModelState::Registered,
            }
        };
        Ok(rows.iter().map(|row| (row.get("version"), state(row))).collect())
    }
}

// Pins.
impl Registry {
    /// Keeps the rows that a model was trained on, or does not any more; whether that changed anything.
    ///
    /// # Errors
    /// [`Error::NoModel`] where the version does not exist; [`Error::Registry`].
    pub async fn pin(&self, pin: &ModelPin, pinned: bool) -> Result<bool, Error> {
        const ACTION: &str = "pin a model";
        let ModelPin { version, at, actor, note } = pin;
        let mut transaction = self.begin(ACTION).await?;
        self.require_model(&mut transaction, *version).await?;
        let before = sqlx::query_scalar("SELECT pinned FROM pins WHERE version = ? ORDER BY id DESC LIMIT 1");
        let before: Option<bool> =
            before.bind(version).fetch_optional(&mut *transaction).await.map_err(self.failed(ACTION))?;
        if before.unwrap_or(false) == pinned {
            return Ok(false);
        }
        let insert = sqlx::query("INSERT INTO pins (version, at_us, pinned, actor, note) VALUES (?, ?, ?, ?, ?)");
        let insert = insert.bind(version).bind(at.micros()).bind(pinned).bind(actor).bind(note);
        insert.execute(&mut *transaction).await.map_err(self.failed(ACTION))?;
        transaction.commit().await.map_err(self.failed(ACTION))?;
        Ok(true)
    }

    /// The models that are pinned by hand, by version.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::RegistryValue`].
    pub async fn pinned(&self) -> Result<Vec<ModelPin>, Error> {
        let rows = sqlx::query(
            "SELECT * FROM pins WHERE id IN (SELECT max(id) FROM pins GROUP BY version) AND pinned ORDER BY version",
        );
        let rows = rows.fetch_all(&self.readers).await.map_err(self.failed("list the pins"))?;
        let of = "a pin";
        let pin = |row: &SqliteRow| {
            Ok(ModelPin {
                version: self.column(row, "version", of)?,
                at: self.instant(row, "at_us", of)?,
                actor: self.column(row, "actor", of)?,
                note: self.column(row, "note", of)?,
            })
        };
        rows.iter().map(pin).collect()
    }

    /// The table versions that models need: of the champion, the one before it, candidates, and models pinned by hand.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::RegistryValue`].
    pub async fn needed_versions(&self) -> Result<Vec<Pin>, Error> {
        let newest = self.promotions().await?.pop();
        let mut needed: Vec<(i64, &str)> = Vec::new();
        needed.extend(newest.iter().map(|promotion| (promotion.version, "the champion")));
        needed.extend(newest.iter().filter_map(|promotion| Some((promotion.previous?, "the champion before"))));
        needed.extend(self.candidates().await?.iter().map(|record| (record.version, "a candidate")));
        needed.extend(self.pinned().await?.iter().map(|pin| (pin.version, "pinned")));
        let mut pins = Vec::new();
        for (version, role) in needed {
            let inputs = self.model(version).await?.model.inputs;
            if let Some(table) = TableName::from_name(&inputs.table) {
                let reason = format!("model version {version}, {role}");
                pins.push(Pin { table, version: inputs.delta_version, reason });
            }
        }
        Ok(pins)
    }
}

// Drift, and a copy.
impl Registry {
    /// Keeps what was found about the newest rows.
    ///
    /// # Errors
    /// [`Error::NoModel`] where the version does not exist; [`Error::Registry`].
    pub async fn record_drift(&self, check: &DriftCheck) -> Result<(), Error> {
        const ACTION: &str = "keep what was found about drift";
        let DriftCheck { version, at, delta_version, drifted, report } = check;
        let mut transaction = self.begin(ACTION).await?;
        self.require_model(&mut transaction, *version).await?;
        let insert = sqlx::query(
            "INSERT INTO drift_checks (version, at_us, delta_version, drifted, report) VALUES (?, ?, ?, ?, ?)",
        );
        let delta_version =
            i64::try_from(*delta_version).map_err(|_| super::invalid("the table version", delta_version))?;
        let insert = insert.bind(version).bind(at.micros()).bind(delta_version).bind(drifted).bind(report.to_string());
        insert.execute(&mut *transaction).await.map_err(self.failed(ACTION))?;
        transaction.commit().await.map_err(self.failed(ACTION))
    }

    /// What was found last against the rows of a model; `None` before the first look.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::RegistryValue`].
    pub async fn last_drift(&self, version: i64) -> Result<Option<DriftCheck>, Error> {
        let row = sqlx::query("SELECT * FROM drift_checks WHERE version = ? ORDER BY id DESC LIMIT 1").bind(version);
        let row = row.fetch_optional(&self.readers).await.map_err(self.failed("read what was found about drift"))?;
        let of = format!("a look at drift of model version {version}");
        let check = |row: &SqliteRow| {
            let delta_version: i64 = self.column(row, "delta_version", &of)?;
            Ok(DriftCheck {
                version,
                at: self.instant(row, "at_us", &of)?,
                delta_version: delta_version.unsigned_abs(),
                drifted: self.column(row, "drifted", &of)?,
                report: self.json(row, "report", &of)?,
            })
        };
        row.as_ref().map(check).transpose()
    }

    /// Writes a copy of the registry, whole as of one moment, to a file that appears once it is on the disk. One that is
    /// there already is left alone.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::File`].
    pub async fn copy_to(&self, path: &Path) -> Result<(), Error> {
        if path.exists() {
            return Ok(());
        }
        if let Some(folder) = path.parent() {
            durable::create_folder(folder)?;
        }
        let unfinished = path.with_extension("unfinished");
        match std::fs::remove_file(&unfinished) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("remove", unfinished)(error));
            }
            _ => {}
        }
        let copy = sqlx::query("VACUUM INTO ?").bind(unfinished.to_string_lossy().into_owned());
        copy.execute(&self.writer).await.map_err(self.failed("copy the registry"))?;
        durable::publish(&unfinished, path)
    }
}

#[cfg(test)]
mod tests {
    use domain::ErrorKind;
    use serde_json::json;

    use super::*;
    use crate::registry::tests::{model, registry};

    const NOON: Timestamp = Timestamp::from_seconds(1_710_000_000);

    fn judgement(version: i64, verdict: Verdict) -> Judgement {
        let reasons = vec!["PR-AUC is 0.4".to_owned(), "it loads".to_owned()];
        Judgement { version, at: NOON, verdict, actor: "evaluate".to_owned(), reasons }
    }

    fn pin(version: i64) -> ModelPin {
        ModelPin { version, at: NOON, actor: "ann".to_owned(), note: "for the audit".to_owned() }
    }

    #[tokio::test]
    async fn a_candidate_is_judged_once_and_its_promotion_is_one_step_with_it() {
        let (_folder, registry) = registry().await;
        let first = registry.nominate(&model(), None, "train", "due").await.unwrap();
        let second = registry.nominate(&model(), None, "train", "due").await.unwrap();
        let versions =
            async || registry.candidates().await.unwrap().iter().map(|record| record.version).collect::<Vec<_>>();
        assert_eq!(versions().await, [first, second]);
        let passed = judgement(first, Verdict::Promoted);
        assert_eq!(registry.promote_candidate(&passed, Expected::Nobody).await.unwrap(), Promoted::Promoted);
        assert_eq!(registry.promotions().await.unwrap()[0].reason, "PR-AUC is 0.4; it loads");
        let conflict =
            registry.promote_candidate(&judgement(second, Verdict::Promoted), Expected::Nobody).await.unwrap();
        assert_eq!(conflict, Promoted::Conflict { current: Some(first) });
        assert_eq!(versions().await, [second], "who was overtaken still waits");
        registry.turn_down(&judgement(second, Verdict::Rejected)).await.unwrap();
        for refused in [
            registry.turn_down(&judgement(second, Verdict::Expired)).await,
            registry.promote_candidate(&judgement(second, Verdict::Promoted), Expected::Anyone).await.map(drop),
        ] {
            assert!(matches!(refused, Err(Error::NotACandidate { version: 2 })), "{refused:?}");
        }
        let said: Vec<_> = registry.judgements().await.unwrap().iter().map(|one| (one.version, one.verdict)).collect();
        assert_eq!(
            said,
            [(1, Verdict::Candidate), (2, Verdict::Candidate), (1, Verdict::Promoted), (2, Verdict::Rejected)]
        );
    }

    #[tokio::test]
    async fn the_same_work_makes_one_candidate() {
        let (_folder, registry) = registry().await;
        assert_eq!(registry.candidate_of("run/7").await.unwrap(), None);
        let version = registry.nominate(&model(), Some("run/7"), "train", "due").await.unwrap();
        assert_eq!(registry.nominate(&model(), Some("run/7"), "train", "due").await.unwrap(), version);
        assert_eq!(registry.candidate_of("run/7").await.unwrap(), Some(version));
        assert_eq!(registry.nominate(&model(), Some("run/8"), "train", "due").await.unwrap(), version + 1);
        assert_eq!(registry.models().await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn where_a_model_is_follows_from_what_was_appended() {
        let (_folder, registry) = registry().await;
        for _ in 0..2 {
            registry.register(&model()).await.unwrap();
        }
        for _ in 0..3 {
            registry.nominate(&model(), None, "train", "due").await.unwrap();
        }
        registry.promote(1, Expected::Nobody, NOON, "ann", "first").await.unwrap();
        registry.promote_candidate(&judgement(3, Verdict::Promoted), Expected::Version(1)).await.unwrap();
        registry.turn_down(&judgement(4, Verdict::Expired)).await.unwrap();
        let states = registry.states().await.unwrap();
        let of = |version| states[&version];
        assert_eq!((of(1), of(2)), (ModelState::Retired, ModelState::Registered));
        assert_eq!((of(3), of(4), of(5)), (ModelState::Champion, ModelState::Expired, ModelState::Candidate));
    }

    #[tokio::test]
    async fn the_versions_that_models_need_are_named_with_the_reason() {
        let (_folder, registry) = registry().await;
        for delta_version in 10..15 {
            let mut model = model();
            model.inputs.delta_version = delta_version;
            registry.register(&model).await.unwrap();
        }
        for version in 1..4 {
            registry.promote(version, Expected::Anyone, NOON, "ann", "better").await.unwrap();
        }
        assert!(registry.pin(&pin(5), true).await.unwrap());
        assert!(!registry.pin(&pin(5), true).await.unwrap(), "it is pinned already");
        let mut candidate = model();
        candidate.inputs.delta_version = 20;
        registry.nominate(&candidate, None, "train", "due").await.unwrap();
        let needed = async || {
            let pins = registry.needed_versions().await.unwrap();
            pins.into_iter().map(|pin| (pin.version, pin.reason)).collect::<Vec<_>>()
        };
        let expected = [
            (12, "model version 3, the champion".to_owned()),
            (11, "model version 2, the champion before".to_owned()),
            (20, "model version 6, a candidate".to_owned()),
            (14, "model version 5, pinned".to_owned()),
        ];
        assert_eq!(needed().await, expected);
        assert_eq!(registry.pinned().await.unwrap(), [pin(5)]);
        assert!(registry.pin(&pin(5), false).await.unwrap());
        assert_eq!(needed().await, expected[..3]);
        assert_eq!(registry.pin(&pin(9), true).await.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn the_last_look_at_drift_says_how_far_it_went() {
        let (_folder, registry) = registry().await;
        registry.register(&model()).await.unwrap();
        assert_eq!(registry.last_drift(1).await.unwrap(), None);
        let check = |delta_version, drifted| DriftCheck {
            version: 1,
            at: NOON,
            delta_version,
            drifted,
            report: json!({"rows": 7}),
        };
        for check in [check(7, true), check(9, false)] {
            registry.record_drift(&check).await.unwrap();
        }
        assert_eq!(registry.last_drift(1).await.unwrap(), Some(check(9, false)));
    }

    #[tokio::test]
    async fn nothing_of_a_life_is_changed_or_deleted() {
        let (_folder, registry) = registry().await;
        registry.nominate(&model(), None, "train", "due").await.unwrap();
        registry.pin(&pin(1), true).await.unwrap();
        let check = DriftCheck { version: 1, at: NOON, delta_version: 1, drifted: false, report: json!({}) };
        registry.record_drift(&check).await.unwrap();
        for statement in [
            "UPDATE judgements SET verdict = 'promoted'",
            "DELETE FROM judgements",
            "INSERT INTO judgements (version, at_us, verdict, actor, reasons) VALUES (1, 0, 'candidate', 'x', '[]')",
            "INSERT OR REPLACE INTO judgements (id, version, at_us, verdict, actor, reasons)
             VALUES (1, 1, 0, 'rejected', 'x', '[]')",
            "UPDATE pins SET pinned = 0",
            "DELETE FROM pins",
            "INSERT OR REPLACE INTO pins (id, version, at_us, pinned, actor, note) VALUES (1, 1, 0, 0, 'x', '')",
            "UPDATE drift_checks SET drifted = 1",
            "DELETE FROM drift_checks",
            "INSERT OR REPLACE INTO drift_checks (id, version, at_us, delta_version, drifted, report)
             VALUES (1, 1, 0, 0, 1, '{}')",
        ] {
            assert!(sqlx::query(statement).execute(&registry.writer).await.is_err(), "{statement}");
        }
    }

    #[tokio::test]
    async fn a_copy_is_a_registry_of_its_own() {
        let (folder, registry) = registry().await;
        registry.nominate(&model(), None, "train", "due").await.unwrap();
        let path = folder.path().join("backups/registry.db");
        registry.copy_to(&path).await.unwrap();
        registry.register(&model()).await.unwrap();
        registry.copy_to(&path).await.unwrap();
        let copy = Registry::open(&path).await.unwrap();
        assert_eq!(copy.models().await.unwrap().len(), 1, "what is there is left alone");
        assert_eq!(copy.candidates().await.unwrap(), registry.candidates().await.unwrap());
    }
}
