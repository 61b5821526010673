//! Putting a backup back.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use exeunt_link::{Authority, AuthorityError};
use exeunt_store::{Examined, StoreError, in_use};

use super::files::{self, Wrong};
use super::{BACKUP_FORMAT, KEPT, MANIFEST, Manifest, STORE};
use crate::home::Home;

/// Why a backup was not put back. The coordinator's folder is then as it was, [`RestoreError::File`] excepted, which
/// can come while things are moved: nothing is lost, and a coordinator does not start until a restore has ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder is no backup.
    #[error("{path} is no whole backup: it has no manifest.json")]
    NoBackup {
        /// The folder.
        path: PathBuf,
    },
    /// The manifest cannot be read.
    #[error("{path} cannot be read: {source}")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What the reader said.
        source: serde_json::Error,
    },
    /// A later version of this software made it.
    #[error("{path} has format {found}, this version reads up to {supported}: use the version that made it")]
    Newer {
        /// The manifest.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format read here.
        supported: u32,
    },
    /// The manifest names a file that belongs to no coordinator.
    #[error("{path} names a file '{file}', expected one of a coordinator's folder")]
    Foreign {
        /// The manifest.
        path: PathBuf,
        /// What it names.
        file: String,
    },
    /// The manifest does not name what a coordinator needs.
    #[error("{path} names no file of '{missing}', without which there is no coordinator")]
    Incomplete {
        /// The manifest.
        path: PathBuf,
        /// What it lacks.
        missing: &'static str,
    },
    /// A file is not the one that was backed up.
    #[error("{path} is damaged: found {found}, expected {expected}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Its length and digest.
        found: String,
        /// What the manifest says.
        expected: String,
    },
    /// The authority cannot be used.
    #[error("the backup's authority")]
    Authority(#[from] AuthorityError),
    /// The store cannot be opened.
    #[error("the backup's store")]
    Store(#[source] StoreError),
    /// The store does not fit together.
    #[error("the backup's store was wrong before it was copied: {first} ({count} in all)")]
    Problems {
        /// The first of its problems.
        first: String,
        /// How many there are.
        count: u64,
    },
    /// A coordinator runs in the folder.
    #[error("a coordinator is running in {path}: stop it first")]
    Running {
        /// The folder.
        path: PathBuf,
    },
    /// The folder has a coordinator.
    #[error(
        "{path} has a coordinator already; name an empty folder with --home, or move what is there aside with --replace"
    )]
    Taken {
        /// The folder.
        path: PathBuf,
    },
}

impl From<Wrong> for RestoreError {
    fn from(Wrong { path, source }: Wrong) -> Self {
        Self::File { path, source }
    }
}

/// What was done.
#[derive(Debug)]
pub struct Restored {
    /// What was put back.
    pub manifest: Manifest,
    /// Where that lies which was there before.
    pub set_aside: Option<PathBuf>,
}

/// Puts a backup back as a coordinator's folder. It is copied first, and the copy compared with the manifest and looked
/// through; only then is it moved to its place. What lies there is never deleted: with `replace` it is moved into a
/// folder beside.
///
/// # Errors
/// See [`RestoreError`].
pub fn restore(home: &Home, from: &Path, replace: bool, now: SystemTime) -> Result<Restored, RestoreError> {
    let manifest = read_manifest(from)?;
    if in_use(&home.store()) {
        return Err(RestoreError::Running { path: home.root().to_owned() });
    }
    let old: Vec<&str> = KEPT.into_iter().filter(|name| home.root().join(name).exists()).collect();
    if !(old.is_empty() || replace) {
        return Err(RestoreError::Taken { path: home.root().to_owned() });
    }
    files::private_folder(home.root())?;
    let part = home.root().join("restore.part");
    // Of a restore that did not come to its end; everything in it is in its backup.
    remove(&part)?;
    let copied = copy(from, &part, &manifest).and_then(|()| check(&Home::new(&part)));
    if let Err(error) = copied {
        // What failed is reported; a left-over that cannot be removed either adds nothing.
        let _ = fs::remove_dir_all(&part);
        return Err(error);
    }
    let set_aside = put_in_place(home, &part, &old, now)?;
    Ok(Restored { manifest, set_aside })
}

