//! The table itself: columns that stay or scroll, heads that sort, rows that are picked and opened.

use std::collections::{BTreeMap, BTreeSet};

use egui::{Align, Id, Layout, Rect, Response, RichText, Sense, Stroke, Ui, vec2};
use egui_table::{CellInfo, HeaderCellInfo, HeaderRow, Table, TableDelegate, TableState};
use exeunt_protocol::NodeId;

use super::Entries;
use super::columns::{Column, Entry};
use crate::theme::{Palette, heavy};
use crate::widgets::{self, soft, strong};

/// What the table is called.
const NAME: &str = "fleet";
const ROW: f32 = 30.0;
const HEAD: f32 = 32.0;
/// Space at both ends of a cell.
const PAD: f32 = 8.0;
/// A certificate that expires sooner should have been renewed by now.
const SOON_MS: u64 = 3 * 86_400_000;
/// Columns are never narrower.
const LEAST: f32 = 48.0;

/// What is drawn.
pub(super) struct Sheet<'a> {
    pub(super) columns: &'a [Column],
    /// Of the columns, so many stay at the left.
    pub(super) pinned: usize,
    /// Widths that a person chose.
    pub(super) widths: &'a BTreeMap<Column, f32>,
    pub(super) entries: Entries<'a>,
    /// Place among the state's nodes, and among those of the report.
    pub(super) order: &'a [(usize, Option<usize>)],
    pub(super) sort: (Column, bool),
    pub(super) picked: &'a BTreeSet<NodeId>,
    pub(super) cursor: Option<NodeId>,
    pub(super) open: Option<NodeId>,
    pub(super) scroll_to: Option<usize>,
    pub(super) now_ms: u64,
}

/// What a person did.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Done {
    /// The row of a node was clicked.
    Row(NodeId),
    Sort(Column),
    Pin(Column, bool),
    Hide(Column),
    /// A column is being made wider or narrower.
    Width(Column, f32),
}

pub(super) fn table(ui: &mut Ui, sheet: &Sheet<'_>) -> Vec<Done> {
    let room = ui.available_width();
    let wide = |column: &Column| sheet.widths.get(column).copied();
    // Columns of no chosen width share the room that the others leave.
    let chosen: f32 = sheet.columns.iter().filter_map(wide).sum();
    let usual: f32 = sheet.columns.iter().filter(|c| wide(c).is_none()).map(|c| c.width()).sum();
    let stretch = if usual > 0.0 { ((room - chosen) / usual).clamp(1.0, 2.2) } else { 1.0 };
    let width = |column: &Column| {
        let width = wide(column).unwrap_or_else(|| (column.width() * stretch).floor());
        width.max(LEAST)
    };
    let id_of = |column: Column| Id::unique(("fleet column", column));
    let columns: Vec<egui_table::Column> = sheet
        .columns
        .iter()
        .map(|column| egui_table::Column::new(width(column)).range(LEAST..=800.0).id(id_of(*column)))
        .collect();
    let mut table = Table::new()
        .id_salt(NAME)
        .num_rows(sheet.order.len() as u64)
        .columns(columns)
        .num_sticky_cols(sheet.pinned)
        .headers(vec![HeaderRow::new(HEAD)]);
    if let Some(row) = sheet.scroll_to {
        table = table.scroll_to_row(row as u64, None);
    }
    let outer = ui.available_rect_before_wrap();
    let pointer = ui.input(|input| input.pointer.hover_pos()).filter(|at| outer.contains(*at));
    let mut cells = Cells { sheet, p: Palette::get(ui), pointer, last: None, stays: false, done: Vec::new() };
    let state = ui
        .scope(|ui| {
            // The lines between columns are only there to be dragged: they show when the pointer is at one.
            ui.visuals_mut().widgets.noninteractive.bg_stroke = Stroke::NONE;
            // The table keeps widths by itself; they are handed in, so that settings and the room decide.
            let id = TableState::id(ui, egui::IdSalt::new(NAME));
            let widths = sheet.columns.iter().map(|column| (id_of(*column), width(column))).collect();
            TableState { col_widths: widths, parent_width: None }.store(ui.ctx(), id);
            table.show(ui, &mut cells);
            TableState::load(ui.ctx(), id)
        })
        .inner;
    let mut done = cells.done;
    if let Some(state) = state {
        let changed = sheet.columns.iter().filter_map(|column| {
            let now = *state.col_widths.get(&id_of(*column))?;
            ((now - width(column)).abs() > 0.5).then_some(Done::Width(*column, now.round()))
        });
        done.extend(changed);
    }
    done
}

