//! NumPy arrays in an `.npz` archive: images as bytes, labels as integers.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;

use ndarray::{ArrayView, IxDyn, ShapeBuilder as _};
use zip::ZipArchive;

use crate::DataError;
use crate::records::{MAX_BYTES, Records};

/// Longest header of an array; NumPy's own limit is near.
const MAX_HEADER: usize = 8 << 10;

fn wrong(path: &Path, found: impl Into<String>, expected: impl Into<String>) -> DataError {
    DataError::Format { path: path.to_owned(), found: found.into(), expected: expected.into() }
}

/// Reads the arrays called `images` (`N,H,W`, `N,H,W,1` or `N,H,W,3`, bytes) and `labels` (`N`, any integers).
pub(crate) fn read(path: &Path, images: &str, labels: &str) -> Result<(Records, Vec<u64>), DataError> {
    let file = File::open(path).map_err(|source| DataError::File { path: path.to_owned(), source })?;
    let mut archive = ZipArchive::new(BufReader::new(file))
        .map_err(|error| wrong(path, error.to_string(), "an .npz archive"))?;
    for wanted in [images, labels] {
        if !archive.file_names().any(|name| name.trim_end_matches(".npy") == wanted) {
            let names: Vec<&str> = archive.file_names().collect();
            let expected = format!("an array '{wanted}' (data.images and data.labels say which)");
            return Err(wrong(path, format!("arrays {names:?}"), expected));
        }
    }
    let not_bytes = |error: String| wrong(path, format!("'{images}': {error}"), "an array of bytes");
    let pixels = Entry::read(&mut archive, images).map_err(not_bytes)?;
    let bytes = pixels.pixels().map_err(not_bytes)?;
    let shape = pixels.shape;
    let (height, width, channels) = match shape[..] {
        [_, height, width] | [_, height, width, 1] => (height, width, 1),
        [_, height, width, 3] => (height, width, 3),
        _ => {
            return Err(wrong(path, format!("'{images}' of shape {shape:?}"), "N,H,W or N,H,W,1 or N,H,W,3"));
        }
    };
    if height == 0 || width == 0 {
        return Err(wrong(path, format!("'{images}' of shape {shape:?}"), "at least one pixel"));
    }
    let labels_read = Entry::read(&mut archive, labels)
        .and_then(|entry| entry.labels())
        .map_err(|error| wrong(path, format!("'{labels}': {error}"), "an array of integers"))?;
    if labels_read.len() != shape[0] {
        let expected = format!("{}, one for each image", shape[0]);
        return Err(wrong(path, format!("{} labels", labels_read.len()), expected));
    }
    let records = Records {
        path: path.to_owned(),
        bytes,
        start: 0,
        stride: height * width * channels,
        pixels: 0,
        height,
        width,
        channels,
        planar: false,
    };
    Ok((records, labels_read))
}

type Archive = ZipArchive<BufReader<File>>;

/// An array of the archive, as stored. What its header says is compared with the bytes that are there before it is
/// believed; the readers there are make room for what it says.
struct Entry {
    /// Such as `|u1` or `<i8`: order of the bytes, kind, bytes of a number.
    kind: String,
    /// Whether the first index varies fastest.
    fortran: bool,
    shape: Vec<usize>,
    bytes: Vec<u8>,
    /// Where the numbers begin.
    start: usize,
}

impl Entry {
    fn read(archive: &mut Archive, name: &str) -> Result<Self, String> {
        let stored = match archive.index_for_name(name) {
            Some(_) => name.to_owned(),
            None => format!("{name}.npy"),
        };
        let mut bytes = Vec::new();
        let entry = archive.by_name(&stored).map_err(|error| error.to_string())?;
        entry.take(MAX_BYTES).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        let (header, start) = header(&bytes)?;
        let (kind, fortran, shape) = parse(header).ok_or_else(|| format!("the header {header:?}"))?;
        let numbers = shape.iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
        let width = kind.get(2..).and_then(|digits| digits.parse::<usize>().ok());
        let expected = numbers.zip(width).and_then(|(numbers, width)| numbers.checked_mul(width));
        let found = bytes.len() - start;
        if expected != Some(found) {
            return Err(format!("{found} bytes for the type '{kind}' and the shape {shape:?}"));
        }
        Ok(Self { kind: kind.to_owned(), fortran, shape, bytes, start })
    }

