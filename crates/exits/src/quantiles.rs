//! Thresholds as quantiles of what was observed, and quantiles out of histograms.
//!
//! A margin has no scale of its own (METHOD, "Three facts"), so people set fractions: "let the surest 30 % leave
//! here". The fleet's margins are known as histograms only. The first is over a fixed grid of edges; each of the next
//! divides the bins that hold too much, until a quantile is good to 1/256 of the samples.

use exeunt_stats::{Layout, Table};
use serde::{Deserialize, Serialize};

use crate::rule::Rule;

/// Bins are divided until none holds more than this share of the samples.
const RESOLUTION_INVERSE: u64 = 256;

/// Histograms that are asked for at most, each finer than the last. Nodes keep their margins, so a round costs a
/// message, no forward pass.
pub(crate) const ROUNDS: usize = 6;

/// A histogram has at most this many edges; about half of them as a rule.
#[cfg(test)]
const MAX_EDGES: usize = 1200;

/// Bins narrower than this, relative to where they are, are not divided further.
const NEGLIGIBLE: f64 = 5e-12;

/// Edges per exit and rule, the rules in the run's order; none where the rule is not available.
pub(crate) type Edges = Vec<Vec<Vec<f64>>>;

/// Why a table is not the histograms that were asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistogramError {
    /// Not as long as the query's answer.
    #[error("histograms of {found} cells, expected {expected}")]
    Cells {
        /// Cells of the table.
        found: usize,
        /// Cells of the query's layout.
        expected: usize,
    },
    /// Counts are at least 0.
    #[error("cell {cell} of the histograms is {found}, expected a count")]
    Negative {
        /// The cell.
        cell: usize,
        /// Its value.
        found: i64,
    },
    /// Every sample has one margin at every exit and by every rule.
    #[error("the histogram of exit {exit} by {rule} is of {found} samples, expected {expected}")]
    Samples {
        /// The exit, from 0.
        exit: usize,
        /// The rule.
        rule: Rule,
        /// Samples in it.
        found: u64,
        /// Samples in the others.
        expected: u64,
    },
}

/// The layout of a `Confidence` answer. Sections of exit `e` and its rule number `r`: `e{e}.r{r}.right[B]`,
/// `e{e}.r{r}.wrong[B]`, with `B` one more than there are edges, or 0 without edges.
#[must_use]
pub(crate) fn histogram_layout(edges: &[Vec<Vec<f64>>]) -> Layout {
    let numbered = edges.iter().enumerate();
    let each = numbered.flat_map(|(e, rules)| rules.iter().enumerate().map(move |(r, edges)| (e, r, edges)));
    Layout::new(each.flat_map(|(e, r, edges)| {
        ["right", "wrong"].map(|which| (format!("e{e}.r{r}.{which}"), bins(edges)))
    }))
}

/// Bins between and beside edges; none without edges, which says that nothing is asked.
pub(crate) fn bins(edges: &[f64]) -> usize {
    if edges.is_empty() { 0 } else { edges.len() + 1 }
}

/// The bin of a margin: how many edges it is above. So bin `b` is `(edges[b-1], edges[b]]`, and what is above a
/// threshold that is an edge is exactly the bins above it. What is no number is in the lowest.
pub(crate) fn bin_of(edges: &[f64], margin: f64) -> usize {
    edges.partition_point(|edge| *edge < margin)
}

/// The margins of all samples at one exit by one rule, as a histogram, right and wrong apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Bins")]
pub struct Distribution {
    edges: Vec<f64>,
    right: Vec<u64>,
    wrong: Vec<u64>,
}

/// A histogram as it comes from elsewhere.
#[derive(Deserialize)]
struct Bins {
    edges: Vec<f64>,
    right: Vec<u64>,
    wrong: Vec<u64>,
}

