//! Class sums and second moments: what `Moments` adds up, and how a merged table is read.

mod accumulator;
mod plan;
mod products;
mod quantise;
mod view;

pub use accumulator::{FinishError, MomentsAccumulator};
pub use plan::MomentsPlan;
pub(crate) use quantise::round_64;
pub use view::MomentsView;
