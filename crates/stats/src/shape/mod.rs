//! The shapes of the tables: which sections a query's answer has.
//!
//! A shape follows from the run alone, so nodes and coordinator agree on it before anything is sent.

mod margins;
mod moments;
mod range;
mod spread;

pub use margins::MarginShape;
pub use moments::{ExitShape, MomentsShape};
pub(crate) use moments::{MomentsCells, SumCells};
pub use range::RangeLayout;
pub use spread::SpreadShape;

/// The two sections that count samples left out of every sum.
pub(crate) fn excluded_sections() -> [(String, usize); 2] {
    [("excluded.non_finite".to_owned(), 1), ("excluded.out_of_scale".to_owned(), 1)]
}
