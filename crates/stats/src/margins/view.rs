//! Reads a merged histogram of margins.

use super::Edges;
use crate::view::{self, ViewError};
use crate::{MarginShape, Table};

/// A `Confidence` table, checked, and read by exit and rule.
///
/// # Panics
/// Its methods panic when asked for an exit or rule that the shape does not have.
#[derive(Clone, Debug)]
pub struct MarginView<'a> {
    shape: &'a MarginShape,
    cells: &'a [i64],
}

impl<'a> MarginView<'a> {
    /// Reads `table` as one of `shape`.
    ///
    /// # Errors
    /// When it is not of that shape, or counts below zero.
    pub fn new(shape: &'a MarginShape, table: &'a Table) -> Result<Self, ViewError> {
        let cells = view::cells(table, shape.layout().cells())?;
        view::counts(cells, 0..cells.len())?;
        Ok(Self { shape, cells })
    }

    fn sides(&self, e: usize, r: usize) -> (&'a [i64], &'a [i64]) {
        let bins = self.shape.bins;
        let start = self.shape.histogram(e, r) * 2 * bins;
        self.cells[start..start + 2 * bins].split_at(bins)
    }

    /// Right decisions in each bin, shape `[B]`.
    pub fn right(&self, e: usize, r: usize) -> &'a [i64] {
        self.sides(e, r).0
    }

    /// Wrong decisions in each bin, shape `[B]`.
    pub fn wrong(&self, e: usize, r: usize) -> &'a [i64] {
        self.sides(e, r).1
    }

    /// Samples in all bins.
    pub fn total(&self, e: usize, r: usize) -> u64 {
        total(self.right(e, r)).saturating_add(total(self.wrong(e, r)))
    }

    /// Right decisions in all bins.
    pub fn right_total(&self, e: usize, r: usize) -> u64 {
        total(self.right(e, r))
    }

    /// Samples that leave, and how many of them are right, with `edge[i]` as the threshold: those of the
    /// bins above it.
    pub fn above(&self, e: usize, r: usize, i: usize) -> Above {
        let (right, wrong) = self.sides(e, r);
        let right = total(right.get(i + 1..).unwrap_or(&[]));
        let wrong = total(wrong.get(i + 1..).unwrap_or(&[]));
        Above { samples: right.saturating_add(wrong), right }
    }

    /// The threshold that lets at most the surest `fraction` of all samples leave, and of the edges the
    /// one that comes nearest: −∞ (everyone) from 1 on, ∞ (no one) when even the last edge lets too many
    /// leave, the fraction is not a number, or there are no samples.
    ///
    /// `edges` are those that the histogram was made with; the result is as fine as they are.
    pub fn threshold(&self, e: usize, r: usize, fraction: f64, edges: &Edges) -> f64 {
        let (right, wrong) = self.sides(e, r);
        let all = self.total(e, r);
        if all == 0 || fraction.is_nan() {
            return f64::INFINITY;
        }
        if fraction >= 1.0 {
            return f64::NEG_INFINITY;
        }
        let allowed = fraction * all as f64;
        let mut threshold = f64::INFINITY;
        let mut leaving = 0_u64;
        // From the surest bin down: bins i+1 and up leave with edge i.
        for (i, edge) in edges.as_slice().iter().enumerate().rev() {
            let bin = |side: &[i64]| side.get(i + 1).copied().map_or(0, view::count);
            leaving = leaving.saturating_add(bin(right)).saturating_add(bin(wrong));
            if leaving as f64 > allowed {
                break;
            }
            threshold = *edge;
        }
        threshold
    }
}

/// What leaves above a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Above {
    /// Samples that leave.
    pub samples: u64,
    /// Those of them that are right.
    pub right: u64,
}

