//! From merged moments to heads: class means, and class means in whitened space (METHOD, "Whitened class means").

use exeunt_stats::{MomentsShape, MomentsView, Scale, Table, ViewError};
use faer::linalg::solvers::Solve as _;
use faer::{Mat, Side};
use ndarray::Array2;

use crate::head::Unavailable;
use crate::{ExitHead, HeadError, Heads, LinearHead};

/// Whether the whitened scores add the classes' shares, `log n_k/N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prior {
    /// Classes count alike.
    Uniform,
    /// Classes count by their samples.
    Counts,
}

/// How heads are fitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FitOptions {
    /// `λ`: the covariance is raised by this share of its mean variance.
    pub shrinkage: f64,
    /// Whether scores add the classes' shares.
    pub prior: Prior,
    /// Samples per number that a node had to hold to send second moments; for explaining why none came.
    pub second_factor: u64,
}

/// Why merged moments do not make heads.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FitError {
    /// The table is not the answer to this query.
    #[error(transparent)]
    Table(#[from] ViewError),
    /// Scales and exits are not as many.
    #[error("{found} scales, expected {expected}, one per exit")]
    Scales {
        /// Scales given.
        found: usize,
        /// Exits.
        expected: usize,
    },
    /// A mean cannot be written down.
    #[error("exit {exit}: {source}")]
    Head {
        /// The exit, from 0.
        exit: usize,
        /// What is wrong.
        source: HeadError,
    },
}

/// Fits every exit's head to merged moments. A rule that cannot be had at an exit stays a value there
/// ([`Unavailable`]); it does not fail the others.
///
/// # Errors
/// When the table is not of this shape.
pub fn fit_heads(
    shape: &MomentsShape,
    table: &Table,
    scales: &[Scale],
    options: &FitOptions,
) -> Result<Heads, FitError> {
    if scales.len() != shape.exits.len() {
        return Err(FitError::Scales { found: scales.len(), expected: shape.exits.len() });
    }
    let view = MomentsView::new(shape, table)?;
    let mut exits = Vec::with_capacity(scales.len());
    for (exit, scale) in scales.iter().enumerate() {
        let wrong = |source| FitError::Head { exit, source };
        let counts = view.count(exit);
        let means = view.means(exit, scale);
        let present: Vec<bool> = counts.iter().map(|n| *n > 0).collect();
        let head = ExitHead::new(means.mapv(|mean| mean as f32), present.clone()).map_err(wrong)?;
        let whitened = match whiten(&view, exit, scale, &means, &counts, options) {
            Ok((weights, bias)) => Ok(LinearHead::new(weights, bias).map_err(wrong)?),
            Err(why) => Err(why),
        };
        exits.push(head.with_whitened(whitened).map_err(wrong)?);
    }
    Ok(Heads::new(exits))
}

/// `W` (`K × D`) and `b` (`K`) of the linear discriminant; the covariance comes from the nodes that sent `G`, the means
/// from all.
fn whiten(
    view: &MomentsView<'_>,
    exit: usize,
    scale: &Scale,
    means: &Array2<f64>,
    counts: &[u64],
    options: &FitOptions,
) -> Result<(Array2<f32>, Vec<f64>), Unavailable> {
    let shape = view.shape().exits[exit];
    let total = view.samples(exit);
    if !shape.second {
        return Err(Unavailable::NotAsked);
    }
    if total == 0 {
        return Err(Unavailable::NoClass);
    }
    if view.paired_samples(exit) == 0 {
        let needed = options.second_factor.saturating_mul(shape.dim as u64);
        return Err(Unavailable::NoSecondMoments { needed, found: total });
    }
    let covariance = covariance(view, exit, scale, options.shrinkage)?;
    let singular = |_error| Unavailable::Singular { shrinkage: options.shrinkage };
    let factor = covariance.llt(Side::Lower).map_err(singular)?;
    let (classes, dim) = means.dim();
    let mut solved = Mat::from_fn(dim, classes, |d, k| means[[k, d]]);
    solved = factor.solve(&solved);
    let weights = Array2::from_shape_fn((classes, dim), |(k, d)| solved[(d, k)] as f32);
    let bias = (0..classes).map(|k| {
        let half: f64 = (0..dim).map(|d| means[[k, d]] * solved[(d, k)]).sum::<f64>() / 2.0;
        let prior = match options.prior {
            Prior::Counts if counts[k] > 0 => (counts[k] as f64 / total as f64).ln(),
            _ => 0.0,
        };
        prior - half
    });
    let bias: Vec<f64> = bias.collect();
    let finite = weights.iter().all(|w| w.is_finite()) && bias.iter().all(|b| b.is_finite());
    if finite { Ok((weights, bias)) } else { Err(Unavailable::Singular { shrinkage: options.shrinkage }) }
}

