//! `exeunt bench segments`.

use std::time::{Duration, Instant};

use clap::Args;
use exeunt_exits::{Asking, ExitHead, LinearHead, Rule};
use exeunt_network::{Lane, Network, Segments};
use ndarray::{Array2, ArrayView2};
use serde::Serialize;

use super::measure::{Contestant, Times, quantile, side_by_side};
use super::{Common, CutArgs, Exit, in_threads, ms, noise, pass, percent, ratio, threads_used};
use crate::failure::BadInput;
use crate::show::{grid, right};

/// Class counts that a decision is measured with.
const CLASSES: [usize; 2] = [10, 1000];

#[derive(Debug, Args)]
pub(crate) struct SegmentsArgs {
    #[command(flatten)]
    cut: CutArgs,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Serialize)]
struct Measured {
    network: String,
    engine: String,
    threads: u16,
    /// The network in one piece.
    whole: Times,
    /// In segments, every exit asked and nobody leaving; `ratio` is to `whole`.
    segmented: Times,
    /// The file as it is, handed to the engine; nothing where the engine does not take it.
    file: Option<Times>,
    segments: Vec<Part>,
    exits: Vec<Asked>,
}

/// One segment.
#[derive(Debug, Serialize)]
struct Part {
    /// Where it ends; nothing for the last.
    tap: Option<String>,
    shape: Vec<usize>,
    median_ms: f64,
    /// Of the whole network's time.
    share: f64,
    /// Of the whole network's MACs.
    macs_share: f64,
}

/// What one exit's decision costs: pooling, scores, margin.
#[derive(Debug, Serialize)]
struct Asked {
    tap: String,
    dim: usize,
    /// Milliseconds and share of the whole network's time with 10 classes.
    k10_ms: f64,
    k10_share: f64,
    /// With 1,000.
    k1000_ms: f64,
    k1000_share: f64,
}

pub(crate) fn segments(arguments: &SegmentsArgs) -> anyhow::Result<()> {
    let network = Network::load(&arguments.cut.network)?;
    let engine = arguments.common.engine()?;
    let exits = arguments.cut.exits(&network, &engine)?;
    let taps: Vec<&str> = exits.iter().map(|exit| exit.tap.as_str()).collect();
    let whole = Segments::prepare_fast(engine.engine(), &network, &[])?;
    let cut = Segments::prepare_fast(engine.engine(), &network, &taps)?;
    if whole.engine() != cut.engine() {
        let (found, expected) = (cut.engine(), whole.engine());
        return Err(BadInput(format!("the segments run in {found}, the whole network in {expected}")).into());
    }
    // What somebody runs who has the engine and the file. Where the network fell back to another engine, there is none.
    let file = if whole.engine() == engine.to_string() {
        Segments::prepare_file(engine.engine(), &network).ok()
    } else {
        None
    };
    let x = noise(7, network.input().len());
    let x = ArrayView2::from_shape((1, x.len()), &x)?;
    let head =
        |classes| exits.iter().map(|exit| random_head(exit.dim, classes)).collect::<Result<Vec<_>, _>>();
    let own = head(network.output().len())?;

    let mut asking = Asking::default();
    let (mut one, mut two) = (whole.lane()?, cut.lane()?);
    let mut contestants: Vec<Contestant<'_>> = vec![
        Box::new(|| pass(&mut one, x, 1)),
        Box::new(|| {
            two.begin(x)?;
            for (exit, head) in exits.iter().zip(&own) {
                two.run()?;
                ask(&mut asking, exit, head, &two)?;
            }
            Ok(two.run()?)
        }),
    ];
    if let Some(file) = &file {
        let mut lane = file.lane()?;
        contestants.push(Box::new(move || pass(&mut lane, x, 1)));
    }
    let times = side_by_side(arguments.common.budget(), &mut contestants)?;
    drop(contestants);

    // The times of the parts, apart: looking at the clock is not free, and a thousand classes empty the caches.
    let third = arguments.common.budget() / 3;
    let parts = parts(&cut, x, exits.len(), third)?;
    let [few, many] = CLASSES;
    let few = decisions(&cut, x, &exits, &head(few)?, third)?;
    let many = decisions(&cut, x, &exits, &head(many)?, third)?;

    let total = times[0].median_ms;
    let macs: Vec<u64> = network.cut(&taps)?.iter().map(|segment| segment.macs().get()).collect();
    let part = |(i, median_ms): (usize, f64)| Part {
        tap: exits.get(i).map(|exit| exit.tap.clone()),
        shape: exits.get(i).map_or_else(|| network.output().shape.clone(), |exit| exit.shape.clone()),
        median_ms,
        share: median_ms / total,
        macs_share: macs[i] as f64 / network.macs().get() as f64,
    };
    let ask = |(exit, (k10_ms, k1000_ms)): (&Exit, (f64, f64))| Asked {
        tap: exit.tap.clone(),
        dim: exit.dim,
        k10_ms,
        k10_share: k10_ms / total,
        k1000_ms,
        k1000_share: k1000_ms / total,
    };
    let measured = Measured {
        network: arguments.cut.network.display().to_string(),
        engine: cut.engine().to_owned(),
        threads: threads_used(cut.engine(), arguments.common.threads),
        whole: times[0],
        segmented: times[1],
        file: times.get(2).copied(),
        segments: parts.into_iter().enumerate().map(part).collect(),
        exits: exits.iter().zip(few.into_iter().zip(many)).map(ask).collect(),
    };
    if arguments.common.output.json {
        crate::out!("{}", serde_json::to_string(&measured)?);
    } else {
        crate::out!("{}", table(&measured).trim_end());
    }
    Ok(())
}

