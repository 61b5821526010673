//! The run's queries along time: how long each took, which is open, which were withdrawn or superseded.

use egui::{Align2, Color32, FontId, Rect, RichText, Sense, Ui, pos2, vec2};
use exeunt_protocol::coordinator::{QueryStatus, Standing};
use exeunt_protocol::operator::RunReport;

use crate::format::{bytes, clock, count, day, plural, took};
use crate::theme::Palette;
use crate::views::Scene;
use crate::widgets::{self, soft, strong, title};

/// Height of the bar, and of the times below it.
const BAR: f32 = 30.0;
const FOOT: f32 = 16.0;
/// A query is never drawn narrower, so that it can be pointed at.
const LEAST: f32 = 5.0;

/// From when until when each query was open, in milliseconds since 1970; none where times are not known.
///
/// One is open at a time. Each follows at once when the one before it closed, or, once the run rests, when a policy was
/// set or tried: `set_ms`. The last one is open until now.
fn spans(queries: &[QueryStatus], started_ms: u64, set_ms: &[u64], now_ms: u64) -> Option<Vec<(u64, u64)>> {
    let mut before = started_ms;
    let last = queries.len().checked_sub(1)?;
    let span = |(i, query): (usize, &QueryStatus)| {
        let to = match query.closed_ms {
            Some(closed) => closed,
            None if i == last => now_ms,
            None => return None,
        };
        let asked = set_ms.iter().copied().filter(|set| (before..=to).contains(set)).min();
        let from = asked.unwrap_or(before).min(to);
        before = to;
        Some((from, to))
    };
    queries.iter().enumerate().map(span).collect()
}

/// Where bars begin and end in a width: as long as they took, but never narrower than they can be pointed at. Rests
/// between queries, when nothing was asked, are left out.
fn places(spans: &[(u64, u64)], width: f32) -> Vec<(f32, f32)> {
    let long = |span: &(u64, u64)| (span.1 - span.0) as f32;
    let least = LEAST.min(width / spans.len().max(1) as f32);
    let all: f32 = spans.iter().map(long).sum::<f32>().max(1.0);
    let room = (width - least * spans.len() as f32).max(0.0);
    let mut x = 0.0;
    let place = |span: &(u64, u64)| {
        let from = x;
        x += least + room * long(span) / all;
        (from, x)
    };
    spans.iter().map(place).collect()
}

/// Draws the queries; `chosen` is the one that is looked at.
pub(super) fn ui(ui: &mut Ui, scene: &Scene<'_>, report: &RunReport, chosen: &mut Option<usize>) {
    ui.set_width(ui.available_width());
    ui.horizontal(|ui| {
        title(ui, "Timeline");
        let n = report.status.queries.len();
        let word = if n == 1 { "query" } else { "queries" };
        ui.label(soft(format!(
            "{} {word} so far, each as long as it took; click one for its answers",
            count(n as u64)
        )));
    });
    let queries = &report.status.queries;
    let started = scene.state.runs.iter().find(|row| row.run == report.status.run).map(|row| row.started_ms);
    let set: Vec<u64> = report.status.policies.iter().map(|policy| policy.set_at_ms).collect();
    let spans = started.and_then(|started| spans(queries, started, &set, scene.now_ms));
    let width = ui.available_width();
    let (rect, _) = ui.allocate_exact_size(vec2(width, BAR + FOOT), Sense::hover());
    let places = match &spans {
        Some(spans) => places(spans, width),
        // Without times they are all as long.
        None => {
            let each = width / queries.len().max(1) as f32;
            (0..queries.len()).map(|i| (each * i as f32, each * (i + 1) as f32)).collect()
        }
    };
    let asking = matches!(report.status.standing, Standing::Asking { .. } | Standing::Sealing { .. });
    for (i, (query, (from, to))) in queries.iter().zip(&places).enumerate() {
        let min = rect.min + vec2(*from, 0.0);
        let bar = Rect::from_min_size(min, vec2(to - from, BAR));
        let open = asking && i + 1 == queries.len();
        let span = spans.as_ref().map(|spans| spans[i]);
        if bar_ui(ui, query, bar, open, span, *chosen == Some(i)) {
            *chosen = if *chosen == Some(i) { None } else { Some(i) };
        }
    }
    if let Some((first, last)) = spans.as_ref().and_then(|spans| Some((spans.first()?.0, spans.last()?.1))) {
        let p = Palette::get(ui);
        let font = FontId::proportional(11.0);
        let at = |ms: u64| format!("{} {}", day(ms), clock(ms));
        ui.painter().text(rect.left_bottom(), Align2::LEFT_BOTTOM, at(first), font.clone(), p.soft);
        let end =
            if asking { format!("now, after {}", took(last - first)) } else { format!("{} UTC", at(last)) };
        ui.painter().text(rect.right_bottom(), Align2::RIGHT_BOTTOM, end, font, p.soft);
    }
    if let Some(query) = chosen.and_then(|i| queries.get(i)) {
        ui.separator();
        query_ui(ui, scene, report, query);
    }
}

/// What a query is for, as a colour: what is learnt, what is chosen by, what is read.
fn colour(p: &Palette, name: &str) -> Color32 {
    match name {
        "census" | "range" => p.node,
        "moments" | "spread" => p.front,
        "confidence" => p.force,
        "timings" => p.fixed,
        _ => p.draft,
    }
}

