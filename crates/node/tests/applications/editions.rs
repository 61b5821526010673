//! What makes a node's answer another edition and not a contradiction.

use std::path::Path;
use std::sync::Arc;

use exeunt_coordinator::RunPlan;
use exeunt_network::{Engine, Network, Tract};
use exeunt_node::{Model, Session, Workplace, open_parts};
use exeunt_protocol::spec::RunFile;
use exeunt_stats::Digest;

use crate::place::onnx_runtime;

fn edition(engine: &dyn Engine, batch: Option<usize>) -> Digest {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(repository.join("configs/digits.toml")).unwrap();
    let file = RunFile::parse(&text, "digits.toml").unwrap();
    let network = Network::load(&repository.join("assets/digits_resnet.onnx")).unwrap();
    let spec = RunPlan::new(&file, &network).unwrap().spec;
    let place = Workplace { data: &repository.join("assets/digits"), share: None };
    let parts = open_parts(&spec, &place).unwrap();
    let model = Model::load_in_batches(spec, &network, engine, batch).unwrap();
    Session::new(Arc::new(model), parts, 1).edition()
}

#[test]
fn samples_and_batches_name_an_edition() {
    let first = edition(&Tract, Some(8));
    assert_eq!(first, edition(&Tract, Some(8)));
    assert_ne!(first, edition(&Tract, Some(9)));
}

#[test]
#[ignore = "needs EXEUNT_ONNXRUNTIME"]
fn onnx_runtime_makes_another_edition() {
    let theirs = onnx_runtime();
    let first = edition(theirs.engine(), Some(8));
    assert_eq!(first, edition(theirs.engine(), Some(8)));
    assert_ne!(first, edition(&Tract, Some(8)));
}
