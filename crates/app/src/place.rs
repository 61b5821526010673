//! Placing exits by time measured on this machine: `inspect --place`, and `exits = "auto"` in run files.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use exeunt_coordinator::{Home, OperatorClient};
use exeunt_exits::{
    Asking, Candidate, ExitHead, Placement, Pool, Quantiles, Rule, caught, caught_between, caught_by_depth,
    place,
};
use exeunt_network::{Engine, Network, Segments, Tap};
use exeunt_node::EngineOptions;
use exeunt_protocol::RunId;
use exeunt_protocol::operator::{OperatorRequest, OperatorResponse, RunReport};
use exeunt_protocol::spec::{ExitSpec, Exits, RunFile, RunSpec};
use ndarray::Array2;
use serde::Serialize;

use crate::failure::BadInput;
use crate::remote::{run_id, show_run, unexpected};
use crate::show::{grid, ms, percent, right, shape};

/// Places that are measured at most; networks with more are thinned first.
const MEASURED: usize = 24;
/// Rounds per place that are not counted.
const WARM_UP: usize = 2;
/// Rounds per place that are counted.
const ROUNDS: usize = 15;
/// A slow network stops here after [`PATIENCE`].
const FEWEST: usize = 3;
/// How long to measure a place where [`ROUNDS`] take longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Exits that were placed, with everything the choice rests on.
#[derive(Debug, Serialize)]
pub(crate) struct Placed {
    /// Name and version of the engine that was measured.
    pub(crate) engine: String,
    /// One sample through the network in one piece.
    network_ms: f64,
    /// Where the shares come from.
    catches_from: String,
    /// What a sample is expected to save.
    saves_ms: f64,
    /// Every place that was measured, in order.
    places: Vec<Place>,
    /// Block ends that were not measured: the pooling does not fit their shape, or there are many.
    not_measured: usize,
}

/// A place that was looked at.
#[derive(Debug, Serialize)]
struct Place {
    tap: String,
    shape: Vec<usize>,
    /// Number of the exit that was placed here, from 0.
    exit: Option<usize>,
    #[serde(flatten)]
    candidate: Candidate,
    /// What this exit alone would save.
    saves_alone_ms: f64,
    /// How much the choice is ahead of the best one without it, or with it if it was not chosen.
    ahead_ms: f64,
}

/// What is to be placed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// How many exits.
    pub(crate) exits: usize,
    /// How they pool.
    pub(crate) pool: Pool,
    /// Classes to tell apart.
    pub(crate) classes: usize,
}

/// What exits are known to catch.
#[derive(Debug)]
pub(crate) struct Known {
    /// Share of the network's MACs, and share of the samples, ascending.
    at: Vec<(f64, f64)>,
    from: String,
}

/// Measures `network` and chooses.
///
/// # Errors
/// When there are too few places, or the engine fails.
pub(crate) fn choose(
    network: &Network,
    engine: &dyn Engine,
    wanted: Wanted,
    known: Option<&Known>,
) -> anyhow::Result<Placed> {
    let all = candidates(network);
    let fitting = all.iter().filter(|tap| wanted.pool.dim(&tap.shape).is_ok()).copied().collect();
    let taps = thinned(fitting, network);
    let not_measured = all.len() - taps.len();
    if taps.is_empty() && not_measured > 0 {
        let pool = wanted.pool;
        return Err(BadInput(format!("pool {pool} fits none of the {not_measured} places to leave")).into());
    }
    let bar = crate::simulate::bar();
    let whole = Segments::prepare_fast(engine, network, &[])?;
    let mut measured = Vec::with_capacity(taps.len());
    for (i, tap) in taps.iter().enumerate() {
        bar.set_message(format!("measuring place {} of {}: {}", i + 1, taps.len(), tap.name));
        measured.push(measure(&whole, network, engine, (tap, wanted))?);
    }
    bar.finish_and_clear();
    let network_ms = median(measured.iter().map(|measured| measured.network_ms).collect());
    let mut until = 0.0_f64;
    let numbers: Vec<Candidate> = taps
        .iter()
        .zip(&measured)
        .map(|(tap, measured)| {
            // Noise must not make a later tap come sooner.
            until = until.max(measured.until_ms).min(network_ms);
            let catches = match known {
                Some(known) => caught_between(&known.at, tap.macs_until.ratio(network.macs())),
                None => caught_by_depth(until, network_ms),
            };
            Candidate { until_ms: until, cut_ms: measured.cut_ms, decision_ms: measured.decision_ms, catches }
        })
        .collect();
    let Placement { chosen, saves_ms, ahead_ms } = place(network_ms, &numbers, wanted.exits)
        .map_err(|error| BadInput(format!("cannot place {} exits: {error}", wanted.exits)))?;
    let places = taps.iter().zip(numbers).zip(ahead_ms).enumerate();
    Ok(Placed {
        engine: format!("{} {}", engine.name(), engine.version()),
        network_ms,
        catches_from: known.map_or_else(
            || "no run: as large a share of the samples as of the network's time has passed".to_owned(),
            |known| known.from.clone(),
        ),
        saves_ms,
        not_measured,
        places: places
            .map(|(i, ((tap, candidate), ahead_ms))| Place {
                tap: tap.name.clone(),
                shape: tap.shape.clone(),
                exit: chosen.iter().position(|place| *place == i),
                candidate,
                saves_alone_ms: candidate.saves_alone_ms(network_ms),
                ahead_ms,
            })
            .collect(),
    })
}

