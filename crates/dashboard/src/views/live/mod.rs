//! What inference does now: where samples leave at every node, whether the whole network agrees, whether what comes still
//! looks like what the policy was chosen on, and what leaving early saves.
//!
//! Nodes report counters now and then while they infer. Beside them stands what was measured on evaluation samples when
//! the policy was set. Where no node reports, that is all there is, and the page says so.

mod strip;

use std::sync::Arc;

use egui::{RichText, Ui, vec2};
use exeunt_exits::{Drift, DriftLevel};
use exeunt_protocol::operator::{NodeLive, RunReport};
use exeunt_protocol::{NodeId, PolicyVersion};

use self::strip::{Height, Strip, ends_ui, range, strip_ui};
use super::tradeoff::interval;
use super::{Scene, first_steps};
use crate::format::{ago, count, joules, millis, percent, plural, tap};
use crate::theme::{GRID, Palette};
use crate::widgets::{self, card, figure, soft, strong, tag, title};

const ROW: f32 = 30.0;
/// Room for a figure.
const FIGURE: f32 = 168.0;
/// Between numbers, which stand at the right of their column, and words, which stand at the left.
const GAP: f32 = 12.0;
/// Stretches of time in the fleet's chart, and in a node's row.
const PARTS: usize = 72;
const ROW_PARTS: usize = 36;

/// What the view remembers.
#[derive(Debug)]
pub(crate) struct Live {
    now: Option<Now>,
    /// The node whose chart is shown; the fleet's, if none.
    node: Option<NodeId>,
    height: Height,
}

impl Default for Live {
    fn default() -> Self {
        Self { now: None, node: None, height: Height::Samples }
    }
}

/// What follows from the reports; worked out when there is a new one.
#[derive(Debug)]
struct Now {
    live: Arc<[NodeLive]>,
    report: Arc<RunReport>,
    /// Reports about policies that are in force, by their place: what drifted most comes first.
    order: Vec<usize>,
    /// Nodes that report about a policy that is not in force any more.
    behind: usize,
    totals: Totals,
    strip: Option<Strip>,
    /// Of the rows that were looked at, by place.
    rows: std::collections::BTreeMap<usize, Strip>,
}

/// Sums over the nodes that report.
#[derive(Debug, Default)]
struct Totals {
    left: Vec<u64>,
    macs: u64,
    bare_macs: u64,
    sampled: u64,
    agreed: u64,
    busy_ns: u64,
    timed: u64,
    joules: Option<f64>,
    joules_saved: Option<f64>,
    drifted: usize,
    shifting: usize,
}

impl Totals {
    fn of<'a>(all: impl Iterator<Item = &'a NodeLive>, exits: usize) -> Self {
        let mut sum = Self { left: vec![0; exits], ..Self::default() };
        for live in all {
            let counts = &live.counts;
            sum.left.iter_mut().zip(&counts.left).for_each(|(sum, n)| *sum = sum.saturating_add(*n));
            for (sum, more) in [
                (&mut sum.macs, counts.macs),
                (&mut sum.bare_macs, counts.bare_macs),
                (&mut sum.sampled, counts.sampled),
                (&mut sum.agreed, counts.agreed),
                (&mut sum.busy_ns, counts.busy_ns),
                (&mut sum.timed, counts.timed),
            ] {
                *sum = sum.saturating_add(more);
            }
            for (sum, more) in [(&mut sum.joules, live.joules), (&mut sum.joules_saved, live.joules_saved)] {
                if let Some(more) = more {
                    *sum = Some(sum.unwrap_or(0.0) + more);
                }
            }
            match worst(live) {
                Some(DriftLevel::Drifted) => sum.drifted += 1,
                Some(DriftLevel::Shifting) => sum.shifting += 1,
                _ => {}
            }
        }
        sum
    }

    fn samples(&self) -> u64 {
        self.left.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    fn shares(&self) -> Vec<f64> {
        let all = self.samples().max(1) as f64;
        self.left.iter().map(|n| *n as f64 / all).collect()
    }
}

