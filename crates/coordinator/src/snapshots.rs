//! The snapshots of a run, and what differs between two of them.

use std::collections::BTreeSet;

use exeunt_exits::{Curve, Program, Query, RunResult, shifts};
use exeunt_protocol::operator::{ClassCounts, CostPoint, ExitShift, SnapshotDiff, SnapshotRow};
use exeunt_protocol::{NodeId, QueryId, RunId};
use exeunt_stats::{MomentsShape, MomentsView, Scale, Table, packed};
use exeunt_store::Seal;

use crate::core::{Core, CoreError};
use crate::runs::RunEntry;

/// Costs at which two curves are compared.
const COSTS: [f64; 9] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];

/// A snapshot with the seals it came from.
struct Made {
    row: SnapshotRow,
    shape: MomentsShape,
    scales: Vec<Scale>,
    moments: Table,
    /// Every seal between two removals, in order, with what it asked.
    seals: Vec<(Seal, Query)>,
}

impl Made {
    fn view(&self, run: &RunId) -> Result<MomentsView<'_>, CoreError> {
        MomentsView::new(&self.shape, &self.moments).map_err(|error| CoreError::Corrupt {
            what: format!("the sum of {} of '{run}'", self.row.query),
            why: error.to_string(),
        })
    }
}

impl Core {
    /// Every snapshot of a run, oldest first.
    ///
    /// # Errors
    /// [`CoreError`].
    pub fn snapshots(&self, run: &RunId) -> Result<Vec<SnapshotRow>, CoreError> {
        Ok(self.made(run)?.into_iter().map(|made| made.row).collect())
    }

    /// What differs between two snapshots of a run, by their versions.
    ///
    /// # Errors
    /// [`CoreError::NoSnapshot`].
    pub fn snapshot_diff(&self, run: &RunId, from: u32, to: u32) -> Result<SnapshotDiff, CoreError> {
        let entry = self.entry(run)?;
        let made = self.made(run)?;
        let find = |version: u32| {
            made.iter().find(|made| made.row.version == version).ok_or_else(|| CoreError::NoSnapshot {
                run: run.clone(),
                version,
                known: made.len(),
            })
        };
        let (from, to) = (find(from)?, find(to)?);
        let (before, after) = (from.view(run)?, to.view(run)?);
        let names = || entry.context.class_names.iter();
        let classes = names().zip(before.count(0)).zip(after.count(0));
        let taps = entry.context.exits.iter().map(|exit| exit.tap.clone());
        let moved = shifts((&before, &from.scales), (&after, &to.scales));
        let exits = taps.zip(moved).map(|(tap, shift)| ExitShift {
            tap,
            mean: shift.mean,
            farthest: shift.farthest.and_then(|(class, _)| names().nth(class).cloned()),
            most: shift.farthest.map(|(_, most)| most),
        });
        let cohort = |made: &Made| made.row.cohort.iter().copied().collect::<BTreeSet<NodeId>>();
        let (was, is) = (cohort(from), cohort(to));
        let curves = (self.result_of(entry, from)?, self.result_of(entry, to)?);
        let accuracy_at_cost = match &curves {
            (Some(from), Some(to)) => at_costs(&from.curve, &to.curve),
            _ => Vec::new(),
        };
        Ok(SnapshotDiff {
            run: run.clone(),
            joined: is.difference(&was).copied().collect(),
            left: was.difference(&is).copied().collect(),
            classes: classes
                .map(|((class, from), to)| ClassCounts { class: class.clone(), from, to })
                .collect(),
            exits: exits.collect(),
            accuracy_at_cost,
            from: from.row.clone(),
            to: to.row.clone(),
        })
    }

