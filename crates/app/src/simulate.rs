//! `exeunt simulate`.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use exeunt_data::Partition;
use exeunt_exits::Pool;
use exeunt_protocol::operator::RunReport;
use exeunt_simulate::{LocalFederation, Plan, in_memory};
use tokio::task::JoinSet;

use crate::cli::SimulateArgs;
use crate::failure::{BadInput, Interrupted};
use crate::serve::stop_signal;
use crate::summary::Summary;
use crate::{place, show};

pub(crate) fn simulate(arguments: &SimulateArgs) -> anyhow::Result<()> {
    if arguments.faults.faults {
        let (seed, threads, json) = (arguments.seed, arguments.threads, arguments.output.json);
        return crate::faults::simulate(&arguments.faults, seed, threads, json);
    }
    let start = Instant::now();
    let plan = plan(arguments)?;
    let bar = bar();
    let report = if arguments.sockets {
        over_sockets(&plan, &bar)?
    } else {
        let mut progress =
            |query: &str, done: u64, of: u64| bar.set_message(format!("{query}: node {done} of {of}"));
        in_memory(&plan, &mut progress)?.report
    };
    bar.finish_and_clear();
    finish(&report, start, arguments.output.json, arguments.svg.as_deref())
}

/// Prints what came of a run.
pub(crate) fn finish(
    report: &RunReport,
    start: Instant,
    json: bool,
    svg: Option<&Path>,
) -> anyhow::Result<()> {
    if let Some(path) = svg {
        show::save_picture(report, path)?;
    }
    if json {
        let summary = Summary::new(report, start.elapsed()).context("the run did not get ready")?;
        crate::out!("{}", serde_json::to_string(&summary)?);
    } else {
        crate::out::write(format_args!("{}", show::report(report)), "");
        crate::out!("took {:.1} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// A line that says what is going on; on a terminal only.
pub(crate) fn bar() -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new_spinner();
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    bar.enable_steady_tick(std::time::Duration::from_millis(120));
    bar
}

fn plan(arguments: &SimulateArgs) -> anyhow::Result<Plan> {
    let file = arguments.file.as_deref().ok_or_else(|| BadInput("no run file is named".to_owned()))?;
    let mut plan = Plan::read(file, arguments.network.as_deref(), arguments.data.as_deref())?;
    plan.nodes = arguments.nodes;
    plan.seed = arguments.seed.unwrap_or(0);
    plan.partition = arguments
        .partition
        .parse::<Partition>()
        .map_err(|error| BadInput(format!("--partition: {error}")))?;
    if let Some(threads) = arguments.threads {
        plan.threads = threads.max(1);
    }
    plan.engine = Arc::new(arguments.engine.choose(None).map_err(|error| BadInput(error.to_string()))?);
    if let Some(pool) = arguments.pool {
        plan.file.exit.pool = Pool::Grid(pool);
        plan.file.exits.named_mut().iter_mut().for_each(|exit| exit.pool = None);
    }
    // After the pooling: deciding is part of what is measured.
    if let Some(placed) = place::fill(&mut plan.file, &plan.network, plan.engine.engine())? {
        eprint!("{}", placed.explain());
    }
    if arguments.no_floors {
        plan.file.floors.min_count = 0;
        plan.file.floors.second_factor = 0;
    }
    plan.close_membership();
    Ok(plan)
}

fn over_sockets(plan: &Plan, bar: &indicatif::ProgressBar) -> anyhow::Result<RunReport> {
    let folder = tempfile::tempdir().context("cannot make a folder for the federation")?;
    let runtime = crate::runtime()?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = federate(plan, folder.path(), bar) => result,
            () = stop_signal() => Err(Interrupted.into()),
        }
    });
    // Nothing writes to the folder any more when it goes.
    drop(runtime);
    result
}

async fn federate(plan: &Plan, folder: &Path, bar: &indicatif::ProgressBar) -> anyhow::Result<RunReport> {
    let federation = LocalFederation::start(folder).await?;
    let threads = (plan.threads / plan.nodes.max(1) as usize).max(1);
    let mut nodes = JoinSet::new();
    for place in federation.join(plan, threads).await? {
        let engine = Arc::clone(&plan.engine);
        let computing = exeunt_node::Computing { engine, ..exeunt_node::Computing::plain() };
        let home = exeunt_node::Home::new(place.home);
        nodes.spawn(exeunt_node::run_with(home, computing, std::future::pending()));
    }
    let run = federation.start_run(plan).await?;
    let report = tokio::select! {
        report = federation.wait(&run, |report| bar.set_message(progress(report))) => report?,
        // Nobody tells a node to stop: one that ends has failed, and the run would wait for it in vain.
        Some(ended) = nodes.join_next() => {
            ended.context("a node ended abnormally")??;
            anyhow::bail!("a node ended before the run did");
        }
    };
    nodes.shutdown().await;
    federation.stop().await?;
    Ok(report)
}

/// What a run is waiting for, in half a line.
pub(crate) fn progress(report: &RunReport) -> String {
    let query = report.status.queries.last();
    let name = query.map_or_else(String::new, |query| format!("{} ({})", query.name, query.query));
    format!("{name}: {} answers, waiting for {}", report.status.answers, report.status.waiting_for.len())
}
