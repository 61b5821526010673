//! Reads a merged `Moments` table.

use ndarray::Array2;

use crate::batch::Excluded;
use crate::shape::{MomentsCells, SumCells};
use crate::view::{self, ViewError};
use crate::{MomentsShape, Scale, Table};

/// A `Moments` table, checked, and read by exit and class.
///
/// # Panics
/// Its methods panic when asked for an exit that the shape does not have.
#[derive(Clone, Debug)]
pub struct MomentsView<'a> {
    shape: &'a MomentsShape,
    at: MomentsCells,
    cells: &'a [i64],
}

impl<'a> MomentsView<'a> {
    /// Reads `table` as one of `shape`.
    ///
    /// # Errors
    /// When it is not of that shape, has a count below zero, or sums that overflow when `alone` and
    /// `paired` are put together. Nothing can go wrong after that.
    pub fn new(shape: &'a MomentsShape, table: &'a Table) -> Result<Self, ViewError> {
        let at = MomentsCells::of(shape);
        let cells = view::cells(table, at.total)?;
        for exit in &at.exits {
            view::counts(cells, exit.alone.n.clone())?;
            if let Some(paired) = &exit.paired {
                view::counts(cells, paired.sums.n.clone())?;
                view::addable(cells, exit.alone.all(), paired.sums.all())?;
            }
        }
        view::counts(cells, at.non_finite..at.total)?;
        Ok(Self { shape, at, cells })
    }

    /// The shape it is read as.
    pub fn shape(&self) -> &'a MomentsShape {
        self.shape
    }

    /// `n_k`: samples of each class at exit `e`, shape `[K]`.
    pub fn count(&self, e: usize) -> Vec<u64> {
        self.both(e, |sums| sums.n.clone()).map(view::count).collect()
    }

    /// `Σ_k n_k`: samples of all classes at exit `e`. A table that no fleet can have may count more than there are numbers
    /// for: then the largest number.
    pub fn samples(&self, e: usize) -> u64 {
        total(&self.count(e))
    }

    /// `S_{e,k}`: class sums at exit `e`, shape `[K·D]`, class-major, in units of `2^-sum_bits`.
    pub fn sum(&self, e: usize) -> Vec<i64> {
        self.both(e, |sums| sums.sum.clone()).collect()
    }

    /// `Σ‖z‖²` of each class at exit `e`, shape `[K]`, in units of `2^(-2·product_bits)`.
    pub fn squares(&self, e: usize) -> Vec<i64> {
        self.both(e, |sums| sums.sq.clone()).collect()
    }

    /// `μ_{e,k}`: class means at exit `e`, shape `[K, D]`, in the activation's own unit. A class without
    /// samples has a row of zeros; [`count`](Self::count) tells it apart.
    pub fn means(&self, e: usize, scale: &Scale) -> Array2<f64> {
        let dim = self.shape.exits[e].dim;
        let counts = self.count(e);
        let sums = self.sum(e);
        Array2::from_shape_fn((self.shape.classes, dim), |(class, at)| match counts[class] {
            0 => 0.0,
            n => sums[class * dim + at] as f64 / n as f64 * scale.sum_unit(),
        })
    }

    /// Samples of each class that are in [`products`](Self::products), shape `[K]`; zeros where the query
    /// asked for none.
    pub fn paired_count(&self, e: usize) -> Vec<u64> {
        match &self.at.exits[e].paired {
            Some(paired) => self.cells[paired.sums.n.clone()].iter().copied().map(view::count).collect(),
            None => vec![0; self.shape.classes],
        }
    }

    /// [`samples`](Self::samples) of the nodes that sent second moments.
    pub fn paired_samples(&self, e: usize) -> u64 {
        total(&self.paired_count(e))
    }

    /// Class sums of the numbers that were multiplied for [`products`](Self::products), shape `[K·D]`,
    /// class-major, in units of `2^-sum_bits`. Empty where the query asked for none.
    pub fn paired_sum(&self, e: usize) -> Vec<i64> {
        let Some(paired) = &self.at.exits[e].paired else { return Vec::new() };
        let sums = &self.cells[paired.sums.sum.clone()];
        sums.iter()
            .zip(&self.cells[paired.rest.clone()])
            .map(|(sum, rest)| sum.saturating_sub(*rest))
            .collect()
    }

    /// `G_e`: lower triangle of the second moment at exit `e`, row-major, `D(D+1)/2` cells, in units of
    /// `2^(-2·product_bits)`. Empty where the query asked for none.
    pub fn products(&self, e: usize) -> &'a [i64] {
        self.at.exits[e].paired.as_ref().map_or(&[], |paired| &self.cells[paired.products.clone()])
    }

    /// Samples that the nodes left out; `samples` is all that were counted or left out.
    pub fn excluded(&self) -> Excluded {
        let [non_finite, out_of_scale] =
            [self.at.non_finite, self.at.out_of_scale].map(|cell| view::count(self.cells[cell]));
        let counted = match self.shape.exits.len() {
            0 => 0,
            _ => self.count(0).iter().fold(0_u64, |total, n| total.saturating_add(*n)),
        };
        let samples = counted.saturating_add(non_finite).saturating_add(out_of_scale);
        Excluded { non_finite, out_of_scale, samples }
    }

    /// Classes withheld, summed over the nodes.
    pub fn withheld_classes(&self) -> u64 {
        view::count(self.cells[self.at.withheld_classes])
    }

    /// `alone` plus `paired`, cell by cell; checked not to overflow.
    fn both(
        &self,
        e: usize,
        part: impl Fn(&SumCells) -> std::ops::Range<usize>,
    ) -> impl Iterator<Item = i64> {
        let exit = &self.at.exits[e];
        let paired = exit.paired.as_ref().map(|paired| &self.cells[part(&paired.sums)]);
        self.cells[part(&exit.alone)]
            .iter()
            .enumerate()
            .map(move |(i, alone)| alone + paired.map_or(0, |paired| paired[i]))
    }
}

