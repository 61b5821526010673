use std::collections::BTreeSet;

use exeunt_stats::Macs;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::outcomes::{Outcomes, OutcomesBuilder};
use crate::policy::ExitRule;
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
        let longer =
            |start: &Vec<_>| genes.iter().map(|gene| [&start[..], &[*gene]].concat()).collect::<Vec<_>>();
        all = all.iter().flat_map(longer).collect();
    }
    all.into_iter().map(|exits| Candidate::new(exits, levels)).collect()
}

/// What a search that was cut off at `tolerance` found of the Pareto front that only trying every policy finds.
struct Comparison {
    /// Policies there are.
    all: usize,
    /// Policies the search tried.
    tried: usize,
    /// For every point of the true front: its accuracy less that of the best found at no more than its cost.
    lacking: Vec<f64>,
}

fn against_brute_force(seed: u64, rules: &[Rule], batch: usize, tolerance: f64) -> Comparison {
    let (exits, levels) = (3, 12);
    let outcomes = synthetic(seed, 3000, exits, rules);
    let quantiles = quantiles(&outcomes, exits, rules);
    let options = SearchOptions { rounds: 60, batch, levels, tolerance };
    let search = Search::new(options, costs(exits), quantiles.clone());
    let (search, _) = finished(search, &outcomes);

    let all = all_candidates(exits, rules, levels);
    let policies: Vec<Policy> = all.iter().map(|candidate| candidate.policy(&quantiles, levels)).collect();
    let points = read_points(&costs(exits), &policies, &evaluate(&outcomes, exits, &policies));
    let best = Curve::front(points.into_iter().filter(|point| point.cost <= 1.0).collect());
    let found = search.front();
    let lacking = |point: &CurvePoint| point.accuracy - affordable(&found, point.cost);
    Comparison {
        all: all.len(),
        tried: search.tried.len(),
        lacking: best.points().iter().map(lacking).collect(),
    }
}

/// The best accuracy on a front at no more than a cost.
fn affordable(front: &Curve, cost: f64) -> f64 {
    front.points().iter().rev().find(|point| point.cost <= cost).map_or(0.0, |point| point.accuracy)
}

#[test]
fn the_front_of_brute_force_is_reached_exactly() {
    for seed in 0..8 {
        let Comparison { all, tried, lacking } = against_brute_force(seed, &[Rule::Whitened], 150, 0.0);
        assert!(tried < all / 2, "seed {seed}: {tried} of {all} is brute force too");
        assert!(lacking.len() > 50 && lacking.iter().all(|lack| *lack <= 0.0), "seed {seed}: {lacking:?}");
    }
}

#[test]
fn the_front_of_brute_force_is_nearly_reached_with_two_rules() {
    for seed in 0..8 {
        for (tolerance, most) in [(0.0, 0.001), (1e-4, 0.002)] {
            let Comparison { all, tried, lacking } = against_brute_force(seed, &Rule::ALL, 400, tolerance);
            assert!(tried < all / 5, "seed {seed}: {tried} of {all} is brute force too");
            assert!(lacking.iter().all(|lack| *lack < most), "seed {seed}: {lacking:?}");
            let exact = lacking.iter().filter(|lack| **lack <= 0.0).count();
            assert!(exact * 20 >= lacking.len() * 19, "seed {seed}: {exact} of {}", lacking.len());
        }
    }
}

#[test]
fn the_search_is_never_worse_than_sweeps_and_static_cuts() {
    let exits = 5;
    for seed in 0..3 {
        let outcomes = synthetic(seed, 500, exits, &Rule::ALL);
        let quantiles = quantiles(&outcomes, exits, &Rule::ALL);
        let options = SearchOptions { rounds: 4, batch: 600, ..SearchOptions::default() };
        let (search, fronts) = finished(Search::new(options, costs(exits), quantiles.clone()), &outcomes);
        assert!(fronts.len() <= 4);

        let mut simple = Vec::new();
        for rule in Rule::ALL {
            simple.extend((0..exits).map(|exit| Policy::static_cut(exits, exit, rule)));
            simple.extend((1..=32).map(|part| {
                let threshold = |exit| quantiles.threshold(exit, rule, f64::from(part) / 32.0).unwrap();
                Policy { exits: (0..exits).map(|exit| Some(ExitRule::new(rule, threshold(exit)))).collect() }
            }));
        }
        let points = read_points(&costs(exits), &simple, &evaluate(&outcomes, exits, &simple));
        for point in points.iter().filter(|point| point.cost <= 1.0) {
            assert!(affordable(&fronts[0], point.cost) >= point.accuracy, "seed {seed}: {point:?}");
        }
        let line = search.static_line();
        for cost in (20..=100).map(|percent| f64::from(percent) / 100.0) {
            let (found, fixed) = (search.front().at_cost(cost), line.at_cost(cost));
            assert!(found >= fixed, "seed {seed}, cost {cost}: {found:?} below {fixed:?}");
        }
        let areas: Vec<f64> = fronts.iter().map(|front| front.area(0.2, 1.0)).collect();
        assert!(areas.last() > areas.first(), "seed {seed}: {areas:?}");
    }
}

#[test]
fn the_same_answers_give_the_same_search() {
    let outcomes = synthetic(7, 400, 4, &Rule::ALL);
    let quantiles = quantiles(&outcomes, 4, &Rule::ALL);
    let options = SearchOptions { rounds: 5, batch: 200, ..SearchOptions::default() };
    let run = || finished(Search::new(options, costs(4), quantiles.clone()), &outcomes).1;
    assert_eq!(run(), run());
}

#[test]
fn proposals_keep_to_the_batch_and_are_never_repeated() {
    let outcomes = synthetic(3, 400, 6, &Rule::ALL);
    let options = SearchOptions { rounds: 6, batch: 100, ..SearchOptions::default() };
    let mut search = Search::new(options, costs(6), quantiles(&outcomes, 6, &Rule::ALL));
    let mut tried = 0;
    while !search.policies().is_empty() {
        assert!(search.policies().len() <= 100);
        tried += search.policies().len();
        search.absorb(&evaluate(&outcomes, 6, search.policies()));
    }
    assert_eq!(search.tried.len(), tried);
    assert_eq!(search.round(), 6);
}

#[test]
fn a_thinned_front_ends_with_the_bare_network() {
    let outcomes = synthetic(5, 800, 4, &Rule::ALL);
    let options = SearchOptions { rounds: 3, batch: 300, ..SearchOptions::default() };
    let search = Search::new(options, costs(4), quantiles(&outcomes, 4, &Rule::ALL));
    let (search, _) = finished(search, &outcomes);
    let (thin, front) = (search.thinned(20), search.front());
    assert_eq!(thin.len(), 20);
    assert!(thin.last().is_some_and(|point| point.policy.is_off() && point.cost == 1.0));
    assert_eq!(thin.iter().filter(|point| point.cost >= 1.0).count(), 1);
    let lost = front.area(0.3, 1.0) - Curve::new(thin).area(0.3, 1.0);
    assert!(lost.abs() < 0.01, "{lost}");
}

#[test]
fn a_run_without_any_rule_has_the_bare_network_alone() {
    let rules = vec![vec![Rule::Whitened]; 2];
    let edges = Quantiles::first_edges(&rules, &[vec![], vec![]]);
    let quantiles = Quantiles::read(&rules, &edges, &exeunt_stats::Table::zeros(0)).unwrap();
    let search = Search::new(SearchOptions::default(), costs(2), quantiles);
    assert_eq!(search.policies(), [Policy::off(2)]);
}
