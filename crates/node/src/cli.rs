//! The command line of `exeunt-node`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use exeunt_data::Share;
use exeunt_link::Token;
use exeunt_network::{ChooseError, EngineChoice};
use exeunt_protocol::message::Activity;
use serde::Serialize;

use crate::classify::{self, Form};
use crate::computing::{Computing, EngineOptions};
use crate::home::{Home, HomeError, NodeReport, NodeSettings, PolicyInForce};
use crate::ledger::{Ledger, LiveSettings};
use crate::serve::{self, Limits, Ready, Server};
use crate::service::ServiceError;

/// A device of an exeunt federation: answers queries over its own data, and classifies early.
#[derive(Debug, Parser)]
#[command(
    name = "exeunt-node",
    version,
    after_help = "Exit codes: 0 done · 1 failed · 2 wrong usage or bad input · 3 coordinator not reachable · 4 refused, by the coordinator or because it is another than expected · 130 interrupted.\n\
                  Data goes to stdout, messages to stderr. Flags come before EXEUNT_… variables, and those before files."
)]
struct Cli {
    /// Folder of the node: its key, settings and cache
    #[arg(long, global = true, env = "EXEUNT_NODE_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
    /// Log more (-v debug, -vv trace); EXEUNT_LOG takes a tracing filter
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Write log lines as JSON
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Join a federation with a token, once
    Join {
        /// Token, as `exeunt token` prints it
        token: String,
        /// Folder that holds this node's samples
        #[arg(long, env = "EXEUNT_DATA", value_name = "DIR")]
        data: PathBuf,
        /// What to call this node; default: the host's name
        #[arg(long)]
        name: Option<String>,
        /// Take only a share of the folder, NODE/OF:PARTITION:SEED, to play several nodes on one machine
        #[arg(long)]
        share: Option<Share>,
        /// Threads to compute with; default: all cores
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
        threads: Option<u16>,
    },
    /// Run until stopped; reconnects by itself
    Start {
        /// End when stdin does, so that a process that starts nodes never leaves them behind
        #[arg(long)]
        until_stdin_ends: bool,
        /// Answer inference requests there as well; see `serve`
        #[arg(long, env = "EXEUNT_HTTP", value_name = "ADDR:PORT")]
        http: Option<SocketAddr>,
        #[command(flatten)]
        options: HttpOptions,
        #[command(flatten)]
        computing: ComputingOptions,
        /// Samples per batch when answering queries; default: as many as suit the network
        #[arg(long, env = "EXEUNT_BATCH", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
        batch: Option<u16>,
    },
    /// What the node is doing
    Status {
        /// One JSON document instead of lines (docs/json.md)
        #[arg(long)]
        json: bool,
    },
    /// Look whether everything works: engine, processor, clock, key, data, disk, and the way to the coordinator
    Doctor {
        /// One JSON document instead of lines (docs/json.md)
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        engine: EngineOptions,
    },
    /// Classify images with the policy in force
    Classify {
        /// JPEG or PNG files, folders of them, or - for paths on standard input, one a line
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// One JSON object per line instead of a table (docs/json.md)
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        computing: ComputingOptions,
    },
    /// Answer inference requests over HTTP (Open Inference Protocol v2) with the policy in force, until stopped
    Serve {
        /// Where to listen; there is no authentication
        #[arg(long, env = "EXEUNT_HTTP", default_value = "127.0.0.1:8000", value_name = "ADDR:PORT")]
        http: SocketAddr,
        #[command(flatten)]
        options: HttpOptions,
        #[command(flatten)]
        computing: ComputingOptions,
    },
}

/// What computes here.
#[derive(Debug, clap::Args)]
struct ComputingOptions {
    #[command(flatten)]
    engine: EngineOptions,
    /// Threads: as many samples at a time when answering queries (default: what was said when the node joined, else
    /// all cores), as many for one sample in inference where the engine can (ONNX Runtime; default: one)
    #[arg(long, env = "EXEUNT_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl ComputingOptions {
    fn choose(&self, batch: Option<u16>) -> Result<Computing, ChooseError> {
        let threads = self.threads.map(usize::from);
        let engine = Arc::new(self.engine.choose(threads)?);
        Ok(Computing { engine, threads, batch: batch.map(usize::from) })
    }
}

