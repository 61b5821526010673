//! How the window looks and behaves.

use egui::Ui;

use super::Scene;
use crate::settings::Settings;
use crate::state::Link;
use crate::theme::{GRID, SCALES, Scheme};
use crate::widgets::{card, soft, title};

pub(crate) fn settings(ui: &mut Ui, scene: &mut Scene<'_>) {
    ui.spacing_mut().item_spacing.y = 3.0 * GRID;
    card(ui, |ui| {
        ui.set_width(ui.available_width().min(640.0));
        title(ui, "Looks");
        egui::Grid::new("looks").num_columns(2).spacing([24.0, 10.0]).show(ui, |ui| {
            ui.label(soft("Theme"));
            ui.horizontal(|ui| {
                for scheme in Scheme::ALL {
                    ui.selectable_value(&mut scene.settings.scheme, scheme, scheme.name());
                }
            });
            ui.end_row();
            ui.label(soft("Scale"));
            let held = egui::Id::unique("scale in hand");
            let in_hand = ui.data(|data| data.get_temp::<f32>(held));
            let mut percent = in_hand.unwrap_or(scene.settings.scale * 100.0);
            let slider = egui::Slider::new(&mut percent, SCALES.start() * 100.0..=SCALES.end() * 100.0)
                .step_by(5.0)
                .fixed_decimals(0)
                .suffix(" %")
                .text("of the usual size");
            // The scale changes when the mouse lets go: a slider that moves itself cannot be held.
            let response = ui.add(slider);
            if response.dragged() {
                ui.data_mut(|data| data.insert_temp(held, percent));
            } else if response.drag_stopped() {
                let last = ui.data_mut(|data| data.remove_temp::<f32>(held));
                scene.settings.scale = last.unwrap_or(percent) / 100.0;
            } else if response.changed() {
                scene.settings.scale = percent / 100.0;
            }
            ui.end_row();
        });
    });
    card(ui, |ui| {
        ui.set_width(ui.available_width().min(640.0));
        title(ui, "Behaviour");
        ui.checkbox(&mut scene.settings.measure_at_once, "Measure a draft whenever it changes");
        ui.add_space(GRID);
        if ui.button("Back to the defaults").on_hover_text("Named policies stay").clicked() {
            let named = std::mem::take(&mut scene.settings.named);
            *scene.settings = Settings { named, page: scene.settings.page, ..Settings::default() };
        }
    });
    card(ui, |ui| {
        ui.set_width(ui.available_width().min(640.0));
        title(ui, "Coordinator");
        let place = match &scene.state.link {
            Link::Up(place) | Link::Down { place, .. } => Some(place),
            _ => None,
        };
        let Some(place) = place else {
            ui.label(soft("None"));
            return;
        };
        egui::Grid::new("place").num_columns(2).spacing([24.0, 6.0]).show(ui, |ui| {
            let address = place.address.clone().unwrap_or_else(|| "–".to_owned());
            for (name, value) in
                [("Name", place.name.as_str()), ("Where", place.kind.name()), ("Address", &address)]
            {
                ui.label(soft(name));
                crate::widgets::line(ui, value);
                ui.end_row();
            }
        });
    });
}
