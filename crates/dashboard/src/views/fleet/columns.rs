//! The columns of the fleet's table: what they say, how they sort.

use egui::Color32;
use exeunt_protocol::PolicyVersion;
use exeunt_protocol::coordinator::PolicyStatus;
use exeunt_protocol::message::Membership;
use exeunt_protocol::operator::{ContributionState, NodeContribution, NodeReport, NodeRow};
use serde::{Deserialize, Serialize};

use crate::format::{ago, bytes, count, millis, percent, until};
use crate::theme::Palette;

/// A column of the fleet's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
    /// Version of the policy that it infers with.
    Policy,
    /// Accuracy of the bare network on its samples.
    Network,
    /// Accuracy of the policy in force on its samples.
    Accuracy,
    /// Mean cost of the policy in force on its samples.
    Cost,
    /// Milliseconds of a sample on its clock.
    Time,
    /// Bytes it sent.
    Sent,
    /// Bytes it received.
    Received,
    /// When its certificate expires.
    Expires,
    /// When it enrolled.
    Enrolled,
}

impl Column {
    /// Every column, in the order of the table.
    pub const ALL: [Column; 19] = [
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
        Column::Policy,
        Column::Network,
        Column::Accuracy,
        Column::Cost,
        Column::Time,
        Column::Sent,
        Column::Received,
        Column::Expires,
        Column::Enrolled,
    ];
    /// Those that are shown at first.
    pub(crate) const USUAL: [Column; 10] = [
        Column::Name,
        Column::Short,
        Column::Standing,
        Column::Answer,
        Column::Seen,
        Column::Statistics,
        Column::Policy,
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
            Self::Answer => "Contribution",
            Self::Seen => "Last seen",
            Self::Software => "Software",
            Self::Engine => "Engine",
            Self::Statistics => "Samples",
            Self::Calibration => "Calibration",
            Self::Evaluation => "Evaluation",
            Self::Policy => "Policy",
            Self::Network => "Network",
            Self::Accuracy => "Accuracy",
            Self::Cost => "Cost",
            Self::Time => "Time",
            Self::Sent => "Sent",
            Self::Received => "Received",
            Self::Expires => "Certificate",
            Self::Enrolled => "Enrolled",
        }
    }

    /// What it means, with its unit.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Name => "What its operator calls it",
            Self::Short => "The id that both ends show, to be compared by a person",
            Self::Standing => "Whether it takes part, and whether its control stream is up",
            Self::Answer => "What became of its answer to the query that is open, or else to the last one",
            Self::Seen => "When it was last heard of since the coordinator started",
            Self::Software => "Name and version of its software",
            Self::Engine => "What runs the network there",
            Self::Statistics => "Samples that make the class means",
            Self::Calibration => "Samples that thresholds are chosen on",
            Self::Evaluation => "Samples that accuracy is read on",
            Self::Policy => {
                "Version of the policy that it has said it infers with; “own” where it has one of its own"
            }
            Self::Network => "Share of its evaluation samples that the bare network gets right",
            Self::Accuracy => "Share of its evaluation samples that the policy in force gets right",
            Self::Cost => {
                "Mean cost of the policy in force on its samples, a share of the bare network’s multiply-accumulates"
            }
            Self::Time => {
                "Mean milliseconds of a sample on its clock, with the policy in force if that is measured, else with the bare network"
            }
            Self::Sent => "Bytes it sent for all runs",
            Self::Received => "Bytes it received for all runs",
            Self::Expires => "When its certificate expires; it renews it by itself before",
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
                | Self::Time
                | Self::Sent
                | Self::Received
        )
    }

    /// Width at first.
    pub(crate) const fn width(self) -> f32 {
        match self {
            Self::Name => 116.0,
            Self::Short => 100.0,
            Self::Standing => 108.0,
            Self::Answer => 150.0,
            Self::Software | Self::Engine => 130.0,
            Self::Seen | Self::Enrolled | Self::Expires => 92.0,
            Self::Policy => 92.0,
            _ => 84.0,
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
            Self::Answer => entry.answer().text,
            Self::Policy => match given.map(|given| &given.policy) {
                None => dash(),
                Some(policy) => {
                    let version = |v: Option<PolicyVersion>| v.map_or_else(dash, |v| v.0.to_string());
                    let own = if policy.overridden { " own" } else { "" };
                    match (policy.using, policy.wanted) {
                        (using, wanted) if using == wanted => format!("{}{own}", version(using)),
                        (using, wanted) => format!("{} → {}{own}", version(using), version(wanted)),
                    }
                }
            },
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
            Self::Time => self.number(entry).map_or_else(dash, millis),
            Self::Sent => bytes(entry.row.bytes_up),
            Self::Received => bytes(entry.row.bytes_down),
            Self::Expires => {
                entry.row.status.certificate_expires_ms.map_or_else(dash, |at| until(now_ms, at))
            }
            Self::Enrolled => ago(now_ms, entry.row.enrolled_ms),
        }
    }

    fn number(self, entry: &Entry<'_>) -> Option<f64> {
        let given = entry.given;
        let samples = |part: usize| given.and_then(|g| g.samples).map(|s| s[part] as f64);
        let policy = given.and_then(|g| {
            let version = entry.force.map(|force| force.version);
            g.policies.iter().find(|p| Some(p.version) == version)
        });
        match self {
            Self::Statistics => samples(0),
            Self::Calibration => samples(1),
            Self::Evaluation => samples(2),
            Self::Network => given.and_then(|g| g.network_accuracy),
            Self::Accuracy => policy.map(|p| p.accuracy),
            Self::Cost => policy.map(|p| p.cost),
            Self::Policy => given.and_then(|g| g.policy.using).map(|version| f64::from(version.0)),
            Self::Time => {
                let times = given.and_then(|g| g.times.as_ref());
                times.map(|t| match (policy, entry.force) {
                    (Some(here), Some(force)) => t.times.mean_ms(&force.policy, &here.left),
                    _ => t.times.network_ms,
                })
            }
            Self::Sent => Some(entry.row.bytes_up as f64),
            Self::Received => Some(entry.row.bytes_down as f64),
            Self::Expires => entry.row.status.certificate_expires_ms.map(|ms| ms as f64),
            Self::Seen => entry.row.status.last_seen_ms.map(|ms| ms as f64),
            Self::Enrolled => Some(entry.row.enrolled_ms as f64),
            _ => None,
        }
    }

    /// What rows are sorted by in this column; `None` comes last, whichever way the rest is sorted.
    pub(crate) fn key(self, entry: &Entry<'_>) -> Option<Key> {
        let text = |text: &str| Some(Key::natural(text));
        let status = &entry.row.status;
        match self {
            Self::Name => text(&status.name),
            Self::Short => text(&entry.row.short),
            Self::Standing => Some(Key::number(entry.standing() as u8 as f64)),
            Self::Answer => text(&entry.answer().text),
            Self::Software => status.software.as_deref().and_then(text),
            Self::Engine => status.engine.as_deref().and_then(text),
            _ => self.number(entry).map(Key::number),
        }
    }
}

