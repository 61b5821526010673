//! What the chart draws, worked out once for every report and not in every frame.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use egui_plot::PlotPoint;
use exeunt_exits::{Curve, CurvePoint, Policy};
use exeunt_protocol::NodeId;
use exeunt_protocol::operator::RunReport;

use crate::axis::{CostAxis, Unit};
use crate::svg::{self, Style};

/// Two-sided 95 % of a normal distribution.
const Z: f64 = 1.959_964;

/// Which samples a curve is read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ReadOn {
    /// Samples that had no part in choosing thresholds.
    #[default]
    Evaluation,
    /// Samples that thresholds were chosen on.
    Calibration,
}

impl ReadOn {
    /// What the samples are called.
    pub(crate) const fn samples(self) -> &'static str {
        match self {
            Self::Evaluation => "evaluation",
            Self::Calibration => "calibration",
        }
    }

    /// The other samples.
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Evaluation => Self::Calibration,
            Self::Calibration => Self::Evaluation,
        }
    }
}

/// Lines of nodes that are drawn while none is picked: more are a smear, and take long to draw.
pub(crate) const LINES: usize = 200;

/// The line of one node.
#[derive(Debug, Clone)]
pub(crate) struct NodeLine {
    pub(crate) node: NodeId,
    pub(crate) name: String,
    pub(crate) points: Vec<PlotPoint>,
}

/// See the [module](self). Points lie where the axis of cost places them.
#[derive(Debug, Clone)]
pub(crate) struct Curves {
    report: Arc<RunReport>,
    pub(crate) read_on: ReadOn,
    pub(crate) axis: CostAxis,
    pub(crate) front: Vec<PlotPoint>,
    /// The same without points that lie on one another on any screen: a line through those has spikes.
    pub(crate) front_line: Vec<PlotPoint>,
    pub(crate) fixed: Vec<PlotPoint>,
    pub(crate) network: PlotPoint,
    /// Costs, and the ends of a 95 % interval of the front's accuracy there.
    pub(crate) band: [Vec<f64>; 3],
    pub(crate) nodes: Vec<NodeLine>,
}

impl Curves {
    /// Nothing before the run has a result.
    pub(crate) fn new(report: &Arc<RunReport>, read_on: ReadOn, axis: CostAxis) -> Option<Self> {
        let result = report.status.result.as_ref()?;
        let axis = CostAxis { unit: unit(report, axis.unit), ..axis };
        let curve = of(result, read_on);
        let place = |p: &CurvePoint| axis.place(cost(report, axis.unit, p));
        let at = |p: &CurvePoint| PlotPoint::new(place(p), p.accuracy);
        let samples = match read_on {
            ReadOn::Evaluation => result.samples[2],
            ReadOn::Calibration => result.samples[1],
        };
        let mut band = [Vec::new(), Vec::new(), Vec::new()];
        for point in curve.points() {
            let (low, high) = interval(point.accuracy, samples);
            band[0].push(place(point));
            band[1].push(low);
            band[2].push(high);
        }
        let whole = match axis.unit {
            Unit::Share => 1.0,
            Unit::Milliseconds => report.status.times.as_ref().map_or(f64::NAN, |t| t.times.network_ms),
        };
        let accuracy = curve.network().map_or(result.network_accuracy, |point| point.accuracy);
        let lines = report.nodes.iter().filter_map(|node| {
            let costs: Vec<f64> = match (axis.unit, &node.times) {
                (Unit::Share, _) => node.curve.iter().map(|point| point.cost).collect(),
                (Unit::Milliseconds, Some(times)) => times.curve_ms.clone(),
                (Unit::Milliseconds, None) => return None,
            };
            let points =
                costs.iter().zip(&node.curve).map(|(cost, p)| PlotPoint::new(axis.place(*cost), p.accuracy));
            let points: Vec<PlotPoint> = points.collect();
            let points = apart(&points);
            (!points.is_empty()).then(|| NodeLine { node: node.node, name: node.name.clone(), points })
        });
        let front: Vec<PlotPoint> = curve.points().iter().map(at).collect();
        Some(Self {
            report: Arc::clone(report),
            read_on,
            axis,
            front_line: apart(&front),
            front,
            fixed: result.static_line.points().iter().map(at).collect(),
            network: PlotPoint::new(axis.place(whole), accuracy),
            band,
            nodes: lines.collect(),
        })
    }

