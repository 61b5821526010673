//! One node: what it is, what can be done with it, its curve against the fleet's, what it holds, what it infers, what was
//! noted of it.

use egui::{RichText, Sense, Ui, vec2};
use egui_plot::{AxisHints, LineStyle, Plot, PlotPoint};
use exeunt_protocol::operator::{NodeReport, NodeRow, RunReport};

use super::columns::NodeStanding;
use super::{questions, standing_tag};
use crate::axis::{CostAxis, Unit};
use crate::command::Command;
use crate::format::{bytes, clock, count, day, millis, percent, points, until};
use crate::theme::{GRID, Palette, heavy_font};
use crate::views::Scene;
use crate::views::tradeoff::{cost_grid, cost_hints, plain, steps, tick};
use crate::widgets::{self, soft, strong};

/// Lines of the log that are shown.
const LINES: usize = 50;
/// The longest name that a node can be given.
const NAME: usize = 64;

/// Draws the node; true when it is to be closed. `naming` is its new name while it is being typed.
pub(super) fn ui(ui: &mut Ui, scene: &mut Scene<'_>, row: &NodeRow, naming: &mut Option<String>) -> bool {
    let (mut close, mut named) = (false, false);
    ui.set_width(ui.available_width());
    widgets::ends(
        ui,
        |ui| match naming.as_mut() {
            Some(name) => named = name_ui(ui, scene, row, name),
            None => {
                ui.scope(|ui| {
                    ui.set_max_width((ui.available_width() - 130.0).max(80.0));
                    widgets::line(ui, RichText::new(&row.status.name).font(heavy_font(17.0)));
                });
                standing_tag(ui, row);
            }
        },
        |ui| {
            close = widgets::away(ui, "Close this node");
        },
    );
    if named {
        *naming = None;
    }
    actions_ui(ui, scene, row, naming);
    ui.add_space(GRID);
    egui::ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
        facts(ui, scene, row);
        let node = row.status.node;
        if let (Some(report), Some(given)) = (scene.state.report.clone(), scene.state.given_by(node).cloned())
        {
            policy(ui, scene, &report, &given);
            curve(ui, scene.settings.cost_axis, &report, &given);
            samples(ui, scene, &given);
            live(ui, scene, &report, &given);
            traffic(ui, &report, &given);
        }
        history(ui, scene, row);
    });
    close
}

/// The field for a new name; true when it is done with.
fn name_ui(ui: &mut Ui, scene: &mut Scene<'_>, row: &NodeRow, name: &mut String) -> bool {
    let field = ui.add(egui::TextEdit::singleline(name).char_limit(NAME).desired_width(140.0));
    field.widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "New name of the node"));
    if ui.memory(|memory| memory.focused().is_none()) && !field.lost_focus() {
        field.request_focus();
    }
    let wanted = name.trim().to_owned();
    let fine = !wanted.is_empty() && wanted != row.status.name;
    let entered = field.lost_focus() && ui.input(|input| input.key_pressed(egui::Key::Enter));
    let saved = ui.add_enabled_ui(fine, |ui| ui.button("Save name").clicked()).inner;
    if fine && (saved || entered) {
        scene.commands.push(Command::Rename { node: row.status.node, name: wanted });
        return true;
    }
    ui.button("Cancel").clicked() || ui.input(|input| input.key_pressed(egui::Key::Escape))
}

