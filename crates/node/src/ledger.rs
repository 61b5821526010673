//! What inference did at this node, counted on disk: by any process that infers from the node's folder, through restarts
//! and reboots. The service reads it and tells the coordinator.
//!
//! ```text
//! HOME/live.json   the counters of the last few policies, and what was said of them
//! HOME/live.lock   held for the moment in which they are changed
//! ```

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use exeunt_exits::{MARGIN_BINS, margin_bin};
use exeunt_protocol::live::{LiveCounts, LiveReporter};
use exeunt_protocol::moment::unix_ms;
use exeunt_protocol::{PolicyVersion, RunId};
use serde::{Deserialize, Serialize};

use crate::home::{Home, HomeError};
use crate::infer::{Verdict, Whole};

/// Policies whose counters are kept.
const POLICIES: usize = 4;

/// What a node tells of its inference, and how much it does for that. Part of its settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LiveSettings {
    /// Whether anything is counted and told at all.
    pub report: bool,
    /// Share of the samples for which the whole network is run as well, to see whether it agrees: 0 to 1.
    pub share: f64,
    /// What the device draws while it infers, in watts: makes energy of time.
    pub watts: Option<f64>,
}

impl Default for LiveSettings {
    fn default() -> Self {
        Self { report: true, share: 0.01, watts: None }
    }
}

impl LiveSettings {
    fn milliwatts(&self) -> Option<u32> {
        self.watts.filter(|watts| *watts > 0.0 && *watts < 1e6).map(|watts| (watts * 1e3).round() as u32)
    }
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Kept {
    /// Newest first.
    counts: Vec<LiveCounts>,
    reporter: LiveReporter,
}

/// Counts what is not on disk yet.
#[derive(Debug)]
pub struct Ledger {
    home: Home,
    settings: LiveSettings,
    pending: Mutex<Pending>,
}

#[derive(Debug)]
struct Pending {
    counts: Vec<LiveCounts>,
    /// State of the stream that picks samples.
    stream: u64,
}

/// The policy that decided, and what it is over.
#[derive(Debug, Clone, Copy)]
pub struct Decided<'a> {
    /// The run.
    pub run: &'a RunId,
    /// The policy.
    pub policy: PolicyVersion,
    /// Exits of the run.
    pub exits: usize,
    /// Multiply-accumulates of the bare network, for one sample.
    pub network_macs: u64,
}

impl Ledger {
    /// Counts for the node of a folder; `seed` makes the choice of samples differ from process to process.
    pub fn new(home: Home, settings: LiveSettings, seed: u64) -> Self {
        Self { home, settings, pending: Mutex::new(Pending { counts: Vec::new(), stream: seed }) }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // Counting does not panic half-way; a count that is one off would be no harm.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what was decided, in how much time, and returns the rows for which the whole network is to be run as well.
    pub fn decided(&self, by: Decided<'_>, verdicts: &[Verdict], took: Duration) -> Vec<usize> {
        if !self.settings.report {
            return Vec::new();
        }
        let mut pending = self.pending();
        let rows = (0..verdicts.len()).filter(|_| pick(&mut pending.stream, self.settings.share)).collect();
        let counts = entry(&mut pending.counts, by, self.settings.milliwatts());
        for verdict in verdicts {
            let exit = verdict.exit.unwrap_or(by.exits).min(by.exits);
            counts.left[exit] += 1;
            counts.macs = counts.macs.saturating_add((verdict.cost * by.network_macs as f64).round() as u64);
            counts.bare_macs = counts.bare_macs.saturating_add(by.network_macs);
        }
        counts.busy_ns = counts.busy_ns.saturating_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        counts.timed += verdicts.len() as u64;
        rows
    }

    /// Notes what the whole network said of samples, beside what was decided.
    pub fn compared<'a>(&self, by: Decided<'_>, pairs: impl Iterator<Item = (&'a Verdict, &'a Whole)>) {
        let mut pending = self.pending();
        let counts = entry(&mut pending.counts, by, self.settings.milliwatts());
        for (verdict, whole) in pairs {
            counts.sampled += 1;
            counts.agreed += u64::from(verdict.class == whole.class);
            for (bins, margin) in counts.margins.iter_mut().zip(&whole.margins) {
                if let Some(margin) = margin {
                    bins.get_or_insert([0; MARGIN_BINS])[margin_bin(*margin)] += 1;
                }
            }
        }
    }

