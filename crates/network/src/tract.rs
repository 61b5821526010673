//! The embedded engine: pure Rust, nothing to install.

use std::sync::Arc;

use tract_onnx::prelude::{
    InferenceModelExt as _, IntoRunnable as _, IntoTValue as _, TValue, Tensor, TractError, TractResult,
    TypedSimplePlan, TypedSimpleState, tvec,
};

use crate::cut::Segment;
use crate::engine::{Batching, Chain, ChainLane, Ends, Engine, EngineError};
use crate::facts::guarded;

const NAME: &str = "tract";
/// What Cargo.lock holds; a test keeps it true.
const VERSION: &str = "0.23.9";

/// The engine `tract`.
///
/// Samples run one by one, whatever is asked for: its kernels split a batch into tiles that straddle samples, which
/// would let neighbours change the last bits, and it gains nothing by batches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tract;

impl Engine for Tract {
    fn name(&self) -> &str {
        NAME
    }

    fn version(&self) -> &str {
        VERSION
    }

    fn chain(
        &self,
        segments: &mut dyn Iterator<Item = Segment>,
        _batching: Batching,
    ) -> Result<Box<dyn Chain>, EngineError> {
        let mut pieces = Vec::new();
        for segment in segments {
            let ends = Ends::of(&segment);
            let plan = guarded(|| plan(segment)).map_err(|reason| ends.prepare(NAME, reason))?;
            pieces.push(Piece { plan, ends });
        }
        Ok(Box::new(TractChain { pieces: pieces.into() }))
    }
}

impl std::fmt::Display for Tract {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{NAME} {VERSION}")
    }
}

/// The segment's plan, for one sample.
fn plan(segment: Segment) -> TractResult<Arc<TypedSimplePlan>> {
    let model = segment.into_model();
    let parsed = tract_onnx::onnx().parse(&model, None)?.model;
    // The engine has its own copy of the weights now.
    drop(model);
    parsed.into_optimized()?.into_runnable()
}

struct Piece {
    plan: Arc<TypedSimplePlan>,
    ends: Ends,
}

struct TractChain {
    pieces: Arc<[Piece]>,
}

impl Chain for TractChain {
    fn lane(&self) -> Result<Box<dyn ChainLane>, EngineError> {
        let spawn =
            |piece: &Piece| guarded(|| piece.plan.spawn()).map_err(|reason| piece.ends.prepare(NAME, reason));
        let states = self.pieces.iter().map(spawn).collect::<Result<_, _>>()?;
        Ok(Box::new(TractLane {
            pieces: Arc::clone(&self.pieces),
            states,
            rows: Vec::new(),
            inputs: Vec::new(),
            shape: Vec::new(),
        }))
    }
}

impl std::fmt::Debug for TractChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TractChain").field("segments", &self.pieces.len()).finish_non_exhaustive()
    }
}

/// One thread's states. A row is the tensor that the last segment made, and goes into the next as it is.
struct TractLane {
    pieces: Arc<[Piece]>,
    states: Vec<TypedSimpleState>,
    rows: Vec<TValue>,
    /// Tensors for samples, to be filled again once the engine has let go of them.
    inputs: Vec<Arc<Tensor>>,
    shape: Vec<usize>,
}

impl ChainLane for TractLane {
    fn put(&mut self, segment: usize, rows: usize, x: &[f32]) -> Result<(), EngineError> {
        self.rows.clear();
        let ends = &self.pieces[segment].ends;
        self.shape.clear();
        self.shape.push(1);
        self.shape.extend_from_slice(&ends.input.shape);
        let failed = |reason| ends.run(NAME, reason);
        // A tensor without elements, or no row, leaves nothing to fill.
        for (i, row) in x.chunks_exact(ends.input.len().max(1)).take(rows).enumerate() {
            let filled = self.inputs.get_mut(i).is_some_and(|input| fill(input, &self.shape, row));
            if !filled {
                let made = guarded(|| Tensor::from_shape(&self.shape, row)).map_err(failed)?;
                self.inputs.truncate(i);
                self.inputs.push(Arc::new(made));
            }
            self.rows.push(Arc::clone(&self.inputs[i]).into_tvalue());
        }
        Ok(())
    }

    fn run(&mut self, segment: usize) -> Result<(), EngineError> {
        let ends = &self.pieces[segment].ends;
        let state = &mut self.states[segment];
        for row in &mut self.rows {
            let run = || {
                let made = state.run(tvec!(row.clone()))?.into_iter().next();
                let made = made.ok_or_else(|| TractError::msg("it made nothing"))?;
                let (found, expected) = (numbers(&made)?.len(), ends.output.len());
                if found != expected {
                    return Err(TractError::msg(format!("it made {found} numbers, expected {expected}")));
                }
                Ok(made)
            };
            *row = guarded(run).map_err(|reason| ends.run(NAME, reason))?;
        }
        Ok(())
    }

    fn row(&self, row: usize) -> &[f32] {
        // Checked when it was made.
        self.rows.get(row).and_then(|row| numbers(row).ok()).unwrap_or_default()
    }

    fn keep(&mut self, rows: &[usize]) {
        for (to, from) in rows.iter().enumerate() {
            self.rows.swap(to, *from);
        }
        self.rows.truncate(rows.len());
    }
}

/// Writes `row` into a tensor that nobody else holds.
fn fill(tensor: &mut Arc<Tensor>, shape: &[usize], row: &[f32]) -> bool {
    let Some(tensor) = Arc::get_mut(tensor).filter(|tensor| tensor.shape() == shape) else { return false };
    let Ok(mut view) = tensor.try_as_plain_ram_mut() else { return false };
    view.as_slice_mut::<f32>().map(|numbers| numbers.copy_from_slice(row)).is_ok()
}

fn numbers(tensor: &Tensor) -> TractResult<&[f32]> {
    tensor.try_as_plain_ram()?.as_slice()
}

impl std::fmt::Debug for TractLane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TractLane")
            .field("segments", &self.pieces.len())
            .field("rows", &self.rows.len())
            .finish_non_exhaustive()
    }
}
