//! What must hold, whatever happens. The oracle sees what nodes computed, what the coordinator acknowledged, and what
//! it made durable; it never asks the coordinator what it thinks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use exeunt_protocol::message::Contribution;
use exeunt_protocol::{DatasetVersion, NodeId, PolicyVersion, QueryId, RunId};
use exeunt_stats::{Digest, Table, packed};
use exeunt_store::{Seal, Store, StoreError};

use super::samples::Samples;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub promise: Promise,
    /// What was seen.
    pub what: String,
    /// At which virtual millisecond.
    pub at_ms: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at {} ms): {}", self.promise, self.at_ms, self.what)
    }
}

/// What is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Promise {
    /// A merged table is the sum over the cohort that its seal names.
    Exact,
    /// What was acknowledged is still there.
    Durable,
    /// What was acknowledged in time is counted.
    Counted,
    /// Of one edition of a node's data, one answer is accepted.
    OneAnswer,
    /// What was sealed never changes.
    Sealed,
    /// Nobody who was shut out is listened to.
    ShutOut,
    /// A restart takes up what was, and the same follows from it.
    Restart,
    /// The coordinator goes on for as long as its disk does.
    Running,
    /// When faults end, every run ends.
    Liveness,
    /// When faults end, nodes infer with the policy that was set last.
    Policy,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exact => "a sum is not exact",
            Self::Durable => "something acknowledged is gone",
            Self::Counted => "something acknowledged was not counted",
            Self::OneAnswer => "two answers were accepted for one",
            Self::Sealed => "a seal has changed",
            Self::ShutOut => "a node that was shut out was listened to",
            Self::Restart => "a restart does not take up what was",
            Self::Running => "the coordinator has ended by itself",
            Self::Liveness => "something does not come to an end",
            Self::Policy => "a node infers with another policy than it should",
        })
    }
}

/// A node's answer to a query.
type Key = (RunId, QueryId, NodeId);

/// What was seen, and what follows from it.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// Everything that any node ever computed: the table, and the samples it was made of.
    answers: BTreeMap<(Key, Digest), (Table, usize)>,
    acknowledged: BTreeMap<Key, (DatasetVersion, Digest)>,
    seals: BTreeMap<(RunId, QueryId), Seal>,
    policies: BTreeSet<(RunId, PolicyVersion)>,
    /// Nodes that somebody decided to count no more.
    left_out: BTreeSet<NodeId>,
    stopped: BTreeSet<RunId>,
    enrolled: BTreeSet<NodeId>,
    revoked: BTreeSet<NodeId>,
    violations: Vec<Violation>,
    pub(crate) counts: Counts,
}

/// What there was to check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) acknowledged: u64,
    pub(crate) rejected: u64,
    pub(crate) seals: u64,
    pub(crate) withdrawn: u64,
}

impl Oracle {
    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(crate) fn blame(&mut self, at_ms: u64, promise: Promise, what: String) {
        self.violations.push(Violation { promise, what, at_ms });
    }

    /// A node has an answer.
    pub(crate) fn computed(&mut self, node: NodeId, of: &Contribution, table: Table, samples: usize) {
        let key = (of.run.clone(), of.query, node);
        self.answers.insert((key, of.table.digest), (table, samples));
    }

    /// The coordinator said that it has a contribution.
    pub(crate) fn acknowledged(&mut self, at_ms: u64, node: NodeId, of: &Contribution) {
        self.counts.acknowledged += 1;
        if self.revoked.contains(&node) {
            self.blame(at_ms, Promise::ShutOut, format!("{node} contributed to {} of {}", of.query, of.run));
        }
        let (version, digest) = (of.dataset, of.table.digest);
        let key = (of.run.clone(), of.query, node);
        match self.acknowledged.get(&key) {
            Some((known, other)) if *known == version && *other != digest => {
                let (query, run) = (of.query, &of.run);
                let what = format!("{other} and {digest} of edition {} to {query} of {run}", version.0);
                self.blame(at_ms, Promise::OneAnswer, what);
            }
            Some((known, _)) if *known > version => {
                let (query, run) = (of.query, &of.run);
                let what = format!("edition {} to {query} of {run} after {}", version.0, known.0);
                self.blame(at_ms, Promise::OneAnswer, what);
            }
            _ => {
                self.acknowledged.insert(key, (version, digest));
            }
        }
    }

