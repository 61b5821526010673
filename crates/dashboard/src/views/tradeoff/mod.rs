//! Accuracy over cost: the fleet's front, what it is compared with, and the draft.

mod chart;
mod curves;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use egui::{ColorImage, RichText, Ui};
use egui_plot::{MarkerShape, PlotPoint};
use exeunt_exits::Policy;
use exeunt_protocol::operator::RunReport;
use serde::{Deserialize, Serialize};

use self::chart::{Answer, Mark, Picture, Target, chart};
pub(crate) use self::chart::{steps, tick};
pub(crate) use self::curves::ReadOn;
use self::curves::{Curves, interval};
use super::{Page, Scene};
use crate::command::{Command, Content, File};
use crate::format::{percent, plural, points, tap};
use crate::measure::{Measure, measured};
use crate::theme::{GRID, Palette};
use crate::widgets::{self, Swatch, card, chip, figure, soft, strong, title};

/// Width of the cards beside the chart.
const SIDE: f32 = 296.0;

/// Something on the chart that can be hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Series {
    /// The fleet's front.
    Fleet,
    /// A 95 % interval around it.
    Band,
    /// "Everyone stops at exit e".
    Fixed,
    /// The network without exits.
    Network,
    /// The policy in force.
    Force,
    /// The draft.
    Draft,
    /// One line per node.
    Nodes,
}

/// What the view remembers.
#[derive(Debug, Default)]
pub(crate) struct TradeOff {
    read_on: ReadOn,
    target: Option<Target>,
    curves: Option<Curves>,
    reset: bool,
    /// Where the chart's pixels arrive, and what is to be done with them.
    picture: Option<(Receiver<Arc<ColorImage>>, Pixels)>,
}

/// What the pixels of the chart are wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pixels {
    File,
    Clipboard,
}

