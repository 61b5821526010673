//! Where the run stands: what is asked, who has answered, whom it waits for and why; its queries along time, its class
//! coverage, its snapshots.

mod snapshots;
mod timeline;

use std::sync::Arc;

use egui::{RichText, Sense, Ui, vec2};
use exeunt_protocol::coordinator::Standing;
use exeunt_protocol::operator::{Coverage, RunReport};

use self::snapshots::Snapshots;
use super::{Order, Question, Scene, first_steps};
use crate::command::Command;
use crate::format::{ago, count, plural};
use crate::state::State;
use crate::theme::{GRID, Palette, heavy_font};
use crate::widgets::{self, card, soft, strong, tag, title};

/// Nodes that are waited for and shown by name at once.
const WAITING_ROWS: usize = 200;

/// What the view remembers.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// The query that is looked at.
    query: Option<usize>,
    snapshots: Snapshots,
    extent: Option<Extent>,
}

/// What a heat map needs to know of all its rows, worked out once.
#[derive(Debug)]
struct Extent {
    of: Arc<Coverage>,
    /// Places of the nodes, by name.
    order: Vec<usize>,
    /// The most samples that one node has of one class.
    most: u64,
}

impl Run {
    pub(crate) fn ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>) {
        let Some(report) = scene.state.report.clone() else {
            return first_steps(ui, scene);
        };
        egui::ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
            ui.spacing_mut().item_spacing.y = 3.0 * GRID;
            card(ui, |ui| standing_ui(ui, scene, &report));
            if !report.status.waiting_for.is_empty() {
                card(ui, |ui| waiting_ui(ui, &report));
            }
            card(ui, |ui| timeline::ui(ui, scene, &report, &mut self.query));
            if let Some(coverage) = scene.state.coverage.clone() {
                if self.extent.as_ref().is_none_or(|known| !Arc::ptr_eq(&known.of, &coverage)) {
                    self.extent = Some(Extent::new(coverage, scene.state));
                }
                if let Some(extent) = &self.extent {
                    card(ui, |ui| coverage_ui(ui, scene, extent));
                }
            }
            card(ui, |ui| self.snapshots.ui(ui, scene, &report));
        });
    }
}

impl Extent {
    fn new(of: Arc<Coverage>, state: &State) -> Self {
        let most = of.nodes.iter().flat_map(|(_, counts)| counts).copied().max().unwrap_or(0).max(1);
        let mut order: Vec<usize> = (0..of.nodes.len()).collect();
        order.sort_by_cached_key(|place| Order::natural(&state.name(of.nodes[*place].0)));
        Self { of, order, most }
    }
}

fn standing_ui(ui: &mut Ui, scene: &mut Scene<'_>, report: &RunReport) {
    let p = Palette::get(ui);
    ui.set_width(ui.available_width());
    let status = &report.status;
    let (word, colour) = match &status.standing {
        Standing::Asking { .. } => ("asking", p.warn),
        Standing::Sealing { .. } => ("merging", p.warn),
        Standing::Ready => ("ready", p.good),
        Standing::Failed { .. } => ("failed", p.bad),
        Standing::Stopped => ("stopped", p.soft),
    };
    let over = matches!(status.standing, Standing::Stopped | Standing::Failed { .. });
    widgets::ends(
        ui,
        |ui| {
            ui.label(RichText::new(status.run.as_str()).font(heavy_font(19.0)));
            tag(ui, word, colour);
            if let Some(row) = scene.state.runs.iter().find(|row| row.run == status.run) {
                ui.label(soft(format!("started {}", ago(scene.now_ms, row.started_ms))));
            }
        },
        |ui| {
            ui.add_enabled_ui(!over && scene.state.is_up(), |ui| {
                if widgets::danger(ui, "Stop run…").clicked() {
                    *scene.ask = Some(Question {
                        heading: format!("Stop {}?", status.run),
                        text: "Nodes are asked nothing more for this run, and stop inferring with its policy. Its tables and its snapshot stay. A stopped run cannot be taken up again.".to_owned(),
                        verb: "Stop run".to_owned(),
                        irreversible: true,
                        command: Command::StopRun(status.run.clone()),
                    });
                }
            });
        },
    );
    match &status.standing {
        Standing::Asking { query, name } => {
            let all = status.answers + status.waiting_for.len();
            ui.label(format!(
                "{name} ({query}): {} of {} have answered; it may close with {} and closes with all.",
                count(status.answers as u64),
                plural(all, "node"),
                count(status.quorum as u64)
            ));
            let share = if all == 0 { 0.0 } else { status.answers as f32 / all as f32 };
            progress(ui, share, all, status.quorum);
            if let Some(deadline) = status.deadline_in_s {
                ui.label(
                    soft(format!("closes with the quorum after {}", crate::format::left(deadline))).small(),
                );
            }
        }
        Standing::Sealing { query } => {
            ui.label(format!("The answers to {query} are being merged."));
        }
        Standing::Ready => {
            ui.label("Everything is measured; policies can be set.");
        }
        Standing::Failed { why } => {
            ui.label(RichText::new(why).color(p.bad));
        }
        Standing::Stopped => {
            ui.label("It was stopped. Its tables stay.");
        }
    }
}

