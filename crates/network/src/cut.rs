//! Pieces of a network, each an ONNX model of its own.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use exeunt_stats::Macs;
use prost::Message;
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};

use crate::graph::{DataGraph, Step, sample_shape};
use crate::info::TensorInfo;
use crate::structure::reads;
use crate::taps::{self, Tap};

/// The part of a network between two consecutive taps (METHOD, "Words").
pub struct Segment {
    model: pb::ModelProto,
    input: TensorInfo,
    output: TensorInfo,
    macs: Macs,
}

impl Segment {
    /// An ONNX file: one input and one output, both 32-bit floats with a batch of one, and the
    /// constants it needs.
    pub fn to_onnx(&self) -> Vec<u8> {
        self.model.encode_to_vec()
    }

    pub(crate) fn new(model: pb::ModelProto, input: TensorInfo, output: TensorInfo, macs: Macs) -> Self {
        Self { model, input, output, macs }
    }

    pub(crate) fn into_model(self) -> pb::ModelProto {
        self.model
    }

    /// What goes in.
    pub fn input(&self) -> &TensorInfo {
        &self.input
    }

    /// What comes out.
    pub fn output(&self) -> &TensorInfo {
        &self.output
    }

    /// Multiply-accumulates for one sample.
    pub fn macs(&self) -> Macs {
        self.macs
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("input", &self.input)
            .field("output", &self.output)
            .field("macs", &self.macs)
            .finish_non_exhaustive()
    }
}

/// Why a network cannot be cut as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CutError {
    /// The network has no tensor of that name.
    #[error("the network has no tensor {tap:?}{}", suggestion(nearest.as_deref()))]
    Unknown {
        /// The name.
        tap: String,
        /// The tap with the most similar name, if any is similar.
        nearest: Option<String>,
    },
    /// Other tensors go past this one, so that the rest of the network cannot run from it alone.
    #[error("the network cannot be cut at {tap:?}: {} past it", listed(crossing))]
    NotACutPoint {
        /// The tensor.
        tap: String,
        /// What else later nodes read, sorted.
        crossing: Vec<String>,
    },
    /// The tensor is not one activation of 32-bit floats per sample.
    #[error("the network cannot be cut at {tap:?}: it is {found}, expected 32-bit floats per sample")]
    NotAnActivation {
        /// The tensor.
        tap: String,
        /// Its type and shape for a batch of one.
        found: String,
    },
    /// The tensor does not depend on the input, or the output does not depend on it.
    #[error("the network cannot be cut at {tap:?}: it does not lie between input and output")]
    Aside {
        /// The tensor.
        tap: String,
    },
    /// The network's input, before which nothing has run.
    #[error("the network cannot be cut at {tap:?}: it is the input")]
    Input {
        /// The input.
        tap: String,
    },
    /// The network's output, after which nothing is left to save.
    #[error("the network cannot be cut at {tap:?}: it is the output")]
    Output {
        /// The output.
        tap: String,
    },
    /// A tap comes before one that the network reaches later.
    #[error("tap {tap:?} is reached before {after:?}; name the taps in the order they are reached")]
    OutOfOrder {
        /// The tap that comes too late.
        tap: String,
        /// The one named just before it.
        after: String,
    },
    /// A tap is named twice.
    #[error("tap {tap:?} is named twice")]
    Duplicate {
        /// The tap.
        tap: String,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; did you mean {nearest:?}?"))
}

/// A few of `names` as the subject of a sentence.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect();
    let more = names.len().saturating_sub(SHOWN);
    let verb = if names.len() == 1 { "goes" } else { "go" };
    match (shown.split_last(), more) {
        (None, _) => "other tensors go".to_owned(),
        (Some((only, [])), 0) => format!("{only} {verb}"),
        (Some((last, rest)), 0) => format!("{} and {last} {verb}", rest.join(", ")),
        (Some(_), more) => format!("{} and {more} more {verb}", shown.join(", ")),
    }
}

/// Why `tap`, which is not among `taps`, is no cut point.
pub(crate) fn refuse(graph: &DataGraph, taps: &[Tap], tap: String) -> CutError {
    if tap == graph.input.name {
        return CutError::Input { tap };
    }
    if tap == graph.output.name {
        return CutError::Output { tap };
    }
    if graph.other_names.contains(&tap) {
        return CutError::Aside { tap };
    }
    let Some((kind, shape)) = graph.shapes.get(&tap) else {
        let nearest = nearest(taps, &tap);
        return CutError::Unknown { tap, nearest };
    };
    let crossing = taps::crossing(graph, &tap);
    if crossing.is_empty() && sample_shape(*kind, shape).is_none() {
        return CutError::NotAnActivation { tap, found: format!("{kind:?}{shape:?}").to_lowercase() };
    }
    CutError::NotACutPoint { tap, crossing }
}

