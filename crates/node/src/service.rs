//! The node's shell: keeps a connection, performs what the state machine wants, and never gives up.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant, SystemTime};

use exeunt_data::Share;
use exeunt_link::{
    Address, Client, CloseCode, Closed, ConnectError, Connection, Identity, Receiver, RecvError, SendError,
    Sender,
};
use exeunt_protocol::message::{
    Activity, Contribution, FromNode, Hello, Membership, OLDEST_VERSION, Request, ToNode, VERSION,
};
use exeunt_protocol::moment::unix_ms;
use exeunt_protocol::node::{Input, Node, Output};
use exeunt_protocol::spec::RunSpec;
use exeunt_protocol::{PolicyVersion, QueryId, RunId};
use exeunt_stats::Digest;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::computing::Computing;
use crate::home::{Home, HomeError, NodeReport, NodeSettings, PolicyInForce};
use crate::session::Watch;
use crate::transfer::{self, TransferError};
use crate::worker::{Answer, Bench, Job};

/// First wait before connecting again; doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Longest wait before connecting again.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long a failed fetch or delivery rests before it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often progress is reported.
const PROGRESS: Duration = Duration::from_secs(1);
/// How often it is looked whether there is something to tell of inference.
const LIVE: Duration = Duration::from_secs(5);
/// How often it is looked whether the cache holds what is of no use; what is twice in a row goes.
const PRUNE: Duration = Duration::from_secs(600);
/// Longest message on the control stream.
const MAX_WORD: usize = 1 << 20;

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The node's folder cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The key or certificate cannot be used.
    #[error(transparent)]
    Identity(#[from] exeunt_link::IdentityError),
    /// The coordinator will never let this node in.
    #[error("{0}")]
    ShutOut(String),
    /// An address in the settings cannot be read.
    #[error("node.json, coordinator: {0}")]
    Address(#[from] exeunt_link::AddressError),
    /// The share in the settings cannot be read.
    #[error("node.json, share: {0}")]
    Share(String),
    /// The worker thread could not be started.
    #[error("cannot start the worker thread")]
    Worker(#[source] std::io::Error),
}

/// What comes back from tasks and threads.
enum Event {
    Word(ToNode),
    ControlEnded,
    Fetched(Digest),
    NotFetched(Digest, TransferError),
    Answered(Box<Job>, Answer),
    Acknowledged(Contribution, exeunt_protocol::message::Ack),
    NotDelivered(Contribution, TransferError),
}

/// Runs the node until `stop` resolves, with [`Computing::plain`]. Reconnects by itself.
///
/// # Errors
/// See [`ServiceError`]; being unable to reach the coordinator is none.
pub async fn run(home: Home, stop: impl Future<Output = ()>) -> Result<(), ServiceError> {
    run_with(home, Computing::plain(), stop).await
}

/// [`run`], computing as `computing` says.
///
/// # Errors
/// As there.
pub async fn run_with(
    home: Home,
    computing: Computing,
    stop: impl Future<Output = ()>,
) -> Result<(), ServiceError> {
    let settings = home.settings()?;
    let _lock = home.lock()?;
    let identity = Identity::load(home.identity())?;
    let addresses: Vec<Address> = settings.coordinator.iter().map(|a| a.parse()).collect::<Result<_, _>>()?;
    let share = settings.share.as_deref().map(str::parse::<Share>).transpose();
    let share = share.map_err(|error| ServiceError::Share(error.to_string()))?;
    let threads = computing
        .threads
        .or(settings.threads)
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));

    let (events, received) = mpsc::channel(256);
    let (jobs, queue) = std_mpsc::channel();
    let engine = computing.engine.to_string();
    let bench = Bench { home: home.clone(), data: settings.data.clone(), share, computing, threads };
    let answers = events.clone();
    std::thread::Builder::new()
        .name("exeunt-worker".to_owned())
        .spawn(move || {
            bench.work(&queue, |job, answer| {
                // The service may be gone; then nobody wants the answer.
                let _ = answers.blocking_send(Event::Answered(Box::new(job), answer));
            });
        })
        .map_err(ServiceError::Worker)?;

    let have = home.blobs()?;
    let mut service = Service {
        machine: Node::new(have),
        report: first_report(&settings, &identity, home.policy()?),
        home,
        settings,
        identity,
        engine,
        client: Arc::new(Client::default()),
        events,
        jobs,
        watches: BTreeMap::new(),
        answers: BTreeMap::new(),
        transfers: JoinSet::new(),
        words: Vec::new(),
        floor: None,
        written: None,
    };
    let result = tokio::select! {
        result = service.connect_forever(&addresses, received) => result,
        () = stop => Ok(()),
    };
    service.client.close(CloseCode::Finished).await;
    service.report.connected = false;
    service.report.pid = None;
    service.write_report();
    result
}

