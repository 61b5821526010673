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

    /// The same with another level at one exit; an exit that was off decides by `rule`.
    fn with_level(&self, exit: usize, level: u16, rule: Rule, levels: u16) -> Self {
        let mut exits = self.0.clone();
        let rule = exits[exit].map_or(rule, |gene| gene.rule);
        exits[exit] = Some(Gene { rule, level });
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
    fn exits(&self) -> impl Iterator<Item = (usize, Rule)> + '_ {
        self.rules.iter().enumerate().filter_map(|(exit, rules)| Some((exit, *rules.first()?)))
    }

    fn raised(&self, level: u16, step: u16) -> u16 {
        level.saturating_add(step).min(self.levels)
    }

    /// One exit a step up or down. An exit that is off comes in at a step.
    pub(super) fn steps(&self, from: &Candidate, step: u16, moves: &mut Vec<Candidate>) {
        for (exit, best) in self.exits() {
            let level = from.level(exit);
            moves.push(from.with_level(exit, self.raised(level, step), best, self.levels));
            if level > 0 {
                moves.push(from.with_level(exit, level.saturating_sub(step), best, self.levels));
            }
        }
    }

    /// One exit off, or in at the level of its neighbours, or by another rule, or the last one in use.
    pub(super) fn switches(&self, from: &Candidate, moves: &mut Vec<Candidate>) {
        for (exit, best) in self.exits() {
            match from.0[exit] {
                Some(gene) => {
                    moves.push(from.with_level(exit, 0, best, self.levels));
                    moves.push(from.with_level(exit, self.levels, best, self.levels));
                    for rule in self.rules[exit].iter().filter(|rule| **rule != gene.rule) {
                        let mut exits = from.0.clone();
                        exits[exit] = Some(Gene { rule: *rule, ..gene });
                        moves.push(Candidate::new(exits, self.levels));
                    }
                }
                None => {
                    moves.push(from.with_level(exit, self.levels, best, self.levels));
                    let before = (0..exit).rev().map(|e| from.level(e)).find(|level| *level > 0);
                    let after = (exit + 1..from.0.len()).map(|e| from.level(e)).find(|level| *level > 0);
                    let beside = before.or(after).unwrap_or(self.levels / 4);
                    let between = beside / 2 + after.or(before).unwrap_or(beside) / 2;
                    for level in [between, between / 2, between / 4] {
                        for rule in &self.rules[exit] {
                            moves.push(from.with_level(exit, level, *rule, self.levels));
                        }
                    }
                }
            }
        }
    }

    /// Two exits at once: one a step up and another a step down, or both the same way.
    pub(super) fn pairs(&self, from: &Candidate, step: u16, moves: &mut Vec<Candidate>) {
        let used: Vec<(usize, Rule)> = self.exits().filter(|(exit, _)| from.level(*exit) > 0).collect();
        for (i, (a, a_rule)) in used.iter().enumerate() {
            for (b, b_rule) in &used[i + 1..] {
                let (up_a, down_a) = (self.raised(from.level(*a), step), from.level(*a).saturating_sub(step));
                let (up_b, down_b) = (self.raised(from.level(*b), step), from.level(*b).saturating_sub(step));
                for (a_level, b_level) in [(up_a, down_b), (down_a, up_b), (up_a, up_b), (down_a, down_b)] {
                    // Downstream first: raising `a` to everyone switches what follows off.
                    let moved = from.with_level(*b, b_level, *b_rule, self.levels);
                    moves.push(moved.with_level(*a, a_level, *a_rule, self.levels));
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
        assert_eq!(moves, expected.map(|exits| Candidate(exits.to_vec())));
    }

    #[test]
    fn moves_stay_on_the_grid_and_differ_from_where_they_began() {
        let from = Candidate(vec![gene(1), None, gene(7), None]);
        let other = Candidate(vec![None, gene(9), gene(3), gene(16)]);
        let ground = ground(4);
        let mut moves = Vec::new();
        ground.switches(&from, &mut moves);
        ground.pairs(&from, 20, &mut moves);
        ground.between(&from, &other, &mut moves);
        assert!(!moves.contains(&from));
        for moved in moves {
            assert!(moved.0.iter().flatten().all(|gene| (1..=16).contains(&gene.level)), "{moved:?}");
            assert_eq!(moved, Candidate::new(moved.0.clone(), 16));
        }
    }
}
