//! A run as a program: it asks, reads merged tables, and asks on.
//!
//! [`Program::query`] is what is asked now, [`Program::absorb`] takes the merged answer. The program is a function of
//! the answers alone, so whoever keeps those can rebuild it by going through them again.
//!
//! Census → Range → Moments → (Spread) → Confidence, refined → Evaluate on the calibration part, searching → Evaluate
//! on the evaluation part → Timings, with everything else known. Then it rests, and measures single policies when asked to ([`Program::preview`]): those that
//! were chosen on the evaluation part, those that are only tried on the calibration part.

mod choose;
mod result;

use std::collections::VecDeque;
use std::sync::Arc;

use exeunt_stats::{Digest, RangeLayout, Scale, Table, ViewError, scales_for};

pub use choose::{ChooseError, PolicyRequest};
pub use result::{ExitReport, NodeCurve, RunResult, node_curve};

use crate::Rule;
use crate::context::{Part, RunContext};
use crate::curve::{Curve, CurvePoint, read_points};
use crate::fit::{FitError, FitOptions, Prior, fit_heads};
use crate::heads::{Heads, SpreadError};
use crate::policy::Policy;
use crate::quantiles::{HistogramError, Quantiles, ROUNDS};
use crate::query::Query;
use crate::search::Search;
use crate::tally::{TallyError, TallyShape, TallyView};
use crate::timings::{Times, TimingsShape};

/// How often a scale may be widened.
const MAX_WIDENED: usize = 4;
/// Bits by which it is widened.
const WIDER_BITS: u8 = 2;
/// Policies of the front that are read on the evaluation part.
const REPORTED: usize = 64;

