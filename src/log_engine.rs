//! The event log that the settings name, opened: a file of this machine, or a topic of a Fluvio cluster.

use std::{path::Path, sync::Arc};

use domain::{Clock, Partition};
use streams::{EmbeddedLog, EventLog};

use crate::{
    config::{LogEngine, LogSettings},
    settings_to_parts,
};

/// Opens the log of a data folder; what is missing is made.
///
/// # Errors
/// Where the log cannot be opened, or is another than the settings say.
pub async fn open(settings: &LogSettings, data: &Path, clock: Arc<dyn Clock>) -> anyhow::Result<Arc<dyn EventLog>> {
    let folder = data.join("log");
    match settings.engine {
        LogEngine::Embedded => {
            let topic = settings_to_parts::topic(settings);
            Ok(Arc::new(EmbeddedLog::open(&folder.join("events.db"), &topic, clock).await?))
        }
        LogEngine::Fluvio => on_a_cluster(settings, &folder, clock).await,
    }
}

/// The topics of the cluster that the settings name, each with its partitions.
///
/// # Errors
/// Where the cluster cannot be reached.
#[cfg(feature = "fluvio")]
pub async fn topics(settings: &LogSettings) -> anyhow::Result<Vec<(String, Partition)>> {
    Ok(streams::FluvioLog::topics(&settings_to_parts::cluster(settings)).await?)
}

#[cfg(feature = "fluvio")]
async fn on_a_cluster(
    settings: &LogSettings,
    folder: &Path,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Arc<dyn EventLog>> {
    let ledger = folder.join(format!("fluvio-{}.db", settings.topic));
    let cluster = settings_to_parts::cluster(settings);
    Ok(Arc::new(streams::FluvioLog::open(&cluster, &ledger, clock).await?))
}

/// There is no cluster without the feature.
#[cfg(not(feature = "fluvio"))]
pub async fn topics(_: &LogSettings) -> anyhow::Result<Vec<(String, Partition)>> {
    Err(without_fluvio())
}

#[cfg(not(feature = "fluvio"))]
async fn on_a_cluster(_: &LogSettings, _: &Path, _: Arc<dyn Clock>) -> anyhow::Result<Arc<dyn EventLog>> {
    Err(without_fluvio())
}

#[cfg(not(feature = "fluvio"))]
fn without_fluvio() -> anyhow::Error {
    let remedy = "build it with the feature `fluvio`, or use `log.engine` = \"embedded\"";
    crate::commands::Refused(format!("this program was built without Fluvio: {remedy}")).into()
}
