//! Accuracy over cost: the fleet's front, what it is compared with, and the draft.

mod chart;
mod curves;
mod side;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use egui::{ColorImage, Ui};
use egui_plot::{MarkerShape, PlotPoint};
use exeunt_exits::Policy;
use exeunt_protocol::operator::RunReport;
use serde::{Deserialize, Serialize};

use self::chart::{Answer, Mark, Picture, Target, chart};
pub(crate) use self::chart::{cost_grid, cost_hints, plain, steps, tick};
pub(crate) use self::curves::ReadOn;
pub(crate) use self::curves::interval;
use self::curves::{Curves, LINES, cost_of};
pub(crate) use self::side::leaving;
use self::side::{draft_ui, force_ui, network_ui, point_ui};
use super::{Page, Scene, first_steps};
use crate::axis::{CostAxis, Unit};
use crate::command::{Command, Content, File};
use crate::format::{count, plural};
use crate::measure::{Measure, measured};
use crate::theme::{GRID, Palette};
use crate::widgets::{self, Swatch, card, chip, soft, strong, title};

/// Width of the cards beside the chart.
const SIDE: f32 = 296.0;
/// Room that the title and the tools need beside each other.
const TITLE_AND_TOOLS: f32 = 540.0;

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
            return first_steps(ui, scene);
        };
        if !self
            .curves
            .as_ref()
            .is_some_and(|curves| curves.are_of(&report, self.read_on, scene.settings.cost_axis))
        {
            let before = self.curves.as_ref().map(|curves| curves.axis);
            self.curves = Curves::new(&report, self.read_on, scene.settings.cost_axis);
            let after = self.curves.as_ref().map(|curves| curves.axis);
            if before.is_some() && before != after {
                self.reset = true;
                // A ceiling in one unit says nothing in another.
                if before.map(|axis| axis.unit) != after.map(|axis| axis.unit)
                    && matches!(self.target, Some(Target::Cost(_)))
                {
                    self.target = None;
                }
            }
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
        let wide = ui.available_width() > TITLE_AND_TOOLS;
        ui.horizontal(|ui| {
            title(ui, "Accuracy over cost");
            if wide {
                widgets::right(ui, |ui| self.tools_ui(ui, scene, report, curves));
            }
        });
        if !wide {
            ui.horizontal(|ui| widgets::right(ui, |ui| self.tools_ui(ui, scene, report, curves)));
        }
        let legend = ui.available_rect_before_wrap();
        self.legend_ui(ui, scene, curves);
        let marks = self.marks(ui, scene, report, curves.axis);
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
        // A picture shows the chart and what its colours mean, and no buttons.
        let pictured = legend.with_max_y(ui.min_rect().bottom());
        self.foot_ui(ui, scene, curves);
        if let Some(answer) = answer {
            self.react(ui, scene, report, curves, answer);
        }
        self.pixels(ui, scene, pictured, report);
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
                let marks = named_marks(scene, report, self.read_on, curves.axis);
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
        axis_ui(ui, scene, report, curves);
        if ui.button("Reset").on_hover_text("Show all of the chart; also by a double click on it").clicked() {
            self.reset = true;
        }
        egui::ComboBox::from_id_salt("read on")
            .selected_text(match self.read_on {
                ReadOn::Evaluation => "Evaluation",
                ReadOn::Calibration => "Calibration",
            })
            .width(104.0)
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
            0 if curves.nodes.len() > LINES => {
                let drawn = curves.shown(scene.picked).count() as u64;
                format!("{} of {}", count(drawn), plural(curves.nodes.len(), "node"))
            }
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
                let response = chip(ui, name, swatch, colour, &mut on);
                let response = match series {
                    Series::Nodes if curves.nodes.len() > LINES && scene.picked.is_empty() => response
                        .on_hover_text("Spread evenly over the fleet. Nodes that are picked on the page Fleet are all drawn."),
                    Series::Draft | Series::Force => response.on_hover_text(format!(
                        "Hollow where it was only measured on {} samples",
                        self.read_on.other().samples()
                    )),
                    _ => response,
                };
                if response.changed() {
                    if on {
                        scene.settings.hidden.remove(&series);
                    } else {
                        scene.settings.hidden.insert(series);
                    }
                }
            }
        });
    }

    fn marks(&self, ui: &Ui, scene: &Scene<'_>, report: &RunReport, axis: CostAxis) -> Vec<Mark> {
        let p = Palette::get(ui);
        let mark = |policy: &Policy, colour, shape, series| {
            let (known, on) = known_on(report, policy, self.read_on)?;
            let hollow = on != self.read_on;
            Some(Mark { at: place(report, axis, policy, &known), colour, shape, series, hollow })
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
                    2 => Some(Target::Cost(middle(curves))),
                    _ => None,
                };
                self.follow(scene, curves);
            }
            let mut changed = false;
            match &mut self.target {
                Some(Target::Accuracy(number) | Target::Cost(number)) => {
                    let clock = kind == 2 && curves.axis.unit == Unit::Milliseconds;
                    let (scale, suffix, digits) = if clock { (1.0, " ms", 3) } else { (100.0, " %", 1) };
                    let mut shown = *number * scale;
                    let speed = if clock { shown.abs().max(1e-3) * 0.01 } else { 0.1 };
                    let value = egui::DragValue::new(&mut shown)
                        .range(0.0..=if clock { 1e9 } else { 200.0 })
                        .speed(speed)
                        .fixed_decimals(digits)
                        .suffix(suffix);
                    let name = if kind == 1 { "Accuracy target" } else { "Cost target" };
                    let response =
                        ui.add(value).on_hover_text(format!("{name}; also drag its line on the chart"));
                    if response.changed() {
                        *number = shown / scale;
                        changed = true;
                    }
                }
                None => {}
            }
            if changed {
                self.follow(scene, curves);
            }
            if self.target.is_none() {
                widgets::line(ui, soft("Click a point to take it as draft. Drag a box to zoom."));
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
                let affordable = calibration.points().iter().filter(|point| curves.cost(point) <= ceiling);
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
    fn pixels(&mut self, ui: &Ui, scene: &mut Scene<'_>, pictured: egui::Rect, report: &RunReport) {
        let Some((receiver, wanted)) = &self.picture else { return };
        let Ok(image) = receiver.try_recv() else { return };
        let part = image.region(&pictured.expand(4.0), Some(ui.ctx().pixels_per_point()));
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

/// What the axis of cost counts, and how it is spread.
fn axis_ui(ui: &mut Ui, scene: &mut Scene<'_>, report: &RunReport, curves: &Curves) {
    let axis = &mut scene.settings.cost_axis;
    let timed = report.status.times.as_ref().map(|times| times.times.nodes);
    let response = ui.toggle_value(&mut axis.log, "log");
    response
        .widget_info(|| egui::WidgetInfo::selected(egui::Role::CheckBox, true, axis.log, "Logarithmic cost"));
    response.on_hover_text("Equal steps of the cost axis are equal factors: room for what is cheap");
    egui::ComboBox::from_id_salt("unit of cost")
        .selected_text(curves.axis.unit.short())
        .width(64.0)
        .show_ui(ui, |ui| {
            ui.selectable_value(&mut axis.unit, Unit::Share, Unit::Share.name());
            ui.add_enabled_ui(timed.is_some(), |ui| {
                ui.selectable_value(&mut axis.unit, Unit::Milliseconds, Unit::Milliseconds.name())
                    .on_disabled_hover_text("No node of this run has measured its times");
            });
        })
        .response
        .on_hover_text(match (curves.axis.unit, timed) {
            (Unit::Milliseconds, Some(nodes)) => {
                format!(
                    "What cost is counted in: milliseconds as {} measured them",
                    plural(nodes as usize, "node")
                )
            }
            (_, Some(_)) => "What cost is counted in; nodes have measured milliseconds, too".to_owned(),
            (_, None) => "What cost is counted in; no node of this run has measured milliseconds".to_owned(),
        });
}

/// A cost in the middle of the chart, where a ceiling begins.
fn middle(curves: &Curves) -> f64 {
    let cheapest = curves.front.iter().map(|point| point.x).fold(curves.network.x, f64::min);
    curves.axis.cost((cheapest + curves.network.x) / 2.0)
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
    curves.shown(scene.picked).map(|(_, line)| line.node).collect()
}

/// What a policy does on the samples that the chart shows; where it was not measured there, on the others.
fn known_on(report: &RunReport, policy: &Policy, on: ReadOn) -> Option<(Measure, ReadOn)> {
    [on, on.other()].into_iter().find_map(|on| Some((measured(report, policy, on)?, on)))
}

/// Where a measured policy lies on the chart.
fn place(report: &RunReport, axis: CostAxis, policy: &Policy, known: &Measure) -> PlotPoint {
    let cost = cost_of(report, axis.unit, known.cost, policy, &known.left);
    PlotPoint::new(axis.place(cost), known.accuracy)
}

fn named_marks(
    scene: &Scene<'_>,
    report: &RunReport,
    on: ReadOn,
    axis: CostAxis,
) -> Vec<(String, PlotPoint)> {
    let mark = |name: &str, policy: &Policy| {
        let (known, read) = known_on(report, policy, on)?;
        let name = if read == on { name.to_owned() } else { format!("{name} ({})", read.samples()) };
        Some((name, place(report, axis, policy, &known)))
    };
    let force = scene.state.in_force().and_then(|force| mark("in force", &force.policy));
    let draft = scene.draft.policy().and_then(|policy| mark("draft", policy));
    force.into_iter().chain(draft).collect()
}
