//! A loaded network.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use exeunt_stats::{Digest, Macs};
use prost::Message as _;
use tract_onnx::pb;

use crate::cut::{self, CutError, Segment};
use crate::engine::EngineError;
use crate::export::{self, BuiltInExit, ExportError};
use crate::graph::{self, DataGraph};
use crate::info::TensorInfo;
use crate::load::{self, LoadError};
use crate::structure;
use crate::taps::{self, Tap};

/// A trained network, as an ONNX file has it. Immutable, and cheap to clone.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    hash: Digest,
    bytes: Arc<[u8]>,
    graph: DataGraph,
    taps: Vec<Tap>,
    /// The step that makes each tap.
    steps: Vec<usize>,
    uncounted: Vec<String>,
}

impl Network {
    /// Loads the ONNX file at `path`. The file is not written to.
    ///
    /// Weights in other files are taken in when these lie beside the model; [`hash`](Self::hash) and
    /// [`bytes`](Self::bytes) are then those of the self-contained copy.
    ///
    /// # Errors
    /// When the file cannot be read or is not a network that can be run one sample at a time; the
    /// message names the file, and the node where there is one.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let bytes = load::read(path)?;
        load::decode_file(path, bytes)
            .and_then(|(bytes, model)| Self::new(bytes, model))
            .map_err(|problem| problem.in_file(path))
    }

    /// Takes the content of an ONNX file, which must hold its weights.
    ///
    /// # Errors
    /// When that is not a network that can be run one sample at a time.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, LoadError> {
        let (bytes, model) = load::decode(bytes)?;
        Self::new(bytes, model)
    }

    /// [`from_bytes`](Self::from_bytes) for a device that only runs the network: the bytes are let go as early as
    /// possible, and [`bytes`](Self::bytes) has none.
    ///
    /// # Errors
    /// As there.
    pub fn from_bytes_to_run(bytes: Vec<u8>) -> Result<Self, LoadError> {
        let hash = Digest::of(&bytes);
        let (bytes, model) = load::decode(bytes)?;
        drop(bytes);
        Self::of_model(hash, Arc::default(), model)
    }

    fn new(bytes: Vec<u8>, model: pb::ModelProto) -> Result<Self, LoadError> {
        Self::of_model(Digest::of(&bytes), bytes.into(), model)
    }

    fn of_model(hash: Digest, bytes: Arc<[u8]>, model: pb::ModelProto) -> Result<Self, LoadError> {
        let graph = DataGraph::new(structure::pin(model)?)?;
        let (steps, taps) = taps::find(&graph).into_iter().unzip();
        Ok(Self(Arc::new(Inner { hash, bytes, uncounted: graph::uncounted(&graph), graph, taps, steps })))
    }

    /// BLAKE3 of [`bytes`](Self::bytes): the network's identity.
    pub fn hash(&self) -> Digest {
        self.0.hash
    }

    /// The self-contained ONNX file; nothing when it was loaded [to run](Self::from_bytes_to_run).
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.0.bytes
    }

    /// The version of ONNX's operator set.
    pub fn opset(&self) -> i64 {
        self.0.graph.opset
    }

    /// What goes in: one sample.
    pub fn input(&self) -> &TensorInfo {
        &self.0.graph.input
    }

    /// What comes out for one sample. Of several outputs, the first in the file.
    pub fn output(&self) -> &TensorInfo {
        &self.0.graph.output
    }

    /// Every tensor at which the network can be cut, from the input on. Neither the input nor the
    /// output is among them.
    pub fn taps(&self) -> &[Tap] {
        &self.0.taps
    }

    /// The tap called `name`.
    pub fn tap(&self, name: &str) -> Option<&Tap> {
        self.0.taps.iter().find(|tap| tap.name == name)
    }

    /// Multiply-accumulates for one sample, of convolutions and matrix products.
    pub fn macs(&self) -> Macs {
        self.0.graph.macs()
    }

    /// Operators in this network that do much arithmetic but are counted as none in all MACs, sorted.
    /// Empty for convolutional networks.
    pub fn uncounted_ops(&self) -> &[String] {
        &self.0.uncounted
    }

    /// Cuts at `taps`, which must be in the order they are reached, into one segment more than there
    /// are taps. Run in sequence they compute what the network computes.
    ///
    /// # Errors
    /// When a name is no cut point, comes twice, or is out of order.
    pub fn cut(&self, taps: &[&str]) -> Result<Vec<Segment>, CutError> {
        Ok(self.segments(taps)?.collect())
    }

    /// [`cut`](Self::cut), each piece written when it is asked for.
    pub(crate) fn segments(&self, taps: &[&str]) -> Result<impl Iterator<Item = Segment> + '_, CutError> {
        Ok(cut::segments(&self.0.graph, self.cuts(taps)?))
    }

    /// [`segments`](Self::segments), using up the network where nobody else has it.
    pub(crate) fn into_segments(self, taps: &[&str]) -> Result<Box<dyn Iterator<Item = Segment>>, CutError> {
        let cuts = self.cuts(taps)?;
        Ok(match Arc::try_unwrap(self.0) {
            Ok(inner) => Box::new(cut::segments_of(inner.graph, cuts)),
            Err(shared) => {
                let pieces: Vec<Segment> = cut::segments(&shared.graph, cuts).collect();
                Box::new(pieces.into_iter())
            }
        })
    }

    /// The file's model, untouched, as one piece.
    pub(crate) fn file(&self) -> Result<Segment, EngineError> {
        let (input, output) = (self.input().clone(), self.output().clone());
        let unread = |reason: String| EngineError::Prepare {
            engine: "the file".to_owned(),
            from: input.name.clone(),
            to: output.name.clone(),
            reason,
        };
        let model =
            pb::ModelProto::decode(self.0.bytes.as_ref()).map_err(|error| unread(error.to_string()))?;
        Ok(Segment::new(model, input, output, self.macs()))
    }

    /// Names and shapes at `taps`, when the network can be cut there.
    pub(crate) fn cut_infos(&self, taps: &[&str]) -> Result<Vec<TensorInfo>, CutError> {
        Ok(self.cuts(taps)?.into_iter().map(|(_, info)| info).collect())
    }

    /// One ONNX model that holds the network, `exits` (in the order they are reached) and their thresholds, for a
    /// batch of one. Its input is the network's. Its outputs are `scores` (`[1, K]`, floats; `-∞` for a class without
    /// scores), `class` (`[1]`, 64-bit), `exit` (`[1]`, 64-bit: the number of the exit the sample left by, 0 if it left
    /// nowhere) and `margin` (`[1]`, double). The input `threshold_N` (`[1]`, double) overrides the threshold of exit
    /// number `N`; it may be left out.
    ///
    /// What a sample does not reach is not computed. `metadata` goes into the model's properties, with `batch` = 1.
    ///
    /// # Errors
    /// When the exits do not fit the network, or a name is taken.
    pub fn with_exits(
        &self,
        exits: &[BuiltInExit],
        metadata: &[(String, String)],
    ) -> Result<Vec<u8>, ExportError> {
        let taps: Vec<&str> = exits.iter().map(|exit| exit.tap.as_str()).collect();
        export::build(&self.0.graph, &self.cuts(&taps)?, exits, metadata)
    }

    /// The steps after which to cut at `taps`, and what is there.
    fn cuts(&self, taps: &[&str]) -> Result<Vec<(usize, TensorInfo)>, CutError> {
        let mut cuts: Vec<(usize, TensorInfo)> = Vec::with_capacity(taps.len());
        for name in taps {
            let tap = (*name).to_owned();
            if cuts.iter().any(|(_, cut)| cut.name == tap) {
                return Err(CutError::Duplicate { tap });
            }
            let Some(index) = self.0.taps.iter().position(|known| known.name == tap) else {
                return Err(cut::refuse(&self.0.graph, &self.0.taps, tap));
            };
            let step = self.0.steps[index];
            match cuts.last() {
                Some((reached, after)) if *reached > step => {
                    return Err(CutError::OutOfOrder { tap, after: after.name.clone() });
                }
                _ => cuts.push((step, TensorInfo { name: tap, shape: self.0.taps[index].shape.clone() })),
            }
        }
        Ok(cuts)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("hash", &self.hash())
            .field("input", self.input())
            .field("output", self.output())
            .field("taps", &self.taps().len())
            .field("macs", &self.macs())
            .finish_non_exhaustive()
    }
}