/// Medians of the segments' times, in milliseconds.
fn parts(cut: &Segments, x: ArrayView2<'_, f32>, exits: usize, budget: Duration) -> anyhow::Result<Vec<f64>> {
    let mut lane = cut.lane()?;
    let mut parts = vec![Vec::new(); exits + 1];
    side_by_side(
        budget,
        &mut [Box::new(|| {
            lane.begin(x)?;
            for part in &mut parts {
                let begun = Instant::now();
                lane.run()?;
                part.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            Ok(())
        })],
    )?;
    Ok(parts.iter().map(|times| quantile(times, 0.5)).collect())
}

/// Medians of what the exits' decisions take between the segments, in milliseconds.
fn decisions(
    cut: &Segments,
    x: ArrayView2<'_, f32>,
    exits: &[Exit],
    heads: &[ExitHead],
    budget: Duration,
) -> anyhow::Result<Vec<f64>> {
    let (mut lane, mut asking) = (cut.lane()?, Asking::default());
    let mut asked = vec![Vec::new(); exits.len()];
    side_by_side(
        budget,
        &mut [Box::new(|| {
            lane.begin(x)?;
            for ((exit, head), times) in exits.iter().zip(heads).zip(&mut asked) {
                lane.run()?;
                let begun = Instant::now();
                ask(&mut asking, exit, head, &lane)?;
                times.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            Ok(lane.run()?)
        })],
    )?;
    Ok(asked.iter().map(|times| quantile(times, 0.5)).collect())
}

/// A head of noise: what a decision costs does not depend on its numbers.
fn random_head(dim: usize, classes: usize) -> anyhow::Result<ExitHead> {
    let matrix = |seed| Array2::from_shape_vec((classes, dim), noise(seed, classes * dim));
    let linear = LinearHead::new(matrix(3)?, vec![0.0; classes])?;
    Ok(ExitHead::new(matrix(2)?, vec![true; classes])?.with_whitened(Ok(linear))?)
}

/// Pools, scores, and compares with a threshold that nobody reaches.
fn ask(asking: &mut Asking, exit: &Exit, head: &ExitHead, lane: &Lane<'_>) -> anyhow::Result<()> {
    let decision = asking.ask((head, Rule::Whitened), exit.pool, &exit.shape, lane.row(0))?;
    anyhow::ensure!(decision.margin < f64::INFINITY, "nobody is infinitely sure");
    Ok(())
}

fn table(measured: &Measured) -> String {
    let Measured { network, engine, threads, whole, segmented, file, .. } = measured;
    let threads = in_threads(*threads);
    let mut text = format!("{network}\n{engine}, {threads}, batch 1, {} rounds\n\n", whole.rounds);
    let mut sides = grid(&["", "median ms", "p95 ms", "ratio"]);
    let exits = measured.exits.len();
    let plain = file.as_ref().map(|file| ("the file as it is".to_owned(), file));
    for (name, times) in [
        ("whole network".to_owned(), whole),
        (format!("in {} segments, {exits} exits asked, nobody leaves", exits + 1), segmented),
    ]
    .into_iter()
    .chain(plain)
    {
        sides.add_row([name, ms(times.median_ms), ms(times.p95_ms), ratio(times.ratio)]);
    }
    right(&mut sides, &[1, 2, 3]);
    text.push_str(&format!("{sides}\n\n"));
    let mut parts = grid(&["segment", "ends at", "shape", "median ms", "of the time", "of the MACs"]);
    for (i, part) in measured.segments.iter().enumerate() {
        let shape = part.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("×");
        let tap = part.tap.clone().unwrap_or_else(|| "the output".to_owned());
        let number = (i + 1).to_string();
        parts.add_row([
            number,
            tap,
            shape,
            ms(part.median_ms),
            percent(part.share),
            percent(part.macs_share),
        ]);
    }
    right(&mut parts, &[0, 3, 4, 5]);
    text.push_str(&format!("{parts}\n\n"));
    let mut asked =
        grid(&["exit", "numbers", "10 classes, ms", "of the time", "1000 classes, ms", "of the time"]);
    for (i, exit) in measured.exits.iter().enumerate() {
        let number = (i + 1).to_string();
        let (few, many) = (percent(exit.k10_share), percent(exit.k1000_share));
        asked.add_row([number, exit.dim.to_string(), ms(exit.k10_ms), few, ms(exit.k1000_ms), many]);
    }
    right(&mut asked, &[0, 1, 2, 3, 4, 5]);
    text.push_str(&format!("{asked}\n"));
    text
}
