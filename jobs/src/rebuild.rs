//! Whether a model can be made again from its record alone: the same rows, the same seed and parameters, the same bytes.
//!
//! The rows are those of the recorded table version, or, where that cannot be read any more or was written anew, of the
//! newest version, as long as they have the recorded digest. Reads only; where the bytes are the same, a lost or damaged
//! model file may be written again.

use std::fmt;

use domain::ErrorKind;
use lake::{TableName, artifacts, registry::ModelRecord, registry::TrainingInputs};
use models::{Model, TrainParameters, specification};
use serde::Serialize;
use tokio::task::spawn_blocking;

use crate::{
    error::Error,
    train::fit,
    workshop::{Chosen, Workshop, digest},
};

/// What is not as the record says, the first of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What: `feature specification`, `inputs`, `parameters`, `seed`, `code version` or `artifact`.
    pub what: &'static str,
    /// How it differs, as a sentence.
    pub detail: String,
}

/// What came of making a model again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// The model.
    pub version: i64,
    /// SHA-256 of the artifact, as the record says.
    pub recorded_sha256: String,
    /// SHA-256 of the artifact made again; none, where there was nothing to make it from.
    pub rebuilt_sha256: Option<String>,
    /// The version of the table whose rows were used.
    pub delta_version: Option<u64>,
    /// Rows read.
    pub rows: u64,
    /// The first difference; none, where the bytes are the same.
    pub difference: Option<Difference>,
    /// What is wrong with the stored model file; none, where it has the recorded bytes.
    pub file_damage: Option<String>,
    /// Whether the model file was written again.
    pub is_repaired: bool,
}

impl Rebuilt {
    /// Whether the same bytes came out and the stored file has them.
    #[must_use]
    pub const fn is_fine(&self) -> bool {
        self.difference.is_none() && (self.file_damage.is_none() || self.is_repaired)
    }
}

/// Makes a model again from its record and compares; with `repair`, a stored file that has other bytes is written again
/// where the right ones came out.
///
/// # Errors
/// [`Error::Lake`] where there is no such model, or the table or the registry cannot be read.
pub async fn verify(workshop: &Workshop, version: i64, repair: bool) -> Result<Rebuilt, Error> {
    let record = workshop.registry.model(version).await?;
    let (folder, artifact) = (workshop.models_dir.clone(), record.model.artifact.clone());
    let stored = spawn_blocking(move || artifacts::read(&folder, &artifact)).await?;
    let mut rebuilt = Rebuilt {
        version,
        recorded_sha256: record.model.artifact.sha256.clone(),
        rebuilt_sha256: None,
        delta_version: None,
        rows: 0,
        difference: None,
        file_damage: stored.as_ref().err().map(ToString::to_string),
        is_repaired: false,
    };
    let known = specification::hash();
    if record.model.specification_hash != known {
        let detail = format!("the record says {}, this program has {known}", record.model.specification_hash);
        rebuilt.difference = Some(Difference { what: "feature specification", detail });
        return Ok(rebuilt);
    }
    let chosen = match recorded_rows(workshop, &record.model.inputs).await? {
        Ok(chosen) => chosen,
        Err(detail) => {
            rebuilt.difference = Some(Difference { what: "inputs", detail });
            return Ok(rebuilt);
        }
    };
    rebuilt.delta_version = Some(chosen.delta_version);
    rebuilt.rows = chosen.rows.len() as u64;
    let folder = workshop.models_dir.clone();
    let making = spawn_blocking(move || -> Result<_, Error> {
        let parameters = parameters_of(&record);
        let trim = record.model.inputs.trimmed.map(|trimmed| trimmed.share);
        let (model, kept) = fit(&chosen.rows, &parameters, trim)?;
        let (bytes, sha256) = artifact_of(&model, &record.model.artifact.sha256);
        if sha256 == record.model.artifact.sha256 {
            let is_to_be_written = repair && stored.is_err();
            if is_to_be_written {
                artifacts::write(&folder, &bytes)?;
            }
            return Ok((sha256, None, is_to_be_written));
        }
        let trimmed = kept.iter().filter(|kept| !**kept).count() as u64;
        let difference = first_difference(&record, &model, trimmed, stored.ok().as_deref());
        Ok((sha256, Some(difference), false))
    });
    let (sha256, difference, is_repaired) = making.await??;
    Ok(Rebuilt { rebuilt_sha256: Some(sha256), difference, is_repaired, ..rebuilt })
}

