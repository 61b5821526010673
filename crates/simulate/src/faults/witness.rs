//! Between the coordinator and its store: notes what was made durable, and can be told to break a promise, so that a
//! test can show that somebody notices.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

use exeunt_protocol::{DatasetVersion, NodeId, PolicyVersion, QueryId, RunId};
use exeunt_stats::{Digest, Table, packed};
use exeunt_store::{
    AuditEntry, ContributionMeta, NewContribution, NodeRecord, Packed, PutOutcome, RedbStore, Seal, StageId,
    Store, StoreError, TokenOutcome, TokenRecord, Traffic,
};

/// A promise that is broken on purpose. What a simulation does not notice it does not check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mutation {
    /// Contributions are acknowledged when they arrive and written with the next ones.
    AcknowledgeBeforeCommit,
    /// The first table of a cohort is added twice.
    CountTwice,
    /// The last table of a cohort is left out.
    CountOneLess,
    /// Another answer from the same edition of the data takes the place of the first.
    ReplaceOnConflict,
    /// An answer from an older edition takes the place of a newer one.
    ReplaceOnStale,
    /// A sync of the disk does nothing.
    NeverSync,
    /// Whoever waits is answered before the store is synced.
    AnswerBeforeSync,
    /// Policies are acknowledged and not written.
    ForgetPolicies,
    /// Whoever was shut out is back after a restart.
    ForgetRevocations,
    /// What is wanted is said to nodes when they connect, and never again.
    PublishOnce,
}

/// Seals that were made durable since somebody looked.
pub(crate) type Sealed = Arc<Mutex<Vec<(RunId, QueryId, Seal)>>>;

/// A store under observation.
#[derive(Debug)]
pub(crate) struct Witness {
    store: RefCell<RedbStore>,
    sealed: Sealed,
    /// Seals that are not synced yet.
    unsynced: Vec<(RunId, QueryId, Seal)>,
    mutation: Option<Mutation>,
    held: RefCell<Vec<(Held, u64)>>,
}

/// A contribution that was acknowledged too early.
#[derive(Debug)]
struct Held {
    run: RunId,
    query: QueryId,
    node: NodeId,
    dataset: DatasetVersion,
    table: exeunt_protocol::message::BlobRef,
    packed: Packed,
}

impl Held {
    fn of(new: &NewContribution<'_>, dataset: DatasetVersion) -> Self {
        let NewContribution { run, query, node, table, packed, .. } = *new;
        Self { run: run.clone(), query, node, dataset, table, packed: packed.clone() }
    }

    fn contribution(&self) -> NewContribution<'_> {
        NewContribution {
            run: &self.run,
            query: self.query,
            node: self.node,
            dataset: self.dataset,
            table: self.table,
            packed: &self.packed,
        }
    }
}

impl Witness {
    pub(crate) fn new(store: RedbStore, sealed: Sealed, mutation: Option<Mutation>) -> Self {
        Self { store: RefCell::new(store), sealed, unsynced: Vec::new(), mutation, held: RefCell::default() }
    }

    /// Writes what was acknowledged too early.
    fn release(&self) -> Result<(), StoreError> {
        for (held, at_ms) in self.held.take() {
            self.store.borrow_mut().put_contributions(&[held.contribution()], at_ms)?;
        }
        Ok(())
    }

    /// A contribution that was refused, whose bytes are at hand, is stored all the same, under an edition that wins.
    fn force(&self, new: &NewContribution<'_>, dataset: u64, now_ms: u64) -> Result<PutOutcome, StoreError> {
        let forced = Held::of(new, DatasetVersion(dataset + 1));
        let outcome = self.store.borrow_mut().put_contributions(&[forced.contribution()], now_ms)?;
        Ok(outcome.first().copied().unwrap_or(PutOutcome::Stored))
    }

    fn miscount(&self, run: &RunId, query: QueryId, seal: &Seal) -> Result<Seal, StoreError> {
        let member = match self.mutation {
            Some(Mutation::CountTwice) => seal.cohort.first(),
            Some(Mutation::CountOneLess) => seal.cohort.last(),
            _ => None,
        };
        let (Some((node, _, table)), Some(merged)) = (member, &seal.merged) else { return Ok(seal.clone()) };
        let cells = usize::try_from(seal.cells).unwrap_or(usize::MAX);
        let from = seal.reused.unwrap_or(query);
        let bytes = self.store.borrow().contribution(run, from, *node, *table)?.unwrap_or_default();
        let mut total = Table::from_cells(packed::decode(merged, cells).unwrap_or_default());
        let changed = match self.mutation {
            Some(Mutation::CountTwice) => total.merge_packed(&bytes),
            _ => total.subtract_packed(&bytes),
        };
        Ok(match changed {
            Ok(()) => Seal {
                merged: Some(packed::encode(total.cells())),
                digest: Some(total.digest()),
                ..seal.clone()
            },
            Err(_does_not_fit) => seal.clone(),
        })
    }
}

