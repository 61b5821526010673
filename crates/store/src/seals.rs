//! Seals as they are stored: the sum in pieces, as tables are, and a record that says which.

use exeunt_protocol::{DatasetVersion, NodeId, QueryId};
use exeunt_stats::Digest;
use redb::{ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::Seal;
use crate::pieces::{self, PIECES, Stored};
use crate::tables::{Bytes, Failure, SEALS, encode};

/// A [`Seal`] without the bytes of its sum.
#[derive(Serialize, Deserialize)]
pub(crate) struct SealRecord {
    pub(crate) cohort: Vec<(NodeId, DatasetVersion, Digest)>,
    declined: Vec<(NodeId, String)>,
    pub(crate) sum: Option<Stored>,
    cells: u64,
    pub(crate) digest: Option<Digest>,
    sealed_ms: u64,
    asked: Option<Digest>,
    reused: Option<QueryId>,
}

/// Stores a seal in place of what is under its key, whose sum is not looked for.
pub(crate) fn put(txn: &WriteTransaction, key: (&str, u32), seal: &Seal) -> Result<(), Failure> {
    let sum = match &seal.merged {
        Some(merged) => Some(pieces::put(&mut txn.open_table(PIECES)?, merged)?),
        None => None,
    };
    let record = SealRecord {
        cohort: seal.cohort.clone(),
        declined: seal.declined.clone(),
        sum,
        cells: seal.cells,
        digest: seal.digest,
        sealed_ms: seal.sealed_ms,
        asked: seal.asked,
        reused: seal.reused,
    };
    txn.open_table(SEALS)?.insert(key, encode("seals", &record)?.as_slice())?;
    Ok(())
}

/// The seal that a record is of.
pub(crate) fn whole(
    record: SealRecord,
    pieces: &impl ReadableTable<(u64, u32), Bytes>,
) -> Result<Seal, Failure> {
    let SealRecord { cohort, declined, sum, cells, digest, sealed_ms, asked, reused } = record;
    let merged = sum.map(|sum| pieces::read(pieces, sum, 0, usize::MAX)).transpose()?;
    Ok(Seal { cohort, declined, merged, cells, digest, sealed_ms, asked, reused })
}
