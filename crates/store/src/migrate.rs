//! From the store's earlier formats to this one.

use exeunt_protocol::message::Membership;
use exeunt_protocol::{DatasetVersion, NodeId};
use exeunt_stats::Digest;
use redb::{ReadableTable, TableDefinition, TableHandle as _, WriteTransaction};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::tables::{
    AnswerKey, Bytes, CONTRIBUTIONS, Failure, NODES, SEALS, TOKENS, TableKey, encode, look_up,
};
use crate::{ContributionMeta, NodeRecord, Seal, TokenRecord};
use crate::{pieces, seals};

/// Tables by node; a newer one took the place of what was counted.
pub(crate) const PACKED_1: TableDefinition<'_, AnswerKey, Bytes> = TableDefinition::new("packed");

/// Each table as one value.
pub(crate) const PACKED_2: TableDefinition<'_, TableKey<'_>, Bytes> = TableDefinition::new("tables");

#[derive(Deserialize)]
struct Node1 {
    name: String,
    enrolled_ms: u64,
    revoked: bool,
}

#[derive(Deserialize)]
struct Token1 {
    label: String,
    expires_ms: u64,
    used_by: Option<NodeId>,
}

#[derive(Deserialize)]
struct Seal1 {
    cohort: Vec<(NodeId, DatasetVersion, Digest)>,
    declined: Vec<(NodeId, String)>,
    merged: Option<Vec<u8>>,
    cells: u64,
    digest: Option<Digest>,
    sealed_ms: u64,
}

/// Rewrites records that have gained fields, and files tables by their digest. Part of the transaction that notes the new
/// format: a crash leaves the old store.
pub(crate) fn from_1(txn: &WriteTransaction) -> Result<(), Failure> {
    let mut nodes = txn.open_table(NODES)?;
    for key in keys(&nodes, |key| key)? {
        let old: Option<Node1> = look_up(&nodes, "nodes", key)?;
        let Some(Node1 { name, enrolled_ms, revoked }) = old else { continue };
        let record = NodeRecord { name, enrolled_ms, revoked, membership: Membership::Active };
        nodes.insert(key, encode("nodes", &record)?.as_slice())?;
    }
    let mut tokens = txn.open_table(TOKENS)?;
    for key in keys(&tokens, |key| key)? {
        let old: Option<Token1> = look_up(&tokens, "tokens", key)?;
        let Some(Token1 { label, expires_ms, used_by }) = old else { continue };
        let record = TokenRecord { label, expires_ms, used_by, approve: false };
        tokens.insert(key, encode("tokens", &record)?.as_slice())?;
    }
    each_seal(txn, |Seal1 { cohort, declined, merged, cells, digest, sealed_ms }| Seal {
        cohort,
        declined,
        merged,
        cells,
        digest,
        sealed_ms,
        asked: None,
        reused: None,
    })?;
    tables(txn)
}

fn each_seal<T: DeserializeOwned>(txn: &WriteTransaction, now: impl Fn(T) -> Seal) -> Result<(), Failure> {
    let seals = keys(&txn.open_table(SEALS)?, |(run, query)| (run.to_owned(), query))?;
    for (run, query) in seals {
        let key = (run.as_str(), query);
        let old: Option<T> = look_up(&txn.open_table(SEALS)?, "seals", key)?;
        if let Some(old) = old {
            seals::put(txn, key, &now(old))?;
        }
    }
    Ok(())
}

fn tables(txn: &WriteTransaction) -> Result<(), Failure> {
    if !txn.list_tables()?.any(|table| table.name() == PACKED_1.name()) {
        return Ok(());
    }
    {
        let contributions = txn.open_table(CONTRIBUTIONS)?;
        let old = txn.open_table(PACKED_1)?;
        for (run, query, node) in keys(&old, |(run, query, node)| (run.to_owned(), query, node))? {
            let key = (run.as_str(), query, node);
            let meta: Option<ContributionMeta> = look_up(&contributions, "contributions", key)?;
            if let (Some(meta), Some(bytes)) = (meta, old.get(key)?) {
                pieces::put_table(txn, (&run, query, node, *meta.table.digest.as_bytes()), bytes.value())?;
            }
        }
    }
    txn.delete_table(PACKED_1)?;
    Ok(())
}

/// Cuts tables and sums into pieces. Part of the transaction that notes the new format, as [`from_1`].
pub(crate) fn from_2(txn: &WriteTransaction) -> Result<(), Failure> {
    {
        let old = txn.open_table(PACKED_2)?;
        for entry in old.iter()? {
            let (key, bytes) = entry?;
            pieces::put_table(txn, key.value(), bytes.value())?;
        }
    }
    txn.delete_table(PACKED_2)?;
    each_seal(txn, |seal: Seal| seal)
}

/// Every key of a table, so that it can be changed while going through it.
fn keys<K: redb::Key + 'static, T>(
    table: &impl ReadableTable<K, Bytes>,
    own: impl Fn(K::SelfType<'_>) -> T,
) -> Result<Vec<T>, Failure> {
    table.iter()?.map(|entry| Ok(own(entry?.0.value()))).collect()
}

