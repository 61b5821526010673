//! From a path or bytes to a decoded model.

use std::path::{Path, PathBuf};
use std::{fs, io};

use prost::Message;
use tract_onnx::pb;

use crate::external;
use crate::kind::FileKind;
use crate::structure::SUPPORTED_OPSETS;

/// Why a network cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path is a folder, a pipe or the like.
    #[error("{} is not a file", path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// What is wrong with the content of a file; `problem` is one of the other variants.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: Box<LoadError>,
    },
    /// Something else than an ONNX model.
    #[error("not an ONNX model but {found}")]
    NotOnnx {
        /// What it looks like.
        found: FileKind,
    },
    /// The weights are in another file, and only the bytes of this one are known. Load it by its path,
    /// or export it with the weights inside.
    #[error("tensor {tensor:?} is kept outside the model, in {location:?}")]
    ExternalData {
        /// The tensor.
        tensor: String,
        /// The file it is said to be in.
        location: String,
    },
    /// The weights are in a file that does not lie beside the model, in the same folder.
    #[error("tensor {tensor:?} is kept in {location:?}, which is not a file beside the model")]
    ExternalDataElsewhere {
        /// The tensor.
        tensor: String,
        /// The file it is said to be in.
        location: String,
    },
    /// The file beside the model cannot be read.
    #[error("cannot read the external data in {}: {cause}", path.display())]
    UnreadableExternalData {
        /// The file beside the model.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The file beside the model does not hold what the model says.
    #[error("external data {location:?} of tensor {tensor:?}: {reason}")]
    DamagedExternalData {
        /// The tensor.
        tensor: String,
        /// The file it is said to be in.
        location: String,
        /// What is wrong.
        reason: String,
    },
    /// The operator set is too old or too new. Export again with one that is supported
    /// (`torch.onnx.export(…, opset_version=17)`).
    #[error(
        "operator set {found}, expected {} to {}",
        SUPPORTED_OPSETS.start(),
        SUPPORTED_OPSETS.end()
    )]
    Opset {
        /// The version of the default operator set; 0 when the model names none.
        found: i64,
    },
    /// An operator outside ONNX's own set, or a function local to the model, which exporters can
    /// write out as ordinary operators.
    #[error("node {node:?}: operator {operator} of {domain:?} is not one of ONNX's own")]
    ForeignOperator {
        /// The node.
        node: String,
        /// Its operator.
        operator: String,
        /// The operator's domain.
        domain: String,
    },
    /// The network decides at run time what it computes, so that its cost has no number.
    #[error("node {node:?}: control flow ({operator}) is not supported")]
    ControlFlow {
        /// The node.
        node: String,
        /// Its operator.
        operator: String,
    },
    /// The network draws random numbers: the same sample would not give the same activations.
    #[error("node {node:?}: {operator} draws random numbers")]
    Random {
        /// The node.
        node: String,
        /// Its operator.
        operator: String,
    },
    /// The graph contradicts itself: a value that nothing makes, or that two nodes make.
    #[error("value {value:?} {problem}")]
    Structure {
        /// The value.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Not exactly one input.
    #[error("found {} inputs {found:?}, expected one", found.len())]
    Inputs {
        /// The inputs that are not constants.
        found: Vec<String>,
    },
    /// The input is not a batch of 32-bit floats of a fixed shape.
    #[error("input {input:?} is {found}, expected a batch of 32-bit floats of a fixed shape")]
    Input {
        /// The input.
        input: String,
        /// Its type and shape.
        found: String,
    },
    /// There is no output, or what comes out is not one row of 32-bit floats per sample.
    #[error("output {output:?} is {found}, expected one row of 32-bit floats for a batch of one")]
    Output {
        /// The output.
        output: String,
        /// Its type and shape.
        found: String,
    },
    /// The engine cannot make sense of a node when the batch is one.
    #[error("node {node:?} ({operator}), with a batch of one: {reason}")]
    Node {
        /// The node.
        node: String,
        /// Its operator.
        operator: String,
        /// What the engine said.
        reason: String,
    },
    /// The engine cannot make sense of the model as a whole.
    #[error("the engine cannot read the model: {reason}")]
    Engine {
        /// What it said.
        reason: String,
    },
    /// A tensor too large for the devices this is meant for.
    #[error("node {node:?} ({operator}) makes a tensor of shape {shape:?}, more than {limit} elements")]
    TooLarge {
        /// The node.
        node: String,
        /// Its operator.
        operator: String,
        /// The tensor's shape, batch included.
        shape: Vec<usize>,
        /// The most elements a tensor may have.
        limit: u64,
    },
}

impl LoadError {
    /// The same error, with the name of the file.
    pub(crate) fn in_file(self, path: &Path) -> Self {
        Self::File { path: path.to_owned(), problem: Box::new(self) }
    }
}

/// The bytes of the file at `path`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let unreadable = |source| LoadError::Read { path: path.to_owned(), source };
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(LoadError::NotAFile { path: path.to_owned() });
    }
    fs::read(path).map_err(unreadable)
}

/// Decodes bytes that must hold everything. They come back with the model.
pub(crate) fn decode(bytes: Vec<u8>) -> Result<(Vec<u8>, pb::ModelProto), LoadError> {
    let mut model = parse(&bytes)?;
    match external::first(&mut model) {
        Some((tensor, location)) => Err(LoadError::ExternalData { tensor, location }),
        None => Ok((bytes, model)),
    }
}

/// Decodes the bytes of the file at `path`. When files beside it hold weights, the bytes that come
/// back are those of a copy that holds everything.
pub(crate) fn decode_file(path: &Path, bytes: Vec<u8>) -> Result<(Vec<u8>, pb::ModelProto), LoadError> {
    let mut model = parse(&bytes)?;
    let bytes = if external::inline(&mut model, path)? { model.encode_to_vec() } else { bytes };
    Ok((bytes, model))
}

fn parse(bytes: &[u8]) -> Result<pb::ModelProto, LoadError> {
    if let Some(found) = FileKind::foreign(bytes) {
        return Err(LoadError::NotOnnx { found });
    }
    match pb::ModelProto::decode(bytes) {
        Ok(model) if model.graph.as_ref().is_some_and(|graph| !graph.node.is_empty()) => Ok(model),
        Ok(_) => Err(LoadError::NotOnnx { found: FileKind::NoGraph }),
        Err(_malformed) => Err(LoadError::NotOnnx { found: FileKind::Undecodable }),
    }
}
