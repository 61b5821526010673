//! Ten thousand nodes in one process: real keys, certificates, connections and messages, and nothing that computes.

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use clap::Args;
use exeunt_coordinator::Home;
use exeunt_link::{Address, Authority, Client, Connection, Identity, Receiver, Role, Sender};
use exeunt_protocol::message::{
    Ack, BlobRef, Contribution, Desired, FromNode, Hello, OLDEST_VERSION, Request, ToNode, VERSION,
};
use exeunt_protocol::{DatasetVersion, NodeId, QueryId, RunId};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::federation::{self, Runs};
use super::tables::Tables;

/// Sockets that all nodes share: a packet's socket says nothing about its node.
const SOCKETS: usize = 8;
/// Handshakes under way at once. They are not measured.
const HANDSHAKES: usize = 64;
/// Longest message on the control stream.
const MAX_WORD: usize = 1 << 20;
/// How long a delivery rests that failed, as at a real node.
const RETRY: Duration = Duration::from_secs(1);
/// Attempts to connect, of some seconds each.
const MAX_TRIES: u32 = 20;
/// Deliveries and connections that may be lost. What is measured then is not what was meant.
const MAX_AGAIN: u64 = 100_000;

/// The process that all nodes live in; `exeunt bench sessions` starts it.
#[derive(Debug, Args)]
pub(crate) struct NodesArgs {
    /// Folder of the coordinator
    #[arg(long)]
    folder: std::path::PathBuf,
    #[arg(long)]
    nodes: usize,
    #[arg(long)]
    bytes: u64,
    #[arg(long)]
    rounds: usize,
    #[arg(long)]
    at_once: Option<usize>,
}

/// What the process is told, a line each.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Let every node connect to the coordinator of the folder.
    Coordinator,
    /// Let every node connect to a server that discards what it reads.
    Discard(SocketAddr),
    /// Deliver.
    Go,
}

/// What it answers, a line each.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// The coordinator's folder is ready.
    Prepared(Runs),
    /// Every node is connected, and has heard what is wanted of it.
    Connected { seconds: f64 },
    /// Everything is delivered.
    Done(Delivered),
}

/// What the nodes saw.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Delivered {
    /// From the word to go until the last acknowledgement.
    pub(super) seconds: f64,
    /// Until every node had heard that the last sum is made, for servers that make sums.
    pub(super) closed_s: f64,
    /// Deliveries that were acknowledged.
    pub(super) acknowledged: u64,
    /// Deliveries and connections that were lost and begun again.
    pub(super) again: u64,
    /// Milliseconds from the first byte of a delivery to its acknowledgement.
    pub(super) p50_ms: f64,
    /// The same, 99 of 100.
    pub(super) p99_ms: f64,
    /// The same, all of them.
    pub(super) longest_ms: f64,
}

struct Fleet {
    identities: Vec<Identity>,
    tables: Tables,
    blobs: Vec<BlobRef>,
    runs: Runs,
    clients: Vec<Client>,
    at_once: Semaphore,
    again: AtomicU64,
}

/// A node's connection, and what it last heard.
struct Session {
    addresses: Arc<[Address]>,
    connection: Connection,
    desired: watch::Receiver<Option<Desired>>,
    // Dropped, it would tell the other end that the node is gone.
    _control: Sender,
}

/// A connection to whoever throws things away.
struct Discarding {
    addresses: Arc<[Address]>,
    connection: Connection,
}

pub(crate) fn nodes(arguments: &NodesArgs) -> anyhow::Result<()> {
    let home = Home::new(&arguments.folder);
    let now = SystemTime::now();
    let authority = home.keys(now)?.authority;
    let identities = (0..arguments.nodes)
        .map(|node| Ok(Authority::issue(&authority, Role::Node, &federation::name(node), now)?))
        .collect::<anyhow::Result<Vec<Identity>>>()?;
    let ids: Vec<NodeId> = identities.iter().map(|i| NodeId::from_bytes(*i.id().as_bytes())).collect();
    let tables = Tables::new(arguments.nodes, arguments.bytes)?;
    let runs = federation::prepare(&home, &ids, &tables, arguments.rounds)?;
    say(&Word::Prepared(runs.clone()))?;
    let fleet = Arc::new(Fleet {
        blobs: (0..arguments.nodes).map(|node| BlobRef::of(&tables.of(node))).collect(),
        identities,
        tables,
        runs,
        clients: (0..SOCKETS.min(arguments.nodes)).map(|_| Client::default()).collect(),
        at_once: Semaphore::new(arguments.at_once.unwrap_or(Semaphore::MAX_PERMITS)),
        again: AtomicU64::new(0),
    });
    crate::runtime()?.block_on(async {
        // Ends with its parent.
        while let Some(order) = hear().await? {
            match order {
                Order::Coordinator => {
                    let addresses = home.operator()?.1.local;
                    let sessions = connect_all(&fleet, addresses, Fleet::session).await?;
                    deliver_all(&fleet, sessions, Fleet::contribute).await?;
                }
                Order::Discard(address) => {
                    let sessions = connect_all(&fleet, vec![address.into()], Fleet::open).await?;
                    deliver_all(&fleet, sessions, Fleet::throw).await?;
                }
                Order::Go => anyhow::bail!("told to deliver before there is a connection"),
            }
        }
        Ok(())
    })
}

