//! How far class means moved between two snapshots.

use exeunt_stats::{MomentsView, Scale};

/// How far the class means of one exit moved, in standard deviations within a class.
///
/// A class that moved from `μ` to `μ'` has moved by `‖μ' − μ‖ / (σ √D)`, with `σ² = Σ_k (Σ‖z‖² − n_k ‖μ_k‖²) / (N D)`
/// over the first snapshot: the root mean square over the exit's `D` numbers.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Shift {
    /// Mean over the classes that both snapshots have; none where there are none, or where nothing varies.
    pub mean: Option<f64>,
    /// The class, by number, that moved farthest, and how far.
    pub farthest: Option<(usize, f64)>,
}

/// How far class means moved at every exit, from one table of moments to another with the scales each was asked with.
/// Exits beyond those that both have are left out.
#[must_use]
pub fn shifts(from: (&MomentsView<'_>, &[Scale]), to: (&MomentsView<'_>, &[Scale])) -> Vec<Shift> {
    let (from, from_scales) = from;
    let (to, to_scales) = to;
    let exits = [from.shape().exits.len(), to.shape().exits.len(), from_scales.len(), to_scales.len()];
    let exits = exits.into_iter().min().unwrap_or(0);
    (0..exits).map(|e| shift(e, (from, &from_scales[e]), (to, &to_scales[e]))).collect()
}

fn shift(e: usize, from: (&MomentsView<'_>, &Scale), to: (&MomentsView<'_>, &Scale)) -> Shift {
    let (from, scale) = from;
    let (before, after) = (from.means(e, scale), to.0.means(e, to.1));
    let (counts, counts_after) = (from.count(e), to.0.count(e));
    let dim = before.ncols();
    let squares = from.squares(e);
    let unit = scale.product_unit();
    let mut scatter = 0.0;
    for (class, mean) in before.outer_iter().enumerate() {
        let norm: f64 = mean.iter().map(|x| x * x).sum();
        scatter += squares[class] as f64 * unit - counts[class] as f64 * norm;
    }
    let deviation = (scatter / (from.samples(e) as f64 * dim as f64)).sqrt();
    if before.dim() != after.dim() || !deviation.is_finite() || deviation <= 0.0 {
        return Shift::default();
    }
    let both = (0..counts.len().min(counts_after.len())).filter(|k| counts[*k] > 0 && counts_after[*k] > 0);
    let moved: Vec<(usize, f64)> = both
        .map(|class| {
            let apart: f64 =
                before.row(class).iter().zip(after.row(class)).map(|(a, b)| (a - b) * (a - b)).sum();
            (class, (apart / dim as f64).sqrt() / deviation)
        })
        .collect();
    Shift {
        mean: (!moved.is_empty()).then(|| moved.iter().map(|(_, by)| by).sum::<f64>() / moved.len() as f64),
        farthest: moved.into_iter().max_by(|(_, a), (_, b)| a.total_cmp(b)),
    }
}

#[cfg(test)]
mod tests {
    use exeunt_stats::{ExitShape, MomentsShape, Table};

    use super::*;

    /// Two classes of two numbers; sums and squares per class, in whole units.
    fn table(shape: &MomentsShape, scale: &Scale, n: [i64; 2], sum: [f64; 4], squares: [f64; 2]) -> Table {
        let layout = shape.layout();
        let mut cells = vec![0; layout.cells()];
        let mut put = |name: &str, values: &[i64]| cells[layout.range(name).unwrap()].copy_from_slice(values);
        put("e0.alone.n", &n);
        put("e0.alone.sum", &sum.map(|x| (x / scale.sum_unit()) as i64));
        let unit = scale.product_unit();
        put("e0.alone.sq", &squares.map(|x| (x / unit) as i64));
        Table::from_cells(cells)
    }

    #[test]
    fn a_mean_that_moves_by_one_deviation_has_moved_by_one() {
        let shape = MomentsShape { classes: 2, exits: vec![ExitShape { dim: 2, second: false }] };
        let scale = Scale::new(20);
        // Every class has 4 samples around its mean, at a distance of 2 in each number: σ = 2.
        let squares = |means: [f64; 4]| {
            [0, 1].map(|k| 4.0 * (means[2 * k].powi(2) + means[2 * k + 1].powi(2)) + 4.0 * 8.0)
        };
        let of = |means: [f64; 4]| table(&shape, &scale, [4, 4], means.map(|m| 4.0 * m), squares(means));
        let (a, b) = (of([1.0, 0.0, 0.0, 3.0]), of([1.0, 0.0, 2.0, 5.0]));
        let view = |table| MomentsView::new(&shape, table).unwrap();
        let scales = [scale];
        let moved = shifts((&view(&a), &scales), (&view(&b), &scales));
        assert_eq!(moved.len(), 1);
        assert!((moved[0].mean.unwrap() - 0.5).abs() < 1e-6, "{moved:?}");
        let (class, by) = moved[0].farthest.unwrap();
        assert!(class == 1 && (by - 1.0).abs() < 1e-6, "{moved:?}");
        // A class that only one has is not compared, and without any there is nothing to say.
        let lone = table(&shape, &scale, [0, 4], [0.0, 0.0, 0.0, 12.0], [0.0, 68.0]);
        assert_eq!(shifts((&view(&a), &scales), (&view(&lone), &scales))[0].farthest, Some((1, 0.0)));
        let none = table(&shape, &scale, [0, 0], [0.0; 4], [0.0; 2]);
        assert_eq!(shifts((&view(&a), &scales), (&view(&none), &scales)), [Shift::default()]);
        assert_eq!(shifts((&view(&none), &scales), (&view(&a), &scales)), [Shift::default()]);
    }
}
