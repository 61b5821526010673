//! The shape of a `Range` answer.

use serde::{Deserialize, Serialize};

use crate::Layout;

/// Per exit: how many samples had their largest magnitude in each power of two (DESIGN, `Range`).
///
/// Sections of exit `e`: `e{e}.zero[1]` (every value zero), `e{e}.bins[128]` (bin `i`: largest magnitude
/// in `[2^(i-64), 2^(i-63))`, the outermost bins taking what lies beyond them), `e{e}.non_finite[1]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeLayout {
    /// Number of exits.
    pub exits: usize,
}

impl RangeLayout {
    /// Bins per exit.
    pub const BINS: usize = 128;
    /// Cells per exit: the bins, zeros and non-finite samples.
    pub const CELLS_PER_EXIT: usize = Self::BINS + 2;
    /// The exponent of the first bin.
    pub const FIRST_EXPONENT: i8 = -64;

    /// The layout of the table.
    pub fn layout(&self) -> Layout {
        Layout::new((0..self.exits).flat_map(|e| {
            [(format!("e{e}.zero"), 1), (format!("e{e}.bins"), Self::BINS), (format!("e{e}.non_finite"), 1)]
        }))
    }
}
