//! The nodes: a table to sort, filter and pick from, and one node's page beside it.

mod columns;
mod detail;

use std::collections::BTreeSet;
use std::sync::Arc;

use egui::{Key, Modifiers, RichText, Ui};
use egui_extras::{Column as TableColumn, TableBuilder};
use exeunt_protocol::NodeId;
use exeunt_protocol::operator::{NodeReport, NodeRow, RunReport};

pub use self::columns::Column;
use self::columns::{Entry, NodeStanding, answers};
use super::{Question, Scene};
use crate::command::Command;
use crate::format::{count, plural};
use crate::state::State;
use crate::theme::{GRID, Palette};
use crate::widgets::{self, card, soft, strong, tag, title};

const ROW: f32 = 26.0;

/// What the view remembers.
#[derive(Debug)]
pub(crate) struct Fleet {
    filter: String,
    standings: BTreeSet<NodeStanding>,
    sort: (Column, bool),
    /// The row that the keyboard is at, by its place in the table.
    cursor: Option<usize>,
    /// Where a range that is picked with Shift begins.
    anchor: Option<usize>,
    open: Option<NodeId>,
    rows: Rows,
    focus_filter: bool,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            filter: String::new(),
            standings: NodeStanding::ALL.into(),
            sort: (Column::Name, true),
            cursor: None,
            anchor: None,
            open: None,
            rows: Rows::default(),
            focus_filter: false,
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
    answers: Vec<String>,
}

impl Rows {
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
            self.answers = answers(state);
        }
        self.nodes = Some(Arc::clone(&state.nodes));
        self.report = state.report.clone();
        self.asked = Some(asked);
        let places = state.report.iter().flat_map(|report| report.nodes.iter().enumerate());
        let given: std::collections::BTreeMap<NodeId, usize> =
            places.map(|(i, node)| (node.node, i)).collect();
        let wanted = filter.trim().to_lowercase();
        let fits = |i: usize, row: &NodeRow| {
            let texts = [
                Some(row.status.name.as_str()),
                Some(row.short.as_str()),
                row.status.software.as_deref(),
                row.status.engine.as_deref(),
                self.answers.get(i).map(String::as_str),
            ];
            standings.contains(&NodeStanding::of(row))
                && (wanted.is_empty()
                    || texts.into_iter().flatten().any(|t| t.to_lowercase().contains(&wanted)))
        };
        let kept = state.nodes.iter().enumerate().filter(|(i, row)| fits(*i, row));
        let mut order: Vec<(usize, Option<usize>)> =
            kept.map(|(i, row)| (i, given.get(&row.status.node).copied())).collect();
        let entries = Entries { state, answers: &self.answers };
        order.sort_by(|a, b| {
            let (a, b) = (entries.at(*a), entries.at(*b));
            let order = sort.0.compare(&a, &b);
            if sort.1 { order } else { order.reverse() }
        });
        self.order = order;
    }
}

/// Puts a row's parts together.
#[derive(Clone, Copy)]
struct Entries<'a> {
    state: &'a State,
    answers: &'a [String],
}

impl<'a> Entries<'a> {
    fn at(&self, (row, given): (usize, Option<usize>)) -> Entry<'a> {
        let reports: &'a [NodeReport] = self.state.report.as_ref().map_or(&[], |report| &report.nodes);
        Entry {
            row: &self.state.nodes[row],
            given: given.and_then(|i| reports.get(i)),
            in_force: self.state.in_force().map(|force| force.version),
            answer: self.answers.get(row).cloned().unwrap_or_default(),
        }
    }
}

impl Fleet {
    /// Puts the keyboard into the filter.
    pub(crate) fn focus_filter(&mut self) {
        self.focus_filter = true;
    }

    /// Opens a node's page.
    pub(crate) fn open(&mut self, node: NodeId) {
        self.open = Some(node);
    }

