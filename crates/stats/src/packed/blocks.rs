//! Packing and unpacking one block at a time.

/// Cells in a block.
pub const BLOCK: usize = 1024;

/// Why bytes are not a packed table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The bytes end inside or before a block.
    #[error("packed table ends in or before block {block}")]
    Truncated {
        /// Counted from 0.
        block: usize,
    },
    /// A width that no block has.
    #[error("block {block} of the packed table claims {found} bits per cell, expected at most 64")]
    Width {
        /// Counted from 0.
        block: usize,
        /// The claimed width.
        found: u8,
    },
    /// A block that is wider than its cells need, or whose padding is not zero.
    #[error("block {block} of the packed table is not in canonical form")]
    NotCanonical {
        /// Counted from 0.
        block: usize,
    },
    /// Bytes after the last block.
    #[error("{bytes} bytes follow the packed table")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

/// Reads a packed table block by block, so that a merge never holds a second table.
///
/// ```
/// # use exeunt_stats::packed::{self, Blocks};
/// let bytes = packed::encode(&[3; 1500]);
/// let mut blocks = Blocks::new(&bytes, 1500)?;
/// let mut total = 0;
/// while let Some(block) = blocks.next_block()? {
///     total += block.iter().sum::<i64>();
/// }
/// assert_eq!(total, 4500);
/// # Ok::<(), packed::PackError>(())
/// ```
#[derive(Debug)]
pub struct Blocks<'a> {
    bytes: &'a [u8],
    cells_left: usize,
    block: usize,
    cells: Box<[i64; BLOCK]>,
}

impl<'a> Blocks<'a> {
    /// Starts on the encoding of `cells` cells.
    ///
    /// # Errors
    /// When there are fewer bytes than blocks.
    pub fn new(bytes: &'a [u8], cells: usize) -> Result<Self, PackError> {
        if bytes.len() < cells.div_ceil(BLOCK) {
            return Err(PackError::Truncated { block: bytes.len() });
        }
        Ok(Self { bytes, cells_left: cells, block: 0, cells: Box::new([0; BLOCK]) })
    }

    /// The next block: [`BLOCK`] cells, or what is left for the last. `None` once all cells were read and
    /// no byte is left.
    ///
    /// # Errors
    /// When the bytes are not the encoding of a table of that many cells. There is nothing to read after
    /// an error.
    pub fn next_block(&mut self) -> Result<Option<&[i64]>, PackError> {
        let block = self.block;
        if self.cells_left == 0 {
            return match self.bytes.len() {
                0 => Ok(None),
                bytes => Err(PackError::Trailing { bytes }),
            };
        }
        let (&width, rest) = self.bytes.split_first().ok_or(PackError::Truncated { block })?;
        let count = self.cells_left.min(BLOCK);
        let len = packed_len(block, width, count)?;
        let (packed, rest) = rest.split_at_checked(len).ok_or(PackError::Truncated { block })?;
        let cells = &mut self.cells[..count];
        if !decode(packed, width, cells) {
            return Err(PackError::NotCanonical { block });
        }
        self.bytes = rest;
        self.cells_left -= count;
        self.block += 1;
        Ok(Some(&self.cells[..count]))
    }
}

/// Bytes of a block's cells at the width that it claims.
pub(super) fn packed_len(block: usize, width: u8, cells: usize) -> Result<usize, PackError> {
    if width > 64 {
        return Err(PackError::Width { block, found: width });
    }
    Ok((cells * usize::from(width)).div_ceil(8))
}

fn zig_zag(cell: i64) -> u64 {
    ((cell << 1) ^ (cell >> 63)) as u64
}

fn zag_zig(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// The bits of the widest of values whose bitwise or is `all`.
fn width_of(all: u64) -> u32 {
    u64::BITS - all.leading_zeros()
}

/// Appends one block.
pub(super) fn encode(cells: &[i64], bytes: &mut Vec<u8>) {
    let width = width_of(cells.iter().fold(0, |all, cell| all | zig_zag(*cell)));
    bytes.push(width as u8);
    bytes.reserve((cells.len() * width as usize).div_ceil(8));
    if width == 0 {
        return;
    }
    // Fewer than 64 bits wait before a cell of at most 64 is added.
    let mut waiting = 0_u128;
    let mut bits = 0;
    for cell in cells {
        waiting |= u128::from(zig_zag(*cell)) << bits;
        bits += width;
        if bits >= 64 {
            bytes.extend_from_slice(&(waiting as u64).to_le_bytes());
            waiting >>= 64;
            bits -= 64;
        }
    }
    let rest = (waiting as u64).to_le_bytes();
    bytes.extend_from_slice(&rest[..bits.div_ceil(8) as usize]);
}

/// Fills `cells` from a block's bytes, whose number fits; whether they were in canonical form.
pub(super) fn decode(packed: &[u8], width: u8, cells: &mut [i64]) -> bool {
    if width == 0 {
        cells.fill(0);
        return true;
    }
    let width = usize::from(width);
    let mask = u64::MAX >> (64 - width);
    let mut all = 0;
    // A cell of at most 57 bits lies in the 8 bytes from its first on: no cell waits for the one before it.
    let words = packed.len().saturating_sub(7) * usize::from(width <= 57);
    let fast = (words * 8).div_ceil(width).min(cells.len());
    let (by_words, rest) = cells.split_at_mut(fast);
    for (i, cell) in by_words.iter_mut().enumerate() {
        let bit = i * width;
        let mut word = [0; 8];
        word.copy_from_slice(&packed[bit / 8..][..8]);
        let value = u64::from_le_bytes(word) >> (bit % 8) & mask;
        all |= value;
        *cell = zag_zig(value);
    }
    for (i, cell) in (fast..).zip(rest) {
        let bit = i * width;
        let mut word = [0; 16];
        let from = &packed[bit / 8..];
        let len = from.len().min(16);
        word[..len].copy_from_slice(&from[..len]);
        let value = (u128::from_le_bytes(word) >> (bit % 8)) as u64 & mask;
        all |= value;
        *cell = zag_zig(value);
    }
    let padding = match cells.len() * width % 8 {
        0 => 0,
        used => packed.last().map_or(0, |last| last >> used),
    };
    width_of(all) as usize == width && padding == 0
}
