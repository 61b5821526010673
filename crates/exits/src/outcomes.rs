//! What every exit would have said of every sample of a part, kept at the node so that a query over thousands of
//! policies costs no forward pass (METHOD, "Calibration").

use exeunt_stats::Table;
use ndarray::{ArrayView1, ArrayView2};

use crate::heads::Heads;
use crate::policy::{Policy, PolicyError};
use crate::quantiles::{bin_of, bins, histogram_layout};
use crate::rule::Rule;
use crate::score::{DecideError, Decision, class_id};
use crate::tally::TallyShape;

/// Samples whose flags share a word.
const WORD: usize = 64;

/// Words that are gone through for all policies before the next ones: their margins stay in the nearest cache.
const BLOCK: usize = 16;

/// Margins and rights of every sample by every rule of every exit.
#[derive(Clone, Debug)]
pub struct Outcomes {
    rules: Vec<Vec<Rule>>,
    /// Parallel to `rules`. A rule that the snapshot lacks has margins of `-∞`: nobody leaves by it.
    columns: Vec<Vec<Column>>,
    network_right: Flags,
}

/// One exit and rule.
#[derive(Clone, Debug, Default)]
struct Column {
    margins: Vec<f64>,
    right: Flags,
}

/// One flag per sample. Beyond the last sample flags are off.
#[derive(Clone, Debug, Default)]
struct Flags {
    words: Vec<u64>,
    len: usize,
}

impl Flags {
    fn push(&mut self, flag: bool) {
        if self.len.is_multiple_of(WORD) {
            self.words.push(0);
        }
        if let Some(word) = self.words.last_mut() {
            *word |= u64::from(flag) << (self.len % WORD);
        }
        self.len += 1;
    }

    fn extend(&mut self, other: &Self) {
        for at in 0..other.len {
            self.push(other.get(at));
        }
    }

    fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    fn get(&self, at: usize) -> bool {
        self.words[at / WORD] >> (at % WORD) & 1 == 1
    }
}

/// Why a batch does not fit.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OutcomesError {
    /// Activations or heads of too many exits, or too few.
    #[error("{what} of {found} exits, expected {expected}")]
    Exits {
        /// What was given per exit.
        what: &'static str,
        /// Exits it was given for.
        found: usize,
        /// Exits of the run.
        expected: usize,
    },
    /// Decisions by too many rules, or too few.
    #[error("decisions by {found} rules at exit {exit}, expected {expected}")]
    Rules {
        /// The exit, from 0.
        exit: usize,
        /// Rules there are decisions by.
        found: usize,
        /// Rules of the run.
        expected: usize,
    },
    /// Parts of a batch are of different lengths.
    #[error("{what} of {found} samples, expected {expected}, one for each label")]
    Samples {
        /// Which part.
        what: &'static str,
        /// Samples in it.
        found: usize,
        /// Labels of the batch.
        expected: usize,
    },
    /// An exit could not decide.
    #[error("exit {exit}")]
    Decide {
        /// The exit, from 0.
        exit: usize,
        /// Why.
        source: DecideError,
    },
}

/// Why a question to the outcomes cannot be answered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AskError {
    /// A policy does not fit.
    #[error("policy {policy}")]
    Policy {
        /// Which, from 0.
        policy: usize,
        /// Why.
        source: PolicyError,
    },
    /// Not one list of edges for each rule of each exit.
    #[error("edges for other exits or rules than the run has")]
    Edges,
}

/// Collects outcomes batch by batch.
#[derive(Clone, Debug)]
pub struct OutcomesBuilder {
    outcomes: Outcomes,
}

impl OutcomesBuilder {
    /// No sample yet. `rules` are the run's, per exit.
    #[must_use]
    pub fn new(rules: &[Vec<Rule>]) -> Self {
        let columns = rules.iter().map(|rules| vec![Column::default(); rules.len()]).collect();
        Self { outcomes: Outcomes { rules: rules.to_vec(), columns, network_right: Flags::default() } }
    }

