//! The thread that does everything but draw.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use exeunt_coordinator::{Home, OperatorClient, ServeOptions, Service, ServiceError};
use exeunt_dashboard::{
    Command, Content, File, Level, Link, LogLine, Notice, Place, PlaceKind, Settings, State, Token,
};
use exeunt_exits::{Policy, PolicyRequest};
use exeunt_protocol::coordinator::Standing;
use exeunt_protocol::operator::{OperatorRequest, OperatorResponse, SnapshotDiff};
use exeunt_protocol::{NodeId, RunId};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};

use super::attend::{News, Seen, attend};
use super::demo::{Demo, NodesAs};
use super::log::{Lines, now_ms};
use super::{keep, run_file};

/// Wishes that wait; the window is told when there is no room.
const WAITING: usize = 64;
/// Log lines and notices that are kept.
const LINES: usize = 5000;
const NOTICES: usize = 200;
/// How long a coordinator in this process may take to end.
const ENDING: Duration = Duration::from_secs(3);
/// How long a coordinator may take to do something before a person is told.
const ANSWER: Duration = Duration::from_secs(60);

/// A file dialog that is open.
pub(crate) type Picked = Pin<Box<dyn Future<Output = Option<PathBuf>> + Send>>;

/// What the window wants of the worker.
pub(crate) enum Wish {
    /// As the views say it.
    Do(Command),
    /// Start a run from the file that is being picked.
    RunFrom(Picked),
    /// Write to the file that is being picked.
    SaveTo(Picked, File),
}

/// What the window begins with.
#[derive(Debug)]
pub(crate) enum Begin {
    /// The federation in the folder, if there is one.
    Home(Home),
    /// A coordinator elsewhere, with the operator's identity in this folder.
    Connect(Home),
    /// The demo.
    Demo,
}

/// The worker's end that the window holds.
pub(crate) struct Worker {
    state: Arc<ArcSwap<State>>,
    wishes: Option<mpsc::Sender<Wish>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread. `nudge` is called after every new state.
    pub(crate) fn start(
        home: Home,
        begin: Begin,
        settings: PathBuf,
        nodes: NodesAs,
        lines: Lines,
        nudge: impl Fn() + Send + 'static,
    ) -> std::io::Result<Self> {
        let state = Arc::new(ArcSwap::from_pointee(State::default()));
        let (wishes, wanted) = mpsc::channel(WAITING);
        let published = Arc::clone(&state);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("exeunt-worker")
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new().name("exeunt-window".to_owned()).spawn(move || {
            runtime.block_on(async {
                let (done, outcomes) = mpsc::channel(WAITING);
                let work = Work {
                    state: State::default(),
                    published,
                    nudge: Box::new(nudge),
                    home,
                    settings,
                    nodes,
                    engine: Engine::None,
                    tie: None,
                    done,
                    notices: 0,
                };
                work.run(begin, wanted, outcomes, lines).await;
            });
            // A file dialog that is still open must not keep the process.
            runtime.shutdown_background();
        })?;
        Ok(Self { state, wishes: Some(wishes), thread: Some(thread) })
    }