/// `(G − Σ_k n_k μ_k μ_kᵀ)/N + λ·tr/D·I` over the samples of the nodes that sent `G`; the lower triangle.
fn covariance(
    view: &MomentsView<'_>,
    exit: usize,
    scale: &Scale,
    shrinkage: f64,
) -> Result<Mat<f64>, Unavailable> {
    let dim = view.shape().exits[exit].dim;
    let counts = view.paired_count(exit);
    let total = view.paired_samples(exit) as f64;
    let sums = view.paired_sum(exit);
    let unit = scale.product_unit();
    let mut covariance = Mat::<f64>::zeros(dim, dim);
    let mut products = view.products(exit).iter();
    for row in 0..dim {
        for (column, product) in (0..=row).zip(products.by_ref()) {
            covariance[(row, column)] = *product as f64 * unit / total;
        }
    }
    for (count, sum) in counts.iter().zip(sums.chunks_exact(dim)).filter(|(count, _)| **count > 0) {
        let mean: Vec<f64> = sum.iter().map(|s| *s as f64 * scale.sum_unit() / *count as f64).collect();
        let share = *count as f64 / total;
        for column in 0..dim {
            let factor = share * mean[column];
            let below = covariance.col_as_slice_mut(column).iter_mut().zip(&mean).skip(column);
            below.for_each(|(cell, mean)| *cell -= factor * mean);
        }
    }
    let trace: f64 = (0..dim).map(|d| covariance[(d, d)]).sum();
    // What rounding alone leaves behind is no variance.
    if trace <= dim as f64 * unit {
        return Err(Unavailable::Constant);
    }
    let ridge = shrinkage * trace / dim as f64;
    for d in 0..dim {
        covariance[(d, d)] += ridge;
    }
    Ok(covariance)
}

#[cfg(test)]
mod tests {
    use exeunt_stats::{ExitShape, Floors, MomentsAccumulator};
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::Rule;

    const OPTIONS: FitOptions = FitOptions { shrinkage: 0.01, prior: Prior::Uniform, second_factor: 2 };

    /// Three classes in four dimensions, two of which carry shared noise that only whitening sees through.
    fn samples(seed: u64, n: usize) -> (Vec<u32>, Array2<f32>) {
        samples_of(seed, n, &[0, 1, 2])
    }

