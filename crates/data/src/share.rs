//! Dealing one folder's samples out to several nodes.
//!
//! Who gets a sample follows from its class, its content and the seed alone: each class has a share for every node,
//! and a sample's place in 0..1 falls into one of them. So parts are dealt alike, and every sample goes to exactly one
//! node.

use std::fmt;
use std::str::FromStr;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Gamma};

/// How samples are dealt out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Partition {
    /// Every node gets the same share of every class.
    Uniform,
    /// Each class is dealt in proportions drawn from a symmetric Dirichlet distribution; the smaller its parameter,
    /// the less nodes resemble each other.
    Dirichlet(f64),
    /// Every node gets samples of this many classes, next to each other, wrapping around.
    ByClass(u32),
}

/// One node's share of a folder: node `node` of `of`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    node: u32,
    of: u32,
    partition: Partition,
    seed: u64,
}

/// Why a text is not a partition or a share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseShareError {
    /// Not a partition.
    #[error(
        "'{found}' is not a partition: expected uniform, dirichlet(ALPHA) with 0 < ALPHA, or by-class(CLASSES)"
    )]
    Partition {
        /// The text.
        found: String,
    },
    /// Not a share.
    #[error(
        "'{found}' is not a share: expected NODE/OF:PARTITION:SEED with NODE below OF, such as 3/8:uniform:0"
    )]
    Share {
        /// The text.
        found: String,
    },
}

impl Share {
    /// Node `node` (from 0) of `of`; `None` unless it is one of them.
    pub fn new(node: u32, of: u32, partition: Partition, seed: u64) -> Option<Self> {
        (node < of).then_some(Self { node, of, partition, seed })
    }

    /// Which node, from 0.
    pub fn node(&self) -> u32 {
        self.node
    }

    /// How many nodes.
    pub fn of(&self) -> u32 {
        self.of
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) fn dealer(&self) -> Dealer {
        Dealer {
            of: self.of,
            partition: self.partition,
            seed: self.seed,
            bounds: std::cell::RefCell::default(),
        }
    }
}

/// Knows who gets a sample; draws a class's proportions when it first meets the class.
pub(crate) struct Dealer {
    of: u32,
    partition: Partition,
    seed: u64,
    /// Per class, upper bounds of the nodes' shares.
    bounds: std::cell::RefCell<std::collections::BTreeMap<u32, Vec<f64>>>,
}

impl Dealer {
    /// The node that gets a sample of this class that lies at `place`.
    pub(crate) fn node_of(&self, class: u32, place: f64) -> u32 {
        let pick = |of: u32| ((place * f64::from(of)) as u32).min(of - 1);
        match self.partition {
            Partition::Uniform => pick(self.of),
            Partition::ByClass(classes) => {
                // Node i holds classes i·c .. i·c + c; a class that no node would hold goes to one by its number.
                let classes = u64::from(classes);
                let holds = |node: u32| {
                    u64::from(node) * classes <= u64::from(class)
                        && u64::from(class) < (u64::from(node) + 1) * classes
                };
                let round = (u64::from(self.of) * classes).max(1);
                let class_in_round = u64::from(class) % round;
                (0..self.of)
                    .find(|node| holds(*node))
                    .unwrap_or_else(|| u32::try_from(class_in_round / classes.max(1)).unwrap_or(0) % self.of)
            }
            Partition::Dirichlet(alpha) => {
                let mut bounds = self.bounds.borrow_mut();
                let bounds =
                    bounds.entry(class).or_insert_with(|| dirichlet(alpha, self.of, self.seed, class));
                let node = bounds.partition_point(|bound| *bound <= place);
                u32::try_from(node).unwrap_or(u32::MAX).min(self.of - 1)
            }
        }
    }
}

