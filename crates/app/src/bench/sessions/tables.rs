//! Tables that nobody measured: as large as asked, valid for class sums, and different for every node.
//!
//! Every node has a cell of its own that holds one unit, as the samples of a simulated federation have
//! (`exeunt_simulate::faults`): in the sum over all of them a 2 is a double count and a 0 a loss. All other cells are the
//! same noise for everybody, so the sum over the fleet is known without adding anything up.

use exeunt_stats::packed::{self, BLOCK};
use exeunt_stats::{MomentsShape, Table};

use crate::failure::BadInput;

/// Classes of the made-up run.
pub(super) const CLASSES: usize = 10;
/// Samples of each class that every node claims.
const SAMPLES: i64 = 20;
/// Bytes of a cell of noise: what class sums of a few thousand samples take.
const NOISE_BYTES: u64 = 4;
/// Smallest noise: every block of it needs all its bytes.
const NOISE_LEAST: i64 = 1 << 30;

/// The tables of a fleet.
#[derive(Debug)]
pub(crate) struct Tables {
    nodes: usize,
    dim: usize,
    base: Vec<i64>,
    packed: Vec<u8>,
    /// Where in `packed` each block with a node's cell begins, and the end of the last.
    blocks: Vec<usize>,
}

/// What became of the units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    /// Nodes whose unit is missing.
    pub(super) lost: u64,
    /// Nodes whose unit is there more than once.
    pub(super) twice: u64,
    /// Whether the sum is right in every cell.
    pub(super) exact: bool,
}

impl Tables {
    /// Tables of about `bytes` bytes as they travel, for so many nodes.
    pub(crate) fn new(nodes: usize, bytes: u64) -> anyhow::Result<Self> {
        let marks = nodes as u64;
        let least = 1_000 + marks * 3 / 8;
        if bytes < least {
            let why = format!("--table: found {bytes} bytes, expected at least {least} with {nodes} nodes");
            return Err(BadInput(why).into());
        }
        // Cells with units take next to nothing, but for the block that ends in noise.
        let noise = bytes.saturating_sub(marks / BLOCK as u64 + marks % BLOCK as u64 * NOISE_BYTES);
        let cells = marks + noise.div_ceil(NOISE_BYTES).max(CLASSES as u64);
        let dim = usize::try_from(cells.div_ceil(CLASSES as u64))?;
        let mut tables = Self { nodes, dim, base: Vec::new(), packed: Vec::new(), blocks: Vec::new() };
        let layout = tables.shape().layout();
        let range = |name: &str| layout.range(name).unwrap_or_default();
        let mut base = vec![0; layout.cells()];
        base[range("e0.alone.n")].fill(SAMPLES);
        base[range("e0.alone.sq")].fill(SAMPLES << 20);
        let numbers = super::super::noise(7, CLASSES * dim - nodes);
        for (cell, number) in base[range("e0.alone.sum")].iter_mut().skip(nodes).zip(numbers) {
            let magnitude = (number.abs() * NOISE_LEAST as f32) as i64;
            *cell = if number < 0.0 { -(NOISE_LEAST + magnitude) } else { NOISE_LEAST + magnitude };
        }
        let mut at = 0;
        for block in base.chunks(BLOCK).take((tables.first_mark() + nodes).div_ceil(BLOCK)) {
            tables.blocks.push(at);
            at += packed::encode(block).len();
        }
        tables.blocks.push(at);
        tables.packed = packed::encode(&base);
        tables.base = base;
        Ok(tables)
    }

    /// The shape of the query that they answer.
    pub(super) fn shape(&self) -> MomentsShape {
        MomentsShape {
            classes: CLASSES,
            exits: vec![exeunt_stats::ExitShape { dim: self.dim, second: false }],
        }
    }

    /// Numbers per sample at the run's exit.
    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// Bytes of a table as it travels, within a few.
    pub(crate) fn bytes(&self) -> u64 {
        self.packed.len() as u64
    }

    /// Nodes that have one.
    pub(super) fn nodes(&self) -> usize {
        self.nodes
    }

    /// Cells of a table.
    pub(crate) fn cells(&self) -> usize {
        self.base.len()
    }

    fn first_mark(&self) -> usize {
        CLASSES
    }

    /// A node's table, packed.
    pub(crate) fn of(&self, node: usize) -> Vec<u8> {
        let cell = self.first_mark() + node;
        let block = cell / BLOCK;
        let start = block * BLOCK;
        let mut cells = self.base[start..self.base.len().min(start + BLOCK)].to_vec();
        cells[cell - start] += 1;
        let marked = packed::encode(&cells);
        [&self.packed[..self.blocks[block]], &marked, &self.packed[self.blocks[block + 1]..]].concat()
    }

    /// Compares a sum over the fleet with what it must be.
    pub(super) fn check(&self, sum: &Table) -> Counted {
        let mut counted = Counted { lost: 0, twice: 0, exact: sum.len() == self.base.len() };
        let marks = self.first_mark()..self.first_mark() + self.nodes;
        for (cell, (found, base)) in sum.cells().iter().zip(&self.base).enumerate() {
            let expected = base * self.nodes as i64 + i64::from(marks.contains(&cell));
            counted.exact &= *found == expected;
            if marks.contains(&cell) {
                counted.lost += u64::from(*found < expected);
                counted.twice += u64::from(*found > expected);
            }
        }
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_about_as_large_as_asked_and_of_their_shape() {
        for (nodes, bytes) in [(20, 5_000), (1, 1_000_000), (10_000, 100_000), (3_000, 10_000)] {
            let tables = Tables::new(nodes, bytes).unwrap();
            let found = tables.of(nodes - 1).len() as f64 / bytes as f64;
            assert!((0.9..1.1).contains(&found), "{nodes} × {bytes}: {found} of it");
            assert_eq!(tables.shape().layout().cells(), tables.cells());
            assert!(packed::decode(&tables.of(0), tables.cells()).is_ok());
        }
        assert!(Tables::new(10_000, 1_000).is_err());
    }

    #[test]
    fn a_lost_and_a_doubled_table_are_noticed() {
        let tables = Tables::new(2_000, 5_000).unwrap();
        let sum = |of: &mut dyn Iterator<Item = usize>| {
            let mut sum = Table::zeros(tables.cells());
            of.for_each(|node| sum.merge_packed(&tables.of(node)).unwrap());
            tables.check(&sum)
        };
        assert_eq!(sum(&mut (0..2_000)), Counted { lost: 0, twice: 0, exact: true });
        assert_eq!(sum(&mut (0..1_999)), Counted { lost: 1, twice: 0, exact: false });
        // One in the place of another: nothing but the units would tell.
        let swapped = Counted { lost: 1, twice: 1, exact: false };
        assert_eq!(sum(&mut (0..1_999).chain([5])), swapped);
    }
}
