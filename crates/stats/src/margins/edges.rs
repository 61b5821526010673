//! Where the bins of a histogram of margins begin and end.

use serde::{Deserialize, Serialize};

/// The edges between the bins of one histogram: finite and strictly increasing.
///
/// Bin `i` is `(edge[i-1], edge[i]]`, the first without a lower bound and the last without an upper, so
/// there is one bin more than there are edges. A margin equal to an edge is in the bin *below* it: an
/// exit is left where `margin > threshold`, so with `edge[i]` as the threshold exactly the samples of
/// bins `i+1` and up leave. A margin that is not a number leaves nowhere, and is in the first bin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<f64>", into = "Vec<f64>")]
pub struct Edges(Vec<f64>);

/// Why numbers are not edges.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EdgeError {
    /// Infinite, or not a number.
    #[error("edge {at} is {found}, expected a finite number")]
    NotFinite {
        /// Which, counted from 0.
        at: usize,
        /// What it is.
        found: f64,
    },
    /// Not above the one before.
    #[error("edge {at} is {found}, expected more than {before}")]
    NotIncreasing {
        /// Which, counted from 0.
        at: usize,
        /// What it is.
        found: f64,
        /// The edge before it.
        before: f64,
    },
}

impl Edges {
    /// These edges.
    ///
    /// # Errors
    /// When one is not finite, or not above the one before.
    pub fn new(edges: Vec<f64>) -> Result<Self, EdgeError> {
        for (at, found) in edges.iter().copied().enumerate() {
            if !found.is_finite() {
                return Err(EdgeError::NotFinite { at, found });
            }
            if let Some(before) = at.checked_sub(1).map(|at| edges[at])
                && found <= before
            {
                return Err(EdgeError::NotIncreasing { at, found, before });
            }
        }
        Ok(Self(edges))
    }

    /// `count` edges from `low` to `high`, equally far apart.
    ///
    /// # Errors
    /// When they are not finite, or so close together that neighbours coincide.
    pub fn even(low: f64, high: f64, count: usize) -> Result<Self, EdgeError> {
        let step = (high - low) / count.saturating_sub(1).max(1) as f64;
        Self::new((0..count).map(|i| low + step * i as f64).collect())
    }

    /// The edges.
    pub fn as_slice(&self) -> &[f64] {
        &self.0
    }

    /// How many bins there are.
    pub fn bins(&self) -> usize {
        self.0.len() + 1
    }

    /// The bin of a margin.
    pub fn bin(&self, margin: f64) -> usize {
        self.0.partition_point(|edge| *edge < margin)
    }
}

impl TryFrom<Vec<f64>> for Edges {
    type Error = EdgeError;

    fn try_from(edges: Vec<f64>) -> Result<Self, Self::Error> {
        Self::new(edges)
    }
}

impl From<Edges> for Vec<f64> {
    fn from(edges: Edges) -> Self {
        edges.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_margin_on_an_edge_is_in_the_bin_below() {
        let edges = Edges::new(vec![-1.0, 0.0, 2.0]).unwrap();
        assert_eq!(edges.bins(), 4);
        let bins = [f64::NEG_INFINITY, -1.0, -0.5, 0.0, -0.0, 1e-300, 2.0, 2.1, f64::INFINITY, f64::NAN]
            .map(|margin| edges.bin(margin));
        assert_eq!(bins, [0, 0, 1, 1, 1, 2, 2, 3, 3, 0]);
        assert_eq!(Edges::new(Vec::new()).unwrap().bin(3.0), 0);
    }

    #[test]
    fn edges_are_checked() {
        assert_eq!(
            Edges::new(vec![0.0, 1.0, 1.0]),
            Err(EdgeError::NotIncreasing { at: 2, found: 1.0, before: 1.0 })
        );
        assert_eq!(
            Edges::new(vec![0.0, f64::INFINITY]),
            Err(EdgeError::NotFinite { at: 1, found: f64::INFINITY })
        );
        assert_eq!(Edges::even(0.0, 1.0, 3).unwrap().as_slice(), [0.0, 0.5, 1.0]);
        assert_eq!(Edges::even(5.0, 9.0, 1).unwrap().as_slice(), [5.0]);
        assert!(Edges::even(1.0, 0.0, 3).is_err());
        assert!(serde_json::from_str::<Edges>("[1.0, 0.0]").is_err());
        let edges = Edges::even(-2.0, 2.0, 5).unwrap();
        let wire = postcard::to_stdvec(&edges).unwrap();
        assert_eq!(postcard::from_bytes::<Edges>(&wire).unwrap(), edges);
    }
}
