//! What went wrong, in one line and in one number.

use exeunt_coordinator::{BackupError, ClientError, CoreError, HomeError, RestoreError, ServiceError};
use exeunt_link::{ConnectError, RecvError, SendError};
use exeunt_network::LoadError;
use exeunt_protocol::message::Refusal;
use exeunt_simulate::{LocalError, PlanError, SimulateError};
use exeunt_store::StoreError;

/// Failed for another reason.
const FAILED: u8 = 1;
/// Wrong usage or bad input.
pub(crate) const BAD_INPUT: u8 = 2;
/// The coordinator does not answer.
const UNREACHABLE: u8 = 3;
/// The coordinator says no, or is not the one that was expected.
const REFUSED: u8 = 4;

/// Ended by a signal, as shells count it.
const INTERRUPTED: u8 = 130;

/// The process was asked to stop before it was done.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// `doctor` has found something that does not work, and said what.
#[derive(Debug, thiserror::Error)]
#[error("not everything works")]
pub(crate) struct NotWell;

/// Input that a person gave and that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadInput(pub(crate) String);

/// The error and everything that led to it, each said once.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}

/// Whether the coordinator does not answer, so that asking again later may help.
pub(crate) fn is_unreachable(error: &anyhow::Error) -> bool {
    code(error) == UNREACHABLE
}

/// The exit code for an error, as `--help` lists them.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    if let Some(error) = error.downcast_ref::<ClientError>() {
        return of_client(error);
    }
    if let Some(LocalError::Client(error)) = error.downcast_ref::<LocalError>() {
        return of_client(error);
    }
    if error.is::<Interrupted>() {
        return INTERRUPTED;
    }
    let bad = error.downcast_ref::<BadInput>().is_some()
        || error.downcast_ref::<PlanError>().is_some()
        || error.downcast_ref::<LoadError>().is_some()
        || error.downcast_ref::<HomeError>().is_some()
        || error.downcast_ref::<exeunt_coordinator::PlanError>().is_some()
        || matches!(error.downcast_ref(), Some(BackupError::NoStore { .. } | BackupError::Taken { .. }))
        || error
            .downcast_ref::<RestoreError>()
            .is_some_and(|error| !matches!(error, RestoreError::File { .. }))
        || error.downcast_ref::<ServiceError>().is_some_and(is_about_what_was_given)
        || matches!(
            error.downcast_ref(),
            Some(
                SimulateError::Core(CoreError::Plan(_))
                    | SimulateError::Node(Refusal::BadData { .. } | Refusal::ModelMismatch { .. })
            )
        );
    if bad { BAD_INPUT } else { FAILED }
}

/// An address or a folder that cannot be served: another one is needed, not another try.
fn is_about_what_was_given(error: &ServiceError) -> bool {
    matches!(
        error,
        ServiceError::Serve(_)
            | ServiceError::Store(StoreError::InUse { .. } | StoreError::Newer { .. })
            | ServiceError::Home(_)
    )
}

fn of_client(error: &ClientError) -> u8 {
    match error {
        ClientError::Home(HomeError::NoCoordinator { .. }) => BAD_INPUT,
        ClientError::Connect(
            ConnectError::WrongAuthority { .. }
            | ConnectError::NotCoordinator { .. }
            | ConnectError::Refused { .. },
        ) => REFUSED,
        ClientError::Connect(_)
        | ClientError::Closed(_)
        | ClientError::Send(SendError::Closed(_))
        | ClientError::Receive(RecvError::Closed(_)) => UNREACHABLE,
        ClientError::Refused { .. } => REFUSED,
        _ => FAILED,
    }
}
