//! The coordinator.
//!
//! [`Core`] is the state machine of [`exeunt_protocol::coordinator`] with a store under it, and no socket: it can be
//! driven by a simulation as well as by a network. [`Service`] is the shell around it: it listens, gives every
//! connection a task, and lets all of them ask one thread that owns the core. [`OperatorClient`] is the other end of
//! an operator's wishes. [`RunPlan`] turns a run file and a network into a run.

mod backup;
mod client;
mod core;
#[cfg(test)]
mod deciding;
mod desk;
mod examine;
mod home;
mod intake;
mod members;
mod operator;
mod peer;
mod plan;
mod policies;
mod report;
mod restore;
mod runs;
mod sealing;
mod service;
mod snapshots;
#[cfg(test)]
mod testing;
mod uploads;

pub use backup::{
    BACKUP_FORMAT, BackupError, BackupFile, Manifest, RestoreError, Restored, back_up, back_up_stopped,
    move_backup, restore,
};
pub use client::{ClientError, OperatorClient};
pub use core::{Core, CoreError, Effect};
pub use desk::Stopped;
pub use examine::examine;
pub use home::{Home, HomeError, Keys, Whereabouts};
pub use intake::{Delivered, Intake};
pub use members::MemberError;
pub use plan::{PlanError, RunPlan};
pub use service::{ServeOptions, Service, ServiceError};
