//! What one exit knows, and how it decides.

use ndarray::{Array2, ArrayView1, ArrayView2};
use serde::{Deserialize, Serialize};

use crate::score::{class_id, decide_by_distance, decide_by_score, dot, squared_distance};
use crate::{DecideError, Decision, Rule};

/// Why a rule is not available at an exit. A fact about the run that people are shown, not a failure of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Unavailable {
    /// Spreads come from a second pass, which has not answered.
    #[error("spreads have not been measured")]
    NoSpreads,
    /// The query did not ask for second moments here.
    #[error("second moments were not asked for at this exit")]
    NotAsked,
    /// Every node was below the floor for second moments (DESIGN, "What may leave a node").
    #[error(
        "no node sent second moments: a node needs {needed} samples for them at this exit, and all nodes together \
         sent class sums of {found}"
    )]
    NoSecondMoments {
        /// Samples one node must hold.
        needed: u64,
        /// Samples that all nodes together sent class sums of.
        found: u64,
    },
    /// No class has a mean here.
    #[error("no class has a mean at this exit")]
    NoClass,
    /// Every sample has the same activation, so nothing can be told apart.
    #[error("the activation is the same for every sample")]
    Constant,
    /// The shrunk covariance has no inverse: too little shrinkage for too few samples.
    #[error("the covariance is not positive definite with a shrinkage of {shrinkage}")]
    Singular {
        /// `λ` of the run.
        shrinkage: f64,
    },
}

/// Why a head cannot be made of what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// An exit without numbers, or without classes.
    #[error("a head of {classes} classes and {dim} numbers decides nothing")]
    Empty {
        /// Classes given.
        classes: usize,
        /// Numbers per class given.
        dim: usize,
    },
    /// More classes than ids.
    #[error("{found} classes are too many, expected at most {limit}")]
    Classes {
        /// Classes given.
        found: usize,
        /// The most there can be.
        limit: u32,
    },
    /// Two parts of a head are not of the same size.
    #[error("{what} has {found} elements, expected {expected}")]
    Size {
        /// Which part.
        what: &'static str,
        /// Elements it has.
        found: usize,
        /// Elements the other parts ask for.
        expected: usize,
    },
    /// A number is not finite, or a spread is not above 0.
    #[error("{what} has an unusable value for class {class}")]
    Value {
        /// Which part.
        what: &'static str,
        /// The class.
        class: u32,
    },
}

/// A linear score per class, `s = W z + b`, in the activation's own unit.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearHead {
    weights: Array2<f32>,
    bias: Vec<f64>,
}

impl LinearHead {
    /// A linear head of `weights` `K × D` and `bias` `K`.
    ///
    /// # Errors
    /// When the two do not fit each other, or a number is not finite.
    pub fn new(weights: Array2<f32>, bias: Vec<f64>) -> Result<Self, HeadError> {
        let weights = checked_matrix("weights", weights)?;
        size("bias", bias.len(), weights.nrows())?;
        check("bias", &bias, |b| b.is_finite())?;
        Ok(Self { weights, bias })
    }

    /// `W`, `K × D`.
    #[must_use]
    pub fn weights(&self) -> ArrayView2<'_, f32> {
        self.weights.view()
    }

    /// `b`, `K`.
    #[must_use]
    pub fn bias(&self) -> &[f64] {
        &self.bias
    }
}

/// What one exit needs to decide: class means, and per rule either its numbers or why it has none.
#[derive(Clone, Debug, PartialEq)]
pub struct ExitHead {
    present: Vec<bool>,
    means: Array2<f32>,
    spreads: Result<Vec<f64>, Unavailable>,
    whitened: Result<LinearHead, Unavailable>,
}

impl ExitHead {
    /// An exit with class `means` `K × D`, of which those with `present[k]` are means of samples. A class that is not
    /// present never wins and takes no part in a margin.
    ///
    /// No rule is available yet: see [`ExitHead::with_spreads`] and [`ExitHead::with_whitened`].
    ///
    /// # Errors
    /// When sizes do not fit, or a mean is not finite.
    pub fn new(means: Array2<f32>, present: Vec<bool>) -> Result<Self, HeadError> {
        let means = checked_matrix("means", means)?;
        size("present", present.len(), means.nrows())?;
        let reason = |reason| if present.contains(&true) { reason } else { Unavailable::NoClass };
        Ok(Self {
            spreads: Err(reason(Unavailable::NoSpreads)),
            whitened: Err(reason(Unavailable::NotAsked)),
            present,
            means,
        })
    }

