//! Another Delta table as an archive: the data files of its newest version, each with the symbol of its partition.

use std::path::Path;

use deltalake::DeltaTableError;
use domain::Symbol;
use url::Url;

use super::{ArchiveFile, Form, open_file, parquet::ParquetFile, refused};
use crate::{error::Error, schema::SYMBOL};

/// The newest reader protocol that is understood: no deletion vectors, no column mapping.
const READER: i32 = 1;

/// Opens the files of a table; one error, where the table cannot be read.
pub(super) async fn open(folder: &Path, symbols: &[Symbol]) -> Vec<Result<ArchiveFile, Error>> {
    match files_of(folder).await {
        Err(error) => vec![Err(error)],
        Ok(files) => files.into_iter().filter_map(|(path, symbol)| one(folder, &path, symbol, symbols)).collect(),
    }
}

/// The paths of a table's files below its folder, each with the value of its partition.
async fn files_of(folder: &Path) -> Result<Vec<(String, Option<String>)>, Error> {
    let broken = |error: DeltaTableError| refused(folder, format!("cannot be read as a Delta table: {error}"));
    let url = Url::from_directory_path(folder).map_err(|()| refused(folder, "is no absolute path"))?;
    let table = deltalake::open_table(url).await.map_err(broken)?;
    let snapshot = table.snapshot().map_err(broken)?;
    let reader = snapshot.protocol().min_reader_version();
    if reader > READER {
        return Err(refused(folder, format!("needs Delta reader version {reader}: only 1 is read here")));
    }
    let log = snapshot.log_data();
    let files = log.iter().map(|file| {
        let remove = file.remove_action(false);
        let symbol = remove.partition_values.as_ref().and_then(|values| values.get(SYMBOL).cloned().flatten());
        (remove.path, symbol)
    });
    Ok(files.collect())
}

fn one(folder: &Path, path: &str, symbol: Option<String>, wanted: &[Symbol]) -> Option<Result<ArchiveFile, Error>> {
    let path = folder.join(path);
    let symbol = match symbol.map(|text| Symbol::parse(&text)).transpose() {
        Ok(symbol) => symbol,
        Err(error) => return Some(Err(refused(&path, error.to_string()))),
    };
    if symbol.is_some_and(|symbol| !wanted.is_empty() && !wanted.contains(&symbol)) {
        return None;
    }
    let Some(symbol) = symbol else { return open_file(&path, wanted, folder).transpose() };
    let about = std::fs::metadata(&path).map_err(Error::file("read", &path));
    let opened = about.and_then(|about| Ok((about.len(), ParquetFile::open(&path, Some(symbol))?)));
    Some(opened.map(|(bytes, file)| ArchiveFile { path, bytes, modified: None, form: Form::Parquet(file) }))
}
