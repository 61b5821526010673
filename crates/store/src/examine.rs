//! Looking through a store without changing it: whether everything in it can be read and fits.

use std::collections::BTreeSet;
use std::path::Path;

use exeunt_protocol::{NodeId, PolicyVersion, QueryId, RunId};
use exeunt_stats::packed::{self, Decoder};
use exeunt_stats::{Digest, Hasher, Table};
use redb::{DatabaseError, ReadOnlyDatabase, ReadTransaction, ReadableDatabase, ReadableTable};
use serde::de::DeserializeOwned;

use crate::pieces::{self, PIECES, STAGED, Stored, TABLES};
use crate::redb_store::{cannot_open, failed, read_format};
use crate::seals::{self, SealRecord};
use crate::tables::{
    AUDIT, BLOBS, CONTRIBUTIONS, Failure, NAMED, NODES, POLICIES, RUNS, SEALS, TOKENS, TRAFFIC, decode,
};
use crate::{AuditEntry, ContributionMeta, FORMAT, NodeRecord, STAGE, Seal, StoreError, TokenRecord};

/// Problems that are named; the rest is counted.
const NAMED_PROBLEMS: usize = 50;

/// What was found in a store.
#[derive(Debug, Default)]
pub struct Examined {
    /// Version of its format.
    pub format: u32,
    /// Every table with its number of entries.
    pub tables: Vec<(&'static str, u64)>,
    /// What does not fit, each in one line; the first fifty.
    pub problems: Vec<String>,
    /// Problems that are not named.
    pub more_problems: u64,
    /// Lines of the audit log.
    pub audit_lines: u64,
    /// When its last line was written, in milliseconds since 1970.
    pub last_audit_ms: Option<u64>,
    /// Records of runs, which their writer can read.
    pub runs: Vec<(RunId, Vec<u8>)>,
    /// Records of policies, likewise.
    pub policies: Vec<(RunId, PolicyVersion, Vec<u8>)>,
}

impl Examined {
    /// Notes something that does not fit.
    pub fn problem(&mut self, text: String) {
        if self.problems.len() < NAMED_PROBLEMS { self.problems.push(text) } else { self.more_problems += 1 }
    }

