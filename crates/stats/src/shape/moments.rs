//! The shape of a `Moments` answer.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::excluded_sections;
use crate::Layout;

/// What is summed at one exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitShape {
    /// `D`: numbers in the pooled, flattened activation.
    pub dim: usize,
    /// Whether the query asks for second moments at this exit.
    pub second: bool,
}

impl ExitShape {
    /// `D(D+1)/2`: cells of the lower triangle of the second moment.
    pub fn triangle(&self) -> usize {
        let Self { dim, .. } = *self;
        if dim % 2 == 0 {
            (dim / 2).saturating_mul(dim.saturating_add(1))
        } else {
            dim.saturating_mul(dim / 2 + 1)
        }
    }
}

/// Per exit and class: counts, sums and squared norms; optionally per exit second moments (METHOD,
/// "Early Exit Class Means" and "Whitened class means").
///
/// Sections of exit `e`, with `K` classes and `D` numbers:
/// `e{e}.alone.n[K]`, `e{e}.alone.sum[K·D]` (class-major), `e{e}.alone.sq[K]`; where second moments are
/// asked for also `e{e}.paired.n[K]`, `e{e}.paired.sum[K·D]`, `e{e}.paired.sq[K]`,
/// `e{e}.paired.rest[K·D]` and `e{e}.products[D(D+1)/2]` (lower triangle, row-major). Then, once,
/// `excluded.non_finite[1]`, `excluded.out_of_scale[1]`, `withheld_classes[1]`.
///
/// A node that sends second moments for an exit puts its class sums in `paired`, any other in `alone`;
/// the unused part is zero and packs to almost nothing. Class means come from both, the covariance from
/// `paired` and `products` alone, so that all of it is over the same samples.
///
/// `rest` is what the coarser rounding of the products' factors left out of the sums: `sum − rest` is the
/// sum of the very numbers that were multiplied. Only with that does `G − Σ n μ μᵀ` centre the products
/// exactly; where a mean is large beside the deviation from it, a mean of the finer sums would be off by
/// more than the variance.
///
/// Units: sums and rests in `2^-sum_bits` of the exit's [`Scale`](crate::Scale), squared norms and products in
/// `2^(-2·product_bits)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MomentsShape {
    /// `K`: number of classes.
    pub classes: usize,
    /// The exits in the order they are reached.
    pub exits: Vec<ExitShape>,
}

impl MomentsShape {
    /// The layout of the table.
    pub fn layout(&self) -> Layout {
        let sums = |e: usize, part: &str, dim: usize| {
            [
                (format!("e{e}.{part}.n"), self.classes),
                (format!("e{e}.{part}.sum"), self.classes.saturating_mul(dim)),
                (format!("e{e}.{part}.sq"), self.classes),
            ]
        };
        let mut sections = Vec::new();
        for (e, exit) in self.exits.iter().enumerate() {
            sections.extend(sums(e, "alone", exit.dim));
            if exit.second {
                sections.extend(sums(e, "paired", exit.dim));
                sections.push((format!("e{e}.paired.rest"), self.classes.saturating_mul(exit.dim)));
                sections.push((format!("e{e}.products"), exit.triangle()));
            }
        }
        sections.extend(excluded_sections());
        sections.push(("withheld_classes".to_owned(), 1));
        Layout::new(sections)
    }
}

/// Where an exit's cells lie: the same as [`MomentsShape::layout`], without names to look up.
#[derive(Clone, Debug)]
pub(crate) struct ExitCells {
    pub(crate) alone: SumCells,
    pub(crate) paired: Option<PairedCells>,
}

