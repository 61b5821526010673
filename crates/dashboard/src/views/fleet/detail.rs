//! One node: its curve against the fleet's, what it holds, what it sent, and shutting it out.

use egui::{RichText, Ui, vec2};
use egui_plot::{AxisHints, Bar, BarChart, Line, LineStyle, Plot, PlotPoints};
use exeunt_protocol::operator::{NodeReport, NodeRow, RunReport};

use super::{revoke, standing_tag};
use crate::format::{bytes, clock, count, percent, points, tap};
use crate::theme::{GRID, Palette, heavy_font};
use crate::views::Scene;
use crate::views::tradeoff::{steps, tick};
use crate::widgets::{self, soft, strong};

/// Lines of the log that are shown.
const LINES: usize = 12;

/// Draws the node; true when it is to be closed.
pub(super) fn ui(ui: &mut Ui, scene: &mut Scene<'_>, row: &NodeRow) -> bool {
    let mut close = false;
    ui.set_width(ui.available_width());
    widgets::ends(
        ui,
        |ui| {
            ui.label(RichText::new(&row.status.name).font(heavy_font(17.0)));
            standing_tag(ui, row);
        },
        |ui| {
            close = widgets::away(ui, "Close this node");
        },
    );
    let node = row.status.node;
    ui.horizontal_wrapped(|ui| {
        let mut picked = scene.picked.contains(&node);
        if ui.checkbox(&mut picked, "Draw on the trade-off").changed() {
            if picked {
                scene.picked.insert(node);
            } else {
                scene.picked.remove(&node);
            }
        }
        ui.add_enabled_ui(!row.revoked && scene.state.is_up(), |ui| {
            if widgets::danger(ui, "Revoke node…").clicked() {
                *scene.ask = revoke(scene.state, vec![node]);
            }
        });
    });
    ui.add_space(GRID);
    egui::ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
        facts(ui, row);
        if let (Some(report), Some(given)) = (scene.state.report.clone(), scene.state.given_by(node).cloned())
        {
            curve(ui, &report, &given);
            policy(ui, scene, &report, &given);
            samples(ui, scene, &given);
            traffic(ui, &report, &given);
        }
        history(ui, scene, row);
    });
    close
}

fn section(ui: &mut Ui, name: &str) {
    ui.add_space(3.0 * GRID);
    ui.label(strong(name));
}

fn facts(ui: &mut Ui, row: &NodeRow) {
    egui::Grid::new("facts").num_columns(2).spacing([14.0, 4.0]).show(ui, |ui| {
        let dash = || "–".to_owned();
        let rows = [
            ("Short id", row.short.clone()),
            ("Id", row.status.node.to_string()),
            ("Software", row.status.software.clone().unwrap_or_else(dash)),
            ("Engine", row.status.engine.clone().unwrap_or_else(dash)),
        ];
        for (name, value) in rows {
            ui.label(soft(name));
            let text = if name.ends_with("id") || name == "Id" {
                RichText::new(value).monospace()
            } else {
                RichText::new(value)
            };
            widgets::line(ui, text);
            ui.end_row();
        }
    });
}

fn curve(ui: &mut Ui, report: &RunReport, given: &NodeReport) {
    let Some(result) = report.status.result.as_ref().filter(|_| !given.curve.is_empty()) else { return };
    let p = Palette::get(ui);
    section(ui, "Its curve and the fleet’s");
    let fleet: Vec<[f64; 2]> = result.curve.points().iter().map(|p| [p.cost, p.accuracy]).collect();
    let own: Vec<[f64; 2]> = given.curve.iter().map(|p| [p.cost, p.accuracy]).collect();
    still("node curve", 170.0, p.line)
        .x_grid_spacer(|input| steps(input, 3.0))
        .y_grid_spacer(|input| steps(input, 4.0))
        .custom_x_axes(vec![AxisHints::new_x().formatter(|mark, _| tick(mark))])
        .custom_y_axes(vec![AxisHints::new_y().formatter(|mark, _| tick(mark))])
        .show(ui, |ui| {
            ui.line(
                Line::new("", PlotPoints::from(fleet))
                    .color(p.front)
                    .width(1.75)
                    .style(LineStyle::Dashed { length: 6.0 })
                    .allow_hover(false),
            );
            ui.line(Line::new("", PlotPoints::from(own)).color(p.ink).width(2.0).allow_hover(false));
        });
    let network = given.network_accuracy.map_or_else(|| "–".to_owned(), percent);
    ui.label(soft(format!("solid: this node; dashed: the fleet. Bare network here: {network}")).small());
}

