//! The shape of a `Confidence` answer.

use serde::{Deserialize, Serialize};

use crate::Layout;

/// Per exit and rule: a histogram of margins, right and wrong apart (METHOD, "Calibration").
///
/// Sections of exit `e` and rule `r`: `e{e}.r{r}.right[B]`, `e{e}.r{r}.wrong[B]`. Rules are counted here,
/// not named: which is which is the query's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarginShape {
    /// Number of exits.
    pub exits: usize,
    /// Number of rules at every exit.
    pub rules: usize,
    /// `B`: bins of every histogram, one more than there are edges.
    pub bins: usize,
}

impl MarginShape {
    /// The layout of the table.
    pub fn layout(&self) -> Layout {
        let Self { exits, rules, bins } = *self;
        Layout::new((0..exits).flat_map(move |e| {
            (0..rules)
                .flat_map(move |r| [(format!("e{e}.r{r}.right"), bins), (format!("e{e}.r{r}.wrong"), bins)])
        }))
    }

    /// Which histogram, in exit-major order, is that of exit `e` and rule `r`.
    pub(crate) fn histogram(&self, e: usize, r: usize) -> usize {
        assert!(e < self.exits && r < self.rules, "exit {e} of {}, rule {r} of {}", self.exits, self.rules);
        e * self.rules + r
    }
}
