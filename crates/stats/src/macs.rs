//! The unit of cost.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};

/// Multiply-accumulates (METHOD, "Words": 1 MAC = 2 FLOPs). Addition saturates: a cost that large is
/// wrong either way, and must not turn into a small one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Macs(u64);

impl Macs {
    /// No work.
    pub const ZERO: Self = Self(0);

    /// `count` multiply-accumulates.
    pub const fn new(count: u64) -> Self {
        Self(count)
    }

    /// The number of multiply-accumulates.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// This cost as a share of `whole`, the bare network's as a rule. Of nothing, nothing is 1 and
    /// anything more is infinite.
    pub fn ratio(self, whole: Self) -> f64 {
        if self == whole { 1.0 } else { self.0 as f64 / whole.0 as f64 }
    }

    /// What is left of this cost after `other`, at least zero.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Macs {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Macs {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Macs {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl<'a> Sum<&'a Macs> for Macs {
    fn sum<I: Iterator<Item = &'a Macs>>(iter: I) -> Self {
        iter.copied().sum()
    }
}

impl From<u64> for Macs {
    fn from(count: u64) -> Self {
        Self(count)
    }
}

impl fmt::Display for Macs {
    /// Three significant digits with a unit, like `40.8 MMAC`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = "MAC";
        for larger in ["kMAC", "MMAC", "GMAC", "TMAC"] {
            // 999.5 would be printed as 1000.
            if value < 999.5 {
                break;
            }
            value /= 1000.0;
            unit = larger;
        }
        let decimals = match value {
            _ if unit == "MAC" => 0,
            v if v < 9.995 => 2,
            v if v < 99.95 => 1,
            _ => 0,
        };
        write!(f, "{value:.decimals$} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_without_wrapping() {
        let parts = [Macs::new(2), Macs::new(3)];
        assert_eq!(parts.iter().sum::<Macs>(), Macs::new(5));
        assert_eq!(Macs::new(u64::MAX) + Macs::new(1), Macs::new(u64::MAX));
        assert_eq!(Macs::new(2).saturating_sub(Macs::new(3)), Macs::ZERO);
    }

    #[test]
    fn is_a_share_of_the_whole() {
        assert_eq!(Macs::new(1).ratio(Macs::new(4)), 0.25);
        assert_eq!(Macs::ZERO.ratio(Macs::ZERO), 1.0);
        assert_eq!(Macs::new(1).ratio(Macs::ZERO), f64::INFINITY);
    }

    #[test]
    fn prints_three_digits() {
        for (count, text) in [
            (0, "0 MAC"),
            (999, "999 MAC"),
            (1_000, "1.00 kMAC"),
            (40_813_184, "40.8 MMAC"),
            (999_600, "1.00 MMAC"),
            (4_089_184_256, "4.09 GMAC"),
        ] {
            assert_eq!(Macs::new(count).to_string(), text);
        }
    }
}