struct Service {
    machine: Node,
    home: Home,
    settings: NodeSettings,
    identity: Identity,
    /// What the coordinator hears about the engine.
    engine: String,
    client: Arc<Client>,
    events: mpsc::Sender<Event>,
    jobs: std_mpsc::Sender<Job>,
    watches: BTreeMap<(RunId, QueryId), Arc<Watch>>,
    /// Packed tables until they are acknowledged.
    answers: BTreeMap<(RunId, QueryId), Arc<[u8]>>,
    /// Fetches and deliveries over the connection there is; they end with it.
    transfers: JoinSet<()>,
    /// What is to be said beside what the machine says, to a coordinator that understands it.
    words: Vec<FromNode>,
    /// The fewest samples that anything is told of, by the specification that says so.
    floor: Option<(Digest, u64)>,
    report: NodeReport,
    written: Option<NodeReport>,
}

impl Service {
    async fn connect_forever(
        &mut self,
        addresses: &[Address],
        mut events: mpsc::Receiver<Event>,
    ) -> Result<(), ServiceError> {
        let mut wait = FIRST_WAIT;
        loop {
            self.write_report();
            match self.client.connect(addresses, &self.identity).await {
                Ok(connection) => {
                    let since = Instant::now();
                    let ended = self.converse(&connection, &mut events).await;
                    self.machine.handle(Input::Disconnected);
                    self.report.connected = false;
                    tracing::info!("disconnected: {ended}");
                    self.report.problem = Some(ended.to_string());
                    // A connection that outlived the wait before it was a good one.
                    if since.elapsed() > wait {
                        wait = FIRST_WAIT;
                    }
                    if let Some(reason) = shut_out(&ended) {
                        return Err(ServiceError::ShutOut(reason));
                    }
                }
                Err(error) => {
                    if let Some(reason) = never(&error) {
                        return Err(ServiceError::ShutOut(reason));
                    }
                    if is_somebody_else(&error) {
                        wait = LONGEST_WAIT;
                    }
                    let text = error.to_string();
                    if self.report.problem.as_deref() != Some(text.as_str()) {
                        tracing::warn!("{text}; trying again");
                        self.report.problem = Some(text);
                    }
                }
            }
            self.write_report();
            self.drain_while_waiting(wait + jitter(&self.identity, wait), &mut events).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Answers go on being computed while there is no connection.
    async fn drain_while_waiting(&mut self, wait: Duration, events: &mut mpsc::Receiver<Event>) {
        let until = tokio::time::sleep(wait);
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => return,
                Some(event) = events.recv() => match event {
                    // Left over from the lost connection.
                    Event::Word(_) => {}
                    event => self.take_in(event),
                },
            }
        }
    }

    /// One connection, from hello to its end.
    async fn converse(&mut self, connection: &Connection, events: &mut mpsc::Receiver<Event>) -> Closed {
        let (mut control, receiver) = match connection.open_bi().await {
            Ok(streams) => streams,
            Err(closed) => return closed,
        };
        if let Err(error) = self.greet(&mut control).await {
            return self.give_up(connection, &error).await;
        }
        let reader = tokio::spawn(read_words(receiver, self.events.clone()));
        let ticks = |every| {
            let mut ticks = tokio::time::interval(every);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            ticks
        };
        let (mut progress, mut live, mut prune) = (ticks(PROGRESS), ticks(LIVE), ticks(PRUNE));
        let closed = loop {
            if let Err(error) = self.perform(connection, &mut control).await {
                break self.give_up(connection, &error).await;
            }
            self.write_report();
            while self.transfers.try_join_next().is_some() {}
            tokio::select! {
                closed = connection.closed() => break closed,
                Some(event) = events.recv() => {
                    if matches!(event, Event::ControlEnded) {
                        connection.close(CloseCode::Finished);
                    } else {
                        self.take_in(event);
                    }
                }
                _ = live.tick() => self.tell_of_inference(),
                _ = prune.tick() => self.prune(),
                _ = progress.tick() => {
                    self.report_progress();
                    self.renew_if_due(connection).await;
                }
            }
        };
        reader.abort();
        // One that went on would report back, or write to the cache, while the next connection does the same work.
        self.transfers.shutdown().await;
        closed
    }

