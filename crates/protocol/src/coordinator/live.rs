//! What nodes said of their inference: the newest counters, and how they grew. Kept in memory: a node says it again
//! when it connects.

use exeunt_exits::{Drift, Quantiles, margin_shares};

use super::run::{PolicyRecord, RunState};
use super::{Coordinator, RunError};
use crate::ids::{NodeId, RunId};
use crate::live::LiveCounts;
use crate::operator::{LiveMoment, NodeLive};

/// Moments kept of one node's inference with one policy. When there are as many, every other one is let go, so that
/// the last hour and the last week are both there, in as much detail as there is room for.
const MOMENTS: usize = 240;
/// Policies of which a node's counters are kept, newest first.
const POLICIES: usize = 4;

/// What one node said.
#[derive(Debug, Clone, Default)]
pub(super) struct LiveBook {
    entries: Vec<Entry>,
    /// What was wrong with the last report that was not taken.
    refused: Option<String>,
}

#[derive(Debug, Clone)]
struct Entry {
    at_ms: u64,
    counts: LiveCounts,
    history: Vec<LiveMoment>,
}

impl LiveBook {
    /// Takes newer counters in. Counters that fell were begun anew: what was seen of the old ones is over.
    pub(super) fn note(&mut self, at_ms: u64, counts: LiveCounts) {
        let moment =
            LiveMoment { at_ms, left: counts.left.clone(), sampled: counts.sampled, agreed: counts.agreed };
        let of = |entry: &Entry| (entry.counts.run.clone(), entry.counts.policy);
        let before = self.entries.iter().position(|entry| of(entry) == (counts.run.clone(), counts.policy));
        let mut history = before.map(|at| self.entries.remove(at)).map_or_else(Vec::new, |entry| {
            let grew = entry.counts.since_ms == counts.since_ms && entry.counts.samples() <= counts.samples();
            if grew { entry.history } else { Vec::new() }
        });
        if history.len() == MOMENTS {
            let mut number = 0;
            history.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
        history.push(moment);
        self.entries.insert(0, Entry { at_ms, counts, history });
        self.entries.truncate(POLICIES);
    }

    /// Notes why a report was not taken. False when that was so before.
    pub(super) fn refuse(&mut self, why: &str) -> bool {
        self.refused.replace(why.to_owned()).as_deref() != Some(why)
    }

    fn newest(&self, run: &RunId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.counts.run == *run)
    }
}

impl Coordinator {
    /// What inference does at the nodes with policies of a run: of each node, with the policy it last reported on.
    ///
    /// # Errors
    /// [`RunError::Unknown`]; [`RunError::Stopped`] when the run rests.
    pub fn live(&self, run: &RunId) -> Result<Vec<NodeLive>, RunError> {
        let state = self.run(run)?;
        let of = |(node, known): (&NodeId, &super::NodeState)| {
            known.live.newest(run).map(|entry| judged(*node, &known.name, entry, state))
        };
        Ok(self.nodes.iter().filter_map(of).collect())
    }
}

/// The counters with everything that follows from them.
fn judged(node: NodeId, name: &str, entry: &Entry, run: &RunState) -> NodeLive {
    let counts = entry.counts.clone();
    let record = run.policies.iter().find(|record| record.version == counts.policy);
    let expected = run.point_of(counts.policy).map(|point| &*point.exit_share);
    NodeLive {
        node,
        name: name.to_owned(),
        at_ms: entry.at_ms,
        cost: counts.cost(),
        agreement: counts.agreement(),
        mean_ms: counts.mean_ms(),
        joules: counts.joules(),
        joules_saved: counts.joules_saved(),
        drift: expected.and_then(|shares| Drift::of(shares, &counts.left)),
        margin_drift: margin_drift(&counts, record, run.program.quantiles(), run.generation()),
        history: entry.history.clone(),
        counts,
    }
}

/// Compares margins exit by exit with those that the policy was chosen on.
fn margin_drift(
    counts: &LiveCounts,
    record: Option<&PolicyRecord>,
    quantiles: Option<&Quantiles>,
    generation: usize,
) -> Vec<Option<Drift>> {
    // A policy from before a contribution was removed decides with other means than the calibration at hand.
    let record = record.filter(|record| record.generation == generation);
    let exit = |(e, bins): (usize, &Option<[u64; exeunt_exits::MARGIN_BINS]>)| {
        let rule = record?.policy.exits.get(e)?.as_ref()?.rule;
        let calibrated = quantiles.filter(|quantiles| e < quantiles.exits())?.at(e, rule)?;
        Drift::of(&margin_shares(calibrated), bins.as_ref()?)
    };
    counts.margins.iter().enumerate().map(exit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PolicyVersion;

    fn counts(policy: u32, samples: u64) -> LiveCounts {
        let mut counts = LiveCounts::new("r-1".parse().unwrap(), PolicyVersion(policy), 1, 5);
        counts.left = vec![samples, 0];
        counts
    }

    #[test]
    fn history_is_bounded_and_begins_anew_with_the_counters() {
        let mut book = LiveBook::default();
        for i in 0..2_000 {
            book.note(i, counts(1, i));
        }
        let entry = book.newest(&"r-1".parse().unwrap()).unwrap();
        assert!((MOMENTS / 2..=MOMENTS).contains(&entry.history.len()), "{}", entry.history.len());
        assert!(entry.history.is_sorted_by_key(|moment| moment.at_ms));
        assert_eq!((entry.at_ms, entry.history.last().unwrap().left[0]), (1_999, 1_999));
        assert!(entry.history[0].at_ms < 1_000, "{}", entry.history[0].at_ms);
        book.note(2_000, counts(1, 3));
        assert_eq!(book.entries[0].history.len(), 1);
    }

    #[test]
    fn the_policy_that_was_reported_last_is_shown_and_old_ones_go() {
        let mut book = LiveBook::default();
        for policy in 1..=9 {
            book.note(u64::from(policy), counts(policy, 1));
        }
        assert_eq!(book.entries.len(), POLICIES);
        book.note(20, counts(7, 2));
        let newest = book.newest(&"r-1".parse().unwrap()).unwrap();
        assert_eq!((newest.counts.policy.0, newest.history.len()), (7, 2));
        assert!(book.newest(&"r-2".parse().unwrap()).is_none());
    }
}
