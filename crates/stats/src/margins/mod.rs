//! How sure the exits are, and how often they are right: the answer to `Confidence`.

mod edges;
mod histogram;
mod view;

pub use edges::{EdgeError, Edges};
pub use histogram::{MarginHistogram, Verdict};
pub use view::{Above, MarginView};