#[cfg(test)]
mod tests {
    use exeunt_protocol::message::BlobRef;
    use exeunt_protocol::{QueryId, RunId};
    use redb::Database;
    use serde::Serialize;

    use super::*;
    use crate::tables::{FORMAT_KEY, META};
    use crate::{FORMAT, RedbStore, Store, TokenOutcome};

    fn put<K: redb::Key + 'static, T: Serialize>(
        txn: &WriteTransaction,
        table: TableDefinition<'_, K, Bytes>,
        key: K::SelfType<'_>,
        value: &T,
    ) {
        let bytes = postcard::to_stdvec(value).unwrap();
        txn.open_table(table).unwrap().insert(key, bytes.as_slice()).unwrap();
    }

    #[test]
    fn a_store_of_the_second_format_opens_with_its_tables_in_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let (node, run): (_, RunId) = (NodeId::from_bytes([1; 16]), "r-1".parse().unwrap());
        let bytes: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
        let table = BlobRef::of(&bytes);
        drop(RedbStore::open(&path).unwrap());
        let database = Database::open(&path).unwrap();
        let txn = database.begin_write().unwrap();
        txn.open_table(META).unwrap().insert(FORMAT_KEY, 2).unwrap();
        let meta = ContributionMeta { dataset: DatasetVersion(1), table, stored_ms: 6 };
        put(&txn, CONTRIBUTIONS, ("r-1", 0, *node.as_bytes()), &meta);
        let key = ("r-1", 0, *node.as_bytes(), *table.digest.as_bytes());
        txn.open_table(PACKED_2).unwrap().insert(key, bytes.as_slice()).unwrap();
        let seal = Seal {
            cohort: vec![(node, DatasetVersion(1), table.digest)],
            declined: Vec::new(),
            merged: Some(bytes.clone()),
            cells: 3,
            digest: Some(table.digest),
            sealed_ms: 7,
            asked: Some(table.digest),
            reused: Some(QueryId(0)),
        };
        put(&txn, SEALS, ("r-1", 1), &seal);
        txn.commit().unwrap();
        drop(database);
        for _again in 0..2 {
            let store = RedbStore::open(&path).unwrap();
            assert_eq!(
                store.contribution(&run, QueryId(0), node, table.digest).unwrap(),
                Some(bytes.clone())
            );
            assert_eq!(store.seals(&run).unwrap(), [(QueryId(1), seal.clone())]);
        }
        let examined = crate::examine(&path).unwrap();
        assert_eq!(examined.format, FORMAT);
        // What the sum is of was made up.
        assert_eq!(examined.problems.len(), 1, "{:?}", examined.problems);
        assert!(examined.problems[0].contains("its sum cannot be read"), "{:?}", examined.problems);
    }

    #[test]
    fn a_store_of_the_first_format_opens_with_everything_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let (node, run): (_, RunId) = (NodeId::from_bytes([1; 16]), "r-1".parse().unwrap());
        let (secret, table) = (Digest::of(b"secret"), BlobRef::of(b"table"));
        let database = Database::create(&path).unwrap();
        let txn = database.begin_write().unwrap();
        txn.open_table(META).unwrap().insert(FORMAT_KEY, 1).unwrap();
        put(&txn, NODES, *node.as_bytes(), &("porch", 5_u64, true));
        put(&txn, TOKENS, *secret.as_bytes(), &("lab", 9_u64, Some(node)));
        let cohort = vec![(node, DatasetVersion(1), table.digest)];
        let declined = vec![(NodeId::from_bytes([2; 16]), "away")];
        put(
            &txn,
            SEALS,
            ("r-1", 0),
            &(cohort.clone(), declined, Some(b"sum".to_vec()), 3_u64, Some(table.digest), 7_u64),
        );
        let key = ("r-1", 0, *node.as_bytes());
        let meta = ContributionMeta { dataset: DatasetVersion(1), table, stored_ms: 6 };
        put(&txn, CONTRIBUTIONS, key, &meta);
        txn.open_table(PACKED_1).unwrap().insert(key, &b"table"[..]).unwrap();
        txn.commit().unwrap();
        drop(database);

        for _again in 0..2 {
            let mut store = RedbStore::open(&path).unwrap();
            let record = NodeRecord {
                name: "porch".to_owned(),
                enrolled_ms: 5,
                revoked: true,
                membership: Membership::Active,
            };
            assert_eq!(store.nodes().unwrap(), [(node, record)]);
            assert_eq!(store.use_token(secret, node, "porch", 6).unwrap(), TokenOutcome::Revoked);
            let (query, seal) = store.seals(&run).unwrap().pop().unwrap();
            assert_eq!((query, &seal.cohort, seal.sealed_ms, seal.asked), (QueryId(0), &cohort, 7, None));
            let kept = store.contribution(&run, QueryId(0), node, table.digest).unwrap();
            assert_eq!(kept, Some(b"table".to_vec()));
        }
        assert_eq!(crate::examine(&path).unwrap().format, FORMAT);
    }
}
