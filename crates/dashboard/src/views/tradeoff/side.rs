//! The cards beside the chart: the draft, what is in force, the bare network; and what the pointer is at.

use egui::{RichText, Ui};
use exeunt_exits::Policy;
use exeunt_protocol::operator::RunReport;

use super::curves::{Curves, ReadOn, interval};
use super::walk;
use crate::format::{millis, percent, points, tap};
use crate::measure::{Measure, measured};
use crate::theme::{GRID, Palette};
use crate::views::applying::{apply_ui, whom_ui};
use crate::views::{Page, Scene};
use crate::widgets::{self, figure, soft, strong, title};

/// What the pointer is at.
pub(super) fn point_ui(ui: &mut Ui, report: &RunReport, curves: &Curves, i: usize) {
    let Some(point) = curves.policies().get(i) else { return };
    let network = curves.network.y;
    ui.label(strong(format!("{} right at {} of the cost", percent(point.accuracy), percent(point.cost))));
    if let Some(times) = &report.status.times {
        let ms = times.times.mean_ms(&point.policy, &point.exit_share);
        let whole = times.times.network_ms;
        ui.label(soft(format!("{} per sample; the bare network {}", millis(ms), millis(whole))));
    }
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

pub(super) fn draft_ui(
    ui: &mut Ui,
    scene: &mut Scene<'_>,
    report: &RunReport,
    curves: &Curves,
    go: &mut Option<Page>,
) {
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
            figures(ui, &policy, measure, report, p.draft);
            ui.label(soft(on).small());
            if force.is_some_and(|force| force.policy == policy) {
                ui.label("It is in force.");
            } else if let Some(force) = force
                && let Some(before) = measured(
                    report,
                    &force.policy,
                    if known.is_some() { ReadOn::Evaluation } else { ReadOn::Calibration },
                )
            {
                let accuracy = points(measure.accuracy - before.accuracy);
                let cost = points(measure.cost - before.cost);
                ui.label(format!(
                    "To the policy in force: {accuracy} points of accuracy, {cost} points of cost"
                ));
            }
            leaving(ui, report, &measure.left);
        }
        None => {
            ui.label(soft("Not measured. The page Thresholds asks the nodes."));
        }
    }
    ui.add_space(GRID);
    if !scene.picked.is_empty() {
        whom_ui(ui, scene);
    }
    ui.horizontal(|ui| {
        apply_ui(ui, scene);
        if ui.button("Edit").on_hover_text("Exit by exit, on the page Thresholds").clicked() {
            *go = Some(Page::Thresholds);
        }
        if ui.button("Discard").on_hover_text("Undo brings it back").clicked() {
            scene.draft.discard();
        }
    });
}

fn figures(ui: &mut Ui, policy: &Policy, measure: &Measure, report: &RunReport, colour: egui::Color32) {
    let Some(result) = &report.status.result else { return };
    let network = result.network_accuracy;
    ui.horizontal(|ui| {
        let remark = format!("{} pt to the network", points(measure.accuracy - network));
        figure(ui, "Accuracy", &percent(measure.accuracy), &remark, colour);
        ui.add_space(3.0 * GRID);
        let remark = match &report.status.times {
            Some(times) => millis(times.times.mean_ms(policy, &measure.left)),
            None => format!("{} saved", percent(1.0 - measure.cost)),
        };
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

pub(super) fn force_ui(ui: &mut Ui, scene: &Scene<'_>, report: &RunReport, on: ReadOn) {
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
            figures(ui, &force.policy, &measure, report, p.force);
            leaving(ui, report, &measure.left);
        }
        None => {
            ui.label(soft("Being measured on evaluation samples"));
        }
    }
    widgets::line(ui, soft(&force.asked).small());
}

pub(super) fn network_ui(ui: &mut Ui, report: &RunReport) {
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