    /// Adds what was counted since the last time to the file. Nothing is lost when that fails: it is tried again.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn flush(&self) -> Result<(), HomeError> {
        let counted = std::mem::take(&mut self.pending().counts);
        if counted.is_empty() {
            return Ok(());
        }
        let added = self.home.change_live(|kept| {
            for counts in &counted {
                match kept.counts.iter_mut().find(|old| old.run == counts.run && old.policy == counts.policy)
                {
                    Some(old) => {
                        // Counters of other exits are of a run that was made anew under the same name.
                        if !old.add(counts) {
                            old.clone_from(counts);
                        }
                    }
                    None => kept.counts.insert(0, counts.clone()),
                }
            }
            kept.counts.truncate(POLICIES);
        });
        if added.is_err() {
            let mut pending = self.pending();
            for counts in counted {
                match pending
                    .counts
                    .iter_mut()
                    .find(|new| new.run == counts.run && new.policy == counts.policy)
                {
                    Some(new) => {
                        new.add(&counts);
                    }
                    None => pending.counts.push(counts),
                }
            }
        }
        added.map(|_| ())
    }
}

/// Counters of what is not on disk yet.
fn entry<'a>(
    pending: &'a mut Vec<LiveCounts>,
    by: Decided<'_>,
    milliwatts: Option<u32>,
) -> &'a mut LiveCounts {
    let of = |counts: &LiveCounts| {
        counts.run == *by.run && counts.policy == by.policy && counts.margins.len() == by.exits
    };
    let at = pending.iter().position(of).unwrap_or_else(|| {
        let fresh = LiveCounts::new(by.run.clone(), by.policy, by.exits, unix_ms(SystemTime::now()));
        pending.push(LiveCounts { milliwatts, ..fresh });
        pending.len() - 1
    });
    &mut pending[at]
}

/// Whether a sample belongs to the share; the next number of SplitMix64 decides.
fn pick(stream: &mut u64, share: f64) -> bool {
    *stream = stream.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *stream;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 11) as f64 / ((1_u64 << 53) as f64) < share
}

impl Home {
    /// What there is to say of inference with a policy, if enough of it is new. It counts as said from then on: whoever
    /// could not say it says it when there is a connection ([`Home::live_said`]).
    ///
    /// # Errors
    /// [`HomeError`].
    pub(crate) fn live_news(
        &self,
        run: &RunId,
        policy: PolicyVersion,
        min_count: u64,
    ) -> Result<Option<LiveCounts>, HomeError> {
        let enough = |kept: &mut Kept| {
            let counts = kept.counts.iter().find(|counts| counts.run == *run && counts.policy == policy)?;
            kept.reporter.next(counts, min_count).cloned()
        };
        // Looked at first without the lock: as a rule nothing is new.
        match enough(&mut self.live()?) {
            None => Ok(None),
            Some(_) => self.change_live(enough),
        }
    }

    /// What was said last.
    ///
    /// # Errors
    /// [`HomeError`].
    pub(crate) fn live_said(&self) -> Result<Option<LiveCounts>, HomeError> {
        Ok(self.live()?.reporter.said().cloned())
    }

    fn live(&self) -> Result<Kept, HomeError> {
        self.read_json("live.json", "counters of inference").map(Option::unwrap_or_default)
    }