struct Cells<'a> {
    sheet: &'a Sheet<'a>,
    p: Palette,
    pointer: Option<egui::Pos2>,
    /// The row that was begun last: rows come twice, first those of the columns that scroll.
    last: Option<u64>,
    /// Whether rows of the columns that stay are drawn by now.
    stays: bool,
    done: Vec<Done>,
}

impl<'a> Cells<'a> {
    fn entry(&self, row: u64) -> Option<Entry<'a>> {
        let place = usize::try_from(row).ok()?;
        Some(self.sheet.entries.at(*self.sheet.order.get(place)?))
    }
}

impl TableDelegate for Cells<'_> {
    fn header_cell_ui(&mut self, ui: &mut Ui, cell: &HeaderCellInfo) {
        let Some(column) = self.sheet.columns.get(cell.col_range.start).copied() else { return };
        let rect = ui.max_rect();
        ui.painter().rect_filled(rect, 0.0, self.p.card);
        ui.painter().hline(rect.x_range(), rect.bottom() - 0.5, Stroke::new(1.0, self.p.line));
        let response = padded(ui, column.is_number(), |ui| head_ui(ui, column, self.sheet.sort));
        if response.clicked() {
            self.done.push(Done::Sort(column));
        }
        let pinned = cell.col_range.start < self.sheet.pinned;
        response.context_menu(|ui| {
            if column == Column::Name {
                ui.label(soft("The name always stays"));
                return;
            }
            if ui.button(if pinned { "Let it scroll" } else { "Pin at the left" }).clicked() {
                self.done.push(Done::Pin(column, !pinned));
            }
            if ui.button("Hide this column").clicked() {
                self.done.push(Done::Hide(column));
            }
        });
    }

    fn row_ui(&mut self, ui: &mut Ui, row: u64) {
        self.stays |= self.last.is_some_and(|last| row <= last);
        self.last = Some(row);
        let Some(entry) = self.entry(row) else { return };
        let node = entry.row.status.node;
        let rect = ui.max_rect();
        let picked = self.sheet.picked.contains(&node);
        let at = self.sheet.cursor == Some(node) || self.sheet.open == Some(node);
        let hovered = self.pointer.is_some_and(|at| rect.y_range().contains(at.y));
        let p = &self.p;
        ui.painter().rect_filled(
            rect,
            0.0,
            if row.is_multiple_of(2) { p.card } else { ui.visuals().faint_bg_color },
        );
        if picked {
            ui.painter().rect_filled(rect, 0.0, ui.visuals().selection.bg_fill);
        }
        if at || hovered {
            ui.painter().rect_filled(rect, 0.0, p.ink.gamma_multiply(if at { 0.08 } else { 0.04 }));
        }
        if self.sheet.cursor == Some(node) && self.stays {
            let bar = Rect::from_min_size(rect.min, vec2(3.0, rect.height()));
            ui.painter().rect_filled(bar, 0.0, p.accent);
        }
        let part = rect.intersect(ui.clip_rect());
        let response = ui.interact(part, ui.scope_id().with(("row", self.stays)), Sense::click());
        if self.stays {
            response.widget_info(|| {
                let text = format!("Node {}, {}", entry.row.status.name, entry.standing().name());
                egui::WidgetInfo::selected(egui::Role::Row, true, picked, text)
            });
        }
        if response.clicked() {
            self.done.push(Done::Row(node));
        }
    }

    fn cell_ui(&mut self, ui: &mut Ui, cell: &CellInfo) {
        let Some(entry) = self.entry(cell.row_nr) else { return };
        let Some(column) = self.sheet.columns.get(cell.col_nr).copied() else { return };
        padded(ui, column.is_number(), |ui| cell_ui(ui, &self.p, column, &entry, self.sheet.now_ms));
    }

    fn default_row_height(&self) -> f32 {
        ROW
    }
}

