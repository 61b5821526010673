//! Making a backup.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use exeunt_protocol::moment::unix_ms;
use exeunt_store::{Snapshot, StoreError};

use super::files::{self, Wrong};
use super::{BACKUP_FORMAT, MANIFEST, Manifest, STORE};
use crate::home::Home;

/// Why a backup could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store cannot be copied.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is nothing to copy.
    #[error(
        "there is no coordinator's store in {path}: name its folder with --home, or a coordinator elsewhere with --connect"
    )]
    NoStore {
        /// The folder.
        path: PathBuf,
    },
    /// There is something already where the backup was to be.
    #[error("{path} is there already; name a folder that is not")]
    Taken {
        /// The folder.
        path: PathBuf,
    },
    /// A copy of a backup is not what was copied.
    #[error("{path} did not arrive as it was: the disk or somebody changed it")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The manifest cannot be written down.
    #[error("the manifest cannot be written")]
    Manifest(#[from] serde_json::Error),
}

impl From<Wrong> for BackupError {
    fn from(Wrong { path, source }: Wrong) -> Self {
        Self::File { path, source }
    }
}

/// Copies a store as it was at one moment, and the keys beside it, into a new folder. The folder has its name only once
/// it is whole and on disk.
///
/// # Errors
/// See [`BackupError`].
pub fn back_up(
    home: &Home,
    snapshot: &Snapshot,
    folder: &Path,
    now: SystemTime,
) -> Result<Manifest, BackupError> {
    whole_or_absent(folder, |part| {
        snapshot.copy_to(&part.join(STORE))?;
        let mut files = vec![files::measure(part, STORE)?];
        for path in files::beside_the_store(home.root())? {
            files.push(files::copy(home.root(), part, &path)?);
        }
        let exeunt = env!("CARGO_PKG_VERSION").to_owned();
        let manifest = Manifest { format: BACKUP_FORMAT, exeunt, made_ms: unix_ms(now), files };
        files::write(&part.join(MANIFEST), &serde_json::to_vec_pretty(&manifest)?)?;
        Ok(manifest)
    })
}

/// The same of a coordinator that does not run. Where it was not stopped in order, its store is repaired on the way.
///
/// # Errors
/// See [`BackupError`]; [`StoreError::InUse`] while it runs.
pub fn back_up_stopped(home: &Home, folder: &Path, now: SystemTime) -> Result<Manifest, BackupError> {
    if !home.store().exists() {
        return Err(BackupError::NoStore { path: home.root().to_owned() });
    }
    back_up(home, &Snapshot::of_closed(&home.store())?, folder, now)
}

/// Moves a backup that was just made, also to another disk. What arrives is compared with the manifest before the
/// original goes.
///
/// # Errors
/// See [`BackupError`]; the original is then still there.
pub fn move_backup(from: &Path, to: &Path) -> Result<(), BackupError> {
    let path = from.join(MANIFEST);
    let bytes = fs::read(&path).map_err(files::wrong(&path))?;
    let manifest: Manifest = serde_json::from_slice(&bytes)?;
    whole_or_absent(to, |part| {
        for file in &manifest.files {
            if files::copy(from, part, &file.path)? != *file {
                return Err(BackupError::Changed { path: to.join(&file.path) });
            }
        }
        Ok(files::write(&part.join(MANIFEST), &bytes)?)
    })?;
    Ok(fs::remove_dir_all(from).map_err(files::wrong(from))?)
}

/// Fills a folder under a passing name, and gives it its own once everything is on disk.
fn whole_or_absent<T>(
    folder: &Path,
    fill: impl FnOnce(&Path) -> Result<T, BackupError>,
) -> Result<T, BackupError> {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = folder.with_file_name(name);
    for path in [folder, &part] {
        if path.exists() {
            return Err(BackupError::Taken { path: path.to_owned() });
        }
    }
    files::private_folder(&part)?;
    let filled = fill(&part).and_then(|value| {
        files::sync_folder(&part)?;
        files::rename(&part, folder)?;
        Ok(value)
    });
    if filled.is_err() {
        // What failed is reported; a left-over that cannot be removed either adds nothing.
        let _ = fs::remove_dir_all(&part);
    }
    filled
}
