//! The data graph: what has to run for each sample, with everything else worked out.

use std::collections::{BTreeMap, BTreeSet};

use exeunt_stats::Macs;
use tract_onnx::pb;
use tract_onnx::prelude::DatumType;

use crate::facts::Fact;
use crate::info::TensorInfo;
use crate::load::LoadError;
use crate::structure::{Pinned, label, makes, reads};
use crate::{constants, facts, macs};

/// The nodes that run for each sample, for a batch of one.
pub(crate) struct DataGraph {
    pub(crate) ir_version: i64,
    pub(crate) opset: i64,
    pub(crate) input: TensorInfo,
    pub(crate) output: TensorInfo,
    /// In an order in which they can run.
    pub(crate) steps: Vec<Step>,
    /// What the steps read that is the same for every sample.
    pub(crate) constants: BTreeMap<String, pb::TensorProto>,
    /// Type and shape of the values that steps make, batch included.
    pub(crate) shapes: BTreeMap<String, (DatumType, Vec<usize>)>,
    /// Names in the file that are no data: constants, and what the output does not need.
    pub(crate) other_names: BTreeSet<String>,
}

/// A node of the data graph.
pub(crate) struct Step {
    pub(crate) node: pb::NodeProto,
    pub(crate) macs: Macs,
}

impl DataGraph {
    pub(crate) fn new(pinned: Pinned) -> Result<Self, LoadError> {
        let facts = facts::infer(&pinned.model)?;
        let graph = pinned.model.graph.unwrap_or_default();
        let output = output(&pinned.output, &facts)?;

        let constant = |name: &str| facts.get(name).is_some_and(|fact| fact.constant.is_some());
        let steps = data_steps(graph.node, &pinned.output, &constant, &facts);
        let constants = read_constants(&steps, graph.initializer, &facts)?;

        let mut shapes = BTreeMap::new();
        let mut other_names = pinned.unused;
        let made: BTreeSet<&str> = steps.iter().flat_map(|step| makes(&step.node)).collect();
        for (name, fact) in facts {
            if made.contains(name.as_str()) && fact.constant.is_none() {
                shapes.insert(name, (fact.kind, fact.shape));
            } else if name != pinned.input {
                other_names.insert(name);
            }
        }
        Ok(Self {
            ir_version: pinned.model.ir_version,
            opset: pinned.opset,
            input: TensorInfo { name: pinned.input, shape: pinned.input_shape },
            output,
            steps,
            constants,
            shapes,
            other_names,
        })
    }

    /// The multiply-accumulates of the whole network.
    pub(crate) fn macs(&self) -> Macs {
        self.steps.iter().map(|step| step.macs).sum()
    }

    /// Whether `name` is computed anew for every sample, the input included.
    pub(crate) fn is_data(&self, name: &str) -> bool {
        !self.constants.contains_key(name)
    }
}

/// The shape of one sample in a batch of one, when that is what `fact` describes and it holds floats.
pub(crate) fn sample_shape(kind: DatumType, shape: &[usize]) -> Option<&[usize]> {
    match shape {
        [1, sample @ ..] if kind == DatumType::F32 => Some(sample),
        _ => None,
    }
}

fn output(name: &str, facts: &BTreeMap<String, Fact>) -> Result<TensorInfo, LoadError> {
    let refused = |found| LoadError::Output { output: name.to_owned(), found };
    let fact = facts.get(name).ok_or_else(|| refused("of unknown shape".to_owned()))?;
    if fact.constant.is_some() {
        return Err(refused("the same for every input".to_owned()));
    }
    match sample_shape(fact.kind, &fact.shape) {
        Some(shape) => Ok(TensorInfo { name: name.to_owned(), shape: shape.to_vec() }),
        None => Err(refused(format!("{:?}{:?}", fact.kind, fact.shape).to_lowercase())),
    }
}

/// The nodes that `output` needs when constants need not be made any more, in order.
fn data_steps(
    nodes: Vec<pb::NodeProto>,
    output: &str,
    constant: &dyn Fn(&str) -> bool,
    facts: &BTreeMap<String, Fact>,
) -> Vec<Step> {
    let mut wanted = BTreeSet::from([output.to_owned()]);
    let mut steps = Vec::new();
    for node in nodes.into_iter().rev() {
        if makes(&node).any(|name| wanted.contains(name)) {
            wanted.extend(reads(&node).filter(|name| !constant(name)).map(str::to_owned));
            steps.push(Step { macs: macs::of(&node, facts), node });
        }
    }
    steps.reverse();
    steps
}

/// The constants that `steps` read: weights as the file has them, the rest as the engine computed it.
fn read_constants(
    steps: &[Step],
    weights: Vec<pb::TensorProto>,
    facts: &BTreeMap<String, Fact>,
) -> Result<BTreeMap<String, pb::TensorProto>, LoadError> {
    let mut weights: BTreeMap<_, _> =
        weights.into_iter().map(|weight| (weight.name.clone(), weight)).collect();
    let mut constants = BTreeMap::new();
    for step in steps {
        for name in reads(&step.node) {
            if constants.contains_key(name) {
                continue;
            }
            if let Some(weight) = weights.remove(name) {
                constants.insert(name.to_owned(), weight);
            } else if let Some(value) = facts.get(name).and_then(|fact| fact.constant.as_ref()) {
                let problem = |reason| LoadError::Node {
                    node: label(&step.node),
                    operator: step.node.op_type.clone(),
                    reason,
                };
                let tensor =
                    facts::guarded(|| constants::to_onnx(name, value)).map_err(problem)?.ok_or_else(
                        || problem(format!("{name:?} is a constant of type {:?}", value.datum_type())),
                    )?;
                constants.insert(name.to_owned(), tensor);
            }
        }
    }
    Ok(constants)
}

/// Operators of `graph` that do much work and are counted as none, each once, sorted.
pub(crate) fn uncounted(graph: &DataGraph) -> Vec<String> {
    let operators: BTreeSet<_> = graph
        .steps
        .iter()
        .map(|step| step.node.op_type.as_str())
        .filter(|operator| macs::is_uncounted(operator))
        .collect();
    operators.into_iter().map(str::to_owned).collect()
}
