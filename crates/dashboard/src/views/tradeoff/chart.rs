//! The chart itself: lines, marks, target lines that can be dragged, and what the pointer is at.

use std::collections::BTreeSet;

use egui::{Align2, Color32, CursorIcon, Id, PointerButton, Pos2, Rangef, Response, Stroke, Ui, vec2};
use egui_plot::{
    AxisHints, FilledArea, GridInput, GridMark, HPlacement, Line, LineStyle, MarkerShape, Plot, PlotPoint,
    PlotPoints, PlotTransform, Points,
};
use exeunt_protocol::NodeId;

use super::Series;
use super::curves::{Curves, LINES};
use crate::axis::CostAxis;
use crate::theme::Palette;

/// How near the pointer must be to a point, in points of the screen.
const REACH: f32 = 18.0;
/// How near it must be to a target line.
const GRIP: f32 = 6.0;

/// A target that the draft follows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    /// At least this accuracy, as cheap as can be.
    Accuracy(f64),
    /// At most this cost in the axis' unit, as accurate as can be.
    Cost(f64),
}

/// A single policy on the chart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) at: PlotPoint,
    pub(crate) colour: Color32,
    pub(crate) shape: MarkerShape,
    pub(crate) series: Series,
    /// Whether it was measured on other samples than the chart shows.
    pub(crate) hollow: bool,
}

/// What the chart is asked to draw.
pub(crate) struct Picture<'a> {
    pub(crate) curves: &'a Curves,
    pub(crate) hidden: &'a BTreeSet<Series>,
    pub(crate) picked: &'a BTreeSet<NodeId>,
    pub(crate) marks: &'a [Mark],
    pub(crate) target: Option<Target>,
    pub(crate) reset: bool,
}

/// What a person did with the chart.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response,
    /// The fleet's point under the pointer, by number.
    pub(crate) pointed: Option<usize>,
    /// The node whose line is under the pointer, by number, where no point of the fleet's is.
    pub(crate) node: Option<usize>,
    /// The fleet's point that was clicked.
    pub(crate) taken: Option<usize>,
    /// Where the target was dragged to.
    pub(crate) target: Option<Target>,
}