fn total(counts: &[i64]) -> u64 {
    counts.iter().fold(0, |total, count| total.saturating_add(view::count(*count)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{AbsorbError, MarginHistogram, SetupError, Verdict};

    const SHAPE: MarginShape = MarginShape { exits: 2, rules: 2, bins: 4 };

    fn edges() -> Vec<Edges> {
        (0..4_i32).map(|i| Edges::even(f64::from(i), f64::from(i) + 2.0, 3).unwrap()).collect()
    }

    #[test]
    fn right_and_wrong_are_counted_apart() {
        let mut histogram = MarginHistogram::new(SHAPE, edges()).unwrap();
        for margin in [-1.0, 0.0, 0.5, 2.0, 2.5, 9.0] {
            histogram.add(0, 0, margin, Verdict::of(3, 3));
            histogram.add(1, 0, margin, Verdict::of(3, 4));
        }
        let table = histogram.finish();
        let view = MarginView::new(&SHAPE, &table).unwrap();
        assert_eq!(view.right(0, 0), [2, 1, 1, 2]);
        assert_eq!(view.wrong(0, 0), [0; 4]);
        // Edges 2, 3, 4 here.
        assert_eq!(view.wrong(1, 0), [4, 1, 0, 1]);
        assert_eq!((view.total(1, 0), view.right_total(1, 0)), (6, 0));
        assert_eq!((view.total(0, 0), view.right_total(0, 0)), (6, 6));
        assert_eq!(view.above(0, 0, 1), Above { samples: 3, right: 3 });
        assert_eq!(view.above(1, 0, 0), Above { samples: 2, right: 0 });
        assert_eq!(view.total(0, 1), 0);
        let layout = SHAPE.layout();
        assert_eq!(table.cells()[layout.range("e1.r0.wrong").unwrap()], [4, 1, 0, 1]);
    }

    #[test]
    fn set_ups_are_checked() {
        let mut too_few = edges();
        too_few.pop();
        assert_eq!(
            MarginHistogram::new(SHAPE, too_few).err(),
            Some(SetupError::Length { what: "lists of edges", found: 3, expected: 4 })
        );
        let mut too_long = edges();
        too_long[2] = Edges::even(0.0, 1.0, 4).unwrap();
        assert_eq!(
            MarginHistogram::new(SHAPE, too_long).err(),
            Some(SetupError::Length { what: "bins", found: 5, expected: 4 })
        );
        let mut others = edges();
        others.reverse();
        let mut histogram = MarginHistogram::new(SHAPE, edges()).unwrap();
        let other = MarginHistogram::new(SHAPE, others).unwrap();
        assert_eq!(histogram.absorb(other), Err(AbsorbError::Setup));
        assert!(MarginView::new(&SHAPE, &Table::zeros(31)).is_err());
    }

    #[test]
    fn thresholds_at_the_ends() {
        let shape = MarginShape { exits: 1, rules: 1, bins: 3 };
        let edges = Edges::new(vec![0.0, 1.0]).unwrap();
        let mut histogram = MarginHistogram::new(shape, vec![edges.clone()]).unwrap();
        let threshold = |histogram: &MarginHistogram, fraction| {
            let table = histogram.clone().finish();
            MarginView::new(&shape, &table).unwrap().threshold(0, 0, fraction, &edges)
        };
        assert_eq!(threshold(&histogram, 1.0), f64::INFINITY);
        for margin in [-1.0, 0.5, 0.6, 2.0] {
            histogram.add(0, 0, margin, Verdict::Right);
        }
        for (fraction, expected) in [
            (-1.0, f64::INFINITY),
            (0.0, f64::INFINITY),
            (0.24, f64::INFINITY),
            (0.25, 1.0),
            (0.74, 1.0),
            (0.75, 0.0),
            (0.99, 0.0),
            (1.0, f64::NEG_INFINITY),
            (f64::NAN, f64::INFINITY),
        ] {
            assert_eq!(threshold(&histogram, fraction), expected, "{fraction}");
        }
    }

    proptest! {
        /// What the threshold promises is what the rule `margin > threshold` does.
        #[test]
        fn at_most_the_fraction_leaves(
            margins in prop::collection::vec(-3_i32..9, 1..60),
            fraction in 0.0..1.0,
            cut in 0_usize..60,
        ) {
            let shape = MarginShape { exits: 1, rules: 1, bins: 7 };
            let edges = Edges::even(0.0, 5.0, 6).unwrap();
            let margins: Vec<f64> = margins.iter().map(|margin| f64::from(*margin) / 1.5).collect();
            let mut whole = MarginHistogram::new(shape, vec![edges.clone()]).unwrap();
            let mut parts = [whole.sibling(), whole.sibling()];
            for (i, margin) in margins.iter().enumerate() {
                whole.add(0, 0, *margin, Verdict::Right);
                parts[usize::from(i < cut)].add(0, 0, *margin, Verdict::Right);
            }
            let [mut first, second] = parts;
            first.absorb(second).unwrap();
            let table = whole.finish();
            prop_assert_eq!(&first.finish(), &table);

            let view = MarginView::new(&shape, &table).unwrap();
            let threshold = view.threshold(0, 0, fraction, &edges);
            let leave = |threshold: f64| margins.iter().filter(|margin| **margin > threshold).count();
            let allowed = fraction * margins.len() as f64;
            prop_assert!(leave(threshold) as f64 <= allowed);
            // No lower edge would do.
            for lower in edges.as_slice().iter().filter(|edge| **edge < threshold) {
                prop_assert!(leave(*lower) as f64 > allowed);
            }
            for (i, edge) in edges.as_slice().iter().enumerate() {
                prop_assert_eq!(view.above(0, 0, i).samples, leave(*edge) as u64);
            }
        }
    }
}
