//! The parts of a run, read from every kind of file, and what is said when a file is not what it should be.

#![expect(clippy::unwrap_used, reason = "helpers outside of test functions fail the test, too")]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use exeunt_data::{BadFiles, Dataset, Preprocess, Reader};
use exeunt_protocol::spec::{Colour, DataFormat, DataSpec, InputSpec, PartSpec};
use ndarray::{Array1, Array4};
use ndarray_npy::NpzWriter;

const SEED: u64 = 11;

fn classes(count: usize) -> Vec<String> {
    (0..count).map(|k| format!("class-{k}")).collect()
}

fn files(names: &[&str]) -> PartSpec {
    PartSpec { files: names.iter().map(|name| (*name).to_owned()).collect(), ..PartSpec::default() }
}

fn spec(format: DataFormat, part: PartSpec) -> DataSpec {
    DataSpec {
        format,
        root: None,
        max_bad: 0,
        images: None,
        labels: None,
        statistics: part.clone(),
        calibration: part.clone(),
        evaluation: part,
    }
}

fn read(folder: &Path, format: DataFormat, part: PartSpec, classes: &[String]) -> Result<Dataset, String> {
    let spec = spec(format, part);
    let read = Reader::new(folder, &spec, SEED, classes).part(&spec.statistics);
    read.map_err(|error| error.to_string())
}

/// Pixel values that no other sample has.
fn pixel(sample: usize, at: usize) -> u8 {
    (sample * 37 + at * 5 % 101) as u8
}

