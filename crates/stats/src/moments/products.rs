//! Second moments by a floating-point matrix product that does not round.
//!
//! A factor is an integer under 2¹⁵, a product under 2³⁰, and double precision holds every integer up to
//! 2⁵³. So any sum of at most 2²³ products is exact in whatever order it is taken, and fused or not; a
//! chunk of [`CHUNK`] rows is far below. The order, the kernel and the machine can therefore not be
//! seen in the result.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, MatMut, MatRef, Par};

use super::quantise::round_64;

/// Rows that wait before they are multiplied. Long enough for the matrix product to run at full speed,
/// short enough to hold a chunk for each exit.
pub(super) const CHUNK: usize = 128;
/// Rows of the triangle that are computed at once, so that scratch grows with `D` and not with `D²`.
const STRIP: usize = 256;

/// Scratch of the product, shared by all exits: `(CHUNK + STRIP) · D` doubles, 4 MiB at `D` = 1024.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    rows: Vec<f64>,
    strip: Vec<f64>,
}

impl Scratch {
    /// Adds `Σ q qᵀ` over the rows of `factors` (row-major, `dim` wide, at most [`CHUNK`] rows) to the
    /// lower triangle `products` (row-major).
    ///
    /// The caller sees to it that `products` cannot overflow: 2³² rows or fewer in all.
    pub(super) fn add_products(&mut self, factors: &[i16], dim: usize, products: &mut [i64]) {
        if factors.is_empty() || dim == 0 {
            return;
        }
        let rows = factors.len() / dim;
        debug_assert!(rows <= CHUNK && factors.len() == rows * dim);
        self.rows.clear();
        self.rows.extend(factors.iter().map(|q| f64::from(*q)));
        let all = MatRef::from_row_major_slice(&self.rows, rows, dim);

        let mut products = products;
        for start in (0..dim).step_by(STRIP) {
            let height = STRIP.min(dim - start);
            let width = start + height;
            self.strip.resize(STRIP * dim, 0.0);
            let strip = &mut self.strip[..height * width];
            let left = all.subcols(start, height);
            let (before, diagonal) =
                MatMut::from_row_major_slice_mut(strip, height, width).split_at_col_mut(start);
            matmul(before, Accum::Replace, left.transpose(), all.subcols(0, start), 1.0, Par::Seq);
            triangular::matmul(
                diagonal,
                BlockStructure::TriangularLower,
                Accum::Replace,
                left.transpose(),
                BlockStructure::Rectangular,
                left,
                BlockStructure::Rectangular,
                1.0,
                Par::Seq,
            );
            for (row, sums) in strip.chunks_exact(width).enumerate() {
                let (cells, rest) = products.split_at_mut(start + row + 1);
                for (cell, sum) in cells.iter_mut().zip(sums) {
                    // At most 2³⁰ · CHUNK.
                    *cell += round_64(*sum);
                }
                products = rest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(factors: &[i16], dim: usize) -> Vec<i64> {
        let mut products = Vec::new();
        for i in 0..dim {
            for j in 0..=i {
                let sum: i128 =
                    factors.chunks_exact(dim).map(|row| i128::from(row[i]) * i128::from(row[j])).sum();
                products.push(i64::try_from(sum).unwrap());
            }
        }
        products
    }

    fn exact(factors: &[i16], dim: usize) -> Vec<i64> {
        let mut products = vec![0; dim * (dim + 1) / 2];
        Scratch::default().add_products(factors, dim, &mut products);
        products
    }

    fn matrix(dims: std::ops::Range<usize>, rows: usize) -> impl Strategy<Value = (Vec<i16>, usize)> {
        (dims, 0..=rows).prop_flat_map(|(dim, rows)| {
            let factor = prop_oneof![
                6 => any::<i16>(),
                1 => Just(i16::MAX),
                1 => Just(i16::MIN),
                2 => Just(0),
            ];
            (prop::collection::vec(factor, rows * dim), Just(dim))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn is_the_naive_sum(m in matrix(1..70, CHUNK)) {
            prop_assert_eq!(exact(&m.0, m.1), naive(&m.0, m.1));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4))]

        #[test]
        fn is_the_naive_sum_over_several_strips(m in matrix(STRIP - 2..2 * STRIP + 40, 20)) {
            prop_assert_eq!(exact(&m.0, m.1), naive(&m.0, m.1));
        }
    }

    #[test]
    fn a_full_chunk_of_extremes_is_exact() {
        let dim = STRIP + 3;
        let factors: Vec<i16> =
            (0..CHUNK * dim).map(|i| if i % 3 == 0 { i16::MIN } else { i16::MAX }).collect();
        assert_eq!(exact(&factors, dim), naive(&factors, dim));
    }

    #[test]
    fn scratch_left_from_another_exit_does_not_show() {
        let mut scratch = Scratch::default();
        scratch.add_products(&[9; 300 * 7], 300, &mut vec![0; 300 * 301 / 2]);
        let mut products = vec![1; 6];
        scratch.add_products(&[1, 2, 3, 4, 5, 6], 3, &mut products);
        assert_eq!(products, [1 + 17, 1 + 22, 1 + 29, 1 + 27, 1 + 36, 1 + 45]);
    }
}
