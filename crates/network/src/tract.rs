//! The embedded engine: pure Rust, nothing to install.

use std::sync::{Arc, Mutex, PoisonError};

use ndarray::{ArrayView2, ArrayViewMut2};
use prost::Message;
use tract_onnx::pb;
use tract_onnx::prelude::{
    Framework as _, InferenceModelExt as _, Tensor, TypedModel, TypedSimplePlan, TypedSimpleState, tvec,
};
use tract_onnx::tract_hir::internal::{IntoRunnable as _, TractResult, bail, ensure};

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
