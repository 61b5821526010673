//! Policies that are kept under a name, to be put in force again later.

use exeunt_exits::{Policy, PolicyRequest};
use exeunt_protocol::coordinator::{Now, Target};
use exeunt_protocol::operator::NamedPolicy;
use exeunt_protocol::{PolicyVersion, RunId};

use crate::core::{Core, CoreError};

/// Longest name of a policy.
const MAX_NAME: usize = 64;

impl Core {
    /// Keeps a policy of a run under a name: the version that is given, or the fleet's in force.
    ///
    /// # Errors
    /// [`CoreError::Name`], [`CoreError::NoVersion`], [`CoreError::Run`].
    pub fn save_policy(
        &mut self,
        now: Now,
        run: &RunId,
        name: &str,
        version: Option<PolicyVersion>,
    ) -> Result<NamedPolicy, CoreError> {
        let name = name.trim();
        if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(CoreError::Name { found: name.chars().take(80).collect() });
        }
        let status = self.machine.run_status(now, run)?;
        let found = match version {
            Some(version) => status.policies.iter().find(|policy| policy.version == version),
            None => status.in_force(),
        };
        let found = found.ok_or_else(|| CoreError::NoVersion { run: run.clone(), version })?;
        let named = NamedPolicy {
            name: name.to_owned(),
            version: found.version,
            policy: found.policy.clone(),
            saved_ms: now.unix_ms,
        };
        let record = serde_json::to_vec(&named).map_err(|error| CoreError::Corrupt {
            what: "a new policy".to_owned(),
            why: error.to_string(),
        })?;
        self.store.name_policy(run, name, Some(&record), now.unix_ms)?;
        self.changed();
        Ok(named)
    }

    /// Forgets a policy's name. The policy itself, where it was set, stays.
    ///
    /// # Errors
    /// [`CoreError::NoPolicy`].
    pub fn forget_policy(&mut self, now: Now, run: &RunId, name: &str) -> Result<(), CoreError> {
        self.named_policy(run, name)?;
        self.store.name_policy(run, name, None, now.unix_ms)?;
        self.changed();
        Ok(())
    }

    /// Puts a policy in force that was kept under a name.
    ///
    /// # Errors
    /// [`CoreError::NoPolicy`], [`CoreError::Run`].
    pub fn apply_policy(
        &mut self,
        now: Now,
        run: &RunId,
        name: &str,
        target: Target,
    ) -> Result<PolicyVersion, CoreError> {
        let policy = self.named_policy(run, name)?;
        self.set_policy(now, run, &PolicyRequest::Thresholds(policy), target)
    }

    /// Every policy of a run that has a name, by name.
    ///
    /// # Errors
    /// [`CoreError`].
    pub fn named_policies(&self, run: &RunId) -> Result<Vec<NamedPolicy>, CoreError> {
        let read = |(name, record): (String, Vec<u8>)| {
            serde_json::from_slice(&record).map_err(|error| CoreError::Corrupt {
                what: format!("the policy '{name}' of '{run}'"),
                why: error.to_string(),
            })
        };
        self.store.named_policies(run)?.into_iter().map(read).collect()
    }

    fn named_policy(&self, run: &RunId, name: &str) -> Result<Policy, CoreError> {
        let named = self.named_policies(run)?;
        let known = || named.iter().map(|named| named.name.clone()).collect();
        let found = named.iter().find(|named| named.name == name.trim());
        found.map(|named| named.policy.clone()).ok_or_else(|| CoreError::NoPolicy {
            run: run.clone(),
            name: name.to_owned(),
            known: known(),
        })
    }
}