fn total(counts: &[u64]) -> u64 {
    counts.iter().fold(0, |total, n| total.saturating_add(*n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ExitShape;

    fn shape() -> MomentsShape {
        let exit = |second| ExitShape { dim: 2, second };
        MomentsShape { classes: 2, exits: vec![exit(true), exit(false)] }
    }

    fn table(cells: &[(&str, usize, i64)]) -> Table {
        let layout = shape().layout();
        let mut table = vec![0; layout.cells()];
        for (name, at, value) in cells {
            table[layout.range(name).unwrap()][*at] = *value;
        }
        Table::from_cells(table)
    }

    #[test]
    fn means_come_from_both_parts_and_covariances_from_one() {
        let shape = shape();
        let table = table(&[
            ("e0.alone.n", 0, 1),
            ("e0.alone.sum", 1, 40),
            ("e0.alone.sq", 0, 7),
            ("e0.paired.n", 0, 3),
            ("e0.paired.sum", 1, -8),
            ("e0.paired.sq", 0, 5),
            ("e0.paired.rest", 1, 3),
            ("e0.products", 2, 9),
            ("excluded.non_finite", 0, 1),
            ("excluded.out_of_scale", 0, 2),
            ("withheld_classes", 0, 4),
        ]);
        let view = MomentsView::new(&shape, &table).unwrap();
        assert_eq!(view.count(0), [4, 0]);
        assert_eq!(view.sum(0), [0, 32, 0, 0]);
        assert_eq!(view.squares(0), [12, 0]);
        assert_eq!(view.means(0, &Scale::new(2)), ndarray::array![[0.0, 2.0], [0.0, 0.0]]);
        assert_eq!(view.paired_count(0), [3, 0]);
        assert_eq!(view.paired_sum(0), [0, -11, 0, 0]);
        assert_eq!(view.products(0), [0, 0, 9]);
        assert_eq!(
            (view.paired_count(1), view.paired_sum(1).len(), view.products(1).len()),
            (vec![0, 0], 0, 0)
        );
        assert_eq!(view.excluded(), Excluded { non_finite: 1, out_of_scale: 2, samples: 7 });
        assert_eq!(view.withheld_classes(), 4);
    }

    #[test]
    fn a_table_that_no_fleet_can_have_is_refused() {
        let shape = shape();
        let refused = |cells: &[(&str, usize, i64)]| MomentsView::new(&shape, &table(cells)).unwrap_err();
        let at = |name: &str| shape.layout().range(name).unwrap().start;
        assert_eq!(
            refused(&[("e1.alone.n", 1, -3)]),
            ViewError::NegativeCount { cell: at("e1.alone.n") + 1, found: -3 }
        );
        assert_eq!(
            refused(&[("withheld_classes", 0, -1)]),
            ViewError::NegativeCount { cell: at("withheld_classes"), found: -1 }
        );
        assert_eq!(
            refused(&[("e0.alone.sum", 2, i64::MAX), ("e0.paired.sum", 2, 1)]),
            ViewError::Overflow { cell: at("e0.alone.sum") + 2, other: at("e0.paired.sum") + 2 }
        );
        let cells = shape.layout().cells();
        assert_eq!(
            MomentsView::new(&shape, &Table::zeros(cells - 1)).unwrap_err(),
            ViewError::Cells { found: cells - 1, expected: cells }
        );
    }

    #[test]
    fn counts_that_no_fleet_can_have_add_up_to_the_largest_number() {
        let shape = MomentsShape { classes: 3, exits: vec![ExitShape { dim: 1, second: true }] };
        let layout = shape.layout();
        let mut cells = vec![0; layout.cells()];
        for name in ["e0.alone.n", "e0.paired.n"] {
            assert_eq!(cells[layout.range(name).unwrap()].len(), 3);
        }
        cells[layout.range("e0.paired.n").unwrap()].fill(i64::MAX);
        let table = Table::from_cells(cells);
        let view = MomentsView::new(&shape, &table).unwrap();
        assert_eq!((view.samples(0), view.paired_samples(0)), (u64::MAX, u64::MAX));
    }
}
