//! The draft, exit by exit: shares, raw thresholds, rules; measured, applied, rolled back.

mod named;
mod nodes;

use egui::{RichText, Sense, Slider, Ui, vec2};
use exeunt_exits::{ExitRule, Policy, Quantiles, Rule};
use exeunt_protocol::coordinator::{PolicyStatus, Purpose, Standing};
use exeunt_protocol::operator::RunReport;

use self::named::Named;
use self::nodes::Nodes;
use super::applying::{apply_ui, whom_ui};
use super::{ReadOn, Scene, first_steps};
use crate::command::Command;
use crate::format::{ago, percent, points, tap, threshold};
use crate::measure::{Measure, is_being_measured, measured, share};
use crate::theme::{GRID, Palette};
use crate::widgets::{self, card, figure, soft, strong, tag, title};

/// Bars of a margin histogram.
const BARS: usize = 40;
/// Width of the cards at the side.
const SIDE: f32 = 316.0;

/// What the view remembers.
#[derive(Debug, Default)]
pub(crate) struct Thresholds {
    named: Named,
    /// The draft that nodes were last asked about, so that they are asked once.
    asked: Option<Policy>,
    /// A share that is being dragged: exit and value.
    dragged: Option<(usize, f64)>,
    nodes: Nodes,
}