impl TradeOff {
    pub(crate) fn ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>, go: &mut Option<Page>) {
        let Some(report) = scene.state.report.clone() else {
            return nothing_yet(ui, scene, "No run yet", "A run learns what leaving early costs and scores.");
        };
        if !self.curves.as_ref().is_some_and(|curves| curves.are_of(&report, self.read_on)) {
            self.curves = Curves::new(&report, self.read_on);
        }
        let Some(curves) = self.curves.take() else {
            let text = "The curve is drawn when every query of the run is answered. The page Run says where it stands.";
            widgets::empty(ui, "Being measured", text, |ui| {
                if widgets::primary(ui, "See where it stands").clicked() {
                    *go = Some(Page::Run);
                }
            });
            return;
        };
        let side = ui.available_width() > 2.4 * SIDE;
        if side {
            egui::Panel::right("trade-off side")
                .exact_size(SIDE + 12.0)
                .resizable(false)
                .show_separator_line(false)
                .frame(egui::Frame::new().inner_margin(egui::Margin { left: 12, ..Default::default() }))
                .show(ui, |ui| {
                    egui::ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
                        self.side_ui(ui, scene, &report, &curves, go);
                    });
                });
        }
        egui::CentralPanel::no_frame().show(ui, |ui| {
            card(ui, |ui| self.chart_ui(ui, scene, &report, &curves));
        });
        self.curves = Some(curves);
    }

    fn chart_ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>, report: &Arc<RunReport>, curves: &Curves) {
        ui.horizontal(|ui| {
            title(ui, "Accuracy over cost");
            widgets::right(ui, |ui| self.tools_ui(ui, scene, report, curves));
        });
        self.legend_ui(ui, scene, curves);
        let marks = self.marks(ui, scene, report);
        let room = ui.available_rect_before_wrap();
        let foot = 34.0;
        let mut answer = None;
        ui.scope(|ui| {
            ui.set_max_height((room.height() - foot).max(180.0));
            let picture = Picture {
                curves,
                hidden: &scene.settings.hidden,
                picked: scene.picked,
                marks: &marks,
                target: self.target,
                reset: std::mem::take(&mut self.reset),
            };
            answer = Some(chart(ui, &picture));
        });
        self.foot_ui(ui, scene, curves);
        if let Some(answer) = answer {
            self.react(ui, scene, report, curves, answer);
        }
        self.pixels(ui, scene, room, report);
    }

    fn tools_ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>, report: &RunReport, curves: &Curves) {
        ui.menu_button("Export", |ui| {
            let name = report.status.run.as_str();
            let shown = shown_nodes(scene, curves);
            let file = |ending: &str| format!("{name}-trade-off.{ending}");
            if ui.button("Picture (PNG)").clicked() {
                self.take_pixels(ui, Pixels::File);
            }
            if ui.button("Drawing (SVG)").clicked() {
                let marks = named_marks(scene, report, self.read_on);
                let content = Content::Text(curves.svg(&shown, &marks));
                scene.commands.push(Command::Save(File { name: file("svg"), content }));
            }
            if ui.button("Numbers (CSV)").clicked() {
                let content = Content::Text(curves.csv(&shown));
                scene.commands.push(Command::Save(File { name: file("csv"), content }));
            }
            ui.separator();
            if ui.button("Copy picture").clicked() {
                self.take_pixels(ui, Pixels::Clipboard);
            }
            if ui.button("Copy numbers").clicked() {
                ui.ctx().copy_text(curves.csv(&shown));
            }
        })
        .response
        .on_hover_text("Save or copy the chart");
        if ui.button("Reset view").on_hover_text("Also by a double click on the chart").clicked() {
            self.reset = true;
        }
        egui::ComboBox::from_id_salt("read on")
            .selected_text(match self.read_on {
                ReadOn::Evaluation => "Evaluation samples",
                ReadOn::Calibration => "Calibration samples",
            })
            .width(150.0)
            .show_ui(ui, |ui| {
                ui.selectable_value(&mut self.read_on, ReadOn::Evaluation, "Evaluation samples");
                ui.selectable_value(&mut self.read_on, ReadOn::Calibration, "Calibration samples");
            })
            .response
            .on_hover_text(match self.read_on {
                ReadOn::Evaluation => "Read on samples that had no part in choosing thresholds",
                ReadOn::Calibration => {
                    "Read on the samples that thresholds were chosen on, which promises too much"
                }
            });
    }

    fn legend_ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>, curves: &Curves) {
        let p = Palette::get(ui);
        let nodes = match scene.picked.len() {
            0 => plural(curves.nodes.len(), "node"),
            n => format!("{} picked", plural(n, "node")),
        };
        let entries = [
            (Series::Fleet, "Fleet", Swatch::Line, p.front),
            (Series::Band, "95 % interval", Swatch::Band, p.front),
            (Series::Fixed, "Static line", Swatch::Dashes, p.fixed),
            (Series::Network, "Bare network", Swatch::Diamond, p.ink),
            (Series::Force, "In force", Swatch::Dot, p.force),
            (Series::Draft, "Draft", Swatch::Dot, p.draft),
            (Series::Nodes, nodes.as_str(), Swatch::Thin, p.node),
        ];
        ui.horizontal_wrapped(|ui| {
            ui.spacing_mut().item_spacing.x = 1.5 * GRID;
            for (series, name, swatch, colour) in entries {
                let mut on = !scene.settings.hidden.contains(&series);
                if chip(ui, name, swatch, colour, &mut on).changed() {
                    if on {
                        scene.settings.hidden.remove(&series);
                    } else {
                        scene.settings.hidden.insert(series);
                    }
                }
            }
        });
    }

    fn marks(&self, ui: &Ui, scene: &Scene<'_>, report: &RunReport) -> Vec<Mark> {
        let p = Palette::get(ui);
        let mark = |policy: &Policy, colour, shape, series| {
            let known = measured(report, policy, self.read_on)?;
            Some(Mark { at: PlotPoint::new(known.cost, known.accuracy), colour, shape, series })
        };
        let force = scene.state.in_force();
        let force = force.and_then(|known| mark(&known.policy, p.force, MarkerShape::Square, Series::Force));
        let draft = scene.draft.policy();
        let draft = draft.and_then(|policy| mark(policy, p.draft, MarkerShape::Circle, Series::Draft));
        force.into_iter().chain(draft).collect()
    }

    fn foot_ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>, curves: &Curves) {
        ui.horizontal(|ui| {
            let mut kind = match self.target {
                None => 0,
                Some(Target::Accuracy(_)) => 1,
                Some(Target::Cost(_)) => 2,
            };
            let before = kind;
            ui.label(soft("Target"));
            ui.selectable_value(&mut kind, 0, "None");
            ui.selectable_value(&mut kind, 1, "Accuracy at least");
            ui.selectable_value(&mut kind, 2, "Cost at most");
            if kind != before {
                self.target = match kind {
                    1 => Some(Target::Accuracy((curves.network.y - 0.01).max(0.0))),
                    2 => Some(Target::Cost(0.5)),
                    _ => None,
                };
                self.follow(scene, curves);
            }
            let mut changed = false;
            match &mut self.target {
                Some(Target::Accuracy(share) | Target::Cost(share)) => {
                    let mut percent = *share * 100.0;
                    let value = egui::DragValue::new(&mut percent)
                        .range(0.0..=200.0)
                        .speed(0.1)
                        .fixed_decimals(1)
                        .suffix(" %");
                    let name = if kind == 1 { "Accuracy target" } else { "Cost target" };
                    let response =
                        ui.add(value).on_hover_text(format!("{name}; also drag its line on the chart"));
                    if response.changed() {
                        *share = percent / 100.0;
                        changed = true;
                    }
                }
                None => {
                    widgets::line(ui, soft("Click a point to take it as draft. Drag a box to zoom."));
                }
            }
            if changed {
                self.follow(scene, curves);
            }
        });
    }

    /// The draft becomes the policy that meets the target. Policies are chosen on the calibration part, whatever the
    /// chart shows.
    fn follow(&self, scene: &mut Scene<'_>, curves: &Curves) {
        let Some(result) = scene.state.report.as_ref().and_then(|report| report.status.result.as_ref())
        else {
            return;
        };
        let calibration = &result.calibration;
        let chosen = match self.target {
            None => return,
            Some(Target::Accuracy(floor)) => calibration.cheapest(floor),
            Some(Target::Cost(ceiling)) => {
                let affordable = calibration.points().iter().filter(|point| point.cost <= ceiling);
                affordable.max_by(|a, b| a.accuracy.total_cmp(&b.accuracy))
            }
        };
        match chosen {
            Some(point) => scene.draft.set(point.policy.clone()),
            // Nothing reaches so high: the network itself is the best there is.
            None => {
                if let Some(network) = curves.policies().iter().find(|point| point.policy.is_off()) {
                    scene.draft.set(network.policy.clone());
                }
            }
        }
    }

    fn react(&mut self, ui: &Ui, scene: &mut Scene<'_>, report: &RunReport, curves: &Curves, answer: Answer) {
        if let Some(target) = answer.target
            && self.target != Some(target)
        {
            self.target = Some(target);
            self.follow(scene, curves);
        }
        if let Some(point) = answer.taken.and_then(|i| curves.policies().get(i)) {
            scene.draft.set(point.policy.clone());
        }
        let response = answer.response;
        response.widget_info(|| {
            let text = format!("Chart: accuracy over cost, {} policies", curves.front.len());
            egui::WidgetInfo::labeled(egui::Role::Canvas, true, text)
        });
        if let Some(i) = answer.pointed {
            response.on_hover_ui_at_pointer(|ui| point_ui(ui, report, curves, i));
        } else if let Some(line) = answer.node.and_then(|i| curves.nodes.get(i)) {
            response.on_hover_ui_at_pointer(|ui| {
                ui.label(strong(&line.name));
            });
        }
        self.keys(ui, scene, curves);
    }

    /// Arrow keys move the draft along the front while nothing else wants them.
    fn keys(&self, ui: &Ui, scene: &mut Scene<'_>, curves: &Curves) {
        if ui.memory(|memory| memory.focused().is_some()) {
            return;
        }
        let step = ui.input(|input| {
            i32::from(input.key_pressed(egui::Key::ArrowRight))
                - i32::from(input.key_pressed(egui::Key::ArrowLeft))
        });
        if step != 0 {
            walk(scene, curves, step);
        }
    }

    fn take_pixels(&mut self, ui: &Ui, wanted: Pixels) {
        let (sender, receiver) = channel();
        let ctx = ui.ctx().clone();
        ui.ctx().request_screenshot(move |image| {
            // The view may have gone; then nobody wants the picture.
            let _ = sender.send(image);
            ctx.request_repaint();
        });
        self.picture = Some((receiver, wanted));
    }

    /// Hands the chart's pixels on once they have arrived.
    fn pixels(&mut self, ui: &Ui, scene: &mut Scene<'_>, room: egui::Rect, report: &RunReport) {
        let Some((receiver, wanted)) = &self.picture else { return };
        let Ok(image) = receiver.try_recv() else { return };
        let part = image.region(&room.expand(8.0), Some(ui.ctx().pixels_per_point()));
        match wanted {
            Pixels::Clipboard => ui.ctx().copy_image(part),
            Pixels::File => {
                let name = format!("{}-trade-off.png", report.status.run);
                scene.commands.push(Command::Save(File { name, content: Content::Picture(Arc::new(part)) }));
            }
        }
        self.picture = None;
    }

    fn side_ui(
        &mut self,
        ui: &mut Ui,
        scene: &mut Scene<'_>,
        report: &Arc<RunReport>,
        curves: &Curves,
        go: &mut Option<Page>,
    ) {
        ui.spacing_mut().item_spacing.y = 3.0 * GRID;
        card(ui, |ui| draft_ui(ui, scene, report, curves, go));
        card(ui, |ui| force_ui(ui, scene, report, self.read_on));
        card(ui, |ui| network_ui(ui, report));
    }
}