    /// Closes the node that is open.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    pub(crate) fn ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>, token: &mut bool) {
        if scene.state.nodes.is_empty() {
            let text = "A device joins with a token: it carries the coordinator’s address and works once. On the device: exeunt-node join TOKEN --data FOLDER";
            return widgets::empty(ui, "No nodes yet", text, |ui| {
                if widgets::primary(ui, "Make a join token").clicked() {
                    *token = true;
                    scene.commands.push(Command::MakeToken { valid_s: 3600, label: String::new() });
                }
            });
        }
        self.rows.bring_up(scene.state, &self.filter, &self.standings, self.sort);
        if let Some(node) = self.open
            && let Some(row) = scene.state.node(node)
        {
            let close = egui::Panel::right("node")
                .default_size(340.0)
                .size_range(280.0..=620.0)
                .show_separator_line(false)
                .frame(egui::Frame::new().inner_margin(egui::Margin { left: 12, ..Default::default() }))
                .show(ui, |ui| card(ui, |ui| detail::ui(ui, scene, row)).inner)
                .inner;
            if close {
                self.open = None;
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
                let n = scene.state.nodes.iter().filter(|row| NodeStanding::of(row) == standing).count();
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
            ui.menu_button("Columns", |ui| {
                for column in Column::ALL {
                    let mut on = scene.settings.columns.contains(&column);
                    ui.add_enabled_ui(column != Column::Name, |ui| {
                        if ui.checkbox(&mut on, column.name()).on_hover_text(column.meaning()).changed() {
                            if on {
                                scene.settings.columns.insert(column);
                            } else {
                                scene.settings.columns.remove(&column);
                            }
                        }
                    });
                }
            });
            if !scene.picked.is_empty() {
                ui.separator();
                ui.label(strong(format!("{} picked", count(scene.picked.len() as u64))));
                if ui.button("Unpick").on_hover_text("Escape").clicked() {
                    scene.picked.clear();
                }
                if widgets::danger(ui, "Revoke…").clicked() {
                    *scene.ask = revoke(scene.state, scene.picked.iter().copied().collect());
                }
            }
        });
    }

    /// Moves the cursor, picks and opens by keyboard; the row to bring into view, if the cursor moved.
    fn keys(&mut self, ui: &Ui, scene: &mut Scene<'_>) -> Option<usize> {
        if ui.memory(|memory| memory.focused().is_some()) || ui.ctx().any_popup_open() {
            return None;
        }
        let rows = self.rows.order.len();
        let node_at =
            |place: usize| self.rows.order.get(place).map(|(i, _)| scene.state.nodes[*i].status.node);
        let before = self.cursor;
        let pressed =
            |modifiers: Modifiers, key: Key| ui.input_mut(|input| input.consume_key(modifiers, key));
        let last = rows.saturating_sub(1);
        let step = |from: Option<usize>, by: i64| {
            from.map_or(0, |at| (at as i64 + by).clamp(0, last as i64) as usize)
        };
        for (key, by) in [(Key::ArrowDown, 1), (Key::ArrowUp, -1), (Key::PageDown, 20), (Key::PageUp, -20)] {
            if pressed(Modifiers::SHIFT, key) {
                let from = self.cursor.unwrap_or(0);
                let to = step(self.cursor, by);
                self.cursor = Some(to);
                scene.picked.extend((from.min(to)..=from.max(to)).filter_map(node_at));
            } else if pressed(Modifiers::NONE, key) {
                self.cursor = Some(step(self.cursor, by));
            }
        }
        if pressed(Modifiers::NONE, Key::Home) {
            self.cursor = Some(0);
        }
        if pressed(Modifiers::NONE, Key::End) {
            self.cursor = Some(last);
        }
        if pressed(Modifiers::COMMAND, Key::A) {
            scene.picked.extend((0..rows).filter_map(node_at));
        }
        if let Some(node) = self.cursor.and_then(node_at) {
            if pressed(Modifiers::NONE, Key::Space) && !scene.picked.remove(&node) {
                scene.picked.insert(node);
            }
            if pressed(Modifiers::NONE, Key::Enter) {
                self.open = if self.open == Some(node) { None } else { Some(node) };
            }
        }
        if pressed(Modifiers::NONE, Key::Escape) {
            if self.open.is_some() {
                self.open = None;
            } else {
                scene.picked.clear();
            }
        }
        (before != self.cursor).then_some(self.cursor).flatten()
    }

    fn table_ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>, scroll_to: Option<usize>) {
        let p = Palette::get(ui);
        let columns: Vec<Column> =
            Column::ALL.into_iter().filter(|column| scene.settings.columns.contains(column)).collect();
        let height = ui.available_height();
        // Columns share the room there is; they are dealt out anew when the window becomes much wider or narrower.
        let room = ui.available_width() - 8.0 * columns.len() as f32;
        let stretch = (room / columns.iter().map(|column| column.width()).sum::<f32>()).clamp(1.0, 1.8);
        let layout = ("fleet", columns.len(), (room / 120.0) as i32);
        let entries = Entries { state: scene.state, answers: &self.rows.answers };
        let mut clicked = None;
        let mut sort = self.sort;
        egui::ScrollArea::horizontal().auto_shrink(false).show(ui, |ui| {
            let mut table = TableBuilder::new(ui)
                .id_salt(layout)
                .striped(true)
                .sense(egui::Sense::click())
                .resizable(true)
                .auto_shrink(false)
                .max_scroll_height(height - ROW - 8.0)
                .cell_layout(egui::Layout::left_to_right(egui::Align::Center));
            for column in &columns {
                table =
                    table.column(TableColumn::initial(column.width() * stretch).at_least(48.0).clip(true));
            }
            if let Some(row) = scroll_to {
                table = table.scroll_to_row(row, None);
            }
            table
                .header(ROW, |mut header| {
                    for column in &columns {
                        header.col(|ui| {
                            if head_ui(ui, *column, self.sort) {
                                sort = (*column, if self.sort.0 == *column { !self.sort.1 } else { true });
                            }
                        });
                    }
                })
                .body(|body| {
                    body.rows(ROW, self.rows.order.len(), |mut row| {
                        let place = row.index();
                        let entry = entries.at(self.rows.order[place]);
                        let node = entry.row.status.node;
                        let picked = scene.picked.contains(&node);
                        row.set_selected(picked);
                        row.set_hovered(self.cursor == Some(place) || self.open == Some(node));
                        for column in &columns {
                            row.col(|ui| cell_ui(ui, &p, *column, &entry, scene.now_ms));
                        }
                        let response = row.response();
                        response.widget_info(|| {
                            let text = format!("Node {}, {}", entry.row.status.name, entry.standing().name());
                            egui::WidgetInfo::selected(egui::Role::Row, true, picked, text)
                        });
                        if response.clicked() {
                            clicked = Some((place, node, response.double_clicked()));
                        }
                    });
                });
        });
        self.sort = sort;
        if let Some((place, node, _)) = clicked {
            let modifiers = ui.input(|input| input.modifiers);
            self.click(scene, place, node, modifiers);
        }
    }

    /// A click opens the node; with Ctrl it picks, with Shift it picks a range.
    fn click(&mut self, scene: &mut Scene<'_>, place: usize, node: NodeId, modifiers: Modifiers) {
        self.cursor = Some(place);
        if modifiers.shift {
            let from = self.anchor.unwrap_or(place);
            let range = from.min(place)..=from.max(place);
            let nodes = range.filter_map(|at| self.rows.order.get(at));
            scene.picked.extend(nodes.map(|(i, _)| scene.state.nodes[*i].status.node));
            return;
        }
        self.anchor = Some(place);
        if modifiers.command {
            if !scene.picked.remove(&node) {
                scene.picked.insert(node);
            }
        } else {
            self.open = Some(node);
        }
    }
}