    /// Adds a batch of `n` samples: its labels, per exit its pooled activations `n × D_e`, and the network's outputs
    /// `n × K`.
    ///
    /// Rules that `heads` lacks at an exit are passed over: nobody leaves by them.
    ///
    /// # Errors
    /// When sizes do not fit; nothing is added then.
    pub fn add(
        &mut self,
        heads: &Heads,
        labels: &[u32],
        pooled: &[ArrayView2<'_, f32>],
        logits: ArrayView2<'_, f32>,
    ) -> Result<(), OutcomesError> {
        let expected = self.outcomes.rules.len();
        for (what, found) in [("activations", pooled.len()), ("heads", heads.len())] {
            if found != expected {
                return Err(OutcomesError::Exits { what, found, expected });
            }
        }
        let mut decisions = Vec::with_capacity(expected);
        for (exit, (rules, z)) in self.outcomes.rules.iter().zip(pooled).enumerate() {
            let mut by_rule = vec![vec![STAYS; z.nrows()]; rules.len()];
            for (rule, decided) in rules.iter().zip(&mut by_rule).filter(|(rule, _)| heads.has(exit, **rule))
            {
                heads
                    .decide_batch(exit, *rule, *z, decided)
                    .map_err(|source| OutcomesError::Decide { exit, source })?;
            }
            decisions.push(by_rule);
        }
        let network: Vec<u32> = logits.rows().into_iter().map(largest).collect();
        self.add_decided(labels, &decisions, &network)
    }

    /// Adds a batch that was decided before: its labels, the decisions per exit, rule and sample, and the network's
    /// own classes.
    ///
    /// # Errors
    /// When sizes do not fit; nothing is added then.
    pub fn add_decided(
        &mut self,
        labels: &[u32],
        decisions: &[Vec<Vec<Decision>>],
        network: &[u32],
    ) -> Result<(), OutcomesError> {
        let outcomes = &mut self.outcomes;
        let (found, expected) = (decisions.len(), outcomes.rules.len());
        if found != expected {
            return Err(OutcomesError::Exits { what: "decisions", found, expected });
        }
        for (exit, (by_rule, rules)) in decisions.iter().zip(&outcomes.rules).enumerate() {
            let (found, expected) = (by_rule.len(), rules.len());
            if found != expected {
                return Err(OutcomesError::Rules { exit, found, expected });
            }
        }
        let expected = labels.len();
        let decided = decisions.iter().flatten().map(|decided| ("decisions", decided.len()));
        for (what, found) in decided.chain([("network outputs", network.len())]) {
            if found != expected {
                return Err(OutcomesError::Samples { what, found, expected });
            }
        }
        for (column, decided) in outcomes.columns.iter_mut().flatten().zip(decisions.iter().flatten()) {
            for (decision, label) in decided.iter().zip(labels) {
                column.margins.push(decision.margin);
                column.right.push(decision.class == *label);
            }
        }
        for (class, label) in network.iter().zip(labels) {
            outcomes.network_right.push(class == label);
        }
        Ok(())
    }

    /// All samples of several builders of the same run, such as one per thread. No builder, no sample.
    #[must_use]
    pub fn join(builders: impl IntoIterator<Item = Self>) -> Outcomes {
        let mut all = builders.into_iter().map(Self::finish);
        let mut joined = all.next().unwrap_or_else(|| Self::new(&[]).finish());
        for other in all {
            for (mine, theirs) in joined.columns.iter_mut().flatten().zip(other.columns.iter().flatten()) {
                mine.margins.extend_from_slice(&theirs.margins);
                mine.right.extend(&theirs.right);
            }
            joined.network_right.extend(&other.network_right);
        }
        joined
    }

    /// What was collected.
    #[must_use]
    pub fn finish(self) -> Outcomes {
        self.outcomes
    }
}

/// The decision of a rule that is not available.
const STAYS: Decision = Decision { class: 0, margin: f64::NEG_INFINITY };

/// The lowest index of the largest value.
fn largest(values: ArrayView1<'_, f32>) -> u32 {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    class_id(best)
}

impl Outcomes {
    /// Number of samples.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.network_right.len
    }

    /// Counts what each of `policies` does: the answer to `Evaluate`, of [`TallyShape`].
    ///
    /// # Errors
    /// When a policy does not fit the exits and rules.
    pub fn tally(&self, policies: &[Policy]) -> Result<Table, AskError> {
        let exits = self.rules.len();
        for (policy, asked) in policies.iter().enumerate() {
            asked.check(&self.rules).map_err(|source| AskError::Policy { policy, source })?;
        }
        let plans: Vec<Vec<Step<'_>>> = policies.iter().map(|policy| self.steps(policy)).collect();
        let places = exits + 1;
        let mut left = vec![0_u64; policies.len() * places];
        let mut right = vec![0_u64; policies.len() * places];
        let mut loss = vec![0_u64; policies.len()];
        for first in (0..self.network_right.words.len()).step_by(BLOCK) {
            let words = first..(first + BLOCK).min(self.network_right.words.len());
            let all = self.everyone(words.clone());
            let network = &self.network_right.words[words.clone()];
            for (p, steps) in plans.iter().enumerate() {
                let cells = p * places..(p + 1) * places;
                let (left, right) = (&mut left[cells.clone()], &mut right[cells]);
                let mut there = all;
                for step in steps {
                    let flags = &step.column.right.words[words.clone()];
                    let margins = &step.column.margins[words.start * WORD..];
                    let counts = step.leave(margins, flags, network, &mut there);
                    left[step.exit] += counts.left;
                    right[step.exit] += counts.right;
                    loss[p] += counts.lost;
                }
                for (there, network) in there.iter().zip(network) {
                    left[exits] += u64::from(there.count_ones());
                    right[exits] += u64::from((there & network).count_ones());
                }
            }
        }
        let globals = [self.samples() as u64, self.network_right.count()];
        let cells = globals.iter().chain(&left).chain(&right).chain(&loss);
        let table = Table::from_cells(cells.map(|count| i64::try_from(*count).unwrap_or(i64::MAX)).collect());
        debug_assert_eq!(table.len(), TallyShape { policies: policies.len(), exits }.cells());
        Ok(table)
    }