impl Store for Witness {
    fn sync(&mut self) -> Result<(), StoreError> {
        if self.mutation != Some(Mutation::AnswerBeforeSync) {
            self.store.borrow_mut().sync()?;
        }
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner).append(&mut self.unsynced);
        Ok(())
    }

    fn health(&self) -> Result<(), StoreError> {
        self.store.borrow().health()
    }

    fn nodes(&self) -> Result<Vec<(NodeId, NodeRecord)>, StoreError> {
        let mut nodes = self.store.borrow().nodes()?;
        if self.mutation == Some(Mutation::ForgetRevocations) {
            nodes.iter_mut().for_each(|(_, record)| record.revoked = false);
        }
        Ok(nodes)
    }

    fn save_node(&mut self, node: NodeId, record: &NodeRecord, now_ms: u64) -> Result<(), StoreError> {
        self.store.borrow_mut().save_node(node, record, now_ms)
    }

    fn add_token(&mut self, secret: Digest, token: &TokenRecord, now_ms: u64) -> Result<(), StoreError> {
        self.store.borrow_mut().add_token(secret, token, now_ms)
    }

    fn use_token(
        &mut self,
        secret: Digest,
        node: NodeId,
        name: &str,
        now_ms: u64,
    ) -> Result<TokenOutcome, StoreError> {
        self.store.borrow_mut().use_token(secret, node, name, now_ms)
    }

    fn put_blob(&mut self, digest: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        self.store.borrow_mut().put_blob(digest, bytes)
    }

    fn blob_len(&self, digest: Digest) -> Result<Option<u64>, StoreError> {
        self.store.borrow().blob_len(digest)
    }

    fn read_blob(&self, digest: Digest, offset: u64, limit: usize) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.borrow().read_blob(digest, offset, limit)
    }

    fn save_run(&mut self, run: &RunId, record: &[u8], now_ms: u64) -> Result<(), StoreError> {
        self.store.borrow_mut().save_run(run, record, now_ms)
    }

    fn run(&self, run: &RunId) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.borrow().run(run)
    }

    fn runs(&self) -> Result<Vec<(RunId, Vec<u8>)>, StoreError> {
        self.store.borrow().runs()
    }

    fn put_contributions(
        &mut self,
        contributions: &[NewContribution<'_>],
        now_ms: u64,
    ) -> Result<Vec<PutOutcome>, StoreError> {
        self.release()?;
        if self.mutation == Some(Mutation::AcknowledgeBeforeCommit) {
            let held = contributions.iter().map(|new| (Held::of(new, new.dataset), now_ms));
            self.held.borrow_mut().extend(held);
            return Ok(vec![PutOutcome::Stored; contributions.len()]);
        }
        let mut outcomes = self.store.borrow_mut().put_contributions(contributions, now_ms)?;
        for (new, outcome) in contributions.iter().zip(&mut outcomes) {
            match (self.mutation, *outcome) {
                // What was staged is not any more.
                _ if !matches!(new.packed, Packed::Whole(_)) => {}
                (Some(Mutation::ReplaceOnConflict), PutOutcome::Conflict { .. }) => {
                    *outcome = self.force(new, new.dataset.0, now_ms)?;
                }
                (Some(Mutation::ReplaceOnStale), PutOutcome::Stale { current }) => {
                    *outcome = self.force(new, current.0, now_ms)?;
                }
                _ => {}
            }
        }
        Ok(outcomes)
    }

    fn contributions(
        &self,
        run: &RunId,
        query: QueryId,
    ) -> Result<Vec<(NodeId, ContributionMeta)>, StoreError> {
        self.store.borrow().contributions(run, query)
    }

    fn stage(&mut self, under: Option<StageId>, bytes: &[u8]) -> Result<StageId, StoreError> {
        self.store.borrow_mut().stage(under, bytes)
    }

    fn discard(&mut self, staged: StageId) -> Result<(), StoreError> {
        self.store.borrow_mut().discard(staged)
    }

    fn has_contribution(
        &self,
        run: &RunId,
        query: QueryId,
        node: NodeId,
        table: Digest,
    ) -> Result<bool, StoreError> {
        self.release()?;
        self.store.borrow().has_contribution(run, query, node, table)
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
        self.release()?;
        self.store.borrow().read_contribution(run, query, node, table, offset, limit)
    }

    fn put_seal(&mut self, run: &RunId, query: QueryId, seal: &Seal) -> Result<(), StoreError> {
        let seal = self.miscount(run, query, seal)?;
        self.store.borrow_mut().put_seal(run, query, &seal)?;
        self.unsynced.push((run.clone(), query, seal));
        Ok(())
    }

    fn seals(&self, run: &RunId) -> Result<Vec<(QueryId, Seal)>, StoreError> {
        self.store.borrow().seals(run)
    }

    fn save_policy(
        &mut self,
        run: &RunId,
        version: PolicyVersion,
        policy: &[u8],
        now_ms: u64,
    ) -> Result<(), StoreError> {
        if self.mutation == Some(Mutation::ForgetPolicies) {
            return Ok(());
        }
        self.store.borrow_mut().save_policy(run, version, policy, now_ms)
    }

    fn policies(&self, run: &RunId) -> Result<Vec<(PolicyVersion, Vec<u8>)>, StoreError> {
        self.store.borrow().policies(run)
    }

    fn name_policy(
        &mut self,
        run: &RunId,
        name: &str,
        policy: Option<&[u8]>,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        self.store.borrow_mut().name_policy(run, name, policy, now_ms)
    }

    fn named_policies(&self, run: &RunId) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.store.borrow().named_policies(run)
    }

    fn add_traffic(&mut self, traffic: &[((RunId, QueryId, NodeId), Traffic)]) -> Result<(), StoreError> {
        self.store.borrow_mut().add_traffic(traffic)
    }

    fn traffic(&self, run: &RunId) -> Result<Vec<(QueryId, NodeId, Traffic)>, StoreError> {
        self.store.borrow().traffic(run)
    }

    fn append_audit(&mut self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        self.store.borrow_mut().append_audit(entries)
    }

    fn audit(&self, from: u64, limit: usize) -> Result<Vec<(u64, AuditEntry)>, StoreError> {
        self.store.borrow().audit(from, limit)
    }

    fn audit_of(
        &self,
        node: NodeId,
        limit: usize,
        among: usize,
    ) -> Result<Vec<(u64, AuditEntry)>, StoreError> {
        self.store.borrow().audit_of(node, limit, among)
    }
}
