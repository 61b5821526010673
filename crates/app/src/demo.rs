//! `exeunt demo`: the whole job, over real QUIC, on what ships.

use std::future::Future as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::task::Poll;
use std::time::Instant;

use anyhow::Context as _;
use exeunt_data::{Partition, Reader};
use exeunt_node::cli::load_ready;
use exeunt_protocol::operator::{OperatorRequest, OperatorResponse, RunReport};
use exeunt_simulate::{LocalFederation, NodePlace, Plan};
use tokio::process::{Child, ChildStdin, Command};

use crate::cli::DemoArgs;
use crate::failure::Interrupted;
use crate::serve::stop_signal;
use crate::simulate::{bar, finish, progress};

/// Points of accuracy that the demo's policy may lose on the calibration part.
const MAX_DROP: f64 = 1.0;
/// Images that are shown one by one.
const SHOWN: usize = 6;

pub(crate) fn demo(arguments: &DemoArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    let plan = plan(arguments.nodes)?;
    let folder = tempfile::tempdir().context("cannot make a folder for the federation")?;
    let runtime = crate::runtime()?;
    let result = runtime.block_on(async {
        let mut processes = Vec::new();
        let result = tokio::select! {
            result = run(arguments, &plan, folder.path(), &mut processes, start) => result,
            () = stop_signal() => Err(Interrupted.into()),
        };
        end(processes).await;
        result
    });
    // Nothing writes to the folder any more when it goes.
    drop(runtime);
    result
}

/// The digits that ship with the repository, dealt out unevenly.
pub(crate) fn plan(nodes: u32) -> anyhow::Result<Plan> {
    let assets = assets()?;
    let mut plan = Plan::read(&assets.join("../configs/digits.toml"), None, None)?;
    plan.nodes = nodes;
    plan.partition = Partition::Dirichlet(1.0);
    plan.seed = 1;
    plan.close_membership();
    Ok(plan)
}

