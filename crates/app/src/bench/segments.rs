//! `exeunt bench segments`.

use std::cell::RefCell;
use std::time::Instant;

use clap::Args;
use exeunt_exits::{DecideScratch, ExitHead, LinearHead, PoolScratch, Rule};
use exeunt_network::{Lane, Network, Segments};
use ndarray::{Array2, ArrayView2};
use serde::Serialize;

use super::measure::{Contestant, Times, quantile, side_by_side};
use super::{Common, CutArgs, Exit, ms, noise, pass, percent, ratio};
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
    let x = noise(7, network.input().len());
    let x = ArrayView2::from_shape((1, x.len()), &x)?;
    let head =
        |classes| exits.iter().map(|exit| random_head(exit.dim, classes)).collect::<Result<Vec<_>, _>>();
    let [own, few, many] = [network.output().len(), CLASSES[0], CLASSES[1]].map(head);
    let (own, few, many) = (own?, few?, many?);

    let parts = RefCell::new(vec![Vec::new(); cut.len()]);
    let asked = RefCell::new(vec![[Vec::new(), Vec::new()]; exits.len()]);
    let (mut one, mut two, mut three) = (whole.lane()?, cut.lane()?, cut.lane()?);
    let (mut asking, mut probing) = (Asking::default(), Asking::default());
    let mut contestants: Vec<Contestant<'_>> = vec![
        Box::new(|| pass(&mut one, x, 1)),
        Box::new(|| {
            two.begin(x)?;
            for (exit, head) in exits.iter().zip(&own) {
                two.run()?;
                asking.ask(exit, head, &two)?;
            }
            Ok(two.run()?)
        }),
        // The same way again, for the times of its parts: looking at the clock is not free.
        Box::new(|| {
            three.begin(x)?;
            let mut parts = parts.borrow_mut();
            for part in parts.iter_mut() {
                let begun = Instant::now();
                three.run()?;
                part.push(begun.elapsed().as_secs_f64() * 1e3);
                let e = three.next_segment() - 1;
                if let Some(exit) = exits.get(e) {
                    for (heads, times) in [&few, &many].into_iter().zip(&mut asked.borrow_mut()[e]) {
                        let begun = Instant::now();
                        probing.ask(exit, &heads[e], &three)?;
                        times.push(begun.elapsed().as_secs_f64() * 1e3);
                    }
                }
            }
            Ok(())
        }),
    ];
    let times = side_by_side(arguments.common.budget(), &mut contestants)?;
    drop(contestants);

    let total = times[0].median_ms;
    let macs: Vec<u64> = network.cut(&taps)?.iter().map(|segment| segment.macs().get()).collect();
    let part = |(i, times): (usize, &Vec<f64>)| {
        let median_ms = quantile(times, 0.5);
        Part {
            tap: exits.get(i).map(|exit| exit.tap.clone()),
            shape: exits.get(i).map_or_else(|| network.output().shape.clone(), |exit| exit.shape.clone()),
            median_ms,
            share: median_ms / total,
            macs_share: macs[i] as f64 / network.macs().get() as f64,
        }
    };
    let ask = |(exit, [few, many]): (&Exit, &[Vec<f64>; 2])| {
        let (k10_ms, k1000_ms) = (quantile(few, 0.5), quantile(many, 0.5));
        Asked {
            tap: exit.tap.clone(),
            dim: exit.dim,
            k10_ms,
            k10_share: k10_ms / total,
            k1000_ms,
            k1000_share: k1000_ms / total,
        }
    };
    let measured = Measured {
        network: arguments.cut.network.display().to_string(),
        engine: cut.engine().to_owned(),
        threads: arguments.common.threads,
        whole: times[0],
        segmented: times[1],
        segments: parts.borrow().iter().enumerate().map(part).collect(),
        exits: exits.iter().zip(asked.borrow().iter()).map(ask).collect(),
    };
    if arguments.common.output.json {
        println!("{}", serde_json::to_string(&measured)?);
    } else {
        print!("{}", table(&measured));
    }
    Ok(())
}

/// A head of noise: what a decision costs does not depend on its numbers.
fn random_head(dim: usize, classes: usize) -> anyhow::Result<ExitHead> {
    let matrix = |seed| Array2::from_shape_vec((classes, dim), noise(seed, classes * dim));
    let linear = LinearHead::new(matrix(3)?, vec![0.0; classes])?;
    Ok(ExitHead::new(matrix(2)?, vec![true; classes])?.with_whitened(Ok(linear))?)
}

/// Buffers of one who asks exits.
#[derive(Default)]
struct Asking {
    pool: PoolScratch,
    decide: DecideScratch,
    z: Vec<f32>,
}

impl Asking {
    /// Pools, scores, and compares with a threshold that nobody reaches.
    fn ask(&mut self, exit: &Exit, head: &ExitHead, lane: &Lane<'_>) -> anyhow::Result<()> {
        self.z.resize(exit.dim, 0.0);
        exit.pool.apply_with(&mut self.pool, &exit.shape, lane.row(0), &mut self.z)?;
        let decision = head.decide_with(&mut self.decide, Rule::Whitened, &self.z)?;
        anyhow::ensure!(decision.margin < f64::INFINITY, "nobody is infinitely sure");
        Ok(())
    }
}

fn table(measured: &Measured) -> String {
    let Measured { network, engine, threads, whole, segmented, .. } = measured;
    let mut text = format!("{network}\n{engine}, {threads} threads, batch 1, {} rounds\n\n", whole.rounds);
    let mut sides = grid(&["", "median ms", "p95 ms", "ratio"]);
    let exits = measured.exits.len();
    for (name, times) in [
        ("whole network".to_owned(), whole),
        (format!("in {} segments, {exits} exits asked, nobody leaves", exits + 1), segmented),
    ] {
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