    async fn give_up(&self, connection: &Connection, error: &SendError) -> Closed {
        tracing::debug!("control stream: {error}");
        connection.close(CloseCode::Finished);
        connection.closed().await
    }

    async fn greet(&mut self, control: &mut Sender) -> Result<(), SendError> {
        control.send(&Request::Control).await?;
        let hello = Hello {
            oldest: OLDEST_VERSION,
            newest: VERSION,
            name: self.settings.name.clone(),
            software: concat!("exeunt-node ", env!("CARGO_PKG_VERSION")).to_owned(),
            engine: self.engine.clone(),
        };
        control.send(&FromNode::Hello(hello)).await
    }

    fn take_in(&mut self, event: Event) {
        let input = match event {
            Event::Word(ToNode::Welcome { version }) => {
                tracing::info!("connected, message version {version}");
                self.report.connected = true;
                self.report.problem = None;
                self.words.clear();
                self.report.version = Some(version);
                if version >= 2 {
                    self.words.extend(self.report.policy.as_ref().map(using));
                    let said = self.home.live_said().unwrap_or_else(|error| {
                        tracing::warn!("{error}");
                        None
                    });
                    self.words.extend(said.map(|counts| FromNode::Live(Box::new(counts))));
                }
                Input::Connected
            }
            Event::Word(ToNode::Membership(membership)) => {
                if self.report.membership != membership {
                    tracing::info!("this node {}", told(membership));
                    self.report.membership = membership;
                }
                return;
            }
            Event::Word(ToNode::Desired(desired)) => {
                let runs: Vec<&RunId> = desired.runs.iter().map(|run| &run.run).collect();
                self.report.runs.retain(|run, _| runs.contains(&run));
                Input::Desired(desired)
            }
            Event::ControlEnded => return,
            Event::Fetched(blob) => Input::Fetched(blob),
            Event::NotFetched(blob, error) => {
                tracing::warn!("could not fetch {}: {error}", blob.short());
                Input::NotFetched(blob)
            }
            Event::Answered(job, answer) => self.answered(job, answer),
            Event::Acknowledged(contribution, ack) => {
                let key = (contribution.run, contribution.query);
                self.answers.remove(&key);
                Input::Acknowledged { run: key.0, query: key.1, ack }
            }
            Event::NotDelivered(contribution, error) => {
                tracing::warn!("could not deliver {} of {}: {error}", contribution.query, contribution.run);
                Input::NotDelivered { run: contribution.run, query: contribution.query }
            }
        };
        self.machine.handle(input);
    }

    fn answered(&mut self, job: Box<Job>, answer: Answer) -> Input {
        let key = (job.run.run, job.query.id);
        self.watches.remove(&key);
        let answer = match answer {
            Ok((contribution, bytes)) => {
                tracing::info!("answered {} of {}: {} bytes", key.1, key.0, bytes.len());
                self.answers.insert(key.clone(), bytes);
                Ok(contribution)
            }
            Err(refusal) => {
                tracing::warn!("declined {} of {}: {refusal}", key.1, key.0);
                Err(refusal)
            }
        };
        Input::Answered { run: key.0, query: key.1, answer }
    }

