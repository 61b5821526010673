//! What all accumulators ask of a batch of activations, and which samples they leave out.

use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};

use crate::{Scale, TableError};

/// Why a batch cannot be added. Nothing of the batch was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// Not one matrix per exit.
    #[error("batch has activations of {found} exits, expected {expected}")]
    Exits {
        /// Matrices in the batch.
        found: usize,
        /// Exits of the shape.
        expected: usize,
    },
    /// An exit's activations have another length than its shape says.
    #[error("activations of exit {exit} have {found} numbers, expected {expected}")]
    Dim {
        /// The exit.
        exit: usize,
        /// Columns of its matrix.
        found: usize,
        /// `D` of its shape.
        expected: usize,
    },
    /// The exits, or the labels, disagree on how many samples there are.
    #[error("batch has {found} samples at exit {exit}, expected {expected}")]
    Samples {
        /// The exit.
        exit: usize,
        /// Rows of its matrix.
        found: usize,
        /// Number of labels, or rows at the first exit where there are none.
        expected: usize,
    },
    /// A label that is no class.
    #[error("sample {sample} has label {found}, expected one of {classes} classes")]
    Label {
        /// Its row.
        sample: usize,
        /// Its label.
        found: u32,
        /// Number of classes.
        classes: usize,
    },
    /// So many samples, or so large, that a sum would leave the range of `i64`.
    #[error("sums overflow")]
    Overflow,
}

/// Why an accumulator cannot be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A list that has one entry per exit, class, or exit and rule has another length.
    #[error("{found} {what}, expected {expected}")]
    Length {
        /// What the list holds.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length that the shape asks for.
        expected: usize,
    },
    /// A class mean that is not finite, or that lies beyond the scale of its exit, as no mean can.
    #[error("mean of class {class} at exit {exit} is not finite or beyond the scale")]
    Mean {
        /// The exit.
        exit: usize,
        /// The class.
        class: usize,
    },
}

impl SetupError {
    pub(crate) fn length(what: &'static str, found: usize, expected: usize) -> Result<(), Self> {
        if found == expected { Ok(()) } else { Err(Self::Length { what, found, expected }) }
    }
}

/// Why one accumulator cannot take in another. Neither was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AbsorbError {
    /// They were set up differently.
    #[error("accumulators were set up differently")]
    Setup,
    /// A sum would leave the range of `i64`.
    #[error("sums overflow")]
    Overflow,
}

impl From<TableError> for AbsorbError {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Cells { .. } => Self::Setup,
            TableError::Overflow { .. } => Self::Overflow,
        }
    }
}

/// Samples that were left out of every sum (METHOD, "Sums that are exact").
///
/// A sample is left out at *every* exit when at *any* exit it has a value that is not finite, or one at
/// or beyond [`Scale::limit`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Excluded {
    /// Samples with a value that is not finite.
    pub non_finite: u64,
    /// Other samples with a value beyond the scale; a [wider](Scale::wider) one would take them in.
    pub out_of_scale: u64,
    /// All samples seen, these included.
    pub samples: u64,
}

impl Excluded {
    /// How many samples were left out.
    pub fn total(&self) -> u64 {
        self.non_finite.saturating_add(self.out_of_scale)
    }

    /// Whether more than one in a thousand were left out, so that the answer is refused.
    pub fn too_many(&self) -> bool {
        Self::exceeds(self.total(), self.samples)
    }

    /// Whether `left_out` of `samples` are more than one in a thousand.
    pub fn exceeds(left_out: u64, samples: u64) -> bool {
        u128::from(left_out) * 1000 > u128::from(samples)
    }

    /// Counts one more sample; whether it stays in.
    pub(crate) fn admit(&mut self, admission: Admission) -> bool {
        self.samples += 1;
        match admission {
            Admission::Fits => return true,
            Admission::NonFinite => self.non_finite += 1,
            Admission::OutOfScale => self.out_of_scale += 1,
        }
        false
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.non_finite += other.non_finite;
        self.out_of_scale += other.out_of_scale;
        self.samples += other.samples;
    }
}

/// Whether a sample can be counted exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Admission {
    Fits,
    OutOfScale,
    /// Weighs more: whatever the scale, this sample cannot be counted.
    NonFinite,
}

