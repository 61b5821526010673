//! Segments as sessions, and the rows on their way through them.

use std::sync::Arc;

use ort::environment::Environment;
use ort::memory::Allocator;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session};
use ort::value::{DynValue, Tensor, TensorRef};
use prost::Message as _;
use tract_onnx::prelude::{TractError, TractResult};

use super::NAME;
use super::batched::open_batch;
use super::library::message;
use crate::cut::Segment;
use crate::engine::{Batching, Chain, ChainLane, Ends, EngineError};
use crate::facts::guarded;

/// Where the threads of a session come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Threads {
    /// The environment's pool.
    Pool,
    /// So many of its own; one is the caller.
    Own(usize),
}

/// How many rows a session runs at once, as it was found out when it was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// One: the segment cannot take more, or more would change a row's bits.
    One,
    /// Any number.
    Any,
    /// Always exactly so many, filled up where there are fewer.
    Always(usize),
    /// One, or exactly so many, which give a row the same bits.
    OneOr(usize),
}

impl Rows {
    /// How many rows to run at once when `left` are waiting.
    fn step(self, left: usize) -> usize {
        match self {
            Self::One => 1,
            Self::Any => left,
            Self::Always(rows) => rows,
            Self::OneOr(_) if left == 1 => 1,
            Self::OneOr(rows) => rows,
        }
    }
}

/// A segment: the model that sessions are made from.
#[derive(Debug)]
struct Piece {
    model: Vec<u8>,
    ends: Ends,
    rows: Rows,
}

#[derive(Debug)]
struct Loaded {
    environment: Environment,
    threads: Threads,
    pieces: Vec<Piece>,
}

/// The segments, and the sessions that loading them left over.
#[derive(Debug)]
struct OrtChain {
    loaded: Arc<Loaded>,
    first: std::sync::Mutex<Option<OrtLane>>,
}

/// Loads the segments. Each is tried out on what the ones before it make of random numbers.
pub(super) fn load(
    environment: &Environment,
    threads: Threads,
    segments: &mut dyn Iterator<Item = Segment>,
    batching: Batching,
) -> Result<Box<dyn Chain>, EngineError> {
    let (mut pieces, mut ready) = (Vec::new(), Vec::new());
    let mut trial = None;
    for segment in segments {
        let ends = Ends::of(&segment);
        let model = segment.into_model();
        let width = ends.input.len();
        let rows = match batching {
            Batching::Exact { rows } => rows,
            Batching::Fast => TRIAL_ROWS,
            Batching::Single => 1,
        };
        let x: Vec<f32> = trial.take().unwrap_or_else(|| noise(rows * width));
        let open = |model: &[u8], rows| Prepared::new(environment, threads, model, &ends, rows);
        let one = model.encode_to_vec();
        let mut chosen = None;
        let batched = open_batch(&model).encode_to_vec();
        drop(model);
        if rows > 1
            && let Ok(mut many) = guarded(|| open(&batched, Rows::Any))
        {
            // A segment that fails with many rows runs one by one.
            if let Ok(Some((found, y))) = guarded(|| many.try_out(&ends, &x, rows, batching)) {
                many.rows = found;
                trial = Some(y);
                chosen = Some((batched, many));
            }
        }
        let (model, prepared) = match chosen {
            Some(chosen) => chosen,
            None => {
                let prepared = guarded(|| open(&one, Rows::One));
                let mut prepared = prepared.map_err(|reason| ends.prepare(NAME, reason))?;
                let y = guarded(|| prepared.one_by_one(&ends, &x));
                trial = Some(y.map_err(|reason| ends.prepare(NAME, reason))?);
                (one, prepared)
            }
        };
        tracing::debug!("{} to {}: {:?}", ends.input.name, ends.output.name, prepared.rows);
        pieces.push(Piece { model, ends, rows: prepared.rows });
        ready.push(prepared);
    }
    let loaded = Arc::new(Loaded { environment: environment.clone(), threads, pieces });
    let lane = OrtLane::new(Arc::clone(&loaded), ready);
    Ok(Box::new(OrtChain { loaded, first: std::sync::Mutex::new(Some(lane)) }))
}

