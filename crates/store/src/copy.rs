//! A copy of a store as it was at one moment, made while others go on writing to it.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, Key, ReadOnlyDatabase, ReadTransaction, ReadableDatabase, ReadableTable as _,
    TableDefinition, TableError, TableHandle as _, Value, WriteTransaction,
};

use crate::migrate::{PACKED_1, PACKED_2};
use crate::pieces::{PIECES, STAGED, TABLES};
use crate::redb_store::{CACHE, cannot_open, failed, read_format};
use crate::tables::{
    AUDIT, BLOBS, CONTRIBUTIONS, Failure, META, NAMED, NODES, POLICIES, RUNS, SEALS, TOKENS, TRAFFIC,
};
use crate::{FORMAT, StoreError};

/// Takes snapshots of an open store, wherever the store itself has gone.
#[derive(Debug, Clone)]
pub struct Snapshots {
    database: Weak<Database>,
    path: PathBuf,
}

/// A store as it was at one moment. The space of what is deleted meanwhile is used again once this is dropped.
pub struct Snapshot {
    txn: ReadTransaction,
    path: PathBuf,
    /// Keeps others from opening a store that nobody has open.
    _held: Held,
}

enum Held {
    BySomebodyElse,
    ToRead { _database: ReadOnlyDatabase },
    ToRepair { _database: Database },
}

/// Whether a process has the store at `path` open. One that is damaged or missing is not in use.
pub fn in_use(path: &Path) -> bool {
    matches!(ReadOnlyDatabase::open(path), Err(DatabaseError::DatabaseAlreadyOpen))
}

impl Snapshots {
    pub(crate) fn of(database: &Arc<Database>, path: &Path) -> Self {
        Self { database: Arc::downgrade(database), path: path.to_owned() }
    }

    /// The store as it is now. To be called where the store is owned, so that it is not closed meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Closed`] once the store is closed, [`StoreError::Database`].
    pub fn take(&self) -> Result<Snapshot, StoreError> {
        let path = self.path.clone();
        let Some(database) = self.database.upgrade() else { return Err(StoreError::Closed { path }) };
        Snapshot::new(&*database, path, Held::BySomebodyElse)
    }
}

impl Snapshot {
    /// The store at `path`, which nobody has open. It is repaired if it was not closed in order, and otherwise only read:
    /// an earlier format stays what it is.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::Newer`], [`StoreError::Database`].
    pub fn of_closed(path: &Path) -> Result<Self, StoreError> {
        match ReadOnlyDatabase::open(path) {
            Ok(database) => {
                let txn = begin(&database, path)?;
                Self::checked(txn, path.to_owned(), Held::ToRead { _database: database })
            }
            Err(DatabaseError::RepairAborted) => {
                let database = Database::open(path).map_err(|error| cannot_open(path, error))?;
                let txn = begin(&database, path)?;
                Self::checked(txn, path.to_owned(), Held::ToRepair { _database: database })
            }
            Err(error) => Err(cannot_open(path, error)),
        }
    }

    fn new(database: &impl ReadableDatabase, path: PathBuf, held: Held) -> Result<Self, StoreError> {
        Self::checked(begin(database, &path)?, path, held)
    }

    fn checked(txn: ReadTransaction, path: PathBuf, held: Held) -> Result<Self, StoreError> {
        match read_format(&txn).map_err(|failure| failed(&path, failure))? {
            Some(found) if found > FORMAT => Err(StoreError::Newer { path, found, supported: FORMAT }),
            _ => Ok(Self { txn, path, _held: held }),
        }
    }

    /// Writes it into a new file, readable by its owner alone. When this returns, the file is on disk.
    ///
    /// # Errors
    /// [`StoreError::Database`], of the store or of the new file, which may then be there in part;
    /// [`StoreError::UnknownTable`].
    pub fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let wrong =
            |error: redb::Error| StoreError::Database { path: path.to_owned(), source: Box::new(error) };
        let file = options.open(path).map_err(|error| wrong(redb::Error::Io(error)))?;
        let database = FileBackend::new(file)
            .and_then(|file| Database::builder().set_cache_size(CACHE).create_with_backend(file))
            .map_err(|error| cannot_open(path, error))?;
        let mut into = database.begin_write().map_err(|error| wrong(error.into()))?;
        into.set_two_phase_commit(true);
        // What fails inside is mostly the reading; the message of the other names no file, but its cause.
        every_table(&self.txn, &into).map_err(|failure| failed(&self.path, failure))?;
        into.commit().map_err(|error| wrong(error.into()))
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("path", &self.path).finish_non_exhaustive()
    }
}

fn begin(database: &impl ReadableDatabase, path: &Path) -> Result<ReadTransaction, StoreError> {
    database.begin_read().map_err(|error| failed(path, error.into()))
}

/// Of this format and of those before.
fn every_table(from: &ReadTransaction, into: &WriteTransaction) -> Result<(), Failure> {
    let copied = [
        table(from, into, META)?,
        table(from, into, NODES)?,
        table(from, into, TOKENS)?,
        table(from, into, BLOBS)?,
        table(from, into, RUNS)?,
        table(from, into, CONTRIBUTIONS)?,
        table(from, into, TABLES)?,
        table(from, into, PIECES)?,
        table(from, into, STAGED)?,
        table(from, into, PACKED_1)?,
        table(from, into, PACKED_2)?,
        table(from, into, SEALS)?,
        table(from, into, POLICIES)?,
        table(from, into, NAMED)?,
        table(from, into, TRAFFIC)?,
        table(from, into, AUDIT)?,
    ];
    // A table that is forgotten here must not be lost silently.
    match from.list_tables()?.find(|table| !copied.iter().any(|name| name == table.name())) {
        Some(unknown) => Err(Failure::UnknownTable { table: unknown.name().to_owned() }),
        None => Ok(()),
    }
}