/// Why numbers are not a histogram of margins.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DistributionError {
    /// There is one bin more than there are edges, right and wrong alike.
    #[error("{right} and {wrong} bins, expected {expected} of each")]
    Bins {
        /// Bins of samples that are right.
        right: usize,
        /// Bins of samples that are wrong.
        wrong: usize,
        /// One more than there are edges.
        expected: usize,
    },
    /// Edges are finite and ascend.
    #[error("the edges do not ascend")]
    Edges,
}

impl TryFrom<Bins> for Distribution {
    type Error = DistributionError;

    fn try_from(Bins { edges, right, wrong }: Bins) -> Result<Self, DistributionError> {
        let expected = edges.len() + 1;
        if right.len() != expected || wrong.len() != expected {
            return Err(DistributionError::Bins { right: right.len(), wrong: wrong.len(), expected });
        }
        let ascend =
            edges.iter().all(|edge| edge.is_finite()) && edges.windows(2).all(|pair| pair[0] < pair[1]);
        if ascend { Ok(Self { edges, right, wrong }) } else { Err(DistributionError::Edges) }
    }
}

impl Distribution {
    /// Edges of the bins, ascending; there is one bin more.
    #[must_use]
    pub fn edges(&self) -> &[f64] {
        &self.edges
    }

    /// Samples between two shares of the surest, `from < to`, that are right and that are wrong; on the straight line
    /// within a bin. Shares because margins have no scale of their own.
    #[must_use]
    pub fn between(&self, from: f64, to: f64) -> (f64, f64) {
        let samples = self.samples() as f64;
        let (mut right, mut wrong, mut above) = (0.0, 0.0, 0.0);
        for bin in (0..self.right.len()).rev() {
            let mass = self.mass(bin) as f64;
            let shared = ((above + mass).min(to * samples) - above.max(from * samples)).max(0.0);
            if shared > 0.0 {
                right += self.right[bin] as f64 * shared / mass;
                wrong += self.wrong[bin] as f64 * shared / mass;
            }
            above += mass;
        }
        (right, wrong)
    }

