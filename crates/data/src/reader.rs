//! Opening the parts that a run file names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use exeunt_protocol::spec::{DataFormat, DataSpec, PartSpec};
use exeunt_stats::Digest;

use crate::dataset::{Location, Sample};
use crate::records::Records;
use crate::{DataError, Dataset, Purpose, cifar, folder, idx, npz, place};

/// Opens parts; what several of them need is read once.
#[derive(Debug)]
pub struct Reader<'a> {
    root: &'a Path,
    spec: &'a DataSpec,
    seed: u64,
    classes: &'a [String],
    opened: BTreeMap<(Vec<String>, Vec<String>), Dataset>,
}

impl<'a> Reader<'a> {
    /// Reads below `root`, as `spec` says; `seed` splits by content.
    pub fn new(root: &'a Path, spec: &'a DataSpec, seed: u64, classes: &'a [String]) -> Self {
        Self { root, spec, seed, classes, opened: BTreeMap::new() }
    }

    /// Statistics, calibration and evaluation.
    ///
    /// # Errors
    /// See [`Reader::part`].
    pub fn all(&mut self) -> Result<[Dataset; 3], DataError> {
        let spec = self.spec;
        Ok([self.part(&spec.statistics)?, self.part(&spec.calibration)?, self.part(&spec.evaluation)?])
    }

    /// The samples of one part.
    ///
    /// # Errors
    /// [`DataError`] that names the file, what was found and what was expected.
    pub fn part(&mut self, part: &PartSpec) -> Result<Dataset, DataError> {
        let key = (part.files.clone(), part.labels.clone());
        let all = match self.opened.get(&key) {
            Some(opened) => opened.clone(),
            None => {
                let opened = Dataset::new(self.read(part)?);
                self.opened.insert(key, opened.clone());
                opened
            }
        };
        let ranged = match part.range {
            Some([from, to]) => {
                if from >= all.len() as u64 {
                    return Err(DataError::Format {
                        path: self.paths(&part.files).into_iter().next().unwrap_or_default(),
                        found: format!("{} samples", all.len()),
                        expected: format!("more than {from} (range = [{from}, {to}])"),
                    });
                }
                let position = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
                all.range(position(from), position(to))
            }
            None => all,
        };
        Ok(match part.share {
            Some([from, to]) => ranged.filter(|sample| {
                let at = place(sample.hash, self.seed, Purpose::Part);
                from <= at && at < to
            }),
            None => ranged,
        })
    }

    fn paths(&self, files: &[String]) -> Vec<PathBuf> {
        if files.is_empty() {
            vec![self.root.to_owned()]
        } else {
            files.iter().map(|file| self.root.join(file)).collect()
        }
    }

    fn read(&self, part: &PartSpec) -> Result<Vec<Sample>, DataError> {
        let paths = self.paths(&part.files);
        let mut samples = Vec::new();
        for (i, path) in paths.iter().enumerate() {
            match self.spec.format {
                DataFormat::ImageFolder => self.read_folder(path, &mut samples)?,
                DataFormat::Idx => {
                    let labels = part.labels.get(i).map(|file| self.root.join(file)).unwrap_or_default();
                    self.add(idx::read(path, &labels)?, &mut samples)?;
                }
                DataFormat::Cifar10 => self.add(cifar::read(path, cifar::Kind::Ten)?, &mut samples)?,
                DataFormat::Cifar100 => self.add(cifar::read(path, cifar::Kind::Hundred)?, &mut samples)?,
                DataFormat::Npz => {
                    let images = self.spec.images.as_deref().unwrap_or("images");
                    let labels = self.spec.labels.as_deref().unwrap_or("labels");
                    self.add(npz::read(path, images, labels)?, &mut samples)?;
                }
            }
        }
        Ok(samples)
    }

    fn read_folder(&self, path: &Path, samples: &mut Vec<Sample>) -> Result<(), DataError> {
        for (index, (file, label)) in folder::list(path, self.classes)?.into_iter().enumerate() {
            let bytes =
                std::fs::read(&file).map_err(|source| DataError::File { path: file.clone(), source })?;
            let label = self.class(label, &file, index)?;
            samples.push(Sample {
                label,
                hash: Digest::of(&bytes),
                location: Location::File(Arc::new(file)),
            });
        }
        Ok(())
    }

