//! What a run fixes before any node is asked anything.

use exeunt_stats::{ExitShape, MomentsShape, SpreadShape};
use serde::{Deserialize, Serialize};

use crate::cost::{CostError, CostModel};
use crate::rule::Rule;
use crate::search::SearchOptions;

/// The parts of the samples (METHOD, "Calibration").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Makes the means.
    Statistics,
    /// Chooses thresholds. Has not trained the network.
    Calibration,
    /// What curves are read on.
    Evaluation,
}

impl Part {
    /// Every part, in the order a census counts them.
    pub const ALL: [Part; 3] = [Part::Statistics, Part::Calibration, Part::Evaluation];

    /// The name used in run files, tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Part::Statistics => "statistics",
            Part::Calibration => "calibration",
            Part::Evaluation => "evaluation",
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// One exit of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitContext {
    /// ONNX value name.
    pub tap: String,
    /// `D`: numbers per sample after pooling.
    pub dim: usize,
    /// Rules to fit, in order, without repetition.
    pub rules: Vec<Rule>,
}

/// What a run fixes before any node is asked anything. Nodes and coordinator derive the layout of every answer from
/// it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunContext {
    /// `K`: number of classes.
    pub classes: usize,
    /// Their names, in the order of the network's outputs.
    pub class_names: Vec<String>,
    /// The exits, in the order the network reaches them.
    pub exits: Vec<ExitContext>,
    /// What things cost.
    pub cost: CostModel,
    /// `λ` of the whitened rule (METHOD, "Whitened class means").
    pub shrinkage: f64,
    /// Whether the whitened rule adds `log n_k/N`.
    pub prior: bool,
    /// How policies are searched for.
    pub search: SearchOptions,
    /// About this many samples of the whole fleet are looked at to find the scales.
    pub range_samples: u64,
    /// Samples per number that a node must hold to send second moments; for explaining why none came.
    pub second_factor: u64,
    /// Whether the nodes measure time once the curve is read. A run is rebuilt by going through its sealed tables again,
    /// so one that began before there was this question must go on without it.
    #[serde(default)]
    pub timings: bool,
}

/// Why a run makes no sense.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ContextError {
    /// Nothing to tell apart.
    #[error("{found} classes, expected at least 2")]
    Classes {
        /// Classes of the run.
        found: usize,
    },
    /// Not one name per class.
    #[error("{found} class names, expected {expected}")]
    ClassNames {
        /// Names given.
        found: usize,
        /// Classes of the run.
        expected: usize,
    },
    /// Nowhere to leave.
    #[error("no exit, expected at least one")]
    NoExit,
    /// An exit that reads nothing.
    #[error("exit {exit} reads 0 numbers, expected at least 1")]
    Dim {
        /// The exit, from 0.
        exit: usize,
    },
    /// An exit without a rule, or with rules out of order.
    #[error("exit {exit} has rules {found:?}, expected at least one, in order and each once")]
    Rules {
        /// The exit, from 0.
        exit: usize,
        /// Its rules.
        found: Vec<Rule>,
    },
    /// Costs make no sense.
    #[error(transparent)]
    Cost(#[from] CostError),
    /// A shrinkage that is no number above 0.
    #[error("a shrinkage of {found}, expected a number above 0")]
    Shrinkage {
        /// `λ` of the run.
        found: f64,
    },
}

impl RunContext {
    /// Checks that the run makes sense.
    ///
    /// # Errors
    /// See [`ContextError`].
    pub fn check(&self) -> Result<(), ContextError> {
        if self.classes < 2 {
            return Err(ContextError::Classes { found: self.classes });
        }
        if self.class_names.len() != self.classes {
            return Err(ContextError::ClassNames { found: self.class_names.len(), expected: self.classes });
        }
        if self.exits.is_empty() {
            return Err(ContextError::NoExit);
        }
        for (exit, context) in self.exits.iter().enumerate() {
            if context.dim == 0 {
                return Err(ContextError::Dim { exit });
            }
            let ordered = context.rules.windows(2).all(|pair| pair[0] < pair[1]);
            if context.rules.is_empty() || !ordered {
                return Err(ContextError::Rules { exit, found: context.rules.clone() });
            }
        }
        if !(self.shrinkage.is_finite() && self.shrinkage > 0.0) {
            return Err(ContextError::Shrinkage { found: self.shrinkage });
        }
        Ok(self.cost.check(self.exits.len())?)
    }

