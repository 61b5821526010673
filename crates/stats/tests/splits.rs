//! Any split of the same activations over any number of nodes, merged in any order and grouping: the same table, bit
//! for bit. For every table that sums up activations.

#![expect(clippy::unwrap_used, reason = "helpers outside of test functions fail the test, too")]

use exeunt_stats::{
    ExitShape, Floors, MomentsAccumulator, MomentsShape, RangeCounter, Scale, SpreadAccumulator, SpreadShape,
    Table,
};
use ndarray::{Array2, ArrayView2, Axis, s};
use proptest::prelude::*;
use proptest::sample::Index;

const CLASSES: usize = 4;
const DIMS: [usize; 2] = [3, 6];

/// What there is to be dealt out.
#[derive(Clone, Debug)]
struct Samples {
    labels: Vec<u32>,
    z: [Array2<f32>; 2],
}

impl Samples {
    fn take(&self, rows: &[usize]) -> Self {
        let z = [0, 1].map(|e: usize| self.z[e].select(Axis(0), rows));
        Self { labels: rows.iter().map(|row| self.labels[*row]).collect(), z }
    }

    fn batches(&self, size: usize) -> impl Iterator<Item = (&[u32], [ArrayView2<'_, f32>; 2])> {
        let n = self.labels.len();
        (0..n).step_by(size).map(move |from| {
            let rows = from..n.min(from + size);
            (&self.labels[rows.clone()], [0, 1].map(|e: usize| self.z[e].slice(s![rows.clone(), ..])))
        })
    }

    /// The node's answers to `Range`, `Moments` and `Spread`, computed in batches of this size.
    fn answers(&self, batch: usize) -> [Table; 3] {
        let scales = vec![Scale::for_exponent(1), Scale::for_exponent(5)];
        let exits = DIMS.map(|dim| ExitShape { dim, second: true }).to_vec();
        let mut counts = vec![0; CLASSES];
        self.labels.iter().for_each(|label| counts[*label as usize] += 1);
        let shape = MomentsShape { classes: CLASSES, exits };
        let mut moments = MomentsAccumulator::new(shape, scales.clone(), &counts, &Floors::OFF).unwrap();
        let means =
            DIMS.map(|dim| Array2::from_shape_fn((CLASSES, dim), |(k, d)| k as f32 / 2.0 - d as f32 / 9.0));
        let shape = SpreadShape { classes: CLASSES, exits: DIMS.len() };
        let present = vec![vec![true; CLASSES]; DIMS.len()];
        let mut spread = SpreadAccumulator::new(shape, scales, means.to_vec(), present).unwrap();
        let mut range = RangeCounter::new(DIMS.len());
        for (labels, z) in self.batches(batch) {
            range.add(&z).unwrap();
            moments.add(labels, &z).unwrap();
            spread.add(&z).unwrap();
        }
        [range.finish(), moments.finish().unwrap(), spread.finish(&Floors::OFF).unwrap()]
    }
}

fn samples() -> impl Strategy<Value = Samples> {
    (1_usize..160).prop_flat_map(|n| {
        let z = |dim: usize, bound: f32| {
            let values = prop::collection::vec(prop_oneof![4 => -bound..bound, 1 => Just(0.0)], n * dim);
            values.prop_map(move |values| Array2::from_shape_vec((n, dim), values).unwrap())
        };
        let labels = prop::collection::vec(0..CLASSES as u32, n);
        (labels, z(DIMS[0], 3.9), z(DIMS[1], 60.0)).prop_map(|(labels, a, b)| Samples { labels, z: [a, b] })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn nodes_order_and_grouping_cannot_be_seen(
        samples in samples(),
        nodes in 1_usize..20,
        deal in prop::collection::vec(any::<Index>(), 160),
        order in any::<u64>(),
        batches in prop::collection::vec(1_usize..40, 20),
        pairs in prop::collection::vec((any::<Index>(), any::<Index>()), 20),
    ) {
        let n = samples.labels.len();
        let mut hands: Vec<Vec<usize>> = vec![Vec::new(); nodes];
        for row in 0..n {
            hands[deal[row].index(nodes)].push(row);
        }
        // Each node meets its samples in an order of its own.
        for hand in &mut hands {
            hand.sort_by_key(|row| (*row as u64 + 1).wrapping_mul(order | 1));
        }
        let answers: Vec<[Table; 3]> =
            hands.iter().zip(&batches).map(|(hand, batch)| samples.take(hand).answers(*batch)).collect();
        let whole = samples.answers(n);
        for (query, whole) in whole.iter().enumerate() {
            let mut tables: Vec<Table> = answers.iter().map(|answer| answer[query].clone()).collect();
            // Any two are merged, into one that is merged in turn, until one is left.
            for (one, other) in &pairs {
                if tables.len() == 1 {
                    break;
                }
                let one = tables.swap_remove(one.index(tables.len()));
                let at = other.index(tables.len());
                tables[at].merge(&one).unwrap();
            }
            prop_assert_eq!(tables.len(), 1);
            prop_assert_eq!(&tables[0], whole);
            prop_assert_eq!(tables[0].digest(), whole.digest());
        }
    }
}