/// The tap whose name is most like `name`, if any is much like it.
fn nearest(taps: &[Tap], name: &str) -> Option<String> {
    taps.iter()
        .map(|tap| (strsim::normalized_damerau_levenshtein(&tap.name, name), tap))
        .filter(|(similarity, _)| *similarity > 0.6)
        // The first of equals, so that the answer does not depend on how the search is written.
        .fold(None, |best: Option<(f64, &Tap)>, next| match best {
            Some(best) if best.0 >= next.0 => Some(best),
            _ => Some(next),
        })
        .map(|(_, tap)| tap.name.clone())
}

/// Cuts after the given steps, which increase and each make the tap beside it. Each piece is written when it is asked
/// for.
pub(crate) fn segments(
    graph: &DataGraph,
    cuts: Vec<(usize, TensorInfo)>,
) -> impl Iterator<Item = Segment> + '_ {
    let constants = &graph.constants;
    pieces(graph.steps.len(), &graph.input, &graph.output, cuts).map(move |piece| {
        let steps = &graph.steps[piece.steps.clone()];
        let read = constants_read(steps).filter_map(|name| constants.get(name)).cloned().collect();
        segment(graph.ir_version, graph.opset, steps, read, piece)
    })
}

/// The same of a graph that is used up: a constant is moved into the last piece that reads it, so that weights are not
/// there twice.
pub(crate) fn segments_of(graph: DataGraph, cuts: Vec<(usize, TensorInfo)>) -> impl Iterator<Item = Segment> {
    let DataGraph { ir_version, opset, input, output, steps, mut constants, .. } = graph;
    pieces(steps.len(), &input, &output, cuts).map(move |piece| {
        let later: BTreeSet<&str> = constants_read(&steps[piece.steps.end..]).collect();
        let mut take = |name: &str| {
            if later.contains(name) { constants.get(name).cloned() } else { constants.remove(name) }
        };
        let read = constants_read(&steps[piece.steps.clone()]).filter_map(&mut take).collect();
        segment(ir_version, opset, &steps[piece.steps.clone()], read, piece)
    })
}

/// Which steps are a segment, and where it begins and ends.
struct Piece {
    steps: Range<usize>,
    input: TensorInfo,
    output: TensorInfo,
}

fn pieces(
    steps: usize,
    input: &TensorInfo,
    output: &TensorInfo,
    cuts: Vec<(usize, TensorInfo)>,
) -> impl Iterator<Item = Piece> + use<> {
    let mut begin = 0;
    let mut input = input.clone();
    let last = (steps.saturating_sub(1), output.clone());
    cuts.into_iter().chain([last]).map(move |(position, output)| {
        let steps = begin..position + 1;
        begin = steps.end;
        Piece { steps, input: std::mem::replace(&mut input, output.clone()), output }
    })
}

/// What `steps` read that none of them may have made, each once, sorted; some of it is constants.
fn constants_read(steps: &[Step]) -> impl Iterator<Item = &str> {
    let read: BTreeSet<&str> = steps.iter().flat_map(|step| reads(&step.node)).collect();
    read.into_iter()
}

fn segment(
    ir_version: i64,
    opset: i64,
    steps: &[Step],
    constants: Vec<pb::TensorProto>,
    Piece { input, output, .. }: Piece,
) -> Segment {
    let model = pb::ModelProto {
        // Before version 4, constants had to be listed among the inputs.
        ir_version: ir_version.max(4),
        opset_import: vec![pb::OperatorSetIdProto { domain: String::new(), version: opset }],
        producer_name: "exeunt".to_owned(),
        graph: Some(pb::GraphProto {
            name: format!("{} to {}", input.name, output.name),
            node: steps.iter().map(|step| step.node.clone()).collect(),
            initializer: constants,
            input: vec![value_info(&input)],
            output: vec![value_info(&output)],
            ..Default::default()
        }),
        ..Default::default()
    };
    Segment { model, input, output, macs: steps.iter().map(|step| step.macs).sum() }
}

pub(crate) fn value_info(info: &TensorInfo) -> pb::ValueInfoProto {
    let dim = |size: usize| Dimension {
        // Shapes were checked to have far fewer elements than that.
        value: Some(dimension::Value::DimValue(i64::try_from(size).unwrap_or(i64::MAX))),
        ..Default::default()
    };
    let dims = std::iter::once(1).chain(info.shape.iter().copied()).map(dim).collect();
    let tensor = pb::type_proto::Tensor {
        elem_type: DataType::Float as i32,
        shape: Some(pb::TensorShapeProto { dim: dims }),
    };
    pb::ValueInfoProto {
        name: info.name.clone(),
        r#type: Some(pb::TypeProto {
            value: Some(pb::type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_few_of_many() {
        let names = |count: usize| (0..count).map(|i| format!("t{i}")).collect::<Vec<_>>();
        assert_eq!(listed(&names(1)), r#""t0" goes"#);
        assert_eq!(listed(&names(2)), r#""t0" and "t1" go"#);
        assert_eq!(listed(&names(3)), r#""t0", "t1" and "t2" go"#);
        assert_eq!(listed(&names(5)), r#""t0", "t1", "t2" and 2 more go"#);
    }
}
