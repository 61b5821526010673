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
                    return Err(HeadError::Value { what: "spreads", class: class_id(class) });
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
        self.decide_with(&mut DecideScratch::default(), rule, z)
    }

    /// [`decide`](Self::decide) with buffers from the last time, so that nothing is allocated.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn decide_with(
        &self,
        scratch: &mut DecideScratch,
        rule: Rule,
        z: &[f32],
    ) -> Result<Decision, DecideError> {
        self.check_dim(z.len())?;
        let scorer = self.scorer(rule)?;
        Ok(scorer.decide(scratch, ArrayView1::from(z)))
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
            return Err(DecideError::Rows { what: "decisions", found: decisions.len(), expected: z.nrows() });
        }
        let scorer = self.scorer(rule)?;
        let mut scratch = DecideScratch::default();
        for (row, decision) in z.rows().into_iter().zip(decisions) {
            *decision = scorer.decide(&mut scratch, row);
        }
        Ok(())
    }

    fn check_dim(&self, found: usize) -> Result<(), DecideError> {
        let expected = self.dim();
        if found == expected { Ok(()) } else { Err(DecideError::Dimension { found, expected }) }
    }

    fn scorer(&self, rule: Rule) -> Result<Scorer<'_>, DecideError> {
        let numbers = match rule {
            Rule::ClassMeans => self.spreads.as_deref().map(Numbers::ClassMeans),
            Rule::Whitened => self.whitened.as_ref().map(Numbers::Whitened),
        };
        match numbers {
            Ok(numbers) => Ok(Scorer { head: self, numbers }),
            Err(reason) => Err(DecideError::Unavailable { rule, reason: reason.clone() }),
        }
    }
}

/// Buffers that [`ExitHead::decide_with`] uses again.
#[derive(Clone, Debug, Default)]
pub(crate) struct DecideScratch {
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
    fn decide(&self, scratch: &mut DecideScratch, z: ArrayView1<'_, f32>) -> Decision {
        let DecideScratch { z: wide, scores } = scratch;
        wide.clear();
        match z.as_slice() {
            Some(z) => wide.extend(z.iter().map(|&v| f64::from(v))),
            None => wide.extend(z.iter().map(|&v| f64::from(v))),
        }
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
        return Err(HeadError::Classes { found: classes, limit: u32::MAX });
    }
    let matrix = if matrix.is_standard_layout() { matrix } else { matrix.as_standard_layout().into_owned() };
    let unusable = rows(&matrix).position(|row| !row.iter().all(|v| v.is_finite()));
    match unusable {
        Some(class) => Err(HeadError::Value { what, class: class_id(class) }),
        None => Ok(matrix),
    }
}

fn size(what: &'static str, found: usize, expected: usize) -> Result<(), HeadError> {
    if found == expected { Ok(()) } else { Err(HeadError::Size { what, found, expected }) }
}