    /// The same, with labels that repeat these.
    fn samples_of(seed: u64, n: usize, classes: &[u32]) -> (Vec<u32>, Array2<f32>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut noise = move || (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
        let labels: Vec<u32> = classes.iter().copied().cycle().take(n).collect();
        let mut z = Array2::zeros((n, 4));
        for (label, mut row) in labels.iter().zip(z.rows_mut()) {
            let shared = 3.0 * noise();
            row[0] = shared + *label as f32 + 0.3 * noise();
            row[1] = shared + 0.3 * noise();
            row[2] = noise();
            row[3] = 5.0 + 0.5 * noise() + if *label == 2 { 1.0 } else { 0.0 };
        }
        (labels, z)
    }

    fn fitted(labels: &[u32], z: &Array2<f32>, second: bool, floors: Floors) -> Heads {
        let shape = MomentsShape { classes: 3, exits: vec![ExitShape { dim: 4, second }] };
        let mut counts = vec![0; 3];
        labels.iter().for_each(|label| counts[*label as usize] += 1);
        let scales = vec![Scale::for_exponent(4)];
        let mut moments = MomentsAccumulator::new(shape.clone(), scales.clone(), &counts, &floors).unwrap();
        moments.add(labels, &[z.view()]).unwrap();
        fit_heads(&shape, &moments.finish().unwrap(), &scales, &OPTIONS).unwrap()
    }

    /// The textbook formula in double precision, solved by Gaussian elimination.
    fn textbook(labels: &[u32], z: &Array2<f32>) -> (Array2<f64>, Vec<f64>) {
        let z = z.mapv(f64::from);
        let mut means = Array2::<f64>::zeros((3, 4));
        let mut counts = [0.0; 3];
        for (label, row) in labels.iter().zip(z.rows()) {
            counts[*label as usize] += 1.0;
            let mut mean = means.row_mut(*label as usize);
            mean += &row;
        }
        for (mut mean, count) in means.rows_mut().into_iter().zip(counts) {
            mean /= count;
        }
        let mut covariance = Array2::<f64>::zeros((4, 4));
        for (label, row) in labels.iter().zip(z.rows()) {
            let r = &row - &means.row(*label as usize);
            covariance += &Array2::from_shape_fn((4, 4), |(i, j)| r[i] * r[j]);
        }
        covariance /= labels.len() as f64;
        let ridge = 0.01 * covariance.diag().sum() / 4.0;
        (0..4).for_each(|d| covariance[[d, d]] += ridge);
        let mut weights = Array2::zeros((3, 4));
        for k in 0..3 {
            let mut a = covariance.clone();
            let mut b = means.row(k).to_vec();
            for i in 0..4 {
                for j in i + 1..4 {
                    let f = a[[j, i]] / a[[i, i]];
                    (0..4).for_each(|c| a[[j, c]] -= f * a[[i, c]]);
                    b[j] -= f * b[i];
                }
            }
            for i in (0..4).rev() {
                let rest: f64 = (i + 1..4).map(|c| a[[i, c]] * weights[[k, c]]).sum();
                weights[[k, i]] = (b[i] - rest) / a[[i, i]];
            }
        }
        let bias = (0..3).map(|k| -0.5 * means.row(k).dot(&weights.row(k))).collect();
        (weights, bias)
    }

    /// Where activations lie far from 0 beside their deviations, products keep few digits of these; they must be
    /// centred by the means of the very numbers that were multiplied.
    #[test]
    fn a_large_mean_does_not_blur_the_covariance() {
        let (labels, z) = samples(3, 3000);
        let z = z.mapv(|z| 10.0 + z / 100.0);
        let heads = fitted(&labels, &z, true, Floors { min_count: 10, second_factor: 2 });
        let linear = heads.exits()[0].whitened().unwrap();
        let (weights, _) = textbook(&labels, &z);
        let largest = weights.iter().fold(0.0_f64, |largest, w| largest.max(w.abs()));
        for (found, expected) in linear.weights().iter().zip(&weights) {
            assert!(
                (f64::from(*found) - expected).abs() < 0.02 * largest,
                "found {found}, expected {expected}"
            );
        }
    }

    #[test]
    fn whitened_weights_are_those_of_the_textbook() {
        let (labels, z) = samples(1, 3000);
        let heads = fitted(&labels, &z, true, Floors { min_count: 10, second_factor: 2 });
        let linear = heads.exits()[0].whitened().unwrap();
        let (weights, bias) = textbook(&labels, &z);
        for (found, expected) in linear.weights().iter().zip(&weights) {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-2 * (1.0 + expected.abs()),
                "{found} {expected}"
            );
        }
        for (found, expected) in linear.bias().iter().zip(&bias) {
            assert!((found - expected).abs() < 1e-2 * (1.0 + expected.abs()), "{found} {expected}");
        }
    }

    #[test]
    fn whitening_sees_through_shared_noise() {
        let (labels, z) = samples(1, 3000);
        let heads = fitted(&labels, &z, true, Floors { min_count: 10, second_factor: 2 });
        let (labels, z) = samples(2, 900);
        let right = |w: &LinearHead| {
            let score = |row: ndarray::ArrayView1<'_, f32>, k: usize| {
                row.iter().zip(w.weights().row(k)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
                    + w.bias()[k]
            };
            let best = |row| (0..3).max_by(|a, b| score(row, *a).total_cmp(&score(row, *b)));
            labels.iter().zip(z.rows()).filter(|(label, row)| best(*row) == Some(**label as usize)).count()
        };
        assert!(right(heads.exits()[0].whitened().unwrap()) > 700);
        assert!(heads.has(0, Rule::Whitened) && !heads.has(0, Rule::ClassMeans));
    }

