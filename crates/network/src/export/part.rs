//! Putting a graph together, node by node.

use ndarray::ArrayView2;
use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};

use super::OUTPUTS;

/// Nodes and constants of one graph. What they are called begins with `prefix`, so that graphs nested in one another do
/// not take each other's names.
pub(super) struct Part {
    prefix: String,
    outermost: bool,
    pub(super) nodes: Vec<pb::NodeProto>,
    pub(super) constants: Vec<pb::TensorProto>,
}

impl Part {
    /// An empty graph. The outputs of the outermost one keep their bare names.
    pub(super) fn new(prefix: String, outermost: bool) -> Self {
        Self { prefix, outermost, nodes: Vec::new(), constants: Vec::new() }
    }

    /// What `short` is called here.
    pub(super) fn name(&self, short: &str) -> String {
        if self.outermost && OUTPUTS.contains(&short) {
            short.to_owned()
        } else {
            format!("{}{short}", self.prefix)
        }
    }

    /// Adds a node that makes one value; returns the value's name.
    pub(super) fn node(
        &mut self,
        operator: &str,
        inputs: &[&str],
        output: &str,
        attributes: Vec<pb::AttributeProto>,
    ) -> String {
        let output = self.name(output);
        self.add(operator, inputs, vec![output.clone()], attributes);
        output
    }

    /// Adds a node that makes two values; returns their names.
    pub(super) fn pair(
        &mut self,
        operator: &str,
        inputs: &[&str],
        outputs: [&str; 2],
        attributes: Vec<pb::AttributeProto>,
    ) -> [String; 2] {
        let outputs = outputs.map(|output| self.name(output));
        self.add(operator, inputs, outputs.to_vec(), attributes);
        outputs
    }

    /// Adds a node whose outputs are called as given.
    pub(super) fn add(
        &mut self,
        operator: &str,
        inputs: &[&str],
        outputs: Vec<String>,
        attributes: Vec<pb::AttributeProto>,
    ) {
        self.nodes.push(pb::NodeProto {
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            name: outputs.first().cloned().unwrap_or_default(),
            output: outputs,
            op_type: operator.to_owned(),
            attribute: attributes,
            ..Default::default()
        });
    }

    /// Adds a constant; returns its name.
    fn constant(&mut self, short: &str, kind: DataType, dims: Vec<i64>, raw_data: Vec<u8>) -> String {
        let name = self.name(short);
        self.constants.push(pb::TensorProto {
            name: name.clone(),
            dims,
            data_type: kind as i32,
            raw_data,
            ..Default::default()
        });
        name
    }

    /// 64-bit integers in one axis.
    pub(super) fn integers(&mut self, short: &str, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(short, DataType::Int64, vec![length(values.len())], bytes)
    }

    /// Doubles of shape `dims`; none of them is a scalar.
    pub(super) fn doubles(
        &mut self,
        short: &str,
        dims: &[usize],
        values: impl Iterator<Item = f64>,
    ) -> String {
        let bytes = values.flat_map(f64::to_le_bytes).collect();
        self.constant(short, DataType::Double, dims.iter().copied().map(length).collect(), bytes)
    }

    /// A matrix of floats.
    pub(super) fn matrix(&mut self, short: &str, matrix: ArrayView2<'_, f32>) -> String {
        let dims = vec![length(matrix.nrows()), length(matrix.ncols())];
        let bytes = matrix.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(short, DataType::Float, dims, bytes)
    }

    /// The finished graph, which makes [`OUTPUTS`] for `classes` classes.
    pub(super) fn into_graph(self, classes: usize) -> pb::GraphProto {
        let [scores, class, exit, margin] = OUTPUTS.map(|output| self.name(output));
        pb::GraphProto {
            name: self.prefix,
            node: self.nodes,
            initializer: self.constants,
            output: vec![
                value(scores, DataType::Float, &[1, classes]),
                value(class, DataType::Int64, &[1]),
                value(exit, DataType::Int64, &[1]),
                value(margin, DataType::Double, &[1]),
            ],
            ..Default::default()
        }
    }
}

/// Sizes here are those of tensors in memory.
pub(super) fn length(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

pub(super) fn integer(name: &str, value: i64) -> pb::AttributeProto {
    pb::AttributeProto { i: value, ..attribute(name, AttributeType::Int) }
}

pub(super) fn integers(name: &str, values: Vec<i64>) -> pb::AttributeProto {
    pb::AttributeProto { ints: values, ..attribute(name, AttributeType::Ints) }
}

pub(super) fn graph(name: &str, value: pb::GraphProto) -> pb::AttributeProto {
    pb::AttributeProto { g: Some(value), ..attribute(name, AttributeType::Graph) }
}

fn attribute(name: &str, kind: AttributeType) -> pb::AttributeProto {
    pb::AttributeProto { name: name.to_owned(), r#type: kind as i32, ..Default::default() }
}

/// A value of a graph from outside: its name, type and shape.
pub(super) fn value(name: String, kind: DataType, dims: &[usize]) -> pb::ValueInfoProto {
    let dim = |size: &usize| Dimension {
        value: Some(dimension::Value::DimValue(length(*size))),
        ..Default::default()
    };
    let shape = pb::TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = pb::type_proto::Tensor { elem_type: kind as i32, shape: Some(shape) };
    let kind = pb::TypeProto { value: Some(pb::type_proto::Value::TensorType(tensor)), ..Default::default() };
    pb::ValueInfoProto { name, r#type: Some(kind), ..Default::default() }
}