impl Now {
    fn new(live: &Arc<[NodeLive]>, report: &Arc<RunReport>) -> Self {
        let wanted = |live: &NodeLive| report.status.in_force_at(live.node).map(|policy| policy.version);
        let current = |live: &&NodeLive| wanted(live) == Some(live.counts.policy);
        let mut order: Vec<usize> =
            live.iter().enumerate().filter(|(_, live)| current(live)).map(|(i, _)| i).collect();
        let rank = |i: &usize| {
            let live = &live[*i];
            let index = indices(live).map(|drift| drift.index).fold(0.0, f64::max);
            (worst(live), index)
        };
        order.sort_by(|a, b| {
            let (a, b) = (rank(a), rank(b));
            b.0.cmp(&a.0).then_with(|| b.1.total_cmp(&a.1))
        });
        let reported: std::collections::BTreeSet<NodeId> = order.iter().map(|i| live[*i].node).collect();
        let behind: std::collections::BTreeSet<NodeId> =
            live.iter().map(|live| live.node).filter(|node| !reported.contains(node)).collect();
        let exits = report.status.exits.len() + 1;
        let shown = || order.iter().map(|i| &live[*i]);
        let totals = Totals::of(shown(), exits);
        let strip = range(shown()).map(|range| Strip::new(shown(), exits, range, PARTS));
        let (live, report) = (Arc::clone(live), Arc::clone(report));
        Self {
            live,
            report,
            order,
            behind: behind.len(),
            totals,
            strip,
            rows: std::collections::BTreeMap::new(),
        }
    }

    fn is_of(&self, live: &Arc<[NodeLive]>, report: &Arc<RunReport>) -> bool {
        Arc::ptr_eq(&self.live, live) && Arc::ptr_eq(&self.report, report)
    }

    /// The strip of one report, in the same time as the fleet's.
    fn row(&mut self, place: usize) -> Option<&Strip> {
        let span = self.strip.as_ref()?.range;
        let (live, exits) = (self.live.get(place)?, self.totals.left.len());
        Some(
            self.rows
                .entry(place)
                .or_insert_with(|| Strip::new(std::iter::once(live), exits, span, ROW_PARTS)),
        )
    }
}

/// Everything that was compared at a node.
fn indices(live: &NodeLive) -> impl Iterator<Item = &Drift> {
    live.drift.iter().chain(live.margin_drift.iter().flatten())
}

/// The worst of it; none where nothing was compared.
fn worst(live: &NodeLive) -> Option<DriftLevel> {
    indices(live).map(|drift| drift.level).max()
}