    /// What a point of a curve costs, in the axis' unit.
    pub(crate) fn cost(&self, point: &CurvePoint) -> f64 {
        cost(&self.report, self.axis.unit, point)
    }

    /// Lines that are drawn: those of picked nodes; while none is picked, as many as can be told apart, spread evenly.
    pub(crate) fn shown<'a>(
        &'a self,
        picked: &'a BTreeSet<NodeId>,
    ) -> impl Iterator<Item = (usize, &'a NodeLine)> {
        let every = self.nodes.len().div_ceil(LINES).max(1);
        let wanted = move |(i, line): &(usize, &NodeLine)| match picked.is_empty() {
            true => i.is_multiple_of(every),
            false => picked.contains(&line.node),
        };
        self.nodes.iter().enumerate().filter(wanted)
    }

    /// Whether these are the curves of that report.
    pub(crate) fn are_of(&self, report: &Arc<RunReport>, read_on: ReadOn, axis: CostAxis) -> bool {
        let axis = CostAxis { unit: unit(report, axis.unit), ..axis };
        Arc::ptr_eq(&self.report, report) && self.read_on == read_on && self.axis == axis
    }

    /// The policies of the front, in the order of its points.
    pub(crate) fn policies(&self) -> &[CurvePoint] {
        self.report.status.result.as_ref().map_or(&[], |result| of(result, self.read_on).points())
    }

    /// A policy's place on the front.
    pub(crate) fn place_of(&self, policy: &Policy) -> Option<usize> {
        self.policies().iter().position(|point| point.policy == *policy)
    }

    /// Everything as comma-separated values, a row per point, with the thresholds of the fleet's policies. Times are
    /// there where nodes have measured them, whatever the axis shows.
    pub(crate) fn csv(&self, shown: &[NodeId]) -> String {
        let mut text = String::from("series,cost,milliseconds,accuracy,left_per_exit,thresholds\n");
        let status = &self.report.status;
        let ms = |list: Option<&Vec<f64>>, i: usize| {
            list.and_then(|list| list.get(i)).map_or_else(String::new, |ms| format!("{ms:.6}"))
        };
        for point in self.policies() {
            let left: Vec<String> = point.exit_share.iter().map(|share| format!("{share:.6}")).collect();
            let exits = point.policy.exits.iter();
            let exits: Vec<String> = exits
                .map(|exit| exit.as_ref().map_or_else(|| "off".to_owned(), ToString::to_string))
                .collect();
            let time = status.times.as_ref().map_or_else(String::new, |times| {
                format!("{:.6}", times.times.mean_ms(&point.policy, &point.exit_share))
            });
            let (cost, accuracy) = (point.cost, point.accuracy);
            let _ = writeln!(
                text,
                "fleet,{cost:.6},{time},{accuracy:.6},{},{}",
                left.join(" "),
                exits.join("; ")
            );
        }
        let fixed = status.result.iter().flat_map(|result| result.static_line.points());
        for (i, point) in fixed.enumerate() {
            let time = ms(status.times.as_ref().map(|times| &times.static_line_ms), i);
            let _ = writeln!(text, "static line,{:.6},{time},{:.6},,", point.cost, point.accuracy);
        }
        for node in self.report.nodes.iter().filter(|node| shown.contains(&node.node)) {
            let name = node.name.replace('"', "\"\"");
            for (i, point) in node.curve.iter().enumerate() {
                let time = ms(node.times.as_ref().map(|times| &times.curve_ms), i);
                let _ = writeln!(text, "\"{name}\",{:.6},{time},{:.6},,", point.cost, point.accuracy);
            }
        }
        text
    }

    /// The chart as SVG, with marks for single policies.
    pub(crate) fn svg(&self, shown: &[NodeId], marks: &[(String, PlotPoint)]) -> String {
        let pairs = |points: &[PlotPoint]| points.iter().map(|p| (self.axis.cost(p.x), p.y)).collect();
        let series = |name: &str, points: &[PlotPoint], style| svg::Series {
            name: name.to_owned(),
            points: pairs(points),
            style,
        };
        let mut all = vec![
            series("fleet", &self.front, Style::Front),
            series("static line", &self.fixed, Style::Static),
            series("bare network", &[self.network], Style::Mark),
        ];
        all.extend(marks.iter().map(|(name, at)| series(name, &[*at], Style::Mark)));
        let lines = self.nodes.iter().filter(|line| shown.contains(&line.node));
        all.extend(lines.map(|line| series(&line.name, &line.points, Style::Faint)));
        svg::draw(&format!("{}: accuracy over cost", self.report.status.run), self.axis, &all)
    }
}

