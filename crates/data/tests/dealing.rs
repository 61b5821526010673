//! Which part a sample belongs to and which node it is dealt to: by content, and every sample exactly once.

#![expect(clippy::unwrap_used, reason = "helpers outside of test functions fail the test, too")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use exeunt_data::{Dataset, Partition, Reader, Share};
use exeunt_protocol::spec::{DataFormat, DataSpec, PartSpec};
use proptest::prelude::*;

const SAMPLES: usize = 400;

fn record(sample: usize) -> Vec<u8> {
    let pixels = (0..3072).map(|at| (sample * 31 + at * (sample + 7)) as u8);
    std::iter::once((sample % 10) as u8).chain(pixels).collect()
}

/// Writes records in this order, to as many files.
fn write(folder: &Path, order: &[usize], names: &[&str]) {
    for (name, records) in names.iter().zip(order.chunks(order.len().div_ceil(names.len()))) {
        fs::write(folder.join(name), records.iter().flat_map(|i| record(*i)).collect::<Vec<u8>>()).unwrap();
    }
}

fn parts(folder: &Path, names: &[&str], seed: u64) -> [Dataset; 3] {
    let share = |from, to| PartSpec {
        files: names.iter().map(|name| (*name).to_owned()).collect(),
        share: Some([from, to]),
        ..PartSpec::default()
    };
    let spec = DataSpec {
        format: DataFormat::Cifar10,
        root: None,
        max_bad: 0,
        images: None,
        labels: None,
        statistics: share(0.0, 0.8),
        calibration: share(0.8, 0.9),
        evaluation: share(0.9, 1.0),
    };
    let classes: Vec<String> = (0..10).map(|k| k.to_string()).collect();
    Reader::new(folder, &spec, seed, &classes).all().unwrap()
}

fn contents(data: &Dataset) -> BTreeSet<String> {
    (0..data.len()).map(|i| data.hash(i).to_string()).collect()
}

#[test]
fn a_split_by_content_depends_on_the_samples_and_the_seed_alone() {
    let folder = tempfile::tempdir().unwrap();
    let forwards: Vec<usize> = (0..SAMPLES).collect();
    let backwards: Vec<usize> = forwards.iter().rev().copied().collect();
    write(folder.path(), &forwards, &["one"]);
    write(folder.path(), &backwards, &["a", "b", "c"]);
    let one = parts(folder.path(), &["one"], 3);
    let three = parts(folder.path(), &["a", "b", "c"], 3);
    assert_eq!(one.each_ref().map(contents), three.each_ref().map(contents));
    assert_eq!(one.each_ref().map(Dataset::digest), three.each_ref().map(Dataset::digest));
    assert_ne!(contents(&one[0]), contents(&parts(folder.path(), &["one"], 4)[0]));

    // Without a sample in common, and without one left over.
    let all: BTreeSet<String> = one.iter().flat_map(contents).collect();
    assert_eq!(one.iter().map(Dataset::len).sum::<usize>(), SAMPLES);
    assert_eq!(all.len(), SAMPLES);
    assert!((280..360).contains(&one[0].len()), "{} of {SAMPLES} for 80 %", one[0].len());

    // A sample that is added moves no other one.
    write(folder.path(), &forwards[..SAMPLES - 100], &["fewer"]);
    let fewer = parts(folder.path(), &["fewer"], 3);
    assert!(fewer.iter().zip(&one).all(|(fewer, all)| contents(fewer).is_subset(&contents(all))));
}

fn partition() -> impl Strategy<Value = Partition> {
    prop_oneof![
        Just(Partition::Uniform),
        (0.01..5.0_f64).prop_map(Partition::Dirichlet),
        (1_u32..6).prop_map(Partition::ByClass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_sample_is_dealt_exactly_once(nodes in 1_u32..24, partition in partition(), seed in any::<u64>()) {
        let folder = tempfile::tempdir().unwrap();
        let order: Vec<usize> = (0..SAMPLES / 4).collect();
        write(folder.path(), &order, &["one"]);
        for part in parts(folder.path(), &["one"], 3) {
            let hands = part.deal(&Share::new(0, nodes, partition, seed).unwrap());
            prop_assert_eq!(hands.len(), nodes as usize);
            prop_assert_eq!(hands.iter().map(Dataset::len).sum::<usize>(), part.len());
            let dealt: BTreeSet<String> = hands.iter().flat_map(contents).collect();
            prop_assert_eq!(dealt, contents(&part));
            // A node that reads the folder by itself finds the same hand.
            for (node, hand) in hands.iter().enumerate() {
                let share = Share::new(node as u32, nodes, partition, seed).unwrap();
                let alone = part.share(&share);
                prop_assert_eq!(alone.digest(), hand.digest());
                prop_assert_eq!(alone.labels(), hand.labels());
            }
        }
    }
}

#[test]
fn partitions_deal_as_they_are_called() {
    let folder = tempfile::tempdir().unwrap();
    let order: Vec<usize> = (0..SAMPLES).collect();
    write(folder.path(), &order, &["one"]);
    let [data, ..] = parts(folder.path(), &["one"], 3);
    let deal = |partition| data.deal(&Share::new(0, 5, partition, 1).unwrap());
    let mean = data.len() / 5;
    assert!(deal(Partition::Uniform).iter().all(|hand| (mean / 2..mean * 2).contains(&hand.len())));
    for (node, hand) in deal(Partition::ByClass(2)).iter().enumerate() {
        let held: BTreeSet<u32> = hand.labels().iter().copied().collect();
        assert_eq!(held, BTreeSet::from([2 * node as u32, 2 * node as u32 + 1]));
    }
    let largest = |partition| deal(partition).iter().map(Dataset::len).max().unwrap_or(0);
    assert!(largest(Partition::Dirichlet(0.05)) > largest(Partition::Dirichlet(1000.0)));
}
