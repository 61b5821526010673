//! The pages. Each is a type with what it remembers by itself, and a method that draws it from a [`Scene`].

mod applying;
mod fleet;
mod live;
mod log;
mod run;
mod settings;
mod start;
mod thresholds;
mod tradeoff;

use std::collections::BTreeSet;

use exeunt_protocol::NodeId;
use serde::{Deserialize, Serialize};

pub use fleet::Column;
pub(crate) use fleet::{Fleet, Order};
pub(crate) use live::Live;
pub(crate) use log::Log;
pub(crate) use run::Run;
pub(crate) use settings::settings;
pub(crate) use start::{Start, first_steps, unreachable_ui};
pub(crate) use thresholds::Thresholds;
pub use tradeoff::Series;
pub(crate) use tradeoff::{ReadOn, TradeOff};

use crate::command::{Command, Commands};
use crate::draft::Draft;
use crate::settings::Settings;
use crate::state::State;

/// A page of the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Page {
    /// Accuracy over cost.
    TradeOff,
    /// The draft, exit by exit.
    Thresholds,
    /// The nodes.
    Fleet,
    /// Where the run stands.
    Run,
    /// Where samples leave.
    Live,
    /// What happened.
    Log,
    /// How the window looks and behaves.
    Settings,
}

impl Page {
    /// Every page, in the order of the navigation.
    pub const ALL: [Page; 7] =
        [Page::TradeOff, Page::Thresholds, Page::Fleet, Page::Run, Page::Live, Page::Log, Page::Settings];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TradeOff => "Trade-off",
            Self::Thresholds => "Thresholds",
            Self::Fleet => "Fleet",
            Self::Run => "Run",
            Self::Live => "Live",
            Self::Log => "Log",
            Self::Settings => "Settings",
        }
    }
}

/// What a view draws from, and what it may change.
pub(crate) struct Scene<'a> {
    pub(crate) state: &'a State,
    /// Milliseconds since 1970, as the shell says.
    pub(crate) now_ms: u64,
    pub(crate) settings: &'a mut Settings,
    pub(crate) draft: &'a mut Draft,
    /// Nodes that are selected, on every page.
    pub(crate) picked: &'a mut BTreeSet<NodeId>,
    pub(crate) commands: &'a mut Commands,
    /// Set to ask before something is done.
    pub(crate) ask: &'a mut Option<Question>,
    /// Set to open the dialog for a join token.
    pub(crate) token: &'a mut bool,
}

impl Scene<'_> {
    /// Makes a token that is valid for an hour, and shows it.
    pub(crate) fn make_token(&mut self) {
        *self.token = true;
        self.commands.push(Command::MakeToken { valid_s: 3600, label: String::new(), approve: None });
    }
}

/// Something that is done only after a person has read what it means.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Question {
    pub(crate) heading: String,
    /// What will happen, and whether it can be taken back.
    pub(crate) text: String,
    /// What the button says.
    pub(crate) verb: String,
    /// Whether nothing brings back what was before.
    pub(crate) irreversible: bool,
    pub(crate) command: Command,
}
