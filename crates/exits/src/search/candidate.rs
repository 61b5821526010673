//! What the search varies: per exit off, or a rule and how many of the surest leave.

use crate::policy::{ExitRule, Policy};
use crate::quantiles::Quantiles;
use crate::rule::Rule;

/// One exit in use: a rule, and the fraction of all samples that are sure enough to leave, as a level between 1 and
/// the number of levels, which is everyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Gene {
    pub(super) rule: Rule,
    pub(super) level: u16,
}

/// A policy on the grid of levels. Exits behind one where everyone leaves are off, so that what acts alike is equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate(pub(super) Vec<Option<Gene>>);

impl Candidate {
    /// A candidate with levels taken into `0..=levels`, 0 being off.
    pub(super) fn new(mut exits: Vec<Option<Gene>>, levels: u16) -> Self {
        let mut gone = false;
        for exit in &mut exits {
            *exit = exit.filter(|gene| !gone && gene.level > 0);
            if let Some(gene) = exit {
                gene.level = gene.level.min(levels);
                gone = gene.level == levels;
            }
        }
        Self(exits)
    }

    /// The thresholds that it stands for. An exit whose rule has no quantiles is off.
    pub(super) fn policy(&self, quantiles: &Quantiles, levels: u16) -> Policy {
        let exits = self.0.iter().enumerate();
        let rule = |exit: usize, gene: &Gene| {
            let fraction = f64::from(gene.level) / f64::from(levels);
            let threshold = quantiles.threshold(exit, gene.rule, fraction)?;
            Some(ExitRule::new(gene.rule, threshold))
        };
        Policy { exits: exits.map(|(exit, gene)| rule(exit, gene.as_ref()?)).collect() }
    }

    fn level(&self, exit: usize) -> u16 {
        self.0[exit].map_or(0, |gene| gene.level)
    }

    /// The same with one exit changed.
    fn with(&self, exit: usize, gene: Gene, levels: u16) -> Self {
        let mut exits = self.0.clone();
        exits[exit] = Some(gene);
        Self::new(exits, levels)
    }
}

/// What the moves need to know of a run.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    /// Number of levels.
    pub(super) levels: u16,
    /// Rules that are available, per exit, the best of them first.
    pub(super) rules: Vec<Vec<Rule>>,
}

impl Ground {
    fn raised(&self, level: u16, step: u16) -> u16 {
        level.saturating_add(step).min(self.levels)
    }

    /// One exit a step up or down, by the rule it has or by another. An exit that is off comes in at a step.
    pub(super) fn steps(&self, from: &Candidate, step: u16, moves: &mut Vec<Candidate>) {
        for (exit, rules) in self.rules.iter().enumerate() {
            let level = from.level(exit);
            let lowered = level.saturating_sub(step);
            for rule in rules {
                moves.push(from.with(
                    exit,
                    Gene { rule: *rule, level: self.raised(level, step) },
                    self.levels,
                ));
                if level > 0 {
                    moves.push(from.with(exit, Gene { rule: *rule, level: lowered }, self.levels));
                }
            }
        }
    }

    /// One exit off, or by another rule, or the last one in use; or in at the level of its neighbours.
    pub(super) fn switches(&self, from: &Candidate, moves: &mut Vec<Candidate>) {
        for (exit, rules) in self.rules.iter().enumerate() {
            let levels = match from.0[exit] {
                Some(gene) => vec![0, gene.level, self.levels],
                None => {
                    let before = (0..exit).rev().map(|e| from.level(e)).find(|level| *level > 0);
                    let after = (exit + 1..from.0.len()).map(|e| from.level(e)).find(|level| *level > 0);
                    let beside = before.or(after).unwrap_or(self.levels / 4);
                    let between = beside.midpoint(after.unwrap_or(beside));
                    vec![between / 4, between / 2, between, self.levels]
                }
            };
            for level in levels {
                let genes = rules.iter().map(|rule| Gene { rule: *rule, level });
                moves.extend(genes.map(|gene| from.with(exit, gene, self.levels)));
            }
        }
    }

