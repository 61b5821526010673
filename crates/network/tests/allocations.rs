//! What a lane allocates while it runs: what the engine does for its operators, and nothing else.

#![expect(clippy::unwrap_used, reason = "helpers outside of test functions fail the test, too")]

#[path = "common/counting.rs"]
mod counting;

use std::path::Path;
use std::sync::Arc;

use counting::allocations;
use exeunt_network::{Engine, Network, OnnxRuntime, Segments, Tract};
use ndarray::Array2;
use prost::Message as _;
use tract_onnx::prelude::{InferenceModelExt as _, IntoRunnable as _, IntoTValue as _, Tensor, tvec};

fn network() -> (Network, Vec<String>) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/digits_resnet.onnx");
    let network = Network::load(&shipped).unwrap();
    let taps = network.taps().iter().step_by(6).map(|tap| tap.name.clone()).collect();
    (network, taps)
}

/// Allocations of one sample's way through all segments, once buffers are warm.
fn of_a_lane(engine: &dyn Engine, rows: usize) -> usize {
    let (network, taps) = network();
    let taps: Vec<&str> = taps.iter().map(String::as_str).collect();
    let segments = Segments::prepare_fast(engine, &network, &taps).unwrap();
    let x = Array2::from_elem((rows, network.input().len()), 0.25_f32);
    let mut lane = segments.lane().unwrap();
    let mut sum = 0.0;
    let mut pass = || {
        lane.begin(x.view()).unwrap();
        for _ in 0..segments.len() {
            lane.run().unwrap();
            sum += lane.row(rows - 1)[0];
        }
    };
    pass();
    pass();
    let count = allocations(pass);
    assert!(sum != 0.0);
    count
}

/// The same segments in the engine itself, their inputs ready.
fn of_tract_itself() -> usize {
    let (network, taps) = network();
    let taps: Vec<&str> = taps.iter().map(String::as_str).collect();
    let mut total = 0;
    for segment in network.cut(&taps).unwrap() {
        let model = tract_onnx::pb::ModelProto::decode(segment.to_onnx().as_slice()).unwrap();
        let parsed = tract_onnx::onnx().parse(&model, None).unwrap();
        let plan = parsed.model.into_optimized().unwrap().into_runnable().unwrap();
        let mut state = plan.spawn().unwrap();
        let shape: Vec<usize> = std::iter::once(1).chain(segment.input().shape.iter().copied()).collect();
        let input = Arc::new(Tensor::zero::<f32>(&shape).unwrap());
        let mut run = || drop(state.run(tvec!(Arc::clone(&input).into_tvalue())).unwrap());
        run();
        run();
        total += allocations(run);
    }
    total
}

#[test]
fn a_lane_allocates_what_tract_does_and_nothing_else() {
    let engine = of_tract_itself();
    assert!(engine > 0, "the counter counts");
    assert_eq!(of_a_lane(&Tract, 1), engine);
    assert_eq!(of_a_lane(&Tract, 4), 4 * engine);
}

/// Its own memory is not counted: it is not this allocator's.
#[test]
#[ignore = "needs EXEUNT_ONNXRUNTIME"]
fn a_lane_allocates_nothing_beside_onnx_runtime() {
    let path = std::env::var("EXEUNT_ONNXRUNTIME").expect("EXEUNT_ONNXRUNTIME names ONNX Runtime's library");
    let engine = OnnxRuntime::load(path.as_ref(), 1).unwrap();
    assert_eq!(of_a_lane(&engine, 1), 0);
}
