//! Adds samples up, exactly.

use ndarray::ArrayView2;

use super::MomentsPlan;
use super::products::{CHUNK, Scratch};
use super::quantise::{add_to_rests, add_to_sums, squared_norm, to_factors};
use crate::batch::{self, AbsorbError, Admission, BatchError, Excluded, Rows, SetupError};
use crate::shape::{MomentsCells, SumCells};
use crate::{Floors, MomentsShape, Scale, Table};

/// Samples that one accumulator takes at most, others that it absorbed included: 2³² products under 2³⁰,
/// or sums of terms under 2²³, cannot overflow.
const MOST_SAMPLES: u64 = 1 << 32;

/// Why an accumulator has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FinishError {
    /// More than one sample in a thousand was left out. The query comes again with a wider scale.
    #[error(
        "of {} samples {} are not finite and {} beyond the scale, more than one in a thousand",
        .0.samples, .0.non_finite, .0.out_of_scale
    )]
    TooManyExcluded(Excluded),
    /// A class is below the floor after all, because samples of it were left out or never came, and its
    /// products can no longer be taken out. Rare: set up again with the count found, so that the class is
    /// withheld from the start.
    #[error("class {class} has {found} samples, expected at least {expected}")]
    ClassFell {
        /// The class.
        class: usize,
        /// Its samples that were counted.
        found: u64,
        /// The floor.
        expected: u64,
    },
}

/// Adds samples to class sums, squared norms and second moments (METHOD, "Sums that are exact").
///
/// The table depends on the samples alone, bit for bit: not on their order or batches, nor on how they
/// were spread over accumulators that [absorbed](Self::absorb) each other. To use several threads, give
/// each a [`sibling`](Self::sibling).
///
/// # Memory
/// The table (`8 · cells` bytes), and where second moments are sent, per exit a chunk of 256 waiting rows
/// at 2 bytes a number, and once, for the exit with the largest `D`, `4096 · D` bytes. For nine exits of
/// `D` = 1024 and 10 classes: 39 MB of table, 4.7 MB of waiting rows, 4.2 MB of scratch.
#[derive(Clone, Debug)]
pub struct MomentsAccumulator {
    shape: MomentsShape,
    scales: Vec<Scale>,
    floors: Floors,
    plan: MomentsPlan,
    cells: MomentsCells,
    table: Table,
    seen: Excluded,
    /// Per exit: quantised rows; of one sample only, where no products are summed.
    waiting: Vec<Vec<i16>>,
    scratch: Scratch,
}

impl MomentsAccumulator {
    /// An accumulator for a node with so many samples of each class, in all its threads together; they
    /// decide what is withheld (see [`MomentsPlan`]).
    ///
    /// # Errors
    /// When there is not one scale per exit and one count per class.
    pub fn new(
        shape: MomentsShape,
        scales: Vec<Scale>,
        class_counts: &[u64],
        floors: &Floors,
    ) -> Result<Self, SetupError> {
        SetupError::length("scales", scales.len(), shape.exits.len())?;
        let plan = MomentsPlan::new(&shape, class_counts, floors)?;
        let cells = MomentsCells::of(&shape);
        Ok(Self {
            table: Table::zeros(cells.total),
            waiting: vec![Vec::new(); shape.exits.len()],
            seen: Excluded::default(),
            scratch: Scratch::default(),
            floors: *floors,
            shape,
            scales,
            plan,
            cells,
        })
    }

    /// An empty accumulator with the same settings, to [absorb](Self::absorb) later.
    pub fn sibling(&self) -> Self {
        Self {
            shape: self.shape.clone(),
            scales: self.scales.clone(),
            floors: self.floors,
            plan: self.plan.clone(),
            cells: self.cells.clone(),
            table: Table::zeros(self.cells.total),
            seen: Excluded::default(),
            waiting: vec![Vec::new(); self.shape.exits.len()],
            scratch: Scratch::default(),
        }
    }

    /// What is withheld and which exits send second moments.
    pub fn plan(&self) -> &MomentsPlan {
        &self.plan
    }

    /// Samples seen and left out so far; those of withheld classes are skipped and not in it.
    pub fn excluded(&self) -> Excluded {
        self.seen
    }

