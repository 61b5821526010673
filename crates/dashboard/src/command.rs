//! What a person wants done.

use exeunt_exits::Policy;
use exeunt_protocol::{NodeId, RunId};

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
    },
    /// Put the token away.
    ForgetToken,
    /// Look at a run.
    ShowRun(RunId),
    /// End a run.
    StopRun(RunId),
    /// Shut nodes out for good.
    Revoke(Vec<NodeId>),
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

    /// Takes the wishes out.
    pub fn drain(&mut self) -> impl Iterator<Item = Command> + '_ {
        self.0.drain(..)
    }
}
