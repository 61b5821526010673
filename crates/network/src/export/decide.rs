//! Pooling, scores, margin and the two ways on, as nodes.
//!
//! Operators and the form of their inputs are those that mean the same in every operator set from 13 to 20: reductions
//! take all axes, `Split` and `ReduceSum` are given theirs as inputs.

use std::ops::Range;

use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;

use super::part::{self, Part, length};
use super::{BuiltInExit, OURS, Scores};

/// Names of what an exit has computed.
pub(super) struct Asked {
    /// Whether the sample leaves: one boolean.
    pub(super) leaves: String,
    scores: String,
    /// The class is where this is smallest, or else where the scores are largest.
    distances: Option<String>,
    margin: String,
}

/// Adds the nodes that ask `exit` about the map `tap` of `shape` (without the batch).
pub(super) fn ask(part: &mut Part, exit: &BuiltInExit, tap: &str, shape: &[usize]) -> Asked {
    let pooled = pool(part, exit.grid, tap, shape);
    // From here on in double precision: in single precision the margins of late exits are no longer told apart.
    let z = part.node("Cast", &[&pooled], "z", vec![part::integer("to", DataType::Double as i64)]);
    let rows = exit.classes.len();
    let (scores, distances) = match &exit.scores {
        Scores::Linear { weights, bias } => {
            let weights = doubled(part, "weights", weights.t());
            let bias = part.doubles("bias", &[rows], bias.iter().copied());
            let products = part.node("MatMul", &[&z, &weights], "products", vec![]);
            (part.node("Add", &[&products, &bias], "scores_64", vec![]), None)
        }
        Scores::Distances { means, spreads } => {
            // ‖z − m‖² = ‖z‖² − 2 z·m + ‖m‖². What cancels when z is near a mean is far below what spreads resolve;
            // the absolute value keeps a zero that came out below zero from having no root.
            let squares = means.rows().into_iter();
            let squares = squares.map(|mean| mean.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>());
            let squares = part.doubles("squares", &[rows], squares);
            let means = doubled(part, "means", (means * -2.0).t());
            let products = part.node("MatMul", &[&z, &means], "products", vec![]);
            let shifted = part.node("Add", &[&products, &squares], "shifted", vec![]);
            let square = part.node("ReduceSumSquare", &[&z], "square", vec![]);
            let squared = part.node("Add", &[&shifted, &square], "squared", vec![]);
            let squared = part.node("Abs", &[&squared], "squared_distances", vec![]);
            let distances = part.node("Sqrt", &[&squared], "distances", vec![]);
            let spreads = part.doubles("spreads", &[rows], spreads.iter().map(|spread| -spread));
            (part.node("Div", &[&distances, &spreads], "scores_64", vec![]), Some(distances))
        }
    };
    let margin = margin(part, &scores, rows);
    // An activation that is not finite has a margin of NaN or ∞, and stays, as it does in exeunt's own inference.
    let infinity = part.doubles("infinity", &[1], std::iter::once(f64::INFINITY));
    let finite = part.node("Less", &[&margin, &infinity], "finite", vec![]);
    let above = part.node("Greater", &[&margin, &exit.threshold_name()], "above", vec![]);
    let leaves = part.node("And", &[&above, &finite], "leaves", vec![]);
    Asked { leaves, scores, distances, margin }
}

/// The way out at `exit`, for a network of `classes` classes.
pub(super) fn leave(exit: &BuiltInExit, asked: &Asked, classes: usize) -> pb::GraphProto {
    let mut part = Part::new(format!("{OURS}{}/left/", exit.number), false);
    let ids: Vec<i64> = exit.classes.iter().map(|class| i64::from(*class)).collect();
    let complete = ids.len() == classes;

    let best = vec![part::integer("axis", 1), part::integer("keepdims", 0)];
    let best_of = |part: &mut Part, output: &str| match &asked.distances {
        Some(distances) => part.node("ArgMin", &[distances], output, best.clone()),
        None => part.node("ArgMax", &[&asked.scores], output, best.clone()),
    };
    let single = vec![part::integer("to", DataType::Float as i64)];
    if complete {
        best_of(&mut part, "class");
        part.node("Cast", &[&asked.scores], "scores", single);
    } else {
        // Rows are numbered without the classes that have no mean.
        let row = best_of(&mut part, "row");
        let known = part.integers("known", &ids);
        part.node("Gather", &[&known, &row], "class", vec![part::integer("axis", 0)]);
        let scores = part.node("Cast", &[&asked.scores], "known_scores", single);
        let nothing = ndarray::Array2::from_elem((1, classes), f32::NEG_INFINITY);
        let nothing = part.matrix("no_scores", nothing.view());
        let shape = part.integers("row_shape", &[1, length(ids.len())]);
        let places = part.node("Reshape", &[&known, &shape], "places", vec![]);
        let across = vec![part::integer("axis", 1)];
        part.node("ScatterElements", &[&nothing, &places, &scores], "scores", across);
    }
    finish(&mut part, &asked.margin, i64::from(exit.number));
    part.into_graph(classes)
}

