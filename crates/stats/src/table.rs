//! The flat table that every answer is.

use serde::{Deserialize, Serialize};

use crate::{Digest, Hasher};

/// A flat run of integers; what they mean comes from a [`Layout`](crate::Layout).
///
/// Tables of one layout form a commutative group under [`merge`](Table::merge) as long as nothing
/// overflows, and an overflow is an error that changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Table {
    cells: Vec<i64>,
}

/// Why two tables cannot be merged or subtracted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// They are not of the same layout.
    #[error("table has {found} cells, expected {expected}")]
    Cells {
        /// Cells of the table that was to be added or taken out.
        found: usize,
        /// Cells of the table it met.
        expected: usize,
    },
    /// A cell would leave the range of `i64`.
    #[error("cell {cell} overflows")]
    Overflow {
        /// The first such cell.
        cell: usize,
    },
}

impl Table {
    /// A table of `cells` zeros: what merging starts from.
    pub fn zeros(cells: usize) -> Self {
        Self { cells: vec![0; cells] }
    }

    /// A table of the given cells.
    pub fn from_cells(cells: Vec<i64>) -> Self {
        Self { cells }
    }

    /// The cells.
    pub fn cells(&self) -> &[i64] {
        &self.cells
    }

    /// The cells, for the modules of this crate that fill tables.
    pub(crate) fn cells_mut(&mut self) -> &mut [i64] {
        &mut self.cells
    }

    /// The cells, without the table.
    pub fn into_cells(self) -> Vec<i64> {
        self.cells
    }

    /// How many cells there are.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether there is no cell.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Adds `other`, cell by cell.
    ///
    /// # Errors
    /// When lengths differ or a cell overflows; `self` is then unchanged.
    pub fn merge(&mut self, other: &Self) -> Result<(), TableError> {
        self.combine(other, i64::overflowing_add)
    }

    /// Takes `other` out again, cell by cell: exactly the inverse of [`merge`](Self::merge).
    ///
    /// # Errors
    /// When lengths differ or a cell overflows; `self` is then unchanged.
    pub fn subtract(&mut self, other: &Self) -> Result<(), TableError> {
        self.combine(other, i64::overflowing_sub)
    }

    fn combine(
        &mut self,
        other: &Self,
        operation: impl Fn(i64, i64) -> (i64, bool),
    ) -> Result<(), TableError> {
        if other.len() != self.len() {
            return Err(TableError::Cells { found: other.len(), expected: self.len() });
        }
        if let Some(cell) = first_overflow(&self.cells, &other.cells, &operation) {
            return Err(TableError::Overflow { cell });
        }
        for (mine, theirs) in self.cells.iter_mut().zip(&other.cells) {
            *mine = operation(*mine, *theirs).0;
        }
        Ok(())
    }

    /// The digest of the cells, each as 8 little-endian bytes. Two tables have the same digest exactly
    /// when they are the same bit for bit, however they were packed.
    pub fn digest(&self) -> Digest {
        let mut hasher = CellHasher::default();
        hasher.update(&self.cells);
        hasher.finish()
    }
}

/// Hashes cells as they come, in whatever pieces.
#[derive(Default)]
pub(crate) struct CellHasher(Hasher);

impl CellHasher {
    pub(crate) fn update(&mut self, cells: &[i64]) {
        let mut bytes = [0_u8; 8 * 1024];
        for chunk in cells.chunks(1024) {
            for (bytes, cell) in bytes.chunks_exact_mut(8).zip(chunk) {
                bytes.copy_from_slice(&cell.to_le_bytes());
            }
            self.0.update(&bytes[..8 * chunk.len()]);
        }
    }

    pub(crate) fn finish(&self) -> Digest {
        self.0.digest()
    }
}

/// The first cell where `operation` overflows. Whole blocks are tested without a branch per cell.
pub(crate) fn first_overflow(
    mine: &[i64],
    theirs: &[i64],
    operation: impl Fn(i64, i64) -> (i64, bool),
) -> Option<usize> {
    const BLOCK: usize = 1024;
    let blocks = mine.chunks(BLOCK).zip(theirs.chunks(BLOCK));
    for (block, (mine, theirs)) in blocks.enumerate() {
        let pairs = || mine.iter().zip(theirs);
        if pairs().fold(false, |any, (a, b)| any | operation(*a, *b).1) {
            let within = pairs().position(|(a, b)| operation(*a, *b).1)?;
            return Some(block * BLOCK + within);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Small enough that a few of them add without overflow.
    fn tables(count: usize) -> impl Strategy<Value = Vec<Table>> {
        let cell = prop_oneof![
            3 => -1000_i64..1000,
            1 => (i64::MIN / 8)..(i64::MAX / 8),
            1 => Just(0),
        ];
        (0_usize..40).prop_flat_map(move |cells| {
            let table = prop::collection::vec(cell.clone(), cells).prop_map(Table::from_cells);
            prop::collection::vec(table, count)
        })
    }

    fn merged(mut a: Table, b: &Table) -> Table {
        a.merge(b).unwrap();
        a
    }

    proptest! {
        #[test]
        fn merge_is_associative_and_commutative(tables in tables(3)) {
            let [a, b, c] = tables.try_into().unwrap();
            prop_assert_eq!(merged(a.clone(), &b), merged(b.clone(), &a));
            prop_assert_eq!(
                merged(merged(a.clone(), &b), &c),
                merged(a, &merged(b, &c))
            );
        }

        #[test]
        fn subtract_undoes_merge(tables in tables(2)) {
            let [a, b] = tables.try_into().unwrap();
            let mut both = merged(a.clone(), &b);
            both.subtract(&b).unwrap();
            prop_assert_eq!(&both, &a);
            both.subtract(&a).unwrap();
            prop_assert_eq!(both, Table::zeros(a.len()));
        }

        #[test]
        fn overflow_is_an_error_that_changes_nothing(
            cells in prop::collection::vec(any::<i64>(), 1..3000),
            at in any::<prop::sample::Index>(),
            excess in 1_i64..,
        ) {
            let at = at.index(cells.len());
            let mut cells = cells;
            let mut other = vec![0; cells.len()];
            cells[at] = i64::MAX;
            other[at] = excess;
            let before = Table::from_cells(cells);
            let mut table = before.clone();
            let other = Table::from_cells(other);
            prop_assert_eq!(table.merge(&other), Err(TableError::Overflow { cell: at }));
            prop_assert_eq!(&table, &before);

            let mut cells = before.into_cells();
            cells[at] = i64::MIN + excess - 1;
            let before = Table::from_cells(cells);
            let mut table = before.clone();
            prop_assert_eq!(table.subtract(&other), Err(TableError::Overflow { cell: at }));
            prop_assert_eq!(&table, &before);
        }
    }

    #[test]
    fn tables_of_different_lengths_do_not_meet() {
        let mut table = Table::zeros(2);
        let error = TableError::Cells { found: 3, expected: 2 };
        assert_eq!(table.merge(&Table::zeros(3)), Err(error));
        assert_eq!(table.subtract(&Table::zeros(3)), Err(error));
    }

    #[test]
    fn the_digest_is_that_of_the_little_endian_cells() {
        let cells: Vec<i64> = (-1500..1500).map(|cell| cell * 77).collect();
        let bytes: Vec<u8> = cells.iter().flat_map(|cell| cell.to_le_bytes()).collect();
        assert_eq!(Table::from_cells(cells).digest(), Digest::of(&bytes));
        assert_ne!(Table::zeros(1).digest(), Table::zeros(2).digest());
    }
}
