//! One small residual network, written as PyTorch's exporters write it, and what it computes by its definition.
//!
//! `stem: 2→4 channels, 3×3; relu; block: 4→4 channels, 3×3, added to its input; relu; mean over the map; 4→3`

#![allow(dead_code, unreachable_pub, reason = "every test binary uses a part of it")]

use prost::Message as _;
use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};

pub const SIDE: usize = 6;
pub const INPUT: [usize; 3] = [2, SIDE, SIDE];
pub const CHANNELS: usize = 4;
pub const CLASSES: usize = 3;

/// Which of PyTorch's exporters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exporter {
    /// `dynamo=False`: names of modules, constants as nodes, `GlobalAveragePool`.
    Older,
    /// `dynamo=True`: names of operations, constants as weights, `ReduceMean`, shapes of inner values.
    Newer,
}

/// The batch that the file was exported with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch {
    Fixed(i64),
    /// Its size is worked out inside the graph.
    Dynamic,
}

/// A network under construction.
struct Graph {
    graph: pb::GraphProto,
    batch: Batch,
}

impl Graph {
    fn node(&mut self, op: &str, reads: &[&str], makes: &str, attributes: Vec<pb::AttributeProto>) {
        self.graph.node.push(pb::NodeProto {
            name: format!("node_{makes}"),
            op_type: op.to_owned(),
            input: reads.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![makes.to_owned()],
            attribute: attributes,
            ..Default::default()
        });
    }

    fn weight(&mut self, name: &str, dims: &[i64], values: &[f32]) {
        self.graph.initializer.push(floats(name, dims, values));
    }

    /// Integers as a constant: a node in older files, a weight in newer ones.
    fn integers(&mut self, exporter: Exporter, name: &str, dims: &[i64], values: &[i64]) {
        let tensor = pb::TensorProto {
            name: name.to_owned(),
            dims: dims.to_vec(),
            data_type: DataType::Int64 as i32,
            raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ..Default::default()
        };
        match exporter {
            Exporter::Newer => self.graph.initializer.push(tensor),
            Exporter::Older => {
                let value = pb::AttributeProto {
                    name: "value".to_owned(),
                    r#type: AttributeType::Tensor as i32,
                    t: Some(tensor),
                    ..Default::default()
                };
                self.node("Constant", &[], name, vec![value]);
            }
        }
    }

    fn value(&self, name: &str, shape: &[usize]) -> pb::ValueInfoProto {
        let batch = match self.batch {
            Batch::Fixed(size) => dimension::Value::DimValue(size),
            Batch::Dynamic => dimension::Value::DimParam("s77".to_owned()),
        };
        let sizes = shape.iter().map(|size| dimension::Value::DimValue(*size as i64));
        let dim = std::iter::once(batch).chain(sizes);
        let dim = dim.map(|value| Dimension { value: Some(value), ..Default::default() }).collect();
        let tensor = pb::type_proto::Tensor {
            elem_type: DataType::Float as i32,
            shape: Some(pb::TensorShapeProto { dim }),
        };
        pb::ValueInfoProto {
            name: name.to_owned(),
            r#type: Some(pb::TypeProto {
                value: Some(pb::type_proto::Value::TensorType(tensor)),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> pb::TensorProto {
    pb::TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ..Default::default()
    }
}

fn ints(name: &str, values: &[i64]) -> pb::AttributeProto {
    pb::AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Ints as i32,
        ints: values.to_vec(),
        ..Default::default()
    }
}

fn int(name: &str, value: i64) -> pb::AttributeProto {
    pb::AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Int as i32,
        i: value,
        ..Default::default()
    }
}

/// Numbers between -1 and 1 that a seed decides.
pub fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Names of the values that are cut points, in order.
pub fn taps(exporter: Exporter, batch: Batch) -> Vec<&'static str> {
    let mut names = match exporter {
        Exporter::Older => vec!["/stem/Conv_output_0", "/relu/Relu_output_0", "/block/Add_output_0"],
        Exporter::Newer => vec!["conv2d", "relu", "add_7"],
    };
    names.extend(match exporter {
        Exporter::Older => ["/block/relu/Relu_output_0", "/pool/GlobalAveragePool_output_0"],
        Exporter::Newer => ["relu_1", "mean"],
    });
    names.push(match (exporter, batch) {
        (Exporter::Older, Batch::Fixed(_)) => "/Flatten_output_0",
        (Exporter::Older, Batch::Dynamic) => "/Reshape_output_0",
        (Exporter::Newer, _) => "view",
    });
    names
}

