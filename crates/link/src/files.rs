//! Small files that must be whole or absent, and some of them secret.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use pem::Pem;
use thiserror::Error;

use crate::private::{private_file, sync_directory};

/// Most bytes of a key or certificate file.
const MAX_FILE: u64 = 64 << 10;

/// What went wrong with which file.
#[derive(Debug, Error)]
pub(crate) enum FileError {
    #[error("{path}: {source}", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: expected a {expected} in PEM", path = .path.display())]
    Content { path: PathBuf, expected: &'static str },
}

pub(crate) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> FileError + '_ {
    |source| FileError::Io { path: path.to_owned(), source }
}

/// Replaces a file as a whole, readable and writable by its owner alone, on the disk before this
/// returns.
pub(crate) fn write_private(path: &Path, content: &str) -> Result<(), FileError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:08x}.new", rand::random::<u32>()));
    let fresh = path.with_file_name(name);
    let written = private_file(&fresh).and_then(|mut file| {
        file.write_all(content.as_bytes())?;
        file.sync_all()
    });
    if let Err(source) = written.and_then(|()| fs::rename(&fresh, path)) {
        // What failed is reported; a left-over that cannot be removed either adds nothing.
        let _ = fs::remove_file(&fresh);
        return Err(io_error(path)(source));
    }
    match path.parent() {
        Some(parent) => sync_directory(parent).map_err(io_error(parent)),
        None => Ok(()),
    }
}

/// The sections of a PEM file that carry this tag, in order; at least one.
pub(crate) fn read_pem(path: &Path, tag: &str, expected: &'static str) -> Result<Vec<Vec<u8>>, FileError> {
    let content = || FileError::Content { path: path.to_owned(), expected };
    let length = fs::metadata(path).map_err(io_error(path))?.len();
    if length > MAX_FILE {
        return Err(content());
    }
    let bytes = fs::read(path).map_err(io_error(path))?;
    let sections: Vec<_> = pem::parse_many(bytes)
        .map_err(|_not_pem| content())?
        .into_iter()
        .filter(|section| section.tag() == tag)
        .map(Pem::into_contents)
        .collect();
    if sections.is_empty() {
        return Err(content());
    }
    Ok(sections)
}

/// One section per DER, with this tag.
pub(crate) fn to_pem(tag: &str, sections: &[&[u8]]) -> String {
    sections.iter().map(|der| pem::encode(&Pem::new(tag, *der))).collect()
}

/// Warns about a secret that others on this machine can read.
pub(crate) fn warn_if_readable(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let open = fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o077 != 0);
        if open {
            tracing::warn!(
                path = %path.display(),
                "other users of this machine can read a private key; run chmod 600 on it"
            );
        }
    }
    #[cfg(not(unix))]
    let _ = path;
}