    async fn perform(&mut self, connection: &Connection, control: &mut Sender) -> Result<(), SendError> {
        for word in std::mem::take(&mut self.words) {
            control.send(&word).await?;
        }
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Say(word) => {
                    if let FromNode::Report { run, activity } = &word {
                        self.report.runs.insert(run.clone(), activity.clone());
                    }
                    control.send(&word).await?;
                }
                Output::Fetch { blob, purpose } => {
                    let (connection, home, events) =
                        (connection.clone(), self.home.clone(), self.events.clone());
                    self.transfers.spawn(async move {
                        let event = match transfer::fetch(&connection, &home, blob, purpose).await {
                            Ok(()) => Event::Fetched(blob.digest),
                            Err(error) => {
                                tokio::time::sleep(RETRY).await;
                                Event::NotFetched(blob.digest, error)
                            }
                        };
                        // The service may have ended meanwhile.
                        let _ = events.send(event).await;
                    });
                }
                Output::Deliver(contribution) => self.deliver(connection, contribution),
                Output::Compute { run, query } => {
                    let watch = Arc::new(Watch::default());
                    self.watches.insert((run.run.clone(), query.id), Arc::clone(&watch));
                    if self.jobs.send(Job { run, query, watch }).is_err() {
                        tracing::error!("the worker thread is gone; restart the node");
                    }
                }
                Output::Abandon { run, query } => {
                    if let Some(watch) = self.watches.remove(&(run, query)) {
                        watch.cancel();
                    }
                }
                Output::UsePolicy { run, policy } => {
                    let policy = PolicyInForce::new(&run, &policy);
                    tracing::info!("policy {} of {} is in force", policy.version, policy.run);
                    match self.home.save_policy(&policy) {
                        Ok(()) if self.report.version >= Some(2) => control.send(&using(&policy)).await?,
                        Ok(()) => {}
                        Err(error) => tracing::error!("{error}"),
                    }
                    self.report.policy = Some(policy);
                }
                Output::Rejected { run, query, reason } => {
                    tracing::warn!("the coordinator refused the answer to {query} of {run}: {reason}");
                    self.report.problem = Some(format!("answer to {query} of {run} refused: {reason}"));
                }
            }
        }
        Ok(())
    }

    fn deliver(&mut self, connection: &Connection, contribution: Contribution) {
        let Some(bytes) = self.answers.get(&(contribution.run.clone(), contribution.query)) else { return };
        let (connection, events, bytes) = (connection.clone(), self.events.clone(), Arc::clone(bytes));
        self.transfers.spawn(async move {
            let event = match transfer::deliver(&connection, &contribution, &bytes).await {
                Ok(ack) => Event::Acknowledged(contribution, ack),
                Err(error) => {
                    tokio::time::sleep(RETRY).await;
                    Event::NotDelivered(contribution, error)
                }
            };
            // The service may have ended meanwhile.
            let _ = events.send(event).await;
        });
    }

    fn report_progress(&mut self) {
        let inputs: Vec<Input> = self
            .watches
            .iter()
            .map(|((run, query), watch)| {
                let (done, of) = watch.progress();
                Input::Progress { run: run.clone(), query: *query, done, of }
            })
            .collect();
        for input in inputs {
            self.machine.handle(input);
        }
    }

    /// Tells what inference did since the last time, where that is enough to tell.
    fn tell_of_inference(&mut self) {
        let Some(policy) = self.report.policy.clone() else { return };
        if !self.settings.live.report || self.report.version < Some(2) || !self.report.connected {
            return;
        }
        let Some(floor) = self.floor_of(policy.spec) else { return };
        match self.home.live_news(&policy.run, PolicyVersion(policy.version), floor) {
            Ok(news) => self.words.extend(news.map(|counts| FromNode::Live(Box::new(counts)))),
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// The fewest samples that a run's specification lets anything be told of.
    fn floor_of(&mut self, spec: Digest) -> Option<u64> {
        if let Some((known, floor)) = self.floor
            && known == spec
        {
            return Some(floor);
        }
        let bytes = self.home.blob(spec).ok()?;
        let read: RunSpec = serde_json::from_slice(&bytes).ok()?;
        self.floor = Some((spec, read.floors.min_count));
        Some(read.floors.min_count)
    }

    /// Drops blobs from the cache that have been of no use for a while. Not while an answer is computed from them.
    fn prune(&mut self) {
        if !self.watches.is_empty() {
            return;
        }
        let stale = self.machine.stale_blobs();
        match self.home.drop_blobs(&stale) {
            Ok(dropped) if dropped.is_empty() => {}
            Ok(dropped) => {
                tracing::info!("dropped {} blobs that are of no use any more", dropped.len());
                self.machine.handle(Input::Dropped(dropped));
            }
            Err(error) => tracing::warn!("{error}"),
        }
    }

    async fn renew_if_due(&mut self, connection: &Connection) {
        if !self.identity.renewal_due(SystemTime::now()) {
            return;
        }
        match exeunt_link::renew(connection, &self.identity).await {
            Ok(identity) => {
                tracing::info!("certificate renewed");
                self.identity = identity;
            }
            Err(error) => tracing::warn!("certificate not renewed: {error}"),
        }
    }

    /// Writes the status file when something changed.
    fn write_report(&mut self) {
        self.report.at_ms = self.written.as_ref().map_or(0, |written| written.at_ms);
        if self.written.as_ref() == Some(&self.report) {
            return;
        }
        self.report.at_ms = unix_ms(SystemTime::now());
        if let Err(error) = self.home.save_report(&self.report) {
            tracing::warn!("{error}");
        }
        self.written = Some(self.report.clone());
    }
}

async fn read_words(mut receiver: Receiver, events: mpsc::Sender<Event>) {
    loop {
        let event = match receiver.recv::<ToNode>(MAX_WORD).await {
            Ok(Some(word)) => Event::Word(word),
            Ok(None) | Err(RecvError::Closed(_)) => Event::ControlEnded,
            Err(error) => {
                tracing::debug!("control stream: {error}");
                Event::ControlEnded
            }
        };
        let ended = matches!(event, Event::ControlEnded);
        if events.send(event).await.is_err() || ended {
            return;
        }
    }
}

/// Says which policy inference goes by.
fn using(policy: &PolicyInForce) -> FromNode {
    FromNode::Using { run: policy.run.clone(), policy: PolicyVersion(policy.version) }
}

/// What a membership means, for whoever runs the node.
pub(crate) fn told(membership: Membership) -> &'static str {
    match membership {
        Membership::Active => "takes part",
        Membership::Pending => "waits to be approved at the coordinator",
        Membership::Quarantined => "is quarantined: it keeps its policy and is asked nothing",
    }
}

