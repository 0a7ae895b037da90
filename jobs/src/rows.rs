//! Rows as bytes, read and written while they are sent, and what may be asked for at a time.
//!
//! Queries run on threads of their own: one that keeps a thread busy neither delays other requests nor keeps its own from
//! being told that it takes too long. What is read waits in a short queue, so that memory does not grow with the answer;
//! who gives an answer up stops its query. An answer is complete only where its end says so, and what goes wrong before
//! the first few MiB are there is an error instead of an answer.

use std::{collections::VecDeque, num::NonZeroUsize, sync::Arc, thread::available_parallelism, time::Duration};

use lake::{
    formats::{Encoder, Format},
    query::Rows,
};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    error::Error,
    tables::{Column, columns},
};

/// Rows that are written together.
const SLICE_ROWS: usize = 1_024;

/// Pieces of an answer that wait to be sent.
const PIECES_AHEAD: usize = 2;

/// Bytes of an answer that are there before it begins, unless all are fewer.
const FIRST_BYTES: usize = 4 << 20;

/// Threads that read, at least, so that a query that keeps one busy leaves another.
const LEAST_THREADS: usize = 2;

/// What reading may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Answers that are read at a time; each may take memory of its own to sort in.
    pub places: usize,
    /// How long a request waits for a place.
    pub patience: Duration,
    /// How long one answer may be waited for, not counting the time in which its reader takes nothing.
    pub reading: Duration,
    /// How long one answer may take, however slowly it is taken.
    pub answering: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            places: 4,
            patience: Duration::from_secs(5),
            reading: Duration::from_secs(30),
            answering: Duration::from_mins(10),
        }
    }
}

/// Where rows are read.
#[derive(Debug)]
pub struct Readers {
    limits: Limits,
    places: Arc<Semaphore>,
    threads: OnceCell<Threads>,
}

/// The right to read one answer. It is given back when the reading has ended, which may be after nobody waits for it.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

/// What is written: rows, and where those behind them are asked for.
pub struct Source {
    /// The rows.
    pub rows: Rows,
    /// The cursor of the next page.
    pub next: Option<String>,
}

/// An answer whose beginning is there.
pub struct Answer {
    /// Its columns.
    pub columns: Vec<Column>,
    /// The tables and versions that are read.
    pub versions: Vec<(&'static str, u64)>,
    /// The cursor of the next page, where there is one.
    pub next: Option<String>,
    /// Its bytes.
    pub pieces: Pieces,
}

/// The bytes of an answer, piece by piece.
pub struct Pieces {
    /// Those that are there.
    first: VecDeque<Vec<u8>>,
    coming: mpsc::Receiver<Vec<u8>>,
    task: AbortOnDropHandle<Result<bool, Error>>,
    /// Whether rows were left out at the end; none before it is known.
    is_cut: Option<bool>,
    limits: Limits,
    /// What is left of the time for reading.
    patience: Duration,
}

impl Readers {
    /// Readers within these limits. Their threads are started with the first answer.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, places: Arc::new(Semaphore::new(limits.places)), threads: OnceCell::new() }
    }

