//! The run's snapshots, and what differs between two of them.

use egui::{RichText, Ui};
use exeunt_protocol::operator::{RunReport, SnapshotDiff, SnapshotRow};

use crate::command::Command;
use crate::format::{clock, count, day, percent, plural, points, tap};
use crate::theme::GRID;
use crate::views::Scene;
use crate::widgets::{self, soft, strong, title};

/// Rows of a list of differences; more are counted.
const ROWS: usize = 12;

/// What the view remembers: the two snapshots that are compared, by version.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    from: Option<u32>,
    to: Option<u32>,
}

impl Snapshots {
    pub(super) fn ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>, report: &RunReport) {
        ui.set_width(ui.available_width());
        let snapshots = std::sync::Arc::clone(&scene.state.snapshots);
        ui.horizontal(|ui| {
            title(ui, "Snapshots");
            ui.label(soft("class means over one cohort; a removed contribution makes a new one"));
        });
        if snapshots.is_empty() {
            ui.label(soft("None yet: the first is made when the moments are merged"));
        } else {
            self.table_ui(ui, scene, &snapshots);
        }
        if snapshots.len() > 1 {
            self.compare_ui(ui, scene, report, &snapshots);
        }
        ui.add_space(GRID);
        digests_ui(ui, scene, report);
    }

    fn table_ui(&mut self, ui: &mut Ui, scene: &Scene<'_>, snapshots: &[SnapshotRow]) {
        let last = snapshots.last().map(|row| row.version);
        egui::Grid::new("snapshots").num_columns(6).spacing([22.0, 5.0]).show(ui, |ui| {
            for head in ["Version", "Made", "Nodes", "Samples", "Why", "Merged moments"] {
                ui.label(soft(head).size(12.5));
            }
            ui.end_row();
            for row in snapshots.iter().rev() {
                ui.horizontal(|ui| {
                    ui.label(strong(row.version.to_string()));
                    if Some(row.version) == last {
                        ui.label(soft("in force").small());
                    }
                });
                ui.label(format!("{} {}", day(row.at_ms), clock(row.at_ms))).on_hover_text("UTC");
                let names: Vec<String> =
                    row.cohort.iter().take(20).map(|node| scene.state.name(*node)).collect();
                ui.label(count(row.cohort.len() as u64)).on_hover_text(listed(&names, row.cohort.len()));
                ui.label(count(row.samples));
                ui.scope(|ui| {
                    ui.set_max_width(260.0);
                    widgets::line(ui, &row.reason);
                });
                let digest = row.digest.to_string();
                let short: String = digest.chars().take(12).collect();
                ui.label(RichText::new(short).monospace().weak()).on_hover_text(digest);
                ui.end_row();
            }
        });
    }

    fn compare_ui(
        &mut self,
        ui: &mut Ui,
        scene: &mut Scene<'_>,
        report: &RunReport,
        snapshots: &[SnapshotRow],
    ) {
        let versions: Vec<u32> = snapshots.iter().map(|row| row.version).collect();
        let [.., before, last] = versions.as_slice() else { return };
        let known = |version: Option<u32>| version.filter(|version| versions.contains(version));
        let (mut from, mut to) = (known(self.from).unwrap_or(*before), known(self.to).unwrap_or(*last));
        ui.separator();
        ui.horizontal(|ui| {
            ui.label(strong("Difference"));
            for (name, version) in [("from", &mut from), ("to", &mut to)] {
                ui.label(soft(name));
                egui::ComboBox::from_id_salt(("snapshot", name))
                    .selected_text(version.to_string())
                    .width(56.0)
                    .show_ui(ui, |ui| {
                        for one in &versions {
                            ui.selectable_value(version, *one, one.to_string());
                        }
                    })
                    .response
                    .on_hover_text(format!("The snapshot to compare {name}"));
            }
            ui.add_enabled_ui(from != to && scene.state.is_up(), |ui| {
                if ui.button("Compare").clicked() {
                    scene.commands.push(Command::Compare { run: report.status.run.clone(), from, to });
                }
            });
        });
        (self.from, self.to) = (Some(from), Some(to));
        let diff = scene.state.diff.clone();
        if let Some(diff) =
            diff.filter(|d| d.run == report.status.run && d.from.version == from && d.to.version == to)
        {
            diff_ui(ui, scene, &diff);
        }
    }
}

