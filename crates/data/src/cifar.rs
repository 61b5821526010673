//! CIFAR-10 and CIFAR-100 in their own binary layout: label bytes, then 32×32 pixels, one colour after the other.

use std::path::Path;

use crate::DataError;
use crate::records::{Records, read_file};

const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One label byte.
    Ten,
    /// A coarse and a fine label byte; the fine one is the class.
    Hundred,
}

impl Kind {
    const fn label_bytes(self) -> usize {
        match self {
            Self::Ten => 1,
            Self::Hundred => 2,
        }
    }
}

pub(crate) fn read(path: &Path, kind: Kind) -> Result<(Records, Vec<u64>), DataError> {
    let bytes = read_file(path)?;
    let stride = kind.label_bytes() + PIXELS;
    if bytes.is_empty() || bytes.len() % stride != 0 {
        return Err(DataError::Format {
            path: path.to_owned(),
            found: format!("{} bytes", bytes.len()),
            expected: format!("one or more records of {stride} bytes"),
        });
    }
    let labels = bytes.chunks_exact(stride).map(|record| u64::from(record[kind.label_bytes() - 1])).collect();
    let records = Records {
        path: path.to_owned(),
        bytes,
        start: 0,
        stride,
        pixels: kind.label_bytes(),
        height: SIDE,
        width: SIDE,
        channels: 3,
        planar: true,
    };
    Ok((records, labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_with_their_colours_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("batch.bin");
        let mut bytes = vec![3, 9];
        bytes.extend((0..PIXELS).map(|i| (i / 1024) as u8));
        std::fs::write(&path, &bytes).unwrap();
        let (records, labels) = read(&path, Kind::Hundred).unwrap();
        assert_eq!(labels, [9]);
        assert_eq!(&records.image(0).pixels[..6], [0, 1, 2, 0, 1, 2]);
        let error = read(&path, Kind::Ten).unwrap_err().to_string();
        assert!(error.contains("found 3074 bytes, expected one or more records of 3073 bytes"), "{error}");
    }
}
