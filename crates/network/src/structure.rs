//! What must hold of a graph before the engine sees it, and pinning its batch to one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::ops::RangeInclusive;

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::type_proto::Value;

use crate::load::LoadError;

/// The versions of ONNX's operator set that a network may use.
pub const SUPPORTED_OPSETS: RangeInclusive<i64> = 13..=20;

const RANDOM: [&str; 6] =
    ["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"];
const CONTROL_FLOW: [&str; 3] = ["If", "Loop", "Scan"];

/// A model that computes one output for a batch of one, and nothing else.
pub(crate) struct Pinned {
    /// Its nodes are in order, each reads what was made before it, and the output needs them all.
    pub(crate) model: pb::ModelProto,
    pub(crate) opset: i64,
    /// The one input.
    pub(crate) input: String,
    /// The shape of the input, without the batch.
    pub(crate) input_shape: Vec<usize>,
    /// The first output that the file names.
    pub(crate) output: String,
    /// Values that the output does not need.
    pub(crate) unused: BTreeSet<String>,
}

/// Checks `model` and pins its batch to one. Outputs after the first are dropped with what only they
/// need: they belong to classifiers that were trained into the network.
pub(crate) fn pin(mut model: pb::ModelProto) -> Result<Pinned, LoadError> {
    let opset = opset(&model)?;
    let graph = model.graph.get_or_insert_default();

    check_operators(&graph.node, &model.functions)?;
    let makers = makers(graph)?;
    let (input, input_shape) = pin_input(graph)?;
    let output = graph
        .output
        .first()
        .map(|output| output.name.clone())
        .ok_or_else(|| LoadError::Output { output: String::new(), found: "missing".to_owned() })?;
    if !makers.contains_key(output.as_str()) {
        let problem = "is the output, and no node makes it";
        return Err(LoadError::Structure { value: output, problem });
    }

    let needed = needed(graph, &makers, &output);
    let unused = drop_unused(graph, &needed);
    graph.output.truncate(1);
    // Exporters write inner shapes with a symbolic batch, and they contradict the pinned one.
    graph.value_info.clear();
    // The engine matches functions by name, and none is used.
    model.functions.clear();
    Ok(Pinned { model, opset, input, input_shape, output, unused })
}

fn opset(model: &pb::ModelProto) -> Result<i64, LoadError> {
    let found =
        model.opset_import.iter().find(|import| is_onnx(&import.domain)).map_or(0, |import| import.version);
    if SUPPORTED_OPSETS.contains(&found) { Ok(found) } else { Err(LoadError::Opset { found }) }
}

fn is_onnx(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

fn check_operators(nodes: &[pb::NodeProto], functions: &[pb::FunctionProto]) -> Result<(), LoadError> {
    let local: BTreeSet<_> = functions
        .iter()
        .map(|f| (f.domain.as_deref().unwrap_or_default(), f.name.as_deref().unwrap_or_default()))
        .collect();
    for node in nodes {
        let (name, operator) = (label(node), node.op_type.clone());
        if !is_onnx(&node.domain) || local.contains(&(node.domain.as_str(), operator.as_str())) {
            return Err(LoadError::ForeignOperator { node: name, operator, domain: node.domain.clone() });
        }
        if RANDOM.contains(&operator.as_str()) {
            return Err(LoadError::Random { node: name, operator });
        }
        // A graph inside a node reads values that its inputs do not list.
        let nested = node.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty());
        if nested || CONTROL_FLOW.contains(&operator.as_str()) {
            return Err(LoadError::ControlFlow { node: name, operator });
        }
    }
    Ok(())
}

/// What a person would call `node`: exporters may leave the name out.
pub(crate) fn label(node: &pb::NodeProto) -> String {
    match node.output.first() {
        Some(output) if node.name.is_empty() => output.clone(),
        _ => node.name.clone(),
    }
}

/// The values a node reads; ONNX writes an optional one that is left out as an empty name.
pub(crate) fn reads(node: &pb::NodeProto) -> impl Iterator<Item = &str> {
    node.input.iter().map(String::as_str).filter(|name| !name.is_empty())
}

/// The values a node makes.
pub(crate) fn makes(node: &pb::NodeProto) -> impl Iterator<Item = &str> {
    node.output.iter().map(String::as_str).filter(|name| !name.is_empty())
}

