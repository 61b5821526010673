//! What must survive: nodes, tokens, blobs, runs, contributions, seals, policies, traffic and the audit log.
//!
//! [`Store`] is what the coordinator needs, in terms that an object store can offer too: small records, content named
//! by its hash, contributions that are put once and replaced only by a higher dataset version, and seals that never
//! change, with the tables they count. [`RedbStore`] is the embedded implementation: every call that changes something is
//! one transaction, together with its line in the audit log. It is seen at once and is on the disk when [`Store::sync`]
//! returns, which makes everything durable that was changed since the last time (two-phase commit): many changes cost no
//! more than one. A crash undoes what was changed since, closing the store in order does not.
//!
//! Deliberately not here: what a table means, when a query closes, any clock. Time is passed in as milliseconds since
//! 1970.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod contributions;
mod copy;
mod error;
mod examine;
#[cfg(any(test, feature = "conformance"))]
pub mod failing;
mod migrate;
mod pieces;
mod records;
mod redb_store;
mod seals;
mod tables;
mod unsynced;

pub use copy::{Snapshot, Snapshots, in_use};
pub use error::StoreError;
pub use examine::{Examined, examine};
pub use records::{
    AuditEntry, ContributionMeta, NewContribution, NodeRecord, Packed, PutOutcome, Seal, StageId,
    TokenOutcome, TokenRecord, Traffic,
};
pub use redb_store::RedbStore;

/// What [`RedbStore::on`] needs of a disk.
pub use redb::StorageBackend;

use exeunt_protocol::{NodeId, PolicyVersion, QueryId, RunId};
use exeunt_stats::Digest;

/// Version of the store's format that this build writes.
pub const FORMAT: u32 = 3;

/// Bytes that are best staged at a time: whole pieces, as the embedded store keeps them.
pub const STAGE: usize = 16 * pieces::PIECE;

/// Durable state of one federation. Nobody may hear of a change before [`Store::sync`] has returned after it.
///
/// # Errors
/// All methods: [`StoreError`], when the disk or a stored value is at fault; the state is then as before the call, or after
/// [`Store::sync`] one of those since the last.
pub trait Store: Send + std::fmt::Debug {
    /// Returns when everything that was changed before is on the disk.
    fn sync(&mut self) -> Result<(), StoreError>;

    /// Whether it can still be relied on. A store whose disk has failed once may refuse everything from then on, also
    /// when the disk has recovered: whoever owns it must end, and open it again.
    ///
    /// # Errors
    /// [`StoreError::Broken`].
    fn health(&self) -> Result<(), StoreError>;

    /// Every node that ever enrolled, by id.
    fn nodes(&self) -> Result<Vec<(NodeId, NodeRecord)>, StoreError>;

    /// Adds a node or changes what is known of it.
    fn save_node(&mut self, node: NodeId, record: &NodeRecord, now_ms: u64) -> Result<(), StoreError>;

    /// Adds a join token, named by the digest of its secret. Adding one that is there changes nothing: what was spent
    /// stays spent.
    fn add_token(&mut self, secret: Digest, token: &TokenRecord, now_ms: u64) -> Result<(), StoreError>;

    /// Spends a token for a node and enrols it, exactly once, in one transaction. The node that spent it may do so
    /// again: then its answer had been lost.
    fn use_token(
        &mut self,
        secret: Digest,
        node: NodeId,
        name: &str,
        now_ms: u64,
    ) -> Result<TokenOutcome, StoreError>;

    /// Keeps bytes under their digest. Putting the same again changes nothing.
    fn put_blob(&mut self, digest: Digest, bytes: &[u8]) -> Result<(), StoreError>;

    /// Length of a blob, if it is there.
    fn blob_len(&self, digest: Digest) -> Result<Option<u64>, StoreError>;

    /// At most `limit` bytes of a blob from `offset` on; `None` if there is no such blob.
    fn read_blob(&self, digest: Digest, offset: u64, limit: usize) -> Result<Option<Vec<u8>>, StoreError>;

    /// Adds a run or changes its record, which is the caller's to encode.
    fn save_run(&mut self, run: &RunId, record: &[u8], now_ms: u64) -> Result<(), StoreError>;