fn gzip(path: &Path, bytes: &[u8]) {
    let mut packed = flate2::write::GzEncoder::new(File::create(path).unwrap(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap();
}

fn cifar_record(sample: usize, labels: &[u8]) -> Vec<u8> {
    [labels.to_vec(), (0..3072).map(|at| pixel(sample, at)).collect()].concat()
}

fn idx(magic: u32, sizes: &[u32], rest: &[u8]) -> Vec<u8> {
    let header = std::iter::once(&magic).chain(sizes).flat_map(|word| word.to_be_bytes());
    header.chain(rest.iter().copied()).collect()
}

#[test]
fn an_image_folder_is_read_class_by_class() {
    let folder = tempfile::tempdir().unwrap();
    let picture = |sample: usize| {
        image::RgbImage::from_fn(8, 6, |x, y| image::Rgb([sample as u8 * 60, x as u8 * 30, y as u8 * 40]))
    };
    for (sample, name) in ["class-1/a.png", "class-0/b.jpg", "class-0/a.jpeg"].iter().enumerate() {
        let path = folder.path().join("train").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        picture(sample).save(&path).unwrap();
    }
    let data = read(folder.path(), DataFormat::ImageFolder, files(&["train"]), &classes(2)).unwrap();
    assert_eq!(data.labels(), [0, 0, 1]);
    assert_eq!(data.class_counts(2), [2, 1]);
    let names: Vec<String> = (0..3).map(|i| data.name(i)).collect();
    let expected = ["class-0/a.jpeg", "class-0/b.jpg", "class-1/a.png"];
    assert!(names.iter().zip(expected).all(|(name, end)| name.ends_with(end)), "{names:?}");
    let png = data.load(2).unwrap();
    assert_eq!((png.height, png.width, png.channels), (6, 8, 3));
    assert_eq!(png.pixels, picture(0).into_raw());
    let jpeg = data.load(0).unwrap();
    assert_eq!((jpeg.height, jpeg.width, jpeg.channels), (6, 8, 3));
    let exact = picture(2).into_raw();
    let off = jpeg.pixels.iter().zip(&exact).map(|(a, b)| u32::from(a.abs_diff(*b))).sum::<u32>();
    assert!(off / exact.len() as u32 <= 12, "off by {} levels on average", off / exact.len() as u32);
}

#[test]
fn idx_files_are_read_in_order_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    for (name, samples) in [("a", 0..3_usize), ("b", 3..5)] {
        let n = samples.len() as u32;
        let pixels: Vec<u8> = samples.clone().flat_map(|i| (0..4).map(move |at| pixel(i, at))).collect();
        gzip(&folder.path().join(format!("{name}-images.gz")), &idx(0x803, &[n, 2, 2], &pixels));
        let labels: Vec<u8> = samples.map(|i| i as u8).collect();
        fs::write(folder.path().join(format!("{name}-labels")), idx(0x801, &[n], &labels)).unwrap();
    }
    let part = PartSpec {
        labels: vec!["a-labels".to_owned(), "b-labels".to_owned()],
        ..files(&["a-images.gz", "b-images.gz"])
    };
    let data = read(folder.path(), DataFormat::Idx, part.clone(), &classes(5)).unwrap();
    assert_eq!(data.labels(), [0, 1, 2, 3, 4]);
    for i in 0..5 {
        assert_eq!(data.load(i).unwrap().pixels, (0..4).map(|at| pixel(i, at)).collect::<Vec<u8>>());
    }
    assert!(data.name(4).ends_with("b-images.gz[1]"), "{}", data.name(4));
    // A range counts over the files taken together.
    let middle = PartSpec { range: Some([2, 4]), ..part };
    let data = read(folder.path(), DataFormat::Idx, middle, &classes(5)).unwrap();
    assert_eq!(data.labels(), [2, 3]);
}

#[test]
fn cifar_files_are_read_plain_and_packed() {
    let folder = tempfile::tempdir().unwrap();
    let ten: Vec<u8> = (0..4).flat_map(|i| cifar_record(i, &[9 - i as u8])).collect();
    fs::write(folder.path().join("ten.bin"), &ten).unwrap();
    gzip(&folder.path().join("ten.bin.gz"), &ten);
    let both = files(&["ten.bin", "ten.bin.gz"]);
    let data = read(folder.path(), DataFormat::Cifar10, both, &classes(10)).unwrap();
    assert_eq!(data.labels(), [9, 8, 7, 6, 9, 8, 7, 6]);
    let image = data.load(1).unwrap();
    // One colour after the other in the file, together in an image.
    let expected: Vec<u8> = (0..3072).map(|i| pixel(1, i % 3 * 1024 + i / 3)).collect();
    assert_eq!(image.pixels, expected);
    assert_eq!(data.load(5).unwrap(), image);
    // The same record in another file is the same sample.
    assert_eq!((data.hash(1), data.hash(5)), (data.hash(5), data.hash(1)));
    assert_ne!(data.hash(0), data.hash(1));

    let hundred: Vec<u8> = (0..2).flat_map(|i| cifar_record(i, &[3, 99 - i as u8])).collect();
    fs::write(folder.path().join("hundred.bin"), hundred).unwrap();
    let data = read(folder.path(), DataFormat::Cifar100, files(&["hundred.bin"]), &classes(100)).unwrap();
    assert_eq!(data.labels(), [99, 98]);
}

#[test]
fn npz_archives_are_read_with_the_names_the_run_file_gives() {
    let folder = tempfile::tempdir().unwrap();
    let images = Array4::from_shape_fn((3, 2, 2, 3), |(i, y, x, c)| pixel(i, (y * 2 + x) * 3 + c));
    let mut archive = NpzWriter::new_compressed(File::create(folder.path().join("a.npz")).unwrap());
    archive.add_array("x_train", &images).unwrap();
    archive.add_array("y_train", &Array1::from(vec![2_i64, 0, 1])).unwrap();
    archive.finish().unwrap();
    let mut spec = spec(DataFormat::Npz, files(&["a.npz"]));
    let three = classes(3);
    let error = Reader::new(folder.path(), &spec, SEED, &three).part(&spec.statistics).unwrap_err();
    assert!(error.to_string().contains("expected an array 'images'"), "{error}");
    spec.images = Some("x_train".to_owned());
    spec.labels = Some("y_train".to_owned());
    let data = Reader::new(folder.path(), &spec, SEED, &three).part(&spec.statistics).unwrap();
    assert_eq!(data.labels(), [2, 0, 1]);
    let image = data.load(1).unwrap();
    assert_eq!(image.pixels, (0..12).map(|at| pixel(1, at)).collect::<Vec<u8>>());

    let two = classes(2);
    let error = Reader::new(folder.path(), &spec, SEED, &two).part(&spec.statistics).unwrap_err();
    assert!(error.to_string().ends_with("a.npz: sample 0 has label 2, expected 0 to 1"), "{error}");
}

#[test]
fn files_that_are_damaged_or_missing_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let record = cifar_record(0, &[0]);
    gzip(&folder.path().join("whole.gz"), &record);
    let whole = fs::read(folder.path().join("whole.gz")).unwrap();
    fs::write(folder.path().join("torn.gz"), &whole[..whole.len() / 2]).unwrap();
    fs::write(folder.path().join("short"), &record[..3072]).unwrap();
    fs::write(folder.path().join("nothing"), b"").unwrap();
    fs::create_dir_all(folder.path().join("empty")).unwrap();
    fs::create_dir_all(folder.path().join("bare/class-0")).unwrap();
    fs::create_dir_all(folder.path().join("strange/klass-0")).unwrap();
    let cases = [
        (DataFormat::Cifar10, "torn.gz", "found gzip that breaks off after"),
        (DataFormat::Cifar10, "short", "found 3072 bytes, expected one or more records of 3073 bytes"),
        (DataFormat::Cifar10, "nothing", "found 0 bytes, expected one or more records of 3073 bytes"),
        (DataFormat::Cifar10, "missing.bin", "No such file"),
        (DataFormat::Npz, "short", "expected an .npz archive"),
        (DataFormat::ImageFolder, "empty", "found no folder per class"),
        (DataFormat::ImageFolder, "bare", "found no JPEG or PNG file in its class folders"),
        (DataFormat::ImageFolder, "strange", "no class is called 'klass-0'; did you mean 'class-0'?"),
        (DataFormat::ImageFolder, "missing", "No such file"),
    ];
    for (format, name, expected) in cases {
        let error = read(folder.path(), format, files(&[name]), &classes(10)).unwrap_err();
        let path = folder.path().join(name).display().to_string();
        assert!(error.starts_with(&path) && error.contains(expected), "{format:?}: {error}");
    }
}

