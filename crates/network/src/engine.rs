//! What runs segments.

use std::fmt;

use ndarray::{ArrayView2, ArrayViewMut2};

use crate::cut::Segment;

/// Something that can run an ONNX model on this machine.
pub trait Engine: Send + Sync + fmt::Debug {
    /// Its name, for reports: activations are comparable bit for bit within one engine only.
    fn name(&self) -> &str;

    /// Its version, likewise.
    fn version(&self) -> &str;

    /// Gets `segment` ready to run, once.
    ///
    /// # Errors
    /// When the engine cannot run one of its operators.
    fn prepare(&self, segment: &Segment) -> Result<Box<dyn Runner>, EngineError>;
}

/// A segment that is ready to run, from any number of threads at once.
///
/// Row `i` of the output depends on row `i` of the input alone, bit for bit, whatever the other rows
/// and their number; on one machine, the same row always gives the same bits.
pub trait Runner: Send + Sync + fmt::Debug {
    /// Runs the samples of `input` `[n, numbers per sample]` and writes the results to the rows of
    /// `output` `[n, numbers per result]`.
    ///
    /// # Errors
    /// When the arrays do not fit the segment or each other, or the engine fails. What `output` holds
    /// then is of no use.
    fn run(&self, input: ArrayView2<'_, f32>, output: ArrayViewMut2<'_, f32>) -> Result<(), EngineError>;
}

/// Why an engine cannot prepare or run a segment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The engine does not take the segment.
    #[error("{engine} cannot run the segment from {from:?} to {to:?}: {reason}")]
    Prepare {
        /// The engine.
        engine: String,
        /// The tensor the segment begins with.
        from: String,
        /// The tensor the segment makes.
        to: String,
        /// What the engine said.
        reason: String,
    },
    /// The engine failed on a sample.
    #[error("{engine} failed between {from:?} and {to:?}: {reason}")]
    Run {
        /// The engine.
        engine: String,
        /// The tensor the segment begins with.
        from: String,
        /// The tensor the segment makes.
        to: String,
        /// What the engine said.
        reason: String,
    },
    /// An array has too many or too few columns.
    #[error("found {found} numbers per sample at {tensor:?}, expected {expected}")]
    Width {
        /// The tensor the array is for.
        tensor: String,
        /// The array's columns.
        found: usize,
        /// The tensor's length.
        expected: usize,
    },
    /// Input and output have different numbers of rows.
    #[error("found {found} rows for the results, expected {expected}")]
    Rows {
        /// The output's rows.
        found: usize,
        /// The input's rows.
        expected: usize,
    },
}
