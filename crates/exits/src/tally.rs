//! What policies did, counted: the table of an `Evaluate` query.

use exeunt_stats::{Layout, Table};

/// The shape of an `Evaluate` answer (METHOD, "Calibration").
///
/// Sections: `n[1]` samples and `network_right[1]` of them that the network alone gets right; then, policy-major,
/// `left[P·(E+1)]` samples that left at each exit (the last column: nowhere), `right[P·(E+1)]` of those that were
/// right, and `loss[P]` samples on which the network alone is right and the exit wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TallyShape {
    /// `P`: number of policies.
    pub policies: usize,
    /// `E`: number of exits.
    pub exits: usize,
}

/// Why a table is not a tally.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TallyError {
    /// Not as long as the query's answer.
    #[error("a tally of {found} cells, expected {expected}")]
    Cells {
        /// Cells of the table.
        found: usize,
        /// Cells of the query's layout.
        expected: usize,
    },
    /// Counts are at least 0.
    #[error("cell {cell} of the tally is {found}, expected a count")]
    Negative {
        /// The cell.
        cell: usize,
        /// Its value.
        found: i64,
    },
    /// More samples were right than there are.
    #[error("{found} samples are right, expected at most the {expected} there are")]
    Right {
        /// Samples that were right.
        found: u64,
        /// Samples there are.
        expected: u64,
    },
    /// Every sample leaves somewhere, at an exit or nowhere.
    #[error("{found} samples left under policy {policy}, expected the {expected} there are")]
    Left {
        /// The policy, from 0.
        policy: usize,
        /// Samples that left.
        found: u64,
        /// Samples there are.
        expected: u64,
    },
    /// More samples were lost than the network alone gets right.
    #[error("policy {policy} lost {found} samples, expected at most the {expected} the network gets right")]
    Loss {
        /// The policy, from 0.
        policy: usize,
        /// Samples lost.
        found: u64,
        /// Samples the network alone gets right.
        expected: u64,
    },
}

impl TallyShape {
    /// The layout of the table.
    #[must_use]
    pub fn layout(&self) -> Layout {
        let per_place = self.policies.saturating_mul(self.exits.saturating_add(1));
        let sections = [
            ("n", 1),
            ("network_right", 1),
            ("left", per_place),
            ("right", per_place),
            ("loss", self.policies),
        ];
        Layout::new(sections.map(|(name, cells)| (name.to_owned(), cells)))
    }

    /// Cells of the table.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.layout().cells()
    }

    /// Columns of `left` and `right`.
    fn places(&self) -> usize {
        self.exits + 1
    }
}

/// A tally, read and found consistent.
#[derive(Clone, Debug)]
pub struct TallyView {
    shape: TallyShape,
    counts: Vec<u64>,
}

impl TallyView {
    /// Reads a table of this shape. Whatever a node may have sent, the numbers fit each other afterwards.
    ///
    /// # Errors
    /// See [`TallyError`].
    pub fn new(shape: TallyShape, table: &Table) -> Result<Self, TallyError> {
        let expected = shape.cells();
        if table.len() != expected {
            return Err(TallyError::Cells { found: table.len(), expected });
        }
        let cells = table.cells().iter().enumerate();
        let counts: Result<Vec<u64>, TallyError> = cells
            .map(|(cell, found)| {
                u64::try_from(*found).map_err(|_error| TallyError::Negative { cell, found: *found })
            })
            .collect();
        let view = Self { shape, counts: counts? };
        view.check()?;
        Ok(view)
    }

    fn check(&self) -> Result<(), TallyError> {
        let (samples, network_right) = (self.samples(), self.network_right());
        if network_right > samples {
            return Err(TallyError::Right { found: network_right, expected: samples });
        }
        for (policy, tally) in self.policies().enumerate() {
            let found = sum(tally.left());
            if found != samples {
                return Err(TallyError::Left { policy, found, expected: samples });
            }
            if let Some((right, left)) =
                tally.right().iter().zip(tally.left()).find(|(right, left)| right > left)
            {
                return Err(TallyError::Right { found: *right, expected: *left });
            }
            if tally.loss() > network_right {
                return Err(TallyError::Loss { policy, found: tally.loss(), expected: network_right });
            }
        }
        Ok(())
    }

