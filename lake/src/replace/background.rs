//! A replacement that is written to while the rows that come next are made: shaping, encoding and the caller's own work go
//! on side by side, a batch of each at a time.

use tokio_util::task::AbortOnDropHandle;

use super::Replacement;
use crate::{error::Error, rows::TableRow, table::failed};

/// The replacement, and the task that writes to it.
pub struct BackgroundWriter(AbortOnDropHandle<Result<Replacement, Error>>);

impl Replacement {
    /// Writes from now on in the background.
    #[must_use]
    pub fn in_background(self) -> BackgroundWriter {
        BackgroundWriter(AbortOnDropHandle::new(tokio::spawn(async { Ok(self) })))
    }
}

impl BackgroundWriter {
    /// Adds rows, each of them a part of a value, when those before are written.
    ///
    /// # Errors
    /// Where rows before them could not be written.
    ///
    /// # Panics
    /// If the rows are of another table.
    pub async fn add<T, R>(&mut self, values: Vec<T>, row: fn(&T) -> &R) -> Result<(), Error>
    where
        T: Send + 'static,
        R: TableRow,
    {
        if values.is_empty() {
            // Waiting for the rows before them would gain nothing.
            return Ok(());
        }
        let shaped = tokio::task::spawn_blocking(move || R::batch(&values.iter().map(row).collect::<Vec<_>>()));
        let mut replacement = self.written().await?;
        assert!(R::TABLE == replacement.name, "rows of one table are never put into another");
        self.0 = AbortOnDropHandle::new(tokio::spawn(async move {
            let batch = shaped.await?.map_err(|error| failed("shape rows of", R::TABLE)(error.into()))?;
            replacement.add_batch(batch).await?;
            Ok(replacement)
        }));
        Ok(())
    }

    /// Ends the file at hand: what comes next is in another one.
    ///
    /// # Errors
    /// As [`BackgroundWriter::add`], or where the file cannot be written.
    pub async fn close_file(&mut self) -> Result<(), Error> {
        let mut replacement = self.written().await?;
        replacement.close_file().await?;
        *self = replacement.in_background();
        Ok(())
    }

    /// The replacement with all rows.
    ///
    /// # Errors
    /// As [`BackgroundWriter::add`].
    pub async fn end(mut self) -> Result<Replacement, Error> {
        self.written().await
    }

    async fn written(&mut self) -> Result<Replacement, Error> {
        (&mut self.0).await?
    }
}
