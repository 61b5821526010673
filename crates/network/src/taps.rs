//! Where a network can be cut.
//!
//! Walking the steps in order, a value is *live* while a later step reads it. Where a single value is
//! live, everything after needs nothing else from before: a cut point. A value that all paths from
//! input to output pass through is the only live one right after its step in any order the steps can
//! run in, so the file's order finds every cut point.

use std::collections::{BTreeMap, BTreeSet};

use exeunt_stats::Macs;
use serde::{Deserialize, Serialize};

use crate::graph::{DataGraph, sample_shape};
use crate::structure::{makes, reads};

/// A tensor inside the network where an exit can read (METHOD, "Words"): all paths from input to
/// output pass through it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// The tensor's name in the ONNX file.
    pub name: String,
    /// The shape of one sample's activation, without the batch.
    pub shape: Vec<usize>,
    /// The operator that makes it.
    pub op: String,
    /// The work to be done until it is known: that of all its ancestors.
    pub macs_until: Macs,
    /// Whether branches join here (a residual addition, a concatenation), or in the activation right
    /// after: where blocks end, and cuts are cheap.
    pub block_end: bool,
}

/// Operators that join branches, rather than gate a branch by another as a multiplication does.
const JOINS: [&str; 3] = ["Add", "Concat", "Sum"];
/// Operators that work on each element of one tensor.
const ACTIVATIONS: [&str; 12] = [
    "Clip",
    "Elu",
    "Gelu",
    "HardSwish",
    "HardSigmoid",
    "LeakyRelu",
    "Mish",
    "PRelu",
    "Relu",
    "Selu",
    "Sigmoid",
    "Tanh",
];

/// Every cut point with the position of its step, in order. The output is none: nothing comes after.
pub(crate) fn find(graph: &DataGraph) -> Vec<(usize, Tap)> {
    let last_reads = last_reads(graph);
    let mut live = 1_usize; // the input
    let mut macs_until = Macs::ZERO;
    let mut found: Vec<(usize, Tap)> = Vec::new();
    for (position, step) in graph.steps.iter().enumerate() {
        macs_until += step.macs;
        let read: BTreeSet<_> = reads(&step.node).filter(|name| graph.is_data(name)).collect();
        live -= read.iter().filter(|name| last_reads.get(**name) == Some(&position)).count();
        let made: Vec<_> = makes(&step.node).filter(|name| last_reads.contains_key(*name)).collect();
        live += made.len();

        let (1, [name]) = (live, made.as_slice()) else { continue };
        let Some((kind, shape)) = graph.shapes.get(*name) else { continue };
        let Some(shape) = sample_shape(*kind, shape) else { continue };
        if *name == graph.output.name {
            continue;
        }
        let op = step.node.op_type.as_str();
        let activates = ACTIVATIONS.contains(&op);
        // The activation takes the block's end over from the join before it.
        let ended = match found.last_mut() {
            Some((previous, tap)) if activates && *previous + 1 == position => {
                std::mem::take(&mut tap.block_end)
            }
            _ => false,
        };
        let tap = Tap {
            name: (*name).to_owned(),
            shape: shape.to_vec(),
            op: op.to_owned(),
            macs_until,
            block_end: ended || (JOINS.contains(&op) && read.len() > 1),
        };
        found.push((position, tap));
    }
    found
}

/// The last step that reads each value; values that no step reads are left out, except the output.
fn last_reads(graph: &DataGraph) -> BTreeMap<&str, usize> {
    let mut last = BTreeMap::new();
    for (position, step) in graph.steps.iter().enumerate() {
        for name in reads(&step.node).filter(|name| graph.is_data(name)) {
            last.insert(name, position);
        }
    }
    last.insert(graph.output.name.as_str(), graph.steps.len());
    last
}

/// What later steps read besides `name` itself when it has just been made; sorted.
pub(crate) fn crossing(graph: &DataGraph, name: &str) -> Vec<String> {
    let Some(position) = graph.steps.iter().position(|step| makes(&step.node).any(|made| made == name))
    else {
        return Vec::new();
    };
    let (before, after) = graph.steps.split_at(position + 1);
    let known: BTreeSet<_> =
        before.iter().flat_map(|step| makes(&step.node)).chain([graph.input.name.as_str()]).collect();
    let mut crossing: BTreeSet<_> = after
        .iter()
        .flat_map(|step| reads(&step.node))
        .filter(|value| known.contains(value) && graph.is_data(value))
        .collect();
    if before.iter().flat_map(|step| makes(&step.node)).any(|made| made == graph.output.name) {
        crossing.insert(&graph.output.name);
    }
    crossing.remove(name);
    crossing.into_iter().map(str::to_owned).collect()
}