    /// Bytes, the last index varying fastest.
    fn pixels(&self) -> Result<Vec<u8>, String> {
        if !matches!(self.kind.as_str(), "|u1" | "<u1" | ">u1" | "=u1") {
            return Err(format!("the type '{}'", self.kind));
        }
        let shape = IxDyn(&self.shape).set_f(self.fortran);
        let array =
            ArrayView::from_shape(shape, &self.bytes[self.start..]).map_err(|error| error.to_string())?;
        Ok(array.iter().copied().collect())
    }

    /// Labels of whichever integer type; a negative one becomes too large for any class.
    fn labels(&self) -> Result<Vec<u64>, String> {
        let unknown = || format!("the type '{}'", self.kind);
        if self.shape.len() != 1 {
            return Err(format!("the shape {:?}", self.shape));
        }
        let (order, kind) = self.kind.split_at_checked(1).ok_or_else(unknown)?;
        let (signed, width) = match kind {
            "i1" | "i2" | "i4" | "i8" => (true, kind.as_bytes()[1] - b'0'),
            "u1" | "u2" | "u4" | "u8" => (false, kind.as_bytes()[1] - b'0'),
            _ => return Err(unknown()),
        };
        let wide = |label: &[u8]| {
            let mut bytes = [0; 8];
            bytes[..label.len()].copy_from_slice(label);
            if order == ">" {
                bytes[..label.len()].reverse();
            }
            let negative = signed && bytes[label.len() - 1] >= 0x80;
            if negative { u64::MAX } else { u64::from_le_bytes(bytes) }
        };
        Ok(self.bytes[self.start..].chunks_exact(usize::from(width)).map(wide).collect())
    }
}

/// The dictionary at the beginning of an array, behind `\x93NUMPY`, a version, and its length in two or four bytes; and
/// where it ends.
fn header(bytes: &[u8]) -> Result<(&str, usize), String> {
    let (length, begin) = match bytes {
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _, a, b, ..] => ([*a, *b, 0, 0], 10),
        [0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, _, a, b, c, d, ..] => ([*a, *b, *c, *d], 12),
        _ => return Err("not a NumPy array".to_owned()),
    };
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_HEADER {
        return Err(format!("a header of {length} bytes, expected at most {MAX_HEADER}"));
    }
    let header = bytes.get(begin..begin + length).ok_or("a header that breaks off")?;
    Ok((std::str::from_utf8(header).map_err(|error| error.to_string())?, begin + length))
}

