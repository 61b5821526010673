//! The nodes: a table to sort, filter and pick from, and one node's page beside it.

mod columns;
mod detail;
mod questions;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use egui::containers::menu::{MenuButton, MenuConfig};
use egui::{Key, Modifiers, RichText, Ui};
use exeunt_protocol::NodeId;
use exeunt_protocol::operator::{NodeReport, NodeRow, RunReport};

pub use self::columns::Column;
pub(crate) use self::columns::Key as Order;
use self::columns::{Entry, NodeStanding};
use self::table::{Done, Sheet, table};
use super::Scene;
use crate::command::Command;
use crate::format::count;
use crate::settings::Settings;
use crate::state::State;
use crate::theme::{GRID, Palette};
use crate::widgets::{self, card, soft, strong, tag, title};

/// What the view remembers.
#[derive(Debug)]
pub(crate) struct Fleet {
    filter: String,
    standings: BTreeSet<NodeStanding>,
    /// The node that the keyboard is at, wherever its row moves.
    cursor: Option<NodeId>,
    /// Where a range that is picked with Shift begins.
    anchor: Option<NodeId>,
    open: Option<NodeId>,
    rows: Rows,
    focus_filter: bool,
    /// Widths of columns while one is being dragged.
    widths: BTreeMap<Column, f32>,
    /// The new name of the node that is open, while it is being typed.
    naming: Option<String>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            filter: String::new(),
            standings: NodeStanding::ALL.into(),
            cursor: None,
            anchor: None,
            open: None,
            rows: Rows::default(),
            focus_filter: false,
            widths: BTreeMap::new(),
            naming: None,
        }
    }
}

/// The rows that pass the filter, in their order; worked out when something changed, not in every frame.
#[derive(Debug, Default)]
struct Rows {
    nodes: Option<Arc<[NodeRow]>>,
    report: Option<Arc<RunReport>>,
    asked: Option<(String, BTreeSet<NodeStanding>, (Column, bool))>,
    /// Place among the state's nodes, and among those of the report.
    order: Vec<(usize, Option<usize>)>,
    /// Nodes of each standing, in the order of [`NodeStanding::ALL`].
    standings: [usize; NodeStanding::ALL.len()],
}

impl Rows {
    /// The node of a row.
    fn node_at(&self, place: usize) -> Option<NodeId> {
        let (row, _) = self.order.get(place)?;
        Some(self.nodes.as_ref()?.get(*row)?.status.node)
    }

    /// The row of a node, if it passes the filter.
    fn place_of(&self, node: NodeId) -> Option<usize> {
        (0..self.order.len()).find(|place| self.node_at(*place) == Some(node))
    }

    fn bring_up(
        &mut self,
        state: &State,
        filter: &str,
        standings: &BTreeSet<NodeStanding>,
        sort: (Column, bool),
    ) {
        let same_nodes = self.nodes.as_ref().is_some_and(|nodes| Arc::ptr_eq(nodes, &state.nodes));
        let same_report = match (&self.report, &state.report) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        let asked = (filter.to_owned(), standings.clone(), sort);
        if same_nodes && same_report && self.asked.as_ref() == Some(&asked) {
            return;
        }
        if !(same_nodes && same_report) {
            self.standings = [0; NodeStanding::ALL.len()];
            for row in state.nodes.iter() {
                self.standings[NodeStanding::of(row) as usize] += 1;
            }
        }
        self.nodes = Some(Arc::clone(&state.nodes));
        self.report = state.report.clone();
        self.asked = Some(asked);
        let places = state.report.iter().flat_map(|report| report.nodes.iter().enumerate());
        let given: std::collections::BTreeMap<NodeId, usize> =
            places.map(|(i, node)| (node.node, i)).collect();
        let wanted = filter.trim().to_lowercase();
        let given_by = |row: &NodeRow| -> Option<usize> { given.get(&row.status.node).copied() };
        let entries = Entries { state };
        let fits = |i: usize, row: &NodeRow| {
            if !standings.contains(&NodeStanding::of(row)) {
                return false;
            }
            if wanted.is_empty() {
                return true;
            }
            let answer = entries.at((i, given_by(row))).answer().text;
            let texts = [
                Some(row.status.name.as_str()),
                Some(row.short.as_str()),
                row.status.software.as_deref(),
                row.status.engine.as_deref(),
                Some(answer.as_str()),
            ];
            texts.into_iter().flatten().any(|text| text.to_lowercase().contains(&wanted))
        };
        let kept = state.nodes.iter().enumerate().filter(|(i, row)| fits(*i, row));
        let places = kept.map(|(i, row)| (i, given_by(row)));
        let mut order: Vec<_> = places.map(|place| (sort.0.key(&entries.at(place)), place)).collect();
        order.sort_by(|(a, _), (b, _)| match (a, b) {
            (Some(a), Some(b)) if sort.1 => a.cmp(b),
            (Some(a), Some(b)) => b.cmp(a),
            (a, b) => b.is_some().cmp(&a.is_some()),
        });
        self.order = order.into_iter().map(|(_, place)| place).collect();
    }
}

