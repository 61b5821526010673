//! Windows over the page: a join token, a question, a run file, notifications.

use egui::{Color32, RichText, Sense, Ui, vec2};
use qrcodegen::{QrCode, QrCodeEcc};

use crate::command::{Command, Commands};
use crate::format::{clock, left};
use crate::state::{Level, Notice, State, Token};
use crate::theme::{GRID, Palette};
use crate::views::Question;
use crate::widgets::{self, danger, primary, soft};

/// How long a token may be valid, and what that is called.
const VALID: [(u64, &str); 4] =
    [(900, "15 minutes"), (3600, "1 hour"), (86_400, "1 day"), (604_800, "7 days")];

/// A QR code: which of its modules are dark, row by row.
#[derive(Debug)]
struct Code {
    side: usize,
    dark: Vec<bool>,
}

impl Code {
    /// None where the text is too long; it is still shown as text then.
    fn new(text: &str) -> Option<Self> {
        let code = QrCode::encode_text(text, QrCodeEcc::Low).ok()?;
        let places = (0..code.size()).flat_map(|y| (0..code.size()).map(move |x| (x, y)));
        let dark = places.map(|(x, y)| code.get_module(x, y)).collect();
        Some(Self { side: usize::try_from(code.size()).ok()?, dark })
    }
}

/// The join token.
#[derive(Debug)]
pub(crate) struct TokenDialog {
    valid_s: u64,
    label: String,
    /// Whether the node takes part in nothing until a person has compared its short id.
    approve: bool,
    /// The code of a token, worked out once.
    code: Option<(String, Option<Code>)>,
    copied: Option<String>,
}

impl Default for TokenDialog {
    fn default() -> Self {
        Self { valid_s: 3600, label: String::new(), approve: false, code: None, copied: None }
    }
}

impl TokenDialog {
    /// Draws it; true when it is to be closed.
    pub(crate) fn ui(
        &mut self,
        ctx: &egui::Context,
        state: &State,
        now_ms: u64,
        commands: &mut Commands,
    ) -> bool {
        let mut close = false;
        let response = widgets::modal(ctx, "token").show(ctx, |ui| {
            ui.set_width(440.0);
            ui.heading("Add a node");
            ui.label(soft("A token lets one device join. It carries the coordinator’s address, pins its authority, and works once."));
            ui.add_space(2.0 * GRID);
            if let Some(token) = &state.token {
                self.token_ui(ui, token, now_ms);
            }
            ui.add_space(2.0 * GRID);
            ui.horizontal(|ui| {
                ui.label(soft("Valid for"));
                let name = VALID.iter().find(|(s, _)| *s == self.valid_s).map_or("", |(_, name)| name);
                egui::ComboBox::from_id_salt("valid").selected_text(name).show_ui(ui, |ui| {
                    for (seconds, name) in VALID {
                        ui.selectable_value(&mut self.valid_s, seconds, name);
                    }
                });
                let field = egui::TextEdit::singleline(&mut self.label).hint_text("Note, such as who gets it").desired_width(ui.available_width());
                ui.add(field).widget_info(|| {
                    egui::WidgetInfo::labeled(egui::Role::TextInput, true, "Note beside the token")
                });
            });
            ui.checkbox(&mut self.approve, "Wait for my approval").on_hover_text(
                "The node joins and takes part in nothing until you approve it on the page Fleet. Both ends show the same short id: compare them.",
            );
            ui.add_space(2.0 * GRID);
            ui.horizontal(|ui| {
                let text = if state.token.is_some() { "Make another token" } else { "Make token" };
                ui.add_enabled_ui(state.is_up(), |ui| {
                    if primary(ui, text).clicked() {
                        commands.push(Command::MakeToken {
                            valid_s: self.valid_s,
                            label: self.label.clone(),
                            approve: self.approve.then_some(true),
                        });
                    }
                });
                if ui.button("Done").clicked() {
                    close = true;
                }
            });
        });
        close |= response.should_close();
        if close {
            commands.push(Command::ForgetToken);
            *self = Self::default();
        }
        close
    }

    fn token_ui(&mut self, ui: &mut Ui, token: &Token, now_ms: u64) {
        let p = Palette::get(ui);
        if self.code.as_ref().is_none_or(|(of, _)| *of != token.text) {
            self.code = Some((token.text.clone(), Code::new(&token.text)));
        }
        let seconds = token.expires.saturating_sub(now_ms / 1000);
        if let Some((_, Some(code))) = &self.code {
            ui.vertical_centered(|ui| qr_ui(ui, code));
        }
        ui.add_space(GRID);
        let mut text = token.text.as_str();
        let field = egui::TextEdit::multiline(&mut text)
            .font(egui::TextStyle::Monospace)
            .desired_rows(3)
            .desired_width(f32::INFINITY);
        ui.add(field).widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "Join token"));
        widgets::ends(
            ui,
            |ui| {
                if seconds == 0 {
                    ui.label(RichText::new("expired").color(p.bad));
                } else {
                    ui.label(soft("expires in"));
                    ui.label(widgets::strong(left(seconds)));
                    // The only thing in the window that changes by itself.
                    ui.ctx().request_repaint_after(std::time::Duration::from_secs(1));
                }
            },
            |ui| {
                let copied = self.copied.as_deref() == Some(&token.text);
                if ui.button(if copied { "Copied" } else { "Copy token" }).clicked() {
                    ui.ctx().copy_text(token.text.clone());
                    self.copied = Some(token.text.clone());
                }
            },
        );
        ui.label(soft("On the device: exeunt-node join TOKEN --data FOLDER").small());
    }
}