/// Why a program cannot go on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// Nothing was asked.
    #[error("an answer came although nothing was asked")]
    NotAsking,
    /// An answer does not have the shape of its question.
    #[error("the answer to {query} has {found} cells, expected {expected}")]
    Cells {
        /// The question.
        query: &'static str,
        /// Cells of the answer.
        found: usize,
        /// Cells it should have.
        expected: usize,
    },
    /// A part has no samples at all.
    #[error("no node has a sample in the {part} part")]
    NoSamples {
        /// The part.
        part: Part,
    },
    /// Activations do not fit any scale that was tried.
    #[error("activations do not fit their scale after {tries} wider ones")]
    OutOfRange {
        /// How many were tried.
        tries: usize,
    },
    /// No exit has any rule.
    #[error("no exit can decide: {why}")]
    NoRule {
        /// What the first exit lacks.
        why: String,
    },
    /// Merged magnitudes make no sense.
    #[error(transparent)]
    Range(#[from] ViewError),
    /// Merged moments do not make heads.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// Merged distances do not make spreads.
    #[error(transparent)]
    Spread(#[from] SpreadError),
    /// Merged histograms make no sense.
    #[error(transparent)]
    Histogram(#[from] HistogramError),
    /// Merged tallies make no sense.
    #[error(transparent)]
    Tally(#[from] TallyError),
}

/// What is being found out.
#[derive(Clone, Debug)]
enum Stage {
    Census,
    Range,
    Moments,
    Spread,
    Confidence { round: usize },
    Searching(Box<Search>),
    Reporting,
    Timing,
    Previewing(Part),
    Resting,
}

/// A run as a program: it asks, reads merged tables, and asks on. A function of the answers alone.
#[derive(Clone, Debug)]
pub struct Program {
    context: RunContext,
    stage: Stage,
    query: Option<Query>,
    samples: [u64; 3],
    scales: Vec<Scale>,
    widened: usize,
    heads: Option<Arc<Heads>>,
    digest: Option<Digest>,
    quantiles: Option<Quantiles>,
    calibrated: Vec<CurvePoint>,
    fixed: Vec<CurvePoint>,
    result: Option<RunResult>,
    times: Option<Times>,
    waiting: VecDeque<(Part, Policy)>,
    previews: Vec<CurvePoint>,
}

impl Program {
    /// A program that asks its first question.
    #[must_use]
    pub fn new(context: RunContext) -> Self {
        Self {
            context,
            stage: Stage::Census,
            query: Some(Query::Census),
            samples: [0; 3],
            scales: Vec::new(),
            widened: 0,
            heads: None,
            digest: None,
            quantiles: None,
            calibrated: Vec::new(),
            fixed: Vec::new(),
            result: None,
            times: None,
            waiting: VecDeque::new(),
            previews: Vec::new(),
        }
    }

    /// What the run is.
    #[must_use]
    pub fn context(&self) -> &RunContext {
        &self.context
    }

    /// What is asked now; nothing while the program rests.
    #[must_use]
    pub fn query(&self) -> Option<&Query> {
        self.query.as_ref()
    }

    /// The snapshot so far.
    #[must_use]
    pub fn heads(&self) -> Option<&Arc<Heads>> {
        self.heads.as_ref()
    }

    /// Margins on the calibration part, once they are known.
    #[must_use]
    pub fn quantiles(&self) -> Option<&Quantiles> {
        self.quantiles.as_ref()
    }

    /// What was found, once everything is measured.
    #[must_use]
    pub fn result(&self) -> Option<&RunResult> {
        self.result.as_ref()
    }

    /// What samples cost on the clock; none before nodes have measured it, or where none could.
    #[must_use]
    pub fn times(&self) -> Option<&Times> {
        self.times.as_ref()
    }

    /// Policies that were measured on request, in the order they were asked for.
    #[must_use]
    pub fn previews(&self) -> &[CurvePoint] {
        &self.previews
    }

    /// Has policies measured on a part, after what is being measured now.
    pub fn preview(&mut self, part: Part, policies: Vec<Policy>) {
        self.waiting.extend(policies.into_iter().map(|policy| (part, policy)));
        if matches!(self.stage, Stage::Resting) {
            self.rest();
        }
    }

    /// The policy that fits a wish.
    ///
    /// # Errors
    /// See [`ChooseError`].
    pub fn choose(&self, request: &PolicyRequest) -> Result<Policy, ChooseError> {
        let (Some(heads), Some(quantiles), Some(result)) = (&self.heads, &self.quantiles, &self.result)
        else {
            return Err(ChooseError::NotReady);
        };
        choose::choose(request, &self.context, heads, quantiles, result)
    }

    /// Whether the open question has a scale that may still be widened. Otherwise a node whose activations do not fit
    /// is one node that cannot answer, and no reason to ask the others again.
    #[must_use]
    pub fn may_widen(&self) -> bool {
        let scaled = matches!(self.query, Some(Query::Moments { .. } | Query::Spread { .. }));
        scaled && self.widened < MAX_WIDENED
    }

    /// The open question was refused because activations do not fit its scale: asks again with a wider one.
    ///
    /// # Errors
    /// [`ProgramError::OutOfRange`] when that was tried often enough.
    pub fn widen(&mut self) -> Result<(), ProgramError> {
        if self.scales.is_empty() || self.widened == MAX_WIDENED {
            return Err(ProgramError::OutOfRange { tries: self.widened });
        }
        self.widened += 1;
        self.scales = self.scales.iter().map(|scale| scale.wider(WIDER_BITS)).collect();
        self.ask_moments();
        Ok(())
    }

    /// Takes the merged answer to the open question, and moves on.
    ///
    /// # Errors
    /// See [`ProgramError`]. The program cannot go on then.
    pub fn absorb(&mut self, table: &Table) -> Result<(), ProgramError> {
        let query = self.query.take().ok_or(ProgramError::NotAsking)?;
        let expected = query.layout(&self.context).cells();
        if table.len() != expected {
            return Err(ProgramError::Cells { query: query.name(), found: table.len(), expected });
        }
        match (std::mem::replace(&mut self.stage, Stage::Resting), query) {
            (Stage::Census, _) => self.counted(table),
            (Stage::Range, _) => {
                self.scales = scales_for(&RangeLayout { exits: self.context.exits.len() }, table)?;
                self.ask_moments();
                Ok(())
            }
            (Stage::Moments, Query::Moments { second, .. }) => self.fitted(table, &second),
            (Stage::Spread, _) => self.spread(table),
            (Stage::Confidence { round }, Query::Confidence { edges, .. }) => {
                self.calibrated(table, &edges, round)
            }
            (Stage::Searching(search), Query::Evaluate { policies, .. }) => {
                self.searched(table, &policies, *search)
            }
            (Stage::Reporting, Query::Evaluate { policies, .. }) => self.reported(table, policies),
            (Stage::Timing, Query::Timings { .. }) => {
                // Nothing is built on times, so a node that sends nonsense costs the run no more than these.
                let shape = TimingsShape { exits: self.context.exits.len() };
                self.times = Times::read(shape, table).ok().flatten();
                self.rest();
                Ok(())
            }
            (Stage::Previewing(part), Query::Evaluate { policies, .. }) => {
                let tally = self.tally(table, &policies, part)?;
                self.previews.extend(read_points(&self.context.cost, &policies, &tally));
                self.rest();
                Ok(())
            }
            _ => Err(ProgramError::NotAsking),
        }
    }

    fn counted(&mut self, table: &Table) -> Result<(), ProgramError> {
        for ((part, samples), found) in Part::ALL.into_iter().zip(&mut self.samples).zip(table.cells()) {
            *samples = u64::try_from(*found).unwrap_or(0);
            if *samples == 0 {
                return Err(ProgramError::NoSamples { part });
            }
        }
        let one_in = (self.samples[0] / self.context.range_samples.max(1)).max(1);
        self.stage = Stage::Range;
        self.query = Some(Query::Range { one_in });
        Ok(())
    }

    fn ask_moments(&mut self) {
        let second = self.context.exits.iter().map(|exit| exit.rules.contains(&Rule::Whitened)).collect();
        self.stage = Stage::Moments;
        self.query = Some(Query::Moments { scales: self.scales.clone(), second });
    }

    fn fitted(&mut self, table: &Table, second: &[bool]) -> Result<(), ProgramError> {
        let options = FitOptions {
            shrinkage: self.context.shrinkage,
            prior: if self.context.prior { Prior::Counts } else { Prior::Uniform },
            second_factor: self.context.second_factor,
        };
        let heads = fit_heads(&self.context.moments_shape(second), table, &self.scales, &options)?;
        let digest = self.publish(heads);
        if self.context.uses(Rule::ClassMeans) {
            self.stage = Stage::Spread;
            self.query = Some(Query::Spread { heads: digest, scales: self.scales.clone() });
            Ok(())
        } else {
            self.ask_confidence()
        }
    }

    fn spread(&mut self, table: &Table) -> Result<(), ProgramError> {
        let Some(heads) = &self.heads else { return Err(ProgramError::NotAsking) };
        let wanted: Vec<bool> =
            self.context.exits.iter().map(|exit| exit.rules.contains(&Rule::ClassMeans)).collect();
        let heads = Heads::clone(heads).with_spreads(table, &self.scales, &wanted)?;
        self.publish(heads);
        self.ask_confidence()
    }

    fn publish(&mut self, heads: Heads) -> Digest {
        let digest = heads.digest();
        self.heads = Some(Arc::new(heads));
        self.digest = Some(digest);
        digest
    }

    /// The rules of the run that the snapshot can decide by, per exit.
    fn available(&self) -> Vec<Vec<Rule>> {
        let has = |e: usize, rule: Rule| self.heads.as_ref().is_some_and(|heads| heads.has(e, rule));
        let exits = self.context.exits.iter().enumerate();
        exits.map(|(e, exit)| exit.rules.iter().copied().filter(|rule| has(e, *rule)).collect()).collect()
    }

    fn ask_confidence(&mut self) -> Result<(), ProgramError> {
        let available = self.available();
        if available.iter().all(Vec::is_empty) {
            let first = self.heads.as_ref().and_then(|heads| heads.exits().first()).and_then(|exit| {
                let rule = *self.context.exits.first()?.rules.first()?;
                exit.available(rule).err().map(ToString::to_string)
            });
            return Err(ProgramError::NoRule { why: first.unwrap_or_default() });
        }
        let edges = Quantiles::first_edges(&self.context.rules(), &available);
        self.confidence(edges, 0);
        Ok(())
    }

    fn confidence(&mut self, edges: Vec<Vec<Vec<f64>>>, round: usize) {
        let heads = self.digest.unwrap_or(Digest::of(&[]));
        self.stage = Stage::Confidence { round };
        self.query = Some(Query::Confidence { heads, part: Part::Calibration, edges });
    }

    fn calibrated(
        &mut self,
        table: &Table,
        edges: &[Vec<Vec<f64>>],
        round: usize,
    ) -> Result<(), ProgramError> {
        let rules = self.context.rules();
        let quantiles = Quantiles::read(&rules, edges, table)?;
        let counted = (0..quantiles.exits())
            .flat_map(|e| quantiles.rules(e).map(move |rule| (e, rule)))
            .any(|(e, rule)| quantiles.at(e, rule).is_some_and(|distribution| distribution.samples() > 0));
        if !counted {
            return Err(ProgramError::NoSamples { part: Part::Calibration });
        }
        if round + 1 < ROUNDS && !quantiles.is_fine() {
            let refined = quantiles.refined(&rules);
            if refined != edges {
                self.confidence(refined, round + 1);
                return Ok(());
            }
        }
        let search = Search::new(self.context.search, self.context.cost.clone(), quantiles.clone());
        self.quantiles = Some(quantiles);
        self.search_on(search);
        Ok(())
    }

    fn search_on(&mut self, search: Search) {
        let policies = search.policies().to_vec();
        if policies.is_empty() {
            self.calibrated = search.thinned(REPORTED);
            self.fixed = search.fixed().to_vec();
            self.ask_report();
        } else {
            self.evaluate(Part::Calibration, policies);
            self.stage = Stage::Searching(Box::new(search));
        }
    }

    fn evaluate(&mut self, part: Part, policies: Vec<Policy>) {
        let heads = self.digest.unwrap_or(Digest::of(&[]));
        self.query = Some(Query::Evaluate { heads, part, policies });
    }

    fn tally(&self, table: &Table, policies: &[Policy], part: Part) -> Result<TallyView, ProgramError> {
        let shape = TallyShape { policies: policies.len(), exits: self.context.exits.len() };
        let tally = TallyView::new(shape, table)?;
        if tally.samples() == 0 { Err(ProgramError::NoSamples { part }) } else { Ok(tally) }
    }

    fn searched(
        &mut self,
        table: &Table,
        policies: &[Policy],
        mut search: Search,
    ) -> Result<(), ProgramError> {
        search.absorb(&self.tally(table, policies, Part::Calibration)?);
        self.search_on(search);
        Ok(())
    }

    /// The front, whose last policy is the bare network; then every static cut.
    fn ask_report(&mut self) {
        let cuts =
            self.fixed.iter().map(|point| &point.policy).filter(|policy| policy.as_static_cut().is_some());
        let policies = self.calibrated.iter().map(|point| &point.policy).chain(cuts).cloned().collect();
        self.evaluate(Part::Evaluation, policies);
        self.stage = Stage::Reporting;
    }

    fn reported(&mut self, table: &Table, policies: Vec<Policy>) -> Result<(), ProgramError> {
        let tally = self.tally(table, &policies, Part::Evaluation)?;
        let points = read_points(&self.context.cost, &policies, &tally);
        let calibration = Curve::new(self.calibrated.clone());
        self.result = Some(RunResult::new(&self.context, self.samples, points, calibration, &tally));
        match self.digest {
            Some(heads) if self.context.timings => {
                self.stage = Stage::Timing;
                self.query = Some(Query::Timings { heads });
            }
            _ => self.rest(),
        }
        Ok(())
    }

    /// Measures what was asked for in the meantime, or rests.
    fn rest(&mut self) {
        let Some((part, _)) = self.waiting.front() else {
            self.stage = Stage::Resting;
            return;
        };
        let part = *part;
        let alike = self.waiting.iter().take_while(|(of, _)| *of == part).count();
        let policies = self.waiting.drain(..alike).map(|(_, policy)| policy).collect();
        self.evaluate(part, policies);
        self.stage = Stage::Previewing(part);
    }
}