impl Thresholds {
    pub(crate) fn ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>) {
        if scene.state.report.is_none() {
            return first_steps(ui, scene);
        }
        let ready = scene.state.report.clone().zip(scene.state.margins.clone());
        let Some((report, margins)) = ready else {
            let text = "Thresholds are set as shares of what was observed. They can be edited when the run has measured its margins.";
            return widgets::empty(ui, "Nothing to edit yet", text, |_| {});
        };
        if report.status.result.is_none() {
            let text = "The run is still measuring. The page Run says where it stands.";
            return widgets::empty(ui, "Nothing to edit yet", text, |_| {});
        }
        egui::Panel::right("thresholds side")
            .exact_size(SIDE + 12.0)
            .resizable(false)
            .show_separator_line(false)
            .frame(egui::Frame::new().inner_margin(egui::Margin { left: 12, ..Default::default() }))
            .show(ui, |ui| {
                egui::ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
                    ui.spacing_mut().item_spacing.y = 3.0 * GRID;
                    card(ui, |ui| self.draft_ui(ui, scene, &report));
                    card(ui, |ui| history_ui(ui, scene, &report));
                    card(ui, |ui| self.named.ui(ui, scene, &report));
                });
            });
        egui::CentralPanel::no_frame().show(ui, |ui| {
            egui::ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
                ui.spacing_mut().item_spacing.y = 2.5 * GRID;
                for exit in 0..report.status.exits.len() {
                    card(ui, |ui| self.exit_ui(ui, scene, &report, &margins, exit));
                }
                self.nodes.ui(ui, scene, &report);
            });
        });
        self.measure(scene, &report);
    }

    /// The policy that the sliders show: the draft, else what is in force, else the bare network.
    fn shown(scene: &Scene<'_>, report: &RunReport) -> Policy {
        let force = scene.state.in_force().map(|force| &force.policy);
        let shown = scene.draft.policy().or(force).cloned();
        shown.unwrap_or_else(|| Policy::off(report.status.exits.len()))
    }

    fn exit_ui(
        &mut self,
        ui: &mut Ui,
        scene: &mut Scene<'_>,
        report: &RunReport,
        margins: &Quantiles,
        exit: usize,
    ) {
        let p = Palette::get(ui);
        ui.set_width(ui.available_width());
        let policy = Self::shown(scene, report);
        let rule = policy.exits.get(exit).copied().flatten();
        let status = &report.status.exits[exit];
        let rules: Vec<Rule> = margins.rules(exit).collect();
        let mut next = rule;
        ui.horizontal(|ui| {
            let mut on = rule.is_some();
            let name = format!("Exit {}", exit + 1);
            let toggle = ui.add_enabled(!rules.is_empty(), egui::Checkbox::new(&mut on, strong(&name)));
            if toggle.changed() {
                next = if on { default_rule(margins, exit) } else { None };
            }
            ui.label(soft(tap(&status.tap))).on_hover_text(&status.tap);
            if let Some(exit) = report.status.result.as_ref().and_then(|r| r.exits.get(exit)) {
                ui.label(soft(format!("costs {}", percent(exit.cost))));
            }
            widgets::right(ui, |ui| {
                if let Some(used) = rule {
                    let mut chosen = used.rule;
                    egui::ComboBox::from_id_salt(("rule", exit))
                        .selected_text(rule_name(chosen))
                        .width(118.0)
                        .show_ui(ui, |ui| {
                            for one in &rules {
                                ui.selectable_value(&mut chosen, *one, rule_name(*one));
                            }
                        })
                        .response
                        .on_hover_text(format!("Rule of exit {}", exit + 1));
                    if chosen != used.rule {
                        // The share stays; the margin that stands for it is the other rule's.
                        let kept = share(margins, &policy, exit);
                        next = margins.threshold(exit, chosen, kept).map(|t| ExitRule::new(chosen, t));
                    }
                }
            });
        });
        if let Some(used) = rule {
            let observed = share(margins, &policy, exit);
            let mut percent_now = match self.dragged {
                Some((e, value)) if e == exit => value,
                _ => observed * 100.0,
            };
            let shown_before = percent_now;
            let ghost = scene
                .draft
                .policy()
                .and(scene.state.in_force())
                .map(|force| share(margins, &force.policy, exit));
            let slider = ui
                .horizontal(|ui| {
                    ui.spacing_mut().slider_width = (ui.available_width() - 320.0).clamp(80.0, 460.0);
                    let slider = Slider::new(&mut percent_now, 0.0..=100.0)
                        .suffix(" %")
                        .fixed_decimals(1)
                        .trailing_fill(true);
                    let response = ui.add(slider);
                    let text = format!("Share of samples sure enough to leave at exit {}", exit + 1);
                    response.widget_info(|| {
                        let mut info = egui::WidgetInfo::slider(true, percent_now, text.clone());
                        info.value = Some(percent_now);
                        info
                    });
                    ui.label(soft("sure enough"));
                    let raw = match used.threshold {
                        f64::NEG_INFINITY => "any margin".to_owned(),
                        f64::INFINITY => "no margin".to_owned(),
                        raw => format!("margin > {}", threshold(raw)),
                    };
                    let raw = RichText::new(raw).monospace();
                    ui.label(raw.weak()).on_hover_text("The raw threshold, in natural log-odds");
                    response
                })
                .inner;
            if let Some(ghost) = ghost.filter(|ghost| (ghost - observed).abs() > 0.0005) {
                ui.label(soft(format!("in force: {}", percent(ghost))).small());
            }
            // A slider rounds what it shows; only a person changes what it stands for.
            if slider.changed() && (percent_now - shown_before).abs() > 0.049 {
                if slider.dragged() {
                    self.dragged = Some((exit, percent_now));
                }
                next = margins
                    .threshold(exit, used.rule, percent_now / 100.0)
                    .map(|threshold| ExitRule::new(used.rule, threshold));
            }
            // While the mouse is down the picture follows, and one step is kept for undo.
            if slider.dragged() {
                next = rule;
            }
            if slider.drag_stopped()
                && let Some((_, value)) = self.dragged.take()
            {
                next = margins.threshold(exit, used.rule, value / 100.0).map(|t| ExitRule::new(used.rule, t));
            }
            histogram(ui, &p, margins, exit, used.rule, percent_now / 100.0, ghost);
        } else if rules.is_empty() {
            let why = status.whitened_unavailable.as_deref().unwrap_or("no rule can decide here");
            ui.label(soft(why));
        } else {
            ui.label(soft("Off: every sample goes on."));
        }
        if next != rule {
            let mut changed = policy;
            changed.exits[exit] = next;
            scene.draft.set(changed);
        }
    }

    fn draft_ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>, report: &RunReport) {
        let p = Palette::get(ui);
        ui.set_width(ui.available_width());
        let run = report.status.run.clone();
        widgets::ends(
            ui,
            |ui| title(ui, "Draft"),
            |ui| {
                ui.add_enabled_ui(scene.draft.can_redo(), |ui| {
                    if ui.button("Redo").on_hover_text("Ctrl+Shift+Z").clicked() {
                        scene.draft.redo();
                    }
                });
                ui.add_enabled_ui(scene.draft.can_undo(), |ui| {
                    if ui.button("Undo").on_hover_text("Ctrl+Z").clicked() {
                        scene.draft.undo();
                    }
                });
            },
        );
        let Some(policy) = scene.draft.policy().cloned() else {
            ui.label(soft("The sliders show what is in force. Move one, and a draft begins."));
            return;
        };
        let known = measured(report, &policy, ReadOn::Calibration);
        let ghost = scene.draft.before().and_then(|before| measured(report, before, ReadOn::Calibration));
        let force =
            scene.state.in_force().and_then(|force| measured(report, &force.policy, ReadOn::Calibration));
        match &known {
            Some(measure) => {
                draft_figures(ui, &p, measure, ghost.as_ref());
                ui.label(soft("on calibration samples, by asking the nodes").small());
                if scene.state.in_force().is_some_and(|force| force.policy == policy) {
                    ui.label("It is in force.");
                } else if let Some(force) = &force {
                    let accuracy = points(measure.accuracy - force.accuracy);
                    let cost = points(measure.cost - force.cost);
                    ui.label(format!(
                        "To the policy in force: {accuracy} points of accuracy, {cost} points of cost"
                    ));
                }
                super::tradeoff::leaving(ui, report, &measure.left);
            }
            None => {
                if let Some(ghost) = &ghost {
                    ui.label(soft(format!(
                        "before: {} right at {} of the cost",
                        percent(ghost.accuracy),
                        percent(ghost.cost)
                    )));
                }
                let asked = is_being_measured(report, &policy);
                ui.label(if asked { "The nodes are measuring it" } else { "Not measured yet" });
            }
        }
        ui.checkbox(&mut scene.settings.measure_at_once, "Measure whenever I change it");
        whom_ui(ui, scene);
        ui.add_space(GRID);
        let up = scene.state.is_up();
        ui.horizontal(|ui| {
            apply_ui(ui, scene);
            // Of a policy of the curve the fleet's figures are known, and not each node's.
            let asked = is_being_measured(report, &policy) || nodes::trial_of(report, &policy).is_some();
            ui.add_enabled_ui(!asked && up, |ui| {
                if ui
                    .button("Measure")
                    .on_hover_text("Ask the nodes what the draft would cost and score, at each of them")
                    .on_disabled_hover_text("Every node is asked already")
                    .clicked()
                {
                    self.asked = Some(policy.clone());
                    scene.commands.push(Command::Try { run: run.clone(), policy: policy.clone() });
                }
            });
            if ui.button("Discard").on_hover_text("Undo brings it back").clicked() {
                scene.draft.discard();
            }
        });
    }

    /// Asks the nodes about a changed draft, once, when they are not busy.
    fn measure(&mut self, scene: &mut Scene<'_>, report: &RunReport) {
        let Some(policy) = scene.draft.policy() else { return };
        let idle = matches!(report.status.standing, Standing::Ready) && scene.state.is_up();
        let wanted = scene.settings.measure_at_once && idle && self.dragged.is_none();
        if !wanted
            || self.asked.as_ref() == Some(policy)
            || measured(report, policy, ReadOn::Calibration).is_some()
        {
            return;
        }
        self.asked = Some(policy.clone());
        scene.commands.push(Command::Try { run: report.status.run.clone(), policy: policy.clone() });
    }
}

