//! Policies with a name.

use egui::Ui;
use exeunt_exits::Policy;
use exeunt_protocol::PolicyVersion;
use exeunt_protocol::operator::RunReport;

use crate::command::Command;
use crate::settings::NamedPolicy;
use crate::views::Scene;
use crate::widgets::{self, soft, title};

/// What the view remembers: a name that is being typed, and the one that was forgotten last.
#[derive(Debug, Default)]
pub(super) struct Named {
    name: String,
    forgotten: Option<Known>,
}

/// A policy with a name.
#[derive(Debug, Clone)]
struct Known {
    name: String,
    policy: Policy,
    /// Its version, where the coordinator keeps it.
    version: Option<PolicyVersion>,
}

impl Named {
    /// Policies with a name: those that the coordinator keeps, for everyone, and those of this window.
    pub(super) fn ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>, report: &RunReport) {
        ui.set_width(ui.available_width());
        title(ui, "Named policies");
        let exits = report.status.exits.len();
        let run = &report.status.run;
        let known = |name: &str, policy: &Policy, version| Known {
            name: name.to_owned(),
            policy: policy.clone(),
            version,
        };
        let kept = report.named.iter().map(|named| known(&named.name, &named.policy, Some(named.version)));
        let own = scene.settings.named.iter().map(|named| known(&named.name, &named.policy, None));
        let all: Vec<Known> = kept.chain(own).collect();
        if all.is_empty() {
            ui.label(soft("A draft with a name can be taken up again"));
        }
        for one in all {
            let Known { name, policy, version } = one.clone();
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
                    let place = if version.is_some() { "at the coordinator" } else { "in this window" };
                    ui.label(soft(place).small());
                },
                |ui| dropped = widgets::away(ui, &format!("Forget {name}")),
            );
            if !dropped {
                continue;
            }
            self.forgotten = Some(one);
            match version {
                Some(_) => scene.commands.push(Command::ForgetPolicy { run: run.clone(), name }),
                None => scene.settings.named.retain(|named| named.name != name),
            }
        }
        self.back_ui(ui, scene, report);
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

    /// Offers the name that was forgotten last.
    fn back_ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>, report: &RunReport) {
        let Some(Known { name, policy, version }) = &self.forgotten else { return };
        let mut back = false;
        ui.horizontal(|ui| {
            ui.scope(|ui| {
                ui.set_max_width(180.0);
                widgets::line(ui, soft(format!("{name} is forgotten")));
            });
            back = ui.button("Bring it back").clicked();
        });
        if !back {
            return;
        }
        match *version {
            Some(version) => {
                let (run, name) = (report.status.run.clone(), name.clone());
                scene.commands.push(Command::KeepPolicy { run, name, version });
            }
            None => {
                scene.settings.named.push(NamedPolicy { name: name.clone(), policy: policy.clone() });
            }
        }
        self.forgotten = None;
    }
}
