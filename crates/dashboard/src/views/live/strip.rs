//! Exits taken over time: counters that only grow, turned into samples per stretch of time.

use egui::{Align2, FontId, Rect, Sense, Ui, pos2, vec2};
use exeunt_protocol::operator::{LiveMoment, NodeLive};

use crate::format::{clock, count, day, percent};
use crate::theme::Palette;
use crate::widgets::share_colour;

/// Counting that began so shortly before the first report belongs to its stretch of time.
const BEGAN_MS: u64 = 600_000;

/// Samples by exit in equal stretches of time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Strip {
    /// From when until when, in milliseconds since 1970.
    pub(crate) range: (u64, u64),
    /// For each stretch, the samples that left at each exit.
    pub(crate) parts: Vec<Vec<f64>>,
}

/// The time that reports span; none where a single moment is known.
pub(crate) fn range<'a>(all: impl Iterator<Item = &'a NodeLive>) -> Option<(u64, u64)> {
    let ends = all.filter_map(|live| {
        let first = live.history.first()?;
        let began = live.counts.since_ms;
        let from = if first.at_ms.saturating_sub(began) <= BEGAN_MS { began } else { first.at_ms };
        Some((from.min(first.at_ms), live.history.last()?.at_ms))
    });
    let (from, to) = ends.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
    (to > from).then_some((from, to))
}

impl Strip {
    /// What these nodes did in that time, in so many stretches. What was counted between two reports is spread evenly
    /// over the time between them.
    pub(crate) fn new<'a>(
        all: impl Iterator<Item = &'a NodeLive>,
        exits: usize,
        range: (u64, u64),
        parts: usize,
    ) -> Self {
        let mut strip = Self { range, parts: vec![vec![0.0; exits]; parts] };
        for live in all {
            let began = live.counts.since_ms;
            let zero = LiveMoment { at_ms: began, left: vec![0; exits], sampled: 0, agreed: 0 };
            let early = live.history.first().filter(|first| first.at_ms.saturating_sub(began) <= BEGAN_MS);
            let moments = early.map(|_| &zero).into_iter().chain(&live.history);
            moments.clone().zip(moments.skip(1)).for_each(|(a, b)| strip.spread(a, b));
        }
        strip
    }

    fn spread(&mut self, a: &LiveMoment, b: &LiveMoment) {
        let (from, to) = self.range;
        let width = (to - from) as f64 / self.parts.len().max(1) as f64;
        let at = |ms: u64| ms.saturating_sub(from) as f64 / width;
        let (start, end) = (at(a.at_ms), at(b.at_ms));
        let last = self.parts.len().saturating_sub(1);
        let parts = (start as usize).min(last)..=(end as usize).min(last);
        for (i, part) in self.parts.iter_mut().enumerate().filter(|(i, _)| parts.contains(i)) {
            // The share of the time between the reports that lies in this stretch.
            let inside = if end > start {
                (end.min(i as f64 + 1.0) - start.max(i as f64)).max(0.0) / (end - start)
            } else {
                1.0
            };
            for ((sum, before), after) in part.iter_mut().zip(&a.left).zip(&b.left) {
                // A counter that fell began anew.
                let more = if after >= before { after - before } else { *after };
                *sum += more as f64 * inside;
            }
        }
    }

    /// The most samples in one stretch.
    fn most(&self) -> f64 {
        self.parts.iter().map(|part| part.iter().sum::<f64>()).fold(0.0, f64::max)
    }
}

/// How a strip is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Height {
    /// As many samples as there were.
    Samples,
    /// Every stretch as high as the others.
    Shares,
}

/// Draws a strip in a size; `name` is what an exit is called.
pub(crate) fn strip_ui(
    ui: &mut Ui,
    strip: &Strip,
    size: egui::Vec2,
    height: Height,
    label: &str,
    name: impl Fn(usize) -> String,
) {
    let p = Palette::get(ui);
    let (rect, response) = ui.allocate_exact_size(size, Sense::hover());
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, label));
    let most = strip.most();
    let painter = ui.painter();
    painter.rect_filled(rect, 2.0, p.well.gamma_multiply(0.6));
    if most <= 0.0 {
        return;
    }
    let width = rect.width() / strip.parts.len().max(1) as f32;
    let pointed = response.hover_pos().map(|at| ((at.x - rect.left()) / width) as usize);
    for (i, part) in strip.parts.iter().enumerate() {
        let all: f64 = part.iter().sum();
        let whole = match height {
            Height::Samples => most,
            Height::Shares => all,
        };
        if all <= 0.0 {
            continue;
        }
        let (left, mut bottom) = (rect.left() + width * i as f32, rect.bottom());
        let gap = if width > 4.0 { 1.0 } else { 0.0 };
        for (e, samples) in part.iter().enumerate() {
            let high = rect.height() * (samples / whole) as f32;
            let bar = Rect::from_min_max(pos2(left, bottom - high), pos2(left + width - gap, bottom));
            painter.rect_filled(bar, 0.0, share_colour(&p, e, part.len()));
            bottom -= high;
        }
        if pointed == Some(i) {
            let column = Rect::from_min_max(pos2(left, rect.top()), pos2(left + width, rect.bottom()));
            painter.rect_filled(column, 0.0, p.ink.gamma_multiply(0.12));
        }
    }
    if let Some((i, part)) = pointed.and_then(|i| Some((i, strip.parts.get(i)?))) {
        response.on_hover_ui_at_pointer(|ui| stretch_ui(ui, strip, i, part, name));
    }
}

