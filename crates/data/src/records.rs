//! Files that hold many samples of one size: read once, kept in memory, shared by all parts.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

use crate::{DataError, Image};

/// Longest file that is read into memory, unpacked.
pub(crate) const MAX_BYTES: u64 = 16 << 30;

/// Images of one size, one after the other.
#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
    /// Where the first record begins.
    pub(crate) start: usize,
    /// Bytes from one record to the next.
    pub(crate) stride: usize,
    /// Where the pixels begin in a record.
    pub(crate) pixels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
    /// Whether a record holds one channel after the other.
    pub(crate) planar: bool,
}

impl Records {
    pub(crate) fn record(&self, index: usize) -> &[u8] {
        let from = self.start + index * self.stride;
        &self.bytes[from..from + self.stride]
    }

    pub(crate) fn image(&self, index: usize) -> Image {
        let size = self.height * self.width;
        let stored = &self.record(index)[self.pixels..self.pixels + size * self.channels];
        let pixels = if self.planar && self.channels > 1 {
            (0..size).flat_map(|i| (0..self.channels).map(move |c| stored[c * size + i])).collect()
        } else {
            stored.to_vec()
        };
        Image { height: self.height, width: self.width, channels: self.channels, pixels }
    }
}

/// A whole file, unpacked where it is gzip by its first bytes.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, DataError> {
    let failed = |source| DataError::File { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let mut bytes = Vec::new();
    let mut first = [0; 2];
    let read = file.read(&mut first).map_err(failed)?;
    if first[..read] == [0x1f, 0x8b] {
        let file = BufReader::new(File::open(path).map_err(failed)?);
        let unpacked = flate2::bufread::MultiGzDecoder::new(file).take(MAX_BYTES).read_to_end(&mut bytes);
        unpacked.map_err(|error| DataError::Format {
            path: path.to_owned(),
            found: format!("gzip that breaks off after {} bytes ({error})", bytes.len()),
            expected: "a whole gzip file".to_owned(),
        })?;
    } else {
        bytes.extend_from_slice(&first[..read]);
        file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    }
    Ok(bytes)
}
