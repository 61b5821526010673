//! NumPy arrays in an `.npz` archive: images as bytes, labels as integers.

use std::fs::File;
use std::path::Path;

use ndarray::{ArrayD, IxDyn};
use ndarray_npy::{NpzReader, ReadNpzError};

use crate::DataError;
use crate::records::Records;

fn wrong(path: &Path, found: impl Into<String>, expected: impl Into<String>) -> DataError {
    DataError::Format { path: path.to_owned(), found: found.into(), expected: expected.into() }
}

/// Reads the arrays called `images` (`N,H,W`, `N,H,W,1` or `N,H,W,3`, bytes) and `labels` (`N`, any integers).
pub(crate) fn read(path: &Path, images: &str, labels: &str) -> Result<(Records, Vec<u64>), DataError> {
    let file = File::open(path).map_err(|source| DataError::File { path: path.to_owned(), source })?;
    let mut archive =
        NpzReader::new(file).map_err(|error| wrong(path, error.to_string(), "an .npz archive"))?;
    let names = archive.names().map_err(|error| wrong(path, error.to_string(), "an .npz archive"))?;
    for wanted in [images, labels] {
        if !names.iter().any(|name| name.trim_end_matches(".npy") == wanted) {
            let expected = format!("an array '{wanted}' (data.images and data.labels say which)");
            return Err(wrong(path, format!("arrays {names:?}"), expected));
        }
    }
    let pixels: ArrayD<u8> = by_name(&mut archive, images)
        .map_err(|error| wrong(path, format!("'{images}': {error}"), "an array of bytes"))?;
    let shape = pixels.shape().to_vec();
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
    let labels_read = read_labels(&mut archive, labels)
        .map_err(|error| wrong(path, format!("'{labels}': {error}"), "an array of integers"))?;
    if labels_read.len() != shape[0] {
        let expected = format!("{}, one for each image", shape[0]);
        return Err(wrong(path, format!("{} labels", labels_read.len()), expected));
    }
    let records = Records {
        path: path.to_owned(),
        bytes: pixels.as_standard_layout().iter().copied().collect(),
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

type Archive = NpzReader<File>;

fn by_name<T: ndarray_npy::ReadableElement>(
    archive: &mut Archive,
    name: &str,
) -> Result<ArrayD<T>, ReadNpzError> {
    archive
        .by_name::<ndarray::OwnedRepr<T>, IxDyn>(name)
        .or_else(|_| archive.by_name::<ndarray::OwnedRepr<T>, IxDyn>(&format!("{name}.npy")))
}

/// Labels of whichever integer type; a negative one becomes too large for any class.
fn read_labels(archive: &mut Archive, name: &str) -> Result<Vec<u64>, ReadNpzError> {
    fn wide<T: Copy + TryInto<u64>>(labels: &ArrayD<T>) -> Vec<u64> {
        labels.iter().map(|label| (*label).try_into().unwrap_or(u64::MAX)).collect()
    }
    if let Ok(labels) = by_name::<i64>(archive, name) {
        return Ok(wide(&labels));
    }
    if let Ok(labels) = by_name::<u8>(archive, name) {
        return Ok(wide(&labels));
    }
    if let Ok(labels) = by_name::<i32>(archive, name) {
        return Ok(wide(&labels));
    }
    if let Ok(labels) = by_name::<u32>(archive, name) {
        return Ok(wide(&labels));
    }
    if let Ok(labels) = by_name::<i16>(archive, name) {
        return Ok(wide(&labels));
    }
    by_name::<u64>(archive, name).map(|labels| wide(&labels))
}

#[cfg(test)]
mod tests {
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
}
