//! Adding up what a query brought, and storing the sum.

use exeunt_protocol::coordinator::{Input, Now};
use exeunt_protocol::message::Refusal;
use exeunt_protocol::{DatasetVersion, NodeId, QueryId, RunId};
use exeunt_stats::packed::{self, Decoder, PackedMergeError};
use exeunt_stats::{Digest, Hasher, Table, TableError};
use exeunt_store::{STAGE, Seal};

use crate::core::{Core, CoreError};

/// A query that is being sealed.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) run: RunId,
    pub(crate) query: QueryId,
    pub(crate) body: Digest,
}

impl Core {
    /// Adds up the cohort's tables, a part of one at a time beyond the running sum, and stores the result.
    pub(crate) fn seal(
        &mut self,
        now: Now,
        Question { run, query, body }: Question,
        cohort: Vec<(NodeId, DatasetVersion, Digest)>,
        declined: Vec<(NodeId, Refusal)>,
        cells: Option<usize>,
    ) -> Result<(), CoreError> {
        let merged = match cells.map(|cells| self.merge(&run, query, &cohort, cells)).transpose()? {
            Some(Err(why)) => {
                self.machine.handle(now, Input::NotSealed { run, query, why });
                return Ok(());
            }
            Some(Ok(merged)) => Some(merged),
            None => None,
        };
        let seal = Seal {
            cohort,
            declined: declined.into_iter().map(|(node, why)| (node, why.to_string())).collect(),
            merged: merged.as_ref().map(|table| packed::encode(table.cells())),
            cells: cells.unwrap_or(0) as u64,
            digest: merged.as_ref().map(Table::digest),
            sealed_ms: now.unix_ms,
            asked: Some(body),
            reused: None,
        };
        self.store.put_seal(&run, query, &seal)?;
        self.machine.handle(now, Input::Sealed { run, query, merged });
        Ok(())
    }

    /// Seals a query with the sum that an earlier one had, less the tables of whoever is not counted any more.
    pub(crate) fn reseal(
        &mut self,
        now: Now,
        Question { run, query, body }: Question,
        from: QueryId,
        counted: &[NodeId],
        declined: Vec<(NodeId, String)>,
        cells: usize,
    ) -> Result<(), CoreError> {
        let corrupt = |why: String| CoreError::Corrupt { what: format!("the sum of {from} of '{run}'"), why };
        let sealed = self.store.seals(&run)?.into_iter().find(|(id, _)| *id == from);
        let (_, before) = sealed.ok_or_else(|| corrupt("it is gone".to_owned()))?;
        let bytes = before.merged.as_ref().ok_or_else(|| corrupt("it was withdrawn".to_owned()))?;
        let merged = packed::decode(bytes, cells).map_err(|error| corrupt(error.to_string()))?;
        let mut merged = Table::from_cells(merged);
        let origin = before.reused.unwrap_or(from);
        let (cohort, gone): (Vec<_>, Vec<_>) =
            before.cohort.into_iter().partition(|(node, ..)| counted.contains(node));
        for (node, _, digest) in &gone {
            let mut decoder = Decoder::new(cells);
            let each = |part: &[u8]| decoder.subtract(part, &mut merged);
            match self.parts(&run, origin, *node, *digest, each)?.and_then(|()| Ok(decoder.finish()?)) {
                Ok(()) => {}
                // The others' numbers had a sum with this one alone.
                Err(PackedMergeError::Table(error @ TableError::Overflow { cell })) => {
                    tracing::warn!("without the contribution of {node} to {origin} of '{run}': {error}");
                    let why = self.to_blame(&run, origin, &cohort, (cells, cell))?;
                    self.machine.handle(now, Input::NotSealed { run, query, why });
                    return Ok(());
                }
                Err(error) => return Err(bad_contribution(&run, origin, *node, error.to_string())),
            }
        }
        let seal = Seal {
            cohort,
            declined,
            merged: Some(packed::encode(merged.cells())),
            cells: cells as u64,
            digest: Some(merged.digest()),
            sealed_ms: now.unix_ms,
            asked: Some(body),
            reused: Some(origin),
        };
        self.store.put_seal(&run, query, &seal)?;
        self.machine.handle(now, Input::Sealed { run, query, merged: Some(merged) });
        Ok(())
    }

