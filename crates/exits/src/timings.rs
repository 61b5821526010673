//! Time as the nodes measured it: the table of a `Timings` query, and what a sample costs on the clock.

use std::time::Duration;

use exeunt_stats::{Layout, Table};
use serde::{Deserialize, Serialize};

use crate::policy::Policy;

/// The shape of a `Timings` answer.
///
/// Sections: `n[1]` nodes that measured; then nanoseconds, summed over those nodes: `network[1]` for one sample through
/// the network in one piece, `segments[E+1]` through each of its segments, `decisions[E]` for pooling, scores and
/// comparison at each exit. A node counts once however often it repeated: it adds its medians.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimingsShape {
    /// `E`: number of exits.
    pub exits: usize,
}

impl TimingsShape {
    /// The layout of the table.
    #[must_use]
    pub fn layout(&self) -> Layout {
        let sections =
            [("n", 1), ("network", 1), ("segments", self.exits.saturating_add(1)), ("decisions", self.exits)];
        Layout::new(sections.map(|(name, cells)| (name.to_owned(), cells)))
    }
}

/// What one node measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// One sample through the network in one piece.
    pub network: Duration,
    /// One sample through each segment, in order; one more than there are exits.
    pub segments: Vec<Duration>,
    /// Deciding at each exit.
    pub decisions: Vec<Duration>,
}

impl Measured {
    /// The node's answer.
    #[must_use]
    pub fn table(&self) -> Table {
        let nanoseconds = |time: &Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        let times = std::iter::once(&self.network).chain(&self.segments).chain(&self.decisions);
        Table::from_cells(std::iter::once(1).chain(times.map(nanoseconds)).collect())
    }
}

/// Why a table is not an answer to `Timings`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingsError {
    /// Not as long as the query's answer.
    #[error("times in {found} cells, expected {expected}")]
    Cells {
        /// Cells of the table.
        found: usize,
        /// Cells of the query's layout.
        expected: usize,
    },
    /// Neither counts nor times are below 0.
    #[error("cell {cell} of the times is {found}, expected at least 0")]
    Negative {
        /// The cell.
        cell: usize,
        /// Its value.
        found: i64,
    },
}

/// What one sample takes, in milliseconds, as a mean over the nodes that measured.
///
/// The counterpart of [`CostModel`](crate::CostModel) on the clock. Segments include what cutting costs, so their sum
/// is more than the network in one piece takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// How many nodes measured.
    pub nodes: u64,
    /// The network in one piece.
    pub network_ms: f64,
    /// Each segment, in order; one more than there are exits.
    pub segments_ms: Vec<f64>,
    /// Deciding at each exit: pooling, scores, comparison.
    pub decisions_ms: Vec<f64>,
}

impl Times {
    /// Reads one node's answer, or the sum of several; `None` when nobody measured.
    ///
    /// # Errors
    /// See [`TimingsError`].
    pub fn read(shape: TimingsShape, table: &Table) -> Result<Option<Self>, TimingsError> {
        let (found, expected) = (table.len(), shape.layout().cells());
        if found != expected {
            return Err(TimingsError::Cells { found, expected });
        }
        if let Some((cell, found)) = table.cells().iter().enumerate().find(|(_, value)| **value < 0) {
            return Err(TimingsError::Negative { cell, found: *found });
        }
        let nodes = table.cells()[0].unsigned_abs();
        if nodes == 0 {
            return Ok(None);
        }
        let ms = |sum: &i64| *sum as f64 / (nodes as f64 * 1e6);
        let (segments, decisions) = table.cells()[2..].split_at(shape.exits + 1);
        Ok(Some(Self {
            nodes,
            network_ms: ms(&table.cells()[1]),
            segments_ms: segments.iter().map(ms).collect(),
            decisions_ms: decisions.iter().map(ms).collect(),
        }))
    }

