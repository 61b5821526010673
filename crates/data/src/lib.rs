//! Samples: where they lie, which part and which node they belong to, and how they become a network's input.
//!
//! [`Reader`] opens the parts that a run file names ([`exeunt_protocol::spec::DataSpec`]) and gives a [`Dataset`]
//! for each: labels and content hashes at once, pixels when asked. [`Preprocess`] turns an [`Image`] into numbers.
//! [`Share`] deals one folder's samples out to several nodes, for simulations and demos.
//!
//! Which part a sample belongs to, which node it is dealt to, and whether it is looked at to find scales, follows from
//! the BLAKE3 of its stored bytes and a seed ([`place`]): it does not depend on the order of files, on other samples
//! or on the machine.
//!
//! # Bad samples
//! What is wrong with a file as a whole (missing, truncated, another format, a label outside the classes) is an error
//! at once. An image that cannot be decoded is found when it is first needed: it is named, counted and left out, up
//! to the run file's `max_bad` per node ([`BadFiles`]). As a file is what it is, every pass leaves out the same ones.

mod cifar;
mod dataset;
mod error;
mod folder;
mod idx;
mod image;
mod npz;
mod place;
mod preprocess;
mod reader;
mod records;
mod share;

pub use dataset::Dataset;
pub use error::{BadFiles, DataError, TooManyBad};
pub use image::Image;
pub use place::{Purpose, place};
pub use preprocess::Preprocess;
pub use reader::Reader;
pub use share::{ParseShareError, Partition, Share};

/// Whether a sample is one of the about one in `one_in` that are looked at to find scales.
pub fn picked_one_in(hash: exeunt_stats::Digest, seed: u64, one_in: u64) -> bool {
    place(hash, seed, Purpose::Range) * (one_in.max(1) as f64) < 1.0
}
