//! One run on this node: its network cut and loaded, its samples found, ready to be passed through.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use exeunt_data::{BadFiles, Dataset, Preprocess, Reader, Share};
use exeunt_exits::Part;
use exeunt_network::{Engine, Network, Segments};
use exeunt_protocol::message::Refusal;
use exeunt_protocol::spec::RunSpec;
use exeunt_stats::Digest;
use ndarray::{Array2, ArrayView2};

/// Activations of one batch between two taps stay under this, so that a node's memory does not follow its batch.
const BATCH_BYTES: usize = 16 << 20;
/// Larger batches gain nothing.
const MAX_BATCH: usize = 64;

/// How far an answer is, and whether it is still wanted; shared with whoever watches.
#[derive(Debug, Default)]
pub struct Watch {
    done: AtomicU64,
    of: AtomicU64,
    cancelled: AtomicBool,
}

impl Watch {
    /// Samples done, and samples to do.
    pub fn progress(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.of.load(Ordering::Relaxed))
    }

    /// The answer is not wanted any more.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn begin(&self, of: usize) {
        self.done.store(0, Ordering::Relaxed);
        self.of.store(of as u64, Ordering::Relaxed);
    }
}

/// Where a node's samples lie.
#[derive(Debug, Clone)]
pub struct Workplace<'a> {
    /// Folder that holds them.
    pub data: &'a Path,
    /// The part of them that belongs to this node, when several share a folder.
    pub share: Option<Share>,
}

/// A run's network, cut and loaded. Simulated nodes share one.
#[derive(Debug)]
pub struct Model {
    pub(crate) spec: RunSpec,
    pub(crate) segments: Segments,
    pub(crate) preprocess: Preprocess,
}

/// A run on this node. See the [module](self).
#[derive(Debug)]
pub struct Session {
    pub(crate) model: Arc<Model>,
    /// Statistics, calibration, evaluation.
    parts: [Dataset; 3],
    threads: usize,
    batch: usize,
    bad: Mutex<BadFiles>,
}

/// One batch on its way: what a pass hands to its caller.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    /// Class of each sample.
    pub(crate) labels: &'a [u32],
    /// Per exit, `samples × dim`.
    pub(crate) pooled: &'a [ArrayView2<'a, f32>],
    /// `samples × classes`.
    pub(crate) logits: ArrayView2<'a, f32>,
}

impl Model {
    /// Cuts the network at the run's exits and loads it.
    ///
    /// # Errors
    /// The [`Refusal`] to answer queries with: the network does not do here what the run says.
    pub fn load(spec: RunSpec, network: &Network, engine: &dyn Engine) -> Result<Self, Refusal> {
        let mismatch = |what: String| Refusal::ModelMismatch { what };
        if network.hash() != spec.network {
            return Err(mismatch(format!("found network {}, expected {}", network.hash(), spec.network)));
        }
        let taps: Vec<&str> = spec.exits.iter().map(|exit| exit.tap.as_str()).collect();
        let segments = Segments::prepare(engine, network, &taps).map_err(|error| mismatch(chain(&error)))?;
        for (e, exit) in spec.exits.iter().enumerate() {
            let found = exit.pool.dim(segments.tap_shape(e)).map_err(|error| mismatch(chain(&error)))?;
            if found != exit.dim {
                return Err(mismatch(format!("exit '{}': found {found} numbers, expected {}", exit.tap, exit.dim)));
            }
        }
        let preprocess = Preprocess::new(&spec.input).map_err(|error| mismatch(chain(&error)))?;
        Ok(Self { spec, segments, preprocess })
    }

    /// What the run is.
    pub fn spec(&self) -> &RunSpec {
        &self.spec
    }

    /// Pooled activations at every exit, and the network's outputs, for preprocessed samples.
    ///
    /// # Errors
    /// [`Refusal::Failed`] when the engine does.
    pub fn features(&self, x: ArrayView2<'_, f32>) -> Result<(Vec<Array2<f32>>, Array2<f32>), Refusal> {
        let rows = x.nrows();
        let mut pooled: Vec<Array2<f32>> =
            self.spec.exits.iter().map(|exit| Array2::zeros((rows, exit.dim))).collect();
        let mut pool_error = None;
        let logits = self
            .segments
            .run_all(x, &mut |e, maps| {
                let done = pool_rows(&self.spec, e, self.segments.tap_shape(e), maps, &mut pooled[e]);
                if let Err(error) = done {
                    pool_error.get_or_insert(error);
                }
            })
            .map_err(|error| Refusal::Failed { what: chain(&error) })?;
        pool_error.map_or(Ok((pooled, logits)), Err)
    }
}

/// Finds the samples of a run's parts.
///
/// # Errors
/// [`Refusal::BadData`] names the file, what was found and what was expected.
pub /// An error with everything that led to it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
