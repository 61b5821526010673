//! One model to take away: the network, its exits and their thresholds in a single ONNX graph.
//!
//! ```text
//! graph 1: nodes up to tap 1 ── pool, scores, margin ── margin > threshold_1 ?
//!            If then: scores, class, exit = 1, margin
//!            If else: graph 2: nodes from tap 1 to tap 2 ── … ── If
//!                                                   else: the rest of the network, exit = 0
//! ```
//!
//! A runtime computes only the branch it takes, so whatever lies behind the exit that a sample leaves by is not run.
//! Constants lie in the graph that reads them, where a runtime's optimiser finds them.

mod decide;
mod part;

use std::borrow::Cow;
use std::collections::BTreeSet;

use ndarray::Array2;
use prost::Message as _;
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;

use crate::cut::CutError;
use crate::graph::{DataGraph, Step};
use crate::info::TensorInfo;
use crate::structure::reads;
use part::Part;

/// The most exits that a model can hold. Graphs nest, and protobuf decoders stop at 100 levels; an exit takes three.
pub const MAX_BUILT_IN_EXITS: usize = 30;

/// What every way through the model ends in.
const OUTPUTS: [&str; 4] = ["scores", "class", "exit", "margin"];
/// Before the names of everything that exits add to a graph.
const OURS: &str = "exeunt/";
/// Before the names of the network's own values that would be taken for ours.
const THEIRS: &str = "network/";

/// An exit to build into a model, with the numbers it decides by.
#[derive(Clone, Debug, PartialEq)]
pub struct BuiltInExit {
    /// Its number, from 1: what the model's output `exit` says, and the input `threshold_1` is called after.
    pub number: u32,
    /// The tap it reads at.
    pub tap: String,
    /// Cells per axis that a map is averaged to; nothing takes the map as it is. A tap without spatial axes is always
    /// taken as it is.
    pub grid: Option<usize>,
    /// The classes that have scores, rising: one per row of `scores`. At least two.
    pub classes: Vec<u32>,
    /// How scores come from the pooled activation.
    pub scores: Scores,
    /// The sample leaves when its margin is above this; `-∞` lets every sample leave, `+∞` none.
    pub threshold: f64,
}

/// How scores come from a pooled activation `z` of `D` numbers; `R` is the number of classes that have scores.
#[derive(Clone, Debug, PartialEq)]
pub enum Scores {
    /// `W z + b`; the class is that of the largest score.
    Linear {
        /// `W`, `R × D`.
        weights: Array2<f32>,
        /// `b`, `R`.
        bias: Vec<f64>,
    },
    /// `−‖z − m‖ / δ`; the class is that of the smallest distance.
    Distances {
        /// `m`, `R × D`.
        means: Array2<f32>,
        /// `δ`, `R`, above 0.
        spreads: Vec<f64>,
    },
}

/// Why exits cannot be built into a network.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The network cannot be cut there.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// Graphs would be nested too deep.
    #[error("{found} exits to build into one model, expected at most {MAX_BUILT_IN_EXITS}")]
    TooMany {
        /// Exits given.
        found: usize,
    },
    /// The network does not put out scores to choose from.
    #[error("the network puts out {found} scores, expected at least 2")]
    Output {
        /// Numbers in its output.
        found: usize,
    },
    /// Numbers must rise from 1 along the network.
    #[error("exit number {found} comes after {after}, expected a larger one")]
    Number {
        /// The number.
        found: u32,
        /// The one before it, 0 if there is none.
        after: u32,
    },
    /// Nothing can be told apart.
    #[error("exit {exit} has scores for {found} classes, expected at least 2")]
    Classes {
        /// The exit's number.
        exit: u32,
        /// Classes that have scores.
        found: usize,
    },
    /// A class that the network does not know, or one twice.
    #[error("exit {exit} names class {class} out of order, expected rising ids below {classes}")]
    Class {
        /// The exit's number.
        exit: u32,
        /// The class.
        class: u32,
        /// Numbers in the network's output.
        classes: usize,
    },
    /// Parts of an exit do not fit each other.
    #[error("exit {exit}: {what} has {found} elements, expected {expected}")]
    Size {
        /// The exit's number.
        exit: u32,
        /// Which part.
        what: &'static str,
        /// Elements it has.
        found: usize,
        /// Elements it should have.
        expected: usize,
    },
    /// The tap's map cannot be averaged to that grid.
    #[error("exit {exit}: a grid of {grid} cells does not fit a tap of shape {shape:?}")]
    Grid {
        /// The exit's number.
        exit: u32,
        /// Cells per axis.
        grid: usize,
        /// The tap's shape, without the batch.
        shape: Vec<usize>,
    },
    /// A threshold is not a number.
    #[error("the threshold of exit {exit} is not a number")]
    Threshold {
        /// The exit's number.
        exit: u32,
    },
    /// The network's input has a name that the model needs for something else; it must keep its name.
    #[error(
        "the network's input is called {name:?}, which is the name of an output or a threshold of the model"
    )]
    InputName {
        /// The name.
        name: String,
    },
}