/// Rows to try a fast chain with.
const TRIAL_ROWS: usize = 3;

/// Numbers between −1 and 1 without any pattern, the same every time.
fn noise(count: usize) -> Vec<f32> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        // SplitMix64 (Steele, Lea, Flood 2014).
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

impl Chain for OrtChain {
    fn lane(&self) -> Result<Box<dyn ChainLane>, EngineError> {
        let first = self.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(lane) = first {
            return Ok(Box::new(lane));
        }
        let Loaded { environment, threads, pieces } = self.loaded.as_ref();
        let open = |piece: &Piece| {
            guarded(|| Prepared::new(environment, *threads, &piece.model, &piece.ends, piece.rows))
                .map_err(|reason| piece.ends.prepare(NAME, reason))
        };
        let ready = pieces.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Box::new(OrtLane::new(Arc::clone(&self.loaded), ready)))
    }
}

/// A session with the buffer for the result of one row.
struct Prepared {
    session: Session,
    single: RunOptions<HasSelectedOutputs>,
    rows: Rows,
}

impl Prepared {
    fn new(
        environment: &Environment,
        threads: Threads,
        model: &[u8],
        ends: &Ends,
        rows: Rows,
    ) -> TractResult<Self> {
        let builder = Session::builder(environment).map_err(message)?;
        let builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(message)?;
        let mut builder = match threads {
            Threads::Pool => builder,
            Threads::Own(threads) => {
                let builder = builder.with_independent_thread_pool().map_err(message)?;
                builder.with_intra_threads(threads).map_err(message)?
            }
        };
        let session = builder.commit_from_memory(model).map_err(message)?;
        let result =
            Tensor::<f32>::new(&Allocator::default(), shape(1, &ends.output.shape)).map_err(message)?;
        let outputs = OutputSelector::default().preallocate(ends.output.name.clone(), result);
        let single = RunOptions::new().map_err(message)?.with_outputs(outputs);
        Ok(Self { session, single, rows })
    }

    /// Runs one row into the buffer for it.
    fn run_one(&mut self, ends: &Ends, input: Input<'_>) -> TractResult<DynValue> {
        let mut outputs = match input {
            Input::Value(value) => self.session.run_with_options([value.into()], &self.single),
            Input::Slice(x) => {
                let x = TensorRef::from_array_view((shape(1, &ends.input.shape), x)).map_err(message)?;
                self.session.run_with_options([x.into()], &self.single)
            }
        }
        .map_err(message)?;
        checked(outputs.remove(&ends.output.name), ends.output.len())
    }

    /// Runs `rows` rows into a tensor of the engine's.
    fn run_many(&mut self, ends: &Ends, rows: usize, x: &[f32]) -> TractResult<DynValue> {
        let x = TensorRef::from_array_view((shape(rows, &ends.input.shape), x)).map_err(message)?;
        let mut outputs = self.session.run([x.into()]).map_err(message)?;
        checked(outputs.remove(&ends.output.name), rows * ends.output.len())
    }

    fn one_by_one(&mut self, ends: &Ends, x: &[f32]) -> TractResult<Vec<f32>> {
        let mut y = Vec::new();
        for row in x.chunks_exact(ends.input.len().max(1)) {
            let made = self.run_one(ends, Input::Slice(row))?;
            y.extend_from_slice(numbers(&made)?);
        }
        Ok(y)
    }

