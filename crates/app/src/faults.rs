//! `exeunt simulate --faults`: federations with everything going wrong, seed after seed.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use exeunt_simulate::faults::{Explorer, FaultsError, Finding, Tally};
use serde::Serialize;

use crate::cli::{FaultsArgs, Seeds};
use crate::failure::BadInput;

/// Findings after which there is enough to look at.
const ENOUGH: u64 = 5;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    seeds: Range,
    threads: usize,
    seconds: f64,
    seeds_per_second: f64,
    seen: Tally,
    findings: Vec<FindingReport>,
}

#[derive(Serialize)]
struct Range {
    first: u64,
    count: u64,
}

#[derive(Serialize)]
struct FindingReport {
    seed: u64,
    violation: String,
    shortest: String,
    in_short: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trace: Vec<String>,
}

/// What threads share.
struct Progress {
    next: AtomicU64,
    end: u64,
    until: Option<Instant>,
    stop: AtomicBool,
    findings: Mutex<Vec<Finding>>,
}

pub(crate) fn simulate(
    arguments: &FaultsArgs,
    seed: Option<u64>,
    threads: Option<usize>,
    json: bool,
) -> anyhow::Result<()> {
    let seeds = seeds(arguments, seed)?;
    if arguments.trace && !json && seeds.end == Some(seeds.first + 1) {
        return show(seeds.first);
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = threads.unwrap_or(cores).max(1);
    let start = Instant::now();
    let progress = Progress {
        next: AtomicU64::new(seeds.first),
        end: seeds.end.unwrap_or(u64::MAX),
        until: arguments.limit.map(|limit| start + limit),
        stop: AtomicBool::new(false),
        findings: Mutex::new(Vec::new()),
    };
    let tallies: Vec<Result<Tally, FaultsError>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| progress.work())).collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).collect()
    });
    let mut seen = Tally::default();
    for tally in tallies {
        seen.add(&tally?);
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut findings = progress.findings.into_inner().unwrap_or_else(PoisonError::into_inner);
    findings.sort_by_key(|finding| finding.seed);
    let report = Report {
        seeds: Range { first: seeds.first, count: seen.seeds },
        threads,
        seconds,
        seeds_per_second: seen.seeds as f64 / seconds.max(f64::EPSILON),
        findings: findings
            .iter()
            .map(|finding| FindingReport {
                seed: finding.seed,
                violation: finding.violation.to_string(),
                shortest: finding.shortest.clone(),
                in_short: finding.in_short.to_string(),
                trace: if arguments.trace { finding.trace.clone() } else { Vec::new() },
            })
            .collect(),
        seen,
    };
    if json {
        crate::out!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    let broken = report.seen.violations;
    anyhow::ensure!(broken == 0, "{broken} of {} seeds broke a promise", report.seeds.count);
    Ok(())
}

fn seeds(arguments: &FaultsArgs, seed: Option<u64>) -> anyhow::Result<Seeds> {
    let seeds = match (arguments.seeds, seed) {
        (Some(seeds), _) => seeds,
        (None, Some(seed)) => Seeds { first: seed, end: Some(seed.saturating_add(1)) },
        (None, None) if arguments.limit.is_some() => Seeds { first: 0, end: None },
        (None, None) => Seeds { first: 0, end: Some(1000) },
    };
    if seeds.end.is_none() && arguments.limit.is_none() {
        return Err(BadInput("--seeds has no end: give one, or a time with --for".to_owned()).into());
    }
    Ok(seeds)
}

/// One seed, event by event.
fn show(seed: u64) -> anyhow::Result<()> {
    let mut explorer = Explorer::new()?;
    if let Some(finding) = explorer.explore(seed)? {
        crate::out!("{}", describe(&finding.seed, &finding.violation.to_string(), &finding.shortest));
        finding.trace.iter().for_each(|line| crate::out!("{line}"));
        anyhow::bail!("seed {seed} broke a promise");
    }
    let seen = explorer.watch(seed).context("a second time")?;
    seen.trace.iter().for_each(|line| crate::out!("{line}"));
    crate::out!("seed {seed}: {} events, trace {}", seen.events, seen.digest);
    Ok(())
}

impl Progress {
    fn work(&self) -> Result<Tally, FaultsError> {
        let mut explorer = Explorer::new()?;
        while !self.stop.load(Ordering::Relaxed) && self.until.is_none_or(|until| Instant::now() < until) {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.end {
                break;
            }
            if let Some(finding) = explorer.explore(seed)? {
                let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
                findings.push(finding);
                if findings.len() as u64 >= ENOUGH {
                    self.stop.store(true, Ordering::Relaxed);
                }
            }
        }
        Ok(explorer.tally().clone())
    }
}

fn print(report: &Report) {
    for finding in &report.findings {
        crate::out!("{}", describe(&finding.seed, &finding.violation, &finding.shortest));
        finding.trace.iter().for_each(|line| crate::out!("{line}"));
    }
    let seen = &report.seen;
    let hours = Duration::from_secs_f64(seen.virtual_s).as_secs() / 3600;
    crate::out!(
        "{} seeds from {} in {:.1} s, {:.0} per second on {} threads: {} events in {hours} h of virtual time",
        report.seeds.count,
        report.seeds.first,
        report.seconds,
        report.seeds_per_second,
        report.threads,
        seen.events,
    );
    crate::out!(
        "{} contributions acknowledged, {} refused; {} queries sealed, {} of them withdrawn; \
         the coordinator ended {} times",
        seen.acknowledged,
        seen.rejected,
        seen.seals,
        seen.withdrawn,
        seen.coordinator_restarts
    );
    let faults: BTreeMap<_, _> = seen.faults.iter().collect();
    let faults: Vec<String> = faults.iter().map(|(kind, struck)| format!("{kind} {struck}")).collect();
    crate::out!("faults: {}", faults.join(", "));
    crate::out!("violations: {}", seen.violations);
}

fn describe(seed: &u64, violation: &str, shortest: &str) -> String {
    format!(
        "seed {seed}: {violation}\nagain: exeunt simulate --faults --seed {seed} --trace\nin short: {shortest}"
    )
}