fn table<K: Key + 'static, V: Value + 'static>(
    from: &ReadTransaction,
    into: &WriteTransaction,
    definition: TableDefinition<'static, K, V>,
) -> Result<String, Failure> {
    let name = definition.name().to_owned();
    let source = match from.open_table(definition) {
        Ok(source) => source,
        Err(TableError::TableDoesNotExist(_)) => return Ok(name),
        Err(error) => return Err(error.into()),
    };
    let mut copy = into.open_table(definition)?;
    for entry in source.iter()? {
        let (key, value) = entry?;
        copy.insert(key.value(), value.value())?;
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use exeunt_protocol::RunId;
    use exeunt_stats::Digest;

    use super::*;
    use crate::conformance::conformance;
    use crate::{AuditEntry, RedbStore, Store};

    fn entries<K: Key + 'static, V: Value + 'static>(
        txn: &ReadTransaction,
        definition: TableDefinition<'static, K, V>,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let table = txn.open_table(definition).unwrap();
        let entries = table.iter().unwrap();
        entries
            .map(|entry| {
                let (key, value) = entry.unwrap();
                let key = K::as_bytes(&key.value()).as_ref().to_vec();
                (key, V::as_bytes(&value.value()).as_ref().to_vec())
            })
            .collect()
    }

    #[track_caller]
    fn assert_equal(found: &ReadTransaction, expected: &ReadTransaction) {
        macro_rules! compare {
            ($($table:ident),+) => {
                $(assert_eq!(entries(found, $table), entries(expected, $table), "{}", $table.name());)+
            };
        }
        compare!(
            META,
            NODES,
            TOKENS,
            BLOBS,
            RUNS,
            CONTRIBUTIONS,
            TABLES,
            PIECES,
            STAGED,
            SEALS,
            POLICIES,
            NAMED,
            TRAFFIC,
            AUDIT
        );
        let names = |txn: &ReadTransaction| -> Vec<String> {
            txn.list_tables().unwrap().map(|table| table.name().to_owned()).collect()
        };
        assert_eq!(names(found), names(expected));
    }

    fn write_a_little(store: &mut RedbStore, number: u32) {
        let run: RunId = format!("r-{number}").parse().unwrap();
        store.save_run(&run, b"record", 1).unwrap();
        let blob = number.to_le_bytes();
        store.put_blob(Digest::of(&blob), &blob).unwrap();
        let line = AuditEntry { at_ms: 1, run: Some(run), node: None, text: format!("line {number}") };
        store.append_audit(&[line]).unwrap();
    }

    /// Whatever the suite puts into a store is in its copy, table by table.
    #[test]
    fn a_copy_of_what_the_suite_writes_is_the_original() {
        let folder = tempfile::tempdir().unwrap();
        let mut number = 0;
        conformance(&mut || {
            number += 1;
            Box::new(RedbStore::open(folder.path().join(format!("{number}.redb"))).unwrap())
        });
        assert!(number > 0);
        for number in 1..=number {
            let original = Snapshot::of_closed(&folder.path().join(format!("{number}.redb"))).unwrap();
            let path = folder.path().join(format!("copy-{number}.redb"));
            original.copy_to(&path).unwrap();
            assert_equal(&Snapshot::of_closed(&path).unwrap().txn, &original.txn);
        }
    }

    #[test]
    fn a_copy_is_of_one_moment_whatever_is_written_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = RedbStore::open(folder.path().join("store.redb")).unwrap();
        (0..20).for_each(|number| write_a_little(&mut store, number));
        let snapshots = store.snapshots();
        let snapshot = snapshots.take().unwrap();
        let (asked, stop) = std::sync::mpsc::channel::<()>();
        let (progress, written) = std::sync::mpsc::channel();
        let writer = std::thread::spawn(move || {
            let mut number = 20;
            while stop.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                write_a_little(&mut store, number);
                number += 1;
                progress.send(number).unwrap();
            }
            store
        });
        written.recv().unwrap();
        let path = folder.path().join("copy.redb");
        snapshot.copy_to(&path).unwrap();
        written.recv().unwrap();
        drop(asked);
        let store = writer.join().unwrap();
        assert!(store.runs().unwrap().len() > 20);
        let copy = Snapshot::of_closed(&path).unwrap();
        assert_equal(&copy.txn, &snapshot.txn);
        drop(copy);
        assert_eq!(RedbStore::open(&path).unwrap().runs().unwrap().len(), 20);
        assert!(snapshot.copy_to(&path).is_err(), "what is there is not written over");
        drop(store);
        assert!(matches!(snapshots.take(), Err(StoreError::Closed { .. })));
        let late = folder.path().join("late.redb");
        assert!(snapshot.copy_to(&late).is_err(), "the store was closed under the snapshot");
    }

    #[test]
    fn a_table_that_is_not_known_is_not_lost_silently() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        drop(RedbStore::open(&path).unwrap());
        let database = Database::open(&path).unwrap();
        let txn = database.begin_write().unwrap();
        txn.open_table(TableDefinition::<u64, u64>::new("extra")).unwrap();
        txn.commit().unwrap();
        assert!(in_use(&path));
        assert!(matches!(Snapshot::of_closed(&path), Err(StoreError::InUse { .. })));
        drop(database);
        assert!(!in_use(&path));
        let error = Snapshot::of_closed(&path).unwrap().copy_to(&folder.path().join("copy")).unwrap_err();
        assert!(error.to_string().contains("'extra'"), "{error}");
    }
}
