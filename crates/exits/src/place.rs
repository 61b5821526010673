//! Where to put exits: the taps that are expected to save most time.
//!
//! What is known of every place is handed in: how long it takes to get there, what a cut there costs, and how many
//! samples would leave. Samples are taken as nested: who leaves at an exit would leave at any that catches more. So with
//! exits `j = 1..N` that catch the shares `a_j`, and `A_j` the largest of the first `j`, a sample saves on average
//!
//! `Σ_j (A_j − A_{j−1}) · (T − t_j) − (1 − A_{j−1}) · (c_j + d_j)`
//!
//! with the network's time `T`, the time `t_j` until the tap, and the times `c_j` and `d_j` for cutting and deciding
//! there, which everybody pays who gets that far. The best of all choices is found exactly, by dynamic programming over
//! the places, the exits still to be placed and the share that has left.

use serde::{Deserialize, Serialize};

use crate::quantiles::Distribution;

/// Exits that are placed at most.
pub const MAX_PLACED: usize = 8;
/// Places that are chosen among at most.
pub const MAX_CANDIDATES: usize = 40;
/// Steps in which [`caught`] tries shares.
const STEPS: u32 = 256;

/// A place where samples could leave. Times are milliseconds of one sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// From the input to the tap, nothing cut on the way.
    pub until_ms: f64,
    /// What cutting the network here adds.
    pub cut_ms: f64,
    /// What deciding here takes.
    pub decision_ms: f64,
    /// Share of all samples that would leave here if this were the only exit.
    pub catches: f64,
}

impl Candidate {
    /// What this exit alone would save on average; below 0 where it costs more than that.
    #[must_use]
    pub fn saves_alone_ms(&self, network_ms: f64) -> f64 {
        self.gain(network_ms, 0.0)
    }

    /// What it saves on average when the share `left` has left before.
    fn gain(&self, network_ms: f64, left: f64) -> f64 {
        let leaves = (self.catches - left).max(0.0);
        leaves * (network_ms - self.until_ms) - (1.0 - left) * (self.cut_ms + self.decision_ms)
    }
}

/// Which places were chosen, and what became of each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    /// The chosen places, by number, in order.
    pub chosen: Vec<usize>,
    /// What a sample is expected to save on average.
    pub saves_ms: f64,
    /// Per place: how much more the chosen places save than the best choice without it (for those that are chosen), or
    /// with it (for the others).
    pub ahead_ms: Vec<f64>,
}

/// Why exits cannot be placed.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum PlaceError {
    /// Too many exits, or none.
    #[error("{found} exits to place, expected 1 to {MAX_PLACED}")]
    Exits {
        /// How many.
        found: usize,
    },
    /// Fewer places than exits.
    #[error("{found} places to leave, expected at least {expected}, one for each exit")]
    TooFew {
        /// Places there are.
        found: usize,
        /// Exits to place.
        expected: usize,
    },
    /// More places than are looked at.
    #[error("{found} places to choose among, expected at most {MAX_CANDIDATES}")]
    TooMany {
        /// Places there are.
        found: usize,
    },
    /// A time or a share makes no sense.
    #[error("place {place}: {what} is {found}, expected {expected}")]
    Value {
        /// The place, from 0.
        place: usize,
        /// Which number.
        what: &'static str,
        /// Its value.
        found: f64,
        /// What it may be.
        expected: &'static str,
    },
}

/// Chooses `exits` of the `candidates`, which are in the order the network reaches them.
///
/// # Errors
/// See [`PlaceError`].
pub fn place(network_ms: f64, candidates: &[Candidate], exits: usize) -> Result<Placement, PlaceError> {
    check(network_ms, candidates, exits)?;
    let search = Search { network_ms, candidates };
    let (saves_ms, chosen) = search.best(exits, |_| Wish::Open);
    let ahead = |place: usize| {
        let other = if chosen.contains(&place) { Wish::Without } else { Wish::With };
        let (saves, _) = search.best(exits, |at| if at == place { other } else { Wish::Open });
        // Where every place is needed there is no choice without it.
        if saves.is_finite() { saves_ms - saves } else { 0.0 }
    };
    let ahead_ms = (0..candidates.len()).map(ahead).collect();
    Ok(Placement { chosen, saves_ms, ahead_ms })
}

