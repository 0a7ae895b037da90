//! The registered models as the running program uses them: loaded from disk once, verified, shared.

use std::{path::PathBuf, sync::Arc};

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
