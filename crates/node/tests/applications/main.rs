//! Inference for applications: the library, `exeunt-node classify`, and requests over HTTP.

mod classify;
mod place;
mod serving;