    /// The same exit with the spreads `δ_k` of every class, or with why it has none (METHOD, "Early Exit Class Means",
    /// step 2). Spreads of classes that are not present are not read.
    ///
    /// # Errors
    /// When there is not one spread per class, or one of a present class is not finite and above 0.
    pub fn with_spreads(mut self, spreads: Result<Vec<f64>, Unavailable>) -> Result<Self, HeadError> {
        if let Ok(spreads) = &spreads {
            size("spreads", spreads.len(), self.classes())?;
            check("spreads", spreads, |s| s.is_finite())?;
            for (class, (&spread, &present)) in spreads.iter().zip(&self.present).enumerate() {
                if present && spread <= 0.0 {
                    return Err(HeadError::Value {
                        what: "spreads",
                        class: class_id(class),
                    });
                }
            }
        }
        self.spreads = spreads;
        Ok(self)
    }

    /// The same exit with a whitened head, or with why it has none (METHOD, "Whitened class means").
    ///
    /// # Errors
    /// When the head is of another size than the means.
    pub fn with_whitened(mut self, whitened: Result<LinearHead, Unavailable>) -> Result<Self, HeadError> {
        if let Ok(head) = &whitened {
            size("bias", head.bias.len(), self.classes())?;
            size("weights", head.weights.len(), self.means.len())?;
        }
        self.whitened = whitened;
        Ok(self)
    }

    /// `D`: numbers in the pooled activation.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.means.ncols()
    }

    /// `K`: classes, present or not.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.means.nrows()
    }

    /// Which classes have a mean.
    #[must_use]
    pub fn present(&self) -> &[bool] {
        &self.present
    }

    /// The class means, `K × D`.
    #[must_use]
    pub fn means(&self) -> ArrayView2<'_, f32> {
        self.means.view()
    }

    /// The spreads `δ_k`.
    ///
    /// # Errors
    /// Why there are none.
    pub fn spreads(&self) -> Result<&[f64], &Unavailable> {
        self.spreads.as_deref()
    }

    /// The whitened head.
    ///
    /// # Errors
    /// Why there is none.
    pub fn whitened(&self) -> Result<&LinearHead, &Unavailable> {
        self.whitened.as_ref()
    }

    /// Whether the exit can decide by `rule`.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn available(&self, rule: Rule) -> Result<(), &Unavailable> {
        match rule {
            Rule::ClassMeans => self.spreads.as_ref().map(drop),
            Rule::Whitened => self.whitened.as_ref().map(drop),
        }
    }

    /// The rules the exit can decide by, in order.
    pub fn rules(&self) -> impl Iterator<Item = Rule> + '_ {
        Rule::ALL.into_iter().filter(|&rule| self.available(rule).is_ok())
    }

    /// Decides on one pooled activation of [`ExitHead::dim`] numbers.
    ///
    /// The class is that of the nearest mean (class means) or of the largest score (whitened), the lowest id where
    /// several are equal. An activation with a non-finite number gets a margin of `−∞` and so never leaves; its class
    /// says nothing.
    ///
    /// # Errors
    /// When the exit does not have the rule, or the activation is of another dimension.
    pub fn decide(&self, rule: Rule, z: &[f32]) -> Result<Decision, DecideError> {
        self.check_dim(z.len())?;
        let scorer = self.scorer(rule)?;
        Ok(scorer.decide(&mut Scratch::default(), ArrayView1::from(z)))
    }

    /// Decides on a batch of pooled activations, one per row, into `decisions`. Row `i` gets, bit for bit, what
    /// [`ExitHead::decide`] gives it.
    ///
    /// # Errors
    /// When the exit does not have the rule, or a size does not fit; nothing is written then.
    pub fn decide_batch(
        &self,
        rule: Rule,
        z: ArrayView2<'_, f32>,
        decisions: &mut [Decision],
    ) -> Result<(), DecideError> {
        self.check_dim(z.ncols())?;
        if decisions.len() != z.nrows() {
            return Err(DecideError::Rows {
                what: "decisions",
                found: decisions.len(),
                expected: z.nrows(),
            });
        }
        let scorer = self.scorer(rule)?;
        let mut scratch = Scratch::default();
        for (row, decision) in z.rows().into_iter().zip(decisions) {
            *decision = scorer.decide(&mut scratch, row);
        }
        Ok(())
    }

    fn check_dim(&self, found: usize) -> Result<(), DecideError> {
        let expected = self.dim();
        if found == expected {
            Ok(())
        } else {
            Err(DecideError::Dimension { found, expected })
        }
    }

    fn scorer(&self, rule: Rule) -> Result<Scorer<'_>, DecideError> {
        let numbers = match rule {
            Rule::ClassMeans => self.spreads.as_deref().map(Numbers::ClassMeans),
            Rule::Whitened => self.whitened.as_ref().map(Numbers::Whitened),
        };
        match numbers {
            Ok(numbers) => Ok(Scorer { head: self, numbers }),
            Err(reason) => Err(DecideError::Unavailable {
                rule,
                reason: reason.clone(),
            }),
        }
    }
}

