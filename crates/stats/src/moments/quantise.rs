//! From activations to integers, in loops that vectorise.
//!
//! Rounding is to the nearest integer, ties to even, by adding and taking away a constant so large that
//! the sum's last bit counts ones. The hardware's default rounding does the work, on any machine the
//! same, and no call to a library function stands in the way of vector instructions. Scaling by a power
//! of two is exact.

use crate::Scale;

/// 1.5·2²³: a single-precision sum with it has a last bit worth 1, for magnitudes up to 2²².
const MAGIC_32: f32 = 12_582_912.0;
/// 1.5·2⁵²: the same in double precision, for magnitudes up to 2⁵¹.
const MAGIC_64: f64 = 6_755_399_441_055_744.0;

/// The integer nearest to `value`, magnitude at most 2⁵¹.
pub(crate) fn round_64(value: f64) -> i64 {
    (value + MAGIC_64).to_bits() as i64 - MAGIC_64.to_bits() as i64
}

/// The integer nearest to `value`, magnitude at most 2²².
fn round_32(value: f32) -> i32 {
    (value + MAGIC_32).to_bits() as i32 - MAGIC_32.to_bits() as i32
}

/// Adds `round(z · 2^sum_bits)` of each value of an admitted sample, each under 2²³.
pub(super) fn add_to_sums(sums: &mut [i64], row: &[f32], scale: Scale) {
    let factor = scale.sum_factor();
    for (sum, z) in sums.iter_mut().zip(row) {
        *sum += round_64(f64::from(*z) * factor);
    }
}

/// `round(z · 2^product_bits)` of each value of an admitted sample, each under 2¹⁵.
///
/// Single precision suffices: scaling is exact, but for results so small that they round to 0 anyway.
pub(super) fn to_factors(row: &[f32], scale: Scale, factors: &mut Vec<i16>) {
    // Exact: at most 2^±108.
    let factor = scale.product_factor() as f32;
    factors.extend(row.iter().map(|z| round_32(z * factor) as i16));
}

/// Adds to `rests` what rounding to factors left out of each term of a sum: `round(z · 2^sum_bits)` less the
/// factor, both in units of `2^-sum_bits`.
pub(super) fn add_to_rests(rests: &mut [i64], row: &[f32], factors: &[i16], scale: Scale) {
    let factor = scale.sum_factor();
    for ((rest, z), q) in rests.iter_mut().zip(row).zip(factors) {
        *rest += round_64(f64::from(*z) * factor) - (i64::from(*q) << Scale::PRODUCT_SHORTER);
    }
}

/// `Σ q²`. `None` when it leaves the range of `i64`, for which it takes more than 2³³ factors.
pub(super) fn squared_norm(factors: &[i16]) -> Option<i64> {
    // A square is at most 2³⁰, so 2³⁰ of them fit.
    factors.chunks(1 << 30).try_fold(0_i64, |norm, factors| {
        let squares = factors.iter().map(|q| i64::from(i32::from(*q) * i32::from(*q)));
        norm.checked_add(squares.sum())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn factors(row: &[f32], scale: Scale) -> Vec<i16> {
        let mut factors = Vec::new();
        to_factors(row, scale, &mut factors);
        factors
    }

    #[test]
    fn ties_go_to_even() {
        let scale = Scale::new(0);
        let mut sums = [0; 6];
        add_to_sums(&mut sums, &[0.5, 1.5, 2.5, -0.5, -1.5, -2.5], scale);
        assert_eq!(sums, [0, 2, 2, 0, -2, -2]);
        let scale = Scale::new(8);
        assert_eq!(factors(&[0.5, 1.5, 2.5, -0.5, -1.5, -2.5], scale), [0, 2, 2, 0, -2, -2]);
    }

    #[test]
    fn the_largest_values_keep_their_place() {
        for sum_bits in [-100, 0, 21, 100] {
            let scale = Scale::new(sum_bits);
            // The largest single-precision number under the limit.
            let largest = (scale.limit() as f32).next_down();
            let mut sums = [0];
            add_to_sums(&mut sums, &[-largest], scale);
            assert!((-8_388_608..-8_388_000).contains(&sums[0]));
            assert_eq!(factors(&[largest, -largest], scale), [32_767, -32_767]);
        }
    }

    #[test]
    fn what_is_too_small_is_zero() {
        let scale = Scale::new(-100);
        assert_eq!(factors(&[f32::MIN_POSITIVE, 1e-45, -1e-40], scale), [0, 0, 0]);
    }

    #[test]
    fn squares_of_the_extremes_add_up() {
        assert_eq!(squared_norm(&[i16::MIN; 5]), Some(5 << 30));
        assert_eq!(squared_norm(&[]), Some(0));
    }

    proptest! {
        #[test]
        fn agrees_with_the_plain_definition(
            row in prop::collection::vec(-3.99_f32..3.99, 0..70),
            exponent in -60_i32..60,
        ) {
            let row: Vec<f32> = row.iter().map(|z| z * 2_f32.powi(exponent)).collect();
            let scale = Scale::for_exponent(exponent as i8);
            let plain = |factor: f64| {
                row.iter().map(move |z| (f64::from(*z) * factor).round_ties_even() as i64)
            };
            let mut sums = vec![7; row.len()];
            add_to_sums(&mut sums, &row, scale);
            prop_assert!(plain(scale.sum_factor()).map(|q| q + 7).eq(sums));
            let factors = factors(&row, scale);
            prop_assert!(plain(scale.product_factor()).eq(factors.iter().map(|q| i64::from(*q))));
            let norm: i64 = plain(scale.product_factor()).map(|q| q * q).sum();
            prop_assert_eq!(squared_norm(&factors), Some(norm));
        }
    }
}
