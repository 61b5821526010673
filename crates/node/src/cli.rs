//! The command line of `exeunt-node`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use exeunt_data::{Image, Share};
use exeunt_exits::{Heads, Policy};
use exeunt_link::Token;
use exeunt_network::{Network, Tract};
use exeunt_protocol::message::Activity;
use exeunt_protocol::spec::RunSpec;
use serde::Serialize;

use crate::home::{Home, NodeReport, NodeSettings, PolicyInForce};
use crate::infer::Inference;
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
    },
    /// What the node is doing
    Status {
        /// One JSON document instead of lines (docs/json.md)
        #[arg(long)]
        json: bool,
    },
    /// Classify image files with the policy in force
    Classify {
        /// JPEG or PNG files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// One JSON object per file and line instead of a table (docs/json.md)
        #[arg(long)]
        json: bool,
    },
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
        Command::Start { until_stdin_ends } => start(home, until_stdin_ends),
        Command::Status { json } => status(&home, json),
        Command::Classify { files, json } => classify(&home, &files, json),
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
    if error.is::<TokenError>() || error.is::<crate::home::HomeError>() || error.is::<BadInput>() {
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
        0 => "warn,exeunt_node=info,exeunt_link=warn",
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

fn start(home: Home, until_stdin_ends: bool) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(async {
        let stop = async {
            tokio::select! {
                () = stop_signal() => {}
                () = stdin_end(), if until_stdin_ends => {}
            }
        };
        crate::service::run(home, stop).await
    })?;
    Ok(ExitCode::SUCCESS)
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
pub fn load_inference(home: &Home) -> anyhow::Result<(Inference, PolicyInForce)> {
    let policy = home.policy()?.context(
        "this node has no policy yet: run it with `exeunt-node start`, and set one with `exeunt policy set`",
    )?;
    let spec: RunSpec =
        serde_json::from_slice(&home.blob(policy.spec)?).context("the run's specification")?;
    let network = Network::from_bytes(home.blob(policy.network)?)?;
    let heads = Arc::new(Heads::decode(&home.blob(policy.heads)?)?);
    let chosen: Policy = serde_json::from_slice(&home.blob(policy.policy)?).context("the policy")?;
    Ok((Inference::new(spec, &network, &Tract, heads, chosen)?, policy))
}

/// What was decided for one file, as `classify --json` prints it.
#[derive(Debug, Serialize)]
struct Line<'a> {
    file: &'a Path,
    class: &'a str,
    class_id: u32,
    exit: Option<&'a str>,
    margin: f64,
    cost: f64,
    policy_version: u32,
}

fn classify(home: &Home, files: &[PathBuf], json: bool) -> anyhow::Result<ExitCode> {
    home.settings()?;
    let (inference, policy) = load_inference(home)?;
    let mut failed = false;
    let files_wide =
        files.iter().map(|file| file.display().to_string().chars().count()).max().unwrap_or(0).max(4);
    let classes = &inference.spec().classes;
    let classes_wide = classes.iter().map(|class| class.chars().count()).max().unwrap_or(0).max(5);
    let row = |file: &str, class: &str, left: &str, margin: &str, cost: &str| {
        println!("{file:files_wide$}  {class:classes_wide$}  {left:13}  {margin:>8}  {cost:>6}");
    };
    if !json {
        row("file", "class", "left at", "margin", "cost");
    }
    for file in files {
        let name = file.display().to_string();
        let verdict = std::fs::read(file)
            .with_context(|| name.clone())
            .and_then(|bytes| Ok(inference.classify(&Image::decode(&bytes, &name)?, &name)?));
        match verdict {
            Ok(verdict) => {
                let spec = inference.spec();
                let line = Line {
                    file,
                    class: spec.classes.get(verdict.class as usize).map_or("", String::as_str),
                    class_id: verdict.class,
                    exit: verdict.exit.map(|e| spec.exits[e].tap.as_str()),
                    margin: verdict.margin,
                    cost: verdict.cost,
                    policy_version: policy.version,
                };
                if json {
                    println!("{}", serde_json::to_string(&line)?);
                } else {
                    let left = verdict.exit.map_or("whole network".to_owned(), |e| format!("exit {}", e + 1));
                    row(
                        &name,
                        line.class,
                        &left,
                        &format!("{:.2}", line.margin),
                        &format!("{:.3}", line.cost),
                    );
                }
            }
            Err(error) => {
                failed = true;
                eprintln!("error: {error:#}");
            }
        }
    }
    Ok(if failed { ExitCode::from(BAD_INPUT) } else { ExitCode::SUCCESS })
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
