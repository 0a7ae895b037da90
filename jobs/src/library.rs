//! The registered models as the running program uses them: loaded from disk once, verified, shared.

use std::{
    collections::{HashMap, hash_map::Entry},
    path::PathBuf,
    sync::Arc,
};

use domain::Prediction;
use lake::registry::Registry;

use crate::{
    active::{self, ActiveModel},
    error::Error,
};

/// Loads registered models.
#[derive(Clone, Debug)]
pub struct Models {
    registry: Registry,
    folder: PathBuf,
}

impl Models {
    /// The models of a registry whose files lie in `folder`.
    #[must_use]
    pub const fn new(registry: Registry, folder: PathBuf) -> Self {
        Self { registry, folder }
    }

    /// Loads one version.
    ///
    /// # Errors
    /// Where there is no such version, or its file is damaged or of another program.
    pub async fn load(&self, version: i64) -> Result<Arc<ActiveModel>, Error> {
        Ok(Arc::new(active::load(&self.registry, &self.folder, version).await?))
    }

    /// Loads the versions that made these predictions and are not `loaded`.
    ///
    /// # Errors
    /// As [`Models::load`].
    pub async fn load_makers(
        &self,
        predictions: &[Prediction],
        loaded: &mut HashMap<i64, Arc<ActiveModel>>,
    ) -> Result<(), Error> {
        for prediction in predictions {
            if let Entry::Vacant(unknown) = loaded.entry(prediction.model_version) {
                unknown.insert(self.load(prediction.model_version).await?);
            }
        }
        Ok(())
    }

    /// Loads the champion unless it is `known`; `None` where nothing has changed or there is no champion yet.
    ///
    /// # Errors
    /// As [`Models::load`].
    pub async fn champion_if_not(&self, known: Option<i64>) -> Result<Option<Arc<ActiveModel>>, Error> {
        match self.registry.champion().await? {
            Some(record) if Some(record.version) != known => self.load(record.version).await.map(Some),
            _ => Ok(None),
        }
    }
}
