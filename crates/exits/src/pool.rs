//! Bringing the activation at a tap to an exit's fixed dimension.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The pooling of an exit: adaptive average to `p × p` per channel, or the map as it is.
///
/// The pooled activation is flat and channel-major: channel, then row, then column. Written `4` or `"full"` in
/// run files and JSON.
///
/// A tap without spatial axes (`[C]`) is passed through by every pooling; a tap of any other rank than `[C]` and
/// `[C, H, W]` can only be taken in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pool {
    /// Adaptive average pooling to `p × p` cells per channel; `p` is at least 1. Cell `i` of `p` over an axis of
    /// `h` covers `⌊i·h/p⌋ .. ⌈(i+1)·h/p⌉`, so neighbouring cells share a row where `p` does not divide `h`.
    Grid(u16),
    /// Every element of the map.
    Full,
}

/// Why an activation cannot be pooled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The grid has no cell.
    #[error("pool 0 has no cell, expected 1 or more, or \"full\"")]
    NoCell,
    /// The grid is finer than the map.
    #[error("pool {pool} is finer than the tap's map of {height} x {width}")]
    TooFine {
        /// Cells per axis asked for.
        pool: u16,
        /// Rows of the map.
        height: usize,
        /// Columns of the map.
        width: usize,
    },
    /// Only `[C]` and `[C, H, W]` have a grid.
    #[error("pool {pool} needs a tap of shape [C] or [C, H, W], found {found:?}; \"full\" takes any shape")]
    NoGrid {
        /// Cells per axis asked for.
        pool: u16,
        /// The tap's shape, without the batch axis.
        found: Vec<usize>,
    },
    /// The tap has an axis of length 0, no axis, or more elements than can be addressed.
    #[error("a tap of shape {found:?} has no usable number of elements")]
    Size {
        /// The tap's shape, without the batch axis.
        found: Vec<usize>,
    },
    /// The slice handed in is not as long as its shape says.
    #[error("the {what} has {found} elements, expected {expected}")]
    Length {
        /// Which slice: `map` or `output`.
        what: &'static str,
        /// Elements it has.
        found: usize,
        /// Elements the shape asks for.
        expected: usize,
    },
}

impl Pool {
    /// The dimension `D` of the pooled activation of a tap of `shape` (without the batch axis).
    ///
    /// # Errors
    /// When this pooling does not fit the shape.
    pub fn dim(&self, shape: &[usize]) -> Result<usize, PoolError> {
        let size = || PoolError::Size { found: shape.to_vec() };
        let elements = elements(shape).ok_or_else(size)?;
        match (*self, shape) {
            (Pool::Grid(0), _) => Err(PoolError::NoCell),
            (Pool::Full, _) | (Pool::Grid(_), [_]) => Ok(elements),
            (Pool::Grid(pool), &[channels, height, width]) => {
                let p = usize::from(pool);
                if p > height || p > width {
                    return Err(PoolError::TooFine { pool, height, width });
                }
                // At most one cell per element, so it fits where `elements` did.
                Ok(channels * p * p)
            }
            (Pool::Grid(pool), _) => Err(PoolError::NoGrid { pool, found: shape.to_vec() }),
        }
    }

    /// Pools one sample's `map` of `shape` (`[C, H, W]` or `[C]`, without the batch axis) into `out`, which has
    /// [`Pool::dim`] elements.
    ///
    /// The order of additions is fixed by the shape alone, so equal maps pool to equal bits. A cell with a
    /// non-finite element, or whose sum leaves single precision, is non-finite.
    ///
    /// # Errors
    /// When this pooling does not fit the shape, or a slice does not fit it.
    pub fn apply(&self, shape: &[usize], map: &[f32], out: &mut [f32]) -> Result<(), PoolError> {
        self.apply_with(&mut PoolScratch::default(), shape, map, out)
    }

    /// [`apply`](Self::apply) with buffers from the last time, so that nothing is allocated.
    ///
    /// # Errors
    /// As there.
    pub fn apply_with(
        &self,
        scratch: &mut PoolScratch,
        shape: &[usize],
        map: &[f32],
        out: &mut [f32],
    ) -> Result<(), PoolError> {
        let dim = self.dim(shape)?;
        let expected = elements(shape).ok_or_else(|| PoolError::Size { found: shape.to_vec() })?;
        length("map", map.len(), expected)?;
        length("output", out.len(), dim)?;
        match (*self, shape) {
            (Pool::Grid(1), &[_, height, width]) => mean_of_maps(height * width, map, out),
            (Pool::Grid(p), &[_, height, width]) => {
                mean_of_cells(scratch, usize::from(p), height, width, map, out);
            }
            _ => out.copy_from_slice(map),
        }
        Ok(())
    }
}

/// Buffers that [`Pool::apply_with`] uses again.
#[derive(Clone, Debug, Default)]
pub struct PoolScratch {
    /// Rows and columns of each cell.
    down: Vec<Range<usize>>,
    across: Vec<Range<usize>>,
    /// Sums of one band of rows.
    columns: Vec<f32>,
}

