//! Accuracy over cost.

use serde::{Deserialize, Serialize};

use crate::cost::CostModel;
use crate::policy::Policy;
use crate::tally::{PolicyTally, TallyView};

/// A policy and what it did on a part of the samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Mean cost of a sample, as a share of the bare network (METHOD, "Words").
    pub cost: f64,
    /// Share of the samples that were right.
    pub accuracy: f64,
    /// Share of the samples on which the network alone was right and the exit wrong.
    pub loss: f64,
    /// Share of the samples that left at each exit; those the network decided come last.
    pub exit_share: Vec<f64>,
    /// The policy.
    pub policy: Policy,
}

impl CurvePoint {
    /// What `policy` did, by its row of a tally. A part without samples has NaN everywhere.
    #[must_use]
    pub fn new(cost: &CostModel, policy: Policy, tally: &PolicyTally<'_>) -> Self {
        let samples = tally.samples() as f64;
        Self {
            cost: cost.mean(&policy, tally.left()),
            accuracy: tally.right_total() as f64 / samples,
            loss: tally.loss() as f64 / samples,
            exit_share: tally.left().iter().map(|left| *left as f64 / samples).collect(),
            policy,
        }
    }
}

/// Points of accuracy over cost, in order of cost, joined by straight lines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Curve {
    points: Vec<CurvePoint>,
}

impl Curve {
    /// A curve of all `points`. Nothing is left out: a curve of policies that were chosen elsewhere must not be made
    /// prettier by the samples it is read on.
    #[must_use]
    pub fn new(mut points: Vec<CurvePoint>) -> Self {
        points.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(a.accuracy.total_cmp(&b.accuracy)));
        Self { points }
    }

    /// A curve of those of `points` that no other is at least as cheap and as right as.
    #[must_use]
    pub fn front(points: Vec<CurvePoint>) -> Self {
        let kept = pareto(points.iter().map(|point| (point.cost, point.accuracy)));
        let mut points: Vec<Option<CurvePoint>> = points.into_iter().map(Some).collect();
        Self { points: kept.into_iter().filter_map(|i| points.get_mut(i)?.take()).collect() }
    }

    /// What each of `policies` did, by the tally of the same policies in the same order.
    #[must_use]
    pub fn read(cost: &CostModel, policies: &[Policy], tally: &TallyView) -> Self {
        Self::new(read_points(cost, policies, tally))
    }

    /// The points, in order of cost.
    #[must_use]
    pub fn points(&self) -> &[CurvePoint] {
        &self.points
    }

    /// Whether there is no point.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// Accuracy at a cost, on the straight line between the points beside it; beyond the dearest point that point's
    /// accuracy, before the cheapest `None`: nothing was found that costs so little.
    #[must_use]
    pub fn at_cost(&self, cost: f64) -> Option<f64> {
        let after = self.points.partition_point(|point| point.cost <= cost);
        let left = self.points.get(after.checked_sub(1)?)?;
        let Some(right) = self.points.get(after) else { return Some(left.accuracy) };
        let along = (cost - left.cost) / (right.cost - left.cost);
        Some(left.accuracy + along * (right.accuracy - left.accuracy))
    }

    /// The bare network's point.
    #[must_use]
    pub fn network(&self) -> Option<&CurvePoint> {
        self.points.iter().find(|point| point.policy.is_off())
    }

    /// How accurate a policy must be that loses at most `points` points to the bare network.
    #[must_use]
    pub fn floor(&self, points: f64) -> f64 {
        // Far below what one sample counts: it only absorbs rounding.
        const SLACK: f64 = 1e-12;
        self.network().map_or(1.0, |network| network.accuracy) - points / 100.0 - SLACK
    }

    /// The cheapest point that is at least this accurate.
    #[must_use]
    pub fn cheapest(&self, accuracy: f64) -> Option<&CurvePoint> {
        self.points.iter().find(|point| point.accuracy >= accuracy)
    }

    /// The area under the curve between two costs, as an accuracy: the integral divided by `to − from`. Where nothing
    /// was found that costs so little, the accuracy counts as 0.
    #[must_use]
    pub fn area(&self, from: f64, to: f64) -> f64 {
        let within = self.points.iter().map(|point| point.cost).filter(|cost| (from..to).contains(cost));
        let mut stops: Vec<f64> = std::iter::once(from).chain(within).chain([to]).collect();
        stops.dedup();
        let mut area = 0.0;
        for pair in stops.windows(2) {
            let (a, b) = (pair[0], pair[1]);
            let Some(start) = self.at_cost(a) else { continue };
            // Just before `b`: where two points share a cost, the curve jumps there.
            let end = self.before(b).unwrap_or(start);
            area += (b - a) * (start + end) / 2.0;
        }
        area / (to - from)
    }

    /// Accuracy where the curve arrives at `cost` from the left.
    fn before(&self, cost: f64) -> Option<f64> {
        let after = self.points.partition_point(|point| point.cost < cost);
        match self.points.get(after) {
            Some(point) if point.cost == cost => Some(point.accuracy),
            _ => self.at_cost(cost),
        }
    }
}

/// What each of `policies` did, in their order, by the tally of the same policies.
pub(crate) fn read_points(cost: &CostModel, policies: &[Policy], tally: &TallyView) -> Vec<CurvePoint> {
    let pairs = policies.iter().zip(tally.policies());
    pairs.map(|(policy, tally)| CurvePoint::new(cost, policy.clone(), &tally)).collect()
}