pub(crate) const fn rule_name(rule: Rule) -> &'static str {
    match rule {
        Rule::ClassMeans => "Class means",
        Rule::Whitened => "Whitened",
    }
}

/// An exit that is switched on lets the surest third leave, by its better rule.
fn default_rule(margins: &Quantiles, exit: usize) -> Option<ExitRule> {
    let rule = margins.best_rule(exit)?;
    Some(ExitRule::new(rule, margins.threshold(exit, rule, 1.0 / 3.0)?))
}

fn draft_figures(ui: &mut Ui, p: &Palette, measure: &Measure, ghost: Option<&Measure>) {
    let before = |value: fn(&Measure) -> f64| {
        ghost.map_or_else(|| " ".to_owned(), |ghost| format!("before {}", percent(value(ghost))))
    };
    ui.horizontal(|ui| {
        figure(ui, "Accuracy", &percent(measure.accuracy), &before(|m| m.accuracy), p.draft);
        ui.add_space(4.0 * GRID);
        figure(ui, "Cost", &percent(measure.cost), &before(|m| m.cost), p.draft);
    });
}

/// Margins from the surest sample at the left to the least sure at the right, right and wrong on top of each other.
///
/// Bars are of equal shares, not of equal margins: margins have no scale of their own, and the cut is a share.
fn histogram(
    ui: &mut Ui,
    p: &Palette,
    margins: &Quantiles,
    exit: usize,
    rule: Rule,
    cut: f64,
    ghost: Option<f64>,
) {
    let Some(distribution) = margins.at(exit, rule) else { return };
    let height = 46.0;
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), height), Sense::hover());
    let painter = ui.painter();
    let width = rect.width() / BARS as f32;
    for bar in 0..BARS {
        let (from, to) = (bar as f64 / BARS as f64, (bar + 1) as f64 / BARS as f64);
        let (right, wrong) = distribution.between(from, to);
        let share = if right + wrong > 0.0 { (right / (right + wrong)) as f32 } else { 0.0 };
        let min = rect.min + vec2(width * bar as f32, 0.0);
        let whole = egui::Rect::from_min_size(min, vec2(width - 1.5, height));
        let fade = if (from + to) / 2.0 < cut { 1.0 } else { 0.28 };
        let top = whole.top() + height * (1.0 - share);
        painter.rect_filled(whole.with_max_y(top), 0.0, p.fixed.gamma_multiply(fade));
        painter.rect_filled(whole.with_min_y(top), 0.0, p.front.gamma_multiply(fade));
    }
    let at = |share: f64| rect.left() + rect.width() * share as f32;
    if let Some(ghost) = ghost {
        let x = at(ghost);
        let ends = [egui::pos2(x, rect.top()), egui::pos2(x, rect.bottom())];
        painter.extend(egui::Shape::dashed_line(&ends, egui::Stroke::new(1.5, p.force), 3.0, 3.0));
    }
    painter.vline(at(cut), rect.y_range().expand(2.0), egui::Stroke::new(2.0, p.ink));
    let (right, wrong) = distribution.between(0.0, cut);
    let among = if right + wrong > 0.0 { percent(right / (right + wrong)) } else { "–".to_owned() };
    response.widget_info(|| {
        let sure = percent(cut);
        let text = format!("Margins at exit {}: {sure} are sure enough, {among} of them are right", exit + 1);
        egui::WidgetInfo::labeled(egui::Role::Image, true, text)
    });
    response.on_hover_text(format!(
        "All calibration samples at this exit, the surest at the left; blue is right, orange is wrong.\nOf those left of the line {among} are right."
    ));
}