    /// How this segment may run `rows` rows at once, and what it makes of those in `x`; `None` when only one by one.
    fn try_out(
        &mut self,
        ends: &Ends,
        x: &[f32],
        rows: usize,
        batching: Batching,
    ) -> TractResult<Option<(Rows, Vec<f32>)>> {
        let together = self.run_many(ends, rows, x)?;
        let together = numbers(&together)?.to_vec();
        let single = self.one_by_one(ends, x)?;
        let largest = single.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-3 * largest;
        // The batch is left open in a model that was not made for it: it may compute something else.
        if together.len() != single.len() || !together.iter().zip(&single).all(close) {
            return Ok(None);
        }
        if batching == Batching::Fast {
            return Ok(Some((Rows::Any, together)));
        }
        let equal = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        if equal(&together, &single) {
            return Ok(Some((Rows::OneOr(rows), together)));
        }
        // Single rows take another way through the kernels. It is enough when rows of a full batch depend neither on
        // their place nor on their neighbours: turned round by one, then with nothing but zeros beside the first.
        let (width, made) = (ends.input.len(), ends.output.len());
        let mut turned = x.to_vec();
        turned.rotate_right(width);
        let moved = self.run_many(ends, rows, &turned)?;
        let mut moved = numbers(&moved)?.to_vec();
        moved.rotate_left(made);
        turned.fill(0.0);
        turned[..width].copy_from_slice(&x[..width]);
        let alone = self.run_many(ends, rows, &turned)?;
        let independent = equal(&moved, &together) && equal(&numbers(&alone)?[..made], &together[..made]);
        Ok(independent.then_some((Rows::Always(rows), together)))
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("rows", &self.rows).finish_non_exhaustive()
    }
}