/// The folder that ships with the repository: beside the sources this was built from, or below the working folder.
fn assets() -> anyhow::Result<PathBuf> {
    let places = [Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets"), PathBuf::from("assets")];
    let found = places.iter().find(|place| place.join("digits_resnet.onnx").exists());
    found.cloned().context("assets/digits_resnet.onnx is not here: run the demo in the repository's folder")
}

async fn run(
    arguments: &DemoArgs,
    plan: &Plan,
    folder: &Path,
    processes: &mut Vec<NodeProcess>,
    start: Instant,
) -> anyhow::Result<()> {
    let say = |text: String| {
        if !arguments.output.json {
            crate::out!("{text}");
        }
    };
    let federation = LocalFederation::start(folder).await?;
    say(format!("coordinator on {} (QUIC, mutual TLS)", federation.address()));
    let places = federation.join(plan, 1).await?;
    start_processes(&places, processes)?;
    say(format!(
        "{} node processes joined with one-time tokens, shares {} of the digits",
        places.len(),
        plan.partition
    ));
    let run = federation.start_run(plan).await?;

    let bar = bar();
    tokio::select! {
        report = federation.wait(&run, |report| bar.set_message(progress(report))) => { report?; }
        ended = first_end(processes) => return Err(ended),
    }
    let wish = exeunt_exits::PolicyRequest::MaxDrop(MAX_DROP);
    let request = OperatorRequest::SetPolicy { run: Some(run.clone()), wish, node: None };
    let response = federation.operator().ask(&request).await?;
    anyhow::ensure!(matches!(response, OperatorResponse::Policy { .. }), "the policy was not set");
    // The policy is measured like everything else: by asking the nodes.
    let report = tokio::select! {
        report = federation.wait(&run, |report| bar.set_message(progress(report))) => report?,
        ended = first_end(processes) => return Err(ended),
    };
    bar.finish_and_clear();

    if !arguments.output.json {
        crate::out::write(format_args!("{}", crate::show::report(&report)), "");
        crate::out!("");
        classify(plan, &places[0], &report).await?;
        crate::out!("");
    }
    federation.stop().await?;
    if arguments.output.json {
        return finish(&report, start, true, arguments.svg.as_deref());
    }
    if let Some(path) = &arguments.svg {
        crate::show::save_picture(&report, path)?;
    }
    crate::out!("took {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// A node's process.
#[derive(Debug)]
pub(crate) struct NodeProcess {
    name: String,
    child: Child,
    /// The process ends when this end of its stdin is gone: with this value, and also when this process is killed.
    _leash: Option<ChildStdin>,
}

/// Starts a process per node.
pub(crate) fn start_processes(places: &[NodePlace], processes: &mut Vec<NodeProcess>) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    for place in places {
        let mut child = Command::new(&program)
            .args([crate::cli::NODE_PROCESS, "--home"])
            .arg(&place.home)
            .args(["start", "--until-stdin-ends"])
            .env("EXEUNT_LOG", "warn")
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start the process of {}", place.name))?;
        // Taken out of the child: waiting for that would close it.
        let leash = child.stdin.take();
        processes.push(NodeProcess { name: place.name.clone(), child, _leash: leash });
    }
    Ok(())
}

/// Waits for a node process that ends before its time: the run would wait for it in vain.
async fn first_end(processes: &mut [NodeProcess]) -> anyhow::Error {
    let waits = processes.iter_mut().map(|NodeProcess { name, child, .. }| {
        Box::pin(async move {
            match child.wait().await {
                Ok(status) => anyhow::anyhow!("the process of {name} ended: {status}"),
                Err(error) => anyhow::Error::from(error).context(format!("the process of {name} is lost")),
            }
        })
    });
    let mut waits: Vec<_> = waits.collect();
    std::future::poll_fn(|context| {
        let mut ready = waits.iter_mut().map(|wait| wait.as_mut().poll(context));
        ready.find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}

/// Ends node processes and waits until they are gone.
async fn end(processes: Vec<NodeProcess>) {
    for NodeProcess { name, mut child, .. } in processes {
        if let Err(error) = child.kill().await {
            tracing::warn!("the process of {name} cannot be ended: {error}");
        }
    }
}

/// Classifies evaluation images with the policy that a node received, and says what was saved.
async fn classify(plan: &Plan, place: &NodePlace, report: &RunReport) -> anyhow::Result<()> {
    let home = exeunt_node::Home::new(&place.home);
    let version = report.status.in_force().map_or(0, |policy| policy.version.0);
    let deadline = Instant::now() + std::time::Duration::from_secs(10);
    while home.policy()?.is_none_or(|policy| policy.version < version) {
        anyhow::ensure!(Instant::now() < deadline, "{} did not receive the policy", place.name);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let ready = load_ready(&home, &exeunt_network::EngineChoice::tract())?;
    let spec = ready.inference.spec();
    let samples =
        Reader::new(&plan.data, &spec.data, spec.seed, &spec.classes).part(&spec.data.evaluation)?;
    crate::out!(
        "{} images of the evaluation part with policy {}, as {} has it:",
        samples.len(),
        ready.policy.version,
        place.name
    );
    let (mut cost, mut right, mut early) = (0.0, 0, 0);
    for i in 0..samples.len() {
        let verdict = ready.inference.classify(&samples.load(i)?, &samples.name(i))?;
        cost += verdict.cost;
        right += usize::from(verdict.class == samples.labels()[i]);
        early += usize::from(verdict.exit.is_some());
        if i < SHOWN {
            let class = &spec.classes[verdict.class as usize];
            let exit =
                verdict.exit.map_or("after the whole network".to_owned(), |e| format!("at exit {}", e + 1));
            let mark = if verdict.class == samples.labels()[i] { "right" } else { "wrong" };
            crate::out!(
                "  a {} → {class}, {exit}, cost {:.2} ({mark})",
                spec.classes[samples.labels()[i] as usize],
                verdict.cost
            );
        }
    }
    let n = samples.len().max(1) as f64;
    crate::out!(
        "  {:.1} % right, {:.1} % left early, {:.1} % of the multiply-accumulates saved",
        100.0 * right as f64 / n,
        100.0 * f64::from(early as u32) / n,
        100.0 * (1.0 - cost / n)
    );
    Ok(())
}