    /// The newest state; never waits.
    pub(crate) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Hands a wish over; gives it back when there is no room.
    pub(crate) fn send(&self, wish: Wish) -> Result<(), Wish> {
        let Some(wishes) = &self.wishes else { return Ok(()) };
        match wishes.try_send(wish) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(wish)) => Err(wish),
        }
    }

    /// Ends the worker and what it runs.
    pub(crate) fn stop(&mut self) {
        self.wishes = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the window's worker ended abnormally");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The coordinator that runs in this process, if one does.
enum Engine {
    None,
    Here { stop: oneshot::Sender<()>, served: JoinHandle<Result<(), ServiceError>> },
    Demo(Box<Demo>),
}

/// The connection that is attended to.
struct Tie {
    place: Place,
    news: mpsc::Receiver<News>,
    task: AbortHandle,
    again: Arc<Notify>,
    look_at: watch::Sender<Option<RunId>>,
    client: Option<Arc<OperatorClient>>,
}

/// What came of something that took a while.
enum Outcome {
    Served(anyhow::Result<(Service, Home)>),
    Demo(anyhow::Result<Box<Demo>>),
    Token(Token),
    Compared(Arc<SnapshotDiff>),
    Started(RunId),
    Said(Level, String),
}

struct Work {
    state: State,
    published: Arc<ArcSwap<State>>,
    nudge: Box<dyn Fn() + Send>,
    home: Home,
    settings: PathBuf,
    nodes: NodesAs,
    engine: Engine,
    tie: Option<Tie>,
    done: mpsc::Sender<Outcome>,
    notices: u64,
}

impl Work {
    async fn run(
        mut self,
        begin: Begin,
        mut wishes: mpsc::Receiver<Wish>,
        mut outcomes: mpsc::Receiver<Outcome>,
        mut lines: Lines,
    ) {
        self.begin(begin).await;
        self.publish();
        let mut batch = Vec::new();
        let mut logging = true;
        loop {
            tokio::select! {
                wish = wishes.recv() => match wish {
                    Some(wish) => self.wish(wish),
                    None => break,
                },
                Some(outcome) = outcomes.recv() => self.outcome(outcome),
                news = next_news(&mut self.tie) => self.news(news),
                taken = lines.recv_many(&mut batch, 256), if logging => {
                    logging = taken > 0;
                    self.log(&mut batch);
                }
            }
            self.publish();
        }
        self.end().await;
    }

    async fn begin(&mut self, begin: Begin) {
        match begin {
            Begin::Demo => self.start_demo(),
            Begin::Connect(home) => {
                let name =
                    home.root().file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
                self.attend(home, Place { name, kind: PlaceKind::Elsewhere, address: None });
            }
            Begin::Home(home) => {
                if !home.root().join("coordinator.json").exists() {
                    let home = home.root().display().to_string();
                    self.state.link = Link::Empty { home };
                    return;
                }
                // `exeunt serve` may hold the folder already; then it is the one to talk to.
                self.state.link = Link::Opening { what: "Calling the coordinator".to_owned() };
                self.publish();
                let answers =
                    tokio::time::timeout(Duration::from_secs(2), OperatorClient::connect(&home)).await;
                if matches!(answers, Ok(Ok(_))) {
                    let name = "exeunt serve".to_owned();
                    self.attend(home, Place { name, kind: PlaceKind::Elsewhere, address: None });
                } else {
                    self.serve();
                }
            }
        }
    }

    fn publish(&self) {
        self.published.store(Arc::new(self.state.clone()));
        (self.nudge)();
    }

    fn notice(&mut self, level: Level, text: String) {
        self.notices += 1;
        let notice = Notice { number: self.notices, at_ms: now_ms(), level, text };
        let surplus = (self.state.notices.len() + 1).saturating_sub(NOTICES);
        self.state.notices = self.state.notices.iter().skip(surplus).cloned().chain([notice]).collect();
    }

    fn log(&mut self, lines: &mut Vec<LogLine>) {
        let surplus = (self.state.log.len() + lines.len()).saturating_sub(LINES);
        self.state.log = self.state.log.iter().cloned().chain(lines.drain(..)).skip(surplus).collect();
    }

    fn wish(&mut self, wish: Wish) {
        match wish {
            Wish::Do(command) => self.command(command),
            Wish::RunFrom(picked) => self.run_from(picked),
            Wish::SaveTo(picked, file) => self.spawn(async move {
                let path = picked.await?;
                Some(match save(&path, file.content).await {
                    Ok(()) => Outcome::Said(Level::Info, format!("Saved {}", path.display())),
                    Err(error) => Outcome::Said(Level::Error, format!("{}: {error}", path.display())),
                })
            }),
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::CreateFederation => self.serve(),
            Command::StartDemo => self.start_demo(),
            Command::OpenRunFile { path } => {
                let path = path.map(PathBuf::from);
                self.run_from(Box::pin(std::future::ready(path)));
            }
            Command::MakeToken { valid_s, label, approve } => {
                self.ask(OperatorRequest::Token { valid_s, label, approve }, |response| match response {
                    OperatorResponse::Token { token, expires } => {
                        Some(Outcome::Token(Token { text: token, expires }))
                    }
                    _ => None,
                });
            }
            Command::ForgetToken => self.state.token = None,
            Command::ShowRun(run) => {
                if let Some(tie) = &self.tie {
                    tie.look_at.send_replace(Some(run));
                }
            }
            Command::StopRun(run) => {
                let text = format!("{run} is stopped; its tables stay");
                self.ask(OperatorRequest::Stop { run }, said(text));
            }
            Command::Approve(nodes) => {
                self.ask_each(nodes, "is approved", |node| OperatorRequest::Approve { node });
            }
            Command::Rename { node, name } => {
                let text = format!("{} is called {name} now", self.state.name(node));
                self.ask(OperatorRequest::Rename { node, name }, said(text));
            }
            Command::Quarantine(nodes) => {
                self.ask_each(nodes, "is quarantined", |node| OperatorRequest::Quarantine { node });
            }
            Command::Release(nodes) => {
                self.ask_each(nodes, "takes part again", |node| OperatorRequest::Release { node });
            }
            Command::Revoke(nodes) => {
                self.ask_each(nodes, "is revoked", |node| OperatorRequest::Revoke { node });
            }
            Command::Remove { run, node } => {
                let text = format!("What {} gave is taken out of {run}", self.state.name(node));
                self.ask(OperatorRequest::Remove { run: Some(run), node }, said(text));
            }
            Command::Try { run, policy } => {
                let wish = PolicyRequest::Thresholds(policy);
                // What came of it shows in the report; only a refusal needs words.
                self.ask(OperatorRequest::TryPolicy { run: Some(run), wish }, |_| None);
            }
            Command::Apply { run, policy, nodes } if nodes.is_empty() => self.apply(run, policy, None),
            Command::Apply { run, policy, nodes } => {
                for node in nodes {
                    self.apply(run.clone(), policy.clone(), Some(node));
                }
            }
            Command::FollowFleet { run, node } => {
                let text = format!("{} infers with the fleet’s policy again", self.state.name(node));
                self.ask(OperatorRequest::ClearPolicy { run: Some(run), node }, said(text));
            }
            Command::KeepPolicy { run, name, version } => {
                let text = format!("The coordinator keeps policy {} as {name}", version.0);
                let request = OperatorRequest::SavePolicy { run: Some(run), name, version: Some(version) };
                self.ask(request, said(text));
            }
            Command::ForgetPolicy { run, name } => {
                let text = format!("{name} is forgotten; the policy itself stays");
                self.ask(OperatorRequest::ForgetPolicy { run: Some(run), name }, said(text));
            }
            Command::Compare { run, from, to } => {
                let request = OperatorRequest::SnapshotDiff { run: Some(run), from, to };
                self.ask(request, |response| match response {
                    OperatorResponse::SnapshotDiff(diff) => Some(Outcome::Compared(Arc::from(diff))),
                    _ => None,
                });
            }
            // The frame opens the dialog for these.
            Command::Save(_) => {}
            Command::Keep(settings) => self.keep(*settings),
            Command::Reconnect => {
                if let Some(tie) = &self.tie {
                    tie.again.notify_one();
                }
            }
        }
    }

    /// Asks the same for several nodes.
    fn ask_each(&mut self, nodes: Vec<NodeId>, what: &str, request: impl Fn(NodeId) -> OperatorRequest) {
        for node in nodes {
            let text = format!("{} {what}", self.state.name(node));
            self.ask(request(node), said(text));
        }
    }

    /// Puts a policy in force, in the fleet or at one node.
    fn apply(&mut self, run: RunId, policy: Policy, node: Option<NodeId>) {
        let place = node.map(|node| format!(" at {}", self.state.name(node))).unwrap_or_default();
        let wish = PolicyRequest::Thresholds(policy);
        let request = OperatorRequest::SetPolicy { run: Some(run), wish, node };
        self.ask(request, move |response| match response {
            OperatorResponse::Policy { run, version } => {
                let text = format!("Policy {} of {run} is in force{place}", version.0);
                Some(Outcome::Said(Level::Info, text))
            }
            _ => None,
        });
    }

    fn keep(&self, settings: Settings) {
        let path = self.settings.clone();
        self.spawn(async move {
            let error = keep::save(&path, &settings).await.err()?;
            Some(Outcome::Said(Level::Error, format!("settings cannot be kept: {}: {error}", path.display())))
        });
    }

    fn run_from(&mut self, picked: Picked) {
        let Some(client) = self.client() else { return };
        self.spawn(async move {
            let path = picked.await?;
            Some(match run_file::start(&client, &path).await {
                Ok(run) => Outcome::Started(run),
                Err(error) => Outcome::Said(Level::Error, crate::failure::describe(&error)),
            })
        });
    }

    /// The connection, or a notice that there is none.
    fn client(&mut self) -> Option<Arc<OperatorClient>> {
        let client = self.tie.as_ref().and_then(|tie| tie.client.clone());
        if client.is_none() {
            self.notice(Level::Error, "No coordinator answers; nothing was changed".to_owned());
        }
        client
    }

    fn ask(
        &mut self,
        request: OperatorRequest,
        read: impl FnOnce(OperatorResponse) -> Option<Outcome> + Send + 'static,
    ) {
        let Some(client) = self.client() else { return };
        self.spawn(async move {
            match tokio::time::timeout(ANSWER, client.ask(&request)).await {
                Ok(Ok(response)) => read(response),
                Ok(Err(error)) => Some(Outcome::Said(Level::Error, error.to_string())),
                Err(_) => {
                    let text = "The coordinator has not answered for a minute; see whether it was done before asking again";
                    Some(Outcome::Said(Level::Error, text.to_owned()))
                }
            }
        });
    }

    fn spawn(&self, task: impl Future<Output = Option<Outcome>> + Send + 'static) {
        let done = self.done.clone();
        tokio::spawn(async move {
            if let Some(outcome) = task.await {
                // The worker may be ending.
                let _ = done.send(outcome).await;
            }
        });
    }

    fn serve(&mut self) {
        self.state.link = Link::Opening { what: "Starting the coordinator".to_owned() };
        let home = self.home.clone();
        self.spawn(async move { Some(Outcome::Served(start_service(home).await)) });
    }

    fn start_demo(&mut self) {
        if matches!(self.state.link, Link::Opening { .. }) {
            return;
        }
        self.state.link = Link::Opening { what: "Starting eight nodes".to_owned() };
        let nodes = self.nodes;
        self.spawn(async move { Some(Outcome::Demo(Demo::start(nodes).await.map(Box::new))) });
    }

    fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Served(Ok((service, home))) => {
                let address = service.local_addr().to_string();
                let (stop, stopped) = oneshot::channel::<()>();
                let served = tokio::spawn(service.run(async {
                    // Dropped without a word is a wish to stop, too.
                    let _ = stopped.await;
                }));
                self.replace_engine(Engine::Here { stop, served });
                let name = "This window".to_owned();
                self.attend(home, Place { name, kind: PlaceKind::Here, address: Some(address) });
            }
            Outcome::Demo(Ok(demo)) => {
                let (home, address) = (demo.home(), demo.address());
                self.replace_engine(Engine::Demo(demo));
                self.attend(
                    home,
                    Place { name: "Demo".to_owned(), kind: PlaceKind::Demo, address: Some(address) },
                );
            }
            Outcome::Served(Err(error)) | Outcome::Demo(Err(error)) => {
                self.notice(Level::Error, crate::failure::describe(&error));
                self.state.link = Link::Empty { home: self.home.root().display().to_string() };
            }
            Outcome::Compared(diff) => self.state.diff = Some(diff),
            Outcome::Token(token) => self.state.token = Some(Arc::new(token)),
            Outcome::Started(run) => {
                self.notice(Level::Info, format!("{run} is started"));
                if let Some(tie) = &self.tie {
                    tie.look_at.send_replace(Some(run));
                }
            }
            Outcome::Said(level, text) => self.notice(level, text),
        }
    }

    fn replace_engine(&mut self, engine: Engine) {
        let old = std::mem::replace(&mut self.engine, engine);
        tokio::spawn(end_engine(old));
    }

    fn attend(&mut self, home: Home, place: Place) {
        if let Some(old) = self.tie.take() {
            old.task.abort();
        }
        let (sender, news) = mpsc::channel(8);
        let (look_at, looked) = watch::channel(None);
        let again = Arc::new(Notify::new());
        let task = tokio::spawn(attend(home, looked, Arc::clone(&again), sender)).abort_handle();
        let what = format!("Calling {}", place.name);
        self.tie = Some(Tie { place, news, task, again, look_at, client: None });
        let kept = (self.state.log.clone(), self.state.notices.clone());
        self.state = State { link: Link::Opening { what }, log: kept.0, notices: kept.1, ..State::default() };
    }

    fn news(&mut self, news: News) {
        let Some(tie) = &mut self.tie else { return };
        self.state.slow_since_ms = match &news {
            News::Slow => self.state.slow_since_ms.or(Some(now_ms())),
            _ => None,
        };
        match news {
            News::Slow => {}
            News::Up(client) => {
                tie.client = Some(client);
                let back = matches!(self.state.link, Link::Down { .. });
                self.state.link = Link::Up(tie.place.clone());
                if back {
                    let text = format!("{} answers again", tie.place.name);
                    self.notice(Level::Info, text);
                }
            }
            News::Down(why) => {
                tie.client = None;
                let since_ms = match &self.state.link {
                    Link::Down { since_ms, .. } => *since_ms,
                    _ => now_ms(),
                };
                let fresh = !matches!(self.state.link, Link::Down { .. });
                self.state.link = Link::Down { place: tie.place.clone(), why: why.clone(), since_ms };
                if fresh {
                    let text = format!("{} does not answer: {why}", tie.place.name);
                    self.notice(Level::Warn, text);
                }
            }
            News::Seen(seen) => self.seen(*seen),
        }
    }

    fn seen(&mut self, seen: Seen) {
        if let (Some(before), Some(now)) = (&self.state.report, &seen.report)
            && before.status.run == now.status.run
            && before.status.standing != now.status.standing
        {
            let run = &now.status.run;
            let first = before.status.result.is_none() && now.status.result.is_some();
            match &now.status.standing {
                Standing::Failed { why } => self.notice(Level::Error, format!("{run} failed: {why}")),
                _ if first => self
                    .notice(Level::Info, format!("{run} is measured: take a point of the curve as policy")),
                _ => {}
            }
        }
        // A run that starts while another is stayed with must not go unnoticed.
        if let (Some(report), Some(newest)) = (&seen.report, seen.runs.last())
            && newest.run != report.status.run
            && self.state.runs.last().is_some_and(|before| before.run != newest.run)
        {
            let text = format!("{} has started; this window stays with {}", newest.run, report.status.run);
            self.notice(Level::Info, text);
        }
        let Seen { nodes, runs, report, margins, coverage, live, snapshots, audit } = seen;
        let rest = std::mem::take(&mut self.state);
        self.state = State { nodes, runs, report, margins, coverage, live, snapshots, audit, ..rest };
    }

    async fn end(mut self) {
        if let Some(tie) = self.tie.take() {
            tie.task.abort();
        }
        let engine = std::mem::replace(&mut self.engine, Engine::None);
        if tokio::time::timeout(ENDING, end_engine(engine)).await.is_err() {
            tracing::warn!("the coordinator did not end in time; everything acknowledged is on disk");
        }
    }
}

