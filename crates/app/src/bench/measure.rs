//! Timing side by side.

use std::time::{Duration, Instant};

use serde::Serialize;

/// Rounds that are run before any is counted.
const WARM_UP: usize = 3;
/// Rounds that a median needs at least, however long they take.
const MIN_ROUNDS: usize = 9;
/// Rounds that are enough, however short they are.
const MAX_ROUNDS: usize = 5000;

/// One of the things that are compared: does its work once.
pub(crate) type Contestant<'a> = Box<dyn FnMut() -> anyhow::Result<()> + 'a>;

/// Times of one contestant.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Times {
    /// Median, in milliseconds.
    pub(crate) median_ms: f64,
    /// 95th percentile, in milliseconds.
    pub(crate) p95_ms: f64,
    /// Median of the ratio to the first contestant in the same round.
    pub(crate) ratio: f64,
    /// Rounds counted.
    pub(crate) rounds: usize,
}

/// Lets everybody work in turn for about `budget`, so that whatever else the machine does hits all alike: A B C, then
/// C B A, so that nobody always comes after the same one and finds its leavings in the caches.
pub(crate) fn side_by_side(
    budget: Duration,
    contestants: &mut [Contestant<'_>],
) -> anyhow::Result<Vec<Times>> {
    for _ in 0..WARM_UP {
        contestants.iter_mut().try_for_each(|contestant| contestant())?;
    }
    let mut rounds: Vec<Vec<f64>> = vec![Vec::new(); contestants.len()];
    let (begun, turns) = (Instant::now(), contestants.len());
    let mut count = 0;
    while count < MIN_ROUNDS || (count < MAX_ROUNDS && begun.elapsed() < budget) {
        let mut turn = |i: usize| -> anyhow::Result<()> {
            let begun = Instant::now();
            contestants[i]()?;
            rounds[i].push(begun.elapsed().as_secs_f64() * 1e3);
            Ok(())
        };
        match count % 2 {
            0 => (0..turns).try_for_each(&mut turn)?,
            _ => (0..turns).rev().try_for_each(&mut turn)?,
        }
        count += 1;
    }
    let first = rounds.first().cloned().unwrap_or_default();
    Ok(rounds.iter().map(|times| Times::of(times, &first)).collect())
}

impl Times {
    fn of(times: &[f64], first: &[f64]) -> Self {
        let ratios: Vec<f64> = times.iter().zip(first).map(|(time, first)| time / first).collect();
        Self {
            median_ms: quantile(times, 0.5),
            p95_ms: quantile(times, 0.95),
            ratio: quantile(&ratios, 0.5),
            rounds: times.len(),
        }
    }
}

/// How long each step of a contestant's work took, round by round.
#[derive(Debug)]
pub(crate) struct StepTimes(Vec<Vec<f64>>);

impl StepTimes {
    pub(crate) fn new(steps: usize) -> Self {
        Self(vec![Vec::new(); steps])
    }

    /// Does a step over `samples` samples, and notes what each of them took.
    pub(crate) fn time(
        &mut self,
        step: usize,
        samples: usize,
        act: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        act()?;
        self.0[step].push(begun.elapsed().as_secs_f64() * 1e3 / samples as f64);
        Ok(())
    }

    /// Milliseconds that 95 of 100 steps stay within: a step counts with the median of its rounds.
    pub(crate) fn p95(&self) -> f64 {
        let counted = |times: &Vec<f64>| quantile(times.get(WARM_UP..).unwrap_or_default(), 0.5);
        quantile(&self.0.iter().map(counted).collect::<Vec<_>>(), 0.95)
    }
}

/// The smallest value that a share `q` of `values` does not exceed; NaN of nothing.
pub(crate) fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        assert_eq!(quantile(&values, 0.5), 10.0);
        assert_eq!(quantile(&values, 0.95), 19.0);
        assert_eq!(quantile(&[7.0], 0.95), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // A slow second round hits both, and leaves the ratio alone.
        let times = Times::of(&[2.0, 20.0, 2.0], &[1.0, 10.0, 1.0]);
        assert_eq!((times.ratio, times.median_ms, times.p95_ms), (2.0, 2.0, 20.0));
    }

    #[test]
    fn a_step_counts_with_the_median_of_its_rounds() {
        let mut steps = StepTimes::new(1);
        steps.0[0] = vec![90.0, 90.0, 90.0, 1.0, 50.0, 2.0];
        assert_eq!(steps.p95(), 2.0, "the first rounds warm up");
    }

    #[test]
    fn everybody_has_a_turn_in_every_round() {
        let order = std::cell::RefCell::new(Vec::new());
        let mut contestants: Vec<Contestant<'_>> = vec![
            Box::new(|| {
                order.borrow_mut().push('a');
                Ok(())
            }),
            Box::new(|| {
                order.borrow_mut().push('b');
                Ok(())
            }),
        ];
        let times = side_by_side(Duration::ZERO, &mut contestants).unwrap();
        drop(contestants);
        assert_eq!(times[0].rounds, MIN_ROUNDS);
        assert_eq!(order.borrow().len(), 2 * (WARM_UP + MIN_ROUNDS));
        let counted: String = order.borrow()[2 * WARM_UP..].iter().collect();
        assert!(counted.starts_with("abbaabba"), "{counted}");
    }
}
