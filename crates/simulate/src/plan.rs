//! What to simulate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use exeunt_coordinator::CoreError;
use exeunt_data::Partition;
use exeunt_exits::Heads;
use exeunt_network::{EngineChoice, LoadError, Network};
use exeunt_protocol::message::Refusal;
use exeunt_protocol::operator::RunReport;
use exeunt_protocol::run_file::{MAX_DEADLINE_S, RunFileError};
use exeunt_protocol::spec::{FederationSpec, RunFile};

/// A run file with everything it needs on this machine.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The run file.
    pub file: RunFile,
    /// The network.
    pub network: Network,
    /// Folder of the samples.
    pub data: PathBuf,
    /// Number of nodes.
    pub nodes: u32,
    /// How samples are dealt out to them.
    pub partition: Partition,
    /// Seeds the partition.
    pub seed: u64,
    /// Threads to compute with.
    pub threads: usize,
    /// What runs the network; simulated processes choose for themselves.
    pub engine: Arc<EngineChoice>,
}

/// Why a run file cannot be simulated here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The run file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The run file is wrong.
    #[error(transparent)]
    RunFile(#[from] RunFileError),
    /// The network cannot be loaded.
    #[error(transparent)]
    Network(#[from] LoadError),
    /// Nobody said where the samples are.
    #[error("{path}: data.root is missing: name the folder of the samples there or with --data")]
    NoData {
        /// The run file.
        path: PathBuf,
    },
}

impl Plan {
    /// Reads a run file. Its paths are relative to it; `network` and `data` come before them.
    ///
    /// # Errors
    /// See [`PlanError`].
    pub fn read(path: &Path, network: Option<&Path>, data: Option<&Path>) -> Result<Self, PlanError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| PlanError::File { path: path.to_owned(), source })?;
        let file = RunFile::parse(&text, &path.display().to_string())?;
        let beside = path.parent().unwrap_or(Path::new("."));
        let network = Network::load(&network.map_or_else(|| beside.join(&file.network), Path::to_owned))?;
        let data = match (data, &file.data.root) {
            (Some(data), _) => data.to_owned(),
            (None, Some(root)) => beside.join(root),
            (None, None) => return Err(PlanError::NoData { path: path.to_owned() }),
        };
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (partition, engine) = (Partition::Uniform, Arc::new(EngineChoice::tract()));
        Ok(Self { file, network, data, nodes: 1, partition, seed: 0, threads, engine })
    }

    /// Nobody but the plan's nodes will ever come, and all of them have joined before the run starts. So a query
    /// closes when each has answered or declined, however long that takes: a quorum of all of them would never be met
    /// where one declines, and a deadline would leave out whoever computes slowly on a machine that all share.
    pub fn close_membership(&mut self) {
        self.file.federation = FederationSpec { quorum: 1, deadline_s: MAX_DEADLINE_S };
    }
}

/// What came of a simulation.
#[derive(Debug, Clone)]
pub struct Simulated {
    /// Everything there is to see of the run.
    pub report: RunReport,
    /// The snapshot that its policies decide with.
    pub heads: Option<Arc<Heads>>,
}

/// Why a simulation ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimulateError {
    /// The coordinator cannot go on.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// A node cannot take part.
    #[error("the nodes cannot take part: {0}")]
    Node(Refusal),
    /// The run failed.
    #[error("the run failed: {why}")]
    Run {
        /// Why.
        why: String,
    },
    /// Nothing is left to happen, and the run is not done.
    #[error("the run does not go on; it waits for {waiting}")]
    Stuck {
        /// For whom, and why.
        waiting: String,
    },
    /// Something that was written cannot be read.
    #[error("{0}")]
    Content(String),
}
