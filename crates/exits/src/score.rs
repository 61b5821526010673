//! From scores to a class and a margin, and the two inner loops that scores come from.

use serde::{Deserialize, Serialize};

use crate::{Rule, Unavailable};

/// Margins are finite up to here. A margin beyond, such as that of the only class there is, becomes this: it leaves
/// under every finite threshold below, and arithmetic on thresholds stays finite.
pub const MARGIN_LIMIT: f64 = 1e12;

/// What an exit says about one sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The predicted class.
    pub class: u32,
    /// The log-odds of the best score, `s₁ − logsumexp(the others)` (METHOD, "Three facts"): within
    /// ±[`MARGIN_LIMIT`], or `−∞` where no decision can be made. A sample leaves where its margin is above the
    /// threshold, so `−∞` never leaves.
    pub margin: f64,
}

impl Decision {
    /// The decision that never leaves: there is no class with a mean, or the activation is not finite.
    pub(crate) fn stay(class: u32) -> Self {
        Self { class, margin: f64::NEG_INFINITY }
    }

    /// `max softmax` of the scores, in `[0, 1]`: the margin on a scale for showing. It saturates where margins still
    /// differ, so nothing is decided by it.
    #[must_use]
    pub fn confidence(self) -> f64 {
        1.0 / (1.0 + (-self.margin).exp())
    }
}

/// Why an exit cannot decide.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DecideError {
    /// The exit does not have this rule.
    #[error("rule {rule} is not available: {reason}")]
    Unavailable {
        /// The rule asked for.
        rule: Rule,
        /// Why the exit does not have it.
        reason: Unavailable,
    },
    /// The activation is not of the exit's dimension.
    #[error("the activation has {found} numbers, expected {expected}")]
    Dimension {
        /// Numbers in the activation.
        found: usize,
        /// The exit's `D`.
        expected: usize,
    },
    /// A slice for results is not as long as the batch.
    #[error("the slice for {what} has {found} elements, expected {expected}")]
    Rows {
        /// Which slice: `decisions`.
        what: &'static str,
        /// Elements it has.
        found: usize,
        /// Rows of the batch.
        expected: usize,
    },
}

/// The log-odds of the best score, `s₁ − logsumexp(the others)`, without overflow or cancellation (METHOD,
/// "Three facts").
///
/// A score of `−∞` takes no part. With one score taking part the margin is [`MARGIN_LIMIT`]; with none, or with a
/// score that is NaN or `+∞`, it is `−∞`.
#[must_use]
pub fn margin(scores: &[f64]) -> f64 {
    if scores.iter().any(|s| s.is_nan() || *s == f64::INFINITY) {
        return f64::NEG_INFINITY;
    }
    let Some(best) = first_largest(scores) else {
        return f64::NEG_INFINITY;
    };
    let (before, after) = (&scores[..best], &scores[best + 1..]);
    let others = || before.iter().chain(after).copied();
    let second = others().fold(f64::NEG_INFINITY, f64::max);
    if second == f64::NEG_INFINITY {
        return MARGIN_LIMIT;
    }
    let sum: f64 = others().map(|s| relative_odds(s - second)).sum();
    (scores[best] - second - sum.ln()).clamp(-MARGIN_LIMIT, MARGIN_LIMIT)
}

/// `exp(difference)` for a difference of at most 0. What lies below 2⁻⁷² is left out: beside the second best's 1 it
/// would be lost in rounding, and with a thousand classes most are there.
fn relative_odds(difference: f64) -> f64 {
    if difference < -50.0 { 0.0 } else { difference.exp() }
}

/// The lowest index of the largest value above `−∞`.
fn first_largest(values: &[f64]) -> Option<usize> {
    let mut best = None;
    let mut largest = f64::NEG_INFINITY;
    for (i, &value) in values.iter().enumerate() {
        if value > largest {
            (best, largest) = (Some(i), value);
        }
    }
    best
}

/// The decision where the class is that of the largest score; ties go to the lowest id.
pub(crate) fn decide_by_score(scores: &[f64]) -> Decision {
    match first_largest(scores) {
        Some(class) => Decision { class: class_id(class), margin: margin(scores) },
        None => Decision::stay(0),
    }
}

/// The decision of class means (METHOD, "Early Exit Class Means", step 3): the class is that of the smallest
/// distance, the margin belongs to the scores `−d/δ`. The two can name different classes where spreads differ.
///
/// `distances` holds `+∞` for a class without a mean, and is overwritten by the scores.
pub(crate) fn decide_by_distance(distances: &mut [f64], spreads: &[f64]) -> Decision {
    let mut nearest = 0;
    let mut smallest = f64::INFINITY;
    for (class, distance) in distances.iter().enumerate() {
        if *distance < smallest {
            (nearest, smallest) = (class, *distance);
        }
    }
    for (distance, spread) in distances.iter_mut().zip(spreads) {
        *distance = if *distance == f64::INFINITY { f64::NEG_INFINITY } else { -*distance / spread };
    }
    Decision { class: class_id(nearest), margin: margin(distances) }
}

/// A head has at most 2³² classes, checked when it is made.
pub(crate) fn class_id(class: usize) -> u32 {
    u32::try_from(class).unwrap_or(u32::MAX)
}

