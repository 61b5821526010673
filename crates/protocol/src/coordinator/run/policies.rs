//! Policies of a run: chosen, put in force, measured, and chosen anew when a contribution is removed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use exeunt_exits::{ChooseError, Part, Policy, PolicyRequest};
use serde::{Deserialize, Serialize};

use super::{Phase, RunState};
use crate::coordinator::{Now, Output, RunError};
use crate::ids::{NodeId, PolicyVersion};
use crate::message::{BlobRef, DesiredPolicy};

/// A policy that was put in force, or only tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyRecord {
    /// Its version.
    pub version: PolicyVersion,
    /// The policy.
    pub policy: Policy,
    /// The wish it came from, for people.
    pub asked: String,
    /// When, in milliseconds since 1970.
    pub set_at_ms: u64,
    /// Whether it was only to be measured.
    #[serde(default)]
    pub purpose: Purpose,
    /// The node it was set for alone; none where it is the fleet's.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// Whether it was set for one node and taken back.
    #[serde(default)]
    pub cleared: bool,
    /// The wish it came from, so that it can be chosen again with another snapshot.
    #[serde(default)]
    pub wish: Option<PolicyRequest>,
    /// The snapshot it decides with.
    #[serde(default)]
    pub heads: Option<BlobRef>,
    /// How many contributions had been removed from the run when it was chosen.
    #[serde(default)]
    pub generation: usize,
}

impl PolicyRecord {
    /// Whether it was put in force, and not taken back.
    fn is_forced(&self) -> bool {
        self.purpose == Purpose::Force && !self.cleared
    }

    /// Of all policies of a run, the fleet's and those of nodes that have their own.
    pub(in crate::coordinator) fn in_force(policies: &[Self]) -> BTreeMap<Option<NodeId>, &Self> {
        policies.iter().filter(|record| record.is_forced()).map(|record| (record.node, record)).collect()
    }
}

/// What a policy was recorded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// It was put in force, and is measured on the evaluation part.
    #[default]
    Force,
    /// It was tried: measured on the calibration part, and never sent to a node to infer with. Choosing among drafts on
    /// the evaluation part would spoil the figures that are read there.
    Trial,
}

/// For whom a policy is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// For every node that has none of its own.
    Fleet,
    /// For one node alone.
    Node(NodeId),
    /// For nobody: it is only tried. See [`Purpose::Trial`].
    Nobody,
}

impl RunState {
    /// Whenever the program rests, the oldest policy that was not measured yet is.
    pub(super) fn measure_next_policy(&mut self) {
        let generation = self.generation();
        let mut of_this = self.policies.iter().filter(|record| record.generation == generation);
        if self.program.query().is_none()
            && let Some(record) = of_this.nth(self.measured)
        {
            let part = match record.purpose {
                Purpose::Force => Part::Evaluation,
                Purpose::Trial => Part::Calibration,
            };
            self.program.preview(part, vec![record.policy.clone()]);
            self.measured += 1;
        }
    }

    pub(in crate::coordinator) fn set_policy(
        &mut self,
        now: Now,
        request: &PolicyRequest,
        target: Target,
        outputs: &mut VecDeque<Output>,
    ) -> Result<PolicyVersion, RunError> {
        if self.is_stopped() {
            return Err(RunError::Stopped { run: self.id.clone() });
        }
        let version = self.record_policy(now, request, target, outputs)?;
        if matches!(self.phase, Phase::Ready) {
            self.open_next(now, outputs);
        }
        outputs.push_back(Output::Publish);
        Ok(version)
    }

