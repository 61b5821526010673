//! Loading the shared library, once per process.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::LoadDynamicError;
use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::logging::LogLevel;
use tract_onnx::prelude::TractError;

use super::find;
use crate::facts::guarded;

/// Why ONNX Runtime cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxRuntimeError {
    /// There is no such file, or no library in that folder.
    #[error("{path}: no ONNX Runtime library there, expected libonnxruntime.so (.dylib, onnxruntime.dll)")]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The file is no shared library for this machine.
    #[error("{path} cannot be loaded: {reason}")]
    Unloadable {
        /// The library.
        path: PathBuf,
        /// What the system's loader said.
        reason: String,
    },
    /// It is some other library.
    #[error("{path} is not ONNX Runtime: it does not export OrtGetApiBase")]
    Foreign {
        /// The library.
        path: PathBuf,
    },
    /// An older library lacks functions that are needed.
    #[error("{path} is ONNX Runtime {found}, expected 1.{} or later", ort::MINOR_VERSION)]
    TooOld {
        /// The library.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// It does not start.
    #[error("{path} does not start: {reason}")]
    Start {
        /// The library.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// A process can load one, and has loaded another.
    #[error("{path} cannot be loaded: this process has loaded {loaded} already")]
    Another {
        /// The library asked for.
        path: PathBuf,
        /// The library in use.
        loaded: PathBuf,
    },
}

/// The library that this process uses.
#[derive(Clone)]
pub(super) struct Loaded {
    pub(super) environment: Environment,
    pub(super) path: PathBuf,
    pub(super) version: String,
    /// Threads of the pool that sessions can share; 1 when there is none.
    pub(super) pool_threads: usize,
}

static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

pub(super) fn load(path: &Path, threads: usize) -> Result<Loaded, OnnxRuntimeError> {
    let path = find::library_at(path).ok_or_else(|| OnnxRuntimeError::Missing { path: path.to_owned() })?;
    let mut slot = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = slot.as_ref() {
        if loaded.path == path {
            return Ok(loaded.clone());
        }
        return Err(OnnxRuntimeError::Another { path, loaded: loaded.path.clone() });
    }
    let loaded = start(path, threads)?;
    Ok(slot.insert(loaded).clone())
}

fn start(path: PathBuf, threads: usize) -> Result<Loaded, OnnxRuntimeError> {
    let start = |reason: String| OnnxRuntimeError::Start { path: path.clone(), reason };
    // The binding panics where a library contradicts itself.
    let builder =
        guarded(|| Ok(ort::init_from(&path))).map_err(start)?.map_err(|error| refusal(&path, error))?;
    let environment = guarded(|| {
        let builder = builder.with_name("exeunt").with_telemetry(false).with_logger(Arc::new(
            |level: LogLevel, _category: &str, _id: &str, _place: &str, message: &str| {
                tracing::debug!("ONNX Runtime, {level:?}: {message}");
            },
        ));
        let builder = if threads > 1 {
            // One pool for all segments: with a pool each, the threads of one would still be spinning while the next
            // segment wants their cores.
            let options = GlobalThreadPoolOptions::default().with_intra_threads(threads);
            builder.with_global_thread_pool(options.map_err(message)?)
        } else {
            builder
        };
        builder.build().map_err(message)
    })
    .map_err(start)?;
    let version = version(&path);
    Ok(Loaded { environment, path, version, pool_threads: threads })
}

/// The binding's error, to be passed through [`guarded`].
pub(super) fn message<T>(error: ort::Error<T>) -> TractError {
    TractError::msg(error.to_string())
}

fn refusal(path: &Path, error: LoadDynamicError) -> OnnxRuntimeError {
    let path = path.to_owned();
    match error {
        LoadDynamicError::Dlopen { error, .. } => {
            // What is wrong stands in the source.
            let source = std::error::Error::source(&error).map(ToString::to_string);
            OnnxRuntimeError::Unloadable { path, reason: source.unwrap_or_else(|| error.to_string()) }
        }
        LoadDynamicError::MissingApi { .. } => OnnxRuntimeError::Foreign { path },
        LoadDynamicError::BadVersion { version_str, .. } => {
            OnnxRuntimeError::TooOld { path, found: version_str }
        }
        error @ LoadDynamicError::InvalidVersionString => {
            OnnxRuntimeError::Start { path, reason: error.to_string() }
        }
    }
}

/// The version in the file's name, as the project publishes it; else the commit it was built from.
fn version(path: &Path) -> String {
    let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
    find::version_in(name).map(str::to_owned).unwrap_or_else(|| {
        let info = guarded(|| Ok(ort::info())).unwrap_or_default();
        let commit = info.split("git-commit-id=").nth(1).and_then(|rest| rest.split(',').next());
        commit.map_or_else(|| "of unknown version".to_owned(), |commit| format!("commit {commit}"))
    })
}