impl Live {
    pub(crate) fn ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>) {
        if scene.state.report.is_none() {
            return first_steps(ui, scene);
        }
        let Some((report, force)) = scene.state.report.clone().zip(scene.state.in_force().cloned()) else {
            let text = "When a policy is in force, this page shows where samples leave on every node, and what that saves.";
            return widgets::empty(ui, "No policy in force", text, |_| {});
        };
        if !self.now.as_ref().is_some_and(|now| now.is_of(&scene.state.live, &report)) {
            self.now = Some(Now::new(&scene.state.live, &report));
        }
        let Some(mut now) = self.now.take() else { return };
        ui.spacing_mut().item_spacing.y = 3.0 * GRID;
        card(ui, |ui| {
            ui.set_width(ui.available_width());
            if now.order.is_empty() {
                nothing_ui(ui, scene, &now, force.version);
            } else {
                self.now_ui(ui, scene, &now, force.version);
            }
            let expected = (!force.left.is_empty()).then_some(force.left.as_slice());
            self.exits_ui(ui, &now, expected);
        });
        if !now.order.is_empty() {
            card(ui, |ui| {
                ui.set_width(ui.available_width());
                self.nodes_ui(ui, scene, &mut now);
            });
        }
        self.now = Some(now);
    }

    fn now_ui(&self, ui: &mut Ui, scene: &Scene<'_>, now: &Now, version: PolicyVersion) {
        let p = Palette::get(ui);
        let totals = &now.totals;
        widgets::ends(
            ui,
            |ui| {
                title(ui, "Inference now");
                tag(ui, &format!("policy {}", version.0), p.force);
                let all = scene.state.nodes.len();
                ui.label(soft(format!(
                    "{} of {} report",
                    count(now.order.len() as u64),
                    plural(all, "node")
                )));
                if now.behind > 0 {
                    ui.label(soft(format!("{} with an earlier policy", plural(now.behind, "node"))));
                }
            },
            |ui| {
                let (text, colour) = match (totals.drifted, totals.shifting) {
                    (0, 0) => ("no drift seen".to_owned(), p.good),
                    (0, n) => (format!("{} shifting", plural(n, "node")), p.warn),
                    (n, _) => (format!("{} drifted", plural(n, "node")), p.bad),
                };
                tag(ui, &text, colour).on_hover_text(DRIFT);
            },
        );
        let shares = totals.shares();
        let early: f64 = shares.iter().rev().skip(1).sum();
        let mut figures = vec![
            ("Samples", count(totals.samples()), "since the policy came".to_owned(), p.ink),
            ("Leave early", percent(early), "of all samples".to_owned(), p.draft),
        ];
        if totals.bare_macs > 0 {
            let saved = 1.0 - totals.macs as f64 / totals.bare_macs as f64;
            figures.push(("Saved", percent(saved), "of multiply-accumulates".to_owned(), p.draft));
        }
        let (agreement, remark) = agreement(totals.agreed, totals.sampled);
        figures.push(("Agreement", agreement, remark, p.ink));
        if totals.timed > 0 {
            let mean = totals.busy_ns as f64 / totals.timed as f64 / 1e6;
            figures.push(("Time", millis(mean), "per sample".to_owned(), p.ink));
        }
        if let (Some(spent), Some(saved)) = (totals.joules, totals.joules_saved) {
            let remark = format!("estimate; {} spent", joules(spent));
            figures.push(("Energy saved", joules(saved), remark, p.draft));
        }
        let in_row = ((ui.available_width() / FIGURE) as usize).max(1);
        for row in figures.chunks(in_row) {
            ui.horizontal_top(|ui| {
                ui.spacing_mut().item_spacing.x = 0.0;
                for (name, value, remark, colour) in row {
                    ui.allocate_ui(vec2(FIGURE, 0.0), |ui| {
                        ui.set_width(FIGURE);
                        figure(ui, name, value, remark, *colour);
                    });
                }
            });
        }
    }

    /// Over time at the left, exit by exit at the right.
    fn exits_ui(&mut self, ui: &mut Ui, now: &Now, expected: Option<&[f64]>) {
        let name = |e: usize| exit_name(&now.report, e);
        let room = ui.available_width();
        let reported = !now.order.is_empty();
        let side = if reported && now.strip.is_some() { 348.0 } else { room };
        ui.horizontal_top(|ui| {
            if let Some(fleet) = now.strip.as_ref().filter(|_| reported) {
                let width = (room - side - 5.0 * GRID).max(180.0);
                ui.vertical(|ui| {
                    ui.set_width(width);
                    ui.horizontal(|ui| {
                        let chosen = self
                            .node
                            .and_then(|node| now.order.iter().copied().find(|i| now.live[*i].node == node));
                        ui.label(strong("Exits over time"));
                        ui.label(soft(chosen.map_or("the fleet", |i| now.live[i].name.as_str())));
                        if chosen.is_some() && ui.small_button("Show the fleet").clicked() {
                            self.node = None;
                        }
                        widgets::right(ui, |ui| {
                            ui.selectable_value(&mut self.height, Height::Shares, "Shares");
                            ui.selectable_value(&mut self.height, Height::Samples, "Samples");
                        });
                    });
                    let of_node = self
                        .node
                        .and_then(|node| now.order.iter().find(|i| now.live[**i].node == node))
                        .map(|i| {
                            Strip::new(std::iter::once(&now.live[*i]), fleet_exits(fleet), fleet.range, PARTS)
                        });
                    let strip = of_node.as_ref().unwrap_or(fleet);
                    strip_ui(ui, strip, vec2(width, 150.0), self.height, "Chart: exits over time", name);
                    ends_ui(ui, strip, width);
                });
                ui.add_space(3.0 * GRID);
            }
            // The bars are of whatever the chart shows.
            let shares =
                match self.node.and_then(|node| now.order.iter().find(|i| now.live[**i].node == node)) {
                    Some(i) => {
                        let counts = &now.live[*i].counts;
                        let all = counts.samples().max(1) as f64;
                        counts.left.iter().map(|n| *n as f64 / all).collect()
                    }
                    None => now.totals.shares(),
                };
            let found = (reported).then_some(shares.as_slice());
            ui.vertical(|ui| {
                ui.set_width(side.min(620.0));
                match (found, expected) {
                    (Some(_), Some(_)) => {
                        ui.label(soft("bar: now; line: on evaluation samples").small());
                    }
                    (None, None) => {
                        ui.label(soft("The nodes are measuring the policy on evaluation samples"));
                        return;
                    }
                    _ => {}
                }
                bars_ui(ui, found, expected, name);
            });
        });
    }

    fn nodes_ui(&mut self, ui: &mut Ui, scene: &Scene<'_>, now: &mut Now) {
        ui.horizontal(|ui| {
            title(ui, "Node by node");
            ui.label(soft("what drifted most comes first; click a row for its chart"));
        });
        let columns = Widths::new(ui.available_width() - 16.0);
        ui.horizontal(|ui| {
            let heads = [
                ("Node", columns.name, false),
                ("Exits over time", columns.strip, false),
                ("Samples", columns.number, true),
            ];
            let rest = [
                ("Saved", columns.number, true),
                ("Agreement", columns.number, true),
                ("Time", columns.number, true),
                ("Drift", columns.drift, false),
                ("Reported", columns.number, false),
            ];
            for (text, width, right) in heads.into_iter().chain(rest) {
                if text == "Drift" {
                    ui.add_space(GAP);
                }
                cell(ui, width, 20.0, right, |ui| ui.label(soft(text).size(12.5)));
            }
        });
        let rows = now.order.len();
        egui::ScrollArea::vertical().auto_shrink(false).show_rows(ui, ROW, rows, |ui, range| {
            ui.spacing_mut().item_spacing.y = 0.0;
            for i in range {
                self.row_ui(ui, scene, now, i, &columns);
            }
        });
    }

    fn row_ui(&mut self, ui: &mut Ui, scene: &Scene<'_>, now: &mut Now, i: usize, columns: &Widths) {
        let p = Palette::get(ui);
        let place = now.order[i];
        let live = now.live[place].clone();
        let rect = egui::Rect::from_min_size(ui.cursor().min, vec2(ui.available_width(), ROW));
        let response = ui.interact(rect, ui.scope_id().with(("live row", live.node)), egui::Sense::click());
        response.widget_info(|| {
            let text = format!("Inference of {}", live.name);
            egui::WidgetInfo::selected(egui::Role::Row, true, self.node == Some(live.node), text)
        });
        if response.clicked() {
            self.node = if self.node == Some(live.node) { None } else { Some(live.node) };
        }
        if self.node == Some(live.node) {
            ui.painter().rect_filled(rect, 4.0, ui.visuals().selection.bg_fill);
        } else if response.hovered() {
            ui.painter().rect_filled(rect, 4.0, p.ink.gamma_multiply(0.05));
        }
        let report = Arc::clone(&now.report);
        let strip = now.row(place);
        ui.horizontal(|ui| {
            ui.set_height(ROW);
            cell(ui, columns.name, ROW, false, |ui| widgets::line(ui, strong(&live.name)));
            cell(ui, columns.strip, ROW, false, |ui| match strip {
                Some(strip) => {
                    let size = vec2(columns.strip - 4.0, 18.0);
                    let label = format!("Exits of {} over time", live.name);
                    strip_ui(ui, strip, size, Height::Shares, &label, |e| exit_name(&report, e));
                }
                None => {
                    ui.label(soft("one report so far"));
                }
            });
            let dash = || "–".to_owned();
            let saved = live.cost.map_or_else(dash, |cost| percent(1.0 - cost));
            let time = live.mean_ms.map_or_else(dash, millis);
            cell(ui, columns.number, ROW, true, |ui| ui.label(count(live.counts.samples())));
            cell(ui, columns.number, ROW, true, |ui| ui.label(saved));
            let (agreement, remark) = agreement(live.counts.agreed, live.counts.sampled);
            cell(ui, columns.number, ROW, true, |ui| ui.label(agreement).on_hover_text(remark));
            cell(ui, columns.number, ROW, true, |ui| ui.label(time));
            ui.add_space(GAP);
            cell(ui, columns.drift, ROW, false, |ui| drift_ui(ui, &live, &report));
            cell(ui, columns.number, ROW, false, |ui| ui.label(soft(ago(scene.now_ms, live.at_ms))));
        });
    }
}

