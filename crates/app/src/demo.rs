//! `exeunt demo`: the whole job, over real QUIC, on what ships.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::Context as _;
use exeunt_data::{Partition, Reader};
use exeunt_node::cli::load_inference;
use exeunt_protocol::operator::{OperatorRequest, OperatorResponse, RunReport};
use exeunt_simulate::{LocalFederation, NodePlace, Plan};
use tokio::process::{Child, Command};

use crate::cli::DemoArgs;
use crate::simulate::{bar, finish, progress};

/// Points of accuracy that the demo's policy may lose on the calibration part.
const MAX_DROP: f64 = 1.0;
/// Images that are shown one by one.
const SHOWN: usize = 6;

pub(crate) fn demo(arguments: &DemoArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    let plan = plan(arguments.nodes)?;
    crate::runtime()?.block_on(run(arguments, &plan, start))
}

/// The digits that ship with the repository, dealt out unevenly.
pub(crate) fn plan(nodes: u32) -> anyhow::Result<Plan> {
    let assets = assets()?;
    let mut plan = Plan::read(&assets.join("../configs/digits.toml"), None, None)?;
    plan.nodes = nodes;
    plan.partition = Partition::Dirichlet(1.0);
    plan.seed = 1;
    plan.file.federation.quorum = nodes;
    Ok(plan)
}

/// The folder that ships with the repository: beside the sources this was built from, or below the working folder.
fn assets() -> anyhow::Result<PathBuf> {
    let places = [Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets"), PathBuf::from("assets")];
    let found = places.iter().find(|place| place.join("digits_resnet.onnx").exists());
    found.cloned().context("assets/digits_resnet.onnx is not here: run the demo in the repository's folder")
}

async fn run(arguments: &DemoArgs, plan: &Plan, start: Instant) -> anyhow::Result<()> {
    let say = |text: String| {
        if !arguments.output.json {
            println!("{text}");
        }
    };
    let folder = tempfile::tempdir().context("cannot make a folder for the federation")?;
    let federation = LocalFederation::start(folder.path()).await?;
    say(format!("coordinator on {} (QUIC, mutual TLS)", federation.address()));
    let places = federation.join(plan, 1).await?;
    let _processes = start_processes(&places)?;
    say(format!(
        "{} node processes joined with one-time tokens, shares {} of the digits",
        places.len(),
        plan.partition
    ));
    let run = federation.start_run(plan).await?;

    let bar = bar();
    federation.wait(&run, |report| bar.set_message(progress(report))).await?;
    let wish = exeunt_exits::PolicyRequest::MaxDrop(MAX_DROP);
    let request = OperatorRequest::SetPolicy { run: Some(run.clone()), wish };
    let response = federation.operator().ask(&request).await?;
    anyhow::ensure!(matches!(response, OperatorResponse::Policy { .. }), "the policy was not set");
    // The policy is measured like everything else: by asking the nodes.
    let report = federation.wait(&run, |report| bar.set_message(progress(report))).await?;
    bar.finish_and_clear();

    if !arguments.output.json {
        print!("{}", crate::show::report(&report));
        println!();
        classify(plan, &places[0], &report).await?;
        println!();
    }
    federation.stop().await?;
    if arguments.output.json {
        return finish(&report, start, true, arguments.svg.as_deref());
    }
    if let Some(path) = &arguments.svg {
        crate::show::save_picture(&report, path)?;
    }
    println!("took {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Starts a process per node, which ends with this one.
pub(crate) fn start_processes(places: &[NodePlace]) -> anyhow::Result<Vec<Child>> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let start = |place: &NodePlace| {
        Command::new(&program)
            .args(["node-process", "--", "--home"])
            .arg(&place.home)
            .arg("start")
            .env("EXEUNT_LOG", "warn")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start the process of {}", place.name))
    };
    places.iter().map(start).collect()
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
    let (inference, policy) = load_inference(&home)?;
    let spec = inference.spec();
    let samples =
        Reader::new(&plan.data, &spec.data, spec.seed, &spec.classes).part(&spec.data.evaluation)?;
    println!(
        "{} images of the evaluation part with policy {}, as {} has it:",
        samples.len(),
        policy.version,
        place.name
    );
    let (mut cost, mut right, mut early) = (0.0, 0, 0);
    for i in 0..samples.len() {
        let verdict = inference.classify(&samples.load(i)?, &samples.name(i))?;
        cost += verdict.cost;
        right += usize::from(verdict.class == samples.labels()[i]);
        early += usize::from(verdict.exit.is_some());
        if i < SHOWN {
            let class = &spec.classes[verdict.class as usize];
            let exit =
                verdict.exit.map_or("after the whole network".to_owned(), |e| format!("at exit {}", e + 1));
            let mark = if verdict.class == samples.labels()[i] { "right" } else { "wrong" };
            println!(
                "  a {} → {class}, {exit}, cost {:.2} ({mark})",
                spec.classes[samples.labels()[i] as usize],
                verdict.cost
            );
        }
    }
    let n = samples.len().max(1) as f64;
    println!(
        "  {:.1} % right, {:.1} % left early, {:.1} % of the multiply-accumulates saved",
        100.0 * right as f64 / n,
        100.0 * f64::from(early as u32) / n,
        100.0 * (1.0 - cost / n)
    );
    Ok(())
}
