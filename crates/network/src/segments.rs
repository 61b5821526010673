//! A network cut and loaded: its segments one after the other.

use std::sync::{Mutex, PoisonError};

use ndarray::{Array2, ArrayView2};

use crate::cut::CutError;
use crate::engine::{Batching, Chain, ChainLane, Engine, EngineError, engine_label};
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

/// A batch of more than one row stays under this at the input and at every tap, where nobody says how many rows it has.
/// Tensors inside a segment are the engine's, and may be larger.
const BATCH_BYTES: usize = 16 << 20;
/// Larger batches gain nothing.
const MAX_BATCH: usize = 32;

/// The segments of a network, ready to run from any number of threads at once, each on a [`Lane`] of its own.
///
/// Rows are samples, flattened as the tensors are stored.
#[derive(Debug)]
pub struct Segments {
    chain: Box<dyn Chain>,
    /// Lanes that are not in use, with their buffers.
    idle: Mutex<Vec<Box<dyn ChainLane>>>,
    input: TensorInfo,
    outputs: Vec<TensorInfo>,
    engine: String,
    batch: usize,
}

impl Segments {
    /// Cuts `network` at `taps` (none: the network in one piece) and loads the pieces into `engine`. Row `i` of every
    /// result depends on row `i` of the input alone, bit for bit ([`Batching::Exact`]).
    ///
    /// # Errors
    /// See [`PrepareError`].
    pub fn prepare(engine: &dyn Engine, network: &Network, taps: &[&str]) -> Result<Self, PrepareError> {
        Self::prepare_exact(engine, network, taps, None)
    }

    /// [`prepare`](Self::prepare) with batches of `rows`; none: as many as suit the network.
    ///
    /// # Errors
    /// See [`PrepareError`].
    pub fn prepare_exact(
        engine: &dyn Engine,
        network: &Network,
        taps: &[&str],
        rows: Option<usize>,
    ) -> Result<Self, PrepareError> {
        let (inputs, cuts) = (network.input(), network.cut_infos(taps)?);
        let largest = std::iter::once(inputs).chain(&cuts).map(TensorInfo::len).max().unwrap_or(1).max(1);
        let rows = rows.unwrap_or((BATCH_BYTES / (4 * largest)).clamp(1, MAX_BATCH)).max(1);
        Self::load(engine, network, taps, Batching::Exact { rows }, rows)
    }

    /// [`prepare_fast`](Self::prepare_fast) with a network that nobody else needs: where the engine is the last resort,
    /// weights are moved into it piece by piece, so that they are never all there twice.
    ///
    /// # Errors
    /// See [`PrepareError`].
    pub fn prepare_and_drop(
        engine: &dyn Engine,
        network: Network,
        taps: &[&str],
    ) -> Result<Self, PrepareError> {
        if engine.fallback().is_some() {
            return Self::prepare_fast(engine, &network, taps);
        }
        let outputs = outputs(&network, taps)?;
        let input = network.input().clone();
        let chain = engine.chain(&mut network.into_segments(taps)?, Batching::Fast)?;
        Ok(Self::new(chain, input, outputs, engine_label(engine), MAX_BATCH))
    }

    /// Like [`prepare`](Self::prepare), as fast as the engine can: the last bits of a row may depend on how many rows
    /// there are. For inference.
    ///
    /// # Errors
    /// See [`PrepareError`].
    pub fn prepare_fast(engine: &dyn Engine, network: &Network, taps: &[&str]) -> Result<Self, PrepareError> {
        Self::load(engine, network, taps, Batching::Fast, MAX_BATCH)
    }

    /// The file as it is, in one piece and one sample at a time: what a user runs who has nothing but the engine. For
    /// comparison; what comes out is what [`prepare_fast`](Self::prepare_fast) without taps makes, but for the last bits.
    ///
    /// # Errors
    /// When the engine does not take it.
    pub fn prepare_file(engine: &dyn Engine, network: &Network) -> Result<Self, PrepareError> {
        let whole = network.file()?;
        let chain = engine.chain(&mut std::iter::once(whole), Batching::Single)?;
        let outputs = vec![network.output().clone()];
        Ok(Self::new(chain, network.input().clone(), outputs, engine_label(engine), 1))
    }

