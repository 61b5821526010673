//! The shape of a `Spread` answer.

use serde::{Deserialize, Serialize};

use super::excluded_sections;
use crate::Layout;

/// Per exit and class: the distances of all samples to the class mean, summed (METHOD, "Early Exit
/// Class Means", step 2: over *all* samples, whatever their label).
///
/// Sections of exit `e`: `e{e}.sum[K]` in units of `2^-sum_bits`, `e{e}.n[1]`. Then, once,
/// `excluded.non_finite[1]`, `excluded.out_of_scale[1]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpreadShape {
    /// `K`: number of classes.
    pub classes: usize,
    /// Number of exits.
    pub exits: usize,
}

impl SpreadShape {
    /// The layout of the table.
    pub fn layout(&self) -> Layout {
        Layout::new(
            (0..self.exits)
                .flat_map(|e| [(format!("e{e}.sum"), self.classes), (format!("e{e}.n"), 1)])
                .chain(excluded_sections()),
        )
    }
}
