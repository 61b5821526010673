//! Counts margins.

use super::Edges;
use crate::batch::{AbsorbError, SetupError};
use crate::{MarginShape, Table};

/// Whether a decision was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The decision is the label, or whatever the task compares with.
    Right,
    /// It is not.
    Wrong,
}

impl Verdict {
    /// The verdict on deciding for `decided` where `expected` is right.
    pub fn of(decided: u32, expected: u32) -> Self {
        if decided == expected { Self::Right } else { Self::Wrong }
    }
}

/// Counts samples by margin, right and wrong apart, per exit and rule (METHOD, "Calibration").
///
/// Memory: the edges, and two cells per bin.
#[derive(Clone, Debug)]
pub struct MarginHistogram {
    shape: MarginShape,
    /// Exit-major, one per exit and rule.
    edges: Vec<Edges>,
    table: Table,
}

impl MarginHistogram {
    /// An empty histogram. `edges` has one entry per exit and rule, exit-major: that of exit `e` and rule
    /// `r` is `edges[e · rules + r]`. Each gives `shape.bins` bins.
    ///
    /// # Errors
    /// When there are more or fewer edges.
    pub fn new(shape: MarginShape, edges: Vec<Edges>) -> Result<Self, SetupError> {
        SetupError::length("lists of edges", edges.len(), shape.exits.saturating_mul(shape.rules))?;
        for edges in &edges {
            SetupError::length("bins", edges.bins(), shape.bins)?;
        }
        Ok(Self { table: Table::zeros(shape.layout().cells()), shape, edges })
    }

    /// An empty histogram with the same edges, to [absorb](Self::absorb) later.
    pub fn sibling(&self) -> Self {
        Self { table: Table::zeros(self.table.len()), ..self.clone() }
    }

    /// Counts a decision of rule `r` at exit `e`.
    ///
    /// # Panics
    /// When there is no such exit or rule.
    pub fn add(&mut self, e: usize, r: usize, margin: f64, verdict: Verdict) {
        let histogram = self.shape.histogram(e, r);
        let bin = self.edges[histogram].bin(margin);
        let side = match verdict {
            Verdict::Right => 0,
            Verdict::Wrong => self.shape.bins,
        };
        self.table.cells_mut()[histogram * 2 * self.shape.bins + side + bin] += 1;
    }

    /// Takes in everything that another histogram with the same edges has counted.
    ///
    /// # Errors
    /// When its edges are others, or a count overflows.
    pub fn absorb(&mut self, other: Self) -> Result<(), AbsorbError> {
        if self.shape != other.shape || self.edges != other.edges {
            return Err(AbsorbError::Setup);
        }
        self.table.merge(&other.table).map_err(AbsorbError::from)
    }

    /// The table, in the shape of [`MarginShape`].
    pub fn finish(self) -> Table {
        self.table
    }
}
