//! The end: whether everything has come to rest, and whether it came to what it should.

use exeunt_coordinator::{Core, CoreError};
use exeunt_protocol::RunId;
use exeunt_protocol::coordinator::Standing;

use super::World;
use crate::faults::oracle::Promise;
use crate::faults::site::Site;

impl World<'_> {
    pub(super) fn has_settled(&self) -> bool {
        self.why_unsettled().is_none()
    }

    pub(super) fn unsettled(&self) -> String {
        self.why_unsettled().unwrap_or_else(|| "there is no end of events".to_owned())
    }

    /// What has not come to rest.
    fn why_unsettled(&self) -> Option<String> {
        let Some(site) = &self.site else { return Some("the coordinator is down".to_owned()) };
        if self.wishes_open > 0 {
            return Some(format!("{} wishes are not granted", self.wishes_open));
        }
        if !site.inbox.is_empty() {
            return Some("the coordinator is at work".to_owned());
        }
        let machine = site.core.machine();
        for run in machine.runs().filter(|run| !machine.rests(run)) {
            let status = match machine.run_status(site.now(self.time()), run) {
                Ok(status) => status,
                Err(error) => return Some(error.to_string()),
            };
            match status.standing {
                Standing::Ready | Standing::Stopped => {}
                Standing::Failed { why } => return Some(format!("{run} failed: {why}")),
                standing => {
                    let waiting: Vec<String> =
                        status.waiting_for.iter().map(|w| format!("{}: {}", w.name, w.reason)).collect();
                    return Some(format!(
                        "{run} is {standing:?} with {} of {} answers, waiting for {waiting:?}",
                        status.answers, status.quorum
                    ));
                }
            }
        }
        for (node, device) in self.devices.iter().enumerate() {
            if device.shut_out || self.oracle.is_revoked(device.id) {
                continue;
            }
            if !device.process.as_ref().is_some_and(|process| process.machine.is_connected()) {
                return Some(format!("node {node} is not connected"));
            }
            let wanted =
                machine.desired(device.id).runs.into_iter().find_map(|run| Some((run.run, run.policy?)));
            if wanted.is_some() && wanted != device.policy {
                return Some(format!("node {node} infers with {:?}, wanted {wanted:?}", device.policy));
            }
        }
        None
    }

    pub(super) fn final_checks(&mut self) {
        self.check_store();
        let now = match &self.site {
            Some(site) => site.now(self.time()),
            None => return,
        };
        let again = Site::look(self.disk.copy(), self.time());
        let Some(site) = &mut self.site else { return };
        let mut wrong = Vec::new();
        // A node infers with the policy that was set last; what an operator did not hear of may have come after.
        if let (Some((run, version)), false) = (&self.in_force, self.in_doubt)
            && !self.oracle.is_stopped(run)
        {
            for device in self.devices.iter().filter(|device| !self.oracle.is_revoked(device.id)) {
                let of = device.policy.as_ref().map(|(run, policy)| (run.clone(), policy.version));
                if of != Some((run.clone(), *version)) {
                    let what = format!("{of:?} at {}, expected {} of {run}", device.id, version.0);
                    wrong.push((Promise::Policy, what));
                }
            }
        }
        match again {
            Ok(mut again) => {
                let runs: Vec<RunId> = site.core.machine().runs().cloned().collect();
                for run in &runs {
                    // As an operator would: a run that was stopped is only rebuilt when somebody looks at it.
                    let status = |core: &mut Core| {
                        let run = core.look_at(now, Some(run))?;
                        core.machine().run_status(now, &run).map_err(CoreError::from)
                    };
                    let (found, expected) = match (status(&mut again), status(&mut site.core)) {
                        (Ok(found), Ok(expected)) => (found, expected),
                        (Err(error), _) | (_, Err(error)) => {
                            wrong.push((Promise::Restart, format!("{run} cannot be looked at: {error}")));
                            continue;
                        }
                    };
                    let known = expected.queries.iter().zip(&found.queries);
                    let other =
                        known.filter(|(expected, found)| expected != found).map(|pair| format!("{pair:?}"));
                    let differs = [
                        (found.standing != expected.standing, "its standing".to_owned()),
                        (
                            found.queries.len() != expected.queries.len(),
                            "the number of its queries".to_owned(),
                        ),
                        (found.queries != expected.queries, other.collect::<Vec<_>>().join(", ")),
                        (found.snapshot != expected.snapshot, "its snapshot".to_owned()),
                        (found.result != expected.result, "its result".to_owned()),
                        (found.policies != expected.policies, "its policies".to_owned()),
                    ];
                    let differs = differs.into_iter().filter_map(|(differs, what)| differs.then_some(what));
                    wrong
                        .extend(differs.map(|what| (Promise::Restart, format!("{run} has changed: {what}"))));
                }
            }
            Err(error) => wrong.push((Promise::Restart, error.to_string())),
        }
        for (promise, what) in wrong {
            self.blame(promise, what);
        }
    }
}
