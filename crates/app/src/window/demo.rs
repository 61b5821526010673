//! The demo behind the window: a coordinator here, eight nodes beside it, everything in a folder that goes away.

use anyhow::Context as _;
use exeunt_coordinator::Home;
use exeunt_simulate::{LocalFederation, NodePlace};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::demo::NodeProcess;

/// Nodes of the demo.
const NODES: u32 = 8;

/// How nodes are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodesAs {
    /// As processes of this program, as devices would.
    Processes,
    /// In this process: tests are not the program that could be started again.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests run nodes so"))]
    Tasks,
}

/// A demo that runs. Dropping it ends the nodes.
#[derive(Debug)]
pub(crate) struct Demo {
    federation: LocalFederation,
    folder: TempDir,
    _processes: Vec<NodeProcess>,
    _tasks: JoinSet<()>,
}

impl Demo {
    /// Starts everything; the run is under way when this returns.
    pub(crate) async fn start(nodes: NodesAs) -> anyhow::Result<Self> {
        let plan = tokio::task::spawn_blocking(|| crate::demo::plan(NODES)).await??;
        let folder = tempfile::tempdir().context("cannot make a folder for the demo")?;
        let federation = LocalFederation::start(folder.path()).await?;
        let places = federation.join(&plan, 1).await?;
        let (mut processes, mut tasks) = (Vec::new(), JoinSet::new());
        match nodes {
            NodesAs::Processes => crate::demo::start_processes(&places, &mut processes)?,
            NodesAs::Tasks => {
                for NodePlace { home, .. } in places {
                    tasks.spawn(async move {
                        if let Err(error) =
                            exeunt_node::run(exeunt_node::Home::new(home), std::future::pending()).await
                        {
                            tracing::error!("{error}");
                        }
                    });
                }
            }
        }
        federation.start_run(&plan).await?;
        Ok(Self { federation, folder, _processes: processes, _tasks: tasks })
    }

    /// The coordinator's folder.
    pub(crate) fn home(&self) -> Home {
        Home::new(self.folder.path().join("coordinator"))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        self.federation.address().to_string()
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        if let Err(error) = self.federation.stop().await {
            tracing::warn!("{error}");
        }
    }
}
