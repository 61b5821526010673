//! What the window shows: plain values, published whole and never changed.

use std::sync::Arc;

use exeunt_exits::Quantiles;
use exeunt_protocol::coordinator::PolicyStatus;
use exeunt_protocol::operator::{
    AuditLine, Coverage, NodeLive, NodeReport, NodeRow, RunReport, RunRow, SnapshotDiff, SnapshotRow,
};
use exeunt_protocol::{NodeId, RunId};

/// Everything that is known at one moment. A newer one replaces it as a whole; what did not change is shared.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Whether there is a coordinator, and how it is reached.
    pub link: Link,
    /// Since when an answer of the coordinator is overdue, in milliseconds since 1970.
    pub slow_since_ms: Option<u64>,
    /// Every node, by id.
    pub nodes: Arc<[NodeRow]>,
    /// Every run, oldest first.
    pub runs: Arc<[RunRow]>,
    /// The run that is looked at.
    pub report: Option<Arc<RunReport>>,
    /// Its margins on the calibration part, once they are known.
    pub margins: Option<Arc<Quantiles>>,
    /// Its samples per class and node, once they are counted.
    pub coverage: Option<Arc<Coverage>>,
    /// What inference does at the nodes, with the policies of that run.
    pub live: Arc<[NodeLive]>,
    /// Its snapshots, oldest first.
    pub snapshots: Arc<[SnapshotRow]>,
    /// What differs between the two snapshots that were compared last.
    pub diff: Option<Arc<SnapshotDiff>>,
    /// The join token made last.
    pub token: Option<Arc<Token>>,
    /// What the coordinator noted, oldest first.
    pub audit: Arc<[AuditLine]>,
    /// What this program logged, oldest first.
    pub log: Arc<[LogLine]>,
    /// What a person should have heard of, oldest first.
    pub notices: Arc<[Notice]>,
}

/// The way to a coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Link {
    /// Nothing is known yet.
    #[default]
    Starting,
    /// There is no federation in this folder.
    Empty {
        /// The folder.
        home: String,
    },
    /// It is being started or called.
    Opening {
        /// What is being done.
        what: String,
    },
    /// It answers.
    Up(Place),
    /// It answered once and does not now. It is called again until it does.
    Down {
        /// Which.
        place: Place,
        /// What went wrong.
        why: String,
        /// Since when, in milliseconds since 1970.
        since_ms: u64,
    },
}

/// A coordinator and where it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What it is called on screen.
    pub name: String,
    /// Where it runs.
    pub kind: PlaceKind,
    /// The address that nodes use, if it is known here.
    pub address: Option<String>,
}

/// Where a coordinator runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceKind {
    /// In this process; it ends with the window.
    Here,
    /// In this process, with nodes of its own, in a folder that goes away.
    Demo,
    /// In another process or on another machine.
    Elsewhere,
}

impl PlaceKind {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Here => "runs in this window",
            Self::Demo => "demo in this window",
            Self::Elsewhere => "runs elsewhere",
        }
    }
}

/// A join token, as a node's operator types it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The text.
    pub text: String,
    /// When it expires, in seconds since 1970.
    pub expires: u64,
}

/// How much a line matters, the most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Something failed.
    Error,
    /// Something deserves a look.
    Warn,
    /// Something happened.
    Info,
    /// Something for whoever looks for a fault.
    Debug,
}

impl Level {
    /// Every level, the most important first.
    pub const ALL: [Level; 4] = [Level::Error, Level::Warn, Level::Info, Level::Debug];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// A line of this program's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// How much it matters.
    pub level: Level,
    /// The line.
    pub text: String,
}

/// Something that a person should hear of once, and can read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Grows by one with every notice.
    pub number: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// How much it matters.
    pub level: Level,
    /// One sentence.
    pub text: String,
}

impl State {
    /// Whether a coordinator answers.
    pub fn is_up(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    /// Whether there is a federation to look at, even if its coordinator does not answer at the moment.
    pub fn has_federation(&self) -> bool {
        matches!(self.link, Link::Up(_) | Link::Down { .. })
    }

    /// The run that is looked at.
    pub fn run(&self) -> Option<&RunId> {
        self.report.as_ref().map(|report| &report.status.run)
    }

    /// The policy in force in that run, at every node that has none of its own.
    pub fn in_force(&self) -> Option<&PolicyStatus> {
        self.report.as_ref().and_then(|report| report.status.in_force())
    }

    /// What a node is called; its id where it is not known.
    pub fn name(&self, node: NodeId) -> String {
        self.node(node).map_or_else(|| node.to_string(), |row| row.status.name.clone())
    }

    /// What is known of a node; nodes are in the order of their ids.
    pub fn node(&self, node: NodeId) -> Option<&NodeRow> {
        let place = self.nodes.binary_search_by_key(&node, |row| row.status.node).ok()?;
        self.nodes.get(place)
    }

    /// What a node gave to that run.
    pub fn given_by(&self, node: NodeId) -> Option<&NodeReport> {
        self.report.as_ref()?.nodes.iter().find(|given| given.node == node)
    }
}
