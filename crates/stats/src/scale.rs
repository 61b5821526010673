//! How an activation becomes an integer.

use serde::{Deserialize, Deserializer, Serialize};

/// The integer grid of one exit, fixed for a run (METHOD, "Sums that are exact").
///
/// An activation `z` enters class sums as `round(z · 2^sum_bits)`, magnitude under 2²³, and products as
/// `round(z · 2^product_bits)`, magnitude under 2¹⁵, ties to even both times. Products use 8 bits fewer,
/// so that a double-precision GEMM adds 2²³ of them without rounding.
///
/// Deserialising checks that the two belong together and lie where `2^±bits` is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Scale {
    /// `s`: a sum is in units of `2^-s`.
    pub(crate) sum_bits: i8,
    /// Always `sum_bits − 8`: a product of two activations is in units of `2^(-2·product_bits)`.
    pub(crate) product_bits: i8,
}

impl Scale {
    /// Bits that a product's factor has fewer than a sum's term.
    pub const PRODUCT_SHORTER: i8 = 8;
    /// The coarsest and the finest `sum_bits`.
    pub const SUM_BITS: std::ops::RangeInclusive<i8> = -100..=100;

    /// The scale with the given `sum_bits`, moved into [`Scale::SUM_BITS`].
    pub fn new(sum_bits: i8) -> Self {
        let sum_bits = sum_bits.clamp(*Self::SUM_BITS.start(), *Self::SUM_BITS.end());
        Self { sum_bits, product_bits: sum_bits - Self::PRODUCT_SHORTER }
    }

    /// The scale that leaves one bit of headroom above values of magnitude in `[2^exponent,
    /// 2^(exponent+1))`: everything under `2^(exponent+2)` fits.
    pub fn for_exponent(exponent: i8) -> Self {
        Self::new(21_i8.saturating_sub(exponent))
    }

    /// `s`: a sum is in units of `2^-s`.
    pub fn sum_bits(self) -> i8 {
        self.sum_bits
    }

    /// `s − 8`: a product of two activations is in units of `2^(-2·product_bits)`.
    pub fn product_bits(self) -> i8 {
        self.product_bits
    }

    /// The same scale with room for values `2^by` times larger, and that much coarser.
    pub fn wider(self, by: u8) -> Self {
        let by = i8::try_from(by).unwrap_or(i8::MAX);
        Self::new(self.sum_bits.saturating_sub(by))
    }

    /// `2^sum_bits`: multiplies an activation to make it a sum's term.
    pub fn sum_factor(self) -> f64 {
        power_of_two(self.sum_bits)
    }

    /// `2^-sum_bits`: multiplies a sum to give it the activation's unit again.
    pub fn sum_unit(self) -> f64 {
        power_of_two(-self.sum_bits)
    }

    /// `2^product_bits`: multiplies an activation to make it a product's factor.
    pub fn product_factor(self) -> f64 {
        power_of_two(self.product_bits)
    }

    /// `2^(-2·product_bits)`: multiplies a sum of products, or of squares, to give it the activation's
    /// unit squared.
    pub fn product_unit(self) -> f64 {
        let unit = power_of_two(-self.product_bits);
        unit * unit
    }

    /// The magnitude that an activation must stay under. Slightly below `2^(23-sum_bits)`, so that a
    /// product's factor is under 2¹⁵ after rounding too.
    pub fn limit(self) -> f64 {
        (8_388_608.0 - 128.0) * self.sum_unit()
    }
}

impl Default for Scale {
    /// For values around 1: everything under 4 fits.
    fn default() -> Self {
        Self::for_exponent(0)
    }
}

impl<'de> Deserialize<'de> for Scale {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename = "Scale", deny_unknown_fields)]
        struct Raw {
            sum_bits: i8,
            product_bits: i8,
        }
        let raw = Raw::deserialize(deserializer)?;
        let scale = Self::new(raw.sum_bits);
        if scale.sum_bits != raw.sum_bits || scale.product_bits != raw.product_bits {
            return Err(serde::de::Error::custom(format_args!(
                "no scale has sum_bits {} and product_bits {}",
                raw.sum_bits, raw.product_bits
            )));
        }
        Ok(scale)
    }
}

/// Exact for every `i8`: the exponent stays inside the normal numbers.
fn power_of_two(exponent: i8) -> f64 {
    f64::from_bits(((1023 + i64::from(exponent)) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_exact() {
        for exponent in i8::MIN..=i8::MAX {
            assert_eq!(power_of_two(exponent), 2_f64.powi(i32::from(exponent)));
        }
    }

    #[test]
    fn leaves_one_bit_of_headroom() {
        let scale = Scale::for_exponent(3);
        assert_eq!((scale.sum_bits(), scale.product_bits()), (18, 10));
        assert!(31.99 < scale.limit() && scale.limit() < 32.0);
        // The largest value that fits stays inside both integer ranges.
        let largest = scale.limit().next_down();
        assert!((largest * scale.sum_factor()).round() < 8_388_608.0);
        assert_eq!((largest * scale.product_factor()).round(), 32_767.0);
    }

    #[test]
    fn wider_doubles_the_room() {
        let scale = Scale::default();
        assert_eq!(scale.wider(3).limit(), 8.0 * scale.limit());
        assert_eq!(scale.wider(255).sum_bits(), *Scale::SUM_BITS.start());
    }

    #[test]
    fn is_deserialised_through_its_check() {
        let scale = Scale::for_exponent(-5);
        let json = serde_json::to_string(&scale).unwrap();
        assert_eq!(serde_json::from_str::<Scale>(&json).unwrap(), scale);
        let wire = postcard::to_stdvec(&scale).unwrap();
        assert_eq!(postcard::from_bytes::<Scale>(&wire).unwrap(), scale);
        assert!(serde_json::from_str::<Scale>(r#"{"sum_bits":4,"product_bits":4}"#).is_err());
        assert!(serde_json::from_str::<Scale>(r#"{"sum_bits":120,"product_bits":112}"#).is_err());
    }
}