/// Points of which none lies on the one before it, as far as a screen can tell.
fn apart(points: &[PlotPoint]) -> Vec<PlotPoint> {
    let span = |of: fn(&PlotPoint) -> f64| {
        let ends = points.iter().map(of).fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
        (ends.1 - ends.0).max(1e-12)
    };
    let (wide, high) = (span(|p| p.x), span(|p| p.y));
    let mut kept: Vec<PlotPoint> = Vec::with_capacity(points.len());
    for point in points {
        let near = kept
            .last()
            .is_some_and(|last| ((point.x - last.x) / wide).hypot((point.y - last.y) / high) < 1.0 / 300.0);
        if !near {
            kept.push(*point);
        }
    }
    kept
}

/// The unit that can be shown: milliseconds only where nodes have measured them.
pub(crate) fn unit(report: &RunReport, wanted: Unit) -> Unit {
    if report.status.times.is_some() { wanted } else { Unit::Share }
}

/// What a point of a curve costs.
pub(crate) fn cost(report: &RunReport, unit: Unit, point: &CurvePoint) -> f64 {
    cost_of(report, unit, point.cost, &point.policy, &point.exit_share)
}

/// What a policy costs whose samples leave like that: as measured, or by the clock.
pub(crate) fn cost_of(report: &RunReport, unit: Unit, share: f64, policy: &Policy, left: &[f64]) -> f64 {
    match (unit, &report.status.times) {
        (Unit::Milliseconds, Some(times)) => times.times.mean_ms(policy, left),
        _ => share,
    }
}

fn of(result: &exeunt_exits::RunResult, read_on: ReadOn) -> &Curve {
    match read_on {
        ReadOn::Evaluation => &result.curve,
        ReadOn::Calibration => &result.calibration,
    }
}

/// Wilson's interval of a share at 95 %.
pub(crate) fn interval(share: f64, samples: u64) -> (f64, f64) {
    if samples == 0 || !share.is_finite() {
        return (0.0, 1.0);
    }
    let n = samples as f64;
    let middle = share + Z * Z / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_skip_points_that_lie_on_one_another() {
        let points =
            [(0.0, 0.0), (0.5, 0.5), (0.500_1, 0.499_9), (1.0, 1.0)].map(|(x, y)| PlotPoint::new(x, y));
        let kept: Vec<f64> = apart(&points).iter().map(|point| point.x).collect();
        assert_eq!(kept, [0.0, 0.5, 1.0]);
        assert!(apart(&[]).is_empty());
    }

    #[test]
    fn wilsons_interval_has_known_values() {
        // 8 of 10: R's binom::binom.wilson gives 0.4901625 to 0.9433178.
        let (low, high) = interval(0.8, 10);
        assert!((low - 0.490_162_5).abs() < 1e-6 && (high - 0.943_317_8).abs() < 1e-6, "{low} {high}");
        assert!((interval(1.0, 50).1 - 1.0).abs() < 1e-12);
        assert_eq!(interval(0.5, 0), (0.0, 1.0));
    }
}
