//! A small run, and the tables that an honest node would send for it.

use std::time::Duration;

use exeunt_exits::{
    CostModel, ExitContext, Heads, Measured, OutcomesBuilder, Part, Query, Rule, RunContext, SearchOptions,
};
use exeunt_stats::{Floors, Macs, MomentsAccumulator, RangeCounter, SpreadAccumulator, Table};
use ndarray::{Array2, ArrayView2};

const CLASSES: usize = 3;
/// Samples of a node in every part.
const SAMPLES: usize = 12;

/// Three classes, two exits that decide by both rules, and little searching.
pub(crate) fn context() -> RunContext {
    let exit = |tap: &str, dim| ExitContext { tap: tap.to_owned(), dim, rules: Rule::ALL.to_vec() };
    RunContext {
        classes: CLASSES,
        class_names: ["a", "b", "c"].map(str::to_owned).to_vec(),
        exits: vec![exit("first", 3), exit("second", 2)],
        cost: CostModel {
            network: Macs::new(1000),
            until: vec![Macs::new(200), Macs::new(600)],
            head: vec![Macs::new(9), Macs::new(6)],
        },
        shrinkage: 0.01,
        prior: true,
        search: SearchOptions { rounds: 2, batch: 6, levels: 4, tolerance: 1e-4 },
        range_samples: 8,
        second_factor: 2,
        timings: true,
    }
}

/// What node number `node` answers; none where it says that it cannot.
pub(crate) fn answer(context: &RunContext, query: &Query, heads: Option<&Heads>, node: u8) -> Option<Table> {
    let labels: Vec<u32> = (0..SAMPLES).map(|s| (s % CLASSES) as u32).collect();
    let pooled = activations(context, node, query.part().unwrap_or(Part::Statistics));
    let views: Vec<ArrayView2<'_, f32>> = pooled.iter().map(Array2::view).collect();
    let outcomes = || {
        let mut builder = OutcomesBuilder::new(&context.rules());
        let logits = Array2::from_shape_fn((SAMPLES, CLASSES), |(s, class)| {
            f32::from(u8::from(class == (s + usize::from(s % 5 == 0)) % CLASSES))
        });
        builder.add(heads?, &labels, &views, logits.view()).ok()?;
        Some(builder.finish())
    };
    match query {
        Query::Census => Some(Table::from_cells(vec![SAMPLES as i64; Part::ALL.len()])),
        Query::Range { .. } => {
            let mut counter = RangeCounter::new(views.len());
            counter.add(&views).ok()?;
            Some(counter.finish())
        }
        Query::Moments { scales, second } => {
            let counts = [(SAMPLES / CLASSES) as u64; CLASSES];
            let shape = context.moments_shape(second);
            let mut moments = MomentsAccumulator::new(shape, scales.clone(), &counts, &Floors::OFF).ok()?;
            moments.add(&labels, &views).ok()?;
            moments.finish().ok()
        }
        Query::Spread { scales, .. } => {
            let (means, present) = (heads?.means(), heads?.present());
            let mut spread =
                SpreadAccumulator::new(context.spread_shape(), scales.clone(), means, present).ok()?;
            spread.add(&views).ok()?;
            spread.finish(&Floors::OFF).ok()
        }
        Query::Confidence { edges, .. } => outcomes()?.histograms(edges).ok(),
        Query::Evaluate { policies, .. } => outcomes()?.tally(policies).ok(),
        Query::Timings { .. } => {
            let each = |count| vec![Duration::from_millis(1 + u64::from(node)); count];
            let exits = context.exits.len();
            let network = Duration::from_millis(5);
            Some(Measured { network, segments: each(exits + 1), decisions: each(exits) }.table())
        }
    }
}

/// Numbers that tell the classes apart better at the second exit than at the first.
fn activations(context: &RunContext, node: u8, part: Part) -> Vec<Array2<f32>> {
    let exits = context.exits.iter().enumerate();
    exits
        .map(|(e, exit)| {
            Array2::from_shape_fn((SAMPLES, exit.dim), |(s, d)| {
                let signal = f32::from(u8::from(s % CLASSES == d));
                let noise = (s * 7 + d * 5 + usize::from(node) * 3 + part as usize) % 11;
                signal + noise as f32 / (11 * (e + 1)) as f32
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use exeunt_exits::Program;

    use super::*;

    #[test]
    fn honest_nodes_bring_a_run_to_its_end() {
        let mut program = Program::new(context());
        let mut asked = Vec::new();
        while let Some(query) = program.query().cloned() {
            let heads = program.heads().cloned();
            let mut sum = answer(program.context(), &query, heads.as_deref(), 0).unwrap();
            sum.merge(&answer(program.context(), &query, heads.as_deref(), 1).unwrap()).unwrap();
            program.absorb(&sum).unwrap();
            asked.push(query.name());
        }
        for name in ["census", "range", "moments", "spread", "confidence", "evaluate", "timings"] {
            assert!(asked.contains(&name), "{name} is not in {asked:?}");
        }
        assert!(program.result().is_some() && program.times().is_some());
    }
}
