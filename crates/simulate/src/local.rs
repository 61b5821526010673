//! A real federation on loopback: a coordinator that listens, and nodes that join with tokens and talk QUIC.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use exeunt_coordinator::{
    ClientError, Home as CoordinatorHome, OperatorClient, ServeOptions, Service, ServiceError,
};
use exeunt_data::Share;
use exeunt_link::{JoinError, Token, TokenError};
use exeunt_node::{Home as NodeHome, HomeError, LiveSettings, NodeSettings};
use exeunt_protocol::RunId;
use exeunt_protocol::coordinator::{RunStatus, Standing};
use exeunt_protocol::operator::{OperatorRequest, OperatorResponse, RunReport};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::plan::Plan;

/// How often the run's progress is asked for.
const LOOK: Duration = Duration::from_millis(200);
/// How long a token for a node here is valid.
const TOKEN_S: u64 = 600;

/// Why a federation on loopback cannot be set up or does not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The coordinator cannot serve.
    #[error(transparent)]
    Serve(#[from] ServiceError),
    /// The coordinator does not answer, or says no.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A node cannot join.
    #[error("node {node} cannot join: {source}")]
    Join {
        /// Its number, from 0.
        node: u32,
        /// Why.
        source: Box<JoinError>,
    },
    /// The coordinator's token cannot be read.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A node's folder cannot be written.
    #[error(transparent)]
    Node(#[from] HomeError),
    /// The run failed.
    #[error("the run failed: {why}")]
    Run {
        /// Why.
        why: String,
    },
    /// All nodes have spoken, too few of them with a table.
    #[error(
        "the run does not go on: {query} has {answers} of {needed} answers and nobody is left to wait for{}",
        declined.iter().map(|d| format!("; {d}")).collect::<String>()
    )]
    Stuck {
        /// Name of the query.
        query: String,
        /// Tables it has.
        answers: usize,
        /// Tables it needs.
        needed: usize,
        /// Who declined, and why.
        declined: Vec<String>,
    },
    /// An answer that does not belong to its question.
    #[error("the coordinator gave an unexpected answer")]
    Unexpected,
}

/// A node that has joined and is to be started.
#[derive(Debug, Clone)]
pub struct NodePlace {
    /// Its number, from 0.
    pub number: u32,
    /// What it is called.
    pub name: String,
    /// Its folder.
    pub home: PathBuf,
}

/// A coordinator in this process, and an operator's connection to it.
#[derive(Debug)]
pub struct LocalFederation {
    operator: OperatorClient,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<(), ServiceError>>,
    root: PathBuf,
}

impl LocalFederation {
    /// Starts a coordinator on loopback, in a folder below `root`.
    ///
    /// # Errors
    /// See [`LocalError`].
    pub async fn start(root: &Path) -> Result<Self, LocalError> {
        let home = CoordinatorHome::new(root.join("coordinator"));
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let service =
            Service::start(&home, &ServeOptions { listen, advertise: Vec::new(), approve: false }).await?;
        let address = service.local_addr();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(service.run(async {
            // Dropped without a word is a wish to stop, too.
            let _ = stopped.await;
        }));
        let operator = OperatorClient::connect(&home).await?;
        Ok(Self { operator, address, stop: Some(stop), served, root: root.to_owned() })
    }

    /// Where the coordinator listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The operator's connection.
    pub fn operator(&self) -> &OperatorClient {
        &self.operator
    }

