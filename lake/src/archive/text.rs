//! Files of lines, cut into blocks of whole lines without being read; compressed ones are unpacked first.
//!
//! A line has at most [`MAX_LINE_BYTES`], and so a block is never much larger than it should be.

use std::{
    fs::File,
    io::{self, Read},
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
    sync::OnceLock,
};

use flate2::read::MultiGzDecoder;
use memchr::{memchr, memchr_iter};
use zip::ZipArchive;

use super::refused;
use crate::error::Error;

/// About how many bytes a block has.
pub(super) const BLOCK_BYTES: u64 = 2 << 20;

/// The longest line that is read, in bytes; that of a block that ends with its file may be as long as a block.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// Bytes read at a time while a line's end is looked for.
const PIECE: usize = 1 << 16;

/// An open file of lines.
pub(super) struct TextFile {
    file: File,
    blocks: Vec<Range<u64>>,
    /// The newlines of each block, counted when it is first read.
    newlines: Vec<OnceLock<u64>>,
}

impl TextFile {
    /// Cuts what follows `start` into blocks.
    pub(super) fn open(file: File, start: u64, path: &Path) -> Result<Self, Error> {
        let blocks = cut(&file, start, BLOCK_BYTES, path)?;
        if blocks.is_empty() {
            return Err(refused(path, "is empty"));
        }
        Ok(Self::of(file, blocks))
    }

    fn of(file: File, blocks: Vec<Range<u64>>) -> Self {
        let newlines = blocks.iter().map(|_| OnceLock::new()).collect();
        Self { file, blocks, newlines }
    }

    #[cfg(test)]
    pub(super) fn with_blocks_of(self, bytes: u64) -> Self {
        let blocks = cut(&self.file, self.blocks[0].start, bytes, Path::new("cut anew")).unwrap();
        Self::of(self.file, blocks)
    }

    pub(super) const fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Whether a block ends the file.
    pub(super) const fn is_last(&self, block: usize) -> bool {
        block + 1 == self.blocks.len()
    }

    /// The bytes of a block.
    pub(super) fn bytes_of(&self, block: usize) -> io::Result<Vec<u8>> {
        let Range { start, end } = self.blocks[block].clone();
        let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, start)?;
        self.newlines[block].get_or_init(|| newlines(&bytes));
        Ok(bytes)
    }

    /// Lines before a block, from the beginning of the file. Reads those blocks before it that were not read yet.
    pub(super) fn lines_before(&self, block: usize) -> io::Result<u64> {
        // A header is what may stand before the first block.
        let mut lines = u64::from(self.blocks[0].start > 0);
        for (before, counted) in self.newlines[..block].iter().enumerate() {
            lines += match counted.get() {
                Some(counted) => *counted,
                None => newlines(&self.bytes_of(before)?),
            };
        }
        Ok(lines)
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    memchr_iter(b'\n', bytes).count() as u64
}

/// The first line of a file, without its end.
pub(super) fn first_line(file: &File, path: &Path) -> Result<Vec<u8>, Error> {
    let length = file.metadata().map_err(Error::file("read", path))?.len();
    let end = line_end(file, 0, path)?.unwrap_or(length);
    let mut line = vec![0; usize::try_from(end).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut line, 0).map_err(Error::file("read", path))?;
    Ok(line)
}

/// Ranges of about `size` bytes that end with a line or with the file.
fn cut(file: &File, start: u64, size: u64, path: &Path) -> Result<Vec<Range<u64>>, Error> {
    let length = file.metadata().map_err(Error::file("read", path))?.len();
    let (mut at, mut blocks) = (start, Vec::new());
    while at < length {
        let end = if length - at <= size { None } else { line_end(file, at + size - 1, path)? };
        let end = end.map_or(length, |end| end + 1);
        blocks.push(at..end);
        at = end;
    }
    Ok(blocks)
}

/// The first newline from `start` on.
fn line_end(file: &File, start: u64, path: &Path) -> Result<Option<u64>, Error> {
    let (mut at, mut piece) = (start, vec![0; PIECE]);
    while at - start < MAX_LINE_BYTES {
        let read = file.read_at(&mut piece, at).map_err(Error::file("read", path))?;
        if read == 0 {
            return Ok(None);
        }
        if let Some(found) = memchr(b'\n', &piece[..read]) {
            return Ok(Some(at + found as u64));
        }
        at += read as u64;
    }
    Err(refused(path, format!("has a line of more than {MAX_LINE_BYTES} bytes")))
}

/// The one member of a ZIP, unpacked, and its name.
pub(super) fn unzipped(path: &Path, scratch: &Path) -> Result<(File, String), Error> {
    let broken = |error: &dyn std::fmt::Display| refused(path, format!("cannot be unpacked: {error}"));
    let file = File::open(path).map_err(Error::file("open", path))?;
    let mut archive = ZipArchive::new(file).map_err(|error| broken(&error))?;
    let is_file = |archive: &mut ZipArchive<File>, member: usize| {
        archive.by_index_raw(member).map(|member| !member.is_dir()).map_err(|error| broken(&error))
    };
    let mut members = Vec::new();
    for member in 0..archive.len() {
        if is_file(&mut archive, member)? {
            members.push(member);
        }
    }
    let [member] = members.as_slice() else {
        return Err(refused(path, format!("holds {} files: an archive holds one", members.len())));
    };
    let mut member = archive.by_index(*member).map_err(|error| broken(&error))?;
    let name = member.name().map_err(|error| broken(&error))?.rsplit('/').next().unwrap_or_default().to_owned();
    let unpacked = copied(&mut member, scratch, path)?;
    Ok((unpacked, name))
}

/// A gzipped file, unpacked.
pub(super) fn gunzipped(path: &Path, scratch: &Path) -> Result<File, Error> {
    let file = File::open(path).map_err(Error::file("open", path))?;
    copied(&mut MultiGzDecoder::new(file), scratch, path)
}

/// Copies to a file without a name. A full disk is told from a damaged archive.
fn copied(from: &mut dyn Read, scratch: &Path, path: &Path) -> Result<File, Error> {
    let mut to = tempfile::tempfile_in(scratch).map_err(Error::file("make a scratch file in", scratch))?;
    let mut piece = vec![0; 1 << 20];
    loop {
        let read = from.read(&mut piece).map_err(|error| refused(path, format!("cannot be unpacked: {error}")))?;
        if read == 0 {
            break;
        }
        io::Write::write_all(&mut to, &piece[..read]).map_err(Error::file("write a scratch file in", scratch))?;
    }
    if to.metadata().map_err(Error::file("read", path))?.len() == 0 {
        return Err(refused(path, "is empty"));
    }
    Ok(to)
}
