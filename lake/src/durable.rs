//! The object store below every Delta table, and the look at a table's log when the program starts.
//!
//! `object_store`'s local backend never calls fsync, so that a power cut can leave an empty or torn commit that loses
//! rows in silence or makes the table unreadable. Here a write returns only when its bytes, its name and every folder
//! on the way are on disk, and a file written in one piece is on disk *before* its name appears: whoever sees a commit
//! sees all of it, now and after a power cut. [`check_newest_commits`] sets aside what another writer or a damaged disk
//! left behind. Nothing here ever deletes a file that it did not make, or reads a clock.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use deltalake::DeltaTableBuilder;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result as StoreResult, UploadPart,
    local::LocalFileSystem, path::Path as Location,
};
use serde::de::IgnoredAny;
use url::Url;

use crate::Error;

/// A local object store whose writes survive a power cut.
///
/// Its locations are absolute paths, as deltalake asks for; it writes only below its base folder.
#[derive(Clone, Debug)]
pub struct DurableStore {
    local: LocalFileSystem,
    base: PathBuf,
    durable_folders: Arc<Mutex<HashSet<PathBuf>>>,
}

impl DurableStore {
    /// A store that writes below `base`, which is made where it is missing.
    ///
    /// # Errors
    /// [`Error::File`] where the folder cannot be made or found.
    pub fn new(base: &Path) -> Result<Self, Error> {
        create_folder(base)?;
        let base = base.canonicalize().map_err(Error::file("find", base))?;
        Ok(Self { local: LocalFileSystem::new(), base, durable_folders: Arc::default() })
    }

    /// The absolute path of the base folder.
    #[must_use]
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The builder of the table in folder `name` below the base: `.load().await` opens it, `.build()?.create()` makes
    /// it. Whatever is done through the table is durable.
    ///
    /// # Errors
    /// [`Error::Delta`] where the name does not make a location.
    pub fn table(&self, name: &str) -> Result<DeltaTableBuilder, Error> {
        let folder = self.base.join(name);
        let action = format!("find a place for table `{name}`");
        let url = Url::from_directory_path(&folder)
            .map_err(|()| Error::file("name", &folder)(io::Error::from(io::ErrorKind::InvalidFilename)))?;
        let builder = DeltaTableBuilder::from_url(url.clone()).map_err(Error::delta(action))?;
        Ok(builder.with_storage_backend(Arc::new(self.clone()), url))
    }

    /// The file at a location that will be written.
    fn target(&self, location: &Location) -> StoreResult<PathBuf> {
        let path = self.local.path_to_filesystem(location)?;
        if path.starts_with(&self.base) {
            return Ok(path);
        }
        let refusal = format!("`{}` is outside of `{}`: nothing is written there", path.display(), self.base.display());
        Err(object_store::Error::Generic { store: STORE, source: refusal.into() })
    }

    /// Makes the folders above `path`. One that is missing is no longer known to be durable: its maker may have died.
    fn make_room(&self, path: &Path) -> Result<(), Error> {
        let Some(parent) = path.parent().filter(|parent| !parent.exists()) else { return Ok(()) };
        let mut known = self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner);
        for missing in parent.ancestors().take_while(|folder| !folder.exists()) {
            known.remove(missing);
        }
        drop(known);
        fs::create_dir_all(parent).map_err(Error::file("make", parent))
    }

    /// Makes the name of a written file durable: its folder always, the folders above once per process.
    fn sync_folders_of(&self, path: &Path) -> Result<(), Error> {
        let Some(parent) = path.parent() else { return Ok(()) };
        sync_folder(parent)?;
        let unknown: Vec<PathBuf> = {
            let known = self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner);
            let below_base = parent.ancestors().take_while(|folder| *folder != self.base);
            below_base.take_while(|folder| !known.contains(*folder)).map(Path::to_path_buf).collect()
        };
        for above in unknown.iter().filter_map(|folder| folder.parent()) {
            sync_folder(above)?;
        }
        self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner).extend(unknown);
        Ok(())
    }

    /// Before a file gets another name: its bytes are on disk first, because the local backend copies by linking.
    /// That a source is missing is for the local backend to say.
    async fn prepare_second_name(&self, source: PathBuf, path: PathBuf) -> StoreResult<()> {
        let store = self.clone();
        blocking(move || {
            store.make_room(&path)?;
            if source.exists() { sync_file(&source) } else { Ok(()) }
        })
        .await
    }

    /// Makes a file that somebody else has just written durable, with its name.
    fn sync_all_of(&self, path: &Path) -> Result<(), Error> {
        sync_file(path)?;
        self.sync_folders_of(path)
    }
}