/// Adds the nodes that make of the network's own output, `logits` of `shape`, what an exit makes of its scores.
pub(super) fn decide_by_network(part: &mut Part, logits: &str, shape: &[usize]) {
    let logits = match shape {
        [_] => part.node("Identity", &[logits], "scores", vec![]),
        _ => part.node("Flatten", &[logits], "scores", vec![part::integer("axis", 1)]),
    };
    part.node("ArgMax", &[&logits], "class", vec![part::integer("axis", 1), part::integer("keepdims", 0)]);
    let double = vec![part::integer("to", DataType::Double as i64)];
    let scores = part.node("Cast", &[&logits], "scores_64", double);
    let margin = margin(part, &scores, shape.iter().product());
    finish(part, &margin, 0);
}

/// The number of the exit, and the margin without the axes of its scores.
fn finish(part: &mut Part, margin: &str, number: i64) {
    let number = part.integers("number", &[number]);
    part.node("Identity", &[&number], "exit", vec![]);
    let flat = part.integers("one", &[1]);
    part.node("Reshape", &[margin, &flat], "margin", vec![]);
}

/// The log-odds of the largest of `rows` scores, `s₁ − logsumexp(the others)` (METHOD, "Three facts"), as the
/// difference to the second largest, less what the others add to that one: nothing overflows or cancels.
fn margin(part: &mut Part, scores: &str, rows: usize) -> String {
    let count = part.integers("count", &[length(rows)]);
    let [sorted, _from] = part.pair("TopK", &[scores, &count], ["sorted", "sorted_from"], vec![]);
    let sizes = part.integers("one_and_others", &[1, length(rows) - 1]);
    let across = vec![part::integer("axis", 1)];
    let [best, others] = part.pair("Split", &[&sorted, &sizes], ["best", "others"], across);
    let second = part.node("ReduceMax", &[&others], "second", vec![]);
    let below = part.node("Sub", &[&others, &second], "below", vec![]);
    let odds = part.node("Exp", &[&below], "odds", vec![]);
    let total = part.node("ReduceSum", &[&odds], "total", vec![]);
    let more = part.node("Log", &[&total], "more", vec![]);
    let gap = part.node("Sub", &[&best, &second], "gap", vec![]);
    part.node("Sub", &[&gap, &more], "log_odds", vec![])
}

/// A matrix of floats in double precision. It is stored in single precision, which it came in.
fn doubled(part: &mut Part, short: &str, matrix: ndarray::ArrayView2<'_, f32>) -> String {
    let single = part.matrix(&format!("{short}_32"), matrix);
    part.node("Cast", &[&single], short, vec![part::integer("to", DataType::Double as i64)])
}

/// Pools the map and makes it flat, channel by channel.
fn pool(part: &mut Part, grid: Option<usize>, tap: &str, shape: &[usize]) -> String {
    let pooled = match (grid, shape) {
        (_, [_]) => return tap.to_owned(),
        (Some(p), &[_, height, width]) if (p, p) != (height, width) => {
            let (down, across) = (cells(p, height), cells(p, width));
            match (even(&down), even(&across)) {
                (Some((rows, row_step)), Some((columns, column_step))) => {
                    let kernel = part::integers("kernel_shape", vec![length(rows), length(columns)]);
                    let strides = part::integers("strides", vec![length(row_step), length(column_step)]);
                    part.node("AveragePool", &[tap], "pooled", vec![kernel, strides])
                }
                _ => {
                    let rows = part.matrix("rows", averaging(&down, height).view());
                    let columns = part.matrix("columns", averaging(&across, width).t());
                    let bands = part.node("MatMul", &[&rows, tap], "bands", vec![]);
                    part.node("MatMul", &[&bands, &columns], "pooled", vec![])
                }
            }
        }
        _ => tap.to_owned(),
    };
    part.node("Flatten", &[&pooled], "flat", vec![part::integer("axis", 1)])
}

/// The cells of adaptive average pooling over an axis of `n`: `⌊i·n/p⌋ .. ⌈(i+1)·n/p⌉`.
fn cells(p: usize, n: usize) -> Vec<Range<usize>> {
    (0..p).map(|i| i * n / p..((i + 1) * n).div_ceil(p)).collect()
}

/// Length and step of cells that all have the same.
fn even(cells: &[Range<usize>]) -> Option<(usize, usize)> {
    let first = cells.first()?;
    let step = cells.get(1).map_or(1, |second| second.start - first.start);
    let regular = |(i, cell): (usize, &Range<usize>)| cell.start == i * step && cell.len() == first.len();
    cells.iter().enumerate().all(regular).then_some((first.len(), step))
}

/// The matrix that averages an axis of `n` over `cells`, one per row.
fn averaging(cells: &[Range<usize>], n: usize) -> ndarray::Array2<f32> {
    ndarray::Array2::from_shape_fn((cells.len(), n), |(cell, i)| {
        let cell = &cells[cell];
        if cell.contains(&i) { 1.0 / cell.len() as f32 } else { 0.0 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_cells_are_found() {
        assert_eq!(even(&cells(4, 32)), Some((8, 8)));
        assert_eq!(even(&cells(1, 7)), Some((7, 1)));
        // Cells of 4 that share the row in the middle.
        assert_eq!(even(&cells(2, 7)), Some((4, 3)));
        assert_eq!(even(&cells(4, 7)), None);
        assert_eq!(even(&cells(3, 4)), Some((2, 1)));
    }

    #[test]
    fn an_averaging_row_adds_up_to_one() {
        let matrix = averaging(&cells(4, 7), 7);
        assert_eq!(matrix.dim(), (4, 7));
        for row in matrix.rows() {
            assert!((row.sum() - 1.0).abs() < 1e-6);
        }
    }
}