    /// Samples.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.right.iter().chain(&self.wrong).fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Accuracy if every sample left; `None` without samples.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        let right = self.right.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
        (self.samples() > 0).then(|| right as f64 / self.samples() as f64)
    }

    fn mass(&self, bin: usize) -> u64 {
        self.right[bin].saturating_add(self.wrong[bin])
    }

    /// Lower and upper end of a bin.
    fn ends(&self, bin: usize) -> (f64, f64) {
        let below = bin.checked_sub(1).map_or(f64::NEG_INFINITY, |b| self.edges[b]);
        (below, self.edges.get(bin).copied().unwrap_or(f64::INFINITY))
    }

    /// The threshold above which this fraction of all samples lie, the surest ones; on the straight line within a
    /// bin. All of them, 1, is `-∞`; at 0 nobody leaves.
    #[must_use]
    pub fn threshold(&self, fraction: f64) -> f64 {
        if fraction >= 1.0 {
            return f64::NEG_INFINITY;
        }
        let wanted = fraction.max(0.0) * self.samples() as f64;
        let mut above = 0.0;
        for bin in (0..self.right.len()).rev() {
            let mass = self.mass(bin) as f64;
            if mass == 0.0 {
                continue;
            }
            if above + mass >= wanted {
                let share = (wanted - above) / mass;
                return match self.ends(bin) {
                    (low, high) if low.is_finite() && high.is_finite() => high - (high - low) * share,
                    (low, _) if low.is_finite() => low,
                    // Nothing tells apart what lies below the lowest edge: all of it leaves, or none.
                    (_, high) if share < 0.5 => high,
                    _ => f64::NEG_INFINITY,
                };
            }
            above += mass;
        }
        f64::NEG_INFINITY
    }

    /// The fraction of all samples whose margin is above `threshold`: the reverse of
    /// [`threshold`](Self::threshold). 0 without samples.
    #[must_use]
    pub fn fraction(&self, threshold: f64) -> f64 {
        let samples = self.samples();
        if samples == 0 || threshold.is_nan() {
            return 0.0;
        }
        let bin = bin_of(&self.edges, threshold);
        let above: f64 = (bin + 1..self.right.len()).map(|b| self.mass(b) as f64).sum();
        let share = match self.ends(bin) {
            (low, high) if low.is_finite() && high.is_finite() => (high - threshold) / (high - low),
            (low, _) if low.is_finite() => 0.0,
            (_, high) if threshold == high => 0.0,
            _ => 1.0,
        };
        (above + share * self.mass(bin) as f64) / samples as f64
    }

    /// The largest fraction of surest samples of which at least this share is right; 0 if there is none.
    #[must_use]
    pub fn fraction_right(&self, share: f64) -> f64 {
        let (mut right, mut all, mut best) = (0_u64, 0_u64, 0_u64);
        for bin in (0..self.right.len()).rev() {
            right = right.saturating_add(self.right[bin]);
            all = all.saturating_add(self.mass(bin));
            if right as f64 >= share * all as f64 {
                best = all;
            }
        }
        if best == 0 { 0.0 } else { best as f64 / self.samples() as f64 }
    }

    /// The most that a bin should hold.
    fn limit(&self) -> u64 {
        (self.samples() / RESOLUTION_INVERSE).max(1)
    }

    /// Whether a bin holds so much that it should be divided, and can be.
    fn too_full(&self, mass: u64, (low, high): (f64, f64)) -> bool {
        let wide = high - low > NEGLIGIBLE * low.abs().max(high.abs());
        // The outermost bins reach to infinity; the first grid spans every margin that a decision can have.
        (high - low).is_finite() && wide && mass > self.limit()
    }

    /// Whether no bin should be divided any more.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        (0..self.right.len()).all(|bin| !self.too_full(self.mass(bin), self.ends(bin)))
    }

    /// Edges for the next histogram: bins that are too full are divided in proportion to what they hold, neighbours
    /// that hold little are joined.
    #[must_use]
    pub fn refined(&self) -> Vec<f64> {
        let limit = self.limit();
        let mut groups: Vec<(f64, f64, u64)> = Vec::new();
        for bin in 0..self.right.len() {
            let (low, high) = self.ends(bin);
            let mass = self.mass(bin);
            match groups.last_mut() {
                // What reaches to infinity stays apart, or no edge would be left on that side.
                Some(group) if group.0.is_finite() && high.is_finite() && group.2 + mass <= limit => {
                    *group = (group.0, high, group.2 + mass);
                }
                _ => groups.push((low, high, mass)),
            }
        }
        let mut edges: Vec<f64> = Vec::new();
        for (low, high, mass) in groups {
            if self.too_full(mass, (low, high)) {
                // Half the limit, if what is in the bin were spread evenly.
                let parts = (2 * mass / limit + 1).min(2 * RESOLUTION_INVERSE);
                let inner = (1..parts).map(|part| low + (high - low) * (part as f64 / parts as f64));
                edges.extend(inner.filter(|edge| low < *edge && *edge < high));
            }
            if high.is_finite() {
                edges.push(high);
            }
        }
        edges.dedup();
        edges
    }
}

/// The margins of all samples of a part, at every exit and by every rule that is available there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Quantiles {
    exits: Vec<Vec<(Rule, Distribution)>>,
}

impl Quantiles {
    /// The first edges to ask with, a quarter of a power of two apart on both sides of 0 as far as margins go.
    /// `rules` are the run's, `available` those of them that can be asked for.
    #[must_use]
    pub fn first_edges(rules: &[Vec<Rule>], available: &[Vec<Rule>]) -> Edges {
        let grid = signed_grid();
        let exits = rules.iter().zip(available);
        exits
            .map(|(rules, available)| {
                let edges = |rule| if available.contains(rule) { grid.clone() } else { Vec::new() };
                rules.iter().map(edges).collect()
            })
            .collect()
    }

