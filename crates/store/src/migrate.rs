//! From the store's first format to this one.

use exeunt_protocol::message::Membership;
use exeunt_protocol::{DatasetVersion, NodeId};
use exeunt_stats::Digest;
use redb::{ReadableTable, TableDefinition, TableHandle as _, WriteTransaction};
use serde::Deserialize;

use crate::tables::{AnswerKey, Bytes, CONTRIBUTIONS, Failure, NODES, PACKED, SEALS, TOKENS, decode, encode};
use crate::{ContributionMeta, NodeRecord, Seal, TokenRecord};

/// Tables by node; a newer one took the place of what was counted.
const PACKED_1: TableDefinition<'_, AnswerKey, Bytes> = TableDefinition::new("packed");

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
