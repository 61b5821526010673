//! Files that only their owner may read, on disk before anything relies on them.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use exeunt_link::private::{private_directory, private_file, sync_directory};
use exeunt_protocol::moment::{civil, unix_ms};
use exeunt_stats::Digest;

use super::{BackupFile, KEPT};

/// Bytes that are copied at a time.
const CHUNK: usize = 1 << 18;

/// What went wrong with which file.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) path: PathBuf,
    pub(super) source: io::Error,
}

pub(super) fn wrong(path: &Path) -> impl FnOnce(io::Error) -> Wrong + '_ {
    |source| Wrong { path: path.to_owned(), source }
}

pub(super) fn private_folder(path: &Path) -> Result<(), Wrong> {
    private_directory(path).map_err(wrong(path))
}

pub(super) fn sync_folder(path: &Path) -> Result<(), Wrong> {
    sync_directory(path).map_err(wrong(path))
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Wrong> {
    let written = private_file(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(wrong(path))
}

/// Gives a file or folder another place on the same disk, durably.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), Wrong> {
    fs::rename(from, to).map_err(wrong(to))?;
    for parent in [to.parent(), from.parent()].into_iter().flatten() {
        sync_folder(parent)?;
    }
    Ok(())
}

/// Copies a file of `from` to the same place below `to`, and says what was copied.
pub(super) fn copy(from: &Path, to: &Path, path: &str) -> Result<BackupFile, Wrong> {
    let (source, target) = (from.join(path), to.join(path));
    if let Some(parent) = target.parent() {
        private_folder(parent)?;
    }
    let mut file = private_file(&target).map_err(wrong(&target))?;
    let found = read(&source, |chunk| file.write_all(chunk).map_err(wrong(&target)))?;
    file.sync_all().map_err(wrong(&target))?;
    if let Some(parent) = target.parent() {
        sync_folder(parent)?;
    }
    Ok(BackupFile { path: path.to_owned(), ..found })
}

/// What a file below `folder` is.
pub(super) fn measure(folder: &Path, path: &str) -> Result<BackupFile, Wrong> {
    let found = read(&folder.join(path), |_| Ok(()))?;
    Ok(BackupFile { path: path.to_owned(), ..found })
}

fn read(path: &Path, mut each: impl FnMut(&[u8]) -> Result<(), Wrong>) -> Result<BackupFile, Wrong> {
    let mut file = File::open(path).map_err(wrong(path))?;
    let (mut hasher, mut bytes, mut chunk) = (blake3::Hasher::new(), 0, vec![0; CHUNK]);
    loop {
        let count = file.read(&mut chunk).map_err(wrong(path))?;
        if count == 0 {
            let digest = Digest::from_bytes(*hasher.finalize().as_bytes());
            return Ok(BackupFile { path: String::new(), bytes, digest });
        }
        hasher.update(&chunk[..count]);
        each(&chunk[..count])?;
        bytes += count as u64;
    }
}

/// Every file that is kept of a coordinator's folder, the store excepted.
pub(super) fn beside_the_store(root: &Path) -> Result<Vec<String>, Wrong> {
    let mut found = Vec::new();
    for name in KEPT.into_iter().filter(|name| *name != super::STORE) {
        let path = root.join(name);
        if path.is_file() {
            found.push(name.to_owned());
        } else if path.is_dir() {
            for entry in fs::read_dir(&path).map_err(wrong(&path))? {
                let entry = entry.map_err(wrong(&path))?.path();
                // A certificate that is being renewed has its new file beside it for a moment.
                let passing = entry.extension().is_some_and(|end| end == "new" || end == "part");
                if let (true, Some(file)) = (entry.is_file() && !passing, entry.file_name()) {
                    found.push(format!("{name}/{}", file.to_string_lossy()));
                }
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// A moment as a folder's name: `20261126T013300Z`.
pub(crate) fn dated(now: SystemTime) -> String {
    let [year, month, day, hour, minute, second] = civil(unix_ms(now));
    format!("{year}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}