    /// Reads the answer to a question with these edges. `rules` are the run's.
    ///
    /// # Errors
    /// See [`HistogramError`].
    pub fn read(rules: &[Vec<Rule>], edges: &[Vec<Vec<f64>>], table: &Table) -> Result<Self, HistogramError> {
        let expected = histogram_layout(edges).cells();
        if table.len() != expected {
            return Err(HistogramError::Cells { found: table.len(), expected });
        }
        let cells = table.cells().iter().enumerate();
        let counts: Result<Vec<u64>, _> = cells
            .map(|(cell, found)| {
                u64::try_from(*found).map_err(|_error| HistogramError::Negative { cell, found: *found })
            })
            .collect();
        let counts = counts?;
        let mut rest = &counts[..];
        let mut take = |bins: usize| {
            let (taken, after) = rest.split_at(bins);
            rest = after;
            taken.to_vec()
        };
        let mut samples = None;
        let mut exits = Vec::with_capacity(edges.len());
        for (exit, (rules, edges)) in rules.iter().zip(edges).enumerate() {
            let mut distributions = Vec::with_capacity(edges.len());
            for (rule, edges) in rules.iter().zip(edges).filter(|(_, edges)| !edges.is_empty()) {
                let (right, wrong) = (take(bins(edges)), take(bins(edges)));
                let distribution = Distribution { edges: edges.clone(), right, wrong };
                let found = distribution.samples();
                let expected = *samples.get_or_insert(found);
                if found != expected {
                    return Err(HistogramError::Samples { exit, rule: *rule, found, expected });
                }
                distributions.push((*rule, distribution));
            }
            exits.push(distributions);
        }
        Ok(Self { exits })
    }

    /// Whether no histogram should be refined any more.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.exits.iter().flatten().all(|(_, distribution)| distribution.is_fine())
    }

    /// Edges to ask with next. `rules` are the run's. A histogram that is fine keeps its edges.
    #[must_use]
    pub fn refined(&self, rules: &[Vec<Rule>]) -> Edges {
        let next = |exit: usize, rule: &Rule| match self.at(exit, *rule) {
            None => Vec::new(),
            Some(distribution) if distribution.is_fine() => distribution.edges.clone(),
            Some(distribution) => distribution.refined(),
        };
        let exits = rules.iter().enumerate();
        exits.map(|(exit, rules)| rules.iter().map(|rule| next(exit, rule)).collect()).collect()
    }

    /// Number of exits.
    #[must_use]
    pub fn exits(&self) -> usize {
        self.exits.len()
    }

    /// The rules that are available at an exit.
    pub fn rules(&self, exit: usize) -> impl Iterator<Item = Rule> + '_ {
        self.exits.get(exit).into_iter().flatten().map(|(rule, _)| *rule)
    }

    /// The margins at an exit by a rule, if it is available there.
    #[must_use]
    pub fn at(&self, exit: usize, rule: Rule) -> Option<&Distribution> {
        self.exits.get(exit)?.iter().find(|(r, _)| *r == rule).map(|(_, distribution)| distribution)
    }

    /// The rule that is right most often at an exit if everyone leaves there; the first of equal ones.
    #[must_use]
    pub fn best_rule(&self, exit: usize) -> Option<Rule> {
        let mut best: Option<(Rule, f64)> = None;
        for (rule, distribution) in self.exits.get(exit)? {
            let accuracy = distribution.accuracy().unwrap_or_default();
            if best.is_none_or(|(_, most)| accuracy > most) {
                best = Some((*rule, accuracy));
            }
        }
        best.map(|(rule, _)| rule)
    }

    /// The threshold at which the surest `fraction` of all samples leave, if the rule is available there.
    #[must_use]
    pub fn threshold(&self, exit: usize, rule: Rule, fraction: f64) -> Option<f64> {
        Some(self.at(exit, rule)?.threshold(fraction))
    }

    /// The fraction of all samples above a threshold, if the rule is available there.
    #[must_use]
    pub fn fraction(&self, exit: usize, rule: Rule, threshold: f64) -> Option<f64> {
        Some(self.at(exit, rule)?.fraction(threshold))
    }
}

