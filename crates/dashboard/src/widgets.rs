//! Small parts that all views are made of.

use egui::{
    Align, Button, Color32, CornerRadius, Frame, InnerResponse, Label, Layout, Margin, Response, RichText,
    Role, Sense, Stroke, Ui, WidgetInfo, vec2,
};

use crate::theme::{CARD_RADIUS, GRID, Palette, heavy, heavy_font};

/// A surface with a border that holds one thing.
pub(crate) fn card<R>(ui: &mut Ui, contents: impl FnOnce(&mut Ui) -> R) -> InnerResponse<R> {
    let p = Palette::get(ui);
    Frame::new()
        .fill(p.card)
        .stroke(Stroke::new(1.0, p.line))
        .corner_radius(CornerRadius::same(CARD_RADIUS))
        .inner_margin(Margin::same(14))
        .show(ui, |ui| {
            // Cards stand apart; what is in them stands together.
            ui.spacing_mut().item_spacing.y = 1.5 * GRID;
            contents(ui)
        })
}

/// The name of a card or section.
pub(crate) fn title(ui: &mut Ui, text: &str) {
    ui.label(RichText::new(text).font(heavy_font(14.0)));
}

/// Text that stands back.
pub(crate) fn soft(text: impl Into<String>) -> RichText {
    RichText::new(text).weak()
}

/// Text that stands out.
pub(crate) fn strong(text: impl Into<String>) -> RichText {
    RichText::new(text).family(heavy())
}

/// One line of text that ends in an ellipsis where it does not fit, and says all of itself when pointed at.
pub(crate) fn line(ui: &mut Ui, text: impl Into<RichText>) -> Response {
    ui.add(Label::new(text.into()).truncate())
}

/// The button for what a page is for. One per view.
pub(crate) fn primary(ui: &mut Ui, text: &str) -> Response {
    let p = Palette::get(ui);
    let button = if ui.is_enabled() {
        Button::new(strong(text).color(p.on_accent)).fill(p.accent).stroke(Stroke::NONE)
    } else {
        // Dark letters on a faded accent cannot be read.
        Button::new(strong(text))
    };
    ui.add(button.min_size(vec2(0.0, 30.0)))
}

/// The button for what cannot be undone.
pub(crate) fn danger(ui: &mut Ui, text: &str) -> Response {
    let p = Palette::get(ui);
    ui.add(
        Button::new(RichText::new(text).color(p.bad))
            .stroke(Stroke::new(1.0, p.bad.gamma_multiply(0.6)))
            .min_size(vec2(0.0, 28.0)),
    )
}

/// A small button that puts something away, named for what it does.
pub(crate) fn away(ui: &mut Ui, name: &str) -> bool {
    let response = ui.add(Button::new(RichText::new("×").size(15.0)).frame(false).min_size(vec2(22.0, 22.0)));
    response.widget_info(|| WidgetInfo::labeled(Role::Button, true, name));
    response.on_hover_text(name).clicked()
}

/// A small word on a tinted ground: a state.
pub(crate) fn tag(ui: &mut Ui, text: &str, colour: Color32) -> Response {
    let p = Palette::get(ui);
    let galley = ui.painter().layout_no_wrap(text.to_owned(), egui::FontId::proportional(12.0), colour);
    let size = galley.size() + vec2(18.0, 6.0);
    let (rect, response) = ui.allocate_exact_size(size, Sense::hover());
    response.widget_info(|| WidgetInfo::labeled(Role::Label, true, text));
    ui.painter().rect_filled(rect, rect.height() / 2.0, p.card.lerp_to_gamma(colour, 0.16));
    ui.painter().galley(rect.center() - galley.size() / 2.0, galley, colour);
    response
}

/// A figure with its name above it and a remark below.
pub(crate) fn figure(ui: &mut Ui, name: &str, value: &str, remark: &str, colour: Color32) {
    ui.vertical(|ui| {
        ui.spacing_mut().item_spacing.y = 1.0;
        ui.label(soft(name).size(12.0));
        ui.label(RichText::new(value).font(heavy_font(22.0)).color(colour));
        ui.label(soft(remark).size(12.0));
    });
}

/// How a series is drawn, for legends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swatch {
    Line,
    Dashes,
    Thin,
    Dot,
    Diamond,
    Band,
}

/// A legend entry that shows and hides its series.
pub(crate) fn chip(ui: &mut Ui, name: &str, swatch: Swatch, colour: Color32, shown: &mut bool) -> Response {
    let p = Palette::get(ui);
    let font = egui::FontId::proportional(12.5);
    let ink = if *shown { p.ink } else { p.soft.gamma_multiply(0.8) };
    let galley = ui.painter().layout_no_wrap(name.to_owned(), font, ink);
    let (mark, pad) = (20.0, 2.0 * GRID);
    let size = vec2(pad + mark + 6.0 + galley.size().x + pad, 26.0);
    let (rect, mut response) = ui.allocate_exact_size(size, Sense::click());
    if response.clicked() {
        *shown = !*shown;
        response.mark_changed();
    }
    let on = *shown;
    response.widget_info(|| WidgetInfo::selected(Role::CheckBox, true, on, format!("Show {name}")));
    let painter = ui.painter();
    let fill = match (on, response.hovered()) {
        (_, true) => p.well.lerp_to_gamma(p.ink, 0.06),
        (true, false) => p.well,
        (false, false) => Color32::TRANSPARENT,
    };
    let ring = if response.has_focus() { Stroke::new(1.5, p.accent) } else { Stroke::new(1.0, p.line) };
    painter.rect(rect, CornerRadius::same(13), fill, ring, egui::StrokeKind::Inside);
    let colour = if on { colour } else { p.soft.gamma_multiply(0.5) };
    let (left, y) = (rect.left() + pad, rect.center().y);
    swatch_at(
        painter,
        swatch,
        egui::Rect::from_min_size(egui::pos2(left, y - 6.0), vec2(mark, 12.0)),
        colour,
    );
    painter.galley(egui::pos2(left + mark + 6.0, y - galley.size().y / 2.0), galley, ink);
    response.on_hover_text(if on { "Click to hide" } else { "Click to show" })
}