pub(crate) fn chart(ui: &mut Ui, picture: &Picture<'_>) -> Answer {
    let p = Palette::get(ui);
    let id = Id::unique("trade-off chart");
    // Where the pointer is relative to the lines is known from the frame before.
    let before: Option<PlotTransform> = ui.data(|data| data.get_temp(id.with("transform")));
    let pointer = ui.input(|input| input.pointer.latest_pos());
    let held: bool = ui.data(|data| data.get_temp(id.with("held")).unwrap_or(false));
    let axis = picture.curves.axis;
    let near = held || is_near(before.as_ref(), pointer, axis, picture.target);

    let plot = Plot::new(id)
        .show_background(false)
        .show_crosshair(false)
        .grid_color(p.line)
        .grid_fade(0.4)
        .x_grid_spacer(cost_grid(axis, 7.0))
        .y_grid_spacer(|input| steps(input, 7.0))
        .custom_x_axes(vec![cost_hints(axis, 7.0).label(axis.unit.caption())])
        .custom_y_axes(vec![
            AxisHints::new_y().label("accuracy").formatter(|mark, _| tick(mark)).placement(HPlacement::Left),
        ])
        .set_margin_fraction(vec2(0.03, 0.07))
        .boxed_zoom_pointer_button(PointerButton::Primary)
        .allow_boxed_zoom(!near)
        .pan_pointer_button(PointerButton::Secondary)
        .allow_drag(!near)
        .allow_axis_zoom_drag(false)
        .allow_scroll(false)
        .label_formatter(|_| None);
    let plot = if picture.reset { plot.reset() } else { plot };
    let shown = |series: Series| !picture.hidden.contains(&series);

    let plotted = plot.show(ui, |ui| {
        let c = picture.curves;
        if shown(Series::Band) && c.band[0].len() > 1 {
            let [xs, low, high] = &c.band;
            ui.add(
                FilledArea::new("", xs, low, high)
                    .fill_color(p.front.gamma_multiply(0.13))
                    .stroke(Stroke::NONE)
                    .allow_hover(false),
            );
        }
        if shown(Series::Nodes) {
            // Many lines are a cloud: each is fainter the more there are.
            let faint = (0.38 * (24.0 / c.nodes.len().clamp(1, LINES) as f32).min(1.0)).max(0.028);
            for (_, line) in c.shown(picture.picked) {
                let picked = picture.picked.contains(&line.node);
                let (width, colour) =
                    if picked { (1.75, p.node) } else { (1.0, p.node.gamma_multiply(faint)) };
                ui.line(plain(&line.points, colour, width));
            }
        }
        if shown(Series::Fixed) {
            ui.line(plain(&c.fixed, p.fixed, 1.75).style(LineStyle::Dashed { length: 7.0 }));
            ui.points(dots(&c.fixed, p.fixed, 3.0, MarkerShape::Circle));
        }
        if shown(Series::Fleet) {
            ui.line(plain(&c.front_line, p.front, 2.5));
            ui.points(dots(&c.front, p.front, 2.75, MarkerShape::Circle));
        }
        if shown(Series::Network) {
            ui.points(dots(std::slice::from_ref(&c.network), p.ink, 6.0, MarkerShape::Diamond));
        }
        for mark in picture.marks.iter().filter(|mark| shown(mark.series)) {
            let at = std::slice::from_ref(&mark.at);
            ui.points(dots(at, p.card, 9.5, mark.shape));
            ui.points(dots(at, mark.colour, 7.0, mark.shape));
            if mark.hollow {
                ui.points(dots(at, p.card, 4.0, mark.shape));
            }
        }
        ui.pointer_coordinate()
    });
    let transform = plotted.transform;
    let response = plotted.response;
    ui.data_mut(|data| data.insert_temp(id.with("transform"), transform));

    let mut answer = Answer { pointed: None, node: None, taken: None, target: None, response };
    draw_target(ui, &p, &transform, axis, picture.target, near);
    let over = answer.response.hovered() || held;
    if near && over {
        ui.ctx().set_cursor_icon(match picture.target {
            Some(Target::Accuracy(_)) => CursorIcon::ResizeVertical,
            _ => CursorIcon::ResizeHorizontal,
        });
        let down = ui.input(|input| input.pointer.primary_down());
        ui.data_mut(|data| data.insert_temp(id.with("held"), down));
        if down && let (Some(pointer), Some(target)) = (pointer, picture.target) {
            let at = transform.value_from_position(pointer);
            answer.target = Some(match target {
                Target::Accuracy(_) => Target::Accuracy(at.y.clamp(0.0, 1.0)),
                Target::Cost(_) => Target::Cost(axis.cost(at.x).max(0.0)),
            });
        }
        return answer;
    }
    if let Some(pointer) = answer.response.hover_pos() {
        let fleet =
            shown(Series::Fleet).then(|| nearest(&picture.curves.front, &transform, pointer)).flatten();
        answer.pointed = fleet;
        if fleet.is_none() && shown(Series::Nodes) {
            let visible = picture.curves.shown(picture.picked);
            let best =
                visible.filter_map(|(i, line)| Some((distance(&line.points, &transform, pointer)?, i)));
            answer.node = best.filter(|(d, _)| *d < GRIP).min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, i)| i);
        }
    }
    if answer.response.clicked() {
        answer.taken = answer.pointed;
    }
    if let Some(point) = answer.pointed.and_then(|i| picture.curves.front.get(i)) {
        let at = transform.position_from_point(point);
        ui.painter().circle_stroke(at, 8.0, Stroke::new(2.0, p.front));
        ui.ctx().set_cursor_icon(CursorIcon::PointingHand);
    }
    answer
}

/// A line as it is. Where points lie within a pixel of each other, a plot would by itself draw a band over x in its
/// place, which thins what is steep and fills what turns back.
pub(crate) fn plain<'a>(points: &'a [PlotPoint], colour: Color32, width: f32) -> Line<'a> {
    Line::new("", PlotPoints::Borrowed(points))
        .color(colour)
        .width(width)
        .allow_hover(false)
        .allow_band(false)
}

fn dots<'a>(points: &'a [PlotPoint], colour: Color32, radius: f32, shape: MarkerShape) -> Points<'a> {
    Points::new("", PlotPoints::Borrowed(points)).color(colour).radius(radius).shape(shape).allow_hover(false)
}

/// Grid lines at about so many round costs.
pub(crate) fn cost_grid(axis: CostAxis, about: f64) -> impl Fn(GridInput) -> Vec<GridMark> {
    move |input| {
        // One size for all of them: lines between equal factors are equally strong.
        let step_size = (input.bounds.1 - input.bounds.0) / about;
        let marks = axis.marks(input.bounds, about);
        marks.into_iter().map(|(value, _)| GridMark { value, step_size }).collect()
    }
}