/// Answers so far, with a tick at the quorum.
fn progress(ui: &mut Ui, share: f32, all: usize, quorum: usize) {
    let p = Palette::get(ui);
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), 8.0), Sense::hover());
    let painter = ui.painter();
    painter.rect_filled(rect, 4.0, p.well);
    let done = egui::Rect::from_min_size(rect.min, vec2(rect.width() * share.clamp(0.0, 1.0), rect.height()));
    painter.rect_filled(done, 4.0, p.accent);
    if all > 0 && quorum < all {
        let x = rect.left() + rect.width() * quorum as f32 / all as f32;
        painter.vline(x, rect.y_range().expand(3.0), egui::Stroke::new(2.0, p.ink));
    }
    response.widget_info(|| {
        let mut info = egui::WidgetInfo::labeled(egui::Role::ProgressIndicator, true, "Answers");
        info.value = Some(f64::from(share * 100.0));
        info
    });
}

fn waiting_ui(ui: &mut Ui, report: &RunReport) {
    ui.set_width(ui.available_width());
    let waiting = &report.status.waiting_for;
    ui.horizontal(|ui| {
        title(ui, "Waiting for");
        ui.label(soft(plural(waiting.len(), "node")));
    });
    egui::ScrollArea::vertical().id_salt("waiting").max_height(190.0).auto_shrink([false, true]).show_rows(
        ui,
        20.0,
        waiting.len().min(WAITING_ROWS),
        |ui, rows| {
            egui::Grid::new("waiting").num_columns(2).spacing([20.0, 4.0]).show(ui, |ui| {
                for one in &waiting[rows] {
                    ui.label(strong(&one.name));
                    ui.label(soft(&one.reason));
                    ui.end_row();
                }
            });
        },
    );
    if waiting.len() > WAITING_ROWS {
        ui.label(soft(format!("and {} more; the page Fleet lists them", waiting.len() - WAITING_ROWS)));
    }
}

/// Nodes × classes, darker where there are more samples.
fn coverage_ui(ui: &mut Ui, scene: &Scene<'_>, extent: &Extent) {
    let Extent { of: coverage, order, most } = extent;
    let p = Palette::get(ui);
    ui.set_width(ui.available_width());
    ui.horizontal(|ui| {
        title(ui, "Class coverage");
        ui.label(soft(
            "samples of the statistics part per node and class; empty where a class is missing or withheld",
        ));
    });
    let label = 120.0;
    let room = ui.available_width() - label - 16.0;
    let classes = coverage.classes.len().max(1);
    let width = (room / classes as f32).clamp(2.0, 96.0);
    let height = 18.0;
    if width >= 22.0 {
        let (rect, _) = ui.allocate_exact_size(vec2(label + width * classes as f32, 16.0), Sense::hover());
        for (k, name) in coverage.classes.iter().enumerate() {
            let at = rect.left_center() + vec2(label + width * (k as f32 + 0.5), 0.0);
            let short: String = name.chars().take((width / 7.0) as usize).collect();
            ui.painter().text(
                at,
                egui::Align2::CENTER_CENTER,
                short,
                egui::FontId::proportional(11.5),
                p.soft,
            );
        }
    }
    egui::ScrollArea::vertical().id_salt("coverage").max_height(320.0).auto_shrink([false, true]).show_rows(
        ui,
        height,
        coverage.nodes.len(),
        |ui, rows| {
            ui.spacing_mut().item_spacing.y = 2.0;
            for (node, counts) in order[rows].iter().map(|place| &coverage.nodes[*place]) {
                let name = scene.state.node(*node).map_or("?", |row| row.status.name.as_str());
                ui.horizontal(|ui| {
                    ui.spacing_mut().item_spacing.x = 0.0;
                    ui.allocate_ui(vec2(label, height), |ui| {
                        ui.set_width(label);
                        widgets::line(ui, RichText::new(name).size(12.5));
                    });
                    let size = vec2(width * classes as f32, height);
                    let (rect, response) = ui.allocate_exact_size(size, Sense::hover());
                    response.widget_info(|| {
                        let held = coverage.classes.iter().zip(counts).filter(|(_, n)| **n > 0);
                        let held: Vec<String> = held.map(|(class, n)| format!("{class}: {n}")).collect();
                        let text = format!("Samples per class of {name}: {}", held.join(", "));
                        egui::WidgetInfo::labeled(egui::Role::Image, true, text)
                    });
                    for (k, n) in counts.iter().enumerate().filter(|(_, n)| **n > 0) {
                        let min = rect.min + vec2(width * k as f32, 0.0);
                        let cell = egui::Rect::from_min_size(min, vec2(width, height))
                            .shrink(if width > 6.0 { 1.0 } else { 0.0 });
                        let strength = 0.15 + 0.85 * (*n as f32 / *most as f32).sqrt();
                        ui.painter().rect_filled(cell, 2.0, p.card.lerp_to_gamma(p.front, strength));
                    }
                    if let Some(pos) = response.hover_pos() {
                        let k = ((pos.x - rect.left()) / width) as usize;
                        let class = coverage.classes.get(k).cloned().unwrap_or_default();
                        let n = counts.get(k).copied().unwrap_or(0);
                        response.on_hover_text(format!("{name}, class {class}: {} samples", count(n)));
                    }
                });
            }
        },
    );
}
