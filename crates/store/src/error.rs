//! What can go wrong with a store.

use std::path::PathBuf;

/// Why a store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has the store.
    #[error("{path} is in use by another process: is a coordinator already running here?")]
    InUse {
        /// The store.
        path: PathBuf,
    },
    /// A later version of this software wrote it. It was left as it is.
    #[error("{path} has format {found}, this version reads up to {supported}: use the version that wrote it")]
    Newer {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format read here.
        supported: u32,
    },
    /// An earlier version of this software wrote it. It is rewritten when a coordinator opens it.
    #[error("{path} has format {found}, expected {expected}; the coordinator rewrites it when it starts")]
    Older {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The format of this version.
        expected: u32,
    },
    /// It was not closed in order, and can be read once it is repaired: opening it for writing does that.
    #[error("{path} was not closed in order; the coordinator repairs it when it starts")]
    NotClosed {
        /// The store.
        path: PathBuf,
    },
    /// The database failed: disk full, file damaged, permission denied.
    #[error("the store {path} failed")]
    Database {
        /// The store.
        path: PathBuf,
        /// What it said.
        source: Box<redb::Error>,
    },
    /// It failed before, and takes nothing more: what is on the disk is found by opening it again.
    #[error("the store {path} failed before: start again when its disk is in order")]
    Broken {
        /// The store.
        path: PathBuf,
    },
    /// A stored value cannot be read.
    #[error("the store {path} holds an unreadable value in table '{table}' at {key}: {what}")]
    Value {
        /// The store.
        path: PathBuf,
        /// The table.
        table: &'static str,
        /// The key.
        key: String,
        /// What is wrong.
        what: String,
    },
    /// It was closed, because the coordinator ends.
    #[error("the store {path} is closed")]
    Closed {
        /// The store.
        path: PathBuf,
    },
    /// It has a table that this version does not know, and so cannot copy.
    #[error("the store {path} has a table '{table}' that this version does not know")]
    UnknownTable {
        /// The store.
        path: PathBuf,
        /// The table.
        table: String,
    },
    /// A query was sealed before, otherwise.
    #[error("query {query} of {run} was sealed before with another result")]
    AlreadySealed {
        /// The run.
        run: String,
        /// The query.
        query: u32,
    },
}