    /// An operator was told that it is so.
    pub(crate) fn policy_set(&mut self, run: RunId, version: PolicyVersion) {
        self.policies.insert((run, version));
    }

    /// An operator is about to leave a node out: from then on it may be counted or not.
    pub(crate) fn leaves_out(&mut self, node: NodeId) {
        self.left_out.insert(node);
    }

    pub(crate) fn stopped(&mut self, run: RunId) {
        self.stopped.insert(run);
    }

    pub(crate) fn enrolled(&mut self, node: NodeId) {
        self.enrolled.insert(node);
    }

    pub(crate) fn revoked(&mut self, node: NodeId) {
        self.revoked.insert(node);
    }

    pub(crate) fn is_stopped(&self, run: &RunId) -> bool {
        self.stopped.contains(run)
    }

    pub(crate) fn is_enrolled(&self, node: NodeId) -> bool {
        self.enrolled.contains(&node)
    }

    pub(crate) fn is_revoked(&self, node: NodeId) -> bool {
        self.revoked.contains(&node)
    }

    /// A seal is durable. To be called before what was acknowledged in the same breath: only what was there before
    /// must have been counted.
    pub(crate) fn sealed(
        &mut self,
        at_ms: u64,
        place: impl Fn(NodeId) -> usize,
        samples: &Samples,
        (run, id, seal): (RunId, QueryId, Seal),
    ) {
        let name = format!("{id} of {run}");
        if let Some(known) = self.seals.get(&(run.clone(), id)) {
            if *known != seal {
                self.blame(at_ms, Promise::Sealed, format!("{name} was sealed again"));
            }
            return;
        }
        self.counts.seals += 1;
        if seal.merged.is_none() {
            self.counts.withdrawn += 1;
        } else if let Err((promise, what)) = self.check_sum(&run, id, &seal, place, samples) {
            self.blame(at_ms, promise, format!("{name}: {what}"));
        }
        self.seals.insert((run, id), seal);
    }

    fn check_sum(
        &self,
        run: &RunId,
        id: QueryId,
        seal: &Seal,
        place: impl Fn(NodeId) -> usize,
        samples: &Samples,
    ) -> Result<(), (Promise, String)> {
        let cells = usize::try_from(seal.cells).unwrap_or(usize::MAX);
        let merged = packed::decode(seal.merged.as_deref().unwrap_or_default(), cells);
        let merged = Table::from_cells(merged.map_err(|error| (Promise::Exact, error.to_string()))?);
        let mut total = Table::zeros(cells);
        let mut counted = Vec::new();
        for (node, version, digest) in &seal.cohort {
            let key = (run.clone(), seal.reused.unwrap_or(id), *node);
            let Some((table, held)) = self.answers.get(&(key, *digest)) else {
                return Err((Promise::Exact, format!("nobody computed the table {digest} of {node}")));
            };
            total
                .merge(table)
                .map_err(|error| (Promise::Exact, format!("edition {}: {error}", version.0)))?;
            counted.push((place(*node), *held));
        }
        // As the nodes understood it.
        if let Some(query) = seal.asked.and_then(|body| samples.known(body)) {
            samples.check_units(query, &merged, &counted).map_err(|what| (Promise::Exact, what))?;
        }
        if merged != total || seal.digest != Some(merged.digest()) {
            let cell =
                merged.cells().iter().zip(total.cells()).position(|(found, expected)| found != expected);
            let what = match cell {
                Some(cell) => {
                    let (found, expected) = (merged.cells()[cell], total.cells()[cell]);
                    format!("cell {cell} is {found}, expected {expected}")
                }
                None => "the digest is that of another table".to_owned(),
            };
            return Err((Promise::Exact, what));
        }
        let of_query =
            (run.clone(), id, NodeId::from_bytes([0; 16]))..=(run.clone(), id, NodeId::from_bytes([255; 16]));
        for ((.., node), (version, _)) in self.acknowledged.range(of_query) {
            let counted = seal.cohort.iter().any(|(member, of, _)| member == node && of >= version);
            if !counted && !self.left_out.contains(node) {
                let what = format!("edition {} of {node} was acknowledged before", version.0);
                return Err((Promise::Counted, what));
            }
        }
        Ok(())
    }

