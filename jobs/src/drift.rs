//! Whether the newest rows still look like those that the champion was trained on.
//!
//! Rows are compared as the champion sees them, standardised by its own scales, so that markets of different size are one
//! population. What was found is kept with the version of the table that was read: a later look at the same version has
//! nothing to do.

use std::{collections::BTreeSet, fmt, sync::Arc};

use domain::Timestamp;
use lake::{read::StoredFeatures, registry::life::DriftCheck};
use models::drift::{FeatureDrift, Sample, compare};
use serde::Serialize;
use tokio::{sync::Mutex, task::spawn_blocking};

use crate::{
    active::{self, ActiveModel},
    error::Error,
    evaluate::as_json,
    rebuild::recorded_rows,
    report::{BLOCK_MICROS, instant},
    workshop::{MOST_ROWS, Slice, Workshop},
};

/// Rows of so much event time before the newest one are looked at.
const RECENT_MICROS: i64 = 6 * 3_600_000_000;

/// Fewer minutes with rows than this say nothing.
const LEAST_BLOCKS: u64 = 30;

/// What a look found.
#[derive(Clone, Debug, PartialEq)]
pub enum Look {
    /// There is no champion.
    NoChampion,
    /// The table has not changed since the last look.
    NothingNew,
    /// So few minutes since its training have rows.
    TooFew {
        /// Minutes with rows.
        blocks: u64,
    },
    /// Rows were compared.
    Found(DriftReport),
}

/// How recent rows differ from those that a model was trained on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DriftReport {
    /// The model.
    pub version: i64,
    /// The version of `features` that was read.
    pub delta_version: u64,
    /// Rows looked at.
    pub rows: u64,
    /// Minutes that they lie in: so many independent observations they count for.
    pub blocks: u64,
    /// The least event time among them.
    #[serde(with = "instant")]
    pub first: Timestamp,
    /// The greatest.
    #[serde(with = "instant")]
    pub last: Timestamp,
    /// Rows that the model was trained on.
    pub training_rows: u64,
    /// Minutes that those lie in.
    pub training_blocks: u64,
    /// The measures, by feature.
    pub features: Vec<Measure>,
}

/// How one feature differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measure {
    /// The feature.
    pub feature: &'static str,
    /// Whether it has drifted: both measures exceed their thresholds.
    pub drifted: bool,
    /// The population stability index.
    pub psi: f64,
    /// What it must exceed.
    pub psi_threshold: f64,
    /// The Kolmogorov-Smirnov distance.
    pub ks: f64,
    /// What it must exceed.
    pub ks_threshold: f64,
}

impl From<FeatureDrift> for Measure {
    fn from(found: FeatureDrift) -> Self {
        Self {
            feature: found.feature,
            drifted: found.is_drifted(),
            psi: found.stability_index,
            psi_threshold: found.stability_index_threshold,
            ks: found.kolmogorov_smirnov,
            ks_threshold: found.kolmogorov_smirnov_threshold,
        }
    }
}

impl DriftReport {
    /// Whether any feature has drifted.
    #[must_use]
    pub fn is_drifted(&self) -> bool {
        self.features.iter().any(|measure| measure.drifted)
    }
}

/// Looks for drift, again and again: the training rows of a champion are read once.
#[derive(Debug)]
pub struct DriftWatch {
    workshop: Workshop,
    champion: Mutex<Option<Arc<Trained>>>,
}

/// A model and the rows that it was trained on.
#[derive(Debug)]
struct Trained {
    active: ActiveModel,
    until: Timestamp,
    sample: Sample,
}

impl DriftWatch {
    /// A watch that has seen nothing yet.
    #[must_use]
    pub fn new(workshop: Workshop) -> Self {
        Self { workshop, champion: Mutex::new(None) }
    }

    /// Looks at the newest rows. With `again`, also where the table has not changed since the last look.
    ///
    /// # Errors
    /// [`Error::Nothing`] where the rows that the champion was trained on are not to be had any more; where a table or the
    /// registry cannot be read.
    pub async fn look(&self, again: bool) -> Result<Look, Error> {
        let registry = &self.workshop.registry;
        let Some(version) = registry.champion().await?.map(|record| record.version) else {
            return Ok(Look::NoChampion);
        };
        let newest = self.workshop.lake.state(lake::TableName::Features).await?.version;
        let looked_at = registry.last_drift(version).await?.map(|check| check.delta_version);
        if looked_at == Some(newest) && !again {
            return Ok(Look::NothingNew);
        }
        let trained = self.trained(version).await?;
        let end = self.workshop.newest_event().await?.unwrap_or_default();
        let from = trained.until.max(end.plus_micros(-RECENT_MICROS));
        let from = self.workshop.newest_from(from, MOST_ROWS).await?;
        let chosen = self.workshop.choose(&Slice::new(Some(from), None, &[])?, None).await?;
        let blocks = blocks(&chosen.rows);
        if blocks < LEAST_BLOCKS {
            return Ok(Look::TooFew { blocks });
        }
        let comparing = spawn_blocking(move || {
            let recent = sample(&trained.active, &chosen.rows)?;
            let times = chosen.rows.iter().map(|row| row.timestamp);
            Some(DriftReport {
                version,
                delta_version: chosen.delta_version,
                rows: chosen.rows.len() as u64,
                blocks,
                first: times.clone().min()?,
                last: times.max()?,
                training_rows: trained.sample.rows() as u64,
                training_blocks: trained.sample.blocks(),
                features: compare(&trained.sample, &recent).map(Measure::from).into(),
            })
        });
        Ok(comparing.await?.map_or(Look::TooFew { blocks }, Look::Found))
    }

