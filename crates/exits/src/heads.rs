//! The published snapshot: what every exit of a run knows.

use exeunt_stats::{Digest, Scale, SpreadShape, SpreadView, Table, ViewError};
use ndarray::{Array2, ArrayView2};

use crate::codec;
use crate::head::Unavailable;
use crate::{DecideError, Decision, DecodeError, ExitHead, HeadError, Rule};

/// Why spreads do not fit these heads.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SpreadError {
    /// The table is not the answer to a spread query of this run.
    #[error(transparent)]
    Table(#[from] ViewError),
    /// Spreads and means are not of the same size.
    #[error(transparent)]
    Head(#[from] HeadError),
}

/// One head per exit, in the order the network reaches them.
#[derive(Clone, Debug, PartialEq)]
pub struct Heads {
    exits: Vec<ExitHead>,
}

impl Heads {
    /// The heads of a run's exits.
    #[must_use]
    pub fn new(exits: Vec<ExitHead>) -> Self {
        Self { exits }
    }

    /// The heads, in order.
    #[must_use]
    pub fn exits(&self) -> &[ExitHead] {
        &self.exits
    }

    /// Number of exits.
    #[must_use]
    pub fn len(&self) -> usize {
        self.exits.len()
    }

    /// Whether there is no exit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exits.is_empty()
    }

    /// Whether exit `e` can decide by `rule`.
    #[must_use]
    pub fn has(&self, e: usize, rule: Rule) -> bool {
        self.exits.get(e).is_some_and(|exit| exit.available(rule).is_ok())
    }

    /// Per exit, the rules it can decide by.
    #[must_use]
    pub fn rules(&self) -> Vec<Vec<Rule>> {
        self.exits.iter().map(|exit| exit.rules().collect()).collect()
    }

    /// Why exit `e` cannot decide by the whitened rule, if it was asked to and cannot.
    #[must_use]
    pub fn whitened_unavailable(&self, e: usize) -> Option<&Unavailable> {
        self.exits.get(e).and_then(|exit| exit.whitened().err()).filter(|why| **why != Unavailable::NotAsked)
    }

    /// See [`ExitHead::decide`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// There is no exit `e`.
    pub fn decide(&self, e: usize, rule: Rule, z: &[f32]) -> Result<Decision, DecideError> {
        self.exits[e].decide(rule, z)
    }

    /// See [`ExitHead::decide_batch`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// There is no exit `e`.
    pub fn decide_batch(
        &self,
        e: usize,
        rule: Rule,
        z: ArrayView2<'_, f32>,
        decisions: &mut [Decision],
    ) -> Result<(), DecideError> {
        self.exits[e].decide_batch(rule, z, decisions)
    }

    /// Class means per exit, `K × D`, as a spread query needs them.
    #[must_use]
    pub fn means(&self) -> Vec<Array2<f32>> {
        self.exits.iter().map(|exit| exit.means().to_owned()).collect()
    }

    /// Which classes have a mean, per exit.
    #[must_use]
    pub fn present(&self) -> Vec<Vec<bool>> {
        self.exits.iter().map(|exit| exit.present().to_vec()).collect()
    }

    /// The same heads with the spreads that a merged spread table holds, at the exits whose `wanted` is true. An exit
    /// where every sample lies on its mean has no spread, and so no class-mean rule.
    ///
    /// # Errors
    /// When the table is not of this run's shape.
    pub fn with_spreads(self, table: &Table, scales: &[Scale], wanted: &[bool]) -> Result<Self, SpreadError> {
        let classes = self.exits.first().map_or(0, ExitHead::classes);
        let shape = SpreadShape { classes, exits: self.exits.len() };
        let view = SpreadView::new(&shape, table)?;
        let mut exits = Vec::with_capacity(self.exits.len());
        for (e, exit) in self.exits.into_iter().enumerate() {
            let (Some(scale), Some(true)) = (scales.get(e), wanted.get(e)) else {
                exits.push(exit);
                continue;
            };
            let spreads = view.spreads(e, scale);
            let flat = spreads.iter().zip(exit.present()).any(|(spread, present)| *present && *spread <= 0.0);
            let spreads = match view.count(e) {
                0 => Err(Unavailable::NoSpreads),
                _ if flat => Err(Unavailable::Constant),
                _ => Ok(spreads),
            };
            exits.push(exit.with_spreads(spreads)?);
        }
        Ok(Self { exits })
    }

    /// As bytes, with a version in front.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// From bytes that may come from anywhere.
    ///
    /// # Errors
    /// [`DecodeError`] when they are not the encoding of heads.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes)
    }

    /// BLAKE3 of the encoding.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn heads() -> Heads {
        let exit = |present| ExitHead::new(array![[0.0_f32, 3.0], [1.0, 4.0]], present).unwrap();
        Heads::new(vec![exit(vec![true, true]), exit(vec![true, false]), exit(vec![true, true])])
    }

    fn spreads(cells: &[(&str, &[i64])]) -> Table {
        let layout = SpreadShape { classes: 2, exits: 3 }.layout();
        let mut table = vec![0; layout.cells()];
        for (name, values) in cells {
            table[layout.range(name).unwrap()].copy_from_slice(values);
        }
        Table::from_cells(table)
    }

    #[test]
    fn a_spread_is_the_mean_distance_of_all_samples() {
        let table = spreads(&[("e0.sum", &[40, 80]), ("e0.n", &[10]), ("e1.sum", &[40, 0]), ("e1.n", &[10])]);
        let scales = [Scale::new(1), Scale::new(3), Scale::new(0)];
        let found = heads().with_spreads(&table, &scales, &[true; 3]).unwrap();
        let spreads = |e: usize| found.exits()[e].spreads();
        assert_eq!(spreads(0), Ok(&[2.0, 4.0][..]));
        // The class that is absent has no spread and needs none.
        assert_eq!(spreads(1), Ok(&[0.5, 0.0][..]));
        assert_eq!(spreads(2), Err(&Unavailable::NoSpreads));
        assert!(found.has(0, Rule::ClassMeans) && !found.has(2, Rule::ClassMeans));
        assert_ne!(found.digest(), heads().digest());
    }

    #[test]
    fn spreads_go_where_they_are_wanted() {
        let table = spreads(&[("e0.sum", &[40, 80]), ("e0.n", &[10]), ("e2.sum", &[40, 0]), ("e2.n", &[10])]);
        let found = heads().with_spreads(&table, &[Scale::new(0); 3], &[false, true, true]).unwrap();
        assert_eq!(found.exits()[0].spreads(), Err(&Unavailable::NoSpreads));
        assert_eq!(found.exits()[2].spreads(), Err(&Unavailable::Constant));
    }

    #[test]
    fn a_table_of_another_run_is_refused() {
        let refused = heads().with_spreads(&Table::zeros(3), &[Scale::new(0); 3], &[true; 3]);
        assert!(matches!(refused, Err(SpreadError::Table(ViewError::Cells { found: 3, .. }))));
    }
}