/// Puts a row's parts together.
#[derive(Clone, Copy)]
struct Entries<'a> {
    state: &'a State,
}

impl<'a> Entries<'a> {
    fn at(&self, (row, given): (usize, Option<usize>)) -> Entry<'a> {
        let reports: &'a [NodeReport] = self.state.report.as_ref().map_or(&[], |report| &report.nodes);
        let row = &self.state.nodes[row];
        let given = given.and_then(|i| reports.get(i));
        // Of most fleets few nodes have a policy of their own: only those are worth a search.
        let force = match given {
            Some(given) if given.policy.overridden => {
                self.state.report.as_ref().and_then(|report| report.status.in_force_at(given.node))
            }
            _ => self.state.in_force(),
        };
        Entry { row, given, force }
    }
}

impl Fleet {
    /// Puts the keyboard into the filter.
    pub(crate) fn focus_filter(&mut self) {
        self.focus_filter = true;
    }

    /// Opens a node's page.
    pub(crate) fn open(&mut self, node: NodeId) {
        if self.open != Some(node) {
            self.naming = None;
        }
        self.open = Some(node);
    }

    /// Closes the node that is open.
    pub(crate) fn close(&mut self) {
        self.open = None;
        self.naming = None;
    }

    pub(crate) fn ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>) {
        if scene.state.nodes.is_empty() {
            let text = "A device joins with a token: it carries the coordinator’s address and works once. On the device: exeunt-node join TOKEN --data FOLDER";
            return widgets::empty(ui, "No nodes yet", text, |ui| {
                if widgets::primary(ui, "Make a join token").clicked() {
                    scene.make_token();
                }
            });
        }
        self.rows.bring_up(scene.state, &self.filter, &self.standings, scene.settings.sort);
        if let Some(node) = self.open
            && let Some(row) = scene.state.node(node)
        {
            let close = egui::Panel::right("node")
                .default_size(360.0)
                .size_range(300.0..=620.0)
                .show_separator_line(false)
                .frame(egui::Frame::new().inner_margin(egui::Margin { left: 12, ..Default::default() }))
                .show(ui, |ui| card(ui, |ui| detail::ui(ui, scene, row, &mut self.naming)).inner)
                .inner;
            if close {
                self.close();
            }
        }
        egui::CentralPanel::no_frame().show(ui, |ui| {
            card(ui, |ui| {
                self.tools_ui(ui, scene);
                ui.add_space(GRID);
                if self.rows.order.is_empty() {
                    return widgets::empty(ui, "No node fits", "Nothing passes the filter.", |ui| {
                        if ui.button("Clear the filter").clicked() {
                            self.filter.clear();
                            self.standings = NodeStanding::ALL.into();
                        }
                    });
                }
                let scroll_to = self.keys(ui, scene);
                self.table_ui(ui, scene, scroll_to);
            });
        });
    }

    fn tools_ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>) {
        let p = Palette::get(ui);
        ui.horizontal_wrapped(|ui| {
            title(ui, "Nodes");
            let (shown, all) = (self.rows.order.len(), scene.state.nodes.len());
            let text = if shown == all {
                count(all as u64)
            } else {
                format!("{} of {}", count(shown as u64), count(all as u64))
            };
            ui.label(soft(text));
            let field =
                egui::TextEdit::singleline(&mut self.filter).hint_text("Filter  /").desired_width(170.0);
            let field = ui.add(field);
            field.widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "Filter nodes"));
            if std::mem::take(&mut self.focus_filter) {
                field.request_focus();
            }
            for standing in NodeStanding::ALL {
                let n = self.rows.standings[standing as usize];
                // States that no node is in, and that most fleets never see, take no room.
                if n == 0 && !matches!(standing, NodeStanding::Connected | NodeStanding::Away) {
                    continue;
                }
                let mut on = self.standings.contains(&standing);
                let text = format!("{} {}", count(n as u64), standing.name());
                let text = RichText::new(text).color(if on { standing.colour(&p) } else { p.soft });
                if ui.toggle_value(&mut on, text).on_hover_text("Show or hide these nodes").changed() {
                    if on {
                        self.standings.insert(standing);
                    } else {
                        self.standings.remove(&standing);
                    }
                }
            }
            columns_ui(ui, scene.settings);
            if !scene.picked.is_empty() {
                ui.separator();
                ui.label(strong(format!("{} picked", count(scene.picked.len() as u64))));
                if ui.button("Unpick").on_hover_text("Escape").clicked() {
                    scene.picked.clear();
                }
                self.many_ui(ui, scene);
            }
        });
    }

    /// What can be done with all picked nodes at once.
    fn many_ui(&self, ui: &mut Ui, scene: &mut Scene<'_>) {
        let of = |standing: NodeStanding| -> Vec<NodeId> {
            let rows = scene.picked.iter().filter_map(|node| scene.state.node(*node));
            rows.filter(|row| NodeStanding::of(row) == standing).map(|row| row.status.node).collect()
        };
        let pending = of(NodeStanding::Pending);
        let apart = of(NodeStanding::Quarantined);
        let members = [of(NodeStanding::Connected), of(NodeStanding::Away)].concat();
        ui.add_enabled_ui(scene.state.is_up(), |ui| {
            if !pending.is_empty() && ui.button("Approve…").clicked() {
                *scene.ask = questions::approve(scene.state, pending);
            }
            if !apart.is_empty() && ui.button("Release").clicked() {
                scene.commands.push(Command::Release(apart));
            }
            if !members.is_empty() && ui.button("Quarantine…").clicked() {
                *scene.ask = questions::quarantine(scene.state, members);
            }
            if widgets::danger(ui, "Revoke…").clicked() {
                *scene.ask = questions::revoke(scene.state, scene.picked.iter().copied().collect());
            }
        });
    }

    /// Moves the cursor, picks and opens by keyboard; the row to bring into view, if the cursor moved.
    fn keys(&mut self, ui: &Ui, scene: &mut Scene<'_>) -> Option<usize> {
        if ui.memory(|memory| memory.focused().is_some()) || ui.ctx().any_popup_open() {
            return None;
        }
        let rows = self.rows.order.len();
        let node_at = |place: usize| self.rows.node_at(place);
        // A row that the filter took away is no place to go on from.
        let before = self.cursor.and_then(|node| self.rows.place_of(node));
        let mut at = before;
        let pressed =
            |modifiers: Modifiers, key: Key| ui.input_mut(|input| input.consume_key(modifiers, key));
        let last = rows.saturating_sub(1);
        let step = |from: Option<usize>, by: i64| {
            from.map_or(0, |at| (at as i64 + by).clamp(0, last as i64) as usize)
        };
        for (key, by) in [(Key::ArrowDown, 1), (Key::ArrowUp, -1), (Key::PageDown, 20), (Key::PageUp, -20)] {
            if pressed(Modifiers::SHIFT, key) {
                let from = at.unwrap_or(0);
                let to = step(at, by);
                at = Some(to);
                scene.picked.extend((from.min(to)..=from.max(to)).filter_map(node_at));
            } else if pressed(Modifiers::NONE, key) {
                at = Some(step(at, by));
            }
        }
        if pressed(Modifiers::NONE, Key::Home) {
            at = Some(0);
        }
        if pressed(Modifiers::NONE, Key::End) {
            at = Some(last);
        }
        if pressed(Modifiers::COMMAND, Key::A) {
            scene.picked.extend((0..rows).filter_map(node_at));
        }
        if let Some(node) = at.and_then(node_at) {
            self.cursor = Some(node);
            if pressed(Modifiers::NONE, Key::Space) && !scene.picked.remove(&node) {
                scene.picked.insert(node);
            }
            if pressed(Modifiers::NONE, Key::Enter) {
                if self.open == Some(node) {
                    self.close();
                } else {
                    self.open(node);
                }
            }
        }
        if pressed(Modifiers::NONE, Key::Escape) {
            if self.open.is_some() {
                self.close();
            } else {
                scene.picked.clear();
            }
        }
        (before != at).then_some(at).flatten()
    }

    fn table_ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>, scroll_to: Option<usize>) {
        let shown = |column: &Column| scene.settings.columns.contains(column) || *column == Column::Name;
        let stays = |column: &Column| scene.settings.pinned.contains(column) || *column == Column::Name;
        let (mut columns, rest): (Vec<Column>, Vec<Column>) =
            Column::ALL.into_iter().filter(shown).partition(stays);
        let pinned = columns.len();
        columns.extend(rest);
        let mut widths = scene.settings.widths.clone();
        widths.extend(self.widths.iter().map(|(column, width)| (*column, *width)));
        let sheet = Sheet {
            columns: &columns,
            pinned,
            widths: &widths,
            entries: Entries { state: scene.state },
            order: &self.rows.order,
            sort: scene.settings.sort,
            picked: scene.picked,
            cursor: self.cursor,
            open: self.open,
            scroll_to,
            now_ms: scene.now_ms,
        };
        for done in table(ui, &sheet) {
            match done {
                Done::Row(node) => {
                    let modifiers = ui.input(|input| input.modifiers);
                    self.click(scene, node, modifiers);
                }
                Done::Sort(column) => {
                    let (by, up) = scene.settings.sort;
                    scene.settings.sort = (column, by != column || !up);
                }
                Done::Pin(column, on) => set(&mut scene.settings.pinned, column, on),
                Done::Hide(column) => set(&mut scene.settings.columns, column, false),
                Done::Width(column, width) => {
                    self.widths.insert(column, width);
                }
            }
        }
        // Widths are kept when the mouse lets go, not in every frame on the way.
        if !self.widths.is_empty() && !ui.input(|input| input.pointer.any_down()) {
            scene.settings.widths.append(&mut self.widths);
        }
    }

    /// A click opens the node; with Ctrl it picks, with Shift it picks a range.
    fn click(&mut self, scene: &mut Scene<'_>, node: NodeId, modifiers: Modifiers) {
        self.cursor = Some(node);
        if modifiers.shift {
            if let Some(to) = self.rows.place_of(node) {
                let from = self.anchor.and_then(|node| self.rows.place_of(node)).unwrap_or(to);
                scene.picked.extend((from.min(to)..=from.max(to)).filter_map(|at| self.rows.node_at(at)));
            }
            return;
        }
        self.anchor = Some(node);
        if modifiers.command {
            if !scene.picked.remove(&node) {
                scene.picked.insert(node);
            }
        } else {
            self.open(node);
        }
    }
}

