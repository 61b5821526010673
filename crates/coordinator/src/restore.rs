//! Taking runs up from the store: whole, or no more of them than decides anything yet.
//!
//! A run that was stopped asks nothing. It rests in the store, and is rebuilt when somebody looks at it; the last one that
//! was looked at stays. So a run that a federation has behind it costs memory for its name, and reading its record when
//! the coordinator starts.

use exeunt_exits::Query;
use exeunt_protocol::coordinator::{AskedBefore, Now, PolicyRecord, RunHistory, SealedQuery};
use exeunt_protocol::{QueryId, RunId};
use exeunt_stats::{Digest, Table, packed};
use exeunt_store::Seal;

use crate::core::{Core, CoreError};
use crate::runs::RunEntry;

impl Core {
    /// Takes up a run when the coordinator starts.
    pub(crate) fn take_up(&mut self, now: Now, run: RunId, record: &[u8]) -> Result<(), CoreError> {
        let entry = read_entry(&run, record)?;
        if entry.stopped {
            let policies = self.policy_records(&run)?;
            self.machine.restore_resting(run.clone(), entry.context.exits.len(), &policies);
            self.list(run, &entry);
        } else {
            self.restore(now, run, entry)?;
        }
        Ok(())
    }

    /// The run a person means, as [`Core::run_named`] finds it, with everything that can be asked of it.
    ///
    /// # Errors
    /// Those of [`Core::run_named`]; [`CoreError`] when what the store has of it cannot be read.
    pub fn look_at(&mut self, now: Now, wanted: Option<&RunId>) -> Result<RunId, CoreError> {
        let run = self.run_named(wanted)?;
        let rests = self.machine.rests(&run);
        if rests && let Some(record) = self.store.run(&run)? {
            let entry = read_entry(&run, &record)?;
            self.restore(now, run.clone(), entry)?;
        }
        if rests || self.woken.contains(&run) {
            self.wake(run.clone());
        }
        Ok(run)
    }

    /// Notes that a run that was stopped is whole in memory; those before it are to go to rest.
    pub(crate) fn wake(&mut self, run: RunId) {
        self.woken.push(run);
    }

    /// Lets go of all woken runs but the last. What was wanted of them must be in the store by now: that is what they are
    /// rebuilt from.
    pub(crate) fn rest(&mut self) {
        let Some(last) = self.woken.pop() else { return };
        for run in self.woken.drain(..).filter(|run| *run != last) {
            self.machine.rest_run(&run);
            self.entries.remove(&run);
        }
        self.woken.push(last);
    }

    fn policy_records(&self, run: &RunId) -> Result<Vec<PolicyRecord>, CoreError> {
        let read = |(version, bytes): (exeunt_protocol::PolicyVersion, Vec<u8>)| {
            serde_json::from_slice(&bytes).map_err(|error| CoreError::Corrupt {
                what: format!("policy {} of '{run}'", version.0),
                why: error.to_string(),
            })
        };
        self.store.policies(run)?.into_iter().map(read).collect()
    }

    fn restore(&mut self, now: Now, run: RunId, entry: RunEntry) -> Result<(), CoreError> {
        let corrupt = |what: String, why: String| CoreError::Corrupt { what, why };
        let mut history =
            RunHistory { stopped: entry.stopped, removed: entry.removed.clone(), ..RunHistory::default() };
        let first = entry.removed.last().map_or(QueryId(0), |removal| removal.first);
        for (query, seal) in self.store.seals(&run)? {
            if query < first {
                // Only what says what it asked can be used again; the rest is asked again.
                if let Some(asked) = self.asked(&seal)? {
                    let Seal { declined, reused, .. } = seal;
                    let cohort = seal.cohort.iter().map(|(node, ..)| *node).collect();
                    let withdrawn = seal.merged.is_none();
                    let before = AskedBefore { query, asked, withdrawn, cohort, declined, reused };
                    history.superseded.push(before);
                }
                continue;
            }
            let merged = match &seal.merged {
                Some(bytes) => {
                    let cells = usize::try_from(seal.cells).unwrap_or(usize::MAX);
                    let cells = packed::decode(bytes, cells).map_err(|error| {
                        corrupt(format!("the sum of {query} of '{run}'"), error.to_string())
                    })?;
                    Some(Table::from_cells(cells))
                }
                None => None,
            };
            let cohort = seal.cohort.iter().map(|(node, ..)| *node).collect();
            let (declined, reused) = (seal.declined, seal.reused);
            history.seals.push(SealedQuery { query, merged, cohort, declined, reused });
        }
        history.policies = self.policy_records(&run)?;
        self.machine.restore_run(now, run.clone(), entry.context.clone(), entry.options.clone(), history);
        if let Some(open) = self.machine.open_query(&run) {
            let stored = self.store.contributions(&run, open)?;
            let stored = stored.into_iter().map(|(node, meta)| (node, meta.dataset, meta.table)).collect();
            self.machine.restore_stored(now, &run, stored);
        }
        self.note_entry(run, entry);
        Ok(())
    }

    /// What a sealed query asked; `None` for seals that do not say.
    pub(crate) fn asked(&self, seal: &Seal) -> Result<Option<Query>, CoreError> {
        seal.asked.map(|body| self.query(body)).transpose()
    }

