//! A federation of real processes in a folder of its own, for the tests that start and kill them.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything that should happen; the machine may be busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// Polls until `look` gives something.
///
/// # Panics
/// After [`PATIENCE`], naming what did not come.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} did not come within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The repository's folder.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The digits that ship.
pub(crate) fn digits() -> PathBuf {
    repository().join("assets/digits")
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// The output of a command that worked.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// The document that a command printed.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// A command that failed as documented: this exit code, nothing on stdout, and a message with these parts.
    #[track_caller]
    pub(crate) fn failed(self, code: i32, parts: &[&str]) -> String {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "", "data of a command that failed");
        for part in parts {
            assert!(self.stderr.contains(part), "'{part}' is missing in: {}", self.stderr);
        }
        self.stderr
    }
}

/// The binary, with nothing of this process's environment that it would listen to. It computes with the engine that is
/// on every machine: tables are compared bit for bit.
pub(crate) fn exeunt(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_exeunt"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("EXEUNT_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null()).env("EXEUNT_ENGINE", "tract");
    command
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Done {
    let (out, err) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
    let mut child = Killed(
        command
            .stdout(out.reopen().unwrap())
            .stderr(err.reopen().unwrap())
            .spawn()
            .expect("the binary starts"),
    );
    let status = wait_for(&format!("the end of {command:?}"), || child.0.try_wait().unwrap());
    let read = |file: &tempfile::NamedTempFile| fs::read_to_string(file.path()).unwrap();
    Done { code: status.code(), stdout: read(&out), stderr: read(&err) }
}

/// Compares a document's fields with those that docs/json.md names in bold under this heading: each in both.
#[track_caller]
pub(crate) fn assert_documented(heading: &str, document: &Value) {
    let text = fs::read_to_string(repository().join("docs/json.md")).unwrap();
    let section = text
        .split("\n### ")
        .find(|section| section.lines().next().is_some_and(|line| line.contains(&format!("`{heading}`"))));
    let section = section.unwrap_or_else(|| panic!("docs/json.md has no section for {heading}"));
    let mut documented: Vec<&str> = section.split("**").skip(1).step_by(2).collect();
    let mut found: Vec<&str> = document.as_object().expect("an object").keys().map(String::as_str).collect();
    documented.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, documented, "{heading}: what is printed, and what docs/json.md says");
}

/// A process that does not outlive its test.
#[derive(Debug)]
pub(crate) struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process of the federation, with what it wrote.
#[derive(Debug)]
pub(crate) struct Process {
    child: Option<Killed>,
    pub(crate) log: PathBuf,
}

impl Process {
    pub(crate) fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let child = command.stdout(Stdio::null()).stderr(file).spawn().expect("the binary starts");
        Self { child: Some(Killed(child)), log }
    }

    /// Everything it has written, over all its lives.
    pub(crate) fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child = None;
    }

    /// Waits for an end that the process chose itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("it runs");
        wait_for("the end of a process", || child.0.try_wait().unwrap())
    }

    /// Its exit code, or that of the shell's convention where a signal ended it.
    #[cfg(unix)]
    pub(crate) fn exit_code(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt as _;
        let status = self.wait();
        status.code().or_else(|| Some(128 + status.signal()?)).expect("it ended")
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, signal: &str) {
        let process = self.child.as_ref().expect("it runs").0.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &process]).status().expect("POSIX's kill");
        assert!(sent.success(), "SIG{signal} was not sent to {process}");
    }
}

/// A coordinator and nodes, in a folder that goes with them.
#[derive(Debug)]
pub(crate) struct Federation {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) coordinator: Process,
    pub(crate) nodes: Vec<Process>,
    listen: String,
}