/// How requests over HTTP are answered.
#[derive(Debug, clap::Args)]
struct HttpOptions {
    /// What the model is called in requests; default: the run's id
    #[arg(long, env = "EXEUNT_MODEL", value_name = "NAME")]
    model: Option<String>,
    /// Share of the samples for which the whole network runs as well, to see whether it agrees; default: as `live.share`
    /// in node.json says, 0.01
    #[arg(long, env = "EXEUNT_AGREEMENT_SHARE", value_name = "SHARE", value_parser = share_of_samples)]
    agreement_share: Option<f64>,
    /// What the device draws while it infers, in watts, so that energy can be told; default: as `live.watts` in node.json
    /// says
    #[arg(long, env = "EXEUNT_WATTS", value_name = "WATTS", value_parser = watts)]
    watts: Option<f64>,
    /// Requests to compute at once; default: one per core. With 1, `serve` takes the least memory
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    http_threads: Option<u16>,
}

/// Exit code for wrong input.
const BAD_INPUT: u8 = 2;
/// Exit code when the coordinator does not answer.
const UNREACHABLE: u8 = 3;
/// Exit code when the coordinator says no, or is not the one that was expected.
const REFUSED: u8 = 4;

/// Runs a command line; the first argument is the program's name.
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { BAD_INPUT } else { 0 };
            // Nothing is left to do when the terminal is gone.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    start_logging(cli.verbose, cli.log_json);
    let home = Home::new(cli.home.unwrap_or_else(default_home));
    let result = match cli.command {
        Command::Join { token, data, name, share, threads } => {
            join(&home, &token, &data, name, share, threads)
        }
        Command::Start { until_stdin_ends, http, options, computing, batch } => computing
            .choose(batch)
            .map_err(Into::into)
            .and_then(|computing| start(home, until_stdin_ends, http, options, computing)),
        Command::Status { json } => status(&home, json),
        Command::Doctor { json, engine } => doctor(&home, &engine, json),
        Command::Classify { files, json, computing } => {
            computing.choose(None).map_err(Into::into).and_then(|computing| {
                classify(&home, &files, if json { Form::Json } else { Form::Text }, &computing)
            })
        }
        Command::Serve { http, options, computing } => {
            if options.http_threads == Some(1) {
                crate::allocator::one_heap();
            }
            let computing = computing.choose(None).map_err(Into::into);
            computing.and_then(|computing| serve(home, http, options, &computing))
        }
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(code_of(&error))
        }
    }
}

fn code_of(error: &anyhow::Error) -> u8 {
    use exeunt_link::{ConnectError, JoinError, TokenError};
    if let Some(error) = error.downcast_ref::<JoinError>() {
        return match error {
            JoinError::Rejected(_) => REFUSED,
            JoinError::Connect(
                ConnectError::WrongAuthority { .. }
                | ConnectError::NotCoordinator { .. }
                | ConnectError::Refused { .. },
            ) => REFUSED,
            JoinError::Connect(_) | JoinError::Interrupted(_) => UNREACHABLE,
            JoinError::Name(_) => BAD_INPUT,
            _ => 1,
        };
    }
    if error.is::<TokenError>()
        || error.is::<crate::home::HomeError>()
        || error.is::<BadInput>()
        || error.is::<ChooseError>()
    {
        return BAD_INPUT;
    }
    match error.downcast_ref::<ServiceError>() {
        Some(ServiceError::ShutOut(_)) => REFUSED,
        Some(ServiceError::Address(_) | ServiceError::Share(_) | ServiceError::Home(_)) => BAD_INPUT,
        _ => 1,
    }
}

fn default_home() -> PathBuf {
    directories::ProjectDirs::from("", "", "exeunt-node")
        .map_or_else(|| PathBuf::from("exeunt-node"), |dirs| dirs.data_dir().to_owned())
}