    #[test]
    fn what_cannot_be_had_is_a_value() {
        let (labels, z) = samples(3, 60);
        let few = fitted(&labels, &z, true, Floors { min_count: 1, second_factor: 20 });
        let why = few.exits()[0].whitened().unwrap_err();
        assert_eq!(*why, Unavailable::NoSecondMoments { needed: 8, found: 60 });
        assert_eq!(few.whitened_unavailable(0), Some(why));
        let unasked = fitted(&labels, &z, false, Floors { min_count: 1, second_factor: 2 });
        assert_eq!(unasked.exits()[0].whitened().unwrap_err(), &Unavailable::NotAsked);
        assert_eq!(unasked.whitened_unavailable(0), None);
        let flat = fitted(
            &labels,
            &Array2::from_elem((60, 4), 2.5),
            true,
            Floors { min_count: 1, second_factor: 2 },
        );
        assert_eq!(flat.exits()[0].whitened().unwrap_err(), &Unavailable::Constant);
        let withheld = fitted(&labels, &z, true, Floors { min_count: 100, second_factor: 2 });
        assert_eq!(withheld.exits()[0].present(), [false; 3]);
        assert_eq!(withheld.exits()[0].whitened().unwrap_err(), &Unavailable::NoClass);
    }

    #[test]
    fn counts_that_no_fleet_can_have_do_not_overflow() {
        let shape = MomentsShape { classes: 3, exits: vec![ExitShape { dim: 2, second: true }] };
        let layout = shape.layout();
        let mut cells = vec![0; layout.cells()];
        for name in ["e0.paired.n", "e0.products"] {
            cells[layout.range(name).unwrap()].fill(i64::MAX);
        }
        let heads = fit_heads(&shape, &Table::from_cells(cells), &[Scale::default()], &OPTIONS).unwrap();
        assert_eq!(heads.exits()[0].present(), [true; 3]);
    }

    #[test]
    fn too_little_shrinkage_for_too_few_samples_is_a_value() {
        // Three samples span at most two of four dimensions around their mean.
        let z = ndarray::array![[1.0_f32, 0.0, 0.0, 2.0], [0.0, 1.0, 0.0, 2.0], [0.0, 0.0, 1.0, 2.0]];
        let shape = MomentsShape { classes: 1, exits: vec![ExitShape { dim: 4, second: true }] };
        let scales = vec![Scale::for_exponent(1)];
        let mut moments = MomentsAccumulator::new(shape.clone(), scales.clone(), &[3], &Floors::OFF).unwrap();
        moments.add(&[0; 3], &[z.view()]).unwrap();
        let table = moments.finish().unwrap();
        let fitted =
            |shrinkage| fit_heads(&shape, &table, &scales, &FitOptions { shrinkage, ..OPTIONS }).unwrap();
        assert!(fitted(0.01).has(0, Rule::Whitened));
        for shrinkage in [-1.0, f64::NAN] {
            let why = fitted(shrinkage).whitened_unavailable(0).cloned();
            assert!(matches!(why, Some(Unavailable::Singular { .. })), "{why:?}");
        }
    }

    #[test]
    fn a_prior_moves_the_bias_by_the_share_of_the_class() {
        let (labels, z) = samples_of(4, 300, &[0, 0, 0, 1, 2]);
        let shape = MomentsShape { classes: 3, exits: vec![ExitShape { dim: 4, second: true }] };
        let scales = vec![Scale::for_exponent(5)];
        let mut moments =
            MomentsAccumulator::new(shape.clone(), scales.clone(), &[180, 60, 60], &Floors::OFF).unwrap();
        moments.add(&labels, &[z.view()]).unwrap();
        let table = moments.finish().unwrap();
        let bias = |prior| {
            let heads = fit_heads(&shape, &table, &scales, &FitOptions { prior, ..OPTIONS }).unwrap();
            heads.exits()[0].whitened().unwrap().bias().to_vec()
        };
        let shares = [0.6_f64, 0.2, 0.2];
        for ((with, without), share) in bias(Prior::Counts).iter().zip(bias(Prior::Uniform)).zip(shares) {
            assert!((with - without - share.ln()).abs() < 1e-9);
        }
    }
}
