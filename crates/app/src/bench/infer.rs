//! `exeunt bench infer`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use exeunt_data::{Preprocess, Reader};
use exeunt_exits::{CurvePoint, Heads, Policy, Rule, RunResult};
use exeunt_network::{EngineChoice, EngineSettings, EngineWish, Network, Segments};
use exeunt_node::Inference;
use exeunt_protocol::spec::RunSpec;
use exeunt_simulate::{Plan, in_memory};
use ndarray::{Array2, ArrayView2, Axis, s};
use serde::Serialize;

use super::measure::{Contestant, StepTimes, side_by_side};
use super::{Common, ms, percent, ratio, threads_used};
use crate::failure::BadInput;
use crate::show::{grid, right};
use crate::simulate::bar;

/// Samples per batch, where batches are measured.
const BATCH: usize = 32;

#[derive(Debug, Args)]
pub(crate) struct InferArgs {
    /// Run file (configs/*.toml)
    file: PathBuf,
    /// Folder of the samples instead of the run file's `data.root`
    #[arg(long, env = "EXEUNT_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Network instead of the one the run file names
    #[arg(long, value_name = "ONNX")]
    network: Option<PathBuf>,
    /// Points of accuracy that early exits may lose on the calibration part
    #[arg(long, value_name = "POINTS", default_value_t = 1.0)]
    points: f64,
    /// What the cheapest policy within those points is cheapest by: the clock, as this machine measures its segments and
    /// decisions, or multiply-accumulates
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = By::Time)]
    by: By,
    /// Make statistics of this share of their part only
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    share: f64,
    /// Samples of the evaluation part to measure with, at most
    #[arg(long, value_name = "N", default_value_t = 256)]
    samples: usize,
    #[command(flatten)]
    common: Common,
}

/// What a policy is cheap by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum By {
    Time,
    Macs,
}

#[derive(Debug, Serialize)]
struct Measured {
    network: String,
    engine: String,
    samples: usize,
    network_accuracy: f64,
    chosen_by: By,
    policies: Vec<Chosen>,
    single: Vec<Row>,
    batch: Vec<Row>,
}

/// The policy of one rule.
#[derive(Debug, Serialize)]
struct Chosen {
    rule: Rule,
    /// Exits in use; none where the rule saves nothing at that accuracy.
    exits: usize,
    /// On the evaluation part.
    accuracy: f64,
    cost: f64,
}

#[derive(Debug, Serialize)]
struct Row {
    what: String,
    /// Threads that a sample, or a batch, runs on.
    threads: u16,
    /// Mean over the samples, in milliseconds; the median of all rounds.
    mean_ms: f64,
    /// What 95 of 100 samples take at most, in milliseconds; of a batch, its share for one sample.
    p95_ms: f64,
    /// How many times as fast as the first row; the median of all rounds.
    speed_up: f64,
    /// Rounds counted, each over all samples.
    rounds: usize,
    /// What MACs promise, on the samples measured; nothing for whole networks.
    promised: Option<f64>,
}

pub(crate) fn infer(arguments: &InferArgs) -> anyhow::Result<()> {
    let engine = Arc::new(arguments.common.engine()?);
    let mut plan = Plan::read(&arguments.file, arguments.network.as_deref(), arguments.data.as_deref())?;
    plan.nodes = 1;
    plan.engine = Arc::clone(&engine);
    plan.file.floors.min_count = 0;
    plan.file.floors.second_factor = 0;
    plan.close_membership();
    let [from, to] = plan.file.data.statistics.share.unwrap_or([0.0, 1.0]);
    if !(arguments.share > 0.0 && arguments.share <= 1.0) {
        return Err(BadInput(format!("--share {}: expected above 0, at most 1", arguments.share)).into());
    }
    plan.file.data.statistics.share = Some([from, from + (to - from) * arguments.share]);

    if !(0.0..=100.0).contains(&arguments.points) {
        return Err(BadInput(format!("--points {}: expected 0 to 100", arguments.points)).into());
    }
    if let Some(placed) = crate::place::fill(&mut plan.file, &plan.network, engine.engine())? {
        tracing::info!("{}", placed.summary());
    }
    let learnt = Rule::ALL.map(|rule| learn(&plan, rule, arguments));
    let learnt = learnt.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let Some(first) = learnt.first() else { return Ok(()) };
    let spec = exeunt_coordinator::RunPlan::new(&plan.file, &plan.network)?.spec;
    let x = samples(&plan, &spec, arguments.samples)?;
    let bench = Bench { arguments, network: &plan.network, spec: &spec, engine: &engine, x: &x };
    let measured = Measured {
        network: plan.file.network.clone(),
        engine: engine.to_string(),
        samples: x.nrows(),
        network_accuracy: first.network_accuracy,
        chosen_by: arguments.by,
        policies: learnt.iter().map(Learnt::chosen).collect(),
        single: bench.measure(&learnt, 1)?,
        batch: bench.measure(&learnt, BATCH)?,
    };
    if arguments.common.output.json {
        crate::out!("{}", serde_json::to_string(&measured)?);
    } else {
        crate::out!("{}", table(&measured, arguments.points).trim_end());
    }
    Ok(())
}

