//! The event log that the settings name, opened: a file of this machine, or a topic of a Fluvio cluster.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use domain::{Clock, Partition};
use streams::{CopyTarget, EmbeddedLog, EventLog};

use crate::{
    config::{LogEngine, LogSettings},
    settings_to_parts,
};

/// Opens the log of a data folder; what is missing is made.
///
/// # Errors
/// Where the log cannot be opened, or is another than the settings say.
pub async fn open(settings: &LogSettings, data: &Path, clock: Arc<dyn Clock>) -> anyhow::Result<Arc<dyn EventLog>> {
    match settings.engine {
        LogEngine::Embedded => {
            let topic = settings_to_parts::topic(settings);
            Ok(Arc::new(EmbeddedLog::open(&embedded_file(data), &topic, clock).await?))
        }
        LogEngine::Fluvio => Ok(copy_target(settings, data, clock).await?),
    }
}

/// The file of a data folder's embedded log.
pub fn embedded_file(data: &Path) -> PathBuf {
    data.join("log/events.db")
}

/// The topics of the cluster that the settings name, each with its partitions.
///
/// # Errors
/// Where the cluster cannot be reached.
#[cfg(feature = "fluvio")]
pub async fn topics(settings: &LogSettings) -> anyhow::Result<Vec<(String, Partition)>> {
    Ok(streams::FluvioLog::topics(&settings_to_parts::cluster(settings)).await?)
}

/// The topic of a cluster, to which records can be copied.
///
/// # Errors
/// As [`open`].
#[cfg(feature = "fluvio")]
pub async fn copy_target(
    settings: &LogSettings,
    data: &Path,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Arc<dyn CopyTarget>> {
    let ledger = data.join(format!("log/fluvio-{}.db", settings.topic));
    let cluster = settings_to_parts::cluster(settings);
    Ok(Arc::new(streams::FluvioLog::open(&cluster, &ledger, clock).await?))
}

/// There is no cluster without the feature.
#[cfg(not(feature = "fluvio"))]
pub async fn topics(_: &LogSettings) -> anyhow::Result<Vec<(String, Partition)>> {
    Err(without_fluvio())
}

/// There is no cluster without the feature.
#[cfg(not(feature = "fluvio"))]
pub async fn copy_target(_: &LogSettings, _: &Path, _: Arc<dyn Clock>) -> anyhow::Result<Arc<dyn CopyTarget>> {
    Err(without_fluvio())
}

#[cfg(not(feature = "fluvio"))]
fn without_fluvio() -> anyhow::Error {
    let remedy = "build it with the feature `fluvio`, or use `log.engine` = \"embedded\"";
    crate::commands::Refused(format!("this program was built without Fluvio: {remedy}")).into()
}
