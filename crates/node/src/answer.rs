//! Answering queries: a query in, an integer table out.

use std::sync::Arc;

use exeunt_data::picked_one_in;
use exeunt_exits::{Heads, Outcomes, OutcomesBuilder, Part, Query};
use exeunt_protocol::message::Refusal;
use exeunt_stats::{
    Digest, Excluded, ExitShape, FinishError, Floors, MomentsAccumulator, MomentsShape, RangeCounter,
    SpreadAccumulator, SpreadShape, Table,
};

use crate::session::{Session, Watch, chain};

/// Margins of one part under one snapshot, kept so that a query over thousands of policies costs no forward pass.
#[derive(Debug, Default)]
pub struct Margins {
    kept: Vec<(Part, Digest, Arc<Outcomes>)>,
}

impl Session {
    /// Answers `query`. `heads` is the snapshot it refers to, if it does.
    ///
    /// # Errors
    /// The [`Refusal`] to send instead of a table.
    pub fn answer(
        &self,
        query: &Query,
        heads: Option<&Arc<Heads>>,
        margins: &mut Margins,
        watch: &Watch,
    ) -> Result<Table, Refusal> {
        query.validate(&self.rules()).map_err(failed)?;
        let heads = || {
            heads.ok_or_else(|| Refusal::Failed { what: "the query came without its snapshot".to_owned() })
        };
        match query {
            Query::Census => Ok(self.census()),
            Query::Range { one_in } => self.range(*one_in, watch),
            Query::Moments { scales, second } => self.moments(scales, second, watch),
            Query::Spread { scales, .. } => self.spread(scales, heads()?, watch),
            Query::Confidence { heads: digest, part, edges } => {
                let outcomes = self.outcomes(*part, *digest, heads()?, margins, watch)?;
                outcomes.histograms(edges).map_err(failed)
            }
            Query::Evaluate { heads: digest, part, policies } => {
                let outcomes = self.outcomes(*part, *digest, heads()?, margins, watch)?;
                outcomes.tally(policies).map_err(failed)
            }
            // Measured by [`Model::measure`](crate::Model::measure), once: here every answer would be another.
            Query::Timings { .. } => {
                Err(Refusal::Failed { what: "samples say nothing about time".to_owned() })
            }
        }
    }

    fn census(&self) -> Table {
        let count = |part| i64::try_from(self.part(part).len()).unwrap_or(i64::MAX);
        Table::from_cells(vec![count(Part::Statistics), count(Part::Calibration), count(Part::Evaluation)])
    }

    fn all(&self, part: Part) -> Vec<usize> {
        (0..self.part(part).len()).collect()
    }

    fn range(&self, one_in: u64, watch: &Watch) -> Result<Table, Refusal> {
        self.enough(Part::Statistics)?;
        let samples = self.part(Part::Statistics);
        let seed = self.spec().seed;
        let picked: Vec<usize> =
            (0..samples.len()).filter(|i| picked_one_in(samples.hash(*i), seed, one_in)).collect();
        let exits = self.spec().exits.len();
        let counters = self.pass(
            Part::Statistics,
            &picked,
            watch,
            || RangeCounter::new(exits),
            |counter, batch| counter.add(batch.pooled).map_err(failed),
        )?;
        merge(counters.into_iter().map(RangeCounter::finish))
    }

    fn moments(
        &self,
        scales: &[exeunt_stats::Scale],
        second: &[bool],
        watch: &Watch,
    ) -> Result<Table, Refusal> {
        let shape = MomentsShape {
            classes: self.spec().classes.len(),
            exits: self
                .spec()
                .exits
                .iter()
                .zip(second)
                .map(|(exit, second)| ExitShape { dim: exit.dim, second: *second })
                .collect(),
        };
        let samples = self.part(Part::Statistics);
        let mut counts = samples.class_counts(shape.classes);
        loop {
            let empty = MomentsAccumulator::new(shape.clone(), scales.to_vec(), &counts, &self.floors())
                .map_err(failed)?;
            let accumulators = self.pass(
                Part::Statistics,
                &self.all(Part::Statistics),
                watch,
                || empty.sibling(),
                |accumulator, batch| accumulator.add(batch.labels, batch.pooled).map_err(failed),
            )?;
            let mut total = empty.sibling();
            for accumulator in accumulators {
                total.absorb(accumulator).map_err(failed)?;
            }
            match total.finish() {
                // Samples that cannot be read or do not fit the scale took a class below the floor. The next pass
                // withholds it from the start, so there are at most as many passes as classes.
                Err(FinishError::ClassFell { class, found, .. }) if found < counts[class] => {
                    counts[class] = found;
                }
                finished => return finished.map_err(unfinished),
            }
        }
    }