fn stretch_ui(ui: &mut Ui, strip: &Strip, i: usize, part: &[f64], name: impl Fn(usize) -> String) {
    let (from, to) = strip.range;
    let step = (to - from) / strip.parts.len().max(1) as u64;
    let start = from + step * i as u64;
    ui.label(crate::widgets::strong(format!(
        "{} {} to {} UTC",
        day(start),
        clock(start),
        clock(start + step)
    )));
    let all: f64 = part.iter().sum();
    ui.label(crate::widgets::soft(format!("about {} samples", count(all.round() as u64))));
    if all <= 0.0 {
        return;
    }
    egui::Grid::new("stretch").num_columns(2).spacing([14.0, 2.0]).show(ui, |ui| {
        for (e, samples) in part.iter().enumerate().filter(|(_, samples)| **samples > 0.0) {
            ui.label(name(e));
            ui.label(percent(samples / all));
            ui.end_row();
        }
    });
}

/// The ends of a strip's time, below it.
pub(crate) fn ends_ui(ui: &mut Ui, strip: &Strip, width: f32) {
    let p = Palette::get(ui);
    let (rect, _) = ui.allocate_exact_size(vec2(width, 14.0), Sense::hover());
    let font = FontId::proportional(11.0);
    let (from, to) = strip.range;
    let at = |ms: u64| if to - from > 86_400_000 { format!("{} {}", day(ms), clock(ms)) } else { clock(ms) };
    let painter = ui.painter();
    painter.text(rect.left_center(), Align2::LEFT_CENTER, at(from), font.clone(), p.soft);
    painter.text(rect.right_center(), Align2::RIGHT_CENTER, format!("{} UTC", at(to)), font.clone(), p.soft);
    let most = format!("at most {} samples in a bar", count(strip.most().round() as u64));
    painter.text(rect.center(), Align2::CENTER_CENTER, most, font, p.soft);
}

#[cfg(test)]
mod tests {
    use exeunt_protocol::live::LiveCounts;
    use exeunt_protocol::{NodeId, PolicyVersion};

    use super::*;

    fn live(since_ms: u64, moments: &[(u64, [u64; 2])]) -> NodeLive {
        let run = "r-1".parse().expect("a run id");
        let moment = |(at_ms, left): &(u64, [u64; 2])| LiveMoment {
            at_ms: *at_ms,
            left: left.to_vec(),
            sampled: 0,
            agreed: 0,
        };
        NodeLive {
            node: NodeId::from_bytes([1; 16]),
            name: "a".to_owned(),
            at_ms: 0,
            counts: LiveCounts::new(run, PolicyVersion(1), 1, since_ms),
            cost: None,
            agreement: None,
            mean_ms: None,
            joules: None,
            joules_saved: None,
            drift: None,
            margin_drift: Vec::new(),
            history: moments.iter().map(moment).collect(),
        }
    }

    #[test]
    fn counters_become_samples_per_stretch() {
        // Counting began long before, so that the first report is only where the strip begins.
        let one = live(0, &[(10_000_000, [100, 0]), (10_001_000, [110, 20]), (10_004_000, [140, 20])]);
        let span = range([&one].into_iter()).expect("two moments");
        assert_eq!(span, (10_000_000, 10_004_000));
        let strip = Strip::new([&one].into_iter(), 2, span, 4);
        assert_eq!(strip.parts, [[10.0, 20.0], [10.0, 0.0], [10.0, 0.0], [10.0, 0.0]]);
    }

    #[test]
    fn what_was_counted_is_all_there_and_a_new_beginning_is_none_the_less() {
        let a = live(9_999_000, &[(10_000_500, [6, 0]), (10_003_000, [16, 4]), (10_004_000, [1, 1])]);
        let b = live(9_999_000, &[(10_001_000, [3, 3])]);
        let all = || [&a, &b].into_iter();
        let span = range(all()).expect("a time");
        assert_eq!(span, (9_999_000, 10_004_000));
        let strip = Strip::new(all(), 2, span, 7);
        let sum = |e: usize| strip.parts.iter().map(|part| part[e]).sum::<f64>();
        assert!((sum(0) - (16.0 + 1.0 + 3.0)).abs() < 1e-9 && (sum(1) - (4.0 + 1.0 + 3.0)).abs() < 1e-9);
        assert_eq!(range([&live(0, &[(10_000_000, [1, 1])])].into_iter()), None);
    }
}
