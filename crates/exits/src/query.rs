//! What the coordinator asks of the fleet (DESIGN, "One idea: query, table, merge").

use exeunt_stats::{Digest, Layout, RangeLayout, Scale};
use serde::{Deserialize, Serialize};

use crate::context::{Part, RunContext};
use crate::policy::Policy;
use crate::quantiles::histogram_layout;
use crate::tally::TallyShape;
use crate::timings::TimingsShape;

/// Longest encoding that is read.
const MAX_BYTES: usize = 64 << 20;
/// Version of the encoding.
const VERSION: u8 = 1;

/// A question whose answer is a table of integers that is added to others.
///
/// Nothing in an answer may depend on how fast it was computed: a node that restarts answers again, and equal answers
/// must be equal bit for bit. So times are no part of `Evaluate`. `Timings` asks for nothing else, and a node that has
/// measured keeps its answer before it sends it, to send the same again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Query {
    /// Samples per part: statistics, calibration, evaluation.
    Census,
    /// Magnitudes at every exit, over the samples of the statistics part that are picked by content.
    Range {
        /// About one sample in this many is looked at.
        one_in: u64,
    },
    /// Class sums at every exit, and second moments where `second` says so.
    Moments {
        /// Per exit, how activations are rounded.
        scales: Vec<Scale>,
        /// Per exit, whether second moments are asked for.
        second: Vec<bool>,
    },
    /// Distances to the class means, summed over all samples.
    Spread {
        /// The snapshot that holds the means.
        heads: Digest,
        /// Per exit, how distances are rounded.
        scales: Vec<Scale>,
    },
    /// Histograms of margins, right and wrong apart.
    Confidence {
        /// The snapshot to decide with.
        heads: Digest,
        /// Over which samples.
        part: Part,
        /// Per exit and rule, the edges of the bins; none where the rule is not available.
        edges: Vec<Vec<Vec<f64>>>,
    },
    /// What each policy would do.
    Evaluate {
        /// The snapshot to decide with.
        heads: Digest,
        /// Over which samples.
        part: Part,
        /// The policies.
        policies: Vec<Policy>,
    },
    /// How long segments and decisions take on the node's hardware.
    Timings {
        /// The snapshot to decide with.
        heads: Digest,
    },
}

/// Why bytes are not a query, or a query does not fit a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// More bytes than are read.
    #[error("{found} bytes, expected at most {MAX_BYTES}")]
    TooLong {
        /// How many.
        found: usize,
    },
    /// Another version wrote them.
    #[error("version {found:?}, expected {VERSION}")]
    Version {
        /// The version, if there is a byte at all.
        found: Option<u8>,
    },
    /// They are cut off or garbled.
    #[error("not an encoded query: {what}")]
    Malformed {
        /// What the reader says.
        what: String,
    },
    /// A list is not as long as the run has exits.
    #[error("{what}: {found}, expected {expected}")]
    Length {
        /// Which list.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The run's.
        expected: usize,
    },
    /// Edges do not ascend, or one is not a number.
    #[error("the edges of exit {exit} do not ascend")]
    Edges {
        /// The exit, from 0.
        exit: usize,
    },
    /// A policy does not fit the run.
    #[error("policy {index}: {what}")]
    Policy {
        /// Which, from 0.
        index: usize,
        /// What is wrong.
        what: String,
    },
}