    /// Makes tokens and lets the plan's nodes join, each with its share of the samples and `threads` threads.
    ///
    /// # Errors
    /// See [`LocalError`].
    pub async fn join(&self, plan: &Plan, threads: usize) -> Result<Vec<NodePlace>, LocalError> {
        let data = std::fs::canonicalize(&plan.data).unwrap_or_else(|_| plan.data.clone());
        let mut places = Vec::new();
        for number in 0..plan.nodes {
            let name = format!("node-{number}");
            let request = OperatorRequest::Token { valid_s: TOKEN_S, label: name.clone(), approve: None };
            let OperatorResponse::Token { token, .. } = self.operator.ask(&request).await? else {
                return Err(LocalError::Unexpected);
            };
            let token: Token = token.parse()?;
            let home = NodeHome::new(self.root.join(&name));
            exeunt_link::join(&token, &name, home.identity())
                .await
                .map_err(|source| LocalError::Join { node: number, source: Box::new(source) })?;
            let share = Share::new(number, plan.nodes, plan.partition, plan.seed);
            home.save_settings(&NodeSettings {
                name: name.clone(),
                coordinator: token.addresses().iter().map(ToString::to_string).collect(),
                data: data.clone(),
                share: share.map(|share| share.to_string()),
                threads: Some(threads),
                live: LiveSettings::default(),
            })?;
            places.push(NodePlace { number, name, home: home.root().to_owned() });
        }
        Ok(places)
    }

    /// Starts the plan's run.
    ///
    /// # Errors
    /// See [`LocalError`].
    pub async fn start_run(&self, plan: &Plan) -> Result<RunId, LocalError> {
        let network = self.operator.put_blob(plan.network.bytes()).await?;
        let request = OperatorRequest::StartRun { file: Box::new(plan.file.clone()), network };
        match self.operator.ask(&request).await? {
            OperatorResponse::Started { run } => Ok(run),
            _ => Err(LocalError::Unexpected),
        }
    }

    /// The run as it stands.
    ///
    /// # Errors
    /// See [`LocalError`].
    pub async fn show(&self, run: &RunId) -> Result<RunReport, LocalError> {
        match self.operator.ask(&OperatorRequest::Show { run: Some(run.clone()) }).await? {
            OperatorResponse::Show(report) => Ok(*report),
            _ => Err(LocalError::Unexpected),
        }
    }

    /// Waits until the run is ready. `watch` hears how it stands.
    ///
    /// # Errors
    /// [`LocalError::Run`] when the run failed or was stopped, [`LocalError::Stuck`] when everybody has answered or
    /// declined and that is not enough to go on.
    pub async fn wait(
        &self,
        run: &RunId,
        mut watch: impl FnMut(&RunReport),
    ) -> Result<RunReport, LocalError> {
        loop {
            let report = self.show(run).await?;
            watch(&report);
            match &report.status.standing {
                Standing::Ready => return Ok(report),
                Standing::Failed { why } => return Err(LocalError::Run { why: why.clone() }),
                Standing::Stopped => return Err(LocalError::Run { why: "it was stopped".to_owned() }),
                Standing::Asking { .. } => match stuck(&report.status) {
                    Some(error) => return Err(error),
                    None => tokio::time::sleep(LOOK).await,
                },
                Standing::Sealing { .. } => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Stops the coordinator.
    ///
    /// # Errors
    /// [`LocalError::Serve`] when it had failed.
    pub async fn stop(mut self) -> Result<(), LocalError> {
        self.operator.close().await;
        if let Some(stop) = self.stop.take() {
            // It may have ended by itself; then the next line says why.
            let _ = stop.send(());
        }
        match self.served.await {
            Ok(result) => Ok(result?),
            Err(_panicked) => {
                Err(LocalError::Run { why: "the coordinator's task ended abnormally".to_owned() })
            }
        }
    }
}

/// Why an open query never closes: the federation has all the nodes it will ever have, and each has spoken.
fn stuck(status: &RunStatus) -> Option<LocalError> {
    let query = status.queries.last()?;
    if !status.waiting_for.is_empty() || status.answers >= status.quorum {
        return None;
    }
    let declined = query.declined.iter().map(|answer| format!("{} declined: {}", answer.node, answer.reason));
    Some(LocalError::Stuck {
        query: query.name.clone(),
        answers: status.answers,
        needed: status.quorum,
        declined: declined.collect(),
    })
}
