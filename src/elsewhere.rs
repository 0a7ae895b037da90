//! What the other processes of a data directory do, as a service that runs alone can see it: their locks, the end of
//! the log, the rows of the tables.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jobs::stream;
use lake::TableName;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    locks::{self, Role},
};

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// The newest look.
pub struct Elsewhere {
    data_dir: PathBuf,
    seen: Mutex<Seen>,
}

/// What a look saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Partitions of the topic.
    pub partitions: usize,
    /// Those that a process folds.
    pub folded: usize,
    /// Records of the log.
    pub logged: u64,
    /// Records of the log that are not in the tables.
    pub behind: u64,
    /// Feature rows committed.
    pub feature_rows: u64,
    /// Why the look failed, as a sentence; the numbers are those of the last one that did not.
    pub trouble: Option<String>,
}

impl Elsewhere {
    /// Takes the first look.
    ///
    /// # Errors
    /// Where locks, log or lake cannot be read.
    pub async fn new(app: &App, data_dir: &Path) -> anyhow::Result<Arc<Self>> {
        let seen = look(app, data_dir).await?;
        Ok(Arc::new(Self { data_dir: data_dir.to_owned(), seen: Mutex::new(seen) }))
    }

    /// Looks again and again until it is cancelled.
    pub async fn watch(&self, app: &App, cancel: &CancellationToken) {
        loop {
            tokio::select! { () = tokio::time::sleep(LOOK) => {}, () = cancel.cancelled() => return }
            match look(app, &self.data_dir).await {
                Ok(seen) => *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen,
                Err(error) => {
                    self.seen.lock().unwrap_or_else(PoisonError::into_inner).trouble = Some(error.to_string());
                }
            }
        }
    }

    /// The newest look.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn look(app: &App, data_dir: &Path) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    for (partition, next, end) in stream::positions(app.log.as_ref(), &app.lake).await? {
        seen.partitions += 1;
        seen.folded += usize::from(locks::is_held(data_dir, Role::Stream(partition))?);
        seen.logged += u64::try_from(end).unwrap_or(0);
        seen.behind += end.saturating_sub(next).unsigned_abs();
    }
    seen.feature_rows = app.lake.state(TableName::Features).await?.rows;
    Ok(seen)
}