/// Lanes of a sum: wide enough for every instruction set, and the same on all of them, so that the order of
/// additions does not depend on the machine.
const LANES: usize = 8;

/// `‖z − m‖²` in double precision, in a fixed order.
pub(crate) fn squared_distance(z: &[f64], m: &[f32]) -> f64 {
    in_lanes(z, m, |z, m| {
        let difference = z - m;
        difference * difference
    })
}

/// `z·w` in double precision, in a fixed order.
pub(crate) fn dot(z: &[f64], w: &[f32]) -> f64 {
    in_lanes(z, w, |z, w| z * w)
}

#[inline(always)]
fn in_lanes(z: &[f64], m: &[f32], term: impl Fn(f64, f64) -> f64) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (z_chunks, z_rest) = z.as_chunks::<LANES>();
    let (m_chunks, m_rest) = m.as_chunks::<LANES>();
    for (z, m) in z_chunks.iter().zip(m_chunks) {
        for ((lane, &z), &m) in lanes.iter_mut().zip(z).zip(m) {
            *lane += term(z, f64::from(m));
        }
    }
    for ((lane, &z), &m) in lanes.iter_mut().zip(z_rest).zip(m_rest) {
        *lane += term(z, f64::from(m));
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (b + f)) + ((c + g) + (d + h))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NEVER: f64 = f64::NEG_INFINITY;

    #[test]
    fn the_margin_is_the_log_odds_of_the_softmax() {
        let scores = [0.3, 1.7, -0.4, 0.9];
        let sum: f64 = scores.iter().map(|s: &f64| s.exp()).sum();
        let p = 1.7_f64.exp() / sum;
        assert!((margin(&scores) - (p / (1.0 - p)).ln()).abs() < 1e-12);
        let decision = decide_by_score(&scores);
        assert_eq!(decision.class, 1);
        assert!((decision.confidence() - p).abs() < 1e-12);
    }

    #[test]
    fn margins_differ_where_a_softmax_is_one() {
        // In single precision both softmaxes are exactly 1.
        let (near, far) = (margin(&[0.0, 90.0]), margin(&[0.0, 900.0]));
        assert_eq!((near, far), (90.0, 900.0));
        // Far beyond what `exp` can hold.
        assert_eq!(margin(&[-1e6, 2e6, -1e6]), 3e6 - 2.0_f64.ln());
    }

    #[test]
    fn equal_scores_have_the_odds_of_a_guess() {
        assert!((margin(&[4.0; 1000]) + 999.0_f64.ln()).abs() < 1e-12);
        assert_eq!(decide_by_score(&[4.0; 3]).class, 0);
        assert_eq!(decide_by_distance(&mut [2.0; 3], &[1.0; 3]).class, 0);
    }

    #[test]
    fn margins_that_have_no_odds() {
        assert_eq!(margin(&[]), NEVER);
        assert_eq!(margin(&[NEVER, NEVER]), NEVER);
        assert_eq!(margin(&[NEVER, 3.0]), MARGIN_LIMIT);
        assert_eq!(margin(&[3.0]), MARGIN_LIMIT);
        assert_eq!(margin(&[-1e300, 1e300]), MARGIN_LIMIT);
        assert_eq!(margin(&[f64::NAN, 3.0]), NEVER);
        assert_eq!(margin(&[f64::INFINITY, 3.0]), NEVER);
        assert_eq!(Decision::stay(2).confidence(), 0.0);
    }

    #[test]
    fn the_nearest_class_wins_even_where_another_scores_higher() {
        // Distance 2 of spread 1 against distance 3 of spread 6: scores −2 and −0.5.
        let decision = decide_by_distance(&mut [2.0, 3.0], &[1.0, 6.0]);
        assert_eq!(decision.class, 0);
        assert_eq!(decision.margin, 1.5);
    }

    proptest! {
        #[test]
        fn a_margin_ignores_order_shift_and_absent_classes(
            mut scores in prop::collection::vec(-60.0..60.0_f64, 2..12),
            shift in -1e3..1e3_f64,
            rotate in 0..12_usize,
        ) {
            let expected = margin(&scores);
            let count = scores.len();
            scores.rotate_left(rotate % count);
            scores.iter_mut().for_each(|s| *s += shift);
            scores.push(NEVER);
            prop_assert!((margin(&scores) - expected).abs() < 1e-9);
        }

        #[test]
        fn loops_agree_with_plain_sums(
            pairs in prop::collection::vec((-10.0..10.0_f32, -10.0..10.0_f32), 0..70),
        ) {
            let z: Vec<f64> = pairs.iter().map(|p| f64::from(p.0)).collect();
            let m: Vec<f32> = pairs.iter().map(|p| p.1).collect();
            let plain = |term: fn(f64, f64) -> f64| -> f64 {
                pairs.iter().map(|p| term(f64::from(p.0), f64::from(p.1))).sum()
            };
            prop_assert!((dot(&z, &m) - plain(|a, b| a * b)).abs() < 1e-9);
            prop_assert!((squared_distance(&z, &m) - plain(|a, b| (a - b).powi(2))).abs() < 1e-9);
        }
    }
}
