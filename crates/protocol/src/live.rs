//! What inference does at a node, as counters: no query, no table, and in no sum of a run.
//!
//! A node counts per policy for as long as it keeps its folder, and sends the latest counters now and then when they have
//! changed; an idle node is silent. The coordinator keeps the newest of each node. Whatever is lost on the way is in the
//! next report, because counters only grow.

use exeunt_exits::MARGIN_BINS;
use serde::{Deserialize, Serialize};

use crate::ids::{PolicyVersion, RunId};

/// What inference with one policy did at one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveCounts {
    /// The run that the policy belongs to.
    pub run: RunId,
    /// The policy.
    pub policy: PolicyVersion,
    /// When counting began, in milliseconds since 1970. Counters that begin anew have another.
    pub since_ms: u64,
    /// Samples by the exit they left at; the network's own output is last.
    pub left: Vec<u64>,
    /// Multiply-accumulates that they took, every visited exit included. What the sampled share took beyond that, to
    /// run the rest of the network, is not in it.
    pub macs: u64,
    /// Multiply-accumulates that the bare network would have taken.
    pub bare_macs: u64,
    /// Samples for which the rest of the network was run too.
    pub sampled: u64,
    /// Those of them for which it said the same class.
    pub agreed: u64,
    /// Margins of the sampled share, per exit in the bins of [`exeunt_exits::MARGIN_EDGES`]: of every sample in it,
    /// wherever it left. None at exits that the policy leaves off.
    pub margins: Vec<Option<[u64; MARGIN_BINS]>>,
    /// Nanoseconds of inference, for [`timed`](Self::timed) samples.
    pub busy_ns: u64,
    /// Samples whose time is in [`busy_ns`](Self::busy_ns).
    pub timed: u64,
    /// What the node draws while it infers, in milliwatts, if its operator has said so.
    pub milliwatts: Option<u32>,
}

/// What is wrong with a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LiveError {
    /// Every exit and the network's own output have a counter.
    #[error("counters for {found} exits, expected {expected}")]
    Exits {
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A part is larger than the whole.
    #[error("{found} {what}, expected at most {expected}")]
    TooMany {
        /// What was counted.
        what: &'static str,
        /// How often.
        found: u64,
        /// The most there can be.
        expected: u64,
    },
}

impl LiveCounts {
    /// Counters that stand at nothing, for a policy over `exits` exits.
    pub fn new(run: RunId, policy: PolicyVersion, exits: usize, since_ms: u64) -> Self {
        Self {
            run,
            policy,
            since_ms,
            left: vec![0; exits + 1],
            macs: 0,
            bare_macs: 0,
            sampled: 0,
            agreed: 0,
            margins: vec![None; exits],
            busy_ns: 0,
            timed: 0,
            milliwatts: None,
        }
    }

