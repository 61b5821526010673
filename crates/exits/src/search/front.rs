//! The best found so far.

use super::candidate::Candidate;
use crate::curve::{CurvePoint, pareto};

/// A candidate and what it did.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) candidate: Candidate,
    pub(super) point: CurvePoint,
}

/// The Pareto front of everything that was tried, by rising cost and accuracy.
#[derive(Clone, Debug, Default)]
pub(super) struct Front {
    found: Vec<Found>,
}

impl Front {
    pub(super) fn found(&self) -> &[Found] {
        &self.found
    }

    /// Takes in what is not beaten. Of two that do the same, the one that was there before stays.
    pub(super) fn add(&mut self, more: impl IntoIterator<Item = Found>) {
        let mut all: Vec<Option<Found>> = self.found.drain(..).chain(more).map(Some).collect();
        let kept = pareto(all.iter().flatten().map(|found| (found.point.cost, found.point.accuracy)));
        self.found = kept.into_iter().filter_map(|i| all.get_mut(i)?.take()).collect();
    }

    /// The area under the front as a staircase, up to a cost of 1. Unlike the area under straight lines it never falls
    /// when something better is found.
    pub(super) fn area(&self) -> f64 {
        let costs = self.found.iter().map(|found| found.point.cost.min(1.0));
        let ends = costs.clone().skip(1).chain([1.0]);
        let steps = self.found.iter().zip(costs.zip(ends));
        steps.map(|(found, (from, to))| found.point.accuracy * (to - from)).sum()
    }

    /// At most `count` of them, spread evenly from the cheapest to the dearest; `turn` picks others each time.
    pub(super) fn spread(&self, count: usize, turn: usize) -> Vec<usize> {
        let all = self.found.len();
        if all <= count {
            return (0..all).collect();
        }
        let mut picked: Vec<usize> = (0..count).map(|i| (i * all + turn % 2 * all / 2) / count).collect();
        picked.push(all - 1);
        picked.insert(0, 0);
        picked.dedup();
        picked.truncate(all);
        picked
    }
}

/// Which points to keep so that at most `count` (2 or more) draw nearly the same staircase: the one that matters least
/// is left out again and again, the first and the last excepted. Points come by rising cost and accuracy.
pub(super) fn thinned(points: &[(f64, f64)], count: usize) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..points.len()).collect();
    while kept.len() > count.max(2) {
        // What the staircase loses without a point: its rise over the one before, as far as the one after.
        let lost = |w: &[usize]| {
            let [(_, before), (cost, accuracy), (after, _)] = [points[w[0]], points[w[1]], points[w[2]]];
            (accuracy - before) * (after - cost)
        };
        let losses = kept.windows(3).map(lost).enumerate();
        match losses.min_by(|(_, a), (_, b)| a.total_cmp(b)) {
            Some((i, _)) => kept.remove(i + 1),
            None => break,
        };
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    fn found(cost: f64, accuracy: f64) -> Found {
        let point = CurvePoint { cost, accuracy, loss: 0.0, exit_share: vec![], policy: Policy::off(0) };
        Found { candidate: Candidate(vec![]), point }
    }

    #[test]
    fn the_area_is_the_staircase_and_never_falls() {
        let mut front = Front::default();
        front.add([found(0.25, 0.4), found(1.0, 0.9)]);
        assert!((front.area() - 0.3).abs() < 1e-12);
        // Below the straight line between its neighbours, and yet better than what there was.
        front.add([found(0.75, 0.5), found(0.8, 0.45), found(1.2, 0.95)]);
        assert!((front.area() - (0.5 * 0.4 + 0.25 * 0.5)).abs() < 1e-12);
        assert_eq!(front.found().len(), 4);
    }

    #[test]
    fn parents_are_spread_and_have_both_ends() {
        let mut front = Front::default();
        front.add((0..100).map(|i| found(f64::from(i) / 100.0, f64::from(i))));
        for turn in 0..3 {
            let picked = front.spread(10, turn);
            assert!((10..=12).contains(&picked.len()));
            assert_eq!((picked.first(), picked.last()), (Some(&0), Some(&99)));
            assert!(picked.is_sorted_by(|a, b| a < b));
        }
        assert_ne!(front.spread(10, 0), front.spread(10, 1));
        assert_eq!(front.spread(200, 1).len(), 100);
    }

    #[test]
    fn thinning_leaves_out_what_matters_least() {
        let points = [(0.1, 0.1), (0.11, 0.101), (0.3, 0.5), (0.6, 0.6), (0.61, 0.61), (1.0, 0.7)];
        assert_eq!(thinned(&points, 5), [0, 2, 3, 4, 5]);
        assert_eq!(thinned(&points, 4), [0, 2, 4, 5]);
        assert_eq!(thinned(&points, 0), [0, 5]);
        assert_eq!(thinned(&points, 9), [0, 1, 2, 3, 4, 5]);
        assert_eq!(thinned(&[], 9), [0_usize; 0]);
    }
}