/// Elements of a shape, or nothing if there are none or too many to address.
fn elements(shape: &[usize]) -> Option<usize> {
    if shape.is_empty() {
        return None;
    }
    shape.iter().try_fold(1_usize, |n, &axis| n.checked_mul(axis)).filter(|&n| n > 0)
}

fn length(what: &'static str, found: usize, expected: usize) -> Result<(), PoolError> {
    if found == expected { Ok(()) } else { Err(PoolError::Length { what, found, expected }) }
}

/// Cell `i` of `p` over an axis of `n`.
fn cell(i: usize, p: usize, n: usize) -> Range<usize> {
    i * n / p..((i + 1) * n).div_ceil(p)
}

/// One cell per channel: each channel is contiguous, and is summed as such.
fn mean_of_maps(plane: usize, map: &[f32], out: &mut [f32]) {
    for (channel, out) in map.chunks_exact(plane).zip(out) {
        *out = mean(sum(channel), plane);
    }
}

/// Rows of a band are added into columns first, which is contiguous work; then each cell sums its columns.
fn mean_of_cells(
    scratch: &mut PoolScratch,
    p: usize,
    height: usize,
    width: usize,
    map: &[f32],
    out: &mut [f32],
) {
    let PoolScratch { down, across, columns } = scratch;
    // Divisions are done once per axis: with small maps they would cost more than the additions.
    for (cells, n) in [(&mut *down, height), (&mut *across, width)] {
        cells.clear();
        cells.extend((0..p).map(|i| cell(i, p, n)));
    }
    columns.clear();
    columns.resize(width, 0.0);
    let channels = map.chunks_exact(height * width);
    for (channel, out) in channels.zip(out.chunks_exact_mut(p * p)) {
        for (rows, out) in down.iter().zip(out.chunks_exact_mut(p)) {
            let band = &channel[rows.start * width..rows.end * width];
            let (first, others) = band.split_at(width);
            columns.copy_from_slice(first);
            for row in others.chunks_exact(width) {
                for (column, &value) in columns.iter_mut().zip(row) {
                    *column += value;
                }
            }
            for (across, out) in across.iter().zip(out) {
                let total = columns[across.clone()].iter().map(|&v| f64::from(v)).sum();
                *out = mean(total, rows.len() * across.len());
            }
        }
    }
}

/// A cell has far fewer than 2^53 elements.
fn mean(total: f64, area: usize) -> f32 {
    (total / area as f64) as f32
}

/// A sum in eight lanes, so that it is wide on every machine and the same on every machine.
fn sum(values: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; 8];
    let (chunks, rest) = values.as_chunks::<8>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(value);
    }
    lanes.iter().sum()
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pool::Grid(p) => p.fmt(f),
            Pool::Full => f.pad("full"),
        }
    }
}

/// Text that names no pooling.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown pool {found:?}, expected a number from 1 to 65535 or \"full\"")]
pub struct ParsePoolError {
    /// What was given.
    pub found: String,
}

impl FromStr for Pool {
    type Err = ParsePoolError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let grid = || s.parse().ok().filter(|&p| p > 0).map(Pool::Grid);
        if s == "full" { Some(Pool::Full) } else { grid() }
            .ok_or_else(|| ParsePoolError { found: s.to_owned() })
    }
}

impl Serialize for Pool {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Pool::Grid(p) => serializer.serialize_u16(*p),
            Pool::Full => serializer.serialize_str("full"),
        }
    }
}

impl<'de> Deserialize<'de> for Pool {
    /// From a number or `"full"`: self-describing formats (TOML, JSON) only.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PoolVisitor)
    }
}

struct PoolVisitor;

impl PoolVisitor {
    fn grid<E: de::Error, N: TryInto<u16> + Copy + fmt::Display>(&self, n: N) -> Result<Pool, E> {
        match n.try_into() {
            Ok(p) if p > 0 => Ok(Pool::Grid(p)),
            _ => Err(E::invalid_value(de::Unexpected::Other(&format!("number {n}")), self)),
        }
    }
}

