//! Networks: an ONNX file is read, its taps are found, and it is cut at them.

use exeunt_network::{Network, Segments, Tract};
use exeunt_stats::Macs;
use ndarray::Array2;

use crate::wire;

/// Networks that are run once they were cut: small ones.
const RUN_MACS: u64 = 20_000;
/// Elements of their inputs at most.
const RUN_INPUT: usize = 4_096;
/// Taps at which a network is cut.
const CUTS: usize = 4;

/// Operators that edits may put in place of others.
const WORDS: [&str; 48] = [
    "Add",
    "ArgMax",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "ConvTranspose",
    "Div",
    "Einsum",
    "Equal",
    "Expand",
    "Flatten",
    "Gather",
    "Gemm",
    "GlobalAveragePool",
    "GRU",
    "Identity",
    "InstanceNormalization",
    "LSTM",
    "LayerNormalization",
    "MatMul",
    "MaxPool",
    "Mul",
    "NonZero",
    "OneHot",
    "Pad",
    "Pow",
    "Range",
    "ReduceMean",
    "Relu",
    "Reshape",
    "Resize",
    "ScatterND",
    "Shape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Split",
    "Squeeze",
    "Tile",
    "TopK",
    "Transpose",
    "Unsqueeze",
    "Where",
];

/// A number of edits (one byte): where it is 0, an ONNX file follows; else that many edits of four bytes and more, then an
/// ONNX file to make them in.
///
/// # Panics
/// When a network cannot be cut where it says that it can, or its pieces are others than it says.
pub fn networks(data: &[u8]) {
    let Some((&edits, rest)) = data.split_first() else { return };
    match rest.split_at_checked(usize::from(edits)) {
        Some((edits, file)) if !edits.is_empty() => {
            if let Some(file) = wire::edited(file, edits, &WORDS) {
                network(file);
            }
        }
        _ => network(rest.to_vec()),
    }
}

fn network(file: Vec<u8>) {
    let Ok(network) = Network::from_bytes(file) else { return };
    let _ = (network.opset(), network.output(), network.uncounted_ops());
    assert!(network.taps().is_sorted_by_key(|tap| tap.macs_until));
    for tap in network.taps() {
        assert_eq!(network.tap(&tap.name), Some(tap));
        assert!(tap.macs_until <= network.macs());
    }
    let taps: Vec<&str> = network.taps().iter().map(|tap| tap.name.as_str()).collect();
    for tap in taps.iter().take(CUTS) {
        pieces(&network, &[*tap]);
    }
    let some: Vec<&str> = taps.iter().step_by(taps.len().div_ceil(CUTS).max(1)).copied().collect();
    pieces(&network, &some);
    assert!(network.cut(&["no such tensor", "no such tensor"]).is_err());
    if network.macs().get() <= RUN_MACS && network.input().shape.iter().product::<usize>() <= RUN_INPUT {
        run(&network, &some);
    }
}

fn pieces(network: &Network, taps: &[&str]) {
    let segments = network.cut(taps).expect("every tap is a cut point");
    assert_eq!(segments.len(), taps.len() + 1);
    assert_eq!(segments.iter().map(|segment| segment.macs()).sum::<Macs>(), network.macs());
    assert_eq!(segments[0].input().shape, network.input().shape);
    for (segment, tap) in segments.iter().zip(taps) {
        assert_eq!(segment.output().name, *tap);
        assert_eq!(Some(&segment.output().shape), network.tap(tap).map(|tap| &tap.shape));
    }
    for pair in segments.windows(2) {
        assert_eq!(pair[0].output(), pair[1].input());
    }
    for segment in &segments {
        assert!(!segment.to_onnx().is_empty());
    }
}

/// What the engine makes of it is the engine's; that it ends in numbers or an error is ours.
fn run(network: &Network, taps: &[&str]) {
    let Ok(segments) = Segments::prepare(&Tract, network, taps) else { return };
    let inputs = network.input().shape.iter().product::<usize>();
    let sample = Array2::from_shape_fn((2, inputs), |(row, at)| (row * 3 + at % 7) as f32 * 0.25);
    let mut seen = 0;
    let outputs = segments.run_all(sample.view(), &mut |exit, activations| {
        assert_eq!((exit, activations.nrows()), (seen, 2));
        assert_eq!(activations.ncols(), segments.tap_shape(exit).iter().product::<usize>());
        seen += 1;
    });
    if let Ok(outputs) = outputs {
        assert_eq!((seen, outputs.nrows()), (taps.len(), 2));
    }
}
