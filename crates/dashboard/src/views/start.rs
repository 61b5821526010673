//! First start: no federation yet, and what to do about it.

use egui::{RichText, Ui, vec2};

use super::Scene;
use crate::command::Command;
use crate::state::Link;
use crate::theme::{GRID, heavy_font};
use crate::widgets::{card, primary, soft, strong};

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

fn choices(ui: &mut Ui, scene: &mut Scene<'_>) {
    let width = 252.0;
    let home = match &scene.state.link {
        Link::Empty { home } => home.clone(),
        _ => String::new(),
    };
    let gap = 4.0 * GRID;
    ui.allocate_ui(vec2(2.0 * width + gap, 0.0), |ui| {
        ui.horizontal_top(|ui| {
            ui.spacing_mut().item_spacing.x = gap;
            choice(ui, width, "Create a federation", |ui| {
                ui.label(soft("A coordinator that runs in this window, with a private authority of its own. Devices join with one-time tokens."));
                ui.add_space(GRID);
                crate::widgets::line(ui, soft(format!("in {home}")).small());
            }, |ui| {
                if primary(ui, "Create federation").clicked() {
                    scene.commands.push(Command::CreateFederation);
                }
            });
            choice(ui, width, "See it work", |ui| {
                ui.label(soft("Eight nodes on this machine share the handwritten digits that ship with exeunt, and learn where a small network can be left early."));
                ui.add_space(GRID);
                ui.label(soft("takes some seconds, leaves nothing behind").small());
            }, |ui| {
                if ui.add(egui::Button::new("Start demo").min_size(vec2(0.0, 30.0))).clicked() {
                    scene.commands.push(Command::StartDemo);
                }
            });
        });
    });
    ui.add_space(5.0 * GRID);
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