    /// Two exits at once: one a step up and another a step down, or both the same way.
    pub(super) fn pairs(&self, from: &Candidate, step: u16, moves: &mut Vec<Candidate>) {
        let used: Vec<(usize, Gene)> =
            from.0.iter().enumerate().filter_map(|(exit, gene)| Some((exit, (*gene)?))).collect();
        let up = |gene: Gene| Gene { level: self.raised(gene.level, step), ..gene };
        let down = |gene: Gene| Gene { level: gene.level.saturating_sub(step), ..gene };
        for (i, (a, a_gene)) in used.iter().enumerate() {
            for (b, b_gene) in &used[i + 1..] {
                let (a_up, a_down, b_up, b_down) = (up(*a_gene), down(*a_gene), up(*b_gene), down(*b_gene));
                for (a_moved, b_moved) in [(a_up, b_down), (a_down, b_up), (a_up, b_up), (a_down, b_down)] {
                    // The later exit first: the earlier one may switch it off.
                    moves.push(from.with(*b, b_moved, self.levels).with(*a, a_moved, self.levels));
                }
            }
        }
    }

    /// Between two neighbours on the front: half-way, and the exits of one followed by those of the other.
    pub(super) fn between(&self, a: &Candidate, b: &Candidate, moves: &mut Vec<Candidate>) {
        let half = |(a, b): (&Option<Gene>, &Option<Gene>)| match (a, b) {
            (Some(a), Some(b)) => Some(Gene { rule: a.rule, level: a.level.midpoint(b.level) }),
            (Some(one), None) | (None, Some(one)) => Some(Gene { level: one.level / 2, ..*one }),
            (None, None) => None,
        };
        moves.push(Candidate::new(a.0.iter().zip(&b.0).map(half).collect(), self.levels));
        for at in 1..a.0.len() {
            for (first, second) in [(a, b), (b, a)] {
                let exits = first.0[..at].iter().chain(&second.0[at..]).copied().collect();
                moves.push(Candidate::new(exits, self.levels));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gene(level: u16) -> Option<Gene> {
        Some(Gene { rule: Rule::Whitened, level })
    }

    fn ground(exits: usize) -> Ground {
        Ground { levels: 16, rules: vec![vec![Rule::Whitened, Rule::ClassMeans]; exits] }
    }

    #[test]
    fn what_acts_alike_is_equal() {
        let candidate = Candidate::new(vec![gene(0), gene(40), gene(3)], 16);
        assert_eq!(candidate, Candidate(vec![None, gene(16), None]));
    }

    #[test]
    fn every_neighbour_one_step_away_is_proposed() {
        let from = Candidate(vec![gene(4), None, gene(15)]);
        let mut moves = Vec::new();
        ground(3).steps(&from, 1, &mut moves);
        let expected = [
            [gene(5), None, gene(15)],
            [gene(3), None, gene(15)],
            [gene(4), gene(1), gene(15)],
            [gene(4), None, gene(16)],
            [gene(4), None, gene(14)],
        ];
        let by_this_rule =
            |moved: &&Candidate| moved.0.iter().flatten().all(|gene| gene.rule == Rule::Whitened);
        let found: Vec<&Candidate> = moves.iter().filter(by_this_rule).collect();
        assert_eq!(found, expected.map(|exits| Candidate(exits.to_vec())).iter().collect::<Vec<_>>());
        assert_eq!(moves.len(), 2 * expected.len());
    }

    #[test]
    fn moves_stay_on_the_grid() {
        let from = Candidate(vec![gene(1), None, gene(7), None]);
        let other = Candidate(vec![None, gene(9), gene(3), gene(16)]);
        let ground = ground(4);
        let mut moves = Vec::new();
        ground.steps(&from, 20, &mut moves);
        ground.switches(&from, &mut moves);
        ground.pairs(&from, 20, &mut moves);
        ground.between(&from, &other, &mut moves);
        for moved in moves {
            assert!(moved.0.iter().flatten().all(|gene| (1..=16).contains(&gene.level)), "{moved:?}");
            assert_eq!(moved, Candidate::new(moved.0.clone(), 16));
        }
    }
}
