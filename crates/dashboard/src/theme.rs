//! How the window looks: colours for dark and light, two weights of one typeface, one scale of spaces.
//!
//! Colours that carry meaning are told apart by people of any colour vision (blue, orange, green and purple of equal
//! contrast), and never carry it alone: a marker, a dash or a word goes with each.

use std::sync::Arc;

use egui::{
    Color32, CornerRadius, FontData, FontDefinitions, FontFamily, FontId, Margin, Shadow, Stroke, Style,
    TextStyle, Theme, ThemePreference, Visuals, vec2,
};
use serde::{Deserialize, Serialize};

/// The unit of all spaces, in points.
pub(crate) const GRID: f32 = 4.0;
/// Corner radius of cards.
pub(crate) const CARD_RADIUS: u8 = 8;
/// Smallest and largest scale of the whole window.
pub(crate) const SCALES: std::ops::RangeInclusive<f32> = 0.75..=2.0;

/// Dark, light, or what the system says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// Light letters on a dark ground.
    Dark,
    /// Dark letters on a light ground.
    Light,
    /// As the desktop has it.
    #[default]
    System,
}

impl Scheme {
    /// Every scheme, in the order they are offered.
    pub const ALL: [Scheme; 3] = [Scheme::System, Scheme::Dark, Scheme::Light];

    /// What it is called in the settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dark => "Dark",
            Self::Light => "Light",
            Self::System => "System",
        }
    }

    pub(crate) const fn preference(self) -> ThemePreference {
        match self {
            Self::Dark => ThemePreference::Dark,
            Self::Light => ThemePreference::Light,
            Self::System => ThemePreference::System,
        }
    }
}

/// Colours by what they mean.
#[derive(Debug, Clone, Copy)]
pub struct Palette {
    /// Behind everything.
    pub ground: Color32,
    /// The navigation at the left and the bar at the top.
    pub frame: Color32,
    /// Cards and tables.
    pub card: Color32,
    /// Fields, troughs and hovered rows.
    pub well: Color32,
    /// Lines between things.
    pub line: Color32,
    /// Text that is read.
    pub ink: Color32,
    /// Text beside it.
    pub soft: Color32,
    /// What can be done, and what is chosen.
    pub accent: Color32,
    /// Letters on the accent.
    pub on_accent: Color32,
    /// The fleet's front.
    pub front: Color32,
    /// The static line.
    pub fixed: Color32,
    /// The policy in force.
    pub force: Color32,
    /// The draft.
    pub draft: Color32,
    /// A single node.
    pub node: Color32,
    /// All is well.
    pub good: Color32,
    /// Needs a look.
    pub warn: Color32,
    /// Is wrong, or cannot be undone.
    pub bad: Color32,
}

const DARK: Palette = Palette {
    ground: Color32::from_rgb(0x0e, 0x13, 0x18),
    frame: Color32::from_rgb(0x12, 0x18, 0x1f),
    card: Color32::from_rgb(0x17, 0x1e, 0x26),
    well: Color32::from_rgb(0x20, 0x29, 0x33),
    line: Color32::from_rgb(0x29, 0x33, 0x3e),
    ink: Color32::from_rgb(0xe8, 0xed, 0xf2),
    soft: Color32::from_rgb(0x9b, 0xa9, 0xb7),
    accent: Color32::from_rgb(0x4d, 0x9f, 0xff),
    on_accent: Color32::from_rgb(0x06, 0x16, 0x2a),
    front: Color32::from_rgb(0x56, 0xa5, 0xff),
    fixed: Color32::from_rgb(0xf2, 0xa2, 0x49),
    force: Color32::from_rgb(0xd5, 0x8c, 0xf0),
    draft: Color32::from_rgb(0x3c, 0xcf, 0xa4),
    node: Color32::from_rgb(0x8c, 0x9a, 0xa8),
    good: Color32::from_rgb(0x3c, 0xcf, 0xa4),
    warn: Color32::from_rgb(0xf2, 0xa2, 0x49),
    bad: Color32::from_rgb(0xff, 0x86, 0x7a),
};

const LIGHT: Palette = Palette {
    ground: Color32::from_rgb(0xf4, 0xf6, 0xf9),
    frame: Color32::from_rgb(0xfa, 0xfb, 0xfc),
    card: Color32::from_rgb(0xff, 0xff, 0xff),
    well: Color32::from_rgb(0xed, 0xf1, 0xf5),
    line: Color32::from_rgb(0xdd, 0xe3, 0xe9),
    ink: Color32::from_rgb(0x17, 0x22, 0x2d),
    soft: Color32::from_rgb(0x56, 0x65, 0x74),
    accent: Color32::from_rgb(0x0b, 0x66, 0xc8),
    on_accent: Color32::from_rgb(0xff, 0xff, 0xff),
    front: Color32::from_rgb(0x0b, 0x66, 0xc8),
    fixed: Color32::from_rgb(0xb0, 0x5a, 0x00),
    force: Color32::from_rgb(0x8e, 0x2f, 0xb3),
    draft: Color32::from_rgb(0x00, 0x7d, 0x5c),
    node: Color32::from_rgb(0x6b, 0x7a, 0x89),
    good: Color32::from_rgb(0x00, 0x7d, 0x5c),
    warn: Color32::from_rgb(0xa8, 0x55, 0x00),
    bad: Color32::from_rgb(0xc0, 0x2f, 0x24),
};