fn actions_ui(ui: &mut Ui, scene: &mut Scene<'_>, row: &NodeRow, naming: &mut Option<String>) {
    let node = row.status.node;
    let standing = NodeStanding::of(row);
    let mut picked = scene.picked.contains(&node);
    if ui.checkbox(&mut picked, "Draw on the trade-off").changed() {
        if picked {
            scene.picked.insert(node);
        } else {
            scene.picked.remove(&node);
        }
    }
    if standing == NodeStanding::Revoked {
        return;
    }
    let up = scene.state.is_up();
    ui.horizontal_wrapped(|ui| {
        ui.add_enabled_ui(up, |ui| match standing {
            NodeStanding::Pending => {
                if widgets::primary(ui, "Approve…").clicked() {
                    *scene.ask = questions::approve(scene.state, vec![node]);
                }
            }
            NodeStanding::Quarantined => {
                let hint = "It is asked again, and counted in what is asked from now on";
                if ui.button("Release").on_hover_text(hint).clicked() {
                    scene.commands.push(Command::Release(vec![node]));
                }
            }
            _ => {
                let hint = "It stays connected and keeps its policy, and is asked nothing new";
                if ui.button("Quarantine…").on_hover_text(hint).clicked() {
                    *scene.ask = questions::quarantine(scene.state, vec![node]);
                }
            }
        });
        ui.add_enabled_ui(up && naming.is_none(), |ui| {
            if ui.button("Rename").on_hover_text("Its id stays").clicked() {
                *naming = Some(row.status.name.clone());
            }
        });
        // The menu holds what cannot be undone, one step away from what can.
        ui.add_enabled_ui(up, |ui| {
            ui.menu_button("More", |ui| {
                let took_part = scene.state.given_by(node).is_some_and(|given| given.samples.is_some());
                let removed =
                    scene.state.report.as_ref().is_some_and(|report| report.status.removed.contains(&node));
                ui.add_enabled_ui(took_part && !removed, |ui| {
                    let hint =
                        if removed { "Its contribution was removed" } else { "It gave nothing to this run" };
                    if widgets::danger(ui, "Remove contribution…").on_disabled_hover_text(hint).clicked() {
                        *scene.ask = questions::remove(scene.state, node);
                    }
                });
                if widgets::danger(ui, "Revoke node…").clicked() {
                    *scene.ask = questions::revoke(scene.state, vec![node]);
                }
            });
        });
    });
}

fn section(ui: &mut Ui, name: &str) {
    ui.add_space(3.0 * GRID);
    ui.label(strong(name));
}

fn facts(ui: &mut Ui, scene: &Scene<'_>, row: &NodeRow) {
    let dash = || "–".to_owned();
    let status = &row.status;
    let expires = status
        .certificate_expires_ms
        .map_or_else(dash, |at| format!("{}, on {}", until(scene.now_ms, at), day(at)));
    let moved = format!("{} sent, {} received", bytes(row.bytes_up), bytes(row.bytes_down));
    let rows = [
        ("Short id", row.short.clone(), true),
        ("Id", status.node.to_string(), true),
        ("Software", status.software.clone().unwrap_or_else(dash), false),
        ("Engine", status.engine.clone().unwrap_or_else(dash), false),
        ("Certificate", expires, false),
        ("Enrolled", day(row.enrolled_ms), false),
        ("All traffic", moved, false),
    ];
    egui::Grid::new("facts").num_columns(2).spacing([14.0, 4.0]).min_row_height(18.0).show(ui, |ui| {
        for (name, value, digits) in rows {
            ui.label(soft(name));
            let text = if digits { RichText::new(value).monospace() } else { RichText::new(value) };
            widgets::line(ui, text);
            ui.end_row();
        }
    });
}

fn policy(ui: &mut Ui, scene: &mut Scene<'_>, report: &RunReport, given: &NodeReport) {
    let Some(force) = report.status.in_force_at(given.node) else { return };
    section(ui, "Policy");
    ui.horizontal_wrapped(|ui| {
        let which = if given.policy.overridden { "its own, version" } else { "the fleet’s, version" };
        ui.label(format!("{which} {}", force.version.0));
        match given.policy.using {
            using if using == given.policy.wanted => {
                ui.label(soft("it infers with it"));
            }
            Some(using) => {
                ui.label(soft(format!("it still infers with version {}", using.0)));
            }
            None => {
                ui.label(soft("it has not said that it infers with it"));
            }
        }
    });
    if let Some(here) = given.policies.iter().find(|known| known.version == force.version) {
        let difference = given.network_accuracy.map(|network| points(here.accuracy - network));
        ui.label(format!(
            "{} right ({} points to its network), {} of the cost",
            percent(here.accuracy),
            difference.unwrap_or_else(|| "–".to_owned()),
            percent(here.cost)
        ));
        if let Some(times) = &given.times {
            let ms = times.times.mean_ms(&force.policy, &here.left);
            let whole = millis(times.times.network_ms);
            ui.label(soft(format!("{} a sample; its bare network takes {whole}", millis(ms))));
        }
        crate::views::tradeoff::leaving(ui, report, &here.left);
    }
    let up = scene.state.is_up();
    let run = report.status.run.clone();
    ui.horizontal_wrapped(|ui| {
        if let Some(draft) = scene.draft.policy()
            && *draft != force.policy
        {
            let hint = "This node alone infers with the draft; the fleet keeps its policy";
            let button = ui.add_enabled(up, egui::Button::new("Apply draft here")).on_hover_text(hint);
            if button.clicked() {
                let (run, policy, nodes) = (run.clone(), draft.clone(), vec![given.node]);
                scene.commands.push(Command::Apply { run, policy, nodes });
            }
        }
        if given.policy.overridden {
            let button = ui.add_enabled(up, egui::Button::new("Follow the fleet again"));
            if button.on_hover_text("Its own policy is taken back").clicked() {
                scene.commands.push(Command::FollowFleet { run, node: given.node });
            }
        }
    });
}