    /// A run's record, if it is there.
    fn run(&self, run: &RunId) -> Result<Option<Vec<u8>>, StoreError>;

    /// Every run's record, by id.
    fn runs(&self) -> Result<Vec<(RunId, Vec<u8>)>, StoreError>;

    /// Stores contributions in one transaction. The outcomes are in the order of the contributions.
    fn put_contributions(
        &mut self,
        contributions: &[NewContribution<'_>],
        now_ms: u64,
    ) -> Result<Vec<PutOutcome>, StoreError>;

    /// Who contributed to a query, by node, without the tables.
    fn contributions(
        &self,
        run: &RunId,
        query: QueryId,
    ) -> Result<Vec<(NodeId, ContributionMeta)>, StoreError>;

    /// Keeps the next bytes of a packed table whose contribution is to follow: after those that are kept `under` that
    /// number, or the first ones under a new number. They need not be synced before the contribution is, and are gone when
    /// the store is opened again.
    fn stage(&mut self, under: Option<StageId>, bytes: &[u8]) -> Result<StageId, StoreError>;

    /// Forgets staged bytes whose contribution will not come. What a contribution took up is not staged any more.
    fn discard(&mut self, staged: StageId) -> Result<(), StoreError>;

    /// Whether a packed table is there: see [`Store::read_contribution`].
    fn has_contribution(
        &self,
        run: &RunId,
        query: QueryId,
        node: NodeId,
        table: Digest,
    ) -> Result<bool, StoreError>;

    /// At most `limit` bytes from `offset` on of a contribution's packed table, by its digest: the node's newest, or an
    /// older one that was counted in a seal. `None` if there is no such table.
    fn read_contribution(
        &self,
        run: &RunId,
        query: QueryId,
        node: NodeId,
        table: Digest,
        offset: u64,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, StoreError>;

    /// The whole of a contribution's packed table: see [`Store::read_contribution`].
    fn contribution(
        &self,
        run: &RunId,
        query: QueryId,
        node: NodeId,
        table: Digest,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.read_contribution(run, query, node, table, 0, usize::MAX)
    }

    /// Closes a query for good. The same seal again changes nothing; another one is an error.
    fn put_seal(&mut self, run: &RunId, query: QueryId, seal: &Seal) -> Result<(), StoreError>;

    /// Every seal of a run, in the order of the queries.
    fn seals(&self, run: &RunId) -> Result<Vec<(QueryId, Seal)>, StoreError>;

    /// Remembers a policy, encoded by the caller.
    fn save_policy(
        &mut self,
        run: &RunId,
        version: PolicyVersion,
        policy: &[u8],
        now_ms: u64,
    ) -> Result<(), StoreError>;

    /// Every policy of a run, in the order of the versions.
    fn policies(&self, run: &RunId) -> Result<Vec<(PolicyVersion, Vec<u8>)>, StoreError>;

    /// Keeps a policy, encoded by the caller, under a name in place of what had that name; without a policy, forgets the
    /// name.
    fn name_policy(
        &mut self,
        run: &RunId,
        name: &str,
        policy: Option<&[u8]>,
        now_ms: u64,
    ) -> Result<(), StoreError>;

    /// Every policy of a run that has a name, by name.
    fn named_policies(&self, run: &RunId) -> Result<Vec<(String, Vec<u8>)>, StoreError>;

    /// Adds to the byte counts of queries and nodes.
    fn add_traffic(&mut self, traffic: &[((RunId, QueryId, NodeId), Traffic)]) -> Result<(), StoreError>;

    /// Byte counts of a run.
    fn traffic(&self, run: &RunId) -> Result<Vec<(QueryId, NodeId, Traffic)>, StoreError>;

    /// Adds lines to the audit log.
    fn append_audit(&mut self, entries: &[AuditEntry]) -> Result<(), StoreError>;

    /// Lines of the audit log from number `from` on, at most `limit`, with their numbers.
    fn audit(&self, from: u64, limit: usize) -> Result<Vec<(u64, AuditEntry)>, StoreError>;

    /// Last lines of the audit log about a node, at most `limit` of those among the last `among`, oldest first.
    fn audit_of(
        &self,
        node: NodeId,
        limit: usize,
        among: usize,
    ) -> Result<Vec<(u64, AuditEntry)>, StoreError>;
}