/// What a run with one rule found.
struct Learnt {
    rule: Rule,
    heads: Arc<Heads>,
    policy: Policy,
    accuracy: f64,
    cost: f64,
    network_accuracy: f64,
}

impl Learnt {
    fn chosen(&self) -> Chosen {
        let exits = self.policy.exits.iter().flatten().count();
        Chosen { rule: self.rule, exits, accuracy: self.accuracy, cost: self.cost }
    }
}

/// Simulates the run with one rule, and takes the cheapest policy that loses no more than so many points on the
/// calibration part.
fn learn(plan: &Plan, rule: Rule, arguments: &InferArgs) -> anyhow::Result<Learnt> {
    let mut plan = plan.clone();
    plan.file.exit.rules = vec![rule];
    plan.file.exits.named_mut().iter_mut().for_each(|exit| exit.rules = None);
    let bar = bar();
    let mut progress = |query: &str, _done: u64, _of: u64| bar.set_message(format!("{rule}: {query}"));
    let simulated = in_memory(&plan, &mut progress)?;
    bar.finish_and_clear();
    let result: RunResult =
        simulated.report.status.result.ok_or_else(|| anyhow::anyhow!("the run did not get ready"))?;
    let heads = simulated.heads.ok_or_else(|| anyhow::anyhow!("the run made no snapshot"))?;
    let floor = result.calibration.floor(arguments.points);
    let times = simulated.report.nodes.iter().find_map(|node| Some(&node.times.as_ref()?.times));
    let cost = |point: &CurvePoint| match (arguments.by, times) {
        (By::Time, Some(times)) => times.mean_ms(&point.policy, &point.exit_share),
        (By::Time, None) | (By::Macs, _) => point.cost,
    };
    let right = result.calibration.points().iter().filter(|point| point.accuracy >= floor);
    let policy = right.min_by(|a, b| cost(a).total_cmp(&cost(b))).map(|point| point.policy.clone());
    let policy = policy.unwrap_or_else(|| Policy::off(plan.file.exits.named().len()));
    let read = result.curve.points().iter().find(|point| point.policy == policy);
    let read = read.ok_or_else(|| anyhow::anyhow!("the policy was not read on the evaluation part"))?;
    Ok(Learnt {
        rule,
        heads,
        accuracy: read.accuracy,
        cost: read.cost,
        network_accuracy: result.network_accuracy,
        policy,
    })
}

/// Preprocessed samples of the evaluation part, spread over it.
fn samples(plan: &Plan, spec: &RunSpec, most: usize) -> anyhow::Result<Array2<f32>> {
    let mut reader = Reader::new(&plan.data, &spec.data, spec.seed, &spec.classes);
    let part = reader.part(&spec.data.evaluation)?;
    let preprocess = Preprocess::new(&spec.input)?;
    let step = part.len().div_ceil(most.max(1)).max(1);
    let (mut flat, mut rows) = (Vec::new(), 0);
    for i in (0..part.len()).step_by(step) {
        let Ok(image) = part.load(i) else { continue };
        preprocess.append(&image, &plan.network.input().shape, &part.name(i), &mut flat)?;
        rows += 1;
    }
    if rows == 0 {
        return Err(BadInput("no sample of the evaluation part can be read".to_owned()).into());
    }
    Ok(Array2::from_shape_vec((rows, plan.network.input().len()), flat)?)
}

struct Bench<'a> {
    arguments: &'a InferArgs,
    network: &'a Network,
    spec: &'a RunSpec,
    engine: &'a EngineChoice,
    x: &'a Array2<f32>,
}