fn curve(ui: &mut Ui, axis: CostAxis, report: &RunReport, given: &NodeReport) {
    let Some(result) = report.status.result.as_ref().filter(|_| !given.curve.is_empty()) else { return };
    let p = Palette::get(ui);
    section(ui, "Its curve and the fleet’s");
    // Spread as on the trade-off; in shares, which every node has.
    let axis = CostAxis { unit: Unit::Share, ..axis };
    let at = |cost: f64, accuracy: f64| PlotPoint::new(axis.place(cost), accuracy);
    let fleet: Vec<PlotPoint> = result.curve.points().iter().map(|p| at(p.cost, p.accuracy)).collect();
    let own: Vec<PlotPoint> = given.curve.iter().map(|p| at(p.cost, p.accuracy)).collect();
    let plotted = still("node curve", 170.0, p.line)
        .x_grid_spacer(cost_grid(axis, 4.0))
        .y_grid_spacer(|input| steps(input, 4.0))
        .custom_x_axes(vec![cost_hints(axis, 4.0)])
        .custom_y_axes(vec![AxisHints::new_y().formatter(|mark, _| tick(mark))])
        .show(ui, |ui| {
            ui.line(plain(&fleet, p.front, 1.75).style(LineStyle::Dashed { length: 6.0 }));
            ui.line(plain(&own, p.ink, 2.0));
        });
    plotted.response.widget_info(|| {
        egui::WidgetInfo::labeled(egui::Role::Image, true, "Chart: its accuracy over cost, and the fleet’s")
    });
    let network = given.network_accuracy.map_or_else(|| "–".to_owned(), percent);
    let text =
        format!("accuracy over cost; solid: this node, dashed: the fleet. Bare network here: {network}");
    ui.label(soft(text).small());
}

fn samples(ui: &mut Ui, scene: &Scene<'_>, given: &NodeReport) {
    section(ui, "Samples");
    if let Some([statistics, calibration, evaluation]) = given.samples.map(|s| s.map(count)) {
        ui.label(format!("{statistics} statistics, {calibration} calibration, {evaluation} evaluation"));
    }
    if let Some(withheld) = given.withheld_classes.filter(|n| *n > 0) {
        let classes = if withheld == 1 { "class" } else { "classes" };
        ui.label(soft(format!("{withheld} {classes} withheld, with too few samples to be told of")));
    }
    if !given.without_second_moments.is_empty() {
        let exits: Vec<String> = given.without_second_moments.iter().map(|e| (e + 1).to_string()).collect();
        ui.label(soft(format!("no second moments at exits {}: too few samples", exits.join(", "))));
    }
    let Some(coverage) = &scene.state.coverage else { return };
    if let Some((_, counts)) = coverage.nodes.iter().find(|(node, _)| *node == given.node) {
        classes(ui, &coverage.classes, counts);
    }
}

