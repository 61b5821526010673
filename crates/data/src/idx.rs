//! IDX, the format of MNIST and its kin: a magic number, dimensions, bytes.

use std::path::Path;

use crate::DataError;
use crate::records::{Records, read_file};

const IMAGES: u32 = 0x0803;
const LABELS: u32 = 0x0801;

fn wrong(path: &Path, found: impl Into<String>, expected: impl Into<String>) -> DataError {
    DataError::Format { path: path.to_owned(), found: found.into(), expected: expected.into() }
}

/// Magic number and dimensions; checks that exactly the bytes they promise follow.
fn header(path: &Path, bytes: &[u8], magic: u32, what: &str) -> Result<Vec<usize>, DataError> {
    let word = |i: usize| bytes.get(4 * i..4 * i + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let found =
        word(0).ok_or_else(|| wrong(path, format!("{} bytes", bytes.len()), format!("IDX {what}")))?;
    if found != magic {
        return Err(wrong(path, format!("magic number {found:#010x}"), format!("{magic:#010x}, IDX {what}")));
    }
    let dimensions = (magic & 0xff) as usize;
    let sizes: Option<Vec<usize>> = (1..=dimensions).map(|i| word(i).map(|w| w as usize)).collect();
    let sizes =
        sizes.ok_or_else(|| wrong(path, "a header that breaks off", format!("{dimensions} dimensions")))?;
    let promised = sizes
        .iter()
        .try_fold(1_usize, |product, size| product.checked_mul(*size))
        .and_then(|product| product.checked_add(4 + 4 * dimensions));
    if promised != Some(bytes.len()) {
        let expected =
            promised.map_or("a length that exists".to_owned(), |n| format!("{n} bytes for {sizes:?}"));
        return Err(wrong(path, format!("{} bytes", bytes.len()), expected));
    }
    Ok(sizes)
}

/// Reads an image file and its label file.
pub(crate) fn read(images: &Path, labels: &Path) -> Result<(Records, Vec<u64>), DataError> {
    let bytes = read_file(images)?;
    let sizes = header(images, &bytes, IMAGES, "images")?;
    let label_bytes = read_file(labels)?;
    let label_sizes = header(labels, &label_bytes, LABELS, "labels")?;
    if sizes[0] != label_sizes[0] {
        let expected = format!("{}, one for each image of {}", sizes[0], images.display());
        return Err(wrong(labels, format!("{} labels", label_sizes[0]), expected));
    }
    if sizes[1] == 0 || sizes[2] == 0 {
        return Err(wrong(images, format!("images of {}×{} pixels", sizes[1], sizes[2]), "at least 1×1"));
    }
    let records = Records {
        path: images.to_owned(),
        bytes,
        start: 16,
        stride: sizes[1] * sizes[2],
        pixels: 0,
        height: sizes[1],
        width: sizes[2],
        channels: 1,
        planar: false,
    };
    Ok((records, label_bytes[8..].iter().map(|label| u64::from(*label)).collect()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn file(folder: &Path, name: &str, words: &[u32], rest: &[u8]) -> std::path::PathBuf {
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_be_bytes()).collect();
        bytes.extend_from_slice(rest);
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn images_and_labels_are_read_plain_and_packed() {
        let folder = tempfile::tempdir().unwrap();
        let images = file(folder.path(), "i", &[IMAGES, 2, 1, 2], &[1, 2, 3, 4]);
        let labels = file(folder.path(), "l", &[LABELS, 2], &[7, 9]);
        let packed = folder.path().join("i.gz");
        let mut gz =
            flate2::write::GzEncoder::new(std::fs::File::create(&packed).unwrap(), Default::default());
        gz.write_all(&std::fs::read(&images).unwrap()).unwrap();
        gz.finish().unwrap();
        for images in [images, packed.clone()] {
            let (records, labels) = read(&images, &labels).unwrap();
            assert_eq!(labels, [7, 9]);
            assert_eq!(records.image(1).pixels, [3, 4]);
        }
        let whole = std::fs::read(&packed).unwrap();
        std::fs::write(&packed, &whole[..whole.len() - 9]).unwrap();
        let error = read(&packed, &labels).unwrap_err().to_string();
        assert!(error.contains("gzip that breaks off"), "{error}");
    }

    #[test]
    fn headers_that_lie_are_refused_before_anything_is_allocated() {
        let folder = tempfile::tempdir().unwrap();
        let labels = file(folder.path(), "l", &[LABELS, 2], &[7, 9]);
        let huge = file(folder.path(), "h", &[IMAGES, u32::MAX, u32::MAX, u32::MAX], &[1]);
        assert!(read(&huge, &labels).unwrap_err().to_string().contains("found 17 bytes"));
        let error = read(&labels, &labels).unwrap_err().to_string();
        assert!(error.contains("magic number 0x00000801, expected 0x00000803"), "{error}");
        let three = file(folder.path(), "t", &[IMAGES, 3, 1, 1], &[1, 2, 3]);
        assert!(read(&three, &labels).unwrap_err().to_string().contains("found 2 labels, expected 3"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = header(Path::new("x"), &bytes, IMAGES, "images");
        }
    }
}