/// One step along the front, from the draft or else from the policy in force.
fn walk(scene: &mut Scene<'_>, curves: &Curves, step: i32) {
    let from = scene.draft.policy().or_else(|| scene.state.in_force().map(|force| &force.policy));
    let last = curves.policies().len().saturating_sub(1);
    let place = from.and_then(|policy| curves.place_of(policy));
    let next = match place {
        Some(place) => (place as i64 + i64::from(step)).clamp(0, last as i64) as usize,
        None => last / 2,
    };
    if let Some(point) = curves.policies().get(next) {
        scene.draft.set(point.policy.clone());
    }
}

fn shown_nodes(scene: &Scene<'_>, curves: &Curves) -> Vec<exeunt_protocol::NodeId> {
    if scene.settings.hidden.contains(&Series::Nodes) {
        return Vec::new();
    }
    let all = curves.nodes.iter().map(|line| line.node);
    all.filter(|node| scene.picked.is_empty() || scene.picked.contains(node)).collect()
}

fn named_marks(scene: &Scene<'_>, report: &RunReport, on: ReadOn) -> Vec<(&'static str, PlotPoint)> {
    let at = |policy: &Policy| measured(report, policy, on).map(|m| PlotPoint::new(m.cost, m.accuracy));
    let force = scene.state.in_force().and_then(|force| Some(("in force", at(&force.policy)?)));
    let draft = scene.draft.policy().and_then(|policy| Some(("draft", at(policy)?)));
    force.into_iter().chain(draft).collect()
}