/// What stands at those lines.
pub(crate) fn cost_hints(axis: CostAxis, about: f64) -> AxisHints<'static> {
    // Marks are as many as there is room for; none goes without its number.
    AxisHints::new_x().label_spacing(Rangef::new(16.0, 32.0)).formatter(move |mark, bounds| {
        let marks = axis.marks((*bounds.start(), *bounds.end()), about);
        let at = marks.into_iter().find(|(place, _)| (place - mark.value).abs() < 1e-9);
        at.map_or_else(String::new, |(_, text)| text)
    })
}

/// Marks at round steps in 1, 2 and 5, about so many.
pub(crate) fn steps(input: GridInput, about: f64) -> Vec<GridMark> {
    let (low, high) = input.bounds;
    let values = crate::axis::steps(low, high, about);
    let step_size = values.windows(2).next().map_or(high - low, |pair| pair[1] - pair[0]);
    values.into_iter().map(|value| GridMark { value, step_size }).collect()
}

pub(crate) fn tick(mark: GridMark) -> String {
    let step = mark.step_size * 100.0;
    let digits = if step >= 0.999 {
        0
    } else if step >= 0.0999 {
        1
    } else {
        2
    };
    if !(-1e-9..=2.0).contains(&mark.value) {
        return String::new();
    }
    format!("{:.digits$} %", (mark.value * 100.0).max(0.0))
}

fn is_near(
    transform: Option<&PlotTransform>,
    pointer: Option<Pos2>,
    axis: CostAxis,
    target: Option<Target>,
) -> bool {
    let (Some(transform), Some(pointer), Some(target)) = (transform, pointer, target) else { return false };
    if !transform.frame().contains(pointer) {
        return false;
    }
    match target {
        Target::Accuracy(y) => {
            (transform.position_from_point(&PlotPoint::new(0.0, y)).y - pointer.y).abs() < GRIP
        }
        Target::Cost(x) => {
            let x = axis.place(x);
            (transform.position_from_point(&PlotPoint::new(x, 0.0)).x - pointer.x).abs() < GRIP
        }
    }
}

fn draw_target(
    ui: &Ui,
    p: &Palette,
    transform: &PlotTransform,
    axis: CostAxis,
    target: Option<Target>,
    near: bool,
) {
    let Some(target) = target else { return };
    let frame = *transform.frame();
    let painter = ui.painter().with_clip_rect(frame);
    let stroke = Stroke::new(if near { 2.5 } else { 1.5 }, p.draft);
    let font = egui::FontId::proportional(12.0);
    match target {
        Target::Accuracy(floor) => {
            let y = transform.position_from_point(&PlotPoint::new(0.0, floor)).y;
            let ends = [egui::pos2(frame.left(), y), egui::pos2(frame.right(), y)];
            painter.extend(egui::Shape::dashed_line(&ends, stroke, 4.0, 4.0));
            let text = format!("at least {:.1} %", floor * 100.0);
            painter.text(ends[1] - vec2(8.0, 4.0), Align2::RIGHT_BOTTOM, text, font, p.draft);
        }
        Target::Cost(ceiling) => {
            let x = transform.position_from_point(&PlotPoint::new(axis.place(ceiling), 0.0)).x;
            let ends = [egui::pos2(x, frame.bottom()), egui::pos2(x, frame.top())];
            painter.extend(egui::Shape::dashed_line(&ends, stroke, 4.0, 4.0));
            let text = format!("at most {}", axis.unit.text(ceiling));
            painter.text(ends[0] + vec2(6.0, -8.0), Align2::LEFT_BOTTOM, text, font, p.draft);
        }
    }
}

/// The point nearest to the pointer, within reach.
fn nearest(points: &[PlotPoint], transform: &PlotTransform, pointer: Pos2) -> Option<usize> {
    let away = points.iter().map(|point| transform.position_from_point(point).distance(pointer));
    let best = away.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
    best.filter(|(_, distance)| *distance < REACH).map(|(i, _)| i)
}

/// How far the pointer is from a line.
fn distance(points: &[PlotPoint], transform: &PlotTransform, pointer: Pos2) -> Option<f32> {
    let on_screen: Vec<Pos2> = points.iter().map(|point| transform.position_from_point(point)).collect();
    let away = on_screen.windows(2).map(|pair| {
        let (a, b) = (pair[0], pair[1]);
        let along = ((pointer - a).dot(b - a) / (b - a).length_sq().max(1e-6)).clamp(0.0, 1.0);
        (a + (b - a) * along).distance(pointer)
    });
    away.min_by(f32::total_cmp)
}