fn check(network_ms: f64, candidates: &[Candidate], exits: usize) -> Result<(), PlaceError> {
    if exits == 0 || exits > MAX_PLACED {
        return Err(PlaceError::Exits { found: exits });
    }
    let found = candidates.len();
    if found > MAX_CANDIDATES {
        return Err(PlaceError::TooMany { found });
    }
    if found < exits {
        return Err(PlaceError::TooFew { found, expected: exits });
    }
    for (place, candidate) in candidates.iter().enumerate() {
        let Candidate { until_ms, cut_ms, decision_ms, catches } = *candidate;
        let times = [("the time until it", until_ms), ("its cut", cut_ms), ("its decision", decision_ms)];
        for (what, found) in times.into_iter().chain([("the network's time", network_ms)]) {
            if !(found.is_finite() && found >= 0.0) {
                return Err(PlaceError::Value { place, what, found, expected: "a time of at least 0 ms" });
            }
        }
        if !(0.0..=1.0).contains(&catches) {
            let what = "what it catches";
            return Err(PlaceError::Value { place, what, found: catches, expected: "a share of 0 to 1" });
        }
    }
    Ok(())
}

/// What is asked of one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Open,
    With,
    Without,
}

struct Search<'a> {
    network_ms: f64,
    candidates: &'a [Candidate],
}

impl Search<'_> {
    /// The most that exactly `exits` places save, and which they are; `-∞` where the wishes leave too few.
    fn best(&self, exits: usize, wish: impl Fn(usize) -> Wish) -> (f64, Vec<usize>) {
        let places = self.candidates.len();
        // `saves[place][to_place][left]`: the most that can still be saved at `place` and after it, with `to_place` exits
        // to place, when what has left is what place `left` catches; `places` stands for nobody.
        let mut saves = vec![vec![vec![f64::NEG_INFINITY; places + 1]; exits + 1]; places + 1];
        saves[places][0] = vec![0.0; places + 1];
        for place in (0..places).rev() {
            for to_place in 0..=exits {
                for left in 0..=places {
                    let (skip, take) = self.options(&saves[place + 1], place, to_place, left, wish(place));
                    saves[place][to_place][left] = skip.max(take);
                }
            }
        }
        let (mut chosen, mut left) = (Vec::new(), places);
        for place in 0..places {
            let to_place = exits - chosen.len();
            let (skip, take) = self.options(&saves[place + 1], place, to_place, left, wish(place));
            // Of equal choices the one that leaves earlier.
            if take >= skip && take.is_finite() {
                chosen.push(place);
                left = self.after(left, place);
            }
        }
        (saves[0][exits][places], chosen)
    }

    /// What is saved from `place` on without and with an exit there.
    fn options(
        &self,
        next: &[Vec<f64>],
        place: usize,
        to_place: usize,
        left: usize,
        wish: Wish,
    ) -> (f64, f64) {
        let skip = if wish == Wish::With { f64::NEG_INFINITY } else { next[to_place][left] };
        let take = match to_place.checked_sub(1) {
            Some(fewer) if wish != Wish::Without => {
                let gain = self.candidates[place].gain(self.network_ms, self.share(left));
                gain + next[fewer][self.after(left, place)]
            }
            _ => f64::NEG_INFINITY,
        };
        (skip, take)
    }

    fn share(&self, left: usize) -> f64 {
        self.candidates.get(left).map_or(0.0, |candidate| candidate.catches)
    }

    /// Who has left once `place` was passed.
    fn after(&self, left: usize, place: usize) -> usize {
        if self.candidates[place].catches > self.share(left) { place } else { left }
    }
}

/// What an exit is taken to catch where nothing is known: as large a share of the samples as the share of the network's
/// time that has passed. It says no more than that later exits catch more, and spreads exits evenly over the time, apart
/// from what cuts cost.
#[must_use]
pub fn caught_by_depth(until_ms: f64, network_ms: f64) -> f64 {
    if network_ms > 0.0 { (until_ms / network_ms).clamp(0.0, 1.0) } else { 0.0 }
}