    /// Hands on a table that was counted part by part, as it is stored, which is as it travelled. What `each` says ends it.
    fn parts(
        &self,
        run: &RunId,
        query: QueryId,
        node: NodeId,
        digest: Digest,
        mut each: impl FnMut(&[u8]) -> Result<(), PackedMergeError>,
    ) -> Result<Result<(), PackedMergeError>, CoreError> {
        let corrupt = |why: String| bad_contribution(run, query, node, why);
        let (mut hasher, mut offset) = (Hasher::default(), 0);
        loop {
            let part = self.store.read_contribution(run, query, node, digest, offset, STAGE)?;
            let part = part.ok_or_else(|| corrupt("it is gone".to_owned()))?;
            if part.is_empty() {
                break;
            }
            offset += part.len() as u64;
            hasher.update(&part);
            if let Err(error) = each(&part) {
                return Ok(Err(error));
            }
        }
        let found = hasher.digest();
        if found != digest {
            return Err(corrupt(format!("found digest {found}, expected {digest}")));
        }
        Ok(Ok(()))
    }

    /// The sum of the cohort's tables. Numbers that have none are a node's fault and not the store's: that is an answer, in
    /// words, that ends the run and not the coordinator.
    fn merge(
        &self,
        run: &RunId,
        query: QueryId,
        cohort: &[(NodeId, DatasetVersion, Digest)],
        cells: usize,
    ) -> Result<Result<Table, String>, CoreError> {
        let mut total = Table::zeros(cells);
        for (node, _, digest) in cohort {
            let mut decoder = Decoder::new(cells);
            let each = |part: &[u8]| decoder.merge(part, &mut total);
            match self.parts(run, query, *node, *digest, each)?.and_then(|()| Ok(decoder.finish()?)) {
                Ok(()) => {}
                Err(PackedMergeError::Table(TableError::Overflow { cell })) => {
                    return Ok(Err(self.to_blame(run, query, cohort, (cells, cell))?));
                }
                Err(error) => return Err(bad_contribution(run, query, *node, error.to_string())),
            }
        }
        Ok(Ok(total))
    }

    /// Whose number in a cell that overflows is the largest.
    fn to_blame(
        &self,
        run: &RunId,
        query: QueryId,
        cohort: &[(NodeId, DatasetVersion, Digest)],
        (cells, cell): (usize, usize),
    ) -> Result<String, CoreError> {
        let mut largest: Option<(i64, NodeId)> = None;
        for (node, _, digest) in cohort {
            let (mut decoder, mut found) = (Decoder::new(cells), 0);
            let each = |part: &[u8]| {
                decoder.push(part, |first, block| {
                    found = cell.checked_sub(first).and_then(|at| block.get(at)).copied().unwrap_or(found);
                    Ok(())
                })
            };
            let read = self.parts(run, query, *node, *digest, each)?;
            read.map_err(|error| bad_contribution(run, query, *node, error.to_string()))?;
            if largest.is_none_or(|(most, _)| found.unsigned_abs() > most.unsigned_abs()) {
                largest = Some((found, *node));
            }
        }
        let (found, node) = largest.map_or((0, String::new()), |(found, node)| (found, node.to_string()));
        Ok(format!(
            "the answers to {query} do not add up: cell {cell} overflows, and node {node} says {found} there; \
             `exeunt run remove` takes its contribution out"
        ))
    }
}

fn bad_contribution(run: &RunId, query: QueryId, node: NodeId, why: String) -> CoreError {
    CoreError::Corrupt { what: format!("the contribution of {node} to {query} of '{run}'"), why }
}