/// The network's file.
pub fn network(exporter: Exporter, batch: Batch, opset: i64) -> pb::ModelProto {
    let mut g = Graph { graph: pb::GraphProto::default(), batch };
    let [stem, relu, add, relu_1, mean, flat] =
        taps(exporter, batch).try_into().expect("there are six cut points");
    let inner = if exporter == Exporter::Older { "/block/conv/Conv_output_0" } else { "conv2d_1" };

    let conv = || {
        let padding = ints("pads", &[1, 1, 1, 1]);
        vec![ints("kernel_shape", &[3, 3]), padding, ints("strides", &[1, 1]), int("group", 1)]
    };
    g.weight("stem.weight", &[4, 2, 3, 3], &numbers(1, 72));
    g.weight("stem.bias", &[4], &numbers(2, 4));
    g.weight("block.weight", &[4, 4, 3, 3], &numbers(3, 144));
    g.weight("block.bias", &[4], &numbers(4, 4));
    g.weight("fc.weight", &[3, 4], &numbers(5, 12));
    g.weight("fc.bias", &[3], &numbers(6, 3));
    g.node("Conv", &["input", "stem.weight", "stem.bias"], stem, conv());
    g.node("Relu", &[stem], relu, vec![]);
    g.node("Conv", &[relu, "block.weight", "block.bias"], inner, conv());
    g.node("Add", &[inner, relu], add, vec![]);
    g.node("Relu", &[add], relu_1, vec![]);
    match (exporter, opset) {
        (Exporter::Older, _) => g.node("GlobalAveragePool", &[relu_1], mean, vec![]),
        (Exporter::Newer, ..=17) => {
            g.node("ReduceMean", &[relu_1], mean, vec![ints("axes", &[-1, -2]), int("keepdims", 1)]);
        }
        (Exporter::Newer, _) => {
            g.integers(exporter, "val_3", &[2], &[-1, -2]);
            g.node("ReduceMean", &[relu_1, "val_3"], mean, vec![int("keepdims", 1)]);
        }
    }
    match (exporter, batch) {
        (Exporter::Older, Batch::Fixed(_)) => g.node("Flatten", &[mean], flat, vec![int("axis", 1)]),
        (Exporter::Newer, Batch::Fixed(size)) => {
            g.integers(exporter, "val_4", &[2], &[size, 4]);
            g.node("Reshape", &[mean, "val_4"], flat, vec![int("allowzero", 1)]);
        }
        // x.view(x.size(0), -1), traced.
        (_, Batch::Dynamic) => {
            g.node("Shape", &[mean], "shape", vec![]);
            g.integers(exporter, "index", &[], &[0]);
            g.node("Gather", &["shape", "index"], "size", vec![int("axis", 0)]);
            g.integers(exporter, "axes", &[1], &[0]);
            g.node("Unsqueeze", &["size", "axes"], "sizes", vec![]);
            g.integers(exporter, "rest", &[1], &[-1]);
            g.node("Concat", &["sizes", "rest"], "target", vec![int("axis", 0)]);
            g.node("Reshape", &[mean, "target"], flat, vec![]);
        }
    }
    g.node("Gemm", &[flat, "fc.weight", "fc.bias"], "logits", vec![int("transB", 1)]);

    g.graph.input = vec![g.value("input", &INPUT)];
    g.graph.output = vec![g.value("logits", &[CLASSES])];
    if exporter == Exporter::Newer {
        let map = [CHANNELS, SIDE, SIDE];
        g.graph.value_info =
            [stem, relu, inner, add, relu_1].iter().map(|name| g.value(name, &map)).collect();
    }
    pb::ModelProto {
        ir_version: if exporter == Exporter::Older { 8 } else { 10 },
        producer_name: "pytorch".to_owned(),
        opset_import: vec![pb::OperatorSetIdProto { domain: String::new(), version: opset }],
        graph: Some(g.graph),
        ..Default::default()
    }
}

/// The same, as bytes.
pub fn file(exporter: Exporter, batch: Batch, opset: i64) -> Vec<u8> {
    network(exporter, batch, opset).encode_to_vec()
}

/// What the network makes of one sample, by its definition, in double precision: at each of [`taps`], and in the end.
pub fn definition(x: &[f32]) -> Vec<Vec<f64>> {
    let wide = |values: Vec<f32>| -> Vec<f64> { values.into_iter().map(f64::from).collect() };
    let relu = |map: &[f64]| -> Vec<f64> { map.iter().map(|value| value.max(0.0)).collect() };
    let stem = convolve(&wide(x.to_vec()), 2, &wide(numbers(1, 72)), &wide(numbers(2, 4)));
    let first = relu(&stem);
    let inner = convolve(&first, 4, &wide(numbers(3, 144)), &wide(numbers(4, 4)));
    let add: Vec<f64> = inner.iter().zip(&first).map(|(a, b)| a + b).collect();
    let second = relu(&add);
    let pixels = SIDE * SIDE;
    let mean: Vec<f64> = second.chunks(pixels).map(|map| map.iter().sum::<f64>() / pixels as f64).collect();
    let (weights, bias) = (wide(numbers(5, 12)), wide(numbers(6, 3)));
    let logit = |(row, bias): (&[f64], &f64)| bias + row.iter().zip(&mean).map(|(w, m)| w * m).sum::<f64>();
    let logits = weights.chunks(4).zip(&bias).map(logit).collect();
    vec![stem, first, add, second, mean.clone(), mean, logits]
}

/// A 3×3 convolution, padded by 1, to four channels.
fn convolve(x: &[f64], channels: usize, weights: &[f64], bias: &[f64]) -> Vec<f64> {
    let at = |c: usize, row: usize, column: usize| {
        // Shifted by the padding.
        let inside = (1..=SIDE).contains(&row) && (1..=SIDE).contains(&column);
        if inside { x[(c * SIDE + row - 1) * SIDE + column - 1] } else { 0.0 }
    };
    let mut made = Vec::new();
    for (filter, bias) in weights.chunks(channels * 9).zip(bias) {
        for row in 0..SIDE {
            for column in 0..SIDE {
                let taps = (0..channels * 9).map(|i| {
                    let (c, dy, dx) = (i / 9, i % 9 / 3, i % 3);
                    filter[i] * at(c, row + dy, column + dx)
                });
                made.push(bias + taps.sum::<f64>());
            }
        }
    }
    made
}

/// The largest difference, as a share of the largest magnitude expected.
pub fn relative(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(f64::MIN_POSITIVE, |most, value| most.max(value.abs()));
    let off = found.iter().zip(expected).map(|(found, expected)| (f64::from(*found) - expected).abs());
    off.fold(0.0, |most, off| if off.is_nan() { f64::INFINITY } else { most.max(off) }) / scale
}
