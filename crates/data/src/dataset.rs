//! The samples of one part.

use std::path::PathBuf;
use std::sync::Arc;

use exeunt_stats::Digest;

use crate::records::Records;
use crate::{DataError, Image, Purpose, Share, place};

/// Where a sample's pixels lie.
#[derive(Debug, Clone)]
pub(crate) enum Location {
    File(Arc<PathBuf>),
    Record(Arc<Records>, usize),
}

/// One sample: its class, the BLAKE3 of its stored bytes, and where they lie.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) label: u32,
    pub(crate) hash: Digest,
    pub(crate) location: Location,
}

/// The samples of one part: labels and content hashes at once, pixels when asked. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    samples: Arc<Vec<Sample>>,
    labels: Arc<Vec<u32>>,
}

impl Dataset {
    pub(crate) fn new(samples: Vec<Sample>) -> Self {
        let labels = Arc::new(samples.iter().map(|sample| sample.label).collect());
        Self { samples: Arc::new(samples), labels }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The class of every sample.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// How many samples each of `classes` classes has.
    pub fn class_counts(&self, classes: usize) -> Vec<u64> {
        let mut counts = vec![0; classes];
        for label in self.labels.iter() {
            if let Some(count) = counts.get_mut(*label as usize) {
                *count += 1;
            }
        }
        counts
    }

    /// BLAKE3 of a sample's stored bytes.
    ///
    /// # Panics
    /// `index` is not below [`Dataset::len`].
    pub fn hash(&self, index: usize) -> Digest {
        self.samples[index].hash
    }

    /// What to call a sample: its file, and its number where the file holds many.
    ///
    /// # Panics
    /// `index` is not below [`Dataset::len`].
    pub fn name(&self, index: usize) -> String {
        match &self.samples[index].location {
            Location::File(path) => path.display().to_string(),
            Location::Record(records, number) => format!("{}[{number}]", records.path.display()),
        }
    }

    /// Reads and decodes a sample.
    ///
    /// # Errors
    /// [`DataError::Image`], or [`DataError::File`] when its file is gone.
    ///
    /// # Panics
    /// `index` is not below [`Dataset::len`].
    pub fn load(&self, index: usize) -> Result<Image, DataError> {
        match &self.samples[index].location {
            Location::Record(records, number) => Ok(records.image(*number)),
            Location::File(path) => {
                let bytes = std::fs::read(path.as_ref())
                    .map_err(|source| DataError::File { path: path.to_path_buf(), source })?;
                Image::decode(&bytes, &path.display().to_string())
            }
        }
    }

    /// Names the samples by content and class, whatever their order: each sample's hash is hashed with its label (the
    /// bytes of an image file do not say its class), the sum of these modulo 2^256 with their number.
    pub fn digest(&self) -> Digest {
        let mut sum = [0_u8; 32];
        for sample in self.samples.iter() {
            let mut labelled = sample.hash.as_bytes().to_vec();
            labelled.extend_from_slice(&sample.label.to_le_bytes());
            let mut carry = 0_u16;
            for (total, byte) in sum.iter_mut().zip(Digest::of(&labelled).as_bytes()) {
                let digit = u16::from(*total) + u16::from(*byte) + carry;
                *total = (digit & 0xff) as u8;
                carry = digit >> 8;
            }
        }
        let mut bytes = sum.to_vec();
        bytes.extend_from_slice(&(self.len() as u64).to_le_bytes());
        Digest::of(&bytes)
    }

    /// The samples that a share deals to one node.
    #[must_use]
    pub fn share(&self, share: &Share) -> Self {
        let dealer = share.dealer();
        self.filter(|sample| {
            dealer.node_of(sample.label, place(sample.hash, share.seed(), Purpose::Share)) == share.node()
        })
    }

    /// All nodes' samples at once: what [`Dataset::share`] gives each of `nodes`.
    #[must_use]
    pub fn deal(&self, share: &Share) -> Vec<Self> {
        let dealer = share.dealer();
        let mut hands: Vec<Vec<Sample>> = vec![Vec::new(); share.of() as usize];
        for sample in self.samples.iter() {
            let node = dealer.node_of(sample.label, place(sample.hash, share.seed(), Purpose::Share));
            hands[node as usize].push(sample.clone());
        }
        hands.into_iter().map(Self::new).collect()
    }

    pub(crate) fn filter(&self, keep: impl Fn(&Sample) -> bool) -> Self {
        Self::new(self.samples.iter().filter(|sample| keep(sample)).cloned().collect())
    }

    pub(crate) fn range(&self, from: usize, to: usize) -> Self {
        let to = to.min(self.len());
        Self::new(self.samples[from.min(to)..to].to_vec())
    }
}

#[cfg(test)]
impl Dataset {
    pub(crate) fn sample(&self, index: usize) -> Sample {
        self.samples[index].clone()
    }
}
