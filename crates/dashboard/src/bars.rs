//! The bar at the top and the navigation at the left.

use egui::{Align2, Color32, RichText, Sense, Stroke, Ui, pos2, vec2};

use crate::command::Command;
use crate::format::{ago, clock};
use crate::state::{Link, State};
use crate::theme::{GRID, Palette, heavy_font};
use crate::views::{Page, Scene};
use crate::widgets::{self, soft, strong};

/// What was clicked in the bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clicked {
    Palette,
    Token,
    RunFile,
    Theme,
}

/// Draws the bar. `unread` notices are counted at the bell.
pub(crate) fn top_ui(
    ui: &mut Ui,
    scene: &mut Scene<'_>,
    unread: usize,
    bell_opened: &mut bool,
) -> Option<Clicked> {
    let mut clicked = None;
    ui.horizontal(|ui| {
        link_ui(ui, scene);
        if scene.state.has_federation() {
            ui.separator();
            runs_ui(ui, scene, &mut clicked);
        }
        widgets::right(ui, |ui| {
            let theme = if ui.visuals().dark_mode { "Light" } else { "Dark" };
            if ui.button(theme).on_hover_text("Switch the theme (Ctrl+T)").clicked() {
                clicked = Some(Clicked::Theme);
            }
            let bell =
                if unread == 0 { "Notifications".to_owned() } else { format!("Notifications · {unread}") };
            let menu = ui.menu_button(bell, |ui| crate::dialogs::notices_ui(ui, &scene.state.notices));
            *bell_opened = menu.inner.is_some();
            if ui.button("Search  Ctrl+K").on_hover_text("Search commands, nodes and runs").clicked() {
                clicked = Some(Clicked::Palette);
            }
            ui.add_enabled_ui(scene.state.is_up(), |ui| {
                if ui.button("Add node").on_hover_text("Make a join token (Ctrl+N)").clicked() {
                    clicked = Some(Clicked::Token);
                }
            });
        });
    });
    clicked
}

fn link_ui(ui: &mut Ui, scene: &mut Scene<'_>) {
    let p = Palette::get(ui);
    let (colour, name, tip) = match &scene.state.link {
        Link::Up(place) if let Some(since_ms) = scene.state.slow_since_ms => {
            let since = clock(since_ms);
            (
                p.warn,
                format!("{} is slow to answer", place.name),
                format!("waiting for an answer since {since} UTC; what is shown may be older"),
            )
        }
        Link::Up(place) => {
            let address =
                place.address.as_ref().map(|a| format!(", nodes reach it at {a}")).unwrap_or_default();
            (p.good, place.name.clone(), format!("{}{address}", place.kind.name()))
        }
        Link::Down { place, why, since_ms } => {
            let since = ago(scene.now_ms, *since_ms);
            (
                p.bad,
                format!("{} does not answer", place.name),
                format!("since {since}: {why}. It is called again."),
            )
        }
        Link::Opening { what } => (p.warn, what.clone(), String::new()),
        Link::Starting => (p.soft, "starting".to_owned(), String::new()),
        Link::Empty { .. } => (p.soft, "no federation".to_owned(), String::new()),
    };
    let (rect, _) = ui.allocate_exact_size(vec2(10.0, 10.0), Sense::hover());
    ui.painter().circle_filled(rect.center(), 4.5, colour);
    let label = ui.label(strong(name));
    if !tip.is_empty() {
        label.on_hover_text(tip);
    }
    if matches!(scene.state.link, Link::Down { .. }) && ui.button("Call again").clicked() {
        scene.commands.push(Command::Reconnect);
    }
}

fn runs_ui(ui: &mut Ui, scene: &mut Scene<'_>, clicked: &mut Option<Clicked>) {
    let Some(report) = &scene.state.report else {
        if ui.button("Start a run…").on_hover_text("From a run file (Ctrl+O)").clicked() {
            *clicked = Some(Clicked::RunFile);
        }
        return;
    };
    let current = report.status.run.clone();
    egui::ComboBox::from_id_salt("runs")
        .selected_text(current.as_str())
        .width(130.0)
        .show_ui(ui, |ui| {
            for row in scene.state.runs.iter().rev() {
                let text = format!("{}  ·  {}", row.run, row.standing);
                if ui.selectable_label(row.run == current, text).clicked() {
                    scene.commands.push(Command::ShowRun(row.run.clone()));
                }
            }
            ui.separator();
            if ui.selectable_label(false, "Start a run…").clicked() {
                *clicked = Some(Clicked::RunFile);
            }
        })
        .response
        .on_hover_text("Which run is looked at");
    let row = scene.state.runs.iter().find(|row| row.run == current);
    if let Some(row) = row {
        ui.label(soft(&row.standing));
    }
}