/// Log lines to stderr; `EXEUNT_LOG` before `verbose`.
fn start_logging(verbose: u8, json: bool) {
    use std::io::IsTerminal as _;

    use tracing_subscriber::EnvFilter;
    let level = match verbose {
        0 => "warn,tract_onnx=error,exeunt_node=info,exeunt_link=warn",
        1 => "info,exeunt_node=debug,exeunt_link=debug",
        _ => "debug,exeunt_node=trace,exeunt_link=trace",
    };
    let filter = EnvFilter::try_from_env("EXEUNT_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // A second call, as in tests, keeps the first logger.
    let _ = if json { builder.json().try_init() } else { builder.try_init() };
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")
}

fn join(
    home: &Home,
    token: &str,
    data: &Path,
    name: Option<String>,
    share: Option<Share>,
    threads: Option<u16>,
) -> anyhow::Result<ExitCode> {
    let token: Token = token.trim().parse().context("the token cannot be used")?;
    token.check_expiry(SystemTime::now())?;
    let data = data_folder(data)?;
    let name = name.unwrap_or_else(host_name);
    let identity = runtime()?.block_on(exeunt_link::join(&token, &name, home.identity()))?;
    let settings = NodeSettings {
        name: name.clone(),
        coordinator: token.addresses().iter().map(ToString::to_string).collect(),
        data,
        share: share.map(|share| share.to_string()),
        threads: threads.map(usize::from),
        live: LiveSettings::default(),
    };
    home.save_settings(&settings)?;
    println!("joined as '{name}', short id {}", identity.id().short());
    println!("compare the short id with the one that `exeunt node list` shows, then run `exeunt-node start`");
    Ok(ExitCode::SUCCESS)
}

/// Input that a person gave and that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BadInput(String);

/// The folder of the samples, as a path that holds from everywhere.
fn data_folder(data: &Path) -> Result<PathBuf, BadInput> {
    let wrong = |found: &str| {
        let path = data.display();
        BadInput(format!("--data {path}: found {found}, expected the folder with this node's samples"))
    };
    let folder = std::fs::canonicalize(data).map_err(|error| wrong(&error.to_string()))?;
    let mut entries = std::fs::read_dir(&folder).map_err(|error| wrong(&error.to_string()))?;
    if entries.next().is_none() { Err(wrong("an empty folder")) } else { Ok(folder) }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = if name.trim().is_empty() { std::env::var("HOSTNAME").unwrap_or_default() } else { name };
    if name.trim().is_empty() { "node".to_owned() } else { name.trim().to_owned() }
}

fn start(
    home: Home,
    until_stdin_ends: bool,
    http: Option<SocketAddr>,
    options: HttpOptions,
    computing: Computing,
) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(async {
        let asked_to_stop = async {
            tokio::select! {
                () = stop_signal() => {}
                () = stdin_end(), if until_stdin_ends => {}
            }
        };
        let Some(http) = http else {
            crate::service::run_with(home, computing, asked_to_stop).await?;
            return Ok(ExitCode::SUCCESS);
        };
        let (server, follower) = listen(&home, http, options, &computing).await?;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let served = tokio::spawn(server.run(async {
            // Dropped without a word is a wish to stop, too.
            let _ = stopped.await;
        }));
        let result = crate::service::run_with(home, computing, asked_to_stop).await;
        drop(stop);
        served.await?;
        follower.abort();
        result?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Resolves when stdin ends. A thread reads it: the runtime would wait for a read of its own when the service ends.
async fn stdin_end() {
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        // An error is an end, too.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        drop(end);
    });
    // Only ever dropped.
    let _ = ended.await;
}

/// Resolves when the process is asked to stop.
async fn stop_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    // Without signals the service runs until it is killed, which it survives.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn status(home: &Home, json: bool) -> anyhow::Result<ExitCode> {
    let settings = home.settings()?;
    let report = home.report()?;
    let running = report.as_ref().and_then(|report| report.pid).is_some_and(is_alive);
    let policy = home.policy()?;
    if json {
        #[derive(Serialize)]
        struct Status {
            running: bool,
            settings: NodeSettings,
            report: Option<NodeReport>,
            policy: Option<PolicyInForce>,
        }
        println!("{}", serde_json::to_string_pretty(&Status { running, settings, report, policy })?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("node         {}", settings.name);
    println!("data         {}", settings.data.display());
    println!("coordinator  {}", settings.coordinator.join(", "));
    match &report {
        Some(report) if running => {
            println!("short id     {}", report.short);
            let state = if report.connected { "connected" } else { "not connected" };
            println!("state        running (process {}), {state}", report.pid.unwrap_or_default());
            println!("membership   {}", crate::service::told(report.membership));
            for (run, activity) in &report.runs {
                println!("run          {run}: {}", describe(activity));
            }
            if let Some(problem) = &report.problem {
                println!("problem      {problem}");
            }
            println!("as of        {}", age(report.at_ms));
        }
        _ => println!("state        not running; start it with `exeunt-node start`"),
    }
    match &policy {
        Some(policy) => println!("policy       version {} of {}", policy.version, policy.run),
        None => println!("policy       none yet"),
    }
    Ok(ExitCode::SUCCESS)
}

fn doctor(home: &Home, engine: &EngineOptions, json: bool) -> anyhow::Result<ExitCode> {
    let checkup = runtime()?.block_on(crate::doctor::examine(home, engine));
    if json {
        println!("{}", serde_json::to_string_pretty(&checkup)?);
    } else {
        print!("{}", checkup.text());
    }
    Ok(if checkup.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn describe(activity: &Activity) -> String {
    match activity {
        Activity::Idle => "nothing to do".to_owned(),
        Activity::Fetching => "fetching".to_owned(),
        Activity::Computing { query, done, of } => format!("computing {query}, {done} of {of} samples"),
        Activity::Sending { query } => format!("sending its answer to {query}"),
    }
}

fn age(at_ms: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    format!("{} s ago", now.saturating_sub(at_ms / 1000))
}

fn is_alive(pid: u32) -> bool {
    // Where there is no /proc the file's word has to do.
    !Path::new("/proc/self").exists() || Path::new(&format!("/proc/{pid}")).exists()
}

/// Loads inference with the policy that the node last received.
///
/// # Errors
/// When no policy has been received, or something in the cache is gone.
pub fn load_ready(home: &Home, engine: &EngineChoice) -> anyhow::Result<Ready> {
    let Some(policy) = home.policy()? else {
        // A folder without a node is another matter.
        home.settings()?;
        anyhow::bail!(
            "this node has no policy yet: run it with `exeunt-node start`, and set one with `exeunt policy set`"
        );
    };
    Ok(Ready::load(home, policy, engine, None)?)
}

fn classify(home: &Home, places: &[PathBuf], form: Form, computing: &Computing) -> anyhow::Result<ExitCode> {
    let ready = load_ready(home, &computing.engine)?;
    let (stdin, stdout, stderr) =
        (std::io::stdin().lock(), std::io::stdout().lock(), std::io::stderr().lock());
    let bad = classify::classify(&ready, places, stdin, form, stdout, stderr)?;
    Ok(if bad > 0 { ExitCode::from(BAD_INPUT) } else { ExitCode::SUCCESS })
}

fn serve(
    home: Home,
    http: SocketAddr,
    options: HttpOptions,
    computing: &Computing,
) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(async {
        let (server, follower) = listen(&home, http, options, computing).await?;
        server.run(stop_signal()).await;
        follower.abort();
        Ok(ExitCode::SUCCESS)
    })
}

/// A server, and the task that keeps it at the policy in force.
async fn listen(
    home: &Home,
    http: SocketAddr,
    options: HttpOptions,
    computing: &Computing,
) -> anyhow::Result<(Server, tokio::task::JoinHandle<()>)> {
    let (sender, live) = tokio::sync::watch::channel(None);
    let threads = options.http_threads.map_or_else(cores, usize::from);
    let limits = Limits { threads, ..Limits::default() };
    let mut joined = true;
    let settings = match home.settings() {
        Ok(settings) => settings.live,
        // A folder with a policy is enough to infer from.
        Err(HomeError::NotJoined { .. }) => {
            joined = false;
            LiveSettings::default()
        }
        Err(error) => return Err(error.into()),
    };
    let settings = LiveSettings {
        share: options.agreement_share.unwrap_or(settings.share),
        watts: options.watts.or(settings.watts),
        ..settings
    };
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    let ledger = Ledger::new(home.clone(), settings, u64::from(seed));
    let server = Server::bind(http, live, options.model, limits);
    let server =
        server.await.with_context(|| format!("--http {http}: cannot listen there"))?.counting(ledger);
    let address = server.address();
    eprintln!("inference at http://{address}/v2, metrics at http://{address}/metrics");
    if !address.ip().is_loopback() {
        tracing::warn!("anybody who reaches {address} can ask: there is no authentication");
    }
    if home.policy()?.is_none() {
        let root = home.root().display();
        if joined {
            tracing::warn!("no policy has come to {root} yet; requests are answered once one has");
        } else {
            tracing::warn!(
                "{root} has never joined a federation and holds no policy: requests are answered once `exeunt-node start` \
                 runs there, after `exeunt-node join TOKEN --data DIR`"
            );
        }
    }
    let engine = Arc::clone(&computing.engine);
    Ok((server, tokio::spawn(serve::follow(home.clone(), engine, threads, sender))))
}

fn share_of_samples(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share: &f64| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("found '{text}', expected a share from 0 to 1, such as 0.01"))
}

fn watts(text: &str) -> Result<f64, String> {
    let watts = text.parse().ok().filter(|watts: &f64| *watts > 0.0 && *watts < 1e6);
    watts.ok_or_else(|| format!("found '{text}', expected a number of watts above 0"))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
