//! How a table travels: blocks of cells, each packed to the bits it needs.
//!
//! # Format
//! Cells in order, in blocks of [`BLOCK`] (the last may be shorter). A block is one byte, the width
//! `w ∈ 0..=64`, then its cells in zig-zag form (0, −1, 1, −2, … ↦ 0, 1, 2, 3, …), `w` bits each, lowest
//! bit first, padded with zero bits to a whole byte. `w` is the least that holds every cell of the
//! block, so a block of zeros is the single byte 0. The number of cells is not in the bytes: both ends
//! know it from the query's [`Layout`](crate::Layout).
//!
//! The form is canonical. Decoding accepts exactly what [`encode`] yields, so one table has one encoding.
//!
//! # Hostile input
//! Nothing here panics, whatever the bytes. What is allocated depends on the caller's `cells` alone, and
//! only after the bytes were found long enough to hold that many blocks. A block of zeros stands for
//! 8 KiB in one byte, so bound `cells` by what the query's layout says, never by what the peer says.

mod blocks;
mod decoder;
mod merge;

pub use blocks::{BLOCK, Blocks, PackError};
pub use decoder::Decoder;
pub use merge::PackedMergeError;

use crate::Digest;

/// Packs `cells`. At most [`max_len`] bytes; a fraction of that as a rule.
pub fn encode(cells: &[i64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in cells.chunks(BLOCK) {
        blocks::encode(block, &mut bytes);
    }
    bytes
}

/// Unpacks exactly `cells` cells.
///
/// # Errors
/// When `bytes` is not the encoding of a table of that many cells.
pub fn decode(bytes: &[u8], cells: usize) -> Result<Vec<i64>, PackError> {
    let mut blocks = Blocks::new(bytes, cells)?;
    let mut table = Vec::with_capacity(cells);
    while let Some(block) = blocks.next_block()? {
        table.extend_from_slice(block);
    }
    Ok(table)
}

/// Unpacks into `cells`, without allocating.
///
/// # Errors
/// When `bytes` is not the encoding of a table of that many cells; what `cells` then holds is unspecified.
pub fn decode_into(bytes: &[u8], cells: &mut [i64]) -> Result<(), PackError> {
    let mut blocks = Blocks::new(bytes, cells.len())?;
    for target in cells.chunks_mut(BLOCK) {
        if let Some(block) = blocks.next_block()? {
            target.copy_from_slice(block);
        }
    }
    blocks.next_block()?;
    Ok(())
}

/// The [digest](crate::Table::digest) of a packed table of `cells` cells, block by block: the table is never
/// held unpacked.
///
/// # Errors
/// When `bytes` is not the encoding of a table of that many cells.
pub fn digest(bytes: &[u8], cells: usize) -> Result<Digest, PackError> {
    let mut blocks = Blocks::new(bytes, cells)?;
    let mut hasher = crate::table::CellHasher::default();
    while let Some(block) = blocks.next_block()? {
        hasher.update(block);
    }
    Ok(hasher.finish())
}

/// The most bytes that `cells` cells can take: a limit to check a declared length against.
pub fn max_len(cells: usize) -> usize {
    cells.saturating_mul(8).saturating_add(cells.div_ceil(BLOCK))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Table;

    /// Tables as they occur: long runs of zeros, small counts, large sums, and the extremes.
    fn cells() -> impl Strategy<Value = Vec<i64>> {
        let cell = (any::<i64>(), 0_u32..64).prop_map(|(cell, shift)| cell >> shift).boxed();
        let run = prop_oneof![
            Just(Just(0).boxed()),
            Just((0_i64..50).boxed()),
            Just((-40_000_i64..40_000).boxed()),
            Just(cell),
            Just(any::<i64>().boxed()),
            Just(Just(i64::MIN).boxed()),
            Just(Just(i64::MAX).boxed()),
        ]
        .prop_flat_map(|cell| prop::collection::vec(cell, 0..1500));
        prop::collection::vec(run, 0..4).prop_map(|runs| runs.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn round_trips(cells in cells()) {
            let bytes = encode(&cells);
            prop_assert!(bytes.len() <= max_len(cells.len()));
            prop_assert_eq!(decode(&bytes, cells.len()), Ok(cells.clone()));
            let mut target = vec![7; cells.len()];
            prop_assert_eq!(decode_into(&bytes, &mut target), Ok(()));
            prop_assert_eq!(&target, &cells);
            prop_assert_eq!(digest(&bytes, cells.len()), Ok(Table::from_cells(cells).digest()));
        }

        /// What is accepted is what would have been sent, so there is nothing to hide in the bytes.
        #[test]
        fn arbitrary_bytes_never_panic(
            bytes in prop::collection::vec(prop_oneof![Just(0_u8), 0_u8..70, any::<u8>()], 0..300),
            cells in prop_oneof![0_usize..40, 0_usize..5000],
        ) {
            if let Ok(decoded) = decode(&bytes, cells) {
                prop_assert_eq!(encode(&decoded), bytes.clone());
            }
            let mut target = vec![0; cells];
            prop_assert_eq!(decode_into(&bytes, &mut target).is_ok(), digest(&bytes, cells).is_ok());
        }

        #[test]
        fn a_flipped_bit_is_another_table_or_an_error(
            cells in cells().prop_filter("not empty", |cells| !cells.is_empty()),
            at in any::<prop::sample::Index>(),
            bit in 0_u32..8,
        ) {
            let mut bytes = encode(&cells);
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            if let Ok(decoded) = decode(&bytes, cells.len()) {
                prop_assert_ne!(decoded, cells);
            }
        }

        #[test]
        fn a_cut_or_extended_encoding_is_refused(
            cells in cells().prop_filter("not empty", |cells| !cells.is_empty()),
            keep in any::<prop::sample::Index>(),
            extra in prop::collection::vec(any::<u8>(), 1..20),
        ) {
            let mut bytes = encode(&cells);
            prop_assert!(decode(&bytes[..keep.index(bytes.len())], cells.len()).is_err());
            bytes.extend(&extra);
            prop_assert_eq!(
                decode(&bytes, cells.len()),
                Err(PackError::Trailing { bytes: extra.len() })
            );
            prop_assert!(decode_into(&bytes, &mut vec![0; cells.len()]).is_err());
        }
    }

    #[test]
    fn zeros_take_one_byte_per_block() {
        assert_eq!(encode(&vec![0; 2 * BLOCK + 1]), [0, 0, 0]);
        assert!(encode(&[]).is_empty());
        assert_eq!(decode(&[], 0), Ok(Vec::new()));
    }

    #[test]
    fn the_bytes_are_as_documented() {
        // Zig-zag 0, 2, 1, 5 in 3 bits each, lowest first: 101 001 010 000.
        assert_eq!(encode(&[0, 1, -1, -3]), [3, 0b0101_0000, 0b1010]);
    }

    #[test]
    fn a_huge_declared_size_is_refused_before_it_is_allocated() {
        assert_eq!(decode(&[0; 8], usize::MAX), Err(PackError::Truncated { block: 8 }));
    }
}
