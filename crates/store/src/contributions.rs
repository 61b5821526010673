//! Contributions: put once, replaced by newer data, and kept where they were counted.

use exeunt_protocol::{NodeId, QueryId, RunId};
use exeunt_stats::Digest;
use redb::{ReadableTable, TableHandle as _, WriteTransaction};

use crate::pieces::{self, TABLES};
use crate::redb_store::log;
use crate::seals::SealRecord;
use crate::tables::{CONTRIBUTIONS, Failure, SEALS, TableKey, encode, look_up};
use crate::{ContributionMeta, NewContribution, Packed, PutOutcome};

/// Stores contributions where they win. The outcomes are in their order.
pub(crate) fn put_all(
    txn: &WriteTransaction,
    contributions: &[NewContribution<'_>],
    now_ms: u64,
) -> Result<Vec<PutOutcome>, Failure> {
    let mut replaced = Vec::new();
    let mut put = |new| put_one(txn, new, now_ms, &mut replaced);
    let outcomes = contributions.iter().map(&mut put).collect::<Result<_, _>>()?;
    // At the end: one of them may have brought back what another replaced.
    for (new, old) in replaced {
        remove_unless_needed(txn, new, old)?;
    }
    Ok(outcomes)
}

/// What becomes of a contribution beside the one that is stored under its key.
fn compared(stored: Option<&ContributionMeta>, new: &NewContribution<'_>) -> PutOutcome {
    match stored {
        None => PutOutcome::Stored,
        Some(old) if old.dataset == new.dataset && old.table == new.table => PutOutcome::Duplicate,
        Some(old) if old.dataset == new.dataset => PutOutcome::Conflict { expected: old.table.digest },
        Some(old) if old.dataset > new.dataset => PutOutcome::Stale { current: old.dataset },
        Some(old) => PutOutcome::Replaced { previous: old.dataset },
    }
}

/// Compares a contribution with what is stored under its key, and stores it where it wins. Notes the table whose place it
/// took.
fn put_one<'a>(
    txn: &WriteTransaction,
    new: &'a NewContribution<'a>,
    now_ms: u64,
    replaced: &mut Vec<(&'a NewContribution<'a>, Digest)>,
) -> Result<PutOutcome, Failure> {
    let mut contributions = txn.open_table(CONTRIBUTIONS)?;
    let key = (new.run.as_str(), new.query.0, *new.node.as_bytes());
    let stored: Option<ContributionMeta> = look_up(&contributions, "contributions", key)?;
    let outcome = compared(stored.as_ref(), new);
    if !matches!(outcome, PutOutcome::Stored | PutOutcome::Replaced { .. }) {
        if let Packed::Staged(staged) = new.packed {
            pieces::discard(txn, *staged)?;
        }
        return Ok(outcome);
    }
    let meta = ContributionMeta { dataset: new.dataset, table: new.table, stored_ms: now_ms };
    contributions.insert(key, encode("contributions", &meta)?.as_slice())?;
    let of = |table: Digest| table_key(new.run, new.query, new.node, table);
    match new.packed {
        Packed::Whole(bytes) if bytes.len() as u64 != new.table.bytes => {
            let (key, found) = (format!("{:?}", of(new.table.digest)), bytes.len());
            let what = format!("{found} bytes, expected {}", new.table.bytes);
            return Err(Failure::Value { table: TABLES.name(), key, what });
        }
        Packed::Whole(bytes) => pieces::put_table(txn, of(new.table.digest), bytes)?,
        Packed::Staged(staged) => pieces::take_up(txn, of(new.table.digest), *staged, &new.table)?,
        Packed::Kept if txn.open_table(TABLES)?.get(of(new.table.digest))?.is_some() => {}
        Packed::Kept => {
            let key = format!("{:?}", of(new.table.digest));
            return Err(Failure::Value { table: TABLES.name(), key, what: "it is not there".to_owned() });
        }
    }
    replaced.extend(stored.map(|old| (new, old.table.digest)));
    let text = match outcome {
        PutOutcome::Replaced { previous } => {
            let (from, to) = (previous.0, new.dataset.0);
            format!(
                "contribution to {} replaced: data edition {from} by {to}, table {}",
                new.query, new.table.digest
            )
        }
        _ => format!(
            "contribution to {} stored: {} bytes, table {}",
            new.query, new.table.bytes, new.table.digest
        ),
    };
    log(txn, now_ms, Some(new.run), Some(new.node), text)?;
    Ok(outcome)
}

/// Removes a table that `by` took the place of, unless it was counted or is the node's newest again.
fn remove_unless_needed(
    txn: &WriteTransaction,
    by: &NewContribution<'_>,
    table: Digest,
) -> Result<(), Failure> {
    let key = (by.run.as_str(), by.query.0, *by.node.as_bytes());
    let newest: Option<ContributionMeta> = look_up(&txn.open_table(CONTRIBUTIONS)?, "contributions", key)?;
    if newest.is_some_and(|newest| newest.table.digest == table) || is_counted(txn, by, table)? {
        return Ok(());
    }
    pieces::remove_table(txn, table_key(by.run, by.query, by.node, table))
}

/// Whether a table of the same node is in the seal of the query that `new` answers.
fn is_counted(txn: &WriteTransaction, new: &NewContribution<'_>, table: Digest) -> Result<bool, Failure> {
    let key = (new.run.as_str(), new.query.0);
    let seal: Option<SealRecord> = look_up(&txn.open_table(SEALS)?, "seals", key)?;
    let counted =
        |seal: SealRecord| seal.cohort.iter().any(|(node, _, digest)| *node == new.node && *digest == table);
    Ok(seal.is_some_and(counted))
}

pub(crate) fn table_key(run: &RunId, query: QueryId, node: NodeId, table: Digest) -> TableKey<'_> {
    (run.as_str(), query.0, *node.as_bytes(), *table.as_bytes())
}