    fn value<T: DeserializeOwned>(&mut self, table: &'static str, key: &str, bytes: &[u8]) -> Option<T> {
        match decode(table, key, bytes) {
            Ok(value) => Some(value),
            Err(Failure::Value { what, .. }) => {
                self.problem(format!("{table}, {key}: {what}"));
                None
            }
            Err(_) => None,
        }
    }
}

/// Looks through the store at `path`: every value decodes, every blob, table and sum has the digest it goes by, every
/// sum is that of the tables it names, and the audit log has no gap. Nothing is written.
///
/// # Errors
/// [`StoreError::InUse`] while a coordinator has it, [`StoreError::Newer`], [`StoreError::Older`],
/// [`StoreError::Database`] where the file
/// itself cannot be read; [`StoreError::NotClosed`] where it must be repaired first, which opening it for writing does.
pub fn examine(path: &Path) -> Result<Examined, StoreError> {
    let database = match ReadOnlyDatabase::open(path) {
        Ok(database) => database,
        Err(DatabaseError::RepairAborted) => return Err(StoreError::NotClosed { path: path.to_owned() }),
        Err(error) => return Err(cannot_open(path, error)),
    };
    let mut examined = Examined::default();
    let look = || -> Result<Option<u32>, Failure> { read_format(&database.begin_read()?) };
    match look().map_err(|failure| failed(path, failure))? {
        Some(found) if found > FORMAT => {
            return Err(StoreError::Newer { path: path.to_owned(), found, supported: FORMAT });
        }
        Some(found) if found < FORMAT => {
            return Err(StoreError::Older { path: path.to_owned(), found, expected: FORMAT });
        }
        found => examined.format = found.unwrap_or(0),
    }
    let all = |examined: &mut Examined| -> Result<(), Failure> {
        let txn = database.begin_read()?;
        people(&txn, examined)?;
        blobs(&txn, examined)?;
        records(&txn, examined)?;
        answers(&txn, examined)?;
        seals(&txn, examined)?;
        strays(&txn, examined)?;
        audit(&txn, examined)
    };
    all(&mut examined).map_err(|failure| failed(path, failure))?;
    Ok(examined)
}

fn people(txn: &ReadTransaction, examined: &mut Examined) -> Result<(), Failure> {
    let mut nodes = 0;
    for entry in txn.open_table(NODES)?.iter()? {
        let (key, value) = entry?;
        nodes += 1;
        examined.value::<NodeRecord>("nodes", &NodeId::from_bytes(key.value()).to_string(), value.value());
    }
    let mut tokens = 0;
    for entry in txn.open_table(TOKENS)?.iter()? {
        let (key, value) = entry?;
        tokens += 1;
        // The key is the digest of a secret; its beginning is enough to find it.
        let name = Digest::from_bytes(key.value()).short();
        examined.value::<TokenRecord>("tokens", &name, value.value());
    }
    examined.tables.extend([("nodes", nodes), ("tokens", tokens)]);
    Ok(())
}

fn blobs(txn: &ReadTransaction, examined: &mut Examined) -> Result<(), Failure> {
    let mut count = 0;
    for entry in txn.open_table(BLOBS)?.iter()? {
        let (key, value) = entry?;
        count += 1;
        let (expected, found) = (Digest::from_bytes(key.value()), Digest::of(value.value()));
        if found != expected {
            examined.problem(format!("blobs, {expected}: found digest {found}"));
        }
    }
    examined.tables.push(("blobs", count));
    Ok(())
}

fn records(txn: &ReadTransaction, examined: &mut Examined) -> Result<(), Failure> {
    let mut runs = 0;
    for entry in txn.open_table(RUNS)?.iter()? {
        let (key, value) = entry?;
        runs += 1;
        match key.value().parse() {
            Ok(run) => examined.runs.push((run, value.value().to_vec())),
            Err(error) => examined.problem(format!("runs, {:?}: {error}", key.value())),
        }
    }
    let mut policies = 0;
    for entry in txn.open_table(POLICIES)?.iter()? {
        let (key, value) = entry?;
        policies += 1;
        let (run, version) = key.value();
        match run.parse() {
            Ok(run) => examined.policies.push((run, PolicyVersion(version), value.value().to_vec())),
            Err(error) => examined.problem(format!("policies, {run:?}: {error}")),
        }
    }
    let named = txn.open_table(NAMED)?.iter()?.count() as u64;
    examined.tables.extend([("runs", runs), ("policies", policies), ("named-policies", named)]);
    Ok(())
}

fn name((run, query, node): (&str, u32, [u8; 16])) -> String {
    format!("{} of {run}, {}", QueryId(query), NodeId::from_bytes(node))
}

/// Hands on bytes part by part; or says what is wrong with them, which is also what `each` says.
fn parts(
    txn: &ReadTransaction,
    stored: Stored,
    mut each: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<Result<(), String>, Failure> {
    let pieces = txn.open_table(PIECES)?;
    let mut offset = 0;
    loop {
        let part = match pieces::read(&pieces, stored, offset, STAGE) {
            Ok(part) if part.is_empty() => return Ok(Ok(())),
            Ok(part) => part,
            Err(Failure::Value { key, what, .. }) => return Ok(Err(format!("its piece {key}: {what}"))),
            Err(error) => return Err(error),
        };
        offset += part.len() as u64;
        if let Err(what) = each(&part) {
            return Ok(Err(what));
        }
    }
}

fn answers(txn: &ReadTransaction, examined: &mut Examined) -> Result<(), Failure> {
    let (contributions, tables) = (txn.open_table(CONTRIBUTIONS)?, txn.open_table(TABLES)?);
    let mut count = 0;
    for entry in contributions.iter()? {
        let (key, value) = entry?;
        count += 1;
        let of = name(key.value());
        let Some(meta) = examined.value::<ContributionMeta>("contributions", &of, value.value()) else {
            continue;
        };
        let (run, query, node) = key.value();
        if tables.get((run, query, node, *meta.table.digest.as_bytes()))?.is_none() {
            examined.problem(format!("contributions, {of}: its table is gone"));
        }
    }
    let mut count_tables = 0;
    for entry in tables.iter()? {
        let (key, value) = entry?;
        count_tables += 1;
        let (id, length) = value.value();
        let (run, query, node, digest) = key.value();
        let of = name((run, query, node));
        let (mut hasher, expected) = (Hasher::default(), Digest::from_bytes(digest));
        let read = parts(txn, Stored { id, length }, |part| {
            hasher.update(part);
            Ok(())
        })?;
        if let Err(what) = read {
            examined.problem(format!("tables, {of}: {what}"));
        } else if hasher.digest() != expected {
            let found = hasher.digest();
            examined.problem(format!("tables, {of}: found digest {found}, expected {expected}"));
        }
        if contributions.get((run, query, node))?.is_none() {
            examined.problem(format!("tables, {of}: nobody contributed it"));
        }
    }
    let traffic = txn.open_table(TRAFFIC)?.iter()?.count() as u64;
    examined.tables.extend([("contributions", count), ("tables", count_tables), ("traffic", traffic)]);
    Ok(())
}

fn seals(txn: &ReadTransaction, examined: &mut Examined) -> Result<(), Failure> {
    let mut count = 0;
    for entry in txn.open_table(SEALS)?.iter()? {
        let (key, value) = entry?;
        count += 1;
        let (run, query) = key.value();
        let of = format!("{} of {run}", QueryId(query));
        let Some(record) = examined.value::<SealRecord>("seals", &of, value.value()) else { continue };
        let seal = match seals::whole(record, &txn.open_table(PIECES)?) {
            Ok(seal) => seal,
            Err(Failure::Value { key, what, .. }) => {
                examined.problem(format!("seals, {of}: piece {key} of its sum: {what}"));
                continue;
            }
            Err(error) => return Err(error),
        };
        if let Some(problem) = wrong_sum(txn, run, query, &seal)? {
            examined.problem(format!("seals, {of}: {problem}"));
        }
    }
    examined.tables.push(("seals", count));
    Ok(())
}

/// Adds the sealed tables up again. Seals of the first format, which do not say what they asked, may have lost tables to
/// newer data and cannot be compared then.
fn wrong_sum(txn: &ReadTransaction, run: &str, query: u32, seal: &Seal) -> Result<Option<String>, Failure> {
    let Some(merged) = &seal.merged else { return Ok(None) };
    let Ok(cells) = usize::try_from(seal.cells) else { return Ok(Some("too many cells".to_owned())) };
    let merged = match packed::decode(merged, cells) {
        Ok(cells) => Table::from_cells(cells),
        Err(error) => return Ok(Some(format!("its sum cannot be read: {error}"))),
    };
    if let Some(expected) = seal.digest
        && merged.digest() != expected
    {
        return Ok(Some(format!("its sum has digest {}, expected {expected}", merged.digest())));
    }
    let tables = txn.open_table(TABLES)?;
    let mut total = Table::zeros(cells);
    let stored_for = seal.reused.map_or(query, |from| from.0);
    for (node, _, digest) in &seal.cohort {
        let key = (run, stored_for, *node.as_bytes(), *digest.as_bytes());
        let Some(stored) = pieces::table(&tables, key)? else {
            let gone = format!("the table of {node} is gone");
            return Ok(seal.asked.is_some().then_some(gone));
        };
        let mut decoder = Decoder::new(cells);
        let added =
            parts(txn, stored, |part| decoder.merge(part, &mut total).map_err(|error| error.to_string()))?;
        let added = added.and_then(|()| decoder.finish().map_err(|error| error.to_string()));
        if let Err(error) = added {
            return Ok(Some(format!("the table of {node} cannot be read: {error}")));
        }
    }
    Ok((total != merged).then(|| "its sum is not that of the tables it names".to_owned()))
}

/// Pieces that nothing says anything of. What was staged when the store was closed is gone when it is opened.
fn strays(txn: &ReadTransaction, examined: &mut Examined) -> Result<(), Failure> {
    let pieces = txn.open_table(PIECES)?;
    let (mut numbers, mut from) = (BTreeSet::new(), Some(0));
    while let Some(first) = from
        && let Some(entry) = pieces.range((first, 0)..)?.next()
    {
        let (number, _) = entry?.0.value();
        numbers.insert(number);
        from = number.checked_add(1);
    }
    for entry in txn.open_table(TABLES)?.iter()? {
        numbers.remove(&entry?.1.value().0);
    }
    for entry in txn.open_table(SEALS)?.iter()? {
        let (key, value) = entry?;
        // One that cannot be read is a problem by itself.
        if let Ok(SealRecord { sum: Some(sum), .. }) = decode("seals", key.value(), value.value()) {
            numbers.remove(&sum.id);
        }
    }
    for staged in pieces::all_staged(&txn.open_table(STAGED)?)? {
        numbers.remove(&staged.0);
    }
    if !numbers.is_empty() {
        examined.problem(format!("pieces: those under {numbers:?} are of no table"));
    }
    Ok(())
}

fn audit(txn: &ReadTransaction, examined: &mut Examined) -> Result<(), Failure> {
    let mut next = 0;
    let mut runs = BTreeSet::new();
    for entry in txn.open_table(AUDIT)?.iter()? {
        let (key, value) = entry?;
        let number = key.value();
        if number != next {
            examined.problem(format!("audit: line {number} follows line {}", next.saturating_sub(1)));
        }
        next = number.saturating_add(1);
        examined.audit_lines += 1;
        if let Some(line) = examined.value::<AuditEntry>("audit", &number.to_string(), value.value()) {
            examined.last_audit_ms = Some(line.at_ms);
            runs.extend(line.run);
        }
    }
    let unheard: Vec<String> =
        examined.runs.iter().filter(|(run, _)| !runs.contains(run)).map(|(run, _)| run.to_string()).collect();
    for run in unheard {
        examined.problem(format!("audit: no line tells of run {run}"));
    }
    examined.tables.push(("audit", examined.audit_lines));
    Ok(())
}

#[cfg(test)]
mod tests {
    use exeunt_protocol::DatasetVersion;
    use exeunt_protocol::message::{BlobRef, Membership};
    use redb::{Database, TableDefinition};

    use super::*;
    use crate::tables::Bytes;
    use crate::{NewContribution, Packed, RedbStore, Store};

    fn node(id: u8) -> NodeId {
        NodeId::from_bytes([id; 16])
    }

    /// A store with a run of one sealed query, closed in order.
    fn filled(path: &Path) {
        let mut store = RedbStore::open(path).unwrap();
        let run: RunId = "r-1".parse().unwrap();
        store.save_run(&run, b"{}", 1).unwrap();
        store.put_blob(Digest::of(b"blob"), b"blob").unwrap();
        let tables = [1, 2].map(|n| packed::encode(&[n, 10 * n]));
        let mut cohort = Vec::new();
        for (id, bytes) in (1..).zip(&tables) {
            let record = NodeRecord {
                name: format!("n{id}"),
                enrolled_ms: 1,
                revoked: false,
                membership: Membership::Active,
            };
            store.save_node(node(id), &record, 1).unwrap();
            let dataset = DatasetVersion(1);
            let (query, table) = (QueryId(0), BlobRef::of(bytes));
            let new = NewContribution {
                run: &run,
                query,
                node: node(id),
                dataset,
                table,
                packed: &Packed::Whole(bytes.clone()),
            };
            store.put_contributions(&[new], 2).unwrap();
            cohort.push((node(id), dataset, table.digest));
        }
        let sum = Table::from_cells(vec![3, 30]);
        let seal = Seal {
            cohort,
            declined: Vec::new(),
            merged: Some(packed::encode(sum.cells())),
            cells: 2,
            digest: Some(sum.digest()),
            sealed_ms: 3,
            asked: Some(Digest::of(b"body")),
            reused: None,
        };
        store.put_seal(&run, QueryId(0), &seal).unwrap();
    }

    /// Changes one value behind the store's back.
    fn tamper<K: redb::Key + 'static>(
        path: &Path,
        table: TableDefinition<'_, K, Bytes>,
        change: impl FnOnce(&mut redb::Table<'_, K, Bytes>),
    ) -> Vec<String> {
        let database = Database::open(path).unwrap();
        let txn = database.begin_write().unwrap();
        change(&mut txn.open_table(table).unwrap());
        txn.commit().unwrap();
        drop(database);
        examine(path).unwrap().problems
    }

    #[test]
    fn a_sound_store_has_no_problem_and_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        filled(&path);
        let before = std::fs::read(&path).unwrap();
        let examined = examine(&path).unwrap();
        assert_eq!(examined.problems, [""; 0]);
        assert_eq!((examined.format, examined.audit_lines), (FORMAT, 6));
        assert!(examined.tables.contains(&("tables", 2)) && examined.tables.contains(&("seals", 1)));
        assert_eq!(examined.runs.len(), 1);
        assert!(std::fs::read(&path).unwrap() == before, "the file was changed");
        let open = RedbStore::open(&path).unwrap();
        assert!(matches!(examine(&path), Err(StoreError::InUse { .. })));
        drop(open);
    }

    #[test]
    fn what_was_changed_behind_its_back_is_named() {
        type Tampering = Box<dyn Fn(&Path) -> Vec<String>>;
        let cases: [(&str, Tampering); 6] = [
            (
                "found digest",
                Box::new(|path| {
                    tamper(path, BLOBS, |t| {
                        _ = t.insert(*Digest::of(b"blob").as_bytes(), &b"blub"[..]).unwrap()
                    })
                }),
            ),
            (
                "tables, q0 of r-1",
                Box::new(|path| {
                    tamper(path, PIECES, |t| {
                        let mut other = t.get((1, 0)).unwrap().unwrap().value().to_vec();
                        other[0] ^= 1;
                        t.insert((1, 0), other.as_slice()).unwrap();
                    })
                }),
            ),
            (
                "its piece (1, 0): it is gone",
                Box::new(|path| tamper(path, PIECES, |t| _ = t.remove((1, 0)).unwrap())),
            ),
            (
                "pieces: those under {7} are of no table",
                Box::new(|path| tamper(path, PIECES, |t| _ = t.insert((7, 0), &b"odd"[..]).unwrap())),
            ),
            (
                "audit: line 3 follows line 1",
                Box::new(|path| tamper(path, AUDIT, |t| _ = t.remove(2).unwrap())),
            ),
            (
                "seals, q0 of r-1: ",
                Box::new(|path| tamper(path, SEALS, |t| _ = t.insert(("r-1", 0), &b"\x01"[..]).unwrap())),
            ),
        ];
        for (expected, change) in cases {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("store.redb");
            filled(&path);
            let problems = change(&path);
            assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}");
        }
    }

    #[test]
    fn a_sum_that_is_not_of_its_tables_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        filled(&path);
        let other = Table::from_cells(vec![3, 31]);
        tamper(&path, PIECES, |table| {
            _ = table.insert((2, 0), packed::encode(other.cells()).as_slice()).unwrap();
        });
        let problems = tamper(&path, SEALS, |table| {
            let bytes = table.get(("r-1", 0)).unwrap().unwrap().value().to_vec();
            let mut record: SealRecord = postcard::from_bytes(&bytes).unwrap();
            record.digest = Some(other.digest());
            table.insert(("r-1", 0), postcard::to_stdvec(&record).unwrap().as_slice()).unwrap();
        });
        assert_eq!(problems, ["seals, q0 of r-1: its sum is not that of the tables it names"]);
    }
}