fn fleet_exits(strip: &Strip) -> usize {
    strip.parts.first().map_or(0, Vec::len)
}

/// Widths of the list's columns.
struct Widths {
    name: f32,
    strip: f32,
    number: f32,
    drift: f32,
}

impl Widths {
    fn new(room: f32) -> Self {
        let (number, drift) = (72.0, 104.0);
        let rest = room - 5.0 * number - drift - 9.0 * 8.0 - GAP;
        let name = (rest * 0.36).clamp(84.0, 200.0);
        Self { name, strip: (rest - name).clamp(60.0, 420.0), number, drift }
    }
}

fn cell<R>(ui: &mut Ui, width: f32, height: f32, right: bool, contents: impl FnOnce(&mut Ui) -> R) {
    let layout = if right {
        egui::Layout::right_to_left(egui::Align::Center)
    } else {
        egui::Layout::left_to_right(egui::Align::Center)
    };
    ui.allocate_ui_with_layout(vec2(width, height), layout, |ui| {
        ui.set_min_size(vec2(width, height));
        ui.set_max_width(width);
        contents(ui);
    });
}

/// What drift means.
const DRIFT: &str = "Where samples leave, and how sure the exits are, compared with what was measured when the policy was chosen. The figure is the population stability index: from 0.1 on it is worth a look, from 0.25 on it is another population.";

