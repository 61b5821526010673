//! A policy that is being worked on, with undo and redo.

use std::collections::BTreeSet;

use exeunt_exits::Policy;
use exeunt_protocol::NodeId;

use crate::command::Command;
use crate::state::State;

/// Steps that can be undone.
const STEPS: usize = 200;

/// The policy that is being made, with every step that led to it.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    policy: Option<Policy>,
    past: Vec<Option<Policy>>,
    future: Vec<Option<Policy>>,
    /// Whether it is meant for the picked nodes alone.
    picked_only: bool,
}

impl Draft {
    /// The policy; none where nothing is being worked on.
    pub fn policy(&self) -> Option<&Policy> {
        self.policy.as_ref()
    }

    /// Goes on with another policy. Setting the same again is no step.
    pub fn set(&mut self, policy: Policy) {
        self.step(Some(policy));
    }

    /// Drops the draft, which can be undone like everything else.
    pub fn discard(&mut self) {
        self.step(None);
    }

    fn step(&mut self, policy: Option<Policy>) {
        if self.policy == policy {
            return;
        }
        let before = std::mem::replace(&mut self.policy, policy);
        self.past.push(before);
        if self.past.len() > STEPS {
            self.past.remove(0);
        }
        self.future.clear();
    }

    /// Whether there is a step to undo.
    pub fn can_undo(&self) -> bool {
        !self.past.is_empty()
    }

    /// Whether there is a step to redo.
    pub fn can_redo(&self) -> bool {
        !self.future.is_empty()
    }

    /// Takes the last step back.
    pub fn undo(&mut self) {
        if let Some(before) = self.past.pop() {
            self.future.push(std::mem::replace(&mut self.policy, before));
        }
    }

    /// Takes the last undone step again.
    pub fn redo(&mut self) {
        if let Some(after) = self.future.pop() {
            self.past.push(std::mem::replace(&mut self.policy, after));
        }
    }

    /// The policy before the last step, to be shown as a ghost.
    pub fn before(&self) -> Option<&Policy> {
        self.past.last()?.as_ref()
    }

    /// Whether it is meant for the picked nodes alone, of which there must be some.
    pub fn is_for_picked(&self, picked: &BTreeSet<NodeId>) -> bool {
        self.picked_only && !picked.is_empty()
    }

    /// Says whether it is meant for the picked nodes alone, or for the fleet.
    pub fn set_for_picked(&mut self, picked_only: bool) {
        self.picked_only = picked_only;
    }

    /// The wish that puts it in force where it is meant to be; none where there is no draft, or where it is in force
    /// already.
    pub fn application(&self, state: &State, picked: &BTreeSet<NodeId>) -> Option<Command> {
        let (report, policy) = (state.report.as_ref()?, self.policy()?);
        let nodes: Vec<NodeId> =
            if self.is_for_picked(picked) { picked.iter().copied().collect() } else { Vec::new() };
        let at =
            |node: &NodeId| report.status.in_force_at(*node).is_some_and(|force| force.policy == *policy);
        let applied = if nodes.is_empty() {
            state.in_force().is_some_and(|force| force.policy == *policy)
        } else {
            nodes.iter().all(at)
        };
        let run = report.status.run.clone();
        (!applied).then(|| Command::Apply { run, policy: policy.clone(), nodes })
    }
}

#[cfg(test)]
mod tests {
    use exeunt_exits::Rule;

    use super::*;

    #[test]
    fn steps_are_undone_and_redone() {
        let [a, b] = [0, 1].map(|exit| Policy::static_cut(2, exit, Rule::Whitened));
        let mut draft = Draft::default();
        draft.set(a.clone());
        draft.set(a.clone());
        draft.set(b.clone());
        assert_eq!((draft.policy(), draft.before()), (Some(&b), Some(&a)));
        draft.undo();
        assert_eq!(draft.policy(), Some(&a));
        draft.undo();
        assert_eq!((draft.policy(), draft.can_undo()), (None, false));
        draft.redo();
        draft.redo();
        assert_eq!((draft.policy(), draft.can_redo()), (Some(&b), false));
        draft.undo();
        draft.discard();
        assert!(!draft.can_redo(), "a new step forgets what was undone");
        draft.undo();
        assert_eq!(draft.policy(), Some(&a));
    }
}
