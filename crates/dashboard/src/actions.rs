//! Everything that can be done from anywhere: by the palette, by a key, by a button.

use std::collections::BTreeSet;

use egui::{Key, KeyboardShortcut, Modifiers};
use exeunt_protocol::NodeId;

use crate::draft::Draft;
use crate::state::{Link, PlaceKind, State};
use crate::views::Page;

/// Something that can be done from anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Go(Page),
    Palette,
    Shortcuts,
    Undo,
    Redo,
    Apply,
    Discard,
    Token,
    OpenRunFile,
    Demo,
    Create,
    Filter,
    Theme,
    Larger,
    Smaller,
    UsualSize,
    Notices,
    Navigation,
    Reconnect,
}

impl Action {
    /// Every action, in the order of the palette.
    pub(crate) const ALL: [Action; 25] = [
        Self::Go(Page::TradeOff),
        Self::Go(Page::Thresholds),
        Self::Go(Page::Fleet),
        Self::Go(Page::Run),
        Self::Go(Page::Live),
        Self::Go(Page::Log),
        Self::Go(Page::Settings),
        Self::Apply,
        Self::Discard,
        Self::Undo,
        Self::Redo,
        Self::Token,
        Self::OpenRunFile,
        Self::Demo,
        Self::Create,
        Self::Filter,
        Self::Notices,
        Self::Theme,
        Self::Larger,
        Self::Smaller,
        Self::UsualSize,
        Self::Navigation,
        Self::Reconnect,
        Self::Palette,
        Self::Shortcuts,
    ];

    /// What it is called.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Go(page) => return format!("Go to {}", page.name()),
            Self::Palette => "Search commands, nodes and runs",
            Self::Shortcuts => "Show keyboard shortcuts",
            Self::Undo => "Undo a change of the draft",
            Self::Redo => "Redo a change of the draft",
            Self::Apply => "Apply the draft",
            Self::Discard => "Discard the draft",
            Self::Token => "Add a node: make a join token",
            Self::OpenRunFile => "Start a run from a run file",
            Self::Demo => "Start the demo",
            Self::Create => "Create a federation",
            Self::Filter => "Filter the fleet",
            Self::Theme => "Switch the theme between dark and light",
            Self::Larger => "Everything larger",
            Self::Smaller => "Everything smaller",
            Self::UsualSize => "Everything at its usual size",
            Self::Notices => "Read notifications again",
            Self::Navigation => "Wide or narrow navigation",
            Self::Reconnect => "Call the coordinator again",
        }
        .to_owned()
    }

    /// The keys for it.
    pub(crate) fn shortcut(self) -> Option<KeyboardShortcut> {
        let command = |key| Some(KeyboardShortcut::new(Modifiers::COMMAND, key));
        match self {
            Self::Go(Page::TradeOff) => command(Key::Num1),
            Self::Go(Page::Thresholds) => command(Key::Num2),
            Self::Go(Page::Fleet) => command(Key::Num3),
            Self::Go(Page::Run) => command(Key::Num4),
            Self::Go(Page::Live) => command(Key::Num5),
            Self::Go(Page::Log) => command(Key::Num6),
            Self::Go(Page::Settings) => command(Key::Comma),
            Self::Palette => command(Key::K),
            Self::Undo => command(Key::Z),
            Self::Redo => Some(KeyboardShortcut::new(Modifiers::COMMAND | Modifiers::SHIFT, Key::Z)),
            Self::Apply => command(Key::Enter),
            Self::Token => command(Key::N),
            Self::OpenRunFile => command(Key::O),
            Self::Theme => command(Key::T),
            Self::Larger => command(Key::Plus),
            Self::Smaller => command(Key::Minus),
            Self::UsualSize => command(Key::Num0),
            Self::Navigation => command(Key::B),
            Self::Filter => Some(KeyboardShortcut::new(Modifiers::NONE, Key::Slash)),
            Self::Shortcuts => Some(KeyboardShortcut::new(Modifiers::NONE, Key::Questionmark)),
            Self::Discard | Self::Demo | Self::Create | Self::Notices | Self::Reconnect => None,
        }
    }

    /// Whether it can be done as things stand.
    pub(crate) fn fits(self, state: &State, draft: &Draft, picked: &BTreeSet<NodeId>) -> bool {
        match self {
            Self::Apply => state.is_up() && draft.application(state, picked).is_some(),
            Self::Discard => draft.policy().is_some(),
            Self::Undo => draft.can_undo(),
            Self::Redo => draft.can_redo(),
            Self::Create => matches!(state.link, Link::Empty { .. }),
            Self::Demo => match &state.link {
                Link::Empty { .. } => true,
                Link::Up(place) | Link::Down { place, .. } => place.kind != PlaceKind::Demo,
                Link::Starting | Link::Opening { .. } => false,
            },
            Self::Token | Self::OpenRunFile => state.is_up(),
            Self::Reconnect => matches!(state.link, Link::Down { .. }),
            _ => true,
        }
    }

    /// Whether its key is a plain letter or sign, which belongs to a text field that has the keyboard.
    pub(crate) fn is_plain(self) -> bool {
        self.shortcut().is_some_and(|shortcut| shortcut.modifiers.is_none())
    }
}

/// Actions whose keys were pressed in this frame.
pub(crate) fn pressed(ctx: &egui::Context) -> Vec<Action> {
    let typing = ctx.egui_wants_keyboard_input();
    let mut found = Vec::new();
    // Shift+Ctrl+Z must be looked for before Ctrl+Z, which it would also be.
    let mut actions: Vec<Action> = Action::ALL.to_vec();
    actions.sort_by_key(|action| action.shortcut().is_none_or(|s| !s.modifiers.shift));
    for action in actions {
        let Some(shortcut) = action.shortcut() else { continue };
        if typing && (action.is_plain() || matches!(action, Action::Undo | Action::Redo)) {
            continue;
        }
        let hit = ctx.input_mut(|input| {
            input.consume_shortcut(&shortcut)
                // On many keyboards these signs need Shift.
                || (action.is_plain() && input.consume_key(Modifiers::SHIFT, shortcut.logical_key))
                || (action == Action::Shortcuts && input.consume_key(Modifiers::SHIFT, Key::Slash))
                || (action == Action::Larger && input.consume_key(Modifiers::COMMAND, Key::Equals))
        });
        if hit {
            found.push(action);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_actions_share_a_key_or_a_name() {
        for (i, a) in Action::ALL.iter().enumerate() {
            for b in &Action::ALL[i + 1..] {
                assert_ne!(a.name(), b.name());
                assert!(a.shortcut().is_none() || a.shortcut() != b.shortcut(), "{a:?} and {b:?}");
            }
        }
    }
}
