//! Measuring what a run's segments and decisions take on this machine.

use std::hint::black_box;
use std::time::{Duration, Instant};

use exeunt_exits::{Asking, ExitHead, ExitRule, Heads, Measured, Rule};
use exeunt_network::{Engine, Lane, Network, Segments};
use exeunt_protocol::message::Refusal;
use exeunt_protocol::spec::ExitPlan;
use ndarray::{Array2, ArrayView2};

use crate::session::{Model, Watch, chain};

/// Rounds that are not counted: caches fill, buffers are allocated, the processor wakes up.
const WARM_UP: usize = 3;
/// Rounds that are counted.
const ROUNDS: usize = 30;
/// A slow machine stops here after [`PATIENCE`].
const FEWEST: usize = 3;
/// How long to measure where [`ROUNDS`] take longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was measured so far.
struct Laps {
    network: Vec<Duration>,
    segments: Vec<Vec<Duration>>,
    /// Per exit and rule it can decide by.
    decisions: Vec<Vec<(Rule, Vec<Duration>)>>,
    asking: Asking,
}

impl Model {
    /// Measures one sample at a time: the network in one piece and in segments by turns, so that whatever else the
    /// machine does meets both alike, and the decision at every exit, by the slower of its rules. The sample is made up:
    /// a network of convolutions takes the same time for any.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub fn measure(
        &self,
        network: &Network,
        engine: &dyn Engine,
        heads: &Heads,
        watch: &Watch,
    ) -> Result<Measured, Refusal> {
        let exits = &self.spec.exits;
        let taps: Vec<&str> = exits.iter().map(|exit| exit.tap.as_str()).collect();
        // As inference runs them; a pass may need batches, and those take longer.
        let whole = Segments::prepare_fast(engine, network, &[]).map_err(failed)?;
        let cut = Segments::prepare_fast(engine, network, &taps).map_err(failed)?;
        let mut lanes = [whole.lane().map_err(failed)?, cut.lane().map_err(failed)?];
        let rules = |(exit, head): (&ExitPlan, &ExitHead)| {
            let rules = exit.rules.iter().filter(|rule| head.available(**rule).is_ok());
            rules.map(|rule| (*rule, Vec::new())).collect()
        };
        let mut laps = Laps {
            network: Vec::new(),
            segments: vec![Vec::new(); exits.len() + 1],
            decisions: exits.iter().zip(heads.exits()).map(rules).collect(),
            asking: Asking::default(),
        };
        if laps.decisions.len() != exits.len() {
            let (found, expected) = (laps.decisions.len(), exits.len());
            return Err(Refusal::Failed {
                what: format!("a snapshot of {found} exits, expected {expected}"),
            });
        }
        let x = made_up(self.segments.input_shape().iter().product());
        let begin = Instant::now();
        for round in 0..WARM_UP + ROUNDS {
            if watch.is_cancelled() {
                return Err(Refusal::Failed { what: "not wanted any more".to_owned() });
            }
            if round >= WARM_UP + FEWEST && begin.elapsed() > PATIENCE {
                break;
            }
            if round == WARM_UP {
                laps.forget();
            }
            self.round(&cut, &mut lanes, x.view(), heads, &mut laps)?;
        }
        Ok(laps.medians())
    }

    fn round(
        &self,
        segments: &Segments,
        [whole, cut]: &mut [Lane<'_>; 2],
        x: ArrayView2<'_, f32>,
        heads: &Heads,
        laps: &mut Laps,
    ) -> Result<(), Refusal> {
        let begin = Instant::now();
        whole.begin(x).map_err(failed)?;
        whole.run().map_err(failed)?;
        laps.network.push(begin.elapsed());
        let mut begin = Instant::now();
        cut.begin(x).map_err(failed)?;
        for (segment, times) in laps.segments.iter_mut().enumerate() {
            cut.run().map_err(failed)?;
            times.push(begin.elapsed());
            let (exit, head) = (self.spec.exits.get(segment), heads.exits().get(segment));
            if let (Some(exit), Some(head)) = (exit, head) {
                for (rule, times) in &mut laps.decisions[segment] {
                    let begin = Instant::now();
                    let shape = segments.tap_shape(segment);
                    let decision = laps.asking.ask((head, *rule), exit.pool, shape, cut.row(0));
                    black_box(ExitRule::new(*rule, 0.0).leaves(decision.map_err(failed)?.margin));
                    times.push(begin.elapsed());
                }
            }
            begin = Instant::now();
        }
        Ok(())
    }
}

impl Laps {
    fn forget(&mut self) {
        self.network.clear();
        self.segments.iter_mut().for_each(Vec::clear);
        self.decisions.iter_mut().flatten().for_each(|(_, times)| times.clear());
    }

    fn medians(self) -> Measured {
        // An exit without a rule is never asked.
        let slowest = |rules: Vec<(Rule, Vec<Duration>)>| {
            rules.into_iter().map(|(_, times)| median(times)).max().unwrap_or_default()
        };
        Measured {
            network: median(self.network),
            segments: self.segments.into_iter().map(median).collect(),
            decisions: self.decisions.into_iter().map(slowest).collect(),
        }
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// One sample whose numbers look like those of a normalised image; always the same.
fn made_up(numbers: usize) -> Array2<f32> {
    // The golden ratio's multiples spread evenly over 0..1.
    Array2::from_shape_fn((1, numbers), |(_, i)| (i as f32 * 0.618_034).fract() * 4.0 - 2.0)
}

fn failed(error: impl std::error::Error) -> Refusal {
    Refusal::Failed { what: chain(&error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_no_mean() {
        let ms = |times: &[u64]| times.iter().map(|ms| Duration::from_millis(*ms)).collect();
        assert_eq!(median(ms(&[5, 1, 900])), Duration::from_millis(5));
        assert_eq!(median(ms(&[])), Duration::ZERO);
    }

    #[test]
    fn a_made_up_sample_is_spread_out() {
        let x = made_up(1000);
        assert!(x.iter().all(|value| (-2.0..=2.0).contains(value)));
        assert!(x.mean().is_some_and(|mean| mean.abs() < 0.1));
    }
}
