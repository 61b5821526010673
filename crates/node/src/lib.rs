//! The device's side: answering queries over data that stays here, and inference that leaves early.
//!
//! * [`Model`] and [`Session`]: a run's network and this node's samples; [`Session::answer`] turns a query into an
//!   integer table.
//! * [`Inference`]: segments, exits and a policy; easy inputs leave early.
//! * [`serve`]: inference for applications, over HTTP.
//! * [`run`]: the service that keeps a connection and performs what the state machine of
//!   [`exeunt_protocol::node`] wants. [`Home`] is its folder.
//! * [`doctor`]: whether everything works here.
//! * [`cli`]: the command line of `exeunt-node`, which the demo runs under another name.

pub mod allocator;
mod answer;
mod classify;
pub mod cli;
mod computing;
pub mod doctor;
mod home;
mod infer;
mod ledger;
pub mod serve;
mod service;
mod session;
mod times;
mod transfer;
mod worker;

pub use answer::Margins;
pub use computing::{Computing, EngineOptions};
pub use home::{Home, HomeError, NodeReport, NodeSettings, PolicyInForce};
pub use infer::{InferError, Inference, Verdict, Whole};
pub use ledger::{Decided, Ledger, LiveSettings};
pub use service::{ServiceError, run, run_with};
pub use session::{Features, Model, Session, Watch, Workplace, open_parts};
pub use transfer::{TransferError, deliver};
