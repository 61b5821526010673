//! What is applied at every node, and what the draft would change there.

use std::sync::Arc;

use egui::{RichText, Ui, vec2};
use exeunt_exits::Policy;
use exeunt_protocol::coordinator::Purpose;
use exeunt_protocol::operator::RunReport;
use exeunt_protocol::{NodeId, PolicyVersion};

use crate::command::Command;
use crate::format::{percent, plural, points};
use crate::theme::Palette;
use crate::views::Scene;
use crate::widgets::{self, card, soft, strong, title};

/// A row of the list.
const ROW: f32 = 28.0;
/// Rows that are seen at once.
const SEEN: usize = 12;

/// What the view remembers.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// How the draft does at every node, worked out when there is another report or draft.
    known: Option<PerNode>,
}

impl Nodes {
    /// Draws the list, once there is a policy or a draft that was measured.
    pub(super) fn ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>, report: &Arc<RunReport>) {
        let draft = scene.draft.policy();
        if !self.known.as_ref().is_some_and(|known| known.is_of(report, draft)) {
            self.known = Some(PerNode::new(report, draft));
        }
        let Some(known) = &self.known else { return };
        if known.rows.is_empty() {
            return;
        }
        card(ui, |ui| {
            ui.set_width(ui.available_width());
            ui.horizontal_wrapped(|ui| {
                title(ui, "Node by node");
                let own = known.rows.iter().filter(|row| row.overridden).count();
                let text = match (known.tried, own) {
                    (true, _) => "what is applied, and what the draft would change; what it costs most accuracy comes first".to_owned(),
                    (false, 0) => "what is applied; a measured draft shows beside it".to_owned(),
                    (false, own) => format!("what is applied; {} with a policy of its own", plural(own, "node")),
                };
                ui.label(soft(text));
            });
            let height = ROW * known.rows.len().min(SEEN) as f32;
            list_ui(ui, scene, report, known, height);
        });
    }
}

/// What is applied at every node, and what the draft would change.
#[derive(Debug)]
struct PerNode {
    report: Arc<RunReport>,
    draft: Option<Policy>,
    /// Whether the draft was measured.
    tried: bool,
    rows: Vec<NodeRow>,
}

#[derive(Debug)]
struct NodeRow {
    node: NodeId,
    name: String,
    /// The version that is wanted of it, and whether it says it infers with it.
    version: Option<u32>,
    overridden: bool,
    arrived: bool,
    /// Cost and accuracy of what is applied, on its evaluation samples.
    now: Option<(f64, f64)>,
    /// Those of the draft, on its calibration samples.
    draft: Option<(f64, f64)>,
}

impl PerNode {
    fn new(report: &Arc<RunReport>, draft: Option<&Policy>) -> Self {
        let tried = draft.and_then(|draft| trial_of(report, draft));
        let rows = report.nodes.iter().map(|given| {
            let force = report.status.in_force_at(given.node).map(|force| force.version);
            let known = |version: PolicyVersion| {
                let known = given.policies.iter().find(|known| known.version == version)?;
                Some((known.cost, known.accuracy))
            };
            NodeRow {
                node: given.node,
                name: given.name.clone(),
                version: force.map(|version| version.0),
                overridden: given.policy.overridden,
                arrived: given.policy.using == force,
                now: force.and_then(known),
                draft: tried.and_then(known),
            }
        });
        // Where no policy was ever set and none is tried, there is nothing to say of a node.
        let anything = |row: &NodeRow| row.version.is_some() || row.draft.is_some();
        let mut rows: Vec<NodeRow> = rows.filter(anything).collect();
        let lost = |row: &NodeRow| match (row.now, row.draft) {
            (Some(now), Some(draft)) => draft.1 - now.1,
            _ => f64::INFINITY,
        };
        rows.sort_by(|a, b| lost(a).total_cmp(&lost(b)));
        Self { report: Arc::clone(report), draft: draft.cloned(), tried: tried.is_some(), rows }
    }

    fn is_of(&self, report: &Arc<RunReport>, draft: Option<&Policy>) -> bool {
        Arc::ptr_eq(&self.report, report) && self.draft.as_ref() == draft
    }
}

/// The trial of a policy whose figures are known node by node. A coordinator says those of the last one.
pub(super) fn trial_of(report: &RunReport, policy: &Policy) -> Option<PolicyVersion> {
    let last = report.status.policies.iter().rfind(|known| known.purpose == Purpose::Trial)?;
    (last.policy == *policy && last.cost.is_some()).then_some(last.version)
}

fn list_ui(ui: &mut Ui, scene: &mut Scene<'_>, report: &RunReport, known: &PerNode, height: f32) {
    let p = Palette::get(ui);
    let widths = [(ui.available_width() * 0.2).clamp(80.0, 180.0), 116.0, 136.0, 136.0, 130.0];
    let cell = |ui: &mut Ui, i: usize, text: RichText| {
        ui.allocate_ui_with_layout(
            vec2(widths[i], ROW),
            egui::Layout::left_to_right(egui::Align::Center),
            |ui| {
                ui.set_min_width(widths[i]);
                ui.set_max_width(widths[i]);
                widgets::line(ui, text)
            },
        )
        .inner
    };
    let heads: &[&str] = if known.tried {
        &["Node", "Policy", "Applied", "Draft", "Difference"]
    } else {
        &["Node", "Policy", "Applied"]
    };
    ui.horizontal(|ui| {
        for (i, head) in heads.iter().enumerate() {
            let label = cell(ui, i, soft(*head).size(12.5));
            label.on_hover_text(match *head {
                "Applied" => "Right, and cost, on its evaluation samples",
                "Draft" => "Right, and cost, on its calibration samples",
                "Difference" => {
                    "Points of accuracy and of cost; of different samples, so that small ones say little"
                }
                "Policy" => "Version that is wanted of it",
                _ => "The node",
            });
        }
    });
    let both = |(cost, accuracy): (f64, f64)| format!("{} at {}", percent(accuracy), percent(cost));
    let dash = || "–".to_owned();
    egui::ScrollArea::vertical()
        .id_salt("node by node")
        .max_height(height)
        .auto_shrink([false, true])
        .show_rows(ui, ROW, known.rows.len(), |ui, range| {
            ui.spacing_mut().item_spacing.y = 0.0;
            for row in &known.rows[range] {
                ui.horizontal(|ui| {
                    cell(ui, 0, strong(&row.name));
                    let own = if row.overridden { " own" } else { "" };
                    let waits = if row.arrived { "" } else { ", on its way" };
                    let colour = if row.arrived { p.ink } else { p.warn };
                    let version =
                        row.version.map_or_else(|| "none".to_owned(), |version| version.to_string());
                    cell(ui, 1, RichText::new(format!("{version}{own}{waits}")).color(colour));
                    cell(ui, 2, RichText::new(row.now.map_or_else(dash, both)));
                    if known.tried {
                        cell(ui, 3, RichText::new(row.draft.map_or_else(dash, both)).color(p.draft));
                        let moved = row.now.zip(row.draft).map(|(now, draft)| {
                            format!("{} right, {} cost", points(draft.1 - now.1), points(draft.0 - now.0))
                        });
                        cell(ui, 4, RichText::new(moved.unwrap_or_else(dash)));
                    }
                    if row.overridden {
                        let button = ui
                            .add_enabled(scene.state.is_up(), egui::Button::new("Follow the fleet").small());
                        if button.on_hover_text("Its own policy is taken back").clicked() {
                            let run = report.status.run.clone();
                            scene.commands.push(Command::FollowFleet { run, node: row.node });
                        }
                    }
                });
            }
        });
}
