//! The columns of the fleet's table: what they say, how they sort.

use std::cmp::Ordering;

use egui::Color32;
use exeunt_protocol::coordinator::Standing;
use exeunt_protocol::operator::{NodeReport, NodeRow};
use serde::{Deserialize, Serialize};

use crate::format::{ago, bytes, count, percent};
use crate::state::State;
use crate::theme::Palette;

/// A column of the fleet's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Column {
    /// What its operator calls it.
    Name,
    /// Its short id.
    Short,
    /// Connected, away or revoked.
    Standing,
    /// What it does for the open query.
    Answer,
    /// When it was last heard of.
    Seen,
    /// Its software.
    Software,
    /// Its engine.
    Engine,
    /// Samples of the statistics part.
    Statistics,
    /// Samples of the calibration part.
    Calibration,
    /// Samples of the evaluation part.
    Evaluation,
    /// Accuracy of the bare network on its samples.
    Network,
    /// Accuracy of the policy in force on its samples.
    Accuracy,
    /// Mean cost of the policy in force on its samples.
    Cost,
    /// Bytes it sent for the run.
    Sent,
    /// When it enrolled.
    Enrolled,
}

impl Column {
    /// Every column, in the order of the table.
    pub const ALL: [Column; 15] = [
        Column::Name,
        Column::Short,
        Column::Standing,
        Column::Answer,
        Column::Seen,
        Column::Software,
        Column::Engine,
        Column::Statistics,
        Column::Calibration,
        Column::Evaluation,
        Column::Network,
        Column::Accuracy,
        Column::Cost,
        Column::Sent,
        Column::Enrolled,
    ];
    /// Those that are shown at first.
    pub(crate) const USUAL: [Column; 9] = [
        Column::Name,
        Column::Short,
        Column::Standing,
        Column::Answer,
        Column::Seen,
        Column::Statistics,
        Column::Accuracy,
        Column::Cost,
        Column::Sent,
    ];

    /// What stands in its head.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Name => "Node",
            Self::Short => "Short id",
            Self::Standing => "State",
            Self::Answer => "Open query",
            Self::Seen => "Last seen",
            Self::Software => "Software",
            Self::Engine => "Engine",
            Self::Statistics => "Samples",
            Self::Calibration => "Calibration",
            Self::Evaluation => "Evaluation",
            Self::Network => "Network",
            Self::Accuracy => "Accuracy",
            Self::Cost => "Cost",
            Self::Sent => "Sent",
            Self::Enrolled => "Enrolled",
        }
    }

    /// What it means, with its unit.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Name => "What its operator calls it",
            Self::Short => "The id that both ends show, to be compared by a person",
            Self::Standing => "Whether its control stream is up",
            Self::Answer => "What it does for the query that is open",
            Self::Seen => "When it was last heard of since the coordinator started",
            Self::Software => "Name and version of its software",
            Self::Engine => "What runs the network there",
            Self::Statistics => "Samples that make the class means",
            Self::Calibration => "Samples that thresholds are chosen on",
            Self::Evaluation => "Samples that accuracy is read on",
            Self::Network => "Share of its evaluation samples that the bare network gets right",
            Self::Accuracy => "Share of its evaluation samples that the policy in force gets right",
            Self::Cost => {
                "Mean cost of the policy in force on its samples, a share of the bare network’s multiply-accumulates"
            }
            Self::Sent => "Bytes it sent for this run",
            Self::Enrolled => "When it joined",
        }
    }

    /// Numbers stand at the right.
    pub(crate) const fn is_number(self) -> bool {
        matches!(
            self,
            Self::Statistics
                | Self::Calibration
                | Self::Evaluation
                | Self::Network
                | Self::Accuracy
                | Self::Cost
                | Self::Sent
        )
    }

    /// Width at first.
    pub(crate) const fn width(self) -> f32 {
        match self {
            Self::Name => 140.0,
            Self::Short => 112.0,
            Self::Answer => 170.0,
            Self::Software | Self::Engine => 130.0,
            _ => 92.0,
        }
    }

    /// The cell of a node.
    pub(crate) fn text(self, entry: &Entry<'_>, now_ms: u64) -> String {
        let dash = || "–".to_owned();
        let given = entry.given;
        let samples = |part: usize| given.and_then(|g| g.samples).map_or_else(dash, |s| count(s[part]));
        match self {
            Self::Name => entry.row.status.name.clone(),
            Self::Short => entry.row.short.clone(),
            Self::Standing => entry.standing().name().to_owned(),
            Self::Answer => entry.answer.clone(),
            Self::Seen => match (entry.standing(), entry.row.status.last_seen_ms) {
                (NodeStanding::Connected, _) => "now".to_owned(),
                (_, Some(seen)) => ago(now_ms, seen),
                (_, None) => dash(),
            },
            Self::Software => entry.row.status.software.clone().unwrap_or_else(dash),
            Self::Engine => entry.row.status.engine.clone().unwrap_or_else(dash),
            Self::Statistics => samples(0),
            Self::Calibration => samples(1),
            Self::Evaluation => samples(2),
            Self::Network | Self::Accuracy | Self::Cost => self.number(entry).map_or_else(dash, percent),
            Self::Sent => given.map_or_else(dash, |g| bytes(g.traffic.iter().map(|t| t.up).sum())),
            Self::Enrolled => ago(now_ms, entry.row.enrolled_ms),
        }
    }

    fn number(self, entry: &Entry<'_>) -> Option<f64> {
        let given = entry.given;
        let samples = |part: usize| given.and_then(|g| g.samples).map(|s| s[part] as f64);
        let policy = given.and_then(|g| g.policies.iter().find(|p| Some(p.version) == entry.in_force));
        match self {
            Self::Statistics => samples(0),
            Self::Calibration => samples(1),
            Self::Evaluation => samples(2),
            Self::Network => given.and_then(|g| g.network_accuracy),
            Self::Accuracy => policy.map(|p| p.accuracy),
            Self::Cost => policy.map(|p| p.cost),
            Self::Sent => given.map(|g| g.traffic.iter().map(|t| t.up).sum::<u64>() as f64),
            Self::Seen => entry.row.status.last_seen_ms.map(|ms| ms as f64),
            Self::Enrolled => Some(entry.row.enrolled_ms as f64),
            _ => None,
        }
    }

    /// Which of two nodes comes first; those without a value come last.
    pub(crate) fn compare(self, a: &Entry<'_>, b: &Entry<'_>) -> Ordering {
        match self {
            Self::Name => natural(&a.row.status.name, &b.row.status.name),
            Self::Short => a.row.short.cmp(&b.row.short),
            Self::Standing => a.standing().cmp(&b.standing()),
            Self::Answer => a.answer.cmp(&b.answer),
            Self::Software => a.row.status.software.cmp(&b.row.status.software),
            Self::Engine => a.row.status.engine.cmp(&b.row.status.engine),
            _ => match (self.number(a), self.number(b)) {
                (Some(a), Some(b)) => a.total_cmp(&b),
                (a, b) => b.is_some().cmp(&a.is_some()),
            },
        }
    }
}

