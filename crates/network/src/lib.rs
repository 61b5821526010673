//! ONNX networks: what is in them, where they can be cut, and the engines that run the pieces.
//!
//! ```no_run
//! use exeunt_network::{Network, Segments, Tract};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let images = ndarray::Array2::<f32>::zeros((8, 3072));
//! let network = Network::load("resnet20.onnx".as_ref())?;
//! for tap in network.taps() {
//!     println!("{} {:?} {}", tap.name, tap.shape, tap.macs_until);
//! }
//! let taps = [network.taps()[4].name.as_str()];
//! let segments = Segments::prepare(&Tract, &network, &taps)?;
//! let logits = segments.run_all(images.view(), &mut |exit, activations| {
//!     println!("exit {exit}: {:?}", activations.dim());
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! # How a file becomes segments
//! 1. The file is read, never written; BLAKE3 of its bytes is its identity ([`Network::hash`]).
//! 2. The batch is pinned to 1 and the shapes stored in the file are forgotten: exporters write them
//!    with a symbolic batch, and they go stale. Every shape is inferred anew.
//! 3. What does not depend on the input once shapes are known (weights, the batch-size bookkeeping of
//!    `Shape → Gather → Concat → Reshape`, the paddings PyTorch computes inside the graph) is worked
//!    out once and becomes a constant. What is left is the *data graph*, and only its values can be
//!    tapped: bookkeeping neither spoils a cut nor crosses one.
//! 4. A value is a cut point ([`Tap`]) when everything after it needs nothing else from before it.
//! 5. [`Network::cut`] writes each piece as an ONNX model of its own, with the constants it reads, so
//!    that any engine can run it.
//!
//! # What holds
//! * Row `i` that a chain prepared for [`Batching::Exact`] puts out depends on row `i` that went in
//!   alone, bit for bit: not on the other rows, nor on how many there are, nor on the thread that ran
//!   it. tract runs rows one by one; ONNX Runtime is tried out on one batch of made-up numbers when a
//!   segment is loaded, which is no proof for all others. Between engines, engine versions and
//!   processors the last bits may differ.
//! * What a segment made goes into the next where it lies, and is read there ([`Lane`]): no copy, and
//!   nothing is allocated per sample but what the engine itself does.
//! * A file is hostile until shown otherwise: whatever its bytes, loading and cutting end in a value
//!   or an error. The engine's own panics are caught and come back as errors (the process's panic hook
//!   still sees them).
//!
//! Deliberately absent: pooling and rules (those are the exits' business), images, and the types of
//! ONNX and of the engines in any public signature.

mod choice;
mod constants;
mod cut;
mod engine;
mod export;
mod external;
mod facts;
mod graph;
mod info;
mod kind;
mod load;
mod macs;
mod network;
mod onnxruntime;
mod segments;
mod structure;
mod taps;
mod tract;

pub use choice::{ChooseError, EngineChoice, EngineSettings, EngineWish, UnknownEngine};
pub use cut::{CutError, Segment};
pub use engine::{Batching, Chain, ChainLane, Engine, EngineError, engine_label};
pub use export::{BuiltInExit, ExportError, MAX_BUILT_IN_EXITS, Scores};
pub use info::TensorInfo;
pub use kind::FileKind;
pub use load::LoadError;
pub use network::Network;
pub use onnxruntime::{Candidate, OnnxRuntime, OnnxRuntimeError};
pub use segments::{Lane, PrepareError, Segments};
pub use structure::SUPPORTED_OPSETS;
pub use taps::Tap;
pub use tract::Tract;
