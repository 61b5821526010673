//! Who takes part: decisions of the operator about nodes, stored before the machine hears of them.

use exeunt_link::limits::MAX_NAME;
use exeunt_protocol::NodeId;
use exeunt_protocol::coordinator::{Input, Now};
use exeunt_protocol::message::Membership;
use exeunt_stats::Digest;
use exeunt_store::{NodeRecord, StoreError, TokenOutcome};

use crate::core::{Core, CoreError};

/// Why a decision about a node was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    /// No node has this id.
    #[error("there is no node {node}")]
    Unknown {
        /// What was asked for.
        node: NodeId,
    },
    /// It was shut out for good; only a new token lets it in again.
    #[error("node '{name}' was revoked; it can join again with a new token")]
    Revoked {
        /// Its name.
        name: String,
    },
    /// The decision does not fit what the node is.
    #[error("node '{name}' is {found}, expected one that is {expected}")]
    Standing {
        /// Its name.
        name: String,
        /// What it is.
        found: &'static str,
        /// What the decision is for.
        expected: &'static str,
    },
    /// Not a name.
    #[error("'{found}' is not a name: expected 1 to {MAX_NAME} characters without control characters")]
    Name {
        /// What was given.
        found: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Core {
    /// Spends a token for a node and lets it in as the token says.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn enrol(
        &mut self,
        now: Now,
        secret: Digest,
        node: NodeId,
        name: &str,
    ) -> Result<TokenOutcome, StoreError> {
        let outcome = self.store.use_token(secret, node, name, now.unix_ms)?;
        if outcome == TokenOutcome::Enrolled
            && let Some(record) = self.record(node)?
        {
            self.handle(now, Input::Enrolled { node, name: record.name });
            self.handle(now, Input::Member { node, membership: record.membership });
        }
        Ok(outcome)
    }

    /// Lets a node take part that waits for it.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub fn approve(&mut self, now: Now, node: NodeId) -> Result<(), MemberError> {
        self.change(now, node, Membership::Pending, Membership::Active)
    }

    /// Asks a node nothing more, and counts nothing new of it.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub fn quarantine(&mut self, now: Now, node: NodeId) -> Result<(), MemberError> {
        self.change(now, node, Membership::Active, Membership::Quarantined)
    }

    /// Lets a quarantined node take part again.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub fn release(&mut self, now: Now, node: NodeId) -> Result<(), MemberError> {
        self.change(now, node, Membership::Quarantined, Membership::Active)
    }

    /// Calls a node something else.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub fn rename(&mut self, now: Now, node: NodeId, name: &str) -> Result<(), MemberError> {
        let name = name.trim();
        if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(MemberError::Name { found: name.chars().take(80).collect() });
        }
        let before = self.known(node)?;
        let record = NodeRecord { name: name.to_owned(), ..before.clone() };
        self.store.save_node(node, &record, now.unix_ms)?;
        self.note(now, node, format!("'{}' is called '{name}' now", before.name))?;
        self.handle(now, Input::Enrolled { node, name: name.to_owned() });
        Ok(())
    }

    /// Shuts a node out for good.
    ///
    /// # Errors
    /// See [`MemberError`].
    pub fn revoke(&mut self, now: Now, node: NodeId) -> Result<(), MemberError> {
        let record = self.record(node)?.ok_or(MemberError::Unknown { node })?;
        self.store.save_node(node, &NodeRecord { revoked: true, ..record }, now.unix_ms)?;
        self.handle(now, Input::Revoked { node });
        Ok(())
    }

    fn change(
        &mut self,
        now: Now,
        node: NodeId,
        from: Membership,
        to: Membership,
    ) -> Result<(), MemberError> {
        let record = self.known(node)?;
        if record.membership != from {
            let (found, expected) = (record.membership.name(), from.name());
            return Err(MemberError::Standing { name: record.name, found, expected });
        }
        self.store.save_node(node, &NodeRecord { membership: to, ..record }, now.unix_ms)?;
        self.handle(now, Input::Member { node, membership: to });
        Ok(())
    }

    /// A node that is let in.
    fn known(&self, node: NodeId) -> Result<NodeRecord, MemberError> {
        match self.record(node)? {
            None => Err(MemberError::Unknown { node }),
            Some(record) if record.revoked => Err(MemberError::Revoked { name: record.name }),
            Some(record) => Ok(record),
        }
    }

    fn record(&self, node: NodeId) -> Result<Option<NodeRecord>, StoreError> {
        Ok(self.store.nodes()?.into_iter().find(|(known, _)| *known == node).map(|(_, record)| record))
    }

    fn note(&mut self, now: Now, node: NodeId, text: String) -> Result<(), StoreError> {
        let entry = exeunt_store::AuditEntry { at_ms: now.unix_ms, run: None, node: Some(node), text };
        self.store.append_audit(&[entry])
    }
}

impl From<MemberError> for CoreError {
    fn from(error: MemberError) -> Self {
        match error {
            MemberError::Store(error) => Self::Store(error),
            other => Self::Member(other),
        }
    }
}