/// The rows that a model was trained on; where they are not to be had, a sentence that says what is there instead.
///
/// # Errors
/// Where the table cannot be read.
pub async fn recorded_rows(workshop: &Workshop, inputs: &TrainingInputs) -> Result<Result<Chosen, String>, Error> {
    let mut found = Vec::new();
    match workshop.lake.pin_version(TableName::Features, inputs.delta_version).await {
        Ok(pinned) => {
            let chosen = Chosen::of(&pinned, &inputs.predicate).await?;
            if digest(&chosen.rows) == inputs.digest {
                return Ok(Ok(chosen));
            }
            found.push(chosen);
        }
        // A table that was made anew has fewer versions.
        Err(error) if matches!(error.kind(), ErrorKind::Gone | ErrorKind::NotFound) => {}
        Err(error) => return Err(error.into()),
    }
    let newest = workshop.lake.pin(TableName::Features).await?;
    if found.iter().all(|chosen| chosen.delta_version != newest.version()) {
        let chosen = Chosen::of(&newest, &inputs.predicate).await?;
        if digest(&chosen.rows) == inputs.digest {
            return Ok(Ok(chosen));
        }
        found.push(chosen);
    }
    let said = found.iter().map(|chosen| format!("version {} has {} others", chosen.delta_version, chosen.rows.len()));
    let said = said.collect::<Vec<_>>().join(", ");
    Ok(Err(format!(
        "it was trained on {} rows of version {} of `{}` with the digest {}; {said}",
        inputs.rows, inputs.delta_version, inputs.table, inputs.digest
    )))
}

/// The artifact of a model and its SHA-256: as programs before this one wrote it, where those are the recorded bytes;
/// otherwise as this one does.
fn artifact_of(model: &Model, recorded_sha256: &str) -> (Vec<u8>, String) {
    let described = |bytes: Vec<u8>| {
        let sha256 = artifacts::describe(&bytes).sha256;
        (bytes, sha256)
    };
    let newest = described(model.to_bytes());
    if newest.1 == recorded_sha256 {
        return newest;
    }
    let mut before = model.of_before().into_iter().map(|model| described(model.to_bytes()));
    before.find(|(_, sha256)| sha256 == recorded_sha256).unwrap_or(newest)
}

fn parameters_of(record: &ModelRecord) -> TrainParameters {
    let parameters = record.model.parameters;
    TrainParameters {
        trees: parameters.trees,
        max_samples: parameters.max_samples,
        contamination: parameters.contamination,
        seed: record.model.seed,
        alert_quantile: parameters.alert_quantile,
    }
}

/// What explains that other bytes came out of the recorded rows.
fn first_difference(record: &ModelRecord, made: &Model, trimmed: u64, stored: Option<&[u8]>) -> Difference {
    let recorded = record.model.inputs.trimmed.map_or(0, |trimmed| trimmed.rows);
    if trimmed != recorded {
        let detail = format!("{trimmed} rows are left out as the most anomalous, the record says {recorded}");
        return Difference { what: "inputs", detail };
    }
    if let Some(stored) = stored.and_then(|bytes| Model::from_bytes(bytes).ok()) {
        let (file, says) = (stored.parameters(), parameters_of(record));
        if file.seed != says.seed {
            let detail = format!("the model file was made with {}, the record says {}", file.seed, says.seed);
            return Difference { what: "seed", detail };
        }
        if *file != says {
            let detail = format!("the model file was made with {file:?}, the record says {says:?}");
            return Difference { what: "parameters", detail };
        }
    }
    let program = env!("CARGO_PKG_VERSION");
    if record.model.code_version != program {
        let detail = format!("it was made by {}, this is {program}", record.model.code_version);
        return Difference { what: "code version", detail };
    }
    let detail = format!("its threshold is {}, the record says {}", made.threshold(), record.model.threshold);
    Difference { what: "artifact", detail }
}