    fn load(
        engine: &dyn Engine,
        network: &Network,
        taps: &[&str],
        batching: Batching,
        batch: usize,
    ) -> Result<Self, PrepareError> {
        let outputs = outputs(network, taps)?;
        let (chain, label) = match engine.chain(&mut network.segments(taps)?, batching) {
            Ok(chain) => (chain, engine_label(engine)),
            Err(error) => {
                let Some(other) = engine.fallback() else { return Err(error.into()) };
                let label = engine_label(other);
                tracing::warn!("{error}; this network runs in {label}");
                (other.chain(&mut network.segments(taps)?, batching)?, label)
            }
        };
        Ok(Self::new(chain, network.input().clone(), outputs, label, batch))
    }

    fn new(
        chain: Box<dyn Chain>,
        input: TensorInfo,
        outputs: Vec<TensorInfo>,
        engine: String,
        batch: usize,
    ) -> Self {
        Self { chain, idle: Mutex::default(), input, outputs, engine, batch }
    }

    /// Number of segments: one more than there are taps.
    pub fn len(&self) -> usize {
        self.outputs.len()
    }

    /// Whether there is no segment. There always is one.
    pub fn is_empty(&self) -> bool {
        self.outputs.is_empty()
    }

    /// The engine that runs them, with its version.
    pub fn engine(&self) -> &str {
        &self.engine
    }

    /// How many rows a batch best has.
    pub fn batch(&self) -> usize {
        self.batch
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

    /// What goes into a segment.
    fn input_of(&self, segment: usize) -> &TensorInfo {
        segment.checked_sub(1).map_or(&self.input, |before| &self.outputs[before])
    }

    /// Buffers to run on, from an earlier time where there are some. They are kept for the next when the lane is
    /// dropped.
    ///
    /// # Errors
    /// When the engine cannot make another.
    pub fn lane(&self) -> Result<Lane<'_>, EngineError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let inner = match idle {
            Some(lane) => lane,
            None => self.chain.lane()?,
        };
        Ok(Lane { segments: self, inner: Some(inner), next: 0, rows: 0 })
    }

    /// Runs one segment.
    ///
    /// # Errors
    /// [`EngineError`].
    ///
    /// # Panics
    /// There is no such segment.
    pub fn run_segment(&self, segment: usize, x: ArrayView2<'_, f32>) -> Result<Array2<f32>, EngineError> {
        let mut lane = self.lane()?;
        lane.begin_at(segment, x)?;
        lane.run()?;
        Ok(lane.to_array())
    }

    /// Runs everything. `visit` sees the activations at every tap as they are made; what comes back are the network's
    /// outputs. For callers to whom a copy of every activation is nothing; others take a [`lane`](Self::lane).
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn run_all(
        &self,
        x: ArrayView2<'_, f32>,
        visit: &mut dyn FnMut(usize, ArrayView2<'_, f32>),
    ) -> Result<Array2<f32>, EngineError> {
        let mut lane = self.lane()?;
        lane.begin(x)?;
        for tap in 0..self.len() - 1 {
            lane.run()?;
            visit(tap, lane.to_array().view());
        }
        lane.run()?;
        Ok(lane.to_array())
    }
}

/// What each segment makes.
fn outputs(network: &Network, taps: &[&str]) -> Result<Vec<TensorInfo>, CutError> {
    Ok(network.cut_infos(taps)?.into_iter().chain([network.output().clone()]).collect())
}

