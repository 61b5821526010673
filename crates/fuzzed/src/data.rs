//! Files of samples, read as a node reads them: through the folder it was given.

use std::cell::OnceCell;
use std::fs;
use std::path::Path;

use exeunt_data::{DataError, Dataset, Image, Preprocess, Reader};
use exeunt_protocol::spec::{Colour, DataFormat, DataSpec, InputSpec, PartSpec};
use tempfile::TempDir;

const CLASSES: usize = 10;
/// Samples that are decoded of each file.
const DECODED: usize = 8;

/// A format (one byte) and, for IDX, how many of the bytes are the label file (two bytes); then the files.
///
/// # Panics
/// When a file that was taken has a sample outside its classes, or one that is no image.
pub fn records(data: &[u8]) {
    let Some((&[format, high, low], file)) = data.split_first_chunk() else { return };
    in_folder(|folder| {
        let format = match format % 3 {
            0 => DataFormat::Cifar10,
            1 => DataFormat::Cifar100,
            _ => DataFormat::Idx,
        };
        let length = usize::from(u16::from_be_bytes([high, low])).min(file.len());
        let (labels, images) =
            if format == DataFormat::Idx { file.split_at(length) } else { (&[][..], file) };
        put(&folder.join("images"), images);
        put(&folder.join("labels"), labels);
        read(folder, format);
    });
}

/// An `.npz` file.
///
/// # Panics
/// As [`records`].
pub fn npz(data: &[u8]) {
    in_folder(|folder| {
        put(&folder.join("images"), data);
        read(folder, DataFormat::Npz);
    });
}

/// How it becomes an input (two bytes), then an image file.
///
/// # Panics
/// When an image is read otherwise from its folder, or has another number of pixels than it says.
pub fn images(data: &[u8]) {
    let Some((&[side, colour], file)) = data.split_first_chunk() else { return };
    let decoded = Image::decode(file, "image");
    if let Ok(image) = &decoded {
        check(image);
        prepare(image, u32::from(side), if colour % 2 == 0 { Colour::Grey } else { Colour::Rgb });
    }
    in_folder(|folder| {
        let class = folder.join("0");
        fs::create_dir_all(&class).expect("a folder");
        put(&class.join("a.png"), file);
        let spec = spec(DataFormat::ImageFolder);
        let classes = classes();
        let read = Reader::new(folder, &spec, 1, &classes).part(&spec.statistics).expect("a file is there");
        assert_eq!((read.len(), read.labels()), (1, &[0][..]));
        assert_eq!(read.load(0).ok(), decoded.ok());
    });
}

/// One folder for all inputs that a thread is given: making one takes longer than most inputs do.
fn in_folder(run: impl FnOnce(&Path)) {
    thread_local! {
        static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
    }
    FOLDER.with(|folder| {
        run(folder.get_or_init(|| tempfile::tempdir().expect("a temporary folder")).path());
    });
}

fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("a file in a temporary folder");
}

fn classes() -> Vec<String> {
    (0..CLASSES).map(|class| class.to_string()).collect()
}

fn spec(format: DataFormat) -> DataSpec {
    let named = |name: &str, wanted| if wanted { vec![name.to_owned()] } else { Vec::new() };
    let part = |share| PartSpec {
        files: named("images", format != DataFormat::ImageFolder),
        labels: named("labels", format == DataFormat::Idx),
        range: None,
        share,
    };
    DataSpec {
        format,
        root: None,
        max_bad: 0,
        images: None,
        labels: None,
        statistics: part(None),
        calibration: part(Some([0.0, 0.5])),
        evaluation: part(Some([0.5, 1.0])),
    }
}

fn read(folder: &Path, format: DataFormat) {
    let (spec, classes) = (spec(format), classes());
    let [all, some, rest] = match Reader::new(folder, &spec, 1, &classes).all() {
        Ok(parts) => parts,
        Err(error) => return named(&error, folder),
    };
    assert_eq!(some.len() + rest.len(), all.len());
    assert_eq!(all.class_counts(CLASSES).iter().sum::<u64>(), all.len() as u64);
    let _ = all.digest();
    samples(&all);
}

fn samples(all: &Dataset) {
    for index in 0..all.len().min(DECODED) {
        let image = all.load(index).expect("records are read already");
        check(&image);
        prepare(&image, 4, Colour::Grey);
        let _ = (all.hash(index), all.name(index));
    }
}

fn check(image: &Image) {
    assert_eq!(image.pixels.len(), image.height * image.width * image.channels);
    assert!(matches!(image.channels, 1 | 3) && !image.pixels.is_empty());
}

fn prepare(image: &Image, side: u32, colour: Colour) {
    let channels = colour.channels();
    let (mean, std) = (vec![0.5; channels], vec![0.25; channels]);
    let resized = InputSpec { colour, resize: Some(side.max(1)), crop: Some([1, 1]), mean, std };
    let plain = InputSpec { resize: None, ..resized.clone() };
    for spec in [resized, plain] {
        let mut out = Vec::new();
        let preprocess = Preprocess::new(&spec).expect("as many numbers as channels");
        match preprocess.append(image, &[channels, 1, 1], "image", &mut out) {
            Ok(()) => assert!(out.len() == channels && out.iter().all(|number| number.is_finite())),
            Err(error) => assert!(out.is_empty() && spec.resize.is_some(), "{error}"),
        }
    }
}

/// Whoever reads an error must find the file that it is about.
fn named(error: &DataError, folder: &Path) {
    let folder = folder.display().to_string();
    assert!(error.to_string().contains(&folder), "{error}");
}