impl Visitor<'_> for PoolVisitor {
    type Value = Pool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number from 1 to 65535 or \"full\"")
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Pool, E> {
        self.grid(v)
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Pool, E> {
        self.grid(v)
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Pool, E> {
        v.parse().map_err(|_error: ParsePoolError| E::invalid_value(de::Unexpected::Str(v), &self))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IntoDeserializer as _;
    use serde::de::value::{Error, I64Deserializer};

    use super::*;

    fn pooled(pool: Pool, shape: &[usize], map: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; pool.dim(shape).unwrap()];
        pool.apply(shape, map, &mut out).unwrap();
        out
    }

    /// The definition, cell by cell and element by element.
    fn definition(p: usize, [channels, height, width]: [usize; 3], map: &[f32]) -> Vec<f64> {
        let mut out = Vec::new();
        for c in 0..channels {
            for i in 0..p {
                for j in 0..p {
                    let (mut sum, mut count) = (0.0, 0.0);
                    for y in i * height / p..((i + 1) * height).div_ceil(p) {
                        for x in j * width / p..((j + 1) * width).div_ceil(p) {
                            sum += f64::from(map[(c * height + y) * width + x]);
                            count += 1.0;
                        }
                    }
                    out.push(sum / count);
                }
            }
        }
        out
    }

    proptest! {
        #[test]
        fn cells_are_means(
            shape in [1..4_usize, 1..12_usize, 1..12_usize],
            p in 1..12_u16,
            seed in prop::collection::vec(-8.0..8.0_f32, 3 * 11 * 11),
        ) {
            let [channels, height, width] = shape;
            let p = p.min(u16::try_from(height.min(width)).unwrap());
            let map = &seed[..channels * height * width];
            let found = pooled(Pool::Grid(p), &shape, map);
            let expected = definition(usize::from(p), shape, map);
            prop_assert_eq!(found.len(), expected.len());
            for (found, expected) in found.into_iter().zip(expected) {
                prop_assert!((f64::from(found) - expected).abs() < 1e-5, "{} {}", found, expected);
            }
        }
    }

    #[test]
    fn cells_overlap_where_the_grid_does_not_divide_the_map() {
        // Rows 0..2 and 1..3 of three.
        let map: Vec<f32> = (0..9_u8).map(f32::from).collect();
        assert_eq!(pooled(Pool::Grid(2), &[1, 3, 3], &map), [2.0, 3.0, 5.0, 6.0]);
        assert_eq!(pooled(Pool::Grid(1), &[1, 3, 3], &map), [4.0]);
        assert_eq!(pooled(Pool::Grid(3), &[1, 3, 3], &map), map);
    }

    #[test]
    fn what_has_no_grid_is_passed_through() {
        assert_eq!(pooled(Pool::Grid(4), &[3], &[1.0, 2.0, 3.0]), [1.0, 2.0, 3.0]);
        assert_eq!(pooled(Pool::Full, &[2, 1], &[1.0, 2.0]), [1.0, 2.0]);
        assert_eq!(pooled(Pool::Full, &[1, 2, 2], &[1.0, 2.0, 3.0, 4.0]), [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn a_non_finite_element_shows_in_its_cell_alone() {
        let mut map = [1.0; 16];
        map[5] = f32::NAN;
        let out = pooled(Pool::Grid(2), &[1, 4, 4], &map);
        assert!(out[0].is_nan());
        assert_eq!(out[1..], [1.0; 3]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = |pool: Pool, shape: &[usize]| pool.dim(shape).unwrap_err();
        assert_eq!(error(Pool::Grid(4), &[8, 7, 3]), PoolError::TooFine { pool: 4, height: 7, width: 3 });
        assert_eq!(
            error(Pool::Grid(4), &[8, 7, 3]).to_string(),
            "pool 4 is finer than the tap's map of 7 x 3"
        );
        assert_eq!(error(Pool::Grid(2), &[5, 4]), PoolError::NoGrid { pool: 2, found: vec![5, 4] });
        assert_eq!(error(Pool::Grid(0), &[5]), PoolError::NoCell);
        for shape in [&[][..], &[3, 0, 2], &[usize::MAX, 2]] {
            assert_eq!(error(Pool::Full, shape), PoolError::Size { found: shape.to_vec() });
        }
        let apply = |map: &[f32], out: &mut [f32]| Pool::Grid(1).apply(&[2, 1, 2], map, out);
        assert_eq!(
            apply(&[0.0; 3], &mut [0.0; 2]),
            Err(PoolError::Length { what: "map", found: 3, expected: 4 })
        );
        assert_eq!(
            apply(&[0.0; 4], &mut [0.0; 4]),
            Err(PoolError::Length { what: "output", found: 4, expected: 2 })
        );
    }

    #[test]
    fn is_a_number_or_full_in_text() {
        for (pool, json, text) in [(Pool::Grid(4), "4", "4"), (Pool::Full, "\"full\"", "full")] {
            assert_eq!(serde_json::to_string(&pool).unwrap(), json);
            assert_eq!(serde_json::from_str::<Pool>(json).unwrap(), pool);
            assert_eq!(pool.to_string(), text);
            assert_eq!(text.parse(), Ok(pool));
        }
        // TOML's integers are signed.
        let signed: I64Deserializer<Error> = 4_i64.into_deserializer();
        assert_eq!(Pool::deserialize(signed), Ok(Pool::Grid(4)));
        for json in ["0", "-1", "65536", "2.5", "\"Full\"", "\"0\"", "null"] {
            let error = serde_json::from_str::<Pool>(json).unwrap_err().to_string();
            assert!(error.contains("expected a number from 1 to 65535 or \"full\""), "{json}: {error}");
        }
    }
}
