//! Where a search begins.

use super::candidate::{Candidate, Gene, Ground};
use crate::quantiles::Quantiles;
use crate::rule::Rule;

/// Points of a sweep.
const SWEEP: u16 = 32;

/// The rules of every exit, the one that is right most often first.
pub(super) fn rules(quantiles: &Quantiles) -> Vec<Vec<Rule>> {
    let of = |exit| {
        let mut rules: Vec<Rule> = quantiles.rules(exit).collect();
        if let Some(best) = quantiles.best_rule(exit) {
            rules.retain(|rule| *rule != best);
            rules.insert(0, best);
        }
        rules
    };
    (0..quantiles.exits()).map(of).collect()
}

/// The bare network and every static cut.
pub(super) fn fixed(ground: &Ground) -> Vec<Candidate> {
    let exits = ground.rules.len();
    let cut = |exit: usize, rule: Rule| {
        let mut genes = vec![None; exits];
        genes[exit] = Some(Gene { rule, level: ground.levels });
        Candidate(genes)
    };
    let cuts = ground.rules.iter().enumerate();
    let cuts = cuts.flat_map(|(exit, rules)| rules.iter().map(move |rule| cut(exit, *rule)));
    std::iter::once(Candidate(vec![None; exits])).chain(cuts).collect()
}

/// Sweeps over all exits, the most promising first.
pub(super) fn sweeps(ground: &Ground, quantiles: &Quantiles) -> Vec<Candidate> {
    let exits = ground.rules.len();
    let levels = ground.levels;
    // Every exit by its best rule, or every exit that has it by one rule.
    let mut teams: Vec<Vec<Option<Rule>>> =
        vec![ground.rules.iter().map(|rules| rules.first().copied()).collect()];
    for rule in Rule::ALL {
        let team: Vec<Option<Rule>> =
            ground.rules.iter().map(|rules| rules.contains(&rule).then_some(rule)).collect();
        if team.iter().any(Option::is_some) && !teams.contains(&team) {
            teams.push(team);
        }
    }
    let gene = |rule: Option<Rule>, level: u16| rule.map(|rule| Gene { rule, level });
    let uniform = |team: &[Option<Rule>], level: u16| team.iter().map(|rule| gene(*rule, level)).collect();
    // As many leave everywhere as are right to this share: equal precision beats equal fractions, because a late exit
    // can let more go.
    let sure = |team: &[Option<Rule>], share: f64| -> Vec<Option<Gene>> {
        let level = |exit: usize, rule: Rule| {
            let fraction = quantiles.at(exit, rule).map_or(0.0, |margins| margins.fraction_right(share));
            (fraction * f64::from(levels)) as u16
        };
        let exits = team.iter().enumerate();
        exits.map(|(exit, rule)| rule.map(|rule| Gene { rule, level: level(exit, rule) })).collect()
    };
    let mut seeds = Vec::new();
    let mut push = |exits: Vec<Option<Gene>>| seeds.push(Candidate::new(exits, levels));
    let ladder =
        |points: u16| (1..=points).map(move |i| i * (levels / points).max(1)).filter(move |l| *l <= levels);
    for team in &teams {
        ladder(SWEEP).for_each(|level| push(uniform(team, level)));
        shares().for_each(|share| push(sure(team, share)));
    }
    let team = &teams[0];
    for last in 0..exits {
        for share in shares() {
            let mut exits = sure(team, share);
            exits[last] = gene(team[last], levels);
            push(exits);
        }
    }
    for first in 1..exits {
        for share in shares() {
            let mut exits = sure(team, share);
            exits[..first].fill(None);
            push(exits);
        }
        for level in ladder(SWEEP / 4) {
            let mut exits: Vec<Option<Gene>> = uniform(team, level);
            exits[..first].fill(None);
            push(exits);
        }
    }
    seeds
}

/// Shares of right samples to aim at, closer together where mistakes are rare.
fn shares() -> impl Iterator<Item = f64> {
    const WRONG: [f64; 32] = [
        0.6, 0.55, 0.5, 0.45, 0.4, 0.36, 0.33, 0.3, 0.27, 0.24, 0.21, 0.19, 0.17, 0.15, 0.13, 0.115, 0.1,
        0.09, 0.08, 0.07, 0.06, 0.05, 0.042, 0.035, 0.03, 0.025, 0.02, 0.015, 0.01, 0.006, 0.003, 0.001,
    ];
    WRONG.into_iter().map(|wrong| 1.0 - wrong)
}
