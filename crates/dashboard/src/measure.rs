//! What is known of a policy without asking anybody.

use exeunt_exits::{Policy, Quantiles};
use exeunt_protocol::coordinator::{PolicyStatus, Purpose};
use exeunt_protocol::operator::RunReport;

use crate::views::ReadOn;

/// What a policy does on one part of the samples.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measure {
    pub(crate) cost: f64,
    pub(crate) accuracy: f64,
    /// Shares that leave at each exit; the network's own output is last.
    pub(crate) left: Vec<f64>,
}

/// What a policy does on a part, if it is on the fleet's curve or was measured there.
pub(crate) fn measured(report: &RunReport, policy: &Policy, on: ReadOn) -> Option<Measure> {
    let result = report.status.result.as_ref()?;
    let curve = match on {
        ReadOn::Evaluation => &result.curve,
        ReadOn::Calibration => &result.calibration,
    };
    if let Some(point) = curve.points().iter().find(|point| point.policy == *policy) {
        let (cost, accuracy) = (point.cost, point.accuracy);
        return Some(Measure { cost, accuracy, left: point.exit_share.clone() });
    }
    let purpose = match on {
        ReadOn::Evaluation => Purpose::Force,
        ReadOn::Calibration => Purpose::Trial,
    };
    let same =
        |known: &&PolicyStatus| known.purpose == purpose && known.policy == *policy && known.cost.is_some();
    let known = report.status.policies.iter().rev().find(same)?;
    Some(Measure { cost: known.cost?, accuracy: known.accuracy?, left: known.left.clone() })
}

/// Whether a draft was sent to be measured and has no answer yet.
pub(crate) fn is_being_measured(report: &RunReport, policy: &Policy) -> bool {
    let mut policies = report.status.policies.iter();
    policies.any(|known| known.purpose == Purpose::Trial && known.policy == *policy && known.cost.is_none())
}

/// The share of all samples that are sure enough to leave at an exit, by its rule and threshold; 0 where it is off.
pub(crate) fn share(margins: &Quantiles, policy: &Policy, exit: usize) -> f64 {
    let rule = policy.exits.get(exit).and_then(Option::as_ref);
    rule.and_then(|rule| margins.fraction(exit, rule.rule, rule.threshold)).unwrap_or(0.0)
}
