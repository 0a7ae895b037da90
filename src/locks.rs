//! Role locks: at most one process of a data directory serves HTTP, folds a partition, and so on.
//!
//! A lock is an exclusive lock of the operating system on `<data>/locks/<role>`, held as long as its guard lives and
//! gone with the process, however it ends. The file says who holds it; it is never removed, since a removed file
//! could be locked twice.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

use domain::{ErrorKind, Partition};
use fs4::fs_std::FileExt;

/// The longest description of a holder that is read back, in bytes.
const MAX_HOLDER_BYTES: u64 = 4_096;

/// Attempts to take a role, and the pause between them: [`is_held`] of another process may hold it for an instant.
const ATTEMPTS: u32 = 5;
const GLANCE: Duration = Duration::from_millis(20);

/// A part that only one process of a data directory may play at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Folding one partition of the log into the lake.
    Stream(Partition),
    /// Serving HTTP.
    Http,
    /// Doing one run of a backfill.
    Backfill(i64),
}

/// The name of the lock's file, such as `stream-0`.
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(partition) => write!(f, "stream-{partition}"),
            Self::Http => f.write_str("http"),
            Self::Backfill(run) => write!(f, "backfill-{run}"),
        }
    }
}

impl Role {
    fn path(self, data_dir: &Path) -> PathBuf {
        data_dir.join("locks").join(self.to_string())
    }
}

/// A role that this process plays until the guard is dropped.
#[derive(Debug)]
pub struct RoleLock {
    role: Role,
    file: File,
}

/// Why a role cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process plays the role.
    #[error(
        "the role `{role}` of {data_dir} is taken by {holder}: stop that process, or use another `--data-dir`",
        data_dir = data_dir.display()
    )]
    Held {
        /// The role asked for.
        role: Role,
        /// The data directory.
        data_dir: PathBuf,
        /// Who plays it.
        holder: Holder,
    },
    /// The lock's file cannot be used.
    #[error("cannot lock {path}: {source}; check that the folder may be written", path = path.display())]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl LockError {
    /// What to do about it.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Held { .. } => ErrorKind::Conflict,
            Self::Io { .. } => ErrorKind::Unavailable,
        }
    }
}

/// Who holds a lock, as its file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    pid: Option<u32>,
    command: String,
}

impl Holder {
    /// This process.
    fn this_process() -> Self {
        let command: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
        Self { pid: Some(process::id()), command: command.join(" ").replace(char::is_control, " ") }
    }

    fn parse(text: &str) -> Self {
        let (pid, command) = text.trim_end().split_once(' ').unwrap_or((text.trim_end(), ""));
        Self { pid: pid.parse().ok(), command: command.to_owned() }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) if self.command.is_empty() => write!(f, "process {pid}"),
            Some(pid) => write!(f, "process {pid} (`{}`)", self.command),
            None => f.write_str("another process"),
        }
    }
}

impl RoleLock {
    /// Takes `role` of the data directory at once or not at all, creating the directory where it is missing.
    ///
    /// # Errors
    /// [`LockError::Held`] naming the holder, or [`LockError::Io`].
    pub fn acquire(data_dir: &Path, role: Role) -> Result<Self, LockError> {
        let path = role.path(data_dir);
        let failed = |source| LockError::Io { path: path.clone(), source };
        let mut file = open(&path).map_err(failed)?;
        let mut attempts = 1;
        while !FileExt::try_lock_exclusive(&file).map_err(failed)? {
            if attempts == ATTEMPTS {
                return Err(LockError::Held { role, data_dir: data_dir.to_owned(), holder: read_holder(&mut file) });
            }
            attempts += 1;
            thread::sleep(GLANCE);
        }
        write_holder(&mut file, &Holder::this_process()).map_err(failed)?;
        Ok(Self { role, file })
    }
}

/// Whether a process plays `role` of the data directory.
///
/// # Errors
/// Where the lock's file cannot be used.
pub fn is_held(data_dir: &Path, role: Role) -> Result<bool, LockError> {
    let path = role.path(data_dir);
    let held = File::open(&path).and_then(|file| Ok(!FileExt::try_lock_shared(&file)?));
    match held {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        held => held.map_err(|source| LockError::Io { path, source }),
    }
}