    /// Samples that were classified.
    pub fn samples(&self) -> u64 {
        self.left.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Adds counters over other samples with the same policy. False, and nothing is added, when they are of another
    /// policy or of other exits.
    pub fn add(&mut self, other: &Self) -> bool {
        let same = self.run == other.run && self.policy == other.policy;
        if !same || self.left.len() != other.left.len() || self.margins.len() != other.margins.len() {
            return false;
        }
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        self.left.iter_mut().zip(&other.left).for_each(|(sum, more)| add(sum, *more));
        for (mine, theirs) in self.margins.iter_mut().zip(&other.margins) {
            if let Some(theirs) = theirs {
                let mine = mine.get_or_insert([0; MARGIN_BINS]);
                mine.iter_mut().zip(theirs).for_each(|(sum, more)| add(sum, *more));
            }
        }
        add(&mut self.macs, other.macs);
        add(&mut self.bare_macs, other.bare_macs);
        add(&mut self.sampled, other.sampled);
        add(&mut self.agreed, other.agreed);
        add(&mut self.busy_ns, other.busy_ns);
        add(&mut self.timed, other.timed);
        self.since_ms = self.since_ms.min(other.since_ms);
        self.milliwatts = other.milliwatts.or(self.milliwatts);
        true
    }

    /// Whether these counters can be of a policy over `exits` exits.
    ///
    /// # Errors
    /// See [`LiveError`].
    pub fn check(&self, exits: usize) -> Result<(), LiveError> {
        for (found, expected) in [(self.left.len(), exits + 1), (self.margins.len(), exits)] {
            if found != expected {
                return Err(LiveError::Exits { found, expected });
            }
        }
        let histograms = self.margins.iter().flatten();
        let margins = histograms.map(|bins| bins.iter().fold(0_u64, |sum, count| sum.saturating_add(*count)));
        let parts = [
            ("sampled", self.sampled, self.samples()),
            ("timed", self.timed, self.samples()),
            ("agreed", self.agreed, self.sampled),
            ("margins", margins.max().unwrap_or(0), self.sampled),
        ];
        match parts.into_iter().find(|(_, found, most)| found > most) {
            Some((what, found, expected)) => Err(LiveError::TooMany { what, found, expected }),
            None => Ok(()),
        }
    }

    /// Mean cost of a sample, a share of the bare network's multiply-accumulates. None without samples.
    pub fn cost(&self) -> Option<f64> {
        (self.bare_macs > 0).then(|| self.macs as f64 / self.bare_macs as f64)
    }

    /// Share of the sampled samples for which the whole network said the same. None where none were sampled.
    pub fn agreement(&self) -> Option<f64> {
        (self.sampled > 0).then(|| self.agreed as f64 / self.sampled as f64)
    }

    /// Mean milliseconds of inference per sample. None where no time was taken.
    pub fn mean_ms(&self) -> Option<f64> {
        (self.timed > 0).then(|| self.busy_ns as f64 / self.timed as f64 / 1e6)
    }

    /// Energy that inference took, in joules: the node's power figure times the time it took. None without either.
    pub fn joules(&self) -> Option<f64> {
        let watts = f64::from(self.milliwatts?) / 1e3;
        let per_sample = watts * self.mean_ms()? / 1e3;
        Some(per_sample * self.samples() as f64)
    }

    /// Energy that leaving early saved, in joules, if energy follows multiply-accumulates: an estimate.
    pub fn joules_saved(&self) -> Option<f64> {
        let cost = self.cost().filter(|cost| *cost > 0.0)?;
        Some(self.joules()? * (1.0 / cost - 1.0))
    }
}

/// Decides when counters are said, so that no report is about fewer samples than the floor: neither a report by itself
/// nor its difference to the one before.
///
/// What comes from the sampled share ([`sampled`](LiveCounts::sampled), [`agreed`](LiveCounts::agreed),
/// [`margins`](LiveCounts::margins)) is far fewer samples, and stays as it was said until enough of them are new, too.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LiveReporter {
    said: Option<LiveCounts>,
}

impl LiveReporter {
    /// What was said last: to be said again to a coordinator that may not have heard it.
    pub fn said(&self) -> Option<&LiveCounts> {
        self.said.as_ref()
    }

