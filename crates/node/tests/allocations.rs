//! What deciding allocates, once buffers are warm: the answer, and nothing else.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../../network/tests/common/counting.rs"]
mod counting;
#[expect(dead_code, reason = "of what a node's folder can do, this needs the least")]
#[path = "applications/place.rs"]
mod place;

use std::hint::black_box;

use exeunt_network::{EngineChoice, Network, Segments};
use ndarray::ArrayView2;

use counting::allocations;
use place::{Place, noise, onnx_runtime};

/// Allocations of the third time.
fn warm_allocations(mut act: impl FnMut()) -> usize {
    act();
    act();
    allocations(act)
}

/// What running `x` through the same segments allocates, without a decision.
fn of_the_engine(place: &Place, engine: &EngineChoice, x: ArrayView2<'_, f32>) -> usize {
    let ready = place.ready();
    let network = ready.inference.spec().network;
    let network = Network::from_bytes(place.home.blob(network).unwrap()).unwrap();
    let taps: Vec<&str> = ready.inference.spec().exits.iter().map(|exit| exit.tap.as_str()).collect();
    let segments = Segments::prepare_fast(engine.engine(), &network, &taps).unwrap();
    warm_allocations(|| {
        let mut lane = segments.lane().unwrap();
        lane.begin(x).unwrap();
        for _ in 0..segments.len() {
            lane.run().unwrap();
        }
        black_box(lane.row(0));
    })
}

fn check(engine: &EngineChoice) {
    // Nobody leaves, so that every exit is asked and every segment runs.
    let place = Place::new(f64::INFINITY);
    let ready = place.ready_in(engine);
    for rows in [1, 5] {
        let x = noise(3, rows, ready.inference.input().len());
        let run = warm_allocations(|| {
            black_box(ready.inference.run(x.view()).unwrap());
        });
        // The vector of verdicts.
        assert_eq!(run, of_the_engine(&place, engine, x.view()) + 1, "{rows} rows");
    }
}

#[test]
fn inference_allocates_its_answer_and_what_tract_does() {
    check(&EngineChoice::tract());
}

#[test]
#[ignore = "needs EXEUNT_ONNXRUNTIME"]
fn onnx_runtime_and_inference_allocate_the_answer() {
    check(&onnx_runtime());
}
