//! Runs that were stopped: all that is kept of them in memory is what decides anything yet. The store has the rest.

use super::Coordinator;
use super::run::{PolicyRecord, RunState};
use crate::ids::{NodeId, RunId};

/// A run that was stopped.
///
/// A node infers with the policy that was set last, whichever run it belongs to: so when they were set still decides.
#[derive(Debug)]
pub(super) struct RestingRun {
    /// How many exits it has: nodes that infer with a policy of it may still say what became of their inputs.
    pub(super) exits: usize,
    /// When the policies in force were set, in milliseconds since 1970: the fleet's, and those of nodes that have their own,
    /// in that order.
    forced_ms: Vec<(Option<NodeId>, u64)>,
    /// When the last of all its policies was set.
    last_set_ms: Option<u64>,
}

impl RestingRun {
    fn new(exits: usize, policies: &[PolicyRecord]) -> Self {
        let in_force = PolicyRecord::in_force(policies);
        Self {
            exits,
            forced_ms: in_force.into_iter().map(|(node, record)| (node, record.set_at_ms)).collect(),
            last_set_ms: policies.iter().map(|record| record.set_at_ms).max(),
        }
    }

    /// When the policy of a node was put in force.
    pub(super) fn forced_at(&self, node: NodeId) -> Option<u64> {
        let of = |whose| self.forced_ms.binary_search_by_key(&whose, |(whose, _)| *whose).ok();
        of(Some(node)).or_else(|| of(None)).map(|at| self.forced_ms[at].1)
    }

    /// When the last policy was set, tried ones included.
    pub(super) fn last_set_ms(&self) -> Option<u64> {
        self.last_set_ms
    }
}

impl Coordinator {
    /// Takes up a run that was stopped, with no more of it than decides anything yet. [`Coordinator::restore_run`] makes it
    /// whole when somebody wants to see it.
    pub fn restore_resting(&mut self, id: RunId, exits: usize, policies: &[PolicyRecord]) {
        self.resting.insert(id, RestingRun::new(exits, policies));
    }

    /// Forgets of a run that was stopped whatever the store can rebuild. Without effect on any other.
    pub fn rest_run(&mut self, run: &RunId) {
        if self.runs.get(run).is_some_and(RunState::is_stopped)
            && let Some(state) = self.runs.remove(run)
        {
            let exits = state.program.context().exits.len();
            self.resting.insert(run.clone(), RestingRun::new(exits, &state.policies));
        }
    }

    /// Whether a run was stopped and there is no more of it in memory than decides anything yet. Nothing else can be asked
    /// of it before [`Coordinator::restore_run`].
    pub fn rests(&self, run: &RunId) -> bool {
        self.resting.contains_key(run)
    }
}

#[cfg(test)]
mod tests {
    use exeunt_exits::{Policy, Rule};

    use super::*;
    use crate::coordinator::Purpose;
    use crate::ids::PolicyVersion;

    #[test]
    fn when_a_policy_was_set_still_decides() {
        let [own, other] = [1, 2].map(|byte| NodeId::from_bytes([byte; 16]));
        let record = |version: u32, node, purpose, cleared| PolicyRecord {
            version: PolicyVersion(version),
            policy: Policy::static_cut(1, 0, Rule::ClassMeans),
            asked: String::new(),
            set_at_ms: u64::from(version) * 100,
            purpose,
            node,
            cleared,
            wish: None,
            heads: None,
            generation: 0,
        };
        let policies = [
            record(1, None, Purpose::Force, false),
            record(2, None, Purpose::Force, false),
            record(3, Some(own), Purpose::Force, false),
            record(4, Some(other), Purpose::Force, true),
            record(5, None, Purpose::Trial, false),
        ];
        let run = RestingRun::new(1, &policies);
        assert_eq!((run.forced_at(own), run.forced_at(other)), (Some(300), Some(200)));
        assert_eq!(run.last_set_ms(), Some(500));
        assert_eq!(RestingRun::new(1, &[]).forced_at(own), None);
    }
}