/// The tap of one exit: the step that makes it, its name and shape.
pub(crate) type Cut = (usize, TensorInfo);

/// The ONNX file of `graph`, cut after `cuts`, with the exit that belongs to each.
pub(crate) fn build(
    graph: &DataGraph,
    cuts: &[Cut],
    exits: &[BuiltInExit],
    metadata: &[(String, String)],
) -> Result<Vec<u8>, ExportError> {
    let classes = graph.output.len();
    check(classes, cuts, exits)?;
    let names = Names::new(exits);
    if names.are_taken(&graph.input.name) {
        return Err(ExportError::InputName { name: graph.input.name.clone() });
    }

    // The innermost graph first: each is a branch of the one before it.
    let mut pieces = pieces(graph, cuts, &names);
    let mut rest = Part::new(format!("{OURS}rest/"), exits.is_empty());
    (rest.nodes, rest.constants) = pieces.pop().unwrap_or_default();
    decide::decide_by_network(&mut rest, &names.of(&graph.output.name), &graph.output.shape);
    let mut inner = rest.into_graph(classes);
    for (at, (((_, tap), exit), piece)) in cuts.iter().zip(exits).zip(pieces).enumerate().rev() {
        let mut part = Part::new(format!("{OURS}{}/", exit.number), at == 0);
        (part.nodes, part.constants) = piece;
        let asked = decide::ask(&mut part, exit, &names.of(&tap.name), &tap.shape);
        let branches = vec![
            part::graph("then_branch", decide::leave(exit, &asked, classes)),
            part::graph("else_branch", inner),
        ];
        let outputs = OUTPUTS.map(|output| part.name(output)).to_vec();
        part.add("If", &[&asked.leaves], outputs, branches);
        inner = part.into_graph(classes);
    }
    add_inputs(&mut inner, &graph.input, exits);
    Ok(model(graph, inner, metadata).encode_to_vec())
}

fn check(classes: usize, cuts: &[Cut], exits: &[BuiltInExit]) -> Result<(), ExportError> {
    if exits.len() > MAX_BUILT_IN_EXITS {
        return Err(ExportError::TooMany { found: exits.len() });
    }
    if classes < 2 {
        return Err(ExportError::Output { found: classes });
    }
    let mut after = 0;
    for (exit, (_, tap)) in exits.iter().zip(cuts) {
        if exit.number <= after {
            return Err(ExportError::Number { found: exit.number, after });
        }
        after = exit.number;
        exit.check(classes, tap)?;
    }
    Ok(())
}

impl BuiltInExit {
    /// The model's input that overrides the threshold: `threshold_1`, a double of shape `[1]`.
    pub fn threshold_name(&self) -> String {
        format!("threshold_{}", self.number)
    }

    fn check(&self, classes: usize, tap: &TensorInfo) -> Result<(), ExportError> {
        let exit = self.number;
        let rows = self.classes.len();
        if rows < 2 {
            return Err(ExportError::Classes { exit, found: rows });
        }
        for (i, class) in self.classes.iter().enumerate() {
            let rising = i == 0 || self.classes[i - 1] < *class;
            if !rising || *class as usize >= classes {
                return Err(ExportError::Class { exit, class: *class, classes });
            }
        }
        if self.threshold.is_nan() {
            return Err(ExportError::Threshold { exit });
        }
        let dim = match (self.grid, tap.shape.as_slice()) {
            (None, _) | (_, [_]) => tap.len(),
            (Some(grid), &[channels, height, width]) if (1..=height.min(width)).contains(&grid) => {
                channels * grid * grid
            }
            (Some(grid), shape) => return Err(ExportError::Grid { exit, grid, shape: shape.to_vec() }),
        };
        let (what, matrix, other, per_row) = match &self.scores {
            Scores::Linear { weights, bias } => ("weights", weights, "bias", bias.len()),
            Scores::Distances { means, spreads } => ("means", means, "spreads", spreads.len()),
        };
        let sizes = [("rows", matrix.nrows(), rows), (other, per_row, rows), (what, matrix.ncols(), dim)];
        for (what, found, expected) in sizes {
            if found != expected {
                return Err(ExportError::Size { exit, what, found, expected });
            }
        }
        Ok(())
    }
}