fn drift_ui(ui: &mut Ui, live: &NodeLive, report: &RunReport) {
    let p = Palette::get(ui);
    let (text, colour) = match worst(live) {
        Some(DriftLevel::Drifted) => ("drifted", p.bad),
        Some(DriftLevel::Shifting) => ("shifting", p.warn),
        Some(DriftLevel::Steady) => ("steady", p.good),
        Some(DriftLevel::TooFew) => ("too few yet", p.soft),
        None => ("not compared", p.soft),
    };
    tag(ui, text, colour).on_hover_ui(|ui| {
        let line = |ui: &mut Ui, what: String, drift: &Drift| {
            let few = if drift.level == DriftLevel::TooFew {
                format!(", {} needed", count(drift.needed))
            } else {
                String::new()
            };
            ui.label(format!("{what}: {:.3} over {} samples{few}", drift.index, count(drift.samples)));
        };
        if let Some(drift) = &live.drift {
            line(ui, "where samples leave".to_owned(), drift);
        }
        for (e, drift) in live.margin_drift.iter().enumerate() {
            if let Some(drift) = drift {
                line(ui, format!("margins, {}", exit_name(report, e)), drift);
            }
        }
        ui.label(soft(DRIFT).small());
    });
}

/// What one node's inference does, in a few lines.
pub(super) fn summary(ui: &mut Ui, scene: &Scene<'_>, live: &NodeLive) {
    let counts = &live.counts;
    let version = counts.policy.0;
    let when = ago(scene.now_ms, live.at_ms);
    ui.label(format!("{} samples with policy {version}; reported {when}", count(counts.samples())));
    let mut facts = Vec::new();
    if let Some(cost) = live.cost {
        facts.push(format!("{} of the multiply-accumulates saved", percent(1.0 - cost)));
    }
    if let Some(ms) = live.mean_ms {
        facts.push(format!("{} a sample", millis(ms)));
    }
    if let (Some(spent), Some(saved)) = (live.joules, live.joules_saved) {
        facts.push(format!("{} spent, about {} saved", joules(spent), joules(saved)));
    }
    if !facts.is_empty() {
        ui.label(facts.join("; "));
    }
    let (agreement, remark) = agreement(counts.agreed, counts.sampled);
    ui.label(soft(format!("agreement with its whole network {agreement}, {remark}")));
    if let Some(report) = &scene.state.report {
        ui.horizontal(|ui| drift_ui(ui, live, report));
    }
}

