//! The beginnings: no federation yet, no run yet, a coordinator that has never answered; and what to do about it.

use egui::{RichText, Ui, vec2};

use super::{Page, Scene};
use crate::command::Command;
use crate::format::plural;
use crate::state::Link;
use crate::theme::{GRID, heavy_font};
use crate::widgets::{self, card, primary, soft, strong};

/// Nothing is remembered.
#[derive(Debug, Default)]
pub(crate) struct Start;

impl Start {
    pub(crate) fn ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>) {
        let room = ui.available_height();
        ui.vertical_centered(|ui| {
            ui.add_space((room * 0.16).max(16.0));
            ui.label(RichText::new("exeunt").font(heavy_font(40.0)));
            ui.label(soft("Early exits for fleets of small devices, from sums and counts.").size(15.0));
            ui.add_space(8.0 * GRID);
            match &scene.state.link {
                Link::Starting => {
                    ui.label(soft("Looking for a federation"));
                }
                Link::Opening { what } => {
                    ui.label(strong(what));
                }
                _ => choices(ui, scene),
            }
        });
    }
}

/// What every page shows while there is no run: the two steps to one.
pub(crate) fn first_steps(ui: &mut Ui, scene: &mut Scene<'_>) {
    let room = ui.available_height();
    let nodes = scene.state.nodes.len();
    let up = scene.state.is_up();
    ui.vertical_centered(|ui| {
        ui.add_space((room * 0.2).max(16.0));
        ui.label(RichText::new("No run yet").font(heavy_font(19.0)));
        ui.label(soft("A run learns where samples can leave the network, what that costs and how often it is right."));
        ui.add_space(6.0 * GRID);
        pair(ui, |ui, width| {
            choice(ui, width, "1  Let devices join", |ui| {
                ui.label(soft("A token carries the coordinator’s address and lets one device join. On the device: exeunt-node join TOKEN --data FOLDER"));
                ui.add_space(GRID);
                let joined = if nodes == 0 { "none has joined yet".to_owned() } else { format!("{} joined so far", plural(nodes, "node")) };
                ui.label(soft(joined).small());
            }, |ui| {
                ui.add_enabled_ui(up, |ui| {
                    if important(ui, "Make a join token", nodes == 0) {
                        scene.make_token();
                    }
                });
            });
            choice(ui, width, "2  Start a run", |ui| {
                ui.label(soft("A run file (TOML) names the network, its exits and where samples lie on the devices. The network is read and never changed."));
                ui.add_space(GRID);
                ui.label(soft("configs/ has run files to begin with").small());
            }, |ui| {
                ui.add_enabled_ui(up, |ui| {
                    if important(ui, "Open a run file…", nodes > 0) {
                        scene.commands.push(Command::OpenRunFile { path: None });
                    }
                });
            });
        });
    });
}

/// The button of the step that comes next stands out.
fn important(ui: &mut Ui, text: &str, next: bool) -> bool {
    let response =
        if next { primary(ui, text) } else { ui.add(egui::Button::new(text).min_size(vec2(0.0, 30.0))) };
    response.clicked()
}

/// A coordinator that does not answer and was never looked at: says so in place of the page, unless that needs no
/// coordinator; true when it was drawn.
pub(crate) fn unreachable_ui(ui: &mut Ui, scene: &mut Scene<'_>, page: Page) -> bool {
    let Link::Down { place, why, .. } = &scene.state.link else { return false };
    let seen = scene.state.report.is_some() || !scene.state.nodes.is_empty();
    if seen || matches!(page, Page::Log | Page::Settings) {
        return false;
    }
    let heading = format!("{} does not answer", place.name);
    let text = format!("{why}. It is called again by itself, at least every ten seconds.");
    let mut again = false;
    widgets::empty(ui, &heading, &text, |ui| again = primary(ui, "Call it now").clicked());
    if again {
        scene.commands.push(Command::Reconnect);
    }
    true
}

/// Two choices side by side, in the middle.
fn pair(ui: &mut Ui, choices: impl FnOnce(&mut Ui, f32)) {
    let (width, gap) = (252.0, 4.0 * GRID);
    ui.allocate_ui(vec2(2.0 * width + gap, 0.0), |ui| {
        ui.horizontal_top(|ui| {
            ui.spacing_mut().item_spacing.x = gap;
            choices(ui, width);
        });
    });
}

fn choices(ui: &mut Ui, scene: &mut Scene<'_>) {
    let home = match &scene.state.link {
        Link::Empty { home } => home.clone(),
        _ => String::new(),
    };
    pair(ui, |ui, width| {
        choice(
            ui,
            width,
            "Create a federation",
            |ui| {
                ui.label(soft("A coordinator that runs in this window, with a private authority of its own. Devices join with one-time tokens."));
                ui.add_space(GRID);
                crate::widgets::line(ui, soft(format!("in {home}")).small());
            },
            |ui| {
                if primary(ui, "Create federation").clicked() {
                    scene.commands.push(Command::CreateFederation);
                }
            },
        );
        choice(
            ui,
            width,
            "See it work",
            |ui| {
                ui.label(soft("Eight nodes on this machine share the handwritten digits that ship with exeunt, and learn where a small network can be left early."));
                ui.add_space(GRID);
                ui.label(soft("takes some seconds, leaves nothing behind").small());
            },
            |ui| {
                if important(ui, "Start demo", false) {
                    scene.commands.push(Command::StartDemo);
                }
            },
        );
    });
    ui.add_space(5.0 * GRID);
    ui.label(soft("Then: join tokens for devices, and a run file for what they learn").small());
    ui.label(soft("A coordinator that runs elsewhere: exeunt --connect NAME").small());
}

fn choice(ui: &mut Ui, width: f32, heading: &str, text: impl FnOnce(&mut Ui), action: impl FnOnce(&mut Ui)) {
    card(ui, |ui| {
        ui.set_width(width - 30.0);
        ui.vertical(|ui| {
            ui.label(RichText::new(heading).font(heavy_font(16.0)));
            ui.allocate_ui(vec2(width - 30.0, 118.0), |ui| {
                ui.vertical(|ui| {
                    ui.set_min_height(118.0);
                    text(ui);
                });
            });
            action(ui);
        });
    });
}
