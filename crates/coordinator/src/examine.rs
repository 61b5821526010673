//! Looking through a coordinator's store without changing it.

use exeunt_protocol::coordinator::PolicyRecord;
use exeunt_store::{Examined, StoreError};

use crate::home::Home;
use crate::runs::RunEntry;

/// Everything [`exeunt_store::examine`] looks at, and the records that only a coordinator can read.
///
/// # Errors
/// See [`exeunt_store::examine`].
pub fn examine(home: &Home) -> Result<Examined, StoreError> {
    let mut examined = exeunt_store::examine(&home.store())?;
    let mut problems = Vec::new();
    for (run, record) in &examined.runs {
        if let Err(error) = serde_json::from_slice::<RunEntry>(record) {
            problems.push(format!("runs, {run}: {error}"));
        }
    }
    for (run, version, record) in &examined.policies {
        if let Err(error) = serde_json::from_slice::<PolicyRecord>(record) {
            problems.push(format!("policies, {} of {run}: {error}", version.0));
        }
    }
    problems.into_iter().for_each(|problem| examined.problem(problem));
    Ok(examined)
}
