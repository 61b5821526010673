//! What happened: the coordinator's notes and this program's log lines, in one list.

use std::sync::Arc;

use egui::{RichText, Ui};
use exeunt_protocol::operator::AuditLine;

use super::Scene;
use crate::format::{clock, count};
use crate::state::{Level, LogLine, State};
use crate::theme::Palette;
use crate::widgets::{self, card, soft, title};

const ROW: f32 = 20.0;

/// What the view remembers.
#[derive(Debug, Default)]
pub(crate) struct Log {
    filter: String,
    rows: Rows,
}

/// The lines that pass, oldest first; worked out when something changed.
#[derive(Debug, Default)]
struct Rows {
    audit: Option<Arc<[AuditLine]>>,
    log: Option<Arc<[LogLine]>>,
    asked: Option<(String, Level)>,
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    at_ms: u64,
    level: Level,
    source: &'static str,
    text: String,
}

impl Rows {
    fn bring_up(&mut self, state: &State, filter: &str, level: Level) {
        let same = self.audit.as_ref().is_some_and(|audit| Arc::ptr_eq(audit, &state.audit))
            && self.log.as_ref().is_some_and(|log| Arc::ptr_eq(log, &state.log));
        let asked = (filter.to_lowercase(), level);
        if same && self.asked.as_ref() == Some(&asked) {
            return;
        }
        self.audit = Some(Arc::clone(&state.audit));
        self.log = Some(Arc::clone(&state.log));
        let name = |line: &AuditLine| {
            let row = state.node(line.node?)?;
            Some(row.status.name.clone())
        };
        let noted = state.audit.iter().map(|line| {
            let about = [line.run.as_ref().map(ToString::to_string), name(line)];
            let about: Vec<String> = about.into_iter().flatten().collect();
            let about = if about.is_empty() { String::new() } else { format!("{}: ", about.join(", ")) };
            Line {
                at_ms: line.at_ms,
                level: Level::Info,
                source: "coordinator",
                text: format!("{about}{}", line.text),
            }
        });
        let logged = state.log.iter().map(|line| Line {
            at_ms: line.at_ms,
            level: line.level,
            source: "window",
            text: line.text.clone(),
        });
        let mut lines: Vec<Line> = noted.chain(logged).collect();
        lines.retain(|line| {
            line.level <= level && (asked.0.is_empty() || line.text.to_lowercase().contains(&asked.0))
        });
        lines.sort_by_key(|line| line.at_ms);
        self.lines = lines;
        self.asked = Some(asked);
    }
}

impl Log {
    pub(crate) fn ui(&mut self, ui: &mut Ui, scene: &mut Scene<'_>) {
        self.rows.bring_up(scene.state, &self.filter, scene.settings.log_level);
        card(ui, |ui| {
            let p = Palette::get(ui);
            ui.set_width(ui.available_width());
            ui.horizontal(|ui| {
                title(ui, "Log");
                ui.label(soft(format!("{} lines, times in UTC", count(self.rows.lines.len() as u64))));
                let field = ui.add(
                    egui::TextEdit::singleline(&mut self.filter).hint_text("Filter").desired_width(200.0),
                );
                field
                    .widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "Filter the log"));
                egui::ComboBox::from_id_salt("level")
                    .selected_text(format!("down to {}", scene.settings.log_level.name()))
                    .width(130.0)
                    .show_ui(ui, |ui| {
                        for level in Level::ALL {
                            ui.selectable_value(&mut scene.settings.log_level, level, level.name());
                        }
                    })
                    .response
                    .on_hover_text("Least important level that is shown");
                if ui.button("Copy").on_hover_text("Copy the lines that are shown").clicked() {
                    let lines = self.rows.lines.iter().map(|line| {
                        format!("{} {} {}: {}", clock(line.at_ms), line.level.name(), line.source, line.text)
                    });
                    ui.ctx().copy_text(lines.collect::<Vec<_>>().join("\n"));
                }
            });
            if self.rows.lines.is_empty() {
                return widgets::empty(ui, "Nothing to show", "No line passes the filter.", |_| {});
            }
            egui::ScrollArea::vertical().auto_shrink(false).stick_to_bottom(true).show_rows(
                ui,
                ROW,
                self.rows.lines.len(),
                |ui, range| {
                    for line in &self.rows.lines[range] {
                        ui.horizontal(|ui| {
                            ui.set_height(ROW);
                            let colour = match line.level {
                                Level::Error => p.bad,
                                Level::Warn => p.warn,
                                Level::Info => p.soft,
                                Level::Debug => p.soft.gamma_multiply(0.7),
                            };
                            ui.label(RichText::new(clock(line.at_ms)).monospace().weak());
                            cell(ui, 64.0, RichText::new(line.level.name()).color(colour));
                            cell(ui, 86.0, soft(line.source));
                            widgets::line(ui, &line.text);
                        });
                    }
                },
            );
        });
    }
}

fn cell(ui: &mut Ui, width: f32, text: RichText) {
    ui.allocate_ui(egui::vec2(width, ROW), |ui| {
        ui.set_width(width);
        ui.label(text);
    });
}