/// What rows are sorted by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// A number, as bits that are ordered as it is.
    Number(i64),
    /// The text before a number at the end, that number, and the whole text: node-2 comes before node-10.
    Text(String, Option<u64>, String),
}

impl Key {
    fn number(value: f64) -> Self {
        // As in `f64::total_cmp`.
        let bits = value.to_bits().cast_signed();
        Self::Number(bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed())
    }

    pub(crate) fn natural(text: &str) -> Self {
        let head = text.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        Self::Text(text[..head].to_owned(), text[head..].parse().ok(), text.to_owned())
    }
}

/// Whether a node takes part, and is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NodeStanding {
    Connected,
    Away,
    Pending,
    Quarantined,
    Revoked,
}

impl NodeStanding {
    pub(crate) const ALL: [NodeStanding; 5] =
        [Self::Connected, Self::Away, Self::Pending, Self::Quarantined, Self::Revoked];

    pub(crate) fn of(row: &NodeRow) -> Self {
        match (row.revoked, row.status.membership, row.status.connected) {
            (true, ..) => Self::Revoked,
            (_, Membership::Pending, _) => Self::Pending,
            (_, Membership::Quarantined, _) => Self::Quarantined,
            (_, Membership::Active, true) => Self::Connected,
            (_, Membership::Active, false) => Self::Away,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Away => "away",
            Self::Pending => "to approve",
            Self::Quarantined => "quarantined",
            Self::Revoked => "revoked",
        }
    }

