//! The tables of the embedded database, and how values get in and out of them.

use redb::{
    CommitError, ReadableTable, SetDurabilityError, StorageError, TableDefinition, TableError,
    TransactionError, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::pieces::{PIECES, STAGED, TABLES};

pub(crate) type Bytes = &'static [u8];
/// A run, a query, a node.
pub(crate) type AnswerKey = (&'static str, u32, [u8; 16]);
/// A run, a query, a node, a table's digest.
pub(crate) type TableKey<'a> = (&'a str, u32, [u8; 16], [u8; 32]);

pub(crate) const META: TableDefinition<'_, &str, u32> = TableDefinition::new("meta");
pub(crate) const NODES: TableDefinition<'_, [u8; 16], Bytes> = TableDefinition::new("nodes");
pub(crate) const TOKENS: TableDefinition<'_, [u8; 32], Bytes> = TableDefinition::new("tokens");
pub(crate) const BLOBS: TableDefinition<'_, [u8; 32], Bytes> = TableDefinition::new("blobs");
pub(crate) const RUNS: TableDefinition<'_, &str, Bytes> = TableDefinition::new("runs");
pub(crate) const CONTRIBUTIONS: TableDefinition<'_, AnswerKey, Bytes> = TableDefinition::new("contributions");
pub(crate) const SEALS: TableDefinition<'_, (&str, u32), Bytes> = TableDefinition::new("seals");
pub(crate) const POLICIES: TableDefinition<'_, (&str, u32), Bytes> = TableDefinition::new("policies");
pub(crate) const NAMED: TableDefinition<'_, (&str, &str), Bytes> = TableDefinition::new("named-policies");
pub(crate) const TRAFFIC: TableDefinition<'_, AnswerKey, (u64, u64)> = TableDefinition::new("traffic");
pub(crate) const AUDIT: TableDefinition<'_, u64, Bytes> = TableDefinition::new("audit");

/// Key of the format's version in [`META`].
pub(crate) const FORMAT_KEY: &str = "format";

/// What went wrong inside a transaction; the store adds its path.
#[derive(Debug)]
pub(crate) enum Failure {
    Database(Box<redb::Error>),
    Value { table: &'static str, key: String, what: String },
    AlreadySealed { run: String, query: u32 },
    UnknownTable { table: String },
}

macro_rules! from_redb {
    ($($error:ty),+) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        })+
    };
}
from_redb!(TransactionError, TableError, StorageError, CommitError, SetDurabilityError);

/// Makes every table, so that readers always find them.
pub(crate) fn create_all(txn: &WriteTransaction) -> Result<(), Failure> {
    txn.open_table(NODES)?;
    txn.open_table(TOKENS)?;
    txn.open_table(BLOBS)?;
    txn.open_table(RUNS)?;
    txn.open_table(CONTRIBUTIONS)?;
    txn.open_table(TABLES)?;
    txn.open_table(PIECES)?;
    txn.open_table(STAGED)?;
    txn.open_table(SEALS)?;
    txn.open_table(POLICIES)?;
    txn.open_table(NAMED)?;
    txn.open_table(TRAFFIC)?;
    txn.open_table(AUDIT)?;
    Ok(())
}

pub(crate) fn encode<T: Serialize>(table: &'static str, value: &T) -> Result<Vec<u8>, Failure> {
    let wrong =
        |error: postcard::Error| Failure::Value { table, key: "new".to_owned(), what: error.to_string() };
    postcard::to_stdvec(value).map_err(wrong)
}

pub(crate) fn decode<T: DeserializeOwned>(
    table: &'static str,
    key: impl std::fmt::Debug,
    bytes: &[u8],
) -> Result<T, Failure> {
    let wrong = |what: String| Failure::Value { table, key: format!("{key:?}"), what };
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(wrong(format!("{} bytes too many", rest.len()))),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// The value under a key, if there is one.
pub(crate) fn look_up<'k, K, T>(
    table: &impl ReadableTable<K, Bytes>,
    name: &'static str,
    key: K::SelfType<'k>,
) -> Result<Option<T>, Failure>
where
    K: redb::Key + 'static,
    K::SelfType<'k>: Copy + std::fmt::Debug,
    T: DeserializeOwned,
{
    table.get(key)?.map(|value| decode(name, key, value.value())).transpose()
}

/// Number of the next line of the audit log.
pub(crate) fn next_line(audit: &impl ReadableTable<u64, Bytes>) -> Result<u64, Failure> {
    Ok(audit.last()?.map_or(0, |(number, _)| number.value() + 1))
}