fn bar_ui(
    ui: &mut Ui,
    query: &QueryStatus,
    bar: Rect,
    open: bool,
    span: Option<(u64, u64)>,
    chosen: bool,
) -> bool {
    let p = Palette::get(ui);
    let response = ui.interact(bar, ui.scope_id().with(("query", query.query)), Sense::click());
    response.widget_info(|| {
        let text = format!("Query {} {}", query.query, query.name);
        egui::WidgetInfo::selected(egui::Role::Button, true, chosen, text)
    });
    let tint = colour(&p, &query.name);
    let void = query.withdrawn || query.superseded;
    let strength = match (void, chosen || response.hovered()) {
        (true, _) => 0.12,
        (false, false) => 0.34,
        (false, true) => 0.62,
    };
    let gap = if bar.width() > 3.0 * LEAST { 1.0 } else { 0.5 };
    let inner = bar.shrink2(vec2(gap, 0.0));
    let stroke = match (chosen, open, response.has_focus()) {
        (true, ..) | (_, _, true) => egui::Stroke::new(1.5, p.accent),
        (_, true, _) => egui::Stroke::new(1.5, p.warn),
        _ => egui::Stroke::NONE,
    };
    let fill = p.card.lerp_to_gamma(tint, strength);
    ui.painter().rect(inner, 3.0, fill, stroke, egui::StrokeKind::Inside);
    if void {
        let (a, b) = (inner.left_center(), inner.right_center());
        ui.painter().line_segment([a, b], egui::Stroke::new(1.0, p.soft));
    }
    let font = FontId::proportional(12.0);
    let galley = ui.painter().layout_no_wrap(query.name.clone(), font, p.ink);
    if galley.size().x + 8.0 < inner.width() {
        let at = pos2(inner.center().x - galley.size().x / 2.0, inner.center().y - galley.size().y / 2.0);
        ui.painter().galley(at, galley, p.ink);
    }
    let clicked = response.clicked();
    response.on_hover_ui(|ui| {
        ui.label(strong(format!("{} ({})", query.name, query.query)));
        if let Some((from, to)) = span {
            let end = if open { "now".to_owned() } else { clock(to) };
            ui.label(format!("{} to {end} UTC, {}", clock(from), took(to - from)));
        }
        ui.label(format!(
            "{} answered, {} declined",
            plural(query.answered.len(), "node"),
            query.declined.len()
        ));
        for line in remarks(query) {
            ui.label(soft(line));
        }
    });
    clicked
}

fn remarks(query: &QueryStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if query.withdrawn {
        lines.push("withdrawn, and asked again with a wider scale".to_owned());
    }
    if query.superseded {
        lines.push("of a snapshot before a contribution was removed; it counts no more".to_owned());
    }
    if let Some(earlier) = query.reused {
        lines.push(format!(
            "nobody was asked: the answers to {earlier} are counted again, without what was removed"
        ));
    }
    lines
}

fn query_ui(ui: &mut Ui, scene: &Scene<'_>, report: &RunReport, query: &QueryStatus) {
    let moved = report.nodes.iter().flat_map(|node| &node.traffic).filter(|t| t.query == query.query);
    let (up, down) = moved.fold((0, 0), |(up, down), t| (up + t.up, down + t.down));
    ui.label(strong(format!("{} ({})", query.name, query.query)));
    ui.label(format!(
        "{} answered, {} declined; {} came, {} went",
        plural(query.answered.len(), "node"),
        count(query.declined.len() as u64),
        bytes(up),
        bytes(down)
    ));
    for line in remarks(query) {
        ui.label(soft(line));
    }
    for declined in query.declined.iter().take(20) {
        widgets::line(
            ui,
            RichText::new(format!("{}: {}", scene.state.name(declined.node), declined.reason)).weak(),
        );
    }
    if query.declined.len() > 20 {
        ui.label(soft(format!("and {} more", query.declined.len() - 20)));
    }
}

#[cfg(test)]
mod tests {
    use exeunt_protocol::QueryId;

    use super::*;

    fn query(id: u32, closed_ms: Option<u64>) -> QueryStatus {
        QueryStatus {
            query: QueryId(id),
            name: "evaluate".to_owned(),
            withdrawn: false,
            superseded: false,
            reused: None,
            closed_ms,
            answered: Vec::new(),
            declined: Vec::new(),
        }
    }

    #[test]
    fn each_query_begins_when_the_one_before_it_closed() {
        let queries = [query(0, Some(1_200)), query(1, Some(1_500)), query(2, None)];
        assert_eq!(
            spans(&queries, 1_000, &[], 2_000),
            Some(vec![(1_000, 1_200), (1_200, 1_500), (1_500, 2_000)])
        );
        let unknown = [query(0, None), query(1, Some(9))];
        assert_eq!(spans(&unknown, 0, &[], 10), None);
        assert_eq!(spans(&[], 0, &[], 10), None);
    }

    #[test]
    fn a_rest_before_a_policy_was_set_is_no_part_of_its_query() {
        let queries = [query(0, Some(1_200)), query(1, Some(9_500))];
        assert_eq!(spans(&queries, 1_000, &[9_400], 10_000), Some(vec![(1_000, 1_200), (9_400, 9_500)]));
    }

    #[test]
    fn bars_fill_the_width_and_short_ones_can_be_pointed_at() {
        let places = places(&[(0, 1), (1, 1_000), (1_000, 1_001)], 300.0);
        assert!((places[2].1 - 300.0).abs() < 1e-3, "{places:?}");
        assert!(places.iter().all(|(from, to)| to - from >= LEAST), "{places:?}");
    }
}
