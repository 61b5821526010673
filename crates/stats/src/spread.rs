//! How far samples lie from the class means: the answer to `Spread`, and how it is read.

use ndarray::{Array2, ArrayView2};

use crate::batch::{self, AbsorbError, Admission, BatchError, Excluded, Rows, SetupError};
use crate::moments::{FinishError, round_64};
use crate::view::{self, ViewError};
use crate::{Floors, Scale, SpreadShape, Table};

/// Adds up the distances of all samples to all class means (METHOD, "Early Exit Class Means", step 2).
///
/// A distance is computed in double precision in one fixed order, so it is the same on every machine
/// and in every batch; then it is rounded to a multiple of `2^-sum_bits` and added as an integer.
/// A sample that [`MomentsAccumulator`](crate::MomentsAccumulator) leaves out is left out here too.
///
/// Memory: the means, and `K + 1` cells per exit.
#[derive(Clone, Debug)]
pub struct SpreadAccumulator {
    shape: SpreadShape,
    scales: Vec<Scale>,
    means: Vec<Array2<f32>>,
    present: Vec<Vec<bool>>,
    table: Table,
    seen: Excluded,
}

impl SpreadAccumulator {
    /// An accumulator for these means: per exit a `[K, D]` matrix, and which of its classes there are; the
    /// others keep a spread of 0.
    ///
    /// # Errors
    /// When lengths disagree, or a mean of a class that is present lies where no mean can.
    pub fn new(
        shape: SpreadShape,
        scales: Vec<Scale>,
        means: Vec<Array2<f32>>,
        present: Vec<Vec<bool>>,
    ) -> Result<Self, SetupError> {
        SetupError::length("scales", scales.len(), shape.exits)?;
        SetupError::length("exits with means", means.len(), shape.exits)?;
        SetupError::length("exits with classes", present.len(), shape.exits)?;
        let means: Vec<_> = means.into_iter().map(|means| means.as_standard_layout().into_owned()).collect();
        for (exit, ((means, present), scale)) in means.iter().zip(&present).zip(&scales).enumerate() {
            SetupError::length("class means", means.nrows(), shape.classes)?;
            SetupError::length("classes", present.len(), shape.classes)?;
            for (class, (mean, _)) in means.outer_iter().zip(present).enumerate().filter(|(_, (_, p))| **p) {
                if !mean.iter().all(|z| f64::from(z.abs()) < scale.limit()) {
                    return Err(SetupError::Mean { exit, class });
                }
            }
        }
        let table = Table::zeros(shape.layout().cells());
        Ok(Self { shape, scales, means, present, table, seen: Excluded::default() })
    }

    /// An empty accumulator with the same settings, to [absorb](Self::absorb) later.
    pub fn sibling(&self) -> Self {
        Self { table: Table::zeros(self.table.len()), seen: Excluded::default(), ..self.clone() }
    }

    /// Samples seen and left out so far.
    pub fn excluded(&self) -> Excluded {
        self.seen
    }