/// Upper bounds of proportions drawn from a symmetric Dirichlet distribution: normalised Gamma variates.
fn dirichlet(alpha: f64, of: u32, seed: u64, class: u32) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from(class));
    let drawn: Vec<f64> = match Gamma::new(alpha, 1.0) {
        Ok(gamma) => (0..of).map(|_| gamma.sample(&mut rng)).collect(),
        Err(_) => vec![1.0; of as usize],
    };
    let total: f64 = drawn.iter().sum();
    if total <= 0.0 {
        // All underflowed: the limit of small parameters is one node for all.
        return (0..of).map(|node| f64::from(u8::from(node >= class % of))).collect();
    }
    drawn
        .iter()
        .scan(0.0, |sum, share| {
            *sum += share / total;
            Some(*sum)
        })
        .collect()
}

impl FromStr for Partition {
    type Err = ParseShareError;

    fn from_str(text: &str) -> Result<Self, ParseShareError> {
        let wrong = || ParseShareError::Partition { found: text.to_owned() };
        let inside = |name: &str| text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
        if text == "uniform" {
            return Ok(Self::Uniform);
        }
        if let Some(alpha) = inside("dirichlet") {
            let alpha: f64 = alpha.parse().map_err(|_error| wrong())?;
            return if alpha > 0.0 && alpha.is_finite() { Ok(Self::Dirichlet(alpha)) } else { Err(wrong()) };
        }
        let classes: u32 = inside("by-class").ok_or_else(wrong)?.parse().map_err(|_error| wrong())?;
        if classes > 0 { Ok(Self::ByClass(classes)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Dirichlet(alpha) => write!(f, "dirichlet({alpha})"),
            Self::ByClass(classes) => write!(f, "by-class({classes})"),
        }
    }
}

impl FromStr for Share {
    type Err = ParseShareError;

    fn from_str(text: &str) -> Result<Self, ParseShareError> {
        let wrong = || ParseShareError::Share { found: text.to_owned() };
        let mut pieces = text.splitn(3, ':');
        let (Some(who), Some(partition), Some(seed)) = (pieces.next(), pieces.next(), pieces.next()) else {
            return Err(wrong());
        };
        let (node, of) = who.split_once('/').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u32>().map_err(|_error| wrong());
        let seed = seed.parse().map_err(|_error| wrong())?;
        Self::new(number(node)?, number(of)?, partition.parse()?, seed).ok_or_else(wrong)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}:{}", self.node, self.of, self.partition, self.seed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_round_trip_and_nonsense_is_refused() {
        for text in ["3/8:dirichlet(0.3):7", "0/1:uniform:0", "7/8:by-class(2):42"] {
            assert_eq!(text.parse::<Share>().unwrap().to_string(), text);
        }
        for text in [
            "8/8:uniform:0",
            "1/8:dirichlet(0):0",
            "1/8:by-class(0):0",
            "1:uniform:0",
            "1/2:sorted:0",
            "",
            "1/2:uniform",
        ] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    #[test]
    fn by_class_gives_each_node_its_classes() {
        let dealer = Share::new(0, 5, Partition::ByClass(2), 0).unwrap().dealer();
        let nodes: Vec<u32> = (0..10).map(|class| dealer.node_of(class, 0.7)).collect();
        assert_eq!(nodes, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
    }

    #[test]
    fn small_dirichlet_parameters_make_nodes_unlike() {
        let largest = |alpha| {
            let dealer = Share::new(0, 8, Partition::Dirichlet(alpha), 3).unwrap().dealer();
            let mut most = 0;
            for class in 0..10 {
                let mut counts = [0; 8];
                (0..1000).for_each(|i| counts[dealer.node_of(class, f64::from(i) / 1000.0) as usize] += 1);
                most += counts.iter().max().copied().unwrap_or(0);
            }
            most
        };
        assert!(largest(0.1) > 5000 && largest(100.0) < 2000, "{} {}", largest(0.1), largest(100.0));
    }

    proptest! {
        #[test]
        fn every_sample_goes_to_one_node_that_exists(
            of in 1_u32..50, class in 0_u32..1000, at in 0.0..1.0_f64, alpha in 0.001..10.0_f64, classes in 1_u32..5,
        ) {
            for partition in [Partition::Uniform, Partition::Dirichlet(alpha), Partition::ByClass(classes)] {
                let node = Share::new(0, of, partition, 9).unwrap().dealer().node_of(class, at);
                prop_assert!(node < of);
            }
        }
    }
}