    /// Keeps what was found; a later look begins after it.
    ///
    /// # Errors
    /// Where the registry cannot be written.
    pub async fn keep(&self, found: &DriftReport) -> Result<(), Error> {
        let (at, report) = (self.workshop.clock.now(), as_json(found)?);
        let (version, delta_version, drifted) = (found.version, found.delta_version, found.is_drifted());
        let check = DriftCheck { version, at, delta_version, drifted, report };
        Ok(self.workshop.registry.record_drift(&check).await?)
    }

    async fn trained(&self, version: i64) -> Result<Arc<Trained>, Error> {
        let mut known = self.champion.lock().await;
        if let Some(trained) = known.as_ref().filter(|trained| trained.active.version == version) {
            return Ok(trained.clone());
        }
        *known = None;
        let active = active::load(&self.workshop.registry, &self.workshop.models_dir, version).await?;
        let inputs = self.workshop.registry.model(version).await?.model.inputs;
        let rows = recorded_rows(&self.workshop, &inputs).await?.map_err(|what| Error::Nothing {
            what,
            remedy: "train a model, so that there is something to compare with",
        })?;
        let sampling = spawn_blocking(move || {
            let sample = sample(&active, &rows.rows)?;
            Some(Trained { active, until: inputs.to, sample })
        });
        let trained = sampling.await?.ok_or_else(|| Error::Nothing {
            what: format!("model version {version} was trained on no rows"),
            remedy: "train another",
        })?;
        Ok(known.insert(Arc::new(trained)).clone())
    }
}

fn sample(model: &ActiveModel, rows: &[StoredFeatures]) -> Option<Sample> {
    let symbols: Vec<_> = rows.iter().map(|row| row.symbol).collect();
    let vectors: Vec<_> = rows.iter().map(|row| row.features).collect();
    Sample::of(&model.model.standardised(&symbols, &vectors), blocks(rows))
}

/// The minutes that rows lie in, of all markets together: those move together.
fn blocks(rows: &[StoredFeatures]) -> u64 {
    rows.iter().map(|row| row.timestamp.span(BLOCK_MICROS)).collect::<BTreeSet<_>>().len() as u64
}

/// Text to read, each line ended.
impl fmt::Display for DriftReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} rows of {} minutes, {} to {}", self.rows, self.blocks, self.first, self.last)?;
        let (version, rows, blocks) = (self.version, self.training_rows, self.training_blocks);
        writeln!(f, "against the {rows} rows of {blocks} minutes that model version {version} was trained on\n")?;
        writeln!(f, "{:<20}{:>10}{:>14}{:>10}{:>14}", "feature", "PSI", "threshold", "KS", "threshold")?;
        for measure in &self.features {
            let Measure { feature, psi, psi_threshold, ks, ks_threshold, drifted } = measure;
            let mark = if *drifted { "  drifted" } else { "" };
            writeln!(f, "{feature:<20}{psi:>10.4}{psi_threshold:>14.4}{ks:>10.4}{ks_threshold:>14.4}{mark}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        train::{Then, TrainRequest, train},
        workshop::example::{Market, workshop},
    };
    use models::TrainParameters;

    async fn champion(workshop: &Workshop) {
        let parameters = TrainParameters { trees: 20, ..TrainParameters::default() };
        let request = TrainRequest::on_every_row(parameters, Then::Promote, "test", "");
        train(workshop, &request).await.unwrap();
    }

    #[tokio::test]
    async fn a_market_that_goes_on_has_not_drifted_and_one_that_changed_has() {
        let (_folder, workshop) = workshop().await;
        let mut market = Market::unlabelled();
        let watch = DriftWatch::new(workshop.clone());
        assert_eq!(watch.look(false).await.unwrap(), Look::NoChampion);
        market.run(&workshop, 3_600).await;
        champion(&workshop).await;
        assert_eq!(watch.look(false).await.unwrap(), Look::TooFew { blocks: 0 });
        market.run(&workshop, 3_600).await;
        let Look::Found(calm) = watch.look(false).await.unwrap() else { panic!("nothing was found") };
        assert!(!calm.is_drifted(), "{calm}");
        assert_eq!((calm.rows, calm.training_rows, calm.version), (10_800, 10_800, 1));
        assert!((60..=61).contains(&calm.blocks), "{calm}");
        watch.keep(&calm).await.unwrap();
        assert_eq!(watch.look(false).await.unwrap(), Look::NothingNew);
        assert_eq!(watch.look(true).await.unwrap(), Look::Found(calm));
        market.shake();
        market.run(&workshop, 7_200).await;
        let Look::Found(shaken) = watch.look(false).await.unwrap() else { panic!("nothing was found") };
        assert!(shaken.is_drifted(), "{shaken}");
        let of = |name: &str| shaken.features.iter().find(|measure| measure.feature == name).unwrap();
        assert!(of("rolling_volume_std").drifted && !of("z_score_price").drifted, "{shaken}");
        watch.keep(&shaken).await.unwrap();
        let kept = workshop.registry.last_drift(1).await.unwrap().unwrap();
        assert!(kept.drifted && kept.delta_version == shaken.delta_version);
    }

    #[tokio::test]
    async fn another_champion_is_compared_with_its_own_rows() {
        let (_folder, workshop) = workshop().await;
        let mut market = Market::unlabelled();
        market.run(&workshop, 2_000).await;
        champion(&workshop).await;
        let watch = DriftWatch::new(workshop.clone());
        market.shake();
        market.run(&workshop, 4_000).await;
        let Look::Found(found) = watch.look(false).await.unwrap() else { panic!("nothing was found") };
        assert!(found.is_drifted(), "{found}");
        champion(&workshop).await;
        market.run(&workshop, 4_000).await;
        let Look::Found(found) = watch.look(false).await.unwrap() else { panic!("nothing was found") };
        assert_eq!((found.version, found.training_rows), (2, 18_000));
    }
}
