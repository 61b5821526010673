//! Policies with a name.

use egui::Ui;
use exeunt_exits::Policy;
use exeunt_protocol::operator::RunReport;

use crate::command::Command;
use crate::settings::NamedPolicy;
use crate::views::Scene;
use crate::widgets::{self, soft, title};

/// What the view remembers: a name that is being typed.
#[derive(Debug, Default)]
pub(super) struct Named {
    name: String,
}

impl Named {
    /// Policies with a name: those that the coordinator keeps, for everyone, and those of this window.
    pub(super) fn ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>, report: &RunReport) {
        ui.set_width(ui.available_width());
        title(ui, "Named policies");
        let exits = report.status.exits.len();
        let run = &report.status.run;
        let kept = report.named.iter().map(|named| (named.name.clone(), named.policy.clone(), true));
        let own = scene.settings.named.iter().map(|named| (named.name.clone(), named.policy.clone(), false));
        let all: Vec<(String, Policy, bool)> = kept.chain(own).collect();
        if all.is_empty() {
            ui.label(soft("A draft with a name can be taken up again"));
        }
        for (name, policy, shared) in all {
            let fits = policy.exits.len() == exits;
            let mut dropped = false;
            widgets::ends(
                ui,
                |ui| {
                    let button = egui::Button::new(&name).frame(false).truncate();
                    let hint = if fits { "Take it as draft" } else { "It is of a run with other exits" };
                    ui.scope(|ui| {
                        ui.set_max_width(150.0);
                        let taken =
                            ui.add_enabled(fits, button).on_hover_text(hint).on_disabled_hover_text(hint);
                        if taken.clicked() {
                            scene.draft.set(policy.clone());
                        }
                    });
                    let place = if shared { "at the coordinator" } else { "in this window" };
                    ui.label(soft(place).small());
                },
                |ui| dropped = widgets::away(ui, &format!("Forget {name}")),
            );
            if dropped && shared {
                scene.commands.push(Command::ForgetPolicy { run: run.clone(), name });
            } else if dropped {
                scene.settings.named.retain(|named| named.name != name);
            }
        }
        ui.horizontal(|ui| {
            let field =
                ui.add(egui::TextEdit::singleline(&mut self.name).hint_text("Name").desired_width(150.0));
            field.widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "Name of the draft"));
            let name = self.name.trim().to_owned();
            let ready = !name.is_empty() && scene.draft.policy().is_some();
            ui.add_enabled_ui(ready, |ui| {
                let button = ui.button("Keep draft").on_disabled_hover_text("Needs a draft and a name");
                if button
                    .on_hover_text("At the coordinator if it was set or tried, else in this window")
                    .clicked()
                    && let Some(policy) = scene.draft.policy().cloned()
                {
                    let version = report.status.policies.iter().rfind(|known| known.policy == policy);
                    match version.filter(|_| scene.state.is_up()) {
                        Some(known) => {
                            let (run, version) = (run.clone(), known.version);
                            scene.commands.push(Command::KeepPolicy { run, name, version });
                        }
                        None => {
                            scene.settings.named.retain(|named| named.name != name);
                            scene.settings.named.push(NamedPolicy { name, policy });
                        }
                    }
                    self.name.clear();
                }
            });
        });
    }
}