/// The share that agrees, and how well that is known.
fn agreement(agreed: u64, sampled: u64) -> (String, String) {
    if sampled == 0 {
        return ("–".to_owned(), "no sample was compared".to_owned());
    }
    let share = agreed as f64 / sampled as f64;
    let (low, high) = interval(share, sampled);
    (percent(share), format!("{} to {} of {}", percent(low), percent(high), count(sampled)))
}

fn exit_name(report: &RunReport, e: usize) -> String {
    match report.status.exits.get(e) {
        Some(exit) => format!("Exit {} · {}", e + 1, tap(&exit.tap)),
        None => "Whole network".to_owned(),
    }
}

/// What stands where no node reports.
fn nothing_ui(ui: &mut Ui, scene: &Scene<'_>, now: &Now, version: PolicyVersion) {
    let p = Palette::get(ui);
    ui.horizontal(|ui| {
        title(ui, "Inference now");
        tag(ui, &format!("policy {}", version.0), p.force);
    });
    let text = if now.behind > 0 {
        format!(
            "No node has reported inference with this policy yet; {} with an earlier one.",
            plural(now.behind, "node")
        )
    } else {
        "No node has reported inference yet. A node reports while it classifies (exeunt-node serve, or exeunt-node classify), once it has enough samples to say something without telling of one."
            .to_owned()
    };
    ui.label(text);
    ui.add_space(GRID);
    ui.label(strong("What to expect"));
    if let Some((accuracy, cost)) = scene.state.in_force().and_then(|force| force.accuracy.zip(force.cost)) {
        let early = scene.state.in_force().map_or(0.0, |force| force.left.iter().rev().skip(1).sum());
        ui.horizontal(|ui| {
            ui.spacing_mut().item_spacing.x = 8.0 * GRID;
            figure(ui, "Leave early", &percent(early), "of all samples", p.draft);
            figure(ui, "Saved", &percent(1.0 - cost), "of the multiply-accumulates", p.draft);
            figure(ui, "Accuracy", &percent(accuracy), "of the answers given", p.ink);
        });
        ui.label(soft("as measured on the fleet’s evaluation samples when the policy was set").small());
    }
}

/// One bar per exit: what is found as a bar, what was expected as a line; a bar of what was expected where nothing is
/// found.
fn bars_ui(ui: &mut Ui, found: Option<&[f64]>, expected: Option<&[f64]>, name: impl Fn(usize) -> String) {
    let p = Palette::get(ui);
    let Some(shown) = found.or(expected) else { return };
    egui::Grid::new("exits").num_columns(3).spacing([12.0, 4.0]).show(ui, |ui| {
        for (e, share) in shown.iter().enumerate() {
            ui.label(RichText::new(name(e)).size(12.5));
            ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
                ui.label(RichText::new(percent(*share)).size(12.5));
            });
            let size = vec2((ui.available_width() - 8.0).clamp(60.0, 420.0), 10.0);
            let (rect, response) = ui.allocate_exact_size(size, egui::Sense::hover());
            ui.painter().rect_filled(rect, 3.0, p.well);
            let done = egui::Rect::from_min_size(rect.min, vec2(rect.width() * *share as f32, rect.height()));
            ui.painter().rect_filled(done, 3.0, widgets::share_colour(&p, e, shown.len()));
            if let (Some(_), Some(before)) = (found, expected.and_then(|expected| expected.get(e))) {
                let x = rect.left() + rect.width() * *before as f32;
                ui.painter().vline(x, rect.y_range().expand(2.0), egui::Stroke::new(2.0, p.ink));
                response.on_hover_text(format!("{} now, {} expected", percent(*share), percent(*before)));
            }
            ui.end_row();
        }
    });
}