    /// The exits in use that a policy can reach.
    fn steps(&self, policy: &Policy) -> Vec<Step<'_>> {
        let used = policy.exits.iter().enumerate().filter_map(|(exit, used)| Some((exit, used.as_ref()?)));
        used.filter_map(|(exit, used)| {
            let at = self.rules[exit].iter().position(|rule| *rule == used.rule)?;
            Some(Step { exit, threshold: used.threshold, column: &self.columns[exit][at] })
        })
        .collect()
    }

    /// A flag for every sample of a block.
    fn everyone(&self, words: std::ops::Range<usize>) -> [u64; BLOCK] {
        let mut flags = [0; BLOCK];
        for (word, flags) in words.zip(&mut flags) {
            let samples = (self.samples() - word * WORD).min(WORD);
            *flags = u64::MAX >> (WORD - samples);
        }
        flags
    }

    /// Counts margins between `edges`, per exit and rule, right and wrong apart: the answer to `Confidence`, of
    /// `histogram_layout`.
    ///
    /// # Errors
    /// When the edges are not those of the run's exits and rules.
    pub fn histograms(&self, edges: &[Vec<Vec<f64>>]) -> Result<Table, AskError> {
        let fits = |(rules, edges): (&Vec<Rule>, &Vec<Vec<f64>>)| rules.len() == edges.len();
        if edges.len() != self.rules.len() || !self.rules.iter().zip(edges).all(fits) {
            return Err(AskError::Edges);
        }
        let mut cells = Vec::with_capacity(histogram_layout(edges).cells());
        for (column, edges) in self.columns.iter().flatten().zip(edges.iter().flatten()) {
            let bins = bins(edges);
            let mut counts = vec![0_i64; 2 * bins];
            if bins > 0 {
                for (at, margin) in column.margins.iter().enumerate() {
                    let wrong = if column.right.get(at) { 0 } else { bins };
                    counts[wrong + bin_of(edges, *margin)] += 1;
                }
            }
            cells.append(&mut counts);
        }
        Ok(Table::from_cells(cells))
    }
}

/// One exit in use under a policy.
struct Step<'a> {
    exit: usize,
    threshold: f64,
    column: &'a Column,
}

/// What happened at one exit in one block.
#[derive(Default)]
struct Counts {
    left: u64,
    right: u64,
    lost: u64,
}

impl Step<'_> {
    /// Lets those who are `there` leave where their margin is above the threshold.
    fn leave(&self, margins: &[f64], right: &[u64], network: &[u64], there: &mut [u64; BLOCK]) -> Counts {
        let mut counts = Counts::default();
        for (((margins, right), network), there) in margins.chunks(WORD).zip(right).zip(network).zip(there) {
            if *there == 0 {
                continue;
            }
            let leave = *there & above(margins, self.threshold);
            *there &= !leave;
            counts.left += u64::from(leave.count_ones());
            counts.right += u64::from((leave & right).count_ones());
            counts.lost += u64::from((leave & network & !right).count_ones());
        }
        counts
    }
}

/// Which of up to 64 margins are above the threshold, the first in the lowest bit.
fn above(margins: &[f64], threshold: f64) -> u64 {
    // Bytes first, then eight of them gathered into bits by one multiplication: that the compiler can do with vectors.
    let mut bytes = [0_u8; WORD];
    for (byte, margin) in bytes.iter_mut().zip(margins) {
        *byte = u8::from(*margin > threshold);
    }
    let (eights, _) = bytes.as_chunks::<8>();
    let gathered =
        eights.iter().map(|eight| u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56);
    gathered.rev().fold(0, |word, bits| word << 8 | bits)
}