    /// A place, waited for a while.
    ///
    /// # Errors
    /// [`Error::Busy`] where none becomes free in time.
    pub async fn place(&self) -> Result<Place, Error> {
        match timeout(self.limits.patience, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Place { _permit: permit }),
            // It is never closed.
            Ok(Err(_)) | Err(_) => Err(Error::Busy { places: self.limits.places }),
        }
    }

    /// What `work` gives, on the threads that read, and the place that it was done in.
    ///
    /// # Errors
    /// [`Error::TooSlow`] where it takes too long; what `work` says.
    pub async fn run<T: Send + 'static>(
        &self,
        place: Place,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<(T, Place), Error> {
        let placed = async move { Ok::<_, Error>((work.await?, place)) };
        let task = AbortOnDropHandle::new(self.handle().await?.spawn(placed));
        timeout(self.limits.reading, task).await.map_err(|_| too_slow(self.limits.reading))??
    }

    /// The rows of `source` in a format, at most `limit` of them.
    ///
    /// # Errors
    /// [`Error::TooSlow`] where the beginning takes too long; what the source says, and what goes wrong with the
    /// beginning.
    pub async fn answer(
        &self,
        place: Place,
        source: impl Future<Output = Result<Source, Error>> + Send + 'static,
        format: Format,
        limit: u64,
    ) -> Result<Answer, Error> {
        let begun = Instant::now();
        let (Source { rows, next }, place) = self.run(place, source).await?;
        let columns = columns(&rows.schema());
        let versions = rows.versions().iter().map(|(table, version)| (table.as_str(), *version)).collect();
        let (sender, coming) = mpsc::channel(PIECES_AHEAD);
        let answering = self.limits.answering;
        let write = async move {
            // Counted here: who takes nothing does not ask for the next piece either.
            let written = timeout_at(begun + answering, write(rows, format, limit, &sender)).await;
            drop(place);
            written.unwrap_or_else(|_| Err(too_slow(answering)))
        };
        let mut pieces = Pieces {
            first: VecDeque::new(),
            coming,
            task: AbortOnDropHandle::new(self.handle().await?.spawn(write)),
            is_cut: None,
            limits: self.limits,
            patience: self.limits.reading.saturating_sub(begun.elapsed()),
        };
        pieces.begin().await?;
        Ok(Answer { columns, versions, next, pieces })
    }

    async fn handle(&self) -> Result<Handle, Error> {
        let threads = self.threads.get_or_try_init(|| async { Threads::start() }).await?;
        Ok(threads.handle.clone())
    }
}

impl Pieces {
    /// The next bytes; `None` where the answer is complete.
    ///
    /// # Errors
    /// Where the answer cannot be completed; nothing follows it.
    pub async fn next(&mut self) -> Option<Result<Vec<u8>, Error>> {
        match self.first.pop_front() {
            Some(piece) => Some(Ok(piece)),
            None => self.receive().await.transpose(),
        }
    }

    /// Whether there are more rows than were asked for: known at the end, and from the beginning where the answer is
    /// short.
    #[must_use]
    pub const fn is_cut(&self) -> Option<bool> {
        self.is_cut
    }

