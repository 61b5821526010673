//! How large activations get: the answer to `Range`, and the scales that follow from it.

use ndarray::ArrayView2;

use crate::batch::{self, AbsorbError, BatchError, Rows, largest_magnitude};
use crate::view::{self, ViewError};
use crate::{RangeLayout, Scale, Table};

/// Counts samples by the power of two of their largest magnitude, per exit.
///
/// Memory: 130 cells per exit.
#[derive(Clone, Debug)]
pub struct RangeCounter {
    exits: usize,
    table: Table,
}

impl RangeCounter {
    /// A counter for so many exits.
    pub fn new(exits: usize) -> Self {
        Self { exits, table: Table::zeros(RangeLayout { exits }.layout().cells()) }
    }

    /// Counts a batch: one `[samples, D]` matrix per exit.
    ///
    /// # Errors
    /// When there is not one matrix per exit, all with as many rows. Nothing was then counted.
    pub fn add(&mut self, z: &[ArrayView2<'_, f32>]) -> Result<(), BatchError> {
        let samples = batch::check(z, self.exits, [], None)?;
        let rows = Rows::of(z);
        for (rows, cells) in rows.iter().zip(self.table.cells_mut().chunks_mut(RangeLayout::CELLS_PER_EXIT)) {
            for sample in 0..samples {
                cells[cell_of(largest_magnitude(rows.row(sample)))] += 1;
            }
        }
        Ok(())
    }

    /// Takes in what another counter saw.
    ///
    /// # Errors
    /// When it counts another number of exits.
    pub fn absorb(&mut self, other: Self) -> Result<(), AbsorbError> {
        if other.exits != self.exits {
            return Err(AbsorbError::Setup);
        }
        self.table.merge(&other.table).map_err(AbsorbError::from)
    }

    /// The table, in the shape of [`RangeLayout`].
    pub fn finish(self) -> Table {
        self.table
    }
}

/// The cell of an exit that counts a sample with this largest magnitude.
fn cell_of(largest: f32) -> usize {
    if !largest.is_finite() {
        return RangeLayout::BINS + 1;
    }
    if largest == 0.0 {
        return 0;
    }
    // Subnormals have exponent field 0 and go to the lowest bin with everything else that small.
    let exponent = (largest.to_bits() >> 23) as i32 - 127;
    let bin = exponent - i32::from(RangeLayout::FIRST_EXPONENT);
    1 + bin.clamp(0, RangeLayout::BINS as i32 - 1) as usize
}

/// The scale for an exit with these range cells (its 130 cells of a merged `Range` table): one bit of
/// headroom above the largest power of two that was seen.
///
/// An exit where nothing but zeros was seen gets [`Scale::default`]; samples that were not finite say
/// nothing about the scale.
pub fn scale_for(range_cells: &[i64]) -> Scale {
    let bins = range_cells.iter().skip(1).take(RangeLayout::BINS);
    let highest = bins.enumerate().rfind(|(_, count)| **count > 0);
    match highest {
        None => Scale::default(),
        // At most 127, and 127 − 64 fits.
        Some((bin, _)) => Scale::for_exponent((bin as i64 + i64::from(RangeLayout::FIRST_EXPONENT)) as i8),
    }
}

/// The scales of all exits from a merged `Range` table.
///
/// # Errors
/// When the table is not of this shape, or counts below zero.
pub fn scales_for(layout: &RangeLayout, table: &Table) -> Result<Vec<Scale>, ViewError> {
    let expected = layout.exits.saturating_mul(RangeLayout::CELLS_PER_EXIT);
    let cells = view::cells(table, expected)?;
    view::counts(cells, 0..cells.len())?;
    Ok(cells.chunks(RangeLayout::CELLS_PER_EXIT).map(scale_for).collect())
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn samples_are_counted_by_power_of_two() {
        let mut counter = RangeCounter::new(2);
        let first = array![[0.0_f32, -0.0], [0.5, -0.99], [3.0, -4.0], [f32::NAN, 1.0]];
        let second = array![[1e-30_f32], [f32::MIN_POSITIVE / 4.0], [f32::MAX], [1.0]];
        counter.add(&[first.view(), second.view()]).unwrap();
        let table = counter.finish();
        let layout = RangeLayout { exits: 2 }.layout();
        let bin = |e: usize, exponent: i32| {
            let bins = layout.range(&format!("e{e}.bins")).unwrap();
            table.cells()[bins][(exponent + 64) as usize]
        };
        assert_eq!(table.cells()[layout.range("e0.zero").unwrap()], [1]);
        assert_eq!(table.cells()[layout.range("e0.non_finite").unwrap()], [1]);
        assert_eq!((bin(0, -1), bin(0, 2)), (1, 1));
        assert_eq!((bin(1, -64), bin(1, 63), bin(1, 0)), (2, 1, 1));
        assert_eq!(table.cells().iter().sum::<i64>(), 8);
        let scales = scales_for(&RangeLayout { exits: 2 }, &table).unwrap();
        assert_eq!(scales, [Scale::for_exponent(2), Scale::for_exponent(63)]);
    }

    #[test]
    fn an_exit_of_zeros_gets_the_default_scale() {
        assert_eq!(scale_for(&[0; 130]), Scale::default());
        let mut cells = [0; 130];
        cells[0] = 5;
        cells[129] = 5;
        assert_eq!(scale_for(&cells), Scale::default());
    }

    #[test]
    fn batches_of_the_wrong_shape_are_refused() {
        let mut counter = RangeCounter::new(2);
        let (two, three) = (Array2::<f32>::zeros((2, 4)), Array2::<f32>::zeros((3, 4)));
        assert_eq!(counter.add(&[two.view()]), Err(BatchError::Exits { found: 1, expected: 2 }));
        assert_eq!(
            counter.add(&[two.view(), three.view()]),
            Err(BatchError::Samples { exit: 1, found: 3, expected: 2 })
        );
        assert_eq!(counter.absorb(RangeCounter::new(1)), Err(AbsorbError::Setup));
        assert_eq!(counter.finish(), Table::zeros(260));
    }

    #[test]
    fn a_table_of_another_shape_gives_no_scales() {
        let layout = RangeLayout { exits: 1 };
        assert_eq!(
            scales_for(&layout, &Table::zeros(131)),
            Err(ViewError::Cells { found: 131, expected: 130 })
        );
        let mut cells = vec![0; 130];
        cells[4] = -1;
        assert_eq!(
            scales_for(&layout, &Table::from_cells(cells)),
            Err(ViewError::NegativeCount { cell: 4, found: -1 })
        );
    }

    proptest! {
        #[test]
        fn everything_that_was_seen_fits_the_scale(
            values in prop::collection::vec(-1e15_f32..1e15, 1..50),
            shrink in 0_i32..60,
        ) {
            let values: Vec<f32> = values.iter().map(|value| value / 2_f32.powi(shrink)).collect();
            let z = Array2::from_shape_vec((values.len(), 1), values.clone()).unwrap();
            let mut counter = RangeCounter::new(1);
            counter.add(&[z.view()]).unwrap();
            let scale = scale_for(counter.finish().cells());
            // One bit of headroom: twice as large fits too, save for the last part in 2¹⁶.
            for value in values {
                prop_assert!(1.999 * f64::from(value.abs()) < scale.limit());
            }
        }
    }
}