/// Text to read, each line ended.
impl fmt::Display for Rebuilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, rows, delta_version, recorded_sha256, .. } = self;
        match (&self.difference, delta_version) {
            (None, Some(read)) => {
                writeln!(f, "model version {version} made again from {rows} rows of version {read} of `features`")?;
                writeln!(f, "sha256 {recorded_sha256}: the same")?;
            }
            (difference, _) => {
                writeln!(f, "model version {version} cannot be made again")?;
                writeln!(f, "recorded sha256 {recorded_sha256}")?;
                if let Some(rebuilt) = &self.rebuilt_sha256 {
                    writeln!(f, "made     sha256 {rebuilt}")?;
                }
                if let Some(Difference { what, detail }) = difference {
                    writeln!(f, "first difference, {what}: {detail}")?;
                }
            }
        }
        match &self.file_damage {
            Some(damage) if self.is_repaired => writeln!(f, "the model file was written again: {damage}"),
            Some(damage) => writeln!(f, "the model file: {damage}; --repair writes it again"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        train::{Then, TrainRequest, train},
        workshop::example::{Market, START, workshop},
    };
    use lake::registry::TrainedModel;

    async fn trained(workshop: &Workshop, trim: Option<f64>) -> i64 {
        let parameters = TrainParameters { trees: 30, ..TrainParameters::default() };
        let request = TrainRequest {
            to: Some(START.plus_micros(300_000_000)),
            trim,
            ..TrainRequest::on_every_row(parameters, Then::Register, "test", "")
        };
        train(workshop, &request).await.unwrap().version
    }

    /// Registers the record of a version once more, changed.
    async fn forged(workshop: &Workshop, change: impl FnOnce(&mut TrainedModel)) -> i64 {
        let mut model = workshop.registry.model(1).await.unwrap().model;
        change(&mut model);
        workshop.registry.register(&model).await.unwrap()
    }

    #[tokio::test]
    async fn a_model_is_made_again_from_its_record() {
        let (_folder, workshop) = workshop().await;
        let mut market = Market::labelled();
        market.run(&workshop, 200).await;
        market.run(&workshop, 200).await;
        for trim in [None, Some(0.02)] {
            let version = trained(&workshop, trim).await;
            market.run(&workshop, 50).await;
            let rebuilt = verify(&workshop, version, false).await.unwrap();
            assert!(rebuilt.is_fine(), "{rebuilt}");
            assert_eq!(rebuilt.rebuilt_sha256.as_ref(), Some(&rebuilt.recorded_sha256));
        }
        // Its version of the table is gone: the newest has the same rows.
        let recorded = workshop.registry.model(1).await.unwrap().model.inputs.delta_version;
        workshop.lake.compact(TableName::Features).await.unwrap();
        workshop.lake.vacuum(TableName::Features, 0, &[]).await.unwrap();
        let rebuilt = verify(&workshop, 1, false).await.unwrap();
        assert!(rebuilt.is_fine() && rebuilt.delta_version > Some(recorded), "{rebuilt}");
    }

    #[rstest::rstest]
    #[case::there_were_notices(0)]
    #[case::there_was_a_reach(1)]
    #[tokio::test]
    async fn a_model_of_before_is_made_again_as_it_was(#[case] back: usize) {
        let (_folder, workshop) = workshop().await;
        Market::labelled().run(&workshop, 400).await;
        trained(&workshop, None).await;
        let recorded = workshop.registry.model(1).await.unwrap().model.artifact;
        let newest = Model::from_bytes(&std::fs::read(workshop.models_dir.join(&recorded.path)).unwrap()).unwrap();
        let bytes = newest.of_before()[back].to_bytes();
        let before = artifacts::write(&workshop.models_dir, &bytes).unwrap();
        assert_ne!(before.sha256, recorded.sha256);
        let version = forged(&workshop, |model| model.artifact = before.clone()).await;
        let rebuilt = verify(&workshop, version, false).await.unwrap();
        assert!(rebuilt.is_fine() && rebuilt.rebuilt_sha256.as_ref() == Some(&before.sha256), "{rebuilt}");
        let path = workshop.models_dir.join(&before.path);
        std::fs::write(&path, b"torn").unwrap();
        let repaired = verify(&workshop, version, true).await.unwrap();
        assert!(repaired.is_fine() && repaired.is_repaired, "{repaired}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    #[tokio::test]
    async fn the_first_difference_is_named() {
        let (_folder, workshop) = workshop().await;
        Market::labelled().run(&workshop, 400).await;
        trained(&workshop, None).await;
        let of = async |version| verify(&workshop, version, false).await.unwrap();
        let what = |rebuilt: &Rebuilt| rebuilt.difference.as_ref().map(|difference| difference.what);
        let inputs = forged(&workshop, |model| model.inputs.digest = "other".to_owned()).await;
        let rebuilt = of(inputs).await;
        assert_eq!((what(&rebuilt), rebuilt.rebuilt_sha256.as_ref()), (Some("inputs"), None));
        assert!(rebuilt.to_string().contains("with the digest other"), "{rebuilt}");
        let seed = forged(&workshop, |model| model.seed = 7).await;
        assert_eq!(what(&of(seed).await), Some("seed"));
        let parameters = forged(&workshop, |model| model.parameters.trees = 29).await;
        assert_eq!(what(&of(parameters).await), Some("parameters"));
        let features = forged(&workshop, |model| model.specification_hash = "5f".to_owned()).await;
        assert_eq!(what(&of(features).await), Some("feature specification"));
        let other = artifacts::write(&workshop.models_dir, b"no model").unwrap();
        let code = forged(&workshop, |model| {
            model.artifact = other.clone();
            model.code_version = "0.0.1".to_owned();
        });
        assert_eq!(what(&of(code.await).await), Some("code version"));
        let artifact = forged(&workshop, |model| model.artifact = other.clone()).await;
        assert_eq!(what(&of(artifact).await), Some("artifact"));
    }

    #[tokio::test]
    async fn a_damaged_file_is_told_and_written_again() {
        let (_folder, workshop) = workshop().await;
        Market::labelled().run(&workshop, 400).await;
        let version = trained(&workshop, None).await;
        let path = workshop.models_dir.join(workshop.registry.model(version).await.unwrap().model.artifact.path);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, b"torn").unwrap();
        let damaged = verify(&workshop, version, false).await.unwrap();
        assert!(!damaged.is_fine() && damaged.difference.is_none() && damaged.file_damage.is_some(), "{damaged}");
        let repaired = verify(&workshop, version, true).await.unwrap();
        assert!(repaired.is_fine() && repaired.is_repaired, "{repaired}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}
