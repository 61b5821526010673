//! The runs of a federation: started, stopped, named, and what the store remembers of each.

use exeunt_exits::RunContext;
use exeunt_network::Network;
use exeunt_protocol::RunId;
use exeunt_protocol::coordinator::{Now, Removal, RunError, RunOptions};
use exeunt_protocol::spec::RunFile;
use serde::{Deserialize, Serialize};

use crate::core::{Core, CoreError};
use crate::plan::RunPlan;

/// What the store remembers of a run beside its tables.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunEntry {
    pub(crate) file: RunFile,
    pub(crate) context: RunContext,
    pub(crate) options: RunOptions,
    pub(crate) number: u64,
    pub(crate) started_ms: u64,
    pub(crate) stopped: bool,
    /// Contributions that were taken out, in that order.
    #[serde(default)]
    pub(crate) removed: Vec<Removal>,
}

/// What is kept in memory of every run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListedRun {
    pub(crate) number: u64,
    pub(crate) started_ms: u64,
}

impl Core {
    /// Starts a run.
    ///
    /// # Errors
    /// [`CoreError::Plan`] when run file and network do not fit.
    pub fn start_run(&mut self, now: Now, file: &RunFile, network: &Network) -> Result<RunId, CoreError> {
        self.start_planned(now, file, RunPlan::new(file, network)?, network.bytes())
    }

    /// Starts a run that was planned before, with the bytes of its network.
    ///
    /// # Errors
    /// [`CoreError::Corrupt`] when the run file's name makes no run id, [`CoreError::Store`].
    pub fn start_planned(
        &mut self,
        now: Now,
        file: &RunFile,
        plan: RunPlan,
        network: &[u8],
    ) -> Result<RunId, CoreError> {
        let number = 1 + self.listed.values().map(|run| run.number).max().unwrap_or(0);
        let corrupt = |why: String| CoreError::Corrupt { what: "a new run".to_owned(), why };
        let run = RunId::numbered(&file.name, number).map_err(|error| corrupt(error.to_string()))?;
        self.store.put_blob(plan.options.network.digest, network)?;
        self.store.put_blob(plan.options.spec.digest, &plan.spec_bytes)?;
        let entry = RunEntry {
            file: file.clone(),
            context: plan.context.clone(),
            options: plan.options.clone(),
            number,
            started_ms: now.unix_ms,
            stopped: false,
            removed: Vec::new(),
        };
        self.save_entry(now, &run, entry)?;
        self.machine.start_run(now, run.clone(), plan.context, plan.options);
        Ok(run)
    }

    /// What the store remembers of a run that does not rest.
    ///
    /// # Errors
    /// [`RunError::Stopped`] when it rests.
    pub(crate) fn entry(&self, run: &RunId) -> Result<&RunEntry, RunError> {
        self.entries.get(run).ok_or_else(|| RunError::Stopped { run: run.clone() })
    }

    pub(crate) fn save_entry(&mut self, now: Now, run: &RunId, entry: RunEntry) -> Result<(), CoreError> {
        let bytes = serde_json::to_vec(&entry)
            .map_err(|error| CoreError::Corrupt { what: format!("run '{run}'"), why: error.to_string() })?;
        self.store.save_run(run, &bytes, now.unix_ms)?;
        self.revision += 1;
        self.note_entry(run.clone(), entry);
        Ok(())
    }

    /// Ends a run; its tables stay.
    ///
    /// # Errors
    /// [`CoreError::Run`] when there is no such run.
    pub fn stop_run(&mut self, now: Now, run: &RunId) -> Result<(), CoreError> {
        self.machine.stop_run(run)?;
        // Stopping it once more changes nothing; it may rest by now.
        if let Some(entry) = self.entries.get(run).filter(|entry| !entry.stopped) {
            let entry = RunEntry { stopped: true, ..entry.clone() };
            self.save_entry(now, run, entry)?;
            self.wake(run.clone());
        }
        Ok(())
    }

    pub(crate) fn list(&mut self, run: RunId, entry: &RunEntry) {
        let RunEntry { number, started_ms, .. } = *entry;
        self.listed.insert(run, ListedRun { number, started_ms });
    }

    /// Notes the record of a run that does not rest.
    pub(crate) fn note_entry(&mut self, run: RunId, entry: RunEntry) {
        self.list(run.clone(), &entry);
        self.entries.insert(run, entry);
    }

    /// The run a person means: the one named, or the newest.
    ///
    /// # Errors
    /// [`RunError::Unknown`], [`RunError::None`].
    pub fn run_named(&self, run: Option<&RunId>) -> Result<RunId, CoreError> {
        let newest =
            || self.listed.iter().max_by_key(|(_, listed)| listed.number).map(|(run, _)| run.clone());
        let known = || {
            let mut runs: Vec<_> =
                self.listed.iter().map(|(run, listed)| (listed.number, run.clone())).collect();
            runs.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
            runs.into_iter().map(|(_, run)| run).collect()
        };
        let unknown = |run: &str| RunError::Unknown { run: run.to_owned(), known: known() };
        match run {
            Some(run) if self.listed.contains_key(run) => Ok(run.clone()),
            Some(run) => Err(unknown(run.as_str()).into()),
            None => newest().ok_or_else(|| RunError::None.into()),
        }
    }
}