fn say(word: &Word) -> anyhow::Result<()> {
    crate::out!("{}", serde_json::to_string(word)?);
    Ok(())
}

async fn hear() -> anyhow::Result<Option<Order>> {
    let line = tokio::task::spawn_blocking(|| std::io::stdin().lock().lines().next().transpose()).await??;
    Ok(line.map(|line| serde_json::from_str(&line)).transpose()?)
}

/// Connects every node, a few at a time.
async fn connect_all<S, F>(
    fleet: &Arc<Fleet>,
    addresses: Vec<Address>,
    connect: impl Fn(Arc<Fleet>, usize, Arc<[Address]>) -> F + Copy + Send + Sync + 'static,
) -> anyhow::Result<Vec<S>>
where
    S: Send + 'static,
    F: Future<Output = anyhow::Result<S>> + Send + 'static,
{
    let begun = Instant::now();
    let addresses: Arc<[Address]> = addresses.into();
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    let mut tasks = JoinSet::new();
    for node in 0..fleet.identities.len() {
        let (fleet, addresses) = (Arc::clone(fleet), Arc::clone(&addresses));
        let place = Arc::clone(&places).acquire_owned().await?;
        tasks.spawn(async move {
            let session = connect(fleet, node, addresses).await;
            drop(place);
            session.map(|session| (node, session))
        });
    }
    let mut sessions = Vec::new();
    while let Some(session) = tasks.join_next().await {
        sessions.push(session??);
    }
    sessions.sort_by_key(|(node, _)| *node);
    say(&Word::Connected { seconds: begun.elapsed().as_secs_f64() })?;
    Ok(sessions.into_iter().map(|(_, session)| session).collect())
}

/// One delivery: when it was acknowledged after the word to go, and how long it took.
struct Delivery {
    at: Duration,
    took: Duration,
}