fn policy(ui: &mut Ui, scene: &Scene<'_>, report: &RunReport, given: &NodeReport) {
    let Some(force) = scene.state.in_force() else { return };
    let Some(here) = given.policies.iter().find(|known| known.version == force.version) else { return };
    section(ui, &format!("Policy {} here", force.version.0));
    let difference = given.network_accuracy.map(|network| points(here.accuracy - network));
    ui.label(format!(
        "{} right ({} points to its network), {} of the cost",
        percent(here.accuracy),
        difference.unwrap_or_else(|| "–".to_owned()),
        percent(here.cost)
    ));
    crate::views::tradeoff::leaving(ui, report, &here.left);
}

fn samples(ui: &mut Ui, scene: &Scene<'_>, given: &NodeReport) {
    section(ui, "Samples");
    if let Some([statistics, calibration, evaluation]) = given.samples.map(|s| s.map(count)) {
        ui.label(format!("{statistics} statistics, {calibration} calibration, {evaluation} evaluation"));
    }
    if let Some(withheld) = given.withheld_classes.filter(|n| *n > 0) {
        ui.label(soft(format!("{withheld} classes are withheld: it has too few samples of them")));
    }
    if !given.without_second_moments.is_empty() {
        let exits: Vec<String> = given.without_second_moments.iter().map(|e| (e + 1).to_string()).collect();
        ui.label(soft(format!("no second moments at exits {}: too few samples", exits.join(", "))));
    }
    let coverage = scene.state.coverage.as_ref();
    let Some((_, counts)) = coverage.and_then(|c| c.nodes.iter().find(|(node, _)| *node == given.node))
    else {
        return;
    };
    let p = Palette::get(ui);
    let bars = counts
        .iter()
        .enumerate()
        .map(|(k, n)| Bar::new(k as f64, *n as f64).width(0.75).fill(p.front))
        .collect();
    still("classes", 84.0, p.line)
        .show_axes([false, true])
        .show_grid([false, true])
        .show(ui, |ui| ui.bar_chart(BarChart::new("", bars).allow_hover(false)));
    ui.label(soft("samples per class, in the order of the classes").small());
}

fn traffic(ui: &mut Ui, report: &RunReport, given: &NodeReport) {
    section(ui, "Traffic of this run");
    let (up, down) = given.traffic.iter().fold((0, 0), |(up, down), t| (up + t.up, down + t.down));
    ui.label(format!("{} sent, {} received", bytes(up), bytes(down)));
    let mut by_name: Vec<(&str, u64)> = Vec::new();
    for traffic in &given.traffic {
        let name =
            report.status.queries.iter().find(|q| q.query == traffic.query).map_or("?", |q| q.name.as_str());
        match by_name.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += traffic.up,
            None => by_name.push((name, traffic.up)),
        }
    }
    egui::Grid::new("traffic").num_columns(2).spacing([14.0, 2.0]).show(ui, |ui| {
        for (name, sum) in by_name {
            ui.label(soft(name));
            ui.label(bytes(sum));
            ui.end_row();
        }
    });
    let taps: Vec<String> = report.status.exits.iter().map(|exit| tap(&exit.tap)).collect();
    ui.allocate_space(vec2(0.0, 0.0));
    widgets::line(ui, soft(format!("exits at {}", taps.join(", "))).small());
}

fn history(ui: &mut Ui, scene: &Scene<'_>, row: &NodeRow) {
    let lines = scene.state.audit.iter().rev().filter(|line| line.node == Some(row.status.node));
    let lines: Vec<_> = lines.take(LINES).collect();
    if lines.is_empty() {
        return;
    }
    section(ui, "Noted by the coordinator");
    for line in lines {
        ui.horizontal(|ui| {
            ui.label(RichText::new(clock(line.at_ms)).monospace().weak().size(11.5));
            widgets::line(ui, &line.text);
        });
    }
}

/// A small chart that is only looked at.
fn still(name: &'static str, height: f32, grid: egui::Color32) -> Plot<'static> {
    Plot::new(name)
        .height(height)
        .show_background(false)
        .grid_color(grid)
        .allow_drag(false)
        .allow_zoom(false)
        .allow_scroll(false)
        .allow_boxed_zoom(false)
        .show_crosshair(false)
        .label_formatter(|_| None)
}