/// The code, dark on white in every theme: scanners want it so.
fn qr_ui(ui: &mut Ui, code: &Code) {
    let quiet = 3;
    let side = code.side + 2 * quiet;
    let pixel = (200.0 / side as f32).floor().max(2.0);
    let (rect, response) = ui.allocate_exact_size(vec2(pixel, pixel) * side as f32, Sense::hover());
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, "Join token as a QR code"));
    let painter = ui.painter();
    painter.rect_filled(rect, 4.0, Color32::WHITE);
    for (i, _) in code.dark.iter().enumerate().filter(|(_, dark)| **dark) {
        let (x, y) = (i % code.side, i / code.side);
        let min = rect.min + vec2((x + quiet) as f32, (y + quiet) as f32) * pixel;
        painter.rect_filled(egui::Rect::from_min_size(min, vec2(pixel, pixel)), 0.0, Color32::BLACK);
    }
}

/// Asks before something is done; `Some(true)` when it is to be done.
pub(crate) fn question_ui(ctx: &egui::Context, question: &Question) -> Option<bool> {
    let mut answer = None;
    let response = widgets::modal(ctx, "question").show(ctx, |ui| {
        ui.set_width(400.0);
        ui.heading(&question.heading);
        ui.add_space(GRID);
        ui.label(&question.text);
        ui.add_space(3.0 * GRID);
        ui.horizontal(|ui| {
            ui.set_min_height(30.0);
            let cancel = ui.button("Cancel");
            if ui.memory(|memory| memory.focused().is_none()) {
                cancel.request_focus();
            }
            if cancel.clicked() {
                answer = Some(false);
            }
            let yes =
                if question.irreversible { danger(ui, &question.verb) } else { primary(ui, &question.verb) };
            if yes.clicked() {
                answer = Some(true);
            }
        });
    });
    if response.should_close() { Some(false) } else { answer }
}

/// Which run file to start from.
#[derive(Debug, Default)]
pub(crate) struct RunFileDialog {
    path: String,
}

impl RunFileDialog {
    /// Draws it; true when it is to be closed.
    pub(crate) fn ui(&mut self, ctx: &egui::Context, commands: &mut Commands) -> bool {
        let mut close = false;
        let response = widgets::modal(ctx, "run file").show(ctx, |ui| {
            ui.set_width(460.0);
            ui.heading("Start a run");
            ui.label(soft("A run file (TOML) says which network, which exits and which data."));
            ui.add_space(2.0 * GRID);
            ui.horizontal(|ui| {
                let field = egui::TextEdit::singleline(&mut self.path)
                    .hint_text("Path of the run file")
                    .desired_width(350.0);
                ui.add(field).widget_info(|| {
                    egui::WidgetInfo::labeled(egui::Role::TextInput, true, "Path of the run file")
                });
                if ui.button("Browse…").clicked() {
                    commands.push(Command::OpenRunFile { path: None });
                    close = true;
                }
            });
            ui.add_space(2.0 * GRID);
            ui.horizontal(|ui| {
                let path = self.path.trim().to_owned();
                ui.add_enabled_ui(!path.is_empty(), |ui| {
                    if primary(ui, "Start run").clicked() {
                        commands.push(Command::OpenRunFile { path: Some(path) });
                        close = true;
                    }
                });
                if ui.button("Cancel").clicked() {
                    close = true;
                }
            });
        });
        close || response.should_close()
    }
}

/// Notifications, newest first.
pub(crate) fn notices_ui(ui: &mut Ui, notices: &[Notice]) {
    ui.set_width(360.0);
    ui.label(widgets::strong("Notifications"));
    if notices.is_empty() {
        ui.label(soft("Nothing so far"));
        return;
    }
    egui::ScrollArea::vertical().max_height(380.0).show(ui, |ui| {
        for notice in notices.iter().rev() {
            ui.add_space(GRID);
            notice_ui(ui, notice);
        }
    });
}

fn notice_ui(ui: &mut Ui, notice: &Notice) {
    let p = Palette::get(ui);
    let colour = match notice.level {
        Level::Error => p.bad,
        Level::Warn => p.warn,
        Level::Info | Level::Debug => p.good,
    };
    ui.horizontal_top(|ui| {
        let (rect, _) = ui.allocate_exact_size(vec2(8.0, 18.0), Sense::hover());
        ui.painter().circle_filled(rect.center(), 4.0, colour);
        ui.vertical(|ui| {
            ui.spacing_mut().item_spacing.y = 0.0;
            ui.label(&notice.text);
            ui.label(soft(format!("{} UTC", clock(notice.at_ms))).small());
        });
    });
}

/// The newest notice in the corner, until it was seen for a while or put away; true when it is put away.
pub(crate) fn toast_ui(ctx: &egui::Context, notice: &Notice) -> bool {
    let mut away = false;
    let p = Palette::of(ctx.theme());
    egui::Area::new(egui::Id::unique("toast"))
        .anchor(egui::Align2::RIGHT_BOTTOM, vec2(-18.0, -18.0))
        .order(egui::Order::Foreground)
        .show(ctx, |ui| {
            egui::Frame::popup(ui.style()).fill(p.card).inner_margin(12.0).show(ui, |ui| {
                ui.set_max_width(380.0);
                ui.horizontal_top(|ui| {
                    notice_ui(ui, notice);
                    if widgets::away(ui, "Put this notification away") {
                        away = true;
                    }
                });
            });
        });
    away
}