    /// Every snapshot there was: one between two removals, as far as it came to one.
    fn made(&self, run: &RunId) -> Result<Vec<Made>, CoreError> {
        let entry = self.entry(&self.run_named(Some(run))?)?;
        let seals = self.store.seals(run)?;
        let names = self.store.nodes()?;
        let name = |node: NodeId| {
            names.iter().find(|(id, _)| *id == node).map_or_else(|| node.to_string(), |(_, r)| r.name.clone())
        };
        let mut starts = vec![(QueryId(0), "first".to_owned())];
        starts.extend(
            entry.removed.iter().map(|removal| (removal.first, format!("without '{}'", name(removal.node)))),
        );
        let current = self.queries(run)?;
        let mut made: Vec<Made> = Vec::new();
        for (at, (start, reason)) in starts.iter().enumerate() {
            let end = starts.get(at + 1).map(|(query, _)| *query);
            let of_this: Vec<&(QueryId, Seal)> = seals
                .iter()
                .filter(|(query, _)| query >= start && end.is_none_or(|end| *query < end))
                .collect();
            let mut asked = Vec::new();
            for (place, (_, seal)) in of_this.iter().enumerate() {
                // Seals of the store's first format do not say what they asked; the machine knows of those that count.
                let query = match self.asked(seal)? {
                    None if end.is_none() => current.get(place).cloned(),
                    query => query,
                };
                let Some(query) = query else { break };
                asked.push(query);
            }
            let moments = of_this.iter().zip(&asked).find_map(|((id, seal), query)| match query {
                Query::Moments { scales, second } => Some((*id, seal, seal.merged.as_ref()?, scales, second)),
                _ => None,
            });
            let Some((query, seal, merged, scales, second)) = moments else { continue };
            let cells = usize::try_from(seal.cells).unwrap_or(usize::MAX);
            let corrupt =
                |why: String| CoreError::Corrupt { what: format!("the sum of {query} of '{run}'"), why };
            let table =
                Table::from_cells(packed::decode(merged, cells).map_err(|error| corrupt(error.to_string()))?);
            let shape: MomentsShape = entry.context.moments_shape(second);
            let view = MomentsView::new(&shape, &table).map_err(|error| corrupt(error.to_string()))?;
            let row = SnapshotRow {
                version: u32::try_from(made.len() + 1).unwrap_or(u32::MAX),
                at_ms: seal.sealed_ms,
                query,
                cohort: seal.cohort.iter().map(|(node, ..)| *node).collect(),
                samples: view.samples(0),
                digest: table.digest(),
                reason: reason.clone(),
            };
            let scales = scales.clone();
            let seals = of_this.into_iter().map(|(_, seal)| seal.clone()).zip(asked).collect();
            made.push(Made { row, shape, scales, moments: table, seals });
        }
        Ok(made)
    }

    /// What was measured with a snapshot: its program, gone through again. `None` where it did not come to that.
    fn result_of(&self, entry: &RunEntry, made: &Made) -> Result<Option<RunResult>, CoreError> {
        let mut program = Program::new(entry.context.clone());
        for (seal, asked) in &made.seals {
            if program.result().is_some() || program.query() != Some(asked) {
                break;
            }
            let went_on = match &seal.merged {
                Some(bytes) => {
                    let cells = usize::try_from(seal.cells).unwrap_or(usize::MAX);
                    let cells = packed::decode(bytes, cells).map_err(|error| CoreError::Corrupt {
                        what: format!("a sum of '{}'", entry.file.name),
                        why: error.to_string(),
                    })?;
                    program.absorb(&Table::from_cells(cells))
                }
                None => program.widen(),
            };
            // A program that failed then has no result now.
            if went_on.is_err() {
                break;
            }
        }
        Ok(program.result().cloned())
    }
}

fn at_costs(from: &Curve, to: &Curve) -> Vec<CostPoint> {
    let point = |cost: f64| CostPoint { cost, from: from.at_cost(cost), to: to.at_cost(cost) };
    COSTS.into_iter().map(point).filter(|point| point.from.is_some() || point.to.is_some()).collect()
}