impl Federation {
    /// A coordinator on a port that the system chooses.
    pub(crate) fn serve() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("coordinator");
        let coordinator = serve(&home, "127.0.0.1:0", &folder.path().join("coordinator.log"));
        let whereabouts = home.join("coordinator.json");
        let mut federation = Self { folder, coordinator, nodes: Vec::new(), listen: String::new() };
        wait_for("the coordinator", || federation.listening(1).then_some(()));
        let whereabouts: Value = serde_json::from_slice(&fs::read(whereabouts).unwrap()).unwrap();
        federation.listen = whereabouts["local"][0].as_str().unwrap().to_owned();
        federation
    }

    /// A coordinator with `of` nodes that have joined and run, each with its share of the digits.
    pub(crate) fn with_nodes(of: usize, partition: &str) -> Self {
        let mut federation = Self::serve();
        for node in 0..of {
            federation.join(node, of, partition).ok();
            federation.start_node(node);
        }
        federation
    }

    fn listening(&self, times: usize) -> bool {
        self.coordinator.text().matches("coordinator listens on").count() >= times
    }

    /// Where the coordinator listens.
    pub(crate) fn listen(&self) -> &str {
        &self.listen
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("coordinator")
    }

    pub(crate) fn node_home(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("node-{node}"))
    }

    /// A command of the operator.
    #[track_caller]
    pub(crate) fn operator(&self, arguments: &[&str]) -> Done {
        run(exeunt(&["--home"]).arg(self.home()).args(arguments))
    }

    /// A command of a node.
    #[track_caller]
    pub(crate) fn node(&self, node: usize, arguments: &[&str]) -> Done {
        run(self.node_command(node).args(arguments))
    }

    fn node_command(&self, node: usize) -> Command {
        let mut command = exeunt(&["node-process", "--", "--home"]);
        command.arg(self.node_home(node));
        command
    }

    pub(crate) fn token(&self) -> String {
        self.operator(&["token"]).ok().trim().to_owned()
    }

    pub(crate) fn join(&self, node: usize, of: usize, partition: &str) -> Done {
        let (token, data) = (self.token(), digits());
        let (name, share) = (format!("node-{node}"), format!("{node}/{of}:{partition}"));
        let data = data.to_str().unwrap();
        let arguments =
            ["join", &token, "--data", data, "--name", &name, "--share", &share, "--threads", "1"];
        self.node(node, &arguments)
    }

    /// Starts a node's service, or starts it again.
    pub(crate) fn start_node(&mut self, node: usize) {
        let log = self.folder.path().join(format!("node-{node}.log"));
        let process = Process::start(self.node_command(node).arg("start"), log);
        if node < self.nodes.len() {
            self.nodes[node] = process;
        } else {
            self.nodes.push(process);
        }
    }

    /// Starts the coordinator again where it was, and waits until it listens.
    pub(crate) fn restart_coordinator(&mut self) {
        let before = self.coordinator.text().matches("coordinator listens on").count();
        self.coordinator = serve(&self.home(), &self.listen, &self.folder.path().join("coordinator.log"));
        wait_for("the coordinator after its restart", || self.listening(before + 1).then_some(()));
    }

    /// Starts a run, and returns its id.
    pub(crate) fn start_run(&self, file: &Path) -> String {
        self.operator(&["run", "start", file.to_str().unwrap()]).ok().trim().to_owned()
    }

    /// The run as it stands; none while the coordinator is down.
    pub(crate) fn show(&self) -> Option<Value> {
        let done = self.operator(&["run", "show", "--json"]);
        match done.code {
            Some(3) => None,
            _ => Some(done.json()),
        }
    }

    /// The run once it is ready.
    pub(crate) fn ready(&self) -> Value {
        wait_for("the end of the run", || {
            self.show().filter(|report| match report["standing"]["standing"].as_str() {
                Some("ready") => true,
                Some("failed") => panic!("the run failed: {report}"),
                _ => false,
            })
        })
    }

    /// The run file of the digits with these lines replaced.
    pub(crate) fn run_file(&self, changes: &[(&str, &str)]) -> PathBuf {
        let configs = repository().join("configs");
        let mut text = fs::read_to_string(configs.join("digits.toml")).unwrap();
        let assets = format!("{}/../assets", configs.display());
        for (from, to) in [("../assets", assets.as_str())].iter().chain(changes) {
            assert!(text.contains(from), "'{from}' is not in the run file any more");
            text = text.replace(from, to);
        }
        let path = self.folder.path().join("run.toml");
        fs::write(&path, text).unwrap();
        path
    }
}

fn serve(home: &Path, listen: &str, log: &Path) -> Process {
    Process::start(exeunt(&["serve", "--listen", listen, "--home"]).arg(home), log.to_owned())
}

impl Drop for Federation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for process in std::iter::once(&self.coordinator).chain(&self.nodes) {
                eprintln!("--- {}\n{}", process.log.display(), process.text());
            }
        }
    }
}
