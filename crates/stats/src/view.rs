//! What all views check before they read.

use std::ops::Range;

use crate::Table;

/// Why a table cannot be read as a given shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// It is not of that shape.
    #[error("table has {found} cells, expected {expected}")]
    Cells {
        /// Cells of the table.
        found: usize,
        /// Cells of the shape.
        expected: usize,
    },
    /// A count below zero: no honest node sends one, nor can subtracting a counted contribution leave one.
    #[error("cell {cell} counts {found} samples")]
    NegativeCount {
        /// The cell.
        cell: usize,
        /// What it holds.
        found: i64,
    },
    /// Two cells that belong together overflow when they are added.
    #[error("cells {cell} and {other} overflow when added")]
    Overflow {
        /// The one cell.
        cell: usize,
        /// The other cell.
        other: usize,
    },
}

/// Checks the table's length.
pub(crate) fn cells(table: &Table, expected: usize) -> Result<&[i64], ViewError> {
    if table.len() == expected {
        Ok(table.cells())
    } else {
        Err(ViewError::Cells { found: table.len(), expected })
    }
}

/// Checks that `range` holds counts.
pub(crate) fn counts(cells: &[i64], range: Range<usize>) -> Result<(), ViewError> {
    for cell in range {
        let found = cells[cell];
        if found < 0 {
            return Err(ViewError::NegativeCount { cell, found });
        }
    }
    Ok(())
}

/// Checks that two runs of cells can be added pair by pair.
pub(crate) fn addable(cells: &[i64], a: Range<usize>, b: Range<usize>) -> Result<(), ViewError> {
    let (first, second) = (a.start, b.start);
    match crate::table::first_overflow(&cells[a], &cells[b], i64::overflowing_add) {
        None => Ok(()),
        Some(at) => Err(ViewError::Overflow { cell: first + at, other: second + at }),
    }
}

/// A checked count; never negative.
pub(crate) fn count(cell: i64) -> u64 {
    u64::try_from(cell).unwrap_or(0)
}