fn nothing_yet(ui: &mut Ui, scene: &mut Scene<'_>, heading: &str, text: &str) {
    widgets::empty(ui, heading, text, |ui| {
        if widgets::primary(ui, "Open a run file…").clicked() {
            scene.commands.push(Command::OpenRunFile { path: None });
        }
    });
}

/// What the pointer is at.
fn point_ui(ui: &mut Ui, report: &RunReport, curves: &Curves, i: usize) {
    let Some(point) = curves.policies().get(i) else { return };
    let network = curves.network.y;
    ui.label(strong(format!("{} right at {} of the cost", percent(point.accuracy), percent(point.cost))));
    ui.label(soft(format!("{} points to the bare network", points(point.accuracy - network))));
    if point.policy.is_off() {
        ui.label("No exit in use");
        return;
    }
    egui::Grid::new("point").num_columns(3).spacing([14.0, 3.0]).show(ui, |ui| {
        for (e, rule) in point.policy.exits.iter().enumerate() {
            let Some(rule) = rule else { continue };
            let name = report.status.exits.get(e).map(|exit| tap(&exit.tap)).unwrap_or_default();
            ui.label(format!("{} · {name}", e + 1));
            ui.label(soft(format!("{} > {}", rule.rule, crate::format::threshold(rule.threshold))));
            ui.label(format!("{} leave", percent(point.exit_share.get(e).copied().unwrap_or(0.0))));
            ui.end_row();
        }
    });
    ui.label(soft("Click to take it as draft"));
}

