//! What is too few to leave a node.

use serde::{Deserialize, Serialize};

/// Privacy floors (DESIGN, "What may leave a node"). The run file states them; a node's own
/// configuration can only raise them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Floors {
    /// A class with fewer samples than this at a node is withheld there: it is in no sum and no product.
    pub min_count: u64,
    /// Second moments of an exit with `D` numbers leave a node only over at least `second_factor · D`
    /// samples: fewer would expose the span they lie in.
    pub second_factor: u64,
}

impl Floors {
    /// No floor at all: for comparisons against one node that holds everything.
    pub const OFF: Self = Self { min_count: 0, second_factor: 0 };

    /// The stricter of two sets of floors, each taken apart.
    pub fn stricter(self, other: Self) -> Self {
        Self {
            min_count: self.min_count.max(other.min_count),
            second_factor: self.second_factor.max(other.second_factor),
        }
    }

    /// Whether a class with `count` samples is withheld. A class without samples has nothing to withhold.
    pub fn withholds(&self, count: u64) -> bool {
        count > 0 && count < self.min_count
    }

    /// Whether second moments over `samples` samples of `dim` numbers may leave.
    pub fn allows_second(&self, samples: u64, dim: usize) -> bool {
        u128::from(samples) >= u128::from(self.second_factor) * dim as u128
    }
}

impl Default for Floors {
    /// 10 samples for a class, `2·D` for second moments.
    fn default() -> Self {
        Self { min_count: 10, second_factor: 2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floors_are_inclusive() {
        let floors = Floors::default();
        assert!(!floors.withholds(0));
        assert!(floors.withholds(9));
        assert!(!floors.withholds(10));
        assert!(!floors.allows_second(127, 64));
        assert!(floors.allows_second(128, 64));
        assert!(!Floors::OFF.withholds(1));
        assert!(Floors::OFF.allows_second(1, 64));
    }

    #[test]
    fn stricter_takes_the_larger_of_each() {
        let a = Floors { min_count: 3, second_factor: 5 };
        let b = Floors { min_count: 4, second_factor: 2 };
        let both = Floors { min_count: 4, second_factor: 5 };
        assert_eq!(a.stricter(b), both);
        assert_eq!(b.stricter(a), both);
    }
}
