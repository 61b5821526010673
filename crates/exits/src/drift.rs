//! Whether what inference sees still looks like what the policy was chosen on.
//!
//! Two things are compared, both as shares of a few bins: where samples leave, with where they left when the policy was
//! measured; and how sure the exits are, with the margins of the calibration part. The measure is the *population
//! stability index* `Σ (found − expected) · ln(found / expected)` over the bins, the sum of both Kullback–Leibler
//! divergences, with the thresholds that credit scoring has used for decades: 0.1 is worth a look, 0.25 is another
//! population.

use serde::{Deserialize, Serialize};

use crate::quantiles::Distribution;

/// Edges of the bins in which a node counts margins (log-odds). A margin on an edge belongs to the bin below it. Coarse
/// on purpose: enough to see a shift, too little to single out a sample.
pub const MARGIN_EDGES: [f64; 14] =
    [-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// Bins between and beside [`MARGIN_EDGES`].
pub const MARGIN_BINS: usize = MARGIN_EDGES.len() + 1;

/// From here on a stream is [`DriftLevel::Shifting`].
pub const SHIFTING: f64 = 0.1;
/// From here on it is [`DriftLevel::Drifted`].
pub const DRIFTED: f64 = 0.25;

/// Shares below this count as this much, so that one sample in a bin that was empty before is no catastrophe.
const SMALLEST_SHARE: f64 = 1e-3;

/// How far a stream is from what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriftLevel {
    /// Too few samples to tell.
    TooFew,
    /// As expected.
    Steady,
    /// Worth a look.
    Shifting,
    /// Another population.
    Drifted,
}

/// A stream compared with what was expected of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// The population stability index; at least 0.
    pub index: f64,
    /// Samples it was read from.
    pub samples: u64,
    /// How many it takes.
    pub needed: u64,
    /// What that means.
    pub level: DriftLevel,
}

impl Drift {
    /// Compares counts with the shares that were expected, bin by bin. `None` when there are not as many bins of both,
    /// none at all, or nothing was expected anywhere.
    ///
    /// By chance alone, the index over `B` bins and `n` samples is about χ² with `B − 1` degrees of freedom over `n`.
    /// It is judged from `150 + 25 (B − 1)` samples on, where a stream that has not changed is called shifting less than
    /// once in a thousand times.
    #[must_use]
    pub fn of(expected: &[f64], found: &[u64]) -> Option<Self> {
        let total: f64 = expected.iter().copied().filter(|share| share.is_finite() && *share > 0.0).sum();
        if expected.len() != found.len() || total <= 0.0 {
            return None;
        }
        let samples = found.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
        let needed = 150 + 25 * (expected.len() as u64 - 1);
        let index = match samples {
            0 => 0.0,
            n => expected
                .iter()
                .zip(found)
                .map(|(expected, found)| {
                    let share = |share: f64| {
                        if share.is_finite() { share.max(SMALLEST_SHARE) } else { SMALLEST_SHARE }
                    };
                    let (expected, found) = (share(expected / total), share(*found as f64 / n as f64));
                    (found - expected) * (found / expected).ln()
                })
                .sum(),
        };
        let level = match index {
            _ if samples < needed => DriftLevel::TooFew,
            index if index >= DRIFTED => DriftLevel::Drifted,
            index if index >= SHIFTING => DriftLevel::Shifting,
            _ => DriftLevel::Steady,
        };
        Some(Self { index, samples, needed, level })
    }
}

/// The bin of [`MARGIN_EDGES`] that a margin belongs to.
#[must_use]
pub fn margin_bin(margin: f64) -> usize {
    MARGIN_EDGES.partition_point(|edge| *edge < margin)
}

/// Shares of the samples of a distribution in the bins of [`MARGIN_EDGES`].
#[must_use]
pub fn margin_shares(of: &Distribution) -> [f64; MARGIN_BINS] {
    let mut shares = [0.0; MARGIN_BINS];
    let mut above = 0.0;
    for bin in (1..MARGIN_BINS).rev() {
        let beyond = of.fraction(MARGIN_EDGES[bin - 1]);
        shares[bin] = (beyond - above).max(0.0);
        above = beyond;
    }
    shares[0] = (1.0 - above).max(0.0);
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws `n` samples of the given shares from a fixed stream (SplitMix64).
    fn draw(shares: &[f64], n: u64, seed: u64) -> Vec<u64> {
        let mut counts = vec![0; shares.len()];
        let mut state = seed << 32;
        for _ in 0..n {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut x = state;
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let at = ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
            let mut sum = 0.0;
            let bin = shares.iter().position(|share| {
                sum += share;
                at < sum
            });
            counts[bin.unwrap_or(shares.len() - 1)] += 1;
        }
        counts
    }

    #[test]
    fn a_stream_that_has_not_changed_is_steady_and_another_one_is_not() {
        let shares = [0.5, 0.25, 0.15, 0.1];
        let needed = Drift::of(&shares, &[0; 4]).unwrap().needed;
        for seed in 0..1000 {
            let drift = Drift::of(&shares, &draw(&shares, needed, seed)).unwrap();
            assert!(drift.level <= DriftLevel::Steady, "seed {seed}: {drift:?}");
        }
        let level = |found: &[u64]| Drift::of(&shares, found).unwrap().level;
        assert_eq!(level(&[350, 260, 220, 170]), DriftLevel::Shifting);
        assert_eq!(level(&[100, 250, 300, 350]), DriftLevel::Drifted);
        assert_eq!(level(&[0, 0, 0, 1000]), DriftLevel::Drifted);
    }

    #[test]
    fn few_samples_say_nothing_and_nonsense_has_no_answer() {
        let few = Drift::of(&[0.9, 0.1], &[0, 50]).unwrap();
        assert_eq!((few.level, few.needed), (DriftLevel::TooFew, 175));
        assert!(few.index > DRIFTED);
        assert_eq!(Drift::of(&[0.5, 0.5], &[0, 0]).unwrap().index, 0.0);
        assert_eq!(Drift::of(&[0.5], &[1, 2]), None);
        assert_eq!(Drift::of(&[], &[]), None);
        assert_eq!(Drift::of(&[0.0, f64::NAN], &[1, 2]), None);
        assert!(Drift::of(&[1.0, 0.0], &[1000, 0]).unwrap().index.abs() < 1e-9);
    }

    #[test]
    fn margins_fall_into_the_bins_that_the_calibration_is_read_in() {
        assert_eq!([f64::NEG_INFINITY, -4.0, 0.0, 1e-9, 128.0, 1e300].map(margin_bin), [0, 0, 4, 5, 13, 14]);
        let json = serde_json::json!({ "edges": [-1.0, 0.0, 4.0, 8.0], "right": [0, 1, 4, 3, 0], "wrong": [1, 1, 0, 0, 0] });
        let shares = margin_shares(&serde_json::from_value(json).unwrap());
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        // Half of what lies between 0 and 4 is above 2, and everything above 4 is below 8.
        assert!((shares[8] - 0.2).abs() < 1e-12, "{shares:?}");
        assert!((shares[9] - 0.3).abs() < 1e-12, "{shares:?}");
        assert_eq!(shares[10..], [0.0; 5]);
    }
}