    /// The rules of every exit, as the run asks for them.
    #[must_use]
    pub fn rules(&self) -> Vec<Vec<Rule>> {
        self.exits.iter().map(|exit| exit.rules.clone()).collect()
    }

    /// Whether any exit decides by `rule`.
    #[must_use]
    pub fn uses(&self, rule: Rule) -> bool {
        self.exits.iter().any(|exit| exit.rules.contains(&rule))
    }

    /// The shape of a `Moments` answer; `second` says at which exits second moments are asked for.
    #[must_use]
    pub fn moments_shape(&self, second: &[bool]) -> MomentsShape {
        let exits = self.exits.iter().enumerate();
        MomentsShape {
            classes: self.classes,
            exits: exits
                .map(|(e, exit)| ExitShape {
                    dim: exit.dim,
                    second: second.get(e).copied().unwrap_or_default(),
                })
                .collect(),
        }
    }

    /// The shape of a `Spread` answer.
    #[must_use]
    pub fn spread_shape(&self) -> SpreadShape {
        SpreadShape { classes: self.classes, exits: self.exits.len() }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use exeunt_stats::Macs;

    use super::*;

    /// Two exits at 20 % and 60 % of a network of 10,000 MACs, both with both rules.
    pub(crate) fn two_exits() -> RunContext {
        let exit = |tap: &str, dim| ExitContext { tap: tap.to_owned(), dim, rules: Rule::ALL.to_vec() };
        RunContext {
            classes: 3,
            class_names: ["a", "b", "c"].map(str::to_owned).to_vec(),
            exits: vec![exit("first", 4), exit("second", 5)],
            cost: CostModel {
                network: Macs::new(10_000),
                until: vec![Macs::new(2000), Macs::new(6000)],
                head: vec![Macs::new(12), Macs::new(15)],
            },
            shrinkage: 0.01,
            prior: false,
            search: SearchOptions::default(),
            range_samples: 2048,
            second_factor: 2,
            timings: true,
        }
    }

    #[test]
    fn runs_that_make_no_sense_are_named() {
        let refused = |change: fn(&mut RunContext)| {
            let mut context = two_exits();
            assert_eq!(context.check(), Ok(()));
            change(&mut context);
            context.check().unwrap_err().to_string()
        };
        assert_eq!(refused(|c| c.classes = 1), "1 classes, expected at least 2");
        assert_eq!(refused(|c| c.classes = 4), "3 class names, expected 4");
        assert_eq!(refused(|c| c.exits.clear()), "no exit, expected at least one");
        assert_eq!(refused(|c| c.exits[1].dim = 0), "exit 1 reads 0 numbers, expected at least 1");
        assert_eq!(
            refused(|c| c.exits[0].rules.reverse()),
            "exit 0 has rules [Whitened, ClassMeans], expected at least one, in order and each once"
        );
        assert_eq!(refused(|c| drop(c.exits.pop())), "costs for 2 exits, expected 1");
        assert_eq!(refused(|c| c.shrinkage = f64::NAN), "a shrinkage of NaN, expected a number above 0");
    }

    #[test]
    fn second_moments_are_asked_for_exit_by_exit() {
        let shape = two_exits().moments_shape(&[false, true]);
        let layout = shape.layout();
        assert_eq!(layout.range("e0.products"), None);
        assert_eq!(layout.range("e1.products").map(|cells| cells.len()), Some(15));
    }
}
