//! From the store's first format to this one.

use exeunt_protocol::message::Membership;
use exeunt_protocol::{DatasetVersion, NodeId};
use exeunt_stats::Digest;
use redb::{ReadableTable, TableDefinition, TableHandle as _, WriteTransaction};
use serde::Deserialize;

use crate::tables::{AnswerKey, Bytes, CONTRIBUTIONS, Failure, NODES, PACKED, SEALS, TOKENS, decode, encode};
use crate::{ContributionMeta, NodeRecord, Seal, TokenRecord};

/// Tables by node; a newer one took the place of what was counted.
pub(crate) const PACKED_1: TableDefinition<'_, AnswerKey, Bytes> = TableDefinition::new("packed");

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
        let old: Option<Node1> =
            nodes.get(key)?.map(|value| decode("nodes", key, value.value())).transpose()?;
        let Some(Node1 { name, enrolled_ms, revoked }) = old else { continue };
        let record = NodeRecord { name, enrolled_ms, revoked, membership: Membership::Active };
        nodes.insert(key, encode("nodes", &record)?.as_slice())?;
    }
    let mut tokens = txn.open_table(TOKENS)?;
    for key in keys(&tokens, |key| key)? {
        let old: Option<Token1> =
            tokens.get(key)?.map(|value| decode("tokens", key, value.value())).transpose()?;
        let Some(Token1 { label, expires_ms, used_by }) = old else { continue };
        let record = TokenRecord { label, expires_ms, used_by, approve: false };
        tokens.insert(key, encode("tokens", &record)?.as_slice())?;
    }
    let mut seals = txn.open_table(SEALS)?;
    for (run, query) in keys(&seals, |(run, query)| (run.to_owned(), query))? {
        let key = (run.as_str(), query);
        let old: Option<Seal1> =
            seals.get(key)?.map(|value| decode("seals", key, value.value())).transpose()?;
        let Some(Seal1 { cohort, declined, merged, cells, digest, sealed_ms }) = old else { continue };
        let seal = Seal { cohort, declined, merged, cells, digest, sealed_ms, asked: None, reused: None };
        seals.insert(key, encode("seals", &seal)?.as_slice())?;
    }
    tables(txn)
}

fn tables(txn: &WriteTransaction) -> Result<(), Failure> {
    if !txn.list_tables()?.any(|table| table.name() == PACKED_1.name()) {
        return Ok(());
    }
    {
        let (contributions, mut packed) = (txn.open_table(CONTRIBUTIONS)?, txn.open_table(PACKED)?);
        let old = txn.open_table(PACKED_1)?;
        for (run, query, node) in keys(&old, |(run, query, node)| (run.to_owned(), query, node))? {
            let key = (run.as_str(), query, node);
            let meta: Option<ContributionMeta> = contributions
                .get(key)?
                .map(|value| decode("contributions", key, value.value()))
                .transpose()?;
            if let (Some(meta), Some(bytes)) = (meta, old.get(key)?) {
                packed.insert((run.as_str(), query, node, *meta.table.digest.as_bytes()), bytes.value())?;
            }
        }
    }
    txn.delete_table(PACKED_1)?;
    Ok(())
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
