//! ONNX Runtime, loaded at run time from a shared library that is installed on the device.
//!
//! Nothing of it is linked: without the library the programs work all the same, with [`Tract`](crate::Tract).

mod batched;
mod chain;
mod find;
mod library;

use ort::environment::Environment;

use crate::cut::Segment;
use crate::engine::{Batching, Chain, Engine, EngineError};
use crate::tract::Tract;

pub use find::Candidate;
pub(crate) use find::candidates;
pub use library::OnnxRuntimeError;

const NAME: &str = "ONNX Runtime";

/// The engine `onnxruntime`.
///
/// Every lane has sessions of its own. [`Batching::Exact`] runs each on one thread, in batches of one size; whether a
/// row then depends on its neighbours is tried out when a segment is loaded, and where it does, rows run one by one.
#[derive(Debug)]
pub struct OnnxRuntime {
    environment: Environment,
    version: String,
    path: std::path::PathBuf,
    threads: usize,
    pooled: bool,
    falls_back: bool,
}

impl OnnxRuntime {
    /// Loads the shared library at `path`, or the one in the folder `path`. [`Batching::Fast`] runs a sample on
    /// `threads` threads.
    ///
    /// A process can load one library. Loading the same again gives the same engine.
    ///
    /// # Errors
    /// See [`OnnxRuntimeError`].
    pub fn load(path: &std::path::Path, threads: usize) -> Result<Self, OnnxRuntimeError> {
        let loaded = library::load(path, threads.max(1))?;
        Ok(Self {
            pooled: loaded.pool_threads == threads && threads > 1,
            environment: loaded.environment,
            version: loaded.version,
            path: loaded.path,
            threads: threads.max(1),
            falls_back: false,
        })
    }

    /// The library's file.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Lets a network that this engine cannot run go to [`Tract`].
    #[must_use]
    pub(crate) fn or_tract(mut self) -> Self {
        self.falls_back = true;
        self
    }
}

impl Engine for OnnxRuntime {
    fn name(&self) -> &str {
        NAME
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn chain(
        &self,
        segments: &mut dyn Iterator<Item = Segment>,
        batching: Batching,
    ) -> Result<Box<dyn Chain>, EngineError> {
        let threads = match batching {
            Batching::Exact { .. } => chain::Threads::Own(1),
            Batching::Fast | Batching::Single if self.pooled => chain::Threads::Pool,
            Batching::Fast | Batching::Single => chain::Threads::Own(self.threads),
        };
        chain::load(&self.environment, threads, segments, batching)
    }

    fn fallback(&self) -> Option<&dyn Engine> {
        self.falls_back.then_some(&Tract)
    }
}