/// The static line (METHOD, "Calibration"): "everyone stops at exit e" by the better of its rules, and the bare
/// network, joined by straight lines in cost. Points that a cheaper one beats are left out, the network excepted: who
/// cuts a network for good cuts it at the best place, and that is the line to beat.
///
/// Other policies among `points` are passed over.
#[must_use]
pub fn static_line(points: &[CurvePoint]) -> Curve {
    let fixed = |point: &&CurvePoint| point.policy.is_off() || point.policy.as_static_cut().is_some();
    let network = points.iter().find(|point| point.policy.is_off());
    let mut line = Curve::front(points.iter().filter(fixed).cloned().collect());
    if let Some(network) = network
        && !line.points.iter().any(|point| point.policy.is_off())
    {
        line.points.push(network.clone());
        line = Curve::new(line.points);
    }
    line
}

/// Which of the points of (cost, accuracy) are on the Pareto front, by rising cost. Of equal points the first is kept;
/// points with a NaN are passed over.
#[must_use]
pub fn pareto(points: impl IntoIterator<Item = (f64, f64)>) -> Vec<usize> {
    let points =
        points.into_iter().enumerate().filter(|(_, (cost, accuracy))| !cost.is_nan() && !accuracy.is_nan());
    let mut order: Vec<(usize, (f64, f64))> = points.collect();
    order.sort_by(|(i, a), (j, b)| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)).then(i.cmp(j)));
    let mut best = f64::NEG_INFINITY;
    order.retain(|(_, (_, accuracy))| {
        let better = *accuracy > best;
        best = best.max(*accuracy);
        better
    });
    order.into_iter().map(|(i, _)| i).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Rule;

    fn point(cost: f64, accuracy: f64) -> CurvePoint {
        CurvePoint { cost, accuracy, loss: 0.0, exit_share: vec![], policy: Policy { exits: vec![] } }
    }

    fn curve(points: &[(f64, f64)]) -> Curve {
        Curve::new(points.iter().map(|(cost, accuracy)| point(*cost, *accuracy)).collect())
    }

    #[test]
    fn the_front_has_what_nothing_beats() {
        let points = [
            (0.5, 0.6),
            (0.2, 0.4),
            (0.6, 0.6),
            (0.2, 0.3),
            (f64::NAN, 1.0),
            (1.0, 0.9),
            (0.2, 0.4),
            (0.9, 0.7),
        ];
        assert_eq!(pareto(points), [1, 0, 7, 5]);
        assert_eq!(pareto([]), [0_usize; 0]);
        let front = Curve::front(points.iter().map(|(c, a)| point(*c, *a)).collect());
        let kept: Vec<f64> = front.points().iter().map(|point| point.cost).collect();
        assert_eq!(kept, [0.2, 0.5, 0.9, 1.0]);
    }

    #[test]
    fn accuracy_at_a_cost_is_read_between_points() {
        let curve = curve(&[(0.6, 0.8), (0.2, 0.4), (1.0, 0.7)]);
        assert_eq!(curve.at_cost(0.1), None);
        assert_eq!(curve.at_cost(0.2), Some(0.4));
        assert!((curve.at_cost(0.4).unwrap() - 0.6).abs() < 1e-12);
        assert!((curve.at_cost(0.8).unwrap() - 0.75).abs() < 1e-12);
        assert_eq!(curve.at_cost(3.0), Some(0.7));
        assert_eq!(curve.cheapest(0.5).map(|point| point.cost), Some(0.6));
        assert_eq!(curve.cheapest(0.9), None);
        assert_eq!(Curve::default().at_cost(0.5), None);
    }

    #[test]
    fn the_area_is_a_mean_accuracy() {
        let line = curve(&[(0.2, 0.4), (0.6, 0.8)]);
        assert!((line.area(0.2, 0.6) - 0.6).abs() < 1e-12);
        assert!((line.area(0.2, 1.0) - 0.7).abs() < 1e-12);
        assert!((line.area(0.0, 0.2) - 0.0).abs() < 1e-12);
        assert!((line.area(0.3, 0.5) - 0.6).abs() < 1e-12);
        let jump = curve(&[(0.0, 0.2), (0.5, 0.2), (0.5, 0.6), (1.0, 0.6)]);
        assert!((jump.area(0.0, 1.0) - 0.4).abs() < 1e-12);
    }

    #[test]
    fn the_static_line_takes_the_better_rule_and_keeps_the_network() {
        let cut = |exit, rule, cost, accuracy| CurvePoint {
            policy: Policy::static_cut(3, exit, rule),
            ..point(cost, accuracy)
        };
        let network = CurvePoint { policy: Policy::off(3), ..point(1.0, 0.8) };
        let points = [
            network.clone(),
            cut(0, Rule::ClassMeans, 0.2, 0.3),
            cut(0, Rule::Whitened, 0.2, 0.5),
            cut(1, Rule::Whitened, 0.5, 0.45),
            cut(2, Rule::Whitened, 0.9, 0.85),
            CurvePoint {
                policy: Policy { exits: vec![Some(crate::policy::ExitRule::new(Rule::Whitened, 0.0)); 3] },
                ..point(0.3, 0.99)
            },
        ];
        let line = static_line(&points);
        assert_eq!(line.points(), [points[2].clone(), points[4].clone(), network]);
    }
}