    /// What was asked and counts, in the order of the seals.
    ///
    /// # Errors
    /// [`CoreError`] when a query cannot be read.
    pub fn queries(&self, run: &RunId) -> Result<Vec<Query>, CoreError> {
        self.machine.asked(run).into_iter().map(|body| self.query(body)).collect()
    }

    fn query(&self, body: Digest) -> Result<Query, CoreError> {
        let corrupt = |why: String| CoreError::Corrupt { what: format!("the query {}", body.short()), why };
        let bytes = self.store.read_blob(body, 0, usize::MAX)?;
        let bytes = bytes.ok_or_else(|| corrupt("it is gone".to_owned()))?;
        Query::decode(&bytes).map_err(|error| corrupt(error.to_string()))
    }
}

fn read_entry(run: &RunId, record: &[u8]) -> Result<RunEntry, CoreError> {
    serde_json::from_slice(record)
        .map_err(|error| CoreError::Corrupt { what: format!("run '{run}'"), why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use exeunt_exits::PolicyRequest;
    use exeunt_protocol::coordinator::Target;

    use super::*;
    use crate::testing::{Fleet, network, run_file};

    /// A run that was measured, has a policy, and is stopped.
    fn stopped(fleet: &mut Fleet) -> RunId {
        fleet.run_until_ready();
        let wish = PolicyRequest::MaxDrop(5.0);
        fleet.core.set_policy(fleet.now, &fleet.run, &wish, Target::Fleet).unwrap();
        fleet.core.work(fleet.now).unwrap();
        fleet.run_until_ready();
        fleet.core.stop_run(fleet.now, &fleet.run).unwrap();
        fleet.core.work(fleet.now).unwrap();
        fleet.run.clone()
    }

    /// Found by a reader: asked in one breath, the removal was answered and not stored.
    #[test]
    fn what_was_wanted_of_a_run_is_stored_before_it_rests() {
        let mut fleet = Fleet::new(2);
        let first = stopped(&mut fleet);
        fleet.run = fleet.core.start_run(fleet.now, &run_file(), &network()).unwrap();
        fleet.core.work(fleet.now).unwrap();
        fleet.run_until_ready();
        let second = fleet.run.clone();
        let (now, node) = (fleet.now, fleet.nodes[0]);
        fleet.core.remove_contribution(now, &second, node).unwrap();
        fleet.core.stop_run(now, &second).unwrap();
        fleet.core.look_at(now, Some(&first)).unwrap();
        fleet.core.work(now).unwrap();
        assert!(fleet.core.machine.rests(&second) && !fleet.core.machine.rests(&first));
        fleet.core.look_at(now, Some(&second)).unwrap();
        assert_eq!(fleet.core.machine.run_status(now, &second).unwrap().removed, [node]);
    }

    #[test]
    fn what_was_stopped_rests_until_somebody_looks() {
        let mut fleet = Fleet::new(2);
        let first = stopped(&mut fleet);
        let report = fleet.core.report(fleet.now, &first).unwrap();
        fleet.run = fleet.core.start_run(fleet.now, &run_file(), &network()).unwrap();
        fleet.core.work(fleet.now).unwrap();
        let second = stopped(&mut fleet);
        let is_whole = |core: &Core, run: &RunId| core.machine.quantiles(run).is_some();
        assert!(!is_whole(&fleet.core, &first), "another was stopped since");
        assert!(is_whole(&fleet.core, &second));
        assert_eq!(fleet.core.machine.desired(fleet.nodes[0]).runs, [], "nothing is wanted of a stopped run");

        assert_eq!(fleet.core.look_at(fleet.now, Some(&first)).unwrap(), first);
        fleet.core.work(fleet.now).unwrap();
        assert_eq!(fleet.core.report(fleet.now, &first).unwrap(), report);
        assert!(!is_whole(&fleet.core, &second), "one at a time");

        // Nor does a start rebuild what nobody asks for.
        let Core { store, .. } = fleet.core;
        fleet.core = Core::open(store, fleet.now).unwrap();
        assert!(!is_whole(&fleet.core, &first) && !is_whole(&fleet.core, &second));
        // Who did not hear that it was stopped stops it again, which wakes nothing.
        fleet.core.stop_run(fleet.now, &first).unwrap();
        assert!(!is_whole(&fleet.core, &first));
        // Which policy was set last still decides, also after a clock was set back.
        fleet.run = fleet.core.start_run(fleet.now, &run_file(), &network()).unwrap();
        fleet.core.work(fleet.now).unwrap();
        fleet.run_until_ready();
        let early = Now { unix_ms: 0, ..fleet.now };
        fleet.core.set_policy(early, &fleet.run, &PolicyRequest::MaxDrop(5.0), Target::Fleet).unwrap();
        fleet.core.work(early).unwrap();
        let desired = fleet.core.machine.desired(fleet.nodes[0]).runs;
        assert!(desired[0].run == fleet.run && desired[0].policy.is_some(), "{desired:?}");

        fleet.core.look_at(fleet.now, Some(&first)).unwrap();
        fleet.core.work(fleet.now).unwrap();
        let again = fleet.core.report(fleet.now, &first).unwrap();
        assert_eq!((again.digest, again.status), (report.digest, report.status));
    }
}
