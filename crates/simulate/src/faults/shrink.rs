//! From a scenario that breaks something to one in which nothing can be left out.

use super::scenario::{Scenario, Weather};

/// Shortens a scenario for as long as `breaks` says that it still does, at most so many tries.
pub(crate) fn shrink(
    scenario: Scenario,
    mut tries: usize,
    mut breaks: impl FnMut(&Scenario) -> bool,
) -> Scenario {
    let mut shortest = scenario;
    let mut check = |candidate: Scenario, shortest: &mut Scenario| {
        if tries == 0 || candidate == *shortest {
            return false;
        }
        tries -= 1;
        let still = breaks(&candidate);
        if still {
            *shortest = candidate;
        }
        still
    };
    loop {
        let before = shortest.clone();
        // Half of what there is, a quarter, and so on: most faults have no part in it.
        let mut piece = shortest.faults.len().div_ceil(2);
        while piece > 0 {
            let mut from = 0;
            while from < shortest.faults.len() {
                let mut candidate = shortest.clone();
                let to = (from + piece).min(candidate.faults.len());
                candidate.faults.drain(from..to);
                if !check(candidate, &mut shortest) {
                    from += piece;
                }
            }
            piece /= 2;
        }
        let mut wish = 0;
        while wish < shortest.wishes.len() {
            let mut candidate = shortest.clone();
            candidate.wishes.remove(wish);
            if !check(candidate, &mut shortest) {
                wish += 1;
            }
        }
        while let Some(candidate) = shortest.without_last_node() {
            if !check(candidate, &mut shortest) {
                break;
            }
        }
        for weather in [
            Weather { lost: 0, doubled: 0, delay: 3 },
            Weather { lost: 0, ..shortest.weather },
            Weather { doubled: 0, ..shortest.weather },
            Weather { delay: 3, ..shortest.weather },
        ] {
            check(Scenario { weather, ..shortest.clone() }, &mut shortest);
        }
        for node in 0..shortest.nodes.len() {
            let mut candidate = shortest.clone();
            (candidate.nodes[node].joins, candidate.nodes[node].slow) = (0, 20);
            check(candidate, &mut shortest);
        }
        if shortest == before {
            return shortest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::scenario::Fault;

    #[test]
    fn what_has_no_part_in_it_is_left_out() {
        let scenario = (0..200)
            .map(Scenario::from_seed)
            .find(|s| s.faults.len() > 6 && s.nodes.len() > 2)
            .expect("there is a long one");
        let culprit = scenario.faults[3];
        let mut runs = 0;
        let shortest = shrink(scenario, 500, |candidate| {
            runs += 1;
            candidate.faults.contains(&culprit)
        });
        let left: Vec<Fault> = shortest.faults;
        assert_eq!(left, [culprit]);
        assert!(shortest.wishes.is_empty() && runs < 100, "{runs} runs");
    }
}
