//! Model files: immutable, named by the SHA-256 of their bytes, so that a name says what must be inside.
//!
//! A file is on disk before its name appears. Nothing here changes or deletes a file whose bytes are right.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::{
    Error,
    durable::{self, Publish},
};

/// A model file, as its model record names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The path of the file relative to the folder of model files.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// The SHA-256 of its bytes, 64 lowercase hexadecimal digits.
    pub sha256: String,
}

/// Stores a model file in the folder `dir`, which is made where it is missing, and says how it is named. Writing the
/// same bytes again changes nothing; a damaged file of that name is replaced. Durable when it returns. Blocking.
///
/// # Errors
/// [`Error::File`] where it cannot be written.
pub fn write(dir: &Path, bytes: &[u8]) -> Result<Artifact, Error> {
    let artifact = describe(bytes);
    let path = dir.join(&artifact.path);
    durable::create_folder(dir)?;
    match read(dir, &artifact) {
        Ok(_) => {}
        Err(Error::File { source, .. }) if source.kind() != io::ErrorKind::NotFound => {
            return Err(Error::file("read", path)(source));
        }
        Err(_) => durable::write_file(&path, [&Bytes::copy_from_slice(bytes)], Publish::Replacing)?,
    }
    durable::sync_folder(dir)?;
    Ok(artifact)
}

/// The bytes of a model file, proven to be those that were written. Blocking.
///
/// # Errors
/// [`Error::DamagedArtifact`] where length or digest differ; [`Error::File`] where the file cannot be read.
pub fn read(dir: &Path, artifact: &Artifact) -> Result<Vec<u8>, Error> {
    let path = path_of(dir, artifact)?;
    let damaged = |reason: String| Error::DamagedArtifact { path: path.clone(), reason };
    let length = fs::metadata(&path).map_err(Error::file("read", &path))?.len();
    if length != artifact.bytes {
        return Err(damaged(format!("it has {length} bytes instead of {}", artifact.bytes)));
    }
    let bytes = fs::read(&path).map_err(Error::file("read", &path))?;
    let found = format!("{:x}", Sha256::digest(&bytes));
    if found != artifact.sha256 {
        return Err(damaged(format!("its SHA-256 is {found} instead of {}", artifact.sha256)));
    }
    Ok(bytes)
}

/// The name, length and digest that these bytes would be stored under, without storing them.
#[must_use]
pub fn describe(bytes: &[u8]) -> Artifact {
    let sha256 = format!("{:x}", Sha256::digest(bytes));
    Artifact { path: format!("{sha256}.model"), bytes: bytes.len() as u64, sha256 }
}

/// The file of an artifact. A path that leaves the folder is refused: the record it comes from is damaged.
fn path_of(dir: &Path, artifact: &Artifact) -> Result<PathBuf, Error> {
    let relative = Path::new(&artifact.path);
    if relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(dir.join(relative));
    }
    let reason = "its path leads out of the folder of model files".to_owned();
    Err(Error::DamagedArtifact { path: relative.to_path_buf(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::ErrorKind;
    use rstest::rstest;

    #[test]
    fn written_bytes_are_read_back_under_their_digest() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("deep/models");
        let artifact = write(&dir, b"abc").unwrap();
        // The digest is the example of FIPS 180-2, appendix B.1.
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(artifact, Artifact { path: format!("{sha256}.model"), bytes: 3, sha256: sha256.to_owned() });
        assert_eq!(read(&dir, &artifact).unwrap(), b"abc");
    }

    #[cfg(unix)]
    #[test]
    fn the_same_bytes_again_touch_nothing() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let first = write(folder.path(), b"forest").unwrap();
        let inode = fs::metadata(folder.path().join(&first.path)).unwrap().ino();
        assert_eq!(write(folder.path(), b"forest").unwrap(), first);
        assert_eq!(fs::metadata(folder.path().join(&first.path)).unwrap().ino(), inode);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no staged file is left");
    }

    #[rstest]
    #[case::cut_off(b"fores", "it has 5 bytes instead of 6")]
    #[case::changed(b"forast", "its SHA-256 is ")]
    #[case::empty(b"", "it has 0 bytes instead of 6")]
    fn damaged_file_is_refused_then_healed_by_writing_again(#[case] damaged: &[u8], #[case] said: &str) {
        let folder = tempfile::tempdir().unwrap();
        let artifact = write(folder.path(), b"forest").unwrap();
        fs::write(folder.path().join(&artifact.path), damaged).unwrap();
        let error = read(folder.path(), &artifact).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        write(folder.path(), b"forest").unwrap();
        assert_eq!(read(folder.path(), &artifact).unwrap(), b"forest");
    }

    #[test]
    fn missing_file_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path(), &describe(b"forest")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[rstest]
    #[case("../forest.model")]
    #[case("/etc/hostname")]
    fn path_out_of_the_folder_is_refused(#[case] path: &str) {
        let folder = tempfile::tempdir().unwrap();
        let artifact = Artifact { path: path.to_owned(), ..describe(b"forest") };
        assert_eq!(read(folder.path(), &artifact).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