fn draft_ui(ui: &mut Ui, scene: &mut Scene<'_>, report: &RunReport, curves: &Curves, go: &mut Option<Page>) {
    let p = Palette::get(ui);
    ui.set_width(ui.available_width());
    widgets::ends(
        ui,
        |ui| title(ui, "Draft"),
        |ui| {
            if ui.button("→").on_hover_text("Next dearer policy of the front").clicked() {
                walk(scene, curves, 1);
            }
            if ui.button("←").on_hover_text("Next cheaper policy of the front").clicked() {
                walk(scene, curves, -1);
            }
        },
    );
    let Some(policy) = scene.draft.policy().cloned() else {
        ui.label(soft(
            "Click a point of the curve, set a target below the chart, or step with the arrow keys.",
        ));
        return;
    };
    let known = measured(report, &policy, ReadOn::Evaluation);
    let shown = known.clone().or_else(|| measured(report, &policy, ReadOn::Calibration));
    let force = scene.state.in_force();
    match &shown {
        Some(measure) => {
            let on = if known.is_some() { "on evaluation samples" } else { "on calibration samples" };
            figures(ui, measure, report, p.draft);
            ui.label(soft(on).small());
            if let Some(force) = force
                && let Some(before) = measured(
                    report,
                    &force.policy,
                    if known.is_some() { ReadOn::Evaluation } else { ReadOn::Calibration },
                )
            {
                let accuracy = points(measure.accuracy - before.accuracy);
                let cost = points(measure.cost - before.cost);
                ui.label(format!("To the policy in force: {accuracy} points of accuracy, {cost} of cost"));
            }
            leaving(ui, report, &measure.left);
        }
        None => {
            ui.label(soft("Not measured. The page Thresholds asks the nodes."));
        }
    }
    ui.add_space(GRID);
    let applied = force.is_some_and(|force| force.policy == policy);
    ui.horizontal(|ui| {
        ui.add_enabled_ui(!applied && scene.state.is_up(), |ui| {
            if widgets::primary(ui, "Apply draft").on_disabled_hover_text("It is in force already").clicked()
            {
                let run = report.status.run.clone();
                scene.commands.push(Command::Apply { run, policy: policy.clone() });
            }
        });
        if ui.button("Edit").on_hover_text("Exit by exit, on the page Thresholds").clicked() {
            *go = Some(Page::Thresholds);
        }
        if ui.button("Discard").on_hover_text("Undo brings it back").clicked() {
            scene.draft.discard();
        }
    });
}

fn figures(ui: &mut Ui, measure: &Measure, report: &RunReport, colour: egui::Color32) {
    let Some(result) = &report.status.result else { return };
    let network = result.network_accuracy;
    ui.horizontal(|ui| {
        let remark = format!("{} pt to the network", points(measure.accuracy - network));
        figure(ui, "Accuracy", &percent(measure.accuracy), &remark, colour);
        ui.add_space(3.0 * GRID);
        let remark = format!("{} saved", percent(1.0 - measure.cost));
        figure(ui, "Cost", &percent(measure.cost), &remark, colour);
    });
}

/// Where samples leave, as one bar.
pub(crate) fn leaving(ui: &mut Ui, report: &RunReport, left: &[f64]) {
    if left.is_empty() {
        return;
    }
    let name = |e: usize| match report.status.exits.get(e) {
        Some(exit) => format!("exit {} ({}): {} leave", e + 1, tap(&exit.tap), percent(left[e])),
        None => format!("whole network: {}", percent(left[e])),
    };
    let width = ui.available_width();
    widgets::shares(ui, width, 10.0, left, name);
    let early: f64 = left.iter().rev().skip(1).sum();
    ui.label(soft(format!("{} leave early", percent(early))).small());
}

fn force_ui(ui: &mut Ui, scene: &Scene<'_>, report: &RunReport, on: ReadOn) {
    let p = Palette::get(ui);
    ui.set_width(ui.available_width());
    let Some(force) = scene.state.in_force() else {
        title(ui, "In force");
        ui.label(soft("No policy: nodes run the whole network."));
        return;
    };
    widgets::ends(
        ui,
        |ui| title(ui, "In force"),
        |ui| {
            widgets::tag(ui, &format!("version {}", force.version.0), p.force);
        },
    );
    match measured(report, &force.policy, on).or_else(|| measured(report, &force.policy, ReadOn::Evaluation))
    {
        Some(measure) => {
            figures(ui, &measure, report, p.force);
            leaving(ui, report, &measure.left);
        }
        None => {
            ui.label(soft("Being measured on evaluation samples"));
        }
    }
    widgets::line(ui, soft(&force.asked).small());
}

fn network_ui(ui: &mut Ui, report: &RunReport) {
    ui.set_width(ui.available_width());
    let Some(result) = &report.status.result else { return };
    title(ui, "Bare network");
    let (low, high) = interval(result.network_accuracy, result.samples[2]);
    ui.label(format!("{} right", percent(result.network_accuracy)));
    ui.label(RichText::new(format!("95 % interval {} to {}", percent(low), percent(high))).weak().small());
    let [statistics, calibration, evaluation] = result.samples.map(crate::format::count);
    ui.label(
        soft(format!("{statistics} samples make the means, {calibration} choose, {evaluation} are read on"))
            .small(),
    );
}