impl Admission {
    /// Of one sample, given its values at every exit.
    pub(crate) fn of<'a>(rows: impl Iterator<Item = (&'a [f32], &'a Scale)>) -> Self {
        rows.map(|(row, scale)| {
            let largest = largest_magnitude(row);
            if !largest.is_finite() {
                Self::NonFinite
            } else if f64::from(largest) < scale.limit() {
                Self::Fits
            } else {
                Self::OutOfScale
            }
        })
        .max()
        .unwrap_or(Self::Fits)
    }
}

/// The largest magnitude, 0 of nothing, and not finite when any value is not.
///
/// The bits of non-negative floats are ordered like the floats, infinities and NaNs above all, so an
/// integer maximum finds it: without a branch, and vectorised, which a maximum of floats is not.
pub(crate) fn largest_magnitude(values: &[f32]) -> f32 {
    let magnitude = |value: &f32| (value.to_bits() & 0x7fff_ffff) as i32;
    f32::from_bits(values.iter().map(magnitude).fold(0, i32::max) as u32)
}

/// Checks that there is one matrix per exit, all with `samples` rows (with as many as the first, if not
/// given) and the right number of columns (where known); the number of samples.
pub(crate) fn check(
    z: &[ArrayView2<'_, f32>],
    exits: usize,
    dims: impl IntoIterator<Item = usize>,
    samples: Option<usize>,
) -> Result<usize, BatchError> {
    if z.len() != exits {
        return Err(BatchError::Exits { found: z.len(), expected: exits });
    }
    let expected = samples.or(z.first().map(|z| z.nrows())).unwrap_or(0);
    for (exit, z) in z.iter().enumerate() {
        if z.nrows() != expected {
            return Err(BatchError::Samples { exit, found: z.nrows(), expected });
        }
    }
    for (exit, (z, expected)) in z.iter().zip(dims).enumerate() {
        if z.ncols() != expected {
            return Err(BatchError::Dim { exit, found: z.ncols(), expected });
        }
    }
    Ok(expected)
}

/// The activations of one exit as consecutive rows, copied only where they do not lie so already.
pub(crate) struct Rows<'a> {
    values: ndarray::CowArray<'a, f32, ndarray::Ix2>,
}

impl<'a> Rows<'a> {
    pub(crate) fn of(z: &'a [ArrayView2<'_, f32>]) -> Vec<Self> {
        z.iter().map(|z| Self { values: z.as_standard_layout() }).collect()
    }

    pub(crate) fn row(&self, sample: usize) -> &[f32] {
        let dim = self.values.ncols();
        // In standard layout there always is a slice.
        self.values.as_slice().map_or(&[], |values| &values[sample * dim..][..dim])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_magnitude_is_that_of_any_sign() {
        assert_eq!(largest_magnitude(&[]), 0.0);
        assert_eq!(largest_magnitude(&[-0.0]), 0.0);
        assert_eq!(largest_magnitude(&[1.0, -3.0, 2.0]), 3.0);
        assert_eq!(largest_magnitude(&[1.0, f32::NEG_INFINITY]), f32::INFINITY);
        assert!(largest_magnitude(&[f32::INFINITY, -f32::NAN, 1.0]).is_nan());
    }

    #[test]
    fn one_bad_exit_leaves_the_sample_out() {
        let scale = Scale::default();
        let of = |rows: &[&[f32]]| Admission::of(rows.iter().map(|row| (*row, &scale)));
        assert_eq!(of(&[&[1.0], &[-3.9, 0.0]]), Admission::Fits);
        assert_eq!(of(&[&[1.0], &[-4.0]]), Admission::OutOfScale);
        assert_eq!(of(&[&[f32::NAN], &[-4.0]]), Admission::NonFinite);
        assert_eq!(of(&[&[5.0], &[1.0, f32::INFINITY]]), Admission::NonFinite);
        assert_eq!(of(&[]), Admission::Fits);
    }

    #[test]
    fn one_in_a_thousand_is_not_too_many() {
        let excluded = |non_finite, out_of_scale, samples| Excluded { non_finite, out_of_scale, samples };
        assert!(!excluded(0, 0, 0).too_many());
        assert!(!excluded(1, 1, 2000).too_many());
        assert!(excluded(1, 1, 1999).too_many());
    }

    #[test]
    fn rows_are_rows_whatever_the_memory_order() {
        let z = ndarray::array![[1.0_f32, 2.0], [3.0, 4.0], [5.0, 6.0]];
        let turned = z.t();
        let (z, turned) = ([z.view()], [turned]);
        assert_eq!(Rows::of(&z)[0].row(1), [3.0, 4.0]);
        assert_eq!(Rows::of(&turned)[0].row(1), [2.0, 4.0, 6.0]);
    }
}
