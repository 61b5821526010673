//! The command palette: type a few letters, press Enter.

use std::sync::Arc;

use egui::{Align2, Key, Modifiers, RichText, Ui, vec2};
use exeunt_protocol::operator::{NodeRow, RunRow};
use exeunt_protocol::{NodeId, RunId};

use crate::actions::Action;
use crate::state::{Link, State};
use crate::theme::Palette as Colours;
use crate::widgets::soft;

/// Entries that are shown.
const SHOWN: usize = 9;

/// What the palette remembers while it is open.
#[derive(Debug, Default)]
pub(crate) struct Palette {
    text: String,
    at: usize,
    /// What fits, worked out when the text or the fleet changed and not in every frame: there may be many nodes.
    found: Option<(Asked, Vec<Offer>)>,
}

/// What a list of offers was made for.
type Asked = (String, Link, Arc<[NodeRow]>, Arc<[RunRow]>);
/// A name, what stands beside it, and what it does.
type Offer = (String, String, Choice);

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    Action(Action),
    Node(NodeId),
    Run(RunId),
}

impl Palette {
    /// Draws it; what was chosen, and whether it is to be closed.
    pub(crate) fn ui(
        &mut self,
        ctx: &egui::Context,
        state: &State,
        fits: impl Fn(Action) -> bool,
    ) -> (Option<Choice>, bool) {
        let mut chosen = None;
        let area = egui::Modal::default_area(egui::Id::unique("palette"))
            .anchor(Align2::CENTER_TOP, vec2(0.0, 90.0));
        let response = egui::Modal::new(egui::Id::unique("palette")).area(area).show(ctx, |ui| {
            ui.set_width(520.0);
            let same = self.found.as_ref().is_some_and(|((text, link, nodes, runs), _)| {
                *text == self.text
                    && *link == state.link
                    && Arc::ptr_eq(nodes, &state.nodes)
                    && Arc::ptr_eq(runs, &state.runs)
            });
            if !same {
                let (nodes, runs) = (Arc::clone(&state.nodes), Arc::clone(&state.runs));
                let asked = (self.text.clone(), state.link.clone(), nodes, runs);
                self.found = Some((asked, self.fitting(state, fits)));
            }
            let found = self.found.as_ref().map(|(_, found)| found.clone()).unwrap_or_default();
            self.keys(ui, found.len());
            let field = egui::TextEdit::singleline(&mut self.text)
                .hint_text("Search commands, nodes and runs")
                .font(egui::FontId::proportional(16.0))
                .desired_width(f32::INFINITY)
                .margin(vec2(10.0, 8.0));
            let field = ui.add(field);
            field.widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "Search commands"));
            field.request_focus();
            if field.changed() {
                self.at = 0;
            }
            ui.add_space(6.0);
            let entered = ui.input(|input| input.key_pressed(Key::Enter));
            for (i, (name, keys, choice)) in found.into_iter().enumerate() {
                let clicked = row(ui, &name, &keys, i == self.at);
                if clicked || (entered && i == self.at) {
                    chosen = Some(choice);
                }
            }
        });
        let close = response.should_close() || chosen.is_some();
        (chosen, close)
    }

    fn keys(&mut self, ui: &Ui, found: usize) {
        let last = found.saturating_sub(1);
        ui.input_mut(|input| {
            if input.consume_key(Modifiers::NONE, Key::ArrowDown) {
                self.at = (self.at + 1).min(last);
            }
            if input.consume_key(Modifiers::NONE, Key::ArrowUp) {
                self.at = self.at.saturating_sub(1);
            }
        });
        self.at = self.at.min(last);
    }

    /// What fits the text, the best first.
    fn fitting(&self, state: &State, fits: impl Fn(Action) -> bool) -> Vec<Offer> {
        let wanted = self.text.to_lowercase();
        let mut found: Vec<(usize, String, String, Choice)> = Vec::new();
        let mut offer = |name: String, keys: String, choice: Choice| {
            if let Some(rank) = rank(&name.to_lowercase(), &wanted) {
                found.push((rank, name, keys, choice));
            }
        };
        let offered = |action: &Action| *action != Action::Palette && fits(*action);
        for action in Action::ALL.into_iter().filter(offered) {
            let keys =
                action.shortcut().map(|s| s.format(&egui::ModifierNames::NAMES, false)).unwrap_or_default();
            offer(action.name(), keys, Choice::Action(action));
        }
        for row in state.runs.iter().rev() {
            offer(format!("Show run {}", row.run), row.standing.clone(), Choice::Run(row.run.clone()));
        }
        if !wanted.is_empty() {
            for row in state.nodes.iter() {
                offer(
                    format!("Open node {}", row.status.name),
                    row.short.clone(),
                    Choice::Node(row.status.node),
                );
            }
        }
        // Stable: equal ranks keep the order above.
        found.sort_by_key(|(rank, ..)| *rank);
        found.truncate(SHOWN);
        found.into_iter().map(|(_, name, keys, choice)| (name, keys, choice)).collect()
    }
}