/// Names with numbers in them in the order a person expects: node-2 before node-10.
fn natural(a: &str, b: &str) -> Ordering {
    let split = |text: &str| {
        let head = text.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        (text[..head].to_owned(), text[head..].parse::<u64>().ok())
    };
    split(a).cmp(&split(b)).then_with(|| a.cmp(b))
}

/// Whether a node is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NodeStanding {
    Connected,
    Away,
    Revoked,
}

impl NodeStanding {
    pub(crate) const ALL: [NodeStanding; 3] = [Self::Connected, Self::Away, Self::Revoked];

    pub(crate) fn of(row: &NodeRow) -> Self {
        match (row.revoked, row.status.connected) {
            (true, _) => Self::Revoked,
            (false, true) => Self::Connected,
            (false, false) => Self::Away,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Away => "away",
            Self::Revoked => "revoked",
        }
    }

    pub(crate) const fn colour(self, p: &Palette) -> Color32 {
        match self {
            Self::Connected => p.good,
            Self::Away => p.warn,
            Self::Revoked => p.bad,
        }
    }
}

/// A node with everything its row shows.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) row: &'a NodeRow,
    pub(crate) given: Option<&'a NodeReport>,
    pub(crate) in_force: Option<exeunt_protocol::PolicyVersion>,
    pub(crate) answer: String,
}

impl Entry<'_> {
    pub(crate) fn standing(&self) -> NodeStanding {
        NodeStanding::of(self.row)
    }
}

/// What every node does for the open query; in the order of `state.nodes`.
pub(crate) fn answers(state: &State) -> Vec<String> {
    let Some(report) = &state.report else { return vec!["–".to_owned(); state.nodes.len()] };
    let status = &report.status;
    let waiting: std::collections::BTreeMap<_, _> =
        status.waiting_for.iter().map(|w| (w.node, w.reason.as_str())).collect();
    let open = match &status.standing {
        Standing::Asking { .. } | Standing::Sealing { .. } => status.queries.last(),
        _ => None,
    };
    let declined: std::collections::BTreeMap<_, _> =
        open.into_iter().flat_map(|q| &q.declined).map(|d| (d.node, d.reason.as_str())).collect();
    let answered: std::collections::BTreeSet<_> = open.into_iter().flat_map(|q| &q.answered).collect();
    let of = |row: &NodeRow| {
        let node = row.status.node;
        if let Some(reason) = waiting.get(&node) {
            (*reason).to_owned()
        } else if let Some(reason) = declined.get(&node) {
            format!("declined: {reason}")
        } else if answered.contains(&node) {
            "stored".to_owned()
        } else if open.is_none() && !row.revoked {
            "nothing asked".to_owned()
        } else {
            "–".to_owned()
        }
    };
    state.nodes.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_sort_as_numbers() {
        let mut names = ["node-10", "node-2", "a", "node-1", "node"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["a", "node", "node-1", "node-2", "node-10"]);
    }
}
