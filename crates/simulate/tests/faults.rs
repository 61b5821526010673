//! What survives everything, and that somebody would notice if it did not.

#![expect(clippy::unwrap_used, reason = "helpers outside of test functions fail the test, too")]

use exeunt_simulate::faults::{Explorer, Mutation, Promise};

/// Seeds that every test run goes through; `EXEUNT_SEEDS=A..B` names others, as does
/// `exeunt simulate --faults --seeds A..B`.
fn seeds() -> std::ops::Range<u64> {
    let Ok(wanted) = std::env::var("EXEUNT_SEEDS") else { return 0..300 };
    let (first, end) = wanted.split_once("..").unwrap();
    first.parse().unwrap()..end.parse().unwrap()
}

#[test]
fn nothing_is_lost_and_nothing_counted_twice() {
    let mut explorer = Explorer::new().unwrap();
    for seed in seeds() {
        if let Some(finding) = explorer.explore(seed).unwrap() {
            panic!(
                "seed {seed}: {}\nin short: {}{}\n{}",
                finding.violation,
                finding.shortest,
                finding.in_short,
                finding.trace.join("\n")
            );
        }
    }
    // The seeds reach everything that can go wrong.
    let tally = explorer.tally();
    assert!(tally.faults.values().all(|struck| *struck > 20), "{tally:?}");
    assert!(tally.withdrawn > 10 && tally.rejected > 10 && tally.coordinator_restarts > 100, "{tally:?}");
}

/// What the simulation has found, and what was changed since.
#[test]
fn what_was_found_stays_repaired() {
    let found = [
        (1_002_918, "an answer that was turned away during a quarantine was not given again after it"),
        (1_007_295, "the same"),
        (1_005_300, "a token that was made a second time could be spent a second time"),
        (1_005_613, "the same"),
        (1_009_225, "the same"),
        (1_039_467, "a query was sealed although its run had been stopped just before"),
        (1_012_521, "the same"),
        (1_021_282, "a query was sealed although a contribution had been removed just before"),
        (1_024_243, "the same"),
        (1_037_802, "the same"),
        (
            1_795_678_293_003_851,
            "a run that was stopped, and stopped again after a restart, could not be looked at",
        ),
        (1_795_678_293_008_583, "the same"),
    ];
    let mut explorer = Explorer::new().unwrap();
    for (seed, what) in found {
        let seen = explorer.watch(seed).unwrap();
        assert_eq!(seen.violation, None, "seed {seed}: {what}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 14, 159] {
        let [first, second] = [(), ()].map(|()| Explorer::new().unwrap().watch(seed).unwrap());
        assert_eq!(first, second);
        assert!(first.trace.len() > 10);
    }
    let [first, second] = [1, 2].map(|seed| Explorer::new().unwrap().watch(seed).unwrap().digest);
    assert_ne!(first, second);
}

/// Whether a promise that is broken on purpose is noticed, and as what it is.
fn noticed(mutation: Mutation, as_what: &[Promise]) {
    let mut explorer = Explorer::broken(mutation).unwrap();
    let found = (0..400).find_map(|seed| {
        let violation = explorer.watch(seed).unwrap().violation?;
        as_what.contains(&violation.promise).then_some((seed, violation))
    });
    let (seed, violation) = found.unwrap_or_else(|| panic!("nobody notices {mutation:?}"));
    println!("{mutation:?}: seed {seed}: {violation}");
}

#[test]
fn the_oracle_notices_an_acknowledgement_before_the_commit() {
    noticed(Mutation::AcknowledgeBeforeCommit, &[Promise::Durable]);
}

#[test]
fn the_oracle_notices_a_table_that_is_added_twice() {
    noticed(Mutation::CountTwice, &[Promise::Exact]);
}

#[test]
fn the_oracle_notices_a_table_that_is_left_out() {
    noticed(Mutation::CountOneLess, &[Promise::Exact]);
}

#[test]
fn the_oracle_notices_a_second_answer_for_the_same_data() {
    noticed(Mutation::ReplaceOnConflict, &[Promise::OneAnswer]);
}

#[test]
fn the_oracle_notices_an_old_answer_in_place_of_a_new_one() {
    noticed(Mutation::ReplaceOnStale, &[Promise::OneAnswer]);
}

/// A database over such a disk cannot even be opened again.
#[test]
fn the_oracle_notices_a_disk_that_does_not_sync() {
    noticed(Mutation::NeverSync, &[Promise::Durable, Promise::Running, Promise::Restart]);
}

#[test]
fn the_oracle_notices_answers_before_the_store_is_synced() {
    noticed(Mutation::AnswerBeforeSync, &[Promise::Durable]);
}

#[test]
fn the_oracle_notices_a_policy_that_is_not_written() {
    noticed(Mutation::ForgetPolicies, &[Promise::Durable]);
}

#[test]
fn the_oracle_notices_a_node_that_comes_back() {
    noticed(Mutation::ForgetRevocations, &[Promise::ShutOut, Promise::Durable]);
}

#[test]
fn the_oracle_notices_a_query_that_nobody_hears_of() {
    noticed(Mutation::PublishOnce, &[Promise::Liveness]);
}