/// One thread's way through the segments: samples go in, segments run one after the other, and what a segment made is
/// read where it lies. Buffers are kept from one use to the next.
#[derive(Debug)]
pub struct Lane<'a> {
    segments: &'a Segments,
    /// Gone after an error: what it held is half-done.
    inner: Option<Box<dyn ChainLane>>,
    next: usize,
    rows: usize,
}

impl Lane<'_> {
    /// Takes samples `[n, numbers per sample]` to the network's input.
    ///
    /// # Errors
    /// When they are not the network's input.
    pub fn begin(&mut self, x: ArrayView2<'_, f32>) -> Result<(), EngineError> {
        self.begin_at(0, x)
    }

    /// Takes activations `[n, numbers per sample]` to the beginning of `segment`.
    ///
    /// # Errors
    /// When they do not fit there.
    ///
    /// # Panics
    /// There is no such segment.
    pub fn begin_at(&mut self, segment: usize, x: ArrayView2<'_, f32>) -> Result<(), EngineError> {
        assert!(segment < self.segments.len(), "there are {} segments", self.segments.len());
        let expected = self.segments.input_of(segment);
        if x.ncols() != expected.len() {
            let (tensor, expected) = (expected.name.clone(), expected.len());
            return Err(EngineError::Width { tensor, found: x.ncols(), expected });
        }
        (self.next, self.rows) = (segment, x.nrows());
        self.with(|lane| match x.as_slice() {
            Some(flat) => lane.put(segment, x.nrows(), flat),
            None => {
                let standard = x.as_standard_layout();
                lane.put(segment, x.nrows(), standard.as_slice().unwrap_or_default())
            }
        })
    }

    /// Runs the next segment over all rows.
    ///
    /// # Errors
    /// When the engine fails. The lane can begin anew.
    ///
    /// # Panics
    /// The last segment has run.
    pub fn run(&mut self) -> Result<(), EngineError> {
        let segment = self.next;
        assert!(segment < self.segments.len(), "all segments have run");
        if self.rows > 0 {
            self.with(|lane| lane.run(segment))?;
        }
        self.next += 1;
        Ok(())
    }

    fn with(
        &mut self,
        act: impl FnOnce(&mut dyn ChainLane) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut lane = match self.inner.take() {
            Some(lane) => lane,
            None => self.segments.chain.lane()?,
        };
        match act(lane.as_mut()) {
            Ok(()) => {
                self.inner = Some(lane);
                Ok(())
            }
            Err(error) => {
                // What was on its way is lost: the lane has to begin anew before it can run.
                (self.next, self.rows) = (self.segments.len(), 0);
                Err(error)
            }
        }
    }

    /// The segment that runs next; their number when all have.
    pub fn next_segment(&self) -> usize {
        self.next
    }

    /// Rows on their way.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// What the last segment made of one row, as the tensor is stored.
    ///
    /// # Panics
    /// There is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        assert!(row < self.rows, "there are {} rows, asked for number {row}", self.rows);
        self.inner.as_ref().map_or(&[], |lane| lane.row(row))
    }

    /// Drops all rows but these, which rise: what goes on to the next segment.
    ///
    /// # Panics
    /// Rows do not rise, or there is no such row.
    pub fn keep(&mut self, rows: &[usize]) {
        assert!(rows.is_sorted_by(|a, b| a < b), "rows to keep must rise");
        assert!(rows.last().is_none_or(|last| *last < self.rows), "there are {} rows", self.rows);
        if rows.len() < self.rows {
            self.rows = rows.len();
            if let Some(lane) = &mut self.inner {
                lane.keep(rows);
            }
        }
    }

    /// A copy of all rows.
    fn to_array(&self) -> Array2<f32> {
        let width = self.segments.input_of(self.next).len();
        let mut array = Array2::zeros((self.rows, width));
        for (i, mut row) in array.outer_iter_mut().enumerate() {
            if let Some(row) = row.as_slice_mut() {
                row.copy_from_slice(self.row(i));
            }
        }
        array
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        if let Some(lane) = self.inner.take() {
            self.segments.idle.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
        }
    }
}
