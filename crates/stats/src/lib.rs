//! Integer tables that merge exactly.
//!
//! Everything a fleet learns is a table of integers that is *added* to the others (DESIGN, "One idea:
//! query, table, merge"). This crate has the tables and what fills and reads them; it knows nothing of
//! nodes, queries, files or clocks.
//!
//! * [`Table`]: a flat run of `i64` cells with checked [`merge`](Table::merge) and
//!   [`subtract`](Table::subtract); [`Layout`] gives the cells their names; [`packed`] is how they travel.
//! * [`Scale`]: how an activation becomes an integer (METHOD, "Sums that are exact").
//! * One shape, one accumulator and one view per kind of table: range ([`RangeLayout`],
//!   [`RangeCounter`], [`scale_for`]), moments ([`MomentsShape`], [`MomentsAccumulator`],
//!   [`MomentsView`]), spread ([`SpreadShape`], [`SpreadAccumulator`], [`SpreadView`]) and margins
//!   ([`MarginShape`], [`MarginHistogram`], [`MarginView`]).
//!
//! # What holds
//! * An accumulator's table depends on the *set* of samples alone: not on their order, their batches,
//!   the thread that added them, or which accumulator they went through before they were merged.
//! * Nothing wraps. An overflow is an error, and what it would have changed is unchanged.
//! * Tables from elsewhere are not trusted: views and decoders check before they read or allocate.
//!
//! Deliberately absent: clocks, files, randomness, threads. To use several threads, give each its own
//! accumulator and merge.

mod batch;
mod digest;
mod floors;
mod layout;
mod macs;
mod margins;
mod moments;
pub mod packed;
mod range;
mod scale;
mod shape;
mod spread;
mod table;
mod view;

pub use batch::{AbsorbError, BatchError, Excluded, SetupError};
pub use digest::{Digest, Hasher, ParseDigestError};
pub use floors::Floors;
pub use layout::{Layout, Section};
pub use macs::Macs;
pub use margins::{Above, EdgeError, Edges, MarginHistogram, MarginView, Verdict};
pub use moments::{FinishError, MomentsAccumulator, MomentsPlan, MomentsView};
pub use range::{RangeCounter, scale_for, scales_for};
pub use scale::Scale;
pub use shape::{ExitShape, MarginShape, MomentsShape, RangeLayout, SpreadShape};
pub use spread::{SpreadAccumulator, SpreadView};
pub use table::{Table, TableError};
pub use view::ViewError;