    fn add(
        &self,
        (records, labels): (Records, Vec<u64>),
        samples: &mut Vec<Sample>,
    ) -> Result<(), DataError> {
        let records = Arc::new(records);
        for (index, label) in labels.into_iter().enumerate() {
            let label = self.class(label, &records.path, index)?;
            let record = records.record(index);
            // Where labels lie in a file of their own, the class is hashed with the image.
            let hash = if records.stride == records.height * records.width * records.channels {
                let mut bytes = record.to_vec();
                bytes.extend_from_slice(&label.to_le_bytes());
                Digest::of(&bytes)
            } else {
                Digest::of(record)
            };
            samples.push(Sample { label, hash, location: Location::Record(Arc::clone(&records), index) });
        }
        Ok(())
    }

    fn class(&self, label: u64, path: &Path, index: usize) -> Result<u32, DataError> {
        let classes = self.classes.len();
        match u32::try_from(label) {
            Ok(class) if (class as usize) < classes => Ok(class),
            _ => Err(DataError::Label { path: path.to_owned(), index, found: label, classes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(statistics: PartSpec, calibration: PartSpec) -> DataSpec {
        DataSpec {
            format: DataFormat::Cifar10,
            root: None,
            max_bad: 0,
            images: None,
            labels: None,
            statistics,
            calibration: calibration.clone(),
            evaluation: calibration,
        }
    }

    fn batch(folder: &Path, name: &str, records: usize) {
        let record =
            |i: usize| [vec![(i % 10) as u8], (0..3072).map(|p| (p + 31 * i) as u8).collect()].concat();
        std::fs::write(folder.join(name), (0..records).flat_map(record).collect::<Vec<u8>>()).unwrap();
    }

    #[test]
    fn ranges_and_shares_cut_parts_that_do_not_overlap() {
        let folder = tempfile::tempdir().unwrap();
        batch(folder.path(), "a.bin", 200);
        let part = |range, share| PartSpec { files: vec!["a.bin".into()], labels: vec![], range, share };
        let classes: Vec<String> = (0..10).map(|k| k.to_string()).collect();
        let spec = spec(part(Some([0, 120]), None), part(None, None));
        let mut reader = Reader::new(folder.path(), &spec, 5, &classes);
        assert_eq!(reader.part(&spec.statistics).unwrap().len(), 120);
        let low = reader.part(&part(None, Some([0.0, 0.4]))).unwrap();
        let high = reader.part(&part(None, Some([0.4, 1.0]))).unwrap();
        assert_eq!(low.len() + high.len(), 200);
        assert!((50..110).contains(&low.len()), "{}", low.len());
        let error = reader.part(&part(Some([200, 300]), None)).unwrap_err().to_string();
        assert!(error.contains("found 200 samples, expected more than 200"), "{error}");
        let three = &classes[..3];
        let error =
            Reader::new(folder.path(), &spec, 5, three).part(&spec.calibration).unwrap_err().to_string();
        assert!(error.ends_with("sample 3 has label 3, expected 0 to 2"), "{error}");
    }

    #[test]
    fn a_digest_tells_contents_apart_and_not_orders() {
        let folder = tempfile::tempdir().unwrap();
        batch(folder.path(), "a.bin", 20);
        let classes: Vec<String> = (0..10).map(|k| k.to_string()).collect();
        let part = PartSpec { files: vec!["a.bin".into()], ..PartSpec::default() };
        let spec = spec(part.clone(), part);
        let all = Reader::new(folder.path(), &spec, 0, &classes).part(&spec.statistics).unwrap();
        let mut twice = all.range(10, 20);
        assert_ne!(twice.digest(), all.digest());
        twice = Dataset::new(
            [all.range(10, 20), all.range(0, 10)].iter().flat_map(|d| (0..10).map(|i| d.sample(i))).collect(),
        );
        assert_eq!(twice.digest(), all.digest());
    }

    #[test]
    fn a_file_moved_to_another_class_is_other_data() {
        let folder = tempfile::tempdir().unwrap();
        for class in ["cat", "dog"] {
            std::fs::create_dir(folder.path().join(class)).unwrap();
            std::fs::write(folder.path().join(class).join(format!("{class}.png")), class).unwrap();
        }
        let classes = ["cat".to_owned(), "dog".to_owned()];
        let spec =
            DataSpec { format: DataFormat::ImageFolder, ..spec(PartSpec::default(), PartSpec::default()) };
        let digest =
            || Reader::new(folder.path(), &spec, 0, &classes).part(&spec.statistics).unwrap().digest();
        let before = digest();
        std::fs::rename(folder.path().join("cat/cat.png"), folder.path().join("dog/cat.png")).unwrap();
        assert_ne!(digest(), before);
    }
}