/// Type, order and shape from `{'descr': '<i8', 'fortran_order': False, 'shape': (3, 2), }`.
fn parse(header: &str) -> Option<(&str, bool, Vec<usize>)> {
    let value = |key: &str| {
        let (_, rest) = header.split_once(&format!("'{key}'"))?;
        Some(rest.trim_start().strip_prefix(':')?.trim_start())
    };
    let (kind, _) = value("descr")?.strip_prefix('\'')?.split_once('\'')?;
    let order = value("fortran_order")?;
    let fortran = order.starts_with("True");
    if !fortran && !order.starts_with("False") {
        return None;
    }
    let (shape, _) = value("shape")?.strip_prefix('(')?.split_once(')')?;
    let sizes = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
    Some((kind, fortran, sizes.map(|size| size.parse().ok()).collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use ndarray::{Array1, Array3};
    use ndarray_npy::NpzWriter;

    use super::*;

    #[test]
    fn arrays_are_read_and_missing_ones_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npz");
        let mut archive = NpzWriter::new(File::create(&path).unwrap());
        archive
            .add_array("x", &Array3::<u8>::from_shape_fn((2, 2, 3), |(n, y, x)| (n * 6 + y * 3 + x) as u8))
            .unwrap();
        archive.add_array("y", &Array1::<i32>::from(vec![4, -1])).unwrap();
        archive.finish().unwrap();
        let (records, labels) = read(&path, "x", "y").unwrap();
        assert_eq!(records.image(1).pixels, [6, 7, 8, 9, 10, 11]);
        assert_eq!(labels, [4, u64::MAX]);
        let error = read(&path, "images", "y").unwrap_err().to_string();
        assert!(error.contains("an array 'images'"), "{error}");
        std::fs::write(&path, b"PK no").unwrap();
        assert!(read(&path, "x", "y").unwrap_err().to_string().contains("expected an .npz archive"));
    }

    /// An archive whose images have this header, in the format's second version, and nothing behind it.
    fn with_header(path: &Path, header: &str, length: u32) -> String {
        let mut archive = zip::ZipWriter::new(File::create(path).unwrap());
        for name in ["x.npy", "y.npy"] {
            archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
            archive.write_all(b"\x93NUMPY\x02\x00").unwrap();
            archive.write_all(&length.to_le_bytes()).unwrap();
            archive.write_all(header.as_bytes()).unwrap();
        }
        archive.finish().unwrap();
        read(path, "x", "y").unwrap_err().to_string()
    }

    #[test]
    fn labels_of_every_integer_type_and_either_order_of_indices_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npz");
        let labels = |write: &dyn Fn(&mut NpzWriter<File>)| {
            let mut archive = NpzWriter::new_compressed(File::create(&path).unwrap());
            let rows = Array3::<u8>::from_shape_fn((3, 2, 2), |(n, y, x)| (n * 4 + y * 2 + x) as u8);
            archive.add_array("x", &rows.reversed_axes().as_standard_layout().reversed_axes()).unwrap();
            write(&mut archive);
            archive.finish().unwrap();
            let (records, labels) = read(&path, "x", "y").unwrap();
            assert_eq!(records.image(2).pixels, [8, 9, 10, 11]);
            labels
        };
        let u8s = labels(&|a| a.add_array("y", &Array1::<u8>::from(vec![0, 200, 7])).unwrap());
        let i8s = labels(&|a| a.add_array("y", &Array1::<i8>::from(vec![0, -1, 7])).unwrap());
        let i16s = labels(&|a| a.add_array("y", &Array1::<i16>::from(vec![0, 300, -7])).unwrap());
        let u32s = labels(&|a| a.add_array("y", &Array1::<u32>::from(vec![0, 1 << 31, 7])).unwrap());
        let i64s = labels(&|a| a.add_array("y", &Array1::<i64>::from(vec![1 << 40, -1, 7])).unwrap());
        assert_eq!((u8s, i8s), (vec![0, 200, 7], vec![0, u64::MAX, 7]));
        assert_eq!((i16s, u32s), (vec![0, 300, u64::MAX], vec![0, 1 << 31, 7]));
        assert_eq!(i64s, [1 << 40, u64::MAX, 7]);
    }

    #[test]
    fn headers_that_promise_more_than_there_is_are_refused_before_anything_is_allocated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npz");
        for shape in ["(1000000, 1000000, 1000)", "(0, 4611686018427387904, 4611686018427387904)"] {
            let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n");
            let error = with_header(&path, &header, header.len() as u32);
            assert!(error.contains("'x': "), "{error}");
        }
        let error = with_header(&path, "{}", u32::MAX);
        assert!(error.contains("a header of 4294967295 bytes, expected at most 8192"), "{error}");
        let nested = format!("{}\n", "(".repeat(8000));
        let error = with_header(&path, &nested, nested.len() as u32);
        assert!(error.contains("'x': the header"), "{error}");
    }
}