/// 0 and ±2^k·{1, 1¼, 1½, 1¾} for k from −10 to 39, ascending. Every number is exact, so that no machine's idea of a
/// power makes another question of it. Margins end at 10¹², below 2⁴⁰.
fn signed_grid() -> Vec<f64> {
    let octaves = (-10_i32..40).map(|k| if k < 0 { 1.0 / f64::from(1 << -k) } else { (1_u64 << k) as f64 });
    let above: Vec<f64> = octaves.flat_map(|power| [1.0, 1.25, 1.5, 1.75].map(|part| part * power)).collect();
    let top = (1_u64 << 40) as f64;
    let positive = above.into_iter().chain([top]);
    let mut grid: Vec<f64> = positive.flat_map(|edge| [-edge, edge]).chain([0.0]).collect();
    grid.sort_by(f64::total_cmp);
    grid
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: [Rule; 1] = [Rule::Whitened];
    const RESOLUTION: f64 = 1.0 / RESOLUTION_INVERSE as f64;

    fn counted(margins: &[f64], edges: &[f64]) -> Table {
        let mut cells = vec![0; 2 * bins(edges)];
        for (i, margin) in margins.iter().enumerate() {
            cells[bin_of(edges, *margin) + i % 2 * bins(edges)] += 1;
        }
        Table::from_cells(cells)
    }

    fn read(margins: &[f64], edges: &Edges) -> Quantiles {
        Quantiles::read(&[RULES.to_vec()], edges, &counted(margins, &edges[0][0])).unwrap()
    }

    /// As many rounds as it takes or as a run has, and how many that were.
    fn refined(margins: &[f64]) -> (Quantiles, usize) {
        let rules = [RULES.to_vec()];
        let mut edges = Quantiles::first_edges(&rules, &rules);
        let mut quantiles = read(margins, &edges);
        let mut rounds = 1;
        while !quantiles.is_fine() && rounds < ROUNDS {
            edges = quantiles.refined(&rules);
            assert!(edges[0][0].len() <= MAX_EDGES, "{} edges", edges[0][0].len());
            assert!(edges[0][0].is_sorted_by(|a, b| a < b), "{edges:?}");
            quantiles = read(margins, &edges);
            rounds += 1;
        }
        (quantiles, rounds)
    }

    fn share_above(margins: &[f64], threshold: f64) -> f64 {
        margins.iter().filter(|margin| **margin > threshold).count() as f64 / margins.len() as f64
    }

    /// Margins as rules give them: all of a flat softmax within a thousandth, or over several powers of ten.
    fn flat(i: u32) -> f64 {
        let x = f64::from(i.wrapping_mul(2_654_435_761) >> 8) / f64::from(1 << 24);
        -(999_f64.ln()) + 1e-3 * x * x * x
    }

    fn long_tailed(i: u32) -> f64 {
        let x = f64::from(i.wrapping_mul(2_654_435_761) >> 8) / f64::from(1 << 24);
        -1.5 + 3.0 * x / (1.0005 - x)
    }

    #[test]
    fn rounds_resolve_flat_and_long_tailed_margins() {
        for margin in [flat, long_tailed] {
            let margins: Vec<f64> = (0..20_000).map(margin).collect();
            let (quantiles, _) = refined(&margins);
            for percent in 0..=100 {
                let fraction = f64::from(percent) / 100.0;
                let threshold = quantiles.threshold(0, Rule::Whitened, fraction).unwrap();
                let leave = share_above(&margins, threshold);
                assert!((leave - fraction).abs() <= RESOLUTION, "{fraction} became {leave}");
                let back = quantiles.fraction(0, Rule::Whitened, threshold).unwrap();
                assert!((back - fraction).abs() < 1e-9, "{fraction} became {back}");
            }
        }
    }

    #[test]
    fn everyone_and_nobody() {
        let (quantiles, _) = refined(&[1.0, 2.0, 3.0, 1e12]);
        let margins = quantiles.at(0, Rule::Whitened).unwrap();
        assert_eq!(margins.threshold(1.0), f64::NEG_INFINITY);
        assert_eq!(margins.threshold(7.0), f64::NEG_INFINITY);
        assert!(margins.threshold(0.0) >= 1e12);
        assert_eq!(margins.fraction(f64::NEG_INFINITY), 1.0);
        assert_eq!(margins.fraction(f64::INFINITY), 0.0);
        assert_eq!(margins.fraction(f64::NAN), 0.0);
        assert_eq!(margins.fraction(-5.0), 1.0);
        let (none, _) = refined(&[]);
        let margins = none.at(0, Rule::Whitened).unwrap();
        assert_eq!((margins.samples(), margins.accuracy()), (0, None));
        assert_eq!(margins.threshold(0.5), f64::NEG_INFINITY);
        assert_eq!(margins.fraction(0.0), 0.0);
    }

    #[test]
    fn samples_that_are_all_alike_end_the_refinement() {
        let (quantiles, rounds) = refined(&[2.3; 1000]);
        assert!(rounds < ROUNDS);
        let margins = quantiles.at(0, Rule::Whitened).unwrap();
        assert!(margins.threshold(0.0) >= 2.3 && margins.threshold(0.999) < 2.3 + 1e-8);
        // Activations that cannot be decided on have no margin at all.
        let (stuck, rounds) = refined(&[f64::NEG_INFINITY; 10]);
        assert_eq!(rounds, 1);
        assert_eq!(stuck.at(0, Rule::Whitened).unwrap().fraction(-1e12), 0.0);
    }

    #[test]
    fn precision_and_accuracy_are_read_off() {
        let edges = vec![0.0, 1.0, 2.0];
        let distribution = Distribution { edges, right: vec![1, 2, 5, 9], wrong: vec![9, 3, 5, 1] };
        assert_eq!(distribution.accuracy(), Some(17.0 / 35.0));
        assert_eq!(distribution.fraction_right(0.9), 10.0 / 35.0);
        assert_eq!(distribution.fraction_right(0.7), 20.0 / 35.0);
        assert_eq!(distribution.fraction_right(0.0), 1.0);
        assert_eq!(distribution.fraction_right(0.95), 0.0);
    }

    #[test]
    fn samples_are_counted_between_shares_of_the_surest() {
        let distribution =
            Distribution { edges: vec![0.0, 1.0], right: vec![2, 4, 10], wrong: vec![8, 6, 0] };
        assert_eq!(distribution.between(0.0, 1.0), (16.0, 14.0));
        assert_eq!(distribution.between(0.0, 1.0 / 3.0), (10.0, 0.0));
        assert_eq!(distribution.between(0.5, 0.5), (0.0, 0.0));
        let (right, wrong) = distribution.between(1.0 / 3.0, 0.5);
        assert!((right - 2.0).abs() < 1e-9 && (wrong - 3.0).abs() < 1e-9, "{right} {wrong}");
    }

    #[test]
    fn quantiles_survive_json_and_nonsense_is_refused() {
        let (quantiles, _) = refined(&[1.0, 2.0, -3.0, 1e12]);
        let json = serde_json::to_string(&quantiles).unwrap();
        assert_eq!(serde_json::from_str::<Quantiles>(&json).unwrap(), quantiles);
        let read = |json: &str| serde_json::from_str::<Distribution>(json).unwrap_err().to_string();
        let short = read(r#"{"edges":[0.0],"right":[1],"wrong":[1,2]}"#);
        assert!(short.contains("1 and 2 bins, expected 2 of each"), "{short}");
        let falling = read(r#"{"edges":[1.0,0.0],"right":[1,1,1],"wrong":[0,0,0]}"#);
        assert!(falling.contains("the edges do not ascend"), "{falling}");
    }

    #[test]
    fn rules_that_are_not_available_are_not_asked_for() {
        let rules = vec![Rule::ALL.to_vec(), vec![Rule::ClassMeans]];
        let available = vec![vec![Rule::Whitened], vec![]];
        let edges = Quantiles::first_edges(&rules, &available);
        assert!(edges[0][0].is_empty() && edges[1][0].is_empty());
        let layout = histogram_layout(&edges);
        assert_eq!(layout.cells(), 2 * (edges[0][1].len() + 1));
        assert_eq!(layout.range("e0.r0.right").map(|cells| cells.len()), Some(0));
        let quantiles = Quantiles::read(&rules, &edges, &Table::zeros(layout.cells())).unwrap();
        assert_eq!(quantiles.rules(0).collect::<Vec<_>>(), [Rule::Whitened]);
        assert_eq!(quantiles.best_rule(0), Some(Rule::Whitened));
        assert_eq!(quantiles.best_rule(1), None);
        assert_eq!(quantiles.threshold(1, Rule::ClassMeans, 0.5), None);
        assert!(quantiles.refined(&rules)[1][0].is_empty());
    }

    #[test]
    fn tables_that_cannot_be_are_refused() {
        let rules = vec![Rule::ALL.to_vec()];
        let edges = vec![vec![vec![0.0], vec![0.5]]];
        let refused = |cells: [i64; 8]| {
            Quantiles::read(&rules, &edges, &Table::from_cells(cells.to_vec())).unwrap_err()
        };
        assert_eq!(refused([0, 1, 0, -1, 0, 0, 0, 0]), HistogramError::Negative { cell: 3, found: -1 });
        let error = refused([2, 1, 0, 1, 3, 0, 0, 0]);
        assert_eq!(error.to_string(), "the histogram of exit 0 by whitened is of 3 samples, expected 4");
        let short = Quantiles::read(&rules, &edges, &Table::zeros(7)).unwrap_err();
        assert_eq!(short, HistogramError::Cells { found: 7, expected: 8 });
    }

    #[test]
    fn the_first_grid_spans_every_margin() {
        let grid = signed_grid();
        assert!(grid.is_sorted_by(|a, b| a < b));
        assert!(grid[0] < -crate::score::MARGIN_LIMIT && grid[grid.len() - 1] > crate::score::MARGIN_LIMIT);
        assert!(grid.len() <= MAX_EDGES);
    }

    proptest! {
        #[test]
        fn a_threshold_lets_its_fraction_leave(
            margins in prop::collection::vec(prop_oneof![-30.0..300.0_f64, -2.31..-2.3_f64], 1..600),
            fraction in 0.0..1.0_f64,
        ) {
            let (quantiles, _) = refined(&margins);
            let threshold = quantiles.threshold(0, Rule::Whitened, fraction).unwrap();
            let mut resolution = (1.0 / margins.len() as f64).max(RESOLUTION);
            // Where the rounds ran out before a few margins were told apart, those leave together or not at all.
            let found = quantiles.at(0, Rule::Whitened).unwrap();
            for bin in (0..found.right.len()).filter(|bin| found.too_full(found.mass(*bin), found.ends(*bin))) {
                let (low, high) = found.ends(bin);
                prop_assert!(high - low < 1e-3 * low.abs().max(high.abs()), "a bin of {low} to {high}");
                resolution = resolution.max(found.mass(bin) as f64 / margins.len() as f64);
            }
            prop_assert!((share_above(&margins, threshold) - fraction).abs() <= resolution + 1e-9);
        }
    }
}