const STORE: &str = "DurableStore";

impl fmt::Display for DurableStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STORE}({})", self.base.display())
    }
}

#[async_trait]
impl ObjectStore for DurableStore {
    async fn put_opts(&self, location: &Location, payload: PutPayload, opts: PutOptions) -> StoreResult<PutResult> {
        let publish = match opts.mode {
            PutMode::Create if opts.attributes.is_empty() => Publish::IfAbsent,
            PutMode::Overwrite if opts.attributes.is_empty() => Publish::Replacing,
            // Conditional updates and attributes: the local backend refuses them in its own words.
            _ => return self.local.put_opts(location, payload, opts).await,
        };
        let (store, path) = (self.clone(), self.target(location)?);
        blocking(move || {
            store.make_room(&path)?;
            write_file(&path, &payload, publish)?;
            store.sync_folders_of(&path)
        })
        .await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        location: &Location,
        opts: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        let (store, path) = (self.clone(), self.target(location)?);
        let room_for = path.clone();
        blocking(move || store.make_room(&room_for)).await?;
        let inner = self.local.put_multipart_opts(location, opts).await?;
        Ok(Box::new(DurableUpload { inner, store: self.clone(), path }))
    }

    async fn get_opts(&self, location: &Location, options: GetOptions) -> StoreResult<GetResult> {
        self.local.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Location, ranges: &[Range<u64>]) -> StoreResult<Vec<Bytes>> {
        self.local.get_ranges(location, ranges).await
    }

    /// Not durable: a file that comes back after a power cut is an orphan, which vacuum and log cleanup know.
    fn delete_stream(
        &self,
        locations: BoxStream<'static, StoreResult<Location>>,
    ) -> BoxStream<'static, StoreResult<Location>> {
        self.local.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Location>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.local.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Location>,
        offset: &Location,
    ) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.local.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Location>) -> StoreResult<ListResult> {
        self.local.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Location, to: &Location, options: CopyOptions) -> StoreResult<()> {
        let source = self.local.path_to_filesystem(from)?;
        let path = self.target(to)?;
        self.prepare_second_name(source, path.clone()).await?;
        self.local.copy_opts(from, to, options).await?;
        let store = self.clone();
        blocking(move || store.sync_folders_of(&path)).await
    }

    async fn rename_opts(&self, from: &Location, to: &Location, options: RenameOptions) -> StoreResult<()> {
        let (source, path) = (self.target(from)?, self.target(to)?);
        self.prepare_second_name(source.clone(), path.clone()).await?;
        self.local.rename_opts(from, to, options).await?;
        let store = self.clone();
        blocking(move || {
            store.sync_folders_of(&path)?;
            store.sync_folders_of(&source)
        })
        .await
    }
}

/// An upload in parts whose completion is durable.
#[derive(Debug)]
struct DurableUpload {
    inner: Box<dyn MultipartUpload>,
    store: DurableStore,
    path: PathBuf,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        let result = self.inner.complete().await?;
        let (store, path) = (self.store.clone(), self.path.clone());
        blocking(move || store.sync_all_of(&path)).await?;
        Ok(result)
    }

    async fn abort(&mut self) -> StoreResult<()> {
        self.inner.abort().await
    }
}

/// Runs file operations where they may block, and puts their errors into the object store's words.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> StoreResult<T> {
    let result = match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await?,
        Err(_) => work(),
    };
    result.map_err(store_error)
}

fn store_error(error: Error) -> object_store::Error {
    match error {
        Error::File { path, source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
            object_store::Error::AlreadyExists { path: path.display().to_string(), source: source.into() }
        }
        Error::File { path, source, .. } if source.kind() == io::ErrorKind::NotFound => {
            object_store::Error::NotFound { path: path.display().to_string(), source: source.into() }
        }
        other => object_store::Error::Generic { store: STORE, source: other.into() },
    }
}

/// What a written file does to one that has its name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Publish {
    /// Takes its place.
    Replacing,
    /// Yields: the write fails with `AlreadyExists`. Of several writers exactly one succeeds.
    IfAbsent,
}