    pub(crate) const fn colour(self, p: &Palette) -> Color32 {
        match self {
            Self::Connected => p.good,
            Self::Away => p.warn,
            Self::Pending => p.accent,
            Self::Quarantined => p.force,
            Self::Revoked => p.bad,
        }
    }
}

/// A node with everything its row shows.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) row: &'a NodeRow,
    pub(crate) given: Option<&'a NodeReport>,
    /// The policy that it is to infer with: its own, or else the fleet's.
    pub(crate) force: Option<&'a PolicyStatus>,
}

impl Entry<'_> {
    pub(crate) fn standing(&self) -> NodeStanding {
        NodeStanding::of(self.row)
    }

    /// What became of its answer to the open query, or else to the last.
    pub(crate) fn answer(&self) -> Answer {
        self.given.and_then(|given| given.contribution.as_ref()).map_or_else(Answer::none, Answer::of)
    }
}

/// What became of a node's answer, in words.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) text: String,
    /// The share that is done, while it is being computed.
    pub(crate) progress: Option<f32>,
    pub(crate) tone: Tone,
}

/// How much something wants to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Quiet,
    Plain,
    Warn,
    Bad,
}

impl Tone {
    pub(crate) const fn colour(self, p: &Palette) -> Color32 {
        match self {
            Self::Quiet => p.soft,
            Self::Plain => p.ink,
            Self::Warn => p.warn,
            Self::Bad => p.bad,
        }
    }
}

impl Answer {
    fn none() -> Self {
        Self { text: "–".to_owned(), progress: None, tone: Tone::Quiet }
    }

    fn of(contribution: &NodeContribution) -> Self {
        let query = contribution.query;
        let (text, tone) = match &contribution.state {
            ContributionState::Waiting { reason } => (format!("{query}: {reason}"), Tone::Quiet),
            ContributionState::Computing { done, of } => {
                let share = if *of == 0 { 0.0 } else { *done as f32 / *of as f32 };
                let text = format!("{query}: computing {} of {}", count(*done), count(*of));
                return Self { text, progress: Some(share.clamp(0.0, 1.0)), tone: Tone::Plain };
            }
            ContributionState::Sending => (format!("{query}: sending"), Tone::Plain),
            ContributionState::Stored => (format!("{query}: stored"), Tone::Plain),
            ContributionState::Counted => (format!("{query}: counted"), Tone::Quiet),
            ContributionState::Late => (format!("{query}: late, stored and not counted"), Tone::Warn),
            ContributionState::Declined { reason } => (format!("{query}: declined: {reason}"), Tone::Warn),
            ContributionState::Rejected { reason } => (format!("{query}: rejected: {reason}"), Tone::Bad),
            ContributionState::Missing => (format!("{query}: closed without it"), Tone::Warn),
            ContributionState::LeftOut { reason } => (format!("not asked: {reason}"), Tone::Quiet),
        };
        Self { text, progress: None, tone }
    }
}

#[cfg(test)]
mod tests {
    use exeunt_protocol::QueryId;

    use super::*;

    #[test]
    fn contributions_say_how_far_they_are_and_why_they_are_not_counted() {
        let of = |state| Answer::of(&NodeContribution { query: QueryId(3), state });
        let computing = of(ContributionState::Computing { done: 1, of: 4 });
        assert_eq!((computing.text.as_str(), computing.progress), ("q3: computing 1 of 4", Some(0.25)));
        let rejected = of(ContributionState::Rejected { reason: "stale".to_owned() });
        assert_eq!((rejected.text.as_str(), rejected.tone), ("q3: rejected: stale", Tone::Bad));
    }

    #[test]
    fn numbers_in_names_sort_as_numbers() {
        let mut names = ["node-10", "node-2", "a", "node-1", "node"];
        names.sort_by_key(|name| Key::natural(name));
        assert_eq!(names, ["a", "node", "node-1", "node-2", "node-10"]);
    }

    #[test]
    fn keys_of_numbers_are_in_their_order() {
        let mut numbers = [3.5, -2.0, f64::INFINITY, 0.0, -0.5, f64::NEG_INFINITY];
        numbers.sort_by_key(|number| Key::number(*number));
        assert_eq!(numbers, [f64::NEG_INFINITY, -2.0, -0.5, 0.0, 3.5, f64::INFINITY]);
    }
}
