//! One run on this node: its network cut and loaded, its samples found, ready to be passed through.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use exeunt_data::{BadFiles, Dataset, Preprocess, Share};
use exeunt_exits::{Part, RunContext};
use exeunt_network::{Engine, Network, Segments};
use exeunt_protocol::message::Refusal;
use exeunt_protocol::spec::RunSpec;
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

/// What a node is given to do its work with.
#[derive(Debug, Clone)]
pub struct Workplace<'a> {
    /// Folder that holds the samples.
    pub data: &'a Path,
    /// The part of them that belongs to this node, when several share a folder.
    pub share: Option<Share>,
    /// Threads to compute with.
    pub threads: usize,
}

/// A run on this node. See the [module](self).
#[derive(Debug)]
pub struct Session {
    /// What the run is.
    pub(crate) spec: RunSpec,
    pub(crate) segments: Segments,
    pub(crate) preprocess: Preprocess,
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

impl Session {
    /// Loads what the run needs.
    ///
    /// # Errors
    /// The [`Refusal`] to answer queries with: the network cannot run here, or the data cannot be read.
    pub fn open(spec: RunSpec, network: &Network, engine: &dyn Engine, place: &Workplace<'_>) -> Result<Self, Refusal> {
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
        let mut bad = BadFiles::new(spec.data.max_bad);
        let parts = open_parts(&spec, place, &mut bad)?;
        let largest = (0..spec.exits.len()).map(|e| segments.tap_shape(e).iter().product::<usize>()).max();
        let batch = (BATCH_BYTES / (4 * largest.unwrap_or(1).max(1))).clamp(1, MAX_BATCH);
        Ok(Self { spec, segments, preprocess, parts, threads: place.threads.max(1), batch, bad: Mutex::new(bad) })
    }

    /// What the run is.
    pub fn spec(&self) -> &RunSpec {
        &self.spec
    }

    /// The samples of a part.
    pub fn part(&self, part: Part) -> &Dataset {
        match part {
            Part::Statistics => &self.parts[0],
            Part::Calibration => &self.parts[1],
            Part::Evaluation => &self.parts[2],
        }
    }

    /// Names of samples that could not be read, with the reason; at most a few.
    pub fn bad_files(&self) -> Vec<String> {
        self.bad.lock().map(|bad| bad.named()).unwrap_or_default()
    }

    /// Passes samples of a part through the network, on all threads. Each thread folds its batches into an
    /// accumulator of its own; which batch goes to which is left open, so the fold must not depend on it.
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
        let failed = AtomicBool::new(false);
        let work = || -> Result<A, Refusal> {
            let mut accumulator = make();
            loop {
                let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) else { return Ok(accumulator) };
                if watch.cancelled.load(Ordering::Relaxed) || failed.load(Ordering::Relaxed) {
                    return Err(Refusal::Failed { what: "not wanted any more".to_owned() });
                }
                self.forward(part, batch, &mut |b| step(&mut accumulator, b)).inspect_err(|_| {
                    failed.store(true, Ordering::Relaxed);
                })?;
                watch.done.fetch_add(batch.len() as u64, Ordering::Relaxed);
            }
        };
        let threads = self.threads.min(batches.len()).max(1);
        let results: Vec<Result<A, Refusal>> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mine = work();
            let joined = others.into_iter().map(|thread| {
                let panicked = || Refusal::Failed { what: "a worker thread panicked".to_owned() };
                thread.join().unwrap_or_else(|_panic| Err(panicked()))
            });
            std::iter::once(mine).chain(joined).collect()
        });
        // The cause, rather than the threads that stopped because of it.
        let cause = |error: &Refusal| !matches!(error, Refusal::Failed { what } if what == "not wanted any more");
        let mut accumulators = Vec::with_capacity(results.len());
        let mut error = None;
        for result in results {
            match result {
                Ok(accumulator) => accumulators.push(accumulator),
                Err(refusal) if error.as_ref().is_none_or(|e| !cause(e)) => error = Some(refusal),
                Err(_) => {}
            }
        }
        error.map_or(Ok(accumulators), Err)
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
        let (pooled, logits) = self.features(x.view())?;
        let views: Vec<ArrayView2<'_, f32>> = pooled.iter().map(Array2::view).collect();
        step(&Batch { labels: &labels, pooled: &views, logits: logits.view() })
    }

    /// Pooled activations at every exit, and the network's outputs, for preprocessed samples.
    pub(crate) fn features(&self, x: ArrayView2<'_, f32>) -> Result<(Vec<Array2<f32>>, Array2<f32>), Refusal> {
        let rows = x.nrows();
        let mut pooled: Vec<Array2<f32>> =
            self.spec.exits.iter().map(|exit| Array2::zeros((rows, exit.dim))).collect();
        let mut pool_error = None;
        let logits = self
            .segments
            .run_all(x, &mut |e, maps| {
                match pool_rows(&self.spec, e, self.segments.tap_shape(e), maps, &mut pooled[e]) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => {
                        pool_error = Some(error);
                        ControlFlow::Break(())
                    }
                }
            })
            .map_err(|error| Refusal::Failed { what: chain(&error) })?;
        match (pool_error, logits) {
            (None, Some(logits)) => Ok((pooled, logits)),
            (error, _) => Err(error.unwrap_or_else(|| Refusal::Failed { what: "the pass ended early".to_owned() })),
        }
    }

    /// Reads and preprocesses samples; those that cannot be read are counted and left out.
    fn load(&self, dataset: &Dataset, indices: &[usize]) -> Result<(Array2<f32>, Vec<usize>), Refusal> {
        let numbers: usize = self.segments.input_shape().iter().product();
        let mut flat = Vec::with_capacity(indices.len() * numbers);
        let mut kept = Vec::with_capacity(indices.len());
        for &i in indices {
            match dataset.load(i).and_then(|image| self.preprocess.append(&image, self.segments.input_shape(), &mut flat)) {
                Ok(()) => kept.push(i),
                Err(error) => {
                    let noted = self.bad.lock().map(|mut bad| bad.note(&error));
                    if let Ok(Err(too_many)) = noted {
                        return Err(Refusal::BadData { what: chain(&too_many) });
                    }
                }
            }
        }
        let x = Array2::from_shape_vec((kept.len(), numbers), flat)
            .map_err(|error| Refusal::BadData { what: error.to_string() })?;
        Ok((x, kept))
    }
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
        spec.exits[e].pool.apply(shape, map, out).map_err(|error| Refusal::ModelMismatch { what: chain(&error) })?;
    }
    Ok(())
}

fn open_parts(spec: &RunSpec, place: &Workplace<'_>, bad: &mut BadFiles) -> Result<[Dataset; 3], Refusal> {
    let mut open = |part| {
        Dataset::open(place.data, &spec.data, part, spec.seed, &spec.classes, bad)
            .map(|dataset| match &place.share {
                Some(share) => dataset.share(share),
                None => dataset,
            })
            .map_err(|error| Refusal::BadData { what: chain(&error) })
    };
    Ok([open(&spec.data.statistics)?, open(&spec.data.calibration)?, open(&spec.data.evaluation)?])
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