    /// Whether everything that was acknowledged is in the store.
    pub(crate) fn check_store(&mut self, at_ms: u64, store: &dyn Store) {
        let mut missing = Vec::new();
        if let Err(error) = self.find_missing(store, &mut missing) {
            self.blame(at_ms, Promise::Durable, format!("the store cannot be read: {error}"));
        }
        for what in missing {
            self.blame(at_ms, Promise::Durable, what);
        }
        let mut changed = Vec::new();
        let runs: BTreeSet<&RunId> = self.seals.keys().map(|(run, _)| run).collect();
        for run in runs {
            let found: BTreeMap<QueryId, Seal> = store.seals(run).unwrap_or_default().into_iter().collect();
            let known = self.seals.iter().filter(|((of, _), _)| of == run);
            let other = known.filter(|((_, query), seal)| found.get(query) != Some(seal));
            changed.extend(other.map(|((run, query), _)| format!("{query} of {run}")));
        }
        for what in changed {
            self.blame(at_ms, Promise::Sealed, what);
        }
    }

    fn find_missing(&self, store: &dyn Store, missing: &mut Vec<String>) -> Result<(), StoreError> {
        let mut stored = BTreeMap::new();
        let queries: BTreeSet<(&RunId, QueryId)> =
            self.acknowledged.keys().map(|(run, query, _)| (run, *query)).collect();
        for (run, query) in queries {
            for (node, meta) in store.contributions(run, query)? {
                stored.insert((run.clone(), query, node), (meta.dataset, meta.table.digest));
            }
        }
        for (key, (version, digest)) in &self.acknowledged {
            let (run, query, node) = key;
            let kept = match stored.get(key) {
                Some((found, of)) if found == version => of == digest,
                Some((found, _)) => found > version,
                None => false,
            };
            let intact = match stored.get(key) {
                Some((_, newest)) => store
                    .contribution(run, *query, *node, *newest)?
                    .is_some_and(|bytes| Digest::of(&bytes) == *newest),
                None => false,
            };
            if !(kept && intact) {
                let found = stored.get(key).map(|(version, digest)| (version.0, digest.short()));
                missing.push(format!(
                    "the answer of {node} to {query} of {run}: found {found:?}, expected edition {} ({})",
                    version.0,
                    digest.short()
                ));
            }
        }
        // What was counted stays, also when its node has sent newer data since.
        for ((run, query), seal) in &self.seals {
            for (node, _, digest) in &seal.cohort {
                let bytes = store.contribution(run, seal.reused.unwrap_or(*query), *node, *digest)?;
                if bytes.is_none_or(|bytes| Digest::of(&bytes) != *digest) {
                    missing
                        .push(format!("the table {} of {node}, counted in {query} of {run}", digest.short()));
                }
            }
        }
        for (run, version) in &self.policies {
            if !store.policies(run)?.iter().any(|(known, _)| known == version) {
                missing.push(format!("policy {} of {run}", version.0));
            }
        }
        let nodes: BTreeMap<NodeId, bool> =
            store.nodes()?.into_iter().map(|(node, record)| (node, record.revoked)).collect();
        missing.extend(
            self.enrolled.iter().filter(|node| !nodes.contains_key(node)).map(|n| format!("the node {n}")),
        );
        missing.extend(
            self.revoked
                .iter()
                .filter(|node| nodes.get(node) != Some(&true))
                .map(|n| format!("that {n} is shut out")),
        );
        Ok(())
    }
}