/// Draws the navigation.
pub(crate) fn side_ui(ui: &mut Ui, state: &State, page: &mut Page, wide: &mut bool) {
    let p = Palette::get(ui);
    ui.spacing_mut().item_spacing.y = 2.0;
    ui.add_space(2.0 * GRID);
    if *wide {
        ui.horizontal(|ui| {
            ui.add_space(2.0 * GRID);
            ui.label(RichText::new("exeunt").font(heavy_font(18.0)));
        });
        ui.add_space(3.0 * GRID);
    }
    for one in Page::ALL {
        if one == Page::Settings {
            ui.add_space((ui.available_height() - 78.0).max(0.0));
        }
        let remark = match one {
            Page::Fleet if !state.nodes.is_empty() => crate::format::count(state.nodes.len() as u64),
            _ => String::new(),
        };
        if entry(ui, &p, one, *page == one, *wide, &remark) {
            *page = one;
        }
    }
    let text = if *wide { "«  Narrow" } else { "»" };
    let button = egui::Button::new(RichText::new(text).weak().size(12.0)).frame(false);
    ui.horizontal(|ui| {
        ui.add_space(if *wide { 10.0 } else { 6.0 });
        if ui.add(button).on_hover_text("Wide or narrow navigation (Ctrl+B)").clicked() {
            *wide = !*wide;
        }
    });
}

fn entry(ui: &mut Ui, p: &Palette, page: Page, chosen: bool, wide: bool, remark: &str) -> bool {
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), 34.0), Sense::click());
    response.widget_info(|| egui::WidgetInfo::selected(egui::Role::Tab, true, chosen, page.name()));
    let fill = match (chosen, response.hovered()) {
        (true, _) => p.frame.lerp_to_gamma(p.accent, 0.16),
        (false, true) => p.well,
        (false, false) => Color32::TRANSPARENT,
    };
    let ring = if response.has_focus() { Stroke::new(1.5, p.accent) } else { Stroke::NONE };
    ui.painter().rect(rect, 7.0, fill, ring, egui::StrokeKind::Inside);
    let colour = if chosen { p.accent } else { p.soft };
    let icon_at = if wide { rect.left() + 20.0 } else { rect.center().x };
    icon(ui, page, pos2(icon_at, rect.center().y), colour);
    if wide {
        let font = if chosen { heavy_font(13.5) } else { egui::FontId::proportional(13.5) };
        let ink = if chosen { p.ink } else { p.ink.gamma_multiply(0.86) };
        ui.painter().text(rect.left_center() + vec2(40.0, 0.0), Align2::LEFT_CENTER, page.name(), font, ink);
        let font = egui::FontId::proportional(12.0);
        ui.painter().text(rect.right_center() - vec2(10.0, 0.0), Align2::RIGHT_CENTER, remark, font, p.soft);
        response.clicked()
    } else {
        response.on_hover_text(page.name()).clicked()
    }
}

/// A small drawing for each page, of strokes only.
fn icon(ui: &Ui, page: Page, c: egui::Pos2, colour: Color32) {
    let painter = ui.painter();
    let s = Stroke::new(1.6, colour);
    let at = |x: f32, y: f32| c + vec2(x, y);
    let path = |points: &[(f32, f32)]| {
        painter.add(egui::Shape::line(points.iter().map(|(x, y)| at(*x, *y)).collect(), s));
    };
    match page {
        Page::TradeOff => {
            path(&[(-7.0, -7.0), (-7.0, 7.0), (7.0, 7.0)]);
            path(&[(-4.0, 4.0), (-2.5, -0.5), (1.0, -3.5), (7.0, -5.0)]);
        }
        Page::Thresholds => {
            for (y, x) in [(-5.0, 3.0), (0.0, -3.0), (5.0, 1.0)] {
                path(&[(-7.0, y), (7.0, y)]);
                painter.circle_filled(at(x, y), 2.6, colour);
            }
        }
        Page::Fleet => {
            for (x, y) in [(-4.0, -4.0), (4.0, -4.0), (-4.0, 4.0), (4.0, 4.0)] {
                let rect = egui::Rect::from_center_size(at(x, y), vec2(5.5, 5.5));
                painter.rect_stroke(rect, 1.5, s, egui::StrokeKind::Middle);
            }
        }
        Page::Run => {
            painter.circle_stroke(c, 7.0, s);
            path(&[(0.0, -3.5), (0.0, 0.5), (3.0, 2.0)]);
        }
        Page::Live => path(&[(-8.0, 1.0), (-4.0, 1.0), (-1.5, -5.5), (1.5, 6.0), (3.5, 1.0), (8.0, 1.0)]),
        Page::Log => {
            for (y, end) in [(-5.0, 7.0), (0.0, 3.0), (5.0, 6.0)] {
                path(&[(-7.0, y), (end, y)]);
            }
        }
        Page::Settings => {
            painter.circle_stroke(c, 3.0, s);
            for i in 0..8 {
                let angle = std::f32::consts::TAU * i as f32 / 8.0;
                let (x, y) = (angle.cos(), angle.sin());
                path(&[(5.0 * x, 5.0 * y), (7.5 * x, 7.5 * y)]);
            }
        }
    }
}
