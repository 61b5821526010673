//! The processes of a measurement, and what they use.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use exeunt_coordinator::Home;
use serde::Serialize;

use super::nodes::{Order, Word};

/// Ticks of processor time per second in `/proc`, the same on every Linux that programs see.
const TICKS: f64 = 100.0;
/// How long a process may take until it can be reached.
const PATIENCE: Duration = Duration::from_secs(60);

/// Memory and processor time of a process. None where the system does not tell.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Usage {
    /// Bytes that are resident.
    pub(super) resident: Option<u64>,
    /// Most bytes that were.
    pub(super) peak: Option<u64>,
    /// Seconds of processor time of all threads.
    pub(super) cpu_s: Option<f64>,
}

/// A process that ends with this value.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    what: &'static str,
}

impl Process {
    fn start(what: &'static str, command: &mut Command) -> anyhow::Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot start {what}"))?;
        Ok(Self { child, what })
    }

    /// `exeunt serve` in a folder, once it can be reached.
    pub(super) fn coordinator(home: &Home) -> anyhow::Result<Self> {
        let log = home.root().join("coordinator.log");
        let mut command = this_program()?;
        command.arg("--home").arg(home.root()).args(["serve", "--listen", "127.0.0.1:0"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let mut process = Self::start("the coordinator", &mut command)?;
        let begun = Instant::now();
        while home.operator().is_err() {
            process.expect_alive(&log)?;
            anyhow::ensure!(begun.elapsed() < PATIENCE, "the coordinator cannot be reached");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(process)
    }

    /// A server that discards what it reads, and its address.
    pub(super) fn discard(home: &Home) -> anyhow::Result<(Self, SocketAddr)> {
        let mut command = this_program()?;
        command.args(["bench", "discard", "--folder"]).arg(home.root());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Self::start("the discarding server", &mut command)?;
        let stdout = process.child.stdout.take().context("it has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().parse().context("the discarding server said no address")?;
        Ok((process, address))
    }

    fn expect_alive(&mut self, log: &Path) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let said = std::fs::read_to_string(log).unwrap_or_default();
        anyhow::bail!("{} ended with {status}: {}", self.what, said.trim())
    }

    /// What it uses at this moment.
    pub(super) fn usage(&self) -> Usage {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).ok();
        let status = read("status").unwrap_or_default();
        let kilobytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kb| kb * 1024)
        };
        let cpu_s = read("stat").and_then(|stat| {
            // The name, in brackets, may hold anything.
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
            Some((ticks(11)? + ticks(12)?) / TICKS)
        });
        Usage { resident: kilobytes("VmRSS:"), peak: kilobytes("VmHWM:"), cpu_s }
    }

    /// Kills it, and waits until it is gone.
    pub(super) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already, or is of no use any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process of the nodes.
#[derive(Debug)]
pub(super) struct Nodes {
    _process: Process,
    orders: ChildStdin,
    words: BufReader<ChildStdout>,
}

impl Nodes {
    /// Starts it; `arguments` are those of [`super::nodes::NodesArgs`].
    pub(super) fn start(arguments: &[(&str, String)]) -> anyhow::Result<Self> {
        let mut command = this_program()?;
        command.args(["bench", "nodes"]);
        for (name, value) in arguments {
            command.arg(name).arg(value);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start("the nodes", &mut command)?;
        let orders = process.child.stdin.take().context("they have no input")?;
        let words = BufReader::new(process.child.stdout.take().context("they have no output")?);
        Ok(Self { _process: process, orders, words })
    }

    /// Tells it something, and waits for the answer.
    pub(super) fn tell(&mut self, order: &Order) -> anyhow::Result<Word> {
        writeln!(self.orders, "{}", serde_json::to_string(order)?).context("the nodes have ended")?;
        self.hear()
    }

    /// Waits for a word.
    pub(super) fn hear(&mut self) -> anyhow::Result<Word> {
        let mut line = String::new();
        self.words.read_line(&mut line)?;
        anyhow::ensure!(!line.is_empty(), "the nodes have ended");
        Ok(serde_json::from_str(&line)?)
    }
}

/// This program, to be started again with the same settings for logs.
fn this_program() -> anyhow::Result<Command> {
    Ok(Command::new(std::env::current_exe().context("cannot find this program")?))
}

/// Where a discarding server finds its keys.
#[derive(Debug, clap::Args)]
pub(crate) struct DiscardArgs {
    /// Folder of a coordinator
    #[arg(long)]
    folder: std::path::PathBuf,
}

/// Serves what `exeunt bench` compares with, until it is killed.
pub(crate) fn discard(arguments: &DiscardArgs) -> anyhow::Result<()> {
    let identity = Home::new(&arguments.folder).keys(std::time::SystemTime::now())?.identity;
    crate::runtime()?.block_on(async {
        let address = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
        let server = exeunt_link::Discard::bind(address, &identity, exeunt_link::Limits::default()).await?;
        crate::out!("{}", server.local_addr());
        server.run().await;
        Ok(())
    })
}
