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

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
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

/// A run on this node: its network cut and loaded, its samples found, ready to be passed through.
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
                return Err(mismatch(format!(
                    "exit '{}': found {found} numbers, expected {}",
                    exit.tap, exit.dim
                )));
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
pub fn open_parts(spec: &RunSpec, place: &Workplace<'_>) -> Result<[Dataset; 3], Refusal> {
    let parts = Reader::new(place.data, &spec.data, spec.seed, &spec.classes)
        .all()
        .map_err(|error| Refusal::BadData { what: chain(&error) })?;
    Ok(match &place.share {
        Some(share) => parts.map(|part| part.share(share)),
        None => parts,
    })
}

impl Session {
    /// A run over these samples (statistics, calibration, evaluation), computed on this many threads.
    pub fn new(model: Arc<Model>, parts: [Dataset; 3], threads: usize) -> Self {
        let exits = 0..model.spec.exits.len();
        let largest = exits.map(|e| model.segments.tap_shape(e).iter().product::<usize>()).max();
        let batch = (BATCH_BYTES / (4 * largest.unwrap_or(1).max(1))).clamp(1, MAX_BATCH);
        let bad = Mutex::new(BadFiles::new(model.spec.data.max_bad));
        Self { model, parts, threads: threads.max(1), batch, bad }
    }

    /// What the run is.
    pub fn spec(&self) -> &RunSpec {
        &self.model.spec
    }

    /// The run's network.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The samples of a part.
    pub fn part(&self, part: Part) -> &Dataset {
        match part {
            Part::Statistics => &self.parts[0],
            Part::Calibration => &self.parts[1],
            Part::Evaluation => &self.parts[2],
        }
    }

    /// Names the samples of all parts by content.
    pub fn data_digest(&self) -> Digest {
        let digests: Vec<u8> = self.parts.iter().flat_map(|part| *part.digest().as_bytes()).collect();
        Digest::of(&digests)
    }

    /// Samples that could not be read, each with the reason.
    pub fn bad_files(&self) -> Vec<String> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner).named()
    }

    /// Passes samples of a part through the network, on all threads. Each thread folds its batches into an accumulator
    /// of its own; which batch goes to which is left open, so the fold must not depend on it.
    pub(crate) fn pass<A: Send>(
        &self,
        part: Part,
        indices: &[usize],
        watch: &Watch,
        make: impl Fn() -> A + Sync,
        step: impl Fn(&mut A, &Batch<'_>) -> Result<(), Refusal> + Sync,
    ) -> Result<Vec<A>, Refusal> {
        watch.begin(indices.len());
        let batches: Vec<&[usize]> = indices.chunks(self.batch).collect();
        let next = AtomicUsize::new(0);
        let failed = Mutex::new(None);
        let work = || {
            let mut accumulator = make();
            while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                if watch.is_cancelled() {
                    fail(&failed, Refusal::Failed { what: "not wanted any more".to_owned() });
                    break;
                }
                if let Err(refusal) = self.forward(part, batch, &mut |b| step(&mut accumulator, b)) {
                    fail(&failed, refusal);
                    // The other threads find nothing left to do.
                    next.store(batches.len(), Ordering::Relaxed);
                    break;
                }
                watch.done.fetch_add(batch.len() as u64, Ordering::Relaxed);
            }
            accumulator
        };
        let threads = self.threads.min(batches.len()).max(1);
        let accumulators: Vec<A> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mine = work();
            let joined = others.into_iter().filter_map(|thread| {
                let panicked =
                    |_panic| fail(&failed, Refusal::Failed { what: "a thread panicked".to_owned() });
                thread.join().map_err(panicked).ok()
            });
            std::iter::once(mine).chain(joined).collect()
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(refusal) => Err(refusal),
            None => Ok(accumulators),
        }
    }

    fn forward(
        &self,
        part: Part,
        indices: &[usize],
        step: &mut dyn FnMut(&Batch<'_>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let dataset = self.part(part);
        let (x, kept) = self.load(dataset, indices)?;
        if kept.is_empty() {
            return Ok(());
        }
        let labels: Vec<u32> = kept.iter().map(|i| dataset.labels()[*i]).collect();
        let (pooled, logits) = self.model.features(x.view())?;
        let views: Vec<ArrayView2<'_, f32>> = pooled.iter().map(Array2::view).collect();
        step(&Batch { labels: &labels, pooled: &views, logits: logits.view() })
    }

    /// Reads and preprocesses samples; those that cannot be read are counted and left out.
    fn load(&self, dataset: &Dataset, indices: &[usize]) -> Result<(Array2<f32>, Vec<usize>), Refusal> {
        let shape = self.model.segments.input_shape();
        let numbers: usize = shape.iter().product();
        let mut flat = Vec::with_capacity(indices.len() * numbers);
        let mut kept = Vec::with_capacity(indices.len());
        for &i in indices {
            let name = dataset.name(i);
            let image = dataset.load(i);
            match image.and_then(|image| self.model.preprocess.append(&image, shape, &name, &mut flat)) {
                Ok(()) => kept.push(i),
                Err(error) => {
                    let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
                    bad.note(&name, &error)
                        .map_err(|too_many| Refusal::BadData { what: too_many.to_string() })?;
                }
            }
        }
        let x = Array2::from_shape_vec((kept.len(), numbers), flat)
            .map_err(|error| Refusal::BadData { what: error.to_string() })?;
        Ok((x, kept))
    }
}

/// Keeps the first reason.
fn fail(failed: &Mutex<Option<Refusal>>, refusal: Refusal) {
    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(refusal);
}

fn pool_rows(
    spec: &RunSpec,
    e: usize,
    shape: &[usize],
    maps: ArrayView2<'_, f32>,
    pooled: &mut Array2<f32>,
) -> Result<(), Refusal> {
    for (map, mut out) in maps.outer_iter().zip(pooled.outer_iter_mut()) {
        let (Some(map), Some(out)) = (map.as_slice(), out.as_slice_mut()) else {
            return Err(Refusal::Failed { what: "activations are not contiguous".to_owned() });
        };
        spec.exits[e]
            .pool
            .apply(shape, map, out)
            .map_err(|error| Refusal::ModelMismatch { what: chain(&error) })?;
    }
    Ok(())
}

/// An error with everything that led to it, on one line.
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