/// Lets every node go through its rounds once the word to go comes.
async fn deliver_all<S, F>(
    fleet: &Arc<Fleet>,
    sessions: Vec<S>,
    rounds: impl Fn(Arc<Fleet>, usize, S, Instant) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<Vec<Delivery>>> + Send + 'static,
{
    anyhow::ensure!(matches!(hear().await?, Some(Order::Go)), "not told to deliver");
    fleet.again.store(0, Ordering::Relaxed);
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for (node, session) in sessions.into_iter().enumerate() {
        tasks.spawn(rounds(Arc::clone(fleet), node, session, start));
    }
    let mut all = Vec::new();
    while let Some(deliveries) = tasks.join_next().await {
        all.append(&mut deliveries??);
    }
    let closed_s = start.elapsed().as_secs_f64();
    let ms: Vec<f64> = all.iter().map(|delivery| delivery.took.as_secs_f64() * 1e3).collect();
    let at = |q| super::super::measure::quantile(&ms, q);
    say(&Word::Done(Delivered {
        seconds: all.iter().map(|delivery| delivery.at).max().unwrap_or_default().as_secs_f64(),
        closed_s,
        acknowledged: all.len() as u64,
        again: fleet.again.load(Ordering::Relaxed),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        longest_ms: at(1.0),
    }))
}

impl Fleet {
    async fn connect(&self, node: usize, addresses: &[Address]) -> anyhow::Result<Connection> {
        let client = &self.clients[node % self.clients.len()];
        let mut tries = 0;
        loop {
            match client.connect(addresses, &self.identities[node]).await {
                Ok(connection) => return Ok(connection),
                Err(error) if tries == MAX_TRIES => return Err(error.into()),
                Err(_busy) => tries += 1,
            }
        }
    }

    /// Connects and greets.
    async fn greet(&self, node: usize, addresses: Arc<[Address]>) -> anyhow::Result<Session> {
        let connection = self.connect(node, &addresses).await?;
        let (mut control, receiver) = connection.open_bi().await?;
        control.send(&Request::Control).await?;
        let hello = Hello {
            oldest: OLDEST_VERSION,
            newest: VERSION,
            name: federation::name(node),
            software: concat!("exeunt bench ", env!("CARGO_PKG_VERSION")).to_owned(),
            engine: "none".to_owned(),
        };
        control.send(&FromNode::Hello(hello)).await?;
        let (heard, desired) = watch::channel(None);
        tokio::spawn(read_words(receiver, heard));
        Ok(Session { addresses, connection, desired, _control: control })
    }

    /// Connects, greets, and waits until class sums are wanted for every run.
    async fn session(self: Arc<Self>, node: usize, addresses: Arc<[Address]>) -> anyhow::Result<Session> {
        let mut session = self.greet(node, addresses).await?;
        let (runs, query) = (&self.runs.runs, self.runs.query);
        session.wait(|desired| runs.iter().all(|run| wanted(desired, run, query))).await?;
        Ok(session)
    }

    /// One table for every run, each when the sum of the one before is made. Like a real node, it connects again when a
    /// connection is lost.
    async fn contribute(
        self: Arc<Self>,
        node: usize,
        mut session: Session,
        start: Instant,
    ) -> anyhow::Result<Vec<Delivery>> {
        let mut deliveries = Vec::with_capacity(self.runs.runs.len());
        for run in &self.runs.runs {
            let query = self.runs.query;
            let (table, dataset) = (self.blobs[node], DatasetVersion(1));
            let contribution = Contribution { run: run.clone(), query, dataset, table };
            let place = self.at_once.acquire().await?;
            let bytes = self.tables.of(node);
            let begun = Instant::now();
            while !self.deliver(&session.connection, &contribution, &bytes).await? {
                self.again(node, &mut session).await?;
            }
            deliveries.push(Delivery { at: start.elapsed(), took: begun.elapsed() });
            drop((bytes, place));
            while session.wait(|desired| !wanted(desired, run, query)).await.is_err() {
                self.again(node, &mut session).await?;
            }
        }
        Ok(deliveries)
    }

    /// Whether a table was stored; false where the connection or the stream was lost.
    async fn deliver(
        &self,
        connection: &Connection,
        contribution: &Contribution,
        bytes: &[u8],
    ) -> anyhow::Result<bool> {
        match exeunt_node::deliver(connection, contribution, bytes).await {
            Ok(Ack::Stored) => Ok(true),
            Ok(Ack::Rejected(reason)) => anyhow::bail!("a table was refused: {reason}"),
            Err(error) => {
                tracing::debug!("delivered again: {error}");
                Ok(false)
            }
        }
    }

    /// Goes on after something was lost, with a new connection if that is what it was.
    async fn again(&self, node: usize, session: &mut Session) -> anyhow::Result<()> {
        self.rest().await?;
        while session.desired.has_changed().is_err() {
            match self.greet(node, Arc::clone(&session.addresses)).await {
                Ok(greeted) => *session = greeted,
                Err(error) => {
                    tracing::debug!("greeted again: {error}");
                    self.rest().await?;
                }
            }
        }
        Ok(())
    }

    async fn rest(&self) -> anyhow::Result<()> {
        let tries = self.again.fetch_add(1, Ordering::Relaxed);
        anyhow::ensure!(tries < MAX_AGAIN, "{MAX_AGAIN} deliveries or connections were lost");
        tokio::time::sleep(RETRY).await;
        Ok(())
    }

    /// Connects to whoever throws things away.
    async fn open(self: Arc<Self>, node: usize, addresses: Arc<[Address]>) -> anyhow::Result<Discarding> {
        let connection = self.connect(node, &addresses).await?;
        Ok(Discarding { addresses, connection })
    }

    /// As many tables, to whoever throws them away.
    async fn throw(
        self: Arc<Self>,
        node: usize,
        mut to: Discarding,
        start: Instant,
    ) -> anyhow::Result<Vec<Delivery>> {
        let mut deliveries = Vec::with_capacity(self.runs.runs.len());
        for _ in &self.runs.runs {
            let place = self.at_once.acquire().await?;
            let bytes = self.tables.of(node);
            let begun = Instant::now();
            while let Err(error) = to.throw(&bytes).await {
                tracing::debug!("thrown again: {error}");
                self.rest().await?;
                to.connection = self.connect(node, &to.addresses).await?;
            }
            deliveries.push(Delivery { at: start.elapsed(), took: begun.elapsed() });
            drop((bytes, place));
        }
        Ok(deliveries)
    }
}

impl Discarding {
    async fn throw(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let (mut sender, mut receiver) = self.connection.open_bi().await?;
        sender.send_bytes(bytes).await?;
        sender.finish().await?;
        receiver.expect::<bool>(MAX_WORD).await?;
        Ok(())
    }
}

impl Session {
    /// Waits until what is wanted of the node is such; an error when the connection is lost first.
    async fn wait(&mut self, such: impl Fn(&Desired) -> bool) -> anyhow::Result<()> {
        let such = |desired: &Option<Desired>| desired.as_ref().is_some_and(&such);
        self.desired.wait_for(such).await.map(|_| ()).context("a control stream ended")
    }
}

/// Whether a node's answer to a query is wanted.
fn wanted(desired: &Desired, run: &RunId, query: QueryId) -> bool {
    desired.runs.iter().any(|of| of.run == *run && of.query.as_ref().is_some_and(|open| open.id == query))
}

/// Keeps the latest of what is wanted until the stream ends, which whoever waits notices.
async fn read_words(mut receiver: Receiver, heard: watch::Sender<Option<Desired>>) {
    while let Ok(Some(word)) = receiver.recv::<ToNode>(MAX_WORD).await {
        if let ToNode::Desired(desired) = word {
            heard.send_replace(Some(desired));
        }
    }
}