/// The question before nodes are shut out.
fn revoke(state: &State, nodes: Vec<NodeId>) -> Option<Question> {
    let rows = state.nodes.iter().filter(|row| nodes.contains(&row.status.node) && !row.revoked);
    let names: Vec<&str> = rows.map(|row| row.status.name.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let (heading, who) = match names.as_slice() {
        [one] => (format!("Revoke {one}?"), format!("The certificate of {one}")),
        many => {
            let first = many.iter().take(5).copied().collect::<Vec<_>>().join(", ");
            let more = many.len().saturating_sub(5);
            let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
            (format!("Revoke {}?", plural(many.len(), "node")), format!("The certificates of {first}{rest}"))
        }
    };
    Some(Question {
        heading,
        text: format!(
            "{who} will never be accepted again; a live connection ends at once. What was contributed so far stays counted. This cannot be undone: to come back, a device must join anew with a token."
        ),
        verb: "Revoke".to_owned(),
        command: Command::Revoke(nodes),
    })
}

/// A head that sorts; true when it was clicked.
fn head_ui(ui: &mut Ui, column: Column, sort: (Column, bool)) -> bool {
    let arrow = match sort {
        (by, true) if by == column => " ↑",
        (by, false) if by == column => " ↓",
        _ => "",
    };
    let text = RichText::new(format!("{}{arrow}", column.name())).size(12.5);
    let text = if arrow.is_empty() { text.weak() } else { text.family(crate::theme::heavy()) };
    let layout = if column.is_number() {
        egui::Layout::right_to_left(egui::Align::Center)
    } else {
        egui::Layout::left_to_right(egui::Align::Center)
    };
    ui.with_layout(layout, |ui| {
        let response = ui.add(egui::Button::new(text).frame(false));
        response.widget_info(|| {
            egui::WidgetInfo::labeled(egui::Role::Button, true, format!("Sort by {}", column.name()))
        });
        response.on_hover_text(column.meaning()).clicked()
    })
    .inner
}

fn cell_ui(ui: &mut Ui, p: &Palette, column: Column, entry: &Entry<'_>, now_ms: u64) {
    let text = column.text(entry, now_ms);
    if column.is_number() {
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| widgets::line(ui, text));
        return;
    }
    match column {
        Column::Standing => {
            let colour = entry.standing().colour(p);
            let (rect, _) = ui.allocate_exact_size(egui::vec2(8.0, 8.0), egui::Sense::hover());
            ui.painter().circle_filled(rect.center(), 4.0, colour);
            widgets::line(ui, text);
        }
        Column::Name => {
            widgets::line(ui, strong(text));
        }
        Column::Short => {
            widgets::line(ui, RichText::new(text).monospace().weak());
        }
        Column::Answer if text.starts_with("declined") => {
            widgets::line(ui, RichText::new(text).color(p.warn));
        }
        Column::Answer | Column::Seen | Column::Enrolled | Column::Software | Column::Engine => {
            widgets::line(ui, soft(text));
        }
        _ => {
            widgets::line(ui, text);
        }
    }
}

/// What a node's state is called, as a tag.
fn standing_tag(ui: &mut Ui, row: &NodeRow) {
    let p = Palette::get(ui);
    let standing = NodeStanding::of(row);
    tag(ui, standing.name(), standing.colour(&p));
}
