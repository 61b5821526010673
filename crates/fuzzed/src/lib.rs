//! What every decoder and state machine must stand, whatever it is sent.
//!
//! One function per fuzz target (`fuzz/targets`): it takes bytes that may come from anywhere and panics where a promise
//! is broken. What is promised is always that nothing panics and nothing is allocated that a limit does not cover;
//! beyond that, what is read is written as it was read, two ways of reading agree, and the state machines keep what
//! `ARCHITECTURE.md` says. `cargo test` holds the corpus of every target against it.

mod coordinator;
mod data;
mod frames;
mod honest;
mod messages;
mod networks;
mod node;
mod runs;
mod tables;
mod tokens;
mod wire;

pub use coordinator::coordinator;
pub use data::{images, npz, records};
pub use frames::frames;
pub use messages::messages;
pub use networks::networks;
pub use node::node;
pub use runs::run_files;
pub use tables::tables;
pub use tokens::tokens;

/// A fuzz target.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const TARGETS: [(&str, Target); 11] = [
    ("coordinator", coordinator),
    ("frames", frames),
    ("images", images),
    ("messages", messages),
    ("networks", networks),
    ("node", node),
    ("npz", npz),
    ("records", records),
    ("run_files", run_files),
    ("tables", tables),
    ("tokens", tokens),
];
