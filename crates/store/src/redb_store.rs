//! The embedded store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use exeunt_protocol::message::Membership;
use exeunt_protocol::{NodeId, PolicyVersion, QueryId, RunId};
use exeunt_stats::Digest;
use redb::backends::InMemoryBackend;
use redb::{
    Database, DatabaseError, Durability, ReadOnlyDatabase, ReadableDatabase, ReadableTable, StorageBackend,
    WriteTransaction,
};

use crate::contributions::{put_all, table_key};
use crate::copy::Snapshots;
use crate::migrate;
use crate::pieces::{self, PIECES, STAGED, TABLES};
use crate::seals;
use crate::tables::{
    AUDIT, BLOBS, CONTRIBUTIONS, FORMAT_KEY, Failure, META, NAMED, NODES, POLICIES, RUNS, SEALS, TOKENS,
    TRAFFIC, create_all, decode, encode, look_up, next_line,
};
use crate::{
    AuditEntry, ContributionMeta, FORMAT, NewContribution, NodeRecord, PutOutcome, Seal, StageId, Store,
    StoreError, TokenOutcome, TokenRecord, Traffic,
};

/// Bytes of pages that the database keeps in memory. Its own default, a gigabyte, would let a coordinator grow with
/// everything it has ever stored.
pub(crate) const CACHE: usize = 16 << 20;

/// A store in one file, or in memory for federations that live in one process.
#[derive(Debug)]
pub struct RedbStore {
    database: Arc<Database>,
    path: PathBuf,
    /// The disk has failed; the database takes nothing more.
    broken: AtomicBool,
    /// Something was changed that is to be on the disk before anybody hears of it.
    unsynced: bool,
}

impl RedbStore {
    /// Opens the store at `path`, or makes it.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::Newer`] (the file is not touched), [`StoreError::Database`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        refuse_newer(&path)?;
        let database = Database::builder()
            .set_cache_size(CACHE)
            .create(&path)
            .map_err(|error| cannot_open(&path, error))?;
        Self::prepare(database, path)
    }

    /// A store that is gone with this value.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn in_memory() -> Result<Self, StoreError> {
        Self::on(InMemoryBackend::new(), "(memory)")
    }

    /// A store on any storage, such as a disk that a simulation breaks. `name` stands for its path in errors.
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    pub fn on(storage: impl StorageBackend, name: &str) -> Result<Self, StoreError> {
        let path = PathBuf::from(name);
        let database = Database::builder()
            .set_cache_size(CACHE)
            .create_with_backend(storage)
            .map_err(|error| StoreError::Database { path: path.clone(), source: Box::new(error.into()) })?;
        Self::prepare(database, path)
    }

    fn prepare(database: Database, path: PathBuf) -> Result<Self, StoreError> {
        let (database, broken) = (Arc::new(database), AtomicBool::new(false));
        let mut store = Self { database, path, broken, unsynced: false };
        let before = store.format()?;
        match before {
            Some(FORMAT) => {
                store.forget_staged()?;
                return Ok(store);
            }
            Some(found) if found > FORMAT => {
                return Err(StoreError::Newer { path: store.path, found, supported: FORMAT });
            }
            _ => {}
        }
        store.write(|txn| {
            create_all(txn)?;
            match before {
                Some(1) => migrate::from_1(txn)?,
                Some(2) => migrate::from_2(txn)?,
                _ => {}
            }
            txn.open_table(META)?.insert(FORMAT_KEY, FORMAT)?;
            Ok(())
        })?;
        store.sync()?;
        Ok(store)
    }

    /// What was staged when the store was closed, or its process ended, belongs to uploads that nobody remembers.
    fn forget_staged(&mut self) -> Result<(), StoreError> {
        let left = self.read(|txn| pieces::all_staged(&txn.open_table(STAGED)?))?;
        if left.is_empty() {
            return Ok(());
        }
        self.write(|txn| left.iter().try_for_each(|staged| pieces::discard(txn, *staged)))
    }

    /// Takes snapshots of this store for as long as it is open, also when it is somebody else's by then.
    pub fn snapshots(&self) -> Snapshots {
        Snapshots::of(&self.database, &self.path)
    }

    fn format(&self) -> Result<Option<u32>, StoreError> {
        self.read(read_format)
    }

    /// One transaction: all of it happens, or nothing.
    fn write<T>(
        &mut self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let value = self.commit(Durability::None, change)?;
        self.unsynced = true;
        Ok(value)
    }

    fn commit<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&WriteTransaction) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let attempt = || {
            let mut txn = self.database.begin_write()?;
            txn.set_durability(durability)?;
            // A commit in one phase trusts a checksum that is not made against forgery or torn writes.
            txn.set_two_phase_commit(true);
            let value = change(&txn)?;
            txn.commit()?;
            Ok(value)
        };
        attempt().map_err(|failure| self.failed(failure))
    }

    fn read<T>(
        &self,
        look: impl FnOnce(&redb::ReadTransaction) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let attempt = || look(&self.database.begin_read()?);
        attempt().map_err(|failure| self.failed(failure))
    }

    fn failed(&self, failure: Failure) -> StoreError {
        if matches!(failure, Failure::Database(_)) {
            self.broken.store(true, Ordering::Relaxed);
        }
        failed(&self.path, failure)
    }
}

