//! What a sample costs under a policy.

use exeunt_stats::Macs;
use serde::{Deserialize, Serialize};

use crate::policy::Policy;

/// The costs of a network with exits, in multiply-accumulates (METHOD, "Words").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CostModel {
    /// The bare network.
    pub network: Macs,
    /// Per exit: the network up to its tap.
    pub until: Vec<Macs>,
    /// Per exit: deciding there, `K · D` by either rule.
    pub head: Vec<Macs>,
}

/// Why costs make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CostError {
    /// Not one cost per exit.
    #[error("costs for {found} exits, expected {expected}")]
    Exits {
        /// Entries of `until` or `head`.
        found: usize,
        /// Exits of the run.
        expected: usize,
    },
    /// Shares of nothing mean nothing.
    #[error("a network of 0 MACs, expected at least 1")]
    FreeNetwork,
    /// Costs until the taps fall, or pass the network's.
    #[error("the network costs {found} until exit {exit}, expected {at_least} to {at_most}")]
    Order {
        /// The exit, from 0.
        exit: usize,
        /// MACs until its tap.
        found: u64,
        /// MACs until the exit before it.
        at_least: u64,
        /// MACs of the whole network.
        at_most: u64,
    },
}

impl CostModel {
    /// Checks that there is one cost per exit and that costs rise along the network.
    ///
    /// # Errors
    /// See [`CostError`].
    pub fn check(&self, exits: usize) -> Result<(), CostError> {
        for found in [self.until.len(), self.head.len()] {
            if found != exits {
                return Err(CostError::Exits { found, expected: exits });
            }
        }
        if self.network == Macs::ZERO {
            return Err(CostError::FreeNetwork);
        }
        let mut before = Macs::ZERO;
        for (exit, until) in self.until.iter().enumerate() {
            if *until < before || *until > self.network {
                return Err(CostError::Order {
                    exit,
                    found: until.get(),
                    at_least: before.get(),
                    at_most: self.network.get(),
                });
            }
            before = *until;
        }
        Ok(())
    }

    /// MACs of a sample that left at exit `left_at` (from 0); one that left nowhere pays for the whole network.
    /// Every exit in use that it visited is charged, the one it left by included.
    #[must_use]
    pub fn macs(&self, policy: &Policy, left_at: usize) -> Macs {
        let visited = policy.exits.iter().zip(&self.head).take(left_at.saturating_add(1));
        let heads: Macs = visited.filter(|(exit, _)| exit.is_some()).map(|(_, head)| head).sum();
        self.until.get(left_at).copied().unwrap_or(self.network) + heads
    }

    /// [`macs`](Self::macs) as a share of the bare network. A sample that visits every exit and leaves at none
    /// costs more than 1.
    #[must_use]
    pub fn cost(&self, policy: &Policy, left_at: usize) -> f64 {
        self.macs(policy, left_at).ratio(self.network)
    }

    /// The mean cost of the samples in `left`: how many left at each exit, those that left nowhere last. NaN when
    /// there are none.
    ///
    /// Sums are of integers, so the same counts give the same bits.
    #[must_use]
    pub fn mean(&self, policy: &Policy, left: &[u64]) -> f64 {
        let mut heads = Macs::ZERO;
        let mut total = 0_u128;
        for (e, count) in left.iter().enumerate() {
            if policy.exits.get(e).is_some_and(Option::is_some) {
                heads += self.head.get(e).copied().unwrap_or_default();
            }
            let each = self.until.get(e).copied().unwrap_or(self.network) + heads;
            total = total.saturating_add(u128::from(each.get()) * u128::from(*count));
        }
        let samples: u128 = left.iter().copied().map(u128::from).sum();
        total as f64 / (samples * u128::from(self.network.get())) as f64
    }

    /// The cost of everyone stopping at `exit` (from 0), as a share of the bare network.
    #[must_use]
    pub fn static_cut(&self, exit: usize) -> f64 {
        let head = self.head.get(exit).copied().unwrap_or_default();
        (self.until.get(exit).copied().unwrap_or(self.network) + head).ratio(self.network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ExitRule;
    use crate::rule::Rule;

    fn model() -> CostModel {
        let macs = |counts: [u64; 3]| counts.map(Macs::new).to_vec();
        CostModel { network: Macs::new(1000), until: macs([100, 400, 900]), head: macs([10, 20, 30]) }
    }

    fn policy() -> Policy {
        let used = Some(ExitRule::new(Rule::Whitened, 0.0));
        Policy { exits: vec![used, None, used] }
    }

    #[test]
    fn every_visited_exit_in_use_is_charged() {
        let (model, policy) = (model(), policy());
        let macs: Vec<u64> = (0..=3).map(|left_at| model.macs(&policy, left_at).get()).collect();
        assert_eq!(macs, [110, 410, 940, 1040]);
        assert_eq!(model.cost(&policy, 3), 1.04);
        assert_eq!(model.cost(&Policy::off(3), 3), 1.0);
        for exit in 0..3 {
            let cut = Policy::static_cut(3, exit, Rule::ClassMeans);
            assert_eq!(model.static_cut(exit), model.cost(&cut, exit));
        }
    }

    #[test]
    fn the_mean_is_that_of_single_samples() {
        let (model, policy) = (model(), policy());
        let left = [3, 0, 5, 2];
        let total: f64 = left.iter().enumerate().map(|(e, n)| *n as f64 * model.cost(&policy, e)).sum();
        assert!((model.mean(&policy, &left) - total / 10.0).abs() < 1e-12);
        assert!(model.mean(&policy, &[0; 4]).is_nan());
    }

    #[test]
    fn costs_that_make_no_sense_are_named() {
        assert_eq!(model().check(3), Ok(()));
        assert_eq!(model().check(2), Err(CostError::Exits { found: 3, expected: 2 }));
        let mut falling = model();
        falling.until[1] = Macs::new(99);
        assert_eq!(
            falling.check(3).unwrap_err().to_string(),
            "the network costs 99 until exit 1, expected 100 to 1000"
        );
        let mut beyond = model();
        beyond.until[2] = Macs::new(1001);
        assert!(matches!(beyond.check(3), Err(CostError::Order { exit: 2, .. })));
        let mut free = model();
        free.network = Macs::ZERO;
        assert_eq!(free.check(3), Err(CostError::FreeNetwork));
    }
}