    /// Waits for the beginning.
    async fn begin(&mut self) -> Result<(), Error> {
        let mut bytes = 0;
        while bytes < FIRST_BYTES {
            let Some(piece) = self.receive().await? else { break };
            bytes += piece.len();
            self.first.push_back(piece);
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if self.is_cut.is_some() {
            return Ok(None);
        }
        let begun = Instant::now();
        let piece = timeout(self.patience, self.coming.recv()).await.map_err(|_| too_slow(self.limits.reading))?;
        self.patience = self.patience.saturating_sub(begun.elapsed());
        if piece.is_none() {
            // What the writer says is the end of the answer: one that died has said nothing.
            self.is_cut = Some((&mut self.task).await??);
        }
        Ok(piece)
    }
}

const fn too_slow(limit: Duration) -> Error {
    Error::TooSlow { seconds: limit.as_secs() }
}

/// Writes rows; whether there were more than the limit. Stops where nobody takes them.
async fn write(mut rows: Rows, format: Format, limit: u64, pieces: &mpsc::Sender<Vec<u8>>) -> Result<bool, Error> {
    let mut encoder = Encoder::new(format, &rows.schema())?;
    let (mut left, mut is_cut) = (limit, false);
    while !is_cut && let Some(next) = rows.next_within(left).await {
        let (batch, has_more) = next?;
        is_cut = has_more;
        left -= batch.num_rows() as u64;
        for start in (0..batch.num_rows()).step_by(SLICE_ROWS) {
            let piece = encoder.write(&batch.slice(start, SLICE_ROWS.min(batch.num_rows() - start)))?;
            if !piece.is_empty() && pieces.send(piece).await.is_err() {
                return Ok(is_cut);
            }
        }
    }
    let mut rest = encoder.finish()?;
    if format == Format::Json && rest.last() == Some(&b'\n') {
        // Something may follow the array.
        rest.pop();
    }
    if !rest.is_empty() {
        // Nobody is left to be told where it is not taken.
        let _ = pieces.send(rest).await;
    }
    Ok(is_cut)
}

/// The threads; they end with this.
#[derive(Debug)]
struct Threads {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Threads {
    fn start() -> Result<Self, Error> {
        let count = available_parallelism().map_or(LEAST_THREADS, NonZeroUsize::get).max(LEAST_THREADS);
        let built = Builder::new_multi_thread().worker_threads(count).thread_name("reader").enable_all().build();
        let runtime = built.map_err(|source| Error::Threads { source })?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // To wait for them is not allowed where other tasks run.
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use domain::ErrorKind;
    use futures::future::lazy;
    use lake::Versions;

    use super::*;

    /// Numbers without an end.
    const ENDLESS: &str = "WITH RECURSIVE n AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM n) SELECT a FROM n";

    const THREE: &str = "SELECT a FROM (VALUES (1), (2), (3)) AS t(a)";

    async fn source(sql: &str) -> Result<Source, Error> {
        let folder = tempfile::tempdir().unwrap();
        let rows = Versions::of(folder.path())?.query(sql).await?;
        Ok(Source { rows, next: None })
    }

    /// The text of an answer, and whether rows were left out of it.
    async fn answered(readers: &Readers, sql: &'static str, limit: u64) -> Result<(String, Option<bool>), Error> {
        let place = readers.place().await?;
        let mut answer = readers.answer(place, source(sql), Format::Csv, limit).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = answer.pieces.next().await {
            bytes.extend(piece?);
        }
        Ok((String::from_utf8(bytes).unwrap(), answer.pieces.is_cut()))
    }

    #[tokio::test]
    async fn an_answer_says_at_its_end_whether_rows_were_left_out() {
        let readers = Readers::new(Limits::default());
        let cut = ("a\n1\n2\n".to_owned(), Some(true));
        assert_eq!(answered(&readers, THREE, 2).await.unwrap(), cut);
        assert_eq!(answered(&readers, ENDLESS, 2).await.unwrap(), cut);
        assert_eq!(answered(&readers, THREE, 3).await.unwrap(), ("a\n1\n2\n3\n".to_owned(), Some(false)));
        let place = readers.place().await.unwrap();
        let short = readers.answer(place, source(THREE), Format::Csv, 2).await.unwrap();
        assert_eq!(short.pieces.is_cut(), Some(true), "a short answer is known from its beginning");
    }

    #[tokio::test]
    async fn what_has_no_end_is_given_up_and_so_is_its_place() {
        let reading = Duration::from_millis(50);
        let readers = Readers::new(Limits { places: 1, reading, ..Limits::default() });
        for _ in 0..3 {
            let error = answered(&readers, ENDLESS, u64::MAX).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        }
        let place = readers.place().await.unwrap();
        let error = readers.run(place, pending::<Result<(), Error>>()).await.unwrap_err();
        assert!(matches!(error, Error::TooSlow { seconds: 0 }), "{error:?}");
        assert!(readers.place().await.is_ok());
    }

    #[tokio::test]
    async fn an_answer_that_nobody_takes_gives_its_place_back() {
        /// Ten times a MB.
        const LONG: &str = "WITH t AS (SELECT a FROM (VALUES (1), (2), (3), (4), (5), (6), (7), (8), (9), (10)) AS v(a)) \
                            SELECT repeat('x', 1000) AS x FROM t, t u, t v, t w";
        let answering = Duration::from_millis(200);
        let readers = Readers::new(Limits { places: 1, answering, ..Limits::default() });
        let place = readers.place().await.unwrap();
        // However much of it was there in time: none of it is taken.
        let untaken = readers.answer(place, source(LONG), Format::Csv, u64::MAX).await;
        assert!(readers.place().await.is_ok());
        drop(untaken);
    }

    #[tokio::test]
    async fn a_request_without_a_place_is_told_so() {
        let readers = Readers::new(Limits { places: 1, patience: Duration::ZERO, ..Limits::default() });
        let place = readers.place().await.unwrap();
        let busy = readers.place().await.unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Unavailable, "{busy}");
        drop(place);
        assert!(readers.place().await.is_ok());
    }

    #[tokio::test]
    async fn what_goes_wrong_is_no_answer() {
        let readers = Readers::new(Limits::default());
        let divided = "SELECT 1 / (3 - a) AS b FROM (VALUES (1), (2), (3)) AS t(a)";
        let wrong = answered(&readers, divided, 10).await.unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::Invalid, "{wrong}");
        let place = readers.place().await.unwrap();
        let dies = lazy(|_| -> Result<(), Error> { panic!("a defect") });
        let died = readers.run(place, dies).await.unwrap_err();
        assert_eq!(died.kind(), ErrorKind::Internal, "{died}");
    }
}
