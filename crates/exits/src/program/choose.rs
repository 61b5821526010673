//! From a wish to a policy.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::RunResult;
use crate::Rule;
use crate::context::RunContext;
use crate::heads::Heads;
use crate::policy::{ExitRule, Policy, PolicyError};
use crate::quantiles::Quantiles;

/// What a person wants of a policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyRequest {
    /// At every exit the surest share of all calibration samples leaves, by the exit's better rule.
    Fraction(f64),
    /// The cheapest policy of the front that loses at most this many points of accuracy on the calibration part.
    MaxDrop(f64),
    /// This policy.
    Thresholds(Policy),
}

/// Why no policy fits a wish.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ChooseError {
    /// The curve is not measured yet.
    #[error("the run is not ready: its policies have not been measured yet")]
    NotReady,
    /// Not a share.
    #[error("a fraction of {found}, expected a number above 0 and at most 1")]
    Fraction {
        /// What was asked for.
        found: f64,
    },
    /// Not a number of points.
    #[error("a drop of {found} points, expected a number from 0 to 100")]
    Drop {
        /// What was asked for.
        found: f64,
    },
    /// The thresholds do not fit the run.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The snapshot lacks a rule that the thresholds name.
    #[error("exit {exit} ('{tap}') has no {rule} rule: {why}")]
    Unavailable {
        /// The exit, from 0.
        exit: usize,
        /// Its tap.
        tap: String,
        /// The rule.
        rule: Rule,
        /// Why.
        why: String,
    },
}

pub(super) fn choose(
    request: &PolicyRequest,
    context: &RunContext,
    heads: &Heads,
    quantiles: &Quantiles,
    result: &RunResult,
) -> Result<Policy, ChooseError> {
    match request {
        PolicyRequest::Fraction(fraction) => {
            let fraction = *fraction;
            if !(fraction > 0.0 && fraction <= 1.0) {
                return Err(ChooseError::Fraction { found: fraction });
            }
            let rule = |e: usize| {
                let rule = quantiles.best_rule(e)?;
                Some(ExitRule::new(rule, quantiles.threshold(e, rule, fraction)?))
            };
            Ok(Policy { exits: (0..context.exits.len()).map(rule).collect() })
        }
        PolicyRequest::MaxDrop(points) => {
            if !(0.0..=100.0).contains(points) {
                return Err(ChooseError::Drop { found: *points });
            }
            let cheapest = result.calibration.cheapest(result.calibration.floor(*points));
            Ok(cheapest.map_or_else(|| Policy::off(context.exits.len()), |point| point.policy.clone()))
        }
        PolicyRequest::Thresholds(policy) => {
            policy.check(&context.rules())?;
            for (exit, rule) in policy.exits.iter().enumerate() {
                let Some(rule) = rule.as_ref().map(|rule| rule.rule) else { continue };
                if let Some(Err(why)) = heads.exits().get(exit).map(|head| head.available(rule)) {
                    let tap = context.exits[exit].tap.clone();
                    return Err(ChooseError::Unavailable { exit, tap, rule, why: why.to_string() });
                }
            }
            Ok(policy.clone())
        }
    }
}

impl fmt::Display for PolicyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fraction(fraction) => write!(f, "surest {} % leave at every exit", fraction * 100.0),
            Self::MaxDrop(points) => write!(f, "at most {points} points worse on the calibration part"),
            Self::Thresholds(policy) => {
                write!(f, "thresholds at {} exits", policy.exits.iter().flatten().count())
            }
        }
    }
}