fn swatch_at(painter: &egui::Painter, swatch: Swatch, rect: egui::Rect, colour: Color32) {
    let (c, y) = (rect.center(), rect.center().y);
    match swatch {
        Swatch::Line => {
            painter.hline(rect.x_range(), y, Stroke::new(2.5, colour));
        }
        Swatch::Thin => {
            painter.hline(rect.x_range(), y, Stroke::new(1.25, colour));
        }
        Swatch::Dashes => {
            let ends = [egui::pos2(rect.left(), y), egui::pos2(rect.right(), y)];
            painter.extend(egui::Shape::dashed_line(&ends, Stroke::new(2.0, colour), 5.0, 3.0));
        }
        Swatch::Dot => {
            painter.circle_filled(c, 5.0, colour);
        }
        Swatch::Diamond => {
            let tips = [vec2(0.0, -6.0), vec2(6.0, 0.0), vec2(0.0, 6.0), vec2(-6.0, 0.0)].map(|v| c + v);
            painter.add(egui::Shape::convex_polygon(tips.to_vec(), colour, Stroke::NONE));
        }
        Swatch::Band => {
            painter.rect_filled(rect, CornerRadius::same(3), colour.gamma_multiply(0.4));
        }
    }
}

/// A bar of shares that add up to 1, with what each is called.
pub(crate) fn shares(
    ui: &mut Ui,
    width: f32,
    height: f32,
    shares: &[f64],
    what: impl Fn(usize) -> String,
) -> Response {
    let (rect, response) = ui.allocate_exact_size(vec2(width, height), Sense::hover());
    response.widget_info(|| {
        let parts: Vec<String> = (0..shares.len()).filter(|i| shares[*i] >= 0.0005).map(&what).collect();
        WidgetInfo::labeled(Role::Image, true, format!("Where samples leave: {}", parts.join(", ")))
    });
    let p = Palette::get(ui);
    let mut x = rect.left();
    let pointer = response.hover_pos();
    let mut pointed = None;
    for (i, share) in shares.iter().enumerate() {
        let w = rect.width() * (*share as f32).clamp(0.0, 1.0);
        let part = egui::Rect::from_min_size(egui::pos2(x, rect.top()), vec2(w, height));
        ui.painter().rect_filled(part, CornerRadius::ZERO, share_colour(&p, i, shares.len()));
        if pointer.is_some_and(|pos| part.contains(pos)) {
            pointed = Some(i);
        }
        x += w;
    }
    match pointed {
        Some(i) => response.on_hover_text(what(i)),
        None => response,
    }
}

/// Early exits are vivid, later ones fade, the whole network is grey.
pub(crate) fn share_colour(p: &Palette, i: usize, of: usize) -> Color32 {
    if i + 1 >= of {
        return p.node.gamma_multiply(0.45);
    }
    let along = i as f32 / (of.max(2) - 1) as f32;
    p.draft.lerp_to_gamma(p.front, along)
}

/// A dialog over the page.
pub(crate) fn modal(ctx: &egui::Context, name: &'static str) -> egui::Modal {
    let frame = Frame::popup(&ctx.global_style()).inner_margin(Margin::same(20));
    egui::Modal::new(egui::Id::unique(name)).frame(frame)
}

/// What stands in the middle of a page that has nothing to show yet.
pub(crate) fn empty(ui: &mut Ui, heading: &str, text: &str, actions: impl FnOnce(&mut Ui)) {
    let room = ui.available_height();
    ui.vertical_centered(|ui| {
        ui.add_space((room * 0.28).max(24.0));
        ui.label(RichText::new(heading).font(heavy_font(19.0)));
        ui.add_space(GRID);
        ui.scope(|ui| {
            ui.set_max_width(460.0);
            ui.label(soft(text));
        });
        ui.add_space(4.0 * GRID);
        actions(ui);
    });
}

/// A row whose right end is filled first.
pub(crate) fn ends(ui: &mut Ui, left: impl FnOnce(&mut Ui), right: impl FnOnce(&mut Ui)) {
    ui.horizontal(|ui| {
        left(ui);
        self::right(ui, right);
    });
}

/// The rest of a row, filled from its right end.
pub(crate) fn right<R>(ui: &mut Ui, contents: impl FnOnce(&mut Ui) -> R) -> R {
    ui.with_layout(Layout::right_to_left(Align::Center), contents).inner
}
