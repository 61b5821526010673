//! The trade-off as a picture: accuracy over cost, as SVG that stands on its own in light and dark.

use std::fmt::Write as _;

use crate::axis::CostAxis;

/// One line or set of marks.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// Cost in the axis' unit and accuracy 0..1, in order of cost.
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub style: Style,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// The fleet's front.
    Front,
    /// "Everyone stops at exit e".
    Static,
    /// One node.
    Faint,
    /// A single point of note.
    Mark,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 64.0;

/// Draws the series over an axis of cost. Accuracy runs over round steps that hold every point.
pub fn draw(title: &str, axis: CostAxis, series: &[Series]) -> String {
    let axes = Axes::around(axis, series);
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">
<style>
  :root {{ --ink: #1b2733; --soft: #5b6b7a; --grid: #e3e8ed; --paper: #ffffff; --front: #0b6bcb; --static: #b35900; --mark: #a3195b }}
  @media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6edf3; --soft: #9aa8b5; --grid: #2a343e; --paper: #12181e; --front: #58a6ff; --static: #f0a04b; --mark: #ff7ab8 }} }}
  text {{ font: 13px system-ui, sans-serif; fill: var(--soft) }} .title {{ font-size: 16px; font-weight: 600; fill: var(--ink) }}
  .grid {{ stroke: var(--grid) }} .front {{ stroke: var(--front); fill: none; stroke-width: 2.5 }} .front-dot {{ fill: var(--front) }}
  .static {{ stroke: var(--static); fill: none; stroke-width: 1.75; stroke-dasharray: 6 4 }} .static-dot {{ fill: var(--static) }}
  .faint {{ stroke: var(--soft); fill: none; stroke-width: 1; opacity: .35 }} .mark {{ fill: var(--mark) }}
</style>
<rect width="{WIDTH}" height="{HEIGHT}" fill="var(--paper)"/>
<text class="title" x="{LEFT}" y="28">{label}</text>
"#,
        label = escape(title)
    );
    axes.draw(&mut svg);
    for order in [Style::Faint, Style::Static, Style::Front, Style::Mark] {
        for series in series.iter().filter(|series| series.style == order) {
            draw_series(&mut svg, &axes, series);
        }
    }
    legend(&mut svg, series);
    svg.push_str("</svg>\n");
    svg
}

struct Axes {
    cost: CostAxis,
    /// Places of the cheapest and the dearest cost.
    x: (f64, f64),
    y_min: f64,
    y_max: f64,
    y_step: f64,
}

impl Axes {
    fn around(cost: CostAxis, series: &[Series]) -> Self {
        let points = || series.iter().flat_map(|s| &s.points).filter(|p| p.0.is_finite() && p.1.is_finite());
        let dearest = points().map(|p| p.0).fold(0.0, f64::max);
        let cheapest = points().map(|p| p.0).fold(dearest, f64::min);
        // A linear axis begins at nothing and ends behind the dearest point; a logarithmic one has air at both ends.
        let x = if cost.log {
            let (low, high) = (cost.place(cheapest), cost.place(dearest));
            let air = ((high - low) * 0.04).max(0.01);
            (low - air, high + air)
        } else {
            (0.0, (dearest * 1.04).max(1e-6))
        };
        let lowest = points().map(|p| p.1).fold(1.0, f64::min);
        let highest = points().map(|p| p.1).fold(0.0, f64::max).max(lowest);
        let span = (highest - lowest).max(0.02);
        let y_step =
            [0.005, 0.01, 0.02, 0.05, 0.1, 0.2].into_iter().find(|step| span / step <= 8.0).unwrap_or(0.2);
        let y_min = (lowest / y_step).floor() * y_step;
        let y_max = ((highest / y_step).ceil() * y_step).min(1.0).max(y_min + y_step);
        Self { cost, x, y_min, y_max, y_step }
    }

    fn x(&self, cost: f64) -> f64 {
        let (low, high) = self.x;
        LEFT + (WIDTH - LEFT - RIGHT) * (self.cost.place(cost) - low) / (high - low)
    }

    fn y(&self, accuracy: f64) -> f64 {
        TOP + (HEIGHT - TOP - BOTTOM) * (self.y_max - accuracy) / (self.y_max - self.y_min)
    }

    fn draw(&self, svg: &mut String) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for (place, text) in self.cost.marks(self.x, 9.0) {
            let x = self.x(self.cost.cost(place));
            let _ = writeln!(svg, r#"<line class="grid" x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{bottom}"/>"#);
            let y = bottom + 20.0;
            let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y}" text-anchor="middle">{text}</text>"#);
        }
        let rows = ((self.y_max - self.y_min) / self.y_step).round() as usize;
        let digits = usize::from(self.y_step < 0.01);
        for i in 0..=rows {
            let accuracy = self.y_min + i as f64 * self.y_step;
            let y = self.y(accuracy);
            let _ = writeln!(svg, r#"<line class="grid" x1="{LEFT}" y1="{y:.1}" x2="{right}" y2="{y:.1}"/>"#);
            let (x, base) = (LEFT - 8.0, y + 4.0);
            let _ = writeln!(
                svg,
                r#"<text x="{x}" y="{base:.1}" text-anchor="end">{:.digits$} %</text>"#,
                accuracy * 100.0
            );
        }
        let (middle, low) = ((LEFT + right) / 2.0, HEIGHT - 22.0);
        let caption = self.cost.unit.caption();
        let _ = writeln!(svg, r#"<text x="{middle}" y="{low}" text-anchor="middle">{caption}</text>"#);
        let up = (TOP + bottom) / 2.0;
        let _ = writeln!(
            svg,
            r#"<text transform="translate(20 {up}) rotate(-90)" text-anchor="middle">accuracy</text>"#
        );
    }
}

fn draw_series(svg: &mut String, axes: &Axes, series: &Series) {
    let class = match series.style {
        Style::Front => "front",
        Style::Static => "static",
        Style::Faint => "faint",
        Style::Mark => "mark",
    };
    let at = |p: &(f64, f64)| format!("{:.1},{:.1}", axes.x(p.0), axes.y(p.1));
    if series.style != Style::Mark {
        let path: Vec<String> = series.points.iter().map(at).collect();
        let _ = writeln!(svg, r#"<polyline class="{class}" points="{}"/>"#, path.join(" "));
    }
    let (dot, radius) = match series.style {
        Style::Front => ("front-dot", 2.5),
        Style::Static => ("static-dot", 3.5),
        Style::Mark => ("mark", 6.0),
        Style::Faint => return,
    };
    for point in &series.points {
        let (x, y) = (axes.x(point.0), axes.y(point.1));
        let (name, cost) = (escape(&series.name), axes.cost.unit.text(point.0));
        let _ = writeln!(
            svg,
            r#"<circle class="{dot}" cx="{x:.1}" cy="{y:.1}" r="{radius}"><title>{name}: accuracy {:.2} % at cost {cost}</title></circle>"#,
            point.1 * 100.0
        );
    }
}

/// One row under the title; the nodes share an entry.
fn legend(svg: &mut String, series: &[Series]) {
    let mut x = LEFT;
    let mut faint_named = false;
    for series in series {
        let (class, name) = match series.style {
            Style::Faint if faint_named => continue,
            Style::Faint => ("faint", "one line per node".to_owned()),
            Style::Front => ("front", escape(&series.name)),
            Style::Static => ("static", escape(&series.name)),
            Style::Mark => ("mark", escape(&series.name)),
        };
        faint_named |= series.style == Style::Faint;
        if series.style == Style::Mark {
            let _ = writeln!(svg, r#"<circle class="mark" cx="{:.1}" cy="42" r="5"/>"#, x + 14.0);
        } else {
            let _ =
                writeln!(svg, r#"<line class="{class}" x1="{x:.1}" y1="42" x2="{:.1}" y2="42"/>"#, x + 28.0);
        }
        let _ = writeln!(svg, r#"<text x="{:.1}" y="46">{name}</text>"#, x + 34.0);
        x += 34.0 + 7.2 * name.chars().count() as f64 + 22.0;
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(style: Style, points: &[(f64, f64)]) -> Series {
        Series { name: "a <b> & \"c\"".to_owned(), points: points.to_vec(), style }
    }

    #[test]
    fn every_point_lies_inside_the_axes_and_names_are_escaped() {
        let all = [series(Style::Front, &[(0.1, 0.31), (1.2, 0.97)]), series(Style::Mark, &[(1.0, 0.98)])];
        for axis in [CostAxis::default(), CostAxis { log: false, ..CostAxis::default() }] {
            let axes = Axes::around(axis, &all);
            for point in all.iter().flat_map(|s| &s.points) {
                assert!((LEFT..=WIDTH - RIGHT).contains(&axes.x(point.0)), "{point:?}");
                assert!((TOP - 1e-9..=HEIGHT - BOTTOM + 1e-9).contains(&axes.y(point.1)), "{point:?}");
            }
            let svg = draw("x < y", axis, &all);
            assert!(svg.contains("x &lt; y") && !svg.contains("<b>"));
            assert_eq!(svg.matches("<circle").count(), 3 + 1, "three points and the legend's mark");
        }
    }

    #[test]
    fn no_points_draw_empty_axes() {
        let svg = draw("empty", CostAxis::default(), &[]);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }
}