#[test]
fn bad_samples_are_counted_once_named_and_limited() {
    let folder = tempfile::tempdir().unwrap();
    let class = folder.path().join("class-0");
    fs::create_dir_all(&class).unwrap();
    image::GrayImage::from_pixel(4, 4, image::Luma([9])).save(class.join("b-good.png")).unwrap();
    image::GrayImage::from_pixel(4, 5, image::Luma([9])).save(class.join("c-tall.png")).unwrap();
    fs::write(class.join("a-text.png"), b"not a picture").unwrap();
    let good = fs::read(class.join("b-good.png")).unwrap();
    fs::write(class.join("d-torn.png"), &good[..good.len() / 2]).unwrap();
    let data = read(folder.path(), DataFormat::ImageFolder, PartSpec::default(), &classes(1)).unwrap();
    assert_eq!(data.len(), 4, "a file is found before it is decoded");

    let grey = InputSpec { colour: Colour::Grey, mean: vec![0.0], std: vec![1.0], resize: None, crop: None };
    let preprocess = Preprocess::new(&grey).unwrap();
    let pass = |bad: &mut BadFiles| {
        let mut numbers = Vec::new();
        for i in 0..data.len() {
            let name = data.name(i);
            let done =
                data.load(i).and_then(|image| preprocess.append(&image, &[1, 4, 4], &name, &mut numbers));
            if let Err(error) = done {
                bad.note(&name, &error)?;
            }
        }
        Ok::<usize, exeunt_data::TooManyBad>(numbers.len())
    };
    let mut bad = BadFiles::new(3);
    // However often they are met; and what is left is the good one's pixels.
    assert_eq!((pass(&mut bad), pass(&mut bad)), (Ok(16), Ok(16)));
    let named = bad.named();
    assert_eq!(named.len(), 3);
    for (line, (file, why)) in named.iter().zip([
        ("a-text.png", "neither JPEG nor PNG"),
        ("c-tall.png", "found 1×5×4, expected [1, 4, 4]"),
        ("d-torn.png", ""),
    ]) {
        assert!(line.contains(file) && line.contains(why), "{line}");
    }
    let error = pass(&mut BadFiles::new(2)).unwrap_err();
    assert_eq!((error.found, error.allowed), (3, 2));
    let message = error.to_string();
    assert!(
        message.starts_with("found 3 samples that cannot be used, expected at most 2 (data.max_bad): "),
        "{message}"
    );
    assert!(
        ["a-text.png", "c-tall.png", "d-torn.png"].iter().all(|file| message.contains(file)),
        "{message}"
    );
}