/// Samples per class, as bars with their names where there is room.
fn classes(ui: &mut Ui, names: &[String], counts: &[u64]) {
    let p = Palette::get(ui);
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let (bars, foot) = (72.0, 16.0);
    let size = vec2(ui.available_width(), bars + foot);
    let (rect, response) = ui.allocate_exact_size(size, Sense::hover());
    let width = rect.width() / counts.len().max(1) as f32;
    let painter = ui.painter();
    let base = rect.top() + bars;
    painter.hline(rect.x_range(), base, egui::Stroke::new(1.0, p.line));
    let pointed = response.hover_pos().map(|at| ((at.x - rect.left()) / width) as usize);
    for (k, n) in counts.iter().enumerate() {
        let left = rect.left() + width * k as f32;
        let height = bars * *n as f32 / most as f32;
        let bar = egui::Rect::from_min_max(egui::pos2(left, base - height), egui::pos2(left + width, base));
        let colour = if pointed == Some(k) { p.accent } else { p.front.gamma_multiply(0.8) };
        painter.rect_filled(bar.shrink2(vec2(if width > 6.0 { 1.5 } else { 0.0 }, 0.0)), 1.0, colour);
        if width >= 16.0 {
            let name: String =
                names.get(k).map(|n| n.chars().take((width / 7.0) as usize).collect()).unwrap_or_default();
            let at = egui::pos2(left + width / 2.0, rect.bottom());
            painter.text(at, egui::Align2::CENTER_BOTTOM, name, egui::FontId::proportional(11.0), p.soft);
        }
    }
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, "Samples per class"));
    if let Some((k, n)) = pointed.and_then(|k| Some((k, counts.get(k)?))) {
        let name = names.get(k).map_or("", String::as_str);
        response.on_hover_text(format!("class {name}: {} statistics samples", count(*n)));
    }
}

fn live(ui: &mut Ui, scene: &Scene<'_>, report: &RunReport, given: &NodeReport) {
    let Some(live) = scene.state.live.iter().rfind(|live| live.node == given.node) else { return };
    section(ui, "Inference");
    crate::views::live::summary(ui, scene, live);
    let samples = live.counts.samples();
    if samples > 0 {
        let left: Vec<f64> = live.counts.left.iter().map(|n| *n as f64 / samples as f64).collect();
        crate::views::tradeoff::leaving(ui, report, &left);
    }
}

fn traffic(ui: &mut Ui, report: &RunReport, given: &NodeReport) {
    section(ui, "Traffic of this run");
    let (up, down) = given.traffic.iter().fold((0, 0), |(up, down), t| (up + t.up, down + t.down));
    ui.label(format!("{} sent, {} received", bytes(up), bytes(down)));
    let mut by_name: Vec<(&str, u64, u64)> = Vec::new();
    for traffic in &given.traffic {
        let name =
            report.status.queries.iter().find(|q| q.query == traffic.query).map_or("?", |q| q.name.as_str());
        match by_name.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, up, down)) => (*up, *down) = (*up + traffic.up, *down + traffic.down),
            None => by_name.push((name, traffic.up, traffic.down)),
        }
    }
    egui::Grid::new("traffic").num_columns(3).spacing([18.0, 2.0]).show(ui, |ui| {
        for (name, up, down) in by_name {
            ui.label(soft(name));
            for (sum, way) in [(up, "sent"), (down, "received")] {
                ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                    ui.label(soft(way).small());
                    ui.label(bytes(sum));
                });
            }
            ui.end_row();
        }
    });
}

fn history(ui: &mut Ui, scene: &Scene<'_>, row: &NodeRow) {
    let lines = scene.state.audit.iter().rev().filter(|line| line.node == Some(row.status.node));
    let lines: Vec<_> = lines.take(LINES).collect();
    section(ui, "Log");
    if lines.is_empty() {
        ui.label(soft("The coordinator has noted nothing of this node"));
    }
    for line in lines {
        ui.horizontal(|ui| {
            let at = RichText::new(clock(line.at_ms)).monospace().weak().size(11.5);
            ui.label(at).on_hover_text(format!("{} {} UTC", day(line.at_ms), clock(line.at_ms)));
            widgets::line(ui, &line.text);
        });
    }
}

/// A small chart that is only looked at.
fn still(name: &'static str, height: f32, grid: egui::Color32) -> Plot<'static> {
    Plot::new(name)
        .height(height)
        .show_background(false)
        .set_margin_fraction(vec2(0.06, 0.07))
        .grid_color(grid)
        .allow_drag(false)
        .allow_zoom(false)
        .allow_scroll(false)
        .allow_boxed_zoom(false)
        .show_crosshair(false)
        .label_formatter(|_| None)
}