/// Places the exits of a run file that leaves that to this machine; otherwise does nothing.
///
/// # Errors
/// See [`choose`].
pub(crate) fn fill(
    file: &mut RunFile,
    network: &Network,
    engine: &dyn Engine,
) -> anyhow::Result<Option<Placed>> {
    let Exits::Auto { auto } = file.exits else { return Ok(None) };
    let wanted = Wanted { exits: auto as usize, pool: file.exit.pool, classes: file.task.names().len() };
    let placed = choose(network, engine, wanted, None)?;
    let exit = |place: &Place| ExitSpec { tap: place.tap.clone(), pool: None, rules: None };
    file.exits = Exits::Named(placed.chosen().map(exit).collect());
    Ok(Some(placed))
}

/// [`fill`] with the engine that was asked for, which is not looked for where nothing is to be placed.
///
/// # Errors
/// See [`choose`]; or the engine cannot be had.
pub(crate) fn fill_with(
    file: &mut RunFile,
    network: &Network,
    options: &EngineOptions,
) -> anyhow::Result<Option<Placed>> {
    match file.exits {
        Exits::Named(_) => Ok(None),
        Exits::Auto { .. } => {
            let engine = options.choose(None).map_err(|error| BadInput(error.to_string()))?;
            fill(file, network, engine.engine())
        }
    }
}

/// What the exits of a run catch, by its margins on the calibration part; and what the run is.
///
/// # Errors
/// When there is no such run, it is not ready, or it is of another network.
pub(crate) async fn from_run(
    home: &Home,
    run: &str,
    network: &Network,
    max_drop: f64,
) -> anyhow::Result<(Known, RunSpec)> {
    let client = OperatorClient::connect(home).await?;
    let run = run_id(Some(run))?;
    let report = show_run(&client, run.clone()).await?;
    let OperatorResponse::Snapshot(names) =
        client.ask(&OperatorRequest::Snapshot { run: run.clone() }).await?
    else {
        return Err(unexpected());
    };
    let spec = serde_json::from_slice(&client.blob(names.spec).await?).context("the run's specification")?;
    let OperatorResponse::Margins(margins) = client.ask(&OperatorRequest::Margins { run }).await? else {
        return Err(unexpected());
    };
    client.close().await;
    let id = report.status.run.clone();
    if names.network != network.hash() {
        let (found, expected) = (names.network.short(), network.hash().short());
        return Err(
            BadInput(format!("run '{id}' is of network {found}, expected {expected}, this file")).into()
        );
    }
    let margins = margins.filter(|_| report.status.result.is_some());
    let margins = margins.ok_or_else(|| BadInput(format!("run '{id}' has not measured its curve yet")))?;
    Ok((known(&report, &margins, &id, network, max_drop), spec))
}