fn said(text: String) -> impl FnOnce(OperatorResponse) -> Option<Outcome> + Send + 'static {
    move |_| Some(Outcome::Said(Level::Info, text))
}

/// News of the connection; waits for ever while there is none.
async fn next_news(tie: &mut Option<Tie>) -> News {
    match tie {
        Some(tie) => match tie.news.recv().await {
            Some(news) => news,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

async fn start_service(home: Home) -> anyhow::Result<(Service, Home)> {
    // The usual port, so that nodes find the coordinator again; any other where that one is taken.
    let usual = std::net::SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, 4711));
    let any = std::net::SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, 0));
    let options = |listen| ServeOptions { listen, advertise: Vec::new(), approve: false };
    let service = match Service::start(&home, &options(usual)).await {
        Err(ServiceError::Serve(error)) => {
            tracing::warn!("port 4711 cannot be used ({error}); another is");
            Service::start(&home, &options(any)).await?
        }
        other => other?,
    };
    Ok((service, home))
}

async fn end_engine(engine: Engine) {
    match engine {
        Engine::None => {}
        Engine::Here { stop, served } => {
            // It may have ended by itself.
            let _ = stop.send(());
            match served.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!("{error}"),
                Err(error) => tracing::error!("{error}"),
            }
        }
        Engine::Demo(demo) => demo.stop().await,
    }
}

async fn save(path: &Path, content: Content) -> anyhow::Result<()> {
    let bytes = match content {
        Content::Text(text) => text.into_bytes(),
        Content::Picture(image) => png_of(&image)?,
    };
    Ok(tokio::fs::write(path, bytes).await?)
}

/// A picture as PNG.
pub(crate) fn png_of(image: &egui::ColorImage) -> anyhow::Result<Vec<u8>> {
    let [width, height] = image.size.map(u32::try_from);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width?, height?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::High);
    let pixels: Vec<u8> = image.pixels.iter().flat_map(|p| [p.r(), p.g(), p.b()]).collect();
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(bytes)
}