impl ExitCells {
    /// Where the class sums of a node go that sends second moments here, or not.
    pub(crate) fn target(&self, second: bool) -> &SumCells {
        match &self.paired {
            Some(paired) if second => &paired.sums,
            _ => &self.alone,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct PairedCells {
    pub(crate) sums: SumCells,
    pub(crate) rest: Range<usize>,
    pub(crate) products: Range<usize>,
}

/// Counts, sums and squared norms of all classes.
#[derive(Clone, Debug)]
pub(crate) struct SumCells {
    pub(crate) n: Range<usize>,
    pub(crate) sum: Range<usize>,
    pub(crate) sq: Range<usize>,
}

impl SumCells {
    /// All of them: the three lie next to each other.
    pub(crate) fn all(&self) -> Range<usize> {
        self.n.start..self.sq.end
    }
}

/// Where everything of a `Moments` table lies.
#[derive(Clone, Debug)]
pub(crate) struct MomentsCells {
    pub(crate) exits: Vec<ExitCells>,
    pub(crate) non_finite: usize,
    pub(crate) out_of_scale: usize,
    pub(crate) withheld_classes: usize,
    pub(crate) total: usize,
}

impl MomentsCells {
    pub(crate) fn of(shape: &MomentsShape) -> Self {
        let mut next = 0_usize;
        let mut take = |len: usize| {
            let start = next;
            next = next.saturating_add(len);
            start..next
        };
        let sums = |take: &mut dyn FnMut(usize) -> Range<usize>, dim: usize| SumCells {
            n: take(shape.classes),
            sum: take(shape.classes.saturating_mul(dim)),
            sq: take(shape.classes),
        };
        let exits = shape
            .exits
            .iter()
            .map(|exit| ExitCells {
                alone: sums(&mut take, exit.dim),
                paired: exit.second.then(|| PairedCells {
                    sums: sums(&mut take, exit.dim),
                    rest: take(shape.classes.saturating_mul(exit.dim)),
                    products: take(exit.triangle()),
                }),
            })
            .collect();
        let [non_finite, out_of_scale, withheld_classes] = [(); 3].map(|()| take(1).start);
        Self { exits, non_finite, out_of_scale, withheld_classes, total: next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_triangle_is_counted_without_overflow() {
        let triangle = |dim| ExitShape { dim, second: true }.triangle();
        for dim in 0..50 {
            assert_eq!(triangle(dim), dim * (dim + 1) / 2);
        }
        assert_eq!(triangle(usize::MAX), usize::MAX);
    }

    #[test]
    fn sections_follow_what_is_asked() {
        let layout = MomentsShape {
            classes: 3,
            exits: vec![ExitShape { dim: 4, second: false }, ExitShape { dim: 5, second: true }],
        }
        .layout();
        assert_eq!(layout.cells(), (3 + 12 + 3) + 2 * (3 + 15 + 3) + 15 + 15 + 3);
        assert_eq!(layout.range("e0.alone.sum"), Some(3..15));
        assert_eq!(layout.range("e0.products"), None);
        assert_eq!(layout.range("e1.products").map(|r| r.len()), Some(15));
        assert_eq!(layout.range("withheld_classes"), Some(layout.cells() - 1..layout.cells()));
    }

    #[test]
    fn cells_lie_where_the_layout_says() {
        let exit = |dim, second| ExitShape { dim, second };
        let shape = MomentsShape { classes: 3, exits: vec![exit(4, false), exit(5, true), exit(1, true)] };
        let layout = shape.layout();
        let cells = MomentsCells::of(&shape);
        assert_eq!(cells.total, layout.cells());
        for (e, exit) in cells.exits.iter().enumerate() {
            let range = |name: &str| layout.range(&format!("e{e}.{name}"));
            let same = |part: &str, sums: &SumCells| {
                assert_eq!(range(&format!("{part}.n")), Some(sums.n.clone()));
                assert_eq!(range(&format!("{part}.sum")), Some(sums.sum.clone()));
                assert_eq!(range(&format!("{part}.sq")), Some(sums.sq.clone()));
                assert_eq!(sums.all().len(), sums.n.len() + sums.sum.len() + sums.sq.len());
            };
            same("alone", &exit.alone);
            assert_eq!(exit.paired.is_some(), range("products").is_some());
            if let Some(paired) = &exit.paired {
                same("paired", &paired.sums);
                assert_eq!(range("paired.rest"), Some(paired.rest.clone()));
                assert_eq!(range("products"), Some(paired.products.clone()));
            }
        }
        let last = [cells.non_finite, cells.out_of_scale, cells.withheld_classes];
        let names = ["excluded.non_finite", "excluded.out_of_scale", "withheld_classes"];
        for (cell, name) in last.into_iter().zip(names) {
            assert_eq!(layout.range(name), Some(cell..cell + 1));
        }
    }
}