fn known(report: &RunReport, margins: &Quantiles, run: &RunId, network: &Network, max_drop: f64) -> Known {
    let network_alone = report.status.result.as_ref().and_then(|result| result.calibration.network());
    let accuracy = network_alone.map(|point| point.accuracy);
    let exits = report.status.exits.iter().enumerate();
    let at = exits.filter_map(|(e, exit)| {
        let depth = network.tap(&exit.tap)?.macs_until.ratio(network.macs());
        let rule = |rule: Rule| Some(caught(margins.at(e, rule)?, accuracy?, max_drop / 100.0));
        let most = margins.rules(e).filter_map(rule).fold(0.0, f64::max);
        Some((depth, most))
    });
    let from = format!(
        "run {run}: at most {max_drop} points lost on its calibration part, between its exits on a straight line over MACs"
    );
    Known { at: at.collect(), from }
}

/// Where samples could leave at little cost: at block ends, or where nothing is known of blocks, at the smallest of the
/// tensors between two operators that do arithmetic.
fn candidates(network: &Network) -> Vec<&Tap> {
    let fits = |tap: &&Tap| tap.macs_until < network.macs();
    let ends: Vec<&Tap> = network.taps().iter().filter(|tap| tap.block_end).filter(fits).collect();
    if !ends.is_empty() {
        return ends;
    }
    let mut places: Vec<&Tap> = Vec::new();
    let size = |tap: &Tap| tap.shape.iter().product::<usize>();
    for tap in network.taps().iter().filter(fits).filter(|tap| tap.macs_until.get() > 0) {
        match places.last_mut() {
            Some(last) if last.macs_until == tap.macs_until => {
                if size(tap) <= size(last) {
                    *last = tap;
                }
            }
            _ => places.push(tap),
        }
    }
    places
}

/// At most [`MEASURED`] of the places, spread evenly over the work.
fn thinned<'a>(places: Vec<&'a Tap>, network: &Network) -> Vec<&'a Tap> {
    if places.len() <= MEASURED {
        return places;
    }
    let depth = |tap: &Tap| tap.macs_until.ratio(network.macs());
    let mut left = places.clone();
    let mut kept: Vec<&Tap> = Vec::with_capacity(MEASURED);
    for step in 0..MEASURED {
        let wanted = (step as f64 + 0.5) / MEASURED as f64;
        let off = |tap: &Tap| (depth(tap) - wanted).abs();
        let nearest = left.iter().enumerate().min_by(|(_, a), (_, b)| off(a).total_cmp(&off(b)));
        if let Some(i) = nearest.map(|(i, _)| i) {
            kept.push(left.remove(i));
        }
    }
    // In the network's order again: a place may have had to do for a depth before that of another.
    places.into_iter().filter(|tap| kept.iter().any(|kept| kept.name == tap.name)).collect()
}

/// Medians of one place, in milliseconds.
struct Measured {
    network_ms: f64,
    until_ms: f64,
    cut_ms: f64,
    decision_ms: f64,
}

/// Whole and cut by turns, so that whatever else the machine does meets both alike.
fn measure(
    whole: &Segments,
    network: &Network,
    engine: &dyn Engine,
    (tap, wanted): (&Tap, Wanted),
) -> anyhow::Result<Measured> {
    let cut = Segments::prepare_fast(engine, network, &[&tap.name])?;
    let (mut in_one_piece, mut in_two) = (whole.lane()?, cut.lane()?);
    let mut exit = MadeUp::new(tap, wanted)?;
    // Looks like a normalised image; a network of convolutions takes the same time for any.
    let x = Array2::from_shape_fn((1, whole.input_shape().iter().product()), |(_, i)| {
        (i as f32 * 0.618_034).fract() * 4.0 - 2.0
    });
    let (mut network_ms, mut until_ms, mut cut_ms, mut decision_ms) = (vec![], vec![], vec![], vec![]);
    let begin = Instant::now();
    for round in 0..WARM_UP + ROUNDS {
        if round >= WARM_UP + FEWEST && begin.elapsed() > PATIENCE {
            break;
        }
        let start = Instant::now();
        in_one_piece.begin(x.view())?;
        in_one_piece.run()?;
        let in_one = since(start);
        let start = Instant::now();
        in_two.begin(x.view())?;
        in_two.run()?;
        let until = since(start);
        let decision = exit.decide(in_two.row(0))?;
        let start = Instant::now();
        in_two.run()?;
        let rest = since(start);
        if round >= WARM_UP {
            network_ms.push(in_one);
            until_ms.push(until);
            cut_ms.push(until + rest - in_one);
            decision_ms.push(decision);
        }
    }
    Ok(Measured {
        network_ms: median(network_ms),
        until_ms: median(until_ms),
        cut_ms: median(cut_ms).max(0.0),
        decision_ms: median(decision_ms),
    })
}

