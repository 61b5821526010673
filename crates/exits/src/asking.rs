//! Asking an exit about one activation: pool it, score it.

use crate::head::{DecideScratch, ExitHead};
use crate::pool::{Pool, PoolError, PoolScratch};
use crate::rule::Rule;
use crate::score::{DecideError, Decision};

/// Why an exit cannot say anything of an activation.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AskingError {
    /// It cannot be pooled as the exit's head needs it.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The head does not have the rule.
    #[error(transparent)]
    Decide(#[from] DecideError),
}

/// Buffers of whoever asks exits, kept from one activation to the next: once they are warm, nothing is allocated.
#[derive(Debug, Default)]
pub struct Asking {
    pool: PoolScratch,
    decide: DecideScratch,
    pooled: Vec<f32>,
}

impl Asking {
    /// What `head` says by `rule` of the activation `map`, of `shape`, pooled by `pool`.
    ///
    /// # Errors
    /// See [`AskingError`].
    pub fn ask(
        &mut self,
        (head, rule): (&ExitHead, Rule),
        pool: Pool,
        shape: &[usize],
        map: &[f32],
    ) -> Result<Decision, AskingError> {
        self.pooled.resize(head.dim(), 0.0);
        pool.apply_with(&mut self.pool, shape, map, &mut self.pooled)?;
        Ok(head.decide_with(&mut self.decide, rule, &self.pooled)?)
    }
}