/// The largest share of samples that may leave at an exit, the surest first, for at most `max_drop` of all samples to be
/// lost, by the margins on the calibration part. They are lost against the network, whose accuracy on those that leave is
/// not known: on the share `s` of the surest it is taken as `1 − (1 − accuracy)·s`, which is right where nobody and where
/// everybody leaves.
#[must_use]
pub fn caught(margins: &Distribution, network_accuracy: f64, max_drop: f64) -> f64 {
    let samples = margins.samples() as f64;
    let shares = (1..=STEPS).rev().map(|step| f64::from(step) / f64::from(STEPS));
    let lost = |share: f64| {
        let (right, _) = margins.between(0.0, share);
        share * (1.0 - (1.0 - network_accuracy) * share) - right / samples
    };
    // Rounding alone must not refuse a share that loses nothing.
    shares.into_iter().find(|share| samples > 0.0 && lost(*share) <= max_drop + 1e-12).unwrap_or(0.0)
}

/// What is caught at any depth, from what is known at some: on the straight line between them, from nothing at the input
/// to everything at the output. `known` is pairs of depth (0..1, ascending) and share.
#[must_use]
pub fn caught_between(known: &[(f64, f64)], depth: f64) -> f64 {
    let after = known.iter().position(|(at, _)| *at >= depth);
    let (x1, y1) = after.map_or((1.0, 1.0), |i| known[i]);
    let before = after.unwrap_or(known.len()).checked_sub(1);
    let (x0, y0) = before.map_or((0.0, 0.0), |i| known[i]);
    let along = if x1 > x0 { ((depth - x0) / (x1 - x0)).clamp(0.0, 1.0) } else { 1.0 };
    (y0 + along * (y1 - y0)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(until_ms: f64, cut_ms: f64, catches: f64) -> Candidate {
        Candidate { until_ms, cut_ms, decision_ms: 0.0, catches }
    }

    /// What a choice saves, counted sample by sample rather than by the formula.
    fn saved(network_ms: f64, candidates: &[Candidate], chosen: &[usize]) -> f64 {
        let (mut left, mut spent, mut paid) = (0.0_f64, 0.0, 0.0);
        for &place in chosen {
            let candidate = candidates[place];
            paid += candidate.cut_ms + candidate.decision_ms;
            let leaves = (candidate.catches - left).max(0.0);
            spent += leaves * (candidate.until_ms + paid);
            left += leaves;
        }
        network_ms - spent - (1.0 - left) * (network_ms + paid)
    }

    fn subsets(places: usize, exits: usize) -> Vec<Vec<usize>> {
        let all = (0_u32..1 << places).filter(|bits| bits.count_ones() as usize == exits);
        all.map(|bits| (0..places).filter(|place| bits >> place & 1 == 1).collect()).collect()
    }

    proptest! {
        #[test]
        fn the_best_choice_is_what_brute_force_finds(
            rows in proptest::collection::vec((0.0..10.0_f64, 0.0..0.5_f64, 0.0..0.1_f64, 0.0..=1.0_f64), 1..9),
            exits in 1_usize..5,
        ) {
            let mut candidates: Vec<Candidate> = rows
                .into_iter()
                .map(|(until_ms, cut_ms, decision_ms, catches)| Candidate { until_ms, cut_ms, decision_ms, catches })
                .collect();
            candidates.sort_by(|a, b| a.until_ms.total_cmp(&b.until_ms));
            prop_assume!(exits <= candidates.len());
            let choices = subsets(candidates.len(), exits);
            let of = |keep: &dyn Fn(&Vec<usize>) -> bool| {
                let kept = choices.iter().filter(|choice| keep(choice));
                kept.map(|choice| saved(10.0, &candidates, choice)).fold(f64::NEG_INFINITY, f64::max)
            };
            let placement = place(10.0, &candidates, exits).unwrap();
            let best = of(&|_| true);
            prop_assert!((placement.saves_ms - best).abs() < 1e-9, "{} and {best}", placement.saves_ms);
            prop_assert!((saved(10.0, &candidates, &placement.chosen) - best).abs() < 1e-9);
            prop_assert_eq!(placement.chosen.len(), exits);
            for (i, ahead) in placement.ahead_ms.iter().enumerate() {
                let chosen = placement.chosen.contains(&i);
                let other = of(&|choice| choice.contains(&i) != chosen);
                let expected = if other.is_finite() { best - other } else { 0.0 };
                prop_assert!((ahead - expected).abs() < 1e-9, "place {i}: {ahead} and {expected}");
            }
        }
    }

    #[test]
    fn a_cheap_boundary_beats_a_dear_one_beside_it() {
        let candidates = [at(3.0, 0.0, 0.3), at(5.0, 1.0, 0.5), at(5.2, 0.0, 0.52), at(8.0, 0.0, 0.8)];
        assert_eq!(place(10.0, &candidates, 1).unwrap().chosen, [2]);
        let placement = place(10.0, &candidates, 4).unwrap();
        assert_eq!(placement.chosen, [0, 1, 2, 3]);
        assert_eq!(placement.ahead_ms, [0.0; 4], "there was no choice");
    }

    #[test]
    fn the_largest_problem_is_solved_at_once() {
        let candidates: Vec<Candidate> = (0..MAX_CANDIDATES)
            .map(|i| at(i as f64 * 0.25, f64::from((i * 7 % 5) as u32) * 0.02, i as f64 / 40.0))
            .collect();
        let placement = place(10.0, &candidates, MAX_PLACED).unwrap();
        assert_eq!(placement.chosen.len(), MAX_PLACED);
        assert!(placement.chosen.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let one = [at(1.0, 0.0, 0.5)];
        assert_eq!(place(10.0, &one, 0), Err(PlaceError::Exits { found: 0 }));
        assert_eq!(place(10.0, &one, 2), Err(PlaceError::TooFew { found: 1, expected: 2 }));
        assert_eq!(place(10.0, &[one[0]; 41], 2), Err(PlaceError::TooMany { found: 41 }));
        let wrong = place(10.0, &[at(1.0, -0.5, 0.5)], 1).unwrap_err().to_string();
        assert_eq!(wrong, "place 0: its cut is -0.5, expected a time of at least 0 ms");
        let wrong = place(10.0, &[at(1.0, 0.5, 1.5)], 1).unwrap_err().to_string();
        assert_eq!(wrong, "place 0: what it catches is 1.5, expected a share of 0 to 1");
    }

    #[test]
    fn what_leaves_is_bounded_by_what_is_lost() {
        let margins = |right: [u64; 2], wrong: [u64; 2]| -> Distribution {
            serde_json::from_value(serde_json::json!({ "edges": [0.0], "right": right, "wrong": wrong }))
                .unwrap()
        };
        // The surer half is always right, the other half of the time; a network that is always right.
        let half = margins([25, 50], [25, 0]);
        assert_eq!(caught(&half, 1.0, 0.0), 0.5);
        assert!((caught(&half, 1.0, 0.05) - 0.6).abs() < 0.01);
        assert_eq!(caught(&half, 0.75, 0.0), 1.0, "as right as the network");
        assert_eq!(caught(&margins([0, 0], [0, 0]), 0.9, 0.01), 0.0);
        assert_eq!(caught(&margins([0, 0], [50, 50]), 0.9, 0.01), 1.0 / 128.0);
    }

    #[test]
    fn between_known_depths_the_line_is_straight() {
        let known = [(0.25, 0.5), (0.75, 0.9)];
        let depths = [0.0, 0.125, 0.25, 0.5, 0.75, 0.875, 1.0];
        let found = depths.map(|depth| caught_between(&known, depth));
        let expected = [0.0, 0.25, 0.5, 0.7, 0.9, 0.95, 1.0];
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
        assert_eq!(caught_between(&[], 0.3), 0.3);
    }
}
