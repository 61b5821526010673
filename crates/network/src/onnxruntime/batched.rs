//! A segment that takes any number of rows, from one that is written for a batch of one.

use std::collections::BTreeSet;

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::type_proto::Value;

/// `model` with the batch left open. Whether it still computes the same per row has to be tried: a constant that holds
/// the batch of one is only looked for where exporters put it, in the shapes of `Reshape`.
pub(super) fn open_batch(model: &pb::ModelProto) -> pb::ModelProto {
    let mut model = model.clone();
    let Some(graph) = model.graph.as_mut() else { return model };
    for info in graph.input.iter_mut().chain(&mut graph.output) {
        let Some(Value::TensorType(tensor)) = info.r#type.as_mut().and_then(|kind| kind.value.as_mut())
        else {
            continue;
        };
        if let Some(batch) = tensor.shape.as_mut().and_then(|shape| shape.dim.first_mut()) {
            batch.value = Some(dimension::Value::DimParam("batch".to_owned()));
        }
    }
    let targets: BTreeSet<String> = graph
        .node
        .iter()
        .filter(|node| node.op_type == "Reshape")
        .filter_map(|node| node.input.get(1).cloned())
        .collect();
    for constant in graph.initializer.iter_mut().filter(|constant| targets.contains(&constant.name)) {
        open_shape(constant);
    }
    model
}

/// Replaces a batch of one at the front of a target shape by 0, ONNX's "as in the input".
fn open_shape(shape: &mut pb::TensorProto) {
    if shape.data_type != DataType::Int64 as i32 {
        return;
    }
    if let Some(first) = shape.int64_data.first_mut().filter(|first| **first == 1) {
        *first = 0;
    }
    if shape.raw_data.first_chunk().is_some_and(|first| i64::from_le_bytes(*first) == 1) {
        shape.raw_data[..8].fill(0);
    }
}
