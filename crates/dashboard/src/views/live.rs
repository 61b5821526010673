//! Where samples leave under the policy in force, node by node.
//!
//! What is shown was measured on every node's evaluation samples when the policy was set. Nodes do not report what
//! they infer day by day; nothing here pretends that they do.

use std::sync::Arc;

use egui::Ui;
use exeunt_protocol::operator::RunReport;

use super::Scene;
use crate::format::{percent, plural, tap};
use crate::theme::{GRID, Palette};
use crate::widgets::{self, card, figure, soft, strong, title};

const ROW: f32 = 24.0;

/// What the view remembers.
#[derive(Debug, Default)]
pub(crate) struct Live {
    rows: Option<Rows>,
}

/// Nodes with a measured policy, the dearest first.
#[derive(Debug)]
struct Rows {
    report: Arc<RunReport>,
    /// Place among the report's nodes, and of the policy among those of the node.
    order: Vec<(usize, usize)>,
}

impl Live {
    pub(crate) fn ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>) {
        let Some((report, force)) = scene.state.report.clone().zip(scene.state.in_force().cloned()) else {
            let text = "When a policy is in force, this page shows where samples leave on every node.";
            return widgets::empty(ui, "No policy in force", text, |_| {});
        };
        if !self.rows.as_ref().is_some_and(|rows| Arc::ptr_eq(&rows.report, &report)) {
            let places = report.nodes.iter().enumerate().filter_map(|(i, node)| {
                Some((i, node.policies.iter().position(|policy| policy.version == force.version)?))
            });
            let mut order: Vec<(usize, usize)> = places.collect();
            let cost = |(i, k): (usize, usize)| report.nodes[i].policies[k].cost;
            order.sort_by(|a, b| cost(*b).total_cmp(&cost(*a)));
            self.rows = Some(Rows { report: Arc::clone(&report), order });
        }
        ui.spacing_mut().item_spacing.y = 3.0 * GRID;
        card(ui, |ui| {
            let p = Palette::get(ui);
            ui.set_width(ui.available_width());
            title(ui, &format!("Policy {} on the fleet’s evaluation samples", force.version.0));
            match (force.accuracy, force.cost) {
                (Some(accuracy), Some(cost)) => {
                    let early: f64 = force.left.iter().rev().skip(1).sum();
                    ui.horizontal(|ui| {
                        ui.spacing_mut().item_spacing.x = 9.0 * GRID;
                        figure(ui, "Leave early", &percent(early), "of all samples", p.draft);
                        figure(ui, "Saved", &percent(1.0 - cost), "of the multiply-accumulates", p.draft);
                        figure(ui, "Accuracy", &percent(accuracy), "of the answers given", p.ink);
                    });
                    exits_ui(ui, &p, &report, &force.left);
                }
                _ => {
                    ui.label(soft("The nodes are measuring it"));
                }
            }
        });
        let Some(rows) = &self.rows else { return };
        if rows.order.is_empty() {
            return;
        }
        card(ui, |ui| {
            ui.set_width(ui.available_width());
            ui.horizontal(|ui| {
                title(ui, "Node by node");
                ui.label(soft(format!("{}, the dearest first", plural(rows.order.len(), "node"))));
            });
            nodes_ui(ui, rows);
        });
    }
}

/// One bar per exit.
fn exits_ui(ui: &mut Ui, p: &Palette, report: &RunReport, left: &[f64]) {
    ui.add_space(GRID);
    egui::Grid::new("exits").num_columns(3).spacing([14.0, 6.0]).show(ui, |ui| {
        for (e, share) in left.iter().enumerate() {
            let name = match report.status.exits.get(e) {
                Some(exit) => format!("Exit {} · {}", e + 1, tap(&exit.tap)),
                None => "Whole network".to_owned(),
            };
            ui.label(name);
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| ui.label(percent(*share)));
            let size = egui::vec2((ui.available_width() - 24.0).clamp(60.0, 520.0), 12.0);
            let (rect, _) = ui.allocate_exact_size(size, egui::Sense::hover());
            ui.painter().rect_filled(rect, 3.0, p.well);
            let done =
                egui::Rect::from_min_size(rect.min, egui::vec2(rect.width() * *share as f32, rect.height()));
            ui.painter().rect_filled(done, 3.0, widgets::share_colour(p, e, left.len()));
            ui.end_row();
        }
    });
}

fn nodes_ui(ui: &mut Ui, rows: &Rows) {
    let report = &rows.report;
    let (name, number) = (140.0, 70.0);
    let bar = (ui.available_width() - name - 2.0 * number - 60.0).max(120.0);
    egui::ScrollArea::vertical().auto_shrink(false).show_rows(ui, ROW, rows.order.len(), |ui, range| {
        for (i, k) in &rows.order[range] {
            let node = &report.nodes[*i];
            let policy = &node.policies[*k];
            ui.horizontal(|ui| {
                ui.set_height(ROW);
                ui.allocate_ui(egui::vec2(name, ROW), |ui| {
                    ui.set_width(name);
                    widgets::line(ui, strong(&node.name));
                });
                let of = |e: usize| match report.status.exits.get(e) {
                    Some(exit) => format!("exit {} ({}): {}", e + 1, tap(&exit.tap), percent(policy.left[e])),
                    None => format!("whole network: {}", percent(policy.left[e])),
                };
                widgets::shares(ui, bar, 12.0, &policy.left, of);
                for value in
                    [format!("cost {}", percent(policy.cost)), format!("{} right", percent(policy.accuracy))]
                {
                    ui.allocate_ui(egui::vec2(number + 12.0, ROW), |ui| {
                        ui.set_width(number + 12.0);
                        ui.label(soft(value));
                    });
                }
            });
        }
    });
}