enum Input<'a> {
    Value(&'a DynValue),
    Slice(&'a [f32]),
}

fn shape(rows: usize, sample: &[usize]) -> Vec<i64> {
    // A tensor that exists has fewer numbers than that.
    std::iter::once(&rows).chain(sample).map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect()
}

fn numbers(value: &DynValue) -> TractResult<&[f32]> {
    value.try_extract_tensor::<f32>().map(|(_, numbers)| numbers).map_err(message)
}

fn checked(value: Option<DynValue>, expected: usize) -> TractResult<DynValue> {
    let value = value.ok_or_else(|| TractError::msg("it made nothing"))?;
    let found = numbers(&value)?.len();
    if found == expected {
        Ok(value)
    } else {
        Err(TractError::msg(format!("it made {found} numbers, expected {expected}")))
    }
}

/// Where rows lie.
#[derive(Debug)]
enum Held {
    /// In `OrtLane::input`.
    Input,
    /// In a tensor of the engine's: its own result.
    Value(DynValue),
    /// In `OrtLane::flat`.
    Flat,
}

/// One thread's sessions. A row goes from one session to the next in the tensor that the first made.
#[derive(Debug)]
struct OrtLane {
    loaded: Arc<Loaded>,
    ready: Vec<Prepared>,
    /// One sample of the network's input, for the shortest way.
    input: Option<DynValue>,
    flat: Vec<f32>,
    held: Held,
    rows: usize,
    width: usize,
}

impl OrtLane {
    fn new(loaded: Arc<Loaded>, ready: Vec<Prepared>) -> Self {
        Self { loaded, ready, input: None, flat: Vec::new(), held: Held::Flat, rows: 0, width: 0 }
    }

    fn slice(&self) -> &[f32] {
        match &self.held {
            Held::Input => self.input.as_ref().and_then(|value| numbers(value).ok()).unwrap_or_default(),
            Held::Value(value) => numbers(value).unwrap_or_default(),
            Held::Flat => &self.flat,
        }
    }

    /// Sees to it that there are numbers for `rows` rows; those that are no rows are zeros, or left from before.
    fn fill_up(&mut self, rows: usize) {
        let numbers = rows * self.width;
        if self.slice().len() >= numbers {
            return;
        }
        if !matches!(self.held, Held::Flat) {
            let mut flat = std::mem::take(&mut self.flat);
            flat.clear();
            flat.extend_from_slice(self.slice());
            self.flat = flat;
            self.held = Held::Flat;
        }
        self.flat.resize(numbers, 0.0);
    }

    fn put_one(&mut self, ends: &Ends, x: &[f32]) -> TractResult<()> {
        if self.input.is_none() {
            let shape = shape(1, &ends.input.shape);
            self.input = Some(Tensor::<f32>::new(&Allocator::default(), shape).map_err(message)?.into_dyn());
        }
        if let Some(input) = &mut self.input {
            input.try_extract_tensor_mut::<f32>().map_err(message)?.1.copy_from_slice(x);
        }
        self.held = Held::Input;
        Ok(())
    }

    fn run_rows(&mut self, segment: usize) -> TractResult<()> {
        let loaded = Arc::clone(&self.loaded);
        let Piece { ends, rows: way, .. } = &loaded.pieces[segment];
        let (width, made) = (ends.input.len(), ends.output.len());
        let step = way.step(self.rows);
        let runs = self.rows.div_ceil(step);
        self.fill_up(runs * step);
        let ready = &mut self.ready[segment];
        if runs == 1 {
            let value = match (&self.held, step) {
                (Held::Value(value), 1) if self.rows == 1 && numbers(value)?.len() == width => {
                    ready.run_one(ends, Input::Value(value))?
                }
                (Held::Input, 1) => match &self.input {
                    Some(value) => ready.run_one(ends, Input::Value(value))?,
                    None => return Err(TractError::msg("there is no sample")),
                },
                (Held::Value(value), 1) => ready.run_one(ends, Input::Slice(&numbers(value)?[..width]))?,
                (Held::Flat, 1) => ready.run_one(ends, Input::Slice(&self.flat[..width]))?,
                (Held::Value(value), _) => ready.run_many(ends, step, &numbers(value)?[..step * width])?,
                (_, _) => ready.run_many(ends, step, &self.flat[..step * width])?,
            };
            self.held = Held::Value(value);
        } else {
            let mut results = Vec::with_capacity(runs * step * made);
            let x: &[f32] = match &self.held {
                Held::Value(value) => numbers(value)?,
                _ => &self.flat,
            };
            for x in x[..runs * step * width].chunks_exact(step * width) {
                let value = match step {
                    1 => ready.run_one(ends, Input::Slice(x))?,
                    _ => ready.run_many(ends, step, x)?,
                };
                results.extend_from_slice(numbers(&value)?);
            }
            (self.flat, self.held) = (results, Held::Flat);
        }
        self.width = made;
        Ok(())
    }
}

impl ChainLane for OrtLane {
    fn put(&mut self, segment: usize, rows: usize, x: &[f32]) -> Result<(), EngineError> {
        let loaded = Arc::clone(&self.loaded);
        let ends = &loaded.pieces[segment].ends;
        (self.rows, self.width) = (rows, ends.input.len());
        if segment == 0 && rows == 1 {
            return guarded(|| self.put_one(ends, x)).map_err(|reason| ends.run(NAME, reason));
        }
        self.flat.clear();
        self.flat.extend_from_slice(x);
        self.held = Held::Flat;
        Ok(())
    }

    fn run(&mut self, segment: usize) -> Result<(), EngineError> {
        guarded(|| self.run_rows(segment))
            .map_err(|reason| self.loaded.pieces[segment].ends.run(NAME, reason))
    }

    fn row(&self, row: usize) -> &[f32] {
        self.slice().get(row * self.width..(row + 1) * self.width).unwrap_or_default()
    }

    fn keep(&mut self, rows: &[usize]) {
        let width = self.width;
        self.rows = rows.len();
        let numbers = match &mut self.held {
            Held::Input => self.input.as_mut(),
            Held::Value(value) => Some(value),
            Held::Flat => None,
        };
        let numbers = match numbers.map(|value| value.try_extract_tensor_mut::<f32>()) {
            Some(Ok((_, numbers))) => numbers,
            Some(Err(_)) | None => &mut self.flat,
        };
        for (to, from) in rows.iter().enumerate().filter(|(to, from)| to < from) {
            numbers.copy_within(from * width..(from + 1) * width, to * width);
        }
    }
}
