//! Copies of everything a coordinator must not lose, and putting one back.
//!
//! ```text
//! BACKUP/manifest.json              what the others are: sizes and digests; written last
//! BACKUP/store.redb                 the store as it was at one moment
//! BACKUP/authority/ identity/ operator/ coordinator.json
//! ```
//!
//! A running coordinator copies its own store from one read transaction while it goes on; for one that is stopped the
//! command line does the same.

mod files;
mod make;
mod restore;
#[cfg(test)]
mod tests;

pub(crate) use files::dated;
pub use make::{BackupError, back_up, back_up_stopped, move_backup};
pub use restore::{RestoreError, Restored, restore};

use exeunt_stats::Digest;
use serde::{Deserialize, Serialize};

/// Version of the backup's format that this build writes.
pub const BACKUP_FORMAT: u32 = 1;
/// What lies beside the files of a backup and says what they are.
const MANIFEST: &str = "manifest.json";
/// The store, in a backup as in a coordinator's folder.
const STORE: &str = "store.redb";
/// Everything that is kept, by its name in both; the store comes last, as without it the others are only keys.
const KEPT: [&str; 5] = ["authority", "identity", "operator", "coordinator.json", STORE];

/// What is in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the backup's own format.
    pub format: u32,
    /// Version of the software that made it.
    pub exeunt: String,
    /// When it was made, in milliseconds since 1970.
    pub made_ms: u64,
    /// Its files.
    pub files: Vec<BackupFile>,
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFile {
    /// Where it lies below the backup's folder, with `/` between names.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of its content.
    pub digest: Digest,
}

impl Manifest {
    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}
