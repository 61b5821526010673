//! Merging a packed table without unpacking it first.

use super::{Blocks, PackError};
use crate::table::first_overflow;
use crate::{Table, TableError};

/// Why a packed table cannot be merged or subtracted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackedMergeError {
    /// The bytes are not a table of the right size.
    #[error(transparent)]
    Packed(#[from] PackError),
    /// The tables do not add up.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl Table {
    /// Adds a packed table of the same number of cells, block by block; memory is one block.
    ///
    /// # Errors
    /// When `bytes` is not the encoding of a table of that many cells, or a cell overflows; `self` is
    /// then unchanged: what was added already is taken out again.
    pub fn merge_packed(&mut self, bytes: &[u8]) -> Result<(), PackedMergeError> {
        self.combine_packed(bytes, i64::overflowing_add, i64::wrapping_sub)
    }

    /// Takes a packed table out again: exactly the inverse of [`merge_packed`](Self::merge_packed).
    ///
    /// # Errors
    /// As [`merge_packed`](Self::merge_packed).
    pub fn subtract_packed(&mut self, bytes: &[u8]) -> Result<(), PackedMergeError> {
        self.combine_packed(bytes, i64::overflowing_sub, i64::wrapping_add)
    }

    fn combine_packed(
        &mut self,
        bytes: &[u8],
        operation: impl Fn(i64, i64) -> (i64, bool),
        inverse: impl Fn(i64, i64) -> i64,
    ) -> Result<(), PackedMergeError> {
        let mut done = 0;
        let combined = self.combine_blocks(bytes, &mut done, operation);
        if combined.is_err() {
            let mut start = 0;
            let mut blocks = Blocks::new(bytes, self.len())?;
            while start < done {
                let Some(block) = blocks.next_block()? else { break };
                for (mine, theirs) in self.cells_mut()[start..].iter_mut().zip(block) {
                    *mine = inverse(*mine, *theirs);
                }
                start += block.len();
            }
        }
        combined
    }

    /// Combines whole blocks; `done` says how many cells of them.
    fn combine_blocks(
        &mut self,
        bytes: &[u8],
        done: &mut usize,
        operation: impl Fn(i64, i64) -> (i64, bool),
    ) -> Result<(), PackedMergeError> {
        let mut blocks = Blocks::new(bytes, self.len())?;
        while let Some(block) = blocks.next_block()? {
            self.combine_block(*done, block, &operation)?;
            *done += block.len();
        }
        Ok(())
    }

    /// Combines the cells from `first` on with a block of a table of the same size; all of it or, on an overflow, none.
    pub(super) fn combine_block(
        &mut self,
        first: usize,
        block: &[i64],
        operation: impl Fn(i64, i64) -> (i64, bool),
    ) -> Result<(), TableError> {
        let mine = &mut self.cells_mut()[first..first + block.len()];
        if let Some(cell) = first_overflow(mine, block, &operation) {
            return Err(TableError::Overflow { cell: first + cell });
        }
        for (mine, theirs) in mine.iter_mut().zip(block) {
            *mine = operation(*mine, *theirs).0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packed::encode;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn is_the_merge_of_the_unpacked_table(
            cells in prop::collection::vec((any::<i64>(), -9_i64..9), 0..3000),
        ) {
            let (a, b): (Vec<_>, Vec<_>) = cells.into_iter().map(|(a, b)| (a / 2, b)).unzip();
            let (before, other) = (Table::from_cells(a), Table::from_cells(b));
            let bytes = encode(other.cells());
            let (mut whole, mut packed) = (before.clone(), before.clone());
            whole.merge(&other).unwrap();
            packed.merge_packed(&bytes).unwrap();
            prop_assert_eq!(&whole, &packed);
            packed.subtract_packed(&bytes).unwrap();
            prop_assert_eq!(packed, before);
        }
    }

    #[test]
    fn an_error_late_in_the_bytes_changes_nothing() {
        let mut cells = vec![1; 3000];
        cells[2500] = i64::MAX;
        let before = Table::from_cells(cells);
        let mut table = before.clone();
        let mut bytes = encode(&[1; 3000]);
        assert_eq!(table.merge_packed(&bytes), Err(TableError::Overflow { cell: 2500 }.into()));
        assert_eq!(table, before);
        bytes.push(0);
        assert_eq!(table.subtract_packed(&bytes), Err(PackError::Trailing { bytes: 1 }.into()));
        assert_eq!(table, before);
    }
}