    /// Adds a batch: labels, and per exit the activations as a `[samples, D]` matrix.
    ///
    /// # Errors
    /// When shapes or labels do not fit; nothing was then added. [`BatchError::Overflow`] comes after
    /// more than 2³² samples, or 2³³/`D` very large ones, and leaves part of the batch added.
    pub fn add(&mut self, labels: &[u32], z: &[ArrayView2<'_, f32>]) -> Result<(), BatchError> {
        let dims = self.shape.exits.iter().map(|exit| exit.dim);
        batch::check(z, self.shape.exits.len(), dims, Some(labels.len()))?;
        let classes = self.shape.classes;
        for (sample, found) in labels.iter().enumerate() {
            if *found as usize >= classes {
                return Err(BatchError::Label { sample, found: *found, classes });
            }
        }
        if self.seen.samples + labels.len() as u64 > MOST_SAMPLES {
            return Err(BatchError::Overflow);
        }
        let rows = Rows::of(z);
        for (sample, label) in labels.iter().enumerate() {
            let class = *label as usize;
            if self.plan.withheld()[class] {
                continue;
            }
            let all = rows.iter().map(|rows| rows.row(sample)).zip(&self.scales);
            if self.seen.admit(Admission::of(all)) {
                for (exit, rows) in rows.iter().enumerate() {
                    self.add_at(exit, class, rows.row(sample))?;
                }
            }
        }
        Ok(())
    }

    /// Adds one admitted sample at one exit.
    fn add_at(&mut self, exit: usize, class: usize, row: &[f32]) -> Result<(), BatchError> {
        let scale = self.scales[exit];
        let waiting = &mut self.waiting[exit];
        let second = self.plan.second()[exit];
        if !second {
            waiting.clear();
        }
        let before = waiting.len();
        to_factors(row, scale, waiting);
        let norm = squared_norm(&waiting[before..]).ok_or(BatchError::Overflow)?;
        let full = waiting.len() >= CHUNK * row.len();

        let target = self.cells.exits[exit].target(second);
        let cells = self.table.cells_mut();
        let sq = &mut cells[target.sq.start + class];
        *sq = sq.checked_add(norm).ok_or(BatchError::Overflow)?;
        cells[target.n.start + class] += 1;
        let of_class = class * row.len()..(class + 1) * row.len();
        add_to_sums(&mut cells[target.sum.clone()][of_class.clone()], row, scale);
        if let (true, Some(paired)) = (second, &self.cells.exits[exit].paired) {
            add_to_rests(&mut cells[paired.rest.clone()][of_class], row, &waiting[before..], scale);
        }
        if second && full {
            self.multiply(exit);
        }
        Ok(())
    }

    /// Turns the waiting rows of an exit into products.
    fn multiply(&mut self, exit: usize) {
        if let (true, Some(paired)) = (self.plan.second()[exit], &self.cells.exits[exit].paired) {
            let products = &mut self.table.cells_mut()[paired.products.clone()];
            self.scratch.add_products(&self.waiting[exit], self.shape.exits[exit].dim, products);
        }
        self.waiting[exit].clear();
    }

    fn multiply_all(&mut self) {
        for exit in 0..self.shape.exits.len() {
            self.multiply(exit);
        }
    }

    /// Takes in everything that another accumulator of the same settings has added.
    ///
    /// # Errors
    /// When it was set up differently, or a sum overflows.
    pub fn absorb(&mut self, mut other: Self) -> Result<(), AbsorbError> {
        let same = self.shape == other.shape
            && self.scales == other.scales
            && self.floors == other.floors
            && self.plan == other.plan;
        if !same {
            return Err(AbsorbError::Setup);
        }
        if self.seen.samples + other.seen.samples > MOST_SAMPLES {
            return Err(AbsorbError::Overflow);
        }
        other.multiply_all();
        self.table.merge(&other.table)?;
        self.seen.add(other.seen);
        Ok(())
    }

    /// The table, in the shape of [`MomentsShape`].
    ///
    /// The floors hold for what was really counted: a class that fell below is taken out and counted as
    /// withheld, and where an exit's samples fell below its floor, its class sums are sent alone.
    ///
    /// # Errors
    /// When too many samples were left out, or a class fell below the floor and is in products.
    pub fn finish(mut self) -> Result<Table, FinishError> {
        if self.seen.too_many() {
            return Err(FinishError::TooManyExcluded(self.seen));
        }
        self.multiply_all();
        let mut withheld = self.plan.withheld().to_vec();
        let samples = self.seen.samples - self.seen.total();
        for exit in 0..self.shape.exits.len() {
            if self.plan.second()[exit] && !self.floors.allows_second(samples, self.shape.exits[exit].dim) {
                self.send_alone(exit);
            }
        }
        for exit in 0..self.shape.exits.len() {
            self.take_out_fallen(exit, &mut withheld)?;
        }
        let withheld = withheld.iter().filter(|withheld| **withheld).count();
        let cells = self.table.cells_mut();
        cells[self.cells.non_finite] = self.seen.non_finite as i64;
        cells[self.cells.out_of_scale] = self.seen.out_of_scale as i64;
        cells[self.cells.withheld_classes] = withheld as i64;
        Ok(self.table)
    }

    /// Moves an exit's class sums from `paired` to `alone`, and forgets its products.
    fn send_alone(&mut self, exit: usize) {
        let MomentsCells { exits, .. } = &self.cells;
        let cells = self.table.cells_mut();
        if let Some(paired) = &exits[exit].paired {
            cells.copy_within(paired.sums.all(), exits[exit].alone.all().start);
            cells[paired.sums.all()].fill(0);
            cells[paired.rest.clone()].fill(0);
            cells[paired.products.clone()].fill(0);
        }
    }

    /// Takes classes that are below the floor out of an exit's sums.
    fn take_out_fallen(&mut self, exit: usize, withheld: &mut [bool]) -> Result<(), FinishError> {
        let dim = self.shape.exits[exit].dim;
        let at = &self.cells.exits[exit];
        let cells = self.table.cells_mut();
        let count = |cells: &[i64], sums: &SumCells, class: usize| cells[sums.n.start + class] as u64;
        for class in 0..self.shape.classes {
            if let Some(paired) = &at.paired {
                let found = count(cells, &paired.sums, class);
                if self.floors.withholds(found) {
                    return Err(FinishError::ClassFell { class, found, expected: self.floors.min_count });
                }
            }
            if self.floors.withholds(count(cells, &at.alone, class)) {
                withheld[class] = true;
                cells[at.alone.n.start + class] = 0;
                cells[at.alone.sum.start + class * dim..][..dim].fill(0);
                cells[at.alone.sq.start + class] = 0;
            }
        }
        Ok(())
    }
}