/// Buffers that a batch shares.
#[derive(Default)]
struct Scratch {
    /// The activation in double precision, converted once for all classes.
    z: Vec<f64>,
    scores: Vec<f64>,
}

/// An exit whose rule has been found to be available.
struct Scorer<'a> {
    head: &'a ExitHead,
    numbers: Numbers<'a>,
}

enum Numbers<'a> {
    /// Spreads.
    ClassMeans(&'a [f64]),
    Whitened(&'a LinearHead),
}

impl Scorer<'_> {
    /// One activation of the right dimension. A non-finite number makes every class's distance or score non-finite
    /// (single-precision numbers are too small to do so by their squares), so looking at those is enough.
    fn decide(&self, scratch: &mut Scratch, z: ArrayView1<'_, f32>) -> Decision {
        let Scratch { z: wide, scores } = scratch;
        wide.clear();
        wide.extend(z.iter().map(|&v| f64::from(v)));
        scores.clear();
        let present = self.head.present.iter();
        match self.numbers {
            Numbers::ClassMeans(spreads) => {
                for (&present, mean) in present.zip(rows(&self.head.means)) {
                    scores.push(if present {
                        let distance = squared_distance(wide, mean).sqrt();
                        if !distance.is_finite() {
                            return Decision::stay(0);
                        }
                        distance
                    } else {
                        f64::INFINITY
                    });
                }
                decide_by_distance(scores, spreads)
            }
            Numbers::Whitened(linear) => {
                let weights = rows(&linear.weights);
                for ((&present, weights), &bias) in present.zip(weights).zip(&linear.bias) {
                    scores.push(if present {
                        let score = dot(wide, weights) + bias;
                        if !score.is_finite() {
                            return Decision::stay(0);
                        }
                        score
                    } else {
                        f64::NEG_INFINITY
                    });
                }
                decide_by_score(scores)
            }
        }
    }
}

/// The rows of a matrix made by [`checked_matrix`], as slices.
fn rows(matrix: &Array2<f32>) -> impl Iterator<Item = &[f32]> {
    // In standard layout and with a column at least, so the slice is there and chunks are rows.
    matrix.as_slice().unwrap_or_default().chunks_exact(matrix.ncols())
}

/// A matrix in standard layout, of finite numbers, with a row and a column at least.
fn checked_matrix(what: &'static str, matrix: Array2<f32>) -> Result<Array2<f32>, HeadError> {
    let (classes, dim) = matrix.dim();
    if classes == 0 || dim == 0 {
        return Err(HeadError::Empty { classes, dim });
    }
    if u32::try_from(classes).is_err() {
        return Err(HeadError::Classes {
            found: classes,
            limit: u32::MAX,
        });
    }
    let matrix = if matrix.is_standard_layout() {
        matrix
    } else {
        matrix.as_standard_layout().into_owned()
    };
    let unusable = rows(&matrix).position(|row| !row.iter().all(|v| v.is_finite()));
    match unusable {
        Some(class) => Err(HeadError::Value {
            what,
            class: class_id(class),
        }),
        None => Ok(matrix),
    }
}

fn size(what: &'static str, found: usize, expected: usize) -> Result<(), HeadError> {
    if found == expected {
        Ok(())
    } else {
        Err(HeadError::Size {
            what,
            found,
            expected,
        })
    }
}

fn check(what: &'static str, values: &[f64], good: impl Fn(f64) -> bool) -> Result<(), HeadError> {
    match values.iter().position(|&v| !good(v)) {
        Some(class) => Err(HeadError::Value {
            what,
            class: class_id(class),
        }),
        None => Ok(()),
    }
}