pub(crate) fn cannot_open(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path },
        error => StoreError::Database { path, source: Box::new(error.into()) },
    }
}

pub(crate) fn read_format(txn: &redb::ReadTransaction) -> Result<Option<u32>, Failure> {
    match txn.open_table(META) {
        Ok(meta) => Ok(meta.get(FORMAT_KEY)?.map(|value| value.value())),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Looks at the format without writing: opening for writing alone already rearranges the file. A store that was not
/// closed in order cannot be read so, and is looked at once it is repaired.
fn refuse_newer(path: &Path) -> Result<(), StoreError> {
    if std::fs::metadata(path).map_or(0, |file| file.len()) == 0 {
        return Ok(());
    }
    let database = match ReadOnlyDatabase::open(path) {
        Ok(database) => database,
        Err(DatabaseError::RepairAborted) => return Ok(()),
        Err(error) => return Err(cannot_open(path, error)),
    };
    let look = || read_format(&database.begin_read()?);
    match look().map_err(|failure| failed(path, failure))? {
        Some(found) if found > FORMAT => {
            Err(StoreError::Newer { path: path.to_owned(), found, supported: FORMAT })
        }
        _ => Ok(()),
    }
}

pub(crate) fn failed(path: &Path, failure: Failure) -> StoreError {
    let path = path.to_owned();
    match failure {
        Failure::Database(source) => StoreError::Database { path, source },
        Failure::Value { table, key, what } => StoreError::Value { path, table, key, what },
        Failure::AlreadySealed { run, query } => StoreError::AlreadySealed { run, query },
        Failure::UnknownTable { table } => StoreError::UnknownTable { path, table },
    }
}

pub(crate) fn log(
    txn: &WriteTransaction,
    at_ms: u64,
    run: Option<&RunId>,
    node: Option<NodeId>,
    text: String,
) -> Result<(), Failure> {
    log_all(txn, &[AuditEntry { at_ms, run: run.cloned(), node, text }])
}

fn log_all(txn: &WriteTransaction, entries: &[AuditEntry]) -> Result<(), Failure> {
    let mut audit = txn.open_table(AUDIT)?;
    let first = next_line(&audit)?;
    for (number, entry) in (first..).zip(entries) {
        audit.insert(number, encode("audit", entry)?.as_slice())?;
    }
    Ok(())
}

/// What is known of a node that enrols. A new token lets somebody in again who was shut out; it does not lift a
/// quarantine, and takes no name away that the coordinator's operator has given.
fn enrolled(known: Option<NodeRecord>, name: &str, approve: bool, now_ms: u64) -> NodeRecord {
    let first = if approve { Membership::Pending } else { Membership::Active };
    match known.filter(|known| !known.revoked) {
        Some(known) if known.membership == Membership::Pending => {
            NodeRecord { enrolled_ms: now_ms, membership: first, ..known }
        }
        Some(known) => NodeRecord { enrolled_ms: now_ms, ..known },
        None => NodeRecord { name: name.to_owned(), enrolled_ms: now_ms, revoked: false, membership: first },
    }
}

/// The range of keys that belong to a run, or to one of its queries.
fn keys_of(
    run: &RunId,
    queries: std::ops::RangeInclusive<u32>,
) -> std::ops::RangeInclusive<(&str, u32, [u8; 16])> {
    (run.as_str(), *queries.start(), [0; 16])..=(run.as_str(), *queries.end(), [u8::MAX; 16])
}

impl Store for RedbStore {
    fn sync(&mut self) -> Result<(), StoreError> {
        if self.unsynced {
            // A durable commit takes every one before it along.
            self.commit(Durability::Immediate, |_| Ok(()))?;
            self.unsynced = false;
        }
        Ok(())
    }

    fn health(&self) -> Result<(), StoreError> {
        let broken = || StoreError::Broken { path: self.path.clone() };
        if self.broken.load(Ordering::Relaxed) { Err(broken()) } else { Ok(()) }
    }

    fn nodes(&self) -> Result<Vec<(NodeId, NodeRecord)>, StoreError> {
        self.read(|txn| {
            let mut nodes = Vec::new();
            for entry in txn.open_table(NODES)?.iter()? {
                let (key, value) = entry?;
                nodes.push((NodeId::from_bytes(key.value()), decode("nodes", key.value(), value.value())?));
            }
            Ok(nodes)
        })
    }

    fn save_node(&mut self, node: NodeId, record: &NodeRecord, now_ms: u64) -> Result<(), StoreError> {
        self.write(|txn| {
            txn.open_table(NODES)?.insert(*node.as_bytes(), encode("nodes", record)?.as_slice())?;
            let what = if record.revoked { "revoked" } else { record.membership.name() };
            log(txn, now_ms, None, Some(node), format!("node '{}': {what}", record.name))
        })
    }

    fn add_token(&mut self, secret: Digest, token: &TokenRecord, now_ms: u64) -> Result<(), StoreError> {
        self.write(|txn| {
            let mut tokens = txn.open_table(TOKENS)?;
            if tokens.get(*secret.as_bytes())?.is_some() {
                return Ok(());
            }
            tokens.insert(*secret.as_bytes(), encode("tokens", token)?.as_slice())?;
            log(txn, now_ms, None, None, format!("token made, label '{}'", token.label))
        })
    }

    fn use_token(
        &mut self,
        secret: Digest,
        node: NodeId,
        name: &str,
        now_ms: u64,
    ) -> Result<TokenOutcome, StoreError> {
        self.write(|txn| {
            let mut tokens = txn.open_table(TOKENS)?;
            let stored: Option<TokenRecord> = match tokens.get(*secret.as_bytes())? {
                Some(value) => Some(decode("tokens", secret, value.value())?),
                None => None,
            };
            let mut nodes = txn.open_table(NODES)?;
            let known: Option<NodeRecord> = match nodes.get(*node.as_bytes())? {
                Some(value) => Some(decode("nodes", node, value.value())?),
                None => None,
            };
            let mut token = match stored {
                None => return Ok(TokenOutcome::Unknown),
                Some(token) if token.used_by == Some(node) => {
                    let barred = known.is_some_and(|known| known.revoked);
                    return Ok(if barred { TokenOutcome::Revoked } else { TokenOutcome::EnrolledBefore });
                }
                Some(token) if token.used_by.is_some() => return Ok(TokenOutcome::Used),
                Some(token) if token.expires_ms <= now_ms => return Ok(TokenOutcome::Expired),
                Some(token) => token,
            };
            token.used_by = Some(node);
            tokens.insert(*secret.as_bytes(), encode("tokens", &token)?.as_slice())?;
            let record = enrolled(known, name, token.approve, now_ms);
            nodes.insert(*node.as_bytes(), encode("nodes", &record)?.as_slice())?;
            let waits = match record.membership {
                Membership::Active => String::new(),
                other => format!(": {}", other.name()),
            };
            let text = format!("node '{}' enrolled with token '{}'{waits}", record.name, token.label);
            log(txn, now_ms, None, Some(node), text)?;
            Ok(TokenOutcome::Enrolled)
        })
    }

    fn put_blob(&mut self, digest: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        if self.blob_len(digest)? == Some(bytes.len() as u64) {
            return Ok(());
        }
        self.write(|txn| {
            txn.open_table(BLOBS)?.insert(*digest.as_bytes(), bytes)?;
            Ok(())
        })
    }

    fn blob_len(&self, digest: Digest) -> Result<Option<u64>, StoreError> {
        self.read(|txn| {
            let length =
                txn.open_table(BLOBS)?.get(*digest.as_bytes())?.map(|value| value.value().len() as u64);
            Ok(length)
        })
    }

    fn read_blob(&self, digest: Digest, offset: u64, limit: usize) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|txn| {
            let piece = txn.open_table(BLOBS)?.get(*digest.as_bytes())?.map(|value| {
                let bytes = value.value();
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                bytes[from..bytes.len().min(from.saturating_add(limit))].to_vec()
            });
            Ok(piece)
        })
    }

    fn save_run(&mut self, run: &RunId, record: &[u8], now_ms: u64) -> Result<(), StoreError> {
        self.write(|txn| {
            txn.open_table(RUNS)?.insert(run.as_str(), record)?;
            log(txn, now_ms, Some(run), None, "run saved".to_owned())
        })
    }

    fn run(&self, run: &RunId) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|txn| Ok(txn.open_table(RUNS)?.get(run.as_str())?.map(|record| record.value().to_vec())))
    }

    fn runs(&self) -> Result<Vec<(RunId, Vec<u8>)>, StoreError> {
        self.read(|txn| {
            let mut runs = Vec::new();
            for entry in txn.open_table(RUNS)?.iter()? {
                let (key, value) = entry?;
                let unreadable = |error: exeunt_protocol::IdError| Failure::Value {
                    table: "runs",
                    key: key.value().to_owned(),
                    what: error.to_string(),
                };
                runs.push((key.value().parse().map_err(unreadable)?, value.value().to_vec()));
            }
            Ok(runs)
        })
    }

    fn put_contributions(
        &mut self,
        contributions: &[NewContribution<'_>],
        now_ms: u64,
    ) -> Result<Vec<PutOutcome>, StoreError> {
        self.write(|txn| put_all(txn, contributions, now_ms))
    }

    fn contributions(
        &self,
        run: &RunId,
        query: QueryId,
    ) -> Result<Vec<(NodeId, ContributionMeta)>, StoreError> {
        self.read(|txn| {
            let mut found = Vec::new();
            for entry in txn.open_table(CONTRIBUTIONS)?.range(keys_of(run, query.0..=query.0))? {
                let (key, value) = entry?;
                let node = NodeId::from_bytes(key.value().2);
                found.push((node, decode("contributions", key.value(), value.value())?));
            }
            Ok(found)
        })
    }

    fn stage(&mut self, under: Option<StageId>, bytes: &[u8]) -> Result<StageId, StoreError> {
        self.commit(Durability::None, |txn| pieces::stage(txn, under, bytes))
    }

    fn discard(&mut self, staged: StageId) -> Result<(), StoreError> {
        self.commit(Durability::None, |txn| pieces::discard(txn, staged))
    }

    fn has_contribution(
        &self,
        run: &RunId,
        query: QueryId,
        node: NodeId,
        table: Digest,
    ) -> Result<bool, StoreError> {
        self.read(|txn| Ok(txn.open_table(TABLES)?.get(table_key(run, query, node, table))?.is_some()))
    }

    fn read_contribution(
        &self,
        run: &RunId,
        query: QueryId,
        node: NodeId,
        table: Digest,
        offset: u64,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|txn| {
            let stored = pieces::table(&txn.open_table(TABLES)?, table_key(run, query, node, table))?;
            let pieces = txn.open_table(PIECES)?;
            stored.map(|stored| pieces::read(&pieces, stored, offset, limit)).transpose()
        })
    }

    fn put_seal(&mut self, run: &RunId, query: QueryId, seal: &Seal) -> Result<(), StoreError> {
        self.write(|txn| {
            let key = (run.as_str(), query.0);
            if let Some(stored) = look_up(&txn.open_table(SEALS)?, "seals", key)? {
                let stored = seals::whole(stored, &txn.open_table(PIECES)?)?;
                let same = stored.cohort == seal.cohort && stored.merged == seal.merged;
                let refused = || Failure::AlreadySealed { run: run.to_string(), query: query.0 };
                return if same { Ok(()) } else { Err(refused()) };
            }
            seals::put(txn, key, seal)?;
            let text =
                format!("{query} sealed: {} counted, {} declined", seal.cohort.len(), seal.declined.len());
            log(txn, seal.sealed_ms, Some(run), None, text)
        })
    }

    fn seals(&self, run: &RunId) -> Result<Vec<(QueryId, Seal)>, StoreError> {
        self.read(|txn| {
            let pieces = txn.open_table(PIECES)?;
            let mut found = Vec::new();
            for entry in txn.open_table(SEALS)?.range((run.as_str(), 0)..=(run.as_str(), u32::MAX))? {
                let (key, value) = entry?;
                let record = decode("seals", key.value(), value.value())?;
                found.push((QueryId(key.value().1), seals::whole(record, &pieces)?));
            }
            Ok(found)
        })
    }

    fn save_policy(
        &mut self,
        run: &RunId,
        version: PolicyVersion,
        policy: &[u8],
        now_ms: u64,
    ) -> Result<(), StoreError> {
        self.write(|txn| {
            txn.open_table(POLICIES)?.insert((run.as_str(), version.0), policy)?;
            log(txn, now_ms, Some(run), None, format!("policy {} saved", version.0))
        })
    }

    fn policies(&self, run: &RunId) -> Result<Vec<(PolicyVersion, Vec<u8>)>, StoreError> {
        self.read(|txn| {
            let mut policies = Vec::new();
            for entry in txn.open_table(POLICIES)?.range((run.as_str(), 0)..=(run.as_str(), u32::MAX))? {
                let (key, value) = entry?;
                policies.push((PolicyVersion(key.value().1), value.value().to_vec()));
            }
            Ok(policies)
        })
    }

    fn name_policy(
        &mut self,
        run: &RunId,
        name: &str,
        policy: Option<&[u8]>,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        self.write(|txn| {
            let mut named = txn.open_table(NAMED)?;
            let key = (run.as_str(), name);
            let what = match policy {
                Some(policy) => named.insert(key, policy).map(|_| "kept")?,
                None => named.remove(key).map(|_| "forgotten")?,
            };
            log(txn, now_ms, Some(run), None, format!("policy '{name}' {what}"))
        })
    }

    fn named_policies(&self, run: &RunId) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.read(|txn| {
            let mut policies = Vec::new();
            for entry in txn.open_table(NAMED)?.range((run.as_str(), "")..)? {
                let (key, value) = entry?;
                let (of, name) = key.value();
                if of != run.as_str() {
                    break;
                }
                policies.push((name.to_owned(), value.value().to_vec()));
            }
            Ok(policies)
        })
    }

    fn add_traffic(&mut self, traffic: &[((RunId, QueryId, NodeId), Traffic)]) -> Result<(), StoreError> {
        self.write(|txn| {
            let mut table = txn.open_table(TRAFFIC)?;
            for ((run, query, node), more) in traffic {
                let key = (run.as_str(), query.0, *node.as_bytes());
                let (up, down) = table.get(key)?.map_or((0, 0), |value| value.value());
                table.insert(key, (up.saturating_add(more.up), down.saturating_add(more.down)))?;
            }
            Ok(())
        })
    }

    fn traffic(&self, run: &RunId) -> Result<Vec<(QueryId, NodeId, Traffic)>, StoreError> {
        self.read(|txn| {
            let mut found = Vec::new();
            for entry in txn.open_table(TRAFFIC)?.range(keys_of(run, 0..=u32::MAX))? {
                let (key, value) = entry?;
                let ((_, query, node), (up, down)) = (key.value(), value.value());
                found.push((QueryId(query), NodeId::from_bytes(node), Traffic { up, down }));
            }
            Ok(found)
        })
    }

    fn append_audit(&mut self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        self.write(|txn| log_all(txn, entries))
    }

    fn audit(&self, from: u64, limit: usize) -> Result<Vec<(u64, AuditEntry)>, StoreError> {
        self.read(|txn| {
            let mut lines = Vec::new();
            for entry in txn.open_table(AUDIT)?.range(from..)?.take(limit) {
                let (number, value) = entry?;
                lines.push((number.value(), decode("audit", number.value(), value.value())?));
            }
            Ok(lines)
        })
    }

    fn audit_of(
        &self,
        node: NodeId,
        limit: usize,
        among: usize,
    ) -> Result<Vec<(u64, AuditEntry)>, StoreError> {
        self.read(|txn| {
            let mut lines = Vec::new();
            for entry in txn.open_table(AUDIT)?.iter()?.rev().take(among) {
                let (number, value) = entry?;
                let entry: AuditEntry = decode("audit", number.value(), value.value())?;
                if entry.node == Some(node) {
                    lines.push((number.value(), entry));
                }
                if lines.len() == limit {
                    break;
                }
            }
            lines.reverse();
            Ok(lines)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::conformance;

    #[test]
    fn the_store_in_memory_conforms() {
        conformance(&mut || Box::new(RedbStore::in_memory().unwrap()));
    }

    #[test]
    fn the_store_on_disk_conforms() {
        let folder = tempfile::tempdir().unwrap();
        let mut number = 0;
        conformance(&mut || {
            number += 1;
            Box::new(RedbStore::open(folder.path().join(format!("{number}.redb"))).unwrap())
        });
    }

    #[test]
    fn everything_is_there_after_a_restart_and_two_at_once_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let (run, node): (RunId, _) = ("r-1".parse().unwrap(), NodeId::from_bytes([1; 16]));
        {
            let mut store = RedbStore::open(&path).unwrap();
            store.save_run(&run, b"record", 1).unwrap();
            store.add_traffic(&[((run.clone(), QueryId(2), node), Traffic { up: 5, down: 7 })]).unwrap();
            let second = RedbStore::open(&path).unwrap_err();
            assert!(matches!(second, StoreError::InUse { .. }), "{second}");
        }
        let store = RedbStore::open(&path).unwrap();
        assert_eq!(store.runs().unwrap(), [(run.clone(), b"record".to_vec())]);
        assert_eq!(store.traffic(&run).unwrap(), [(QueryId(2), node, Traffic { up: 5, down: 7 })]);
    }

    #[test]
    fn what_was_staged_is_gone_after_a_restart_and_takes_no_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let pieces =
            |store: &RedbStore| store.read(|txn| Ok(txn.open_table(PIECES)?.iter()?.count())).unwrap();
        let mut store = RedbStore::open(&path).unwrap();
        let staged = store.stage(None, &[1; 3 * pieces::PIECE]).unwrap();
        assert_eq!(pieces(&store), 3);
        drop(store);
        let mut store = RedbStore::open(&path).unwrap();
        assert_eq!(pieces(&store), 0);
        assert!(store.stage(Some(staged), b"more").is_err());
        drop(store);
        assert_eq!(crate::examine(&path).unwrap().problems, [""; 0]);
    }

    #[test]
    fn a_store_from_a_later_version_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let mut store = RedbStore::open(&path).unwrap();
        store
            .write(|txn| {
                txn.open_table(META)?.insert(FORMAT_KEY, FORMAT + 1)?;
                Ok(())
            })
            .unwrap();
        drop(store);
        let before = std::fs::read(&path).unwrap();
        let error = RedbStore::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found, .. } if found == FORMAT + 1), "{error}");
        assert_eq!(RedbStore::open(&path).unwrap_err().to_string(), error.to_string());
        assert!(std::fs::read(&path).unwrap() == before, "the file was changed");
    }
}