    /// Adds a batch: per exit the activations as a `[samples, D]` matrix. Labels play no part.
    ///
    /// # Errors
    /// When shapes do not fit; nothing was then added. [`BatchError::Overflow`] is out of reach for
    /// fewer than 2²⁸ samples of `D` up to 2²⁰, and leaves part of the batch added.
    pub fn add(&mut self, z: &[ArrayView2<'_, f32>]) -> Result<(), BatchError> {
        let dims = self.means.iter().map(Array2::ncols);
        let samples = batch::check(z, self.shape.exits, dims, None)?;
        let rows = Rows::of(z);
        for sample in 0..samples {
            let all = rows.iter().map(|rows| rows.row(sample)).zip(&self.scales);
            if !self.seen.admit(Admission::of(all)) {
                continue;
            }
            let cells = self.table.cells_mut().chunks_mut(self.shape.classes + 1);
            for (exit, (rows, cells)) in rows.iter().zip(cells).enumerate() {
                let row = rows.row(sample);
                let factor = self.scales[exit].sum_factor();
                let means = self.means[exit].as_slice().unwrap_or(&[]);
                let (sums, n) = cells.split_at_mut(self.shape.classes);
                n[0] += 1;
                for (class, sum) in sums.iter_mut().enumerate() {
                    if self.present[exit][class] {
                        let mean = &means[class * row.len()..][..row.len()];
                        // Both lie within the scale, so this is under 2²⁴·√D.
                        let distance = round_64(distance(row, mean) * factor);
                        *sum = sum.checked_add(distance).ok_or(BatchError::Overflow)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes in everything that another accumulator of the same settings has added.
    ///
    /// # Errors
    /// When it was set up differently, or a sum overflows.
    pub fn absorb(&mut self, other: Self) -> Result<(), AbsorbError> {
        let same = self.shape == other.shape
            && self.scales == other.scales
            && self.means == other.means
            && self.present == other.present;
        if !same {
            return Err(AbsorbError::Setup);
        }
        self.table.merge(&other.table)?;
        self.seen.add(other.seen);
        Ok(())
    }

    /// The table, in the shape of [`SpreadShape`]. Over fewer than `min_count` samples it is all zeros: the
    /// distances of a single sample to all means would give it away.
    ///
    /// # Errors
    /// When too many samples were left out.
    pub fn finish(mut self, floors: &Floors) -> Result<Table, FinishError> {
        if self.seen.too_many() {
            return Err(FinishError::TooManyExcluded(self.seen));
        }
        if floors.withholds(self.seen.samples - self.seen.total()) {
            return Ok(Table::zeros(self.table.len()));
        }
        if let [.., non_finite, out_of_scale] = self.table.cells_mut() {
            *non_finite = self.seen.non_finite as i64;
            *out_of_scale = self.seen.out_of_scale as i64;
        }
        Ok(self.table)
    }
}

/// `‖a − b‖₂`, in eight running sums that are added up pairwise: an order that is fixed and that
/// vectorises.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0_f64; 8];
    let (a_blocks, a_rest) = a.as_chunks::<8>();
    let (b_blocks, b_rest) = b.as_chunks::<8>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..8 {
            let difference = f64::from(a[lane]) - f64::from(b[lane]);
            sums[lane] += difference * difference;
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        let difference = f64::from(*a) - f64::from(*b);
        *sum += difference * difference;
    }
    let [a, b, c, d, e, f, g, h] = sums;
    (((a + b) + (c + d)) + ((e + f) + (g + h))).sqrt()
}

/// A `Spread` table, checked, and read by exit.
///
/// # Panics
/// Its methods panic when asked for an exit that the shape does not have.
#[derive(Clone, Debug)]
pub struct SpreadView<'a> {
    shape: &'a SpreadShape,
    cells: &'a [i64],
}

impl<'a> SpreadView<'a> {
    /// Reads `table` as one of `shape`.
    ///
    /// # Errors
    /// When it is not of that shape, or has a count or a sum of distances below zero.
    pub fn new(shape: &'a SpreadShape, table: &'a Table) -> Result<Self, ViewError> {
        let cells = view::cells(table, shape.layout().cells())?;
        view::counts(cells, 0..cells.len())?;
        Ok(Self { shape, cells })
    }

    fn exit(&self, e: usize) -> (&'a [i64], i64) {
        assert!(e < self.shape.exits, "exit {e} of {}", self.shape.exits);
        let classes = self.shape.classes;
        let cells = &self.cells[e * (classes + 1)..][..classes + 1];
        (&cells[..classes], cells[classes])
    }

    /// Samples that were measured at exit `e`.
    pub fn count(&self, e: usize) -> u64 {
        view::count(self.exit(e).1)
    }

    /// `δ_{e,k}`: mean distance of all samples to each class mean, shape `[K]`, in the activation's own
    /// unit. Zero for a class that has no mean, and for every class when no sample was measured.
    pub fn spreads(&self, e: usize, scale: &Scale) -> Vec<f64> {
        let (sums, n) = self.exit(e);
        let n = n.max(1) as f64;
        sums.iter().map(|sum| *sum as f64 / n * scale.sum_unit()).collect()
    }

    /// Samples that the nodes left out; `samples` is all that were counted or left out.
    pub fn excluded(&self) -> Excluded {
        let (non_finite, out_of_scale) = match self.cells {
            [.., non_finite, out_of_scale] => (view::count(*non_finite), view::count(*out_of_scale)),
            _ => (0, 0),
        };
        let counted = if self.shape.exits == 0 { 0 } else { self.count(0) };
        let samples = counted.saturating_add(non_finite).saturating_add(out_of_scale);
        Excluded { non_finite, out_of_scale, samples }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    const SHAPE: SpreadShape = SpreadShape { classes: 2, exits: 2 };

    fn accumulator() -> SpreadAccumulator {
        let means = vec![array![[3.0, 0.0], [9.0, 9.0]], array![[0.0], [1.0]]];
        let present = vec![vec![true, false], vec![true, true]];
        SpreadAccumulator::new(SHAPE, vec![Scale::for_exponent(3); 2], means, present).unwrap()
    }

    #[test]
    fn spreads_are_mean_distances() {
        let mut accumulator = accumulator();
        let (first, second) = (array![[0.0_f32, 4.0], [3.0, 1.0]], array![[2.0_f32], [-1.0]]);
        accumulator.add(&[first.view(), second.view()]).unwrap();
        let table = accumulator.finish(&Floors::OFF).unwrap();
        let view = SpreadView::new(&SHAPE, &table).unwrap();
        let scale = Scale::for_exponent(3);
        assert_eq!(view.spreads(0, &scale), [3.0, 0.0]);
        assert_eq!(view.spreads(1, &scale), [1.5, 1.5]);
        assert_eq!((view.count(0), view.count(1)), (2, 2));
        let layout = SHAPE.layout();
        assert_eq!(table.cells()[layout.range("e1.n").unwrap()], [2]);
        assert_eq!(table.cells()[layout.range("e1.sum").unwrap()][0], 3 << 18);
    }

    #[test]
    fn samples_that_do_not_fit_are_counted_and_left_out() {
        let mut accumulator = accumulator();
        let mut first = Array2::<f32>::zeros((3000, 2));
        let mut second = Array2::<f32>::zeros((3000, 1));
        first[(7, 1)] = f32::NAN;
        second[(9, 0)] = 40.0;
        accumulator.add(&[first.view(), second.view()]).unwrap();
        let table = accumulator.clone().finish(&Floors::OFF).unwrap();
        let view = SpreadView::new(&SHAPE, &table).unwrap();
        assert_eq!(view.excluded(), Excluded { non_finite: 1, out_of_scale: 1, samples: 3000 });
        assert_eq!((view.count(0), view.count(1)), (2998, 2998));
        accumulator.add(&[first.slice(ndarray::s![6..9, ..]), second.slice(ndarray::s![9..12, ..])]).unwrap();
        let seen = Excluded { non_finite: 2, out_of_scale: 2, samples: 3003 };
        assert_eq!(accumulator.excluded(), seen);
        assert_eq!(accumulator.finish(&Floors::OFF), Err(FinishError::TooManyExcluded(seen)));
    }

    #[test]
    fn too_few_samples_are_withheld() {
        let mut accumulator = accumulator();
        let (first, second) = (Array2::<f32>::zeros((9, 2)), Array2::<f32>::zeros((9, 1)));
        accumulator.add(&[first.view(), second.view()]).unwrap();
        assert!(accumulator.finish(&Floors::default()).unwrap().cells().iter().all(|cell| *cell == 0));
    }

    #[test]
    fn means_are_checked() {
        let set_up = |mean: f32, present: bool| {
            let means = vec![array![[0.0, 0.0], [mean, 0.0]]; 2];
            SpreadAccumulator::new(SHAPE, vec![Scale::default(); 2], means, vec![vec![true, present]; 2])
                .err()
        };
        assert_eq!(set_up(3.0, true), None);
        assert_eq!(set_up(f32::NAN, false), None);
        assert_eq!(set_up(f32::NAN, true), Some(SetupError::Mean { exit: 0, class: 1 }));
        assert_eq!(set_up(1e30, true), Some(SetupError::Mean { exit: 0, class: 1 }));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_table(
            values in prop::collection::vec(-15.0_f32..15.0, 3 * 40),
            cuts in prop::collection::vec(0_usize..40, 0..4),
        ) {
            let z = Array2::from_shape_vec((40, 3), values).unwrap();
            let (first, second) = z.view().split_at(ndarray::Axis(1), 2);
            let mut whole = accumulator();
            whole.add(&[first, second]).unwrap();

            let mut cuts = cuts;
            cuts.extend([0, 40]);
            cuts.sort_unstable();
            let mut parts = accumulator();
            for cut in cuts.windows(2).rev() {
                let rows = ndarray::s![cut[0]..cut[1], ..];
                let mut part = parts.sibling();
                part.add(&[first.slice(rows), second.slice(rows)]).unwrap();
                parts.absorb(part).unwrap();
            }
            prop_assert_eq!(parts.finish(&Floors::OFF), whole.finish(&Floors::OFF));
        }

        #[test]
        fn the_distance_is_the_distance(pairs in prop::collection::vec((-9_f32..9.0, -9_f32..9.0), 0..40)) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let plain: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            prop_assert!((distance(&a, &b) - plain.sqrt()).abs() < 1e-5);
        }
    }
}