impl Palette {
    /// The colours of a theme.
    pub const fn of(theme: Theme) -> Self {
        match theme {
            Theme::Dark => DARK,
            Theme::Light => LIGHT,
        }
    }

    /// The colours of the theme that a view is drawn in.
    pub fn get(ui: &egui::Ui) -> Self {
        Self::of(if ui.visuals().dark_mode { Theme::Dark } else { Theme::Light })
    }
}

/// The heavier weight, for headings and for what stands out.
pub(crate) fn heavy() -> FontFamily {
    FontFamily::Name("heavy".into())
}

/// The heavier weight at a size.
pub(crate) fn heavy_font(size: f32) -> FontId {
    FontId::new(size, heavy())
}

/// Lays typeface, colours and spaces down. Once per window.
pub(crate) fn install(ctx: &egui::Context) {
    ctx.set_fonts(fonts());
    for theme in [Theme::Dark, Theme::Light] {
        ctx.style_mut_of(theme, |style| dress(style, theme));
    }
}

fn fonts() -> FontDefinitions {
    let mut fonts = FontDefinitions::default();
    let faces: [(&str, &'static [u8]); 2] = [
        ("inter", include_bytes!("../fonts/Inter-Regular.otf")),
        ("inter-heavy", include_bytes!("../fonts/Inter-SemiBold.otf")),
    ];
    for (name, bytes) in faces {
        fonts.font_data.insert(name.to_owned(), Arc::new(FontData::from_static(bytes)));
    }
    // Signs that Inter lacks come from egui's own faces behind it.
    let fallback = fonts.families.get(&FontFamily::Proportional).cloned().unwrap_or_default();
    let behind = |first: &str| std::iter::once(first.to_owned()).chain(fallback.clone()).collect::<Vec<_>>();
    fonts.families.insert(heavy(), behind("inter-heavy"));
    fonts.families.insert(FontFamily::Proportional, behind("inter"));
    fonts
}

fn dress(style: &mut Style, theme: Theme) {
    let p = Palette::of(theme);
    style.text_styles = [
        (TextStyle::Small, FontId::proportional(11.5)),
        (TextStyle::Body, FontId::proportional(13.5)),
        (TextStyle::Button, FontId::proportional(13.5)),
        (TextStyle::Monospace, FontId::monospace(12.5)),
        (TextStyle::Heading, heavy_font(19.0)),
    ]
    .into();
    style.visuals = visuals(theme, &p);
    let spacing = &mut style.spacing;
    spacing.item_spacing = vec2(2.0 * GRID, 1.5 * GRID);
    spacing.button_padding = vec2(2.5 * GRID, 1.25 * GRID);
    spacing.interact_size = vec2(36.0, 26.0);
    spacing.window_margin = Margin::same(18);
    spacing.menu_margin = Margin::same(6);
    spacing.slider_width = 160.0;
    spacing.combo_width = 96.0;
    spacing.tooltip_width = 360.0;
    spacing.icon_width = 16.0;
    style.animation_time = 0.08;
    style.interaction.tooltip_delay = 0.25;
    style.interaction.selectable_labels = false;
}

fn visuals(theme: Theme, p: &Palette) -> Visuals {
    let mut v = match theme {
        Theme::Dark => Visuals::dark(),
        Theme::Light => Visuals::light(),
    };
    let radius = CornerRadius::same(6);
    v.override_text_color = None;
    v.weak_text_color = Some(p.soft);
    v.panel_fill = p.ground;
    v.window_fill = p.card;
    v.window_stroke = Stroke::new(1.0, p.line);
    v.window_corner_radius = CornerRadius::same(12);
    v.menu_corner_radius = CornerRadius::same(8);
    v.faint_bg_color = p.card.lerp_to_gamma(p.well, 0.45);
    v.extreme_bg_color = p.well;
    v.text_edit_bg_color = Some(p.well);
    v.code_bg_color = p.well;
    v.warn_fg_color = p.warn;
    v.error_fg_color = p.bad;
    v.hyperlink_color = p.accent;
    v.selection.bg_fill = p.accent.gamma_multiply(if theme == Theme::Dark { 0.30 } else { 0.18 });
    v.selection.stroke = Stroke::new(1.0, p.accent);
    v.slider_trailing_fill = true;
    v.button_frame = true;
    let shadow = Shadow { offset: [0, 8], blur: 24, spread: 0, color: Color32::from_black_alpha(60) };
    v.window_shadow = shadow;
    v.popup_shadow = Shadow { offset: [0, 4], blur: 14, ..shadow };
    v.disabled_alpha = 0.45;
    let w = &mut v.widgets;
    for state in [&mut w.noninteractive, &mut w.inactive, &mut w.hovered, &mut w.active, &mut w.open] {
        state.corner_radius = radius;
        state.fg_stroke = Stroke::new(1.0, p.ink);
        state.bg_stroke = Stroke::new(1.0, p.line);
        state.bg_fill = p.well;
        state.weak_bg_fill = p.well;
        state.expansion = 0.0;
    }
    w.hovered.weak_bg_fill = p.well.lerp_to_gamma(p.ink, 0.08);
    w.hovered.bg_fill = w.hovered.weak_bg_fill;
    w.hovered.bg_stroke = Stroke::new(1.0, p.soft.gamma_multiply(0.7));
    w.active.weak_bg_fill = p.well.lerp_to_gamma(p.accent, 0.25);
    w.active.bg_fill = p.accent;
    // What has the keyboard's focus is drawn as active; the ring must be seen.
    w.active.bg_stroke = Stroke::new(1.5, p.accent);
    v
}
