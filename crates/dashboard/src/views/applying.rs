//! Whom a draft is for, and the button that puts it in force; alike wherever a draft is shown.

use egui::Ui;

use super::Scene;
use crate::format::plural;
use crate::widgets::{self, soft};

/// Whom the draft is for: the fleet, or the nodes that are picked.
pub(super) fn whom_ui(ui: &mut Ui, scene: &mut Scene<'_>) {
    let picked = scene.picked.len();
    ui.horizontal_wrapped(|ui| {
        ui.label(soft("For"));
        let mut alone = scene.draft.is_for_picked(scene.picked);
        ui.selectable_value(&mut alone, false, "The fleet");
        ui.add_enabled_ui(picked > 0, |ui| {
            let one = scene.picked.first().filter(|_| picked == 1).map(|node| scene.state.name(*node));
            let text = one
                .map_or_else(|| format!("{} picked", plural(picked, "node")), |name| format!("{name} alone"));
            ui.selectable_value(&mut alone, true, text)
                .on_hover_text("These nodes infer with a policy of their own; the fleet keeps its own")
                .on_disabled_hover_text("Pick nodes on the page Fleet to give them a policy of their own");
        });
        scene.draft.set_for_picked(alone);
    });
}

/// Puts the draft in force where it is meant to be.
pub(super) fn apply_ui(ui: &mut Ui, scene: &mut Scene<'_>) {
    let apply = scene.draft.application(scene.state, scene.picked);
    ui.add_enabled_ui(apply.is_some() && scene.state.is_up(), |ui| {
        let button = widgets::primary(ui, "Apply draft").on_hover_text("Ctrl+Enter");
        if button.on_disabled_hover_text("It is in force already").clicked() {
            scene.commands.extend(apply);
        }
    });
}
