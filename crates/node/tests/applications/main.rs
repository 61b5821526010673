//! Inference for applications: the library, `exeunt-node classify`, and requests over HTTP.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod classify;
mod editions;
#[cfg(target_os = "linux")]
mod memory;
mod place;
mod serving;