fn first_report(settings: &NodeSettings, identity: &Identity, policy: Option<PolicyInForce>) -> NodeReport {
    let id = exeunt_protocol::NodeId::from_bytes(*identity.id().as_bytes());
    NodeReport {
        name: settings.name.clone(),
        id: id.to_string(),
        short: identity.id().short(),
        pid: Some(std::process::id()),
        connected: false,
        coordinator: settings.coordinator.clone(),
        membership: Membership::default(),
        version: None,
        runs: BTreeMap::<RunId, Activity>::new(),
        policy,
        problem: None,
        at_ms: 0,
    }
}

/// A little more waiting, different at every node, so that a fleet does not come back at once.
fn jitter(identity: &Identity, wait: Duration) -> Duration {
    wait.mul_f64(f64::from(identity.id().as_bytes()[0]) / 512.0)
}

/// Whether the coordinator ended the connection for good.
fn shut_out(closed: &Closed) -> Option<String> {
    match closed {
        Closed::Refused(_) => Some(closed.to_string()),
        Closed::ByPeer(reason) if matches!(reason.code, CloseCode::Revoked | CloseCode::Incompatible) => {
            Some(closed.to_string())
        }
        _ => None,
    }
}

/// Whether connecting can never succeed, whatever happens at the coordinator.
fn never(error: &ConnectError) -> Option<String> {
    let forever = match error {
        ConnectError::Refused { .. } => true,
        ConnectError::Closed { closed, .. } => shut_out(closed).is_some(),
        _ => false,
    };
    forever.then(|| error.to_string())
}

/// Whether another federation answered at the address. That passes: a port that was taken while the coordinator was
/// down, an address that was handed out again. Nothing is gained by asking it often.
fn is_somebody_else(error: &ConnectError) -> bool {
    matches!(error, ConnectError::WrongAuthority { .. })
}

#[cfg(test)]
mod tests {
    use exeunt_link::Refusal;

    use super::*;

    #[test]
    fn only_what_the_coordinator_says_for_good_ends_a_node() {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 4711));
        let stranger = ConnectError::WrongAuthority { address, found: None, expected: None };
        assert!(is_somebody_else(&stranger));
        assert_eq!(never(&stranger), None);
        assert_eq!(never(&ConnectError::NoAddress), None);
        let refused = ConnectError::Refused { address, refusal: Refusal::Expired };
        assert!(never(&refused).is_some() && !is_somebody_else(&refused));
    }
}
