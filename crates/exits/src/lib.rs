//! Early-exit rules, policies, curves, search and the program of a run.
//!
//! Pure: no clock, no file, no socket, no ambient randomness. What is computed here is a function of merged
//! integer tables ([`exeunt_stats`]) or of one sample's activation.
//!
//! From tables to a decision:
//!
//! 1. [`Pool`] brings the activation at a tap to the exit's fixed dimension.
//! 2. [`fit_heads`] turns the merged moments into [`Heads`]: class means, and whitened class means where the
//!    fleet sent second moments. [`Heads::with_spreads`] adds what the second pass measured.
//! 3. [`ExitHead::decide`] gives a class and a margin for one activation, by a [`Rule`].
//!
//! The mathematics is METHOD.md's; every formula names its section.

mod codec;
mod fit;
mod head;
mod heads;
mod pool;
mod rule;
mod score;

pub use codec::{DecodeError, MAX_ENCODED_BYTES};
pub use fit::{FitError, FitOptions, Prior, fit_heads};
pub use head::{ExitHead, HeadError, LinearHead, Unavailable};
pub use heads::{Heads, SpreadError};
pub use pool::{ParsePoolError, Pool, PoolError};
pub use rule::{ParseRuleError, Rule};
pub use score::{DecideError, Decision, MARGIN_LIMIT, margin};
