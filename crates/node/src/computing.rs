//! With what this device computes.

use std::path::PathBuf;
use std::sync::Arc;

use exeunt_network::{ChooseError, EngineChoice, EngineSettings, EngineWish};

/// The engine, and how much of the machine it gets.
#[derive(Clone, Debug)]
pub struct Computing {
    /// What runs the network.
    pub engine: Arc<EngineChoice>,
    /// Threads to answer queries with; none: what was said when the node joined, else all cores.
    pub threads: Option<usize>,
    /// Samples per batch when answering queries; none: as many as suit the network.
    pub batch: Option<usize>,
}

impl Computing {
    /// tract on what was said when the node joined: what every other choice has to agree with.
    pub fn plain() -> Self {
        Self { engine: Arc::new(EngineChoice::tract()), threads: None, batch: None }
    }
}

/// Options of every command that runs a network.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct EngineOptions {
    /// What runs the network: auto (ONNX Runtime where its library is found, else tract), tract, onnxruntime
    #[arg(long, env = "EXEUNT_ENGINE", default_value_t, value_name = "NAME")]
    pub engine: EngineWish,
    /// ONNX Runtime's shared library, or the folder it is in; default: the usual places
    #[arg(long, env = "EXEUNT_ONNXRUNTIME", value_name = "PATH")]
    pub onnxruntime: Option<PathBuf>,
}

impl EngineOptions {
    /// Chooses an engine that runs one sample on `threads` threads (none: one), and says which in the log.
    ///
    /// # Errors
    /// When it was asked for by name and cannot be had.
    pub fn choose(&self, threads: Option<usize>) -> Result<EngineChoice, ChooseError> {
        let settings = EngineSettings { wish: self.engine, library: self.onnxruntime.clone(), threads };
        let choice = settings.choose()?;
        if self.engine == EngineWish::Auto && self.onnxruntime.is_some() && choice.library().is_none() {
            tracing::warn!("{choice} runs the network: {}", choice.reason());
        } else {
            tracing::info!("{choice} runs the network: {}", choice.reason());
        }
        Ok(choice)
    }
}
