//! What a person wants done.

use exeunt_exits::Policy;
use exeunt_protocol::{NodeId, PolicyVersion, RunId};

use crate::settings::Settings;

/// A wish. The shell carries it out away from the frame, and answers with a new state or a notice.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Make a federation in the home folder, and serve it from this window.
    CreateFederation,
    /// Start a federation of local nodes on what ships.
    StartDemo,
    /// Start a run from a run file; ask which, if none is named.
    OpenRunFile {
        /// Its path.
        path: Option<String>,
    },
    /// Make a join token.
    MakeToken {
        /// How long it is valid, in seconds.
        valid_s: u64,
        /// A note beside it.
        label: String,
        /// Whether the node waits for approval; as the coordinator was started, if not said.
        approve: Option<bool>,
    },
    /// Put the token away.
    ForgetToken,
    /// Look at a run.
    ShowRun(RunId),
    /// End a run.
    StopRun(RunId),
    /// Let nodes take part that wait for it.
    Approve(Vec<NodeId>),
    /// Call a node something else.
    Rename {
        /// The node.
        node: NodeId,
        /// Its new name.
        name: String,
    },
    /// Ask nodes nothing more.
    Quarantine(Vec<NodeId>),
    /// Ask them again.
    Release(Vec<NodeId>),
    /// Shut nodes out for good.
    Revoke(Vec<NodeId>),
    /// Take everything a node gave out of a run.
    Remove {
        /// Out of which run.
        run: RunId,
        /// The node.
        node: NodeId,
    },
    /// Measure a draft on the calibration part.
    Try {
        /// For which run.
        run: RunId,
        /// The draft.
        policy: Policy,
    },
    /// Put a policy in force.
    Apply {
        /// For which run.
        run: RunId,
        /// The policy.
        policy: Policy,
        /// For these nodes alone; for the fleet, if none is named.
        nodes: Vec<NodeId>,
    },
    /// Let a node infer with the fleet's policy again.
    FollowFleet {
        /// In which run.
        run: RunId,
        /// The node.
        node: NodeId,
    },
    /// Have the coordinator keep a policy under a name.
    KeepPolicy {
        /// Of which run.
        run: RunId,
        /// The name.
        name: String,
        /// Which policy.
        version: PolicyVersion,
    },
    /// Have the coordinator forget a policy's name.
    ForgetPolicy {
        /// Of which run.
        run: RunId,
        /// The name.
        name: String,
    },
    /// Say what differs between two snapshots.
    Compare {
        /// Of which run.
        run: RunId,
        /// Version of the one.
        from: u32,
        /// Version of the other.
        to: u32,
    },
    /// Write a file where a person says.
    Save(File),
    /// Keep the settings.
    Keep(Box<Settings>),
    /// Call the coordinator again at once.
    Reconnect,
}

/// A file to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct File {
    /// The name it is offered under.
    pub name: String,
    /// What is in it.
    pub content: Content,
}

/// What is in a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Text, as it is.
    Text(String),
    /// A picture, to be written as PNG.
    Picture(std::sync::Arc<egui::ColorImage>),
}

/// Wishes of one frame, in order.
#[derive(Debug, Default)]
pub struct Commands(Vec<Command>);

impl Commands {
    /// Adds a wish.
    pub fn push(&mut self, command: Command) {
        self.0.push(command);
    }

    /// Adds wishes, if there are any.
    pub fn extend(&mut self, commands: impl IntoIterator<Item = Command>) {
        self.0.extend(commands);
    }

    /// Takes the wishes out.
    pub fn drain(&mut self) -> impl Iterator<Item = Command> + '_ {
        self.0.drain(..)
    }
}
