//! What the chart draws, worked out once for every report and not in every frame.

use std::fmt::Write as _;
use std::sync::Arc;

use egui_plot::PlotPoint;
use exeunt_exits::{Curve, CurvePoint, Policy};
use exeunt_protocol::NodeId;
use exeunt_protocol::operator::RunReport;

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

/// The line of one node.
#[derive(Debug, Clone)]
pub(crate) struct NodeLine {
    pub(crate) node: NodeId,
    pub(crate) name: String,
    pub(crate) points: Vec<PlotPoint>,
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub(crate) struct Curves {
    report: Arc<RunReport>,
    pub(crate) read_on: ReadOn,
    pub(crate) front: Vec<PlotPoint>,
    pub(crate) fixed: Vec<PlotPoint>,
    pub(crate) network: PlotPoint,
    /// Costs, and the ends of a 95 % interval of the front's accuracy there.
    pub(crate) band: [Vec<f64>; 3],
    pub(crate) nodes: Vec<NodeLine>,
}

impl Curves {
    /// Nothing before the run has a result.
    pub(crate) fn new(report: &Arc<RunReport>, read_on: ReadOn) -> Option<Self> {
        let result = report.status.result.as_ref()?;
        let curve = of(result, read_on);
        let at = |p: &CurvePoint| PlotPoint::new(p.cost, p.accuracy);
        let samples = match read_on {
            ReadOn::Evaluation => result.samples[2],
            ReadOn::Calibration => result.samples[1],
        };
        let mut band = [Vec::new(), Vec::new(), Vec::new()];
        for point in curve.points() {
            let (low, high) = interval(point.accuracy, samples);
            band[0].push(point.cost);
            band[1].push(low);
            band[2].push(high);
        }
        let network = curve.points().iter().find(|point| point.policy.is_off());
        let nodes = report.nodes.iter().filter(|node| !node.curve.is_empty());
        Some(Self {
            report: Arc::clone(report),
            read_on,
            front: curve.points().iter().map(at).collect(),
            fixed: result.static_line.points().iter().map(at).collect(),
            network: network.map_or_else(|| PlotPoint::new(1.0, result.network_accuracy), at),
            band,
            nodes: nodes
                .map(|node| NodeLine {
                    node: node.node,
                    name: node.name.clone(),
                    points: node.curve.iter().map(|p| PlotPoint::new(p.cost, p.accuracy)).collect(),
                })
                .collect(),
        })
    }

    /// Whether these are the curves of that report.
    pub(crate) fn are_of(&self, report: &Arc<RunReport>, read_on: ReadOn) -> bool {
        Arc::ptr_eq(&self.report, report) && self.read_on == read_on
    }

    /// The policies of the front, in the order of its points.
    pub(crate) fn policies(&self) -> &[CurvePoint] {
        self.report.status.result.as_ref().map_or(&[], |result| of(result, self.read_on).points())
    }

    /// A policy's place on the front.
    pub(crate) fn place_of(&self, policy: &Policy) -> Option<usize> {
        self.policies().iter().position(|point| point.policy == *policy)
    }

    /// Everything as comma-separated values, a row per point, with the thresholds of the fleet's policies.
    pub(crate) fn csv(&self, shown: &[NodeId]) -> String {
        let mut text = String::from("series,cost,accuracy,left_per_exit,thresholds\n");
        for point in self.policies() {
            let left: Vec<String> = point.exit_share.iter().map(|share| format!("{share:.6}")).collect();
            let exits = point.policy.exits.iter();
            let exits: Vec<String> = exits
                .map(|exit| exit.as_ref().map_or_else(|| "off".to_owned(), ToString::to_string))
                .collect();
            let (cost, accuracy) = (point.cost, point.accuracy);
            let _ = writeln!(text, "fleet,{cost:.6},{accuracy:.6},{},{}", left.join(" "), exits.join("; "));
        }
        for point in &self.fixed {
            let _ = writeln!(text, "static line,{:.6},{:.6},,", point.x, point.y);
        }
        for line in self.nodes.iter().filter(|line| shown.contains(&line.node)) {
            let name = line.name.replace('"', "\"\"");
            for point in &line.points {
                let _ = writeln!(text, "\"{name}\",{:.6},{:.6},,", point.x, point.y);
            }
        }
        text
    }

    /// The chart as SVG, with marks for single policies.
    pub(crate) fn svg(&self, shown: &[NodeId], marks: &[(&str, PlotPoint)]) -> String {
        let pairs = |points: &[PlotPoint]| points.iter().map(|p| (p.x, p.y)).collect();
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
        svg::draw(&format!("{}: accuracy over cost", self.report.status.run), &all)
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
    fn wilsons_interval_has_known_values() {
        // 8 of 10: R's binom::binom.wilson gives 0.4901625 to 0.9433178.
        let (low, high) = interval(0.8, 10);
        assert!((low - 0.490_162_5).abs() < 1e-6 && (high - 0.943_317_8).abs() < 1e-6, "{low} {high}");
        assert!((interval(1.0, 50).1 - 1.0).abs() < 1e-12);
        assert_eq!(interval(0.5, 0), (0.0, 1.0));
    }
}