/// How well a name fits, 0 best: the text at the start of a word, inside, or its letters in order.
fn rank(name: &str, wanted: &str) -> Option<usize> {
    if wanted.is_empty() {
        return Some(0);
    }
    if let Some(at) = name.find(wanted) {
        let starts = at == 0 || name[..at].ends_with([' ', '-']);
        return Some(if starts { 0 } else { 1 });
    }
    let mut letters = name.chars();
    wanted.chars().all(|c| letters.any(|l| l == c)).then_some(2)
}

fn row(ui: &mut Ui, name: &str, keys: &str, at: bool) -> bool {
    let p = Colours::get(ui);
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), 30.0), egui::Sense::click());
    if at || response.hovered() {
        ui.painter().rect_filled(rect, 6.0, if at { p.card.lerp_to_gamma(p.accent, 0.22) } else { p.well });
    }
    response.widget_info(|| egui::WidgetInfo::selected(egui::Role::Button, true, at, name));
    let font = egui::FontId::proportional(14.0);
    ui.painter().text(rect.left_center() + vec2(10.0, 0.0), Align2::LEFT_CENTER, name, font, p.ink);
    let font = egui::FontId::proportional(12.0);
    ui.painter().text(rect.right_center() - vec2(10.0, 0.0), Align2::RIGHT_CENTER, keys, font, p.soft);
    response.clicked()
}

/// The sheet of keyboard shortcuts; true when it is to be closed.
pub(crate) fn shortcuts_ui(ctx: &egui::Context) -> bool {
    let response = crate::widgets::modal(ctx, "shortcuts").show(ctx, |ui| {
        ui.set_width(720.0);
        ui.heading("Keyboard shortcuts");
        ui.add_space(8.0);
        let global = Action::ALL.into_iter().filter_map(|action| {
            let keys = action.shortcut()?.format(&egui::ModifierNames::NAMES, false);
            Some((keys, action.name()))
        });
        let local = [
            ("← →", "Trade-off: step along the front"),
            ("↑ ↓", "Fleet: move; with Shift pick as well"),
            ("Space", "Fleet: pick the node"),
            ("Enter", "Fleet: open the node"),
            ("Escape", "Close what is open, pick nothing"),
        ];
        let local = local.into_iter().map(|(keys, what)| (keys.to_owned(), what.to_owned()));
        let all: Vec<(String, String)> = global.chain(local).collect();
        // Two columns, so that the sheet fits the smallest window.
        ui.columns(2, |columns| {
            let halves = all.chunks(all.len().div_ceil(2));
            for (i, (ui, half)) in columns.iter_mut().zip(halves).enumerate() {
                egui::Grid::new(("keys", i)).num_columns(2).spacing([16.0, 6.0]).show(ui, |ui| {
                    for (keys, what) in half {
                        ui.label(RichText::new(keys).monospace().weak());
                        ui.label(what);
                        ui.end_row();
                    }
                });
            }
        });
        ui.add_space(10.0);
        ui.label(soft("Everything is also in the palette."));
        ui.button("Close").clicked()
    });
    response.inner || response.should_close()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::draft::Draft;

    #[test]
    fn better_fits_come_first() {
        assert_eq!(rank("go to fleet", "fleet"), Some(0));
        assert_eq!(rank("go to fleet", "leet"), Some(1));
        assert_eq!(rank("go to fleet", "gft"), Some(2));
        assert_eq!(rank("go to fleet", "xyz"), None);
    }

    #[test]
    fn nodes_are_offered_only_when_asked_for() {
        let found = Palette::default().fitting(&State::default(), |_| true);
        assert_eq!(found.len(), SHOWN);
        let palette = Palette { text: "theme".to_owned(), ..Palette::default() };
        assert_eq!(palette.fitting(&State::default(), |_| true)[0].2, Choice::Action(Action::Theme));
    }

    #[test]
    fn only_what_can_be_done_is_offered() {
        let offers = |link| {
            let palette = Palette { text: "create".to_owned(), ..Palette::default() };
            let state = State { link, ..State::default() };
            let found =
                palette.fitting(&state, |action| action.fits(&state, &Draft::default(), &BTreeSet::new()));
            found.iter().any(|(.., choice)| *choice == Choice::Action(Action::Create))
        };
        assert!(offers(Link::Empty { home: "here".to_owned() }));
        assert!(!offers(Link::Opening { what: "Starting the coordinator".to_owned() }));
    }
}
