//! What is refused, and what the message says.

#![expect(clippy::unwrap_used, reason = "helpers outside of test functions fail the test, too")]

mod common;

use std::path::Path;

use common::{Batch, Exporter, file, network};
use exeunt_network::{CutError, FileKind, LoadError, Network};
use prost::Message as _;
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataLocation;

fn good() -> pb::ModelProto {
    network(Exporter::Older, Batch::Dynamic, 17)
}

/// Writes `bytes` to a file of this name and loads it; the error, printed without the folder.
fn message(name: &str, bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let error = Network::load(&path).unwrap_err().to_string();
    let inside = format!("{}/", folder.path().display());
    error.strip_prefix(&inside).unwrap_or_else(|| panic!("does not name the file: {error}")).to_owned()
}

#[test]
fn what_is_not_an_onnx_model_is_called_what_it_is() {
    let cases: [(&str, &[u8], &str); 5] = [
        ("empty.onnx", b"", "an empty file"),
        ("page.onnx", b"<!DOCTYPE html><html></html>", "an HTML or XML page"),
        ("resnet.pt", b"PK\x03\x04\x14\x00\x08\x08", "a zip archive, as PyTorch's own checkpoints are"),
        ("notes.txt", b"these are notes", "text"),
        (
            "picture.png",
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
            "bytes that are not, or only the beginning of, an ONNX model",
        ),
    ];
    for (name, bytes, kind) in cases {
        assert_eq!(message(name, bytes), format!("{name}: not an ONNX model but {kind}"));
    }
}

#[test]
fn a_truncated_file_is_refused_wherever_it_breaks_off() {
    let whole = file(Exporter::Newer, Batch::Dynamic, 18);
    for end in 1..whole.len() {
        let error = Network::from_bytes(whole[..end].to_vec()).map(|network| network.taps().len());
        let error = error.expect_err("the end of the file is missing");
        if end > whole.len() / 2 {
            // By then it cannot be mistaken for anything else.
            let kind = LoadError::NotOnnx { found: FileKind::Undecodable }.to_string();
            let no_graph = LoadError::NotOnnx { found: FileKind::NoGraph }.to_string();
            let opset = LoadError::Opset { found: 0 }.to_string();
            let found = error.to_string();
            assert!([kind, no_graph, opset].contains(&found), "{end} of {}: {found}", whole.len());
        }
    }
    let half = message("half.onnx", &whole[..whole.len() / 2]);
    let expected =
        "half.onnx: not an ONNX model but bytes that are not, or only the beginning of, an ONNX model";
    assert_eq!(half, expected);
}

#[test]
fn what_is_no_file_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let error = Network::load(folder.path()).unwrap_err();
    assert_eq!(error.to_string(), format!("{} is not a file", folder.path().display()));
    let missing = folder.path().join("missing.onnx");
    let error = Network::load(&missing).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot read {}", missing.display()));
    let source = std::error::Error::source(&error).expect("the system's reason");
    assert!(source.to_string().contains("No such file"), "{source}");
}

#[test]
fn an_input_of_no_fixed_shape_is_refused() {
    let mut model = good();
    let graph = model.graph.as_mut().unwrap();
    let Some(pb::type_proto::Value::TensorType(tensor)) =
        graph.input[0].r#type.as_mut().and_then(|kind| kind.value.as_mut())
    else {
        unreachable!("the input is a tensor");
    };
    tensor.shape.as_mut().unwrap().dim[2].value = None;
    let error = Network::from_bytes(model.encode_to_vec()).unwrap_err().to_string();
    let expected =
        "input \"input\" is float32[s77, 2, ?, 6], expected a batch of 32-bit floats of a fixed shape";
    assert_eq!(error, expected);
}

fn cut(taps: &[&str]) -> CutError {
    Network::from_bytes(good().encode_to_vec()).unwrap().cut(taps).map(|cut| cut.len()).unwrap_err()
}