impl Query {
    /// What it is called in logs and tables.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Census => "census",
            Self::Range { .. } => "range",
            Self::Moments { .. } => "moments",
            Self::Spread { .. } => "spread",
            Self::Confidence { .. } => "confidence",
            Self::Evaluate { .. } => "evaluate",
            Self::Timings { .. } => "timings",
        }
    }

    /// Over which samples it is answered; the census is over all, and time is measured without any.
    #[must_use]
    pub const fn part(&self) -> Option<Part> {
        match self {
            Self::Census | Self::Timings { .. } => None,
            Self::Range { .. } | Self::Moments { .. } | Self::Spread { .. } => Some(Part::Statistics),
            Self::Confidence { part, .. } | Self::Evaluate { part, .. } => Some(*part),
        }
    }

    /// The snapshot it refers to.
    #[must_use]
    pub const fn heads(&self) -> Option<Digest> {
        match self {
            Self::Census | Self::Range { .. } | Self::Moments { .. } => None,
            Self::Spread { heads, .. }
            | Self::Confidence { heads, .. }
            | Self::Evaluate { heads, .. }
            | Self::Timings { heads } => Some(*heads),
        }
    }

    /// The layout of an answer.
    #[must_use]
    pub fn layout(&self, context: &RunContext) -> Layout {
        let exits = context.exits.len();
        match self {
            Self::Census => Layout::new(Part::ALL.map(|part| (part.name().to_owned(), 1))),
            Self::Range { .. } => RangeLayout { exits }.layout(),
            Self::Moments { second, .. } => context.moments_shape(second).layout(),
            Self::Spread { .. } => context.spread_shape().layout(),
            Self::Confidence { edges, .. } => histogram_layout(edges),
            Self::Evaluate { policies, .. } => TallyShape { policies: policies.len(), exits }.layout(),
            Self::Timings { .. } => TimingsShape { exits }.layout(),
        }
    }

    /// Whether two answers from the same samples are equal. Times differ from one measurement to the next.
    #[must_use]
    pub const fn is_reproducible(&self) -> bool {
        !matches!(self, Self::Timings { .. })
    }

    /// Whether it can be asked in a run: lists as long as there are exits, ascending edges, policies by known rules.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn validate(&self, rules: &[Vec<crate::Rule>]) -> Result<(), QueryError> {
        let length = |what, found| {
            let expected = rules.len();
            if found == expected { Ok(()) } else { Err(QueryError::Length { what, found, expected }) }
        };
        match self {
            Self::Census | Self::Range { .. } | Self::Timings { .. } => Ok(()),
            Self::Moments { scales, second } => {
                length("scales", scales.len())?;
                length("second", second.len())
            }
            Self::Spread { scales, .. } => length("scales", scales.len()),
            Self::Confidence { edges, .. } => {
                length("edges", edges.len())?;
                for (exit, (by_rule, rules)) in edges.iter().zip(rules).enumerate() {
                    let (found, expected) = (by_rule.len(), rules.len());
                    if found != expected {
                        return Err(QueryError::Length { what: "edges of an exit", found, expected });
                    }
                    // NaN compares as nothing, so it does not ascend either.
                    let ascends = |edges: &Vec<f64>| edges.windows(2).all(|pair| pair[0] < pair[1]);
                    let numbers = |edges: &Vec<f64>| edges.iter().all(|edge| !edge.is_nan());
                    if !by_rule.iter().all(|edges| ascends(edges) && numbers(edges)) {
                        return Err(QueryError::Edges { exit });
                    }
                }
                Ok(())
            }
            Self::Evaluate { policies, .. } => {
                let wrong = |index, what: String| QueryError::Policy { index, what };
                let mut policies = policies.iter().enumerate();
                policies.try_for_each(|(i, policy)| {
                    policy.check(rules).map_err(|error| wrong(i, error.to_string()))
                })
            }
        }
    }

    /// As bytes, with a version in front. Equal queries have equal bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Writing into memory that grows cannot fail, and every field has a length known before it is written.
        postcard::to_extend(self, vec![VERSION]).unwrap_or_default()
    }

    /// From bytes that may come from anywhere.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, QueryError> {
        if bytes.len() > MAX_BYTES {
            return Err(QueryError::TooLong { found: bytes.len() });
        }
        let Some((&VERSION, body)) = bytes.split_first() else {
            return Err(QueryError::Version { found: bytes.first().copied() });
        };
        match postcard::take_from_bytes(body) {
            Ok((query, [])) => Ok(query),
            Ok((_, rest)) => Err(QueryError::Malformed { what: format!("{} bytes too many", rest.len()) }),
            Err(error) => Err(QueryError::Malformed { what: error.to_string() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Rule;

    fn evaluate() -> Query {
        let policies = vec![Policy::off(2), Policy::static_cut(2, 1, Rule::Whitened)];
        Query::Evaluate { heads: Digest::of(b"heads"), part: Part::Evaluation, policies }
    }

    #[test]
    fn queries_round_trip_and_trailing_bytes_are_refused() {
        let edges = vec![vec![vec![-1.0, 0.5], vec![]]];
        let confidence = Query::Confidence { heads: Digest::of(b"h"), part: Part::Calibration, edges };
        let moments = Query::Moments { scales: vec![Scale::for_exponent(3)], second: vec![true] };
        let timings = Query::Timings { heads: Digest::of(b"h") };
        for query in [Query::Census, Query::Range { one_in: 7 }, moments, confidence, evaluate(), timings] {
            let bytes = query.encode();
            assert_eq!(Query::decode(&bytes), Ok(query));
            assert!(Query::decode(&[bytes.clone(), vec![0]].concat()).is_err());
        }
    }

    #[test]
    fn what_does_not_fit_the_run_is_refused() {
        let rules = vec![vec![Rule::Whitened]; 2];
        assert_eq!(evaluate().validate(&rules), Ok(()));
        assert!(evaluate().validate(&rules[..1]).is_err());
        assert!(evaluate().validate(&[vec![Rule::ClassMeans], vec![Rule::ClassMeans]]).is_err());
        let edges = |edges: Vec<f64>| Query::Confidence {
            heads: Digest::of(b"h"),
            part: Part::Calibration,
            edges: vec![vec![edges], vec![vec![]]],
        };
        assert_eq!(edges(vec![0.0, 1.0]).validate(&rules), Ok(()));
        assert_eq!(edges(vec![1.0, 1.0]).validate(&rules), Err(QueryError::Edges { exit: 0 }));
        assert_eq!(edges(vec![f64::NAN]).validate(&rules), Err(QueryError::Edges { exit: 0 }));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Query::decode(&bytes);
            bytes.insert(0, VERSION);
            let _ = Query::decode(&bytes);
        }
    }
}
