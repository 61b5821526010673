//! What moments promise: the samples alone decide the table, and what must not leave is not in it.

#![expect(clippy::unwrap_used, reason = "helpers outside of test functions fail the test, too")]

use exeunt_stats::{
    AbsorbError, BatchError, Excluded, ExitShape, FinishError, Floors, MomentsAccumulator, MomentsShape,
    MomentsView, Scale, SetupError, Table,
};
use ndarray::{Array2, ArrayView2, s};
use proptest::prelude::*;

const CLASSES: usize = 3;
const DIMS: [usize; 2] = [3, 5];

/// Samples at two exits, the second with second moments.
#[derive(Clone, Debug)]
struct Samples {
    labels: Vec<u32>,
    z: [Array2<f32>; 2],
}

impl Samples {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn batch(&self, rows: std::ops::Range<usize>) -> (&[u32], [ArrayView2<'_, f32>; 2]) {
        let z = [0, 1].map(|e: usize| self.z[e].slice(s![rows.clone(), ..]));
        (&self.labels[rows], z)
    }

    fn class_counts(&self) -> Vec<u64> {
        let mut counts = vec![0; CLASSES];
        for label in &self.labels {
            counts[*label as usize] += 1;
        }
        counts
    }

    fn take(&self, rows: &[usize]) -> Self {
        Self {
            labels: rows.iter().map(|row| self.labels[*row]).collect(),
            z: [0, 1].map(|e: usize| self.z[e].select(ndarray::Axis(0), rows)),
        }
    }

    /// One accumulator that sees everything in one batch.
    fn accumulate(&self, floors: &Floors) -> MomentsAccumulator {
        let mut accumulator = accumulator(&self.class_counts(), floors);
        let (labels, z) = self.batch(0..self.len());
        accumulator.add(labels, &z).unwrap();
        accumulator
    }

    fn table(&self, floors: &Floors) -> Table {
        self.accumulate(floors).finish().unwrap()
    }
}

fn shape() -> MomentsShape {
    let exits = vec![ExitShape { dim: DIMS[0], second: false }, ExitShape { dim: DIMS[1], second: true }];
    MomentsShape { classes: CLASSES, exits }
}

fn scales() -> Vec<Scale> {
    vec![Scale::for_exponent(2), Scale::for_exponent(-3)]
}

fn accumulator(class_counts: &[u64], floors: &Floors) -> MomentsAccumulator {
    MomentsAccumulator::new(shape(), scales(), class_counts, floors).unwrap()
}

fn samples(count: std::ops::Range<usize>) -> impl Strategy<Value = Samples> {
    count.prop_flat_map(|n| {
        let z = |dim: usize, bound: f32| {
            prop::collection::vec(prop_oneof![3 => -bound..bound, 1 => Just(0.0)], n * dim)
                .prop_map(move |values| Array2::from_shape_vec((n, dim), values).unwrap())
        };
        let labels = prop::collection::vec(0..CLASSES as u32, n);
        (labels, z(DIMS[0], 7.9), z(DIMS[1], 0.24)).prop_map(|(labels, a, b)| Samples { labels, z: [a, b] })
    })
}

/// The whole table by its definition, in 128-bit integers, one sample after the other.
fn oracle(samples: &Samples) -> Table {
    let layout = shape().layout();
    let mut cells = vec![0_i128; layout.cells()];
    let at = |name: String| layout.range(&name).unwrap().start;
    for (e, scale) in scales().iter().enumerate() {
        let part = ["alone", "paired"][e];
        for (label, row) in samples.labels.iter().zip(samples.z[e].outer_iter()) {
            let k = *label as usize;
            let round = |factor: f64| -> Vec<i128> {
                row.iter().map(|z| (f64::from(*z) * factor).round_ties_even() as i128).collect()
            };
            let (terms, factors) = (round(scale.sum_factor()), round(scale.product_factor()));
            cells[at(format!("e{e}.{part}.n")) + k] += 1;
            for (i, term) in terms.iter().enumerate() {
                cells[at(format!("e{e}.{part}.sum")) + k * DIMS[e] + i] += term;
            }
            for (i, factor) in factors.iter().enumerate() {
                cells[at(format!("e{e}.{part}.sq")) + k] += factor * factor;
                if e == 1 {
                    cells[at("e1.paired.rest".to_owned()) + k * DIMS[e] + i] += terms[i] - (factor << 8);
                }
                for (j, other) in factors[..=i].iter().enumerate().filter(|_| e == 1) {
                    cells[at("e1.products".to_owned()) + i * (i + 1) / 2 + j] += factor * other;
                }
            }
        }
    }
    Table::from_cells(cells.into_iter().map(|cell| i64::try_from(cell).unwrap()).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_table_is_its_definition(samples in samples(1..700)) {
        prop_assert_eq!(samples.table(&Floors::OFF), oracle(&samples));
    }

    /// Order, batches, threads and grouping cannot be seen.
    #[test]
    fn any_split_within_a_node_gives_the_same_table(
        (samples, order) in samples(1..700).prop_flat_map(|samples| {
            let order: Vec<usize> = (0..samples.len()).collect();
            (Just(samples), Just(order).prop_shuffle())
        }),
        threads in 1_usize..5,
        assign in prop::collection::vec((1_usize..120, 0_usize..5), 1..30),
        grouping in any::<bool>(),
        floors in prop_oneof![Just(Floors::OFF), Just(Floors::default())],
    ) {
        let shuffled = samples.take(&order);
        let whole = accumulator(&samples.class_counts(), &floors);
        let mut parts: Vec<_> = (0..threads).map(|_| whole.sibling()).collect();
        let (mut start, mut turns) = (0, assign.iter().cycle());
        while start < samples.len() {
            let (size, thread) = *turns.next().unwrap();
            let end = samples.len().min(start + size);
            let (labels, z) = shuffled.batch(start..end);
            parts[thread % threads].add(labels, &z).unwrap();
            start = end;
        }
        let merge = |mut into: MomentsAccumulator, from| {
            into.absorb(from).unwrap();
            into
        };
        let merged = if grouping {
            parts.into_iter().rev().reduce(merge).unwrap()
        } else {
            let rest = parts.split_off(threads / 2);
            let right = rest.into_iter().reduce(merge).unwrap();
            merge(parts.into_iter().fold(whole, merge), right)
        };
        prop_assert_eq!(merged.finish().unwrap(), samples.table(&floors));
    }

    /// Nodes, each with class counts of its own, and one of them leaving again.
    #[test]
    fn any_partition_over_nodes_gives_the_same_table(
        (samples, node) in samples(1..400).prop_flat_map(|samples| {
            let node = prop::collection::vec(0_usize..4, samples.len());
            (Just(samples), node)
        }),
    ) {
        let rows = |keep: &dyn Fn(usize) -> bool| -> Vec<usize> {
            (0..samples.len()).filter(|row| keep(node[*row])).collect()
        };
        let mut merged = Table::zeros(shape().layout().cells());
        for of in [2, 0, 3, 1] {
            let share = samples.take(&rows(&|node| node == of));
            // A node without samples answers zeros.
            merged.merge(&share.table(&Floors::OFF)).unwrap();
        }
        prop_assert_eq!(&merged, &samples.table(&Floors::OFF));
        prop_assert_eq!(merged.digest(), samples.table(&Floors::OFF).digest());

        let leaves = samples.take(&rows(&|node| node == 0));
        merged.subtract(&leaves.table(&Floors::OFF)).unwrap();
        let stay = samples.take(&rows(&|node| node != 0));
        prop_assert_eq!(merged, stay.table(&Floors::OFF));
    }

    /// A sample that is bad at one exit is gone from both, and counted.
    #[test]
    fn samples_left_out_are_left_out_everywhere(
        samples in samples(40..60),
        bad in any::<prop::sample::Index>(),
        value in prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(-16.0_f32), Just(1e30)],
        exit in 0_usize..2,
    ) {
        let bad = bad.index(samples.len());
        let mut spoilt = samples.clone();
        spoilt.z[exit][(bad, 2)] = value;
        // So many good ones that one in a thousand is not exceeded.
        let times = 1000_usize.div_ceil(samples.len());
        let mut accumulator = accumulator(&samples.class_counts(), &Floors::OFF);
        for time in 0..times {
            let source = if time == 3 { &spoilt } else { &samples };
            let (labels, z) = source.batch(0..samples.len());
            accumulator.add(labels, &z).unwrap();
        }
        let counted = Excluded {
            non_finite: u64::from(!value.is_finite()),
            out_of_scale: u64::from(value.is_finite()),
            samples: (times * samples.len()) as u64,
        };
        prop_assert_eq!(accumulator.excluded(), counted);
        let table = accumulator.finish().unwrap();
        let shape = shape();
        prop_assert_eq!(MomentsView::new(&shape, &table).unwrap().excluded(), counted);

        let others: Vec<usize> = (0..samples.len()).filter(|row| *row != bad).collect();
        let mut expected = samples.take(&others).table(&Floors::OFF);
        for _ in 1..times {
            expected.merge(&samples.table(&Floors::OFF)).unwrap();
        }
        let sums = shape.layout().range("excluded.non_finite").unwrap().start;
        prop_assert_eq!(&table.cells()[..sums], &expected.cells()[..sums]);
    }

    #[test]
    fn withheld_classes_are_in_no_sum_and_no_product(samples in samples(50..200), few in 1_usize..10) {
        // Class 0 keeps at most `few` samples, under the floor of 10; the others have theirs.
        let mut left = few;
        let mut keep = |label: u32| {
            let kept = label != 0 || left > 0;
            left -= usize::from(label == 0 && kept);
            kept
        };
        let rows: Vec<usize> = (0..samples.len()).filter(|row| keep(samples.labels[*row])).collect();
        let samples = samples.take(&rows);
        let counts = samples.class_counts();
        let floors = Floors::default();
        let withheld = |k: u32| counts[k as usize] > 0 && counts[k as usize] < 10;
        let kept: Vec<usize> = (0..samples.len()).filter(|row| !withheld(samples.labels[*row])).collect();
        let kept = samples.take(&kept);
        let mut expected = kept.table(&Floors { min_count: 0, ..floors }).into_cells();
        *expected.last_mut().unwrap() = (0..CLASSES as u32).filter(|k| withheld(*k)).count() as i64;
        prop_assert_eq!(samples.table(&floors).into_cells(), expected);
    }

    /// METHOD: with 100 samples or more, every mean within 1e-4 of the exit's standard deviation.
    #[test]
    fn rounding_is_invisible_in_the_means(
        seed in any::<u64>(),
        count in 100_usize..400,
        relu in any::<bool>(),
        size in -20_i32..20,
    ) {
        let mut state = seed;
        let mut uniform = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut bits = state;
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        };
        let mut gaussian = || (-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
        let dim = 16;
        let z = Array2::from_shape_simple_fn((count, dim), || {
            let z = gaussian() * f64::from(size).exp2();
            (if relu { z.max(0.0) } else { z }) as f32
        });

        let mut range = exeunt_stats::RangeCounter::new(1);
        range.add(&[z.view()]).unwrap();
        let scale = exeunt_stats::scale_for(range.finish().cells());
        let shape = MomentsShape { classes: 1, exits: vec![ExitShape { dim, second: true }] };
        let mut accumulator =
            MomentsAccumulator::new(shape.clone(), vec![scale], &[count as u64], &Floors::OFF).unwrap();
        accumulator.add(&vec![0; count], &[z.view()]).unwrap();
        let table = accumulator.finish().unwrap();
        let view = MomentsView::new(&shape, &table).unwrap();

        let z = z.mapv(f64::from);
        let deviation = z.std(0.0);
        let means = z.mean_axis(ndarray::Axis(0)).unwrap();
        for (found, expected) in view.means(0, &scale).row(0).iter().zip(&means) {
            prop_assert!((found - expected).abs() < 1e-4 * deviation);
        }
        // Second moments are coarser, yet far finer than what estimating them from so few samples costs.
        let moment = z.t().dot(&z);
        for (cell, (i, j)) in view.products(0).iter().zip((0..dim).flat_map(|i| (0..=i).map(move |j| (i, j)))) {
            let found = *cell as f64 * scale.product_unit() / count as f64;
            prop_assert!((found - moment[(i, j)] / count as f64).abs() < 1e-3 * deviation * deviation);
        }
    }
}

fn plain(count: usize) -> Samples {
    Samples {
        labels: (0..count).map(|i| (i % CLASSES) as u32).collect(),
        z: DIMS.map(|dim| Array2::from_shape_fn((count, dim), |(i, j)| ((i * 7 + j * 3) % 11) as f32 / 50.0)),
    }
}

#[test]
fn second_moments_stay_below_the_floor() {
    // D = 5 at the exit with second moments.
    let floors = Floors { min_count: 0, second_factor: 2 };
    let shape = shape();
    for (count, sent) in [(9, false), (10, true)] {
        let table = plain(count).table(&floors);
        let view = MomentsView::new(&shape, &table).unwrap();
        assert_eq!(view.products(1).iter().any(|cell| *cell != 0), sent);
        assert_eq!(view.paired_sum(1).iter().any(|cell| *cell != 0), sent);
        assert_eq!(view.paired_count(1).iter().sum::<u64>(), if sent { count as u64 } else { 0 });
        // The class sums are there either way.
        assert_eq!(view.count(1).iter().sum::<u64>(), count as u64);
        assert_eq!(view.sum(1), MomentsView::new(&shape, &oracle(&plain(count))).unwrap().sum(1));
    }
}

#[test]
fn an_exit_that_falls_below_its_floor_sends_its_sums_alone() {
    let samples = plain(9);
    // Told of 12, it planned to send products.
    let mut late = accumulator(&[4, 4, 4], &Floors { min_count: 0, second_factor: 2 });
    assert_eq!(late.plan().second(), [false, true]);
    let (labels, z) = samples.batch(0..9);
    late.add(labels, &z).unwrap();
    assert_eq!(late.finish().unwrap(), samples.table(&Floors { min_count: 0, second_factor: 2 }));
}

#[test]
fn a_class_that_falls_below_the_floor_is_taken_out_or_the_answer_is_refused() {
    let samples = plain(33);
    let short = samples.take(&(1..33).filter(|row| row % 3 != 0 || *row > 6).collect::<Vec<_>>());
    assert_eq!(short.class_counts(), [8, 11, 11]);
    let of = |second_factor| {
        let mut late = accumulator(&[11, 11, 11], &Floors { min_count: 10, second_factor });
        let (labels, z) = short.batch(0..short.len());
        late.add(labels, &z).unwrap();
        late.finish()
    };
    assert_eq!(of(2), Err(FinishError::ClassFell { class: 0, found: 8, expected: 10 }));
    // Without products it can still be taken out, as if withheld from the start.
    let floors = Floors { min_count: 10, second_factor: 1000 };
    assert_eq!(of(1000).unwrap(), short.table(&floors));
    let shape = shape();
    let table = of(1000).unwrap();
    let view = MomentsView::new(&shape, &table).unwrap();
    assert_eq!((view.count(0), view.withheld_classes()), (vec![0, 11, 11], 1));
    assert_eq!(view.squares(1)[0], 0);
}

#[test]
fn too_many_left_out_refuse_the_answer() {
    let mut samples = plain(1999);
    samples.z[0][(5, 0)] = f32::NAN;
    samples.z[1][(6, 0)] = 100.0;
    let seen = Excluded { non_finite: 1, out_of_scale: 1, samples: 1999 };
    assert_eq!(samples.accumulate(&Floors::OFF).finish(), Err(FinishError::TooManyExcluded(seen)));
    let mut wide = MomentsAccumulator::new(
        shape(),
        scales().into_iter().map(|scale| scale.wider(10)).collect(),
        &samples.class_counts(),
        &Floors::OFF,
    )
    .unwrap();
    let (labels, z) = samples.batch(0..1999);
    wide.add(labels, &z).unwrap();
    assert_eq!(wide.excluded().out_of_scale, 0);
    assert!(wide.finish().is_ok());
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let samples = plain(12);
    let mut accumulator = samples.accumulate(&Floors::OFF);
    let (labels, z) = samples.batch(0..12);
    let mut bad_labels = labels.to_vec();
    bad_labels[11] = 3;
    assert_eq!(accumulator.add(&bad_labels, &z), Err(BatchError::Label { sample: 11, found: 3, classes: 3 }));
    assert_eq!(
        accumulator.add(&labels[1..], &z),
        Err(BatchError::Samples { exit: 0, found: 12, expected: 11 })
    );
    assert_eq!(accumulator.add(labels, &z[..1]), Err(BatchError::Exits { found: 1, expected: 2 }));
    assert_eq!(
        accumulator.add(labels, &[z[1], z[0]]),
        Err(BatchError::Dim { exit: 0, found: 5, expected: 3 })
    );
    let other = MomentsAccumulator::new(shape(), vec![Scale::default(); 2], &[4; 3], &Floors::OFF).unwrap();
    assert_eq!(accumulator.absorb(other), Err(AbsorbError::Setup));
    assert_eq!(accumulator.finish().unwrap(), oracle(&samples));
    assert_eq!(
        MomentsAccumulator::new(shape(), vec![Scale::default()], &[4; 3], &Floors::OFF).err(),
        Some(SetupError::Length { what: "scales", found: 1, expected: 2 })
    );
}

#[test]
fn an_untidy_memory_order_does_not_show() {
    let samples = plain(30);
    let turned = [0, 1].map(|e: usize| samples.z[e].t().as_standard_layout().into_owned());
    let mut accumulator = accumulator(&samples.class_counts(), &Floors::OFF);
    accumulator.add(&samples.labels, &[turned[0].t(), turned[1].t()]).unwrap();
    assert_eq!(accumulator.finish().unwrap(), oracle(&samples));
}