#[test]
fn taps_that_are_none_are_explained() {
    let cases: [(&[&str], &str); 8] = [
        (
            &["/block/relu/Relu_output_1"],
            r#"the network has no tensor "/block/relu/Relu_output_1"; did you mean "/block/relu/Relu_output_0"?"#,
        ),
        (&["embedding"], r#"the network has no tensor "embedding""#),
        (
            &["/block/conv/Conv_output_0"],
            r#"the network cannot be cut at "/block/conv/Conv_output_0": "/relu/Relu_output_0" goes past it"#,
        ),
        (&["input"], r#"the network cannot be cut at "input": it is the input"#),
        (&["logits"], r#"the network cannot be cut at "logits": it is the output"#),
        (
            &["stem.weight"],
            r#"the network cannot be cut at "stem.weight": it does not lie between input and output"#,
        ),
        (
            &["/block/relu/Relu_output_0", "/relu/Relu_output_0"],
            r#"tap "/relu/Relu_output_0" is reached before "/block/relu/Relu_output_0"; name the taps in the order they are reached"#,
        ),
        (&["/relu/Relu_output_0", "/relu/Relu_output_0"], r#"tap "/relu/Relu_output_0" is named twice"#),
    ];
    for (taps, expected) in cases {
        assert_eq!(cut(taps).to_string(), expected);
    }
    // Bookkeeping of the batch is worked out in advance: nothing of it lies on the way, or goes past a cut.
    assert!(matches!(cut(&["target"]), CutError::Aside { .. }), "{}", cut(&["target"]));
}

/// Moves every weight to `location`; the model and what the file there must hold.
fn moved_out(location: &str) -> (pb::ModelProto, Vec<u8>) {
    let mut model = good();
    let mut outside = Vec::new();
    for weight in &mut model.graph.as_mut().unwrap().initializer {
        let entry = |key: &str, value: String| pb::StringStringEntryProto { key: key.to_owned(), value };
        let bytes = std::mem::take(&mut weight.raw_data);
        weight.data_location = Some(DataLocation::External as i32);
        weight.external_data = vec![
            entry("location", location.to_owned()),
            entry("offset", outside.len().to_string()),
            entry("length", bytes.len().to_string()),
        ];
        outside.extend(bytes);
    }
    (model, outside)
}

fn load_with(model: &pb::ModelProto, folder: &Path) -> Result<Network, LoadError> {
    let path = folder.join("model.onnx");
    std::fs::write(&path, model.encode_to_vec()).unwrap();
    Network::load(&path)
}

#[test]
fn external_data_beside_the_model_is_taken_in() {
    let folder = tempfile::tempdir().unwrap();
    let (model, outside) = moved_out("model.onnx.data");
    std::fs::write(folder.path().join("model.onnx.data"), &outside).unwrap();
    let network = load_with(&model, folder.path()).unwrap();
    // What goes to the nodes is one file that holds everything: the same as if it had been exported so.
    assert_eq!(network.bytes().as_ref(), good().encode_to_vec());
    let whole = Network::from_bytes(good().encode_to_vec()).unwrap();
    assert_eq!(network.hash(), whole.hash());
    // And the file on disk is still the one that was written.
    assert_eq!(std::fs::read(folder.path().join("model.onnx")).unwrap(), model.encode_to_vec());
}

#[test]
fn external_data_is_refused_unless_it_is_a_file_beside_the_model() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("weights")).unwrap();
    let model_folder = folder.path().join("weights");
    let (_, outside) = moved_out("x");
    std::fs::write(folder.path().join("outside.data"), &outside).unwrap();
    std::fs::create_dir(model_folder.join("deeper")).unwrap();
    std::fs::write(model_folder.join("deeper/inside.data"), &outside).unwrap();
    let absolute = folder.path().join("outside.data").display().to_string();
    for location in ["../outside.data", "deeper/inside.data", absolute.as_str()] {
        let error = load_with(&moved_out(location).0, &model_folder).unwrap_err().to_string();
        let expected =
            format!("tensor \"stem.weight\" is kept in {location:?}, which is not a file beside the model");
        assert!(error.ends_with(&expected), "{error}");
    }
    let (model, outside) = moved_out("model.onnx.data");
    let error = load_with(&model, &model_folder).unwrap_err().to_string();
    let missing = model_folder.join("model.onnx.data");
    assert!(error.contains(&format!("cannot read the external data in {}: ", missing.display())), "{error}");

    std::fs::write(&missing, &outside[..outside.len() - 1]).unwrap();
    let error = load_with(&model, &model_folder).unwrap_err().to_string();
    let (ends, last) = (outside.len() - 1, outside.len() - 12);
    let expected = format!("it ends at byte {ends}, expected 12 bytes from byte {last}");
    assert!(error.contains("of tensor \"fc.bias\"") && error.ends_with(&expected), "{error}");

    let error = Network::from_bytes(model.encode_to_vec()).unwrap_err().to_string();
    assert_eq!(error, "tensor \"stem.weight\" is kept outside the model, in \"model.onnx.data\"");
}

#[test]
fn networks_that_have_no_fixed_cost_or_result_are_refused() {
    for (op, expected) in [
        ("If", "node \"node_logits\": control flow (If) is not supported"),
        ("RandomNormalLike", "node \"node_logits\": RandomNormalLike draws random numbers"),
    ] {
        let mut model = good();
        model.graph.as_mut().unwrap().node.last_mut().unwrap().op_type = op.to_owned();
        let error = Network::from_bytes(model.encode_to_vec()).unwrap_err().to_string();
        assert_eq!(error, expected);
    }
    let mut model = good();
    model.graph.as_mut().unwrap().node.last_mut().unwrap().domain = "com.example".to_owned();
    let error = Network::from_bytes(model.encode_to_vec()).unwrap_err().to_string();
    let expected = "node \"node_logits\": operator Gemm of \"com.example\" is not one of ONNX's own";
    assert_eq!(error, expected);
}