/// Writes a file whose bytes are on disk before its name appears. The caller makes the name durable.
///
/// # Errors
/// [`Error::File`]; nothing of this write is left then.
pub(crate) fn write_file<'a>(
    path: &Path,
    payload: impl IntoIterator<Item = &'a Bytes>,
    publish: Publish,
) -> Result<(), Error> {
    let (mut file, staged) = open_staged(path)?;
    let written = payload.into_iter().try_for_each(|chunk| file.write_all(chunk)).and_then(|()| file.sync_all());
    drop(file);
    #[cfg(test)]
    tests::note(&staged);
    let published = written.and_then(|()| match publish {
        Publish::Replacing => fs::rename(&staged, path),
        Publish::IfAbsent => fs::hard_link(&staged, path),
    });
    // After a successful rename the staged name may already be another writer's.
    if published.is_err() || publish == Publish::IfAbsent {
        let _ = fs::remove_file(&staged);
    }
    published.map_err(Error::file("write", path))
}

/// Gives a finished file its name, which appears once the file's bytes are on disk.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn publish(finished: &Path, path: &Path) -> Result<(), Error> {
    sync_file(finished)?;
    fs::rename(finished, path).map_err(Error::file("write", path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// A new file beside `path`, named as the local backend names its own: its listings hide `name#number`.
fn open_staged(path: &Path) -> Result<(File, PathBuf), Error> {
    let mut number = 1_u64;
    loop {
        let staged = with_suffix(path, &format!("#{number}"));
        match OpenOptions::new().write(true).create_new(true).open(&staged) {
            Ok(file) => return Ok((file, staged)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(Error::file("write", path)(error)),
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes a folder and the missing ones above it, durably.
pub(crate) fn create_folder(folder: &Path) -> Result<(), Error> {
    let missing: Vec<&Path> =
        folder.ancestors().take_while(|part| !part.as_os_str().is_empty() && !part.exists()).collect();
    fs::create_dir_all(folder).map_err(Error::file("make", folder))?;
    for part in missing {
        let above = part.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync_folder(above)?;
    }
    Ok(())
}

fn sync_file(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::file("write", path))?;
    #[cfg(test)]
    tests::note(path);
    Ok(())
}

/// Makes the names in a folder durable. Only Unix has, and needs, this call.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), Error> {
    if cfg!(unix) {
        sync_file(folder)?;
    }
    Ok(())
}

/// A damaged file of a table's log that was renamed, so that the table opens without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// The name that it had.
    pub from: PathBuf,
    /// The name that it has now.
    pub to: PathBuf,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Looks at the newest files of a table's log and sets damaged ones aside under `<name>.torn-<n>`: commits from the
/// newest down to the first sound one, checkpoints likewise, and the pointer to a checkpoint. What they held has to be
/// rebuilt by the caller. All commits since the newest sound checkpoint are read.
///
/// Blocking. Call it before the table is opened, while holding the role that writes to it. A folder without a log is
/// sound.
///
/// # Errors
/// [`Error::DamagedCommit`] where a commit with sound ones after it is damaged (nothing is renamed then);
/// [`Error::File`] where the log cannot be read or a file not be renamed.
pub fn check_newest_commits(table_dir: &Path) -> Result<Vec<SetAside>, Error> {
    let folder = table_dir.join("_delta_log");
    let Some(log) = Log::list(&folder)? else { return Ok(Vec::new()) };
    let (sound_checkpoint, mut damaged) = log.damaged_checkpoints()?;
    damaged.extend(log.damaged_pointer(&damaged)?);
    damaged.extend(log.damaged_commits(sound_checkpoint)?);
    let set_aside = damaged.into_iter().map(set_aside).collect::<Result<Vec<_>, _>>()?;
    if !set_aside.is_empty() {
        sync_folder(&folder)?;
    }
    Ok(set_aside)
}

/// Commits of a table that were set aside and whose rows have not been written again, by this process or another.
///
/// # Errors
/// [`Error::File`] where the log cannot be read.
pub fn torn_commits(table_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let folder = table_dir.join("_delta_log");
    let mut torn = Vec::new();
    for entry in fs::read_dir(&folder).map_err(Error::file("read", &folder))? {
        let path = entry.map_err(Error::file("read", &folder))?.path();
        if path.to_string_lossy().contains(TORN_COMMIT) {
            torn.push(path);
        }
    }
    Ok(torn)
}

/// Notes that the rows of torn commits are written again: the files stay, under `<name>.filled-<n>`.
///
/// # Errors
/// [`Error::File`] where a file cannot be renamed.
pub fn mark_filled(torn: &[PathBuf]) -> Result<(), Error> {
    for path in torn {
        let filled = path.to_string_lossy().replace(TORN_COMMIT, ".json.filled-");
        fs::rename(path, filled).map_err(Error::file("rename", path))?;
    }
    torn.first().and_then(|path| path.parent()).map_or(Ok(()), sync_folder)
}

/// What the name of a commit that was set aside contains.
const TORN_COMMIT: &str = ".json.torn-";

/// A file that cannot be used as it is.
struct Damaged {
    path: PathBuf,
    reason: &'static str,
}

/// The files of a `_delta_log` folder that matter for opening the table.
#[derive(Default)]
struct Log {
    commits: BTreeMap<u64, PathBuf>,
    checkpoints: BTreeMap<u64, Vec<PathBuf>>,
    pointer: Option<PathBuf>,
}

impl Log {
    /// `None` where there is no such folder.
    fn list(folder: &Path) -> Result<Option<Self>, Error> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries.map_err(Error::file("read", folder))?,
        };
        let mut log = Self::default();
        for entry in entries {
            let entry = entry.map_err(Error::file("read", folder))?;
            if let Some(name) = entry.file_name().to_str() {
                log.add(name, entry.path());
            }
        }
        Ok(Some(log))
    }

    fn add(&mut self, name: &str, path: PathBuf) {
        if name == "_last_checkpoint" {
            self.pointer = Some(path);
            return;
        }
        let Some((version, kind)) = name.split_once('.') else { return };
        let Some(version) = Some(version).filter(|v| v.len() == 20).and_then(|v| v.parse().ok()) else { return };
        if kind == "json" {
            self.commits.insert(version, path);
        } else if kind.starts_with("checkpoint.") && kind.ends_with(".parquet") {
            self.checkpoints.entry(version).or_default().push(path);
        }
    }

    /// The version of the newest sound checkpoint, and the damaged ones after it.
    fn damaged_checkpoints(&self) -> Result<(Option<u64>, Vec<Damaged>), Error> {
        let mut all = Vec::new();
        for (version, paths) in self.checkpoints.iter().rev() {
            let before = all.len();
            for path in paths {
                all.extend(parquet_damage(path)?.map(|reason| Damaged { path: path.clone(), reason }));
            }
            if all.len() == before {
                return Ok((Some(*version), all));
            }
        }
        Ok((None, all))
    }

    /// The pointer, where it is torn or points to a checkpoint that will be set aside.
    fn damaged_pointer(&self, checkpoints: &[Damaged]) -> Result<Option<Damaged>, Error> {
        let Some(path) = &self.pointer else { return Ok(None) };
        let bytes = fs::read(path).map_err(Error::file("read", path))?;
        let version =
            serde_json::from_slice::<serde_json::Value>(&bytes).ok().and_then(|value| value.get("version")?.as_u64());
        let reason = match version {
            None => "it is not a complete pointer to a checkpoint",
            Some(version) if checkpoints.iter().any(|damaged| is_of_version(&damaged.path, version)) => {
                "the checkpoint that it points to is damaged"
            }
            Some(_) => return Ok(None),
        };
        Ok(Some(Damaged { path: path.clone(), reason }))
    }

    /// The damaged commits above which there is no sound one.
    fn damaged_commits(&self, sound_checkpoint: Option<u64>) -> Result<Vec<Damaged>, Error> {
        let mut damaged = Vec::new();
        let mut sound_above = false;
        for (version, path) in self.commits.iter().rev() {
            let needed = sound_checkpoint.is_none_or(|checkpoint| *version > checkpoint);
            if sound_above && !needed {
                break;
            }
            match commit_damage(path)? {
                None => sound_above = true,
                Some(reason) if sound_above => return Err(Error::DamagedCommit { path: path.clone(), reason }),
                Some(reason) => damaged.push(Damaged { path: path.clone(), reason }),
            }
        }
        Ok(damaged)
    }
}

fn is_of_version(path: &Path, version: u64) -> bool {
    let prefix = format!("{version:020}.");
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix))
}

