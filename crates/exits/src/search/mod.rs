//! Finding the policies that are worth having (METHOD, "Search").
//!
//! The search sees the fleet through `Evaluate` queries alone: it proposes some hundred policies, reads what each
//! would have done on the calibration part, and proposes others around the best. A policy is varied on a grid of
//! fractions of the samples; its thresholds are the quantiles there and are kept as raw values.
//!
//! Everything follows from the options and the answers, so that a search can be gone through again.

mod candidate;
mod front;
mod seeds;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::cost::CostModel;
use crate::curve::{Curve, CurvePoint, read_points, static_line};
use crate::policy::Policy;
use crate::quantiles::Quantiles;
use crate::tally::TallyView;
use candidate::{Candidate, Ground};
use front::{Found, Front, thinned};

/// How policies are searched for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchOptions {
    /// Rounds at most, the first included.
    pub rounds: usize,
    /// Policies per round at most.
    pub batch: usize,
    /// Fractions of the samples that thresholds are tried at.
    pub levels: u16,
    /// The search ends when the area under the front grows by less than this, as a share of itself, twice in a row.
    pub tolerance: f64,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self { rounds: 12, batch: 1500, levels: 256, tolerance: 1e-4 }
    }
}

/// Points of the front around which a round proposes.
const PARENTS: usize = 64;

/// A search that waits for the answer to what it proposed, or has ended.
#[derive(Clone, Debug)]
pub struct Search {
    options: SearchOptions,
    cost: CostModel,
    quantiles: Quantiles,
    ground: Ground,
    tried: BTreeSet<Candidate>,
    front: Front,
    /// The bare network and the static cuts.
    fixed: Vec<CurvePoint>,
    open: Vec<Candidate>,
    policies: Vec<Policy>,
    round: usize,
    quiet: usize,
}

impl Search {
    /// A search with its first proposals: the bare network, every static cut, and sweeps of quantiles.
    #[must_use]
    pub fn new(options: SearchOptions, cost: CostModel, quantiles: Quantiles) -> Self {
        let ground = Ground { levels: options.levels.max(1), rules: seeds::rules(&quantiles) };
        let mut search = Self {
            options,
            cost,
            ground,
            tried: BTreeSet::new(),
            front: Front::default(),
            fixed: Vec::new(),
            open: Vec::new(),
            policies: Vec::new(),
            round: 0,
            quiet: 0,
            quantiles,
        };
        let certain = seeds::fixed(&search.ground);
        let most = search.options.batch.max(certain.len());
        let seeds = seeds::sweeps(&search.ground, &search.quantiles);
        search.propose(certain.into_iter().chain(seeds), most);
        search
    }

    /// The proposals whose answer is awaited. None: the search has ended.
    #[must_use]
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// The round that is open, from 0.
    #[must_use]
    pub fn round(&self) -> usize {
        self.round
    }

    /// Takes the answer to the open proposals, and proposes more or ends.
    pub fn absorb(&mut self, tally: &TallyView) {
        let policies = std::mem::take(&mut self.policies);
        let points = read_points(&self.cost, &policies, tally);
        let fixed = |point: &&CurvePoint| point.policy.is_off() || point.policy.as_static_cut().is_some();
        self.fixed.extend(points.iter().filter(fixed).cloned());
        let open = std::mem::take(&mut self.open);
        let before = self.front.area();
        let found = open.into_iter().zip(points).map(|(candidate, point)| Found { candidate, point });
        // Dearer than the bare network is not what exits are for.
        self.front.add(found.filter(|found| found.point.cost <= 1.0));
        let grown = self.front.area() - before;
        self.quiet = if grown < self.options.tolerance * before { self.quiet + 1 } else { 0 };
        self.round += 1;
        if self.quiet < 2 && self.round < self.options.rounds {
            self.next_round();
        }
    }

    fn next_round(&mut self) {
        let parents = self.front.spread(PARENTS, self.round);
        let parents: Vec<&Candidate> = parents.iter().map(|i| &self.front.found()[*i].candidate).collect();
        let mut moves = Vec::new();
        let coarse = (self.ground.levels >> (self.round + 2).min(15)).max(1);
        for pair in parents.windows(2) {
            self.ground.between(pair[0], pair[1], &mut moves);
        }
        for parent in &parents {
            self.ground.switches(parent, &mut moves);
            for step in [coarse, (coarse / 4).max(1), 1] {
                self.ground.steps(parent, step, &mut moves);
            }
            self.ground.pairs(parent, coarse, &mut moves);
        }
        self.propose(moves, self.options.batch);
    }

    /// Opens those of the candidates that were not tried before. Where they are too many, a fixed shuffle decides, so
    /// that no exit, no move and no part of the front is always last in the queue; the first round keeps its order.
    fn propose(&mut self, candidates: impl IntoIterator<Item = Candidate>, most: usize) {
        let mut seen = BTreeSet::new();
        let mut fresh: Vec<Candidate> = candidates
            .into_iter()
            .filter(|candidate| !self.tried.contains(candidate) && seen.insert(candidate.clone()))
            .collect();
        if self.round > 0 && fresh.len() > most {
            let key = |i: usize| mixed((self.round as u64) << 32 | i as u64);
            let mut keyed: Vec<(u64, Candidate)> =
                fresh.into_iter().enumerate().map(|(i, candidate)| (key(i), candidate)).collect();
            keyed.sort_by_key(|(key, _)| *key);
            fresh = keyed.into_iter().map(|(_, candidate)| candidate).collect();
        }
        fresh.truncate(most);
        self.tried.extend(fresh.iter().cloned());
        self.policies =
            fresh.iter().map(|candidate| candidate.policy(&self.quantiles, self.ground.levels)).collect();
        self.open = fresh;
    }

    /// The best that was found: nothing tried is at least as cheap and as right as a point of it.
    #[must_use]
    pub fn front(&self) -> Curve {
        Curve::front(self.front.found().iter().map(|found| found.point.clone()).collect())
    }

    /// The static line on the calibration part.
    #[must_use]
    pub fn static_line(&self) -> Curve {
        static_line(&self.fixed)
    }

    /// The bare network and every static cut, on the calibration part.
    #[must_use]
    pub fn fixed(&self) -> &[CurvePoint] {
        &self.fixed
    }

    /// Policies of the front that cost less than the bare network, at most `count` of them that draw nearly the same
    /// curve, by rising cost; then the bare network.
    #[must_use]
    pub fn thinned(&self, count: usize) -> Vec<CurvePoint> {
        let cheaper = self.front.found().iter().map(|found| &found.point).filter(|point| point.cost < 1.0);
        let cheaper: Vec<&CurvePoint> = cheaper.collect();
        let coordinates: Vec<(f64, f64)> = cheaper.iter().map(|point| (point.cost, point.accuracy)).collect();
        let kept = thinned(&coordinates, count.saturating_sub(1)).into_iter().map(|i| cheaper[i].clone());
        kept.chain(self.fixed.iter().find(|point| point.policy.is_off()).cloned()).collect()
    }
}

/// SplitMix64's finaliser: a fixed permutation of 64-bit numbers without visible order.
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