    /// `n`: samples.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.counts[0]
    }

    /// Samples that the network alone gets right.
    #[must_use]
    pub fn network_right(&self) -> u64 {
        self.counts[1]
    }

    /// Accuracy of the bare network; `None` without samples.
    #[must_use]
    pub fn network_accuracy(&self) -> Option<f64> {
        (self.samples() > 0).then(|| self.network_right() as f64 / self.samples() as f64)
    }

    /// The policies, in the query's order.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = PolicyTally<'_>> {
        (0..self.shape.policies).map(|policy| {
            let places = self.shape.places();
            let (left, rest) = self.counts[2..].split_at(self.shape.policies * places);
            let (right, loss) = rest.split_at(self.shape.policies * places);
            let cells = policy * places..(policy + 1) * places;
            PolicyTally {
                samples: self.samples(),
                left: &left[cells.clone()],
                right: &right[cells],
                loss: loss[policy],
            }
        })
    }
}

/// What one policy did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyTally<'a> {
    samples: u64,
    left: &'a [u64],
    right: &'a [u64],
    loss: u64,
}

impl<'a> PolicyTally<'a> {
    /// Samples looked at.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Samples that left at each exit; those that left nowhere come last.
    #[must_use]
    pub fn left(&self) -> &'a [u64] {
        self.left
    }

    /// Those of [`left`](Self::left) that were right.
    #[must_use]
    pub fn right(&self) -> &'a [u64] {
        self.right
    }

    /// Samples that were right, wherever they left.
    #[must_use]
    pub fn right_total(&self) -> u64 {
        sum(self.right)
    }

    /// Samples on which the network alone is right and the exit wrong (METHOD, "Guarantee").
    #[must_use]
    pub fn loss(&self) -> u64 {
        self.loss
    }
}

fn sum(counts: &[u64]) -> u64 {
    counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: TallyShape = TallyShape { policies: 2, exits: 1 };

    /// 10 samples, 8 right by the network; all leave under the second policy.
    const CELLS: [i64; 12] = [10, 8, 3, 7, 10, 0, 2, 6, 5, 0, 1, 4];

    #[test]
    fn a_tally_is_read_policy_by_policy() {
        assert_eq!(SHAPE.cells(), CELLS.len());
        let view = TallyView::new(SHAPE, &Table::from_cells(CELLS.to_vec())).unwrap();
        assert_eq!((view.samples(), view.network_accuracy()), (10, Some(0.8)));
        let read: Vec<_> =
            view.policies().map(|p| (p.left(), p.right(), p.right_total(), p.loss())).collect();
        assert_eq!(read, [(&[3, 7][..], &[2, 6][..], 8, 1), (&[10, 0], &[5, 0], 5, 4)]);
        let none = TallyView::new(SHAPE, &Table::zeros(CELLS.len())).unwrap();
        assert_eq!(none.network_accuracy(), None);
    }

    #[test]
    fn tables_that_cannot_be_are_refused() {
        let refused = |cell: usize, value: i64| {
            let mut cells = CELLS;
            cells[cell] = value;
            TallyView::new(SHAPE, &Table::from_cells(cells.to_vec())).unwrap_err()
        };
        assert_eq!(refused(2, -3), TallyError::Negative { cell: 2, found: -3 });
        assert_eq!(refused(0, 11), TallyError::Left { policy: 0, found: 10, expected: 11 });
        assert_eq!(refused(1, 11), TallyError::Right { found: 11, expected: 10 });
        assert_eq!(refused(5, 1), TallyError::Left { policy: 1, found: 11, expected: 10 });
        assert_eq!(refused(7, 8), TallyError::Right { found: 8, expected: 7 });
        assert_eq!(refused(11, 9), TallyError::Loss { policy: 1, found: 9, expected: 8 });
        let short = TallyView::new(SHAPE, &Table::zeros(11)).unwrap_err();
        assert_eq!(short, TallyError::Cells { found: 11, expected: 12 });
    }
}