/// Every policy that was in force, newest first, each to be set again.
fn history_ui(ui: &mut Ui, scene: &mut Scene<'_>, report: &RunReport) {
    let p = Palette::get(ui);
    ui.set_width(ui.available_width());
    title(ui, "Set so far");
    let set: Vec<&PolicyStatus> =
        report.status.policies.iter().rev().filter(|policy| policy.purpose == Purpose::Force).collect();
    let in_force = scene.state.in_force().map(|force| force.version);
    if set.is_empty() {
        ui.label(soft("No policy was set yet: nodes run the whole network."));
    }
    for policy in set {
        widgets::ends(
            ui,
            |ui| {
                ui.label(strong(policy.version.0.to_string()));
                match (policy.accuracy, policy.cost) {
                    (Some(accuracy), Some(cost)) => {
                        ui.label(format!("{} at {}", percent(accuracy), percent(cost)));
                    }
                    _ if policy.superseded => {
                        ui.label(soft("of an earlier snapshot"));
                    }
                    _ => {
                        ui.label(soft("being measured"));
                    }
                }
                let set = ago(scene.now_ms, policy.set_at_ms);
                let (text, hint) = match policy.node {
                    Some(node) => {
                        (format!("for {}", scene.state.name(node)), format!("{}, set {set}", policy.asked))
                    }
                    None => (set, policy.asked.clone()),
                };
                ui.scope(|ui| {
                    ui.set_max_width(72.0);
                    ui.add(egui::Label::new(soft(text).small()).truncate()).on_hover_text(hint);
                });
            },
            |ui| {
                if Some(policy.version) == in_force {
                    tag(ui, "in force", p.force);
                } else if policy.node.is_some() && !policy.cleared {
                    tag(ui, "there", p.force);
                } else if scene.state.in_force().is_some_and(|force| force.policy == policy.policy) {
                    ui.label(soft("the same").small());
                } else if policy.node.is_none() {
                    ui.add_enabled_ui(scene.state.is_up(), |ui| {
                        let hint = format!("Put version {} in force again", policy.version.0);
                        if ui.button("Roll back").on_hover_text(hint).clicked() {
                            let (run, policy) = (report.status.run.clone(), policy.policy.clone());
                            scene.commands.push(Command::Apply { run, policy, nodes: Vec::new() });
                        }
                    });
                } else if let Some(node) = policy.node
                    && scene.state.node(node).is_some_and(|row| !row.revoked)
                {
                    ui.add_enabled_ui(scene.state.is_up(), |ui| {
                        let hint =
                            format!("{} infers with this policy of its own again", scene.state.name(node));
                        if ui.button("Set again").on_hover_text(hint).clicked() {
                            let (run, policy) = (report.status.run.clone(), policy.policy.clone());
                            scene.commands.push(Command::Apply { run, policy, nodes: vec![node] });
                        }
                    });
                }
            },
        );
    }
}
