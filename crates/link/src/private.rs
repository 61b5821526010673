//! Folders and files that only their owner may read, and names that are on the disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

/// Makes a directory that only its owner can enter, and those above it.
///
/// # Errors
/// When the system does not let it.
pub fn private_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes a file that is not there yet, readable and writable by its owner alone.
///
/// # Errors
/// When it is there, or the system does not let it.
pub fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Makes names in a directory durable, where the system knows how.
///
/// # Errors
/// When the directory cannot be synced.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        File::open(path).and_then(|directory| directory.sync_all())?;
    }
    Ok(())
}