/// What is wrong with a commit: each line has to be a JSON object with one action. A cut exactly between two lines
/// cannot be seen, because the format has no end mark.
fn commit_damage(path: &Path) -> Result<Option<&'static str>, Error> {
    let bytes = fs::read(path).map_err(Error::file("read", path))?;
    let Ok(text) = std::str::from_utf8(&bytes) else { return Ok(Some("it is not text")) };
    if text.trim().is_empty() {
        return Ok(Some("it is empty"));
    }
    let is_action = |line: &str| {
        let line = line.trim();
        // The braces tell an object from other JSON; reading the rest tells a whole object from a torn one.
        line.starts_with('{') && line != "{}" && serde_json::from_str::<IgnoredAny>(line).is_ok()
    };
    let sound = text.lines().filter(|line| !line.trim().is_empty()).all(is_action);
    Ok((!sound).then_some("a line of it is not a complete action"))
}

/// What is wrong with a Parquet file, as far as its frame tells: the marks at both ends and a footer that fits.
fn parquet_damage(path: &Path) -> Result<Option<&'static str>, Error> {
    const MARK: [u8; 4] = *b"PAR1";
    let Some(Frame { length, head, tail }) = Frame::read(path).map_err(Error::file("read", path))? else {
        return Ok(Some("it is empty or cut off"));
    };
    let [a, b, c, d, mark @ ..] = tail;
    let footer = u64::from(u32::from_le_bytes([a, b, c, d]));
    let sound = head == MARK && mark == MARK && footer > 0 && footer + Frame::BYTES <= length;
    Ok((!sound).then_some("it does not end as a Parquet file does"))
}