fn set(columns: &mut BTreeSet<Column>, column: Column, on: bool) {
    if on {
        columns.insert(column);
    } else {
        columns.remove(&column);
    }
}

/// Which columns are shown, and which stay at the left when the rest scrolls.
fn columns_ui(ui: &mut Ui, settings: &mut Settings) {
    let stays_open = MenuConfig::new().close_behavior(egui::PopupCloseBehavior::CloseOnClickOutside);
    MenuButton::new("Columns").config(stays_open).ui(ui, |ui| {
        egui::Grid::new("columns").num_columns(2).spacing([20.0, 2.0]).show(ui, |ui| {
            for column in Column::ALL.into_iter().filter(|column| *column != Column::Name) {
                let mut on = settings.columns.contains(&column);
                if ui.checkbox(&mut on, column.name()).on_hover_text(column.meaning()).changed() {
                    set(&mut settings.columns, column, on);
                }
                let mut pinned = settings.pinned.contains(&column);
                let response = ui
                    .add_enabled_ui(on, |ui| ui.toggle_value(&mut pinned, RichText::new("pin").size(12.0)))
                    .inner;
                response.widget_info(|| {
                    let text = format!("Pin {}", column.name());
                    egui::WidgetInfo::selected(egui::Role::CheckBox, on, pinned, text)
                });
                if response.on_hover_text("Stays at the left when the table scrolls").changed() {
                    set(&mut settings.pinned, column, pinned);
                }
                ui.end_row();
            }
        });
        ui.separator();
        if ui.button("Usual columns").on_hover_text("Which are shown, which stay, and their widths").clicked()
        {
            let usual = Settings::default();
            settings.columns = usual.columns;
            settings.pinned = usual.pinned;
            settings.widths = usual.widths;
        }
    });
}

/// What a node's state is called, as a tag.
fn standing_tag(ui: &mut Ui, row: &NodeRow) {
    let p = Palette::get(ui);
    let standing = NodeStanding::of(row);
    tag(ui, standing.name(), standing.colour(&p));
}