/// A cell's contents with space at its ends; numbers stand at the right.
fn padded<R>(ui: &mut Ui, right: bool, contents: impl FnOnce(&mut Ui) -> R) -> R {
    let rect = ui.max_rect().shrink2(vec2(PAD, 0.0));
    let layout =
        if right { Layout::right_to_left(Align::Center) } else { Layout::left_to_right(Align::Center) };
    ui.scope_builder(egui::UiBuilder::new().max_rect(rect).layout(layout), contents).inner
}

/// A head that sorts.
fn head_ui(ui: &mut Ui, column: Column, sort: (Column, bool)) -> Response {
    let arrow = match sort {
        (by, true) if by == column => " ↑",
        (by, false) if by == column => " ↓",
        _ => "",
    };
    let text = RichText::new(format!("{}{arrow}", column.name())).size(12.5);
    let text = if arrow.is_empty() { text.weak() } else { text.family(heavy()) };
    let response = ui.add(egui::Button::new(text).frame(false).truncate());
    response.widget_info(|| {
        egui::WidgetInfo::labeled(egui::Role::Button, true, format!("Sort by {}", column.name()))
    });
    response.on_hover_text(column.meaning())
}

fn cell_ui(ui: &mut Ui, p: &Palette, column: Column, entry: &Entry<'_>, now_ms: u64) {
    let text = column.text(entry, now_ms);
    match column {
        Column::Standing => {
            let colour = entry.standing().colour(p);
            let (rect, _) = ui.allocate_exact_size(vec2(8.0, 8.0), Sense::hover());
            ui.painter().circle_filled(rect.center(), 4.0, colour);
            widgets::line(ui, text);
        }
        Column::Name => {
            widgets::line(ui, strong(text));
        }
        Column::Short => {
            widgets::line(ui, RichText::new(text).monospace().weak());
        }
        Column::Answer => {
            let answer = entry.answer();
            if let Some(done) = answer.progress {
                let (rect, _) = ui.allocate_exact_size(vec2(44.0, 6.0), Sense::hover());
                ui.painter().rect_filled(rect, 3.0, p.line);
                let part = Rect::from_min_size(rect.min, vec2(rect.width() * done, rect.height()));
                ui.painter().rect_filled(part, 3.0, p.accent);
            }
            widgets::line(ui, RichText::new(answer.text).color(answer.tone.colour(p)));
        }
        Column::Policy => {
            // What is wanted and not yet there stands out.
            let waits = entry.given.is_some_and(|given| given.policy.using != given.policy.wanted);
            let colour = if waits { p.warn } else { p.ink };
            widgets::line(ui, RichText::new(text).color(colour));
        }
        Column::Expires => {
            let left = entry.row.status.certificate_expires_ms.map(|at| at.saturating_sub(now_ms));
            let colour = match left {
                Some(0) => p.bad,
                Some(left) if left < SOON_MS => p.warn,
                _ => p.soft,
            };
            widgets::line(ui, RichText::new(text).color(colour));
        }
        Column::Seen | Column::Enrolled | Column::Software | Column::Engine => {
            widgets::line(ui, soft(text));
        }
        _ => {
            widgets::line(ui, text);
        }
    }
}
