//! What is known about every value of a graph before it has run: type, shape, and the value itself
//! where it does not depend on the input.
//!
//! The rules are the engine's. The walk is ours rather than the engine's own analysis, because a file
//! is not trusted: a tensor's size is checked before anything is computed that large, and an error
//! names the node.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tract_onnx::model::ParseResult;
use tract_onnx::pb;
use tract_onnx::prelude::{DatumType, IntoArcTensor as _, TVec, Tensor};
use tract_onnx::tract_hir::infer::{Factoid, InferenceFact, InferenceModel};
use tract_onnx::tract_hir::internal::{IntoTValue as _, TractResult};

use crate::load::LoadError;
use crate::structure::label;

/// The most elements any tensor may have: 1 GiB of floats.
const MAX_ELEMENTS: u64 = 1 << 28;

/// What is known about a value.
#[derive(Debug)]
pub(crate) struct Fact {
    pub(crate) kind: DatumType,
    /// Batch included.
    pub(crate) shape: Vec<usize>,
    /// The value, when every sample has the same.
    pub(crate) constant: Option<Arc<Tensor>>,
}

/// What is known about every value of `model`, by name.
pub(crate) fn infer(model: &pb::ModelProto) -> Result<BTreeMap<String, Fact>, LoadError> {
    let parsed =
        guarded(|| tract_onnx::onnx().parse(model, None)).map_err(|reason| LoadError::Engine { reason })?;
    let ParseResult { model: mut inference, outlets_by_name, .. } = parsed;
    let nodes = model.graph.as_ref().map_or(&[][..], |graph| graph.node.as_slice());

    // The engine puts inputs and weights first, then the nodes in the file's order.
    let given = inference.nodes().len().saturating_sub(nodes.len());
    for (position, node) in nodes.iter().enumerate() {
        infer_node(&mut inference, given + position, node)?;
    }

    let mut facts = BTreeMap::new();
    // The order of the map does not matter: it is only sorted by name.
    let mut names: Vec<_> = outlets_by_name.into_iter().collect();
    names.sort_unstable();
    for (name, outlet) in names {
        let known = inference.outlet_fact(outlet).ok().and_then(known);
        match known {
            Some(fact) => _ = facts.insert(name, fact),
            // Left out for nodes with outputs that nobody reads; whoever needs it will miss it.
            None => tracing::debug!(value = name, "shape unknown"),
        }
    }
    Ok(facts)
}

fn infer_node(model: &mut InferenceModel, id: usize, node: &pb::NodeProto) -> Result<(), LoadError> {
    let problem = |reason| LoadError::Node { node: label(node), operator: node.op_type.clone(), reason };
    guarded(|| infer_facts(model, id)).map_err(problem)?;

    for fact in model.node(id).outputs.iter().filter_map(|output| shape(&output.fact)) {
        let elements = fact.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim as u64));
        if elements.is_none_or(|elements| elements > MAX_ELEMENTS) {
            return Err(LoadError::TooLarge {
                node: label(node),
                operator: node.op_type.clone(),
                shape: fact,
                limit: MAX_ELEMENTS,
            });
        }
    }
    guarded(|| fold(model, id)).map_err(problem)?;

    // The first output is the one that every operator has and readers want.
    match model.node(id).outputs.first().map(|output| known(&output.fact)) {
        Some(None) => Err(problem("the shape of what it makes depends on the data".to_owned())),
        _ => Ok(()),
    }
}

fn infer_facts(model: &mut InferenceModel, id: usize) -> TractResult<()> {
    let node = model.node(id);
    let observed = node
        .op
        .observe_outlets(model, node)?
        .into_iter()
        .map(|outlet| model.outlet_fact(outlet).cloned())
        .collect::<TractResult<TVec<_>>>()?;
    let (inputs, outputs) = model.node_facts(id)?;
    let inputs: TVec<_> = inputs.into_iter().cloned().collect();
    let outputs: TVec<_> = outputs.into_iter().cloned().collect();

    let (_, inferred, _) = model.node_mut(id).op.infer_facts(
        inputs.iter().collect(),
        outputs.iter().collect(),
        observed.iter().collect(),
    )?;
    for ((output, before), fact) in model.node_mut(id).outputs.iter_mut().zip(&outputs).zip(&inferred) {
        output.fact = before.unify(fact)?;
    }
    Ok(())
}

/// Computes the outputs of a node whose inputs are all known.
fn fold(model: &mut InferenceModel, id: usize) -> TractResult<()> {
    let (inputs, outputs) = model.node_facts(id)?;
    if inputs.is_empty() || outputs.iter().all(|output| output.value.is_concrete()) {
        return Ok(());
    }
    let Some(values) = inputs
        .iter()
        .map(|input| input.value.concretize().map(|value| value.into_tvalue()))
        .collect::<Option<TVec<_>>>()
    else {
        return Ok(());
    };
    drop((inputs, outputs));
    let computed = model.node(id).op.eval_out_of_plan(values)?;
    if let Some(computed) = computed {
        for (output, value) in model.node_mut(id).outputs.iter_mut().zip(computed) {
            output.fact = InferenceFact::try_from(value.into_arc_tensor())?;
        }
    }
    Ok(())
}

fn shape(fact: &InferenceFact) -> Option<Vec<usize>> {
    Some(fact.shape.as_concrete_finite().ok()??.to_vec())
}

fn known(fact: &InferenceFact) -> Option<Fact> {
    Some(Fact { kind: fact.datum_type.concretize()?, shape: shape(fact)?, constant: fact.value.concretize() })
}

/// Runs code of the engine, which panics on some input that it did not expect. The message says what
/// went wrong, causes included.
pub(crate) fn guarded<T>(run: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    // What a panic may leave half-done is dropped by every caller together with the error.
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| format!("{error:#}")),
        Err(panic) => Err(panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .map_or_else(|| "it panicked".to_owned(), |message| format!("it panicked: {message}"))),
    }
}
