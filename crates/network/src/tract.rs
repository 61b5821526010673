//! The embedded engine: pure Rust, nothing to install.

use std::sync::{Arc, Mutex, PoisonError};

use ndarray::{ArrayView2, ArrayViewMut2};
use prost::Message as _;
use tract_onnx::pb;
use tract_onnx::prelude::{
    InferenceModelExt as _, IntoRunnable as _, Tensor, TypedSimplePlan, TypedSimpleState, tvec,
};

use crate::cut::Segment;
use crate::engine::{Engine, EngineError, Runner};
use crate::facts::guarded;
use crate::info::TensorInfo;

const NAME: &str = "tract";
/// What Cargo.lock holds; a test keeps it true.
const VERSION: &str = "0.23.9";

/// The engine `tract`.
///
/// Samples run one by one: its kernels split a batch into tiles that straddle samples, which would let
/// neighbours change the last bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tract;

impl Engine for Tract {
    fn name(&self) -> &str {
        NAME
    }

    fn version(&self) -> &str {
        VERSION
    }

    fn prepare(&self, segment: &Segment) -> Result<Box<dyn Runner>, EngineError> {
        let plan = guarded(|| plan(segment)).map_err(|reason| EngineError::Prepare {
            engine: NAME.to_owned(),
            from: segment.input().name.clone(),
            to: segment.output().name.clone(),
            reason,
        })?;
        Ok(Box::new(TractRunner {
            plan,
            idle: Mutex::default(),
            input: segment.input().clone(),
            output: segment.output().clone(),
        }))
    }
}

impl std::fmt::Display for Tract {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{NAME} {VERSION}")
    }
}

/// The segment's plan, for one sample.
fn plan(segment: &Segment) -> tract_onnx::prelude::TractResult<Arc<TypedSimplePlan>> {
    let model = pb::ModelProto::decode(segment.model())?;
    tract_onnx::onnx().parse(&model, None)?.model.into_optimized()?.into_runnable()
}

/// A prepared segment: one plan, and a state with its buffers for every thread that ever ran it at once.
struct TractRunner {
    plan: Arc<TypedSimplePlan>,
    idle: Mutex<Vec<TypedSimpleState>>,
    input: TensorInfo,
    output: TensorInfo,
}

impl TractRunner {
    fn failed(&self, reason: String) -> EngineError {
        EngineError::Run {
            engine: NAME.to_owned(),
            from: self.input.name.clone(),
            to: self.output.name.clone(),
            reason,
        }
    }
}

impl Runner for TractRunner {
    fn run(&self, input: ArrayView2<'_, f32>, mut output: ArrayViewMut2<'_, f32>) -> Result<(), EngineError> {
        for (info, found) in [(&self.input, input.ncols()), (&self.output, output.ncols())] {
            if found != info.len() {
                return Err(EngineError::Width { tensor: info.name.clone(), found, expected: info.len() });
            }
        }
        if output.nrows() != input.nrows() {
            return Err(EngineError::Rows { found: output.nrows(), expected: input.nrows() });
        }
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut state = match idle {
            Some(state) => state,
            None => guarded(|| self.plan.spawn()).map_err(|reason| self.failed(reason))?,
        };
        let mut shape = vec![1];
        shape.extend_from_slice(&self.input.shape);
        for (row, mut made) in input.outer_iter().zip(output.outer_iter_mut()) {
            let run = || {
                let row = row.as_standard_layout();
                let sample = Tensor::from_shape(&shape, row.as_slice().unwrap_or_default())?;
                let results = state.run(tvec!(sample.into()))?;
                let result = results.into_iter().next();
                let result = result.ok_or_else(|| tract_onnx::prelude::TractError::msg("it made nothing"))?;
                let numbers = result.to_plain_array_view::<f32>()?;
                if numbers.len() != made.len() {
                    let (found, expected) = (numbers.len(), made.len());
                    let reason = format!("it made {found} numbers, expected {expected}");
                    return Err(tract_onnx::prelude::TractError::msg(reason));
                }
                made.iter_mut().zip(numbers.iter()).for_each(|(to, from)| *to = *from);
                Ok(())
            };
            // A state that failed is dropped, with whatever was left in it half-done.
            guarded(run).map_err(|reason| self.failed(reason))?;
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(state);
        Ok(())
    }
}

impl std::fmt::Debug for TractRunner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TractRunner")
            .field("from", &self.input.name)
            .field("to", &self.output.name)
            .finish_non_exhaustive()
    }
}