fn diff_ui(ui: &mut Ui, scene: &Scene<'_>, diff: &SnapshotDiff) {
    let samples = diff.to.samples.cast_signed() - diff.from.samples.cast_signed();
    let names = |nodes: &[exeunt_protocol::NodeId]| {
        let names: Vec<String> = nodes.iter().take(ROWS).map(|node| scene.state.name(*node)).collect();
        listed(&names, nodes.len())
    };
    ui.label(format!(
        "{} in, {} out; {} samples",
        plural(diff.joined.len(), "node"),
        plural(diff.left.len(), "node"),
        signed(samples)
    ));
    for (word, nodes) in [("in", &diff.joined), ("out", &diff.left)] {
        if !nodes.is_empty() {
            ui.label(soft(format!("{word}: {}", names(nodes))));
        }
    }
    ui.horizontal_top(|ui| {
        ui.spacing_mut().item_spacing.x = 10.0 * GRID;
        ui.vertical(|ui| {
            ui.label(strong("Class means moved"));
            ui.label(soft("in standard deviations within a class").small());
            egui::Grid::new("moved").num_columns(3).spacing([18.0, 3.0]).show(ui, |ui| {
                for (e, exit) in diff.exits.iter().enumerate() {
                    ui.label(format!("Exit {} · {}", e + 1, tap(&exit.tap)));
                    ui.label(exit.mean.map_or_else(|| "–".to_owned(), |mean| format!("{mean:.4}")));
                    let most = exit.farthest.as_ref().zip(exit.most);
                    ui.label(soft(
                        most.map_or_else(String::new, |(class, most)| {
                            format!("class {class} most, {most:.4}")
                        }),
                    ));
                    ui.end_row();
                }
            });
        });
        ui.vertical(|ui| {
            ui.label(strong("Samples per class"));
            ui.label(soft("those that changed").small());
            let changed: Vec<_> = diff.classes.iter().filter(|class| class.from != class.to).collect();
            egui::Grid::new("classes moved").num_columns(2).spacing([18.0, 3.0]).show(ui, |ui| {
                for class in changed.iter().take(ROWS) {
                    ui.label(&class.class);
                    ui.label(format!("{} → {}", count(class.from), count(class.to)));
                    ui.end_row();
                }
            });
            if changed.len() > ROWS {
                ui.label(soft(format!("and {} more", changed.len() - ROWS)));
            }
        });
        ui.vertical(|ui| {
            ui.label(strong("Accuracy at equal cost"));
            ui.label(soft("of the fleet’s front, on evaluation samples").small());
            if diff.accuracy_at_cost.is_empty() {
                ui.label(soft("not measured with both"));
            }
            egui::Grid::new("accuracy moved").num_columns(3).spacing([18.0, 3.0]).show(ui, |ui| {
                for point in &diff.accuracy_at_cost {
                    let text = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), percent);
                    ui.label(soft(format!("at {}", percent(point.cost))));
                    ui.label(format!("{} → {}", text(point.from), text(point.to)));
                    let moved = point.from.zip(point.to).map(|(from, to)| points(to - from));
                    ui.label(soft(moved.unwrap_or_default()));
                    ui.end_row();
                }
            });
        });
    });
}

fn digests_ui(ui: &mut Ui, scene: &Scene<'_>, report: &RunReport) {
    egui::Grid::new("digests").num_columns(2).spacing([20.0, 4.0]).show(ui, |ui| {
        ui.label(soft("All merged tables"));
        widgets::line(ui, RichText::new(report.digest.to_string()).monospace());
        ui.end_row();
        ui.label(soft("Class means and weights"));
        let snapshot =
            report.status.snapshot.map_or_else(|| "not made yet".to_owned(), |digest| digest.to_string());
        widgets::line(ui, RichText::new(snapshot).monospace());
        ui.end_row();
        if !report.status.removed.is_empty() {
            ui.label(soft("Removed"));
            let names: Vec<String> =
                report.status.removed.iter().map(|node| scene.state.name(*node)).collect();
            widgets::line(ui, names.join(", "));
            ui.end_row();
        }
    });
}

/// Names in a row, and how many more there are.
fn listed(names: &[String], all: usize) -> String {
    let more = all.saturating_sub(names.len());
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", names.join(", "))
}

fn signed(n: i64) -> String {
    match n {
        0 => "±0".to_owned(),
        n if n < 0 => format!("−{}", count(n.unsigned_abs())),
        n => format!("+{}", count(n.unsigned_abs())),
    }
}