    fn spread(&self, scales: &[exeunt_stats::Scale], heads: &Heads, watch: &Watch) -> Result<Table, Refusal> {
        self.enough(Part::Statistics)?;
        let shape = SpreadShape { classes: self.spec().classes.len(), exits: self.spec().exits.len() };
        let empty =
            SpreadAccumulator::new(shape, scales.to_vec(), heads.means(), heads.present()).map_err(failed)?;
        let accumulators = self.pass(
            Part::Statistics,
            &self.all(Part::Statistics),
            watch,
            || empty.sibling(),
            |accumulator, batch| accumulator.add(batch.pooled).map_err(failed),
        )?;
        let mut total = empty.sibling();
        for accumulator in accumulators {
            total.absorb(accumulator).map_err(failed)?;
        }
        total.finish(&self.floors()).map_err(unfinished)
    }

    fn floors(&self) -> Floors {
        let floors = self.spec().floors;
        Floors { min_count: floors.min_count, second_factor: floors.second_factor }
    }

    /// Margins and rights of every sample of a part, from the last time or by a forward pass.
    fn outcomes(
        &self,
        part: Part,
        digest: Digest,
        heads: &Arc<Heads>,
        margins: &mut Margins,
        watch: &Watch,
    ) -> Result<Arc<Outcomes>, Refusal> {
        self.enough(part)?;
        if let Some((.., outcomes)) = margins.kept.iter().find(|(p, d, _)| *p == part && *d == digest) {
            return Ok(Arc::clone(outcomes));
        }
        let rules = self.rules();
        let builders = self.pass(
            part,
            &self.all(part),
            watch,
            || OutcomesBuilder::new(&rules),
            |builder, batch| builder.add(heads, batch.labels, batch.pooled, batch.logits).map_err(failed),
        )?;
        let outcomes = Arc::new(OutcomesBuilder::join(builders));
        margins.kept.retain(|(p, d, _)| *p != part && *d == digest);
        margins.kept.push((part, digest, Arc::clone(&outcomes)));
        Ok(outcomes)
    }

    fn rules(&self) -> Vec<Vec<exeunt_exits::Rule>> {
        self.spec().exits.iter().map(|exit| exit.rules.clone()).collect()
    }

    fn enough(&self, part: Part) -> Result<(), Refusal> {
        let (found, needed) = (self.part(part).len() as u64, self.spec().floors.min_count);
        if found < needed { Err(Refusal::BelowMinCount { found, needed }) } else { Ok(()) }
    }
}

fn failed(error: impl std::error::Error) -> Refusal {
    Refusal::Failed { what: chain(&error) }
}

/// Too many samples beyond the scale ask for a wider one; anything else is a failure, and so are too many that are not
/// finite: no scale would take them in.
fn unfinished(error: FinishError) -> Refusal {
    match error {
        FinishError::TooManyExcluded(excluded) => {
            let Excluded { non_finite, samples, .. } = excluded;
            if Excluded::exceeds(non_finite, samples) {
                let what = format!("activations of {non_finite} of {samples} samples are not finite");
                return Refusal::Failed { what };
            }
            Refusal::OutOfRange { left_out: excluded.total(), samples }
        }
        other => failed(other),
    }
}

fn merge(tables: impl IntoIterator<Item = Table>) -> Result<Table, Refusal> {
    let mut tables = tables.into_iter();
    let nothing = || Refusal::Failed { what: "no thread ran".to_owned() };
    let mut total = tables.next().ok_or_else(nothing)?;
    for table in tables {
        total.merge(&table).map_err(failed)?;
    }
    Ok(total)
}