/// What the network's values are called in the model.
struct Names {
    /// Names that the model itself needs.
    ours: BTreeSet<String>,
}

impl Names {
    fn new(exits: &[BuiltInExit]) -> Self {
        let outputs = OUTPUTS.iter().map(|output| (*output).to_owned());
        Self { ours: outputs.chain(exits.iter().map(BuiltInExit::threshold_name)).collect() }
    }

    /// Whether a value of the network cannot be called `name`.
    fn are_taken(&self, name: &str) -> bool {
        self.ours.contains(name) || name.starts_with(OURS)
    }

    fn of<'a>(&self, name: &'a str) -> Cow<'a, str> {
        if self.are_taken(name) { Cow::Owned(format!("{THEIRS}{name}")) } else { Cow::Borrowed(name) }
    }
}

type Piece = (Vec<pb::NodeProto>, Vec<pb::TensorProto>);

/// The network's nodes between one cut and the next, each piece with the constants that no piece before it reads: the
/// graphs are nested, and an inner one sees what the outer ones hold.
fn pieces(graph: &DataGraph, cuts: &[Cut], names: &Names) -> Vec<Piece> {
    let ends = cuts.iter().map(|(step, _)| step + 1).chain([graph.steps.len()]);
    let mut placed: BTreeSet<&str> = BTreeSet::new();
    let mut begin = 0;
    let mut pieces = Vec::with_capacity(cuts.len() + 1);
    for end in ends {
        let steps = &graph.steps[begin..end];
        begin = end;
        let mut constants = Vec::new();
        for name in steps.iter().flat_map(|step| reads(&step.node)) {
            if let Some(constant) = graph.constants.get(name)
                && placed.insert(name)
            {
                let name = names.of(name).into_owned();
                constants.push(pb::TensorProto { name, ..constant.clone() });
            }
        }
        pieces.push((steps.iter().map(|step| renamed(step, names)).collect(), constants));
    }
    pieces
}

fn renamed(step: &Step, names: &Names) -> pb::NodeProto {
    let mut node = step.node.clone();
    for value in node.input.iter_mut().chain(&mut node.output) {
        if names.are_taken(value) {
            *value = names.of(value).into_owned();
        }
    }
    node
}

/// Declares the sample and, with their defaults, the thresholds.
fn add_inputs(graph: &mut pb::GraphProto, input: &TensorInfo, exits: &[BuiltInExit]) {
    graph.input.push(crate::cut::value_info(input));
    for exit in exits {
        let name = exit.threshold_name();
        graph.input.push(part::value(name.clone(), DataType::Double, &[1]));
        // A constant that is an input as well is a default that can be overridden.
        graph.initializer.push(pb::TensorProto {
            name,
            dims: vec![1],
            data_type: DataType::Double as i32,
            raw_data: exit.threshold.to_le_bytes().to_vec(),
            ..Default::default()
        });
    }
}

fn model(graph: &DataGraph, outer: pb::GraphProto, metadata: &[(String, String)]) -> pb::ModelProto {
    let entry = |(key, value): &(String, String)| pb::StringStringEntryProto {
        key: key.clone(),
        value: value.clone(),
    };
    let batch = ("batch".to_owned(), "1".to_owned());
    pb::ModelProto {
        // Before version 4, every constant was an input, and constants of branches were not looked for.
        ir_version: graph.ir_version.max(4),
        opset_import: vec![pb::OperatorSetIdProto { domain: String::new(), version: graph.opset }],
        producer_name: "exeunt".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc_string:
            "One sample in. Out come its scores, its class, the exit it left by (0: none, the whole network \
                     ran) and its margin there. An exit is taken when the margin is above its threshold."
                .to_owned(),
        graph: Some(outer),
        metadata_props: metadata.iter().chain([&batch]).map(entry).collect(),
        ..Default::default()
    }
}