/// Both ends of a Parquet file: a mark, and the length of the footer with a mark.
struct Frame {
    length: u64,
    head: [u8; 4],
    tail: [u8; 8],
}

impl Frame {
    const BYTES: u64 = 12;

    /// `None` where the file is too short to have both ends.
    fn read(path: &Path) -> io::Result<Option<Self>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        if length < Self::BYTES {
            return Ok(None);
        }
        let mut frame = Self { length, head: [0; 4], tail: [0; 8] };
        file.read_exact(&mut frame.head)?;
        file.seek(SeekFrom::End(-8))?;
        file.read_exact(&mut frame.tail)?;
        Ok(Some(frame))
    }
}

fn set_aside(damaged: Damaged) -> Result<SetAside, Error> {
    let Damaged { path: from, reason } = damaged;
    let mut number = 1_u64;
    while with_suffix(&from, &format!(".torn-{number}")).exists() {
        number += 1;
    }
    let to = with_suffix(&from, &format!(".torn-{number}"));
    fs::rename(&from, &to).map_err(Error::file("rename", &from))?;
    Ok(SetAside { from, to, reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::LazyLock;

    use arrow::{
        array::{Int64Array, RecordBatch, StringArray},
        datatypes::{DataType, Field, Schema},
    };
    use deltalake::{
        DeltaTable,
        arrow::array::AsArray,
        kernel::{DataType as DeltaType, PrimitiveType},
        protocol::checkpoints::create_checkpoint,
        writer::{DeltaWriter, RecordBatchWriter},
    };
    use domain::ErrorKind;
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;
    use rstest::rstest;
    use tempfile::TempDir;

    /// What was made durable, by all tests of this process, in order.
    static NOTES: LazyLock<Mutex<Vec<PathBuf>>> = LazyLock::new(Mutex::default);

    /// Notes a path that was made durable.
    pub(super) fn note(path: &Path) {
        NOTES.lock().unwrap().push(path.to_path_buf());
    }

    /// A store in its own folder, whose name needs care in URLs.
    fn store() -> (TempDir, DurableStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableStore::new(&folder.path().join("a lake é 50%/lake")).unwrap();
        (folder, store)
    }

    fn at(store: &DurableStore, name: &str) -> Location {
        Location::from_absolute_path(store.base().join(name)).unwrap()
    }

    /// What was made durable below the store's base since the last call, relative to it.
    fn synced(store: &DurableStore) -> Vec<String> {
        let mut notes = NOTES.lock().unwrap();
        let (ours, others) = notes.drain(..).partition(|path| path.starts_with(store.base()));
        *notes = others;
        let relative = |path: PathBuf| path.strip_prefix(store.base()).unwrap().display().to_string();
        Vec::into_iter(ours).map(relative).collect()
    }

    fn options(mode: PutMode) -> PutOptions {
        PutOptions { mode, ..PutOptions::default() }
    }

    #[rstest]
    #[case::overwriting(PutMode::Overwrite)]
    #[case::creating(PutMode::Create)]
    #[tokio::test]
    async fn bytes_then_name_then_new_folders_are_on_disk_when_put_returns(#[case] mode: PutMode) {
        let (_folder, store) = store();
        synced(&store);
        store.put_opts(&at(&store, "a/b/first"), "1".into(), options(mode.clone())).await.unwrap();
        assert_eq!(synced(&store), ["a/b/first#1", "a/b", "a", ""]);
        store.put_opts(&at(&store, "a/b/second"), "2".into(), options(mode)).await.unwrap();
        assert_eq!(synced(&store), ["a/b/second#1", "a/b"], "known folders are durable already");
        let names: Vec<_> = fs::read_dir(store.base().join("a/b")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "nothing staged is left: {names:?}");
    }

    #[tokio::test]
    async fn folder_that_was_removed_is_made_durable_again() {
        let (_folder, store) = store();
        store.put(&at(&store, "a/b/first"), "1".into()).await.unwrap();
        fs::remove_dir_all(store.base().join("a")).unwrap();
        synced(&store);
        store.put(&at(&store, "a/b/first"), "1".into()).await.unwrap();
        assert_eq!(synced(&store), ["a/b/first#1", "a/b", "a", ""]);
    }

    #[tokio::test]
    async fn upload_in_parts_is_on_disk_when_it_completes() {
        let (_folder, store) = store();
        synced(&store);
        let mut upload = store.put_multipart(&at(&store, "a/file")).await.unwrap();
        upload.put_part("first ".into()).await.unwrap();
        upload.put_part("second".into()).await.unwrap();
        assert_eq!(synced(&store), [""; 0]);
        upload.complete().await.unwrap();
        assert_eq!(synced(&store), ["a/file", "a", ""]);
        assert_eq!(fs::read(store.base().join("a/file")).unwrap(), b"first second");
    }

    #[tokio::test]
    async fn copies_and_new_names_are_on_disk_when_they_return() {
        let (_folder, store) = store();
        fs::write(store.base().join("file"), "1").unwrap();
        synced(&store);
        store.copy(&at(&store, "file"), &at(&store, "a/copy")).await.unwrap();
        assert_eq!(synced(&store), ["file", "a", ""]);
        store.rename(&at(&store, "a/copy"), &at(&store, "b/moved")).await.unwrap();
        assert_eq!(synced(&store), ["a/copy", "b", "", "a"]);
        assert_eq!(fs::read(store.base().join("b/moved")).unwrap(), b"1");
        let missing = store.rename(&at(&store, "none"), &at(&store, "c/moved")).await.unwrap_err();
        assert!(matches!(missing, object_store::Error::NotFound { .. }), "{missing}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_many_creators_of_one_file_exactly_one_succeeds() {
        let (_folder, store) = store();
        for round in 0..20 {
            let location = at(&store, &format!("log/{round}"));
            let create = |writer: usize| {
                let (store, location) = (store.clone(), location.clone());
                let payload = vec![b'a' + u8::try_from(writer).unwrap(); 10_000].into();
                tokio::spawn(async move { store.put_opts(&location, payload, options(PutMode::Create)).await })
            };
            let results = futures::future::join_all((0..8).map(create)).await;
            let results: Vec<_> = results.into_iter().map(Result::unwrap).collect();
            let winners: Vec<_> = (0..8).filter(|writer| results[*writer].is_ok()).collect();
            assert_eq!(winners.len(), 1, "{results:?}");
            let lost = |error: &object_store::Error| matches!(error, object_store::Error::AlreadyExists { .. });
            assert!(results.iter().filter_map(|result| result.as_ref().err()).all(lost), "{results:?}");
            let stored = store.get(&location).await.unwrap().bytes().await.unwrap();
            assert_eq!(stored, vec![b'a' + u8::try_from(winners[0]).unwrap(); 10_000]);
        }
        assert_eq!(fs::read_dir(store.base().join("log")).unwrap().count(), 20, "nothing staged is left");
    }

    #[tokio::test]
    async fn leftover_of_a_crashed_write_is_stepped_over_and_never_listed() {
        let (_folder, store) = store();
        fs::write(store.base().join("file#1"), "to").unwrap();
        store.put_opts(&at(&store, "file"), "whole".into(), options(PutMode::Create)).await.unwrap();
        let listed: Vec<_> = store.list(Some(&at(&store, ""))).try_collect().await.unwrap();
        assert_eq!(listed.iter().map(|meta| meta.location.filename().unwrap()).collect::<Vec<_>>(), ["file"]);
        assert_eq!(fs::read(store.base().join("file#1")).unwrap(), b"to", "it may be another writer's");
    }

    #[tokio::test]
    async fn write_outside_of_the_base_is_refused() {
        let (folder, store) = store();
        let outside = Location::from_absolute_path(folder.path().canonicalize().unwrap().join("file")).unwrap();
        let error = store.put(&outside, "1".into()).await.unwrap_err();
        assert!(error.to_string().contains("is outside of"), "{error}");
        assert!(store.put_multipart(&outside).await.is_err());
        assert!(!folder.path().join("file").exists());
    }

    // Through deltalake itself.

    async fn make_table(store: &DurableStore) -> DeltaTable {
        let string = DeltaType::Primitive(PrimitiveType::String);
        let long = DeltaType::Primitive(PrimitiveType::Long);
        let table = store.table("trades").unwrap().build().unwrap();
        let table = table.create().with_column("symbol", string, false, None).with_column("offset", long, false, None);
        table.with_partition_columns(["symbol"]).await.unwrap()
    }

    async fn append(table: &mut DeltaTable, offsets: Vec<i64>) {
        let fields = vec![Field::new("symbol", DataType::Utf8, false), Field::new("offset", DataType::Int64, false)];
        let symbols = StringArray::from_iter_values(
            offsets.iter().map(|offset| if offset % 2 == 0 { "BTC-USDT" } else { "ETH-USDT" }),
        );
        let columns: [arrow::array::ArrayRef; 2] = [Arc::new(symbols), Arc::new(Int64Array::from(offsets))];
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.to_vec()).unwrap();
        let mut writer = RecordBatchWriter::for_table(table).unwrap();
        writer.write(batch).await.unwrap();
        writer.flush_and_commit(table).await.unwrap();
    }

    /// Opens the table afresh and reads its version and its offsets, sorted.
    async fn reopen(store: &DurableStore) -> (u64, Vec<i64>) {
        let table = store.table("trades").unwrap().load().await.unwrap();
        let version = table.version().unwrap();
        let (_, stream) = table.scan_table().await.unwrap();
        let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
        let column = |batch: &RecordBatch| {
            batch.column_by_name("offset").unwrap().as_primitive::<arrow::datatypes::Int64Type>().values().to_vec()
        };
        let mut offsets: Vec<i64> = batches.iter().flat_map(column).collect();
        offsets.sort_unstable();
        (version, offsets)
    }

    /// A table with three commits: its creation, offsets 0 to 3, offsets 4 to 7.
    async fn three_commits() -> (TempDir, DurableStore, DeltaTable) {
        let (folder, store) = store();
        let mut table = make_table(&store).await;
        append(&mut table, (0..4).collect()).await;
        append(&mut table, (4..8).collect()).await;
        (folder, store, table)
    }

    fn log_file(store: &DurableStore, name: &str) -> PathBuf {
        store.base().join("trades/_delta_log").join(name)
    }

    fn commit_file(store: &DurableStore, version: u64) -> PathBuf {
        log_file(store, &format!("{version:020}.json"))
    }

    /// Keeps the first `keep` bytes of a file.
    fn cut(path: &Path, keep: usize) {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..keep]).unwrap();
    }

    fn aside(from: PathBuf, number: u32, reason: &'static str) -> SetAside {
        SetAside { to: with_suffix(&from, &format!(".torn-{number}")), from, reason }
    }

    #[tokio::test]
    async fn whatever_delta_writes_is_durable() {
        let (_folder, store) = store();
        synced(&store);
        let mut table = make_table(&store).await;
        append(&mut table, (0..4).collect()).await;
        append(&mut table, (4..8).collect()).await;
        create_checkpoint(&table, None).await.unwrap();
        let (_, compacted) = table.optimize().await.unwrap();
        assert_eq!((compacted.num_files_removed, compacted.num_files_added), (4, 2));
        let synced: HashSet<String> = synced(&store).iter().map(|path| path.replace("#1", "")).collect();
        let mut folders = vec![store.base().join("trades")];
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let relative = path.strip_prefix(store.base()).unwrap().display().to_string();
                assert!(synced.contains(&relative), "{relative} was never synced: {synced:?}");
                folders.extend(path.is_dir().then_some(path));
                seen += 1;
            }
        }
        assert_eq!(seen, 3 + 4 + 2 + 6, "folders, commits, checkpoint with its pointer, data files");
        assert_eq!(reopen(&store).await.1, (0..8).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn sound_table_is_left_alone() {
        let (_folder, store, table) = three_commits().await;
        create_checkpoint(&table, None).await.unwrap();
        assert_eq!(check_newest_commits(&store.base().join("trades")).unwrap(), []);
        assert_eq!(reopen(&store).await, (2, (0..8).collect()));
        assert_eq!(check_newest_commits(&store.base().join("no such table")).unwrap(), []);
    }

    #[rstest]
    #[case::empty(0, "it is empty")]
    #[case::in_the_first_line(40, "a line of it is not a complete action")]
    #[case::before_the_last_byte(usize::MAX, "a line of it is not a complete action")]
    #[tokio::test]
    async fn torn_newest_commit_is_set_aside_and_the_table_goes_on(#[case] keep: usize, #[case] reason: &'static str) {
        let (_folder, store, _) = three_commits().await;
        let (newest, table_dir) = (commit_file(&store, 2), store.base().join("trades"));
        let whole = usize::try_from(fs::metadata(&newest).unwrap().len()).unwrap();
        cut(&newest, keep.min(whole - 1));
        let torn = fs::read(&newest).unwrap();
        assert_eq!(check_newest_commits(&table_dir).unwrap(), [aside(newest.clone(), 1, reason)]);
        assert_eq!(fs::read(with_suffix(&newest, ".torn-1")).unwrap(), torn, "nothing is deleted");
        assert_eq!(reopen(&store).await, (1, (0..4).collect()));
        let mut table = store.table("trades").unwrap().load().await.unwrap();
        append(&mut table, (4..8).collect()).await;
        assert_eq!(reopen(&store).await, (2, (0..8).collect()));
        // Again, so that the name is taken.
        cut(&newest, 0);
        assert_eq!(check_newest_commits(&table_dir).unwrap(), [aside(newest, 2, "it is empty")]);
    }

    #[tokio::test]
    async fn zeros_where_a_commit_should_be_are_set_aside() {
        let (_folder, store, _) = three_commits().await;
        let newest = commit_file(&store, 2);
        fs::write(&newest, [0; 4096]).unwrap();
        let reason = "a line of it is not a complete action";
        assert_eq!(check_newest_commits(&store.base().join("trades")).unwrap(), [aside(newest, 1, reason)]);
    }

    #[tokio::test]
    async fn several_torn_commits_at_the_end_are_all_set_aside() {
        let (_folder, store, _) = three_commits().await;
        cut(&commit_file(&store, 1), 0);
        cut(&commit_file(&store, 2), 0);
        let expected = [2, 1].map(|version| aside(commit_file(&store, version), 1, "it is empty"));
        assert_eq!(check_newest_commits(&store.base().join("trades")).unwrap(), expected);
        assert_eq!(reopen(&store).await, (0, vec![]));
    }

    #[tokio::test]
    async fn torn_commit_below_a_sound_one_is_an_error_and_nothing_is_renamed() {
        let (_folder, store, _) = three_commits().await;
        cut(&commit_file(&store, 1), 100);
        let error = check_newest_commits(&store.base().join("trades")).unwrap_err();
        assert!(matches!(&error, Error::DamagedCommit { path, .. } if *path == commit_file(&store, 1)), "{error}");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(commit_file(&store, 1).exists() && commit_file(&store, 2).exists());
    }

    #[tokio::test]
    async fn torn_commit_that_a_checkpoint_covers_does_no_harm() {
        let (_folder, store, mut table) = three_commits().await;
        create_checkpoint(&table, None).await.unwrap();
        append(&mut table, vec![8]).await;
        cut(&commit_file(&store, 1), 100);
        assert_eq!(check_newest_commits(&store.base().join("trades")).unwrap(), []);
        assert_eq!(reopen(&store).await, (3, (0..9).collect()));
    }

    #[rstest]
    #[case::empty(0, "it is empty or cut off")]
    #[case::cut_off(1000, "it does not end as a Parquet file does")]
    #[tokio::test]
    async fn torn_checkpoint_is_set_aside_with_its_pointer(#[case] keep: usize, #[case] reason: &'static str) {
        let (_folder, store, table) = three_commits().await;
        create_checkpoint(&table, None).await.unwrap();
        let checkpoint = log_file(&store, "00000000000000000002.checkpoint.parquet");
        let pointer = log_file(&store, "_last_checkpoint");
        cut(&checkpoint, keep);
        let expected = [aside(checkpoint, 1, reason), aside(pointer, 1, "the checkpoint that it points to is damaged")];
        assert_eq!(check_newest_commits(&store.base().join("trades")).unwrap(), expected);
        assert_eq!(reopen(&store).await, (2, (0..8).collect()));
    }

    #[tokio::test]
    async fn torn_pointer_is_set_aside_and_the_checkpoint_is_found_without_it() {
        let (_folder, store, table) = three_commits().await;
        create_checkpoint(&table, None).await.unwrap();
        let pointer = log_file(&store, "_last_checkpoint");
        cut(&pointer, 5);
        let reason = "it is not a complete pointer to a checkpoint";
        assert_eq!(check_newest_commits(&store.base().join("trades")).unwrap(), [aside(pointer, 1, reason)]);
        assert_eq!(reopen(&store).await, (2, (0..8).collect()));
    }
}