fn check(what: &'static str, values: &[f64], good: impl Fn(f64) -> bool) -> Result<(), HeadError> {
    match values.iter().position(|&v| !good(v)) {
        Some(class) => Err(HeadError::Value { what, class: class_id(class) }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array, s};
    use proptest::prelude::*;
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::{MARGIN_LIMIT, margin};

    const NEVER: f64 = f64::NEG_INFINITY;

    fn random(seed: u64, rows: usize, columns: usize) -> Array2<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Array2::from_shape_simple_fn((rows, columns), || rng.random_range(-2.0..2.0))
    }

    /// A head with both rules.
    fn head(seed: u64, classes: usize, dim: usize, present: Vec<bool>) -> ExitHead {
        let spreads = (0..classes).map(|k| 1.0 + k as f64 / 8.0).collect();
        let bias = (0..classes).map(|k| k as f64 / 4.0).collect();
        let linear = LinearHead::new(random(seed + 1, classes, dim), bias).unwrap();
        ExitHead::new(random(seed, classes, dim), present)
            .and_then(|head| head.with_spreads(Ok(spreads)))
            .and_then(|head| head.with_whitened(Ok(linear)))
            .unwrap()
    }

    /// METHOD's formulas, word for word.
    fn definition(head: &ExitHead, rule: Rule, z: &[f32]) -> (usize, f64) {
        let classes = (0..head.classes()).filter(|k| head.present()[*k]);
        let of = |row: ArrayView1<'_, f32>, term: fn(f64, f64) -> f64| -> f64 {
            z.iter().zip(row).map(|(a, b)| term(f64::from(*a), f64::from(*b))).sum()
        };
        let scored: Vec<(usize, f64, f64)> = classes
            .map(|k| match rule {
                Rule::ClassMeans => {
                    let distance = of(head.means().row(k), |z, m| (z - m).powi(2)).sqrt();
                    (k, -distance, -distance / head.spreads().unwrap()[k])
                }
                Rule::Whitened => {
                    let linear = head.whitened().unwrap();
                    let score = of(linear.weights().row(k), |z, w| z * w) + linear.bias()[k];
                    (k, score, score)
                }
            })
            .collect();
        let class = scored.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
        let scores: Vec<f64> = scored.iter().map(|s| s.2).collect();
        (class, margin(&scores))
    }

    proptest! {
        #[test]
        fn decisions_follow_the_definition(
            seed in any::<u32>(),
            classes in 1..7_usize,
            dim in 1..40_usize,
            absent in 0..12_usize,
        ) {
            let mut present = vec![true; classes];
            if absent < classes && classes > 1 {
                present[absent] = false;
            }
            let head = head(u64::from(seed), classes, dim, present);
            let z = random(u64::from(seed) + 2, 1, dim);
            let z = z.as_slice().unwrap();
            for rule in Rule::ALL {
                let found = head.decide(rule, z).unwrap();
                let (class, margin) = definition(&head, rule, z);
                prop_assert_eq!(found.class as usize, class);
                prop_assert!((found.margin - margin).abs() < 1e-9);
            }
        }

        #[test]
        fn a_row_does_not_depend_on_its_neighbours(
            seed in any::<u32>(),
            rows in 1..20_usize,
            dim in 1..70_usize,
            bad in 0..40_usize,
        ) {
            let head = head(u64::from(seed), 5, dim, vec![true; 5]);
            let mut z = random(u64::from(seed) + 2, rows, dim);
            if bad < rows {
                z[[bad, 0]] = f32::NAN;
            }
            let bits = |d: &Decision| (d.class, d.margin.to_bits());
            for rule in Rule::ALL {
                let mut together = vec![Decision::stay(9); rows];
                head.decide_batch(rule, z.view(), &mut together).unwrap();
                // The same rows from memory of another order.
                let turned = z.t().as_standard_layout().into_owned();
                let mut strided = together.clone();
                head.decide_batch(rule, turned.t(), &mut strided).unwrap();
                for (i, row) in z.rows().into_iter().enumerate() {
                    let alone = head.decide(rule, row.as_slice().unwrap()).unwrap();
                    prop_assert_eq!(bits(&alone), bits(&together[i]));
                    prop_assert_eq!(bits(&alone), bits(&strided[i]));
                    prop_assert_eq!(alone.margin == NEVER, i == bad);
                }
            }
        }
    }

    #[test]
    fn an_absent_class_never_wins() {
        let means = array![[0.0_f32, 0.0], [1.0, 0.0], [4.0, 0.0]];
        let head = ExitHead::new(means, vec![false, true, true])
            .and_then(|head| head.with_spreads(Ok(vec![0.0, 1.0, 1.0])))
            .unwrap();
        let decision = head.decide(Rule::ClassMeans, &[0.0, 0.0]).unwrap();
        assert_eq!(decision, Decision { class: 1, margin: 3.0 });
    }

    #[test]
    fn the_only_class_is_certain() {
        let head = head(1, 3, 4, vec![false, false, true]);
        for rule in Rule::ALL {
            let decision = head.decide(rule, &[0.5; 4]).unwrap();
            assert_eq!(decision, Decision { class: 2, margin: MARGIN_LIMIT });
        }
    }

    #[test]
    fn a_non_finite_activation_never_leaves() {
        let head = head(1, 3, 20, vec![true; 3]);
        for rule in Rule::ALL {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, 9, 19] {
                    let mut z = [0.25; 20];
                    z[at] = bad;
                    assert_eq!(head.decide(rule, &z).unwrap().margin, NEVER, "{rule} {bad} {at}");
                }
            }
            assert!(head.decide(rule, &[f32::MAX; 20]).unwrap().margin.is_finite());
        }
    }

    #[test]
    fn a_rule_that_is_missing_says_why() {
        let head = ExitHead::new(Array2::ones((2, 3)), vec![true, true]).unwrap();
        assert_eq!(head.rules().count(), 0);
        assert_eq!(
            head.decide(Rule::ClassMeans, &[0.0; 3]),
            Err(DecideError::Unavailable { rule: Rule::ClassMeans, reason: Unavailable::NoSpreads })
        );
        let needed = Unavailable::NoSecondMoments { needed: 6, found: 5 };
        let head = head.with_whitened(Err(needed.clone())).unwrap();
        assert_eq!(head.available(Rule::Whitened), Err(&needed));
        let nobody = ExitHead::new(Array2::zeros((2, 3)), vec![false, false]).unwrap();
        assert_eq!(nobody.available(Rule::ClassMeans), Err(&Unavailable::NoClass));
    }

    #[test]
    fn sizes_are_checked_before_anything_is_decided() {
        let head = head(1, 3, 4, vec![true; 3]);
        assert_eq!(
            head.decide(Rule::Whitened, &[0.0; 5]),
            Err(DecideError::Dimension { found: 5, expected: 4 })
        );
        let z = random(3, 2, 4);
        let mut decisions = [Decision::stay(7); 3];
        assert_eq!(
            head.decide_batch(Rule::Whitened, z.view(), &mut decisions),
            Err(DecideError::Rows { what: "decisions", found: 3, expected: 2 })
        );
        assert_eq!(decisions, [Decision::stay(7); 3]);
        assert_eq!(head.decide_batch(Rule::Whitened, z.slice(s![..0, ..]), &mut []), Ok(()));
    }

    #[test]
    fn heads_are_made_of_parts_that_fit() {
        let new = |means, present| ExitHead::new(means, present).unwrap_err();
        assert_eq!(new(Array2::zeros((0, 3)), vec![]), HeadError::Empty { classes: 0, dim: 3 });
        assert_eq!(
            new(Array2::zeros((2, 3)), vec![true]),
            HeadError::Size { what: "present", found: 1, expected: 2 }
        );
        assert_eq!(
            new(array![[0.0], [f32::NAN]], vec![true; 2]),
            HeadError::Value { what: "means", class: 1 }
        );
        let head = ExitHead::new(Array2::zeros((2, 3)), vec![true; 2]).unwrap();
        let spreads = |spreads| head.clone().with_spreads(Ok(spreads)).unwrap_err();
        assert_eq!(spreads(vec![1.0, 0.0]), HeadError::Value { what: "spreads", class: 1 });
        assert_eq!(spreads(vec![f64::NAN, 1.0]), HeadError::Value { what: "spreads", class: 0 });
        assert_eq!(spreads(vec![1.0]), HeadError::Size { what: "spreads", found: 1, expected: 2 });
        let narrow = LinearHead::new(Array2::zeros((2, 2)), vec![0.0; 2]).unwrap();
        assert_eq!(
            head.with_whitened(Ok(narrow)).unwrap_err(),
            HeadError::Size { what: "weights", found: 4, expected: 6 }
        );
        assert_eq!(
            LinearHead::new(Array2::zeros((2, 2)), vec![0.0, f64::INFINITY]).unwrap_err(),
            HeadError::Value { what: "bias", class: 1 }
        );
    }
}
