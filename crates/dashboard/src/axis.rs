//! The axis of cost: what it counts, and whether equal steps on it are equal differences or equal factors.

use serde::{Deserialize, Serialize};

/// What cost is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Share of the bare network's multiply-accumulates.
    #[default]
    Share,
    /// Milliseconds of a sample, as nodes measured them.
    Milliseconds,
}

impl Unit {
    /// In words, as a choice.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Share => "Share of MACs",
            Self::Milliseconds => "Milliseconds",
        }
    }

    /// The same where there is little room.
    pub(crate) const fn short(self) -> &'static str {
        match self {
            Self::Share => "MACs",
            Self::Milliseconds => "ms",
        }
    }

    /// What stands beside the axis.
    pub(crate) const fn caption(self) -> &'static str {
        match self {
            Self::Share => "mean cost, share of the bare network’s multiply-accumulates",
            Self::Milliseconds => "mean cost, milliseconds per sample as nodes measured them",
        }
    }

    /// A cost, short.
    pub(crate) fn text(self, cost: f64) -> String {
        match self {
            Self::Share => crate::format::percent(cost),
            Self::Milliseconds => crate::format::millis(cost),
        }
    }
}

/// The axis of cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CostAxis {
    /// What it counts.
    pub unit: Unit,
    /// Whether equal steps are equal factors. Most of what is decided lies at low cost, where a linear axis has no room.
    pub log: bool,
}

impl Default for CostAxis {
    fn default() -> Self {
        Self { unit: Unit::Share, log: true }
    }
}

/// Costs from here on have a place on a logarithmic axis; what is cheaper is drawn here.
const CHEAPEST: f64 = 1e-4;

impl CostAxis {
    /// Where a cost lies.
    pub(crate) fn place(self, cost: f64) -> f64 {
        if self.log { cost.max(CHEAPEST).log10() } else { cost }
    }

    /// The cost that lies there.
    pub(crate) fn cost(self, place: f64) -> f64 {
        if self.log { 10_f64.powf(place) } else { place }
    }

    /// Round costs between two places, about so many: places, and what stands there.
    pub(crate) fn marks(self, (low, high): (f64, f64), about: f64) -> Vec<(f64, String)> {
        let (from, to) = (self.cost(low), self.cost(high));
        let wide = self.log && to / from.max(CHEAPEST) > 4.0;
        let costs = if wide { factors(from, to, about) } else { steps(from, to, about) };
        let span = if wide { None } else { Some((to - from) / about) };
        costs.into_iter().map(|cost| (self.place(cost), self.tick(cost, span))).collect()
    }

    /// A cost at the axis, with as many digits as steps of that size need; or as its own size needs.
    fn tick(self, cost: f64, step: Option<f64>) -> String {
        let (value, unit) = match self.unit {
            Unit::Share => (cost * 100.0, "%"),
            Unit::Milliseconds => (cost, "ms"),
        };
        let scale = if self.unit == Unit::Share { 100.0 } else { 1.0 };
        let step = step.map_or(value, |step| step * scale).max(1e-9);
        // Steps are cut down to one digit, so that one more is never needed.
        let digits = (-(step.log10() + 1e-9).floor()).clamp(0.0, 4.0) as usize;
        format!("{value:.digits$} {unit}")
    }
}

/// Multiples of a round step.
pub(crate) fn steps(low: f64, high: f64, about: f64) -> Vec<f64> {
    let wanted = ((high - low) / about).max(1e-6);
    let power = 10_f64.powf(wanted.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|s| s * power).find(|s| *s >= wanted).unwrap_or(power * 10.0);
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

/// Round multiples of powers of ten: as many as there is room for.
fn factors(low: f64, high: f64, about: f64) -> Vec<f64> {
    const LEADING: [&[f64]; 4] = [
        &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
        &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
        &[1.0, 2.0, 5.0],
        &[1.0],
    ];
    let low = low.max(CHEAPEST);
    let inside = low * (1.0 - 1e-9)..=high * (1.0 + 1e-9);
    let with = |leading: &[f64]| -> Vec<f64> {
        let powers = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
        let all = powers.flat_map(|power| leading.iter().map(move |lead| lead * 10_f64.powi(power)));
        all.filter(|cost| inside.contains(cost)).collect()
    };
    let mut marks = with(LEADING[3]);
    for leading in LEADING[..3].iter().rev() {
        let more = with(leading);
        if more.len() as f64 <= about + 1.0 {
            marks = more;
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: CostAxis, from: f64, to: f64) -> Vec<String> {
        axis.marks((axis.place(from), axis.place(to)), 7.0).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn a_linear_axis_has_round_steps() {
        let axis = CostAxis { unit: Unit::Share, log: false };
        assert_eq!(texts(axis, 0.0, 1.0), ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]);
        assert_eq!(texts(axis, 0.1, 0.115), ["10.0 %", "10.5 %", "11.0 %", "11.5 %"]);
        let axis = CostAxis { unit: Unit::Milliseconds, log: false };
        assert_eq!(texts(axis, 0.0, 0.8), ["0.0 ms", "0.2 ms", "0.4 ms", "0.6 ms", "0.8 ms"]);
    }

    #[test]
    fn a_logarithmic_axis_has_round_factors() {
        let axis = CostAxis::default();
        assert_eq!(texts(axis, 0.05, 1.0), ["5 %", "10 %", "20 %", "50 %", "100 %"]);
        assert_eq!(texts(axis, 0.004, 1.0), ["0.5 %", "1 %", "2 %", "5 %", "10 %", "20 %", "50 %", "100 %"]);
        // Near by, it is nearly linear.
        assert_eq!(texts(axis, 0.10, 0.20), ["10 %", "12 %", "14 %", "16 %", "18 %", "20 %"]);
    }

    #[test]
    fn places_and_costs_belong_together() {
        for axis in [CostAxis::default(), CostAxis { log: false, ..CostAxis::default() }] {
            for cost in [0.001, 0.3, 1.0, 12.5] {
                assert!((axis.cost(axis.place(cost)) - cost).abs() < 1e-12);
            }
        }
        assert!(CostAxis::default().place(0.0).is_finite());
    }
}
