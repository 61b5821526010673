use std::collections::BTreeSet;

use exeunt_stats::Macs;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::outcomes::{Outcomes, OutcomesBuilder};
use crate::rule::Rule;
use crate::score::Decision;
use crate::search::candidate::Gene;
use crate::tally::TallyShape;

/// Samples of mixed difficulty, and exits that get better and surer with depth. Margins by `rules`.
fn synthetic(seed: u64, samples: usize, exits: usize, rules: &[Rule]) -> Outcomes {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let skill: Vec<Vec<f64>> = (0..exits)
        .map(|e| rules.iter().map(|_| 0.5 + e as f64 * 0.8 + random.random_range(0.0..0.8)).collect())
        .collect();
    let labels = vec![1; samples];
    let mut decisions = vec![vec![Vec::new(); rules.len()]; exits];
    let mut network = Vec::new();
    for _ in 0..samples {
        let difficulty = random.random_range(-2.0..4.0);
        for (by_rule, skill) in decisions.iter_mut().zip(&skill) {
            for (decided, skill) in by_rule.iter_mut().zip(skill) {
                let log_odds: f64 = skill - difficulty + random.random_range(-1.5..1.5);
                let right = random.random_bool(1.0 / (1.0 + (-2.0 * log_odds).exp()));
                let margin = log_odds + random.random_range(-1.0..1.0);
                decided.push(Decision { class: u32::from(right), margin });
            }
        }
        network.push(u32::from(random.random_bool(1.0 / (1.0 + (difficulty - 4.5_f64).exp()))));
    }
    let mut builder = OutcomesBuilder::new(&vec![rules.to_vec(); exits]);
    builder.add_decided(&labels, &decisions, &network).unwrap();
    builder.finish()
}

fn quantiles(outcomes: &Outcomes, exits: usize, rules: &[Rule]) -> Quantiles {
    let rules = vec![rules.to_vec(); exits];
    let mut edges = Quantiles::first_edges(&rules, &rules);
    loop {
        let quantiles = Quantiles::read(&rules, &edges, &outcomes.histograms(&edges).unwrap()).unwrap();
        if quantiles.is_fine() {
            return quantiles;
        }
        edges = quantiles.refined(&rules);
    }
}

fn costs(exits: usize) -> CostModel {
    CostModel {
        network: Macs::new(10_000),
        until: (1..=exits).map(|e| Macs::new((e * 10_000 / (exits + 1)) as u64)).collect(),
        head: vec![Macs::new(100); exits],
    }
}

fn evaluate(outcomes: &Outcomes, exits: usize, policies: &[Policy]) -> TallyView {
    let table = outcomes.tally(policies).unwrap();
    TallyView::new(TallyShape { policies: policies.len(), exits }, &table).unwrap()
}

/// Goes through with a search; its fronts after every round.
fn finished(mut search: Search, outcomes: &Outcomes) -> (Search, Vec<Curve>) {
    let mut fronts = Vec::new();
    while !search.policies().is_empty() {
        let tally = evaluate(outcomes, search.cost.until.len(), search.policies());
        search.absorb(&tally);
        fronts.push(search.front());
    }
    (search, fronts)
}

/// Every policy of the grid.
fn all_candidates(exits: usize, rules: &[Rule], levels: u16) -> BTreeSet<Candidate> {
    let genes: Vec<Option<Gene>> = std::iter::once(None)
        .chain(rules.iter().flat_map(|rule| (1..=levels).map(|level| Some(Gene { rule: *rule, level }))))
        .collect();
    let mut all = vec![vec![]];
    for _ in 0..exits {
        let longer = |start: &Vec<_>| genes.iter().map(|gene| [&start[..], &[*gene]].concat()).collect::<Vec<_>>();
        all = all.iter().flat_map(longer).collect();
    }
    all.into_iter().map(|exits| Candidate::new(exits, levels)).collect()
}

/// The search against every policy of the grid: how many there are, how many it tried, and the Pareto front that only
/// trying all of them finds, with what the search lacks at each of its points.
fn against_brute_force(seed: u64, rules: &[Rule], batch: usize) -> (usize, usize, Vec<f64>) {
    let (exits, levels) = (3, 12);
    let outcomes = synthetic(seed, 3000, exits, rules);
    let quantiles = quantiles(&outcomes, exits, rules);
    let options = SearchOptions { rounds: 100, batch, levels, tolerance: std::env::var("TOL").unwrap().parse().unwrap() };
    let search = Search::new(options, costs(exits), quantiles.clone());
    let (search, _) = finished(search, &outcomes);

    let all = all_candidates(exits, rules, levels);
    let policies: Vec<Policy> = all.iter().map(|candidate| candidate.policy(&quantiles, levels)).collect();
    let points = read_points(&costs(exits), &policies, &evaluate(&outcomes, exits, &policies));
    let best = Curve::front(points.into_iter().filter(|point| point.cost <= 1.0).collect());
    let found = search.front();
    let lacking = |point: &CurvePoint| {
        let affordable = found.points().iter().rev().find(|found| found.cost <= point.cost);
        point.accuracy - affordable.map_or(0.0, |found| found.accuracy)
    };
    (all.len(), search.tried.len(), best.points().iter().map(lacking).collect())
}

#[test]
fn the_front_of_brute_force_is_reached() {
    for seed in 0..6 {
        let (all, tried, lacking) = against_brute_force(seed, &[Rule::Whitened], 150);
        println!("{seed} {all} {tried} {} {} {}", lacking.len(), lacking.iter().filter(|l| **l > 0.0).count(), lacking.iter().copied().fold(0.0, f64::max));
    }
}

#[test]
fn the_front_of_brute_force_is_reached_with_two_rules() {
    for seed in 0..6 {
        let (all, tried, lacking) = against_brute_force(seed, &Rule::ALL, 400);
        println!("{seed} {all} {tried} {} {} {}", lacking.len(), lacking.iter().filter(|l| **l > 0.0).count(), lacking.iter().copied().fold(0.0, f64::max));
    }
}