/// For each value that a node makes, the position of that node. Errors unless every value is made once,
/// and before it is read.
fn makers(graph: &pb::GraphProto) -> Result<BTreeMap<String, usize>, LoadError> {
    let wrong = |value: &str, problem| Err(LoadError::Structure { value: value.to_owned(), problem });
    let mut known = BTreeSet::new();
    for initializer in &graph.initializer {
        if !known.insert(initializer.name.as_str()) {
            return wrong(&initializer.name, "is given twice");
        }
    }
    // Older files list the weights among the inputs, too.
    let weights = known.clone();
    for input in &graph.input {
        if !weights.contains(input.name.as_str()) && !known.insert(&input.name) {
            return wrong(&input.name, "is given twice");
        }
    }
    let mut makers = BTreeMap::new();
    for (position, node) in graph.node.iter().enumerate() {
        if let Some(value) = reads(node).find(|value| !known.contains(value)) {
            return wrong(value, "is read before anything makes it");
        }
        for value in makes(node) {
            if !known.insert(value) {
                return wrong(value, "is made twice");
            }
            makers.insert(value.to_owned(), position);
        }
    }
    Ok(makers)
}

fn pin_input(graph: &mut pb::GraphProto) -> Result<(String, Vec<usize>), LoadError> {
    let weights: BTreeSet<_> = graph.initializer.iter().map(|weight| weight.name.as_str()).collect();
    graph.input.retain(|input| !weights.contains(input.name.as_str()));
    let [input] = graph.input.as_mut_slice() else {
        let found = graph.input.iter().map(|input| input.name.clone()).collect();
        return Err(LoadError::Inputs { found });
    };
    let name = input.name.clone();
    let found = describe(input);
    let refused = || LoadError::Input { input: name.clone(), found: found.clone() };

    let Some(Value::TensorType(tensor)) = input.r#type.as_mut().and_then(|kind| kind.value.as_mut()) else {
        return Err(refused());
    };
    if tensor.elem_type != DataType::Float as i32 {
        return Err(refused());
    }
    let dims = tensor.shape.as_mut().map(|shape| shape.dim.as_mut_slice());
    let Some([batch, sample @ ..]) = dims else { return Err(refused()) };
    if sample.is_empty() {
        return Err(refused());
    }
    batch.value = Some(dimension::Value::DimValue(1));
    let shape = sample
        .iter()
        .map(|dim| match dim.value {
            Some(dimension::Value::DimValue(size)) if size > 0 => usize::try_from(size).ok(),
            _ => None,
        })
        .collect::<Option<_>>()
        .ok_or_else(refused)?;
    Ok((name, shape))
}

/// The declared type and shape of `value` for a message, such as `float32[batch, 3, ?, ?]`.
fn describe(value: &pb::ValueInfoProto) -> String {
    let Some(Value::TensorType(tensor)) = value.r#type.as_ref().and_then(|kind| kind.value.as_ref()) else {
        return "not a tensor".to_owned();
    };
    let mut text = type_name(tensor.elem_type);
    let Some(shape) = &tensor.shape else { return text + " of any shape" };
    text.push('[');
    for (axis, dim) in shape.dim.iter().enumerate() {
        if axis > 0 {
            text.push_str(", ");
        }
        match &dim.value {
            // Writing to a string does not fail.
            Some(dimension::Value::DimValue(size)) => _ = write!(text, "{size}"),
            Some(dimension::Value::DimParam(symbol)) => text.push_str(symbol),
            None => text.push('?'),
        }
    }
    text.push(']');
    text
}

/// The name of an ONNX element type as NumPy has it.
pub(crate) fn type_name(kind: i32) -> String {
    match DataType::try_from(kind) {
        Ok(DataType::Float) => "float32".to_owned(),
        Ok(DataType::Double) => "float64".to_owned(),
        Ok(other) => other.as_str_name().to_ascii_lowercase(),
        Err(_unknown) => format!("type {kind}"),
    }
}

/// Which nodes the output needs, by position.
fn needed(graph: &pb::GraphProto, makers: &BTreeMap<String, usize>, output: &str) -> Vec<bool> {
    let mut needed = vec![false; graph.node.len()];
    if let Some(position) = makers.get(output) {
        needed[*position] = true;
    }
    // Every node reads what was made before it, so one walk backwards is enough.
    for position in (0..needed.len()).rev() {
        if needed[position] {
            for made_by in reads(&graph.node[position]).filter_map(|value| makers.get(value)) {
                needed[*made_by] = true;
            }
        }
    }
    needed
}

/// Drops the nodes and weights that are not needed; the names of what they made or were.
fn drop_unused(graph: &mut pb::GraphProto, needed: &[bool]) -> BTreeSet<String> {
    let mut unused = BTreeSet::new();
    let mut kept = Vec::new();
    for (node, needed) in std::mem::take(&mut graph.node).into_iter().zip(needed) {
        if *needed {
            kept.push(node);
        } else {
            unused.extend(makes(&node).map(str::to_owned));
        }
    }
    let read: BTreeSet<&str> = kept.iter().flat_map(reads).collect();
    graph.initializer.retain(|weight| {
        let keep = read.contains(weight.name.as_str());
        if !keep {
            unused.insert(weight.name.clone());
        }
        keep
    });
    graph.node = kept;
    unused
}
