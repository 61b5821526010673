//! What can be wrong with data.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Why data cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or folder cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what the run file says.
    #[error("{path}: found {found}, expected {expected}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A label lies outside the classes.
    #[error("{path}: sample {index} has label {found}, expected 0 to {}", classes.saturating_sub(1))]
    Label {
        /// The file.
        path: PathBuf,
        /// Which sample, from 0.
        index: usize,
        /// Its label.
        found: u64,
        /// How many classes there are.
        classes: usize,
    },
    /// A folder is called like no class.
    #[error("{path}: no class is called '{found}'{}", nearest.as_ref().map(|n| format!("; did you mean '{n}'?")).unwrap_or_default())]
    Class {
        /// The folder.
        path: PathBuf,
        /// Its name.
        found: String,
        /// The class whose name is nearest.
        nearest: Option<String>,
    },
    /// There is nothing in a folder.
    #[error("{path}: found no {expected}")]
    Empty {
        /// The folder.
        path: PathBuf,
        /// What should be there.
        expected: &'static str,
    },
    /// One image cannot be decoded or does not become the network's input.
    #[error("{name}: {why}")]
    Image {
        /// The sample.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The run file's `[input]` makes no sense.
    #[error("input: found {found}, expected {expected}")]
    Input {
        /// What it says.
        found: String,
        /// What it may say.
        expected: String,
    },
}

/// More samples than allowed cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("found {found} samples that cannot be used, expected at most {allowed} (data.max_bad): {first}")]
pub struct TooManyBad {
    /// How many so far.
    pub found: usize,
    /// How many may be skipped.
    pub allowed: u64,
    /// The first few, with the reason.
    pub first: String,
}

/// Samples that were skipped: each counted once, whatever number of passes met it.
#[derive(Debug, Clone, Default)]
pub struct BadFiles {
    allowed: u64,
    seen: BTreeMap<String, String>,
}

impl BadFiles {
    /// None so far; at most `allowed` may be skipped.
    pub fn new(allowed: u64) -> Self {
        Self { allowed, seen: BTreeMap::new() }
    }

    /// Notes a sample that is skipped.
    ///
    /// # Errors
    /// [`TooManyBad`] when it is one too many.
    pub fn note(&mut self, name: &str, error: &DataError) -> Result<(), TooManyBad> {
        self.seen.entry(name.to_owned()).or_insert_with(|| error.to_string());
        if self.seen.len() as u64 <= self.allowed {
            return Ok(());
        }
        let first: Vec<&str> = self.seen.values().take(3).map(String::as_str).collect();
        Err(TooManyBad { found: self.seen.len(), allowed: self.allowed, first: first.join("; ") })
    }

    /// Every sample skipped so far, with the reason.
    pub fn named(&self) -> Vec<String> {
        self.seen.values().cloned().collect()
    }
}
