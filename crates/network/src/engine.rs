//! What runs segments.

use std::fmt;

use crate::cut::Segment;

/// Something that can run ONNX models on this machine.
pub trait Engine: Send + Sync + fmt::Debug {
    /// Its name, for reports: activations are comparable bit for bit within one engine only.
    fn name(&self) -> &str;

    /// Its version, likewise.
    fn version(&self) -> &str;

    /// Gets segments ready to run one after the other, once. Each is taken from `segments` when the one before it is
    /// ready, so that not all need to exist at the same time.
    ///
    /// # Errors
    /// When the engine cannot run one of their operators.
    fn chain(
        &self,
        segments: &mut dyn Iterator<Item = Segment>,
        batching: Batching,
    ) -> Result<Box<dyn Chain>, EngineError>;

    /// The engine to take for a network that this one cannot run, when nobody asked for this one by name.
    fn fallback(&self) -> Option<&dyn Engine> {
        None
    }
}

/// Name and version as they stand in reports: `tract 0.23.9`.
pub fn engine_label(engine: &dyn Engine) -> String {
    format!("{} {}", engine.name(), engine.version())
}

/// What a batch may do to its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batching {
    /// Row `i` of a result depends on row `i` that went in alone, bit for bit: not on the other rows, nor on their
    /// number. What is summed over a fleet needs that. `rows` says how many rows are put into one batch, at most; an
    /// engine may fill a smaller batch up to that.
    Exact {
        /// Rows of a batch.
        rows: usize,
    },
    /// As fast as the engine can. The last bits of a row may depend on the number of rows.
    Fast,
    /// Single rows, with the models as they are: the plain use of an engine, to compare with.
    Single,
}

/// The segments of a network, ready to run. Shared by all threads.
pub trait Chain: Send + Sync + fmt::Debug {
    /// What one thread needs to run them.
    ///
    /// # Errors
    /// When the engine has not got it.
    fn lane(&self) -> Result<Box<dyn ChainLane>, EngineError>;
}

/// One thread's buffers for a chain. What it holds are rows: samples on their way through the segments.
///
/// [`Segments`](crate::Segments) checks what is handed in before a lane sees it.
pub trait ChainLane: Send + fmt::Debug {
    /// Takes `rows` samples as they are before `segment`, one after the other in `x`.
    ///
    /// # Errors
    /// When the engine fails.
    fn put(&mut self, segment: usize, rows: usize, x: &[f32]) -> Result<(), EngineError>;

    /// Runs `segment` over all rows. The lane is of no use after an error.
    ///
    /// # Errors
    /// When the engine fails.
    fn run(&mut self, segment: usize) -> Result<(), EngineError>;

    /// The numbers of one row, as the tensor is stored. In place: nothing is copied.
    fn row(&self, row: usize) -> &[f32];

    /// Drops all rows but these, which rise.
    fn keep(&mut self, rows: &[usize]);
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
}

/// Where a segment begins and ends, for errors and sizes.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    pub(crate) input: crate::info::TensorInfo,
    pub(crate) output: crate::info::TensorInfo,
}

impl Ends {
    pub(crate) fn of(segment: &Segment) -> Self {
        Self { input: segment.input().clone(), output: segment.output().clone() }
    }

    pub(crate) fn prepare(&self, engine: &str, reason: impl Into<String>) -> EngineError {
        let (from, to) = (self.input.name.clone(), self.output.name.clone());
        EngineError::Prepare { engine: engine.to_owned(), from, to, reason: reason.into() }
    }

    pub(crate) fn run(&self, engine: &str, reason: impl Into<String>) -> EngineError {
        let (from, to) = (self.input.name.clone(), self.output.name.clone());
        EngineError::Run { engine: engine.to_owned(), from, to, reason: reason.into() }
    }
}
