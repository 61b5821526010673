//! The thread that draws.

use std::collections::VecDeque;

use exeunt_dashboard::{Command, Commands, Dashboard};

use super::log::now_ms;
use super::tour::Tour;
use super::worker::{Wish, Worker};

/// What eframe runs.
pub(crate) struct Frame {
    dashboard: Dashboard,
    worker: Worker,
    commands: Commands,
    /// Wishes that found no room yet.
    waiting: VecDeque<Wish>,
    tour: Option<Tour>,
    size: Option<[f32; 2]>,
}

impl Frame {
    pub(crate) fn new(dashboard: Dashboard, worker: Worker, tour: Option<Tour>) -> Self {
        let commands = Commands::default();
        Self { dashboard, worker, commands, waiting: VecDeque::new(), tour, size: None }
    }

    /// Draws one frame and sends what was wished.
    pub(crate) fn draw(&mut self, ui: &mut egui::Ui) {
        let state = self.worker.state();
        if let Some(tour) = &mut self.tour {
            tour.before(&mut self.dashboard, &state, &mut self.commands);
        }
        self.dashboard.ui(ui, &state, now_ms(), &mut self.commands);
        if let Some(tour) = &mut self.tour {
            tour.after(ui.ctx());
        }
        self.size = ui.input(|input| input.viewport().inner_rect).map(|rect| [rect.width(), rect.height()]);
        self.waiting.extend(self.commands.drain().map(with_dialog));
        while let Some(wish) = self.waiting.pop_front() {
            if let Err(wish) = self.worker.send(wish) {
                self.waiting.push_front(wish);
                ui.ctx().request_repaint_after(std::time::Duration::from_millis(50));
                break;
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn dashboard(&mut self) -> &mut Dashboard {
        &mut self.dashboard
    }

    #[cfg(test)]
    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }
}

impl eframe::App for Frame {
    fn ui(&mut self, ui: &mut egui::Ui, _: &mut eframe::Frame) {
        self.draw(ui);
    }

    fn raw_input_hook(&mut self, _: &egui::Context, input: &mut egui::RawInput) {
        if let Some(tour) = &mut self.tour {
            tour.press(input);
        }
    }

    fn on_exit(&mut self, _: Option<&eframe::glow::Context>) {
        let mut settings = self.dashboard.settings().clone();
        settings.size = self.size.or(settings.size);
        // With the queue full the last settings that were kept stay.
        let _ = self.worker.send(Wish::Do(Command::Keep(Box::new(settings))));
        self.worker.stop();
    }
}

/// Opens a file dialog where one is needed: some systems want that on the thread that draws. Nothing waits for it here.
fn with_dialog(command: Command) -> Wish {
    match command {
        Command::OpenRunFile { path: None } => {
            let dialog =
                rfd::AsyncFileDialog::new().set_title("Start a run").add_filter("Run file", &["toml"]);
            let picked = dialog.pick_file();
            Wish::RunFrom(Box::pin(async move { picked.await.map(|file| file.path().to_owned()) }))
        }
        Command::Save(file) => {
            let picked = rfd::AsyncFileDialog::new().set_title("Save").set_file_name(&file.name).save_file();
            Wish::SaveTo(Box::pin(async move { picked.await.map(|file| file.path().to_owned()) }), file)
        }
        command => Wish::Do(command),
    }
}