fn read_manifest(from: &Path) -> Result<Manifest, RestoreError> {
    let path = from.join(MANIFEST);
    let bytes = fs::read(&path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => RestoreError::NoBackup { path: from.to_owned() },
        _ => RestoreError::File { path: path.clone(), source },
    })?;
    let unreadable = |source| RestoreError::Manifest { path: path.clone(), source };
    // Its format first: nobody knows what a later one looks like.
    let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(unreadable)?;
    let format = json.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
    let found = u32::try_from(format).unwrap_or(u32::MAX);
    if found > BACKUP_FORMAT {
        return Err(RestoreError::Newer { path, found, supported: BACKUP_FORMAT });
    }
    let manifest: Manifest = serde_json::from_value(json).map_err(unreadable)?;
    let belongs = |file: &str| {
        let path = Path::new(file);
        path.components().all(|part| matches!(part, Component::Normal(_)))
            && KEPT.iter().any(|name| path.starts_with(name))
    };
    if let Some(file) = manifest.files.iter().find(|file| !belongs(&file.path)) {
        return Err(RestoreError::Foreign { path, file: file.path.clone() });
    }
    for missing in ["authority", STORE] {
        if !manifest.files.iter().any(|file| Path::new(&file.path).starts_with(missing)) {
            return Err(RestoreError::Incomplete { path, missing });
        }
    }
    Ok(manifest)
}

fn copy(from: &Path, part: &Path, manifest: &Manifest) -> Result<(), RestoreError> {
    files::private_folder(part)?;
    for expected in &manifest.files {
        let found = files::copy(from, part, &expected.path)?;
        if found != *expected {
            let say = |file: &super::BackupFile| format!("{} bytes, {}", file.bytes, file.digest);
            return Err(RestoreError::Damaged {
                path: from.join(&expected.path),
                found: say(&found),
                expected: say(expected),
            });
        }
    }
    Ok(())
}

/// Whether a coordinator can start with what was copied.
fn check(copy: &Home) -> Result<(), RestoreError> {
    Authority::open(copy.root().join("authority"))?;
    match crate::examine(copy) {
        Ok(Examined { problems, more_problems, .. }) => match problems.first() {
            Some(first) => {
                let count = problems.len() as u64 + more_problems;
                Err(RestoreError::Problems { first: first.clone(), count })
            }
            None => Ok(()),
        },
        // It is rewritten when a coordinator opens it.
        Err(StoreError::Older { .. }) => Ok(()),
        Err(error) => Err(RestoreError::Store(error)),
    }
}

fn put_in_place(
    home: &Home,
    part: &Path,
    old: &[&str],
    now: SystemTime,
) -> Result<Option<PathBuf>, RestoreError> {
    let aside = home.root().join(format!("replaced-{}", files::dated(now)));
    if aside.exists() {
        return Err(RestoreError::Taken { path: aside });
    }
    // From here on a coordinator does not start until everything is in its place.
    let ready = home.unfinished_restore();
    remove(&ready)?;
    files::rename(part, &ready)?;
    if !old.is_empty() {
        files::private_folder(&aside)?;
        for name in old {
            files::rename(&home.root().join(name), &aside.join(name))?;
        }
    }
    for name in KEPT {
        let path = ready.join(name);
        if path.exists() {
            files::rename(&path, &home.root().join(name))?;
        }
    }
    remove(&ready)?;
    files::sync_folder(home.root())?;
    Ok((!old.is_empty()).then_some(aside))
}

fn remove(folder: &Path) -> Result<(), Wrong> {
    if folder.exists() { fs::remove_dir_all(folder).map_err(files::wrong(folder)) } else { Ok(()) }
}