    pub(super) fn record_policy(
        &mut self,
        now: Now,
        request: &PolicyRequest,
        target: Target,
        outputs: &mut VecDeque<Output>,
    ) -> Result<PolicyVersion, ChooseError> {
        let policy = self.program.choose(request)?;
        self.publish_heads(outputs);
        let version = PolicyVersion(self.policies.last().map_or(0, |last| last.version.0) + 1);
        let (purpose, node) = match target {
            Target::Fleet => (Purpose::Force, None),
            Target::Node(node) => (Purpose::Force, Some(node)),
            Target::Nobody => (Purpose::Trial, None),
        };
        let record = PolicyRecord {
            version,
            policy,
            asked: request.to_string(),
            set_at_ms: now.unix_ms,
            purpose,
            node,
            cleared: false,
            wish: Some(request.clone()),
            heads: self.heads,
            generation: self.generation(),
        };
        outputs.push_back(Output::SavePolicy { run: self.id.clone(), record: record.clone() });
        if purpose == Purpose::Force {
            self.put_in_force(&record, outputs);
        }
        self.policies.push(record);
        Ok(version)
    }

    /// Lets a node infer with the fleet's policy again. False when it has none of its own.
    pub(in crate::coordinator) fn clear_policy(
        &mut self,
        node: NodeId,
        outputs: &mut VecDeque<Output>,
    ) -> bool {
        let own = |record: &&mut PolicyRecord| record.is_forced() && record.node == Some(node);
        let mut found = false;
        for record in self.policies.iter_mut().filter(own) {
            found = true;
            record.cleared = true;
            outputs.push_back(Output::SavePolicy { run: self.id.clone(), record: record.clone() });
        }
        self.in_force.remove(&Some(node));
        if found {
            outputs.push_back(Output::Publish);
        }
        found
    }

    /// The policy of the fleet and those of nodes that have their own.
    pub(super) fn in_force_records(&self) -> Vec<PolicyRecord> {
        PolicyRecord::in_force(&self.policies).into_values().cloned().collect()
    }

    /// The policy that a node is to infer with: its own, or else the fleet's.
    pub(in crate::coordinator) fn record_in_force(&self, node: NodeId) -> Option<&PolicyRecord> {
        let of = |node| self.policies.iter().rfind(|record| record.is_forced() && record.node == node);
        of(Some(node)).or_else(|| of(None))
    }

    /// When the policy of a node was put in force, in milliseconds since 1970.
    pub(in crate::coordinator) fn forced_at(&self, node: NodeId) -> Option<u64> {
        self.record_in_force(node).map(|record| record.set_at_ms)
    }

    pub(super) fn put_in_force(&mut self, record: &PolicyRecord, outputs: &mut VecDeque<Output>) {
        let heads = record.heads.or(self.heads);
        let (Some(heads), Ok(json)) = (heads, serde_json::to_vec(&record.policy)) else { return };
        let bytes: Arc<[u8]> = json.into();
        let body = BlobRef::of(&bytes);
        outputs.push_back(Output::PutBlob { blob: body, bytes });
        self.in_force.insert(record.node, DesiredPolicy { version: record.version, body, heads });
    }

    /// Chooses the policies in force anew with the snapshot that lacks what was removed, by the wishes they came from.
    /// Until then nodes keep those they have. Whether there is something new to measure.
    pub(super) fn renew_policies(&mut self, now: Now, outputs: &mut VecDeque<Output>) -> bool {
        if std::mem::replace(&mut self.renewed, true) {
            return false;
        }
        let generation = self.generation();
        let mut any = false;
        for old in self.in_force_records().into_iter().filter(|record| record.generation < generation) {
            let request = old.wish.clone().unwrap_or_else(|| PolicyRequest::Thresholds(old.policy.clone()));
            let target = old.node.map_or(Target::Fleet, Target::Node);
            let text = match self.record_policy(now, &request, target, outputs) {
                Ok(version) => {
                    any = true;
                    format!("policy {} takes the place of {} with the new snapshot", version.0, old.version.0)
                }
                Err(error) => format!("policy {} stays with the old snapshot: {error}", old.version.0),
            };
            outputs.push_back(Output::Audit { run: Some(self.id.clone()), node: old.node, text });
        }
        any
    }
}
