//! Unpacking a table whose bytes come in parts.

use super::PackedMergeError;
use super::blocks::{self, BLOCK, PackError};
use crate::{Table, TableError};

/// Unpacks a table whose bytes come in parts, cut anywhere; it holds less than one block of them.
///
/// ```
/// # use exeunt_stats::packed::{self, Decoder, PackError};
/// let bytes = packed::encode(&[3; 1500]);
/// let (mut decoder, mut total) = (Decoder::new(1500), 0);
/// for part in bytes.chunks(10) {
///     decoder.push(part, |_first, block| Ok::<_, PackError>(total += block.iter().sum::<i64>()))?;
/// }
/// decoder.finish()?;
/// assert_eq!(total, 4500);
/// # Ok::<(), PackError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Decoder {
    cells: usize,
    /// Cells that were unpacked.
    done: usize,
    /// The beginning of a block whose end has not come.
    waiting: Vec<u8>,
}

impl Decoder {
    /// Waits for the encoding of `cells` cells. Nothing is allocated for them.
    pub fn new(cells: usize) -> Self {
        Self { cells, done: 0, waiting: Vec::new() }
    }

    /// Takes the next bytes, and hands on every block that they complete, with the number of its first cell.
    ///
    /// # Errors
    /// When the bytes cannot be the encoding of a table of that many cells, or what `each` says. There is nothing to
    /// push after an error.
    pub fn push<E: From<PackError>>(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(usize, &[i64]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut cells = [0; BLOCK];
        while let Some(&width) = self.waiting.first().or(bytes.first()) {
            let count = (self.cells - self.done).min(BLOCK);
            if count == 0 {
                return Err(PackError::Trailing { bytes: bytes.len() }.into());
            }
            let block = self.done / BLOCK;
            let len = 1 + blocks::packed_len(block, width, count)?;
            let cells = &mut cells[..count];
            let canonical = if self.waiting.is_empty()
                && let Some((whole, rest)) = bytes.split_at_checked(len)
            {
                bytes = rest;
                blocks::decode(&whole[1..], width, cells)
            } else {
                let (more, rest) = bytes.split_at(bytes.len().min(len - self.waiting.len()));
                self.waiting.extend_from_slice(more);
                bytes = rest;
                if self.waiting.len() < len {
                    return Ok(());
                }
                let canonical = blocks::decode(&self.waiting[1..], width, cells);
                self.waiting.clear();
                canonical
            };
            if !canonical {
                return Err(PackError::NotCanonical { block }.into());
            }
            each(self.done, cells)?;
            self.done += count;
        }
        Ok(())
    }

    /// Says that no byte follows.
    ///
    /// # Errors
    /// When a block is missing, or the end of one.
    pub fn finish(self) -> Result<(), PackError> {
        if self.done < self.cells { Err(PackError::Truncated { block: self.done / BLOCK }) } else { Ok(()) }
    }

    /// Adds the blocks that the next bytes complete to `total`, which is then the sum with a part of a table: after an
    /// error it is of no use any more.
    ///
    /// # Errors
    /// As [`push`](Self::push), when `total` has another number of cells, and when a cell overflows.
    pub fn merge(&mut self, bytes: &[u8], total: &mut Table) -> Result<(), PackedMergeError> {
        self.combine(bytes, total, i64::overflowing_add)
    }

    /// Takes the blocks that the next bytes complete out of `total`, as [`merge`](Self::merge) adds them.
    ///
    /// # Errors
    /// As [`merge`](Self::merge).
    pub fn subtract(&mut self, bytes: &[u8], total: &mut Table) -> Result<(), PackedMergeError> {
        self.combine(bytes, total, i64::overflowing_sub)
    }

    fn combine(
        &mut self,
        bytes: &[u8],
        total: &mut Table,
        operation: impl Fn(i64, i64) -> (i64, bool),
    ) -> Result<(), PackedMergeError> {
        if total.len() != self.cells {
            return Err(TableError::Cells { found: self.cells, expected: total.len() }.into());
        }
        self.push(bytes, |first, block| Ok(total.combine_block(first, block, &operation)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packed::{decode, encode};

    fn by_parts(bytes: &[u8], cells: usize, cuts: &[usize]) -> Result<Vec<i64>, PackError> {
        let (mut decoder, mut found, mut rest) = (Decoder::new(cells), Vec::new(), bytes);
        let mut push = |decoder: &mut Decoder, part: &[u8]| {
            decoder.push(part, |first, block| {
                assert_eq!(first, found.len());
                found.extend_from_slice(block);
                Ok::<(), PackError>(())
            })
        };
        for cut in cuts {
            let (part, after) = rest.split_at(rest.len().min(*cut));
            push(&mut decoder, part)?;
            rest = after;
        }
        push(&mut decoder, rest)?;
        decoder.finish()?;
        Ok(found)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn finds_what_unpacking_the_whole_finds(
            cells in prop::collection::vec(prop_oneof![-9_i64..9, any::<i64>()], 0..3000),
            cuts in prop::collection::vec(0_usize..5000, 0..8),
            cut_off in 0_usize..4, more in 0_usize..2, flip in any::<prop::sample::Index>(), with in any::<u8>(),
        ) {
            let mut bytes = encode(&cells);
            prop_assert_eq!(by_parts(&bytes, cells.len(), &cuts), Ok(cells.clone()));
            bytes.truncate(bytes.len() - cut_off.min(bytes.len()));
            bytes.extend(vec![0; more]);
            if !bytes.is_empty() {
                let at = flip.index(bytes.len());
                bytes[at] ^= with;
            }
            // Which of several faults is named may differ with the cuts; whether there is one does not.
            prop_assert_eq!(by_parts(&bytes, cells.len(), &cuts).ok(), decode(&bytes, cells.len()).ok());
        }

        #[test]
        fn adds_and_takes_out_what_the_whole_table_would(
            cells in prop::collection::vec((any::<i32>(), any::<i32>()), 0..3000), cut in 1_usize..5000,
        ) {
            let (a, b): (Vec<_>, Vec<_>) = cells.into_iter().map(|(a, b)| (i64::from(a), i64::from(b))).unzip();
            let (before, other) = (Table::from_cells(a), Table::from_cells(b));
            let bytes = encode(other.cells());
            let (mut whole, mut total) = (before.clone(), before.clone());
            whole.merge(&other).unwrap();
            let mut decoder = Decoder::new(before.len());
            bytes.chunks(cut).for_each(|part| decoder.merge(part, &mut total).unwrap());
            decoder.finish().unwrap();
            prop_assert_eq!(&total, &whole);
            let mut decoder = Decoder::new(before.len());
            bytes.chunks(cut).for_each(|part| decoder.subtract(part, &mut total).unwrap());
            prop_assert_eq!(total, before);
        }
    }

    #[test]
    fn an_overflow_is_named_by_its_cell() {
        let mut total = Table::from_cells([vec![0; 1500], vec![i64::MAX]].concat());
        let bytes = encode(&[1; 1501]);
        let found = Decoder::new(1501).merge(&bytes, &mut total);
        assert_eq!(found, Err(TableError::Overflow { cell: 1500 }.into()));
    }
}
