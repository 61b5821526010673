//! A store whose file is not synced: for what a measurement needs to be there before it begins.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use redb::StorageBackend;
use redb::backends::FileBackend;

use crate::{RedbStore, StoreError};

#[derive(Debug)]
struct Unsynced(FileBackend);

impl StorageBackend for Unsynced {
    fn len(&self) -> Result<u64, io::Error> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.0.write(offset, data)
    }
}

impl RedbStore {
    /// Opens the store at `path`, or makes it, and leaves it to the system when it is on the disk. Many times faster, and
    /// no promise of this crate holds if the machine stops: never for a federation, only for preparing a measurement.
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    pub fn unsynced(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let failed =
            |source: redb::Error| StoreError::Database { path: path.into(), source: Box::new(source) };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|error| failed(redb::Error::Io(error)))?;
        let storage = FileBackend::new(file).map_err(|error| failed(error.into()))?;
        Self::on(Unsynced(storage), &path.to_string_lossy())
    }
}
