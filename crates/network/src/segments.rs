//! A network cut and loaded: its segments one after the other.

use ndarray::{Array2, ArrayView2};

use crate::cut::CutError;
use crate::engine::{Engine, EngineError, Runner};
use crate::info::TensorInfo;
use crate::network::Network;

/// Why a network cannot be got ready to run in segments.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// It cannot be cut there.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// The engine does not take a segment.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The segments of a network, ready to run from any number of threads at once.
///
/// Rows are samples, flattened as the tensors are stored. Row `i` of every result depends on row `i` of the input
/// alone, bit for bit ([`Runner`]).
#[derive(Debug)]
pub struct Segments {
    runners: Vec<Box<dyn Runner>>,
    input: TensorInfo,
    outputs: Vec<TensorInfo>,
}

impl Segments {
    /// Cuts `network` at `taps` (none: the network in one piece) and loads the pieces into `engine`.
    ///
    /// # Errors
    /// See [`PrepareError`].
    pub fn prepare(engine: &dyn Engine, network: &Network, taps: &[&str]) -> Result<Self, PrepareError> {
        let mut runners = Vec::with_capacity(taps.len() + 1);
        let mut outputs = Vec::with_capacity(taps.len() + 1);
        for segment in network.cut(taps)? {
            runners.push(engine.prepare(&segment)?);
            outputs.push(segment.output().clone());
        }
        Ok(Self { runners, input: network.input().clone(), outputs })
    }

    /// Number of segments: one more than there are taps.
    pub fn len(&self) -> usize {
        self.runners.len()
    }

    /// Whether there is no segment. There always is one.
    pub fn is_empty(&self) -> bool {
        self.runners.is_empty()
    }

    /// Shape of the network's input, without the batch.
    pub fn input_shape(&self) -> &[usize] {
        &self.input.shape
    }

    /// Shape of the activation at tap `e`, without the batch.
    ///
    /// # Panics
    /// There is no tap `e`.
    pub fn tap_shape(&self, e: usize) -> &[usize] {
        assert!(e + 1 < self.len(), "there are {} taps, asked for number {e}", self.len() - 1);
        &self.outputs[e].shape
    }

    /// Runs one segment.
    ///
    /// # Errors
    /// [`EngineError`].
    ///
    /// # Panics
    /// There is no such segment.
    pub fn run_segment(&self, segment: usize, x: ArrayView2<'_, f32>) -> Result<Array2<f32>, EngineError> {
        let mut made = Array2::zeros((x.nrows(), self.outputs[segment].len()));
        self.runners[segment].run(x, made.view_mut())?;
        Ok(made)
    }

    /// Runs everything. `visit` sees the activations at every tap as they are made; what comes back are the network's
    /// outputs.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn run_all(
        &self,
        x: ArrayView2<'_, f32>,
        visit: &mut dyn FnMut(usize, ArrayView2<'_, f32>),
    ) -> Result<Array2<f32>, EngineError> {
        let mut current = self.run_segment(0, x)?;
        for segment in 1..self.len() {
            visit(segment - 1, current.view());
            current = self.run_segment(segment, current.view())?;
        }
        Ok(current)
    }
}
