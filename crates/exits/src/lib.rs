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

mod asking;
mod codec;
mod context;
mod cost;
mod curve;
mod drift;
mod fit;
mod head;
mod heads;
mod outcomes;
mod place;
mod policy;
mod pool;
mod program;
mod quantiles;
mod query;
mod rule;
mod score;
mod search;
mod shift;
mod tally;
mod timings;

pub use asking::{Asking, AskingError};
pub use codec::{DecodeError, MAX_ENCODED_BYTES};
pub use context::{ContextError, ExitContext, Part, RunContext};
pub use cost::{CostError, CostModel};
pub use curve::{Curve, CurvePoint, pareto, static_line};
pub use drift::{DRIFTED, Drift, DriftLevel, MARGIN_BINS, MARGIN_EDGES, SHIFTING, margin_bin, margin_shares};
pub use fit::{FitError, FitOptions, Prior, fit_heads};
pub use head::{ExitHead, HeadError, LinearHead, Unavailable};
pub use heads::{Heads, SpreadError};
pub use outcomes::{AskError, Outcomes, OutcomesBuilder, OutcomesError};
pub use place::{
    Candidate, MAX_CANDIDATES, MAX_PLACED, PlaceError, Placement, caught, caught_between, caught_by_depth,
    place,
};
pub use policy::{ExitRule, Policy, PolicyError};
pub use pool::{ParsePoolError, Pool, PoolError, PoolScratch};
pub use program::{
    ChooseError, ExitReport, NodeCurve, PolicyRequest, Program, ProgramError, RunResult, node_curve,
};
pub use quantiles::{Distribution, DistributionError, HistogramError, Quantiles};
pub use query::{Query, QueryError};
pub use rule::{ParseRuleError, Rule};
pub use score::{DecideError, Decision, MARGIN_LIMIT, margin};
pub use search::{Search, SearchOptions};
pub use shift::{Shift, shifts};
pub use tally::{PolicyTally, TallyError, TallyShape, TallyView};
pub use timings::{Measured, Times, TimingsError, TimingsShape};