impl Bench<'_> {
    /// Whole networks and policies, in batches of `batch`; the first is what everything is compared with.
    fn measure(&self, learnt: &[Learnt], batch: usize) -> anyhow::Result<Vec<Row>> {
        let tract = EngineSettings { wish: EngineWish::Tract, ..EngineSettings::default() }.choose()?;
        let is_tract = self.engine.library().is_none();
        let engines: &[&EngineChoice] = if is_tract { &[self.engine] } else { &[self.engine, &tract] };
        let steps = self.x.nrows().div_ceil(batch);
        let mut named: Vec<(String, u16, Option<f64>)> = Vec::new();
        let mut passes: Vec<Pass<'_>> = Vec::new();
        let threads = self.arguments.common.threads;
        for engine in engines {
            let whole = Segments::prepare_fast(engine.engine(), self.network, &[])?;
            let label = whole.engine().to_owned();
            let mut ways = vec![("whole network", whole)];
            // Only ONNX Runtime is what a user would run the file in.
            if batch == 1
                && engine.library().is_some()
                && label == engine.to_string()
                && let Ok(file) = Segments::prepare_file(engine.engine(), self.network)
            {
                ways.push(("the file as it is", file));
            }
            for (name, segments) in ways {
                named.push((format!("{name}, {label}"), threads_used(&label, threads), None));
                passes.push(Box::new(move |x| {
                    let mut lane = segments.lane()?;
                    lane.begin(x)?;
                    Ok(lane.run()?)
                }));
            }
        }
        for engine in engines {
            for Learnt { rule, heads, policy, .. } in learnt {
                let heads = Arc::clone(heads);
                let (spec, network) = (self.spec.clone(), self.network.clone());
                let inference = Inference::new(spec, network, engine.engine(), heads, policy.clone())?;
                let verdicts = inference.run(self.x.view())?;
                let cost = verdicts.iter().map(|verdict| verdict.cost).sum::<f64>() / verdicts.len() as f64;
                let nothing = if policy.is_off() { ", saves nothing at that accuracy" } else { "" };
                let label = inference.engine().to_owned();
                let name = format!("leaving early by {rule}, {label}{nothing}");
                named.push((name, threads_used(&label, threads), Some(1.0 / cost)));
                passes.push(Box::new(move |x| {
                    inference.run(x)?;
                    Ok(())
                }));
            }
        }
        let mut books: Vec<StepTimes> = passes.iter().map(|_| StepTimes::new(steps)).collect();
        let mut contestants: Vec<Contestant<'_>> = Vec::new();
        for (mut pass, book) in passes.into_iter().zip(&mut books) {
            contestants.push(Box::new(move || {
                let mut steps = batches(self.x, batch).enumerate();
                steps.try_for_each(|(step, x)| book.time(step, x.nrows(), || pass(x)))
            }));
        }
        let times = side_by_side(self.arguments.common.budget(), &mut contestants)?;
        drop(contestants);
        let rows = named.into_iter().zip(times).zip(&books).map(|((named, times), book)| {
            let (what, threads, promised) = named;
            Row {
                what,
                threads,
                mean_ms: times.median_ms / self.x.nrows() as f64,
                p95_ms: book.p95(),
                speed_up: 1.0 / times.ratio,
                rounds: times.rounds,
                promised,
            }
        });
        Ok(rows.collect())
    }
}

/// One of the ways to get a batch classified.
type Pass<'a> = Box<dyn FnMut(ArrayView2<'_, f32>) -> anyhow::Result<()> + 'a>;

fn batches(x: &Array2<f32>, batch: usize) -> impl Iterator<Item = ArrayView2<'_, f32>> {
    (0..x.len_of(Axis(0)))
        .step_by(batch)
        .map(move |from| x.slice(s![from..(from + batch).min(x.nrows()), ..]))
}

fn table(measured: &Measured, points: f64) -> String {
    let Measured { network, engine, samples, network_accuracy, .. } = measured;
    let mut text = format!(
        "{network}\n{engine}, {samples} samples; the network alone: {}\n\n",
        percent(*network_accuracy)
    );
    let by = match measured.chosen_by {
        By::Time => "on the clock",
        By::Macs => "in multiply-accumulates",
    };
    text.push_str(&format!(
        "cheapest {by} of those that lose at most {points} points on the calibration part\n"
    ));
    let mut policies = grid(&["rule", "exits", "accuracy", "cost in MACs"]);
    for Chosen { rule, exits, accuracy, cost } in &measured.policies {
        policies.add_row([rule.to_string(), exits.to_string(), percent(*accuracy), ratio(*cost)]);
    }
    right(&mut policies, &[1, 2, 3]);
    text.push_str(&format!("{policies}\n"));
    for (what, rows) in [("one sample at a time", &measured.single), ("batches of 32", &measured.batch)] {
        let mut sides = grid(&[what, "threads", "mean ms", "p95 ms", "times as fast", "promised by MACs"]);
        for Row { what, threads, mean_ms, p95_ms, speed_up, promised, .. } in rows {
            let promised = promised.map(ratio).unwrap_or_default();
            let (mean, p95, speed_up) = (ms(*mean_ms), ms(*p95_ms), ratio(*speed_up));
            sides.add_row([what.clone(), threads.to_string(), mean, p95, speed_up, promised]);
        }
        right(&mut sides, &[1, 2, 3, 4, 5]);
        text.push_str(&format!("\n{sides}\n"));
    }
    text
}
