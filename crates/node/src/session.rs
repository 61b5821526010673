//! One run on this node: its network cut and loaded, its samples found, ready to be passed through.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use exeunt_data::{BadFiles, Dataset, Preprocess, Reader, Share};
use exeunt_exits::{Part, PoolScratch};
use exeunt_network::{Engine, Lane, Network, Segments};
use exeunt_protocol::message::Refusal;
use exeunt_protocol::spec::{ExitPlan, RunSpec};
use exeunt_stats::Digest;
use ndarray::{Array2, ArrayView2};

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
        Self::load_in_batches(spec, network, engine, None)
    }

    /// [`load`](Self::load), passing samples in batches of `batch`; none: as many as suit the network.
    ///
    /// # Errors
    /// As there.
    pub fn load_in_batches(
        spec: RunSpec,
        network: &Network,
        engine: &dyn Engine,
        batch: Option<usize>,
    ) -> Result<Self, Refusal> {
        let mismatch = |what: String| Refusal::ModelMismatch { what };
        if network.hash() != spec.network {
            return Err(mismatch(format!("found network {}, expected {}", network.hash(), spec.network)));
        }
        let taps: Vec<&str> = spec.exits.iter().map(|exit| exit.tap.as_str()).collect();
        let segments = Segments::prepare_exact(engine, network, &taps, batch);
        let segments = segments.map_err(|error| mismatch(chain(&error)))?;
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
        let mut features = Features::default();
        let mut lane = self.segments.lane().map_err(|error| failed(&error))?;
        features.take(&self.spec.exits, &self.segments, &mut lane, x)?;
        Ok((features.pooled, features.logits))
    }
}

/// What a batch leaves behind: buffers that a thread uses again for the next.
#[derive(Debug, Default)]
pub struct Features {
    /// Per exit, `samples × dim`.
    pub pooled: Vec<Array2<f32>>,
    /// The network's outputs, `samples × classes`.
    pub logits: Array2<f32>,
    scratch: PoolScratch,
}

impl Features {
    /// Runs the network, cut at `exits`, over `x`. Each tap is pooled where it lies, while it is hot.
    ///
    /// # Errors
    /// [`Refusal::Failed`] when the engine does, [`Refusal::ModelMismatch`] when a pooling does not fit its tap.
    pub fn take(
        &mut self,
        exits: &[ExitPlan],
        segments: &Segments,
        lane: &mut Lane<'_>,
        x: ArrayView2<'_, f32>,
    ) -> Result<(), Refusal> {
        let rows = x.nrows();
        self.pooled.resize_with(exits.len(), || Array2::zeros((0, 0)));
        lane.begin(x).map_err(|error| failed(&error))?;
        for ((e, exit), pooled) in exits.iter().enumerate().zip(&mut self.pooled) {
            lane.run().map_err(|error| failed(&error))?;
            fit(pooled, rows, exit.dim);
            for (row, mut z) in pooled.outer_iter_mut().enumerate() {
                let z = z.as_slice_mut().unwrap_or_default();
                let shape = segments.tap_shape(e);
                let pooled = exit.pool.apply_with(&mut self.scratch, shape, lane.row(row), z);
                pooled.map_err(|error| Refusal::ModelMismatch { what: chain(&error) })?;
            }
        }
        lane.run().map_err(|error| failed(&error))?;
        fit(&mut self.logits, rows, if rows > 0 { lane.row(0).len() } else { 0 });
        for (row, mut logits) in self.logits.outer_iter_mut().enumerate() {
            logits.as_slice_mut().unwrap_or_default().copy_from_slice(lane.row(row));
        }
        Ok(())
    }
}

/// Makes `array` that large, if it is not.
fn fit(array: &mut Array2<f32>, rows: usize, columns: usize) {
    if array.dim() != (rows, columns) {
        *array = Array2::zeros((rows, columns));
    }
}

fn failed(error: &dyn std::error::Error) -> Refusal {
    Refusal::Failed { what: chain(error) }
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
        let batch = model.segments.batch();
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

    /// Names what answers follow from: the samples of all parts by content, and the engine with the size of its batches.
    /// The last bits of an activation are the engine's: the same samples in another one are another edition of the data,
    /// and not a second answer that contradicts the first.
    pub fn edition(&self) -> Digest {
        let mut named: Vec<u8> = self.parts.iter().flat_map(|part| *part.digest().as_bytes()).collect();
        named.extend(self.model.segments.engine().bytes());
        named.extend(self.batch.to_le_bytes());
        Digest::of(&named)
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
            let mut hand = match self.hand() {
                Ok(hand) => hand,
                Err(refusal) => {
                    fail(&failed, refusal);
                    next.store(batches.len(), Ordering::Relaxed);
                    return accumulator;
                }
            };
            while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                if watch.is_cancelled() {
                    fail(&failed, Refusal::Failed { what: "not wanted any more".to_owned() });
                    break;
                }
                let step = &mut |b: &Batch<'_>| step(&mut accumulator, b);
                if let Err(refusal) = self.forward(&mut hand, part, batch, step) {
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

    /// What a thread of a pass works with.
    fn hand(&self) -> Result<Hand<'_>, Refusal> {
        let lane = self.model.segments.lane().map_err(|error| self::failed(&error))?;
        Ok(Hand {
            lane,
            features: Features::default(),
            flat: Vec::new(),
            kept: Vec::new(),
            labels: Vec::new(),
        })
    }

    fn forward(
        &self,
        hand: &mut Hand<'_>,
        part: Part,
        indices: &[usize],
        step: &mut dyn FnMut(&Batch<'_>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let dataset = self.part(part);
        self.load(dataset, indices, hand)?;
        let Hand { lane, features, flat, kept, labels } = hand;
        if kept.is_empty() {
            return Ok(());
        }
        labels.clear();
        labels.extend(kept.iter().map(|i| dataset.labels()[*i]));
        let x = ArrayView2::from_shape((kept.len(), flat.len() / kept.len()), flat.as_slice());
        let x = x.map_err(|error| Refusal::BadData { what: error.to_string() })?;
        features.take(&self.model.spec.exits, &self.model.segments, lane, x)?;
        let views: Vec<ArrayView2<'_, f32>> = features.pooled.iter().map(Array2::view).collect();
        step(&Batch { labels, pooled: &views, logits: features.logits.view() })
    }

    /// Reads and preprocesses samples; those that cannot be read are counted and left out.
    fn load(&self, dataset: &Dataset, indices: &[usize], hand: &mut Hand<'_>) -> Result<(), Refusal> {
        let shape = self.model.segments.input_shape();
        hand.flat.clear();
        hand.kept.clear();
        for &i in indices {
            let name = dataset.name(i);
            let image = dataset.load(i);
            match image.and_then(|image| self.model.preprocess.append(&image, shape, &name, &mut hand.flat)) {
                Ok(()) => hand.kept.push(i),
                Err(error) => {
                    let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
                    bad.note(&name, &error)
                        .map_err(|too_many| Refusal::BadData { what: too_many.to_string() })?;
                }
            }
        }
        Ok(())
    }
}

/// A thread's buffers for one batch after the other.
struct Hand<'a> {
    lane: Lane<'a>,
    features: Features,
    /// The batch, preprocessed.
    flat: Vec<f32>,
    /// The samples in it.
    kept: Vec<usize>,
    labels: Vec<u32>,
}

/// Keeps the first reason.
fn fail(failed: &Mutex<Option<Refusal>>, refusal: Refusal) {
    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(refusal);
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