    /// Milliseconds of a sample that left at exit `left_at` (from 0); one that left nowhere runs the whole network.
    /// Every exit in use that it visited is charged. An exit that is not in use is no cut: what all cuts together cost
    /// is taken as spread evenly over them, and the share of those that are not made is left out, so that the policy
    /// without exits takes what the network in one piece takes. That share can be more than the segments before an exit
    /// took, by noise or at small segments: such a sample is taken to run for nothing, not for less.
    #[must_use]
    pub fn ms(&self, policy: &Policy, left_at: usize) -> f64 {
        let exits = self.decisions_ms.len();
        let per_cut = (self.segments_ms.iter().sum::<f64>() - self.network_ms) / exits.max(1) as f64;
        let run: f64 = self.segments_ms.iter().take(left_at.saturating_add(1)).sum();
        let used = |e: usize| policy.exits.get(e).is_some_and(Option::is_some);
        let not_cut = (0..exits.min(left_at)).filter(|e| !used(*e)).count();
        let asked = self.decisions_ms.iter().enumerate().take(left_at.saturating_add(1));
        let decisions: f64 = asked.filter(|(e, _)| used(*e)).map(|(_, ms)| ms).sum();
        (run - per_cut * not_cut as f64).max(0.0) + decisions
    }

    /// The mean over samples of which the share `left[e]` leaves at exit `e`, the rest of them, last, nowhere.
    #[must_use]
    pub fn mean_ms(&self, policy: &Policy, left: &[f64]) -> f64 {
        left.iter()
            .enumerate()
            .filter(|(_, share)| **share > 0.0)
            .map(|(e, share)| share * self.ms(policy, e))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ExitRule;
    use crate::rule::Rule;

    const SHAPE: TimingsShape = TimingsShape { exits: 2 };

    fn measured(network: u64, segments: [u64; 3], decisions: [u64; 2]) -> Measured {
        let ms = Duration::from_millis;
        Measured {
            network: ms(network),
            segments: segments.map(ms).to_vec(),
            decisions: decisions.map(ms).to_vec(),
        }
    }

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-9
    }

    #[test]
    fn what_nodes_measured_adds_up_to_their_mean() {
        let mut sum = measured(100, [20, 40, 60], [1, 3]).table();
        sum.merge(&measured(50, [10, 20, 30], [1, 1]).table()).unwrap();
        let times = Times::read(SHAPE, &sum).unwrap().unwrap();
        assert_eq!((times.nodes, times.network_ms), (2, 75.0));
        assert_eq!((times.segments_ms, times.decisions_ms), (vec![15.0, 30.0, 45.0], vec![1.0, 2.0]));
        let nobody = Table::zeros(SHAPE.layout().cells());
        assert_eq!(Times::read(SHAPE, &nobody), Ok(None));
    }

    #[test]
    fn what_is_run_takes_no_less_than_nothing() {
        // 45 ms for each cut, but only 25 until the second exit.
        let times = Times::read(SHAPE, &measured(10, [5, 20, 75], [1, 3]).table()).unwrap().unwrap();
        let second = Policy { exits: vec![None, Some(ExitRule::new(Rule::Whitened, 0.0))] };
        assert!(close(times.ms(&second, 1), 3.0));
        assert!(close(times.ms(&second, 2), 58.0));
    }

    #[test]
    fn tables_that_cannot_be_are_refused() {
        let wrong = Times::read(SHAPE, &Table::zeros(6)).unwrap_err();
        assert_eq!(wrong, TimingsError::Cells { found: 6, expected: 7 });
        let wrong = Times::read(SHAPE, &Table::from_cells(vec![1, 5, 5, -5, 5, 5, 5])).unwrap_err();
        assert_eq!(wrong.to_string(), "cell 3 of the times is -5, expected at least 0");
    }

    #[test]
    fn a_sample_pays_for_what_it_ran_and_for_the_cuts_that_are_made() {
        let times = Times::read(SHAPE, &measured(100, [20, 40, 60], [1, 3]).table()).unwrap().unwrap();
        let used = Some(ExitRule::new(Rule::Whitened, 0.0));
        let both = Policy { exits: vec![used, used] };
        let second = Policy { exits: vec![None, used] };
        // Both cuts together cost 20 ms.
        assert!([21.0, 64.0, 124.0].into_iter().enumerate().all(|(e, ms)| close(times.ms(&both, e), ms)));
        assert!([20.0, 53.0, 113.0].into_iter().enumerate().all(|(e, ms)| close(times.ms(&second, e), ms)));
        assert!(close(times.ms(&Policy::off(2), 2), 100.0));
        assert!(close(times.mean_ms(&both, &[0.5, 0.25, 0.25]), 0.5 * 21.0 + 0.25 * 64.0 + 0.25 * 124.0));
        assert!(close(times.mean_ms(&Policy::off(2), &[0.0, 0.0, 1.0]), 100.0));
    }
}