    /// Changes the file while nobody else does.
    fn change_live<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> Result<T, HomeError> {
        let path = self.root().join("live.lock");
        let wrong = |source| HomeError::File { path: path.clone(), source };
        let lock = fs::File::create(&path).map_err(wrong)?;
        lock.lock().map_err(wrong)?;
        let mut kept = self.live()?;
        let value = change(&mut kept);
        self.write_json("live.json", &kept)?;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> RunId {
        "r-1".parse().unwrap()
    }

    fn by(run: &RunId) -> Decided<'_> {
        Decided { run, policy: PolicyVersion(3), exits: 2, network_macs: 1000 }
    }

    fn verdict(class: u32, exit: Option<usize>, cost: f64) -> Verdict {
        Verdict { class, exit, margin: 1.0, cost }
    }

    fn settings(share: f64) -> LiveSettings {
        LiveSettings { share, watts: Some(2.5), ..LiveSettings::default() }
    }

    #[test]
    fn what_several_processes_count_adds_up_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        let run = run();
        let ledgers = [1, 2].map(|seed| Ledger::new(home.clone(), settings(1.0), seed));
        let verdicts = [verdict(0, Some(0), 0.2), verdict(1, None, 1.1)];
        for ledger in &ledgers {
            assert_eq!(ledger.decided(by(&run), &verdicts, Duration::from_millis(4)), [0, 1]);
            let whole = [0, 0].map(|class| Whole { class, margins: vec![Some(3.0), None] });
            ledger.compared(by(&run), verdicts.iter().zip(&whole));
            ledger.flush().unwrap();
            ledger.flush().unwrap();
        }
        let counts = home.live().unwrap().counts;
        assert_eq!(counts.len(), 1);
        let counts = &counts[0];
        counts.check(2).unwrap();
        assert_eq!((counts.left.as_slice(), counts.sampled, counts.agreed), (&[2, 0, 2][..], 4, 2));
        assert_eq!((counts.macs, counts.bare_macs), (2600, 4000));
        assert_eq!(counts.margins[0].unwrap()[margin_bin(3.0)], 4);
        assert_eq!((counts.margins[1], counts.milliwatts, counts.mean_ms()), (None, Some(2500), Some(2.0)));
    }

    #[test]
    fn what_was_said_is_remembered_and_not_said_again() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        let run = run();
        let ledger = Ledger::new(home.clone(), settings(0.0), 1);
        let news = || home.live_news(&run, PolicyVersion(3), 10).unwrap();
        assert_eq!(news(), None);
        let verdicts = vec![verdict(0, Some(1), 0.5); 9];
        assert_eq!(ledger.decided(by(&run), &verdicts, Duration::ZERO), Vec::<usize>::new());
        ledger.flush().unwrap();
        assert_eq!(news(), None);
        ledger.decided(by(&run), &verdicts, Duration::ZERO);
        ledger.flush().unwrap();
        assert_eq!(news().unwrap().samples(), 18);
        assert_eq!(news(), None);
        assert_eq!(home.live_said().unwrap().unwrap().samples(), 18);
        assert_eq!(home.live_news(&run, PolicyVersion(2), 1).unwrap(), None);
    }

    #[test]
    fn a_node_that_tells_nothing_counts_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        let ledger = Ledger::new(home.clone(), LiveSettings { report: false, ..settings(1.0) }, 1);
        assert!(ledger.decided(by(&run()), &[verdict(0, None, 1.0)], Duration::ZERO).is_empty());
        ledger.flush().unwrap();
        assert_eq!(home.live().unwrap(), Kept::default());
    }

    #[test]
    fn about_one_in_a_hundred_is_picked() {
        let mut stream = 7;
        let picked = (0..100_000).filter(|_| pick(&mut stream, 0.01)).count();
        assert!((900..1100).contains(&picked), "{picked}");
        assert!((0..1000).all(|_| !pick(&mut stream, 0.0)) && (0..1000).all(|_| pick(&mut stream, 1.0)));
    }
}