    /// What to say now that the counters stand at `counts`; nothing where too little is new. Nobody is told of fewer than
    /// `min_count` samples.
    pub fn next(&mut self, counts: &LiveCounts, min_count: u64) -> Option<&LiveCounts> {
        let floor = min_count.max(1);
        let same = |said: &&LiveCounts| {
            said.run == counts.run && said.policy == counts.policy && said.since_ms == counts.since_ms
        };
        let before = self.said.as_ref().filter(same);
        let known = before.map_or(0, LiveCounts::samples);
        if counts.samples() < known.saturating_add(floor) {
            return None;
        }
        let mut news = counts.clone();
        let known = before.map_or(0, |said| said.sampled);
        if counts.sampled < known.saturating_add(floor) {
            (news.sampled, news.agreed) = before.map_or((0, 0), |said| (said.sampled, said.agreed));
            news.margins =
                before.map_or_else(|| vec![None; counts.margins.len()], |said| said.margins.clone());
        }
        self.said = Some(news);
        self.said.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts() -> LiveCounts {
        let mut counts = LiveCounts::new("r-1".parse().unwrap(), PolicyVersion(2), 2, 50);
        counts.left = vec![6, 3, 1];
        (counts.macs, counts.bare_macs, counts.sampled, counts.agreed) = (500, 1000, 4, 3);
        counts.margins[0] = Some([0, 0, 0, 0, 0, 1, 2, 1, 0, 0, 0, 0, 0, 0, 0]);
        (counts.busy_ns, counts.timed, counts.milliwatts) = (20_000_000, 10, Some(5_000));
        counts
    }

    #[test]
    fn counters_of_the_same_policy_add_up_and_others_do_not() {
        let mut sum = LiveCounts::new("r-1".parse().unwrap(), PolicyVersion(2), 2, 100);
        assert!(sum.add(&counts()) && sum.add(&counts()));
        assert_eq!((sum.samples(), sum.left.clone(), sum.since_ms), (20, vec![12, 6, 2], 50));
        assert_eq!((sum.margins[0].unwrap()[6], sum.margins[1]), (4, None));
        sum.check(2).unwrap();
        let before = sum.clone();
        assert!(!sum.add(&LiveCounts { policy: PolicyVersion(3), ..counts() }));
        assert!(!sum.add(&LiveCounts { left: vec![1], ..counts() }));
        assert_eq!(sum, before);
    }

    #[test]
    fn figures_follow_from_the_counters_and_are_none_without_them() {
        let counts = counts();
        assert_eq!((counts.cost(), counts.agreement(), counts.mean_ms()), (Some(0.5), Some(0.75), Some(2.0)));
        // 5 W for 20 ms.
        assert!((counts.joules().unwrap() - 0.1).abs() < 1e-12);
        assert!((counts.joules_saved().unwrap() - 0.1).abs() < 1e-12);
        let none = LiveCounts::new("r-1".parse().unwrap(), PolicyVersion(1), 3, 0);
        assert_eq!((none.cost(), none.agreement(), none.mean_ms(), none.joules()), (None, None, None, None));
    }

    #[test]
    fn a_report_that_cannot_be_is_refused() {
        let wrong = |change: fn(&mut LiveCounts)| {
            let mut counts = counts();
            change(&mut counts);
            counts.check(2).unwrap_err().to_string()
        };
        counts().check(2).unwrap();
        assert_eq!(wrong(|counts| counts.left = vec![9]), "counters for 1 exits, expected 3");
        assert_eq!(wrong(|counts| counts.agreed = 5), "5 agreed, expected at most 4");
        assert_eq!(wrong(|counts| counts.sampled = 11), "11 sampled, expected at most 10");
        assert_eq!(
            wrong(|counts| counts.margins[1] = Some([1; MARGIN_BINS])),
            "15 margins, expected at most 4"
        );
    }

    #[test]
    fn no_report_and_no_difference_of_two_is_about_fewer_samples_than_the_floor() {
        let mut reporter = LiveReporter::default();
        let at = |samples: u64, sampled: u64| {
            let mut counts = LiveCounts::new("r-1".parse().unwrap(), PolicyVersion(2), 1, 50);
            counts.left = vec![samples, 0];
            (counts.sampled, counts.agreed) = (sampled, sampled);
            counts.margins[0] = Some([sampled, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            counts
        };
        let mut say = |counts: &LiveCounts| {
            let said = reporter.next(counts, 10).cloned();
            said.map(|said| {
                said.check(1).unwrap();
                (said.samples(), said.sampled, said.margins[0].map(|bins| bins[0]))
            })
        };
        assert_eq!(say(&at(9, 0)), None);
        assert_eq!(say(&at(10, 9)), Some((10, 0, None)));
        assert_eq!(say(&at(19, 9)), None);
        assert_eq!(say(&at(25, 10)), Some((25, 10, Some(10))));
        assert_eq!(say(&at(40, 19)), Some((40, 10, Some(10))));
        assert_eq!(say(&at(49, 40)), None);
        assert_eq!(say(&at(50, 40)), Some((50, 40, Some(40))));
        // Counters of another policy, or begun anew, stand for themselves.
        let anew = LiveCounts { since_ms: 60, ..at(12, 3) };
        assert_eq!(say(&anew), Some((12, 0, None)));
        assert_eq!(reporter.said().map(LiveCounts::samples), Some(12));
    }
}