/// Clears the holder; closing the file releases the lock.
impl Drop for RoleLock {
    fn drop(&mut self) {
        if let Err(error) = self.file.set_len(0) {
            tracing::debug!(role = %self.role, %error, "the released lock's file still names this process");
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Not truncated: it may be another process that holds it.
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn write_holder(file: &mut File, holder: &Holder) -> io::Result<()> {
    let pid = holder.pid.unwrap_or_default();
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{pid} {}", holder.command)?;
    file.flush()
}

/// What a lock's file says; nobody where it cannot be read, as on systems whose locks forbid it.
fn read_holder(file: &mut File) -> Holder {
    let mut bytes = Vec::new();
    if file.take(MAX_HOLDER_BYTES).read_to_end(&mut bytes).is_err() {
        bytes.clear();
    }
    Holder::parse(&String::from_utf8_lossy(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_played_once_and_the_refusal_names_the_holder() {
        let data = tempfile::tempdir().unwrap();
        let _first = RoleLock::acquire(data.path(), Role::Stream(0)).unwrap();
        let refused = RoleLock::acquire(data.path(), Role::Stream(0)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        let sentence = refused.to_string();
        assert!(sentence.contains("`stream-0`"), "{sentence}");
        assert!(sentence.contains(&format!("process {} (`", process::id())), "{sentence}");
        assert!(sentence.contains("--data-dir"), "{sentence}");
    }

    #[test]
    fn other_roles_and_other_data_directories_are_free() {
        let (data, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let _first = RoleLock::acquire(data.path(), Role::Stream(0)).unwrap();
        let others = [(&data, Role::Stream(1)), (&data, Role::Http), (&other, Role::Stream(0))];
        for (folder, role) in others {
            assert!(RoleLock::acquire(folder.path(), role).is_ok(), "{role}");
        }
    }

    #[test]
    fn who_asks_whether_a_role_is_held_does_not_take_it() {
        let data = tempfile::tempdir().unwrap();
        assert!(!is_held(data.path(), Role::Stream(0)).unwrap());
        let first = RoleLock::acquire(data.path(), Role::Stream(0)).unwrap();
        assert!(is_held(data.path(), Role::Stream(0)).unwrap());
        assert!(!is_held(data.path(), Role::Stream(1)).unwrap());
        drop(first);
        assert!(!is_held(data.path(), Role::Stream(0)).unwrap());
        assert!(RoleLock::acquire(data.path(), Role::Stream(0)).is_ok());
    }

    #[test]
    fn a_dropped_lock_is_free_again_and_names_nobody() {
        let data = tempfile::tempdir().unwrap();
        drop(RoleLock::acquire(data.path(), Role::Http).unwrap());
        assert_eq!(fs::read(data.path().join("locks/http")).unwrap(), b"");
        assert!(RoleLock::acquire(data.path(), Role::Http).is_ok());
    }

    #[test]
    fn a_file_left_by_a_killed_process_does_not_keep_the_role() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir_all(data.path().join("locks")).unwrap();
        fs::write(data.path().join("locks/http"), "999999 sentinel up with a much longer command than ours\n").unwrap();
        let lock = RoleLock::acquire(data.path(), Role::Http).unwrap();
        let text = fs::read_to_string(data.path().join("locks/http")).unwrap();
        assert_eq!(Holder::parse(&text), Holder::this_process());
        drop(lock);
    }

    #[test]
    fn a_data_directory_that_is_a_file_is_named_in_the_sentence() {
        let data = tempfile::NamedTempFile::new().unwrap();
        let refused = RoleLock::acquire(data.path(), Role::Http).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unavailable);
        assert!(refused.to_string().contains(&data.path().display().to_string()), "{refused}");
    }

    #[test]
    fn an_unreadable_holder_is_another_process() {
        assert_eq!(Holder::parse("").to_string(), "another process");
        assert_eq!(Holder::parse("12").to_string(), "process 12");
        assert_eq!(Holder::parse("12 sentinel up\n").to_string(), "process 12 (`sentinel up`)");
    }
}