/// An exit with means of nothing: deciding takes as long as with any.
struct MadeUp {
    pool: Pool,
    shape: Vec<usize>,
    head: ExitHead,
    asking: Asking,
}

impl MadeUp {
    fn new(tap: &Tap, wanted: Wanted) -> anyhow::Result<Self> {
        let (pool, shape) = (wanted.pool, tap.shape.clone());
        let dim = pool.dim(&shape)?;
        let means = Array2::from_shape_fn((wanted.classes, dim), |(k, d)| ((k + d) % 7) as f32 * 0.1);
        let head = ExitHead::new(means, vec![true; wanted.classes])?;
        let head = head.with_spreads(Ok(vec![1.0; wanted.classes]))?;
        Ok(Self { pool, shape, head, asking: Asking::default() })
    }

    fn decide(&mut self, map: &[f32]) -> anyhow::Result<f64> {
        let start = Instant::now();
        let decision = self.asking.ask((&self.head, Rule::ClassMeans), self.pool, &self.shape, map)?;
        black_box(decision.margin > 0.0);
        Ok(since(start))
    }
}

/// Milliseconds since then.
fn since(then: Instant) -> f64 {
    then.elapsed().as_secs_f64() * 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

impl Placed {
    /// One line for a log.
    pub(crate) fn summary(&self) -> String {
        let taps: Vec<&str> = self.chosen().map(|place| place.tap.as_str()).collect();
        format!(
            "placed by time measured here with {}: {}; expected to save {} of {} ms per sample",
            self.engine,
            taps.join(", "),
            ms(self.saves_ms),
            ms(self.network_ms)
        )
    }

    /// The taps of the exits that were placed, in order.
    pub(crate) fn taps(&self) -> Vec<String> {
        self.chosen().map(|place| place.tap.clone()).collect()
    }

    fn chosen(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(|place| place.exit.is_some())
    }

    /// What was measured and why these were chosen.
    pub(crate) fn explain(&self) -> String {
        let mut text = format!(
            "placed by time measured on this machine: {}, one sample at a time, {} ms for the whole network\n\
             what an exit catches, from {}\n",
            self.engine,
            ms(self.network_ms),
            self.catches_from
        );
        if self.not_measured > 0 {
            let _ = writeln!(
                text,
                "{} places were not measured: the pooling is finer than their maps (--pool), or there are more than {MEASURED}",
                self.not_measured
            );
        }
        text.push('\n');
        let head =
            ["exit", "tap", "shape", "ms until", "cut", "decide", "catches", "alone saves", "chosen or not"];
        let mut table = grid(&head);
        for place in &self.places {
            let Candidate { until_ms, cut_ms, decision_ms, catches } = place.candidate;
            let why = match place.exit {
                Some(_) => format!("{} ms ahead of the best without it", ms(place.ahead_ms)),
                None => format!("{} ms behind with it", ms(place.ahead_ms)),
            };
            table.add_row([
                place.exit.map_or_else(String::new, |exit| (exit + 1).to_string()),
                place.tap.clone(),
                shape(&place.shape),
                ms(until_ms),
                ms(cut_ms),
                ms(decision_ms),
                percent(catches),
                ms(place.saves_alone_ms),
                why,
            ]);
        }
        right(&mut table, &[0, 3, 4, 5, 6, 7]);
        let taps: Vec<String> =
            self.chosen().map(|place| format!("    {{ tap = \"{}\" }},\n", place.tap)).collect();
        let _ = write!(
            text,
            "{table}\n\n{} exits are expected to save {} of {} ms per sample ({})\n\nexits = [\n{}]\n",
            taps.len(),
            ms(self.saves_ms),
            ms(self.network_ms),
            percent(self.saves_ms / self.network_ms),
            taps.concat()
        );
        text
    }
}
